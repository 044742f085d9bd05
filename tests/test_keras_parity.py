"""Every layer of VGG-19 against Keras' own, with random weights and with the real ones.

Keras has max pooling and zero padding, and its ``blockB_convC`` is after the ReLU. Both sides
compute the same float32 sums of up to 4608 terms, maybe in another order: over sixteen layers the
rounding of 6e-8 grows to 1e-6 of a layer's largest activation; 1e-5 is allowed.
"""

import os

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from stylejax import layers, vgg

HEIGHT, WIDTH = 48, 40
NAMES = vgg.layer_names(vgg.VGG19)


@pytest.fixture(scope="module")
def keras():
    """Keras on JAX; its own broadcasting would be refused by this folder's strict settings."""
    before = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = "jax"
    imported = pytest.importorskip("keras")
    if before is None:
        del os.environ["KERAS_BACKEND"]
    else:
        os.environ["KERAS_BACKEND"] = before
    assert imported.backend.backend() == "jax"
    with jax.numpy_rank_promotion("allow"), jax.default_matmul_precision("highest"):
        yield imported


@pytest.fixture(scope="module")
def model(keras):
    """Keras' network with weights that are zero: drawing twenty million takes five seconds."""
    with pytest.MonkeyPatch.context() as patch:
        kind = keras.initializers.GlorotUniform
        patch.setattr(kind, "__call__", lambda self, shape, dtype=None: np.zeros(shape, dtype))
        return build(keras)


@pytest.fixture(scope="module")
def pixels():
    """A picture of 8-bit levels, which sRGB in [0, 1] and 0 to 255 hold alike."""
    return np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.float32)


def keras_name(name):
    return f"block{name[4]}_conv{name[6]}"


def keras_features(keras, model, x):
    """Keras' activations under the authors' names; the layers are run one by one."""
    seen = {}
    for layer in model.layers[1:]:
        block = layer.name[5]
        if layer.name.endswith("pool"):
            x = layer(x)
            seen[f"pool{block}"] = x
        else:
            place = f"{block}_{layer.name[-1]}"
            seen[f"conv{place}"] = layer.convolution_op(x, layer.kernel) + layer.bias
            x = layer(x)
            seen[f"relu{place}"] = x
    return {name: np.asarray(array[0]) for name, array in seen.items()}


def assert_parity(keras, model, params, pixels):
    prepared = keras.applications.vgg19.preprocess_input(pixels.copy())[None]
    expected = keras_features(keras, model, prepared)
    assert list(expected) == list(NAMES)
    # The model as Keras itself runs it ends where running its layers one by one does.
    ends = np.asarray(model(prepared))[0]
    assert_allclose(ends, expected["pool5"], rtol=0, atol=1e-5 * np.abs(ends).max())

    @jax.jit
    def ours(params, image):
        return vgg.features(params, image, NAMES, pool=layers.max_pool, padding="zero")

    found = ours(params, pixels / np.float32(255))
    for name in NAMES:
        assert found[name].shape == expected[name].shape
        largest = np.abs(expected[name]).max()
        assert largest > 0, name
        atol = 1e-5 * largest
        assert_allclose(found[name], expected[name], rtol=0, atol=atol, err_msg=name)


def build(keras, weights=None):
    return keras.applications.VGG19(
        include_top=False, weights=weights, input_shape=(HEIGHT, WIDTH, 3)
    )


def test_preprocessing(keras, pixels):
    expected = keras.applications.vgg19.preprocess_input(pixels.copy())
    kernel, bias = np.array(vgg.CAFFE_KERNEL), np.array(vgg.CAFFE_BIAS)
    image = pixels / 255.0
    assert_allclose(image @ kernel + bias, expected, rtol=0, atol=1e-4)  # float32 of 255
    network = vgg.Preprocessing()
    found = network.apply(network.init(jax.random.key(0), image), image.astype(np.float32))
    assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_the_architecture_is_keras_own(model):
    found = {
        layer.name: [tuple(weight.shape) for weight in layer.weights]
        for layer in model.layers
        if layer.weights
    }
    assert found == {
        keras_name(name): [arrays["kernel"], arrays["bias"]]
        for name, arrays in vgg.parameter_shapes(vgg.VGG19).items()
        if name != "input"
    }
    assert model.count_params() == 20_024_384


def test_every_layer_with_random_weights(keras, model, pixels):
    noise = np.random.default_rng(2)
    params = {"input": {"kernel": np.float32(vgg.CAFFE_KERNEL), "bias": np.float32(vgg.CAFFE_BIAS)}}
    for name, shapes in vgg.parameter_shapes(vgg.VGG19).items():
        if name != "input":
            kernel = noise.standard_normal(shapes["kernel"], np.float32)
            kernel *= np.sqrt(2 / np.prod(shapes["kernel"][:-1]))
            bias = 10 * noise.standard_normal(shapes["bias"], np.float32)
            params[name] = {"kernel": kernel, "bias": bias}
            model.get_layer(keras_name(name)).set_weights([kernel, bias])
    assert_parity(keras, model, params, pixels)


@pytest.mark.slow
def test_every_layer_with_the_real_weights(keras, vgg19_file, real_params, pixels):
    """Keras reads the checkpoint itself; ours went through the project's own reader and store."""
    assert_parity(keras, build(keras, str(vgg19_file)), real_params, pixels)
