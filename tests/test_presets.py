"""What a preset does to a network before it is used."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stylejax import objective, presets, statistics, vgg, weights
from stylejax.presets import DEFAULT, GATYS2015


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
    losses = []
    for params in (slim, presets.prepare(DEFAULT, slim)):
        targets = objective.make_targets(
            params, photo, [painting], DEFAULT.loss_weights, DEFAULT.config
        )
        _, terms = objective.evaluate(image, params, targets, DEFAULT.loss_weights, DEFAULT.config)
        losses.append(jax.tree.leaves(terms))
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
