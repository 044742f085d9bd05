"""What is optimised: the pixels themselves, and where they start."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from numpy.testing import assert_allclose, assert_array_equal

from stylejax import canvas
from stylejax.canvas import (
    CIRCULAR_FREQUENCIES,
    FREQUENCIES,
    PIXELS,
    Blank,
    Canvas,
    levels,
    start_image,
)

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
    again = Canvas(encode=PIXELS.encode, decode=PIXELS.decode, by_rows=True)
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


def test_a_blank_is_a_colour_with_grain(content):
    blank = Blank((0.2, 0.5, 0.7), 1e-3)
    start = start_image(content, 1.0, KEY, blank=blank)
    assert start.dtype == content.dtype
    grain = np.asarray(start) - np.float32(blank.colour)
    # Normal: of 6000 draws mean and deviation err by 1.3% of the deviation.
    assert_allclose(grain.mean(), 0, atol=5e-5)
    assert_allclose(grain.std(), 1e-3, rtol=0.05)
    mixed = start_image(content, 0.25, KEY, blank=blank)
    assert_allclose(mixed, 0.75 * content + 0.25 * start, rtol=0, atol=2e-7)


def test_levels(content):
    canvas = levels(256.0)
    assert canvas is levels(256.0) and canvas != levels(255.0)
    assert_allclose(canvas.encode(content), 256 * content, rtol=1e-6)
    assert_allclose(canvas.decode(canvas.encode(content)), content, rtol=1e-6)


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


SIZES = [(1, 1), (1, 5), (4, 6), (7, 5), (33, 20)]


KINDS = {"mirrored": FREQUENCIES, "circular": CIRCULAR_FREQUENCIES}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_frequencies_are_the_picture_again(rng, x64, size, kind):
    picture = rng.uniform(-0.5, 1.5, (*size, 3))
    canvas = KINDS[kind]
    again = jax.jit(lambda picture: canvas.decode(canvas.encode(picture)))(picture)
    assert_allclose(again, picture, rtol=0, atol=1e-12)


def cosine_weights(height, width):
    f = np.hypot(np.arange(height)[:, None] / height, np.arange(width) / width) / 2
    return np.maximum(f, 0.5 / max(height, width))[:, :, None] ** -0.4


def fourier_weights(height, width):
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    return np.maximum(f, 0.5 / max(height, width))[:, :, None] ** -0.4


def hartley(x):
    """Of both axes: Fourier's real part less its imaginary one."""
    for axis in (0, 1):
        found = np.fft.fft(x, axis=axis, norm="ortho")
        x = found.real - found.imag
    return x


