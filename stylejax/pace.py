"""How long a run takes: the time of its network on a small picture, times what the run sends there.

docs/decisions.md has what was measured.
"""

import statistics
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from stylejax import scale, vgg
from stylejax.config import Config
from stylejax.optimizers import Lbfgs
from stylejax.targets import cut_of

# The side of the picture that is timed, and how often; accelerators want more work at a time.
_TRIED_ON_CPU, _TRIED, _TRIALS = 256, 512, 3
# A step's time of its network's: statistics, the photo's features, canvas, L-BFGS.
_BESIDE = 1.15
# Evaluations of a step where a line search may reject some.
_SEARCHING = 1.1
# What compiling delays a scale, of the trial's compilation: as a whole, beside the scale before,
# and in strips, which wait for it.
_DELAY, _DELAY_IN_STRIPS = 2, 10


def work(config: Config, size: tuple[int, int], params: vgg.Params) -> float:
    """Pixels that the network goes through forwards and backwards in a run.

    Every scale sees photo and painting once, forwards, evaluates its start, and then once in each
    step, or hardly more where a line search rejects some trials. In strips the network goes
    forwards a second time for the gradient, nested a third time, and through what lies below the
    picture.
    """
    sizes = config.sizes(*size)
    optimizer = config.optimizer
    a_step = _SEARCHING if isinstance(optimizer, Lbfgs) and optimizer.line_search else 1
    total = 0.0
    for number, (height, width) in enumerate(sizes):
        evaluations = 1 + a_step * config.steps_at(number, len(sizes))
        cut = cut_of(params, (height, width), config)
        total += height * width
        if cut is None:
            total += evaluations * height * width
        else:
            rows = cut.number * cut.stages["input"].rows
            total += evaluations * rows * width * (3 + config.nested) / 2
    return total


def seconds(
    config: Config, size: tuple[int, int], params: vgg.Params, *, device: Any = None
) -> float:
    """How long a run takes about on a device, by what its network takes on a small picture there.

    Compiles that and runs it a few times, some seconds on a CPU. How long compiling took says how
    long the scales' programs will take, unless it was found compiled and they are not.
    """
    device = device or jax.local_devices()[0]
    on_host = device.platform == "cpu"
    side = _TRIED_ON_CPU if on_host else _TRIED
    with jax.default_device(device):
        at_hand = scale.at_hand(params)
        image = jnp.full((side, side, 3), 0.5)
        traced = jax.jit(partial(_gradient, config=config)).lower(image, at_hand)
        began = time.perf_counter()
        gradient = traced.compile()
        compiling = time.perf_counter() - began
        taken = []
        for _ in range(_TRIALS + 1):
            began = time.perf_counter()
            jax.block_until_ready(gradient(image, at_hand))
            taken.append(time.perf_counter() - began)
    pixel = statistics.median(taken[1:]) / side**2
    # Devices of a CPU share its cores, of which one had all.
    together = 1 if config.mesh is None else config.mesh.size
    if on_host:
        together = jax.process_count()
    delays = sum(
        _DELAY if config.strip_rows(*each) is None else _DELAY_IN_STRIPS
        for each in config.sizes(*size)
    )
    return work(config, size, params) * pixel * _BESIDE / together + delays * compiling


def _gradient(image: jax.Array, params: vgg.Params, *, config: Config) -> jax.Array:
    """Of the sum of squares of all features that the run compares."""

    def total(image: jax.Array) -> jax.Array:
        found = vgg.features(
            params,
            image,
            config.layers,
            pool=config.pool,
            padding=config.padding,
            precision=config.precision,
        )
        return sum((jnp.vdot(x, x) for x in found.values()), jnp.zeros(()))

    return jax.grad(total)(image)
