"""A refresh: the days since the last one, up to a new cut, and a check of what is served then."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from spindle import database, guards, verify
from spindle.compute import compute
from spindle.errors import SpindleError
from spindle.extract import Days
from spindle.runs import failure, only_one, recorded
from spindle.settings import Settings
from spindle.transform import Progress, Project


@dataclass(frozen=True)
class RefreshReport:
    """What a refresh did.

    `cuts` are aware times, `machines` is how many were asked for. `absent` lists signals (machine, variable) that a
    machine's dictionary lacks, so they have no results; `failed` the machines that failed, with their errors.
    `unchecked` says why the API was not checked, if it was not.
    """

    run_id: int
    cuts: dict[str, datetime]
    records: dict[str, dict[str, int]]
    machines: int
    absent: list[tuple[str, str]]
    failed: dict[str, SpindleError]
    unchecked: str

    def raise_failed(self) -> None:
        """Raise MachinesFailed when some machines failed and others did not."""
        if self.failed:
            raise failure(self.failed, self.machines)

    def as_json(self) -> str:
        document = {
            "run_id": self.run_id,
            "cuts": {machine: cut.isoformat() for machine, cut in self.cuts.items()},
            "records": self.records,
            "absent_signals": self.absent,
            "failed_machines": {machine: error.what for machine, error in self.failed.items()},
            "unchecked": self.unchecked or None,
        }
        return json.dumps(document, indent=2)


def refresh(
    settings: Settings,
    *,
    accept_loss: bool = False,
    verbose: bool = False,
    progress: Progress | None = None,
) -> RefreshReport:
    """Compute the days since the last refresh of each machine, up to a new cut.

    Raises SettingsError and RefreshBusy before the run begins; CannotConnect or RefreshFailed after, when all machines
    or a model fail, and the run's record then has the outcome `failed` and the error. A log that ends before the last
    cut is a failure of its machine unless `accept_loss`: results after its end would be deleted.
    """
    verify.check_port(settings)
    with database.results(settings) as connection, only_one(connection):
        with recorded(settings, connection, "refresh") as run:
            has_results = guards.has_results(connection)
            before = verify.count_records(connection) if has_results else {}
            project = Project(settings, connection, verbose=verbose)
            models = project.prepare(progress)
            check = guards.make_check(has_results=has_results, accept_loss=accept_loss)
            compute(settings, run, project, models, settings.machines, Days(), check=check, progress=progress)
            if not accept_loss:
                run.refuse(verify.find_losses(connection, before))
                run.raise_failed()
            run.succeed()
            unchecked = verify.check_api(settings, connection, run.computed)
        return RefreshReport(
            run.run_id,
            verify.read_cuts(connection),
            verify.count_records(connection),
            len(run.extracts),
            [(extract.machine, variable) for extract in run.extracts for variable in extract.absent],
            run.failed,
            unchecked,
        )


def check_served(settings: Settings) -> str:
    """Compare the API with the results of the last refresh. Raises RefreshFailed; returns why nothing was checked."""
    with database.results(settings) as connection:
        return verify.check_api(settings, connection, settings.machines)
