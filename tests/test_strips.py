"""Strips against the whole picture: features, losses and gradients in float64.

The oracle is the evaluation as a whole, which has oracles of its own in ``test_vgg`` and
``test_objective``. Sums over strips differ from it by the order of their terms, 1e-14 or so; a row
that is wrong, missing or counted twice differs by percents.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from stylejax import Config, Guides, LossWeights, devices, layers, losses, statistics, strips, vgg
from stylejax.objective import evaluate, make_targets

pytestmark = pytest.mark.usefixtures("quick_compilation")

DEEP = ("relu1_1", "conv2_2", "relu3_2", "pool3", "relu4_1")


@pytest.fixture(scope="module")
def deep():
    """Four blocks, whose layers are late by even and by odd numbers of rows; float64."""
    noise = np.random.default_rng(1)
    shapes = vgg.parameter_shapes(vgg.Architecture((1, 2, 3, 1), (3, 4, 5, 4)))
    params = {
        layer: {
            "kernel": noise.normal(size=s["kernel"]) * np.sqrt(2 / np.prod(s["kernel"][:-1])),
            "bias": noise.normal(0, 30, s["bias"]),
        }
        for layer, s in shapes.items()
    }
    params["input"] = {"kernel": np.array(vgg.CAFFE_KERNEL), "bias": np.array(vgg.CAFFE_BIAS)}
    return params


def look(layer, features, counted, given):
    """A sum that every position takes part in, and the features themselves."""
    inside = features * counted[:, :, None]
    return jnp.tensordot(inside, jnp.square(features), [[0, 1], [0, 1]]), inside


def in_strips(image, params, network, rows, recompute=None, wrong=None, nested=False):
    """The sum of all layers' sines of sums, and the features as strips bring them."""
    cut = strips.cut(params, image.shape[:2], DEEP, rows, network, nested=nested)
    if wrong is not None:
        cut = wrong(cut)
    given = dict.fromkeys(DEEP)
    lines = strips.lines(image, cut)
    seen = strips.fold(params, lines, cut, look, given, network=network, recompute=recompute)
    return sum(jnp.sum(jnp.sin(sums / 1e7)) for sums, _ in seen.values()), (cut, seen)


def as_whole(image, params, network):
    features = vgg.features(params, image, DEEP, **network._asdict())
    everywhere = {layer: np.ones(f.shape[:2]) for layer, f in features.items()}
    sums = [look(layer, f, everywhere[layer], None)[0] for layer, f in features.items()]
    return sum(jnp.sum(jnp.sin(s / 1e7)) for s in sums), features


LONG = pytest.mark.long
CASES = [
    ("zero", layers.average_pool, (37, 11), 8, None, True),
    pytest.param("replicate", layers.max_pool, (40, 9), 16, 2, False, marks=LONG),
    ("replicate-all", layers.max_pool_ceil, (37, 9), 8, 1, False),
    pytest.param("replicate-all", layers.average_pool, (8, 9), 8, 0, True, marks=LONG),
    pytest.param("replicate-all", layers.l2_pool, (23, 8), 16, 3, False, marks=LONG),
    ("circular", layers.average_pool, (24, 9), 8, 2, True),
    pytest.param("circular", layers.max_pool, (16, 8), 32, None, False, marks=LONG),
]


@pytest.mark.parametrize(("padding", "pool", "size", "rows", "recompute", "nested"), CASES)
def test_features_and_gradient_are_the_wholes(
    x64, rng, deep, padding, pool, size, rows, recompute, nested
):
    image = rng.uniform(size=(*size, 3))
    network = strips.Network(pool, padding, "highest")
    evaluated = jax.jit(
        jax.value_and_grad(
            partial(
                in_strips,
                params=deep,
                network=network,
                rows=rows,
                recompute=recompute,
                nested=nested,
            ),
            has_aux=True,
        )
    )
    (value, (_, seen)), gradient = evaluated(image)
    whole = jax.value_and_grad(partial(as_whole, params=deep, network=network), has_aux=True)
    (expected, features), slope = jax.jit(whole)(image)
    cut = strips.cut(deep, size, DEEP, rows, network, nested=nested)
    assert not nested or 1 < cut.group < cut.number or rows >= size[0]
    for layer in DEEP:
        found = strips.gather(np.asarray(seen[layer][1]), cut.stages[layer])
        assert_allclose(found, features[layer], rtol=0, atol=1e-10 * np.abs(found).max())
        outside = np.asarray(seen[layer][1]).sum() - found.sum()
        assert abs(outside) < 1e-8 * np.abs(found).sum()  # strips bring nothing else that counts
    assert_allclose(value, expected, rtol=1e-11)
    assert_allclose(gradient, slope, rtol=0, atol=1e-11 * np.abs(slope).max())


