"""Seconds per evaluation of the default objective and its gradient, inside the compiled loop.

python benchmarks/evaluation.py [--sizes 256 512] [--chunks 9] [--padding zero replicate-all]

Square random pictures, real weights. For each size and padding: compile seconds of the two
programs of a scale, then the median over chunks of three L-BFGS steps, paddings in turn, divided
by the evaluations each took.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from stylejax import DEFAULT_WEIGHTS, Config, scale, vgg, weights

STEPS = 3


class Run:
    """One compiled scale, driven chunk by chunk."""

    def __init__(self, params: Any, size: int, config: Config) -> None:
        """Compiles, and takes one chunk that is not timed."""
        self.config, self.params = config, params
        content, style = np.random.default_rng(0).random((2, size, size, 3), np.float32)
        began = time.perf_counter()
        self.state, self.targets = jax.block_until_ready(
            scale.prepare(
                params,
                content,
                (style,),
                None,
                DEFAULT_WEIGHTS,
                jax.random.key(0),
                size=(size, size),
                config=config,
            )
        )
        self.seconds: list[float] = []
        self.chunk()
        self.first = time.perf_counter() - began
        self.seconds.clear()

    def chunk(self) -> None:
        """A few steps, timed per evaluation."""
        before = int(self.state.evaluations)
        began = time.perf_counter()
        self.state, _ = jax.block_until_ready(
            scale.advance(
                self.state,
                self.params,
                self.targets,
                DEFAULT_WEIGHTS,
                STEPS,
                length=STEPS,
                config=self.config,
            )
        )
        spent = time.perf_counter() - began
        self.seconds.append(spent / max(1, int(self.state.evaluations) - before))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line per size and padding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--padding", nargs="+", default=["zero", "replicate-all"])
    parser.add_argument("--chunks", type=int, default=9)
    arguments = parser.parse_args(argv)
    params = jax.tree.map(jax.numpy.asarray, weights.load(weights.resolve()))
    params = vgg.evaluate_kernels(params)
    print("size  padding          first chunk   s/evaluation  against the first padding")
    for size in arguments.sizes:
        runs = [Run(params, size, replace(Config(), padding=p)) for p in arguments.padding]
        for _ in range(arguments.chunks):
            for run in runs:
                run.chunk()
        base = statistics.median(runs[0].seconds)
        for name, run in zip(arguments.padding, runs, strict=True):
            median = statistics.median(run.seconds)
            print(f"{size:4}  {name:15} {run.first:8.1f} s {median:12.3f} {median / base:12.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
