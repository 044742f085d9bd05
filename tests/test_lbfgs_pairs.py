"""What L-BFGS remembers: directions against optax and the slow oracle, storage against the plan."""

from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal

from stylejax.optimizers import Lbfgs, Status, pairs

pytestmark = pytest.mark.usefixtures("quick_compilation")

MEMORY, SHAPE = 4, (3, 5, 3)
DIGITS = {None: 53, "float32": 24, "bfloat16": 8}
every_dtype = pytest.mark.parametrize("dtype", DIGITS)
both_forms = pytest.mark.parametrize("compact", [False, True])

with_pair = jax.jit(pairs.with_pair)


@jax.jit
def through(memory, q):
    """From the newest pair's scale, as optax and the oracle begin."""
    return pairs.through(memory, q, pairs.newest_scale(memory, 1.0))


def walked(rng, steps=2 * MEMORY + 3):
    """Places and gradients on a walk over a convex quadratic, so that every pair is curved."""
    root = rng.normal(size=(np.prod(SHAPE), np.prod(SHAPE)))
    places = np.cumsum(rng.normal(size=(steps, *SHAPE)), axis=0)
    flat = places.reshape(steps, -1)
    return places, (flat @ (root @ root.T)).reshape(places.shape)


def remembered(dtype, moves, changes, compact=False):
    """The memory after each of these pairs, none first."""
    memory = pairs.empty(jnp.asarray(moves[0]), MEMORY, dtype, compact=compact)
    yield memory
    for move, change in zip(moves, changes, strict=True):
        memory = with_pair(memory, jnp.asarray(move), jnp.asarray(change), jnp.zeros(()))
        yield memory


@both_forms
def test_directions_are_optaxs(compact, rng, x64):
    """Through an empty, a part filled and a full ring, written over more than twice."""
    places, gradients = walked(rng)
    theirs = optax.scale_by_lbfgs(MEMORY)
    state = theirs.init(jnp.asarray(places[0]))
    ours = remembered(None, np.diff(places, axis=0), np.diff(gradients, axis=0), compact)
    for number, (place, gradient, memory) in enumerate(zip(places, gradients, ours, strict=True)):
        expected, state = theirs.update(jnp.asarray(gradient), state, jnp.asarray(place))
        found = through(memory, jnp.asarray(gradient))
        assert memory.kept == number
        if number == 0:  # where optax divides by the gradient's norm, and Lbfgs does
            found = found * min(1, 1 / np.linalg.norm(gradient))
        assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@both_forms
@every_dtype
def test_directions_are_the_oracles_of_the_rounded_pairs(dtype, compact, rng, x64):
    """Their ``y.s`` and the start of ``H`` too: the only error is that of what is stored."""
    places, gradients = walked(rng)
    moves, changes = np.diff(places, axis=0), np.diff(gradients, axis=0)
    round_off = partial(reference.rounded, digits=DIGITS[dtype])
    kept = [(round_off(s), round_off(y)) for s, y in zip(moves, changes, strict=True)]
    for number, memory in enumerate(remembered(dtype, moves, changes, compact)):
        expected = reference.lbfgs_direction(gradients[-1], kept[max(0, number - MEMORY) : number])
        assert_allclose(through(memory, -gradients[-1]), expected, rtol=1e-9, atol=1e-12)


def test_the_oracle_rounds_as_the_hardware_does(rng):
    x = rng.normal(size=200) * 10.0 ** rng.integers(-30, 30, 200)
    x[:3] = 1 + np.array([1, 3, -0.5]) / 256  # ties
    assert_array_equal(reference.rounded(x, 8), x.astype(ml_dtypes.bfloat16).astype(float))
    assert_array_equal(reference.rounded(x, 24), x.astype(np.float32).astype(float))
    assert_array_equal(reference.rounded(x, 53), x)


@every_dtype
def test_what_was_rounded_comes_back(dtype, rng):
    """In float32, where ``float32`` is no rounding at all."""
    moves = rng.normal(size=(MEMORY, *SHAPE)).astype(np.float32)
    *_, memory = remembered(dtype, moves, 2 * moves)
    back = np.stack([pairs._read(memory.moves[i], jnp.float32) for i in range(MEMORY)])
    assert_array_equal(back, reference.rounded(moves, min(24, DIGITS[dtype])))
    assert_allclose(memory.weights, 0.5 / np.sum(np.square(back), axis=(1, 2, 3)), rtol=1e-6)
    assert_allclose(memory.scales, 0.5, rtol=1e-6)


