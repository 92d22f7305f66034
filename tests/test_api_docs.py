"""/docs says what is so: addresses, examples, columns and errors of the descriptions against the running API."""

from __future__ import annotations

import csv
import io
import re
import shutil
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import psycopg
import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker

from spindle.access import Access
from spindle.describe import Samples, describe, describe_old, find_samples
from tests.conftest import ROOT, Answer, Spindle

VIEWS = sorted(path.stem for path in (ROOT / "api_views").glob("*.sql"))
# Which addresses there are does not depend on data.
OLD_PATHS = sorted(describe_old(ROOT, Samples("branosera"))["paths"])
# DESIGN section 3: without data the replaced backend answered 404 at these, [] at the others.
EMPTY_IS_404 = {"/temperatures", "/temperature", "/machine_util", "/machine_program"}

UNITS = r"hours|percent|seconds|kWh|degrees Celsius|[Hh]ow many|Rows of|[Nn]umber"

checks = FormatChecker(formats=())


@checks.checks("date", ValueError)
def is_date(value: object) -> bool:
    return not isinstance(value, str) or date.fromisoformat(value).isoformat() == value


@checks.checks("date-time", ValueError)
def is_moment(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


@pytest.fixture(scope="module")
def description(spindle: Spindle) -> dict[str, Any]:
    return read(spindle, "/docs/openapi.json")


@pytest.fixture(scope="module")
def old_description(spindle: Spindle) -> dict[str, Any]:
    return read(spindle, "/docs/old-dialect.json")


def read(spindle: Spindle, path: str) -> dict[str, Any]:
    answer = spindle.get(path)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    document: dict[str, Any] = answer.json
    return document


def check(document: dict[str, Any], path: str, answer: Answer) -> None:
    """Fails when the answer is none of those described for the path, or is not of its schema."""
    responses = document["paths"][path]["get"]["responses"]
    response = responses.get(str(answer.status), responses["default"])
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
    schema = response["content"]["application/json"]["schema"] | {"components": document["components"]}
    errors = [error.message for error in Draft202012Validator(schema, format_checker=checks).iter_errors(answer.json)]
    assert not errors, (answer.status, errors[:5])


def filled(operation: dict[str, Any]) -> str:
    """The query that Swagger UI sends when nothing is typed: the examples of the parameters."""
    parts = []
    for parameter in operation["parameters"]:
        values = parameter.get("example", [])
        parts += [(parameter["name"], value) for value in (values if isinstance(values, list) else [values])]
    return urlencode(parts)


# The texts ------------------------------------------------------------------------------------------------------------


def test_every_view_is_described_there_and_in_the_database(
    results: psycopg.Connection, description: dict[str, Any]
) -> None:
    assert sorted(description["paths"]) == [f"/{view}" for view in VIEWS]
    schemas = description["components"]["schemas"]
    for view in VIEWS:
        found = results.execute(
            "select attname, col_description(attrelid, attnum), obj_description(attrelid) from pg_attribute"
            " where attrelid = %s::regclass and attnum > 0 and not attisdropped",
            (f"api.{view}",),
        ).fetchall()
        assert {text for _, _, text in found} == {schemas[view]["description"]}
        texts = {name: column["description"] for name, column in schemas[view]["properties"].items()}
        assert texts == {name: text for name, text, _ in found}, view


@pytest.mark.parametrize("view", VIEWS)
def test_every_column_is_explained(description: dict[str, Any], view: str) -> None:
    schema = description["components"]["schemas"][view]
    for words in ("Grain: ", "Key: ", "Time zone: "):
        assert words in schema["description"]
    for name, column in schema["properties"].items():
        text = column["description"]
        assert len(text.split()) >= 3, name
        assert text.lower().replace(" ", "_") != name, name
        kinds = column["type"] if isinstance(column["type"], list) else [column["type"]]
        if {"number", "integer"} & set(kinds):
            assert re.search(UNITS, text), f"{name}: no unit in {text!r}"
        if column.get("format") == "date":
            assert re.search("[Ll]ocal day", text), name
        if "pattern" in column:
            assert "local time of the machine" in text, name
        if column.get("format") == "date-time":
            assert "offset, UTC" in text, name
        if "null" in kinds:
            assert "null" in text, name
        [example] = column["examples"]
        Draft202012Validator(column, format_checker=checks).validate(example)


def test_the_texts_are_those_of_the_models(description: dict[str, Any]) -> None:
    for view in VIEWS:
        [model] = yaml.safe_load((ROOT / "api_views" / f"{view}.yml").read_text("utf-8"))["models"]
        assert description["components"]["schemas"][view]["description"] == model["description"]
        operation = description["paths"][f"/{view}"]["get"]
        assert model["description"] in operation["description"]
        named = {parameter.get("name") for parameter in operation["parameters"]}
        assert view == "data_status" or {column["name"] for column in model["columns"]} <= named


def test_a_new_view_is_described_by_dbts_own_keys_alone(tmp_path: Path) -> None:
    for folder in ("api_docs", "api_views", "models"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    column = {"name": "days", "description": "How many.", "data_type": "numeric"}
    view = {"name": "tools", "description": "Tools.", "columns": [column]}
    (tmp_path / "api_views" / "tools.yml").write_text(yaml.safe_dump({"models": [view]}), "utf-8")
    document = describe(tmp_path, Samples("branosera"))
    operation = document["paths"]["/tools"]["get"]
    assert operation["summary"] == "tools"
    assert [example["path"] for example in operation["x-examples"]] == ["/api/v1/tools?limit=10"]
    assert document["components"]["schemas"]["tools"]["properties"] == {"days": {"description": "How many."}}
    assert list(describe_old(tmp_path, Samples("branosera"))["paths"]) == list(
        describe_old(ROOT, Samples("x"))["paths"]
    )


# The examples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_examples_run(spindle: Spindle, description: dict[str, Any], view: str) -> None:
    operation = description["paths"][f"/{view}"]["get"]
    first, *others = operation["x-examples"]
    answer = spindle.get(first["path"])
    assert answer.status == 200, answer.body
    assert answer.json, "the first example shows no row"
    check(description, f"/{view}", answer)
    assert sorted(parse_qsl(urlsplit(first["path"]).query)) == sorted(parse_qsl(filled(operation)))
    for example in others:
        answer = spindle.get(example["path"])
        assert answer.status == 200, (example, answer.body)
        if "select=" not in example["path"]:
            check(description, f"/{view}", answer)
    for example in operation["x-examples"]:
        assert f"[{example['summary']}]({example['path']})" in operation["description"]


@pytest.mark.parametrize("view", VIEWS)
def test_all_rows_are_as_described(spindle: Spindle, description: dict[str, Any], view: str) -> None:
    check(description, f"/{view}", spindle.get(f"/api/v1/{view}"))


@pytest.mark.parametrize("view", VIEWS)
def test_links_in_the_texts_lead_somewhere(spindle: Spindle, description: dict[str, Any], view: str) -> None:
    text = description["paths"][f"/{view}"]["get"]["description"] + description["info"]["description"]
    links = re.findall(r"\]\((/[^\s()]*(?:\([^\s()]*\)[^\s()]*)*)\)", text)
    assert len(links) >= 4
    assert {link: spindle.get(link).status for link in links} == dict.fromkeys(links, 200)


def test_an_example_is_of_a_whole_day_with_alerts(spindle: Spindle, description: dict[str, Any]) -> None:
    [day] = re.findall(r"day=eq\.([\d-]+)", description["paths"]["/alerts_detail"]["get"]["x-examples"][0]["path"])
    assert day < spindle.rows("machines", machine="eq.branosera")[0]["last_day"]
    assert spindle.rows("alerts_detail", day=f"eq.{day}", alert_type="in.(emergency,error)", machine="eq.branosera")


def test_a_machine_without_results_is_no_example(results: psycopg.Connection) -> None:
    assert find_samples(results, "tamesa").machine == "tamesa"
    assert find_samples(results, "lathe").machine == "branosera"


@pytest.mark.parametrize("query", ["day=2021-09-14", "day=eq.someday", "no_column=eq.1", "order=nothing"])
def test_a_wrong_filter_is_answered_as_described(spindle: Spindle, description: dict[str, Any], query: str) -> None:
    answer = spindle.get(f"/api/v1/temperatures?{query}")
    assert answer.status == 400
    check(description, "/temperatures", answer)


def test_other_errors_are_as_described(spindle: Spindle, description: dict[str, Any]) -> None:
    for answer, status in (
        (spindle.get("/api/v1/lathes"), 404),
        (spindle.get("/api/v1/temperatures", method="DELETE"), 405),
        (spindle.get(f"/api/v1/temperatures?day=eq.{'1' * 20000}"), 414),
    ):
        assert answer.status == status
        check(description, "/temperatures", answer)


def test_the_cap_on_rows_is_told(description: dict[str, Any]) -> None:
    text = description["info"]["description"]
    assert "`X-Row-Limit`" in text
    assert f"{Access.max_rows:,} rows" in text
    for operation in (description["paths"][f"/{view}"]["get"] for view in VIEWS):
        pages = {"machines", "sensors", "data_status"}.isdisjoint({operation["operationId"]})
        assert ("**Pages**" in operation["description"]) == pages


# Pages ----------------------------------------------------------------------------------------------------------------


def test_whole_days_are_pages(spindle: Spindle) -> None:
    """Where a text says so, its days one after the other have each row once."""
    paged = 0
    for file in sorted((ROOT / "api_views").glob("*.yml")):
        [model] = yaml.safe_load(file.read_text("utf-8"))["models"]
        if not (column := model["config"]["meta"].get("page_days")):
            continue
        paged += 1
        rows = sorted(map(repr, spindle.rows(file.stem)))
        first, last = (
            date.fromisoformat(spindle.get("/api/v1/data_status").json[f"{end}_date"]) for end in ("first", "last")
        )
        found = []
        for begin in range(0, (last - first).days + 1, 5):
            bounds = [(column, f"gte.{first + timedelta(begin)}"), (column, f"lt.{first + timedelta(begin + 5)}")]
            found += spindle.get(f"/api/v1/{file.stem}?{urlencode(bounds)}").json
        assert sorted(map(repr, found)) == rows, file.stem
    assert paged == 4


# The dialect of the replaced backend ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", OLD_PATHS)
def test_the_old_dialect_answers_as_described(spindle: Spindle, old_description: dict[str, Any], path: str) -> None:
    operation = old_description["paths"][path]["get"]
    [example] = operation["x-examples"]
    answer = spindle.get(example["path"])
    assert answer.status == 200, answer.body
    assert answer.json
    check(old_description, path, answer)
    rows = answer.json if isinstance(answer.json, list) else [answer.json]
    name = "temperatures" if path == "/temperature" else path[1:]
    schema = old_description["components"]["schemas"][name]
    keys = list(schema["properties"])
    assert all(list(row)[: len(keys)] == keys for row in rows)
    assert schema["additionalProperties"] or all(list(row) == keys for row in rows)
    assert sorted(parse_qsl(urlsplit(example["path"]).query)) == sorted(parse_qsl(filled(operation)))


@pytest.mark.parametrize("path", [path for path in OLD_PATHS if path != "/data_status"])
def test_errors_of_the_old_dialect_are_as_described(
    spindle: Spindle, old_description: dict[str, Any], path: str
) -> None:
    operation = old_description["paths"][path]["get"]
    given = dict(parse_qsl(filled(operation)))
    required = [parameter["name"] for parameter in operation["parameters"] if parameter.get("required")]
    for name in required:
        answer = spindle.get(f"/api/v1{path}?{urlencode(given | {name: ''})}")
        assert 400 <= answer.status < 500
        assert name in answer.json["message"]
        check(old_description, path, answer)
    if "target_date" in required:
        answer = spindle.get(f"/api/v1{path}?{urlencode(given | {'target_date': '2019-01-01'})}")
        assert answer.status == (404 if path in EMPTY_IS_404 else 200)
        check(old_description, path, answer)


# The files ------------------------------------------------------------------------------------------------------------


def test_csv_by_link_is_a_file(spindle: Spindle) -> None:
    for view in VIEWS:
        linked = spindle.get(f"/api/v1/{view}.csv")
        assert linked.status == 200
        assert linked.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert linked.headers["Content-Disposition"] == f'attachment; filename="{view}.csv"'
        assert linked.body == spindle.get(f"/api/v1/{view}", headers={"Accept": "text/csv"}).body
        assert "Content-Disposition" not in spindle.get(f"/api/v1/{view}").headers


def test_csv_has_the_rows_of_json(spindle: Spindle) -> None:
    """Texts with commas, quotes and accents are themselves; null is an empty field; no NaN."""
    filters = {"order": "machine,id", "select": "id,alarm_description,cleared_at,duration_seconds"}
    rows = spindle.rows("alerts_detail", **filters)
    assert any('"' in row["alarm_description"] or "," in row["alarm_description"] for row in rows)
    assert any(not row["alarm_description"].isascii() for row in rows)
    assert any(row["cleared_at"] is None for row in rows)
    table = list(csv.DictReader(io.StringIO(spindle.get("/api/v1/alerts_detail.csv", **filters).body.decode("utf-8"))))
    assert [(row["id"], row["alarm_description"], row["cleared_at"]) for row in table] == [
        (str(row["id"]), row["alarm_description"], (row["cleared_at"] or "").replace("T", " ")) for row in rows
    ]
    lengths = [float(row["duration_seconds"]) if row["duration_seconds"] else None for row in table]
    assert lengths == [row["duration_seconds"] for row in rows]


def test_an_error_of_a_csv_link_is_shown_and_not_saved(spindle: Spindle) -> None:
    for path, status in (("/api/v1/machine_util.csv?x=eq.1", 400), ("/api/v1/lathes.csv", 404)):
        answer = spindle.get(path)
        assert answer.status == status
        assert answer.json["message"]
        assert "Content-Disposition" not in answer.headers


def test_the_pages_run_nothing_from_elsewhere(spindle: Spindle) -> None:
    page = spindle.get("/docs")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    text = page.body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=|https?://", text)
    for path in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert spindle.get(path).status == 200, path
    assert spindle.get("/docs/spindle.d.ts").headers["Content-Type"] == "text/plain; charset=utf-8"

    lineage = spindle.get("/lineage")
    assert lineage.status == 200
    assert b"model.spindle.temperatures" in lineage.body
    policy = lineage.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert not re.search("connect-src|https?:", policy)


@pytest.mark.parametrize("path", ["/docs", "/docs/openapi.json", "/lineage"])
def test_the_pages_are_only_read(spindle: Spindle, path: str) -> None:
    assert spindle.get(path, method="HEAD").status == 200
    assert spindle.get(path, method="OPTIONS").status == 204
    assert spindle.get(path, method="POST").status == 405


@pytest.mark.parametrize(
    "path", ["/docs/index.js", "/docs/nothing", "/docs/openapi.yaml", "/docs/../openapi.yaml", "/docs/.npmrc"]
)
def test_nothing_else_is_served(spindle: Spindle, path: str) -> None:
    assert spindle.get(path).status == 404


def test_the_lineage_page_is_made_again_when_the_project_changes(spindle: Spindle) -> None:
    page = spindle.state_dir / "pages" / "lineage.html"
    page.unlink()
    missing = spindle.get("/lineage")
    assert missing.status == 404
    assert b"make serve" in missing.body
    spindle.run("serve")
    made = page.stat().st_mtime_ns
    spindle.run("serve")
    assert page.stat().st_mtime_ns == made
    assert spindle.get("/lineage").status == 200
