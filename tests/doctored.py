"""What the doctor is shown: settings, healthy machines, and what it said of them."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from itertools import count
from pathlib import Path

from spindle.doctor import Examination, Severity
from spindle.doctor.names import read_signals
from spindle.secrets import with_secrets
from spindle.settings import Connection, Settings, load_settings
from tests.conftest import AUTHENTICATOR_PASSWORD, ROOT
from tests.servers import Server

PASSWORD = "not to be seen anywhere"
ROWS_EACH = 400
NOW_MS = round(datetime.now(timezone.utc).timestamp() * 1000)
EXPECTED = "^it is not set up yet$|no setting says where its database is$"
numbers = count()


def settings_in(folder: Path, results: Connection, machines: dict[str, Connection], root: Path = ROOT) -> Settings:
    """Settings of these connections, with the state in the folder."""
    return with_secrets(load_settings(root, environment(results, folder, machines)))


def environment(results: Connection | None, folder: Path, machines: dict[str, Connection]) -> dict[str, str]:
    keys = {"HOST": "host", "PORT": "port", "NAME": "dbname", "USER": "user", "PASSWORD": "password"}
    keys["SSLMODE"] = "sslmode"
    prefixed = {f"DB_{machine.upper()}": connection for machine, connection in machines.items()}
    if results:
        prefixed["AGG_DB"] = results
    found = {
        f"{prefix}_{key}": str(getattr(each, name)) for prefix, each in prefixed.items() for key, name in keys.items()
    }
    own = {"STATE_DIR": str(folder / "state"), "AUTHENTICATOR_PASSWORD": AUTHENTICATOR_PASSWORD}
    return found | own | {"SPINDLE_ENV_FILE": "/dev/null"}


def make_machine(server: Server, machine: str = "branosera", last_ms: int = NOW_MS) -> Connection:
    """A healthy database of a machine of the seed, with every variable it names, and a login with the least rights."""
    signals = [signal for signal in read_signals(ROOT) if signal.machine == machine]
    variables = {number: signal.variable for number, signal in enumerate(signals, start=1)} | {90: "X"}
    texts = [number for number, signal in enumerate(signals, start=1) if signal.role == "alarms"]
    dates = [last_ms - 1000 * ago for ago in range(ROWS_EACH)]
    name = f"{machine}_{next(numbers)}"
    server.database(
        name,
        variables,
        [(number, date, 1.5) for number in variables if number not in texts for date in dates],
        [(number, date, "[]") for number in texts for date in dates],
    )
    return server.grant_reader(name, f"reader_of_{name}", PASSWORD)


def said(found: Examination, severity: Severity | None = None) -> list[str]:
    """What was said, without two notes: that nothing was set up, and that the seed's other machine has no settings."""
    return [
        f"{finding.where}: {finding.what} | {finding.advice}"
        for finding in found.findings
        if not re.search(EXPECTED, finding.what) and severity in (None, finding.severity)
    ]


def only(found: Examination, severity: Severity, pattern: str, exit_code: int = 0) -> None:
    """It said this one thing."""
    (line,) = said(found)
    assert said(found, severity) == [line]
    assert re.search(pattern, line), line
    assert found.exit_code == exit_code
