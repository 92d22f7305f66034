"""The oracle itself, on cases small enough to work out by hand: each expected number has its arithmetic beside it."""

from __future__ import annotations

import csv
import math
import random
from collections import Counter
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests import oracle
from tests.oracle import MachineLog, Results, Signal, compute, parse_list, random_log, rounded, shortest

D = Decimal
ONE = Decimal(1)
RULES = [
    (10, "emergency", "emerg"),
    (20, "error", "err"),
    (21, "error", "error"),
    (22, "error", "fallo"),
    (23, "error", "fault"),
    (30, "warning", "alert"),
    (31, "warning", "alarm"),
    (32, "warning", "warn"),
    (33, "warning", "aviso"),
    (34, "warning", "attention"),
    (35, "warning", "atenci"),
]
SIGNALS = [
    Signal("operation", "OP", ONE, None),
    Signal("program", "PROG", ONE, None),
    Signal("alarms", "ALARMS", ONE, None),
    Signal("temperature", "BASE", D(100), None),
    Signal("temperature", "MOTOR", ONE, None),
    Signal("load", "LOAD_X", ONE, D(10)),
    Signal("load", "LOAD_Y", ONE, D("15.71")),
]
OP, PROG, ALARMS, BASE, MOTOR, LOAD_X, LOAD_Y, OTHER, UNKNOWN = 1, 2, 3, 4, 5, 6, 7, 8, 99
VARIABLES = {1: "OP", 2: "PROG", 3: "ALARMS", 4: "BASE", 5: "MOTOR", 6: "LOAD_X", 7: "LOAD_Y", 8: "OTHER"}
NAN, INF = math.nan, math.inf
SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "branosera_sample.csv"


def at(text: str) -> datetime:
    """A UTC time."""
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def ms(text: str) -> int:
    return oracle.milliseconds(at(text))


def run(
    floats: list[tuple[int, str, float | None]] | None = None,
    strings: list[tuple[int, str, str | None]] | None = None,
    zone: str = "UTC",
    cut: str = "",
) -> Results:
    """Compute; a row of an unrelated variable makes the cut."""
    rows = [(id_var, ms(when), value) for id_var, when, value in floats or []]
    if cut:
        rows.append((OTHER, ms(cut), 1.0))
    texts = [(id_var, ms(when), value) for id_var, when, value in strings or []]
    return compute(MachineLog("m", zone, SIGNALS, VARIABLES, rows, texts), RULES)


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0.1, "0.1"),  # the real is 0.100000001490116…
        (2817.7847, "2817.7847"),  # eight digits, from the real log
        (-3.3, "-3.3"),
        (16777216.0, "16777216"),
        (1e10, "10000000000"),
        (0.0, "0"),
        (-0.0, "0"),
        (3.4028234663852886e38, "3.4028235E+38"),  # the largest real
        (1.401298464324817e-45, "1E-45"),  # the smallest
    ],
)
def test_a_real_is_read_as_it_prints(value: float, printed: str) -> None:
    assert shortest(value) == D(printed)


def test_printing_and_reading_gives_the_same_real() -> None:
    rng = random.Random(1)
    for _ in range(500):
        real = oracle.as_real(rng.choice([-1, 1]) * 10 ** rng.uniform(-30, 30))
        assert oracle.as_real(float(shortest(real))) == real


def test_rounding_is_half_away_from_zero() -> None:
    assert rounded(Fraction(1005, 1000), 2) == D("1.01")
    assert rounded(Fraction(-1005, 1000), 2) == D("-1.01")
    assert rounded(Fraction(5, 2), 0) == D(3)


# Sensor statistics ----------------------------------------------------------------------------------------------------


def test_sensor_statistics_of_an_hour() -> None:
    results = run([(BASE, "2021-06-01T10:00:00", 1523), (BASE, "2021-06-01T10:59:59.999", 1524)])
    # (15.23 + 15.24) / 2 = 15.235, half away from zero 15.24; sqrt(2 * 0.005^2 / 1) = 0.00707.
    assert results.sensor_stats == [
        oracle.SensorStat(
            sensor_name="BASE",
            hour_start=at("2021-06-01T10:00:00"),
            dt=datetime(2021, 6, 1, 10),
            day=date(2021, 6, 1),
            min_value=D("15.23"),
            avg_value=D("15.24"),
            max_value=D("15.24"),
            std_dev=D("0.01"),
            readings_count=2,
        )
    ]


def test_a_single_reading_has_no_standard_deviation_and_min_and_max_are_not_rounded() -> None:
    [stat] = run([(BASE, "2021-06-01T10:00:00", 2817.7847)]).sensor_stats
    assert (stat.min_value, stat.avg_value, stat.max_value) == (D("28.177847"), D("28.18"), D("28.177847"))
    assert (stat.std_dev, stat.readings_count) == (None, 1)


def test_equal_readings_have_a_standard_deviation_of_zero() -> None:
    [stat] = run([(MOTOR, "2021-06-01T10:00:00", 30), (MOTOR, "2021-06-01T10:00:01", 30)]).sensor_stats
    assert stat.std_dev == D("0.00")


def test_what_is_no_reading_is_left_out() -> None:
    dirty: list[float | None] = [0.0, -0.0, NAN, INF, -INF, None]
    rows = [(MOTOR, f"2021-06-01T10:00:0{n}", value) for n, value in enumerate(dirty)]
    assert run(list(rows)).sensor_stats == []
    # 1.0, 2.0, 4.5: mean 2.5, squares 2.25 + 0.25 + 4 = 6.5, / 2 = 3.25, root 1.8028.
    rows += [(MOTOR, "2021-06-01T10:10:00", 1), (MOTOR, "2021-06-01T10:11:00", 2), (MOTOR, "2021-06-01T10:12:00", 4.5)]
    [stat] = run(rows, [(MOTOR, "2021-06-01T10:13:00", "100")]).sensor_stats  # and a row of the wrong type
    assert (stat.min_value, stat.avg_value, stat.max_value) == (D(1), D("2.50"), D("4.5"))
    assert (stat.std_dev, stat.readings_count) == (D("1.80"), 3)


