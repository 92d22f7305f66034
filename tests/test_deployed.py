"""A run leaves the seeds, extracted models and views alone while they are as the project makes them, and only then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from spindle import database
from spindle.deployed import is_deployed
from spindle.errors import RefreshFailed
from spindle.rebuild import rebuild
from spindle.refresh import refresh
from spindle.settings import Connection
from tests.histories import copy_project
from tests.small_plant import OPERATION, POSITION, TEMPERATURE, SmallPlant
from tests.test_api import ENDPOINTS

STORED = {"energy", "activity", "sensor_stats", "machine_summary"}
MADE_ONCE = {"machine_config", "signal_config", "base_numbers", "stg_numbers", *ENDPOINTS}


class Plant(SmallPlant):
    """A day of one machine, and a copy of the project that may be changed."""

    def __init__(self, results: Connection, folder: Path) -> None:
        super().__init__(results, folder / "state")
        copy_project(folder)
        self.settings = replace(self.settings, root=folder)
        self.log(
            (OPERATION, "2026-03-02 08:00:00", 255),
            (TEMPERATURE, "2026-03-02 08:05:00", 2150),
            (POSITION, "2026-03-02 09:00:00", 1.5),
        ).close()
        self.set_up()

    def refreshed(self) -> set[str]:
        """The nodes that dbt ran for a refresh."""
        ran: set[str] = set()
        refresh(self.settings, progress=lambda name, done, total: ran.add(name))
        return ran

    def is_deployed(self, change: str = "select 1") -> bool:
        """Also after a change of the database, which is then taken back."""
        with database.results(self.settings) as connection, connection.transaction(force_rollback=True):
            connection.execute(change)
            return is_deployed(connection, self.settings.root)


@pytest.fixture(scope="module")
def plant(module_database_factory: Callable[[], Connection], tmp_path_factory: pytest.TempPathFactory) -> Plant:
    return Plant(replace(module_database_factory(), user="spindle_admin"), tmp_path_factory.mktemp("deployed"))


def test_the_first_run_makes_everything_and_the_next_only_the_results(plant: Plant) -> None:
    assert plant.refreshed() >= STORED | MADE_ONCE
    assert plant.is_deployed()
    plant.log((TEMPERATURE, "2026-03-02 09:30:00", 2250)).close()
    ran = plant.refreshed()
    assert ran >= STORED
    assert ran & MADE_ONCE == set()
    assert plant.read("select avg_value from api.temperatures order by dt") == [(21.5,), (22.5,)]
    [(models,)] = plant.read("select models from agg.refresh_runs order by run_id desc limit 1")
    assert models["sensor_stats"]["rows_read"] == 2, "known though the views between were not looked at"


@pytest.mark.parametrize(
    "change",
    [
        "drop view api.temperatures",
        "do $$ begin execute 'create or replace view api.machines as select * from ('"
        " || rtrim(pg_get_viewdef('api.machines'::regclass), ';') || ') as view limit 0'; end $$",
        "alter view api.machines set (security_invoker = on)",
        "revoke select on api.machines from web_anon",
        "grant select on agg.energy to web_anon",
        "comment on view api.machines is 'mine'",
        "comment on column api.machines.machine is 'mine'",
        "reset role; alter view api.machines owner to current_user; set role spindle_owner",
        "update staging.signal_config set divisor = 3 where role = 'temperature'",
        "delete from staging.alert_rules",
        "drop table staging.alert_rules cascade",
        "alter table staging.base_numbers add column mine int",
        "drop view staging.base_numbers_source",
        "drop table agg.energy cascade",
        "do $$ begin execute 'drop index ' || (select min(indexrelid::regclass::text) from pg_index"
        " where indrelid = 'agg.energy'::regclass); end $$",
        "comment on schema staging is null",
    ],
)
def test_what_was_changed_by_hand_is_seen(plant: Plant, change: str) -> None:
    assert plant.is_deployed()
    assert not plant.is_deployed(change)
    assert plant.is_deployed()


@pytest.mark.parametrize(
    "file",
    [
        "dbt_project.yml",
        "api_views/machines.sql",
        "api_views/machines.yml",
        "models/agg/energy.sql",
        "models/extract/base_numbers.sql",
        "macros/log_times.sql",
        "seeds/alert_rules.csv",
    ],
)
def test_a_changed_file_is_seen(plant: Plant, file: str) -> None:
    path = plant.settings.root / file
    before = path.read_bytes()
    path.write_bytes(before + b"\n")
    assert not plant.is_deployed()
    path.write_bytes(before)
    assert plant.is_deployed()


def test_a_new_file_is_seen(plant: Plant) -> None:
    path = plant.settings.root / "seeds" / "mine.csv"
    path.write_text("machine\nbranosera\n", encoding="utf-8")
    assert not plant.is_deployed()
    path.unlink()
    assert plant.is_deployed()


def test_the_next_run_puts_right_what_was_changed(plant: Plant) -> None:
    with plant.log() as admin:
        admin.execute(
            "drop view api.temperatures; revoke select on api.machines from web_anon;"
            " update staging.signal_config set divisor = 1; comment on view api.sensors is 'mine'"
        )
    assert plant.refreshed() >= STORED | MADE_ONCE
    assert plant.is_deployed()
    assert plant.read("select max(avg_value) from api.temperatures") == [(22.5,)]
    assert plant.read("select has_table_privilege('web_anon', 'api.machines', 'select')") == [(True,)]


def test_a_run_that_failed_deployed_nothing(plant: Plant) -> None:
    view = plant.settings.root / "api_views" / "machines.sql"
    before = view.read_text(encoding="utf-8")
    view.write_text(before.replace("select", "select nothing_of_this_name,", 1), encoding="utf-8")
    try:
        with pytest.raises(RefreshFailed, match="nothing_of_this_name"):
            plant.refreshed()
        assert not plant.is_deployed()
    finally:
        view.write_text(before, encoding="utf-8")
    assert plant.is_deployed(), "that view is still the old one, and so is the file again"


def test_a_rebuild_deploys_the_same(plant: Plant) -> None:
    """What it swaps in has other names when it is made."""
    mark = "select obj_description('staging'::regnamespace, 'pg_namespace')"
    rebuild(plant.settings)
    assert plant.is_deployed()
    rebuilt = plant.read(mark)
    with plant.log() as admin:
        admin.execute("comment on schema staging is null")
    assert plant.refreshed() >= MADE_ONCE
    assert plant.read(mark) == rebuilt


def test_a_table_that_dbt_makes_anew_keeps_its_views(plant: Plant) -> None:
    """An analyst's own model: the views on it must be made at every run, as it takes them along."""
    folder = plant.settings.root / "models" / "agg"
    table, view = folder / "machine_list.sql", plant.settings.root / "models" / "staging" / "stg_machine_list.sql"
    table.write_text(
        "{{ config(materialized='table', contract={'enforced': false}) }}"
        " select machine from {{ ref('machine_config') }}",
        encoding="utf-8",
    )
    view.write_text("select machine from {{ ref('machine_list') }}", encoding="utf-8")
    try:
        for _ in range(2):
            assert plant.refreshed() >= {"machine_list", "stg_machine_list"}
            assert plant.read("select count(*) > 0 from staging.stg_machine_list") == [(True,)]
    finally:
        table.unlink()
        view.unlink()
