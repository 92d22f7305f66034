"""The doctor on servers of machines, each with one thing wrong; tests/test_doctor_results.py has those of results."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest

from spindle.doctor import MachineReport, Severity, examine
from spindle.doctor.names import Signal, near_names, read_signals
from spindle.doctor.reader import is_far
from spindle.settings import Connection, Settings
from tests.conftest import ROOT, Spindle
from tests.doctored import NOW_MS, PASSWORD, ROWS_EACH, environment, make_machine, only, said, settings_in
from tests.servers import DEBIAN, WHEEL, Link, Server, Servers, needs_debian

KINDS = [WHEEL, pytest.param(DEBIAN, marks=needs_debian)]


@pytest.fixture(scope="module")
def server(servers: Servers) -> Server:
    return servers.make()


@pytest.fixture(scope="module")
def results(module_database_factory: Callable[[], Connection]) -> Connection:
    """An empty database on the session's embedded server."""
    return replace(module_database_factory(), user="spindle_admin")


@pytest.fixture
def settings_of(results: Connection, tmp_path: Path) -> Callable[..., Settings]:
    """Settings of these machines' connections, as .env would say it, and of other keys."""

    def make(root: Path = ROOT, results: Connection = results, **machines: Connection) -> Settings:
        return settings_in(tmp_path, results, machines, root)

    return make


# All is well ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binaries", KINDS, ids=["wheel", "debian"])
def test_the_least_rights_are_enough_and_nothing_is_changed_or_read_whole(
    servers: Servers, settings_of: Callable[..., Settings], binaries: Path
) -> None:
    server = servers.make(binaries)
    reader = make_machine(server)
    found = examine(settings_of(branosera=reader))
    assert said(found) == []
    assert len(found.findings) == 2
    assert found.exit_code == 0
    (report,) = found.machines
    with server.connect(reader.dbname) as admin:
        (version,) = admin.execute("show server_version").fetchone() or ("",)
        numbers_and_texts = "select * from variable_log_float union all select id_var, date, 0 from variable_log_string"
        rows, crossing, oldest, newest = (
            admin.execute(
                "select count(*), count(*) filter (where name !~ '^TEMP|^X$'), min(date), max(date)"
                f" from ({numbers_and_texts}) as logged inner join variable on id = id_var"
            ).fetchone()
            or (0,) * 4
        )
        size = admin.execute(
            "select pg_total_relation_size('variable_log_float') + pg_total_relation_size('variable_log_string')"
        ).fetchone()
    assert (report.version, report.tls, report.standby) == (version, False, False)
    assert (report.rows, report.bytes) == (rows, *(size or ()))
    assert report.crossing_rows == pytest.approx(crossing, rel=0.01)
    assert [round(each.timestamp() * 1000) for each in (report.oldest, report.newest) if each] == [oldest, newest]
    assert report.clock_seconds is not None
    assert abs(report.clock_seconds) < 5
    assert report.round_trip_ms is not None
    assert 0 < report.round_trip_ms < 1000
    assert report.backfill_seconds is not None
    assert 0 <= report.backfill_seconds < 60
    sent = server.statements(reader.user)
    assert len(sent) > 10
    assert {re.split(r"\W", statement.strip())[0].lower() for statement in sent} == {"select", "with"}


def test_a_long_log_is_read_along_its_key(server: Server, settings_of: Callable[..., Settings]) -> None:
    """300 000 rows of a variable that is not configured: not one of them is read but the first and the last."""
    reader = make_machine(server)
    with server.connect(reader.dbname) as admin:
        admin.execute("insert into variable_log_float select 90, n, 0 from generate_series(1, 300000) as n; analyze")
        admin.execute("select pg_stat_reset()")
    (report,) = examine(settings_of(branosera=reader)).machines
    assert report.rows == pytest.approx(300_000 + 16 * ROWS_EACH, rel=0.05)
    with server.connect(reader.dbname) as admin:
        scans = "select seq_tup_read, idx_tup_fetch from pg_stat_user_tables where relname = 'variable_log_float'"
        ((read_whole, along_key),) = admin.execute(scans).fetchall()
    assert read_whole == 0
    assert along_key < 20_000