def test_negative_averages_round_away_from_zero() -> None:
    [stat] = run([(BASE, "2021-06-01T10:00:00", -100), (BASE, "2021-06-01T10:00:01", -101)]).sensor_stats
    assert stat.avg_value == D("-1.01")  # -1.005
    assert (stat.min_value, stat.max_value) == (D("-1.01"), D("-1"))


def test_an_hour_of_kolkata_begins_at_the_half_hour_of_utc() -> None:
    rows = [(MOTOR, "2021-06-01T04:29:59.999", 1), (MOTOR, "2021-06-01T04:30:00", 2), (MOTOR, "2021-06-01T18:30:00", 3)]
    stats = run(list(rows), zone="Asia/Kolkata").sensor_stats
    # 04:30 UTC is 10:00 local; 18:30 UTC is midnight, so the next day.
    assert [(s.hour_start, s.dt, s.day) for s in stats] == [
        (at("2021-06-01T03:30:00"), datetime(2021, 6, 1, 9), date(2021, 6, 1)),
        (at("2021-06-01T04:30:00"), datetime(2021, 6, 1, 10), date(2021, 6, 1)),
        (at("2021-06-01T18:30:00"), datetime(2021, 6, 2, 0), date(2021, 6, 2)),
    ]


def test_the_repeated_hour_of_madrid_is_two_rows() -> None:
    # On 2021-10-31 the clock goes back at 01:00 UTC from 03:00 to 02:00.
    rows = [(MOTOR, f"2021-10-31T0{hour}:30:00", 10 + hour) for hour in range(3)]
    stats = run(list(rows), zone="Europe/Madrid").sensor_stats
    assert [(s.hour_start, s.dt, s.avg_value) for s in stats] == [
        (at("2021-10-31T00:00:00"), datetime(2021, 10, 31, 2), D(10)),
        (at("2021-10-31T01:00:00"), datetime(2021, 10, 31, 2), D(11)),
        (at("2021-10-31T02:00:00"), datetime(2021, 10, 31, 3), D(12)),
    ]


# Activity -------------------------------------------------------------------------------------------------------------


def figures(results: Results) -> list[tuple[str, ...]]:
    return [
        (str(a.day), *map(str, (a.state_running, a.state_planned_down, a.running_percentage, a.down_percentage)))
        for a in results.activity
    ]


def test_a_gap_of_600_seconds_goes_on_and_one_of_601_ends_the_session() -> None:
    rows = [
        (OTHER, "2021-06-01T10:00:00", 1),
        (OTHER, "2021-06-01T10:10:00", 1),  # 600 s: 600 in all
        (OTHER, "2021-06-01T10:20:01", 1),  # 601 s: a new session
        (OTHER, "2021-06-01T10:30:01", 1),  # 600 s: 1200 in all
    ]
    # 1200 s = 0.3333 h -> 0.33; 24 - 0.3333 = 23.6667 -> 23.67;
    # 0.33 / 24 = 1.375 % -> 1.38; 23.67 / 24 = 98.625 % -> 98.63.
    assert figures(run(list(rows))) == [("2021-06-01", "0.33", "23.67", "1.38", "98.63")]


def test_time_is_cut_to_whole_seconds_before_the_gap_is_taken() -> None:
    # 10:00:00.000 to 10:10:00.999 is 600 whole seconds: running 600 s = 0.1667 h.
    assert figures(run([(OTHER, "2021-06-01T10:00:00", 1), (OTHER, "2021-06-01T10:10:00.999", 1)]))[0][1] == "0.17"
    # 10:00:00.999 to 10:10:01.000 is 600.001 s but 601 whole seconds apart: two sessions of nothing.
    assert figures(run([(OTHER, "2021-06-01T10:00:00.999", 1), (OTHER, "2021-06-01T10:10:01", 1)]))[0][1] == "0.00"


def test_any_row_counts_as_activity() -> None:
    results = run(
        [(BASE, "2021-06-01T10:00:00", None), (UNKNOWN, "2021-06-01T10:09:00", NAN)],
        [
            (ALARMS, "2021-06-01T10:18:00", None),
            (UNKNOWN, "2021-06-01T10:27:00", "nonsense"),
            (OP, "2021-06-01T10:36:00", "1"),
        ],
    )
    # 36 min = 0.6 h; 23.4 h; 2.5 %; 97.5 %.
    assert figures(results) == [("2021-06-01", "0.60", "23.40", "2.50", "97.50")]


def test_percentages_are_of_the_rounded_hours() -> None:
    # 20 s = 0.00556 h -> 0.01; 23.99444 -> 23.99; 0.01 / 24 = 0.0417 % (not 0.0231); 23.99 / 24 = 99.958 %.
    results = run([(OTHER, "2021-06-01T10:00:00", 1), (OTHER, "2021-06-01T10:00:20", 1)])
    assert figures(results) == [("2021-06-01", "0.01", "23.99", "0.04", "99.96")]


