"""Processes of a state folder, those that a crash left behind too, and the ports that they need."""

from __future__ import annotations

import errno
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from spindle import supervisor
from spindle.errors import MachineNotReady
from spindle.settings import Settings

# PostgreSQL writes out its memory when it stops.
STOP_SECONDS = 90
POLL_SECONDS = 0.1


def own_processes(settings: Settings) -> Iterator[psutil.Process]:
    """What runs for this state folder, orphans too: known by its working folder, never by a number in a stale file."""
    binaries = (settings.postgrest_bin or "postgrest", settings.nginx_bin or "nginx")
    names = {"postgres", *(Path(binary).name for binary in binaries)}
    marks = {str(supervisor.conf_file(settings)), "spindle.unprivileged", "spindle.metrics"}
    for process in psutil.process_iter():
        try:
            inside = Path(process.cwd()).is_relative_to(settings.state_dir)
            if inside and (process.name() in names or marks & set(process.cmdline())):
                yield process
        except psutil.Error:
            continue


def title(process: psutil.Process) -> str:
    """Its command line, which a service may write anew; empty when it has ended."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def end_leftovers(settings: Settings) -> None:
    """End what a killed supervisord left behind: asked first, then killed."""
    leftovers = list(own_processes(settings))
    for process in leftovers:
        _end(process, forced=False)
    for process in wait_gone(leftovers, STOP_SECONDS):
        _end(process, forced=True)
    wait_gone(leftovers, 10)


def _end(process: psutil.Process, *, forced: bool) -> None:
    try:
        polite = signal.SIGINT if process.name() == "postgres" else signal.SIGTERM
        process.send_signal(signal.SIGKILL if forced else polite)
    except psutil.NoSuchProcess:
        return


def wait_gone(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
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


def check_port(settings: Settings, key: str, port: int, address: str) -> None:
    """Raises MachineNotReady, naming the setting, when somebody else listens there."""
    if any(_listens(process, port) for process in own_processes(settings)):
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