def test_it_estimates_a_backfill_by_what_the_link_carries(server: Server, settings_of: Callable[..., Settings]) -> None:
    reader = make_machine(server)
    with Link(server.port, bytes_per_second=200_000) as link:
        slow, fast = (examine(settings_of(branosera=each)).machines[0] for each in (link.of(reader), reader))
    assert slow.rows == fast.rows
    assert slow.rows_sent_per_second is not None
    assert fast.rows_sent_per_second is not None
    assert slow.rows_sent_per_second < 20_000 < fast.rows_sent_per_second
    assert (slow.backfill_seconds or 0) > (fast.backfill_seconds or 0)


def test_production_in_the_results_database(
    plant_database_factory: Callable[[], Connection], settings_of: Callable[..., Settings]
) -> None:
    """Then AGG_DB_USER reads it, and its rights are what it should have."""
    both = replace(plant_database_factory(), user="spindle_admin")
    signals = [signal for signal in read_signals(ROOT) if signal.machine == "branosera"]
    with psycopg.connect(**both.parameters(), autocommit=True) as admin:
        admin.execute(
            "create table variable (id int primary key, name text, datatype text);"
            "create table variable_log_float (id_var int, date bigint, value real, primary key (id_var, date));"
            "create table variable_log_string (id_var int, date bigint, value text, primary key (id_var, date));"
        )
        for number, signal in enumerate(signals):
            admin.execute("insert into variable values (%s, %s, '')", (number, signal.variable))
            admin.execute(f"insert into {signal.log} values (%s, %s, '1')", (number, NOW_MS))
        admin.execute("analyze")
    found = examine(settings_of(results=both, branosera=replace(both, user="nobody_at_all")))
    assert said(found) == []
    assert found.machines[0].rows == len(signals)


# One thing is wrong --------------------------------------------------------------------------------------------------

BREAKS = {
    "no table": (
        "drop table variable_log_string",
        r"there is no table public\.variable_log_string \| is branosera_\d+ the right database",
        1,
    ),
    "table elsewhere": (
        "create schema old; alter table variable_log_float set schema old",
        r"no table public\.variable_log_float \| it is in the schema old",
        1,
    ),
    "no column": ("alter table variable rename name to label", r"public\.variable has no column name", 1),
    "another type": (
        "alter table variable_log_float alter date type timestamp using to_timestamp(date / 1000)",
        r"public\.variable_log_float has the column date as timestamp without time zone, not bigint",
        1,
    ),
    "no key": (
        "alter table variable_log_float drop constraint variable_log_float_pkey",
        r"variable_log_float has no key \(id_var, date\).*alter table variable_log_float add primary key",
        1,
    ),
    "key of part of the rows": (
        "alter table variable_log_float drop constraint variable_log_float_pkey;"
        "create unique index on variable_log_float (id_var, date) where id_var > 3",
        "variable_log_float has no key",
        1,
    ),
    "key the other way round": (
        "alter table variable_log_float drop constraint variable_log_float_pkey;"
        "create unique index on variable_log_float (date, id_var)",
        "variable_log_float has no key",
        1,
    ),
    "invalid key": (
        "alter table variable_log_float drop constraint variable_log_float_pkey;"
        "create unique index log_key on variable_log_float (id_var, date);"
        "update pg_index set indisvalid = false where indexrelid = 'log_key'::regclass",
        "variable_log_float has an invalid key.*`reindex`",
        1,
    ),
    "one table not readable": (
        "revoke select on variable_log_string from {reader}",
        r"{reader} may not read public\.variable_log_string \|.*"
        r"`grant select on public\.variable_log_string to {reader}`",
        3,
    ),
    "a signal twice": (
        "insert into variable values (900, 'PROG_STATUS', '')",
        "PROG_STATUS stands 2 times in the table variable: 2, 900",
        1,
    ),
    "schema not usable": (
        "revoke usage on schema public from public",
        r"{reader} may not read .*`grant usage on schema public to {reader}",
        3,
    ),
}


@pytest.mark.parametrize("wrong", BREAKS)
def test_what_stops_a_refresh_is_an_error(server: Server, settings_of: Callable[..., Settings], wrong: str) -> None:
    statements, pattern, exit_code = BREAKS[wrong]
    reader = make_machine(server)
    with server.connect(reader.dbname) as admin:
        admin.execute(statements.replace("{reader}", reader.user))  # type: ignore[arg-type]
    found = examine(settings_of(branosera=reader))
    errors = said(found, Severity.ERROR)
    assert re.search("^branosera: .*" + pattern.replace("{reader}", reader.user), errors[0]), errors
    assert found.exit_code == exit_code
    assert found.machines[0].version