def test_sessions_end_with_the_day_and_a_day_without_rows_has_no_result() -> None:
    rows = [
        (OTHER, "2021-06-01T23:55:00", 1),
        (OTHER, "2021-06-01T23:59:00", 1),  # 4 min = 0.0667 h
        (OTHER, "2021-06-02T00:05:00", 1),  # a new day: a single row
        (OTHER, "2021-06-04T12:00:00", 1),
    ]
    assert [(a[0], a[1]) for a in figures(run(list(rows)))] == [
        ("2021-06-01", "0.07"),
        ("2021-06-02", "0.00"),
        ("2021-06-04", "0.00"),
    ]


def test_days_of_23_and_25_hours() -> None:
    hour = [f"{n * 10 % 60:02}" for n in range(6)]
    short = [(OTHER, f"2021-03-28T08:{minute}:00", 1.0) for minute in hour] + [(OTHER, "2021-03-28T09:00:00", 1.0)]
    # 1 h; 23 - 1 = 22; 1 / 23 = 4.348 %; 22 / 23 = 95.652 %.
    assert figures(run(list(short), zone="Europe/Madrid")) == [("2021-03-28", "1.00", "22.00", "4.35", "95.65")]
    # A session through the repeated hour, 00:30 to 01:30 UTC, is an hour long; 1 / 25 = 4 %.
    long = [(OTHER, f"2021-10-31T0{m // 60}:{m % 60:02}:00", 1.0) for m in range(30, 91, 10)]
    assert figures(run(list(long), zone="Europe/Madrid")) == [("2021-10-31", "1.00", "24.00", "4.00", "96.00")]


def test_the_day_is_the_local_one() -> None:
    # 18:29 and 18:31 UTC are 23:59 and 00:01 in Kolkata.
    rows = [(OTHER, "2021-06-01T18:29:00", 1.0), (OTHER, "2021-06-01T18:31:00", 1.0)]
    assert [a[0] for a in figures(run(list(rows), zone="Asia/Kolkata"))] == ["2021-06-01", "2021-06-02"]


# States ---------------------------------------------------------------------------------------------------------------


def test_state_changes_and_intervals() -> None:
    results = run(
        [
            (OP, "2021-06-01T10:00:00.123", 255),
            (OP, "2021-06-01T10:00:01", None),  # ignored
            (OP, "2021-06-01T10:00:02", 255),  # a change row, but no new interval
            (OP, "2021-06-01T10:00:03", 1),  # running too
            (OP, "2021-06-01T10:00:04", 0.5),
            (OP, "2021-06-01T10:00:05", INF),
            (OP, "2021-06-01T10:00:06", -0.0),
            (OP, "2021-06-01T10:00:07", NAN),
            (OP, "2021-06-01T10:00:08", NAN),
            (OP, "2021-06-03T00:00:00", 0),
        ],
        [(OP, "2021-06-01T10:00:09", "255")],  # of the wrong type
        cut="2021-06-03T00:00:00.500",
    )
    assert [(c.ts.isoformat(timespec="milliseconds")[11:23], c.value, c.state) for c in results.state_changes] == [
        ("10:00:00.123", 255, "running"),
        ("10:00:02.000", 255, "running"),
        ("10:00:03.000", 1, "running"),
        ("10:00:04.000", 255, "running"),
        ("10:00:05.000", 255, "running"),
        ("10:00:06.000", 0, "idle"),
        ("10:00:07.000", 0, "off"),
        ("10:00:08.000", 0, "off"),
        ("00:00:00.000", 0, "idle"),
    ]
    # off: 2021-06-01 10:00:07 to 2021-06-03 00:00:00 = 2 days less 10:00:07 = 172800 - 36007 = 136793 s.
    assert [(i.state, i.started_at, i.ended_at, i.duration_seconds) for i in results.state_intervals] == [
        ("running", at("2021-06-01T10:00:00.123"), at("2021-06-01T10:00:06"), D("5.877")),
        ("idle", at("2021-06-01T10:00:06"), at("2021-06-01T10:00:07"), D(1)),
        ("off", at("2021-06-01T10:00:07"), at("2021-06-03T00:00:00"), D(136793)),
        ("idle", at("2021-06-03T00:00:00"), at("2021-06-03T00:00:00.5"), D("0.5")),
    ]


def test_a_state_that_begins_at_the_cut_is_kept() -> None:
    [interval] = run([(OP, "2021-06-01T10:00:00", 0)]).state_intervals
    assert (interval.started_at, interval.ended_at, interval.duration_seconds) == (
        *2 * [at("2021-06-01T10:00:00")],
        D(0),
    )


def test_a_whole_number_that_is_no_integer_of_four_bytes_is_shown_as_255() -> None:
    results = run([(OP, "2021-06-01T10:00:00", 3e9), (OP, "2021-06-01T10:00:01", -1)])
    assert [(c.value, c.state) for c in results.state_changes] == [(255, "running"), (-1, "running")]


def test_the_day_of_a_change_is_the_local_one() -> None:
    [change] = run([(OP, "2021-06-01T22:00:00", 0)], zone="Europe/Madrid").state_changes
    assert (change.ts, change.day) == (at("2021-06-01T22:00:00"), date(2021, 6, 2))


# Program time ---------------------------------------------------------------------------------------------------------


def programs(results: Results) -> list[tuple[str, int, int]]:
    return [(str(p.day), p.program, p.duration_seconds) for p in results.program_time]


def test_a_program_over_midnight_counts_on_both_days_and_ends_at_the_cut() -> None:
    results = run([(PROG, "2021-06-01T23:00:00", 5), (PROG, "2021-06-02T01:00:00", 0)], cut="2021-06-02T01:00:30")
    assert programs(results) == [("2021-06-01", 5, 3600), ("2021-06-02", 0, 30), ("2021-06-02", 5, 3600)]


