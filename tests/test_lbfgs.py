"""Quasi-Newton: directions and steps against the oracle in float64, values against SciPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal
from problems import (
    CONDITION_100,
    LINE_SEARCHES,
    LOGARITHM,
    MEMORY,
    QUADRATIC,
    RIDGE,
    ROSENBROCK,
    SHAPE,
    SIZE,
    START,
    TRIALS,
    Problem,
    objective,
    run,
)
from scipy.optimize import minimize

from stylejax.optimizers import JaxoptLbfgsb, Lbfgs, Status
from stylejax.optimizers.line_search import search
from stylejax.optimizers.pairs import forgotten

pytestmark = pytest.mark.usefixtures("quick_compilation")

every = pytest.mark.parametrize("minimizer", LINE_SEARCHES, ids=lambda m: type(m).__name__)
unbounded = pytest.mark.parametrize("minimizer", LINE_SEARCHES[:2], ids=lambda m: type(m).__name__)

_value_and_grad = jax.jit(jax.value_and_grad(objective, has_aux=True))


def in_float64(problem):
    """Value and gradient of the flat vector, as SciPy and the oracle want them."""

    def value_and_grad(x):
        with jax.enable_x64(True):
            z = jnp.asarray(np.reshape(x, SHAPE), jnp.float64)
            (value, _), gradient = _value_and_grad(z, problem)
        return float(value), np.asarray(gradient).ravel()

    return value_and_grad


_init = jax.jit(lambda m, z, problem: m.init(objective, z, problem), static_argnums=0)
_step = jax.jit(lambda m, state, problem: m.step(objective, state, problem), static_argnums=0)


def at_the_start(minimizer, problem):
    """A float64 run's state after its first evaluation."""
    return _step(minimizer, _init(minimizer, jnp.asarray(START, jnp.float64), problem), problem)


def iterates(minimizer, problem, steps):
    """Flat iterates and values of a float64 run."""
    state = at_the_start(minimizer, problem)
    states = [state]
    for _ in range(steps):
        state = _step(minimizer, state, problem)
        states.append(state)
    points = np.stack([np.asarray(s.z).ravel() for s in states])
    return points, np.array([float(s.value) for s in states])


def textbook(minimizer):
    """With the newest pair's scale, whose full step a search accepts more often."""
    ours = isinstance(minimizer, Lbfgs)
    return dataclasses.replace(minimizer, stretch=1.0) if ours else minimizer


@unbounded
@pytest.mark.parametrize("kind", [QUADRATIC, ROSENBROCK])
def test_the_run_is_the_oracles(minimizer, kind, x64):
    """Where both searches are content with the full step, as here, the whole runs agree."""
    minimizer = textbook(minimizer)
    problem = Problem(kind, weights=CONDITION_100)
    steps = 15  # more than twice the memory
    points, values = iterates(minimizer, problem, steps)
    point, expected = reference.lbfgs(in_float64(problem), START.ravel(), steps, MEMORY)
    assert points.dtype == np.float64
    assert_allclose(values, expected, rtol=1e-10)
    assert_allclose(points[-1], point, rtol=1e-8)


@unbounded
@pytest.mark.parametrize("kind", [ROSENBROCK, LOGARITHM])
def test_every_direction_is_the_oracles(minimizer, kind, x64):
    """Whatever step each search took, the next direction follows from the pairs it left."""
    problem = Problem(kind)
    points, _ = iterates(minimizer, problem, 12)
    gradients = [in_float64(problem)(point)[1] for point in points]
    pairs = list(zip(np.diff(points, axis=0), np.diff(gradients, axis=0), strict=True))
    assert all(s @ y > 0 for s, y in pairs)
    stretch = minimizer.stretch if isinstance(minimizer, Lbfgs) else 1
    for k, (moved, _) in enumerate(pairs):
        expected = reference.lbfgs_direction(gradients[k], pairs[max(0, k - MEMORY) : k], stretch)
        assert_allclose(
            moved / np.linalg.norm(moved), expected / np.linalg.norm(expected), atol=1e-8
        )


