"""Writes one VGG-19 in every published format, and compares what our readers make of the files.

python scripts/measure_parity.py PICTURE [--weights FILE] [--size N]

Each file is written by the format's own writer (keras, torch, safetensors, scipy), in the layout
and for the preprocessing that its publisher uses, of full size but without the fully connected
layers. The table has, for each of them, the largest difference of the features to those of the
network that was written, as a part of the layer's largest feature. The last row is PyTorch's own
computation over its own file: how right our reading is, not only how uniform.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.io
from make_fixtures_matconvnet import about, cell, convolution

from stylejax import convert, images, normalisation, vgg, weights
from stylejax.matconvnet import read_matconvnet

Params = dict[str, dict[str, np.ndarray]]
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision
SHOWN = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


class Source(NamedTuple):
    """A published format.

    Attributes:
      file: the name of a file of that kind, as its publisher has it.
      write: writes ``params`` there.
      read: our reader of it.
      scaled: whether its filters are divided by their mean activations.
    """

    file: str
    write: Callable[[Path, Params, Any], None]
    read: Callable[[Path, vgg.Architecture], Params]
    scaled: bool = False


def turned(kernel: np.ndarray) -> np.ndarray:
    """``[3, 3, in, out]`` as PyTorch has it: ``[out, in, 3, 3]``."""
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))


def red_first(params: Params) -> Params:
    """The same filters for pictures whose first channel is red."""
    first = params["conv1_1"]
    return params | {"conv1_1": first | {"kernel": first["kernel"][:, :, ::-1]}}


def standardised(params: Params) -> Params:
    """The same function of a picture, as filters for torchvision's preprocessing.

    An original network sees ``255 * colour - average``, in which ``colour`` is
    ``deviation * standardised + mean``.
    """
    average = np.array(vgg.CAFFE_BIAS, np.float64)[::-1]
    kernel = red_first(params)["conv1_1"]["kernel"].astype(np.float64)
    constant = 255 * np.array(MEAN) + average
    bias = params["conv1_1"]["bias"] + np.einsum("hwio,i->o", kernel, constant)
    kernel = kernel * (255 * np.array(DEVIATION))[:, None]
    return params | {
        "conv1_1": {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    }


def keras_model(params: Params) -> Any:
    """Keras' network with these arrays, under the names that ``keras.applications`` gives."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    architecture = vgg.architecture_of(params)
    x = image = keras.Input((32, 32, 3))
    for block, depth in enumerate(architecture.blocks, start=1):
        for number in range(1, depth + 1):
            width, name = architecture.widths[block - 1], f"block{block}_conv{number}"
            layer = keras.layers.Conv2D(
                width, 3, padding="same", kernel_initializer="zeros", name=name
            )
            x = layer(x)
            arrays = params[f"conv{block}_{number}"]
            layer.set_weights([arrays["kernel"], arrays["bias"]])
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return keras.Model(image, x)


def write_keras_legacy(path: Path, params: Params, _: Any) -> None:
    """What ``save_weights`` wrote until Keras 3, and the published file is."""
    model = keras_model(params)
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def write_keras_3(path: Path, params: Params, _: Any) -> None:
    """What ``save_weights`` writes now."""
    keras_model(params).save_weights(path)


def tensors(params: Params, prefix: str, places: Mapping[str, int]) -> dict[str, Any]:
    """A state dict."""
    import torch

    state = {}
    for name, place in places.items():
        state[f"{prefix}{place}.weight"] = torch.from_numpy(turned(params[name]["kernel"]))
        state[f"{prefix}{place}.bias"] = torch.from_numpy(params[name]["bias"].copy())
    return state


def features_state(params: Params) -> dict[str, Any]:
    """A state dict with torchvision's names."""
    return tensors(params, "features.", convert.places_in_features(vgg.architecture_of(params)))


def write_torch(path: Path, params: Params, _: Any) -> None:
    """PyTorch's zip format."""
    import torch

    torch.save(features_state(params), path)


def write_torch_legacy(path: Path, params: Params, _: Any) -> None:
    """PyTorch's format before 2020."""
    import torch

    torch.save(features_state(params), path, _use_new_zipfile_serialization=False)


def write_safetensors(path: Path, params: Params, _: Any) -> None:
    """What timm publishes."""
    from safetensors.torch import save_file

    save_file(features_state(params), path, metadata={"format": "pt"})


def write_torchvision(path: Path, params: Params, _: Any) -> None:
    """PyTorch's format before 2020, with filters for torchvision's preprocessing."""
    write_torch_legacy(path, standardised(params), None)


def write_timm(path: Path, params: Params, _: Any) -> None:
    """The same filters as ``write_torchvision``."""
    write_safetensors(path, standardised(params), None)


def write_adain(path: Path, params: Params, means: Any) -> None:
    """Normalised, with the preprocessing as a 1x1 convolution before the first layer."""
    import torch

    scaled = jax.tree.map(np.asarray, normalisation.normalise(params, means))
    state = tensors(scaled, "", convert.places_in_adain(vgg.architecture_of(params)))
    kernel, bias = params["input"]["kernel"], params["input"]["bias"]
    state["0.weight"] = torch.from_numpy(turned(kernel[None, None]))
    state["0.bias"] = torch.from_numpy(bias.copy())
    torch.save(state, path, _use_new_zipfile_serialization=False)


