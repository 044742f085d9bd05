"""Reading safetensors: equal to what torch wrote, and everything that is refused."""

import contextlib
import json
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from stylejax.formats.refusal import Refusal
from stylejax.formats.safetensors import read_tensors

FIXTURES = Path(__file__).parent / "fixtures"
CHECKPOINTS = ["adain.safetensors", "vgg.safetensors", "views.safetensors"]
OTHER_TYPES = ("half", "bfloat16", "double", "int64")
SHAPES = {"w": (2, 3)}
VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)
W = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def expected(checkpoint: str) -> dict[str, np.ndarray]:
    """What torch itself saw in a fixture's float32 tensors."""
    with np.load(FIXTURES / "torch" / f"{Path(checkpoint).stem}.npz") as file:
        return {name: file[name] for name in file if name not in OTHER_TYPES}


def shapes_of(arrays) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def write(path: Path, header, data: bytes = VALUES.tobytes(), length: int | None = None) -> Path:
    """A file with a header given as a dict, or as text or bytes that may be no JSON."""
    text = json.dumps(header) if isinstance(header, dict) else header
    content = text.encode() if isinstance(text, str) else text
    size = struct.pack("<Q", len(content) if length is None else length)
    path.write_bytes(size + content + data)
    return path


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


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_what_torch_writes_is_read(checkpoint):
    arrays = expected(checkpoint)
    found = read_tensors(FIXTURES / "safetensors" / checkpoint, shapes_of(arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == np.float32
        assert found[name].flags.c_contiguous
        assert found[name].flags.writeable
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape


def test_hand_written_file_is_read(path):
    write(path, json.dumps({"__metadata__": {"format": "pt"}, "w": W}) + "   ")
    np.testing.assert_array_equal(read_tensors(path, SHAPES)["w"], VALUES)


def test_order_of_the_header_means_nothing(path):
    moved = W | {"data_offsets": [24, 48]}
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [24, 24]}
    header = {"w": moved, "empty": empty, "v": W}
    write(path, header, (2 * VALUES).tobytes() + VALUES.tobytes())
    np.testing.assert_array_equal(read_tensors(path, SHAPES)["w"], VALUES)


def test_unwanted_bytes_take_no_memory(path):
    other = {"dtype": "F32", "shape": [2**23], "data_offsets": [24, 24 + 2**25]}
    write(path, {"w": W, "classifier": other}, VALUES.tobytes() + bytes(2**25))
    tracemalloc.start()
    try:
        read_tensors(path, SHAPES)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_missing_file(path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_tensors(path, SHAPES)


@pytest.mark.parametrize(
    ("dtype", "width", "name"),
    [("F64", 8, "float64"), ("F16", 2, "float16"), ("BF16", 2, "bfloat16"), ("I32", 4, "int32")],
)
def test_wrong_dtype_is_refused(path, dtype, width, name):
    write(path, {"w": {"dtype": dtype, "shape": [2, 3], "data_offsets": [0, 6 * width]}})
    path.write_bytes(path.read_bytes()[: -VALUES.nbytes] + bytes(6 * width))
    assert f"w has dtype {name}, expected float32" in refused(path)


def test_wrong_shape_names_tensor_expected_and_found(path):
    write(path, {"w": W | {"shape": [3, 2]}})
    assert "w has shape (3, 2), expected (2, 3)" in refused(path)


def test_missing_tensor_is_named(path):
    write(path, {"v": W})
    assert "w is not among its arrays (it holds v)" in refused(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_value_that_is_not_finite_is_refused(path, value):
    values = VALUES.copy()
    values[1, 1] = value
    assert "w holds values that are not finite" in refused(write(path, {"w": W}, values.tobytes()))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (None, "no dtype, shape and data_offsets for w"),
        ([], "no dtype, shape and data_offsets for w"),
        ({}, "no dtype, shape and data_offsets for w"),
        (W | {"extra": 1}, "no dtype, shape and data_offsets for w"),
        (W | {"dtype": "F31"}, "an unknown dtype for w"),
        (W | {"dtype": ["F32"]}, "unhashable"),
        (W | {"dtype": None}, "an unknown dtype for w"),
        (W | {"shape": "23"}, "list of at most 8"),
        (W | {"shape": 6}, "list of at most 8"),
        (W | {"shape": [2, 3] + [1] * 7}, "list of at most 8"),
        (W | {"shape": [1] * 100_000}, "list of at most 8"),
        (W | {"shape": [2, 3.0]}, "integers from 0"),
        (W | {"shape": [2, True, 3]}, "integers from 0"),
        (W | {"shape": [-2, -3]}, "integers from 0"),
        (W | {"shape": [2**63, 2**63]}, "integers from 0"),
        (W | {"shape": [2**62, 2**62]}, "do not fit the shape of w"),
        (W | {"shape": [2, 2]}, "do not fit the shape of w"),
        (W | {"data_offsets": [24, 0]}, "do not fit the shape of w"),
        (W | {"data_offsets": [0, 23]}, "do not fit the shape of w"),
        (W | {"data_offsets": [-24, 0]}, "integers from 0"),
        (W | {"data_offsets": [0.0, 24.0]}, "integers from 0"),
        (W | {"data_offsets": [0]}, "unpack"),
        (W | {"data_offsets": [0, 24, 24]}, "unpack"),
        (W | {"data_offsets": None}, "list of at most 8"),
        (W | {"data_offsets": [4, 28]}, "gap or overlap before the tensor w"),
    ],
)
def test_malformed_entry_is_refused(path, entry, problem):
    assert problem in refused(write(path, {"w": entry}))


@pytest.mark.parametrize(("begin", "problem"), [(20, "overlap"), (28, "gap"), (0, "overlap")])
def test_gaps_and_overlaps_are_refused(path, begin, problem):
    other = W | {"data_offsets": [begin, begin + 24]}
    write(path, {"w": W, "v": other}, bytes(begin + 24))
    assert problem in refused(path)


@pytest.mark.parametrize("data", [b"", bytes(23), bytes(25)])
def test_file_of_another_size_is_refused(path, data):
    assert "bytes, expected" in refused(write(path, {"w": W}, data))


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("", "no JSON object"),
        ("[]", "no JSON object"),
        (" {}", "no JSON object"),
        ("\ufeff{}", "no JSON object"),
        ("{", "cannot be read as safetensors"),
        ("{}x", "Extra data"),
        ("{}\0", "Extra data"),
        (b"{\xff}", "utf-8"),
        ("{}".encode("utf-16-le"), "property name"),
        ('{"a":' + "[" * 100_000, "recursion"),
        ('{"a":' * 100_000, "recursion"),
        ('{"w":' + "9" * 5000 + "}", "cannot be read as safetensors"),
        ('{"w":NaN}', "no dtype"),
        (json.dumps({"w": W})[:-1] + "," + json.dumps({"w": W})[1:], "a name twice"),
        (json.dumps({"w": W}).replace('"dtype"', '"dtype":"F16","dtype"'), "a name twice"),
        ({"__metadata__": []}, "no map of strings"),
        ({"__metadata__": {"format": 1}}, "no map of strings"),
        ({"__metadata__": None}, "no map of strings"),
    ],
)
def test_malformed_header_is_refused(path, header, problem):
    assert problem in refused(write(path, header))


