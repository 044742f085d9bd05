"""Colours: spaces, matching, chroma; each against the oracle and what the mathematics promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.linalg
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from stylejax import (
    Adam,
    Architecture,
    Colour,
    Config,
    Guides,
    JaxoptLbfgsb,
    LossWeights,
    canvas,
    colour,
    guides,
    images,
    iterate,
    random_params,
    scale,
    stylize,
)
from stylejax.colour import modes, spaces

SPACES = {"srgb": colour.SRGB, "linear": colour.LINEAR, "oklab": colour.OKLAB}
LINEAR_MATCHES = {
    "cholesky": colour.CHOLESKY,
    "pca": colour.PCA,
    "symmetric": colour.SYMMETRIC,
}
MATCHES = {**LINEAR_MATCHES, "histogram": colour.HISTOGRAM}
MODES = {**MATCHES, "luminance": colour.LUMINANCE, "chroma": colour.CHROMA}

in_every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
# The linear matches differ in one small function, so what takes long is tried on one of them.
some_modes = pytest.mark.parametrize(
    "mode",
    [colour.SYMMETRIC, colour.LUMINANCE, colour.CHROMA],
    ids=["match", "luminance", "chroma"],
)
in_every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
# Each mode in one space and each space in two modes; the other pairs are long.
in_every_pair = pytest.mark.parametrize(
    ("mode", "space"),
    [
        pytest.param(
            MODES[mode],
            SPACES[space],
            id=f"{space}-{mode}",
            marks=() if (i - j) % len(SPACES) == 0 else pytest.mark.long,
        )
        for i, mode in enumerate(MODES)
        for j, space in enumerate(SPACES)
    ],
)


@pytest.fixture(autouse=True)
def quickly(quick_compilation):
    """Compiling takes longer than running here."""


def painting(seed, height=24, width=18):
    """Colours that vary together, within [0, 1], in both halves of the range."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(height, width, 3)) @ (rng.normal(size=(3, 3)) * 0.1)
    return np.clip(0.5 + mixed, 0.02, 0.98).astype(np.float32)


PHOTO, STYLE, OTHER = painting(1, 20, 27), painting(2), painting(3)
# Of which a half has more pixels than histograms have knots.
LARGE_PHOTO, LARGE_STYLE = painting(1, 42, 54), painting(2, 50, 46)


def seen(mode, content, style, **settings):
    """The painting as the network shall see it."""
    return colour.prepare(Colour(mode, **settings), content, [style], None)[1][0]


# Spaces


def test_srgb_is_that_of_the_standard(x64):
    levels = np.linspace(0, 1, 1001)
    expected = [reference.srgb_to_linear(level) for level in levels]
    assert_allclose(spaces.to_linear(jnp.asarray(levels)), expected, rtol=1e-12)


def test_oklab_has_published_values(x64):
    """CSS Color 4's coordinates of the primaries, and the oracle's, by way of XYZ."""
    published = {
        (1, 1, 1): (1, 0, 0),
        (0, 0, 0): (0, 0, 0),
        (1, 0, 0): (0.62796, 0.22486, 0.12585),
        (0, 1, 0): (0.86644, -0.23389, 0.17950),
        (0, 0, 1): (0.45201, -0.03246, -0.31153),
    }
    for rgb, lab in published.items():
        assert_allclose(spaces.to_oklab(jnp.asarray(rgb, float)), lab, atol=2e-5)
    for rgb in PHOTO.reshape(-1, 3)[:100]:
        assert_allclose(spaces.to_oklab(jnp.asarray(rgb, float)), reference.oklab(rgb), atol=3e-4)


@in_every_space
def test_round_trips(space, x64):
    """Also of colours outside [0, 1], and around black."""
    rng = np.random.default_rng(0)
    for size in (1, 1e-2, 1e-4, 1e-6):
        values = jnp.asarray(rng.uniform(-0.5, 1.5, (500, 3)) * size)
        assert_allclose(space.decode(space.encode(values)), values, atol=1e-12)