WARNINGS = {
    "superuser": ("alter role {reader} superuser", "may do more than read: superuser"),
    "superuser by membership": ("grant admin to {reader}", "may do more than read: superuser"),
    "attributes": ("alter role {reader} createdb createrole", "more than read: createdb; createrole"),
    "writes": (
        "grant insert, delete on variable to {reader}; grant update on variable_log_float to {reader}",
        "more than read: insert, delete on variable; update on variable_log_float",
    ),
    "writes everything": (
        "grant pg_write_all_data to {reader}",
        "pg_write_all_data; insert, update, delete on variable;",
    ),
    "owner": ("alter table variable_log_float owner to {reader}", "more than read: owner of variable_log_float"),
    "creates schemas": ("grant create on database {dbname} to {reader}", "more than read: create in the database"),
    "key that is not unique": (
        "alter table variable_log_float drop constraint variable_log_float_pkey;"
        "create index on variable_log_float (id_var, date)",
        "the index of variable_log_float .* is not unique",
    ),
    "wide values": (
        "alter table variable_log_float alter value type double precision",
        "variable_log_float.value is double precision; it is read as real",
    ),
    "misspelt": (
        "update variable set name = 'TEMPERATURA_BASSE' where name = 'TEMPERATURA_BASE'",
        r"no variable TEMPERATURA_BASE \|.* is it TEMPERATURA_BASSE \(java\.lang\.Integer, variable_log_float\)",
    ),
    "another language": (
        "update variable set name = 'TEMPERATURA_MANDRINO_1' where name = 'TEMPERATURE_SPINDLE_1'",
        r"no variable TEMPERATURE_SPINDLE_1 \|.* is it TEMPERATURA_MANDRINO_1 \(",
    ),
    "no such thing": (
        "update variable set name = 'QQQ' where name = 'ALARMS'",
        r"no variable ALARMS \| no name is near",
    ),
    "a sensor twice": (
        "insert into variable values (900, 'TEMPERATURA_BASE', '')",
        r"TEMPERATURA_BASE stands 2 times in the table variable: \d+, 900 \| readings of all of them count",
    ),
    "in the other log": (
        "insert into variable_log_float select id_var, date, 0 from variable_log_string;"
        "delete from variable_log_string",
        "ALARMS is logged in variable_log_float; the role alarms is read from variable_log_string",
    ),
    "never logged": (
        "delete from variable_log_float where id_var in (select id from variable where name = 'SPINDLE_LOAD_1')",
        "SPINDLE_LOAD_1 has no row in variable_log_float",
    ),
    "in the future": (
        f"insert into variable_log_float values (1, {NOW_MS} + 86400000, 0)",
        "the newest log row, .* is in the future",
    ),
    "in no calendar": (
        "insert into variable_log_float values (1, 900000000000000000, 0)",
        "the newest log row, 9999-12-31 .* is in the future",
    ),
    "before there were machines": (
        "insert into variable_log_float values (1, 0, 0)",
        "the oldest log row is of 1970-01-01.* first_day",
    ),
    "nothing logged": ("truncate variable_log_float, variable_log_string", "nothing is logged"),
}


@pytest.mark.parametrize("wrong", WARNINGS)
def test_what_does_not_stop_a_refresh_is_a_warning(
    server: Server, settings_of: Callable[..., Settings], wrong: str
) -> None:
    statements, pattern = WARNINGS[wrong]
    reader = make_machine(server)
    with server.connect(reader.dbname) as admin:
        admin.execute(statements.replace("{reader}", reader.user).replace("{dbname}", reader.dbname))  # type: ignore[arg-type]
    found = examine(settings_of(branosera=reader))
    warnings = said(found, Severity.WARNING)
    assert any(re.search("^branosera: .*" + pattern, line) for line in warnings), said(found)
    assert said(found, Severity.ERROR) == []
    assert found.exit_code == 0


def test_an_old_log_and_a_machine_without_its_variables(server: Server, settings_of: Callable[..., Settings]) -> None:
    reader = make_machine(server, last_ms=NOW_MS - 80 * 3600 * 1000)
    only(examine(settings_of(branosera=reader)), Severity.WARNING, "branosera: the newest log row is of 20")
    other = make_machine(server)
    with server.connect(other.dbname) as admin:
        admin.execute("update variable set name = 'V' || id")
    found = examine(settings_of(branosera=other))
    assert found.exit_code == 1
    assert "none of its variables" in said(found, Severity.ERROR)[0]


