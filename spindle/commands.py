"""What the commands do, where it is more than one call: steps that several take, and the demo."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import psycopg

from spindle import console, database, pages, services, transform
from spindle import demo as plants
from spindle import refresh as refreshing
from spindle.errors import ServiceDown, SettingsError
from spindle.plant_plan import PlantPlan
from spindle.refresh import RefreshReport
from spindle.runs import only_one
from spindle.secrets import with_secrets
from spindle.settings import PLANT_FILE, Settings, load_settings

CHECKED = "the API serves what the database has"
# dbt's commands that write
WRITING = {"run", "build", "seed", "retry"}


def ready() -> Settings:
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


def set_up() -> Settings:
    """Start the database and set it up, whether it needs it or not."""
    settings = with_secrets(load_settings())
    with console.step("set up the results database"):
        _start_database(settings)
        database.set_up(settings, settings.authenticator_password)
    return settings


def refresh(
    settings: Settings, *, verbose: bool, quiet: bool = False, serve_next: bool = False, accept_loss: bool = False
) -> RefreshReport:
    """`quiet` prints nothing; `serve_next`: the gateway is started next, and the caller checks it then."""
    if verbose or quiet:
        return refreshing.refresh(settings, verbose=verbose, accept_loss=accept_loss)
    with console.bar("refresh", "models") as advance:
        report = refreshing.refresh(settings, progress=advance, accept_loss=accept_loss)
    console.print_refresh(report)
    if not serve_next:
        console.say(report.unchecked or CHECKED)
    return report


def serve() -> None:
    """Start what is not running, if there is something to serve."""
    settings = with_secrets(load_settings())
    _start_database(settings)
    if not database.has_api_views(settings):
        raise ServiceDown("there is nothing to serve yet", "run `make demo`, or `make refresh` on your own data")
    if not database.is_set_up(settings):  # by an older version, which had no cache
        database.set_up(settings, settings.authenticator_password)
    database.ensure_login(settings)
    _start_gateway(settings)
    console.print_urls(settings)


def publish_pages(settings: Settings) -> None:
    """Bring /docs and /lineage up to date."""
    pages.publish_descriptions(settings)
    if not pages.publish_lineage(settings):
        console.warn(f"dbt could not write the page /lineage; its log is {settings.logs / 'dbt.log'}")


def make_demo(plan: PlantPlan, machines: str, *, verbose: bool) -> None:
    """Make or extend the demo plant, refresh, serve."""
    settings = with_secrets(load_settings())
    if not settings.demo_plant:
        raise SettingsError("a production database is set, so there is no demo plant", "remove DB_* from .env for it")
    chosen = plants.choose_machines(settings, machines)
    services.check_ports(settings)  # now, and not after a minute of work
    with console.step("start the embedded PostgreSQL"):
        _start_database(settings)
    with console.bar("make the demo plant", "rows") as advance:
        plant = plants.make_demo_plant(settings, plan, chosen, advance)
    if rows := sum(plant.rows.values()):
        console.say(f"{rows:,} log rows added in {plant.seconds:.1f} s ({rows / plant.seconds:,.0f} rows/s)")
    settings = set_up()  # the plant's machines are known now
    first = not database.has_api_views(settings)
    if not first:
        _start_gateway(settings)
    refresh(settings, verbose=verbose, serve_next=first)
    if first:
        _start_gateway(settings)
        refreshing.check_served(settings)
        console.say(CHECKED)
    console.print_urls(settings)


def run_dbt(arguments: Sequence[str]) -> int:
    """Returns dbt's exit code. A command that writes is one run among the others."""
    if not arguments or "--help" in arguments:
        return transform.run_any(with_secrets(load_settings()), arguments)
    settings = ready()
    with database.results(settings) as connection, _lock(connection, arguments):
        return transform.run_any(settings, arguments)


def _lock(connection: psycopg.Connection, arguments: Sequence[str]) -> AbstractContextManager[None]:
    return only_one(connection) if WRITING & set(arguments) else nullcontext()


def _start_database(settings: Settings) -> None:
    if settings.embedded_results:
        services.start_database(settings)
        database.ensure_results_database(settings)


def _start_gateway(settings: Settings) -> None:
    with console.step("start PostgREST and the gateway"):
        services.start_gateway(settings, settings.authenticator_password)
    for open_door in settings.access.open_doors:
        console.warn(open_door)
    publish_pages(settings)
