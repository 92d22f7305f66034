"""The dialect of the replaced backend, over real HTTP: what a client of it sends, what it must get, what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spindle.rebuild import rebuild
from spindle.settings import Connection
from tests.conftest import ROOT, THOROUGH, Answer, Spindle, thorough
from tests.small_plant import OPERATION, TEMPERATURE, SmallPlant

DAY = "2026-03-30"
MACHINES = ("branosera", "tamesa")
PAGE = ROOT / "docs" / "old-dialect.md"


@dataclass(frozen=True)
class OldPath:
    """A path of the dialect: its keys in order, the same from the results' own tables, and whether no data is a 404."""

    keys: str
    query: str
    refuses_no_data: bool = False


PATHS = {
    "machine_util": OldPath(
        "dt, state_running, state_planned_down, running_percentage, down_percentage",
        "select day, state_running, state_planned_down, running_percentage, down_percentage from agg.activity"
        " where machine = %s and day = %s",
        refuses_no_data=True,
    ),
    "machine_program": OldPath(
        "dt, program, duration_seconds",
        "select day, program, duration_seconds from agg.program_time where machine = %s and day = %s"
        " order by duration_seconds desc, program",
        refuses_no_data=True,
    ),
    "energy_consumption": OldPath(
        "hour_ts, energy_kwh",
        "select hour_ts, energy_kwh from agg.energy where machine = %s and day = %s order by hour_started_at",
    ),
    "alerts_daily_count": OldPath(
        "day, alert_type, amount",
        "select day, alert_type, amount from agg.alerts_per_day where machine = %s and day = %s"
        " order by amount desc, alert_type",
    ),
    "alerts_detail": OldPath(
        "id, dt, alert_type, alarm_code, alarm_description",
        "select id, dt, alert_type, alarm_code, alarm_description from agg.alerts where machine = %s and day = %s"
        " and alert_type in ('emergency', 'error') order by started_at, id",
    ),
}
TEMPERATURE_KEYS = "dt, min_value, avg_value, max_value, std_dev, readings_count"
ALL_PATHS = (*PATHS, "temperatures", "machine_changes", "data_status")
NEEDED = dict.fromkeys(PATHS, f"target_date={DAY}") | {
    "temperatures": f"target_date={DAY}&sensor_name=TEMPERATURA_BASE",
    "temperature": f"target_date={DAY}&sensor_name=TEMPERATURA_BASE",
    "machine_changes": f"start={DAY}T08:00:00Z&end={DAY}T09:00:00Z",
    "data_status": "machine=tamesa",
}


# What is asked, and what is expected ----------------------------------------------------------------------------------


def old(spindle: Spindle, path: str, query: str = "", **parameters: str) -> Answer:
    """An answer to a query as it stands, or to parameters as a browser encodes them."""
    return spindle.get(f"/api/v1/{path}?{query or urlencode(parameters, quote_via=quote)}")


def pairs(answer: Answer) -> list[list[tuple[str, Any]]]:
    """The rows with their keys in the order in which they were sent. NaN and infinities are no JSON."""

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    rows: list[list[tuple[str, Any]]] = json.loads(answer.body, object_pairs_hook=list, parse_constant=refuse)
    return rows


def as_written(value: Any) -> Any:
    """A value of the database as the replaced backend wrote it: times as Python's str() has them."""
    if isinstance(value, datetime) and value.tzinfo:
        value = value.astimezone(timezone.utc)
    return str(value) if isinstance(value, (date, datetime)) else value


def expected(
    results: psycopg.Connection, keys: str, query: str, parameters: tuple[Any, ...]
) -> list[list[tuple[str, Any]]]:
    rows = results.execute(query, parameters).fetchall()
    return [list(zip(keys.split(", "), map(as_written, row), strict=True)) for row in rows]


def days(results: psycopg.Connection) -> list[date]:
    """The days of the plant, those without results too, and one on either side."""
    found = results.execute("select min(day), max(day) from agg.activity").fetchone()
    assert found is not None
    first, last = found
    return [first + timedelta(days=number) for number in range(-1, (last - first).days + 2)]


def error(answer: Answer, status: int) -> dict[str, Any]:
    """The body of an error of this dialect."""
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert set(answer.json) == {"code", "details", "hint", "message"}
    assert answer.json["code"] == f"OD{status}"
    found: dict[str, Any] = answer.json
    return found


