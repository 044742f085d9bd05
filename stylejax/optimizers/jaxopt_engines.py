"""jaxopt's L-BFGS and L-BFGS-B behind the same two functions.

jaxopt is no longer maintained (since April 2025) but runs on every jax this project supports. It
has the only box-constrained quasi-Newton method in JAX: with ``JaxoptLbfgsb`` a picture stays in
[0, 1] throughout and nothing is clipped at the end.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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


class _Engine(NamedTuple):
    unit: jax.Array
    inverse_curvature: jax.Array
    failures: jax.Array
    inner: Any


def _jaxopt() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it announces its own end
        import jaxopt
    return jaxopt


@contextmanager
def _foreign() -> Iterator[None]:
    """What code asks for that we cannot change: ranks that differ, and full float32 products.

    jaxopt leaves it to the device how precise L-BFGS-B's are: bfloat16 on a TPU, TF32 on a GPU.
    """
    with jax.numpy_rank_promotion("allow"), jax.default_matmul_precision("highest"):
        yield


def _scaled(fun: Fun, box: tuple[float, float] | None = None) -> Fun:
    """``fun`` times a factor, at the point of the box next to ``z``.

    jaxopt's L-BFGS-B steps out of its box (by 0.11 in a test). Value and gradient are those of the
    projected point, which then becomes the iterate.
    """

    def scaled(z: jax.Array, factor: jax.Array, args: tuple[Any, ...]) -> tuple[jax.Array, Any]:
        if box is not None:
            z = z + jax.lax.stop_gradient(jnp.clip(z, *box) - z)
        value, aux = fun(z, *args)
        return value * factor, aux

    return scaled


def _init(solver: Any, fun: Fun, z: jax.Array, box: tuple[Any, ...], args: Any) -> State:
    """As many zeros as jaxopt's state will have numbers."""
    one = jnp.ones((), z.dtype)
    with _foreign():
        shapes = jax.eval_shape(solver.init_state, z, *box, one, args)
    inner = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    engine = _Engine(one, jnp.full_like(one, jnp.inf), jnp.asarray(0, jnp.int32), inner)
    return start(fun, z, args, engine, falling=True)


def _begin(solver: Any, state: State, box: tuple[Any, ...], args: Any) -> State:
    """One evaluation at factor 1, whose value and gradient are then scaled by hand."""
    with _foreign():
        inner = solver.init_state(state.z, *box, state.engine.unit, args)
    factor = unit(inner.grad)
    scaled = inner._replace(value=inner.value * factor, grad=inner.grad * factor)
    new = state._replace(
        value=inner.value,
        aux=inner.aux,
        status=first_status(inner.value, inner.grad),
        evaluations=jnp.asarray(1, jnp.int32),
        engine=state.engine._replace(unit=factor, inner=jax.tree.map(jnp.asarray, scaled)),
    )
    return typed(new, state)


def _step(
    solver: Any, state: State, box: tuple[Any, ...], args: Any, forgotten: dict[str, Any]
) -> State:
    """The first evaluation or one update; ``forgotten`` are the fields of an empty memory."""
    first = state.evaluations == 0
    # A loop of at most one turn, not a branch: under vmap both branches would run at every step.
    state = jax.lax.while_loop(
        lambda state: state.evaluations == 0,
        lambda state: _begin(solver, state, box, args),
        state,
    )
    return jax.lax.cond(
        first, lambda s: s, lambda s: _update(solver, s, box, args, forgotten), state
    )


