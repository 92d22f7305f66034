"""The services of a plant from behind: stopped, started, and what reached PostgreSQL."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import psutil
import psycopg

from spindle.settings import load_settings
from spindle.supervisor import Supervisor, connect
from tests.conftest import Spindle

# what PostgREST sends for an answer; the catalogue's own queries are others
READS = re.compile(r'execute .*?FROM "api"\."(\w+)"')


def eventually(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it did not happen in {seconds} s"
        time.sleep(0.02)


@contextmanager
def stopped(spindle: Spindle, name: str) -> Iterator[None]:
    """A service is down for the block, and all is ready again after it."""
    running = _supervisor(spindle)
    running.stop(name)
    try:
        yield
    finally:
        running.start(name)
        _await_ready(spindle)


@contextmanager
def frozen(spindle: Spindle, name: str) -> Iterator[None]:
    """A service hangs for the block: its connections stay open and nothing answers; all is ready again after it."""
    main = psutil.Process(_supervisor(spindle).state(name).pid)
    main.suspend()
    family = [main, *main.children(recursive=True)]
    try:
        for process in family:
            process.suspend()
        yield
    finally:
        for process in family:
            process.resume()
        _await_ready(spindle)


def _supervisor(spindle: Spindle) -> Supervisor:
    running = connect(load_settings(environ=spindle.environment))
    assert running is not None
    return running


def _await_ready(spindle: Spindle) -> None:
    eventually(lambda: spindle.get("/health/ready").status == 200)
    # what the gateway learned of the outage is forgotten
    eventually(lambda: spindle.get("/api/v1/machines").headers["X-Cache"] != "STALE")


class Statements:
    """Counts what is read of each view, from PostgreSQL's own log of statements."""

    def __init__(self, spindle: Spindle) -> None:
        self.spindle = spindle
        self.log = spindle.state_dir / "logs" / "postgres.log"
        self._say("alter system set log_statement = 'all'", "select pg_reload_conf()")
        eventually(lambda: self._logged() != "")
        self.read()

    def read(self) -> list[str]:
        """The views that statements have read since the last call."""
        logged = ""

        def complete() -> bool:
            nonlocal logged
            logged = self._logged()
            return logged != ""

        eventually(complete)
        found = READS.findall(logged[self._begin :])
        self._begin = len(logged)
        return found

    _begin = 0

    def _logged(self) -> str:
        """The log up to a statement of ours; empty when that is not in it yet."""
        mark = uuid4().hex
        self._say(f"select '{mark}'")
        time.sleep(0.1)
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return text[: text.find(mark)] if mark in text else ""

    def _say(self, *statements: str) -> None:
        with psycopg.connect(self.spindle.info["results"], autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)
