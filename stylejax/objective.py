"""The objective: what the picture is pulled towards, and how far it still is.

``total = content * sum_l c_l L_content,l + style * sum_l w_l E_l + tv * TV + dream * mean_l D_l``
(eq. 7 with alpha = ``content``, beta = ``style``, eq. 5's ``w_l`` = ``style_layers``), and
``+ photorealism * matting`` where ``Config.photorealism`` asks for it. With regions ``E_l`` is the
sum of theirs.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from stylejax import halo, losses, matting, strips, vgg
from stylejax.coefficients import DEFAULT_WEIGHTS, LossWeights, Number, layer_weights
from stylejax.config import Config
from stylejax.guides import Carried, weigh
from stylejax.statistics import Statistic
from stylejax.targets import (
    Targets,
    cut_of,
    extents_of,
    features_number,
    look_through,
    make_targets,
    network_features,
    rows_of,
    summarised,
)

__all__ = [
    "DEFAULT_WEIGHTS",
    "LossTerms",
    "LossWeights",
    "Targets",
    "evaluate",
    "make_targets",
]


class LossTerms(NamedTuple):
    """The weighted terms of the objective, scalars that add up to the total.

    Attributes:
      total: what is minimised.
      content: by content layer, ``content * c_l * L_content,l``.
      style: by style layer, ``style * w_l * E_l``.
      tv: ``tv * TV``.
      dream: by dream layer, ``dream * D_l`` over their number.
      photorealism: ``photorealism`` times the matting loss; 0 where it is not asked for.
    """

    total: jax.Array
    content: dict[str, jax.Array]
    style: dict[str, jax.Array]
    tv: jax.Array
    dream: dict[str, jax.Array]
    photorealism: jax.Array


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
    cut = cut_of(params, image.shape, config)
    see = _whole if cut is None else partial(_in_strips, cut)
    seen = see(image, params, targets, loss_weights.regions, config)
    content_weights = layer_weights(loss_weights.content_layers, config.content_layers)
    style_weights = layer_weights(loss_weights.style_layers, config.style_layers)
    content = {
        layer: loss_weights.content * content_weights[layer] * loss
        for layer, loss in seen.content.items()
    }
    style = {
        layer: loss_weights.style * style_weights[layer] * loss
        for layer, loss in seen.style.items()
    }
    dream_weight = 0.0 if loss_weights.dream is None else loss_weights.dream
    dream = {layer: dream_weight / len(seen.dream) * loss for layer, loss in seen.dream.items()}
    tv = loss_weights.tv * seen.variation
    if (rows := rows_of(image, config)) is not None:
        image = rows.crop(image)
    realism = jnp.zeros((), image.dtype)
    if targets.windows is not None and loss_weights.photorealism is not None:
        realism = loss_weights.photorealism * matting.matting_loss(image, targets.windows)
    total = sum(content.values()) + sum(style.values()) + tv + sum(dream.values()) + realism
    terms = LossTerms(total, content=content, style=style, tv=tv, dream=dream, photorealism=realism)
    return total, terms


class _Seen(NamedTuple):
    """What the objective's terms are made of: losses by layer, and the total variation."""

    content: dict[str, jax.Array]
    style: dict[str, jax.Array]
    dream: dict[str, jax.Array]
    variation: jax.Array


def _variation(config: Config) -> Callable[[jax.Array], jax.Array]:
    """The default form of total variation wraps around where the picture does."""
    if config.padding == "circular" and config.total_variation == losses.total_variation:
        return losses.circular_variation
    return config.total_variation


def _whole(
    image: jax.Array,
    params: vgg.Params,
    targets: Targets,
    strengths: Sequence[Number] | jax.Array | None,
    config: Config,
) -> _Seen:
    """From features of the whole picture."""
    features = network_features(params, image, config.layers, config)
    extents = extents_of(image, config)
    compare = losses.with_unit_gradient if config.normalise_gradients else losses.plainly
    masks = targets.guides and targets.guides.content
    content = {
        layer: compare(
            partial(_content_loss, config, masks, layer, extents[layer]), features[layer], target
        )
        for layer, target in targets.content.items()
    }
    style = {
        layer: compare(
            partial(_style_loss, config, targets.guides, layer, extents[layer], strengths),
            features[layer],
            target,
        )
        for layer, target in targets.style.items()
    }
    dream = {
        layer: compare(partial(halo.dream_loss, extent=extents[layer]), features[layer], target)
        for layer, target in targets.dream.items()
    }
    rows = rows_of(image, config)
    picture = image if rows is None else rows.crop(image)
    return _Seen(content, style, dream, _variation(config)(picture))


