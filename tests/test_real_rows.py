"""Real rows of a machine, from the logs to the results, against figures worked out by hand.

The rows are not in this project: the tests run where the folder `shared/data` lies beside it, else they are skipped.
The arithmetic behind each figure is in `test_oracle.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timezone
from typing import Any

import psycopg
import pytest

from spindle.settings import Connection
from tests.conftest import ROOT
from tests.small_plant import SmallPlant, at

SAMPLE = ROOT.parent / "shared" / "data" / "branosera_sample.csv"

pytestmark = pytest.mark.skipif(not SAMPLE.is_file(), reason=f"no real rows: {SAMPLE} is not there")


def load(connection: psycopg.Connection) -> None:
    """The rows of the sample and its own dictionary; a text variable's rows go to the text log."""
    with SAMPLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    datatypes = {row["variable"]: row["datatype"] for row in rows}
    ids = {name: number for number, name in enumerate(datatypes, start=1)}
    connection.execute("truncate variable, variable_log_float, variable_log_string")
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into variable values (%s, %s, %s)", [(ids[name], name, kind) for name, kind in datatypes.items()]
        )
        for row in rows:
            log = "string" if row["datatype"] == "java.lang.String" else "float"
            cursor.execute(
                f"insert into variable_log_{log} values (%s, %s, %s)",
                (ids[row["variable"]], at(row["ts_utc"].removesuffix("Z")), row["value"]),
            )


@pytest.fixture(scope="module")
def plant(module_database_factory: Callable[[], Connection], tmp_path_factory: pytest.TempPathFactory) -> SmallPlant:
    results = replace(module_database_factory(), user="spindle_admin")
    small = SmallPlant(results, tmp_path_factory.mktemp("real"))
    with small.log() as connection:
        load(connection)
    small.set_up()
    report = small.refresh()
    assert report.cuts == {"branosera": utc("2022-02-23 18:59:59")}
    return small


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def test_states(plant: SmallPlant) -> None:
    intervals = plant.read("select state, started_at, duration_seconds from agg.state_intervals order by started_at")
    assert len(intervals) == 80
    assert plant.read("select count(*) from agg.state_changes") == [(80,)]  # 0 and 255 in turn: nothing to merge
    assert intervals[0] == ("idle", utc("2022-01-30 21:00:04"), 708)
    assert intervals[29][2] == 2026820  # running from 2022-01-30 22:01:07 to 2022-02-23 09:01:27
    assert intervals[79] == ("running", utc("2022-02-23 14:15:54"), 17045)  # to the cut
    assert plant.read("select max(ended_at) from agg.state_intervals") == [(utc("2022-02-23 18:59:59"),)]


def test_alerts(plant: SmallPlant) -> None:
    alerts: list[tuple[Any, ...]] = plant.read(
        "select to_char(dt, 'HH24:MI:SS'), alarm_code, duration_seconds from agg.alerts order by dt"
    )
    assert alerts == [
        ("21:11:16", "250-1398", 39),
        ("21:13:28", "PLC00054", 1),
        ("21:16:56", "270-0021", 33),
        ("21:19:07", "PLC00010", 25),
        ("21:19:32", "250-1398", 6),
        ("21:27:57", "PLC00586", 6),
        ("21:28:03", "PLC01003", 26),
        ("21:28:29", "PLC00587", 1),
        ("21:31:46", "PLC00054", 1),
        ("21:49:09", "PLC00583", 354),  # the door joins it at 21:53:55, and it is one alert still
        ("21:53:55", "PLC00010", 45),
        ("21:55:31", "PLC00586", 1),
        ("21:55:32", "PLC01001", 13),
        ("21:55:45", "PLC00587", 2),
        ("21:55:46", "PLC00010", 1),
        ("21:58:31", "250-1398", 13),
        ("22:00:03", "PLC00586", 1),
        ("22:00:04", "PLC01003", 29),
        ("22:00:33", "PLC00587", None),  # the last list of the sample
    ]
    assert plant.read("select day, alert_type, amount, entries_logged from agg.alerts_per_day") == [
        (date(2022, 1, 30), "other", 19, 22)
    ]
    assert plant.read("select * from agg.skipped_lists_per_day") == []


def test_temperatures(plant: SmallPlant) -> None:
    rows = plant.read(
        "select sensor_name, dt, min_value, avg_value, max_value, std_dev, readings_count from agg.sensor_stats"
        " order by sensor_name"
    )
    hour = datetime(2022, 2, 23, 18)
    assert rows == [
        ("TEMPERATURA_BASE", hour, 15.16, 15.24, 15.32, 0.03, 108),
        ("TEMPERATURA_CABEZAL", hour, 34.36, 34.37, 34.37, 0.01, 2),
        ("TEMPERATURA_CARNERO", hour, 32.5, 32.51, 32.51, 0.01, 2),
        ("TEMPERATURA_CARNERO_2", hour, 32.28, 32.31, 32.33, 0.04, 2),
    ]


def test_activity_and_energy(plant: SmallPlant) -> None:
    assert plant.read(
        "select state_running, state_planned_down, running_percentage, down_percentage from agg.activity"
        " where day = '2022-02-23'"
    ) == [(0.97, 23.04, 4.04, 96)]
    assert plant.read("select hour_ts, energy_kwh from agg.energy") == [(datetime(2022, 2, 23, 18), 0.013)]
    assert plant.read("select count(*) from agg.program_time") == [(0,)]