@pytest.mark.rounding
@in_every_space
def test_round_trips_in_single_precision(space):
    values = jnp.asarray(np.random.default_rng(0).uniform(-0.5, 1.5, (5000, 3)), jnp.float32)
    # Where a channel is near black beside bright ones, sRGB is 12.9 times as steep as light.
    tolerance = 4e-5 if space is colour.OKLAB else 1e-6
    assert_allclose(space.decode(space.encode(values)), values, atol=tolerance)
    positive = jnp.asarray(PHOTO)
    tolerance = 1e-5 if space is colour.OKLAB else 1e-6
    assert_allclose(space.decode(space.encode(positive)), positive, atol=tolerance)


@in_every_space
def test_greys_have_no_chroma_and_lightness_rises(space, x64):
    levels = np.concatenate([np.linspace(-0.1, 1.1, 400), np.linspace(-1e-3, 1e-3, 400)])
    levels = np.sort(levels)
    values = space.encode(jnp.asarray(np.repeat(levels[:, None], 3, 1)))
    light, chroma = spaces.parts(values, space)
    assert_allclose(chroma, 0, atol=1e-7)
    assert np.all(np.diff(light[:, 0]) > 0)
    white = space.encode(jnp.ones(3))
    assert_allclose(white, space.grey, atol=1e-7)
    assert_allclose(np.dot(white, space.weights), 1, atol=1e-7)


@in_every_space
def test_gradients_of_spaces(space, x64):
    """Finite everywhere, at black first of all; elsewhere those of finite differences."""
    rng = np.random.default_rng(0)
    for function in (space.encode, space.decode):
        compiled, jacobian = jax.jit(function), jax.jit(jax.jacobian(function))
        for value in (0.0, -0.0, 1e-12, -1e-12, 1.0, -1.0, 2.0, 0.04045, 0.0031308):
            slopes = jacobian(jnp.full(3, value))
            assert np.all(np.isfinite(slopes)) and np.abs(slopes).max() < 1e4
        for _ in range(5):
            point, direction = rng.uniform(0.1, 0.9, 3), rng.normal(size=3)
            coordinates = point if function is space.encode else np.asarray(space.encode(point))
            along = jax.jvp(function, (jnp.asarray(coordinates),), (jnp.asarray(direction),))[1]
            for c in range(3):
                slope = reference.finite_difference(
                    lambda x, c=c, f=compiled: f(jnp.asarray(x))[c], coordinates, direction
                )
                assert_allclose(along[c], slope, rtol=1e-6, atol=1e-8)


# Linear matching


@in_every_space
@pytest.mark.parametrize("mode", LINEAR_MATCHES.values(), ids=LINEAR_MATCHES)
def test_matching_gives_mean_and_covariance(mode, space):
    values, wanted = space.encode(jnp.asarray(STYLE)), space.encode(jnp.asarray(PHOTO))
    mean, covariance = reference.colour_moments(mode.style(values, wanted, space, 1.0, modes.ALL))
    expected_mean, expected = reference.colour_moments(wanted)
    assert_allclose(mean, expected_mean, atol=1e-5)
    assert_allclose(covariance, expected, atol=1e-5)


@pytest.mark.parametrize("kind", LINEAR_MATCHES)
def test_matching_is_the_oracles(kind, x64):
    values, wanted = np.float64(STYLE), np.float64(PHOTO)
    a = reference.colour_map(values, wanted, kind)
    expected = (values - values.mean((0, 1))) @ a.T + wanted.mean((0, 1))
    for strength in (1.0, 0.3):
        found = LINEAR_MATCHES[kind].style(
            jnp.asarray(values), jnp.asarray(wanted), colour.SRGB, strength, modes.ALL
        )
        straight = (1 - strength) * values + strength * expected
        assert_allclose(found, straight, atol=1e-8)


def test_the_symmetric_map_moves_colours_the_least():
    def way(mode):
        moved = mode.style(jnp.asarray(STYLE), jnp.asarray(PHOTO), colour.SRGB, 1.0, modes.ALL)
        return float(jnp.square(moved - STYLE).sum())

    assert way(colour.SYMMETRIC) < min(way(colour.CHOLESKY), way(colour.PCA))


@pytest.mark.parametrize("mode", MATCHES.values(), ids=MATCHES)
def test_a_painting_of_the_photos_colours_stays(mode):
    """Its pixels in another order: nothing is to be done."""
    shuffled = np.random.default_rng(0).permutation(PHOTO.reshape(-1, 3)).reshape(PHOTO.shape)
    assert_allclose(seen(mode, PHOTO, shuffled), shuffled, atol=1e-4)


