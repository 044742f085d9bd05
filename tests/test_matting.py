"""The matting loss against Levin's Laplacian, and what makes it photorealism."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal

from stylejax.matting import EPSILON, matting_loss, windows

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPES = [(3, 3, 3), (4, 7, 3), (6, 5, 3)]


@jax.jit
def of_photo(image, photo):
    return matting_loss(image, windows(photo))


@jax.jit
def evaluated(image, photo):
    return jax.value_and_grad(of_photo)(image, photo)


# Levin's equation


@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient(rng, x64, shape):
    photo, image = rng.random((2, *shape))
    laplacian, pixels = reference.matting_laplacian(photo, EPSILON), shape[0] * shape[1]
    value, gradient = evaluated(image, photo)
    # The oracle inverts matrices of condition 1e6 in float64.
    assert_allclose(value, reference.matting(image, laplacian) / pixels, rtol=1e-9)
    expected = reference.matting_gradient(image, laplacian) / pixels
    assert_allclose(gradient, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def flat(photo):
    return np.full_like(photo, 0.7)


def grey(photo):
    return np.repeat(photo.mean(2, keepdims=True), 3, 2)


def black_and_white(photo):
    return (grey(photo) > 0.5).astype(photo.dtype)


def tinted(photo):
    """Colours on one line, off the diagonal."""
    return grey(photo) * np.asarray([0.9, 0.5, 0.2], photo.dtype)


def nearly_grey(photo):
    """A level of 255 off the diagonal."""
    return grey(photo) + photo / 255


PHOTOS = [flat, grey, black_and_white, tinted, nearly_grey]


@pytest.mark.parametrize("of", PHOTOS)
def test_photos_without_three_colours(rng, x64, of):
    """Where only the ridge makes the windows' matrices invertible."""
    photo, image = rng.random((2, 5, 6, 3))
    photo = of(photo)
    laplacian = reference.matting_laplacian(photo, EPSILON)
    value, gradient = evaluated(image, photo)
    # Conditions of 1e8, in the oracle.
    assert_allclose(value, reference.matting(image, laplacian) / 30, rtol=1e-7)
    expected = reference.matting_gradient(image, laplacian) / 30
    assert_allclose(gradient, expected, rtol=0, atol=1e-7 * np.abs(expected).max())


# Derivatives beyond the gradient's own rule


def test_derivative_to_the_photo(rng, x64):
    photo, image, direction = rng.random((3, 5, 4, 3))
    slope = np.sum(np.asarray(jax.grad(of_photo, 1)(image, photo)) * direction)
    difference = reference.finite_difference(partial(of_photo, image), photo, direction, 1e-6)
    assert_allclose(slope, difference, rtol=1e-6)
    _, pushed = jax.jvp(of_photo, (image, photo), (0.3 * direction, direction))
    along = 0.3 * np.sum(np.asarray(jax.grad(of_photo)(image, photo)) * direction)
    assert_allclose(pushed, slope + along, rtol=1e-9)


def test_second_derivatives(rng, x64):
    """``2 L`` to the image, both modes over both; and the mixed one to the photo."""
    photo, image, direction = rng.random((3, 4, 5, 3))
    expected = (
        reference.matting_gradient(direction, reference.matting_laplacian(photo, EPSILON)) / 20
    )
    seen = windows(photo)

    @jax.jit
    def gradient(x):
        return jax.grad(matting_loss)(x, seen)

    by_reverse = jax.grad(lambda x: jnp.sum(gradient(x) * direction))(image)
    by_forward = jax.jvp(gradient, (image,), (direction,))[1]
    for found in (by_reverse, by_forward):
        assert_allclose(found, expected, rtol=0, atol=1e-8 * np.abs(expected).max())

    @jax.jit
    def pull(photo):
        return jnp.sum(jax.grad(of_photo)(image, photo) * direction)

    slope = np.sum(np.asarray(jax.grad(pull)(photo)) * direction)
    difference = reference.finite_difference(pull, photo, direction, 1e-6)
    assert_allclose(slope, difference, rtol=1e-5)


# Properties


def test_recoloured_photos_are_free(rng, x64):
    photo = rng.random((6, 7, 3))
    scattered, _ = evaluated(rng.random(photo.shape), photo)
    value, gradient = evaluated(np.full_like(photo, 0.3), photo)
    assert abs(value) < 1e-25 and np.abs(gradient).max() < 1e-14
    # Not quite free: the ridge counts a slope, epsilon |a|^2 in each window and colour.
    matrix = rng.normal(size=(3, 3))
    value, _ = evaluated(photo @ matrix + rng.random(3), photo)
    assert 0 < value <= EPSILON * np.sum(matrix**2)
    assert value < 1e-3 * scattered


