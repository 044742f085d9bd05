"""What the picture is compared with: the photo's features, the paintings' statistics."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stylejax import halo, losses, matting, strips, vgg
from stylejax.coefficients import LossWeights, style_shares
from stylejax.config import Config
from stylejax.devices import Rows
from stylejax.guides import Carried, Guides, carry, fitted
from stylejax.statistics.statistic import on_tile


class Targets(NamedTuple):
    """What the picture is compared with.

    Attributes:
      content: the photo's features by content layer; where the picture is looked at in strips, as
        these bring them, ``strips.arrange``, like ``guides``.
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


def network_features(
    params: vgg.Params, image: jax.Array, layers: Sequence[str], config: Config
) -> dict[str, jax.Array]:
    """Features as ``config`` wants them computed; of padded rows where there is a mesh."""
    rows = rows_of(image, config)
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


def rows_of(image: jax.Array, config: Config) -> Rows | None:
    """How the rows of an image are spread, which may be the picture with rows below it."""
    rows = config.rows
    if rows is not None and image.shape[0] == rows.padded:
        return rows
    return config.spread(image.shape[0])


def extents_of(image: jax.Array, config: Config) -> Mapping[str, halo.Extent | None]:
    """By layer how many rows of features count; None each where nothing is spread."""
    return halo.extents(rows_of(image, config), image.shape[1], config.layers, config.pool)


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
    # The picture may be a tile; photo and paintings are not.
    plain = replace(config, padding="replicate-all") if config.padding == "circular" else config
    plain = replace(plain, height=None)  # nor do they come with rows below them
    if masks is not None:
        masks = fitted(masks, content.shape, [style.shape for style in styles], content.dtype)
    parts = [None] * len(styles) if masks is None else masks.styles or ()
    painted = [
        _summaries(params, style, part, plain) for style, part in zip(styles, parts, strict=True)
    ]
    regions = 1 if masks is None else masks.number
    style = {}
    for layer, statistic in config.statistics.items():
        shares = style_shares(loss_weights.styles, layer, regions, len(styles), content.dtype)
        style[layer] = tuple(
            statistic.blend([summary[layer][region] for summary in painted], shares[region])
            for region in range(regions)
        )
    seen, activity = _photo(params, content, plain)
    carried = _carried(masks, content.shape, config)
    if (cut := cut_of(params, content.shape, config)) is not None:
        rows = rows_of(content, config)
        seen = {layer: _arranged(x, layer, cut, rows) for layer, x in seen.items()}
        carried = jax.tree_util.tree_map_with_path(
            lambda path, x: _arranged(x, path[-1].key, cut, rows), carried
        )
    return Targets(
        content=seen,
        style=style,
        dream=activity,
        guides=carried,
        windows=matting.windows(content) if config.photorealism else None,
    )


def cut_of(params: vgg.Params, shape: Sequence[int], config: Config) -> strips.Cut | None:
    """How a picture ``[H, W, ...]`` is cut into strips; None where it is looked at as a whole."""
    spread, (height, width) = config.rows, shape[:2]
    if spread is not None and height == spread.padded:
        height = spread.height
    rows = config.strip_rows(height, width)
    if rows is None:
        return None
    return strips.cut(
        *(params, (height, width), config.layers, rows, _network(config)),
        nested=config.nested,
        each=None if config.mesh is None else config.own_rows(height),
    )


def _network(config: Config) -> strips.Network:
    """How the network sees a picture in strips."""
    return strips.Network(config.pool, config.padding, config.precision)


def look_through(
    params: vgg.Params,
    image: jax.Array,
    cut: strips.Cut,
    look: strips.Look,
    given: Mapping[str, Any],
    config: Config,
) -> dict[str, tuple[Any, Any]]:
    """``strips.fold`` of an image, over its devices where there is a mesh."""
    more: dict[str, Any] = {"network": _network(config), "recompute": config.recompute}
    if (rows := rows_of(image, config)) is not None:
        return halo.fold(params, rows.pad(image), cut, look, given, rows=rows, **more)
    return strips.fold(params, strips.lines(image, cut), cut, look, given, **more)


