"""The objective: equation 7 with its gradient against the oracle and against differences."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal

from stylejax import images, layers, losses, matting, presets, statistics
from stylejax.arguments import check_loss_weights
from stylejax.config import Config
from stylejax.objective import LossWeights, evaluate, make_targets
from stylejax.optimizers import Adam
from stylejax.presets import PRESETS
from stylejax.transfer import stylize

pytestmark = pytest.mark.usefixtures("quick_compilation")

BLOCKS = (1, 2, 1)  # of the fixture ``tiny``
CONTENT, STYLE = ("relu2_2",), ("relu1_1", "relu2_1", "relu3_1")
# The paper's: eq. 1, eq. 4, average pooling, zero padding.
PAPER = Config(
    content_layers=CONTENT,
    style_layers=STYLE,
    content_loss=losses.content_loss,
    style_statistic=statistics.GRAM,
    pool=layers.average_pool,
    padding="zero",
)
SHARES = {"relu1_1": 0.5, "relu2_1": 0.2, "relu3_1": 0.3}
ALPHA, BETA = 2e-3, 5.0


@partial(jax.jit, static_argnames="config")
def run(image, params, photo, paintings, loss_weights, config):
    """The value, its terms and the gradient to the image."""
    targets = make_targets(params, photo, paintings, loss_weights, config)
    evaluated = jax.value_and_grad(evaluate, has_aux=True)
    (value, terms), gradient = evaluated(image, params, targets, loss_weights, config)
    return value, terms, gradient


@pytest.fixture
def pictures(rng):
    """A picture on its way, a photo of its size and two paintings of others, float64."""
    shapes = [(9, 8, 3), (9, 8, 3), (6, 11, 3), (8, 8, 3)]
    return [rng.uniform(size=shape) for shape in shapes]


def features_of(params, image, names, pooling="average", padding="zero"):
    return reference.features(params, image, names, BLOCKS, pooling, padding)


# Equation 7


@pytest.mark.parametrize(("pooling", "padding"), [("average", "zero"), ("max", "replicate")])
def test_equation_7(x64, tiny, pictures, pooling, padding):
    image, photo, painting, _ = pictures
    pool = {"average": layers.average_pool, "max": layers.max_pool}[pooling]
    config = dataclasses.replace(PAPER, pool=pool, padding=padding)
    weights = LossWeights(content=ALPHA, style=BETA, style_layers=SHARES)
    value, terms, gradient = run(image, tiny, photo, [painting], weights, config)
    seen = features_of(tiny, image, CONTENT + STYLE, pooling, padding)
    P = features_of(tiny, photo, CONTENT, pooling, padding)
    A = features_of(tiny, painting, STYLE, pooling, padding)
    expected = reference.total_loss(seen, P, A, SHARES, ALPHA, BETA)
    # Float64 rounding: 1e-16 times a few thousand operations.
    assert_allclose(value, expected, rtol=1e-11)
    content = ALPHA * reference.content_loss(seen["relu2_2"], P["relu2_2"])
    assert_allclose(terms.content["relu2_2"], content, rtol=1e-11)
    for name, share in SHARES.items():
        style = BETA * share * reference.style_layer_loss(seen[name], A[name])
        assert_allclose(terms.style[name], style, rtol=1e-11)
        # No term may hide in the rounding of another.
        assert style > 1e-6 * value
    assert content > 1e-6 * value

    cotangents = {
        name: BETA * share * reference.style_layer_gradient(seen[name], A[name])
        for name, share in SHARES.items()
    }
    cotangents["relu2_2"] = ALPHA * reference.content_gradient(seen["relu2_2"], P["relu2_2"])
    by_hand = reference.features_gradient(tiny, image, cotangents, BLOCKS, pooling, padding)
    assert_allclose(gradient, by_hand, rtol=0, atol=1e-11 * np.abs(by_hand).max())


def test_several_content_layers_and_paintings(x64, tiny, pictures):
    image, photo, *paintings = pictures
    contents = {"conv1_1": 0.25, "pool2": 4.0}  # any layer will do
    config = dataclasses.replace(PAPER, content_layers=tuple(contents))
    weights = LossWeights(
        content=ALPHA,
        style=BETA,
        tv=3.0,
        content_layers=contents,
        style_layers=SHARES,
        styles=(3.0, 1.0),  # shares of their sum
    )
    value, terms, _ = run(image, tiny, photo, paintings, weights, config)
    seen = features_of(tiny, image, [*contents, *STYLE])
    P = features_of(tiny, photo, list(contents))
    painted = [features_of(tiny, painting, STYLE) for painting in paintings]
    for name, weight in contents.items():
        expected = ALPHA * weight * reference.content_loss(seen[name], P[name])
        assert_allclose(terms.content[name], expected, rtol=1e-11)
    for name, weight in SHARES.items():
        A = [features[name] for features in painted]
        style = reference.blended_style_layer_loss(seen[name], A, (3.0, 1.0))
        assert_allclose(terms.style[name], BETA * weight * style, rtol=1e-11)
    assert_allclose(terms.tv, 3.0 * reference.total_variation(image) / 72, rtol=1e-11)
    everything = [*terms.content.values(), *terms.style.values(), terms.tv]
    assert_allclose(value, sum(everything), rtol=1e-14)
    assert value == terms.total


@pytest.mark.parametrize("form", [losses.absolute_variation, losses.nine_point_variation])
def test_the_config_has_the_form_of_total_variation(tiny, pictures, form):
    image, photo, painting, _ = (np.float32(p) for p in pictures)
    config = dataclasses.replace(PAPER, total_variation=form)
    terms = run(image, tiny, photo, [painting], LossWeights(tv=2.0), config)[1]
    assert_allclose(terms.tv, 2 * form(image), rtol=1e-6)


DREAM = dataclasses.replace(PAPER, dream_layers=("relu2_2", "pool2"))


def test_the_dream(x64, tiny, pictures):
    """Twice the photo's share, layer by layer; and a gradient that belongs to it."""
    image, photo, painting, _ = pictures
    weights = LossWeights(content=ALPHA, style=BETA, style_layers=SHARES, dream=3.0)
    value, terms, gradient = run(image, tiny, photo, [painting], weights, DREAM)
    seen, before = (features_of(tiny, x, DREAM.dream_layers) for x in (image, photo))
    for name in DREAM.dream_layers:
        f, p = np.mean(seen[name] ** 2), np.mean(before[name] ** 2)
        assert_allclose(terms.dream[name], 3 / 2 * 2 * p / (p + f), rtol=1e-11)
    parts = [*terms.content.values(), *terms.style.values(), *terms.dream.values()]
    assert_allclose(value, sum(parts), rtol=1e-14)
    direction = np.random.default_rng(0).normal(size=image.shape)

    def total(x):
        return run(x, tiny, photo, [painting], weights, DREAM)[0]

    difference = reference.finite_difference(total, image, direction, 1e-6)
    assert_allclose(np.sum(gradient * direction), difference, rtol=1e-6)


