"""Reads what a run needs from the machines' production databases: side by side, each machine in one transaction.

What is read stands in models/extract (materialization `extracted`): the source view of each model says what, and the
table of its name takes it. A machine that is down, slow or not as configured fails alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import psycopg
from psycopg import sql

from spindle import database
from spindle.errors import CannotConnect, RefreshFailed, SpindleError
from spindle.settings import Settings

WINDOW = "refresh_window"
# Machines that are ready are computed when no other has become so for this long: the slow ones come in a later wave.
PATIENCE_SECONDS = 15.0

# A machine's name, how many are done, how many there are.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Days:
    """What a run computes: a backfill's local days, both included, else what a refresh finds to do, or everything.

    `next_follow`: the backfill goes on with the day after `last`.
    """

    first: date | None = None
    last: date | None = None
    next_follow: bool = False
    everything: bool = False

    def session_settings(self) -> dict[str, str]:
        """What the source view of refresh_window reads."""
        return {
            "spindle.from_day": "" if self.first is None else self.first.isoformat(),
            "spindle.to_day": "" if self.last is None else self.last.isoformat(),
            "spindle.next_days": "on" if self.next_follow else "",
            "spindle.everything": "on" if self.everything else "",
        }


@dataclass
class Extract:
    """What came from one machine. `window` is its row of refresh_window, None without log rows.

    `error` says why it failed; `absent` are configured variables that its dictionary lacks; rows are by model.
    """

    machine: str
    window: dict[str, Any] | None = None
    rows: dict[str, int] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: SpindleError | None = None

    @property
    def problem(self) -> str | None:
        """What is wrong with the machine, in words."""
        found = [self.error.what] if self.error is not None else []
        if self.absent:
            found.append(f"the dictionary of {self.machine} has no variable {', '.join(self.absent)}")
        return "; ".join(found) or None


# Called in the machine's transaction when its window is known; raises to refuse it.
Check = Callable[[psycopg.Connection, str], None]


def extract(
    settings: Settings,
    machines: Sequence[str],
    models: Sequence[str],
    days: Days,
    schema: str,
    *,
    check: Check | None = None,
    progress: Progress | None = None,
) -> Generator[list[Extract], None, None]:
    """Fill the extracted tables, and yield the machines in waves as they are ready.

    While a wave is at hand, refresh_window has exactly its machines. `models` are in the order of their dependencies.
    """
    clear(settings, schema, models)
    job = _Job(settings, models, days, schema, check)
    pool = ThreadPoolExecutor(settings.machines_at_once, thread_name_prefix="extract")
    try:
        pending: set[Future[Extract]] = {pool.submit(job.extract, machine) for machine in machines}
        wave: list[Extract] = []
        done = 0
        while pending:
            finished, pending = wait(pending, timeout=PATIENCE_SECONDS, return_when=FIRST_COMPLETED)
            for future in finished:
                wave.append(future.result())
                done += 1
                if progress:
                    progress(wave[-1].machine, done, len(machines))
            if not pending or (wave and not finished):
                _open_windows(settings, schema, wave, models)
                yield wave
                wave = []
    finally:  # interrupted, or whoever takes the waves failed: nobody goes on reading for nothing
        job.cancel()
        pool.shutdown(cancel_futures=True)


def clear(settings: Settings, schema: str, models: Sequence[str]) -> None:
    """Empty the extracted tables; a reader of them is waited for only a moment."""
    tables = sql.SQL(", ").join(sql.Identifier(schema, model) for model in models)
    with database.results(settings) as connection:
        try:
            with connection.transaction():
                connection.execute("set local lock_timeout = '200ms'")
                connection.execute(sql.SQL("truncate {}").format(tables))
        except psycopg.errors.LockNotAvailable:
            with connection.transaction():
                for model in models:
                    connection.execute(sql.SQL("delete from {}").format(sql.Identifier(schema, model)))


class _Job:
    """What all machines' threads share."""

    def __init__(self, settings: Settings, models: Sequence[str], days: Days, schema: str, check: Check | None) -> None:
        self.settings, self.models, self.days, self.schema, self.check = settings, models, days, schema, check
        self.connections: dict[str, psycopg.Connection] = {}

    def cancel(self) -> None:
        """Stop what is still being read."""
        for connection in list(self.connections.values()):
            with suppress(psycopg.Error):
                connection.cancel()

    def extract(self, machine: str) -> Extract:
        """One machine, in one transaction; whatever is wrong with it is in the result."""
        result = Extract(machine)
        begin = time.monotonic()
        try:
            with database.results(self.settings) as connection:
                self.connections[machine] = connection
                for name, value in {"search_path": self.schema, **self.days.session_settings()}.items():
                    connection.execute("select set_config(%s, %s, false)", (name, value))
                # the remote transaction is a snapshot too, so all numbers of a run see the same log
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                with connection.transaction():
                    self._fill(connection, result)
        except psycopg.Error as error:
            result.error = explain(self.settings, machine, error)
        except SpindleError as error:
            result.error = error
        finally:
            self.connections.pop(machine, None)
        result.seconds = round(time.monotonic() - begin, 3)
        return result

    def _fill(self, connection: psycopg.Connection, result: Extract) -> None:
        self._limit(connection, weeks=1)
        for model in self.models:
            statement = sql.SQL("insert into {} select * from {} where machine = %s").format(
                sql.Identifier(model), sql.Identifier(f"{model}_source")
            )
            result.rows[model] = connection.execute(statement, (result.machine,)).rowcount
            if model == WINDOW:
                self._limit(connection, weeks=_weeks(connection, result.machine))
                if self.check:
                    self.check(connection, result.machine)
        # Taken back, so that others see it only with its wave.
        cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
        result.window = cursor.execute(
            f"delete from {WINDOW} where machine = %s returning *", (result.machine,)
        ).fetchone()
        _refuse_repeated_names(connection, result.machine)
        result.absent = _absent_variables(connection, result.machine)

    def _limit(self, connection: psycopg.Connection, weeks: int) -> None:
        """A machine whose server does not answer is given up; many days may take longer than one."""
        limit_ms = round(self.settings.source_timeout_seconds * 1000) * weeks
        connection.execute("select set_config('statement_timeout', %s, true)", (str(limit_ms),))


