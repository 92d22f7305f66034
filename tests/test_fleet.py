"""Machines on servers of their own: what crosses the link, and what one that is in trouble does to the others."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from spindle import database, extract
from spindle.backfill import backfill, make_request
from spindle.errors import CannotConnect, MachinesFailed, RefreshFailed
from spindle.rebuild import rebuild
from spindle.status import MachineStatus, read_status
from tests.fleet import PASSWORD, READER, Fleet
from tests.histories import random_histories
from tests.servers import DEBIAN, Server, Servers

# Long enough for a busy computer, short enough to wait for.
SOURCE_TIMEOUT = 30.0
# Of a statement that a model sends: machines' logs are only ever read by the key.
BY_KEY = re.compile(r"id_var = |id_var > |ORDER BY id_var ASC NULLS LAST, date ASC NULLS LAST")


@pytest.fixture(scope="module")
def results(servers: Servers) -> Server:
    return servers.make()


@pytest.fixture(scope="module")
def fleet(servers: Servers, results: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Seven machines, refreshed once: h002 on a server of its own, the others shared by PostgreSQL 18 and, where it is
    installed, 15."""
    new, alone, old = servers.make(), servers.make(), servers.make(DEBIAN) if DEBIAN.is_dir() else servers.make()
    production = [new, old, alone, new, old, new, old]
    made = Fleet(results, tmp_path_factory.mktemp("fleet") / "fleet", random_histories(7, 7), production)
    made.set_up_with(machines_at_once=7)
    made.refresh()
    yield made
    made.close()


