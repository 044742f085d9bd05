"""The whole way from a photo and paintings to a picture, on a tiny random network."""

import dataclasses
import itertools
import math
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import wait
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stylejax import (
    Adam,
    Architecture,
    Config,
    JaxoptLbfgs,
    JaxoptLbfgsb,
    Lbfgs,
    LossWeights,
    Status,
    evaluate,
    images,
    iterate,
    layers,
    make_targets,
    random_params,
    scale,
    stylize,
)
from stylejax.canvas import FREQUENCIES, PIXELS
from stylejax.compilation import compiling

TINY = Architecture((1, 2, 1), (4, 6, 8))
LAYERS = {"content_layers": ("relu2_2",), "style_layers": ("relu1_1", "relu2_1", "relu3_1")}
CONFIG = Config(**LAYERS, steps=5, scales=1)
TWO_SCALES = dataclasses.replace(CONFIG, coarse_steps=3, scales=2)
WEIGHTS = LossWeights(content=1.0, style=5.0, tv=0.1)


@pytest.fixture(autouse=True)
def quickly(quick_compilation):
    """Compiling takes longer than running here."""


@pytest.fixture(scope="module")
def params():
    return random_params(jax.random.key(3), TINY)


def picture(seed, height, width):
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


CONTENT, STYLE, OTHER = picture(1, 20, 27), picture(2, 24, 18), picture(3, 24, 18)


def run(params, config=CONFIG, loss_weights=WEIGHTS, **more):
    return stylize(params, CONTENT, [STYLE], config=config, loss_weights=loss_weights, **more)


def test_the_network_at_hand_is_a_copy(params):
    """What a caller does to the arrays later is nothing to a run, wherever they lie in memory."""

    def aligned(x):  # as JAX likes it, which then may do without a copy
        room = np.zeros(x.size + 16, np.float32)
        start = -room.ctypes.data % 64 // 4
        room = room[start : start + x.size].reshape(x.shape)
        room[...] = x
        return room

    own = jax.tree.map(aligned, params)
    there = scale.at_hand(own)
    for array in jax.tree.leaves(own):
        array[...] = 7
    jax.tree.map(np.testing.assert_array_equal, there, params)


def all_finite(tree):
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


@jax.jit
def judged(image, params):
    """The objective of a picture."""
    targets = make_targets(params, CONTENT, [STYLE], WEIGHTS, CONFIG)
    return evaluate(image, params, targets, WEIGHTS, CONFIG)[0]


# L-BFGS whose pairs take half the room.
NARROW = Lbfgs(memory_dtype="bfloat16")


@pytest.mark.parametrize(
    "optimizer",
    [
        Lbfgs(),
        NARROW,
        Adam(),
        Adam(average=0.9),
        pytest.param(JaxoptLbfgs(), marks=pytest.mark.long),
        JaxoptLbfgsb(),
    ],
    ids=str,
)
def test_lowers_the_objective_and_reports_it(params, optimizer):
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    result = run(params, config)
    assert result.image.shape == CONTENT.shape and result.image.dtype == jnp.float32
    assert int(result.status) == Status.RUNNING and all_finite(result)
    assert np.all(result.history[0].taken) and len(result.history[0].taken) == 5
    assert int(result.evaluations) == int(result.history[0].evaluations[-1])
    last = result.history[-1].terms
    parts = sum(last.content.values()) + sum(last.style.values()) + last.tv
    np.testing.assert_allclose(last.total, parts, rtol=1e-5)
    before, after = (judged(image, params) for image in (CONTENT, result.image))
    assert after < before
    if not (isinstance(optimizer, Adam) and optimizer.average):
        # The picture is the one whose terms the history reports (the average's are not computed).
        np.testing.assert_allclose(after, np.min(last.total), rtol=1e-4)


