"""All tests: most of them side by side, then one by one those that measure time (marked `alone`).

`python -m tests [pytest's arguments]`; ends with 0 when all passed. SPINDLE_THOROUGH=1 runs the thorough ones too.
"""

from __future__ import annotations

import os
import subprocess
import sys

PASSED, NOTHING_COLLECTED = 0, 5
# One more than cores: a test often waits for a server.
WORKERS = str((os.cpu_count() or 1) + 1)
PARTS = (
    ["-m", "not alone", "--numprocesses", WORKERS, "--dist", "loadfile", "--no-loadscope-reorder"],
    ["-m", "alone"],
)


def main(arguments: list[str]) -> int:
    codes = [subprocess.call([sys.executable, "-m", "pytest", *part, *arguments]) for part in PARTS]
    failed = [code for code in codes if code not in (PASSED, NOTHING_COLLECTED)]
    if failed:
        return failed[0]
    return PASSED if PASSED in codes else NOTHING_COLLECTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
