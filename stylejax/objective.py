"""The objective: what the picture is pulled towards, and how far it still is.

``total = content * sum_l c_l L_content,l + style * sum_l w_l E_l + tv * TV`` (eq. 7 with alpha =
``content``, beta = ``style``, eq. 5's ``w_l`` = ``style_layers``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stylejax import losses, vgg
from stylejax.config import Config

Number = float | jax.Array


class LossWeights(NamedTuple):
    """The coefficients of the objective: traced numbers, changing one never recompiles.

    Attributes:
      content: the paper's alpha.
      style: the paper's beta.
      tv: of the total variation, which the paper does not have.
      content_layers: weight of each content layer by name; None gives each the same share of 1.
      style_layers: the paper's ``w_l`` by name; None gives each the same share of 1.
      styles: ``[number of styles]``, how much of each painting; shares of their sum; None blends
        equally.
    """

    content: Number = 1.0
    style: Number = 1.0
    tv: Number = 0.0
    content_layers: Mapping[str, Number] | None = None
    style_layers: Mapping[str, Number] | None = None
    styles: Sequence[Number] | jax.Array | None = None


# The default preset's, for relative losses: with them the photo stays legible and the strokes are
# the painting's (looked at from style = 10, timid, to 100, where a tower dissolved).
DEFAULT_WEIGHTS = LossWeights(content=1.0, style=20.0, tv=0.5)


class Targets(NamedTuple):
    """What the picture is compared with: features by content layer, a statistic by style layer."""

    content: dict[str, jax.Array]
    style: dict[str, Any]


class LossTerms(NamedTuple):
    """The weighted terms of the objective, scalars that add up to the total.

    Attributes:
      total: what is minimised.
      content: by content layer, ``content * c_l * L_content,l``.
      style: by style layer, ``style * w_l * E_l``.
      tv: ``tv * TV``.
    """

    total: jax.Array
    content: dict[str, jax.Array]
    style: dict[str, jax.Array]
    tv: jax.Array


def network_features(
    params: vgg.Params, image: jax.Array, layers: Sequence[str], config: Config
) -> dict[str, jax.Array]:
    """Features as ``config`` wants them computed."""
    return vgg.features(
        params,
        image,
        layers,
        pool=config.pool,
        padding=config.padding,
        precision=config.precision,
    )


def style_shares(styles: Any, count: int, dtype: Any) -> jax.Array:
    """Blend weights as shares that add up to one, ``[count]``."""
    given = jnp.ones(count, dtype) if styles is None else jnp.asarray(styles, dtype)
    return given / jnp.sum(given)


def make_targets(
    params: vgg.Params,
    content: jax.Array,
    styles: Sequence[jax.Array],
    loss_weights: LossWeights,
    config: Config,
) -> Targets:
    """Content features and the blended style statistics.

    Args:
      params: the network.
      content: ``[H, W, 3]`` at the size of the picture.
      styles: ``[h, w, 3]`` each, of any sizes; one at least, where there are style layers.
      loss_weights: only ``styles`` is read.
      config: layers, statistics and network options.
    """
    if config.padding == "circular":  # the picture is a tile; photo and paintings are not
        config = replace(config, padding="replicate-all")
    seen = network_features(params, content, config.content_layers, config)
    painted = [network_features(params, style, config.style_layers, config) for style in styles]
    shares = style_shares(loss_weights.styles, len(styles), content.dtype)
    blended = {
        layer: statistic.blend([statistic.accumulate(p[layer]) for p in painted], shares)
        for layer, statistic in config.statistics.items()
    }
    return Targets(content=seen, style=blended)


def _layer_weights(
    given: Mapping[str, Number] | None, names: tuple[str, ...]
) -> Mapping[str, Number]:
    return {name: 1 / len(names) for name in names} if given is None else given


def evaluate(
    image: jax.Array,
    params: vgg.Params,
    targets: Targets,
    loss_weights: LossWeights,
    config: Config,
) -> tuple[jax.Array, LossTerms]:
    """The objective at an image, in one pass of the network.

    Args:
      image: ``[H, W, 3]``.
      params: the network.
      targets: of ``make_targets``.
      loss_weights: the coefficients.
      config: layers, losses and network options.

    Returns:
      The total, scalar, and all its terms.
    """
    features = network_features(params, image, config.layers, config)
    content_weights = _layer_weights(loss_weights.content_layers, config.content_layers)
    style_weights = _layer_weights(loss_weights.style_layers, config.style_layers)
    content = {
        layer: loss_weights.content
        * content_weights[layer]
        * config.content_loss(features[layer], targets.content[layer])
        for layer in config.content_layers
    }
    style = {
        layer: loss_weights.style
        * style_weights[layer]
        * statistic.distance(statistic.accumulate(features[layer]), targets.style[layer])
        for layer, statistic in config.statistics.items()
    }
    circular = config.padding == "circular"
    variation = losses.circular_variation if circular else losses.total_variation
    tv = loss_weights.tv * variation(image)
    total = sum(content.values()) + sum(style.values()) + tv
    return total, LossTerms(total=total, content=content, style=style, tv=tv)