@pytest.mark.long
def test_narrow_pairs_are_the_same_in_every_way_to_run(params):
    """``stylize`` alone, in a batch, and ``iterate``, whose state's buffers are used again."""
    config = dataclasses.replace(CONFIG, optimizer=NARROW, steps=4)
    whole = run(params, config)
    *_, last = iterate(params, CONTENT, [STYLE], config=config, loss_weights=WEIGHTS, every=2)
    np.testing.assert_allclose(last.image, whole.image, atol=1e-4)
    batch = jax.vmap(lambda w: run(params, config, WEIGHTS._replace(style=w)).image)
    images = batch(jnp.array([5.0, WEIGHTS.style]))
    np.testing.assert_allclose(images[1], whole.image, atol=1e-3)
    wide = run(params, dataclasses.replace(config, optimizer=Lbfgs()))
    assert 1e-6 < np.abs(wide.image - whole.image).max() < 0.1


def test_a_canvas_moves_no_minimum(params):
    """Both roads lead to the same loss in the limit; of a sum of squares it is one."""
    weights, losses = LossWeights(content=1.0, style=0.0, tv=1.0), []
    squares = dataclasses.replace(CONFIG, content_layers=("conv1_1",), steps=300)
    for canvas in (PIXELS, FREQUENCIES):
        config = dataclasses.replace(squares, canvas=canvas)
        losses.append(run(params, config, weights).history[0].terms.total[-1])
    np.testing.assert_allclose(*losses, rtol=1e-3)


# The pyramid of K. Crowson's style-transfer-pytorch, in small.
CARRYING = dataclasses.replace(
    CONFIG,
    optimizer=Adam(learning_rate=0.05, eps=1e-8, average=0.9, clamp=True),
    carry=True,
    scales=None,
    scale_sizes=(12, 19),
    steps_per_scale=(6, 4, 3),
)


def test_carried_moments_are_the_same_in_every_way_to_run(params):
    """``stylize`` alone, jitted, in a batch, and ``iterate``, chunk by chunk."""
    config = dataclasses.replace(CARRYING, scale_sizes=(14,), steps_per_scale=(5, 3))
    whole = run(params, config)
    assert [len(h.taken) for h in whole.history] == [5, 3]
    assert whole.image.min() >= 0 and whole.image.max() <= 1
    *_, last = iterate(params, CONTENT, [STYLE], config=config, loss_weights=WEIGHTS, every=2)
    np.testing.assert_allclose(last.image, whole.image, atol=1e-5)
    assert last.evaluations == int(whole.evaluations) == 5 + 3 + 2
    batch = jax.jit(jax.vmap(lambda w: run(params, config, WEIGHTS._replace(style=w)).image))
    images = batch(jnp.array([1.0, 5.0]))
    np.testing.assert_allclose(images[1], whole.image, atol=1e-3)
    anew = run(params, dataclasses.replace(config, carry=False))
    assert np.abs(anew.image - whole.image).max() > 0.01
    # The first scale knows of nothing that was before it.
    np.testing.assert_allclose(anew.history[0].terms.total, whole.history[0].terms.total, rtol=1e-5)


def test_carrying_by_hand(params):
    """Scale by scale through the minimizer itself: each goes on from the average's picture."""
    optimizer, picture, before = CARRYING.optimizer, jnp.asarray(CONTENT), None

    def fun(z, targets):
        return evaluate(z, params, targets, WEIGHTS, CARRYING)

    sizes = CARRYING.sizes(*CONTENT.shape[:2])
    assert sizes == ((9, 12), (14, 19), (20, 27))

    @partial(jax.jit, static_argnames="size")
    def begun(picture, before, size):
        content = images.resize(CONTENT, *size)
        style = images.resize(STYLE, *scale.style_size(STYLE.shape, size, CARRYING))
        targets = make_targets(params, content, [style], WEIGHTS, CARRYING)
        state = optimizer.init(fun, images.resize(picture, *size), targets)
        return state if before is None else optimizer.carry(before, state), targets

    step = jax.jit(lambda state, targets: optimizer.step(fun, state, targets))
    for size, steps in zip(sizes, (6, 4, 3), strict=True):
        state, targets = begun(picture, before, size)
        for _ in range(1 + steps):
            state = step(state, targets)
        picture, before = state.best, state
    assert before.engine.moments[0].count == 6 + 4 + 3
    np.testing.assert_allclose(run(params, CARRYING).image, picture, atol=1e-4)


