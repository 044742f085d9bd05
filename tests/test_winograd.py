"""Winograd's filtering against the oracle in float64, and as the network uses it."""

import re
from functools import partial

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose
from test_layers import PADDED, with_gradients

from stylejax import images, layers, vgg, winograd

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Less than a tile, whole tiles, and every remainder.
SIZES = [(1, 1), (2, 5), (4, 8), (7, 6), (9, 12), (11, 10)]


@pytest.fixture
def always(monkeypatch):
    """However few channels and tiles, and in rounds of rows, whatever the machine."""
    monkeypatch.setattr(winograd, "worthwhile", lambda *shape: True)
    in_rounds(monkeypatch)


def in_rounds(monkeypatch):
    monkeypatch.setattr(winograd, "MANY", 0)
    monkeypatch.setattr(winograd, "cores", lambda: 2)


def operation(padding):
    """``(x, kernel)`` to outputs, by tiles."""
    return lambda x, kernel: PADDED[padding](x, kernel, evaluated=winograd.evaluate_kernel(kernel))


@pytest.mark.parametrize("padding", PADDED)
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients(rng, x64, always, size, padding):
    x, kernel = rng.normal(size=(*size, 3)), rng.normal(size=(3, 3, 3, 2))
    cotangent = rng.normal(size=(*size, 2))
    out, gradients = with_gradients(operation(padding), x, kernel, cotangent)
    assert_allclose(out, reference.convolve(x, kernel, padding=padding), rtol=0, atol=1e-12)
    expected = reference.convolve_gradient(x, kernel, cotangent, padding)
    for found, wanted in zip(gradients, expected, strict=True):
        assert_allclose(found, wanted, rtol=0, atol=1e-12)


def test_it_is_what_runs(rng, always):
    """Without the evaluated kernel there is a convolution, with it there is none."""
    x, kernel = jnp.ones((8, 8, 3)), jnp.ones((3, 3, 3, 2))
    evaluated = winograd.evaluate_kernel(kernel)

    def gradient(evaluated):
        return jax.grad(lambda x: jnp.sum(layers.convolve(x, kernel, evaluated=evaluated) ** 2))

    assert "convolution" in jax.jit(gradient(None)).lower(x).as_text()
    assert "convolution" not in jax.jit(gradient(evaluated)).lower(x).as_text()


