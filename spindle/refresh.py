"""A refresh: one run of the models under a lock, recorded from its start, checked through the API at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg

from spindle import database, transform, verify
from spindle.errors import CannotConnect, RefreshBusy, SpindleError
from spindle.settings import Settings

LOCK = "spindle refresh"


@dataclass(frozen=True)
class RefreshReport:
    """What a refresh did.

    `cuts` are aware times. `absent` lists signals (machine, variable) that a machine's dictionary lacks, so they have
    no results. `unchecked` says why the API was not checked, if it was not.
    """

    run_id: int
    cuts: dict[str, datetime]
    records: dict[str, dict[str, int]]
    absent: list[tuple[str, str]]
    unchecked: str


def refresh(
    settings: Settings, *, verbose: bool = False, progress: transform.Progress | None = None, kind: str = "refresh"
) -> RefreshReport:
    """Compute the days since the last refresh.

    Raises SettingsError and RefreshBusy before the run begins; CannotConnect or RefreshFailed after, and the run's
    record then has the outcome `failed` and the error.
    """
    verify.check_port(settings)
    with database.results(settings) as connection, _lock(connection):
        before = verify.count_records(connection) if _has_results(connection) else {}
        run_id = _begin(connection, kind)
        try:
            _reach_sources(connection)
            transform.run_models(settings, verbose=verbose, progress=progress)
            _succeed(connection, run_id)
            cuts = _cuts(connection)
            verify.check_results(connection, before)
            unchecked = verify.check_api(settings, connection, cuts)
        except BaseException as error:
            _fail(settings, run_id, error)
            raise
        return RefreshReport(run_id, cuts, verify.count_records(connection), _absent_signals(connection), unchecked)


def check_served(settings: Settings) -> str:
    """Compare the API with the results of the last refresh. Raises RefreshFailed; returns why nothing was checked."""
    with database.results(settings) as connection:
        return verify.check_api(settings, connection, _cuts(connection))


def _cuts(connection: psycopg.Connection) -> dict[str, datetime]:
    return dict(connection.execute("select machine, data_until from agg.machine_summary").fetchall())


def _absent_signals(connection: psycopg.Connection) -> list[tuple[str, str]]:
    rows = connection.execute(
        "select machine, variable from staging.signal_config inner join staging.refresh_window using (machine)"
        " except select machine, variable from staging.stg_signals order by machine, variable"
    ).fetchall()
    return [(machine, variable) for machine, variable in rows]


@contextmanager
def _lock(connection: psycopg.Connection) -> Iterator[None]:
    """One refresh at a time; the lock is the connection's, so it dies with its owner."""
    taken = connection.execute("select pg_try_advisory_lock(hashtext(%s))", (LOCK,)).fetchone()
    if not (taken and taken[0]):
        raise RefreshBusy("another refresh is running", "wait for its end; `bootstrap.py status` shows when it began")
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("select pg_advisory_unlock(hashtext(%s))", (LOCK,))


def _has_results(connection: psycopg.Connection) -> bool:
    row = connection.execute("select to_regclass('agg.machine_summary') is not null").fetchone()
    return bool(row and row[0])


def _begin(connection: psycopg.Connection, kind: str) -> int:
    connection.execute(
        "update agg.refresh_runs set outcome = 'failed', finished_at = clock_timestamp(),"
        " error = 'ended without a word: killed, or the connection was lost' where outcome = 'running'"
    )
    row = connection.execute("insert into agg.refresh_runs (kind) values (%s) returning run_id", (kind,)).fetchone()
    assert row is not None
    return int(row[0])


def _reach_sources(connection: psycopg.Connection) -> None:
    for (machine,) in connection.execute("select machine from raw.sources order by machine").fetchall():
        try:
            connection.execute("select count(*) from raw.read_variables(%s)", (machine,))
        except psycopg.Error as error:
            raise CannotConnect(
                f"the production database of {machine} cannot be read: {str(error).strip()}",
                f"check DB_{machine.upper()}_* or DB_* in .env, then run `bootstrap.py init`; unless AGG_DB_USER is a"
                " superuser, the login must have a password and the server must ask for it",
            ) from error


def _succeed(connection: psycopg.Connection, run_id: int) -> None:
    with connection.transaction():
        connection.execute(
            "insert into agg.refresh_cuts (run_id, machine, cut_ms)"
            " select %s, machine, cut_ms from staging.refresh_window",
            (run_id,),
        )
        connection.execute(
            "update agg.refresh_runs set outcome = 'succeeded', finished_at = clock_timestamp() where run_id = %s",
            (run_id,),
        )
        connection.execute("notify pgrst, 'reload schema'")


def _fail(settings: Settings, run_id: int, error: BaseException) -> None:
    """By a connection of its own: the run's may be what broke."""
    text = error.what if isinstance(error, SpindleError) else f"{type(error).__name__}: {error}"
    try:
        with database.results(settings) as connection:
            connection.execute(
                "update agg.refresh_runs set outcome = 'failed', finished_at = clock_timestamp(), error = %s"
                " where run_id = %s",
                (text[:4000], run_id),
            )
    except CannotConnect:
        pass  # the next run marks it; the error that led here is what the user must see
