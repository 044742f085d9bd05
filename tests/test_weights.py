"""The parameter store: format, verification, search, download. Nothing here leaves the machine."""

import errno
import functools
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
from test_convert import TINY, random_arrays, write_keras

from stylejax import checkpoints, convert, download, images, normalisation, vgg, weights

ROOT = Path(__file__).parents[1]
COMMAND = "python scripts/convert_weights.py"
SHARED = ROOT.parent / "shared" / "weights" / "vgg19_keras_layout.h5"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """No test sees this machine's own weights: a home, a cache and a checkout of its own."""
    checkout = tmp_path / "code" / "checkout"
    for folder in ("stylejax", "weights"):
        (checkout / folder).mkdir(parents=True)
    (checkout / "pyproject.toml").touch()
    (tmp_path / "code" / "shared" / "weights").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("STYLEJAX_WEIGHTS", raising=False)
    monkeypatch.setenv("STYLEJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "__file__", str(checkout / "stylejax" / "weights.py"))
    for variable in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    return tmp_path


@pytest.fixture
def params(rng):
    shapes = vgg.parameter_shapes(TINY)
    return {
        layer: {name: rng.normal(size=s).astype(np.float32) for name, s in arrays.items()}
        for layer, arrays in shapes.items()
    }


@pytest.fixture
def stored(tmp_path, params) -> Path:
    weights.save(tmp_path / "stored.h5", params, weights.Origin("a test"))
    return tmp_path / "stored.h5"


@pytest.fixture
def keras_file(tmp_path, rng) -> Path:
    return write_keras(tmp_path / "keras.h5", random_arrays(rng))


@pytest.fixture
def known(keras_file, monkeypatch) -> checkpoints.Checkpoint:
    """A tiny Keras file that is listed as the published one, at an address that refuses."""
    content = keras_file.read_bytes()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    checkpoint = checkpoints.KERAS._replace(
        name="published.h5",
        url=f"http://127.0.0.1:{port}/published.h5",
        size=len(content),
        hash=f"sha256:{weights.digest(keras_file)}",
        reader=functools.partial(convert.read_keras, architecture=TINY),
    )
    monkeypatch.setitem(checkpoints.PUBLISHED, "vgg19", checkpoint)
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", (checkpoint,))
    return checkpoint


@pytest.fixture
def server():
    """An HTTP server on this machine: ``server.content`` is what it has, ``cut`` what it sends."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(self.server.status)
            self.send_header("Content-Length", str(len(self.server.content)))
            self.end_headers()

        def do_GET(self):
            self.server.requests += 1
            self.do_HEAD()
            self.wfile.write(self.server.content[: self.server.cut])

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.status, running.content, running.cut, running.requests = 200, b"", None, 0
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def served(server, known, keras_file, monkeypatch):
    """``known`` as the server has it."""
    server.content = keras_file.read_bytes()
    url = f"http://127.0.0.1:{server.server_address[1]}/published.h5"
    monkeypatch.setitem(checkpoints.PUBLISHED, "vgg19", known._replace(url=url))
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", (checkpoints.PUBLISHED["vgg19"],))
    return server


@pytest.fixture
def script():
    path = ROOT / "scripts" / "convert_weights.py"
    spec = importlib.util.spec_from_file_location("convert_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_same(found, expected):
    assert list(found) == list(expected)
    for layer, arrays in expected.items():
        assert found[layer].keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[layer][name].dtype == np.float32
            np.testing.assert_array_equal(found[layer][name], array)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def one_line(caught) -> str:
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# The format


def test_round_trip(stored, params):
    assert_same(weights.load(stored), params)


def test_round_trip_of_jax_arrays(tmp_path, params):
    jax = pytest.importorskip("jax")
    weights.save(
        tmp_path / "a.h5", jax.tree.map(jax.numpy.asarray, params), weights.Origin("a test")
    )
    assert_same(weights.load(tmp_path / "a.h5"), params)


def test_file_says_what_it_is(tmp_path, params):
    path = tmp_path / "new" / "folder" / "a.h5"
    weights.save(path, params, weights.Origin("there", "ab", "mine"))
    with h5py.File(path) as file:
        found = dict(file.attrs)
        assert file["conv1_1/kernel"].fletcher32
    assert tuple(found.pop("blocks")) == TINY.blocks
    assert tuple(found.pop("widths")) == TINY.widths
    assert found == {
        "format": b"stylejax-vgg",
        "version": 1,
        "source": b"there",
        "source_sha256": b"ab",
        "licence": b"mine",
        "network": b"unknown",
        "normalised": 0,
    }


def test_same_params_make_the_same_file(tmp_path, stored, params):
    weights.save(tmp_path / "again.h5", params, weights.Origin("a test"))
    assert weights.digest(tmp_path / "again.h5") == weights.digest(stored)


def test_save_refuses_what_load_would(tmp_path, params):
    path = tmp_path / "a.h5"
    with pytest.raises(ValueError, match="float64"):
        weights.save(
            path, params | {"conv1_1": _map(params["conv1_1"], np.float64)}, weights.Origin("")
        )
    params["conv1_1"]["bias"][0] = np.nan
    with pytest.raises(ValueError, match="conv1_1/bias"):
        weights.save(path, params, weights.Origin(""))
    del params["conv1_1"]
    with pytest.raises(ValueError, match="do not form a VGG"):
        weights.save(path, params, weights.Origin(""))
    assert "a.h5" not in files(tmp_path)


def _map(arrays, dtype):
    return {name: array.astype(dtype) for name, array in arrays.items()}


def test_failed_save_leaves_the_old_file_and_nothing_else(stored, params, monkeypatch):
    before, content = files(stored.parent), stored.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    params["conv1_1"]["bias"][0] += 1
    with pytest.raises(OSError, match="No space left"):
        weights.save(stored, params, weights.Origin("another"))
    assert files(stored.parent) == before and stored.read_bytes() == content


@contextmanager
def room_for(size: int):
    """A file system on which no file can be longer: writing fails in the middle."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_disk_that_fills_up(stored, params):
    before, content = files(stored.parent), stored.read_bytes()
    params["conv1_1"]["bias"][0] += 1
    with pytest.raises(OSError) as caught, room_for(1000):
        weights.save(stored, params, weights.Origin("another"))
    assert f"cannot write {stored} (File too large)" in one_line(caught)
    assert files(stored.parent) == before and stored.read_bytes() == content


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_folder_that_is_read_only(stored, params, monkeypatch, number):
    """Root may write anywhere, so the refusal is put in."""
    before, content = files(stored.parent), stored.read_bytes()

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("stylejax.files.open", refuse, raising=False)
    with pytest.raises(OSError) as caught:
        weights.save(stored, params, weights.Origin("another"))
    assert f"cannot write {stored} ({os.strerror(number)})" in one_line(caught)
    assert files(stored.parent) == before and stored.read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_only_ordinary_files_are_replaced(tmp_path, params):
    """What is written to /dev/null by root must not take its place."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, reason in (("pipe", "it is no ordinary file"), ("folder", "it is a folder")):
        with pytest.raises(OSError, match=f"cannot write .*{name} .{reason}") as caught:
            weights.save(tmp_path / name, params, weights.Origin(""))
        one_line(caught)
    assert (tmp_path / "pipe").is_fifo() and "part" not in str(files(tmp_path))


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_file_has_the_permissions_of_the_umask(tmp_path, params):
    before = os.umask(0o027)
    try:
        weights.save(tmp_path / "a.h5", params, weights.Origin(""))
    finally:
        os.umask(before)
    assert (tmp_path / "a.h5").stat().st_mode & 0o777 == 0o640


def damaged(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        weights.load(path)
    assert COMMAND in one_line(caught) and str(path) in str(caught.value)
    return one_line(caught)


def test_a_flipped_bit_in_any_array_is_noticed(stored):
    whole = stored.read_bytes()
    with h5py.File(stored) as file:
        places = [
            (f"{layer}/{name}", file[layer][name].id.get_chunk_info(0))
            for layer in file
            for name in file[layer]
        ]
    assert len(places) == 8
    for _, chunk in places:
        broken = bytearray(whole)
        broken[chunk.byte_offset + chunk.size // 2] ^= 1
        stored.write_bytes(broken)
        damaged(stored)


def test_changed_values_are_noticed(stored):
    """HDF5's own checksum follows a change that was made through HDF5; the SHA-256 does not."""
    with h5py.File(stored, "r+") as file:
        file["conv2_1/kernel"][0, 0, 0, 0] += 1
    assert "conv2_1/kernel is damaged" in damaged(stored)


def test_missing_checksum_is_refused(stored):
    with h5py.File(stored, "r+") as file:
        del file["conv2_1/kernel"].attrs["sha256"]
    assert "conv2_1/kernel is damaged" in damaged(stored)


@pytest.mark.parametrize(
    ("attribute", "value", "says"),
    [
        ("format", b"other", "not a stylejax weights file"),
        ("format", "stylejax-vgg", "not a stylejax weights file"),  # of variable length
        ("format", [1, 2], "not a stylejax weights file"),
        ("version", 2, "format version 2"),
        ("version", [1, 1], "format version"),
        ("version", b"1\n", "format version"),
        ("blocks", [1, 2, 3], "different numbers"),
        ("blocks", [1, 0], "no sensible attribute 'blocks'"),
        ("blocks", [1.0, 2.0], "no sensible attribute 'blocks'"),
        ("widths", b"wide", "no sensible attribute 'widths'"),
        ("widths", [4, 2**40], "no sensible attribute 'widths'"),
        ("widths", np.ones(17, int), "no sensible attribute 'widths'"),
        ("widths", [8192, 8192], "parameters"),
        ("widths", [4, 7], "has shape"),
        ("blocks", [1, 1], "expected input, conv1_1, conv2_1;"),
        ("blocks", [1, 3], "conv2_3"),
    ],
)
def test_wrong_header_is_refused(stored, attribute, value, says):
    with h5py.File(stored, "r+") as file:
        file.attrs[attribute] = value
    assert says in damaged(stored)


def test_keras_file_is_not_a_stored_file_and_the_error_says_what_to_do(keras_file):
    assert f"`{COMMAND} --source {keras_file}`" in damaged(keras_file)


def test_external_link_in_a_stored_file_is_refused(tmp_path, stored, params):
    weights.save(tmp_path / "other.h5", params, weights.Origin(""))
    with h5py.File(stored, "r+") as file:
        del file["conv2_1"]
        file["conv2_1"] = h5py.ExternalLink(tmp_path / "other.h5", "conv2_1")
    assert "ExternalLink" in damaged(stored)


def _dataset(file, other, **options):
    options = {"data": np.ones((3, 3, 4, 6), np.float32)} | options
    file.create_dataset("conv2_1/kernel", **options)


def _virtual(file, other):
    layout = h5py.VirtualLayout((3, 3, 4, 6), np.float32)
    layout[:] = h5py.VirtualSource(other, "conv2_1/kernel", (3, 3, 4, 6))
    file.create_virtual_dataset("conv2_1/kernel", layout)


def _soft(file, other):
    file["conv2_1/kernel"] = h5py.SoftLink("/conv2_2/kernel")


def _external_storage(file, other):
    place = [(other, 0, h5py.h5f.UNLIMITED)]
    _dataset(file, other, data=None, shape=(3, 3, 4, 6), dtype=np.float32, external=place)


FOREIGN = {
    "soft link": (_soft, "SoftLink"),
    "virtual dataset": (_virtual, "other files"),
    "external storage": (_external_storage, "other files"),
    "filter": (functools.partial(_dataset, compression="lzf"), "filter"),
    "shape": (functools.partial(_dataset, data=np.ones((3, 3, 4, 5), np.float32)), "has shape"),
    "dtype": (functools.partial(_dataset, data=np.ones((3, 3, 4, 6))), "expected float32"),
    "NaN": (
        functools.partial(_dataset, data=np.full((3, 3, 4, 6), np.nan, np.float32)),
        "not finite",
    ),
    "group": (lambda file, other: file.create_group("conv2_1/kernel"), "expected a Dataset"),
}


@pytest.mark.parametrize(("make", "says"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_array_in_a_stored_file_is_refused(tmp_path, stored, params, make, says):
    weights.save(tmp_path / "other.h5", params, weights.Origin(""))
    with h5py.File(stored, "r+") as file:
        del file["conv2_1/kernel"]
        make(file, tmp_path / "other.h5")
    assert says in damaged(stored)


def test_damage_is_refused_or_harmless(stored, params, rng):
    """Bytes between the arrays mean nothing to them; any other flipped bit is noticed."""
    whole, refused = stored.read_bytes(), 0
    for _ in range(150):
        broken = bytearray(whole)
        broken[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        stored.write_bytes(broken)
        try:
            found = weights.load(stored)
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert_same(found, params)
    assert refused


def test_truncated_and_missing_files(stored, tmp_path):
    stored.write_bytes(stored.read_bytes()[:-100])
    assert "cannot be read as HDF5" in damaged(stored)
    with pytest.raises(FileNotFoundError, match=r"absent\.h5"):
        weights.load(tmp_path / "absent.h5")


# Checkpoints known by their hash


def test_manifest_json_is_the_table():
    assert json.loads((ROOT / "weights" / "manifest.json").read_text()) == checkpoints.manifest()


def test_manifest_says_how_the_built_in_network_was_made():
    entry = checkpoints.manifest()["slim.h5"]
    assert entry["network"] == "slim" and entry["sha256"] == weights.digest(weights.SLIM)
    assert (ROOT / entry["script"]).is_file() and entry["settings"].startswith("--steps ")
    assert "photographs" in entry["data"]
    assert weights.SLIM.stat().st_size <= 3_000_000
    mapping = weights.load(weights.SLIM)["input"]  # in words: times 4, minus 2
    assert entry["preprocessing"] == "RGB, 0-1, times 4, minus 2"
    np.testing.assert_array_equal(mapping["kernel"], 4 * np.eye(3))
    np.testing.assert_array_equal(mapping["bias"], [-2, -2, -2])


def test_readme_lists_the_table():
    text = (ROOT / "weights" / "README.md").read_text().replace(" ", "")
    for checkpoint in checkpoints.CHECKPOINTS:
        size = "" if checkpoint.size is None else str(checkpoint.size)
        for value in (checkpoint.name, checkpoint.hash.split(":")[1], size):
            assert value in text


def test_file_is_recognised_by_either_hash(keras_file, known, monkeypatch):
    assert checkpoints.identify(keras_file) == (known, weights.digest(keras_file))
    by_md5 = known._replace(hash="md5:d41d8cd98f00b204e9800998ecf8427e")  # of no bytes at all
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", (by_md5,))
    assert checkpoints.identify(keras_file)[0] is None
    keras_file.write_bytes(b"")
    assert checkpoints.identify(keras_file)[0] == by_md5


def test_known_file_is_converted(tmp_path, keras_file, known):
    out = tmp_path / "out.h5"
    assert weights.convert_file(keras_file, out) == weights.digest(keras_file)
    assert_same(weights.load(out), convert.read_keras(keras_file, TINY))
    with h5py.File(out) as file:
        assert file.attrs["source"].decode() == known.url
        assert file.attrs["source_sha256"].decode() == weights.digest(keras_file)
        assert b"Simonyan" in file.attrs["licence"]


def test_unknown_file_is_refused_before_hdf5_sees_it(tmp_path, keras_file, monkeypatch):
    monkeypatch.setattr(h5py, "File", None)
    with pytest.raises(ValueError) as caught:
        weights.convert_file(keras_file, tmp_path / "out.h5")
    message = one_line(caught)
    assert weights.digest(keras_file) in message and "--allow-unverified" in message
    assert "out.h5" not in files(tmp_path)


def test_a_flipped_byte_of_a_known_file_is_refused_before_hdf5_sees_it(
    tmp_path, keras_file, known, monkeypatch, rng
):
    """Keras' format has no checksums of its own."""
    whole = keras_file.read_bytes()
    monkeypatch.setattr(h5py, "File", None)
    for place in rng.integers(len(whole), size=20):
        broken = bytearray(whole)
        broken[place] ^= 1
        keras_file.write_bytes(broken)
        with pytest.raises(ValueError, match="no known checkpoint") as caught:
            weights.convert_file(keras_file, tmp_path / "out.h5")
        one_line(caught)
    assert "out.h5" not in files(tmp_path)


@pytest.mark.parametrize(
    "name", ["torch/vgg_zip.pth", "safetensors/vgg.safetensors", "matconvnet/newer.mat"]
)
def test_unknown_file_of_any_format_is_refused_unread(tmp_path, name, monkeypatch):
    monkeypatch.setattr(weights, "guess_reader", None)
    path = ROOT / "tests" / "fixtures" / name
    for call in (weights.resolve, functools.partial(weights.convert_file, destination="out.h5")):
        with pytest.raises(ValueError, match="no known checkpoint") as caught:
            call(path)
        assert f"--source {path} --allow-unverified" in one_line(caught)


def test_a_stored_file_is_no_checkpoint(tmp_path, stored):
    with pytest.raises(ValueError, match="a stylejax weights file already") as caught:
        weights.convert_file(stored, tmp_path / "out.h5", allow_unverified=True)
    one_line(caught)


def test_unknown_file_is_converted_when_allowed(tmp_path, keras_file, monkeypatch):
    reader = functools.partial(convert.read_keras, architecture=TINY)
    monkeypatch.setattr(weights, "guess_reader", lambda path: reader)
    weights.convert_file(keras_file, tmp_path / "out.h5", allow_unverified=True)
    assert_same(weights.load(tmp_path / "out.h5"), reader(keras_file))
    with h5py.File(tmp_path / "out.h5") as file:
        assert b"unverified" in file.attrs["source"] and file.attrs["licence"] == b"unknown"


# Where weights are looked for


@pytest.fixture
def places(folders, params, keras_file, known) -> dict[str, Path]:
    """A file in every place, in the order of search; the last is a Keras checkpoint."""
    there = {
        "option": folders / "option.h5",
        "environment": folders / "environment.h5",
        "here": folders / "here" / "weights" / "vgg19.h5",
        "checkout": folders / "code" / "checkout" / "weights" / "vgg19.h5",
        "cache": folders / "cache" / "vgg19.h5",
    }
    for name, path in there.items():
        weights.save(path, params, weights.Origin(name))
    there["shared"] = folders / "code" / "shared" / "weights" / known.name
    there["shared"].write_bytes(keras_file.read_bytes())
    return there


def source(path: Path) -> str:
    with h5py.File(path) as file:
        return file.attrs["source"].decode()


def test_order_of_search(places, known, monkeypatch):
    monkeypatch.setenv("STYLEJAX_WEIGHTS", str(places["environment"]))
    assert weights.resolve(places["option"]) == places["option"]
    assert weights.resolve(str(places["option"])) == places["option"]
    for name in ("environment", "here", "checkout", "cache"):
        assert weights.resolve() == places[name]
        monkeypatch.delenv("STYLEJAX_WEIGHTS", raising=False)
        places[name].unlink()
    shared = weights.resolve()
    assert source(shared) == known.url
    assert shared.name == f"vgg19-{weights.digest(places['shared'])[:16]}.h5"
    places["shared"].unlink()
    with pytest.raises(FileNotFoundError, match=COMMAND):
        weights.resolve(fetch_missing=False)
    with pytest.raises(ConnectionError, match=COMMAND):
        weights.resolve()


def test_installed_package_does_not_search_its_surroundings(places, folders):
    (folders / "code" / "checkout" / "pyproject.toml").unlink()
    places["here"].unlink()
    assert weights.resolve() == places["cache"]
    places["cache"].unlink()
    with pytest.raises(FileNotFoundError):
        weights.resolve(fetch_missing=False)


def test_named_file_must_exist(places, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"typo\.h5"):
        weights.resolve(tmp_path / "typo.h5")
    monkeypatch.setenv("STYLEJAX_WEIGHTS", str(tmp_path / "other typo.h5"))
    with pytest.raises(FileNotFoundError, match=r"other typo\.h5"):
        weights.resolve()


def test_named_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match=r"photo\.jpg: cannot be read as HDF5") as caught:
        weights.resolve(tmp_path / "photo.jpg")
    one_line(caught)


def test_named_checkpoint_is_converted_once(keras_file, known, folders):
    converted = weights.resolve(keras_file)
    assert converted.parent == folders / "cache"
    assert_same(weights.load(converted), convert.read_keras(keras_file, TINY))
    before = converted.stat().st_mtime_ns
    assert weights.resolve(keras_file) == converted
    assert converted.stat().st_mtime_ns == before
    # It is not taken for the published file, even though no other is there.
    with pytest.raises(FileNotFoundError):
        weights.resolve(fetch_missing=False)


def test_named_checkpoint_of_unknown_hash_is_refused(keras_file, folders):
    with pytest.raises(ValueError, match="--allow-unverified") as caught:
        weights.resolve(keras_file)
    assert weights.digest(keras_file) in one_line(caught)
    assert not (folders / "cache").exists()


def test_shared_file_of_another_hash_is_refused(places, folders):
    for name in ("here", "checkout", "cache"):
        places[name].unlink()
    places["shared"].write_bytes(places["shared"].read_bytes() + b"\0")
    with pytest.raises(ValueError, match="no known checkpoint"):
        weights.resolve()


def test_cache_folder_that_cannot_be_written(keras_file, known, tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEJAX_CACHE", str(keras_file / "folder"))
    for call in (weights.fetch, functools.partial(weights.resolve, keras_file)):
        with pytest.raises(OSError, match=r"cannot write .* STYLEJAX_CACHE") as caught:
            call()
        one_line(caught)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write it")
def test_cache_folder_without_permission(keras_file, known, folders):
    (folders / "cache").mkdir(mode=0o500)
    with pytest.raises(OSError, match="cannot write"):
        weights.resolve(keras_file)


def test_cache_folder_is_the_users(monkeypatch):
    monkeypatch.delenv("STYLEJAX_CACHE")
    assert "stylejax" in weights.cache_folder().parts


# Fetching


def test_fetch(served, folders, keras_file, known):
    path = weights.fetch()
    assert path == folders / "cache" / "vgg19.h5"
    assert_same(weights.load(path), convert.read_keras(keras_file, TINY))
    assert files(folders / "cache") == [known.name, "vgg19.h5"]
    assert weights.resolve() == path


def test_fetch_through_a_proxy(served, known, folders, monkeypatch):
    """The machine itself can reach nobody; the proxy that the environment names can."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{served.server_address[1]}")
    elsewhere = known._replace(url="http://host.invalid/published.h5")
    monkeypatch.setitem(checkpoints.PUBLISHED, "vgg19", elsewhere)
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", (elsewhere,))
    assert vgg.architecture_of(weights.load(weights.fetch())) == TINY


def test_progress_is_told(served, folders):
    calls = []

    class Listener:
        total = 0

        def update(self, count):
            calls.append(count)

        def reset(self):
            calls.clear()

        def close(self):
            calls.append("closed")

    listener = Listener()
    weights.fetch(progressbar=listener)
    assert listener.total == len(served.content) and calls == [listener.total, "closed"]


@pytest.mark.parametrize("cut", [None, 100])
def test_progress_is_drawn_where_someone_watches(served, folders, monkeypatch, capsys, cut):
    served.cut = cut
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with pytest.raises(ConnectionError) if cut else nullcontext():
        weights.fetch(progressbar=True)
    out, err = capsys.readouterr()
    assert out == "" and "fetching" in err


def test_nothing_is_drawn_where_nobody_watches(served, folders, capsys):
    weights.fetch(progressbar=True)
    assert capsys.readouterr() == ("", "")


def test_second_fetch_needs_no_network(served, folders):
    weights.fetch()
    served.content = b""
    path = weights.fetch(folders / "elsewhere" / "w.h5")
    assert served.requests == 1
    assert_same(weights.load(path), weights.load(folders / "cache" / "vgg19.h5"))


def test_damaged_download_in_the_cache_is_fetched_again(served, folders, known):
    weights.fetch()
    (folders / "cache" / known.name).write_bytes(b"rot")
    weights.fetch()
    assert served.requests == 2


def test_resolve_fetches_last(served, folders):
    assert weights.resolve() == folders / "cache" / "vgg19.h5"


@pytest.mark.parametrize("content", [b"<html>please log in</html>", b""])
def test_wrong_content_is_refused_before_hdf5_sees_it(served, folders, content, monkeypatch):
    served.content = content
    monkeypatch.setattr(h5py, "File", None)
    with pytest.raises(ValueError, match="what arrived has SHA-256") as caught:
        weights.fetch()
    assert COMMAND in one_line(caught)
    assert files(folders / "cache") == []


def test_connection_cut_in_the_middle(served, folders):
    served.cut = len(served.content) // 2
    with pytest.raises(ConnectionError, match="cannot fetch") as caught:
        weights.fetch()
    assert COMMAND in one_line(caught)
    assert files(folders / "cache") == []


def test_download_that_fills_the_disk(served, folders):
    with pytest.raises(OSError) as caught, room_for(len(served.content) // 2):
        weights.fetch()
    assert "published.h5 (File too large)" in one_line(caught)
    assert "STYLEJAX_CACHE" in str(caught.value)
    assert files(folders / "cache") == []


@pytest.mark.parametrize("size", [None, 1000])
def test_download_without_end(served, folders, known, monkeypatch, size):
    monkeypatch.setattr(download, "LARGEST", 1000)
    published = checkpoints.PUBLISHED["vgg19"]._replace(size=size)
    monkeypatch.setitem(checkpoints.PUBLISHED, "vgg19", published)
    with pytest.raises(ValueError, match="larger than 1000 bytes") as caught:
        weights.fetch()
    assert COMMAND in one_line(caught)
    assert files(folders / "cache") == []


def test_refusing_server(served, folders):
    served.status = 403
    with pytest.raises(ConnectionError, match="403"):
        weights.fetch()
    assert files(folders / "cache") == []


def test_no_network(known, folders):
    start = time.monotonic()
    with pytest.raises(ConnectionError) as caught:
        weights.fetch()
    assert time.monotonic() - start < 5
    message = one_line(caught)
    assert "refused" in message and f"`{COMMAND}`" in message
    assert f"`{COMMAND} --source FILE`" in message
    assert files(folders / "cache") == []


def test_name_lookup_that_hangs(known, folders, monkeypatch):
    """A lookup has no timeout of its own; it must not outlast ours."""
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answered.wait(10) or [])
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"no answer within 0\.3 s"):
        weights.fetch(timeout=0.3)
    assert time.monotonic() - start < 3
    answered.set()
    assert files(folders / "cache") == []


def test_server_that_never_answers(known, folders, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/published.h5"
        monkeypatch.setitem(checkpoints.PUBLISHED, "vgg19", known._replace(url=url))
        with pytest.raises(ConnectionError, match="cannot fetch"):
            weights.fetch(timeout=0.3)
        time.sleep(0.2)  # the asking thread closes its connection before the server goes
    assert files(folders / "cache") == []


@pytest.mark.parametrize("attempt", range(3))
def test_many_fetch_at_once_what_is_not_kept(served, folders, monkeypatch, attempt):
    """None deletes the download that another is about to look at."""
    monkeypatch.setattr(weights, "KEPT_BYTES", 100)
    with ThreadPoolExecutor(8) as pool:
        (path,) = set(pool.map(lambda _: weights.fetch(), range(16)))
    assert vgg.architecture_of(weights.load(path)) == TINY
    assert files(folders / "cache") == ["vgg19.h5"]


def test_many_fetch_at_once(served, folders, known):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: weights.fetch(), range(4)))
    assert len(set(paths)) == 1
    assert vgg.architecture_of(weights.load(paths[0])) == TINY
    assert files(folders / "cache") == [known.name, "vgg19.h5"]


FETCH = """
import functools, sys
from stylejax import checkpoints, convert, vgg, weights
published = checkpoints.KERAS._replace(
    name="published.h5", url=sys.argv[1], size=int(sys.argv[2]), hash=sys.argv[3],
    reader=functools.partial(
        convert.read_keras, architecture=vgg.Architecture((1, 2), (4, 6))
    ),
)
checkpoints.PUBLISHED["vgg19"], checkpoints.CHECKPOINTS = published, (published,)
print("ready", flush=True)
sys.stdin.readline()
print(weights.fetch(timeout=30))
"""


def test_two_processes_fetch_at_once(served, folders):
    """Both are let go when both are ready; each finds a whole file afterwards."""
    checkpoint = checkpoints.PUBLISHED["vgg19"]
    arguments = [checkpoint.url, str(checkpoint.size), checkpoint.hash]
    command = [sys.executable, "-c", FETCH, *arguments]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **options) as one, subprocess.Popen(command, **options) as two:
        for process in (one, two):
            assert process.stdout.readline() == "ready\n"
        for process in (one, two):
            process.stdin.write("\n")
            process.stdin.flush()
        found = {process.communicate(timeout=60)[0].strip() for process in (one, two)}
        assert one.returncode == two.returncode == 0
    assert found == {str(folders / "cache" / "vgg19.h5")}
    assert vgg.architecture_of(weights.load(found.pop())) == TINY
    assert files(folders / "cache") == ["published.h5", "vgg19.h5"]


# Which network


def test_a_name_chooses_the_network(folders, known, keras_file):
    path = folders / "here" / "weights" / "vgg19.h5"
    weights.convert_file(keras_file, path)
    other = folders / "cache" / "vgg19-torchvision.h5"
    weights.save(other, weights.load(path), weights.Origin("x", network="vgg19-torchvision"))
    for network, expected in (("auto", path), ("vgg19", path), ("vgg19-torchvision", other)):
        found = weights.choose(network)
        assert found.path == expected and found.instead == ""
        assert found.origin.network == ("vgg19" if network == "auto" else network)
    assert weights.choose("slim").path == weights.SLIM
    with pytest.MonkeyPatch.context() as patch:  # a full network's file does not gainsay the word
        patch.setenv("STYLEJAX_WEIGHTS", str(other))
        assert weights.choose("slim").path == weights.SLIM
        assert weights.choose("auto").path == other
    path.unlink()
    assert weights.choose("auto").path == other


def test_a_preset_s_network_is_preferred_and_missed(folders, known, keras_file):
    path = folders / "here" / "weights" / "vgg19.h5"
    weights.convert_file(keras_file, path)
    found = weights.choose(wanted="vgg19-torchvision", offline=True)
    assert found.path == path and found.instead.count("\n") == 0
    assert "vgg19-torchvision.h5 is not on this machine; using vgg19 instead" in found.instead
    assert f"`{COMMAND} --network vgg19-torchvision`" in found.instead
    other = folders / "cache" / "vgg19-torchvision.h5"
    weights.save(other, weights.load(path), weights.Origin("x", network="vgg19-torchvision"))
    assert weights.choose(wanted="vgg19-torchvision")[::2] == (other, "")
    assert weights.choose(wanted="vgg19")[::2] == (path, "")
    path.unlink()
    assert "using vgg19-torchvision instead" in weights.choose(wanted="vgg19").instead
    # What was asked for by name is what was asked for.
    assert weights.choose("vgg19-torchvision", wanted="vgg19").instead == ""


def test_a_file_goes_before_the_network(folders, stored, monkeypatch):
    for network in weights.NETWORKS:
        assert weights.choose(network, stored).path == stored
    monkeypatch.setenv("STYLEJAX_WEIGHTS", str(stored))
    assert weights.choose().path == stored
    with pytest.raises(FileNotFoundError):
        weights.choose("auto", folders / "typo.h5")


def test_auto_fetches(served, folders):
    found = weights.choose()
    assert found.path == folders / "cache" / "vgg19.h5" and found.instead == ""
    assert served.requests == 1


def test_auto_without_a_network_takes_slim_and_says_why(known, folders):
    found = weights.choose()
    assert found.path == weights.SLIM and found.origin.network == "slim"
    assert "refused" in found.instead and "built-in" in found.instead
    assert f"`{COMMAND}`" in found.instead and "\n" not in found.instead
    with pytest.raises(ConnectionError):
        weights.choose("vgg19")


def test_offline_asks_nobody(served, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", None)
    monkeypatch.setattr(socket, "socket", None)
    found = weights.choose(offline=True)
    assert found.path == weights.SLIM and "not on this machine" in found.instead
    for network in ("vgg19", "vgg19-torchvision"):
        with pytest.raises(FileNotFoundError, match=f"{network}.h5") as caught:
            weights.choose(network, offline=True)
        assert COMMAND in one_line(caught)
    assert served.requests == 0


def test_a_wrong_download_is_reported_and_replaced_by_slim(served, folders):
    served.content = b"<html>please log in</html>"
    assert "what arrived" in weights.choose().instead
    assert files(folders / "cache") == []


def test_unknown_network():
    with pytest.raises(ValueError, match="'vgg16' is unknown; choose one of auto, vgg19"):
        weights.choose("vgg16")
    with pytest.raises(ValueError, match="'auto' is unknown; choose one of vgg19"):
        weights.resolve(network="auto")


def test_a_large_download_is_not_kept(served, folders, known, monkeypatch):
    monkeypatch.setattr(weights, "KEPT_BYTES", 100)
    path = weights.fetch()
    assert files(folders / "cache") == ["vgg19.h5"]
    assert weights.describe(path).network == "vgg19"


def test_eight_digits_of_a_hash_are_enough(keras_file, known, monkeypatch):
    short = known._replace(hash="sha256:" + weights.digest(keras_file)[:8])
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", (short,))
    assert checkpoints.identify(keras_file)[0] == short
    other = known._replace(hash="sha256:00000000")
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", (other,))
    assert checkpoints.identify(keras_file)[0] is None


# Taps and origins in a stored file


def test_taps_are_stored(tmp_path, rng):
    architecture = vgg.Architecture((1, 2), (4, 6), (("relu1_1", 8), ("relu2_1", 5)))
    params = jax.tree.map(np.asarray, vgg.random_params(jax.random.key(0), architecture))
    shapes = vgg.parameter_shapes(architecture)
    origin = weights.Origin("s", "ab", "mine", "slim", normalised=True)
    weights.save(tmp_path / "a.h5", params, origin, compress=True)
    assert_same(weights.load(tmp_path / "a.h5"), {k: params[k] for k in shapes})
    assert weights.describe(tmp_path / "a.h5") == origin


@pytest.mark.parametrize(
    "layers, widths",
    [
        (b"relu1_1", [8, 5]),
        (b"relu2_1 relu1_1", [5, 8]),
        (b"relu1_1 relu1_1", [8, 8]),
        (b"relu1_1 relu9_1", [8, 5]),
        (b"relu1_1 \xff", [8, 5]),
        (b"relu1_1 relu2_1", [8, 0]),
    ],
)
def test_senseless_taps_are_refused(tmp_path, layers, widths):
    architecture = vgg.Architecture((1, 2), (4, 6), (("relu1_1", 8), ("relu2_1", 5)))
    params = jax.tree.map(np.asarray, vgg.random_params(jax.random.key(0), architecture))
    weights.save(tmp_path / "a.h5", params, weights.Origin("s"))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["tap_layers"], file.attrs["tap_widths"] = np.bytes_(layers), widths
    with pytest.raises(ValueError, match="tap_") as caught:
        weights.load(tmp_path / "a.h5")
    one_line(caught)


def test_half_precision_numbers_compress_to_half(tmp_path, rng):
    params = {
        layer: {
            name: rng.normal(size=s).astype(np.float16).astype(np.float32) for name, s in a.items()
        }
        for layer, a in vgg.parameter_shapes(vgg.Architecture((2,), (96,))).items()
    }
    weights.save(tmp_path / "a.h5", params, weights.Origin(""))
    weights.save(tmp_path / "b.h5", params, weights.Origin(""), compress=True)
    assert_same(weights.load(tmp_path / "b.h5"), params)
    sizes = [(tmp_path / name).stat().st_size for name in ("a.h5", "b.h5")]
    assert sizes[1] < 0.55 * sizes[0]


# Gatys' normalisation of a file


@pytest.fixture
def photos(folders, rng) -> Path:
    (folders / "photos").mkdir()
    for index in range(3):
        images.save(folders / "photos" / f"{index}.png", rng.random((24, 20, 3)))
    (folders / "photos" / "notes.txt").write_text("no image")
    return folders / "photos"


def test_script_normalises(known, keras_file, script, photos, tmp_path, capsys):
    """Mean activations are one afterwards, and ReLU features only rescaled."""
    out, plain = tmp_path / "normalised.h5", tmp_path / "plain.h5"
    argv = ["--source", str(keras_file), "--normalise", str(photos), "-o", str(out)]
    assert script.main(argv) == 0
    assert "normalised over 3 images" in capsys.readouterr().out
    assert weights.describe(out).normalised and weights.describe(out).network == "vgg19"
    weights.convert_file(keras_file, plain)
    seen = [images.load(path).image for path in sorted(photos.glob("*.png"))]
    means = normalisation.mean_activations(weights.load(out), seen)
    for layer, mean in normalisation.mean_activations(weights.load(plain), seen).items():
        np.testing.assert_allclose(means[layer][mean > 0], 1, rtol=1e-4)
        relu = layer.replace("conv", "relu")
        before = vgg.features(weights.load(plain), seen[0], [relu])[relu]
        after = vgg.features(weights.load(out), seen[0], [relu])[relu]
        scaled = after * np.where(mean > 0, mean, 1)[None, None]
        np.testing.assert_allclose(scaled, before, rtol=1e-3, atol=1e-3 * float(before.max()))


@pytest.mark.parametrize("problem", ["no folder", "no images", "broken image", "twice", "offline"])
def test_script_cannot_normalise(
    known, keras_file, script, photos, tmp_path, capsys, problem, monkeypatch
):
    out = tmp_path / "out.h5"
    argv = ["--source", str(keras_file), "--normalise", str(photos), "-o", str(out)]
    if problem == "no folder":
        argv[3] = str(tmp_path / "absent")
    if problem == "no images":
        argv[3] = str(tmp_path / "here")
    if problem == "broken image":
        (photos / "9.png").write_bytes(b"no image")
    if problem == "twice":
        monkeypatch.setattr(checkpoints, "CHECKPOINTS", (known._replace(normalised=True),))
    if problem == "offline":
        argv = ["--normalise", str(photos), "--offline", "-o", str(out)]
    assert script.main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    expected = {"twice": "already", "offline": "vgg19.h5", "broken image": "not an image"}
    assert expected.get(problem, "no images") in said
    assert not out.exists()


# The command


def test_script_fetches_into_the_checkout(served, script, folders, monkeypatch, capsys):
    monkeypatch.setattr(script, "__file__", str(folders / "code/checkout/scripts/convert.py"))
    assert script.main([]) == 0
    out, err = capsys.readouterr()
    path = folders / "code" / "checkout" / "weights" / "vgg19.h5"
    assert str(path) in out and weights.digest(path) in out and " MB" in out
    assert "Simonyan" in out and "CC BY 4.0" in out
    assert err == ""  # no progress bar where nobody is watching
    assert weights.resolve() == path


def test_script_outside_a_checkout_writes_here(script, folders, monkeypatch):
    monkeypatch.setattr(script, "__file__", str(folders / "bin" / "scripts" / "convert.py"))
    assert script.default_output(script.parse([])) == folders / "here" / "weights" / "vgg19.h5"


@pytest.mark.parametrize(
    ("network", "normalised", "name"),
    [
        ("vgg19", False, "vgg19.h5"),
        ("vgg19-torchvision", False, "vgg19-torchvision.h5"),
        ("vgg19", True, "vgg19-normalised.h5"),
    ],
)
def test_script_names_what_a_file_holds(
    known, keras_file, script, folders, monkeypatch, network, normalised, name
):
    """torchvision's network under the name of the original would be taken for it ever after."""
    other = known._replace(network=network, normalised=normalised)
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", (other,))
    monkeypatch.setattr(script, "__file__", str(folders / "code/checkout/scripts/convert.py"))
    assert script.main(["--source", str(keras_file)]) == 0
    assert files(folders / "code" / "checkout" / "weights") == [name]


def test_script_names_an_unknown_file_by_its_layout(script):
    for layout, name in (
        ("torchvision", "vgg19-torchvision.h5"),
        ("adain", "vgg19-normalised.h5"),
        ("jcjohnson", "vgg19.h5"),
    ):
        options = script.parse(["--source", "f", "--allow-unverified", "--layout", layout])
        assert script.default_output(options).name == name


def test_script_refuses_another_network_than_the_files(known, keras_file, script, tmp_path, capsys):
    argv = ["--source", str(keras_file), "--network", "vgg19-torchvision", "-o", "out.h5"]
    assert script.main(argv) == 2
    said = capsys.readouterr().err
    assert "holds vgg19, not vgg19-torchvision" in said and said.count("\n") == 1
    assert "out.h5" not in files(tmp_path)


@pytest.mark.parametrize("argv", [["--network", "vgg16"], ["--layout", "adain"], ["--sauce", "x"]])
def test_script_usage_errors_are_one_line(script, capsys, argv):
    with pytest.raises(SystemExit) as caught:
        script.main(argv)
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.startswith("error: ") and said.count("\n") == 1


def test_script_offline_asks_nobody(known, keras_file, script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", None)
    monkeypatch.setattr(socket, "socket", None)
    argv = ["--offline", "-o", str(tmp_path / "out.h5")]
    assert script.main(argv) == 2
    said = capsys.readouterr().err
    assert "there is no vgg19.h5" in said and said.count("\n") == 1
    assert script.main([*argv, "--source", str(keras_file)]) == 0
    assert weights.load(tmp_path / "out.h5")


def test_script_converts_a_local_file(known, keras_file, script, tmp_path, capsys):
    out = tmp_path / "out.h5"
    assert script.main(["--source", str(keras_file), "-o", str(out)]) == 0
    assert weights.digest(out) in capsys.readouterr().out
    assert weights.load(out)


def test_script_unverified(keras_file, script, tmp_path, capsys, monkeypatch):
    reader = functools.partial(convert.read_keras, architecture=TINY)
    monkeypatch.setattr(weights, "guess_reader", lambda path: reader)
    arguments = ["--source", str(keras_file), "--output", str(tmp_path / "out.h5")]
    assert script.main(arguments) == 2
    assert script.main([*arguments, "--allow-unverified"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1
    assert weights.digest(keras_file) in out and "unverified" in out
    assert "Simonyan" not in out


@pytest.mark.parametrize("problem", ["no network", "no file", "a folder", "unwritable"])
def test_script_errors_are_one_line(known, keras_file, script, folders, capsys, problem):
    arguments = {
        "no network": ["-o", "out.h5"],
        "no file": ["--source", "absent.h5", "-o", "out.h5"],
        "a folder": ["--source", str(keras_file), "-o", str(folders)],
        "unwritable": ["--source", str(keras_file), "-o", str(keras_file / "out.h5")],
    }[problem]
    assert script.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1


def test_script_prints_the_manifest(script, capsys):
    assert script.main(["--manifest"]) == 0
    assert json.loads(capsys.readouterr().out) == checkpoints.manifest()


# The real network


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_file(), reason=f"no {SHARED.name} in shared/weights")
def test_real_weights(monkeypatch, folders):
    monkeypatch.setattr(weights, "__file__", str(ROOT / "stylejax" / "weights.py"))
    monkeypatch.setitem(weights.FILE_NAMES, "vgg19", "not yet fetched.h5")
    path = weights.resolve(fetch_missing=False)
    assert path == folders / "cache" / "vgg19-f0f62bc8ecde754f.h5"
    params = weights.load(path)
    assert vgg.architecture_of(params) == vgg.VGG19
    sizes = {layer: sum(a.size for a in arrays.values()) for layer, arrays in params.items()}
    assert sizes.pop("input") == 12
    assert sum(sizes.values()) == 20_024_384
    # As published: Caffe's conv1_1 begins with this bias.
    assert params["conv1_1"]["bias"][0] == pytest.approx(0.73017, abs=1e-4)
