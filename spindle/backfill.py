"""A backfill: any range of days computed again, in steps that bound memory and can be stopped and resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import psycopg

from spindle import database, transform, verify
from spindle.errors import RefreshFailed, SettingsError
from spindle.refresh import only_one, recorded, refuse_new_time_zones, refuse_shortened_logs
from spindle.settings import Settings

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
    with database.results(settings) as connection:
        # days of results whose log rows are gone are among them, so that they can be taken away
        results = " union all select machine, first_day, last_day from agg.machine_summary"
        row = connection.execute(
            "select min(first_day), max(last_day) from ("
            "select machine, (timestamptz 'epoch' + oldest_ms * interval '1 ms')::date - 1 as first_day,"
            " (timestamptz 'epoch' + newest_ms * interval '1 ms')::date + 1 as last_day"
            " from raw.sources cross join lateral raw.log_bounds(machine)"
            + (results if database.has_results(settings) else "")
            + ") as days where machine = any(%(chosen)s) or %(chosen)s = '{}'",
            {"chosen": list(machines)},
        ).fetchone()
    if row is None or row[0] is None:
        raise RefreshFailed("the logs have no rows", "is the right database set in DB_*?")
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

    Returns the number of days that were already done. Raises RefreshBusy, or RefreshFailed when a step fails or the
    API then serves something else than the database has.
    """
    verify.check_port(settings)
    total = (request.to_day - request.from_day).days + 1
    with database.results(settings) as connection, only_one(connection):
        refuse_new_time_zones(settings, connection)
        refuse_shortened_logs(connection, accept_loss=False)
        done_until = None if restart else _done_until(connection, request)
        skipped = 0 if done_until is None else (done_until - request.from_day).days + 1
        steps = request.steps(done_until, step_days)
        for first, last in steps:
            if progress:
                progress(first, last, (first - request.from_day).days, total)
            with recorded(settings, connection, "backfill", f"{request}: {first} to {last}") as run:
                run.models = transform.run_models(
                    settings,
                    variables={
                        "from_day": first.isoformat(),
                        "to_day": last.isoformat(),
                        "machines": list(request.machines),
                    },
                    verbose=verbose,
                )
                run.succeed()
        if progress and steps:
            progress(*steps[-1], total, total)
        verify.check_api(settings, connection)
    return skipped


def _done_until(connection: psycopg.Connection, request: Request) -> date | None:
    """Last day of the last step of the same request that succeeded, if the last backfill was it and did not end."""
    row = connection.execute(
        "select split_part(request, ': ', 1), right(request, 10)::date from agg.refresh_runs"
        " where kind = 'backfill' and outcome = 'succeeded' order by run_id desc limit 1"
    ).fetchone()
    if row is None or row[0] != str(request) or row[1] >= request.to_day:
        return None
    done: date = row[1]
    return done
