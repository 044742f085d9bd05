"""The format in which params are kept: HDF5, verified when read, replaced whole when written.

A group per layer holds ``kernel`` and ``bias`` (float32), each with HDF5's own checksum and the
SHA-256 of its bytes as attribute ``sha256``. The root's attributes are ``format``, ``version``, the
architecture (``blocks``, ``widths``), ``source``, ``source_sha256`` and ``licence``.
"""

import hashlib
import io
import math
from pathlib import Path

import h5py
import numpy as np

from stylejax import vgg
from stylejax.convert import (
    COMMAND,
    Params,
    Refusal,
    attribute,
    listing,
    member,
    open_hdf5,
    read_array,
    refusal,
)
from stylejax.files import replacing

FORMAT = "stylejax-vgg"
REMEDY = "name another file, or set STYLEJAX_CACHE to a folder that can be written"
VERSION = 1
MAX_PARAMETERS = 2**28  # 1 GiB of float32, thirteen VGG-19s: a header asking for more is no VGG


def _checksum(array: np.ndarray) -> np.bytes_:
    return np.bytes_(hashlib.sha256(array.tobytes()).hexdigest())


def save(
    path: str | Path,
    params: vgg.Params,
    *,
    source: str,
    source_sha256: str = "",
    licence: str = "unknown",
) -> None:
    """Stores params; ``path`` is either the complete new file or what it was before.

    Args:
      path: the file; its folder is made where it is missing.
      params: float32 arrays, the tree of ``vgg.parameter_shapes``.
      source: name or URL of what they came from.
      source_sha256: of that file.
      licence: of the arrays, with attribution.

    Raises:
      ValueError: params are no VGG, not float32 or not finite.
      OSError: the folder cannot be written, or is full.
    """
    architecture = vgg.architecture_of(params)
    # In memory first: a full disk is then an ordinary OSError, not a failure inside HDF5.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        provenance = {"source": source, "source_sha256": source_sha256, "licence": licence}
        # Bytes, that is strings of fixed length: see convert.attribute.
        texts = {"format": FORMAT, **provenance}
        file.attrs.update({name: np.bytes_(text.encode()) for name, text in texts.items()})
        file.attrs["version"] = VERSION
        file.attrs.update(architecture._asdict())
        for layer in vgg.parameter_shapes(architecture):
            for name, value in params[layer].items():
                array = np.ascontiguousarray(value)
                if array.dtype != np.float32 or not np.isfinite(array).all():
                    raise ValueError(f"{layer}/{name} is {array.dtype}: expected finite float32")
                array = array.astype("<f4", copy=False)
                where = f"{layer}/{name}"
                dataset = file.create_dataset(
                    where, data=array, chunks=array.shape, fletcher32=True
                )
                dataset.attrs["sha256"] = _checksum(array)
    with replacing(path, remedy=REMEDY) as output:
        output.write(buffer.getbuffer())


def is_store(file: h5py.File) -> bool:
    """Whether a file says that ``save`` wrote it."""
    return attribute(file, "format", "S", 0) == FORMAT.encode()


def _stored_architecture(file: h5py.File) -> vgg.Architecture:
    """The architecture a stored file says it has, if it is one that this version can read."""
    if not is_store(file):
        raise Refusal(
            f"{file.filename}: not a stylejax weights file; if it is a Keras checkpoint, convert "
            f"it with `{COMMAND} --source {file.filename}`"
        )
    version = attribute(file, "version", "iu", 0)
    if version != VERSION:
        raise refusal(file, f"has format version {version}, this stylejax reads version {VERSION}")
    columns = []
    for name in vgg.Architecture._fields:
        values = attribute(file, name, "iu", 1)
        if values is None or not 1 <= len(values) <= 16 or min(values) < 1 or max(values) > 8192:
            raise refusal(file, f"has no sensible attribute {name!r}")
        columns.append(tuple(int(value) for value in values))
    if len(columns[0]) != len(columns[1]):
        raise refusal(file, "gives its blocks and its widths in different numbers")
    architecture = vgg.Architecture(*columns)
    shapes = vgg.parameter_shapes(architecture).values()
    if sum(math.prod(shape) for layer in shapes for shape in layer.values()) > MAX_PARAMETERS:
        raise refusal(file, f"describes more than {MAX_PARAMETERS} parameters")
    return architecture


def load(path: str | Path) -> Params:
    """Loads params that ``save`` stored, after verifying every array's checksum.

    Returns:
      ``{"input": ..., "conv1_1": {"kernel": [3, 3, 3, 64], "bias": [64]}, ...}``, NumPy float32.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: not such a file, of another version, damaged, or not finite.
    """
    params: Params = {}
    with open_hdf5(path) as file:
        shapes = vgg.parameter_shapes(_stored_architecture(file))
        if set(file) != set(shapes):
            raise refusal(file, f"holds {listing(file)}, expected {', '.join(shapes)}")
        for layer, arrays in shapes.items():
            group = member(file, layer, h5py.Group)
            params[layer] = {name: read_array(group, name, shape) for name, shape in arrays.items()}
            for name, array in params[layer].items():
                if attribute(group[name], "sha256", "S", 0) != _checksum(array):
                    raise refusal(group[name], "is damaged: it does not match its SHA-256")
    return params


def digest(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
