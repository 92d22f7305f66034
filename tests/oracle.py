"""A second reading of the contract (DESIGN.md, sections 1 to 3) in plain Python: slow, obvious, exact.

It knows nothing of the SQL: the numbers of the models are compared with the numbers of `compute`. Times are whole
milliseconds since 1970, values are fractions, and rounding (half away from zero, as PostgreSQL's numeric does)
happens once, at the very end. `random_log` makes small dirty histories to compare the two on.

Time zones: an offset may be any number of minutes (Kolkata), but a change of it must be of whole hours.
"""

from __future__ import annotations

import json
import math
import random
import re
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
SECOND = 1000
HOUR = 3600 * SECOND
OFF = "off"
INT_MIN, INT_MAX = -(2**31), 2**31 - 1

FloatRow = tuple[int, int, "float | None"]
StringRow = tuple[int, int, "str | None"]
Rule = tuple[int, str, str]
Entry = tuple[str, str]


# What goes in ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Signal:
    """A row of the signal seed. `role` is operation, program, alarms, temperature or load."""

    role: str
    variable: str
    divisor: Decimal
    nominal_kw: Decimal | None


@dataclass
class MachineLog:
    """One machine: its dictionary (id to name) and its two logs, rows of (id_var, date in ms, value) in any order."""

    machine: str
    time_zone: str
    signals: list[Signal]
    variables: dict[int, str]
    floats: list[FloatRow]
    strings: list[StringRow]


# What comes out -------------------------------------------------------------------------------------------------------
# Aware times are UTC, naive ones (`dt`, `hour_ts`, `cleared_at`) the machine's local wall clock.


@dataclass(frozen=True)
class SensorStat:
    """machine x sensor x hour; `min_value` and `max_value` are not rounded, the others to 2 decimals."""

    sensor_name: str
    hour_start: datetime
    dt: datetime
    day: date
    min_value: Decimal
    avg_value: Decimal
    max_value: Decimal
    std_dev: Decimal | None
    readings_count: int


@dataclass(frozen=True)
class Activity:
    """machine x day; hours and percentages, 2 decimals."""

    day: date
    state_running: Decimal
    state_planned_down: Decimal
    running_percentage: Decimal
    down_percentage: Decimal


@dataclass(frozen=True)
class StateChange:
    ts: datetime
    day: date
    value: int
    state: str


@dataclass(frozen=True)
class StateInterval:
    """`day` is the one it started on; `duration_seconds` is exact, to the millisecond."""

    started_at: datetime
    ended_at: datetime
    state: str
    duration_seconds: Decimal
    day: date


@dataclass(frozen=True)
class ProgramTime:
    """machine x day x program; whole seconds."""

    day: date
    program: int
    duration_seconds: int


@dataclass(frozen=True)
class Energy:
    """machine x hour; kWh, 3 decimals."""

    hour_start: datetime
    hour_ts: datetime
    day: date
    energy_kwh: Decimal


@dataclass(frozen=True)
class Alert:
    """`ended_at`, `cleared_at`, `duration_seconds` (exact, to the ms) are None while it is active at the cut."""

    started_at: datetime
    ended_at: datetime | None
    dt: datetime
    cleared_at: datetime | None
    day: date
    alert_type: str
    alarm_code: str
    alarm_description: str
    duration_seconds: Decimal | None


@dataclass(frozen=True)
class AlertsPerDay:
    """machine x day x type, for each type of which an entry was logged on the day."""

    day: date
    alert_type: str
    amount: int
    entries_logged: int


@dataclass(frozen=True)
class SkippedList:
    """A malformed alarm list; the number of these is `skipped_lists` of the data status."""

    ts: datetime
    day: date
    value: str


@dataclass
class Results:
    machine: str
    cut: datetime | None
    sensor_stats: list[SensorStat] = field(default_factory=list)
    activity: list[Activity] = field(default_factory=list)
    state_changes: list[StateChange] = field(default_factory=list)
    state_intervals: list[StateInterval] = field(default_factory=list)
    program_time: list[ProgramTime] = field(default_factory=list)
    energy: list[Energy] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    alerts_per_day: list[AlertsPerDay] = field(default_factory=list)
    skipped_lists: list[SkippedList] = field(default_factory=list)


