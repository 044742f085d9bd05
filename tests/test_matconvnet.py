"""Reading MatConvNet's networks: three generations, which axis is which, and what is refused."""

from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.io

from stylejax import vgg
from stylejax.formats.refusal import Refusal
from stylejax.matconvnet import read_matconvnet

FIXTURES = Path(__file__).parent / "fixtures" / "matconvnet"
GENERATIONS = ("beta16", "newer", "old")
TINY = vgg.Architecture((1, 2), (4, 6))
LAYERS = ("conv1_1", "conv2_1", "conv2_2")
COLOUR = (123.68, 116.779, 103.939)


def cell(values) -> np.ndarray:
    row = np.empty((1, len(values)), object)
    row[0, :] = values
    return row


def convolution(kernel, bias, name) -> dict:
    weights = np.empty((1, 2), object)
    weights[0, 0], weights[0, 1] = kernel, bias[None]
    return {"name": name, "type": "conv", "weights": weights}


def layers_of(params) -> list[dict]:
    """The convolutions of ``params``, each with a ReLU behind it."""
    layers = []
    for name in params:
        if name != "input":
            layers.append(convolution(params[name]["kernel"], params[name]["bias"], name))
            layers.append({"name": name.replace("conv", "relu"), "type": "relu"})
    return layers


def write(path: Path, layers, average=None, newer=True, compress=True) -> Path:
    """A network, with the average colour where a generation has it."""
    average = np.array(COLOUR)[None, None] if average is None else average
    about = {"normalization": {"averageImage": average}}
    content = {"layers": cell(layers), **({"meta": about} if newer else about)}
    scipy.io.savemat(path, content, do_compression=compress)
    return path


def axis_order(kernel: np.ndarray, reference: np.ndarray) -> tuple[int, int]:
    """How to transpose the first two axes of a kernel so that it is most like another one."""

    def likeness(order: tuple[int, int]) -> float:
        return np.corrcoef(kernel.transpose(*order, 2, 3).ravel(), reference.ravel())[0, 1]

    return max(((0, 1), (1, 0)), key=likeness)


def as_importer_writes(params) -> dict:
    """Caffe's and Keras' filters take blue first; those of MatConvNet's importer take red first."""
    first = {**params["conv1_1"], "kernel": params["conv1_1"]["kernel"][:, :, ::-1]}
    return {**params, "conv1_1": first}


@pytest.fixture
def caffe(rng) -> dict:
    """Random params with the preprocessing of Caffe."""
    params = {
        layer: {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
        for layer, shapes in vgg.parameter_shapes(TINY).items()
    }
    params["input"]["kernel"] = np.array(vgg.CAFFE_KERNEL, np.float32)
    params["input"]["bias"] = np.array(vgg.CAFFE_BIAS, np.float32)
    return params


@pytest.fixture
def layers(caffe) -> list[dict]:
    return layers_of(caffe)


def refused(path: Path, architecture: vgg.Architecture = TINY) -> str:
    """The error of reading a file, after checking what every such error must be."""
    with pytest.raises(Refusal) as caught:
        read_matconvnet(path, architecture)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{path}: ")
    assert "python scripts/convert_weights.py" in message
    assert len(message) < len(str(path)) + 400
    return message


# What is read.


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation_is_read(generation):
    params = read_matconvnet(FIXTURES / f"{generation}.mat", TINY)
    assert list(params) == list(vgg.parameter_shapes(TINY))
    assert vgg.architecture_of(params) == TINY
    with np.load(FIXTURES / "arrays.npz") as expected:
        for layer in LAYERS:
            for name in ("kernel", "bias"):
                array = params[layer][name]
                assert array.dtype == np.float32 and array.flags.c_contiguous
                np.testing.assert_array_equal(array, expected[f"{layer}_{name}"])


@pytest.mark.parametrize("generation", GENERATIONS)
def test_input_is_rgb_0_to_255_minus_the_average(generation):
    mapping = read_matconvnet(FIXTURES / f"{generation}.mat", TINY)["input"]
    assert mapping["kernel"].dtype == mapping["bias"].dtype == np.float32
    red_green_blue = np.array([1.0, 0.5, 0.25], np.float32)
    expected = [255.0 - 123.68, 127.5 - 116.779, 63.75 - 103.939]
    np.testing.assert_allclose(red_green_blue @ mapping["kernel"] + mapping["bias"], expected, 1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 7, 3), (1, 3), (3, 1)], ids=str)
def test_average_of_every_shape(tmp_path, rng, layers, shape, dtype):
    average = (255 * rng.random(shape)).astype(dtype)
    bias = read_matconvnet(write(tmp_path / "n.mat", layers, average), TINY)["input"]["bias"]
    expected = average.reshape(3) if average.ndim == 2 else average.mean((0, 1), np.float64)
    np.testing.assert_allclose(bias, -expected, 1e-6)


