"""The four operations VGG is made of, each with a gradient rule of its own.

Arrays are one image's features, ``[h, w, c]``; batches come from ``jax.vmap``. Values are those of
the plain XLA operations. The rules exist because XLA on CPU runs the derived gradients inside
loops (``scan``, ``while_loop``) on paths several times slower than the forward operation. They are
made of the same operations, so reverse-over-reverse differentiation works; forward mode
(``jax.jvp``) does not.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from stylejax import bits, winograd

Precision = str | None
Pool = Callable[[jax.Array], jax.Array]
# What lies beyond the border of an image, in the words of ``jnp.pad``: zeros, the border again, or
# the image itself from the other side.
Beyond = Literal["constant", "edge", "wrap"]
# The same above and below, where the two lines may also be there already, and to the sides.
_Frame = tuple[Beyond | Literal["given"], Beyond]


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    precision: Precision = "highest",
    *,
    evaluated: jax.Array | None = None,
) -> jax.Array:
    """3x3 cross-correlation with stride 1 and zero padding.

    Args:
      x: ``[h, w, in]`` features.
      kernel: ``[3, 3, in, out]``, the same dtype as ``x``.
      precision: ``"highest"`` (float32 products), ``"high"`` or ``"default"`` (TF32 or bfloat16
        where the device has them).
      evaluated: ``winograd.evaluate_kernel(kernel)``, if it is at hand. CPUs then use it where it
        is faster. The derivative is that of ``kernel``, and zero here.

    Returns:
      ``[h, w, out]``.
    """
    return _convolve(x, kernel, evaluated, ("constant", "constant"), precision)


def convolve_replicating(
    x: jax.Array,
    kernel: jax.Array,
    precision: Precision = "highest",
    *,
    evaluated: jax.Array | None = None,
) -> jax.Array:
    """The same, but the border of ``x`` is repeated beyond it."""
    return _convolve(x, kernel, evaluated, ("edge", "edge"), precision)


def convolve_circular(
    x: jax.Array,
    kernel: jax.Array,
    precision: Precision = "highest",
    *,
    evaluated: jax.Array | None = None,
) -> jax.Array:
    """The same, but beyond its border ``x`` goes on from the other side: a torus has no border.

    Rolling ``x`` rolls what comes out.
    """
    return _convolve(x, kernel, evaluated, ("wrap", "wrap"), precision)


def convolve_rows(
    x: jax.Array,
    kernel: jax.Array,
    precision: Precision = "highest",
    *,
    beside: Beyond = "constant",
    evaluated: jax.Array | None = None,
) -> jax.Array:
    """The same of some rows of an image, which come with their neighbours above and below.

    Args:
      x: ``[h + 2, w, in]``.
      kernel: as for ``convolve``.
      precision: as for ``convolve``.
      beside: what lies beyond the first and last column, see ``Beyond``.
      evaluated: as for ``convolve``.

    Returns:
      ``[h, w, out]``.
    """
    return _convolve(x, kernel, evaluated, ("given", beside), precision)


def _within(
    x: jax.Array, kernel: jax.Array, *, zeros: Sequence[bool], precision: Precision
) -> jax.Array:
    """The windows within ``x``, which has zeros around along some axes."""
    return jax.lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=(1, 1),
        padding=[(int(along),) * 2 for along in zeros],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )[0]


def _cropped(
    x: jax.Array, kernel: jax.Array, *, zeros: Sequence[bool], precision: Precision
) -> jax.Array:
    """The same made with zeros around every axis, the only way that XLA is quick at on CPU.

    It takes a quarter of the other's time. Along an axis without zeros both ends are wrong, and
    left out.
    """
    down, across = (slice(None) if along else slice(1, -1) for along in zeros)
    return _within(x, kernel, zeros=(True, True), precision=precision)[down, across]


def _framed(x: jax.Array, frame: Any) -> jax.Array:
    """A line more on every side, but for axes where it is given."""
    for beyond in dict.fromkeys(frame):
        if beyond != "given":
            x = jnp.pad(x, [*((int(b == beyond),) * 2 for b in frame), (0, 0)], beyond)
    return x


def _edged_at_once(x: jax.Array, frame: Any) -> jax.Array:
    """``_framed`` with repeated borders alone: a sum of lines amid zeros, one pass on a GPU.

    Of what ``jnp.pad`` concatenates XLA makes a slower program there (docs/performance.md).
    """

    def parts(length: int, beyond: str) -> list[tuple[slice, tuple[int, int]]]:
        if beyond != "edge":
            return [(slice(None), (0, 0))]
        middle = (slice(None), (1, 1))
        return [(slice(1), (0, length + 1)), middle, (slice(-1, None), (length + 1, 0))]

    down, across = (parts(*axis) for axis in zip(x.shape[:2], frame, strict=True))
    lines = [jnp.pad(x[i, j], (above, beside, (0, 0))) for i, above in down for j, beside in across]
    return sum(lines[1:], lines[0])


def _unframed(x: jax.Array, frame: _Frame) -> jax.Array:
    """The transpose of a frame of repeated pixels: each line of it is added to its neighbour.

    Every part is used once, so that XLA fuses all of it into one pass and copies nothing.
    """
    if frame == ("edge", "edge"):
        inner, top, bottom = (_sides_added(rows) for rows in (x[1:-1], x[:1], x[-1:]))
        return _with_ends(inner, top, bottom, axis=0)
    return _sides_added(x) if frame[1] == "edge" else x


def _sides_added(x: jax.Array) -> jax.Array:
    return _with_ends(x[:, 1:-1], x[:, :1], x[:, -1:], axis=1)


def _with_ends(x: jax.Array, first: jax.Array, last: jax.Array, *, axis: int) -> jax.Array:
    """``x`` with one line added to its first and one to its last along an axis."""
    beyond = x.shape[axis] - 1
    for line, widths in ((first, (0, beyond)), (last, (beyond, 0))):
        x += jnp.pad(line, [widths if i == axis else (0, 0) for i in range(x.ndim)])
    return x


# Jitted, as its gradient is, so that all layers and pictures of a shape are traced once.
@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
@partial(jax.jit, static_argnums=(3, 4))
def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    evaluated: jax.Array | None,
    frame: _Frame,
    precision: Precision,
) -> jax.Array:
    # The frame but for zeros, which the direct sums have themselves.
    lines = tuple("given" if beyond == "constant" else beyond for beyond in frame)
    zeros = tuple(beyond == "constant" for beyond in frame)

    def direct(x: jax.Array, kernel: jax.Array, _: jax.Array | None) -> jax.Array:
        framed = _framed(x, lines) if "wrap" in lines else _edged_at_once(x, lines)
        return _within(framed, kernel, zeros=zeros, precision=precision)

    def cropped(x: jax.Array, kernel: jax.Array, _: jax.Array | None) -> jax.Array:
        return _cropped(_framed(x, lines), kernel, zeros=zeros, precision=precision)

    def by_tiles(x: jax.Array, _: jax.Array, evaluated: jax.Array) -> jax.Array:
        return winograd.correlate(_framed(x, frame), evaluated, precision=precision)

    on_cpu: Any = direct if all(zeros) else cropped
    if evaluated is not None and winograd.worthwhile(x.shape, kernel.shape[-1]):
        on_cpu = by_tiles
    if on_cpu is direct:
        return direct(x, kernel, evaluated)
    return jax.lax.platform_dependent(x, kernel, evaluated, cpu=on_cpu, default=direct)


class _Saved(NamedTuple):
    """``x`` only where the kernel's gradient is asked for: a constant network has none."""

    x: jax.Array | None
    kernel: jax.Array
    evaluated: jax.Array | None


