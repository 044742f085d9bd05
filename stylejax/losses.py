"""Losses of content, forms of total variation, and the dream's: arrays in, a scalar out.

Features are ``[h, w, c]``; the paper's ``F_ij`` is channel ``i`` at position ``j``, ``N`` is the
number of channels and ``M`` the number of positions. Equation numbers are those of Gatys, Ecker
and Bethge, "A Neural Algorithm of Artistic Style", 2015. The losses of style are in ``statistics``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class ContentLoss(NamedTuple):
    """A loss of content: what follows from three sums over positions and channels.

    Called with features and their target, ``[h, w, c]`` both, it is the loss, scalar. Sums of parts
    of a picture add up, so that it need not be in memory as a whole.

    Attributes:
      distance: ``(error, energy, count) -> scalar``, of ``sum_ij (F_ij - P_ij)^2``,
        ``sum_ij P_ij^2`` and the number of features, ``N M``.
      name: how a record names it.
    """

    distance: Callable[[jax.Array, jax.Array, int], jax.Array]
    name: str = "own"

    def __call__(self, features: jax.Array, target: jax.Array) -> jax.Array:
        """The loss of features against their target."""
        error, energy = jnp.sum(jnp.square(features - target)), jnp.sum(jnp.square(target))
        return self.distance(error, energy, features.size)


def _half(error: jax.Array, energy: jax.Array, count: int) -> jax.Array:
    return error / 2


def _half_per_element(error: jax.Array, energy: jax.Array, count: int) -> jax.Array:
    return error / 2 / count


def _mean(error: jax.Array, energy: jax.Array, count: int) -> jax.Array:
    return error / count


def _sum(error: jax.Array, energy: jax.Array, count: int) -> jax.Array:
    return error


def _relative(error: jax.Array, energy: jax.Array, count: int) -> jax.Array:
    return error / at_least_tiny(energy)


# 1/2 sum_ij (F_ij - P_ij)^2 (eq. 1).
content_loss = ContentLoss(_half, name="content_loss")

# Eq. 1 divided by the number of features, N M. Not the paper's: eq. 1 grows with the number of
# pixels while eq. 4 does not, so with eq. 1 one pair of weights gives another picture at another
# size; with this it does not.
content_loss_per_element = ContentLoss(_half_per_element, name="content_loss_per_element")

# 1 / (N M) sum_ij (F_ij - P_ij)^2, the form of most programs: twice the one before.
content_loss_mean_square = ContentLoss(_mean, name="content_loss_mean_square")

# sum_ij (F_ij - P_ij)^2, Keras' form: twice eq. 1.
content_loss_sum_of_squares = ContentLoss(_sum, name="content_loss_sum_of_squares")

# sum_ij (F_ij - P_ij)^2 / sum_ij P_ij^2: the content's error relative to its size. Not the paper's:
# a number without a unit, the same for every picture size, layer and network.
content_loss_relative = ContentLoss(_relative, name="content_loss_relative")


def widened(x: jax.Array) -> jax.Array:
    """Features that may be bfloat16 as what sums are made of, float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def at_least_tiny(square: jax.Array) -> jax.Array:
    """Keeps a division by the square of something that is zero (a black image) finite."""
    return jnp.maximum(square, jnp.finfo(square.dtype).tiny ** 0.5)


def total_variation(image: jax.Array) -> jax.Array:
    """Mean over pixels of the squared differences to the right and lower neighbours.

    ``1 / (H W) sum (x[i, j+1] - x[i, j])^2 + (x[i+1, j] - x[i, j])^2`` over pixels and colours of
    an image ``[H, W, 3]``. Not in the paper; neural-style's regulariser, here as a loss whose
    gradient is its own, and a mean, so that its weight does not depend on the picture's size.
    """
    down, right = squared_differences(image)
    return (jnp.sum(down) + jnp.sum(right)) / (image.shape[0] * image.shape[1])


