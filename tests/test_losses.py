"""The losses of content against the paper's sums and derivatives, and total variation.

Tolerances: in float64 a sum of a few hundred products errs by 1e-14 of its terms, so 1e-12 of the
result leaves a wrong factor or sign no room.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal

from stylejax import losses

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONTENT = {
    "content_loss": losses.content_loss,
    "content_loss_per_element": losses.content_loss_per_element,
    "content_loss_mean_square": losses.content_loss_mean_square,
    "content_loss_sum_of_squares": losses.content_loss_sum_of_squares,
    "content_loss_relative": losses.content_loss_relative,
}


def pair(rng):
    """Two maps before their ReLU, about half of each negative."""
    return rng.normal(size=(2, 3, 4, 5))


def close(found, expected, tolerance=1e-12):
    assert_allclose(found, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1e-3))


# The papers' equations


def test_content_loss_is_equation_1(rng, x64):
    F, P = pair(rng)
    close(losses.content_loss(F, P), reference.content_loss(F, P))


def test_content_gradient_is_equation_2(rng, x64):
    x, P = pair(rng)
    P = jax.nn.relu(P)
    gradient = jax.jit(jax.grad(lambda x: losses.content_loss(jax.nn.relu(x), P)))(x)
    close(gradient, reference.content_gradient(jax.nn.relu(x), P))


def test_float32_against_the_oracle(rng):
    F, P = pair(rng).astype(np.float32)
    # Rounding is 6e-8 of terms that partly cancel: 1e-5 of the result.
    assert_allclose(losses.content_loss(F, P), reference.content_loss(F, P), rtol=1e-5)


# What is not the papers'


def test_content_loss_per_element_does_not_depend_on_the_size(rng, x64):
    F, P = pair(rng)
    once = losses.content_loss_per_element(F, P)
    close(once, reference.content_loss(F, P) / F.size)
    close(losses.content_loss_per_element(np.tile(F, (2, 3, 1)), np.tile(P, (2, 3, 1))), once)


def test_forms_of_other_programs(rng, x64):
    F, P = pair(rng)
    close(losses.content_loss_mean_square(F, P), np.mean((F - P) ** 2))
    close(losses.content_loss_sum_of_squares(F, P), np.sum((F - P) ** 2))


def test_the_relative_loss_is_relative(rng, x64):
    F, P = pair(rng)
    content = losses.content_loss_relative(F, P)
    close(content, np.sum((F - P) ** 2) / np.sum(P**2))
    close(losses.content_loss_relative(1e3 * F, 1e3 * P), content)
    close(losses.content_loss_relative(np.zeros_like(P), P), 1.0)


@pytest.mark.parametrize("shape", [(4, 5, 3), (1, 6, 3), (6, 1, 3), (1, 1, 3)])
def test_total_variation(rng, x64, shape):
    image = rng.uniform(size=shape)
    pixels = shape[0] * shape[1]  # the library has the mean over pixels, the oracle the sum
    close(losses.total_variation(image), reference.total_variation(image) / pixels)
    gradient = jax.grad(losses.total_variation)(image)
    close(gradient, reference.total_variation_gradient(image) / pixels)


@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 1, 3), (1, 1, 3)])
def test_circular_variation(rng, x64, shape):
    """That of a row and a column more, whose own differences are taken off again."""
    image = rng.uniform(size=shape)
    wider = np.pad(image, ((0, 1), (0, 1), (0, 0)), "wrap")
    twice = reference.total_variation(wider[-1:]) + reference.total_variation(wider[:, -1:])
    expected = (reference.total_variation(wider) - twice) / (shape[0] * shape[1])
    close(losses.circular_variation(image), expected)
    rolled = np.roll(image, (1, 2), (0, 1))
    close(losses.circular_variation(rolled), expected)
    direction = rng.normal(size=shape)
    slope = np.sum(jax.grad(losses.circular_variation)(image) * direction)
    difference = reference.finite_difference(losses.circular_variation, image, direction, 1e-5)
    assert_allclose(slope, difference, rtol=1e-8, atol=1e-10)


def test_total_variation_is_zero_on_constants_only(rng):
    assert losses.total_variation(jnp.full((5, 6, 3), 0.4)) == 0
    ramp = jnp.broadcast_to(jnp.arange(6.0)[None, :, None], (5, 6, 3))
    # 5 steps of 1 in each of 5 rows and 3 colours, over 30 pixels.
    assert_allclose(losses.total_variation(ramp), 75 / 30, rtol=1e-6)


VARIATIONS = {
    "absolute_variation": losses.absolute_variation,
    "cropped_variation": losses.cropped_variation,
    "power_variation": losses.power_variation,
    "nine_point_variation": losses.nine_point_variation,
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_variations_by_hand(x64, name):
    """One step down of 1, from the first row of two to the second, in one colour of three."""
    step = np.zeros((2, 3, 3))
    step[1, :, 1] = 1
    expected = {
        # Three columns step down, two of them with a neighbour to the right.
        "absolute_variation": 3,
        "cropped_variation": 2 / 2,
        "power_variation": 2,
        # Down: 3 of 2 * 3 * 3 differences; the border, repeated, has no more. Diagonals, both:
        # the middle row of 3 x 4 x 3.
        "nine_point_variation": 2 * (3 / 18 / 3 + 2 * 4 / 36 / 12),
    }
    assert_allclose(VARIATIONS[name](step), expected[name], rtol=1e-14)
    assert_allclose(VARIATIONS[name](1 - step), expected[name], rtol=1e-14)
    assert_allclose(VARIATIONS[name](np.full((4, 5, 3), 0.3)), 0, atol=1e-15)


@pytest.mark.parametrize("name", VARIATIONS)
def test_gradients_of_variations(rng, x64, name):
    image, direction = rng.uniform(size=(2, 5, 4, 3))
    gradient = jax.grad(VARIATIONS[name])(image)
    difference = reference.finite_difference(VARIATIONS[name], image, direction, 1e-7)
    assert_allclose(np.sum(gradient * direction), difference, rtol=1e-6)
    flat = jax.grad(VARIATIONS[name])(jnp.full((3, 4, 3), 0.3))
    assert_allclose(flat, np.zeros((3, 4, 3)), atol=1e-15)


# Dreaming


def test_the_dream_is_bounded(rng, x64):
    P = rng.normal(size=(3, 4, 5))
    photo = losses.activity(P)
    close(photo, np.mean(P**2))
    close(losses.dream_loss(P, photo), 1.0)
    close(losses.dream_loss(0 * P, photo), 2.0)
    close(losses.dream_loss(3 * P, photo), 2 / 10)
    close(losses.dream_loss(7 * P, losses.activity(7 * P)), 1.0)  # no unit
    assert losses.dream_loss(1e6 * P, photo) < 1e-11
    value, gradient = jax.value_and_grad(losses.dream_loss)(0 * P, losses.activity(0 * P))
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_the_dream_pulls_upwards(rng, x64):
    F, P = pair(rng)
    gradient = jax.grad(losses.dream_loss)(F, losses.activity(P))
    # Against the features themselves, and by the formula.
    p, f = np.mean(P**2), np.mean(F**2)
    close(gradient, -4 * p / (p + f) ** 2 * F / F.size)


# Gradients of a length of their own


def test_unit_gradient(rng, x64):
    F, P = pair(rng)
    plain, own = jax.value_and_grad(losses.content_loss)(F, P)
    value, gradient = jax.value_and_grad(
        lambda F: 7 * losses.with_unit_gradient(losses.content_loss, F, P)
    )(F)
    close(value, 7 * plain)
    close(gradient, 7 * own / np.sum(np.abs(own)), 1e-8)
    scaled = jax.grad(
        lambda F: losses.with_unit_gradient(lambda F, P: 1e6 * losses.content_loss(F, P), F, P)
    )(F)
    close(7 * scaled, gradient, 1e-8)
    rest = jax.grad(lambda F: losses.with_unit_gradient(losses.content_loss, F, P))(P)
    assert_array_equal(rest, np.zeros_like(P))


# Properties and numbers


@pytest.mark.parametrize("name", CONTENT)
def test_content_losses_rest_at_their_target(rng, name):
    P = jnp.asarray(rng.normal(size=(3, 4, 5)), np.float32)
    value, gradient = jax.value_and_grad(CONTENT[name])(P, P)
    assert value == 0
    assert_array_equal(gradient, jnp.zeros_like(P))
    assert CONTENT[name](P + 1, P) > 0


# Black, flat, and above any activation of VGG-19.
LEVELS = (0.0, 7.0, 3e4)


@pytest.mark.parametrize("name", CONTENT)
def test_values_and_gradients_are_finite(name):
    for here in LEVELS:
        for there in LEVELS:
            F, P = (np.full((3, 4, 5), level, np.float32) for level in (here, there))
            value, gradient = jax.value_and_grad(CONTENT[name])(F, P)
            assert np.isfinite(value) and np.all(np.isfinite(gradient)), (here, there)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept(x64, dtype):
    """Also where x64 is on, for pictures of float32: a promoted loss would double all memory."""
    F, image = np.ones((2, 3, 4), dtype), np.ones((2, 3, 3), dtype)
    for loss in CONTENT.values():
        assert loss(F, F).dtype == dtype
    assert losses.total_variation(image).dtype == dtype