# Logins and servers --------------------------------------------------------------------------------------------------


def test_a_login_that_fails_says_which_setting_is_wrong(server: Server, settings_of: Callable[..., Settings]) -> None:
    reader = make_machine(server)
    for wrong, pattern in (
        (replace(reader, password="other"), "DB_BRANOSERA_USER or DB_BRANOSERA_PASSWORD is wrong"),
        (replace(reader, password=""), "set DB_BRANOSERA_PASSWORD"),
        (replace(reader, user="nobody"), "DB_BRANOSERA_USER or DB_BRANOSERA_PASSWORD is wrong"),
        (replace(reader, dbname="gone"), "correct DB_BRANOSERA_NAME"),
        (replace(reader, port=1), "does the server run"),
    ):
        only(examine(settings_of(branosera=wrong)), Severity.ERROR, pattern, 3)
    found = examine(settings_of(branosera=replace(reader, sslmode="require")))
    assert "the server has no TLS" in said(found, Severity.ERROR)[1]
    with server.connect() as admin:
        admin.execute(f"alter role {reader.user} nologin")  # type: ignore[arg-type]
    only(examine(settings_of(branosera=reader)), Severity.ERROR, "alter role .* login", 3)
    with server.connect() as admin:
        admin.execute(f"alter role {reader.user} login connection limit 0")  # type: ignore[arg-type]
    only(examine(settings_of(branosera=reader)), Severity.ERROR, "connection limit", 3)
    with server.connect() as admin:
        admin.execute(f"alter role {reader.user} connection limit 1")  # type: ignore[arg-type]
    only(examine(settings_of(branosera=reader)), Severity.NOTE, f"alter role {reader.user} connection limit 2")


def test_foreign_tables_need_a_password_that_is_asked_for(
    servers: Servers, settings_of: Callable[..., Settings]
) -> None:
    server = servers.make()
    reader = make_machine(server)
    server.access("host all all 127.0.0.1/32 trust")
    only(examine(settings_of(branosera=reader)), Severity.ERROR, "lets reader_.* in without asking", 3)
    server.access("host other all 127.0.0.1/32 scram-sha-256")
    only(examine(settings_of(branosera=reader)), Severity.ERROR, "a line in its pg_hba.conf", 3)


def test_a_standby_is_noted(servers: Servers, settings_of: Callable[..., Settings]) -> None:
    server = servers.make()
    reader = make_machine(server)
    server.become_standby()
    found = examine(settings_of(branosera=reader))
    only(found, Severity.NOTE, "is a standby: .* max_standby_streaming_delay, 30s")
    assert found.machines[0].standby is True


@needs_debian
def test_tls(servers: Servers, settings_of: Callable[..., Settings]) -> None:
    """127.1 is a way to write 127.0.0.1 that does not look like loopback: as if the server were far."""
    server = servers.make(DEBIAN, tls=True)
    reader = make_machine(server)
    far = replace(reader, host="127.1")
    found = examine(settings_of(branosera=far))
    assert found.machines[0].tls is True
    only(found, Severity.NOTE, "TLS is in use, but prefer .*DB_BRANOSERA_SSLMODE=require")
    plain = examine(settings_of(branosera=replace(far, sslmode="disable")))
    only(plain, Severity.WARNING, "rows cross the network without TLS")
    # the results server reads by its own libpq, and the wheel's has no TLS
    required = examine(settings_of(branosera=replace(reader, sslmode="require")))
    only(required, Severity.ERROR, "results: the results server was built without TLS.*AGG_DB_", 2)
    server.access("hostssl all all 127.0.0.1/32 scram-sha-256")
    only(examine(settings_of(branosera=replace(reader, sslmode="disable"))), Severity.ERROR, "SSLMODE=require", 3)


@pytest.mark.parametrize(
    ("host", "far"),
    [
        ("127.0.0.1", False),
        ("::1", False),
        ("localhost", False),
        ("/run/x", False),
        ("10.0.0.5", True),
        ("db.lan", True),
    ],
)
def test_what_leaves_this_computer(host: str, far: bool) -> None:
    assert is_far(Connection(host, 5432, "db", "user")) is far


# Many machines -------------------------------------------------------------------------------------------------------


@pytest.fixture
def links(server: Server) -> Iterator[Callable[[], Link]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Link(server.port))


