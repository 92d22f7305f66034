"""Who may reach the API, from where and how much: the settings of the gateway's limits, CORS, TLS and login."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spindle.errors import SettingsError

ACCESS_KEYS = frozenset(
    {
        "API_CONNECTIONS",
        "API_JWKS_FILE",
        "API_JWT_SECRET",
        "API_MAX_ROWS",
        "API_RATE_PER_SECOND",
        "CORS_ORIGINS",
        "GATEWAY_ADDRESS",
        "TLS_CERT_FILE",
        "TLS_KEY_FILE",
        "TRUSTED_PROXIES",
    }
)
ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?", re.IGNORECASE)
# What stands between double quotes in PostgREST's configuration as itself; a leading @ would name a file.
SECRET = re.compile(r"(?!@)[\w.~!#%^&*()+=/:;,?@-]+", re.ASCII)
SHORTEST_SECRET = 32
FEWEST_ROWS, MOST_ROWS = 1_000, 10_000_000


@dataclass(frozen=True)
class Access:
    """Checked. A limit of 0 is none; `cors_origins` is ("*",) for all."""

    address: str = "127.0.0.1"
    trusted_proxies: tuple[str, ...] = ()
    rate_per_second: int = 0
    connections: int = 0
    max_rows: int = 100_000
    cors_origins: tuple[str, ...] = ("http://localhost:3000",)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    jwt_secret: str = field(default="", repr=False)
    jwks_file: Path | None = None

    @property
    def on_network(self) -> bool:
        return on_network(self.address, self.trusted_proxies)

    @property
    def login(self) -> bool:
        """Whether a token is needed to read."""
        return bool(self.jwt_secret or self.jwks_file)

    @property
    def open_doors(self) -> list[str]:
        """What the administrator of a gateway on a network should have meant."""
        if not self.on_network:
            return []
        doors = []
        own = is_loopback(self.address)
        if not self.login:
            reached = "a proxy of TRUSTED_PROXIES" if own else self.address
            doors.append(f"whoever reaches {reached} reads everything: API_JWT_SECRET would ask for a token")
        # What a proxy on this computer encrypts is its own matter.
        if self.tls_cert is None and not own:
            doors.append(f"{self.address} is served without encryption: set TLS_CERT_FILE and TLS_KEY_FILE")
        return doors

    @property
    def own_host(self) -> str:
        """The host under which this computer reaches the gateway, as it stands in a URL."""
        address = ipaddress.ip_address(self.address)
        if address.is_unspecified:
            return "[::1]" if address.version == 6 else "127.0.0.1"
        return url_host(self.address)

    @property
    def own_origin(self) -> str:
        return f"{'https' if self.tls_cert else 'http'}://{self.own_host}"


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def on_network(address: str, trusted_proxies: tuple[str, ...]) -> bool:
    """Whether strangers may ask: by themselves, or through a proxy, which may well be on this computer."""
    return not is_loopback(address) or bool(trusted_proxies)


def url_host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def read_access(given: Mapping[str, str], root: Path) -> Access:
    """The access settings. Raises SettingsError naming the key."""
    address = _address("GATEWAY_ADDRESS", given.get("GATEWAY_ADDRESS", Access.address))
    proxies = tuple(_network("TRUSTED_PROXIES", text) for text in _list(given.get("TRUSTED_PROXIES", "")))
    rate, connections = (100, 200) if on_network(address, proxies) else (0, 0)
    tls_cert, tls_key = _file(given, "TLS_CERT_FILE", root), _file(given, "TLS_KEY_FILE", root)
    if (tls_cert is None) != (tls_key is None):
        missing, there = ("TLS_CERT_FILE", "TLS_KEY_FILE") if tls_cert is None else ("TLS_KEY_FILE", "TLS_CERT_FILE")
        raise SettingsError(f"{missing} is missing", f"{there} is set: TLS needs both")
    jwks_file = _file(given, "API_JWKS_FILE", root)
    if jwks_file is not None:
        if "API_JWT_SECRET" in given:
            raise SettingsError(
                "API_JWT_SECRET and API_JWKS_FILE are both set", "tokens are signed in one way: keep one"
            )
        _check_jwks(jwks_file)
    return Access(
        address=address,
        trusted_proxies=proxies,
        rate_per_second=_count(given, "API_RATE_PER_SECOND", rate, 0, 1_000_000),
        connections=_count(given, "API_CONNECTIONS", connections, 0, 65_535),
        max_rows=_count(given, "API_MAX_ROWS", Access.max_rows, FEWEST_ROWS, MOST_ROWS),
        cors_origins=_origins(given.get("CORS_ORIGINS", ",".join(Access.cors_origins))),
        tls_cert=tls_cert,
        tls_key=tls_key,
        jwt_secret=_secret(given.get("API_JWT_SECRET", "")),
        jwks_file=jwks_file,
    )


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _address(key: str, text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise SettingsError(
            f"{key}={text} is no IP address", "such as 127.0.0.1, 0.0.0.0 for all of this computer, or ::"
        ) from error


def _network(key: str, text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise SettingsError(
            f"{key} has {text}, which is no address and no network", "such as 10.0.0.5 or 10.0.0.0/24, with commas"
        ) from error


def _count(given: Mapping[str, str], key: str, default: int, least: int, most: int) -> int:
    text = given.get(key, str(default))
    if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
        raise SettingsError(f"{key}={text} is out of range", f"a whole number from {least} to {most}")
    return int(text)


def _origins(text: str) -> tuple[str, ...]:
    origins = _list(text)
    if "*" in origins and len(origins) > 1:
        raise SettingsError(f"CORS_ORIGINS={text} names all origins and single ones", "keep either * or the others")
    for origin in origins:
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise SettingsError(
                f"CORS_ORIGINS has {origin}, which is no origin",
                "scheme, host and port as a browser sends them, without a path: https://app.example.com, with commas",
            )
    return tuple(origins)


def _secret(text: str) -> str:
    # The text itself is in no message: it may be nearly the right one.
    if text and len(text) < SHORTEST_SECRET:
        raise SettingsError(
            f"API_JWT_SECRET is shorter than {SHORTEST_SECRET} characters", "make one with: openssl rand -hex 32"
        )
    if text and not SECRET.fullmatch(text):
        raise SettingsError(
            "API_JWT_SECRET has characters that PostgREST would misread",
            "no quotes, blanks, backslashes, $ or accents, and no @ in front; make one with: openssl rand -hex 32",
        )
    return text


def _file(given: Mapping[str, str], key: str, root: Path) -> Path | None:
    if key not in given:
        return None
    path = (root / given[key]).resolve()
    if not path.is_file():
        raise SettingsError(f"{key}={given[key]} is no file", "a path, absolute or from the checkout")
    return path


def _check_jwks(path: Path) -> None:
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))["keys"]
        usable = isinstance(keys, list) and keys and all(isinstance(key, dict) and "kty" in key for key in keys)
    except (OSError, ValueError, KeyError, TypeError):
        usable = False
    if not usable:
        raise SettingsError(f"API_JWKS_FILE={path} is no key set", 'a JSON file: {"keys": [{"kty": …}]}')
