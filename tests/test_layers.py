"""The four operations and their gradient rules against the oracle, XLA's own, and differences."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal

from stylejax import layers

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Odd and even heights and widths, a picture of one pixel, and one narrower than the kernel.
SIZES = [(4, 6), (5, 4), (4, 5), (5, 7), (1, 1), (2, 1)]
POOLED = [(4, 6), (5, 4), (4, 5), (5, 7), (2, 3)]
POOLS = {
    "average": (
        layers.average_pool,
        reference.average_pool,
        reference.average_pool_gradient,
    ),
    "max": (layers.max_pool, reference.max_pool, reference.max_pool_gradient),
    "max, rounded up": (
        layers.max_pool_ceil,
        reference.max_pool_ceil,
        reference.max_pool_ceil_gradient,
    ),
    "max, places kept": (
        layers.max_pool_keeping_places,
        reference.max_pool,
        reference.max_pool_gradient,
    ),
    "max, rounded up, places kept": (
        layers.max_pool_ceil_keeping_places,
        reference.max_pool_ceil,
        reference.max_pool_ceil_gradient,
    ),
    "average, doubled": (
        layers.average_pool_doubled,
        lambda x: 2 * reference.average_pool(x),
        lambda x, cotangent: 2 * reference.average_pool_gradient(x, cotangent),
    ),
    "l2": (layers.l2_pool, reference.l2_pool, reference.l2_pool_gradient),
}


def plain_convolve(x, kernel):
    return jax.lax.conv_general_dilated(
        x[None],
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )[0]


def plain_max_pool(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2, 2, 1), (2, 2, 1), "VALID")


def plain_average_pool(x):
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (2, 2, 1), (2, 2, 1), "VALID") / 4


def pull(f, cotangent, *args):
    """The gradients of ``<cotangent, f(*args)>``, compiled as one program."""
    return jax.jit(lambda c, *a: jax.vjp(f, *a)[1](c))(cotangent, *args)


# Values and gradients in float64, where rounding is 1e-16 and 1e-12 leaves nothing to chance


def with_gradients(f, x, kernel, cotangent):
    """Outputs, and the cotangent pulled back to both arguments, in one program."""

    @jax.jit
    def both(x, kernel, cotangent):
        out, back = jax.vjp(f, x, kernel)
        return out, back(cotangent)

    return both(x, kernel, cotangent)


PADDED = {
    "zero": layers.convolve,
    "replicate": layers.convolve_replicating,
    "circular": layers.convolve_circular,
}
NAMES = ["convolve", "convolve_replicating", "convolve_circular", "average_pool", "max_pool"]


@pytest.mark.parametrize("padding", PADDED)
@pytest.mark.parametrize("size", SIZES)
def test_convolve(rng, x64, size, padding):
    operation = PADDED[padding]
    x, kernel = rng.normal(size=(*size, 3)), rng.normal(size=(3, 3, 3, 2))
    cotangent = rng.normal(size=(*size, 2))
    out = jax.jit(operation)(x, kernel)
    assert out.dtype == np.float64
    assert_allclose(out, reference.convolve(x, kernel, padding=padding), rtol=0, atol=1e-12)
    dx, dkernel = pull(operation, cotangent, x, kernel)
    expected_dx, expected_dkernel = reference.convolve_gradient(x, kernel, cotangent, padding)
    assert_allclose(dx, expected_dx, rtol=0, atol=1e-12)
    assert_allclose(dkernel, expected_dkernel, rtol=0, atol=1e-12)
    assert np.abs(dkernel).max() > 0.1  # a rule that forgot the kernel would give zeros


@pytest.mark.parametrize("size", POOLED)
@pytest.mark.parametrize("name", POOLS)
def test_pools(rng, x64, name, size):
    pool, expected, expected_gradient = POOLS[name]
    x = rng.normal(size=(*size, 3))
    out = jax.jit(pool)(x)
    assert_allclose(out, expected(x), rtol=0, atol=1e-15)
    cotangent = rng.normal(size=out.shape)
    (gradient,) = pull(pool, cotangent, x)
    assert gradient.dtype == np.float64
    assert_allclose(gradient, expected_gradient(x, cotangent), rtol=0, atol=2e-15)


def test_a_window_of_zeros_has_no_direction():
    """Common behind a ReLU, and where the root's derivative is infinite."""
    gradient = jax.grad(lambda x: jnp.sum(layers.l2_pool(x)))(jnp.zeros((2, 4, 1)))
    assert_array_equal(gradient, np.zeros((2, 4, 1)))