def _convolve_forward(
    x: Any, kernel: Any, evaluated: Any, frame: _Frame, precision: Precision
) -> tuple[jax.Array, _Saved]:
    tiles = None if evaluated is None else evaluated.value
    out = _convolve(x.value, kernel.value, tiles, frame, precision)
    return out, _Saved(x.value if kernel.perturbed else None, kernel.value, tiles)


def _convolve_backward(
    frame: _Frame, precision: Precision, saved: _Saved, cotangent: Any
) -> tuple[jax.Array | None, jax.Array | None, None]:
    if isinstance(cotangent, SymbolicZero):
        return None, None, None
    x, kernel, evaluated = saved
    gradient = None
    if x is not None:
        gradient = _kernel_gradient(_framed(x, frame), cotangent, precision)
    back = _back(cotangent, kernel, evaluated, frame, precision)
    return _unframed(back, frame), gradient, None


@partial(jax.jit, static_argnums=(3, 4))
def _back(
    cotangent: jax.Array,
    kernel: jax.Array,
    evaluated: jax.Array | None,
    frame: _Frame,
    precision: Precision,
) -> jax.Array:
    """The gradient of ``x``, with the lines of a frame that were given or repeated."""
    # On a torus every pixel has all its neighbours, and so has its gradient.
    around: Any = tuple("wrap" if beyond == "wrap" else "constant" for beyond in frame)
    # Lines that were given or repeated have a gradient too.
    extra = ["constant" if beyond in ("edge", "given") else "given" for beyond in frame]

    def direct(cotangent: jax.Array, kernel: jax.Array, _: jax.Array | None) -> jax.Array:
        turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
        return _convolve(cotangent, turned, None, around, precision)

    def by_tiles(cotangent: jax.Array, _: jax.Array, evaluated: jax.Array) -> jax.Array:
        framed = _framed(cotangent, around)
        return winograd.correlate(framed, evaluated, turned=True, precision=precision)

    cotangent = _framed(cotangent, extra)
    if evaluated is None or not winograd.worthwhile(cotangent.shape, kernel.shape[2]):
        return direct(cotangent, kernel, evaluated)
    return jax.lax.platform_dependent(cotangent, kernel, evaluated, cpu=by_tiles, default=direct)


