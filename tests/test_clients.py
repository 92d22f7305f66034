"""The examples in clients/ run as their users would run them, against the API, and give what it has."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from tests.conftest import ROOT, Spindle

CLIENTS = ROOT / "clients"
TOOLS = CLIENTS / "node_modules" / ".bin"
# view and key of those whose text says how to read them page by page
PAGED = {
    path.stem: meta["page_key"]
    for path in sorted((ROOT / "api_views").glob("*.yml"))
    if "page_key" in (meta := yaml.safe_load(path.read_text("utf-8"))["models"][0]["config"]["meta"])
}


def run(spindle: Spindle, command: list[str], folder: Path = ROOT, text: str = "") -> str:
    """What a command prints, with SPINDLE_URL set."""
    environment = os.environ | {"SPINDLE_URL": f"http://127.0.0.1:{spindle.port}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, input=text, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def pandas_client(spindle: Spindle, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("SPINDLE_URL", f"http://127.0.0.1:{spindle.port}")
    monkeypatch.syspath_prepend(str(CLIENTS))
    return importlib.reload(importlib.import_module("temperatures"))


def test_curl(spindle: Spindle, tmp_path: Path) -> None:
    lines = run(spindle, [str(CLIENTS / "curl.sh"), "tamesa"], tmp_path).splitlines()
    answers = [line for line in lines if not line.startswith("#")]
    assert json.loads(answers[0]) == spindle.rows("machine_util", machine="eq.tamesa", order="dt.desc", limit="1")
    assert json.loads(answers[1]) == spindle.rows("machine_changes", machine="eq.tamesa", order="ts", limit="1")
    assert answers[2] == "machine,sensor_name,label,first_day,last_day"
    assert [line.split(",")[0] for line in answers[3:5]] == ["tamesa", "tamesa"]
    saved = (tmp_path / "energy_consumption.csv").read_text("utf-8").splitlines()
    assert len(saved) - 1 == len(spindle.rows("energy_consumption", machine="eq.tamesa"))


def test_pandas(spindle: Spindle, pandas_client: ModuleType) -> None:
    filters = {"machine": "eq.tamesa", "day": "eq.2026-03-30", "order": "sensor_name,dt"}
    table = pandas_client.read("temperatures", **filters)
    rows = spindle.rows("temperatures", **filters)
    assert list(table.columns) == list(rows[0])
    for column in ("dt", "min_value", "avg_value", "max_value", "readings_count"):
        assert table[column].tolist() == [row[column] for row in rows]
    # null is pandas' own missing value, and a single reading's deviation is one
    assert table["std_dev"].isna().tolist() == [row["std_dev"] is None for row in rows]


@pytest.mark.parametrize("view", PAGED)
def test_pandas_reads_page_by_page(spindle: Spindle, pandas_client: ModuleType, view: str) -> None:
    pages = list(pandas_client.read_pages(view, "branosera", PAGED[view], rows=7))
    rows = spindle.rows(view, machine="eq.branosera", order=PAGED[view])
    assert {len(page) for page in pages[:-1]} == {7}
    assert [key for page in pages for key in page[PAGED[view]]] == [row[PAGED[view]] for row in rows]


def test_pandas_as_a_script(spindle: Spindle) -> None:
    printed = run(spindle, [sys.executable, str(CLIENTS / "temperatures.py"), "tamesa"])
    changes = spindle.rows("machine_changes", machine="eq.tamesa", state="eq.running", select="ts")
    assert re.search(rf"^running +{len(changes)}$", printed, re.M)
    assert "TEMPERATURA_BASE" in printed


def test_javascript(spindle: Spindle) -> None:
    printed = json.loads(run(spindle, ["node", str(CLIENTS / "energy.mjs"), "tamesa"]))
    alerts = spindle.rows("alerts_detail", machine="eq.tamesa")
    hours = spindle.rows("energy_consumption", machine="eq.tamesa", day=f"eq.{printed['day']}")
    assert printed["kwh"] == pytest.approx(sum(hour["energy_kwh"] for hour in hours), abs=0.001)
    assert printed["alerts"] == len(alerts)
    longest = max(alerts, key=lambda alert: alert["duration_seconds"] or 0)
    assert printed["longest"] == longest["id"]


@pytest.mark.parametrize("view", PAGED)
def test_javascript_reads_page_by_page(spindle: Spindle, view: str) -> None:
    script = f"""
        import {{ readPages }} from "{CLIENTS.as_uri()}/energy.mjs";
        const rows = [];
        for await (const row of readPages("{view}", "tamesa", "{PAGED[view]}", 40)) rows.push(row);
        console.log(JSON.stringify(rows));
    """
    found = json.loads(run(spindle, ["node", "--input-type=module", "--eval", script]))
    assert found == spindle.rows(view, machine="eq.tamesa", order=PAGED[view])


def test_javascript_says_what_is_wrong(spindle: Spindle) -> None:
    script = f"""
        import {{ read }} from "{CLIENTS.as_uri()}/energy.mjs";
        await read("machine_util", {{ dt: "eq.someday" }}).catch((error) => console.log(error.message));
    """
    assert "machine_util: 400" in run(spindle, ["node", "--input-type=module", "--eval", script])


# Grafana --------------------------------------------------------------------------------------------------------------


def grafana_targets() -> list[dict[str, Any]]:
    dashboard = json.loads((CLIENTS / "grafana.json").read_text("utf-8"))
    [variable] = dashboard["templating"]["list"]
    return [
        variable["query"]["infinityQuery"],
        *(target for panel in dashboard["panels"] for target in panel["targets"]),
    ]


@pytest.mark.parametrize("target", grafana_targets(), ids=lambda target: str(target["url"]))
def test_grafana(spindle: Spindle, target: dict[str, Any]) -> None:
    """What the Infinity data source asks for, its variables filled in, has the columns that the panels select."""
    filled = {
        "${machine}": "branosera",
        "${__from:date:YYYY-MM-DD}": "2026-03-24",
        "${__to:date:YYYY-MM-DD}": "2026-03-30",
    }
    parameters = []
    for parameter in target["url_options"]["params"]:
        value = re.sub(r"\$\{[^}]+\}", lambda found: filled[found[0]], parameter["value"])
        parameters.append((parameter["key"], value))
    answer = spindle.get(f"{target['url']}?{urlencode(parameters)}")
    assert answer.status == 200, answer.body
    rows = answer.json
    assert rows
    for column in target["columns"]:
        kinds = {"number": (int, float, type(None)), "string": str, "timestamp": (str, type(None))}[column["type"]]
        assert all(isinstance(row[column["selector"]], kinds) for row in rows), column
    if target["format"] == "timeseries":
        time = target["columns"][0]
        assert time["type"] == "timestamp"
        moments = [row[time["selector"]] for row in rows]
        assert moments == sorted(moments)
        assert {moment[:10] for moment in moments} <= {f"2026-03-{day}" for day in range(24, 31)}


def test_every_panel_of_grafana_asks_the_imported_data_source() -> None:
    text = (CLIENTS / "grafana.json").read_text("utf-8")
    assert [found["name"] for found in json.loads(text)["__inputs"]] == ["DS_SPINDLE"]
    assert set(re.findall(r'"uid": "(\$[^"]+)"', text)) == {"${DS_SPINDLE}"}
    assert {target["type"] for target in grafana_targets()} == {"json"}


# TypeScript -----------------------------------------------------------------------------------------------------------


def test_the_types_are_those_of_the_description(spindle: Spindle, tmp_path: Path) -> None:
    """`make types` writes clients/spindle.d.ts; this fails when a view or a text changed since."""
    description = run(spindle, [sys.executable, "-m", "spindle.describe"])
    made = tmp_path / "spindle.d.ts"
    run(spindle, [str(TOOLS / "openapi-typescript"), "--output", str(made)], text=description)
    assert made.read_text("utf-8") == (CLIENTS / "spindle.d.ts").read_text("utf-8"), "run make types"
    assert spindle.get("/docs/spindle.d.ts").body == made.read_bytes()


def test_the_types_check_a_client(spindle: Spindle, tmp_path: Path) -> None:
    """The example is right by them, and one that misspells a column is wrong."""
    check = [str(TOOLS / "tsc"), "--project", str(CLIENTS)]
    run(spindle, check)
    for name in ("spindle.d.ts", "tsconfig.json"):
        (tmp_path / name).write_text((CLIENTS / name).read_text("utf-8"), "utf-8")
    example = (CLIENTS / "utilization.ts").read_text("utf-8")
    (tmp_path / "utilization.ts").write_text(example.replace("day.state_running", "day.running"), "utf-8")
    wrong = subprocess.run([check[0], "--project", str(tmp_path)], capture_output=True, text=True, check=False)
    assert wrong.returncode != 0
    assert "Property 'running' does not exist" in wrong.stdout