def _content_loss(
    config: Config,
    masks: Mapping[str, jax.Array] | None,
    layer: str,
    extent: halo.Extent | None,
    features: jax.Array,
    target: jax.Array,
) -> jax.Array:
    mask = halo.padded(masks[layer], features, extent) if masks else None
    features = losses.widened(features)
    loss = config.content_loss
    return halo.content_loss(loss, weigh(features, mask), weigh(target, mask), extent)


def _style_loss(
    config: Config,
    guides: Carried | None,
    layer: str,
    extent: halo.Extent | None,
    strengths: Sequence[Number] | jax.Array | None,
    features: jax.Array,
    targets: Sequence[Any],
) -> jax.Array:
    mask = guides and guides.style[layer]
    factors = None if mask is None else jnp.mean(mask, axis=(0, 1))
    summaries = summarised(layer, features, mask, config, extent=extent)
    return _style_distance(config.statistics[layer], summaries, targets, factors, strengths)


def _style_distance(
    statistic: Statistic,
    summaries: Sequence[Any],
    targets: Sequence[Any],
    factors: jax.Array | None,
    strengths: Sequence[Number] | jax.Array | None,
) -> jax.Array:
    """The sum over regions of the share of the picture that each covers times its distance."""
    pairs = zip(summaries, targets, strict=True)
    distances = [statistic.distance(summary, target) for summary, target in pairs]
    if factors is None:
        return distances[0]
    if strengths is not None:
        factors = factors * jnp.asarray(strengths, factors.dtype)
    return jnp.vdot(factors, jnp.stack(distances), precision="highest")


def _in_strips(
    cut: strips.Cut,
    image: jax.Array,
    params: vgg.Params,
    targets: Targets,
    strengths: Sequence[Number] | jax.Array | None,
    config: Config,
) -> _Seen:
    """The same from sums over strips, see ``strips``."""
    guides, variation = targets.guides, _variation(config)

    def look(layer: str, f: jax.Array, counted: jax.Array, given: Any) -> tuple[_Sums, tuple[()]]:
        photo, mask, regions = given
        sums = _Sums()
        if layer == "input":
            down, right = losses.squared_differences(f)
            down = (counted[1:] * counted[:-1])[:, :, None] * down
            # The first row is the strip before's; right of what does not count there is no change.
            return sums._replace(differences=jnp.sum(down) + jnp.sum(right[1:])), ()
        if layer in config.content_layers:
            weight = (counted if mask is None else mask)[:, :, None]
            sums = sums._replace(
                error=jnp.sum(weight * jnp.square(f - photo)),
                energy=jnp.sum(weight * jnp.square(photo)),
            )
        if layer in config.style_layers:
            weight = counted[:, :, None] if regions is None else regions
            sums = sums._replace(style=summarised(layer, f, weight, config))
        if layer in config.dream_layers:
            squares = jnp.square(losses.widened(f))
            sums = sums._replace(squares=jnp.sum(counted[:, :, None] * squares))
        return sums, ()

    masks = (guides and guides.content) or {}
    regions = guides.style if guides else {}
    given = {
        layer: (targets.content.get(layer), masks.get(layer), regions.get(layer))
        for layer in config.layers
    }
    # As a whole its differences are two pictures; over devices, a part of them on each.
    rows = rows_of(image, config)
    by_strips = variation == losses.total_variation and rows is None
    if by_strips:
        given["input"] = (None, None, None)
    seen = look_through(params, image, cut, look, given, config)
    sums = {layer: own for layer, (own, _) in seen.items()}
    number = {layer: features_number(params, layer, cut) for layer in config.layers}
    content_loss = cast(losses.ContentLoss, config.content_loss)  # Config has seen to it
    content = {
        layer: content_loss.distance(sums[layer].error, sums[layer].energy, number[layer])
        for layer in config.content_layers
    }
    style = {}
    for layer, target in targets.style.items():
        stage, factors = cut.stages[layer], None
        if layer in regions:
            factors = jnp.sum(regions[layer], axis=(0, 1, 2)) / (stage.counted * stage.size[1])
        statistic = config.statistics[layer]
        style[layer] = _style_distance(statistic, sums[layer].style, target, factors, strengths)
    dream = {
        layer: losses.dream_distance(sums[layer].squares / number[layer], target)
        for layer, target in targets.dream.items()
    }
    if by_strips:
        varied = sums["input"].differences / (image.shape[0] * image.shape[1])
    else:  # its differences are cheaper computed again than kept
        varied = jax.checkpoint(variation)(image if rows is None else rows.crop(image))
    return _Seen(content, style, dream, varied)


class _Sums(NamedTuple):
    """Over positions of one layer, or of the image, what losses are made of."""

    error: Any = ()
    energy: Any = ()
    style: tuple[Any, ...] = ()
    squares: Any = ()
    differences: Any = ()
