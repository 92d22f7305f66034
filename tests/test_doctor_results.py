"""The doctor on results servers, each with one thing wrong, and where there is none yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from spindle import database, services, status
from spindle.doctor import Examination, Severity, examine
from spindle.settings import Connection, Settings, load_settings
from tests.conftest import Spindle
from tests.doctored import PASSWORD, environment, make_machine, numbers, only, said, settings_in
from tests.servers import ADMIN, ADMIN_PASSWORD, DEBIAN, Server, Servers, needs_debian


@pytest.fixture(scope="module")
def server(servers: Servers) -> Server:
    """Of the machines."""
    return servers.make()


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    def make(results: Connection, **machines: Connection) -> Settings:
        return settings_in(tmp_path, results, machines)

    return make


@pytest.fixture
def results_server(servers: Servers) -> Iterator[Callable[..., Connection]]:
    """Databases on a server of their own, whose login is no superuser but may do all that `init` needs."""
    server = servers.make()

    def make(options: str = "", *, role: str = "createrole", extension: bool = True) -> Connection:
        name = f"results_{next(numbers)}"
        with server.connect() as admin:
            admin.execute(f"create role {name} login password '{PASSWORD}' {role}")  # type: ignore[arg-type]
            admin.execute(f"create database {name} template template0 {options}")  # type: ignore[arg-type]
            admin.execute(f"alter database {name} owner to {name}" if role else "select 1")  # type: ignore[arg-type]
        with server.connect(name) as admin:
            if extension:
                admin.execute(
                    f"create extension postgres_fdw; grant usage on foreign data wrapper postgres_fdw to {name}"  # type: ignore[arg-type]
                )
        return Connection("127.0.0.1", server.port, name, name, PASSWORD)

    return make


def as_superuser(results: Connection) -> Connection:
    return replace(results, user=ADMIN, password=ADMIN_PASSWORD)


UTF8 = "encoding 'UTF8' locale_provider builtin builtin_locale 'C.UTF-8' locale 'C'"


def test_the_results_database(
    server: Server, settings_of: Callable[..., Settings], results_server: Callable[..., Connection]
) -> None:
    reader = make_machine(server)

    def look(results: Connection) -> Examination:
        return examine(settings_of(results=results, branosera=reader))

    assert said(look(results_server(UTF8))) == []
    only(look(results_server("encoding 'UTF8' locale 'C'")), Severity.WARNING, "results: .* locale C.*C.UTF-8")
    only(look(results_server("encoding 'LATIN1' locale 'C'")), Severity.ERROR, "encoding LATIN1, not UTF8", 2)
    no_extension = look(results_server(UTF8, extension=False))
    only(no_extension, Severity.ERROR, "`create extension postgres_fdw`; .*`grant usage on foreign data wrapper", 7)
    only(look(results_server(UTF8, role="")), Severity.ERROR, "createrole`; `grant create on database", 7)
    wrong = replace(results_server(UTF8), password="other")
    only(look(wrong), Severity.ERROR, "the results database .*AGG_DB_USER or AGG_DB_PASSWORD is wrong", 3)


def test_a_results_database_in_trouble_is_a_finding(
    server: Server, settings_of: Callable[..., Settings], results_server: Callable[..., Connection]
) -> None:
    results = results_server(UTF8)
    with psycopg.connect(**as_superuser(results).parameters(), autocommit=True) as admin:
        admin.execute("revoke select on pg_timezone_names from public")
    found = examine(settings_of(results=results, branosera=make_machine(server)))
    only(found, Severity.ERROR, "results: .*cannot be looked at: permission denied for view pg_timezone_names", 3)
    assert found.machines[0].rows


def test_a_database_that_a_superuser_set_up(
    server: Server, settings_of: Callable[..., Settings], results_server: Callable[..., Connection], tmp_path: Path
) -> None:
    """As the advice of `init` is. Then its owner is the superuser's to become, and nobody else's, until granted."""
    reader, results = make_machine(server), results_server(UTF8, role="")
    settings, admins = (settings_of(results=each, branosera=reader) for each in (results, as_superuser(results)))
    assert status.read_status(settings).problems[0].what == "the results server has no role spindle_owner"
    database.set_up(admins, settings.authenticator_password)
    found = examine(settings)
    denied = f"{results.user} may not become spindle_owner, the owner of the results"
    grant = f"grant spindle_owner to {results.user}"
    assert said(found, Severity.ERROR) == [f"results: {denied} | an administrator: `{grant}`"]
    assert found.exit_code == 7
    shell = Spindle(tmp_path / "state", environment(results, tmp_path, {"branosera": reader}))
    for command in ("refresh", "runs"):
        assert f"error: {denied}\n  an administrator: `{grant}`\n" == shell.run(command, exit_code=7).stderr
    assert denied in shell.run("status", exit_code=7).stderr
    assert "there is nothing to serve yet" in shell.run("serve", exit_code=5).stderr
    with psycopg.connect(**as_superuser(results).parameters(), autocommit=True) as admin:
        admin.execute(grant)  # type: ignore[arg-type]
    only(examine(settings), Severity.WARNING, "may not set up the results database again.*createrole")
    assert "`make refresh`" in str(status.read_status(settings).problems[-1])


def test_a_password_of_postgrest_that_is_not_the_roles(
    server: Server, settings_of: Callable[..., Settings], results_server: Callable[..., Connection], tmp_path: Path
) -> None:
    """A changed setting, or lost secrets: `serve` sets the password, or says that it may not."""
    reader, results = make_machine(server), results_server(UTF8, role="")
    settings, admins = (settings_of(results=each, branosera=reader) for each in (results, as_superuser(results)))
    database.set_up(admins, settings.authenticator_password)
    assert said(examine(admins)) == []
    with psycopg.connect(**as_superuser(results).parameters(), autocommit=True) as admin:
        admin.execute(f"grant spindle_owner to {results.user}")  # type: ignore[arg-type]
        admin.execute("create view api.data_status as select 1 as something_to_serve")
    changed = {"AUTHENTICATOR_PASSWORD": "another one"}
    shell = Spindle(tmp_path / "state", environment(results, tmp_path, {"branosera": reader}) | changed)
    refused = shell.run("serve", exit_code=7).stderr
    assert "authentication failed" in refused
    assert f"{results.user} may not set up the results database" in refused
    assert "set AUTHENTICATOR_PASSWORD in .env" in refused
    admins = replace(admins, authenticator_password="another one")
    only(examine(admins), Severity.WARNING, "results: cannot connect to .* as PostgREST .*AUTHENTICATOR_PASSWORD")
    database.ensure_login(admins)
    assert said(examine(admins)) == []


@needs_debian
def test_a_results_server_that_is_too_old(
    servers: Servers, settings_of: Callable[..., Settings], server: Server
) -> None:
    old = servers.make(DEBIAN)
    found = examine(settings_of(results=old.admin, branosera=make_machine(server)))
    only(found, Severity.ERROR, r"results: the results server runs PostgreSQL 15.*must be 16", 2)


def test_the_results_server_must_reach_the_machines_too(
    server: Server, settings_of: Callable[..., Settings], plant_database_factory: Callable[[], Connection]
) -> None:
    reader = make_machine(server)
    results = replace(plant_database_factory(), user="spindle_admin")
    settings = settings_of(results=results, branosera=reader)
    database.set_up(settings, settings.authenticator_password)
    found = examine(settings)
    assert said(found) == []
    assert found.results.foreign == ["branosera"]
    with psycopg.connect(**results.parameters(), autocommit=True) as admin:
        admin.execute("drop foreign table raw.branosera_variable cascade")
    only(examine(settings), Severity.ERROR, "branosera: the results server cannot read the dictionary", 3)
    elsewhere = settings_of(results=results, branosera=replace(reader, sslmode="disable"))
    only(examine(elsewhere), Severity.NOTE, "machines or DB_. changed since it was set up")


def test_it_makes_no_embedded_database(server: Server, tmp_path: Path) -> None:
    """Neither the server, nor the database on it, nor a file."""
    state = tmp_path / "state"
    shell = Spindle(state, environment(None, tmp_path, {"branosera": make_machine(server)}))
    try:
        shown = shell.run("doctor").stdout
        assert "results: not made yet" in shown
        assert "note results: the embedded database is not made yet" in shown
        assert "error" not in shown
        assert not state.exists()
        services.start_database(load_settings(environ=shell.environment))
        assert json.loads(shell.run("doctor", "--json").stdout)["results"]["made"] is False
        with psycopg.connect(shell.info["results"].replace("dbname=spindle", "dbname=postgres")) as admin:
            assert admin.execute("select 1 from pg_database where datname = 'spindle'").fetchone() is None
        shell.run("init")
        assert json.loads(shell.run("doctor", "--json").stdout)["results"]["made"] is True
    finally:
        shell.run("stop")
