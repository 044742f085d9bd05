"""MATLAB's MAT files of level 5 (MATLAB 5 to 7), read with distrust.

Such a file is a header and a sequence of elements: a tag, which says of what type the element is
and how many bytes it has, and these bytes, padded to a multiple of eight. A variable is an element
of type "matrix", whose bytes are elements again: its class, its shape, its name, then its numbers
or, where it is a cell or a struct, the matrices in it. MATLAB 7 compresses each variable by itself.
What is in the file becomes

- a numeric array: an array of the dtype of its class, with MATLAB's axes in MATLAB's order;
- a logical array: an array of bool;
- a char array: a str, or a list of its rows where it has several;
- a cell array: a list, flattened with the first index fastest;
- a struct: a dict; an array of structs, unless it is of one: a list, flattened as cells are;
- an array of more elements than the caller has a use for: ``Skipped``.

Nothing else is read: no complex or sparse array, no object, no function. Sizes are checked before
anything is allocated, and what a whole file may use is bounded, whatever its bytes say.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from stylejax.formats.refusal import COMMAND, REMEDY, Refusal, printable

# What one file may have in all. A VGG-19 has a few thousand matrices and fields, most of them the
# names of classes; it inflates to 575 MB, of which 80 MB are not of its fully connected layers.
ALLOWANCE = {"matrices and fields": 2**15, "bytes inflated": 2**30, "bytes kept": 2**28}

MAX_DEPTH = 16
MAX_AXES = 8
MAX_NAME = 63  # MATLAB's own limit
MAX_FIELDS = 2**10
MAX_ELEMENTS = 2**40  # of a shape, axes of length 0 left out
CHUNK = 2**16

# Types of elements: those that numbers and letters are stored as, and those of the structure.
_NUMBERS: dict[int, np.dtype[Any]] = {
    **{1: np.dtype("i1"), 2: np.dtype("u1"), 3: np.dtype("<i2"), 4: np.dtype("<u2")},
    **{5: np.dtype("<i4"), 6: np.dtype("<u4"), 7: np.dtype("<f4"), 9: np.dtype("<f8")},
    **{12: np.dtype("<i8"), 13: np.dtype("<u8")},
}
_LETTERS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15

# Classes of matrices, and the bits beside the class that matter.
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC: dict[int, np.dtype[Any]] = {
    **{6: np.dtype("f8"), 7: np.dtype("f4"), 8: np.dtype("i1"), 9: np.dtype("u1")},
    **{10: np.dtype("i2"), 11: np.dtype("u2"), 12: np.dtype("i4"), 13: np.dtype("u4")},
    **{14: np.dtype("i8"), 15: np.dtype("u8")},
}
_FOREIGN = {3: "an object", 5: "sparse", 16: "a function", 17: "an object"}
_LOGICAL, _COMPLEX = 2, 8


class Skipped(NamedTuple):
    """Stands for an array that has more elements than were asked for.

    Attributes:
      shape: MATLAB's axes in MATLAB's order.
    """

    shape: tuple[int, ...]


def read(path: str | Path, *, largest: int) -> dict[str, Any]:
    """The variables of a file.

    Args:
      path: the file.
      largest: numeric and char arrays of more elements are passed over, never being in memory.

    Returns:
      ``{name: value}``; the head of this module says what values there are.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no such file, is damaged, or holds what is not read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `{COMMAND}` fetches one")
    try:
        with open(path, "rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            return _variables(_Source(path, file, size, largest, dict(ALLOWANCE)))
    except (OSError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise Refusal(f"{path}: cannot be read as a MAT file ({reason}); {REMEDY}") from error


class _Inflated(io.RawIOBase):
    """What the next ``size`` bytes of a file decompress to, and no more of it than is asked for."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        """Reads nothing yet."""
        self._file = file
        self._left = size
        self._zlib = zlib.decompressobj()

    def readable(self) -> bool:
        """Yes, from front to back."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills ``buffer`` as far as the next piece reaches; 0 at the end.

        MATLAB has written streams without zlib's mark of their end, so none is asked for.
        """
        while not self._zlib.eof:
            source = self._zlib.unconsumed_tail
            if not source:
                source = self._file.read(min(CHUNK, self._left))
                self._left -= len(source)
            piece = self._zlib.decompress(source, len(buffer))
            if piece or not source:
                buffer[: len(piece)] = piece
                return len(piece)
        return 0


class _Tag(NamedTuple):
    """How an element begins; four bytes of data or less stand in the tag itself."""

    type: int
    size: int
    inside: bytes | None


@dataclass
class _Source:
    """A stream that is read from front to back, and how far that may go.

    ``place`` is in every method what is being read, for messages.

    Attributes:
      path: the file.
      stream: the file, or one variable of it inflated.
      end: of what may be read now, in bytes from the start of the stream.
      largest: see ``read``.
      allowance: what the rest of the file may have; shared by all its streams.
      position: of what comes next.
    """

    path: Path
    stream: BinaryIO
    end: int
    largest: int
    allowance: dict[str, int]
    position: int = 0

    def refusal(self, place: str, problem: str) -> Refusal:
        """The error that says what is wrong with a part of the file."""
        return Refusal(f"{self.path}: {printable(place)} {problem}; {REMEDY}")

    def spend(self, what: str, amount: int, place: str) -> None:
        """Takes from the allowance, before the memory is taken."""
        left = self.allowance[what]
        if amount > left:
            problem = f"needs {amount} {what}, and a file may have {left} more"
            raise self.refusal(place, f"is too large: it {problem}")
        self.allowance[what] = left - amount

    def check(self, size: int, place: str) -> None:
        """That so many bytes are left."""
        left = self.end - self.position
        if size > left:
            raise self.refusal(place, f"is damaged: it takes {size} bytes, and {left} are left")

    def take(self, size: int, place: str) -> bytes:
        """The next bytes."""
        self.check(size, place)
        data = self.stream.read(size)
        if len(data) < size:
            raise self.refusal(place, f"is damaged: it takes {size} bytes, and has {len(data)}")
        self.position += size
        return data

    def skip(self, size: int, place: str) -> None:
        """Passes over the next bytes, a few of them in memory at a time."""
        self.check(size, place)
        end = self.position + size
        if self.stream.seekable():
            self.position = self.stream.seek(end)
        while self.position < end:
            self.take(min(CHUNK, end - self.position), place)

    @contextmanager
    def within(self, size: int, place: str) -> Iterator[None]:
        """The next bytes and no others are read, all of them."""
        self.check(size, place)
        outer, self.end = self.end, self.position + size
        yield
        if self.position < self.end:
            left = self.end - self.position
            raise self.refusal(place, f"is damaged: its last {left} bytes are part of nothing")
        self.end = outer

    def tag(self, place: str) -> _Tag:
        """The next tag."""
        raw = self.take(8, place)
        word, size = struct.unpack("<II", raw)
        if word < 2**16:
            return _Tag(word, size, None)
        size, kind = divmod(word, 2**16)
        if size > 4:
            raise self.refusal(place, f"is damaged: {size} bytes inside a tag, expected at most 4")
        return _Tag(kind, size, raw[4 : 4 + size])

    def data(self, tag: _Tag, place: str) -> bytes:
        """The bytes that a tag speaks of."""
        if tag.inside is not None:
            return tag.inside
        data = self.take(tag.size, place)
        self.skip(-tag.size % 8, place)
        return data

    def pass_over(self, tag: _Tag, place: str) -> None:
        """Skips the bytes that a tag speaks of."""
        if tag.inside is None:
            self.skip(tag.size + -tag.size % 8, place)

    def element(self, kind: int, most: int, place: str) -> bytes:
        """The bytes of the next element, which has this type and no more bytes than these."""
        tag = self.tag(place)
        if tag.type != kind or tag.size > most:
            problem = f"{tag.size} bytes of type {tag.type}, expected at most {most} of type {kind}"
            raise self.refusal(place, f"is damaged: {problem}")
        return self.data(tag, place)


class _Header(NamedTuple):
    """What a matrix says of itself."""

    kind: int
    logical: bool
    shape: tuple[int, ...]
    name: str


def _variables(source: _Source) -> dict[str, Any]:
    """All that is in a file."""
    _check_file_header(source)
    found: dict[str, Any] = {}
    while source.position < source.end:
        name, value = _variable(source)
        if not name or name in found:
            again = f"has two variables {printable(name)}" if name else "has a nameless variable"
            raise source.refusal("the file", again)
        found[name] = value
    return found


def _check_file_header(source: _Source) -> None:
    """That the first bytes are those of this format."""
    start = source.take(min(128, source.end), "the file")
    version = start[124:]
    if start.startswith(b"\x89HDF\r\n\x1a\n") or version == b"\0\2IM":
        raise source.refusal("the file", "is HDF5 (MATLAB 7.3), expected MATLAB 5 to 7")
    if version == b"\1\0MI":
        raise source.refusal("the file", "is big-endian, expected little-endian")
    if version != b"\0\1IM":
        raise source.refusal("the file", "is no MAT file of MATLAB 5 to 7")


def _variable(source: _Source) -> tuple[str, Any]:
    """Name and value of the next variable, compressed or not."""
    place = "a variable"
    source.spend("matrices and fields", 1, place)
    tag = source.tag(place)
    if tag.type != _COMPRESSED:
        return _matrix(source, tag, place)
    with source.within(tag.size, place):
        name, value = _inflated_variable(source, tag.size, place)
        source.position = source.stream.seek(source.end)
    return name, value


def _inflated_variable(source: _Source, size: int, place: str) -> tuple[str, Any]:
    """The variable in the next ``size`` bytes."""
    stream: Any = io.BufferedReader(_Inflated(source.stream, size), CHUNK)
    inner = replace(source, stream=stream, position=0, end=8)
    tag = inner.tag(place)
    source.spend("bytes inflated", tag.size, place)
    inner.end += tag.size
    name, value = _matrix(inner, tag, place)
    if stream.read(1):
        raise source.refusal(name, "is damaged: it inflates to more than it says")
    return name, value


def _matrix(source: _Source, tag: _Tag, place: str, depth: int = 0) -> tuple[str, Any]:
    """Name and value of the matrix that a tag speaks of; one of no bytes is MATLAB's ``[]``."""
    if tag.type != _MATRIX:
        raise source.refusal(place, f"is damaged: an element of type {tag.type}, expected a matrix")
    if depth > MAX_DEPTH:
        raise source.refusal(place, f"lies inside more than {MAX_DEPTH} cells and structs")
    if not tag.size:
        return "", np.empty((0, 0))
    with source.within(tag.size, place):
        header = _header(source, place)
        place = place if depth else header.name or place
        if header.kind == _CELL:
            return header.name, _cells(source, header, place, depth)
        if header.kind == _STRUCT:
            return header.name, _structs(source, header, place, depth)
        if header.kind == _CHAR:
            return header.name, _text(source, header, place)
        return header.name, _numbers(source, header, place)


def _header(source: _Source, place: str) -> _Header:
    """Class, shape and name, which every matrix begins with."""
    kind, bits = source.element(_UINT32, 8, place).ljust(2, b"\0")[:2]
    if kind not in (_CELL, _STRUCT, _CHAR, *_NUMERIC):
        found = _FOREIGN.get(kind, f"of class {kind}")
        raise source.refusal(place, f"is {found}, expected numbers, text, cells or structs")
    if bits & _COMPLEX:
        raise source.refusal(place, "is complex, expected real numbers")
    axes = source.element(_INT32, 4 * MAX_AXES, place)
    shape = tuple(np.frombuffer(axes[: len(axes) // 4 * 4], "<i4").tolist())
    size = math.prod(max(length, 1) for length in shape)
    if len(shape) < 2 or min(shape) < 0 or size > MAX_ELEMENTS:
        raise source.refusal(place, f"has the shape {shape}, which no array has")
    name = _name(source, source.element(_INT8, MAX_NAME, place), place)
    return _Header(kind, bool(bits & _LOGICAL), shape, name)


def _name(source: _Source, raw: bytes, place: str) -> str:
    """A name, which ends where the first zero is."""
    raw = raw.split(b"\0")[0]
    if not raw.isascii() or len(raw) > MAX_NAME:
        raise source.refusal(place, "is damaged: it has a name that MATLAB does not allow")
    return raw.decode()


def _member(source: _Source, place: str, depth: int) -> Any:
    """The next matrix in a cell or a struct."""
    return _matrix(source, source.tag(place), place, depth + 1)[1]


def _cells(source: _Source, header: _Header, place: str, depth: int) -> list[Any]:
    """What is in a cell array, the first index fastest."""
    count = math.prod(header.shape)
    source.spend("matrices and fields", count, place)
    return [_member(source, f"{place}{{{i}}}", depth) for i in range(1, count + 1)]


def _structs(source: _Source, header: _Header, place: str, depth: int) -> Any:
    """A struct, or the structs of an array, the first index fastest."""
    names = _field_names(source, place)
    count = math.prod(header.shape)
    source.spend("matrices and fields", count * max(len(names), 1), place)
    structs = []
    for index in range(1, count + 1):
        here = place if count == 1 else f"{place}({index})"
        structs.append({n: _member(source, f"{here}.{n}", depth) for n in names})
    return structs[0] if count == 1 else structs


def _field_names(source: _Source, place: str) -> list[str]:
    """The fields of a struct, each kept in so and so many bytes."""
    length = int.from_bytes(source.element(_INT32, 4, place), "little")
    raw = source.element(_INT8, MAX_FIELDS * (MAX_NAME + 1), place)
    if raw and (not length or len(raw) % length):
        raise source.refusal(place, "is damaged: the names of its fields do not fit their number")
    starts = range(0, len(raw), length or 1)
    source.spend("matrices and fields", len(starts), place)
    names = [_name(source, raw[start : start + length], place) for start in starts]
    if "" in names or len(set(names)) < len(names):
        raise source.refusal(place, "has two fields of one name, or one without a name")
    return names


def _text(source: _Source, header: _Header, place: str) -> Any:
    """A char array: one str, or one for each row."""
    count, rows = math.prod(header.shape), header.shape[0]
    tag = source.tag(place)
    if tag.type not in _LETTERS or tag.size > 4 * count:
        found = f"{tag.size} bytes of type {tag.type}"
        raise source.refusal(place, f"is damaged: {found} for {count} characters")
    if count > source.largest:
        source.pass_over(tag, place)
        return Skipped(header.shape)
    source.spend("bytes kept", 4 * count, place)
    text = source.data(tag, place).decode(_LETTERS[tag.type], "replace")
    if rows < 2 or not text:
        return text
    source.spend("matrices and fields", rows, place)
    return [text[row::rows] for row in range(rows)]


def _numbers(source: _Source, header: _Header, place: str) -> Any:
    """A numeric or logical array; MATLAB stores whole numbers in the smallest type that fits."""
    dtype, count = _NUMERIC[header.kind], math.prod(header.shape)
    tag = source.tag(place)
    stored = _NUMBERS.get(tag.type)
    if stored is None or not _holds(dtype, stored):
        raise source.refusal(place, f"is damaged: type {tag.type} for numbers of {dtype}")
    if tag.size != count * stored.itemsize:
        found = f"{tag.size} bytes of {stored}"
        raise source.refusal(place, f"is damaged: {found} for the shape {header.shape}")
    if count > source.largest:
        source.pass_over(tag, place)
        return Skipped(header.shape)
    source.spend("bytes kept", count * max(stored.itemsize, dtype.itemsize), place)
    array = np.frombuffer(source.data(tag, place), stored).astype(dtype)
    array = array.reshape(header.shape, order="F")
    return array != 0 if header.logical else array


def _holds(dtype: np.dtype, stored: np.dtype) -> bool:
    """Whether no number of one type can be out of the other's range."""
    return np.can_cast(stored, dtype) or (stored.kind in "iu" and dtype.kind == "f")