def compute(log: MachineLog, rules: list[Rule], downtime_gap_seconds: int = 600) -> Results:
    """Every result of one machine, each sorted by its key."""
    dates = [moment for _, moment, _ in log.floats] + [moment for _, moment, _ in log.strings]
    if not dates:
        return Results(log.machine, None)
    clock = Clock(log.time_zone)
    cut = max(dates)  # the newest log time, over all rows of both logs
    changes = state_changes(log, clock)
    lists, skipped = alarm_lists(log, clock)
    alerts = alerts_of(lists, rules, clock)
    return Results(
        machine=log.machine,
        cut=utc(cut),
        sensor_stats=sensor_stats(log, clock),
        activity=activity(dates, downtime_gap_seconds, clock),
        state_changes=changes,
        state_intervals=state_intervals(changes, utc(cut)),
        program_time=program_time(log, cut, clock),
        energy=energy(log, cut, clock),
        alerts=alerts,
        alerts_per_day=alerts_per_day(lists, alerts, rules, clock),
        skipped_lists=skipped,
    )


# Numbers --------------------------------------------------------------------------------------------------------------


def as_real(value: float) -> float:
    """The 4-byte real nearest to the value, as a column of type real would hold it."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def shortest(value: float) -> Decimal:
    """The finite real as PostgreSQL prints it: the fewest digits that lie nearer to it than to any other real."""
    real = as_real(value)
    if real == 0:
        return Decimal(0)
    if real < 0:
        return -shortest(-real)
    bits = struct.unpack("<I", struct.pack("<f", real))[0]
    exact = Fraction(real)
    below = Fraction(struct.unpack("<f", struct.pack("<I", bits - 1))[0])
    above = struct.unpack("<f", struct.pack("<I", bits + 1))[0]
    low = (below + exact) / 2
    high = (exact + Fraction(above)) / 2 if math.isfinite(above) else 2 * exact - low
    for digits in range(1, 10):
        exponent = Decimal(real).adjusted() - digits + 1
        step = Fraction(10) ** exponent
        near = [count for count in (exact // step, exact // step + 1) if low < count * step < high]
        if near:
            count = min(near, key=lambda n: (abs(n * step - exact), n % 2))
            return Decimal(count).scaleb(exponent)
    raise AssertionError(f"{real!r} has no decimal of nine digits")


def number(value: float) -> Fraction:
    return Fraction(shortest(value))


def decimal(value: Fraction) -> Decimal:
    """Not rounded: exact where the fraction ends, else to 60 digits."""
    with localcontext() as context:
        context.prec = 60
        return Decimal(value.numerator) / Decimal(value.denominator)


def rounded(value: Fraction | Decimal, places: int) -> Decimal:
    """Half away from zero."""
    with localcontext() as context:
        context.prec = 80
        return (decimal(value) if isinstance(value, Fraction) else value).quantize(
            Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP
        )


def square_root(value: Fraction) -> Decimal:
    with localcontext() as context:
        context.prec = 60
        return (Decimal(value.numerator) / Decimal(value.denominator)).sqrt()


def is_whole(value: float) -> bool:
    return math.isfinite(value) and value == math.floor(value)


# Time -----------------------------------------------------------------------------------------------------------------


def utc(moment: int) -> datetime:
    return EPOCH + timedelta(milliseconds=moment)


def milliseconds(when: datetime) -> int:
    return (when - EPOCH) // timedelta(milliseconds=1)


def seconds(span: int) -> Decimal:
    return Decimal(span) / SECOND


class Clock:
    """The machine's local time: which day and which hour a moment belongs to, and where the next one begins."""

    def __init__(self, time_zone: str) -> None:
        self.zone = ZoneInfo(time_zone)

    def local(self, moment: int) -> datetime:
        """The wall clock, naive."""
        return utc(moment).astimezone(self.zone).replace(tzinfo=None, fold=0)

    def day(self, moment: int) -> date:
        return self.local(moment).date()

    def day_start(self, day: date) -> int:
        """The first moment of the day (of a midnight that is skipped or repeated: the moment of the first change)."""
        return milliseconds(datetime(day.year, day.month, day.day, tzinfo=self.zone).astimezone(timezone.utc))

    def day_hours(self, day: date) -> Fraction:
        return Fraction(self.day_start(day + timedelta(days=1)) - self.day_start(day), HOUR)

    def hour_start(self, moment: int) -> int:
        wall = self.local(moment)
        into = timedelta(minutes=wall.minute, seconds=wall.second, microseconds=wall.microsecond)
        return moment - into // timedelta(milliseconds=1)

    def split_by_hour(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The span as pairs of hour start and milliseconds in that hour."""
        while start < end:
            hour = self.hour_start(start)
            until = min(end, hour + HOUR)
            yield hour, until - start
            start = until

    def split_by_day(self, start: int, end: int) -> Iterator[tuple[date, int]]:
        """The span as pairs of local day and milliseconds on that day."""
        while start < end:
            day = self.day(start)
            until = min(end, self.day_start(day + timedelta(days=1)))
            yield day, until - start
            start = until


# The logs -------------------------------------------------------------------------------------------------------------


def variables_of(log: MachineLog, role: str) -> list[Signal]:
    return [signal for signal in log.signals if signal.role == role]


def numeric_rows(log: MachineLog, signal: Signal) -> list[tuple[int, float]]:
    """The variable's rows of the float log in time order, NULL left out."""
    ids = {id_var for id_var, name in log.variables.items() if name == signal.variable}
    rows = [(moment, as_real(value)) for id_var, moment, value in log.floats if id_var in ids and value is not None]
    return sorted(rows, key=lambda row: row[0])


def text_rows(log: MachineLog, signal: Signal) -> list[tuple[int, str]]:
    """The variable's rows of the string log in time order, NULL left out."""
    ids = {id_var for id_var, name in log.variables.items() if name == signal.variable}
    rows = [(moment, value) for id_var, moment, value in log.strings if id_var in ids and value is not None]
    return sorted(rows, key=lambda row: row[0])


# Sensor statistics ----------------------------------------------------------------------------------------------------


def sensor_stats(log: MachineLog, clock: Clock) -> list[SensorStat]:
    """Of the readings logged in that hour that are not NULL, not NaN or infinite and not 0."""
    stats = []
    for signal in variables_of(log, "temperature"):
        hours: dict[int, list[Fraction]] = defaultdict(list)
        for moment, value in numeric_rows(log, signal):
            if math.isfinite(value) and value != 0:
                hours[clock.hour_start(moment)].append(number(value) / Fraction(signal.divisor))
        for hour, readings in hours.items():
            average = sum(readings, Fraction(0)) / len(readings)
            std_dev = None
            if len(readings) > 1:
                variance = sum(((r - average) ** 2 for r in readings), Fraction(0)) / (len(readings) - 1)
                std_dev = rounded(square_root(variance), 2)
            stats.append(
                SensorStat(
                    sensor_name=signal.variable,
                    hour_start=utc(hour),
                    dt=clock.local(hour),
                    day=clock.day(hour),
                    min_value=decimal(min(readings)),
                    avg_value=rounded(average, 2),
                    max_value=decimal(max(readings)),
                    std_dev=std_dev,
                    readings_count=len(readings),
                )
            )
    return sorted(stats, key=lambda s: (s.sensor_name, s.hour_start))


# Activity -------------------------------------------------------------------------------------------------------------


def activity(dates: list[int], downtime_gap_seconds: int, clock: Clock) -> list[Activity]:
    """All log rows, both tables, any variable, time cut to whole seconds; sessions within the day."""
    days: dict[date, list[int]] = defaultdict(list)
    for moment in dates:
        days[clock.day(moment)].append(moment // SECOND)
    result = []
    for day, times in sorted(days.items()):
        running = 0
        times.sort()
        first = last = times[0]
        for time in times[1:]:
            if time - last > downtime_gap_seconds:
                running += last - first
                first = time
            last = time
        running += last - first
        hours = clock.day_hours(day)
        state_running = rounded(Fraction(running, 3600), 2)
        state_planned_down = rounded(hours - Fraction(running, 3600), 2)
        result.append(
            Activity(
                day=day,
                state_running=state_running,
                state_planned_down=state_planned_down,
                running_percentage=rounded(Fraction(state_running) / hours * 100, 2),
                down_percentage=rounded(Fraction(state_planned_down) / hours * 100, 2),
            )
        )
    return result


# States ---------------------------------------------------------------------------------------------------------------


def state_changes(log: MachineLog, clock: Clock) -> list[StateChange]:
    """Every logged row of the operation variable."""
    changes = []
    for signal in variables_of(log, "operation"):
        for moment, value in numeric_rows(log, signal):
            if math.isnan(value):
                shown, state = 0, OFF
            elif value == 0:
                shown, state = 0, "idle"
            else:
                shown = int(value) if is_whole(value) and INT_MIN <= value <= INT_MAX else 255
                state = "running"
            changes.append(StateChange(utc(moment), clock.day(moment), shown, state))
    return sorted(changes, key=lambda c: c.ts)


def state_intervals(changes: list[StateChange], cut: datetime) -> list[StateInterval]:
    """The same as spans, merged where neighbours are equal: to the next different state, or the cut."""
    starts: list[StateChange] = []
    for change in changes:
        if not starts or starts[-1].state != change.state:
            starts.append(change)
    ends = [change.ts for change in starts[1:]] + [cut]
    return [
        StateInterval(
            started_at=start.ts,
            ended_at=end,
            state=start.state,
            duration_seconds=seconds((end - start.ts) // timedelta(milliseconds=1)),
            day=start.day,
        )
        for start, end in zip(starts, ends, strict=False)
    ]


# Program time ---------------------------------------------------------------------------------------------------------


def program_time(log: MachineLog, cut: int, clock: Clock) -> list[ProgramTime]:
    """Whole values 0 to 999 are programs, other values are ignored, NaN ends the program."""
    spans: list[tuple[int, int, int]] = []  # program, start, end
    for signal in variables_of(log, "program"):
        program, since = None, 0
        for moment, value in numeric_rows(log, signal):
            is_program = is_whole(value) and 0 <= value <= 999
            if not is_program and not math.isnan(value):
                continue
            if program is not None:
                spans.append((program, since, moment))
            program, since = (int(value) if is_program else None), moment
        if program is not None:
            spans.append((program, since, cut))
    totals: dict[tuple[date, int], int] = defaultdict(int)
    for program, start, end in spans:
        for day, span in clock.split_by_day(start, end):
            totals[day, program] += span
    return [
        ProgramTime(day, program, int(rounded(Fraction(span, SECOND), 0)))
        for (day, program), span in sorted(totals.items())
    ]


# Energy ---------------------------------------------------------------------------------------------------------------


def energy(log: MachineLog, cut: int, clock: Clock) -> list[Energy]:
    """load% / 100 x nominal kW x time. A motor is on from any value that is not NaN to the next NaN, also at 0 kW."""
    kwh: dict[int, Fraction] = defaultdict(Fraction)
    for signal in variables_of(log, "load"):
        if signal.nominal_kw is None:
            raise ValueError(f"motor {signal.variable} has no nominal_kw")
        rows = numeric_rows(log, signal)
        ends = [moment for moment, _ in rows[1:]] + [cut]
        for (start, value), end in zip(rows, ends, strict=False):
            if math.isnan(value):
                continue
            load = number(value) / Fraction(signal.divisor) if math.isfinite(value) and value > 0 else Fraction(0)
            kilowatts = load / 100 * Fraction(signal.nominal_kw)
            for hour, span in clock.split_by_hour(start, end):
                kwh[hour] += kilowatts * Fraction(span, HOUR)
    return [
        Energy(utc(hour), clock.local(hour), clock.day(hour), rounded(amount, 3))
        for hour, amount in sorted(kwh.items())
    ]


# Alerts ---------------------------------------------------------------------------------------------------------------


def alarm_lists(log: MachineLog, clock: Clock) -> tuple[list[tuple[int, list[Entry] | None]], list[SkippedList]]:
    """The lists in time order (None: power-off), and the malformed ones apart."""
    lists: list[tuple[int, list[Entry] | None]] = []
    skipped = []
    for signal in variables_of(log, "alarms"):
        for moment, value in text_rows(log, signal):
            if value == "NaN":
                lists.append((moment, None))
                continue
            entries = parse_list(value)
            if entries is None:
                skipped.append(SkippedList(utc(moment), clock.day(moment), value))
            else:
                lists.append((moment, entries))
    return sorted(lists, key=lambda row: row[0]), sorted(skipped, key=lambda row: row.ts)


def parse_list(value: str) -> list[Entry] | None:
    """The entries (code, text) of a list, each as often as it is there; None if the list is malformed."""
    try:
        parsed = json.loads(
            value, parse_constant=_refuse, parse_int=str_number, parse_float=str_number, object_pairs_hook=tuple
        )
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, list) or not _can_be_stored(parsed):
        return None
    entries = []
    for element in parsed:
        if not isinstance(element, list) or len(element) < 2:
            return None
        code, text = element[:2]
        if not isinstance(code, str) or not isinstance(text, str):
            return None
        entries.append((code, text))
    return entries


def str_number(digits: str) -> tuple[str]:
    """A number of the list, of any length: only that it is one matters."""
    return (digits,)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _can_be_stored(value: Any) -> bool:
    """Whether each text in it can be a PostgreSQL text: no NUL and no lone surrogate."""
    if isinstance(value, str):
        return not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, (list, tuple)):
        return all(_can_be_stored(part) for part in value)
    return True


def alert_type(text: str, rules: list[Rule]) -> str:
    """The first rule whose word the text has at the start of a word, in any case; else other."""
    for _, name, word_start in sorted(rules, key=lambda rule: rule[0]):
        if re.search(r"(?<!\w)" + re.escape(word_start), text, re.IGNORECASE):
            return name
    return "other"


def alerts_of(lists: list[tuple[int, list[Entry] | None]], rules: list[Rule], clock: Clock) -> list[Alert]:
    """An entry that was not in the list before it, until the first list without it, or power-off."""
    spans: list[tuple[Entry, int, int | None]] = []
    active: dict[Entry, int] = {}
    for moment, entries in lists:
        now = set(entries or [])
        for entry in [entry for entry in active if entry not in now]:
            spans.append((entry, active.pop(entry), moment))
        for entry in now:
            active.setdefault(entry, moment)
    spans += [(entry, start, None) for entry, start in active.items()]
    alerts = [
        Alert(
            started_at=utc(start),
            ended_at=None if end is None else utc(end),
            dt=clock.local(start),
            cleared_at=None if end is None else clock.local(end),
            day=clock.day(start),
            alert_type=alert_type(text, rules),
            alarm_code=code,
            alarm_description=text,
            duration_seconds=None if end is None else seconds(end - start),
        )
        for (code, text), start, end in spans
    ]
    return sorted(alerts, key=lambda a: (a.started_at, a.alarm_code, a.alarm_description))


def alerts_per_day(
    lists: list[tuple[int, list[Entry] | None]], alerts: list[Alert], rules: list[Rule], clock: Clock
) -> list[AlertsPerDay]:
    """How many began, and how many list entries were logged (an entry twice in one list counts twice)."""
    amount: dict[tuple[date, str], int] = defaultdict(int)
    logged: dict[tuple[date, str], int] = defaultdict(int)
    for alert in alerts:
        amount[alert.day, alert.alert_type] += 1
    for moment, entries in lists:
        for _, text in entries or []:
            logged[clock.day(moment), alert_type(text, rules)] += 1
    return [AlertsPerDay(day, kind, amount[day, kind], count) for (day, kind), count in sorted(logged.items())]


# A dirty random history -----------------------------------------------------------------------------------------------

UNRELATED = "X_POSITION"
UNKNOWN_ID = 9999
ALARMS: list[Entry] = [
    ("PLC00583", "NIVEL BAJO EN DEPOSITO TALADRINA"),
    ("PLC00010", "Puerta  abierta!"),
    ("PLC00010", "Puerta  abierta! (2)"),  # the same code with other text
    ("PLC00011", "Puerta  abierta!"),  # another code with the same text
    ("PLC00587", "CERRAR CARENADO CE"),
    ("PLC00001", "PARADA DE EMERGENCIA"),
    ("PLC00002", "Emergency stop: drive error"),  # two rules match: the first wins
    ("PLC00003", "ERROR EN EJE X"),
    ("PLC00004", "Fallo de comunicación"),
    ("PLC00005", "¡Atención! Aviso de mantenimiento"),
    ("PLC00006", "Preaviso: sin efecto"),  # no rule at the start of a word
    ("PLC00007", "PRÉALARMA DE NIVEL"),  # É is a letter: no start of a word
    ("PLC00008", 'Valor "T==116" \\ (warn)'),
    ("PLC00009", "drive_fault"),  # _ is part of a word
    ("270-0021", "Valor 'T==116 AND RSV IS NULL' aparece varias veces"),
    ("PLC00012", "\N{WARNING SIGN}default"),
    ("PLC00013", "x/fault 😀"),
    ("", ""),
]
MALFORMED = [
    "",
    " ",
    "[",
    "nonsense",
    "null",
    "{}",
    "17",
    '"text"',
    "NaN ",
    "nan",
    "[NaN]",
    "[[]]",
    "[null]",
    '["PLC00001","PARADA DE EMERGENCIA"]',
    '[["PLC00001"]]',
    '[["PLC00001",5,3,2,1]]',
    '[[5,"PARADA DE EMERGENCIA",3,2,1]]',
    '[["PLC00001",null,3,2,1]]',
    '[{"0":"PLC00001","1":"PARADA DE EMERGENCIA"}]',
    '[["PLC00003","ERROR EN EJE X",3,2,1],["PLC00010"]]',  # one element is bad: the whole list is
    '[["PLC00003","ERROR EN EJE X",3,2,1],]',
    '[["PLC00003","ERROR EN EJE X",3,2,1]',
    "[['PLC00003','ERROR EN EJE X',3,2,1]]",
    '[["PLC00003","ERROR\tEN EJE X",3,2,1]]',
    '[["PLC00003","ERROR \\u0000",3,2,1]]',
    '[["PLC00003","ERROR \\ud800",3,2,1]]',
    '[["PLC00003","ERROR \\ude00\\ud83d",3,2,1]]',
    '[["PLC00003","ERROR",3,2,"\\u0000"]]',
]
ODD_LISTS = [
    "[]",
    " [ ] ",
    '[["PLC00003","ERROR EN EJE X"]]',
    ' [ [ "PLC00003" , "ERROR EN EJE X", {"a": [null, true]}, 2.5e3 ] ]\n',
    '[["PLC00013","x\\/fault \\ud83d\\ude00",3,2,1]]',
]


def _value(rng: random.Random, role: str) -> float | None:
    """A value of a numeric variable: mostly sound, sometimes dirty."""
    if rng.random() < 0.25:
        return rng.choice([None, math.nan, math.inf, -math.inf, 0.0, -0.0])
    if role == "operation":
        return as_real(rng.choice([255, 0, 255, 0, 255, 0, 1, 0.5, -1]))
    if role == "program":
        return as_real(rng.choice([0, 1, 1, 2, 17, 999, 1000, -1, 12.5, 0.1, 999.5, 1e10]))
    if role == "load":
        return as_real(rng.choice([rng.randint(0, 120), round(rng.uniform(0, 120), 2), -rng.randint(1, 50), 100, 33.3]))
    return as_real(rng.choice([rng.randint(1500, 1540), round(rng.uniform(15, 25), 1), 21.75, 0.1, -3.5, 2817.7847]))


def _alarm_list(rng: random.Random, active: list[Entry]) -> str | None:
    """A value of the alarm variable; changes `active`, the entries of the list, unless it is dirty."""
    chance = rng.random()
    if chance < 0.05:
        return None
    if chance < 0.2:
        return rng.choice(MALFORMED)
    if chance < 0.25:
        return rng.choice(ODD_LISTS)
    if chance < 0.4:
        active.clear()
    elif chance < 0.85:  # else the same list once more
        for entry in rng.sample(ALARMS, rng.randint(1, 3)):
            if entry in active:
                active.remove(entry)
            else:
                active.append(entry)
    shown = list(active)
    rng.shuffle(shown)
    if shown and rng.random() < 0.2:
        shown.append(rng.choice(shown))
    # The numbers behind code and text are no part of the alert: an alarm may come back with others.
    listed = [[code, text, rng.randint(1, 3), 3, rng.randint(1, 10**9)] for code, text in shown]
    return json.dumps(listed, ensure_ascii=rng.random() < 0.5, separators=rng.choice([(",", ":"), (", ", ": ")]))


class _Writer:
    """The two logs while they are made: one row a key, the first stays; none at or after `before`."""

    def __init__(self, rng: random.Random, signals: list[Signal], ids: dict[str, int], before: int) -> None:
        self.rng, self.signals, self.ids, self.before = rng, signals, ids, before
        self.floats: dict[tuple[int, int], float | None] = {}
        self.strings: dict[tuple[int, int], str | None] = {}
        self.active: list[Entry] = []

    def number(self, id_var: int, moment: int, value: float | None) -> None:
        if moment < self.before:
            self.floats.setdefault((id_var, moment), value)

    def text(self, id_var: int, moment: int, value: str | None) -> None:
        if moment < self.before:
            self.strings.setdefault((id_var, moment), value)

    def any_row(self, moment: int) -> None:
        """A row of any signal, or one that only counts as activity."""
        chance = self.rng.random()
        signal = self.rng.choice(self.signals)
        id_var = self.ids[signal.variable]
        if chance < 0.06:
            self.number(
                self.rng.choice([UNKNOWN_ID, self.ids[UNRELATED]]), moment, self.rng.choice([5.0, None, math.nan])
            )
        elif chance < 0.09:
            self.text(UNKNOWN_ID, moment, self.rng.choice(["[]", "NaN", None]))
        elif chance < 0.15:  # a row of the wrong type
            if signal.role == "alarms":
                self.number(id_var, moment, self.rng.choice([5.0, None, math.nan]))
            else:
                self.text(id_var, moment, self.rng.choice(["255", "NaN", "1", None, "[]"]))
        elif signal.role == "alarms" or chance < 0.35:
            self.alarms(moment)
        else:
            self.number(id_var, moment, _value(self.rng, signal.role))

    def alarms(self, moment: int) -> None:
        for signal in self.signals:
            if signal.role == "alarms":
                self.text(self.ids[signal.variable], moment, _alarm_list(self.rng, self.active))

    def power_cycle(self, moment: int) -> None:
        """NaN in both logs; at power-on each signal again: its value of before, or a new one. Or no power-on yet."""
        back = moment + self.rng.choice([1, 45 * SECOND, 600 * SECOND, 601 * SECOND, HOUR, 7 * HOUR])
        power_on = self.rng.random() < 0.8
        for signal in self.signals:
            id_var, late = self.ids[signal.variable], self.rng.choice([0, 0, 1, SECOND])
            if signal.role == "alarms":
                self.text(id_var, moment + late, "NaN")
                if power_on and self.rng.random() < 0.5:  # just what was active before
                    self.text(id_var, back + late, json.dumps([[*entry, 3, 2, 1] for entry in self.active]))
                elif power_on:
                    self.text(id_var, back + late, _alarm_list(self.rng, self.active))
                continue
            known = [(at, value) for (key, at), value in self.floats.items() if key == id_var and at < moment]
            self.number(id_var, moment + late, math.nan)
            if power_on:
                again = max(known, key=lambda row: row[0])[1] if known else 0.0
                fresh = _value(self.rng, signal.role)
                self.number(id_var, back + late, again if self.rng.random() < 0.5 else fresh)


def random_log(
    rng: random.Random, machine: str, time_zone: str, signals: list[Signal], start_day: date, days: int
) -> MachineLog:
    """A small dirty history of the days from `start_day` on, the same for the same state of `rng`.

    Tens to a few hundred rows (some 15 an active day, besides power cycles), both logs in random order, no key twice.
    Start it a day before a change of the clock to have one: the moment itself is among the likely ones.
    """
    clock = Clock(time_zone)
    end_day = start_day + timedelta(days=days)
    start, end = clock.day_start(start_day), clock.day_start(end_day)
    names = [UNRELATED, *(signal.variable for signal in signals)]
    ids = dict(zip(names, rng.sample(range(1, 1000), len(names)), strict=True))
    writer = _Writer(rng, signals, ids, end)

    quiet = {start_day + timedelta(days=n) for n in range(days) if rng.random() < 0.15}
    if days >= 5 and rng.random() < 0.6:  # many days without a row, values going on through them
        first = rng.randrange(days - 3)
        quiet |= {start_day + timedelta(days=n) for n in range(first, first + rng.randint(3, max(3, days - 2)))}
    borders = [clock.hour_start(moment) for moment in range(start, end, HOUR)]
    shifts = [b for b in borders if clock.local(b) - clock.local(b - 1) != timedelta(milliseconds=1)]

    for day in (start_day + timedelta(days=n) for n in range(days)):
        if day in quiet:
            continue
        midnight, next_midnight = clock.day_start(day), clock.day_start(day + timedelta(days=1))
        sharp = [midnight, *(b for b in borders if midnight <= b < next_midnight)]
        sharp += 6 * [b for b in shifts if midnight <= b < next_midnight]
        for _ in range(rng.randint(4, 14)):
            chance = rng.random()
            if chance < 0.3:  # exactly at a border of an hour or of the day, or a millisecond beside it
                moment = rng.choice([midnight, rng.choice(sharp), rng.choice(sharp)]) + rng.choice([0, 0, -1, 1])
            elif chance < 0.5:  # whole seconds
                moment = rng.randrange(midnight, next_midnight) // SECOND * SECOND
            else:
                moment = rng.randrange(midnight, next_midnight)
            writer.any_row(max(moment, start))
        if rng.random() < 0.6:  # gaps of exactly 600 and 601 seconds, and of 600 after the cut to whole seconds
            moment = rng.randrange(midnight, next_midnight) // SECOND * SECOND
            for gap in rng.sample([0, 600_000, 601_000, 600_999, 599_001, 1], 4):
                moment += gap
                writer.any_row(moment)
        if rng.random() < 0.4:  # readings in a row, so that an hour has several
            moment = rng.choice([*sharp, rng.randrange(midnight, next_midnight)])
            for signal in signals:
                for step in range(rng.randint(1, 5) if signal.role == "temperature" else 0):
                    writer.number(ids[signal.variable], moment + step * SECOND, _value(rng, "temperature"))
        if rng.random() < 0.4:
            writer.power_cycle(rng.choice([rng.choice(sharp), rng.randrange(midnight, next_midnight)]))
    if not writer.floats and not writer.strings:
        writer.any_row(start)
    floats: list[FloatRow] = [(id_var, moment, value) for (id_var, moment), value in writer.floats.items()]
    strings: list[StringRow] = [(id_var, moment, value) for (id_var, moment), value in writer.strings.items()]
    rng.shuffle(floats)
    rng.shuffle(strings)
    variables = {id_var: name for name, id_var in ids.items()}
    return MachineLog(machine, time_zone, list(signals), variables, floats, strings)
