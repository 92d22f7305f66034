"""Spindle's command line: sets up, refreshes, serves and checks. `python bootstrap.py --help` lists the commands.

Exit codes: 0 done and fresh, 1 refresh failed, 2 bad settings or usage, 3 cannot connect, 4 data stale,
5 a service is down, 6 another refresh is running, 7 this computer lacks something (a tool, a port, disk space),
8 some machines failed and the others are fresh.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Annotated, Optional

import typer

from spindle import backfill as backfilling
from spindle import commands, console, demo, pages, services, status
from spindle import doctor as doctors
from spindle import forget as forgetting
from spindle import rebuild as rebuilding
from spindle.errors import SpindleError
from spindle.plant_plan import PlantPlan
from spindle.secrets import with_known_secrets
from spindle.settings import load_settings
from spindle.tokens import make_token

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None)

DAY = ["%Y-%m-%d"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Machines = Annotated[str, typer.Option("--machine", help="Names with commas; all machines when empty.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Print dbt's own log while it runs.")]


@app.command()
def init() -> None:
    """Make schemas, roles, grants and sources in the results database. Safe to repeat; run it after editing .env."""
    settings = commands.set_up()
    console.out.print(f"sources: {', '.join(settings.machines)}")


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
    plan = PlantPlan(days=days, rows_per_day=rows_per_day, seed=seed, until=demo.in_utc(until))
    commands.make_demo(plan, machines, verbose=verbose)


@app.command()
def refresh(
    yes: Annotated[bool, typer.Option("--yes", help="Delete results of log rows that are gone.")] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Compute the days since the last refresh and check what the API serves. For cron: the exit code tells all."""
    settings = commands.ready()
    report = commands.refresh(settings, verbose=verbose, quiet=as_json, accept_loss=yes)
    if services.gateway_port(settings) is not None:
        pages.publish_descriptions(settings)
    if as_json:
        print(report.as_json())
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
    settings = commands.ready()
    request = backfilling.make_request(settings, first and first.date(), last and last.date(), _names(machine))
    with console.bar(f"backfill {request}", "days") as advance:
        skipped = backfilling.backfill(
            settings,
            request,
            step_days=step_days,
            restart=restart,
            verbose=verbose,
            progress=lambda begin, end, done, total: advance(f"{begin} to {end}", done, total),
        )
    if skipped:
        console.say(f"the first {skipped} days were done before it was stopped; --restart does them again")


@app.command()
def rebuild(
    machine: Machines = "",
    yes: Annotated[bool, typer.Option("--yes", help="Swap also if results shrink.")] = False,
    verbose: Verbose = False,
) -> None:
    """Compute everything again beside the live tables, test it, swap. Also deploys changed models and views."""
    settings = commands.ready()
    with console.bar("rebuild", "nodes") as advance:
        unchecked = rebuilding.rebuild(settings, _names(machine), accept_loss=yes, verbose=verbose, progress=advance)
    console.say(unchecked or commands.CHECKED)
    if services.gateway_port(settings) is not None:
        commands.publish_pages(settings)


@app.command()
def forget(
    machine: Annotated[str, typer.Argument(help="A machine that seeds or settings no longer have.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove all results of a machine that is gone. Nothing else ever does."""
    settings = commands.ready()
    if not yes:
        typer.confirm(f"Remove all results of {machine}?", abort=True)
    rows = forgetting.forget(settings, machine)
    console.done(f"removed {rows:,} results of {machine}")


@app.command()
def runs(
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 10, as_json: Json = False
) -> None:
    """The record of refreshes, backfills and rebuilds, failed ones too."""
    found = status.read_runs(load_settings(), limit)
    if as_json:
        print(json.dumps(found, default=str, indent=2))
    else:
        console.print_runs(found)


@app.command(name="status")
def show_status(as_json: Json = False) -> None:
    """Services, machines, freshness and the last refresh. The exit code is that of the most urgent problem."""
    found = status.read_status(load_settings())
    if as_json:
        print(found.as_json())
    else:
        console.print_status(found)
    raise typer.Exit(found.exit_code)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Connect to all databases, say what is wrong there and what to do. Changes nothing; warnings alone end with 0."""
    settings = with_known_secrets(load_settings())
    with nullcontext(None) if as_json else console.bar("look at the databases", "databases") as advance:
        found = doctors.examine(settings, advance)
    if as_json:
        print(found.as_json())
    else:
        console.print_examination(found)
    raise typer.Exit(found.exit_code)


@app.command()
def serve() -> None:
    """Start what is not running: the embedded database, PostgREST, the gateway. Returns when it answers."""
    commands.serve()


@app.command()
def token(days: Annotated[int, typer.Option(min=1, max=3650, help="How long it is valid.")] = 30) -> None:
    """Print a token that reads the API, where API_JWT_SECRET is set."""
    print(make_token(load_settings().access, timedelta(days=days)))


@app.command()
def stop() -> None:
    """Stop all services of this checkout. Nothing is left running."""
    settings = load_settings()
    with console.step("stop the services"):
        services.stop(settings)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def dbt(context: typer.Context) -> None:
    """Any dbt command with the settings of .env loaded: `bootstrap.py dbt build -s sensor_stats+`."""
    raise typer.Exit(commands.run_dbt(context.args))


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
    else:
        console.print_places(found)


def _names(machines: str) -> list[str]:
    return [name.strip() for name in machines.split(",") if name.strip()]


def main() -> None:
    """Run a command; an error that a user can act on ends with its exit code, without a traceback."""
    try:
        app()
    except SpindleError as error:
        console.print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        console.err.print("stopped")
        sys.exit(130)


if __name__ == "__main__":
    main()
