"""Pairs made into pictures, in whatever process: the part of ``batch`` that is sent around.

A picture carries what it was made of (``fingerprint``), so the file itself says whether it is done,
whoever made it and however that ended.
"""

import contextlib
import functools
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from stylejax import companions, display, images, job, lanes, options, plan, record, sweeps, weights
from stylejax.pairing import Pair

# What differs between the pictures of a call: pixels, and masks, which follow them.
VARYING = ("content", "styles", "guides")
MADE, KEPT, FAILED = "made", "kept", "failed"
# Options of files, beside the words that stand for no file.
_MASKS = {"mask": ("rest", "alpha"), "style_mask": ("all",)}
_FILES = ("content_mask", "labels", "style_labels")


class Task(NamedTuple):
    """Pictures of equal shapes, as far as could be seen, and all that is needed to make them.

    Attributes:
      given: the options that all pictures share, by name.
      words: the same as they are written.
      pairs: what to make.
      lanes: how many pictures a call makes; less are filled up.
      network: SHA-256 of the file of weights.
    """

    given: dict[str, Any]
    words: tuple[str, ...]
    pairs: tuple[Pair, ...]
    lanes: int
    network: str


class Row(NamedTuple):
    """What became of a picture; the columns of the table.

    Attributes:
      picture: its file.
      state: ``made``, ``kept`` (it was there) or ``failed``.
      photo: the file.
      style: the file.
      status: of the run, e.g. ``running``: all steps were taken.
      loss: at the end.
      evaluations: at all scales.
      seconds: of the call that made it.
      together: how many pictures that call made.
      width: in pixels.
      height: in pixels.
      sha256: of the picture's file.
      fingerprint: of everything it was made of.
      error: what went wrong, in one line.
    """

    picture: str
    state: str
    photo: str
    style: str
    status: str = ""
    loss: float | None = None
    evaluations: int | None = None
    seconds: float | None = None
    together: int | None = None
    width: int | None = None
    height: int | None = None
    sha256: str = ""
    fingerprint: str = ""
    error: str = ""


def given_for(task: Task, pair: Pair) -> dict[str, Any]:
    """The options of one picture, as if ``stylejax`` had been called for it alone."""
    command = [str(pair.photo), str(pair.style), f"--output={pair.output}", *task.words]
    own = {"photo": pair.photo, "paintings": [pair.style], "output": pair.output}
    return {**task.given, **own, "command": command, "quiet": True}


def fingerprint(
    given: dict[str, Any], network: str, *, digest: Callable[[Path], str] = record.file_digest
) -> str:
    """SHA-256 of everything that the picture depends on: settings, and the contents of files.

    Not of names, of versions, or of the device, which change rounding and no more; nor of what is
    written beside the picture.

    Args:
      given: the options of the picture, with its photo and painting.
      network: SHA-256 of the file of weights.
      digest: of a file's contents.

    Raises:
      ValueError: options that cannot work.
      OSError: a file that cannot be read.
    """
    preset, start = options.build(given, 1)
    masks = {
        name: [word if word in words else digest(Path(word)) for word in given[name] or ()]
        for name, words in _MASKS.items()
    }
    files = {
        name: [digest(path) for path in _paths(given[name])]
        for name in ("photo", "paintings", *_FILES)
    }
    says = {
        "preset": given["preset"],
        "config": record.plain(preset.config),
        "loss_weights": record.plain(preset.loss_weights),
        "size": given["size"],
        "seed": given["seed"],
        "init": given["init"] if start is None else digest(start),
        "region_weights": given["region_weights"],
        "network": network,
        **masks,
        **files,
    }
    return hashlib.sha256(json.dumps(says, sort_keys=True).encode()).hexdigest()


def anywhere(given: dict[str, Any]) -> dict[str, Any]:
    """The options with every file's path from the root, for processes in other folders."""
    found = {name: _absolute(given[name]) for name in (*_FILES, "weights_file")}
    for name, words in _MASKS.items():
        found[name] = given[name] and [w if w in words else os.path.abspath(w) for w in given[name]]
    init = given["init"]
    found["init"] = os.path.abspath(init) if init and Path(init).is_file() else init
    return {**given, **found}


def there(
    task: Task, pair: Pair, *, digest: Callable[[Path], str] = record.file_digest
) -> Row | None:
    """The row of a picture that is done, with all that is wanted beside it; None where it is not.

    Raises:
      ValueError: a file is in its place which stylejax has not made.
      OSError: a file that cannot be read.
    """
    if not pair.output.exists():
        return None
    try:
        origin = json.loads(images.metadata(pair.output)["stylejax"])
        if not isinstance(origin, dict):
            raise KeyError("stylejax")
    except (KeyError, ValueError):
        raise ValueError(
            f"{pair.output} is there and not made by stylejax; move it, or take another --output"
        ) from None
    given = given_for(task, pair)
    if not all(path.exists() for path in companions.files(given).values()):
        return None
    wanted = fingerprint(given, task.network, digest=digest)
    marks = [origin.get("fingerprint")]
    if given["write_record"]:
        marks.append(_mark(pair.output.with_suffix(".json")))
    return _row(pair, KEPT, origin) if marks == [wanted] * len(marks) else None


def failed(pair: Pair, error: Exception) -> Row:
    """The row of a picture that could not be made."""
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, (ValueError, OSError)):  # ours say enough, others may be a number
        text = f"{type(error).__name__}: {text}"
    return _failed(pair, text)


