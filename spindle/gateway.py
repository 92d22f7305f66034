"""The gateway's configuration: the templates of gateway/, filled in and written to the state folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from spindle.gateway_access import nginx_values, postgrest_values, write_access_files
from spindle.settings import LOGIN_ROLE, Connection, Settings, socket_dir
from spindle.state_files import own, plain_path, write_private, writing
from spindle.unprivileged import ServiceUser

PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
INCLUDE = re.compile(r"^ *\{\{include ([\w.-]+)\}\}\n", re.MULTILINE)


# What every PostgREST from 12 to 16 reads again when told to. Other changes take a new start: also those of the login,
# which it would read as well, but nobody knows when it has.
REREAD = re.compile(r"(db-(extra-search-path|max-rows|plan-enabled|schemas)|openapi-.*) =")


@dataclass(frozen=True)
class Written:
    """Which of the configurations are other than before, and whether a running PostgREST can take its one over."""

    nginx: bool
    postgrest: bool
    postgrest_rereads: bool


def gateway_dir(settings: Settings) -> Path:
    return settings.state_dir / "gateway"


def pages_dir(settings: Settings) -> Path:
    """Pages and descriptions that are made, not written by hand."""
    return settings.state_dir / "pages"


def nginx_conf(settings: Settings) -> Path:
    return gateway_dir(settings) / "nginx.conf"


def postgrest_conf(settings: Settings) -> Path:
    return gateway_dir(settings) / "postgrest.conf"


def write_gateway(settings: Settings, user: ServiceUser | None, authenticator_password: str) -> Written:
    """Write both configurations, readable by the service user alone."""
    nginx = _write_nginx(settings, user)
    conf, text = postgrest_conf(settings), render_postgrest(settings, authenticator_password)
    before = conf.read_text(encoding="utf-8") if conf.exists() else ""
    changed = set(before.splitlines()) ^ set(text.splitlines())
    return Written(
        nginx=nginx,
        postgrest=write_private(conf, text, user),
        postgrest_rereads=all(line.startswith("#") or REREAD.match(line) for line in changed),
    )


def _write_nginx(settings: Settings, user: ServiceUser | None) -> bool:
    """Tells whether it changed."""
    folder = gateway_dir(settings)
    with writing(folder):
        (folder / "cache").mkdir(mode=0o700, parents=True, exist_ok=True)
        own(folder, user)
        own(folder / "cache", user)
    certified = write_access_files(settings.access, folder, user)
    return write_private(nginx_conf(settings), render_nginx(settings), user) or certified


def render_nginx(settings: Settings) -> str:
    template = settings.root / "gateway" / "nginx.conf.template"
    folder = plain_path(gateway_dir(settings))
    values = {
        "folder": folder,
        "dashboard": plain_path(settings.root / "dashboard"),
        "api_docs": plain_path(settings.root / "api_docs"),
        "swagger_ui": plain_path(settings.root / "gateway" / "node_modules" / "swagger-ui-dist"),
        "pages": plain_path(pages_dir(settings)),
        "clients": plain_path(settings.root / "clients"),
        "postgrest_socket": plain_path(postgrest_socket(settings)),
        "origin_socket": plain_path(origin_socket(settings)),
        "port": str(int(settings.gateway_port)),
        "serve_stale_seconds": str(round(settings.serve_stale_hours * 3600)),
        "metrics_log": _metrics_log(settings),
        "configuration": "",
        "default_machine": settings.default_machine,
        **nginx_values(settings.access, folder, endpoints(settings)),
    }
    # A name of both configurations is part of each key and ETag: nothing kept outlives a changed setting.
    both = _render(template, values) + render_postgrest(settings, authenticator_password="")
    return _render(template, values | {"configuration": hashlib.sha256(both.encode()).hexdigest()[:8]})


def _metrics_log(settings: Settings) -> str:
    """A line a request for spindle.metrics, which empties the file as it reads."""
    if settings.metrics_port is None:
        return ""
    fields = "$status $logged_method $request_time $body_bytes_sent :$cache_state $request_uri"
    return (
        f"log_format metrics '{fields}';\n    "
        f'access_log "{plain_path(metrics_log(settings))}" metrics buffer=64k flush=1s;'
    )


def metrics_log(settings: Settings) -> Path:
    """Where nginx notes every request for the metrics."""
    return gateway_dir(settings) / "requests.log"


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
            "socket": plain_path(postgrest_socket(settings)),
            **postgrest_values(settings.access, plain_path(gateway_dir(settings)), LOGIN_ROLE),
        },
    )


def endpoints(settings: Settings) -> list[str]:
    """The API's views by name."""
    return sorted(view.stem for view in (settings.root / "api_views").glob("*.sql"))


def origin_socket(settings: Settings) -> Path:
    """Where nginx listens for itself and for Spindle."""
    return socket_dir(settings.state_dir) / "origin.sock"


def postgrest_socket(settings: Settings) -> Path:
    """Where PostgREST listens."""
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
    return PLACEHOLDER.sub(lambda found: values[found.group(1)], _with_includes(template))


def _with_includes(template: Path) -> str:
    with writing(template):
        text = template.read_text(encoding="utf-8")
    return INCLUDE.sub(lambda found: _with_includes(template.parent / found.group(1)), text)