def test_rounding_up_is_torchs_and_caffes(rng):
    """Against XLA's own windows over a border of minus infinity."""
    x = rng.normal(size=(7, 9, 4)).astype(np.float32)
    plain = jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (2, 2, 1), (2, 2, 1), ((0, 1), (0, 1), (0, 0))
    )
    assert_array_equal(layers.max_pool_ceil(x), plain)
    even = x[:6, :8]
    assert_array_equal(layers.max_pool_ceil(even), layers.max_pool(even))


@pytest.mark.parametrize("size", [(8, 6), (7, 9)])
def test_max_pool_gives_ties_to_the_first(rng, size):
    # Of two levels nearly every window has a tie; four windows have all four equal.
    x = rng.integers(0, 2, (*size, 16)).astype(np.float32)
    cotangent = rng.normal(size=(size[0] // 2, size[1] // 2, 16)).astype(np.float32)
    (gradient,) = pull(layers.max_pool, cotangent, x)
    # No arithmetic happens: entries are copied, so equality is exact.
    assert_array_equal(gradient, reference.max_pool_gradient(x, cotangent).astype(np.float32))
    (xla,) = pull(plain_max_pool, cotangent, x)
    assert_array_equal(gradient, xla)


# Against autodiff of the plain operations in float32. Each entry is a sum of at most 9 * 16
# products of numbers near one, in an order that may differ: 1e-5 is ten times its rounding.


def test_convolve_against_plain_autodiff(rng):
    x = rng.normal(size=(9, 10, 16)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 16, 8)).astype(np.float32)
    cotangent = rng.normal(size=(9, 10, 8)).astype(np.float32)
    values = jax.jit(layers.convolve)(x, kernel), jax.jit(plain_convolve)(x, kernel)
    assert_allclose(*values, rtol=0, atol=1e-5)
    ours = pull(layers.convolve, cotangent, x, kernel)
    plain = pull(plain_convolve, cotangent, x, kernel)
    for a, b in zip(ours, plain, strict=True):
        assert a.dtype == np.float32
        assert_allclose(a, b, rtol=0, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize(
    ("pool", "plain"),
    [(layers.average_pool, plain_average_pool), (layers.max_pool, plain_max_pool)],
)
def test_pools_against_plain_autodiff(rng, pool, plain):
    x = rng.normal(size=(9, 10, 16)).astype(np.float32)
    cotangent = rng.normal(size=(4, 5, 16)).astype(np.float32)
    # A mean of four adds them in any order: one unit in the last place, 1e-7 of the terms.
    assert_allclose(jax.jit(pool)(x), jax.jit(plain)(x), rtol=0, atol=1e-6)
    assert_array_equal(pull(pool, cotangent, x)[0], pull(plain, cotangent, x)[0])


def test_precision_is_passed_to_every_convolution():
    x, kernel = jnp.ones((4, 4, 2)), jnp.ones((3, 3, 2, 2))
    for precision, word in (("highest", "HIGHEST"), ("default", "DEFAULT")):

        def gradients(x, k, precision=precision):
            out, back = jax.vjp(lambda x, k: layers.convolve(x, k, precision), x, k)
            return out, back(out)

        text = jax.jit(gradients).lower(x, kernel).as_text()
        other = {"HIGHEST": "DEFAULT", "DEFAULT": "HIGHEST"}[word]
        assert f"precision {word}" in text
        assert f"precision {other}" not in text


def test_a_torus_has_no_border(rng, x64):
    """Rolling the image rolls what comes out, and its gradient."""
    x, kernel = rng.normal(size=(5, 6, 3)), rng.normal(size=(3, 3, 3, 2))
    cotangent = rng.normal(size=(5, 6, 2))
    for shift in ((1, 0), (3, 5)):
        moved, moved_cotangent = (np.roll(a, shift, (0, 1)) for a in (x, cotangent))
        out, back = jax.vjp(layers.convolve_circular, x, kernel)
        again, back_again = jax.vjp(layers.convolve_circular, moved, kernel)
        assert_allclose(again, np.roll(out, shift, (0, 1)), rtol=0, atol=1e-13)
        (dx, dkernel), (dx_again, dkernel_again) = back(cotangent), back_again(moved_cotangent)
        assert_allclose(dx_again, np.roll(dx, shift, (0, 1)), rtol=0, atol=1e-13)
        assert_allclose(dkernel_again, dkernel, rtol=0, atol=1e-12)


# Transformations


def second(f, *args):
    """``<directions, gradient of f>`` differentiated again: reverse over reverse."""

    def slope(args, directions):
        gradients = jax.grad(lambda a: f(*a))(args)
        return sum(jnp.vdot(g, d) for g, d in zip(gradients, directions, strict=True))

    return jax.jit(jax.grad(slope))


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives(rng, x64, name):
    x = rng.normal(size=(5, 4, 2))
    args = (x, rng.normal(size=(3, 3, 2, 3))) if "convolve" in name else (x,)
    operation = getattr(layers, name)

    def f(*args):
        return jnp.sum(jnp.sin(operation(*args)))  # bent, so that second derivatives are not zero

    directions = tuple(rng.normal(size=a.shape) for a in args)
    found = second(f, *args)(args, directions)
    gradient = jax.jit(jax.grad(lambda a: f(*a)))
    h = 1e-5
    ahead = gradient(tuple(a + h * d for a, d in zip(args, directions, strict=True)))
    behind = gradient(tuple(a - h * d for a, d in zip(args, directions, strict=True)))
    for second_derivative, a, b in zip(found, ahead, behind, strict=True):
        largest = np.abs(second_derivative).max()
        assert largest > 0.01
        # Differences err by h^2 = 1e-10 times the next derivative, which is a hundred times larger
        # (sums over windows of 18 numbers), and by 1e-16 / h = 1e-11 from rounding.
        assert_allclose(second_derivative, (a - b) / (2 * h), rtol=0, atol=1e-7 * largest)


def operations(rng, batch):
    """Every operation with a batch of inputs and a loss, float32."""
    x = rng.normal(size=(batch, 5, 6, 3)).astype(np.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 2)), np.float32)
    made = {
        "convolve": lambda x: layers.convolve(x, kernel),
        "convolve_replicating": lambda x: layers.convolve_replicating(x, kernel),
        "convolve_circular": lambda x: layers.convolve_circular(x, kernel),
        "average_pool": layers.average_pool,
        "max_pool": layers.max_pool,
    }
    return x, {name: (lambda x, f=f: jnp.sum(jnp.sin(f(x)))) for name, f in made.items()}


