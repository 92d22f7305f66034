"""Connections, and the one-time set-up of a results database: roles, schemas, sources. Every step is safe to repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from spindle.errors import CannotConnect, MachineNotReady, SettingsError
from spindle.settings import LOGIN_ROLE, OWNER_ROLE, Connection, Settings
from spindle.sources import make_sources, sources_differ

OLDEST_RESULTS_VERSION = 160000

# A rebuild makes these anew with the suffix NEXT and swaps; the replaced ones have OLD until they are dropped.
SCHEMAS = ("staging", "agg", "api")
NEXT, OLD = "_next", "_old"


@contextmanager
def connect(connection: Connection, what: str) -> Iterator[psycopg.Connection]:
    """An autocommit connection. Raises CannotConnect that names `what`, the address and the driver's reason."""
    try:
        address = make_conninfo(**connection.parameters(), connect_timeout=10, application_name="spindle")
        opened = psycopg.connect(address, autocommit=True)
    except psycopg.OperationalError as error:
        raise CannotConnect(
            f"cannot connect to {what} ({connection.public()}): {str(error).strip()}",
            "check that the server runs and that host, port, name, user and password in .env are right",
        ) from error
    with opened:
        yield opened


@contextmanager
def results(settings: Settings, *, as_owner: bool = True) -> Iterator[psycopg.Connection]:
    """A connection to the results database, as spindle_owner unless set-up needs AGG_DB_USER's own rights.

    Raises CannotConnect, and MachineNotReady when AGG_DB_USER may not become spindle_owner.
    """
    with connect(settings.results, "the results database") as opened:
        if as_owner:
            _become_owner(opened, settings.results.user)
        yield opened


def _become_owner(connection: psycopg.Connection, user: str) -> None:
    try:
        connection.execute(f"set role {OWNER_ROLE}")
    except psycopg.errors.InsufficientPrivilege as error:
        raise MachineNotReady(
            f"{user} may not become {OWNER_ROLE}, the owner of the results",
            f"an administrator: `grant {OWNER_ROLE} to {user}`",
        ) from error
    except psycopg.errors.InvalidParameterValue as error:
        raise MachineNotReady(
            f"the results server has no role {OWNER_ROLE}", "`bootstrap.py init` makes it and all else"
        ) from error


def set_up(settings: Settings, authenticator_password: str) -> None:
    """Make schemas, roles, grants and sources. Raises CannotConnect, MachineNotReady or SettingsError."""
    with results(settings, as_owner=False) as admin:
        if admin.info.server_version < OLDEST_RESULTS_VERSION:
            raise SettingsError(
                f"the results database runs PostgreSQL {admin.info.server_version // 10000}; it must be 16 or newer",
                "point AGG_DB_HOST at a newer server; production may stay old",
            )
        try:
            with admin.transaction():
                admin.execute("select pg_advisory_xact_lock(hashtext('spindle set-up'))")
                _run_file(admin, settings, "roles.sql")
                set_password(admin, LOGIN_ROLE, authenticator_password)
                admin.execute(f"set local role {OWNER_ROLE}")
                _run_file(admin, settings, "runs.sql")
                _run_file(admin, settings, "raw.sql")
                _run_file(admin, settings, "gateway.sql")
                _run_file(admin, settings, "legacy.sql")
                admin.execute(sql.SQL("comment on schema raw is {}").format(sql.Literal(_set_up_mark(settings))))
                admin.execute("reset role")
                make_sources(admin, settings)
        except psycopg.errors.InsufficientPrivilege as error:
            raise MachineNotReady(
                f"{settings.results.user} may not set up the results database: {str(error).strip()}",
                "AGG_DB_USER needs, from an administrator:\n"
                "  the attribute createrole, and create on the database;\n"
                "  production elsewhere: create extension postgres_fdw;"
                " grant usage on foreign data wrapper postgres_fdw to AGG_DB_USER;\n"
                "  production in the same database: grant select on its tables to AGG_DB_USER with grant option;\n"
                "  or let a superuser run `bootstrap.py init` once, as AGG_DB_USER,"
                f" and then `grant {OWNER_ROLE} to {settings.results.user}`",
            ) from error


def check_login(settings: Settings) -> None:
    """Log in as PostgREST does. Raises CannotConnect."""
    login = replace(settings.results, user=LOGIN_ROLE, password=settings.authenticator_password)
    with connect(login, "the results database as PostgREST"):
        return


