"""HDF5, read with distrust: hard links only, float32 datasets of the expected shape only.

Type, shape and storage are checked before a byte of data is read, so that a hostile file can
neither reach another file nor fill the memory.
"""

import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stylejax.formats.refusal import COMMAND, REMEDY, Refusal, listing, printable

# The only filters a weights file has use for, in the order in which they are applied; any other
# would run foreign decoders on its bytes.
FILTERS = {
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
}
MOST_CHUNKS = 2**14  # of a dataset
SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 2**64 - 1  # the address of what is not there


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """An HDF5 file open for reading; what HDF5 objects to becomes a ValueError of one line.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: not HDF5, truncated or damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; `{COMMAND}` fetches one")
    try:
        _check_superblock(Path(path))
        # No lock: files are only ever replaced whole, and read-only shares refuse locks.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except Refusal:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read as HDF5 ({reason}); {REMEDY}") from error


def _check_superblock(path: Path) -> None:
    """Refuses a file whose first block names places that no writer of weights uses.

    HDF5 follows what it finds there before anything can be asked about it: a superblock with an
    address of drivers or of free space out of place made it take a gigabyte for a file of 33 kB.

    Raises:
      OSError: no HDF5 file, cut short, or of a layout that is not expected.
    """
    with open(path, "rb") as file:
        head = file.read(96)
    if not head.startswith(SIGNATURE):
        raise OSError("file signature not found")
    version = head[8] if len(head) == 96 else 4
    if version > 3:
        raise OSError("truncated superblock, or one of an unknown version")
    sizes, start = (head[13:15], 24 + 4 * version) if version < 2 else (head[9:11], 12)
    if sizes != bytes((8, 8)):
        raise OSError("addresses and lengths are not of 8 bytes")
    # Behind the end of the file, version 0 and 1 have the drivers and later ones the root group.
    base, other, end, last = struct.unpack_from("<4Q", head, start)
    if base != 0 or other != UNDEFINED or (version < 2 and last != UNDEFINED):
        raise OSError("the superblock names a base, a free space, an extension or a driver")
    if end > path.stat().st_size:
        raise OSError(f"truncated file: {path.stat().st_size} of {end} bytes")


def refusal(place: Any, problem: str) -> Refusal:
    """The error that says what is wrong with a group or a dataset."""
    return Refusal(f"{place.file.filename}: {printable(place.name)} {problem}; {REMEDY}")


def member(group: h5py.Group, name: str, kind: type) -> Any:
    """A direct member of a group, of the given h5py class.

    Only a hard link is followed: a soft or external one could name any file of this machine.

    Raises:
      ValueError: absent, reached by another kind of link, or of another class.
    """
    link = group.get(name, getlink=True)
    if link is None:
        raise refusal(group, f"has no {name} (it holds {listing(group) or 'nothing'})")
    if not isinstance(link, h5py.HardLink):
        raise refusal(group, f"has a {type(link).__name__} for {printable(name)}, not the data")
    found = group[name]
    if not isinstance(found, kind):
        raise refusal(found, f"is a {type(found).__name__}, expected a {kind.__name__}")
    return found


def attribute(place: Any, name: str, kinds: str, rank: int) -> Any:
    """An attribute of a group or a dataset, or None where there is none such.

    Only small ones of fixed size are read: HDF5 keeps strings of variable length in a heap, and
    where a damaged file has a damaged heap it searches it for ever.

    Args:
      place: the group or dataset.
      name: of the attribute.
      kinds: NumPy's letters for the types it may have, such as ``"iu"``.
      rank: its number of axes.
    """
    if name not in place.attrs:
        return None
    header = place.attrs.get_id(name)
    fits = header.dtype.kind in kinds and len(header.shape) == rank
    return place.attrs[name] if fits and header.get_storage_size() <= 4096 else None


def read_array(group: h5py.Group, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 dataset; nothing is read before type, shape and storage are as expected.

    Raises:
      ValueError: absent, linked, of another type or shape, kept outside the file, compressed by
        an unexpected filter, or not finite.
    """
    dataset = member(group, name, h5py.Dataset)
    if dataset.dtype != np.dtype("<f4"):
        raise refusal(dataset, f"has dtype {dataset.dtype}, expected float32")
    # A dataset that may grow can have chunks far larger than itself, which HDF5 reads whole.
    if dataset.shape != shape or dataset.maxshape != shape:
        raise refusal(dataset, f"has shape {dataset.shape}, expected {shape} and no more")
    if dataset.is_virtual or dataset.external is not None:
        raise refusal(dataset, "keeps its data in other files, expected it inside this one")
    if dataset.chunks is not None:
        _check_chunks(dataset, _filters(dataset))
    array = dataset[()]
    if not np.isfinite(array).all():
        raise refusal(dataset, "holds values that are not finite")
    return array


def _filters(dataset: h5py.Dataset) -> list[int]:
    """The filters of a dataset, in the order in which they were applied."""
    properties = dataset.id.get_create_plist()
    codes = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    if codes != [code for code in FILTERS if code in codes]:
        found, allowed = ", ".join(map(str, codes)), ", ".join(FILTERS.values())
        raise refusal(dataset, f"uses HDF5 filter {found}, expected none but {allowed} once each")
    return codes


def _check_chunks(dataset: h5py.Dataset, filters: list[int]) -> None:
    """That every part of a dataset is there, and inflates to its own size.

    HDF5 inflates to whatever size a stream has, a thousand times what is stored, before it looks
    how much was wanted; and it subtracts a checksum's four bytes from what is stored without
    looking whether it is less.
    """
    starts = [range(0, *pair) for pair in zip(dataset.shape, dataset.chunks, strict=True)]
    if math.prod(map(len, starts)) > MOST_CHUNKS:
        raise refusal(dataset, f"is in more than {MOST_CHUNKS} parts")
    size = math.prod(dataset.chunks) * dataset.dtype.itemsize
    gzip = filters.index(h5py.h5z.FILTER_DEFLATE) if h5py.h5z.FILTER_DEFLATE in filters else None
    for start in itertools.product(*starts):
        chunk = dataset.id.get_chunk_info_by_coord(start)
        if chunk.byte_offset is None or not 4 < chunk.size <= size + size // 64 + 64:
            raise refusal(dataset, f"is damaged: a part of {size} bytes takes {chunk.size}")
        if gzip is not None and not chunk.filter_mask >> gzip & 1:  # else it was left out there
            _, data = dataset.id.read_direct_chunk(start)
            try:
                inflated = zlib.decompressobj().decompress(data, size + 1)
            except zlib.error:
                inflated = b""
            if len(inflated) != size:
                raise refusal(dataset, f"is damaged: a part does not inflate to {size} bytes")
