"""The services and who keeps them running: supervisord starts PostgreSQL, PostgREST and nginx, and restarts them."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil
import psycopg
from supervisor.xmlrpc import Faults, SupervisorTransport

from spindle import embedded, gateway, tools
from spindle.errors import MachineNotReady, ServiceDown
from spindle.own_client import open_gateway
from spindle.settings import Settings, socket_dir
from spindle.state_files import plain_path, prepare_socket_dir, prepare_state_dir, state_lock, write_private, writing
from spindle.unprivileged import ServiceUser, clean_environment, launcher, run_unprivileged, service_user

START_SECONDS = 30
# A server that was killed reads its journal first; as long as it says so, it is waited for.
RECOVERY_SECONDS = 300
# PostgreSQL writes out its memory when it stops.
STOP_SECONDS = 90
POLL_SECONDS = 0.1
LOG_BYTES = 10 * 1024**2
LOG_FILES = 5
# A crashed service is tried again after 1, 2, 3, … seconds: over three minutes in all, then it is reported as fatal.
START_RETRIES = 20
DIES_WITH_PARENT = ("--death-signal", "TERM")


@dataclass(frozen=True)
class ServiceState:
    """What supervisord knows of a service. `since` is when it entered the state, None when it never ran."""

    name: str
    state: str
    pid: int | None
    since: datetime | None
    detail: str

    @property
    def running(self) -> bool:
        """Whether it has been up for a second, as supervisord sees it."""
        return self.state == "running"

    @property
    def alive(self) -> bool:
        """It has a process, perhaps one so young that it is not called running yet."""
        return self.state in ("running", "starting")


@dataclass(frozen=True)
class Program:
    """A service as supervisord starts it."""

    name: str
    command: list[str]
    folder: Path
    stop_signal: str
    stop_seconds: int
    stdout: str
    stderr: str | None = None


def start_database(settings: Settings) -> None:
    """Start the embedded PostgreSQL, if that is what the settings want, and wait until it answers."""
    if not settings.embedded_results:
        return
    embedded.ensure_cluster(settings)
    with state_lock(settings):
        supervisor = _connect(settings)
        if supervisor is not None and _state(supervisor, "postgres").alive:
            # a refresh must not touch running services: only `serve` applies changed commands
            supervisor.signalProcess("postgres", "HUP")
        else:
            supervisor = _ensure_supervisor(settings)
            _start(supervisor, "postgres")
        _await_database(settings, supervisor)


def start_gateway(settings: Settings, authenticator_password: str) -> None:
    """Start PostgREST and nginx, or restart what changed, and wait until a query through both works."""
    prepare_state_dir(settings)
    with state_lock(settings):
        user = service_user(settings)
        prepare_socket_dir(settings, user)
        supervisor = _ensure_supervisor(settings)
        _check_port(settings, "GATEWAY_PORT", settings.gateway_port, settings.access.address)
        if settings.metrics_port:
            _check_port(settings, "METRICS_PORT", settings.metrics_port, "127.0.0.1")
        written = gateway.write_gateway(settings, user, authenticator_password)
        if written.postgrest and _state(supervisor, "postgrest").alive:
            if written.postgrest_rereads:
                _reread_postgrest(supervisor)
            else:
                supervisor.stopProcess("postgrest")
        _start(supervisor, "postgrest")
        if written.nginx and _state(supervisor, "nginx").alive:
            _reread_nginx(settings, supervisor)
        _start(supervisor, "nginx")
        if settings.metrics_port:
            _start(supervisor, "metrics")
        _await_ready(settings, supervisor)


def stop(settings: Settings) -> None:
    """Stop everything that runs for this state folder and remove its sockets. Fine when nothing runs."""
    with _lock_if_any(settings):
        running = list(_own_processes(settings))
        supervisor = _connect(settings)
        if supervisor is not None:
            supervisor.shutdown()
            _wait_gone(running, STOP_SECONDS)
        _end_leftovers(settings)
        with writing(settings.state_dir):
            (settings.state_dir / "supervisord.pid").unlink(missing_ok=True)
            sockets = socket_dir(settings.state_dir)
            if sockets.is_dir() and not sockets.is_symlink():
                shutil.rmtree(sockets)


def service_states(settings: Settings) -> list[ServiceState]:
    """Every service there should be, in the order they start."""
    supervisor = _connect(settings)
    if supervisor is None:
        return [ServiceState(name, "stopped", None, None, "not started") for name in _program_names(settings)]
    return [_state(supervisor, name) for name in _program_names(settings)]


def gateway_port(settings: Settings) -> int | None:
    """The port on which this folder's gateway listens; None when it is not up."""
    supervisor = _connect(settings)
    if supervisor is None or not _state(supervisor, "nginx").alive:
        return None
    return gateway.written_port(settings)


