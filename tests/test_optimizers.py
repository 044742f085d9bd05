"""What holds for every minimizer: answers, reports, honesty about failure, JAX's transformations.

Quasi-Newton matters are in ``test_lbfgs``, Adam's in ``test_adam``, bounds in
``test_jaxopt_engines``.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from problems import (
    ABSOLUTE,
    ADAM,
    CONDITION_100,
    FULL_STEPS,
    LINE_SEARCHES,
    LOGARITHM,
    MINIMIZERS,
    NARROW_FULL_STEPS,
    QUADRATIC,
    RIDGE,
    ROSENBROCK,
    SIZE,
    START,
    TARGET,
    TRIALS,
    Problem,
    objective,
    quadratics,
    recomputed,
    run,
)

from stylejax.optimizers import Adam, JaxoptLbfgs, JaxoptLbfgsb, Lbfgs, State, Status
from stylejax.optimizers.minimizer import judge, norm, unit

pytestmark = pytest.mark.usefixtures("quick_compilation")


def name(minimizer):
    return type(minimizer).__name__


every = pytest.mark.parametrize("minimizer", MINIMIZERS, ids=name)
# Full steps keep the contract, but values may rise, and the objective's scale counts.
every_kind = pytest.mark.parametrize(
    "minimizer", [*MINIMIZERS, FULL_STEPS, NARROW_FULL_STEPS], ids=name
)
every_line_search = pytest.mark.parametrize("minimizer", LINE_SEARCHES, ids=name)

SOUND = {
    "quadratic": Problem(QUADRATIC, weights=CONDITION_100),
    "rosenbrock": Problem(ROSENBROCK),
    "ridge": Problem(RIDGE, weights=CONDITION_100 / 10, target=np.full(SIZE, 0.5)),
    "logarithm": Problem(LOGARITHM),
    "absolute": Problem(ABSOLUTE, weights=CONDITION_100),
}
# The first element's way to its target is barred right at the start.
WALL = Problem(
    QUADRATIC, target=np.where(np.arange(SIZE) == 0, 2, TARGET), beyond=float(START.flat[0])
)
FAULTY = {
    "NaN below": SOUND["rosenbrock"]._replace(below=20.0, penalty=np.nan),
    "infinite below": SOUND["rosenbrock"]._replace(below=20.0, penalty=np.inf),
    "NaN gradient below": SOUND["rosenbrock"]._replace(below=20.0, slope=np.nan),
    "infinite gradient below": SOUND["rosenbrock"]._replace(below=20.0, slope=np.inf),
    "NaN beyond": WALL._replace(penalty=np.nan),
    "NaN gradient beyond": WALL._replace(slope=np.nan),
    "NaN beyond, offset": WALL._replace(penalty=np.nan, offset=1e5),
    "wrong gradient": Problem(QUADRATIC, below=np.inf, slope=-1.0),
    "wrong gradient below": Problem(QUADRATIC, below=0.5, slope=-1.0),
}
all_problems = pytest.mark.parametrize("problem", [*SOUND, *FAULTY])


def problem_called(key):
    return (SOUND | FAULTY)[key]


# Answers


@every_line_search
@pytest.mark.parametrize("kind", ["quadratic", "rosenbrock", "logarithm"])
def test_line_searches_reach_the_minimum(minimizer, kind):
    found = run(minimizer, SOUND[kind])
    least = float(objective(TARGET.astype(np.float32), SOUND[kind])[0])
    assert found.end == Status.CONVERGED
    # float32 knows a minimiser to about the square root of its rounding.
    assert_allclose(found.best[-1].ravel(), TARGET, atol=2e-3)
    assert found.value[-1] - least <= 1e-6 * (found.value[0] - least)


@pytest.mark.parametrize("kind", ["quadratic", "logarithm", "absolute"])
def test_adam_comes_near_the_minimum(kind):
    found = run(ADAM, SOUND[kind])
    least = float(objective(TARGET.astype(np.float32), SOUND[kind])[0])
    assert found.value.min() - least <= 1e-2 * (found.value[0] - least)


@every
def test_concave_places_are_left_downhill(minimizer):
    # A start in the concave part of each axis, where a pair of gradients has negative curvature.
    near = np.float32(0.5) + (START - np.float32(0.5)) / 50
    found = run(minimizer, SOUND["ridge"], near)
    total = SOUND["ridge"].weights.sum()
    assert found.value[0] > -0.01 * total
    assert found.value.min() < -0.999 * total


@every_line_search
@all_problems
def test_values_never_rise(minimizer, problem):
    found = run(minimizer, problem_called(problem))
    assert np.all(np.diff(found.value) <= 0)
    assert_array_equal(found.best, found.z)


@all_problems
def test_adams_best_is_the_lowest_iterate(problem):
    found = run(ADAM, problem_called(problem))
    lowest = [np.argmin(found.value[: step + 1]) for step in range(found.steps + 1)]
    assert_array_equal(found.best, found.z[lowest])


# Reports


@every_kind
@all_problems
def test_value_and_aux_belong_to_the_iterate(minimizer, problem):
    problem = problem_called(problem)
    found = run(minimizer, problem)
    value, aux = recomputed(found.z, problem)
    # The rounding of two programs that add in different orders.
    near = partial(assert_allclose, rtol=1e-4, atol=1e-5)
    near(found.value, value)
    jax.tree.map(near, found.aux, jax.tree.map(np.asarray, aux))


@every_kind
def test_aux_does_not_influence_the_run(minimizer):
    expected = run(minimizer, SOUND["rosenbrock"])
    found = run(minimizer, SOUND["rosenbrock"]._replace(load=1e35))
    assert_array_equal(found.z, expected.z)
    assert_array_equal(found.evaluations, expected.evaluations)
    assert_allclose(found.aux["parts"][0], 1e35 * expected.aux["parts"][0], rtol=1e-6)


CALLS = []


def counted(z, problem):
    """The objective without aux, counting on the host how often it is computed."""
    jax.debug.callback(CALLS.append, z.ravel()[0])
    return quadratics(z, problem)[0], ()


@every_kind
def test_evaluations_are_those_computed_and_steps_compile_once(minimizer):
    step = jax.jit(lambda state, problem: minimizer.step(counted, state, problem))
    init = jax.jit(lambda z, problem: minimizer.init(counted, z, problem))
    for kind in ["NaN beyond", "quadratic"]:
        problem = problem_called(kind)
        CALLS.clear()
        state = init(START, problem)
        jax.effects_barrier()
        assert len(CALLS) == state.evaluations == 0
        state = step(state, problem)
        jax.effects_barrier()
        assert len(CALLS) == state.evaluations == 1
        values = [float(state.value)]
        for _ in range(5):
            if state.status != Status.RUNNING:
                break
            state = step(state, problem)
            values.append(float(state.value))
            jax.effects_barrier()
            assert len(CALLS) == state.evaluations
        # The same steps one by one as in the scan with aux; chaos comes later.
        assert_allclose(values, run(minimizer, problem).value[: len(values)], rtol=1e-3)
    assert len(values) == 6
    assert step._cache_size() == 1


@every_kind
def test_the_first_step_is_the_evaluation_of_the_start(minimizer):
    """It moves nothing, and an unevaluated state never passes for a good one."""
    problem = SOUND["rosenbrock"]
    state = minimizer.init(objective, jnp.asarray(START), problem)
    assert (state.evaluations, state.status, state.value) == (0, Status.RUNNING, np.inf)
    assert_array_equal(state.best, START)
    found = run(minimizer, problem, limit=0)
    value, _ = recomputed(START[None], problem)
    assert (found.steps, found.evaluations[0]) == (0, 1)
    assert_array_equal(found.z[0], START)
    assert_array_equal(found.best[0], START)
    assert_allclose(found.value, value, rtol=1e-6)


@every_kind
@all_problems
def test_evaluations_are_bounded(minimizer, problem):
    found = run(minimizer, problem_called(problem))
    # jaxopt computes once more before the first trial, for aux, and once for a last resort.
    most = (
        1
        if minimizer in (ADAM, FULL_STEPS, NARROW_FULL_STEPS)
        else TRIALS + (0 if isinstance(minimizer, Lbfgs) else 2)
    )
    spent = np.diff(found.evaluations)
    assert found.evaluations[0] == 1
    assert np.all((spent >= 1) & (spent <= most))


# The objective's scale


@every
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e25])
def test_scale_does_not_matter(minimizer, scale):
    expected = run(minimizer, SOUND["quadratic"])
    found = run(minimizer, SOUND["quadratic"]._replace(scale=scale))
    assert found.end == expected.end
    assert_allclose(found.z[:8], expected.z[:8], atol=1e-4)
    assert_allclose(found.best[-1], expected.best[-1], atol=1e-4)
    assert_allclose(found.value[:8], expected.value[:8] * scale, rtol=1e-3)


@every
@pytest.mark.parametrize("offset", [1e3, -1e3])
def test_offset_costs_no_more_than_its_rounding(minimizer, offset):
    expected = run(minimizer, SOUND["quadratic"])
    found = run(minimizer, SOUND["quadratic"]._replace(offset=offset))
    # A thousandth of the first value, 30, is 500 times the rounding at 1000.
    assert found.value.min() - offset <= expected.value.min() + 0.03
    assert found.end in (Status.RUNNING, Status.CONVERGED)


# Objectives that go wrong


@every_line_search
@pytest.mark.parametrize(
    "problem",
    ["NaN below", "infinite below", "NaN gradient below", "infinite gradient below"],
)
def test_a_line_search_stops_at_the_edge_of_what_is_finite(minimizer, problem):
    found = run(minimizer, FAULTY[problem])
    assert np.all(np.isfinite(found.best)) and np.all(np.isfinite(found.value))
    assert found.end in (Status.STALLED, Status.NON_FINITE)
    # The edge is at 20; the last good value is well on the way there.
    assert 20 <= found.value[-1] < 0.2 * found.value[0]


@every_line_search
@pytest.mark.parametrize("problem", ["NaN beyond", "NaN gradient beyond"])
def test_a_wall_is_not_crossed(minimizer, problem):
    found = run(minimizer, FAULTY[problem])
    assert np.all(np.isfinite(found.best)) and np.all(np.isfinite(found.value))
    assert found.z[:, 0, 0, 0].max() <= FAULTY[problem].beyond


@every_line_search
def test_searches_that_met_only_nan_say_so(minimizer):
    # Next to the offset the rest of the way is little, yet it is not what ended the run.
    found = run(minimizer, FAULTY["NaN beyond, offset"])
    assert found.end == Status.NON_FINITE
    assert np.all(np.isfinite(found.best))


@pytest.mark.parametrize("problem", ["NaN beyond", "NaN gradient beyond"])
def test_adam_ends_before_the_first_value_that_is_not_finite(problem):
    found = run(ADAM, FAULTY[problem])
    assert found.end == Status.NON_FINITE
    assert found.evaluations[-1] == found.steps + 1  # the bad one counts
    assert np.all(np.isfinite(found.best)) and np.all(np.isfinite(found.value))
    assert_array_equal(found.z[-1], found.z[-2])


@every_kind
@pytest.mark.parametrize(
    "fault", [{"penalty": np.nan}, {"penalty": np.inf}, {"slope": np.nan}, {"slope": np.inf}]
)
def test_a_start_that_is_not_finite_ends_at_once(minimizer, fault):
    found = run(minimizer, Problem(QUADRATIC, below=np.inf, **fault))
    assert found.end == Status.NON_FINITE
    assert (found.steps, found.evaluations[-1]) == (0, 1)
    assert_array_equal(found.best[-1], START)


@every_kind
def test_nothing_to_do_is_convergence(minimizer):
    for problem in [
        Problem(QUADRATIC, target=START.ravel()),
        Problem(QUADRATIC, weights=np.zeros(SIZE)),
        Problem(QUADRATIC, weights=np.zeros(SIZE), offset=1e10),
        Problem(RIDGE, target=START.ravel()),
    ]:
        found = run(minimizer, problem)
        assert found.end == Status.CONVERGED
        assert (found.steps, found.evaluations[-1]) == (0, 1)
        assert_array_equal(found.best[-1], START)


@every_line_search
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_wrong_gradient_stalls(minimizer, offset):
    found = run(minimizer, FAULTY["wrong gradient"]._replace(offset=offset))
    assert found.end == Status.STALLED
    assert found.steps == 2  # the second try starts from an empty memory
    assert_array_equal(found.best[-1], START)


@every_line_search
def test_a_gradient_that_turns_wrong_stalls_where_it_does(minimizer):
    found = run(minimizer, FAULTY["wrong gradient below"])
    assert found.end == Status.STALLED
    assert found.value[-1] < found.value[0]


@every_line_search
def test_a_kink_is_no_trouble(minimizer):
    found = run(minimizer, SOUND["absolute"])
    assert found.end != Status.NON_FINITE
    assert found.value[-1] < 0.2 * found.value[0]


@every_kind
@pytest.mark.parametrize("problem", FAULTY)
def test_what_ended_the_run_moved_nothing(minimizer, problem):
    found = run(minimizer, FAULTY[problem])
    if found.end in (Status.STALLED, Status.NON_FINITE):
        for rows in jax.tree.leaves(found._replace(status=None, evaluations=None)):
            assert_array_equal(rows[-1], rows[-2])
    assert set(found.status[:-1].tolist()) == {Status.RUNNING}


# JAX's transformations


@every_kind
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_keep_every_type(minimizer, dtype, x64):
    """With 64 bits enabled, where a Python number or an index widens what it touches."""

    def fun(z):
        value, _ = objective(z, SOUND["rosenbrock"])
        return value, {"single": value.astype(jnp.float32), "own": value}

    state = jax.eval_shape(lambda z: minimizer.init(fun, z), jnp.asarray(START, dtype))
    after = jax.eval_shape(lambda state: minimizer.step(fun, state), state)
    assert state.z.dtype == state.value.dtype == state.best.dtype == dtype
    assert state.status.dtype == state.evaluations.dtype == jnp.int32
    assert isinstance(state, State)
    assert jax.tree.structure(state) == jax.tree.structure(after)
    types = [(a.shape, a.dtype.name, a.weak_type) for a in jax.tree.leaves(state)]
    assert types == [(a.shape, a.dtype.name, a.weak_type) for a in jax.tree.leaves(after)]
    assert not any(weak for _, _, weak in types)


@every_kind
def test_a_batch_is_its_runs(minimizer):
    """Elements in every condition side by side: none disturbs another."""
    problems = [
        SOUND["quadratic"],
        SOUND["quadratic"]._replace(scale=1e9),
        FAULTY["NaN beyond"],
        FAULTY["wrong gradient"],
        Problem(QUADRATIC, weights=np.zeros(SIZE)),
    ]
    starts = np.stack([START, START[::-1], START, START, START])
    batch = jax.tree.map(lambda *a: np.stack(a), *problems)
    state = jax.jit(jax.vmap(partial(minimizer.init, quadratics)))(starts, batch)
    step = jax.jit(jax.vmap(partial(minimizer.step, quadratics)))
    steps = 4
    for _ in range(1 + steps):  # the first evaluates the start
        going = np.asarray(state.status) == Status.RUNNING
        new = step(state, batch)
        state = jax.tree.map(
            lambda a, b, going=going: np.where(going.reshape(-1, *[1] * (a.ndim - 1)), a, b),
            new,
            state,
        )
    for index, (problem, start) in enumerate(zip(problems, starts, strict=True)):
        alone = run(minimizer, problem, start, steps)
        assert state.status[index] == alone.end
        assert state.evaluations[index] == alone.evaluations[-1]
        assert_allclose(state.best[index], alone.best[-1], atol=1e-4)


# Records

# Fields that take words.
OTHERWISE = {"memory_dtype": "bfloat16"}


@pytest.mark.parametrize("kind", [Lbfgs, JaxoptLbfgs, JaxoptLbfgsb, Adam])
def test_minimizers_are_values(kind):
    assert kind() == kind() and hash(kind()) == hash(kind())
    for field in dataclasses.fields(kind):
        # Not the default, whatever that is: a number, a word for yes or no, or nothing.
        changed = OTHERWISE.get(field.name, 2 * (field.default or 0) + 3)
        other = dataclasses.replace(kind(), **{field.name: changed})
        assert other != kind()
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(other, field.name, field.default)


def test_every_status_has_its_sentence():
    messages = {status.message for status in Status}
    assert len(messages) == len(Status) and all(messages)
    assert sorted(Status) == [
        Status.RUNNING,
        Status.CONVERGED,
        Status.STALLED,
        Status.NON_FINITE,
    ]


# The parts all share


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_norm_neither_overflows_nor_underflows(scale):
    assert_allclose(norm(jnp.array([3.0, -4.0]) * scale), 5 * scale, rtol=1e-6)
    assert_allclose(unit(jnp.array([3.0, -4.0]) * scale) * scale, 0.2, rtol=1e-6)


def test_norm_has_a_gradient_everywhere():
    assert_array_equal(jax.jit(jax.grad(norm))(jnp.zeros(3)), np.zeros(3))
    assert_allclose(jax.jit(jax.grad(norm))(jnp.array([3.0, -4.0])), [0.6, -0.8], rtol=1e-6)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -np.inf])
def test_unit_is_one_where_there_is_no_length(bad):
    assert unit(jnp.array([0.0, bad])) == 1


@pytest.mark.parametrize(
    ("after", "slope", "sound", "predicted", "failures", "status"),
    [
        (0.9, 1.0, True, 1.0, 1, Status.RUNNING),
        (0.9, 1e-7, True, 1.0, 0, Status.CONVERGED),  # the gradient is gone
        (1.0, 1.0, True, 1.0, 0, Status.RUNNING),  # one failure is forgiven
        (1.0, 1.0, True, 1.0, 1, Status.STALLED),
        (1.0, 1.0, True, 1e-5, 1, Status.CONVERGED),  # too little was to be had
        (1.0, 1.0, False, 1.0, 1, Status.NON_FINITE),
        (np.nan, 1.0, True, 1.0, 1, Status.NON_FINITE),
        (0.9, np.nan, True, 1.0, 1, Status.NON_FINITE),  # a lower value does not make up for it
        (0.9, np.inf, True, 1.0, 0, Status.RUNNING),
        (-np.inf, 1.0, True, 1.0, 0, Status.RUNNING),
    ],
)
def test_judge(after, slope, sound, predicted, failures, status):
    verdict = jax.jit(judge)(
        jnp.float32(1.0),
        jnp.float32(after),
        jnp.full(3, slope, jnp.float32),
        sound=jnp.asarray(sound),
        predicted=jnp.float32(predicted),
        failures=jnp.int32(failures),
    )
    improved = np.isfinite(after) and np.isfinite(slope) and after < 1
    assert verdict.improved == improved
    assert verdict.failures == (0 if improved else failures + 1)
    assert verdict.status == status
