"""How much memory a run takes, and the way of evaluating it that fits.

An estimate by arithmetic, before anything is compiled. The parts are what is known of the program:
the network, what L-BFGS keeps, pictures, the photo's features, activations. What the compiler adds
was measured (docs/scale.md) and is in the constants below.
"""

import dataclasses
import itertools
import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from stylejax import memory, strips, vgg
from stylejax.config import Config
from stylejax.optimizers import JaxoptLbfgs, JaxoptLbfgsb, Lbfgs
from stylejax.targets import cut_of

_FLOAT = 4
_GIGA = 1e9
# Python and JAX.
_BASE = 0.45 * _GIGA
# What a scale's compiled programs leave behind; those before a scale in strips are forgotten.
_PROGRAMS = 0.07 * _GIGA
# What the compiler leaves behind of what it held while it worked, where a scale is in strips; it is
# measured, not explained: the state is made after the compiler has given back what it can.
_COMPILING = 0.6 * _GIGA
# Pictures that a step has at a time, beside the pairs: variables, gradient, direction, the trial,
# what the canvas's transform and the total variation are made of, the photo, the paintings.
_PICTURES = 18
_PICTURES_IN_STRIPS = 11
# What the compiler's schedule needs over the activations that the gradient must have.
_SCHEDULE = 1.05
_SCHEDULE_OF_A_STRIP = 1.3
# The sides of strips that are tried, and of how many blocks all is computed again, both quickest
# first. That of one block or two costs less than thinner strips do; of all blocks, more
# (docs/scale.md).
_SIDES = (2048, 1448, 1024, 724, 512, 362, 256)
_RECOMPUTED = (0, 1, 2)
# Of the least memory, what may be taken to save time: by nested strips, and by others, which take a
# quarter less of it.
_HARDLY_MORE = 1.05
_LITTLE_MORE = 1.15
# Numbers of pairs that are tried.
_PAIRS = (10, 5, 2)


class Need(NamedTuple):
    """The memory of a run at its last scale, in bytes.

    Attributes:
      program: Python, JAX and what the compiler leaves behind.
      network: the weights.
      pairs: what L-BFGS remembers, or Adam's moments.
      pictures: everything else of the picture's size.
      targets: the photo's features at the content layers.
      activations: of the evaluation.
      compiling: what the compiler leaves behind more than these, at a scale in strips.
    """

    program: float
    network: float
    pairs: float
    pictures: float
    targets: float
    activations: float
    compiling: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


def need(config: Config, size: tuple[int, int], params: vgg.Params, *, device: Any = None) -> Need:
    """What a run takes; with a mesh, of the memory of each device, or on CPU of each process.

    Args:
      config: the run's.
      size: height and width of the picture.
      params: the network.
      device: that works; None is JAX's own choice.
    """
    device = device or jax.devices()[0]
    on_host = device.platform == "cpu"
    shares, count = 1, 1 if config.mesh is None else config.mesh.size
    if config.mesh is not None:
        shares = jax.process_count() if on_host else count
    architecture = vgg.architecture_of(params)
    network = sum(a.size * _FLOAT for arrays in params.values() for a in arrays.values())
    picture = size[0] * size[1] * 3 * _FLOAT / shares
    targets = sum(
        _FLOAT * s.height * s.width * s.channels
        for s in memory.stages(size, config.layers, architecture, pool=config.pool)
        if s.layer.replace("relu", "conv")
        in {n.replace("relu", "conv") for n in config.content_layers}
    )
    cut = config.strip_rows(*size) is not None
    programs = 1 if cut else len(config.sizes(*size))
    activations = _activations(config, size, params, architecture, device)
    activations *= (count if cut else 1) / shares
    return Need(
        program=_BASE + programs * _PROGRAMS,
        # On CPU wide kernels are there a second time, four times as large.
        network=network * (5 if on_host else 1),
        pairs=_kept(config.optimizer) * picture,
        pictures=(_PICTURES_IN_STRIPS if cut else _PICTURES) * picture,
        targets=targets / shares,
        activations=activations,
        compiling=max(0.0, _COMPILING - activations) * (cut and on_host),
    )


