"""The demo plant's databases: one a machine on the embedded server, filled with made-up logs, read as in real life."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone

import psycopg
from psycopg import sql

from spindle import database
from spindle.errors import SettingsError
from spindle.plant_plan import PlantPlan, PlantReport
from spindle.settings import PLANT_FILE, PLANT_OWNER, PLANT_READER, Connection, Settings, read_fleet, read_time_zones


def choose_machines(settings: Settings, wanted: str) -> list[str]:
    """`wanted` is a number (that many, in the seed's order) or names with commas. Raises SettingsError."""
    fleet = list(read_fleet(settings.root))
    if wanted.isdecimal():
        if not 1 <= int(wanted) <= len(fleet):
            raise SettingsError(
                f"--machines {wanted}: seeds/machine_config.csv has {len(fleet)} machines",
                "add rows there and in signal_config.csv",
            )
        return fleet[: int(wanted)]
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in fleet:
            raise SettingsError(
                f"--machines: {name} is no machine of seeds/machine_config.csv", f"known: {', '.join(fleet)}"
            )
    if not names:
        raise SettingsError("--machines is empty", f"a number, or names of {', '.join(fleet)}")
    return names


def in_utc(until: datetime | None) -> datetime | None:
    """A time typed without a zone is UTC."""
    return until and until.replace(tzinfo=until.tzinfo or timezone.utc)


def make_demo_plant(
    settings: Settings, plan: PlantPlan, machines: list[str], progress: Callable[[str, int, int], None]
) -> PlantReport:
    """Make or extend the plant's databases. The settings' secrets must be filled in."""
    from spindle.plant import make_plant  # numpy: a fifth of the time in which any other command starts

    databases = plant_databases(settings, machines)
    _make_databases(settings, databases)
    time_zones = read_time_zones(settings.root)
    report = make_plant(databases, plan, {machine: time_zones[machine] for machine in machines}, progress)
    for machine, owned in databases.items():
        with database.connect(owned, f"the demo plant's database of {machine}") as owner:
            owner.execute(
                sql.SQL("grant select on all tables in schema public to {}").format(sql.Identifier(PLANT_READER))
            )
    notes = {"machines": machines, "until": plan.until.isoformat() if plan.until else None}
    (settings.state_dir / PLANT_FILE).write_text(json.dumps(notes), encoding="utf-8")
    return report


def plant_databases(settings: Settings, machines: list[str]) -> dict[str, Connection]:
    """The plant's databases as their owner, who may write to them: for the generator, and for playing with it."""
    fleet = read_fleet(settings.root)
    server = replace(settings.results, user=PLANT_OWNER)
    return {machine: replace(server, dbname=fleet[machine]) for machine in machines}


def _make_databases(settings: Settings, databases: dict[str, Connection]) -> None:
    reader_password = next(iter(settings.production.values())).password
    with database.embedded_server(settings) as admin:
        for role in (PLANT_OWNER, PLANT_READER):
            try:
                admin.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
            except psycopg.errors.DuplicateObject:
                continue
        database.set_password(admin, PLANT_READER, reader_password)
        for owned in databases.values():
            database.create_database(admin, owned.dbname, owner=PLANT_OWNER)