def test_another_affine_map_on_each_side_of_a_flat_strip_is_free(rng, x64):
    """Local: no window sees both sides."""
    photo = rng.random((5, 9, 3))
    photo[:, 3:6] = 0.5
    image = photo.copy()
    image[:, 6:] = 1 - photo[:, 6:]  # 0.5 stays 0.5
    assert evaluated(image, photo)[0] < 3 * EPSILON  # slopes of 1 and -1 in three colours
    image[:, 3:] = photo[::-1, 3:]
    assert evaluated(image, photo)[0] > 1e-2


def test_positive_semidefinite(rng, x64):
    photo = rng.random((4, 5, 3))
    seen = windows(photo)
    hessian = jax.hessian(lambda v: matting_loss(v.reshape(4, 5, 3), seen))(np.zeros(60))
    eigenvalues = np.linalg.eigvalsh(hessian)
    assert eigenvalues[0] > -1e-12
    # Each colour by itself: constants are free.
    assert np.sum(eigenvalues < 1e-12) >= 3


def test_independent_of_the_picture_size(rng):
    """A mean over pixels: the same at any size, but for the border, which fewer windows see."""
    photo, image = rng.random((2, 20, 20, 3)).astype(np.float32)
    small, _ = evaluated(image, photo)
    large, _ = evaluated(np.tile(image, (4, 4, 1)), np.tile(photo, (4, 4, 1)))
    assert_allclose(large / (78 / 80) ** 2, small / (18 / 20) ** 2, rtol=0.05)


# Float32


def _mean(a, b, share):
    return ((1 - share) * a + share * b).astype(np.float32)


@pytest.mark.parametrize("of", [np.asarray, *PHOTOS], ids=lambda of: of.__name__)
def test_float32(rng, of):
    """From pictures far off the photo to pictures whose loss is a millionth of theirs."""
    photo, image = rng.random((2, 32, 40, 3)).astype(np.float32)
    photo = of(np.repeat(np.repeat(photo[::4, ::4], 4, 0), 4, 1) * 0.9 + photo * 0.01)
    for share in (1.0, 1e-1, 1e-2, 1e-3):
        mixed = _mean(photo, image, share)
        value, gradient = evaluated(mixed, photo)
        with jax.enable_x64(True):
            true, pull = evaluated(mixed.astype(np.float64), photo.astype(np.float64))
        assert value.dtype == np.float32 and true.dtype == np.float64
        assert_allclose(value, true, rtol=1e-5)
        # The fit's error is of first order in the gradient: rounding times the condition of a
        # window's colours, up to 3e-4, of the picture, not of what little is left of it.
        gradient, pull = np.asarray(gradient), np.asarray(pull)
        assert np.linalg.norm(gradient - pull) < 1e-3 * np.linalg.norm(pull)


def test_plain_pictures_are_finite():
    for there in (0.0, 0.7, 1.0):
        for here in (0.0, 0.7, 1.0):
            image, photo = (np.full((5, 4, 3), level, np.float32) for level in (here, there))
            value, gradient = evaluated(image, photo)
            # Rounding of the mean of nine.
            assert 0 <= value < 1e-12
            assert np.abs(gradient).max() < 1e-7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept(x64, dtype):
    image = np.ones((4, 5, 3), dtype)
    for leaf in jax.tree.leaves((windows(image), evaluated(image, image))):
        assert leaf.dtype == dtype


def test_vmap(rng):
    photos, images = rng.random((2, 2, 5, 4, 3)).astype(np.float32)
    values, gradients = jax.jit(jax.vmap(evaluated))(images, photos)
    for value, gradient, image, photo in zip(values, gradients, images, photos, strict=True):
        alone = evaluated(image, photo)
        assert_allclose(value, alone[0], rtol=1e-5)
        assert_allclose(gradient, alone[1], rtol=0, atol=1e-5 * np.abs(alone[1]).max())


@pytest.mark.parametrize(("height", "width"), [(2, 9), (9, 2), (1, 1)])
def test_a_photo_without_a_window_is_refused(height, width):
    with pytest.raises(ValueError, match=f"{width}x{height} pixels.*at least 3x3"):
        windows(jnp.zeros((height, width, 3)))


def test_the_smallest_photo_is_one_window():
    seen = windows(jnp.zeros((3, 3, 3)))
    assert seen.mean.shape == (3, 1, 1)
    assert_array_equal(seen.size, jnp.full((3, 1, 1), jnp.float32(EPSILON)))
