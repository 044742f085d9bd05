"""The network on the rows of each device, and sums over all of them.

A convolution needs one row of each neighbour: that is all that goes from device to device inside
the network, forward one row of features each way and backward one row of their gradient. What a
statistic sums over positions is summed on each device first.

In strips (``fold``) a device goes through rows that it has got of its neighbours before instead, as
many as the deepest layer sees: the picture's, and nothing inside the network.

XLA's own partitioner gives the same numbers, but gathers activations where rows do not divide, at
Winograd's tiles and at borders that are repeated; see docs/devices.md.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from stylejax import layers, losses, strips, vgg
from stylejax.devices import Rows, by_rows, on_each, replicated
from stylejax.statistics import Statistic


class Extent(NamedTuple):
    """Rows of features that are spread over a mesh: the first ``height`` count."""

    mesh: Mesh
    height: int


class _Place(NamedTuple):
    """Where a device finds itself, traced inside ``shard_map``.

    Attributes:
      axis: the mesh's.
      devices: how many there are.
      heights: of all devices' rows together, at each layer, by the rows that one of them has there.
    """

    axis: str
    devices: int
    heights: tuple[tuple[int, int], ...]

    def height(self, x: jax.Array) -> int:
        """Rows that the whole of ``x`` has."""
        return dict(self.heights)[x.shape[0]]

    def ends(self, x: jax.Array) -> jax.Array:
        """How many of this device's rows belong to the picture."""
        before = jax.lax.axis_index(self.axis) * x.shape[0]
        return jnp.clip(self.height(x) - before, 0, x.shape[0])

    def only(self, x: jax.Array, beyond: float = 0) -> jax.Array:
        """``x`` with ``beyond`` in the rows below the picture, where there can be any."""
        if self.height(x) == self.devices * x.shape[0]:
            return x
        inside = jnp.arange(x.shape[0]) < self.ends(x)
        return jnp.where(inside[:, None, None], x, jnp.asarray(beyond, x.dtype))


def framed(x: jax.Array, place: _Place, beyond: layers.Beyond) -> jax.Array:
    """A device's rows of features with the neighbours' next to them; in ``shard_map`` only.

    Args:
      x: ``[h, w, c]``; rows below the picture are never looked at by those in it.
      place: where this device is.
      beyond: what lies above and below the picture.

    Returns:
      ``[h + 2, w, c]``.
    """
    h, height = x.shape[0], place.height(x)
    last = (height - 1) // h  # the device with the picture's last row
    ragged = height < (last + 1) * h
    index = jax.lax.axis_index(place.axis)
    if beyond == "constant":
        x = place.only(x)
    ends = place.ends(x)
    lowest = jax.lax.dynamic_slice_in_dim(x, ends - 1, 1) if ragged else x[-1:]
    down = [(i, i + 1) for i in range(last)]
    up = [(i + 1, i) for i in range(last)]
    if beyond == "wrap":
        down, up = [*down, (last, 0)], [*up, (0, last)]
    above = jax.lax.ppermute(lowest, place.axis, down)  # whoever is sent nothing has zeros
    below = jax.lax.ppermute(x[:1], place.axis, up)
    if beyond == "edge":
        above = jnp.where(index == 0, x[:1], above)
        below = jnp.where(index == last, lowest, below)
    out = jnp.concatenate([above, x, below])
    if ragged and beyond != "constant":
        out = jax.lax.dynamic_update_slice_in_dim(out, below, ends + 1, 0)
    return out


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    precision: layers.Precision,
    *,
    evaluated: jax.Array | None,
    place: _Place,
    beyond: layers.Beyond,
) -> jax.Array:
    rows = framed(x, place, beyond)
    return layers.convolve_rows(rows, kernel, precision, beside=beyond, evaluated=evaluated)


def _pool(x: jax.Array, *, pool: vgg.Pool, place: _Place) -> jax.Array:
    """Windows that reach over the picture's last row are left out or, by Caffe's rule, filled."""
    if pool is layers.max_pool_ceil:
        return place.only(pool(place.only(x, -jnp.inf)))
    return pool(x)


class _RowsOfVGG(vgg.VGG):
    """The network of one device among several."""

    place: _Place = _Place("", 1, ())

    def _convolution(self, *, first: bool) -> Callable[..., jax.Array]:
        beyond: layers.Beyond = "constant"
        if self.padding == "circular":
            beyond = "wrap"
        elif self.padding == "replicate-all" or (self.padding == "replicate" and first):
            beyond = "edge"
        return partial(_convolve, place=self.place, beyond=beyond)