CARRIED = []


@dataclasses.dataclass(frozen=True)
class Counting(Adam):
    """Notes every time that it is traced."""

    def carry(self, before, after):
        CARRIED.append(after.z.shape)
        return super().carry(before, after)


def test_carrying_compiles_each_scale_once(params):
    """In the thread that runs ahead, from shapes alone: the loop's calls find the programs."""
    programs = (scale.prepare, scale.advance, scale.picture)
    for program in programs:
        program.clear_cache()
    CARRIED.clear()
    config = dataclasses.replace(CARRYING, optimizer=Counting(), noise=0.1)
    for _ in range(2):
        list(iterate(params, CONTENT, [STYLE], config=config, loss_weights=WEIGHTS, every=2))
    assert CARRIED == [(14, 19, 3), (20, 27, 3)]
    assert [program._cache_size() for program in programs] == [3] * len(programs)
    given = (params, CONTENT, (STYLE,), None, WEIGHTS, jax.random.key(0), None)
    sizes = config.sizes(20, 27)
    own = scale.programs_of(sizes, config)
    begun = threading.Event()
    named = {"programs": own, "sizes": sizes, "length": 2, "config": config, "begun": begun}
    with compiling(*given, **named) as compiled:
        assert compiled[0].result().z.shape[:2] == sizes[0]
        # The first picture has all cores for itself.
        done, waiting = wait(compiled, timeout=0.2)
        assert (len(done), len(waiting)) == (1, len(sizes) - 1)
        begun.set()
        assert [future.result().z.shape[:2] for future in compiled] == [*sizes]


def test_each_painting_has_its_scale(params):
    """The same painting twice at two scales blends the targets of both."""
    config = dataclasses.replace(CONFIG, style_scale=(0.9, 0.5))
    sizes = [scale.style_size(STYLE.shape, (20, 27), config, number=n) for n in (0, 1)]
    assert sizes == [(24, 18), (14, 10)]
    painted = [images.resize(STYLE, *size) for size in sizes]
    weights = WEIGHTS._replace(styles=(1.0, 3.0))
    expected = make_targets(params, CONTENT, painted, weights, CONFIG)
    arguments = (params, CONTENT, (STYLE, STYLE), None, weights, jax.random.key(0))
    _, targets = scale.prepare(*arguments, size=(20, 27), config=config)
    for layer, target in expected.style.items():
        for mine, its in zip(*map(jax.tree.leaves, (targets.style[layer], target)), strict=True):
            np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-3)
    one = run(params, dataclasses.replace(CONFIG, style_scale=0.5)).image
    same = run(params, dataclasses.replace(CONFIG, style_scale=(0.5,))).image
    np.testing.assert_array_equal(one, same)


def test_full_steps_lower_the_objective(params):
    """One evaluation per step; the picture is that of the lowest one."""
    config = dataclasses.replace(CONFIG, optimizer=Lbfgs(line_search=False), canvas=PIXELS, steps=9)
    result = run(params, config)
    total = result.history[0].terms.total
    assert int(result.status) == Status.RUNNING and int(result.evaluations) == 1 + 9
    targets = make_targets(params, CONTENT, [STYLE], WEIGHTS, config)
    before, _ = evaluate(CONTENT, params, targets, WEIGHTS, config)
    value, _ = evaluate(result.image, params, targets, WEIGHTS, config)
    assert value < 0.8 * before
    np.testing.assert_allclose(value, total.min(), rtol=1e-4)


