"""The dbt project: its unit tests, its data tests on the demo plant, and dbt as an analyst runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Spindle


def passed(output: str) -> int:
    """How many nodes passed, by dbt's last line; fails when it is not there."""
    found = re.search(r"Done\. PASS=(\d+) WARN=0 ERROR=0 SKIP=0", output)
    assert found, output[-3000:]
    return int(found.group(1))


def test_unit_and_data_tests(spindle: Spindle) -> None:
    output = spindle.run("dbt", "test").stdout
    passed(output)
    assert len(re.findall(r"PASS \w+::", output)) >= 40, "unit tests, which are named model::test"
    assert len(re.findall(r"PASS (?!\w+::)", output)) >= 50


def test_full_refresh_gives_the_same_and_drops_no_view(spindle: Spindle) -> None:
    endpoints = ("temperatures", "machine_util", "machine_timeline", "energy_consumption", "alerts_detail")
    before = {name: sorted(map(repr, spindle.rows(name))) for name in endpoints}
    passed(spindle.run("dbt", "run", "--full-refresh", "--select", "extract staging agg").stdout)
    assert {name: sorted(map(repr, spindle.rows(name))) for name in endpoints} == before


def test_source_freshness_looks_at_the_newest_row(spindle: Spindle) -> None:
    """The demo plant of the tests ends in the past, so freshness warns; it does not fail."""
    done = spindle.run("dbt", "source", "freshness")
    assert re.search(r"WARN freshness of raw\.variable_log_float", done.stdout)


def test_dbt_directly_with_the_example_profile(spindle: Spindle, tmp_path: Path) -> None:
    """As an analyst does in the environment: a copied profiles.yml and plain dbt."""
    shutil.copyfile(ROOT / "profiles.yml.example", tmp_path / "profiles.yml")
    environment = os.environ | {
        "DBT_PROFILES_DIR": str(tmp_path),
        "DBT_TARGET_PATH": str(tmp_path / "target"),
        "DBT_LOG_PATH": str(tmp_path),
        "AGG_DB_HOST": str(spindle.state_dir / "run"),
    }
    dbt = str(Path(sys.executable).parent / "dbt")
    command = [dbt, "build", "--select", "+sensor_stats+", "--exclude", "test_type:unit"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert passed(done.stdout) > 20


@pytest.mark.parametrize("endpoint", [path.stem for path in sorted((ROOT / "api_views").glob("*.sql"))])
def test_every_endpoint_has_its_file_and_its_words(spindle: Spindle, endpoint: str) -> None:
    assert (ROOT / "api_views" / f"{endpoint}.yml").exists()
    assert spindle.get(f"/api/v1/{endpoint}", limit="1").status == 200
