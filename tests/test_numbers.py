"""The numbers are right: random dirty histories, computed refresh by refresh, equal a plain Python oracle row for row.

The oracle was written from DESIGN section 2, not from the SQL. A failure prints seed and machine, so that it can be
replayed: SPINDLE_HISTORY_SEED=… SPINDLE_HISTORIES=… make test ARGS=tests/test_numbers.py
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from spindle.settings import Connection
from tests import oracle
from tests.histories import HistoryPlant, random_histories, read_rules

SEED = int(os.environ.get("SPINDLE_HISTORY_SEED", "20261123"))
HISTORIES = int(os.environ.get("SPINDLE_HISTORIES", "60"))


def test_refresh_by_refresh_equals_the_oracle(
    module_database_factory: Callable[[], Connection], tmp_path: Path
) -> None:
    """Each history arrives in three parts, cut anywhere; the third refresh finds it complete."""
    histories = random_histories(SEED, HISTORIES)
    results = replace(module_database_factory(), user="spindle_admin")
    plant = HistoryPlant(results, tmp_path / "project", histories)
    rules = read_rules()
    seen = {machine: replace(history, floats=[], strings=[]) for machine, history in plant.histories.items()}
    for part in (0.4, 0.8, 1.0):
        floats, strings = [], []
        for machine, history in plant.histories.items():
            dates = sorted(date for _, date, _ in [*history.floats, *history.strings])
            until = dates[min(len(dates) - 1, int(len(dates) * part))]
            arrived = seen[machine]
            new = [row for row in history.floats if row[1] <= until and row not in arrived.floats]
            new_texts = [row for row in history.strings if row[1] <= until and row not in arrived.strings]
            floats += [(machine, *row) for row in new]
            strings += [(machine, *row) for row in new_texts]
            arrived.floats.extend(new)
            arrived.strings.extend(new_texts)
        plant.log(floats, strings)
        plant.run()
        different = plant.differences(seen, rules)
        assert not different, f"seed {SEED}, part {part}: {len(different)} differ\n" + "\n".join(different[:20])
    assert total_rows(seen, rules) > 20 * HISTORIES


def total_rows(logs: dict[str, oracle.MachineLog], rules: list[oracle.Rule]) -> int:
    """How much was compared; histories without results would prove nothing."""
    return sum(len(oracle.compute(log, rules).energy) for log in logs.values())
