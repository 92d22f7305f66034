"""Metrics for Prometheus: requests from what nginx notes of them, runs from the results database. On loopback only.

Run by the supervisor when METRICS_PORT is set.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, MetricsHandler, disable_created_metrics
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from spindle.unix_http import UnixConnection
from spindle.unprivileged import drop_rights

POLL_SECONDS = 0.5
LARGEST_LOG_BYTES = 8 * 1024**2
API_PATH = re.compile(r"/api/v1/(\w+)")
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
# from nginx's memory, from PostgreSQL, and longer than any statement may take
BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15)


class Requests:
    """Counts the lines that nginx writes: status, method, seconds, bytes, cache state, URI."""

    def __init__(self, registry: CollectorRegistry, log: Path, endpoints: Iterable[str]) -> None:
        self.log = log
        self.endpoints = frozenset(endpoints)
        self.position = log.stat().st_size if log.exists() else 0
        self.requests = Counter(
            "spindle_requests", "Requests answered.", ("endpoint", "method", "status", "cache"), registry=registry
        )
        self.seconds = Histogram(
            "spindle_request_seconds",
            "From the first byte of a request to the last one of its answer.",
            ("endpoint",),
            buckets=BUCKETS,
            registry=registry,
        )
        self.sent_bytes = Counter("spindle_sent_bytes", "Bytes of answers' bodies.", ("endpoint",), registry=registry)

    def follow(self) -> None:
        """Count what is new. A log that has grown long is emptied; nginx appends, so it goes on at its new end."""
        for line in self._new_lines():
            status, method, seconds, sent, cache, uri = line.split(" ", 5)
            endpoint = self._endpoint(uri)
            known_method = method if method in METHODS else "other"
            self.requests.labels(endpoint, known_method, status, cache[1:].lower() or "none").inc()
            self.seconds.labels(endpoint).observe(float(seconds))
            self.sent_bytes.labels(endpoint).inc(int(sent))

    def _new_lines(self) -> list[str]:
        try:
            with self.log.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self.position:
                    self.position = 0
                file.seek(self.position)
                found = file.read()
        except FileNotFoundError:
            return []
        whole = found[: found.rfind(b"\n") + 1]
        self.position += len(whole)
        if self.position > LARGEST_LOG_BYTES:
            os.truncate(self.log, 0)
            self.position = 0
        return whole.decode(errors="replace").splitlines()

    def _endpoint(self, uri: str) -> str:
        """A label of which there are few, whatever is asked."""
        found = API_PATH.match(uri)
        if not found:
            return "description" if uri.startswith("/api/v1") else "page"
        return found.group(1) if found.group(1) in self.endpoints else "unknown"


class Runs(Collector):
    """Asks the results database, through PostgREST, at every scrape."""

    def __init__(self, postgrest_socket: Path) -> None:
        self.socket = postgrest_socket

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked before the first scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        found = self._ask()
        yield GaugeMetricFamily(
            "spindle_database_up", "Whether PostgREST and the database answer.", value=found is not None
        )
        if found is None:
            return
        machines = {
            "data_until": "spindle_data_until_timestamp_seconds|Newest log time that the machine's results include.",
            "refreshed_at": "spindle_refreshed_timestamp_seconds|End of the machine's last good refresh or rebuild.",
            "succeeded": "spindle_refresh_succeeded|Whether the last refresh or rebuild succeeded for the machine.",
        }
        for key, described in machines.items():
            name, text = described.split("|")
            yield _family(GaugeMetricFamily(name, text, labels=["machine"]), found["machines"], ["machine"], key)
        kinds = ["kind", "outcome"]
        runs = {
            "last_finished_at": "spindle_run_finished_timestamp_seconds|End of the last run of this kind and outcome.",
            "last_seconds": "spindle_run_seconds|How long that run took.",
        }
        for key, described in runs.items():
            name, text = described.split("|")
            yield _family(GaugeMetricFamily(name, text, labels=kinds), found["runs"], kinds, key)
        yield _family(CounterMetricFamily("spindle_runs", "Runs ended.", labels=kinds), found["runs"], kinds, "runs")

    def _ask(self) -> Any:
        with closing(UnixConnection(self.socket)) as connection:
            try:
                connection.request("GET", "/rpc/run_metrics", headers={"Accept-Profile": "gateway"})
                answer = connection.getresponse()
                return json.load(answer) if answer.status == 200 else None
            except (OSError, ValueError, http.client.HTTPException):
                return None


def _family(
    family: GaugeMetricFamily | CounterMetricFamily, rows: list[dict[str, Any]], labels: list[str], key: str
) -> Metric:
    for row in rows:
        if row[key] is not None:  # a machine that never succeeded
            family.add_metric([row[label] for label in labels], row[key])
    return family


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m spindle.metrics")
    parser.add_argument("--user", help="run as this user (only root can)")
    parser.add_argument("--namespace", action="store_true", help="only be called that user, in a user namespace")
    parser.add_argument("port", type=int)
    parser.add_argument("requests_log", type=Path)
    parser.add_argument("postgrest_socket", type=Path)
    parser.add_argument("endpoints", nargs="*")
    options = parser.parse_args()
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    registry.register(Runs(options.postgrest_socket))
    requests = Requests(registry, options.requests_log, options.endpoints)
    server = ThreadingHTTPServer(("127.0.0.1", options.port), MetricsHandler.factory(registry))
    drop_rights(options.user, options.namespace)
    Thread(target=server.serve_forever, daemon=True).start()
    while True:
        requests.follow()
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