def _update(
    solver: Any, state: State, box: tuple[Any, ...], args: Any, forgotten: dict[str, Any]
) -> State:
    old = state.engine
    with _foreign():
        z, inner = solver.update(state.z, old.inner, *box, old.unit, args)
    if box:
        z = jnp.clip(z, *box[0])
    before, after = old.inner.value, inner.value
    verdict = judge(
        before,
        after,
        inner.grad,
        # Where not even the last trial was finite, jaxopt's step size is exactly zero.
        sound=jnp.isfinite(after) & (inner.stepsize > 0),
        # What a quadratic model with the last known curvature promises along the (projected)
        # gradient; infinite before any is known. jaxopt does not tell more of a failed search.
        predicted=old.inverse_curvature * jnp.square(_rest(state.z, old.inner.grad, box)) / 2,
        failures=old.failures,
    )
    change, move = inner.grad - old.inner.grad, z - state.z
    curvature = jnp.vdot(change, move, precision="highest")
    curved = curvature > 0
    measured = jnp.vdot(move, move, precision="highest") / jnp.where(curved, curvature, 1)
    inverse_curvature = select(verdict.improved & curved, measured, old.inverse_curvature)
    # Only what an improvement changes is chosen leaf by leaf; the history arrays stay in place.
    inner = inner._replace(
        value=select(verdict.improved, inner.value, before),
        grad=select(verdict.improved, inner.grad, old.inner.grad),
        aux=select(verdict.improved, inner.aux, state.aux),
        **{
            name: jnp.where(verdict.improved & curved, getattr(inner, name), empty)
            for name, empty in forgotten.items()
        },
    )
    z = select(verdict.improved, z, state.z)
    new = State(
        z=z,
        value=select(verdict.improved, after / old.unit, state.value),
        aux=inner.aux,
        other=None,
        status=verdict.status,
        evaluations=inner.num_fun_eval.astype(jnp.int32),
        engine=_Engine(old.unit, inverse_curvature, verdict.failures, inner),
    )
    return typed(new, state)


def _rest(z: jax.Array, gradient: jax.Array, box: tuple[Any, ...]) -> jax.Array:
    """Norm of the gradient projected on the box: zero at a minimum on its border too."""
    if not box:
        return norm(gradient)
    ((low, high),) = box
    return norm(jnp.clip(z - gradient, low, high) - z)


@dataclass(frozen=True)
class JaxoptLbfgs:
    """jaxopt's L-BFGS with its zoom line search.

    It evaluates beside its loops, so that the CPUs of several processes would mix up what both send
    (``traffic.unordered``): ``Config`` refuses it there.

    Attributes:
      memory: curvature pairs kept.
      trials: evaluations a line search may spend before it gives up.
    """

    memory: int = 20
    trials: int = 20

    def _solver(self, fun: Fun) -> Any:
        return _jaxopt().LBFGS(
            _scaled(fun),
            has_aux=True,
            history_size=self.memory,
            maxls=self.trials,
            tol=0.0,
            implicit_diff=False,
            unroll=False,
        )

    def init(self, fun: Fun, z: jax.Array, *args: Any) -> State:
        """An empty memory."""
        return _init(self._solver(fun), fun, z, (), args)

    def step(self, fun: Fun, state: State, *args: Any) -> State:
        """One direction and one line search along it."""
        empty = {"rho_history": 0.0, "gamma": 1.0, "iter_num": 0}
        return _step(self._solver(fun), state, (), args, empty)


@dataclass(frozen=True)
class JaxoptLbfgsb:
    """jaxopt's L-BFGS-B: every iterate lies in the box ``[lower, upper]``.

    Attributes:
      memory: curvature pairs kept.
      trials: evaluations a line search may spend before it gives up.
      lower: least value of every element of ``z``.
      upper: greatest value.
    """

    memory: int = 20
    trials: int = 20
    lower: float = 0.0
    upper: float = 1.0

    def _solver(self, fun: Fun) -> Any:
        return _jaxopt().LBFGSB(
            _scaled(fun, (self.lower, self.upper)),
            has_aux=True,
            history_size=self.memory,
            maxls=self.trials,
            tol=0.0,
            implicit_diff=False,
            unroll=False,
        )

    def _box(self, z: jax.Array) -> tuple[tuple[jax.Array, jax.Array]]:
        return ((jnp.full_like(z, self.lower), jnp.full_like(z, self.upper)),)

    def init(self, fun: Fun, z: jax.Array, *args: Any) -> State:
        """``z`` moved into the box, an empty memory."""
        z = jnp.clip(z, self.lower, self.upper)
        return _init(self._solver(fun), fun, z, self._box(z), args)

    def step(self, fun: Fun, state: State, *args: Any) -> State:
        """One generalised Cauchy point, subspace minimisation and line search."""
        empty = {"s_history": 0.0, "y_history": 0.0, "num_updates": 0, "theta": 1.0, "iter_num": 0}
        return _step(self._solver(fun), state, self._box(state.z), args, empty)