def test_order_of_fields_does_not_matter(tmp_path, layers):
    reverse = [dict(reversed(layer.items())) for layer in layers]
    params = read_matconvnet(write(tmp_path / "n.mat", reverse), TINY)
    np.testing.assert_array_equal(params["conv1_1"]["kernel"], layers[0]["weights"][0, 0])


@pytest.mark.parametrize("name", ["", np.empty((0, 0))], ids=["text", "array"])
def test_layers_need_no_names(tmp_path, layers, name):
    for layer in layers:
        layer["name"] = name
    params = read_matconvnet(write(tmp_path / "n.mat", layers), TINY)
    np.testing.assert_array_equal(params["conv2_2"]["kernel"], layers[4]["weights"][0, 0])


def test_bias_may_be_a_column(tmp_path, layers):
    row = layers[0]["weights"][0, 1]
    layers[0]["weights"][0, 1] = row.T
    params = read_matconvnet(write(tmp_path / "n.mat", layers), TINY)
    np.testing.assert_array_equal(params["conv1_1"]["bias"], row[0])


# Which axis is which.


@pytest.mark.parametrize("newer", [False, True])
def test_features_are_those_of_the_network_it_was_made_from(tmp_path, caffe, rng, newer):
    """Red and blue swapped in the picture and in the filters; height stays height."""
    path = write(tmp_path / "n.mat", layers_of(as_importer_writes(caffe)), newer=newer)
    image = rng.random((9, 12, 3)).astype(np.float32)
    names = vgg.layer_names(TINY)
    expected = vgg.features(caffe, image, names)
    found = vgg.features(read_matconvnet(path, TINY), image, names)
    scale = {name: float(abs(expected[name]).max()) for name in names}
    jax.tree.map(
        lambda a, b, s: np.testing.assert_allclose(a, b, 0, 1e-5 * s), found, expected, scale
    )


def assert_upright(params, reference) -> None:
    """That kernels are as those of Keras are, once both take red first."""
    for layer, arrays in as_importer_writes(reference).items():
        if layer in params and layer != "input":
            kernel, expected = params[layer]["kernel"], arrays["kernel"]
            assert axis_order(kernel, expected) == (0, 1), layer
            assert np.corrcoef(kernel.ravel(), expected.ravel())[0, 1] > 0.99, layer


@pytest.mark.parametrize("newer", [False, True])
def test_random_kernels_are_upright(tmp_path, caffe, newer):
    path = write(tmp_path / "n.mat", layers_of(as_importer_writes(caffe)), newer=newer)
    assert_upright(read_matconvnet(path, TINY), caffe)


@pytest.mark.slow
@pytest.mark.parametrize("newer", [False, True])
def test_real_kernels_are_upright(tmp_path, real_params, newer):
    layers = layers_of(as_importer_writes(real_params))
    path = write(tmp_path / "n.mat", layers, newer=newer, compress=False)
    assert_upright(read_matconvnet(path), real_params)


@pytest.mark.slow
def test_correlation_tells_a_transposed_kernel(real_params):
    """Seen: a kernel and its transpose correlate by 0.34 (conv1_1) to 0.74 (conv5_4)."""
    for layer, arrays in real_params.items():
        if layer != "input":
            kernel = arrays["kernel"]
            transposed = kernel.transpose(1, 0, 2, 3)
            assert axis_order(transposed, kernel) == (1, 0)
            assert np.corrcoef(transposed.ravel(), kernel.ravel())[0, 1] < 0.8, layer


@pytest.mark.slow
def test_the_published_network_is_upright(shared, real_params):
    path = shared / "weights" / "imagenet-vgg-verydeep-19.mat"
    if not path.is_file():
        pytest.skip(f"no shared/weights/{path.name} beside the checkout")
    params = read_matconvnet(path)
    assert_upright(params, real_params)
    np.testing.assert_allclose(params["input"]["bias"], vgg.CAFFE_BIAS[::-1], 1e-5)


# What is refused.


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_matconvnet(tmp_path / "absent.mat", TINY)


@pytest.mark.parametrize(
    "content", [{"x": 1.0}, {"layers": 1.0}, {"layers": cell([1.0])}, {"layers": {"type": "conv"}}]
)
def test_file_without_layers_is_refused(tmp_path, content):
    about = {"normalization": {"averageImage": np.array([COLOUR])}}
    scipy.io.savemat(tmp_path / "n.mat", content | about)
    assert "has no cell 'layers' of structs" in refused(tmp_path / "n.mat")


def test_names_cannot_speak_to_the_terminal(tmp_path, layers):
    layers[0]["name"] = "\x1b[2J\nboo"
    assert r"layers{1} is \x1b[2J\nboo, expected conv1_1" in refused(
        write(tmp_path / "n.mat", layers)
    )


def test_other_order_of_layers_is_refused(tmp_path, layers):
    layers[2], layers[4] = layers[4], layers[2]
    assert "layers{3} is conv2_2, expected conv2_1" in refused(write(tmp_path / "n.mat", layers))


