"""Many clients at once: every answer is the expected one, whatever the cache is doing."""

from __future__ import annotations

import asyncio
import os
import threading

import psycopg
import pytest

from tests.conftest import THOROUGH, Spindle
from tests.load import crowd
from tests.test_downtime import WITHOUT_DAYS

pytestmark = pytest.mark.alone

CONNECTIONS = 256
# A minute by hand: SPINDLE_CROWD_SECONDS=60
CROWD_SECONDS = int(os.environ.get("SPINDLE_CROWD_SECONDS", "10"))
PATHS = [
    *WITHOUT_DAYS,
    "/api/v1/temperatures?order=machine,sensor_name,dt",
    "/api/v1/machine_util?order=machine,dt",
    "/api/v1/machine_timeline?order=machine,started_at&limit=50",
    "/api/v1/machine_program?order=machine,dt,program&limit=100",
    "/api/v1/energy_consumption?day=eq.2026-03-30&order=machine,hour_ts",
    "/api/v1/alerts_detail?day=eq.2026-03-30&order=id",
    "/api/v1/alerts_daily_count?order=machine,day,alert_type",
]


@pytest.mark.parametrize("seconds", [CROWD_SECONDS if THOROUGH else 3])
def test_a_crowd_gets_what_it_asks_for(expendable: Spindle, seconds: int) -> None:
    """Every second the cache is emptied, in effect, by a new generation."""
    expected = {path: expendable.get(path).body for path in PATHS}
    ended = threading.Event()

    def renew() -> None:
        with psycopg.connect(expendable.info["results"], autocommit=True) as admin:
            while not ended.wait(1):
                admin.execute("select gateway.begin_change(), gateway.end_change()")

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        seen = asyncio.run(crowd(expendable.port, expected, CONNECTIONS, seconds))
    finally:
        ended.set()
        renewing.join()
    right = seen.pop("right")
    print(f"\n{CONNECTIONS} connections, {seconds} s: {right:,} right answers, {right / seconds:,.0f} a second")
    assert not seen
    assert right > CONNECTIONS
