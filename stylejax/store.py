"""The format in which params are kept: HDF5, verified when read, replaced whole when written.

A group per layer holds ``kernel`` and ``bias`` (float32), each with HDF5's own checksum and the
SHA-256 of its bytes as attribute ``sha256``. The root's attributes are ``format``, ``version``, the
architecture (``blocks``, ``widths``, and for a distilled network ``tap_layers`` and
``tap_widths``), and what is known of the origin (``Origin``).
"""

import hashlib
import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from stylejax import vgg
from stylejax.convert import Params
from stylejax.files import replacing
from stylejax.formats.hdf5 import attribute, member, open_hdf5, read_array, refusal
from stylejax.formats.refusal import COMMAND, Refusal, listing

FORMAT = "stylejax-vgg"
REMEDY = "name another file, or set STYLEJAX_CACHE to a folder that can be written"
VERSION = 1
MAX_PARAMETERS = 2**28  # 1 GiB of float32, thirteen VGG-19s: a header asking for more is no VGG


class Origin(NamedTuple):
    """Where the arrays of a stored file come from.

    Attributes:
      source: name or URL of the checkpoint.
      source_sha256: of that file.
      licence: of the arrays, with attribution.
      network: ``vgg19``, ``vgg19-torchvision``, ``slim``, or ``unknown``.
      normalised: whether every filter's mean activation is one (``normalisation``).
    """

    source: str
    source_sha256: str = ""
    licence: str = "unknown"
    network: str = "unknown"
    normalised: bool = False


def _checksum(array: np.ndarray) -> np.bytes_:
    return np.bytes_(hashlib.sha256(array.tobytes()).hexdigest())


def save(path: str | Path, params: vgg.Params, origin: Origin, *, compress: bool = False) -> None:
    """Stores params; ``path`` is either the complete new file or what it was before.

    Args:
      path: the file; its folder is made where it is missing.
      params: float32 arrays, the tree of ``vgg.parameter_shapes``.
      origin: what they came from.
      compress: spends time on a smaller file; worth it where numbers have few significant bits.

    Raises:
      ValueError: params are no VGG, not float32 or not finite.
      OSError: the folder cannot be written, or is full.
    """
    architecture = vgg.architecture_of(params)
    # In memory first: a full disk is then an ordinary OSError, not a failure inside HDF5.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["version"] = VERSION
        for name, value in {"format": FORMAT, **origin._asdict()}.items():
            # Bytes, that is strings of fixed length: see formats.hdf5.attribute.
            file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else int(value)
        file.attrs["blocks"], file.attrs["widths"] = architecture.blocks, architecture.widths
        if architecture.taps:
            layers, widths = zip(*architecture.taps, strict=True)
            file.attrs["tap_layers"] = np.bytes_(" ".join(layers))
            file.attrs["tap_widths"] = widths
        for layer in vgg.parameter_shapes(architecture):
            for name, value in params[layer].items():
                array = np.ascontiguousarray(value)
                if array.dtype != np.float32 or not np.isfinite(array).all():
                    raise ValueError(f"{layer}/{name} is {array.dtype}: expected finite float32")
                array = array.astype("<f4", copy=False)
                where = f"{layer}/{name}"
                packed = {"compression": 9, "shuffle": True} if compress else {}
                dataset = file.create_dataset(
                    where, data=array, chunks=array.shape, fletcher32=True, **packed
                )
                dataset.attrs["sha256"] = _checksum(array)
    with replacing(path, remedy=REMEDY) as output:
        output.write(buffer.getbuffer())


def is_store(file: h5py.File) -> bool:
    """Whether a file says that ``save`` wrote it."""
    return attribute(file, "format", "S", 0) == FORMAT.encode()


def _column(file: h5py.File, name: str) -> tuple[int, ...]:
    """An attribute of a few whole numbers, such as the blocks' widths."""
    values = attribute(file, name, "iu", 1)
    if values is None or not 1 <= len(values) <= 16 or min(values) < 1 or max(values) > 8192:
        raise refusal(file, f"has no sensible attribute {name!r}")
    return tuple(int(value) for value in values)


def _stored_taps(
    file: h5py.File, blocks: tuple[int, ...], widths: tuple[int, ...]
) -> tuple[tuple[str, int], ...]:
    """The taps of a distilled network, none of any other."""
    if "tap_layers" not in file.attrs:
        return ()
    text = attribute(file, "tap_layers", "S", 0)
    layers = () if text is None else tuple(text.decode("ascii", "replace").split())
    reach = _column(file, "tap_widths")
    known = vgg.layer_names(vgg.Architecture(blocks, widths))
    if len(layers) != len(reach) or [name for name in known if name in layers] != list(layers):
        raise refusal(file, "has no sensible attribute 'tap_layers'")
    return tuple(zip(layers, reach, strict=True))


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
    blocks, widths = _column(file, "blocks"), _column(file, "widths")
    if len(blocks) != len(widths):
        raise refusal(file, "gives its blocks and its widths in different numbers")
    architecture = vgg.Architecture(blocks, widths, _stored_taps(file, blocks, widths))
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


def describe(path: str | Path) -> Origin:
    """What a stored file says of its origin.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: not such a file.
    """
    with open_hdf5(path) as file:
        _stored_architecture(file)
        found: dict[str, Any] = {}
        for name, default in Origin("unknown")._asdict().items():
            value = attribute(file, name, "S" if isinstance(default, str) else "iu", 0)
            if isinstance(default, str):
                found[name] = default if value is None else value.decode("utf-8", "replace")
            else:
                found[name] = bool(value)
        return Origin(**found)


def digest(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
