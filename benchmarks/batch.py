"""Is one ``stylejax batch`` quicker than a loop of single runs? From process start to files.

python benchmarks/batch.py [--size 128] [--pictures 8] [--steps 60] [--repeats 1] [--network vgg19]
    [--options "--together 1" "--together 4" "--scheduler local --workers 2"]

Both make the same pictures, of as many photos of one size with one painting, and begin with an
empty folder of compiled programs, which the loop's later runs find filled. ``--options`` are those
of ``stylejax batch`` that are compared, each with its own folder; without them its defaults.
Pictures per minute, and how many times those of the loop; medians. Wants an idle machine.

Required: 1.15 times on two CPU cores, 1.5 on a GPU at 256 pixels.
"""

import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stylejax import images, weights

ROOT = Path(__file__).parents[1]
COMMAND = (sys.executable, str(ROOT / "scripts" / "stylize.py"))


def photos(folder: Path, count: int, size: int) -> list[Path]:
    """Parts of the examples' photo, each shifted a little, of a size that is read as it is."""
    whole = images.load(ROOT / "examples" / "photo.jpg").image
    height = width = min(whole.shape[:2]) * 3 // 4
    folder.mkdir()
    made = []
    for number in range(count):
        top, left = np.random.default_rng(number).integers(
            0, (whole.shape[0] - height, whole.shape[1] - width)
        )
        part = images.resize(whole[top : top + height, left : left + width], size, size)
        made.append(folder / f"{number:03}.png")
        images.save(made[-1], part)
    return made


def run(words: Sequence[str], cache: Path) -> None:
    """A process of its own, with ``cache`` for its compiled programs and weights."""
    environment = {**os.environ, "STYLEJAX_CACHE": str(cache)}
    done = subprocess.run([*COMMAND, *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"stylejax {shlex.join(words)} failed: {done.stderr}")


def fresh(folder: Path, network: str) -> Path:
    """A cache folder without compiled programs, in which nothing need be fetched."""
    folder.mkdir()
    if network == "vgg19":
        file = weights.resolve()
        shutil.copy(file, folder / "vgg19.h5")
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--network", default="vgg19")
    parser.add_argument("--options", nargs="+", default=[""])
    options = parser.parse_args(argv)
    painting = str(ROOT / "examples" / "painting.jpg")
    shared = ["--size", str(options.size), "--steps", str(options.steps), "--offline", "--quiet"]
    shared += ["--network", options.network]
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        there = photos(Path(name, "photos"), options.pictures, options.size)
        for number in range(options.repeats):
            cache = fresh(Path(name, f"loop-{number}"), options.network)
            began = time.perf_counter()
            for photo in there:
                run([str(photo), painting, "-o", str(cache / photo.name), *shared], cache)
            seconds.setdefault("a loop of single runs", []).append(time.perf_counter() - began)
            for place, words in enumerate(options.options):
                cache = fresh(Path(name, f"batch-{number}-{place}"), options.network)
                own = ["batch", str(there[0].parent), painting, "-o", str(cache / "out"), *shared]
                began = time.perf_counter()
                run([*own, *shlex.split(words)], cache)
                passed = time.perf_counter() - began
                seconds.setdefault(f"batch {words}".strip(), []).append(passed)
                found = len(list((cache / "out").glob("*.png")))
                if found != options.pictures:
                    raise SystemExit(f"batch made {found} of {options.pictures} pictures")
    loop = statistics.median(seconds["a loop of single runs"])
    print(f"{options.pictures} pictures of {options.size}x{options.size}, {options.network}")
    print(f"{'':36} seconds  pictures a minute  times the loop")
    for what, column in seconds.items():
        taken = statistics.median(column)
        print(f"{what:36} {taken:7.1f} {60 * options.pictures / taken:18.2f} {loop / taken:15.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