# --- supervisord -----------------------------------------------------------------------------------------


def _ensure_supervisor(settings: Settings) -> Any:
    """The running supervisord's interface, started and told of the present programs."""
    write_private(_supervisord_conf(settings), _render_supervisord(settings, service_user(settings)))
    supervisor = _connect(settings)
    if supervisor is None:
        _end_leftovers(settings)
        return _start_supervisord(settings)
    [[added, changed, removed]] = supervisor.reloadConfig()
    alive = [name for name in changed if _state(supervisor, name).alive]
    for name in (*changed, *removed):
        supervisor.stopProcessGroup(name)
        supervisor.removeProcessGroup(name)
    for name in (*added, *changed):
        supervisor.addProcessGroup(name)
    for name in alive:
        _start(supervisor, name)
    if "postgres" in alive:
        _await_database(settings, supervisor)
    return supervisor


def _start_supervisord(settings: Settings) -> Any:
    prepare_socket_dir(settings, service_user(settings))
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(_supervisord_conf(settings))],
        cwd=settings.state_dir,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()
        raise MachineNotReady(f"the supervisor does not start: {said}", f"its log is in {settings.logs}")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        supervisor = _connect(settings)
        if supervisor is not None:
            return supervisor
        time.sleep(POLL_SECONDS)
    raise ServiceDown("the supervisor does not answer", _last_lines(settings, "supervisord.log"))


def _connect(settings: Settings) -> Any | None:
    """The interface of the supervisord of this state folder, None when there is none."""
    transport = SupervisorTransport(None, None, f"unix://{_supervisor_socket(settings)}")
    supervisor = ServerProxy("http://127.0.0.1", transport=transport).supervisor
    try:
        supervisor.getPID()
    except OSError:
        return None
    return supervisor


def _start(supervisor: Any, name: str) -> None:
    try:
        supervisor.startProcess(name, False)
    except Fault as fault:
        if fault.faultCode != Faults.ALREADY_STARTED:
            raise ServiceDown(f"{name} does not start: {fault.faultString}") from fault


def _state(supervisor: Any, name: str) -> ServiceState:
    try:
        info: dict[str, Any] = supervisor.getProcessInfo(name)
    except Fault:
        return ServiceState(name, "stopped", None, None, "not started")
    state = str(info["statename"]).lower()
    entered = info["start"] if info["pid"] else info["stop"]
    since = datetime.fromtimestamp(entered, timezone.utc) if entered else None
    return ServiceState(name, state, info["pid"] or None, since, info["spawnerr"] or info["description"])


def _supervisord_conf(settings: Settings) -> Path:
    return settings.state_dir / "supervisord.conf"


def _supervisor_socket(settings: Settings) -> Path:
    return socket_dir(settings.state_dir) / "supervisor.sock"


def _program_names(settings: Settings) -> list[str]:
    first = ["postgres"] if settings.embedded_results else []
    return [*first, "postgrest", "nginx", *(["metrics"] if settings.metrics_port else [])]


def _programs(settings: Settings, user: ServiceUser | None) -> list[Program]:
    folder = gateway.gateway_dir(settings)
    origin_socket = gateway.origin_socket(settings)
    postgrest = [str(tools.find_postgrest(settings)), str(gateway.postgrest_conf(settings))]
    programs = [
        Program("postgrest", [*launcher(user, *DIES_WITH_PARENT), *postgrest], folder, "TERM", 10, "postgrest.log"),
        Program(
            "nginx",
            [
                *launcher(user, *DIES_WITH_PARENT, "--end-leftovers", "--remove-socket", str(origin_socket)),
                *_nginx_command(settings),
            ],
            folder,
            "QUIT",
            10,
            "nginx-access.log",
            "nginx-error.log",
        ),
    ]
    if settings.metrics_port:
        options = ["--user", user.name, *(["--namespace"] if user.namespaced else [])] if user else []
        paths = [str(gateway.metrics_log(settings)), str(gateway.postgrest_socket(settings))]
        # temperature is the old dialect's other spelling
        endpoints = [*sorted(view.stem for view in (settings.root / "api_views").glob("*.sql")), "temperature"]
        collect = [sys.executable, "-m", "spindle.metrics", *options, str(settings.metrics_port), *paths, *endpoints]
        programs.append(Program("metrics", collect, folder, "TERM", 10, "metrics.log"))
    if settings.embedded_results:
        # SIGINT is its fast shutdown: it does not wait for clients to leave.
        server = [*launcher(user, "--death-signal", "INT"), *embedded.server_command(settings)]
        programs.insert(0, Program("postgres", server, settings.state_dir, "INT", 60, "postgres.log"))
    return programs


