"""The three operations VGG is made of, each with a gradient rule of its own.

Arrays are one image's features, ``[h, w, c]``; batches come from ``jax.vmap``. Values are those of
the plain XLA operations. The rules exist because XLA on CPU runs the derived gradients inside
loops (``scan``, ``while_loop``) on paths several times slower than the forward operation. They are
made of the same operations, so reverse-over-reverse differentiation works; forward mode
(``jax.jvp``) does not.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

Precision = str | None


def _correlate(x: jax.Array, kernel: jax.Array, precision: Precision) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )[0]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, precision: Precision = "highest") -> jax.Array:
    """3x3 cross-correlation with stride 1 and zero padding.

    Args:
      x: ``[h, w, in]`` features.
      kernel: ``[3, 3, in, out]``, the same dtype as ``x``.
      precision: ``"highest"`` (float32 products), ``"high"`` or ``"default"`` (TF32 or bfloat16
        where the device has them).

    Returns:
      ``[h, w, out]``.
    """
    return _correlate(x, kernel, precision)


def _convolve_forward(
    x: jax.Array, kernel: jax.Array, precision: Precision
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve(x, kernel, precision), (x, kernel)


def _convolve_backward(
    precision: Precision, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    _, kernel_gradient = jax.vjp(lambda k: _correlate(x, k, precision), kernel)
    # Where the network is constant the second gradient is dead code and is never computed.
    return convolve(cotangent, turned, precision), kernel_gradient(cotangent)[0]


convolve.defvjp(_convolve_forward, _convolve_backward)


class _Rim(NamedTuple):
    """The four border lines of an array ``[h, w, c]``: ``[w, c]`` twice, ``[h, c]`` twice."""

    top: jax.Array
    bottom: jax.Array
    left: jax.Array
    right: jax.Array


def _rim_of(x: jax.Array) -> _Rim:
    return _Rim(x[0], x[-1], x[:, 0], x[:, -1])


def _add_rim(x: jax.Array, rim: _Rim) -> jax.Array:
    """Adds to the four border lines, in place where XLA can; a corner gets two additions."""
    h, w, _ = x.shape
    for line, start in ((rim.top[None], (0, 0, 0)), (rim.bottom[None], (h - 1, 0, 0))):
        x = jax.lax.dynamic_update_slice(x, x[start[0]][None] + line, start)
    for line, start in ((rim.left[:, None], (0, 0, 0)), (rim.right[:, None], (0, w - 1, 0))):
        x = jax.lax.dynamic_update_slice(x, x[:, start[1]][:, None] + line, start)
    return x


def _beyond(x: _Rim, kernel: jax.Array, precision: Precision) -> _Rim:
    """What a frame of repeated border pixels adds to the convolution, line by line.

    The rows above and below own the corners of the frame, so the columns beside end in zeros.
    """

    def along(line: jax.Array, taps: jax.Array, mode: str) -> jax.Array:
        padded = jnp.pad(line, ((1, 1), (0, 0)), mode)
        neighbours = jnp.concatenate([padded[:-2], line, padded[2:]], axis=1)
        return jnp.matmul(neighbours, taps.reshape(-1, taps.shape[-1]), precision=precision)

    return _Rim(
        along(x.top, kernel[0], "edge"),
        along(x.bottom, kernel[2], "edge"),
        along(x.left, kernel[:, 0], "constant"),
        along(x.right, kernel[:, 2], "constant"),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_replicating(
    x: jax.Array, kernel: jax.Array, precision: Precision = "highest"
) -> jax.Array:
    """3x3 cross-correlation with stride 1 that sees the border repeated beyond it.

    The same as padding ``x`` with its edge first, without the padded copy (which made an
    evaluation of VGG-19 1.5 times slower on CPU): zero padding, and on the border lines what the
    repeated pixels add.

    Args:
      x: ``[h, w, in]`` features.
      kernel: ``[3, 3, in, out]``, the same dtype as ``x``.
      precision: as for ``convolve``.

    Returns:
      ``[h, w, out]``.
    """
    return _add_rim(_correlate(x, kernel, precision), _beyond(_rim_of(x), kernel, precision))


def _replicating_forward(
    x: jax.Array, kernel: jax.Array, precision: Precision
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve_replicating(x, kernel, precision), (x, kernel)


def _replicating_backward(
    precision: Precision, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    inside, kernel_inside = _convolve_backward(precision, saved, cotangent)
    _, transposed = jax.vjp(lambda r, k: _beyond(r, k, precision), _rim_of(x), kernel)
    rim, kernel_beyond = transposed(_rim_of(cotangent))
    return _add_rim(inside, rim), kernel_inside + kernel_beyond


convolve_replicating.defvjp(_replicating_forward, _replicating_backward)


def _windows(x: jax.Array) -> jax.Array:
    """``[h, w, c]`` as ``[h // 2, 2, w // 2, 2, c]``; an odd last row or column is left out."""
    h, w, c = x.shape
    return x[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, c)


def average_pool(x: jax.Array) -> jax.Array:
    """Mean of 2x2 windows, ``[h, w, c]`` to ``[h // 2, w // 2, c]``."""
    return _windows(x).mean(axis=(1, 3))


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Maximum of 2x2 windows, ``[h, w, c]`` to ``[h // 2, w // 2, c]``.

    The gradient goes to the first maximum of a window in reading order, which is also XLA's rule.
    """
    return _windows(x).max(axis=(1, 3))


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return max_pool(x), x


def _max_pool_backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    windows = _windows(x)
    largest = windows.max(axis=(1, 3))
    untaken = jnp.ones(largest.shape, bool)
    rows = []
    for i in range(2):
        row = []
        for j in range(2):
            takes = untaken & (windows[:, i, :, j] == largest)
            untaken &= ~takes
            row.append(jnp.where(takes, cotangent, 0))
        rows.append(jnp.stack(row, axis=2))
    h, w, c = x.shape
    even = jnp.stack(rows, axis=1).reshape(h // 2 * 2, w // 2 * 2, c)
    return (jnp.pad(even, ((0, h % 2), (0, w % 2), (0, 0))),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
