"""Gatys' normalisation: means of one, and no other change than a factor for each filter."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from stylejax import images, layers, normalisation, vgg

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONVOLUTIONS = ["conv1_1", "conv2_1", "conv2_2", "conv3_1"]  # of the fixture ``tiny``
NAMES = vgg.layer_names(vgg.Architecture((1, 2, 1), (4, 6, 8)))
POOLS = {"average": layers.average_pool, "max": layers.max_pool}


@pytest.fixture
def photos(rng):
    """Two sizes, one of them odd, float32."""
    return [rng.uniform(size=(*size, 3)).astype(np.float32) for size in [(8, 12), (9, 7), (8, 12)]]


@pytest.fixture
def alive(tiny):
    """The tiny network with biases so high that every filter fires somewhere."""
    return {
        layer: arrays | ({"bias": np.abs(arrays["bias"]) + 50} if layer != "input" else {})
        for layer, arrays in tiny.items()
    }


@pytest.fixture
def means(rng):
    """Positive numbers: that the network is only rescaled does not depend on what they are."""
    widths = {"conv1_1": 4, "conv2_1": 6, "conv2_2": 6, "conv3_1": 8}
    return {name: rng.uniform(1, 100, width).astype(np.float32) for name, width in widths.items()}


@partial(jax.jit, static_argnames=("pool", "padding"))
def seen(params, image, pool, padding="zero"):
    return vgg.features(params, image, NAMES, pool=pool, padding=padding)


@pytest.mark.parametrize("pooling", POOLS)
def test_mean_activations(tiny, photos, pooling):
    """Average pooling is the default. The mean is over all images and positions alike."""
    pool = POOLS[pooling]
    options = {} if pooling == "average" else {"pool": pool}
    found = normalisation.mean_activations(tiny, iter(photos), **options)
    features = [seen(tiny, photo, pool) for photo in photos]
    assert list(found) == CONVOLUTIONS
    for name in CONVOLUTIONS:
        assert found[name].dtype == np.float32
        each = [np.asarray(f[name.replace("conv", "relu")], float) for f in features]
        expected = np.concatenate([f.reshape(-1, f.shape[-1]) for f in each]).mean(0)
        # Float32 sums over 96 positions.
        assert_allclose(found[name], expected, rtol=1e-5, atol=1e-4)


def test_mean_activations_without_positions(tiny):
    for none in ([], [np.zeros((3, 3, 3), np.float32)]):  # block 3 has no position in 3x3 pixels
        with pytest.raises(ValueError, match="no images"):
            normalisation.mean_activations(tiny, none)


@pytest.mark.parametrize("pooling", POOLS)
def test_means_are_one_afterwards(alive, photos, pooling):
    pool = POOLS[pooling]
    means = normalisation.mean_activations(alive, photos, pool=pool)
    assert min(mean.min() for mean in means.values()) > 0
    scaled = normalisation.normalise(alive, means)
    for mean in normalisation.mean_activations(scaled, photos, pool=pool).values():
        # Float32 sums over 96 positions.
        assert_allclose(mean, 1, rtol=1e-5)


@pytest.mark.parametrize("padding", ["zero", "replicate"])
@pytest.mark.parametrize("pooling", POOLS)
def test_every_layer_is_only_rescaled(tiny, means, photos, pooling, padding):
    """Before and after the ReLU and the pooling."""
    scaled = normalisation.normalise(tiny, means)
    before, after = (seen(p, photos[0], POOLS[pooling], padding) for p in (tiny, scaled))
    for name in NAMES:
        block = name[4]
        last = [n for n in CONVOLUTIONS if n[4] == block][-1]  # a pooling's filters are its input's
        mean = means[last if name.startswith("pool") else name.replace("relu", "conv")]
        restored = after[name] * mean[None, None]
        # Four layers in float32.
        atol = 1e-5 * float(jnp.abs(before[name]).max())
        assert_allclose(restored, before[name], rtol=0, atol=atol, err_msg=name)


def test_dead_filters_stay_as_they_are(alive, photos):
    params = {layer: dict(arrays) for layer, arrays in alive.items()}
    dead = 2
    params["conv2_1"]["kernel"] = np.array(params["conv2_1"]["kernel"])
    params["conv2_1"]["bias"] = np.array(params["conv2_1"]["bias"])
    params["conv2_1"]["kernel"][..., dead] = 0
    params["conv2_1"]["bias"][dead] = -1
    means = normalisation.mean_activations(params, photos)
    assert means["conv2_1"][dead] == 0
    assert np.all(np.delete(means["conv2_1"], dead) > 0)
    scaled = normalisation.normalise(params, means)
    assert scaled["conv2_1"]["bias"][dead] == -1
    for arrays in scaled.values():
        assert all(np.all(np.isfinite(array)) for array in arrays.values())
    again = normalisation.normalise(scaled, means)  # 1 in place of 0 is no factor at all
    assert again["conv2_1"]["bias"][dead] == -1
    # A dead filter's outgoing weights are only divided by what they feed.
    outgoing = scaled["conv2_2"]["kernel"][:, :, dead] * means["conv2_2"][None, None]
    assert_allclose(outgoing, params["conv2_2"]["kernel"][:, :, dead], rtol=1e-6)


def test_normalise_is_another_network(tiny, means):
    before = jax.tree.map(np.copy, tiny)
    scaled = normalisation.normalise(tiny, means)
    assert vgg.architecture_of(scaled) == vgg.architecture_of(tiny)
    for array, copy in zip(jax.tree.leaves(tiny), jax.tree.leaves(before), strict=True):
        assert_array_equal(array, copy)
    assert_array_equal(scaled["input"]["kernel"], tiny["input"]["kernel"])
    assert_array_equal(scaled["input"]["bias"], tiny["input"]["bias"])
    for array in jax.tree.leaves(scaled):
        assert array.dtype == np.float32


def test_means_of_another_network(tiny, means):
    for wrong in (
        {name: mean for name, mean in means.items() if name != "conv2_2"},
        means | {"conv2_2": np.ones(5, np.float32)},
        normalisation.vgg19_means(),
    ):
        with pytest.raises(ValueError, match=r"no mean activations for conv\d_\d with \d filters"):
            normalisation.normalise(tiny, wrong)


def test_the_table_is_vgg19s():
    means = normalisation.vgg19_means()
    shapes = vgg.parameter_shapes(vgg.VGG19)
    assert list(means) == [name for name in shapes if name != "input"]
    for name, mean in means.items():
        assert mean.shape == shapes[name]["bias"]
        assert mean.dtype == np.float32
        assert np.all(np.isfinite(mean) & (mean > 0)), name


def test_the_table_is_refused_to_another_network(tiny):
    wide = vgg.random_params(jax.random.key(0), vgg.Architecture((1,), (64,)))
    for params in (tiny, wide):
        with pytest.raises(ValueError, match="another network") as caught:
            normalisation.vgg19_means(params)
        assert "--normalise" in str(caught.value) and "\n" not in str(caught.value)


def test_the_table_knows_its_network_in_any_units(real_params):
    """RGB from 0 to 1 or BGR from 0 to 255 minus the mean: the same network."""
    params = {name: dict(arrays) for name, arrays in real_params.items()}
    assert list(normalisation.vgg19_means(params)) == [n for n in params if n != "input"]
    params["input"] = {
        "kernel": np.asarray(params["input"]["kernel"])[:, ::-1] / 255,
        "bias": np.asarray(params["input"]["bias"])[::-1] / 255,
    }
    params["conv1_1"]["kernel"] = np.asarray(params["conv1_1"]["kernel"])[:, :, ::-1] * 255
    assert normalisation.vgg19_means(params)
    normalised = normalisation.normalise(real_params, normalisation.vgg19_means())
    with pytest.raises(ValueError, match="normalised already"):
        normalisation.vgg19_means(normalised)


def test_a_distilled_network_is_normalised_in_its_taps(rng):
    """Its features are then the larger network's divided by their means."""
    architecture = vgg.Architecture((1, 1), (4, 6), (("relu1_1", 8), ("relu2_1", 5)))
    params = vgg.random_params(jax.random.key(0), architecture)
    means = {"conv1_1": rng.random(8) + 0.5, "conv2_1": np.array([0.0, 1, 2, 3, 4])}
    scaled = normalisation.normalise(params, means)
    image = rng.random((8, 8, 3)).astype(np.float32)
    before = vgg.features(params, image, ["relu1_1", "relu2_1"])
    after = vgg.features(scaled, image, ["relu1_1", "relu2_1"])
    for layer, divisor in (("relu1_1", means["conv1_1"]), ("relu2_1", np.array([1.0, 1, 2, 3, 4]))):
        assert_allclose(np.asarray(after[layer]) * divisor, before[layer], rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_the_table_against_a_few_photos(shared, real_params):
    """Twenty photos have nearly the means of nine hundred."""
    paths = sorted((shared / "images" / "training" / "photos").glob("*.jpg"))
    photos = (images.load(path).image for path in paths[:: len(paths) // 20])
    found = normalisation.mean_activations(real_params, photos)
    for name, mean in normalisation.vgg19_means().items():
        # Measured: layers within 9%, and 96% of the filters within a factor of 3 in conv5_4, whose
        # filters fire rarely; elsewhere all but one.
        assert_allclose(found[name].mean(), mean.mean(), rtol=0.2, err_msg=name)
        ratio = found[name] / mean
        assert np.mean((ratio > 1 / 3) & (ratio < 3)) > (0.9 if name == "conv5_4" else 0.98), name
