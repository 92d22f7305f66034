"""The API as clients see it: over real HTTP, through nginx and PostgREST, against the demo plant."""

from __future__ import annotations

import csv
import io
import re
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from tests.conftest import Spindle

DAY = re.compile(r"\d{4}-\d\d-\d\d")
LOCAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\+00:00")

# DESIGN section 3: the columns of each endpoint and the kind of value in them
ENDPOINTS: dict[str, dict[str, Any]] = {
    "temperatures": {
        "machine": str,
        "dt": LOCAL,
        "min_value": float,
        "avg_value": float,
        "max_value": float,
        "std_dev": (float, None),
        "readings_count": int,
        "sensor_name": str,
        "day": DAY,
    },
    "machine_util": {
        "machine": str,
        "dt": DAY,
        "state_running": float,
        "state_planned_down": float,
        "running_percentage": float,
        "down_percentage": float,
    },
    "machine_changes": {"machine": str, "ts": MOMENT, "value": int, "state": str},
    "machine_timeline": {
        "machine": str,
        "state": str,
        "started_at": MOMENT,
        "ended_at": MOMENT,
        "duration_seconds": float,
    },
    "machine_program": {"machine": str, "dt": DAY, "program": int, "duration_seconds": int},
    "energy_consumption": {"machine": str, "hour_ts": LOCAL, "energy_kwh": float, "day": DAY},
    "alerts_daily_count": {"machine": str, "day": DAY, "alert_type": str, "amount": int, "entries_logged": int},
    "alerts_detail": {
        "machine": str,
        "id": int,
        "dt": LOCAL,
        "cleared_at": (LOCAL, None),
        "day": DAY,
        "alert_type": str,
        "alarm_code": str,
        "alarm_description": str,
        "duration_seconds": (float, None),
    },
    "machines": {"machine": str, "label": str, "time_zone": str, "first_day": DAY, "last_day": DAY},
    "sensors": {"machine": str, "sensor_name": str, "label": str, "first_day": DAY, "last_day": DAY},
}
DAY_COLUMN = {"machine_util": "dt", "machine_program": "dt"} | dict.fromkeys(
    ("temperatures", "energy_consumption", "alerts_daily_count", "alerts_detail"), "day"
)


def is_kind(value: object, kind: Any) -> bool:
    if isinstance(kind, tuple):
        return any(is_kind(value, one) for one in kind)
    if kind is None:
        return value is None
    if isinstance(kind, re.Pattern):
        return isinstance(value, str) and kind.fullmatch(value) is not None
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is kind


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_columns_and_types(spindle: Spindle, endpoint: str) -> None:
    rows = spindle.rows(endpoint)
    assert rows
    for row in rows:
        assert set(row) == set(ENDPOINTS[endpoint])
        wrong = {name: value for name, value in row.items() if not is_kind(value, ENDPOINTS[endpoint][name])}
        assert not wrong
    assert {row["machine"] for row in rows} == {"branosera", "tamesa"}


def test_usual_filters(spindle: Spindle) -> None:
    hours = spindle.rows(
        "temperatures", machine="eq.branosera", day="eq.2026-03-30", sensor_name="eq.TEMPERATURA_BASE", order="dt"
    )
    assert 5 < len(hours) <= 24
    assert [row["dt"] for row in hours] == sorted(row["dt"] for row in hours)
    assert all(row["dt"].startswith("2026-03-30T") and row["sensor_name"] == "TEMPERATURA_BASE" for row in hours)


def test_a_window_of_changes_and_of_the_timeline(spindle: Spindle) -> None:
    answer = spindle.get(
        "/api/v1/machine_changes?machine=eq.tamesa&ts=gte.2026-03-30T08:00:00Z&ts=lte.2026-03-30T12:00:00Z"
    )
    changes = answer.json
    assert changes
    assert all("2026-03-30T08:00:00" <= row["ts"] <= "2026-03-30T12:00:00.000+00:00" for row in changes)

    spans = spindle.rows(
        "machine_timeline",
        machine="eq.tamesa",
        started_at="lt.2026-03-30T12:00:00Z",
        ended_at="gt.2026-03-30T08:00:00Z",
        order="started_at",
    )
    assert spans[0]["started_at"] <= "2026-03-30T08:00:00"
    assert spans[-1]["ended_at"] >= "2026-03-30T12:00:00"
    for before, after in pairwise(spans):
        assert before["ended_at"] == after["started_at"]
        assert before["state"] != after["state"]


