"""The doctor: connects to everything that the settings name, changes nothing, and says what to do about what it finds.

The results server is looked at first, then the machines' databases side by side; each is limited in time, and one that
is down does not stop the others.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import psycopg

from spindle.doctor.findings import Finding, Findings, Severity
from spindle.doctor.logs import LogExamination
from spindle.doctor.machine import MachineReport, Wanted
from spindle.doctor.names import Signal, read_signals
from spindle.doctor.reader import Reader, explain
from spindle.doctor.results import ResultsReport, examine_results, reach_from_results
from spindle.doctor.server import ServerExamination
from spindle.errors import SettingsError
from spindle.settings import PLANT_FILE, Settings, read_fleet

__all__ = ["Examination", "Finding", "MachineReport", "ResultsReport", "Severity", "examine"]

PATIENCE_SECONDS = 60.0
CLOCKS_APART_SECONDS = 60.0

# What was looked at, how many are, how many there are.
Progress = Callable[[str, int, int], None]


@dataclass
class Examination:
    """Everything that was found. `findings` has the errors first, those of the results before those of machines."""

    results: ResultsReport
    machines: list[MachineReport] = field(default_factory=list)
    settings: Findings = field(default_factory=lambda: Findings("settings"))

    @property
    def findings(self) -> list[Finding]:
        everything = [*self.settings, *self.results.findings]
        everything += [finding for report in self.machines for finding in report.findings]
        return sorted(everything, key=lambda finding: list(Severity).index(finding.severity))

    @property
    def exit_code(self) -> int:
        """That of the first error; warnings alone are 0."""
        return next((finding.exit_code for finding in self.findings if finding.exit_code), 0)

    def as_json(self) -> str:
        def shown(report: MachineReport | ResultsReport) -> dict[str, object]:
            return {name: value for name, value in vars(report).items() if name != "findings"}

        document = {
            "ok": self.exit_code == 0,
            "exit_code": self.exit_code,
            "results": shown(self.results),
            "machines": {report.machine: shown(report) for report in self.machines},
            "findings": [asdict(finding) for finding in self.findings],
        }
        return json.dumps(document, default=str, indent=2)


def examine(settings: Settings, progress: Progress | None = None, patience: float = PATIENCE_SECONDS) -> Examination:
    """Look at everything. Raises SettingsError when there is nothing to look at or a seed cannot be read."""
    if settings.demo_plant and not (settings.state_dir / PLANT_FILE).exists():
        raise SettingsError(
            "no production database is set, and there is no demo plant to look at",
            "set DB_* in .env, or run `make demo`",
        )
    signals = read_signals(settings.root)
    total = 1 + len(settings.machines)
    tell = progress or (lambda name, done, total: None)
    tell("results", 0, total)
    found = Examination(examine_results(settings, patience))
    tell("results", 1, total)
    with ThreadPoolExecutor(settings.machines_at_once) as pool:
        jobs = [
            pool.submit(_examine_machine, settings, wanted, found.results, patience)
            for wanted in _wanted(settings, signals)
        ]
        for done, job in enumerate(as_completed(jobs), start=2):
            tell(job.result().machine, done, total)
    found.machines = [job.result() for job in jobs]
    _look_at_files(settings, found.settings)
    _look_at_seeds(settings, signals, found.settings)
    return found


def _wanted(settings: Settings, signals: list[Signal]) -> Iterator[Wanted]:
    first_days = _read_first_days(settings.root)
    logins = Counter((source.host, source.port, source.user) for source in settings.production.values())
    for machine, source in settings.production.items():
        local = source.same_database(settings.results)
        yield Wanted(
            machine,
            settings.results if local else source,  # its tables are read by views then, and DB_USER never logs in
            signals,
            local,
            logins[source.host, source.port, source.user],
            first_days.get(machine),
            # a demo plant may end whenever it was told to
            stale_after_hours=float("inf") if settings.demo_plant else settings.stale_after_hours,
        )


def _examine_machine(settings: Settings, wanted: Wanted, results: ResultsReport, patience: float) -> MachineReport:
    report = MachineReport(wanted.machine, wanted.source.public(), Findings(wanted.machine))
    what = f"the production database of {wanted.machine}"
    try:
        with Reader(wanted.source, patience) as reader:
            _take_steps(ServerExamination(wanted, report, reader), reader)
        _compare_clocks(report, results)
        if wanted.machine in results.foreign:
            reach_from_results(settings, report, patience)
    except psycopg.Error as error:
        report.findings.error(explain(error, what, wanted.source, wanted.prefix))
    return report


def _take_steps(server: ServerExamination, reader: Reader) -> None:
    logs = LogExamination(server.wanted, server.report, reader, server.tables)
    for what, step in (
        ("its version", server.look_at_server),
        ("its clock", server.look_at_clock),
        ("the tables", server.look_at_tables),
        ("the keys", server.look_at_keys),
        ("the privileges", server.look_at_privileges),
        ("the first and last rows", logs.look_at_bounds),
        ("the sizes", logs.look_at_sizes),
        ("the variables", logs.look_at_variables),
        ("a sample of rows", logs.read_a_sample),
    ):
        try:
            step()
        except psycopg.errors.QueryCanceled:
            server.findings.warn(
                f"a statement about {what} was cancelled after {reader.statement_seconds:g} s",
                "the server is busy or the link slow; on a standby, see max_standby_streaming_delay",
            )
        except psycopg.OperationalError:
            raise
        except (psycopg.Error, UnicodeDecodeError) as error:
            server.findings.warn(f"{what} cannot be looked at: {' '.join(str(error).split())}", "see the message")


def _compare_clocks(report: MachineReport, results: ResultsReport) -> None:
    if report.clock_seconds is None:
        return
    apart = report.clock_seconds - (results.clock_seconds or 0)
    if abs(apart) > CLOCKS_APART_SECONDS:
        report.findings.warn(
            f"its server's clock is {abs(apart):,.0f} s {'ahead of' if apart > 0 else 'behind'} the results server's",
            "set the wrong one right (NTP), or data looks older or newer than it is",
        )


def _look_at_files(settings: Settings, findings: Findings) -> None:
    env_file = settings.root / os.environ.get("SPINDLE_ENV_FILE", ".env")
    for path in (env_file, settings.state_dir / "secrets.json"):
        if path.is_file() and path.stat().st_mode & 0o077:
            findings.warn(f"{path} may be read or written by other users, and has passwords", f"chmod 600 {path}")


def _look_at_seeds(settings: Settings, signals: list[Signal], findings: Findings) -> None:
    fleet = read_fleet(settings.root)
    for machine in sorted({signal.machine for signal in signals} - fleet.keys()):
        findings.warn(
            f"seeds/signal_config.csv has variables of {machine}, which is no machine of seeds/machine_config.csv",
            "correct the name, or add the machine",
        )
    if not settings.demo_plant:
        for machine in sorted(fleet.keys() - settings.production.keys()):
            findings.note(
                f"{machine} stands in seeds/machine_config.csv, but no setting says where its database is",
                f"set DB_{machine.upper()}_HOST or DB_{machine.upper()}_NAME to read it",
            )
    shared: dict[tuple[str, int, str], list[str]] = {}
    for machine, source in settings.production.items():
        shared.setdefault((source.host, source.port, source.dbname), []).append(machine)
    for machines in shared.values():
        if len(machines) > 1:
            findings.warn(
                f"{', '.join(machines)} are read from one and the same database",
                "each machine has its own: see DB_<MACHINE>_NAME, or the column database of seeds/machine_config.csv",
            )


def _read_first_days(root: Path) -> dict[str, date]:
    found = {}
    with (root / "seeds" / "machine_config.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if text := (row.get("first_day") or "").strip():
                try:
                    found[row["machine"]] = date.fromisoformat(text)
                except ValueError as error:
                    raise SettingsError(
                        f"first_day {text} of {row['machine']} in seeds/machine_config.csv is no day",
                        "write it as 2021-01-31",
                    ) from error
    return found
