"""Hostile requests by the thousand: no 5xx, nothing from beside the API, and no harm to the client beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.conftest import THOROUGH, Spindle, thorough
from tests.hostile import Hostile, Reply, expensive, faults, known_attacks, requests_over, send

ATTACKS = known_attacks()
MADE_UP = 600 if THOROUGH else 150
AT_ONCE = 6
GOOD = Hostile("/api/v1/machine_util?machine=eq.branosera&order=dt.desc&limit=7")


def reply_to(port: int, request: Hostile) -> Reply:
    """With all that is wrong with it; one that was too much at once is sent again."""
    while (reply := send(port, request)).status == 429:
        time.sleep(float(reply.headers["Retry-After"]))
    reply.faults = faults(request, reply)
    return reply


def test_known_attacks(spindle: Spindle, results: psycopg.Connection) -> None:
    attacks = ATTACKS if THOROUGH else ATTACKS[::4]
    before = results.execute("select count(*) from api.machines").fetchone()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        replies = list(pool.map(lambda attack: reply_to(spindle.port, attack), attacks))
    wrong = [f"{attack.method} {attack.target[:150]} {attack.headers}: {reply.faults}"
             for attack, reply in zip(attacks, replies, strict=True) if reply.faults]  # fmt: skip
    assert not wrong, "\n".join(wrong)
    assert results.execute("select count(*) from api.machines").fetchone() == before
    # a test of refusals would pass on a gateway that refuses everything
    assert sum(reply.status == 200 for reply in replies) > len(replies) / 10


def test_made_up_attacks(spindle: Spindle) -> None:
    description = spindle.get("/api/v1/").json
    answered: list[int] = []

    @seed(20260331)
    @settings(max_examples=MADE_UP, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(requests_over(description))
    def attack(request: Hostile) -> None:
        reply = reply_to(spindle.port, request)
        answered.append(reply.status)
        assert not reply.faults

    attack()
    assert {200, 400, 404, 405} <= set(answered)


@seed(20260331)
@settings(max_examples=MADE_UP, deadline=None, database=None)
@given(st.lists(st.one_of(st.binary(min_size=1, max_size=3), st.text(max_size=2).map(str.encode)), max_size=6))
def test_only_utf8_passes(spindle: Spindle, parts: list[bytes]) -> None:
    """What is let through is what Python calls UTF-8, no more and no less."""
    value = b"".join(parts)
    escaped = "".join(f"%{byte:02X}" for byte in value)
    status = send(spindle.port, Hostile(f"/api/v1/machines?machine=eq.a{escaped}")).status
    try:
        value.decode()
    except UnicodeDecodeError:
        assert status == 400
    else:
        assert status == 200


@contextmanager
def good_client(port: int) -> Iterator[list[float]]:
    """A client beside: seconds of each of its requests, a second apart from nothing."""
    seconds: list[float] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            began = time.monotonic()
            reply = send(port, GOOD)
            seconds.append(time.monotonic() - began if reply.status == 200 else float("inf"))
            stop.wait(0.02)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield seconds
    finally:
        stop.set()
        asking.join()


@thorough
@pytest.mark.alone
def test_a_client_beside_is_served(expendable: Spindle) -> None:
    """Six attackers of one address with the most expensive requests there are."""
    attacks = expensive()
    with good_client(expendable.port) as alone:
        time.sleep(4)
    ends = time.monotonic() + 10
    refused: list[int] = []

    def attack(number: int) -> None:
        while time.monotonic() < ends:
            number += 1
            refused.append(send(expendable.port, attacks[number % len(attacks)]).status)

    with good_client(expendable.port) as beside, ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(attack, range(0, AT_ONCE * 20, 20)))
    p99_alone, p99_beside = (sorted(seconds)[int(len(seconds) * 0.99)] for seconds in (alone, beside))
    assert p99_beside < max(40 * p99_alone, 1.0), f"{p99_alone:.3f} s alone, {p99_beside:.3f} s beside the attack"
    assert set(refused) <= {200, 400, 404, 413, 414, 422, 429, 431, 504}
