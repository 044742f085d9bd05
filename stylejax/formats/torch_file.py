"""Tensors of a PyTorch checkpoint, without PyTorch and without running what the file holds.

A checkpoint is a pickle that says how the tensors are built, and the bytes that they are views of,
the storages. PyTorch has written three formats:

* since 2020 a zip archive: ``*/data.pkl``, and a storage in each ``*/data/<key>``;
* since March 2017, torchvision's VGG among them, the "legacy" format: five pickles (a magic number,
  a version, the machine's byte order, the object, the keys of its storages), then the storages,
  each behind its number of elements;
* before that a tar archive, which is refused.

A pickle is a program. Python's ``pickle.Unpickler``, even one that finds no classes, can be made to
fill the memory by a few bytes, to hash nested tuples for ever, or to set attributes of what it was
allowed to find. So the pickle is run by ``_Machine``, which knows the operations that state dicts
are written in and builds nothing but numbers, strings, tuples, lists, dicts and ``Tensor``.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from stylejax.formats.arrays import LONGEST_TABLE, Stored, counts, open_distrusted, take
from stylejax.formats.refusal import printable

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
MOST_ENTRIES = 8192  # of a zip archive
MOST_GAPS = 16  # a view is read whole: at most so many elements for each of its own


class ElementType(NamedTuple):
    """The type of a storage's elements: its name in NumPy, its size in bytes."""

    name: str
    size: int


class Storage(NamedTuple):
    """A run of elements in the file, known by its key."""

    key: str
    type: ElementType
    size: int  # in elements


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


ReadBytes = Callable[[Storage, int, int], bytes]  # of a storage, from there on, so many


