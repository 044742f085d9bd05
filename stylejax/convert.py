"""Public checkpoints to ``params``, one reader per file layout.

A checkpoint comes from elsewhere, so nothing in it is taken on trust, whether or not its hash is
known (``checkpoints``): see ``formats``. Every refusal is a ValueError of one line that names the
file, the thing, and the remedy. Each reader puts the preprocessing that its network was trained
with into ``params["input"]``, so features are right whichever file is used.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stylejax import vgg
from stylejax.formats import safetensors, torch_file
from stylejax.formats.hdf5 import member, open_hdf5, read_array, refusal
from stylejax.formats.refusal import listing

Params = dict[str, dict[str, np.ndarray]]
Reader = Callable[[Path], Params]

# RGB, 0 to 1, minus ImageNet's mean, divided by its standard deviation.
_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def _affine(kernel: Any, bias: Any) -> dict[str, np.ndarray]:
    return {"kernel": np.array(kernel, np.float32), "bias": np.array(bias, np.float32)}


def caffe_input() -> dict[str, np.ndarray]:
    """How the original networks see a picture: BGR, 0 to 255, minus the mean."""
    return _affine(vgg.CAFFE_KERNEL, vgg.CAFFE_BIAS)


def torchvision_input() -> dict[str, np.ndarray]:
    """How torchvision's networks see a picture: RGB, 0 to 1, standardised."""
    return _affine(np.diag(1 / _DEVIATION), -_MEAN / _DEVIATION)


def convolutions(architecture: vgg.Architecture) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of a network's convolutions by name, in order."""
    shapes = vgg.parameter_shapes(architecture)
    return {name: shape for name, shape in shapes.items() if name.startswith("conv")}


# Keras


