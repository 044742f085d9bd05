"""jaxopt's engines: the box of L-BFGS-B, and jaxopt's absence until it is needed."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from problems import (
    CHAIN,
    LINE_SEARCHES,
    QUADRATIC,
    RIDGE,
    ROSENBROCK,
    SHAPE,
    SIZE,
    START,
    TARGET,
    Problem,
    objective,
    run,
)
from scipy.optimize import minimize

from stylejax.optimizers import Status

pytestmark = pytest.mark.usefixtures("quick_compilation")

BOXED = LINE_SEARCHES[2]
# Half of the minimiser lies outside the box, on either side.
OUTSIDE = np.where(np.arange(SIZE) % 3, TARGET, np.where(np.arange(SIZE) % 2, 1.3, -0.4))


def test_a_separable_answer_is_the_nearest_point_of_the_box():
    problem = Problem(QUADRATIC, weights=np.logspace(0, 1, SIZE), target=OUTSIDE)
    found = run(BOXED, problem)
    assert found.end == Status.CONVERGED
    assert_allclose(found.best[-1].ravel(), np.clip(OUTSIDE, 0, 1), atol=1e-3)


@pytest.mark.parametrize("kind", [CHAIN, ROSENBROCK])
def test_the_answer_is_scipys_with_the_same_bounds(kind):
    """Elements depend on each other, so the bound ones move the answer of the free ones."""
    problem = Problem(kind, weights=np.full(SIZE, 50.0), target=OUTSIDE)
    found = run(BOXED, problem)
    assert found.end == Status.CONVERGED
    value_and_grad = jax.jit(jax.value_and_grad(lambda z: objective(z, problem)[0]))

    def flat(x):
        value, gradient = value_and_grad(jnp.asarray(x.reshape(SHAPE)))
        return float(value), np.asarray(gradient).ravel()

    # Rosenbrock's function has several minima in a box: SciPy starts where we ended.
    start = START if kind == CHAIN else found.best[-1]
    with jax.enable_x64(True):
        theirs = minimize(flat, start.ravel(), jac=True, method="L-BFGS-B", bounds=[(0, 1)] * SIZE)
    on_the_box = (theirs.x == 0) | (theirs.x == 1)
    assert 2 <= on_the_box.sum() < SIZE
    assert_allclose(found.value[-1], theirs.fun, rtol=1e-5)
    assert_allclose(found.best[-1].ravel(), theirs.x, atol=2e-3)


@pytest.mark.parametrize("least", [1e-8, 1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("kind", [QUADRATIC, RIDGE])
def test_every_iterate_lies_in_the_box(kind, least, rng):
    """To the last bit, also where gradients are so small that jaxopt takes them for zero."""
    for _ in range(15):
        weights = 10 ** rng.uniform(np.log10(least), 2, SIZE)
        start = rng.uniform(-0.2, 1.2, SHAPE).astype(np.float32)
        problem = Problem(kind, weights=weights, target=rng.uniform(-1, 2, SIZE))
        found = run(BOXED, problem, start)
        assert_array_equal(found.z[0], np.clip(start, 0, 1))
        assert found.z.min() >= 0 and found.z.max() <= 1


def test_a_corner_is_convergence():
    """The gradient is as long as ever, but nothing of it points into the box."""
    corner = np.where(np.arange(SIZE) % 2, 1.0, 0.0)
    problem = Problem(QUADRATIC, target=3 * corner - 1)
    found = run(BOXED, problem, corner.reshape(SHAPE).astype(np.float32))
    assert found.end == Status.CONVERGED
    assert_array_equal(found.best[-1].ravel(), corner)


def test_jaxopt_is_imported_by_its_engines_alone():
    """And without the warning by which it announces its own end."""
    program = """
import sys
import stylejax
import stylejax.optimizers as optimizers
optimizers.Lbfgs(), optimizers.Adam(), optimizers.JaxoptLbfgsb()
assert "jaxopt" not in sys.modules, "imported with the package"
import jax, jax.numpy as jnp
fun = lambda z: (jnp.sum(z**2), ())
optimizers.Lbfgs().init(fun, jnp.ones(2))
assert "jaxopt" not in sys.modules, "imported by optax's engine"
state = jax.eval_shape(lambda z: optimizers.JaxoptLbfgs().init(fun, z), jnp.ones(2))
assert "jaxopt" in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
