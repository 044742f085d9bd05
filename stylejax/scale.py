"""One scale of the pyramid: its compiled programs, and how the host walks through them.

``prepare`` resizes and makes the targets; ``advance`` takes a number of optimizer steps on the
device, and holds the one place where the objective is compiled; ``picture`` shows where they led.
``run`` is a scale in one program, ``walk`` the same chunk by chunk, by ``programs``.
"""

import gc
import math
import time
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from stylejax import allocator, canvas, devices, effort, images, traces, vgg
from stylejax.config import Config
from stylejax.guides import Guides
from stylejax.objective import LossTerms, LossWeights, Targets, evaluate, make_targets
from stylejax.optimizers import Adam, State, Status

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


class Stretch(NamedTuple):
    """Where a stretch of steps has led to, on the host.

    Attributes:
      step: steps taken at this scale.
      image: ``[h, w, 3]``, the picture there.
      terms: the objective there, floats.
      rows: of the steps of the stretch, or the one of the start, which no step has made.
      evaluations: at this scale so far.
      status: of the run at this scale.
      state: on the device; it is used up when the walk goes on.
    """

    step: int
    image: np.ndarray
    terms: LossTerms
    rows: History
    evaluations: int
    status: Status
    state: State


def style_size(
    style: tuple[int, ...], size: tuple[int, int], config: Config, *, number: int = 0
) -> tuple[int, int]:
    """Height and width of painting ``number``, counted from 0, beside a picture of ``size``.

    Its long side is ``style_scale`` times the picture's, its short side never below what the
    deepest layer needs, and it is never enlarged.
    """
    height, width = style[:2]
    least = vgg.minimum_size(config.style_layers)
    each = config.style_scale
    scale = each[number] if isinstance(each, tuple) else each
    shrink = max(max(size) * scale / max(height, width), least / min(height, width))
    if shrink >= 1:
        return height, width
    return max(least, round(height * shrink)), max(least, round(width * shrink))


def resized(picture: Array, size: tuple[int, int], config: Config) -> jax.Array:
    """The picture at another size, without a seam where it is a tile."""
    resize = images.resize_circular if config.padding == "circular" else images.resize
    return resize(picture, *size)


def _objective(
    z: jax.Array,
    params: vgg.Params,
    targets: Targets,
    loss_weights: LossWeights,
    *,
    config: Config,
) -> tuple[jax.Array, LossTerms]:
    return evaluate(config.held.decode(z), params, targets, loss_weights, config)


def _prepare(
    params: vgg.Params,
    content: Array,
    styles: Sequence[Array],
    picture: Array | None,
    loss_weights: LossWeights,
    key: jax.Array,
    *,
    guides: Guides | None = None,
    carried: State | None = None,
    size: tuple[int, int],
    config: Config,
) -> tuple[State, Targets]:
    """What happens once per scale: resizing, the targets, the start, which is not evaluated yet.

    Args:
      params: the network.
      content: ``[H, W, 3]``, of any size.
      styles: ``[h, w, 3]`` each, of any size; none where there are no style layers.
      picture: where to go on from, of any size; None makes the start image.
      loss_weights: the coefficients.
      key: seeds the start image's noise.
      guides: masks of any sizes, or None.
      carried: the end of the scale before, if the optimizer shall go on from it.
      size: height and width of this scale.
      config: everything static.
    """
    content = images.resize(content, *size)
    paintings = [
        images.resize(style, *style_size(style.shape, size, config, number=number))
        for number, style in enumerate(styles)
    ]
    targets = make_targets(params, content, paintings, loss_weights, config, masks=guides)
    if picture is None:
        picture = canvas.start_image(content, config.noise, key, blank=config.blank)
    z = config.held.encode(resized(picture, size, config))
    state = begun(z, params, targets, loss_weights, config=config)
    if carried is not None:
        state = cast(Adam, config.optimizer).carry(carried, state)  # Config has seen to it
    return placed(state, config), _placed_targets(targets, config)


_PREPARE: Any = dict(static_argnames=("size", "config"))
prepare = jax.jit(_prepare, **_PREPARE)


