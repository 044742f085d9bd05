"""Seconds per evaluation of the default objective and its gradient, inside the compiled loop.

python benchmarks/evaluation.py [--sizes 256 512] [--chunks 9] [--padding zero replicate-all]
    [--precision highest] [--bare] [--compact]

Square random pictures, real weights. For each size and padding: compile seconds of the two
programs of a scale, then the median over chunks of three L-BFGS steps, paddings in turn, divided
by the evaluations each took. ``--bare`` leaves L-BFGS out: ten evaluations in a compiled loop, each
of a picture that the one before has moved; ``--compact`` takes L-BFGS's compact form. TFLOP/s are
those of the direct convolutions.
"""

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from stylejax import DEFAULT_WEIGHTS, VGG19, Config, Lbfgs, effort, objective, scale, vgg, weights
from stylejax.canvas import PIXELS
from stylejax.config import Precision

STEPS, BARE = 3, 10


class Run:
    """One compiled scale, driven chunk by chunk."""

    def __init__(self, params: Any, size: int, config: Config) -> None:
        """Compiles, and takes one chunk that is not timed."""
        self.config, self.params = config, params
        [self.programs] = scale.programs_of([(size, size)], config)
        content, style = np.random.default_rng(0).random((2, size, size, 3), np.float32)
        began = time.perf_counter()
        self.state, self.targets = jax.block_until_ready(
            self.programs.prepare(
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
            self.programs.advance(
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


class Bare(Run):
    """Evaluations alone."""

    def __init__(self, params: Any, size: int, config: Config) -> None:
        """Compiles, and takes one chunk that is not timed."""
        config = replace(config, canvas=PIXELS)
        content, style = np.random.default_rng(0).random((2, size, size, 3), np.float32)
        began = time.perf_counter()
        make = jax.jit(partial(objective.make_targets, config=config))
        self.params, self.targets = params, make(params, content, [style], DEFAULT_WEIGHTS)

        def total(image: Any, params: Any, targets: Any) -> Any:
            return objective.evaluate(image, params, targets, DEFAULT_WEIGHTS, config)[0]

        def move(_: Any, image: Any, params: Any, targets: Any) -> Any:
            gradient = jax.grad(total)(image, params, targets)
            return image - 1e-4 * gradient / jnp.sqrt(jnp.mean(jnp.square(gradient)))

        options = dict(effort.repaid(effort.OFTEN, jax.devices()[0])) or None

        @partial(jax.jit, donate_argnums=0, compiler_options=options)
        def several(image: Any, params: Any, targets: Any) -> Any:
            body = partial(move, params=params, targets=targets)
            return jax.lax.fori_loop(0, BARE, body, image)

        self.several, self.image = several, jnp.asarray(content)
        self.seconds = []
        self.chunk()
        self.first = time.perf_counter() - began
        self.seconds.clear()

    def chunk(self) -> None:
        """A few evaluations, timed per evaluation."""
        began = time.perf_counter()
        self.image = self.several(self.image, self.params, self.targets).block_until_ready()
        self.seconds.append((time.perf_counter() - began) / BARE)


def flops(size: int) -> int:
    """Of the direct convolutions up to conv5_1 and of their input gradients."""
    return sum(
        2 * 2 * math.prod(shapes["kernel"]) * (size >> (vgg.block_of(name) - 1)) ** 2
        for name, shapes in vgg.parameter_shapes(VGG19).items()
        if "conv1_1" <= name <= "conv5_1"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line per size and padding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--padding", nargs="+", default=["zero", "replicate-all"])
    parser.add_argument("--precision", choices=get_args(Precision), default="highest")
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--compact", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--chunks", type=int, default=9)
    arguments = parser.parse_args(argv)
    params = scale.at_hand(weights.load(weights.resolve()))
    kind = Bare if arguments.bare else Run
    print("size  padding          first chunk   s/evaluation  against the first padding  TFLOP/s")
    for size in arguments.sizes:
        optimizer = Lbfgs(compact=arguments.compact)
        config = Config(precision=arguments.precision, optimizer=optimizer)
        runs = [kind(params, size, replace(config, padding=p)) for p in arguments.padding]
        for _ in range(arguments.chunks):
            for run in runs:
                run.chunk()
        base = statistics.median(runs[0].seconds)
        for name, run in zip(arguments.padding, runs, strict=True):
            median = statistics.median(run.seconds)
            rate = flops(size) / median / 1e12
            row = f"{size:4}  {name:15} {run.first:8.1f} s {median:14.5f} {median / base:12.2f}"
            print(f"{row} {rate:22.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
