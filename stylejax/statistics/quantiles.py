"""Statistics of distributions in one dimension: sorted values, compared rank by rank.

The squared 2-Wasserstein distance between two distributions of numbers is the mean square of the
difference of their quantiles; here between those of single channels or of random directions.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stylejax.losses import at_least_tiny, widened
from stylejax.statistics.statistic import Statistic, weighted_mean


def quantiles(values: jax.Array, weight: jax.Array | None) -> jax.Array:
    """As many quantiles of each column of ``[M, K]`` as it has values, evenly spaced, ascending.

    Without a weight these are the sorted values. With a weight ``[M]`` it is the least value up to
    which the weights add up to ``(j + 1/2) / M`` of their sum; values of no weight do not occur.
    The gradient takes the order as given.
    """
    order = jnp.argsort(jax.lax.stop_gradient(values), axis=0)
    if weight is not None:
        reached = jnp.cumsum(jnp.asarray(weight)[order], axis=0)
        middles = (np.arange(len(values)) + 0.5) / len(values)
        wanted = jnp.outer(jnp.asarray(middles, values.dtype), reached[-1])
        places = jax.vmap(jnp.searchsorted, (1, 1), 1)(reached, wanted)
        order = jnp.take_along_axis(order, places, axis=0)
    return jnp.take_along_axis(values, order, axis=0)


def resampled(values: jax.Array, count: int) -> jax.Array:
    """``count`` quantiles read off those of each column ``[M, K]`` by linear interpolation."""
    if len(values) == count:
        return values
    places = (np.arange(count) + 0.5) * len(values) / count - 0.5
    places = np.clip(places, 0, len(values) - 1)
    lower = np.floor(places).astype(np.int32)
    upper = np.minimum(lower + 1, len(values) - 1)
    share = jnp.asarray(places - lower, values.dtype)[:, None]
    return (1 - share) * values[lower] + share * values[upper]


def quantile_distance(found: jax.Array, target: jax.Array) -> jax.Array:
    """The mean over all ranks and columns of the squared difference.

    Args:
      found: ``[M, K]``, ascending.
      target: ``[M', K]``, ascending; brought to ``M`` ranks.
    """
    return jnp.mean(jnp.square(found - resampled(target, len(found))))


def quantile_relative_distance(found: jax.Array, target: jax.Array) -> jax.Array:
    """``quantile_distance`` divided by the target's mean variance."""
    return quantile_distance(found, target) / at_least_tiny(jnp.mean(jnp.var(target, axis=0)))


def quantile_blend(each: Sequence[jax.Array], shares: jax.Array) -> jax.Array:
    """The weighted mean of several styles' quantiles, rank by rank.

    This is their barycentre in the 2-Wasserstein distance: between a light and a dark painting lies
    one of medium tones, not one that is half light and half dark.
    """
    count = max(len(values) for values in each)
    return weighted_mean([resampled(values, count) for values in each], shares)


# Single channels


def channel_quantiles(features: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """The quantiles ``[h w, c]`` of each channel of features ``[h, w, c]``."""
    flat = widened(features).reshape(-1, features.shape[-1])
    return quantiles(flat, None if weight is None else weight.ravel())


# Risser, Wilmot and Barnes, "Stable and Controllable Neural Texture Synthesis and Style Transfer
# Using Histogram Losses", 2017: the features less what histogram matching would make of them, which
# is the same sum with the same gradient.
HISTOGRAM = Statistic(channel_quantiles, quantile_distance, quantile_blend, name="histogram")
RELATIVE_HISTOGRAM = Statistic(
    channel_quantiles, quantile_relative_distance, quantile_blend, name="relative histogram"
)


# Random directions


@functools.cache
def directions(channels: int) -> np.ndarray:
    """As many directions as channels, ``[c, c]``: the columns of one random rotation.

    Orthogonal ones, because they see more than independent ones; fixed ones, because L-BFGS needs
    the same objective at every step.
    """
    normal = np.random.default_rng(0).normal(size=(channels, channels))
    return np.linalg.qr(normal)[0]


def direction_quantiles(features: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """The quantiles ``[h w, c]`` of features ``[h, w, c]`` along each of the ``directions``."""
    flat = widened(features).reshape(-1, features.shape[-1])
    along = jnp.asarray(directions(flat.shape[1]), flat.dtype)
    projected = jnp.matmul(flat, along, precision="highest")
    return quantiles(projected, None if weight is None else weight.ravel())


# Heitz, Vanhoey, Chambon and Belcour, "A Sliced Wasserstein Loss for Neural Texture Synthesis",
# 2021; they draw new directions at every step.
SLICED = Statistic(direction_quantiles, quantile_distance, quantile_blend, name="sliced")
RELATIVE_SLICED = Statistic(
    direction_quantiles, quantile_relative_distance, quantile_blend, name="relative sliced"
)
