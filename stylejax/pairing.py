"""Which photo goes with which painting, and the name of the picture that comes of it."""

import csv
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

# Of pictures in a folder; what a file really is, `images` finds out.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".avif", ".gif", ".bmp")


class Pair(NamedTuple):
    """A picture to make: two files that are read, and the one that is written."""

    photo: Path
    style: Path
    output: Path


def files(place: Path, *, what: str) -> list[Path]:
    """A file as it is; of a folder the pictures in it, by name, not those in folders of its own.

    Hidden files are left out, and those whose suffix is none of ``SUFFIXES``.

    Args:
      place: a file or a folder.
      what: to call it in a message.

    Raises:
      OSError: there is no such place, or it cannot be read.
      ValueError: a folder without a picture.
    """
    if not place.exists():
        raise FileNotFoundError(f"{what} {str(place)!r}: there is no such file or folder")
    if not place.is_dir():
        return [place]
    found = [
        path
        for path in sorted(place.iterdir())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not found:
        raise ValueError(
            f"{what} {str(place)!r}: no picture lies in this folder (files ending in "
            f"{', '.join(SUFFIXES)})"
        )
    return found


def product(photos: Sequence[Path], styles: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Every photo with every style, photo by photo."""
    return list(itertools.product(photos, styles))


def table(path: Path) -> list[tuple[Path, Path]]:
    """The pairs in a CSV file with the columns ``photo`` and ``style``; others are not looked at.

    File names are relative to the table's folder. A pair that is named again counts once.

    Args:
      path: of the table, in UTF-8.

    Raises:
      OSError: it cannot be read.
      ValueError: it is no such table, has no pair, or one that is incomplete.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            rows = csv.DictReader(file)
            heads = [head.strip().lower() for head in rows.fieldnames or ()]
            if not {"photo", "style"} <= set(heads):
                raise ValueError(
                    f"--pairs {path}: its first line is {','.join(heads) or 'empty'}; it must name "
                    "the columns photo and style"
                )
            rows.fieldnames = heads
            found = [_pair(path, rows.line_num, row) for row in rows]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"--pairs {path} is no table of UTF-8 text: {error}") from error
    if not found:
        raise ValueError(f"--pairs {path} has no line below its first; add photo,style pairs")
    return list(dict.fromkeys(found))


def _pair(path: Path, line: int, row: dict[str, str | None]) -> tuple[Path, Path]:
    names = [(row[head] or "").strip() for head in ("photo", "style")]
    if not all(names):
        raise ValueError(f"--pairs {path}: line {line} names no photo or no style")
    photo, style = (path.parent / name for name in names)
    return photo, style


def named(pairs: Sequence[tuple[Path, Path]], folder: Path, suffix: str) -> list[Pair]:
    """The pairs with ``folder/PHOTO--STYLE.suffix``, no two of which are the same on any disk.

    Files of the same name but for their suffix keep it, as ``photo_jpg``; what is alike then, as
    files of several folders, is numbered in the order of the pairs.

    >>> pairs = [(Path("a.jpg"), Path("s.png")), (Path("a.png"), Path("s.png"))]
    >>> [pair.output.name for pair in named(pairs, Path("out"), ".png")]
    ['a_jpg--s.png', 'a_png--s.png']
    """
    photos, styles = (_labels(column) for column in zip(*pairs, strict=True))
    taken: set[str] = set()
    made = []
    for photo, style in pairs:
        name = next(
            n for n in _numbered(f"{photos[photo]}--{styles[style]}") if _key(n) not in taken
        )
        taken.add(_key(name))
        made.append(Pair(photo, style, folder / f"{name}{suffix}"))
    return made


def _key(name: str) -> str:
    """Equal for names that a disk may take for the same."""
    return name.casefold()


def _labels(column: Sequence[Path]) -> dict[Path, str]:
    """What to call each file."""
    different = dict.fromkeys(column)
    count = Counter(_key(file.stem) for file in different)
    return {
        file: file.stem if count[_key(file.stem)] == 1 else file.name.replace(".", "_")
        for file in different
    }


def _numbered(name: str) -> Iterator[str]:
    yield name
    for number in itertools.count(2):
        yield f"{name}-{number}"