def test_what_is_no_program_is_ignored_and_nan_ends_it() -> None:
    rows: list[tuple[int, str, float | None]] = [
        (PROG, f"2021-06-01T10:00:0{n}", value) for n, value in enumerate([7, 1000, -1, 7.5, INF, None, -INF])
    ]
    rows += [
        (PROG, "2021-06-01T10:00:10", NAN),  # 7 ran 10 s
        (PROG, "2021-06-01T10:00:20", 1e10),  # no program either: still none
        (PROG, "2021-06-01T10:00:30", 7),
        (PROG, "2021-06-01T10:00:40", 7),  # logged again: goes on
        (PROG, "2021-06-01T10:01:00", NAN),  # 30 s more
    ]
    assert programs(run(rows, [(PROG, "2021-06-01T10:00:05", "8")], cut="2021-06-01T12:00:00")) == [
        ("2021-06-01", 7, 40)
    ]


def test_programs_0_and_999_are_programs() -> None:
    results = run([(PROG, "2021-06-01T10:00:00", -0.0), (PROG, "2021-06-01T10:00:02", 999)], cut="2021-06-01T10:00:05")
    assert programs(results) == [("2021-06-01", 0, 2), ("2021-06-01", 999, 3)]


def test_the_sum_is_rounded_not_the_spans() -> None:
    rows = [
        (PROG, "2021-06-01T10:00:00.000", 1),
        (PROG, "2021-06-01T10:00:00.300", 2),
        (PROG, "2021-06-01T10:00:00.500", 1),
        (PROG, "2021-06-01T10:00:00.700", 3),
    ]
    # 1: 0.3 + 0.2 = 0.5 -> 1; 2: 0.2 -> 0; 3 begins at the cut: no row.
    assert programs(run(list(rows))) == [("2021-06-01", 1, 1), ("2021-06-01", 2, 0)]


def test_a_program_running_through_days_without_a_row() -> None:
    results = run([(PROG, "2021-03-27T11:00:00", 3)], zone="Europe/Madrid", cut="2021-03-29T22:00:01")
    # From 12:00 local: 12 h = 43200 s; the 28th has 23 h = 82800 s; the 29th 24 h = 86400 s;
    # 22:00:01 UTC is 00:00:01 on the 30th.
    assert programs(results) == [
        ("2021-03-27", 3, 43200),
        ("2021-03-28", 3, 82800),
        ("2021-03-29", 3, 86400),
        ("2021-03-30", 3, 1),
    ]


# Energy ---------------------------------------------------------------------------------------------------------------


def kwh(results: Results) -> list[tuple[str, str]]:
    return [(str(e.hour_ts), str(e.energy_kwh)) for e in results.energy]


def test_energy_is_split_at_hours_and_carried_over_midnight() -> None:
    # 10 kW at 50 %: 5 kW from 22:30 to the cut at 00:15: 2.5, 5 and 1.25 kWh.
    assert kwh(run([(LOAD_X, "2021-06-01T22:30:00", 50)], cut="2021-06-02T00:15:00")) == [
        ("2021-06-01 22:00:00", "2.500"),
        ("2021-06-01 23:00:00", "5.000"),
        ("2021-06-02 00:00:00", "1.250"),
    ]


def test_energy_is_the_sum_of_the_motors_rounded_once() -> None:
    results = run(
        [(LOAD_X, "2021-06-01T10:00:00", 33.3), (LOAD_Y, "2021-06-01T10:00:00", 1)], cut="2021-06-01T10:00:36"
    )
    # 36 s = 0.01 h: 3.33 kW -> 0.0333 kWh; 0.1571 kW -> 0.001571 kWh; together 0.034871.
    assert kwh(results) == [("2021-06-01 10:00:00", "0.035")]
    # 18 ms at 100 % of 10 kW = 0.00005 kWh; 0.18 s = 0.0005 kWh rounds up.
    assert kwh(run([(LOAD_X, "2021-06-01T10:00:00", 100)], cut="2021-06-01T10:00:00.180"))[0][1] == "0.001"


def test_dirty_loads() -> None:
    rows: list[tuple[int, str, float | None]] = [
        (LOAD_X, "2021-06-01T10:00:00", 100),  # 30 min: 5 kWh
        (LOAD_X, "2021-06-01T10:10:00", None),  # ignored: goes on
        (LOAD_X, "2021-06-01T10:30:00", -20),  # 0
        (LOAD_X, "2021-06-01T10:40:00", INF),  # 0
        (LOAD_X, "2021-06-01T10:50:00", -INF),  # 0
        (LOAD_X, "2021-06-01T11:00:00", NAN),  # off until 13:30, so no row for 11 and 12
        (LOAD_X, "2021-06-01T13:30:00", 0),  # on at 0 kW until the cut
    ]
    results = run(rows, [(LOAD_X, "2021-06-01T12:00:00", "100")], cut="2021-06-01T14:00:00")
    assert kwh(results) == [("2021-06-01 10:00:00", "5.000"), ("2021-06-01 13:00:00", "0.000")]


def test_a_motor_on_for_no_time_has_no_row() -> None:
    assert kwh(run([(LOAD_X, "2021-06-01T10:00:00", 100)])) == []
    # Off on the hour: nothing of it in the next.
    rows = [(LOAD_X, "2021-06-01T10:30:00", 100.0), (LOAD_X, "2021-06-01T11:00:00", NAN)]
    assert kwh(run(list(rows), cut="2021-06-01T12:00:00")) == [("2021-06-01 10:00:00", "5.000")]


