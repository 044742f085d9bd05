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
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment, in units of the objective's gradient as in other
        programs; None adds 1e-8 of the first gradient's root mean square, so that the objective's
        scale does not matter.
      average: decay of the moving average of the iterates, bias-corrected, which is then the
        answer; the start has no part in it. 0 takes the iterate with the lowest value instead.
      clamp: whether ``z`` is clipped to [0, 1] at the start and after every step. The moments know
        nothing of it.
    """

    learning_rate: float = 0.02
    b1: float = 0.9
    b2: float = 0.99
    eps: float | None = None
    average: float = 0.0
    clamp: bool = False

    def _rule(self, unit: jax.Array) -> Any:
        eps = 1e-8 if self.eps is None else self.eps * unit
        # The root's epsilon keeps derivatives through a step finite where a gradient is zero.
        return optax.adam(self.learning_rate, self.b1, self.b2, eps, eps_root=1e-24)

    def _held(self, z: jax.Array) -> jax.Array:
        return jnp.clip(z, 0, 1) if self.clamp else z

    def init(self, fun: Fun, z: jax.Array, *args: Any) -> State:
        """Moments of zero and, until the first evaluation, no gradient."""
        z, one = self._held(z), jnp.ones((), z.dtype)
        engine = _AdamEngine(
            gradient=jnp.zeros_like(z),
            unit=one,
            moments=self._rule(one).init(z),
            lowest=jnp.full((), jnp.inf, z.dtype),
            average=jnp.zeros_like(z),
            steps=jnp.asarray(0, jnp.int32),
        )
        return start(fun, z, args, engine)

    def step(self, fun: Fun, state: State, *args: Any) -> State:
        """Moves, then evaluates once at the new place."""
        old, first = state.engine, state.evaluations == 0
        rule = self._rule(old.unit)
        updates, moments = rule.update(old.gradient * old.unit, old.moments, state.z)
        z = jnp.where(first, state.z, self._held(state.z + updates))
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
            # Root mean square one: an epsilon of 1e-8 is small against any objective. Moments that
            # were carried over stay in the units they are in.
            unit=jnp.where(
                old.moments[0].count == 0, unit(gradient) * gradient.size**0.5, old.unit
            ),
            lowest=value,
        )
        answer = averaged if self.average else jnp.where(lower, z, state.best)
        new = State(
            z=z,
            value=value,
            aux=aux,
            other=jnp.where(first, z, answer),
            status=jnp.where(first, first_status(value, gradient), going).astype(jnp.int32),
            evaluations=state.evaluations,
            engine=select(first, begun, engine),
        )
        ended = state._replace(status=jnp.asarray(Status.NON_FINITE, jnp.int32))
        kept = select(usable | first, new, ended)
        return kept._replace(evaluations=state.evaluations + 1)

    def carry(self, before: State, after: State) -> State:
        """A start of another size that goes on with the moments of a run that is over.

        After K. Crowson's style-transfer-pytorch: the first moment is resampled by cubic, the
        second by linear interpolation, whose weights are not negative, so neither is the moment;
        the count of steps goes on. The average of the iterates does not.

        Args:
          before: the end of a run.
          after: of ``init``, where ``z`` has as many axes.
        """
        adam, *rest = before.engine.moments
        adam = adam._replace(
            mu=jax.image.resize(adam.mu, after.z.shape, "cubic"),
            nu=jax.image.resize(adam.nu, after.z.shape, "linear"),
        )
        engine = after.engine._replace(unit=before.engine.unit, moments=(adam, *rest))
        return after._replace(engine=engine)

    def _averaged(self, old: _AdamEngine, z: jax.Array) -> tuple[_AdamEngine, jax.Array]:
        """The average with one more iterate, and free of the bias towards its start."""
        steps = old.steps + 1
        average = self.average * old.average + (1 - self.average) * z
        unbiased = average / (1 - jnp.asarray(self.average, z.dtype) ** steps)
        return old._replace(average=average, steps=steps), unbiased
