"""The demo plant: fills one database a machine with the tables and the kind of rows that real machines log.

Deterministic and extensible: a day is a pure function of seed, machine and day (spindle.plant_day), so a later call
adds just the rows after the newest. The first load is one transaction, later ones a transaction a day in time order:
whenever it is interrupted, calling it again completes it.
"""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from spindle.errors import MachineNotReady, SettingsError
from spindle.plant_day import NULL, Array, DemoMachine
from spindle.plant_plan import PlantPlan, PlantReport
from spindle.plant_signals import assign_ids, machine_signals
from spindle.settings import Connection

Progress = Callable[[str, int, int], None]

TABLES = """
create table public.variable (id integer primary key, name text not null, datatype text not null);
create table public.variable_log_float (id_var integer not null, date bigint not null, value real);
create table public.variable_log_string (id_var integer not null, date bigint not null, value text);
"""
KEYS = """
set local maintenance_work_mem = '256MB';
alter table public.variable_log_float add primary key (id_var, date);
alter table public.variable_log_string add primary key (id_var, date);
"""
# One probe of the key for each variable: there is no index on date alone.
BOUNDS = """
select min(bounds.first), max(bounds.last)
from public.variable
cross join lateral (
    select min(date) as first, max(date) as last from public.variable_log_float where id_var = variable.id
    union all
    select min(date) as first, max(date) as last from public.variable_log_string where id_var = variable.id
) as bounds
"""
COPY = "copy public.{} (id_var, date, value) from stdin (format binary{})"
MARK = "Spindle demo plant "

# PostgreSQL's binary COPY: a header, rows of (columns, then length and bytes of each column), a trailer; big-endian.
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = b"\xff\xff"
KEY_FIELDS = [("columns", ">i2"), ("id_size", ">i4"), ("id", ">i4"), ("date_size", ">i4"), ("date", ">i8")]
NULL_ROW = np.dtype([*KEY_FIELDS, ("value_size", ">i4")])
FLOAT_ROW = np.dtype([*KEY_FIELDS, ("value_size", ">i4"), ("value", ">f4")])


@dataclass(frozen=True)
class Origin:
    """What a plant was first made from, kept as a comment in its database: a later call must continue just that."""

    seed: int
    rows_per_day: int
    first_day: str


@dataclass(frozen=True)
class _Filled:
    rows: int
    first: int | None
    last: int | None


def make_plant(
    databases: Mapping[str, Connection], plan: PlantPlan, time_zones: Mapping[str, str], progress: Progress
) -> PlantReport:
    """Make or complete the plant, the machines side by side; `progress` hears from each, never two at once.

    Raises SettingsError for a bad plan and MachineNotReady when a database does not take the rows.
    """
    plan.check()
    begun = time.monotonic()
    until = plan.until or datetime.now(timezone.utc)
    zones = {machine: _zone(machine, time_zones.get(machine, "UTC")) for machine in databases}
    stop, one_at_a_time = threading.Event(), threading.Lock()

    def tell(machine: str, done: int, expected: int) -> None:
        if stop.is_set():
            raise MachineNotReady(f"the demo plant of {machine} was interrupted", "call it again: it goes on")
        with one_at_a_time:
            progress(machine, done, expected)

    def fill(machine: str) -> _Filled:
        try:
            return _fill(machine, databases[machine], plan, zones[machine], int(until.timestamp() * 1000), tell)
        except psycopg.errors.DiskFull as error:
            raise MachineNotReady(
                f"the disk is full: the demo plant of {machine} needs more room",
                "free some space, or take fewer --days or --rows-per-day, and call it again",
            ) from error
        except psycopg.Error as error:
            raise MachineNotReady(
                f"the demo plant of {machine} cannot be made in {databases[machine].public()}: {error}".rstrip(),
                "check that the database is up and that this user may create tables in it, and call it again",
            ) from error

    with ThreadPoolExecutor(max(len(databases), 1)) as pool:
        filling = {machine: pool.submit(fill, machine) for machine in databases}
        try:
            for future in as_completed(filling.values()):
                future.result()
        except BaseException:
            stop.set()  # else the other machines would be filled before anyone hears of this
            raise
    filled = {machine: future.result() for machine, future in filling.items()}
    firsts = [f.first for f in filled.values() if f.first is not None]
    lasts = [f.last for f in filled.values() if f.last is not None]
    return PlantReport(
        rows={machine: f.rows for machine, f in filled.items()},
        seconds=time.monotonic() - begun,
        first_row=_moment(min(firsts)) if firsts else None,
        last_row=_moment(max(lasts)) if lasts else None,
    )