def test_energy_of_days_of_23_and_25_hours() -> None:
    # 10 kW through the whole local day: 10 kWh an hour, and the skipped or repeated hour as it is.
    spring = run([(LOAD_X, "2021-03-27T23:00:00", 100)], zone="Europe/Madrid", cut="2021-03-28T22:00:00").energy
    assert [e.hour_ts.hour for e in spring] == [0, 1, *range(3, 24)]
    autumn = run([(LOAD_X, "2021-10-30T22:00:00", 100)], zone="Europe/Madrid", cut="2021-10-31T23:00:00").energy
    assert [e.hour_ts.hour for e in autumn] == [0, 1, 2, 2, *range(3, 24)]
    assert {(e.day, e.energy_kwh) for e in autumn} == {(date(2021, 10, 31), D("10.000"))}
    assert autumn[3].hour_start == at("2021-10-31T01:00:00")


def test_energy_of_kolkata_is_split_at_the_half_hours_of_utc() -> None:
    # 05:00 UTC is 10:30 local: half an hour to 11:00 = 5 kWh, then 15 min to the cut = 2.5.
    results = run([(LOAD_X, "2021-06-01T05:00:00", 100)], zone="Asia/Kolkata", cut="2021-06-01T05:45:00")
    assert kwh(results) == [("2021-06-01 10:00:00", "5.000"), ("2021-06-01 11:00:00", "2.500")]


# Alerts ---------------------------------------------------------------------------------------------------------------

A = '["A1","Fallo eje X",3,2,1]'
A_AGAIN = '["A1","Fallo eje X",1,1,77]'  # the numbers are no part of the entry
A_OTHER = '["A1","Fallo eje Y",3,2,1]'
B = '["B1","CERRAR CARENADO",3,2,1]'


def spans(results: Results) -> list[tuple[str, str, str, str | None, Decimal | None]]:
    return [
        (
            a.alarm_code,
            a.alarm_description,
            f"{a.dt:%H:%M:%S}",
            f"{a.cleared_at:%H:%M:%S}" if a.cleared_at else None,
            a.duration_seconds,
        )
        for a in results.alerts
    ]


def alarm_rows(*lists: str | None) -> list[tuple[int, str, str | None]]:
    """The lists, ten seconds apart from 10:00:00 on."""
    return [(ALARMS, f"2021-06-01T10:{n // 6:02}:{n % 6}0", value) for n, value in enumerate(lists)]


def test_an_alert_lasts_from_the_first_list_with_it_to_the_first_without() -> None:
    results = run(None, alarm_rows(f"[{A}]", f"[{B},{A_AGAIN}]", f"[{B}]", f"[{A},{B}]", "[]"))
    assert spans(results) == [
        ("A1", "Fallo eje X", "10:00:00", "10:00:20", D(20)),
        ("B1", "CERRAR CARENADO", "10:00:10", "10:00:40", D(30)),
        ("A1", "Fallo eje X", "10:00:30", "10:00:40", D(10)),
    ]
    # Began: A twice, B once. Logged: A in three lists, B in three.
    assert results.alerts_per_day == [
        oracle.AlertsPerDay(date(2021, 6, 1), "error", 2, 3),
        oracle.AlertsPerDay(date(2021, 6, 1), "other", 1, 3),
    ]


def test_an_alert_ends_at_power_off_and_begins_again_at_power_on() -> None:
    results = run(None, alarm_rows(f"[{A}]", "NaN", "NaN", f"[{A}]"), cut="2021-06-01T11:00:00")
    assert spans(results) == [
        ("A1", "Fallo eje X", "10:00:00", "10:00:10", D(10)),
        ("A1", "Fallo eje X", "10:00:30", None, None),  # active at the cut
    ]


def test_null_is_ignored_and_malformed_lists_are_skipped_and_counted() -> None:
    results = run(None, alarm_rows(f"[{A}]", None, "NaN ", f'[{B},["X"]]', f"[{A}]", "[]", "", "NaN", "[1]"))
    assert spans(results) == [("A1", "Fallo eje X", "10:00:00", "10:00:50", D(50))]
    assert [s.value for s in results.skipped_lists] == ["NaN ", f'[{B},["X"]]', "", "[1]"]
    assert [(d.alert_type, d.amount, d.entries_logged) for d in results.alerts_per_day] == [("error", 1, 2)]


def test_the_same_code_with_other_text_is_another_alert_and_an_entry_twice_in_a_list_is_one() -> None:
    results = run(None, alarm_rows(f"[{A},{A},{A_OTHER}]", f"[{A_OTHER}]", "[]"))
    assert spans(results) == [
        ("A1", "Fallo eje X", "10:00:00", "10:00:10", D(10)),
        ("A1", "Fallo eje Y", "10:00:00", "10:00:20", D(20)),
    ]
    assert [(d.amount, d.entries_logged) for d in results.alerts_per_day] == [(2, 4)]


def test_a_day_may_have_entries_of_an_alert_that_began_before() -> None:
    lists = [(ALARMS, "2021-06-01T23:00:00", f"[{A}]"), (ALARMS, "2021-06-02T01:00:00", f"[{A},{B}]")]
    results = run(None, list(lists))
    assert [(d.day.day, d.alert_type, d.amount, d.entries_logged) for d in results.alerts_per_day] == [
        (1, "error", 1, 1),
        (2, "error", 0, 1),
        (2, "other", 1, 1),
    ]
    madrid = run(None, list(lists), zone="Europe/Madrid")  # 23:00 UTC is 01:00 on the 2nd
    assert [(d.day.day, d.alert_type, d.amount, d.entries_logged) for d in madrid.alerts_per_day] == [
        (2, "error", 1, 2),
        (2, "other", 1, 1),
    ]
    assert madrid.alerts[0].dt == datetime(2021, 6, 2, 1)


