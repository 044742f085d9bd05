"""Plain gradient descent with a learning rate that fades: the method of Keras' example."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stylejax.optimizers.minimizer import Fun, State, Status, finite, first_status, select, start


class _DescentEngine(NamedTuple):
    gradient: jax.Array
    lowest: jax.Array


@dataclass(frozen=True)
class GradientDescent:
    """``z <- z - learning_rate decay^(t / decay_steps) gradient``, ``t`` from 0 on.

    Alone among the minimizers it looks at the objective's own scale: ten times the objective are
    ten times the step. A learning rate is good for one program's weights at about one size, because
    the gradient of a loss that is a mean is the larger in each pixel the fewer there are.

    Attributes:
      learning_rate: of the first step.
      decay: what is left of it after ``decay_steps`` steps.
      decay_steps: see there.
      full_from: how many numbers ``z`` must have to be given the whole rate; a smaller one gets its
        share of it.
    """

    learning_rate: float = 1.0
    decay: float = 1.0
    decay_steps: int = 100
    full_from: float = 1

    def init(self, fun: Fun, z: jax.Array, *args: Any) -> State:
        """No gradient until the first evaluation."""
        lowest = jnp.full((), jnp.inf, z.dtype)
        return start(fun, z, args, _DescentEngine(jnp.zeros_like(z), lowest))

    def step(self, fun: Fun, state: State, *args: Any) -> State:
        """Moves, then evaluates once at the new place."""
        old, first = state.engine, state.evaluations == 0
        taken = (state.evaluations - 1).astype(state.z.dtype)
        whole = self.learning_rate * min(1.0, state.z.size / self.full_from)
        rate = whole * jnp.asarray(self.decay, taken.dtype) ** (taken / self.decay_steps)
        z = jnp.where(first, state.z, state.z - rate * old.gradient)
        (value, aux), gradient = jax.value_and_grad(fun, has_aux=True)(z, *args)
        usable = finite(value, gradient)
        lower = usable & (value < old.lowest)
        going = jnp.where(jnp.any(gradient != 0), Status.RUNNING, Status.CONVERGED)
        new = State(
            z=z,
            value=value,
            aux=aux,
            other=jnp.where(first | lower, z, state.best),
            status=jnp.where(first, first_status(value, gradient), going).astype(jnp.int32),
            evaluations=state.evaluations,
            engine=_DescentEngine(gradient, jnp.where(lower, value, old.lowest)),
        )
        ended = state._replace(status=jnp.asarray(Status.NON_FINITE, jnp.int32))
        kept = select(usable | first, new, ended)
        return kept._replace(evaluations=state.evaluations + 1)
