"""One photo in several styles at once: ``vmap`` over paintings against a run for each.

python benchmarks/styles.py [--size 256] [--styles 8] [--steps 60] [--precision highest]
    [--network vgg19] [--repeats 3]

One scale from the photo, random pictures, compiled programs; the two take turns. Required on a GPU:
1.5 times the throughput of eight runs at 256 pixels.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from stylejax import Config, scale, stylize, vgg, weights
from stylejax.config import Precision
from stylejax.options import precise


def seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> int:
    """Prints two lines and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--styles", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--precision", choices=get_args(Precision), default="highest")
    parser.add_argument("--network", default="vgg19")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    plain = Config(scales=1, steps=options.steps)
    config = Config(scales=1, steps=options.steps, **precise(options.precision, plain.optimizer))
    found = weights.load(weights.choose(options.network).path)
    params = scale.at_hand(vgg.up_to(found, config.layers))
    photo, *styles = np.random.default_rng(0).random(
        (options.styles + 1, options.size, options.size, 3), np.float32
    )

    def picture(params: vgg.Params, photo: Any, style: Any) -> tuple[Any, Any]:
        result = stylize(params, photo, [style], config=config)
        return result.image, result.evaluations

    one, several = jax.jit(picture), jax.jit(jax.vmap(picture, (None, None, 0)))
    stacked = jnp.asarray(np.stack(styles))
    ways: dict[str, Callable[[], Any]] = {
        "one by one": lambda: [one(params, photo, style) for style in styles],
        "at once": partial(several, params, photo, stacked),
    }
    first = {name: seconds(run) for name, run in ways.items()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, run in ways.items():
            taken[name].append(seconds(run))
    medians = {name: statistics.median(column) for name, column in taken.items()}
    device = jax.devices()[0].device_kind
    print(f"{options.styles} styles, {options.size} px, {options.precision}, {device}")
    for name, median in medians.items():
        print(f"{name:12} {median:8.3f} s, the first time {first[name]:6.1f} s")
    print(f"throughput at once: {medians['one by one'] / medians['at once']:.2f} times")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