def test_a_dream_alone_ends(tiny, pictures):
    """L-BFGS on the reward alone: activations grow, the loss stays above 0, nothing overflows."""
    photo, painting = np.float32(pictures[1]), np.float32(pictures[2])
    config = Config((), (), dream_layers=("relu3_1",), steps=40, scales=1)
    weights = LossWeights(dream=1.0)
    result = stylize(tiny, photo, [painting], config=config, loss_weights=weights)
    totals = np.asarray(result.history[0].terms.total)
    assert np.all(np.diff(totals) <= 0)
    assert 0 < totals[-1] < 0.01 < totals[0] < 1  # which is where it started
    assert np.all(np.isfinite(result.image))


def test_normalised_gradients_have_their_weights(x64, tiny, pictures):
    """At the layer: what comes down is the weighted sum of gradients of unit length."""
    image, photo, painting, _ = pictures
    config = dataclasses.replace(PAPER, normalise_gradients=True, optimizer=Adam())
    weights = LossWeights(content=2.0, style=BETA, style_layers=SHARES)
    value, _, gradient = run(image, tiny, photo, [painting], weights, config)
    plain = run(image, tiny, photo, [painting], weights, PAPER)[0]
    assert_allclose(value, plain, rtol=1e-12)
    seen = features_of(tiny, image, CONTENT + STYLE)
    P, A = features_of(tiny, photo, CONTENT), features_of(tiny, painting, STYLE)
    pulls = {"relu2_2": (2.0, seen["relu2_2"] - P["relu2_2"])}
    for name, share in SHARES.items():
        slope = jax.grad(lambda F, name=name: _style(F, A[name]))(jnp.asarray(seen[name]))
        pulls[name] = (BETA * share, np.asarray(slope))
    cotangents = {n: w * g / np.abs(g).sum() for n, (w, g) in pulls.items()}
    by_hand = reference.features_gradient(tiny, image, cotangents, BLOCKS)
    # 1e-8 in the denominators.
    assert_allclose(gradient, by_hand, rtol=0, atol=1e-6 * np.abs(by_hand).max())


