"""Named ways to make a picture, each with its source and the reason of each choice.

docs/presets.md has a row for each program and term: its formula, its default, and the value here.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np

from stylejax import layers, losses, normalisation, statistics, vgg
from stylejax.canvas import PIXELS, Blank, levels
from stylejax.config import STYLE_LAYERS, Config
from stylejax.objective import DEFAULT_WEIGHTS, LossWeights
from stylejax.optimizers import Adam, GradientDescent, Lbfgs


class Preset(NamedTuple):
    """A config, its loss weights, and the kind of network it is meant for.

    Attributes:
      config: everything static.
      loss_weights: the coefficients in the preset's own units.
      normalised: whether it wants a network whose filters' mean activations are one.
      summary: one line for ``--help``.
      network: ``vgg19`` or ``vgg19-torchvision``, whichever it was made for; None for any.
      white: how far white is from black where the network sees it, in its own unit: 255, 256 or
        torchvision's 4.42; None where no loss has a unit.
    """

    config: Config
    loss_weights: LossWeights
    normalised: bool
    summary: str
    network: str | None = None
    white: float | None = None


DEFAULT = Preset(
    config=Config(),
    loss_weights=DEFAULT_WEIGHTS,
    normalised=False,
    summary="tuned for how the result looks, by eye, from 256 to 1024 pixels",
)


def distilled_variation(side: int) -> float:
    """What the command takes for DEFAULT's 0.5 with a distilled network.

    Its Gram matrices tell less of grain, the less the larger the picture: with 0.5 it leaves a
    seventh more than VGG-19 at 256 pixels and a quarter to a third more at 512. More than is needed
    costs some of what it reaches (docs/decisions.md).

    Args:
      side: the picture's longer one, in pixels.

    >>> [distilled_variation(side) for side in (64, 256, 512, 1024)]
    [0.5, 1.0, 2.0, 2.0]
    """
    return min(max(side / 256, float(DEFAULT.loss_weights.tv)), 2.0)


# "A Neural Algorithm of Artistic Style", 2015: white noise, average pooling, content from
# "conv4_2" (relu4_2 here), style from relu1_1 to relu5_1 with w_l = 1/5, on a network normalised
# as in normalisation.py. alpha/beta is the largest of figure 3's columns, 1e-2: with the content
# loss per feature (docs/decisions.md says why) figure 2's 1e-3 leaves hardly a trace of the photo.
GATYS2015 = Preset(
    config=Config(
        content_loss=losses.content_loss_per_element,
        style_statistic=statistics.GRAM,
        pool=layers.average_pool,
        padding="zero",
        steps=500,
        scales=1,
        noise=1.0,
        canvas=PIXELS,
    ),
    loss_weights=LossWeights(content=1e-2, style=1.0, tv=0.0),
    normalised=True,
    summary="the paper: white noise, one scale, eq. 7 with alpha/beta = 1e-2",
    network="vgg19",
)


def _each(weight: float, names: tuple[str, ...]) -> dict[str, float]:
    return dict.fromkeys(names, weight)


# L. Gatys' own notebook, github.com/leongatys/PytorchNeuralStyleTransfer at be6c8e2: its first
# stage. Layer l has 1e3 / N_l^2 for the mean square of Gram matrices over positions, which is 1e3
# for that of Gram matrices over positions and channels.
GATYS_NOTEBOOK = Preset(
    config=Config(
        content_loss=losses.content_loss_mean_square,
        style_statistic=statistics.MEAN_GRAM,
        pool=layers.max_pool,
        padding="zero",
        optimizer=Lbfgs(memory=100, line_search=False),
        canvas=levels(255.0),
        steps=500,
        scales=1,
    ),
    loss_weights=LossWeights(content=1.0, style=1e3, style_layers=_each(1.0, STYLE_LAYERS)),
    normalised=False,
    summary="L. Gatys' PyTorch notebook",
    network="vgg19",
    white=255.0,
)

MEAN_COLOUR = (123.68, 116.779, 103.939)  # of the original network's training set


def _neural_style_variation(image: jax.Array) -> jax.Array:
    """neural-style's pixels lie in [0, 256]."""
    return losses.cropped_variation(256.0 * image)


