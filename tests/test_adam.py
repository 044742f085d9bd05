"""Adam: the rule by hand, the average by hand, derivatives through the steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from problems import ADAM, CONDITION_100, QUADRATIC, SIZE, START, TARGET, Problem, objective, run
from reference import finite_difference

from stylejax.optimizers import Adam

pytestmark = pytest.mark.usefixtures("quick_compilation")

QUADRATIC_100 = Problem(QUADRATIC, weights=CONDITION_100)


def test_the_rule_by_hand():
    """Kingma and Ba, algorithm 1, on the gradient divided by the first one's root mean square.

    What is not theirs is the epsilon under the root.
    """
    # The first two gradients are near Adam's epsilon, which shows what it is measured by.
    weights = np.concatenate([[1e-6, 1e-5], CONDITION_100[2:]])
    x, m, v = START.ravel().astype(np.float64), np.zeros(SIZE), np.zeros(SIZE)
    unit = 1 / np.sqrt(np.mean(np.square(weights * (x - TARGET))))
    points = [x]
    for t in range(1, 41):
        g = unit * weights * (x - TARGET)
        m = 0.9 * m + 0.1 * g
        v = 0.99 * v + 0.01 * g**2
        x = x - 0.02 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t) + 1e-24) + 1e-8)
        points.append(x)
    found = run(ADAM, Problem(QUADRATIC, weights=weights), limit=40)
    assert_allclose(found.z.reshape(41, SIZE), points, atol=2e-5)


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_average_by_hand(decay):
    """Iterates weighted by 1, decay, decay², ... from the newest back; the start has no part."""
    plain, found = run(ADAM, QUADRATIC_100), run(_averaged(decay), QUADRATIC_100)
    assert_allclose(found.z, plain.z, atol=1e-5)
    assert_array_equal(found.best[0], START)
    for step in (1, 2, 3, 30, found.steps):
        ages = np.arange(step - 1, -1, -1)
        weights = decay ** ages.astype(np.float64) / np.sum(decay ** ages.astype(np.float64))
        expected = np.einsum("k,k...->...", weights, found.z[1 : step + 1].astype(np.float64))
        assert_allclose(found.best[step], expected, atol=1e-6)


def _averaged(decay):
    return Adam(learning_rate=ADAM.learning_rate, average=decay)


def test_the_average_is_of_finite_iterates():
    """The run ends before the iterate that is not finite, and so does its average."""
    beyond = float(START.flat[0]) + 0.1
    problem = Problem(QUADRATIC, target=np.full(SIZE, 2.0), beyond=beyond, penalty=np.nan)
    found = run(_averaged(0.9), problem)
    assert 2 < found.steps < 20
    assert_array_equal(found.best[-1], found.best[-2])
    assert np.all(np.isfinite(found.best))


def pull(z, parameter):
    """Smooth everywhere, no minimum at any round place, every element's gradient its own."""
    x = z.ravel()
    return jnp.sum(jnp.sqrt(1 + jnp.square(3 * x * parameter - jnp.arange(x.size) / 4))), ()


def idle(z, parameter):
    """The first element has no part: its gradient is zero throughout, as a hidden pixel's is."""
    return jnp.sum(jnp.square(z.ravel()[1:] - parameter)), ()


@pytest.mark.parametrize("minimizer", [Adam(), Adam(average=0.9)], ids=["best", "average"])
@pytest.mark.parametrize("fun", [pull, idle])
def test_derivatives_through_the_steps(fun, minimizer, x64):
    """Of the last value and of the answer, by a parameter that travels in args."""
    z = jnp.asarray(START, jnp.float64)

    def end(parameter):
        def body(state, _):
            return minimizer.step(fun, state, parameter), None

        state, _ = jax.lax.scan(body, minimizer.init(fun, z, parameter), length=1 + 5)
        shares = jnp.cos(jnp.arange(z.size)).reshape(z.shape)
        return state.value + jnp.sum(state.best * shares)

    end = jax.jit(end)
    # Central differences of smooth functions: errors of 1e-12 and of 1e-24 / 1e-6.
    expected = finite_difference(end, 0.7, 1.0, step=1e-6)
    assert abs(expected) > 0.01
    assert_allclose(jax.grad(end)(0.7), expected, rtol=1e-6)


def test_a_single_step_is_the_learning_rate():
    """The first update has the learning rate's size in every element, whatever the gradient."""
    found = run(ADAM, QUADRATIC_100, limit=1)
    assert_allclose(np.abs(found.z[1] - found.z[0]), 0.02, rtol=1e-4)


def test_moving_parameters_need_no_compilation():
    """Problems travel in args: the step is compiled for their shape, not their values."""
    step = jax.jit(lambda state, problem: ADAM.step(objective, state, problem))
    state = jax.jit(lambda problem: ADAM.init(objective, jnp.asarray(START), problem))(
        QUADRATIC_100
    )
    for target in (0.1, 0.2, 0.3):
        state = step(state, QUADRATIC_100._replace(target=np.full(SIZE, target)))
    assert step._cache_size() == 1
