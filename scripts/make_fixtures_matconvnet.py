"""Make the tests' MatConvNet files: ``python scripts/make_fixtures_matconvnet.py``.

Each is a VGG of blocks (1, 2) and widths (4, 6) in the layout of one generation of MatConvNet, as
SciPy writes it; MatConvNet's own importer wrote the first two with SciPy as well. ``arrays.npz``
has what went into all of them. SciPy writes the date into the files, nothing else in them changes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

FOLDER = Path(__file__).parents[1] / "tests" / "fixtures" / "matconvnet"
CHANNELS = {"conv1_1": (3, 4), "conv2_1": (4, 6), "conv2_2": (6, 6)}
FULLY_CONNECTED = (7, 7, 6, 1024)  # twice as large as what the reader keeps; of zeros, it is small
COLOUR = (123.68, 116.779, 103.939)


def arrays() -> dict[str, Any]:
    """``conv1_1_kernel``, ``conv1_1_bias`` and so on."""
    rng = np.random.default_rng(20150423)
    made = {}
    for name, (channels, width) in CHANNELS.items():
        made[f"{name}_kernel"] = rng.normal(size=(3, 3, channels, width)).astype(np.float32)
        made[f"{name}_bias"] = rng.normal(size=width).astype(np.float32)
    return made


def cell(values: list[Any]) -> np.ndarray:
    """A row of cells."""
    row = np.empty((1, len(values)), object)
    for index, value in enumerate(values):
        row[0, index] = value
    return row


def convolution(kernel: np.ndarray, bias: np.ndarray, name: str, layout: str) -> dict[str, Any]:
    """A struct with the fields of its generation, in their order."""
    if layout == "old":
        return {"type": "conv", "filters": kernel, "biases": bias[None], "stride": 1.0, "pad": 1.0}
    if layout == "beta16":
        weights = cell([kernel, bias[None]])
        return {"weights": weights, "pad": np.ones((1, 4)), "type": "conv", "name": name}
    return {
        **{"name": name, "type": "conv", "weights": cell([kernel, bias[:, None]])},
        **{"size": np.array([kernel.shape], float), "pad": np.ones((1, 4)), "precious": False},
        **{"opts": cell([])},
    }


def other(kind: str, name: str, layout: str) -> dict[str, Any]:
    """A layer without arrays."""
    return {"type": kind} | ({} if layout == "old" else {"name": name})


def network(made: dict[str, Any], layout: str) -> dict[str, Any]:
    """All variables of a file."""
    layers = []
    for name in CHANNELS:
        kernel, bias = made[f"{name}_kernel"], made[f"{name}_bias"]
        layers.append(convolution(kernel, bias, name, layout))
        layers.append(other("relu", f"relu{name[4:]}", layout))
        if name != "conv2_1":
            layers.append(other("pool", f"pool{name[4]}", layout))
    if layout != "old":
        zeros = np.zeros(FULLY_CONNECTED, np.float32)
        layers.append(convolution(zeros, zeros[0, 0, 0], "fc6", layout))
    layers.append(other("softmax", "prob", layout))
    return {"layers": cell(layers), **about(layout)}


def about(layout: str) -> dict[str, Any]:
    """What a file says besides its layers."""
    colour = np.array(COLOUR)[None, None]
    if layout == "beta16":
        colour = np.broadcast_to(colour, (224, 224, 3))
    normalization = {"imageSize": np.array([[224.0, 224.0, 3.0]]), "averageImage": colour}
    classes = {"name": cell(["n01440764", "n01443537"]), "description": cell(["tench", "goldfish"])}
    described = {"normalization": normalization, "classes": classes}
    return {"meta": described} if layout == "newer" else described


def main() -> None:
    """Writes the files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = arrays()
    np.savez_compressed(FOLDER / "arrays.npz", **made)
    for layout in ("beta16", "newer", "old"):
        path, content = FOLDER / f"{layout}.mat", network(made, layout)
        scipy.io.savemat(path, content, do_compression=layout != "old", oned_as="row")
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
