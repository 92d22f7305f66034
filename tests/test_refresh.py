"""Refreshes of a small real database: what is computed again, what is recorded, what fails loudly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from spindle import database
from spindle.errors import CannotConnect, RefreshBusy, RefreshFailed
from spindle.runs import LOCK
from spindle.settings import Connection
from tests.conftest import Spindle
from tests.small_plant import ALARMS, LOAD, OPERATION, POSITION, PROGRAM, TEMPERATURE, SmallPlant, at
from tests.test_api import ENDPOINTS


@pytest.fixture(scope="module")
def plant(module_database_factory: Callable[[], Connection], tmp_path_factory: pytest.TempPathFactory) -> SmallPlant:
    """Results and production in one database: no foreign tables."""
    results = replace(module_database_factory(), user="spindle_admin")
    small = SmallPlant(results, tmp_path_factory.mktemp("small"))
    small.log(
        (OPERATION, "2026-03-02 08:00:00", 255),
        (PROGRAM, "2026-03-02 08:00:00", 7),
        (LOAD, "2026-03-02 08:00:00", 50),
        (TEMPERATURE, "2026-03-02 08:00:00", 2150),
        (ALARMS, "2026-03-02 08:10:00", '[["A1","FALLO BOMBA",3,3,1]]'),
        (POSITION, "2026-03-02 08:05:00", 1.5),
        (POSITION, "2026-03-02 09:00:00", 2.5),
    )
    small.set_up()
    report = small.refresh()
    assert ("branosera", "SPINDLE_LOAD_1") not in report.absent
    assert ("branosera", "AXIS_X_MOTOR_UTILIZACION") in report.absent
    return small


def test_first_refresh(plant: SmallPlant) -> None:
    assert plant.read("select day::text, state_running, state_planned_down from agg.activity") == [
        # 08:00 to 08:10 without a gap above 600 s; 09:00 alone
        ("2026-03-02", 0.17, 23.83)
    ]
    assert plant.read("select state, started_at::text, ended_at::text from agg.state_intervals") == [
        ("running", "2026-03-02 08:00:00+00", "2026-03-02 09:00:00+00")
    ]
    assert plant.read("select hour_ts::text, energy_kwh from agg.energy") == [("2026-03-02 08:00:00", 18.5)]
    assert plant.read("select program, duration_seconds from agg.program_time") == [(7, 3600)]
    assert plant.read("select alert_type, cleared_at, duration_seconds from agg.alerts") == [("error", None, None)]
    assert plant.read("select avg_value, std_dev, readings_count from agg.sensor_stats") == [(21.5, None, 1)]


def test_the_next_refresh_goes_on_where_the_last_one_ended(plant: SmallPlant) -> None:
    """Days later: what was open is carried over midnights, earlier days change only where they must."""
    plant.log(
        (POSITION, "2026-03-06 00:30:00", 3.5),
        (OPERATION, "2026-03-06 01:00:00", 0),
        (ALARMS, "2026-03-06 01:00:00", "[]"),
        (LOAD, "2026-03-06 01:00:00", "NaN"),
        (PROGRAM, "2026-03-06 01:00:00", "NaN"),
    )
    plant.refresh()
    query = "select state, day::text, started_at::text, ended_at::text from agg.state_intervals order by 3"
    assert plant.read(query) == [
        ("running", "2026-03-02", "2026-03-02 08:00:00+00", "2026-03-06 01:00:00+00"),
        ("idle", "2026-03-06", "2026-03-06 01:00:00+00", "2026-03-06 01:00:00+00"),
    ]
    assert plant.read("select day::text, cleared_at::text from agg.alerts") == [("2026-03-02", "2026-03-06 01:00:00")]
    assert plant.read("select day::text, duration_seconds from agg.program_time order by 1") == [
        ("2026-03-02", 57600),
        ("2026-03-03", 86400),
        ("2026-03-04", 86400),
        ("2026-03-05", 86400),
        ("2026-03-06", 3600),
    ]
    assert plant.read("select count(*), sum(energy_kwh) from agg.energy") == [(89, 1646.5)]
    assert plant.read("select day::text from agg.activity order by 1") == [("2026-03-02",), ("2026-03-06",)]


def test_a_refresh_without_news_changes_nothing(plant: SmallPlant) -> None:
    tables = [table for (table,) in plant.read("select tablename from pg_tables where schemaname = 'agg'")]
    tables = [table for table in tables if table not in ("refresh_runs", "refresh_cuts")]
    assert len(tables) == 11
    before = {table: sorted(map(repr, plant.read(f"select * from agg.{table}"))) for table in tables}
    plant.refresh()
    assert {table: sorted(map(repr, plant.read(f"select * from agg.{table}"))) for table in tables} == before


def test_a_late_row_is_counted(plant: SmallPlant) -> None:
    """A row of the day before the last refresh, logged after it, is found: lookback_days is 2."""
    plant.log((TEMPERATURE, "2026-03-05 12:00:00", 2250))
    plant.refresh()
    assert ("2026-03-05", 22.5) in plant.read("select day::text, avg_value from agg.sensor_stats")
    assert ("2026-03-05",) in plant.read("select day::text from agg.activity")


def test_a_day_that_lost_its_rows_loses_its_results_and_says_so(plant: SmallPlant) -> None:
    with plant.log() as log:
        log.execute(
            "delete from variable_log_float where id_var = %s and date = %s", (TEMPERATURE, at("2026-03-05 12:00:00"))
        )
    with pytest.raises(RefreshFailed, match="sensor_records from 2 to 1"):
        plant.refresh()
    assert plant.read("select day::text from agg.sensor_stats") == [("2026-03-02",)]
    assert plant.read("select outcome from agg.refresh_runs order by run_id desc limit 1") == [("failed",)]
    assert plant.read("select refresh_ok from api.data_status where machine is null") == [(False,)]
    plant.refresh()
    assert plant.read("select refresh_ok from api.data_status where machine is null") == [(True,)]


def test_one_cut_for_all_numbers(plant: SmallPlant) -> None:
    """No number uses a row after the cut, and the cut is recorded."""
    cut = plant.read("select cut_ms from staging.refresh_window")[0][0]
    assert plant.read("select cut_ms from agg.refresh_cuts order by run_id desc limit 1") == [(cut,)]
    assert plant.read("select extract(epoch from data_until) * 1000 from api.data_status limit 1")[0][0] == cut
    assert plant.read("select extract(epoch from max(ended_at)) * 1000 from agg.state_intervals")[0][0] == cut


def test_an_unreadable_source_is_an_error_that_names_the_machine_and_is_recorded(plant: SmallPlant) -> None:
    with plant.log() as log:
        log.execute("alter table variable rename to variable_gone; drop view raw.branosera_variable cascade")
    try:
        with pytest.raises(CannotConnect, match="branosera"):
            plant.refresh()
    finally:
        with plant.log() as log:
            log.execute("alter table variable_gone rename to variable")
        plant.set_up()
    outcome = plant.read("select outcome, error like '%branosera%' from agg.refresh_runs order by run_id desc limit 1")
    assert outcome == [("failed", True)]
    plant.refresh()


def test_a_failing_model_leaves_the_old_results(plant: SmallPlant) -> None:
    before = plant.read("select * from agg.energy order by hour_started_at")
    with plant.log() as admin:
        admin.execute("alter table agg.energy add constraint broken check (energy_kwh < 0) not valid")
    try:
        with pytest.raises(RefreshFailed, match="energy"):
            plant.refresh()
    finally:
        with plant.log() as admin:
            admin.execute("alter table agg.energy drop constraint broken")
    assert plant.read("select * from agg.energy order by hour_started_at") == before
    plant.refresh()


def test_a_second_refresh_leaves_with_a_message(plant: SmallPlant) -> None:
    with database.results(plant.settings) as other:
        other.execute("select pg_advisory_lock(hashtext(%s))", (LOCK,))
        runs = plant.read("select count(*) from agg.refresh_runs")
        with pytest.raises(RefreshBusy, match="another refresh"):
            plant.refresh()
        assert plant.read("select count(*) from agg.refresh_runs") == runs
    plant.refresh()


def test_a_killed_refresh_is_recorded_by_the_next_one(plant: SmallPlant) -> None:
    with database.results(plant.settings) as connection:
        connection.execute("insert into agg.refresh_runs (kind) values ('refresh')")
    plant.refresh()
    outcomes = plant.read("select outcome, error from agg.refresh_runs order by run_id desc limit 2")
    assert outcomes[0][0] == "succeeded"
    assert outcomes[1][0] == "failed"
    assert "killed" in outcomes[1][1]


def test_production_elsewhere_gives_the_same_results(
    plant: SmallPlant, spindle: Spindle, module_database_factory: Callable[[], Connection], tmp_path: Path
) -> None:
    """By foreign tables, with a login that has a password and may only read."""
    production = replace(module_database_factory(), user="spindle_admin")
    password = json.loads((spindle.state_dir / "secrets.json").read_text(encoding="utf-8"))["plant_reader"]
    far = SmallPlant(
        replace(module_database_factory(), user="spindle_admin"),
        tmp_path,
        elsewhere=replace(production, user="plant_reader", password=password),
        owner=production,
    )
    with plant.log() as source, far.log() as target:
        for table in ("variable_log_float", "variable_log_string"):
            for row in source.execute(f"select * from {table}").fetchall():
                target.execute(f"insert into {table} values (%s, %s, %s)", row)
        target.execute("grant select on variable, variable_log_float, variable_log_string to plant_reader")
    far.set_up()
    far.refresh()
    assert far.read("select reached_by from raw.sources") == [("foreign tables",)]
    assert plant.read("select reached_by from raw.sources") == [("local views",)]
    for endpoint in ENDPOINTS:
        rows = far.read(f"select * from api.{endpoint}")
        assert sorted(map(repr, rows)) == sorted(map(repr, plant.read(f"select * from api.{endpoint}"))), endpoint


def test_setting_up_again_changes_nothing(plant: SmallPlant) -> None:
    before = plant.read("select * from api.machine_util")
    plant.set_up()
    assert plant.read("select * from api.machine_util") == before
    plant.refresh()