def _neural_style_pt_variation(image: jax.Array) -> jax.Array:
    return losses.absolute_variation(255.0 * image)


def _keras_variation(image: jax.Array) -> jax.Array:
    return losses.power_variation(255.0 * image)


# J. Johnson's neural_style.lua, github.com/jcjohnson/neural-style at 07c4b82. Weights mean what
# its options mean: content_weight, style_weight (of every style layer) and tv_weight.
NEURAL_STYLE = Preset(
    config=Config(
        content_loss=losses.content_loss_mean_square,
        style_statistic=statistics.MEAN_GRAM,
        total_variation=_neural_style_variation,
        pool=layers.max_pool_ceil,
        padding="zero",
        optimizer=Lbfgs(memory=100, line_search=False),
        canvas=levels(256.0),
        steps=1000,
        scales=1,
        noise=1.0,
        blank=Blank(tuple(c / 256 for c in MEAN_COLOUR), 1e-3 / 256),  # type: ignore[arg-type]
    ),
    loss_weights=LossWeights(
        content=5.0, style=100.0, tv=1e-3, style_layers=_each(1.0, STYLE_LAYERS)
    ),
    normalised=False,
    summary="J. Johnson's Torch program, with its options' numbers",
    network="vgg19",
    white=256.0,
)

# ProGamerGov's port, github.com/ProGamerGov/neural-style-pt at 7251405: other pixels, another
# rounding of the pooling, another total variation.
NEURAL_STYLE_PT = Preset(
    config=replace(
        NEURAL_STYLE.config,
        total_variation=_neural_style_pt_variation,
        pool=layers.max_pool,
        canvas=levels(255.0),
        blank=Blank(tuple(c / 255 for c in MEAN_COLOUR), 1e-3 / 255),  # type: ignore[arg-type]
    ),
    loss_weights=NEURAL_STYLE.loss_weights,
    normalised=False,
    summary="its port to PyTorch, likewise",
    network="vgg19",
    white=255.0,
)

# What torchvision's preprocessing makes of white less black: the mean of 1 / std.
TORCHVISION_WHITE = (1 / 0.229 + 1 / 0.224 + 1 / 0.225) / 3

# K. Crowson's github.com/crowsonkb/style-transfer-pytorch at e7e2c71.
CROWSONKB = Preset(
    config=Config(
        content_loss=losses.content_loss_mean_square,
        style_statistic=statistics.MEAN_WASSERSTEIN,
        total_variation=losses.nine_point_variation,
        pool=layers.max_pool,
        padding="replicate",
        optimizer=Adam(learning_rate=0.02, b1=0.9, b2=0.99, eps=1e-8, average=0.99, clamp=True),
        carry=True,
        steps=500,
        first_steps=1000,
        smallest=128,
    ),
    loss_weights=LossWeights(
        content=0.015,
        style=1.0,
        tv=2.0,
        style_layers={
            layer: weight / 341
            for layer, weight in zip(STYLE_LAYERS, (256, 64, 16, 4, 1), strict=True)
        },
    ),
    normalised=False,
    summary="K. Crowson's style-transfer-pytorch",
    network="vgg19-torchvision",
    white=TORCHVISION_WHITE,
)


def keras_weights(widths: Mapping[str, int]) -> dict[str, float]:
    """Keras' ``1 / (4 * 9 * size^2) sum (G - A)^2 / 5`` as weights of eq. 4.

    Its 9 is the number of colours squared, its ``size`` the picture's number of pixels at every
    layer, 16 to the power of ``b - 1`` times that of positions squared in block ``b``.

    Args:
      widths: channels of each style layer.
    """
    return {
        layer: width**2 / (9 * 16 ** (vgg.block_of(layer) - 1)) / len(widths)
        for layer, width in widths.items()
    }