def test_accelerators_convolve(rng, always):
    x, kernel = jnp.ones((8, 8, 3)), jnp.ones((3, 3, 3, 2))
    evaluated = winograd.evaluate_kernel(kernel)
    fun = jax.jit(lambda x: layers.convolve(x, kernel, evaluated=evaluated))
    for platform, convolves in (("cpu", False), ("cuda", True), ("tpu", True)):
        text = jax.export.export(fun, platforms=(platform,))(x).mlir_module()
        assert ("stablehlo.convolution" in text) == convolves


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("outputs", [2, 3])
@pytest.mark.parametrize(
    "way",
    [
        {"CACHED": 0, "STRIP": 1},
        {"CACHED": 0, "STRIP": 6000},
        {"FEW": 2**20},  # rounds of two rows for each part
        {"FEW": 3000},  # of one: a row of windows are 2592 bytes
        {"FEW": 1500},  # in pieces of two tiles, the last of them half empty
        {"FEW": 1},  # of one tile
    ],
)
def test_parts_are_the_whole(rng, x64, monkeypatch, way, outputs, turned):
    """Strips, rounds of some rows, and rows in pieces, written over what they are made of or not.

    Seven rows of three tiles, so that no round is even.
    """
    x, kernel = jnp.asarray(rng.normal(size=(27, 14, 3))), rng.normal(size=(3, 3, 3, outputs))
    evaluated = winograd.evaluate_kernel(jnp.asarray(kernel))
    evaluated = evaluated.swapaxes(1, 2) if turned else evaluated
    monkeypatch.setattr(winograd, "CACHED", 0)
    whole = winograd.correlate(x, evaluated, turned=turned)
    monkeypatch.undo()
    in_rounds(monkeypatch)
    for name, value in way.items():
        monkeypatch.setattr(winograd, name, value)
    assert_allclose(winograd.correlate(x, evaluated, turned=turned), whole, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("shape", "left"),
    [((6, 6, 5), True), ((11, 14, 5), False), ((11, 14, 17), False), ((11, 14, 18), True)],
)
@pytest.mark.parametrize("turned", [False, True])
def test_over_few_tiles_the_turned_kernel_is_the_product_s_left_side(rng, x64, shape, left, turned):
    """Of one tile, and of nine, which twice are 18 channels: the same sums, laid out otherwise."""
    height, width, channels = shape
    sides = (4, channels) if turned else (channels, 4)
    x, kernel = jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=(3, 3, *sides)))
    evaluated = winograd.evaluate_kernel(kernel)
    correlate = partial(winograd.correlate, kernel=evaluated, turned=turned)
    tiles = -(-(height - 2) // 4) * -(-(width - 2) // 4)
    products = f"f64[36,4,{tiles}]" if turned and left else f"f64[36,{tiles},4]"
    assert products in str(jax.make_jaxpr(correlate)(x))
    direct = jax.lax.conv_general_dilated(
        x[None],
        kernel[::-1, ::-1].swapaxes(2, 3) if turned else kernel,
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]
    assert_allclose(correlate(x), direct, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "outputs", "enough"),
    [
        ((8, 8, 512), 512, True),
        ((8, 4, 512), 512, False),
        ((13, 13, 128), 128, True),
        ((12, 16, 128), 128, False),
        ((16, 13, 128), 256, True),
        ((16, 13, 64), 64, True),
        ((16, 12, 64), 64, False),
        ((512, 512, 32), 64, False),
    ],
)
def test_a_kernel_is_worth_its_memory_traffic(shape, outputs, enough):
    assert winograd.worthwhile(shape, outputs) == enough


def test_rounds_hold_a_few_tiles_at_once(monkeypatch):
    """No array as large as the windows of the whole picture, nor zeros made before the loop."""
    monkeypatch.setattr(winograd, "cores", lambda: 2)
    x, kernel = jnp.ones((322, 214, 64)), jnp.ones((36, 64, 128))
    program = jax.make_jaxpr(lambda x: winograd.correlate(x, kernel))(x)
    assert "f32[6,6,2,53,64]" in str(program)
    assert "f32[6,6,80,53,64]" not in str(program)
    filled = [e.invars[0] for e in program.eqns if e.primitive.name == "broadcast_in_dim"]
    assert filled and not any(isinstance(x, jax.extend.core.Literal) for x in filled)


@pytest.mark.parametrize("outputs", [64, 128])
def test_parts_of_a_round_share_no_room(monkeypatch, outputs):
    """What a part is made of is read once more where the round ends, so that it is kept till then.

    Where XLA gave its room to the other part's results, the two would wait for each other.
    """
    monkeypatch.setattr(winograd, "cores", lambda: 2)
    x, kernel = jnp.ones((322, 214, 64)), jnp.ones((36, 64, outputs))
    text = jax.jit(lambda x: winograd.correlate(x, kernel)).lower(x).compile().as_text()
    [reads] = re.findall(r"dynamic-update-slice\S* = \S+ fusion\((.*?)\)", text)
    # The room and where, and of each part the tiles, the products and the points.
    assert reads.count("%") >= 2 + 2 * 3, reads


@pytest.mark.parametrize(("cores", "rounds"), [(1, True), (2, True), (3, False), (16, False)])
def test_more_than_two_cores_share_the_whole_picture(monkeypatch, cores, rounds):
    monkeypatch.setattr(winograd.os, "sched_getaffinity", lambda _: range(cores), raising=False)
    x, kernel = jnp.ones((322, 214, 64)), jnp.ones((36, 64, 64))
    program = jax.make_jaxpr(lambda x: winograd.correlate(x, kernel))(x)  # traced for this test
    assert ("scan" in str(program)) == rounds


