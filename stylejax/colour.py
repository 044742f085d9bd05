"""Whose colours a picture has: the paintings', the photo's, or something between.

An image is ``[H, W, 3]`` float, sRGB in [0, 1]. Some ways (`CHOLESKY`, `PCA`, `SYMMETRIC`,
`HISTOGRAM`) give each painting the photo's colours before the network sees it, `CHROMA` gives the
finished picture the photo's chroma, `LUMINANCE` does both. All that is done here happens before
and after the optimisation, which knows nothing of it.

    Gatys, Bethge, Hertzmann, Shechtman, "Preserving Color in Neural Artistic Style Transfer",
    arXiv:1606.05897, 2016; Gatys, Ecker, Bethge, Hertzmann, Shechtman, "Controlling Perceptual
    Factors in Neural Style Transfer", CVPR 2017, section 5
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stylejax import images

Array = jax.Array | np.ndarray


# Spaces


class Space(NamedTuple):
    """Coordinates ``[..., 3]`` of colours; values outside [0, 1] have finite ones as well.

    Attributes:
      encode: the coordinates of sRGB ``[..., 3]``.
      decode: the way back.
      weights: a colour's lightness, 0 for black and 1 for white, is the sum of its coordinates
        times these.
      grey: the coordinates of white; times a lightness, those of a grey. What a colour has beyond
        the grey of its lightness is its chroma.
    """

    encode: Callable[[jax.Array], jax.Array]
    decode: Callable[[jax.Array], jax.Array]
    weights: tuple[float, float, float]
    grey: tuple[float, float, float]


def to_linear(image: jax.Array) -> jax.Array:
    """Light of sRGB ``[...]`` (IEC 61966-2-1), continued to negative values as an odd function."""
    size = jnp.abs(image)
    # The power is never taken of 0, where the gradient of what `where` drops would be NaN.
    power = ((jnp.maximum(size, 0.04045) + 0.055) / 1.055) ** 2.4
    return jnp.where(size <= 0.04045, image / 12.92, jnp.copysign(power, image))


def from_linear(light: jax.Array) -> jax.Array:
    """The inverse of ``to_linear``."""
    size = jnp.abs(light)
    power = 1.055 * jnp.maximum(size, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.where(size <= 0.0031308, light * 12.92, jnp.copysign(power, light))


# Björn Ottosson, "A perceptual color space for image processing", 2020, with the matrices of his
# update of 2021-01-25: linear sRGB to cone responses, and their cube roots to lightness, green to
# red, blue to yellow. The inverses are computed, so that a round trip is one.
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_OPPONENTS = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
# Below this a line takes the cube root's place, whose slope at black is infinite. No colour of 8
# bits but black has a cone response as small.
_TOE = 1e-5


def _cube_root(x: jax.Array) -> jax.Array:
    size = jnp.abs(x)
    root = jnp.copysign(jnp.cbrt(jnp.maximum(size, _TOE)), x)
    return jnp.where(size < _TOE, x * _TOE ** (-2 / 3), root)


def _cube(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(x) < _TOE ** (1 / 3), x * _TOE ** (2 / 3), x**3)


def _mapped(matrix: Array, vectors: jax.Array) -> jax.Array:
    """``M v`` for vectors ``[..., 3]``."""
    matrix = jnp.asarray(matrix, vectors.dtype)
    return jnp.einsum("ij,...j->...i", matrix, vectors, precision="highest")


def to_oklab(image: jax.Array) -> jax.Array:
    """Oklab coordinates of sRGB ``[..., 3]``."""
    return _mapped(_OPPONENTS, _cube_root(_mapped(_CONES, to_linear(image))))


def from_oklab(lab: jax.Array) -> jax.Array:
    """The inverse of ``to_oklab``; in float32 within 1e-5, by the slope of sRGB near black."""
    cones = _cube(_mapped(np.linalg.inv(_OPPONENTS), lab))
    return from_linear(_mapped(np.linalg.inv(_CONES), cones))


def _same(x: jax.Array) -> jax.Array:
    return x


_WHITE = (1.0, 1.0, 1.0)
# The numbers as they are, in which Gatys et al. match; luma as in the YIQ and YUV (ITU-R BT.601)
# by which they and neural-style part it from chroma.
SRGB = Space(_same, _same, (0.299, 0.587, 0.114), _WHITE)
# Amounts of light, and luminance (ITU-R BT.709, whose primaries are sRGB's).
LINEAR = Space(to_linear, from_linear, (0.2126, 0.7152, 0.0722), _WHITE)
# Equal distances look about equal, and lightness may change without the hue.
OKLAB = Space(to_oklab, from_oklab, (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))


def _parts(values: jax.Array, space: Space) -> tuple[jax.Array, jax.Array]:
    """Coordinates as lightness ``[..., 1]`` and chroma ``[..., 3]``."""
    light = _mapped(np.array([space.weights]), values)
    return light, values - _grey(light, space)


def _grey(light: jax.Array, space: Space) -> jax.Array:
    return light * jnp.asarray(space.grey, light.dtype).reshape((1,) * (light.ndim - 1) + (3,))


# Ways


class Mode(NamedTuple):
    """What is done to whom, on coordinates ``[H, W, 3]``; None leaves it as it is.

    Each takes the coordinates and ends in the space and the strength, and is the identity at
    strength 0.

    Attributes:
      photo: the photo as the network shall see it; of a picture to start from as well.
      style: a painting as the network shall see it, beside the photo.
      finish: a picture that leaves, beside the photo.
    """

    photo: Callable[[jax.Array, Space, float], jax.Array] | None = None
    style: Callable[[jax.Array, jax.Array, Space, float], jax.Array] | None = None
    finish: Callable[[jax.Array, jax.Array, Space, float], jax.Array] | None = None


# A painting's variance counts as this much at least (a standard deviation of 0.8 of 255 levels):
# what is less is rounding and compression, and would be blown up to blotches of colour.
_LEAST_STYLE = 1e-5
# And the photo's, for a Cholesky factor to exist: a hundredth of the above.
_LEAST_PHOTO = 1e-7


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _root(matrix: jax.Array, least: float) -> jax.Array:
    """The symmetric square root of a symmetric ``[n, n]`` with eigenvalues raised to ``least``."""
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.sqrt(jnp.maximum(values, least))[None]) @ vectors.T


@_root.defjvp
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


def _moments(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean ``[3]`` and covariance ``[3, 3]`` over the pixels."""
    pixels = values.reshape(-1, 3)
    mean = pixels.mean(0)
    centred = pixels - mean[None]
    return mean, jnp.matmul(centred.T, centred, precision="highest") / len(pixels)


