"""The objective: what the picture is pulled towards, and how far it still is.

``total = content * sum_l c_l L_content,l + style * sum_l w_l E_l + tv * TV + dream * mean_l D_l``
(eq. 7 with alpha = ``content``, beta = ``style``, eq. 5's ``w_l`` = ``style_layers``), and
``+ photorealism * matting`` where ``Config.photorealism`` asks for it. With regions ``E_l`` is the
sum of theirs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stylejax import halo, losses, matting, vgg
from stylejax.config import Config
from stylejax.devices import Rows
from stylejax.guides import Carried, Guides, carry, fitted, weigh
from stylejax.statistics import Statistic

Number = float | jax.Array
Shares = Sequence[Number] | Sequence[Sequence[Number]] | jax.Array


class LossWeights(NamedTuple):
    """The coefficients of the objective: traced numbers, changing one never recompiles.

    Attributes:
      content: the paper's alpha.
      style: the paper's beta.
      tv: of the total variation, which the paper does not have.
      content_layers: weight of each content layer by name; None gives each the same share of 1.
      style_layers: the paper's ``w_l`` by name; None gives each the same share of 1.
      styles: ``[S]``, how much of each of S paintings, shares of their sum; or ``[R, S]``, a row
        for each of R regions; or one of these for every style layer by name: large shapes of one
        painting, grain of another. None blends equally, but gives each region a painting of its
        own where there are as many of both.
      regions: ``[R]``, how strongly style pulls in each region; None is 1 for each.
      dream: of ``losses.dream_loss`` at the config's ``dream_layers``, which the paper does not
        have; None is 0.
      photorealism: of ``matting.matting_loss``; needs ``Config(photorealism=True)``; None
        is 0.
    """

    content: Number = 1.0
    style: Number = 1.0
    tv: Number = 0.0
    content_layers: Mapping[str, Number] | None = None
    style_layers: Mapping[str, Number] | None = None
    styles: Shares | Mapping[str, Shares] | None = None
    regions: Sequence[Number] | jax.Array | None = None
    dream: Number | None = None
    photorealism: Number | None = None


# The default preset's, for relative losses: with them the photo stays legible and the strokes are
# the painting's (looked at from style = 10, timid, to 100, where a tower dissolved).
DEFAULT_WEIGHTS = LossWeights(content=1.0, style=20.0, tv=0.5)


class Targets(NamedTuple):
    """What the picture is compared with.

    Attributes:
      content: the photo's features by content layer.
      style: by style layer a statistic's target for each region.
      dream: ``losses.activity`` of the photo by dream layer.
      guides: where each region is; None where there is one, the whole picture.
      windows: of the photo, where photorealism is asked for.
    """

    content: dict[str, jax.Array]
    style: dict[str, tuple[Any, ...]]
    dream: dict[str, jax.Array]
    guides: Carried | None = None
    windows: matting.Windows | None = None


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


def network_features(
    params: vgg.Params, image: jax.Array, layers: Sequence[str], config: Config
) -> dict[str, jax.Array]:
    """Features as ``config`` wants them computed; of padded rows where there is a mesh."""
    rows = _rows(image, config)
    if rows is not None:
        return halo.features(
            params,
            rows.pad(image),
            layers,
            rows=rows,
            pool=config.pool,
            padding=config.padding,
            precision=config.precision,
        )
    return vgg.features(
        params,
        image,
        layers,
        pool=config.pool,
        padding=config.padding,
        precision=config.precision,
    )


def _rows(image: jax.Array, config: Config) -> Rows | None:
    """How the rows of an image are spread, which may be the picture with rows below it."""
    rows = config.rows
    if rows is not None and image.shape[0] == rows.padded:
        return rows
    return config.spread(image.shape[0])


def _extents(image: jax.Array, config: Config) -> Mapping[str, halo.Extent | None]:
    return halo.extents(_rows(image, config), image.shape[1], config.layers, config.pool)


def style_shares(given: Any, layer: str, regions: int, styles: int, dtype: Any) -> jax.Array:
    """``LossWeights.styles`` at a layer: ``[regions, styles]``, every row adding up to one."""
    if isinstance(given, Mapping):
        given = given[layer]
    if given is None:
        given = jnp.eye(styles) if regions == styles else jnp.ones(styles)
    rows = jnp.broadcast_to(jnp.asarray(given, dtype), (regions, styles))
    return rows / jnp.sum(rows, axis=1, keepdims=True)


def make_targets(
    params: vgg.Params,
    content: jax.Array,
    styles: Sequence[jax.Array],
    loss_weights: LossWeights,
    config: Config,
    *,
    masks: Guides | None = None,
) -> Targets:
    """Content features and the blended style statistics.

    Args:
      params: the network.
      content: ``[H, W, 3]`` at the size of the picture.
      styles: ``[h, w, 3]`` each, of any sizes; one at least, where there are style layers.
      loss_weights: only ``styles`` is read.
      config: layers, statistics and network options.
      masks: where each region is, of any sizes; None is one region, everywhere.
    """
    if config.padding == "circular":  # the picture is a tile; photo and paintings are not
        config = replace(config, padding="replicate-all")
    config = replace(config, height=None)  # photo and paintings come without rows below them
    looked_at = dict.fromkeys(config.content_layers + config.dream_layers)
    seen = network_features(params, content, tuple(looked_at), config)
    painted = [network_features(params, style, config.style_layers, config) for style in styles]
    if masks is not None:
        masks = fitted(masks, content.shape, [style.shape for style in styles], content.dtype)
    regions = 1 if masks is None else masks.number
    spread = [_extents(style, config) for style in styles]
    style = {}
    for layer, statistic in config.statistics.items():
        shares = style_shares(loss_weights.styles, layer, regions, len(styles), content.dtype)
        features = [p[layer] for p in painted]
        shapes = [_shape(f, extents[layer]) for f, extents in zip(features, spread, strict=True)]
        style[layer] = tuple(
            statistic.blend(
                [
                    halo.summary(statistic, f, w, extents[layer])
                    for f, w, extents in zip(features, weights, spread, strict=True)
                ],
                shares[region],
            )
            for region, weights in enumerate(_style_weights(masks, layer, shapes))
        )
    extents = _extents(content, config)
    return Targets(
        content={layer: seen[layer] for layer in config.content_layers},
        style=style,
        dream={layer: halo.activity(seen[layer], extents[layer]) for layer in config.dream_layers},
        guides=_carried(masks, params, content, config),
        windows=matting.windows(content) if config.photorealism else None,
    )


def _shape(features: jax.Array, extent: halo.Extent | None) -> tuple[int, ...]:
    """Of the features that count."""
    return (extent.height, *features.shape[1:]) if extent else features.shape


def _style_weights(
    masks: Guides | None, layer: str, shapes: Sequence[tuple[int, ...]]
) -> Iterator[list[jax.Array | None]]:
    """For each region the paintings' masks at a layer, where features have these shapes."""
    if masks is None:
        yield [None] * len(shapes)
        return
    assert masks.styles is not None
    pairs = zip(masks.styles, shapes, strict=True)
    carried = [carry(jnp.asarray(m), layer, shape) for m, shape in pairs]
    for region in range(masks.number):
        yield [mask[:, :, region] for mask in carried]


