"""What is optimised: the pixels themselves, and where they start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from stylejax.canvas import PIXELS, Canvas, start_image

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(3)


@pytest.fixture
def content(rng):
    return jnp.asarray(rng.uniform(size=(40, 50, 3)), np.float32)


def test_pixels_are_the_picture(content):
    beyond = 3 * content - 1  # not clipped
    assert_array_equal(PIXELS.decode(beyond), beyond)
    assert_array_equal(PIXELS.encode(beyond), beyond)


def test_a_canvas_is_static():
    """It lies in a config, which is hashed; an equal canvas is the same canvas."""
    again = Canvas(encode=PIXELS.encode, decode=PIXELS.decode)
    assert again == PIXELS
    assert hash(again) == hash(PIXELS)


def test_no_noise_is_the_content(content):
    assert_array_equal(start_image(content, 0.0, KEY), content)


def test_noise_alone_forgets_the_content(content):
    noise = start_image(content, 1.0, KEY)
    assert_array_equal(noise, start_image(1 - content, 1.0, KEY))
    assert noise.shape == content.shape
    assert noise.dtype == content.dtype
    assert noise.min() >= 0
    assert noise.max() < 1
    # Uniform on [0, 1]: mean 1/2 and variance 1/12; of 6000 draws both err by 1%.
    assert_allclose(noise.mean(), 1 / 2, rtol=0.03)
    assert_allclose(noise.var(), 1 / 12, rtol=0.03)
    # White: neighbours and colours know nothing of each other.
    centred = np.asarray(noise) - 0.5
    for shifted in (np.roll(centred, 1, 0), np.roll(centred, 1, 1), np.roll(centred, 1, 2)):
        assert abs(np.mean(centred * shifted)) < 0.05 / 12


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_mix_is_linear(content, share):
    white = start_image(content, 1.0, KEY)
    # One rounding of numbers below 1.
    mixed = start_image(content, share, KEY)
    assert_allclose(mixed, (1 - share) * content + share * white, rtol=0, atol=2e-7)


def test_the_key_is_the_seed(content):
    once = start_image(content, 0.5, KEY)
    assert_array_equal(once, start_image(content, 0.5, jax.random.key(3)))
    assert np.any(once != start_image(content, 0.5, jax.random.key(4)))


def test_dtype_and_transformations(content, x64):
    double = start_image(content.astype(np.float64), 0.5, KEY)
    assert double.dtype == np.float64
    shares, keys = jnp.array([0.1, 0.9], np.float32), jax.random.split(KEY, 2)
    batch = jax.jit(jax.vmap(start_image, (None, 0, 0)))(content, shares, keys)
    assert batch.dtype == np.float32
    for found, share, key in zip(batch, shares, keys, strict=True):
        assert_allclose(found, start_image(content, share, key), rtol=0, atol=2e-7)
