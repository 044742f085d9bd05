"""The three operations VGG is made of, each with a gradient rule of its own.

Arrays are one image's features, ``[h, w, c]``; batches come from ``jax.vmap``. Values are those of
the plain XLA operations. The rules exist because XLA on CPU runs the derived gradients inside
loops (``scan``, ``while_loop``) on paths several times slower than the forward operation. They are
made of the same operations, so reverse-over-reverse differentiation works; forward mode
(``jax.jvp``) does not.
"""

from functools import partial

import jax
import jax.numpy as jnp

Precision = str | None


def _correlate(x: jax.Array, kernel: jax.Array, precision: Precision, rim: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=(1, 1),
        padding=((rim, rim), (rim, rim)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )[0]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
    x: jax.Array, kernel: jax.Array, precision: Precision = "highest", rim: int = 1
) -> jax.Array:
    """3x3 cross-correlation with stride 1.

    Args:
      x: ``[h, w, in]`` features.
      kernel: ``[3, 3, in, out]``, the same dtype as ``x``.
      precision: ``"highest"`` (float32 products), ``"high"`` or ``"default"`` (TF32 or bfloat16
        where the device has them).
      rim: rows and columns of zeros put around ``x``: 1 keeps its size, 0 loses a pixel on each
        side, 2 gains one.

    Returns:
      ``[h + 2 rim - 2, w + 2 rim - 2, out]``.
    """
    return _correlate(x, kernel, precision, rim)


def _convolve_forward(
    x: jax.Array, kernel: jax.Array, precision: Precision, rim: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve(x, kernel, precision, rim), (x, kernel)


def _convolve_backward(
    precision: Precision, rim: int, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    _, kernel_gradient = jax.vjp(lambda k: _correlate(x, k, precision, rim), kernel)
    # Where the network is constant the second gradient is dead code and is never computed.
    return convolve(cotangent, turned, precision, 2 - rim), kernel_gradient(cotangent)[0]


convolve.defvjp(_convolve_forward, _convolve_backward)


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
