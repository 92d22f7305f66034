"""`python -m tests.lint_sql`: sqlfluff over all SQL, with dbt's own compiler, which wants a database: a scratch one."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from spindle.settings import load_settings
from spindle.transform import environment
from tests.conftest import ROOT, Spindle


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="spindle-lint-") as folder:
        scratch = Spindle(Path(folder) / "state")
        try:
            scratch.run("init")
            shutil.copyfile(ROOT / "profiles.yml.example", Path(folder) / "profiles.yml")
            settings = load_settings(environ=scratch.environment)
            linted = subprocess.run(
                [str(Path(sys.executable).parent / "sqlfluff"), "lint", "models", "api_views", *sys.argv[1:]],
                cwd=ROOT,
                env=scratch.environment | environment(settings) | {"DBT_PROFILES_DIR": folder},
            )
            return linted.returncode
        finally:
            scratch.run("stop", exit_code=None)


if __name__ == "__main__":
    sys.exit(main())
