"""Where what counts: soft masks over the picture and over the paintings.

Gatys, Ecker, Bethge, Hertzmann and Shechtman, "Controlling Perceptual Factors in Neural Style
Transfer", 2017, section 4: a region has a Gram matrix of its own, of features weighed by the
region's mask at their layer. A mask here is the weight of a position in every sum, the square of
that paper's guidance channel ``T``; what a region is divided by follows from it in ``statistics``.

Not theirs: each region's loss counts by the share of the picture that the region covers, so that
style pulls at every pixel as strongly as without regions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stylejax import vgg

Array = jax.Array | np.ndarray

# How much more than 1 masks may add up to at a pixel: two files of 8 bits, each resized.
OVERLAP = 0.02


class Guides(NamedTuple):
    """Regions of a picture and of its paintings, and where content counts.

    Attributes:
      regions: ``[H, W, R]`` in [0, 1], how much each pixel of the picture belongs to each of R
        regions, of any size; they add up to 1 at most. Where they add up to less, style pulls
        less, and not at all where they are 0. None is one region, the whole picture.
      styles: one per painting, ``[h, w, R]`` in [0, 1], of any size: which part of it each region
        is painted like, by weight; None there is the whole painting for every region. None is that
        for all paintings.
      content: ``[H, W]`` in [0, 1], how much each pixel of the photo counts in the content loss;
        None is 1 everywhere.
    """

    regions: Array | None = None
    styles: Sequence[Array | None] | None = None
    content: Array | None = None

    @property
    def number(self) -> int:
        """How many regions there are."""
        masks = [self.regions, *(self.styles or ())]
        shapes: list[tuple[int, ...]] = [
            getattr(mask, "shape", ()) for mask in masks if mask is not None
        ]
        return next((shape[2] for shape in shapes if len(shape) == 3), 1)


class Carried(NamedTuple):
    """The picture's masks at the layers.

    Attributes:
      style: by style layer ``[h, w, R]``.
      content: by content layer ``[h, w]``; None counts every position once.
    """

    style: dict[str, jax.Array]
    content: dict[str, jax.Array] | None


class Use(NamedTuple):
    """How much of a painting goes where.

    Attributes:
      style: ``[h, w]``, how much each pixel of the painting is used.
      picture: ``[H, W]``, how much each pixel of the picture is painted like it.
    """

    style: jax.Array
    picture: jax.Array


def resize(mask: Array, height: int, width: int) -> jax.Array:
    """A mask ``[H, W, ...]`` at another size.

    By averages over triangles, which overshoot nowhere, so that masks that add up to 1 still do.
    """
    mask = jnp.asarray(mask)
    return jax.image.resize(mask, (height, width, *mask.shape[2:]), "linear", antialias=True)


def fitted(
    guides: Guides, picture: tuple[int, ...], styles: Sequence[tuple[int, ...]], dtype: Any
) -> Guides:
    """The same masks at the sizes of a picture and its paintings, none of them left to guess.

    Args:
      guides: masks of any sizes.
      picture: its shape ``(H, W, ...)``.
      styles: the paintings' shapes.
      dtype: of the result.
    """
    size, count = picture[:2], guides.number
    regions = jnp.ones((*size, count), dtype) if guides.regions is None else guides.regions
    parts = guides.styles or [None] * len(styles)
    return Guides(
        regions=resize(regions, *size).astype(dtype),
        styles=tuple(
            jnp.ones((*s[:2], count), dtype) if p is None else resize(p, s[0], s[1]).astype(dtype)
            for p, s in zip(parts, styles, strict=True)
        ),
        content=None if guides.content is None else resize(guides.content, *size).astype(dtype),
    )


def uses(
    guides: Guides | None,
    shares: jax.Array,
    picture: tuple[int, ...],
    styles: Sequence[tuple[int, ...]],
) -> tuple[Use, ...] | None:
    """By painting how much of it goes where; None where all goes everywhere.

    Args:
      guides: masks of any sizes.
      shares: ``[R, S]``, how much of each painting each region takes.
      picture: its shape ``(H, W, ...)``.
      styles: the paintings' shapes.
    """
    if guides is None or (guides.regions is None and guides.styles is None):
        return None
    masks = fitted(guides, picture, styles, shares.dtype)

    def used(mask: Any, share: jax.Array) -> jax.Array:
        return jnp.matmul(mask, share, precision="highest")

    return tuple(
        Use(used(part, share), used(masks.regions, share))
        for part, share in zip(masks.styles or (), shares.T, strict=True)
    )


def carry(mask: jax.Array, layer: str, shape: tuple[int, ...]) -> jax.Array:
    """A mask of an image at a layer: what the layer's poolings, were they averages, make of it.

    A position weighs as much as the pixels that were pooled into it. Convolutions see beyond these
    pixels; eroding masks by what they see would leave small regions without a position.

    Args:
      mask: ``[H, W, ...]``.
      layer: its name.
      shape: ``(h, w, ...)`` of its features, rounded however the poolings round.

    Returns:
      ``[h, w, ...]``.
    """
    side, (height, width) = vgg.stride(layer), shape[:2]
    mask = mask[: height * side, : width * side]
    missing = [(0, height * side - mask.shape[0]), (0, width * side - mask.shape[1])]
    mask = jnp.pad(mask, missing + [(0, 0)] * (mask.ndim - 2), mode="edge")
    return mask.reshape(height, side, width, side, *mask.shape[2:]).mean(axis=(1, 3))


def weigh(features: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Features ``[h, w, c]`` whose squared differences weigh as ``mask`` ``[h, w]`` says."""
    return features if mask is None else features * jnp.sqrt(mask)[:, :, None]


