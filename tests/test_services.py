"""The services as they really run: an embedded cluster in a scratch folder, PostgREST, nginx, and their accidents."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from spindle import gateway, processes, services, state_files, supervisor, tools, unprivileged
from spindle.embedded import cluster_dir, ensure_cluster
from spindle.errors import MachineNotReady, ServiceDown, SettingsError
from spindle.settings import Settings, load_settings, socket_dir

# Every character that a configuration could misread.
PASSWORD = "p'a\\ss \"w$rd%{{x}}"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

SCRATCH_API = """
create table api.machines (machine text);
insert into api.machines values ('branosera'), ('tamesa');
create table api.data_status (machine text, sensor_records int);
insert into api.data_status values ('branosera', 1), ('tamesa', 2), (null, 3);
grant select on all tables in schema api to web_anon;
"""


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str

    def json(self) -> Any:
        return json.loads(self.body)


def get(url: str, method: str = "GET", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, method=method, headers=named)
    try:
        with OPENER.open(request, timeout=20) as answer:
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read().decode())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_in(folder: Path) -> Settings:
    """Settings as `.env` without a key gives them, but in a folder of their own."""
    return load_settings(environ={"STATE_DIR": str(folder), "GATEWAY_PORT": str(free_port())})


def fill(settings: Settings) -> None:
    anywhere = dataclasses.replace(settings.results, dbname="postgres")
    with psycopg.connect(anywhere.public(), autocommit=True) as connection:
        connection.execute("create database spindle")
    with psycopg.connect(settings.results.public(), autocommit=True) as connection:
        connection.execute((settings.root / "setup" / "roles.sql").read_text(encoding="utf-8"))
        connection.execute("set role spindle_owner")
        for name in ("runs.sql", "gateway.sql"):
            connection.execute((settings.root / "setup" / name).read_text(encoding="utf-8"))
        connection.execute(SCRATCH_API)
        connection.execute("reset role")
        connection.execute(
            psycopg.sql.SQL("alter role authenticator password {}").format(psycopg.sql.Literal(PASSWORD))
        )


def own_processes(settings: Settings) -> list[psutil.Process]:
    return list(processes.own_processes(settings))


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def ready(settings: Settings) -> bool:
    return services._not_ready_reason(settings) == ""


def pid_of(settings: Settings, name: str) -> int:
    states = {state.name: state for state in services.service_states(settings)}
    pid = states[name].pid
    assert pid is not None
    return pid


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    # Not pytest's tmp_path: that is 0700 and as root would only ever show the namespaced way.
    folder = Path(tempfile.mkdtemp(prefix="spindle-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def started(scratch: Path) -> Iterator[Settings]:
    settings = settings_in(scratch / "state")
    try:
        services.start_database(settings)
        fill(settings)
        services.start_gateway(settings, PASSWORD)
        yield settings
    finally:
        services.stop(settings)


@pytest.fixture
def running(started: Settings) -> Settings:
    """The services, whatever the test before did to them."""
    services.start_database(started)
    services.start_gateway(started, PASSWORD)
    return started


def test_health_tells_live_and_ready(running: Settings) -> None:
    assert get(f"{running.gateway_url}/health/live").json() == {"status": "live"}
    answer = get(f"{running.gateway_url}/health/ready")
    assert (answer.status, answer.json()) == (200, {"status": "ready"})
    assert answer.headers["content-type"].startswith("application/json")


def test_views_are_served_below_the_prefix(running: Settings) -> None:
    answer = get(f"{running.gateway_url}/api/v1/machines?order=machine", X_Request_Id="trace-7")
    assert answer.json() == [{"machine": "branosera"}, {"machine": "tamesa"}]
    assert answer.headers["x-request-id"] == "trace-7"
    assert answer.headers["content-location"].startswith("/api/v1/machines")
    assert "nginx/" not in answer.headers.get("server", "")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", ["/api/v1/machines", "/api/v1/data_status", "/", "/health/ready", "/nowhere"])
def test_other_methods_are_refused(running: Settings, method: str, path: str) -> None:
    answer = get(running.gateway_url + path, method=method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    assert set(answer.json()) == {"code", "message", "hint", "details"}


@pytest.mark.parametrize("path", ["/api/v1/machines", "/", "/health/live"])
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_head_and_options_pass(running: Settings, method: str, path: str) -> None:
    answer = get(running.gateway_url + path, method=method)
    assert answer.status in (200, 204) or (path == "/" and method == "HEAD")
    assert answer.headers.get("allow", "GET, HEAD, OPTIONS") == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("path", ["/nowhere", "/.git/config", "/a/../../etc/passwd", "/health/probe", "/gateway/error"])
def test_unknown_paths_are_json_404(running: Settings, path: str) -> None:
    answer = get(running.gateway_url + path)
    assert answer.status in (400, 404)
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json()["code"] == f"GW{answer.status}"


def test_errors_of_postgrest_pass_but_what_tells_of_the_inside(running: Settings) -> None:
    unknown = get(f"{running.gateway_url}/api/v1/nothing_here")
    assert (unknown.status, unknown.json()["code"]) == (404, "GW404")
    assert get(f"{running.gateway_url}/api/v1/machines?machine=nonsense").json()["code"] == "PGRST100"


def test_long_filters_pass_and_longer_ones_get_json(running: Settings) -> None:
    many = ",".join(["x" * 40] * 190)
    assert get(f"{running.gateway_url}/api/v1/machines?machine=in.({many})").json() == []
    too_long = get(f"{running.gateway_url}/api/v1/machines?machine=eq.{'x' * 20_000}")
    assert (too_long.status, too_long.json()["code"]) == (414, "GW414")
    headers = get(f"{running.gateway_url}/health/live", X_Long="x" * 20_000)
    assert (headers.status, headers.json()["code"]) == (431, "GW431")


def test_malformed_request_gets_json(running: Settings) -> None:
    with socket.create_connection(("127.0.0.1", running.gateway_port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
        assert b'"code":"GW400"' in connection.recv(4096)


def test_data_status_is_one_object(running: Settings) -> None:
    url = f"{running.gateway_url}/api/v1/data_status"
    answer = get(url)
    assert answer.json() == {"machine": None, "sensor_records": 3}
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert get(f"{url}?select=sensor_records").json() == {"sensor_records": 3}
    assert get(f"{url}?machine=eq.tamesa").json() == {"machine": "tamesa", "sensor_records": 2}
    csv = get(f"{url}?select=sensor_records", Accept="text/csv")
    assert csv.body.splitlines() == ["sensor_records", "3"]
    assert csv.headers["content-type"].startswith("text/csv")
    assert get(f"{url}?machine=eq.nobody").status == 406


def test_long_answers_are_compressed(running: Settings) -> None:
    answer = OPENER.open(
        urllib.request.Request(f"{running.gateway_url}/", headers={"Accept-Encoding": "gzip"}), timeout=20
    )
    with answer:
        assert answer.headers["content-encoding"] == "gzip"


def test_only_nginx_listens_and_only_on_loopback(running: Settings) -> None:
    listening = [
        (process.name(), found.laddr.ip, found.laddr.port)
        for process in own_processes(running)
        for found in process.net_connections("inet")
        if found.status == psutil.CONN_LISTEN or found.type == socket.SOCK_DGRAM
    ]
    assert set(listening) == {("nginx", "127.0.0.1", running.gateway_port)}


def test_nothing_runs_as_root_and_no_password_shows(running: Settings) -> None:
    user = unprivileged.service_user(running)
    for process in own_processes(running):
        assert PASSWORD not in " ".join(process.cmdline())
        if user is not None and process.name() in ("postgres", "nginx", "postgrest"):
            # in a namespace it is the service user by name; seen from outside it is us, without root's rights
            assert process.uids().real == (os.getuid() if user.namespaced else user.uid)
    assert gateway.postgrest_conf(running).stat().st_mode & 0o077 == 0
    assert all(PASSWORD not in log.read_text() for log in running.logs.iterdir())


def test_each_service_has_its_log(running: Settings) -> None:
    get(f"{running.gateway_url}/api/v1/machines?limit=1&machine=not.eq.%22quoted%22", X_Request_Id="logged-1")
    log = running.logs / "nginx-access.log"
    eventually(lambda: "logged-1" in log.read_text())
    line = next(line for line in map(json.loads, log.read_text().splitlines()) if line["request_id"] == "logged-1")
    assert (line["method"], line["status"], line["address"]) == ("GET", 200, "127.0.0.1")
    assert line["uri"].startswith("/api/v1/machines?limit=1")
    assert {"time", "duration", "upstream_time"} <= set(line)
    assert {"postgres.log", "postgrest.log", "nginx-error.log", "supervisord.log"} <= set(os.listdir(running.logs))


@pytest.mark.parametrize("name", ["postgrest", "nginx", "postgres"])
def test_killed_service_comes_back(running: Settings, name: str) -> None:
    killed = pid_of(running, name)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: all(s.running and s.pid != killed for s in services.service_states(running)) and ready(running))


def test_readiness_says_what_is_wrong(running: Settings) -> None:
    found = supervisor.connect(running)
    assert found is not None
    found.stop("postgrest")
    answer = get(f"{running.gateway_url}/health/ready")
    assert (answer.status, answer.json()) == (503, {"status": "not ready", "reason": "PostgREST does not answer"})
    gone = get(f"{running.gateway_url}/api/v1/machines?machine=eq.never-asked")
    assert (gone.status, gone.json()["code"]) == (503, "GW503")
    assert {s.name: s.state for s in services.service_states(running)}["postgrest"] == "stopped"
    assert get(f"{running.gateway_url}/health/live").status == 200


def test_second_start_changes_nothing(running: Settings) -> None:
    before = [state.pid for state in services.service_states(running)]
    services.start_database(running)
    services.start_gateway(running, PASSWORD)
    assert [state.pid for state in services.service_states(running)] == before
    assert ready(running)


def test_port_can_be_changed_while_running(running: Settings) -> None:
    moved = dataclasses.replace(running, gateway_port=free_port())
    services.start_gateway(moved, PASSWORD)
    assert get(f"{moved.gateway_url}/api/v1/machines").status == 200
    services.start_gateway(running, PASSWORD)
    eventually(lambda: ready(running))


def test_killed_supervisor_takes_all_with_it(running: Settings) -> None:
    supervisord = next(p for p in own_processes(running) if "supervisor.supervisord" in p.cmdline())
    supervisord.kill()
    eventually(lambda: not own_processes(running))
    assert {state.state for state in services.service_states(running)} == {"stopped"}
    services.start_database(running)
    services.start_gateway(running, PASSWORD)
    assert ready(running)


def test_stop_leaves_nothing_and_is_repeatable(running: Settings) -> None:
    services.stop(running)
    assert own_processes(running) == []
    assert not socket_dir(running.state_dir).exists()
    assert not (running.state_dir / "supervisord.pid").exists()
    services.stop(running)
    assert [state.state for state in services.service_states(running)] == ["stopped"] * 3


def test_stop_spares_foreign_process_of_stale_pid_file(running: Settings) -> None:
    services.stop(running)
    with subprocess.Popen(["sleep", "60"], cwd=running.state_dir) as foreign:
        (running.state_dir / "supervisord.pid").write_text(f"{foreign.pid}\n")
        services.stop(running)
        assert foreign.poll() is None
        foreign.kill()


def test_taken_port_is_an_error_with_advice(running: Settings) -> None:
    services.stop(running)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", running.gateway_port))
        other.listen()
        with pytest.raises(MachineNotReady, match=f"port {running.gateway_port} is taken(.|\n)*GATEWAY_PORT="):
            services.start_gateway(running, PASSWORD)


def test_wrong_password_is_reported_with_the_log(running: Settings) -> None:
    services.stop(running)
    services.start_database(running)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "START_SECONDS", 4)
        with pytest.raises(ServiceDown, match=r"not ready(.|\n)*postgrest\.log(.|\n)*authentication failed"):
            services.start_gateway(running, "wrong")


def test_half_made_cluster_is_made_again(scratch: Path) -> None:
    settings = settings_in(scratch / "half")
    state_files.prepare_state_dir(settings)
    cluster_dir(settings).mkdir()
    (cluster_dir(settings) / "base").mkdir()
    (cluster_dir(settings) / "PG_VERSION").write_text("18\n")
    ensure_cluster(settings)
    assert (cluster_dir(settings) / "global" / "pg_control").exists()
    assert not (settings.state_dir / "postgres.new").exists()
    services.stop(settings)


def test_cluster_of_another_version_is_refused(scratch: Path) -> None:
    settings = settings_in(scratch / "half")
    (cluster_dir(settings) / "PG_VERSION").write_text("17\n")
    with pytest.raises(MachineNotReady, match="made by PostgreSQL 17"):
        ensure_cluster(settings)
    services.stop(settings)


@pytest.mark.parametrize("deep", [False, True], ids=["private", "private and deep"])
def test_folder_no_other_user_can_enter(deep: bool) -> None:
    folder = Path(tempfile.mkdtemp(prefix="spindle-test-"))
    assert folder.stat().st_mode & 0o077 == 0
    settings = settings_in(folder / ("deep/" * 20 if deep else "") / "state")
    try:
        services.start_database(settings)
        fill(settings)
        services.start_gateway(settings, PASSWORD)
        assert get(f"{settings.gateway_url}/api/v1/data_status").json()["sensor_records"] == 3
        supervisord = next(p for p in own_processes(settings) if "supervisor.supervisord" in p.cmdline())
        supervisord.kill()
        eventually(lambda: not own_processes(settings))
        services.start_database(settings)
        services.start_gateway(settings, PASSWORD)
    finally:
        services.stop(settings)
        shutil.rmtree(folder)
    assert not socket_dir(settings.state_dir).exists()
    assert own_processes(settings) == []


@needs_root
def test_root_follows_no_link_of_the_service_user(scratch: Path) -> None:
    """Its own folder is the service user's, who may put a link to anything there."""
    settings, foreign = settings_in(scratch / "planted"), scratch / "foreign"
    foreign.mkdir()
    (foreign / "file").touch()
    state_files.prepare_state_dir(settings)
    user = unprivileged.service_user(settings)
    gateway.write_gateway(settings, user, PASSWORD)
    cache = gateway.gateway_dir(settings) / "cache"
    cache.rmdir()
    cache.symlink_to(foreign)
    with pytest.raises(MachineNotReady, match=f"{cache} is a symbolic link"):
        gateway.write_gateway(settings, user, PASSWORD)
    assert (foreign.stat().st_uid, (foreign / "file").stat().st_uid) == (0, 0)


