"""What a preset does to a network before it is used."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stylejax import arguments, checkpoints, objective, presets, statistics, vgg, weights
from stylejax.config import Config
from stylejax.objective import LossWeights
from stylejax.presets import DEFAULT, GATYS2015, PRESETS

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def slim():
    return weights.load(weights.SLIM)


def test_the_default_folds_slims_taps(slim):
    folded = presets.prepare(DEFAULT, slim)
    for layer, width in vgg.architecture_of(slim).taps:
        own = folded[layer]["kernel"].shape
        assert own[0] == own[1] <= width


def test_folded_slim_has_the_same_default_losses(slim, rng):
    """Exactly the same objective, though with fewer channels."""
    photo, painting, image = (jnp.asarray(rng.random((48, 40, 3)), jnp.float32) for _ in range(3))

    @jax.jit
    def terms(params):
        targets = objective.make_targets(
            params, photo, [painting], DEFAULT.loss_weights, DEFAULT.config
        )
        return objective.evaluate(image, params, targets, DEFAULT.loss_weights, DEFAULT.config)[1]

    losses = [jax.tree.leaves(terms(each)) for each in (slim, presets.prepare(DEFAULT, slim))]
    np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.parametrize(
    ("statistic", "folds"),
    [
        (statistics.RELATIVE_WASSERSTEIN, True),
        (statistics.RELATIVE_PATCHES, True),
        (statistics.RELATIVE_MEAN_STD, False),
        (statistics.GRAM, False),
        (statistics.mixed((statistics.RELATIVE_GRAM, 1), (statistics.RELATIVE_SLICED, 1)), False),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_only_what_sees_products_alone_folds_slim(slim, statistic, folds):
    config = dataclasses.replace(DEFAULT.config, style_statistic=statistic)
    prepared = presets.prepare(DEFAULT._replace(config=config), slim)
    assert (prepared["relu1_1"]["kernel"].shape != slim["relu1_1"]["kernel"].shape) == folds


def test_gatys2015_normalises_slim_by_its_teachers_means(slim):
    prepared = presets.prepare(GATYS2015, slim)
    for layer, width in vgg.architecture_of(slim).taps:
        assert prepared[layer]["kernel"].shape[1] == width
        assert not np.allclose(prepared[layer]["kernel"], slim[layer]["kernel"])


def test_a_normalised_network_is_left_alone(tiny):
    assert presets.prepare(GATYS2015, tiny, normalised=True) == tiny


def test_gatys2015_refuses_a_network_whose_means_it_does_not_know(tiny):
    with pytest.raises(ValueError, match="another network"):
        presets.prepare(GATYS2015, tiny)


ABSOLUTE = {name: preset for name, preset in PRESETS.items() if preset.white is not None}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_weight_for_each_of_its_layers(name):
    config, loss_weights = PRESETS[name].config, PRESETS[name].loss_weights
    arguments.check_loss_weights(loss_weights, config, 1)
    assert PRESETS[name].network in (None, *checkpoints.PUBLISHED)


def test_neural_style_stretches_pixels_to_256(tiny, rng):
    image = rng.random((8, 8, 3))
    prepared = presets.prepare(PRESETS["neural-style"], tiny)
    pixels = image[..., ::-1] * 256 - [103.939, 116.779, 123.68]
    found = image @ prepared["input"]["kernel"] + prepared["input"]["bias"]
    np.testing.assert_allclose(found, pixels, atol=1e-4)
    assert all(prepared[layer] is tiny[layer] for layer in tiny if layer != "input")


@pytest.mark.parametrize("name", ["gatys-notebook", "neural-style-pt", "keras-example"])
def test_presets_of_255_take_the_original_as_it_is(tiny, name):
    assert presets.prepare(PRESETS[name], tiny) is tiny


@pytest.mark.parametrize("name", ABSOLUTE)
def test_slim_is_in_the_unit_of_its_teacher(slim, name):
    """Its own input is another than VGG-19's; what its taps hand over is VGG-19's."""
    prepared, factor = presets.prepare(ABSOLUTE[name], slim), ABSOLUTE[name].white / 255
    assert (prepared is slim) == (factor == 1)
    image = jnp.asarray(np.random.default_rng(0).random((16, 16, 3)), jnp.float32)
    seen, plain = (vgg.features(p, image, ["relu2_1"])["relu2_1"] for p in (prepared, slim))
    ratio = np.linalg.norm(seen) / np.linalg.norm(plain)
    np.testing.assert_allclose(ratio, factor, rtol=0.01)


@pytest.mark.parametrize("name", ABSOLUTE)
def test_another_checkpoints_unit_is_scaled_away(tiny, name):
    """White is as far from black, and nothing of the picture's features but the unit changes."""
    preset = ABSOLUTE[name]
    torch = {**tiny, "input": {"kernel": np.diag([4.4, 4.5, 4.4]), "bias": np.full(3, -2.0)}}
    image = jnp.asarray(np.random.default_rng(0).random((8, 8, 3)), jnp.float32)
    for params in (tiny, torch):
        prepared = presets.prepare(preset, params)
        kernel = np.abs(prepared["input"]["kernel"])
        np.testing.assert_allclose(kernel.sum(0).mean(), preset.white, rtol=0.01)
        if (abs(params["input"]["kernel"]).max() > 99) == (preset.white > 99):
            continue
        before, after = (vgg.features(p, image, ["relu3_1"])["relu3_1"] for p in (params, prepared))
        ratio = np.asarray(after)[before > 1] / np.asarray(before)[before > 1]
        np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-3)


def test_torchvisions_own_network_is_left_alone():
    params = vgg.random_params(jax.random.key(0), vgg.Architecture((1,), (2,)))
    std = np.array([0.229, 0.224, 0.225], np.float32)
    params["input"] = {"kernel": np.diag(1 / std), "bias": np.zeros(3)}
    assert presets.prepare(PRESETS["crowsonkb"], params) is params


def test_per_channel():
    preset = PRESETS["neural-style-pt"]
    found = presets.per_channel(preset.loss_weights, preset.config, vgg.VGG19)
    assert found.content_layers == {"relu4_2": 1 / 512}
    widths = (64, 128, 256, 512, 512)
    assert list(found.style_layers.values()) == [1 / width for width in widths]
    assert (found.content, found.style) == (5.0, 100.0)
    tapped = vgg.Architecture((1,), (4,), (("relu1_1", 64),))
    config = Config(content_layers=("relu1_1",), style_layers=("relu1_1",))
    assert presets.per_channel(LossWeights(), config, tapped).style_layers == {"relu1_1": 1 / 64}
