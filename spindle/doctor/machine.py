"""One machine as the doctor sees it: what is wanted of its database, and what was found there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from spindle.doctor.findings import Findings
from spindle.doctor.names import Signal
from spindle.settings import Connection

LOGS = ("variable_log_float", "variable_log_string")


@dataclass
class MachineReport:
    """What is known of one machine's database; None where it could not be found out.

    Rows are the planner's estimate: all of both logs, and those that cross the link in a backfill. `backfill_seconds`
    is the time to read them, by a short measured sample; computing comes on top.
    `clock_seconds` is its clock minus this computer's.
    """

    machine: str
    address: str
    findings: Findings
    version: str | None = None
    tls: bool | None = None
    standby: bool | None = None
    round_trip_ms: float | None = None
    clock_seconds: float | None = None
    rows: int | None = None
    bytes: int | None = None
    oldest: datetime | None = None
    newest: datetime | None = None
    crossing_rows: int | None = None
    rows_sent_per_second: int | None = None
    rows_scanned_per_second: int | None = None
    backfill_seconds: float | None = None


@dataclass
class Wanted:
    """What the seeds and settings say of the machine.

    `signals` are all machines'. `local`: its tables are in the results database. `sharing` is how many machines are
    read from its server by the same login.
    """

    machine: str
    source: Connection
    signals: Sequence[Signal]
    local: bool = False
    sharing: int = 1
    first_day: date | None = None
    stale_after_hours: float = 72.0

    @property
    def own_signals(self) -> list[Signal]:
        return [signal for signal in self.signals if signal.machine == self.machine]

    @property
    def prefix(self) -> str:
        return f"DB_{self.machine.upper()}_"


@dataclass
class Table:
    """A table as it is on the server. `oid` None: it is not there; `sound`: its columns are the expected ones."""

    name: str
    oid: int | None
    kind: str
    readable: bool
    owned: bool
    writes: list[str]
    columns: dict[str, str]
    sound: bool = True
    keyed: bool = False
