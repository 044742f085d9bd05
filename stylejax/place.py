"""Where a run stands between two steps, and how it goes on from there to the last bit the same.

What a run has computed is a function of its arguments and of the optimizer's state: the targets
are computed anew, by the program that computed them before.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stylejax import devices, vgg
from stylejax.config import Config
from stylejax.guides import Guides
from stylejax.objective import LossWeights
from stylejax.optimizers import State, Status
from stylejax.scale import Array, prepare


class Place(NamedTuple):
    """Where a run stands: with its arguments, all that it needs to go on.

    Attributes:
      scale: number of the scale, from 0.
      step: steps taken at this scale.
      evaluations: at the scales before it.
      state: the optimizer's, on its devices, where several share it with rows below the picture;
        or any pytree with the same arrays as leaves, with such rows or without.
    """

    scale: int
    step: int
    evaluations: int
    state: Any


def fitted(
    place: Place,
    params: vgg.Params,
    content: Array,
    styles: Sequence[Array],
    config: Config,
    loss_weights: LossWeights,
    key: jax.Array,
    guides: Guides | None,
) -> Place:
    """The place with its arrays as the state that they are in a run with these arguments.

    Raises:
      ValueError: such a run has no such place.
    """
    sizes = config.sizes(*content.shape[:2])
    remedy = "give the arguments of the run that it is from"
    if not 0 <= place.scale < len(sizes):
        raise ValueError(f"resume is at scale {place.scale} of a run of {len(sizes)}; {remedy}")
    steps = config.steps_at(place.scale, len(sizes))
    if not 0 <= place.step <= steps:
        raise ValueError(f"resume is at step {place.step} of a scale of {steps}; {remedy}")
    given = (params, content, styles, None, loss_weights, key)
    size = sizes[place.scale]
    like = shapes(*given, guides=guides, size=size, config=config.at(size))
    leaves, wanted = jax.tree.leaves(place.state), jax.tree.leaves(like)
    if len(leaves) == len(wanted):
        leaves = [_of_rows(*both, size) for both in zip(leaves, wanted, strict=True)]
    have, want = ([(np.shape(a), a.dtype) for a in side] for side in (leaves, wanted))
    if have != want:
        height, width = size
        raise ValueError(
            f"resume has a state of {len(have)} arrays that are not the {len(want)} of this "
            f"optimizer at {width}x{height}; {remedy}"
        )
    return place._replace(state=jax.tree.unflatten(jax.tree.structure(like), leaves))


def _of_rows(leaf: Array, wanted: jax.ShapeDtypeStruct, size: tuple[int, int]) -> Array:
    """A leaf with as many rows as are wanted, where it differs by zeros below the picture only.

    So many belong to the picture's devices; a run may go on with more of them, or fewer.
    """
    axis = len(wanted.shape) - 3  # rows, columns and colours come last
    shape = np.shape(leaf)
    if (
        axis < 0
        or len(shape) != len(wanted.shape)
        or min(shape[axis], wanted.shape[axis]) < size[0]
    ):
        return leaf
    if shape == wanted.shape or shape[axis + 1 :] != (size[1], 3):
        return leaf
    own = np.asarray(leaf)[(slice(None),) * axis + (slice(size[0]),)]
    below = [(0, 0)] * own.ndim
    below[axis] = (0, wanted.shape[axis] - size[0])
    return np.pad(own, below)


def over(place: Place, config: Config, scales: int) -> bool:
    """Whether the run is through with the scale of the place, whose state is a ``State``."""
    ended = Status(int(place.state.status)) != Status.RUNNING
    return ended or place.step >= config.steps_at(place.scale, scales)


def shapes(*given: Any, guides: Guides | None, size: tuple[int, int], config: Config) -> State:
    """Shapes and dtypes of the state that ``scale.prepare`` makes of the same arguments."""
    state, _ = prepare.eval_shape(*given, guides=guides, size=size, config=config)
    return state


def preceding(
    params: vgg.Params,
    content: Array,
    styles: Sequence[Array],
    config: Config,
    loss_weights: LossWeights,
    key: jax.Array,
    guides: Guides | None,
    *,
    size: tuple[int, int],
) -> tuple[Array, State | None]:
    """Zeros in the place of what a scale of this size has led to: its picture, and what is carried.

    They make ``scale.prepare`` the program that it was at the scale behind it, so that the targets
    are the same to the last bit; of the state that it makes there only the shapes are wanted.
    """
    carried = None
    if config.carry:
        given = (params, content, styles, None, loss_weights, key)
        like = shapes(*given, guides=guides, size=size, config=config)
        carried = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    if config.mesh is not None:
        carried = devices.everywhere(carried, devices.automatic(config.mesh))
        return np.zeros((*size, 3), content.dtype), carried
    return jnp.zeros((*size, 3), content.dtype), carried


def restored(saved: State, like: State) -> State:
    """A copy of a state, which a walk may use up, on the devices where ``like`` is."""

    def put(leaf: Array, fresh: jax.Array) -> jax.Array:
        if len(fresh.sharding.device_set) > 1:
            return devices.put(leaf, fresh.sharding)
        copy = jnp.array(leaf)
        # Committed to a device, a state would want programs of its own.
        return jax.device_put(copy, fresh.sharding) if fresh.committed else copy

    return jax.tree.map(put, saved, like)
