"""Runs dbt inside this process (a second start would cost seconds) with the settings loaded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from typing import Any

import psycopg

from spindle.deployed import Deployment
from spindle.errors import RefreshFailed
from spindle.settings import Settings

EXTRACT = "path:models/extract"


@dataclass(frozen=True)
class ModelRun:
    """Rows that a model wrote, its seconds, and the extracted models that it reads."""

    rows: int
    seconds: float
    reads: tuple[str, ...] = ()


class ModelFailed(RefreshFailed):
    """Models or tests failed; `models` are those that were computed in spite of it."""

    def __init__(self, what: str, advice: str, models: dict[str, ModelRun]) -> None:
        super().__init__(what, advice)
        self.models = models


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


class Project:
    """The dbt project, parsed once for several commands. A suffix builds beside the live schemas.

    What it makes once are the seeds, the extracted models and the views; they are left alone while they are as it makes
    them (see deployed.py). `connection` is to the results database.
    """

    def __init__(
        self, settings: Settings, connection: psycopg.Connection, *, suffix: str = "", verbose: bool = False
    ) -> None:
        self.settings, self.connection, self.suffix, self.verbose = settings, connection, suffix, verbose
        self._is_deployed = False

    def prepare(self, progress: Progress | None = None) -> list[str]:
        """Load the seeds and test them, and make the extracted models without filling them.

        Returns these models, dependencies first. Raises RefreshFailed that names the rule that a seed breaks.
        """
        self._is_deployed = not self.suffix and self.deployment.is_current()
        if not self._is_deployed:
            wanted = ["--select", EXTRACT, "resource_type:seed", "--exclude", f"{EXTRACT},resource_type:test"]
            self._build([*wanted, *_types("model", "seed", "test")], progress)
            self.deployment.note_seeds()
        extracted = {
            unique_id: model.depends_on.nodes
            for unique_id, model in self._models.items()
            if model.config.materialized == "extracted"
        }
        order = TopologicalSorter(extracted).static_order()
        return [self._models[unique_id].name for unique_id in order if unique_id in extracted]

    def compute(self, progress: Progress | None = None) -> dict[str, ModelRun]:
        """Compute the results of the machines in refresh_window from what was extracted, and make the views.

        Raises ModelFailed, with the models that did not.
        """
        made = ["config.materialized:view"] if self._is_deployed else []
        nodes = self._build(["--exclude", EXTRACT, "resource_type:seed", *made, *_types("model")], progress)
        if not self._is_deployed and not self.suffix:
            self.deployment.mark()
        self._is_deployed = self.deployment.keeps_all
        return _model_runs(nodes, self._models)

    def test(self, progress: Progress | None = None) -> None:
        """Run the data tests. Raises RefreshFailed that names those that failed."""
        self._build(_types("test"), progress)

    def _build(self, options: Sequence[str], progress: Progress | None) -> list[Any]:
        """Nodes that were run, in the order of their ends. Raises RefreshFailed with dbt's message of each failure."""
        callbacks = [_watch(progress)] if progress else []
        result = self._invoke("build", options, callbacks, self._manifest)
        return list(_checked(self.settings, result, self._models).result.results)

    @cached_property
    def _manifest(self) -> Any:
        return _checked(self.settings, self._invoke("parse", [], [], None), {}).result

    @cached_property
    def _models(self) -> dict[str, Any]:
        """dbt's nodes of the models by their ids."""
        nodes = self._manifest.nodes.items()
        return {unique_id: node for unique_id, node in nodes if node.resource_type == "model"}

    @cached_property
    def deployment(self) -> Deployment:
        """What the project makes once."""
        return Deployment(self.connection, self.settings.root, self._manifest, self.suffix)

    def _invoke(
        self, command: str, options: Sequence[str], callbacks: list[Callable[[Any], None]], manifest: Any
    ) -> Any:
        # What dbt has parsed it keeps there for the next run, but only for the same vars. Its artifacts in JSON take a
        # second to write, and nobody reads them here.
        target = self.settings.state_dir / "dbt" / f"target{self.suffix}"
        common = ["--target-path", str(target), "--no-write-json"]
        if self.suffix:
            common += ["--vars", json.dumps({"schema_suffix": self.suffix})]
        with _dbt_environment(self.settings, {"SPINDLE_EXTRACT": "later"}):
            arguments = [command, *options, *common]
            return _invoke(arguments, quiet=not self.verbose, callbacks=callbacks, manifest=manifest)


def _types(*resource_types: str) -> list[str]:
    return [word for resource_type in resource_types for word in ("--resource-type", resource_type)]


def _checked(settings: Settings, result: Any, models: Mapping[str, Any]) -> Any:
    if result.success:
        return result
    nodes = getattr(result.result, "results", [])
    failed = [
        f"{node.node.name}: {(node.status == 'fail' and node.node.description) or node.message}"
        for node in nodes
        if node.status in ("error", "fail")
    ]
    reason = "\n  ".join(failed) or str(result.exception or "dbt stopped")
    computed = _model_runs([node for node in nodes if node.status == "success"], models)
    raise ModelFailed(f"dbt: {reason}", f"dbt's own log is {settings.logs / 'dbt.log'}", computed)


def _model_runs(nodes: Sequence[Any], models: Mapping[str, Any]) -> dict[str, ModelRun]:
    """What dbt says of the models that store rows."""
    return {
        node.node.name: ModelRun(
            int(node.adapter_response.get("rows_affected", 0)),
            round(node.execution_time, 3),
            tuple(sorted(_extracted(node.node.unique_id, models))),
        )
        for node in nodes
        if node.node.config.materialized == "incremental"
    }


def _extracted(unique_id: str, models: Mapping[str, Any]) -> set[str]:
    """The extracted models that a model reads by way of views: what others have stored is no log row."""
    found: set[str] = set()
    for parent in models[unique_id].depends_on.nodes:
        materialized = models[parent].config.materialized if parent in models else None
        if materialized == "extracted":
            found.add(models[parent].name)
        elif materialized == "view":
            found |= _extracted(parent, models)
    return found


def run_any(settings: Settings, arguments: Sequence[str]) -> int:
    """Any dbt command, as typed. Returns dbt's exit code: 0 done, 1 something failed, 2 bad usage or an exception."""
    with _dbt_environment(settings, {}):
        result = _invoke(list(arguments), quiet=False, callbacks=[])
    return 0 if result.success else 2 if result.exception else 1


def _invoke(arguments: list[str], quiet: bool, callbacks: list[Callable[[Any], None]], manifest: Any = None) -> Any:
    """Raises KeyboardInterrupt when the user interrupted dbt: dbt itself would end as if a query had failed."""
    from dbt.cli.main import dbtRunner  # two seconds of imports: only who runs dbt pays them

    if quiet:
        # every statement, as dbt logs it by default, is a seventh of its time and 400 kB a refresh
        arguments = ["--log-level", "none", "--log-level-file", "info", *arguments]
    with _watched_interrupt() as interrupted:
        result = dbtRunner(manifest=manifest, callbacks=callbacks).invoke(arguments)
    if interrupted:
        raise KeyboardInterrupt
    return result


@contextmanager
def _watched_interrupt() -> Iterator[list[int]]:
    """The list gets the signal's number when SIGINT comes; what handled it before still does."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _dbt_environment(settings: Settings, more: Mapping[str, str]) -> Iterator[None]:
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
    os.environ.update(more)
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
