"""Adam: the rule by hand, the average by hand, derivatives through the steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from problems import (
    ADAM,
    CONDITION_100,
    QUADRATIC,
    ROSENBROCK,
    SIZE,
    START,
    TARGET,
    Problem,
    objective,
    run,
)
from reference import adam as adam_by_hand
from reference import finite_difference, linear_resample
from test_lbfgs import in_float64

from stylejax.optimizers import Adam, Status

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


# neural-style's and crowsonkb's settings, and the TensorFlow tutorial's, whose eps is large.
SETTINGS = [(0.04, 0.9, 0.999, 1e-8), (0.02, 0.9, 0.99, 1e-8), (0.02, 0.99, 0.999, 0.1)]
OF_OTHERS = pytest.mark.parametrize("settings", SETTINGS, ids=str)
# With the last, eps is larger than any gradient.
SCALES = pytest.mark.parametrize("scale", [1.0, 1e4, 1e-9])


def points_of(minimizer, problem, steps=40):
    """Flat iterates of a float64 run, the start first."""
    step = jax.jit(lambda state: minimizer.step(objective, state, problem))
    state = step(minimizer.init(objective, jnp.asarray(START, jnp.float64), problem))
    points = [state.z]
    for _ in range(steps):
        state = step(state)
        points.append(state.z)
    return np.stack(points).reshape(-1, SIZE)


@OF_OTHERS
@SCALES
def test_eps_is_in_units_of_the_gradient(settings, scale, x64):
    problem = Problem(ROSENBROCK, scale=scale)
    rate, b1, b2, eps = settings
    points = points_of(Adam(rate, b1, b2, eps), problem)
    expected = adam_by_hand(in_float64(problem), START.ravel(), 40, rate, b1, b2, eps)
    assert_allclose(points, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("clamp", [False, True])
@OF_OTHERS
def test_the_iterates_are_torchs(settings, clamp, x64):
    """Of ``torch.optim.Adam``, clamped after each step as crowsonkb's program does."""
    torch = pytest.importorskip("torch", reason="PyTorch, the program to agree with, is not here")
    rate, b1, b2, eps = settings
    problem = Problem(ROSENBROCK, target=np.where(np.arange(SIZE) % 3, TARGET, 1.3), scale=1e-7)
    x = torch.tensor(START.ravel().astype(np.float64))
    theirs, expected = torch.optim.Adam([x], lr=rate, betas=(b1, b2), eps=eps), [x.numpy().copy()]
    for _ in range(40):
        x.grad = torch.tensor(in_float64(problem)(x.numpy())[1])
        theirs.step()
        if clamp:
            x.clamp_(0, 1)
        expected.append(x.numpy().copy())
    points = points_of(Adam(rate, b1, b2, eps, clamp=clamp), problem)
    assert_allclose(points, np.stack(expected), rtol=0, atol=1e-10)


def test_clamp_keeps_every_iterate_in_the_box():
    """The start too; the oracle clips the same."""
    minimizer = Adam(0.1, eps=1e-8, clamp=True)
    problem = Problem(QUADRATIC, target=np.linspace(-0.5, 1.5, SIZE))
    found = run(minimizer, problem, START * 3 - 1, limit=30)
    assert_array_equal(found.z[0], np.clip(START * 3 - 1, 0, 1))
    assert np.any(found.z[-1] == 0) and np.any(found.z[-1] == 1)
    begin = np.clip(START * 3 - 1, 0, 1).ravel()
    expected = adam_by_hand(in_float64(problem), begin, 30, 0.1, 0.9, 0.99, 1e-8, clamp=True)
    assert_allclose(found.z.reshape(31, SIZE), expected, atol=2e-5)
    assert run(Adam(0.1), problem, START, limit=30).z.max() > 1.05


def bowl(z, target):
    return jnp.sum(jnp.square(z - target)) * 1e-3, ()


def after(minimizer, z, steps):
    """State after the start's evaluation and some steps on ``bowl``, for a target of its size."""
    target = jnp.linspace(0, 1, z.size).reshape(z.shape)
    state = minimizer.init(bowl, z, target)
    for _ in range(1 + steps):
        state = minimizer.step(bowl, state, target)
    return state, target


