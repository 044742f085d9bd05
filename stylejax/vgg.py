"""VGG: the architecture table, the network as a Flax module, and an image's features by layer.

Layers carry the authors' names: ``conv4_2`` is a convolution's output before the ReLU, ``relu4_2``
after it, ``pool4`` the fourth pooling. What Gatys et al. call "conv4_2" is ``relu4_2`` here.

``params`` is a plain nested dict of arrays, ``{"input": {"kernel": [3, 3], "bias": [3]},
"conv1_1": {"kernel": [3, 3, in, out], "bias": [out]}, ...}``. ``input`` is the checkpoint's own
preprocessing as an affine map of the colours: ``image @ kernel + bias`` turns sRGB in [0, 1] into
what the network was trained on, so features are right whichever checkpoint the arrays came from.

A network distilled from a larger one has taps besides, ``"relu1_1": {"kernel": [in, out]}``: a
linear map from its own features to those of the larger network, applied to what leaves the network
at that layer and not to what flows on.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from stylejax import winograd
from stylejax.layers import (
    Pool,
    Precision,
    average_pool,
    convolve,
    convolve_circular,
    convolve_replicating,
    rectify,
)

Params = Mapping[str, Mapping[str, Any]]
# "zero" everywhere is how the network was trained; "replicate" repeats the picture's border at the
# first convolution, "replicate-all" at every one; "circular" goes on from the other side at every
# one.
Padding = Literal["zero", "replicate", "replicate-all", "circular"]


class Architecture(NamedTuple):
    """A table that says everything about a VGG.

    Attributes:
      blocks: convolutions in each block; a pooling ends it.
      widths: output channels of each block's convolutions.
      taps: output channels of the map behind each layer that has one; where there are any, only
        these layers have features.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    taps: tuple[tuple[str, int], ...] = ()


VGG19 = Architecture(blocks=(2, 2, 4, 4, 4), widths=(64, 128, 256, 512, 512))

# BGR, 0 to 255, minus the training set's mean: how the original (Caffe) networks see a picture.
CAFFE_KERNEL = ((0.0, 0.0, 255.0), (0.0, 255.0, 0.0), (255.0, 0.0, 0.0))
CAFFE_BIAS = (-103.939, -116.779, -123.68)