def _style(features, painting):
    """Eq. 4 without the ReLU's condition, which is the network's."""
    G = features.reshape(-1, features.shape[2])
    B = painting.reshape(-1, painting.shape[2])
    return jnp.mean((G.T @ G / len(G) - B.T @ B / len(B)) ** 2) / 4


def test_weights_not_given_are_equal_shares_of_one(x64, tiny, pictures):
    image, photo, *paintings = pictures
    config = Config(content_layers=("relu1_1", "relu2_1"), style_layers=("conv1_1", "relu2_1"))
    plain = LossWeights(content=2.0, style=3.0, tv=0.5)
    spelled = plain._replace(
        content_layers={"relu1_1": 0.5, "relu2_1": 0.5},
        style_layers={"conv1_1": 0.5, "relu2_1": 0.5},
        styles=jnp.array([0.5, 0.5]),
    )

    @jax.jit
    def terms(loss_weights):
        targets = make_targets(tiny, photo, paintings, loss_weights, config)
        return evaluate(image, tiny, targets, loss_weights, config)[1]

    found = [terms(plain), terms(spelled)]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-13 * np.abs(b).max())


def test_an_objective_may_have_one_side_only(tiny, pictures):
    image, photo, painting, _ = (np.float32(p) for p in pictures)
    for config in (Config(content_layers=CONTENT, style_layers=()), Config((), STYLE)):
        value, terms, _ = run.eval_shape(image, tiny, photo, [painting], LossWeights(), config)
        assert set(terms.content) == set(config.content_layers)
        assert set(terms.style) == set(config.style_layers)
        assert value.shape == terms.total.shape == ()


def test_the_network_runs_once(tiny, pictures):
    image, photo, painting, _ = (np.float32(p) for p in pictures)
    targets = jax.eval_shape(
        lambda p: make_targets(p, photo, [painting], LossWeights(), PAPER), tiny
    )
    lowered = jax.jit(evaluate, static_argnums=4).lower(image, tiny, targets, LossWeights(), PAPER)
    assert lowered.as_text().count("stablehlo.convolution") == 4


def test_photorealism(x64, tiny, pictures):
    image, photo, painting, _ = pictures
    config = dataclasses.replace(PAPER, photorealism=True)
    weights = LossWeights(content=ALPHA, style=BETA, photorealism=7.0)
    value, terms, gradient = run(image, tiny, photo, [painting], weights, config)
    without, none, before = run(
        image, tiny, photo, [painting], weights._replace(photorealism=0.0), PAPER
    )
    laplacian = reference.matting_laplacian(photo, matting.EPSILON)
    assert_allclose(terms.photorealism, 7 * reference.matting(image, laplacian) / 72, rtol=1e-9)
    assert none.photorealism == 0
    assert_allclose(value - without, terms.photorealism, rtol=0, atol=1e-11 * float(value))
    expected = 7 * reference.matting_gradient(image, laplacian) / 72
    rounding = 1e-11 * np.abs(before).max()
    assert_allclose(gradient - before, expected, rtol=0, atol=rounding + 1e-9)


def test_without_photorealism_nothing_is_kept_for_it(tiny, pictures):
    _, photo, painting, _ = (np.float32(p) for p in pictures)
    targets = jax.eval_shape(
        lambda p: make_targets(p, photo, [painting], LossWeights(), PAPER), tiny
    )
    assert targets.windows is None


def test_a_tile_is_compared_with_what_is_none(x64, tiny, pictures):
    """The picture goes on from its other side, the photo and paintings do not."""
    photo, painting = pictures[0][:8], pictures[2]
    circular, replicating = (
        dataclasses.replace(PAPER, padding=padding) for padding in ("circular", "replicate-all")
    )
    weights = LossWeights(content=ALPHA, style=BETA, tv=10.0)
    targets = make_targets(tiny, photo, [painting], weights, circular)
    expected = make_targets(tiny, photo, [painting], weights, replicating)
    jax.tree.map(assert_array_equal, targets, expected)
    value, terms = evaluate(photo, tiny, targets, weights, circular)
    rolled, _ = evaluate(np.roll(photo, (4, -4), (0, 1)), tiny, targets, weights, circular)
    assert min(terms.content["relu2_2"], terms.tv) > 0
    without_content = weights._replace(content=0.0)
    moved = (photo, np.roll(photo, (4, -4), (0, 1)))  # relu3_1's stride
    still = [float(evaluate(p, tiny, targets, without_content, circular)[0]) for p in moved]
    assert_allclose(still[0], still[1], rtol=1e-12)
    assert rolled != value