# Answers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_every_day_has_the_rows_keys_and_order_of_the_results(
    spindle: Spindle, results: psycopg.Connection, path: str
) -> None:
    wanted = PATHS[path]
    answered = 0
    for machine in MACHINES:
        for day in days(results):
            rows = expected(results, wanted.keys, wanted.query, (machine, day))
            answer = old(spindle, path, target_date=str(day), machine=machine)
            if rows or not wanted.refuses_no_data:
                assert pairs(answer) == rows
            else:
                assert str(day) in error(answer, 404)["message"]
            answered += len(rows)
    assert answered > 20


@pytest.mark.parametrize("path", ["temperatures", "temperature"])
def test_temperatures_of_every_sensor_and_day(spindle: Spindle, results: psycopg.Connection, path: str) -> None:
    query = (
        "select dt, min_value, avg_value, max_value, std_dev, readings_count from agg.sensor_stats"
        " where machine = %s and day = %s and sensor_name = %s order by hour_started_at"
    )
    sensors = results.execute("select distinct machine, sensor_name from agg.sensor_stats order by 1, 2").fetchall()
    without_deviation = 0
    for machine, sensor in sensors:
        for day in days(results)[::3]:
            rows = expected(results, TEMPERATURE_KEYS, query, (machine, day, sensor))
            answer = old(spindle, path, target_date=str(day), sensor_name=sensor, machine=machine)
            if rows:
                assert pairs(answer) == rows
                without_deviation += sum(row[4] == ("std_dev", None) and row[5][1] == 1 for row in rows)
            else:
                assert "target_date" in error(answer, 404)["message"]
    assert len(sensors) > 10
    assert without_deviation > 0


def test_changes_of_a_window_with_both_ends(spindle: Spindle, results: psycopg.Connection) -> None:
    query = "select ts, value from agg.state_changes where machine = %s and ts between %s and %s order by ts"
    for machine in MACHINES:
        moments = results.execute(
            "select ts from agg.state_changes where machine = %s order by ts", (machine,)
        ).fetchall()
        for first, last in ((0, -1), (5, 5), (7, 40)):
            start, end = (moments[number][0].astimezone(timezone.utc) for number in (first, last))
            rows = expected(results, "ts, value", query, (machine, start, end))
            answer = old(spindle, "machine_changes", start=str(start), end=str(end), machine=machine)
            assert pairs(answer) == rows
            assert rows[0][0][1] == str(start)
            assert rows[-1][0][1] == str(end)


def test_a_fraction_has_six_digits_and_is_left_out_when_it_is_zero(
    spindle: Spindle, results: psycopg.Connection
) -> None:
    bounds = {"start": "2026-03-01 00:00:00+00:00", "end": "2026-04-01 00:00:00+00:00"}
    for machine in MACHINES:
        shown = [row[0][1] for row in pairs(old(spindle, "machine_changes", **bounds, machine=machine))]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?\+00:00", text) for text in shown)
        assert not any(".000000" in text for text in shown)
        assert sum("." not in text for text in shown) == len(
            results.execute(
                "select from agg.state_changes where machine = %s and date_trunc('second', ts) = ts", (machine,)
            ).fetchall()
        )
    (whole,) = results.execute(
        "select count(*) from agg.state_changes where date_trunc('second', ts) = ts"
    ).fetchone() or (0,)
    assert whole > 0, "the plant has no change at a whole second"


