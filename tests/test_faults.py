"""Faults in the middle of a run: results stay as they were or are the new ones, and the next run puts all in order.

The log has two states, A and B, whose rows of the last three days differ but for the last hour. Results of both are
known beforehand, so whatever a fault leaves can be told from half of it. Moments are random, with a fixed seed;
SPINDLE_FAULTS sets how many times each run is killed.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import psycopg
import pytest

from spindle import services
from spindle.backfill import backfill, make_request
from spindle.rebuild import rebuild
from spindle.refresh import refresh
from spindle.secrets import with_secrets
from spindle.settings import Settings, load_settings
from tests.conftest import ROOT, Spindle, thorough

pytestmark = thorough

FAULTS = int(os.environ.get("SPINDLE_FAULTS", "2"))
OWN_DISK = "900m"
FIRST_CHANGED_DAY = date(2026, 3, 29)
COMMANDS = {
    "refresh": ("refresh",),
    "backfill": ("backfill", "--from", str(FIRST_CHANGED_DAY), "--restart"),
    "rebuild": ("rebuild",),
}
LOGS = ("variable_log_float", "variable_log_string")

# From the first hours of FIRST_CHANGED_DAY to an hour before the end; no result gains or loses a row.
CHANGE = """
create temp table changed as
select floor(extract(epoch from timestamptz '2026-03-29 06:00+00') * 1000)::bigint as first_ms,
    (select max(date) from variable_log_float) - 3600000 as last_ms;
create temp table named as
select id, case
    when name = 'MACHINE_IN_OPERATION' then 'operation' when name = 'PROG_STATUS' then 'program'
    when name like 'TEMPERATUR%' then 'reading' when name ~ 'UTILIZA|LOAD|CONSUMO' then 'reading' end as role
from variable;
update variable_log_float as log set
    value = case role when 'reading' then value / 2 else value end,
    date = case role when 'operation' then date + 7 when 'program' then date + 1500 else date end
from named, changed
where log.id_var = named.id and role is not null and date between first_ms and last_ms;
insert into variable_log_string
select id_var, date + 1, value from variable_log_string, changed where date between first_ms and last_ms
on conflict do nothing;
update variable_log_string as log set date = (date + 250) from changed
where date between first_ms and last_ms and not exists (
    select from variable_log_string as other where other.id_var = log.id_var and other.date = log.date + 250);
