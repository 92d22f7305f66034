"""A backfill: any range of days computed again, in steps that bound memory and can be stopped and resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product

import psycopg

from spindle import database, guards, verify
from spindle.compute import compute
from spindle.errors import RefreshFailed, SettingsError, SpindleError
from spindle.extract import Days, explain
from spindle.runs import failure, only_one, recorded
from spindle.settings import Settings
from spindle.transform import Project

# first and last day of the step at hand, days done and days in all
Progress = Callable[[date, date, int, int], None]


@dataclass(frozen=True)
class Request:
    """Local days, both ends included; no machines means all."""

    from_day: date
    to_day: date
    machines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.from_day} to {self.to_day}, {', '.join(self.machines) or 'all machines'}"

    def steps(self, after: date | None, step_days: int) -> list[tuple[date, date]]:
        """The days still to do, those up to `after` being done, as (first, last) of each step."""
        begin = self.from_day if after is None else after + timedelta(days=1)
        found = []
        while begin <= self.to_day:
            end = min(begin + timedelta(days=step_days - 1), self.to_day)
            found.append((begin, end))
            begin = end + timedelta(days=1)
        return found


def make_request(settings: Settings, first: date | None, last: date | None, machines: Sequence[str]) -> Request:
    """What the user asked for; without days, from the first log row to the last. Raises SettingsError."""
    for machine in machines:
        if machine not in settings.machines:
            raise SettingsError(f"MACHINE: {machine} has no source", f"known: {', '.join(settings.machines)}")
    days: list[tuple[date, date]] = []
    unread: list[SpindleError] = []
    with database.results(settings) as connection:
        # days of results whose log rows are gone are among them, so that they can be taken away
        queries = [
            "select (timestamptz 'epoch' + oldest_ms * interval '1 ms')::date - 1,"
            " (timestamptz 'epoch' + newest_ms * interval '1 ms')::date + 1 from raw.log_bounds(%s)"
        ]
        if guards.has_results(connection):
            queries.append("select first_day, last_day from agg.machine_summary where machine = %s")
        for machine, query in product(machines or settings.machines, queries):
            try:
                found = connection.execute(query, (machine,)).fetchall()
            except psycopg.Error as error:  # its part of the backfill fails, and no other's
                unread.append(explain(settings, machine, error))
            else:
                days += [(begin, end) for begin, end in found if begin is not None]
    if not days:
        raise unread[0] if unread else RefreshFailed("the logs have no rows", "is the right database set in DB_*?")
    row = min(begin for begin, _ in days), max(end for _, end in days)
    if first and last and first > last:
        raise SettingsError(f"FROM {first} is after TO {last}", "FROM is the first day, TO the last")
    request = Request(max(first or row[0], row[0]), min(last or row[1], row[1]), tuple(machines))
    if request.from_day > request.to_day:
        raise SettingsError(
            f"FROM {first or row[0]} TO {last or row[1]} has no day of the logs", f"they have {row[0]} to {row[1]}"
        )
    return request


def backfill(
    settings: Settings,
    request: Request,
    *,
    step_days: int = 31,
    restart: bool = False,
    verbose: bool = False,
    progress: Progress | None = None,
) -> int:
    """Compute the days of a request again. Goes on where the same request was stopped, unless `restart`.

    A machine that fails stops no other. Returns the number of days that were already done. Raises RefreshBusy;
    RefreshFailed when a step fails or the API then serves something else than the database has; MachinesFailed at the
    end when some machines failed.
    """
    verify.check_port(settings)
    total = (request.to_day - request.from_day).days + 1
    machines = request.machines or settings.machines
    failed: dict[str, SpindleError] = {}
    with database.results(settings) as connection, only_one(connection):
        done_until = None if restart else _done_until(connection, request)
        skipped = 0 if done_until is None else (done_until - request.from_day).days + 1
        steps = request.steps(done_until, step_days)
        check = guards.make_check(has_results=guards.has_results(connection), accept_loss=False)
        project = Project(settings, connection, verbose=verbose)
        models: list[str] = []
        for first, last in steps:
            if progress:
                progress(first, last, (first - request.from_day).days, total)
            with recorded(settings, connection, "backfill", f"{request}: {first} to {last}") as run:
                models = models or project.prepare()
                days = Days(first, last, next_follow=last < request.to_day)
                compute(settings, run, project, models, machines, days, check=check)
                run.succeed()
            failed |= run.failed
        if progress and steps:
            progress(*steps[-1], total, total)
        computed = [machine for machine in machines if machine not in failed]
        verify.check_api(settings, connection, computed, refreshed=False)
    if failed:
        raise failure(failed, max(len(machines), len(failed) + 1))
    return skipped


def _done_until(connection: psycopg.Connection, request: Request) -> date | None:
    """Last day up to which the newest, unfinished attempt at the same request computed all of its machines."""
    rows = connection.execute(
        "select split_part(range, ' to ', 1)::date, split_part(range, ' to ', 2)::date, outcome"
        " from (select run_id, outcome, split_part(request, ': ', 2) as range from agg.refresh_runs"
        " where kind = 'backfill' and split_part(request, ': ', 1) = %s) as steps order by run_id desc",
        (str(request),),
    ).fetchall()
    if not rows or rows[0][1:] == (request.to_day, "succeeded"):
        return None
    done: set[tuple[date, date]] = set()
    for first, last, outcome in rows:
        if (last, outcome) == (request.to_day, "succeeded"):
            break  # an attempt before, which ended
        if outcome == "succeeded":
            done.add((first, last))
        if first == request.from_day:
            break
    until = None
    for first, last in sorted(done):
        if first != (request.from_day if until is None else until + timedelta(days=1)):
            break
        until = last
    return until