def test_box_bounds_hold(params):
    config = dataclasses.replace(CONFIG, optimizer=JaxoptLbfgsb())
    image = run(params, config, LossWeights(content=0.0, style=100.0)).image
    assert image.min() >= 0 and image.max() <= 1
    assert np.any((image == 0) | (image == 1)), "the bounds never mattered: no test of them"


def test_jit_with_static_config(params):
    jitted = jax.jit(stylize, static_argnames="config")
    result = jitted(params, CONTENT, [STYLE], config=CONFIG, loss_weights=WEIGHTS)
    np.testing.assert_allclose(result.image, run(params).image, atol=1e-4)


def test_one_compiled_step_per_scale(params):
    """Neither other weights, nor other pictures of the same sizes, nor more chunks trace again."""
    programs = (scale.prepare, scale.advance, scale.picture)
    for program in programs:
        program.clear_cache()
    for weight in (1.0, 2.0):
        weights = WEIGHTS._replace(style=weight)
        for content, style in ((CONTENT, STYLE), (CONTENT[::-1], OTHER)):
            more = {"config": TWO_SCALES, "loss_weights": weights, "every": 2}
            list(iterate(params, content, [style], **more))
    scales = 2
    assert [program._cache_size() for program in programs] == [scales] * len(programs)


@pytest.mark.parametrize("optimizer", [Lbfgs(), Adam()], ids=["lbfgs", "adam"])
def test_the_objective_is_differentiated_at_one_place_of_a_scale(params, optimizer):
    """Every such place takes seconds to compile; the gradient of a pooling layer shows them."""
    places = []

    @jax.custom_vjp
    def pool(x):
        return layers.average_pool(x)

    def backward(shape, cotangent):
        places.append(shape)
        return jax.vjp(layers.average_pool, jnp.zeros(shape, cotangent.dtype))[1](cotangent)

    pool.defvjp(lambda x: (layers.average_pool(x), x.shape), backward)
    config = dataclasses.replace(CONFIG, optimizer=optimizer, pool=pool)
    list(iterate(params, CONTENT, [STYLE], config=config, every=2))
    assert len(places) == len(set(places)) == 2  # the tiny network's pooling layers


def test_a_scale_that_is_over_holds_no_memory(params):
    """Whoever keeps a ``Progress``; but the last one's place is still there to be saved."""
    given = {"config": TWO_SCALES, "loss_weights": WEIGHTS, "every": 5}
    ends = [one.place.state for one in iterate(params, CONTENT, [STYLE], **given) if one.step]
    deleted = [[leaf.is_deleted() for leaf in jax.tree.leaves(state)] for state in ends]
    assert len(ends) == 2 and all(deleted[0]) and not any(deleted[1])


