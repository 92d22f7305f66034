"""Hostile requests: what nobody sends by mistake. A list of attacks, and strategies that make more of the kind."""

from __future__ import annotations

import csv
import http.client
import io
import json
import re
import socket
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from hypothesis import strategies as st

API = "/api/v1/"
# What no answer may tell: relations beside `api`, catalogs, roles, PostgREST, versions, files, SQL.
INTERNALS = re.compile(
    r"postgrest|postgresql|\bpg_\w+|pgsql|schema cache|\b(?:agg|raw|staging|legacy|api|public)\.\w+|"
    r"spindle_(?:owner|admin)|authenticator|web_anon|plant_(?:owner|reader)|nginx/|\b\d+\.\d+\.\d+\b|"
    r"/(?:usr|etc|var|home|work|tmp|root)/|\bselect .* from\b|canceling statement|hasql",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Hostile:
    """A request as bytes go over the wire: nothing is encoded or added but Host and Connection."""

    target: str
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "GET"
    body: str = ""
    version: str = "HTTP/1.1"

    def wire(self) -> bytes:
        lines = [f"{self.method} {self.target} {self.version}", "Host: 127.0.0.1", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", self.body]).encode("latin-1")

    def says(self, text: str) -> bool:
        """Whether the request itself has this text: an error that repeats it tells nothing new."""
        own = " ".join([self.target, *(value for _, value in self.headers)])
        return any(text.lower() in form.lower() for form in (own, unquote(own), unquote(own.replace("+", " "))))


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes
    faults: list[str] = field(default_factory=list)


def send(port: int, request: Hostile, timeout: float = 40) -> Reply:
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(request.wire())
        answer = http.client.HTTPResponse(connection, method=request.method)
        answer.begin()
        return Reply(answer.status, answer.headers, answer.read())


def faults(request: Hostile, reply: Reply) -> list[str]:
    """What is wrong with an answer; an ended statement's 504 is right."""
    text = reply.body.decode("utf-8", errors="replace")
    kind = (reply.headers["Content-Type"] or "").partition(";")[0]
    found = []
    if reply.status >= 500 and not (reply.status == 504 and '"GW504"' in text):
        found.append(f"status {reply.status}: {text[:200]}")
    if request.method != "HEAD" and reply.status not in (204, 304):
        found += _malformed(kind, text, error=reply.status >= 400)
    # the description and the pages may say what Spindle is made of
    described = reply.status == 200 and (kind == "text/html" or '"openapi"' in text[:100])
    if not described:
        found += [f"tells {hit.group(0)!r}" for hit in INTERNALS.finditer(text) if _tells(request, reply, hit.group(0))]
    if re.search(r"postgrest|/\d", reply.headers["Server"] or "", re.IGNORECASE):
        found.append(f"Server: {reply.headers['Server']}")
    return found


def _tells(request: Hostile, reply: Reply, hit: str) -> bool:
    # the old dialect's errors name both dialects
    if hit == "PostgREST" and b'"code":"OD' in reply.body.replace(b" ", b""):
        return False
    # rows hold texts and numbers of the plant, which may look like a version
    return not request.says(hit) and not (reply.status < 400 and re.fullmatch(r"[\d.]+", hit))


def _malformed(kind: str, text: str, *, error: bool) -> list[str]:
    try:
        if kind.endswith("json"):
            parsed = json.loads(text)
            if error and not (isinstance(parsed, dict) and parsed.get("code") and parsed.get("message")):
                return [f"an error without code and message: {text[:200]}"]
        elif kind == "text/csv" and not error:
            widths = {len(row) for row in csv.reader(io.StringIO(text))}
            return [] if len(widths) <= 1 else [f"CSV with rows of {widths} fields"]
        elif error or kind != "text/html":
            return [f"{kind or 'no type'} for {text[:100]!r}"]
    except ValueError as problem:
        return [f"{kind} that is none, {problem}: {text[:100]!r}"]
    return []


# --- attacks that are known ------------------------------------------------------------------------------


def known_attacks() -> list[Hostile]:
    """Those of attacks.txt, and those that are too long or too many to write down."""
    return [*_written_down(), *_every_operator(), *expensive(), *_framing()]


def _written_down() -> list[Hostile]:
    lines = Path(__file__).with_name("attacks.txt").read_text(encoding="ascii").splitlines()
    return [_read_line(line) for line in lines if line and not line.startswith("#")]


def _read_line(line: str) -> Hostile:
    request, *headers = line.encode("ascii").decode("unicode_escape").split("\t")
    method, _, target = request.partition(" ")
    named = (header.partition(": ") for header in headers)
    return Hostile(target, tuple((name, value) for name, _, value in named), method)


def _every_operator() -> list[Hostile]:
    columns = ("temperatures?day", "temperatures?readings_count", "temperatures?min_value", "machines?machine",
               "machine_changes?ts", "data_status?refresh_ok")  # fmt: skip
    operators = """eq lt in is like ilike match imatch fts plfts phfts wfts cs cd ov sl sr nxr nxl adj isdistinct not.eq
        eq(any) like(all) xx"""
    values = ("x", "{a,b}", "(a,b)")
    return [
        Hostile(f"{API}{column}={operator}.{value}")
        for column, operator, value in product(columns, operators.split(), values)
    ]


def expensive() -> list[Hostile]:
    """What costs PostgREST or PostgreSQL most, and what is as long as a URL can be."""
    patterns = ",".join(f"alarm_description.match.a{n}x*y" for n in range(450))
    stars = ",".join(f"alarm_description.imatch.({n}.*)%2B$" for n in range(400))
    queries = [
        f"machines?select=machine{'->a' * 4000}",
        f"temperatures?limit=1&or={'(or' * 4000}(machine.eq.a){')' * 4000}",
        f"temperatures?limit=1&and={'(not.or' * 1500}(machine.eq.a){')' * 1500}",
        f"temperatures?machine=in.({','.join(['a'] * 7000)})",
        f"temperatures?machine=in.({','.join(['x' * 900] * 16)})",
        f"temperatures?limit=1&select={','.join(['*'] * 8000)}",
        f"temperatures?limit=1&select={','.join(['dt'] * 5000)}",
        f"temperatures?limit=1&order={','.join(['dt'] * 5000)}",
        f"temperatures?{'&'.join(['dt=gt.1999-01-01'] * 900)}",
        f"alerts_detail?or=({patterns})",
        f"alerts_detail?or=({stars})",
        r"alerts_detail?alarm_description=match.(.*)(.*)(.*)(.*)(.*)%5C1%5C2%5C3%5C4%5C5$",
        r"alerts_detail?alarm_description=%6d%61tch.(.*)(.*)(.*)(.*)(.*)%5C1%5C2%5C3%5C4%5C5$",
        f"alerts_detail?alarm_description=like.{'*a' * 4000}",
        f"alerts_detail?alarm_description=ilike.{'_%25' * 3000}",
        f"alerts_detail?alarm_description=fts.{'%26'.join(['a'] * 3000)}",
        f"temperatures?readings_count=eq.{'9' * 400}",
        f"temperatures?min_value=gt.{'9' * 5000}",
        f"temperatures?target_date={'9' * 500}",
        "x" * 10_000,
        "machines?" + "x" * 16_300,
        "machines?" + "x" * 40_000,
    ]
    headers = {"Accept": "a/b," * 1500, "Prefer": "timezone=" + "x" * 5000, "Authorization": "Bearer " + "." * 8000,
               "X-Long": "x" * 17_000}  # fmt: skip
    return [
        *(Hostile(API + query) for query in queries),
        *(Hostile(f"{API}machines?limit=1", (header,)) for header in headers.items()),
        Hostile("/" + "a/" * 4000),
    ]


def _framing() -> list[Hostile]:
    """Bodies, lengths that lie, and other versions of HTTP."""
    second = "GET /gateway/error HTTP/1.1\r\nHost: x\r\n\r\n"
    chunked, length = ("Transfer-Encoding", "chunked"), "Content-Length"
    return [
        Hostile(f"{API}machines", headers, body=body, version=version)
        for headers, body, version in (
            (((length, "13"),), '{"machine":1}', "HTTP/1.1"),
            ((chunked,), "5\r\nhello\r\n0\r\n\r\n", "HTTP/1.1"),
            ((chunked,), "ffffffffffffffff\r\n", "HTTP/1.1"),
            (((length, "5"), chunked), f"0\r\n\r\n{second}", "HTTP/1.1"),
            (((length, "5"), (length, "6")), "123456", "HTTP/1.1"),
            (((length, "20000"),), "x" * 20_000, "HTTP/1.1"),
            ((), second, "HTTP/1.1"),
            ((), "", "HTTP/1.0"),
            ((), "", "HTTP/9.9"),
            ((), "", "HTTP/1.1 x"),
        )
    ]


# --- and more of the kind --------------------------------------------------------------------------------


def requests_over(description: dict[str, Any]) -> st.SearchStrategy[Hostile]:
    """Requests over what the OpenAPI description names: plausible parts in implausible combinations."""
    views = [path[1:] for path in description["paths"]]
    columns = {name: sorted(description["components"]["schemas"][name]["properties"]) for name in views}
    words = r"""eq gte in like ilike match fts is cs not or and select order limit offset null true desc count()
        sum() * ::text ::int ::regclass -> ->> ( ) { } any all . , : ! = & ' " \ ; -- /* % $1 0 -1 1e99 NaN infinity
        2026-03-30 now branosera pg_class agg.alerts ñ 😀 +"""
    word = st.sampled_from([*words.split(), " ", "\x00", "\x7f", "\u202e"])
    value = st.one_of(
        st.lists(word, max_size=6).map("".join),
        st.text(max_size=12),
        st.integers().map(str),
        st.floats().map(str),
        st.datetimes().map(str),
    )
    operators = """eq neq gt lte like ilike match imatch in is isdistinct fts plfts wfts cs cd ov sl adj not.eq not.in
        eq(any) like(all) fts(english) bogus"""
    operator = st.sampled_from([*operators.split(), ""])
    encode = st.sampled_from([quote, lambda text: quote(text, safe="(),.*:{}'\"->;!=&"), _encode_all, _break])

    @st.composite
    def one(draw: st.DrawFn) -> Hostile:
        endpoint = draw(st.sampled_from([*columns, *columns, "rpc/version", "nothing", ""]))
        known = st.sampled_from([*columns.get(endpoint, ["machine"]), "machine", "nothing"])
        condition = st.builds(lambda c, o, v: f"{c}.{o}.{v}", known, operator, value)
        tree = st.recursive(
            condition,
            lambda parts: st.builds(
                lambda kind, inside: f"{kind}({','.join(inside)})",
                st.sampled_from(["or", "and", "not.or", "not.and"]),
                st.lists(parts, max_size=4),
            ),
            max_leaves=12,
        )
        listed = st.lists(st.one_of(known, value), max_size=5).map(",".join)
        parameter = st.one_of(
            st.tuples(known, st.builds("{}.{}".format, operator, value)),
            st.tuples(known, value),
            st.tuples(
                st.sampled_from(["or", "and", "not.or"]), st.lists(tree, max_size=3).map(lambda t: f"({','.join(t)})")
            ),
            st.tuples(st.sampled_from(["select", "order", "columns"]), listed),
            st.tuples(st.sampled_from(["limit", "offset"]), value),
            st.tuples(st.sampled_from(["target_date", "sensor_name", "start", "end"]), value),
            st.tuples(value, value),
        )
        pairs = draw(st.lists(parameter, max_size=5))
        encoded = draw(encode)
        query = "&".join(f"{encoded(name)}={encoded(text)}" for name, text in pairs)
        header = st.tuples(
            st.sampled_from(["Accept", "Prefer", "Range", "Accept-Profile", "Authorization", "Origin", "X-Any"]),
            st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20),
        )
        # an answer of all rows of a view is no attack: the check of it would only take time
        limited = f"{query}{'&' if query else ''}limit=20" if draw(st.integers(0, 9)) else query
        return Hostile(
            f"{API}{endpoint}?{limited}",
            tuple(draw(st.lists(header, max_size=2))),
            draw(st.sampled_from(["GET", "GET", "GET", "GET", "HEAD", "OPTIONS", "POST"])),
        )

    return one()


def _encode_all(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def _break(text: str) -> str:
    """Escapes that are no UTF-8 once in a while."""
    return quote(text).replace("%C3", "%FF").replace("%F0", "%80") + ("%e2%28" if len(text) % 3 == 0 else "")
