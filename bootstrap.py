"""Spindle's command line: sets up, refreshes, serves and checks. `python bootstrap.py --help` lists the commands.

Exit codes: 0 done and fresh, 1 refresh failed, 2 bad settings or usage, 3 cannot connect, 4 data stale,
5 a service is down, 6 another refresh is running, 7 this computer lacks something (a tool, a port, disk space),
8 some machines failed and the others are fresh.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import Annotated, Optional

import psycopg
import typer
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

from spindle import backfill as backfilling
from spindle import database, demo, pages, services, status, transform
from spindle import doctor as doctors
from spindle import forget as forgetting
from spindle import rebuild as rebuilding
from spindle import refresh as refreshing
from spindle.errors import ServiceDown, SettingsError, SpindleError
from spindle.plant import PlantPlan
from spindle.runs import only_one
from spindle.secrets import with_known_secrets, with_secrets
from spindle.settings import PLANT_FILE, Settings, load_settings
from spindle.tokens import make_token

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

DAY = ["%Y-%m-%d"]
CHECKED = "  the API serves what the database has"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Machines = Annotated[str, typer.Option("--machine", help="Names with commas; all machines when empty.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Print dbt's own log while it runs.")]


@app.command()
def init() -> None:
    """Make schemas, roles, grants and sources in the results database. Safe to repeat; run it after editing .env."""
    settings = with_secrets(load_settings())
    with _step("set up the results database"):
        _start_database(settings)
        database.set_up(settings, settings.authenticator_password)
    out.print(f"sources: {', '.join(settings.machines)}")


@app.command(name="demo")
def make_demo(
    days: Annotated[int, typer.Option(help="Days of history up to --until.")] = PlantPlan.days,
    rows_per_day: Annotated[int, typer.Option(help="Log rows a machine and day, at least.")] = PlantPlan.rows_per_day,
    machines: Annotated[str, typer.Option(help="How many machines of the seed, or their names with commas.")] = "2",
    seed: Annotated[int, typer.Option(help="The same seed makes the same rows.")] = PlantPlan.seed,
    until: Annotated[
        Optional[datetime], typer.Option(help="Last log time, UTC. Default: now, and a later demo goes on from there.")  # noqa: UP045
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Make the demo plant on the embedded server, refresh, serve, and print the URLs."""
    settings = with_secrets(load_settings())
    if not settings.demo_plant:
        raise SettingsError("a production database is set, so there is no demo plant", "remove DB_* from .env for it")
    chosen = demo.choose_machines(settings, machines)
    plan = PlantPlan(days=days, rows_per_day=rows_per_day, seed=seed, until=demo.in_utc(until))
    with _step("start the embedded PostgreSQL"):
        _start_database(settings)
    with _bar("make the demo plant", "rows") as advance:
        plant = demo.make_demo_plant(settings, plan, chosen, advance)
    if rows := sum(plant.rows.values()):
        out.print(f"  {rows:,} log rows added in {plant.seconds:.1f} s ({rows / plant.seconds:,.0f} rows/s)")
    settings = with_secrets(load_settings())  # the plant's machines are known now
    with _step("set up the results database"):
        database.set_up(settings, settings.authenticator_password)
    first = not database.has_api_views(settings)
    if not first:
        _serve(settings)
    _refresh(settings, verbose, serve_next=first)
    if first:
        _serve(settings)
        refreshing.check_served(settings)
        out.print(CHECKED)
    _print_urls(settings)


