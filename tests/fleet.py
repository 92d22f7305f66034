"""A fleet: machines with random histories, each in a database of its own on other servers, and results elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from spindle import database
from spindle.refresh import RefreshReport, refresh
from spindle.settings import Connection
from tests import oracle
from tests.histories import ComparedPlant, read_rules
from tests.servers import Link, Server

READER, PASSWORD = "spindle_reader", "the reader's, only for tests"


class Fleet(ComparedPlant):
    """Machine n is on server n modulo their number, behind a link of its own, read by a login with the least rights."""

    def __init__(
        self, results: Server, folder: Path, histories: Sequence[oracle.MachineLog], servers: Sequence[Server]
    ) -> None:
        self.servers = {history.machine: servers[n % len(servers)] for n, history in enumerate(histories)}
        self.links: dict[str, Link] = {}
        with results.connect() as admin:
            # word starts of alert rules need a locale that knows letters
            admin.execute(
                f"create database \"{folder.name}\" template template0 locale_provider builtin builtin_locale 'C.UTF-8'"
            )
        self.results_server = results
        super().__init__(replace(results.admin, dbname=folder.name), folder, histories, self._place)
        database.set_up(self.settings, self.settings.authenticator_password)

    def _place(self, history: oracle.MachineLog) -> Connection:
        server = self.servers[history.machine]
        server.database(history.machine, history.variables, history.floats, history.strings)
        link = self.links[history.machine] = Link(server.port).__enter__()
        return link.of(server.grant_reader(history.machine, READER, PASSWORD))

    def close(self) -> None:
        for link in self.links.values():
            link.__exit__()

    def set_up_with(self, **changes: Any) -> None:
        """Other settings, and the sources that they mean."""
        self.settings = replace(self.settings, **changes)
        database.set_up(self.settings, self.settings.authenticator_password)

    def refresh(self) -> RefreshReport:
        return refresh(self.settings)

    def wrong(self, machines: Iterable[str] | None = None) -> list[str]:
        """What is computed of these machines, by default all, other than the oracle says."""
        chosen = self.histories.keys() if machines is None else set(machines)
        logs = {machine: log for machine, log in self.histories.items() if machine in chosen}
        return self.differences(logs, read_rules())

    def read(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(**self.settings.results.parameters()) as connection:
            return connection.execute(query).fetchall()

    def write(self, machine: str, *rows: tuple[int, int, float | None]) -> None:
        """Add rows (id_var, date in ms, value) to the numeric log of a machine, and to its history."""
        self.histories[machine].floats.extend(rows)
        with self.servers[machine].connect(machine) as admin, admin.cursor() as cursor:
            cursor.executemany("insert into variable_log_float values (%s, %s, %s)", rows)
