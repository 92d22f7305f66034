"""The gateway's configuration: the templates of gateway/, filled in and written to the state folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from spindle.errors import MachineNotReady
from spindle.gateway_access import nginx_values, postgrest_values, write_access_files
from spindle.settings import Connection, Settings, socket_dir
from spindle.unprivileged import ServiceUser, own, write_private, writing

LOGIN_ROLE = "authenticator"
PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
INCLUDE = re.compile(r"^ *\{\{include ([\w.-]+)\}\}\n", re.MULTILINE)
# What nginx, PostgREST and supervisor all read as itself between double quotes.
PLAIN_PATH = re.compile(r"/[\w/ .+@=~()-]*")


@dataclass(frozen=True)
class Written:
    """Which of the configurations are other than before."""

    nginx: bool
    postgrest: bool


def gateway_dir(settings: Settings) -> Path:
    return settings.state_dir / "gateway"


def nginx_conf(settings: Settings) -> Path:
    return gateway_dir(settings) / "nginx.conf"


def postgrest_conf(settings: Settings) -> Path:
    return gateway_dir(settings) / "postgrest.conf"


def write_gateway(settings: Settings, user: ServiceUser | None, authenticator_password: str) -> Written:
    """Write both configurations, readable by the service user alone."""
    nginx = write_nginx(settings, user)
    text = render_postgrest(settings, authenticator_password)
    return Written(nginx=nginx, postgrest=write_private(postgrest_conf(settings), text, user))


def write_nginx(settings: Settings, user: ServiceUser | None) -> bool:
    """Write nginx's configuration. Tells whether it changed."""
    folder = gateway_dir(settings)
    with writing(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        own(folder, user)
    certified = write_access_files(settings.access, folder, user)
    return write_private(nginx_conf(settings), render_nginx(settings), user) or certified


def render_nginx(settings: Settings) -> str:
    return _render(
        settings.root / "gateway" / "nginx.conf.template",
        {
            "folder": plain_path(gateway_dir(settings)),
            "dashboard": plain_path(settings.root / "dashboard"),
            "postgrest_socket": plain_path(_postgrest_socket(settings)),
            "port": str(int(settings.gateway_port)),
            **nginx_values(settings.access, plain_path(gateway_dir(settings)), _endpoints(settings)),
        },
    )


def written_port(settings: Settings) -> int | None:
    """The port of nginx's written configuration, which may be another than the settings have by now."""
    try:
        found = re.search(r"listen \S+:(\d+) default_server", nginx_conf(settings).read_text(encoding="utf-8"))
    except OSError:
        return None
    return int(found.group(1)) if found else None


def render_postgrest(settings: Settings, authenticator_password: str) -> str:
    """The configuration of PostgREST. It holds a password: for a private file, never a log."""
    return _render(
        settings.root / "gateway" / "postgrest.conf.template",
        {
            "db_uri": _uri(settings.results, authenticator_password),
            "socket": plain_path(_postgrest_socket(settings)),
            "public_url": f"{settings.gateway_url}/api/v1",
            **postgrest_values(settings.access, plain_path(gateway_dir(settings)), LOGIN_ROLE),
        },
    )


def plain_path(path: Path) -> str:
    """The path as it may stand in a configuration.

    Raises MachineNotReady for a path with characters that mean something there, such as $ or a quote.
    """
    if not PLAIN_PATH.fullmatch(str(path)):
        raise MachineNotReady(
            f"the path {str(path)!r} has characters that nginx, PostgREST or supervisor would misread",
            "use letters, digits, blanks and ._+@=~()- only: move the checkout, or set STATE_DIR",
        )
    return str(path)


def _endpoints(settings: Settings) -> list[str]:
    return sorted(view.stem for view in (settings.root / "api_views").glob("*.sql"))


def _postgrest_socket(settings: Settings) -> Path:
    return socket_dir(settings.state_dir) / "postgrest.sock"


def _uri(results: Connection, password: str) -> str:
    """A connection URI in which every part is percent-encoded, so no character of it can end the quoted string."""
    login = f"{LOGIN_ROLE}:{quote(password, safe='')}"
    database = quote(results.dbname, safe="")
    options = {"host": results.host, "port": str(results.port)}
    if not results.host.startswith("/"):
        options["sslmode"] = results.sslmode
    return f"postgresql://{login}@/{database}?{urlencode(options, quote_via=quote, safe='')}"


def _render(template: Path, values: Mapping[str, str]) -> str:
    """Fill in {{name}}, and {{include file}} by that file beside it. Nginx's own $variables and braces stay."""
    with writing(template):
        text = _with_includes(template)
    return PLACEHOLDER.sub(lambda found: values[found.group(1)], text)


def _with_includes(template: Path) -> str:
    text = template.read_text(encoding="utf-8")
    return INCLUDE.sub(lambda found: _with_includes(template.parent / found.group(1)), text)