def parameter_shapes(architecture: Architecture) -> dict[str, dict[str, tuple[int, ...]]]:
    """The tree of ``params`` with a shape in place of every array, in network order."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {"input": {"kernel": (3, 3), "bias": (3,)}}
    channels = 3
    for block, depth, width in _blocks(architecture):
        for index in range(1, depth + 1):
            shapes[f"conv{block}_{index}"] = {"kernel": (3, 3, channels, width), "bias": (width,)}
            channels = width
    for layer, width in architecture.taps:
        shapes[layer] = {"kernel": (architecture.widths[block_of(layer) - 1], width)}
    return shapes


def _blocks(architecture: Architecture) -> Iterator[tuple[int, int, int]]:
    """Number, depth and width of each block."""
    pairs = zip(architecture.blocks, architecture.widths, strict=True)
    for block, (depth, width) in enumerate(pairs, start=1):
        yield block, depth, width


def block_of(layer: str) -> int:
    """The block that a layer lies in.

    >>> block_of("relu4_2"), block_of("pool3")
    (4, 3)
    """
    return int(layer[4:].split("_")[0])


def architecture_of(params: Params) -> Architecture:
    """The architecture whose parameters these are.

    Raises:
      ValueError: no VGG has such a tree.
    """
    names = [name for name in params if name.startswith("conv")]
    try:
        places = sorted(tuple(map(int, name[4:].split("_"))) for name in names)
        count = max(block for block, _ in places)
        blocks = tuple(sum(b == block for b, _ in places) for block in range(1, count + 1))
        widths = tuple(params[f"conv{b}_1"]["bias"].shape[0] for b in range(1, count + 1))
        taps = [name for name in params if name not in names and name != "input"]
        order = {
            name: place for place, name in enumerate(layer_names(Architecture(blocks, widths)))
        }
        taps.sort(key=order.__getitem__)
        reach = tuple((name, params[name]["kernel"].shape[1]) for name in taps)
        architecture = Architecture(blocks, widths, reach)
        found = {
            layer: {name: tuple(a.shape) for name, a in arrays.items() if name != "evaluated"}
            for layer, arrays in params.items()
        }
        fits = found == parameter_shapes(architecture)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            "params do not form a VGG: expected 'input' and 'conv1_1', 'conv1_2', ... each with a "
            f"'kernel' and a 'bias' of fitting shapes, got {', '.join(map(str, params)) or 'none'}"
        )
    return architecture


def layer_names(architecture: Architecture) -> tuple[str, ...]:
    """Every layer that has features, in network order."""
    if architecture.taps:
        return tuple(layer for layer, _ in architecture.taps)
    names: list[str] = []
    for block, depth in enumerate(architecture.blocks, start=1):
        for index in range(1, depth + 1):
            names += [f"conv{block}_{index}", f"relu{block}_{index}"]
        names.append(f"pool{block}")
    return tuple(names)


def check_layers(layers: Iterable[str], architecture: Architecture = VGG19) -> None:
    """Raises ValueError, with the names that exist, where a layer does not."""
    known = layer_names(architecture)
    for layer in layers:
        if layer not in known:
            raise ValueError(f"unknown layer {layer!r}; this network has {', '.join(known)}")


def feature_size(size: Sequence[int], layer: str, pool: Pool) -> tuple[int, int]:
    """Height and width of a layer's features, for an image of ``size``.

    The one place that knows how features round: the pooling itself is asked. Most round an odd
    side down, ``layers.max_pool_ceil`` up, as Caffe does.

    >>> from stylejax import layers
    >>> feature_size((100, 75), "relu3_1", layers.max_pool)
    (25, 18)
    >>> feature_size((100, 75), "relu3_1", layers.max_pool_ceil)
    (25, 19)
    """
    height, width = size
    for _ in range(block_of(layer) - (not layer.startswith("pool"))):
        height, width = _pooled_size(pool, height, width)
    return height, width


@lru_cache(maxsize=2**12)
def _pooled_size(pool: Pool, height: int, width: int) -> tuple[int, int]:
    """Kept, since a plan asks thousands of times, half a millisecond each, for a hundred sizes."""
    pooled = jax.eval_shape(pool, jax.ShapeDtypeStruct((height, width, 1), jnp.float32))
    return pooled.shape[0], pooled.shape[1]


def minimum_size(layers: Iterable[str]) -> int:
    """The least height and width in pixels at which every layer has at least one position.

    With a pooling that rounds up there would be positions in smaller images too, all border.

    >>> minimum_size(["relu4_2", "relu5_1"])
    16
    """
    return max(map(stride, layers), default=1)


def stride(layer: str) -> int:
    """How many pixels lie between two neighbouring positions of a layer.

    >>> stride("relu4_2"), stride("pool4")
    (8, 16)
    """
    block = block_of(layer)
    return 2**block if layer.startswith("pool") else 2 ** (block - 1)


def narrow(precision: Precision) -> Any:
    """The dtype that features have where it is not the image's: bfloat16, if that is asked for."""
    return jnp.bfloat16 if precision == "bfloat16" else None


class Preprocessing(nn.Module):
    """The affine map from sRGB in [0, 1] to the colours a checkpoint was trained on."""

    dtype: Any = None  # of the result; None is the image's

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """``[h, w, 3]`` to ``[h, w, 3]``."""
        kernel = self.param("kernel", lambda _: jnp.array(CAFFE_KERNEL))
        bias = self.param("bias", lambda _: jnp.array(CAFFE_BIAS))
        mapped = jnp.matmul(image, kernel.astype(image.dtype), precision="highest")
        return (mapped + bias.astype(image.dtype)[None, None]).astype(self.dtype or image.dtype)


class Convolution(nn.Module):
    """A 3x3 convolution with bias; ``[h, w, in]`` to ``[h, w, width]``."""

    width: int
    operation: Callable[..., jax.Array] = convolve
    precision: Precision = "highest"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves in the dtype of ``x``."""
        shape = (3, 3, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.width,)).astype(x.dtype)
        evaluated = self.variables["params"].get("evaluated")
        if evaluated is not None and evaluated.dtype != x.dtype:
            evaluated = None
        out = self.operation(x, kernel, self.precision, evaluated=evaluated)
        return out + bias[None, None]


def convolution(padding: Padding, *, first: bool) -> Callable[..., jax.Array]:
    """What a padding makes of a convolution, the network's first or another."""
    if padding == "circular":
        return convolve_circular
    replicates = padding == "replicate-all" or (padding == "replicate" and first)
    return convolve_replicating if replicates else convolve


