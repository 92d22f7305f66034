"""Clients at full speed. One on a keep-alive connection, a process: `python load.py PORT PATH…`, until its input ends.

Prints one JSON object: `requests` as [path's number, began, seconds, status, body's number] and the different `bodies`.
Times are the system's monotonic ones. Status 0: no answer at all, and the body is the reason. A connection that the
server closed while it was idle is no failure: HTTP clients ask again on a new one.

And `crowd`: many connections in one process; `per_second`: as many answers as the server has.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

Reply: TypeAlias = "tuple[int, bytes]"


def main() -> None:
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
    paths = sys.argv[2:]
    stop = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=listen, daemon=True).start()
    requests: list[tuple[int, float, float, int, int]] = []
    bodies: dict[str, int] = {}
    while not stop.is_set():
        for number, path in enumerate(paths):
            began = time.monotonic()
            try:
                status, body = ask(connection, path)
            except (OSError, http.client.HTTPException) as error:
                status, body = 0, repr(error)
                connection.close()
            seconds = time.monotonic() - began
            requests.append((number, began, seconds, status, bodies.setdefault(body, len(bodies))))
    json.dump({"requests": requests, "bodies": list(bodies)}, sys.stdout)


def ask(connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    reused = connection.sock is not None
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
    except (http.client.RemoteDisconnected, ConnectionError):
        connection.close()
        if not reused:
            raise
        return ask(connection, path)
    return answer.status, answer.read().decode()


async def crowd(port: int, expected: Mapping[str, bytes], connections: int, seconds: float) -> Counter[str]:
    """So many clients at once, each on a connection of its own, ask for these paths in turn.

    Counts the answers that are 200 with the expected body as "right", and any other under its own text.
    """
    deadline = time.monotonic() + seconds
    seen: Counter[str] = Counter()
    await asyncio.gather(
        *(_member(port, list(expected.items()), number, deadline, seen) for number in range(connections))
    )
    return seen


def per_second(port: int, paths: Sequence[str], connections: int = 16) -> float:
    """Answers a second when each connection sends its share of the requests without waiting (HTTP pipelining)."""
    wire = [f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() for path in paths]

    def send(number: int) -> None:
        share = wire[number::connections]
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            threading.Thread(target=connection.sendall, args=(b"".join(share),), daemon=True).start()
            answered, tail = 0, b""
            while answered < len(share):
                received = connection.recv(1 << 20)
                assert received, "hung up"
                window = tail + received
                answered += window.count(b"HTTP/1.1 200 ")
                assert b"HTTP/1.1 5" not in window
                tail = window[-12:]

    began = time.monotonic()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(send, range(connections)))
    return len(paths) / (time.monotonic() - began)


async def _member(
    port: int, expected: Sequence[tuple[str, bytes]], number: int, deadline: float, seen: Counter[str]
) -> None:
    streams = None
    while time.monotonic() < deadline:
        number += 1
        path, right = expected[number % len(expected)]
        reused = streams is not None
        try:
            streams = streams or await asyncio.open_connection("127.0.0.1", port)
            status, body = await asyncio.wait_for(_exchange(*streams, path), 60)
            seen["right" if (status, body) == (200, right) else f"{path}: {status} {body[:200]!r}"] += 1
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            if streams:
                streams[1].close()
            streams = None
            if not (reused and isinstance(error, (ConnectionError, asyncio.IncompleteReadError))):
                seen[f"{path}: {error!r}"] += 1
    if streams:
        streams[1].close()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> Reply:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    if b"transfer-encoding: chunked" not in head:
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return status, await reader.readexactly(length)
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return status, body


if __name__ == "__main__":
    main()