def spd(rng, values):
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return (q * np.array(values)) @ q.T


def test_root_against_scipy(rng, x64):
    matrix = spd(rng, [0.01, 0.2, 3])
    assert_allclose(
        modes.square_root(jnp.asarray(matrix), 0.0), scipy.linalg.sqrtm(matrix), rtol=1e-9
    )
    raised = spd(np.random.default_rng(1), [1e-9, 0.2, 3])
    values = np.linalg.eigvalsh(modes.square_root(jnp.asarray(raised), 1e-4))
    assert_allclose(values, np.sqrt([1e-4, 0.2, 3]), rtol=1e-9)


@pytest.mark.parametrize(
    "values",
    [(0.01, 0.2, 3), (1e-6, 0.2, 3), (1e-6, 1e-7, 3), (0.2, 0.2, 3), (0.2, 0.2, 0.2)],
    ids=str,
)
def test_root_has_the_right_slope(values, rng, x64):
    """Also where eigenvalues are raised, and where they are equal."""
    matrix, direction = spd(rng, values), rng.normal(size=(3, 3))
    direction = direction + direction.T
    root = lambda m: modes.square_root(m, 1e-4)  # noqa: E731
    slope = jax.jvp(root, (jnp.asarray(matrix),), (jnp.asarray(direction),))[1]
    step = 1e-7
    moved = [root(jnp.asarray(matrix + sign * step * direction)) for sign in (1, -1)]
    assert_allclose(slope, (moved[0] - moved[1]) / (2 * step), rtol=1e-5, atol=1e-6)


def test_root_of_nothing_has_a_finite_slope():
    for matrix in (np.zeros((3, 3)), np.eye(3) * 1e-5, np.diag([1.0, 0, 0])):
        for least in (1e-5, 1e-7):
            slopes = jax.jacobian(modes.square_root)(jnp.asarray(matrix, jnp.float32), least)
            assert np.all(np.isfinite(slopes))


@pytest.mark.parametrize("mode", MATCHES.values(), ids=MATCHES)
def test_rounding_is_not_blown_up_to_colours(mode):
    """A grey painting with the noise of 8 bits: of the photo's chroma it gets a bounded part."""
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.uniform(0.3, 1, (40, 40, 1)), 3, 2)
    noise = 1 / 255 / 12**0.5
    noisy = grey + rng.normal(0, noise, grey.shape)
    space = colour.OKLAB
    wanted = space.encode(jnp.asarray(PHOTO))
    # What varies with lightness may well have the photo's chroma; what differs is the noise.
    matched = [
        mode.style(space.encode(jnp.asarray(a, jnp.float32)), wanted, space, 1.0, modes.ALL)
        for a in (grey, noisy)
    ]
    chroma = jnp.std((matched[1] - matched[0])[..., 1:], axis=(0, 1))
    assert np.all(chroma < 0.35 * jnp.std(wanted[..., 1:], axis=(0, 1)))


# Histogram


def test_histogram_is_the_oracles(x64):
    # Rounded, so that many values are equal.
    style, photo = np.round(np.float64(STYLE), 1), np.float64(OTHER)
    found = colour.HISTOGRAM.style(
        jnp.asarray(style), jnp.asarray(photo), colour.SRGB, 1.0, modes.ALL
    )
    for c in range(3):
        expected = reference.match_histogram(style[..., c].ravel(), photo[..., c].ravel())
        assert_allclose(found[..., c].ravel(), expected, atol=1e-9)


def test_histogram_of_an_image_of_the_same_size_is_the_photos():
    style, photo = np.random.default_rng(0).random(PHOTO.shape, np.float32), PHOTO
    found = colour.HISTOGRAM.style(
        jnp.asarray(style), jnp.asarray(photo), colour.SRGB, 1.0, modes.ALL
    )
    for c in range(3):
        assert_allclose(np.sort(found[..., c].ravel()), np.sort(photo[..., c].ravel()), atol=1e-5)
        order = np.argsort(style[..., c].ravel(), kind="stable")
        assert np.all(np.diff(found[..., c].ravel()[order]) >= -1e-6), "not monotone"


