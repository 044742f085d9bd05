"""A picture's features strip by strip: exactly those of the whole, in the memory of a part.

A strip is some whole rows of the image. What a convolution needs of the strip before it, two rows,
is kept, so nothing is computed twice and strips need no border of their neighbours. A feature can
be computed when the row below it is there: features come out later than the image goes in, by a
row for each convolution, and strips below the image bring out the last ones. The rows before the
first and after the last are what the padding says, at every convolution.

Sums over positions are carried from strip to strip. Their gradient runs through the strips from
the last to the first, and hands the kept rows' cotangents from each to the one before it. For it
the activations of the first blocks, the largest, are computed again, strip by strip; those of the
later ones may be kept. Of a high picture the rows that strips hand on are most of what is kept;
nested, a few strips' are, and the others' are computed again as well.

Where devices share a picture (``halo``), each goes through strips of its own rows. They begin as
far above these as the deepest layer sees, and end as far below; what they bring there is right for
nobody and counts for nothing.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from stylejax import vgg
from stylejax.layers import (
    KEPT,
    LINEAR,
    MAXIMA,
    Precision,
    convolve,
    convolve_circular,
    convolve_replicating,
    convolve_rows,
    rectify,
    rectify_keeping_signs,
)

# What lies beyond the sides of a strip.
_BEYOND: dict[Any, Literal["constant", "edge", "wrap"]] = {
    convolve: "constant",
    convolve_replicating: "edge",
    convolve_circular: "wrap",
}

# (layer, features [r, w, c], counted [r, w], given) -> (sums, kept): ``counted`` is 1 where a row
# belongs to the image and 0 elsewhere, ``given`` what came for this strip of this layer. Of the
# image itself, layer ``"input"``, the last row of the strip before comes with a strip, on top.
Look = Callable[[str, jax.Array, jax.Array, Any], tuple[Any, Any]]


class Network(NamedTuple):
    """How the network sees an image; the fields are those of ``vgg.features``."""

    pool: vgg.Pool
    padding: vgg.Padding
    precision: Precision


class Turn(NamedTuple):
    """Where the walk is.

    Attributes:
      strip: its number, int32.
      before: int32, rows of the image that other devices have above this one's; 0 on one device.
    """

    strip: jax.Array
    before: jax.Array


class Stage(NamedTuple):
    """How a layer's features come out of the strips.

    Attributes:
      size: height and width of the features, with what is repeated around the image.
      channels: of the features.
      rows: of each strip.
      delay: rows by which the layer lags behind the image.
      around: rows of what is repeated above the image, and below.
      margin: rows above those looked at with which the strips begin: the rows around the image, or
        those of the devices above.
      counted: rows of the image's own.
      each: of these a device looks at so many, at most; None where there is one, which has all.
      stride: rows of the image to one of the features.
    """

    size: tuple[int, int]
    channels: int
    rows: int
    delay: int
    around: int
    margin: int
    counted: int
    each: int | None
    stride: int

    @property
    def own(self) -> int:
        """Rows of this device."""
        return self.counted if self.each is None else self.each

    def first(self, turn: Turn) -> jax.Array:
        """The number of the first row that a strip brings, counted from the image's first."""
        above = self.delay + self.margin
        return turn.strip * self.rows - above + turn.before // self.stride


class Cut(NamedTuple):
    """How an image is cut.

    Attributes:
      number: of strips, on each device.
      group: of so many strips on end only what the first is handed is kept for the gradient;
        ``number``, where every strip's is.
      stages: by layer, every one up to the deepest that is looked at; and ``"input"``.
    """

    number: int
    group: int
    stages: dict[str, Stage]


