"""MatConvNet's VGG to ``params``: the networks that vlfeat.org publishes as MAT files.

Three generations of MatConvNet have written them. A network is a cell ``layers`` of structs, one
for each layer; a convolution keeps its arrays in a cell ``weights``, in the oldest files as
``filters`` and ``biases``. The average colour is in ``normalization.averageImage``, in the newest
files inside of ``meta``. Fields are found by name, for their order differs from file to file. As
for every checkpoint, nothing is taken on trust, and every refusal is a ValueError of one line that
names the file, the thing, and the remedy.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stylejax import vgg
from stylejax.convert import Params
from stylejax.formats import mat_file
from stylejax.formats.refusal import REMEDY, Refusal, listing, printable

AVERAGE_IMAGE = (224, 224, 3)  # the largest that there is


class Layer(NamedTuple):
    """A layer of a network, and where it was found."""

    place: str
    fields: dict[str, Any]


def read_matconvnet(path: str | Path, architecture: vgg.Architecture = vgg.VGG19) -> Params:
    """Reads the convolutions of a VGG from a network of MatConvNet.

    Kernels are ``[height, width, in, out]`` there as here, so that nothing is transposed. With 3x3
    kernels no shape tells, and many a reader of these files does transpose, led by the help of
    ``vl_nnconv``, which says "FW x FH". MatConvNet's manual has images ``H x W x D`` and filters
    ``H' x W' x D x D''``; its importer ``import-caffe.py``, which made the published files, turns
    Caffe's ``[out, in, height, width]`` round and then swaps the first two axes; MATLAB's own order
    in memory is undone by ``mat_file``. A test correlates a real file's kernels with Keras'.

    Args:
      path: the file. The caller has checked its hash.
      architecture: which convolutions to expect. The fully connected layers behind them are not
        read: ``mat_file`` passes over what is so large.

    Returns:
      ``{"input": ..., "conv1_1": {"kernel": [3, 3, 3, 64], "bias": [64]}, ...}`` of float32, with
      the preprocessing of MatConvNet: RGB, 0 to 255, minus the file's average colour.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not exactly such a file; the message says in what.
    """
    shapes = vgg.parameter_shapes(architecture)
    shapes = {name: each for name, each in shapes.items() if name.startswith("conv")}
    largest = max(math.prod(shape) for each in shapes.values() for shape in each.values())
    network = mat_file.read(path, largest=max(largest, math.prod(AVERAGE_IMAGE)))
    params: Params = {"input": _read_input(path, network)}
    for name, layer in zip(shapes, _convolutions(path, network, list(shapes)), strict=True):
        params[name] = _read_layer(path, layer, shapes[name])
    return params


def _refusal(path: str | Path, place: str, problem: str) -> Refusal:
    """The error that says what is wrong with a part of a network."""
    return Refusal(f"{path}: {printable(place)} {problem}; {REMEDY}")


def _convolutions(path: str | Path, network: dict[str, Any], names: list[str]) -> list[Layer]:
    """The expected convolutions.

    A network is a sequence, so the order in the file says which is which; where a layer has a name,
    it must be the right one. What follows them may not be a 3x3 convolution.
    """
    found = [layer for layer in _layers(path, network) if _text(layer, "type") == "conv"]
    if len(found) < len(names):
        problem = f"has {len(found)} convolutions, expected {', '.join(names)}"
        raise _refusal(path, "layers", problem)
    for name, layer in zip(names, found, strict=False):
        called = _text(layer, "name")
        if called not in ("", name):
            raise _refusal(path, layer.place, f"is {printable(called)}, expected {name}")
    for layer in found[len(names) :]:
        kernel, _ = _kernel_and_bias(layer)
        if isinstance(kernel, np.ndarray | mat_file.Skipped) and kernel.shape[:2] == (3, 3):
            expected = ", ".join(names)
            raise _refusal(path, layer.place, f"is an unexpected layer, expected just {expected}")
    return found[: len(names)]


def _layers(path: str | Path, network: dict[str, Any]) -> list[Layer]:
    """All layers, in network order."""
    layers = network.get("layers")
    if not isinstance(layers, list) or not all(isinstance(fields, dict) for fields in layers):
        held = listing(network) or "nothing"
        raise _refusal(path, "the file", f"has no cell 'layers' of structs (it holds {held})")
    return [Layer(f"layers{{{i}}}", fields) for i, fields in enumerate(layers, start=1)]


def _text(layer: Layer, name: str) -> str:
    """A field that is text; empty where it is anything else."""
    value = layer.fields.get(name)
    return value if isinstance(value, str) else ""


def _kernel_and_bias(layer: Layer) -> tuple[Any, Any]:
    """What a convolution keeps, under the names of any generation; None for what is not there."""
    weights = layer.fields.get("weights")
    if isinstance(weights, list) and len(weights) == 2:
        return weights[0], weights[1]
    return layer.fields.get("filters"), layer.fields.get("biases")


def _read_layer(
    path: str | Path, layer: Layer, shapes: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Kernel and bias of a convolution. MATLAB has no vectors: a bias is a row or a column."""
    kernel, bias = _kernel_and_bias(layer)
    (width,) = shapes["bias"]
    _check(path, f"the kernel of {layer.place}", kernel, [shapes["kernel"]])
    _check(path, f"the bias of {layer.place}", bias, [(1, width), (width, 1)])
    return {"kernel": np.ascontiguousarray(kernel), "bias": bias.reshape(-1)}


def _check(path: str | Path, place: str, array: Any, shapes: list[tuple[int, ...]]) -> None:
    """That a value is a finite float32 array of one of these shapes."""
    expected = " or ".join(map(str, shapes))
    if not isinstance(array, np.ndarray | mat_file.Skipped):
        raise _refusal(path, place, f"is missing, expected shape {expected}")
    if isinstance(array, mat_file.Skipped) or array.shape not in shapes:
        raise _refusal(path, place, f"has shape {array.shape}, expected {expected}")
    if array.dtype != np.float32:
        raise _refusal(path, place, f"has dtype {array.dtype}, expected float32")
    if not np.isfinite(array).all():
        raise _refusal(path, place, "holds values that are not finite")


def _read_input(path: str | Path, network: dict[str, Any]) -> dict[str, np.ndarray]:
    """The preprocessing, from an average image or an average colour."""
    place = "normalization.averageImage"
    average: Any = network.get("meta", network)
    for name in place.split("."):
        average = average.get(name) if isinstance(average, dict) else None
    if not isinstance(average, np.ndarray) or average.dtype.kind != "f":
        raise _refusal(path, place, "is missing, expected an array of floating point")
    image = average.ndim == 3 and average.shape[2] == 3 and average.size > 0
    if not image and average.shape not in ((1, 3), (3, 1)):
        expected = "(height, width, 3), (1, 3) or (3, 1)"
        raise _refusal(path, place, f"has shape {average.shape}, expected {expected}")
    if not ((average >= 0) & (average <= 255)).all():
        raise _refusal(path, place, "leaves the range of red, green and blue, from 0 to 255")
    colour = average.reshape(-1, 3).mean(0, np.float64)
    return {"kernel": 255 * np.eye(3, dtype=np.float32), "bias": -colour.astype(np.float32)}
