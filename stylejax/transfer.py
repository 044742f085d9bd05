"""The whole way from a photo and paintings to a picture: ``stylize`` and ``iterate``.

Both walk the pyramid of scales, coarse to fine, and at each scale call the compiled functions of
``scale``. The library compiles nothing else on this way but what ``colour`` does before it and
after it; everything below is plain and composes with the transformations of the caller.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from stylejax import allocator, arguments, colour, devices, traces, vgg
from stylejax.coefficients import style_shares
from stylejax.compilation import compile_scale, compiling
from stylejax.config import Config
from stylejax.guides import Guides, Use, uses
from stylejax.objective import DEFAULT_WEIGHTS, LossTerms, LossWeights
from stylejax.optimizers import Status
from stylejax.place import Place, fitted, over, preceding, restored
from stylejax.scale import (
    Array,
    History,
    Stretch,
    at_hand,
    forget,
    gathered,
    large,
    prepare,
    programs_of,
    run,
    spread,
    walk,
)

__all__ = ["History", "Place", "Progress", "Result", "iterate", "stylize"]


class Result(NamedTuple):
    """What ``stylize`` returns.

    Attributes:
      image: ``[H, W, 3]``, sRGB. Values may lie a little outside [0, 1] (except with
        ``JaxoptLbfgsb`` and ``Adam(clamp=True)``); ``images.save`` clips them.
      history: one record per scale, coarse to fine.
      evaluations: int32, evaluations of the objective and its gradient at all scales.
      status: int32, the worst ``Status`` of all scales.
    """

    image: jax.Array
    history: tuple[History, ...]
    evaluations: jax.Array
    status: jax.Array


class Progress(NamedTuple):
    """What ``iterate`` yields.

    Attributes:
      scale: number of the scale, from 0.
      scales: how many there are.
      step: steps taken at this scale.
      steps: steps planned at this scale.
      image: ``[h, w, 3]`` NumPy array, the picture so far at this scale's size.
      terms: the objective now, floats.
      history: NumPy rows of the steps since the last ``Progress``.
      evaluations: at all scales so far.
      status: of this scale.
      place: what ``iterate`` can go on from; its arrays are used up when the loop goes on, so save
        or copy them before.
    """

    scale: int
    scales: int
    step: int
    steps: int
    image: np.ndarray
    terms: LossTerms
    history: History
    evaluations: int
    status: Status
    place: Place | None


def stylize(
    params: vgg.Params,
    content: Array,
    styles: Sequence[Array],
    *,
    config: Config | None = None,
    loss_weights: LossWeights | None = None,
    key: jax.Array | None = None,
    init: Array | None = None,
    guides: Guides | None = None,
) -> Result:
    """Renders a photo in the style of one or more paintings; a pure function.

    Works under ``jax.jit`` (``config`` static), ``jax.vmap`` over any of the array arguments, and,
    with ``Adam`` or ``Lbfgs(line_search=False)``, ``jax.grad``.

    Args:
      params: the network's arrays, e.g. of ``weights.load``.
      content: ``[H, W, 3]`` float, sRGB in [0, 1]; the picture has its size and dtype.
      styles: the paintings, ``[h, w, 3]`` each, of any sizes; none, ``[]``, where there are no
        ``config.style_layers``.
      config: everything static; None is ``Config()``.
      loss_weights: the coefficients, traced; None is ``objective.DEFAULT_WEIGHTS``.
      key: a ``jax.random`` key for the start image's noise; None is ``jax.random.key(0)``.
      init: ``[h, w, 3]``, a picture to start from instead of what ``config.noise`` says.
      guides: which painting goes where, and where content counts; None is everywhere.

    Returns:
      The picture, the history of every term, the number of evaluations and a status.

    Raises:
      ValueError: before anything is compiled, for shapes, dtypes, ranges, layers and numbers that
        cannot work; the message names the value, the limit and the remedy.
    """
    config, loss_weights = config or Config(), loss_weights or DEFAULT_WEIGHTS
    arguments.check(
        params,
        content,
        styles,
        config=config,
        loss_weights=loss_weights,
        init=init,
        guides=guides,
    )
    key = jax.random.key(0) if key is None else key
    params = at_hand(params, config)
    sizes = config.sizes(*content.shape[:2])
    used = _uses(content, styles, config, loss_weights, guides)
    photo, paintings, picture = colour.prepare(config.colour, content, styles, init, uses=used)
    # No program of a scale depends on it, so other colours find them compiled.
    colours, config = config.colour, replace(config, colour=None)
    photo, paintings, picture, loss_weights, key, guides = _on_devices(
        config, photo, paintings, picture, loss_weights, key, guides
    )
    history, states, carried = [], [], None
    start = partial(prepare, params, photo, paintings)
    for scale, size in enumerate(sizes):
        here = config.at(size)
        state, targets = start(
            picture, loss_weights, key, guides=guides, carried=carried, size=size, config=here
        )
        steps = config.steps_at(scale, len(sizes))
        picture, state, rows = run(state, params, targets, loss_weights, steps=steps, config=here)
        carried = gathered(state, config=here) if config.carry else None
        history.append(rows)
        states.append(state)
    return Result(
        image=cast(jax.Array, colour.finish(colours, devices.here(picture), content)),
        history=tuple(history),
        evaluations=sum(devices.here(state.evaluations) for state in states),
        status=jnp.stack([devices.here(state.status) for state in states]).max(),
    )


def _uses(
    content: Array,
    styles: Sequence[Array],
    config: Config,
    loss_weights: LossWeights,
    guides: Guides | None,
) -> tuple[Use, ...] | None:
    """Which part of each painting goes where, at all layers together, for colours."""
    if config.colour is None or guides is None or not styles or not config.style_layers:
        return None
    shares = [
        style_shares(loss_weights.styles, layer, guides.number, len(styles), content.dtype)
        for layer in config.style_layers
    ]
    shapes = [style.shape for style in styles]
    return uses(guides, jnp.mean(jnp.stack(shares), axis=0), content.shape, shapes)


def _on_devices(config: Config, *given: Any) -> tuple[Any, ...]:
    """What a run is given, on all its devices, where there are several."""
    if config.mesh is None:
        return given
    return cast(tuple[Any, ...], devices.everywhere(given, devices.automatic(config.mesh)))


def iterate(
    params: vgg.Params,
    content: Array,
    styles: Sequence[Array],
    *,
    config: Config | None = None,
    loss_weights: LossWeights | None = None,
    key: jax.Array | None = None,
    init: Array | None = None,
    guides: Guides | None = None,
    every: int = 10,
    seconds: float = math.inf,
    resume: Place | None = None,
) -> Iterator[Progress]:
    """The run of ``stylize``, handed over every few steps; stop it by leaving the loop.

    Args:
      params: as for ``stylize``, like all arguments but the last three.
      content: as for ``stylize``.
      styles: as for ``stylize``.
      config: as for ``stylize``.
      loss_weights: as for ``stylize``.
      key: as for ``stylize``.
      init: as for ``stylize``.
      guides: as for ``stylize``.
      every: steps between two ``Progress``; the picture does not depend on it.
      seconds: fewer steps where ``every`` of them would take longer than this, but one at least;
        for a person who waits. Processes that share a run may not measure each their own time.
      resume: the ``Place`` of a run with the same arguments, to go on from; ``saves`` keeps it in a
        folder. On CPU the rest is the same to the last bit.

    Yields:
      First the start of each scale (``step`` 0), then every few steps and at its end. The
      last one's image is ``stylize``'s. With ``resume`` first that place, whose ``history`` has no
      rows, because they were handed over before; then what is after it.

    Raises:
      ValueError: as ``stylize``, at the call, not at the first use; a ``resume`` that is no place
        of such a run.
    """
    config, loss_weights = config or Config(), loss_weights or DEFAULT_WEIGHTS
    arguments.check(
        params,
        content,
        styles,
        config=config,
        loss_weights=loss_weights,
        init=init,
        guides=guides,
    )
    key = jax.random.key(0) if key is None else key
    if every < 1:
        raise ValueError(f"every is {every}; it must be at least 1")
    if not seconds >= 0:
        raise ValueError(f"seconds is {seconds}; it must be 0 or more")
    if seconds < math.inf and config.mesh is not None and jax.process_count() > 1:
        raise ValueError(
            f"seconds is {seconds} and {jax.process_count()} processes share the run, which must "
            "take the same steps; give every alone"
        )
    used = _uses(content, styles, config, loss_weights, guides)
    photo, paintings, start = colour.prepare(config.colour, content, styles, init, uses=used)
    colours, config = config.colour, replace(config, colour=None)
    given = (params, photo, paintings, config, loss_weights, key, guides)
    place = None if resume is None else fitted(resume, *given)
    walked = _pyramid(*given, start, every, seconds, place)
    return (
        progress._replace(image=np.asarray(colour.finish(colours, progress.image, content)))
        for progress in walked
    )


def _pyramid(
    params: vgg.Params,
    content: Array,
    styles: tuple[Array, ...],
    config: Config,
    loss_weights: LossWeights,
    key: jax.Array,
    guides: Guides | None,
    picture: Array | None,
    every: int,
    seconds: float,
    place: Place | None,
) -> Iterator[Progress]:
    params = at_hand(params, config)
    sizes = config.sizes(*content.shape[:2])
    content, styles, picture, loss_weights, key, guides = _on_devices(
        config, content, styles, picture, loss_weights, key, guides
    )
    walked = partial(walk, params=params, loss_weights=loss_weights, every=every, seconds=seconds)
    first, before, carried = 0, 0, None
    own = programs_of(sizes, config)
    if place is not None:
        first, before = place.scale, place.evaluations
    if place is not None and over(place, config, len(sizes)):
        # Nothing of this scale is compiled but its picture.
        here = config.at(sizes[first])
        ended = place.state if here.rows is None else spread(place.state, here)
        (reached,) = walked(
            ended,
            targets=None,
            steps=place.step,
            taken=place.step,
            config=here,
            programs=own[first],
        )
        yield _progress(reached, first, len(sizes), config, before)
        picture, before = reached.image, before + reached.evaluations
        carried = gathered(reached.state, config=here) if config.carry else None
        first, place = first + 1, None
    elif first:
        picture, carried = preceding(
            params, content, styles, config, loss_weights, key, guides, size=sizes[first - 1]
        )
    if first == len(sizes):
        return
    ahead = partial(compiling, programs=own[first:], sizes=sizes[first:], length=every)
    shaped = (params, content, styles, picture, loss_weights, key, guides)
    begun = threading.Event()
    with ahead(*shaped, carried=carried, config=config, begun=begun) as compiled:
        del shaped
        for scale, done in enumerate(compiled, first):
            if scale > first:
                wait([done])
            size, steps = sizes[scale], config.steps_at(scale, len(sizes))
            here = config.at(size)
            given = (params, content, styles, picture, loss_weights, key)
            named: Any = dict(guides=guides, carried=carried, size=size, config=here)
            cut = here.strip_rows(*size) is not None
            # Its own are read again, where programs are kept; no other scale's is compiling.
            largest = large(size, config) and scale == len(sizes) - 1 > first and traces.keeping()
            if cut or largest:
                forget(config)
            if cut:
                traced = own[scale].prepare.trace(*given, **named)
                compile_scale(own[scale], traced, params, loss_weights, length=every, config=here)
            state, targets = own[scale].prepare(*given, **named)
            # The steps want the memory of what the scale before has led to.
            picture = carried = None
            del given, named
            wait([done])  # of the first scale the targets are made meanwhile
            taken = None
            if place is not None:  # this is its scale
                state, taken = restored(place.state, state), place.step
                place = None  # and with it the memory of what was saved
            going: Any = dict(steps=steps, taken=taken, config=here, programs=own[scale])
            for reached in walked(state, targets=targets, **going):
                begun.set()
                if cut:  # a step leaves megabytes behind
                    allocator.give_back()
                yield _progress(reached, scale, len(sizes), config, before)
            picture, before = reached.image, before + reached.evaluations
            carried = gathered(reached.state, config=here) if config.carry else None
            # The next scale's are not made beside them, whoever holds on to a ``Progress``.
            if scale + 1 < len(sizes) and not config.carry:
                jax.tree.map(lambda array: array.delete(), reached.state)
            del reached, state, targets


def _progress(reached: Stretch, scale: int, scales: int, config: Config, before: int) -> Progress:
    place = Place(scale, reached.step, before, reached.state)
    return Progress(
        scale=scale,
        scales=scales,
        step=reached.step,
        steps=config.steps_at(scale, scales),
        image=reached.image,
        terms=reached.terms,
        history=reached.rows,
        evaluations=before + reached.evaluations,
        status=reached.status,
        place=place,
    )