def _match(
    values: jax.Array,
    photo: jax.Array,
    strength: float,
    matrix: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Moves colours on a straight line to ``A (x - mean) + photo's mean``, ``A S A^T = C``.

    ``matrix`` makes A of the roots of the painting's covariance S and the photo's C.
    """
    mean, covariance = _moments(values)
    wanted_mean, wanted = _moments(photo)
    with jax.default_matmul_precision("highest"):
        a = matrix(_root(covariance, _LEAST_STYLE), _root(wanted, _LEAST_PHOTO))
    matched = _mapped(a, values - mean[None, None]) + wanted_mean[None, None]
    return values + strength * (matched - values)


def _cholesky_map(root: jax.Array, wanted: jax.Array) -> jax.Array:
    lower = jnp.linalg.cholesky(root @ root)
    lower_wanted = jnp.linalg.cholesky(wanted @ wanted)
    return jax.scipy.linalg.solve_triangular(lower, lower_wanted.T, trans=1, lower=True).T


def _pca_map(root: jax.Array, wanted: jax.Array) -> jax.Array:
    return wanted @ jnp.linalg.inv(root)


def _symmetric_map(root: jax.Array, wanted: jax.Array) -> jax.Array:
    inverse = jnp.linalg.inv(root)
    return inverse @ _root(root @ wanted @ wanted @ root, _LEAST_STYLE * _LEAST_PHOTO) @ inverse


def match_cholesky(values: jax.Array, photo: jax.Array, space: Space, strength: float) -> jax.Array:
    """``A = L_C L_S^-1`` of the Cholesky factors; depends on the order of the coordinates."""
    return _match(values, photo, strength, _cholesky_map)


def match_pca(values: jax.Array, photo: jax.Array, space: Space, strength: float) -> jax.Array:
    """``A = C^1/2 S^-1/2``, by way of both images' principal axes ("image analogies")."""
    return _match(values, photo, strength, _pca_map)


def match_symmetric(
    values: jax.Array, photo: jax.Array, space: Space, strength: float
) -> jax.Array:
    """``A = S^-1/2 (S^1/2 C S^1/2)^1/2 S^-1/2``, the symmetric one: it moves colours the least.

    It is Monge's map between normal distributions, and the straight line to it their geodesic.
    """
    return _match(values, photo, strength, _symmetric_map)


_KNOTS = 1024


def _quantiles(x: jax.Array, knots: int) -> jax.Array:
    """Of ``[n]`` at evenly spaced knots; between equal values exactly their value."""
    place = np.arange(knots) * (len(x) - 1) / (knots - 1)
    low = place.astype(int)
    part = jnp.asarray(place - low, x.dtype)
    ordered = jnp.sort(x)
    first, second = ordered[low], ordered[np.minimum(low + 1, len(x) - 1)]
    return first + part * (second - first)


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
    values: jax.Array, photo: jax.Array, space: Space, strength: float
) -> jax.Array:
    """Each coordinate by itself gets the photo's quantiles.

    ``Q_photo(P(x))``, both functions in up to 1023 straight pieces. Equal values stay equal: P is
    in the middle of where they stand, so a one-colour painting gets the photo's medians.
    """
    knots = max(2, min(_KNOTS, values.shape[0] * values.shape[1]))
    even = 3**0.5 * np.linspace(-1, 1, knots)  # of standard deviation one

    def channel(x: jax.Array, wanted: jax.Array) -> jax.Array:
        spread = jnp.sqrt(jnp.var(x) + 1e-12)
        lacking = jnp.maximum(_LEAST_STYLE**0.5 - spread, 0)
        place = _place(x, _quantiles(x, knots) + lacking * jnp.asarray(even, x.dtype))
        index = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, knots - 2)
        quantiles = _quantiles(wanted, knots)
        first, second = quantiles[index], quantiles[index + 1]
        return first + (place - index) * (second - first)

    pixels = [channel(values[..., c].ravel(), photo[..., c].ravel()) for c in range(3)]
    matched = jnp.stack(pixels, axis=1).reshape(values.shape)
    return values + strength * (matched - values)


