"""Gatys' normalisation: every filter's mean activation over images and positions is one.

"We normalised the network by scaling the weights such that the mean activation of each filter over
images and positions is equal to one. Such re-scaling can be done for the VGG network without
changing its output, because it contains only rectifying linear activation functions and no
normalization or pooling over feature maps" (Gatys, Ecker and Bethge, CVPR 2016, section 2). The
ReLU features are only rescaled by it, filter by filter; what changes is how much each filter and
each layer counts in a loss.

The authors' own file is off the net and they averaged over ImageNet's validation set. The means in
``data/vgg19_mean_activations.npz`` are this project's, over 900 photographs
(``scripts/measure_activations.py``). They belong to the original network, whichever file it came
from, and to what was distilled from it; of another, torchvision's say, measure its own
(``scripts/convert_weights.py --normalise``).
"""

import math
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stylejax import vgg
from stylejax.layers import average_pool

Means = Mapping[str, Any]
Images = Iterable[jax.Array | np.ndarray]


def mean_activations(
    params: vgg.Params, images: Images, *, pool: vgg.Pool = average_pool
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
        for name, value in sums(params, image).items():
            total[name] += np.asarray(value, np.float64)
            count[name] += math.prod(vgg.feature_size(image.shape[:2], name, pool))
    if not count or not all(count.values()):
        raise ValueError("no images to average the activations over; give at least one")
    return {name: (total[name] / count[name]).astype(np.float32) for name in names}


def normalise(params: vgg.Params, means: Means) -> dict[str, dict[str, Any]]:
    """The same network with every filter's output divided by its mean activation.

    A filter divides its kernel and bias by its own mean and multiplies its input channels by
    theirs. Filters that never fire stay as they are.

    Args:
      params: the network.
      means: ``{"conv1_1": [64], ...}``, see ``mean_activations``. For a network with taps they are
        those of the larger network that the taps lead to, and only the taps change.

    Raises:
      ValueError: the means belong to another network.
    """
    taps = vgg.architecture_of(params).taps
    if taps:
        scaled = {name: dict(arrays) for name, arrays in params.items()}
        for layer, _ in taps:
            mean = jnp.asarray(means[layer.replace("relu", "conv")])
            kernel = jnp.asarray(params[layer]["kernel"])
            scaled[layer] = {"kernel": kernel / jnp.where(mean > 0, mean, 1)[None]}
        return scaled
    names = [name for name in params if name.startswith("conv")]
    for name in names:
        if name not in means or np.shape(means[name]) != np.shape(params[name]["bias"]):
            raise ValueError(
                f"no mean activations for {name} with {np.shape(params[name]['bias'])[0]} filters: "
                "they belong to another network; measure them with mean_activations()"
            )
    scaled = {"input": dict(params["input"])}
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


def first_responses(params: vgg.Params) -> np.ndarray:
    """``[filters]``: what the first layer makes of a small ramp of colours, averaged.

    The same for every file of one network, whatever its units and order of colours.
    """
    ramp = np.linspace(0, 1, 8, dtype=np.float32)
    image = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], ramp[::-1, None]), axis=2)
    layer = vgg.features(params, jnp.asarray(image), ["relu1_1"])["relu1_1"]
    return np.asarray(layer.mean((0, 1)))


def vgg19_means(params: vgg.Params | None = None) -> dict[str, np.ndarray]:
    """The original VGG-19's mean activations with average pooling, as measured.

    Args:
      params: the network that they are for; None checks nothing.

    Raises:
      ValueError: ``params`` are another network.
    """
    with (files("stylejax") / "data" / "vgg19_mean_activations.npz").open("rb") as file:
        means = dict(np.load(file))
    expected = means.pop("first_responses")
    if params is not None and not vgg.architecture_of(params).taps:
        found = first_responses(params)
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=0.01, atol=0.1):
            raise ValueError(
                "the mean activations that come with stylejax are the original VGG-19's, and this "
                "is another network, or one that is normalised already; measure its own with "
                "`python scripts/convert_weights.py --normalise FOLDER`"
            )
    return means
