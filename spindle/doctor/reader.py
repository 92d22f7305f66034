"""The doctor's connections: read-only, each statement and the whole visit limited in time, failures explained."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Timer
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from spindle.errors import CannotConnect
from spindle.settings import Connection

CONNECT_SECONDS = 10
STATEMENT_SECONDS = 10.0
OPTIONS = "-c default_transaction_read_only=on -c lock_timeout=2000 -c search_path="

# What is in a driver's message, and what to do then; the first that is found. Servers speak other languages too, so
# there is advice for the rest.
REASONS = (
    ("password authentication failed", "{prefix}USER or {prefix}PASSWORD is wrong, or the role has no password there"),
    (
        "no pg_hba.conf entry",
        "the administrator: a line in its pg_hba.conf for this role, database and address; where it has a hostssl line"
        " alone, set {prefix}SSLMODE=require",
    ),
    ("no password supplied", "set {prefix}PASSWORD"),
    (
        "does not support SSL",
        "the server has no TLS: the administrator turns it on, or {prefix}SSLMODE=prefer does without",
    ),
    (
        "certificate",
        "{prefix}SSLMODE=verify-full wants a certificate in ~/.postgresql/root.crt that signed the server's",
    ),
    ("too many connections", "the role's or the database's connection limit is reached: raise it to 2 or more"),
    ("does not exist", "correct {prefix}NAME or {prefix}USER, or the administrator makes it"),
    ("is not permitted to log in", "the administrator: `alter role {user} login`"),
    ("permission denied for database", "the administrator: `grant connect on database {dbname} to {user}`"),
    ("onnection refused", "does the server run, listen on that address (listen_addresses), and on port {port}?"),
    ("timeout", "is the address right, the server up, and the port open in firewalls between?"),
    ("resolve", "the name {host} is unknown here: correct {prefix}HOST, or use its address"),
    ("starting up", "wait a moment and try again"),
)
OTHERWISE = "check {prefix}HOST, {prefix}PORT, {prefix}NAME, {prefix}USER and {prefix}PASSWORD, and the server's log"


class Reader:
    """A connection to look at a server with. Use it with `with`; raises psycopg.OperationalError when it is refused,
    lost, or hung up because `patience` seconds are over."""

    def __init__(self, source: Connection, patience: float) -> None:
        self.source, self.patience = source, patience
        self.statement_seconds = min(STATEMENT_SECONDS, patience)
        self.connection: psycopg.Connection[Any]

    def __enter__(self) -> Reader:
        self.connection = psycopg.connect(
            make_conninfo(
                **self.source.parameters(),
                connect_timeout=max(2, min(CONNECT_SECONDS, round(self.patience))),
                application_name="spindle_doctor",
                client_encoding="UTF8",
                options=f"{OPTIONS} -c statement_timeout={round(self.statement_seconds * 1000)}",
            ),
            autocommit=True,
        )
        # A server that falls silent would be waited for without end: its own timeout does not reach us then.
        self._watch = Timer(self.patience, self._hang_up)
        self._watch.daemon = True
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.cancel()
        self.connection.close()

    def rows(self, query: str, values: Sequence[Any] | Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The statements are constants of this package."""
        return self.connection.execute(query.encode(), values).fetchall()

    def row(self, query: str, values: Sequence[Any] | Mapping[str, Any] | None = None) -> tuple[Any, ...]:
        """The only row of a query."""
        (row,) = self.rows(query, values)
        return row

    def _hang_up(self) -> None:
        with suppress(OSError, psycopg.Error):
            twin = socket.socket(fileno=os.dup(self.connection.fileno()))
            twin.shutdown(socket.SHUT_RDWR)
            twin.close()


def explain(error: psycopg.Error, what: str, source: Connection, prefix: str) -> CannotConnect:
    """The driver's reason, and what to do about it. `prefix` is that of the settings: DB_TAMESA_, AGG_DB_."""
    reason = " ".join(str(error).split())
    if not isinstance(error, psycopg.OperationalError):
        return CannotConnect(f"{what} ({source.public()}) cannot be looked at: {reason}", "see the message")
    advice = next((advice for sign, advice in REASONS if sign in reason), OTHERWISE)
    names = {"prefix": prefix, "user": source.user, "dbname": source.dbname, "host": source.host, "port": source.port}
    return CannotConnect(f"cannot connect to {what} ({source.public()}): {reason}", advice.format(**names))


def is_far(source: Connection) -> bool:
    """Whether what is sent to it leaves this computer."""
    if source.host.startswith("/") or source.host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(source.host).is_loopback
    except ValueError:
        return True
