"""Provenance: what made a picture, as plain JSON values."""

import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

import stylejax
from stylejax.files import replacing
from stylejax.losses import ContentLoss
from stylejax.optimizers import Status
from stylejax.statistics import Statistic
from stylejax.transfer import History, Progress

# What a picture is told of that has not come out well.
BAD = (Status.STALLED, Status.NON_FINITE)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Of Python and of every package that takes part in the numbers."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"stylejax": stylejax.__version__, "python": platform.python_version(), **found}


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Any) -> Any:
    """Settings as JSON: functions and statistics by name, records by field.

    Non-finite numbers become text.
    """
    if isinstance(value, Statistic | ContentLoss):
        return value.name
    if isinstance(value, Mesh):
        return dict(value.shape)
    if hasattr(value, "__dataclass_fields__"):
        fields = {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
        return {"kind": type(value).__name__, **fields}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, partial):
        return {"kind": plain(value.func), "arguments": plain(value.args), **plain(value.keywords)}
    if callable(value):
        return value.__name__
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return plain(np.asarray(value).tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value


class Entry(NamedTuple):
    """A ``Progress`` without its picture."""

    scale: int
    width: int
    height: int
    status: Status
    evaluations: int
    loss: float
    history: History


def entry(progress: Progress) -> Entry:
    """What is kept of a ``Progress`` for the record."""
    height, width = progress.image.shape[:2]
    return Entry(
        progress.scale,
        width,
        height,
        progress.status,
        progress.evaluations,
        float(progress.terms.total),
        progress.history,
    )


def worst(trace: Sequence[Entry]) -> Status:
    """The worst status of all scales."""
    return max(item.status for item in trace)


def steps_taken(trace: Sequence[Entry]) -> int:
    """Optimizer steps at all scales so far."""
    return sum(int(np.sum(item.history.taken)) for item in trace)


def by_scale(trace: Sequence[Progress] | Sequence[Entry]) -> tuple[History, ...]:
    """A run's rows, one record per scale as in ``Result``, but with the start as first row."""
    parts: dict[int, list[History]] = {}
    for item in trace:
        parts.setdefault(item.scale, []).append(item.history)
    return tuple(
        jax.tree.map(lambda *columns: np.concatenate(columns), *rows) for rows in parts.values()
    )


def joined(trace: Sequence[Entry]) -> list[Entry]:
    """One for each scale: its last, with the rows of all."""
    last = {item.scale: item for item in trace}
    rows = by_scale(trace)
    return [item._replace(history=h) for item, h in zip(last.values(), rows, strict=True)]


def history(trace: Sequence[Entry]) -> list[dict[str, Any]]:
    """A run's rows, one record per scale with a column per term; the first row is the start."""
    return [
        {
            "width": item.width,
            "height": item.height,
            "status": item.status.name.lower(),
            "evaluations": plain(item.history.evaluations),
            **plain(item.history.terms),
        }
        for item in joined(trace)
    ]


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON, whole or not at all."""
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1).encode())
