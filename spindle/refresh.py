"""Runs of the models: under a lock, recorded from their start, checked at their end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg

from spindle import database, transform, verify
from spindle.database import NEXT, OLD
from spindle.errors import CannotConnect, RefreshBusy, RefreshFailed, SpindleError
from spindle.settings import Settings, read_time_zones

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
    settings: Settings,
    *,
    accept_loss: bool = False,
    verbose: bool = False,
    progress: transform.Progress | None = None,
) -> RefreshReport:
    """Compute the days since the last refresh, up to a new cut.

    Raises SettingsError and RefreshBusy before the run begins; CannotConnect or RefreshFailed after, and the run's
    record then has the outcome `failed` and the error. A log that ends before the last cut is a failure unless
    `accept_loss`: results after its end would be deleted.
    """
    verify.check_port(settings)
    with database.results(settings) as connection, only_one(connection):
        with recorded(settings, connection, "refresh") as run:
            before = verify.count_records(connection) if _has_results(connection) else {}
            _reach_sources(connection)
            refuse_new_time_zones(settings, connection)
            refuse_shortened_logs(connection, accept_loss=accept_loss)
            run.models = transform.run_models(settings, verbose=verbose, progress=progress)
            run.succeed()
            if not accept_loss:
                verify.check_results(connection, before)
            unchecked = verify.check_api(settings, connection)
        cuts = verify.read_cuts(connection)
        return RefreshReport(run.run_id, cuts, verify.count_records(connection), _absent_signals(connection), unchecked)


def check_served(settings: Settings) -> str:
    """Compare the API with the results of the last refresh. Raises RefreshFailed; returns why nothing was checked."""
    with database.results(settings) as connection:
        return verify.check_api(settings, connection)


@contextmanager
def only_one(connection: psycopg.Connection) -> Iterator[None]:
    """One run at a time; the lock is the connection's, so it dies with its owner."""
    taken = connection.execute("select pg_try_advisory_lock(hashtext(%s))", (LOCK,)).fetchone()
    if not (taken and taken[0]):
        raise RefreshBusy(
            "another refresh, backfill or rebuild is running", "wait for its end; `bootstrap.py runs` shows it"
        )
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # a lost connection has lost the lock too
            connection.execute("select pg_advisory_unlock(hashtext(%s))", (LOCK,))


class Run:
    """A row of agg.refresh_runs. `models` is filled in by who runs them."""

    def __init__(self, connection: psycopg.Connection, kind: str, request: str | None) -> None:
        self.connection = connection
        self.models: Mapping[str, transform.ModelRun] = {}
        row = connection.execute(
            "insert into agg.refresh_runs (kind, request) values (%s, %s) returning run_id", (kind, request)
        ).fetchone()
        assert row is not None
        self.run_id = int(row[0])

    def succeed(self) -> None:
        """Record the windows and cuts, and tell PostgREST."""
        models = json.dumps({name: asdict(model) for name, model in self.models.items()})
        with self.connection.transaction():
            self.connection.execute(
                "insert into agg.refresh_cuts (run_id, machine, from_day, to_day, end_ms, oldest_ms, cut_ms)"
                " select %s, machine, from_day, to_day, end_ms, oldest_ms, cut_ms from staging.refresh_window",
                (self.run_id,),
            )
            self.connection.execute(
                "update agg.refresh_runs set outcome = 'succeeded', finished_at = clock_timestamp(), models = %s"
                " where run_id = %s",
                (models, self.run_id),
            )
            self.connection.execute("notify pgrst, 'reload schema'")

    def fail(self, settings: Settings, error: BaseException) -> None:
        """By a connection of its own: the run's may be what broke."""
        text = error.what if isinstance(error, SpindleError) else f"{type(error).__name__}: {error}"
        try:
            with database.results(settings) as connection:
                connection.execute(
                    "update agg.refresh_runs set outcome = 'failed', finished_at = clock_timestamp(), error = %s"
                    " where run_id = %s",
                    (text[:4000], self.run_id),
                )
        except CannotConnect:
            pass  # the next run marks it; the error that led here is what the user must see


@contextmanager
def recorded(
    settings: Settings, connection: psycopg.Connection, kind: str, request: str | None = None
) -> Iterator[Run]:
    """A run with its record: whatever ends it, the record says so. The lock must be held.

    First it clears away what a killed run left. Raises CannotConnect when a connection is lost in the middle.
    """
    database.drop_schemas(connection, NEXT, OLD)
    connection.execute(
        "update agg.refresh_runs set outcome = 'failed', finished_at = clock_timestamp(),"
        " error = 'ended without a word: killed, or the connection was lost' where outcome = 'running'"
    )
    run = Run(connection, kind, request)
    try:
        yield run
    except psycopg.OperationalError as error:
        run.fail(settings, error)
        raise CannotConnect(
            f"a connection was lost in the middle: {str(error).strip()}",
            "each result is as the last run that computed it left it; run it again",
        ) from error
    except BaseException as error:
        run.fail(settings, error)
        raise


def _has_results(connection: psycopg.Connection) -> bool:
    row = connection.execute("select to_regclass('agg.machine_summary') is not null").fetchone()
    return bool(row and row[0])


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


def refuse_new_time_zones(settings: Settings, connection: psycopg.Connection) -> None:
    """Days of two time zones must not be mixed in one machine's results."""
    if not _has_results(connection):
        return
    wanted = read_time_zones(settings.root)
    for machine, time_zone in connection.execute("select machine, time_zone from agg.machine_summary order by machine"):
        if wanted.get(machine, time_zone) != time_zone:
            raise RefreshFailed(
                f"the time zone of {machine} changed from {time_zone} to {wanted[machine]}: its days are others now",
                "`make rebuild` computes them again; or change seeds/machine_config.csv back",
            )


def refuse_shortened_logs(connection: psycopg.Connection, *, accept_loss: bool) -> None:
    """A log that ends before the last cut was emptied, or an old dump was loaded: keep the results until told.

    An empty log has no window for a refresh to replace, so there only a rebuild removes the results.
    """
    if not _has_results(connection):
        return
    rows = connection.execute(
        "select machine, (extract(epoch from data_until) * 1000)::bigint as cut_ms, newest_ms"
        " from agg.machine_summary inner join raw.sources using (machine)"
        " left join lateral raw.log_bounds(machine) as log_bounds on true"
        " where newest_ms is null or newest_ms < (extract(epoch from data_until) * 1000)::bigint order by machine"
    ).fetchall()
    for machine, cut_ms, newest_ms in rows:
        if newest_ms is None:
            raise RefreshFailed(
                f"the log of {machine} is empty, but results go up to {_moment(cut_ms)}: rows were lost there",
                "load them again; or, to delete the results: `make rebuild ARGS=--yes`",
            )
        if not accept_loss:
            raise RefreshFailed(
                f"the log of {machine} ends at {_moment(newest_ms)}, but results go up to {_moment(cut_ms)}:"
                " rows were lost there",
                "load them again; or, to delete the results after its end: `make refresh ARGS=--yes`",
            )


def _moment(milliseconds: int) -> str:
    moment: Any = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=milliseconds)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _absent_signals(connection: psycopg.Connection) -> list[tuple[str, str]]:
    rows = connection.execute(
        "select machine, variable from staging.signal_config inner join staging.refresh_window using (machine)"
        " except select machine, variable from staging.stg_signals order by machine, variable"
    ).fetchall()
    return [(machine, variable) for machine, variable in rows]
