"""Reading PyTorch's checkpoints: equal to what torch reads, and everything that is refused."""

import contextlib
import copyreg
import io
import pickle
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stylejax.formats import torch_file
from stylejax.formats.refusal import Refusal
from stylejax.formats.torch_file import read_tensors

FIXTURES = Path(__file__).parent / "fixtures" / "torch"
CHECKPOINTS = sorted(path.name for path in FIXTURES.glob("*.pth"))
OTHER_TYPES = ("half", "bfloat16", "double", "int64")
SHAPES = {"w": (2, 3)}
VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)
ORDERED_DICT = b"ccollections\nOrderedDict\n"


def expected(checkpoint: str) -> dict[str, np.ndarray]:
    """What torch itself saw in a fixture's float32 tensors."""
    with np.load(FIXTURES / f"{checkpoint.split('_')[0]}.npz") as file:
        return {name: file[name] for name in file if name not in OTHER_TYPES}


def shapes_of(arrays) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def refused(path: Path, shapes=SHAPES) -> str:
    """The error of reading a file, after checking what every such error must be."""
    with pytest.raises(Refusal) as caught:
        read_tensors(path, shapes)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{path}: ")
    assert "python scripts/convert_weights.py" in message
    assert len(message) < len(str(path)) + 400
    return message


# Writing checkpoints by hand.


def put(value) -> bytes:
    """The operations that put a value on the stack."""
    return pickle.dumps(value, 2)[2:-1]


def storage(key="0", size=6, kind="FloatStorage") -> bytes:
    return b"".join(
        (b"(", put("storage"), f"ctorch\n{kind}\n".encode(), put(key), put("cpu"), put(size), b"tQ")
    )


def tensor(shape=(2, 3), strides=(3, 1), offset=0, at=None) -> bytes:
    arguments = put(offset) + put(shape) + put(strides) + put(False) + b"}"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + (at or storage()) + arguments + b"tR"


def program(*operations: bytes) -> bytes:
    return b"\x80\x02" + b"".join(operations) + b"."


def state_dict(**tensors: bytes) -> bytes:
    return program(b"}(", *(put(name) + code for name, code in tensors.items()), b"u")


STATE = state_dict(w=tensor())


def write_zip(path: Path, code: bytes = STATE, storages=None, **others: bytes) -> Path:
    storages = {"0": VALUES.tobytes()} if storages is None else storages
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", code)
        for name, content in others.items():
            archive.writestr(f"net/{name}", content)
        for key, content in storages.items():
            archive.writestr(f"net/data/{key}", content)
    return path


