"""What strips cost: seconds of an evaluation and planned memory, beside the whole picture's.

python benchmarks/strips.py PHOTO PAINTING [--size 1024x1024]
    [--ways whole,512:0,512:1,512,512:nested] [--repeats 7] [--weights FILE]

A way is ``whole`` or the side of a strip, and behind a colon the blocks of which all is computed
again (all of them without it), or ``nested``. The ways take turns. Memory is what the compiler
plans for value and gradient, without arguments and results.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stylejax import Config, images, options, scale, vgg, weights
from stylejax.objective import DEFAULT_WEIGHTS, evaluate, make_targets

EVALUATIONS = 2  # in one call, so that each runs in a loop, as in a run


def config_of(way: str) -> Config:
    """``whole``, ``512``, ``512:1`` or ``512:nested`` as a config."""
    if way == "whole":
        return Config()
    side, _, blocks = way.partition(":")
    if blocks == "nested":
        return Config(strip=int(side), nested=True)
    return Config(strip=int(side), recompute=int(blocks) if blocks else None)


def loop(image: jax.Array, params: Any, targets: Any, config: Config) -> Any:
    """Some evaluations, each at the picture that the last one led to; value and picture."""

    def body(_: int, carry: Any) -> Any:
        valued = jax.value_and_grad(evaluate, has_aux=True)
        (value, _), slope = valued(carry[0], params, targets, DEFAULT_WEIGHTS, config)
        return carry[0] - 1e-6 * slope / jnp.max(jnp.abs(slope)), value

    return jax.lax.fori_loop(0, EVALUATIONS, body, (image, jnp.zeros(())))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photo", type=Path)
    parser.add_argument("painting", type=Path)
    parser.add_argument("--size", default="1024x1024")
    parser.add_argument("--ways", default="whole,512:0,512:1,512,512:nested")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--weights", type=Path)
    given = parser.parse_args(argv)
    size = options.sides("--size", given.size)
    photo, painting = (
        images.resize(images.load(file).image, *size) for file in (given.photo, given.painting)
    )
    loaded = weights.load(weights.resolve(given.weights))
    params = scale.at_hand(vgg.up_to(loaded, Config().layers))
    runs: dict[str, Any] = {}
    values: dict[str, float] = {}
    seconds: dict[str, list[float]] = {}
    for way in given.ways.split(","):
        config = config_of(way)
        make = jax.jit(partial(make_targets, config=config))
        targets = jax.block_until_ready(make(params, photo, [painting], DEFAULT_WEIGHTS))
        traced = jax.jit(partial(loop, config=config)).lower(photo, params, targets)
        compiled = traced.compile()
        runs[way] = (partial(compiled, photo, params, targets), compiled.memory_analysis())
        values[way], seconds[way] = float(jax.block_until_ready(runs[way][0]())[1]), []
    for _ in range(given.repeats):
        for way, (run, _) in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            seconds[way].append((time.perf_counter() - began) / EVALUATIONS)
    first = next(iter(runs))
    for way, (_, memory) in runs.items():
        median = float(np.median(seconds[way]))
        print(
            f"{way}: {median:.3f} s, {median / np.median(seconds[first]):.2f} of {first}, "
            f"{memory.temp_size_in_bytes / 1e6:.0f} MB, loss {values[way]:.6g}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
