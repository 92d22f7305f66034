"""One client at full speed on a keep-alive connection, as a process: `python load.py PORT PATH…`, until its input ends.

Prints one JSON object: `requests` as [path's number, began, seconds, status, body's number] and the different `bodies`.
Times are the system's monotonic ones. Status 0: no answer at all, and the body is the reason.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time


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
                connection.request("GET", path)
                answer = connection.getresponse()
                status, body = answer.status, answer.read().decode()
            except (OSError, http.client.HTTPException) as error:
                status, body = 0, repr(error)
                connection.close()
            seconds = time.monotonic() - began
            requests.append((number, began, seconds, status, bodies.setdefault(body, len(bodies))))
    json.dump({"requests": requests, "bodies": list(bodies)}, sys.stdout)


if __name__ == "__main__":
    main()
