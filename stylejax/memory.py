"""How much memory an evaluation takes, by arithmetic from the network's table; nothing is compiled.

On a TPU the channels of an array fill lanes, 128 of them, and what is left of the last 128 is
padded: the 64 channels of VGG's first block take twice their size, a picture's three forty times.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from stylejax import vgg
from stylejax.layers import LINEAR, average_pool, keeps_signs

TPU_LANES = 128


class Stage(NamedTuple):
    """The features of one layer: its name, and their height, width and channels."""

    layer: str
    height: int
    width: int
    channels: int

    def numbers(self, lanes: int) -> int:
        """How many numbers there is room for, with the channels padded to ``lanes``."""
        return self.height * self.width * (-(-self.channels // lanes) * lanes)


def stages(
    size: Sequence[int],
    layers: Sequence[str],
    architecture: vgg.Architecture = vgg.VGG19,
    *,
    pool: vgg.Pool = average_pool,
) -> Iterator[Stage]:
    """Every convolution's output (``relu1_1`` stands for ``conv1_1`` too) and every pooling's.

    In network order, from the picture itself, ``input``, to the deepest of ``layers``.

    Args:
      size: height and width of the picture.
      layers: that features are asked of.
      architecture: the network's table.
      pool: which says how sizes are rounded.

    Raises:
      ValueError: an unknown layer.
    """
    vgg.check_layers(layers, architecture)
    order = vgg.layer_names(architecture._replace(taps=()))
    deepest = max(map(order.index, layers))
    yield Stage("input", size[0], size[1], 3)
    for name in order[: deepest + 2]:
        # A convolution and its ReLU are one stage: asked for the first, both are there.
        if name.startswith("conv") or (name.startswith("pool") and order.index(name) > deepest):
            continue
        channels = architecture.widths[vgg.block_of(name) - 1]
        yield Stage(name, *vgg.feature_size(size, name, pool), channels)


def activation_bytes(
    size: Sequence[int],
    layers: Sequence[str],
    architecture: vgg.Architecture = vgg.VGG19,
    *,
    lanes: int = 1,
    pool: vgg.Pool = average_pool,
    signs: int | None = None,
    width: int = 4,
) -> int:
    """What the activations of one evaluation with its gradient take at the most, in bytes.

    That is what the way back needs, every ReLU's input or its sign, the features that terms compare
    and, but for average pooling, what went into each pooling; and beside it the cotangents of the
    convolution at which two of them are largest. Weights, targets, a convolution's own workspace
    and the optimizer's memory come on top.

    Args:
      size: height and width of the picture.
      layers: where terms look, ``Config.layers``; with the first of them the network ends.
      architecture: the network's table, ``vgg.architecture_of(params)``.
      lanes: what channels are padded to: 1 on CPU and GPU, ``TPU_LANES`` on a TPU.
      pool: as in ``Config``.
      signs: bytes that are kept of a ReLU's input, where it is for the compiler to choose: 1 for
        its sign, 4 for the number; None is what CPUs keep. Of large layers it is a bit, see
        ``layers.keeps_signs``.
      width: bytes of a feature, 2 of bfloat16's.

    Raises:
      ValueError: an unknown layer, or none.

    >>> round(activation_bytes((1024, 1024), ("relu1_1", "relu5_1")) / 2**20)  # megabytes
    1192
    """
    if not layers:
        raise ValueError("layers is empty; without a term at a layer there are no activations")
    compared, widths = set(layers), dict(architecture.taps)
    through = list(stages(size, layers, architecture, pool=pool))
    kept = working = 0
    for before, stage in pairwise(through):
        pooled = stage.layer.startswith("pool")
        if pooled and pool not in LINEAR:
            kept += width * before.numbers(lanes)
        if not pooled:
            count = stage.numbers(lanes)
            packed = keeps_signs(stage.numbers(1))
            kept += count // 8 if packed else count * (signs or width)
        for layer in {stage.layer, stage.layer.replace("relu", "conv")} & compared:
            seen = stage._replace(channels=widths.get(layer, stage.channels))
            kept += width * seen.numbers(lanes)
        working = max(working, width * (before.numbers(lanes) + stage.numbers(lanes)))
    return kept + working


def megabytes(count: float) -> int:
    """Bytes as whole megabytes (2^20), rounded up."""
    return math.ceil(count / 2**20)
