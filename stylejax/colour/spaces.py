"""Coordinates of colours: as they are stored, as light, and as they look.

An image is ``[H, W, 3]`` float, sRGB in [0, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


class Space(NamedTuple):
    """Coordinates ``[..., 3]`` of colours; values outside [0, 1] have finite ones as well.

    Attributes:
      encode: the coordinates of sRGB ``[..., 3]``.
      decode: the way back.
      weights: a colour's lightness, 0 for black and 1 for white, is the sum of its coordinates
        times these.
      grey: the coordinates of white; times a lightness, those of a grey. What a colour has beyond
        the grey of its lightness is its chroma.
    """

    encode: Callable[[jax.Array], jax.Array]
    decode: Callable[[jax.Array], jax.Array]
    weights: tuple[float, float, float]
    grey: tuple[float, float, float]


def to_linear(image: jax.Array) -> jax.Array:
    """Light of sRGB ``[...]`` (IEC 61966-2-1), continued to negative values as an odd function."""
    size = jnp.abs(image)
    # The power is never taken of 0, where the gradient of what `where` drops would be NaN.
    power = ((jnp.maximum(size, 0.04045) + 0.055) / 1.055) ** 2.4
    return jnp.where(size <= 0.04045, image / 12.92, jnp.copysign(power, image))


def from_linear(light: jax.Array) -> jax.Array:
    """The inverse of ``to_linear``."""
    size = jnp.abs(light)
    power = 1.055 * jnp.maximum(size, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.where(size <= 0.0031308, light * 12.92, jnp.copysign(power, light))


# Björn Ottosson, "A perceptual color space for image processing", 2020, with the matrices of his
# update of 2021-01-25: linear sRGB to cone responses, and their cube roots to lightness, green to
# red, blue to yellow. The inverses are computed, so that a round trip is one.
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_OPPONENTS = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
# Below this a line takes the cube root's place, whose slope at black is infinite. No colour of 8
# bits but black has a cone response as small.
_TOE = 1e-5


def _cube_root(x: jax.Array) -> jax.Array:
    size = jnp.abs(x)
    root = jnp.copysign(jnp.cbrt(jnp.maximum(size, _TOE)), x)
    return jnp.where(size < _TOE, x * _TOE ** (-2 / 3), root)


def _cube(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(x) < _TOE ** (1 / 3), x * _TOE ** (2 / 3), x**3)


def mapped(matrix: Array, vectors: jax.Array) -> jax.Array:
    """``M v`` for vectors ``[..., 3]``."""
    matrix = jnp.asarray(matrix, vectors.dtype)
    return jnp.einsum("ij,...j->...i", matrix, vectors, precision="highest")


def to_oklab(image: jax.Array) -> jax.Array:
    """Oklab coordinates of sRGB ``[..., 3]``."""
    return mapped(_OPPONENTS, _cube_root(mapped(_CONES, to_linear(image))))


def from_oklab(lab: jax.Array) -> jax.Array:
    """The inverse of ``to_oklab``; in float32 within 1e-5, by the slope of sRGB near black."""
    cones = _cube(mapped(np.linalg.inv(_OPPONENTS), lab))
    return from_linear(mapped(np.linalg.inv(_CONES), cones))


def _same(x: jax.Array) -> jax.Array:
    return x


_WHITE = (1.0, 1.0, 1.0)
# The numbers as they are, in which Gatys et al. match; luma as in the YIQ and YUV (ITU-R BT.601)
# by which they and neural-style part it from chroma.
SRGB = Space(_same, _same, (0.299, 0.587, 0.114), _WHITE)
# Amounts of light, and luminance (ITU-R BT.709, whose primaries are sRGB's).
LINEAR = Space(to_linear, from_linear, (0.2126, 0.7152, 0.0722), _WHITE)
# Equal distances look about equal, and lightness may change without the hue.
OKLAB = Space(to_oklab, from_oklab, (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))


def parts(values: jax.Array, space: Space) -> tuple[jax.Array, jax.Array]:
    """Coordinates as lightness ``[..., 1]`` and chroma ``[..., 3]``."""
    light = mapped(np.array([space.weights]), values)
    return light, values - grey_of(light, space)


def grey_of(light: jax.Array, space: Space) -> jax.Array:
    """Coordinates ``[..., 3]`` of greys of lightness ``[..., 1]``."""
    return light * jnp.asarray(space.grey, light.dtype).reshape((1,) * (light.ndim - 1) + (3,))
