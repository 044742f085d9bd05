"""The losses against the papers' sums and derivatives, and what the mathematics promises of them.

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

# Height and width of the picture's features, and of the painting's.
SAME, OTHER = ((3, 4), (3, 4)), ((3, 4), (5, 2))

CONTENT = {
    "content_loss": losses.content_loss,
    "content_loss_per_element": losses.content_loss_per_element,
    "content_loss_relative": losses.content_loss_relative,
}
STATISTICS = {"GRAM": losses.GRAM, "RELATIVE_GRAM": losses.RELATIVE_GRAM}


def pair(rng, sizes, channels=5):
    """Two maps before their ReLU, about half of each negative."""
    return [rng.normal(size=(*size, channels)) for size in sizes]


def style_loss(statistic, features, painting):
    return statistic.distance(statistic.accumulate(features), statistic.accumulate(painting))


def close(found, expected, tolerance=1e-12):
    assert_allclose(found, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1e-3))


# The papers' equations


def test_content_loss_is_equation_1(rng, x64):
    F, P = pair(rng, SAME)
    close(losses.content_loss(F, P), reference.content_loss(F, P))


def test_content_gradient_is_equation_2(rng, x64):
    x, P = pair(rng, SAME)
    P = jax.nn.relu(P)
    gradient = jax.jit(jax.grad(lambda x: losses.content_loss(jax.nn.relu(x), P)))(x)
    close(gradient, reference.content_gradient(jax.nn.relu(x), P))


def test_gram_is_equation_3(rng, x64):
    F, _ = pair(rng, SAME)
    close(losses.gram(F), reference.gram(F))


@pytest.mark.parametrize("sizes", [SAME, OTHER])
def test_gram_distance_is_equation_4(rng, x64, sizes):
    F, A = pair(rng, sizes)
    close(style_loss(losses.GRAM, F, A), reference.style_layer_loss(F, A))


@pytest.mark.parametrize("sizes", [SAME, OTHER])
def test_style_gradient_is_equation_6(rng, x64, sizes):
    x, A = pair(rng, sizes)
    A = jax.nn.relu(A)
    loss = jax.grad(lambda x: style_loss(losses.GRAM, jax.nn.relu(x), A))
    gradient = jax.jit(loss)(x)
    close(gradient, reference.style_layer_gradient(jax.nn.relu(x), A))


def test_float32_against_the_oracle(rng):
    F, A = (a.astype(np.float32) for a in pair(rng, OTHER))
    # Rounding is 6e-8 of terms that partly cancel: 1e-5 of the result.
    assert_allclose(style_loss(losses.GRAM, F, A), reference.style_layer_loss(F, A), rtol=1e-5)
    P = F[::-1]
    assert_allclose(losses.content_loss(F, P), reference.content_loss(F, P), rtol=1e-5)


# What is not the papers'


def test_content_loss_per_element_does_not_depend_on_the_size(rng, x64):
    F, P = pair(rng, SAME)
    once = losses.content_loss_per_element(F, P)
    close(once, reference.content_loss(F, P) / F.size)
    close(losses.content_loss_per_element(np.tile(F, (2, 3, 1)), np.tile(P, (2, 3, 1))), once)


def test_relative_losses_are_relative(rng, x64):
    F, P = pair(rng, SAME)
    content = losses.content_loss_relative(F, P)
    close(content, np.sum((F - P) ** 2) / np.sum(P**2))
    close(losses.content_loss_relative(1e3 * F, 1e3 * P), content)
    close(losses.content_loss_relative(np.zeros_like(P), P), 1.0)
    F, A = pair(rng, OTHER)
    G, wanted = reference.gram(F) / 12, reference.gram(A) / 10
    style = style_loss(losses.RELATIVE_GRAM, F, A)
    close(style, np.sum((G - wanted) ** 2) / np.sum(wanted**2))
    close(style_loss(losses.RELATIVE_GRAM, 1e3 * F, 1e3 * A), style)
    close(style_loss(losses.RELATIVE_GRAM, np.zeros_like(F), A), 1.0)


@pytest.mark.parametrize("shape", [(4, 5, 3), (1, 6, 3), (6, 1, 3), (1, 1, 3)])
def test_total_variation(rng, x64, shape):
    image = rng.uniform(size=shape)
    pixels = shape[0] * shape[1]  # the library has the mean over pixels, the oracle the sum
    close(losses.total_variation(image), reference.total_variation(image) / pixels)
    gradient = jax.grad(losses.total_variation)(image)
    close(gradient, reference.total_variation_gradient(image) / pixels)


def test_total_variation_is_zero_on_constants_only(rng):
    assert losses.total_variation(jnp.full((5, 6, 3), 0.4)) == 0
    ramp = jnp.broadcast_to(jnp.arange(6.0)[None, :, None], (5, 6, 3))
    # 5 steps of 1 in each of 5 rows and 3 colours, over 30 pixels.
    assert_allclose(losses.total_variation(ramp), 75 / 30, rtol=1e-6)


# Properties


@pytest.mark.parametrize("name", CONTENT)
def test_content_losses_rest_at_their_target(rng, name):
    P = jnp.asarray(rng.normal(size=(3, 4, 5)), np.float32)
    value, gradient = jax.value_and_grad(CONTENT[name])(P, P)
    assert value == 0
    assert_array_equal(gradient, jnp.zeros_like(P))
    assert CONTENT[name](P + 1, P) > 0


@pytest.mark.parametrize("name", STATISTICS)
def test_style_losses_rest_at_their_target(rng, name):
    A = jnp.asarray(rng.normal(size=(3, 4, 5)), np.float32)

    def loss(F):
        return style_loss(STATISTICS[name], F, A)

    value, gradient = jax.value_and_grad(loss)(A)
    assert value == 0
    assert_array_equal(gradient, jnp.zeros_like(A))
    # A style has no places: any order of the same positions is the same style, up to rounding.
    moved = rng.permutation(A.reshape(12, 5)).reshape(4, 3, 5)
    assert loss(jnp.asarray(moved)) < 1e-10
    assert loss(A + 1) > 0


def test_gram_is_symmetric_and_positive_semidefinite(rng, x64):
    F = rng.normal(size=(2, 3, 9))  # fewer positions than channels: some eigenvalues are zero
    G = np.asarray(losses.gram(F))
    assert_allclose(G, G.T, rtol=0, atol=1e-13)
    eigenvalues = np.linalg.eigvalsh(G)
    assert eigenvalues.min() > -1e-12
    assert np.sum(eigenvalues > 1e-9) == 6


def test_gram_ignores_the_order_of_positions(rng, x64):
    F = rng.normal(size=(4, 5, 3))
    moved = rng.permutation(F.reshape(20, 3)).reshape(5, 4, 3)
    close(losses.gram(moved), losses.gram(F))


def test_gram_scales_with_the_square(rng, x64):
    F = rng.normal(size=(4, 5, 3))
    close(losses.gram(3 * F), 9 * losses.gram(F))
    sums = losses.gram_sums(3 * F)
    assert sums.positions == 20
    zero = losses.GramSums(jnp.zeros((3, 3)), jnp.ones(()))
    # The distance is quadratic in Gram matrices, so of the fourth degree in the features.
    once = losses.gram_distance(losses.gram_sums(F), zero)
    close(losses.gram_distance(sums, zero), 81 * once)


def plain_gram(F):
    flat = F.reshape(-1, F.shape[-1])
    return flat.T @ flat


def test_gram_gradient_against_autodiff(rng, x64):
    F, cotangent = rng.normal(size=(4, 5, 3)), rng.normal(size=(3, 3))  # not symmetric
    (found,) = jax.vjp(losses.gram, F)[1](cotangent)
    close(found, jax.vjp(plain_gram, F)[1](cotangent)[0])
    batch = rng.normal(size=(2, 4, 5, 3))
    found = jax.vmap(jax.grad(lambda F: jnp.sum(jnp.sin(losses.gram(F)))))(batch)
    close(found, jax.vmap(jax.grad(lambda F: jnp.sum(jnp.sin(plain_gram(F)))))(batch))


def test_gram_second_derivative_against_autodiff(rng, x64):
    F, direction = rng.normal(size=(2, 4, 5, 3))

    def bent(gram):
        def slope(F):
            return jnp.vdot(jax.grad(lambda F: jnp.sum(jnp.sin(gram(F))))(F), direction)

        return jax.grad(slope)(F)

    close(bent(losses.gram), bent(plain_gram))


# Weighted positions and mixed styles


def test_a_weight_repeats_positions(rng, x64):
    F = rng.normal(size=(3, 4, 5))
    times = rng.integers(0, 4, (3, 4))
    sums = losses.gram_sums(F, times.astype(float))
    repeated = np.repeat(F.reshape(12, 5), times.ravel(), axis=0)
    expected = losses.gram_sums(repeated[:, None])
    assert sums.positions == expected.positions == times.sum()
    close(sums.gram, expected.gram)
    ones = losses.gram_sums(F, np.ones((3, 4)))
    plain = losses.gram_sums(F)
    assert ones.positions == plain.positions
    close(ones.gram, plain.gram)


def test_regions_and_tiles_add_up(rng, x64):
    F = rng.normal(size=(3, 4, 5))
    whole = losses.gram_sums(F)
    mask = rng.uniform(size=(3, 4))
    for parts in (
        [losses.gram_sums(F, mask), losses.gram_sums(F, 1 - mask)],
        [losses.gram_sums(F[:1]), losses.gram_sums(F[1:])],
    ):
        close(sum(part.gram for part in parts), whole.gram)
        close(sum(part.positions for part in parts), whole.positions)


def test_gradients_at_a_weight_of_zero(rng, x64):
    """Outside its region a picture feels nothing; the mask's own gradient is finite there."""
    F, D = rng.normal(size=(3, 4, 5)), rng.normal(size=(5, 5))
    mask = np.zeros((3, 4))
    mask[1] = 1

    def loss(F, mask):
        return jnp.vdot(losses.gram_sums(F, mask).gram, D)

    features, weight = jax.grad(loss, argnums=(0, 1))(F, mask)
    assert np.all(np.asarray(features)[mask == 0] == 0)
    assert np.all(np.asarray(features)[mask == 1] != 0)
    # The Gram matrix is linear in the mask: d/dw_k = F_k^T D F_k.
    close(weight, np.einsum("hwc,cd,hwd->hw", F, D, F))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.2, 0.8), (1.0, 0.0)])
