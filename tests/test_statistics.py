"""The statistics of style against the papers' sums, and what the mathematics promises of each.

Tolerances: in float64 a sum of a few hundred products errs by 1e-14 of its terms, so 1e-12 of the
result leaves a wrong factor or sign no room. Where square roots of matrices are taken, twice what
is lost: 1e-9.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.linalg
import scipy.ndimage
from numpy.testing import assert_allclose, assert_array_equal

from stylejax import Adam, Config, Lbfgs, LossWeights, iterate, statistics, stylize
from stylejax.statistics import Statistic, mixed, moments, patches, quantiles
from stylejax.statistics.statistic import on_tile

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Height and width of the picture's features, and of the painting's.
SAME, OTHER = ((3, 4), (3, 4)), ((3, 4), (5, 2))

STATISTICS = {
    name: value
    for name in statistics.__all__
    if isinstance(value := getattr(statistics, name), Statistic)
}
RELATIVE = {name: value for name, value in STATISTICS.items() if name.startswith("RELATIVE_")}
MOMENTS = {name: value for name, value in STATISTICS.items() if value.additive}

# Distances of the picture's features from the painting's, each from its formula.
ORACLES = {
    "GRAM": reference.style_layer_loss,
    "COVARIANCE": reference.covariance_distance,
    "MEAN_STD": reference.mean_std_distance,
    "WASSERSTEIN": reference.wasserstein_distance,
    "HISTOGRAM": reference.histogram_distance,
    "PATCHES": reference.patch_distance,
}


def pair(rng, sizes, channels=5):
    """Two maps before their ReLU, about half of each negative."""
    return [rng.normal(size=(*size, channels)) for size in sizes]


def target_of(statistic, *paintings, shares=None, weight=None):
    summaries = [statistic.accumulate(jnp.asarray(A), weight) for A in paintings]
    dtype = jnp.asarray(paintings[0]).dtype
    shares = np.ones(len(paintings)) / len(paintings) if shares is None else shares
    return statistic.blend(summaries, jnp.asarray(shares, dtype))


@partial(jax.jit, static_argnums=0)
def style_loss(statistic, features, painting, weight=None):
    summary = statistic.accumulate(jnp.asarray(features), weight)
    return statistic.distance(summary, target_of(statistic, painting))


def close(found, expected, tolerance=1e-12):
    assert_allclose(found, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1e-3))


# The formulas


def test_gram_is_equation_3(rng, x64):
    F, _ = pair(rng, SAME)
    close(moments.gram(F), reference.gram(F))


@pytest.mark.parametrize("sizes", [SAME, OTHER])
@pytest.mark.parametrize("name", ORACLES)
def test_distances_against_the_oracle(rng, x64, name, sizes):
    F, A = pair(rng, sizes)
    found = style_loss(STATISTICS[name], F, A)
    close(found, ORACLES[name](F, A), 1e-9 if name == "WASSERSTEIN" else 1e-12)


@pytest.mark.parametrize("sizes", [SAME, OTHER])
def test_style_gradient_is_equation_6(rng, x64, sizes):
    x, A = pair(rng, sizes)
    A = jax.nn.relu(A)
    loss = jax.grad(lambda x: style_loss(statistics.GRAM, jax.nn.relu(x), A))
    gradient = jax.jit(loss)(x)
    close(gradient, reference.style_layer_gradient(jax.nn.relu(x), A))


@pytest.mark.parametrize("name", ORACLES)
def test_float32_against_the_oracle(rng, name):
    F, A = (a.astype(np.float32) for a in pair(rng, OTHER))
    # Rounding is 6e-8 of terms that partly cancel, and its root where the noise is as small.
    tolerance = 1e-3 if name == "WASSERSTEIN" else 1e-5
    assert_allclose(style_loss(STATISTICS[name], F, A), ORACLES[name](F, A), rtol=tolerance)


def test_by_hand(x64):
    """One channel, two positions: 1 and 3 in the picture, 0 and 8 in the painting."""
    F, A = np.array([[[1.0], [3.0]]]), np.array([[[0.0], [8.0]]])
    # Means 2 and 4, variances 1 and 16, second moments 5 and 32.
    expected = {
        "GRAM": 27**2 / 4,
        "COVARIANCE": 15**2 / 4,
        "MEAN_STD": 2**2 + 3**2,
        "HISTOGRAM": (1 + 25) / 2,
        "SLICED": (1 + 25) / 2,
        "RELATIVE_GRAM": 27**2 / 32**2,
        "RELATIVE_COVARIANCE": 15**2 / 16**2,
        "RELATIVE_MEAN_STD": 13 / 16,
        "RELATIVE_HISTOGRAM": 13 / 16,
        "RELATIVE_SLICED": 13 / 16,
    }
    for name, value in expected.items():
        assert_allclose(style_loss(STATISTICS[name], F, A), value, rtol=1e-12, err_msg=name)
    # With a noise of 0.016 in both variances.
    spread = (np.sqrt(16.016) - np.sqrt(1.016)) ** 2
    assert_allclose(style_loss(statistics.WASSERSTEIN, F, A), 4 + spread, rtol=1e-10)
    relative = style_loss(statistics.RELATIVE_WASSERSTEIN, F, A)
    assert_allclose(relative, (4 + spread) / 16, rtol=1e-10)


@pytest.mark.parametrize("name", RELATIVE)
def test_relative_distances_have_no_unit(rng, x64, name):
    F, A = pair(rng, OTHER)
    once = style_loss(STATISTICS[name], F, A)
    close(style_loss(STATISTICS[name], 1e3 * F, 1e3 * A), once, 1e-9)
    raw = STATISTICS[name.removeprefix("RELATIVE_")]
    ratio = style_loss(raw, F, A) / once
    # What they are divided by depends on the painting (and on sizes) only.
    close(style_loss(raw, 2 * F + 1, A) / style_loss(STATISTICS[name], 2 * F + 1, A), ratio, 1e-9)


def test_relative_gram_of_nothing_is_one(rng, x64):
    F, A = pair(rng, OTHER)
    G, wanted = reference.gram(F) / 12, reference.gram(A) / 10
    style = style_loss(statistics.RELATIVE_GRAM, F, A)
    close(style, np.sum((G - wanted) ** 2) / np.sum(wanted**2))
    close(style_loss(statistics.RELATIVE_GRAM, np.zeros_like(F), A), 1.0)


# Gradients

# The last has fewer positions than channels: covariances of rank 5 and 3 of 9.
SHAPES = {"same": ((3, 4), (3, 4), 5), "other": ((3, 4), (5, 2), 5), "few": ((2, 3), (2, 2), 9)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", STATISTICS)
def test_gradients_against_differences(rng, x64, name, shape):
    if (name, shape) == ("MEAN_WASSERSTEIN", "few"):
        # Its roots have not arrived at eigenvalues of 1e-4, and its derivative is that of exact
        # ones: the program's gradient, not the value's. test_programs.py compares it with that.
        pytest.skip("the program's gradient is not its value's there")
    *sizes, channels = SHAPES[shape]
    F, A = pair(rng, sizes, channels)
    weight = rng.uniform(0.5, 2, size=F.shape[:2])
    statistic = STATISTICS[name]

    @jax.jit
    def loss(F, A):
        return style_loss(statistic, F, A, weight)

    gradients = jax.grad(loss, argnums=(0, 1))(F, A)
    for argument in (0, 1):
        direction = rng.normal(size=(F, A)[argument].shape)

        def moved(x, argument=argument):
            return loss(x, A) if argument == 0 else loss(F, x)

        # h = 1e-6: no two values change places, no patch its match; rounding is 1e-10.
        difference = reference.finite_difference(moved, (F, A)[argument], direction, 1e-6)
        slope = float(np.sum(np.asarray(gradients[argument]) * direction))
        assert_allclose(slope, difference, rtol=2e-6, atol=1e-8, err_msg=str(argument))


@pytest.mark.parametrize("name", STATISTICS)
def test_rest_at_the_target(rng, name):
    statistic = STATISTICS[name]
    A = jnp.asarray(rng.normal(size=(3, 4, 5)), np.float32)

    @jax.jit
    @jax.value_and_grad
    def loss(F, A):
        return statistic.distance(statistic.accumulate(F), target_of(statistic, A))

    value, gradient = loss(A, A)
    far, pull = loss(A + 1, A)
    assert far > 0 and abs(value) < 1e-5 * far
    assert np.linalg.norm(gradient) < 1e-3 * np.linalg.norm(pull)


FEATURES = {
    "black": np.zeros((3, 4, 5), np.float32),
    "flat": np.full((3, 4, 5), 7.0, np.float32),
    "saturated": np.full((3, 4, 5), 3e4, np.float32),  # above any activation of VGG-19
    "one spot": np.where(np.arange(60).reshape(3, 4, 5) == 17, np.float32(5), np.float32(0)),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_values_and_gradients_are_finite(name):
    statistic = STATISTICS[name]
    loss = jax.jit(jax.value_and_grad(lambda F, A: style_loss(statistic, F, A)))
    for here, F in FEATURES.items():
        for there, A in FEATURES.items():
            value, gradient = loss(F, A)
            assert np.isfinite(value) and np.all(np.isfinite(gradient)), (here, there)


def plain_gram(F):
    flat = F.reshape(-1, F.shape[-1])
    return flat.T @ flat


def test_gram_gradient_against_autodiff(rng, x64):
    F, cotangent = rng.normal(size=(4, 5, 3)), rng.normal(size=(3, 3))  # not symmetric
    (found,) = jax.vjp(moments.gram, F)[1](cotangent)
    close(found, jax.vjp(plain_gram, F)[1](cotangent)[0])
    batch = rng.normal(size=(2, 4, 5, 3))
    found = jax.vmap(jax.grad(lambda F: jnp.sum(jnp.sin(moments.gram(F)))))(batch)
    close(found, jax.vmap(jax.grad(lambda F: jnp.sum(jnp.sin(plain_gram(F)))))(batch))


def test_gram_second_derivative_against_autodiff(rng, x64):
    F, direction = rng.normal(size=(2, 4, 5, 3))

    def bent(gram):
        def slope(F):
            return jnp.vdot(jax.grad(lambda F: jnp.sum(jnp.sin(gram(F))))(F), direction)

        return jax.grad(slope)(F)

    close(bent(moments.gram), bent(plain_gram))


# Properties


def test_gram_is_symmetric_and_positive_semidefinite(rng, x64):
    F = rng.normal(size=(2, 3, 9))  # fewer positions than channels: some eigenvalues are zero
    G = np.asarray(moments.gram(F))
    assert_allclose(G, G.T, rtol=0, atol=1e-13)
    eigenvalues = np.linalg.eigvalsh(G)
    assert eigenvalues.min() > -1e-12
    assert np.sum(eigenvalues > 1e-9) == 6


def test_gram_scales_with_the_square(rng, x64):
    F = rng.normal(size=(4, 5, 3))
    close(moments.gram(3 * F), 9 * moments.gram(F))
    sums = moments.gram_sums(3 * F)
    assert sums.positions == 20
    zero = moments.GramSums(jnp.zeros((3, 3)), jnp.ones(()))
    # The distance is quadratic in Gram matrices, so of the fourth degree in the features.
    once = moments.gram_distance(moments.gram_sums(F), zero)
    close(moments.gram_distance(sums, zero), 81 * once)


@pytest.mark.parametrize("name", [name for name in STATISTICS if "PATCHES" not in name])
def test_a_style_has_no_places(rng, x64, name):
    """Any order of positions is the same style; not with patches, which have neighbours."""
    F, A = pair(rng, OTHER)
    moved = rng.permutation(F.reshape(12, 5)).reshape(4, 3, 5)
    close(style_loss(STATISTICS[name], moved, A), style_loss(STATISTICS[name], F, A), 1e-9)


@pytest.mark.parametrize("name", STATISTICS)
def test_isometric_statistics_see_products_of_features_only(rng, x64, name):
    """A network may hand over 5 channels instead of 8 that have the same products."""
    F, A = pair(rng, OTHER)
    wide = np.linalg.qr(rng.normal(size=(8, 5)))[0].T  # [5, 8], orthonormal rows
    narrow, same = (style_loss(STATISTICS[name], F @ w, A @ w) for w in (np.eye(5), wide))
    assert np.isclose(narrow, same, rtol=1e-9) == STATISTICS[name].isometric


def test_independent_normal_distributions_are_their_means_and_deviations(x64):
    """The 2-Wasserstein distance of distributions with diagonal covariances, but for the noise."""
    corners = np.array(np.meshgrid([-1.0, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
    F = (corners * [1, 2, 3] + [1, 0, 0]).reshape(2, 4, 3)
    A = (corners * [3, 1, 3] + [0, 0, 5]).reshape(4, 2, 3)
    found = style_loss(statistics.WASSERSTEIN, F, A)
    exact = style_loss(statistics.MEAN_STD, F, A)
    assert_allclose(exact, 1 + 25 + 4 + 1, rtol=1e-12)
    assert_allclose(found, exact, rtol=5e-3)


def test_the_roots_are_scipys(rng, x64):
    half = rng.normal(size=(6, 6))
    matrix = half @ half.T
    root, inverse = moments._roots(matrix, 0.0)
    close(root, scipy.linalg.sqrtm(matrix), 1e-9)
    close(inverse, np.linalg.inv(scipy.linalg.sqrtm(matrix)), 1e-9)


def test_wasserstein_of_equal_eigenvalues(x64):
    """Where the derivative of an eigenvector is infinite."""
    corners = np.array(np.meshgrid([-1.0, 1], [-1, 1], [-1, 1])).reshape(3, 8).T.reshape(2, 4, 3)
    gradient = jax.grad(lambda F: style_loss(statistics.WASSERSTEIN, F, 2 * corners))(corners)
    # Each deviation s of 1 is to be 2, with a noise of e = 0.001 (3 16) / (3 4) in both:
    # d/ds ((s^2 + e)^1/2 - (4 + e)^1/2)^2, nearly -2, a share of it at each of 8 positions.
    slope = 2 * (1 - (4.004 / 1.004) ** 0.5)
    assert_allclose(gradient, slope / 8 * corners, rtol=1e-9)


def test_directions_are_orthonormal():
    along = quantiles.directions(7)
    assert_allclose(along.T @ along, np.eye(7), rtol=0, atol=1e-13)
    assert quantiles.directions(7) is along


def test_sliced_is_the_histogram_of_what_the_directions_see(rng, x64):
    F, A = pair(rng, OTHER)
    along = quantiles.directions(5)
    close(
        style_loss(statistics.SLICED, F, A),
        reference.histogram_distance(F @ along, A @ along),
    )


def test_resampled_quantiles(x64):
    values = np.array([[0.0], [1.0], [4.0], [9.0]])
    # The middles of halves lie between the first two and the last two values.
    assert_allclose(quantiles.resampled(values, 2)[:, 0], [0.5, 6.5])
    assert_allclose(quantiles.resampled(values, 8)[[0, 1, 2, 7], 0], [0, 0.25, 0.75, 9])
    assert quantiles.resampled(values, 4) is values


# Weighted positions


@pytest.mark.parametrize("name", STATISTICS)
def test_a_weight_of_one_is_none(rng, x64, name):
    F, A = pair(rng, OTHER)
    statistic, ones = STATISTICS[name], np.ones((3, 4))
    plain, weighted = statistic.accumulate(F), statistic.accumulate(F, ones)
    for a, b in zip(*map(jax.tree.leaves, (plain, weighted)), strict=True):
        close(b, a)
    close(style_loss(statistic, F, A, ones), style_loss(statistic, F, A))


@pytest.mark.parametrize("name", MOMENTS)
def test_a_weight_repeats_positions(rng, x64, name):
    F = rng.normal(size=(3, 4, 5))
    times = rng.integers(0, 4, (3, 4))
    repeated = np.repeat(F.reshape(12, 5), times.ravel(), axis=0)[:, None]
    found = MOMENTS[name].accumulate(F, times.astype(float))
    expected = MOMENTS[name].accumulate(repeated)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        close(a, b)


@pytest.mark.parametrize("name", MOMENTS)
def test_regions_and_tiles_add_up(rng, x64, name):
    statistic = MOMENTS[name]
    F = rng.normal(size=(3, 4, 5))
    mask = rng.uniform(size=(3, 4))
    whole = jax.tree.leaves(statistic.accumulate(F))
    for parts in (
        [statistic.accumulate(F, mask), statistic.accumulate(F, 1 - mask)],
        [statistic.accumulate(F[:1]), statistic.accumulate(F[1:])],
    ):
        for part, total in zip(jax.tree.leaves(jax.tree.map(jnp.add, *parts)), whole, strict=True):
            close(part, total)


@pytest.mark.parametrize("name", ["COVARIANCE", "MEAN_STD", "WASSERSTEIN", "HISTOGRAM", "PATCHES"])
def test_weighted_distances_against_the_oracle(rng, x64, name):
    F, A = pair(rng, OTHER)
    weight = rng.uniform(size=(3, 4)) * (rng.uniform(size=(3, 4)) > 0.3)
    found = style_loss(STATISTICS[name], F, A, weight)
    close(found, ORACLES[name](F, A, weight), 1e-9 if name == "WASSERSTEIN" else 1e-12)


@pytest.mark.parametrize("name", STATISTICS)
def test_what_has_no_weight_is_not_there(rng, x64, name):
    """Outside its region neither picture nor painting matters, nor is the picture pulled."""
    statistic = STATISTICS[name]
    F, A = pair(rng, ((4, 5), (4, 5)))
    mask = np.zeros((4, 5))
    mask[1:3, 1:3] = 1
    # Patches look one position further than their centre.
    outside = scipy.ndimage.maximum_filter(mask, 3 if "PATCHES" in name else 1) == 0
    other = np.where(outside[:, :, None], 100 * rng.normal(size=F.shape), 0)

    @jax.jit
    @jax.value_and_grad
    def loss(F, A):
        target = target_of(statistic, A, weight=mask)
        return statistic.distance(statistic.accumulate(F, mask), target)

    once, gradient = loss(F, A)
    close(loss(F + other, A + other)[0], once, 1e-9)
    assert np.all(np.asarray(gradient)[outside] == 0)
    assert np.any(np.asarray(gradient)[1:3, 1:3] != 0)


def test_the_gradient_of_a_mask(rng, x64):
    F, D = rng.normal(size=(3, 4, 5)), rng.normal(size=(5, 5))
    mask = np.zeros((3, 4))
    mask[1] = 1
    weight = jax.grad(lambda mask: jnp.vdot(moments.gram_sums(F, mask).gram, D))(mask)
    # The Gram matrix is linear in the mask: d/dw_k = F_k^T D F_k.
    close(weight, np.einsum("hwc,cd,hwd->hw", F, D, F))


# Several styles


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.2, 0.8), (1.0, 0.0)])
def test_blend_against_the_oracle(rng, x64, shares):
    F, A = pair(rng, OTHER)
    B = rng.normal(size=(2, 2, 5))
    target = target_of(statistics.GRAM, A, B, shares=shares)
    found = moments.gram_distance(moments.gram_sums(F), target)
    close(found, reference.blended_style_layer_loss(F, [A, B], shares))


# Those whose distance is a square of differences, between pictures of any size.
QUADRATIC = ["GRAM", "COVARIANCE", "MEAN_STD", "HISTOGRAM", "SLICED"]


@pytest.mark.parametrize("name", QUADRATIC)
def test_blend_pulls_like_the_weighted_sum_of_losses(rng, x64, name):
    statistic = STATISTICS[name]
    F, A = pair(rng, OTHER)
    B = rng.normal(size=(5, 2, 5))
    shares = np.array([0.3, 0.7])

    def blended(F):
        return statistic.distance(
            statistic.accumulate(F), target_of(statistic, A, B, shares=shares)
        )

    def added(F):
        return shares[0] * style_loss(statistic, F, A) + shares[1] * style_loss(statistic, F, B)

    close(jax.grad(blended)(F), jax.grad(added)(F))
    assert blended(F) < added(F)  # by the variance of the targets, which nothing can remove


@pytest.mark.parametrize("name", STATISTICS)
def test_blend_of_one_is_that_one(rng, x64, name):
    statistic = STATISTICS[name]
    F, A = pair(rng, OTHER)
    B = rng.normal(size=(2, 2, 5))
    summary, once = statistic.accumulate(F), style_loss(statistic, F, A)
    close(statistic.distance(summary, target_of(statistic, B, A, shares=[0.0, 1.0])), once)
    close(statistic.distance(summary, target_of(statistic, A, A, shares=[0.4, 0.6])), once, 1e-9)


# Patches


@pytest.mark.parametrize("sizes", [SAME, OTHER, ((1, 1), (2, 3))])
def test_the_nearest_patches_are_the_oracles(rng, monkeypatch, sizes):
    F, A = pair(rng, sizes)
    target = target_of(statistics.PATCHES, A)
    expected = reference.nearest_patches(F, A)
    framed = statistics.PATCHES.accumulate(jnp.asarray(F)).features
    assert_array_equal(patches.nearest(framed, target), expected)
    monkeypatch.setattr(patches, "CHUNK", 5)  # does not divide the number of positions
    assert_array_equal(patches.nearest(framed, target), expected)


@pytest.mark.parametrize("sizes", [SAME, OTHER, ((1, 1), (2, 3))])
def test_a_tile_s_patches_go_on_from_its_other_side(rng, x64, sizes):
    F, A = pair(rng, sizes)
    weight = rng.uniform(size=F.shape[:2])
    target = target_of(statistics.PATCHES, A)  # a painting is no tile
    of_tile = on_tile(statistics.PATCHES)
    expected = reference.patch_distance(F, A, weight, tile=True)
    close(of_tile.distance(of_tile.accumulate(F, weight), target), expected)
    rolled = of_tile.accumulate(np.roll(F, (1, 2), (0, 1)), np.roll(weight, (1, 2), (0, 1)))
    close(of_tile.distance(rolled, target), expected)
    both = statistics.mixed((statistics.GRAM, 1.0), (statistics.PATCHES, 0.5))
    mixture = on_tile(both).accumulate(F, weight)
    wanted = both.blend([both.accumulate(A)], np.ones(1))
    gram = statistics.GRAM.distance(mixture[0], wanted[0])
    close(both.distance(mixture, wanted), gram + 0.5 * expected)


def test_only_patches_know_of_a_tile():
    knowing = {name for name, s in STATISTICS.items() if on_tile(s) != s}
    assert knowing == {name for name in STATISTICS if "patch" in STATISTICS[name].name}


def test_large_paintings_are_thinned_out(rng, monkeypatch):
    A = rng.normal(size=(7, 5, 2)).astype(np.float32)
    monkeypatch.setattr(patches, "MOST", 12)
    target = target_of(statistics.PATCHES, A)
    assert target.patches.shape == (12, 3, 3, 2)  # every second row of 7 and column of 5
    assert_array_equal(target.patches[0, 1, 1], A[0, 0])
    assert_array_equal(target.patches[4, 1, 1], A[2, 2])


def test_of_patches_alike_the_preferred_one_is_taken(rng):
    A = rng.normal(size=(3, 4, 5)).astype(np.float32)
    B = A + np.float32(1e-3) * rng.normal(size=A.shape).astype(np.float32)
    framed = statistics.PATCHES.accumulate(A).features
    for shares, first in (((0.8, 0.2), 0), ((0.2, 0.8), 12)):
        target = target_of(statistics.PATCHES, A, B, shares=shares)
        assert_array_equal(patches.nearest(framed, target), np.arange(12) + first)


# Mixtures


def test_a_mixture_is_the_weighted_sum(rng, x64):
    F, A = pair(rng, OTHER)
    B = rng.normal(size=(2, 2, 5))
    mixture = mixed(*((statistic, i + 0.5) for i, statistic in enumerate(STATISTICS.values())))
    weight = rng.uniform(size=(3, 4))

    def loss(statistic):
        target = target_of(statistic, A, B, shares=[0.3, 0.7])
        return statistic.distance(statistic.accumulate(F, weight), target)

    expected = sum((i + 0.5) * loss(statistic) for i, statistic in enumerate(STATISTICS.values()))
    close(loss(mixture), expected, 1e-12)


def test_equal_mixtures_are_one_value():
    once = mixed((statistics.GRAM, 1), (statistics.SLICED, 0.5))
    again = mixed((statistics.GRAM, 1.0), (statistics.SLICED, 0.5))
    assert once == again and hash(once) == hash(again)
    assert once != mixed((statistics.GRAM, 1.0), (statistics.SLICED, 0.25))
    assert once.name == "gram + 0.5 sliced"
    assert not once.additive and not once.isometric
    sums = mixed((statistics.RELATIVE_GRAM, 1), (statistics.RELATIVE_WASSERSTEIN, 2))
    assert sums.additive and sums.isometric


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_mixtures_that_make_no_sense(weight):
    with pytest.raises(ValueError, match="the weight of gram is"):
        mixed((statistics.GRAM, weight))
    with pytest.raises(ValueError, match="no parts"):
        mixed()


# All together


def test_names_are_legible_and_differ():
    assert {name.lower().replace("_", " ") for name in STATISTICS} == {
        statistic.name.replace("-", " ") for statistic in STATISTICS.values()
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", STATISTICS)
def test_the_dtype_is_kept(x64, name, dtype):
    """Also where x64 is on, for pictures of float32: a promoted loss would double all memory."""
    statistic = STATISTICS[name]
    F, weight = jnp.ones((2, 3, 4), dtype), jnp.ones((2, 3), dtype)

    def compared(*given):
        summary = statistic.accumulate(*given)
        target = statistic.blend([summary, summary], jnp.ones(2, dtype) / 2)
        return summary, target, statistic.distance(summary, target)

    for given in ((F,), (F, weight)):
        made = jax.eval_shape(compared, *given)
        assert {a.dtype for a in jax.tree.leaves(made)} == {np.dtype(dtype)}


@pytest.mark.parametrize("name", STATISTICS)
def test_vmap_over_pictures_and_paintings(rng, x64, name):
    statistic = STATISTICS[name]
    F, A = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 5, 2, 5))
    loss = jax.value_and_grad(lambda F, A: style_loss(statistic, F, A))
    value, gradient = jax.jit(jax.vmap(loss))(F, A)
    for i in range(2):
        one, slope = loss(F[i], A[i])
        close(value[i], one, 1e-9)
        close(gradient[i], slope, 1e-9)


EVERYTHING = (
    (
        "relu1_1",
        mixed(*((statistic, 0.5) for name, statistic in RELATIVE.items() if "PATCH" not in name)),
    ),
    ("relu2_1", statistics.RELATIVE_PATCHES),
    ("relu3_1", statistics.RELATIVE_GRAM),
)


@pytest.mark.parametrize("optimizer", [Lbfgs(), pytest.param(Adam(), marks=pytest.mark.long)])
def test_pictures_are_made_with_all_of_them(tiny, rng, optimizer):
    """Two styles, two scales, other statistics at every layer; stylize and iterate alike."""
    photo, *paintings = (
        rng.uniform(size=size).astype(np.float32)
        for size in ((24, 20, 3), (16, 28, 3), (20, 20, 3))
    )
    config = Config(
        content_layers=("relu2_2",),
        style_layers=tuple(layer for layer, _ in EVERYTHING),
        style_statistic=EVERYTHING,
        optimizer=optimizer,
        steps=4,
        scales=2,
    )
    weights = LossWeights(style=20.0, styles=(2.0, 1.0))
    result = stylize(tiny, photo, paintings, config=config, loss_weights=weights)
    for history in result.history:
        assert history.terms.total[-1] < history.terms.total[0]
    *_, last = iterate(tiny, photo, paintings, config=config, loss_weights=weights)
    assert_allclose(last.image, result.image, rtol=0, atol=1e-3)


def test_folded_taps_make_the_same_isometric_losses(rng):
    """What presets.prepare relies on for the built-in network."""
    tap = rng.normal(size=(4, 9)).astype(np.float32)
    folded = np.linalg.qr(tap.T, mode="r").T
    F, A = (a.astype(np.float32) for a in pair(rng, OTHER, 4))
    for name, statistic in RELATIVE.items():
        if statistic.isometric:
            wide, narrow = (style_loss(statistic, F @ t, A @ t) for t in (tap, folded))
            assert_allclose(narrow, wide, rtol=2e-3, err_msg=name)
