"""`make bench`: speeds of this machine, as ratios within one run, so that they mean the same on another machine."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from tests.conftest import Spindle

DAYS = 14


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def median_ms(work: Callable[[], object], times: int = 200) -> float:
    return statistics.median(seconds(work) for _ in range(times)) * 1000


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="spindle-bench-") as folder:
        spindle = Spindle(Path(folder) / "state")
        try:
            bench(spindle)
        finally:
            spindle.run("stop", exit_code=None)


def bench(spindle: Spindle) -> None:
    print(f"demo plant: two machines, {DAYS} days, 100 000 rows a machine and day")
    demo = seconds(lambda: spindle.run("demo", "--days", str(DAYS)))
    machines = spindle.info["machines"]
    rows, copy = 0, 0.0
    for address in machines.values():
        with psycopg.connect(address) as log:
            rows += log.execute("select count(*) from variable_log_float").fetchone()[0]  # type: ignore[index]
            copy += seconds(lambda log=log: log.execute("create table copied as table variable_log_float"))  # type: ignore[misc]
            copy += seconds(lambda log=log: log.execute("alter table copied add primary key (id_var, date)"))  # type: ignore[misc]
    print(f"  rows                                  {rows:>10,}")
    print(f"  demo, from nothing to a served API    {demo:>10.1f} s")
    print(f"  copying the same log inside PostgreSQL{copy:>10.1f} s   demo / copy = {demo / copy:.1f}")

    full = seconds(lambda: spindle.run("dbt", "run", "--full-refresh", "--select", "staging agg"))
    daily = seconds(lambda: spindle.run("refresh", "--json"))
    print(f"  all {DAYS} days again                     {full:>10.1f} s   {rows / full:,.0f} rows/s")
    print(f"  refresh (last 3 days, check included) {daily:>10.1f} s   full / refresh = {full / daily:.1f}")

    floor = median_ms(lambda: spindle.get("/health/live"))
    print(f"  GET /health/live, median              {floor:>10.2f} ms  (nginx alone)")
    day = spindle.get("/api/v1/data_status").json["last_date"]
    for path in (
        f"/api/v1/temperatures?machine=eq.branosera&day=eq.{day}&sensor_name=eq.TEMPERATURA_BASE",
        f"/api/v1/energy_consumption?machine=eq.branosera&day=eq.{day}",
        f"/api/v1/machine_timeline?machine=eq.branosera&started_at=lt.{day}T12:00:00Z&ended_at=gt.{day}T08:00:00Z",
        f"/api/v1/alerts_detail?machine=eq.branosera&day=eq.{day}",
        "/api/v1/data_status",
    ):
        taken = median_ms(lambda path=path: spindle.get(path))  # type: ignore[misc]
        name = path.split("?")[0].removeprefix("/api/v1")
        print(f"  GET {name:<34}{taken:>10.2f} ms  / nginx alone = {taken / floor:.1f}")
    print(json.dumps({"rows": rows, "demo_s": demo, "copy_s": copy, "full_s": full, "refresh_s": daily}))


if __name__ == "__main__":
    main()
