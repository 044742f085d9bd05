"""Is it the same picture, whichever way it is evaluated? One run by each, compared by pixels.

python benchmarks/same_picture.py PHOTO PAINTING [--size 1024] [--steps 20] [--dtype float64]
    [--ways whole,strips,recompute,nested,devices,shared,processes] [--optimizer lbfgs]
    [--weights FILE]

``strips`` is ``Config(strip=512)``, ``recompute`` the same with ``recompute=3``, ``nested`` with
``nested=True``; ``devices`` are eight, forced on a CPU, ``shared`` are they with ``strip=256``, and
``processes`` two with one device each. Each run is one scale in a process of its own. Printed are
the loss, and how far pixels, from 0 to 1, are from the first way's: the farthest, and the root of
the mean square.

Required: 1e-4 after 20 steps at 1024 pixels.
"""

import argparse
import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

COMMAND = (sys.executable, str(Path(__file__)))
DEVICES = 8
PROCESSES = 2
WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "strips": {"strip": 512},
    "recompute": {"strip": 512, "recompute": 3},
    "nested": {"strip": 512, "nested": True},
    "devices": {},
    "shared": {"strip": 256},
    "processes": {},
}
SPREAD = ("devices", "shared", "processes")


def sized(file: Path, long_side: int) -> np.ndarray:
    """A picture with a long side of so many pixels."""
    from stylejax import images

    picture = images.load(file).image
    height, width = images.fit(picture.shape[0], picture.shape[1], long_side)
    return np.asarray(images.resize(picture, height, width))


def make(given: argparse.Namespace) -> None:
    """One run, in this process; its picture and loss go to ``--keep``."""
    import jax

    from stylejax import Adam, Config, Lbfgs, devices, hosts, iterate, weights

    jax.config.update("jax_enable_x64", given.dtype == "float64")
    if given.process is not None:
        hosts.join(given.coordinator, PROCESSES, given.process)
    photo, painting = (
        sized(file, given.size).astype(given.dtype) for file in (given.photo, given.painting)
    )
    loaded = weights.load(weights.resolve(given.weights))
    params = jax.tree.map(lambda a: np.asarray(a, given.dtype), loaded)
    optimizer = Lbfgs() if given.optimizer == "lbfgs" else Adam()
    config = Config(scales=1, steps=given.steps, optimizer=optimizer, **WAYS[given.way])
    if given.way in SPREAD:
        config = dataclasses.replace(config, mesh=devices.mesh(len(jax.devices())))
    began = time.perf_counter()
    for progress in iterate(params, photo, [painting], config=config, every=given.steps):
        last = progress
    if not given.process:
        seconds = time.perf_counter() - began
        np.savez(given.keep, image=last.image, loss=last.terms.total, seconds=seconds)


def port() -> int:
    """One that nobody listens at."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def run(way: str, words: Sequence[str], keep: Path) -> Any:
    """A run by one way in processes of its own: its picture, loss and seconds."""
    words = (*COMMAND, *words, "--way", way, "--keep", str(keep))
    count = DEVICES if way in ("devices", "shared") else 1
    forced = f"--xla_force_host_platform_device_count={count}"
    environment = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {forced}"}
    each: list[tuple[str, ...]] = [()]
    if way == "processes":
        place = ("--coordinator", f"127.0.0.1:{port()}")
        each = [(*place, "--process", str(number)) for number in range(PROCESSES)]
    started = [subprocess.Popen((*words, *more), env=environment) for more in each]
    if any([process.wait() for process in started]):
        raise SystemExit(f"{way} failed")
    with np.load(keep) as found:
        return {name: found[name] for name in found}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photo", type=Path)
    parser.add_argument("painting", type=Path)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--optimizer", choices=("lbfgs", "adam"), default="lbfgs")
    parser.add_argument("--weights", type=Path)
    for inner in ("--way", "--coordinator"):
        parser.add_argument(inner, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.way:
        make(given)
        return 0
    words, first = sys.argv[1:] if argv is None else list(argv), None
    with tempfile.TemporaryDirectory() as folder:
        for way in given.ways.split(","):
            found = run(way, words, Path(folder) / f"{way}.npz")
            first = found["image"] if first is None else first
            apart = np.abs(found["image"].astype(float) - first)
            print(
                f"{way:10} {found['image'].shape[1]}x{found['image'].shape[0]}  "
                f"loss {float(found['loss']):.10g}  farthest {apart.max():.1e}  "
                f"root of mean square {np.sqrt(np.mean(np.square(apart))):.1e}  "
                f"{float(found['seconds']):.0f} s",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