def features(
    params: vgg.Params,
    image: jax.Array,
    names: Sequence[str],
    *,
    rows: Rows,
    pool: vgg.Pool,
    padding: vgg.Padding,
    precision: layers.Precision,
) -> dict[str, jax.Array]:
    """``vgg.features`` over the devices of ``rows``.

    Args:
      params: on every device.
      image: ``[rows.padded, W, 3]``.
      names: of layers; ``rows.stride`` is a multiple of their strides.
      rows: how the image is spread.
      pool: as for ``vgg.features``; its windows are 2x2.
      padding: as for ``vgg.features``.
      precision: as for ``vgg.features``.

    Returns:
      ``{layer: [h, w, c]}`` with padded rows: the first ``extent(...)`` count, the others are 0.

    Raises:
      ValueError: as ``vgg.features``; or a pooling that rounds a height up by a rule unknown here.
    """
    architecture = vgg.architecture_of(params)
    vgg.check_layers(names, architecture)
    if not names:
        return {}
    place = _Place(rows.mesh.axis_names[0], rows.devices, _heights(rows, image.shape[1], pool))
    inner = partial(_pool, pool=pool, place=place)
    network = _RowsOfVGG(architecture, inner, padding, precision, place)

    def local(params: vgg.Params, image: jax.Array) -> dict[str, jax.Array]:
        seen = network.apply({"params": params}, image, tuple(names))
        return {layer: place.only(x) for layer, x in seen.items()}

    return on_each(local, rows.mesh, (False, True))(params, image)


def fold(
    params: vgg.Params,
    image: jax.Array,
    cut: strips.Cut,
    look: strips.Look,
    given: Mapping[str, Any],
    *,
    rows: Rows,
    network: strips.Network,
    recompute: int | None = None,
) -> dict[str, tuple[Any, Any]]:
    """``strips.fold`` over the devices of ``rows``, each of which goes through strips of its own.

    Args:
      params: on every device.
      image: ``[rows.padded, W, 3]``.
      cut: of ``strips.cut`` with ``each``.
      look: as for ``strips.fold``.
      given: by layer a pytree of arrays of ``arranged``.
      rows: how the image is spread.
      network: as for ``strips.fold``.
      recompute: as for ``strips.fold``.

    Returns:
      By layer the sums over all strips of all devices, and what was kept, spread as ``given`` is.
    """
    axis, reach = rows.mesh.axis_names[0], cut.stages["input"].margin

    def local(params: vgg.Params, image: jax.Array, given: Any) -> Any:
        lines = strips.lines(_amid(image, reach, axis, rows.devices), cut)
        before = jax.lax.axis_index(axis) * rows.each
        seen = strips.fold(
            *(params, lines, cut, look, given),
            network=network,
            recompute=recompute,
            before=before,
        )
        return {layer: (jax.tree.map(lambda x: x[None], s), k) for layer, (s, k) in seen.items()}

    seen = on_each(local, rows.mesh, (False, True, True))(params, image, dict(given))
    # The compiler's sum, as in ``summary``.
    return {
        layer: (jax.tree.map(lambda x: jnp.sum(x, axis=0), sums), kept)
        for layer, (sums, kept) in seen.items()
    }