@unbounded
def test_the_first_step_has_length_one(minimizer, x64):
    """Not the gradient's, whose scale means nothing: a fresh memory moves a picture's unit."""
    # So flat that the full step is content with any decrease.
    problem = Problem(QUADRATIC, target=np.full(SIZE, 1e3))
    points, _ = iterates(minimizer, problem, 1)
    _, gradient = in_float64(problem)(points[0])
    size = np.linalg.norm(gradient)
    moved = points[1] - points[0]
    assert_allclose(moved / np.linalg.norm(moved), -gradient / size, rtol=1e-10)
    # The searches double it, or twice at once, while the slope stays steep.
    doublings = np.log2(np.linalg.norm(moved))
    assert_allclose(doublings, round(doublings), atol=1e-9)


@pytest.mark.parametrize("line_search", [True, False])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("kind", [ROSENBROCK, RIDGE])
def test_the_compact_form_takes_the_same_steps(kind, dtype, line_search, x64):
    """Through a ring that is written over, with pairs that are passed over."""
    loops = Lbfgs(memory=MEMORY, trials=TRIALS, line_search=line_search, memory_dtype=dtype)
    problem = Problem(kind, weights=CONDITION_100)
    expected, values = iterates(loops, problem, 25)
    points, found = iterates(dataclasses.replace(loops, compact=True), problem, 25)
    assert values[-1] < values[0] / 2
    assert_allclose(points, expected, atol=1e-7)
    assert_allclose(found, values, rtol=1e-6, atol=1e-9)


def test_the_compact_form_forgets(x64):
    """What an emptied memory still holds moves nothing, and is written over."""
    problem = Problem(QUADRATIC, weights=CONDITION_100)
    minimizer = Lbfgs(memory=MEMORY, trials=TRIALS, compact=True)
    state = after_steps(minimizer, problem)
    pairs = forgotten(state.engine.pairs, unless=jnp.asarray(False))
    state = state._replace(engine=state.engine._replace(pairs=pairs))
    assert_steepest_descent(state, _step(minimizer, state, problem), problem)
    states = [state := _step(minimizer, state, problem) for _ in range(2 * MEMORY)]
    assert np.all(np.diff([float(s.value) for s in states]) < 0)


def after_steps(minimizer, problem, steps=4):
    state = at_the_start(minimizer, problem)
    for _ in range(steps):
        state = _step(minimizer, state, problem)
    return state


def assert_steepest_descent(before, after, problem):
    moved = np.asarray(after.z - before.z).ravel()
    _, gradient = in_float64(problem)(before.z)
    assert after.value < before.value
    assert_allclose(moved / np.linalg.norm(moved), -gradient / np.linalg.norm(gradient), atol=1e-8)


def exaggerated(state):
    """The state with stored steps so long that no trial of the next search can succeed."""
    name, steps = ("inner", "s_history")
    if hasattr(state.engine, "pairs"):
        name, steps = ("pairs", "moves")
    pairs = getattr(state.engine, name)
    pairs = pairs._replace(**{steps: 1e6 * getattr(pairs, steps)})
    return state._replace(engine=state.engine._replace(**{name: pairs}))


@unbounded
def test_a_failed_search_is_followed_by_steepest_descent(minimizer, x64):
    """From the same place, its own gradient, and a memory that is empty again."""
    problem = Problem(QUADRATIC, weights=CONDITION_100)
    state = after_steps(minimizer, problem)
    failed = _step(minimizer, exaggerated(state), problem)
    assert failed.status == Status.RUNNING
    assert failed.evaluations > state.evaluations + 1
    assert_array_equal(failed.z, state.z)
    assert failed.value == state.value
    assert_steepest_descent(failed, _step(minimizer, failed, problem), problem)


