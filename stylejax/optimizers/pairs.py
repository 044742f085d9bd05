"""What L-BFGS remembers: curvature pairs in a ring, and the two-loop recursion over them.

A pair is a move ``s`` and the change ``y`` of the gradient along it. Nocedal and Wright,
"Numerical Optimization", algorithm 7.4, makes ``H g`` of them without ever writing ``H`` down.

The pairs are the largest thing that L-BFGS holds, two pictures each, and may be stored in fewer
bits than the picture's. Then the rounded pair is *the* pair: its ``y.s`` is that of what is stored,
so that ``H`` is exactly the matrix of some pairs with positive curvature, symmetric and positive
definite whatever the rounding did, and ``-H g`` leads downhill. Sums are taken in the gradient's
dtype, one pair at a time; there is never a second ring in it. bfloat16 has the exponents of
float32, so nothing needs scaling.

A ring of bfloat16 is one of ``uint16`` to the compiler: CPUs' widens arrays of bfloat16 whole where
one picture is read or written, which would take more than is saved.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# What pairs can be stored in; None is the picture's own dtype. Not float16: changes of the gradient
# of a large picture are below its least number.
MEMORY_DTYPES = (None, "float32", "bfloat16")


class Pairs(NamedTuple):
    """The newest curvature pairs, in a ring.

    Attributes:
      moves: ``[memory, *z.shape]``, the ``s``, in the dtype of storage; ``uint16``, which holds the
        bits, for bfloat16.
      changes: ``[memory, *z.shape]``, the ``y``, likewise.
      weights: ``[memory]``, ``1 / y.s``; 0 where there is no pair yet.
      scales: ``[memory]``, ``y.s / y.y``: the inverse curvature along ``y``, what ``H`` can be
        before any pair is applied to it; 0 where there is no pair yet.
      kept: int32, pairs kept so far, those that were overwritten included.
    """

    moves: jax.Array
    changes: jax.Array
    weights: jax.Array
    scales: jax.Array
    kept: jax.Array


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sum of products."""
    return jnp.vdot(a, b, precision="highest")


def empty(z: jax.Array, memory: int, dtype: str | None) -> Pairs:
    """No pairs yet, and room for ``memory`` of them.

    Args:
      z: what is optimised.
      memory: pairs at most.
      dtype: one of ``MEMORY_DTYPES``; None is that of ``z``.
    """
    stored = jnp.uint16 if dtype == "bfloat16" else dtype or z.dtype
    ring = jnp.zeros((memory, *z.shape), stored)  # all bits 0 are 0 in bfloat16 too
    return Pairs(
        moves=ring,
        changes=ring,
        weights=jnp.zeros(memory, z.dtype),
        scales=jnp.zeros(memory, z.dtype),
        kept=jnp.asarray(0, jnp.int32),
    )


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _bits(x: jax.Array, dtype: Any) -> jax.Array:
    """What is written for a picture of bfloat16's numbers."""
    return jax.lax.bitcast_convert_type(x.astype(dtype), jnp.uint16)


@_bits.defjvp
def _no_derivative(dtype: Any, primals: Any, tangents: Any) -> Any:
    """Bits have none, and zero would be wrong without a word."""
    raise ValueError(
        "no derivatives through L-BFGS with memory_dtype='bfloat16'; take memory_dtype=None"
    )