# Chroma is faded once before the optimisation and once after it, so that strength s leaves
# 1 - s of the painting's beside s of the photo's.
def _left(strength: float) -> float:
    return (1 - strength) ** 0.5


def fade(values: jax.Array, space: Space, strength: float) -> jax.Array:
    """Takes chroma away; at strength 1 a grey picture of the same lightness."""
    light, chroma = _parts(values, space)
    return _grey(light, space) + _left(strength) * chroma


def fade_and_match_lightness(
    values: jax.Array, photo: jax.Array, space: Space, strength: float
) -> jax.Array:
    """As ``fade``, with the photo's mean and standard deviation of lightness."""
    light, chroma = _parts(values, space)
    wanted, _ = _parts(photo, space)
    # Added is far less than any lightness shows, for a finite gradient at one-colour images.
    gain = jnp.sqrt((wanted.var() + 1e-12) / jnp.maximum(light.var(), _LEAST_STYLE))
    matched = gain * (light - light.mean()) + wanted.mean()
    light = light + strength * (matched - light)
    return _grey(light, space) + _left(strength) * chroma


def add_chroma(values: jax.Array, photo: jax.Array, space: Space, strength: float) -> jax.Array:
    """What ``fade`` is undone by: the photo's chroma beside what is left."""
    light, chroma = _parts(values, space)
    _, wanted = _parts(photo, space)
    return _grey(light, space) + _left(strength) * chroma + strength * wanted


def replace_chroma(values: jax.Array, photo: jax.Array, space: Space, strength: float) -> jax.Array:
    """The picture's lightness with the photo's chroma."""
    light, chroma = _parts(values, space)
    _, wanted = _parts(photo, space)
    return _grey(light, space) + chroma + strength * (wanted - chroma)


