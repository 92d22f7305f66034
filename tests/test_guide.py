"""docs/connect-your-machines.md, followed word for word: its SQL, settings and seeds on real servers, its commands."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psycopg
import pytest

from spindle import settings as spindle_settings
from tests.conftest import ROOT, Spindle, thorough
from tests.servers import DEBIAN, WHEEL, Server, Servers, needs_debian

GUIDE = ROOT / "docs" / "connect-your-machines.md"
BLOCKS = {
    (kind, name): body
    for kind, name, body in re.findall(r"^```(\w+) ?(\w*)\n(.*?)^```$", GUIDE.read_text("utf-8"), re.M | re.S)
}
MACHINES = {"branosera": ("2207", "10.0.0.5"), "tamesa": ("1245", "10.0.0.6")}
OWN = {"branosera": "SPINDLE_LOAD_1", "tamesa": "MANDRINO_CONSUMO_1", "cordoba": "SPINDLE_LOAD_1"}
VARIABLES = ("MACHINE_IN_OPERATION", "PROG_STATUS", "ALARMS", "TEMPERATURA_BASE")
YESTERDAY = datetime.now(timezone.utc).replace(hour=8, minute=0, second=0, microsecond=0) - timedelta(days=1)
NAN = float("nan")


def test_every_block_is_followed() -> None:
    """No block of code of the page is without a test below."""
    assert set(BLOCKS) == {
        *(("sql", name) for name in ("production", "results")),
        *(("env", name) for name in ("", "results")),
        *(("csv", name) for name in ("machine_config", "signal_config")),
        ("pg_hba", ""),
        ("sh", ""),
    }


def make_machine(server: Server, machine: str, dbname: str) -> None:
    """A database with a log of one hour of work, as an administrator has it before Spindle came."""
    names = dict(enumerate([*VARIABLES, OWN[machine]], start=1))
    start = round(YESTERDAY.timestamp() * 1000)
    end = start + 3_600_000
    floats = [(1, start, 255.0), (1, end, 0.0), (2, start, 7.0), (2, end, NAN), (4, start, 2150.0)]
    floats += [(5, start, 50.0), (5, end, NAN)]
    texts = [(3, start + 600_000, '[["A1","FALLO BOMBA",3,3,1]]'), (3, end, "[]")]
    server.database(dbname, names, floats, texts)


def follow_step_1(server: Server, dbname: str, password: str) -> None:
    """The administrator's part, on a server whose pg_hba.conf lets nobody else in."""
    statements = BLOCKS["sql", "production"].replace("choose-a-password", password)
    with server.connect(dbname) as admin:
        if admin.execute("select 1 from pg_roles where rolname = 'spindle_reader'").fetchone():
            statements = statements.partition("\n")[2]  # once for each server, as the page says
        admin.execute(statements)  # type: ignore[arg-type]
    server.access(BLOCKS["pg_hba", ""].replace("10.0.0.7", "127.0.0.1").strip())


def local(settings: str, ports: dict[str, int], passwords: dict[str, str]) -> str:
    """The page's settings with the addresses and passwords of these servers."""
    for machine, (_, host) in MACHINES.items():
        prefix = f"DB_{machine.upper()}"
        assert f"{prefix}_HOST={host}\n" in settings
        settings = settings.replace(
            f"{prefix}_HOST={host}\n", f"{prefix}_HOST=127.0.0.1\n{prefix}_PORT={ports[machine]}\n"
        )
        settings = re.sub(rf"^({prefix}_PASSWORD)=.*$", rf"\1={passwords[machine]}", settings, flags=re.M)
    return settings


def copy_project(folder: Path) -> Path:
    """A checkout with the page's seeds. What is installed is linked."""
    left_out = shutil.ignore_patterns(
        ".git", ".venv", ".spindle", "target", "node_modules", "__pycache__", ".env", ".*_cache"
    )
    shutil.copytree(ROOT, folder, ignore=left_out)
    (folder / "gateway" / "node_modules").symlink_to((ROOT / "gateway" / "node_modules").resolve())
    for name in ("machine_config", "signal_config"):
        (folder / "seeds" / f"{name}.csv").write_text(BLOCKS["csv", name], "utf-8")
    return folder