@app.command()
def refresh(
    yes: Annotated[bool, typer.Option("--yes", help="Delete results of log rows that are gone.")] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Compute the days since the last refresh and check what the API serves. For cron: the exit code tells all."""
    settings = _ready()
    report = _refresh(settings, verbose, quiet=as_json, accept_loss=yes)
    if services.gateway_port(settings) is not None:
        pages.publish_descriptions(settings)
    if as_json:
        document = {
            "run_id": report.run_id,
            "cuts": {machine: cut.isoformat() for machine, cut in report.cuts.items()},
            "records": report.records,
            "absent_signals": report.absent,
            "failed_machines": {machine: error.what for machine, error in report.failed.items()},
            "unchecked": report.unchecked or None,
        }
        print(json.dumps(document, indent=2))
    report.raise_failed()
    if stale := status.stale_machines(settings, report.cuts):
        raise status.stale_error(settings, stale)


@app.command()
def backfill(
    first: Annotated[Optional[datetime], typer.Option("--from", formats=DAY, help="First local day.")] = None,  # noqa: UP045
    last: Annotated[Optional[datetime], typer.Option("--to", formats=DAY, help="Last local day.")] = None,  # noqa: UP045
    machine: Machines = "",
    step_days: Annotated[int, typer.Option(min=1, help="Days computed at once: fewer need less memory.")] = 31,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin again where the same backfill was stopped.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Compute any range of days again, by default all; stopped, the same command goes on where it was."""
    settings = _ready()
    request = backfilling.make_request(settings, first and first.date(), last and last.date(), _names(machine))
    with _bar(f"backfill {request}", "days") as advance:
        skipped = backfilling.backfill(
            settings,
            request,
            step_days=step_days,
            restart=restart,
            verbose=verbose,
            progress=lambda begin, end, done, total: advance(f"{begin} to {end}", done, total),
        )
    if skipped:
        out.print(f"  the first {skipped} days were done before it was stopped; --restart does them again")


@app.command()
def rebuild(
    machine: Machines = "",
    yes: Annotated[bool, typer.Option("--yes", help="Swap also if results shrink.")] = False,
    verbose: Verbose = False,
) -> None:
    """Compute everything again beside the live tables, test it, swap. Also deploys changed models and views."""
    settings = _ready()
    with _bar("rebuild", "nodes") as advance:
        unchecked = rebuilding.rebuild(settings, _names(machine), accept_loss=yes, verbose=verbose, progress=advance)
    out.print(f"  {unchecked}" if unchecked else CHECKED)
    if services.gateway_port(settings) is not None:
        _publish_pages(settings)


@app.command()
def forget(
    machine: Annotated[str, typer.Argument(help="A machine that seeds or settings no longer have.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove all results of a machine that is gone. Nothing else ever does."""
    settings = _ready()
    if not yes:
        typer.confirm(f"Remove all results of {machine}?", abort=True)
    rows = forgetting.forget(settings, machine)
    out.print(f"[green]✓[/] removed {rows:,} results of {machine}")


@app.command()
def runs(
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 10, as_json: Json = False
) -> None:
    """The record of refreshes, backfills and rebuilds, failed ones too."""
    settings = load_settings()
    found = status.read_runs(settings, limit)
    if as_json:
        print(json.dumps(found, default=str, indent=2))
        return
    table = Table("run", "kind", "began (UTC)", "seconds", "outcome", "rows written", "days or error")
    for run in found:
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


@app.command(name="status")
def show_status(as_json: Json = False) -> None:
    """Services, machines, freshness and the last refresh. The exit code is that of the most urgent problem."""
    found = status.read_status(load_settings())
    if as_json:
        print(found.as_json())
    else:
        _print_status(found)
    raise typer.Exit(found.exit_code)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Connect to all databases, say what is wrong there and what to do. Changes nothing; warnings alone end with 0."""
    settings = with_known_secrets(load_settings())
    with nullcontext(None) if as_json else _bar("look at the databases", "databases") as advance:
        found = doctors.examine(settings, advance)
    if as_json:
        print(found.as_json())
    else:
        _print_examination(found)
    raise typer.Exit(found.exit_code)


@app.command()
def serve() -> None:
    """Start what is not running: the embedded database, PostgREST, the gateway. Returns when it answers."""
    settings = with_secrets(load_settings())
    _start_database(settings)
    if not database.has_api_views(settings):
        raise ServiceDown("there is nothing to serve yet", "run `make demo`, or `make refresh` on your own data")
    if not database.is_set_up(settings):  # by an older version, which had no cache
        database.set_up(settings, settings.authenticator_password)
    database.ensure_login(settings)
    _serve(settings)
    _print_urls(settings)


@app.command()
def token(days: Annotated[int, typer.Option(min=1, max=3650, help="How long it is valid.")] = 30) -> None:
    """Print a token that reads the API, where API_JWT_SECRET is set."""
    print(make_token(load_settings().access, timedelta(days=days)))


@app.command()
def stop() -> None:
    """Stop all services of this checkout. Nothing is left running."""
    settings = load_settings()
    with _step("stop the services"):
        services.stop(settings)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def dbt(context: typer.Context) -> None:
    """Any dbt command with the settings of .env loaded: `bootstrap.py dbt build -s sensor_stats+`."""
    settings = with_secrets(load_settings())
    if not context.args or "--help" in context.args:
        raise typer.Exit(transform.run_any(settings, context.args))
    settings = _ready()
    with database.results(settings) as connection, _lock(connection, context.args):
        code = transform.run_any(settings, context.args)
    raise typer.Exit(code)


@app.command()
def info(as_json: Json = False) -> None:
    """Where everything is: URL of the gateway, connection strings (without passwords), logs."""
    settings = load_settings()
    production = settings.production
    if settings.demo_plant:
        production = demo.plant_databases(settings, list(settings.machines))
    found: dict[str, str | dict[str, str]] = {
        "gateway": settings.gateway_url,
        "results": settings.results.public(),
        "machines": {machine: source.public() for machine, source in production.items()},
        "default_machine": settings.default_machine,
        "logs": str(settings.logs),
        "state": str(settings.state_dir),
    }
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table(show_header=False, box=None)
    for name, value in found.items():
        for key, text in value.items() if isinstance(value, dict) else [("", value)]:
            table.add_row(f"{name} {key}".strip(), text)
    out.print(table)


def _lock(connection: psycopg.Connection, arguments: list[str]) -> AbstractContextManager[None]:
    """A dbt command that writes is one run among the others."""
    return only_one(connection) if {"run", "build", "seed", "retry"} & set(arguments) else nullcontext()


def _names(machines: str) -> list[str]:
    return [name.strip() for name in machines.split(",") if name.strip()]


def _ready() -> Settings:
    """The settings, with the database running and set up, for the machines that they name."""
    settings = with_secrets(load_settings())
    if settings.demo_plant and not (settings.state_dir / PLANT_FILE).exists():
        raise SettingsError(
            "no production database is set and there is no demo plant", "run `make demo`, or set DB_* in .env"
        )
    _start_database(settings)
    if database.needs_set_up(settings):
        database.set_up(settings, settings.authenticator_password)
    return settings


def _start_database(settings: Settings) -> None:
    if settings.embedded_results:
        services.start_database(settings)
        database.ensure_results_database(settings)


def _refresh(
    settings: Settings, verbose: bool, *, quiet: bool = False, serve_next: bool = False, accept_loss: bool = False
) -> refreshing.RefreshReport:
    """`quiet` prints nothing; `serve_next`: the gateway is started next, and the caller checks it then."""
    if verbose or quiet:
        return refreshing.refresh(settings, verbose=verbose, accept_loss=accept_loss)
    with _bar("refresh", "models") as advance:
        report = refreshing.refresh(settings, progress=advance, accept_loss=accept_loss)
    for machine, cut in sorted(report.cuts.items()):
        rows = sum(report.records.get(machine, {}).values())
        out.print(f"  {machine}: {rows:,} results, data until {cut:%Y-%m-%d %H:%M:%S} UTC")
    for failure in report.failed.values():
        err.print(f"[red]failed:[/] {escape(failure.what)}")
    for machine, variable in report.absent:
        err.print(f"[yellow]warning:[/] {machine} has no variable {variable}; see seeds/signal_config.csv")
    if not serve_next:
        out.print(f"  {report.unchecked}" if report.unchecked else CHECKED)
    return report


def _serve(settings: Settings) -> None:
    with _step("start PostgREST and the gateway"):
        services.start_gateway(settings, settings.authenticator_password)
    for open_door in settings.access.open_doors:
        err.print(f"[yellow]warning:[/] {open_door}")
    _publish_pages(settings)


def _publish_pages(settings: Settings) -> None:
    """Bring /docs and /lineage up to date."""
    pages.publish_descriptions(settings)
    if not pages.publish_lineage(settings):
        err.print(f"[yellow]warning:[/] dbt could not write the page /lineage; its log is {settings.logs / 'dbt.log'}")


def _print_urls(settings: Settings) -> None:
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


def _print_status(found: status.Status) -> None:
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


def _print_examination(found: doctors.Examination) -> None:
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


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Say what is going on while it goes on, and that it is done."""
    with err.status(what) if err.is_terminal else nullcontext():
        yield
    out.print(f"[green]✓[/] {what}")


@contextmanager
def _bar(what: str, unit: str) -> Iterator[Callable[[str, int, int], None]]:
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
    out.print(f"[green]✓[/] {what}")


def main() -> None:
    """Run a command; an error that a user can act on ends with its exit code, without a traceback."""
    try:
        app()
    except SpindleError as error:
        err.print(f"[red]error:[/] {escape(error.what)}")
        if error.advice:
            err.print(f"  {error.advice}", markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)


if __name__ == "__main__":
    main()
