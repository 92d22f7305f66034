"""`make bench`: speeds of this machine, as ratios within one run, so that they mean the same on another machine."""

from __future__ import annotations

import http.client
import json
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import psycopg

from tests import bench_fleet
from tests.conftest import Spindle
from tests.load import ask, per_second

DAYS = 14


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="spindle-bench-") as folder:
        spindle = Spindle(Path(folder) / "state")
        try:
            bench(spindle)
        finally:
            spindle.run("stop", exit_code=None)
    bench_fleet.main()


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

    full = seconds(lambda: spindle.run("dbt", "run", "--full-refresh", "--select", "extract staging agg"))
    with psycopg.connect(spindle.info["results"], autocommit=True) as admin:
        admin.execute("comment on schema staging is null")
    deploying = seconds(lambda: spindle.run("refresh", "--json"))
    daily = seconds(lambda: spindle.run("refresh", "--json"))
    print(f"  all {DAYS} days again                     {full:>10.1f} s   {rows / full:,.0f} rows/s")
    print(f"  refresh (last 3 days, check included) {daily:>10.1f} s   full / refresh = {full / daily:.1f}")

    print(f"  the same, and deploy all again        {deploying:>10.1f} s   / refresh = {deploying / daily:.1f}")

    bench_gateway(spindle)
    print(json.dumps({"rows": rows, "demo_s": demo, "copy_s": copy, "full_s": full, "refresh_s": daily}))


def bench_gateway(spindle: Spindle) -> None:
    """Each path as nginx has it in its cache, and as PostgREST computes it; a file of nginx's is the measure."""
    day = spindle.get("/api/v1/data_status").json["last_date"]
    unused = count(10_000)
    print("                                              median      p99   / file   requests/s   / file")
    floor = figures(spindle, "file", lambda: "/index.html", None)
    for path in (
        f"/api/v1/temperatures?machine=eq.branosera&day=eq.{day}&sensor_name=eq.TEMPERATURA_BASE",
        f"/api/v1/energy_consumption?machine=eq.branosera&day=eq.{day}",
        f"/api/v1/machine_timeline?machine=eq.branosera&started_at=lt.{day}T12:00:00Z&ended_at=gt.{day}T08:00:00Z",
        f"/api/v1/alerts_detail?machine=eq.branosera&day=eq.{day}",
        "/api/v1/data_status?machine=eq.branosera",
    ):
        name = path.split("?")[0].removeprefix("/api/v1/")
        figures(spindle, f"{name}, cached", lambda path=path: path, floor)  # type: ignore[misc]
        figures(spindle, f"{name}, computed", lambda path=path: f"{path}&limit={next(unused)}", floor)  # type: ignore[misc]


def figures(
    spindle: Spindle, name: str, path: Callable[[], str], floor: tuple[float, float] | None
) -> tuple[float, float]:
    """Print the times of single requests on one connection, and how many a second there are at full speed."""
    connection = http.client.HTTPConnection("127.0.0.1", spindle.port, timeout=30)
    taken = sorted(seconds(lambda: ask(connection, path())) for _ in range(300))
    connection.close()
    median, p99 = taken[150] * 1000, taken[297] * 1000
    requests = 16_000 if floor is None or "cached" in name else 2_000
    rate = max(per_second(spindle.port, [path() for _ in range(requests)]) for _ in range(2))
    over = (median / floor[0], rate / floor[1]) if floor else (1, 1)
    print(f"  {name:<40}{median:>8.2f} ms{p99:>6.1f} ms{over[0]:>8.1f}{rate:>12,.0f}{over[1]:>10.2f}")
    return median, rate


if __name__ == "__main__":
    main()