def test_iterate_and_stylize_give_the_same_picture(params):
    whole = run(params, TWO_SCALES)
    assert [len(h.taken) for h in whole.history] == [3, 5]
    assert int(whole.evaluations) == sum(int(h.evaluations[-1]) for h in whole.history)
    chunks = list(
        iterate(params, CONTENT, [STYLE], config=TWO_SCALES, loss_weights=WEIGHTS, every=2)
    )
    np.testing.assert_allclose(chunks[-1].image, whole.image, atol=1e-5)
    assert chunks[-1].evaluations == int(whole.evaluations)
    for number, history in enumerate(whole.history):
        parts = [c for c in chunks if c.scale == number]
        assert [p.step for p in parts] == [*range(0, parts[0].steps, 2), parts[0].steps]
        total = np.concatenate([c.history.terms.total for c in parts[1:]])
        np.testing.assert_allclose(total, history.terms.total, rtol=1e-4)
        assert [c.terms.total for c in parts] == [c.history.terms.total[-1] for c in parts]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]),
        (0.5, [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]),
        (2.0, [[0, 1, 3], [0, 1, 3, 5]]),
    ],
)
def test_iterate_hands_over_as_soon_as_a_person_wants(params, seconds, expected, monkeypatch):
    """By a clock on which every stretch takes a second; the picture is the same to the bit."""
    given = dict(config=TWO_SCALES, loss_weights=WEIGHTS, every=4)
    *_, plain = iterate(params, CONTENT, [STYLE], **given)
    ticks = itertools.count()
    monkeypatch.setattr(scale, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    chunks = list(iterate(params, CONTENT, [STYLE], **given, seconds=seconds))
    assert [[c.step for c in chunks if c.scale == n] for n in range(2)] == expected
    np.testing.assert_array_equal(chunks[-1].image, plain.image)
    assert chunks[-1].evaluations == plain.evaluations


@pytest.mark.parametrize("seconds", [-1.0, math.nan])
def test_iterate_refuses_less_than_no_time(params, seconds):
    with pytest.raises(ValueError, match="seconds is"):
        iterate(params, CONTENT, [STYLE], config=CONFIG, seconds=seconds)


def test_iterate_refuses_a_clock_of_its_own_in_each_process(params, monkeypatch):
    mesh = jax.make_mesh((1,), ("rows",), devices=jax.devices()[:1])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    config = dataclasses.replace(CONFIG, mesh=mesh)
    with pytest.raises(ValueError, match=r"seconds is 2\.0 and 2 processes share the run"):
        iterate(params, CONTENT, [STYLE], config=config, seconds=2.0)


def test_iterate_may_be_left_early_and_its_images_stay_valid(params):
    images = []
    for progress in iterate(params, CONTENT, [STYLE], config=TWO_SCALES, every=2):
        images.append((progress.image, progress.image.copy()))
        if len(images) == 3:
            break
    assert len({held.tobytes() for held, _ in images}) == 3
    for held, copy in images:
        np.testing.assert_array_equal(held, copy)


def test_vmap_over_styles(params):
    styles = np.stack([STYLE, OTHER])
    batch = jax.vmap(
        lambda style: stylize(params, CONTENT, [style], config=CONFIG, loss_weights=WEIGHTS)
    )(styles)
    for index, style in enumerate(styles):
        single = stylize(params, CONTENT, [style], config=CONFIG, loss_weights=WEIGHTS)
        np.testing.assert_allclose(batch.image[index], single.image, atol=1e-3)
        assert batch.evaluations[index] == single.evaluations


@pytest.mark.long
def test_vmap_over_keys(params):
    config = dataclasses.replace(CONFIG, noise=1.0)
    keys = jax.random.split(jax.random.key(7), 3)
    batch = jax.vmap(lambda key: run(params, config, key=key).image)(keys)
    for index, key in enumerate(keys):
        np.testing.assert_allclose(batch[index], run(params, config, key=key).image, atol=1e-3)
    assert np.abs(batch[0] - batch[1]).max() > 0.1


def test_vmap_over_loss_weights(params):
    batch = LossWeights(content=jnp.array([1.0, 0.1]), style=jnp.array([1.0, 5.0]), tv=jnp.zeros(2))
    images = jax.vmap(lambda w: run(params, loss_weights=w).image)(batch)
    for index in range(2):
        single = jax.tree.map(lambda a, i=index: a[i], batch)
        np.testing.assert_allclose(images[index], run(params, loss_weights=single).image, atol=1e-3)


@pytest.mark.parametrize("optimizer", [Lbfgs(), Adam()], ids=str)
def test_under_vmap_no_picture_has_kernels_of_its_own(params, optimizer):
    """Each with a group of its own, convolutions would take several times as long."""
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    weights = np.array([1.0, 5.0, 25.0], np.float32)

    def render(style, params):
        return run(params, config, LossWeights(content=1.0, style=style))

    text = jax.jit(jax.vmap(render, in_axes=(0, None))).lower(weights, params).as_text()
    groups = [int(n) for n in re.findall(r"feature_group_count = (\d+)", text)]
    assert groups and set(groups) == {1}


def test_pictures_under_vmap_end_each_at_its_time(params):
    """One that has nothing left to gain keeps its state while the others go on."""
    # In pixels the start is the photo to the last bit; frequencies bring it back but for rounding.
    config = dataclasses.replace(CONFIG, steps=12, canvas=PIXELS)

    def render(weights):
        return run(params, config, weights)

    still = LossWeights(content=1.0, style=0.0, tv=0.0)  # the start is the photo
    moving = LossWeights(content=1.0, style=1e3, tv=0.1)
    both = jax.tree.map(
        lambda *w: jnp.stack([jnp.asarray(x, jnp.float32) for x in w]), still, moving
    )
    results = jax.vmap(render)(both)
    assert not np.all(results.history[-1].taken[0]) and np.all(results.history[-1].taken[1])
    alone = render(still)
    np.testing.assert_array_equal(results.evaluations[0], alone.evaluations)
    np.testing.assert_array_equal(results.status[0], alone.status)
    np.testing.assert_allclose(results.image[0], alone.image, atol=1e-6)


GRADIENT = """
import jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, numpy as np
from test_transfer import *
params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), random_params(jax.random.key(1), TINY))
content, style, other = (jnp.asarray(a, jnp.float64) for a in (CONTENT, STYLE, OTHER))
config = dataclasses.replace(CONFIG, optimizer=Adam(), scales=2, steps=5, coarse_steps=3)

def final(weight, share):
    weights = LossWeights(content=1.0, style=weight, tv=0.1, styles=jnp.array([share, 1.0]))
    result = stylize(params, content, [style, other], config=config, loss_weights=weights)
    return result.history[-1].terms.total[-1]

final = jax.jit(final)
at = (jnp.array(5.0), jnp.array(0.7))
gradient = jax.jit(jax.grad(final, argnums=(0, 1)))(*at)
assert gradient[0].dtype == jnp.float64
# Central differences: error ~ step^2 from the third derivative and 1e-16/step from rounding.
step = 1e-5
numeric = (
    (final(at[0] + step, at[1]) - final(at[0] - step, at[1])) / (2 * step),
    (final(at[0], at[1] + step) - final(at[0], at[1] - step)) / (2 * step),
)
for exact, estimate in zip(gradient, numeric):
    assert abs(estimate) > 1e-6, estimate
    np.testing.assert_allclose(exact, estimate, rtol=1e-6)
"""


def test_grad_through_adam_matches_finite_differences_in_float64():
    """In a process of its own, because float64 is a switch of the whole of JAX."""
    tests = os.path.dirname(__file__)
    env = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    subprocess.run([sys.executable, "-c", GRADIENT], cwd=tests, env=env, check=True, timeout=300)


@pytest.mark.parametrize("optimizer", [Lbfgs(), NARROW, Adam()], ids=["lbfgs", "narrow", "adam"])
def test_exports_for_cpu_cuda_and_tpu(params, optimizer):
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    fun = jax.jit(
        lambda params, content, style: stylize(params, content, [style], config=config).image
    )
    shapes = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (params, CONTENT, STYLE)
    )
    exported = jax.export.export(fun, platforms=("cpu", "cuda", "tpu"))(*shapes)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert exported.out_avals[0].shape == CONTENT.shape
    if isinstance(optimizer, Adam):  # one is enough: calling compiles once more
        image = exported.call(params, CONTENT, STYLE)
        np.testing.assert_allclose(image, run(params, config, None).image, atol=1e-4)


