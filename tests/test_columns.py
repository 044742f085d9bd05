"""Windows as lines of a matrix, against the oracle in float64; test_layers has more of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose

from stylejax import columns, layers

ROWS = columns.ROWS


def worked(rng, height):
    """Input, kernel, cotangent, and what the oracle makes of them, without any padding."""
    x, kernel = rng.normal(size=(height + 2, 9, 3)), rng.normal(size=(3, 3, 3, 4))
    cotangent = rng.normal(size=(height, 7, 4))
    out = reference.convolve(x, kernel)[1:-1, 1:-1]
    framed = np.pad(cotangent, ((1, 1), (1, 1), (0, 0)))
    gradient, _ = reference.convolve_gradient(x, kernel, framed, "zero")
    return x, kernel, cotangent, out, gradient


@pytest.mark.parametrize("height", [1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 3])
def test_values_and_gradient(rng, x64, height):
    x, kernel, cotangent, out, gradient = worked(rng, height)
    assert_allclose(columns.correlate(jnp.asarray(x), kernel), out, rtol=0, atol=1e-12)
    found = columns.transposed(jnp.asarray(cotangent), jnp.asarray(kernel))
    assert_allclose(found, gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("beside", ["constant", "edge", "wrap"])
def test_given_rows_are_those_of_the_whole(rng, x64, beside):
    x, kernel = jnp.asarray(rng.normal(size=(7, 6, 3))), jnp.asarray(rng.normal(size=(3, 3, 3, 2)))
    wide = np.pad(x, ((0, 0), (1, 1), (0, 0)), beside)
    out, back = jax.vjp(lambda x: layers.convolve_rows(x, kernel, beside=beside), x)
    assert_allclose(out, reference.convolve(wide, kernel)[1:-1, 1:-1], rtol=0, atol=1e-12)
    cotangent, move = rng.normal(size=out.shape), rng.normal(size=x.shape)
    # Linear: the gradient along a move is the change of the outputs along it.
    moved = layers.convolve_rows(jnp.asarray(move), kernel, beside=beside)
    assert_allclose(jnp.vdot(back(cotangent)[0], move), jnp.vdot(cotangent, moved), rtol=1e-12)


@pytest.mark.parametrize(("channels", "outputs", "quick"), [(3, 16, True), (3, 64, False)])
def test_cpus_multiply_where_it_is_quicker(channels, outputs, quick):
    assert columns.worthwhile(channels, outputs) == quick
    x, kernel = jnp.ones((8, 8, channels)), jnp.ones((3, 3, channels, outputs))
    fun = jax.jit(jax.value_and_grad(lambda x: jnp.sum(layers.convolve(x, kernel) ** 2)))
    for platform, convolutions in (("cpu", 0 if quick else 2), ("cuda", 2), ("tpu", 2)):
        text = jax.export.export(fun, platforms=(platform,))(x).mlir_module()
        assert text.count("stablehlo.convolution") == convolutions


def test_rounding_in_float32(rng):
    """That of sums of 27 numbers near one."""
    x, kernel, cotangent, out, gradient = worked(rng, 20)
    x, kernel, cotangent = (jnp.asarray(a, jnp.float32) for a in (x, kernel, cotangent))
    assert_allclose(columns.correlate(x, kernel), out, rtol=0, atol=2e-5)
    assert_allclose(columns.transposed(cotangent, kernel), gradient, rtol=0, atol=2e-5)