class Tap(nn.Module):
    """The linear map from a distilled network's features to the larger network's."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[h, w, in]`` to ``[h, w, width]``, with full float32 products."""
        kernel = self.param("kernel", nn.initializers.he_normal(), (x.shape[-1], self.width))
        return jnp.matmul(x, kernel.astype(x.dtype), precision="highest")


class VGG(nn.Module):
    """The convolutional part of a VGG; ends at the deepest layer asked for."""

    architecture: Architecture = VGG19
    pool: Pool = average_pool
    padding: Padding = "zero"
    precision: Precision = "highest"

    @nn.compact
    def __call__(self, image: jax.Array, layers: Sequence[str]) -> dict[str, jax.Array]:
        """``[H, W, 3]`` image in [0, 1] to ``{layer: [h, w, c]}``."""
        wanted = set(layers)
        features: dict[str, jax.Array] = {}
        x = Preprocessing(narrow(self.precision), name="input")(image)
        for block, depth, width in _blocks(self.architecture):
            for index in range(1, depth + 1):
                place = f"{block}_{index}"
                operation = self._convolution(first=place == "1_1")
                x = Convolution(width, operation, self.precision, name=f"conv{place}")(x)
                features[f"conv{place}"] = x
                x = features[f"relu{place}"] = rectify(x)
                if wanted <= features.keys():
                    return self._leaving(features, layers)
            x = features[f"pool{block}"] = self.pool(x)
            if wanted <= features.keys():
                break
        return self._leaving(features, layers)

    def _convolution(self, *, first: bool) -> Callable[..., jax.Array]:
        return convolution(self.padding, first=first)

    def _leaving(
        self, features: Mapping[str, jax.Array], layers: Sequence[str]
    ) -> dict[str, jax.Array]:
        """The layers asked for, through their taps where there are any."""
        widths = dict(self.architecture.taps)
        return {
            layer: Tap(widths[layer], name=layer)(features[layer])
            if layer in widths
            else features[layer]
            for layer in layers
        }


def features(
    params: Params,
    image: jax.Array,
    layers: Sequence[str],
    *,
    pool: Pool = average_pool,
    padding: Padding = "zero",
    precision: Precision = "highest",
) -> dict[str, jax.Array]:
    """The activations of an image, in one pass that stops at the deepest layer.

    Args:
      params: the network's arrays; the architecture is read off them.
      image: ``[H, W, 3]`` float, sRGB in [0, 1]; its dtype is the dtype of the computation, unless
        ``precision`` is ``"bfloat16"``.
      layers: names such as ``"relu4_2"``.
      pool: ``layers.average_pool`` (the paper: "improves the gradient flow"), ``layers.max_pool``
        (the usual), ``layers.max_pool_ceil`` (how the network was trained), or another of
        ``layers``.
      padding: ``"zero"`` puts a dark frame around every layer, as in training; ``"replicate"``
        repeats the border at the first convolution, ``"replicate-all"`` at every one, so that the
        network sees no frame at all; ``"circular"`` takes the image for one tile of an endless
        pattern. Its period is then the image's where ``minimum_size(layers)`` divides height and
        width; elsewhere pooling leaves a row or column out.
      precision: of the convolutions, see ``layers.convolve``; ``"bfloat16"`` is of the features
        too, which takes a GPU little more than half of the time that TF32 takes.

    Returns:
      ``{layer: [h, w, c]}``; block ``b`` is ``2 ** (b - 1)`` times smaller than the image, see
      ``feature_size``. Without layers an empty dict, and nothing is computed.

    Raises:
      ValueError: unknown layer, or params that are no VGG.
    """
    architecture = architecture_of(params)
    check_layers(layers, architecture)
    if not layers:
        return {}
    network = VGG(architecture, pool, padding, precision)
    return network.apply({"params": params}, image, tuple(layers))


