"""What is optimised: a pair of pure functions between a picture and the optimizer's variable.

A picture is ``[H, W, 3]`` float, sRGB in [0, 1]; ``z`` is whatever the optimizer holds. Starts,
previews and results are always pictures, never ``z``.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stylejax.devices import Rows, on_each


class Canvas(NamedTuple):
    """``decode(z)`` is the picture; ``encode(picture)`` a ``z`` that decodes to it.

    Attributes:
      encode: ``[H, W, 3]`` to ``z``.
      decode: ``z`` to ``[H, W, 3]``.
      by_rows: whether ``decode`` takes the rows of ``z`` that one of several devices has, with
        zeros below the picture; it does where both work pixel by pixel and leave 0 as it is.
    """

    encode: Callable[[jax.Array], jax.Array]
    decode: Callable[[jax.Array], jax.Array]
    by_rows: bool = False


def _same(x: jax.Array) -> jax.Array:
    return x


# The paper's: the pixels themselves. They may leave [0, 1] on the way (clipping inside the loop
# would belie the curvature pairs of L-BFGS); the result is clipped once, at the end.
PIXELS = Canvas(encode=_same, decode=_same, by_rows=True)

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
    rows, columns, weight = _transform(x.shape[0], x.shape[1], power, x.dtype, circular=circular)

    def both(rows: jax.Array, x: jax.Array, columns: jax.Array) -> jax.Array:
        return jnp.einsum("ih,hwc,jw->ijc", rows, x, columns, precision="highest")

    return both(rows.T, weight[:, :, None] * both(rows, x, columns), columns.T)


def _transform(
    height: int, width: int, power: float, dtype: jnp.dtype, *, circular: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The matrices of both directions, ``[H, H]`` and ``[W, W]``, and ``f^power`` ``[H, W]``."""
    if circular:
        rows, columns = _waves(height, dtype), _waves(width, dtype)
        cycles = [jnp.asarray(np.abs(np.fft.fftfreq(n)), dtype) for n in (height, width)]
    else:
        rows, columns = _cosines(height, dtype), _cosines(width, dtype)
        cycles = [jnp.arange(n, dtype=dtype) / (2 * n) for n in (height, width)]
    squared = jnp.square(cycles[0])[:, None] + jnp.square(cycles[1])[None]
    least = 0.5 / max(height, width)
    return rows, columns, jnp.maximum(squared, least**2) ** (power / 2)


def _weighted_over_devices(z: jax.Array, rows: Rows, power: float, *, circular: bool) -> jax.Array:
    """``_weighted`` of padded rows.

    A device transforms its rows; then every one gets some columns of all rows, transforms those
    there and back, and gives the rows back: twice the picture goes over the wire, never all of it
    to one device. Rows and columns that pad it have matrices of zeros.
    """
    name, width, height = rows.mesh.axis_names[0], z.shape[1], rows.height
    beside, below = -width % rows.devices, rows.padded - height
    own = (width + beside) // rows.devices

    def local(z: jax.Array) -> jax.Array:
        down, across, weight = _transform(height, width, power, z.dtype, circular=circular)
        down = jnp.pad(down, ((0, 0), (0, below)))
        across = jnp.pad(across, ((0, beside), (0, 0)))
        weight = jnp.pad(weight, ((0, 0), (0, beside)))
        first = jax.lax.axis_index(name) * own
        weight = jax.lax.dynamic_slice_in_dim(weight, first, own, axis=1)
        x = jnp.einsum("hwc,jw->hjc", z, across, precision="highest")
        x = jax.lax.all_to_all(x, name, split_axis=1, concat_axis=0, tiled=True)
        x = weight[:, :, None] * jnp.einsum("ih,hjc->ijc", down, x, precision="highest")
        x = jnp.einsum("ih,ijc->hjc", down, x, precision="highest")
        x = jax.lax.all_to_all(x, name, split_axis=0, concat_axis=1, tiled=True)
        return jnp.einsum("hjc,jw->hwc", x, across, precision="highest")

    return on_each(local, rows.mesh, (True,))(rows.pad(z))


def over_devices(canvas: Canvas, rows: Rows) -> Canvas:
    """The canvas whose ``z`` and picture are padded rows, where it can be one; else as it is.

    Its ``encode`` is unchanged: it gives ``z`` of the picture's own height, see ``devices.place``.
    """
    if canvas in (FREQUENCIES, CIRCULAR_FREQUENCIES):
        circular = canvas == CIRCULAR_FREQUENCIES
        weighted = partial(_weighted_over_devices, rows=rows, power=-_EXPONENT, circular=circular)
        return canvas._replace(decode=weighted, by_rows=True)
    return canvas


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
    return Canvas(encode, decode, by_rows=True)
