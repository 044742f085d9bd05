"""What is optimised: a pair of pure functions between a picture and the optimizer's variable.

A picture is ``[H, W, 3]`` float, sRGB in [0, 1]; ``z`` is whatever the optimizer holds. Starts,
previews and results are always pictures, never ``z``.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Canvas(NamedTuple):
    """``decode(z)`` is the picture; ``encode(picture)`` a ``z`` that decodes to it."""

    encode: Callable[[jax.Array], jax.Array]
    decode: Callable[[jax.Array], jax.Array]


def _same(x: jax.Array) -> jax.Array:
    return x


# The paper's: the pixels themselves. They may leave [0, 1] on the way (clipping inside the loop
# would belie the curvature pairs of L-BFGS); the result is clipped once, at the end.
PIXELS = Canvas(encode=_same, decode=_same)

# The power of the frequency that FREQUENCIES weigh by: tried from 0.25 to 0.7, see
# docs/performance.md.
_EXPONENT = 0.4


def _cosines(n: int, dtype: jnp.dtype) -> jax.Array:
    """The orthonormal cosine transform (DCT-II) of ``n`` values as a matrix ``[n, n]``."""
    places = jnp.arange(n, dtype=jnp.int32)
    # Whole turns are taken off while the angle is an integer, so that the cosine's argument is
    # exact.
    angle = places[:, None] * (2 * places[None] + 1) % (4 * n)
    size = jnp.where(places[:, None] == 0, (1 / n) ** 0.5, (2 / n) ** 0.5)
    return (size * jnp.cos(angle * (np.pi / (2 * n)))).astype(dtype)


def _waves(n: int, dtype: jnp.dtype) -> jax.Array:
    """The orthonormal Hartley transform of ``n`` values, ``cos + sin``, as a matrix ``[n, n]``.

    Bracewell 1983. Its frequency ``k`` and ``n - k`` are Fourier's ``k`` in real numbers.
    """
    places = jnp.arange(n, dtype=jnp.int32)
    angle = places[:, None] * places[None] % n * (2 * np.pi / n)
    return ((jnp.cos(angle) + jnp.sin(angle)) / n**0.5).astype(dtype)


def _weighted(x: jax.Array, power: float, *, circular: bool) -> jax.Array:
    """``C^T [f^power * (C x)]`` in both directions: each frequency of ``[H, W, 3]`` times a weight.

    ``f`` is in cycles per pixel; what has less than half a cycle in the picture, such as the mean,
    counts as if it had half a cycle.
    """
    height, width, _ = x.shape
    if circular:
        rows, columns = _waves(height, x.dtype), _waves(width, x.dtype)
        cycles = [jnp.asarray(np.abs(np.fft.fftfreq(n)), x.dtype) for n in (height, width)]
    else:
        rows, columns = _cosines(height, x.dtype), _cosines(width, x.dtype)
        cycles = [jnp.arange(n, dtype=x.dtype) / (2 * n) for n in (height, width)]
    squared = jnp.square(cycles[0])[:, None] + jnp.square(cycles[1])[None]
    least = 0.5 / max(height, width)
    weight = jnp.maximum(squared, least**2) ** (power / 2)

    def both(rows: jax.Array, x: jax.Array, columns: jax.Array) -> jax.Array:
        return jnp.einsum("ih,hwc,jw->ijc", rows, x, columns, precision="highest")

    return both(rows.T, weight[:, :, None] * both(rows, x, columns), columns.T)


def _encode_frequencies(picture: jax.Array) -> jax.Array:
    return _weighted(picture, _EXPONENT, circular=False)


def _decode_frequencies(z: jax.Array) -> jax.Array:
    return _weighted(z, -_EXPONENT, circular=False)


def _encode_circular(picture: jax.Array) -> jax.Array:
    return _weighted(picture, _EXPONENT, circular=True)


def _decode_circular(z: jax.Array) -> jax.Array:
    return _weighted(z, -_EXPONENT, circular=True)


# Not the paper's: the same pictures in variables in which a step makes large shapes sooner. The
# gradient of a picture is mostly fine grain, while what is still to be done is mostly large
# shapes; L-BFGS on pixels needs many steps to learn that. The transform is a cosine's, whose
# repetition is a mirror's, so opposite borders know nothing of each other. A linear change of
# variables moves no minimum.
FREQUENCIES = Canvas(encode=_encode_frequencies, decode=_decode_frequencies)

# The same for one tile of an endless pattern, whose opposite borders are neighbours: rolling ``z``
# rolls the picture.
CIRCULAR_FREQUENCIES = Canvas(encode=_encode_circular, decode=_decode_circular)


class Blank(NamedTuple):
    """One colour with normal noise around it, to start from.

    Attributes:
      colour: sRGB in [0, 1].
      deviation: of the noise, independent in every pixel and channel.
    """

    colour: tuple[float, float, float] = (0.5, 0.5, 0.5)
    deviation: float = 0.01


def start_image(
    content: jax.Array,
    noise: float | jax.Array,
    key: jax.Array,
    *,
    blank: Blank | None = None,
) -> jax.Array:
    """The content image, noise, or a mix.

    Args:
      content: ``[H, W, 3]``.
      noise: share of noise: 0 is the content, 1 is noise alone.
      key: seeds the noise.
      blank: the noise; None is independent uniform numbers in [0, 1].

    Returns:
      ``(1 - noise) content + noise u``, ``[H, W, 3]``.
    """
    if blank is None:
        drawn = jax.random.uniform(key, content.shape, content.dtype)
    else:
        grain = jax.random.normal(key, content.shape, content.dtype)
        colour = jnp.asarray(blank.colour, content.dtype)
        drawn = colour[None, None] + blank.deviation * grain
    return (1 - noise) * content + noise * drawn


@functools.cache
def levels(white: float) -> Canvas:
    """Pixels as numbers from 0, black, to ``white``; equal arguments give the same canvas.

    Only what has a unit of length sees the difference: the learning rate of Adam, the first step
    of an L-BFGS without a line search.
    """

    def encode(picture: jax.Array) -> jax.Array:
        return picture * white

    def decode(z: jax.Array) -> jax.Array:
        return z / white

    encode.__name__, decode.__name__ = f"times {white:g}", f"over {white:g}"  # for a record
    return Canvas(encode, decode)
