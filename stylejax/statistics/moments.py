"""Statistics that follow from sums of features and of their products over positions.

Equation numbers are those of Gatys, Ecker and Bethge, "A Neural Algorithm of Artistic Style", 2015.
Sums are in the features' dtype with full float32 products on every device; of bfloat16 features,
whose products float32 holds exactly, sums are float32.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stylejax.losses import at_least_tiny, widened
from stylejax.statistics.statistic import Statistic, per_position, weighted_mean


def gram(features: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """``G_ij = sum_k F_ik F_jk`` (eq. 3): ``[h, w, c]`` to ``[c, c]``, not normalised.

    With a weight ``[h, w]``, ``sum_k t_k F_ik F_jk``. On GPUs products are TF32 where
    ``jax.default_matmul_precision`` is ``"tensorfloat32"``.
    """
    settings: Any = jax.config
    quick = settings.jax_default_matmul_precision == "tensorfloat32"
    return _gram(features, weight, quick)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gram(features: jax.Array, weight: jax.Array | None, quick: bool) -> jax.Array:
    weighted = features if weight is None else _weighted(features, weight)
    channels = features.shape[-1]
    wide = jnp.promote_types(features.dtype, jnp.float32)
    flat = features.reshape(-1, channels)
    return _matmul(weighted.reshape(-1, channels).T, flat, wide, quick)


def _gram_forward(
    features: jax.Array, weight: jax.Array | None, quick: bool
) -> tuple[jax.Array, tuple[jax.Array, jax.Array | None]]:
    return _gram(features, weight, quick), (features, weight)


def _gram_backward(
    quick: bool, saved: tuple[jax.Array, jax.Array | None], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    # One product where the derived rule has two, F D + F D^T.
    features, weight = saved
    both = (cotangent + cotangent.T).astype(features.dtype)
    pulled = _matmul(features, both, features.dtype, quick)
    if weight is None:
        return pulled, None
    return _weighted(pulled, weight), jnp.sum(widened(features) * pulled, axis=-1) / 2


_gram.defvjp(_gram_forward, _gram_backward)


def _weighted(features: jax.Array, weight: jax.Array) -> jax.Array:
    return (features * weight[:, :, None]).astype(features.dtype)


def _matmul(a: jax.Array, b: jax.Array, dtype: Any, quick: bool) -> jax.Array:
    """Of float32 numbers a GPU makes a matrix product seven times slower than of TF32."""

    def at(precision: str) -> Callable[..., jax.Array]:
        return partial(jnp.matmul, precision=precision, preferred_element_type=dtype)

    if not quick:
        return at("highest")(a, b)
    return jax.lax.platform_dependent(a, b, cuda=at("default"), default=at("highest"))


# Gram matrices


class GramSums(NamedTuple):
    """The Gram matrix ``[c, c]`` summed over positions, and how many positions (scalar)."""

    gram: jax.Array
    positions: jax.Array


def gram_sums(features: jax.Array, weight: jax.Array | None = None) -> GramSums:
    """The Gram matrix of features ``[h, w, c]``, each position counted ``weight`` ``[h, w]`` times.

    Without a weight every position counts once.
    """
    if weight is None:
        product = gram(features)
        positions = features.shape[0] * features.shape[1]
        return GramSums(product, jnp.asarray(positions, product.dtype))
    return GramSums(gram(features, weight), jnp.sum(widened(weight)))


def gram_distance(sums: GramSums, target: GramSums) -> jax.Array:
    """``E_l = 1 / (4 N^2) sum_ij (G_ij / M - A_ij / M_a)^2``.

    With as many positions in the style image as in the picture this is eq. 4,
    ``1 / (4 N^2 M^2) sum_ij (G_ij - A_ij)^2``; a style image of another size has its own ``M_a``.
    """
    difference = per_position(*sums) - per_position(*target)
    return jnp.sum(jnp.square(difference)) / (4 * difference.size)


def gram_mean_distance(sums: GramSums, target: GramSums) -> jax.Array:
    """``1 / N^2 sum_ij (G_ij / (N M) - A_ij / (N M_a))^2``, a mean square of means.

    The form of neural-style and most programs after it. It is ``4 / N^2`` of eq. 4, so that wide
    layers count for less than in the paper.
    """
    return 4 * gram_distance(sums, target) / sums.gram.shape[0] ** 2


def gram_relative_distance(sums: GramSums, target: GramSums) -> jax.Array:
    """``sum_ij (G_ij / M - A_ij / M_a)^2 / sum_ij (A_ij / M_a)^2``: the relative error.

    Not the paper's: eq. 4 weighs a layer by the fourth power of its activations, which differ by
    a factor of 1000 between the layers of the original VGG-19 (Gatys et al. normalised the network
    instead). With this every layer starts at about one, whatever the network.
    """
    wanted = per_position(*target)
    difference = per_position(*sums) - wanted
    return jnp.sum(jnp.square(difference)) / at_least_tiny(jnp.sum(jnp.square(wanted)))


def gram_blend(sums: Sequence[GramSums], shares: jax.Array) -> GramSums:
    """The weighted mean of several styles' Gram matrices per position.

    Pulling towards this mean has the same gradient as the weighted sum of the losses against each
    style, at the price of one.

    Args:
      sums: one per style.
      shares: ``[len(sums)]``, adding up to 1.
    """
    mean = weighted_mean([per_position(*s) for s in sums], shares)
    return GramSums(mean, jnp.ones((), mean.dtype))


GRAM = Statistic(gram_sums, gram_distance, gram_blend, name="gram", additive=True)
MEAN_GRAM = Statistic(gram_sums, gram_mean_distance, gram_blend, name="mean gram", additive=True)
RELATIVE_GRAM = Statistic(
    gram_sums,
    gram_relative_distance,
    gram_blend,
    name="relative gram",
    additive=True,
    isometric=True,
)


# Covariances, which are Gram matrices of what differs from the mean


class GaussianSums(NamedTuple):
    """``sum_k F_k F_k^T`` ``[c, c]``, ``sum_k F_k`` ``[c]`` and the number of positions."""

    gram: jax.Array
    total: jax.Array
    positions: jax.Array


class Gaussian(NamedTuple):
    """A mean ``[c]`` and a covariance ``[c, c]``."""

    mean: jax.Array
    covariance: jax.Array


def gaussian_sums(features: jax.Array, weight: jax.Array | None = None) -> GaussianSums:
    """The sums of features ``[h, w, c]``, each position counted ``weight`` ``[h, w]`` times."""
    product, positions = gram_sums(features, weight)
    features = widened(features)
    counted = features if weight is None else features * weight[:, :, None]
    return GaussianSums(product, jnp.sum(counted, axis=(0, 1)), positions)


def gaussian(sums: GaussianSums) -> Gaussian:
    """The normal distribution with the features' mean and covariance."""
    mean = per_position(sums.total, sums.positions)
    return Gaussian(mean, per_position(sums.gram, sums.positions) - jnp.outer(mean, mean))


