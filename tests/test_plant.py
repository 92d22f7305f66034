"""The demo plant: deterministic, extensible, keyed, and as dirty as a real machine's logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from spindle import plant
from spindle.errors import MachineNotReady, SettingsError
from spindle.plant import make_plant
from spindle.plant_plan import PlantPlan, PlantReport
from spindle.settings import Connection

Factory = Callable[[str], Connection]

UNTIL = datetime(2026, 3, 18, 10, 30, tzinfo=UTC)
PLAN = PlantPlan(days=35, rows_per_day=3000, seed=7, until=UNTIL)
FIRST_DAY = UNTIL.date() - timedelta(days=PLAN.days)
# New York's clocks change within the plan's days.
ZONES = {"branosera": "America/New_York", "tamesa": "UTC"}


def quiet(machine: str, done: int, expected: int) -> None:
    pass


def make(database: Connection, plan: PlantPlan = PLAN, machine: str = "branosera") -> PlantReport:
    return make_plant({machine: database}, plan, ZONES, quiet)


def query(database: Connection, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(make_conninfo(**database.parameters())) as connection:
        return connection.execute(statement.encode()).fetchall()


def scalar(database: Connection, statement: str) -> Any:
    return query(database, statement)[0][0]


def fingerprint(database: Connection) -> list[tuple[Any, ...]]:
    """Counts and order-free hashes of all rows of the three tables."""
    return [
        query(database, f"select count(*), sum(hashtextextended({table}::text, 0)) from {table}")[0]
        for table in ("variable", "variable_log_float", "variable_log_string")
    ]


@pytest.fixture
def database(plant_database_factory: Factory) -> Connection:
    made = plant_database_factory("plant")
    make(made)
    return made


def test_the_same_plan_makes_the_same_rows_and_another_seed_others(plant_database_factory: Factory) -> None:
    short = PlantPlan(days=7, rows_per_day=1000, seed=7, until=UNTIL)
    databases = [plant_database_factory(name) for name in ("one", "two", "three")]
    for database, seed in zip(databases, (7, 7, 8), strict=True):
        make(database, PlantPlan(short.days, short.rows_per_day, seed, short.until))
    one, two, three = map(fingerprint, databases)
    assert one == two
    assert one[1:] != three[1:]


# In the middle of a night shift, of a break, at midnight, and on a Sunday.
@pytest.mark.parametrize("middle", ["2026-03-13T05:00", "2026-03-11T13:40", "2026-03-12T04:00", "2026-03-15T20:00"])
def test_extending_equals_making_it_in_one_go(plant_database_factory: Factory, middle: str) -> None:
    earlier = datetime.fromisoformat(middle).replace(tzinfo=UTC)
    whole, grown = plant_database_factory("whole"), plant_database_factory("grown")
    days = (earlier.date() - FIRST_DAY).days
    make(grown, PlantPlan(days, PLAN.rows_per_day, PLAN.seed, earlier))
    assert scalar(grown, "select max(date) from variable_log_float") <= earlier.timestamp() * 1000
    added = make(grown)
    made = make(whole)
    assert 0 < added.rows["branosera"] < made.rows["branosera"]
    assert fingerprint(grown) == fingerprint(whole)
    assert (added.first_row, added.last_row) == (made.first_row, made.last_row)


def test_a_complete_plant_is_left_as_it_is_and_keeps_its_old_days(database: Connection) -> None:
    before = fingerprint(database)
    again = make(database)
    assert again.rows == {"branosera": 0}
    assert again.seconds < 1
    make(database, PlantPlan(days=2, rows_per_day=3000, seed=7, until=UNTIL - timedelta(days=3)))
    assert fingerprint(database) == before


def interrupt_after(days: int, monkeypatch: pytest.MonkeyPatch) -> None:
    load, loaded = plant._load_day, iter(range(days))

    def load_some(*arguments: Any) -> int:
        if next(loaded, None) is None:
            raise psycopg.errors.DiskFull("No space left on device")
        return load(*arguments)

    monkeypatch.setattr(plant, "_load_day", load_some)


def test_an_interrupted_first_load_leaves_nothing_and_can_be_repeated(
    plant_database_factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = plant_database_factory("broken")
    with monkeypatch.context() as patch:
        interrupt_after(5, patch)
        with pytest.raises(MachineNotReady, match=r"disk is full(.|\n)*--days"):
            make(database)
    assert scalar(database, "select count(*) from pg_class where relname like 'variable%'") == 0
    assert make(database).rows["branosera"] > 0


def test_an_interrupted_extension_goes_on_where_it_stopped(
    database: Connection, plant_database_factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = PlantPlan(PLAN.days + 6, PLAN.rows_per_day, PLAN.seed, UNTIL + timedelta(days=6))
    with monkeypatch.context() as patch:
        interrupt_after(4, patch)
        with pytest.raises(MachineNotReady):
            make(database, later)
    assert make(database, later).rows["branosera"] > 0
    whole = plant_database_factory("whole")
    make(whole, later)
    assert fingerprint(database) == fingerprint(whole)


def test_there_are_keys_statistics_and_the_dictionary_of_the_samples(database: Connection) -> None:
    keys = query(
        database,
        "select conrelid::regclass::text, pg_get_constraintdef(oid) from pg_constraint where contype = 'p'"
        " and connamespace = 'public'::regnamespace order by 1",
    )
    assert keys == [
        ("variable", "PRIMARY KEY (id)"),
        ("variable_log_float", "PRIMARY KEY (id_var, date)"),
        ("variable_log_string", "PRIMARY KEY (id_var, date)"),
    ]
    assert scalar(database, "select reltuples from pg_class where relname = 'variable_log_float'") > 0
    known = query(
        database, "select name, id from variable where name in ('MACHINE_IN_OPERATION', 'PROG_STATUS', 'ALARMS')"
    )
    assert dict(known) == {"MACHINE_IN_OPERATION": 597, "PROG_STATUS": 581, "ALARMS": 447}
    assert 55 <= scalar(database, "select count(distinct name) from variable") <= 70
    assert {row[0] for row in query(database, "select distinct datatype from variable")} == {
        f"java.lang.{name}" for name in ("Integer", "Short", "Boolean", "Double", "String")
    }


def test_the_rows_reach_the_wish_for_each_machine_and_none_is_after_until(plant_database_factory: Factory) -> None:
    databases = {machine: plant_database_factory(machine) for machine in ("branosera", "tamesa")}
    heard: list[tuple[str, int, int]] = []
    report = make_plant(databases, PLAN, ZONES, lambda *told: heard.append(told))
    for machine, database in databases.items():
        made = report.rows[machine]
        assert made / (PLAN.days + 1) >= PLAN.rows_per_day
        assert made == sum(count for count, _ in fingerprint(database)[1:])
        assert heard[-1][1] == heard[-1][2] or heard[-2][1] == heard[-2][2]
        assert all(done <= expected for name, done, expected in heard if name == machine)
    assert report.last_row is not None
    assert UNTIL - timedelta(minutes=30) < report.last_row <= UNTIL
    assert report.first_row is not None
    assert report.first_row.date() in {FIRST_DAY, FIRST_DAY + timedelta(days=1)}


# What must be there, each as a query for how many of it there are.
LOG = "(select id_var, date, value::text from variable_log_float union all table variable_log_string)"
NAMED_FLOAT = "variable_log_float join variable on id = id_var"
NAMED_TEXT = "variable_log_string join variable on id = id_var"
LOCAL = "timezone('America/New_York', to_timestamp(date / 1000.0))"
BEFORE = "lag(value) over (partition by id_var order by date)"
AT_MIDNIGHT = f"""
(select distinct on (name, day) name, day, value from (
    select name, value, date, {LOCAL}::date as day, extract(hour from {LOCAL}) as hour from {{}}
) as rows where hour >= 23 order by name, day, date desc) as last_of_day
"""
REALISM = {
    "a row with a fraction of a second": "select count(*) from variable_log_float where date % 1000 <> 0",
    "a null number": "select count(*) from variable_log_float where value is null",
    "a null text": "select count(*) from variable_log_string where value is null",
    "an infinity": "select count(*) from variable_log_float where value = 'Infinity'",
    "a negative infinity": "select count(*) from variable_log_float where value = '-Infinity'",
    "a zero of a sensor that is not ready": (
        f"select count(*) from {NAMED_FLOAT} where name like 'TEMPERAT%' and value = 0"
    ),
    "a text's row in the float log": f"select count(*) from {NAMED_FLOAT} where datatype = 'java.lang.String'",
    "a number's row in the string log": f"select count(*) from {NAMED_TEXT} where datatype <> 'java.lang.String'",
    "a malformed list": f"select count(*) from {NAMED_TEXT} where name = 'ALARMS' and value <> 'NaN' and value !~ ']$'",
    "a power-off of every number": (
        "select count(*) from (select date / 2000 from variable_log_float where value = 'NaN'"
        " group by 1 having count(*) > 50) as moments"
    ),
    "a power-off of every text": (
        "select count(*) from (select date / 2000 from variable_log_string where value = 'NaN'"
        " group by 1 having count(*) = 3) as moments"
    ),
    "a NaN without a power-off": (
        "select count(*) from (select date / 2000 from variable_log_float where value = 'NaN'"
        " group by 1 having count(*) = 1) as moments"
    ),
    "a value logged again": (
        f"select count(*) from (select value, {BEFORE} as before from variable_log_float) as rows where value = before"
    ),
    "a list logged again after power-off": f"""
        select count(*) from (
            select value, {BEFORE} as before, lag(value, 2) over (order by date) as last_list
            from {NAMED_TEXT} where name = 'ALARMS'
        ) as lists where before = 'NaN' and value = last_list and value like '[[%'
    """,
    "overlapping alarms": "select count(*) from variable_log_string where value like '[[%],[%]]'",
    "a quote in a text": r"select count(*) from variable_log_string where value like '%\\\"%'",
    "an exclamation mark": "select count(*) from variable_log_string where value like '%!%'",
    "a double blank": "select count(*) from variable_log_string where value like '[[%  %'",
    "an accent": "select count(*) from variable_log_string where value like '%ó%'",
    "a program": f"select count(*) from {NAMED_FLOAT} where name = 'PROG_STATUS' and value between 1 and 999",
    "a strange program": (
        f"select count(*) from {NAMED_FLOAT}"
        " where name = 'PROG_STATUS' and value <> 'NaN' and (value not between 0 and 999 or value <> trunc(value))"
    ),
    "a braking motor": f"select count(*) from {NAMED_FLOAT} where name = 'SPINDLE_LOAD_1' and value between -10 and -1",
    "the machine in operation": (
        f"select count(*) from {NAMED_FLOAT} where name = 'MACHINE_IN_OPERATION' and value = 255"
    ),
    "a break or a night": f"""
        select count(*) from (select date - lag(date) over (order by date) as gap from {LOG} as log) as gaps
        where gap between 600 * 1000 and 3 * 3600 * 1000
    """,
    "an hour with a single reading": f"""
        select count(*) from (
            select name, date_trunc('hour', {LOCAL}) from {NAMED_FLOAT}
            where name = 'TEMPERATURE_SPINDLE_1' and value <> 0 and value not in ('NaN', 'Infinity', '-Infinity')
            group by 1, 2 having count(*) = 1
        ) as hours
    """,
    "a program over midnight": f"""
        select count(*) from {AT_MIDNIGHT.format(NAMED_FLOAT)} where name = 'PROG_STATUS' and value between 1 and 999
    """,
    "a load over midnight": f"""
        select count(*) from {AT_MIDNIGHT.format(NAMED_FLOAT)} where name = 'SPINDLE_LOAD_1' and value between 5 and 120
    """,
    "an alarm over midnight": f"""
        select count(*) from {AT_MIDNIGHT.format(NAMED_TEXT)} where name = 'ALARMS' and value like '[[%'
    """,
}


@pytest.fixture(scope="module")
def amounts() -> dict[str, int]:
    """Filled by the first test that has a database: the queries below share one plant."""
    return {}


@pytest.mark.parametrize("what", REALISM)
def test_there_is(what: str, amounts: dict[str, int], plant_database_factory: Factory) -> None:
    if not amounts:
        database = plant_database_factory("real")
        make(database)
        amounts |= {name: scalar(database, statement) for name, statement in REALISM.items()}
    assert amounts[what] > 0


def test_words_that_alert_rules_look_for_are_there_and_lists_are_as_machines_write_them(database: Connection) -> None:
    texts = [row[0] for row in query(database, "select value from variable_log_string where value ~ '^\\[.*\\]$'")]
    lists = [json.loads(text) for text in texts]
    words = " ".join(entry[1] for entries in lists for entry in entries)
    for word in ("CERRAR", "Aviso", "Emergency", "FALLO", "Error", "Attention", "Warning", "Atención"):
        assert word in words
    assert [] in lists
    assert {tuple(map(type, entry)) for entries in lists for entry in entries} == {(str, str, int, int, int)}
    for entries in lists:
        codes = [entry[0] for entry in entries]
        assert len(codes) == len(set(codes))


def test_the_machine_works_on_some_days_only(database: Connection) -> None:
    days = {row[0] for row in query(database, f"select distinct {LOCAL}::date from {LOG} as log")}
    calendar = {FIRST_DAY + timedelta(days=ahead) for ahead in range(PLAN.days + 1)}
    assert days <= calendar
    idle = calendar - days
    assert {day for day in calendar if day.weekday() == 6} <= idle
    assert len(days) > 25


def test_one_variable_appears_weeks_after_the_first_row(database: Connection) -> None:
    late = f"select min(date) from {NAMED_FLOAT} where name = 'TEMPERATURA_MOTOR_4'"
    first = scalar(database, "select min(date) from variable_log_float")
    assert scalar(database, late) - first > 14 * 86_400_000


def test_fast_temperatures_change_about_once_a_second(database: Connection) -> None:
    gap = scalar(
        database,
        "select percentile_cont(0.5) within group (order by gap) from (select date - lag(date) over (order by date)"
        f" as gap from {NAMED_FLOAT} where name = 'TEMPERATURA_BASE') as gaps",
    )
    assert 700 < gap < 1400


@pytest.mark.parametrize(
    ("plan", "option"),
    [
        (PlantPlan(days=0), "--days"),
        (PlantPlan(rows_per_day=999), "--rows-per-day"),
        (PlantPlan(seed=-1), "--seed"),
        (PlantPlan(until=datetime(2026, 3, 18)), "--until"),
    ],
)
def test_a_bad_plan_is_refused_by_the_option_s_name(plan: PlantPlan, option: str) -> None:
    with pytest.raises(SettingsError, match=option):
        make_plant({}, plan, {}, quiet)


def test_a_plant_cannot_change_its_seed_or_size(database: Connection) -> None:
    with pytest.raises(SettingsError, match="--seed 8"):
        make(database, PlantPlan(PLAN.days, PLAN.rows_per_day, 8, UNTIL))
    with pytest.raises(SettingsError, match="--rows-per-day 5000"):
        make(database, PlantPlan(PLAN.days, 5000, PLAN.seed, UNTIL))


def test_an_unknown_time_zone_or_machine_is_refused(plant_database_factory: Factory) -> None:
    with pytest.raises(SettingsError, match="Europe/Nowhere"):
        make_plant({"tamesa": plant_database_factory("zone")}, PLAN, {"tamesa": "Europe/Nowhere"}, quiet)
    with pytest.raises(SettingsError, match="signal_config"):
        make(plant_database_factory("nobody"), machine="nobody")


def test_logs_that_the_demo_plant_did_not_make_are_left_alone(plant_database_factory: Factory) -> None:
    database = plant_database_factory("theirs")
    with psycopg.connect(make_conninfo(**database.parameters())) as connection:
        connection.execute("create table variable_log_float (id_var int, date bigint, value real)")
    with pytest.raises(MachineNotReady, match="did not make"):
        make(database)


def test_a_database_that_does_not_answer_is_named_and_stops_the_other_machine(plant_database_factory: Factory) -> None:
    databases = {
        "branosera": plant_database_factory("answers"),
        "tamesa": Connection("/nowhere", 5432, "1245", "plant"),
    }
    with pytest.raises(MachineNotReady, match=r"tamesa(.|\n)*/nowhere"):
        make_plant(databases, PLAN, ZONES, quiet)
    assert scalar(databases["branosera"], "select count(*) from pg_class where relname like 'variable%'") == 0
