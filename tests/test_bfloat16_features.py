"""``Config.precision`` "bfloat16": features of half the memory, sums of float32."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stylejax import (
    DEFAULT_WEIGHTS,
    Adam,
    Config,
    Lbfgs,
    losses,
    memory,
    objective,
    options,
    plan,
    statistics,
    stylize,
    vgg,
)
from stylejax.statistics import moments

pytestmark = pytest.mark.usefixtures("quick_compilation")

NARROW = vgg.Architecture((2, 2, 1), (16, 24, 32))
PARAMS = vgg.random_params(jax.random.key(0), NARROW)
CONFIG = Config(content_layers=("relu2_2",), style_layers=("relu1_1", "relu3_1"), scales=1)
STATISTICS = [
    getattr(statistics, name) for name in statistics.__all__ if name.startswith("RELATIVE_")
]
QUICK = (statistics.RELATIVE_GRAM, statistics.RELATIVE_WASSERSTEIN, statistics.RELATIVE_HISTOGRAM)


def pictures(rng, size=(37, 30)):
    """Smooth ones, so that the gradient is of something."""
    coarse = rng.random((3, size[0] // 4, size[1] // 4, 3), np.float32)
    photo, painting, noise = (jax.image.resize(x, (*size, 3), "cubic") for x in coarse)
    return photo, painting, (photo + noise) / 2


def evaluated(config, photo, painting, image, **weights):
    weights = DEFAULT_WEIGHTS._replace(**weights)

    @jax.jit
    def at(photo, painting, image):
        targets = objective.make_targets(PARAMS, photo, [painting], weights, config)
        return jax.value_and_grad(
            lambda image: objective.evaluate(image, PARAMS, targets, weights, config)[0]
        )(image)

    value, gradient = at(photo, painting, image)
    assert value.dtype == gradient.dtype == jnp.float32
    return float(value), np.asarray(gradient)


def near(found, exact, value=1e-2, angle=0.99):
    assert found[0] == pytest.approx(exact[0], rel=value)
    cosine = np.vdot(found[1], exact[1]) / np.linalg.norm(found[1]) / np.linalg.norm(exact[1])
    assert cosine > angle
    assert found[0] != exact[0]


@pytest.mark.parametrize(
    "changes",
    [
        *(
            pytest.param(
                {"style_statistic": statistic},
                marks=() if statistic in QUICK else pytest.mark.long,
            )
            for statistic in STATISTICS
        ),
        pytest.param({"padding": "zero"}, marks=pytest.mark.long),
        pytest.param({"padding": "circular"}, marks=pytest.mark.long),
        {"strip": 16},
        pytest.param(
            {"strip": 16, "nested": True, "dream_layers": ("relu3_1",)}, marks=pytest.mark.long
        ),
        {"normalise_gradients": True, "optimizer": Adam()},
    ],
    ids=lambda changes: " ".join(
        getattr(value, "name", str(value)) if key == "style_statistic" else key
        for key, value in changes.items()
    ),
)
def test_value_and_gradient_are_nearly_those_of_float32(changes, rng):
    given = pictures(rng, (40, 32))
    exact = replace(CONFIG, **changes)
    dream = {"dream": 0.5} if exact.dream_layers else {}
    found = evaluated(replace(exact, precision="bfloat16"), *given, **dream)
    near(found, evaluated(exact, *given, **dream))


def test_regions(rng):
    from stylejax.guides import Guides

    photo, painting, image = pictures(rng)
    left = np.zeros(photo.shape[:2], np.float32)
    left[:, :13] = 0.8
    masks = np.stack([left, 1 - left], -1)
    guides = Guides(masks, (masks,), 1 - left)

    def total(precision):
        config = replace(CONFIG, precision=precision)

        @jax.jit
        def at(image, photo, painting, guides):
            targets = objective.make_targets(
                PARAMS, photo, [painting], DEFAULT_WEIGHTS, config, masks=guides
            )
            return jax.value_and_grad(
                lambda image: objective.evaluate(image, PARAMS, targets, DEFAULT_WEIGHTS, config)[0]
            )(image)

        value, gradient = at(image, photo, painting, guides)
        return float(value), np.asarray(gradient)

    near(total("bfloat16"), total("highest"))


def test_features_are_narrow_and_what_goes_in_is_not_rounded(rng):
    """An offset of a thousandth of a level is nothing to bfloat16's 0.5, and moves the features."""
    image = pictures(rng)[0]
    seen = vgg.features(PARAMS, image, ("relu1_1", "relu3_1"), precision="bfloat16")
    assert {x.dtype for x in seen.values()} == {jnp.dtype("bfloat16")}
    exact = vgg.features(PARAMS, image, ("relu1_1", "relu3_1"))
    for layer, x in seen.items():
        error = np.linalg.norm(np.asarray(x, np.float32) - exact[layer])
        assert error < 1e-2 * np.linalg.norm(exact[layer])