def covariance_distance(sums: GaussianSums, target: Gaussian) -> jax.Array:
    """``1 / (4 N^2) sum_ij (C_ij - C'_ij)^2``: eq. 4 of the features less their mean."""
    difference = gaussian(sums).covariance - target.covariance
    return jnp.sum(jnp.square(difference)) / (4 * difference.size)


def covariance_relative_distance(sums: GaussianSums, target: Gaussian) -> jax.Array:
    """``sum_ij (C_ij - C'_ij)^2 / sum_ij C'_ij^2``."""
    difference = gaussian(sums).covariance - target.covariance
    square = jnp.sum(jnp.square(target.covariance))
    return jnp.sum(jnp.square(difference)) / at_least_tiny(square)


def gaussian_blend(sums: Sequence[GaussianSums], shares: jax.Array) -> Gaussian:
    """The weighted means of several styles' means and covariances.

    Not the covariance of all their positions together, to which the distance between the styles'
    means would add a spread that none of them has.
    """
    each = [gaussian(s) for s in sums]
    return Gaussian(
        weighted_mean([g.mean for g in each], shares),
        weighted_mean([g.covariance for g in each], shares),
    )


COVARIANCE = Statistic(
    gaussian_sums, covariance_distance, gaussian_blend, name="covariance", additive=True
)
RELATIVE_COVARIANCE = Statistic(
    gaussian_sums,
    covariance_relative_distance,
    gaussian_blend,
    name="relative covariance",
    additive=True,
    isometric=True,
)


# Mean and standard deviation of each channel


class MomentSums(NamedTuple):
    """``sum_k F_k`` ``[c]``, ``sum_k F_k^2`` ``[c]`` and the number of positions."""

    total: jax.Array
    square: jax.Array
    positions: jax.Array


