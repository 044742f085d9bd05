"""L-BFGS without a line search: the oracle's and PyTorch's iterates, and what PyTorch lacks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal
from problems import (
    CHAIN,
    CONDITION_100,
    FULL_STEPS,
    LOGARITHM,
    MEMORY,
    QUADRATIC,
    RIDGE,
    ROSENBROCK,
    SIZE,
    START,
    Problem,
    objective,
    run,
)
from reference import finite_difference
from test_lbfgs import in_float64

from stylejax.optimizers import Lbfgs, Status

pytestmark = pytest.mark.usefixtures("quick_compilation")

RIDGED = Problem(RIDGE, weights=CONDITION_100 / 10, target=np.full(SIZE, 0.5))
# What is scaled down has |g|_1 < 1, and pairs that are passed over among those that are kept.
PROBLEMS = {
    "quadratic": Problem(QUADRATIC, weights=CONDITION_100),
    "flat quadratic": Problem(QUADRATIC, weights=CONDITION_100, scale=1e-3),
    "chain": Problem(CHAIN, weights=CONDITION_100),
    "steep chain": Problem(CHAIN, weights=CONDITION_100, scale=1e3),
    "rosenbrock": Problem(ROSENBROCK),
    "flat rosenbrock": Problem(ROSENBROCK, scale=1e-3),
    "ridge": RIDGED,
    "flat ridge": RIDGED._replace(scale=1e-3),
    "logarithm": Problem(LOGARITHM, weights=CONDITION_100),
    "nearly level": Problem(ROSENBROCK, scale=1e-9),
}
all_problems = pytest.mark.parametrize("problem", PROBLEMS)
STEPS = 40

_init = jax.jit(lambda z, problem: FULL_STEPS.init(objective, z, problem))
_step = jax.jit(lambda state, problem: FULL_STEPS.step(objective, state, problem))


def iterates(problem):
    """Flat iterates of a float64 run, the start first, and the last state."""
    state = _step(_init(jnp.asarray(START, jnp.float64), problem), problem)
    points = [state.z]
    for _ in range(STEPS):
        state = _step(state, problem)
        points.append(state.z)
    assert state.status == Status.RUNNING
    return np.stack(points).reshape(-1, SIZE), state


def assert_same_iterates(points, expected):
    # Rounding grows from step to step, on the valley of Rosenbrock to 1e-9 at most.
    assert_allclose(points[:10], expected[:10], rtol=0, atol=1e-10)
    assert_allclose(points, expected, rtol=0, atol=1e-7)


@all_problems
def test_the_iterates_are_the_oracles(problem, x64):
    problem = PROBLEMS[problem]
    points, state = iterates(problem)
    expected, kept = reference.full_steps(in_float64(problem), START.ravel(), STEPS, MEMORY)
    assert points.dtype == np.float64
    assert_same_iterates(points, expected)
    assert state.evaluations == STEPS + 1
    # Where steps end at the minimum, rounding decides what exceeds 1e-10.
    assert abs(int(state.engine.pairs.kept) - len(kept)) <= 2


def test_the_oracle_passes_pairs_over():
    """Among others that it keeps: here is something to agree on."""
    kept = {
        name: len(reference.full_steps(in_float64(p), START.ravel(), STEPS, MEMORY)[1])
        for name, p in PROBLEMS.items()
    }
    assert kept["nearly level"] == 0
    assert 0 < kept["flat quadratic"] < STEPS
    assert kept["logarithm"] == STEPS > 2 * MEMORY


@all_problems
def test_the_iterates_are_torchs(problem, x64):
    """Of ``torch.optim.LBFGS`` as neural-style-pt has it, one step at a time."""
    torch = pytest.importorskip("torch", reason="PyTorch, the program to agree with, is not here")
    problem = PROBLEMS[problem]
    value_and_grad = in_float64(problem)
    x = torch.tensor(START.ravel().astype(np.float64), requires_grad=True)
    theirs = torch.optim.LBFGS(
        [x], lr=1, max_iter=1, history_size=MEMORY, tolerance_grad=-1, tolerance_change=-1
    )

    def closure():
        value, gradient = value_and_grad(x.detach().numpy())
        x.grad = torch.tensor(gradient)
        return torch.tensor(value)

    expected = [x.detach().numpy().copy()]
    for _ in range(STEPS):
        theirs.step(closure)
        expected.append(x.detach().numpy().copy())
    assert_same_iterates(iterates(problem)[0], np.stack(expected))


def test_the_best_is_the_lowest_iterate():
    """Not the last: values rise on the way."""
    found = run(FULL_STEPS, RIDGED)
    lowest = [np.argmin(found.value[: step + 1]) for step in range(found.steps + 1)]
    assert_array_equal(found.best, found.z[lowest])
    assert np.any(np.diff(found.value) > 0)


@pytest.mark.parametrize("fault", [{"penalty": np.nan}, {"penalty": np.inf}, {"slope": np.nan}])
def test_the_run_ends_before_what_is_not_finite(fault):
    """PyTorch goes on with NaN; here nothing moves, and the lowest iterate is the answer."""
    found = run(FULL_STEPS, Problem(ROSENBROCK, below=20.0, **fault))
    assert found.end == Status.NON_FINITE
    assert found.evaluations[-1] == found.steps + 1  # the bad one counts
    assert found.steps > 5
    assert np.all(np.isfinite(found.best)) and np.all(np.isfinite(found.value))
    assert_array_equal(found.z[-1], found.z[-2])
    assert_array_equal(found.best[-1], found.z[np.argmin(found.value)])


def test_no_early_end_but_at_a_gradient_of_zero():
    """Where no step would ever move anything."""
    found = run(FULL_STEPS, Problem(QUADRATIC, target=np.full(SIZE, 0.5)), np.full_like(START, 0.5))
    assert (found.end, found.steps) == (Status.CONVERGED, 0)
    found = run(FULL_STEPS, Problem(QUADRATIC, scale=1e-12))  # so flat that nothing is learnt
    assert found.end == Status.RUNNING
    assert_allclose(found.value[-1], found.value[0], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e6, 1e12, 1e25])
def test_no_scale_overflows(scale):
    """From ``|g|_1 = 1`` on the run does not depend on the scale, in float32 too."""
    quadratic = PROBLEMS["quadratic"]
    expected = run(FULL_STEPS, quadratic, limit=12)
    found = run(FULL_STEPS, quadratic._replace(scale=scale), limit=12)
    assert_allclose(found.z, expected.z, atol=1e-4)
    assert found.end == Status.RUNNING


def pull(z, parameter):
    """Smooth, with a minimum that depends on the parameter."""
    x = z.ravel()
    return jnp.sum(jnp.sqrt(1 + jnp.square(3 * x * parameter - jnp.arange(x.size) / 4))), ()


@pytest.mark.parametrize("compact", [False, True])
def test_derivatives_through_the_steps(compact, x64):
    minimizer = Lbfgs(memory=3, line_search=False, compact=compact)
    z = jnp.asarray(START, jnp.float64)

    def end(parameter):
        def body(state, _):
            return minimizer.step(pull, state, parameter), None

        state, _ = jax.lax.scan(body, minimizer.init(pull, z, parameter), length=1 + 5)
        return state.value + jnp.sum(state.z * jnp.cos(jnp.arange(z.size)).reshape(z.shape))

    end = jax.jit(end)
    expected = finite_difference(end, 0.7, 1.0, step=1e-6)
    assert abs(expected) > 0.01
    assert_allclose(jax.grad(end)(0.7), expected, rtol=1e-6)
