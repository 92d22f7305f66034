"""Clients read every endpoint at full speed while results are computed and views deployed: they notice nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import psycopg
import pytest

from tests.conftest import ROOT, Spindle, thorough

pytestmark = [thorough, pytest.mark.alone]

CLIENTS = 2
QUIET_SECONDS = 3.0
# Processes that compute beside the clients of the quiet phase, as dbt and its backend do beside the others.
BUSY_PROCESSES = 2
SLOWER = 5
# Below this a wait is the scheduler of two busy cores, not ours.
FLOOR_SECONDS = 0.05
# A swap asks for its locks with patience of a tenth of a second: so long may a reader of the same view wait.
SWAP_SECONDS = 0.15
PATIENCE_SECONDS = 240
MACHINE = "branosera"

# Rows of one day that change every result of it: readings, loads and programs; the state, and with it the activity,
# every ten minutes; and an alarm.
CHANGES = """
update variable_log_float set value = value + 1
where date between %(from)s and %(to)s and id_var in (select id from variable where name like 'TEMPERATUR%%');
update variable_log_float set value = abs(value) + 3
where date between %(from)s and %(to)s and value < 1000
    and id_var in (select id from variable where name = 'SPINDLE_LOAD_1');
update variable_log_float set value = case when value < 500 then value + 500 else value - 500 end
where date between %(from)s and %(to)s and value between 0 and 999
    and id_var in (select id from variable where name = 'PROG_STATUS');
insert into variable_log_float
select variable.id, ms, 255 * (row_number() over (order by ms) %% 2)
from variable cross join generate_series(%(from)s::bigint + 3600123, %(to)s, 600000) as ms
where variable.name = 'MACHINE_IN_OPERATION' on conflict do nothing;
insert into variable_log_string
select id, %(from)s + 36000123, '[["TEST1", "EMERGENCY of a test", 3, 2, 1]]' from variable where name = 'ALARMS';
"""


def day_paths(day: date) -> list[str]:
    """What is asked of each endpoint that has days."""
    next_day = day + timedelta(days=1)
    filters = {
        "temperatures": f"day=eq.{day}&order=sensor_name,dt",
        "machine_util": f"dt=eq.{day}",
        "machine_changes": f"ts=gte.{day}&ts=lt.{next_day}&order=ts",
        "machine_timeline": f"started_at=lt.{next_day}&ended_at=gt.{day}&order=started_at",
        "machine_program": f"dt=eq.{day}&order=program",
        "energy_consumption": f"day=eq.{day}&order=hour_ts",
        "alerts_daily_count": f"day=eq.{day}&order=alert_type",
        "alerts_detail": f"day=eq.{day}&order=id",
    }
    return [f"/api/v1/{endpoint}?machine=eq.{MACHINE}&{query}" for endpoint, query in filters.items()]


WITHOUT_DAYS = ["/api/v1/data_status", "/api/v1/machines?order=machine", "/api/v1/sensors?order=machine,sensor_name"]


@dataclass
class Load:
    """What the clients saw: (path, began, seconds, status, body) of each request."""

    requests: list[tuple[str, float, float, int, str]] = field(default_factory=list)

    def between(self, begin: float, end: float) -> Load:
        """The requests that were under way in that time."""
        return Load([request for request in self.requests if request[1] < end and request[1] + request[2] > begin])

    def quantile(self, share: float) -> float:
        seconds = sorted(request[2] for request in self.requests)
        return seconds[min(int(len(seconds) * share), len(seconds) - 1)]

    def figures(self, name: str) -> str:
        failed = sum(request[3] != 200 for request in self.requests)
        p50, p99, longest = (self.quantile(share) * 1000 for share in (0.5, 0.99, 1))
        return (
            f"{name:<28}{len(self.requests):>7} requests, {failed} failed,"
            f" p50 {p50:6.1f} ms, p99 {p99:6.1f} ms, longest {longest:6.1f} ms"
        )

    def check(self, before: dict[str, str], after: dict[str, str]) -> None:
        """No request failed, and every answer of a day is the one before or the one after, in this order."""
        assert [request for request in self.requests if request[3] != 200][:3] == []
        # when the first client had the new answer: who asks later gets it too
        known: dict[str, float] = {}
        for path, began, seconds, _, body in self.requests:
            if before.get(path) != after.get(path) and body == after.get(path):
                known[path] = min(known.get(path, began + seconds), began + seconds)
        assert set(known) == {path for path in before if before[path] != after[path]}
        for path, began, _, _, body in self.requests:
            if path == "/api/v1/data_status":
                assert json.loads(body)["refresh_ok"] is True, body
            else:
                assert body in (before[path], after[path]), f"half updated: {path}\n{body[:1000]}"
                assert body == after[path] or began <= known.get(path, began), f"gone back: {path}"


@contextmanager
def clients(port: int, paths: list[str]) -> Iterator[Load]:
    """Full speed while the block runs; the load is known after it."""
    load = Load()
    command = [sys.executable, str(ROOT / "tests" / "load.py"), str(port)]
    with ExitStack() as stack:
        running = []
        for number in range(CLIENTS):
            # each begins at another endpoint
            turned = [paths[(place + number * 3) % len(paths)] for place in range(len(paths))]
            started = subprocess.Popen([*command, *turned], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(started.kill)
            running.append((started, turned))
        time.sleep(0.5)
        yield load
        time.sleep(0.5)
        for started, turned in running:
            found = json.loads(started.communicate()[0])
            load.requests += [
                (turned[number], began, seconds, status, found["bodies"][body])
                for number, began, seconds, status, body in found["requests"]
            ]


@pytest.fixture(scope="module")
def quiet(expendable: Spindle) -> float:
    """p99 in seconds while nothing is computed but by processes that have nothing to do with it."""
    with clients(expendable.port, [*day_paths(date(2026, 3, 28)), *WITHOUT_DAYS]) as load:
        began = time.monotonic()
        time.sleep(QUIET_SECONDS)
        alone = time.monotonic()
        with ExitStack() as stack:
            for _ in range(BUSY_PROCESSES):
                busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                stack.callback(busy.wait)
                stack.callback(busy.kill)
            time.sleep(QUIET_SECONDS)
            ended = time.monotonic()
    print("\n" + load.between(began, alone).figures("quiet"))
    beside = load.between(alone, ended)
    print(beside.figures("quiet, cores busy"))
    return beside.quantile(0.99)


@pytest.fixture(scope="module")
def changed_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with another view: what is deployed."""
    folder = tmp_path_factory.mktemp("deploy") / "project"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "target", "logs", "node_modules", "__pycache__"))
    (folder / "gateway" / "node_modules").symlink_to(ROOT / "gateway" / "node_modules")
    view = folder / "api_views" / "temperatures.sql"
    text = view.read_text(encoding="utf-8")
    assert "    avg_value,\n" in text
    view.write_text(text.replace("    avg_value,\n", "    -avg_value as avg_value,\n"), encoding="utf-8")
    return folder