def test_second_derivatives(rng, x64, always):
    x, kernel, direction = (rng.normal(size=s) for s in ((5, 6, 2), (3, 3, 2, 3), (5, 6, 2)))
    evaluated = winograd.evaluate_kernel(jnp.asarray(kernel))

    def slope(x, by_tiles):
        more = {"evaluated": evaluated} if by_tiles else {}
        gradient = jax.grad(lambda x: jnp.sum(jnp.sin(layers.convolve(x, kernel, **more))))
        return jnp.vdot(gradient(x), direction)

    ours, plain = (jax.grad(slope)(x, by_tiles) for by_tiles in (True, False))
    assert np.abs(plain).max() > 0.1
    assert_allclose(ours, plain, rtol=0, atol=1e-11)


def test_vmap_is_each_alone(rng, always):
    x = jnp.asarray(rng.normal(size=(3, 9, 7, 3)), np.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 2)), np.float32)
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(operation("replicate")(x, kernel))))
    alone = np.stack([gradient(one) for one in x])
    # Ten times the rounding of the direct sums of 27 numbers near one.
    assert_allclose(jax.vmap(gradient)(x), alone, rtol=0, atol=5e-5)


@pytest.mark.parametrize("padding", PADDED)
@pytest.mark.parametrize(("channels", "outputs"), [(64, 64), (256, 128)])
def test_rounding_in_float32(rng, padding, channels, outputs):
    """At widths where it is used: 1e-5 of the largest output, forwards and backwards."""
    x = rng.normal(size=(18, 17, channels)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, channels, outputs)) / (9 * channels) ** 0.5
    kernel = kernel.astype(np.float32)
    assert winograd.worthwhile(x.shape, kernel.shape[-1])
    out, back = jax.vjp(operation(padding), x, kernel)
    gradient, _ = back(out)
    with jax.enable_x64(True):
        direct = PADDED[padding]
        exact, exactly_back = jax.vjp(direct, x.astype(np.float64), kernel.astype(np.float64))
        exact_gradient, _ = exactly_back(exact)
        exact, exact_gradient = np.asarray(exact), np.asarray(exact_gradient)
    for found, wanted in ((out, exact), (gradient, exact_gradient)):
        assert np.abs(found - wanted).max() < 2e-5 * np.abs(wanted).max()


def test_which_kernels_are_evaluated():
    params = vgg.random_params(jax.random.key(0), vgg.Architecture((1, 1, 1), (32, 64, 128)))
    evaluated = vgg.evaluate_kernels(params)
    assert [k for k in evaluated if "evaluated" in evaluated[k]] == ["conv3_1"]
    assert evaluated["conv3_1"]["evaluated"].shape == (36, 64, 128)
    assert vgg.architecture_of(evaluated) == vgg.architecture_of(params)


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["zero", "replicate-all", "circular"])
def test_features_of_the_real_network(shared, real_params, monkeypatch, padding):
    """At a size with remainders at every layer; relative to each layer's largest activation."""
    in_rounds(monkeypatch)  # the narrow layers
    photo = images.load(shared / "images" / "content" / "golden_gate.jpg").image
    photo = np.asarray(images.resize(photo, 133, 175))
    names = [n for n in vgg.layer_names(vgg.VGG19) if n.startswith("relu")]
    compute = jax.jit(lambda p: vgg.features(p, photo, names, padding=padding))
    direct, by_tiles = compute(real_params), compute(vgg.evaluate_kernels(real_params))
    for name in names:
        error = np.abs(direct[name] - by_tiles[name]).max() / direct[name].max()
        assert error < 1e-4, (name, error)
        assert error > 0 or name < "relu1_2"  # the tiles were used