@pytest.mark.parametrize("name", NAMES)
def test_vmap_and_scan_change_nothing(rng, name):
    x, losses = operations(rng, 3)
    gradient = jax.grad(losses[name])
    single = np.stack([jax.jit(gradient)(one) for one in x])
    _, scanned = jax.jit(lambda x: jax.lax.scan(lambda c, one: (c, gradient(one)), 0, x))(x)
    # The same sums of 27 numbers near one in another order: 1e-6. A repeated corner is counted four
    # times, in sums added up in four parts.
    atol = 6e-6 if "replicating" in name else 2e-6
    assert_allclose(jax.jit(jax.vmap(gradient))(x), single, rtol=0, atol=atol)
    assert_allclose(scanned, single, rtol=0, atol=atol)


def test_vmap_over_kernels(rng):
    x = jnp.asarray(rng.normal(size=(5, 6, 3)), np.float32)
    kernels = jnp.asarray(rng.normal(size=(2, 3, 3, 3, 4)), np.float32)
    gradient = jax.grad(lambda k: jnp.sum(jnp.sin(layers.convolve(x, k))))
    single = jnp.stack([gradient(k) for k in kernels])
    # Sums over 30 positions.
    assert_allclose(jax.jit(jax.vmap(gradient))(kernels), single, rtol=0, atol=1e-5)


