"""Masks from files: grey pictures, transparency, and painted maps whose colours are regions."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stylejax import images
from stylejax.guides import Guides, resize

# A colour of a map that covers less than this share of it is the edge between two regions.
LEAST = 0.004
MOST_REGIONS = 16


class Marked(NamedTuple):
    """What the command line says about regions.

    Attributes:
      guides: the masks.
      shares: ``[R, S]``, how much of each painting each region takes; None is what ``LossWeights``
        takes by itself.
      names: what to call each mask in a message, see ``guides.check``.
      notes: a line about each file that had to be resized.
      files: every file that was read.
    """

    guides: Guides
    shares: tuple[tuple[float, ...], ...] | None
    names: dict[str, list[str]]
    notes: list[str]
    files: list[Path]


class Photo(NamedTuple):
    """What masks are laid over: the picture's size, the file's own, and its transparency."""

    size: tuple[int, int]
    file_size: tuple[int, int]
    alpha: np.ndarray | None


def read(path: Path) -> np.ndarray:
    """A mask ``[H, W]`` in [0, 1]: the file's transparency if it has any, else its brightness."""
    image, alpha = images.load(path)
    return image.mean(axis=2) if alpha is None else alpha


def by_file(
    masks: Sequence[str],
    style_masks: Sequence[str],
    content_mask: Path | None,
    photo: Photo,
    paintings: Sequence[tuple[int, int]],
) -> Marked:
    """Regions from one mask for each painting.

    Args:
      masks: of the picture, a file for each painting, or ``rest`` (what the others leave) or
        ``alpha`` (the photo's transparency); or none.
      style_masks: of the paintings, a file for each, or ``all``; or none.
      content_mask: where the photo counts.
      photo: what the masks are laid over.
      paintings: height and width of each painting's file.

    Raises:
      ValueError: another number of masks than paintings, a word that has no meaning here.
      OSError: a file that cannot be read.
    """
    for option, given in (("--mask", masks), ("--style-mask", style_masks)):
        if given and len(given) != len(paintings):
            word = "rest (what the others leave)" if option == "--mask" else "all (the whole of it)"
            raise ValueError(
                f"{option} is given {len(given)} times for {len(paintings)} paintings; give it "
                f"once for each, as a file or the word {word}"
            )
    if list(masks).count("rest") > 1:
        raise ValueError("--mask rest is given twice; only one painting can have the rest")
    notes: list[str] = []
    regions = [None if m == "rest" else _over(photo, m, "--mask", notes) for m in masks]
    left = np.clip(1 - sum((r for r in regions if r is not None), np.zeros(photo.size)), 0, 1)
    stacked = [left.astype(np.float32) if r is None else r for r in regions]
    count = max(1, len(masks))
    parts = [
        None if m == "all" else np.repeat(_beside(size, m, notes)[:, :, None], count, axis=2)
        for m, size in zip(style_masks, paintings, strict=False)
    ]
    content = None
    if content_mask is not None:
        content = _over(photo, str(content_mask), "--content-mask", notes)
    files = [m for m in masks if m not in ("rest", "alpha")] + [
        m for m in style_masks if m != "all"
    ]
    return Marked(
        Guides(np.stack(stacked, axis=2) if stacked else None, tuple(parts) or None, content),
        None,
        {
            "regions": [f"--mask {m}" for m in masks] or ["the picture"],
            "styles": [f"--style-mask {m}" for m in style_masks],
            "content": [f"--content-mask {content_mask}"],
        },
        notes,
        [*map(Path, files), *([content_mask] if content_mask else [])],
    )


