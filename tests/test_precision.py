"""Every product of the programs says how precise it is.

TPUs multiply float32 numbers as bfloat16 and recent GPUs as TF32 where nobody says otherwise. What
is lowered for a TPU is read here, on any machine: it shows what is asked for, not what a TPU makes
of it.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stylejax import Colour, Config, LossWeights, colour, scale, statistics, vgg
from stylejax.colour import prepare
from stylejax.guides import Guides
from stylejax.optimizers import Adam, JaxoptLbfgs, JaxoptLbfgsb, Lbfgs

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZE = (24, 20)
NARROW = vgg.Architecture((1, 2, 1), (4, 6, 8))
IMAGE = jax.ShapeDtypeStruct((*SIZE, 3), jnp.float32)
LAYERS = {"content_layers": ("relu2_2",), "style_layers": ("relu1_1", "relu3_1")}
STATISTICS = [getattr(statistics, name) for name in statistics.__all__ if name.isupper()]
OPTIMIZERS = (
    Lbfgs(),
    Lbfgs(line_search=False),
    Adam(average=0.9, clamp=True),
    JaxoptLbfgs(),
    JaxoptLbfgsb(),
)
TPU = {"lowering_platforms": ("tpu",)}


def abstract_params(architecture=NARROW):
    """A network without values."""
    return {
        layer: {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in arrays.items()}
        for layer, arrays in vgg.parameter_shapes(architecture).items()
    }


def products(text):
    """Every convolution and matrix product of a StableHLO program as (kind, its precisions)."""
    found = []
    for line in text.splitlines():
        if kind := re.search(r"stablehlo\.(dot_general|dot|convolution)\b", line):
            said = re.search(r"precision(?:_config)? = \[(.*?)\]", line)
            words = re.findall(r"\b(DEFAULT|HIGHEST|HIGH)\b", said[1]) if said else ["NONE"]
            found.append((kind[1], *words))
    return found


def programs(config, *, guides=None):
    """The text of both programs of a scale as they are lowered for a TPU."""
    params, key = abstract_params(), jax.random.key(0)
    weights = LossWeights(content=1.0, style=20.0, tv=0.5, dream=0.1, photorealism=1.0)
    preparing = scale.prepare.trace(
        params, IMAGE, [IMAGE], None, weights, key, guides=guides, size=SIZE, config=config
    )
    state, targets = preparing.out_info
    advancing = scale.advance.trace(state, params, targets, weights, 3, length=2, config=config)
    return [traced.lower(**TPU).as_text() for traced in (preparing, advancing)]


def check(config, *, guides=None):
    word = config.precision.upper()
    for text in programs(config, guides=guides):
        found = products(text)
        kinds = {kind for kind, *_ in found}
        assert kinds == {"convolution", "dot_general"}
        for kind, *words in found:
            assert words == [word if kind == "convolution" else "HIGHEST"] * 2, (kind, words)


def test_the_reader_sees_a_product_that_does_not_say():
    """Not to pass because it finds nothing."""
    x = jnp.ones((4, 4))
    image, kernel = jnp.ones((1, 8, 8, 2)), jnp.ones((3, 3, 2, 2))
    window = partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    for fun, given, kind in (
        (jnp.matmul, (x, x), "dot_general"),
        (jnp.vdot, (x, x), "dot_general"),
        (window, (image, kernel), "convolution"),
    ):
        silent = products(jax.jit(fun).trace(*given).lower(**TPU).as_text())
        assert [kind_found for kind_found, *_ in silent] == [kind]
        assert set(silent[0][1:]) <= {"DEFAULT", "NONE"}
        said = jax.jit(partial(fun, precision="highest")).trace(*given).lower(**TPU).as_text()
        assert products(said) == [(kind, "HIGHEST", "HIGHEST")]


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda s: s.name)
def test_every_statistic_and_its_gradient(statistic):
    check(Config(**LAYERS, style_statistic=statistic, photorealism=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_every_optimizer(optimizer):
    check(Config(**LAYERS, optimizer=optimizer, precision="high"))


@pytest.mark.parametrize(
    ("precision", "padding"),
    [("high", "zero"), ("default", "replicate"), ("default", "circular")],
)
def test_convolutions_have_the_precision_of_the_config_and_nothing_else_has(precision, padding):
    check(Config(**LAYERS, padding=padding, precision=precision, dream_layers=("relu3_1",)))


def test_regions():
    guides = Guides(
        jax.ShapeDtypeStruct((*SIZE, 2), jnp.float32),
        (jax.ShapeDtypeStruct((*SIZE, 2), jnp.float32),),
        jax.ShapeDtypeStruct(SIZE, jnp.float32),
    )
    check(Config(**LAYERS, precision="default"), guides=guides)


@pytest.mark.parametrize("mode", [colour.SYMMETRIC, colour.CHOLESKY, colour.PCA, colour.LUMINANCE])
def test_colours(mode):
    def matched(photo, painting):
        return prepare(Colour(mode), photo, [painting], None)

    text = jax.jit(matched).trace(IMAGE, IMAGE).lower(**TPU).as_text()
    found = products(text)
    assert found and {words for _, *each in found for words in each} == {"HIGHEST"}


def test_training_a_kernel():
    """Its gradient is nine matrix products, of the convolution's own precision."""

    def loss(params, image):
        seen = vgg.features(params, image, ("relu3_1",), precision="default")
        return jnp.sum(jnp.square(seen["relu3_1"]))

    text = jax.jit(jax.grad(loss)).trace(abstract_params(), IMAGE).lower(**TPU).as_text()
    words = [set(each) for _, *each in products(text)]
    assert len(words) >= 3 + 4 * 9
    assert all(each in ({"DEFAULT"}, {"HIGHEST"}) for each in words)
    assert not np.any([each == {"NONE"} for each in words])