def test_data_status_has_the_seven_keys_first(spindle: Spindle) -> None:
    seven = ["first_date", "last_date", "sensor_records", "utilization_records", "alert_records", "program_records"]
    seven.append("energy_records")
    of_all, of_one = spindle.get("/api/v1/data_status"), old(spindle, "data_status", machine="tamesa")
    assert list(of_all.json)[:7] == list(of_one.json)[:7] == seven
    assert of_all.json["machine"] is None
    assert of_one.json == spindle.get("/api/v1/data_status?machine=eq.tamesa").json
    assert of_one.headers["Content-Type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("path", ["energy_consumption", "alerts_daily_count", "alerts_detail"])
@pytest.mark.parametrize("day", ["2019-01-01", "0001-01-01", "9999-12-31"])
def test_no_data_is_an_empty_list(spindle: Spindle, path: str, day: str) -> None:
    assert old(spindle, path, target_date=day).body == b"[]"
    assert old(spindle, "machine_changes", start=f"{day} 00:00:00", end=f"{day} 01:00:00").body == b"[]"


@pytest.mark.parametrize("path", ["temperatures", "temperature", "machine_util", "machine_program"])
@pytest.mark.parametrize("day", ["2019-01-01", "0001-01-01", "9999-12-31", "2024-02-29"])
def test_no_data_is_a_404(spindle: Spindle, path: str, day: str) -> None:
    sensor = {"sensor_name": "TEMPERATURA_BASE"} if path.startswith("temp") else {}
    assert day in error(old(spindle, path, target_date=day, **sensor), 404)["message"]


def test_the_examples_of_the_page_are_true(spindle: Spindle) -> None:
    examples = re.findall(r"^```answer\nGET (\S+)\n(\d+) (.*?)\n```$", PAGE.read_text("utf-8"), re.M | re.S)
    assert len(examples) == PAGE.read_text("utf-8").count("```answer") > 10
    for request, status, shown in examples:
        answer = spindle.get(f"/api/v1{request}")
        body = re.sub(r" +$", "", answer.body.decode(), flags=re.M)
        assert answer.status == int(status), request
        if shown.endswith(" …"):
            assert body.startswith(shown.removesuffix(" …")), request
        else:
            assert body == shown, request


# Machines -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NEEDED)
def test_the_default_machine_is_the_configured_one(spindle: Spindle, path: str) -> None:
    query = NEEDED[path]
    if path == "data_status":
        return
    assert old(spindle, path, query).body == old(spindle, path, f"{query}&machine=branosera").body
    assert old(spindle, path, query).body != old(spindle, path, f"machine=tamesa&{query}").body


def test_another_default_machine_is_served_from_the_next_serve_on(spindle: Spindle) -> None:
    of_tamesa = old(spindle, "machine_util", target_date=DAY, machine="tamesa").body
    of_branosera = old(spindle, "machine_util", target_date=DAY, machine="branosera").body
    changed = Spindle(spindle.state_dir, spindle.settings | {"DEFAULT_MACHINE": "tamesa"}, spindle.port)
    try:
        changed.run("serve")
        await_body(spindle, of_tamesa)
    finally:
        spindle.run("serve")
    await_body(spindle, of_branosera)


def await_body(spindle: Spindle, body: bytes) -> None:
    """nginx goes on with its old configuration for a moment."""
    deadline = time.monotonic() + 10
    while old(spindle, "machine_util", target_date=DAY).body != body:
        assert time.monotonic() < deadline
        time.sleep(0.1)


# Spellings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        f"target%5Fdate={DAY}",
        f"target_date={DAY}&",
        f"&&target_date={DAY}",
        f"machine=branosera&target_date={DAY}",
        "target_date=2026%2D03%2D30",
        "target_date=%32%30%32%36-03-30",
    ],
)
def test_queries_that_mean_the_same(spindle: Spindle, query: str) -> None:
    assert old(spindle, "machine_util", query).body == old(spindle, "machine_util", target_date=DAY).body


def test_the_path_may_be_encoded_too(spindle: Spindle) -> None:
    wanted = old(spindle, "machine_util", target_date=DAY).body
    assert old(spindle, "machine%5Futil", target_date=DAY).body == wanted
    assert spindle.get(f"//api/v1//machine_util?target_date={DAY}").body == wanted


SPELLINGS: dict[str, Callable[[datetime], str]] = {
    "as the frontend writes it": lambda t: quote(str(t)),
    "plus not encoded": lambda t: quote(str(t), safe="+:"),
    "all blanks plus": lambda t: quote(str(t)).replace("%20", "+").replace("%2B", "+"),
    "ISO": lambda t: quote(t.isoformat()),
    "small t": lambda t: quote(t.isoformat().replace("T", "t")),
    "Z": lambda t: quote(str(t.astimezone(timezone.utc)).replace("+00:00", "Z")),
    "no offset": lambda t: quote(str(t.astimezone(timezone.utc).replace(tzinfo=None))),
    "offset without colon": lambda t: quote(t.strftime("%Y-%m-%dT%H:%M:%S.%f%z")),
    "blank before the offset": lambda t: quote(t.strftime("%Y-%m-%d %H:%M:%S.%f %z")),
    "milliseconds": lambda t: quote(t.isoformat(timespec="milliseconds")),
}