def _kept(optimizer: Any) -> float:
    """Pictures that an optimizer remembers."""
    if isinstance(optimizer, Lbfgs):
        return 2 * optimizer.memory * (0.5 if optimizer.memory_dtype == "bfloat16" else 1)
    if isinstance(optimizer, JaxoptLbfgs | JaxoptLbfgsb):
        return 4 * optimizer.memory
    return 4


def _activations(
    config: Config,
    size: tuple[int, int],
    params: vgg.Params,
    architecture: vgg.Architecture,
    device: Any,
) -> float:
    """Of the picture as a whole, over all devices; in strips, on one of them."""
    width = 2 if vgg.narrow(config.precision) else _FLOAT
    cut = cut_of(params, size, config)
    # CPUs keep the numbers themselves of a whole picture's smaller layers.
    signs = None if cut is None and device.platform == "cpu" else 1

    def whole(size: tuple[int, int]) -> float:
        return memory.activation_bytes(
            size,
            config.layers,
            architecture,
            lanes=lanes(device),
            pool=config.pool,
            signs=signs,
            width=width,
        )

    if cut is None:
        return _SCHEDULE * whole(size)
    part = (cut.stages["input"].rows, size[1])
    # The rows that each strip hands on are kept for the gradient, and so are activations that
    # shall not be computed again.
    kept = strips.kept_bytes(
        cut, config.layers, recompute=config.recompute, pool=config.pool, width=width
    )
    return _SCHEDULE_OF_A_STRIP * whole(part) + strips.kept_at_a_time(cut) * kept


def check(size: tuple[int, int]) -> None:
    """Raises ValueError where this machine cannot even hold the pictures of a run.

    Before the photo is resized, while nothing else is known.
    """
    least, there = _PICTURES_IN_STRIPS * size[0] * size[1] * 3 * _FLOAT, at_host()
    if there is not None and least > there:
        raise ValueError(
            f"{size[1]}x{size[0]} takes {gigabytes(least)} at the least and there are "
            f"{gigabytes(there)}; take a smaller --size"
        )


def available(device: Any) -> float | None:
    """Bytes that a run may take on a device, JAX's own choice for None; None where nobody knows."""
    device = device or jax.devices()[0]
    if device.platform == "cpu":
        return at_host()
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit")