def _summaries(
    params: vgg.Params, style: jax.Array, mask: Any, config: Config
) -> dict[str, tuple[Any, ...]]:
    """By style layer a painting's statistic for each region of its mask ``[h, w, R]``."""
    sizes = {
        layer: vgg.feature_size(style.shape[:2], layer, config.pool)
        for layer in config.style_layers
    }
    masks = {
        layer: None if mask is None else carry(jnp.asarray(mask), layer, size)
        for layer, size in sizes.items()
    }
    if (cut := cut_of(params, style.shape, config)) is None:
        features = network_features(params, style, config.style_layers, config)
        extents = extents_of(style, config)
        return {
            layer: summarised(layer, f, masks[layer], config, extent=extents[layer])
            for layer, f in features.items()
        }

    def look(layer: str, f: jax.Array, counted: jax.Array, mask: Any) -> tuple[Any, Any]:
        weight = counted[:, :, None] if mask is None else mask
        return summarised(layer, f, weight, config), ()

    rows = rows_of(style, config)
    given = {
        layer: None if m is None else _arranged(m, layer, cut, rows) for layer, m in masks.items()
    }
    seen = look_through(params, style, cut, look, given, config)
    return {layer: sums for layer, (sums, _) in seen.items()}


def summarised(
    layer: str,
    features: jax.Array,
    mask: jax.Array | None,
    config: Config,
    *,
    extent: halo.Extent | None = None,
) -> tuple[Any, ...]:
    """The layer's statistic of features ``[h, w, c]`` for each region of a mask ``[h, w, R]``.

    ``extent`` says how the features are spread over devices, if they are.
    """
    statistic = config.statistics[layer]
    if config.padding == "circular":
        statistic = on_tile(statistic)
    accumulate = partial(halo.summary, statistic, extent=extent)
    quick = config.precision == "default"
    with jax.default_matmul_precision("tensorfloat32") if quick else nullcontext():
        if mask is None:
            return (accumulate(features, None),)
        return tuple(accumulate(features, mask[:, :, region]) for region in range(mask.shape[2]))


def _photo(
    params: vgg.Params, photo: jax.Array, config: Config
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The photo's features by content layer, and its activity by dream layer."""
    layers = tuple(dict.fromkeys(config.content_layers + config.dream_layers))
    if (cut := cut_of(params, photo.shape, config)) is None:
        features = network_features(params, photo, layers, config)
        extents = extents_of(photo, config)
        return (
            {layer: losses.widened(features[layer]) for layer in config.content_layers},
            {
                layer: halo.activity(features[layer], extents[layer])
                for layer in config.dream_layers
            },
        )

    def look(layer: str, f: jax.Array, counted: jax.Array, _: Any) -> tuple[Any, Any]:
        f = counted[:, :, None] * losses.widened(f)
        squares = jnp.sum(jnp.square(f))
        return squares, f if layer in config.content_layers else ()

    given = dict.fromkeys(layers)
    seen = look_through(params, photo, cut, look, given, config)
    rows = rows_of(photo, config)
    gather = strips.gather if rows is None else partial(halo.gathered, rows=rows)
    return (
        {layer: gather(seen[layer][1], cut.stages[layer]) for layer in config.content_layers},
        {
            layer: seen[layer][0] / features_number(params, layer, cut)
            for layer in config.dream_layers
        },
    )


def features_number(params: vgg.Params, layer: str, cut: strips.Cut) -> int:
    """How many features a layer has, ``N M``."""
    stage = cut.stages[layer]
    channels = dict(vgg.architecture_of(params).taps).get(layer, stage.channels)
    return stage.counted * stage.size[1] * channels


def _arranged(x: jax.Array, layer: str, cut: strips.Cut, rows: Rows | None) -> jax.Array:
    arrange = strips.arrange if rows is None else partial(halo.arranged, rows=rows)
    return arrange(x, cut.stages[layer], cut.number)


def _carried(masks: Guides | None, shape: Sequence[int], config: Config) -> Carried | None:
    """The picture's masks at its layers."""
    if masks is None:
        return None

    def at(mask: Any, layers: Sequence[str]) -> dict[str, jax.Array]:
        sizes = {layer: vgg.feature_size(shape[:2], layer, config.pool) for layer in layers}
        return {layer: carry(jnp.asarray(mask), layer, size) for layer, size in sizes.items()}

    return Carried(
        style=at(masks.regions, config.style_layers),
        content=None if masks.content is None else at(masks.content, config.content_layers),
    )