class MeanStd(NamedTuple):
    """Mean and standard deviation of every channel, ``[c]`` each."""

    mean: jax.Array
    std: jax.Array


def moment_sums(features: jax.Array, weight: jax.Array | None = None) -> MomentSums:
    """The sums of features ``[h, w, c]``, each position counted ``weight`` ``[h, w]`` times."""
    features = widened(features)
    counted = features if weight is None else features * weight[:, :, None]
    positions = features.shape[0] * features.shape[1] if weight is None else jnp.sum(weight)
    return MomentSums(
        jnp.sum(counted, axis=(0, 1)),
        jnp.sum(counted * features, axis=(0, 1)),
        jnp.asarray(positions, features.dtype),
    )


def mean_std(sums: MomentSums) -> MeanStd:
    """Mean and standard deviation; a deviation that is all rounding is 0, with a gradient of 0."""
    mean = per_position(sums.total, sums.positions)
    square = per_position(sums.square, sums.positions)
    variance = square - jnp.square(mean)
    varies = variance > jnp.finfo(variance.dtype).eps * square
    # The inner where: a gradient through sqrt(0) is infinite, and NaN once it is masked.
    return MeanStd(mean, jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1)), 0))


def mean_std_distance(sums: MomentSums, target: MeanStd) -> jax.Array:
    """``sum_i (m_i - m'_i)^2 + (s_i - s'_i)^2``.

    The statistic of Huang and Belongie, "Arbitrary Style Transfer in Real-time with Adaptive
    Instance Normalization", 2017; and the squared 2-Wasserstein distance between normal
    distributions whose channels are independent.
    """
    found = mean_std(sums)
    return jnp.sum(jnp.square(found.mean - target.mean) + jnp.square(found.std - target.std))


def mean_std_relative_distance(sums: MomentSums, target: MeanStd) -> jax.Array:
    """``mean_std_distance`` divided by ``sum_i s'_i^2``, the target's variance."""
    return mean_std_distance(sums, target) / at_least_tiny(jnp.sum(jnp.square(target.std)))


def mean_std_blend(sums: Sequence[MomentSums], shares: jax.Array) -> MeanStd:
    """The weighted means of several styles' means and standard deviations."""
    each = [mean_std(s) for s in sums]
    return MeanStd(
        weighted_mean([m.mean for m in each], shares), weighted_mean([m.std for m in each], shares)
    )


MEAN_STD = Statistic(moment_sums, mean_std_distance, mean_std_blend, name="mean-std", additive=True)
RELATIVE_MEAN_STD = Statistic(
    moment_sums, mean_std_relative_distance, mean_std_blend, name="relative mean-std", additive=True
)


# The 2-Wasserstein distance between normal distributions

# How much is added to both covariances, beside their own size. See docs/decisions.md.
_NOISE = 1e-3


class WassersteinTarget(NamedTuple):
    """The normal distribution to reach, with some noise in it, and what its steps share.

    Attributes:
      mean: ``[c]``.
      covariance: ``[c, c]``, with the noise.
      root: ``[c, c]``, its square root.
      inverse_root: ``[c, c]``.
      noise: scalar, the variance of the noise.
    """

    mean: jax.Array
    covariance: jax.Array
    root: jax.Array
    inverse_root: jax.Array
    noise: jax.Array


def _product(*matrices: jax.Array) -> jax.Array:
    result = matrices[0]
    for matrix in matrices[1:]:
        result = jnp.matmul(result, matrix, precision="highest")
    return result