class Guided:
    """Two machines on two servers, connected as the page says."""

    def __init__(self, servers: Servers, folder: Path, results: Server | None) -> None:
        kinds = (DEBIAN if DEBIAN.is_dir() else WHEEL, WHEEL)
        self.servers = {machine: servers.make(kind) for machine, kind in zip(MACHINES, kinds, strict=True)}
        passwords = {machine: f"of {machine}" for machine in MACHINES}
        for machine, (dbname, _) in MACHINES.items():
            make_machine(self.servers[machine], machine, dbname)
            follow_step_1(self.servers[machine], dbname, passwords[machine])
        self.root = copy_project(folder / "project")
        self.env_file = self.root / ".env"
        self.env_file.touch(0o600)
        ports = {machine: server.port for machine, server in self.servers.items()}
        self.env_file.write_text(local(BLOCKS["env", ""], ports, passwords), "utf-8")
        if results:
            self.make_results(results)
        # a relative name, so that the project's own .env is read and not the one of who runs the tests
        self.spindle = Spindle(folder / "state", {"SPINDLE_ENV_FILE": ".env"}, root=self.root)

    def make_results(self, server: Server) -> None:
        before, _, after = BLOCKS["sql", "results"].partition("\\connect spindle\n")
        for dbname, statements in (("postgres", before), ("spindle", after)):
            with server.connect(dbname) as admin:
                for statement in filter(str.strip, statements.split(";")):
                    admin.execute(statement)  # type: ignore[arg-type]
        settings = BLOCKS["env", "results"].replace("10.0.0.7", f"127.0.0.1\nAGG_DB_PORT={server.port}")
        with self.env_file.open("a", encoding="utf-8") as file:
            file.write(settings)

    def follow_step_6(self) -> None:
        for line in BLOCKS["sh", ""].splitlines():
            command = re.fullmatch(r"(?:make|\.venv/bin/python bootstrap\.py) (\w+)", line)
            assert command, line
            self.spindle.run(command[1])

    def energy(self, machine: str) -> list[float]:
        return [row["energy_kwh"] for row in self.spindle.rows("energy_consumption", machine=f"eq.{machine}")]


@pytest.fixture(scope="module")
def guide(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guided]:
    """With results on a server of one's own, whose login is no superuser."""
    followed = Guided(servers, tmp_path_factory.mktemp("guide"), servers.make())
    yield followed
    followed.spindle.run("stop", exit_code=None)


def test_settings_of_the_page_are_settings(tmp_path: Path) -> None:
    """As they are printed, but for the file's name."""
    both = tmp_path / "env"
    both.write_text(BLOCKS["env", ""] + BLOCKS["env", "results"], "utf-8")
    found = spindle_settings.load_settings(copy_project(tmp_path / "project"), {"SPINDLE_ENV_FILE": str(both)})
    assert {machine: (source.dbname, source.host) for machine, source in found.production.items()} == MACHINES
    assert {source.user for source in found.production.values()} == {"spindle_reader"}
    assert (found.results.host, found.results.dbname, found.results.user) == ("10.0.0.7", "spindle", "spindle_admin")


def test_the_doctor_has_nothing_to_say_before_init(guide: Guided) -> None:
    said = guide.spindle.run("doctor").stdout
    assert "error" not in said
    assert "warning" not in said
    assert "note results: it is not set up yet" in said


