"""Optimizers on convolutions as a TPU computes them at ``precision="default"``.

There what goes into a product is rounded to bfloat16, eight bits of which are all it keeps, and
sums are float32. Here that is put into the one place where features are convolved, forwards and
backwards; everything else is as it is. Values are then noisy by about 1e-3, and gradients do not
quite belong to them, which is what a line search might not survive.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from stylejax import (
    Adam,
    Architecture,
    Config,
    Lbfgs,
    LossWeights,
    Status,
    evaluate,
    images,
    layers,
    make_targets,
    random_params,
    stylize,
    vgg,
    winograd,
)
from stylejax.optimizers import BFLOAT16_NOISE

WEIGHTS = LossWeights(content=1.0, style=20.0, tv=0.5)
LARGE = (Lbfgs(noise=BFLOAT16_NOISE), Adam())


def rounded(x):
    """To bfloat16's numbers. A cast there and back the compiler takes for nothing."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


@pytest.fixture
def on_a_tpu(monkeypatch):
    """Convolutions of rounded numbers until it is called; then float32 ones again."""
    direct = layers._within

    def switch(on):
        def within(x, kernel, **how):
            return direct(rounded(x), rounded(kernel), **how)

        monkeypatch.setattr(layers, "_within", within if on else direct)
        jax.clear_caches()  # programs do not know that the function has changed

    # A TPU does without Winograd's filtering.
    monkeypatch.setattr(winograd, "wide", lambda channels, outputs: False)
    yield switch
    monkeypatch.undo()
    jax.clear_caches()


def run(switch, rounding, params, content, style, config):
    """A run, with rounded convolutions or without, and the true loss of its picture."""
    switch(rounding)
    result = stylize(params, content, [style], config=config, loss_weights=WEIGHTS)
    switch(False)
    return result, true_loss(result, params, content, style, config)


def true_loss(result, params, content, style, config):
    """Of a picture, in float32."""
    targets = make_targets(params, content, [style], WEIGHTS, config)
    return float(evaluate(result.image, params, targets, WEIGHTS, config)[0])


def test_the_double_rounds_forwards_and_backwards(on_a_tpu, quick_compilation):
    """Against NumPy's sums of numbers rounded by another library's bfloat16."""
    import ml_dtypes

    noise = np.random.default_rng(0)
    x, weight = noise.normal(size=(4, 5, 2)), noise.normal(size=(3, 3, 2, 3))
    pull = noise.normal(size=(4, 5, 3))
    x, weight, pull = (a.astype(np.float32) for a in (x, weight, pull))

    def convolved(x, weight):
        x, weight = (a.astype(ml_dtypes.bfloat16).astype(np.float64) for a in (x, weight))
        framed = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        out = np.zeros((*x.shape[:2], weight.shape[3]))
        for i in range(3):
            for j in range(3):
                out += framed[i : i + 4, j : j + 5] @ weight[i, j]
        return out

    on_a_tpu(True)
    out, back = jax.jit(lambda x: jax.vjp(lambda x: layers.convolve(x, weight), x))(x)
    assert_allclose(out, convolved(x, weight), rtol=1e-5, atol=1e-5)
    (gradient,) = back(pull)
    turned = weight[::-1, ::-1].transpose(0, 1, 3, 2)
    assert_allclose(gradient, convolved(pull, turned), rtol=1e-5, atol=1e-5)
    assert np.abs(convolved(x, weight) - np.asarray(layers.convolve(x, weight))).max() < 1e-4
    on_a_tpu(False)
    assert np.abs(convolved(x, weight) - np.asarray(layers.convolve(x, weight))).max() > 1e-3


def tiny_run(switch, rounding, optimizer, steps):
    params = random_params(jax.random.key(1), Architecture((1, 2, 1), (4, 6, 8)))
    noise = np.random.default_rng(1)
    content, style = (noise.random((24, 28, 3), np.float32) for _ in range(2))
    config = Config(
        content_layers=("relu2_2",),
        style_layers=("relu1_1", "relu2_1", "relu3_1"),
        scales=1,
        steps=steps,
        optimizer=optimizer,
    )
    return run(switch, rounding, params, content, style, config)