def write_legacy(path: Path, code: bytes = STATE, storages=None, **changes) -> Path:
    """The five pickles, and the storages that the fourth names; ``changes`` replace parts."""
    storages = {"0": VALUES.tobytes()} if storages is None else storages
    keys = [key for key in sorted(storages) if put(key) in code]
    parts = {
        "magic": torch_file.MAGIC_NUMBER,
        "version": 1001,
        "system": {"protocol_version": 1001, "little_endian": True},
        "keys": keys,
    } | changes
    first = [pickle.dumps(parts[name], 2) for name in ("magic", "version", "system")]
    raw = [struct.pack("<q", len(storages[key]) // 4) + storages[key] for key in keys]
    path.write_bytes(b"".join([*first, code, pickle.dumps(parts["keys"], 2), *raw]))
    return path


@pytest.fixture(params=[write_zip, write_legacy])
def write(request, tmp_path):
    """Writes a checkpoint in either format."""
    return lambda *arguments, **options: request.param(tmp_path / "net.pth", *arguments, **options)


# What is read.


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_every_format_gives_what_torch_gives(checkpoint):
    arrays = expected(checkpoint)
    found = read_tensors(FIXTURES / checkpoint, shapes_of(arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == np.float32
        assert found[name].flags.c_contiguous
        assert found[name].flags.writeable
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape


def test_every_format_is_among_the_fixtures():
    kinds = ("zip", "legacy")
    names = [f"{network}_{kind}.pth" for network in ("adain", "vgg", "views") for kind in kinds]
    assert sorted([*names, "vgg_2017.pth", "vgg_python2.pth"]) == CHECKPOINTS
    for name in ("vgg_zip.pth", "vgg_legacy.pth"):
        assert b"_metadata" in (FIXTURES / name).read_bytes()
    assert b"_rebuild_tensor\n" in (FIXTURES / "vgg_2017.pth").read_bytes()
    assert b"U\x07storage" in (FIXTURES / "vgg_python2.pth").read_bytes()


@pytest.mark.parametrize("checkpoint", ["vgg_zip.pth", "vgg_legacy.pth"])
def test_only_what_is_wanted_is_read(checkpoint):
    found = read_tensors(FIXTURES / checkpoint, {"features.5.bias": (6,)})
    assert list(found) == ["features.5.bias"]
    np.testing.assert_array_equal(found["features.5.bias"], expected("vgg")["features.5.bias"])


def test_hand_written_checkpoint_is_read(write):
    np.testing.assert_array_equal(read_tensors(write(), SHAPES)["w"], VALUES)


def test_stride_of_an_axis_of_one_means_nothing(write):
    path = write(state_dict(w=tensor((1, 2, 3), (2**62, 3, 1))))
    np.testing.assert_array_equal(read_tensors(path, {"w": (1, 2, 3)})["w"], VALUES[None])


@pytest.mark.parametrize("writer", [write_zip, write_legacy])
def test_unwanted_bytes_take_no_memory(tmp_path, writer):
    code = state_dict(w=tensor(), classifier=tensor((2**23,), (1,), at=storage("1", 2**23)))
    path = writer(tmp_path / "net.pth", code, {"0": VALUES.tobytes(), "1": bytes(2**25)})
    tracemalloc.start()
    try:
        read_tensors(path, SHAPES)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_memo_index_takes_no_memory(write):
    path = write(program(b"}(", put("w"), tensor(), b"r\xff\xff\xff\xff", b"u"))
    np.testing.assert_array_equal(read_tensors(path, SHAPES)["w"], VALUES)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_tensors(tmp_path / "absent.pth", SHAPES)


# Pickles that would run something.


EVAL = b"cbuiltins\neval\n"
PAYLOADS = {
    "GLOBAL": lambda text, _: EVAL + put(text) + b"\x85R",
    "os.system": lambda _, command: b"cos\nsystem\n" + put(command) + b"\x85R",
    "posix.system": lambda _, command: b"cposix\nsystem\n" + put(command) + b"\x85R",
    "STACK_GLOBAL": lambda text, _: b"\x8c\x08builtins\x8c\x04eval\x93" + put(text) + b"\x85R",
    "INST": lambda text, _: b"(" + put(text) + b"ibuiltins\neval\n",
    "OBJ": lambda text, _: b"(" + EVAL + put(text) + b"o",
    "EXT1": lambda text, _: b"\x82\xf0" + put(text) + b"\x85R",
    "EXT4": lambda text, _: b"\x84\xf0\0\0\0" + put(text) + b"\x85R",
    "nested": lambda text, _: b"}" + put("w") + EVAL + put(text) + b"\x85Rs",
    "key": lambda text, _: b"}" + EVAL + put(text) + b"\x85R" + put("w") + b"s",
    "metadata": lambda text, _: b"}}" + put("_metadata") + EVAL + put(text) + b"\x85Rsb0}",
    "argument": lambda text, _: ORDERED_DICT + b"](" + put("k") + EVAL + put(text) + b"\x85Rl\x85R",
}
BY_REFERENCE = {
    "PERSID": lambda text, _: b"P" + text.encode() + b"\n",
    "persistent": lambda text, _: EVAL + put(text) + b"\x85RQ",
    "module": lambda text, _: b"(" + put("module") + EVAL + put(text) + put("source") + b"tQ",
    "dtype": lambda text, _: b"(" + put("storage") + EVAL + b"\x85R" + put("0") + b"tQ",
}


@pytest.fixture
def target(tmp_path):
    """A file that must not come into being, and two texts that would make it."""
    copyreg.add_extension("builtins", "eval", 0xF0)
    path = tmp_path / "made"
    yield path, f"open({str(path)!r}, 'w').close()", f"echo > {path}"
    copyreg.remove_extension("builtins", "eval", 0xF0)


@pytest.mark.parametrize("name", PAYLOADS)
def test_payloads_work_in_python(target, name):
    """Otherwise the next test would show nothing."""
    if name == "posix.system":
        pytest.importorskip("posix")
    path, *texts = target
    with contextlib.suppress(TypeError, AttributeError, pickle.UnpicklingError, ValueError):
        pickle.loads(program(PAYLOADS[name](*texts)))
    assert path.exists()


@pytest.mark.parametrize("name", [*PAYLOADS, *BY_REFERENCE])
def test_payloads_are_refused(write, target, name):
    path, *texts = target
    refused(write(program((PAYLOADS | BY_REFERENCE)[name](*texts))))
    assert not path.exists()


@pytest.mark.parametrize("place", ["magic", "system", "keys"])
def test_payloads_elsewhere_in_legacy_files_are_refused(tmp_path, target, place):
    class Payload:
        def __reduce__(self):
            return exec, (target[1],)

    path = write_legacy(tmp_path / "net.pth", **{place: Payload()})
    assert "global __builtin__.exec" in refused(path)
    assert not target[0].exists()


def test_refused_global_is_named(write):
    assert "the global os.system, which" in refused(write(program(b"cos\nsystem\n")))
    assert "the operation STACK_GLOBAL" in refused(write(program(b"\x93")))


@pytest.mark.parametrize(
    "name",
    [
        "torch._utils _rebuild_parameter",
        "torch.jit _unpickler",
        "torch load",
        "collections Counter",
    ],
)
def test_other_globals_are_refused(write, name):
    code = name.replace(" ", "\n").encode()
    assert name.replace(" ", ".") in refused(write(program(b"c", code, b"\n")))


def test_allowed_functions_are_not_changed(write):
    """Python's own unpickler would set the function's default arguments."""
    function = b"ctorch._utils\n_rebuild_tensor\n"
    refused(write(program(function, b"N}", put("__defaults__"), put((1, 2)), b"s\x86b")))
    assert torch_file._tensor.__defaults__ == (None, None)


# Pickles that would not end, or fill the memory.


def nested_tuple() -> bytes:
    """One that takes 2^64 steps to hash."""
    return b")" + b"q\0h\0\x86" * 64


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (program(b"}", nested_tuple(), b"Ns"), "no string"),
        (program(b"}(", nested_tuple(), b"Nu"), "no string"),
        (program(ORDERED_DICT, b"](](", nested_tuple(), b"Nee\x85R"), "no string"),
        (program(nested_tuple(), b"Q"), "other things than storages"),
        (program(b"(", nested_tuple(), b"tQ"), "other things than storages"),
        (program(b"X\xff\xff\xff\xff"), "cut off"),
        (program(b"\x8d" + b"\xff" * 7 + b"\x7f"), "BINUNICODE8"),
        (program(b"\x8b\xff\xff\xff\x7f"), "LONG4"),
        (program(b"L" + b"9" * 10**5 + b"L\n"), "LONG"),
        (program(b"\x96" + b"\xff" * 8), "BYTEARRAY8"),
        (program(b"\x95" + b"\xff" * 8), "FRAME"),
        (program(b"]" * 100_000), "ends too early"),
        (program(b"(" * 100_000), "more than it has put"),
        (program(b")", b"\x85" * 100_000), "no dict"),
        (program(b"]q\0h\0a"), "no dict"),
        (program(b"}q\0", put("w"), b"h\0s"), "not among its arrays"),
        (program(b"0"), "the operation POP,"),
        (program(b"2"), "the operation DUP"),
    ],
)
def test_bombs_are_refused(write, code, problem):
    assert problem in refused(write(code))


def test_time_and_memory_stay_in_proportion(write):
    """A list of items turned into a dict again and again would need 2 million entries."""
    items = b"](" + b"".join(b"](" + put(f"k{i}") + b"Ne" for i in range(1000)) + b"eq\1"
    code = program(b"](", items, (ORDERED_DICT + b"h\1\x85R") * 2000, b"e")
    path = write(code)
    tracemalloc.start()
    try:
        assert "no dict of tensors" in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_long_pickle_is_refused(write):
    code = program(b"}(", put("text"), put("x" * 2**20), put("w"), tensor(), b"u")
    assert str(2**20) in refused(write(code))


def test_many_tensors_are_refused(write):
    names = [put(f"w{i}") + b"h\1" for i in range(4096)]
    path = write(program(b"}(", put("w"), tensor(), b"q\1", *names, b"u"))
    assert "names 4097 arrays" in refused(path)


# Pickles that are not what they should be.


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (b"", "pickle"),
        (b"\x80", "pickle"),
        (b"\x80\x04}.", "protocol 4"),
        (b"\x80\x02\xff.", "the operation ff"),
        (program(), "more than it has put"),
        (program(b"}}"), "ends too early"),
        (program(b"(}"), "ends too early"),
        (program(b"h\0"), "not kept"),
        (program(b"q\0"), "more than it has put"),
        (program(b"}(q\0"), "more than it has put"),
        (program(b"R"), "more than it has put"),
        (program(b"Ns"), "more than it has put"),
        (program(b"u"), "more than it has put"),
        (program(b"Na"), "for a list"),
        (program(b"(Ne"), "for a list"),
        (program(b"}(Nu"), "pickle"),
        (program(b"]NNs"), "for a dict"),
        (program(b"}Na"), "for a list"),
        (program(b"]Nb"), "for a dict"),
        (program(b"}NNs"), "no string"),
        (program(b"}", (put("w") + b"Ns") * 2), "a key twice"),
        (program(b"N)R"), "no function"),
        (program(ORDERED_DICT, b"]R"), "no function"),
        (program(ORDERED_DICT, put("ab"), b"\x85R"), "than a list"),
        (program(ORDERED_DICT, put(["ab", "c"]), b"\x85R"), "unpack"),
        (program(b"ctorch\nFloatStorage\n)R"), "no function"),
        (program(b"ctorch._utils\n_rebuild_tensor_v2\n)R"), "missing"),
        (program(b"X\2\0\0\0\xff\xff"), "utf-8"),
        (program(b"U\1\xff"), "ascii"),
        (program(b"NQ"), "other things than storages"),
        (program(b"c\xff\n\n"), "ascii"),
        (program(b"ctorch"), "checkpoint"),
        (program(b"]"), "no dict of tensors"),
        (program(tensor()), "no dict of tensors"),
        (program(b"}", put("state_dict"), STATE[2:-1], b"s"), "it holds nothing"),
    ],
)
def test_malformed_pickle_is_refused(write, code, problem):
    assert problem in refused(write(code))


