"""Bits against NumPy's own, and there and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from stylejax import bits


@pytest.mark.parametrize("shape", [(16,), (8, 3), (3, 24, 5), (5, 7, 16), (16, 8, 8), (0, 8)])
def test_eighths_of_the_first_axis_that_has_them(rng, shape):
    truths = rng.random(shape) < 0.3
    packed = jax.jit(bits.pack)(truths)
    axis = next(axis for axis, length in enumerate(shape) if length % 8 == 0)
    assert packed.dtype == jnp.uint8
    assert packed.size * 8 == truths.size
    # Bit k of a byte is the number in the same place of the k-th eighth.
    eighths = np.stack(np.split(truths, 8, axis))
    assert_array_equal(packed, np.packbits(eighths, axis=0, bitorder="little")[0])
    assert_array_equal(jax.jit(bits.unpack, static_argnums=1)(packed, shape), truths)


def test_an_array_without_eighths_stays_as_it_is(rng):
    truths = jnp.asarray(rng.random((3, 5)) < 0.5)
    assert bits.pack(truths) is truths
    assert bits.unpack(truths, (3, 5)) is truths


def test_under_vmap(rng):
    truths = rng.random((3, 8, 2)) < 0.5
    packed = jax.vmap(bits.pack)(truths)
    assert packed.shape == (3, 1, 2)
    assert_array_equal(jax.vmap(lambda b: bits.unpack(b, (8, 2)))(packed), truths)
