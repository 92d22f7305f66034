"""What runs, what the results hold and how fresh they are: for people, cron and scripts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from spindle import database, services
from spindle.errors import DataStale, MachinesFailed, RefreshFailed, ServiceDown, SpindleError
from spindle.runs import is_running
from spindle.settings import PLANT_FILE, Settings
from spindle.supervisor import ServiceState


@dataclass(frozen=True)
class MachineStatus:
    """Days are the machine's local ones, `data_until` is its cut, `hours_old` the time since then.

    `problem` is what the last run found wrong with it, `problem_since` when the first run did, `failed` whether it has
    no newer results for that. A machine without results has no days and no cut.
    """

    machine: str
    label: str
    first_day: str | None = None
    last_day: str | None = None
    data_until: str | None = None
    hours_old: float | None = None
    stale: bool = False
    failed: bool = False
    problem: str | None = None
    problem_since: str | None = None


@dataclass
class Status:
    """`problems` are errors as they would be raised, the most urgent first; none means all is well."""

    services: list[ServiceState]
    machines: list[MachineStatus] = field(default_factory=list)
    last_run: dict[str, Any] | None = None
    problems: list[SpindleError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return self.problems[0].exit_code if self.problems else 0

    def as_json(self) -> str:
        return json.dumps(
            {
                "ok": not self.problems,
                "exit_code": self.exit_code,
                "problems": [str(problem) for problem in self.problems],
                "services": [asdict(service) for service in self.services],
                "machines": [asdict(machine) for machine in self.machines],
                "last_run": self.last_run,
            },
            default=str,
            indent=2,
        )


# What is known of the machines that have results or a source: summary, and the problem that the last run found, with
# the begin of the first of the runs in a row that found one.
MACHINES = """
with machine_runs as (
    select
        cuts.machine,
        cuts.outcome,
        cuts.problem,
        runs.started_at,
        row_number() over (partition by cuts.machine order by cuts.run_id desc) as runs_ago,
        max(cuts.run_id) filter (where cuts.problem is null) over (partition by cuts.machine) as last_good_id,
        cuts.run_id
    from agg.refresh_cuts as cuts
    inner join agg.refresh_runs as runs on cuts.run_id = runs.run_id
),
find_problems as (
    select
        machine,
        bool_or(outcome = 'failed' and problem is not null) filter (where runs_ago = 1) as has_failed,
        max(problem) filter (where runs_ago = 1) as problem,
        min(started_at) filter (where run_id > coalesce(last_good_id, 0)) as problem_since
    from machine_runs
    group by machine
)
select
    coalesce(summary.machine, problems.machine),
    coalesce(summary.label, problems.machine),
    summary.first_day::text,
    summary.last_day::text,
    summary.data_until,
    coalesce(problems.has_failed and problems.machine = any(%(machines)s), false),
    case when problems.machine = any(%(machines)s) then problems.problem else 'has no source any more' end,
    problems.problem_since
