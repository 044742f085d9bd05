"""The interface of every statistic, and mixtures of several."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stylejax.losses import at_least_tiny


class Statistic(NamedTuple):
    """What is kept of an image's features as its style, and how two of these compare.

    Attributes:
      accumulate: ``(features [h, w, c], weight [h, w] or None) -> summary``, each position counted
        ``weight`` times, once where there is none. Weights are not negative.
      distance: ``(summary of the picture, target) -> scalar``.
      blend: ``(summaries, shares) -> target`` of one or more styles; shares add up to 1. What
        depends on the paintings alone is computed here, once, not at every step.
      name: how a record names it.
      additive: whether summaries of parts of an image add up, leaf by leaf, to the whole's.
      isometric: whether the distance depends on the products ``F_k . F_l`` of features alone, so
        that a network may hand over fewer channels with the same products.
      of_tile: ``accumulate`` of a picture whose opposite borders are neighbours; None where no
        summary knows which position is beside which, so that it is the same.
    """

    accumulate: Callable[..., Any]
    distance: Callable[[Any, Any], jax.Array]
    blend: Callable[[Sequence[Any], jax.Array], Any]
    name: str = "own"
    additive: bool = False
    isometric: bool = False
    of_tile: Callable[..., Any] | None = None


def on_tile(statistic: Statistic) -> Statistic:
    """The statistic as it is for a picture whose opposite borders are neighbours."""
    return statistic._replace(accumulate=statistic.of_tile or statistic.accumulate)


def mixed(*parts: tuple[Statistic, float]) -> Statistic:
    """The weighted sum of several statistics' distances, as one statistic.

    Equal arguments give the same value, so nothing compiles again.

    Args:
      parts: statistics with their weights, e.g. ``(RELATIVE_GRAM, 1.0), (RELATIVE_SLICED, 0.5)``.

    Raises:
      ValueError: for no parts, or a weight that is not positive and finite.
    """
    if not parts:
        raise ValueError("mixed() has no parts; give pairs of a statistic and its weight")
    for statistic, weight in parts:
        if not 0 < weight < math.inf:
            raise ValueError(f"the weight of {statistic.name} is {weight}; it must be more than 0")
    return _mixed(tuple((statistic, float(weight)) for statistic, weight in parts))


@functools.cache
def _mixed(parts: tuple[tuple[Statistic, float], ...]) -> Statistic:
    statistics = [statistic for statistic, _ in parts]

    def accumulate(features: jax.Array, weight: jax.Array | None = None) -> tuple[Any, ...]:
        return tuple(statistic.accumulate(features, weight) for statistic in statistics)

    def of_tile(features: jax.Array, weight: jax.Array | None = None) -> tuple[Any, ...]:
        return tuple(on_tile(statistic).accumulate(features, weight) for statistic in statistics)

    def distance(summary: tuple[Any, ...], target: tuple[Any, ...]) -> jax.Array:
        terms = [
            weight * statistic.distance(own, wanted)
            for (statistic, weight), own, wanted in zip(parts, summary, target, strict=True)
        ]
        return jnp.sum(jnp.stack(terms))

    def blend(summaries: Sequence[tuple[Any, ...]], shares: jax.Array) -> tuple[Any, ...]:
        columns = zip(*summaries, strict=True)
        return tuple(
            statistic.blend(column, shares)
            for statistic, column in zip(statistics, columns, strict=True)
        )

    return Statistic(
        accumulate,
        distance,
        blend,
        name=" + ".join(
            statistic.name if weight == 1 else f"{weight:g} {statistic.name}"
            for statistic, weight in parts
        ),
        additive=all(statistic.additive for statistic in statistics),
        isometric=all(statistic.isometric for statistic in statistics),
        of_tile=of_tile if any(statistic.of_tile for statistic in statistics) else None,
    )


def per_position(total: jax.Array, positions: jax.Array) -> jax.Array:
    """A sum over positions divided by their number; 0 where there are none."""
    return total / at_least_tiny(positions)


def weighted_mean(values: Sequence[jax.Array], shares: jax.Array) -> jax.Array:
    """``sum_s shares_s values_s``."""
    first, *others = (share * value for share, value in zip(shares, values, strict=True))
    return sum(others, start=first)
