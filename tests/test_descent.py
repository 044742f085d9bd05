"""Gradient descent against its own formula, and where it ends."""

import numpy as np
import problems
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from problems import CHAIN, LOGARITHM, SIZE, START, Problem, run

from stylejax.optimizers import GradientDescent, Status

pytestmark = pytest.mark.usefixtures("quick_compilation")

FADING = GradientDescent(learning_rate=0.02, decay=0.5, decay_steps=10)


def test_steps_are_the_formula_s():
    problem = Problem(CHAIN, np.linspace(1, 3, SIZE))
    found = run(FADING, problem, limit=20)
    z = np.float64(START).ravel()
    for t in range(20):
        gradient = problem.weights * (z - problem.target)
        gradient[1:] += 10 * (z[1:] - z[:-1])
        gradient[:-1] -= 10 * (z[1:] - z[:-1])
        z = z - 0.02 * 0.5 ** (t / 10) * gradient
        # Float32, contracting.
        assert_allclose(found.z[t + 1].ravel(), z, rtol=0, atol=1e-6)
    assert_array_equal(found.evaluations, np.arange(21) + 1)
    assert found.end == Status.RUNNING


def test_a_small_picture_gets_its_share_of_the_rate():
    problem = Problem(problems.QUADRATIC)
    quarter = run(GradientDescent(learning_rate=0.4, full_from=4 * SIZE), problem, limit=3)
    whole = run(GradientDescent(learning_rate=0.1, full_from=SIZE // 2), problem, limit=3)
    assert_allclose(quarter.z, whole.z, rtol=1e-6)


def test_the_lowest_is_the_answer():
    """A rate that overshoots: the value rises again, and the best stays."""
    found = run(GradientDescent(learning_rate=2.1), Problem(problems.QUADRATIC), limit=10)
    assert found.value[-1] > found.value[0]
    assert_array_equal(found.best[-1], found.z[0])


def test_nan_ends_the_run_and_keeps_the_best():
    found = run(GradientDescent(learning_rate=50.0), Problem(LOGARITHM))
    assert found.end == Status.NON_FINITE
    assert np.all(np.isfinite(found.best[-1]))
    assert found.steps < 10