def _roots(matrix: jax.Array, least: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Square root and inverse square root of a symmetric matrix with eigenvalues from least on."""
    values, vectors = jnp.linalg.eigh(matrix)
    root = jnp.sqrt(jnp.maximum(values, least))[None]
    return _product(vectors * root, vectors.T), _product(vectors / root, vectors.T)


@jax.custom_jvp
def _shared_root(covariance: jax.Array, target: WassersteinTarget) -> jax.Array:
    """``tr (B^1/2 A B^1/2)^1/2`` of a covariance ``A`` and the target's ``B``."""
    values = jnp.linalg.eigvalsh(_product(target.root, covariance, target.root))
    return jnp.sum(jnp.sqrt(jnp.maximum(values, jnp.square(target.noise))))


@_shared_root.defjvp
def _shared_root_jvp(
    primals: tuple[jax.Array, WassersteinTarget], tangents: tuple[jax.Array, WassersteinTarget]
) -> tuple[jax.Array, jax.Array]:
    """``1/2 <T, dA> + 1/2 <T^-1, dB>`` with ``T = B^1/2 (B^1/2 A B^1/2)^-1/2 B^1/2``.

    ``T`` is the linear map that takes the one distribution to the other. Derived, not
    differentiated: the derivative of an eigenvector is infinite where two eigenvalues meet, though
    that of this sum is not. No eigenvalue can be below the noise's square, so those that rounding
    puts there are lifted.
    """
    covariance, target = primals
    values, vectors = jnp.linalg.eigh(_product(target.root, covariance, target.root))
    root = jnp.sqrt(jnp.maximum(values, jnp.square(target.noise)))[None]
    forth = _product(target.root, vectors / root, vectors.T, target.root)
    back = _product(target.inverse_root, vectors * root, vectors.T, target.inverse_root)
    inner = partial(jnp.vdot, precision="highest")
    slope = inner(forth, tangents[0]) + inner(back, tangents[1].covariance)
    return jnp.sum(root), slope / 2


def wasserstein_distance(sums: GaussianSums, target: WassersteinTarget) -> jax.Array:
    """The squared 2-Wasserstein distance between normal distributions, with some noise in both.

    ``|m - m'|^2 + tr(A + B - 2 (B^1/2 A B^1/2)^1/2)`` with ``A = C + e I``, ``B = C' + e I``. The
    noise ``e = 0.001 tr C'^2 / tr C'`` is a thousandth of the variance along a typical direction of
    the target; it keeps the gradient finite where there are fewer positions than channels, and
    right to 1% in float32. Equal distributions, and no others, have a distance of 0, as without it.

    Dowson and Landau, "The Frechet distance between multivariate normal distributions", 1982; as a
    style in K. Crowson's style-transfer-pytorch.
    """
    mean, covariance = gaussian(sums)
    noisy = covariance + target.noise * jnp.eye(len(mean), dtype=mean.dtype)
    spread = jnp.trace(noisy) + jnp.trace(target.covariance) - 2 * _shared_root(noisy, target)
    return jnp.sum(jnp.square(mean - target.mean)) + spread


def wasserstein_relative_distance(sums: GaussianSums, target: WassersteinTarget) -> jax.Array:
    """``wasserstein_distance`` divided by ``tr C'``, the target's variance.

    A target of one colour has none but rounding's; it counts as a millionth of its squared mean.
    """
    variance = jnp.trace(target.covariance) - len(target.mean) * target.noise
    least = 1e-6 * jnp.sum(jnp.square(target.mean))
    return wasserstein_distance(sums, target) / at_least_tiny(jnp.maximum(variance, least))


def wasserstein_blend(sums: Sequence[GaussianSums], shares: jax.Array) -> WassersteinTarget:
    """The weighted means of several styles' means and covariances, with the square root."""
    mean, covariance = gaussian_blend(sums, shares)
    # Of a covariance that is all rounding the trace may be negative. That of any other is at least
    # its norm.
    variance = jnp.maximum(
        jnp.trace(covariance), jnp.linalg.norm(jax.lax.stop_gradient(covariance))
    )
    noise = _NOISE * jnp.sum(jnp.square(covariance)) / at_least_tiny(variance)
    rounding = jnp.finfo(noise.dtype).eps * jnp.sum(jnp.square(mean))
    # The square of the least number is not 0 either.
    noise = jnp.maximum(jnp.maximum(noise, rounding), jnp.finfo(noise.dtype).tiny ** 0.25)
    noisy = covariance + noise * jnp.eye(len(mean), dtype=mean.dtype)
    # Their derivatives are in that of _shared_root.
    root, inverse_root = jax.lax.stop_gradient(_roots(noisy, noise))
    return WassersteinTarget(mean, noisy, root, inverse_root, noise)


WASSERSTEIN = Statistic(
    gaussian_sums,
    wasserstein_distance,
    wasserstein_blend,
    name="wasserstein",
    additive=True,
    isometric=True,
)
RELATIVE_WASSERSTEIN = Statistic(
    gaussian_sums,
    wasserstein_relative_distance,
    wasserstein_blend,
    name="relative wasserstein",
    additive=True,
    isometric=True,
)