# Linear matching of the paintings' colours, Gatys et al. 2016, section 2; the names are theirs.
CHOLESKY = Mode(style=match_cholesky)
PCA = Mode(style=match_pca)
SYMMETRIC = Mode(style=match_symmetric)
HISTOGRAM = Mode(style=match_histogram)
# Luminance-only transfer, section 3 there: the network sees grey pictures.
LUMINANCE = Mode(photo=fade, style=fade_and_match_lightness, finish=add_chroma)
# neural-style's "original colors": the style is transferred with its colours, which are then left.
CHROMA = Mode(finish=replace_chroma)


@dataclass(frozen=True)
class Colour:
    """Whose colours the picture shall have, and how they are brought there.

    Attributes:
      mode: ``CHOLESKY``, ``PCA``, ``SYMMETRIC``, ``HISTOGRAM``, ``LUMINANCE`` or ``CHROMA``.
      space: where it is computed: ``SRGB``, ``LINEAR`` or ``OKLAB``.
      strength: from 0, the paintings' colours as without it, to 1, the photo's.
    """

    mode: Mode
    space: Space = OKLAB
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError where the strength makes no sense."""
        if not 0 <= self.strength <= 1:
            raise ValueError(
                f"strength is {self.strength}; it is a share from 0 (painting) to 1 (photo)"
            )


def prepare(
    colour: Colour | None, content: Array, styles: Sequence[Array], start: Array | None
) -> tuple[Array, tuple[Array, ...], Array | None]:
    """Photo, paintings and a picture to start from, of any sizes, as the network shall see them.

    Colours that sRGB lacks lose chroma, then lightness, until it has them. Images that a mode
    leaves alone, and all at strength 0, are returned as they are.
    """
    if colour is None or not colour.strength:
        return content, tuple(styles), start
    mode, original = colour.mode, content
    if mode.photo:
        content = _alone(content, colour)
        start = None if start is None else _alone(start, colour)
    if mode.style:
        styles = [_beside(s, original, colour, mode.style) for s in styles]
    return content, tuple(styles), start


def finish(colour: Colour | None, picture: Array, content: Array) -> Array:
    """The picture ``[h, w, 3]`` as it leaves, beside the photo of any size."""
    if colour is None or not colour.strength or not colour.mode.finish:
        return picture
    photo = images.resize(content, picture.shape[0], picture.shape[1])
    return _beside(picture, photo, colour, colour.mode.finish)


@partial(jax.jit, static_argnames=("colour",))
def _alone(image: Array, colour: Colour) -> jax.Array:
    assert colour.mode.photo
    values = colour.mode.photo(_values(image, colour.space), colour.space, colour.strength)
    return _image(values, colour.space).astype(image.dtype)


@partial(jax.jit, static_argnames=("colour", "function"))
def _beside(
    image: Array,
    photo: Array,
    colour: Colour,
    function: Callable[[jax.Array, jax.Array, Space, float], jax.Array],
) -> jax.Array:
    values, wanted = _values(image, colour.space), _values(photo, colour.space)
    values = function(values, wanted, colour.space, colour.strength)
    return _image(values, colour.space).astype(image.dtype)


def _values(image: Array, space: Space) -> jax.Array:
    image = jnp.asarray(image)
    return space.encode(image.astype(jnp.promote_types(image.dtype, jnp.float32)))


def _image(values: jax.Array, space: Space) -> jax.Array:
    """sRGB in [0, 1]: what lies outside is drawn towards the grey of its lightness.

    Clipping each channel by itself would change lightness, and so the strokes, where colours are
    strong.
    """
    light, chroma = _parts(values, space)
    light = jnp.clip(light, 0, 1)
    grey = jnp.clip(space.decode(_grey(light, space)), 0, 1)
    beyond = space.decode(_grey(light, space) + chroma) - grey
    room = jnp.where(beyond > 0, 1 - grey, grey)
    size = jnp.abs(beyond)
    inside = size <= room
    share = jnp.where(inside, 1, room / jnp.where(inside, 1, size)).min(-1, keepdims=True)
    return jnp.clip(grey + share * beyond, 0, 1)
