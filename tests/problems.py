"""Small objectives with known answers, made to order and made to go wrong.

Everything about a problem is a number, so one compiled run per minimizer serves all of them. All
live in the box [0, 1], as pictures do.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stylejax.optimizers import Adam, JaxoptLbfgs, JaxoptLbfgsb, Lbfgs, State, Status

SHAPE = (2, 2, 3)  # of z: not a vector, as a picture is not
SIZE = 12
STEPS = 120  # length of the compiled run; a test may ask for fewer
MEMORY = 6  # fewer pairs than steps, so that old ones are overwritten
TRIALS = 20

LINE_SEARCHES = (
    Lbfgs(memory=MEMORY, trials=TRIALS),
    JaxoptLbfgs(memory=MEMORY, trials=TRIALS),
    JaxoptLbfgsb(memory=MEMORY, trials=TRIALS),
    Lbfgs(memory=MEMORY, trials=TRIALS, memory_dtype="bfloat16"),
)
ADAM = Adam(learning_rate=0.02)
MINIMIZERS = (*LINE_SEARCHES, ADAM)
FULL_STEPS = Lbfgs(memory=MEMORY, line_search=False)
NARROW_FULL_STEPS = Lbfgs(memory=MEMORY, line_search=False, memory_dtype="bfloat16")

QUADRATIC, CHAIN, ROSENBROCK, RIDGE, ABSOLUTE, LOGARITHM = range(6)
CONDITION_100 = np.logspace(0, 2, SIZE)
TARGET = np.linspace(0.8, 0.2, SIZE)
# A start away from every target, the same for all tests.
START = np.random.default_rng(20150826).uniform(0.05, 0.95, SHAPE).astype(np.float32)


class Problem(NamedTuple):
    """What ``objective`` minimises.

    Attributes:
      kind: which function.
      weights: ``[12]``, the quadratic's curvatures, the other sums' coefficients.
      target: ``[12]``, the minimiser (of the ridge: the maximiser).
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
    target: np.ndarray = TARGET
    scale: float = 1.0
    offset: float = 0.0
    below: float = -np.inf
    beyond: float = np.inf
    penalty: float = 0.0
    slope: float = 1.0
    load: float = 1.0


def quadratic(x: Any, weights: Any, target: Any) -> Any:
    return jnp.sum(weights * jnp.square(x - target)) / 2


def chain(x: Any, weights: Any, target: Any) -> Any:
    """The quadratic with springs between neighbours, so that no element is alone."""
    return quadratic(x, weights, target) + 5 * jnp.sum(jnp.square(x[1:] - x[:-1]))


def rosenbrock(x: Any, weights: Any, target: Any) -> Any:
    """The box is four of Rosenbrock's units wide; 0 at the target."""
    x = 4 * (x - target) + 1
    return jnp.sum(100 * jnp.square(x[1:] - jnp.square(x[:-1])) + jnp.square(1 - x[:-1]))


def ridge(x: Any, weights: Any, target: Any) -> Any:
    """Concave around the target, least 1/4 to either side: minus the sum of the weights."""
    squares = jnp.square(4 * (x - target))
    return jnp.sum(weights * (jnp.square(squares) - 2 * squares))


def absolute(x: Any, weights: Any, target: Any) -> Any:
    return jnp.sum(weights * jnp.abs(x - target))


def logarithm(x: Any, weights: Any, target: Any) -> Any:
    """NaN where an element is negative."""
    return jnp.sum(weights * (x - target * jnp.log(x)))


@jax.custom_vjp
def with_slope(value: Any, factor: Any) -> Any:
    """The value unchanged; its gradient times the factor."""
    return value


with_slope.defvjp(
    lambda value, factor: (value, factor),
    lambda factor, cotangent: (cotangent * factor, jnp.zeros_like(factor)),
)


FUNCTIONS = (quadratic, chain, rosenbrock, ridge, absolute, logarithm)


def objective(z: Any, problem: Problem) -> tuple[Any, Any]:
    x = z.ravel()
    weights, target = (jnp.asarray(a, z.dtype) for a in (problem.weights, problem.target))
    if isinstance(problem.kind, int):
        plain = FUNCTIONS[problem.kind](x, weights, target)
    else:
        plain = jax.lax.switch(problem.kind, FUNCTIONS, x, weights, target)
    faulty = (plain < problem.below) | (x[0] > problem.beyond)
    slope = jnp.where(faulty, problem.slope, 1).astype(z.dtype)
    value = with_slope(plain + jnp.where(faulty, problem.penalty, 0), slope)
    value = (value * problem.scale + problem.offset).astype(z.dtype)
    return value, {"value": value, "parts": (x[0] * problem.load, jnp.sum(x))}


def quadratics(z: Any, problem: Problem) -> tuple[Any, Any]:
    """The same for quadratics only, which compiles in half the time."""
    return objective(z, problem._replace(kind=QUADRATIC))


class Run(NamedTuple):
    """What a run's states showed, ``[steps + 1, ...]``, the start's evaluation first."""

    z: np.ndarray
    value: np.ndarray
    aux: Any
    best: np.ndarray
    status: np.ndarray
    evaluations: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.value) - 1

    @property
    def end(self) -> Status:
        return Status(int(self.status[-1]))


def _shown(state: State) -> Run:
    return Run(*(getattr(state, name) for name in Run._fields))


@partial(jax.jit, static_argnums=0)
def _scan(minimizer, z, problem, limit):
    """``limit`` steps at most and none after the end, as ``transfer`` does it."""

    def body(state, index):
        going = (state.status == Status.RUNNING) & (index <= limit)
        new = jax.lax.cond(
            going, lambda s: minimizer.step(objective, s, problem), lambda s: s, state
        )
        return new, (_shown(new), going)

    start = minimizer.init(objective, z, problem)
    # The first step evaluates the start and is none of the ``limit``.
    _, (rows, taken) = jax.lax.scan(body, start, jnp.arange(STEPS + 1))
    return rows, jnp.sum(taken) - 1


def run(minimizer: Any, problem: Problem, z: np.ndarray = START, limit: int = STEPS) -> Run:
    """The run as NumPy arrays, without rows for steps not taken."""
    rows, steps = jax.tree.map(np.asarray, _scan(minimizer, z, problem, limit))
    return jax.tree.map(lambda a: a[: steps + 1], rows)


recomputed = jax.jit(jax.vmap(objective, in_axes=(0, None)))
