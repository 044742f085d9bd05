"""Writes tests/fixtures/keras: what Keras stores, and what stylejax does, of a tiny network.

python scripts/make_fixtures_keras.py
"""

import os
from pathlib import Path

import h5py
import numpy as np

os.environ["KERAS_BACKEND"] = "jax"

import keras
from keras.src.legacy.saving import legacy_h5_format

from stylejax import convert, store, vgg

FOLDER = Path(__file__).parents[1] / "tests" / "fixtures" / "keras"
TINY = vgg.Architecture((1, 2), (4, 6))


def model() -> keras.Model:
    """The network in Keras' names."""
    x = image = keras.Input((8, 8, 3))
    for block, (depth, width) in enumerate(zip(TINY.blocks, TINY.widths, strict=True), start=1):
        for index in range(1, depth + 1):
            options = {"bias_initializer": "normal", "name": f"block{block}_conv{index}"}
            x = keras.layers.Conv2D(width, 3, padding="same", **options)(x)
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return keras.Model(image, x)


def main() -> None:
    """Writes the files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    network = model()
    with h5py.File(FOLDER / "legacy.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)
    network.save_weights(FOLDER / "keras3.weights.h5")
    params = convert.read_keras(FOLDER / "legacy.h5", TINY)
    with h5py.File(FOLDER / "gzip.h5", "w") as file:
        for layer in convert.convolutions(TINY):
            group = file.create_group(f"block{layer[4:].replace('_', '_conv')}")
            for name, value in params[layer].items():
                options = {"compression": "gzip", "shuffle": True, "fletcher32": True}
                group.create_dataset(name, data=value, **options)
    arrays = {}
    for layer in convert.convolutions(TINY):
        keras_name = f"block{layer[4:].replace('_', '_conv')}"
        kernel, bias = network.get_layer(keras_name).get_weights()
        arrays[f"{layer}.kernel"], arrays[f"{layer}.bias"] = kernel, bias
    np.savez(FOLDER / "arrays.npz", **arrays)
    store.save(FOLDER / "store.h5", params, store.Origin("scripts/make_fixtures_keras.py"))


if __name__ == "__main__":
    main()
