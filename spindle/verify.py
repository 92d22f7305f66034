"""The check after a refresh: what the API serves is what the database has, up to the cut, and nothing was lost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode

import psycopg

from spindle import cache, services
from spindle.errors import RefreshFailed, SettingsError, SpindleError
from spindle.own_client import open_gateway
from spindle.settings import Settings
from spindle.tokens import own_headers

# data_status's names for the rows of each result
RECORDS = {
    "sensor_records": "sensor_stats",
    "utilization_records": "activity",
    "alert_records": "alerts",
    "program_records": "program_time",
    "energy_records": "energy",
}

# So long the gateway may say of one request that there were too many.
PATIENCE_SECONDS = 60

Counts = Mapping[str, Mapping[str, int]]


def count_records(connection: psycopg.Connection, schema: str = "agg") -> dict[str, dict[str, int]]:
    """Rows of each result by machine, counted in the tables themselves."""
    counts: dict[str, dict[str, int]] = {}
    for name, table in RECORDS.items():
        for machine, rows in connection.execute(f"select machine, count(*) from {schema}.{table} group by machine"):
            counts.setdefault(machine, dict.fromkeys(RECORDS, 0))[name] = rows
    return counts


def find_losses(connection: psycopg.Connection, before: Counts) -> dict[str, SpindleError]:
    """The machines whose counts fell, or that have a day with other results and no activity; each with its error."""
    now = count_records(connection)
    errors: dict[str, SpindleError] = {}
    for machine, counts in before.items():
        after = now.get(machine, {})
        fallen = [
            f"{name} from {rows} to {after.get(name, 0)}" for name, rows in counts.items() if after.get(name, 0) < rows
        ]
        if fallen:
            errors[machine] = RefreshFailed(
                f"{machine} lost results: {', '.join(fallen)}",
                "rows of the last days are gone from its log, or a variable from its dictionary; if that is right, the"
                " next refresh will pass; else mend it and refresh",
            )
    missing = connection.execute(
        "select machine, day::text from agg.sensor_stats union select machine, day::text from agg.state_changes"
        " except select machine, day::text from agg.activity order by machine, day"
    ).fetchall()
    for machine in {machine for machine, _ in missing} - errors.keys():
        days = [day for owner, day in missing if owner == machine]
        errors[machine] = RefreshFailed(
            f"{machine} has results without activity on {len(days)} days: {', '.join(days[:10])}",
            "run dbt test and look at its log",
        )
    return errors


def read_cuts(connection: psycopg.Connection) -> dict[str, datetime]:
    """Each machine's cut, an aware time."""
    return dict(connection.execute("select machine, data_until from agg.machine_summary").fetchall())


def check_api(
    settings: Settings, connection: psycopg.Connection, machines: Iterable[str], *, refreshed: bool = True
) -> str:
    """Compare what is served of these machines with the tables and the cuts; raises RefreshFailed.

    `refreshed`: the last refresh must be said to have succeeded.

    Returns why nothing was checked: a gateway that is not started is no failure of a refresh.
    """
    if services.gateway_port(settings) is None:
        return "the gateway is not running, so what it serves was not checked"
    cache.refresh_cache(settings)
    if settings.access.jwks_file is not None:
        return "tokens are signed elsewhere (API_JWKS_FILE), so what the gateway serves was not checked"
    counted = count_records(connection)
    cuts = read_cuts(connection)
    for machine, cut in ((name, cuts[name]) for name in machines if name in cuts):
        served = get(settings, "data_status", machine=f"eq.{machine}")
        expected = counted.get(machine, dict.fromkeys(RECORDS, 0))
        wrong = [
            f"{name} {served.get(name)} instead of {rows}"
            for name, rows in expected.items()
            if served.get(name) != rows
        ]
        until = served.get("data_until")
        if until is None or datetime.fromisoformat(until) != cut:
            wrong.append(f"data_until {until} instead of {cut.isoformat()}")
        if refreshed and not served.get("refresh_ok"):
            wrong.append("refresh_ok is not true")
        served_days = get(settings, "machine_util", machine=f"eq.{machine}", select="dt", order="dt.desc")
        days = {row["dt"] for row in served_days}
        rows = connection.execute(
            "select day::text from agg.activity where machine = %s order by day desc limit %s",
            (machine, settings.access.max_rows),
        ).fetchall()
        if lost := {day for (day,) in rows} - days:
            wrong.append(f"machine_util lacks {', '.join(sorted(lost)[:10])}")
        if wrong:
            raise RefreshFailed(
                f"the API serves something else than the database has for {machine}: {'; '.join(wrong)}",
                f"look at {settings.logs}; `bootstrap.py serve` starts the services again",
            )
    return ""


def check_port(settings: Settings) -> None:
    """Raises SettingsError when this folder's gateway listens elsewhere: at the settings' port may be a stranger's."""
    port = services.gateway_port(settings)
    if port not in (None, settings.gateway_port):
        raise SettingsError(
            f"GATEWAY_PORT is {settings.gateway_port}, but the gateway of this folder listens on {port}",
            f"set GATEWAY_PORT={port}, or run `make serve` to move the gateway",
        )


def get(settings: Settings, path: str, **filters: str) -> Any:
    """One answer of the API. Raises RefreshFailed when there is none."""
    path = f"/api/v1/{path}?{urlencode(filters)}"
    url = f"{settings.gateway_url}{path}"
    try:
        with _open_in_turn(settings, path) as answer:
            found, stale = json.load(answer), answer.headers["X-Cache"] == "STALE"
    except HTTPError as error:
        body = error.read(2000).decode(errors="replace")
        raise RefreshFailed(f"{url} answered {error.code}: {body}", f"look at {settings.logs}") from error
    except (URLError, OSError, ValueError) as error:
        raise RefreshFailed(f"{url} does not answer: {error}", "`bootstrap.py status` says what is down") from error
    if stale:
        raise RefreshFailed(f"{url} has only a stale answer", "`bootstrap.py status` says what is down")
    return found


def _open_in_turn(settings: Settings, path: str) -> Any:
    """The open answer; the gateway's limits count this computer's requests too. Raises urllib's errors."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return open_gateway(settings, path, timeout=30, headers=own_headers(settings.access))
        except HTTPError as error:
            pause = float(error.headers.get("Retry-After", 1))
            if error.code != 429 or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