def test_same_key_same_picture_other_key_other_picture(params):
    config = dataclasses.replace(CONFIG, noise=0.5)
    one, same = (run(params, config, key=jax.random.key(3)).image for _ in range(2))
    np.testing.assert_array_equal(one, same)
    other = run(params, config, key=jax.random.key(4)).image
    assert np.abs(one - other).max() > 0.05


def test_a_tile_has_no_seam(params):
    """Style alone, from noise, from scale to scale: the last and the first line are neighbours."""
    config = dataclasses.replace(
        TWO_SCALES, content_layers=(), padding="circular", noise=1.0, steps=10, coarse_steps=10
    )
    weights = LossWeights(style=5.0, tv=2.0)  # smooth, so that a seam would stand out
    blank, ratios = np.zeros((32, 48, 3), np.float32), {}
    for padding in ("circular", "replicate-all"):
        settings = dataclasses.replace(config, padding=padding)
        result = stylize(params, blank, [STYLE], config=settings, loss_weights=weights)
        assert result.image.shape == blank.shape and result.history[-1].terms.content == {}
        rows = np.abs(np.roll(result.image, -1, 0) - result.image).mean(axis=(1, 2))
        columns = np.abs(np.roll(result.image, -1, 1) - result.image).mean(axis=(0, 2))
        ratios[padding] = rows[-1] / rows[:-1].mean(), columns[-1] / columns[:-1].mean()
    # Of four seeds 1.0 and 1.1, with deviations of 0.1, and 5 without a tile.
    assert max(ratios["circular"]) < 1.5
    assert min(ratios["replicate-all"]) > 3