@in_every_space
def test_quantiles_are_the_photos(space):
    """Of images with more pixels than knots, of different sizes."""
    style, photo = painting(6, 60, 50), painting(7, 70, 40)
    values, wanted = space.encode(jnp.asarray(style)), space.encode(jnp.asarray(photo))
    found = np.asarray(colour.HISTOGRAM.style(values, wanted, space, 1.0, modes.ALL))
    shares = np.linspace(0.01, 0.99, 50)
    for c in range(3):
        assert_allclose(
            np.quantile(found[..., c], shares), np.quantile(wanted[..., c], shares), atol=2e-3
        )


def test_one_colour_gets_the_medians():
    flat = jnp.full((9, 9, 3), 0.3)
    found = colour.HISTOGRAM.style(flat, jnp.asarray(PHOTO), colour.SRGB, 1.0, modes.ALL)
    assert_allclose(found, np.broadcast_to(np.median(PHOTO, (0, 1)), found.shape), atol=1e-4)


# Lightness and chroma


@in_every_space
def test_luminance_has_the_photos_mean_and_deviation_and_no_chroma(space):
    values, wanted = space.encode(jnp.asarray(STYLE)), space.encode(jnp.asarray(PHOTO))
    found = colour.LUMINANCE.style(values, wanted, space, 1.0, modes.ALL)
    light, chroma = spaces.parts(found, space)
    expected, _ = spaces.parts(wanted, space)
    assert_allclose([light.mean(), light.std()], [expected.mean(), expected.std()], rtol=1e-4)
    assert_allclose(chroma, 0, atol=1e-6)
    photo = colour.prepare(Colour(colour.LUMINANCE, space), PHOTO, [], OTHER)
    for image in (photo[0], photo[2]):
        assert_allclose(image.max(-1), image.min(-1), atol=1e-5)
    assert_allclose(spaces.parts(space.encode(photo[0]), space)[0], expected, atol=1e-5)


@in_every_space
@pytest.mark.parametrize("mode", [colour.LUMINANCE, colour.CHROMA], ids=["luminance", "chroma"])
def test_the_end_has_the_pictures_lightness_and_the_photos_chroma(mode, space, x64):
    """Of muted colours, so that all of them exist."""
    picture, photo = 0.5 + 0.2 * (np.float64(painting(8, 20, 27)) - 0.5), np.float64(PHOTO)
    photo = 0.5 + 0.2 * (photo - 0.5)
    found = colour.finish(Colour(mode, space), picture, photo)
    light, chroma = spaces.parts(space.encode(found), space)
    assert_allclose(light, spaces.parts(space.encode(jnp.asarray(picture)), space)[0], atol=1e-9)
    assert_allclose(chroma, spaces.parts(space.encode(jnp.asarray(photo)), space)[1], atol=1e-9)


def test_chroma_in_srgb_is_neural_styles():
    """Which takes Y from the picture and Cb, Cr from the photo."""
    levels = np.random.default_rng(0).integers(90, 160, (2, 16, 16, 3)).astype(np.uint8)
    picture, photo = (Image.fromarray(a).convert("YCbCr").split() for a in levels)
    expected = np.asarray(Image.merge("YCbCr", [picture[0], *photo[1:]]).convert("RGB"))
    units = levels.astype(np.float32) / 255
    found = colour.finish(Colour(colour.CHROMA, colour.SRGB), units[0], units[1])
    assert np.abs(np.asarray(found) * 255 - expected).max() < 4  # its levels are rounded thrice


@in_every_space
def test_colours_that_do_not_exist_keep_their_lightness(space):
    """Strong chroma on a light and a dark picture: no channel is clipped by itself."""
    rng = np.random.default_rng(0)
    photo = (rng.random((8, 8, 3)) > 0.5).astype(np.float32)
    for level in (0.05, 0.3, 0.7, 0.95):
        grey = np.full_like(photo, level)
        found = np.asarray(colour.finish(Colour(colour.CHROMA, space), grey, photo))
        assert found.min() >= 0 and found.max() <= 1
        light, _ = spaces.parts(space.encode(found), space)
        wanted, _ = spaces.parts(space.encode(jnp.asarray(grey)), space)
        # The way to grey is straight in sRGB, where only luma stays what it is.
        tolerance = 1e-5 if space is colour.SRGB else 0.15
        assert_allclose(light, wanted, atol=tolerance)


