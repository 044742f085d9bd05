"""L-BFGS: the pairs of ``pairs``, a line search of our own, made safe for pictures.

Without a line search it is another method, ``full_steps``.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stylejax.optimizers import full_steps
from stylejax.optimizers.line_search import search
from stylejax.optimizers.minimizer import (
    Fun,
    State,
    first_status,
    judge,
    norm,
    select,
    start,
    typed,
    unit,
)
from stylejax.optimizers.pairs import (
    MEMORY_DTYPES,
    Pairs,
    dot,
    empty,
    forgotten,
    largest_scale,
    through,
    with_pair,
)

# Of the default objective's value, with some room (docs/decisions.md, "Colab and TPUs").
BFLOAT16_NOISE = 1e-3


class _LbfgsEngine(NamedTuple):
    gradient: jax.Array
    unit: jax.Array
    failures: jax.Array
    pairs: Pairs


@dataclass(frozen=True)
class Lbfgs:
    """L-BFGS with a line search for the strong Wolfe conditions, or without one.

    Attributes:
      memory: curvature pairs kept. Their storage is ``2 * memory`` images large, in
        ``memory_dtype``; the rest of the state is 2 images, 3 without a line search.
      trials: evaluations a line search may spend before it gives up.
      line_search: False takes every step in full, as Torch7 and PyTorch do (``full_steps`` says
        how): one evaluation per step, values that may rise, no early end, and derivatives in
        reverse mode. ``State.best`` is then the lowest iterate, not the last, which those
        programs save. The first iterate that is not finite ends the run and is not taken.
      memory_dtype: what the pairs are stored in: ``"bfloat16"``, which halves them (and
        the steps then have no derivatives), ``"float32"``, or None, the image's own.
      noise: share of a value that may be rounding. A step may then raise the value by as much,
        where a search for a lower one would end the run. ``BFLOAT16_NOISE`` is for convolutions
        of bfloat16 numbers (``Config.precision`` "default" on a TPU); without a line search it
        has no part.
      stretch: before the pairs are applied to it ``H`` is the largest ``y.s / y.y`` of all of them,
        this many times the newest's at most. 1 is the textbook's, the newest's. Where curvature
        differs much, as in pictures, larger steps pay, and the line search sees to those too large:
        5 is more than pictures' pairs differ by, so that one of rounding alone does not rule.
        Without a line search it has no part.
      compact: True makes directions of all pairs at once (``pairs`` says how), which is quicker on
        GPUs and over several devices; on CPUs it takes longer, and memory besides.

    Raises:
      ValueError: where ``memory`` or ``stretch`` is less than 1 or ``memory_dtype`` is none of
        these.
    """

    memory: int = 20
    trials: int = 20
    line_search: bool = True
    memory_dtype: str | None = None
    noise: float = 0.0
    stretch: float = 5.0
    compact: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError where a setting makes no sense."""
        if self.memory < 1:
            raise ValueError(f"memory is {self.memory}; it must be at least 1")
        if not self.stretch >= 1:
            raise ValueError(f"stretch is {self.stretch}; it must be at least 1")
        if self.memory_dtype not in MEMORY_DTYPES:
            raise ValueError(
                f"memory_dtype is {self.memory_dtype!r}; choose {MEMORY_DTYPES[1]!r}, "
                f"{MEMORY_DTYPES[2]!r} or None, the image's own"
            )

    def init(self, fun: Fun, z: jax.Array, *args: Any) -> State:
        """An empty memory and, until the first evaluation, no gradient."""
        if not self.line_search:
            return full_steps.init(fun, z, args, self._no_pairs(z))
        one, zero = jnp.ones((), z.dtype), jnp.asarray(0, jnp.int32)
        pairs = self._no_pairs(z)
        return start(fun, z, args, _LbfgsEngine(jnp.zeros_like(z), one, zero, pairs), falling=True)

    def _no_pairs(self, z: jax.Array) -> Pairs:
        return empty(z, self.memory, self.memory_dtype, compact=self.compact)

    def step(self, fun: Fun, state: State, *args: Any) -> State:
        """One direction and one line search along it: one evaluation as a rule.

        At the start the gradient is taken for zero, and so is the direction: the search's first
        trial is the start itself.
        """
        if not self.line_search:
            return full_steps.step(fun, state, args)
        old, first = state.engine, state.evaluations == 0
        value, gradient = state.value * old.unit, old.gradient * old.unit
        pairs = old.pairs
        # Without a pair ``H`` is 1, but the step at most 1 long; so before the loops, which then
        # wait for the norm's sums (``pairs.through``).
        length = jnp.where(pairs.kept > 0, 1, 1 / jnp.maximum(norm(gradient), 1))
        scale = largest_scale(pairs, jnp.ones_like(value), self.stretch)
        direction = through(pairs, -length * gradient, scale)

        def evaluate(step: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
            (value, aux), gradient = jax.value_and_grad(fun, has_aux=True)(
                state.z + step * direction, *args
            )
            return value * old.unit, gradient * old.unit, aux

        found = search(
            evaluate,
            direction,
            value,
            gradient,
            state.aux,
            trials=self.trials,
            noise=self.noise,
        )
        verdict = judge(
            value,
            found.at.value,
            found.gradient,
            sound=found.sound,
            predicted=-dot(direction, gradient) / 2,
            failures=old.failures,
            noise=self.noise,
        )
        improved = verdict.improved | first
        z = select(improved, state.z + found.at.step * direction, state.z)
        grown = with_pair(pairs, z - state.z, found.gradient - gradient, jnp.zeros((), z.dtype))
        engine = _LbfgsEngine(
            gradient=select(improved, found.gradient / old.unit, old.gradient),
            unit=jnp.where(first, unit(found.gradient), old.unit),
            failures=jnp.where(first, 0, verdict.failures),
            # One of negative curvature, which a search can end on, would turn the direction uphill.
            # After a failed step the pair has no length, and the next step is steepest descent.
            pairs=forgotten(grown, unless=grown.kept > pairs.kept),
        )
        new = State(
            z=z,
            value=select(improved, found.at.value / old.unit, state.value),
            aux=select(improved, found.aux, state.aux),
            other=None,
            status=jnp.where(first, first_status(found.at.value, found.gradient), verdict.status),
            evaluations=state.evaluations + found.trials,
            engine=engine,
        )
        return typed(new, state)
