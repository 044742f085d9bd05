"""What is optimised: a pair of pure functions between a picture and the optimizer's variable.

A picture is ``[H, W, 3]`` float, sRGB in [0, 1]; ``z`` is whatever the optimizer holds. Starts,
previews and results are always pictures, never ``z``.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

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


# Where a side is longer than ``_WHOLE``, a transform's matrix is made for so many places of it at a
# time. Those of 4096x3071 would take two thirds of a picture, and would be held for the gradient
# through all of the network.
_BLOCK, _WHOLE = 512, 1024


def _remainder(a: jax.Array, b: jax.Array, modulus: int) -> jax.Array:
    """``a b`` modulo ``modulus``, exactly, of integers from 0 to below it.

    Sides of more than 2^15 have products that int32 cannot hold; they are taken in two parts, which
    is right up to sides of 2^19.
    """
    if modulus <= 2**15:
        return a * b % modulus
    return (a * (b >> 10) % modulus * 2**10 % modulus + a * (b & 1023)) % modulus


def _cosine(frequency: jax.Array, place: jax.Array, n: int) -> jax.Array:
    """The orthonormal cosine transform (DCT-II) of ``n`` values, elements of its matrix."""
    # Whole turns are taken off while the angle is an integer, so that the cosine's argument is
    # exact.
    angle = _remainder(frequency, 2 * place + 1, 4 * n)
    size = jnp.where(frequency == 0, (1 / n) ** 0.5, (2 / n) ** 0.5)
    return size * jnp.cos(angle * (np.pi / (2 * n)))


def _wave(frequency: jax.Array, place: jax.Array, n: int) -> jax.Array:
    """The orthonormal Hartley transform of ``n`` values, ``cos + sin``, elements of its matrix.

    Bracewell 1983. Its frequency ``k`` and ``n - k`` are Fourier's ``k`` in real numbers.
    """
    angle = _remainder(frequency, place, n) * (2 * np.pi / n)
    return (jnp.cos(angle) + jnp.sin(angle)) / n**0.5


def _places(n: int) -> jax.Array:
    return jnp.arange(n, dtype=jnp.int32)


def _in_blocks(made: Callable[[jax.Array], jax.Array], x: jax.Array, axis: int) -> jax.Array:
    """``made(places)`` for all places along an axis of ``x``, whose shape and dtype it has."""
    n = x.shape[axis]
    if n <= _WHOLE:
        return made(_places(n))
    blocks = -(-n // _BLOCK)
    each = -(-n // blocks)

    def put(number: jax.Array, all_made: jax.Array) -> jax.Array:
        first = jnp.minimum(number * each, n - each)  # the last block begins a little earlier
        some = made(first + _places(each))
        return jax.lax.dynamic_update_slice_in_dim(all_made, some, first, axis)

    # It begins with ``x``, which is overwritten: zeros depend on nothing, so that the compiler
    # would make them before the evaluation, and hold them through it.
    return jax.lax.fori_loop(0, blocks, put, x)


def _matrix(
    places: jax.Array, x: jax.Array, axis: int, n: int, *, circular: bool, back: bool
) -> jax.Array:
    """Rows of the transform's matrix along an axis of ``x``, or of its transpose's: ``[some, n]``.

    Of the axis the first ``n`` count; to what lies behind them belongs 0.
    """
    outer, inner = places[:, None], _places(x.shape[axis])[None]
    frequency, place = (inner, outer) if back else (outer, inner)
    matrix = (_wave if circular else _cosine)(frequency, place, n)
    if n < x.shape[axis]:
        matrix = jnp.where((outer < n) & (inner < n), matrix, 0)
    return matrix.astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _along(x: jax.Array, axis: int, n: int, circular: bool, back: bool) -> jax.Array:
    """``[H, W, 3]`` transformed down or across, axis 0 or 1; or back, the other's transpose."""
    product = ("ph,hwc->pwc", "pw,hwc->hpc")[axis]

    def made(places: jax.Array) -> jax.Array:
        matrix = _matrix(places, x, axis, n, circular=circular, back=back)
        return jnp.einsum(product, matrix, x, precision="highest")

    return _in_blocks(made, x, axis)