@in_every_pair
def test_values_outside_stay_finite(mode, space):
    wild = np.random.default_rng(0).uniform(-1, 2, (6, 7, 3)).astype(np.float32)
    choice = Colour(mode, space)
    for content, style in ((wild, STYLE), (PHOTO, wild), (wild, wild)):
        made = colour.prepare(choice, content, [style], wild)
        assert all(np.all(np.isfinite(image)) for image in jax.tree.leaves(made))
        assert np.all(np.isfinite(colour.finish(choice, wild, content)))


# Strength


@in_every_mode
def test_no_strength_is_the_identity(mode):
    none = Colour(mode, strength=0.0)
    content, (style,), start = colour.prepare(none, PHOTO, [STYLE], OTHER)
    assert content is PHOTO and style is STYLE and start is OTHER
    assert colour.finish(none, STYLE, PHOTO) is STYLE
    assert colour.prepare(None, PHOTO, [STYLE], None) == (PHOTO, (STYLE,), None)
    assert colour.finish(None, STYLE, PHOTO) is STYLE


@in_every_mode
def test_strength_goes_all_the_way(mode):
    """A little of it does little; the more, the further."""
    ways = []
    for strength in (1e-4, 0.5, 1.0):
        choice = Colour(mode, strength=strength)
        _, (style,), _ = colour.prepare(choice, PHOTO, [STYLE], None)
        resized = images.resize(style, *PHOTO.shape[:2])
        end = np.asarray(colour.finish(choice, resized, PHOTO))
        ways.append(np.abs(end - images.resize(STYLE, *PHOTO.shape[:2])).mean())
    assert ways[0] < 1e-3 and np.all(np.diff(ways) > 0)


def test_strength_of_luminance_shares_the_chroma(x64):
    """What fades before the optimisation and what fades after it are 1 - s together."""
    space, photo, picture = colour.SRGB, jnp.float64(PHOTO), jnp.float64(painting(8, 20, 27))
    faded = colour.LUMINANCE.photo(picture, space, 0.3)
    end = colour.LUMINANCE.finish(faded, photo, space, 0.3)
    chroma = [spaces.parts(x, space)[1] for x in (end, picture, photo)]
    assert_allclose(chroma[0], 0.7 * chroma[1] + 0.3 * chroma[2], atol=1e-12)


# Where what counts


def half(shape, axis, first):
    """1 in the first or the second half of an image, else 0."""
    middle, mask = shape[axis] // 2, np.zeros(shape[:2], np.float32)
    mask[(slice(None),) * axis + (slice(middle) if first else slice(middle, None),)] = 1
    return mask


@in_every_space
@pytest.mark.parametrize("name", [*MATCHES, "luminance"])
def test_what_does_not_count_does_not_matter(name, space, x64):
    """As if the images were what counts of them; the rest of the painting follows the same map."""
    mode = MODES[name]
    images = (LARGE_STYLE, LARGE_PHOTO) if name == "histogram" else (STYLE, PHOTO)
    values, wanted = (space.encode(jnp.asarray(image, float)) for image in images)
    counted = modes.Counted(half(values.shape, 0, True), half(wanted.shape, 1, False))
    match = jax.jit(lambda *given: mode.style(given[0], given[1], space, 0.8, *given[2:]))
    found = match(values, wanted, counted)
    middle, side = values.shape[0] // 2, wanted.shape[1] // 2
    expected = match(values[:middle], wanted[:, side:], modes.ALL)
    assert_allclose(found[:middle], expected, atol=1e-9)
    assert np.all(np.isfinite(found))


