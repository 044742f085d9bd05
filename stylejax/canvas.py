"""What is optimised: a pair of pure functions between a picture and the optimizer's variable.

A picture is ``[H, W, 3]`` float, sRGB in [0, 1]; ``z`` is whatever the optimizer holds. Starts,
previews and results are always pictures, never ``z``.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax


class Canvas(NamedTuple):
    """``decode(z)`` is the picture; ``encode(picture)`` a ``z`` that decodes to it."""

    encode: Callable[[jax.Array], jax.Array]
    decode: Callable[[jax.Array], jax.Array]


def _same(x: jax.Array) -> jax.Array:
    return x


# The paper's: the pixels themselves. They may leave [0, 1] on the way (clipping inside the loop
# would belie the curvature pairs of L-BFGS); the result is clipped once, at the end.
PIXELS = Canvas(encode=_same, decode=_same)


def start_image(content: jax.Array, noise: float | jax.Array, key: jax.Array) -> jax.Array:
    """The content image, white noise, or a mix.

    Args:
      content: ``[H, W, 3]``.
      noise: share of noise: 0 is the content, 1 is noise alone.
      key: seeds the noise, independent uniform numbers in [0, 1].

    Returns:
      ``(1 - noise) content + noise u``, ``[H, W, 3]``.
    """
    white = jax.random.uniform(key, content.shape, content.dtype)
    return (1 - noise) * content + noise * white
