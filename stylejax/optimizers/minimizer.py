"""What every minimizer is: two pure functions over one state.

A minimizer is a frozen, hashable record of settings with

``init(fun, z, *args) -> State``
    the start, not evaluated yet: of ``fun`` only the shapes are asked;
``step(fun, state, *args) -> State``
    one iteration; the first one of a run evaluates the start and moves nothing.

So the place where a step evaluates is the only one in the program, and an objective of VGG-19's
size, which takes seconds to compile at every place where it stands, is compiled once.

``fun(z, *args) -> (value, aux)``: what is optimised comes first, everything else travels in
``args``; ``aux`` is a pytree of scalars that is reported, not optimised, and finite wherever the
value is. Once ``state.status`` is no longer ``RUNNING`` the run is over and no further step is to
be taken.

The scale of the objective does not matter: a float32 L-BFGS stalls without a word where values
are below 1e-10 or above 1e20, so every minimizer here works on ``fun`` divided by the norm of
its first gradient, and reports ``fun``'s own values. Where a setting is a number in units of the
objective, because another program has it so, it is converted: ``Adam.eps`` and the constants of
``Lbfgs(line_search=False)``.

No step is ever taken to a point whose value or gradient is not finite; ``State.best`` is finite
whenever the start was.
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

Fun = Callable[..., tuple[jax.Array, Any]]


class Status(enum.IntEnum):
    """How a run ended; the larger, the worse."""

    RUNNING = 0
    CONVERGED = 1
    STALLED = 2
    NON_FINITE = 3

    @property
    def message(self) -> str:
        """One sentence for a person."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.RUNNING: "all steps were taken",
    Status.CONVERGED: "nothing is left to gain at this precision",
    Status.STALLED: "the line search found no lower loss; the last good picture was kept",
    Status.NON_FINITE: "the loss or its gradient became NaN or infinite; "
    "the last finite picture was kept",
}


class State(NamedTuple):
    """A minimizer between two steps.

    Attributes:
      z: the current iterate, a float array.
      value: ``fun`` at ``z``, scalar; infinite before the first evaluation.
      aux: what ``fun`` reported at ``z``; zeros before the first evaluation.
      other: the answer if the run ended here, where it is another than ``z``: the lowest iterate,
        where values may rise, or the average of the iterates. None where values only fall.
      status: int32, a ``Status``.
      evaluations: int32, how often value and gradient were computed so far; 0 at the start only.
      engine: the minimizer's own.
    """

    z: jax.Array
    value: jax.Array
    aux: Any
    other: jax.Array | None
    status: jax.Array
    evaluations: jax.Array
    engine: Any

    @property
    def best(self) -> jax.Array:
        """The answer if the run ended here."""
        return self.z if self.other is None else self.other


class Minimizer(Protocol):
    """What ``transfer`` asks of an optimizer."""

    def init(self, fun: Fun, z: jax.Array, *args: Any) -> State:
        """The state at the start, before any evaluation."""

    def step(self, fun: Fun, state: State, *args: Any) -> State:
        """The state after one iteration, of which the first evaluates where it stands."""


# A gradient this many times smaller than the first is float32's zero.
GRADIENT_GONE = 1e-6
# A predicted decrease below this share of the value cannot be told from the rounding of float32
# sums over the millions of features that make up a style loss.
NOTHING_TO_GAIN = 1e-4
# The same for objectives whose minimum is zero, in units of the first gradient's norm.
NOTHING_AT_ALL = 1e-9


def norm(x: jax.Array) -> jax.Array:
    """Euclidean norm whose squares neither overflow nor underflow, with a gradient at zero."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    largest = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    squares = jnp.sum(jnp.square(x / largest))
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)) * largest, 0)


def unit(gradient: jax.Array) -> jax.Array:
    """The factor that makes the first gradient's norm one (1 where it is zero or not finite)."""
    size = norm(gradient)
    usable = (size > 0) & jnp.isfinite(size)
    return jnp.where(usable, 1 / jnp.where(usable, size, 1), 1)


def finite(value: jax.Array, gradient: jax.Array) -> jax.Array:
    """Whether an evaluation can be used."""
    return jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))


def start(
    fun: Fun, z: jax.Array, args: tuple[Any, ...], engine: Any, *, falling: bool = False
) -> State:
    """The state before the first evaluation; ``falling`` says that values will only fall."""
    value, aux = jax.eval_shape(fun, z, *args)
    state = State(
        z=z,
        value=jnp.full(value.shape, jnp.inf, value.dtype),
        aux=jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), aux),
        other=None if falling else z,
        status=jnp.asarray(Status.RUNNING, jnp.int32),
        evaluations=jnp.asarray(0, jnp.int32),
        engine=engine,
    )
    # optax leaves Python numbers in its states: weak types, which would compile the step twice.
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.asarray(a).dtype), state)


def first_status(value: jax.Array, gradient: jax.Array) -> jax.Array:
    """What the first evaluation says of the run."""
    resting = jnp.where(jnp.any(gradient != 0), Status.RUNNING, Status.CONVERGED)
    return jnp.where(finite(value, gradient), resting, Status.NON_FINITE).astype(jnp.int32)


class Verdict(NamedTuple):
    """What becomes of a line-search step."""

    improved: jax.Array
    failures: jax.Array
    status: jax.Array


def risen(value: jax.Array, noise: float) -> jax.Array:
    """The highest value that rounding may show where it is really ``value``."""
    return value + noise * jnp.abs(value) if noise else value


def judge(
    before: jax.Array,
    after: jax.Array,
    gradient: jax.Array,
    *,
    sound: jax.Array,
    predicted: jax.Array,
    failures: jax.Array,
    noise: float = 0.0,
) -> Verdict:
    """Takes a step that lowered the value.

    At the first failure the minimizer forgets its memory and tries again; a second one in a row
    ends the run.

    Args:
      before: value before the step, in units of the first gradient's norm.
      after: value after it.
      gradient: the gradient after it.
      sound: False where the search met values that are not finite.
      predicted: the decrease that the quadratic model promised.
      failures: failed steps in a row before this one.
      noise: share of a value that may be rounding.
    """
    before = risen(before, noise)
    usable = finite(after, gradient)
    improved = usable & (after < before)
    failures = jnp.where(improved, 0, failures + 1)
    gone = improved & (norm(gradient) <= GRADIENT_GONE)
    hopeless = predicted > max(NOTHING_TO_GAIN, noise) * jnp.abs(before) + NOTHING_AT_ALL
    why = jnp.where(hopeless, Status.STALLED, Status.CONVERGED)
    why = jnp.where(usable & sound, why, Status.NON_FINITE)
    status = jnp.where(failures >= 2, why, jnp.where(gone, Status.CONVERGED, Status.RUNNING))
    return Verdict(improved, failures, status.astype(jnp.int32))


def typed(new: State, old: State) -> State:
    """``new`` in the dtypes of ``old``, which promotion under float64 would otherwise widen."""
    return jax.tree.map(lambda a, b: a.astype(b.dtype), new, old)


def select(condition: jax.Array, new: Any, old: Any) -> Any:
    """``new`` where the scalar condition holds, otherwise ``old``, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
