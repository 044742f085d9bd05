"""Named ways to make a picture, each with its source and the reason of each choice."""

from typing import NamedTuple

from stylejax import layers, losses, normalisation, statistics, vgg
from stylejax.canvas import PIXELS
from stylejax.config import Config
from stylejax.objective import DEFAULT_WEIGHTS, LossWeights


class Preset(NamedTuple):
    """A config, its loss weights, and the kind of network it is meant for.

    Attributes:
      config: everything static.
      loss_weights: the coefficients in the preset's own units.
      normalised: whether it wants a network whose filters' mean activations are one.
      summary: one line for ``--help``.
    """

    config: Config
    loss_weights: LossWeights
    normalised: bool
    summary: str


DEFAULT = Preset(
    config=Config(),
    loss_weights=DEFAULT_WEIGHTS,
    normalised=False,
    summary="tuned for how the result looks, by eye, from 256 to 1024 pixels",
)

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
)

PRESETS = {"default": DEFAULT, "gatys2015": GATYS2015}


def prepare(preset: Preset, params: vgg.Params, *, normalised: bool = False) -> vgg.Params:
    """The network as a preset wants it; once, before ``stylize``.

    Args:
      preset: says whether the network shall be normalised.
      params: the network.
      normalised: it is normalised already.

    Raises:
      ValueError: it shall be, and it is not the original VGG-19, whose mean activations are known.
    """
    if preset.normalised and not normalised:
        return normalisation.normalise(params, normalisation.vgg19_means(params))
    return vgg.fold_taps(params) if folds(preset) else params


def folds(preset: Preset) -> bool:
    """Whether a distilled network gives the preset's losses with folded taps, for less work."""
    relative = preset.config.content_loss == losses.content_loss_relative
    return relative and all(s.isometric for s in preset.config.statistics.values())