@in_every_space
@pytest.mark.parametrize("name", [*LINEAR_MATCHES, "luminance"])
def test_a_weight_is_how_often_a_pixel_is_there(name, space, rng, x64):
    mode = MODES[name]
    values, wanted = (space.encode(jnp.asarray(i, float)) for i in (STYLE, PHOTO))
    counted = modes.Counted(*(rng.integers(0, 4, v.shape[:2]) for v in (values, wanted)))
    pixels = [
        jnp.repeat(v.reshape(1, -1, 3), w.ravel(), axis=1)
        for v, w in zip((values, wanted), counted, strict=True)
    ]
    found = mode.style(values, wanted, space, 1.0, counted).reshape(-1, 3)
    expected = mode.style(*pixels, space, 1.0, modes.ALL)[0]
    assert_allclose(jnp.repeat(found, counted.style.ravel(), axis=0), expected, atol=1e-9)


def test_weighted_quantiles_are_those_of_the_share_below(rng):
    """Where the rank is a sum of weights: NumPy's for whole numbers, and halves of them."""
    x, weight = rng.normal(size=(40, 50)), rng.integers(0, 4, (40, 50))
    many = np.repeat(x.ravel(), weight.ravel())
    expected = np.quantile(many, np.linspace(0, 1, 33))
    for factor in (1, 0.5):
        found = modes._quantiles(jnp.asarray(x, jnp.float32), jnp.asarray(factor * weight), 33)
        assert_allclose(found, expected, atol=5e-3)
        assert_allclose(found[0], many.min(), rtol=1e-6)
        assert_allclose(found[-1], many.max(), rtol=1e-6)


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_wrong_strengths_are_refused(strength):
    with pytest.raises(ValueError, match=r"strength is .* from 0 .* to 1"):
        Colour(colour.CHROMA, strength=strength)


# Images that have little to match


@in_every_pair
def test_flat_grey_and_tiny_images(mode, space):
    choice = Colour(mode, space)
    black, white, one = np.zeros_like(STYLE), np.ones_like(STYLE), PHOTO[:1, :1]
    grey = np.repeat(PHOTO[..., :1], 3, 2)
    flat = np.broadcast_to(np.float32([0.8, 0.3, 0.1]), STYLE.shape)
    for content in (PHOTO, grey, black, white, flat, one):
        for style in (STYLE, grey, black, white, flat, one):
            _, (found,), _ = colour.prepare(choice, content, [style], None)
            end = np.asarray(colour.finish(choice, images.resize(found, 5, 6), content))
            assert np.all(np.isfinite(end)) and end.min() >= 0 and end.max() <= 1
            if content is grey and (mode is not colour.HISTOGRAM or space is colour.OKLAB):
                # Of red, green and blue the quantiles alone are matched, not that they agree.
                assert np.ptp(end, axis=-1).max() < 5e-3
            if style is flat and mode in LINEAR_MATCHES.values():
                mean = space.decode(space.encode(jnp.asarray(content)).mean((0, 1)))
                assert_allclose(found, np.broadcast_to(mean, found.shape), atol=1e-3)


@in_every_mode
def test_slopes_are_finite(mode):
    choice = Colour(mode)

    def total(content, style, picture):
        seen = colour.prepare(choice, content, [style], None)
        ends = [seen[0], seen[1][0], colour.finish(choice, picture, content)]
        return sum(jnp.sum(jnp.square(end)) for end in ends)

    slopes = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    flats = [np.full_like(PHOTO, level) for level in (0.0, 0.5, 1.0)]
    picture = painting(8, 20, 27)
    for content in (PHOTO, *flats):
        for style in (painting(9, 20, 27), *flats):
            for slope in slopes(content, style, picture):
                assert np.all(np.isfinite(slope))


@pytest.mark.rounding
@in_every_mode
def test_vmap_and_jit(mode):
    choice = Colour(mode, strength=0.7)
    photos, styles = np.stack([PHOTO, painting(4, 20, 27)]), np.stack([STYLE, OTHER])

    def whole(content, style):
        made = colour.prepare(choice, content, [style], None)
        return made[:2], colour.finish(choice, images.resize(style, *content.shape[:2]), content)

    batch = jax.jit(jax.vmap(whole))(photos, styles)
    for index in range(2):
        single = whole(photos[index], styles[index])
        for many, one in zip(jax.tree.leaves(batch), jax.tree.leaves(single), strict=True):
            assert_allclose(many[index], one, atol=2e-4)