NONE = put(None)


@pytest.mark.parametrize(
    ("identity", "problem"),
    [
        (put("storage") + b"ctorch\nFloatStorage\n" + put("0") + put("cpu"), "unpack"),
        (put("storage") + NONE + put("0") + put("cpu") + put(6), "kind of storage"),
        (storage()[1:-2].replace(put("0"), put(0)), "kind of storage"),
        (storage()[1:-2] + put(("1", 0, 6)), "kind of storage"),
        (storage()[1:-2] + NONE + NONE, "kind of storage"),
        (storage(size=-1)[1:-2], "integers from 0"),
        (storage(size=2**63)[1:-2], "integers from 0"),
        (storage(size=True)[1:-2], "integers from 0"),
        (storage(size="6")[1:-2], "integers from 0"),
    ],
)
def test_malformed_storage_is_refused(write, identity, problem):
    assert problem in refused(write(state_dict(w=tensor(at=b"(" + identity + b"tQ"))))


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (tensor(offset=1), "beyond the 6 elements"),
        (tensor(offset=2**62), "beyond the 6 elements"),
        (tensor(strides=(4, 1)), "beyond the 6 elements"),
        (tensor(strides=(2**62, 1)), "beyond the 6 elements"),
        (tensor(strides=(-3, 1)), "integers from 0"),
        (tensor(offset=-1), "integers from 0"),
        (tensor(offset=2**70), "integers from 0"),
        (tensor(strides=(2**2000, 1)), "integers from 0"),
        (tensor(shape=(2, True)), "integers from 0"),
        (tensor(shape=(2, (3,))), "integers from 0"),
        (tensor(shape="23"), "list of at most"),
        (tensor(shape=(1,) * 9, strides=(1,) * 9), "list of at most"),
        (tensor(strides=(1,)), "no view"),
        (tensor(at=NONE), "no view"),
        (tensor(at=put(("0", 6))), "no view"),
        (tensor(shape=(3, 2)), "w has shape (3, 2), expected (2, 3)"),
        (tensor(shape=(2, 3, 1), strides=(3, 1, 1)), "w has shape (2, 3, 1), expected (2, 3)"),
        (tensor(at=storage(size=12, kind="HalfStorage")), "w has dtype float16, expected float32"),
        (tensor(at=storage(size=3, kind="DoubleStorage")), "w has dtype float64"),
        (NONE, "w is not among its arrays (it holds nothing)"),
    ],
)
def test_malformed_tensor_is_refused(tmp_path, code, problem):
    assert problem in refused(write_zip(tmp_path / "net.pth", state_dict(w=code)))


