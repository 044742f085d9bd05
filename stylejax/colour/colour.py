"""What ``stylize`` asks of a choice of colours: ``prepare`` before a run, ``finish`` after it.

The optimisation in between knows nothing of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from stylejax import images
from stylejax.colour.modes import ALL, Counted, Mode
from stylejax.colour.spaces import OKLAB, Array, Space, grey_of, parts
from stylejax.guides import Use


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
    colour: Colour | None,
    content: Array,
    styles: Sequence[Array],
    start: Array | None,
    *,
    uses: Sequence[Use] | None = None,
) -> tuple[Array, tuple[Array, ...], Array | None]:
    """Photo, paintings and a picture to start from, of any sizes, as the network shall see them.

    Colours that sRGB lacks lose chroma, then lightness, until it has them. Images that a mode
    leaves alone, and all at strength 0, are returned as they are.

    Args:
      colour: what is wanted; None leaves all as it is.
      content: the photo, ``[H, W, 3]``.
      styles: the paintings, ``[h, w, 3]`` each.
      start: a picture to start from, or None.
      uses: by painting, how much of it goes where; it takes the photo's colours from there. None is
        all of it everywhere.
    """
    if colour is None or not colour.strength:
        return content, tuple(styles), start
    mode, original = colour.mode, content
    if mode.photo:
        content = _alone(content, colour)
        start = None if start is None else _alone(start, colour)
    if mode.style:
        counted = [ALL] * len(styles) if uses is None else [_counted(use) for use in uses]
        styles = [
            _beside(style, original, colour, mode.style, own)
            for style, own in zip(styles, counted, strict=True)
        ]
    return content, tuple(styles), start


def _counted(use: Use) -> Counted:
    """Where a painting is not used at all, all of it counts, for it must have some colours."""
    some = [jnp.where(weight.max() > 0, weight, 1) for weight in (use.style, use.picture)]
    return Counted(*some)


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
    function: Callable[..., jax.Array],
    *counted: Counted,
) -> jax.Array:
    values, wanted = _values(image, colour.space), _values(photo, colour.space)
    values = function(values, wanted, colour.space, colour.strength, *counted)
    return _image(values, colour.space).astype(image.dtype)


def _values(image: Array, space: Space) -> jax.Array:
    image = jnp.asarray(image)
    return space.encode(image.astype(jnp.promote_types(image.dtype, jnp.float32)))


def _image(values: jax.Array, space: Space) -> jax.Array:
    """sRGB in [0, 1]: what lies outside is drawn towards the grey of its lightness.

    Clipping each channel by itself would change lightness, and so the strokes, where colours are
    strong.
    """
    light, chroma = parts(values, space)
    light = jnp.clip(light, 0, 1)
    grey = jnp.clip(space.decode(grey_of(light, space)), 0, 1)
    beyond = space.decode(grey_of(light, space) + chroma) - grey
    room = jnp.where(beyond > 0, 1 - grey, grey)
    size = jnp.abs(beyond)
    inside = size <= room
    share = jnp.where(inside, 1, room / jnp.where(inside, 1, size)).min(-1, keepdims=True)
    return jnp.clip(grey + share * beyond, 0, 1)