def test_the_dtype_is_kept():
    half = jnp.asarray(PHOTO, jnp.bfloat16)
    made = colour.prepare(Colour(colour.LUMINANCE), half, [half], half)
    assert {image.dtype for image in jax.tree.leaves(made)} == {jnp.dtype(jnp.bfloat16)}
    assert colour.finish(Colour(colour.CHROMA), half, half).dtype == jnp.bfloat16


# In the whole

TINY = Architecture((1, 2, 1), (4, 6, 8))
LAYERS = {"content_layers": ("relu2_2",), "style_layers": ("relu1_1", "relu2_1", "relu3_1")}
CONFIG = Config(**LAYERS, steps=3, coarse_steps=2, scales=2)
WEIGHTS = LossWeights(content=1.0, style=5.0, tv=0.1)


@pytest.fixture(scope="module")
def params():
    return random_params(jax.random.key(1), TINY)


def run(params, choice, config=CONFIG, function=stylize, styles=(STYLE,), **more):
    config = dataclasses.replace(config, colour=choice)
    return function(params, PHOTO, styles, config=config, loss_weights=WEIGHTS, **more)


@some_modes
def test_the_last_of_iterate_is_stylizes(mode, params):
    choice = Colour(mode)
    whole = run(params, choice)
    parts = list(run(params, choice, function=iterate, every=2))
    assert_array_equal(parts[-1].image, whole.image)
    assert [part.image.shape for part in parts[:2]] == [(14, 19, 3)] * 2
    assert all(np.all(np.isfinite(part.image)) for part in parts)


@pytest.mark.parametrize("mode", MATCHES.values(), ids=MATCHES)
def test_matching_is_a_run_with_matched_paintings(mode, params):
    choice = Colour(mode, strength=0.8)
    found = run(params, choice, styles=(STYLE, OTHER)).image
    by_hand = [seen(mode, PHOTO, style, strength=0.8) for style in (STYLE, OTHER)]
    assert_array_equal(found, run(params, None, styles=by_hand).image)


def of_halves(photo, style):
    """The left of a photo like the lower half of one painting, the right like another."""
    left = half(photo.shape, 1, True)
    part = np.repeat(half(style.shape, 0, False)[..., None], 2, axis=2)
    return Guides(np.stack([left, 1 - left], axis=2), (part, None))


@pytest.mark.parametrize("name", [*MATCHES, "luminance"])
def test_a_region_s_colours_are_those_of_its_place(name, x64):
    photo, style, other = (np.float64(i) for i in (LARGE_PHOTO, LARGE_STYLE, painting(5, 40, 40)))
    where, side, middle = of_halves(photo, style), photo.shape[1] // 2, len(style) // 2
    used = guides.uses(where, np.eye(2), photo.shape, (style.shape, other.shape))
    choice = Colour(MODES[name])
    _, found, _ = colour.prepare(choice, photo, (style, other), None, uses=used)
    first = seen(MODES[name], photo[:, :side], style[middle:])
    assert_allclose(found[0][middle:], first, atol=1e-9)
    assert_allclose(found[1], seen(MODES[name], photo[:, side:], other), atol=1e-9)


@some_modes
def test_a_run_with_regions_is_one_with_their_paintings(mode, params):
    where, choice = of_halves(PHOTO, STYLE), Colour(mode)
    used = guides.uses(where, jnp.eye(2), PHOTO.shape, (STYLE.shape, OTHER.shape))
    photo, styles, _ = colour.prepare(choice, PHOTO, (STYLE, OTHER), None, uses=used)
    whole = run(params, choice, styles=(STYLE, OTHER), guides=where)
    by_hand = stylize(
        params, photo, styles, config=CONFIG, loss_weights=WEIGHTS, guides=where
    ).image
    assert_array_equal(whole.image, colour.finish(choice, by_hand, PHOTO))
    (*_, last) = run(params, choice, styles=(STYLE, OTHER), guides=where, function=iterate)
    assert_array_equal(last.image, whole.image)


def test_content_alone_has_its_own_colours_behind_a_mask_too(params):
    """There is no painting to be used anywhere."""
    settings = {"style_layers": (), "noise": 1.0}
    where = Guides(None, content=half(PHOTO.shape, 1, True))

    def image(choice):
        config = dataclasses.replace(CONFIG, **settings, colour=choice)
        return stylize(params, PHOTO, [], config=config, loss_weights=WEIGHTS, guides=where).image

    assert_array_equal(image(Colour(colour.SYMMETRIC)), image(None))