@pytest.mark.parametrize("length", [2**20 + 1, 10**8, 2**63, 2**64 - 1])
def test_long_header_is_refused_before_it_is_read(path, length):
    assert f"a header of {length} bytes" in refused(write(path, {"w": W}, length=length))


def test_header_that_is_cut_off_is_refused(path):
    assert "cut off" in refused(write(path, {"w": W}, length=1000))


def test_many_tensors_are_refused(path):
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    write(path, {f"w{index}": entry for index in range(4097)}, b"")
    assert "names 4097 arrays" in refused(path)


def test_names_cannot_speak_to_the_terminal(path):
    name = "\x1b[2J\nboo\ud800" + "o" * 1000
    for entry in (W, {}, W | {"data_offsets": [4, 28]}):
        assert "\x1b" not in refused(write(path, {name: entry}))


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 7, bytes(4096), b"\xff" * 4096, b"version https://git-lfs.github.com"]
)
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    assert "cannot be read as safetensors" in refused(path)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_every_truncation_is_refused(path, checkpoint):
    whole = (FIXTURES / "safetensors" / checkpoint).read_bytes()
    for size in np.linspace(1, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:size])
        refused(path, shapes_of(expected(checkpoint)))


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_damage_is_refused_or_harmless(path, rng, checkpoint):
    whole = (FIXTURES / "safetensors" / checkpoint).read_bytes()
    shapes = shapes_of(expected(checkpoint))
    for _ in range(200):
        content = bytearray(whole)
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        with contextlib.suppress(Refusal):
            found = read_tensors(path, shapes)
            assert shapes_of(found) == shapes
            assert all(np.isfinite(array).all() for array in found.values())
