"""Everything a change must pass: lint, format, types, tests. Stops at the first that fails.

python scripts/check.py [arguments for pytest]
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# Most of the tests' time is compiling, which one process does on one core; a file's tests go to one
# process, so that what they share is compiled once. Files go out as they are named, not those with
# most tests first: those with few take longest.
WORKERS = min(4, os.cpu_count() or 1)
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("pytest", "-n", str(WORKERS), "--dist", "loadfile", "--no-loadscope-reorder"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the first exit status that is not 0."""
    extra = list(sys.argv[1:] if argv is None else argv)
    for check in CHECKS:
        command = [sys.executable, "-m", *check, *(extra if check[0] == "pytest" else [])]
        print("+", " ".join(["python", *command[1:]]), flush=True)
        status = subprocess.run(command, cwd=Path(__file__).parents[1], check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
