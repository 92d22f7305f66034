"""What every kind of run does with its days: extract the machines side by side, compute them as they are ready."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from spindle import extract
from spindle.runs import Run
from spindle.settings import Settings
from spindle.transform import ModelFailed, Progress, Project


def compute(
    settings: Settings,
    run: Run,
    project: Project,
    models: Sequence[str],
    machines: Sequence[str],
    days: extract.Days,
    *,
    check: extract.Check | None = None,
    progress: Progress | None = None,
) -> None:
    """Results of the machines' days. `models` is what Project.prepare returned.

    A machine that fails is recorded in the run and stops no other. Raises what it failed with when all do, and
    RefreshFailed when a model fails.
    """
    schema = f"staging{project.suffix}"
    # closed when a model fails: the lock must not be given up while machines are still being read
    with closing(extract.extract(settings, machines, models, days, schema, check=check, progress=progress)) as waves:
        for wave in waves:
            run.add(wave)
            if any(machine.error is None for machine in wave):
                try:
                    run.add_models(wave, project.compute(progress))
                except ModelFailed as error:
                    run.add_models(wave, error.models)
                    raise
    run.raise_failed()