def test_patches_of_a_tile_know_no_border(x64, tiny, pictures):
    """Moved by the network's stride a tile is the same tile, for the patches of every layer too."""
    photo, painting = pictures[0][:8], pictures[2]
    patches = statistics.RELATIVE_PATCHES
    values, weights = {}, LossWeights(content=0.0, style=BETA)
    for padding in ("circular", "replicate-all"):
        config = dataclasses.replace(PAPER, padding=padding, style_statistic=patches)
        targets = jax.jit(partial(make_targets, config=config))(tiny, photo, [painting], weights)
        loss = jax.jit(lambda p, t, c=config: evaluate(p, tiny, t, weights, c)[0])
        moved = (photo, np.roll(photo, (4, -4), (0, 1)))  # relu3_1's stride
        values[padding] = [float(loss(p, targets)) for p in moved]
    assert_allclose(*values["circular"], rtol=1e-12)
    first, second = values["replicate-all"]
    assert abs(first - second) > 1e-3 * first


def test_the_photo_is_not_looked_at_without_content_layers(tiny, pictures):
    _, photo, painting, _ = (np.float32(p) for p in pictures)

    def convolutions(config, styles):
        traced = jax.jit(lambda p: make_targets(p, photo, styles, LossWeights(), config))
        return traced.lower(tiny).as_text().count("stablehlo.convolution")

    assert convolutions(Config(content_layers=(), style_layers=STYLE), [painting]) == 4
    assert convolutions(Config(content_layers=CONTENT, style_layers=()), []) == 3


# The gradient