def test_missing_tensor_is_named(write):
    message = refused(write(), {"w": (2, 3), "features.0.weight": (4, 3, 3, 3)})
    assert "features.0.weight is not among its arrays (it holds w)" in message


def test_names_cannot_speak_to_the_terminal(write):
    code = program(b"}(", put("\x1b[2J\nboo" + "o" * 1000), tensor(), b"u")
    assert "\x1b" not in refused(write(code))


def test_tensor_spread_over_its_storage_is_refused(write):
    code = state_dict(w=tensor((2, 3), (1000, 1), at=storage(size=2000)))
    assert "spread over 1003" in refused(write(code, {"0": bytes(8000)}))


@pytest.mark.parametrize("other", [storage(size=7), storage(kind="IntStorage")])
def test_storage_of_two_kinds_is_refused(write, other):
    code = state_dict(w=tensor(), x=tensor(at=other))
    assert "two sizes or types" in refused(write(code))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_value_that_is_not_finite_is_refused(write, value):
    values = VALUES.copy()
    values[1, 1] = value
    assert "w holds values that are not finite" in refused(write(storages={"0": values.tobytes()}))


# The zip archive.


def test_big_endian_archive_is_refused(tmp_path):
    read_tensors(write_zip(tmp_path / "net.pth", byteorder=b"little"), SHAPES)
    assert "byte order" in refused(write_zip(tmp_path / "net.pth", byteorder=b"big"))


