"""Everything a change must pass: lint, format, types, tests. Stops at the first that fails.

python scripts/check.py [arguments for pytest]
"""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CHECKS = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",))

# Most of the tests' time is compiling, which one process does on one core; a file's tests go to one
# process, so that what they share is compiled once. Files go out as they are named, not those with
# most tests first: those with few take longest.
WORKERS = min(4, os.cpu_count() or 1)
TESTS = ("pytest", "-n", str(WORKERS), "--dist", "loadfile", "--no-loadscope-reorder")
# XLA's older way to make kernels for CPUs takes less than half the time to compile for tiny arrays,
# and leaving LLVM's optimizations out takes less still; so does a program in one part, where both
# cores are at work on others.
# Without fused multiply-adds, which AVX has not, two of its programs round the same sum alike, on
# every processor. Tests of the real network and those that look at rounding run what users run.
# What an XLA does not know (0.12 has no older way any more) is left out: it would end the process.
QUICK = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
QUICK += " --xla_cpu_parallel_codegen_split_count=1"
if platform.machine().lower() in ("x86_64", "amd64"):
    QUICK += " --xla_cpu_max_isa=AVX"
ROUNDS = (
    ("not slow and not rounding and not long", QUICK),
    ("(slow or rounding) and not long", ""),
)
NO_TESTS = 5  # pytest's status where its arguments leave it none


def known(flags: str) -> str:
    """Those of the flags that this XLA has."""

    def starts(some: str) -> bool:
        words = [sys.executable, "-c", "import jax; jax.devices()"]
        env = {**os.environ, "XLA_FLAGS": some, "JAX_PLATFORMS": "cpu"}
        return subprocess.run(words, env=env, capture_output=True, check=False).returncode == 0

    return flags if starts(flags) else " ".join(filter(starts, flags.split()))


def run(check: Sequence[str], flags: str = "") -> int:
    """The exit status of one check, with more flags for XLA."""
    before = f"XLA_FLAGS={shlex.quote(flags)} " if flags else ""
    print(f"+ {before}{shlex.join(['python', '-m', *check])}", flush=True)
    both = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    return subprocess.run(
        [sys.executable, "-m", *check],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "XLA_FLAGS": both},
        check=False,
    ).returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the first exit status that is not 0, or 5 where pytest found no test at all."""
    extra = list(sys.argv[1:] if argv is None else argv)
    for check in CHECKS:
        if status := run(check):
            return status
    found = NO_TESTS
    for marks, flags in ROUNDS:
        status = run((*TESTS, "-m", marks, *extra), known(flags))
        if status not in (0, NO_TESTS):
            return status
        found = min(found, status)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