def check(
    guides: Guides,
    *,
    picture: tuple[int, int],
    styles: Sequence[tuple[int, int]],
    layers: Sequence[str],
    takes: Mapping[str, np.ndarray] | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Raises ValueError for masks that cannot work; values are read only where concrete.

    Args:
      guides: the masks.
      picture: height and width of the picture at the coarsest scale.
      styles: those of each painting there.
      layers: where style is compared.
      takes: by layer ``[R, S]``, whether a region takes anything of a painting; None where that is
        traced.
      names: what to call the masks: ``regions`` and ``styles``, one name each, and ``content``;
        None names the fields.
    """
    count = guides.number
    called = {
        "regions": [f"guides.regions[..., {r}]" for r in range(count)],
        "styles": [f"guides.styles[{s}]" for s in range(len(styles))],
        "content": ["guides.content"],
        **(names or {}),
    }
    if guides.styles is not None and len(guides.styles) != len(styles):
        raise ValueError(
            f"guides.styles has {len(guides.styles)} masks for {len(styles)} paintings; "
            "give one each, None for a whole painting"
        )
    if guides.regions is not None:
        _check_mask("guides.regions", guides.regions, 3, count)
    for name, part in zip(called["styles"], guides.styles or (), strict=False):
        if part is not None:
            _check_mask(name, part, 3, count)
    if guides.content is not None:
        _check_mask(called["content"][0], guides.content, 2, count)
    if (regions := _read(guides.regions)) is not None:
        _check_overlap(regions, called["regions"])
        for layer in sorted(layers, key=vgg.stride):
            for region, name in enumerate(called["regions"]):
                _check_left(name, regions[:, :, region], layer, picture, "picture")
    for style, given in enumerate(guides.styles or ()):
        if takes is None or (part := _read(given)) is None:
            continue
        for layer in sorted(layers, key=vgg.stride):
            for region in np.flatnonzero(takes[layer][:, style]).tolist():
                name = f"{called['styles'][style]}, as {called['regions'][region]} takes it,"
                _check_left(name, part[:, :, region], layer, styles[style], "painting")


def _read(mask: Array | None) -> np.ndarray | None:
    """The values of a mask that is there and concrete."""
    return None if mask is None or isinstance(mask, jax.core.Tracer) else np.asarray(mask)


def _check_mask(name: str, mask: Any, axes: int, count: int) -> None:
    shape, dtype = getattr(mask, "shape", None), getattr(mask, "dtype", np.object_)
    wanted = "[height, width]" if axes == 2 else f"[height, width, {count}]"
    if shape is None or len(shape) != axes or (axes == 3 and shape[2] != count):
        raise ValueError(f"{name} must be an array {wanted}, got {shape or type(mask)}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name} is {dtype}; give floats in [0, 1], e.g. array / 255.0")
    if (values := _read(mask)) is None:
        return
    low, high = float(values.min()), float(values.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # False for NaN too
        raise ValueError(f"{name} ranges over [{low:g}, {high:g}]; a mask is in [0, 1]")
    if high <= 0:
        raise ValueError(f"{name} is black everywhere; paint white what shall count")


def _check_overlap(regions: np.ndarray, names: Sequence[str]) -> None:
    total = regions.sum(axis=2)
    place = np.unravel_index(np.argmax(total), total.shape)
    if total[place] > 1 + OVERLAP:
        both = np.argsort(regions[place])[:-3:-1]
        raise ValueError(
            f"{names[both[1]]} and {names[both[0]]} overlap: at row {place[0]}, column {place[1]} "
            f"regions add up to {total[place]:.3g}, the limit is 1; darken one there"
        )


def _check_left(name: str, mask: np.ndarray, layer: str, size: tuple[int, int], whose: str) -> None:
    """That some position of a layer lies in a region by a quarter of what its pixels do."""
    height, width = (max(1, side // vgg.stride(layer)) for side in size)
    if not _left(mask, (height, width)):
        raise ValueError(
            f"{name} vanishes at {layer}, which has {width}x{height} positions for a {whose} of "
            f"{size[1]}x{size[0]}: none of them lies in it by a quarter; make the region larger, "
            "let the coarsest scale (smallest) be larger, or leave the layer out"
        )


def _left(mask: np.ndarray, shape: Sequence[int]) -> bool:
    edges = [
        np.linspace(0, n, k + 1).astype(int)[:-1] for n, k in zip(mask.shape, shape, strict=True)
    ]
    sums = np.add.reduceat(np.add.reduceat(mask, edges[0], axis=0), edges[1], axis=1)
    counts = [np.diff([*e, n]) for e, n in zip(edges, mask.shape, strict=True)]
    return bool((sums / np.outer(*counts)).max() > mask.max() / 4)