def _written(ring: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``x`` as a ring stores it, and the numbers, in its own dtype, that come back out of it."""
    if ring.dtype == x.dtype:
        return x, x
    narrow = jnp.bfloat16 if ring.dtype == jnp.uint16 else ring.dtype
    kept = jnp.finfo(narrow)
    # Not there and back by ``astype``, which the compiler may take for nothing at all.
    x = jax.lax.reduce_precision(x, kept.nexp, kept.nmant)
    return (_bits(x, narrow) if ring.dtype == jnp.uint16 else x.astype(narrow)), x


def _read(ring: jax.Array, i: jax.Array, dtype: Any) -> jax.Array:
    """One picture of a ring."""
    row = ring[i]
    if ring.dtype == jnp.uint16:
        row = jax.lax.bitcast_convert_type(row, jnp.bfloat16)
    return row.astype(dtype)


def with_pair(pairs: Pairs, move: jax.Array, change: jax.Array, least: jax.Array) -> Pairs:
    """The pairs with one more, if its ``y.s`` is more than ``least``; otherwise as they were.

    Both as it came and as it is stored: rounding can turn the sign where ``s`` and ``y`` are nearly
    orthogonal.

    Args:
      pairs: the pairs so far.
      move: ``s``.
      change: ``y``, an array like ``s``.
      least: 0 or more; infinity keeps none.
    """
    (moved, s), (changed, y) = _written(pairs.moves, move), _written(pairs.changes, change)
    curvature = dot(y, s)
    curved = (curvature > least) & jnp.isfinite(curvature)
    if s is not move:
        curved &= dot(change, move) > least
    place = pairs.kept % len(pairs.weights)

    def put(ring: jax.Array, new: jax.Array) -> jax.Array:
        # What is in the ring is read late: the index says that it waits for the new pair, or the
        # compiler reads it ahead of the evaluation and holds it through that.
        old = ring[jnp.where(curved, 0, place)]
        return ring.at[place].set(jnp.where(curved, new, old))

    curvature = jnp.where(curved, curvature, 1)
    square = jnp.where(curved, dot(y, y), 1)
    return Pairs(
        moves=put(pairs.moves, moved),
        changes=put(pairs.changes, changed),
        weights=put(pairs.weights, 1 / curvature),
        scales=put(pairs.scales, curvature / square),
        kept=pairs.kept + curved,
    )


def forgotten(pairs: Pairs, *, unless: jax.Array) -> Pairs:
    """No pairs, unless the scalar condition holds; the arrays stay where they are, unweighted."""
    return pairs._replace(
        weights=jnp.where(unless, pairs.weights, 0),
        scales=jnp.where(unless, pairs.scales, 0),
        kept=jnp.where(unless, pairs.kept, 0),
    )


def newest_scale(pairs: Pairs, bare: jax.Array) -> jax.Array:
    """Of the newest pair, as is usual (Nocedal and Wright, equation 7.20); ``bare`` without any."""
    newest = pairs.scales[(pairs.kept - 1) % len(pairs.scales)]
    return jnp.where(pairs.kept > 0, newest, bare)


def largest_scale(pairs: Pairs, bare: jax.Array, stretch: float) -> jax.Array:
    """The largest of all pairs, ``stretch`` times the newest's at most; ``bare`` without any."""
    newest = newest_scale(pairs, bare)
    return jnp.clip(jnp.max(pairs.scales), newest, stretch * newest)


def through(pairs: Pairs, q: jax.Array, scale: jax.Array) -> jax.Array:
    """``H q``; of the negative gradient it is where L-BFGS goes.

    Args:
      pairs: the memory.
      q: an array like ``z``.
      scale: ``H`` before any pair is applied to it, a scalar.
    """
    dtype = q.dtype
    newest_first = (pairs.kept - 1 - jnp.arange(len(pairs.weights))) % len(pairs.weights)

    def at(ring: jax.Array, i: jax.Array) -> jax.Array:
        return _read(ring, i, dtype)

    def down(q: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        share = pairs.weights[i] * dot(at(pairs.moves, i), q)
        return q - share * at(pairs.changes, i), share

    def up(r: jax.Array, of: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        i, share = of
        rest = share - pairs.weights[i] * dot(at(pairs.changes, i), r)
        return r + rest * at(pairs.moves, i), None

    q, shares = jax.lax.scan(down, q, newest_first)
    r, _ = jax.lax.scan(up, scale * q, (newest_first, shares), reverse=True)
    return r
