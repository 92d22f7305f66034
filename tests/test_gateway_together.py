"""Where the gateway's parts meet: cache, old dialect, metrics and refresh with a login; CORS on kept answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import psycopg
import pytest

from tests.conftest import Answer, Spindle
from tests.services import eventually, stopped
from tests.test_cache import DAYS, UTIL, cached, fresh_path, heat, settings_of
from tests.test_metrics import scrape
from tests.test_safety import FRONTEND, SECRET, ask, send, token, vary

OLD = f"{UTIL}?target_date={DAYS[1]}"


@pytest.fixture(scope="module")
def guarded(expendable: Spindle) -> Iterator[Spindle]:
    """With a login."""
    with settings_of(expendable, API_JWT_SECRET=SECRET):
        yield expendable


def token_for(seconds: float) -> str:
    return token(exp=datetime.now(timezone.utc) + timedelta(seconds=seconds))


def assert_refused(answer: Answer, status: int = 401) -> None:
    assert (answer.status, answer.json["code"]) == (status, f"GW{status}")
    assert answer.headers["ETag"] is None
    assert answer.headers["X-Cache"] is None


@pytest.mark.parametrize("path", [fresh_path(), f"{OLD}&machine=tamesa", "/api/v1/data_status"])
def test_a_kept_answer_is_for_those_with_a_token(guarded: Spindle, path: str) -> None:
    first, again = ask(guarded, path, token()), ask(guarded, path, token_for(900))
    assert (first.status, cached(first)) == (200, "MISS")
    assert (again.status, cached(again), again.body) == (200, "HIT", first.body), "of another token"
    assert vary(again) == {"accept", "prefer", "range", "range-unit", "authorization", "origin", "accept-encoding"}
    for refused in (
        ask(guarded, path),
        ask(guarded, path, If_None_Match=first.headers["ETag"]),
        ask(guarded, path, token("another-secret-that-is-long-enough-too")),
        ask(guarded, path, token_for(-60)),
        ask(guarded, path, token(role=None)),
    ):
        assert_refused(refused)
    assert_refused(ask(guarded, path, token(role="web_anon")), 403)
    assert send(guarded, path, {}, "HEAD").status == 401


@pytest.mark.parametrize(("bearer", "status"), [("", 401), (token(role="web_anon"), 403)], ids=["none", "web_anon"])
def test_a_burst_without_the_right_token_is_refused_together(guarded: Spindle, bearer: str, status: int) -> None:
    """Nobody waits half a second for the one before him."""
    began = time.monotonic()
    for _ in range(3):
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: ask(guarded, fresh_path(), bearer), range(20)))
        for answer in answers:
            assert_refused(answer, status)
            assert answer.headers["WWW-Authenticate"] == ("Bearer" if status == 401 else None)
    assert time.monotonic() - began < 3


def test_a_token_that_ends_is_refused_though_the_answer_is_kept(guarded: Spindle) -> None:
    path, ends = fresh_path(), time.time() + 4
    ending = token(exp=int(ends))
    assert ask(guarded, path, ending).status == 200
    while (answer := ask(guarded, path, ending)).status == 200:
        assert cached(answer) == "HIT"
        assert time.time() < int(ends) + 1
        time.sleep(0.05)
    assert time.time() > int(ends)
    assert_refused(answer)
    assert "expired" in answer.json["message"]
    assert cached(ask(guarded, path, token())) == "HIT"


def test_stale_answers_are_for_those_whose_token_lasts(guarded: Spindle) -> None:
    path, never_seen = fresh_path(), token_for(901)
    lasting, ending = token_for(900), token_for(7)
    expected = ask(guarded, path, lasting).body
    assert ask(guarded, path, ending).body == expected
    with stopped(guarded, "postgrest"):
        eventually(lambda: cached(ask(guarded, path, lasting)) == "STALE", 5)
        assert ask(guarded, path, lasting).body == expected
        for bearer in ("", never_seen, "x.y.z"):
            assert ask(guarded, path, bearer).status == 503
        eventually(lambda: ask(guarded, path, ending).status == 503, 10)
        assert ask(guarded, path, lasting, Origin=FRONTEND).status == 200
    assert_refused(ask(guarded, path, ending))


def test_a_refresh_is_seen_at_once_by_every_token(guarded: Spindle) -> None:
    path = "/api/v1/temperatures?sensor_name=eq.TEMPERATURA_BASE&machine=eq.branosera&order=dt.desc&limit=1"
    bearers = [token_for(900 + number) for number in range(3)]
    before = {ask(guarded, path, bearer).json[0]["max_value"] for bearer in bearers}
    assert len(before) == 1
    heat(guarded, 3)
    # it checks what is served with a token of its own
    assert guarded.refresh().unchecked == ""
    now = [ask(guarded, path, bearer).json[0]["max_value"] for bearer in bearers]
    assert now == pytest.approx([before.pop() + 3] * 3, abs=0.011)


def test_metrics_and_health_need_no_token(guarded: Spindle) -> None:
    assert scrape(guarded)[("spindle_database_up",)] == 1
    assert guarded.get("/health/ready").status == 200
    assert guarded.get("/api/v1/rpc/run_metrics").status == 404


def test_the_old_dialect_with_a_login(guarded: Spindle) -> None:
    headers = {"Origin": FRONTEND}
    assert list(ask(guarded, OLD, token(), **headers).json[0]) == [
        "dt",
        "state_running",
        "state_planned_down",
        "running_percentage",
        "down_percentage",
    ]
    for query, status in (("target_date=2019-01-01", 404), ("target_date=x", 422), ("target_date=2026-03-30&x=1", 400)):
        answer = ask(guarded, f"{UTIL}?{query}", token(), **headers)
        assert (answer.status, answer.json["code"]) == (status, f"OD{status}")
        assert answer.headers.get_all("Access-Control-Allow-Origin") == [FRONTEND]
        refused = ask(guarded, f"{UTIL}?{query}", **headers)
        assert_refused(refused)
        assert refused.headers.get_all("Access-Control-Allow-Origin") == [FRONTEND]


def test_without_a_token_the_database_says_no_more_than_the_gateway(guarded: Spindle) -> None:
    with psycopg.connect(guarded.info["results"], autocommit=True) as admin:
        may = "select has_function_privilege(%s, %s, 'execute')"
        for role, function, allowed in (
            ("authenticator", "gateway.generation()", False),
            ("authenticator", "gateway.run_metrics()", True),
            ("api_reader", "gateway.generation()", True),
            ("api_reader", "legacy.machine_util()", True),
        ):
            assert admin.execute(may, (role, function)).fetchone() == (allowed,), (role, function)


def test_kept_and_stale_answers_have_the_headers_of_their_own_request(guarded: Spindle) -> None:
    """An answer is kept without what belongs to the one who asked first."""
    bearer = token()
    for path in (fresh_path(), f"{OLD}&machine=branosera"):
        first = ask(guarded, path, bearer, X_Request_Id="first-one")
        kept = ask(guarded, path, bearer, Origin=FRONTEND)
        with stopped(guarded, "postgrest"):
            eventually(lambda path=path: cached(ask(guarded, path, bearer)) == "STALE", 5)  # type: ignore[misc]
            stale = ask(guarded, path, bearer, Origin=FRONTEND)
            failed = ask(guarded, fresh_path(), bearer, Origin=FRONTEND)
        assert (cached(kept), cached(stale), failed.status) == ("HIT", "STALE", 503)
        assert first.headers["Access-Control-Allow-Origin"] is None
        for answer in (kept, stale, failed):
            assert answer.headers.get_all("Access-Control-Allow-Origin") == [FRONTEND]
            assert len(answer.headers.get_all("Vary", [])) == 1
            assert len(answer.headers.get_all("X-Request-Id", [])) == 1
            assert answer.headers["X-Request-Id"] != "first-one"
        assert kept.body == stale.body == first.body