DEFAULT = Config().layers  # relu1_1 to relu5_1, and relu4_2


@pytest.fixture(scope="module")
def vgg19():
    """Shapes are enough."""
    return jax.eval_shape(lambda key: vgg.random_params(key), jax.random.key(0))


def test_what_is_kept_by_hand(vgg19):
    """The first convolutions widen what the poolings leave, but for the fifth block's."""

    def keeping(recompute, pool=layers.average_pool, looked_at=DEFAULT):
        network = strips.Network(pool, "zero", "highest")
        cut = strips.cut(vgg19, (256, 64), looked_at, 64, network)
        found = strips.keeping(cut, looked_at, recompute, pool)
        assert not found.again & found.features
        return cut, found

    def firsts(*blocks):
        return {f"{kind}{block}_1" for kind in ("conv", "relu") for block in blocks}

    cut, least = keeping(0)
    assert least.again == firsts(1, 2, 3, 4)
    assert least.features == {"pool1", "pool2", "pool3", "relu4_2", "relu5_1"}
    assert least.signs == {name for name in cut.stages if name.startswith("relu")}
    assert keeping(0, layers.max_pool)[1] == least
    _, two = keeping(2)
    assert two.again == firsts(1, 2, 3, 4) | {n for n in cut.stages if n[4:] in ("1_2", "2_2")} | {
        "pool1",
        "pool2",
    }
    assert two.features == {"pool3", "relu4_2", "relu5_1"}
    _, every = keeping(None)
    assert every.again == set(cut.stages) - {"input"} and not every.signs | every.features
    # Nobody looks at a first convolution: nothing is computed again.
    _, none = keeping(0, looked_at=("relu1_2", "conv3_2"))
    assert none == (set(), {n for n in cut.stages if n in none.signs}, {"relu1_2", "conv3_2"})
    # What went into this pooling is wanted, all of it.
    _, roots = keeping(0, layers.l2_pool, ("relu2_2", "relu3_1"))
    assert {"conv1_1", "relu1_2", "conv2_1", "relu2_2"} <= roots.again
    assert roots.features == {"pool1", "pool2"} and roots.signs == {"relu3_1"}


@pytest.mark.parametrize("recompute", [0, 1, 2, None])
@pytest.mark.parametrize("pool", [layers.average_pool, layers.max_pool, layers.l2_pool])
def test_bytes_kept_are_what_the_gradient_is_handed(vgg19, pool, recompute):
    """Of one strip, as the loop forwards stacks it."""
    size, config = (256, 64), Config(strip=64, pool=pool, recompute=recompute)
    network = strips.Network(pool, "replicate-all", "highest")
    cut = strips.cut(vgg19, size, DEFAULT, 64, network)

    def look(layer, features, counted, given):
        return jnp.sum(jnp.square(features)), ()

    def total(image, params):
        seen = strips.fold(
            *(params, strips.lines(image, cut), cut, look, dict.fromkeys(DEFAULT)),
            network=network,
            recompute=config.recompute,
        )
        return sum(sums for sums, _ in seen.values())

    image = jax.ShapeDtypeStruct((*size, 3), jnp.float32)
    forwards, _ = scans(jax.make_jaxpr(jax.value_and_grad(total))(image, vgg19).jaxpr)
    stacked = [out.aval for out in forwards.outvars[forwards.params["num_carry"] :]]
    found = sum(array.size * array.dtype.itemsize for array in stacked) / cut.number
    told = strips.kept_bytes(cut, DEFAULT, recompute=recompute, pool=pool)
    assert found == pytest.approx(told, rel=0.02)