def _kernel_gradient(framed: jax.Array, cotangent: jax.Array, precision: Precision) -> jax.Array:
    """A matrix product for each of the nine places; a third quicker on CPU than XLA's own rule."""
    height, width, outputs = cotangent.shape
    flat = cotangent.reshape(-1, outputs)
    places = [
        framed[i : i + height, j : j + width].reshape(height * width, -1)
        for i in range(3)
        for j in range(3)
    ]
    products = [jnp.matmul(place.T, flat, precision=precision) for place in places]
    return jnp.stack(products).reshape(3, 3, -1, outputs)


_convolve.defvjp(_convolve_forward, _convolve_backward, symbolic_zeros=True)


# Of a layer of more numbers a ReLU keeps the signs alone, where that is for the compiler to choose.
# Making them takes up to a sixth of an evaluation (docs/performance.md).
_LARGE = 2**24
# What rules keep of a layer that they would rather not have computed again, for the policies of
# ``jax.checkpoint``.
KEPT = "kept"


def keeps_signs(count: int) -> bool:
    """Whether ``rectify`` keeps a bit of each of so many numbers on CPU, and not the number."""
    return count > _LARGE and count % 16 == 0


def rectify(x: jax.Array) -> jax.Array:
    """``max(x, 0)``, with the gradient 0 at 0; of a large ``x`` only the signs are kept for it."""
    return _rectify(x, "by a loop" if keeps_signs(x.size) else None)


def rectify_keeping_signs(x: jax.Array) -> jax.Array:
    """The same, and of any ``x`` the signs are kept, eight to a byte, under the name ``KEPT``.

    For what the gradient wants of one round of a loop, which the compiler cannot put off.
    """
    return _rectify(x, "by name")


