"""3x3 correlation of few channels as a matrix product: every window is a line of a matrix.

An old way (Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for
Document Processing", 2006), which beats XLA's convolution on CPU where a picture goes into a narrow
layer, and its gradient comes out of one.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

TAPS = 3
# Rows of the picture whose windows are laid out at a time: more do not fit a cache, and fewer make
# more programs to compile.
ROWS = 256


def worthwhile(size: Sequence[int], channels: int, outputs: int) -> bool:
    """Whether it beats XLA's sum on CPU (docs/performance.md): narrow layers of pictures.

    Args:
      size: height and width.
      channels: of what the kernel goes over.
      outputs: of the kernel.
    """
    return size[0] * size[1] >= 2**12 and channels <= 4 and outputs <= 32


def correlate(x: jax.Array, kernel: jax.Array, *, precision: str | None = "highest") -> jax.Array:
    """The windows that lie within ``x``.

    Args:
      x: ``[h + 2, w + 2, in]``.
      kernel: ``[3, 3, in, out]``.
      precision: of the products.

    Returns:
      ``[h, w, out]``.
    """
    height, width = x.shape[0] - TAPS + 1, x.shape[1] - TAPS + 1
    flat = kernel.reshape(-1, kernel.shape[-1])

    def strip(top: int) -> jax.Array:
        rows = min(ROWS, height - top)
        places = [
            x[top + i : top + i + rows, j : j + width] for i in range(TAPS) for j in range(TAPS)
        ]
        return jnp.matmul(jnp.concatenate(places, axis=-1), flat, precision=precision)

    return jnp.concatenate([strip(top) for top in range(0, height, ROWS)])


def transposed(
    cotangent: jax.Array, kernel: jax.Array, *, precision: str | None = "highest"
) -> jax.Array:
    """The gradient of ``x`` from that of what ``correlate`` returns.

    Args:
      cotangent: ``[h, w, out]``.
      kernel: ``[3, 3, in, out]``.
      precision: of the products.

    Returns:
      ``[h + 2, w + 2, in]``.
    """
    height, width, _ = cotangent.shape
    channels = kernel.shape[2]
    whole = jnp.zeros((height + TAPS - 1, width + TAPS - 1, channels), cotangent.dtype)
    for i, row in enumerate(kernel):
        flat = row.reshape(TAPS * channels, -1).T
        shares = jnp.matmul(cotangent, flat, precision=precision)
        for j, share in enumerate(jnp.split(shares, TAPS, axis=-1)):
            whole += jnp.pad(share, ((i, TAPS - 1 - i), (j, TAPS - 1 - j), (0, 0)))
    return whole