def test_moments_are_carried_to_another_size(x64):
    """First moment cubic, second linear and never negative; the count and the unit go on."""
    minimizer = Adam(average=0.9)
    before, _ = after(minimizer, jnp.asarray(START, jnp.float64), 4)
    fresh, _ = after(minimizer, jnp.zeros((4, 5, 3)), -1)
    start = minimizer.carry(before, fresh)
    for name in ("z", "best", "value", "status", "evaluations"):
        assert_array_equal(getattr(start, name), getattr(fresh, name))
    # The average starts anew.
    assert_array_equal(start.engine.average, 0 * fresh.z)
    assert start.engine.steps == 0
    old, new = before.engine.moments[0], start.engine.moments[0]
    assert new.count == old.count == 4
    assert_allclose(new.nu, linear_resample(old.nu, 4, 5), rtol=1e-6)
    assert new.nu.min() >= 0
    # Keys' cubic kernel reproduces straight lines away from the border and constants everywhere.
    flat = before._replace(
        engine=before.engine._replace(
            moments=(old._replace(mu=jnp.full_like(old.mu, 0.3)), *before.engine.moments[1:])
        )
    )
    assert_allclose(minimizer.carry(flat, fresh).engine.moments[0].mu, 0.3, rtol=1e-6)
    types = [(a.shape, a.dtype, a.weak_type) for a in jax.tree.leaves(fresh)]
    assert types == [(a.shape, a.dtype, a.weak_type) for a in jax.tree.leaves(start)]


def test_a_carried_run_of_one_size_is_one_run(x64):
    """Where there is nothing to resample, carrying over is as if nothing had happened."""
    minimizer = Adam()
    whole, target = after(minimizer, jnp.asarray(START, jnp.float64), 7)
    half, _ = after(minimizer, jnp.asarray(START, jnp.float64), 4)
    state = minimizer.carry(half, minimizer.init(bowl, half.z, target))
    for _ in range(1 + 3):
        state = minimizer.step(bowl, state, target)
    assert_allclose(state.z, whole.z, rtol=1e-12)
    anew = minimizer.init(bowl, half.z, target)
    for _ in range(1 + 3):
        anew = minimizer.step(bowl, anew, target)
    assert np.abs(anew.z - whole.z).max() > 1e-3


def test_a_carried_run_of_one_size_has_torchs_iterates(x64):
    """Its gradients, in torch's units, are not divided anew at the second scale."""
    first, second = Problem(QUADRATIC, weights=CONDITION_100), Problem(QUADRATIC, scale=0.01)
    minimizer, z = Adam(eps=1e-8), jnp.asarray(START, jnp.float64)
    x, m, v = START.ravel().astype(np.float64), 0.0, 0.0
    state = None
    for problem in (first, second):
        fresh = minimizer.init(objective, z, problem)
        state = fresh if state is None else minimizer.carry(state, fresh)
        for _ in range(1 + 5):
            state = minimizer.step(objective, state, problem)
        z = state.z
    for t in range(1, 11):
        g = in_float64(first if t <= 5 else second)(x)[1]
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        x = x - 0.02 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    assert_allclose(z.ravel(), x, atol=1e-10)


def test_what_never_began_carries_nothing():
    """A run that ended at its start has no moments, and no unit to keep."""
    minimizer = Adam()
    broken = Problem(QUADRATIC, below=np.inf, penalty=np.nan)
    state = minimizer.init(objective, jnp.asarray(START), broken)
    state = minimizer.step(objective, state, broken)
    assert state.status == Status.NON_FINITE
    fresh = minimizer.init(objective, jnp.asarray(START), QUADRATIC_100)
    state = minimizer.carry(state, fresh)
    for _ in range(1 + 2):
        state = minimizer.step(objective, state, QUADRATIC_100)
    assert_allclose(state.z, run(minimizer, QUADRATIC_100, limit=2).z[-1], atol=1e-5)


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
