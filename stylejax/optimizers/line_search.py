"""A line search for the strong Wolfe conditions that evaluates its objective at one place.

Bracketing and zooming (Nocedal and Wright, "Numerical Optimization", algorithms 3.5 and 3.6) are
one loop here whose body holds the only evaluation. An objective of VGG-19's size takes seconds to
compile, once for every place in the program where it stands; searches with a loop for each phase
have three to seven.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stylejax.optimizers.minimizer import finite, risen, select

SUFFICIENT_DECREASE = 1e-4
CURVATURE = 0.9
EXPANSION = 4.0
# Of an interval's length, where the next trial must keep away from its ends.
MARGIN = 0.1
# Below this width, relative to its far end, an interval holds no two float32 values worth telling.
NARROW = 1e-5


class Point(NamedTuple):
    """A place on the line: step, value and slope there, scalars."""

    step: jax.Array
    value: jax.Array
    slope: jax.Array


class Found(NamedTuple):
    """What a search found.

    Attributes:
      at: the lowest acceptable place; its step is 0 where there was none.
      gradient: the objective's gradient there, undefined where the step is 0.
      aux: what the objective reported there, likewise.
      trials: int32, evaluations.
      sound: whether any of them was finite.
    """

    at: Point
    gradient: jax.Array
    aux: Any
    trials: jax.Array
    sound: jax.Array


class _Search(NamedTuple):
    low: Point  # the lowest place so far that decreases sufficiently; one end of the bracket
    high: Point  # the other end, once there is a bracket
    bracketed: jax.Array
    trial: jax.Array
    found: Found
    done: jax.Array


def search(
    evaluate: Callable[[jax.Array], tuple[jax.Array, jax.Array, Any]],
    direction: jax.Array,
    value: jax.Array,
    gradient: jax.Array,
    aux: Any,
    *,
    trials: int,
    noise: float = 0.0,
) -> Found:
    """Looks along ``direction`` for a lower value and a flatter slope, full step first.

    Where the value here is not known, infinite, there is nothing to be lower than: the full step is
    the only trial, and found whatever its value.

    Args:
      evaluate: ``step -> (value, gradient, aux)`` at that step along the direction.
      direction: from here downhill, an array like ``gradient``.
      value: of the objective here.
      gradient: of the objective here.
      aux: what the objective reports here.
      trials: evaluations at most.
      noise: share of a value that may be rounding: a place no higher than that counts as lower, and
        nothing that little lower is looked for.
    """
    slope = jnp.vdot(gradient, direction, precision="highest")
    zero = jnp.zeros_like(value)
    start = Point(zero, risen(value, noise), slope)

    def going(state: _Search) -> jax.Array:
        return ~state.done & (state.found.trials < trials)

    def body(state: _Search) -> _Search:
        tried, gradient, aux = evaluate(state.trial)
        usable = finite(tried, gradient)
        place = Point(state.trial, tried, jnp.vdot(gradient, direction, precision="highest"))
        new = _judged(state, start, place, usable, gradient, aux)
        if not noise:
            return new
        # Of two values each may be off by it.
        return new._replace(done=new.done | _within_rounding(new, 2 * noise * jnp.abs(value)))

    none = Found(start, gradient, aux, jnp.asarray(0, jnp.int32), jnp.asarray(False))
    uphill = jnp.isfinite(value) & ~(slope < 0)
    state = _Search(start, start, jnp.asarray(False), zero + 1, none, uphill)
    return jax.lax.while_loop(going, body, state).found


def _judged(
    state: _Search, start: Point, place: Point, usable: jax.Array, gradient: jax.Array, aux: Any
) -> _Search:
    """What a trial says: whether to stop, what the bracket is now, where to try next."""
    low, found = state.low, state.found
    only = ~jnp.isfinite(start.value)
    enough = place.value <= start.value + SUFFICIENT_DECREASE * place.step * start.slope
    # Near a minimum the decrease drowns in rounding; there the slope shows it (Hager and Zhang's
    # approximate Wolfe condition), as long as the value is lower at all.
    shown = (place.value < start.value) & (
        place.slope <= (2 * SUFFICIENT_DECREASE - 1) * start.slope
    )
    lower = only | (usable & (enough | shown) & (place.value < low.value))
    flat = jnp.abs(place.slope) <= CURVATURE * jnp.abs(start.slope)

    # The bracket lies between the lowest place and one that the minimum cannot be beyond.
    ahead = jnp.where(state.bracketed, state.high.step - low.step, 1)
    behind = lower & (place.slope * ahead >= 0)
    high = select(~lower, place, select(behind, low, state.high))
    high = high._replace(value=jnp.where(lower | usable, high.value, jnp.inf))
    bracketed = state.bracketed | ~lower | behind
    low = select(lower, place, low)
    narrow = jnp.abs(high.step - low.step) <= NARROW * jnp.maximum(high.step, low.step)
    return _Search(
        low=low,
        high=high,
        bracketed=bracketed,
        trial=jnp.where(bracketed, _between(low, high), EXPANSION * place.step),
        found=Found(
            at=low,
            gradient=jnp.where(lower, gradient, found.gradient),
            aux=select(lower, aux, found.aux),
            trials=found.trials + 1,
            sound=found.sound | usable,
        ),
        done=only | (lower & flat) | (bracketed & narrow),
    )


def _within_rounding(state: _Search, rounding: jax.Array) -> jax.Array:
    """Whether what was found could be lowered by no more than ``rounding`` within its bracket.

    A parabola whose bottom lies in the bracket is there lower by at most half of the slope times
    the width.
    """
    low, high = state.low, state.high
    left = jnp.abs(low.slope * (high.step - low.step)) / 2
    return state.bracketed & (low.step > 0) & (left <= rounding)


def _between(low: Point, high: Point) -> jax.Array:
    """Where the cubic through both ends is least, away from the ends; the middle where it is not.

    Nocedal and Wright, equation 3.59.
    """
    width = high.step - low.step
    width = jnp.where(width == 0, 1, width)
    mean = low.slope + high.slope - 3 * (high.value - low.value) / width
    square = mean * mean - low.slope * high.slope
    root = jnp.sign(width) * jnp.sqrt(jnp.maximum(square, 0))
    bottom = high.slope - low.slope + 2 * root
    share = 1 - (high.slope + root - mean) / jnp.where(bottom == 0, 1, bottom)
    usable = jnp.isfinite(share) & (square >= 0) & (bottom != 0)
    share = jnp.where(usable, jnp.clip(share, MARGIN, 1 - MARGIN), 0.5)
    return low.step + share * width