def test_select_order_limit_and_range(spindle: Spindle) -> None:
    newest = spindle.rows("machine_util", select="dt,state_running", order="dt.desc", limit="3")
    assert [set(row) for row in newest] == [{"dt", "state_running"}] * 3
    assert newest[0]["dt"] == "2026-03-31"

    every = spindle.rows("machine_program", order="machine,dt,program")
    first = spindle.rows("machine_program", order="machine,dt,program", limit="5")
    second = spindle.rows("machine_program", order="machine,dt,program", limit="5", offset="5")
    assert first + second == every[:10]

    part = spindle.get(
        "/api/v1/machine_program", headers={"Range": "0-4", "Prefer": "count=exact"}, order="machine,dt,program"
    )
    assert part.status == 206
    assert part.headers["Content-Range"] == f"0-4/{len(every)}"
    assert part.json == first


def test_usual_filter_by_type(spindle: Spindle) -> None:
    rows = spindle.rows("alerts_detail", alert_type="in.(emergency,error)")
    assert {row["alert_type"] for row in rows} == {"emergency", "error"}
    assert len({row["id"] for row in rows}) == len(rows)
    assert max(row["id"] for row in rows) < 2**53


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_csv(spindle: Spindle, endpoint: str) -> None:
    answer = spindle.get(f"/api/v1/{endpoint}", headers={"Accept": "text/csv"})
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/csv")
    table = list(csv.reader(io.StringIO(answer.body.decode())))
    assert set(table[0]) == set(ENDPOINTS[endpoint])
    assert len(table) - 1 == len(spindle.rows(endpoint))
    assert "NaN" not in answer.body.decode()


@pytest.mark.parametrize(("endpoint", "column"), DAY_COLUMN.items())
def test_a_day_without_data_is_an_empty_list(spindle: Spindle, endpoint: str, column: str) -> None:
    assert spindle.rows(endpoint, **{column: "eq.2019-01-01"}) == []


@pytest.mark.parametrize(
    ("endpoint", "filters"),
    [
        ("temperatures", {"day": "eq.yesterday-ish"}),
        ("temperatures", {"day": "2026-03-30"}),
        ("temperatures", {"no_such_column": "eq.1"}),
        ("machine_program", {"program": "eq.many"}),
        ("machine_util", {"order": "nothing"}),
        ("machine_changes", {"ts": "gte.2026-13-45"}),
    ],
)
def test_a_bad_filter_is_a_400_in_json(spindle: Spindle, endpoint: str, filters: dict[str, str]) -> None:
    answer = spindle.get(f"/api/v1/{endpoint}", **filters)
    assert answer.status == 400
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json["message"]


