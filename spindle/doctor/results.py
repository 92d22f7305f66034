"""The doctor's look at the results server: whether `init` can set it up, and whether it reaches the machines."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from spindle import database, embedded, services
from spindle.doctor.findings import Findings
from spindle.doctor.machine import MachineReport
from spindle.doctor.reader import Reader, explain, is_far
from spindle.errors import CannotConnect, MachineNotReady, SettingsError, SpindleError
from spindle.settings import OWNER_ROLE, Settings, read_time_zones
from spindle.sources import foreign_options, sources_differ

NEEDS_TLS = ("require", "verify-ca", "verify-full")
ALIVE = """
select
    pg_encoding_to_char(encoding), current_setting('ssl_library'), extract(epoch from clock_timestamp())::float8,
    pg_database_size(datname),
    exists (select from pg_class where relname = 'sources' and relnamespace = to_regnamespace('raw'))
from pg_database where datname = current_database()
"""
RIGHTS = """
select
    rolsuper,
    rolsuper or rolcreaterole,
    has_database_privilege(current_database(), 'create'),
    (select extversion from pg_extension where extname = 'postgres_fdw'),
    exists (select from pg_available_extensions where name = 'postgres_fdw'),
    exists (
        select from pg_foreign_data_wrapper
        where fdwname = 'postgres_fdw' and has_foreign_data_wrapper_privilege(fdwname, 'usage')
    )