insert into variable_log_float
select (select min(id) from named where role is null), gaps.date + 300000, 1
from (
    select date, lead(date) over (order by date) as next
    from (select date from variable_log_float union all select date from variable_log_string) as times
) as gaps, changed
where next - date > 1800000 and date between first_ms and last_ms
on conflict do nothing;
"""


class Plant:
    """A Spindle of its own, whose log can be switched between two states."""

    def __init__(self, spindle: Spindle) -> None:
        self.spindle = spindle
        self.settings: Settings = with_secrets(load_settings(environ=spindle.environment))
        self.logged = "a"
        with self.connect() as connection:
            self.schemas = self._schemas(connection)
            rows = connection.execute("select tablename from pg_tables where schemaname = 'agg' order by 1").fetchall()
            self.tables = [table for (table,) in rows if table not in ("refresh_runs", "refresh_cuts")]
        self.results = {"a": self.read()}
        self._make_other_log()
        self.switch("b")
        refresh(self.settings)
        self.results["b"] = self.read()
        for table, rows in self.results["a"].items():
            assert len(rows) == len(self.results["b"][table]), f"{table}: a refresh refuses to lose rows"

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self.spindle.info["results"], autocommit=True, connect_timeout=10) as connection:
            yield connection

    def read(self) -> dict[str, list[str]]:
        """Every row of every result."""
        with self.connect() as connection:
            return {
                table: sorted(row for (row,) in connection.execute(f"select t::text from agg.{table} as t"))
                for table in self.tables
            }

    def switch(self, logged: str = "") -> str:
        """Put the other state, or this one, into the log. Returns which it is now."""
        self.logged = logged or ("b" if self.logged == "a" else "a")
        for database in self.spindle.info["machines"].values():
            with psycopg.connect(database) as connection:
                for log in LOGS:
                    connection.execute(f"truncate {log}")
                    connection.execute(f"insert into {log} select * from {log}_{self.logged}")
        return self.logged

    def last_run(self) -> int:
        with self.connect() as connection:
            row = connection.execute("select coalesce(max(run_id), 0) from agg.refresh_runs").fetchone()
        assert row is not None
        return int(row[0])

    def check_old_or_new(self, when: str) -> None:
        services.start_database(self.settings)
        found = self.read()
        for table, rows in found.items():
            known = [state for state in "ab" if rows == self.results[state][table]]
            assert known, f"{table} is neither old nor new after {when}"

    def check_in_order(self, when: str) -> None:
        """The last run was not disturbed: new results, and nothing of the faults is left."""
        found = self.read()
        wrong = [table for table, rows in found.items() if rows != self.results[self.logged][table]]
        assert not wrong, f"after {when} and a whole run these are not the new ones: {wrong}"
        with self.connect() as connection:
            assert self._schemas(connection) == self.schemas, when
            rows = connection.execute(
                "select oid::regclass::text from pg_class where relname ~ '__dbt_|^probe_|_next$|_old$'"
            ).fetchall()
            assert rows == [], when
            locks = connection.execute("select pid from pg_locks where locktype = 'advisory'").fetchall()
            assert locks == [], when
            runs = connection.execute("select * from agg.refresh_runs where outcome = 'running'").fetchall()
            assert runs == [], when
            last = connection.execute("select outcome from agg.refresh_runs order by run_id desc limit 1").fetchone()
            assert last == ("succeeded",), when

    def run(self, kind: str) -> None:
        """One undisturbed run in this process."""
        services.start_database(self.settings)
        if kind == "refresh":
            refresh(self.settings)
        elif kind == "rebuild":
            rebuild(self.settings)
        else:
            request = make_request(self.settings, FIRST_CHANGED_DAY, None, ())
            backfill(self.settings, request, restart=True)

    def start(self, kind: str) -> subprocess.Popen[str]:
        """`bootstrap.py` of this kind, in a session of its own. Returns when the run has begun."""
        last = self.last_run()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "bootstrap.py"), *COMMANDS[kind]],
            cwd=ROOT,
            env=self.spindle.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        while self.last_run() == last and process.poll() is None:
            time.sleep(0.05)
        return process

    @staticmethod
    def _schemas(connection: psycopg.Connection) -> list[str]:
        query = "select nspname from pg_namespace where nspname !~ '^pg_(toast|temp)' order by 1"
        return [name for (name,) in connection.execute(query)]

    def _make_other_log(self) -> None:
        for database in self.spindle.info["machines"].values():
            with psycopg.connect(database) as connection:
                for log in LOGS:
                    connection.execute(f"create table {log}_a as select * from {log}")
                connection.execute(CHANGE)
                for log in LOGS:
                    connection.execute(f"create table {log}_b as select * from {log}")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A small disk of its own, in memory; None where it may not be mounted."""
    folder = tmp_path_factory.mktemp("disk")
    options = f"size={OWN_DISK},mode=755"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
    if done.returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        # what was stopped may need a moment to go; lazily, if it stays
        for options in ([], [], [], ["--lazy"]):
            if subprocess.run(["umount", *options, str(folder)], capture_output=True).returncode == 0:
                break
            time.sleep(1)