@settings(max_examples=200 if THOROUGH else 40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    number=st.integers(0, 200),
    minutes=st.integers(-12 * 60, 14 * 60),
    spelling=st.sampled_from(sorted(SPELLINGS)),
    machine=st.sampled_from(MACHINES),
)
def test_a_moment_in_any_spelling_is_that_moment(
    spindle: Spindle, results: psycopg.Connection, number: int, minutes: int, spelling: str, machine: str
) -> None:
    row = results.execute(
        "select ts, value from agg.state_changes where machine = %s order by ts offset %s limit 1", (machine, number)
    ).fetchone()
    assert row is not None
    moment = row[0].astimezone(timezone(timedelta(minutes=minutes)))
    text = SPELLINGS[spelling](moment)
    answer = old(spindle, "machine_changes", f"start={text}&end={text}&machine={machine}")
    assert pairs(answer) == [[("ts", as_written(row[0])), ("value", row[1])]], spelling


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("2026-03-30", "2026-03-30 00:00:00+00:00"),
        ("2026-03-30 08:04", "2026-03-30 08:04:00+00:00"),
        ("2026-03-30 10:00+02", "2026-03-30 08:00:00+00:00"),
        ("2026-03-30T03:00-0530", "2026-03-30 08:30:00Z"),
    ],
)
def test_a_time_may_be_short(spindle: Spindle, short: str, long: str) -> None:
    end = "2026-03-30 12:00:00+00:00"
    wanted = old(spindle, "machine_changes", start=long, end=end)
    assert len(pairs(wanted)) > 5
    assert old(spindle, "machine_changes", start=short, end=end).body == wanted.body


# Errors ---------------------------------------------------------------------------------------------------------------

NO_DAYS = """
2021-02-30 2021-13-01 2021-00-10 0000-00-00 99999-01-01 -2021-01-01 20210914 2021-9-14 21-09-14 14.09.2021
2021-09-14T00:00:00 today now epoch infinity -infinity yesterday tomorrow allballs NaN null undefined 0 1631577600
J2459472 ٢٠٢١-٠٩-١٤ 2021-09-14' 2021-09-14::date eq.2021-09-14 $1 % %s {} [] \\ " <script> ../../etc/passwd 🌀
"""
NO_DAYS_WITH_BLANKS = (
    "2021-09-14 ",
    " 2021-09-14",
    "2021-09-14\n",
    "2021-09-14\r\nX-Evil: 1\r\n\r\n[]",
    "2021-09-14' or '1'='1",
    "'; drop schema api cascade; --",
    "x " * 1500,
)


@pytest.mark.parametrize("path", ["machine_util", "alerts_detail"])
@pytest.mark.parametrize("day", [*NO_DAYS.split(), *NO_DAYS_WITH_BLANKS])
def test_what_is_no_day(spindle: Spindle, path: str, day: str) -> None:
    answer = old(spindle, path, target_date=day)
    found = error(answer, 422)
    assert "target_date" in found["message"]
    assert len(found["message"]) < 100
    assert "X-Evil" not in answer.headers


NO_MOMENTS = """
today now epoch infinity -infinity allballs 0 1643554800 15:00:00 2022-01-30T 2022-01-30T15 2022-02-30T15:00
99999-01-01T00:00 0000-01-01T00:00 2022-01-30T24:00:00 2022-01-30T15:60:00 2022-01-30T15:00:60 2022-01-30T15:00:00.
2022-01-30T15:00:00+99:00 2022-01-30T15:00:00+01:00:00:00 2022-01-30T15:00:00UTC 2022-01-30T15:00:00[Europe/Madrid]
2022-W04-7T15:00 ñandú
"""
NO_MOMENTS_WITH_BLANKS = (
    "2022-01-30 15",
    "2022-01-30 +15:00",
    "2022-01-30 15:00:00 BC",
    "2022-01-30  15:00:00",
    "2022-01-30 15:00:00' --",
    "2022-01-30 15:00:00\r\nX-Evil: 1",
)


@pytest.mark.parametrize("moment", [*NO_MOMENTS.split(), *NO_MOMENTS_WITH_BLANKS])
def test_what_is_no_moment(spindle: Spindle, moment: str) -> None:
    good = "2022-01-30 15:00:00+00:00"
    assert "start is" in error(old(spindle, "machine_changes", start=moment, end=good), 422)["message"]
    assert "end is" in error(old(spindle, "machine_changes", start=good, end=moment), 422)["message"]