_Signs = Literal["by a loop", "by name"] | None


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _rectify(x: jax.Array, signs: _Signs) -> jax.Array:
    return jnp.maximum(x, 0)


def _rectify_forward(x: jax.Array, signs: _Signs) -> tuple[jax.Array, jax.Array]:
    if signs == "by name":
        return _rectify(x, signs), checkpoint_name(bits.pack(x > 0), KEPT)
    if signs is None:
        return _rectify(x, signs), x > 0
    kept = _signs(x)

    def after_them(x: jax.Array, kept: jax.Array) -> jax.Array:
        return jnp.where(_positive(kept, x.shape), x, jnp.maximum(x, 0))

    # The same numbers either way; so the signs come first, and ``x`` is soon forgotten.
    out = jax.lax.platform_dependent(
        x, kept, cpu=after_them, default=lambda x, _: jnp.maximum(x, 0)
    )
    return out, kept


def _rectify_backward(signs: _Signs, kept: jax.Array, cotangent: jax.Array) -> tuple[Any]:
    if signs is not None:
        taken_apart = _positive if signs == "by a loop" else bits.unpack
        kept = taken_apart(kept, cotangent.shape)
    return (jnp.where(kept, cotangent, 0),)


_rectify.defvjp(_rectify_forward, _rectify_backward)


def _signs(x: jax.Array) -> jax.Array:
    """``x > 0``, which XLA on CPU would put off to the backward pass, and keep ``x`` until then.

    It does so with whatever it can fuse. A loop it does not touch.

    Returns:
      uint8 ``[2, 1, x.size // 16]``, the bits of each half.
    """

    def of_half(half: jax.Array) -> jax.Array:
        return bits.pack(half > 0)

    halves = x.reshape(2, 8, -1)
    return jax.lax.platform_dependent(
        halves, cpu=partial(jax.lax.map, of_half), default=jax.vmap(of_half)
    )