def test_after_a_pair_of_negative_curvature_comes_steepest_descent(x64):
    """A search that ends on its last trial can leave one; it would turn the direction uphill."""
    minimizer, problem = LINE_SEARCHES[0], Problem(QUADRATIC, weights=CONDITION_100)
    state = after_steps(minimizer, problem)
    assert state.engine.pairs.kept > 1
    # As if the slope were a tenth, so that after the only trial it is steeper than before.
    engine = state.engine._replace(gradient=state.engine.gradient / 10)
    bent = _step(dataclasses.replace(minimizer, trials=1), state._replace(engine=engine), problem)
    assert bent.value < state.value
    assert bent.engine.pairs.kept == 0
    assert_steepest_descent(bent, _step(minimizer, bent, problem), problem)


@every
@pytest.mark.parametrize("kind", [QUADRATIC, ROSENBROCK])
def test_values_are_scipys_for_equal_evaluations(minimizer, kind):
    problem = Problem(kind, weights=CONDITION_100)
    value_and_grad, values = in_float64(problem), []

    def recorded(x):
        value, gradient = value_and_grad(x)
        values.append(value)
        return value, gradient

    options = {"maxcor": MEMORY, "ftol": 0, "gtol": 0, "maxiter": 60}
    bounds = [(0, 1)] * SIZE if isinstance(minimizer, JaxoptLbfgsb) else None
    minimize(recorded, START.ravel(), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    found = run(minimizer, problem)
    # jaxopt evaluates twice at each place it comes to, the second time for aux; that is its
    # affair, not the method's.
    twice = 0 if isinstance(minimizer, Lbfgs) else 1
    # In shares of the first value, as the minimum is 0; the boxed methods differ most early on.
    for step, tolerance in {5: 1e-2, 10: 1e-2, 20: 1e-3, 40: 1e-3}.items():
        step = min(step, len(found.value) - 1)  # where it has come to the minimum sooner
        spent = found.evaluations[step] - twice * step
        theirs = min(values[:spent])
        assert found.value[step] - theirs <= tolerance * values[0]


@every
def test_concave_places_cost_no_failed_searches(minimizer):
    """A pair of negative curvature, once stored, would turn the next direction uphill."""
    problem = Problem(RIDGE, weights=CONDITION_100 / 10, target=np.full(SIZE, 0.5))
    found = run(minimizer, problem, limit=10)
    assert found.evaluations[-1] <= 30


@pytest.mark.parametrize(
    ("slope", "noise", "trials"), [(3e-3, 1e-3, 1), (5e-3, 1e-3, 2), (3e-3, 0, 2)]
)
def test_what_noise_hides_is_not_looked_for(slope, noise, trials):
    """A parabola that the full step goes across to the same height, where it is as steep.

    Its bottom, half way, is lower by a quarter of the slope. That is looked for where twice of it,
    which is what a search may count on, exceeds what two values can be off by: 2e-3 of 1.
    """
    bottom = 0.501

    def evaluate(step):
        value = 1 - slope * (step - step * step / (2 * bottom))
        return value, jnp.full(1, slope * (step / bottom - 1)), ()

    here, gradient, _ = evaluate(jnp.zeros(()))
    found = search(evaluate, jnp.ones(1), here, gradient, (), trials=20, noise=noise)
    assert int(found.trials) == trials
    assert 0.4 < float(found.at.step) <= 1
    assert float(found.at.value) < 1


def test_the_line_search_has_no_reverse_mode():
    """JAX's own error, at the call; Adam is the one to differentiate through."""

    minimizer = Lbfgs()

    def fun(z, target):
        return jnp.sum(jnp.square(z - target)), ()

    def after_one_step(target):
        state = minimizer.init(fun, jnp.asarray(START), target)
        return minimizer.step(fun, state, target).value

    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work for"):
        jax.eval_shape(jax.grad(after_one_step), 0.5)
