"""Runs dbt inside this process (a second start would cost seconds) with the settings loaded."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from spindle.errors import RefreshFailed
from spindle.settings import Settings

MODELS_ONLY = ("--resource-type", "seed", "--resource-type", "model")


@dataclass(frozen=True)
class ModelRun:
    """Rows that a model wrote, and its seconds."""

    rows: int
    seconds: float


# name of the node, how many are done, how many there are
Progress = Callable[[str, int, int], None]


def environment(settings: Settings) -> dict[str, str]:
    """What profiles.yml.example reads."""
    target = settings.results
    return {
        "AGG_DB_HOST": target.host,
        "AGG_DB_PORT": str(target.port),
        "AGG_DB_NAME": target.dbname,
        "AGG_DB_USER": target.user,
        "AGG_DB_PASSWORD": target.password,
        "AGG_DB_SSLMODE": target.sslmode,
    }


def run_models(
    settings: Settings,
    *,
    variables: Mapping[str, Any] | None = None,
    options: Sequence[str] = MODELS_ONLY,
    verbose: bool = False,
    progress: Progress | None = None,
) -> dict[str, ModelRun]:
    """Load the seeds and run every model, with these dbt vars; other options of `dbt build` choose other nodes.

    Raises RefreshFailed with dbt's message of each node that failed.
    """
    arguments = ["build", *options]
    arguments += ["--vars", json.dumps(variables or {}), "--target-path", str(settings.state_dir / "dbt" / "target")]
    result = _invoke(settings, arguments, quiet=not verbose, callbacks=[_watch(progress)] if progress else [])
    nodes = getattr(result.result, "results", [])
    if not result.success:
        failed = [f"{node.node.name}: {node.message}" for node in nodes if node.status in ("error", "fail")]
        reason = "\n  ".join(failed) or str(result.exception or "dbt stopped")
        raise RefreshFailed(f"dbt: {reason}", f"dbt's own log is {settings.logs / 'dbt.log'}")
    return {
        node.node.name: ModelRun(int(node.adapter_response.get("rows_affected", 0)), round(node.execution_time, 3))
        for node in nodes
        if node.node.resource_type == "model" and node.node.config.materialized == "incremental"
    }


def run_any(settings: Settings, arguments: Sequence[str]) -> int:
    """Any dbt command, as typed. Returns dbt's exit code: 0 done, 1 something failed, 2 bad usage or an exception."""
    result = _invoke(settings, list(arguments), quiet=False, callbacks=[])
    return 0 if result.success else 2 if result.exception else 1


def _invoke(settings: Settings, arguments: list[str], quiet: bool, callbacks: list[Callable[[Any], None]]) -> Any:
    from dbt.cli.main import dbtRunner  # two seconds of imports: only who runs dbt pays them

    if quiet:
        arguments = ["--log-level", "none", "--log-level-file", "debug", *arguments]
    with _dbt_environment(settings):
        return dbtRunner(callbacks=callbacks).invoke(arguments)


@contextmanager
def _dbt_environment(settings: Settings) -> Iterator[None]:
    """dbt takes project, profile and connection from the environment; it is given back as it was."""
    profiles = settings.state_dir / "dbt"
    profiles.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(settings.root / "profiles.yml.example", profiles / "profiles.yml")
    settings.logs.mkdir(parents=True, exist_ok=True)
    before = dict(os.environ)
    os.environ.update(
        environment(settings),
        DBT_PROJECT_DIR=str(settings.root),
        DBT_PROFILES_DIR=str(profiles),
        DBT_LOG_PATH=str(settings.logs),
        DBT_USE_COLORS=str(sys.stdout.isatty()),
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _watch(progress: Progress) -> Callable[[Any], None]:
    done = total = 0

    def follow(event: Any) -> None:
        nonlocal done, total
        name = event.info.name
        if name == "ConcurrencyLine":
            total = event.data.node_count
        elif name in ("NodeStart", "NodeFinished"):
            done += name == "NodeFinished"
            progress(event.data.node_info.node_name, done, total)

    return follow
