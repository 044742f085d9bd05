"""Many pictures: those whose programs are the same share a compiled call.

A cell is one call of ``stylize``. Cells with the same network, config and shapes differ in numbers
only, so one program makes several of them side by side (``jax.vmap``); what all of them have in
common, such as the photo and its features, is computed once.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from stylejax import arguments, vgg
from stylejax.config import Config
from stylejax.guides import Guides
from stylejax.objective import DEFAULT_WEIGHTS, LossWeights
from stylejax.scale import Array
from stylejax.transfer import Result, stylize

# Pictures that one call makes at most. Nothing is seen of them before all are done, and those that
# have ended wait for the others.
MOST = 16
# Memory of a pixel, in bytes: VGG-19 with L-BFGS takes 3000 on CPU (docs/decisions.md), and the
# convolutions of an accelerator want room to work in.
BYTES_PER_PIXEL = 8000


# What may differ between cells of one program, in the order of ``_stylize``.
_TRACED = ("content", "styles", "loss_weights", "key", "init", "guides")


class Cell(NamedTuple):
    """The arguments of one ``stylize``.

    Attributes:
      params: the network's arrays. Cells share a call where these are the same arrays, not copies.
      content: ``[H, W, 3]`` float, sRGB in [0, 1].
      styles: the paintings, ``[h, w, 3]`` each.
      config: everything static.
      loss_weights: the coefficients; None is ``objective.DEFAULT_WEIGHTS``.
      key: a ``jax.random`` key for the start image's noise; None is ``jax.random.key(0)``.
      init: ``[h, w, 3]``, a picture to start from, or None.
      guides: which painting goes where, or None.
    """

    params: vgg.Params
    content: Array
    styles: Sequence[Array]
    config: Config = Config()
    loss_weights: LossWeights | None = None
    key: jax.Array | None = None
    init: Array | None = None
    guides: Guides | None = None


class Batch(NamedTuple):
    """Cells that share a call.

    Attributes:
      places: which cells of the sweep these are.
      lanes: how many pictures the call makes; the last cell fills up what is missing, because one
        more program would cost more than the work.
      varied: which of the leaves of the cells' traced arguments differ between any two cells that
        could share a call; the others are handed over once.
    """

    places: tuple[int, ...]
    lanes: int
    varied: tuple[bool, ...]


def sweep(cells: Sequence[Cell], *, together: int | None = None) -> Iterator[tuple[int, Result]]:
    """Makes the pictures of all cells, in few compiled calls.

    A picture is that of ``stylize`` but for rounding, which the optimizer enlarges from step to
    step, and is ``stylize``'s own where it has a call for itself.

    Args:
      cells: what is to be made.
      together: most pictures in one call, which bounds the memory; None takes ``fitting``.

    Yields:
      Place in ``cells`` and result in NumPy arrays, as soon as it is there; cells that share a
      program come together.

    Raises:
      ValueError: as ``stylize``, for any of the cells, before the first picture is made.
    """
    for place, cell in enumerate(cells):
        _check(place, cell)
    return (
        made
        for batch in batches(cells, together=together)
        for made in zip(batch.places, run(cells, batch), strict=True)
    )


def fitting(cell: Cell, *, device: Any) -> int:
    """How many pictures like this one a call should make.

    One on CPU, where several gain little (docs/decisions.md has the numbers) and each by itself can
    be watched; elsewhere
    as many as half of the device's memory holds, an estimate, but no more than ``MOST``.

    Args:
      cell: one of them.
      device: of JAX; None is its own choice.
    """
    device = device or jax.devices()[0]
    if isinstance(device, str):  # JAX_DEFAULT_DEVICE names a platform
        device = jax.devices(device)[0]
    if device.platform == "cpu":
        return 1
    memory = (device.memory_stats() or {}).get("bytes_limit", 2**33)
    height, width = cell.content.shape[:2]
    return int(min(MOST, max(1, memory / 2 // (height * width * BYTES_PER_PIXEL))))


def batches(
    cells: Sequence[Cell],
    *,
    together: int | None = None,
    lanes: int | None = None,
    varying: Collection[str] = (),
) -> tuple[Batch, ...]:
    """Which cells share a call, in the order of the first cell of each program.

    Args:
      cells: what is to be made.
      together: most pictures in one call; None takes ``fitting``.
      lanes: how many pictures every call makes, instead of ``together``; so that cells that come
        later, of the same shapes, find the program compiled.
      varying: fields of ``Cell`` that differ in these cells or may differ in such later ones.

    Raises:
      ValueError: ``together`` or ``lanes`` is less than 1.
    """
    if lanes is not None and lanes < 1:
        raise ValueError(f"lanes is {lanes}; it must be at least 1")
    if together is not None and together < 1:
        raise ValueError(f"together is {together}; it must be at least 1")
    alike: dict[Any, list[int]] = {}
    for place, cell in enumerate(cells):
        alike.setdefault(_program(cell), []).append(place)
    settings: Any = jax.config
    device = settings.jax_default_device
    made = []
    for places in alike.values():
        varied = _varied([cells[place] for place in places], varying)
        most = lanes or together or fitting(cells[places[0]], device=device)
        calls = -(-len(places) // most)
        width = lanes or -(-len(places) // calls)
        made += [
            Batch(tuple(places[first : first + width]), width, varied)
            for first in range(0, len(places), width)
        ]
    return tuple(made)


def run(cells: Sequence[Cell], batch: Batch, *, devices: Sequence[Any] = ()) -> list[Result]:
    """The results of a batch's cells, in NumPy arrays; a cell by itself is ``stylize``.

    Args:
      cells: of the sweep.
      batch: of ``batches(cells)``.
      devices: of JAX, of one kind, over which the pictures are spread, each as many; as many of
        the devices work as divide ``batch.lanes``. With none it is JAX's own choice.
    """
    first = cells[batch.places[0]]
    if batch.lanes == 1:
        return [jax.device_get(_stylize(first, *_traced(first)))]
    filled = [*batch.places, *[batch.places[-1]] * (batch.lanes - len(batch.places))]
    columns = list(zip(*(jax.tree.leaves(_traced(cells[p])) for p in filled), strict=True))
    structure = jax.tree.structure(_traced(first))
    stacked = [_stack(c, first) for c, v in zip(columns, batch.varied, strict=True) if v]
    if len(devices) > 1:
        # One program for all of them, compiled once. Pictures meet in nothing but the question
        # whether any of them goes on.
        count = max(n for n in range(1, len(devices) + 1) if batch.lanes % n == 0)
        mesh = Mesh(np.asarray(devices[:count]), ("pictures",))
        stacked = jax.device_put(stacked, NamedSharding(mesh, PartitionSpec("pictures")))

    def one(differing: list[jax.Array]) -> Result:
        own = iter(differing)
        leaves = [next(own) if v else c[0] for c, v in zip(columns, batch.varied, strict=True)]
        return _stylize(first, *jax.tree.unflatten(structure, leaves))

    # Where all cells are equal there is nothing to map over, and one picture is all of them.
    lanes = jax.vmap(one)(stacked) if stacked else None
    results = jax.device_get(one([]) if lanes is None else lanes)
    return [
        results if lanes is None else jax.tree.map(lambda a, lane=lane: a[lane], results)
        for lane in range(len(batch.places))
    ]


def _traced(cell: Cell) -> tuple[Any, ...]:
    """The fields of ``_TRACED``."""
    key = jax.random.key(0) if cell.key is None else cell.key
    weights = cell.loss_weights or DEFAULT_WEIGHTS
    return cell.content, tuple(cell.styles), weights, key, cell.init, cell.guides


def _stylize(
    cell: Cell,
    content: Array,
    styles: tuple[Array, ...],
    loss_weights: LossWeights,
    key: jax.Array,
    init: Array | None,
    guides: Guides | None,
) -> Result:
    """With the network and config of a cell."""
    return stylize(
        cell.params,
        content,
        styles,
        config=cell.config,
        loss_weights=loss_weights,
        key=key,
        init=init,
        guides=guides,
    )


def _check(place: int, cell: Cell) -> None:
    try:
        arguments.check(
            cell.params,
            cell.content,
            cell.styles,
            config=cell.config,
            loss_weights=cell.loss_weights or DEFAULT_WEIGHTS,
            init=cell.init,
            guides=cell.guides,
        )
    except ValueError as error:
        raise ValueError(f"cells[{place}]: {error}") from None


def _program(cell: Cell) -> Any:
    """Equal for cells that one program can make."""
    leaves, structure = jax.tree.flatten(_traced(cell))
    shapes = tuple((np.shape(leaf), getattr(leaf, "dtype", None)) for leaf in leaves)
    return cell.config, structure, shapes, tuple(map(id, jax.tree.leaves(cell.params)))


def _varied(cells: Sequence[Cell], varying: Collection[str] = ()) -> tuple[bool, ...]:
    """Which leaves differ, or may; images that are the same array in all cells are not looked at.

    All leaves of the fields in ``varying`` count.
    """
    columns = zip(*(jax.tree.leaves(_traced(cell)) for cell in cells), strict=True)
    named = zip(_TRACED, _traced(cells[0]), strict=True)
    may = [name in varying for name, value in named for _ in jax.tree.leaves(value)]
    return tuple(
        known or not all(_equal(column[0], leaf) for leaf in column)
        for known, column in zip(may, columns, strict=True)
    )


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, jax.Array) and jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    return np.array_equal(np.asarray(one), np.asarray(other))


def _stack(leaves: Sequence[Any], cell: Cell) -> jax.Array:
    """Numbers take the dtype of the picture, as they would by themselves."""
    if isinstance(leaves[0], jax.Array | np.ndarray):
        return jnp.stack([jnp.asarray(leaf) for leaf in leaves])
    return jnp.asarray(leaves, cell.content.dtype)
