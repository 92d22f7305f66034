"""A production database with a few rows of one machine in it, refreshed inside the test's process."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg

from spindle import database
from spindle.refresh import RefreshReport, refresh
from spindle.secrets import with_secrets
from spindle.settings import Connection, Settings, load_settings
from tests.conftest import AUTHENTICATOR_PASSWORD

SCHEMA = """
create table variable (id int primary key, name text, datatype text);
create table variable_log_float (id_var int, date bigint, value real, primary key (id_var, date));
create table variable_log_string (id_var int, date bigint, value text, primary key (id_var, date));
insert into variable values
    (1, 'MACHINE_IN_OPERATION', 'java.lang.Integer'), (2, 'PROG_STATUS', 'java.lang.Integer'),
    (3, 'ALARMS', 'java.lang.String'), (4, 'TEMPERATURA_BASE', 'java.lang.Short'),
    (5, 'SPINDLE_LOAD_1', 'java.lang.Integer'), (6, 'X', 'java.lang.Double');
"""
OPERATION, PROGRAM, ALARMS, TEMPERATURE, LOAD, POSITION = range(1, 7)


def at(text: str) -> int:
    """'2026-03-30 08:00:00.123' (UTC) as milliseconds since 1970."""
    return round(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp() * 1000)


class SmallPlant:
    """Results and production of `branosera` in one database, or production elsewhere, reached by foreign tables."""

    def __init__(
        self,
        results: Connection,
        state_dir: Path,
        elsewhere: Connection | None = None,
        owner: Connection | None = None,
    ) -> None:
        """`elsewhere` is the reader's connection to production, `owner` the one that writes there."""
        self.owner = owner or results
        self.settings: Settings = with_secrets(
            load_settings(environ=environment(results, elsewhere or results) | {"STATE_DIR": str(state_dir)})
        )
        with self.log() as connection:
            connection.execute(SCHEMA)

    def set_up(self) -> None:
        database.set_up(self.settings, self.settings.authenticator_password)

    def log(self, *rows: tuple[int, str, Any]) -> psycopg.Connection:
        """Write (variable, UTC time, value) rows; texts go to the text log."""
        connection = psycopg.connect(**self.owner.parameters(), autocommit=True)
        for id_var, when, value in rows:
            is_text = id_var == ALARMS or (isinstance(value, str) and value not in ("NaN", "Infinity"))
            table = "string" if is_text else "float"
            connection.execute(
                f"insert into variable_log_{table} values (%s, %s, %s)"
                " on conflict (id_var, date) do update set value = excluded.value",
                (id_var, at(when), value),
            )
        return connection

    def refresh(self) -> RefreshReport:
        return refresh(self.settings)

    def read(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(**self.settings.results.parameters()) as connection:
            return connection.execute(query).fetchall()


def environment(results: Connection, production: Connection) -> dict[str, str]:
    """The settings of a real database, as they would stand in .env."""
    return {
        "SPINDLE_ENV_FILE": os.devnull,
        "AUTHENTICATOR_PASSWORD": AUTHENTICATOR_PASSWORD,
        "AGG_DB_HOST": results.host,
        "AGG_DB_NAME": results.dbname,
        "AGG_DB_USER": results.user,
        "DB_HOST": production.host,
        "DB_NAME": production.dbname,
        "DB_USER": production.user,
        "DB_PASSWORD": production.password,
    }
