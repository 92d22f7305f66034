"""Safe to put on a network: limits, CORS, login, TLS and errors, over real HTTP, as a browser or a stranger asks."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jwt
import psycopg
import pytest

from spindle import database, verify
from spindle.errors import RefreshFailed, SettingsError
from spindle.settings import load_settings
from tests.conftest import ROOT, Answer, Spindle, thorough
from tests.hostile import INTERNALS

SECRET = "a secret only for tests, with 40 letters".replace(" ", "-")
FRONTEND = "http://localhost:3000"


@contextmanager
def gateway_beside(spindle: Spindle, folder: Path, **settings: str) -> Iterator[Spindle]:
    """Another gateway with settings of its own over the session's results."""
    found = psycopg.conninfo.conninfo_to_dict(spindle.info["results"])
    database = {
        f"{prefix}_{part}": str(found[key])
        for prefix in ("DB", "AGG_DB")
        for part, key in (("HOST", "host"), ("PORT", "port"), ("NAME", "dbname"), ("USER", "user"))
    }
    beside = Spindle(folder / "state", database | {"STALE_AFTER_HOURS": "900000"} | settings)
    try:
        beside.run("serve")
        yield beside
    finally:
        beside.run("stop", exit_code=None)


@pytest.fixture(scope="module")
def beside(spindle: Spindle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Spindle]]:
    """Makes such gateways; they end with the module."""
    with ExitStack() as running:
        yield lambda **settings: running.enter_context(
            gateway_beside(spindle, tmp_path_factory.mktemp("beside"), **settings)
        )


