"""supervisord, who keeps the services running: its configuration, its start, and what can be asked of it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import Faults, SupervisorTransport

from spindle.errors import MachineNotReady, ServiceDown
from spindle.settings import Settings, socket_dir
from spindle.state_files import plain_path, write_private, writing
from spindle.unprivileged import clean_environment

START_SECONDS = 30
POLL_SECONDS = 0.1
LOG_BYTES = 10 * 1024**2
LOG_FILES = 5
# A crashed service is tried again after 1, 2, 3, … seconds: over three minutes in all, then it is reported as fatal.
START_RETRIES = 20


@dataclass(frozen=True)
class ServiceState:
    """What supervisord knows of a service. `since` is when it entered the state, None when it never ran."""

    name: str
    state: str = "stopped"
    pid: int | None = None
    since: datetime | None = None
    detail: str = "not started"

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


class Supervisor:
    """A running supervisord."""

    def __init__(self, interface: Any) -> None:
        self._interface = interface

    def start(self, name: str) -> None:
        """Start a service, unless it runs."""
        try:
            self._interface.startProcess(name, False)
        except Fault as fault:
            if fault.faultCode != Faults.ALREADY_STARTED:
                raise ServiceDown(f"{name} does not start: {fault.faultString}") from fault

    def stop(self, name: str) -> None:
        self._interface.stopProcess(name)

    def signal(self, name: str, signal: str) -> None:
        self._interface.signalProcess(name, signal)

    def shut_down(self) -> None:
        """Stop all services, and itself."""
        self._interface.shutdown()

    def state(self, name: str) -> ServiceState:
        try:
            info: dict[str, Any] = self._interface.getProcessInfo(name)
        except Fault:
            return ServiceState(name)
        state = str(info["statename"]).lower()
        entered = info["start"] if info["pid"] else info["stop"]
        since = datetime.fromtimestamp(entered, timezone.utc) if entered else None
        return ServiceState(name, state, info["pid"] or None, since, info["spawnerr"] or info["description"])

    def alive(self, name: str) -> bool:
        return self.state(name).alive

    def reread(self) -> list[str]:
        """Take over its written configuration. Returns the services that it therefore started anew."""
        [[added, changed, removed]] = self._interface.reloadConfig()
        alive = [name for name in changed if self.alive(name)]
        for name in (*changed, *removed):
            self._interface.stopProcessGroup(name)
            self._interface.removeProcessGroup(name)
        for name in (*added, *changed):
            self._interface.addProcessGroup(name)
        for name in alive:
            self.start(name)
        return alive


def connect(settings: Settings) -> Supervisor | None:
    """The supervisord of this state folder, None when there is none."""
    transport = SupervisorTransport(None, None, f"unix://{_socket(settings)}")
    interface = ServerProxy("http://127.0.0.1", transport=transport).supervisor
    try:
        interface.getPID()
    except OSError:
        return None
    return Supervisor(interface)


def launch(settings: Settings) -> Supervisor:
    """Start supervisord by its written configuration. The folder of the sockets must exist."""
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(conf_file(settings))],
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
        if supervisor := connect(settings):
            return supervisor
        time.sleep(POLL_SECONDS)
    raise ServiceDown("the supervisor does not answer", last_lines(settings, "supervisord.log"))


def conf_file(settings: Settings) -> Path:
    return settings.state_dir / "supervisord.conf"


def pid_file(settings: Settings) -> Path:
    return settings.state_dir / "supervisord.pid"


def _socket(settings: Settings) -> Path:
    return socket_dir(settings.state_dir) / "supervisor.sock"


def write_configuration(settings: Settings, programs: Sequence[Program]) -> None:
    """Write it with these programs, which are started in this order and stopped in the opposite one."""
    for program in programs:
        with writing(program.folder):
            program.folder.mkdir(mode=0o700, exist_ok=True)
    rendered = [_render_program(settings, program, 10 * place) for place, program in enumerate(programs, start=1)]
    write_private(conf_file(settings), _render_head(settings) + "".join(rendered))


def _render_head(settings: Settings) -> str:
    state = plain_path(settings.state_dir)
    return f"""\
; Written by Spindle at every start.
[unix_http_server]
file={_socket(settings)}
chmod=0600

[supervisord]
identifier=spindle
directory={state}
pidfile={pid_file(settings)}
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


def _render_program(settings: Settings, program: Program, priority: int) -> str:
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
priority={priority}
stdout_logfile={logs}/{program.stdout}
stdout_logfile_maxbytes={LOG_BYTES}
stdout_logfile_backups={LOG_FILES}
{stderr}
stderr_logfile_maxbytes={LOG_BYTES}
stderr_logfile_backups={LOG_FILES}
"""


def last_lines(settings: Settings, *names: str, count: int = 8) -> str:
    """The ends of services' logs, for an error message."""
    parts = []
    for name in names:
        path = settings.logs / name
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        parts.append("\n    ".join([f"the end of {path}:", *(lines[-count:] or ["(nothing logged)"])]))
    return "\n  ".join(parts)