def matconvnet_writer(layout: str) -> Callable[[Path, Params, Any], None]:
    """Writes one generation of MatConvNet's files, as its importer does, with SciPy."""

    def write(path: Path, params: Params, _: Any) -> None:
        layers = [
            convolution(arrays["kernel"], arrays["bias"], name, layout)
            for name, arrays in red_first(params).items()
            if name.startswith("conv")
        ]
        scipy.io.savemat(path, {"layers": cell(layers), **about(layout)}, oned_as="row")

    return write


SOURCES = {
    "Keras, as published": Source("notop.h5", write_keras_legacy, convert.read_keras),
    "Keras 3": Source("vgg19.weights.h5", write_keras_3, convert.read_keras),
    "J. Johnson, legacy `.pth`": Source(
        "vgg19-legacy.pth", write_torch_legacy, convert.read_jcjohnson
    ),
    "J. Johnson, zip `.pth`": Source("vgg19-zip.pth", write_torch, convert.read_jcjohnson),
    "MatConvNet, beta16": Source("beta16.mat", matconvnet_writer("beta16"), read_matconvnet),
    "MatConvNet, newer": Source("newer.mat", matconvnet_writer("newer"), read_matconvnet),
    "AdaIN, times its means": Source("vgg_normalised.pth", write_adain, convert.read_adain, True),
    "torchvision, legacy `.pth`": Source(
        "vgg19-torchvision.pth", write_torchvision, convert.read_torchvision
    ),
    "timm, `.safetensors`": Source("model.safetensors", write_timm, convert.read_torchvision),
}


def relus(architecture: vgg.Architecture) -> list[str]:
    """The layers that are compared."""
    return [name for name in vgg.layer_names(architecture) if name.startswith("relu")]


def seen(params: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    """The features of every ReLU, as the default preset computes them."""
    layers = tuple(relus(vgg.architecture_of(params)))
    run = jax.jit(vgg.features, static_argnames=("layers", "padding"))
    found = run(params, jnp.asarray(image, jnp.float32), layers=layers, padding="replicate-all")
    return {name: np.asarray(found[name]) for name in layers}


def differences(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """The largest difference at each layer, as a part of the layer's largest feature."""
    return {
        name: float(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max())
        for name in expected
    }


def parity(
    source: Source, params: Params, image: np.ndarray, expected: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Writes a file, reads it back, and compares; see ``differences``.

    Args:
      source: the format.
      params: a network with the original preprocessing.
      image: a picture.
      expected: what ``seen`` gives for both.
    """
    means = {name.replace("relu", "conv"): relu.mean((0, 1)) for name, relu in expected.items()}
    with tempfile.TemporaryDirectory(prefix="stylejax-") as folder:
        path = Path(folder) / source.file
        source.write(path, params, means)
        found = seen(source.read(path, vgg.architecture_of(params)), image)
    if source.scaled:
        for name, mean in means.items():
            layer = name.replace("conv", "relu")
            found[layer] = found[layer] * np.where(mean > 0, mean, 1)
    return differences(found, expected)


def seen_by_torch(params: Params, image: np.ndarray) -> dict[str, np.ndarray]:
    """What PyTorch computes with the arrays and the preprocessing of torchvision's file."""
    import torch
    from torch.nn import functional

    architecture = vgg.architecture_of(params)
    state = features_state(standardised(params))
    places, found = convert.places_in_features(architecture), {}
    x = torch.from_numpy(np.float32((image - np.array(MEAN)) / np.array(DEVIATION)))
    x = x.permute(2, 0, 1)[None]
    for block, depth in enumerate(architecture.blocks, start=1):
        for number in range(1, depth + 1):
            place = places[f"conv{block}_{number}"]
            x = functional.pad(x, (1, 1, 1, 1), mode="replicate")
            x = functional.conv2d(
                x, state[f"features.{place}.weight"], state[f"features.{place}.bias"]
            )
            x = functional.relu(x)
            found[f"relu{block}_{number}"] = x[0].permute(1, 2, 0).numpy()
        x = functional.avg_pool2d(x, 2)
    return found


def rows(params: Params, image: np.ndarray) -> Iterator[tuple[str, dict[str, float]]]:
    """The table, row by row."""
    expected = seen(params, image)
    for name, source in SOURCES.items():
        yield name, parity(source, params, image, expected)
    yield "PyTorch's own features", differences(seen_by_torch(params, image), expected)


def shown(value: float) -> str:
    """A difference in the table."""
    return f"{value:.1e}" if value else "0"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--weights", type=Path, help="VGG-19; found if not given")
    parser.add_argument("--size", type=int, default=256, help="long side of the picture (256)")
    options = parser.parse_args(argv)
    image = images.load(options.picture).image
    size = images.fit(image.shape[0], image.shape[1], options.size)
    image = np.asarray(images.resize(image, *size))
    params = weights.load(weights.resolve(options.weights))
    print(f"| source | {' | '.join(SHOWN)} | largest of 16 |")
    print("|---" * (len(SHOWN) + 2) + "|")
    for name, found in rows(params, image):
        values = [*(found[layer] for layer in SHOWN), max(found.values())]
        print(f"| {name} | {' | '.join(map(shown, values))} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