def step(canvas, gradient):
    """What a step along the gradient of ``z`` does to the picture."""
    gradient = jnp.asarray(gradient)
    _, back = jax.vjp(canvas.decode, jnp.zeros_like(gradient))
    return canvas.decode(*back(gradient))


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_is_a_sum_of_weighed_cosines(rng, x64, size):
    """Against SciPy's cosine transform."""
    z = rng.normal(size=(*size, 3))
    expected = scipy.fft.idctn(z * cosine_weights(*size), axes=(0, 1), norm="ortho")
    assert_allclose(FREQUENCIES.decode(jnp.asarray(z)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_a_tile_is_a_sum_of_weighed_waves(rng, x64, size):
    """Against NumPy's Fourier transform."""
    z = rng.normal(size=(*size, 3))
    found = CIRCULAR_FREQUENCIES.decode(jnp.asarray(z))
    assert_allclose(found, hartley(z * fourier_weights(*size)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_a_step_weighs_each_frequency_twice(rng, x64, size):
    """Against SciPy's and NumPy's transforms; a tile's gradient rolled is its step rolled."""
    gradient = rng.normal(size=(*size, 3))
    spectrum = scipy.fft.dctn(gradient, axes=(0, 1), norm="ortho") * cosine_weights(*size) ** 2
    expected = scipy.fft.idctn(spectrum, axes=(0, 1), norm="ortho")
    assert_allclose(step(FREQUENCIES, gradient), expected, rtol=0, atol=1e-12)
    spectrum = np.fft.fft2(gradient, axes=(0, 1)) * fourier_weights(*size) ** 2
    expected = np.fft.ifft2(spectrum, axes=(0, 1))
    assert np.abs(expected.imag).max() < 1e-12
    found = step(CIRCULAR_FREQUENCIES, gradient)
    assert_allclose(found, expected.real, rtol=0, atol=1e-12)
    moved = step(CIRCULAR_FREQUENCIES, np.roll(gradient, (2, -3), (0, 1)))
    assert_allclose(moved, np.roll(found, (2, -3), (0, 1)), rtol=0, atol=1e-12)


DCT = partial(scipy.fft.dctn, axes=(0, 1), norm="ortho")
IDCT = partial(scipy.fft.idctn, axes=(0, 1), norm="ortho")
ORACLES = {"mirrored": (cosine_weights, DCT, IDCT), "circular": (fourier_weights, hartley, hartley)}


@pytest.fixture
def in_blocks(monkeypatch):
    """Sides of more than five places go in blocks of four at most."""
    monkeypatch.setattr(canvas, "_WHOLE", 5)
    monkeypatch.setattr(canvas, "_BLOCK", 4)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize("kind", KINDS)
# Both sides, with every remainder, and one alone.
@pytest.mark.parametrize("size", [(16, 6), (9, 13), (18, 7), (5, 11), (11, 3)])
def test_long_sides_in_blocks(rng, x64, in_blocks, size, kind):
    weights, forth, back = ORACLES[kind]
    weight, (z, gradient) = weights(*size), rng.normal(size=(2, *size, 3))
    picture, transposed = jax.vjp(KINDS[kind].decode, jnp.asarray(z))
    assert_allclose(picture, back(weight * z), rtol=0, atol=1e-12)
    (found,) = transposed(jnp.asarray(gradient))
    assert_allclose(found, weight * forth(gradient), rtol=0, atol=1e-12)
    assert_allclose(KINDS[kind].encode(picture), z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_no_matrix_of_a_long_side(kind):
    """Nor of the weights: they would be held through the evaluation."""

    def back_and_forth(z):
        picture, transposed = jax.vjp(KINDS[kind].decode, z)
        return transposed(picture)

    z = jax.ShapeDtypeStruct((1030, 1041, 3), jnp.float32)
    text = jax.jit(back_and_forth).lower(z).as_text()
    assert "1030x1041x3x" in text
    for large in ("1030x1030x", "1041x1041x", "1030x1041xf", "1030x1041x1x"):
        assert large not in text


@pytest.mark.parametrize("n", [181, 8193, 100_000, 2**19 - 1])
def test_angles_of_long_sides_are_exact(rng, n):
    """int32 holds no square of a side of more than 46340; so it is taken apart."""
    last = [[n - 1], [n - 1]]
    frequency, place = np.concatenate([rng.integers(n, size=(2, 50)), last], axis=1)
    given = [jnp.asarray(each, jnp.int32) for each in (frequency, place)]
    cosine = np.cos(frequency * (2 * place + 1) % (4 * n) * (np.pi / (2 * n)))
    wave = np.cos(turn := frequency * place % n * (2 * np.pi / n)) + np.sin(turn)
    cosine *= np.where(frequency == 0, 1, 2**0.5)
    # Numbers up to 6.3 are rounded by 2.4e-7.
    for found, wanted in ((canvas._cosine(*given, n), cosine), (canvas._wave(*given, n), wave)):
        assert_allclose(np.asarray(found) * n**0.5, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_loses_less_than_a_level_of_eight_bits(rng, kind):
    """At a size where the angles are large."""
    picture = jnp.asarray(rng.uniform(size=(600, 400, 3)), jnp.float32)
    again = KINDS[kind].decode(KINDS[kind].encode(picture))
    assert again.dtype == jnp.float32
    assert_allclose(again, picture, rtol=0, atol=1e-4)  # a level is 4e-3


def test_opposite_borders_know_nothing_of_each_other():
    """What is drawn at one border does not come through the other, as with a periodic transform."""
    gradient = np.zeros((64, 64, 3), np.float32)
    gradient[:, 0] = 1
    seen = np.abs(step(FREQUENCIES, gradient))
    assert seen[:, -1].max() < 0.05 * seen[:, 0].min()