def test_missing_layer_is_refused(tmp_path, layers):
    assert "has 2 convolutions" in refused(write(tmp_path / "n.mat", layers[:4]))


@pytest.mark.parametrize("type_", ["convt", "", 1.0, cell(["conv"])], ids=str)
def test_layer_of_another_type_is_no_convolution(tmp_path, layers, type_):
    layers[0]["type"] = type_
    assert "has 2 convolutions" in refused(write(tmp_path / "n.mat", layers))


def test_larger_network_is_refused(tmp_path, layers):
    """The next layer may be a fully connected one, not a 3x3 convolution, however large."""
    path = write(tmp_path / "n.mat", layers)
    assert "layers{5} is an unexpected layer" in refused(path, vgg.Architecture((1, 1), (4, 6)))
    zeros = np.zeros((3, 3, 6, 4096), np.float32)
    layers.append(convolution(zeros, zeros[0, 0, 0], "conv3_1"))
    assert "layers{7} is an unexpected layer" in refused(write(tmp_path / "n.mat", layers))


def with_one(value):
    """A change that puts this value in the place of the largest one."""
    return lambda array: np.where(array == array.max(), np.float32(value), array)


WRONG = {
    "double kernel": (0, lambda a: a.astype(np.float64), "has dtype float64, expected float32"),
    "whole kernel": (0, lambda a: a.astype(np.int16), "has dtype int16, expected float32"),
    "logical kernel": (0, lambda a: a > 0, "has dtype bool, expected float32"),
    "text for a kernel": (0, lambda a: "kernel", "is missing"),
    "cell for a kernel": (0, lambda a: cell([a]), "is missing"),
    "kernel of other axes": (0, lambda a: a.transpose(3, 2, 0, 1), "has shape (6, 4, 3, 3)"),
    "kernel of other width": (0, lambda a: a[..., :5], "has shape (3, 3, 4, 5)"),
    "large kernel": (0, lambda a: np.zeros((512, 512), np.float32), "has shape (512, 512)"),
    "NaN in a kernel": (0, with_one(np.nan), "holds values that are not finite"),
    "infinity in a kernel": (0, with_one(np.inf), "holds values that are not finite"),
    "double bias": (1, lambda a: a.astype(np.float64), "has dtype float64, expected float32"),
    "bias of other width": (1, lambda a: a[:, :5], "has shape (1, 5), expected (1, 6) or (6, 1)"),
    "square bias": (1, lambda a: a.reshape(2, 3), "has shape (2, 3)"),
    "NaN in a bias": (1, with_one(np.nan), "holds values that are not finite"),
}


@pytest.mark.parametrize("index, change, problem", WRONG.values(), ids=WRONG)
def test_wrong_array_is_refused(tmp_path, layers, index, change, problem):
    weights = layers[2]["weights"]
    weights[0, index] = change(weights[0, index])
    message = refused(write(tmp_path / "n.mat", layers))
    assert f"the {('kernel', 'bias')[index]} of layers{{3}} {problem}" in message


@pytest.mark.parametrize("weights", [cell([]), cell([1.0]), 1.0, "weights"], ids=str)
def test_convolution_without_arrays_is_refused(tmp_path, layers, weights):
    layers[2]["weights"] = weights
    assert "the kernel of layers{3} is missing" in refused(write(tmp_path / "n.mat", layers))


AVERAGES = {
    "text": ("average", "is missing"),
    "struct": ({"r": 1.0}, "is missing"),
    "whole": (np.ones((1, 1, 3), np.uint8), "is missing"),
    "large": (np.ones((300, 300, 3)), "is missing"),
    "none of the importer": (np.zeros((1, 2)), "has shape (1, 2)"),
    "grey": (np.ones((5, 5)), "has shape (5, 5)"),
    "empty": (np.ones((0, 5, 3)), "has shape (0, 5, 3)"),
    "four colours": (np.ones((1, 1, 4)), "has shape (1, 1, 4)"),
    "NaN": (np.full((1, 3), np.nan), "range"),
    "infinities": (np.array([[np.inf, -np.inf, 1.0]]), "range"),
    "negative": (np.full((1, 3), -1.0), "range"),
    "too bright": (np.full((1, 3), 256.0), "range"),
}


@pytest.mark.parametrize("average, problem", AVERAGES.values(), ids=AVERAGES)
def test_wrong_average_is_refused(tmp_path, layers, average, problem):
    message = refused(write(tmp_path / "n.mat", layers, average))
    assert "normalization.averageImage" in message and problem in message


@pytest.mark.parametrize("content", [{}, {"meta": 1.0}, {"normalization": 1.0}], ids=str)
def test_missing_average_is_refused(tmp_path, layers, content):
    scipy.io.savemat(tmp_path / "n.mat", {"layers": cell(layers), **content})
    assert "normalization.averageImage is missing" in refused(tmp_path / "n.mat")


def test_not_a_mat_file_is_refused(tmp_path):
    (tmp_path / "n.mat").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "is no MAT file" in refused(tmp_path / "n.mat")
