"""How long until there is something to see? The command, from process start.

python benchmarks/start.py [--size 320] [--repeats 3] [--network vgg19]

The examples, default settings, with an empty folder of compiled programs and then with a kept one:
seconds until the line of the start picture (all compiled that the first scale needs, its targets
made, its first evaluation done) and until the file is there; medians. ``import`` is ``import
stylejax`` in a Python that is running already. Wants an idle machine.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from stylejax import weights

ROOT = Path(__file__).parents[1]
IMPORT = "import time; t = time.perf_counter(); import stylejax; print(time.perf_counter() - t)"


class Times(NamedTuple):
    """Seconds since the process was started."""

    preview: float
    file: float


def run(size: int, network: str, folder: Path) -> Times:
    """One run of the command with ``folder`` for its cache."""
    output = folder / "out.png"
    inputs = [str(ROOT / "examples" / name) for name in ("photo.jpg", "painting.jpg")]
    command = [sys.executable, str(ROOT / "scripts" / "stylize.py"), *inputs, "-o", str(output)]
    command += ["--size", str(size), "--offline", "--network", network]
    environment = {**os.environ, "STYLEJAX_CACHE": str(folder), "PYTHONUNBUFFERED": "1"}
    began, preview = time.perf_counter(), 0.0
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout
        for line in child.stdout:
            if not preview and "step 0/" in line:
                preview = time.perf_counter() - began
    if child.returncode or not output.is_file():
        raise SystemExit(f"the command failed with status {child.returncode}")
    return Times(preview, time.perf_counter() - began)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--network", default="vgg19")
    options = parser.parse_args(argv)
    runs: dict[str, list[Times]] = {"empty": [], "kept": []}
    imports = []
    for _ in range(options.repeats):
        said = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
        imports.append(float(said.stdout))
        with tempfile.TemporaryDirectory() as name:
            if options.network == "vgg19":
                file = weights.resolve()
                shutil.copy(file, Path(name) / file.name)
            for found in runs.values():
                found.append(run(options.size, options.network, Path(name)))
    print(f"import {statistics.median(imports):.2f} s")
    print("compiled programs   first preview      file")
    for kind, found in runs.items():
        preview, file_there = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{kind:17} {preview:13.1f} s {file_there:8.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
