"""Small objectives with known answers, made to order and made to go wrong.

Everything about a problem is a number, so one compiled run per minimizer serves all of them.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stylejax.optimizers import State, Status

SHAPE = (2, 2, 3)  # of z: not a vector, as a picture is not
SIZE = 12
STEPS = 120  # length of the compiled run; a test may ask for fewer

QUADRATIC, ROSENBROCK, RIDGE, ABSOLUTE, LOGARITHM = range(5)


class Problem(NamedTuple):
    """What ``objective`` minimises.

    Attributes:
      kind: which function.
      weights: ``[12]``, curvatures of the quadratic, coefficients of the others' sums.
      target: ``[12]``, its minimiser where the function has that freedom.
      scale: factor on the value.
      offset: added to the value.
      below: the objective is faulty where its value, unscaled, is less than this.
      beyond: and where the first element of z exceeds this.
      penalty: added to the value where faulty: NaN or infinity, or 0 for none.
      slope: factor on the gradient where faulty.
      load: factor on an aux that has no other use.
    """

    kind: int
    weights: np.ndarray = np.ones(SIZE)
    target: np.ndarray = np.zeros(SIZE)
    scale: float = 1.0
    offset: float = 0.0
    below: float = -np.inf
    beyond: float = np.inf
    penalty: float = 0.0
    slope: float = 1.0
    load: float = 1.0


def quadratic(x, weights, target):
    return jnp.sum(weights * jnp.square(x - target)) / 2


def rosenbrock(x, weights, target):
    """One valley from anywhere near the start used here to the minimum 0 at ones."""
    x = x - target + 1
    return jnp.sum(100 * jnp.square(x[1:] - jnp.square(x[:-1])) + jnp.square(1 - x[:-1]))


def ridge(x, weights, target):
    """Concave along every axis near the target; minima of -1 each at target + 1 and - 1."""
    squares = jnp.square(x - target)
    return jnp.sum(weights * (jnp.square(squares) - 2 * squares))


def absolute(x, weights, target):
    return jnp.sum(weights * jnp.abs(x - target))


def logarithm(x, weights, target):
    """NaN where an element is negative; minimal at the target."""
    return jnp.sum(weights * (x - target * jnp.log(x)))


@jax.custom_vjp
def with_slope(value, factor):
    """The value unchanged; its gradient times the factor."""
    return value


with_slope.defvjp(
    lambda value, factor: (value, factor),
    lambda factor, cotangent: (cotangent * factor, jnp.zeros_like(factor)),
)


def objective(z, problem):
    x = z.ravel()
    weights, target = (jnp.asarray(a, z.dtype) for a in (problem.weights, problem.target))
    functions = [quadratic, rosenbrock, ridge, absolute, logarithm]
    plain = jax.lax.switch(problem.kind, functions, x, weights, target)
    faulty = (plain < problem.below) | (x[0] > problem.beyond)
    slope = jnp.where(faulty, problem.slope, 1).astype(z.dtype)
    value = with_slope(plain + jnp.where(faulty, problem.penalty, 0), slope)
    value = (value * problem.scale + problem.offset).astype(z.dtype)
    return value, {"value": value, "parts": (x[0] * problem.load, jnp.sum(x))}


class Run(NamedTuple):
    """The states of a run, ``[steps + 1, ...]``, the start first; ``taken`` has ``[steps]``."""

    z: jax.Array
    value: jax.Array
    aux: dict
    best: jax.Array
    status: jax.Array
    evaluations: jax.Array
    taken: jax.Array


def scan(minimizer, z, problem, limit):
    """``limit`` steps at most, none after the end: the loop of ``transfer``."""

    def body(state, index):
        going = (state.status == Status.RUNNING) & (index < limit)
        new = jax.lax.cond(
            going, lambda s: minimizer.step(objective, s, problem), lambda s: s, state
        )
        return new, (*public(new), going)

    start = minimizer.init(objective, z, problem)
    _, rows = jax.lax.scan(body, start, jnp.arange(STEPS))
    rows = Run(*rows)
    first = public(start)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rows[:-1])
    return Run(*joined, rows.taken)


def public(state: State):
    return tuple(state[: State._fields.index("engine")])


_compiled = partial(jax.jit, static_argnums=0)(scan)


def run(minimizer, z, problem, limit=STEPS) -> Run:
    """The run as NumPy arrays, without the steps not taken."""
    rows = jax.tree.map(np.asarray, _compiled(minimizer, z, problem, limit))
    steps = int(rows.taken.sum())
    return Run(*jax.tree.map(lambda a: a[: steps + 1], rows[:-1]), rows.taken[:steps])
