"""The gateway's cache: one question to the database a generation, never an older answer, the last good one in need."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from uuid import uuid4

import psycopg
import pytest

from spindle import cache
from spindle.settings import load_settings
from tests.conftest import Answer, Spindle, thorough
from tests.services import Statements, eventually, stopped

pytestmark = pytest.mark.alone

UTIL = "/api/v1/machine_util"
# The gateway looks for a new generation when the second after its last look has passed.
LOOK_SECONDS = 2.5

unused = count(2000)
DAYS = ("2026-03-27", "2026-03-30")


def fresh_path(endpoint: str = "machine_util") -> str:
    """A path that nobody has asked for."""
    return f"/api/v1/{endpoint}?order=machine&limit={next(unused)}"


@pytest.fixture(scope="module")
def statements(expendable: Spindle) -> Statements:
    return Statements(expendable)


@pytest.fixture
def admin(expendable: Spindle) -> Iterator[psycopg.Connection]:
    with psycopg.connect(expendable.info["results"], autocommit=True) as connection:
        yield connection


def cached(answer: Answer) -> str:
    return str(answer.headers["X-Cache"])


def new_generation(spindle: Spindle, admin: psycopg.Connection) -> None:
    """As if dbt had run; waits until the gateway knows."""
    before = spindle.get(UTIL).headers["ETag"]
    admin.execute("select gateway.begin_change(), gateway.end_change()")
    eventually(lambda: spindle.get(UTIL).headers["ETag"] != before)


def heat(spindle: Spindle, degrees: int) -> None:
    """The log of the last day changes."""
    with psycopg.connect(spindle.info["machines"]["branosera"], autocommit=True) as log:
        log.execute(
            "update variable_log_float set value = value + %s where date > 1774900000000 and value > 0"
            " and id_var = (select id from variable where name = 'TEMPERATURA_BASE')",
            (degrees * 100,),
        )


def warmest(spindle: Spindle) -> float:
    rows = spindle.rows("temperatures", sensor_name="eq.TEMPERATURA_BASE", machine="eq.branosera", order="dt.desc")
    return float(rows[0]["max_value"])


def test_a_request_reaches_the_database_once(expendable: Spindle, statements: Statements) -> None:
    path = fresh_path()
    statements.read()
    first, second = expendable.get(path), expendable.get(path)
    assert (cached(first), cached(second)) == ("MISS", "HIT")
    assert first.body == second.body
    head = expendable.get(path, method="HEAD")
    assert (head.status, head.body, cached(head)) == (200, b"", "HIT")
    time.sleep(LOOK_SECONDS)
    assert cached(expendable.get(path)) == "HIT"
    assert statements.read() == ["machine_util"]


def test_a_head_before_a_get_takes_no_body_from_it(expendable: Spindle, statements: Statements) -> None:
    path = fresh_path()
    statements.read()
    assert expendable.get(path, method="HEAD").body == b""
    assert len(expendable.get(path).json) > 2
    assert statements.read() == ["machine_util"]


def test_a_burst_reaches_the_database_once(expendable: Spindle, statements: Statements) -> None:
    path = fresh_path("temperatures")
    statements.read()
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: expendable.get(path), range(50)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert statements.read() == ["temperatures"]


@pytest.mark.parametrize(("parameter", "status"), [("dt=eq.", 400), ("target_date=", 422)])
def test_a_burst_of_a_wrong_request_is_answered_together(expendable: Spindle, parameter: str, status: int) -> None:
    """An error is kept for a second, for those who wait for it, and no longer."""
    path = f"{UTIL}?{parameter}{uuid4().hex}"
    began = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: expendable.get(path), range(20)))
    assert time.monotonic() - began < 3
    assert {answer.status for answer in answers} == {status}
    assert [cached(answer) for answer in answers].count("MISS") == 1
    time.sleep(LOOK_SECONDS)
    assert cached(expendable.get(path)) == "EXPIRED"


def test_no_data_is_kept_too(expendable: Spindle, statements: Statements) -> None:
    path = f"{UTIL}?dt=eq.2019-01-01&limit={next(unused)}"
    statements.read()
    assert [expendable.get(path).json for _ in range(3)] == [[]] * 3
    assert statements.read() == ["machine_util"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "text/csv"},
        {"Accept": "application/vnd.pgrst.object+json"},
        {"Range": "0-1", "Range-Unit": "items"},
        {"Prefer": "count=exact"},
    ],
    ids=lambda headers: next(iter(headers)) + " " + next(iter(headers.values())),
)
def test_what_changes_an_answer_has_an_entry_of_its_own(expendable: Spindle, headers: dict[str, str]) -> None:
    path = fresh_path()
    plain = expendable.get(path)
    other = expendable.get(path, headers=headers)
    assert cached(other) == "MISS"
    assert (other.status, other.body, other.headers["Content-Range"]) != (
        plain.status,
        plain.body,
        plain.headers["Content-Range"],
    )
    assert other.headers["ETag"] != plain.headers["ETag"]
    assert other.headers.get_all("Vary") == ["Accept, Prefer, Range, Range-Unit, Origin, Accept-Encoding"]
    for again in (expendable.get(path, headers=headers), expendable.get(path, headers=headers)):
        assert (again.status, again.body) == (other.status, other.body)
    assert expendable.get(path).body == plain.body


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Generation": "mine"},
        {"Authorization": "Bearer mine"},
        {"Host": "evil.example"},
        {"Origin": "http://x.example"},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_other_headers_of_a_client_change_nothing(expendable: Spindle, headers: dict[str, str]) -> None:
    path = fresh_path()
    answer = expendable.get(path, headers=headers)
    again = expendable.get(path)
    assert (answer.status, cached(answer), cached(again)) == (200, "MISS", "HIT")
    assert answer.body == again.body
    assert answer.headers["ETag"] == again.headers["ETag"]
    assert "mine" not in answer.headers["ETag"]


@pytest.mark.parametrize(
    "path",
    [
        "/gateway/generation",
        "/gateway/renewed",
        "/api/v1/rpc/generation",
        "/api/v1/gateway/generation",
        "/api/v1/gateway/generation?x=1",
        "/api/v1/gateway/renewed",
        "/api/v1/g%61teway/renewed?x=1",
        "/api/v1//gateway%2fgeneration",
    ],
)
def test_the_gateways_own_questions_are_not_for_clients(expendable: Spindle, path: str) -> None:
    assert expendable.get(path).status == 404
    assert expendable.get(path, headers={"Accept-Profile": "gateway"}).status in (400, 404)


def test_conditional_requests(expendable: Spindle, admin: psycopg.Connection) -> None:
    new_generation(expendable, admin)
    path = fresh_path()
    answer = expendable.get(path)
    assert answer.headers["Cache-Control"] == "no-cache"
    conditions = [
        {"If-None-Match": answer.headers["ETag"]},
        {"If-None-Match": '"other", ' + answer.headers["ETag"]},
        {"If-Modified-Since": answer.headers["Last-Modified"]},
    ]
    never_asked = fresh_path()
    for condition in conditions:
        for method, at in (("GET", path), ("HEAD", path), ("GET", never_asked)):
            same = expendable.get(at, method=method, headers=condition)
            assert (same.status, same.body) == (304, b"")
            assert same.headers["ETag"] == answer.headers["ETag"]
    csv = {"Accept": "text/csv"}
    assert expendable.get(path, headers=conditions[0] | csv).status == 200
    time.sleep(1)  # Last-Modified has whole seconds
    new_generation(expendable, admin)
    assert [expendable.get(path, headers=condition).status for condition in conditions] == [200, 200, 200]


def test_compressed_or_not_is_one_entry(expendable: Spindle, statements: Statements) -> None:
    path = fresh_path("temperatures")
    statements.read()
    plain = expendable.get(path)
    compressed = expendable.get(path, headers={"Accept-Encoding": "gzip"})
    assert compressed.headers["Content-Encoding"] == "gzip"
    assert plain.headers["Content-Encoding"] is None
    for answer in (plain, compressed):
        assert "Accept-Encoding" in answer.headers["Vary"]
    assert gzip.decompress(compressed.body) == plain.body
    assert statements.read() == ["temperatures"]


def test_a_timing_and_a_request_id_come_with_an_answer(expendable: Spindle) -> None:
    path, log = fresh_path(), expendable.state_dir / "logs" / "nginx-access.log"
    for state in ("MISS", "HIT"):
        answer = expendable.get(path, headers={"X-Request-Id": f"cache-{state}"})
        assert answer.headers["Server-Timing"].startswith(f"cache;desc={state}, total;dur=")
        assert float(answer.headers["Server-Timing"].rpartition("=")[2]) < 5000
        assert answer.headers["X-Request-Id"] == f"cache-{state}"
        eventually(lambda state=state: f'"request_id":"cache-{state}"' in log.read_text())  # type: ignore[misc]


def test_after_a_refresh_the_first_answer_is_new(expendable: Spindle) -> None:
    before = warmest(expendable)
    assert warmest(expendable) == before
    heat(expendable, 7)
    assert warmest(expendable) == before
    expendable.refresh()
    assert warmest(expendable) == pytest.approx(before + 7, abs=0.011)


SLOW_GENERATION = """
    alter function gateway.generation() rename to generation_itself;
    create function gateway.generation() returns jsonb language plpgsql stable security definer as $$
    declare
        found jsonb := gateway.generation_itself();
    begin
        if found ->> 'generation' = '{before}' then
            perform pg_advisory_xact_lock_shared(1);
        end if;
        return found;
    end
    $$;
    grant execute on function gateway.generation() to web_anon
