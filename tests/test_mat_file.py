"""Reading MAT files: what SciPy reads is read alike, everything else is refused, and cheaply."""

import io
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from stylejax.formats import mat_file
from stylejax.formats.mat_file import Skipped
from stylejax.formats.refusal import Refusal

FIXTURES = sorted((Path(__file__).parent / "fixtures" / "matconvnet").glob("*.mat"))
# Files that MATLAB 6.5 to 8 wrote; SciPy has brought them along so far.
MATLABS = Path(scipy.io.__file__).parent / "matlab" / "tests" / "data"
CELL, STRUCT, OBJECT, CHAR, SPARSE, DOUBLE, SINGLE, INT8, INT16 = 1, 2, 3, 4, 5, 6, 7, 8, 10
FUNCTION, OPAQUE = 16, 17
LOGICAL, COMPLEX = 2, 8
TYPES = {"i1": 1, "u1": 2, "<i2": 3, "<u2": 4, "<i4": 5, "<u4": 6, "<f4": 7, "<f8": 9}
UTF8, UTF16 = 16, 17
HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"


# Writing files by hand.


def element(kind: int, data: bytes, size: int | None = None) -> bytes:
    size = len(data) if size is None else size
    return struct.pack("<II", kind, size) + data + bytes(-len(data) % 8)


def head(kind=DOUBLE, shape=(1, 1), name=b"", bits=0) -> bytes:
    flags = element(TYPES["<u4"], bytes((kind, bits, 0, 0, 0, 0, 0, 0)))
    return flags + element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name)


def matrix(*parts: bytes, size: int | None = None) -> bytes:
    return element(14, b"".join(parts), size)


def numbers(values, dtype="<f8") -> bytes:
    return element(TYPES[dtype], np.array(values, dtype).tobytes())


def fields(*names: bytes, length=32) -> bytes:
    joined = b"".join(name.ljust(length, b"\0") for name in names)
    return struct.pack("<HHi", 5, 4, length) + element(1, joined)


def compressed(*parts: bytes) -> bytes:
    """A variable as MATLAB 7 writes it. Such elements are not padded."""
    data = zlib.compress(b"".join(parts))
    return struct.pack("<II", 15, len(data)) + data


def nested(depth: int) -> bytes:
    """A variable ``x`` of so many cells one in another, of which the innermost holds ``[]``."""
    outer, inner = head(CELL, name=b"x"), head(CELL)
    sizes = [8 + level * (8 + len(inner)) for level in range(depth - 1)]
    parts = [struct.pack("<II", 14, len(inner) + size) + inner for size in reversed(sizes)]
    return matrix(outer, *parts, matrix())


ONE = matrix(head(name=b"x"), numbers(1))


@pytest.fixture
def store(tmp_path):
    """Puts variables into a file."""

    def put(*variables: bytes, header=HEADER) -> Path:
        path = tmp_path / "file.mat"
        path.write_bytes(header + b"".join(variables))
        return path

    return put


def refused(path: Path, largest: int = 10**6) -> str:
    """The error of reading a file, after checking what every such error must be."""
    with pytest.raises(Refusal) as caught:
        mat_file.read(path, largest=largest)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{path}: ")
    assert "python scripts/convert_weights.py" in message
    assert len(message) < len(str(path)) + 400
    return message


