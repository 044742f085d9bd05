"""L-BFGS: optax's two-loop recursion, a line search of our own, made safe for pictures.

Without a line search it is another method, ``full_steps``.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stylejax.optimizers import full_steps
from stylejax.optimizers.line_search import search
from stylejax.optimizers.minimizer import (
    Fun,
    State,
    first_status,
    judge,
    select,
    start,
    typed,
    unit,
)

# Of the default objective's value, with some room (docs/decisions.md, "Colab and TPUs").
BFLOAT16_NOISE = 1e-3


class _LbfgsEngine(NamedTuple):
    gradient: jax.Array
    unit: jax.Array
    failures: jax.Array
    memory: Any


@dataclass(frozen=True)
class Lbfgs:
    """L-BFGS with a line search for the strong Wolfe conditions, or without one.

    Attributes:
      memory: curvature pairs kept. The state is ``2 * memory + 6`` images large.
      trials: evaluations a line search may spend before it gives up.
      line_search: False takes every step in full, as Torch7 and PyTorch do (``full_steps`` says
        how): one evaluation per step, values that may rise, no early end, and derivatives in
        reverse mode. ``State.best`` is then the lowest iterate, not the last, which those
        programs save. The first iterate that is not finite ends the run and is not taken.
      noise: share of a value that may be rounding. A step may then raise the value by as much,
        where a search for a lower one would end the run. ``BFLOAT16_NOISE`` is for convolutions
        of bfloat16 numbers (``Config.precision`` "default" on a TPU); without a line search it
        has no part.
    """

    memory: int = 20
    trials: int = 20
    line_search: bool = True
    noise: float = 0.0

    def _direction(self) -> Any:
        return optax.scale_by_lbfgs(memory_size=self.memory, scale_init_precond=True)

    def init(self, fun: Fun, z: jax.Array, *args: Any) -> State:
        """An empty memory and, until the first evaluation, no gradient."""
        if not self.line_search:
            return full_steps.init(fun, z, args, self.memory)
        memory = jax.tree.map(
            lambda a: a.astype(z.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a,
            jax.tree.map(jnp.asarray, self._direction().init(z)),
        )
        one, zero = jnp.ones((), z.dtype), jnp.asarray(0, jnp.int32)
        return start(fun, z, args, _LbfgsEngine(jnp.zeros_like(z), one, zero, memory))

    def step(self, fun: Fun, state: State, *args: Any) -> State:
        """One direction and one line search along it: one evaluation as a rule.

        At the start the gradient is taken for zero, and so is the direction: the search's first
        trial is the start itself.
        """
        if not self.line_search:
            return full_steps.step(fun, state, args)
        old, first = state.engine, state.evaluations == 0
        value, gradient = state.value * old.unit, old.gradient * old.unit
        memory = _forget(old.memory, unless=_curved(old.memory, state.z, gradient))
        uphill, memory = self._direction().update(gradient, memory, state.z)

        def evaluate(step: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
            (value, aux), gradient = jax.value_and_grad(fun, has_aux=True)(
                state.z - step * uphill, *args
            )
            return value * old.unit, gradient * old.unit, aux

        found = search(
            evaluate,
            -uphill,
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
            predicted=jnp.vdot(uphill, gradient, precision="highest") / 2,
            failures=old.failures,
            noise=self.noise,
        )
        improved = verdict.improved | first
        z = select(improved, state.z - found.at.step * uphill, state.z)
        engine = _LbfgsEngine(
            gradient=select(improved, found.gradient / old.unit, old.gradient),
            unit=jnp.where(first, unit(found.gradient), old.unit),
            failures=jnp.where(first, 0, verdict.failures),
            # After the first step and after a failed one the newest pair has no length: it is not
            # curved, and the memory will be forgotten.
            memory=memory,
        )
        new = State(
            z=z,
            value=select(improved, found.at.value / old.unit, state.value),
            aux=select(improved, found.aux, state.aux),
            best=z,
            status=jnp.where(first, first_status(found.at.value, found.gradient), verdict.status),
            evaluations=state.evaluations + found.trials,
            engine=engine,
        )
        return typed(new, state)


def _curved(memory: Any, z: jax.Array, gradient: jax.Array) -> jax.Array:
    """Whether the newest pair has positive curvature, without which no pair may be stored.

    optax stores every pair; a negative one turns the direction uphill.
    """
    curvature = jnp.vdot(gradient - memory.updates, z - memory.params, precision="highest")
    return (memory.count == 0) | (curvature > 0)


def _forget(memory: Any, *, unless: jax.Array) -> Any:
    """An L-BFGS memory as at the start; the arrays of pairs stay where they are, unweighted."""
    return memory._replace(
        count=jnp.where(unless, memory.count, 0),
        weights_memory=jnp.where(unless, memory.weights_memory, 0),
    )