def test_content_alone_needs_no_painting(params):
    config = dataclasses.replace(CONFIG, style_layers=(), noise=1.0)
    result = stylize(params, CONTENT, [], config=config, loss_weights=WEIGHTS)
    assert result.history[-1].terms.style == {}
    assert result.history[-1].terms.total[-1] < 0.7 * result.history[-1].terms.total[0]


def test_starts(params):
    key, resting = jax.random.key(5), LossWeights(content=0.0, style=0.0, tv=0.0)
    config = dataclasses.replace(CONFIG, steps=1, canvas=PIXELS)  # exactly

    def start(noise, init=None):
        return run(params, dataclasses.replace(config, noise=noise), resting, key=key, init=init)

    np.testing.assert_array_equal(start(0.0).image, CONTENT)
    noise, mix = start(1.0).image, start(0.25).image
    assert 0.4 < noise.mean() < 0.6 and noise.std() > 0.25
    np.testing.assert_allclose(mix, 0.75 * CONTENT + 0.25 * noise, atol=1e-6)
    same_size = picture(9, *CONTENT.shape[:2])
    np.testing.assert_array_equal(start(1.0, init=same_size).image, same_size)
    assert start(1.0, init=picture(9, 40, 50)).image.shape == CONTENT.shape


def test_a_style_is_never_enlarged_and_never_too_small():
    config = dataclasses.replace(CONFIG, style_scale=2.0)
    assert scale.style_size((30, 60, 3), (100, 50), config) == (30, 60)
    assert scale.style_size((300, 600, 3), (100, 50), config) == (100, 200)
    # relu3_1 needs 4 pixels: the short side of a long painting stays there.
    assert scale.style_size((10, 600, 3), (20, 10), CONFIG) == (4, 240)


def test_blend_lies_between_its_styles(params):
    def blend(first, second):
        weights = WEIGHTS._replace(styles=(first, second))
        styles = [STYLE, OTHER]
        return stylize(params, CONTENT, styles, config=CONFIG, loss_weights=weights).image

    np.testing.assert_allclose(blend(1.0, 0.0), run(params, CONFIG).image, atol=1e-4)
    np.testing.assert_allclose(blend(1.0, 3.0), blend(2.0, 6.0), atol=1e-3)
    assert np.abs(blend(1.0, 0.0) - blend(0.0, 1.0)).max() > 0.01


@pytest.mark.parametrize("optimizer", [Lbfgs(), Adam(), JaxoptLbfgs(), JaxoptLbfgsb()], ids=str)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0], ids=["black", "flat", "saturated"])
def test_flat_images_stay_finite(params, level, optimizer):
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    flat = np.full_like(CONTENT, level)
    for content, style in ((flat, STYLE), (CONTENT, np.full_like(STYLE, level)), (flat, flat)):
        result = stylize(params, content, [style], config=config, loss_weights=WEIGHTS)
        assert all_finite(result)
        assert int(result.status) != Status.NON_FINITE