def begun(
    z: jax.Array,
    params: vgg.Params,
    targets: Targets,
    loss_weights: LossWeights,
    *,
    config: Config,
) -> State:
    """The optimizer's state at ``z``, which is not evaluated yet."""
    fun = partial(_objective, config=config)
    return config.optimizer.init(fun, z, params, targets, loss_weights)


def placed(state: State, config: Config) -> State:
    """A state where its devices want it: ``z`` and all that has its shape by rows."""
    if config.rows is None:
        return state
    return devices.place(state, config.rows, _whole(state, config))


def spread(state: State, config: Config) -> State:
    """A copy of a state of the host's, as ``prepare`` makes one, on its devices."""
    assert config.rows is not None
    like = devices.described(state, config.rows, _whole(state, config))
    return jax.tree.map(lambda leaf, shape: devices.put(leaf, shape.sharding), state, like)


def _placed_targets(targets: Targets, config: Config) -> Targets:
    """Content's features are by rows, as they were made; all else is everywhere."""
    if config.rows is None:
        return targets
    mesh = config.rows.mesh
    content = {layer: devices.by_rows(x, mesh) for layer, x in targets.content.items()}
    return devices.replicated(targets, mesh)._replace(content=content)


def described(state: State, targets: Targets, config: Config) -> tuple[State, Targets]:
    """Shapes of what ``prepare`` makes with where it lies, as calls will be given it."""
    if config.rows is None:
        return state, targets
    shapes = devices.described(targets, config.rows)
    content = devices.described(targets.content, config.rows, every=True)
    return devices.described(state, config.rows, _whole(state, config)), shapes._replace(
        content=content
    )


def gathered(state: State, config: Config) -> State:
    """A state to carry on from: without rows below the picture, and on every device."""
    return state if config.rows is None else _gathered(state, config=config)


@partial(jax.jit, static_argnames="config")
def _gathered(state: State, *, config: Config) -> State:
    assert config.rows is not None
    return devices.take(state, config.rows, _whole(state, config))


def _whole(state: State, config: Config) -> tuple[int, ...]:
    """The shape of arrays of a state that are by rows; none are where ``z`` is not."""
    return state.z.shape if config.held.by_rows else ()


# Under vmap a ``cond`` whose predicate differs between pictures makes a copy of everything its
# branches read for each of them, the network's kernels too, and every convolution then has kernels
# of its own for every picture: three to four times slower on CPU. So the predicate is whether any
# picture goes on, and those that do not keep their state.


@jax.custom_batching.custom_vmap
def _any_one(going: jax.Array) -> jax.Array:
    """Whether this picture goes on, or under ``vmap`` any of them, the same for all."""
    return going


@_any_one.def_vmap
def _any_of_them(size: int, batched: list[bool], going: jax.Array) -> tuple[jax.Array, bool]:
    return _any_one(jnp.any(going, axis=0)), False


@jax.custom_batching.custom_vmap
def _this_one(going: jax.Array) -> jax.Array:
    """Where one at least goes on, whether this one does: by itself, always."""
    return jnp.ones_like(going)


@_this_one.def_vmap
def _this_of_them(size: int, batched: list[bool], going: jax.Array) -> tuple[jax.Array, bool]:
    return going, True


def _steps(
    state: State,
    params: vgg.Params,
    targets: Targets,
    loss_weights: LossWeights,
    limit: jax.Array | int,
    *,
    length: int,
    config: Config,
) -> tuple[State, History]:
    """Up to ``length`` optimizer steps on the device, none past ``limit`` or the run's end.

    The first one after ``prepare`` evaluates the start and moves nothing.
    """
    fun = partial(_objective, config=config)

    def step(state: State, going: jax.Array) -> State:
        new = config.optimizer.step(fun, state, params, targets, loss_weights)
        return jax.tree.map(partial(jnp.where, _this_one(going)), new, state)

    def body(state: State, index: jax.Array) -> tuple[State, History]:
        going = (state.status == Status.RUNNING) & (index < limit)
        state = jax.lax.cond(_any_one(going), step, lambda s, _: s, state, going)
        return state, History(state.aux, state.evaluations, going)

    state, rows = jax.lax.scan(body, state, jnp.arange(length))
    if config.rows is not None:
        rows = devices.replicated(rows, config.rows.mesh)
    return placed(state, config), rows