def _nginx_command(settings: Settings) -> list[str]:
    folder, conf = gateway.gateway_dir(settings), gateway.nginx_conf(settings)
    return [str(tools.find_nginx(settings)), "-e", "stderr", "-p", str(folder), "-c", str(conf)]


def _render_supervisord(settings: Settings, user: ServiceUser | None) -> str:
    state = plain_path(settings.state_dir)
    folder = gateway.gateway_dir(settings)
    with writing(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    head = f"""\
; Written by Spindle at every start.
[unix_http_server]
file={_supervisor_socket(settings)}
chmod=0600

[supervisord]
identifier=spindle
directory={state}
pidfile={state}/supervisord.pid
logfile={settings.logs}/supervisord.log
logfile_maxbytes={LOG_BYTES}
logfile_backups={LOG_FILES}
childlogdir={settings.logs}
nocleanup=true
umask=077
{"user=root" if os.geteuid() == 0 else ""}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
    return head + "".join(_render_program(settings, program) for program in _programs(settings, user))


def _render_program(settings: Settings, program: Program) -> str:
    logs = str(settings.logs)
    command = shlex.join(program.command).replace("%", "%%")
    stderr = f"stderr_logfile={logs}/{program.stderr}" if program.stderr else "redirect_stderr=true"
    return f"""
[program:{program.name}]
command={command}
directory={program.folder}
autostart=false
autorestart=true
startsecs=1
startretries={START_RETRIES}
stopsignal={program.stop_signal}
stopwaitsecs={program.stop_seconds}
killasgroup=true
priority={_START_ORDER[program.name]}
stdout_logfile={logs}/{program.stdout}
stdout_logfile_maxbytes={LOG_BYTES}
stdout_logfile_backups={LOG_FILES}
{stderr}
stderr_logfile_maxbytes={LOG_BYTES}
stderr_logfile_backups={LOG_FILES}
"""


# supervisord starts them by this and stops them in the opposite order.
_START_ORDER = {"postgres": 10, "postgrest": 20, "nginx": 30, "metrics": 40}


# --- waiting ---------------------------------------------------------------------------------------------


def _await_database(settings: Settings, supervisor: Any) -> None:
    def answer() -> str:
        try:
            with psycopg.connect(
                host=str(socket_dir(settings.state_dir)),
                port=5432,
                dbname="postgres",
                user=embedded.SUPERUSER,
                connect_timeout=5,
            ):
                return ""
        except psycopg.OperationalError as error:
            return str(error).strip()

    _await(
        answer,
        lambda: _give_up(supervisor, ["postgres"]),
        lambda why: ServiceDown(
            f"the embedded PostgreSQL does not answer: {why}", _last_lines(settings, "postgres.log")
        ),
    )


def _await_ready(settings: Settings, supervisor: Any) -> None:
    _await(
        lambda: _not_ready_reason(settings),
        lambda: _give_up(supervisor, ["postgrest", "nginx"]),
        lambda why: ServiceDown(
            f"the gateway is not ready: {why}", _last_lines(settings, "postgrest.log", "nginx-error.log")
        ),
    )


def _await(trouble: Callable[[], str], hopeless: Callable[[], bool], failure: Callable[[str], ServiceDown]) -> None:
    """Wait until there is no trouble, or no hope, or no more time."""
    started = time.monotonic()
    while why := trouble():
        waited = time.monotonic() - started
        patience = RECOVERY_SECONDS if "starting up" in why else START_SECONDS
        if waited > patience or (waited > 5 and hopeless()):
            raise failure(why)
        time.sleep(POLL_SECONDS)


def _give_up(supervisor: Any, names: list[str]) -> bool:
    return any(_state(supervisor, name).state in ("backoff", "fatal", "exited", "unknown") for name in names)


def _not_ready_reason(settings: Settings) -> str:
    try:
        with open_gateway(settings, "/health/ready", timeout=10):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return _reason(error.read())
    except OSError as error:
        return str(error)


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["reason"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:200]


def _reread_nginx(settings: Settings, supervisor: Any) -> None:
    # nginx keeps the old configuration when the new one is bad, but says so only in its log.
    done = run_unprivileged(settings, [*_nginx_command(settings), "-t", "-q"])
    if done.returncode != 0:
        raise ServiceDown(f"nginx refuses its configuration: {done.stderr.strip()}")
    before = _nginx_workers(settings)
    supervisor.signalProcess("nginx", "HUP")
    deadline = time.monotonic() + START_SECONDS
    while before & _nginx_workers(settings):
        if time.monotonic() > deadline:
            raise ServiceDown("nginx keeps its old configuration", _last_lines(settings, "nginx-error.log"))
        time.sleep(POLL_SECONDS)


def _nginx_workers(settings: Settings) -> set[int]:
    """Those that take new connections: one that is told to end says so in its title."""
    return {
        process.pid
        for process in _own_processes(settings)
        if " ".join(process.cmdline()).strip() == "nginx: worker process"
    }


def _reread_postgrest(supervisor: Any) -> None:
    """Its configuration, then the database's tables."""
    for reread in ("USR2", "USR1"):
        supervisor.signalProcess("postgrest", reread)


def _last_lines(settings: Settings, *names: str, count: int = 8) -> str:
    """The ends of logs, for an error message."""
    parts = []
    for name in names:
        path = settings.logs / name
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        parts.append("\n    ".join([f"the end of {path}:", *(lines[-count:] or ["(nothing logged)"])]))
    return "\n  ".join(parts)


# --- processes and the port ------------------------------------------------------------------------------


def _check_port(settings: Settings, key: str, port: int, address: str) -> None:
    if any(_listens(process, port) for process in _own_processes(settings)):
        return
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise MachineNotReady(
                    f"this computer has no address {address}", "set GATEWAY_ADDRESS to one of its own, or to 0.0.0.0"
                ) from error
            what = "taken by another program" if error.errno == errno.EADDRINUSE else f"not usable: {error.strerror}"
            other = port + 1 if 1024 <= port < 65535 else 8001
            raise MachineNotReady(
                f"port {port} is {what}", f"use another one, such as {key}={other}, in .env or the environment"
            ) from error


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        sockets = process.net_connections("tcp")
    except psutil.Error:
        return False
    return port in {found.laddr.port for found in sockets if found.status == psutil.CONN_LISTEN}


def _own_processes(settings: Settings) -> Iterator[psutil.Process]:
    """What runs for this state folder, orphans too: known by its working folder, never by a number in a stale file."""
    binaries = (settings.postgrest_bin or "postgrest", settings.nginx_bin or "nginx")
    names = {"postgres", *(Path(binary).name for binary in binaries)}
    marks = {str(_supervisord_conf(settings)), "spindle.unprivileged", "spindle.metrics"}
    for process in psutil.process_iter():
        try:
            inside = Path(process.cwd()).is_relative_to(settings.state_dir)
            if inside and (process.name() in names or marks & set(process.cmdline())):
                yield process
        except psutil.Error:
            continue


def _end_leftovers(settings: Settings) -> None:
    """End what a killed supervisord left behind: asked first, then killed."""
    leftovers = list(_own_processes(settings))
    for process in leftovers:
        _end(process, forced=False)
    for process in _wait_gone(leftovers, STOP_SECONDS):
        _end(process, forced=True)
    _wait_gone(leftovers, 10)


def _end(process: psutil.Process, *, forced: bool) -> None:
    try:
        polite = signal.SIGINT if process.name() == "postgres" else signal.SIGTERM
        process.send_signal(signal.SIGKILL if forced else polite)
    except psutil.NoSuchProcess:
        return


def _wait_gone(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait for processes to end, and return those that did not."""
    deadline = time.monotonic() + seconds
    while (alive := [process for process in processes if _alive(process)]) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return alive


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _lock_if_any(settings: Settings) -> AbstractContextManager[None]:
    return state_lock(settings) if settings.state_dir.is_dir() else nullcontext()