@pytest.mark.parametrize("optimizer", [Lbfgs(), Adam(), JaxoptLbfgs(), JaxoptLbfgsb()], ids=str)
def test_broken_network_ends_with_the_start_image_and_says_so(params, optimizer):
    broken = {**params, "conv2_1": jax.tree.map(lambda a: a * np.nan, params["conv2_1"])}
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    result = run(broken, config)
    assert Status(int(result.status)) == Status.NON_FINITE
    np.testing.assert_allclose(result.image, CONTENT, atol=1e-5)  # the canvas' rounding
    assert not np.any(result.history[0].taken)


def test_a_photo_in_its_own_style_stays_as_it_is(params):
    """All that is left is the rounding of two network passes, which no line search can lower."""
    weights = LossWeights(content=1.0, style=1.0, tv=0.0)
    config = dataclasses.replace(CONFIG, canvas=PIXELS)  # which adds no rounding of its own
    result = stylize(params, CONTENT, [CONTENT], config=config, loss_weights=weights)
    np.testing.assert_allclose(result.image, CONTENT, atol=1e-6)
    assert result.history[0].terms.total[-1] < 1e-10
    assert int(result.status) in (Status.CONVERGED, Status.STALLED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": CONTENT[:, :3]}, r"content is 3x20 pixels; relu3_1 needs at least 4x4"),
        ({"content": (CONTENT * 255).astype(np.uint8)}, r"uint8; give floats in \[0, 1\]"),
        ({"content": CONTENT * 255}, r"content ranges over .*; give sRGB in \[0, 1\]"),
        ({"content": CONTENT[None]}, r"content must be an array \[height, width, 3\]"),
        ({"content": CONTENT * np.nan}, "content has values that are NaN"),
        ({"styles": []}, "one or more images"),
        ({"styles": STYLE}, "one or more images"),
        ({"styles": [STYLE, STYLE[..., :1]]}, r"styles\[1\] must be"),
        ({"config": dataclasses.replace(CONFIG, style_layers=("relu9_1",))}, "unknown layer"),
        ({"config": dataclasses.replace(CONFIG, scales=9)}, "take at most 6"),
        (
            {"config": dataclasses.replace(CARRYING, steps_per_scale=(1, 2))},
            "steps_per_scale has 2 numbers for 3 scales, 12, 19, 27 pixels; give one each",
        ),
        (
            {"config": dataclasses.replace(CARRYING, scale_sizes=(12, 28))},
            "scale_sizes ends with 28, but the picture is 27x20; its own size is the largest",
        ),
        (
            {"config": dataclasses.replace(CARRYING, scale_sizes=(4, 12))},
            "scale_sizes starts with 4, a picture of 4x3; relu3_1 needs at least 4x4",
        ),
        (
            {"config": dataclasses.replace(CONFIG, style_scale=(1.0, 0.5))},
            "style_scale has 2 numbers for 1 styles; give one, or one each",
        ),
        (
            {"config": dataclasses.replace(CONFIG, padding="circular")},
            "content is 27x20 .* relu3_1 both are multiples of 4: take 28x20",
        ),
        ({"loss_weights": LossWeights(styles=(1.0, 2.0))}, "2 numbers for 1 styles"),
        ({"loss_weights": LossWeights(content=-1.0)}, "not negative"),
        ({"loss_weights": LossWeights(style=float("nan"))}, "finite"),
        ({"loss_weights": LossWeights(style_layers={"relu1_1": 1.0})}, "style_layers names"),
        ({"init": CONTENT[0]}, "init must be"),
        ({"params": {"conv1_1": {}}}, "do not form a VGG"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_wrong_arguments_are_named_before_anything_compiles(params, change, message):
    arguments = {"params": params, "content": CONTENT, "styles": [STYLE], "config": CONFIG} | change
    for function in (stylize, iterate):
        with pytest.raises(ValueError, match=message):
            function(**arguments)
