"""safetensors: the length of a header, the header as JSON, and the tensors' bytes without gaps.

See https://github.com/huggingface/safetensors#format. The package of that name is not needed.
"""

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from stylejax.formats.arrays import LONGEST_TABLE, Stored, counts, open_distrusted, take
from stylejax.formats.refusal import printable

# The format's types that a checkpoint may hold beside the wanted tensors: name, bytes an element.
_DTYPES = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "F8_E4M3": ("float8_e4m3", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "U16": ("uint16", 2),
    "I16": ("int16", 2),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "U32": ("uint32", 4),
    "I32": ("int32", 4),
    "F32": ("float32", 4),
    "U64": ("uint64", 8),
    "I64": ("int64", 8),
    "F64": ("float64", 8),
}


class _Entry(NamedTuple):
    """A tensor as the header has it; ``begin`` and ``end`` count from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_tensors(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Reads tensors of a safetensors file.

    Args:
      path: the file.
      shapes: the wanted tensors, by name. The file may hold others, which are not read.

    Returns:
      An array for each of ``shapes``: float32, C-contiguous, finite.

    Raises:
      FileNotFoundError: there is no such file.
      Refusal: it is not exactly such a file; the message says in what.
    """
    with open_distrusted(path, "safetensors") as file:
        return take(path, _stored(file), shapes)


def _stored(file: BinaryIO) -> dict[str, Stored]:
    """What the header says; the tensors must fill the rest of the file without gap or overlap."""
    header = _header(file)
    start = file.tell()
    entries = [_entry(name, fields) for name, fields in header.items() if name != "__metadata__"]
    position = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            raise ValueError(f"gap or overlap before the tensor {printable(entry.name)}")
        position = entry.end
    if start + position != file.seek(0, 2):
        raise ValueError(f"{file.tell()} bytes, expected {start + position}")
    return {
        entry.name: Stored(entry.dtype, entry.shape, partial(_read, file, start, entry))
        for entry in entries
    }


def _header(file: BinaryIO) -> dict[str, Any]:
    length = int.from_bytes(file.read(8), "little")
    if length > LONGEST_TABLE:
        raise ValueError(f"a header of {length} bytes, expected at most {LONGEST_TABLE}")
    text = file.read(length)
    if len(text) < length or not text.startswith(b"{"):
        raise ValueError("its header is cut off or no JSON object")
    header = json.loads(text.decode("utf-8"), object_pairs_hook=_distinct)
    metadata = header.get("__metadata__", {})
    if type(metadata) is not dict or not all(type(text) is str for text in metadata.values()):
        raise ValueError("its __metadata__ is no map of strings")
    return header


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Where a name occurs twice, readers disagree on which one counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header has a name twice")
    return found


def _entry(name: str, fields: Any) -> _Entry:
    if type(fields) is not dict or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"no dtype, shape and data_offsets for {printable(name)}")
    if fields["dtype"] not in _DTYPES:
        raise ValueError(f"an unknown dtype for {printable(name)}")
    dtype, width = _DTYPES[fields["dtype"]]
    shape = counts(fields["shape"])
    begin, end = counts(fields["data_offsets"])
    if end - begin != math.prod(shape) * width:
        raise ValueError(f"data_offsets that do not fit the shape of {printable(name)}")
    return _Entry(name, dtype, shape, begin, end)


def _read(file: BinaryIO, start: int, entry: _Entry) -> np.ndarray:
    file.seek(start + entry.begin)
    flat = np.frombuffer(file.read(entry.end - entry.begin), "<f4")
    return flat.reshape(entry.shape).astype(np.float32)
