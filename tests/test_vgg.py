"""The network: features at every layer against the oracle, its names, sizes and tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal

from stylejax import layers, vgg

pytestmark = pytest.mark.usefixtures("quick_compilation")

BLOCKS = (1, 2, 1)  # of the fixture ``tiny``
NAMES = [
    *("conv1_1", "relu1_1", "pool1"),
    *("conv2_1", "relu2_1", "conv2_2", "relu2_2", "pool2"),
    *("conv3_1", "relu3_1", "pool3"),
]
POOLS = {"average": layers.average_pool, "max": layers.max_pool}


def shapes_only(architecture):
    """Params of an architecture without values, for tracing."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32),
        vgg.parameter_shapes(architecture),
        is_leaf=lambda x: isinstance(x, tuple),
    )


def picture(height, width, dtype=np.float32):
    return jax.ShapeDtypeStruct((height, width, 3), dtype)


def count(jaxpr, primitive):
    """How often a primitive occurs in a jaxpr and the jaxprs inside it."""
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name == primitive
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            total += count(inner, primitive) if hasattr(inner, "eqns") else 0
    return total


# Features


@pytest.mark.parametrize("pooling", POOLS)
@pytest.mark.parametrize("padding", ["zero", "replicate"])
def test_every_layer_against_the_oracle(rng, x64, tiny, padding, pooling):
    image = rng.uniform(size=(11, 9, 3))  # odd at every scale: 11x9, 5x4, 2x2
    found = jax.jit(lambda p, x: vgg.features(p, x, NAMES, pool=POOLS[pooling], padding=padding))(
        tiny, image
    )
    expected = reference.features(tiny, image, NAMES, BLOCKS, pooling, padding)
    for name in NAMES:
        assert found[name].dtype == np.float64
        assert np.abs(expected[name]).max() > 1
        # Float64 sums of at most 72 numbers up to 1000.
        assert_allclose(found[name], expected[name], rtol=0, atol=1e-9, err_msg=name)


def test_float32_against_the_oracle(rng, tiny):
    image = rng.uniform(size=(11, 9, 3)).astype(np.float32)
    found = jax.jit(lambda p, x: vgg.features(p, x, NAMES))(tiny, image)
    expected = reference.features(tiny, image, NAMES, BLOCKS)
    for name in NAMES:
        assert found[name].dtype == np.float32
        scale = np.abs(expected[name]).max()
        # Rounding is 6e-8 of the largest term, over four layers of sums of up to 72 terms.
        assert_allclose(found[name], expected[name], rtol=0, atol=2e-6 * scale, err_msg=name)


def test_a_constant_picture_has_a_frame_with_zero_padding_only(tiny):
    image = jnp.full((6, 7, 3), 0.3)
    flat = vgg.features(tiny, image, ["conv1_1"], padding="replicate")["conv1_1"]
    framed = vgg.features(tiny, image, ["conv1_1"], padding="zero")["conv1_1"]
    # The same sum everywhere, up to the order of 27 terms of about 100 in float32.
    assert_allclose(flat, jnp.broadcast_to(flat[3, 3], flat.shape), rtol=0, atol=1e-3)
    assert_allclose(framed[1:-1, 1:-1], flat[1:-1, 1:-1], rtol=0, atol=1e-3)
    assert np.abs(framed[0] - flat[0]).max() > 1


@pytest.mark.parametrize(
    ("padding", "everywhere"), [("replicate-all", "replicate"), ("circular", "circular")]
)
def test_paddings_that_hold_at_every_convolution(rng, x64, tiny, padding, everywhere):
    image = rng.random((9, 11, 3))
    found = vgg.features(tiny, image, NAMES, padding=padding)
    x = reference.preprocess(image, **tiny["input"])
    for block, depth in enumerate(BLOCKS, start=1):
        for index in range(1, depth + 1):
            layer = tiny[f"conv{block}_{index}"]
            x = reference.convolve(x, layer["kernel"], layer["bias"], padding=everywhere)
            assert_allclose(found[f"conv{block}_{index}"], x, rtol=1e-10, atol=1e-8)
            x = reference.relu(x)
        x = reference.average_pool(x)