def test_alarms_in_the_numeric_log_are_no_lists() -> None:
    results = run([(ALARMS, "2021-06-01T10:00:05", NAN)], alarm_rows(f"[{A}]", "[]"))
    assert spans(results) == [("A1", "Fallo eje X", "10:00:00", "10:00:10", D(10))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PARADA DE EMERGENCIA", "emergency"),
        ("error: emergency stop", "emergency"),  # the priority decides, not the place
        ("ERROR EN EJE", "error"),
        ("Err 5", "error"),
        ("CERRAR CARENADO", "other"),
        ("Fallo", "error"),
        ("default", "other"),
        ("servo-fault", "error"),
        ("servo_fault", "other"),
        ("2fault", "other"),
        ("¡Atención!", "warning"),
        ("Preaviso", "other"),
        ("PRÉALARMA", "other"),
        ("falsa ALARMA", "warning"),
        ("Warning", "warning"),
        ("attentive", "other"),  # attention, atenci
        ("", "other"),
    ],
)
def test_alert_types(text: str, expected: str) -> None:
    assert oracle.alert_type(text, RULES) == expected
    assert oracle.alert_type(text, RULES[::-1]) == expected  # the order of the rows does not matter


@pytest.mark.parametrize(
    ("value", "entries"),
    [
        ("[]", []),
        (" [ ]\n", []),
        ('[["A","b"]]', [("A", "b")]),
        ('[["A","b",{"x":1},[null]],["A","b"]]', [("A", "b"), ("A", "b")]),
        (f'[["A","b",1e999999,{"9" * 5000}]]', [("A", "b")]),
        ('[["A","\\ud83d\\ude00 \\u00e1 \\/ \\""]]', [("A", '😀 á / "')]),
        ('[["A","  double  "]]', [("A", "  double  ")]),
        ('[["A","b"],["A"]]', None),
        ('[["A","b\\u0000"]]', None),
        ('[["A","b\\ud83d"]]', None),
        ('[["A","b",{"\\u0000":1,"x":2}]]', None),
        ('[["A","b",{"x":"\\ud800","x":2}]]', None),
        ('[["A\tB","b"]]', None),
        ('[["A","b",NaN]]', None),
    ],
)
def test_lists(value: str, entries: list[tuple[str, str]] | None) -> None:
    assert parse_list(value) == entries


def test_all_malformed_lists_of_the_random_logs_are_malformed_and_the_odd_ones_are_not() -> None:
    assert [value for value in oracle.MALFORMED if parse_list(value) is not None] == []
    assert [value for value in oracle.ODD_LISTS if parse_list(value) is None] == []


# The cut --------------------------------------------------------------------------------------------------------------


def test_the_cut_is_the_newest_row_of_both_logs_whatever_it_is() -> None:
    results = run([(OP, "2021-06-01T10:00:00", 0)], [(UNKNOWN, "2021-06-01T10:00:05", None)])
    assert results.cut == at("2021-06-01T10:00:05")
    assert results.state_intervals[0].ended_at == results.cut
    assert compute(MachineLog("m", "UTC", SIGNALS, VARIABLES, [], []), RULES) == Results("m", None)


# Days whose midnight is skipped or repeated ---------------------------------------------------------------------------


def test_a_day_whose_midnight_is_skipped_or_repeated() -> None:
    # Sao Paulo, 2018-11-04: 00:00 became 01:00 at 03:00 UTC. Havana, 2021-11-07: 01:00 became 00:00 at 05:00 UTC.
    skipped, repeated = oracle.Clock("America/Sao_Paulo"), oracle.Clock("America/Havana")
    assert skipped.day_start(date(2018, 11, 4)) == ms("2018-11-04T03:00:00")
    assert skipped.day_hours(date(2018, 11, 4)) == 23
    assert repeated.day_start(date(2021, 11, 7)) == ms("2021-11-07T04:00:00")
    assert repeated.day_hours(date(2021, 11, 7)) == 25


# Random histories -----------------------------------------------------------------------------------------------------


def histories(count: int = 60) -> list[MachineLog]:
    places = [
        ("UTC", date(2021, 6, 1)),
        ("Europe/Madrid", date(2021, 3, 26)),
        ("Europe/Madrid", date(2021, 10, 29)),
        ("Asia/Kolkata", date(2021, 6, 1)),
    ]
    made = []
    for seed in range(count):
        zone, start_day = places[seed % len(places)]
        made.append(random_log(random.Random(seed), f"m{seed}", zone, SIGNALS, start_day, 3 + seed % 9))
    return made


def same(one: MachineLog, two: MachineLog) -> bool:
    return repr(one) == repr(two)  # NaN is not equal to itself


def test_random_logs_are_deterministic_and_small_and_keep_the_key() -> None:
    for one, two in zip(histories(), histories(), strict=True):
        assert same(one, two)
        assert len(one.floats) == len({row[:2] for row in one.floats})
        assert len(one.strings) == len({row[:2] for row in one.strings})
        assert all(value is None or repr(oracle.as_real(value)) == repr(value) for *_, value in one.floats)
    sizes = [len(log.floats) + len(log.strings) for log in histories()]
    assert 50 < sum(sizes) / len(sizes) < 400