# For the host's loop: the old state's buffers hold the new one. Not under vmap, where the two
# may differ in size.
_ADVANCE: Any = dict(static_argnames=("length", "config"), donate_argnames=("state",))
advance = jax.jit(_steps, **_ADVANCE)


def _picture(state: State, *, config: Config) -> jax.Array:
    """What the optimizer has come to, ``[h, w, 3]``, on every device."""
    decoded = config.held.decode(state.best)
    if config.rows is None:
        return decoded
    return devices.replicated(config.rows.crop(decoded), config.rows.mesh)


_PICTURE: Any = dict(static_argnames=("config",))
picture = jax.jit(_picture, **_PICTURE)


# Up to so many pixels a program compiled in haste loses less time than it saves.
_SMALL = 2**16
# From more on products have rows enough for either library (docs/performance.md).
_LARGE = 2**18


class Programs(NamedTuple):
    """What a host calls at a scale, each compiled as its runs repay it."""

    prepare: Any
    advance: Any
    picture: Any


def programs(config: Config, *, hurried: bool = False, large: bool = False) -> Programs:
    """The functions of a scale for a host that calls them, not for within another ``jax.jit``.

    Args:
      config: everything static.
      hurried: whether somebody waits for them, and they are soon through.
      large: whether what is evaluated at a time is, the picture or a strip, which changes how
        steps are best compiled.
    """
    steps = effort.AT_LENGTH if large else effort.OFTEN
    ways = (effort.AT_ONCE, effort.SELDOM) if hurried else (effort.SELDOM, steps)
    device = devices.current(config.mesh)
    once, often = (effort.repaid(way, device) for way in ways)
    return _compiled_with(once, often, on=device if traces.keeping() and not config.mesh else None)


def programs_of(sizes: Sequence[tuple[int, int]], config: Config) -> list[Programs]:
    """Those of every scale of a run: of the first of several, if it is small, hurried ones."""
    first = len(sizes) > 1 and math.prod(sizes[0]) <= _SMALL
    return [
        programs(config, hurried=first and n == 0, large=large(size, config))
        for n, size in enumerate(sizes)
    ]


def large(size: tuple[int, int], config: Config) -> bool:
    """Whether what is evaluated at a time is: a picture, or a strip of it."""
    return (config.strip_rows(*size) or size[0]) * size[1] > _LARGE


@cache
def _compiled_with(once: effort.Options, often: effort.Options, *, on: Any) -> Programs:
    """Them with options for the compiler, which ``jax.jit`` refuses within another.

    Args:
      once: of what runs once or is little; none, ``()``, for what ``stylize`` calls.
      often: of the steps.
      on: the device where a run is whose traces are kept, or None. What JAX has kept a trace of
        says where its results lie, and what comes after it is compiled for that.
    """

    def jitted(plain: Any, function: Any, how: dict[str, Any], options: effort.Options) -> Any:
        if not (options or on):
            return plain
        if on:
            function = traces.kept(function, static=how["static_argnames"])
            how = how | dict(out_shardings=SingleDeviceSharding(on))
        return jax.jit(function, **how, compiler_options=dict(options) or None)

    return Programs(
        jitted(prepare, _prepare, _PREPARE, once),
        jitted(advance, _steps, _ADVANCE, often),
        jitted(picture, _picture, _PICTURE, once),
    )


@partial(jax.jit, static_argnames=("steps", "config"))
def run(
    state: State,
    params: vgg.Params,
    targets: Targets,
    loss_weights: LossWeights,
    *,
    steps: int,
    config: Config,
) -> tuple[jax.Array, State, History]:
    """A scale from its start to its end: the picture, the last state, a row for every step."""
    state, rows = _steps(
        state, params, targets, loss_weights, steps + 1, length=steps + 1, config=config
    )
    return picture(state, config=config), state, jax.tree.map(lambda column: column[1:], rows)


