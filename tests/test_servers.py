"""The tests' own servers and links do what other tests rely on."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest

from spindle.settings import Connection
from tests.servers import DEBIAN, WHEEL, Link, Server, Servers, needs_debian

VARIABLES = {1: "X", 2: "ALARMS"}


@pytest.fixture(scope="module", params=[WHEEL, pytest.param(DEBIAN, marks=needs_debian)], ids=["wheel", "debian"])
def server(servers: Servers, request: pytest.FixtureRequest) -> Server:
    return servers.make(request.param)


def reader_of(server: Server, name: str, rows: int = 3) -> Connection:
    server.database(name, VARIABLES, [(1, 1000 * at, at / 2) for at in range(rows)], [(2, 5, "[]"), (2, 6, None)])
    return server.grant_reader(name, f"reader_{name}", "pass word")


def ask(connection: Connection, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(**connection.parameters(), connect_timeout=3) as opened:
        return opened.execute(query).fetchall()


def test_a_reader_reads_and_no_more(server: Server) -> None:
    reader = reader_of(server, "reads", rows=2)
    assert ask(reader, "select * from variable_log_float order by date") == [(1, 0, 0.0), (1, 1000, 0.5)]
    assert ask(reader, "select name, datatype from variable order by id") == [
        ("X", "java.lang.Integer"),
        ("ALARMS", "java.lang.String"),
    ]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(reader, "delete from variable")
    wrong = Connection(reader.host, reader.port, reader.dbname, reader.user, "other")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        ask(wrong, "select 1")


def test_statements_are_logged_by_role(server: Server) -> None:
    reader = reader_of(server, "logged")
    ask(reader, "select count(*)\nfrom variable")
    assert server.statements(reader.user) == ["BEGIN", "select count(*)\nfrom variable", "COMMIT"]


def test_stopped_killed_and_started_again(servers: Servers) -> None:
    server = servers.make()
    reader = reader_of(server, "comes_back")
    for end in (server.stop, server.kill):
        end()
        with pytest.raises(psycopg.OperationalError, match="refused"):
            ask(reader, "select 1")
        server.start()
        assert ask(reader, "select count(*) from variable") == [(2,)]
    server.become_standby()
    assert ask(reader, "select pg_is_in_recovery()") == [(True,)]


@needs_debian
def test_tls(servers: Servers) -> None:
    server = servers.make(DEBIAN, tls=True)
    server.access("hostssl all all 127.0.0.1/32 scram-sha-256")
    reader = reader_of(server, "safe")
    certificate = server.folder / "server.crt"
    query = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
    with psycopg.connect(
        **reader.parameters() | {"sslmode": "verify-full", "sslrootcert": str(certificate)}
    ) as connection:
        assert connection.execute(query).fetchall() == [(True,)]
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        psycopg.connect(**reader.parameters() | {"sslmode": "disable"})


def test_a_link_counts(server: Server) -> None:
    reader = reader_of(server, "metered", rows=3000)
    with Link(server.port) as link, psycopg.connect(**link.of(reader).parameters(), autocommit=True) as connection:
        assert link.connections == 1
        link.reset()
        rows = connection.execute("select * from variable_log_float").fetchall()
        assert (link.rows, link.round_trips, link.connections) == (len(rows), 1, 0)
        assert 3000 * 20 < link.bytes_down < 3000 * 60
        assert 30 < link.bytes_up < 200
        with connection.cursor().copy("copy variable_log_float to stdout") as copy:
            assert sum(1 for _ in copy.rows()) == 3000
        assert link.rows == 6000


def test_a_link_is_slow_or_broken_when_told(servers: Servers) -> None:
    server = servers.make()
    reader = reader_of(server, "far_away", rows=1000)
    with Link(server.port) as link:
        far = link.of(reader)
        link.slow(0.2)
        with psycopg.connect(**far.parameters(), autocommit=True) as connection:
            began = time.monotonic()
            connection.execute("select 1")
            assert 0.2 <= time.monotonic() - began < 0.6
            link.slow(0)
            link.bytes_per_second = 50_000
            began = time.monotonic()
            connection.execute("select * from variable_log_float").fetchall()
            assert time.monotonic() - began > 0.4
            link.cut()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("select 1")
        with pytest.raises(psycopg.OperationalError):
            ask(far, "select 1")
        link.mend()
        link.stall()
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError, match="timeout"):
            ask(far, "select 1")
        assert time.monotonic() - began >= 2
        link.mend()
        assert ask(far, "select 1") == [(1,)]


def test_a_server_without_a_template(tmp_path: Path) -> None:
    server = Server(tmp_path / "own").start()
    try:
        assert ask(server.admin, "select 1") == [(1,)]
    finally:
        server.stop()