def test_gradient_through_scan(rng):
    """Training by unrolled steps: the rules are differentiated inside the loop."""
    x = jnp.asarray(rng.normal(size=(4, 4, 2)), np.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 2)) / 6, np.float32)

    def body(x, kernel):
        return jnp.sin(layers.convolve(x, kernel))

    def looped(kernel):
        return jnp.sum(jax.lax.scan(lambda c, _: (body(c, kernel), None), x, length=3)[0])

    def unrolled(kernel):
        return jnp.sum(body(body(body(x, kernel), kernel), kernel))

    expected = jax.jit(jax.grad(unrolled))(kernel)
    assert np.abs(expected).max() > 0.1
    assert_allclose(jax.jit(jax.grad(looped))(kernel), expected, rtol=0, atol=1e-5)


def test_a_constant_kernel_costs_no_gradient_of_its_own():
    # Both ways have shapes of their own: equal ones are one function, called twice.
    x, kernel = jnp.ones((4, 4, 2)), jnp.ones((3, 3, 2, 3))

    def loss(x, kernel):
        return jnp.sum(layers.convolve(x, kernel) ** 2)

    for wanted, products in ((0, 0), ((0, 1), 9)):
        text = jax.jit(jax.grad(loss, argnums=wanted)).lower(x, kernel).as_text()
        # Forward and the cotangent's; the kernel's is a product for each of its places.
        assert text.count("stablehlo.convolution") == 2
        assert text.count("stablehlo.dot_general") == products


@pytest.mark.parametrize("name", ["convolve", "max_pool"])
def test_forward_mode_raises(rng, name):
    x, losses = operations(rng, 1)
    with pytest.raises(TypeError, match="jvp"):
        jax.jvp(losses[name], (x[0],), (x[0],))


# The ReLU


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 5, 1)])
@pytest.mark.parametrize("rectify", [layers.rectify, layers.rectify_keeping_signs])
def test_rectify(rng, monkeypatch, shape, large, rectify):
    if large:  # as a map of a layer that is worth a loop
        monkeypatch.setattr(layers, "_LARGE", 1)
    assert layers.keeps_signs(math.prod(shape)) == (large and math.prod(shape) % 16 == 0)
    x = rng.normal(size=shape).astype(np.float32)
    x[0, 0, 0], x[0, 1, 0], x[1, 1, 0] = 0, np.inf, -np.inf
    cotangent = rng.normal(size=shape).astype(np.float32)
    assert_array_equal(jax.jit(rectify)(x), np.maximum(x, 0))
    out, back = jax.jit(lambda x, c: (lambda o, pull: (o, pull(c)[0]))(*jax.vjp(rectify, x)))(
        x, cotangent
    )
    assert_array_equal(out, np.maximum(x, 0))
    assert_array_equal(back, np.where(x > 0, cotangent, 0))
    batch = jax.jit(jax.vmap(jax.grad(lambda x: jnp.sum(rectify(x) ** 2) / 2)))
    finite = np.stack([np.where(np.isfinite(x), x, 1), cotangent])
    assert_array_equal(batch(finite), np.maximum(finite, 0))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("rectify", [layers.rectify, layers.rectify_keeping_signs])
