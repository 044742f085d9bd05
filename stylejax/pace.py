"""How long a run takes: what its steps take on a small picture, times what the run does.

docs/decisions.md has what was measured.
"""

import math
import time
from collections.abc import Container
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stylejax import scale, strips, vgg
from stylejax.coefficients import LossWeights
from stylejax.config import Config
from stylejax.optimizers import Lbfgs
from stylejax.targets import cut_of, make_targets

# Products of a convolution's numbers in the small picture, so that every network is tried for about
# as long; accelerators want more at a time. And its least and greatest side.
_TRIED_ON_CPU, _TRIED = 2.4e10, 1e11
_LEAST_SIDE, _GREATEST_SIDE = 256, 720
# Steps that are timed.
_STEPS = 2
# Evaluations of a step where a line search may reject some.
_SEARCHING = 1.1
# What compiling delays a scale, of the trial's compilation: as a whole, beside the scale before,
# and in strips, which wait for it.
_DELAY, _DELAY_IN_STRIPS = 2, 7.5


class Share(NamedTuple):
    """What a scale of a run does.

    Attributes:
      pixels: that the network goes through forwards and backwards, in all evaluations together.
      size: height and width.
    """

    pixels: float
    size: tuple[int, int]


def work(config: Config, size: tuple[int, int], params: vgg.Params) -> list[Share]:
    """What each scale of a run does.

    Every scale sees photo and painting once, forwards, evaluates its start, and then once in each
    step, or hardly more where a line search rejects some trials. In strips what is computed again
    for the gradient goes forwards a second time, nested a third time, and the network goes through
    what lies below the picture.
    """
    sizes = config.sizes(*size)
    optimizer = config.optimizer
    a_step = _SEARCHING if isinstance(optimizer, Lbfgs) and optimizer.line_search else 1
    shares = []
    for number, (height, width) in enumerate(sizes):
        evaluations = 1 + a_step * config.steps_at(number, len(sizes))
        cut = cut_of(params, (height, width), config)
        pixels = float(height * width)
        if cut is None:
            pixels += evaluations * height * width
        else:
            rows = cut.number * cut.stages["input"].rows
            rows *= 1 if config.mesh is None else config.mesh.size
            way = strips.keeping(cut, config.layers, config.recompute, config.pool)
            again = _products(params, way.again) / _products(params, cut.stages) + config.nested
            pixels += evaluations * rows * width * (2 + again) / 2
        shares.append(Share(pixels, (height, width)))
    return shares


class _Trial(NamedTuple):
    """What was measured on a small picture, in seconds.

    Attributes:
      side: of the picture, in pixels.
      evaluation: an evaluation, with its share of a step.
      canvas: the two ways between the picture and what is optimised in it.
      compiling: the program.
    """

    side: int
    evaluation: float
    canvas: float
    compiling: float


def seconds(
    config: Config, size: tuple[int, int], params: vgg.Params, *, device: Any = None
) -> float:
    """How long a run takes about on a device, by what its steps take on a small picture there.

    Compiles these and takes a few, some seconds on a CPU. How long compiling took says how long the
    scales' programs will take, unless it was found compiled and they are not.
    """
    device = device or jax.local_devices()[0]
    products = _TRIED_ON_CPU if device.platform == "cpu" else _TRIED
    with jax.default_device(device):
        trial = _tried(config, params, side=side_tried(params, size, products))
    taken = 0.0
    for pixels, (height, width) in work(config, size, params):
        # A frequency is in a whole row and column; all else costs a pixel the same at any size.
        longer = (height + width) / (2 * trial.side) - 1
        taken += pixels / trial.side**2 * (trial.evaluation + longer * trial.canvas)
    # Devices of a CPU share its cores, of which one had all.
    together = 1 if config.mesh is None else config.mesh.size
    if device.platform == "cpu":
        together = jax.process_count()
    delays = sum(
        _DELAY if config.strip_rows(*each) is None else _DELAY_IN_STRIPS
        for each in config.sizes(*size)
    )
    return taken / together + delays * trial.compiling


def side_tried(params: vgg.Params, size: tuple[int, int], products: float) -> int:
    """The side of the picture that is tried, no larger than one of ``size``; a multiple of 16."""
    side = min(max(math.sqrt(products / _products(params)), _LEAST_SIDE), _GREATEST_SIDE)
    return max(16, int(min(side, math.sqrt(math.prod(size)))) // 16 * 16)


def _products(params: vgg.Params, layers: Container[str] | None = None) -> float:
    """A pixel's products of convolutions, of some layers alone or of all."""
    return sum(
        math.prod(arrays["kernel"].shape) / vgg.stride(layer) ** 2
        for layer, arrays in params.items()
        if layer.startswith("conv") and (layers is None or layer in layers)
    )


def _tried(config: Config, params: vgg.Params, *, side: int) -> _Trial:
    """Takes some steps of the run on a small picture of noise, compared with nothing in earnest."""
    config = replace(
        config, strip=None, strip_above=None, recompute=None, nested=False, mesh=None, height=None
    )
    params = scale.at_hand(params, config)
    image = jax.ShapeDtypeStruct((side, side, 3), jnp.float32)
    painted = [image] if config.style_layers else []
    weights = LossWeights()
    shapes = jax.eval_shape(partial(make_targets, config=config), params, image, painted, weights)
    targets = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    z = jax.eval_shape(config.held.encode, image)
    z = jnp.asarray(np.random.default_rng(0).random(z.shape), z.dtype)
    state = jax.jit(partial(scale.begun, config=config))(z, params, targets, weights)
    given = (state, params, targets, weights)
    ours = scale.programs(config)
    traced = ours.advance.lower(*given, 1, length=_STEPS, config=config)
    began = time.perf_counter()
    advance = traced.compile()
    compiling = time.perf_counter() - began
    state, _ = jax.block_until_ready(advance(*given, 1))  # evaluates the start
    before = int(state.evaluations)
    began = time.perf_counter()
    state, _ = jax.block_until_ready(advance(state, *given[1:], _STEPS))
    evaluation = (time.perf_counter() - began) / max(1, int(state.evaluations) - before)
    show = ours.picture.lower(state, config=config).compile()
    jax.block_until_ready(show(state))
    began = time.perf_counter()
    jax.block_until_ready(show(state))
    return _Trial(side, evaluation, 2 * (time.perf_counter() - began), compiling)
