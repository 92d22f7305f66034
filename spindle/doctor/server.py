"""The doctor's look at a production server: version, login, clock, tables, keys and privileges."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

from spindle.doctor.findings import Findings
from spindle.doctor.machine import LOGS, MachineReport, Table, Wanted
from spindle.doctor.reader import Reader, is_far
from spindle.errors import CannotConnect, RefreshFailed, SettingsError
from spindle.sources import SOURCE_TABLES

OLDEST_VERSION = 120000
KEY = ["id_var", "date"]
# Types that become the wanted one without loss, and those that lose a little.
EXACT = {
    "integer": ("integer", "smallint", "bigint"),
    "bigint": ("bigint", "integer"),
    "real": ("real",),
    "text": ("text", "character varying", "json", "jsonb"),
}
ROUNDED = {"real": ("double precision", "numeric")}
SLOW_MS = 100.0

TABLES = """
select
    wanted.name, class.oid, class.relkind::text,
    has_table_privilege(class.oid, %s) as readable,
    pg_has_role(class.relowner, 'usage') as owned,
    array(
        select right_name from unnest(array['insert', 'update', 'delete', 'truncate']) as right_name
        where has_table_privilege(class.oid, right_name)
    ) as writes,
    array(
        select array[attname::text, format_type(atttypid, null)]
        from pg_attribute where attrelid = class.oid and attnum > 0 and not attisdropped
    ) as columns,
    array(
        select nspname::text from pg_class as other inner join pg_namespace on pg_namespace.oid = other.relnamespace
        where other.relname = wanted.name and nspname <> 'public' and other.relkind in ('r', 'p', 'v', 'm', 'f')
    ) as elsewhere
from unnest(%s::text[]) as wanted (name)
left join pg_class as class
    on class.relname = wanted.name and class.relnamespace = to_regnamespace('public')
    and class.relkind in ('r', 'p', 'v', 'm', 'f')
"""

INDEXES = """
select indrelid, indisunique, indisvalid, array(
    select attname::text from unnest(indkey::int2[]) with ordinality as part (attnum, place)
    inner join pg_attribute on attrelid = indrelid and pg_attribute.attnum = part.attnum
    order by place
) as columns
from pg_index
where indrelid = any(%s::oid[]) and indpred is null
"""

RIGHTS = """
select
    array(
        select distinct unnest(array[
            case when rolsuper then 'superuser' end, case when rolcreatedb then 'createdb' end,
            case when rolcreaterole then 'createrole' end, case when rolreplication then 'replication' end,
            case when rolname in (
                'pg_write_all_data', 'pg_write_server_files', 'pg_read_server_files', 'pg_execute_server_program'
            ) then rolname::text end
        ])
        from pg_roles where pg_has_role(oid, 'member')
    ) as roles,
    has_schema_privilege(to_regnamespace('public'), 'usage') as uses_schema,
    has_database_privilege(current_database(), 'create') as creates_schemas,
    has_schema_privilege(to_regnamespace('public'), 'create') as creates_tables,
    (select rolconnlimit from pg_roles where rolname = current_user) as connection_limit