# F. Chollet's keras.io/examples/generative/neural_style_transfer at 0896b2e.
KERAS_EXAMPLE = Preset(
    config=Config(
        content_layers=("relu5_2",),
        content_loss=losses.content_loss_sum_of_squares,
        style_statistic=statistics.GRAM,
        total_variation=_keras_variation,
        pool=layers.max_pool,
        padding="zero",
        optimizer=GradientDescent(
            learning_rate=100.0,
            decay=0.96,
            decay_steps=100,
            full_from=3 * 120_000,  # with 28 000 pixels the program's step ends in infinity
        ),
        canvas=levels(255.0),
        steps=4000,
        scales=1,
    ),
    loss_weights=LossWeights(
        content=2.5e-8,
        style=1e-6,
        tv=1e-6,
        style_layers=keras_weights(dict(zip(STYLE_LAYERS, vgg.VGG19.widths, strict=True))),
    ),
    normalised=False,
    summary="the example of Keras",
    network="vgg19",
    white=255.0,
)

PRESETS = {
    "default": DEFAULT,
    "gatys2015": GATYS2015,
    "gatys-notebook": GATYS_NOTEBOOK,
    "neural-style": NEURAL_STYLE,
    "neural-style-pt": NEURAL_STYLE_PT,
    "crowsonkb": CROWSONKB,
    "keras-example": KERAS_EXAMPLE,
}


def per_channel(
    loss_weights: LossWeights, config: Config, architecture: vgg.Architecture
) -> LossWeights:
    """neural-style-pt's ``-normalize_weights``: each layer's weight over its number of channels.

    (Its own divides a content weight by the height or width instead where that is larger.)

    Args:
      loss_weights: the coefficients.
      config: whose layers they are for.
      architecture: of the network.
    """
    reach = dict(architecture.taps)

    def divided(given: Mapping[str, float | jax.Array] | None, names: tuple[str, ...]) -> dict:
        shares = {name: 1 / len(names) for name in names} if given is None else given
        widths = {n: reach.get(n, architecture.widths[vgg.block_of(n) - 1]) for n in names}
        return {name: shares[name] / widths[name] for name in names}

    return loss_weights._replace(
        content_layers=divided(loss_weights.content_layers, config.content_layers),
        style_layers=divided(loss_weights.style_layers, config.style_layers),
    )


def prepare(preset: Preset, params: vgg.Params, *, normalised: bool = False) -> vgg.Params:
    """The network as a preset wants it; once, before ``stylize``.

    Args:
      preset: says whether the network shall be normalised, and what unit its weights have.
      params: the network.
      normalised: it is normalised already.

    Raises:
      ValueError: it shall be, and it is not the original VGG-19, whose mean activations are known.
    """
    if preset.normalised and not normalised:
        return normalisation.normalise(params, normalisation.vgg19_means(params))
    if preset.white is not None:
        return _in_unit(params, preset.white)
    if folds(preset):
        return vgg.fold_taps(params)  # the same losses for less work
    return params


def folds(preset: Preset) -> bool:
    """Whether a distilled network gives the preset's losses with folded taps, for less work."""
    relative = preset.config.content_loss == losses.content_loss_relative
    return relative and all(s.isometric for s in preset.config.statistics.values())


def _in_unit(params: vgg.Params, white: float) -> vgg.Params:
    """The network with white so far from black.

    256 for 255 is a habit of a program: pixels are stretched, and features are not quite the same.
    Another order of magnitude is another checkpoint's unit: all features are scaled as a whole. A
    network with taps has its own unit inside and leaves in that of the original, which it was
    distilled from.
    """
    kernel = np.asarray(params["input"]["kernel"])
    own = float(np.mean(np.sum(np.abs(kernel), axis=0)))
    factor = white / (255.0 if vgg.architecture_of(params).taps else own)
    if abs(factor - 1) < 1e-4:
        return params
    if 0.5 < factor < 2:
        return {**params, "input": {**params["input"], "kernel": kernel * factor}}
    return vgg.scale_features(params, factor)