def _read_keras_layer(group: h5py.Group, names: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """Kernel and bias out of a layer's group, under the first pair of names that fits."""
    for kernel, bias in names:
        if set(group) == {kernel, bias}:
            return {
                "kernel": read_array(group, kernel, shapes["kernel"]),
                "bias": read_array(group, bias, shapes["bias"]),
            }
    expected = " and ".join(names[0])
    raise refusal(group, f"holds {listing(group) or 'nothing'}, expected just {expected}")


def _check_empty(parent: h5py.Group, extras: set[str], expected: Any) -> None:
    """Refuses a layer with parameters that no VGG has; poolings and inputs have none."""
    for extra in sorted(extras):
        group = member(parent, extra, h5py.Group)
        if len(group) and (set(group) != {"vars"} or len(member(group, "vars", h5py.Group))):
            raise refusal(group, f"is an unexpected layer, expected just {', '.join(expected)}")


def _read_keras_legacy(file: h5py.File, architecture: vgg.Architecture) -> Params:
    shapes = convolutions(architecture)
    names = {f"block{name[4:].replace('_', '_conv')}": name for name in shapes}
    _check_empty(file, set(file) - set(names), names)
    params: Params = {}
    for layer, name in names.items():
        group = member(file, layer, h5py.Group)
        if set(group) == {layer}:
            group = member(group, layer, h5py.Group)
        possible = (f"{layer}_W_1:0", f"{layer}_b_1:0"), ("kernel:0", "bias:0"), ("kernel", "bias")
        params[name] = _read_keras_layer(group, possible, shapes[name])
    return params


def _read_keras_3(file: h5py.File, architecture: vgg.Architecture) -> Params:
    """Layers are counted by kind, ``conv2d``, ``conv2d_1``, each with ``vars/0`` and ``vars/1``."""
    shapes = convolutions(architecture)
    layers = member(file, "layers", h5py.Group)
    names = {"conv2d" + f"_{index}" * (index > 0): name for index, name in enumerate(shapes)}
    _check_empty(layers, set(layers) - set(names), names)
    params: Params = {}
    for layer, name in names.items():
        variables = member(member(layers, layer, h5py.Group), "vars", h5py.Group)
        params[name] = _read_keras_layer(variables, [("0", "1")], shapes[name])
    return params


def read_keras(path: str | Path, architecture: vgg.Architecture = vgg.VGG19) -> Params:
    """Reads the convolutions of a VGG as Keras stores them, in either of its HDF5 layouts.

    The published ("notop") file has a group ``block{B}_conv{C}`` with ``block{B}_conv{C}_W_1:0``
    ``[3, 3, in, out]`` and ``block{B}_conv{C}_b_1:0`` ``[out]``; later versions nest ``kernel`` and
    ``bias`` in a group of the same name. Keras 3 (``.weights.h5``) counts the layers of each kind:
    ``layers/conv2d_3/vars/0``. Layers without parameters are empty groups.

    Args:
      path: the file. The caller has checked its hash.
      architecture: which convolutions to expect.

    Returns:
      ``{"input": ..., "conv1_1": {"kernel": [3, 3, 3, 64], "bias": [64]}, ...}`` of float32, with
      the preprocessing of the original network: BGR, 0 to 255, minus the mean.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not exactly such a file; the message says in what.
    """
    with open_hdf5(path) as file:
        read = _read_keras_3 if "layers" in file else _read_keras_legacy
        return {"input": caffe_input(), **read(file, architecture)}


# PyTorch


def container(path: str | Path) -> str:
    """The file format, by its first bytes."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with open(path, "rb") as file:
        start = file.read(16)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if start.startswith(b"MATLAB"):
        return "matlab"
    if start[8:9] == b"{":  # behind the header's length, whose first byte may be a pickle's
        return "safetensors"
    return "torch" if start.startswith((b"PK", b"\x80")) else "unknown"


def _tensors(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Named tensors of a checkpoint in safetensors' or PyTorch's own format."""
    read = safetensors if container(path) == "safetensors" else torch_file
    return read.read_tensors(path, shapes)


def _read_numbered(
    path: str | Path, architecture: vgg.Architecture, prefix: str, places: Mapping[str, int]
) -> Params:
    """Convolutions kept by their place in a ``Sequential``, ``[out, in, 3, 3]``."""
    shapes = convolutions(architecture)
    wanted: dict[str, tuple[int, ...]] = {}
    for name, place in places.items():
        shape = shapes[name]["kernel"]
        wanted[f"{prefix}{place}.weight"] = (shape[3], shape[2], shape[0], shape[1])
        wanted[f"{prefix}{place}.bias"] = shapes[name]["bias"]
    extra = {f"{prefix}0.weight": (3, 3, 1, 1), f"{prefix}0.bias": (3,)}
    own_input = 0 not in places.values()
    found = _tensors(path, wanted | extra if own_input else wanted)
    params: Params = {}
    if own_input:  # a 1x1 convolution before the first one: the network's own preprocessing
        kernel = found[f"{prefix}0.weight"][:, :, 0, 0].T
        params["input"] = {
            "kernel": np.ascontiguousarray(kernel),
            "bias": found[f"{prefix}0.bias"],
        }
    for name, place in places.items():
        kernel = found[f"{prefix}{place}.weight"].transpose(2, 3, 1, 0)
        params[name] = {
            "kernel": np.ascontiguousarray(kernel),
            "bias": found[f"{prefix}{place}.bias"],
        }
    return params


def places_in_features(architecture: vgg.Architecture) -> dict[str, int]:
    """Where torchvision's ``features`` has each convolution; a ReLU follows, a pooling each block.

    >>> list(places_in_features(vgg.VGG19).values())[:6]
    [0, 2, 5, 7, 10, 12]
    """
    places, index = {}, 0
    for block, depth in enumerate(architecture.blocks, start=1):
        for number in range(1, depth + 1):
            places[f"conv{block}_{number}"] = index
            index += 2
        index += 1
    return places


def places_in_adain(architecture: vgg.Architecture) -> dict[str, int]:
    """Where AdaIN's normalised network has each convolution; a padding precedes, a ReLU follows.

    >>> list(places_in_adain(vgg.VGG19).values())[:6]
    [2, 5, 9, 12, 16, 19]
    """
    places, index = {}, 2
    for block, depth in enumerate(architecture.blocks, start=1):
        for number in range(1, depth + 1):
            places[f"conv{block}_{number}"] = index
            index += 3
        index += 1
    return places


def read_torchvision(path: str | Path, architecture: vgg.Architecture = vgg.VGG19) -> Params:
    """Reads torchvision's VGG-19, from ``.pth`` or from timm's ``model.safetensors``.

    Tensors ``features.N.weight`` ``[out, in, 3, 3]`` and ``features.N.bias``; what belongs to the
    classifier stays where it is.

    Args:
      path: the file. The caller has checked its hash.
      architecture: which convolutions to expect.

    Returns:
      As ``read_keras``, with torchvision's preprocessing: RGB, 0 to 1, standardised.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not such a file; the message says in what.
    """
    params = _read_numbered(path, architecture, "features.", places_in_features(architecture))
    return {"input": torchvision_input(), **params}


def read_jcjohnson(path: str | Path, architecture: vgg.Architecture = vgg.VGG19) -> Params:
    """Reads J. Johnson's PyTorch copy of the original VGG-19: torchvision's names, Caffe's input.

    Arguments, result and errors as for ``read_torchvision``; the preprocessing is the original's.
    """
    params = _read_numbered(path, architecture, "features.", places_in_features(architecture))
    return {"input": caffe_input(), **params}


def read_adain(path: str | Path, architecture: vgg.Architecture = vgg.VGG19) -> Params:
    """Reads AdaIN's ``vgg_normalised.pth``: the original network, normalised as Gatys et al. did.

    Its first layer, a 1x1 convolution of the colours, becomes ``params["input"]``. AdaIN pads by
    reflection and rounds pooled sizes up; here they are padded as ``features`` is told, and rounded
    down.

    Arguments, result and errors as for ``read_torchvision``.
    """
    return _read_numbered(path, architecture, "", places_in_adain(architecture))
