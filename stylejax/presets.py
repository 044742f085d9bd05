"""Named ways to make a picture, each with its source and the reason of each choice."""

from collections.abc import Callable
from typing import NamedTuple

from stylejax import layers, losses, normalisation, vgg
from stylejax.config import Config
from stylejax.objective import DEFAULT_WEIGHTS, LossWeights


def _unchanged(params: vgg.Params) -> vgg.Params:
    return params


def _normalised(params: vgg.Params) -> vgg.Params:
    return normalisation.normalise(params, normalisation.vgg19_means())


class Preset(NamedTuple):
    """A config, its loss weights, and what it does to a network before it is used.

    Attributes:
      config: everything static.
      loss_weights: the coefficients in the preset's own units.
      prepare: ``params -> params``, once, before ``stylize``.
      summary: one line for ``--help``.
    """

    config: Config
    loss_weights: LossWeights
    prepare: Callable[[vgg.Params], vgg.Params]
    summary: str


DEFAULT = Preset(
    config=Config(),
    loss_weights=DEFAULT_WEIGHTS,
    prepare=_unchanged,
    summary="tuned for how the result looks, by eye, from 256 to 512 pixels",
)

# "A Neural Algorithm of Artistic Style", 2015: white noise, average pooling, content from
# "conv4_2" (relu4_2 here), style from relu1_1 to relu5_1 with w_l = 1/5, on a network normalised
# as in normalisation.py. alpha/beta is the largest of figure 3's columns, 1e-2: with the content
# loss per feature (docs/decisions.md says why) figure 2's 1e-3 leaves hardly a trace of the photo.
GATYS2015 = Preset(
    config=Config(
        content_loss=losses.content_loss_per_element,
        style_statistic=losses.GRAM,
        pool=layers.average_pool,
        padding="zero",
        steps=500,
        scales=1,
        noise=1.0,
    ),
    loss_weights=LossWeights(content=1e-2, style=1.0, tv=0.0),
    prepare=_normalised,
    summary="the paper: white noise, one scale, eq. 7 with alpha/beta = 1e-2",
)

PRESETS = {"default": DEFAULT, "gatys2015": GATYS2015}
