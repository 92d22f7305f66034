"""What the documents say is so: worked examples have the figures printed beside them, commands and links exist."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from spindle import errors
from spindle.settings import Connection
from tests.conftest import ROOT
from tests.small_plant import ALARMS, LOAD, OPERATION, POSITION, PROGRAM, TEMPERATURE, SmallPlant

PAGE = ROOT / "docs" / "coming-from-the-old-backend.md"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

VARIABLES = {
    "MACHINE_IN_OPERATION": OPERATION,
    "PROG_STATUS": PROGRAM,
    "ALARMS": ALARMS,
    "TEMPERATURA_BASE": TEMPERATURE,
    "SPINDLE_LOAD_1": LOAD,
    "X": POSITION,
}

# the columns of a line `metric: value, value, …`
COLUMNS = {
    "program_time": "day, program, duration_seconds",
    "energy": "hour_ts, energy_kwh",
    "alerts": "dt, cleared_at, alert_type, alarm_code, alarm_description",
    "alerts_per_day": "day, alert_type, amount, entries_logged",
    "sensor_stats": "dt, sensor_name, min_value, avg_value, max_value, std_dev, readings_count",
}


# A page's examples ----------------------------------------------------------------------------------------------------


def read_blocks(page: Path, kind: str, stage: str) -> list[str]:
    """Lines of the fenced blocks of a kind: those of this stage, and those that name none (stage '')."""
    lines = []
    for name, named_stage, body in re.findall(r"^```(\w+) ?(\d?)\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
        if name == kind and named_stage == stage:
            lines += body.splitlines()
    return lines


def log_row(line: str) -> tuple[int, str, Any]:
    """`PROG_STATUS, 2026-03-30 08:00:00, 7` as SmallPlant takes it."""
    variable, when, value = line.split(", ", 2)
    is_text = variable == "ALARMS" or value == "NaN"
    return VARIABLES[variable], when, value if is_text else float(value)


def printed(value: Any) -> str:
    """A value of the database as the page prints it."""
    if value is None:
        return "null"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, date):
        return value.isoformat()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def computed(plant: SmallPlant, lines: list[str]) -> list[str]:
    """All that agg has of the metrics and days of these lines, in the form of such lines."""
    found = []
    wanted = {(metric, first[:10]) for metric, _, first in (line.partition(": ") for line in lines)}
    for metric, day in wanted:
        rows = plant.read(f"select {COLUMNS[metric]} from agg.{metric} where day = '{day}'")
        found += [f"{metric}: {', '.join(map(printed, row))}" for row in rows]
    return sorted(found)


@pytest.fixture(scope="module")
def plant(module_database_factory: Callable[[], Connection], tmp_path_factory: pytest.TempPathFactory) -> SmallPlant:
    """All logs of the page, but for those that come after the first refresh; refreshed once."""
    results = replace(module_database_factory(), user="spindle_admin")
    small = SmallPlant(results, tmp_path_factory.mktemp("docs"))
    small.log(*map(log_row, read_blocks(PAGE, "log", ""))).close()
    small.set_up()
    small.refresh()
    return small


def test_the_examples_have_the_figures_printed_beside_them(plant: SmallPlant) -> None:
    always = read_blocks(PAGE, "result", "")
    assert {line.partition(": ")[0] for line in always} == set(COLUMNS)
    for stage in ("1", "2"):
        if stage == "2":
            plant.log(*map(log_row, read_blocks(PAGE, "log", stage))).close()
            plant.refresh()
        lines = always + read_blocks(PAGE, "result", stage)
        assert len(lines) > len(always)
        assert computed(plant, lines) == sorted(lines), f"after refresh {stage}"


def test_no_block_of_the_page_is_overlooked() -> None:
    fences = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("```") and line != "```"]
    assert set(fences) == {"```log", "```log 2", "```result", "```result 1", "```result 2"}


# What documents name --------------------------------------------------------------------------------------------------


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as they are made where it is read."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        there = (document.parent / path).resolve() if path else document
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert not broken


def test_every_command_is_documented() -> None:
    commands = (ROOT / "docs" / "commands.md").read_text("utf-8")
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert [target for target in targets if f"`make {target}" not in commands] == []
    source = (ROOT / "bootstrap.py").read_text("utf-8")
    decorated = re.findall(r"^@app\.command\((.*?)\)\ndef (\w+)", source, re.M | re.S)
    names = [match[1] if (match := re.search(r'name="(\w+)"', options)) else name for options, name in decorated]
    assert len(names) > 8
    assert [name for name in names if not re.search(rf"^\| `{name}\b", commands, re.M)] == []


@pytest.mark.parametrize("document", [ROOT / "README.md", ROOT / "docs" / "commands.md"], ids=lambda each: each.name)
def test_every_exit_code_is_documented(document: Path) -> None:
    codes = {error.exit_code for error in errors.SpindleError.__subclasses__()}
    assert len(codes) == 8
    table = document.read_text("utf-8").split("code | means |")[1].split("\n\n")[0]
    assert {0, *codes} <= {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)}


def test_no_make_target_is_made_up() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:`|^\$ )make ([a-z]+)", document.read_text("utf-8"), re.M))
        assert named <= targets, document.name
