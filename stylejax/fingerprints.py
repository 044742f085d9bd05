"""Whether two runs are the same: their arguments as plain values, to be kept and compared."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from stylejax import record, vgg
from stylejax.config import Config
from stylejax.guides import Guides
from stylejax.objective import DEFAULT_WEIGHTS, LossWeights
from stylejax.scale import Array

# How an evaluation is gone about, as memory allows: nothing but rounding depends on it.
_WAYS = ("strip", "strip_above", "recompute", "nested", "mesh", "height")


def fingerprint(
    params: vgg.Params,
    content: Array,
    styles: Sequence[Array],
    *,
    config: Config | None = None,
    loss_weights: LossWeights | None = None,
    key: jax.Array | None = None,
    init: Array | None = None,
    guides: Guides | None = None,
) -> dict[str, Any]:
    """The arguments of ``stylize`` or ``iterate`` as plain JSON values by name.

    Of arrays it has hashes, of settings their values, of functions their names: two functions of
    one name are not told apart.
    """
    settings = config or Config()
    marks = {
        "size": f"{content.shape[1]}x{content.shape[0]}",
        "content": _hash(content),
        **{f"styles[{number}]": _hash(style) for number, style in enumerate(styles)},
        "init": None if init is None else _hash(init),
        "guides": None if guides is None else _hash(guides),
        "params": _hash(params),
        "key": _plain(jax.random.key_data(jax.random.key(0) if key is None else key)),
    }
    left_out = ("optimizer", "canvas", *_WAYS)
    marks |= {f"config.{name}": value for name, value in _fields(settings) if name not in left_out}
    # The one in use: a state means another picture when the default is another.
    marks["config.canvas"] = _plain(settings.held)
    marks["config.optimizer"] = type(settings.optimizer).__name__
    marks |= {f"config.optimizer.{name}": value for name, value in _fields(settings.optimizer)}
    numbers = (loss_weights or DEFAULT_WEIGHTS)._asdict()
    return marks | {f"loss_weights.{name}": _plain(value) for name, value in numbers.items()}


def differences(saved: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """By argument what was saved and what is given, where the two are not the same."""
    names = dict.fromkeys((*given, *saved))
    return {n: (saved.get(n), given.get(n)) for n in names if saved.get(n) != given.get(n)}


def same(saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises ValueError, with every name, where a save is of a run with other arguments."""
    found = differences(saved, given)
    if found:
        told = "; ".join(f"{name} was {was!r} and is {now!r}" for name, (was, now) in found.items())
        raise ValueError(f"the save is of another run: {told}; give what it had, or another folder")


def _plain(value: Any) -> Any:
    """As it will be when it has been in a file."""
    return json.loads(json.dumps(record.plain(value)))


def _fields(settings: Any) -> list[tuple[str, Any]]:
    return [(name, _plain(getattr(settings, name))) for name in settings.__dataclass_fields__]


def _hash(tree: Any) -> str:
    """SHA-256 of all arrays of a pytree with their places, shapes and dtypes."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape};".encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()
