"""L-BFGS as optax has it, made safe for pictures."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from stylejax.optimizers.minimizer import Fun, State, judge, select, start, typed, unit


class _LbfgsEngine(NamedTuple):
    gradient: jax.Array
    unit: jax.Array
    failures: jax.Array
    memory: Any
    search: Any


@dataclass(frozen=True)
class Lbfgs:
    """L-BFGS with a zoom line search (strong Wolfe conditions), both optax's.

    Attributes:
      memory: curvature pairs kept. The state is ``2 * memory + 7`` images large.
      trials: evaluations a line search may spend before it gives up.
    """

    memory: int = 20
    trials: int = 20

    def _parts(self) -> tuple[Any, Any]:
        return (
            optax.scale_by_lbfgs(memory_size=self.memory, scale_init_precond=True),
            optax.scale_by_zoom_linesearch(
                max_linesearch_steps=self.trials, initial_guess_strategy="one"
            ),
        )

    def init(self, fun: Fun, z: jax.Array, *args: Any) -> State:
        """Evaluates ``fun`` at ``z``; the memory is empty."""
        (value, aux), gradient = jax.value_and_grad(fun, has_aux=True)(z, *args)
        direction, search = self._parts()
        probe = jax.tree.map(jnp.zeros_like, aux)
        memory, searching = jax.tree.map(
            lambda a: a.astype(z.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a,
            jax.tree.map(jnp.asarray, (direction.init(z), search.init((z, probe)))),
        )
        zero = jnp.asarray(0, jnp.int32)
        engine = _LbfgsEngine(gradient, unit(gradient), zero, memory, searching)
        return start(z, value, aux, gradient, engine)

    def step(self, fun: Fun, state: State, *args: Any) -> State:
        """One direction and one line search along it: one evaluation as a rule."""
        old = state.engine
        direction, search = self._parts()
        value, gradient = state.value * old.unit, old.gradient * old.unit
        memory = _forget(old.memory, unless=_curved(old.memory, state.z, gradient))
        ahead, memory = direction.update(gradient, memory, state.z)
        slope = jnp.vdot(ahead, gradient, precision="highest")

        probe = jax.tree.map(jnp.zeros_like, state.aux)
        (move, _), searched = search.update(
            (-ahead, probe),
            old.search,
            (state.z, probe),
            value=value,
            grad=(gradient, state.aux),
            value_fn=partial(_probed, fun=fun, unit=old.unit, args=args),
        )
        new_gradient, new_aux = searched.grad
        verdict = judge(
            value,
            searched.value,
            new_gradient,
            sound=jnp.isfinite(searched.info.decrease_error),
            predicted=slope / 2,
            failures=old.failures,
        )
        kept = partial(select, verdict.improved)
        z = kept(state.z + move, state.z)
        engine = _LbfgsEngine(
            gradient=kept(new_gradient / old.unit, old.gradient),
            unit=old.unit,
            failures=verdict.failures,
            memory=memory,  # after a failed step the newest pair is zero: not curved, forgotten
            search=searched,
        )
        new = State(
            z=z,
            value=kept(searched.value / old.unit, state.value),
            aux=kept(new_aux, state.aux),
            best=z,
            status=verdict.status,
            evaluations=state.evaluations + searched.info.num_linesearch_steps,
            engine=engine,
        )
        return typed(new, state)


def _probed(
    point: tuple[jax.Array, Any], *, fun: Fun, unit: jax.Array, args: tuple[Any, ...]
) -> jax.Array:
    """The scaled value at ``(z, probe)``, whose derivative in ``probe`` is what ``fun`` reports.

    The line search carries a gradient from trial to trial but no aux. Variables that stay zero
    bring it along: the updates along them are zero, so neither slopes nor steps notice.
    """
    z, probe = point
    value, aux = fun(z, *args)
    carried = jax.tree.map(lambda p, a: p * jax.lax.stop_gradient(a), probe, aux)
    return value * unit + sum(jax.tree.leaves(carried))


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
