"""L-BFGS without a line search, as Torch7's ``optim.lbfgs`` and ``torch.optim.LBFGS`` have it.

The first step is ``-g min(1, 1 / |g|_1)``; each later one is the whole ``-H g``, whatever comes
of it. ``H`` starts from ``(y.s / y.y) I`` of the newest pair and is the two-loop recursion's
(``pairs``). A pair with ``y.s <= 1e-10`` is passed over and the older ones stay. There is no
tolerance at which a run ends.

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
from stylejax.optimizers.pairs import Pairs, newest_scale, through, with_pair

# Least y.s of a pair that is kept, in units of the objective; both programs have it.
CURVED = 1e-10


class _Engine(NamedTuple):
    gradient: jax.Array
    unit: jax.Array
    lowest: jax.Array
    pairs: Pairs | None


def init(fun: Fun, z: jax.Array, args: tuple[Any, ...], pairs: Pairs) -> State:
    """No pairs and, until the first evaluation, no gradient."""
    one = jnp.ones((), z.dtype)
    engine = _Engine(jnp.zeros_like(z), one, jnp.inf * one, pairs)
    return start(fun, z, args, engine)


def step(fun: Fun, state: State, args: tuple[Any, ...]) -> State:
    """Moves, then evaluates once at the new place; the first step of a run only evaluates."""
    old, first = state.engine, state.evaluations == 0
    # Min(1, 1 / |g|_1) in units of the objective; the sum of large numbers is taken of small ones.
    length = old.unit / jnp.maximum(old.unit, jnp.sum(jnp.abs(old.gradient)))
    length = jnp.where(state.evaluations == 1, length, 1).astype(state.z.dtype)
    # Without a pair H is 1, of the undivided gradient.
    scale = newest_scale(old.pairs, 1 / old.unit)
    move = through(old.pairs, -length * old.gradient, scale)
    z = state.z + move
    (value, aux), gradient = jax.value_and_grad(fun, has_aux=True)(z, *args)
    usable = finite(value, gradient)
    factor = jnp.where(first, unit(gradient), old.unit)
    scaled = gradient * factor
    # Where the value or the gradient is not finite, the comparison with infinity keeps no pair.
    least = jnp.where(usable, CURVED * factor, jnp.inf)
    pairs = with_pair(old.pairs, move, scaled - old.gradient, least)
    lower = usable & (value < old.lowest)
    # Where the gradient is exactly zero, no further step would move anything.
    going = jnp.where(jnp.any(gradient != 0), Status.RUNNING, Status.CONVERGED)
    # The pairs are as they should be in any case; choosing would copy them.
    new = State(
        z=z,
        value=value,
        aux=aux,
        other=jnp.where(lower, z, state.best),
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