def test_a_tile_rolled_by_whole_strides_has_its_features_rolled(rng, x64, tiny):
    image = rng.random((16, 24, 3))  # multiples of pool3's stride
    assert vgg.minimum_size(NAMES) == 8
    compute = jax.jit(lambda x: vgg.features(tiny, x, NAMES, padding="circular"))
    found, moved = compute(image), compute(np.roll(image, (8, -16), (0, 1)))
    for name, values in found.items():
        stride = 16 // values.shape[0]
        expected = np.roll(values, (8 // stride, -16 // stride), (0, 1))
        assert np.abs(expected - values).max() > 0.1
        # Sums of up to 72 numbers up to 1000, in another order.
        assert_allclose(moved[name], expected, rtol=0, atol=1e-9, err_msg=name)


def test_without_layers_nothing_is_computed(tiny):
    assert vgg.features(tiny, jnp.ones((8, 8, 3)), []) == {}
    traced = jax.make_jaxpr(lambda x: vgg.features(tiny, x, []))(picture(8, 8))
    assert not traced.eqns


def test_a_constant_picture_has_no_frame_at_any_layer_with_replicate_all(tiny):
    flat = vgg.features(tiny, np.full((16, 16, 3), 0.3, np.float32), NAMES, padding="replicate-all")
    for values in flat.values():
        assert_allclose(values, np.broadcast_to(values[:1, :1], values.shape), rtol=1e-4, atol=1e-2)


def test_default_options_are_average_pooling_and_zero_padding(rng, tiny):
    image = jnp.asarray(rng.uniform(size=(8, 8, 3)), np.float32)
    given = vgg.features(tiny, image, NAMES, pool=layers.average_pool, padding="zero")
    for name, array in vgg.features(tiny, image, NAMES).items():
        assert_array_equal(array, given[name])


def test_the_order_is_that_of_the_request(tiny):
    wanted = ["relu3_1", "conv1_1", "pool2"]
    found = vgg.features(tiny, jnp.zeros((8, 8, 3)), wanted)
    assert list(found) == wanted
    assert {k: v.shape for k, v in found.items()} == {
        "relu3_1": (2, 2, 8),
        "conv1_1": (8, 8, 4),
        "pool2": (2, 2, 6),
    }


@pytest.mark.parametrize(
    ("wanted", "convolutions"),
    [
        (["conv1_1"], 1),
        (["pool1"], 2),
        (["relu4_2", "relu1_1"], 10),
        (["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"], 13),
        (["pool5"], 16),
    ],
)
def test_the_pass_stops_at_the_deepest_layer(wanted, convolutions):
    jaxpr = jax.make_jaxpr(lambda p, x: vgg.features(p, x, wanted))(
        shapes_only(vgg.VGG19), picture(32, 32)
    )
    assert count(jaxpr.jaxpr, "conv_general_dilated") == convolutions


def test_dtype_of_the_image_is_the_dtype_of_the_features(x64, tiny):
    for dtype in (np.float32, np.float64):
        out = jax.eval_shape(lambda x: vgg.features(tiny, x, NAMES), picture(8, 8, dtype))
        assert {a.dtype for a in out.values()} == {np.dtype(dtype)}


def test_batches_come_from_vmap(rng, tiny):
    images = jnp.asarray(rng.uniform(size=(2, 8, 6, 3)), np.float32)
    single = [vgg.features(tiny, image, ["relu3_1"])["relu3_1"] for image in images]
    batch = jax.jit(jax.vmap(lambda x: vgg.features(tiny, x, ["relu3_1"])["relu3_1"]))(images)
    # Sums of up to 72 float32 terms in another order.
    assert_allclose(batch, jnp.stack(single), rtol=0, atol=2e-6 * float(batch.max()))


def test_the_original_preprocessing_is_bgr_minus_the_mean():
    red = jnp.array([[[1.0, 0.0, 0.0]]])
    seen = vgg.Preprocessing().apply(vgg.Preprocessing().init(jax.random.key(0), red), red)
    assert_allclose(seen[0, 0], [-103.939, -116.779, 255 - 123.68], rtol=1e-6)


# Names


def test_layer_names():
    assert list(vgg.layer_names(vgg.Architecture((1, 2, 1), (4, 6, 8)))) == NAMES
    names = vgg.layer_names(vgg.VGG19)
    assert len(names) == 16 + 16 + 5
    assert names[:3] == ("conv1_1", "relu1_1", "conv1_2")
    assert names[-3:] == ("conv5_4", "relu5_4", "pool5")


@pytest.mark.parametrize("layer", ["relu3_2", "pool4", "conv4_1", "fc6", "", "Relu1_1"])
def test_unknown_layer(tiny, layer):
    with pytest.raises(ValueError, match="unknown layer") as error:
        vgg.features(tiny, jnp.zeros((8, 8, 3)), ["relu1_1", layer])
    assert repr(layer) in str(error.value)
    assert all(name in str(error.value) for name in NAMES)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 33])
def test_minimum_size(size):
    """A layer has a position exactly where the picture is as large as ``minimum_size`` says."""
    names = vgg.layer_names(vgg.VGG19)
    for height, width in ((size, 40), (40, size)):
        found = jax.eval_shape(
            lambda p, x: vgg.features(p, x, names), shapes_only(vgg.VGG19), picture(height, width)
        )
        for name in names:
            assert (found[name].size > 0) == (size >= vgg.minimum_size([name])), name