"""


@dataclass
class ServerExamination:
    """Its methods are the steps, in this order."""

    wanted: Wanted
    report: MachineReport
    reader: Reader
    tables: dict[str, Table] = field(default_factory=dict)

    @property
    def findings(self) -> Findings:
        return self.report.findings

    def look_at_server(self) -> None:
        info = self.reader.connection.info
        self.report.version = str(info.parameter_status("server_version") or "")
        if info.server_version < OLDEST_VERSION:
            self.findings.error(
                SettingsError(
                    f"the server runs PostgreSQL {self.report.version}; production must be 12 or newer",
                    "copy the tables to a newer server, or upgrade it",
                )
            )
        standby, delay, encoding = self.reader.row(
            "select pg_is_in_recovery(), current_setting('max_standby_streaming_delay'),"
            " pg_encoding_to_char(encoding) from pg_database where datname = current_database()"
        )
        self.report.standby = standby
        if standby:
            self.findings.note(
                "the server is a standby: it may cancel a statement that stands in the way of changes from its primary"
                f" for longer than max_standby_streaming_delay, {delay}",
                "a cancelled machine is computed by the next refresh; hot_standby_feedback = on avoids it",
            )
        if encoding == "SQL_ASCII":
            self.findings.warn(
                "the database's encoding is SQL_ASCII, so the server does not know what its letters are",
                "alarm texts that are not UTF-8 make a refresh of this machine fail",
            )
        self._login()

    def _login(self) -> None:
        source, connection = self.wanted.source, self.reader.connection
        self.report.tls = connection.pgconn.ssl_in_use
        if is_far(source) and not self.report.tls:
            self.findings.warn(
                "rows cross the network without TLS",
                f"ask the administrator for `ssl = on` there, then set {self.wanted.prefix}SSLMODE=require",
            )
        elif is_far(source) and source.sslmode in ("allow", "prefer"):
            self.findings.note(
                f"TLS is in use, but {source.sslmode} would go on without it",
                f"set {self.wanted.prefix}SSLMODE=require or verify-full",
            )
        if not self.wanted.local and not connection.pgconn.used_password:
            self.findings.error(
                CannotConnect(
                    f"the server lets {source.user} in without asking for a password; foreign tables refuse that",
                    "a line of its pg_hba.conf must say scram-sha-256 for this role, and"
                    f" {self.wanted.prefix}PASSWORD have the password",
                )
            )

    def look_at_clock(self) -> None:
        trips: list[tuple[float, float]] = []
        for _ in range(5):
            began, before = time.monotonic(), time.time()
            (server,) = self.reader.row("select extract(epoch from clock_timestamp())::float8")
            seconds = time.monotonic() - began
            trips.append((seconds, server - before - seconds / 2))
        self.report.clock_seconds = min(trips)[1]
        self.report.round_trip_ms = round(statistics.median(seconds for seconds, _ in trips) * 1000, 2)
        if self.report.round_trip_ms > SLOW_MS:
            self.findings.note(
                f"a statement takes at least {self.report.round_trip_ms:.0f} ms there and back",
                "a refresh of this machine takes longer; SOURCE_TIMEOUT_SECONDS must leave room for it",
            )

    def look_at_tables(self) -> None:
        # `init` passes the right on to spindle_owner where the tables are in the results database itself
        needed = "select with grant option" if self.wanted.local else "select"
        for name, oid, kind, readable, owned, writes, columns, elsewhere in self.reader.rows(
            TABLES, (needed, list(SOURCE_TABLES))
        ):
            found = Table(name, oid, kind or "", bool(readable), bool(owned), writes, dict(columns))
            self.tables[name] = found
            if oid is None:
                self.findings.error(
                    RefreshFailed(
                        f"there is no table public.{name}",
                        f"it is in the schema {elsewhere[0]}; a view public.{name} of it would do"
                        if elsewhere
                        else f"is {self.wanted.source.dbname} the right database? {self.wanted.prefix}NAME sets it",
                    )
                )
                continue
            self._columns(found)

    def _columns(self, table: Table) -> None:
        for column, short in (pair.split(" ") for pair in SOURCE_TABLES[table.name].split(", ")):
            kind = {"int": "integer"}.get(short, short)
            found = table.columns.get(column)
            if found in EXACT[kind]:
                continue
            if found in ROUNDED.get(kind, ()):
                self.findings.warn(
                    f"{table.name}.{column} is {found}; it is read as {kind}",
                    "results have the precision of that type; a value too large for it makes a refresh fail",
                )
                continue
            table.sound = False
            wrong = f"has no column {column}" if found is None else f"has the column {column} as {found}, not {kind}"
            self.findings.error(
                RefreshFailed(
                    f"public.{table.name} {wrong}",
                    f"rename the table, and make a view of its name with {column} {kind}",
                )
            )

    def look_at_keys(self) -> None:
        there = {table.oid: table for table in self.tables.values() if table.oid is not None}
        indexes = self.reader.rows(INDEXES, (list(there),))
        for name in LOGS:
            table = self.tables.get(name)
            if table is None or table.oid is None:
                continue
            own = [index for index in indexes if index[0] == table.oid and index[3][:2] == KEY]
            table.keyed = any(valid for _, _, valid, _ in own)
            if table.kind in ("v", "f"):
                table.keyed = True  # whatever it stands for may have the key; its statements are limited in time
                self.findings.note(
                    f"{name} is no table but a view or foreign table, so its key cannot be seen",
                    "what it stands for needs an index on (id_var, date)",
                )
            elif not table.keyed:
                self.findings.error(
                    RefreshFailed(
                        f"{name} has {'an invalid' if own else 'no'} key (id_var, date): a refresh would read it whole",
                        "the administrator: "
                        + ("`reindex`" if own else f"`alter table {name} add primary key (id_var, date)`"),
                    )
                )
            elif not any(unique and valid and columns == KEY for _, unique, valid, columns in own):
                self.findings.warn(
                    f"the index of {name} on (id_var, date) is not unique", "a row that stands there twice counts twice"
                )

    def look_at_privileges(self) -> None:
        roles, uses_schema, creates_schemas, creates_tables, limit = self.reader.row(RIGHTS)
        self._too_few(uses_schema)
        if self.wanted.local:
            return
        user = self.wanted.source.user
        if extra := self._too_many([role for role in roles if role], creates_schemas):
            self.findings.warn(
                f"{user} may do more than read: {'; '.join(extra)}",
                "Spindle needs connect, and select on three tables: docs/connect-your-machines.md has the SQL",
            )
        elif creates_tables:
            self.findings.note(
                f"{user} may create tables in the schema public, as everybody may there",
                "the default before PostgreSQL 15; `revoke create on schema public from public` ends it",
            )
        if 0 <= limit <= self.wanted.sharing:
            self.findings.note(
                f"{user} may have {limit} connections at a time, and {self.wanted.sharing} of the machines use it",
                f"one a machine, one for the doctor: `alter role {user} connection limit {self.wanted.sharing + 1}`",
            )

    def _too_few(self, uses_schema: bool) -> None:
        user, dbname, local = self.wanted.source.user, self.wanted.source.dbname, self.wanted.local
        unreadable = [f"public.{table.name}" for table in self.tables.values() if table.oid and not table.readable]
        grants = [] if uses_schema else [f"grant usage on schema public to {user}"]
        if unreadable:
            grants.append(f"grant select on {', '.join(unreadable)} to {user}{' with grant option' * local}")
        if grants:
            what = ", ".join(unreadable) or "the schema public"
            self.findings.error(
                CannotConnect(
                    f"{user} may not {'pass on the right to ' * local}read {what}",
                    f"the administrator, in {dbname}: `{'; '.join(grants)}`",
                )
            )

    def _too_many(self, roles: list[str], creates_schemas: bool) -> list[str]:
        if "superuser" in roles:
            return ["superuser"]
        owned = [f"owner of {table.name}" for table in self.tables.values() if table.owned]
        writes = [
            f"{', '.join(table.writes)} on {table.name}"
            for table in self.tables.values()
            if table.writes and not table.owned
        ]
        return [*sorted(roles), *owned, *writes, *(["create in the database"] if creates_schemas else [])]