def test_the_login_can_do_nothing_else(guide: Guided) -> None:
    server, (dbname, _) = guide.servers["tamesa"], MACHINES["tamesa"]
    login = f"host=127.0.0.1 port={server.port} dbname={dbname} user=spindle_reader password='of tamesa'"
    with psycopg.connect(login, autocommit=True) as reader:
        assert reader.execute("select count(*) from variable").fetchall() == [(5,)]
        assert reader.execute("show statement_timeout").fetchall() == [("10min",)]
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            reader.execute("insert into variable values (99, 'x', 'x')")
        reader.execute("set default_transaction_read_only = off")
        for statement in (
            "insert into variable values (99, 'x', 'x')",
            "delete from variable_log_float",
            "create schema mine",
            "select pg_read_file('PG_VERSION')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement)  # type: ignore[arg-type]


def test_init_backfill_and_serve_are_all_it_takes(guide: Guided) -> None:
    guide.follow_step_6()
    assert [row["machine"] for row in guide.spindle.rows("machines")] == ["branosera", "tamesa"]
    for machine in MACHINES:
        assert guide.energy(machine) == [18.5]
        programs = guide.spindle.rows("machine_program", machine=f"eq.{machine}")
        assert [(row["program"], row["duration_seconds"]) for row in programs] == [(7, 3600)]
        (alert,) = guide.spindle.rows("alerts_detail", machine=f"eq.{machine}")
        assert (alert["alert_type"], alert["duration_seconds"]) == ("error", 3000)
    assert guide.spindle.run("doctor").stdout.count("note") == 0


@thorough
def test_a_machine_that_is_down_does_not_stop_the_other(guide: Guided) -> None:
    guide.servers["tamesa"].kill()
    make_newer(guide.servers["branosera"], "2207")
    guide.spindle.run("refresh", exit_code=8)
    assert max(row["ts"] for row in guide.spindle.rows("machine_changes", machine="eq.branosera")).startswith(
        f"{YESTERDAY + timedelta(hours=2):%Y-%m-%dT%H}"
    )
    assert guide.energy("tamesa") == [18.5]
    said = guide.spindle.run("doctor", exit_code=3).stdout
    assert "error tamesa: cannot connect" in said
    guide.servers["tamesa"].start()
    make_newer(guide.servers["tamesa"], "1245")
    guide.spindle.refresh()
    assert len(guide.spindle.rows("machine_changes", machine="eq.tamesa")) == 3


def make_newer(server: Server, dbname: str) -> None:
    later = round((YESTERDAY + timedelta(hours=2)).timestamp() * 1000)
    with server.connect(dbname) as admin:
        admin.execute("insert into variable_log_float values (1, %s, 255)", (later,))


@thorough
def test_a_machine_is_added_and_removed(guide: Guided) -> None:
    """On the server of branosera, so its login is there already: the same for both by DB_CORDOBA_…"""
    server = guide.servers["branosera"]
    make_machine(server, "cordoba", "3310")
    follow_step_1(server, "3310", "")
    machines, signals = (guide.root / "seeds" / f"{name}.csv" for name in ("machine_config", "signal_config"))
    kept = {path: path.read_text("utf-8") for path in (machines, signals, guide.env_file)}
    machines.write_text(kept[machines] + "cordoba,Cordoba,3310,Europe/Madrid,\n", "utf-8")
    own = [line for line in kept[signals].splitlines() if line.startswith("branosera,")]
    signals.write_text(kept[signals] + "".join(f"{line}\n" for line in own).replace("branosera,", "cordoba,"), "utf-8")
    login = {"HOST": "127.0.0.1", "PORT": server.port, "PASSWORD": "of branosera"}
    guide.env_file.write_text(
        kept[guide.env_file] + "".join(f"DB_CORDOBA_{key}={value}\n" for key, value in login.items()), "utf-8"
    )
    guide.spindle.run("doctor")
    guide.spindle.run("backfill", "--machine", "cordoba")
    assert guide.energy("cordoba") == [18.5]
    for path, text in kept.items():
        path.write_text(text, "utf-8")
    guide.spindle.run("refresh")
    assert guide.energy("cordoba") == [18.5]
    guide.spindle.run("forget", "cordoba", "--yes")
    assert guide.energy("cordoba") == []
    assert len(guide.energy("branosera")) >= 1


@needs_debian
def test_with_tls(servers: Servers) -> None:
    """`hostssl` instead of `host`: the login gets in with TLS, and not without."""
    server = servers.make(DEBIAN, tls=True)
    make_machine(server, "branosera", "2207")
    follow_step_1(server, "2207", "secret")
    server.access(BLOCKS["pg_hba", ""].replace("10.0.0.7", "127.0.0.1").replace("host ", "hostssl ").strip())
    login = f"host=127.0.0.1 port={server.port} dbname=2207 user=spindle_reader password=secret"
    with psycopg.connect(f"{login} sslmode=require") as reader:
        assert reader.execute("select count(*) from variable").fetchall() == [(5,)]
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        psycopg.connect(f"{login} sslmode=disable")


@thorough
def test_with_embedded_results(servers: Servers, tmp_path: Path) -> None:
    guided = Guided(servers, tmp_path, None)
    try:
        guided.spindle.run("doctor")
        guided.follow_step_6()
        assert guided.energy("branosera") == guided.energy("tamesa") == [18.5]
    finally:
        guided.spindle.run("stop", exit_code=None)
