"""Ways to give a picture the photo's colours, each a `Mode`.

Some (`CHOLESKY`, `PCA`, `SYMMETRIC`, `HISTOGRAM`) give each painting the photo's colours before the
network sees it, `CHROMA` gives the finished picture the photo's chroma, `LUMINANCE` does both.

    Gatys, Bethge, Hertzmann, Shechtman, "Preserving Color in Neural Artistic Style Transfer",
    arXiv:1606.05897, 2016; Gatys, Ecker, Bethge, Hertzmann, Shechtman, "Controlling Perceptual
    Factors in Neural Style Transfer", CVPR 2017, section 5
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stylejax.colour.spaces import Space, grey_of, mapped, parts
from stylejax.losses import at_least_tiny


class Counted(NamedTuple):
    """How often each pixel counts in what is known of an image's colours; None is once each.

    Attributes:
      style: of the painting, ``[h, w]``, not negative, some of it positive.
      photo: of the photo, ``[H, W]``, likewise.
    """

    style: jax.Array | None = None
    photo: jax.Array | None = None


ALL = Counted()


class Mode(NamedTuple):
    """What is done to whom, on coordinates ``[H, W, 3]``; None leaves it as it is.

    Each takes the coordinates, the space and the strength, and is the identity at strength 0.

    Attributes:
      photo: the photo as the network shall see it; of a picture to start from as well.
      style: a painting as the network shall see it, beside the photo; it ends in how often the
        pixels of both count, ``Counted``.
      finish: a picture that leaves, beside the photo.
    """

    photo: Callable[[jax.Array, Space, float], jax.Array] | None = None
    style: Callable[[jax.Array, jax.Array, Space, float, Counted], jax.Array] | None = None
    finish: Callable[[jax.Array, jax.Array, Space, float], jax.Array] | None = None


# A painting's variance counts as this much at least (a standard deviation of 0.8 of 255 levels):
# what is less is rounding and compression, and would be blown up to blotches of colour.
_LEAST_STYLE = 1e-5
# And the photo's, for a Cholesky factor to exist: a hundredth of the above.
_LEAST_PHOTO = 1e-7


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def square_root(matrix: jax.Array, least: float) -> jax.Array:
    """The symmetric square root of a symmetric ``[n, n]`` with eigenvalues raised to ``least``."""
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.sqrt(jnp.maximum(values, least))[None]) @ vectors.T


@square_root.defjvp
def _root_slope(
    least: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # By the divided differences of the function of the eigenvalues (Daleckii and Krein): unlike the
    # derivative of eigh finite where eigenvalues are equal, as those of a one-colour image are.
    values, vectors = jnp.linalg.eigh(*primals)
    raised = jnp.maximum(values, least)
    roots = jnp.sqrt(raised)
    low = values < least
    gap = values[:, None] - values[None]
    one = low[:, None] != low[None]
    moved = jnp.where(one, (raised[:, None] - raised[None]) / jnp.where(one, gap, 1), 1)
    moved = jnp.where(low[:, None] & low[None], 0, moved)
    inner = vectors.T @ tangents[0] @ vectors
    inner = inner * moved / (roots[:, None] + roots[None])
    return (vectors * roots[None]) @ vectors.T, vectors @ inner @ vectors.T


def _mean(x: jax.Array, weight: jax.Array | None) -> jax.Array:
    """Over the pixels of ``[h, w, n]``: ``[n]``."""
    if weight is None:
        return x.mean((0, 1))
    return jnp.einsum("hw,hwn->n", weight, x, precision="highest") / weight.sum()


def _moments(values: jax.Array, weight: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Mean ``[n]`` and covariance ``[n, n]`` over the pixels of ``[h, w, n]``."""
    mean = _mean(values, weight)
    centred = values - mean[None, None]
    weighted = centred if weight is None else weight[:, :, None] * centred
    number = values[..., 0].size if weight is None else weight.sum()
    return mean, jnp.einsum("hwi,hwj->ij", weighted, centred, precision="highest") / number