def cheaply(work, path: Path):
    """Does something that must take no more than 2 MB and 5 seconds."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        result = work(path)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 5
    return result


# SciPy as the oracle.


def translated(value):
    """What SciPy has read, in the form that this reader has."""
    if value.dtype.names is not None:
        rows = [{n: translated(row[n]) for n in value.dtype.names} for row in value.ravel("F")]
        return rows[0] if len(rows) == 1 else rows
    if value.dtype == object:
        return [translated(item) for item in value.ravel("F")]
    if value.dtype.kind == "U":
        texts = [str(text) for text in value.ravel()] or [""]
        return texts[0] if len(texts) == 1 else texts
    return value


def assert_same(found, expected) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        # SciPy takes MATLAB's [] in a cell for an array of shape (1, 0).
        assert found.shape == expected.shape or (found.shape, expected.shape) == ((0, 0), (1, 0))
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


def assert_agrees_with_scipy(path) -> None:
    theirs = scipy.io.loadmat(path, mat_dtype=True)
    expected = {name: translated(v) for name, v in theirs.items() if not name.startswith("__")}
    assert_same(mat_file.read(path, largest=10**7), expected)


def random_value(rng: np.random.Generator, depth: int):
    """Anything that SciPy can write: one of five kinds, cells and structs with more in them."""
    kind = rng.integers(5 if depth else 3)
    if kind == 0:
        dtype = rng.choice(["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
        return (100 * rng.random(rng.integers(0, 4, rng.integers(1, 5)))).astype(dtype)
    if kind == 1:
        return rng.random(rng.integers(0, 4, 2)) < 0.5
    if kind == 2:
        texts = [str(text) for text in rng.choice(["", "a", "conv1_1", "Größe", "漢字"], 2)]
        return texts[0] if rng.random() < 0.8 else np.array(["two", "row"])
    if kind == 3:
        cell = np.empty(rng.integers(0, 3, 2), object)
        for place in np.ndindex(cell.shape):
            cell[place] = random_value(rng, depth - 1)
        return cell
    names = ["name", "weights", "a_rather_long_name_of_a_field"][: rng.integers(1, 4)]
    if rng.random() < 0.7:
        return {name: random_value(rng, depth - 1) for name in names}
    array = np.empty(rng.integers(0, 3, 2), [(name, object) for name in names])
    for place in np.ndindex(array.shape):
        for name in names:
            array[name][place] = random_value(rng, depth - 1)
    return array


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_networks_as_scipy_reads_them(path):
    assert_agrees_with_scipy(path)


@pytest.mark.parametrize("compress", [False, True])
def test_random_structures_as_scipy_reads_them(tmp_path, rng, compress):
    for _ in range(200):
        content = {name: random_value(rng, 3) for name in ("x", "layers")}
        scipy.io.savemat(tmp_path / "random.mat", content, do_compression=compress)
        assert_agrees_with_scipy(tmp_path / "random.mat")


def test_what_matlab_wrote_as_scipy_reads_it():
    """All but big-endian files, MATLAB 4's, HDF5, complex, sparse and foreign classes."""
    paths = sorted(MATLABS.glob("test*_GLNX86.mat"))
    if not paths:
        pytest.skip("this SciPy has no files of MATLAB's")
    foreign = ("complex", "func", "hdf5", "object", "sparse", "teststruct_", "vec_4")
    for path in paths:
        if any(word in path.name for word in foreign):
            refused(path)
        else:
            assert_agrees_with_scipy(path)


# What is read.


@pytest.mark.parametrize("wrap", [lambda v: v, compressed], ids=["plain", "compressed"])
def test_axes_are_matlabs(store, wrap):
    array = mat_file.read(
        store(wrap(matrix(head(SINGLE, (2, 3), b"x"), numbers(range(6), "<f4")))), largest=6
    )["x"]
    np.testing.assert_array_equal(array, [[0, 2, 4], [1, 3, 5]])
    assert array.dtype == np.float32
    assert array.flags.writeable


@pytest.mark.parametrize("dtype", TYPES)
def test_numbers_have_the_dtype_of_their_class(store, dtype):
    """MATLAB stores doubles that happen to be small integers in fewer bytes."""
    array = mat_file.read(
        store(matrix(head(DOUBLE, (1, 3), b"x"), numbers([1, 2, 3], dtype))), largest=3
    )
    np.testing.assert_array_equal(array["x"], [[1, 2, 3]])
    assert array["x"].dtype == np.float64


def test_small_elements_have_their_data_in_the_tag(store):
    data = struct.pack("<HHBBBx", 2, 3, 7, 8, 9)
    found = mat_file.read(store(matrix(head(DOUBLE, (1, 3), b"x"), data)), largest=3)
    np.testing.assert_array_equal(found["x"], [[7, 8, 9]])


def test_logical_is_bool(store):
    data = numbers([0, 1, 2], "u1")
    found = mat_file.read(store(matrix(head(9, (1, 3), b"x", LOGICAL), data)), largest=3)["x"]
    assert found.tolist() == [[False, True, True]]


