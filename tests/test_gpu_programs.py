"""What GPUs run in place of what CPUs do: looked at where it is lowered, and run here.

On a CPU every ``platform_dependent`` is made to take the GPU's way.
"""

import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from numpy.testing import assert_allclose, assert_array_equal
from test_precision import products

from stylejax import DEFAULT_WEIGHTS, Config, canvas, compilation, layers, objective, stylize, vgg

pytestmark = pytest.mark.usefixtures("quick_compilation")

NARROW = vgg.Architecture((2, 2, 1), (8, 12, 16))
PARAMS = vgg.random_params(jax.random.key(0), NARROW)
CONFIG = Config(content_layers=("relu2_2",), style_layers=("relu1_1", "relu3_1"), scales=1)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    def choose(*given, default, cuda=None, cpu=None):
        return (cuda or default)(*given)

    def now():
        monkeypatch.setattr(jax.lax, "platform_dependent", choose)
        jax.clear_caches()  # of programs that went the other way

    yield now
    monkeypatch.undo()
    jax.clear_caches()


def evaluated(config, size):
    @jax.jit
    def at(photo, painting, image):
        targets = objective.make_targets(PARAMS, photo, [painting], DEFAULT_WEIGHTS, config)

        def total(z):
            picture = config.held.decode(z)
            return objective.evaluate(picture, PARAMS, targets, DEFAULT_WEIGHTS, config)[0]

        return jax.value_and_grad(total)(config.held.encode(image))

    value, gradient = at(*np.random.default_rng(0).random((3, *size, 3), np.float32))
    return float(value), np.asarray(gradient)


@pytest.mark.parametrize(
    ("padding", "size"),
    [
        pytest.param("zero", (23, 18), marks=pytest.mark.long),
        pytest.param("replicate", (23, 18), marks=pytest.mark.long),
        ("replicate-all", (23, 18)),
        pytest.param("replicate-all", (16, 32), marks=pytest.mark.long),
        ("circular", (20, 16)),
    ],
)
def test_value_and_gradient_are_the_cpu_s(padding, size, as_on_a_gpu):
    config = replace(CONFIG, padding=padding, precision="default")
    here = evaluated(config, size)
    as_on_a_gpu()
    there = evaluated(config, size)
    assert there[0] == pytest.approx(here[0], rel=1e-5)
    assert_allclose(there[1], here[1], rtol=1e-4, atol=1e-5 * np.abs(here[1]).max())


def test_strips_and_runs_are_the_cpu_s(as_on_a_gpu):
    photo, painting = np.random.default_rng(0).random((2, 40, 24, 3), np.float32)
    config = replace(CONFIG, steps=4, strip=16)
    here = stylize(PARAMS, photo, [painting], config=config)
    as_on_a_gpu()
    there = stylize(PARAMS, photo, [painting], config=config)
    totals = [run.history[0].terms.total for run in (here, there)]
    assert_allclose(totals[1], totals[0], rtol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 2), (5, 7)])
@pytest.mark.parametrize("frame", [("edge", "edge"), ("given", "edge"), ("given", "given")])
def test_a_border_once_more(size, frame, rng):
    x = rng.normal(size=(*size, 3)).astype(np.float32)
    x[0, 0] = np.inf
    framed = np.pad(x, [*((int(beyond == "edge"),) * 2 for beyond in frame), (0, 0)], "edge")
    assert_array_equal(layers._edged_at_once(jnp.asarray(x), frame), framed)
    assert_array_equal(layers._framed(jnp.asarray(x), frame), framed)


@pytest.mark.parametrize("zeros", [(False, False), (True, False), (False, True), (True, True)])
def test_windows_within(zeros, rng, x64):
    x, kernel = jnp.asarray(rng.normal(size=(7, 6, 3))), jnp.asarray(rng.normal(size=(3, 3, 3, 4)))
    found, there = (
        np.asarray(way(x, kernel, zeros=zeros, precision="highest"))
        for way in (layers._within, layers._cropped)
    )
    framed = np.pad(x, [*((int(along),) * 2 for along in zeros), (0, 0)])
    slow = np.zeros(found.shape)
    for i, j in np.ndindex(slow.shape[:2]):
        slow[i, j] = np.tensordot(framed[i : i + 3, j : j + 3], kernel, 3)
    assert_allclose(found, slow, rtol=1e-12, atol=1e-12)
    assert_allclose(there, slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 12), (7, 13), (1, 5)])
def test_the_fast_transform(size, rng, x64, as_on_a_gpu):
    as_on_a_gpu()
    z = rng.normal(size=(*size, 3))
    frequencies, dtype = np.arange(size[0]), jnp.dtype("float64")
    weight = np.asarray(canvas._weights(frequencies, size, dtype, circular=False))
    picture = scipy.fft.idctn(weight * z, axes=(0, 1), norm="ortho")
    decode, encode = jax.jit(canvas.FREQUENCIES.decode), jax.jit(canvas.FREQUENCIES.encode)
    assert_allclose(decode(z), picture, atol=1e-12)
    assert_allclose(encode(picture), z, atol=1e-12)
    back = jax.grad(lambda z: jnp.vdot(decode(z), picture))(jnp.asarray(z))
    slope = weight * scipy.fft.dctn(picture, axes=(0, 1), norm="ortho")
    assert_allclose(back, slope, atol=1e-12)


def lowered(config, platform):
    """The step's program as it is made for a platform, and its products."""
    image = jax.ShapeDtypeStruct((40, 32, 3), jnp.float32)

    def step(image, photo, painting):
        targets = objective.make_targets(PARAMS, photo, [painting], DEFAULT_WEIGHTS, config)

        def total(z):
            return objective.evaluate(
                config.held.decode(z), PARAMS, targets, DEFAULT_WEIGHTS, config
            )[0]

        return jax.value_and_grad(total)(image)

    traced = jax.jit(step).trace(image, image, image)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_gpus_get_tf32_gram_matrices_and_a_fast_transform():
    """With "default" alone: float32 products are slow there, and slow to compile."""
    text = lowered(replace(CONFIG, precision="default"), "cuda")
    words = [word for kind, *each in products(text) if kind == "dot_general" for word in each]
    # Of two layers the painting's, the picture's and the way back, two words a product.
    assert words.count("DEFAULT") == 2 * 3 * 2
    assert "stablehlo.fft" in text
    assert "stablehlo.fft" not in lowered(CONFIG, "cpu")
    exact = lowered(CONFIG, "cuda")
    grams = [each for kind, *each in products(exact) if kind == "dot_general"]
    assert {word for each in grams for word in each} == {"HIGHEST"}


@pytest.mark.parametrize(
    ("installed", "before", "after"),
    [
        (False, None, None),
        (True, None, "--xla_gpu_enable_triton_gemm=false"),
        (True, "--xla_dump_to=x", "--xla_dump_to=x --xla_gpu_enable_triton_gemm=false"),
        (True, "--xla_gpu_enable_triton_gemm=true", "--xla_gpu_enable_triton_gemm=true"),
    ],
)
def test_products_are_left_to_the_library(installed, before, after, monkeypatch):
    monkeypatch.setattr(
        compilation.importlib.util, "find_spec", lambda name: name if installed else None
    )
    monkeypatch.setenv("XLA_FLAGS", before or "")
    if before is None:
        monkeypatch.delenv("XLA_FLAGS")
    compilation.by_library()
    assert os.environ.get("XLA_FLAGS") == after
