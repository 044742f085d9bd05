"""Adam, optax's, with an optional average of the iterates."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stylejax.optimizers.minimizer import (
    Fun,
    State,
    Status,
    finite,
    first_status,
    select,
    start,
    unit,
)


class _AdamEngine(NamedTuple):
    gradient: jax.Array
    unit: jax.Array
    moments: Any
    lowest: jax.Array
    average: jax.Array
    steps: jax.Array


@dataclass(frozen=True)
class Adam:
    """Adam; differentiable in reverse mode, which L-BFGS's line search is not.

    Attributes:
      learning_rate: step in units of ``z``; a picture's are [0, 1].
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      average: decay of the moving average of the iterates, bias-corrected, which is then the
        answer; 0 takes the iterate with the lowest value instead.
    """

    learning_rate: float = 0.02
    beta1: float = 0.9
    beta2: float = 0.99
    average: float = 0.0

    def _rule(self) -> Any:
        # The root's epsilon keeps derivatives through a step finite where a gradient is zero.
        return optax.adam(self.learning_rate, self.beta1, self.beta2, eps_root=1e-24)

    def init(self, fun: Fun, z: jax.Array, *args: Any) -> State:
        """Moments of zero and, until the first evaluation, no gradient."""
        engine = _AdamEngine(
            gradient=jnp.zeros_like(z),
            unit=jnp.ones((), z.dtype),
            moments=self._rule().init(z),
            lowest=jnp.full((), jnp.inf, z.dtype),
            average=jnp.zeros_like(z),
            steps=jnp.asarray(0, jnp.int32),
        )
        return start(fun, z, args, engine)

    def step(self, fun: Fun, state: State, *args: Any) -> State:
        """Moves, then evaluates once at the new place."""
        old, first = state.engine, state.evaluations == 0
        updates, moments = self._rule().update(old.gradient * old.unit, old.moments, state.z)
        z = jnp.where(first, state.z, state.z + updates)
        (value, aux), gradient = jax.value_and_grad(fun, has_aux=True)(z, *args)
        usable = finite(value, gradient)
        lower = usable & (value < old.lowest)
        going = jnp.where(jnp.any(gradient != 0), Status.RUNNING, Status.CONVERGED)
        engine, averaged = self._averaged(old, z)
        engine = engine._replace(
            gradient=gradient, moments=moments, lowest=jnp.where(lower, value, old.lowest)
        )
        begun = old._replace(
            gradient=gradient,
            # Root mean square one: Adam's epsilon of 1e-8 is small against any objective.
            unit=unit(gradient) * gradient.size**0.5,
            lowest=value,
        )
        answer = averaged if self.average else jnp.where(lower, z, state.best)
        new = State(
            z=z,
            value=value,
            aux=aux,
            best=jnp.where(first, z, answer),
            status=jnp.where(first, first_status(value, gradient), going).astype(jnp.int32),
            evaluations=state.evaluations,
            engine=select(first, begun, engine),
        )
        ended = state._replace(status=jnp.asarray(Status.NON_FINITE, jnp.int32))
        kept = select(usable | first, new, ended)
        return kept._replace(evaluations=state.evaluations + 1)

    def _averaged(self, old: _AdamEngine, z: jax.Array) -> tuple[_AdamEngine, jax.Array]:
        """The average with one more iterate, and free of the bias towards its start."""
        steps = old.steps + 1
        average = self.average * old.average + (1 - self.average) * z
        unbiased = average / (1 - jnp.asarray(self.average, z.dtype) ** steps)
        return old._replace(average=average, steps=steps), unbiased