"""


def test_a_look_that_arrives_late_puts_no_old_generation_back(
    expendable: Spindle, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw what was before the run's end, and arrives 50 ms after it, or a bit later."""
    new_generation(expendable, admin)
    before = str(expendable.get(UTIL).headers["ETag"])
    settings, pauses = load_settings(environ=expendable.environment), []
    waiting = "select from pg_locks where locktype = 'advisory' and not granted"

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            arrive()

    def arrive() -> None:
        admin.execute("select pg_advisory_unlock_all()")
        assert late.result().headers["ETag"] == before

    admin.execute(SLOW_GENERATION.format(before=before.split('"')[1].split("-")[0]))
    with ThreadPoolExecutor() as pool:
        try:
            admin.execute("select pg_advisory_lock(1)")
            time.sleep(LOOK_SECONDS)
            late = pool.submit(expendable.get, UTIL)
            eventually(lambda: admin.execute(waiting).rowcount == 1)
            admin.execute("select gateway.begin_change(), gateway.end_change()")
            monkeypatch.setattr(cache.time, "sleep", pause)
            assert cache.refresh_cache(settings)
            arrive()
            assert expendable.get(UTIL).headers["ETag"] != before
        finally:
            admin.execute(
                "select pg_advisory_unlock_all(); drop function gateway.generation();"
                "alter function gateway.generation_itself() rename to generation"
            )
    assert sum(pauses) >= 0.3