def _weeks(connection: psycopg.Connection, machine: str) -> int:
    row = connection.execute(
        "select (last_ms - greatest(from_ms, oldest_ms)) / (7 * 24 * 3600000.0) from refresh_window where machine = %s",
        (machine,),
    ).fetchone()
    return max(1, math.ceil(row[0])) if row else 1


def _refuse_repeated_names(connection: psycopg.Connection, machine: str) -> None:
    """Of a name whose values hold until the next only one variable can be meant. Raises RefreshFailed."""
    rows = connection.execute(
        "select variable from base_signals where machine = %s and role <> 'temperature'"
        " group by variable having count(*) > 1 order by variable",
        (machine,),
    ).fetchall()
    if rows:
        names = ", ".join(variable for (variable,) in rows)
        raise RefreshFailed(
            f"the dictionary of {machine} (table variable) has more than one variable named {names}",
            "only one can be meant: rename the others there, or take the name out of seeds/signal_config.csv",
        )


def _absent_variables(connection: psycopg.Connection, machine: str) -> list[str]:
    """Configured variables that the machine's dictionary lacks. Raises RefreshFailed when it lacks them all."""
    configured, absent = (
        [variable for (variable,) in connection.execute(query + " order by variable", {"machine": machine})]
        for query in (
            "select variable from signal_config where machine = %(machine)s",
            "select variable from signal_config where machine = %(machine)s"
            " except select variable from base_signals where machine = %(machine)s",
        )
    )
    if configured and configured == absent:
        raise RefreshFailed(
            f"{machine} has none of its variables of seeds/signal_config.csv in its dictionary (table variable)",
            "is it the right database? `bootstrap.py doctor` lists names that are near",
        )
    return absent


def _open_windows(settings: Settings, schema: str, wave: Sequence[Extract], models: Sequence[str]) -> None:
    table = sql.Identifier(schema, WINDOW)
    with database.results(settings) as connection, connection.transaction():
        connection.execute(sql.SQL("delete from {}").format(table))
        for result in wave:
            if result.window is not None and result.error is None:
                statement = sql.SQL("insert into {} ({}) values ({})").format(
                    table,
                    sql.SQL(", ").join(map(sql.Identifier, result.window)),
                    sql.SQL(", ").join(map(sql.Placeholder, result.window)),
                )
                connection.execute(statement, result.window)
        for model in models:
            connection.execute(sql.SQL("analyze {}").format(sql.Identifier(schema, model)))


def explain(settings: Settings, machine: str, error: psycopg.Error) -> SpindleError:
    """The driver's reason in the user's words: the machine's name, and what to do."""
    reason = (error.diag.message_primary or str(error)).strip()
    if error.diag.message_detail:
        reason += f" ({error.diag.message_detail.strip()})"
    if isinstance(error, psycopg.errors.QueryCanceled):
        return RefreshFailed(
            f"{machine} is slow: a statement took more than {settings.source_timeout_seconds:g} s",
            "SOURCE_TIMEOUT_SECONDS in .env sets the limit; `bootstrap.py doctor` measures the link",
        )
    return CannotConnect(
        f"the production database of {machine} cannot be read: {reason}",
        f"check DB_{machine.upper()}_* or DB_* in .env; the login must have a password and its server must ask for it;"
        " `bootstrap.py doctor` says more",
    )
