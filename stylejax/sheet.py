"""Contact sheets: pictures in rows and columns, with labels (PIL's letters), as one picture."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stylejax import images

PAPER = (255, 255, 255)
INK = (32, 32, 32)
GAP = 8  # pixels between two pictures and around them


def sheet(
    pictures: Sequence[Sequence[np.ndarray | None]],
    *,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    notes: Sequence[Sequence[str]] = (),
    title: str = "",
    letters: int | None = None,
) -> np.ndarray:
    """Lays pictures out on white paper.

    Args:
      pictures: rows of ``[h, w, 3]`` floats in [0, 1], of any sizes; each is put in the middle of
        its place, which is as large as the largest picture. None leaves a place empty.
      columns: a label above each column; none at all if empty.
      rows: a label left of each row; none at all if empty.
      notes: one line below each picture, in rows as the pictures; no room for them if empty.
      title: one line above everything.
      letters: their height in pixels; None suits the pictures.

    Returns:
      ``[H, W, 3]`` float32 in [0, 1].

    Raises:
      ValueError: no picture at all, or another number of labels than columns or rows, or of notes
        than pictures.
    """
    shapes = [p.shape for row in pictures for p in row if p is not None]
    if not shapes:
        raise ValueError("a sheet needs one picture at least")
    across = max(map(len, pictures))
    for name, labels, count in (("columns", columns, across), ("rows", rows, len(pictures))):
        if labels and len(labels) != count:
            raise ValueError(f"{len(labels)} labels for {count} {name}; give one each or none")
    if notes and [*map(len, notes)] != [*map(len, pictures)]:
        raise ValueError(f"notes in rows of {[*map(len, notes)]}; give each picture one or none")
    height, width = max(s[0] for s in shapes), max(s[1] for s in shapes)
    font = ImageFont.load_default(letters or max(11, round(width / 16)))
    above = [_wrapped(label, font, width) for label in columns]
    beside = [_wrapped(label, font, width) for label in rows]
    line = _size("Ag", font)[1] + 2
    left = max((_size(t, font)[0] for t in beside), default=0) + (GAP if rows else 0)
    heading = line + GAP if title else 0
    top = heading + max((line * len(t.split("\n")) for t in above), default=0)
    top += GAP if columns else 0
    step = height + GAP + (line if notes else 0)  # from row to row

    size = (left + GAP + across * (width + GAP), top + GAP + len(pictures) * step)
    paper = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(paper)
    if title:
        pen.text((GAP, GAP // 2), title, INK, font)
    for place, label in enumerate(above):
        middle = left + GAP + place * (width + GAP) + width / 2
        pen.multiline_text((middle, top), label, INK, font, anchor="md", align="center", spacing=2)
    for place, label in enumerate(beside):
        middle = top + GAP + place * step + height / 2
        pen.multiline_text((left, middle), label, INK, font, anchor="rm", align="right", spacing=2)
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            if picture is None:
                continue
            x = left + GAP + j * (width + GAP) + (width - picture.shape[1]) // 2
            y = top + GAP + i * step + (height - picture.shape[0]) // 2
            pixels = np.rint(np.clip(np.asarray(picture), 0, 1) * 255).astype(np.uint8)
            paper.paste(Image.fromarray(pixels), (x, y))
    for i, texts in enumerate(notes):
        for j, text in enumerate(texts):
            middle = left + GAP + j * (width + GAP) + width / 2
            pen.text((middle, top + GAP + i * step + height + 1), text, INK, font, anchor="ma")
    return np.asarray(paper, np.float32) / 255


def side_by_side(
    photo: np.ndarray | None, paintings: Sequence[np.ndarray], picture: np.ndarray
) -> np.ndarray:
    """What a picture was made of, and the picture, in one row with labels.

    Args:
      photo: ``[h, w, 3]`` floats in [0, 1], as all of them; it is shown at the picture's size. None
        for a picture without one.
      paintings: of any sizes; shrunk where they are larger than the picture's place.
      picture: ``[H, W, 3]``, shown as it is.

    Returns:
      ``[h, w, 3]`` float32 in [0, 1].
    """
    height, width = picture.shape[:2]
    photos = [] if photo is None else [np.asarray(images.resize(photo, height, width))]
    shown = list(photos)
    for painting in paintings:
        shrink = min(1, height / painting.shape[0], width / painting.shape[1])
        size = (max(1, round(side * shrink)) for side in painting.shape[:2])
        shown.append(np.asarray(images.resize(painting, *size)))
    numbers = [f" {n}" for n in range(1, len(paintings) + 1)] if len(paintings) > 1 else [""]
    labels = [*(["photo"] if photos else []), *(f"painting{n}" for n in numbers), "result"]
    return sheet([[*shown, picture]], columns=labels)


def _size(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> tuple[int, int]:
    """Width and height of text of one or more lines."""
    box = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font)
    return round(box[2]), round(box[3])


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text in lines no wider than ``width``, broken at spaces and commas."""
    lines, line = [], ""
    for word in text.replace(",", ", ").split():
        longer = f"{line} {word}".strip()
        if line and _size(longer, font)[0] > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return "\n".join([*lines, line])
