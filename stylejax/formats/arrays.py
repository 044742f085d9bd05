"""What reading a file of named arrays shares, whatever its format: opening it, taking the wanted.

A format's reader says what a file holds (``Stored``) without reading any of the arrays; ``take``
compares that with what is wanted and only then has the bytes read.
"""

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from stylejax.formats.refusal import COMMAND, REMEDY, Refusal, listing, printable

# A VGG has 38 tensors, which a few thousand bytes describe.
MOST_TENSORS = 4096
LONGEST_TABLE = 2**20  # bytes
MOST_AXES = 8

# Whatever the readers, or the modules that they call, meet a malformed file with.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class Stored(NamedTuple):
    """What a file says of an array.

    Attributes:
      dtype: the name of its type.
      shape: of the array.
      read: reads it, if it is of type float32.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turns whatever the readers raise into a Refusal of one line that begins with ``what``."""
    try:
        yield
    except Refusal:
        raise
    except _DAMAGE as error:
        reason = printable(" ".join(str(error).split()) or type(error).__name__)
        raise Refusal(f"{what} ({reason}); {REMEDY}") from error


@contextmanager
def open_distrusted(path: str | Path, kind: str) -> Iterator[BinaryIO]:
    """A file open for reading; whatever is found wrong with it becomes a Refusal of one line.

    Args:
      path: the file.
      kind: of file that it is read as, for the message.

    Raises:
      FileNotFoundError: there is no such file.
      Refusal: it cannot be opened, or what is done with it fails.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; `{COMMAND}` fetches one")
    with refusing(f"{path}: cannot be read as {kind}"), open(path, "rb") as file:
        yield file


def counts(value: Any) -> tuple[int, ...]:
    """A shape, strides or offsets out of a file, once they are known to be a few integers >= 0.

    Raises:
      ValueError: they are anything else.
    """
    if type(value) not in (list, tuple) or len(value) > MOST_AXES:
        raise ValueError(f"a shape or the like that is no list of at most {MOST_AXES} integers")
    if not all(type(item) is int and 0 <= item < 2**63 for item in value):
        raise ValueError("a shape or the like that holds other things than integers from 0")
    return tuple(value)


def take(
    path: str | Path, stored: Mapping[str, Stored], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Reads the arrays that are wanted, and no others.

    Args:
      path: the file, for messages.
      stored: what the file says it holds.
      shapes: the wanted arrays, by name.

    Returns:
      An array for each of ``shapes``, in their order: float32, C-contiguous, finite, writable.

    Raises:
      Refusal: one is absent, of another type or shape, or not finite; or the file names more
        arrays than any that is known.
    """
    if len(stored) > MOST_TENSORS:
        raise Refusal(f"{path}: names {len(stored)} arrays, at most {MOST_TENSORS} fit; {REMEDY}")
    return {name: _take_one(path, stored, name, shape) for name, shape in shapes.items()}


def _take_one(
    path: str | Path, stored: Mapping[str, Stored], name: str, shape: tuple[int, ...]
) -> np.ndarray:
    place = f"{path}: {printable(name)}"
    if name not in stored:
        held = listing(stored) or "nothing"
        raise Refusal(f"{place} is not among its arrays (it holds {held}); {REMEDY}")
    found = stored[name]
    if found.dtype != "float32":
        raise Refusal(f"{place} has dtype {found.dtype}, expected float32; {REMEDY}")
    if found.shape != shape:
        raise Refusal(f"{place} has shape {found.shape}, expected {shape}; {REMEDY}")
    with refusing(f"{place} cannot be read"):
        array = found.read()
    if not np.isfinite(array).all():
        raise Refusal(f"{place} holds values that are not finite; {REMEDY}")
    return array
