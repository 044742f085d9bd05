"""Photorealism: how far a picture is, window by window, from other colours on the same photo.

The matting Laplacian ``L`` of Levin, Lischinski and Weiss, "A Closed-Form Solution to Natural Image
Matting" (2008), as Luan, Paris, Shechtman and Bala, "Deep Photo Style Transfer" (2017), add it to
the objective: ``sum over colours c of v_c^T L v_c`` with the picture's colour ``v_c``. It is zero
where, within every 3x3 window, the picture's colours are an affine function of the photo's: edges
stay where they are and no new ones come.

``L`` is never made. By its definition ``v^T L v = sum over windows of min over a, b of
sum over the nine i of (v_i - a . I_i - b)^2 + epsilon |a|^2``, nine residuals for every window.
"""

from collections.abc import Iterable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

# For colours in [0, 1]; not both papers' 1e-7. It is what rounding to 8 bits leaves in a window,
# 9 / (12 * 255^2): with less, the colours may jump wherever the photo's last bit does, and in a
# smooth sky that draws the blocks of its JPEG file. In float32 it is still near the rounding of a
# window's covariance, which is therefore never made.
EPSILON = 1e-5
SMALLEST = 3  # a side of the picture, which has a window then


class Windows(NamedTuple):
    """The 3x3 windows of a photo; each is named by its upper left pixel, ``h, w = H - 2, W - 2``.

    Within a window red, green and blue less their means are made orthogonal, one after the other
    (``q = T (I - mean)``, ``T`` triangular with ones on its diagonal), so that fitting is three
    projections. The ridge takes part: with ``A = sum over i of (I_i - mean)(I_i - mean)^T`` it is
    ``T (A + epsilon 1) T^T`` that is diagonal.

    Attributes:
      photo: ``[3, H, W]``.
      mean: ``[3, h, w]``, of each colour.
      shear: ``[3, h, w]``, below the diagonal: ``q_1 = c_1 - s_0 q_0`` and
        ``q_2 = c_2 - s_1 q_0 - s_2 q_1`` where ``c = I - mean`` and ``q_0 = c_0``.
      size: ``[3, h, w]``, the diagonal.
    """

    photo: jax.Array
    mean: jax.Array
    shear: jax.Array
    size: jax.Array


def _members(planes: jax.Array) -> list[jax.Array]:
    """The nine pixels of every window, ``[3, h, w]`` each, of ``[3, H, W]``."""
    h, w = planes.shape[1] - 2, planes.shape[2] - 2
    return [planes[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]


def _planes(image: jax.Array) -> jax.Array:
    return jnp.moveaxis(image, -1, 0)


def check_size(height: int, width: int) -> None:
    """Raises ValueError where a photo has no 3x3 window."""
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"content is {width}x{height} pixels; photorealism needs at least "
            f"{SMALLEST}x{SMALLEST}: use a larger image or do without"
        )


Nine = Sequence[jax.Array]


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    return reduce(jnp.add, terms)


def _dot(a: Nine, b: Nine) -> jax.Array:
    return _sum(x * y for x, y in zip(a, b, strict=True))


def _less(a: Nine, factor: jax.Array, b: Nine) -> Nine:
    return [x - factor * y for x, y in zip(a, b, strict=True)]


def windows(photo: jax.Array) -> Windows:
    """What the loss needs of the photo, once per size.

    Args:
      photo: ``[H, W, 3]``, sRGB in [0, 1].

    Raises:
      ValueError: it is smaller than 3x3.
    """
    check_size(*photo.shape[:2])
    planes = _planes(photo)
    members = _members(planes)
    mean = _sum(members) / 9
    pixels = [pixel - mean for pixel in members]
    red: Nine
    green: Nine
    blue: Nine
    red, green, blue = ([pixel[c : c + 1] for pixel in pixels] for c in range(3))
    # Gram and Schmidt's way, on the pixels themselves: sums of squares, which rounding cannot make
    # negative, where the covariance's determinant in float32 would be all rounding.
    size_0 = _dot(red, red) + EPSILON
    s_0 = _dot(green, red) / size_0
    green = _less(green, s_0, red)
    size_1 = _dot(green, green) + EPSILON * (1 + s_0**2)
    s_1 = _dot(blue, red) / size_0
    blue = _less(blue, s_1, red)
    s_2 = (_dot(blue, green) + EPSILON * s_0 * s_1) / size_1
    blue = _less(blue, s_2, green)
    size_2 = _dot(blue, blue) + EPSILON * (1 + s_2**2 + (s_1 - s_0 * s_2) ** 2)
    return Windows(
        photo=planes,
        mean=mean,
        shear=jnp.concatenate([s_0, s_1, s_2]),
        size=jnp.concatenate([size_0, size_1, size_2]),
    )


class Fit(NamedTuple):
    """The best lines of the picture's colours, window by window.

    Attributes:
      level: ``[3, h, w]``, the mean of each of the picture's colours.
      along: ``[3, h, w]`` each: of each of the picture's colours, along ``q_0``, ``q_1``, ``q_2``.
    """

    level: jax.Array
    along: tuple[jax.Array, jax.Array, jax.Array]


