"""Patches: each piece of the picture is pulled towards the painting's piece most like it.

Li and Wand, "Combining Markov Random Fields and Convolutional Neural Networks for Image Synthesis",
2016 (CNNMRF). A patch is 3 x 3 positions of all channels, one around every position; beyond the
border the border is repeated, of a tile the opposite one follows.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from stylejax.losses import at_least_tiny, widened
from stylejax.statistics.statistic import Statistic, per_position

SIDE = 3
# Of a painting at most so many patches are kept, evenly spread: the search costs the picture's
# times the painting's number of patches.
MOST = 4096
# How many of the picture's patches are compared at once: 16 MiB of similarities.
CHUNK = 1024
# How much less alike, in cosines, a patch of e times the share or weight may be and still be taken.
_PREFERENCE = 0.05


class PatchSummary(NamedTuple):
    """Features with a frame, and how often each position counts.

    Attributes:
      features: ``[h + 2, w + 2, c]``, with what is beyond the border.
      weight: ``[h, w]``.
    """

    features: jax.Array
    weight: jax.Array


class PatchTarget(NamedTuple):
    """The paintings' patches.

    Attributes:
      patches: ``[n, 3, 3, c]``.
      preference: ``[n]``, added to each one's similarity; minus infinity keeps it out.
      square: scalar, the mean of ``|patch|^2``.
    """

    patches: jax.Array
    preference: jax.Array
    square: jax.Array


def patch_summary(features: jax.Array, weight: jax.Array | None = None) -> PatchSummary:
    """The features themselves: which patch is like which is known only beside the target."""
    return _framed(features, weight, "edge")


def patch_summary_of_tile(features: jax.Array, weight: jax.Array | None = None) -> PatchSummary:
    """The same of a picture whose opposite borders are neighbours."""
    return _framed(features, weight, "wrap")


def _framed(
    features: jax.Array, weight: jax.Array | None, beyond: Literal["edge", "wrap"]
) -> PatchSummary:
    features = widened(features)
    if weight is None:
        weight = jnp.ones(features.shape[:2], features.dtype)
    return PatchSummary(jnp.pad(features, ((1, 1), (1, 1), (0, 0)), mode=beyond), weight)


def patches(framed: jax.Array, step: int) -> jax.Array:
    """Every ``step``-th patch ``[n, 3, 3, c]`` in both directions, row by row.

    Args:
      framed: features ``[h + 2, w + 2, c]``.
      step: positions from one patch to the next.
    """
    height, width = framed.shape[0] - 2, framed.shape[1] - 2
    parts = [
        framed[i : i + height : step, j : j + width : step]
        for i in range(SIDE)
        for j in range(SIDE)
    ]
    return jnp.stack(parts, axis=2).reshape(-1, SIDE, SIDE, framed.shape[2])


def _step(height: int, width: int) -> int:
    """The least step that leaves no more than ``MOST`` patches."""
    step = 1
    while math.ceil(height / step) * math.ceil(width / step) > MOST:
        step += 1
    return step


def patch_blend(summaries: Sequence[PatchSummary], shares: jax.Array) -> PatchTarget:
    """The patches of all styles together; which one is taken is settled patch by patch.

    A style's share, and a position's weight within it, is a preference: of patches alike, the one
    with the larger is taken; a share or weight of 0 takes none.
    """
    kept, preferences, squares = [], [], []
    for (features, weight), share in zip(summaries, shares, strict=True):
        step = _step(*weight.shape)
        own, counts = patches(features, step), weight[::step, ::step].ravel()
        kept.append(own)
        preferences.append(_PREFERENCE * jnp.log(share * counts))
        square = jnp.sum(counts * jnp.sum(jnp.square(own), axis=(1, 2, 3)))
        squares.append(share * per_position(square, jnp.sum(counts)))
    return PatchTarget(
        jnp.concatenate(kept),
        jax.lax.stop_gradient(jnp.concatenate(preferences)),
        jnp.sum(jnp.stack(squares)),
    )


def nearest(framed: jax.Array, target: PatchTarget) -> jax.Array:
    """For every position the number of the target's patch most like the one around it, ``[h w]``.

    Likeness is the cosine (normalised cross-correlation) plus the target's preference.

    Args:
      framed: features ``[h + 2, w + 2, c]``.
      target: the patches to choose from.
    """
    height, width, channels = framed.shape[0] - 2, framed.shape[1] - 2, framed.shape[2]
    wanted = target.patches.reshape(len(target.patches), -1)
    size = jnp.sqrt(at_least_tiny(jnp.sum(jnp.square(wanted), axis=1)))

    def patch(place: jax.Array) -> jax.Array:
        start = (place // width, place % width, jnp.zeros_like(place))
        return jax.lax.dynamic_slice(framed, start, (SIDE, SIDE, channels)).ravel()

    def search(places: jax.Array) -> jax.Array:
        own = jax.vmap(patch)(places)
        own_size = jnp.sqrt(at_least_tiny(jnp.sum(jnp.square(own), axis=1)))
        alike = jnp.matmul(own, wanted.T, precision="highest") / jnp.outer(own_size, size)
        return jnp.argmax(alike + target.preference[None], axis=1)

    count = height * width
    chunk = min(CHUNK, count)
    chunks = math.ceil(count / chunk)
    places = jnp.minimum(jnp.arange(chunks * chunk, dtype=jnp.int32), count - 1)
    return jax.lax.map(search, places.reshape(chunks, chunk)).reshape(-1)[:count]


def patch_distance(summary: PatchSummary, target: PatchTarget) -> jax.Array:
    """``sum_k |P_k - Q_n(k)|^2``, ``Q_n(k)`` the painting's patch most like the picture's ``P_k``.

    Which patch that is, is constant for the gradient.
    """
    framed, weight = summary
    height, width = weight.shape
    matches = nearest(*jax.lax.stop_gradient((framed, target)))

    # Computed again for the gradient: nine pictures of matched features would be kept otherwise.
    @partial(jax.checkpoint, static_argnums=(2, 3))
    def part(framed: jax.Array, wanted: jax.Array, i: int, j: int) -> jax.Array:
        matched = wanted[matches, i, j].reshape(height, width, -1)
        difference = framed[i : i + height, j : j + width] - matched
        return jnp.sum(weight * jnp.sum(jnp.square(difference), axis=2))

    parts = [part(framed, target.patches, i, j) for i in range(SIDE) for j in range(SIDE)]
    return jnp.sum(jnp.stack(parts))


def patch_relative_distance(summary: PatchSummary, target: PatchTarget) -> jax.Array:
    """The mean of ``|P_k - Q_n(k)|^2`` divided by that of ``|Q|^2`` over the paintings' patches."""
    mean = per_position(patch_distance(summary, target), jnp.sum(summary.weight))
    return mean / at_least_tiny(target.square)


PATCHES = Statistic(
    patch_summary,
    patch_distance,
    patch_blend,
    name="patches",
    isometric=True,
    of_tile=patch_summary_of_tile,
)
RELATIVE_PATCHES = PATCHES._replace(distance=patch_relative_distance, name="relative patches")
