"""The record of runs, backfills that are stopped, and runs that refuse to lose or to mix results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from spindle import database
from spindle.backfill import Request, backfill, make_request
from spindle.errors import RefreshFailed, SettingsError
from spindle.rebuild import rebuild
from spindle.refresh import refresh
from spindle.runs import only_one
from spindle.settings import Connection
from tests.conftest import ROOT, Spindle, thorough
from tests.histories import copy_project
from tests.small_plant import ALARMS, LOAD, OPERATION, POSITION, PROGRAM, TEMPERATURE, SmallPlant, at, environment

pytestmark = thorough

DAYS = [date(2026, 3, day) for day in (2, 3, 4, 5)]
LAST_ROW = "2026-03-05 12:00:00"
RESULTS = ("sensor_stats", "activity", "state_changes", "state_intervals", "program_time", "energy", "alerts")
LAST_RUN = "select kind, request, outcome, error from agg.refresh_runs order by run_id desc limit 1"
REFRESHED = "select refreshed_at, refresh_ok from api.data_status where machine is null"


class Plant(SmallPlant):
    """Four days of one machine, and a copy of the project that may be changed."""

    def __init__(self, results: Connection, folder: Path) -> None:
        super().__init__(results, folder / "state")
        copy_project(folder)
        self.settings = replace(self.settings, root=folder)
        self.tool = Spindle(
            folder / "state", environment(results, results) | {"STALE_AFTER_HOURS": "900000"}, port=self.gateway_port
        )
        for day in DAYS:
            self.log_day(day)
        self.set_up()
        refresh(self.settings)

    @property
    def gateway_port(self) -> int:
        return self.settings.gateway_port

    def log_day(self, day: date) -> None:
        self.log(
            (OPERATION, f"{day} 06:00:00", 255),
            (PROGRAM, f"{day} 06:00:00", day.day),
            (LOAD, f"{day} 06:00:00", 40),
            (TEMPERATURE, f"{day} 07:00:00", 2000 + day.day),
            (ALARMS, f"{day} 08:00:00", '[["A1","FALLO BOMBA",3,3,1]]'),
            (ALARMS, f"{day} 08:05:00", "[]"),
            (LOAD, f"{day} 11:30:00", 0),
            (OPERATION, f"{day} 11:30:00", 0),
            (POSITION, f"{day} 12:00:00", 1.5),
        ).close()

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        return {table: self.read(f"select t::text from agg.{table} as t order by 1") for table in RESULTS}

    def change(self, statement: str) -> None:
        with self.log() as connection:
            connection.execute(statement)

    def backfill(self, first: date, last: date, **options: Any) -> int:
        return backfill(self.settings, make_request(self.settings, first, last, ()), **options)

    def runs(self, columns: str, newest: int) -> list[tuple[Any, ...]]:
        rows = self.read(f"select {columns} from agg.refresh_runs order by run_id desc limit {newest}")
        return rows[::-1]


@pytest.fixture(scope="module")
def plant(module_database_factory: Callable[[], Connection], tmp_path_factory: pytest.TempPathFactory) -> Plant:
    return Plant(replace(module_database_factory(), user="spindle_admin"), tmp_path_factory.mktemp("runs"))


# --- the record --------------------------------------------------------------------------------------------


def test_a_refresh_is_recorded(plant: Plant) -> None:
    assert plant.runs("kind, request, outcome, error", 9) == [("refresh", None, "succeeded", None)]
    [(models, seconds)] = plant.read(
        "select models, extract(epoch from finished_at - started_at) from agg.refresh_runs"
    )
    for table in RESULTS:
        [(rows,)] = plant.read(f"select count(*) from agg.{table}")
        assert models[table]["rows"] == rows > 0
        assert 0 < models[table]["seconds"] < seconds
    [(extracted,)] = plant.read("select rows_extracted from agg.refresh_cuts")
    assert extracted["base_numbers"] == 20, "operation, program and load of four days, no other variable"
    assert models["energy"]["rows_read"] == extracted["base_numbers"]
    assert models["alerts"]["rows_read"] == extracted["base_texts"] == 8
    assert models["sensor_stats"]["rows_read"] == extracted["base_reading_sums"] == 4
    assert plant.read("select machine, to_day::text, end_ms, oldest_ms, cut_ms from agg.refresh_cuts") == [
        ("branosera", "9999-12-31", at(LAST_ROW), at("2026-03-02 06:00:00"), at(LAST_ROW))
    ]
    [(refreshed_at, refresh_ok)] = plant.read(REFRESHED)
    assert refresh_ok
    assert [(refreshed_at,)] == plant.read("select finished_at from agg.refresh_runs")


def test_a_failed_refresh_is_recorded(plant: Plant) -> None:
    before = plant.read(REFRESHED)
    fail_refresh(plant)
    [(kind, request, outcome, error)] = plant.read(LAST_RUN)
    assert (kind, request, outcome) == ("refresh", None, "failed")
    assert "energy" in error
    assert "broken" in error
    assert plant.read("select finished_at is not null from agg.refresh_runs where outcome = 'failed'") == [(True,)]
    assert plant.read(REFRESHED) == [(before[0][0], False)]
    [(models, outcome, read)] = plant.read(
        "select models, cuts.outcome, rows_extracted ->> 'base_numbers' from agg.refresh_runs"
        " inner join agg.refresh_cuts as cuts using (run_id) order by run_id desc limit 1"
    )
    assert "energy" not in models
    assert models["activity"]["rows"] > 0, "what was computed in spite of it"
    assert (outcome, int(read) > 0) == ("failed", True)


def test_a_backfill_of_past_days_does_not_hide_a_failed_refresh(plant: Plant) -> None:
    """data_status says when it was last refreshed and whether that succeeded: newer rows are still missing."""
    before = plant.read(REFRESHED)
    assert before[0][1] is False
    with never_logged_load(plant):
        plant.backfill(DAYS[0], DAYS[1], step_days=1)
    assert plant.runs("kind, request, outcome, error", 2) == [
        ("backfill", "2026-03-02 to 2026-03-03, all machines: 2026-03-02 to 2026-03-02", "succeeded", None),
        ("backfill", "2026-03-02 to 2026-03-03, all machines: 2026-03-03 to 2026-03-03", "succeeded", None),
    ]
    windows = plant.read(
        "select from_day::text, to_day::text, cut_ms from agg.refresh_cuts order by run_id desc limit 2"
    )
    # a step goes on to the day on which the values carried out of it end; what never logged carries none
    assert windows == [("2026-03-03", "2026-03-04", at(LAST_ROW)), ("2026-03-02", "2026-03-03", at(LAST_ROW))]
    assert plant.runs("models -> 'activity' ->> 'rows'", 2) == [("2",), ("2",)]
    assert plant.read(REFRESHED) == before


def test_a_rebuild_is_recorded_and_keeps_the_record(plant: Plant) -> None:
    runs = plant.read("select * from agg.refresh_runs order by run_id")
    contents = plant.contents()
    rebuild(plant.settings)
    assert plant.read("select * from agg.refresh_runs order by run_id")[:-1] == runs
    assert plant.read(LAST_RUN) == [("rebuild", None, "succeeded", None)]
    assert plant.contents() == contents
    [(models, finished_at)] = plant.runs("models, finished_at", 1)
    assert models["energy"]["rows"] == len(contents["energy"])
    assert plant.read("select cut_ms from agg.refresh_cuts order by run_id desc limit 1") == [(at(LAST_ROW),)]
    assert plant.read(REFRESHED) == [(finished_at, True)]


def test_a_failed_backfill_is_recorded(plant: Plant) -> None:
    with_broken_energy(plant, lambda: plant.backfill(DAYS[0], DAYS[3]))
    [(kind, request, outcome, error)] = plant.read(LAST_RUN)
    assert (kind, outcome) == ("backfill", "failed")
    assert request.endswith("2026-03-02 to 2026-03-05")
    assert "energy" in error
    plant.backfill(DAYS[0], DAYS[3])


def test_runs_are_shown(plant: Plant) -> None:
    found = json.loads(plant.tool.run("runs", "--json", "--limit", "3").stdout)
    assert [(run["kind"], run["outcome"]) for run in found] == [
        ("backfill", "succeeded"),
        ("backfill", "failed"),
        ("rebuild", "succeeded"),
    ]
    [window] = found[0]["windows"]
    assert window["rows_extracted"]["base_numbers"] > 0
    expected = {"machine": "branosera", "from_day": "2026-03-02", "to_day": "2026-03-05", "cut_ms": at(LAST_ROW)}
    expected |= {"outcome": "succeeded"}
    assert {name: window[name] for name in expected} == expected
    assert "has no variable AXIS_X_MOTOR_UTILIZACION" in window["problem"]
    assert found[0]["models"]["energy"]["rows"] > 0
    assert found[0]["seconds"] > 0
    assert "energy" in found[1]["error"]
    table = plant.tool.run("runs").stdout
    assert all(word in table for word in ("backfill", "refresh", "rebuild", "failed", "2026-03-02 to 2026-03-05"))


def test_a_killed_run_is_not_shown_as_running(plant: Plant) -> None:
    """Its lock is gone; while somebody holds the lock it may be that run."""
    plant.change("insert into agg.refresh_runs (kind) values ('refresh')")
    try:
        shown = json.loads(plant.tool.run("runs", "--json", "--limit", "1").stdout)[0]
        assert (shown["outcome"], "killed" in shown["error"]) == ("failed", True)
        with database.results(plant.settings) as other, only_one(other):
            assert json.loads(plant.tool.run("runs", "--json", "--limit", "1").stdout)[0]["outcome"] == "running"
    finally:
        plant.change("delete from agg.refresh_runs where outcome = 'running'")


def test_ctrl_c_inside_dbt_ends_with_130(plant: Plant) -> None:
    """A reader holds the table, so that dbt surely waits when the signal comes; the run is recorded."""
    with plant.log() as reader:
        reader.execute("begin; lock table agg.energy in access exclusive mode")
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "bootstrap.py"), "refresh"],
            cwd=ROOT,
            env=plant.tool.environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # tests in the background of a shell inherit that SIGINT is ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        waiting = "select count(*) from pg_locks where not granted and relation = 'agg.energy'::regclass"
        while plant.read(waiting) == [(0,)]:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(1)
        reader.execute("rollback")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert plant.runs("outcome, error", 1) == [("failed", "KeyboardInterrupt: ")]
    refresh(plant.settings)


def test_an_error_with_brackets_is_shown_as_it_is(plant: Plant) -> None:
    """Messages of databases have brackets, which must not be taken for colours."""
    plant.change(
        "insert into agg.refresh_runs (kind, outcome, error) values ('refresh', 'failed', 'no [/a] and [red] b')"
    )
    try:
        assert "no [/a] and [red] b" in plant.tool.run("runs", "--limit", "1").stdout
    finally:
        plant.change("delete from agg.refresh_runs where error like 'no %'")


# --- backfill ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--from", "2026-13-01"), "--from"),
        (("--to", "yesterday"), "--to"),
        (("--machine", "nowhere"), "MACHINE"),
        (("--from", "2026-03-04", "--to", "2026-03-03"), "FROM"),
        (("--step-days", "0"), "--step-days"),
    ],
)
def test_bad_arguments_are_named(plant: Plant, arguments: tuple[str, ...], named: str) -> None:
    runs = plant.read("select count(*) from agg.refresh_runs")
    done = plant.tool.run("backfill", *arguments, exit_code=2)
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert plant.read("select count(*) from agg.refresh_runs") == runs


def test_a_killed_backfill_goes_on_where_it_was(plant: Plant) -> None:
    plant.change(f"update variable_log_float set value = value + 100 where id_var = {TEMPERATURE}")
    [(last,)] = plant.read("select max(run_id) from agg.refresh_runs")
    process = subprocess.Popen(
        [sys.executable, "bootstrap.py", "backfill", "--from", "2026-03-02", "--to", "2026-03-04", "--step-days", "1"],
        cwd=ROOT,
        env=plant.tool.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    second = f"select count(*) from agg.refresh_runs where run_id > {last} and request like '%: 2026-03-03 %'"
    while plant.read(second) == [(0,)]:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert plant.runs("outcome", 2) == [("succeeded",), ("running",)]
    # a refresh in between does not end it
    refresh(plant.settings)
    assert "killed" in plant.runs("error", 2)[0][0]
    steps: list[tuple[date, date, int, int]] = []
    skipped = plant.backfill(DAYS[0], DAYS[2], step_days=1, progress=lambda *step: steps.append(step))
    assert skipped == 1
    assert steps == [(DAYS[1], DAYS[1], 1, 3), (DAYS[2], DAYS[2], 2, 3), (DAYS[2], DAYS[2], 3, 3)]
    assert plant.read("select avg_value from agg.sensor_stats order by day") == [(21.02,), (21.03,), (21.04,), (21.05,)]


def test_a_stopped_backfill_begins_again_when_asked(plant: Plant) -> None:
    def stop_at_second_step(first: date, last: date, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plant.backfill(DAYS[0], DAYS[1], step_days=1, progress=stop_at_second_step)
    assert plant.backfill(DAYS[0], DAYS[1], restart=True) == 0
    assert plant.runs("request", 1)[0][0].endswith(": 2026-03-02 to 2026-03-03")


def test_a_backfill_takes_results_of_days_before_the_first_row_away(plant: Plant) -> None:
    """A day that lost its rows loses its results, also at an end of the log."""
    end = at("2026-03-04 00:00:00")
    plant.change(
        f"delete from variable_log_float where date < {end}; delete from variable_log_string where date < {end}"
    )
    try:
        plant.backfill(DAYS[0], DAYS[3])
        assert plant.read("select day from agg.activity order by 1") == [(DAYS[2],), (DAYS[3],)]
        assert plant.read("select min(day) from agg.energy") == [(DAYS[2],)]
    finally:
        for day in DAYS[:2]:
            plant.log_day(day)
        backfill(plant.settings, Request(DAYS[0], DAYS[3]), restart=True)


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ("branosera,load,TEMPERATURA_BASE,1,5,Base", "has one row in seeds/signal_config.csv, and one role"),
        ("branosera,program,SPINDLE_MODE,1,,Mode", "at most one operation, program and alarms variable"),
        ("branosera,load,SPINDLE_LOAD_2,1,,Spindle 2", "a load needs its nominal_kw"),
        ("branosera,temperature,TEMPERATURA_AIRE,0,,Air", "divisor is a number and not 0"),
    ],
)
def test_a_seed_that_contradicts_itself_is_refused(plant: Plant, row: str, rule: str) -> None:
    before = plant.contents()
    seed = plant.settings.root / "seeds" / "signal_config.csv"
    right = seed.read_text(encoding="utf-8")
    seed.write_text(f"{right.rstrip()}\n{row}\n", encoding="utf-8")
    try:
        with pytest.raises(RefreshFailed, match=rule):
            refresh(plant.settings)
    finally:
        seed.write_text(right, encoding="utf-8")
    assert plant.contents() == before


def test_a_name_that_stands_twice_in_the_dictionary_is_refused(plant: Plant) -> None:
    before = plant.contents()
    plant.change("insert into variable values (99, 'PROG_STATUS', 'java.lang.Integer')")
    try:
        with pytest.raises(RefreshFailed, match="more than one variable named PROG_STATUS"):
            refresh(plant.settings)
    finally:
        plant.change("delete from variable where id = 99")
    assert plant.contents() == before


def test_a_new_time_zone_asks_for_a_rebuild(plant: Plant) -> None:
    before = plant.contents()
    seed = plant.settings.root / "seeds" / "machine_config.csv"
    utc = seed.read_text(encoding="utf-8")
    seed.write_text(utc.replace("2207,UTC", "2207,Asia/Kolkata"), encoding="utf-8")
    try:
        for run in (lambda: refresh(plant.settings), lambda: plant.backfill(DAYS[0], DAYS[1])):
            with pytest.raises(
                RefreshFailed, match="time zone of branosera changed from UTC to Asia/Kolkata"
            ) as caught:
                run()
            assert "make rebuild MACHINE=branosera" in str(caught.value)
        assert plant.contents() == before
        rebuild(plant.settings, ["branosera"])
        assert plant.read("select min(dt)::text from agg.sensor_stats") == [("2026-03-02 12:00:00",)]
        refresh(plant.settings)
    finally:
        seed.write_text(utc, encoding="utf-8")
        rebuild(plant.settings)
    assert plant.contents() == before


def test_a_rebuild_that_fails_its_tests_is_not_swapped_in(plant: Plant) -> None:
    before, relations = plant.contents(), plant.read("select 'agg.energy'::regclass::oid")
    test = plant.settings.root / "tests" / "data" / "nothing_is_cold.sql"
    test.parent.mkdir(parents=True, exist_ok=True)
    test.write_text("select * from {{ ref('sensor_stats') }} where avg_value < 100", encoding="utf-8")
    try:
        with pytest.raises(RefreshFailed, match="nothing_is_cold"):
            rebuild(plant.settings)
    finally:
        test.unlink()
    [(kind, _, outcome, error)] = plant.read(LAST_RUN)
    assert (kind, outcome) == ("rebuild", "failed")
    assert "nothing_is_cold" in error
    assert plant.contents() == before
    assert plant.read("select 'agg.energy'::regclass::oid") == relations
    assert plant.read("select nspname from pg_namespace where nspname ~ '_(next|old)$'") == []


def test_a_rebuild_refuses_to_lose_a_view_of_somebody_else(plant: Plant) -> None:
    plant.change("create schema reports; create view reports.kwh as select sum(energy_kwh) as kwh from agg.energy")
    try:
        before = plant.read("select * from reports.kwh")
        with pytest.raises(RefreshFailed, match=r"reports\.kwh on agg\.energy"):
            rebuild(plant.settings)
        assert plant.read("select * from reports.kwh") == before
        assert plant.runs("kind, outcome", 1) == [("rebuild", "failed")]
    finally:
        plant.change("drop schema reports cascade")


def test_a_shortened_log_deletes_nothing_until_told(plant: Plant) -> None:
    before = plant.contents()
    end = at("2026-03-05 00:00:00")
    plant.change(
        f"delete from variable_log_float where date > {end}; delete from variable_log_string where date > {end}"
    )
    try:
        with pytest.raises(
            RefreshFailed, match="ends at 2026-03-04 12:00:00 UTC, but results go up to 2026-03-05 12:00"
        ):
            refresh(plant.settings)
        assert plant.contents() == before
        assert plant.tool.run("refresh", exit_code=1).stderr.count("rows were lost") == 1
        with pytest.raises(RefreshFailed, match="ends at 2026-03-04 12:00:00 UTC"):
            rebuild(plant.settings)
        assert plant.contents() == before
        plant.tool.run("refresh", "--yes")
        assert plant.read("select max(day) from agg.activity") == [(DAYS[2],)]
        refresh(plant.settings)
    finally:
        plant.log_day(DAYS[3])
        refresh(plant.settings)
    # earlier tests changed values of this day; its results are all there again
    assert {table: len(rows) for table, rows in plant.contents().items()} == {
        table: len(rows) for table, rows in before.items()
    }


def test_an_emptied_log_deletes_nothing_until_told(plant: Plant) -> None:
    before = plant.contents()
    plant.change("truncate variable_log_float, variable_log_string")
    try:
        with pytest.raises(RefreshFailed, match="the log of branosera is empty"):
            refresh(plant.settings)
        with pytest.raises((RefreshFailed, SettingsError)):
            plant.backfill(DAYS[0], DAYS[3])
        for way in (lambda: rebuild(plant.settings), lambda: refresh(plant.settings, accept_loss=True)):
            with pytest.raises(RefreshFailed, match="the log of branosera is empty"):
                way()
        assert plant.contents() == before
        rebuild(plant.settings, accept_loss=True)
        assert {table for table, rows in plant.contents().items() if rows} == set()
        refresh(plant.settings)
    finally:
        for day in DAYS:
            plant.log_day(day)
        refresh(plant.settings)
    # all of them, though the runs before the rebuild had computed them
    assert {table: len(rows) for table, rows in plant.contents().items()} == {
        table: len(rows) for table, rows in before.items()
    }


def test_a_rebuild_swaps_smaller_results_in_when_told(plant: Plant) -> None:
    plant.change(f"delete from variable_log_float where id_var = {TEMPERATURE} and date < {at('2026-03-04 00:00:00')}")
    with pytest.raises(RefreshFailed, match="branosera: sensor_records from 4 to 2"):
        rebuild(plant.settings)
    assert plant.read("select count(*) from agg.sensor_stats") == [(4,)]
    rebuild(plant.settings, accept_loss=True)
    assert plant.read("select count(*) from agg.sensor_stats") == [(2,)]
    assert plant.read(REFRESHED)[0][1] is True


def test_a_reader_of_what_was_replaced_stops_only_the_next_rebuild(plant: Plant) -> None:
    leftovers = "select nspname from pg_namespace where nspname ~ '_old$' order by 1"
    with plant.log() as reader:
        reader.execute("begin; select from agg.energy")
        rebuild(plant.settings)
        assert plant.read(leftovers) == [("agg_old",), ("api_old",), ("staging_old",)]
        refresh(plant.settings)
        with pytest.raises(RefreshFailed, match="somebody still reads what the last rebuild replaced"):
            rebuild(plant.settings)
        reader.execute("rollback")
    refresh(plant.settings)
    assert plant.read(leftovers) == []


@contextmanager
def never_logged_load(plant: Plant) -> Iterator[None]:
    plant.change("insert into variable values (98, 'AXIS_X_MOTOR_UTILIZACION', 'java.lang.Integer')")
    try:
        yield
    finally:
        plant.change("delete from variable where id = 98")


def fail_refresh(plant: Plant) -> None:
    with_broken_energy(plant, lambda: refresh(plant.settings))


def with_broken_energy(plant: Plant, run: Callable[[], object]) -> None:
    """A constraint no row meets makes one model fail."""
    plant.change("alter table agg.energy add constraint broken check (energy_kwh < 0) not valid")
    try:
        with pytest.raises(RefreshFailed, match="energy"):
            run()
    finally:
        plant.change("alter table agg.energy drop constraint broken")


def test_a_machine_that_is_gone_is_forgotten_when_told(plant: Plant) -> None:
    """A machine with a source is not, nor one that nobody knows."""
    plant.tool.run("forget", "branosera", "--yes", exit_code=2)
    assert "no results of a machine nowhere" in plant.tool.run("forget", "nowhere", "--yes", exit_code=2).stderr
    before = plant.contents()
    plant.change(
        "insert into agg.activity select 'gone', day, state_running, state_planned_down, running_percentage,"
        " down_percentage from agg.activity where machine = 'branosera'"
    )
    plant.change(
        "insert into agg.refresh_cuts (run_id, machine, outcome) select max(run_id), 'gone', 'succeeded'"
        " from agg.refresh_runs"
    )
    assert "removed 4 results of gone" in plant.tool.run("forget", "gone", "--yes").stdout
    assert plant.contents() == before
    # should it come back, all its days are computed
    assert plant.read("select from agg.refresh_cuts where machine = 'gone'") == []
