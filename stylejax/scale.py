"""One scale of the pyramid: its two compiled programs, and compiling them before they are needed.

``prepare`` resizes, makes the targets and evaluates once; ``advance`` takes a number of optimizer
steps on the device.
"""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stylejax import canvas, images, vgg
from stylejax.config import Config
from stylejax.objective import LossTerms, LossWeights, Targets, evaluate, make_targets
from stylejax.optimizers import State, Status

Array = jax.Array | np.ndarray


class History(NamedTuple):
    """What happened at one scale, one row per step.

    Attributes:
      terms: the objective after each step, every leaf ``[steps]``.
      evaluations: int32 ``[steps]``, evaluations at this scale up to and with each step.
      taken: bool ``[steps]``, False for steps after the run had ended (their rows repeat the last).
    """

    terms: LossTerms
    evaluations: Array
    taken: Array


def style_size(style: tuple[int, ...], size: tuple[int, int], config: Config) -> tuple[int, int]:
    """Height and width of a painting beside a picture of ``size``.

    Its long side is ``style_scale`` times the picture's, its short side never below what the
    deepest layer needs, and it is never enlarged.
    """
    height, width = style[:2]
    least = vgg.minimum_size(config.style_layers)
    shrink = max(max(size) * config.style_scale / max(height, width), least / min(height, width))
    if shrink >= 1:
        return height, width
    return max(least, round(height * shrink)), max(least, round(width * shrink))


def _objective(
    z: jax.Array,
    params: vgg.Params,
    targets: Targets,
    loss_weights: LossWeights,
    *,
    config: Config,
) -> tuple[jax.Array, LossTerms]:
    return evaluate(config.held.decode(z), params, targets, loss_weights, config)


@partial(jax.jit, static_argnames=("size", "config"))
def prepare(
    params: vgg.Params,
    content: Array,
    styles: Sequence[Array],
    picture: Array | None,
    loss_weights: LossWeights,
    key: jax.Array,
    *,
    size: tuple[int, int],
    config: Config,
) -> tuple[State, Targets]:
    """Everything that happens once per scale: resizing, targets and the first evaluation.

    Args:
      params: the network.
      content: ``[H, W, 3]``, of any size.
      styles: ``[h, w, 3]`` each, of any size.
      picture: where to go on from, of any size; None makes the start image.
      loss_weights: the coefficients.
      key: seeds the start image's noise.
      size: height and width of this scale.
      config: everything static.
    """
    content = images.resize(content, *size)
    resized = [images.resize(s, *style_size(s.shape, size, config)) for s in styles]
    targets = make_targets(params, content, resized, loss_weights, config)
    if picture is None:
        picture = canvas.start_image(content, config.noise, key)
    z = config.held.encode(images.resize(picture, *size))
    fun = partial(_objective, config=config)
    return config.optimizer.init(fun, z, params, targets, loss_weights), targets


def _advance(
    state: State,
    params: vgg.Params,
    targets: Targets,
    loss_weights: LossWeights,
    limit: jax.Array | int,
    *,
    length: int,
    config: Config,
) -> tuple[State, History]:
    """Up to ``length`` optimizer steps on the device, none past ``limit`` or the run's end."""
    fun = partial(_objective, config=config)

    def body(state: State, index: jax.Array) -> tuple[State, History]:
        going = (state.status == Status.RUNNING) & (index < limit)
        state = jax.lax.cond(
            going,
            lambda s: config.optimizer.step(fun, s, params, targets, loss_weights),
            lambda s: s,
            state,
        )
        return state, History(state.aux, state.evaluations, going)

    return jax.lax.scan(body, state, jnp.arange(length))


advance = jax.jit(_advance, static_argnames=("length", "config"))
# For the host's loop: the old state's buffers hold the new one. Not under vmap, where the two
# may differ in size.
advance_in_place = jax.jit(
    _advance, static_argnames=("length", "config"), donate_argnames=("state",)
)


def at_hand(params: vgg.Params) -> vgg.Params:
    """The network as the loop wants it, made once.

    On the device, where 80 MB of NumPy arrays would otherwise be copied at every call of a compiled
    program; and with what CPUs are quicker with.
    """
    device = jax.config.jax_default_device or jax.devices()[0]  # type: ignore[attr-defined]
    if getattr(device, "platform", device) == "cpu":
        params = vgg.evaluate_kernels(params)
    return jax.tree.map(jnp.asarray, params)


def compile_ahead(
    executor: Executor,
    params: vgg.Params,
    content: Array,
    styles: tuple[Array, ...],
    picture: Array | jax.ShapeDtypeStruct | None,
    loss_weights: LossWeights,
    key: jax.Array,
    *,
    size: tuple[int, int],
    length: int,
    config: Config,
) -> Future[None]:
    """Compiles a scale's programs in a thread; calling them later finds them compiled.

    Takes the arguments of ``prepare`` and the ``length`` of ``advance_in_place``. Of ``picture``
    the shape is enough; where there is none, at the first scale, ``prepare`` is left to the caller,
    who needs it at once. What goes wrong goes wrong again, and is said, when they are called.
    """
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    wide = jax.config.jax_enable_x64  # type: ignore[attr-defined]

    def work() -> None:
        # Contexts are a thread's own.
        with jax.default_device(device), jax.enable_x64(wide):
            first = prepare.trace(
                params, content, styles, picture, loss_weights, key, size=size, config=config
            )
            state, targets = first.out_info
            second = advance_in_place.lower(
                state, params, targets, loss_weights, 1, length=length, config=config
            )
            second.compile()
            if picture is not None:
                first.lower().compile()

    return executor.submit(work)