def change_day(spindle: Spindle, day: date) -> None:
    midnight = int((day - date(1970, 1, 1)).total_seconds() * 1000)
    with psycopg.connect(spindle.info["machines"][MACHINE]) as log, psycopg.ClientCursor(log) as cursor:
        cursor.execute(CHANGES, {"from": midnight, "to": midnight + 86_399_999})


def answers(spindle: Spindle, paths: list[str]) -> dict[str, str]:
    return {path: spindle.get(path).body.decode() for path in paths}


def begin(spindle: Spindle, project: Path, *arguments: str) -> subprocess.Popen[str]:
    """`bootstrap.py` of a checkout, which may be another one."""
    return subprocess.Popen(
        [sys.executable, str(project / "bootstrap.py"), *arguments],
        cwd=project,
        env=spindle.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(running: subprocess.Popen[str]) -> None:
    try:
        said, _ = running.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        running.kill()
        raise
    assert running.returncode == 0, said


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


OPERATIONS: dict[str, tuple[date, bool, list[str]]] = {
    # a working day, rows of which change; whether the changed project is deployed; the command
    "refresh": (date(2026, 3, 30), False, ["refresh", "--json"]),
    "backfill": (
        date(2026, 3, 27),
        False,
        ["backfill", "--step-days", "2", "--from", "2026-03-26", "--to", "2026-03-29"],
    ),
    "rebuild with a new view": (date(2026, 3, 28), True, ["rebuild"]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_readers_do_not_notice(expendable: Spindle, quiet: float, changed_project: Path, name: str) -> None:
    day, deployed, command = OPERATIONS[name]
    paths = [*day_paths(day), *day_paths(day + timedelta(days=1)), *WITHOUT_DAYS]
    change_day(expendable, day)
    before = answers(expendable, paths)
    with clients(expendable.port, paths) as load:
        began = time.monotonic()
        finish(begin(expendable, changed_project if deployed else ROOT, *command))
        ended = time.monotonic()
    after = answers(expendable, paths)
    assert [path for path in day_paths(day) if before[path] != after[path]] == day_paths(day)
    during = load.between(began, ended)
    print("\n" + during.figures(f"{name}, {ended - began:.0f} s"))
    load.check(before, after)
    assert during.quantile(0.99) < max(SLOWER * quiet, FLOOR_SECONDS)


def test_a_slow_reader_delays_a_changed_view_but_not_the_other_readers(
    expendable: Spindle, quiet: float, changed_project: Path
) -> None:
    """A refresh deploys views alone, as patiently as a rebuild swaps all: here, the old one again."""
    paths = [*day_paths(date(2026, 3, 28)), *WITHOUT_DAYS]
    address = expendable.info["results"]
    with psycopg.connect(address) as slow, psycopg.connect(address, autocommit=True) as watch, ExitStack() as stack:
        if watch.execute("select min(avg_value) < 0 from api.temperatures").fetchone() != (True,):
            finish(begin(expendable, changed_project, "refresh", "--json"))  # no test before this one did
        before = answers(expendable, paths)
        slow.execute("set role web_anon")
        slow.execute("select count(*) from api.temperatures")
        waiting = (
            "select count(*) > 0 from pg_locks where mode = 'AccessExclusiveLock' and not granted"
            " and relation = 'api.temperatures'::regclass"
        )
        with clients(expendable.port, paths) as load:
            refresh = begin(expendable, ROOT, "refresh", "--json")
            stack.callback(refresh.kill)
            wait_until(lambda: watch.execute(waiting).fetchone() == (True,))
            began = time.monotonic()
            slow.execute("select pg_sleep(3)")
            assert refresh.poll() is None
            ended = time.monotonic()
            slow.rollback()
            finish(refresh)
    after = answers(expendable, paths)
    assert [path for path in day_paths(date(2026, 3, 28)) if before[path] != after[path]] == paths[:1]
    during = load.between(began, ended)
    print("\n" + during.figures("slow reader of a changed view"))
    load.check(before, after)
    assert during.quantile(0.99) < max(SLOWER * quiet, SWAP_SECONDS)


def test_a_slow_reader_delays_a_swap_but_not_the_other_readers(expendable: Spindle, quiet: float) -> None:
    """One holds the record of runs, which the swap must lock; another an old view, which is dropped after it."""
    paths = [*day_paths(date(2026, 3, 28)), *WITHOUT_DAYS]
    before = answers(expendable, paths)
    address = expendable.info["results"]
    with psycopg.connect(address) as slow, psycopg.connect(address) as slower, ExitStack() as stack:
        watch = stack.enter_context(psycopg.connect(address, autocommit=True))

        def found(query: str) -> bool:
            return watch.execute(query).fetchone() == (True,)

        with clients(expendable.port, paths) as load:
            rebuild = begin(expendable, ROOT, "rebuild")
            stack.callback(rebuild.kill)
            wait_until(lambda: found("select to_regclass('api_next.temperatures') is not null"))
            for connection, view in ((slow, "data_status"), (slower, "temperatures")):
                connection.execute("set role web_anon")
                connection.execute(f"select count(*) from api.{view}")
            wait_until(
                lambda: found(
                    "select count(*) > 0 from pg_locks where mode = 'AccessExclusiveLock'"
                    " and not granted and relation = to_regclass('agg.refresh_runs')"
                )
            )
            began = time.monotonic()
            slow.execute("select pg_sleep(3)")
            assert found("select to_regnamespace('api_next') is not null")
            slow.rollback()
            wait_until(lambda: found("select to_regnamespace('api_next') is null"))
            slower.execute("select pg_sleep(3)")
            assert rebuild.poll() is None
            ended = time.monotonic()
            slower.rollback()
            finish(rebuild)
    during = load.between(began, ended)
    print("\n" + during.figures("slow readers of a swap"))
    load.check(before, answers(expendable, paths))
    assert during.quantile(0.99) < max(SLOWER * quiet, SWAP_SECONDS)
