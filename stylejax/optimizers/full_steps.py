"""L-BFGS without a line search, as Torch7's ``optim.lbfgs`` and ``torch.optim.LBFGS`` have it.

The first step is ``-g min(1, 1 / |g|_1)``; each later one is the whole ``-H g``, whatever comes
of it. ``H`` starts from ``(y.s / y.y) I`` of the newest pair and is the two-loop recursion's
(Nocedal and Wright, "Numerical Optimization", algorithm 7.4). A pair with ``y.s <= 1e-10`` is
passed over and the older ones stay, which optax's memory, where every pair is stored, cannot do;
hence one here. There is no tolerance at which a run ends.

``1 / |g|_1`` and ``1e-10`` are in the units of the objective. Gradients here are divided by the
norm of the first one, as in every minimizer, so that squares neither overflow nor underflow; the
two numbers are converted (``unit``), and the iterates are those of the undivided objective: its
scale matters to the first step, if ``|g|_1 < 1``, and to what is passed over, as it does there.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stylejax.optimizers.minimizer import (
    Fun,
    State,
    Status,
    finite,
    first_status,
    select,
    start,
    typed,
    unit,
)

# Least y.s of a pair that is kept, in units of the objective; both programs have it.
CURVED = 1e-10


class Pairs(NamedTuple):
    """The newest curvature pairs, in a ring.

    Attributes:
      moves: ``[memory, *z.shape]``, the ``s``.
      changes: ``[memory, *z.shape]``, the ``y``.
      weights: ``[memory]``, ``1 / y.s``; 0 where there is no pair yet.
      kept: int32, pairs kept so far, those that were overwritten included.
      scale: ``H`` before any pair is applied to it, scalar.
    """

    moves: jax.Array
    changes: jax.Array
    weights: jax.Array
    kept: jax.Array
    scale: jax.Array


class _Engine(NamedTuple):
    gradient: jax.Array
    unit: jax.Array
    lowest: jax.Array
    pairs: Pairs | None


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.vdot(a, b, precision="highest")


def _kept(pairs: Pairs, move: jax.Array, change: jax.Array, least: jax.Array) -> Pairs:
    """The pairs with one more, if its ``y.s`` is more than ``least``."""
    curvature = _dot(change, move)
    curved = curvature > least
    place = pairs.kept % len(pairs.weights)

    def put(ring: jax.Array, new: jax.Array) -> jax.Array:
        return ring.at[place].set(jnp.where(curved, new, ring[place]))

    curvature = jnp.where(curved, curvature, 1)
    square = jnp.where(curved, _dot(change, change), 1)
    return Pairs(
        moves=put(pairs.moves, move),
        changes=put(pairs.changes, change),
        weights=put(pairs.weights, 1 / curvature),
        kept=pairs.kept + curved,
        scale=jnp.where(curved, curvature / square, pairs.scale),
    )


def _uphill(pairs: Pairs, gradient: jax.Array) -> jax.Array:
    """``H g``."""
    newest_first = (pairs.kept - 1 - jnp.arange(len(pairs.weights))) % len(pairs.weights)

    def down(q: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        share = pairs.weights[i] * _dot(pairs.moves[i], q)
        return q - share * pairs.changes[i], share

    def up(r: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        i, share = at
        return r + (share - pairs.weights[i] * _dot(pairs.changes[i], r)) * pairs.moves[i], None

    q, shares = jax.lax.scan(down, gradient, newest_first)
    r, _ = jax.lax.scan(up, pairs.scale * q, (newest_first, shares), reverse=True)
    return r


def init(fun: Fun, z: jax.Array, args: tuple[Any, ...], memory: int) -> State:
    """No pairs and, until the first evaluation, no gradient."""
    one, ring = jnp.ones((), z.dtype), jnp.zeros((memory, *z.shape), z.dtype)
    pairs = Pairs(ring, ring, jnp.zeros(memory, z.dtype), jnp.asarray(0, jnp.int32), one)
    return start(fun, z, args, _Engine(jnp.zeros_like(z), one, jnp.inf * one, pairs))


def step(fun: Fun, state: State, args: tuple[Any, ...]) -> State:
    """Moves, then evaluates once at the new place; the first step of a run only evaluates."""
    old, first = state.engine, state.evaluations == 0
    uphill = _uphill(old.pairs, old.gradient)
    # Min(1, 1 / |g|_1) in units of the objective; the sum of large numbers is taken of small ones.
    length = old.unit / jnp.maximum(old.unit, jnp.sum(jnp.abs(old.gradient)))
    move = -jnp.where(state.evaluations == 1, length, 1).astype(state.z.dtype) * uphill
    z = state.z + move
    (value, aux), gradient = jax.value_and_grad(fun, has_aux=True)(z, *args)
    usable = finite(value, gradient)
    factor = jnp.where(first, unit(gradient), old.unit)
    scaled = gradient * factor
    # Where the value or the gradient is not finite, the comparison with infinity keeps no pair.
    least = jnp.where(usable, CURVED * factor, jnp.inf)
    pairs = _kept(old.pairs, move, scaled - old.gradient, least)
    # Without a pair H is 1, of the undivided gradient.
    pairs = pairs._replace(scale=jnp.where(first, 1 / factor, pairs.scale))
    lower = usable & (value < old.lowest)
    # Where the gradient is exactly zero, no further step would move anything.
    going = jnp.where(jnp.any(gradient != 0), Status.RUNNING, Status.CONVERGED)
    # The pairs are as they should be in any case; choosing would copy them.
    new = State(
        z=z,
        value=value,
        aux=aux,
        best=jnp.where(lower, z, state.best),
        status=jnp.where(first, first_status(value, gradient), going),
        evaluations=state.evaluations,
        engine=_Engine(scaled, factor, jnp.where(lower, value, old.lowest), pairs=None),
    )
    ended = state._replace(
        status=jnp.asarray(Status.NON_FINITE, jnp.int32), engine=old._replace(pairs=None)
    )
    kept = select(usable | first, new, ended)
    engine = kept.engine._replace(pairs=pairs)
    return typed(kept._replace(evaluations=state.evaluations + 1, engine=engine), state)