def _match(
    values: jax.Array,
    photo: jax.Array,
    strength: float,
    counted: Counted,
    matrix: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Moves colours on a straight line to ``A (x - mean) + photo's mean``, ``A S A^T = C``.

    ``matrix`` makes A of the roots of the painting's covariance S and the photo's C.
    """
    mean, covariance = _moments(values, counted.style)
    wanted_mean, wanted = _moments(photo, counted.photo)
    with jax.default_matmul_precision("highest"):
        a = matrix(square_root(covariance, _LEAST_STYLE), square_root(wanted, _LEAST_PHOTO))
    matched = mapped(a, values - mean[None, None]) + wanted_mean[None, None]
    return values + strength * (matched - values)


def _cholesky_map(root: jax.Array, wanted: jax.Array) -> jax.Array:
    lower = jnp.linalg.cholesky(root @ root)
    lower_wanted = jnp.linalg.cholesky(wanted @ wanted)
    return jax.scipy.linalg.solve_triangular(lower, lower_wanted.T, trans=1, lower=True).T


def _pca_map(root: jax.Array, wanted: jax.Array) -> jax.Array:
    return wanted @ jnp.linalg.inv(root)


def _symmetric_map(root: jax.Array, wanted: jax.Array) -> jax.Array:
    inverse = jnp.linalg.inv(root)
    return (
        inverse @ square_root(root @ wanted @ wanted @ root, _LEAST_STYLE * _LEAST_PHOTO) @ inverse
    )


def match_cholesky(
    values: jax.Array, photo: jax.Array, space: Space, strength: float, counted: Counted
) -> jax.Array:
    """``A = L_C L_S^-1`` of the Cholesky factors; depends on the order of the coordinates."""
    return _match(values, photo, strength, counted, _cholesky_map)


def match_pca(
    values: jax.Array, photo: jax.Array, space: Space, strength: float, counted: Counted
) -> jax.Array:
    """``A = C^1/2 S^-1/2``, by way of both images' principal axes ("image analogies")."""
    return _match(values, photo, strength, counted, _pca_map)


def match_symmetric(
    values: jax.Array, photo: jax.Array, space: Space, strength: float, counted: Counted
) -> jax.Array:
    """``A = S^-1/2 (S^1/2 C S^1/2)^1/2 S^-1/2``, the symmetric one: it moves colours the least.

    It is Monge's map between normal distributions, and the straight line to it their geodesic.
    """
    return _match(values, photo, strength, counted, _symmetric_map)


_KNOTS = 1024


def _quantiles(x: jax.Array, weight: jax.Array | None, knots: int) -> jax.Array:
    """Of ``[h, w]`` at evenly spaced knots; between equal values exactly their value."""
    x = x.ravel()
    if weight is not None:
        return _weighted_quantiles(x, weight.ravel().astype(x.dtype), knots)
    place = np.arange(knots) * (len(x) - 1) / (knots - 1)
    low = place.astype(int)
    part = jnp.asarray(place - low, x.dtype)
    ordered = jnp.sort(x)
    first, second = ordered[low], ordered[np.minimum(low + 1, len(x) - 1)]
    return first + part * (second - first)


def _weighted_quantiles(x: jax.Array, weight: jax.Array, knots: int) -> jax.Array:
    """The same of ``[n]``: each value stands in the middle of its weight, the ends at the ends."""
    counts = weight > 0
    order = jnp.argsort(jnp.where(counts, x, jnp.inf))  # what does not count comes last
    weight = weight[order]
    largest = jnp.where(counts, x, -jnp.inf).max()
    ordered = jnp.where(weight > 0, x[order], largest)
    middle = jnp.cumsum(weight) - (weight + weight[0]) / 2
    last = at_least_tiny(jnp.where(weight > 0, middle, 0).max())
    even = jnp.linspace(0, 1, knots, dtype=x.dtype)
    return jnp.interp(even, jnp.minimum(middle / last, 1), ordered)


def _place(x: jax.Array, knots: jax.Array) -> jax.Array:
    """Where values stand among ascending knots, from 0; in the middle of knots that equal them."""
    low = jnp.searchsorted(knots, x, side="left")
    high = jnp.searchsorted(knots, x, side="right")
    index = jnp.clip(low, 1, len(knots) - 1)
    below, above = knots[index - 1], knots[index]
    gap = above - below
    part = jnp.where(gap > 0, (x - below) / jnp.where(gap > 0, gap, 1), 0)
    between = index - 1 + jnp.clip(part, 0, 1)
    return jnp.where(high > low, ((low + high - 1) / 2).astype(x.dtype), between.astype(x.dtype))


def match_histogram(
    values: jax.Array, photo: jax.Array, space: Space, strength: float, counted: Counted
) -> jax.Array:
    """Each coordinate by itself gets the photo's quantiles.

    ``Q_photo(P(x))``, both functions in up to 1023 straight pieces. Equal values stay equal: P is
    in the middle of where they stand, so a one-colour painting gets the photo's medians.
    """
    knots = max(2, min(_KNOTS, values.shape[0] * values.shape[1]))
    even = 3**0.5 * np.linspace(-1, 1, knots)  # of standard deviation one

    _, covariance = _moments(values, counted.style)
    spread = jnp.sqrt(jnp.diagonal(covariance) + 1e-12)

    def channel(c: int) -> jax.Array:
        x = values[..., c]
        lacking = jnp.maximum(_LEAST_STYLE**0.5 - spread[c], 0)
        own = _quantiles(x, counted.style, knots) + lacking * jnp.asarray(even, x.dtype)
        place = _place(x.ravel(), own)
        index = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, knots - 2)
        quantiles = _quantiles(photo[..., c], counted.photo, knots)
        first, second = quantiles[index], quantiles[index + 1]
        return first + (place - index) * (second - first)

    matched = jnp.stack([channel(c) for c in range(3)], axis=1).reshape(values.shape)
    return values + strength * (matched - values)