def read_tensors(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Reads tensors of a state dict that PyTorch saved, in its zip or its legacy format.

    Args:
      path: the file.
      shapes: the wanted tensors, by name. The file may hold others, which are not read.

    Returns:
      An array for each of ``shapes``: float32, C-contiguous, finite.

    Raises:
      FileNotFoundError: there is no such file.
      Refusal: it is not exactly such a file; the message says in what.
    """
    with open_distrusted(path, "a PyTorch checkpoint") as file:
        open_format = _open_zip if file.read(4) == b"PK\x03\x04" else _open_legacy
        found, read_bytes = open_format(file)
        if type(found) is not dict:
            raise ValueError("it holds no dict of tensors")
        tensors = {name: item for name, item in found.items() if type(item) is Tensor}
        stored = {
            name: Stored(tensor.storage.type.name, tensor.shape, partial(_read, tensor, read_bytes))
            for name, tensor in tensors.items()
        }
        return take(path, stored, shapes)


def _read(tensor: Tensor, read_bytes: ReadBytes) -> np.ndarray:
    """The values of a float32 tensor, after a look at whether they lie inside its storage."""
    storage, offset, shape, strides = tensor
    size = math.prod(shape)
    span = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    span = span if size else 0
    if offset + span > storage.size:
        raise ValueError(f"a tensor reaches beyond the {storage.size} elements of its storage")
    if span > MOST_GAPS * size:
        raise ValueError(f"a tensor of {size} elements is spread over {span}")
    data = read_bytes(storage, 4 * offset, 4 * span)
    # The stride of an axis of one element means nothing and may be any number.
    steps = [4 * stride if n > 1 else 0 for n, stride in zip(shape, strides, strict=True)]
    return np.ndarray(shape, "<f4", data, strides=steps).astype(np.float32, order="C")


# The zip format.


class _Sparing:
    """A file as ``zipfile`` needs it to find its directory, of which it takes any size on trust."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size > LONGEST_TABLE:
            raise ValueError(f"a zip directory of {size} bytes, expected at most {LONGEST_TABLE}")
        return self.file.read(size)


def _open_zip(file: BinaryIO) -> tuple[Any, ReadBytes]:
    """What the checkpoint's pickle builds, and how the bytes of its storages are read."""
    _check_entries(zipfile.ZipFile(_Sparing(file)).infolist(), file.seek(0, 2))
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    parts = (name.partition("/") for name in names)
    roots = [root for root, _, rest in parts if rest == "data.pkl"]
    if len(roots) != 1:
        raise ValueError("not just one data.pkl in its zip archive")
    root = roots[0]
    order = f"{root}/byteorder"
    if order in names and _read_table(archive, order) != b"little":
        raise ValueError("its byte order is not little-endian")
    machine = _Machine(io.BytesIO(_read_table(archive, f"{root}/data.pkl")))
    return machine.run(), partial(_read_zipped, archive, root)


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Refuses an archive of ``size`` bytes with entries of a kind that PyTorch does not write."""
    if len(entries) > MOST_ENTRIES:
        raise ValueError(f"{len(entries)} entries in its zip archive, at most {MOST_ENTRIES} fit")
    if len({entry.filename for entry in entries}) != len(entries):
        raise ValueError("its zip archive has a name twice")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"compressed: {printable(entry.filename)}")
        if entry.header_offset + entry.file_size > size:
            raise ValueError(f"cut off: {printable(entry.filename)}")


def _read_table(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > LONGEST_TABLE:
        raise ValueError(f"{size} bytes, expected at most {LONGEST_TABLE}: {printable(name)}")
    return archive.read(name)


def _read_zipped(
    archive: zipfile.ZipFile, root: str, storage: Storage, start: int, size: int
) -> bytes:
    entry = archive.getinfo(f"{root}/data/{storage.key}")
    expected = storage.size * storage.type.size
    if entry.file_size != expected:
        name = printable(entry.filename)
        raise ValueError(f"{entry.file_size} bytes, expected {expected}: {name}")
    with archive.open(entry) as opened:
        opened.seek(start)
        return opened.read(size)


# The legacy format.


def _open_legacy(file: BinaryIO) -> tuple[Any, ReadBytes]:
    """What the checkpoint's fourth pickle builds, and how the bytes of its storages are read."""
    file.seek(0)
    stream = io.BytesIO(file.read(LONGEST_TABLE))
    _check_start(stream.getvalue())
    if (_Machine(stream).run(), _Machine(stream).run()) != (MAGIC_NUMBER, PROTOCOL_VERSION):
        raise ValueError("not PyTorch's magic number and version")
    system = _Machine(stream).run()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise ValueError("its byte order is not little-endian")
    machine = _Machine(stream)
    found = machine.run()
    keys = _Machine(stream).run()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise ValueError("no list of its storages")
    if sorted(keys) != sorted(machine.storages):
        raise ValueError("its list of storages is not that of its tensors")
    places = _places(file, stream.tell(), [machine.storages[key] for key in keys])
    return found, partial(_read_raw, file, places)


def _check_start(start: bytes) -> None:
    """Says of other files what they are, or are not."""
    if start[257:262] == b"ustar":
        raise ValueError("a tar archive, PyTorch's format before March 2017")
    if not start.startswith(pickle.PROTO):
        raise ValueError("neither a zip archive nor a pickle")


def _places(file: BinaryIO, position: int, storages: list[Storage]) -> dict[str, int]:
    """Where each storage begins, by key; they must fill the file from ``position`` to its end."""
    places = {}
    for storage in storages:
        file.seek(position)
        size = int.from_bytes(file.read(8), "little")
        if size != storage.size:
            raise ValueError(f"a storage of {size} elements, expected {storage.size}")
        places[storage.key] = position + 8
        position += 8 + size * storage.type.size
    if file.seek(0, 2) != position:
        raise ValueError(f"{file.tell()} bytes, expected {position}")
    return places


def _read_raw(
    file: BinaryIO, places: Mapping[str, int], storage: Storage, start: int, size: int
) -> bytes:
    file.seek(places[storage.key] + start)
    return file.read(size)


# The pickle.


class _Machine:
    """Runs one pickle of protocol 2, as far as state dicts need it.

    It takes time and memory in proportion to the pickle's length: no operation makes anything
    larger than its own bytes, nothing but strings are keys, and nothing is ever called but the two
    functions in ``_GLOBALS``.

    Attributes:
      storages: those that the pickle has named so far, by key.
    """

    def __init__(self, stream: io.BytesIO) -> None:
        self.storages: dict[str, Storage] = {}
        self._stream = stream
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below each open mark
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The object that the pickle builds; the stream is left behind the pickle's end."""
        while (code := self.take(1)) != pickle.STOP:
            if code in _VALUES:
                value = _VALUES[code](self)  # may exchange the stack
                self._stack.append(value)
            elif code in _ACTIONS:
                _ACTIONS[code](self)
            else:
                name = _OPERATIONS.get(code, code.hex())
                raise ValueError(f"a pickle with the operation {name}, which no weights need")
        (value,) = self.pop(1)
        if self._stack or self._below:
            raise ValueError("a pickle that ends too early")
        return value

    def take(self, size: int) -> bytes:
        """The next bytes of the pickle."""
        data = self._stream.read(size)
        if len(data) < size:
            raise EOFError(f"a pickle that is cut off or longer than {LONGEST_TABLE} bytes")
        return data

    def number(self, size: int, signed: bool = False) -> int:
        """The next integer of so many bytes."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def text(self, size: int, encoding: str) -> str:
        """A string behind its length, an integer of ``size`` bytes."""
        return self.take(self.number(size)).decode(encoding)

    def global_(self) -> Any:
        """What a global's two lines, module and name, stand for."""
        lines = [self._stream.readline().decode("ascii").removesuffix("\n") for _ in range(2)]
        name = ".".join(lines)
        if name not in _GLOBALS:
            raise ValueError(f"a pickle with the global {printable(name)}, which no weights need")
        return _GLOBALS[name]

    def pop(self, count: int) -> list[Any]:
        """The uppermost values, lowest first."""
        if len(self._stack) < count:
            raise ValueError("a pickle that takes more than it has put")
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def mark(self) -> None:
        """Begins a run of values."""
        self._below.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[Any]:
        """The values since the last mark."""
        if not self._below:
            raise ValueError("a pickle that takes more than it has put")
        values, self._stack = self._stack, self._below.pop()
        return values

    def top(self, kind: type) -> Any:
        """The uppermost value, which must be of that very type."""
        if not self._stack or type(self._stack[-1]) is not kind:
            raise ValueError(f"a pickle that takes something else for a {kind.__name__}")
        return self._stack[-1]

    def extend(self, values: list[Any]) -> None:
        """Appends values to the list on top."""
        self.top(list).extend(values)

    def update(self, values: list[Any]) -> None:
        """Puts names and values in turn into the dict on top."""
        _put(self.top(dict), zip(values[::2], values[1::2], strict=True))

    def remember(self, index: int) -> None:
        """Keeps the uppermost value under a number."""
        (value,) = self.pop(1)
        self._stack.append(value)
        self._memo[index] = value

    def recall(self, index: int) -> Any:
        """What was kept under a number."""
        if index not in self._memo:
            raise ValueError("a pickle that recalls what it has not kept")
        return self._memo[index]

    def call(self) -> Any:
        """What a function gives for the tuple of arguments above it."""
        function, arguments = self.pop(2)
        if not callable(function) or type(arguments) is not tuple:
            raise ValueError("a pickle that calls what is no function")
        return function(*arguments)

    def build(self) -> None:
        """Drops a dict's attributes: state dicts have ``_metadata``, versions of layers."""
        self.pop(1)
        self.top(dict)

    def storage(self) -> Storage:
        """The storage that a "persistent id" describes, which is not read yet."""
        (identity,) = self.pop(1)
        if type(identity) is not tuple or identity[:1] != ("storage",):
            raise ValueError("a pickle that refers to other things than storages")
        _, kind, key, _, size, *view = identity
        if type(kind) is not ElementType or type(key) is not str or view not in ([], [None]):
            raise ValueError("a pickle with an unknown kind of storage")
        storage = Storage(key, kind, *counts((size,)))
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("a storage with two sizes or types")
        return storage

    def check_protocol(self) -> None:
        """Refuses a pickle that was not written in PyTorch's usual way."""
        protocol = self.number(1)
        if protocol != 2:
            raise ValueError(f"a pickle of protocol {protocol}, expected 2")


def _put(target: dict[str, Any], items: Any) -> None:
    """Adds items whose keys must be strings: hashing anything else could take for ever."""
    for key, value in items:
        if type(key) is not str or key in target:
            raise ValueError("a dict with a key twice or one that is no string")
        target[key] = value


def _ordered_dict(items: Any = None) -> dict[str, Any]:
    """A dict. Python 3 fills it afterwards; Python 2 passed its items as a list of lists."""
    found: dict[str, Any] = {}
    if items is not None:
        if type(items) is not list:
            raise ValueError("a dict made of something else than a list")
        _put(found, items)
        items.clear()  # one long list for any number of dicts could fill the memory
    return found


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, gradient: Any = None, hooks: Any = None
) -> Tensor:
    """A tensor. Whether it has a gradient, and who waits for one, is for training."""
    (offset,), shape, strides = counts((offset,)), counts(shape), counts(strides)
    if type(storage) is not Storage or len(shape) != len(strides):
        raise ValueError("a tensor that is no view of a storage")
    return Tensor(storage, offset, shape, strides)


