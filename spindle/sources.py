"""The sources: each machine's three tables in the schema raw of the results database, by foreign tables or views."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from spindle.settings import OWNER_ROLE, Settings

SERVER_PREFIX = "spindle_"

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


def make_sources(admin: psycopg.Connection, settings: Settings) -> None:
    """Make all anew from the settings, in the caller's transaction. As AGG_DB_USER, who must own what was there."""
    _drop_sources(admin)
    admin.execute("create temporary table logins (server text, name text, value text) on commit drop")
    for machine in settings.production:
        _make_source(admin, machine, foreign_options(settings, machine))
    admin.execute((settings.root / "setup" / "logins.sql").read_text(encoding="utf-8"))
    _unite_sources(admin)


def sources_differ(connection: psycopg.Connection, settings: Settings) -> bool:
    """Whether the settings name other machines, addresses or logins than the sources have. Asked as spindle_owner."""
    wanted = {machine: foreign_options(settings, machine) for machine in settings.production}
    reached: dict[str, str] = dict(connection.execute("select machine, reached_by from raw.sources").fetchall())
    servers = {
        name.removeprefix(SERVER_PREFIX): ForeignOptions(server or {}, login or {})
        for name, server, login in connection.execute(
            "select srvname,"
            " (select jsonb_object_agg(option_name, option_value) from pg_options_to_table(srvoptions)),"
            " (select jsonb_object_agg(option_name, option_value) from pg_options_to_table(umoptions))"
            " from pg_foreign_server left join pg_user_mappings using (srvname)"
            " where starts_with(srvname, %s) and usename is not distinct from %s",
            (SERVER_PREFIX, OWNER_ROLE),
        )
    }
    found = {machine: servers.get(machine) for machine in reached}
    return found != wanted or servers.keys() != {machine for machine, options in wanted.items() if options}


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


def _make_source(admin: psycopg.Connection, machine: str, options: ForeignOptions | None) -> None:
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
        owner, view, source = sql.Identifier(OWNER_ROLE), sql.Identifier(f"{machine}_{relation}"), sql.Identifier(table)
        admin.execute(sql.SQL("grant select on public.{} to {}").format(source, owner))
        admin.execute(sql.SQL("create view raw.{} as select {} from public.{}").format(view, _names(columns), source))
        admin.execute(sql.SQL("alter view raw.{} owner to {}").format(view, owner))


def _make_foreign_tables(admin: psycopg.Connection, machine: str, options: ForeignOptions) -> None:
    admin.execute("create extension if not exists postgres_fdw")
    server, owner = sql.Identifier(f"{SERVER_PREFIX}{machine}"), sql.Identifier(OWNER_ROLE)
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
        admin.execute(
            sql.SQL("alter view raw.{} owner to {}").format(sql.Identifier(table), sql.Identifier(OWNER_ROLE))
        )


def _names(columns: str) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column.split()[0]) for column in columns.split(", "))


def _options(values: Mapping[str, str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(k), sql.Literal(v)) for k, v in values.items())
