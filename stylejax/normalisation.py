"""Gatys' normalisation: every filter's mean activation over images and positions is one.

"We normalised the network by scaling the weights such that the mean activation of each filter over
images and positions is equal to one. Such re-scaling can be done for the VGG network without
changing its output, because it contains only rectifying linear activation functions and no
normalization or pooling over feature maps" (Gatys, Ecker and Bethge, CVPR 2016, section 2). The
ReLU features are only rescaled by it, filter by filter; what changes is how much each filter and
each layer counts in a loss.

The authors' own file is off the net and they averaged over ImageNet's validation set. The means in
``data/vgg19_mean_activations.npz`` are this project's, over 900 photographs
(``scripts/measure_activations.py``).
"""

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stylejax import vgg
from stylejax.layers import average_pool

Means = Mapping[str, Any]


def mean_activations(
    params: vgg.Params, images: Iterable[jax.Array | np.ndarray], *, pool: vgg.Pool = average_pool
) -> dict[str, np.ndarray]:
    """Each filter's mean activation after the ReLU, over all images and positions.

    Args:
      params: the network.
      images: ``[H, W, 3]`` in [0, 1]; images of one size share a compiled program.
      pool: the pooling of the network.

    Returns:
      ``{"conv1_1": [64], ...}``, float32.

    Raises:
      ValueError: no images.
    """
    names = [name for name in params if name.startswith("conv")]

    @jax.jit
    def sums(params: vgg.Params, image: jax.Array) -> dict[str, jax.Array]:
        relus = [name.replace("conv", "relu") for name in names]
        features = vgg.features(params, image, relus, pool=pool)
        return {n: features[r].sum((0, 1)) for n, r in zip(names, relus, strict=True)}

    total = {name: np.zeros(params[name]["bias"].shape) for name in names}
    count = dict.fromkeys(names, 0)
    for image in images:
        height, width = image.shape[:2]
        for name, value in sums(params, image).items():
            shrink = 2 ** (int(name[4:].split("_")[0]) - 1)
            total[name] += np.asarray(value, np.float64)
            count[name] += (height // shrink) * (width // shrink)
    if not count or not all(count.values()):
        raise ValueError("no images to average the activations over; give at least one")
    return {name: (total[name] / count[name]).astype(np.float32) for name in names}


def normalise(params: vgg.Params, means: Means) -> dict[str, dict[str, Any]]:
    """The same network with every filter's output divided by its mean activation.

    A filter divides its kernel and bias by its own mean and multiplies its input channels by
    theirs. Filters that never fire stay as they are.

    Args:
      params: the network.
      means: ``{"conv1_1": [64], ...}``, see ``mean_activations``.

    Raises:
      ValueError: the means belong to another network.
    """
    names = [name for name in params if name.startswith("conv")]
    for name in names:
        if name not in means or np.shape(means[name]) != np.shape(params[name]["bias"]):
            raise ValueError(
                f"no mean activations for {name} with {np.shape(params[name]['bias'])[0]} filters: "
                "they belong to another network; measure them with mean_activations()"
            )
    scaled: dict[str, dict[str, Any]] = {"input": dict(params["input"])}
    incoming = jnp.ones(3)
    for name in names:
        mean = jnp.asarray(means[name])
        mean = jnp.where(mean > 0, mean, 1)
        kernel, bias = jnp.asarray(params[name]["kernel"]), jnp.asarray(params[name]["bias"])
        scaled[name] = {
            "kernel": kernel * incoming[None, None, :, None] / mean[None, None, None],
            "bias": bias / mean,
        }
        incoming = mean
    return scaled


def vgg19_means() -> dict[str, np.ndarray]:
    """The published VGG-19's mean activations with average pooling, as measured."""
    with (files("stylejax") / "data" / "vgg19_mean_activations.npz").open("rb") as file:
        return dict(np.load(file))
