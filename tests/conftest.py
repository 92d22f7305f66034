"""One embedded database and one gateway for the session, made by the commands that users type."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from email.message import Message
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen
from uuid import uuid4

import psycopg
import pytest
from dbt_common.behavior_flags import BehaviorFlagRendered

from spindle.refresh import RefreshReport, refresh
from spindle.secrets import with_secrets
from spindle.settings import PLANT_OWNER, Connection, load_settings
from tests.servers import Servers

# All databases of the session's server share its roles, so the login of PostgREST has one password for all of them.
AUTHENTICATOR_PASSWORD = "only for tests"

# `make test` is quick; CI runs everything (SPINDLE_THOROUGH=1): tests marked thorough, and more random histories.
THOROUGH = os.environ.get("SPINDLE_THOROUGH") == "1"
thorough = pytest.mark.skipif(not THOROUGH, reason="thorough: runs with SPINDLE_THOROUGH=1, as in CI")

# To say which module each of its flags is from, dbt reads the source of all its callers whenever it starts: half of the
# time of a run inside pytest, whose stack is deep.
BehaviorFlagRendered._default_source = staticmethod(lambda: "dbt")  # type: ignore[method-assign]

ROOT = Path(__file__).resolve().parent.parent


# Files run side by side, but one worker runs those that share the expendable plant: each worker makes its own.
SHARING = ("test_docs_pages", "test_gateway_together", "test_hanging_database", "test_metrics", "test_reload")
# The longest begin first, so that none is left alone at the end.
LONGEST_FIRST = (
    *(*SHARING, "test_faults", "test_runs", "test_fleet", "test_numbers", "test_command_line", "test_guide"),
    *("test_refresh", "test_old_dialect", "test_deployed", "test_dbt", "test_safety", "test_hostile", "test_doctor"),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """xdist's own mark for groups does nothing with pytest 9.2."""
    from xdist.scheduler import LoadFileScheduling  # only `make test` installs it

    class ByPlant(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "expendable" if Path(file).stem in SHARING else file

    return ByPlant(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if THOROUGH:
        place = {file: number for number, file in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@dataclass(frozen=True)
class Answer:
    """What the gateway answered."""

    status: int
    headers: Message
    body: bytes

    @cached_property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Spindle:
    """A Spindle with a state folder, port and settings of its own; the code is that of the checkout at `root`."""

    state_dir: Path
    settings: dict[str, str] = field(default_factory=dict)
    port: int = 0
    root: Path = ROOT

    def __post_init__(self) -> None:
        self.port = self.port or free_port()

    @property
    def environment(self) -> dict[str, str]:
        # no .env: it is the user's, and may name real databases
        own = {
            "SPINDLE_ENV_FILE": os.devnull,
            "STATE_DIR": str(self.state_dir),
            "GATEWAY_PORT": str(self.port),
            "AUTHENTICATOR_PASSWORD": AUTHENTICATOR_PASSWORD,
            "DBT_TARGET_PATH": str(self.state_dir / "dbt" / "own_target"),
            "COLUMNS": "200",
        }
        return os.environ | own | self.settings

    def run(self, *arguments: str, exit_code: int | None = 0, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """`bootstrap.py` with these arguments; fails the test when it ends with another exit code."""
        if arguments[0] in ("demo", "serve"):
            self._lend_lineage()
        done = subprocess.run(
            [sys.executable, str(self.root / "bootstrap.py"), *arguments],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        if exit_code is not None and done.returncode != exit_code:
            pytest.fail(
                f"bootstrap.py {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
            )
        return done

    def refresh(self) -> RefreshReport:
        """In this process: a command of its own takes two seconds to import dbt."""
        report = refresh(with_secrets(load_settings(self.root, environ=self.environment)))
        report.raise_failed()
        return report

    def _lend_lineage(self) -> None:
        """The page of another state folder of this session: dbt takes five seconds to write nearly the same again."""
        page = self.state_dir / "pages" / "lineage.html"
        sessions = [folder for folder in self.state_dir.parents if re.fullmatch(r"pytest-\d+", folder.name)]
        lent = [
            found
            for folder in sessions
            for state in ("*/state", "*/*/state")
            for found in folder.glob(f"{state}/pages/{page.name}")
            if found != page
        ]
        if lent and not page.exists():
            page.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(lent[0], page)

    @cached_property
    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("info", "--json").stdout)
        return found

    def get(self, path: str, method: str = "GET", headers: dict[str, str] | None = None, **filters: str) -> Answer:
        """An answer of the gateway, whatever its status; `path` begins with a slash."""
        query = f"?{urlencode(filters, quote_via=quote, safe='.,()*:')}" if filters else ""
        request = Request(f"http://127.0.0.1:{self.port}{path}{query}", method=method, headers=headers or {})
        try:
            with urlopen(request, timeout=60) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except HTTPError as error:
            return Answer(error.code, error.headers, error.read())

    def rows(self, endpoint: str, **filters: str) -> list[dict[str, Any]]:
        """All rows of an endpoint that meet the filters."""
        answer = self.get(f"/api/v1/{endpoint}", **filters)
        assert answer.status == 200, answer.body
        rows: list[dict[str, Any]] = answer.json
        return rows


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def spindle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spindle]:
    """A served demo plant: two machines, twelve days with every kind of dirt, few rows."""
    running = Spindle(tmp_path_factory.mktemp("spindle") / "state")
    try:
        running.run("demo", "--days", "12", "--rows-per-day", "4000", "--until", "2026-03-31T15:17:42")
        yield running
    finally:
        running.run("stop", exit_code=None)


@pytest.fixture(scope="session")
def expendable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spindle]:
    """Another one, small, with metrics: its log may be changed, its results refreshed, its services stopped."""
    settings = {"METRICS_PORT": str(free_port())}
    running = Spindle(tmp_path_factory.mktemp("expendable") / "state", settings)
    try:
        running.run("demo", "--days", "6", "--rows-per-day", "3000", "--until", "2026-03-31T15:17:42")
        yield running
    finally:
        running.run("stop", exit_code=None)


@pytest.fixture(scope="session")
def machine_databases(spindle: Spindle) -> dict[str, str]:
    """Connection strings of the machines' production databases, as a user who may write."""
    databases: dict[str, str] = spindle.info["machines"]
    return databases


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL servers other than Spindle's own, as production has them."""
    made = Servers(tmp_path_factory.mktemp("servers"))
    yield made
    made.stop()


@pytest.fixture
def results(spindle: Spindle) -> Iterator[psycopg.Connection]:
    with psycopg.connect(spindle.info["results"], autocommit=True) as connection:
        yield connection


@pytest.fixture
def plant_database_factory(spindle: Spindle) -> Iterator[Callable[..., Connection]]:
    """New empty databases on the session's server, dropped at the end of the test."""
    yield from _scratch_databases(spindle)


@pytest.fixture(scope="module")
def module_database_factory(spindle: Spindle) -> Iterator[Callable[..., Connection]]:
    """The same, dropped at the end of the module."""
    yield from _scratch_databases(spindle)


def _scratch_databases(spindle: Spindle) -> Iterator[Callable[..., Connection]]:
    found = psycopg.conninfo.conninfo_to_dict(spindle.info["results"])
    server = Connection(str(found["host"]), int(str(found["port"])), "postgres", "spindle_admin")
    made: list[str] = []

    def make(purpose: str = "scratch") -> Connection:
        name = f"{purpose}_{uuid4().hex[:12]}"
        with psycopg.connect(server.public(), autocommit=True) as admin:
            admin.execute(f'create database "{name}" owner {PLANT_OWNER}')
        made.append(name)
        return replace(server, dbname=name, user=PLANT_OWNER)

    yield make
    with psycopg.connect(server.public(), autocommit=True) as admin:
        for name in made:
            admin.execute(f'drop database "{name}" with (force)')
