"""When memory runs out all the same: the run goes on with less, from the best picture so far."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from stylejax import budget, vgg
from stylejax.config import Config
from stylejax.transfer import Progress

# (config, init) -> a run from there.
Run = Callable[[Config, Any], Iterator[Progress]]


def ran_out(error: Exception) -> bool:
    """Whether an error of the device says that memory ran out."""
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text or "memory" in text.lower()


def rest(config: Config, size: tuple[int, int], last: Progress | None) -> Config:
    """The config of what a run had still to do where ``last`` was the last that it handed over.

    A finished scale is left out; of another, the steps that were not taken remain.
    """
    sizes = config.sizes(*size)
    steps = [config.steps_at(scale, len(sizes)) for scale in range(len(sizes))]
    first = 0 if last is None else last.scale
    if last is not None:
        steps[first] -= last.step
        if steps[first] < 1 and first + 1 < len(sizes):
            first += 1
    return dataclasses.replace(
        config,
        scales=None,
        scale_sizes=tuple(max(each) for each in sizes[first:]),
        steps_per_scale=tuple(max(1, left) for left in steps[first:]),
        coarse_steps=None,
        first_steps=None,
        carry=False,
    )


def surviving(
    run: Run,
    config: Config,
    init: Any,
    *,
    size: tuple[int, int],
    params: vgg.Params,
    device: Any = None,
    tell: Callable[[str], None],
) -> Iterator[Progress]:
    """A run that takes the next of ``budget.ways`` when memory runs out.

    What the optimizer had learnt is lost, and ``Progress.place`` is None from there on: the rest is
    another run. Counts go on.

    Args:
      run: makes a run; its ``config`` and ``init`` are changed here.
      config: of the run.
      init: what it starts from.
      size: height and width of the picture.
      params: the network.
      device: that works; None is JAX's own choice.
      tell: is told, in a line, what is tried instead.

    Raises:
      jax.errors.JaxRuntimeError: where nothing less is left.
    """
    last: Progress | None = None
    scales, done, evaluations, fell = len(config.sizes(*size)), 0, 0, False
    ways = budget.ways(config, size, params, device=device)
    next(ways)  # the config itself
    while True:
        try:
            for progress in run(config, init):
                last = progress
                if fell:
                    progress = progress._replace(
                        scale=progress.scale + done,
                        scales=scales,
                        evaluations=progress.evaluations + evaluations,
                        place=None,
                    )
                yield progress
            return
        except jax.errors.JaxRuntimeError as error:
            way = next(ways, None)
            if way is None or not ran_out(error):
                raise
            short = budget.described(way, size, budget.need(way, size, params, device=device), None)
        tell(f"out of memory; going on from the best picture so far with {short}")
        if last is not None:
            init = np.asarray(last.image)
            evaluations += last.evaluations
        left = rest(config, size, last)
        done = scales - len(left.sizes(*size))
        config = dataclasses.replace(
            left,
            strip=way.strip,
            strip_above=way.strip_above,
            recompute=way.recompute,
            nested=way.nested,
            optimizer=way.optimizer,
        )
        last, fell = None, True