def test_machines_are_looked_at_side_by_side(
    server: Server, settings_of: Callable[..., Settings], links: Callable[[], Link]
) -> None:
    far = {machine: links() for machine in ("branosera", "tamesa")}
    machines = {machine: link.of(make_machine(server, machine)) for machine, link in far.items()}
    for link in far.values():
        link.slow(0.1)
    seconds = {}
    for names in (["branosera"], ["tamesa"], ["branosera", "tamesa"]):
        began = time.monotonic()
        found = examine(settings_of(**{name: machines[name] for name in names}))
        seconds[len(names), names[0]] = time.monotonic() - began
        assert all(report.round_trip_ms and report.round_trip_ms >= 100 for report in found.machines)
        assert len(said(found, Severity.NOTE)) == len(names)  # each: slow
    alone = seconds[1, "branosera"] + seconds[1, "tamesa"]
    assert seconds[2, "branosera"] < alone * 0.75


def test_a_silent_server_does_not_stop_the_others(
    server: Server, settings_of: Callable[..., Settings], links: Callable[[], Link]
) -> None:
    """Silent from the start, and in the middle: the network takes what is sent and nothing comes back."""
    tamesa, link = make_machine(server, "tamesa"), links()
    silent = link.of(make_machine(server))
    settings = settings_of(branosera=silent, tamesa=tamesa)
    link.stall()
    began = time.monotonic()
    found = examine(settings, patience=4)
    assert time.monotonic() - began < 12
    only(found, Severity.ERROR, "branosera: cannot connect .*timeout", 3)
    link.mend()
    link.slow(0.3)
    shown: list[str] = []

    def progress(name: str, done: int, total: int) -> None:
        shown.append(f"{name} {done}/{total}")
        if name == "tamesa":
            link.stall()

    began = time.monotonic()
    found = examine(settings, progress, patience=6)
    assert time.monotonic() - began < 15
    assert shown == ["results 0/3", "results 1/3", "tamesa 2/3", "branosera 3/3"]
    assert found.exit_code == 3
    branosera, other = found.machines
    assert (branosera.machine, other.machine) == ("branosera", "tamesa")
    assert branosera.backfill_seconds is None
    assert other.backfill_seconds is not None
    assert [finding.severity for finding in other.findings] == []


# Seeds and files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with seeds of its own."""
    shutil.copytree(ROOT / "seeds", tmp_path / "project" / "seeds")
    return tmp_path / "project"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def test_seeds(server: Server, settings_of: Callable[..., Settings], root: Path) -> None:
    machines, signals = root / "seeds" / "machine_config.csv", root / "seeds" / "signal_config.csv"
    reader = make_machine(server)
    edit(machines, "tamesa,Tamesa,1245,UTC,", "tamesa,Tamesa,1245,Europe/Nowhere,")
    found = examine(settings_of(root, branosera=reader))
    assert "Europe/Nowhere of tamesa" in said(found, Severity.ERROR)[0]
    assert found.exit_code == 2
    assert [finding.what for finding in found.findings if finding.where == "settings"] == [
        "tamesa stands in seeds/machine_config.csv, but no setting says where its database is"
    ]
    edit(machines, "Europe/Nowhere", "europe/madrid")
    edit(signals, "tamesa,", "tamsa,")
    twice = examine(settings_of(root, branosera=reader, tamesa=reader))
    assert any("variables of tamsa, which is no machine" in line for line in said(twice, Severity.WARNING))
    assert any("branosera, tamesa are read from one and the same" in line for line in said(twice, Severity.WARNING))
    assert any("tamesa: seeds/signal_config.csv has no row" in line for line in said(twice, Severity.WARNING))


def test_first_day_shortens_a_backfill(server: Server, settings_of: Callable[..., Settings], root: Path) -> None:
    reader = make_machine(server)
    with server.connect(reader.dbname) as admin:
        admin.execute(
            "insert into variable_log_float select 90, newest - 1000 * n, 0"
            " from generate_series(400, 400000) as n, (select max(date) as newest from variable_log_float) as log;"
            "analyze"
        )
    (whole,) = examine(settings_of(root, branosera=reader)).machines
    today = datetime.now(timezone.utc)
    edit(root / "seeds" / "machine_config.csv", "2207,UTC,", f"2207,UTC,{today:%Y-%m-%d}")
    (part,) = examine(settings_of(root, branosera=reader)).machines
    share = (today - today.replace(hour=0, minute=0, second=0)) / timedelta(seconds=400_000)

    def unhurried(report: MachineReport) -> float:
        """The seconds that its own rates give for the whole log."""
        scanned, sent = report.rows_scanned_per_second or 0, report.rows_sent_per_second or 0
        return (report.rows or 0) / scanned + (report.crossing_rows or 0) / sent

    assert whole.backfill_seconds == pytest.approx(unhurried(whole), abs=0.1)
    assert part.backfill_seconds == pytest.approx(unhurried(part) * share, abs=0.1)


