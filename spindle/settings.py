"""Settings: what `.env` and the environment say, checked once, as one frozen value that is passed around."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values
from psycopg.conninfo import make_conninfo

from spindle.access import ACCESS_KEYS, Access, read_access
from spindle.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent

CONNECTION_PARTS = ("HOST", "PORT", "NAME", "USER", "PASSWORD", "SSLMODE")
PLAIN_KEYS = frozenset(
    {
        "AUTHENTICATOR_PASSWORD",
        "DEFAULT_MACHINE",
        "GATEWAY_PORT",
        "MACHINES_AT_ONCE",
        "METRICS_PORT",
        "POSTGREST_BIN",
        "NGINX_BIN",
        "SERVE_STALE_HOURS",
        "SOURCE_TIMEOUT_SECONDS",
        "STALE_AFTER_HOURS",
        "STATE_DIR",
    }
)
# Roles of the results server: the owner of all that Spindle makes there, and PostgREST's login.
OWNER_ROLE = "spindle_owner"
LOGIN_ROLE = "authenticator"
# The demo plant: the role that owns its databases, the one that reads them as a real reader would, its own notes.
PLANT_OWNER = "plant_owner"
PLANT_READER = "plant_reader"
PLANT_FILE = "plant.json"
SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True)
class Connection:
    """How to reach one PostgreSQL database. `host` may be a folder: then it is a unix socket's."""

    host: str
    port: int
    dbname: str
    user: str
    password: str = field(default="", repr=False)
    sslmode: str = "prefer"

    def parameters(self) -> dict[str, str]:
        """libpq's keywords, the password included: for a driver's call, never for a log."""
        shown = {"host": self.host, "port": str(self.port), "dbname": self.dbname, "user": self.user}
        if not self.host.startswith("/"):
            shown["sslmode"] = self.sslmode
        return shown | ({"password": self.password} if self.password else {})

    def public(self) -> str:
        """A libpq connection string without the password."""
        return make_conninfo(**{k: v for k, v in self.parameters().items() if k != "password"})

    def same_database(self, other: Connection) -> bool:
        return (self.host, self.port, self.dbname) == (other.host, other.port, other.dbname)


@dataclass(frozen=True)
class Settings:
    """All settings, checked. Paths are absolute."""

    state_dir: Path
    machines: tuple[str, ...]
    default_machine: str
    production: Mapping[str, Connection]
    results: Connection
    embedded_results: bool
    demo_plant: bool
    authenticator_password: str = field(default="", repr=False)
    gateway_port: int = 8000
    postgrest_bin: str = ""
    nginx_bin: str = ""
    stale_after_hours: float = 72.0
    machines_at_once: int = 4
    source_timeout_seconds: float = 300.0
    serve_stale_hours: float = 24.0
    metrics_port: int | None = None
    access: Access = field(default_factory=Access)
    root: Path = ROOT

    @property
    def logs(self) -> Path:
        return self.state_dir / "logs"

    @property
    def gateway_url(self) -> str:
        return f"{self.access.own_origin}:{self.gateway_port}"


def load_settings(root: Path = ROOT, environ: Mapping[str, str] | None = None) -> Settings:
    """Read `.env` (or the file that SPINDLE_ENV_FILE names) and the environment, which wins.

    Raises SettingsError naming the key that is unknown, malformed, missing or contradictory.
    """
    environ = os.environ if environ is None else environ
    fleet = read_fleet(root)
    known = _known_keys(fleet)
    env_file = root / environ.get("SPINDLE_ENV_FILE", ".env")
    in_file = {key: value or "" for key, value in dotenv_values(env_file).items()}
    for key in in_file:
        if key not in known:
            raise SettingsError(f"unknown setting {key} in {env_file.name}", "see .env.example for every key")
    given = {key: value for key in known if (value := environ.get(key, in_file.get(key, "")).strip())}

    default_machine = given.get("DEFAULT_MACHINE", next(iter(fleet)))
    if default_machine not in fleet:
        raise SettingsError(
            f"DEFAULT_MACHINE={default_machine} is no machine of seeds/machine_config.csv",
            f"known: {', '.join(fleet)}",
        )
    state_dir = (root / given.get("STATE_DIR", ".spindle")).resolve()
    sockets = socket_dir(state_dir)
    results = _results(given)
    production = _production(given, fleet, default_machine)
    demo_plant = not production
    if demo_plant:
        if results is not None:
            raise SettingsError(
                "AGG_DB_NAME is set, but no production database is: DB_HOST or DB_NAME is missing",
                "set DB_* to where the machines' logs are, or remove AGG_DB_* to use the embedded demo",
            )
        production = {
            machine: Connection(str(sockets), 5432, fleet[machine], PLANT_READER)
            for machine in plant_machines(state_dir, fleet)
        }
    return Settings(
        root=root,
        state_dir=state_dir,
        machines=tuple(production),
        default_machine=default_machine,
        production=production,
        results=results or Connection(str(sockets), 5432, "spindle", "spindle_admin"),
        embedded_results=results is None,
        demo_plant=demo_plant,
        authenticator_password=given.get("AUTHENTICATOR_PASSWORD", ""),
        gateway_port=_port("GATEWAY_PORT", given.get("GATEWAY_PORT", "8000")),
        postgrest_bin=given.get("POSTGREST_BIN", ""),
        nginx_bin=given.get("NGINX_BIN", ""),
        stale_after_hours=_positive("STALE_AFTER_HOURS", given.get("STALE_AFTER_HOURS", "72"), "hours"),
        machines_at_once=_count("MACHINES_AT_ONCE", given.get("MACHINES_AT_ONCE", "4"), 64),
        source_timeout_seconds=_positive(
            "SOURCE_TIMEOUT_SECONDS", given.get("SOURCE_TIMEOUT_SECONDS", "300"), "seconds"
        ),
        serve_stale_hours=_positive("SERVE_STALE_HOURS", given.get("SERVE_STALE_HOURS", "24"), "hours"),
        metrics_port=_metrics_port(given),
        access=read_access(given, root),
    )


