"""Reading public checkpoints: the layouts that are read, and everything that is refused."""

import os
import tracemalloc
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from stylejax import checkpoints, convert, vgg
from stylejax.formats.hdf5 import open_hdf5

FIXTURES = Path(__file__).parent / "fixtures"
TINY = vgg.Architecture((1, 2), (4, 6))
LAYERS = {"conv1_1": "block1_conv1", "conv2_1": "block2_conv1", "conv2_2": "block2_conv2"}
KERNEL = "block2_conv1/block2_conv1_W_1:0"
BIAS = "block2_conv1/block2_conv1_b_1:0"


def random_arrays(rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    shapes = vgg.parameter_shapes(TINY)
    return {
        layer: {name: rng.normal(size=s).astype(np.float32) for name, s in shapes[layer].items()}
        for layer in LAYERS
    }


def write_keras(path: Path, arrays, names=("{0}_W_1:0", "{0}_b_1:0"), **options) -> Path:
    """The layout of the published file, poolings and input included."""
    with h5py.File(path, "w") as file:
        empty = ["block1_pool", "block2_pool", "input_1"]
        file.attrs["layer_names"] = [*LAYERS.values(), *empty]
        for layer in empty:
            file.create_group(layer).attrs["weight_names"] = np.array([], "S1")
        for layer, keras_name in LAYERS.items():
            group = file.create_group(keras_name)
            kernel, bias = (name.format(keras_name) for name in names)
            group.attrs["weight_names"] = [kernel, bias]
            group.create_dataset(kernel, data=arrays[layer]["kernel"], **options)
            group.create_dataset(bias, data=arrays[layer]["bias"])
    return path


@pytest.fixture
def arrays(rng):
    return random_arrays(rng)


@pytest.fixture
def keras_file(tmp_path, arrays) -> Path:
    return write_keras(tmp_path / "keras.h5", arrays)


def replace(path: Path, name: str, make) -> None:
    """Puts something else in the place of one dataset or group."""
    with h5py.File(path, "r+") as file:
        del file[name]
        make(file)


def refused(path: Path) -> str:
    """The error of reading a file, after checking what every such error must be."""
    with pytest.raises(ValueError) as caught:
        convert.read_keras(path, TINY)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert "python scripts/convert_weights.py" in message
    return message


@pytest.mark.parametrize(
    "names",
    [("{0}_W_1:0", "{0}_b_1:0"), ("{0}/kernel:0", "{0}/bias:0"), ("{0}/kernel", "{0}/bias")],
)
def test_every_layout_is_read(tmp_path, arrays, names):
    params = convert.read_keras(write_keras(tmp_path / "k.h5", arrays, names), TINY)
    assert list(params) == list(vgg.parameter_shapes(TINY))
    assert vgg.architecture_of(params) == TINY
    for layer in LAYERS:
        for name in ("kernel", "bias"):
            assert params[layer][name].dtype == np.float32
            np.testing.assert_array_equal(params[layer][name], arrays[layer][name])


def test_input_is_bgr_0_to_255_minus_the_mean(keras_file):
    mapping = convert.read_keras(keras_file, TINY)["input"]
    red_green_blue = np.array([1.0, 0.5, 0.25], np.float32)
    expected = [63.75 - 103.939, 127.5 - 116.779, 255.0 - 123.68]
    np.testing.assert_allclose(red_green_blue @ mapping["kernel"] + mapping["bias"], expected, 1e-6)


def test_gzip_shuffle_and_fletcher32_are_read(tmp_path, arrays):
    options = {"compression": "gzip", "shuffle": True, "fletcher32": True}
    params = convert.read_keras(write_keras(tmp_path / "k.h5", arrays, **options), TINY)
    np.testing.assert_array_equal(params["conv2_2"]["kernel"], arrays["conv2_2"]["kernel"])


# Keras' own Variable.__array__ has not followed NumPy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_what_keras_writes_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    legacy = pytest.importorskip("keras.src.legacy.saving.legacy_h5_format")
    if keras.backend.backend() != "jax":
        pytest.skip("keras was imported with another backend")
    x = image = keras.Input((8, 8, 3))
    for block, (depth, width) in enumerate(zip(TINY.blocks, TINY.widths, strict=True), start=1):
        for index in range(1, depth + 1):
            options = {"bias_initializer": "normal", "name": f"block{block}_conv{index}"}
            x = keras.layers.Conv2D(width, 3, padding="same", **options)(x)
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    model = keras.Model(image, x)
    with h5py.File(tmp_path / "legacy.h5", "w") as file:
        legacy.save_weights_to_hdf5_group(file, model)
    model.save_weights(tmp_path / "new.weights.h5")  # Keras 3's own layout is another one
    for name in ("legacy.h5", "new.weights.h5"):
        params = convert.read_keras(tmp_path / name, TINY)
        assert list(params) == list(vgg.parameter_shapes(TINY))
        for layer, keras_name in LAYERS.items():
            kernel, bias = model.get_layer(keras_name).get_weights()
            np.testing.assert_array_equal(params[layer]["kernel"], kernel)
            np.testing.assert_array_equal(params[layer]["bias"], bias)


@pytest.mark.parametrize("name", ["legacy.h5", "keras3.weights.h5", "gzip.h5"])
def test_fixtures_are_read(name):
    """What Keras itself wrote, and saw in its layers (scripts/make_fixtures_keras.py)."""
    params = convert.read_keras(FIXTURES / "keras" / name, TINY)
    assert list(params) == list(vgg.parameter_shapes(TINY))
    with np.load(FIXTURES / "keras" / "arrays.npz") as wanted:
        for layer in LAYERS:
            for kind in ("kernel", "bias"):
                np.testing.assert_array_equal(params[layer][kind], wanted[f"{layer}.{kind}"])


def test_soft_link_is_refused(keras_file):
    def link(file):
        file[KERNEL] = h5py.SoftLink("/block1_conv1/block1_conv1_W_1:0")

    replace(keras_file, KERNEL, link)
    assert "SoftLink" in refused(keras_file)


@pytest.mark.parametrize("name", [KERNEL, "block2_conv1", "block1_pool"])
def test_external_link_is_refused(tmp_path, arrays, keras_file, name):
    other = write_keras(tmp_path / "other.h5", arrays)

    def link(file):
        file[name] = h5py.ExternalLink(other, name)

    replace(keras_file, name, link)
    assert "ExternalLink" in refused(keras_file)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_external_link_is_not_opened(keras_file, tmp_path):
    """Opening the target would wait for ever: it is a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "pipe")

    def link(file):
        file["block2_conv1"] = h5py.ExternalLink(tmp_path / "pipe", "/")

    replace(keras_file, "block2_conv1", link)
    assert "ExternalLink" in refused(keras_file)


def test_virtual_dataset_is_refused(tmp_path, arrays, keras_file):
    other = write_keras(tmp_path / "other.h5", arrays)
    shape = arrays["conv2_1"]["kernel"].shape
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[:] = h5py.VirtualSource(other, KERNEL, shape)
    replace(keras_file, KERNEL, lambda file: file.create_virtual_dataset(KERNEL, layout))
    assert "other files" in refused(keras_file)


def test_external_storage_is_refused(tmp_path, keras_file):
    (tmp_path / "secret").write_bytes(bytes(24))
    place = [(tmp_path / "secret", 0, h5py.h5f.UNLIMITED)]
    replace(
        keras_file, BIAS, lambda file: file.create_dataset(BIAS, (6,), np.float32, external=place)
    )
    assert "other files" in refused(keras_file)


def test_wrong_shape_names_layer_expected_and_found(keras_file):
    wrong = np.zeros((3, 3, 4, 5), np.float32)
    replace(keras_file, KERNEL, lambda file: file.create_dataset(KERNEL, data=wrong))
    message = refused(keras_file)
    assert KERNEL in message and "(3, 3, 4, 5)" in message and "(3, 3, 4, 6)" in message


def test_huge_dataset_is_refused_before_it_is_read(keras_file):
    """A petabyte of float32, stored in no bytes at all."""

    def make(file):
        file.create_dataset(KERNEL, (2**17, 2**17, 2**14), np.float32, chunks=(64, 64, 64))

    replace(keras_file, KERNEL, make)
    assert "has shape" in refused(keras_file)


def test_growing_dataset_is_refused(keras_file):
    def make(file):
        file.create_dataset(BIAS, (6,), np.float32, maxshape=(None,), chunks=(2**20,))

    replace(keras_file, BIAS, make)
    assert "has shape" in refused(keras_file)


@pytest.mark.parametrize(
    "dtype",
    [
        np.float64,
        np.float16,
        np.int32,
        ">f4",
        "S4",
        [("real", np.float32)],
        h5py.string_dtype(),
        h5py.ref_dtype,
        h5py.vlen_dtype(np.float32),
    ],
    ids=str,
)
def test_wrong_dtype_is_refused(keras_file, dtype):
    replace(keras_file, BIAS, lambda file: file.create_dataset(BIAS, (6,), dtype))
    message = refused(keras_file)
    assert BIAS in message and "expected float32" in message


@pytest.mark.parametrize("options", [{"compression": "lzf"}, {"scaleoffset": 3}], ids=str)
def test_foreign_filter_is_refused(tmp_path, arrays, options):
    path = write_keras(tmp_path / "k.h5", arrays, **options)
    assert "filter" in refused(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_value_that_is_not_finite_is_refused(tmp_path, arrays, value):
    arrays["conv2_2"]["kernel"][1, 2, 3, 4] = value
    path = write_keras(tmp_path / "k.h5", arrays)
    message = refused(path)
    assert "block2_conv2" in message and "not finite" in message


def test_chunk_smaller_than_its_checksum_is_refused(keras_file):
    """HDF5 would read past its buffer and take the process with it."""

    def make(file):
        bias = file.create_dataset(BIAS, (6,), np.float32, chunks=(6,), fletcher32=True)
        bias.id.write_direct_chunk((0,), b"ab")

    replace(keras_file, BIAS, make)
    assert "is damaged" in refused(keras_file)


def deflated(data: bytes, path: Path, mask: int = 0, **options) -> None:
    """A bias of six numbers whose only part, compressed by gzip, has these bytes."""

    def make(file):
        options.setdefault("compression", "gzip")
        bias = file.create_dataset(BIAS, (6,), np.float32, chunks=(6,), **options)
        bias.id.write_direct_chunk((0,), data, mask)

    replace(path, BIAS, make)


@pytest.mark.parametrize("megabytes", [0.05, 64])
def test_bomb_is_refused_before_it_inflates(keras_file, megabytes):
    """HDF5 would inflate it all, 64 MB here, before it looks at how much was wanted."""
    deflated(zlib.compress(bytes(int(megabytes * 2**20)), 9), keras_file)
    tracemalloc.start()
    try:
        assert "is damaged: a part" in refused(keras_file)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data", [zlib.compress(bytes(20)), zlib.compress(bytes(24))[:-8], b"other"]
)
def test_part_that_inflates_to_less_is_refused(keras_file, data):
    deflated(data, keras_file)
    assert "is damaged" in refused(keras_file)


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"fletcher32": True}], ids=str)
def test_part_that_was_not_compressed_is_read(keras_file, options):
    """Writers leave gzip out where it gains nothing, and say so in a mask."""
    gzip = 1 if "shuffle" in options else 0
    values = np.arange(6, dtype=np.float32)
    deflated(values.tobytes(), keras_file, 0b111 if options else 1 << gzip, **options)
    params = convert.read_keras(keras_file, TINY)
    np.testing.assert_array_equal(params["conv2_1"]["bias"], values)


@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
def test_superblocks_of_every_version_are_read(tmp_path, libver):
    with h5py.File(tmp_path / "new.h5", "w", libver=libver) as file:
        file["a"] = np.ones(3, np.float32)
    with open_hdf5(tmp_path / "new.h5") as file:
        assert list(file) == ["a"]


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("place", range(4))
def test_addresses_out_of_place_are_refused_before_hdf5_follows_them(tmp_path, libver, place):
    """With an address of drivers HDF5 took a gigabyte for a file of 33 kB."""
    path = tmp_path / "new.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file["a"] = np.ones(3, np.float32)
    data = bytearray(path.read_bytes())
    start = (24 if libver == "earliest" else 12) + 8 * place
    data[start : start + 8] = (2**40).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read as HDF5"), open_hdf5(path):
        pass


@pytest.mark.parametrize("order", ["gzip gzip", "gzip shuffle", "fletcher32 gzip"])
def test_filters_of_another_order_are_refused(keras_file, order):
    """Twice gzip is a bomb in a bomb."""

    def make(file):
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((6,))
        for name in order.split():
            {
                "gzip": lambda: properties.set_deflate(9),
                "shuffle": properties.set_shuffle,
                "fletcher32": properties.set_fletcher32,
            }[name]()
        space = h5py.h5s.create_simple((6,))
        where = BIAS.encode()
        bias = h5py.h5d.create(file.id, where, h5py.h5t.IEEE_F32LE, space, properties)
        bias.write(h5py.h5s.ALL, h5py.h5s.ALL, np.zeros(6, np.float32))

    replace(keras_file, BIAS, make)
    assert "filter" in refused(keras_file)


def test_missing_part_is_refused(keras_file):
    """HDF5 gives zeros for what nobody has written."""
    replace(keras_file, BIAS, lambda f: f.create_dataset(BIAS, (6,), np.float32, chunks=(3,)))
    assert "is damaged" in refused(keras_file)


def test_many_parts_are_refused(tmp_path):
    wide = vgg.Architecture((1,), (1024,))
    with h5py.File(tmp_path / "k.h5", "w") as file:
        kernel = "block1_conv1/block1_conv1_W_1:0"
        file.create_dataset(kernel, (3, 3, 3, 1024), np.float32, chunks=(1, 1, 1, 1))
        file["block1_conv1/block1_conv1_b_1:0"] = np.zeros(1024, np.float32)
    with pytest.raises(ValueError, match="in more than 16384 parts"):
        convert.read_keras(tmp_path / "k.h5", wide)


def test_missing_layer_is_named(keras_file):
    replace(keras_file, "block2_conv2", lambda file: None)
    assert "has no block2_conv2" in refused(keras_file)


def test_missing_bias_is_named(keras_file):
    replace(keras_file, BIAS, lambda file: None)
    assert "block2_conv1_b_1:0" in refused(keras_file)


@pytest.mark.parametrize("layer", ["fc1", "block2_conv3", "input"])
def test_extra_layer_is_named(keras_file, layer):
    with h5py.File(keras_file, "r+") as file:
        file[f"{layer}/{layer}_W_1:0"] = np.zeros(3, np.float32)
    assert f"/{layer} is an unexpected layer" in refused(keras_file)


def test_dataset_among_the_layers_is_refused(keras_file):
    with h5py.File(keras_file, "r+") as file:
        file["stray"] = np.zeros(3, np.float32)
    assert "expected a Group" in refused(keras_file)


def test_names_cannot_speak_to_the_terminal(keras_file):
    replace(keras_file, BIAS, lambda file: file.create_group("block2_conv1/\x1b[2J\nboo"))
    assert "\x1b" not in refused(keras_file)


def test_every_truncation_is_refused(tmp_path, keras_file):
    whole = keras_file.read_bytes()
    for size in np.linspace(1, len(whole) - 1, 7).astype(int):
        part = tmp_path / "part.h5"
        part.write_bytes(whole[:size])
        assert "cannot be read as HDF5" in refused(part)


def test_other_files_are_refused(tmp_path):
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\n", bytes(4096)):
        path = tmp_path / "other.h5"
        path.write_bytes(content)
        assert "cannot be read as HDF5" in refused(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        convert.read_keras(tmp_path / "absent.h5", TINY)


# PyTorch and safetensors: fixtures written by the real writers (scripts/make_fixtures_torch.py)


def expected(name: str, prefix: str, places: dict[str, int]) -> dict[str, dict[str, np.ndarray]]:
    """The convolutions as torch itself read them, turned to [3, 3, in, out] by hand."""
    arrays = np.load(FIXTURES / "torch" / f"{name}.npz")
    turned = {}
    for layer, place in places.items():
        kernel = arrays[f"{prefix}{place}.weight"]
        turned[layer] = {
            "kernel": np.stack([np.stack(list(each), -1) for each in kernel], -1),
            "bias": arrays[f"{prefix}{place}.bias"],
        }
    return turned


@pytest.mark.parametrize(
    "file",
    [
        "torch/vgg_zip.pth",
        "torch/vgg_legacy.pth",
        "torch/vgg_2017.pth",
        "torch/vgg_python2.pth",
        "safetensors/vgg.safetensors",
    ],
)
def test_pytorch_layouts(file):
    wanted = expected("vgg", "features.", {"conv1_1": 0, "conv2_1": 3, "conv2_2": 5})
    for read in (convert.read_torchvision, convert.read_jcjohnson):
        params = read(FIXTURES / file, TINY)
        assert list(params) == list(vgg.parameter_shapes(TINY))
        for layer, arrays in wanted.items():
            for name, array in arrays.items():
                assert params[layer][name].flags.c_contiguous
                np.testing.assert_array_equal(params[layer][name], array)


def test_preprocessing_follows_the_source():
    colour = np.array([0.9, 0.5, 0.1])
    seen = {}
    for read in (convert.read_torchvision, convert.read_jcjohnson):
        mapping = read(FIXTURES / "torch" / "vgg_zip.pth", TINY)["input"]
        seen[read] = colour @ mapping["kernel"] + mapping["bias"]
    standardised = [(0.9 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.1 - 0.406) / 0.225]
    np.testing.assert_allclose(seen[convert.read_torchvision], standardised, rtol=1e-6)
    caffe = [25.5 - 103.939, 127.5 - 116.779, 229.5 - 123.68]
    np.testing.assert_allclose(seen[convert.read_jcjohnson], caffe, rtol=1e-6)


@pytest.mark.parametrize(
    "file", ["torch/adain_zip.pth", "torch/adain_legacy.pth", "safetensors/adain.safetensors"]
)
def test_adains_first_layer_becomes_the_preprocessing(file):
    params = convert.read_adain(FIXTURES / file, TINY)
    arrays = np.load(FIXTURES / "torch" / "adain.npz")
    colour = np.array([0.9, 0.5, 0.1], np.float32)
    by_hand = arrays["0.weight"][:, :, 0, 0] @ colour + arrays["0.bias"]
    mapped = colour @ params["input"]["kernel"] + params["input"]["bias"]
    np.testing.assert_allclose(mapped, by_hand, rtol=1e-5)
    for layer, arrays in expected("adain", "", {"conv1_1": 2, "conv2_1": 6, "conv2_2": 9}).items():
        np.testing.assert_array_equal(params[layer]["kernel"], arrays["kernel"])


def test_indices_of_the_full_network():
    """FACTS of torchvision's cfg E and of AdaIN's Sequential."""
    features = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
    adain = [2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42, 45, 48, 51]
    assert list(convert.places_in_features(vgg.VGG19).values()) == features
    assert list(convert.places_in_adain(vgg.VGG19).values()) == adain


@pytest.mark.parametrize(
    "read, file",
    [
        (convert.read_adain, "torch/vgg_zip.pth"),
        (convert.read_torchvision, "torch/adain_zip.pth"),
        (convert.read_torchvision, "torch/views_zip.pth"),
        (convert.read_jcjohnson, "safetensors/adain.safetensors"),
    ],
)
def test_another_network_is_refused(read, file):
    with pytest.raises(ValueError, match="is not among") as caught:
        read(FIXTURES / file, TINY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "start, reader",
    [
        (b"\x89HDF\r\n\x1a\n", "read_keras"),
        (b"MATLAB 5.0 MAT-file", "read_matconvnet"),
        (b"PK\x03\x04", "--layout"),
        (b"\x80\x02\x8a", "--layout"),
        (b"\x10\0\0\0\0\0\0\0{}", "--layout"),
        (b"\x80\0\0\0\0\0\0\0{}", "--layout"),
        (b"\xff\xd8\xff\xe0 a photo", "neither HDF5"),
        (b"", "neither HDF5"),
    ],
)
def test_reader_of_an_unknown_file(tmp_path, start, reader):
    path = tmp_path / "file"
    path.write_bytes(start)
    if reader.startswith("read"):
        assert checkpoints.guess_reader(path).__name__ == reader
        return
    with pytest.raises(ValueError, match=reader) as caught:
        checkpoints.guess_reader(path)
    assert "\n" not in str(caught.value)


def test_a_header_of_128_bytes_is_no_pickle(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x80\0\0\0\0\0\0\0{}" + b" " * 126)
    assert convert.container(path) == "safetensors"