from pg_roles where rolname = current_user
"""
# As the alert rules do it: case-insensitive, at the start of a word, in Spanish.
ALERT_RULES = "select 'Ó' ~* 'ó' and not 'óerror' ~* '\\merror'"


@dataclass
class ResultsReport:
    """What is known of the results server; None where it could not be found out.

    `made` is false as long as the embedded database is not there, so there is nothing to look at.
    `clock_seconds` is its clock minus this computer's; `foreign` are the machines that it reads by foreign tables, none
    when they are not those of the settings.
    """

    address: str
    embedded: bool
    findings: Findings = field(default_factory=lambda: Findings("results"))
    made: bool = True
    reachable: bool = False
    version: str | None = None
    tls: bool | None = None
    bytes: int | None = None
    clock_seconds: float | None = None
    set_up: bool = False
    foreign: list[str] = field(default_factory=list)


def examine_results(settings: Settings, patience: float) -> ResultsReport:
    """Look at the results server, starting it if it is the embedded one and was made."""
    report = ResultsReport(settings.results.public(), settings.embedded_results)
    try:
        report.made = not settings.embedded_results or _is_made(settings)
        if not report.made:
            report.findings.note(
                "the embedded database is not made yet, so nothing is known of it",
                "`bootstrap.py init` makes it and sets it up; then ask again",
            )
            return report
        with Reader(settings.results, patience) as reader:
            report.reachable = True
            _look(settings, report, reader)
    except psycopg.Error as error:
        report.findings.error(explain(error, "the results database", settings.results, "AGG_DB_"))
    except SpindleError as error:
        report.findings.error(error)
    return report


def _is_made(settings: Settings) -> bool:
    if not embedded.has_cluster(settings):
        return False
    services.start_database(settings)
    with database.embedded_server(settings) as admin:
        return database.has_database(admin, settings.results.dbname)


def _look(settings: Settings, report: ResultsReport, reader: Reader) -> None:
    info = reader.connection.info
    report.version = info.parameter_status("server_version")
    report.tls = reader.connection.pgconn.ssl_in_use
    if info.server_version < database.OLDEST_RESULTS_VERSION:
        report.findings.error(
            SettingsError(
                f"the results server runs PostgreSQL {report.version}; it must be 16 or newer",
                "point AGG_DB_HOST at a newer server; production may stay old",
            )
        )
    began = time.time()
    encoding, ssl_library, clock, report.bytes, report.set_up = reader.row(ALIVE)
    report.clock_seconds = clock - (began + time.time()) / 2
    if is_far(settings.results) and not report.tls:
        report.findings.warn("results cross the network without TLS", "set AGG_DB_SSLMODE=require")
    _look_at_text(report, reader, encoding)
    _look_at_time_zones(settings, report, reader)
    _look_at_rights(settings, report, reader)
    if not ssl_library:
        _refuse_tls(settings, report)
    if not report.set_up:
        report.findings.note("it is not set up yet", "`bootstrap.py init` makes its schemas, roles and sources")
        return
    _look_at_login(settings, report)
    with database.results(settings) as owner:
        differ = sources_differ(owner, settings)
    if differ:
        report.findings.note("machines or DB_* changed since it was set up", "the next refresh or `init` applies it")
    else:
        report.foreign = sorted(machine for machine in settings.production if foreign_options(settings, machine))


def _look_at_text(report: ResultsReport, reader: Reader, encoding: str) -> None:
    new_one = "an administrator makes another: `create database spindle template template0 encoding 'UTF8'"
    if encoding != "UTF8":
        report.findings.error(
            SettingsError(f"the results database has the encoding {encoding}, not UTF8", f"{new_one} locale 'C.UTF-8'`")
        )
        return
    if reader.row(ALERT_RULES) != (True,):
        report.findings.warn(
            "the results database has the locale C, where é is no letter: alert rules find words inside words",
            f"{new_one} locale 'C.UTF-8'`; then AGG_DB_NAME, `init`, `make refresh`",
        )


def _look_at_time_zones(settings: Settings, report: ResultsReport, reader: Reader) -> None:
    zones = read_time_zones(settings.root)
    unknown = reader.rows(
        "select zone from unnest(%s::text[]) as zone"
        " where not exists (select from pg_timezone_names where lower(name) = lower(zone))",
        (sorted(set(zones.values())),),
    )
    for (zone,) in unknown:
        machines = ", ".join(machine for machine, own in zones.items() if own == zone)
        report.findings.error(
            SettingsError(
                f"the results server does not know the time zone {zone} of {machines}",
                "correct it in seeds/machine_config.csv, such as Europe/Madrid; or the server lacks time zone data",
            )
        )


def _look_at_rights(settings: Settings, report: ResultsReport, reader: Reader) -> None:
    user, dbname = settings.results.user, settings.results.dbname
    superuser, creates_roles, creates_schemas, installed, available, usable = reader.row(RIGHTS)
    elsewhere = any(not source.same_database(settings.results) for source in settings.production.values())
    missing = []
    if not creates_roles:
        missing.append(f"`alter role {user} createrole`")
    if not creates_schemas:
        missing.append(f"`grant create on database {dbname} to {user}`")
    if elsewhere and not superuser and available:
        if not installed:
            missing.append(f"in {dbname}: `create extension postgres_fdw`")
        if not usable:
            missing.append(f"in {dbname}: `grant usage on foreign data wrapper postgres_fdw to {user}`")
    if missing and report.set_up:
        report.findings.warn(
            f"{user} may not set up the results database again, as is needed after an update or a change of DB_*",
            f"a superuser runs `bootstrap.py init` then; or an administrator: {'; '.join(missing)}",
        )
    elif missing:
        report.findings.error(
            MachineNotReady(f"{user} may not set up the results database", f"an administrator: {'; '.join(missing)}")
        )
    if elsewhere and not available:
        report.findings.error(
            MachineNotReady(
                "the results server has no extension postgres_fdw, by which it reads machines elsewhere",
                "install PostgreSQL's contrib package there",
            )
        )


def _look_at_login(settings: Settings, report: ResultsReport) -> None:
    try:
        database.check_login(settings)
    except CannotConnect as error:
        report.findings.warn(
            error.what,
            "`make serve` gives the role AUTHENTICATOR_PASSWORD, or the password that Spindle made, if AGG_DB_USER may;"
            " the server's pg_hba.conf must let it in",
        )


def _refuse_tls(settings: Settings, report: ResultsReport) -> None:
    """A PostgreSQL that was built without TLS cannot use it as a client of the machines' servers either."""
    for machine, source in settings.production.items():
        if source.sslmode in NEEDS_TLS and not source.same_database(settings.results):
            report.findings.error(
                SettingsError(
                    f"the {'embedded PostgreSQL' if report.embedded else 'results server'} was built without TLS,"
                    f" so it cannot reach {machine} with DB_{machine.upper()}_SSLMODE={source.sslmode}",
                    "set AGG_DB_* to a PostgreSQL 16 or newer that has TLS, such as Debian's",
                )
            )


def reach_from_results(settings: Settings, report: MachineReport, patience: float) -> None:
    """Read the machine's dictionary as a refresh does: by the results server, which may be far from here."""
    table = sql.Identifier("raw", f"{report.machine}_variable")
    try:
        with Reader(settings.results, patience) as reader:
            reader.connection.execute(sql.SQL("set role {}").format(sql.Identifier(OWNER_ROLE)))
            reader.connection.execute(sql.SQL("select id from {} limit 1").format(table))
    except psycopg.Error as error:
        report.findings.error(
            CannotConnect(
                f"the results server cannot read the dictionary of {report.machine}: {' '.join(str(error).split())}",
                "from here it can be read: is the address right as seen from the results server, and open to it?"
                " `bootstrap.py init` makes the foreign tables anew",
            )
        )
