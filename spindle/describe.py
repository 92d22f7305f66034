"""The OpenAPI descriptions of both dialects: texts, types, examples of api_views/*.yml in the frames of api_docs/."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import psycopg
import yaml

Json = dict[str, Any]

# JSON's form of the types that a view may have; a time without an offset is no date-time of JSON Schema.
TYPES: dict[str, Json] = {
    "text": {"type": "string"},
    "date": {"type": "string", "format": "date"},
    "timestamp without time zone": {
        "type": "string",
        "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?$",
    },
    "timestamp with time zone": {"type": "string", "format": "date-time"},
    "integer": {"type": "integer", "format": "int32"},
    "bigint": {"type": "integer", "format": "int64"},
    "double precision": {"type": "number", "format": "double"},
    "boolean": {"type": "boolean"},
}
# The replaced backend wrote times with a blank, and with six digits or none after the second.
OLD_TYPES = TYPES | {
    "timestamp without time zone": {
        "type": "string",
        "pattern": r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?$",
    },
    "timestamp with time zone": {
        "type": "string",
        "pattern": r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?\+\d\d:\d\d$",
    },
}

# The machine, or another one if it has no results. A whole day with temperatures, and with an emergency or error if
# there is one, the newest of them.
FIND_SAMPLES = """
    with chosen as (
        select machine, last_day
        from api.machines
        where last_day is not null
        order by machine <> %s, machine
        limit 1
    ),
    alerts as (
        select day
        from api.alerts_daily_count
        where machine = (select machine from chosen) and alert_type in ('emergency', 'error') and amount > 0
    ),
    temperatures as (
        select day, min(sensor_name) as sensor
        from api.temperatures
        where machine = (select machine from chosen)
        group by day
    )
    select chosen.machine, temperatures.day, temperatures.sensor
    from chosen
    cross join temperatures
    order by
        temperatures.day < chosen.last_day desc,
        temperatures.day in (select day from alerts) desc,
        temperatures.day desc
    limit 1
"""


@dataclass(frozen=True)
class Samples:
    """What stands for {machine}, {day} and {sensor} in an example, so that it has rows."""

    machine: str
    day: date = date(2021, 9, 14)
    sensor: str = "TEMPERATURA_BASE"

    def fill(self, text: str) -> str:
        return text.format(
            machine=self.machine,
            sensor=self.sensor,
            day=self.day,
            next=self.day + timedelta(days=1),
            week=self.day - timedelta(days=6),
        )


# For those who may not read: no machine, no sensor, no day of the results.
NEUTRAL = Samples("my_machine", sensor="MY_SENSOR")


def find_samples(connection: psycopg.Connection, machine: str) -> Samples:
    """Samples of which the results have rows; without results those of the texts."""
    found = connection.execute(FIND_SAMPLES, (machine,)).fetchone()
    return Samples(*found) if found else Samples(machine)


def describe(root: Path, samples: Samples) -> Json:
    """The OpenAPI document of PostgREST's dialect."""
    document = _read(root / "api_docs" / "openapi.yaml")
    purposes = _purposes(root)
    document["paths"] = {}
    for view in _views(root):
        name, meta = view["name"], _meta(view)
        wanted = meta.get("examples", [{"summary": "Ten rows", "query": "limit=10"}])
        document["components"]["schemas"][name] = {
            "type": "object",
            "description": view.get("description", ""),
            "required": [column["name"] for column in view["columns"]],
            "additionalProperties": False,
            "properties": {column["name"]: _schema(column, TYPES) for column in view["columns"]},
        }
        examples = [
            {"summary": example["summary"], "path": _link(name, samples.fill(example["query"]))} for example in wanted
        ]
        answer = _answer(name, meta)
        answer["content"]["text/csv"] = {"schema": {"type": "string"}}
        document["paths"][f"/{name}"] = {
            "get": {
                "operationId": name,
                "tags": [meta.get("tag", "More")],
                "summary": purposes[name]["label"],
                "description": _story(view, purposes[name]["description"], examples),
                "parameters": _filters(view, samples.fill(wanted[0]["query"]), document["components"]["parameters"]),
                "responses": {
                    "200": answer,
                    "400": {"$ref": "#/components/responses/bad_request"},
                    "default": {"$ref": "#/components/responses/other_error"},
                },
                "x-examples": examples,
            }
        }
    return document


def describe_old(root: Path, samples: Samples) -> Json:
    """The OpenAPI document of the replaced backend's dialect."""
    document = _read(root / "api_docs" / "old_dialect.yaml")
    purposes = _purposes(root)
    document["paths"] = {}
    for view in _views(root):
        name, meta = view["name"], _meta(view)
        if "old_dialect" not in meta:
            continue
        old = meta["old_dialect"]
        columns = {column["name"]: column for column in view["columns"]}
        document["components"]["schemas"][name] = {
            "type": "object",
            "required": old["columns"],
            "additionalProperties": bool(meta.get("one_object")),
            "properties": {column: _schema(columns[column], OLD_TYPES) for column in old["columns"]},
        }
        document["paths"][f"/{name}"] = {"get": _old_operation(document, view, purposes[name]["label"], samples)}
        if other := old.get("also_at"):
            same = _old_operation(document, view, f"The same as /{name}", samples, other)
            document["paths"][f"/{other}"] = {"get": same}
    return document