def _positive(signs: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The inverse of ``_signs``: where ``x``, of ``shape``, is positive."""
    of_half = partial(bits.unpack, shape=(8, signs.shape[2]))
    return jax.vmap(of_half)(signs).reshape(shape)


def _windows(x: jax.Array) -> jax.Array:
    """``[h, w, c]`` as ``[h // 2, 2, w // 2, 2, c]``; an odd last row or column is left out."""
    h, w, c = x.shape
    return x[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, c)


def average_pool(x: jax.Array) -> jax.Array:
    """Mean of 2x2 windows, ``[h, w, c]`` to ``[h // 2, w // 2, c]``."""
    return _average_pool(x, _odd(x))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _average_pool(x: jax.Array, left_out: tuple[int, int]) -> jax.Array:
    # Not ``mean``: XLA on CPU gives a sum over axes to a library, together with what it can fuse,
    # and writes out every constant of that, a ReLU's zeros and the bias, at full size.
    windows = _windows(x)
    upper, lower = (windows[:, i, :, 0] + windows[:, i, :, 1] for i in range(2))
    return (upper + lower) / 4


def _average_pool_forward(x: jax.Array, left_out: tuple[int, int]) -> tuple[jax.Array, None]:
    return _average_pool(x, left_out), None


def _average_pool_backward(
    left_out: tuple[int, int], _: None, cotangent: jax.Array
) -> tuple[jax.Array]:
    h, w, c = cotangent.shape
    even = jnp.broadcast_to(cotangent[:, None, :, None] / 4, (h, 2, w, 2, c))
    return (_spread(even, left_out),)


_average_pool.defvjp(_average_pool_forward, _average_pool_backward)


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum of 2x2 windows, ``[h, w, c]`` to ``[h // 2, w // 2, c]``.

    The gradient goes to the first maximum of a window in reading order, which is also XLA's rule.
    """
    return _max_pool(x, _odd(x), keeps_signs(x.size))


def max_pool_keeping_places(x: jax.Array) -> jax.Array:
    """The same; of any ``x`` two bits of a window are kept for the gradient, as ``KEPT``."""
    return _max_pool(x, _odd(x), True)


def max_pool_ceil(x: jax.Array) -> jax.Array:
    """Maximum of 2x2 windows, ``[h, w, c]`` to ``[ceil(h / 2), ceil(w / 2), c]``.

    Caffe's rounding, in which VGG was trained: an odd last row or column makes windows of its own.
    Where both sides are even it is ``max_pool``.
    """
    return max_pool(_with_even_sides(x))


def max_pool_ceil_keeping_places(x: jax.Array) -> jax.Array:
    """As ``max_pool_keeping_places``."""
    return max_pool_keeping_places(_with_even_sides(x))


def _odd(x: jax.Array) -> tuple[int, int]:
    return x.shape[0] % 2, x.shape[1] % 2


def _with_even_sides(x: jax.Array) -> jax.Array:
    return jnp.pad(x, (*((0, odd) for odd in _odd(x)), (0, 0)), constant_values=-jnp.inf)


class _Places(NamedTuple):
    """Of every window whether its maximum is in the lower row, and whether in the right column."""

    lower: jax.Array
    right: jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x: jax.Array, left_out: tuple[int, int], packed: bool) -> jax.Array:
    return _windows(x).max(axis=(1, 3))


def _max_pool_forward(
    x: jax.Array, left_out: tuple[int, int], packed: bool
) -> tuple[jax.Array, _Places]:
    windows, largest = _windows(x), _max_pool(x, left_out, packed)
    first, second, third = (windows[:, i, :, j] == largest for i, j in ((0, 0), (0, 1), (1, 0)))
    lower = ~(first | second)
    places = _Places(lower, jnp.where(lower, ~third, ~first))
    if packed:
        places = _Places(*(checkpoint_name(bits.pack(place), KEPT) for place in places))
    return largest, places


def _max_pool_backward(
    left_out: tuple[int, int], packed: bool, places: _Places, cotangent: jax.Array
) -> tuple[jax.Array]:
    if packed:
        places = _Places(*(bits.unpack(place, cotangent.shape) for place in places))
    beside = (~places.right, places.right)
    rows = [
        jnp.stack([jnp.where(down & across, cotangent, 0) for across in beside], axis=2)
        for down in (~places.lower, places.lower)
    ]
    return (_spread(jnp.stack(rows, axis=1), left_out),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _spread(windows: jax.Array, left_out: tuple[int, int]) -> jax.Array:
    """The transpose of ``_windows``: ``[h, 2, w, 2, c]`` side by side, zeros where left out."""
    h, _, w, _, c = windows.shape
    return jnp.pad(windows.reshape(2 * h, 2 * w, c), (*((0, odd) for odd in left_out), (0, 0)))


def average_pool_doubled(x: jax.Array) -> jax.Array:
    """Twice ``average_pool``: activations of about the size that maximum pooling leaves.

    K. Crowson's style-transfer-pytorch; "Gatys et al. (2015) do not do this".
    """
    return 2 * average_pool(x)


def l2_pool(x: jax.Array) -> jax.Array:
    """``0.78 (sum x^2)^1/2`` over 2x2 windows, ``[h, w, c]`` to ``[h // 2, w // 2, c]``.

    K. Crowson's style-transfer-pytorch, with its factor. The gradient of a window of zeros is zero.
    """
    squares = 4 * average_pool(jnp.square(x))
    some = squares > 0
    return jnp.where(some, 0.78 * jnp.sqrt(jnp.where(some, squares, 1)), 0)


# Poolings whose gradients need nothing of what went in; and maxima, with those that keep little of
# it however small it is.
LINEAR: tuple[Pool, ...] = (average_pool, average_pool_doubled)
MAXIMA: dict[Pool, Pool] = {
    max_pool: max_pool_keeping_places,
    max_pool_ceil: max_pool_ceil_keeping_places,
}