@pytest.fixture(scope="module")
def limited(beside: Callable[..., Spindle]) -> Spindle:
    return beside(
        API_RATE_PER_SECOND="5",
        API_CONNECTIONS="3",
        API_MAX_ROWS="1000",
        TRUSTED_PROXIES="127.0.0.1",
        CORS_ORIGINS="https://a.example, https://b.example:8443",
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Signed by itself; its key is beside it."""
    path = tmp_path_factory.mktemp("tls") / "own.crt"
    make_certificate(path, "spindle.test")
    return path


@pytest.fixture(scope="module")
def guarded(beside: Callable[..., Spindle], certificate: Path) -> Spindle:
    """With a login and TLS, at every address of this computer."""
    return beside(
        API_JWT_SECRET=SECRET,
        CORS_ORIGINS="*",
        GATEWAY_ADDRESS="0.0.0.0",
        TLS_CERT_FILE=str(certificate),
        TLS_KEY_FILE=str(certificate.with_suffix(".key")),
    )


def make_certificate(path: Path, name: str) -> None:
    key = path.with_suffix(".key")
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
        *("-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1", "-out", str(path), "-keyout", str(key)),
    )
    key.chmod(0o600)


def openssl(*arguments: str) -> str:
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=True).stdout


def token(secret: Any = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    lasting = {"role": "api_reader", "exp": datetime.now(timezone.utc) + timedelta(hours=5)}
    return jwt.encode({name: value for name, value in (lasting | claims).items() if value}, secret, algorithm)


def ask(gateway: Spindle, path: str = "/api/v1/machines", bearer: str = "", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return send(gateway, path, named | ({"Authorization": f"Bearer {bearer}"} if bearer else {}))


def send(gateway: Spindle, path: str, headers: dict[str, str], method: str = "GET") -> Answer:
    """Over TLS where the gateway has it, and then it must be the certificate of its settings."""
    if certificate := gateway.settings.get("TLS_CERT_FILE"):
        context = ssl.create_default_context(cafile=certificate)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            "127.0.0.1", gateway.port, context=context, timeout=30
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    with closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())


def preflight(gateway: Spindle, origin: str, path: str = "/api/v1/temperatures?target_date=2026-03-30") -> Answer:
    asked = {"Origin": origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "content-type"}
    return send(gateway, path, asked, "OPTIONS")


def vary(answer: Answer) -> set[str]:
    return {name.strip().lower() for line in answer.headers.get_all("Vary", []) for name in line.split(",")}


# --- CORS ------------------------------------------------------------------------------------------------


def test_the_existing_frontend_may_read(spindle: Spindle) -> None:
    asked = preflight(spindle, FRONTEND)
    assert asked.status == 204
    assert asked.headers.get_all("Access-Control-Allow-Origin") == [FRONTEND]
    assert "GET" in asked.headers["Access-Control-Allow-Methods"]
    assert not re.search("POST|PUT|PATCH|DELETE", asked.headers["Access-Control-Allow-Methods"])
    assert "content-type" in asked.headers["Access-Control-Allow-Headers"].lower()
    assert int(asked.headers["Access-Control-Max-Age"]) > 0
    assert "origin" in vary(asked)
    answer = ask(spindle, Origin=FRONTEND, Content_Type="application/json")
    assert answer.status == 200
    assert answer.headers.get_all("Access-Control-Allow-Origin") == [FRONTEND]
    assert "Content-Range" in answer.headers["Access-Control-Expose-Headers"]
    assert "origin" in vary(answer)


@pytest.mark.parametrize(
    "path",
    ["/api/v1/machines?machine=bad", "/api/v1/nothing", "/nothing", "/api/v1/data_status", "/api/v1/rpc/version"],
)
def test_errors_may_be_read_too(spindle: Spindle, path: str) -> None:
    answer = ask(spindle, path, Origin=FRONTEND)
    assert answer.headers.get_all("Access-Control-Allow-Origin") == [FRONTEND]
    assert answer.json


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost:3000.evil.example",
        "http://localhost:30001",
        "https://localhost:3000",
    ],
)
def test_other_origins_are_told_nothing(spindle: Spindle, origin: str) -> None:
    for answer in (preflight(spindle, origin), ask(spindle, Origin=origin), ask(spindle, "/nothing", Origin=origin)):
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        assert "origin" in vary(answer)


def test_origins_of_the_settings(limited: Spindle, guarded: Spindle) -> None:
    for origin, allowed in (("https://a.example", 1), ("https://b.example:8443", 1), (FRONTEND, 0)):
        answer = preflight(limited, origin)
        assert answer.headers.get_all("Access-Control-Allow-Origin", []) == [origin] * allowed
    everyone = preflight(guarded, "https://anywhere.example")
    assert everyone.status == 204, "a preflight has no token"
    assert everyone.headers["Access-Control-Allow-Origin"] == "*"
    assert "authorization" in everyone.headers["Access-Control-Allow-Headers"].lower()


# --- rows, rate, connections, sizes ----------------------------------------------------------------------


def test_a_cut_answer_says_so_and_keys_lead_on(limited: Spindle, spindle: Spindle) -> None:
    path = "/api/v1/temperatures?order=machine,sensor_name,dt"
    every = spindle.get(path).json
    assert len(every) > 2000, "the plant is too small for this test"
    first = paced(limited, path)
    assert first.status == 200
    assert len(first.json) == 1000
    assert first.headers["X-Row-Limit"] == "1000"
    kept = paced(limited, path)
    assert (kept.headers["X-Cache"], kept.headers["X-Row-Limit"]) == ("HIT", "1000")

    rows: list[dict[str, Any]] = []
    page = first
    while page.headers["X-Row-Limit"]:
        rows += page.json
        last = rows[-1]
        after = (
            f"or=(machine.gt.{last['machine']},and(machine.eq.{last['machine']},or(sensor_name.gt.{last['sensor_name']},"
            f"and(sensor_name.eq.{last['sensor_name']},dt.gt.{last['dt']}))))"
        )
        page = paced(limited, f"{path}&{after}")
    assert rows + page.json == every

    by_offset = paced(limited, f"{path}&offset=1000")
    assert by_offset.headers["X-Row-Limit"] == "1000"
    assert by_offset.json == every[1000:2000]


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("limit=10", {}),
        ("limit=10&offset=500", {}),
        ("limit=999&offset=1", {}),
        ("day=eq.2019-01-01", {}),
        ("offset=900000", {}),
        ("", {"Range": "1200-1209"}),
    ],
)
def test_a_whole_answer_says_nothing(limited: Spindle, query: str, headers: dict[str, str]) -> None:
    assert paced(limited, f"/api/v1/temperatures?{query}", **headers).headers["X-Row-Limit"] is None


def paced(gateway: Spindle, path: str, **headers: str) -> Answer:
    """As a client does that heeds Retry-After."""
    while (answer := ask(gateway, path, **headers)).status == 429:
        time.sleep(float(answer.headers["Retry-After"]))
    return answer


@pytest.mark.parametrize("path", ["/api/v1/machines?select=machine&limit=1", "/health/ready", "/lineage"])
def test_too_many_requests_get_429_in_json(limited: Spindle, path: str) -> None:
    answers = [ask(limited, path, Origin="https://a.example") for _ in range(40)]
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    assert refused[0].json["code"] == "GW429"
    assert int(refused[0].headers["Retry-After"]) > 0
    assert refused[0].headers["Access-Control-Allow-Origin"] == "https://a.example"
    # another client behind the trusted proxy is not held up
    other = ask(limited, path, X_Forwarded_For="10.9.8.7")
    assert {answer.status for answer in answers} <= {other.status, 429}
    assert other.status != 429


def test_addresses_are_believed_of_trusted_proxies_only(spindle: Spindle, limited: Spindle) -> None:
    for gateway, logged in ((limited, "10.1.2.3"), (spindle, "127.0.0.1")):
        mark = f"address-{logged}"
        ask(gateway, "/health/live", X_Forwarded_For="10.1.2.3", X_Request_Id=mark)
        assert logged_line(gateway, mark)["address"] == logged


def logged_line(gateway: Spindle, mark: str) -> Any:
    log = Path(gateway.info["logs"]) / "nginx-access.log"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if found := [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if mark in line]:
            return json.loads(found[-1])
        time.sleep(0.1)
    pytest.fail(f"{mark} is not in {log}")


def test_connections_of_one_client(limited: Spindle, results: psycopg.Connection) -> None:
    """Three requests wait for a locked table; the fourth is refused, and another client is not."""
    with ThreadPoolExecutor() as pool, psycopg.connect(results.info.dsn) as locker:
        locker.execute("lock table agg.energy in access exclusive mode")
        paths = [f"/api/v1/energy_consumption?limit={number}" for number in (1, 2, 3)]
        waiting = [pool.submit(ask, limited, path, X_Forwarded_For="10.0.0.1") for path in paths]
        await_waiting(results, 3)
        fourth = ask(limited, "/api/v1/machines?limit=1", X_Forwarded_For="10.0.0.1")
        other = ask(limited, "/api/v1/machines?limit=1", X_Forwarded_For="10.0.0.2")
        locker.rollback()
        assert [answer.result().status for answer in waiting] == [200] * 3
    assert (fourth.status, other.status) == (429, 200)


# PostgREST reads this as match.b
EXPENSIVE = "/api/v1/energy_consumption?machine=%6datch.b&limit="


def test_expensive_requests_of_one_client(spindle: Spindle, results: psycopg.Connection) -> None:
    """Four of them; a letter that is encoded hides nothing."""
    with ThreadPoolExecutor() as pool, psycopg.connect(results.info.dsn) as locker:
        locker.execute("lock table agg.energy in access exclusive mode")
        waiting = [pool.submit(ask, spindle, f"{EXPENSIVE}{number}") for number in range(1, 5)]
        await_waiting(results, 4)
        fifth, plain = ask(spindle, f"{EXPENSIVE}5"), ask(spindle, "/api/v1/machines?limit=1")
        locker.rollback()
        assert [answer.result().status for answer in waiting] == [200] * 4
    assert (fifth.status, plain.status) == (429, 200)


def test_expensive_requests_of_all_clients(limited: Spindle, results: psycopg.Connection) -> None:
    """Six, however many addresses ask: PostgREST has ten connections. What the cache has takes none of them."""
    kept = f"{EXPENSIVE}8"
    assert ask(limited, kept, X_Forwarded_For="10.0.1.8").status == 200
    with ThreadPoolExecutor() as pool, psycopg.connect(results.info.dsn) as locker:
        locker.execute("lock table agg.energy in access exclusive mode")
        waiting = [
            pool.submit(ask, limited, f"{EXPENSIVE}{number}", X_Forwarded_For=f"10.0.1.{number % 3}")
            for number in range(1, 7)
        ]
        await_waiting(results, 6)
        seventh = ask(limited, f"{EXPENSIVE}7", X_Forwarded_For="10.0.1.7")
        again = ask(limited, kept, X_Forwarded_For="10.0.1.7")
        plain = ask(limited, "/api/v1/machines?limit=1", X_Forwarded_For="10.0.1.7")
        locker.rollback()
        assert [answer.result().status for answer in waiting] == [200] * 6
    assert (seventh.status, seventh.json["code"], seventh.headers["Retry-After"]) == (429, "GW429", "1")
    assert (again.status, plain.status) == (200, 200)


def await_waiting(results: psycopg.Connection, wanted: int) -> None:
    waiting = "select count(*) from pg_stat_activity where usename = 'authenticator' and wait_event_type = 'Lock'"
    deadline = time.monotonic() + 8
    while results.execute(waiting).fetchone() != (wanted,):
        assert time.monotonic() < deadline, f"{wanted} requests never waited"
        time.sleep(0.05)


def test_a_dashboard_that_asks_for_everything_at_once(spindle: Spindle) -> None:
    with ThreadPoolExecutor(100) as pool:
        paths = [f"/api/v1/machine_util?machine=eq.tamesa&limit={n}" for n in range(1, 101)]
        answers = list(pool.map(lambda path: ask(spindle, path), paths))
    assert [answer.status for answer in answers] == [200] * 100


def test_a_long_query_ends_and_frees_its_connection(spindle: Spindle, results: psycopg.Connection) -> None:
    with psycopg.connect(results.info.dsn) as locker:
        locker.execute("lock table agg.energy in access exclusive mode")
        began = time.monotonic()
        answer = ask(spindle, "/api/v1/energy_consumption?limit=1&offset=3")
        seconds = time.monotonic() - began
    assert (answer.status, answer.json["code"]) == (504, "GW504")
    assert "10 seconds" in answer.json["message"]
    assert 9 < seconds < 15
    busy = "select count(*) from pg_stat_activity where usename = 'authenticator' and state <> 'idle'"
    assert results.execute(busy).fetchone() == (0,)
    assert ask(spindle, "/api/v1/energy_consumption?limit=1").status == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (f"/api/v1/machines?machine=eq.{'x' * 17_000}", {}, 414),
        ("/health/live", {"X-Long": "x" * 17_000}, 431),
        ("/health/live", {f"X-{n}": "x" * 4_000 for n in range(20)}, 431),
    ],
)
def test_sizes(spindle: Spindle, path: str, headers: dict[str, str], status: int) -> None:
    answer = spindle.get(path, headers=headers)
    assert (answer.status, answer.json["code"]) == (status, f"GW{status}")


# --- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/api/v1/nothing_here", 404, "nothing at this path"),
        ("/api/v1/rpc/version", 404, "nothing at this path"),
        ("/api/v1/temperatures?day=match.x", 400, "operator"),
        ("/api/v1/temperatures?select=*,machines(*)", 400, "embedded"),
        ("/api/v1/temperatures?limit=1;select=machine,sensors(*)", 400, "embedded"),
        ("/api/v1/temperatures?s%65lect=sensors(*)", 400, "percent-encoded"),
        ("/api/v1/machine_program?select=program::regclass", 400, "reg type"),
        ("/api/v1/machine_program?select=program:%3A%20%52%45gtype", 400, "reg type"),
        (f"/api/v1/machines?or={'(%6fr(n%6Ft.%61%6ed' * 15}(machine.eq.a){')' * 30}", 400, "30 deep"),
        ("/api/v1/machines?machine=eq.%ff", 400, "UTF-8"),
        ("/api/v1/machines?machine=eq.%ed%a0%80", 400, "UTF-8"),
        ("/api/v1/machines?machine=eq.%c0%af", 400, "UTF-8"),
        ("/api/v1/machines?lathe=eq.1", 400, "lathe"),
        ("/api/v1/machine_program?program=eq.many", 400, "many"),
    ],
)
def test_errors_say_what_is_wrong_and_nothing_of_what_is_inside(
    spindle: Spindle, path: str, status: int, says: str
) -> None:
    answer = ask(spindle, path)
    assert answer.status == status
    assert answer.headers["Content-Type"].startswith("application/json")
    assert says in answer.json["message"]
    assert not INTERNALS.search(answer.body.decode())


def test_what_is_utf8_passes(spindle: Spindle) -> None:
    for text in ("%C3%B1", "%E2%82%AC", "%F0%9F%98%80", "%EF%BF%BD", "a+b%20c", "%c3%b1" * 2_500):
        assert ask(spindle, f"/api/v1/alerts_detail?alarm_description=eq.{text}").json == [], text
    found = ask(spindle, "/api/v1/machines?machine=in.(branosera,tamesa)&select=name:machine,label::text&order=machine")
    assert [row["name"] for row in found.json] == ["branosera", "tamesa"]


@pytest.mark.parametrize(
    "name", ["Accept", "Prefer", "Range", "Authorization", "Accept-Profile", "X-Anything", "Cookie"]
)
def test_headers_of_any_bytes(spindle: Spindle, name: str) -> None:
    head = f"GET /api/v1/machines HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{name}: ".encode() + b"\xff\xfe\r\n\r\n"
    with socket.create_connection(("127.0.0.1", spindle.port), timeout=20) as connection:
        connection.sendall(head)
        assert connection.makefile("rb").readline().split()[1] in (b"200", b"400")


def test_no_server_version(spindle: Spindle) -> None:
    for path in ("/", "/nothing", "/api/v1/machines", "/api/v1/nothing", "/health/live"):
        answer = ask(spindle, path)
        assert answer.headers.get_all("Server") == ["nginx"]
        assert answer.headers["X-Powered-By"] is None


def test_security_headers_of_pages(spindle: Spindle) -> None:
    page = ask(spindle, "/")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Referrer-Policy"] == "no-referrer"


# --- docs/api-limits.md ----------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "api-limits.md").read_text(encoding="utf-8")
DOCUMENTED_ERRORS = re.findall(r'^(/\S+)\n(\{"code":"(?!GW504).*\})$', PAGE, re.MULTILINE)
DOCUMENTED_KEYS = re.findall(r"^\| `/(\w+)` \| `([\w,]+)` \|$", PAGE, re.MULTILINE)


def test_the_documented_errors(spindle: Spindle) -> None:
    assert len(DOCUMENTED_ERRORS) >= 5
    for path, body in DOCUMENTED_ERRORS:
        assert ask(spindle, f"/api/v1{path}").json == json.loads(body), path


def test_the_documented_keys_tell_rows_apart(spindle: Spindle) -> None:
    assert len(DOCUMENTED_KEYS) == 8
    for endpoint, order in DOCUMENTED_KEYS:
        rows = [tuple(row.values()) for row in ask(spindle, f"/api/v1/{endpoint}?select={order}&order={order}").json]
        assert len(rows) == len(set(rows)) > 0, endpoint


# --- login -----------------------------------------------------------------------------------------------


def test_a_token_reads_and_without_one_nobody_does(guarded: Spindle) -> None:
    printed = guarded.run("token", "--days", "1").stdout.strip()
    for bearer in (token(), printed):
        assert {row["machine"] for row in ask(guarded, bearer=bearer).json} == {"branosera", "tamesa"}
        assert ask(guarded, "/api/v1/data_status", bearer).json["refresh_ok"] is True
        description = ask(guarded, "/api/v1/", bearer)
        assert "/machines" in description.json["paths"]
        assert "authorization" in vary(description)
    for path in ("/api/v1/machines", "/api/v1/data_status", "/api/v1/", "/api/v1/nothing", "/api/v1/machines?x=bad"):
        answer = ask(guarded, path)
        assert (answer.status, answer.json["code"]) == (401, "GW401"), path
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for path in ("/health/live", "/health/ready"):
        assert ask(guarded, path).status == 200


def test_the_descriptions_tell_a_stranger_no_data(guarded: Spindle, spindle: Spindle) -> None:
    sensors = spindle.rows("sensors")
    names = {row["machine"] for row in sensors} | {row["sensor_name"] for row in sensors} | {"2026-03"}
    for path in ("/docs/openapi.json", "/docs/old-dialect.json"):
        for answer, holds_data in ((ask(guarded, path), False), (ask(spindle, path), True)):
            operations = [at["get"] for at in answer.json["paths"].values()]
            filled = [parameter.get("example") for operation in operations for parameter in operation["parameters"]]
            shown = json.dumps([[operation["x-examples"] for operation in operations], filled])
            assert any(name in shown for name in names) == holds_data


def unsigned(header: dict[str, str], claims: dict[str, Any], signature: str = "") -> str:
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, claims))
    return ".".join([*parts, signature])


def changed_signature() -> str:
    head, _, signature = token().rpartition(".")
    return f"{head}.{'b' if signature[0] == 'a' else 'a'}{signature[1:]}"


# By name: tokens hold the time, so as ids they would differ between the workers of one run.
OTHER_TOKENS = {
    "expired": (token(exp=datetime(2020, 1, 1, tzinfo=timezone.utc)), 401),
    "not yet": (token(nbf=datetime(2100, 1, 1, tzinfo=timezone.utc)), 401),
    "another secret": (token("another-secret-that-is-long-enough-too"), 401),
    "another algorithm": (token(algorithm="HS512", secret="another-secret" * 6), 401),
    "algorithm none": (unsigned({"alg": "none"}, {"role": "api_reader"}), 401),
    "algorithm None": (unsigned({"alg": "None", "typ": "JWT"}, {"role": "api_reader"}), 401),
    "no signature": (unsigned({"alg": "HS256"}, {"role": "api_reader"}), 401),
    "another token's signature": (
        unsigned({"alg": "HS256"}, {"role": "api_reader"}, token().rpartition(".")[2]),
        401,
    ),
    "changed signature": (changed_signature(), 401),
    "a letter": ("x", 401),
    "three letters": ("a.b.c", 401),
    "dots": ("." * 5_000, 401),
    "no role": (token(role=None), 401),
    "web_anon": (token(role="web_anon"), 403),
    "authenticator": (token(role="authenticator"), 401),
    "spindle_owner": (token(role="spindle_owner"), 403),
    "spindle_admin": (token(role="spindle_admin"), 403),
    "postgres": (token(role="postgres"), 403),
    "unknown role": (token(role="nobody-at-all"), 403),
    "SQL as role": (token(role="api_reader'; set role spindle_owner; --"), 403),
    "roles in a list": (token(role=["api_reader"]), 403),
    "role in capitals": (token(role="API_READER"), 403),
}


@pytest.mark.parametrize(("bearer", "status"), OTHER_TOKENS.values(), ids=OTHER_TOKENS)
def test_other_tokens_are_refused(guarded: Spindle, bearer: str, status: int) -> None:
    for path in ("/api/v1/machines", "/api/v1/data_status", "/api/v1/"):
        answer = ask(guarded, path, bearer)
        assert answer.status in (401, 403)
        assert (answer.status, answer.json["code"]) == (status, f"GW{status}"), answer.body
        assert not INTERNALS.search(answer.body.decode())


def test_a_token_is_read_from_no_other_place(guarded: Spindle) -> None:
    for path, headers in (
        (f"/api/v1/machines?token={token()}", {}),
        ("/api/v1/machines", {"Cookie": f"token={token()}"}),
        ("/api/v1/machines", {"Authorization": f"Basic {token()}"}),
        ("/api/v1/machines", {"X-Authorization": f"Bearer {token()}"}),
    ):
        assert send(guarded, path, headers).status == 401


def test_what_a_refresh_checks_is_checked_within_the_limits(limited: Spindle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a fleet: it has more to ask than may be asked at once."""
    settings = load_settings(environ=limited.environment)
    assert all(verify.get(settings, "machines", limit="1") for _ in range(30))
    monkeypatch.setattr(verify, "PATIENCE_SECONDS", 0)
    with pytest.raises(RefreshFailed, match="429"):
        [verify.get(settings, "machines", limit="1") for _ in range(30)]


def test_what_a_refresh_checks_is_checked_with_a_login(guarded: Spindle) -> None:
    settings = load_settings(environ=guarded.environment)
    with database.results(settings) as connection:
        assert verify.check_api(settings, connection, settings.machines) == ""


@thorough
def test_keys_of_an_identity_provider(beside: Callable[..., Spindle], tmp_path: Path) -> None:
    key, other = tmp_path / "key.pem", tmp_path / "other.pem"
    for path in (key, other):
        openssl("genrsa", "-out", str(path), "2048")
    modulus = openssl("rsa", "-in", str(key), "-noout", "-modulus").partition("=")[2].strip()
    number = base64.urlsafe_b64encode(bytes.fromhex(modulus)).decode().rstrip("=")
    (tmp_path / "jwks.json").write_text(
        json.dumps({"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "n": number, "e": "AQAB"}]}), encoding="utf-8"
    )
    gateway = beside(API_JWKS_FILE=str(tmp_path / "jwks.json"))
    assert ask(gateway, bearer=signed(key)).status == 200
    assert ask(gateway, bearer=signed(other)).status == 401
    # the public key is public: it is no secret to sign with
    public = openssl("rsa", "-in", str(key), "-pubout")
    confused = unsigned({"alg": "HS256", "typ": "JWT"}, {"role": "api_reader"})
    forged = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        confused[:-1].encode(), public.encode()
    )
    assert ask(gateway, bearer=confused + base64.urlsafe_b64encode(forged).decode().rstrip("=")).status == 401
    assert ask(gateway).status == 401
    assert "API_JWT_SECRET is not set" in gateway.run("token", exit_code=2).stderr


def signed(key: Path) -> str:
    text = unsigned({"alg": "RS256", "typ": "JWT"}, {"role": "api_reader", "exp": int(time.time()) + 300})[:-1]
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-sign", str(key)], input=text.encode(), capture_output=True, check=True
    )
    return f"{text}.{base64.urlsafe_b64encode(done.stdout).decode().rstrip('=')}"


def test_the_secret_is_in_no_log_and_no_open_file(guarded: Spindle) -> None:
    state = Path(guarded.info["state"])
    holding = [path for path in state.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert [path.name for path in holding] == ["postgrest.conf"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in holding)


# --- TLS -------------------------------------------------------------------------------------------------


def test_tls(guarded: Spindle, certificate: Path) -> None:
    def version(context: ssl.SSLContext) -> str | None:
        with (
            socket.create_connection(("127.0.0.1", guarded.port), timeout=20) as connection,
            context.wrap_socket(connection, server_hostname="127.0.0.1") as secured,
        ):
            return secured.version()

    trusting = ssl.create_default_context(cafile=str(certificate))
    assert version(trusting) == "TLSv1.3"
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2
    assert version(trusting) == "TLSv1.2"
    with pytest.raises(ssl.SSLCertVerificationError):
        version(ssl.create_default_context())
    # TLS 1.0 and 1.1 as openssl would still speak them
    offered = ["openssl", "s_client", "-connect", f"127.0.0.1:{guarded.port}", "-cipher", "ALL:@SECLEVEL=0"]
    for old in ("-tls1", "-tls1_1"):
        assert subprocess.run([*offered, old], input=b"", capture_output=True).returncode != 0
    plain = guarded.get("/api/v1/machines")
    assert (plain.status, plain.json["code"]) == (400, "GW400")
    assert "https" in plain.json["message"]


def test_the_tools_follow(guarded: Spindle, spindle: Spindle) -> None:
    assert guarded.info["gateway"] == f"https://127.0.0.1:{guarded.port}"
    services = json.loads(guarded.run("status", "--json", exit_code=None).stdout)["services"]
    assert {service["state"] for service in services} == {"running"}
    assert "warning" not in spindle.run("serve").stderr


@thorough
def test_limits_change_while_it_runs(limited: Spindle) -> None:
    limited.settings["API_RATE_PER_SECOND"] = "0"
    limited.run("serve")
    time.sleep(2)  # until the workers that read the old one have gone
    assert [ask(limited, "/api/v1/machines?limit=1").status for _ in range(60)] == [200] * 60


@thorough
def test_a_renewed_certificate_is_taken_over(guarded: Spindle, certificate: Path) -> None:
    before = ssl.get_server_certificate(("127.0.0.1", guarded.port))
    make_certificate(certificate, "renewed.test")
    guarded.run("serve")
    now = ssl.get_server_certificate(("127.0.0.1", guarded.port))
    assert now != before
    assert now.split() == certificate.read_text(encoding="utf-8").split()


@thorough
def test_a_key_of_another_certificate_is_an_error(spindle: Spindle, certificate: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    make_certificate(other, "other.test")
    keys = {"TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(other.with_suffix(".key"))}
    with pytest.raises(pytest.fail.Exception, match="TLS_KEY_FILE"), gateway_beside(spindle, tmp_path, **keys):
        pass


@thorough
def test_a_gateway_on_every_address_says_what_is_open(beside: Callable[..., Spindle]) -> None:
    gateway = beside(GATEWAY_ADDRESS="0.0.0.0")
    warned = gateway.run("serve").stderr
    assert "API_JWT_SECRET" in warned
    assert "TLS_CERT_FILE" in warned
    assert ask(gateway).status == 200


# --- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"GATEWAY_ADDRESS": "localhost"}, "GATEWAY_ADDRESS"),
        ({"GATEWAY_ADDRESS": "10.0.0"}, "GATEWAY_ADDRESS"),
        ({"TRUSTED_PROXIES": "proxy"}, "TRUSTED_PROXIES"),
        ({"TRUSTED_PROXIES": "10.0.0.1/8"}, "TRUSTED_PROXIES"),
        ({"API_RATE_PER_SECOND": "-1"}, "API_RATE_PER_SECOND"),
        ({"API_RATE_PER_SECOND": "many"}, "API_RATE_PER_SECOND"),
        ({"API_CONNECTIONS": "1.5"}, "API_CONNECTIONS"),
        ({"API_MAX_ROWS": "0"}, "API_MAX_ROWS"),
        ({"API_MAX_ROWS": "²"}, "API_MAX_ROWS"),
        ({"CORS_ORIGINS": "*, https://a.example"}, "CORS_ORIGINS"),
        ({"CORS_ORIGINS": "a.example"}, "CORS_ORIGINS"),
        ({"CORS_ORIGINS": "https://a.example/"}, "CORS_ORIGINS"),
        ({"CORS_ORIGINS": 'https://a"; return 200; #'}, "CORS_ORIGINS"),
        ({"TLS_CERT_FILE": __file__}, "TLS_KEY_FILE"),
        ({"TLS_KEY_FILE": __file__}, "TLS_CERT_FILE"),
        ({"TLS_CERT_FILE": "/no/such/file", "TLS_KEY_FILE": __file__}, "TLS_CERT_FILE"),
        ({"API_JWT_SECRET": "tiny-one"}, "API_JWT_SECRET"),
        ({"API_JWT_SECRET": 'x" db-anon-role = "spindle_owner"'}, "API_JWT_SECRET"),
        ({"API_JWT_SECRET": "@/etc/passwd/xxxxxxxxxxxxxxxxxxxxxxx"}, "API_JWT_SECRET"),
        ({"API_JWKS_FILE": __file__}, "API_JWKS_FILE"),
        ({"API_JWKS_FILE": __file__, "API_JWT_SECRET": SECRET}, "API_JWKS_FILE"),
    ],
)
def test_mistakes_name_the_key_and_tell_no_secret(keys: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as error:
        load_settings(environ={"SPINDLE_ENV_FILE": "/dev/null"} | keys)
    assert error.value.advice
    if secret := keys.get("API_JWT_SECRET"):
        assert secret not in f"{error.value.what} {error.value.advice}"


def test_limits_are_on_where_strangers_are() -> None:
    """Also where they come through a proxy on this computer, which ends their TLS."""
    none = {"SPINDLE_ENV_FILE": "/dev/null"}
    own = load_settings(environ=none).access
    network = load_settings(environ=none | {"GATEWAY_ADDRESS": "0.0.0.0"}).access
    proxied = load_settings(environ=none | {"TRUSTED_PROXIES": "127.0.0.1"}).access
    assert (own.rate_per_second, own.connections, own.open_doors) == (0, 0, [])
    for access, open_doors in ((network, ["API_JWT_SECRET", "TLS_CERT_FILE"]), (proxied, ["API_JWT_SECRET"])):
        assert access.rate_per_second > 0
        assert access.connections > 0
        assert len(access.open_doors) == len(open_doors)
        assert all(key in said for key, said in zip(open_doors, access.open_doors, strict=True))
    login = none | {"TRUSTED_PROXIES": "127.0.0.1", "API_JWT_SECRET": SECRET}
    assert load_settings(environ=login).access.open_doors == []
    assert own.cors_origins == (FRONTEND,)
    assert SECRET not in repr(load_settings(environ={"SPINDLE_ENV_FILE": "/dev/null", "API_JWT_SECRET": SECRET}))


# --- the database's own locks ----------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["web_anon", "api_reader"])
def test_a_reader_can_do_nothing_but_read_the_api(results: psycopg.Connection, role: str) -> None:
    row = results.execute("select rolconfig, rolcanlogin from pg_roles where rolname = %s", (role,)).fetchone()
    assert row is not None
    assert not row[1]
    assert {"statement_timeout=10s", "default_transaction_read_only=on", "TimeZone=UTC"} <= set(row[0])
    results.execute(f"set session authorization {role}")
    results.execute("set default_transaction_read_only = off")  # the rights must do, without the setting
    try:
        assert results.execute("select count(*) from api.machines").fetchone() == (2,)
        for statement in (
            "select * from agg.sensor_stats",
            "select * from staging.refresh_window",
            "select * from raw.sources",
            "select raw.logged_ids('branosera', 'variable_log_float')",
            "create table api.mine (x int)",
            "create table public.mine (x int)",
            "create temp table mine (x int)",
            "create schema mine",
            "truncate agg.activity",
            "select pg_read_file('/etc/passwd')",
            "copy api.machines to program 'cat'",
            "copy api.machines to '/tmp/x'",
            "select * from pg_authid",
            "select umoptions from pg_user_mapping",
            "set role spindle_owner",
            f"set role {'web_anon' if role == 'api_reader' else 'api_reader'}",
            "alter system set work_mem = '1GB'",
            "create extension dblink",
            "create server s foreign data wrapper postgres_fdw",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                results.execute(statement)
    finally:
        results.execute("reset session authorization")


def test_the_login_of_postgrest_may_only_become_a_reader(results: psycopg.Connection) -> None:
    roles = results.execute(
        "select rolname from pg_roles where rolname <> 'authenticator' and pg_has_role('authenticator', oid, 'set')"
    ).fetchall()
    assert sorted(roles) == [("api_reader",), ("web_anon",)]
    results.execute("set session authorization authenticator")
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            results.execute("select * from api.machines")
    finally:
        results.execute("reset session authorization")