def read_fleet(root: Path = ROOT) -> dict[str, str]:
    """The machines of the seed with the database of each, in the seed's order. Raises SettingsError."""
    return {row["machine"]: row["database"] for row in _machine_rows(root)}


def read_time_zones(root: Path = ROOT) -> dict[str, str]:
    """The machines of the seed with the time zone of each. Raises SettingsError."""
    return {row["machine"]: row["time_zone"] for row in _machine_rows(root)}


def _machine_rows(root: Path) -> list[dict[str, str]]:
    path = root / "seeds" / "machine_config.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error}", "restore it from version control") from error
    if not rows or not {"machine", "database", "time_zone"} <= rows[0].keys():
        raise SettingsError(f"{path} names no machine", "it needs the columns machine, database, time_zone and a row")
    for row in rows:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", row["machine"] or ""):
            raise SettingsError(
                f"machine {row['machine']!r} in {path.name} is no valid name",
                "use lower-case letters, digits and _, at most 31, a letter first",
            )
    return rows


def plant_machines(state_dir: Path, fleet: Mapping[str, str]) -> list[str]:
    """The machines of the demo plant: the ones it was made with, all of the seed before it is made."""
    try:
        made = json.loads((state_dir / PLANT_FILE).read_text(encoding="utf-8"))["machines"]
    except FileNotFoundError:
        return list(fleet)
    return [machine for machine in fleet if machine in made]


def socket_dir(state_dir: Path) -> Path:
    """The folder of the unix sockets. A socket's path may have 107 bytes, so deep checkouts get a short one in /tmp."""
    inside = state_dir / "run"
    if len(str(inside).encode()) <= 80:
        return inside
    import hashlib
    import tempfile

    digest = hashlib.sha256(str(state_dir).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"spindle-{digest}"


def _known_keys(fleet: Mapping[str, str]) -> frozenset[str]:
    prefixes = ["DB", "AGG_DB", *(f"DB_{machine.upper()}" for machine in fleet)]
    return PLAIN_KEYS | ACCESS_KEYS | {f"{prefix}_{part}" for prefix in prefixes for part in CONNECTION_PARTS}


def _results(given: Mapping[str, str]) -> Connection | None:
    if not any(key.startswith("AGG_DB_") for key in given):
        return None
    for key in ("AGG_DB_NAME", "AGG_DB_USER"):
        if key not in given:
            raise SettingsError(f"{key} is missing", "other AGG_DB_ keys are set: set it too, or remove them all")
    return _connection(given, ["AGG_DB"], given["AGG_DB_NAME"])


def _production(given: Mapping[str, str], fleet: Mapping[str, str], default_machine: str) -> dict[str, Connection]:
    own = {machine: f"DB_{machine.upper()}" for machine in fleet}
    if not any(key.startswith("DB_") for key in given):
        return {}
    named_own = {machine for machine, prefix in own.items() if any(f"{prefix}_{p}" in given for p in CONNECTION_PARTS)}
    common = any(f"DB_{part}" in given for part in CONNECTION_PARTS)
    if "DB_NAME" in given:
        chosen = [machine for machine in fleet if machine == default_machine or machine in named_own]
    else:
        chosen = [machine for machine in fleet if common or machine in named_own]
    connections = {}
    for machine in chosen:
        prefixes = [own[machine], "DB"]
        fallback = given.get("DB_NAME", fleet[machine]) if machine == default_machine else fleet[machine]
        database = given.get(f"{own[machine]}_NAME", fallback)
        connections[machine] = _connection(given, prefixes, database)
    return connections


def _connection(given: Mapping[str, str], prefixes: list[str], dbname: str) -> Connection:
    def value(part: str, default: str) -> tuple[str, str]:
        for prefix in prefixes:
            if f"{prefix}_{part}" in given:
                return f"{prefix}_{part}", given[f"{prefix}_{part}"]
        return f"{prefixes[-1]}_{part}", default

    user_key, user = value("USER", "")
    if not user:
        raise SettingsError(f"{user_key} is missing", "the login for that database; see .env.example")
    ssl_key, sslmode = value("SSLMODE", "prefer")
    if sslmode not in SSLMODES:
        raise SettingsError(f"{ssl_key}={sslmode} is no sslmode", f"one of {', '.join(SSLMODES)}")
    return Connection(
        host=value("HOST", "127.0.0.1")[1],
        port=_port(*value("PORT", "5432")),
        dbname=dbname,
        user=user,
        password=value("PASSWORD", "")[1],
        sslmode=sslmode,
    )


def _port(key: str, text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise SettingsError(f"{key}={text} is no port", "a whole number from 1 to 65535")
    return int(text)


def _metrics_port(given: Mapping[str, str]) -> int | None:
    if "METRICS_PORT" not in given:
        return None
    port = _port("METRICS_PORT", given["METRICS_PORT"])
    if port == _port("GATEWAY_PORT", given.get("GATEWAY_PORT", "8000")):
        raise SettingsError(f"METRICS_PORT={port} is GATEWAY_PORT", "metrics have a port of their own, such as 9464")
    return port


def _count(key: str, text: str, most: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise SettingsError(f"{key}={text} is no such number", f"a whole number from 1 to {most}")
    return int(text)


def _positive(key: str, text: str, unit: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < 1e6:
        raise SettingsError(f"{key}={text} is no number of {unit}", "a number above 0, such as 72")
    return number
