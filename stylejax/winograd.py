"""3x3 correlation by Winograd's minimal filtering, F(4x4, 3x3): a quarter of the multiplications.

A tile of 4x4 outputs is what 6x6 inputs make. Both the tile and the kernel are polynomials in two
variables; evaluated at 6x6 points their product is 36 numbers instead of 144 products of a kernel
of nine with sixteen windows (Winograd 1980; Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", CVPR 2016):

    Y = A^T [ (G g G^T) * (B^T d B) ] A,   summed over input channels.

Over many tiles and channels the products are 36 matrix products, on one or two cores of a few rows
of tiles at a time where the kernels are small, so that all of it stays in the cache. The points are
0, infinity and the four of +-sqrt(2)^(+-1): their reciprocals are points again, so that the turned
kernel of the backward pass is the same evaluated kernel in another order. Rounding is about 1e-5 of
the largest output, ten times that of the direct sum.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TILE, TAPS = 4, 3
WINDOW = TILE + TAPS - 1
# An evaluated kernel of at most so many bytes (128 channels to 128, in float32) stays in the cache
# while one row of tiles after another is multiplied with it.
CACHED = 36 * 128 * 128 * 4
# Bytes of windows: so many of a whole picture leave the caches; so many a core makes at once, where
# the kernel stays in its cache; and of a strip of a large picture elsewhere.
MANY = 2**24
FEW = 2**21
STRIP = 2**27
# A kernel is worth its memory traffic, four times the direct one's, from so many tiles times
# channels on, of which fewer than 128 count as these: 4 tiles of 512 channels, 16 of 128 or 64.
ENOUGH = 2**11
# Parts of a round, one for a core; with more cores no rounds are made.
PARTS = 2

_POINTS = np.array([0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)])
_RECIPROCAL = np.array([5, 3, 4, 1, 2, 0])  # of the points, infinity being the last


class _Transforms(NamedTuple):
    """Matrices of one dimension: of the tile, of the kernel, of the outputs."""

    tile: np.ndarray  # B^T [6, 6]
    kernel: np.ndarray  # G [6, 3]
    output: np.ndarray  # A^T [4, 6]


def _transforms() -> _Transforms:
    """Toom and Cook's construction from the points, in float64."""
    differences = _POINTS[:, None] - _POINTS + np.eye(len(_POINTS))
    weights = 1 / differences.prod(axis=1)
    last = np.eye(WINDOW)[-1]
    rows = [np.poly(np.delete(_POINTS, i))[::-1] for i in range(len(_POINTS))]
    tile = np.stack([*(np.append(row, 0) for row in rows), np.poly(_POINTS)[::-1]])
    powers = _POINTS[:, None] ** np.arange(WINDOW)
    kernel = np.vstack([powers[:, :TAPS] * weights[:, None], last[-TAPS:]])
    output = np.vstack([powers[:, :TILE], last[-TILE:]]).T
    return _Transforms(tile, kernel, output)


def _turned(forward: _Transforms) -> _Transforms:
    """What the outputs of the kernel read backwards need, from the kernel evaluated forwards.

    Backwards, ``g2 + g1 p + g0 p^2 = p^2 g(1/p)``: the value at the reciprocal point, scaled.
    """
    ones = np.append(forward.kernel[:-1, 0], 1)
    square = np.append(_POINTS**2, 1)
    square[0] = 1
    scale = ones * square / ones[_RECIPROCAL]
    order = np.argsort(_RECIPROCAL)
    return _Transforms(
        (scale[:, None] * forward.tile)[order], forward.kernel, forward.output[:, order]
    )


_FORWARD = _transforms()
_BACKWARD = _turned(_FORWARD)


def evaluate_kernel(kernel: jax.Array) -> jax.Array:
    """``G g G^T``: ``[3, 3, in, out]`` to ``[36, in, out]``, four times as large."""
    both = jnp.asarray(np.kron(_FORWARD.kernel, _FORWARD.kernel), kernel.dtype)
    flat = kernel.reshape(TAPS * TAPS, -1)
    return jnp.matmul(both, flat, precision="highest").reshape(-1, *kernel.shape[2:])


def wide(channels: int, outputs: int) -> bool:
    """Whether a kernel has enough channels to beat the direct sum on CPU (docs/performance.md)."""
    return min(channels, outputs) >= 64


