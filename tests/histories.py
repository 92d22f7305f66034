"""Random histories as machines of one database: one refresh computes them all, and the oracle says what is right."""

from __future__ import annotations

import csv
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg

from spindle import database, sources
from spindle.secrets import with_secrets
from spindle.settings import Connection, load_settings
from tests import oracle
from tests.conftest import ROOT
from tests.small_plant import environment

TIME_ZONES = ("UTC", "Europe/Madrid", "Asia/Kolkata", "America/Havana")
# days around which clocks change in Madrid (23 and 25 hours) and Havana (midnight twice), and an ordinary one
START_DAYS = (date(2021, 3, 26), date(2021, 10, 29), date(2021, 11, 5), date(2021, 6, 1))
SIGNALS = [
    oracle.Signal("operation", "MACHINE_IN_OPERATION", Decimal(1), None),
    oracle.Signal("program", "PROG_STATUS", Decimal(1), None),
    oracle.Signal("alarms", "ALARMS", Decimal(1), None),
    oracle.Signal("temperature", "TEMPERATURA_BASE", Decimal(100), None),
    oracle.Signal("temperature", "TEMPERATURE_MOTOR_X", Decimal(1), None),
    oracle.Signal("load", "AXIS_X_MOTOR_UTILIZACION", Decimal(1), Decimal("15.1")),
    oracle.Signal("load", "SPINDLE_LOAD_1", Decimal(1), Decimal(37)),
]

# what is compared: columns of the table in agg, and the same of a row of the oracle
COMPARED: dict[str, tuple[str, str]] = {
    "sensor_stats": (
        "sensor_name, hour_started_at, dt, day, min_value, avg_value, max_value, std_dev, readings_count",
        "sensor_name, hour_start, dt, day, min_value, avg_value, max_value, std_dev, readings_count",
    ),
    "activity": ("day, state_running, state_planned_down, running_percentage, down_percentage",) * 2,
    "state_changes": ("ts, day, value, state",) * 2,
    "state_intervals": ("started_at, ended_at, state, duration_seconds, day",) * 2,
    "program_time": ("day, program, duration_seconds",) * 2,
    "energy": ("hour_started_at, hour_ts, day, energy_kwh", "hour_start, hour_ts, day, energy_kwh"),
    "alerts": (
        "started_at, ended_at, dt, cleared_at, day, alert_type, alarm_code, alarm_description, duration_seconds",
        "started_at, ended_at, dt, cleared_at, day, alert_type, alarm_code, alarm_description, duration_seconds",
    ),
    "alerts_per_day": ("day, alert_type, amount, entries_logged",) * 2,
}


def random_histories(seed: int, how_many: int) -> list[oracle.MachineLog]:
    """Histories h000, h001, …: the same for the same seed."""
    histories = []
    for number in range(how_many):
        rng = random.Random(f"{seed}/{number}")
        zone, start = rng.choice(TIME_ZONES), rng.choice(START_DAYS)
        histories.append(oracle.random_log(rng, f"h{number:03}", zone, SIGNALS, start, rng.randint(2, 7)))
    return histories


class ComparedPlant:
    """Machines with histories, a copy of the project with their seeds, and what the oracle says of its results."""

    def __init__(
        self,
        results: Connection,
        folder: Path,
        histories: Iterable[oracle.MachineLog],
        production: Callable[[oracle.MachineLog], Connection],
    ) -> None:
        """`production` says where the log of a machine is."""
        self.histories = {history.machine: history for history in histories}
        self._answers: dict[str, tuple[oracle.MachineLog, list[oracle.Rule], oracle.Results]] = {}
        write_project(folder, self.histories.values())
        loaded = load_settings(folder, environment(results, results) | {"STATE_DIR": str(folder / "state")})
        self.settings = replace(
            with_secrets(loaded),
            root=folder,
            results=results,
            machines=tuple(self.histories),
            production={machine: production(history) for machine, history in self.histories.items()},
        )

    def computed(self, table: str) -> dict[str, list[tuple[Any, ...]]]:
        """Rows of a table of agg by machine, in the order of the oracle's columns, comparable."""
        found: dict[str, list[tuple[Any, ...]]] = {machine: [] for machine in self.histories}
        with psycopg.connect(**self.settings.results.parameters()) as connection:
            connection.execute("set timezone = 'UTC'")
            for machine, *row in connection.execute(f"select machine, {COMPARED[table][0]} from agg.{table}"):
                found[machine].append(tuple(map(comparable, row)))
        return {machine: sorted(rows, key=repr) for machine, rows in found.items()}

    def starts(self) -> dict[str, date]:
        """First local day of each history."""
        return {
            machine: min(oracle.Clock(log.time_zone).day(when) for _, when, _ in [*log.floats, *log.strings])
            for machine, log in self.histories.items()
        }

    def differences(
        self,
        logs: dict[str, oracle.MachineLog],
        rules: list[oracle.Rule],
        days: tuple[date, date] | None = None,
    ) -> list[str]:
        """What the models computed other than the oracle does from `logs`; each line names machine and result.

        `days`: only results of the days from the first to the last of them.
        """

        def is_meant(day: date) -> bool:
            return days is None or days[0] <= day <= days[1]

        expected = {machine: self._expected(log, rules) for machine, log in logs.items()}
        lines = []
        for table, (_, names) in COMPARED.items():
            computed = self.computed(table)
            day = names.split(", ").index("day")
            for machine, results in expected.items():
                wanted = sorted(
                    (
                        tuple(comparable(getattr(row, name)) for name in names.split(", "))
                        for row in getattr(results, table)
                        if is_meant(row.day)
                    ),
                    key=repr,
                )
                found = [row for row in computed[machine] if is_meant(row[day])]
                if found != wanted:
                    missing = [row for row in wanted if row not in found]
                    extra = [row for row in found if row not in wanted]
                    lines.append(f"{machine} {table}: missing {missing[:3]}, extra {extra[:3]}")
        return lines

    def _expected(self, log: oracle.MachineLog, rules: list[oracle.Rule]) -> oracle.Results:
        """The oracle takes a third of these tests' time, and from check to check most logs stay the same."""
        if log.machine not in self._answers or self._answers[log.machine][:2] != (log, rules):
            kept = replace(log, floats=list(log.floats), strings=list(log.strings))
            self._answers[log.machine] = (kept, rules, oracle.compute(log, rules))
        return self._answers[log.machine][2]


