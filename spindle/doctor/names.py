"""The variables that seeds/signal_config.csv names, and names near to one that a machine does not have."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spindle.errors import SettingsError

COLUMNS = {"machine", "role", "variable", "label"}
NEAR_ENOUGH = 0.6
HOW_MANY = 3


@dataclass(frozen=True)
class Signal:
    """A row of the seed, as far as it says where a machine's log has it."""

    machine: str
    role: str
    variable: str
    label: str

    @property
    def log(self) -> str:
        """The log that must have its rows."""
        return "variable_log_string" if self.role == "alarms" else "variable_log_float"


def read_signals(root: Path) -> list[Signal]:
    """All rows of the seed, in its order. Raises SettingsError."""
    path = root / "seeds" / "signal_config.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error}", "restore it from version control") from error
    if rows and not rows[0].keys() >= COLUMNS:
        raise SettingsError(f"{path} lacks a column", f"it needs at least {', '.join(sorted(COLUMNS))}")
    return [Signal(row["machine"], row["role"], row["variable"], row["label"]) for row in rows]


def near_names(signal: Signal, names: Iterable[str], signals: Sequence[Signal]) -> list[str]:
    """Of a machine's names, those that may be the signal's: the best first, at most three.

    First what other machines call the signal of the same role and label, then what is spelt alike, word by word in any
    order: names differ by language between machines.
    """
    taken = {other.variable for other in signals if other.machine == signal.machine}
    free = [name for name in dict.fromkeys(names) if name not in taken]
    same = {other.variable for other in signals if (other.role, other.label) == (signal.role, signal.label)}
    scored = [(name in same, _likeness(signal.variable, name), name) for name in free]
    near = [each for each in scored if each[0] or each[1] >= NEAR_ENOUGH]
    return [name for _, _, name in sorted(near, reverse=True)[:HOW_MANY]]


def _likeness(one: str, other: str) -> float:
    """From 0 to 1. Each word is compared with the nearest of the other name, long words count more."""
    if one.strip().casefold() == other.strip().casefold():
        return 1.0
    return min(_found_in(_words(one), _words(other)), _found_in(_words(other), _words(one)))


def _words(name: str) -> list[str]:
    return [word for word in name.strip().casefold().replace(" ", "_").split("_") if word]


def _found_in(words: Collection[str], others: Collection[str]) -> float:
    if not words or not others:
        return 0.0
    best = [max(difflib.SequenceMatcher(None, word, other).ratio() for other in others) for word in words]
    lengths = [len(word) for word in words]
    return sum(score * length for score, length in zip(best, lengths, strict=True)) / sum(lengths)
