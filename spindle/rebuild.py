"""A rebuild: everything computed again beside the live tables, tested, then swapped in one transaction (blue/green)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import sql

from spindle import database, transform, verify
from spindle.database import NEXT, OLD, SCHEMAS
from spindle.errors import RefreshFailed
from spindle.refresh import only_one, recorded, refuse_shortened_logs
from spindle.settings import Settings

# A result that loses more than this share of a machine's rows is not swapped in unless the loss is accepted.
LARGEST_LOSS = 0.05
SWAP_SECONDS = 120
LOCK_TIMEOUT = "100ms"


def rebuild(
    settings: Settings,
    *,
    accept_loss: bool = False,
    verbose: bool = False,
    progress: transform.Progress | None = None,
) -> str:
    """Build, test and swap. Also the way to deploy a changed model or view. Returns why the API was not checked.

    Raises RefreshBusy, or RefreshFailed when a model or a data test fails or results would shrink: the old data then
    goes on being served, and nothing of the new is left.
    """
    verify.check_port(settings)
    with (
        database.results(settings) as connection,
        only_one(connection),
        recorded(settings, connection, "rebuild") as run,
    ):
        before = verify.count_records(connection) if database.has_results(settings) else {}
        _refuse_dependents(connection)
        if not accept_loss:
            refuse_shortened_logs(connection, accept_loss=False)
        with _next_schemas(connection):
            run.models = transform.run_models(
                settings,
                variables={"schema_suffix": NEXT},
                options=("--full-refresh", "--exclude-resource-type", "unit_test"),
                verbose=verbose,
                progress=progress,
            )
            if not accept_loss:
                _refuse_loss(before, verify.count_records(connection, f"agg{NEXT}"))
            _swap(connection)
        run.succeed()
        database.drop_schemas(connection, OLD)
        return verify.check_api(settings, connection)


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


def _refuse_dependents(connection: psycopg.Connection) -> None:
    """Views of somebody else on our relations would stay on the old ones, and be dropped with them."""
    rows = connection.execute(
        "select distinct rewriting.ev_class::regclass::text, depended.oid::regclass::text"
        " from pg_depend inner join pg_rewrite as rewriting on pg_depend.objid = rewriting.oid"
        " inner join pg_class as dependent on rewriting.ev_class = dependent.oid"
        " inner join pg_class as depended on pg_depend.refobjid = depended.oid"
        " where pg_depend.classid = 'pg_rewrite'::regclass and pg_depend.refclassid = 'pg_class'::regclass"
        " and depended.relnamespace = any(%(ours)s::regnamespace[])"
        " and not dependent.relnamespace = any(%(ours)s::regnamespace[])",
        {"ours": list(SCHEMAS)},
    ).fetchall()
    if rows:
        raise RefreshFailed(
            "views outside Spindle depend on its relations: " + ", ".join(f"{view} on {of}" for view, of in rows),
            "make them in api_views/ or drop them; a rebuild replaces what they stand on",
        )


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