def test_scales_by_hand():
    """Pairs with ``y = c s``, whose ``y.s / y.y`` is ``1 / c``."""
    memory = pairs.empty(jnp.zeros(2), MEMORY, None)
    kept = []
    for c in (2, 4, 1, 10, 5, 5, 5):
        found = [pairs.newest_scale(memory, 7.0)]
        found += [pairs.largest_scale(memory, 7.0, stretch) for stretch in (1, 3, 100)]
        if kept:
            least, newest = min(kept[-MEMORY:]), kept[-1]
            assert found == [
                1 / newest, 1 / newest, min(1 / least, 3 * (1 / newest)), 1 / least,
            ]  # fmt: skip
        else:
            assert found == [7] * 4
        memory = with_pair(memory, jnp.ones(2), c * jnp.ones(2), jnp.zeros(()))
        kept.append(np.float32(c))
    memory = pairs.forgotten(memory, unless=jnp.asarray(False))
    assert pairs.largest_scale(memory, 7.0, 3) == pairs.newest_scale(memory, 7.0) == 7


# With a move of ones: near 1 bfloat16 has 1, 1.0078 and nothing between.
BENT = {
    "rounded to nothing": [1.003, -1, 0],
    "rounded to less than nothing": [1.0038, -1, -0.001],
    "curved by rounding alone": [1.0040, -1.0039, -0.001],
}


@pytest.mark.parametrize("change", BENT)
def test_a_pair_is_kept_if_it_is_curved_before_and_after_rounding(change):
    change = np.float32(BENT[change])
    curved = np.sum(change) > 0
    for dtype, kept in [(None, curved), ("bfloat16", False)]:
        before, after = remembered(dtype, np.ones((1, 3), np.float32), change[None])
        assert after.kept == kept
        if not kept:
            jax.tree.map(assert_array_equal, before, after)


@both_forms
@pytest.mark.parametrize("factor", [1e-15, 1.0, 1e15])
def test_directions_lead_downhill_at_any_scale(factor, compact, rng):
    """``H`` is positive definite though pairs are nearly orthogonal, and nothing is scaled."""
    moves, changes = rng.normal(size=(2, 40, *SHAPE)).astype(np.float32)
    changes = changes * factor
    size = np.linalg.norm
    for memory in remembered("bfloat16", moves * factor, changes, compact):
        for gradient in np.float32(rng.normal(size=(2, *SHAPE))):
            found = np.asarray(through(memory, gradient), float)
            assert np.vdot(found, gradient) > 1e-6 * size(found) * size(gradient)
    assert MEMORY < memory.kept < 40  # half of them are passed over


@pytest.mark.parametrize("line_search", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_compiled_run_has_room_for_one_ring_only(dtype, line_search):
    """Written in place, read picture by picture: CPUs widen whole rings of true bfloat16."""
    minimizer = Lbfgs(memory=40, line_search=line_search, memory_dtype=dtype)
    z = jax.ShapeDtypeStruct((48, 64, 3), jnp.float32)
    picture = z.size * 4

    def fun(z, target):
        return jnp.sum(jnp.square(z - target)), ()

    def steps(state, target):
        def body(state, _):
            going = state.status == Status.RUNNING
            new = jax.lax.cond(going, lambda s: minimizer.step(fun, s, target), lambda s: s, state)
            return new, None

        return jax.lax.scan(body, state, length=5)[0]

    state = jax.eval_shape(lambda z: minimizer.init(fun, z, z), z)
    compiled = jax.jit(steps, donate_argnums=0).lower(state, z).compile()
    planned = compiled.memory_analysis()
    rings = 2 * 40 * picture // (2 if dtype == "bfloat16" else 1)
    rest = (2 if line_search else 3) * picture
    assert rings + rest <= planned.alias_size_in_bytes <= rings + rest + 1000
    assert planned.temp_size_in_bytes < 10 * picture
    assert ("f32[40,48,64,3]" in compiled.as_text()) == (dtype == "float32")


def test_derivatives_through_bits_are_refused():
    """Zero would be wrong."""

    def end(dtype, parameter):
        minimizer = Lbfgs(memory=2, line_search=False, memory_dtype=dtype)

        def fun(z):
            return jnp.sum(jnp.square(z - parameter)), ()

        state = minimizer.init(fun, jnp.arange(3.0))
        for _ in range(3):
            state = minimizer.step(fun, state)
        return jnp.sum(state.z)

    jax.eval_shape(jax.grad(partial(end, "float32")), 0.5)
    with pytest.raises(ValueError, match=r"no derivatives .* memory_dtype='bfloat16'; take"):
        jax.eval_shape(jax.grad(partial(end, "bfloat16")), 0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"memory": 0}, "memory is 0; it must be at least 1"),
        ({"stretch": 0.5}, "stretch is 0.5; it must be at least 1"),
        ({"stretch": np.nan}, "stretch is nan; it must be at least 1"),
        ({"memory_dtype": "float16"}, "memory_dtype is 'float16'; choose 'float32', 'bfloat16' or"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ValueError, match=words):
        Lbfgs(**settings)
