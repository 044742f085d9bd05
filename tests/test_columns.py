"""Windows as lines of a matrix, against the oracle in float64, and as the network uses them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose
from test_layers import PADDED, with_gradients

from stylejax import columns, layers

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROWS = columns.ROWS


@pytest.fixture
def always(monkeypatch):
    """However small the picture."""
    monkeypatch.setattr(columns, "worthwhile", lambda *shape: True)


@pytest.mark.parametrize("padding", PADDED)
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (4, 6), (ROWS, 3), (2 * ROWS + 3, 4)])
def test_values_and_gradients(rng, x64, always, size, padding):
    x, kernel = rng.normal(size=(*size, 3)), rng.normal(size=(3, 3, 3, 2))
    cotangent = rng.normal(size=(*size, 2))
    out, gradients = with_gradients(PADDED[padding], x, kernel, cotangent)
    assert_allclose(out, reference.convolve(x, kernel, padding=padding), rtol=0, atol=1e-12)
    expected = reference.convolve_gradient(x, kernel, cotangent, padding)
    for found, wanted in zip(gradients, expected, strict=True):
        assert_allclose(found, wanted, rtol=0, atol=1e-11)  # the kernel's sums are long


@pytest.mark.parametrize("beside", ["constant", "edge", "wrap"])
def test_given_rows_are_those_of_the_whole(rng, x64, always, beside):
    x, kernel = jnp.asarray(rng.normal(size=(7, 6, 3))), jnp.asarray(rng.normal(size=(3, 3, 3, 2)))
    wide = np.pad(x, ((0, 0), (1, 1), (0, 0)), beside)
    out, back = jax.vjp(lambda x: layers.convolve_rows(x, kernel, beside=beside), x)
    assert_allclose(out, reference.convolve(wide, kernel)[1:-1, 1:-1], rtol=0, atol=1e-12)
    cotangent, move = rng.normal(size=out.shape), rng.normal(size=x.shape)
    # Linear: the gradient along a move is the change of the outputs along it.
    moved = layers.convolve_rows(jnp.asarray(move), kernel, beside=beside)
    assert_allclose(jnp.vdot(back(cotangent)[0], move), jnp.vdot(cotangent, moved), rtol=1e-12)


@pytest.mark.parametrize(
    ("size", "channels", "outputs", "quick"),
    [
        ((64, 64), 3, 16, True),
        ((64, 64), 3, 64, False),
        ((64, 64), 16, 3, False),
        ((32, 32), 3, 16, False),
    ],
)
def test_cpus_multiply_where_it_is_quicker(size, channels, outputs, quick):
    assert columns.worthwhile(size, channels, outputs) == quick
    x, kernel = jnp.ones((*size, channels)), jnp.ones((3, 3, channels, outputs))
    fun = jax.jit(jax.value_and_grad(lambda x: jnp.sum(layers.convolve(x, kernel) ** 2)))
    for platform in ("cpu", "cuda", "tpu"):
        text = jax.export.export(fun, platforms=(platform,))(x).mlir_module()
        convolves = text.count("stablehlo.convolution")
        # The gradient's kernel, read backwards, is itself one of few channels, or is not.
        assert (convolves == 0) == (platform == "cpu" and quick), (platform, convolves)


def test_second_derivatives(rng, x64, always):
    """Against those of the plain operation."""
    x, kernel, direction = (rng.normal(size=s) for s in ((5, 6, 2), (3, 3, 2, 3), (5, 6, 2)))

    def slope(operation):
        def along(x, kernel):
            return jnp.vdot(
                jax.grad(lambda x: jnp.sum(jnp.sin(operation(x, kernel))))(x), direction
            )

        return jax.grad(along, argnums=(0, 1))(x, kernel)

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]

    for found, wanted in zip(slope(layers.convolve), slope(plain), strict=True):
        assert_allclose(found, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("precision", ["highest", "default"])
def test_precision_is_passed_to_every_product(always, precision):
    x, kernel = jnp.ones((4, 4, 3)), jnp.ones((3, 3, 3, 2))
    fun = jax.grad(lambda x, k: jnp.sum(layers.convolve(x, k, precision) ** 2), argnums=(0, 1))
    text = jax.jit(fun).lower(x, kernel).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    word = precision.upper()
    assert products and all(f"precision = [{word}, {word}]" in line for line in products)


def test_vmap_is_each_alone(rng, always):
    x = jnp.asarray(rng.normal(size=(3, 5, 6, 3)), np.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 2)), np.float32)
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(layers.convolve_replicating(x, kernel))))
    single = np.stack([gradient(one) for one in x])
    # Sums of 27 numbers near one; a corner has four parts.
    assert_allclose(jax.vmap(gradient)(x), single, rtol=0, atol=6e-6)
