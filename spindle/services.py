"""The services as commands use them: started, stopped, looked at, and waited for until they answer."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import psycopg

from spindle import embedded, gateway, supervisor
from spindle.errors import ServiceDown
from spindle.own_client import open_gateway
from spindle.processes import STOP_SECONDS, check_port, end_leftovers, own_processes, title, wait_gone
from spindle.programs import make_programs, nginx_command, program_names
from spindle.settings import Settings, socket_dir
from spindle.state_files import prepare_socket_dir, prepare_state_dir, state_lock, writing
from spindle.supervisor import POLL_SECONDS, START_SECONDS, ServiceState, Supervisor, last_lines
from spindle.unprivileged import run_unprivileged, service_user

# A server that was killed reads its journal first; as long as it says so, it is waited for.
RECOVERY_SECONDS = 300


def start_database(settings: Settings) -> None:
    """Start the embedded PostgreSQL, if that is what the settings want, and wait until it answers."""
    if not settings.embedded_results:
        return
    embedded.ensure_cluster(settings)
    with state_lock(settings):
        running = supervisor.connect(settings)
        if running is not None and running.alive("postgres"):
            # a refresh must not touch running services: only `serve` applies changed commands
            running.signal("postgres", "HUP")
        else:
            running = _ensure_supervisor(settings)
            running.start("postgres")
        _await_database(settings, running)


def start_gateway(settings: Settings, authenticator_password: str) -> None:
    """Start PostgREST and nginx, or restart what changed, and wait until a query through both works."""
    prepare_state_dir(settings)
    with state_lock(settings):
        running = _ensure_supervisor(settings)
        check_ports(settings)
        written = gateway.write_gateway(settings, service_user(settings), authenticator_password)
        if written.postgrest and running.alive("postgrest"):
            if written.postgrest_rereads:
                _reread_postgrest(running)
            else:
                running.stop("postgrest")
        running.start("postgrest")
        if written.nginx and running.alive("nginx"):
            _reread_nginx(settings, running)
        running.start("nginx")
        if settings.metrics_port:
            running.start("metrics")
        _await_ready(settings, running)


def check_ports(settings: Settings) -> None:
    """Raises MachineNotReady, naming the setting, when somebody else listens where the gateway or the metrics shall."""
    check_port(settings, "GATEWAY_PORT", settings.gateway_port, settings.access.address)
    if settings.metrics_port:
        check_port(settings, "METRICS_PORT", settings.metrics_port, "127.0.0.1")


def stop(settings: Settings) -> None:
    """Stop everything that runs for this state folder and remove its sockets. Fine when nothing runs."""
    with _lock_if_any(settings):
        processes = list(own_processes(settings))
        if running := supervisor.connect(settings):
            running.shut_down()
            wait_gone(processes, STOP_SECONDS)
        end_leftovers(settings)
        with writing(settings.state_dir):
            supervisor.pid_file(settings).unlink(missing_ok=True)
            sockets = socket_dir(settings.state_dir)
            if sockets.is_dir() and not sockets.is_symlink():
                shutil.rmtree(sockets)


def service_states(settings: Settings) -> list[ServiceState]:
    """Every service there should be, in the order they start."""
    running = supervisor.connect(settings)
    return [running.state(name) if running else ServiceState(name) for name in program_names(settings)]


def gateway_port(settings: Settings) -> int | None:
    """The port on which this folder's gateway listens; None when it is not up."""
    running = supervisor.connect(settings)
    return gateway.written_port(settings) if running and running.alive("nginx") else None


def _ensure_supervisor(settings: Settings) -> Supervisor:
    """The running supervisord, started and told of the present programs."""
    user = service_user(settings)
    prepare_socket_dir(settings, user)
    supervisor.write_configuration(settings, make_programs(settings, user))
    running = supervisor.connect(settings)
    if running is None:
        end_leftovers(settings)
        return supervisor.launch(settings)
    if "postgres" in running.reread():
        _await_database(settings, running)
    return running


def _lock_if_any(settings: Settings) -> AbstractContextManager[None]:
    return state_lock(settings) if settings.state_dir.is_dir() else nullcontext()


def _reread_nginx(settings: Settings, running: Supervisor) -> None:
    # nginx keeps the old configuration when the new one is bad, but says so only in its log.
    done = run_unprivileged(settings, [*nginx_command(settings), "-t", "-q"])
    if done.returncode != 0:
        raise ServiceDown(f"nginx refuses its configuration: {done.stderr.strip()}")
    before = _nginx_workers(settings)
    running.signal("nginx", "HUP")
    deadline = time.monotonic() + START_SECONDS
    while before & _nginx_workers(settings):
        if time.monotonic() > deadline:
            raise ServiceDown("nginx keeps its old configuration", last_lines(settings, "nginx-error.log"))
        time.sleep(POLL_SECONDS)


def _nginx_workers(settings: Settings) -> set[int]:
    """Those that take new connections: one that is told to end says so in its title."""
    return {process.pid for process in own_processes(settings) if title(process) == "nginx: worker process"}


def _reread_postgrest(running: Supervisor) -> None:
    """Its configuration, then the database's tables."""
    for reread in ("USR2", "USR1"):
        running.signal("postgrest", reread)


# --- waiting ---------------------------------------------------------------------------------------------


def _await_database(settings: Settings, running: Supervisor) -> None:
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
        lambda: _give_up(running, ["postgres"]),
        lambda why: ServiceDown(
            f"the embedded PostgreSQL does not answer: {why}", last_lines(settings, "postgres.log")
        ),
    )


def _await_ready(settings: Settings, running: Supervisor) -> None:
    _await(
        lambda: _not_ready_reason(settings),
        lambda: _give_up(running, ["postgrest", "nginx"]),
        lambda why: ServiceDown(
            f"the gateway is not ready: {why}", last_lines(settings, "postgrest.log", "nginx-error.log")
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


def _give_up(running: Supervisor, names: list[str]) -> bool:
    return any(running.state(name).state in ("backoff", "fatal", "exited", "unknown") for name in names)


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