VARIANTS = {
    "paper": PAPER,
    "max pooling": Config(
        content_layers=("pool1", "conv2_2"), style_layers=STYLE, pool=layers.max_pool
    ),
    "relative": Config(
        content_layers=CONTENT,
        style_layers=("conv1_1", "pool2", "relu3_1"),
        content_loss=losses.content_loss_relative,
        style_statistic=statistics.RELATIVE_GRAM,
    ),
    "a tile": Config(content_layers=CONTENT, style_layers=STYLE, padding="circular"),
    "a statistic for each layer": Config(
        content_layers=CONTENT,
        style_layers=STYLE,
        style_statistic=(
            ("relu1_1", statistics.RELATIVE_SLICED),
            ("relu3_1", statistics.RELATIVE_PATCHES),
            ("relu2_1", statistics.mixed((statistics.MEAN_STD, 1e-4), (statistics.GRAM, 1e-9))),
        ),
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_against_differences(rng, x64, tiny, pictures, variant):
    image, photo, *paintings = pictures
    config = VARIANTS[variant]
    weights = LossWeights(content=ALPHA, style=BETA, tv=10.0)
    found = np.asarray(run(image, tiny, photo, paintings, weights, config)[2])

    def value(x):
        return run(x, tiny, photo, paintings, weights, config)[0]

    for _ in range(3):
        direction = rng.normal(size=image.shape)
        slope = float(np.sum(found * direction))
        # h = 1e-6: rounding errs by 1e-16 / h = 1e-10 of the value, the next order by h^2, and a
        # ReLU that switches between the two points by its share of h: 1e-6 is safe.
        difference = reference.finite_difference(value, image, direction, 1e-6)
        assert_allclose(slope, difference, rtol=1e-6)


def test_rest(tiny, pictures):
    """Where the picture is the photo and the painting, nothing pulls."""
    image = np.float32(pictures[0])
    value, _, gradient = run(image, tiny, image, [image], LossWeights(), PAPER)
    far, _, pull = run(image[::-1], tiny, image, [image], LossWeights(), PAPER)
    # The Gram matrices of picture and painting may be summed in another order: 1e-6 of each.
    assert value < 1e-10 * far
    assert np.linalg.norm(gradient) < 1e-5 * np.linalg.norm(pull)


PLAIN_PICTURES = {
    "black": np.zeros((9, 8, 3), np.float32),
    "flat": np.full((9, 8, 3), 0.4, np.float32),
    "white": np.ones((9, 8, 3), np.float32),
    "beyond white": np.full((9, 8, 3), 2.0, np.float32),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("there", ["black", "white"])
def test_gradients_are_finite_on_plain_pictures(tiny, variant, there):
    config, weights = VARIANTS[variant], LossWeights(tv=1.0)
    plain = PLAIN_PICTURES[there]
    for name, image in PLAIN_PICTURES.items():
        value, _, gradient = run(image, tiny, plain, [plain], weights, config)
        assert np.isfinite(value), name
        assert np.all(np.isfinite(gradient)), name


def test_a_silent_network_has_finite_gradients(tiny, pictures):
    """No filter fires anywhere: all features and targets are zero, and so is every pull."""
    silent = {
        layer: {n: -np.abs(a) * (n == "bias") for n, a in arrays.items()}
        for layer, arrays in tiny.items()
    }
    image, photo = np.float32(pictures[0]), np.float32(pictures[1])
    relative = dataclasses.replace(PAPER, style_statistic=statistics.RELATIVE_GRAM)
    relative = dataclasses.replace(relative, content_loss=losses.content_loss_relative)
    for config in (PAPER, relative):
        value, _, gradient = run(image, silent, photo, [photo], LossWeights(), config)
        assert value == 0
        assert_array_equal(gradient, np.zeros_like(image))


# Compilation and transformations


def test_other_weights_do_not_trace_again(tiny, pictures):
    image, photo, *paintings = (np.float32(p) for p in pictures)
    traces = []

    @partial(jax.jit, static_argnames="config")
    def counted(*args, config):
        traces.append(config)
        return run(*args, config)[0]

    values = []
    for number in (1.0, 2.0, 5.0):
        weights = LossWeights(
            content=number,
            style=number / 2,
            tv=number,
            content_layers={"relu2_2": number},
            style_layers=dict.fromkeys(STYLE, number),
            styles=(1.0, number),
        )
        # An equal config that is another object must find the same program.
        config = Config(content_layers=CONTENT, style_layers=STYLE)
        values.append(float(counted(image, tiny, photo, paintings, weights, config=config)))
    assert len(traces) == 1
    assert len(set(values)) == 3


def test_vmap_over_pictures_and_weights(tiny, pictures):
    image, photo, painting, _ = (np.float32(p) for p in pictures)
    targets = jax.jit(make_targets, static_argnums=4)(tiny, photo, [painting], LossWeights(), PAPER)
    batch, alphas = np.stack([image, photo, image[::-1]]), np.float32([1.0, 2.0, 1e3])

    def value(image, alpha):
        return evaluate(image, tiny, targets, LossWeights(content=alpha, style=1e-3), PAPER)[0]

    found = jax.jit(jax.vmap(value))(batch, alphas)
    single = [jax.jit(value)(*pair) for pair in zip(batch, alphas, strict=True)]
    # Float32 sums in another order.
    assert_allclose(found, single, rtol=1e-5)


def test_float32_stays_float32_under_x64(x64, tiny, pictures):
    image, photo, *paintings = (jnp.asarray(p, np.float32) for p in pictures)
    for config in VARIANTS.values():
        weights = LossWeights(tv=1.0, styles=(1.0, 2.0))
        targets = jax.eval_shape(
            lambda *images, w=weights, c=config: make_targets(tiny, images[0], images[1:], w, c),
            *(photo, *paintings),
        )
        found = run.eval_shape(image, tiny, photo, paintings, weights, config)
        for leaf in jax.tree.leaves((targets, found)):
            assert leaf.dtype == np.float32


# Errors

BAD_WEIGHTS = {
    "another content layer": (
        LossWeights(content_layers={"relu4_2": 1.0}),
        ["content_layers", "relu4_2", "relu2_2"],
    ),
    "a layer forgotten": (
        LossWeights(style_layers={"relu1_1": 1.0, "relu2_1": 1.0}),
        ["style_layers", "relu1_1, relu2_1;", "relu3_1"],
    ),
    "a layer too many": (
        LossWeights(content_layers={"relu2_2": 1.0, "relu1_1": 1.0}),
        ["content_layers", "relu2_2, relu1_1;"],
    ),
    "no layers": (LossWeights(style_layers={}), ["style_layers", "nothing", "relu1_1"]),
    "too many styles": (LossWeights(styles=(1.0, 1.0, 1.0)), ["styles", "3 numbers", "2 styles"]),
    "too few styles": (LossWeights(styles=[1.0]), ["styles", "1 number", "2 styles"]),
    "too long an array": (LossWeights(styles=jnp.ones(3)), ["styles", "2 styles"]),
    "a matrix of styles": (LossWeights(styles=jnp.ones((2, 2))), ["styles", "2 styles"]),
    "one number for all styles": (LossWeights(styles=1.0), ["styles", "2 styles"]),
    "no style at all": (LossWeights(styles=(0.0, 0.0)), ["styles", "0", "give one"]),
    "a negative number": (LossWeights(style=-1.5), ["-1.5", "not negative"]),
    "an array with a negative": (LossWeights(tv=jnp.array(-2.5)), ["-2.5", "not negative"]),
    "not a number": (LossWeights(content=float("nan")), ["nan", "finite"]),
    "infinite": (LossWeights(tv=float("inf")), ["inf", "finite"]),
    "a negative layer": (
        LossWeights(content_layers={"relu2_2": -3.5}),
        ["-3.5", "not negative"],
    ),
    "photorealism without its term": (
        LossWeights(photorealism=3.5),
        ["3.5", "config.photorealism is False", "Config(photorealism=True)"],
    ),
    "a negative style": (LossWeights(styles=(2.0, -1.0)), ["-1.0", "not negative"]),
}


@pytest.mark.parametrize("fault", BAD_WEIGHTS)
def test_check_loss_weights(fault):
    loss_weights, words = BAD_WEIGHTS[fault]
    with pytest.raises(ValueError) as error:
        check_loss_weights(loss_weights, PAPER, 2)
    for word in words:
        assert word in str(error.value)


def test_check_loss_weights_accepts_what_works():
    shares = dict.fromkeys(STYLE, 1)
    for good in (
        LossWeights(),
        LossWeights(content=0, style=0, tv=0),
        LossWeights(style_layers=shares, content_layers={"relu2_2": jnp.ones(())}),
        LossWeights(styles=(0, 1)),
        LossWeights(styles=[np.float32(1), 2.0]),
        LossWeights(styles=jnp.array([0.0, 1.0])),
        LossWeights(styles=(jnp.ones(()), 2.0)),
    ):
        check_loss_weights(good, PAPER, 2)


def test_check_loss_weights_reads_no_traced_values():
    def check(number, styles):
        for given in (styles, (styles[0], styles[1]), (number, 1.0)):
            check_loss_weights(LossWeights(content=number, styles=given), PAPER, 2)
        with pytest.raises(ValueError, match="2 styles"):
            check_loss_weights(LossWeights(styles=(number,)), PAPER, 2)
        return number

    jax.jit(check)(-1.0, jnp.ones(2))
    jax.vmap(check)(-jnp.ones(3), jnp.ones((3, 2)))


# The real network


# One with average pooling, one with maximum, and the paper's; the others are like one of them.
SOME = ("default", "gatys2015", "neural-style")


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset", [pytest.param(p, marks=() if p in SOME else pytest.mark.long) for p in PRESETS]
)
def test_float32_gradient_of_the_real_network(shared, real_params, preset):
    """Float32 throughout gives the gradient that float64 gives."""
    config, loss_weights = PRESETS[preset].config, PRESETS[preset].loss_weights
    # Maximum pooling switches where two numbers are within rounding, and the gradient jumps; what
    # is measured here is rounding.
    config = dataclasses.replace(config, pool=layers.average_pool)
    params = presets.prepare(PRESETS[preset], real_params)
    photo = images.load(shared / "images" / "content" / "golden_gate.jpg").image
    painting = images.load(shared / "images" / "style" / "starry_night.jpg").image
    photo, painting = images.resize(photo, 64, 64), images.resize(painting, 64, 80)
    noise = jax.random.uniform(jax.random.key(0), photo.shape)
    image, photo, painting = map(np.asarray, (0.5 * photo + 0.5 * noise, photo, painting))
    single = np.asarray(run(image, params, photo, [painting], loss_weights, config)[2])
    with jax.enable_x64(True):
        image, photo, painting = (a.astype(np.float64) for a in (image, photo, painting))
        double = np.asarray(run(image, params, photo, [painting], loss_weights, config)[2])
    assert single.dtype == np.float32
    assert double.dtype == np.float64
    # Thirteen layers of sums of up to 4608 terms, each rounded to 6e-8, and back: about 4e-7.
    assert np.linalg.norm(single - double) < 1e-5 * np.linalg.norm(double)