def squared_differences(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """To the lower neighbours, ``[H - 1, W, 3]``, and to the right ones, ``[H, W - 1, 3]``."""
    return jnp.square(image[1:] - image[:-1]), jnp.square(image[:, 1:] - image[:, :-1])


def circular_variation(image: jax.Array) -> jax.Array:
    """``total_variation`` of one tile of an endless pattern.

    The last row's lower neighbours are the first row, the last column's right ones the first
    column; every pixel has two differences.
    """
    down, right = (jnp.sum(jnp.square(jnp.roll(image, -1, axis) - image)) for axis in (0, 1))
    return (down + right) / (image.shape[0] * image.shape[1])


# Forms of total variation that other programs have. An image is [H, W, 3] in [0, 1] here as
# everywhere; programs have their pixels in [0, 255] or [0, 256], see ``presets``.


def absolute_variation(image: jax.Array) -> jax.Array:
    """``sum |x[i, j+1] - x[i, j]| + sum |x[i+1, j] - x[i, j]|`` over pixels and colours.

    A sum, so that it grows with the picture. Edges cost no more than slopes of the same height.
    Equal neighbours do not pull: the slope there is 0, as PyTorch has it (JAX's own is 1).
    """

    def absolute(x: jax.Array) -> jax.Array:
        return x * jax.lax.stop_gradient(jnp.sign(x))

    down, right = image[1:] - image[:-1], image[:, 1:] - image[:, :-1]
    return jnp.sum(absolute(down)) + jnp.sum(absolute(right))


def _cropped_differences(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Down and to the right, ``[H - 1, W - 1, 3]`` each: the last row and column have none."""
    here = image[:-1, :-1]
    return image[1:, :-1] - here, image[:-1, 1:] - here


def cropped_variation(image: jax.Array) -> jax.Array:
    """``1/2 sum (x[i, j+1] - x[i, j])^2 + (x[i+1, j] - x[i, j])^2``, for i < H - 1 and j < W - 1.

    A sum, so that it grows with the picture. Its gradient is what neural-style adds to the
    picture's without a value to go with it.
    """
    down, right = _cropped_differences(image)
    return (jnp.sum(jnp.square(down)) + jnp.sum(jnp.square(right))) / 2


def power_variation(image: jax.Array) -> jax.Array:
    """``sum ((x[i, j+1] - x[i, j])^2 + (x[i+1, j] - x[i, j])^2)^1.25``, i < H - 1, j < W - 1.

    Colour by colour; a sum, so that it grows with the picture. Keras' example.
    """
    down, right = _cropped_differences(image)
    return jnp.sum((jnp.square(down) + jnp.square(right)) ** 1.25)


def nine_point_variation(image: jax.Array) -> jax.Array:
    """Mean squared differences to all eight neighbours, a diagonal one weighing a quarter.

    ``2 (mean d_right^2 / 3 + mean d_down^2 / 3 + mean d_diagonal^2 / 12 + mean d_other^2 / 12)``,
    the border repeated once; means over pixels and colours (of the diagonals, over the
    ``(H + 1) (W + 1)`` that there are). K. Crowson's style-transfer-pytorch.
    """
    x = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), "edge")
    here = x[1:-1, 1:-1]
    beside = jnp.mean(jnp.square(x[1:-1, 2:] - here)) + jnp.mean(jnp.square(x[2:, 1:-1] - here))
    diagonal = jnp.mean(jnp.square(x[1:, 1:] - x[:-1, :-1]))
    other = jnp.mean(jnp.square(x[1:, :-1] - x[:-1, 1:]))
    return 2 * (beside / 3 + (diagonal + other) / 12)


# Dreaming: a reward for whatever a layer sees already


def activity(features: jax.Array) -> jax.Array:
    """``1 / (N M) sum_ij F_ij^2``, what ``dream_loss`` compares."""
    return jnp.mean(jnp.square(widened(features)))


def dream_loss(features: jax.Array, photo: jax.Array) -> jax.Array:
    """``2 p / (p + f)``: 1 where the picture is as active as the photo, 0 at infinity.

    The purpose of deep dream (Mordvintsev et al. 2015; as ``--dd-weight`` beside a style in
    K. Crowson's style_transfer) is to make activations grow. Their reward, the mean square ``f``,
    has no maximum: minus a quadratic pulls without end, its curvature is negative, and L-BFGS runs
    away along it. This form has no unit, is bounded from both sides, so that the sum with other
    losses has a minimum, and its pull fades as ``1 / f^2``. Minus a logarithm fades too, but its
    sum with other losses has no sign, and "a thousandth of the loss" would mean nothing near zero.

    Args:
      features: ``[h, w, c]`` of the picture, with ``f = activity(features)``.
      photo: ``p``, the activity of the photo, scalar.
    """
    return dream_distance(activity(features), photo)


def dream_distance(picture: jax.Array, photo: jax.Array) -> jax.Array:
    """``dream_loss`` of the picture's activity, scalar."""
    return 2 * photo / at_least_tiny(photo + picture)


# Gradients of a length of their own


def plainly(loss: Callable[..., jax.Array], features: jax.Array, target: Any) -> jax.Array:
    """``loss(features, target)``, with its own gradient."""
    return loss(features, target)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def with_unit_gradient(loss: Callable[..., jax.Array], features: jax.Array, target: Any) -> Any:
    """``loss(features, target)``, whose gradient to the features is divided by its L1 norm.

    neural-style's ``-normalize_gradients``: ``g / (sum |g| + 1e-8)`` at the layer, before it goes
    down the network. No function has such a gradient: values and slopes do not agree, and no line
    search may be led by them. The target counts as a constant.

    Args:
      loss: ``(features, target) -> scalar``.
      features: ``[h, w, c]``.
      target: whatever ``loss`` compares them with.
    """
    return loss(features, target)


def _unit_gradient_forward(
    loss: Callable[..., jax.Array], features: jax.Array, target: Any
) -> tuple[jax.Array, jax.Array]:
    value, gradient = jax.value_and_grad(loss)(features, target)
    unit = widened(gradient) / (jnp.sum(jnp.abs(widened(gradient))) + 1e-8)
    return value, unit.astype(gradient.dtype)


def _unit_gradient_backward(
    loss: Callable[..., jax.Array], gradient: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, None]:
    return (cotangent * gradient).astype(gradient.dtype), None


with_unit_gradient.defvjp(_unit_gradient_forward, _unit_gradient_backward)