def test_a_painting_that_is_used_nowhere_has_colours_all_the_same(params):
    where = Guides(np.ones((*PHOTO.shape[:2], 1), np.float32))
    weights = WEIGHTS._replace(styles=(1.0, 0.0))
    for mode in (colour.SYMMETRIC, colour.HISTOGRAM):
        config = dataclasses.replace(CONFIG, colour=Colour(mode))
        given = dict(config=config, loss_weights=weights, guides=where)
        assert np.all(np.isfinite(stylize(params, PHOTO, (STYLE, OTHER), **given).image))


def test_the_pyramid_hands_on_the_picture_without_the_photos_chroma(params):
    """Else the run would be another one, not the same with another end."""
    choice = Colour(colour.CHROMA)
    plain, coloured = run(params, None), run(params, choice)
    assert_array_equal(coloured.image, colour.finish(choice, plain.image, PHOTO))
    assert_array_equal(coloured.history[-1].terms.total, plain.history[-1].terms.total)
    parts = [list(run(params, c, function=iterate, every=2)) for c in (None, choice)]
    for plain, coloured in zip(*parts, strict=True):
        assert_array_equal(coloured.image, colour.finish(choice, plain.image, PHOTO))


def test_luminance_is_a_grey_run_with_the_photos_chroma(params):
    choice = Colour(colour.LUMINANCE)
    content, styles, start = colour.prepare(choice, PHOTO, [STYLE], OTHER)
    grey = stylize(params, content, styles, config=CONFIG, loss_weights=WEIGHTS, init=start)
    expected = colour.finish(choice, grey.image, PHOTO)
    assert_array_equal(run(params, choice, init=OTHER).image, expected)


def test_no_strength_is_the_run_without(params):
    assert_array_equal(
        run(params, Colour(colour.LUMINANCE, strength=0.0)).image, run(params, None).image
    )


def test_other_colours_compile_no_network_anew(params):
    for program in (scale.prepare, scale.run):
        program.clear_cache()
    for choice in (Colour(colour.SYMMETRIC), Colour(colour.PCA, colour.LINEAR, 0.5)):
        run(params, choice)
    assert scale.run._cache_size() == scale.prepare._cache_size() == 2  # scales


@pytest.mark.parametrize(
    "optimizer",
    [Adam(average=0.9), pytest.param(JaxoptLbfgsb(), marks=pytest.mark.long)],
    ids=str,
)
def test_with_other_optimizers_and_canvases(optimizer, params):
    config = dataclasses.replace(CONFIG, optimizer=optimizer, noise=0.3, scales=1)
    for mode in (colour.SYMMETRIC, colour.LUMINANCE):
        image = run(params, Colour(mode), config).image
        assert np.all(np.isfinite(image)) and image.shape == PHOTO.shape
    config = dataclasses.replace(CONFIG, canvas=canvas.PIXELS, scales=1)
    assert np.all(np.isfinite(run(params, Colour(colour.LUMINANCE), config).image))


@some_modes
def test_vmap_and_grad_through_stylize(mode, params):
    config = dataclasses.replace(CONFIG, optimizer=Adam(), scales=1, steps=2, colour=Colour(mode))

    def render(style):
        return stylize(params, PHOTO, [style], config=config, loss_weights=WEIGHTS).image

    batch = jax.jit(jax.vmap(render))(np.stack([STYLE, OTHER]))
    assert_allclose(batch[1], render(OTHER), atol=1e-3)
    slope = jax.grad(lambda style: render(style).sum())(STYLE)
    assert np.all(np.isfinite(slope))


def test_exports_for_cpu_cuda_and_tpu():
    def whole(content, style):
        choice = Colour(colour.SYMMETRIC)
        return colour.prepare(choice, content, [style], None)[1][0]

    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (PHOTO, STYLE)]
    exported = jax.export.export(jax.jit(whole), platforms=("cpu", "cuda", "tpu"))(*shapes)
    assert_allclose(exported.call(PHOTO, STYLE), whole(PHOTO, STYLE), atol=1e-4)
