"""A rebuild: everything computed again beside the live tables, tested, then swapped in one transaction (blue/green)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psycopg
from psycopg import sql

from spindle import database, guards, verify
from spindle.compute import compute
from spindle.database import NEXT, OLD, SCHEMAS
from spindle.errors import RefreshFailed, SettingsError
from spindle.extract import Days
from spindle.runs import only_one, recorded
from spindle.settings import Settings
from spindle.transform import Progress, Project

# A result that loses more than this share of a machine's rows is not swapped in unless the loss is accepted.
LARGEST_LOSS = 0.05
SWAP_SECONDS = 120
LOCK_TIMEOUT = "100ms"


def rebuild(
    settings: Settings,
    machines: Sequence[str] = (),
    *,
    accept_loss: bool = False,
    verbose: bool = False,
    progress: Progress | None = None,
) -> str:
    """Build, test and swap: all machines, or only these, and then the others' results are taken along as they are.

    Also the way to deploy a changed model or view. Machines that have no source any more are taken along too. Returns
    why the API was not checked. Raises SettingsError; RefreshBusy; and RefreshFailed or CannotConnect when a machine,
    a model or a data test fails or results would shrink: the old data then goes on being served, and nothing of the
    new is left.
    """
    for machine in machines:
        if machine not in settings.machines:
            raise SettingsError(f"MACHINE: {machine} has no source", f"known: {', '.join(settings.machines)}")
    chosen = machines or settings.machines
    verify.check_port(settings)
    with (
        database.results(settings) as connection,
        only_one(connection),
        recorded(settings, connection, "rebuild", ", ".join(machines) or None) as run,
    ):
        has_results = guards.has_results(connection)
        before = verify.count_records(connection) if has_results else {}
        if not database.drop_schemas(connection, NEXT, OLD):
            raise RefreshFailed(
                "somebody still reads what the last rebuild replaced, so there is no room for another",
                "see who has a transaction open for so long (pg_stat_activity), then run it again",
            )
        guards.refuse_dependents(connection)
        check = None
        if not accept_loss:
            check = guards.make_check(has_results=has_results, accept_loss=False, accept_time_zone=True)
        with _next_schemas(connection):
            project = Project(settings, connection, suffix=NEXT, verbose=verbose)
            models = project.prepare(progress)
            compute(settings, run, project, models, chosen, Days(everything=True), check=check, progress=progress)
            run.raise_failed(any_failed=True)
            if has_results:
                _take_along(connection, chosen)
            project.test(progress)
            if not accept_loss:
                _refuse_loss(before, verify.count_records(connection, f"agg{NEXT}"))
            _swap(connection)
        run.succeed()
        project.deployment.mark()
        database.drop_schemas(connection, OLD)
        return verify.check_api(settings, connection, chosen)


@contextmanager
def _next_schemas(connection: psycopg.Connection) -> Iterator[None]:
    """Empty schemas to build in; gone again unless they were swapped."""
    for schema in SCHEMAS:
        connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema + NEXT)))
    connection.execute(sql.SQL("grant usage on schema {} to web_anon").format(sql.Identifier("api" + NEXT)))
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # a lost connection: the next run drops them
            database.drop_schemas(connection, NEXT)


def _take_along(connection: psycopg.Connection, computed: Sequence[str]) -> None:
    """Copy the results of the machines that were not computed."""
    others = "machine <> all(%s)"
    if not connection.execute(f"select from agg.machine_summary where {others}", (list(computed),)).rowcount:
        return
    tables = connection.execute(
        "select relname from pg_class where relkind = 'r' and relnamespace = %s::regnamespace", (f"agg{NEXT}",)
    ).fetchall()
    for (table,) in tables:
        columns = connection.execute(
            "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped",
            (f"agg{NEXT}.{table}",),
        ).fetchall()
        names = sql.SQL(", ").join(sql.Identifier(name) for (name,) in columns)
        statement = sql.SQL("insert into {} ({}) select {} from {} where " + others)
        try:
            connection.execute(
                statement.format(sql.Identifier(f"agg{NEXT}", table), names, names, sql.Identifier("agg", table)),
                (list(computed),),
            )
        except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable) as error:
            raise RefreshFailed(
                f"{table} has changed, so results of machines that are not computed again cannot be taken along",
                "rebuild all machines; `bootstrap.py forget MACHINE` removes one that is gone",
            ) from error


def _refuse_loss(before: verify.Counts, after: verify.Counts) -> None:
    lost = [
        f"{machine}: {name} from {rows} to {after.get(machine, {}).get(name, 0)}"
        for machine, counts in before.items()
        for name, rows in counts.items()
        if after.get(machine, {}).get(name, 0) < rows * (1 - LARGEST_LOSS)
    ]
    if lost:
        raise RefreshFailed(
            f"results would shrink by more than {LARGEST_LOSS:.0%}: " + "; ".join(lost),
            "is the production log complete? `make rebuild ARGS=--yes` swaps the smaller results in",
        )


def _swap(connection: psycopg.Connection) -> None:
    """All schemas change names in one transaction; the record of runs moves along.

    The locks are asked for with patience of a tenth of a second, again and again: a slow reader delays the swap, but
    never the readers that would queue behind it.
    """
    deadline = time.monotonic() + SWAP_SECONDS
    while True:
        try:
            with connection.transaction():
                connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
                for table in ("refresh_runs", "refresh_cuts"):
                    connection.execute(f"alter table agg.{table} set schema agg{NEXT}")
                for schema in SCHEMAS:
                    connection.execute(f"alter schema {schema} rename to {schema}{OLD}")
                    connection.execute(f"alter schema {schema}{NEXT} rename to {schema}")
            return
        except psycopg.errors.LockNotAvailable as error:
            if time.monotonic() > deadline:
                raise RefreshFailed(
                    f"readers held the tables for {SWAP_SECONDS} s, so the new ones could not be swapped in",
                    "see who reads for so long (pg_stat_activity), then run it again",
                ) from error
            time.sleep(0.4)