def _bases(windows: Windows) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
    """``q`` of the nine pixels, ``[1, h, w]`` each of three."""
    s_0, s_1, s_2 = jnp.split(windows.shear, 3)
    bases = []
    for pixel in _members(windows.photo):
        red, green, blue = jnp.split(pixel - windows.mean, 3)
        green = green - s_0 * red
        bases.append((red, green, blue - s_1 * red - s_2 * green))
    return bases


def _fit(image: jax.Array, windows: Windows) -> Fit:
    members = _members(_planes(image))
    level = _sum(members) / 9
    q_0, q_1, q_2 = zip(*_bases(windows), strict=True)
    s_0, s_1, s_2 = jnp.split(windows.shear, 3)
    size_0, size_1, size_2 = jnp.split(windows.size, 3)
    # Each along what the ones before have left: in float32 q_2 has up to 3e-4 of its size along
    # q_0, which would otherwise be fitted twice. What is left of the ridge's zeros counts too.
    left: Nine = [pixel - level for pixel in members]
    k_0 = _dot(left, q_0) / size_0
    left = _less(left, k_0, q_0)
    k_1 = (_dot(left, q_1) + EPSILON * s_0 * k_0) / size_1
    left = _less(left, k_1, q_1)
    ridge = (k_0 - s_0 * k_1) * (s_1 - s_0 * s_2) + k_1 * s_2
    k_2 = (_dot(left, q_2) + EPSILON * ridge) / size_2
    return Fit(level, (k_0, k_1, k_2))


def _residuals(image: jax.Array, windows: Windows, fit: Fit) -> list[jax.Array]:
    """What the fit leaves of the nine pixels, ``[3, h, w]`` each."""
    k_0, k_1, k_2 = fit.along
    return [
        pixel - fit.level - k_0 * q_0 - k_1 * q_1 - k_2 * q_2
        for pixel, (q_0, q_1, q_2) in zip(_members(_planes(image)), _bases(windows), strict=True)
    ]


def _cost(residuals: list[jax.Array], windows: Windows, fit: Fit) -> jax.Array:
    s_0, s_1, s_2 = jnp.split(windows.shear, 3)
    k_0, k_1, k_2 = fit.along
    # The same line in the photo's own colours, a . (I - mean).
    a = (k_0 - s_0 * k_1 - (s_1 - s_0 * s_2) * k_2, k_1 - s_2 * k_2, k_2)
    squares = _sum(jnp.sum(r**2) for r in residuals) + EPSILON * _sum(jnp.sum(x**2) for x in a)
    return squares / _pixels(windows)


def _pixels(windows: Windows) -> int:
    return windows.photo.shape[1] * windows.photo.shape[2]


@jax.custom_jvp
def matting_loss(image: jax.Array, windows: Windows) -> jax.Array:
    """``1 / (H W) sum over colours c of v_c^T L v_c``.

    A mean over pixels, where Luan et al. have the sum, so that its weight does not depend on the
    picture's size. The residuals are squared and summed, not taken as the difference of two large
    sums, which in float32 has no digit left where the fit is good.

    Args:
      image: ``[H, W, 3]``, of the photo's size.
      windows: of the photo.
    """
    fit = _fit(image, windows)
    return _cost(_residuals(image, windows, fit), windows, fit)


@partial(matting_loss.defjvp, symbolic_zeros=True)
def _matting_loss_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, Any]:
    """At its best a fit may move without a change: the derivative is that at a fixed fit.

    To the image that is the residuals, each put back where its pixel is, ``2 L v``, from the same
    residuals as the value; autodiff of the value takes tens of times as long on CPU. Autodiff
    of this rule, which moves the fit, is right for second derivatives.
    """
    (image, windows), (image_tangent, windows_tangent) = primals, tangents
    fit = _fit(image, windows)
    residuals = _residuals(image, windows, fit)
    value = _cost(residuals, windows, fit)
    tangent = jnp.zeros_like(value)
    if not isinstance(image_tangent, SymbolicZero):
        tangent += jnp.sum(_put_back(residuals, windows) * image_tangent)
    if not all(isinstance(t, SymbolicZero) for t in windows_tangent):
        moved = [
            jnp.zeros_like(x) if isinstance(t, SymbolicZero) else t
            for x, t in zip(windows, windows_tangent, strict=True)
        ]
        _, change = jax.jvp(
            lambda w: _cost(_residuals(image, w, fit), w, fit), (windows,), (Windows(*moved),)
        )
        tangent += change
    return value, tangent


def _put_back(residuals: list[jax.Array], windows: Windows) -> jax.Array:
    h, w = residuals[0].shape[1:]
    sums = jnp.zeros_like(windows.photo)
    for place, residual in enumerate(residuals):
        i, j = divmod(place, 3)
        sums = sums.at[:, i : i + h, j : j + w].add(residual)
    return jnp.moveaxis(sums, 0, -1) * (2 / _pixels(windows))
