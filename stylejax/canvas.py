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


@partial(jax.jit, static_argnames="circular")
def _coefficients(picture: jax.Array, *, circular: bool) -> jax.Array:
    """``f^a C x D^T``: the transform of ``[H, W, 3]`` down and across, each frequency weighed.

    ``f`` is in cycles per pixel; what has less than half a cycle in the picture, such as the mean,
    counts as if it had half a cycle.
    """
    down, across, weight = _transform(picture.shape[:2], picture.dtype, circular=circular)

    def by_products(picture: jax.Array) -> jax.Array:
        return jnp.einsum("ih,hwc,jw->ijc", down, picture, across, precision="highest")

    fast = jax.scipy.fft.dctn
    return _transformed(picture, fast, by_products, circular=circular) / weight[:, :, None]


@partial(jax.jit, static_argnames="circular")
def _sum_of_waves(z: jax.Array, *, circular: bool) -> jax.Array:
    """``C^T (f^-a z) D``: the picture whose ``_coefficients`` are ``z``."""
    down, across, weight = _transform(z.shape[:2], z.dtype, circular=circular)
    weighed = weight[:, :, None] * z

    def by_products(weighed: jax.Array) -> jax.Array:
        return jnp.einsum("ih,ijc,jw->hwc", down, weighed, across, precision="highest")

    return _transformed(weighed, jax.scipy.fft.idctn, by_products, circular=circular)


def _transformed(
    x: jax.Array,
    fast: Callable[..., jax.Array],
    by_products: Callable[[jax.Array], jax.Array],
    *,
    circular: bool,
) -> jax.Array:
    """The cosine transform as the device is quicker at it; there is no fast one of Hartley's here.

    The products' work grows with the cube of the side: at 2048 pixels they would be a seventh of
    what a GPU takes for the network, and float32 products of matrices take it long to compile. CPUs
    are quicker with them below 2048 pixels.
    """
    if circular:
        return by_products(x)
    across_both = partial(fast, axes=(0, 1), norm="ortho")
    return jax.lax.platform_dependent(x, cuda=across_both, default=by_products)


def _transform(
    size: tuple[int, ...], dtype: jnp.dtype, *, circular: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The orthonormal matrices ``C`` ``[H, H]`` and ``D`` ``[W, W]``, and ``f^-a`` ``[H, W]``."""
    height, width = size
    if circular:
        down, across = _waves(height, dtype), _waves(width, dtype)
        cycles = [jnp.asarray(np.abs(np.fft.fftfreq(n)), dtype) for n in (height, width)]
    else:
        down, across = _cosines(height, dtype), _cosines(width, dtype)
        cycles = [jnp.arange(n, dtype=dtype) / (2 * n) for n in (height, width)]
    squared = jnp.square(cycles[0])[:, None] + jnp.square(cycles[1])[None]
    least = 0.5 / max(height, width)
    return down, across, jnp.maximum(squared, least**2) ** (-_EXPONENT / 2)


def _sum_of_waves_over_devices(z: jax.Array, rows: Rows, *, circular: bool) -> jax.Array:
    """``_sum_of_waves`` of padded rows of coefficients, as padded rows of the picture.

    A device goes from frequencies to places across its rows; then every one gets some columns of
    all rows, goes from frequencies to places down these, and gives the rows back: twice the picture
    goes over the wire, never all of it to one device. What pads it has matrices of zeros.
    """
    name, width, height = rows.mesh.axis_names[0], z.shape[1], rows.height
    beside, below = -width % rows.devices, rows.padded - height

    def local(z: jax.Array) -> jax.Array:
        down, across, weight = _transform((height, width), z.dtype, circular=circular)
        down = jnp.pad(down, ((0, below), (0, below)))
        across = jnp.pad(across, ((0, 0), (0, beside)))
        weight = jnp.pad(weight, ((0, below), (0, 0)))
        first = jax.lax.axis_index(name) * rows.each
        weighed = jax.lax.dynamic_slice_in_dim(weight, first, rows.each)[:, :, None] * z
        x = jnp.einsum("ijc,jw->iwc", weighed, across, precision="highest")
        x = jax.lax.all_to_all(x, name, split_axis=1, concat_axis=0, tiled=True)
        x = jnp.einsum("ih,iwc->hwc", down, x, precision="highest")
        x = jax.lax.all_to_all(x, name, split_axis=0, concat_axis=1, tiled=True)
        return x[:, :width]

    return on_each(local, rows.mesh, (True,))(rows.pad(z))


def over_devices(canvas: Canvas, rows: Rows) -> Canvas:
    """The canvas whose ``z`` and picture are padded rows, where it can be one; else as it is.

    Its ``encode`` is unchanged: it gives ``z`` of the picture's own height, see ``devices.place``.
    """
    if canvas in (FREQUENCIES, CIRCULAR_FREQUENCIES):
        circular = canvas == CIRCULAR_FREQUENCIES
        decode = partial(_sum_of_waves_over_devices, rows=rows, circular=circular)
        return canvas._replace(decode=decode, by_rows=True)
    return canvas


def _cosine_coefficients(picture: jax.Array) -> jax.Array:
    return _coefficients(picture, circular=False)


def _sum_of_cosines(z: jax.Array) -> jax.Array:
    return _sum_of_waves(z, circular=False)


def _circular_coefficients(picture: jax.Array) -> jax.Array:
    return _coefficients(picture, circular=True)


def _sum_of_circular_waves(z: jax.Array) -> jax.Array:
    return _sum_of_waves(z, circular=True)


# Not the paper's: the same pictures in variables in which a step makes large shapes sooner. The
# gradient of a picture is mostly fine grain, while what is still to be done is mostly large
# shapes; L-BFGS on pixels needs many steps to learn that. ``z[i, j]`` is the weighed coefficient of
# ``i / 2H`` cycles per pixel down and ``j / 2W`` across. The transform is a cosine's, whose
# repetition is a mirror's, so opposite borders know nothing of each other. A linear change of
# variables moves no minimum, and to L-BFGS, which turns with them, orthonormal coefficients are
# the same as the pixels that they are of.
FREQUENCIES = Canvas(encode=_cosine_coefficients, decode=_sum_of_cosines)

# The same for one tile of an endless pattern, whose opposite borders are neighbours: where the
# gradient is rolled, the step is.
CIRCULAR_FREQUENCIES = Canvas(encode=_circular_coefficients, decode=_sum_of_circular_waves)


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
