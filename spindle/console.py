"""What commands print: steps, progress bars, tables, warnings and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from spindle.doctor import Examination
from spindle.errors import SpindleError
from spindle.refresh import RefreshReport
from spindle.settings import Settings
from spindle.status import Status

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A line about what was done."""
    out.print(f"  {text}", markup=False)


def done(what: str) -> None:
    """A line about what is finished."""
    out.print(f"[green]✓[/] {what}")


def warn(text: str) -> None:
    err.print(f"[yellow]warning:[/] {escape(text)}")


def print_error(error: SpindleError) -> None:
    err.print(f"[red]error:[/] {escape(error.what)}")
    if error.advice:
        err.print(f"  {error.advice}", markup=False)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is going on while it goes on, and that it is done."""
    with err.status(what) if err.is_terminal else nullcontext():
        yield
    done(what)


@contextmanager
def bar(what: str, unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar: call with what is being worked on, how much is done, how much there is. One line per name."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        tasks: dict[str, object] = {}

        def advance(name: str, done: int, total: int) -> None:
            key = name if unit == "rows" else ""
            if key not in tasks:
                tasks[key] = progress.add_task("", total=total)
            progress.update(tasks[key], description=f"{what}: {name}", completed=done, total=total)  # type: ignore[arg-type]

        yield advance
    done(what)


def print_urls(settings: Settings) -> None:
    url = settings.gateway_url
    for label, path in (
        ("page", "/"),
        ("API", "/api/v1/"),
        ("an answer", "/api/v1/machine_util?order=dt.desc&limit=7"),
        ("data status", "/api/v1/data_status"),
        ("try it out", "/docs"),
        ("lineage", "/lineage"),
        ("health", "/health/ready"),
    ):
        out.print(f"  {label:<12}{url}{path}")


def print_refresh(report: RefreshReport) -> None:
    """Machines that were computed, that failed, and variables that they lack."""
    for machine, cut in sorted(report.cuts.items()):
        rows = sum(report.records.get(machine, {}).values())
        out.print(f"  {machine}: {rows:,} results, data until {cut:%Y-%m-%d %H:%M:%S} UTC")
    for failure in report.failed.values():
        err.print(f"[red]failed:[/] {escape(failure.what)}")
    for machine, variable in report.absent:
        warn(f"{machine} has no variable {variable}; see seeds/signal_config.csv")


def print_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    table = Table("run", "kind", "began (UTC)", "seconds", "outcome", "rows written", "days or error")
    for run in runs:
        colour = {"succeeded": "green", "failed": "red"}.get(run["outcome"], "yellow")  # yellow: running or partial
        table.add_row(
            str(run["run_id"]),
            run["kind"],
            f"{run['started_at']:%Y-%m-%d %H:%M:%S}",
            "" if run["seconds"] is None else str(run["seconds"]),
            f"[{colour}]{run['outcome']}[/]",
            f"{sum(model['rows'] for model in run['models'].values()):,}",
            escape(run["error"] or (run["request"] or "").rpartition(": ")[2]),
        )
    out.print(table)


def print_places(found: Mapping[str, str | Mapping[str, str]]) -> None:
    table = Table(show_header=False, box=None)
    for name, value in found.items():
        for key, text in value.items() if isinstance(value, Mapping) else [("", value)]:
            table.add_row(f"{name} {key}".strip(), text)
    out.print(table)


def print_status(found: Status) -> None:
    for service in found.services:
        mark = "[green]up[/]" if service.alive else "[red]down[/]"
        out.print(f"{service.name:<12}{mark}  {service.detail}")
    if found.machines:
        table = Table("machine", "first day", "last day", "data until (UTC)", "hours old", "problem")
        for machine in found.machines:
            hours = "" if machine.hours_old is None else str(machine.hours_old)
            problem = escape(f"{machine.problem} (since {machine.problem_since})") if machine.problem else ""
            table.add_row(
                machine.machine,
                machine.first_day,
                machine.last_day,
                (machine.data_until or "")[:19].replace("T", " "),
                f"[red]{hours}[/]" if machine.stale else hours,
                f"[{'red' if machine.failed else 'yellow'}]{problem}[/]" if problem else "",
            )
        out.print(table)
    if run := found.last_run:
        out.print(f"last refresh: {run['outcome']}, {run['finished_at'] or run['started_at']:%Y-%m-%d %H:%M:%S} UTC")
    for error in found.problems:
        err.print(f"[red]problem:[/] {escape(str(error))}")


def print_examination(found: Examination) -> None:
    machines = Table("machine", "server", "ms", "rows", "size", "newest row (UTC)", "backfill")
    for machine in found.machines:
        machines.add_row(
            machine.machine,
            f"{machine.version}{', TLS' * bool(machine.tls)}" if machine.version else "[red]no answer[/]",
            "" if machine.round_trip_ms is None else f"{machine.round_trip_ms:g}",
            "" if machine.rows is None else f"{machine.rows:,}",
            "" if machine.bytes is None else decimal(machine.bytes),
            str(machine.newest or "")[:16],
            "" if machine.backfill_seconds is None else _about(machine.backfill_seconds),
        )
    out.print(machines)
    results = f"PostgreSQL {found.results.version or '[red]no answer[/]'}" if found.results.made else "not made yet"
    out.print(f"results: {results}, {found.results.address}")
    colours = {"error": "red", "warning": "yellow", "note": "blue"}
    for finding in found.findings:
        colour = colours[finding.severity.value]
        out.print(f"[{colour}]{finding.severity.value}[/] {finding.where}: {escape(finding.what)}")
        if finding.advice:
            out.print(f"  {finding.advice}", markup=False)
    if not found.findings:
        out.print("[green]nothing to say[/]")


def _about(seconds: float) -> str:
    return str(timedelta(seconds=max(1, round(seconds))))
