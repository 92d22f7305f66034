"""`make bench`, second part: what crosses the link to a machine's server, and how a fleet's refresh grows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import psycopg
from psycopg import sql

from spindle import database, sources
from spindle.extract import Days
from spindle.refresh import refresh
from spindle.secrets import with_secrets
from spindle.settings import Connection, Settings, load_settings
from spindle.transform import Project
from tests.conftest import Spindle
from tests.fleet import PASSWORD, READER, Fleet
from tests.histories import random_histories
from tests.servers import DEBIAN, WHEEL, Link, Server, Servers
from tests.small_plant import environment

DAY = date(2026, 3, 30)
ROWS_PER_DAY = 760_000
LATENCY_SECONDS = 0.02
FLEETS = (1, 2, 5, 10, 20)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="spindle-bench-fleet-") as folder:
        Path(folder).chmod(0o755)
        servers = Servers(Path(folder))
        try:
            results = servers.make()
            show_link(results, servers.make(DEBIAN if DEBIAN.is_dir() else WHEEL), Path(folder))
            show_fleet(results, servers, Path(folder))
        finally:
            servers.stop()


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def show_link(results: Server, production: Server, folder: Path) -> None:
    """Rows, bytes and round trips of one day of one machine, per extracted model, with the remote statements."""
    copy_plant(production, folder)
    reader = production.grant_reader("plant", READER, PASSWORD)
    with results.connect() as admin:
        admin.execute("create database link")
    with Link(production.port) as link:
        settings = plant_settings(replace(results.admin, dbname="link"), link.of(reader), folder)
        database.set_up(settings, settings.authenticator_password)
        first = seconds(lambda: refresh(settings))
        with production.connect() as admin:
            version = admin.info.server_version // 10000
        print(f"one machine on PostgreSQL {version}, three days of {ROWS_PER_DAY:,} rows: first refresh {first:.1f} s")
        print(f"one day of it       {'rows':>9}{'over the link':>14}{'kB':>11}{'round trips':>12}{'seconds':>10}")
        with database.results(settings) as connection, connection.transaction(force_rollback=True):
            connection.execute("set local search_path = staging")
            for name, value in Days(DAY, DAY).session_settings().items():
                connection.execute("select set_config(%s, %s, true)", (name, value))
            total = [0, 0, 0, 0]
            for model in Project(settings, connection).prepare():
                sent = len(production.statements(READER, "plant"))
                link.reset()
                connection.execute(sql.SQL("delete from {}").format(sql.Identifier(model)))
                fill = sql.SQL("insert into {} select * from {}").format(
                    sql.Identifier(model), sql.Identifier(f"{model}_source")
                )
                begin = time.perf_counter()
                rows = connection.execute(fill).rowcount
                figures = [rows, link.rows, link.bytes_down, link.round_trips]
                total = [a + b for a, b in zip(total, figures, strict=True)]
                print(row(model, figures, time.perf_counter() - begin))
                statements = production.statements(READER, "plant")[sent:]
                if reads := [text for text in statements if "FROM public.variable_log" in text]:
                    print(f"    e.g. {max(reads, key=len)[:400]}")
            print(row("in all", total))


def plant_settings(results: Connection, production: Connection, folder: Path) -> Settings:
    environ = environment(results, production) | {"STATE_DIR": str(folder / "link")}
    return replace(
        with_secrets(load_settings(environ=environ)),
        results=results,
        machines=("branosera",),
        production={"branosera": production},
    )


def row(name: str, figures: list[int], taken: float | None = None) -> str:
    rows, crossed, size, trips = figures
    time_taken = "" if taken is None else f"{taken:>10.2f}"
    return f"  {name:<18}{rows:>9,}{crossed:>14,}{size / 1000:>11,.1f}{trips:>12,}{time_taken}"


def copy_plant(production: Server, folder: Path) -> None:
    """The demo plant's machine, as the database `plant` of a server of its own."""
    production.database("plant")
    spindle = Spindle(folder / "state")
    try:
        spindle.run(
            *("demo", "--days", "3", "--rows-per-day", str(ROWS_PER_DAY), "--machines", "branosera"),
            *("--until", f"{DAY}T23:59:59"),
        )
        with psycopg.connect(spindle.info["machines"]["branosera"]) as source, production.connect("plant") as target:
            for table in sources.SOURCE_TABLES:
                with (
                    source.cursor().copy(f"copy {table} to stdout (format binary)") as read,
                    target.cursor().copy(f"copy {table} from stdin (format binary)") as write,
                ):
                    for block in read:
                        write.write(block)
            target.execute("analyze")
    finally:
        spindle.run("stop", exit_code=None)


def show_fleet(results: Server, servers: Servers, folder: Path) -> None:
    """A refresh without news of more and more machines, each behind a link of its own."""
    fleet = Fleet(results, folder / "fleet", random_histories(3, max(FLEETS)), [servers.make() for _ in range(2)])
    try:
        for link in fleet.links.values():
            link.slow(LATENCY_SECONDS)
        machines = fleet.settings.machines
        print(f"machines behind links of {LATENCY_SECONDS * 1000:.0f} ms a round trip, refresh without news")
        for at_once in (1, 4):
            alone = 0.0
            for count in FLEETS:
                chosen = machines[:count]
                fleet.settings = replace(
                    fleet.settings,
                    machines=chosen,
                    machines_at_once=at_once,
                )
                refresh(fleet.settings)
                taken = seconds(lambda: refresh(fleet.settings))
                alone = alone or taken
                print(
                    f"  {at_once:>2} at once, {count:>2} machines {taken:>8.1f} s   / one machine = {taken / alone:.1f}"
                )
    finally:
        fleet.close()


if __name__ == "__main__":
    main()