def by_colour(
    labels: Path,
    style_labels: Sequence[Path],
    photo: Photo,
    paintings: Sequence[tuple[int, int]],
) -> Marked:
    """Regions from a painted map: each flat colour is one, in the picture as in the paintings.

    A region is painted like every part of a painting whose map has its colour. Pixels of other
    colours, which drawing programs leave at edges, go to the nearest of the map's.

    Args:
      labels: the picture's map.
      style_labels: a map for each painting.
      photo: what the map is laid over.
      paintings: height and width of each painting's file.

    Raises:
      ValueError: another number of maps than paintings, too many colours, or a colour that no
        painting has.
      OSError: a file that cannot be read.
    """
    if len(style_labels) != len(paintings):
        raise ValueError(
            f"--labels needs --style-labels once for each of {len(paintings)} paintings, "
            f"in their order; it is given {len(style_labels)} times"
        )
    notes: list[str] = []
    own = images.to_uint8(images.load(labels).image)
    colours = palette(own, f"--labels {labels}")
    regions = split(own, colours)
    _note(notes, f"--labels {labels}", own.shape, photo.file_size, "the photo")
    parts, shares = [], np.zeros((len(colours), len(paintings)))
    for index, (path, size) in enumerate(zip(style_labels, paintings, strict=True)):
        part = images.to_uint8(images.load(path).image)
        _note(notes, f"--style-labels {path}", part.shape, size, "its painting")
        masks = split(part, colours)
        near = _distances(part, colours).min(axis=1).reshape(part.shape[:2]) < 48**2
        masks = masks * near[:, :, None]  # what is no region's colour is none of them
        parts.append(masks.astype(np.float32))
        shares[:, index] = masks.mean(axis=(0, 1)) >= LEAST
    for colour, row in zip(colours, shares, strict=True):
        if not row.any():
            raise ValueError(
                f"the colour {_hex(colour)} of --labels {labels} is in no --style-labels; "
                "paint it there, or give that region another colour"
            )
    parts = [np.where(p.sum((0, 1)) > 0, p, 1).astype(np.float32) for p in parts]
    return Marked(
        Guides(np.asarray(resize(regions, *photo.size)), tuple(parts)),
        tuple(map(tuple, shares.tolist())),
        {
            "regions": [f"the colour {_hex(c)} of --labels {labels}" for c in colours],
            "styles": [f"--style-labels {path}" for path in style_labels],
        },
        notes,
        [labels, *style_labels],
    )


def palette(picture: np.ndarray, name: str) -> np.ndarray:
    """The colours of a map, ``[R, 3]`` uint8, the most frequent first.

    Raises:
      ValueError: one colour only, or more than are likely to be meant.
    """
    found, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    often = counts[order] >= LEAST * counts.sum()
    colours = found[order][often]
    covered = float(counts[order][often].sum()) / float(counts.sum())
    if len(colours) > MOST_REGIONS or covered < 0.8:
        raise ValueError(
            f"{name} has {len(found)} colours, which are no regions; paint at most {MOST_REGIONS} "
            "flat colours, without soft brushes, and save it as PNG"
        )
    if len(colours) < 2:
        raise ValueError(f"{name} has one colour, {_hex(colours[0])}; paint a second region")
    return colours


def split(picture: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A map ``[H, W, 3]`` uint8 as masks ``[H, W, R]``: 1 where a colour is the nearest, else 0."""
    nearest = _distances(picture, colours).argmin(axis=1)
    masks = np.arange(len(colours)) == nearest[:, None]
    return masks.reshape(*picture.shape[:2], len(colours)).astype(np.float32)


def _distances(picture: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Squared distances of pixels to colours, ``[H W, R]``."""
    pixels = picture.reshape(-1, 1, 3).astype(np.int32)
    return np.square(pixels - colours[None].astype(np.int32)).sum(axis=2)


def _over(photo: Photo, mask: str, option: str, notes: list[str]) -> np.ndarray:
    """A mask of the picture, at its size."""
    if mask == "alpha":
        if photo.alpha is None:
            raise ValueError(f"{option} alpha: the photo has no transparency; name a file")
        return photo.alpha
    found = read(Path(mask))
    _note(notes, f"{option} {mask}", found.shape, photo.file_size, "the photo")
    return np.asarray(resize(found, *photo.size))


def _beside(painting: tuple[int, int], mask: str, notes: list[str]) -> np.ndarray:
    """A mask of a painting, as it is; `guides` resizes it with the painting."""
    found = read(Path(mask))
    _note(notes, f"--style-mask {mask}", found.shape, painting, "its painting")
    return found


def _note(
    notes: list[str], name: str, shape: Sequence[int], wanted: tuple[int, int], whose: str
) -> None:
    if tuple(shape[:2]) != tuple(wanted):
        notes.append(
            f"note: {name} is {shape[1]}x{shape[0]}, {whose} {wanted[1]}x{wanted[0]}; it is resized"
        )


def _hex(colour: np.ndarray) -> str:
    return "#" + "".join(f"{level:02x}" for level in colour.tolist())