# All that a checkpoint may name, and what that is here.
_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,  # until 2018
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.BoolStorage": ElementType("bool", 1),
    "torch.ByteStorage": ElementType("uint8", 1),
    "torch.CharStorage": ElementType("int8", 1),
    "torch.ShortStorage": ElementType("int16", 2),
    "torch.IntStorage": ElementType("int32", 4),
    "torch.LongStorage": ElementType("int64", 8),
    "torch.HalfStorage": ElementType("float16", 2),
    "torch.BFloat16Storage": ElementType("bfloat16", 2),
    "torch.FloatStorage": ElementType("float32", 4),
    "torch.DoubleStorage": ElementType("float64", 8),
}

_OPERATIONS = {entry.code.encode("latin-1"): entry.name for entry in pickletools.opcodes}

# Those of them that give a value.
_VALUES: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.NONE: lambda machine: None,
    pickle.NEWTRUE: lambda machine: True,
    pickle.NEWFALSE: lambda machine: False,
    pickle.BININT1: lambda machine: machine.number(1),
    pickle.BININT2: lambda machine: machine.number(2),
    pickle.BININT: lambda machine: machine.number(4, signed=True),
    pickle.LONG1: lambda machine: machine.number(machine.number(1), signed=True),
    pickle.BINUNICODE: lambda machine: machine.text(4, "utf-8"),
    pickle.SHORT_BINSTRING: lambda machine: machine.text(1, "ascii"),  # Python 2
    pickle.EMPTY_TUPLE: lambda machine: (),
    pickle.TUPLE1: lambda machine: tuple(machine.pop(1)),
    pickle.TUPLE2: lambda machine: tuple(machine.pop(2)),
    pickle.TUPLE3: lambda machine: tuple(machine.pop(3)),
    pickle.TUPLE: lambda machine: tuple(machine.pop_mark()),
    pickle.EMPTY_LIST: lambda machine: [],
    pickle.EMPTY_DICT: lambda machine: {},
    pickle.BINGET: lambda machine: machine.recall(machine.number(1)),
    pickle.LONG_BINGET: lambda machine: machine.recall(machine.number(4)),
    pickle.GLOBAL: _Machine.global_,
    pickle.REDUCE: _Machine.call,
    pickle.BINPERSID: _Machine.storage,
}

# Those that give none.
_ACTIONS: dict[bytes, Callable[[_Machine], None]] = {
    pickle.PROTO: _Machine.check_protocol,
    pickle.MARK: _Machine.mark,
    pickle.BINPUT: lambda machine: machine.remember(machine.number(1)),
    pickle.LONG_BINPUT: lambda machine: machine.remember(machine.number(4)),
    pickle.APPEND: lambda machine: machine.extend(machine.pop(1)),
    pickle.APPENDS: lambda machine: machine.extend(machine.pop_mark()),
    pickle.SETITEM: lambda machine: machine.update(machine.pop(2)),
    pickle.SETITEMS: lambda machine: machine.update(machine.pop_mark()),
    pickle.BUILD: _Machine.build,
}