def ensure_login(settings: Settings) -> None:
    """Set up again if PostgREST cannot log in: AUTHENTICATOR_PASSWORD may be new, or the one that Spindle made lost.

    Raises CannotConnect or MachineNotReady, which name the setting.
    """
    try:
        check_login(settings)
        return
    except CannotConnect as error:
        refused = error.what
    try:
        set_up(settings, settings.authenticator_password)
        check_login(settings)
    except (MachineNotReady, CannotConnect) as error:
        raise type(error)(
            f"{refused}\n  and that cannot be mended from here: {error.what}",
            f"set AUTHENTICATOR_PASSWORD in .env to the password of the role {LOGIN_ROLE}, or let an administrator give"
            " the role that one; the server's pg_hba.conf must let it in",
        ) from error


def _run_file(admin: psycopg.Connection, settings: Settings, name: str) -> None:
    admin.execute((settings.root / "setup" / name).read_text(encoding="utf-8"))


def set_password(admin: psycopg.Connection, role: str, password: str) -> None:
    """Only the SCRAM verifier is sent, so that no server log can hold the password."""
    verifier = admin.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    admin.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(verifier)))


def ensure_results_database(settings: Settings) -> None:
    """The embedded server begins empty; on a real one an administrator made the database."""
    with embedded_server(settings) as admin:
        create_database(admin, settings.results.dbname)


@contextmanager
def embedded_server(settings: Settings) -> Iterator[psycopg.Connection]:
    """As its administrator, in the database that is always there."""
    with connect(replace(settings.results, dbname="postgres"), "the embedded server") as admin:
        yield admin


def has_database(admin: psycopg.Connection, name: str) -> bool:
    return admin.execute("select 1 from pg_database where datname = %s", (name,)).fetchone() is not None


def create_database(admin: psycopg.Connection, name: str, owner: str | None = None) -> None:
    """Make a database unless it is there; `owner` is a role."""
    if has_database(admin, name):
        return
    statement = sql.SQL("create database {}").format(sql.Identifier(name))
    if owner:
        statement += sql.SQL(" owner {}").format(sql.Identifier(owner))
    admin.execute(statement)


def drop_schemas(connection: psycopg.Connection, *suffixes: str) -> bool:
    """Drop staging, agg and api with these suffixes: what a rebuild replaced, or a killed one left. Views first.

    Returns False when somebody still reads them: the next run tries again.
    """
    try:
        with connection.transaction():
            connection.execute("set local lock_timeout = '2s'")
            for suffix in suffixes:
                for schema in reversed(SCHEMAS):
                    name = sql.Identifier(schema + suffix)
                    connection.execute(sql.SQL("drop schema if exists {} cascade").format(name))
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def is_set_up(settings: Settings) -> bool:
    """Whether `set_up` ran here, with the files of setup/ as they are now, and nobody has dropped a schema since."""
    with results(settings, as_owner=False) as admin:
        row = admin.execute(
            "select obj_description(to_regnamespace('raw'), 'pg_namespace'),"
            " (select count(*) from pg_namespace where nspname = any(%(schemas)s)) = cardinality(%(schemas)s)"
            " and exists ("
            "select from pg_class where relname = 'refresh_cuts' and relnamespace = to_regnamespace('agg'))",
            {"schemas": list(SCHEMAS)},
        ).fetchone()
    return row == (_set_up_mark(settings), True)


def _set_up_mark(settings: Settings) -> str:
    """Stands as the comment of the schema raw."""
    files = sorted((settings.root / "setup").glob("*.sql"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return f"set up by the files of setup/ with digest {digest[:16]}"


def needs_set_up(settings: Settings) -> bool:
    """Whether `set_up` must run first: never done, or by other files of setup/, or for other sources."""
    if not is_set_up(settings):
        return True
    with results(settings) as connection:
        return sources_differ(connection, settings)


def has_api_views(settings: Settings) -> bool:
    """Whether a refresh ever made the API's views, so that there is something to serve."""
    with results(settings, as_owner=False) as admin:
        # asked of the catalogue: AGG_DB_USER itself need not have a right on the schema
        row = admin.execute(
            "select exists (select from pg_class"
            " where relname = 'data_status' and relnamespace = to_regnamespace('api'))"
        ).fetchone()
    return bool(row and row[0])