@needs_root
def test_a_link_inside_is_given_away_and_not_what_it_points_to(scratch: Path) -> None:
    foreign, folder = scratch / "foreign_file", scratch / "owned"
    foreign.touch()
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "link").symlink_to(foreign)
    (folder / "link").symlink_to(scratch)
    state_files.own(folder, unprivileged.ServiceUser("nobody", 65534, 65534))
    owners = {path.name: path.lstat().st_uid for path in (folder, *folder.rglob("*"))}
    assert owners == {"owned": 65534, "inner": 65534, "link": 65534}
    assert (foreign.stat().st_uid, scratch.stat().st_uid) == (0, 0)


def test_path_that_configurations_misread_is_refused(scratch: Path) -> None:
    with pytest.raises(MachineNotReady, match="misread"):
        state_files.plain_path(scratch / 'a"b')


def test_postgrest_setting_must_be_a_known_version(scratch: Path) -> None:
    settings = settings_in(scratch / "unused")
    with pytest.raises(SettingsError, match="POSTGREST_BIN"):
        tools.find_postgrest(dataclasses.replace(settings, postgrest_bin="/bin/true"))
    old = scratch / "postgrest-11"
    old.write_text("#!/bin/sh\necho PostgREST 11.2.0\n")
    old.chmod(0o755)
    with pytest.raises(SettingsError, match=r"11\.2\.0(.|\n)*12 to 16"):
        tools.find_postgrest(dataclasses.replace(settings, postgrest_bin=str(old)))