def test_random_logs_hit_the_edges() -> None:
    seen: Counter[str] = Counter()
    for log in histories():
        results = compute(log, RULES)
        names = log.variables
        roles = {signal.variable: signal.role for signal in SIGNALS}
        for id_var, moment, value in log.floats:
            role = roles.get(names.get(id_var, ""), "none")
            kind = (
                "null"
                if value is None
                else "zero"
                if value == 0
                else str(value)
                if not math.isfinite(value)
                else "real"
            )
            if kind == "real" and value is not None:
                kind = "negative" if value < 0 else "fraction" if value % 1 else "large" if value > 999 else "whole"
            seen[f"{role} {kind}"] += 1
            seen["unknown id"] += id_var not in names
            seen["hour border"] += moment % oracle.HOUR == 0
            local = oracle.utc(moment).astimezone(ZoneInfo(log.time_zone))
            seen["local midnight"] += (local.hour, local.minute, local.second, local.microsecond) == (0, 0, 0, 0)
            seen["repeated hour"] += local.fold
        for id_var, _, text in log.strings:
            role = roles.get(names.get(id_var, ""), "none")
            kind = "null" if text is None else "off" if text == "NaN" else "bad" if parse_list(text) is None else "list"
            seen[f"{role} text {kind}"] += 1
        times = sorted({moment // 1000 for _, moment, _ in [*log.floats, *log.strings]})
        for gap in (b - a for a, b in pairwise(times)):
            seen[f"gap {gap}"] += gap in (600, 601)
            seen["days without rows"] += gap > 3 * 86400
        seen["duplicate entries"] += sum(
            len(entries) != len(set(entries))
            for id_var, _, text in log.strings
            if names.get(id_var) == "ALARMS" and text and (entries := parse_list(text))
        )
        seen["overlap"] += sum(
            b.ended_at is not None and a.ended_at is not None and b.started_at < a.ended_at < b.ended_at
            for a, b in pairwise(results.alerts)
        )
        seen["active at the cut"] += sum(a.ended_at is None for a in results.alerts)
        for kind in ("sensor_stats", "activity", "state_intervals", "program_time", "energy", "skipped_lists"):
            seen[kind] += len(getattr(results, kind))
        seen["carried"] += any(d.amount == 0 for d in results.alerts_per_day)
        for a in results.alerts:
            seen[f"type {a.alert_type}"] += 1
    numeric = ["operation", "program", "load", "temperature"]
    edges = [
        f"{role} {kind}" for role in numeric for kind in ("null", "zero", "nan", "inf", "-inf", "whole", "negative")
    ]
    edges += ["operation fraction", "program fraction", "program large", "unknown id", "hour border", "local midnight"]
    edges += ["repeated hour", "alarms nan", "operation text list", "temperature text bad", "none text null"]
    edges += ["alarms text null", "alarms text off", "alarms text bad", "alarms text list", "gap 600", "gap 601"]
    edges += ["days without rows", "duplicate entries", "overlap", "active at the cut", "carried"]
    edges += ["sensor_stats", "activity", "state_intervals", "program_time", "energy", "skipped_lists"]
    edges += [f"type {kind}" for kind in ("emergency", "error", "warning", "other")]
    assert [edge for edge in edges if not seen[edge]] == []


def test_what_must_hold_for_any_history() -> None:
    for log in histories():
        results = compute(log, RULES)
        clock = oracle.Clock(log.time_zone)
        for day in results.activity:
            assert abs(Fraction(day.state_running + day.state_planned_down) - clock.day_hours(day.day)) <= Fraction(
                1, 100
            )
        for one, two in pairwise(results.state_intervals):
            assert one.ended_at == two.started_at
            assert one.state != two.state
            assert one.duration_seconds > 0
        for program in results.program_time:
            assert 0 <= program.duration_seconds <= clock.day_hours(program.day) * 3600
        assert all(a.duration_seconds is None or a.duration_seconds > 0 for a in results.alerts)
        assert sum(d.amount for d in results.alerts_per_day) == len(results.alerts)
        assert all(d.amount <= d.entries_logged > 0 for d in results.alerts_per_day)
        # The order of the rows does not matter.
        again = MachineLog(log.machine, log.time_zone, SIGNALS, log.variables, log.floats[::-1], log.strings[::-1])
        assert compute(again, RULES) == results


# The real rows --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def branosera() -> Results:
    if not SAMPLE.exists():
        pytest.skip(f"no real rows: {SAMPLE} is not there")
    with SAMPLE.open(newline="", encoding="utf-8") as file:
        rows = [(r["variable"], ms(r["ts_utc"].removesuffix("Z")), r["value"]) for r in csv.DictReader(file)]
    ids = {name: n for n, name in enumerate(dict.fromkeys(name for name, _, _ in rows), start=1)}
    signals = [
        Signal("operation", "MACHINE_IN_OPERATION", ONE, None),
        Signal("program", "PROG_STATUS", ONE, None),
        Signal("alarms", "ALARMS", ONE, None),
        *(
            Signal("temperature", f"TEMPERATURA_{part}", D(100), None)
            for part in ("BASE", "CABEZAL", "CARNERO", "CARNERO_2")
        ),
        Signal("load", "AXIS_X_MOTOR_UTILIZACION", ONE, D("15.1")),
        Signal("load", "AXIS_Y_MOTOR_UTILIZATION", ONE, D("15.1")),
        Signal("load", "AXIS_Z_MOTOR_UTILIZACION", ONE, D("15.71")),
        Signal("load", "SPINDLE_LOAD_1", ONE, D(37)),
    ]
    log = MachineLog(
        machine="branosera",
        time_zone="UTC",
        signals=signals,
        variables={n: name for name, n in ids.items()},
        floats=[(ids[name], when, float(value)) for name, when, value in rows if name != "ALARMS"],
        strings=[(ids[name], when, value) for name, when, value in rows if name == "ALARMS"],
    )
    return compute(log, RULES)


def test_real_states(branosera: Results) -> None:
    assert branosera.cut == at("2022-02-23T18:59:59")
    assert len(branosera.state_changes) == len(branosera.state_intervals) == 80  # 0 and 255 in turn
    first, *_, last = branosera.state_intervals
    # 21:00:04 to 21:11:52 = 708 s; 14:15:54 to 18:59:59 = 4:44:05 = 17045 s.
    assert (first.state, first.started_at, first.duration_seconds) == ("idle", at("2022-01-30T21:00:04"), D(708))
    assert (last.state, last.started_at, last.duration_seconds) == ("running", at("2022-02-23T14:15:54"), D(17045))
    # Running from 2022-01-30 22:01:07 to 2022-02-23 09:01:27: 23 days 11:00:20 = 1987200 + 39620.
    assert branosera.state_intervals[29].duration_seconds == D(2026820)


def test_real_alerts(branosera: Results) -> None:
    found = [(a.alarm_code, f"{a.dt:%H:%M:%S}", a.duration_seconds) for a in branosera.alerts]
    assert found == [
        ("250-1398", "21:11:16", D(39)),
        ("PLC00054", "21:13:28", D(1)),
        ("270-0021", "21:16:56", D(33)),
        ("PLC00010", "21:19:07", D(25)),
        ("250-1398", "21:19:32", D(6)),
        ("PLC00586", "21:27:57", D(6)),
        ("PLC01003", "21:28:03", D(26)),
        ("PLC00587", "21:28:29", D(1)),
        ("PLC00054", "21:31:46", D(1)),
        ("PLC00583", "21:49:09", D(354)),  # through the list in which the door joins it, to 21:55:03
        ("PLC00010", "21:53:55", D(45)),
        ("PLC00586", "21:55:31", D(1)),
        ("PLC01001", "21:55:32", D(13)),
        ("PLC00587", "21:55:45", D(2)),
        ("PLC00010", "21:55:46", D(1)),
        ("250-1398", "21:58:31", D(13)),
        ("PLC00586", "22:00:03", D(1)),
        ("PLC01003", "22:00:04", D(29)),
        ("PLC00587", "22:00:33", None),  # the last list of the sample
    ]
    assert {a.alert_type for a in branosera.alerts} == {"other"}  # CERRAR is no error
    # 18 lists with one entry and two with two.
    assert branosera.alerts_per_day == [oracle.AlertsPerDay(date(2022, 1, 30), "other", 19, 22)]
    assert branosera.skipped_lists == []


def test_real_temperatures(branosera: Results) -> None:
    found = {
        s.sensor_name: (s.min_value, s.avg_value, s.max_value, s.std_dev, s.readings_count)
        for s in branosera.sensor_stats
    }
    assert {s.dt for s in branosera.sensor_stats} == {datetime(2022, 2, 23, 18)}
    assert found == {
        # 108 readings, 1516 to 1532; over 1523 they sum to 72, their squares to 900: mean 15.23667,
        # (900 - 72^2 / 108) / 107 = 852 / 107 = 7.963, root 2.822 hundredths.
        "TEMPERATURA_BASE": (D("15.16"), D("15.24"), D("15.32"), D("0.03"), 108),
        "TEMPERATURA_CABEZAL": (D("34.36"), D("34.37"), D("34.37"), D("0.01"), 2),  # 34.365; 0.01 / sqrt 2
        "TEMPERATURA_CARNERO": (D("32.50"), D("32.51"), D("32.51"), D("0.01"), 2),  # 32.505
        "TEMPERATURA_CARNERO_2": (D("32.28"), D("32.31"), D("32.33"), D("0.04"), 2),  # 32.305; 0.05 / sqrt 2 = 0.0354
    }


def test_real_activity_and_energy(branosera: Results) -> None:
    days = {str(a.day): a for a in branosera.activity}
    # 09:01:27-09:12:18 651 s, 13:17:57-13:59:11 2474 s, 14:12:04-14:15:54 230 s, 18:58:00-18:59:59 119 s:
    # 3474 s = 0.965 h, so 0.97 and 23.04 (of 23.035); 0.97 / 24 = 4.042 %; 23.04 / 24 = 96 %.
    last = days["2022-02-23"]
    assert (last.state_running, last.state_planned_down) == (D("0.97"), D("23.04"))
    assert (last.running_percentage, last.down_percentage) == (D("4.04"), D("96.00"))
    # 2020-12-28 has one row.
    assert (days["2020-12-28"].state_running, days["2020-12-28"].down_percentage) == (D("0.00"), D("100.00"))
    # To the cut at :59: Z 36 % and 33 % a second each, X 6 % from :58, spindle 45 % and 46 %; Y begins at the cut.
    # 0.69 * 15.71 + 0.06 * 15.1 + 0.91 * 37 = 10.8399 + 0.906 + 33.67 = 45.4159 kWs = 0.0126 kWh.
    assert [(e.hour_ts, e.energy_kwh) for e in branosera.energy] == [(datetime(2022, 2, 23, 18), D("0.013"))]
    assert branosera.program_time == []


def test_the_hours_of_a_day_fill_it() -> None:
    for zone, day, hours in [("Europe/Madrid", date(2021, 3, 28), 23), ("Europe/Madrid", date(2021, 10, 31), 25)]:
        clock = oracle.Clock(zone)
        start, end = clock.day_start(day), clock.day_start(day + timedelta(days=1))
        assert [span for _, span in clock.split_by_hour(start, end)] == hours * [oracle.HOUR]
        assert list(clock.split_by_day(start, end)) == [(day, hours * oracle.HOUR)]
