"""Losses of content, and total variation: arrays in, a scalar out.

Features are ``[h, w, c]``; the paper's ``F_ij`` is channel ``i`` at position ``j``, ``N`` is the
number of channels and ``M`` the number of positions. Equation numbers are those of Gatys, Ecker
and Bethge, "A Neural Algorithm of Artistic Style", 2015. The losses of style are in ``statistics``.
"""

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
    return 2 * content_loss(features, target) / at_least_tiny(jnp.sum(jnp.square(target)))


def at_least_tiny(square: jax.Array) -> jax.Array:
    """Keeps a division by the square of something that is zero (a black image) finite."""
    return jnp.maximum(square, jnp.finfo(square.dtype).tiny ** 0.5)


def total_variation(image: jax.Array) -> jax.Array:
    """Mean over pixels of the squared differences to the right and lower neighbours.

    ``1 / (H W) sum (x[i, j+1] - x[i, j])^2 + (x[i+1, j] - x[i, j])^2`` over pixels and colours of
    an image ``[H, W, 3]``. Not in the paper; neural-style's regulariser, here as a loss whose
    gradient is its own, and a mean, so that its weight does not depend on the picture's size.
    """
    down = jnp.sum(jnp.square(image[1:] - image[:-1]))
    right = jnp.sum(jnp.square(image[:, 1:] - image[:, :-1]))
    return (down + right) / (image.shape[0] * image.shape[1])


def circular_variation(image: jax.Array) -> jax.Array:
    """``total_variation`` of one tile of an endless pattern.

    The last row's lower neighbours are the first row, the last column's right ones the first
    column; every pixel has two differences.
    """
    down, right = (jnp.sum(jnp.square(jnp.roll(image, -1, axis) - image)) for axis in (0, 1))
    return (down + right) / (image.shape[0] * image.shape[1])
