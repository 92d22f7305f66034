"""HTTP over a unix socket: to the services of the state folder, past the gateway's port."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

TIMEOUT_SECONDS = 5


class UnixConnection(http.client.HTTPConnection):
    """A connection to the server that listens at `path`."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))
