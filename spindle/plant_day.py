"""One day of one demo machine: a pure function of seed, machine and day.

A day is the work that *begins* on it: a night shift belongs whole to the day it began on and ends before the next
day's first shift. So days follow each other in time and need nothing of their neighbours. How a day is made:

1. `plan_shifts` draws the blocks of work, between them breaks and power-offs.
2. `Shift` lays the blocks end to end: a *work time* in ms without breaks, on which everything moves.
3. Each signal's motion (`MOTIONS`) gives moments and values; unchanged values are dropped, since logs are change-based.
4. `log_signal` adds what the power switch logs, and `soil` the dirt that real logs have.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from spindle.plant_signals import ALARMS, LATE_VARIABLE, Signal, alarm_list

Array = NDArray[Any]
Series = tuple[Array, Array]  # moments in work time, values

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
# Blocks of work in minutes of the local day; 22:10 to 27:30 is the night shift.
DAY_BLOCKS = ((365, 570), (590, 810), (850, 1065), (1085, 1305))
NIGHT_BLOCK = (1330, 1650)
MONDAY, TUESDAY, WEDNESDAY, THURSDAY, SATURDAY, SUNDAY = 0, 1, 2, 3, 5, 6
# A week has 65 to 80 hours of work: earning a day's rows in so many of them, all seven days have theirs on average.
HOURS_TO_EARN_A_DAY = 9.8
KEPT = 0.85  # of the moments drawn, so many bring a change
SETTLING = 5 * SECOND  # the power switch logs within it, and nothing else does
LATE_DAYS = 17
BURST = 20
NULL = np.float32(np.finfo(np.float32).min)  # stands for NULL in a float log until a row is packed


@dataclass(frozen=True)
class Block:
    """Work without a break, in ms UTC."""

    start: int
    end: int
    power_on: bool
    power_off: bool


@dataclass
class Log:
    """Rows of one of the two log tables, as chunks of equally long columns."""

    dtype: type
    chunks: list[tuple[Array, Array, Array]] = field(default_factory=list)

    def add(self, id_var: int, dates: Array, values: Array) -> None:
        self.chunks.append((np.full(len(dates), id_var), np.asarray(dates, np.int64), values.astype(self.dtype)))

    def between(self, after: int, until: int) -> tuple[Array, Array, Array]:
        """Ids, dates and values with after < date <= until, by time; the first row of a key stays."""
        if not self.chunks:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, self.dtype)
        ids, dates, values = (np.concatenate(column) for column in zip(*self.chunks, strict=True))
        key = dates * 2**11 + ids
        order = np.argsort(key, kind="stable")
        key, when = key[order], dates[order]
        order = order[np.r_[True, key[1:] != key[:-1]] & (when > after) & (when <= until)]
        return ids[order], dates[order], values[order]


class Shift:
    """A day's blocks laid end to end in work time, with what all signals share: when a program runs, and which."""

    def __init__(self, day: date, blocks: list[Block], rng: np.random.Generator) -> None:
        self.day, self.blocks, self.rng = day, blocks, rng
        self.starts = np.array([block.start + SETTLING for block in blocks], np.int64)
        lengths = np.array([block.end - SETTLING for block in blocks], np.int64) - self.starts
        self.origins = np.cumsum(lengths) - lengths
        self.length = int(lengths.sum())
        # Each block starts and ends idle, so an even number of switches in each.
        switches = []
        for origin, length in zip(self.origins, lengths, strict=True):
            waits = rng.exponential([100 * SECOND, 420 * SECOND], (length // (200 * SECOND), 2)) + 2 * SECOND
            ends = np.cumsum(waits).astype(np.int64)
            ends = ends[ends < length - 30 * SECOND]
            switches.append(origin + ends[: len(ends) // 2 * 2])
        self.switches = np.concatenate(switches)
        known = np.random.default_rng(blocks[0].start // (28 * 24 * HOUR)).integers(0, 1000, 25)  # a month's parts
        begins = self.switches[::2]
        begins = begins[rng.random(len(begins)) < 0.6]
        self.programs = begins, rng.choice(known, len(begins)).astype(np.float64)

    def wall(self, moments: Array) -> Array:
        """Work time to ms UTC."""
        moments = moments.astype(np.int64)
        block = np.searchsorted(self.origins, moments, "right") - 1
        return np.asarray(self.starts[block] + moments - self.origins[block])

    def running(self, moments: Array) -> Array:
        return np.asarray(np.searchsorted(self.switches, moments, "right") % 2 == 1)

    def moments(self, count: float) -> Array:
        """About `count` moments, spread evenly but not regularly, in order."""
        number = max(int(count), 2)
        return np.asarray((np.arange(number) + self.rng.random(number)) * (self.length / number))


def plan_shifts(rng: np.random.Generator, day: date, zone: ZoneInfo) -> list[Block]:
    """Six working days a week, two of them with a night shift; now and then a Wednesday is a holiday."""
    weekday = day.weekday()
    if weekday == SUNDAY or (weekday == WEDNESDAY and rng.random() < 0.15):
        return []
    plan = list(DAY_BLOCKS[:2] if weekday == SATURDAY else DAY_BLOCKS)
    if weekday in (TUESDAY, THURSDAY):
        plan.append(NIGHT_BLOCK)
    midnight = datetime.combine(day, time(), zone)
    bounds = [
        [int((midnight + timedelta(minutes=minute)).timestamp() * 1000) for minute in block] for block in plan
    ] + rng.integers([0, -8 * MINUTE], [8 * MINUTE, 0], (len(plan), 2))
    # Over lunch the power is often cut; in the evening it nearly always is.
    power_off = rng.random(len(plan)) < np.where(np.arange(len(plan)) % 2 == 1, 0.6, 0.1)
    power_off[-1] = rng.random() < 0.88
    power_on = [True, *power_off[:-1]]
    return [
        Block(int(start), int(end), bool(on), bool(off))
        for (start, end), on, off in zip(bounds, power_on, power_off, strict=True)
    ]


# --- How signals move: work-time moments and values, from the shift, the signal and about how many rows it may take ---


def _waver(shift: Shift, signal: Signal, rows: float) -> Series:
    moments = shift.moments(rows)
    return moments, np.round(signal.level + signal.spread * shift.rng.standard_normal(len(moments)))


def _temperature(shift: Shift, signal: Signal, rows: float) -> Series:
    """Warms up over some hours from what the season gives; the fast sensors flicker once a second, in bursts."""
    if signal.share < 1:
        moments = shift.moments(rows)
    else:
        seconds = np.arange(BURST) + shift.rng.uniform(-0.2, 0.2, (max(int(rows / BURST), 2), BURST))
        moments = np.sort((shift.moments(len(seconds))[:, None] + (1 + seconds) * SECOND).ravel())
        moments = moments[moments < shift.length]
    season = signal.level * (1 + 0.2 * np.sin(shift.day.toordinal() / 58))
    warmed = season * (1 + 0.3 * (1 - np.exp(-moments / (2 * HOUR))))
    return moments, np.round(warmed + signal.spread * shift.rng.standard_normal(len(moments)))


def _load(shift: Shift, signal: Signal, rows: float) -> Series:
    """Percent while a program runs, braking (negative) now and then; next to nothing as soon as it stops."""
    moments = np.sort(np.concatenate([shift.moments(rows), shift.switches[1::2]]))
    busy = np.clip(shift.rng.normal(signal.level, signal.spread, len(moments)), -6, 120)
    return moments, np.round(np.where(shift.running(moments), busy, shift.rng.integers(0, 2, len(moments))))


def _travel(shift: Shift, signal: Signal, rows: float) -> Series:
    """To and fro while a program runs."""
    moments = shift.moments(rows)
    moments = moments[shift.running(moments)]
    period = (20 + len(signal.name)) * SECOND
    path = np.sin(moments / period) + 0.01 * shift.rng.standard_normal(len(moments))
    return moments, signal.level + signal.spread * path


def _clock(shift: Shift, signal: Signal, rows: float) -> Series:
    moments = shift.moments(rows)
    return moments, shift.wall(moments) // SECOND


def _counter(shift: Shift, signal: Signal, rows: float) -> Series:
    moments = shift.moments(rows or 16)
    return moments, shift.day.toordinal() % 10_000 * 20.0 + np.arange(len(moments))


def _setting(shift: Shift, signal: Signal, rows: float) -> Series:
    moments = shift.moments(50)
    return moments, signal.level * (1 + shift.rng.integers(0, int(signal.spread), len(moments)))


def _flag(shift: Shift, signal: Signal, rows: float) -> Series:
    """On for a minute or so, some times a day."""
    comes = shift.moments(int(shift.rng.integers(2, 12)))
    goes = np.minimum(comes + shift.rng.exponential(MINUTE, len(comes)), shift.length - 1)
    moments = np.r_[0, np.sort(np.r_[comes, goes])]
    return moments, signal.level * (np.arange(len(moments)) % 2)


def _constant(shift: Shift, signal: Signal, rows: float) -> Series:
    return np.zeros(1), np.array([signal.level])


def _operation(shift: Shift, signal: Signal, rows: float) -> Series:
    moments = np.r_[0, shift.switches]
    return moments, 255.0 * (np.arange(len(moments)) % 2)


def _program(shift: Shift, signal: Signal, rows: float) -> Series:
    moments, programs = shift.programs
    strange = shift.rng.choice([-1, 1000, 12.5, 4711, 65535], len(programs))
    return moments, np.where(shift.rng.random(len(programs)) < 0.03, strange, programs)


def _program_name(shift: Shift, signal: Signal, rows: float) -> Series:
    moments, programs = shift.programs
    return moments, np.array([signal.pattern.format(int(number)) for number in programs], object)


def _tool_name(shift: Shift, signal: Signal, rows: float) -> Series:
    moments = shift.moments(30)
    sizes = shift.rng.choice([6, 8, 10, 12, 16, 20, 32, 50, 63, 80], len(moments))
    return moments, np.array([signal.pattern.format(size) for size in sizes], object)


def _alarms(shift: Shift, signal: Signal, rows: float) -> Series:
    """The list of active alarms whenever one comes or goes: most are short, some outlast the break or midnight."""
    rng = shift.rng
    comes = shift.moments(45)
    goes = comes + np.where(rng.random(45) < 0.1, rng.uniform(1 * HOUR, 3 * HOUR, 45), rng.exponential(90_000, 45))
    kinds = rng.integers(0, len(ALARMS), 45)
    if len(shift.blocks) > len(DAY_BLOCKS):  # one stays from before midnight until after it
        comes[-1], goes[-1] = shift.origins[-1] + 60 * MINUTE, shift.origins[-1] + 150 * MINUTE
    moments = np.unique(np.concatenate([[0.0], comes, goes[goes < shift.length]]).astype(np.int64))
    lists = [
        alarm_list(list(dict.fromkeys(kinds[(comes.astype(np.int64) <= moment) & (moment < goes.astype(np.int64))])))
        for moment in moments
    ]
    return moments, np.array(lists, object)


MOTIONS: Mapping[str, Callable[[Shift, Signal, float], Series]] = {
    "waver": _waver,
    "temperature": _temperature,
    "load": _load,
    "travel": _travel,
    "clock": _clock,
    "counter": _counter,
    "setting": _setting,
    "flag": _flag,
    "constant": _constant,
    "operation": _operation,
    "program": _program,
    "program_name": _program_name,
    "tool_name": _tool_name,
    "alarms": _alarms,
}


@dataclass(frozen=True)
class DemoMachine:
    """What the days of a machine are made of."""

    name: str
    zone: ZoneInfo
    signals: tuple[Signal, ...]
    ids: Mapping[str, int]
    seed: int
    rows_per_day: int
    first_day: date

    def shift(self, day: date) -> Shift | None:
        """The work that begins on the day, if any."""
        rng = np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), day.toordinal()])
        blocks = plan_shifts(rng, day, self.zone)
        return Shift(day, blocks, rng) if blocks else None

    def rows(self, shift: Shift) -> float:
        """About how many rows the busy signals log in the shift."""
        return self.rows_per_day * shift.length / (HOURS_TO_EARN_A_DAY * HOUR)

    def make_day(self, day: date) -> tuple[Log, Log]:
        """The rows of the day's work: the float log and the string log."""
        numbers, texts = Log(np.float32), Log(object)
        shift = self.shift(day)
        if shift is None:
            return numbers, texts
        rows_a_share = self.rows(shift) / KEPT / sum(signal.share for signal in self.signals)
        here = [s for s in self.signals if s.name != LATE_VARIABLE or day >= self.first_day + timedelta(days=LATE_DAYS)]
        quiet = [s for s in here if s.kind == "temperature" and s.share < 1][-1:] if day.weekday() == MONDAY else []
        for place, signal in enumerate(here):
            moments, values = MOTIONS[signal.kind](shift, signal, rows_a_share * signal.share)
            if signal in quiet:
                moments, values = self._leave_one_reading(shift, moments, values)
            log = texts if signal.is_text else numbers
            log_signal(log, self.ids[signal.name], place, shift, signal, moments, values)
        self._soil(shift, numbers, texts)
        return numbers, texts

    def _leave_one_reading(self, shift: Shift, moments: Array, values: Array) -> Series:
        """From 11 to 12, when nobody has a break, the sensor gives a single reading."""
        noon = int(datetime.combine(shift.day, time(12), self.zone).timestamp() * 1000)
        start = shift.origins[1] + noon - HOUR - shift.starts[1]
        away = (moments < start) | (moments >= start + HOUR)
        before = int(np.count_nonzero(moments < start))
        moments = np.insert(moments[away], before, start + shift.rng.uniform(0, HOUR))
        return moments, np.insert(values[away], before, values[before] + 1)

    def _soil(self, shift: Shift, numbers: Log, texts: Log) -> None:
        """The few rows a day or a week that no reader should trust."""
        rng = shift.rng

        def drop(log: Log, share_of_days: float, kinds: tuple[str, ...], value: object) -> None:
            if rng.random() < share_of_days:
                names = [s.name for s in self.signals if s.kind in kinds and s.name != LATE_VARIABLE]
                when = shift.wall(rng.uniform(0, shift.length, 1))
                log.add(self.ids[rng.choice(names)], when, np.array([value], log.dtype))

        for value in (NULL, np.nan, np.inf, -np.inf, 0.0):
            drop(numbers, 0.9, ("temperature", "load"), value)
        drop(numbers, 0.5, ("operation", "program"), NULL)
        drop(texts, 0.4, ("alarms", "program_name"), None)
        drop(texts, 0.4, ("alarms",), alarm_list([0, 7])[: rng.integers(0, 50)])
        # A variable's row in the log of the other type.
        drop(numbers, 0.4, ("alarms", "program_name"), 0.0)
        drop(texts, 0.4, ("temperature", "load"), "23.5")


def log_signal(log: Log, id_var: int, place: int, shift: Shift, signal: Signal, moments: Array, values: Array) -> None:
    """Rows where the value changes, NaN at power-off, and at power-on the held value again."""
    changed = np.r_[True, values[1:] != values[:-1]]
    moments, values = moments[changed], values[changed]
    lag = place * 13 % 900  # the machine logs its variables one after the other
    on = np.array([block.power_on for block in shift.blocks])
    held = values[np.maximum(np.searchsorted(moments, shift.origins[on], "right") - 1, 0)]
    started = np.array([block.start for block in shift.blocks], np.int64)[on] + lag
    if signal.kind == "temperature" and shift.rng.random() < 0.3:  # the sensor needs some seconds
        log.add(id_var, started, np.zeros(len(started)))
        started = started + 3 * SECOND
    log.add(id_var, started, held)
    stopped = np.array([block.end for block in shift.blocks if block.power_off], np.int64) + lag
    log.add(id_var, stopped, np.full(len(stopped), "NaN" if signal.is_text else np.nan, log.dtype))
    log.add(id_var, shift.wall(moments), values)