@pytest.mark.parametrize("pool", [layers.average_pool, layers.max_pool, layers.max_pool_ceil])
def test_feature_size(pool):
    names = ["conv1_1", "pool1", "relu3_1", "conv4_2", "pool4", "relu5_1"]
    for size in ((40, 40), (33, 70), (31, 47)):
        found = jax.eval_shape(
            lambda p, x: vgg.features(p, x, names, pool=pool),
            shapes_only(vgg.VGG19),
            picture(*size),
        )
        for name in names:
            assert vgg.feature_size(size, name, pool) == found[name].shape[:2], name


def test_scaled_features(tiny, rng, x64):
    image = rng.uniform(size=(8, 9, 3))
    params = {k: {n: np.float64(a) for n, a in arrays.items()} for k, arrays in tiny.items()}
    names = ["conv1_1", "relu2_2", "pool3"]
    plain, scaled = (
        vgg.features(p, image, names) for p in (params, vgg.scale_features(params, 1 / 58))
    )
    for name in names:
        np.testing.assert_allclose(58 * scaled[name], plain[name], rtol=0, atol=1e-10)


def test_minimum_size_of_several_layers_is_the_largest():
    assert vgg.minimum_size(["relu5_1", "relu1_1"]) == 16
    assert vgg.minimum_size(["relu5_1", "pool5"]) == 32
    assert vgg.minimum_size([]) == 1


# Parameters


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        (["conv1_1"], {"conv1_1"}),
        (["pool1", "relu1_1"], {"conv1_1"}),
        (["conv2_1", "pool1"], {"conv1_1", "conv2_1"}),
        (["pool2"], {"conv1_1", "conv2_1", "conv2_2"}),
        (["relu3_1"], {"conv1_1", "conv2_1", "conv2_2", "conv3_1"}),
    ],
)
def test_up_to_leaves_out_what_no_layer_needs(rng, tiny, wanted, left):
    image = rng.random((9, 8, 3), np.float32)
    short = vgg.up_to(tiny, wanted)
    assert set(short) == {"input", *left}
    whole = vgg.features(tiny, image, wanted)
    for layer, values in vgg.features(short, image, wanted).items():
        assert_array_equal(values, whole[layer])


def test_up_to_refuses_an_unknown_layer(tiny):
    with pytest.raises(ValueError, match="unknown layer 'relu4_1'"):
        vgg.up_to(tiny, ["relu4_1"])


def test_vgg19_has_the_published_number_of_parameters():
    shapes = vgg.parameter_shapes(vgg.VGG19)
    arrays = [a for layer, arrays in shapes.items() if layer != "input" for a in arrays.values()]
    assert sum(int(np.prod(shape)) for shape in arrays) == 20_024_384
    assert len(shapes) == 1 + 16


@pytest.mark.parametrize(
    "architecture",
    [vgg.VGG19, vgg.Architecture((1, 2, 1), (4, 6, 8)), vgg.Architecture((3,), (2,))],
)
def test_parameter_shapes_are_those_of_the_module(architecture):
    params = jax.eval_shape(lambda: vgg.random_params(jax.random.key(0), architecture))
    found = {layer: {n: a.shape for n, a in arrays.items()} for layer, arrays in params.items()}
    assert found == vgg.parameter_shapes(architecture)
    assert vgg.architecture_of(params) == architecture


def test_random_params():
    made = vgg.random_params(jax.random.key(7), vgg.Architecture((1,), (512,)))
    kernel = np.asarray(made["conv1_1"]["kernel"])
    # He: variance 2 / fan-in; of 13824 draws the standard deviation errs by 1%.
    assert_allclose(kernel.std(), np.sqrt(2 / 27), rtol=0.05)
    assert not np.any(made["conv1_1"]["bias"])
    assert_array_equal(made["input"]["kernel"], np.float32(vgg.CAFFE_KERNEL))
    other = vgg.random_params(jax.random.key(8), vgg.Architecture((1,), (512,)))
    assert np.any(kernel != other["conv1_1"]["kernel"])


def without(params, *path):
    copy = {layer: dict(arrays) for layer, arrays in params.items()}
    *way, last = path
    del (copy[way[0]] if way else copy)[last]
    return copy


def with_array(params, layer, name, array):
    copy = {layer: dict(arrays) for layer, arrays in params.items()}
    copy.setdefault(layer, {})[name] = array
    return copy