def walk(
    state: State,
    params: vgg.Params,
    targets: Targets | None,
    loss_weights: LossWeights,
    *,
    steps: int,
    every: int,
    config: Config,
    programs: Programs,
    taken: int | None = None,
    seconds: float = math.inf,
) -> Iterator[Stretch]:
    """The run of ``run``, handed over at its start, every few steps, and at its end.

    Args:
      state: of ``prepare``, or of a ``Stretch``; it is used up.
      params: the network.
      targets: of ``prepare``; None where nothing is left to do.
      loss_weights: the coefficients.
      steps: to take at this scale.
      every: steps from one stretch to the next.
      config: everything static.
      programs: of ``programs``.
      taken: steps that have led to ``state``, which is then handed over first, without rows, as
        they were with the stretches before it; None where it is ``prepare``'s.
      seconds: a stretch has fewer steps than ``every`` where so many would take longer, but one.
    """
    ahead = partial(programs.advance, length=every, config=config)
    stretch = every if seconds == math.inf else 1
    if taken is None:
        state, rows = ahead(state, params, targets, loss_weights, 1)
        rows = _taken(rows)._replace(taken=np.asarray([False]))
    else:
        here = History(state.aux, state.evaluations, np.asarray(True))
        rows = jax.tree.map(lambda value: np.asarray(value)[None][:0], here)
    step = taken or 0
    while True:
        status = Status(int(state.status))
        yield Stretch(
            step=step,
            # A copy: the state's own buffers, which this may be one of, hold the next stretch.
            image=np.array(programs.picture(state, config=config)),
            terms=jax.tree.map(float, state.aux),
            rows=rows,
            evaluations=int(state.evaluations),
            status=status,
            state=state,
        )
        if step >= steps or status != Status.RUNNING:
            return
        began = time.perf_counter()
        state, rows = ahead(state, params, targets, loss_weights, min(stretch, steps - step))
        rows = _taken(rows)
        step += len(rows.taken)
        if seconds < math.inf:
            a_step = (time.perf_counter() - began) / len(rows.taken)
            stretch = max(1, min(every, int(seconds / a_step)))


def _taken(rows: History) -> History:
    """The rows of steps that were taken, on the host."""
    taken = np.asarray(rows.taken)
    return jax.tree.map(lambda column: np.asarray(column)[taken], rows)


def forget(config: Config) -> None:
    """Drops what was compiled for any scale of a run: a hundred megabytes of the host's for each.

    What is still wanted is compiled, or read from JAX's folder of compiled programs, once more.
    Where there is such a folder JAX forgets all else, too: another half of that.
    """
    if traces.keeping():
        jax.clear_caches()
    ways: tuple[dict[str, bool], ...] = ({}, {"hurried": True}, {"large": True})
    for program in {program for way in ways for program in programs(config, **way)}:
        program.clear_cache()
    gc.collect()
    allocator.give_back()


def at_hand(params: vgg.Params, config: Config | None = None) -> vgg.Params:
    """The network as the loop wants it, made once.

    On the device, or on all that ``config`` names, where 80 MB of NumPy arrays would otherwise be
    copied at every call of a compiled program; and with what CPUs are quicker with.
    """
    mesh = config.mesh if config else None
    if effort.on_cpu(devices.current(mesh)):
        params = vgg.evaluate_kernels(params)
    if mesh is not None:
        return devices.everywhere(params, devices.automatic(mesh))
    return on_device(params)


def on_device(params: vgg.Params) -> vgg.Params:
    """The network with every NumPy array copied to the device; others stay what they are."""

    def put(x: Any) -> Any:
        # Not by jnp.asarray, which compiles a program for every shape. On CPU device_put may take
        # the caller's memory for its own, so it gets a copy of it.
        return jax.device_put(np.array(x)) if isinstance(x, np.ndarray) else x

    return jax.tree.map(put, params)
