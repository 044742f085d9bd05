"""Losses between features: arrays in, a scalar out.

Features are ``[h, w, c]``; the paper's ``F_ij`` is channel ``i`` at position ``j``, ``N`` is the
number of channels and ``M`` the number of positions. Equation numbers are those of Gatys, Ecker
and Bethge, "A Neural Algorithm of Artistic Style", 2015. Sums are in the features' dtype with full
float32 products on every device.

A style loss is a statistic of the features and a distance between two of them. The statistic is a
sum over positions (``accumulate``), so parts of an image contribute sums that simply add, and the
targets of several styles mix (``blend``).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


def content_loss(features: jax.Array, target: jax.Array) -> jax.Array:
    """``1/2 sum_ij (F_ij - P_ij)^2`` (eq. 1)."""
    return jnp.sum(jnp.square(features - target)) / 2


def content_loss_per_element(features: jax.Array, target: jax.Array) -> jax.Array:
    """Eq. 1 divided by the number of features, ``N M``.

    Not the paper's: eq. 1 grows with the number of pixels while eq. 4 does not, so with eq. 1 one
    pair of weights gives another picture at another size; with this it does not.
    """
    return content_loss(features, target) / features.size


def content_loss_relative(features: jax.Array, target: jax.Array) -> jax.Array:
    """``sum_ij (F_ij - P_ij)^2 / sum_ij P_ij^2``: the content's error relative to its size.

    Not the paper's: a number without a unit, the same for every picture size, layer and network.
    """
    return 2 * content_loss(features, target) / _at_least_tiny(jnp.sum(jnp.square(target)))


def _at_least_tiny(square: jax.Array) -> jax.Array:
    """Keeps a division by the square of something that is zero (a black image) finite."""
    return jnp.maximum(square, jnp.finfo(square.dtype).tiny ** 0.5)


@jax.custom_vjp
def gram(features: jax.Array) -> jax.Array:
    """``G_ij = sum_k F_ik F_jk`` (eq. 3): ``[h, w, c]`` to ``[c, c]``, not normalised."""
    flat = features.reshape(-1, features.shape[-1])
    return jnp.matmul(flat.T, flat, precision="highest")


def _gram_forward(features: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gram(features), features


def _gram_backward(features: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    # One product where the derived rule has two, F D + F D^T.
    return (jnp.matmul(features, cotangent + cotangent.T, precision="highest"),)


gram.defvjp(_gram_forward, _gram_backward)


class GramSums(NamedTuple):
    """The Gram matrix ``[c, c]`` summed over positions, and how many positions (scalar)."""

    gram: jax.Array
    positions: jax.Array


def gram_sums(features: jax.Array, weight: jax.Array | None = None) -> GramSums:
    """The Gram matrix of features ``[h, w, c]``, each position counted ``weight`` times.

    Args:
      features: ``[h, w, c]``.
      weight: ``[h, w]``, not negative; None counts every position once.
    """
    if weight is None:
        positions = features.shape[0] * features.shape[1]
        return GramSums(gram(features), jnp.asarray(positions, features.dtype))
    channels = features.shape[-1]
    weighted = (features * weight[:, :, None]).reshape(-1, channels)
    product = jnp.matmul(weighted.T, features.reshape(-1, channels), precision="highest")
    return GramSums(product, jnp.sum(weight))


def gram_distance(sums: GramSums, target: GramSums) -> jax.Array:
    """``E_l = 1 / (4 N^2) sum_ij (G_ij / M - A_ij / M_a)^2``.

    With as many positions in the style image as in the picture this is eq. 4,
    ``1 / (4 N^2 M^2) sum_ij (G_ij - A_ij)^2``; a style image of another size has its own ``M_a``.
    """
    difference = sums.gram / sums.positions - target.gram / target.positions
    return jnp.sum(jnp.square(difference)) / (4 * difference.size)


def gram_relative_distance(sums: GramSums, target: GramSums) -> jax.Array:
    """``sum_ij (G_ij / M - A_ij / M_a)^2 / sum_ij (A_ij / M_a)^2``: the relative error.

    Not the paper's: eq. 4 weighs a layer by the fourth power of its activations, which differ by
    a factor of 1000 between the layers of the original VGG-19 (Gatys et al. normalised the network
    instead). With this every layer starts at about one, whatever the network.
    """
    wanted = target.gram / target.positions
    difference = sums.gram / sums.positions - wanted
    return jnp.sum(jnp.square(difference)) / _at_least_tiny(jnp.sum(jnp.square(wanted)))


def gram_blend(sums: Sequence[GramSums], shares: jax.Array) -> GramSums:
    """The weighted mean of several styles' Gram matrices per position.

    Pulling towards this mean has the same gradient as the weighted sum of the losses against each
    style, at the price of one.

    Args:
      sums: one per style.
      shares: ``[len(sums)]``, adding up to 1.
    """
    means = jnp.stack([s.gram / s.positions for s in sums])
    mean = jnp.tensordot(shares, means, axes=1, precision="highest")
    return GramSums(mean, jnp.ones((), mean.dtype))


class Statistic(NamedTuple):
    """What a style is: sums over positions, a distance between them, a mix of several."""

    accumulate: Callable[..., Any]
    distance: Callable[[Any, Any], jax.Array]
    blend: Callable[[Sequence[Any], jax.Array], Any]


GRAM = Statistic(gram_sums, gram_distance, gram_blend)
RELATIVE_GRAM = Statistic(gram_sums, gram_relative_distance, gram_blend)


def total_variation(image: jax.Array) -> jax.Array:
    """Mean over pixels of the squared differences to the right and lower neighbours.

    ``1 / (H W) sum (x[i, j+1] - x[i, j])^2 + (x[i+1, j] - x[i, j])^2`` over pixels and colours of
    an image ``[H, W, 3]``. Not in the paper; neural-style's regulariser, here as a loss whose
    gradient is its own, and a mean, so that its weight does not depend on the picture's size.
    """
    down = jnp.sum(jnp.square(image[1:] - image[:-1]))
    right = jnp.sum(jnp.square(image[:, 1:] - image[:, :-1]))
    return (down + right) / (image.shape[0] * image.shape[1])