BROKEN = {
    "nothing": lambda p: {},
    "a flax variable dict": lambda p: {"params": p},
    "no input": lambda p: without(p, "input"),
    "no first layer": lambda p: without(p, "conv1_1"),
    "a gap": lambda p: without(p, "conv2_1"),
    "a missing block": lambda p: without(without(p, "conv2_1"), "conv2_2"),
    "no bias": lambda p: without(p, "conv2_2", "bias"),
    "no first bias": lambda p: without(p, "conv2_1", "bias"),
    "one array more": lambda p: with_array(p, "conv1_1", "scale", np.ones(4)),
    "one layer more": lambda p: with_array(p, "fc6", "kernel", np.ones(4)),
    "a wrong kernel": lambda p: with_array(p, "conv2_2", "kernel", np.ones((3, 3, 5, 6))),
    "a wrong name": lambda p: with_array(p, "conv_one", "bias", np.ones(4)),
    "a number for an array": lambda p: with_array(p, "conv2_2", "bias", 1.0),
    "a bias without axes": lambda p: with_array(p, "conv2_1", "bias", np.float32(1)),
    "a layer that is an array": lambda p: {**p, "conv3_1": np.ones(8)},
}


@pytest.mark.parametrize("fault", BROKEN)
def test_params_that_are_no_vgg(tiny, fault):
    with pytest.raises(ValueError, match="params do not form a VGG: expected 'input'") as error:
        vgg.features(BROKEN[fault](tiny), jnp.zeros((8, 8, 3)), ["relu1_1"])
    given = ", ".join(BROKEN[fault](tiny)) or "none"
    assert str(error.value).endswith(f"got {given}")


def test_architecture_does_not_depend_on_the_order_of_layers(tiny):
    turned = dict(reversed(tiny.items()))
    assert vgg.architecture_of(turned) == vgg.architecture_of(tiny)
    assert vgg.architecture_of(tiny) == vgg.Architecture((1, 2, 1), (4, 6, 8))


# Taps


def tapped(rng, taps=(("relu1_1", 7), ("relu2_2", 9))):
    """A tiny network of two blocks with taps."""
    architecture = vgg.Architecture((1, 2), (4, 6), taps)
    params = vgg.random_params(jax.random.key(0), architecture)
    return architecture, params


def test_taps_map_what_leaves_and_not_what_flows_on(rng):
    architecture, params = tapped(rng)
    assert vgg.architecture_of(params) == architecture
    image = jnp.asarray(rng.random((16, 12, 3)), jnp.float32)
    found = vgg.features(params, image, ["relu1_1", "relu2_2"])
    bare = {name: params[name] for name in params if not name.startswith("relu")}
    own = vgg.features(bare, image, ["relu1_1", "relu2_2"])
    for layer, width in architecture.taps:
        assert found[layer].shape[-1] == width
        by_hand = np.einsum("hwc,cd->hwd", own[layer], params[layer]["kernel"])
        np.testing.assert_allclose(found[layer], by_hand, rtol=1e-4, atol=1e-3)


def test_a_network_with_taps_has_no_other_layers(rng):
    _, params = tapped(rng)
    image = jnp.zeros((16, 12, 3))
    with pytest.raises(ValueError, match=r"unknown layer 'relu2_1'; this network has relu1_1"):
        vgg.features(params, image, ["relu2_1"])


def test_taps_of_unknown_layers_are_no_vgg(rng):
    _, params = tapped(rng)
    with pytest.raises(ValueError, match="do not form a VGG"):
        vgg.architecture_of(params | {"relu9_1": {"kernel": jnp.zeros((4, 4))}})
    with pytest.raises(ValueError, match="do not form a VGG"):
        vgg.architecture_of(params | {"relu2_1": {"kernel": jnp.zeros((5, 4))}})


def test_folded_taps_keep_every_relative_loss(rng):
    """|P^T (G - A) P| and |(F - T) P| depend on P only through P P^T."""
    _, params = tapped(rng)
    folded = vgg.fold_taps(params)
    layers = ["relu1_1", "relu2_2"]
    widths = {layer: folded[layer]["kernel"].shape[1] for layer in layers}
    assert widths == {"relu1_1": 4, "relu2_2": 6}
    a, b = (jnp.asarray(rng.random((24, 20, 3)), jnp.float32) for _ in range(2))
    for layer in layers:
        distances = []
        for network in (params, folded):
            x, y = (vgg.features(network, image, layers)[layer] for image in (a, b))
            x, y = (np.asarray(f, np.float64).reshape(-1, f.shape[-1]) for f in (x, y))
            grams = np.sum((x.T @ x - y.T @ y) ** 2) / np.sum((y.T @ y) ** 2)
            distances.append((grams, np.sum((x - y) ** 2) / np.sum(y**2)))
        np.testing.assert_allclose(*distances, rtol=1e-4)


def test_a_network_without_taps_folds_to_itself(tiny):
    assert vgg.fold_taps(tiny) == tiny
