"""A run leaves the seeds, extracted models and views alone while they are as the project makes them, and only then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spindle import database
from spindle.deployed import Deployment
from spindle.errors import RefreshFailed
from spindle.rebuild import rebuild
from spindle.refresh import refresh
from spindle.settings import Connection
from spindle.transform import Project
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

    def refreshed(self, watch: Callable[[str], None] = lambda name: None) -> set[str]:
        """The nodes that dbt ran for a refresh; `watch` is told of each as it begins and ends."""
        ran: set[str] = set()

        def progress(name: str, done: int, total: int) -> None:
            ran.add(name)
            watch(name)

        refresh(self.settings, progress=progress)
        return ran

    def is_deployed(self) -> bool:
        with database.results(self.settings) as connection:
            return Project(self.settings, connection).deployment.is_current()

    @contextmanager
    def edited(self, file: str, change: Callable[[str], str]) -> Iterator[None]:
        """A file of the project, or one that is new, and as it was afterwards."""
        path = self.settings.root / file
        before = path.read_text(encoding="utf-8") if path.exists() else None
        path.parent.mkdir(exist_ok=True)
        path.write_text(change(before or ""), encoding="utf-8")
        try:
            yield
        finally:
            path.unlink() if before is None else path.write_text(before, encoding="utf-8")


@pytest.fixture(scope="module")
def fresh(module_database_factory: Callable[[], Connection], tmp_path_factory: pytest.TempPathFactory) -> Plant:
    return Plant(replace(module_database_factory(), user="spindle_admin"), tmp_path_factory.mktemp("deployed"))


@pytest.fixture
def plant(fresh: Plant) -> Plant:
    """Deployed as the project is."""
    if (
        not fresh.read("select from pg_tables where schemaname = 'agg' and tablename = 'energy'")
        or not fresh.is_deployed()
    ):
        fresh.refreshed()
    return fresh


@pytest.fixture(scope="module")
def manifest(fresh: Plant) -> Any:
    with database.results(fresh.settings) as connection:
        return Project(fresh.settings, connection)._manifest


def test_the_first_run_makes_everything_and_the_next_only_the_results(fresh: Plant) -> None:
    assert fresh.refreshed() >= STORED | MADE_ONCE
    assert fresh.is_deployed()
    fresh.log((TEMPERATURE, "2026-03-02 09:30:00", 2250)).close()
    ran = fresh.refreshed()
    assert ran >= STORED
    assert ran & MADE_ONCE == set()
    assert fresh.read("select avg_value from api.temperatures order by dt") == [(21.5,), (22.5,)]
    [(models,)] = fresh.read("select models from agg.refresh_runs order by run_id desc limit 1")
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
def test_what_was_changed_by_hand_is_seen(plant: Plant, manifest: Any, change: str) -> None:
    with database.results(plant.settings) as connection, connection.transaction(force_rollback=True):
        deployment = Deployment(connection, plant.settings.root, manifest)
        assert deployment.is_current()
        connection.execute(change)
        assert not deployment.is_current()


@pytest.mark.parametrize(
    "file",
    [
        "dbt_project.yml",
        "api_views/machines.sql",
        "api_views/machines.yml",
        "models/agg/energy.sql",
        "models/overview.md",
        "macros/log_times.sql",
        "seeds/alert_rules.csv",
        "seeds/more/mine.csv",
    ],
)
def test_a_changed_file_is_seen(plant: Plant, file: str) -> None:
    more = {".sql": "\n-- x", ".yml": "\n# x", ".md": "\nx", ".csv": "\n"}[Path(file).suffix]
    with plant.edited(file, lambda text: (text or "machine\nbranosera") + more):
        assert not plant.is_deployed()
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


def test_schemas_that_were_dropped_are_made_again(plant: Plant) -> None:
    with plant.log() as admin:
        admin.execute("drop schema staging, agg, api cascade")
    assert database.needs_set_up(plant.settings)
    plant.set_up()
    assert plant.refreshed() >= STORED | MADE_ONCE
    assert plant.is_deployed()


def test_a_file_that_is_edited_during_a_run_is_deployed_by_the_next(plant: Plant) -> None:
    """A run may take hours: what it deployed is what dbt had read when it began."""
    with plant.log() as admin:
        admin.execute("comment on schema staging is null")
    with ExitStack() as stack:
        edit = plant.edited("api_views/machines.sql", lambda text: text.replace("label", "label || '!' as label", 1))

        def edit_once(name: str) -> None:
            nonlocal edit
            if name == "activity" and edit is not None:
                stack.enter_context(edit)
                edit = None

        plant.refreshed(edit_once)
        assert edit is None
        assert not plant.is_deployed()


def test_a_run_that_failed_deployed_nothing(plant: Plant) -> None:
    with plant.edited("api_views/machines.sql", lambda text: text.replace("select", "select nothing_of_this_name,", 1)):
        with pytest.raises(RefreshFailed, match="nothing_of_this_name"):
            plant.refreshed()
        assert not plant.is_deployed()
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
    table = (
        "{{ config(materialized='table', contract={'enforced': false}) }}"
        " select machine from {{ ref('machine_config') }}"
    )
    view = "select machine from {{ ref('machine_list') }}"
    with (
        plant.edited("models/agg/machine_list.sql", lambda _: table),
        plant.edited("models/staging/stg_machine_list.sql", lambda _: view),
    ):
        for _ in range(2):
            assert plant.refreshed() >= {"machine_list", "stg_machine_list"}
            assert plant.read("select count(*) > 0 from staging.stg_machine_list") == [(True,)]


@pytest.mark.parametrize(
    "view",
    [
        "select '{{ run_started_at }}' as at",
        "select '{{ env_var('HOME') }}' as home",
        "{{ config(schema='mart') }} select 1 as one",
    ],
)
def test_what_may_come_out_differently_is_never_left_alone(plant: Plant, view: str) -> None:
    """Nor is what stands where the digest does not look. Only the reason is looked at here."""
    with plant.edited("models/staging/stg_mine.sql", lambda _: view), database.results(plant.settings) as connection:
        assert not Project(plant.settings, connection).deployment.keeps_all
