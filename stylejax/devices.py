"""Several devices, one picture: who has which rows, and how arrays get there.

Every device of a mesh has the same number of rows, a multiple of the deepest layer's stride, so
that no pooling looks over an edge; the last devices' rows may go on below the picture, where they
are zero and count for nothing. Arrays whose rows are spread so are called padded.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "rows"


def current(mesh: Mesh | None) -> Any:
    """The device where a run is; of several, the first."""
    if mesh is not None:
        return mesh.devices.flat[0]
    settings: Any = jax.config
    named = settings.jax_default_device
    return jax.devices(named)[0] if named is None or isinstance(named, str) else named


def mesh(count: int | None = None, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A row of devices to give to ``Config(mesh=...)``.

    Args:
      count: how many; None is all of them.
      devices: which to take them from; None is ``jax.devices()``, those of all hosts.

    Raises:
      ValueError: there are fewer.
    """
    there = list(jax.devices() if devices is None else devices)
    count = len(there) if count is None else count
    if not 1 <= count <= len(there):
        raise ValueError(
            f"{count} devices were asked for and jax sees {len(there)} ({there[0].platform}); "
            f"take from 1 to {len(there)}"
        )
    return Mesh(np.array(there[:count]), (AXIS,))


def check(mesh: Any) -> None:
    """Raises ValueError for what is no row of devices."""
    if not isinstance(mesh, Mesh) or len(mesh.axis_names) != 1:
        raise ValueError(
            f"mesh is {mesh!r}; rows are spread over one axis: take stylejax.devices.mesh()"
        )


def mixed_up(mesh: Mesh) -> bool:
    """Whether gloo carries what its devices send, which ``traffic.unordered`` is about.

    So it does between all CPUs, of one process too, once ``jax.distributed`` has begun.
    """
    on_cpus = mesh.devices.flat[0].platform == "cpu"
    return on_cpus and mesh.size > 1 and jax.distributed.is_initialized()


class Rows(NamedTuple):
    """How the rows of one picture are spread.

    Attributes:
      mesh: the devices, along one axis.
      height: rows that the picture has.
      stride: what a device's rows are a multiple of.
    """

    mesh: Mesh
    height: int
    stride: int

    @property
    def devices(self) -> int:
        """How many there are."""
        return int(self.mesh.devices.size)

    @property
    def each(self) -> int:
        """Rows of each device."""
        return self.stride * -(-self.height // (self.stride * self.devices))

    @property
    def padded(self) -> int:
        """Rows of all devices together, ``height`` or more.

        >>> Rows(mesh(1), 100, 16).padded
        112
        """
        return self.devices * self.each

    def pad(self, x: jax.Array) -> jax.Array:
        """``[height, ...]`` or padded already, as padded rows on their devices."""
        missing = self.padded - x.shape[0]
        x = jnp.pad(x, [(0, missing), *((0, 0),) * (x.ndim - 1)]) if missing else x
        return by_rows(x, self.mesh)

    def crop(self, x: jax.Array) -> jax.Array:
        """Padded rows as ``[height, ...]``."""
        return x[: self.height]


def automatic(mesh: Mesh) -> Mesh:
    """The same devices, where the compiler places whatever nobody has placed."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,))


def spec(mesh: Mesh, axis: int = 0) -> PartitionSpec:
    """An array's axis ``axis`` over the devices."""
    return PartitionSpec(*[None] * axis, mesh.axis_names[0])


def on_each(local: Callable[..., Any], mesh: Mesh, spread: Sequence[bool]) -> Callable[..., Any]:
    """``local`` on every device, with its rows of those arguments that are spread."""
    mine = spec(mesh)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=tuple(mine if s else PartitionSpec() for s in spread),
        out_specs=mine,
        check_vma=False,
    )


def by_rows(x: jax.Array, mesh: Mesh, axis: int = 0) -> jax.Array:
    """The same array with its axis ``axis`` over the devices, which must divide it."""
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(mesh, axis)))


def replicated(tree: Any, mesh: Mesh) -> Any:
    """The same arrays, all of them on every device."""
    where = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, where), tree)


def place(tree: Any, rows: Rows, whole: tuple[int, ...]) -> Any:
    """Every array that ends in the picture's shape as padded rows, all others replicated.

    Args:
      tree: e.g. an optimizer's state, whose L-BFGS memory is ``[memory, *whole]`` twice.
      rows: of the picture.
      whole: the picture's shape, ``(height, W, 3)``, padded or not; ``()`` replicates everything.
    """

    def one(x: jax.Array) -> jax.Array:
        axis = _axis(x, rows, whole)
        if axis is None:
            return replicated(x, rows.mesh)
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, rows.padded - x.shape[axis])
        return by_rows(jnp.pad(x, widths), rows.mesh, axis)

    return jax.tree.map(one, tree)


def take(tree: Any, rows: Rows, whole: tuple[int, ...]) -> Any:
    """What ``place`` has spread, without the rows below the picture and on every device."""

    def one(x: jax.Array) -> jax.Array:
        axis = _axis(x, rows, whole)
        return x if axis is None else jax.lax.slice_in_dim(x, 0, rows.height, axis=axis)

    return replicated(jax.tree.map(one, tree), rows.mesh)


def described(tree: Any, rows: Rows, whole: tuple[int, ...] = (), *, every: bool = False) -> Any:
    """Shapes of what ``place`` has spread, with where they lie: what calls will be given.

    Args:
      tree: arrays or their shapes.
      rows: as for ``place``.
      whole: as for ``place``.
      every: whether all arrays are by rows, whatever their shapes.
    """

    def one(x: Any) -> jax.ShapeDtypeStruct:
        axis = 0 if every else _axis(x, rows, whole)
        where = PartitionSpec() if axis is None else spec(rows.mesh, axis)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(rows.mesh, where))

    return jax.tree.map(one, tree)


def _axis(x: Any, rows: Rows, whole: tuple[int, ...]) -> int | None:
    """Which axis of ``x`` has the picture's rows."""
    axis = len(x.shape) - len(whole)
    shapes = {(height, *whole[1:]) for height in (rows.height, rows.padded)}
    return axis if whole and axis >= 0 and tuple(x.shape[axis:]) in shapes else None


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """Arrays of the host, the same on all hosts, on every device of a mesh; once, not per call.

    Numbers and traced values are left as they are.
    """
    return jax.tree.map(partial(_everywhere, where=NamedSharding(mesh, PartitionSpec())), tree)


def _everywhere(x: Any, *, where: NamedSharding) -> Any:
    if not isinstance(x, np.ndarray | jax.Array) or isinstance(x, jax.core.Tracer):
        return x
    if where.is_fully_addressable or getattr(x, "sharding", None) == where:
        return jax.device_put(x, where)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _everywhere(np.asarray(jax.random.key_data(x)), where=where)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    values = np.asarray(x)
    # Not device_put, which sends the whole array to the other hosts to compare it.
    return jax.make_array_from_callback(values.shape, where, lambda index: values[index])


def put(x: Any, where: jax.sharding.Sharding) -> jax.Array:
    """A copy of an array, the same on all hosts, each part on its device."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jnp.copy(x)  # it is there already
    values = np.asarray(x)
    return jax.make_array_from_callback(values.shape, where, lambda index: np.array(values[index]))


def here(x: Any) -> Any:
    """An array that every device has, as one on this host's first alone; others as they are."""
    if isinstance(x, jax.core.Tracer) or not isinstance(x, jax.Array):
        return x
    return x.addressable_data(0) if len(x.sharding.device_set) > 1 else x