def worthwhile(shape: Sequence[int], outputs: int) -> bool:
    """Whether correlating ``[h, w, in]`` features does: enough channels and enough tiles."""
    height, width, channels = shape
    tiles = -(-height // TILE) * -(-width // TILE)
    return wide(channels, outputs) and tiles * max(128, min(channels, outputs)) >= ENOUGH


def correlate(
    x: jax.Array, kernel: jax.Array, *, turned: bool = False, precision: str | None = "highest"
) -> jax.Array:
    """The windows that lie within ``x``.

    Args:
      x: ``[h + 2, w + 2, in]``.
      kernel: ``[36, in, out]``, of ``evaluate_kernel``.
      turned: with the kernel turned by 180 degrees and its channels exchanged, which is then
        ``[36, out, in]``: the gradient's correlation.
      precision: of the products of features and kernel.

    Returns:
      ``[h, w, out]``.
    """
    height, width = x.shape[0] - TAPS + 1, x.shape[1] - TAPS + 1
    down, across = -(-height // TILE), -(-width // TILE)
    bytes_per_row = WINDOW**2 * across * x.shape[-1] * x.dtype.itemsize
    large = down * bytes_per_row > MANY and kernel.size * kernel.dtype.itemsize <= CACHED
    if large and cores() <= PARTS:
        begin = partial(_begun, turned=turned)
        finish = partial(_finished, kernel=kernel, turned=turned, precision=precision)
        outputs = kernel.shape[1 if turned else 2]
        pieces = min(across, -(-bytes_per_row // FEW))
        rows = max(1, min(2, FEW * pieces // bytes_per_row))
        whole = _in_rounds(begin, finish, x, outputs, down, across, rows=rows, pieces=pieces)
    else:
        tiles = partial(_tiles, kernel=kernel, turned=turned, precision=precision)
        whole = _in_strips(tiles, x, down, across, rows=max(1, STRIP // bytes_per_row))
    return whole[:height, :width]


def _in_rounds(
    begin: Callable[[jax.Array], jax.Array],
    finish: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    x: jax.Array,
    outputs: int,
    down: int,
    across: int,
    *,
    rows: int,
    pieces: int,
) -> jax.Array:
    """A loop whose every round makes the tiles of two times some rows, or a piece of these.

    The windows of a whole picture go through memory six times, those of a few rows stay in a cache.
    These by themselves are too few to be shared by cores, and XLA runs no two loops at once; but of
    the two parts of a round, which do not depend on each other, each core makes one.
    """
    rounds, across = -(-down // (PARTS * rows)), -(-across // pieces)
    x = _extended(x, rounds * PARTS * rows, pieces * across)
    # The result is written over ``x``, where it has as many channels: what a round reads no round
    # before it has written to. Elsewhere its room is filled with a number of ``x``, because zeros
    # could be had at the program's start, and XLA would hold them from then on.
    over = x.shape[-1] == outputs
    height, width = (tiles * TILE for tiles in (rounds * PARTS * rows, pieces * across))
    room = x if over else jnp.broadcast_to(x[0, 0, 0], (height, width, outputs))
    size = (PARTS * rows * TILE + TAPS - 1, across * TILE + TAPS - 1, x.shape[-1])

    def some(number: jax.Array, room: jax.Array) -> jax.Array:
        start = (number // pieces * PARTS * rows * TILE, number % pieces * across * TILE, 0)
        begun = begin(jax.lax.dynamic_slice(room if over else x, start, size))
        tops = range(0, PARTS * rows * TILE, rows * TILE)
        parts = [finish(begun[:, top : top + rows * TILE + TAPS - 1]) for top in tops]
        made = jnp.concatenate([tiles for tiles, _ in parts])
        # Nothing is added, but what it is made of is read at the round's end, and so has room of
        # its own. Else XLA would put one part's results where the other's were, which in the order
        # of a single core it is done with, and they would wait for each other.
        held = sum(number for _, number in parts)
        made += jnp.minimum(jnp.abs(held), 0)
        return jax.lax.dynamic_update_slice(room, made, start)

    return jax.lax.fori_loop(0, rounds * pieces, some, room)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_strips(
    tiles: Callable[[jax.Array], jax.Array], x: jax.Array, down: int, across: int, rows: int
) -> jax.Array:
    """Some rows of tiles after the others, each strip shared by all cores."""
    x = _extended(x, down, across)
    strips = [
        tiles(x[top * TILE : min(top + rows, down) * TILE + TAPS - 1])
        for top in range(0, down, rows)
    ]
    return strips[0] if len(strips) == 1 else jnp.concatenate(strips)


def _extended(x: jax.Array, down: int, across: int) -> jax.Array:
    """With zeros below and to the right, for so many whole tiles."""
    height, width = (tiles * TILE + TAPS - 1 for tiles in (down, across))
    return jnp.pad(x, ((0, height - x.shape[0]), (0, width - x.shape[1]), (0, 0)))


# Jitted, so that layers of a shape are traced once.
@partial(jax.jit, static_argnames=("turned", "precision"))
def _tiles(x: jax.Array, kernel: jax.Array, *, turned: bool, precision: str | None) -> jax.Array:
    """Whole tiles: ``[4 down + 2, 4 across + 2, in]`` to ``[4 down, 4 across, out]``."""
    matrix = (_BACKWARD if turned else _FORWARD).tile
    windows = _windows(_windows(x, 0), 2, stacked=1)
    # Both dimensions in one product: fewer operations to compile than one after the other, whose
    # sums are a third of these and hardly quicker for a whole picture.
    points = _apply(np.kron(matrix, matrix), windows.reshape(-1, *windows.shape[2:]))
    tiles, _ = _multiplied(points, kernel, turned=turned, precision=precision)
    return tiles


def _begun(x: jax.Array, *, turned: bool) -> jax.Array:
    """Evaluated across, every row: ``[h, 4 across + 2, in]`` to ``[6, h, across, in]``."""
    return _apply((_BACKWARD if turned else _FORWARD).tile, _windows(x, 1))


def _finished(
    begun: jax.Array, kernel: jax.Array, *, turned: bool, precision: str | None
) -> tuple[jax.Array, jax.Array]:
    """Whole tiles of what has begun: ``[6, 4 down + 2, across, in]``; and what is held."""
    points = _apply((_BACKWARD if turned else _FORWARD).tile, _windows(begun, 1))
    points = points.reshape(-1, *points.shape[2:])
    return _multiplied(points, kernel, turned=turned, precision=precision)


def _windows(x: jax.Array, axis: int, *, stacked: int = 0) -> jax.Array:
    """Six neighbours for every tile along an axis: ``4 n + 2`` there to ``n``, and 6 in front."""
    last = x.shape[axis] - WINDOW + 1
    ways = [jax.lax.slice_in_dim(x, first, first + last, TILE, axis) for first in range(WINDOW)]
    return jnp.stack(ways, axis=stacked)


def _multiplied(
    points: jax.Array, kernel: jax.Array, *, turned: bool, precision: str | None
) -> tuple[jax.Array, jax.Array]:
    """``[36, down, across, in]`` to whole tiles: ``[4 down, 4 across, out]``.

    And a number made of the points and of the products, to be held (``_in_rounds``).
    """
    _, down, across, channels = points.shape
    points = points.reshape(WINDOW**2, down * across, channels)
    matrix = (_BACKWARD if turned else _FORWARD).output
    sums = partial(_apply, np.kron(matrix, matrix))
    summed = 2 if turned else 1
    # Where the kernel's last channels are summed over, Eigen, which the steps' products are left to
    # (``effort``), takes it as it lies if it is the left side, and lays it out anew if it is the
    # right one; with few tiles that takes as long as the product.
    if turned and 2 * down * across <= channels:
        contract = ((summed,), (2,)), ((0,), (0,))
        products = jax.lax.dot_general(kernel, points, contract, precision=precision)
        tiles = sums(products).reshape(TILE, TILE, -1, down, across).transpose(3, 0, 4, 1, 2)
    else:
        contract = ((2,), (summed,)), ((0,), (0,))
        products = jax.lax.dot_general(points, kernel, contract, precision=precision)
        tiles = sums(products).reshape(TILE, TILE, down, across, -1).transpose(2, 0, 3, 1, 4)
    tiles = tiles.reshape(TILE * down, TILE * across, -1)
    return tiles, points[0, 0, 0] + products[0, 0, 0]


def _apply(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    """A matrix along the first dimension of ``x``."""
    flat = x.reshape(x.shape[0], -1)
    product = jnp.matmul(jnp.asarray(matrix, x.dtype), flat, precision="highest")
    return product.reshape(-1, *x.shape[1:])
