"""What a demo plant is asked for, and what was made of it. Without numpy, which each command would have to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from spindle.errors import SettingsError


@dataclass(frozen=True)
class PlantPlan:
    """How much to make: `days` full days before the local day of `until`, and that day up to `until`.

    `rows_per_day` is reached on average over all days, Sundays included, so from a week on.
    """

    days: int = 35
    rows_per_day: int = 100_000
    seed: int = 1
    until: datetime | None = None

    def check(self) -> None:
        if not 1 <= self.days <= 10_000:
            raise SettingsError(f"--days {self.days} is no length of a history", "from 1 to 10000")
        if self.rows_per_day < 1000:
            raise SettingsError(f"--rows-per-day {self.rows_per_day} is too few", "at least 1000")
        if self.seed < 0:
            raise SettingsError(f"--seed {self.seed} is negative", "0 or more")
        if self.until is not None and self.until.tzinfo is None:
            raise SettingsError(f"--until {self.until} has no offset", "write it as 2022-02-23T18:00:00+00:00")


@dataclass(frozen=True)
class PlantReport:
    """Rows added for each machine, and the bounds of all rows there are now."""

    rows: Mapping[str, int]
    seconds: float
    first_row: datetime | None
    last_row: datetime | None