@thorough
def test_after_dbt_was_run_by_hand_answers_are_new(expendable: Spindle) -> None:
    before = warmest(expendable)
    heat(expendable, 5)
    expendable.run("dbt", "run", "--select", "+sensor_stats")
    eventually(lambda: warmest(expendable) == pytest.approx(before + 5, abs=0.011), LOOK_SECONDS)


def test_while_results_are_computed_answers_are_kept_for_seconds_only(
    expendable: Spindle, admin: psycopg.Connection
) -> None:
    """Also when who computed them was killed: each commit shows, though nobody says that it was the last."""
    expendable.rows("machine_util", dt="eq.2026-03-30")
    admin.execute("select gateway.begin_change()")
    try:
        for hours in (1.5, 2.5):
            admin.execute("update agg.activity set state_running = %s where day = '2026-03-30'", (hours,))
            eventually(
                lambda hours=hours: (  # type: ignore[misc]
                    {row["state_running"] for row in expendable.rows("machine_util", dt="eq.2026-03-30")} == {hours}
                ),
                LOOK_SECONDS,
            )
            assert expendable.get(UTIL).headers["Last-Modified"] is None
    finally:
        admin.execute("select gateway.end_change()")
    eventually(lambda: expendable.get(UTIL).headers["Last-Modified"] is not None, LOOK_SECONDS)


def test_nothing_kept_outlives_a_changed_setting(expendable: Spindle) -> None:
    path = fresh_path()
    before = expendable.get(path).headers["ETag"]
    with settings_of(expendable, SERVE_STALE_HOURS="48"):
        other = expendable.get(path, headers={"If-None-Match": before})
        assert (other.status, cached(other)) == (200, "MISS")
    again = expendable.get(path)
    assert (again.headers["ETag"], cached(again)) == (before, "HIT")