@pytest.fixture(scope="module")
def plant(disk: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    spindle = Spindle((disk or tmp_path_factory.mktemp("faults")) / "state")
    try:
        spindle.run("demo", "--days", "6", "--rows-per-day", "2000", "--until", "2026-03-31T15:17:42")
        yield Plant(spindle)
    finally:
        spindle.run("stop", exit_code=None)


@pytest.fixture
def seconds(plant: Plant) -> Callable[[str], float]:
    """How long an undisturbed run of a kind took, by its record."""

    def measured(kind: str) -> float:
        with plant.connect() as connection:
            row = connection.execute(
                "select extract(epoch from min(finished_at - started_at))::float from agg.refresh_runs"
                " where kind = %s and outcome = 'succeeded'",
                (kind,),
            ).fetchone()
        return row[0] if row and row[0] else 8.0

    return measured


@pytest.fixture(autouse=True)
def whole_before(plant: Plant) -> None:
    """Whatever the test before left, if it failed, is mended by force; then the log gets its other state."""
    services.start_database(plant.settings)
    with plant.connect() as admin:
        for schema in set(plant._schemas(admin)) - set(plant.schemas):
            admin.execute(f'drop schema "{schema}" cascade')
    if plant.read() != plant.results[plant.logged]:
        rebuild(plant.settings)
    plant.switch()


def test_the_two_logs_differ_in_every_result(plant: Plant) -> None:
    same = [table for table in plant.tables if plant.results["a"][table] == plant.results["b"][table]]
    assert set(same) <= {"machine_summary", "sensor_summary"}
    plant.run("backfill")
    plant.check_in_order("a backfill")


@pytest.mark.parametrize("kind", COMMANDS)
def test_the_tool_is_killed(plant: Plant, seconds: Callable[[str], float], kind: str) -> None:
    """Again and again, each time on what the last one left; a run that ends by itself must have gone well."""
    moments = random.Random(f"kill {kind}")
    for number in range(FAULTS):
        process = plant.start(kind)
        delay = (number + moments.random()) / FAULTS * seconds(kind)
        when = f"{kind} killed after {delay:.2f} s"
        time.sleep(delay)
        kill_group(process)
        said = process.communicate()[0]
        assert process.returncode in (0, -signal.SIGKILL), f"{when}: {said}"
        plant.check_old_or_new(when)
    plant.run(kind)
    plant.check_in_order(f"{kind} killed {FAULTS} times")


def test_a_rebuild_is_killed_before_the_swap(plant: Plant) -> None:
    """All the new views stand beside the old ones. That the next run may be a rebuild too, a test above shows."""
    process = plant.start("rebuild")
    with plant.connect() as connection:
        while connection.execute("select to_regclass('api_next.data_status')").fetchone() == (None,):
            assert process.poll() is None
    kill_group(process)
    process.communicate()
    plant.check_old_or_new("a rebuild killed before the swap")
    plant.run("refresh")
    plant.check_in_order("a rebuild killed before the swap, then a refresh")


@pytest.mark.parametrize("next_run", ["refresh", "rebuild"])
def test_a_rebuild_is_killed_after_the_swap(plant: Plant, next_run: str) -> None:
    """The old schemas are still there. What happens is what a kill leaves: nothing more is done."""
    with plant.connect() as admin, admin.transaction():
        for schema in ("staging", "agg", "api"):
            admin.execute(f"create schema {schema}_old authorization spindle_owner")
        admin.execute("set local role spindle_owner")
        admin.execute("create table agg_old.energy as select * from agg.energy")
        admin.execute("create view api_old.energy_consumption as select * from agg_old.energy")
        admin.execute("create view api_old.data_status as select max(run_id) as run_id from agg.refresh_runs")
        admin.execute("insert into agg.refresh_runs (kind) values ('rebuild')")
    plant.run(next_run)
    plant.check_in_order(f"a rebuild killed after the swap, then a {next_run}")


@pytest.mark.parametrize(("kind", "fault"), [("refresh", "terminate"), ("rebuild", "terminate"), ("refresh", "kill")])
def test_a_backend_of_dbt_is_killed(plant: Plant, seconds: Callable[[str], float], kind: str, fault: str) -> None:
    """The run says so, without a traceback. With `kill -9` the whole server restarts by itself."""
    moments = random.Random(f"{fault} {kind}")
    with plant.connect() as connection:
        process = plant.start(kind)
        time.sleep(moments.random() * seconds(kind) / 2)
        pid = find_backend(connection, process)
        if fault == "terminate" and pid:
            connection.execute("select pg_terminate_backend(%s)", (pid,))
        elif pid:
            os.kill(pid, signal.SIGKILL)
    said = end(process, f"{kind}: {fault} of a backend")
    plant.check_old_or_new(f"{kind}: {fault} of a backend")
    plant.run(kind)
    plant.check_in_order(f"{kind}: {fault} of a backend")
    check_said(said)


@pytest.mark.parametrize("kind", ["refresh", "rebuild"])
def test_the_database_restarts(plant: Plant, seconds: Callable[[str], float], kind: str) -> None:
    """A fast shutdown: every connection is lost, the lock's too; supervisord starts the server again."""
    process = plant.start(kind)
    time.sleep(random.Random(f"restart {kind}").random() * seconds(kind) / 2)
    server = next(service.pid for service in services.service_states(plant.settings) if service.name == "postgres")
    assert server
    os.kill(server, signal.SIGINT)
    said = end(process, f"{kind}: restart")
    plant.check_old_or_new(f"{kind}: restart")
    plant.run(kind)
    plant.check_in_order(f"{kind}: restart")
    check_said(said)


def test_connections_to_production_are_lost(plant: Plant) -> None:
    """Again and again while a refresh reads."""
    lost = 0
    with plant.connect() as connection:
        process = plant.start("refresh")
        while process.poll() is None:
            row = connection.execute(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'plant_reader'"
            ).fetchone()
            lost += row[0] if row else 0
            time.sleep(0.02)
    said = end(process, "lost connections")
    assert lost > 0
    plant.check_old_or_new("lost connections to production")
    plant.run("refresh")
    plant.check_in_order("lost connections to production")
    check_said(said)


def test_the_disk_is_full(plant: Plant, disk: Path | None) -> None:
    """A ballast takes all space but some kilobytes; the run says that the disk is full, and the old results stay."""
    if disk is None:
        pytest.skip("no file system may be mounted here, so no disk can be filled")
    ballast = disk / "ballast"
    process = plant.start("refresh")
    try:
        with ballast.open("wb") as file:
            for block in (1 << 20, 1 << 14):
                while shutil.disk_usage(disk).free > max(block, 1 << 16):
                    file.write(bytes(block))
                    file.flush()
        said = process.communicate(timeout=120)[0]
    finally:
        ballast.unlink()
    assert process.returncode in (1, 3, 7), said
    plant.check_old_or_new("a full disk")
    plant.run("refresh")
    plant.check_in_order("a full disk")
    # dbt cannot write its log either and complains about that first
    assert "error:" in said
    assert re.search("No space left|disk is full|free disk space", said), said[-1500:]


def test_two_runs_at_once(plant: Plant) -> None:
    """The second leaves with exit code 6 and a message; the first goes on."""
    first = plant.start("rebuild")
    for kind in ("refresh", "backfill"):
        second = plant.spindle.run(*COMMANDS[kind], exit_code=6)
        assert "another refresh, backfill or rebuild is running" in second.stderr
        if first.poll() is not None:
            break
    said = first.communicate()[0]
    assert first.returncode == 0, said
    plant.check_in_order("two runs at once")


def kill_group(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def find_backend(connection: psycopg.Connection, process: subprocess.Popen[str]) -> int | None:
    """A backend in which dbt works, waited for until it is there or the run has ended."""
    while process.poll() is None:
        row = connection.execute(
            "select pid from pg_stat_activity where application_name = 'dbt' and state <> 'idle' order by random()"
        ).fetchone()
        if row:
            return int(row[0])
        time.sleep(0.005)
    return None


def end(process: subprocess.Popen[str], what: str) -> str:
    """What it said. It went well in spite of the fault, or ended with the exit code of an error."""
    said = process.communicate(timeout=180)[0]
    assert process.returncode in (0, 1, 3), f"{what}: {process.returncode}\n{said}"
    return said


def check_said(said: str) -> None:
    """A message, not a traceback. Looked at last: what the results are matters more."""
    assert "Traceback" not in said, said[-1500:]