def running(result):
    return Status(int(result.status)) == Status.RUNNING


def taken(result):
    return int(np.sum(result.history[0].taken))


@pytest.mark.long
def test_adam_ends_as_low(on_a_tpu, quick_compilation):
    right, exact = tiny_run(on_a_tpu, False, Adam(), 100)
    rough, noisy = tiny_run(on_a_tpu, True, Adam(), 100)
    assert running(right) and running(rough)
    assert noisy < 1.02 * exact
    assert exact < 0.5 * float(right.history[0].terms.total[0])  # there was something to do


@pytest.mark.long
def test_a_line_search_that_knows_of_the_noise_goes_on(on_a_tpu, quick_compilation):
    """Where one that does not ends the run, a sixth above what is reached in float32.

    Six pairs of such pictures after 400 steps: float32 0.094 to 0.125, knowing 2 to 14% above it,
    not knowing 10 to 23%, stalled after 148 to 249 steps. docs/decisions.md has more.
    """
    right, exact = tiny_run(on_a_tpu, False, Lbfgs(), 250)
    stalled, reached = tiny_run(on_a_tpu, True, Lbfgs(), 250)
    rough, noisy = tiny_run(on_a_tpu, True, Lbfgs(noise=BFLOAT16_NOISE), 250)
    assert running(right) and running(rough)
    assert Status(int(stalled.status)) == Status.STALLED and taken(stalled) > 100
    assert taken(rough) == 250 and noisy < min(1.06 * exact, reached)
    # It pays for that with a trial here and there, not with long searches.
    assert int(rough.evaluations) < 1.25 * 250


def small(shared, kind, name):
    """An image of the project's, its long side 64 pixels."""
    image = images.load(shared / "images" / kind / f"{name}.jpg").image
    return np.asarray(images.resize(image, *images.fit(*image.shape[:2], 64)))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("optimizer", LARGE, ids=["lbfgs", "adam"])
def test_vgg_19_s_run_ends_as_low(optimizer, on_a_tpu, real_params, shared):
    content, style = small(shared, "content", "golden_gate"), small(shared, "style", "starry_night")
    config = Config(scales=1, steps=100, optimizer=optimizer)
    params = jax.tree.map(jnp.asarray, vgg.up_to(real_params, config.layers))
    _, exact = run(on_a_tpu, False, params, content, style, config)
    rough, noisy = run(on_a_tpu, True, params, content, style, config)
    assert running(rough) and taken(rough) == 100
    assert noisy < 1.02 * exact


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("optimizer", LARGE, ids=["lbfgs", "adam"])
def test_vgg_19_s_runs_end_as_low_on_average(optimizer, on_a_tpu, real_params, shared):
    """On average over eight.

    Of a photo brighter by 1e-6, or compiled otherwise, one run of float32 ends up to 2% elsewhere.
    """
    config = Config(scales=1, steps=100, optimizer=optimizer)
    params = jax.tree.map(jnp.asarray, vgg.up_to(real_params, config.layers))
    photos, paintings = ("golden_gate", "hoover_tower_night"), ("starry_night", "the_scream")
    pairs = [
        (np.float32(small(shared, "content", photo) * brighter), small(shared, "style", painting))
        for photo, painting, brighter in itertools.product(photos, paintings, (1, 1 + 1e-6))
    ]

    def losses(rounding):
        on_a_tpu(rounding)
        found = [
            stylize(params, content, [style], config=config, loss_weights=WEIGHTS)
            for content, style in pairs
        ]
        assert all(running(result) and taken(result) == 100 for result in found)
        on_a_tpu(False)
        both = zip(found, pairs, strict=True)
        return np.array([true_loss(result, params, *pair, config) for result, pair in both])

    ratios = losses(True) / losses(False)
    assert np.mean(ratios) < 1.02, ratios