@pytest.mark.parametrize(
    ("path", "query", "status", "named"),
    [
        # missing, and what is there but empty
        ("temperature", "", 422, ["target_date", "sensor_name"]),
        ("temperature", "sensor_name=TEMPERATURA_BASE", 422, ["target_date"]),
        ("temperatures", "sensor_name=TEMPERATURA_BASE", 422, ["target_date"]),
        ("temperatures", f"target_date={DAY}", 422, ["sensor_name"]),
        ("machine_util", "machine=tamesa", 422, ["target_date"]),
        ("machine_changes", "start=2026-03-30T08:00:00Z", 422, ["end"]),
        ("machine_changes", "end=2026-03-30T08:00:00Z", 422, ["start"]),
        ("machine_util", "target_date=", 422, ["target_date"]),
        ("machine_util", "target_date", 422, ["target_date"]),
        ("machine_util", f"target_date={DAY}&machine=", 422, ["machine"]),
        ("temperatures", f"target_date={DAY}&sensor_name=", 422, ["sensor_name"]),
        ("data_status", "machine=", 422, ["machine"]),
        # given twice, also when equal, empty or encoded
        ("machine_util", f"target_date={DAY}&target_date={DAY}", 422, ["target_date"]),
        ("machine_util", f"target_date={DAY}&target%5fdate=2026-03-29", 422, ["target_date"]),
        ("machine_util", f"target_date={DAY}&machine=tamesa&machine=", 422, ["machine"]),
        ("machine_changes", "start=2026-03-30&end=2026-03-30&end=2026-03-31", 422, ["end"]),
        # windows
        ("machine_changes", "start=2026-03-30T08:00:00Z&end=2026-03-30T07:59:59Z", 422, ["end", "start"]),
        ("machine_changes", "start=2026-03-30T08:00:00Z&end=2026-03-30T09:00:00%2B02:00", 422, ["end", "start"]),
        ("machine_changes", "start=2010-01-01&end=2030-01-01", 422, ["end", "start"]),
        ("machine_changes", "start=0001-01-01&end=9999-12-31", 422, ["end", "start"]),
        ("machine_changes", "start=2026-01-01T00:00:00Z&end=2027-01-02T00:00:01Z", 422, ["end", "start"]),
        # parameters that do not belong there
        ("machine_util", f"target_date={DAY}&foo=bar", 400, ["foo"]),
        ("machine_util", f"target_date={DAY}&sensor_name=X", 400, ["sensor_name"]),
        ("machine_util", f"Target_Date={DAY}", 400, ["Target_Date"]),
        ("machine_util", f"date={DAY}", 400, ["date"]),
        ("machine_util", "start=2026-03-30&end=2026-03-31", 400, ["start"]),
        ("machine_changes", f"target_date={DAY}", 400, ["target_date"]),
        ("data_status", f"target_date={DAY}", 400, ["target_date"]),
        ("temperature", f"day=eq.{DAY}", 400, ["day"]),
        ("machine_util", "&".join(f"p{number}={number}" for number in range(900)), 400, ["p0"]),
        # both dialects at once
        ("machine_util", f"target_date={DAY}&dt=eq.{DAY}", 400, ["dt=eq.", "target_date="]),
        ("machine_util", f"dt=eq.{DAY}&target_date={DAY}", 400, ["dt=eq.", "target_date="]),
        ("machine_util", f"target_date={DAY}&machine=eq.tamesa", 400, ["machine=eq.", "target_date="]),
        ("machine_util", f"target_date={DAY}&machine=not.in.(tamesa)", 400, ["machine=not.in.", "target_date="]),
        ("machine_util", f"target_date={DAY}&select=dt", 400, ["select=dt", "target_date="]),
        ("machine_util", f"target_date={DAY}&limit=1", 400, ["limit=1", "target_date="]),
        ("machine_util", f"target_date={DAY}&or=(dt.eq.{DAY})", 400, ["or=", "target_date="]),
        ("machine_util", f"machine=tamesa&dt=eq.{DAY}", 400, ["dt=eq.", "machine=tamesa"]),
        (
            "temperatures",
            f"target_date={DAY}&sensor_name=eq.TEMPERATURA_BASE",
            400,
            ["sensor_name=eq.", "target_date="],
        ),
        ("machine_changes", "start=2026-03-30&end=2026-03-31&ts=gte.2026-03-30", 400, ["ts=gte.", "end="]),
        # nothing there
        ("machine_util", f"target_date={DAY}&machine=nosuch", 404, ["machine", "nosuch"]),
        ("alerts_detail", f"target_date={DAY}&machine=BRANOSERA", 404, ["machine", "BRANOSERA"]),
        ("machine_changes", "start=2026-03-30&end=2026-03-31&machine=%27%20or%20true--", 404, ["machine"]),
        ("data_status", "machine=nosuch", 404, ["machine", "nosuch"]),
        ("temperatures", f"target_date={DAY}&sensor_name=NOSUCH", 404, ["sensor_name", "NOSUCH"]),
        ("temperature", f"target_date={DAY}&sensor_name=temperatura_base", 404, ["sensor_name"]),
        ("temperatures", f"target_date={DAY}&sensor_name=A%27;drop%20table%20x;--", 404, ["sensor_name"]),
        ("temperatures", f"target_date={DAY}&sensor_name=TEMPERATURA_BASE&machine=nosuch", 404, ["machine"]),
        # what is no text
        ("machine_util", "target_date=%00", 422, ["target_date"]),
        ("machine_util", f"target_date={DAY}%00", 422, ["target_date"]),
        ("machine_util", "target_date=%ff", 422, ["target_date"]),
        ("temperature", "sensor_name=%c3%28", 422, ["sensor_name"]),
        ("data_status", "machine=%ed%a0%80", 422, ["machine"]),
    ],
)
def test_an_error_names_the_parameter(spindle: Spindle, path: str, query: str, status: int, named: list[str]) -> None:
    message = error(old(spindle, path, query), status)["message"]
    assert [name for name in named if name not in message] == []


