"""What L-BFGS remembers: curvature pairs in a ring, and ``H g`` of them.

A pair is a move ``s`` and the change ``y`` of the gradient along it. Nocedal and Wright,
"Numerical Optimization", algorithm 7.4, makes ``H g`` of them without ever writing ``H`` down, in
two loops: a sum over the picture and an update of it for every pair, each waiting for the one
before. Where starting an operation costs more than reading a picture, as on a GPU, or where the
sum goes over the wire, the compact form is quicker (Byrd, Nocedal and Schnabel, "Representations
of quasi-Newton matrices and their use in limited memory methods", 1994, theorem 2.2): it knows the
pairs' products with each other, takes all of theirs with ``g`` at once, and solves for the rest. It
is the same matrix; only rounding differs.

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
from jax.scipy.linalg import solve_triangular

# What pairs can be stored in; None is the picture's own dtype. Not float16: changes of the gradient
# of a large picture are below its least number.
MEMORY_DTYPES = (None, "float32", "bfloat16")


class Products(NamedTuple):
    """Of all pairs with all, for the compact form; what an empty place has counts for nothing.

    Attributes:
      crossed: ``[memory, memory]``, ``s_i . y_j``.
      changed: ``[memory, memory]``, ``y_i . y_j``.
    """

    crossed: jax.Array
    changed: jax.Array


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
      products: for the compact form; None takes the two loops.
    """

    moves: jax.Array
    changes: jax.Array
    weights: jax.Array
    scales: jax.Array
    kept: jax.Array
    products: Products | None = None


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sum of products."""
    return jnp.vdot(a, b, precision="highest")


def empty(z: jax.Array, memory: int, dtype: str | None, *, compact: bool = False) -> Pairs:
    """No pairs yet, and room for ``memory`` of them.

    Args:
      z: what is optimised.
      memory: pairs at most.
      dtype: one of ``MEMORY_DTYPES``; None is that of ``z``.
      compact: whether ``through`` shall take the compact form.
    """
    stored = jnp.uint16 if dtype == "bfloat16" else dtype or z.dtype
    ring = jnp.zeros((memory, *z.shape), stored)  # all bits 0 are 0 in bfloat16 too
    return Pairs(
        moves=ring,
        changes=ring,
        weights=jnp.zeros(memory, z.dtype),
        scales=jnp.zeros(memory, z.dtype),
        kept=jnp.asarray(0, jnp.int32),
        products=Products(*[jnp.zeros((memory, memory), z.dtype)] * 2) if compact else None,
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


def _read(stored: jax.Array, dtype: Any) -> jax.Array:
    """The numbers of a picture of a ring, or of all of them."""
    if stored.dtype == jnp.uint16:
        stored = jax.lax.bitcast_convert_type(stored, jnp.bfloat16)
    return stored.astype(dtype)


def _along(ring: jax.Array, x: jax.Array) -> jax.Array:
    """``[memory]``, the products of a ring's pictures with ``x``.

    As a sum, not a product of matrices: to a GPU's compiler it is one pass over the ring, in full
    precision, and nothing to try out.
    """
    return jnp.sum(_read(ring, x.dtype) * x[None], axis=tuple(range(1, ring.ndim)))


def _combined(ring: jax.Array, shares: jax.Array) -> jax.Array:
    """The sum of a ring's pictures, each times its share."""
    each = jnp.expand_dims(shares, tuple(range(1, ring.ndim)))
    return jnp.sum(each * _read(ring, shares.dtype), axis=0)


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
    new = Pairs(
        moves=put(pairs.moves, moved),
        changes=put(pairs.changes, changed),
        weights=put(pairs.weights, 1 / curvature),
        scales=put(pairs.scales, curvature / square),
        kept=pairs.kept + curved,
    )
    if pairs.products is None:
        return new
    rows = jnp.stack([_along(new.changes, s), _along(new.changes, y)])
    column = _along(new.moves, y)
    crossed = pairs.products.crossed.at[place].set(rows[0]).at[:, place].set(column)
    changes = pairs.products.changed.at[place].set(rows[1]).at[:, place].set(rows[1])
    grown = Products(crossed, changes)
    return new._replace(products=jax.tree.map(partial(jnp.where, curved), grown, pairs.products))


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
      scale: ``H`` before any pair is applied to it, a scalar. Over several processes of CPUs no
        sum over the picture may be on its way to it, but only to ``q``, for which the loops wait
        (``traffic.unordered``).
    """
    if pairs.products is not None:
        return _compact(pairs, pairs.products, q, scale)
    newest_first = (pairs.kept - 1 - jnp.arange(len(pairs.weights))) % len(pairs.weights)

    def at(ring: jax.Array, i: jax.Array) -> jax.Array:
        return _read(ring[i], q.dtype)

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


def _compact(pairs: Pairs, products: Products, q: jax.Array, scale: jax.Array) -> jax.Array:
    """``H q`` with two sums over the picture.

    The two loops' shares solve triangular systems. With the pairs from the oldest to the newest,
    ``R_ij = s_i . y_j`` for ``i <= j`` and ``D`` its diagonal, the first loop's are ``a = R^-1 S
    q``, the second's ``b = R^-T (D a - Y r)``, where ``Y r = scale (Y q - Y Y^T a)``; and ``H q =
    scale (q - Y^T a) + S^T b``. As in the loops, ``R`` is divided by ``D``, which leaves ones on
    its diagonal, so that nothing here has a scale; an empty place, of weight 0, is a row of the
    identity, and its shares are 0.
    """
    memory = len(pairs.weights)
    oldest_first = (pairs.kept + jnp.arange(memory)) % memory
    weights = pairs.weights[oldest_first]
    moved = _along(pairs.moves, q)[oldest_first]
    changed = _along(pairs.changes, q)[oldest_first]
    crossed = products.crossed[oldest_first[:, None], oldest_first]
    between = products.changed[oldest_first[:, None], oldest_first]
    # Products of small matrices, as sums for the same reasons.
    solve = partial(solve_triangular, weights[:, None] * crossed, unit_diagonal=True)
    a = solve(weights * moved)
    left = changed - jnp.sum(between * a[None], axis=1)
    # b = R^-T (D a - scale left), where R^T = (R / D)^T D.
    diagonal = jnp.where(weights > 0, jnp.diagonal(crossed), 0)
    b = weights * solve(diagonal * a - scale * left, trans=1)
    first = jnp.zeros_like(a).at[oldest_first].set(a)
    second = jnp.zeros_like(b).at[oldest_first].set(b)
    return scale * (q - _combined(pairs.changes, first)) + _combined(pairs.moves, second)
