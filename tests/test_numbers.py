"""The numbers are right and do not depend on when they were computed.

Random dirty histories, a plain Python oracle written from DESIGN section 2 (not from the SQL), and every way of
computing: refresh by refresh with late rows, backfills of changed days in steps, a rebuild. After each the tables equal
the oracle row for row. A failure prints seed and machine; to replay it:
SPINDLE_HISTORY_SEED=… SPINDLE_HISTORIES=… make test ARGS=tests/test_numbers.py
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from spindle.backfill import Request, backfill
from spindle.rebuild import rebuild
from spindle.refresh import refresh
from spindle.settings import Connection
from tests import oracle
from tests.conftest import THOROUGH
from tests.histories import HistoryPlant, random_histories, read_rules

SEED = int(os.environ.get("SPINDLE_HISTORY_SEED", "20261123"))
HISTORIES = int(os.environ.get("SPINDLE_HISTORIES", "200" if THOROUGH else "40"))
DAY_MS = 86_400_000
Logs = dict[str, oracle.MachineLog]


class Schedule:
    """What has arrived of each history so far, and the random choices about it."""

    def __init__(self, plant: HistoryPlant) -> None:
        self.plant = plant
        self.rng = random.Random(SEED)
        self.logs: Logs = {machine: replace(log, floats=[], strings=[]) for machine, log in plant.histories.items()}
        self.rules = read_rules()

    def arrive(self, part: float, *, hold_back: bool) -> None:
        """The oldest `part` of each history is there, but for rows of its last day that come late."""
        for machine, history in self.plant.histories.items():
            dates = sorted(when for _, when, _ in [*history.floats, *history.strings])
            cut = dates[min(len(dates) - 1, int(len(dates) * part))]

            def is_there(when: int, cut: int = cut) -> bool:
                late = hold_back and cut - DAY_MS < when < cut and self.rng.random() < 0.2
                return when <= cut and not late

            self.logs[machine].floats = [row for row in history.floats if is_there(row[1])]
            self.logs[machine].strings = [row for row in history.strings if is_there(row[1])]
        self.plant.write(self.logs)

    def change(self, machines: list[str], first: date, last: date) -> None:
        """Rows of some days are lost, and values of others change: what a refresh cannot see."""
        for machine in machines:
            log = self.logs[machine]
            clock = oracle.Clock(log.time_zone)
            newest = max(when for _, when, _ in [*log.floats, *log.strings])

            def touched(when: int, clock: oracle.Clock = clock, newest: int = newest) -> bool:
                return when != newest and first <= clock.day(when) <= last and self.rng.random() < 0.3

            log.floats = [
                (id_var, when, self.rng.choice([0.0, 255.0, 7.0, float("nan")]) if touched(when) else value)
                for id_var, when, value in log.floats
                if not touched(when)
            ]
            log.strings = [row for row in log.strings if not touched(row[1])]
        self.plant.write(self.logs)

    def differences(self, days: tuple[date, date] | None = None) -> list[str]:
        return self.plant.differences(self.logs, self.rules, days)

    def check(self, what: str, days: tuple[date, date] | None = None) -> None:
        """Compare with the oracle, of all days or from the first to the last of `days`."""
        different = self.differences(days)
        assert not different, f"seed {SEED}, after {what}: {len(different)} differ\n" + "\n".join(different[:20])


@pytest.fixture(scope="module")
def schedule(module_database_factory: Callable[[], Connection], tmp_path_factory: pytest.TempPathFactory) -> Schedule:
    results = replace(module_database_factory(), user="spindle_admin")
    folder: Path = tmp_path_factory.mktemp("histories") / "project"
    return Schedule(HistoryPlant(results, folder, random_histories(SEED, HISTORIES)))


def test_refresh_by_refresh_with_late_rows(schedule: Schedule) -> None:
    schedule.arrive(0.6, hold_back=True)
    # the first runs of all compute some days of some machines, with none after them, and with none before them
    first = min(schedule.plant.starts().values())
    for days in ((first, first), (first + timedelta(days=3), date(2021, 12, 31))):
        backfill(schedule.plant.settings, Request(*days), step_days=366)
        schedule.check(f"a backfill of {days} before all else", days)
    refresh(schedule.plant.settings)
    schedule.check("the first refresh")
    schedule.arrive(0.6, hold_back=False)
    refresh(schedule.plant.settings, accept_loss=True)
    schedule.check("a refresh for late rows")
    schedule.arrive(0.8, hold_back=True)
    refresh(schedule.plant.settings, accept_loss=True)
    schedule.check("the third refresh")
    schedule.arrive(1.0, hold_back=False)
    refresh(schedule.plant.settings, accept_loss=True)
    schedule.check("the last refresh")
    compared = sum(len(rows) for table in ("energy", "alerts") for rows in schedule.plant.computed(table).values())
    assert compared > 20 * HISTORIES, "histories with so few results prove nothing"


def test_backfills_of_changed_days(schedule: Schedule) -> None:
    """In steps of two days, for the machines whose days they are; of some the last day twice and not in order."""
    starts = schedule.plant.starts()
    groups = [date(2021, 3, 1), date(2021, 6, 1), date(2021, 10, 1), date(2022, 1, 1)]
    for begin, end in pairwise(groups):
        machines = [machine for machine, start in starts.items() if begin <= start < end]
        first = min(starts[machine] for machine in machines) + timedelta(days=1)
        last = first + timedelta(days=2)
        schedule.change(machines, first, last)
        assert any(line.split()[0] in machines for line in schedule.differences()), "the change must matter"
        settings = schedule.plant.settings
        if begin == groups[0]:
            backfill(settings, Request(last, last, tuple(machines)))
        backfill(settings, Request(first, last, tuple(machines)), step_days=2)
    schedule.check("backfills")


def test_a_rebuild(schedule: Schedule) -> None:
    schedule.change(list(schedule.logs), date(2021, 1, 1), date(2021, 12, 31))
    rebuild(schedule.plant.settings, accept_loss=True)
    schedule.check("a rebuild")


def test_a_refresh_after_all_this_changes_nothing(schedule: Schedule) -> None:
    refresh(schedule.plant.settings)
    schedule.check("a refresh without news")