def test_blend_against_the_oracle(rng, x64, shares):
    F, A = pair(rng, OTHER)
    B = rng.normal(size=(2, 2, 5))
    target = losses.gram_blend([losses.gram_sums(A), losses.gram_sums(B)], np.array(shares))
    found = losses.gram_distance(losses.gram_sums(F), target)
    close(found, reference.blended_style_layer_loss(F, [A, B], shares))


def test_blend_pulls_like_the_weighted_sum_of_losses(rng, x64):
    F, A = pair(rng, OTHER)
    B = rng.normal(size=(2, 2, 5))
    sums, shares = [losses.gram_sums(A), losses.gram_sums(B)], np.array([0.3, 0.7])

    def blended(F):
        return losses.gram_distance(losses.gram_sums(F), losses.gram_blend(sums, shares))

    def added(F):
        each = [losses.gram_distance(losses.gram_sums(F), s) for s in sums]
        return shares[0] * each[0] + shares[1] * each[1]

    close(jax.grad(blended)(F), jax.grad(added)(F))
    assert blended(F) < added(F)  # by the variance of the targets, which nothing can remove


@pytest.mark.parametrize("name", STATISTICS)
def test_blend_of_one_is_that_one(rng, x64, name):
    statistic = STATISTICS[name]
    F, A = pair(rng, OTHER)
    B = rng.normal(size=(2, 2, 5))
    sums = [statistic.accumulate(B), statistic.accumulate(A)]
    blend = statistic.blend(sums, np.array([0.0, 1.0]))
    close(statistic.distance(statistic.accumulate(F), blend), style_loss(statistic, F, A))
    blend = statistic.blend(sums[1:], np.array([1.0]))
    close(statistic.distance(statistic.accumulate(F), blend), style_loss(statistic, F, A))