def do(
    task: Task,
    *,
    kept: dict[Any, Any] | None = None,
    shown: Callable[[job.Job], AbstractContextManager[display.Show]] = lambda own: display.silent(),
    stop_asked: Callable[[], int] = lambda: 0,
) -> list[Row]:
    """Makes the pictures of a task that are not there yet, and writes them.

    Whatever goes wrong with one is in its row; the others are made.

    Args:
      task: what to make.
      kept: networks that tasks before this one have read, to which this one adds its own.
      shown: a display for a picture that is made by itself.
      stop_asked: asked between its steps; a picture that is stopped has no row and is not written.
    """
    kept = {} if kept is None else kept
    rows: list[Row] = []
    jobs: list[tuple[Pair, job.Job]] = []
    for pair in task.pairs:
        try:
            if row := there(task, pair):
                rows.append(row)
            else:
                jobs.append((pair, _planned(task, pair, kept)))
        except Exception as error:  # one bad picture of a thousand, whatever is wrong with it
            rows.append(failed(pair, error))
    # Networks are large and always the same, pictures are never.
    for key in [key for key, value in kept.items() if not _is_network(value)]:
        del kept[key]
    if jobs:
        with job.on(jobs[0][1].device):
            if task.lanes == 1:
                for pair, own in jobs:
                    rows += _alone(task, pair, own, shown, stop_asked)
            else:
                rows += _side_by_side(task, jobs, task.lanes)
    return rows


def do_on_worker(task: Task) -> list[Row]:
    """As ``do``, one task at a time in a process, for ``cluster.spread``."""
    with _alone_here:
        return do(task, kept=_networks)


def split(task: Task) -> list[Task]:
    """A task for each picture; none where it has one only."""
    if len(task.pairs) == 1:
        return []
    return [task._replace(pairs=(pair,), lanes=1) for pair in task.pairs]


# A worker has threads, the device has not; and a worker's network is read once.
_alone_here = threading.Lock()
_networks: dict[Any, Any] = {}


def _mark(path: Path) -> Any:
    """The fingerprint in a record; None where there is none."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return json.loads(path.read_bytes()).get("fingerprint")
    return None


def _is_network(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], weights.Found)


def _planned(task: Task, pair: Pair, kept: dict[Any, Any]) -> job.Job:
    own = plan.plan(given_for(task, pair), kept=kept)
    if _network_digest(own.network.path) != task.network:
        raise ValueError(
            f"this worker has other weights, {own.network.path}; name a file that all workers "
            "see by --weights"
        )
    return own


@functools.cache
def _network_digest(path: Path) -> str:
    return record.file_digest(path)


def _alone(
    task: Task,
    pair: Pair,
    own: job.Job,
    shown: Callable[[job.Job], AbstractContextManager[display.Show]],
    stop_asked: Callable[[], int],
) -> Iterator[Row]:
    try:
        with shown(own) as show:
            made, _ = job.make(own, show, stop_asked)
        if not made.interrupted:
            yield _written(task, pair, own, made, 1)
    except Exception as error:
        yield failed(pair, _told(error))


def _side_by_side(task: Task, jobs: Sequence[tuple[Pair, job.Job]], width: int) -> list[Row]:
    """In calls of so many pictures; of half as many where there is no memory for that."""
    cells = [lanes.cell(own) for _, own in jobs]
    rows: list[Row] = []
    for batch in sweeps.batches(cells, lanes=width, varying=VARYING):
        share = [jobs[place] for place in batch.places]
        began = time.monotonic()
        try:
            results = sweeps.run(cells, batch, devices=_devices(share[0][1]))
        except Exception as error:
            if width > 1 and "RESOURCE_EXHAUSTED" in str(error):
                rows += _side_by_side(task, share, width // 2)
            else:
                rows += [failed(pair, _told(error)) for pair, _ in share]
            continue
        seconds = time.monotonic() - began
        for (pair, own), result in zip(share, results, strict=True):
            try:
                made = lanes.made(own, result, seconds)
                rows.append(_written(task, pair, own, made, len(share)))
            except Exception as error:
                rows.append(failed(pair, error))
    return rows


def _told(error: Exception) -> Exception:
    """The same, or what to do about it."""
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        return ValueError("out of memory; take a smaller --size, or fewer --memory pictures")
    return error


def _devices(own: job.Job) -> Sequence[Any]:
    """All of the kind that was asked for."""
    kind = own.given["device"]
    return jax.local_devices(backend=None if kind == "auto" else kind)


def _written(task: Task, pair: Pair, own: job.Job, made: job.Made, together: int) -> Row:
    """Writes the picture last, because with it all is done."""
    mark = fingerprint(own.given, task.network)
    companions.write(
        own.given,
        own.content,
        own.styles,
        made.picture,
        alpha=own.alpha,
        frames=made.frames,
        trace=made.trace,
    )
    return _row(pair, MADE, job.write(own, made, fingerprint=mark, together=together))


def _row(pair: Pair, state: str, origin: dict[str, Any]) -> Row:
    """What the picture's file says of itself."""
    known = {name: origin[name] for name in Row._fields if name in origin}
    known["sha256"] = record.file_digest(pair.output)
    return Row(str(pair.output), state, str(pair.photo), str(pair.style))._replace(**known)


def _failed(pair: Pair, text: str) -> Row:
    return Row(str(pair.output), FAILED, str(pair.photo), str(pair.style), error=text)


def _paths(value: Any) -> list[Path]:
    return [path for path in (value if isinstance(value, list) else [value]) if path is not None]


def _absolute(value: Any) -> Any:
    if isinstance(value, list):
        return [path.absolute() for path in value]
    return value and value.absolute()