def _zone(machine: str, name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise SettingsError(
            f"time zone {name!r} of machine {machine} is unknown", "see time_zone in seeds/machine_config.csv"
        ) from error


def _fill(
    machine: str, database: Connection, plan: PlantPlan, zone: ZoneInfo, until: int, progress: Progress
) -> _Filled:
    with psycopg.connect(make_conninfo(**database.parameters()), autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(hashtext('spindle demo plant'))")
        today = _moment(until).astimezone(zone).date()
        wanted = Origin(plan.seed, plan.rows_per_day, (today - timedelta(days=plan.days)).isoformat())
        origin = _origin(connection, database)
        if origin is None:
            with connection.transaction():
                connection.execute(TABLES)
                comment = sql.SQL("comment on table public.variable is {}")
                connection.execute(comment.format(sql.Literal(MARK + json.dumps(asdict(wanted)))))
                demo = _machine(connection, machine, zone, wanted)
                rows, expected = 0, _expected_rows(demo, today, until)
                for day in _days(demo.first_day, today):
                    rows += _load_day(connection, demo, day, -1, until, ", freeze")
                    progress(machine, rows, max(rows, expected))
                connection.execute(KEYS)
        else:
            _check_same(origin, wanted, database)
            newest = _bounds(connection)[1] or -1
            with connection.transaction():
                demo = _machine(connection, machine, zone, origin)
            # The newest row may be of a night shift, which belongs to the day before.
            start = max(_moment(newest).astimezone(zone).date() - timedelta(days=1), demo.first_day)
            rows = 0
            for day in _days(start, today):
                with connection.transaction():
                    rows += _load_day(connection, demo, day, newest, until)
                progress(machine, rows, rows)
        if rows:
            connection.execute("analyze public.variable, public.variable_log_float, public.variable_log_string")
        progress(machine, rows, rows)
        return _Filled(rows, *_bounds(connection))


def _origin(connection: psycopg.Connection[Any], database: Connection) -> Origin | None:
    """What the plant here was made from; None if there is none. Tables of somebody else are left alone."""
    found = connection.execute(
        "select obj_description(to_regclass('public.variable'), 'pg_class') from (values"
        " (to_regclass('public.variable')), (to_regclass('public.variable_log_float')),"
        " (to_regclass('public.variable_log_string'))) as tables (name) where name is not null"
    ).fetchone()
    if found is None:
        return None
    if not (found[0] or "").startswith(MARK):
        raise MachineNotReady(
            f"{database.public()} has a table variable or a log that the demo plant did not make",
            "name an empty database for the demo plant",
        )
    return Origin(**json.loads(found[0].removeprefix(MARK)))


def _check_same(origin: Origin, wanted: Origin, database: Connection) -> None:
    for option in ("seed", "rows_per_day"):
        here, asked = getattr(origin, option), getattr(wanted, option)
        if here != asked:
            raise SettingsError(
                f"--{option.replace('_', '-')} {asked}: the demo plant in {database.dbname} was made with {here}",
                "keep that, or drop the database and make it anew",
            )


def _machine(connection: psycopg.Connection[Any], machine: str, zone: ZoneInfo, origin: Origin) -> DemoMachine:
    """The machine, its dictionary brought up to date: variables keep the ids they have."""
    signals = machine_signals(machine)
    known: dict[str, int] = dict(connection.execute("select name, id from public.variable").fetchall())
    ids = assign_ids(machine, signals, known)
    new = [(ids[s.name], s.name, s.datatype) for s in signals if s.name not in known]
    with connection.cursor() as cursor:
        cursor.executemany("insert into public.variable (id, name, datatype) values (%s, %s, %s)", new)
    first_day = date.fromisoformat(origin.first_day)
    return DemoMachine(machine, zone, signals, ids, origin.seed, origin.rows_per_day, first_day)


def _expected_rows(demo: DemoMachine, today: date, until: int) -> int:
    shifts = [shift for day in _days(demo.first_day, today) if (shift := demo.shift(day))]
    return int(sum(demo.rows(shift) for shift in shifts if shift.blocks[-1].end <= until))


def _load_day(
    connection: psycopg.Connection[Any], demo: DemoMachine, day: date, after: int, until: int, freeze: str = ""
) -> int:
    """Load the day's rows with after < date <= until; the number of them."""
    numbers, texts = (log.between(after, until) for log in demo.make_day(day))
    with connection.cursor() as cursor:
        for table, packed in (
            ("variable_log_float", pack_numbers(*numbers)),
            ("variable_log_string", pack_texts(*texts)),
        ):
            with cursor.copy(sql.SQL(COPY.format(table, freeze))) as copy:
                copy.write(COPY_HEADER + packed + COPY_TRAILER)
    return len(numbers[0]) + len(texts[0])


def pack_numbers(ids: Array, dates: Array, values: Array) -> bytes:
    null = values == NULL
    packed = []
    for layout, chosen in ((FLOAT_ROW, ~null), (NULL_ROW, null)):
        rows = np.empty(int(np.count_nonzero(chosen)), layout)
        rows["columns"], rows["id_size"], rows["date_size"] = 3, 4, 8
        rows["id"], rows["date"] = ids[chosen], dates[chosen]
        rows["value_size"] = -1
        if layout is FLOAT_ROW:
            rows["value_size"], rows["value"] = 4, values[chosen]
        packed.append(rows.tobytes())
    return b"".join(packed)


def pack_texts(ids: Array, dates: Array, values: Array) -> bytes:
    packed = []
    for id_var, moment, text in zip(ids.tolist(), dates.tolist(), values.tolist(), strict=True):
        value = b"" if text is None else text.encode()
        packed.append(struct.pack(">hiiiqi", 3, 4, id_var, 8, moment, -1 if text is None else len(value)) + value)
    return b"".join(packed)


def _bounds(connection: psycopg.Connection[Any]) -> tuple[int | None, int | None]:
    row = connection.execute(BOUNDS).fetchone()
    return (row[0], row[1]) if row else (None, None)


def _days(first: date, last: date) -> Iterator[date]:
    for ahead in range((last - first).days + 1):
        yield first + timedelta(days=ahead)


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