@pytest.mark.parametrize("storages", [{}, {"1": VALUES.tobytes()}])
def test_missing_storage_is_refused(tmp_path, storages):
    assert "net/data/0" in refused(write_zip(tmp_path / "net.pth", storages=storages))


@pytest.mark.parametrize("size", [0, 20, 28])
def test_storage_of_another_size_is_refused(tmp_path, size):
    path = write_zip(tmp_path / "net.pth", storages={"0": bytes(size)})
    assert f"{size} bytes, expected 24" in refused(path)


def test_compressed_entry_is_refused(tmp_path):
    path = write_zip(tmp_path / "net.pth")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data/bomb", bytes(10**6))
    assert "compressed: net/data/bomb" in refused(path)


def add(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile's own, of a name twice
        for name in names:
            archive.writestr(name, STATE)
    return path


def test_name_twice_is_refused(tmp_path):
    path = add(write_zip(tmp_path / "net.pth"), "net/data.pkl")
    assert "a name twice" in refused(path)


def test_other_than_one_checkpoint_is_refused(tmp_path):
    path = add(write_zip(tmp_path / "net.pth"), "other/data.pkl")
    assert "just one data.pkl" in refused(path)
    (tmp_path / "net.pth").unlink()
    assert "just one data.pkl" in refused(add(tmp_path / "net.pth", "data.pkl", "a/b/data.pkl"))


def test_many_entries_are_refused(tmp_path):
    path = add(write_zip(tmp_path / "net.pth"), *map(str, range(8192)))
    assert "8194 entries" in refused(path)


def test_large_directory_is_refused_before_it_is_read(tmp_path):
    path = write_zip(tmp_path / "net.pth")
    with zipfile.ZipFile(path, "a") as archive:
        for index in range(18):
            archive.writestr(zipfile.ZipInfo(f"{index:060000}"), b"")
    assert "a zip directory of" in refused(path)


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (8, 1, "encrypted"),
        (10, zipfile.ZIP_DEFLATED, "compressed: net/data.pkl"),
        (20, 3, "compressed: net/data.pkl"),
        (24, 2**31, "compressed: net/data.pkl"),
        (42, 2**31, "cut off: net/data.pkl"),
    ],
)
def test_entry_of_another_kind_is_refused(tmp_path, place, value, problem):
    """Changes a field of the first entry in the archive's directory."""
    path = write_zip(tmp_path / "net.pth")
    content = bytearray(path.read_bytes())
    size = 4 if place >= 20 else 2
    place += content.index(b"PK\1\2")
    content[place : place + size] = value.to_bytes(size, "little")
    path.write_bytes(content)
    assert problem in refused(path)