@pytest.fixture
def healed(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet, and all well with it again afterwards: the next refresh catches up by itself."""
    settings = fleet.settings
    yield fleet
    for machine, link in fleet.links.items():
        link.mend()
        link.slow(0)
        if fleet.servers[machine].process is None:
            fleet.servers[machine].start()
    fleet.set_up_with(**{name: getattr(settings, name) for name in ("production", "source_timeout_seconds")})
    assert not fleet.refresh().failed
    assert fleet.wrong() == []


def others(fleet: Fleet, machine: str) -> list[str]:
    return [name for name in fleet.histories if name != machine]


def status_of(fleet: Fleet, machine: str) -> MachineStatus:
    return next(found for found in read_status(fleet.settings).machines if found.machine == machine)


class Seen:
    """When the results of machines first went up to the newest row of their logs, counted from now."""

    def __init__(self, fleet: Fleet, *machines: str) -> None:
        self.fleet = fleet
        self.wanted = {machine: newest_ms(fleet, machine) for machine in machines}
        self.begin = time.monotonic()
        self.seconds = math.inf
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def after(self) -> float:
        self.thread.join()
        return self.seconds

    def _watch(self) -> None:
        query = "select machine, (extract(epoch from data_until) * 1000)::bigint from agg.machine_summary"
        while time.monotonic() - self.begin < 120:
            if self.wanted.items() <= dict(self.fleet.read(query)).items():
                self.seconds = time.monotonic() - self.begin
                return
            time.sleep(0.1)


def newest_ms(fleet: Fleet, machine: str) -> int:
    history = fleet.histories[machine]
    return max(when for _, when, _ in [*history.floats, *history.strings])


def log_later(fleet: Fleet, *machines: str) -> None:
    """A reading an hour after the last one, so that there is news."""
    for machine in machines:
        variables = fleet.histories[machine].variables
        sensor = next(id_var for id_var, name in variables.items() if name == "TEMPERATURA_BASE")
        fleet.write(machine, (sensor, newest_ms(fleet, machine) + 3_600_000, 2150.0))


# --- all is well -------------------------------------------------------------------------------------------


def test_results_are_those_of_the_same_logs_in_one_database(fleet: Fleet) -> None:
    """The oracle stands for it: tests/test_numbers.py compares it with logs in the results database, row for row."""
    assert fleet.wrong() == []
    assert {reached for (reached,) in fleet.read("select reached_by from raw.sources")} == {"foreign tables"}


def test_a_machine_is_asked_once_and_gently(fleet: Fleet) -> None:
    """One connection in one read-only transaction, only statements by the key, aggregates made over there."""
    link, server = fleet.links["h000"], fleet.servers["h000"]
    link.reset()
    sent = len(server.statements(READER, "h000"))
    fleet.refresh()
    statements = server.statements(READER, "h000")[sent:]
    assert link.connections == 1
    assert [text for text in statements if text.startswith("START TRANSACTION")] == [
        "START TRANSACTION ISOLATION LEVEL REPEATABLE READ"
    ]
    assert not [text for text in statements if text.startswith("EXPLAIN")]
    reads = [text for text in statements if "FROM public.variable_log_" in text]
    assert reads
    assert [text for text in reads if not BY_KEY.search(text)] == []
    grouped = [text for text in reads if "GROUP BY" in text]
    assert any("sum(round(" in text for text in grouped)
    assert any("min(date), max(date)" in text for text in grouped)
    looked_up = [text for text in reads if "GROUP BY" not in text and "date >= " not in text]
    assert [text for text in looked_up if "ORDER BY" not in text] == []


def test_production_cannot_be_written_and_a_statement_there_ends(fleet: Fleet) -> None:
    with database.results(fleet.settings) as owner:
        with pytest.raises(psycopg.Error, match="does not allow inserts"):
            owner.execute("insert into raw.h000_variable_log_float values (1, 1, 1)")
        [(options,)] = owner.execute(
            "select option_value from pg_foreign_server, pg_options_to_table(srvoptions)"
            " where srvname = 'spindle_h000' and option_name = 'options'"
        ).fetchall()
    assert "default_transaction_read_only=on" in options
    assert "statement_timeout=300000" in options


def test_one_machine_and_day_touch_only_its_server(fleet: Fleet) -> None:
    for link in fleet.links.values():
        link.reset()
    with database.results(fleet.settings) as owner:
        owner.execute("select * from raw.variable_log_float where machine = 'h001' and id_var = 1 and date < 100")
    assert {machine: link.connections for machine, link in fleet.links.items()} == dict.fromkeys(fleet.links, 0) | {
        "h001": 1
    }


def test_passwords_are_in_no_log_and_no_view(fleet: Fleet) -> None:
    """The results server logs every statement here; another role sees the address and no login."""
    assert PASSWORD not in fleet.results_server.folder.joinpath("server.log").read_text("utf-8")
    with fleet.results_server.connect(fleet.settings.results.dbname) as admin:
        admin.execute("drop role if exists curious; create role curious; set role curious")
        shown = admin.execute("select * from pg_user_mappings").fetchall()
        assert shown
        assert PASSWORD not in str(shown)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            admin.execute("select * from raw.sources")
        admin.execute("reset role; drop role curious")


def test_a_new_password_is_a_new_login(healed: Fleet) -> None:
    """What .env says is compared with what the sources have, so nobody must remember `init`."""
    assert not database.needs_set_up(healed.settings)
    changed = replace(healed.settings.production["h001"], password="another")
    settings = replace(healed.settings, production={**healed.settings.production, "h001": changed})
    assert database.needs_set_up(settings)
    gone = {name: source for name, source in healed.settings.production.items() if name != "h001"}
    assert database.needs_set_up(replace(healed.settings, production=gone))


# --- some are in trouble -----------------------------------------------------------------------------------


def test_machines_in_trouble_stop_no_other_and_are_caught_up(healed: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of trouble in one refresh: server down, wrong password, no table, no variable, no answer."""
    monkeypatch.setattr(extract, "PATIENCE_SECONDS", 1.0)
    source = replace(healed.settings.production["h001"], password="wrong")
    healed.set_up_with(production={**healed.settings.production, "h001": source}, source_timeout_seconds=SOURCE_TIMEOUT)
    healed.links["h000"].cut()
    healed.links["h003"].stall()
    with healed.servers["h002"].connect("h002") as second, healed.servers["h004"].connect("h004") as fourth:
        second.execute("alter table variable_log_string rename to hidden")
        fourth.execute("update variable set name = 'NO_' || name")
        try:
            log_later(healed, "h005", "h006")
            begin = time.monotonic()
            fresh = Seen(healed, "h005", "h006")
            report = healed.refresh()
            seconds = time.monotonic() - begin
        finally:
            second.execute("alter table hidden rename to variable_log_string")
            fourth.execute("update variable set name = substr(name, 4)")

    said = {machine: error.what for machine, error in report.failed.items()}
    assert said.keys() == {"h000", "h001", "h002", "h003", "h004"}
    assert "production database of h000 cannot be read" in said["h000"]
    assert "password authentication failed" in said["h001"]
    assert "DB_H001_" in report.failed["h001"].advice
    assert 'relation "public.variable_log_string" does not exist' in said["h002"]
    assert "none of its variables" in said["h004"]
    assert "h003 is slow" in said["h003"]
    with pytest.raises(MachinesFailed, match="5 of 7 machines failed"):
        report.raise_failed()

    assert healed.wrong(["h005", "h006"]) == []
    assert fresh.after() < seconds, "those that are well are computed before the one that does not answer is given up"
    statuses = {machine.machine: machine for machine in read_status(healed.settings).machines}
    assert {name for name, status in statuses.items() if status.failed} == said.keys()
    assert {name: statuses[name].problem for name in said} == said
    oks = dict(healed.read("select coalesce(machine, 'all'), refresh_ok from api.data_status"))
    assert oks == {name: name not in said for name in healed.histories} | {"all": False}
    assert healed.read("select outcome from agg.refresh_runs order by run_id desc limit 1") == [("partial",)]


def test_a_server_that_is_killed_in_the_middle(healed: Fleet) -> None:
    """Its link is so slow that it is surely at work. h002 alone is on that server."""
    healed.links["h002"].slow(0.05)
    log_later(healed, *healed.histories)
    healed.links["h002"].reset()

    def pull_the_plug() -> None:
        while healed.links["h002"].round_trips < 20:
            time.sleep(0.01)
        healed.servers["h002"].kill()

    plug = threading.Thread(target=pull_the_plug)
    plug.start()
    report = healed.refresh()
    plug.join()
    assert list(report.failed) == ["h002"]
    assert healed.wrong(others(healed, "h002")) == []
    # nothing of its half-read rows is left
    assert healed.read("select count(*) from staging.base_numbers where machine = 'h002'") == [(0,)]
    since = status_of(healed, "h002").problem_since
    assert list(healed.refresh().failed) == ["h002"]
    assert status_of(healed, "h002").problem_since == since, "since the first failure"


def test_a_variable_that_is_missing_is_said_and_costs_only_itself(healed: Fleet) -> None:
    with healed.servers["h000"].connect("h000") as admin:
        admin.execute("update variable set name = 'OTHER' where name = 'PROG_STATUS'")
        try:
            report = healed.refresh()
        finally:
            admin.execute("update variable set name = 'PROG_STATUS' where name = 'OTHER'")
    assert report.absent == [("h000", "PROG_STATUS")]
    assert "PROG_STATUS" in (status_of(healed, "h000").problem or "")
    # results that the window had are gone: that is a failure, of that machine, once
    assert report.failed.keys() <= {"h000"}


def test_when_all_fail_the_error_is_theirs(healed: Fleet) -> None:
    for link in healed.links.values():
        link.cut()
    with pytest.raises(CannotConnect, match="7 of 7 machines failed"):
        healed.refresh()
    assert healed.read("select outcome from agg.refresh_runs order by run_id desc limit 1") == [("failed",)]


def test_a_backfill_goes_on_without_the_one_that_is_down(healed: Fleet) -> None:
    healed.links["h001"].cut()
    request = make_request(healed.settings, None, None, ())
    with pytest.raises(MachinesFailed, match="h001"):
        backfill(healed.settings, request, step_days=400)
    assert healed.wrong(others(healed, "h001")) == []


def test_a_rebuild_wants_them_all(healed: Fleet) -> None:
    """It may deploy changed models: results of two versions must not be mixed."""
    healed.links["h001"].cut()
    with pytest.raises((MachinesFailed, RefreshFailed, CannotConnect), match="h001"):
        rebuild(healed.settings)
    assert healed.read("select nspname from pg_namespace where nspname ~ '_(next|old)$'") == []
    assert healed.wrong() == []
    healed.links["h001"].mend()


def test_a_machine_that_is_removed_keeps_its_history(healed: Fleet) -> None:
    before = healed.computed("energy")["h003"]
    left = {name: source for name, source in healed.settings.production.items() if name != "h003"}
    machines = healed.settings.machines
    try:
        healed.set_up_with(production=left, machines=tuple(left))
        healed.refresh()
        assert healed.computed("energy")["h003"] == before
        rebuild(healed.settings)
        assert healed.computed("energy")["h003"] == before
        assert status_of(healed, "h003").problem == "has no source any more"
        assert not status_of(healed, "h003").failed
    finally:
        healed.settings = replace(healed.settings, machines=machines)
