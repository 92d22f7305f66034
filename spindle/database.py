"""Connections, and the one-time set-up of a results database: roles, schemas, sources. Every step is safe to repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from spindle.errors import CannotConnect, MachineNotReady, SettingsError
from spindle.settings import LOGIN_ROLE, Connection, Settings

OWNER = "spindle_owner"
SERVER_PREFIX = "spindle_"
OLDEST_RESULTS_VERSION = 160000

# A rebuild makes these anew with the suffix NEXT and swaps; the replaced ones have OLD until they are dropped.
SCHEMAS = ("staging", "agg", "api")
NEXT, OLD = "_next", "_old"

SOURCE_TABLES = {
    "variable": "id int, name text, datatype text",
    "variable_log_float": "id_var int, date bigint, value real",
    "variable_log_string": "id_var int, date bigint, value text",
}
# Relations of the schema raw for each table: the logs have one more, for look-ups of a few rows (setup/raw.sql).
LOOK_UP = "_look_up"
LOOK_UP_ROWS = "64"


def source_relations() -> Iterator[tuple[str, str, str]]:
    """(relation without the machine's name, table, columns) of each relation that a machine has in raw."""
    for table, columns in SOURCE_TABLES.items():
        yield table, table, columns
        if table != "variable":
            yield table + LOOK_UP, table, columns


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
        connection.execute(f"set role {OWNER}")
    except psycopg.errors.InsufficientPrivilege as error:
        raise MachineNotReady(
            f"{user} may not become {OWNER}, the owner of the results", f"an administrator: `grant {OWNER} to {user}`"
        ) from error
    except psycopg.errors.InvalidParameterValue as error:
        raise MachineNotReady(
            f"the results server has no role {OWNER}", "`bootstrap.py init` makes it and all else"
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
                admin.execute(f"set local role {OWNER}")
                _run_file(admin, settings, "runs.sql")
                _run_file(admin, settings, "raw.sql")
                _run_file(admin, settings, "gateway.sql")
                _run_file(admin, settings, "legacy.sql")
                admin.execute(sql.SQL("comment on schema raw is {}").format(sql.Literal(_set_up_mark(settings))))
                admin.execute("reset role")
                _drop_sources(admin)
                admin.execute("create temporary table logins (server text, name text, value text) on commit drop")
                for machine in settings.production:
                    _set_up_source(admin, machine, foreign_options(settings, machine))
                _run_file(admin, settings, "logins.sql")
                _unite_sources(admin)
        except psycopg.errors.InsufficientPrivilege as error:
            raise MachineNotReady(
                f"{settings.results.user} may not set up the results database: {str(error).strip()}",
                "AGG_DB_USER needs, from an administrator:\n"
                "  the attribute createrole, and create on the database;\n"
                "  production elsewhere: create extension postgres_fdw;"
                " grant usage on foreign data wrapper postgres_fdw to AGG_DB_USER;\n"
                "  production in the same database: grant select on its tables to AGG_DB_USER with grant option;\n"
                "  or let a superuser run `bootstrap.py init` once, as AGG_DB_USER,"
                f" and then `grant {OWNER} to {settings.results.user}`",
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


def _drop_sources(admin: psycopg.Connection) -> None:
    """All sources are made anew from the settings: an address or a password may have changed, a machine have gone."""
    relations = admin.execute(
        "select oid::regclass::text from pg_class where relnamespace = 'raw'::regnamespace and relkind = 'v'"
    ).fetchall()
    for (view,) in relations:
        admin.execute(sql.SQL("drop view if exists {} cascade").format(sql.SQL(view)))
    servers = admin.execute("select srvname from pg_foreign_server where starts_with(srvname, %s)", (SERVER_PREFIX,))
    for (server,) in servers.fetchall():
        admin.execute(sql.SQL("drop server {} cascade").format(sql.Identifier(server)))
    admin.execute("delete from raw.sources")


def _set_up_source(admin: psycopg.Connection, machine: str, options: ForeignOptions | None) -> None:
    """The machine's three tables as raw.<machine>_<table>: views in the same database, else foreign tables."""
    if options is None:
        _make_local_views(admin, machine)
    else:
        _make_foreign_tables(admin, machine, options)
    admin.execute(
        "insert into raw.sources (machine, reached_by) values (%s, %s)",
        (machine, "foreign tables" if options else "local views"),
    )


def _make_local_views(admin: psycopg.Connection, machine: str) -> None:
    for relation, table, columns in source_relations():
        owner, view, source = sql.Identifier(OWNER), sql.Identifier(f"{machine}_{relation}"), sql.Identifier(table)
        admin.execute(sql.SQL("grant select on public.{} to {}").format(source, owner))
        admin.execute(sql.SQL("create view raw.{} as select {} from public.{}").format(view, _names(columns), source))
        admin.execute(sql.SQL("alter view raw.{} owner to {}").format(view, owner))


def _make_foreign_tables(admin: psycopg.Connection, machine: str, options: ForeignOptions) -> None:
    admin.execute("create extension if not exists postgres_fdw")
    server, owner = sql.Identifier(f"{SERVER_PREFIX}{machine}"), sql.Identifier(OWNER)
    admin.execute(
        sql.SQL("create server {} foreign data wrapper postgres_fdw options ({})").format(
            server, _options(options.server)
        )
    )
    admin.execute(sql.SQL("grant usage on foreign server {} to {}").format(server, owner))
    # Rows of COPY are in no log, whatever the server logs of statements: it is how passwords travel.
    with admin.cursor() as cursor, cursor.copy("copy pg_temp.logins from stdin") as copy:
        for name, value in options.login.items():
            copy.write_row((f"{SERVER_PREFIX}{machine}", name, value))
    for relation, table, columns in source_relations():
        foreign = sql.Identifier(f"{machine}_{relation}")
        remote = {"schema_name": "public", "table_name": table}
        if relation.endswith(LOOK_UP):
            remote["fetch_size"] = LOOK_UP_ROWS
        admin.execute(
            sql.SQL("create foreign table raw.{} ({}) server {} options ({})").format(
                foreign, sql.SQL(columns), server, _options(remote)
            )
        )
        admin.execute(sql.SQL("alter foreign table raw.{} owner to {}").format(foreign, owner))


@dataclass(frozen=True)
class ForeignOptions:
    """Options of a machine's foreign server and of the login to it; the latter may hold a password."""

    server: Mapping[str, str]
    login: Mapping[str, str] = field(repr=False)


def foreign_options(settings: Settings, machine: str) -> ForeignOptions | None:
    """How postgres_fdw is to reach a machine; None where its tables are in the results database."""
    source = settings.production[machine]
    if source.same_database(settings.results):
        return None
    address = {k: v for k, v in source.parameters().items() if k not in ("user", "password")}
    timeout_ms = round(settings.source_timeout_seconds * 1000)
    # A row that crosses the link is dear, so the planner aggregates on the machine's server; use_remote_estimate would
    # double the round trips.
    tuning = {
        "fetch_size": "20000",
        "fdw_startup_cost": "100",
        "fdw_tuple_cost": "10",
        "updatable": "false",
        "connect_timeout": "10",
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "application_name": "spindle",
        "options": f"-c default_transaction_read_only=on -c statement_timeout={timeout_ms}",
    }
    login = {"user": source.user} | ({"password": source.password} if source.password else {})
    return ForeignOptions(address | tuning, login)


def sources_differ(settings: Settings) -> bool:
    """Whether the settings name other machines, addresses or logins than the sources have: then they must be made
    anew, by `set_up`."""
    wanted = {machine: foreign_options(settings, machine) for machine in settings.production}
    with results(settings) as connection:
        sources = dict(connection.execute("select machine, reached_by from raw.sources").fetchall())
        servers = {
            name.removeprefix(SERVER_PREFIX): ForeignOptions(server or {}, login or {})
            for name, server, login in connection.execute(
                "select srvname,"
                " (select jsonb_object_agg(option_name, option_value) from pg_options_to_table(srvoptions)),"
                " (select jsonb_object_agg(option_name, option_value) from pg_options_to_table(umoptions))"
                " from pg_foreign_server left join pg_user_mappings using (srvname)"
                " where starts_with(srvname, %s) and usename is not distinct from %s",
                (SERVER_PREFIX, OWNER),
            )
        }
    found = {machine: servers.get(machine) for machine in sources}
    return found != wanted or servers.keys() != {machine for machine, options in wanted.items() if options}


def _names(columns: str) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column.split()[0]) for column in columns.split(", "))


def _options(values: Mapping[str, str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(k), sql.Literal(v)) for k, v in values.items())


def _unite_sources(admin: psycopg.Connection) -> None:
    """raw.variable, raw.variable_log_float and raw.variable_log_string: all machines as one relation each."""
    machines = [row[0] for row in admin.execute("select machine from raw.sources order by machine")]
    for table, columns in SOURCE_TABLES.items():
        branches = sql.SQL(" union all ").join(
            sql.SQL("select {}::text as machine, {} from raw.{}").format(
                sql.Literal(machine), _names(columns), sql.Identifier(f"{machine}_{table}")
            )
            for machine in machines
        )
        admin.execute(sql.SQL("create view raw.{} as {}").format(sql.Identifier(table), branches))
        admin.execute(sql.SQL("alter view raw.{} owner to {}").format(sql.Identifier(table), sql.Identifier(OWNER)))


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
    """Whether `set_up` ran here, with the files of setup/ as they are now."""
    with results(settings, as_owner=False) as admin:
        row = admin.execute("select obj_description(to_regnamespace('raw'), 'pg_namespace')").fetchone()
    return row is not None and row[0] == _set_up_mark(settings)


def _set_up_mark(settings: Settings) -> str:
    """Stands as the comment of the schema raw."""
    files = sorted((settings.root / "setup").glob("*.sql"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return f"set up by the files of setup/ with digest {digest[:16]}"


def has_results(settings: Settings) -> bool:
    """Whether a refresh ever made the API's views, so that there is something to serve."""
    with results(settings, as_owner=False) as admin:
        # asked of the catalogue: AGG_DB_USER itself need not have a right on the schema
        row = admin.execute(
            "select exists (select from pg_class"
            " where relname = 'data_status' and relnamespace = to_regnamespace('api'))"
        ).fetchone()
    return bool(row and row[0])