def test_damaged_storage_is_refused(tmp_path):
    content = write_zip(tmp_path / "net.pth").read_bytes()
    path = tmp_path / "damaged.pth"
    path.write_bytes(content.replace(VALUES.tobytes(), (VALUES + 1).tobytes()))
    assert "w cannot be read (Bad CRC-32" in refused(path)


# The legacy format.


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"magic": 1}, "magic number"),
        ({"magic": (torch_file.MAGIC_NUMBER,)}, "magic number"),
        ({"version": 1002}, "magic number and version"),
        ({"system": {"little_endian": False}}, "byte order"),
        ({"system": {"little_endian": 1}}, "byte order"),
        ({"system": {}}, "byte order"),
        ({"system": None}, "byte order"),
        ({"keys": None}, "no list"),
        ({"keys": [0]}, "no list"),
        ({"keys": []}, "not that of its tensors"),
        ({"keys": ["0", "0"]}, "not that of its tensors"),
        ({"keys": ["0", "1"]}, "not that of its tensors"),
        ({"storages": {"0": bytes(20)}}, "a storage of 5 elements, expected 6"),
        ({"storages": {"0": bytes(27)}}, "bytes, expected"),
    ],
)
def test_malformed_legacy_file_is_refused(tmp_path, changes, problem):
    assert problem in refused(write_legacy(tmp_path / "net.pth", **changes))


def test_bytes_after_the_storages_are_refused(tmp_path):
    path = write_legacy(tmp_path / "net.pth")
    path.write_bytes(path.read_bytes() + b"x")
    assert "bytes, expected" in refused(path)


def test_storages_are_found_in_the_order_of_their_list(tmp_path):
    code = state_dict(v=tensor(at=storage("1")), w=tensor(at=storage("0")))
    storages = {"0": VALUES.tobytes(), "1": (2 * VALUES).tobytes()}
    path = write_legacy(tmp_path / "net.pth", code, storages)
    found = read_tensors(path, {"w": (2, 3), "v": (2, 3)})
    np.testing.assert_array_equal(found["w"], VALUES)
    np.testing.assert_array_equal(found["v"], 2 * VALUES)


def test_tar_is_refused_by_name(tmp_path):
    with tarfile.open(tmp_path / "net.pth", "w:", format=tarfile.PAX_FORMAT) as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    assert "tar archive, PyTorch's format before" in refused(tmp_path / "net.pth")


# Files that are damaged, or something else.


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"P",
        b"PK\x03\x04",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"<!DOCTYPE html>",
        b"\x89HDF\r\n\x1a\n",
        bytes(4096),
        b"\xff" * 4096,
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "other.pth").write_bytes(content)
    message = refused(tmp_path / "other.pth")
    assert (
        "(File is not a zip file)" in message or "(neither a zip archive nor a pickle)" in message
    )


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_every_truncation_is_refused(tmp_path, checkpoint):
    whole = (FIXTURES / checkpoint).read_bytes()
    part = tmp_path / "part.pth"
    for size in np.linspace(1, len(whole) - 1, 60).astype(int):
        part.write_bytes(whole[:size])
        refused(part, shapes_of(expected(checkpoint)))


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_damage_is_refused_or_harmless(tmp_path, rng, checkpoint):
    whole = (FIXTURES / checkpoint).read_bytes()
    path, shapes = tmp_path / "damaged.pth", shapes_of(expected(checkpoint))
    for _ in range(150):
        content = bytearray(whole)
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        with contextlib.suppress(Refusal):
            found = read_tensors(path, shapes)
            assert shapes_of(found) == shapes
            assert all(np.isfinite(array).all() for array in found.values())