@pytest.mark.parametrize(
    "kind, codec",
    [(1, "ascii"), (2, "latin-1"), (4, "utf-16-le"), (UTF8, "utf-8"), (UTF16, "utf-16-le")],
)
def test_letters_of_every_type(store, kind, codec):
    text = "conv" if codec == "ascii" else "convé"
    data = element(kind, text.encode(codec))
    assert mat_file.read(store(matrix(head(CHAR, (1, len(text)), b"x"), data)), largest=9) == {
        "x": text
    }


def test_rows_of_text_are_a_list(store):
    data = element(UTF8, b"atbwco")
    assert mat_file.read(store(matrix(head(CHAR, (2, 3), b"x"), data)), largest=6)["x"] == [
        "abc",
        "two",
    ]


def test_text_that_is_no_text_is_replaced(store):
    data = element(UTF8, b"a\xff")
    assert mat_file.read(store(matrix(head(CHAR, (1, 2), b"x"), data)), largest=6)["x"] == "a\ufffd"


def test_structs_and_cells(store):
    a, b = matrix(head(), numbers(1)), matrix(head(), numbers(2))
    one = matrix(head(STRUCT, (1, 1), b"one"), fields(b"a", b"b"), a, b)
    two = matrix(head(STRUCT, (2, 1), b"two"), fields(b"a"), a, b)
    none = matrix(head(STRUCT, (1, 1), b"none"), fields())
    cell = matrix(head(CELL, (1, 3), b"cell"), a, matrix(), b)
    found = mat_file.read(store(one, two, none, compressed(cell)), largest=9)
    assert found["one"] == {"a": 1, "b": 2}
    assert found["two"] == [{"a": 1}, {"a": 2}]
    assert found["none"] == {}
    assert found["cell"][0] == 1 and found["cell"][2] == 2
    assert found["cell"][1].shape == (0, 0)


def test_field_names_end_at_a_zero(store):
    """What is behind it has been seen to be anything."""
    data = struct.pack("<HHi", 5, 4, 8) + element(1, b"name\0abc")
    path = store(matrix(head(STRUCT, (1, 1), b"x"), data, matrix()))
    assert list(mat_file.read(path, largest=9)["x"]) == ["name"]


def test_stream_without_an_end_is_read(store):
    """MATLAB has written such ones."""
    squeeze = zlib.compressobj()
    data = squeeze.compress(ONE) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    assert mat_file.read(
        store(
            struct.pack("<II", 15, len(data)) + data,
        ),
        largest=9,
    ) == {"x": 1}


def test_what_is_behind_a_stream_is_not_read(store):
    data = zlib.compress(ONE) + bytes(2**24)
    other = matrix(head(name=b"y"), numbers(2))
    path = store(struct.pack("<II", 15, len(data)) + data, other)
    assert cheaply(lambda path: mat_file.read(path, largest=9), path) == {"x": 1, "y": 2}


def test_file_without_variables(store):
    assert mat_file.read(store(), largest=9) == {}


# What is passed over.


@pytest.mark.parametrize("kind", [SINGLE, CHAR])
@pytest.mark.parametrize("wrap", [lambda v: v, compressed], ids=["plain", "compressed"])
def test_large_arrays_are_never_in_memory(store, wrap, kind):
    shape = (64, 2**16)
    data = bytes(4 * shape[0] * shape[1])
    parts = head(kind, shape), element(TYPES["<f4"] if kind == SINGLE else UTF8, data)
    path = store(wrap(matrix(head(CELL, (1, 2), b"x"), matrix(*parts), matrix(head(), numbers(1)))))
    found = cheaply(lambda path: mat_file.read(path, largest=64 * 2**16 - 1), path)
    assert found["x"][0] == Skipped(shape)
    assert found["x"][1] == 1


def test_largest_is_read(store):
    path = store(matrix(head(DOUBLE, (2, 3), b"x"), numbers(range(6))))
    assert mat_file.read(path, largest=6)["x"].shape == (2, 3)
    assert mat_file.read(path, largest=5)["x"] == Skipped((2, 3))


# What is refused.