def cut(
    params: vgg.Params,
    size: tuple[int, int],
    layers: Sequence[str],
    rows: int,
    network: Network,
    *,
    nested: bool = False,
    each: int | None = None,
) -> Cut:
    """How an image of ``size`` is cut into strips of at most ``rows`` rows.

    Args:
      params: the network's arrays.
      size: height and width.
      layers: that are looked at.
      rows: of the image in a strip, at most; a multiple of ``vgg.minimum_size(layers)``.
      network: how it sees the image.
      nested: whether strips are grouped, see ``Cut``.
      each: rows of each of several devices, a multiple of ``vgg.minimum_size(layers)``; None is
        one device, which has all.

    Raises:
      ValueError: for rows that are no such multiple, and for a height of a circular image that is
        none: the pattern would lose its period.
    """
    least = vgg.minimum_size(layers)
    if rows % least or rows < least:
        raise ValueError(f"strips of {rows} rows: they must be a multiple of {least}")
    if network.padding == "circular" and size[0] % least:
        raise ValueError(
            f"a circular image in strips is {size[0]} high; it must be a multiple of {least}"
        )
    staged = partial(_stages, params, size, layers, pool=network.pool, each=each)
    stages = staged(rows)
    around = margin = 0
    if network.padding == "circular":  # as far as the deepest layer sees, whole strides of it
        around = margin = (list(stages.values())[-1].delay + 1) * least
    elif each is not None:  # what a layer lags is what it sees
        margin = -(-max(stages[n].delay * stages[n].stride for n in layers) // least) * least
    staged = partial(staged, around=around, margin=margin)
    seen = [staged(rows)[layer] for layer in layers]
    lines = max((s.margin + s.own + s.delay) * s.stride for s in seen)
    number, group = _grouped(-(-lines // rows)) if nested else (-(-lines // rows),) * 2
    rows = -(-lines // (number * least)) * least  # no more than so many strips need
    return Cut(number, group, staged(rows))


def _grouped(number: int) -> tuple[int, int]:
    """So many strips, or a few more, in groups, and how many a group has.

    Groups of ``g`` keep the rows of ``number / g + g`` strips, least at the root, flat around it.

    >>> _grouped(29), _grouped(36), _grouped(2)
    ((30, 5), (36, 6), (2, 1))
    """
    root = math.isqrt(number)
    sizes = range(max(1, root * 2 // 3), root * 3 // 2 + 1)
    group = min(sizes, key=lambda size: (-number % size, number / size + size))
    return number + -number % group, group


def _stages(
    params: vgg.Params,
    size: tuple[int, int],
    layers: Sequence[str],
    rows: int,
    *,
    pool: vgg.Pool,
    each: int | None,
    around: int = 0,
    margin: int = 0,
) -> dict[str, Stage]:
    height = size[0] + 2 * around
    stage = Stage((height, size[1]), 3, rows, 0, around, margin, size[0], each, stride=1)
    stages = {"input": stage}
    for layer in _walk(params, layers):
        delay, rows, channels = stage.delay, stage.rows, stage.channels
        stride = vgg.stride(layer)
        if layer.startswith("conv"):
            delay, channels = delay + 1, params[layer]["bias"].shape[0]
        elif layer.startswith("pool"):
            delay, rows = -(-delay // 2), rows // 2
        stage = Stage(
            vgg.feature_size((height, size[1]), layer, pool),
            channels,
            rows,
            delay,
            around=around // stride,
            margin=margin // stride,
            counted=vgg.feature_size(size, layer, pool)[0],
            each=each and each // stride,
            stride=stride,
        )
        stages[layer] = stage
    return stages


def _walk(params: vgg.Params, layers: Sequence[str]) -> tuple[str, ...]:
    """Every layer from the first to the deepest that is looked at."""
    architecture = vgg.architecture_of(params)
    vgg.check_layers(layers, architecture)
    order = vgg.layer_names(architecture._replace(taps=()))
    return order[: max(map(order.index, layers)) + 1]


def arrange(x: jax.Array, stage: Stage, number: int) -> jax.Array:
    """An array ``[h, ...]`` beside a layer's features as the strips bring these.

    Returns:
      ``[number, rows, ...]``, zeros where there is no feature of the image.
    """
    above = stage.delay + stage.margin
    below = number * stage.rows - above - x.shape[0]
    x = jnp.pad(x[: x.shape[0] + min(below, 0)], [(above, max(below, 0))] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(number, stage.rows, *x.shape[1:])


def gather(x: jax.Array, stage: Stage) -> jax.Array:
    """The inverse: ``[number, rows, ...]`` as the strips brought it to ``[stage.own, ...]``."""
    above = stage.delay + stage.margin
    return x.reshape(-1, *x.shape[2:])[above : above + stage.own]


def fold(
    params: vgg.Params,
    lines: jax.Array,
    cut: Cut,
    look: Look,
    given: Mapping[str, Any],
    *,
    network: Network,
    recompute: int | None = None,
    before: jax.Array | int = 0,
) -> dict[str, tuple[Any, Any]]:
    """Looks at an image's features strip by strip.

    Args:
      params: the network's arrays.
      lines: the image in strips, of ``lines``.
      cut: of ``cut``.
      look: what to make of a strip of a layer's features: sums, which are added up, and what is
        to be kept of it; both pytrees of arrays.
      given: by layer that is looked at, a pytree of arrays ``[number, ...]``, see ``arrange``.
      network: how it sees the image.
      recompute: of so many blocks all is computed again for the gradient, None is of all; of the
        others see ``keeping``.
      before: rows of the image that other devices have above this one's.

    Returns:
      By layer the sums over all strips, and what was kept, ``[number, ...]``.
    """
    ways = keeping(cut, given, recompute, network.pool)
    one_strip = partial(_through, params, cut, look, network, ways)
    # Large maxima name their places, which are not wanted where all is computed again.
    policy = jax.checkpoint_policies.save_only_these_names(*(() if recompute is None else (KEPT,)))
    through = jax.checkpoint(one_strip, prevent_cse=False, policy=policy)

    def strip(carry: Any, brought: Any) -> tuple[Any, Any]:
        buffers, sums = carry
        rows, index, given = brought
        turn = Turn(index, jnp.asarray(before, index.dtype))
        handed, seen = through(rows, buffers, turn, given)
        sums = {layer: jax.tree.map(jnp.add, sums[layer], seen[layer][0]) for layer in seen}
        return (handed, sums), {layer: kept for layer, (_, kept) in seen.items()}

    xs = (lines, jnp.arange(cut.number), dict(given))
    buffers = _buffers(cut, vgg.narrow(network.precision) or lines.dtype)
    if "input" in given:
        buffers["input"] = jnp.zeros_like(lines[0, :1])
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), xs)
    turn = Turn(one[1], one[1])
    shapes = jax.eval_shape(one_strip, one[0], buffers, turn, one[2])[1]
    zeros = {
        layer: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), sums)
        for layer, (sums, _) in shapes.items()
    }
    walk = jax.lax.scan if cut.group == cut.number else partial(_scan_nested, cut.group)
    (_, sums), kept = walk(strip, (buffers, zeros), xs)
    return {layer: (sums[layer], kept[layer]) for layer in sums}


class Keeping(NamedTuple):
    """How the gradient comes by what it needs of a strip, layers by name.

    Attributes:
      again: their features are computed again.
      signs: ReLUs whose signs are kept, a bit for each number.
      features: kept as they are.
    """

    again: frozenset[str]
    signs: frozenset[str]
    features: frozenset[str]


def keeping(cut: Cut, layers: Collection[str], recompute: int | None, pool: vgg.Pool) -> Keeping:
    """Of the first ``recompute`` blocks all is computed again, or for None of all blocks.

    Of the others signs are kept, and the features that terms look at. Those of a first convolution
    that has more channels than the pooling before it left are computed again from what it left,
    which is kept in their place. Where a pooling's gradient needs all that went in, its whole block
    is computed again.

    Args:
      cut: of ``cut``.
      layers: that are looked at.
      recompute: blocks, or None.
      pool: that ends each block.
    """
    blocks = math.inf if recompute is None else recompute
    again: set[str] = set()
    for name in cut.stages:
        if name != "input" and vgg.block_of(name) <= blocks:
            again.add(name)
        elif name.startswith("pool") and pool not in (*LINEAR, *MAXIMA):
            again |= {other for other in cut.stages if other[4:].startswith(f"{name[4:]}_")}
    signs = {name for name in cut.stages if name.startswith("relu")} - again
    kept = set(layers) & set(cut.stages) - again - {"input"}
    for before, first in _steps(cut):
        block = vgg.block_of(first)
        seen = {f"conv{block}_1", f"relu{block}_1"} & kept
        if first == f"conv{block}_1" and seen and before.channels < cut.stages[first].channels:
            again |= {first, f"relu{block}_1"}
            kept -= seen
    stages = list(cut.stages)
    kept |= {name for name, following in pairwise(stages) if following in again} - again
    return Keeping(frozenset(again), frozenset(signs), frozenset(kept - {"input"}))


def _scan_nested(
    group: int, body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any
) -> Any:
    """``jax.lax.scan`` that keeps for the gradient what every ``group``-th turn is handed, only."""
    xs = jax.tree.map(lambda x: x.reshape(-1, group, *x.shape[1:]), xs)
    turns = jax.checkpoint(partial(jax.lax.scan, body), prevent_cse=False)
    carry, ys = jax.lax.scan(turns, carry, xs)
    return carry, jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), ys)


def lines(image: jax.Array, cut: Cut) -> jax.Array:
    """The image, and what is around it, in strips ``[number, rows, W, 3]``, for ``fold``.

    Of one device among several it is its rows with the neighbours' ``margin`` above and below.
    """
    stage = cut.stages["input"]
    if stage.around:
        image = jnp.pad(image, ((stage.around, stage.around), (0, 0), (0, 0)), "wrap")
    return arrange(image, stage._replace(margin=0), cut.number)


def _buffers(cut: Cut, dtype: Any) -> dict[str, jax.Array]:
    """The rows that layers keep of the strip before, at the start."""
    buffers = {}
    for before, layer in _steps(cut):
        lines = _lines(before, layer)
        if lines:
            buffers[layer] = jnp.zeros((lines, before.size[1], before.channels), dtype)
    return buffers


def _lines(before: Stage, layer: str) -> int:
    """How many rows a layer keeps of the strip before, whose features came from ``before``."""
    if layer.startswith("conv"):
        return 2
    return before.delay % 2 * layer.startswith("pool")


def _steps(cut: Cut) -> list[tuple[Stage, str]]:
    """Every layer with the stage that it takes in."""
    return list(zip(cut.stages.values(), list(cut.stages)[1:], strict=False))


def _through(
    params: vgg.Params,
    cut: Cut,
    look: Look,
    network: Network,
    ways: Keeping,
    x: jax.Array,
    buffers: Mapping[str, jax.Array],
    turn: Turn,
    given: Mapping[str, Any],
) -> tuple[dict[str, jax.Array], dict[str, tuple[Any, Any]]]:
    """One strip through the network: the rows that it hands on, and what was seen."""

    def looked(layer: str, features: jax.Array, above: int) -> tuple[Any, Any]:
        stage = cut.stages[layer]
        row = stage.first(turn) + jnp.arange(-above, stage.rows)
        before = turn.before // stage.stride
        own = (row >= before) & (row < stage.counted)
        if stage.each is not None:
            own &= row < before + stage.each
        counted = own.astype(jnp.promote_types(features.dtype, jnp.float32))
        counted = jnp.broadcast_to(counted[:, None], features.shape[:2])
        return look(layer, features, counted, given[layer])

    handed, seen = {}, {}
    for stage, layer in _steps(cut):
        if layer == "conv1_1":
            if "input" in given:
                handed["input"] = x[-1:]
                lines = jnp.concatenate([buffers["input"], x])
                seen["input"] = looked("input", lines, 1)
            enter = vgg.Preprocessing(vgg.narrow(network.precision))
            x = enter.apply({"params": params["input"]}, x)
        if layer.startswith("relu"):
            x = rectify_keeping_signs(x) if layer in ways.signs else rectify(x)
        else:
            above = buffers.get(layer)
            if layer.startswith("pool"):
                pool = network.pool
                if layer not in ways.again:
                    pool = MAXIMA.get(pool, pool)
                x, last = _pool(stage, cut.stages[layer], pool, x, above, turn)
            else:
                x, last = _convolve(params, layer, stage, network, x, above, turn)
            if last is not None:
                handed[layer] = last
        if layer in ways.features:
            x = checkpoint_name(x, KEPT)
        if layer in given:
            seen[layer] = looked(layer, _leaving(params, layer, x), 0)
    return handed, seen


def _leaving(params: vgg.Params, layer: str, x: jax.Array) -> jax.Array:
    """Through the layer's tap, where it has one."""
    if layer.startswith("conv") or layer not in params:
        return x
    width = params[layer]["kernel"].shape[1]
    return vgg.Tap(width).apply({"params": params[layer]}, x)


def _convolve(
    params: vgg.Params,
    layer: str,
    stage: Stage,
    network: Network,
    x: jax.Array,
    above: jax.Array | None,
    turn: Turn,
) -> tuple[jax.Array, jax.Array | None]:
    assert above is not None
    x = jnp.concatenate([above, x])
    first = layer == "conv1_1"
    beyond = _BEYOND[vgg.convolution(network.padding, first=first)]
    within = _bordered(x, stage.first(turn) - 2, stage, repeat=beyond == "edge")
    module = vgg.Convolution(
        params[layer]["bias"].shape[0],
        partial(convolve_rows, beside=beyond),
        network.precision,
    )
    return module.apply({"params": params[layer]}, within), x[-2:]


def _pool(
    stage: Stage,
    pooled: Stage,
    pool: vgg.Pool,
    x: jax.Array,
    above: jax.Array | None,
    turn: Turn,
) -> tuple[jax.Array, jax.Array | None]:
    """Pairs of rows begin at even ones; a stage that is late by an odd number waits for one more.

    Where the pooling rounds up, the last row of an odd number is paired with itself.
    """
    first, last = stage.first(turn), None
    if above is not None:
        x, last, first = jnp.concatenate([above, x[:-1]]), x[-1:], first - 1
    if 2 * pooled.size[0] > stage.size[0]:
        x = _bordered(x, first, stage, repeat=True)
    return pool(x), last


def _bordered(x: jax.Array, first: jax.Array, stage: Stage, *, repeat: bool) -> jax.Array:
    """Rows from number ``first`` on, with what the padding puts above the first and below the last.

    Only the row next to the border: nobody looks at those further outside.
    """
    top = -stage.around
    end = top + stage.size[0]

    def row(number: jax.Array | int) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, jnp.clip(number - first, 0, len(x) - 1), 1)

    for number, neighbour in ((top - 1, top), (end, end - 1)):
        place = number - first
        new = row(neighbour) if repeat else jnp.zeros_like(x[:1])
        new = jnp.where((place >= 0) & (place < len(x)), new, row(number))
        x = jax.lax.dynamic_update_slice_in_dim(x, new, jnp.clip(place, 0, len(x) - 1), 0)
    return x


def kept_at_a_time(cut: Cut) -> int:
    """Of how many strips the rows that they hand on are kept for the gradient at a time."""
    return cut.number if cut.group == cut.number else cut.number // cut.group + cut.group


def kept_bytes(
    cut: Cut, layers: Collection[str], *, recompute: int | None, pool: vgg.Pool, width: int = 4
) -> float:
    """What is kept of one strip for the gradient, in bytes, of ``width`` a number.

    The rows handed on to layers that are computed again, a bit for the sign behind a ReLU and two
    for the place of a maximum, and the features that are kept, see ``keeping``.
    """
    ways = keeping(cut, layers, recompute, pool)
    little = pool in (*LINEAR, *MAXIMA)
    kept = 0.0
    for before, layer in _steps(cut):
        stage = cut.stages[layer]
        numbers = stage.rows * stage.size[1] * stage.channels
        if layer in ways.again or (layer.startswith("pool") and not little):
            kept += width * _lines(before, layer) * before.size[1] * before.channels
        if layer in ways.signs:
            kept += numbers / 8
        if layer.startswith("pool") and pool in MAXIMA and layer not in ways.again:
            kept += numbers / 4
        if layer in ways.features:
            kept += width * numbers
    return kept