@contextmanager
def settings_of(spindle: Spindle, **settings: str) -> Iterator[None]:
    """Served with other settings for the block."""
    before = dict(spindle.settings)
    spindle.settings.update(settings)
    try:
        spindle.run("serve")
        yield
    finally:
        spindle.settings.clear()
        spindle.settings.update(before)
        spindle.run("serve")


def assert_stale(answer: Answer, body: bytes) -> None:
    assert (answer.status, answer.body) == (200, body)
    assert cached(answer) == "STALE"
    assert answer.headers["Warning"] == '110 - "Response is Stale"'


@pytest.mark.parametrize("service", ["postgrest", "postgres"])
def test_the_last_good_answer_is_served_while_a_service_is_down(
    expendable: Spindle, admin: psycopg.Connection, service: str
) -> None:
    older, newer = fresh_path(), fresh_path()
    expected = expendable.get(older).body
    new_generation(expendable, admin)
    assert expendable.get(newer).body == expected
    admin.close()
    with stopped(expendable, service):
        eventually(lambda: cached(expendable.get(newer)) == "STALE", LOOK_SECONDS)
        for path in (older, newer, older, newer):
            stale = expendable.get(path)
            assert_stale(stale, expected)
        assert expendable.get(older).headers["ETag"] is None, "of another generation"
        never_asked = expendable.get(fresh_path())
        assert never_asked.status == 503
        assert never_asked.json["message"]
        ready = expendable.get("/health/ready")
        assert (ready.status, ready.json["status"]) == (503, "not ready")
        assert expendable.get("/health/live").status == 200
    eventually(lambda: cached(expendable.get(older)) != "STALE", LOOK_SECONDS)
    answer = expendable.get(older)
    assert (answer.status, answer.body, answer.headers["Warning"]) == (200, expected, None)


def test_stale_answers_of_the_old_dialect_are_not_mixed_up(expendable: Spindle, admin: psycopg.Connection) -> None:
    """Its query goes on to PostgREST in a header; the keys have it from the URL."""
    paths = [f"{UTIL}?target_date={day}&machine={name}" for day in DAYS for name in ("branosera", "tamesa")]
    before = [expendable.get(path) for path in paths]
    assert len({answer.body for answer in before}) == len(paths)
    assert {cached(expendable.get(path)) for path in paths} == {"HIT"}
    new_generation(expendable, admin)
    with stopped(expendable, "postgrest"):
        for path, answer in zip(paths, before, strict=True):
            stale = expendable.get(path)
            assert (cached(stale), stale.status, stale.body) == ("STALE", 200, answer.body), path


def test_the_second_question_is_the_same_one(expendable: Spindle, admin: psycopg.Connection) -> None:
    """PostgREST's connection dies: it is asked again, in the old dialect as before without the query of the URL."""
    path = f"{UTIL}?target_date={DAYS[1]}&machine=tamesa"
    new_generation(expendable, admin)
    waiting = "select pid from pg_stat_activity where usename = 'authenticator' and wait_event_type = 'Lock'"
    with psycopg.connect(expendable.info["results"]) as locker, ThreadPoolExecutor() as pool:
        locker.execute("lock table agg.activity in access exclusive mode")
        answer = pool.submit(expendable.get, path)
        eventually(lambda: admin.execute(waiting).fetchone() is not None, 8)
        admin.execute(f"select pg_terminate_backend(pid) from ({waiting}) as waiting")
        locker.rollback()
        assert answer.result().status == 200, answer.result().body


def test_stale_answers_end_after_the_set_time(expendable: Spindle) -> None:
    path = fresh_path()
    with settings_of(expendable, SERVE_STALE_HOURS="0.001"):
        expected = expendable.get(path).body
        with stopped(expendable, "postgrest"):
            began = time.monotonic()
            eventually(lambda: expendable.get(path).status == 503, 3.6 + 2 * LOOK_SECONDS)
            assert time.monotonic() - began > 2
            gone = expendable.get(path)
            assert gone.headers["Content-Type"] == "application/json"
            assert gone.json["message"] == "The service is not available: try again later"
        assert expendable.get(path).body == expected