def test_a_year_with_a_leap_day_is_no_more_than_a_window(spindle: Spindle) -> None:
    rows = pairs(old(spindle, "machine_changes", start="2025-12-31 00:00:00+00:00", end="2027-01-01 00:00:00+00:00"))
    assert len(rows) == len(spindle.rows("machine_changes", machine="eq.branosera"))


def raw(spindle: Spindle, target: bytes, *headers: bytes, sent: bytes = b"") -> tuple[int, bytes]:
    """Status and body of a request that no client library would send."""
    lines = [b"GET /api/v1/" + target + b" HTTP/1.1", b"Host: 127.0.0.1", b"Connection: close", *headers]
    with socket.create_connection(("127.0.0.1", spindle.port), timeout=30) as connection:
        connection.sendall(b"\r\n".join([*lines, b"", sent]))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    "value", ["%", "%zz", "%ff", "%c3%28", "%ed%a0%80", "\xff", "\xc3", "\x80\x80", "\x7f", "BA\xc3\x91O"]
)
def test_bytes_that_are_no_text_or_not_encoded(spindle: Spindle, value: str) -> None:
    """Of what nginx takes for no request at all (the last control character) the message has no name."""
    for query, named in (
        (f"target_date={DAY}&sensor_name={value}", "sensor_name"),
        (f"{value}={DAY}", ""),
        (f"sensor_name=X&target_date={value}", "target_date"),
    ):
        status, body = raw(spindle, f"temperatures?{query}".encode("latin-1"), b"Accept-Encoding: identity")
        assert status in (400, 404, 422)
        assert f'"message":"{"" if value == chr(127) else named}'.encode() in body


def test_nobody_waits_for_a_body(spindle: Spindle) -> None:
    target = f"machine_util?target_date={DAY}".encode()
    for header, sent in ((b"Content-Length: 5", b"hello"), (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n")):
        began = time.monotonic()
        assert raw(spindle, target, header, sent=sent)[0] in (200, 400, 413)
        assert time.monotonic() - began < 5


NAMES = ("target_date", "start", "end", "sensor_name", "machine", "select", "order", "dt", "ts", "")
VALUES = (DAY, "2026-03-30T08:00:00Z", "TEMPERATURA_BASE", "tamesa", "eq.1", "in.(1,2)", "dt.desc", "infinity", "")
PARTS = st.one_of(
    st.sampled_from(VALUES),
    st.text(max_size=30).map(lambda text: quote(text, safe="")),
    st.binary(max_size=12).map(quote),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=30),
)
QUERIES = st.lists(
    st.one_of(st.tuples(st.sampled_from(NAMES), PARTS).map("=".join), st.tuples(PARTS, PARTS).map("=".join), PARTS),
    max_size=6,
).map("&".join)


@settings(max_examples=1500 if THOROUGH else 250, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(ALL_PATHS), query=QUERIES)
def test_garbage_is_answered_in_json_and_never_by_a_5xx(spindle: Spindle, path: str, query: str) -> None:
    first = "machine=tamesa" if path == "data_status" else "target_date=2026-03-30"
    for target in (f"{path}?{first}&{query}", f"{path}?{query}&{first}", f"temperature?{query}"):
        status, body = raw(spindle, target.encode(), b"Accept-Encoding: identity")
        assert 200 <= status < 500, target
        text = re.sub(rb"(?m)^[0-9a-f]+\r\n|\r\n", b"", body)  # chunks
        assert status == 200 or json.loads(text)["message"], target


# Which dialect --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "",
        "&",
        "order=dt.desc&limit=2",
        "limit=2&offset=1",
        "select=machine,dt&limit=2",
        f"dt=eq.{DAY}",
        f"dt=gte.2026-03-29&dt=lte.{DAY}",
        f"dt=not.eq.{DAY}&limit=1",
        "machine=in.(tamesa)&limit=1",
        "machine=not.in.(tamesa)&limit=1",
        "machine=like(any).%7Bt*%7D&limit=1",
        "machine=eq%2Etamesa&limit=1",
        "state_running=gt.0&limit=1",
        f"and=(dt.gte.{DAY},machine.eq.tamesa)",
        f"not.or=(dt.lt.{DAY},machine.eq.tamesa)",
    ],
)
def test_requests_that_speak_postgrest(spindle: Spindle, query: str) -> None:
    answer = old(spindle, "machine_util", query)
    assert answer.status == 200, answer.body
    assert answer.json
    assert all("machine" in row for row in answer.json)