class HistoryPlant(ComparedPlant):
    """Many machines whose logs are views of common local tables."""

    def __init__(self, results: Connection, folder: Path, histories: Iterable[oracle.MachineLog]) -> None:
        super().__init__(results, folder, histories, lambda _: results)
        with psycopg.connect(**results.parameters(), autocommit=True) as admin:
            admin.execute(
                "create table variable (id int, name text, datatype text);"
                "create table variable_log_float (id_var int, date bigint, value real);"
                "create table variable_log_string (id_var int, date bigint, value text);"
            )
            database.set_up(self.settings, self.settings.authenticator_password)
            admin.execute("set role spindle_owner")
            for (machine,) in admin.execute("delete from raw.sources returning machine").fetchall():
                for relation, _, _ in sources.source_relations():
                    admin.execute(f"drop view raw.{machine}_{relation} cascade")
            for table, columns in sources.SOURCE_TABLES.items():
                admin.execute(f"create table raw.{table}_of_all (machine text, {columns})")
                key = "id" if table == "variable" else "id_var, date"
                admin.execute(f"alter table raw.{table}_of_all add primary key (machine, {key})")
            for machine, history in self.histories.items():
                for relation, table, columns in sources.source_relations():
                    names = ", ".join(column.split()[0] for column in columns.split(", "))
                    admin.execute(
                        f"create view raw.{machine}_{relation} as"
                        f" select {names} from raw.{table}_of_all where machine = '{machine}'"
                    )
                admin.execute("insert into raw.sources values (%s, 'local views')", (machine,))
                self._copy(admin, "variable", [(machine, *row, "") for row in history.variables.items()])

    def write(self, logs: dict[str, oracle.MachineLog]) -> None:
        """Make the logs these: rows that came late, changed or went are so in the database too."""
        with psycopg.connect(**self.settings.results.parameters(), autocommit=True) as admin, admin.transaction():
            for table, name in (("variable_log_float", "floats"), ("variable_log_string", "strings")):
                admin.execute(f"truncate raw.{table}_of_all")
                rows = [(machine, *row) for machine, log in logs.items() for row in getattr(log, name)]
                self._copy(admin, table, rows)
                admin.execute(f"analyze raw.{table}_of_all")

    @staticmethod
    def _copy(admin: psycopg.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
        with admin.cursor() as cursor, cursor.copy(f"copy raw.{table}_of_all from stdin") as copy:
            for row in rows:
                copy.write_row(row)


def copy_project(folder: Path) -> None:
    """What dbt and the set-up read of the project, to be changed in a folder that is there."""
    for name in ("models", "macros", "seeds", "api_views", "setup"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("dbt_project.yml", "profiles.yml.example"):
        shutil.copyfile(ROOT / name, folder / name)


def write_project(folder: Path, histories: Iterable[oracle.MachineLog]) -> None:
    """A copy of the project with seeds for these machines."""
    folder.mkdir()
    copy_project(folder)
    # histories are short, and what a refresh looks back at must not be all of them
    settings = folder / "dbt_project.yml"
    text = settings.read_text(encoding="utf-8")
    assert "lookback_days: 2" in text
    settings.write_text(text.replace("lookback_days: 2", "lookback_days: 1"), encoding="utf-8")
    histories = list(histories)
    write_csv(
        folder / "seeds" / "machine_config.csv",
        ["machine", "label", "database", "time_zone", "first_day"],
        [[history.machine, history.machine, "", history.time_zone, ""] for history in histories],
    )
    write_csv(
        folder / "seeds" / "signal_config.csv",
        ["machine", "role", "variable", "divisor", "nominal_kw", "label"],
        [
            [history.machine, signal.role, signal.variable, signal.divisor, signal.nominal_kw or "", signal.variable]
            for history in histories
            for signal in SIGNALS
        ],
    )


def comparable(value: Any) -> Any:
    """Exact decimals and doubles as the same thing: a double prints the decimal that was rounded into it."""
    if isinstance(value, (float, Decimal)):
        return float(value)
    return value


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def read_rules() -> list[oracle.Rule]:
    with (ROOT / "seeds" / "alert_rules.csv").open(newline="", encoding="utf-8") as file:
        return [(int(row["priority"]), row["alert_type"], row["word_start"]) for row in csv.DictReader(file)]