def at_host() -> float | None:
    """Bytes of this machine's memory that are free; None where nobody knows."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        try:
            return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (AttributeError, ValueError, OSError):
            return None


def lanes(device: Any) -> int:
    """What a device pads channels to."""
    device = device or jax.devices()[0]
    return memory.TPU_LANES if device.platform == "tpu" else 1


def in_strips(config: Config) -> Iterator[Config]:
    """The config with strips of every size that is smaller than its own, then nested.

    Nested strips compute everything again, others as much as it says, or as little as can be first.

    Raises:
      ValueError: where a loss is no sum over positions.
    """
    given = config.recompute
    recomputed = [_RECOMPUTED, (None,)] if given is None else [(given,)]
    for again, nested in [*((blocks, False) for blocks in recomputed), ((None,), True)]:
        for side, blocks in itertools.product(_SIDES, again if nested >= config.nested else ()):
            if config.strip is None or side < config.strip or nested > config.nested:
                yield dataclasses.replace(
                    config, strip=side, strip_above=None, recompute=blocks, nested=nested
                )


def with_coarser_whole(
    config: Config,
    size: tuple[int, int],
    params: vgg.Params,
    limit: float,
    *,
    device: Any = None,
) -> Config:
    """The config with those coarser scales as a whole that take no more than a limit.

    Scales in strips take a fifth longer, and wait for their compilation besides. Of those as a
    whole the last compiles nothing beside its steps.
    """
    if config.strip_rows(*size) is None:
        return config
    for coarser in reversed(config.sizes(*size)[:-1]):
        if config.strip_rows(*coarser) is None:
            break
        side = math.isqrt(config.own_rows(coarser[0]) * coarser[1] - 1) + 1
        way = dataclasses.replace(config, strip_above=side)
        if need(way, coarser, params, device=device).total <= limit:
            return way
    return config


def least(
    config: Config, size: tuple[int, int], params: vgg.Params, *, device: Any = None
) -> Config:
    """The first strips that take little more than the least memory, and pairs of bfloat16.

    Of nested ones the first that take hardly more.

    Raises:
      ValueError: where a loss is no sum over positions.
    """
    config, needs = next(_narrower(config), config), {}
    for way in in_strips(config):
        needed = need(way, size, params, device=device)
        needs[way] = needed.total - needed.compiling  # which comes once, and is there for any way
    fewest = min(needs.values())
    config = next(
        way
        for way, needed in needs.items()
        if needed <= (_HARDLY_MORE if way.nested else _LITTLE_MORE) * fewest
    )
    limit = need(config, size, params, device=device).total
    return with_coarser_whole(config, size, params, limit, device=device)


def _narrower(config: Config) -> Iterator[Config]:
    """The config with pairs of bfloat16, then with fewer and fewer of them."""
    optimizer = config.optimizer
    if not isinstance(optimizer, Lbfgs):
        return
    if optimizer.memory_dtype is None:
        optimizer = dataclasses.replace(optimizer, memory_dtype="bfloat16")
        yield dataclasses.replace(config, optimizer=optimizer)
    for pairs in _PAIRS:
        if pairs < optimizer.memory:
            fewer = dataclasses.replace(optimizer, memory=pairs)
            yield dataclasses.replace(config, optimizer=fewer)


def ways(
    config: Config, size: tuple[int, int], params: vgg.Params, *, device: Any = None
) -> Iterator[Config]:
    """The config and, ever smaller, others for the same picture.

    Strips first, which cost little time; then pairs of bfloat16 and fewer of them, with which
    L-BFGS takes other steps and needs more. A loss that is no sum over positions allows no strips.
    """
    yield config
    smallest, here = config, need(config, size, params, device=device).total
    try:
        for way in in_strips(config):
            needed = need(way, size, params, device=device).total
            if needed < here:
                smallest, here = way, needed
                yield way
    except ValueError:
        pass
    yield from _narrower(smallest)


def fitting(
    config: Config,
    size: tuple[int, int],
    params: vgg.Params,
    limit: float | None,
    *,
    device: Any = None,
) -> Config:
    """The first of ``ways`` that takes no more than ``limit`` bytes; None is no limit.

    Raises:
      ValueError: where none does.
    """
    if limit is None:
        return config
    for way in ways(config, size, params, device=device):
        found = need(way, size, params, device=device)
        if found.total <= limit:
            return with_coarser_whole(way, size, params, limit, device=device)
    raise ValueError(
        f"{size[1]}x{size[0]} takes about {gigabytes(found.total)} at the least and there are "
        f"{gigabytes(limit)}; take a smaller --size"
    )


def described(config: Config, size: tuple[int, int], needed: Need, limit: float | None) -> str:
    """The plan in one line, as docs/scale.md shows it."""
    rows = config.strip_rows(*size)
    again = ", nested" * config.nested
    if (blocks := config.recompute) is not None:
        again += f", {blocks or 'no'} block{'s' * (blocks != 1)} computed again"
    parts = ["whole" if rows is None else f"strips of {rows} rows{again}"]
    if isinstance(config.optimizer, Lbfgs):
        narrow = " in bfloat16" if config.optimizer.memory_dtype == "bfloat16" else ""
        parts.append(f"{config.optimizer.memory} pairs of L-BFGS{narrow}")
    each = "" if config.mesh is None else f" on each of {config.mesh.size} devices"
    if config.mesh is not None and config.mesh.devices.flat[0].platform == "cpu":
        each = " in each process"
    parts.append(f"about {gigabytes(needed.total)}{each}")
    within = "" if limit is None else f" in {gigabytes(limit)}"
    return f"{size[1]}x{size[0]}{within}: {', '.join(parts)}"


def gigabytes(count: float) -> str:
    """Bytes as ``3.1 GB``."""
    return f"{count / _GIGA:.1f} GB"