@pytest.mark.parametrize("path", [path for path in ALL_PATHS if path != "data_status"])
def test_without_a_parameter_it_is_postgrest(spindle: Spindle, path: str) -> None:
    assert {row["machine"] for row in spindle.rows(path)} == set(MACHINES)


def test_only_the_gateway_opens_the_functions(spindle: Spindle) -> None:
    profile = {"Accept-Profile": "legacy", "Content-Profile": "legacy"}
    plain = spindle.get(f"/api/v1/machine_util?dt=eq.{DAY}")
    answer = spindle.get(f"/api/v1/machine_util?dt=eq.{DAY}", headers=profile)
    assert answer.status == 400 or (answer.status, answer.body) == (200, plain.body)
    assert "Content-Profile" not in plain.headers
    for path in (
        "/api/v1/rpc/machine_util",
        f"/api/v1/rpc/machine_util?target_date={DAY}",
        "/api/v1/rpc/decode_part?encoded=x",
        f"/old_dialect/machine_util?target_date={DAY}",
        f"/api/v1/../old_dialect/machine_util?target_date={DAY}",
        "/old_dialect/refuse?status=200",
    ):
        for headers in ({}, profile):
            assert spindle.get(path, headers=headers).status in (400, 404), path


def test_headers_of_the_client_change_nothing(spindle: Spindle) -> None:
    forged = {
        "Accept-Profile": "api",
        "Old-Dialect-Query": "target_date=2026-03-29",
        "Default-Machine": "tamesa",
        "Range": "0-0",
        "Prefer": "count=exact, handling=strict, tx=commit",
        "Accept": "image/png",
        "Authorization": "Bearer x.y.z",
        "Content-Type": "application/json",
        "X-Odd": "\xff\xfe",
    }
    wanted = old(spindle, "energy_consumption", target_date=DAY)
    assert len(pairs(wanted)) > 1
    answer = spindle.get(f"/api/v1/energy_consumption?target_date={DAY}", headers=forged)
    assert (answer.status, answer.body) == (200, wanted.body)
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"


# Methods and CSV ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NEEDED)
def test_head_and_options(spindle: Spindle, path: str) -> None:
    target = f"/api/v1/{path}?{NEEDED[path]}"
    head, full = spindle.get(target, method="HEAD"), spindle.get(target)
    assert (head.status, head.body, head.headers["Content-Type"]) == (200, b"", full.headers["Content-Type"])
    options = spindle.get(target, method="OPTIONS")
    assert options.status in (200, 204)
    assert options.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert spindle.get(target, method="POST").status == 405
    assert spindle.get(f"/api/v1/{path}?target_date=x&start=x", method="HEAD").status in (400, 422)


@pytest.mark.parametrize("path", NEEDED)
def test_csv_has_the_same_columns_and_values(spindle: Spindle, path: str) -> None:
    target = f"/api/v1/{path}?{NEEDED[path]}"
    answer, plain = spindle.get(target, headers={"Accept": "text/csv"}), spindle.get(target).json
    rows = plain if isinstance(plain, list) else [plain]
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    header, *lines = csv.reader(io.StringIO(answer.body.decode()))
    assert header == list(rows[0])
    assert len(lines) == len(rows)
    if path != "data_status":  # whose times and booleans CSV writes in its own way
        assert lines == [["" if value is None else str(value) for value in row.values()] for row in rows]


