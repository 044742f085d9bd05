"""Is the plan right? What ``budget.need`` says of a scale's memory, and what is then used.

python benchmarks/plan.py [--sizes 512 1024 2048] [--precision highest] [--strip N] [--nested]
    [--network vgg19] [--steps 3]

One square scale of random pixels in a process of its own per size: on a GPU or TPU the device's own
peak, beside the parts of the plan that lie there; on CPU the peak of the process, beside all of it.
Seconds are of one step behind the first. Required: within a quarter.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, get_args

import jax
import numpy as np

from stylejax import DEFAULT_WEIGHTS, Config, budget, scale, vgg, weights
from stylejax.config import Precision
from stylejax.options import precise


def line(options: argparse.Namespace, size: int) -> str:
    """What one scale is said to take and takes."""
    ways: dict[str, Any] = {"strip": options.strip, "nested": options.nested}
    config = Config(scales=1, **ways, **precise(options.precision, Config().optimizer))
    found = weights.load(weights.choose(options.network).path)
    params = vgg.up_to(found, config.layers)
    need = budget.need(config, (size, size), params)
    params = scale.at_hand(params)
    photo, painting = np.random.default_rng(0).random((2, size, size, 3), np.float32)
    [(preparing, advance, _)] = scale.programs_of([(size, size)], config)
    state, targets = preparing(
        params,
        photo,
        (painting,),
        None,
        DEFAULT_WEIGHTS,
        jax.random.key(0),
        size=(size, size),
        config=config,
    )
    given = (params, targets, DEFAULT_WEIGHTS)
    state, _ = advance(state, *given, 1, length=options.steps, config=config)
    before = int(jax.block_until_ready(state).evaluations)
    began = time.perf_counter()
    state, _ = advance(state, *given, options.steps, length=options.steps, config=config)
    evaluations = int(jax.block_until_ready(state).evaluations) - before
    spent = (time.perf_counter() - began) / evaluations
    planned = need.total
    stats = jax.devices()[0].memory_stats()
    if stats:
        planned -= need.program
        used = stats["peak_bytes_in_use"]
    else:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (
        f"{size:6} {planned / 1e9:10.2f} GB {used / 1e9:8.2f} GB {planned / used:8.2f} "
        f"{spent:10.4f} s"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line per size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--precision", choices=get_args(Precision), default="highest")
    parser.add_argument("--strip", type=int)
    parser.add_argument("--nested", action="store_true")
    parser.add_argument("--network", default="vgg19")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    words = list(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(words)
    if options.alone:
        print(line(options, *options.sizes))
        return 0
    print("  size      planned         used    ratio  an evaluation")
    for size in options.sizes:
        own = [*words, "--alone", "--sizes", str(size)]
        subprocess.run([sys.executable, __file__, *own], check=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