def test_rectify_lets_nan_through(monkeypatch, rectify, large):
    if large:
        monkeypatch.setattr(layers, "_LARGE", 1)
    x = jnp.full(16, -1.0).at[0].set(jnp.nan)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(rectify(x)))(x)
    assert np.isnan(value)
    assert_array_equal(gradient, np.zeros(16))


def kept(function, x):
    """What a gradient keeps, by shape and dtype."""
    _, pull = jax.vjp(function, x)
    leaves = [leaf for leaf in jax.tree.leaves(pull) if leaf.ndim]
    return [(leaf.shape, str(leaf.dtype)) for leaf in leaves]


def test_bits_are_kept_of_large_layers_and_wherever_that_is_asked_for(rng, monkeypatch):
    x = jnp.asarray(rng.normal(size=(16, 6, 4)), jnp.float32)
    assert kept(layers.rectify, x) == [((16, 6, 4), "bool")]
    assert kept(layers.rectify_keeping_signs, x) == [((2, 6, 4), "uint8")]
    assert kept(layers.max_pool, x) == [((8, 3, 4), "bool")] * 2
    for pool in layers.MAXIMA.values():
        assert kept(pool, x) == [((1, 3, 4), "uint8")] * 2
    monkeypatch.setattr(layers, "_LARGE", 1)
    assert kept(layers.rectify, x) == [((2, 1, 24), "uint8")]
    assert kept(layers.max_pool, x) == [((1, 3, 4), "uint8")] * 2


def test_rectify_keeps_a_bit_per_number_of_a_large_layer(monkeypatch):
    """Between two products, where XLA would otherwise keep each layer until its gradient."""

    def chain(x, kernel):
        for _ in range(8):
            x = layers.rectify(x @ kernel)
        return jnp.sum(x)

    monkeypatch.setattr(layers, "_LARGE", 2**20)
    x, kernel = (jax.ShapeDtypeStruct(s, np.float32) for s in ((2**15, 64), (64, 64)))
    compiled = jax.jit(jax.grad(chain)).lower(x, kernel).compile()
    layer = 2**15 * 64 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 4.5 * layer


EDGES = ("edge", "edge")


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 1), (3, 2)])
def test_the_frame_s_transpose(rng, x64, size):
    height, width = size
    x, framed = rng.normal(size=(*size, 2)), rng.normal(size=(height + 2, width + 2, 2))
    forwards = np.vdot(np.pad(x, ((1, 1), (1, 1), (0, 0)), "edge"), framed)
    assert_allclose(np.vdot(x, layers._unframed(jnp.asarray(framed), EDGES)), forwards, rtol=1e-12)


@pytest.mark.parametrize("sides", ["constant", "edge", "wrap"])
def test_rows_that_come_with_their_neighbours(rng, x64, sides):
    """The rows of a whole image's convolution, and the transpose's, for a slice of it."""
    whole = {
        "constant": layers.convolve,
        "edge": layers.convolve_replicating,
        "wrap": layers.convolve_circular,
    }[sides]
    x, kernel = rng.normal(size=(9, 6, 3)), rng.normal(size=(3, 3, 3, 4))
    cotangent = rng.normal(size=(4, 6, 4))
    found, pull = jax.vjp(
        lambda x, k: layers.convolve_rows(x, k, beside=sides), x[2:8], jnp.asarray(kernel)
    )
    expected, pulled = jax.vjp(lambda x, k: whole(x, k)[3:7], x, jnp.asarray(kernel))
    assert_allclose(found, expected, rtol=0, atol=1e-12)
    for own, other in zip(pull(cotangent), pulled(cotangent), strict=True):
        other = other[2:8] if other.shape[0] == 9 else other
        assert_allclose(own, other, rtol=0, atol=1e-12)
