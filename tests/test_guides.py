"""Regions: masks at the layers, the guided loss against the paper's sums, and what follows."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal

from stylejax import Adam, Config, Guides, LossWeights, guides, iterate, statistics, stylize
from stylejax.arguments import check
from stylejax.objective import evaluate, make_targets

pytestmark = pytest.mark.usefixtures("quick_compilation")

BLOCKS = (1, 2, 1)  # of the fixture ``tiny``
CONTENT, STYLE = ("relu2_2",), ("relu1_1", "relu2_1", "relu3_1")
CONFIG = Config(content_layers=CONTENT, style_layers=STYLE, padding="zero")
STRIDES = {"relu1_1": 1, "relu2_1": 2, "relu2_2": 2, "relu3_1": 4}


@partial(jax.jit, static_argnames="config")
def run(image, params, photo, paintings, loss_weights, config, masks):
    targets = make_targets(params, photo, paintings, loss_weights, config, masks=masks)
    evaluated = jax.value_and_grad(evaluate, has_aux=True)
    (value, terms), gradient = evaluated(image, params, targets, loss_weights, config)
    return value, terms, gradient


@pytest.fixture
def pictures(rng):
    """A picture on its way, a photo of its size and two paintings of others, float64."""
    shapes = [(13, 10, 3), (13, 10, 3), (8, 11, 3), (9, 8, 3)]
    return [rng.uniform(size=shape) for shape in shapes]


@pytest.fixture
def masks(rng):
    """Two soft regions that leave some of the picture, soft parts of both paintings."""
    raw = rng.uniform(size=(13, 10, 3))
    regions = (raw / raw.sum(axis=2, keepdims=True))[:, :, :2]
    parts = (rng.uniform(size=(8, 11, 2)), rng.uniform(size=(9, 8, 2)))
    return Guides(regions, parts, rng.uniform(size=(13, 10)))


# Masks at the layers


def blocks(mask, layer, height, width):
    """Means over blocks of pixels, by loops."""
    side = STRIDES[layer]
    found = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            found[i, j] = mask[i * side : (i + 1) * side, j * side : (j + 1) * side].mean()
    return found


def test_by_hand():
    mask = jnp.array([[1.0, 0.0, 1.0, 1.0, 9.0], [0.0, 0.0, 1.0, 0.0, 9.0], [7.0] * 5])
    # Two poolings of a picture of 3x5: rows and columns left over fall away.
    assert_array_equal(guides.carry(mask, "relu2_1", (1, 2)), [[0.25, 0.75]])
    assert_array_equal(guides.carry(mask, "relu1_2", (3, 5)), mask)
    assert_array_equal(guides.carry(mask, "pool1", (1, 2, 64)), [[0.25, 0.75]])


def test_a_pooling_that_rounds_up_repeats_the_edge():
    mask = jnp.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert_array_equal(guides.carry(mask, "relu2_1", (1, 2)), [[0.25, 0.5]])


def test_against_loops(rng):
    mask = rng.uniform(size=(13, 10)).astype(np.float32)
    for layer, shape in (("relu1_1", (13, 10)), ("relu2_1", (6, 5)), ("relu3_1", (3, 2))):
        found = guides.carry(jnp.asarray(mask), layer, shape)
        assert_allclose(found, blocks(mask, layer, *shape), rtol=1e-6)


# The loss


def guided_gram(features, weight):
    """``sum_k w_k F_k F_k^T / sum_k w_k``, by a loop over positions."""
    total = np.zeros((features.shape[2],) * 2)
    for i in range(features.shape[0]):
        for j in range(features.shape[1]):
            total += weight[i, j] * np.outer(features[i, j], features[i, j])
    return total / weight.sum()


def test_against_the_papers_sums(x64, tiny, pictures, masks):
    image, photo, *paintings = pictures
    shares = np.array([[0.75, 0.25], [0.5, 0.5]])
    strengths = (1.0, 3.0)
    weights = LossWeights(content=2.0, style=5.0, styles=shares, regions=strengths)
    value, terms, _ = run(image, tiny, photo, paintings, weights, CONFIG, masks)

    def features(picture, names):
        return reference.features(tiny, picture, names, BLOCKS, "average", "zero")

    seen, painted = features(image, STYLE), [features(p, STYLE) for p in paintings]
    for layer in STYLE:
        expected = 0
        for region in range(2):
            weight = blocks(masks.regions[:, :, region], layer, *seen[layer].shape[:2])
            target = sum(
                share * guided_gram(p[layer], blocks(m[:, :, region], layer, *p[layer].shape[:2]))
                for share, p, m in zip(shares[region], painted, masks.styles, strict=True)
            )
            error = np.square(guided_gram(seen[layer], weight) - target).sum()
            expected += strengths[region] * weight.mean() * error / np.square(target).sum()
        assert_allclose(terms.style[layer], 5.0 / 3 * expected, rtol=1e-10)

    F, P = (features(p, CONTENT)["relu2_2"] for p in (image, photo))
    weight = blocks(masks.content, "relu2_2", *F.shape[:2])[:, :, None]
    expected = (weight * np.square(F - P)).sum() / (weight * np.square(P)).sum()
    assert_allclose(terms.content["relu2_2"], 2.0 * expected, rtol=1e-10)
    everything = [*terms.content.values(), *terms.style.values(), terms.tv]
    assert_allclose(value, sum(everything), rtol=1e-14)


KINDS = {
    kind.name: kind
    for kind in (
        statistics.GRAM,
        statistics.RELATIVE_COVARIANCE,
        statistics.RELATIVE_MEAN_STD,
        statistics.RELATIVE_WASSERSTEIN,
        statistics.RELATIVE_SLICED,
        statistics.RELATIVE_HISTOGRAM,
        statistics.RELATIVE_PATCHES,
    )
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_every_statistic(x64, tiny, pictures, masks, rng, kind):
    image, photo, *paintings = pictures
    config = dataclasses.replace(CONFIG, style_statistic=KINDS[kind], style_layers=("relu2_1",))
    given = (tiny, photo, paintings, LossWeights(tv=0.1), config, masks)
    _, _, gradient = run(image, *given)
    direction = rng.normal(size=image.shape)
    step = 1e-6
    values = [run(image + s * step * direction, *given)[0] for s in (1, -1)]
    assert_allclose(np.vdot(gradient, direction), (values[0] - values[1]) / (2 * step), rtol=1e-5)


def test_one_region_everywhere_is_none(x64, tiny, pictures):
    image, photo, *paintings = pictures
    weights = LossWeights(tv=0.1, styles=(2.0, 1.0))
    plain = run(image, tiny, photo, paintings, weights, CONFIG, None)
    everywhere = (
        Guides(np.ones((5, 7, 1))),  # of any size
        Guides(styles=[None, np.ones((3, 3, 1))]),
        Guides(content=np.ones((2, 2))),
        Guides(),
    )
    for masks in everywhere:
        guided = run(image, tiny, photo, paintings, weights, CONFIG, masks)
        jax.tree.map(partial(assert_allclose, rtol=1e-9, atol=1e-12), guided, plain)


def test_no_style_outside_the_regions(tiny, pictures):
    """At relu1_1, which sees one pixel around."""
    image, photo, *paintings = pictures
    config = dataclasses.replace(CONFIG, style_layers=("relu1_1",))
    left = np.zeros((13, 10, 1), np.float32)
    left[:, :4] = 1
    weights = LossWeights(content=0.0, style=1.0, styles=(1.0, 0.0))
    _, _, gradient = run(image, tiny, photo, paintings, weights, config, Guides(left))
    assert np.all(gradient[:, 5:] == 0) and np.all(np.any(gradient[:, :5] != 0, axis=(0, 2)))


def test_no_content_where_the_mask_is_black(tiny, pictures):
    image, photo, *paintings = pictures
    config = dataclasses.replace(CONFIG, content_layers=("relu1_1",))
    mask = np.ones((13, 10), np.float32)
    mask[6:] = 0
    weights = LossWeights(content=1.0, style=0.0)
    masks = Guides(content=mask)
    _, _, gradient = run(image, tiny, photo, paintings, weights, config, masks)
    assert np.all(gradient[7:] == 0) and np.all(np.any(gradient[:7] != 0, axis=(1, 2)))


def test_each_region_its_own_painting(x64, tiny, pictures, masks):
    """As many regions as paintings: the default is the unit matrix. And order does not matter."""
    image, photo, *paintings = pictures
    default = run(image, tiny, photo, paintings, LossWeights(), CONFIG, masks)
    weights = LossWeights(styles=((1.0, 0.0), (0.0, 2.0)))
    own = run(image, tiny, photo, paintings, weights, CONFIG, masks)
    jax.tree.map(partial(assert_allclose, rtol=1e-12), own, default)
    turned = Guides(
        masks.regions[:, :, ::-1], tuple(p[:, :, ::-1] for p in masks.styles[::-1]), masks.content
    )
    other = run(image, tiny, photo, paintings[::-1], LossWeights(), CONFIG, turned)
    jax.tree.map(partial(assert_allclose, rtol=1e-10), other, default)


def test_a_blend_for_each_layer(x64, tiny, pictures):
    image, photo, *paintings = pictures
    shares = {"relu1_1": (0.0, 3.0), "relu2_1": (1.0, 1.0), "relu3_1": (1.0, 0.0)}
    weights = LossWeights(styles=shares)
    _, mixed, _ = run(image, tiny, photo, paintings, weights, CONFIG, None)
    for layer, blend in shares.items():
        alone = LossWeights(styles=blend)
        _, terms, _ = run(image, tiny, photo, paintings, alone, CONFIG, None)
        assert_allclose(mixed.style[layer], terms.style[layer], rtol=1e-12)


# The whole way


SMALL = dataclasses.replace(CONFIG, steps=3, scales=2, optimizer=Adam(), smallest=8)


def test_stylize_and_iterate_agree_and_vmap(tiny, pictures, masks):
    _, photo, *paintings = (p.astype(np.float32) for p in pictures)
    masks = jax.tree.map(lambda m: m.astype(np.float32), masks)
    result = stylize(tiny, photo, paintings, config=SMALL, guides=masks)
    *_, last = iterate(tiny, photo, paintings, config=SMALL, guides=masks, every=2)
    assert_allclose(last.image, result.image, atol=1e-5)
    plain = stylize(tiny, photo, paintings, config=SMALL)
    assert np.abs(plain.image - result.image).max() > 1e-3

    def masked(regions):
        return stylize(tiny, photo, paintings, config=SMALL, guides=masks._replace(regions=regions))

    both = jnp.stack([masks.regions, masks.regions[:, ::-1]])
    swept = jax.jit(jax.vmap(masked))(both)
    assert_allclose(swept.image[0], result.image, atol=1e-4)
    assert np.abs(swept.image[1] - swept.image[0]).max() > 1e-3


HALF = np.zeros((13, 10, 2), np.float32)
HALF[:7, :, 0] = 1
HALF[7:, :, 1] = 1
CORNER = np.zeros((13, 10, 1), np.float32)
CORNER[0, 9] = 1

BAD = {
    "overlapping": (Guides(np.clip(HALF + 0.3, 0, 1)), {}, ["regions", "overlap", "1.3", "limit"]),
    "vanishing": (Guides(CORNER), {}, ["vanishes at relu2_1", "5x6 positions", "10x13"]),
    "a part that a region takes and has not": (
        Guides(HALF, [None, HALF * (1.0, 0.0)]),
        {},
        ["styles[1], as guides.regions[..., 1] takes it, vanishes at relu1_1", "painting of"],
    ),
    "a part of one pixel": (
        Guides(styles=[None, CORNER]),
        {"styles": (1.0, 1.0)},
        ["styles[1]", "vanishes at relu2_1"],
    ),
    "another number of parts": (Guides(HALF, [None]), {}, ["1 masks for 2 paintings"]),
    "a part of other regions": (
        Guides(HALF, [None, np.ones((4, 4, 3), np.float32)]),
        {},
        ["styles[1]", "[height, width, 2]", "(4, 4, 3)"],
    ),
    "no axis of regions": (Guides(HALF[:, :, 0:1][:, :, 0]), {}, ["regions", "(13, 10)"]),
    "integers": (Guides(HALF.astype(int)), {}, ["regions", "int64", "floats"]),
    "beyond one": (Guides(HALF * 2), {}, ["[0, 2]", "[0, 1]"]),
    "not a number": (Guides(HALF * np.nan), {}, ["nan"]),
    "black": (Guides(HALF * 0), {}, ["black everywhere"]),
    "a black part": (Guides(HALF, [None, HALF * 0]), {}, ["styles[1]", "black everywhere"]),
    "content of another rank": (Guides(content=HALF), {}, ["content", "[height, width]"]),
    "a row of shares too few": (
        Guides(HALF),
        {"styles": ((1.0, 0.0),)},
        ["styles has 1 rows of 2 numbers", "2 styles in 2 regions"],
    ),
    "ragged shares": (Guides(HALF), {"styles": ((1.0, 0.0), (1.0,))}, ["rows of different"]),
    "a region without a share": (
        Guides(HALF),
        {"styles": ((1.0, 0.0), (0.0, 0.0))},
        ["add up to 0"],
    ),
    "strengths": (Guides(HALF), {"regions": (1.0,)}, ["regions has 1 number for 2 regions"]),
}


@pytest.mark.parametrize("fault", BAD)
def test_one_line_for_masks_that_cannot_work(tiny, pictures, fault):
    masks, weights, words = BAD[fault]
    _, photo, *paintings = pictures
    config = dataclasses.replace(CONFIG, scales=1)
    with pytest.raises(ValueError) as error:
        check(
            tiny,
            photo,
            paintings,
            config=config,
            loss_weights=LossWeights(**weights),
            guides=masks,
        )
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_what_no_region_takes_may_vanish(tiny, pictures):
    """A painting whose share is 0 in a region has nothing to show there."""
    _, photo, *paintings = pictures
    parts = [None, HALF * (1.0, 0.0)]
    weights = LossWeights(styles=((1.0, 1.0), (1.0, 0.0)))
    check(tiny, photo, paintings, config=CONFIG, loss_weights=weights, guides=Guides(HALF, parts))


def test_a_blend_must_name_every_style_layer(tiny, pictures):
    _, photo, *paintings = pictures
    weights = LossWeights(styles={"relu1_1": (1.0, 0.0)})
    with pytest.raises(ValueError, match=r"styles names relu1_1; the config's style layers are"):
        check(tiny, photo, paintings, config=CONFIG, loss_weights=weights)
