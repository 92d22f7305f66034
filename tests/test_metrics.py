"""What Prometheus reads: requests as they were answered, runs as they went."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import psycopg
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from spindle import metrics
from spindle.errors import SettingsError
from spindle.settings import load_settings
from tests.conftest import Spindle
from tests.services import eventually, stopped
from tests.test_cache import fresh_path

Samples = dict[tuple[str, ...], float]


def scrape(spindle: Spindle) -> Samples:
    """Samples by name and sorted label values."""
    with urlopen(f"http://127.0.0.1:{spindle.settings['METRICS_PORT']}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def growth(before: Samples, after: Samples) -> Samples:
    return {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}


def requests(endpoint: str, status: int, cache: str, method: str = "GET") -> tuple[str, ...]:
    labels = {"cache": cache, "endpoint": endpoint, "method": method, "status": status}
    return ("spindle_requests_total", *(f"{key}={value}" for key, value in labels.items()))


@pytest.fixture
def counted(expendable: Spindle) -> Callable[[], Samples]:
    """What has grown since the fixture was asked for, once nginx has written and the collector read it."""
    marks = 0

    def settle() -> Samples:
        nonlocal marks
        marks += 1
        # each of nginx's workers writes once a second, so another one's mark may come first
        time.sleep(1.1)
        before = scrape(expendable).get(requests("page", 404, "none"), 0)
        expendable.get("/a-mark")
        eventually(lambda: scrape(expendable).get(requests("page", 404, "none"), 0) > before)
        return scrape(expendable)

    start = settle()
    return lambda: growth(start, settle())


def test_requests_are_counted(expendable: Spindle, counted: Callable[[], Samples]) -> None:
    path = fresh_path()
    sent = sum(len(expendable.get(path).body) for _ in range(3))
    expendable.get(path, method="HEAD")
    expendable.get("/api/v1/machine_util?dt=eq.nonsense")
    expendable.get("/api/v1/", headers={"If-None-Match": expendable.get("/api/v1/").headers["ETag"]})
    expendable.get(path, method="POST")
    expendable.get(path, method="BREW")
    found = counted()
    assert found[requests("machine_util", 200, "miss")] == 1
    assert found[requests("machine_util", 200, "hit")] == 2
    assert found[requests("machine_util", 200, "hit", "HEAD")] == 1
    assert found[requests("machine_util", 400, "miss")] == 1
    assert found[requests("machine_util", 405, "none", "POST")] == 1
    assert found[requests("machine_util", 405, "none", "other")] == 1
    assert found[requests("description", 304, "none")] == 1
    assert found["spindle_request_seconds_count", "endpoint=machine_util"] == 7
    assert found["spindle_request_seconds_bucket", "endpoint=machine_util", "le=+Inf"] == 7
    assert sent < found["spindle_sent_bytes_total", "endpoint=machine_util"] < sent + 1000


def test_what_is_asked_makes_no_labels(expendable: Spindle, counted: Callable[[], Samples]) -> None:
    for number in range(20):
        expendable.get(f"/api/v1/no_view_{number}")
        expendable.get(f"/no/page/{number}?with=spaces%20and%0Alines")
    found = counted()
    assert found[requests("unknown", 404, "miss")] == 20
    assert found[requests("page", 404, "none")] >= 20
    assert not any("no_view" in label for key in found for label in key)


def test_runs_are_told(expendable: Spindle) -> None:
    status = expendable.get("/api/v1/data_status", machine="eq.tamesa").json
    found = scrape(expendable)
    assert found[("spindle_database_up",)] == 1
    until = datetime.fromisoformat(status["data_until"]).timestamp()
    assert found["spindle_data_until_timestamp_seconds", "machine=tamesa"] == pytest.approx(until)
    with psycopg.connect(expendable.info["results"], autocommit=True) as admin:
        row = admin.execute(
            "select extract(epoch from finished_at)::float, extract(epoch from finished_at - started_at)::float"
            " from agg.refresh_runs where kind = 'refresh' and outcome = 'succeeded' order by run_id desc limit 1"
        ).fetchone()
        assert row is not None
        assert found["spindle_refreshed_timestamp_seconds", "machine=tamesa"] == pytest.approx(row[0])
        good = ("kind=refresh", "outcome=succeeded")
        assert found[("spindle_run_finished_timestamp_seconds", *good)] == pytest.approx(row[0])
        assert found[("spindle_run_seconds", *good)] == pytest.approx(row[1])
        assert found[("spindle_runs_total", *good)] >= 1
        assert found["spindle_refresh_succeeded", "machine=tamesa"] == 1

        failed = admin.execute(
            "insert into agg.refresh_runs (kind, outcome, finished_at) values ('refresh', 'failed', now())"
            " returning run_id"
        ).fetchone()
        try:
            worse = scrape(expendable)
        finally:
            admin.execute("delete from agg.refresh_runs where run_id = %s", failed)
    assert worse["spindle_refresh_succeeded", "machine=tamesa"] == 0
    assert worse["spindle_refreshed_timestamp_seconds", "machine=tamesa"] == pytest.approx(row[0])
    failures = ("spindle_runs_total", "kind=refresh", "outcome=failed")
    assert growth(found, worse)[failures] == 1


def test_a_database_that_is_down_is_told(expendable: Spindle) -> None:
    with stopped(expendable, "postgres"):
        found = scrape(expendable)
        assert found[("spindle_database_up",)] == 0
        assert not any(name.startswith("spindle_refresh") for name, *_ in found)


def test_metrics_are_on_loopback_and_not_roots(expendable: Spindle) -> None:
    port = int(expendable.settings["METRICS_PORT"])
    found = list(psutil.process_iter(["cmdline", "name", "cwd"]))
    collectors = [p for p in found if {"spindle.metrics", str(port)} <= set(p.info["cmdline"] or [])]
    assert len(collectors) == 1
    listening = [one.laddr for one in collectors[0].net_connections("inet")]
    assert ("127.0.0.1", port) in listening
    assert {address for address, _ in listening} == {"127.0.0.1"}
    folder = str(expendable.state_dir / "gateway")
    nginx = next(p for p in found if p.info["name"] == "nginx" and p.info["cwd"] == folder)
    assert collectors[0].uids() == nginx.uids()


def test_without_the_setting_there_are_none(expendable: Spindle) -> None:
    port = expendable.settings.pop("METRICS_PORT")
    try:
        expendable.run("serve")
        assert "metrics" not in expendable.run("status", exit_code=None).stdout
        assert "metrics" not in (expendable.state_dir / "gateway" / "nginx.conf").read_text()
        with pytest.raises(URLError):
            urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
    finally:
        expendable.settings["METRICS_PORT"] = port
        expendable.run("serve")
    eventually(lambda: scrape_answers(expendable))


def scrape_answers(spindle: Spindle) -> bool:
    try:
        return bool(scrape(spindle))
    except URLError:
        return False


def test_a_long_log_is_emptied_and_nothing_is_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "LARGEST_LOG_BYTES", 500)
    log, registry = tmp_path / "requests.log", CollectorRegistry()
    following = metrics.Requests(registry, log, ["machine_util"])
    following.follow()
    line = "200 GET 0.002 320 :HIT /api/v1/machine_util?limit=1\n"
    for number in range(1, 41):
        with log.open("a") as file:
            file.write(line + line[:20])
        following.follow()
        with log.open("a") as file:
            file.write(line[20:])
        following.follow()
        labels = {"endpoint": "machine_util", "method": "GET", "status": "200", "cache": "hit"}
        assert registry.get_sample_value("spindle_requests_total", labels) == 2 * number
        assert os.path.getsize(log) < 700


def test_ports_must_differ() -> None:
    with pytest.raises(SettingsError, match="METRICS_PORT"):
        load_settings(environ={"SPINDLE_ENV_FILE": os.devnull, "METRICS_PORT": "8000"})
    with pytest.raises(SettingsError, match="METRICS_PORT"):
        load_settings(environ={"SPINDLE_ENV_FILE": os.devnull, "METRICS_PORT": "high"})