def _amid(x: jax.Array, reach: int, axis: str, devices: int) -> jax.Array:
    """A device's rows with the ``reach`` above and below them, zeros beyond the first and last.

    In ``shard_map`` only; of the neighbours' neighbours as well, where those next to it have less.
    """
    above, below = [], []
    for hop in range(1, -(-reach // len(x)) + 1):
        part = min(len(x), reach - (hop - 1) * len(x))
        down = [(i, i + hop) for i in range(devices - hop)]
        up = [(i + hop, i) for i in range(devices - hop)]
        above.append(jax.lax.ppermute(x[len(x) - part :], axis, down))
        below.append(jax.lax.ppermute(x[:part], axis, up))
    return jnp.concatenate([*reversed(above), x, *below])


def arranged(x: jax.Array, stage: strips.Stage, number: int, rows: Rows) -> jax.Array:
    """``strips.arrange`` on every device, of ``[h, ...]``, padded or not."""
    own = jnp.pad(x, [(0, rows.devices * stage.own - len(x)), *((0, 0),) * (x.ndim - 1)])
    arrange = partial(strips.arrange, stage=stage, number=number)
    return on_each(arrange, rows.mesh, (True,))(own)


def gathered(x: jax.Array, stage: strips.Stage, rows: Rows) -> jax.Array:
    """``strips.gather`` on every device: padded rows."""
    return on_each(partial(strips.gather, stage=stage), rows.mesh, (True,))(x)


def _heights(rows: Rows, width: int, pool: vgg.Pool) -> tuple[tuple[int, int], ...]:
    """By the rows of one device at each block, the rows of all of them that count."""
    heights, level = [(rows.each, rows.height)], 0
    while rows.each >> level > rows.each // rows.stride:
        level += 1
        height, _ = vgg.feature_size((rows.height, width), f"pool{level}", pool)
        heights.append((rows.each >> level, height))
    up = any(b > a // 2 for (_, a), (_, b) in pairwise(heights))
    if up and pool is not layers.max_pool_ceil:
        raise ValueError(
            f"pool {getattr(pool, '__name__', pool)} rounds a height of {rows.height} up, which "
            f"only max_pool_ceil may do over several devices; take a multiple of {rows.stride}"
        )
    return tuple(heights)


def extent(image: Rows, width: int, layer: str, pool: vgg.Pool) -> Extent:
    """How many rows of a layer's features count."""
    height, _ = vgg.feature_size((image.height, width), layer, pool)
    return Extent(image.mesh, height)


def summary(
    statistic: Statistic, features: jax.Array, weight: jax.Array | None, extent: Extent | None
) -> Any:
    """``statistic.accumulate(features, weight)``, on every device.

    Sums over positions are made of each device's; for what is no such sum all features go to all
    devices.

    Args:
      statistic: of which the summary is.
      features: ``[h, w, c]``, of padded rows where there is an extent.
      weight: ``[extent.height, w]``, padded or not, or None.
      extent: None where features are not spread.
    """
    if extent is None:
        return statistic.accumulate(features, weight)
    if not statistic.additive:
        return statistic.accumulate(replicated(features, extent.mesh)[: extent.height], weight)

    def local(*given: jax.Array) -> Any:
        return jax.tree.map(lambda x: x[None], statistic.accumulate(*given))

    given = [features]
    if weight is None and features.shape[0] > extent.height:
        # Of the index, which every device knows: rows of ones would be sent around to be padded.
        counts = jnp.arange(features.shape[0]) < extent.height
        weight = jnp.broadcast_to(counts[:, None].astype(features.dtype), features.shape[:2])
    if weight is not None:
        given.append(padded(weight, features, extent))
    parts = on_each(local, extent.mesh, [True] * len(given))(*given)
    # The compiler's sum, whose gradient needs nothing from any other device.
    return jax.tree.map(lambda x: jnp.sum(x, axis=0), parts)


def padded(x: jax.Array, like: jax.Array, extent: Extent | None) -> jax.Array:
    """``x`` with rows of zeros, so that it has as many as ``like``, by rows where that is.

    ``x`` is on every device. Said so once more, or the compiler spreads it first, by other rows.
    """
    if extent is None:
        return x
    x = jnp.pad(x, [(0, like.shape[0] - x.shape[0]), *((0, 0),) * (x.ndim - 1)])
    return by_rows(replicated(x, extent.mesh), extent.mesh)


def content_loss(
    loss: losses.ContentLoss | Callable[[jax.Array, jax.Array], jax.Array],
    features: jax.Array,
    target: jax.Array,
    extent: Extent | None,
) -> jax.Array:
    """``loss(features, target)`` of the rows that count.

    To the sums of a ``ContentLoss`` zeros add nothing. For any other the rows are taken first, for
    which the compiler moves them.
    """
    if extent is None or features.shape[0] == extent.height:
        return loss(features, target)
    if isinstance(loss, losses.ContentLoss):
        error, energy = jnp.sum(jnp.square(features - target)), jnp.sum(jnp.square(target))
        return loss.distance(error, energy, extent.height * features[0].size)
    return loss(features[: extent.height], target[: extent.height])


def activity(features: jax.Array, extent: Extent | None) -> jax.Array:
    """``losses.activity`` of the rows that count."""
    share = 1.0 if extent is None else features.shape[0] / extent.height
    return share * losses.activity(features)


def dream_loss(features: jax.Array, photo: jax.Array, extent: Extent | None) -> jax.Array:
    """``losses.dream_loss`` of the rows that count."""
    # 2 p / (p + s f) = 2 (p / s) / (p / s + f)
    share = 1.0 if extent is None else features.shape[0] / extent.height
    return losses.dream_loss(features, photo / share)


def extents(
    image: Rows | None, width: int, names: Sequence[str], pool: vgg.Pool
) -> Mapping[str, Extent | None]:
    """``extent`` by layer; None each where nothing is spread."""
    return {name: image and extent(image, width, name, pool) for name in names}
