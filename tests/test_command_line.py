"""The commands as users, cron and scripts meet them: what they print, and their exit codes."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import psycopg
import pytest

from spindle import refresh, runs
from spindle.errors import RefreshFailed
from spindle.settings import load_settings
from tests.conftest import Spindle

COMMANDS = ("init", "demo", "refresh", "status", "serve", "stop", "dbt", "info")


def test_help_lists_the_commands_and_exit_codes(spindle: Spindle) -> None:
    text = spindle.run("--help").stdout
    assert all(command in text for command in COMMANDS)
    assert "4 data stale" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(spindle: Spindle, command: str) -> None:
    assert "Usage" in spindle.run(command, "--help").stdout


def test_info_has_all_connections_and_no_password(spindle: Spindle) -> None:
    found = spindle.info
    assert {"gateway", "results", "machines", "logs"} <= set(found)
    assert found["gateway"] == f"http://127.0.0.1:{spindle.port}"
    assert set(found["machines"]) == {"branosera", "tamesa"}
    for address in [found["results"], *found["machines"].values()]:
        with psycopg.connect(address) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    secrets = json.loads((spindle.state_dir / "secrets.json").read_text(encoding="utf-8")).values()
    text = json.dumps(found)
    assert "password" not in text
    assert not any(secret in text for secret in secrets)
    assert (Path(found["logs"]) / "postgres.log").exists()


def test_refresh_and_status_of_a_sound_plant_end_with_0(spindle: Spindle) -> None:
    report = json.loads(spindle.run("refresh", "--json").stdout)
    assert set(report["cuts"]) == {"branosera", "tamesa"}
    assert report["unchecked"] is None
    found = json.loads(spindle.run("status", "--json").stdout)
    assert found["ok"] is True
    assert {service["name"]: service["state"] for service in found["services"]} == {
        "postgres": "running",
        "postgrest": "running",
        "nginx": "running",
    }
    assert [machine["machine"] for machine in found["machines"]] == ["branosera", "tamesa"]
    assert found["last_run"]["outcome"] == "succeeded"


def test_unknown_setting_ends_with_2(spindle: Spindle, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("GATEWAY_PROT=8001\n", encoding="utf-8")
    mistaken = Spindle(spindle.state_dir, {"SPINDLE_ENV_FILE": str(env_file)}, spindle.port)
    done = mistaken.run("refresh", exit_code=2)
    assert "GATEWAY_PROT" in done.stderr
    assert "Traceback" not in done.stderr


def test_refresh_before_there_is_anything_ends_with_2(tmp_path: Path) -> None:
    done = Spindle(tmp_path / "state").run("refresh", exit_code=2)
    assert "make demo" in done.stderr


def test_no_server_ends_with_3(spindle: Spindle, tmp_path: Path) -> None:
    nowhere = {"DB_HOST": str(tmp_path), "DB_USER": "u", "AGG_DB_HOST": str(tmp_path), "AGG_DB_USER": "u"}
    lost = Spindle(tmp_path / "state", nowhere | {"AGG_DB_NAME": "results"})
    for command in ("init", "refresh", "status"):
        done = lost.run(command, exit_code=3)
        assert "cannot connect to the results database" in done.stderr, command
        assert "Traceback" not in done.stderr


def test_stale_data_ends_with_4(spindle: Spindle) -> None:
    """The demo plant ended in the past on purpose and is judged as of then; a limit of a second makes it stale."""
    strict = Spindle(spindle.state_dir, {"STALE_AFTER_HOURS": "0.000001"}, spindle.port)
    assert "no log row for more than" in strict.run("status", exit_code=4).stderr
    done = strict.run("refresh", "--verbose", exit_code=4)
    assert "no log row for more than" in done.stderr
    assert "sensor_stats" in done.stdout, "dbt's log, when asked"


def test_a_running_refresh_ends_the_second_one_with_6(spindle: Spindle, results: psycopg.Connection) -> None:
    results.execute("select pg_advisory_lock(hashtext(%s))", (runs.LOCK,))
    assert "another refresh, backfill or rebuild is running" in spindle.run("refresh", exit_code=6).stderr


def test_lost_results_of_a_machine_end_with_8_and_show_in_status_until_the_next_refresh(
    spindle: Spindle, machine_databases: dict[str, str]
) -> None:
    with psycopg.connect(machine_databases["tamesa"], autocommit=True) as log:
        ids = "(select id from variable where name in ('TEMPERATURA_BASE'))"
        log.execute("create table kept as select * from variable_log_float where id_var in " + ids)
        log.execute("delete from variable_log_float where date > 1774900000000 and id_var in " + ids)
        try:
            done = spindle.run("refresh", exit_code=8)
            assert "tamesa lost results: sensor_records from" in done.stderr
            status = json.loads(spindle.run("status", "--json", exit_code=8).stdout)
            assert "tamesa lost results: sensor_records from" in status["problems"][0]
            assert {machine["machine"]: machine["failed"] for machine in status["machines"]} == {
                "branosera": False,
                "tamesa": True,
            }
            assert spindle.get("/api/v1/data_status").json["refresh_ok"] is False
        finally:
            log.execute("insert into variable_log_float select * from kept on conflict do nothing")
            log.execute("drop table kept")
    spindle.refresh()
    assert spindle.get("/api/v1/data_status").json["refresh_ok"] is True


def test_the_check_sees_an_api_that_serves_something_else(spindle: Spindle, results: psycopg.Connection) -> None:
    settings = load_settings(environ=spindle.environment)
    row = results.execute("select pg_get_viewdef('api.machine_util'::regclass)").fetchone()
    assert row is not None
    definition = row[0].rstrip("; ")
    # who changes something by hand has to tell the gateway
    told = "; select gateway.begin_change(), gateway.end_change()"
    results.execute(f"create or replace view api.machine_util as {definition} where day < '2026-03-31'{told}")
    try:
        with pytest.raises(RefreshFailed, match=r"serves something else .* machine_util lacks 2026-03-31"):
            refresh.check_served(settings)
    finally:
        results.execute(f"create or replace view api.machine_util as {definition}{told}")
    results.execute(f"update agg.machine_summary set energy_records = energy_records + 1{told}")
    try:
        with pytest.raises(RefreshFailed, match=r"serves something else .* energy_records \d+ instead of \d+"):
            refresh.check_served(settings)
    finally:
        results.execute(f"update agg.machine_summary set energy_records = energy_records - 1{told}")
    assert refresh.check_served(settings) == ""


def test_a_taken_port_ends_with_7(spindle: Spindle, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = Spindle(tmp_path / "state", port=port)
        try:
            done = other.run("demo", "--days", "1", "--rows-per-day", "1000", exit_code=7)
        finally:
            other.run("stop")
        assert str(port) in done.stderr
        assert "GATEWAY_PORT" in done.stderr
        assert not (tmp_path / "state" / "postgres").exists(), "before any work"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--days", "0"], "--days"),
        (["--rows-per-day", "1"], "--rows-per-day"),
        (["--machines", "9"], "--machines"),
        (["--machines", "lathe"], "--machines"),
        (["--until", "tomorrow"], "--until"),
    ],
)
def test_a_bad_option_of_demo_ends_with_2(spindle: Spindle, options: list[str], named: str) -> None:
    assert named in spindle.run("demo", *options, exit_code=2).stderr


def test_a_demo_again_adds_nothing(spindle: Spindle) -> None:
    before = spindle.get("/api/v1/data_status").json
    spindle.run("demo", "--days", "12", "--rows-per-day", "4000", "--until", "2026-03-31T15:17:42")
    after = spindle.get("/api/v1/data_status").json
    del before["refreshed_at"], after["refreshed_at"]
    assert after == before


def test_dbt_runs_with_the_settings_and_gives_its_exit_code(spindle: Spindle) -> None:
    listed = spindle.run("dbt", "ls", "--select", "sensor_stats+", "--resource-type", "model", "--quiet").stdout
    assert {"spindle.agg.sensor_stats", "spindle.temperatures"} <= set(listed.split())
    spindle.run("dbt", "run", "--select", "no_such_model_or_option", "--no-such-option", exit_code=2)
