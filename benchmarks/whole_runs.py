"""Whole runs of stylejax and of PyTorch, in turns, each from process start to file.

For ``against_torch.py``. ``cold`` compiles everything, ``warm`` finds what ``cold`` has left in its
cache folder. The peak is what the process held on the host, not on a GPU.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch_reference
from PIL import Image

from stylejax import weights

STYLIZE = Path(__file__).resolve().parents[1] / "scripts" / "stylize.py"
Row = dict[str, Any]

# The peak that a process reports is at least its parent's, so a small one starts it.
STARTER = """
import json, os, sys, time
began = time.perf_counter()
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(process, 0)
seconds = time.perf_counter() - began
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss]))
"""


class Race(NamedTuple):
    """What every run makes: pictures, the long side in pixels, evaluations."""

    photo: Path
    painting: Path
    size: int
    evaluations: int


def pictures(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo and a painting that differ enough for every term to count."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    noise = 0.2 * np.random.default_rng(1).random((2, size, size, 3), np.float32)
    photo = 0.8 * np.stack([x, y, (x + y) / 2], -1)
    waves = [0.4 + 0.4 * np.sin(f * x + g * y) for f, g in ((90, 20), (40, 70), (-30, 110))]
    return photo + noise[0], np.stack(waves, -1) + noise[1]


def spawn(*command: Any, **environment: Any) -> tuple[float, float, str]:
    """Seconds, peak megabytes and the last printed line of a Python program."""
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(
        [sys.executable, "-c", STARTER, *words],
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        check=True,
    )
    *said, last = done.stdout.splitlines()
    code, seconds, peak = json.loads(last)
    if code:
        raise SystemExit(f"{' '.join(words)} returned {code}: {done.stderr}")
    return seconds, peak * 1024 / 1e6, said[-1] if said else ""


def our_run(race: Race, cache: Path) -> Row:
    """The command, with its cache folder."""
    out = cache / "out.png"
    seconds, peak, _ = spawn(
        *(STYLIZE, race.photo, race.painting, "-o", out, "--quiet", "--offline"),
        *("--network", "vgg19", "--size", race.size),
        *("--scales", 1, "--steps", race.evaluations - 1),
        STYLEJAX_CACHE=cache,
    )
    with Image.open(out) as picture:
        made = json.loads(picture.info["stylejax"])
    return {"seconds": seconds, "peak": peak, "done": made["evaluations"], "loss": made["loss"]}


def torch_run(race: Race, folder: Path, network: Path, *options: str) -> Row:
    """PyTorch's program."""
    seconds, peak, said = spawn(
        *(torch_reference.__file__, race.photo, race.painting, "-o", folder / "torch.png"),
        *("--size", race.size, "--evaluations", race.evaluations, "--weights", network),
        *options,
    )
    made = json.loads(said)
    return {"seconds": seconds, "peak": peak, "done": made["evaluations"], "loss": made["loss"]}


def compete(race: Race, objectives: Sequence[str], repeats: int, device: str) -> Iterator[Row]:
    """Medians by competitor.

    Args:
      race: what all of them make.
      objectives: PyTorch's, one or more; each runs in both layouts.
      repeats: rounds of one run each, the first of ours with an empty cache folder.
      device: PyTorch's.

    Yields:
      Rows whose ``ratio`` is to PyTorch's faster layout with the first objective.
    """
    network = weights.resolve().absolute()
    found: dict[str, list[Row]] = {}
    with TemporaryDirectory() as name:
        for number in range(repeats):
            folder = Path(name, str(number))
            folder.mkdir()
            (folder / "vgg19.h5").symlink_to(network)
            for state in ("cold", "warm"):
                found.setdefault(f"stylejax {state}", []).append(our_run(race, folder))
            for objective, layout in product(objectives, torch_reference.LAYOUTS):
                how = ("--objective", objective, "--layout", layout, "--device", device)
                row = torch_run(race, folder, network, *how)
                found.setdefault(f"torch {objective} {layout}", []).append(row)
    medians = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in found.items()
    }
    first = f"torch {objectives[0]} "
    best = min(row["seconds"] for name, row in medians.items() if name.startswith(first))
    for name, row in medians.items():
        every = [each["seconds"] for each in found[name]]
        yield {"name": name, "size": race.size, **row, "ratio": row["seconds"] / best, "all": every}
