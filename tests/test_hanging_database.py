"""A database that takes connections and answers nothing: the gateway's last good answers, after its timeouts."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psycopg

from tests.conftest import Spindle, thorough
from tests.services import eventually, frozen
from tests.test_cache import DAYS, LOOK_SECONDS, UTIL, assert_stale, cached, fresh_path, new_generation

# What it waits for: the generation 2 s; PostgREST 25 s, or 10 s when none of its connections is free.
SLOWEST_SECONDS = 25


@thorough
def test_the_last_good_answer_is_served(expendable: Spindle) -> None:
    newer = fresh_path()
    older = [f"{UTIL}?target_date={DAYS[0]}", *(fresh_path() for _ in range(12))]
    expected = [expendable.get(path).body for path in older]
    with psycopg.connect(expendable.info["results"], autocommit=True) as admin:
        new_generation(expendable, admin)
    body = expendable.get(newer).body
    with frozen(expendable, "postgres"), ThreadPoolExecutor(len(older)) as pool:
        began = time.monotonic()
        eventually(lambda: cached(expendable.get(newer)) == "STALE", LOOK_SECONDS + 5)
        assert_stale(expendable.get(newer), body)
        assert time.monotonic() - began < SLOWEST_SECONDS / 2, "of the present generation, soon"
        first = pool.submit(expendable.get, older[0])
        time.sleep(3)
        others = [pool.submit(expendable.get, path) for path in older[1:]]
        never_asked = expendable.get(fresh_path())
        assert (never_asked.status, never_asked.json["code"]) == (503, "GW503")
        for waiting, known in zip([first, *others], expected, strict=True):
            assert_stale(waiting.result(), known)
        assert SLOWEST_SECONDS < time.monotonic() - began < 2 * SLOWEST_SECONDS