from agg.machine_summary as summary
full join find_problems as problems on summary.machine = problems.machine
where summary.machine is not null or problems.machine = any(%(machines)s)
order by 1
"""


def read_status(settings: Settings) -> Status:
    """Look at everything; nothing is changed and nothing raised, problems are listed."""
    status = Status(services.service_states(settings))
    for service in status.services:
        if not service.alive:
            status.problems.append(ServiceDown(f"{service.name} is {service.state}", "`make serve` starts it"))
    if any(service.name == "postgres" and not service.alive for service in status.services):
        return status
    try:
        with database.results(settings) as connection:
            if connection.execute("select to_regclass('agg.machine_summary')").fetchone() == (None,):
                status.problems.append(RefreshFailed("there are no results yet", "run `make demo` or `make refresh`"))
                return status
            _read_last_run(connection, status)
            _read_machines(connection, settings, status)
    except SpindleError as error:
        status.problems.insert(0, error)
    return status


def read_runs(settings: Settings, limit: int) -> list[dict[str, Any]]:
    """The newest runs, newest first; `seconds` is None while one is running."""
    windows = ("machine", "from_day", "to_day", "cut_ms", "outcome", "problem", "extract_seconds", "rows_extracted")
    names = ("run_id", "kind", "request", "started_at", "seconds", "outcome", "error", "models")
    with database.results(settings) as connection:
        rows = connection.execute(
            "select run_id, kind, request, started_at, round(extract(epoch from finished_at - started_at), 1)::float,"
            " outcome, error, models from agg.refresh_runs order by run_id desc limit %s",
            (limit,),
        ).fetchall()
        cuts = connection.execute(
            f"select run_id, {', '.join(windows)} from agg.refresh_cuts where run_id = any(%s) order by machine",
            ([row[0] for row in rows],),
        ).fetchall()
        running = is_running(connection)
    runs = [dict(zip(names, row, strict=True)) for row in rows]
    for run in runs:
        if run["outcome"] == "running" and not running:
            run |= {"outcome": "failed", "error": "ended without a word: killed, or the connection was lost"}
        run["windows"] = [dict(zip(windows, cut[1:], strict=True)) for cut in cuts if cut[0] == run["run_id"]]
    return runs


def stale_machines(settings: Settings, cuts: dict[str, datetime]) -> list[str]:
    """Machines whose newest log row is older than STALE_AFTER_HOURS."""
    limit = _now(settings) - timedelta(hours=settings.stale_after_hours)
    return sorted(machine for machine, cut in cuts.items() if cut < limit)


def stale_error(settings: Settings, machines: list[str]) -> DataStale:
    return DataStale(
        f"no log row for more than {settings.stale_after_hours:g} hours: {', '.join(machines)}",
        "is the machine off, or its logger? STALE_AFTER_HOURS in .env sets the limit",
    )


def _read_last_run(connection: Any, status: Status) -> None:
    row = connection.execute(
        "select run_id, kind, started_at, finished_at, outcome, error"
        " from agg.refresh_runs order by run_id desc limit 1"
    ).fetchone()
    if row is None:
        return
    status.last_run = dict(zip(("run_id", "kind", "started_at", "finished_at", "outcome", "error"), row, strict=True))
    if row[4] == "failed":
        status.problems.append(RefreshFailed(f"the last {row[1]} failed: {row[5]}", f"run `make {row[1]}` again"))


def _read_machines(connection: Any, settings: Settings, status: Status) -> None:
    rows = connection.execute(MACHINES, {"machines": list(settings.machines)}).fetchall()
    stale = stale_machines(settings, {row[0]: row[4] for row in rows if row[4]})
    for machine, label, first_day, last_day, data_until, failed, problem, since in rows:
        hours_old = round((_now(settings) - data_until).total_seconds() / 3600, 1) if data_until else None
        status.machines.append(
            MachineStatus(
                machine,
                label,
                first_day,
                last_day,
                data_until and data_until.isoformat(),
                hours_old,
                machine in stale,
                failed,
                problem,
                since and since.isoformat(timespec="seconds"),
            )
        )
    failures = [machine for machine in status.machines if machine.failed]
    if failures:
        found = "; ".join(f"{machine.problem} (since {machine.problem_since})" for machine in failures)
        status.problems.append(
            MachinesFailed(
                f"{len(failures)} of {len(status.machines)} machines failed: {found}",
                "the next refresh after it is mended catches up by itself; `bootstrap.py doctor` says more",
            )
        )
    if stale:
        status.problems.append(stale_error(settings, stale))


def _now(settings: Settings) -> datetime:
    """The present, or the end of a demo plant that was made to end in the past: it is judged as of then."""
    if settings.demo_plant:
        try:
            until = json.loads((settings.state_dir / PLANT_FILE).read_text(encoding="utf-8"))["until"]
        except FileNotFoundError:
            until = None
        if until:
            return datetime.fromisoformat(until)
    return datetime.now(timezone.utc)
