"""The doctor's look at what a machine logs: first and last rows, sizes, variables, and the time to read it all.

Every statement goes along the key; the figures of whole tables are the planner's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from spindle.doctor.findings import Findings
from spindle.doctor.machine import LOGS, MachineReport, Table, Wanted
from spindle.doctor.names import Signal, near_names
from spindle.doctor.reader import Reader
from spindle.errors import RefreshFailed

FUTURE = timedelta(minutes=1)
# A log begins with the machine; rows before this are a clock that was not set.
EARLIEST = datetime(2000, 1, 1, tzinfo=timezone.utc)
SAMPLE_SECONDS = 1.5
# The role whose rows do not cross the link one by one.
SUMMED_THERE = "temperature"
SAMPLE_ROWS = (2_000, 64_000)

# Planner's figures, of partitions too; nothing is counted.
SIZES = """
select
    sum(case when reltuples > 0 or pg_relation_size(part.oid) = 0 then greatest(reltuples, 0) end)::bigint as rows,
    sum(pg_total_relation_size(part.oid))::bigint as bytes,
    bool_and(reltuples > 0 or pg_relation_size(part.oid) = 0) as counted
from (select %(oid)s::oid as oid union select relid from pg_partition_tree(%(oid)s::oid)) as parts
inner join pg_class as part on part.oid = parts.oid
where part.relkind in ('r', 'm')
"""

SHARES = """
select share.id_var, share.frequency
from pg_stats
cross join lateral unnest(most_common_vals::text::int[], most_common_freqs) as share (id_var, frequency)
where schemaname = 'public' and tablename = %s and attname = 'id_var'
"""

# The first and last row of each id_var, by steps along the key.
BOUNDS = """
with recursive logged as (
    (select id_var, date from public.{log} order by id_var, date limit 1)
    union all
    select further.id_var, further.date
    from logged
    cross join lateral (
        select id_var, date from public.{log} as log where log.id_var > logged.id_var order by id_var, date limit 1
    ) as further
)
select logged.id_var, logged.date, newest.date
from logged
cross join lateral (
    select date from public.{log} as log where log.id_var = logged.id_var order by log.id_var desc, date desc limit 1
) as newest
"""


@dataclass
class LogExamination:
    """Its methods are the steps, in this order. `bounds` are the oldest and newest ms of each id_var in each log."""

    wanted: Wanted
    report: MachineReport
    reader: Reader
    tables: dict[str, Table]
    bounds: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)
    dictionary: list[tuple[int, str, str]] = field(default_factory=list)

    @property
    def findings(self) -> Findings:
        return self.report.findings

    def _usable(self, name: str) -> bool:
        table = self.tables.get(name)
        return table is not None and table.readable and table.sound

    def look_at_bounds(self) -> None:
        for log in LOGS:
            if self._usable(log) and self.tables[log].keyed:
                rows = self.reader.rows(BOUNDS.replace("{log}", log))
                self.bounds[log] = {id_var: (oldest, newest) for id_var, oldest, newest in rows}
        if len(self.bounds) < len(LOGS):
            return
        times = [bound for logged in self.bounds.values() for bound in logged.values()]
        if not times:
            self.findings.warn("nothing is logged", "is it the right database?")
            return
        self.report.oldest = oldest = _moment(min(oldest for oldest, _ in times))
        self.report.newest = newest = _moment(max(newest for _, newest in times))
        now = datetime.now(timezone.utc) + timedelta(seconds=self.report.clock_seconds or 0)
        if newest > now + FUTURE:
            self.findings.warn(
                f"the newest log row, {newest:%Y-%m-%d %H:%M:%S} UTC, is in the future",
                "the logger's clock is wrong, or its times are not UTC; a state that goes on is computed up to there",
            )
        elif (now - newest).total_seconds() / 3600 > self.wanted.stale_after_hours:
            self.findings.warn(
                f"the newest log row is of {newest:%Y-%m-%d %H:%M:%S} UTC",
                "is the machine off, or its logger? STALE_AFTER_HOURS sets from when on a refresh says so",
            )
        if oldest < EARLIEST and self.wanted.first_day is None:
            self.findings.warn(
                f"the oldest log row is of {oldest:%Y-%m-%d}",
                "a clock that was not set? first_day in seeds/machine_config.csv leaves such rows out",
            )

    def look_at_sizes(self) -> None:
        total_rows, total_bytes, uncounted = 0, 0, []
        for log in LOGS:
            table = self.tables.get(log)
            if table is None or table.oid is None or table.kind in ("v", "f"):
                return
            rows, size, counted = self.reader.row(SIZES, {"oid": table.oid})
            total_rows, total_bytes = total_rows + (rows or 0), total_bytes + (size or 0)
            if not counted:
                uncounted.append(log)
        self.report.bytes = total_bytes
        if not uncounted:
            self.report.rows = total_rows
        else:
            self.findings.note(
                f"the server has no statistics of {', '.join(uncounted)}: rows and time of a backfill are unknown",
                f"the administrator: `analyze {', '.join(uncounted)}`; autovacuum does it otherwise",
            )

    def look_at_variables(self) -> None:
        if not self._usable("variable"):
            return
        self.dictionary = self.reader.rows(
            "select id, name, coalesce(datatype, '') from public.variable where name is not null"
        )
        ids: dict[str, list[int]] = {}
        for id_var, name, _ in self.dictionary:
            ids.setdefault(name, []).append(id_var)
        own = self.wanted.own_signals
        absent = [signal for signal in own if signal.variable not in ids]
        if not own:
            self.findings.warn("seeds/signal_config.csv has no row of this machine", "add its variables there")
        elif len(absent) == len(own):
            self.findings.error(
                RefreshFailed(
                    "its dictionary has none of its variables of seeds/signal_config.csv",
                    f"is {self.wanted.source.dbname} the right database? Else see the names below",
                )
            )
        for signal in absent:
            self.findings.warn(f"there is no variable {signal.variable}", self._near(signal))
        for signal in own:
            if len(found := ids.get(signal.variable, [])) > 1:
                numbers = ", ".join(map(str, found))
                twice = f"{signal.variable} stands {len(found)} times in the table variable: {numbers}"
                if signal.role == "temperature":
                    self.findings.warn(twice, "readings of all of them count; the others should be renamed")
                else:
                    self.findings.error(RefreshFailed(twice, "only one can be meant, so a refresh refuses the machine"))
            for id_var in found:
                self._logged(signal, id_var)

    def _near(self, signal: Signal) -> str:
        datatypes = {name: datatype for _, name, datatype in self.dictionary}
        named = []
        for name in near_names(signal, datatypes, self.wanted.signals):
            logs = [log for id_var, other, _ in self.dictionary if other == name for log in self._logs_of(id_var)]
            named.append(f"{name} ({', '.join([datatypes[name] or 'no datatype', *(logs or ['no rows'])])})")
        if named:
            return f"in seeds/signal_config.csv, is it {' or '.join(named)}?"
        return "no name is near; correct or remove its row in seeds/signal_config.csv"

    def _logs_of(self, id_var: int) -> list[str]:
        return [log for log, logged in self.bounds.items() if id_var in logged]

    def _logged(self, signal: Signal, id_var: int) -> None:
        if signal.log not in self.bounds or id_var in self.bounds[signal.log]:
            return
        if other := self._logs_of(id_var):
            self.findings.warn(
                f"{signal.variable} is logged in {other[0]}; the role {signal.role} is read from {signal.log}",
                "is it the right variable, or the right role, in seeds/signal_config.csv?",
            )
        else:
            self.findings.warn(
                f"{signal.variable} has no row in {signal.log}", "its results stay empty until it is logged"
            )

    def read_a_sample(self) -> None:
        """Read along the key for a moment: how fast the server reads rows, and how fast they come here."""
        crossing = {signal.variable: signal.log for signal in self.wanted.own_signals if signal.role != SUMMED_THERE}
        named = [(id_var, crossing[name]) for id_var, name, _ in self.dictionary if name in crossing]
        logged = [(id_var, log) for id_var, log in named if id_var in self.bounds.get(log, {})]
        if not logged:
            return
        round_trip = (self.report.round_trip_ms or 0) / 1000
        scanned, sent = _Rate(round_trip), _Rate(round_trip)
        began, limit = time.monotonic(), SAMPLE_ROWS[0]
        unread = {(id_var, log): self.bounds[log][id_var][1] for id_var, log in logged}
        while unread:
            for (id_var, log), newest in list(unread.items()):
                if time.monotonic() - began > SAMPLE_SECONDS:
                    unread.clear()
                    break
                chunk = (
                    f"select date, value from public.{log} where id_var = %(id)s and date <= %(newest)s"
                    " order by id_var desc, date desc limit %(limit)s"
                )
                values = {"id": id_var, "newest": newest, "limit": limit}
                with scanned:
                    rows, oldest = self.reader.row(f"select count(*), min(date) from ({chunk}) as chunk", values)
                    scanned.rows += rows
                with sent:
                    sent.rows += len(self.reader.rows(chunk, values))
                if rows < limit:
                    del unread[id_var, log]
                else:
                    unread[id_var, log] = oldest - 1
            limit = min(limit * 2, SAMPLE_ROWS[1])
        self.report.rows_scanned_per_second = scanned.per_second
        self.report.rows_sent_per_second = sent.per_second
        self._estimate({id_var for id_var, _ in logged})

    def _estimate(self, crossing: set[int]) -> None:
        """Every row is read on the server, for the gaps between them and for sums; these ids' rows cross the link."""
        scanned, sent, rows = self.report.rows_scanned_per_second, self.report.rows_sent_per_second, self.report.rows
        if rows is None or not scanned or not sent:
            return
        crossing_rows = 0.0
        for log in LOGS:
            (of_log, _, _) = self.reader.row(SIZES, {"oid": self.tables[log].oid})
            shares = dict(self.reader.rows(SHARES, (log,)))
            crossing_rows += (of_log or 0) * sum(share for id_var, share in shares.items() if id_var in crossing)
        self.report.crossing_rows = round(crossing_rows)
        part = self._part_of_history()
        self.report.backfill_seconds = round(part * (rows / scanned + crossing_rows / sent), 1)

    def _part_of_history(self) -> float:
        """How much of the log a backfill reads: from first_day on."""
        oldest, newest, first_day = self.report.oldest, self.report.newest, self.wanted.first_day
        if not (oldest and newest and first_day) or newest <= oldest:
            return 1.0
        first = datetime(first_day.year, first_day.month, first_day.day, tzinfo=timezone.utc)
        return min(1.0, max(0.0, (newest - first) / (newest - oldest)))


class _Rate:
    """Rows over the seconds that they took, without the way there and back, which a long statement has once only; use
    it with `with`."""

    def __init__(self, round_trip: float) -> None:
        self.round_trip, self.rows, self.seconds = round_trip, 0, 0.0

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        taken = time.monotonic() - self.began
        self.seconds += max(taken - self.round_trip, taken / 10)  # a quick answer may have been quicker than most

    @property
    def per_second(self) -> int | None:
        return round(self.rows / self.seconds) if self.rows and self.seconds > 0 else None


def _moment(milliseconds: int) -> datetime:
    """A bigint holds times that no calendar has: those are the last or first of the calendar."""
    try:
        return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return (datetime.max if milliseconds > 0 else datetime.min).replace(tzinfo=timezone.utc)