@partial(jax.jit, static_argnames="architecture")
def random_params(key: jax.Array, architecture: Architecture = VGG19) -> dict[str, Any]:
    """An untrained network: He-normal kernels, zero biases, the original preprocessing.

    Args:
      key: a ``jax.random`` key.
      architecture: its shape.
    """
    shapes = parameter_shapes(architecture)
    sizes = [math.prod(of["kernel"]) for of in shapes.values()]
    # All at once: a draw for each layer would take as many times as long to compile.
    drawn = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1].tolist())
    params: dict[str, Any] = {}
    for (layer, of), flat in zip(shapes.items(), drawn, strict=True):
        params[layer] = {name: jnp.zeros(shape) for name, shape in of.items()}
        *fans, _ = of["kernel"]
        params[layer]["kernel"] = (2 / math.prod(fans)) ** 0.5 * flat.reshape(of["kernel"])
    params["input"] = {"kernel": jnp.array(CAFFE_KERNEL), "bias": jnp.array(CAFFE_BIAS)}
    return params


def evaluate_kernels(params: Params) -> Params:
    """The same network with what ``winograd`` makes of its kernels, where that pays on CPU.

    Four times the size of the kernels, and worth computing once instead of at every evaluation;
    ``features`` of such ``params`` are the same but for rounding.
    """
    wide = {
        layer: arrays["kernel"]
        for layer, arrays in params.items()
        if layer.startswith("conv") and winograd.wide(*arrays["kernel"].shape[2:])
    }
    evaluated = _evaluated(wide)
    return {
        layer: {**arrays, "evaluated": evaluated[layer]} if layer in wide else arrays
        for layer, arrays in params.items()
    }


@jax.jit
def _evaluated(kernels: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """In one program: one after the other they would be some dozen to compile."""
    return jax.tree.map(winograd.evaluate_kernel, kernels)


def up_to(params: Params, layers: Iterable[str]) -> Params:
    """The same network without the convolutions behind the deepest of ``layers``.

    They would only take memory: a quarter of VGG-19's, with what ``evaluate_kernels`` makes of it,
    where the deepest layer is relu5_1. A network with taps comes back as it is.

    Raises:
      ValueError: unknown layer, or params that are no VGG.
    """
    layers = tuple(layers)
    architecture = architecture_of(params)
    check_layers(layers, architecture)
    if architecture.taps:
        return params
    order = layer_names(architecture)
    deepest = max(map(order.index, layers))
    unused = {name for name in order[deepest + 1 :] if name.startswith("conv")}
    return {name: arrays for name, arrays in params.items() if name not in unused}


def scale_features(params: Params, factor: float) -> Params:
    """The same network with every feature at every layer times ``factor``, which is positive.

    The input and all biases are multiplied; ReLUs and poolings let a factor through. It brings one
    checkpoint's activations to the unit of another's: those of torchvision's VGG-19 are about 58
    times smaller than the original's, as their inputs are.
    """
    scaled = {}
    for layer, arrays in params.items():
        moved = ("kernel", "bias") if layer == "input" else ("bias",)
        scaled[layer] = {
            name: array * factor if name in moved else array for name, array in arrays.items()
        }
    return scaled


def fold_taps(params: Params) -> Params:
    """The same distilled network with taps no wider than its own features.

    A tap ``P`` [c, C] makes Gram matrices ``P^T G P``, and the squared distance between two of them
    depends on ``P`` only through ``P P^T``. So does the squared distance between two features. Any
    ``K`` [c, c] with ``K K^T = P P^T`` therefore gives the same relative losses for less work; this
    takes the triangular factor of ``P^T``. Losses that divide by the number of channels see fewer
    of them. A network without taps comes back as it is.
    """
    folded = dict(params)
    for layer, _ in architecture_of(params).taps:
        kernel = params[layer]["kernel"]
        # NumPy's own where it may be: JAX's is compiled anew in every process, a fifth of a second
        # a layer.
        qr: Any = np.linalg.qr if isinstance(kernel, np.ndarray) else jnp.linalg.qr
        if kernel.shape[0] < kernel.shape[1]:
            folded[layer] = {"kernel": qr(kernel.T, mode="r").T}
    return folded