def test_a_file_of_passwords_that_others_read(
    server: Server, settings_of: Callable[..., Settings], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = make_machine(server)
    (root / "passwords.env").write_text(f"DB_PASSWORD={PASSWORD}\n", "utf-8")
    monkeypatch.setenv("SPINDLE_ENV_FILE", "passwords.env")
    for mode, warned in ((0o640, True), (0o604, True), (0o600, False)):
        (root / "passwords.env").chmod(mode)
        lines = said(examine(settings_of(root, branosera=reader)), Severity.WARNING)
        assert lines == (
            [
                f"settings: {root / 'passwords.env'} may be read or written by other users, and has passwords"
                f" | chmod 600 {root / 'passwords.env'}"
            ]
            if warned
            else []
        )


def test_near_names_of_the_real_machines() -> None:
    """What tamesa calls things, found in branosera's real dictionary, and the other way round."""
    signals = read_signals(ROOT)
    named: dict[str, list[str]] = {}
    for signal in signals:
        named.setdefault(signal.machine, []).append(signal.variable)
    by_meaning = {(signal.machine, signal.role, signal.label): signal.variable for signal in signals}
    for signal in signals:
        other = "tamesa" if signal.machine == "branosera" else "branosera"
        expected = by_meaning[other, signal.role, signal.label]
        if expected != signal.variable:
            copied = Signal(other, signal.role, signal.variable, "copied")
            near = near_names(copied, named[other], [copied])
            assert expected in near or {signal.variable, expected} == {"SPINDLE_LOAD_1", "MANDRINO_CONSUMO_1"}
    load = Signal("third", "load", "SPINDLE_LOAD_1", "Spindle 1 motor load")
    assert near_names(load, named["tamesa"], [load, *signals])[0] == "MANDRINO_CONSUMO_1"


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command(server: Server, results: Connection, tmp_path: Path) -> None:
    """One machine of two is down: both are shown, the code is that of the error, and no password is."""
    branosera, tamesa = make_machine(server), make_machine(server, "tamesa")
    environ = environment(results, tmp_path, {"branosera": branosera, "tamesa": replace(tamesa, port=1)})
    shell = Spindle(tmp_path / "state", environ)
    done = shell.run("doctor", "--json", exit_code=3)
    document: dict[str, Any] = json.loads(done.stdout)
    assert (document["ok"], document["exit_code"]) == (False, 3)
    assert document["results"]["version"].startswith("18.")
    assert document["machines"]["branosera"]["rows"] == 16 * ROWS_EACH
    assert document["machines"]["tamesa"]["version"] is None
    assert set(document["findings"][0]) == {"severity", "where", "what", "advice", "exit_code"}
    assert [(each["severity"], each["where"]) for each in document["findings"]] == [
        ("error", "tamesa"),
        ("note", "results"),
    ]
    shown = shell.run("doctor", exit_code=3)
    assert re.search(rf"│ branosera +│ 18\.\S+ +│ \S+ +│ {16 * ROWS_EACH:,} +│", shown.stdout)
    assert re.search(r"│ tamesa +│ no answer +│", shown.stdout)
    assert "error tamesa: cannot connect to the production database of tamesa" in shown.stdout
    assert "does the server run, listen on that address" in shown.stdout
    assert PASSWORD not in done.stdout + done.stderr + shown.stdout + shown.stderr
    shell.settings |= environment(results, tmp_path, {"tamesa": tamesa})
    assert shell.run("doctor").returncode == 0


def test_nothing_to_look_at(tmp_path: Path) -> None:
    done = Spindle(tmp_path / "state").run("doctor", exit_code=2)
    assert "there is no demo plant" in done.stderr
    assert not (tmp_path / "state" / "postgres").exists()


def test_the_demo_plant_is_healthy(spindle: Spindle) -> None:
    assert json.loads(spindle.run("doctor", "--json").stdout)["findings"] == []