# Chroma is faded once before the optimisation and once after it, so that strength s leaves
# 1 - s of the painting's beside s of the photo's.
def _left(strength: float) -> float:
    return (1 - strength) ** 0.5


def fade(values: jax.Array, space: Space, strength: float) -> jax.Array:
    """Takes chroma away; at strength 1 a grey picture of the same lightness."""
    light, chroma = parts(values, space)
    return grey_of(light, space) + _left(strength) * chroma


def fade_and_match_lightness(
    values: jax.Array, photo: jax.Array, space: Space, strength: float, counted: Counted
) -> jax.Array:
    """As ``fade``, with the photo's mean and standard deviation of lightness."""
    light, chroma = parts(values, space)
    wanted, _ = parts(photo, space)
    mean, variance = _moments(light, counted.style)
    wanted_mean, wanted_variance = _moments(wanted, counted.photo)
    # Added is far less than any lightness shows, for a finite gradient at one-colour images.
    gain = jnp.sqrt((wanted_variance + 1e-12) / jnp.maximum(variance, _LEAST_STYLE))
    matched = gain[None] * (light - mean[None, None]) + wanted_mean[None, None]
    light = light + strength * (matched - light)
    return grey_of(light, space) + _left(strength) * chroma


def add_chroma(values: jax.Array, photo: jax.Array, space: Space, strength: float) -> jax.Array:
    """What ``fade`` is undone by: the photo's chroma beside what is left."""
    light, chroma = parts(values, space)
    _, wanted = parts(photo, space)
    return grey_of(light, space) + _left(strength) * chroma + strength * wanted


def replace_chroma(values: jax.Array, photo: jax.Array, space: Space, strength: float) -> jax.Array:
    """The picture's lightness with the photo's chroma."""
    light, chroma = parts(values, space)
    _, wanted = parts(photo, space)
    return grey_of(light, space) + chroma + strength * (wanted - chroma)


# Linear matching of the paintings' colours, Gatys et al. 2016, section 2; the names are theirs.
CHOLESKY = Mode(style=match_cholesky)
PCA = Mode(style=match_pca)
SYMMETRIC = Mode(style=match_symmetric)
HISTOGRAM = Mode(style=match_histogram)
# Luminance-only transfer, section 3 there: the network sees grey pictures.
LUMINANCE = Mode(photo=fade, style=fade_and_match_lightness, finish=add_chroma)
# neural-style's "original colors": the style is transferred with its colours, which are then left.
CHROMA = Mode(finish=replace_chroma)