def _old_operation(document: Json, view: Json, summary: str, samples: Samples, path: str = "") -> Json:
    meta = _meta(view)
    old, path = meta["old_dialect"], path or view["name"]
    values = {
        "target_date": f"{samples.day}",
        "sensor_name": samples.sensor,
        "start": f"{samples.day} 00:00:00+00:00",
        "end": f"{samples.day} 23:59:59+00:00",
        "machine": samples.machine,
    }
    named = [*old["parameters"], *([] if meta.get("one_object") else ["machine"])]
    example = _link(path, "&".join(f"{name}={values[name]}" for name in named))
    responses = {"200": _answer(view["name"], meta)}
    if named:
        responses |= {
            "400": {"$ref": "#/components/responses/bad_request"},
            "404": {"$ref": "#/components/responses/no_data"},
            "422": {"$ref": "#/components/responses/malformed"},
        }
    responses["default"] = {"$ref": "#/components/responses/other_error"}
    return {
        "operationId": path,
        "tags": [document["tags"][0]["name"]],
        "summary": summary,
        "description": f"{old['answer']}\n\n[An example]({example})",
        "parameters": [document["components"]["parameters"][name] | {"example": values[name]} for name in named],
        "responses": responses,
        "x-examples": [{"summary": "An example", "path": example}],
    }


# Parts ---------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> Json:
    # libyaml's parser where PyYAML has it: ten times as fast, half a second of every refresh
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document: Json = yaml.load(path.read_text(encoding="utf-8"), loader)
    return document


def _views(root: Path) -> list[Json]:
    return [view for file in sorted((root / "api_views").glob("*.yml")) for view in _read(file).get("models", [])]


def _purposes(root: Path) -> dict[str, Json]:
    """Label and description of each endpoint, from its exposure; a view without one goes by its name."""
    exposures = _read(root / "models" / "exposures.yml")["exposures"]
    return {view["name"]: {"label": view["name"], "description": ""} for view in _views(root)} | {
        exposure["name"]: exposure for exposure in exposures
    }


def _meta(node: Json) -> Json:
    """What a view or a column says about itself beyond dbt's own keys; all of it may be missing."""
    meta: Json = node.get("config", {}).get("meta", {})
    return meta


def _schema(column: Json, types: dict[str, Json]) -> Json:
    meta, kind = _meta(column), column["data_type"]
    schema = types.get(kind, {}) | {"description": column.get("description", "")}
    if "example" in meta:
        same = types.get(kind) == TYPES.get(kind)
        schema["examples"] = [meta["example"] if same else _old_time(meta["example"])]
    if "values" in meta:
        schema["enum"] = meta["values"]
    if meta.get("nullable"):
        schema["type"] = [schema["type"], "null"]
    return schema


def _old_time(text: str) -> str:
    moment = re.sub(r"\.(\d+)", lambda found: f".{found[1]:0<6}", text)
    return moment.replace("T", " ")


def _answer(name: str, meta: Json) -> Json:
    row: Json = {"$ref": f"#/components/schemas/{name}"}
    if meta.get("one_object"):
        return {"description": "One object.", "content": {"application/json": {"schema": row}}}
    rows = {"type": "array", "items": row}
    return {"description": "The rows, `[]` when there is none.", "content": {"application/json": {"schema": rows}}}


def _filters(view: Json, query: str, shared: dict[str, Json]) -> list[Json]:
    """A parameter for each column, and PostgREST's own; filled with an example."""
    given: dict[str, list[str]] = {}
    for name, value in parse_qsl(query):
        given.setdefault(name, []).append(value)
    parameters = []
    for column in view["columns"]:
        name, text = column["name"], {"type": "string"}
        # A time is asked for by its bounds: the same parameter twice.
        twice = column["data_type"].startswith("timestamp")
        parameter: Json = {
            "name": name,
            "in": "query",
            "description": f"Filter: operator, point, value. {column.get('description', '')}",
            "schema": {"type": "array", "items": text} if twice else text,
        }
        if name in given:
            parameter["example"] = given[name] if twice else given[name][0]
        parameters.append(parameter)
    if _meta(view).get("one_object"):
        return [parameter for parameter in parameters if parameter["name"] == "machine"]
    for name, parameter in shared.items():
        value = given.get(name, [""])[0]
        filled = {"example": int(value) if value.isdecimal() else value} if value else {}
        parameters.append(parameter | filled)
    return parameters


def _story(view: Json, purpose: str, examples: list[Json]) -> str:
    name, meta = view["name"], _meta(view)
    paragraphs = [text for text in (purpose, view.get("description")) if text]
    if column := meta.get("page_key"):
        paragraphs.append(
            f"**Pages**: of one machine, `order={column}&limit=1000`; then the same with `{column}=gt.` and the last "
            f"`{column}` of the page before, until a page is not full."
        )
    elif column := meta.get("page_days"):
        paragraphs.append(f"**Pages**: whole days, such as `{column}=gte.2021-09-01&{column}=lt.2021-10-01`.")
    links = [f"- [{example['summary']}]({example['path']})" for example in examples]
    csv = re.sub(rf"/{name}\b", f"/{name}.csv", examples[0]["path"])
    return "\n\n".join([*paragraphs, "\n".join(["**Examples**", "", *links, f"- [The first one as CSV]({csv})"])])


def _link(name: str, query: str) -> str:
    return f"/api/v1/{name}?{quote(query, safe='=&.,()*-_:')}".rstrip("?")


if __name__ == "__main__":
    # For `make types`: the same on every computer, so the examples are those of the texts.
    print(json.dumps(describe(Path(__file__).resolve().parent.parent, Samples("branosera"))))