def test_an_unknown_endpoint_is_a_404_in_json(spindle: Spindle) -> None:
    for path in ("/api/v1/lathes", "/nothing/here", "/api/v2/machines"):
        answer = spindle.get(path)
        assert answer.status == 404, path
        assert answer.json["message"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/api/v1/machine_util", "/api/v1/rpc/anything", "/health/live", "/"])
def test_only_reading_is_allowed(spindle: Spindle, method: str, path: str) -> None:
    answer = spindle.get(path, method=method)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert answer.json["message"]


def test_head_and_options_pass(spindle: Spindle) -> None:
    head = spindle.get("/api/v1/machine_util", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert spindle.get("/api/v1/machine_util", method="OPTIONS").status in (200, 204)


def test_data_status_is_one_object_that_agrees_with_the_endpoints(spindle: Spindle) -> None:
    answer = spindle.get("/api/v1/data_status")
    assert answer.headers["Content-Type"].startswith("application/json")
    status = answer.json
    assert list(status)[:7] == [
        "first_date",
        "last_date",
        "sensor_records",
        "utilization_records",
        "alert_records",
        "program_records",
        "energy_records",
    ]
    assert {"data_until", "refreshed_at", "refresh_ok", "skipped_lists"} <= set(status)
    for name, endpoint in {
        "sensor_records": "temperatures",
        "utilization_records": "machine_util",
        "alert_records": "alerts_detail",
        "program_records": "machine_program",
        "energy_records": "energy_consumption",
    }.items():
        assert status[name] == len(spindle.rows(endpoint, select="machine")), name
    assert status["last_date"] == "2026-03-31"
    assert status["first_date"] == min(row["first_day"] for row in spindle.rows("machines"))
    assert status["refresh_ok"] is True
    assert status["skipped_lists"] > 0
    assert MOMENT.fullmatch(status["data_until"])


def test_data_status_of_one_machine(spindle: Spindle) -> None:
    whole = spindle.get("/api/v1/data_status").json
    parts = [spindle.get("/api/v1/data_status", machine=f"eq.{name}").json for name in ("branosera", "tamesa")]
    assert whole["machine"] is None
    assert [part["machine"] for part in parts] == ["branosera", "tamesa"]
    assert whole["energy_records"] == sum(part["energy_records"] for part in parts)


@pytest.mark.parametrize("path", ["/api/v1", "/api/v1/", "/api/v1/?select=*"])
@pytest.mark.parametrize("accept", ["*/*", "application/openapi+json"])
def test_the_root_is_the_description_and_names_no_version_of_a_server(spindle: Spindle, path: str, accept: str) -> None:
    answer = spindle.get(path, headers={"Accept": accept})
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json == spindle.get("/docs/openapi.json").json
    assert spindle.get(path, headers={"If-None-Match": answer.headers["ETag"]}).status == 304
    assert re.findall(rb"\d+\.\d+\.\d+", answer.body) == [b"3.1.0"], "of OpenAPI itself"


def test_the_openapi_description_has_the_words_of_the_models(spindle: Spindle) -> None:
    description = spindle.get("/api/v1/").json
    assert description["servers"] == [{"url": "/api/v1"}]
    schemas = description["components"]["schemas"]
    assert set(schemas) - {"error"} == {*ENDPOINTS, "data_status"}
    column = schemas["energy_consumption"]["properties"]["energy_kwh"]
    assert column["description"] == "Energy of all motors in the hour, in kWh, 3 decimals."
    for endpoint, columns in ENDPOINTS.items():
        definition = schemas[endpoint]
        assert "Grain:" in definition["description"]
        assert all(definition["properties"][name].get("description") for name in columns)


def test_health(spindle: Spindle) -> None:
    assert spindle.get("/health/live").json == {"status": "live"}
    assert spindle.get("/health/ready").json == {"status": "ready"}


def test_web_anon_reads_the_api_and_nothing_else(results: psycopg.Connection) -> None:
    results.execute("set role web_anon")
    readable = results.execute(
        "select n.nspname, c.relname, c.relkind::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where c.relkind in ('r', 'v', 'm', 'f', 'p', 'S')"
        " and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')"
        " and has_schema_privilege(n.oid, 'usage') and (has_table_privilege(c.oid, 'select')"
        " or has_table_privilege(c.oid, 'insert') or has_table_privilege(c.oid, 'update')"
        " or has_table_privilege(c.oid, 'delete'))"
    ).fetchall()
    assert sorted(readable) == sorted(("api", name, "v") for name in [*ENDPOINTS, "data_status"])
    writable = results.execute(
        "select relname from pg_class where relnamespace = 'api'::regnamespace"
        " and has_table_privilege(oid, 'insert, update, delete, truncate')"
    ).fetchall()
    assert writable == []
    for statement in (
        "select * from agg.sensor_stats",
        "select * from staging.refresh_window",
        "select * from raw.sources",
        "create table api.mine (x int)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            results.execute(statement)
    results.execute("reset role")


def test_a_reader_has_a_time_limit_and_cannot_write(results: psycopg.Connection) -> None:
    row = results.execute("select rolconfig, rolcanlogin from pg_roles where rolname = 'web_anon'").fetchone()
    assert row is not None
    assert not row[1]
    assert {"statement_timeout=10s", "default_transaction_read_only=on"} <= set(row[0])
    login = results.execute("select rolinherit, rolsuper from pg_roles where rolname = 'authenticator'").fetchone()
    assert login == (False, False)
