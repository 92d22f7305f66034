"""What the access settings become in the configurations of nginx and PostgREST."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping
from pathlib import Path

from spindle.access import Access, url_host
from spindle.errors import SettingsError
from spindle.state_files import write_private, writing
from spindle.unprivileged import ServiceUser

# Long or expensive queries that run at once, of one client and of all: of PostgREST's ten connections others keep some.
HEAVY_AT_ONCE, ALL_HEAVY_AT_ONCE = 4, 6
# A client may save up this many seconds of its rate: a dashboard asks for everything at once, and then for nothing.
BURST_SECONDS = 4

CERTIFICATE, KEY, KEY_SET = "tls.crt", "tls.key", "jwks.json"


def write_access_files(access: Access, folder: Path, user: ServiceUser | None) -> bool:
    """Copy certificate, key and key set to where only the service user reads them. Tells whether TLS's changed.

    Raises SettingsError when key and certificate do not fit: nginx would say so only in its log.
    """
    if access.jwks_file is not None:
        write_private(folder / KEY_SET, _read(access.jwks_file), user)
    if access.tls_cert is None or access.tls_key is None:
        return False
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(access.tls_cert, access.tls_key, password="")
    except OSError as error:
        raise SettingsError(
            f"TLS_CERT_FILE and TLS_KEY_FILE cannot be used: {error.strerror or error}",
            "a PEM certificate, its chain after it, and its private key without a passphrase",
        ) from error
    changed = [
        write_private(folder / name, _read(source), user)
        for name, source in ((CERTIFICATE, access.tls_cert), (KEY, access.tls_key))
    ]
    return any(changed)


def nginx_values(access: Access, folder: str, endpoints: list[str]) -> dict[str, str]:
    """For gateway/*.template. `folder` is where write_access_files wrote, as it may stand in a configuration."""
    tls = f"""\
 ssl;
        ssl_certificate "{folder}/{CERTIFICATE}";
        ssl_certificate_key "{folder}/{KEY}";
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:tls:5m"""
    every_origin = access.cors_origins == ("*",)
    return {
        "address": url_host(access.address),
        "tls": tls if access.tls_cert else "",
        "trusted_proxies": "\n    ".join(f"set_real_ip_from {proxy};" for proxy in access.trusted_proxies),
        "rate_key": "$binary_remote_addr" if access.rate_per_second else '""',
        "rate": str(access.rate_per_second or 1),
        "burst": str(BURST_SECONDS * access.rate_per_second or 1),
        "connections_key": "$binary_remote_addr" if access.connections else '""',
        "connections": str(access.connections or 1),
        "heavy": str(HEAVY_AT_ONCE),
        "all_heavy": str(ALL_HEAVY_AT_ONCE),
        "max_rows": str(access.max_rows),
        "last_row": str(access.max_rows - 1),
        "fewer_digits": str(len(str(access.max_rows)) - 1),
        "endpoints": "|".join(endpoints),
        "cors_default": "*" if every_origin else "",
        "cors_origins": "" if every_origin else "\n        ".join(f'"{o}" $http_origin;' for o in access.cors_origins),
        "vary_by_client": ("Authorization, " if access.login else "") + ("" if every_origin else "Origin, "),
        "authorization": "$http_authorization" if access.login else "",
        # The probe has no token: that PostgreSQL refuses it shows that both answer.
        "ready_without_token": "=200 @ready" if access.login else "=503 @not_ready",
    }


def postgrest_values(access: Access, folder: str, login_role: str) -> Mapping[str, str]:
    """For gateway/postgrest.conf.template. They hold a secret: for a private file, never a log."""
    if not access.login:
        return {"max_rows": str(access.max_rows), "anon_role": "web_anon", "login": ""}
    keys = hashlib.sha256(_read(access.jwks_file).encode()).hexdigest() if access.jwks_file else "a secret"
    secret = access.jwt_secret or f"@{folder}/{KEY_SET}"
    return {
        "max_rows": str(access.max_rows),
        # Who has no token stays what PostgREST logs in as, and that may read nothing.
        "anon_role": login_role,
        # other keys are another configuration
        "login": f'jwt-secret = "{secret}" # {keys}\ndb-pre-request = "gateway.require_reader"',
    }


def _read(path: Path) -> str:
    with writing(path):
        return path.read_text(encoding="utf-8")