# In the database ------------------------------------------------------------------------------------------------------


def call(connection: psycopg.Connection, function: str, query: str) -> list[tuple[Any, ...]]:
    """What PostgREST does for a reader."""
    headers = {"old-dialect-query": query, "default-machine": "branosera"}
    connection.execute("set role web_anon")
    connection.execute("select set_config('request.headers', %s, false)", (json.dumps(headers),))
    return connection.execute(f"select * from legacy.{function}()").fetchall()


def test_a_session_s_settings_change_no_answer(results: psycopg.Connection) -> None:
    query = "start=2026-03-30T08:00:00&end=2026-03-30T12:00:00&machine=tamesa"
    wanted = call(results, "machine_changes", query)
    assert len(wanted) > 10
    for setting in ("timezone = 'Asia/Kolkata'", "datestyle = 'German, DMY'", "search_path = ''"):
        results.execute(f"set {setting}")
        assert call(results, "machine_changes", query) == wanted


def test_the_functions_are_the_reader_s_own_and_read_the_views_alone(results: psycopg.Connection) -> None:
    functions = results.execute(
        "select proname, prosecdef, provolatile::text, pg_get_functiondef(oid) from pg_proc"
        " where pronamespace = 'legacy'::regnamespace"
    ).fetchall()
    assert set(ALL_PATHS) < {name for name, *_ in functions}
    for name, is_definer, volatility, body in functions:
        assert (is_definer, volatility) == (False, "s"), name
        assert not re.search(r"\b(agg|staging|raw)\.", body), name


@pytest.fixture
def bare(module_database_factory: Callable[[], Connection], tmp_path: Path) -> SmallPlant:
    """Set up twice, and nothing refreshed: there are functions, and no view that they read."""
    small = SmallPlant(replace(module_database_factory(), user="spindle_admin"), tmp_path)
    small.set_up()
    small.set_up()
    return small


def test_the_views_are_looked_up_when_they_are_asked(bare: SmallPlant) -> None:
    """A rebuild renames schemas while PostgREST's sessions stay."""
    answers = []
    with (
        psycopg.connect(**bare.settings.results.parameters(), autocommit=True) as reader,
        psycopg.connect(**bare.settings.results.parameters(), autocommit=True) as owner,
    ):
        owner.execute("set role spindle_owner")
        for hours in (1.5, 2.5):
            owner.execute("alter schema api rename to api_old" if answers else "select")
            owner.execute(
                "create schema if not exists api; grant usage on schema api to web_anon;"
                "create view api.machine_util as select 'branosera' as machine, date '2026-03-30' as dt,"
                f" {hours}::float8 as state_running, 0::float8 as state_planned_down,"
                " 0::float8 as running_percentage, 0::float8 as down_percentage;"
                "grant select on api.machine_util to web_anon"
            )
            answers += call(reader, "machine_util", "target_date=2026-03-30")
    assert answers == [(date(2026, 3, 30), hours, 0, 0, 0) for hours in (1.5, 2.5)]


@thorough
def test_chosen_times_before_and_after_a_rebuild(bare: SmallPlant) -> None:
    bare.log(
        (OPERATION, "2026-03-30 08:00:00", 255.0),
        (OPERATION, "2026-03-30 08:00:00.500", 0.0),
        (OPERATION, "2026-03-30 08:00:01.001", "NaN"),
        (TEMPERATURE, "2026-03-30 08:30:00", 2810.0),
    ).close()
    bare.refresh()
    with psycopg.connect(**bare.settings.results.parameters(), autocommit=True) as reader:
        assert call(reader, "machine_changes", "start=2026-03-30&end=2026-03-31") == [
            ("2026-03-30 08:00:00+00:00", 255),
            ("2026-03-30 08:00:00.500000+00:00", 0),
            ("2026-03-30 08:00:01.001000+00:00", 0),
        ]
        asked = "target_date=2026-03-30&sensor_name=TEMPERATURA_BASE"
        first = ("2026-03-30 08:00:00", 28.1, 28.1, 28.1, None, 1)
        assert call(reader, "temperatures", asked) == [first]
        bare.log((TEMPERATURE, "2026-03-30 09:00:00", 2820.0)).close()
        rebuild(bare.settings)
        assert call(reader, "temperatures", asked) == [first, ("2026-03-30 09:00:00", 28.2, 28.2, 28.2, None, 1)]