OTHER_FILES = {
    "nothing": (b"", "is no MAT file"),
    "a few bytes": (b"MATLAB 5.0 MAT-file", "is no MAT file"),
    "zeros": (bytes(4096), "is no MAT file"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "is no MAT file"),
    "MATLAB 7.3": (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(384), "is HDF5"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(200), "is HDF5"),
    "big-endian": (b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0MI", "is big-endian"),
}


@pytest.mark.parametrize("content, problem", OTHER_FILES.values(), ids=OTHER_FILES)
def test_other_files_are_refused(store, content, problem):
    assert problem in refused(store(header=content))


HUGE = 2**31 - 1
LETTERS = element(UTF8, b"abc")
VARIABLES = {
    "object": (matrix(head(OBJECT, name=b"x"), numbers(1)), "is an object"),
    "sparse": (matrix(head(SPARSE, name=b"x"), numbers(1)), "is sparse"),
    "function": (matrix(head(FUNCTION, name=b"x"), numbers(1)), "is a function"),
    "opaque": (matrix(head(OPAQUE, name=b"x"), numbers(1)), "is an object"),
    "class 0": (matrix(head(0, name=b"x"), numbers(1)), "is of class 0"),
    "class 99": (matrix(head(99, name=b"x"), numbers(1)), "is of class 99"),
    "complex": (matrix(head(name=b"x", bits=COMPLEX), numbers(1), numbers(1)), "is complex"),
    "no matrix": (numbers(1), "expected a matrix"),
    "compressed no matrix": (compressed(numbers(1)), "expected a matrix"),
    "compressed in compressed": (compressed(compressed(ONE)), "expected a matrix"),
    "no flags": (matrix(numbers(1)), "of type 6"),
    "empty flags": (matrix(element(6, b""), numbers(1)), "is of class 0"),
    "negative axis": (matrix(head(shape=(-1, 1), name=b"x"), numbers(1)), "shape (-1, 1)"),
    "negative axes": (matrix(head(shape=(-1, -1), name=b"x"), numbers(1)), "shape (-1, -1)"),
    "one axis": (matrix(head(shape=(1,), name=b"x"), numbers(1)), "shape (1,)"),
    "no axes": (matrix(head(shape=(), name=b"x"), numbers(1)), "shape ()"),
    "nine axes": (matrix(head(shape=(1,) * 9, name=b"x"), numbers(1)), "36 bytes of type 5"),
    "huge shape": (matrix(head(shape=(HUGE, HUGE), name=b"x"), numbers(1)), "no array has"),
    "overflowing shape": (matrix(head(shape=(2**16,) * 4, name=b"x"), numbers([])), "no array has"),
    "huge empty shape": (matrix(head(shape=(0, *(HUGE,) * 7), name=b"x"), numbers([])), "no array"),
    "too few numbers": (matrix(head(shape=(1, 2), name=b"x"), numbers(1)), "8 bytes of float64"),
    "too many numbers": (matrix(head(name=b"x"), numbers([1, 2])), "16 bytes of float64"),
    "large, too few": (matrix(head(shape=(9999, 9999), name=b"x"), numbers(1)), "8 bytes of float"),
    "numbers out of range": (matrix(head(INT8, name=b"x"), numbers(1, "<i2")), "numbers of int8"),
    "unsigned for signed": (matrix(head(INT16, name=b"x"), numbers(1, "<u2")), "numbers of int16"),
    "fractions for whole": (matrix(head(INT8, name=b"x"), numbers(1, "<f4")), "numbers of int8"),
    "double for single": (matrix(head(SINGLE, name=b"x"), numbers(1)), "numbers of float32"),
    "letters for numbers": (matrix(head(name=b"x"), LETTERS), "for numbers"),
    "numbers for letters": (matrix(head(CHAR, name=b"x"), numbers(1)), "for 1 characters"),
    "too many letters": (matrix(head(CHAR, (1, 0), b"x"), LETTERS), "for 0 characters"),
    "seven bytes in a tag": (
        matrix(head(name=b"x"), struct.pack("<HHI", 9, 7, 0)),
        "7 bytes inside a tag",
    ),
    "nameless": (matrix(head(), numbers(1)), "nameless variable"),
    "empty": (matrix(), "nameless variable"),
    "twice": (ONE + compressed(ONE), "two variables x"),
    "name too long": (matrix(head(name=b"x" * 64), numbers(1)), "64 bytes of type 1"),
    "name not ASCII": (matrix(head(name=b"\xff"), numbers(1)), "name"),
    "name for the terminal": (matrix(head(OBJECT, name=b"\x1b[2J\n")), "an object"),
    "field for the terminal": (
        matrix(head(STRUCT, name=b"x"), fields(b"\x1b[2J\n"), matrix(head(OBJECT))),
        r"x.\x1b[2J\n is an object",
    ),
    "field twice": (
        matrix(head(STRUCT, name=b"x"), fields(b"a", b"a"), matrix(), matrix()),
        "two fields",
    ),
    "field without a name": (matrix(head(STRUCT, name=b"x"), fields(b""), matrix()), "without a"),
    "field name too long": (
        matrix(head(STRUCT, name=b"x"), fields(b"a" * 64, length=64), matrix()),
        "name",
    ),
    "field names of no length": (
        matrix(head(STRUCT, name=b"x"), struct.pack("<HHi", 5, 4, 0), element(1, b"abc")),
        "do not fit",
    ),
    "field names that do not fit": (
        matrix(head(STRUCT, name=b"x"), struct.pack("<HHi", 5, 4, 2) + element(1, b"abc")),
        "do not fit",
    ),
    "matrix too short": (matrix(head(name=b"x"), numbers(1), size=48), "8 bytes, and 0 are left"),
    "matrix too long": (matrix(head(name=b"x"), numbers(1), bytes(8)), "last 8 bytes"),
    "cell lacks a matrix": (matrix(head(CELL, (1, 2), b"x"), matrix()), "x{2} is damaged"),
    "cell in a number's place": (matrix(head(CELL, name=b"x"), numbers(1)), "x{1} is damaged"),
    "stray bytes": (ONE + b"abc", "3 are left"),
}


@pytest.mark.parametrize("variable, problem", VARIABLES.values(), ids=VARIABLES)
def test_what_is_wrong_is_named(store, variable, problem):
    path = store(variable)
    assert problem in cheaply(refused, path)


def test_not_zlib_is_refused(store):
    assert "cannot be read as a MAT file" in refused(store(element(15, b"x" * 64)))


def test_wrong_checksum_is_refused(store):
    variable = compressed(ONE)
    assert "incorrect data check" in refused(store(variable[:-1] + bytes([variable[-1] ^ 1])))


def test_missing_file(tmp_path):
    for path in (tmp_path / "absent.mat", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file"):
            mat_file.read(path, largest=1)


# What would take too much.


def expanding(size: int, claimed: int, start: bytes = b"") -> bytes:
    """A variable of zeros, 2**24 at a time, behind a tag that says it has ``claimed`` bytes."""
    squeeze = zlib.compressobj(9)
    parts = [squeeze.compress(struct.pack("<II", 14, claimed) + start)]
    parts.append(squeeze.flush(zlib.Z_FULL_FLUSH))
    piece = squeeze.compress(bytes(2**24)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    data = b"".join((*parts, *[piece] * (size >> 24)))
    return struct.pack("<II", 15, len(data)) + data


def test_bombs_are_refused(store):
    """Two megabytes that expand to 2 GiB, whatever they say of themselves."""
    start = head(DOUBLE, (2**14, 2**14), b"x")
    honest = store(expanding(2**31, 2**31 + len(start) + 8, start + element(9, b"", 2**31)))
    assert honest.stat().st_size < 3e6
    assert "bytes inflated" in cheaply(refused, honest)
    modest = store(expanding(2**31, len(ONE) - 8, ONE[8:]))
    assert "more than it says" in cheaply(refused, modest)
    boasting = store(expanding(2**24, 2**30 + 1, start))
    assert "bytes inflated" in cheaply(refused, boasting)


def test_variables_count_together(store, monkeypatch):
    monkeypatch.setitem(mat_file.ALLOWANCE, "bytes inflated", 5 * 2**19)
    data = element(2, bytes(2**20))
    variables = [compressed(matrix(head(9, (1, 2**20), name), data)) for name in (b"x", b"y", b"z")]
    assert set(mat_file.read(store(*variables[:2]), largest=1)) == {"x", "y"}
    assert "bytes inflated" in refused(store(*variables), largest=1)


@pytest.mark.parametrize("depth", [16, 17, 1000, 100_000])
def test_deep_nesting(store, depth):
    path = store(nested(depth))
    if depth <= mat_file.MAX_DEPTH:
        assert set(mat_file.read(path, largest=1)) == {"x"}
    else:
        assert "lies inside more than 16 cells and structs" in cheaply(refused, path)


NAMES = tuple(f"field{i}".encode() for i in range(1000))
LARGE = {
    "cells": matrix(head(CELL, (HUGE, 1), b"x"), matrix()),
    "cells in cells": matrix(
        head(CELL, (1, 400), b"x"), *[matrix(head(CELL, (1, 400)), *[matrix()] * 400)] * 400
    ),
    "structs without fields": matrix(head(STRUCT, (HUGE, 1), b"x"), fields()),
    "structs": matrix(head(STRUCT, (HUGE, 1), b"x"), fields(b"a"), matrix()),
    "fields": matrix(
        head(CELL, (1, 99), b"x"), *[matrix(head(STRUCT, (0, 0)), fields(*NAMES))] * 99
    ),
    "rows of text": matrix(head(CHAR, (2**16, 1), b"x"), element(UTF8, b"a" * 2**16)),
    "variables": b"".join(
        matrix(head(name=f"x{i}".encode()), numbers(1)) for i in range(2**15 + 1)
    ),
}


@pytest.mark.parametrize("variable", LARGE.values(), ids=LARGE)
def test_number_of_parts_is_limited(store, variable):
    assert "matrices and fields" in refused(store(variable))


@pytest.mark.parametrize("variable", [numbers(range(20)), element(UTF8, b"a" * 20)])
def test_bytes_kept_are_limited_together(store, variable, monkeypatch):
    monkeypatch.setitem(mat_file.ALLOWANCE, "bytes kept", 3 * 160)
    item = matrix(head(DOUBLE if variable[0] == 9 else CHAR, (1, 20)), variable)
    path = store(matrix(head(CELL, (1, 7), b"x"), *[item] * 7))
    assert "bytes kept" in refused(path)
    assert mat_file.read(path, largest=19)["x"] == [Skipped((1, 20))] * 7


# Damage.


@pytest.fixture(scope="module")
def network() -> tuple[bytes, bytes]:
    """A small network in one variable, plain and compressed."""
    rng = np.random.default_rng(0)
    layers = np.empty((1, 2), object)
    for index in range(2):
        weights = np.empty((1, 2), object)
        weights[0, 0] = rng.normal(size=(3, 3, 2, 2)).astype(np.float32)
        weights[0, 1] = rng.normal(size=(1, 2)).astype(np.float32)
        layers[0, index] = {"name": f"conv1_{index}", "weights": weights, "pad": np.ones((1, 4))}
    contents = []
    for compress in (False, True):
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {"layers": layers}, do_compression=compress)
        contents.append(buffer.getvalue())
    return contents[0], contents[1]


@pytest.mark.parametrize("compress", [False, True])
def test_every_truncation_is_refused(store, network, compress):
    whole = network[compress]
    for size in range(len(whole)):
        if size != len(HEADER):  # which is a file without variables
            refused(store(header=whole[:size]))


def mutated(rng: np.random.Generator, content: bytes) -> bytes:
    """The same with a few bytes changed, or some integer where one may be."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if rng.random() < 0.5:
            changed[rng.integers(len(changed))] = rng.integers(256)
        else:
            number = rng.choice([0, 1, 2, 3, 5, 14, 15, 2**16, 2**24, HUGE, 2**31, 2**32 - 1])
            place = 4 * rng.integers(len(changed) // 4)
            changed[place : place + 4] = struct.pack("<I", number)
    return bytes(changed)


def test_damage_is_read_or_refused(store, network, rng):
    """No other exception, no warning, no hang: 400 plain, 400 compressed before and after."""
    plain, squeezed = network
    contents = [HEADER + mutated(rng, plain[128:]) for _ in range(400)]
    contents += [HEADER + compressed(mutated(rng, plain[128:])) for _ in range(200)]
    contents += [mutated(rng, squeezed) for _ in range(200)]
    refusals = 0
    for content in contents:
        path = store(header=content)
        try:
            cheaply(lambda path: mat_file.read(path, largest=10**6), path)
        except Refusal:
            refusals += 1
            refused(path)
    assert refusals > len(contents) / 2