def test_the_gram_matrix_of_narrow_features_is_exact(rng):
    """Products of bfloat16 numbers are float32's, and their sums rounded there only."""
    features = jnp.asarray(rng.normal(size=(20, 30, 8)), jnp.bfloat16)
    flat = np.asarray(features, np.float64).reshape(-1, 8)
    found = moments.gram(features)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, flat.T @ flat, rtol=1e-5, atol=1e-4)
    counted = jnp.asarray(rng.integers(0, 2, (20, 30)), jnp.float32)
    sums = moments.gram_sums(features, counted)
    weighed = flat * np.asarray(counted).reshape(-1, 1)
    np.testing.assert_allclose(sums.gram, weighed.T @ flat, rtol=1e-5, atol=1e-4)
    assert sums.positions == np.sum(counted) and sums.positions.dtype == jnp.float32


def test_positions_are_counted_beyond_256():
    """bfloat16 has no 257."""
    features = jnp.ones((257, 3, 2), jnp.bfloat16)
    weight = jnp.ones((257, 3))
    for sums in (
        moments.gram_sums(features),
        moments.gram_sums(features, weight),
        moments.moment_sums(features, weight),
        moments.gaussian_sums(features),
    ):
        assert float(sums.positions) == 771
    assert float(moments.moment_sums(features).total[0]) == 771
    assert float(losses.activity(features)) == 1


@pytest.mark.parametrize(
    "optimizer",
    [
        Lbfgs(),
        pytest.param(Lbfgs(line_search=False), marks=pytest.mark.long),
        pytest.param(Adam(), marks=pytest.mark.long),
    ],
    ids=str,
)
def test_runs_reach_the_loss_of_float32(optimizer, rng):
    photo, painting, _ = pictures(rng)
    config = replace(CONFIG, steps=25, optimizer=optimizer)
    exact = stylize(PARAMS, photo, [painting], config=config)
    found = stylize(PARAMS, photo, [painting], config=replace(config, precision="bfloat16"))
    ends = [float(result.history[0].terms.total[-1]) for result in (exact, found)]
    assert found.image.dtype == jnp.float32
    assert ends[1] == pytest.approx(ends[0], rel=0.05)


@pytest.mark.long
def test_a_vmapped_run_is_each_ones_own(rng):
    photo, painting, other = pictures(rng)
    config = replace(CONFIG, steps=4, precision="bfloat16")

    def run(painting):
        return stylize(PARAMS, photo, [painting], config=config).history[0].terms.total

    together = jax.jit(jax.vmap(run))(jnp.stack([painting, other]))
    for style, row in zip((painting, other), together, strict=True):
        np.testing.assert_allclose(row, run(style), rtol=1e-2)


def test_half_the_memory():
    layers = ("relu1_1", "relu5_1")
    whole, half = (memory.activation_bytes((512, 384), layers, width=w) for w in (4, 2))
    assert half == whole / 2
    whole, half = (memory.activation_bytes((512, 384), layers, signs=1, width=w) for w in (4, 2))
    signs = sum(
        s.numbers(1) for s in memory.stages((512, 384), layers) if s.layer.startswith("relu")
    )
    assert half - signs == pytest.approx((whole - signs) / 2)


def test_the_command_line_takes_tf32_and_the_compact_form_on_a_gpu():
    class Device:
        platform = "gpu"

    config = plan._quick({"precision": None}, Config(), Device())
    assert config.precision == "default" and config.optimizer.noise > 0
    assert plan._quick({"precision": "auto"}, Config(), Device()) == config
    compact = Lbfgs(compact=True)
    assert config.optimizer == replace(compact, noise=config.optimizer.noise)
    exact = plan._quick({"precision": "highest"}, Config(), Device())
    assert exact == Config(optimizer=compact)
    assert plan._quick({"precision": None}, Config(), None) == Config()
    adam = Config(optimizer=Adam())
    assert plan._quick({"precision": None}, adam, Device()).optimizer == Adam()
    assert options.precise("bfloat16", Lbfgs())["optimizer"].noise > 0
