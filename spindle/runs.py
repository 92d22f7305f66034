"""The record of runs, agg.refresh_runs and agg.refresh_cuts, and the lock that lets one run at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from spindle import cache, database
from spindle.database import NEXT, OLD
from spindle.errors import CannotConnect, MachinesFailed, RefreshBusy, SpindleError
from spindle.extract import Extract
from spindle.settings import Settings
from spindle.transform import ModelRun

LOCK = "spindle refresh"
# Extracted models that say where to look; the others hold rows of the logs.
LOOK_UPS = ("base_signals", "base_log_ids", "refresh_window")


@contextmanager
def only_one(connection: psycopg.Connection) -> Iterator[None]:
    """One run at a time; the lock is the connection's, so it dies with its owner. Raises RefreshBusy."""
    taken = connection.execute("select pg_try_advisory_lock(hashtext(%s))", (LOCK,)).fetchone()
    if not (taken and taken[0]):
        raise RefreshBusy(
            "another refresh, backfill or rebuild is running, or a dbt command that writes",
            "wait for its end; `bootstrap.py runs` shows it",
        )
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # a lost connection has lost the lock too
            connection.execute("select pg_advisory_unlock(hashtext(%s))", (LOCK,))


def is_running(connection: psycopg.Connection) -> bool:
    """Whether somebody holds the lock: a run that is recorded as running and has no owner was killed."""
    row = connection.execute(
        "select exists (select from pg_locks inner join pg_database on pg_locks.database = pg_database.oid"
        " where locktype = 'advisory' and datname = current_database()"
        " and ((classid::bigint << 32) | objid::bigint) = hashtext(%s)::bigint)",
        (LOCK,),
    ).fetchone()
    return bool(row and row[0])


class Run:
    """A row of agg.refresh_runs, and what there is to say of its machines and models so far."""

    def __init__(self, connection: psycopg.Connection, kind: str, request: str | None) -> None:
        self.connection = connection
        self.extracts: list[Extract] = []
        self.models: dict[str, dict[str, float]] = {}
        row = connection.execute(
            "insert into agg.refresh_runs (kind, request) values (%s, %s) returning run_id", (kind, request)
        ).fetchone()
        assert row is not None
        self.run_id = int(row[0])

    @property
    def failed(self) -> dict[str, SpindleError]:
        """The machines that failed, with their errors."""
        return {extract.machine: extract.error for extract in self.extracts if extract.error is not None}

    @property
    def computed(self) -> list[str]:
        """The machines that did not fail."""
        return [extract.machine for extract in self.extracts if extract.error is None]

    def add(self, wave: list[Extract]) -> None:
        """Machines that were extracted, or failed."""
        self.extracts += wave

    def add_models(self, wave: list[Extract], models: Mapping[str, ModelRun]) -> None:
        """Models that were computed of the machines of a wave."""
        for name, model in models.items():
            so_far = self.models.setdefault(name, {"rows_read": 0, "rows": 0, "seconds": 0.0})
            so_far["rows_read"] += sum(
                extract.rows.get(read, 0)
                for extract in wave
                if not extract.error
                for read in model.reads
                if read not in LOOK_UPS
            )
            so_far["rows"] += model.rows
            so_far["seconds"] = round(so_far["seconds"] + model.seconds, 3)

    def refuse(self, errors: Mapping[str, SpindleError]) -> None:
        """Machines that failed after they were computed."""
        for extract in self.extracts:
            extract.error = extract.error or errors.get(extract.machine)

    def raise_failed(self, *, any_failed: bool = False) -> None:
        """Raise what went wrong when all machines failed, or `any_failed` and one did."""
        if self.failed and (any_failed or not self.computed):
            raise failure(self.failed, len(self.extracts))

    def succeed(self) -> None:
        """Record the windows and cuts, and tell PostgREST."""
        with self.connection.transaction():
            self._record_machines(self.connection, ok=True)
            self.connection.execute(
                "update agg.refresh_runs set outcome = %s, finished_at = clock_timestamp(), models = %s, error = %s"
                " where run_id = %s",
                (
                    "partial" if self.failed else "succeeded",
                    json.dumps(self.models),
                    "; ".join(error.what for error in self.failed.values()) or None,
                    self.run_id,
                ),
            )
            self.connection.execute("notify pgrst, 'reload schema'")

    def fail(self, settings: Settings, error: BaseException) -> None:
        """By a connection of its own: the run's may be what broke."""
        text = error.what if isinstance(error, SpindleError) else f"{type(error).__name__}: {error}"
        # the next run marks it when this cannot; the error that led here is what the user must see
        with (
            suppress(SpindleError, psycopg.Error),
            database.results(settings) as connection,
            connection.transaction(),
        ):
            self._record_machines(connection, ok=False)
            connection.execute(
                "update agg.refresh_runs set outcome = 'failed', finished_at = clock_timestamp(), error = %s,"
                " models = %s where run_id = %s",
                (text[:4000], json.dumps(self.models), self.run_id),
            )
        cache.refresh_cache(settings)

    def _record_machines(self, connection: psycopg.Connection, *, ok: bool) -> None:
        """`ok` false: also what was computed does not count, so the next run computes it again."""
        connection.execute("delete from agg.refresh_cuts where run_id = %s", (self.run_id,))
        for extract in self.extracts:
            # of an empty log nothing is computed any more: should its rows come back, all their days are still to do
            window: Mapping[str, Any] = extract.window or {"computed": None if extract.error else "{}"}
            connection.execute(
                "insert into agg.refresh_cuts (run_id, machine, from_day, to_day, end_ms, oldest_ms, cut_ms, computed,"
                " outcome, problem, extract_seconds, rows_extracted)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s::int8multirange, %s, %s, %s, %s)",
                (
                    self.run_id,
                    extract.machine,
                    *(window.get(name) for name in ("from_day", "to_day", "end_ms", "oldest_ms", "cut_ms", "computed")),
                    "succeeded" if ok and extract.error is None else "failed",
                    extract.problem,
                    extract.seconds,
                    json.dumps(extract.rows),
                ),
            )


def failure(failed: Mapping[str, SpindleError], machines: int) -> SpindleError:
    """One error for those of the machines: the only one's own, else of its kind when all failed."""
    errors = list(failed.values())
    if machines == 1:
        return errors[0]
    text = f"{len(failed)} of {machines} machines failed:" + "".join(f"\n  {error.what}" for error in errors)
    advice = "\n  ".join(dict.fromkeys(error.advice for error in errors if error.advice))
    return (type(errors[0]) if len(errors) == machines else MachinesFailed)(text, advice)


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