# Numbers


FEATURES = {
    "black": np.zeros((3, 4, 5), np.float32),
    "flat": np.full((3, 4, 5), 7.0, np.float32),
    "saturated": np.full((3, 4, 5), 3e4, np.float32),  # above any activation of VGG-19
}


@pytest.mark.parametrize("there", FEATURES)
@pytest.mark.parametrize("here", FEATURES)
def test_values_and_gradients_are_finite(here, there):
    F, A = FEATURES[here], FEATURES[there]
    for name, loss in CONTENT.items():
        value, gradient = jax.value_and_grad(loss)(F, A)
        assert np.isfinite(value) and np.all(np.isfinite(gradient)), name
    for name, statistic in STATISTICS.items():
        value, gradient = jax.value_and_grad(lambda F, s=statistic: style_loss(s, F, A))(F)
        assert np.isfinite(value) and np.all(np.isfinite(gradient)), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept(x64, dtype):
    """Also where x64 is on, for pictures of float32: a promoted loss would double all memory."""
    F, image = np.ones((2, 3, 4), dtype), np.ones((2, 3, 3), dtype)
    for loss in CONTENT.values():
        assert loss(F, F).dtype == dtype
    for statistic in STATISTICS.values():
        sums = statistic.accumulate(jnp.asarray(F))
        blend = statistic.blend([sums, sums], jnp.ones(2, dtype) / 2)
        assert {a.dtype for a in jax.tree.leaves((sums, blend))} == {np.dtype(dtype)}
        assert statistic.distance(sums, blend).dtype == dtype
    assert losses.total_variation(image).dtype == dtype