def _weights(
    frequencies: jax.Array, size: tuple[int, ...], dtype: jnp.dtype, *, circular: bool
) -> jax.Array:
    """``f^-a`` of some frequencies down and all across, ``[some, W, 1]``.

    ``f`` is in cycles per pixel; what has less than half a cycle in the picture, such as the mean,
    counts as if it had half a cycle.
    """

    def cycles(frequencies: jax.Array, n: int) -> jax.Array:
        if circular:
            return jnp.minimum(frequencies, n - frequencies).astype(dtype) / n
        return frequencies.astype(dtype) / (2 * n)

    height, width = size
    down, across = cycles(frequencies, height), cycles(_places(width), width)
    squared = jnp.square(down)[:, None] + jnp.square(across)[None]
    least = 0.5 / max(height, width)
    return (jnp.maximum(squared, least**2) ** (-_EXPONENT / 2))[:, :, None]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _weighed(x: jax.Array, circular: bool, back: bool) -> jax.Array:
    """``f^-a C x D^T`` of ``[H, W, 3]``; or back, ``C^T (f^-a x) D``, the other's transpose.

    ``C`` and ``D`` are the transforms down and across. There is no fast one of Hartley's here; the
    cosine's is taken as the device is quicker at it. The products' work grows with the cube of the
    side: at 2048 pixels they would be a seventh of what a GPU takes for the network, and float32
    products of matrices take it long to compile. CPUs are quicker with them below 2048 pixels.
    """
    height, width = x.shape[:2]
    weights = partial(_weights, size=(height, width), dtype=x.dtype, circular=circular)

    def by_products(x: jax.Array) -> jax.Array:
        def made(places: jax.Array) -> jax.Array:
            matrix = _matrix(places, x, 0, height, circular=circular, back=back)
            some = jnp.einsum("ph,hwc->pwc", matrix, x, precision="highest")
            some = _along(some, 1, width, circular, back)
            return some if back else weights(places) * some

        return _in_blocks(made, x, 0)

    def fast(x: jax.Array) -> jax.Array:
        if back:
            return jax.scipy.fft.idctn(x, axes=(0, 1), norm="ortho")
        return weights(_places(height)) * jax.scipy.fft.dctn(x, axes=(0, 1), norm="ortho")

    def weighed(places: jax.Array) -> jax.Array:
        return weights(places) * jax.lax.dynamic_slice_in_dim(x, places[0], len(places))

    if back:
        x = _in_blocks(weighed, x, 0)
    if circular:
        return by_products(x)
    return jax.lax.platform_dependent(x, cuda=fast, default=by_products)


# Each is linear and the way back its transpose, so that the gradient's way is the other one. Left
# to JAX, the gradient of blocks would be a sum over them.


def _along_with_rest(x: jax.Array, *how: Any) -> tuple[jax.Array, None]:
    return _along(x, *how), None


def _along_transposed(
    axis: int, n: int, circular: bool, back: bool, _: None, cotangent: jax.Array
) -> tuple[jax.Array]:
    return (_along(cotangent, axis, n, circular, not back),)


def _weighed_with_rest(x: jax.Array, *how: Any) -> tuple[jax.Array, None]:
    return _weighed(x, *how), None


def _weighed_transposed(
    circular: bool, back: bool, _: None, cotangent: jax.Array
) -> tuple[jax.Array]:
    return (_weighed(cotangent, circular, not back),)


_along.defvjp(_along_with_rest, _along_transposed)
_weighed.defvjp(_weighed_with_rest, _weighed_transposed)


@partial(jax.jit, static_argnames="circular")
def _coefficients(picture: jax.Array, *, circular: bool) -> jax.Array:
    """``f^a C x D^T``: the transform of ``[H, W, 3]`` down and across, each frequency weighed."""
    height, *_ = size = picture.shape[:2]
    weights = _weights(_places(height), size, picture.dtype, circular=circular)
    return _weighed(picture, circular, False) / jnp.square(weights)


@partial(jax.jit, static_argnames="circular")
def _sum_of_waves(z: jax.Array, *, circular: bool) -> jax.Array:
    """``C^T (f^-a z) D``: the picture whose ``_coefficients`` are ``z``."""
    return _weighed(z, circular, True)


def _sum_of_waves_over_devices(z: jax.Array, rows: Rows, *, circular: bool) -> jax.Array:
    """``_sum_of_waves`` of padded rows of coefficients, as padded rows of the picture.

    A device goes from frequencies to places across its rows; then every one gets some columns of
    all rows, goes from frequencies to places down these, and gives the rows back: twice the picture
    goes over the wire, never all of it to one device.
    """
    name, width, height = rows.mesh.axis_names[0], z.shape[1], rows.height
    beside = -width % rows.devices

    def local(z: jax.Array) -> jax.Array:
        own = jax.lax.axis_index(name) * rows.each + _places(rows.each)
        weights = _weights(own, (height, width), z.dtype, circular=circular)
        x = jnp.pad(weights * z, ((0, 0), (0, beside), (0, 0)))
        x = _along(x, 1, width, circular, True)
        x = jax.lax.all_to_all(x, name, split_axis=1, concat_axis=0, tiled=True)
        x = _along(x, 0, height, circular, True)
        x = jax.lax.all_to_all(x, name, split_axis=0, concat_axis=1, tiled=True)
        return x[:, :width]

    return on_each(local, rows.mesh, (True,))(rows.pad(z))


def _coefficients_over_devices(picture: jax.Array, rows: Rows, *, circular: bool) -> jax.Array:
    """``_coefficients`` of the picture, padded or not, as padded rows.

    The transform is orthonormal, so that the way there is the gradient's of the way back.
    """
    picture = rows.pad(picture)
    decode = partial(_sum_of_waves_over_devices, rows=rows, circular=circular)
    _, transposed = jax.vjp(decode, picture)
    size = (rows.height, picture.shape[1])
    weights = _weights(_places(rows.padded), size, picture.dtype, circular=circular)
    return transposed(picture)[0] / jnp.square(weights)


def over_devices(canvas: Canvas, rows: Rows) -> Canvas:
    """The canvas whose ``z`` and picture are padded rows, where it can be one; else as it is."""
    if canvas in (FREQUENCIES, CIRCULAR_FREQUENCIES):
        circular = canvas == CIRCULAR_FREQUENCIES
        ways = (_coefficients_over_devices, _sum_of_waves_over_devices)
        encode, decode = (partial(way, rows=rows, circular=circular) for way in ways)
        return canvas._replace(encode=encode, decode=decode, by_rows=True)
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