def scans(jaxpr):
    """All loops of a program that make something of every turn, in order."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            found.append(equation)
        else:
            for inner in jax.tree.leaves(tuple(equation.params.values())):
                if hasattr(inner, "jaxpr"):
                    found += scans(inner.jaxpr)
    return found


# One row wrong anywhere must not pass: how late a layer is, where the image ends, what counts.
MISTAKES = [
    ("input", "delay", 1),
    ("relu1_1", "delay", 1),
    ("relu2_1", "delay", -1),
    ("relu3_2", "delay", 1),
    ("input", "size", 1),
    ("relu2_1", "size", -1),
    ("pool2", "size", 1),
    ("relu1_1", "counted", 1),
    ("pool3", "counted", -1),
]


@pytest.mark.parametrize(("layer", "field", "by"), MISTAKES)
def test_a_mistake_of_one_row_is_seen(x64, rng, deep, layer, field, by):
    network = strips.Network(layers.average_pool, "zero", "highest")
    image = rng.uniform(size=(21, 8, 3))

    def wrong(cut):
        stage = cut.stages[layer]
        old = getattr(stage, field)
        new = (old[0] + by, old[1]) if field == "size" else old + by
        return cut._replace(stages={**cut.stages, layer: stage._replace(**{field: new})})

    expected, _ = as_whole(image, deep, network)
    found, _ = in_strips(image, deep, network, 8, wrong=wrong)
    assert abs(found - expected) > 1e-6 * abs(expected)


def test_rows_must_be_whole_strides(deep):
    network = strips.Network(layers.average_pool, "zero", "highest")
    for rows in (4, 12, 0):
        with pytest.raises(ValueError, match=f"{rows} rows: they must be a multiple of 8"):
            strips.cut(deep, (32, 32), DEEP, rows, network)
    with pytest.raises(ValueError, match="30 high; it must be a multiple of 8"):
        strips.cut(deep, (30, 32), DEEP, 8, network._replace(padding="circular"))


def test_arrange_and_gather(rng, deep):
    cut = strips.cut(
        deep, (37, 9), DEEP, 8, strips.Network(layers.max_pool_ceil, "zero", "highest")
    )
    for layer in DEEP:
        stage = cut.stages[layer]
        x = rng.normal(size=(stage.counted, 3))
        arranged = strips.arrange(x, stage, cut.number)
        assert arranged.shape == (cut.number, stage.rows, 3)
        np.testing.assert_array_equal(strips.gather(arranged, stage), np.float32(x))


# The objective

CONFIG = Config(
    content_layers=("relu2_2",), style_layers=("relu1_1", "relu2_1", "relu3_1"), strip=4
)
WEIGHTS = LossWeights(content=1.0, style=20.0, tv=0.5)


@partial(jax.jit, static_argnames="config")
def run(image, params, photo, paintings, loss_weights, config, masks):
    targets = make_targets(params, photo, paintings, loss_weights, config, masks=masks)
    evaluated = jax.value_and_grad(evaluate, has_aux=True)
    (_, terms), gradient = evaluated(image, params, targets, loss_weights, config)
    return terms, gradient


def agree(tiny, pictures, config, loss_weights=WEIGHTS, masks=None):
    image, photo, *paintings = pictures
    given = (image, tiny, photo, paintings, loss_weights)
    found = run(*given, config=config, masks=masks)
    whole = dataclasses.replace(config, strip=None, recompute=None, nested=False)
    expected = run(*given, config=whole, masks=masks)
    jax.tree.map(partial(assert_allclose, rtol=1e-9), found[0], expected[0])
    assert_allclose(found[1], expected[1], rtol=0, atol=1e-9 * np.abs(expected[1]).max())


@pytest.fixture
def pictures(rng):
    """A picture on its way, a photo of its size and two paintings of others, float64."""
    return [rng.uniform(size=shape) for shape in [(22, 9, 3), (22, 9, 3), (13, 11, 3), (9, 17, 3)]]


ADDITIVE = {
    "gram": statistics.GRAM,
    "covariance": statistics.RELATIVE_COVARIANCE,
    "mean-std": statistics.RELATIVE_MEAN_STD,
    "wasserstein": statistics.RELATIVE_WASSERSTEIN,
    "mixed": statistics.mixed((statistics.MEAN_GRAM, 1e-9), (statistics.MEAN_STD, 1e-4)),
}


# Gram is the default, which the tests below have; two are moments that others have as well.
ALONE = ("wasserstein",)


@pytest.mark.parametrize(
    "statistic", [pytest.param(s, marks=() if s in ALONE else LONG) for s in ADDITIVE]
)
def test_every_sum_over_positions(x64, tiny, pictures, statistic):
    agree(tiny, pictures, dataclasses.replace(CONFIG, style_statistic=ADDITIVE[statistic]))


CONTENT = [
    losses.content_loss,
    losses.content_loss_per_element,
    losses.content_loss_mean_square,
    losses.content_loss_sum_of_squares,
]


# They are of the same sums.
EACH = [pytest.param(x, id=x.name, marks=() if x is CONTENT[1] else LONG) for x in CONTENT]


@pytest.mark.parametrize("loss", EACH)
def test_every_content_loss(x64, tiny, pictures, loss):
    only = dict(style_layers=(), content_layers=("relu1_1", "relu3_1"), content_loss=loss)
    agree(tiny, [*pictures[:2]], dataclasses.replace(CONFIG, **only))


VARIANTS = {
    "circular": dict(padding="circular"),
    "zero, maximum": dict(padding="zero", pool=layers.max_pool, recompute=1, nested=True),
    "dream, photorealism": dict(
        dream_layers=("conv2_1", "relu3_1"), photorealism=True, recompute=0
    ),
}


@pytest.mark.parametrize(
    "variant", [pytest.param(v, marks=LONG if v == "circular" else ()) for v in VARIANTS]
)
def test_other_networks_and_terms(x64, tiny, pictures, variant):
    if variant == "circular":
        pictures[:2] = [p[:20] for p in pictures[:2]]
    weights = WEIGHTS._replace(dream=0.5, photorealism=3.0)
    agree(tiny, pictures, dataclasses.replace(CONFIG, **VARIANTS[variant]), weights)


@pytest.mark.parametrize("padding", ["replicate-all", pytest.param("circular", marks=LONG)])
def test_regions(x64, rng, tiny, pictures, padding):
    if padding == "circular":
        pictures[:2] = [p[:20] for p in pictures[:2]]
    raw = rng.uniform(size=(20, 10, 3))
    regions = (raw / raw.sum(axis=2, keepdims=True))[:, :, :2]
    masks = Guides(regions, (rng.uniform(size=(8, 11, 2)), None), rng.uniform(size=(13, 10)))
    config = dataclasses.replace(CONFIG, padding=padding)
    agree(tiny, pictures, config, WEIGHTS._replace(regions=(1.0, 3.0)), masks)


def test_a_distilled_network(x64, rng, tiny, pictures):
    taps = {
        layer: {"kernel": rng.normal(size=(c, 5))}
        for layer, c in (("relu1_1", 4), ("relu2_1", 6), ("relu2_2", 6), ("relu3_1", 8))
    }
    agree({**tiny, **taps}, pictures, dataclasses.replace(CONFIG, dream_layers=("relu2_2",)))


def test_a_small_scale_is_not_cut():
    config = Config(strip=512)
    assert config.strip_rows(512, 512) is None
    assert config.strip_rows(513, 512) == 512
    assert config.strip_rows(100, 10_000_000) == 16
    larger = Config(strip=512, strip_above=700)
    assert larger.strip_rows(700, 700) is None
    assert larger.strip_rows(701, 700) == config.strip_rows(701, 700)


REFUSED = {
    "histogram at relu1_1 is not": dict(style_statistic=statistics.HISTOGRAM),
    "content_loss of sums": dict(content_loss=lambda f, p: jnp.sum(f - p)),
    "norms are of whole layers": dict(normalise_gradients=True, optimizer=None),
    "strip is 8; it must be a whole number from 16 on": dict(strip=8),
    "recompute is -1": dict(recompute=-1),
    "strip_above is 500; it must be a whole number from 512 on": dict(strip_above=500),
    "strip_above is 512 without strips": dict(strip=None, strip_above=512),
    "strip 512 over 1 devices does not go with padding 'circular'": dict(
        padding="circular", mesh=devices.mesh(1)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_sum_is_refused(message):
    with pytest.raises(ValueError, match=message):
        Config(**{"strip": 512, **REFUSED[message]})