def _carried(
    masks: Guides | None, params: vgg.Params, content: jax.Array, config: Config
) -> Carried | None:
    if masks is None:
        return None
    seen = partial(network_features, layers=config.layers, config=replace(config, mesh=None))
    shapes = {layer: f.shape for layer, f in jax.eval_shape(seen, params, content).items()}

    def at(mask: Any, layers: Sequence[str]) -> dict[str, jax.Array]:
        return {layer: carry(jnp.asarray(mask), layer, shapes[layer]) for layer in layers}

    return Carried(
        style=at(masks.regions, config.style_layers),
        content=None if masks.content is None else at(masks.content, config.content_layers),
    )


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
    extents = _extents(image, config)
    content_weights = _layer_weights(loss_weights.content_layers, config.content_layers)
    style_weights = _layer_weights(loss_weights.style_layers, config.style_layers)
    compare = losses.with_unit_gradient if config.normalise_gradients else losses.plainly
    content = {
        layer: loss_weights.content
        * content_weights[layer]
        * compare(
            partial(
                _content_loss,
                config,
                targets.guides and targets.guides.content,
                layer,
                extents[layer],
            ),
            features[layer],
            targets.content[layer],
        )
        for layer in config.content_layers
    }
    style = {
        layer: loss_weights.style
        * style_weights[layer]
        * compare(
            partial(
                _style_loss, statistic, targets.guides, layer, extents[layer], loss_weights.regions
            ),
            features[layer],
            targets.style[layer],
        )
        for layer, statistic in config.statistics.items()
    }
    dream = {
        layer: (0.0 if loss_weights.dream is None else loss_weights.dream)
        / len(config.dream_layers)
        * compare(
            partial(halo.dream_loss, extent=extents[layer]), features[layer], targets.dream[layer]
        )
        for layer in config.dream_layers
    }
    if (rows := _rows(image, config)) is not None:
        image = rows.crop(image)
    tv = loss_weights.tv * _variation(config)(image)
    realism = jnp.zeros((), image.dtype)
    if targets.windows is not None and loss_weights.photorealism is not None:
        realism = loss_weights.photorealism * matting.matting_loss(image, targets.windows)
    total = sum(content.values()) + sum(style.values()) + tv + sum(dream.values()) + realism
    terms = LossTerms(total, content=content, style=style, tv=tv, dream=dream, photorealism=realism)
    return total, terms


def _variation(config: Config) -> Callable[[jax.Array], jax.Array]:
    """The default form of total variation wraps around where the picture does."""
    if config.padding == "circular" and config.total_variation == losses.total_variation:
        return losses.circular_variation
    return config.total_variation


def _content_loss(
    config: Config,
    masks: Mapping[str, jax.Array] | None,
    layer: str,
    extent: halo.Extent | None,
    features: jax.Array,
    target: jax.Array,
) -> jax.Array:
    mask = halo.padded(masks[layer], features) if masks else None
    loss = config.content_loss
    return halo.content_loss(loss, weigh(features, mask), weigh(target, mask), extent)


def _style_loss(
    statistic: Statistic,
    guides: Carried | None,
    layer: str,
    extent: halo.Extent | None,
    strengths: Sequence[Number] | jax.Array | None,
    features: jax.Array,
    targets: Sequence[Any],
) -> jax.Array:
    """The sum over regions of the share of the picture that each covers times its distance."""
    if guides is None:
        return statistic.distance(halo.summary(statistic, features, None, extent), targets[0])
    mask = guides.style[layer]
    factors = jnp.mean(mask, axis=(0, 1))
    if strengths is not None:
        factors = factors * jnp.asarray(strengths, features.dtype)
    terms = [
        factors[region]
        * statistic.distance(halo.summary(statistic, features, mask[:, :, region], extent), t)
        for region, t in enumerate(targets)
    ]
    return jnp.sum(jnp.stack(terms))
