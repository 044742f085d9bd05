"""Truths, eight to a byte: what a gradient needs of a ReLU, and of a maximum, in an eighth.

Eighths of an array lie upon each other, the first in the lowest bit: bytes are then made of eight
slices and taken apart by a broadcast, number by number, which every compiler makes loops of.
"""

from functools import reduce

import jax
import jax.numpy as jnp


def pack(truths: jax.Array) -> jax.Array:
    """A boolean array as bytes, along its first axis whose length is a multiple of eight.

    Returns:
      uint8, that axis an eighth as long; where there is no such axis, the array as it is.
    """
    axis = _axis(truths.shape)
    if axis is None:
        return truths
    eighths = (eighth.astype(jnp.uint8) for eighth in jnp.split(truths, 8, axis))
    return reduce(jnp.bitwise_or, (eighth << place for place, eighth in enumerate(eighths)))


def unpack(packed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The boolean array of ``shape`` that ``packed`` was made of.

    >>> truths = jnp.arange(16) % 3 == 0
    >>> bool((unpack(pack(truths), (16,)) == truths).all())
    True
    """
    axis = _axis(shape)
    if axis is None:
        return packed
    ones = [1] * len(shape)
    places = jnp.arange(8, dtype=jnp.uint8).reshape(*ones[:axis], 8, *ones[axis:])
    return ((jnp.expand_dims(packed, axis) >> places) & 1).reshape(shape) == 1


def _axis(shape: tuple[int, ...]) -> int | None:
    return next((axis for axis, length in enumerate(shape) if length % 8 == 0), None)
