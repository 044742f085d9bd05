"""A run in a folder, so that it survives its process: written and read by Orbax.

A folder holds one run. Its saves are numbered folders, the last two; Orbax writes each beside the
others and renames it when it is complete, and last of all come the checksums of its files. What has
none is no save, whenever the process was killed, and a damaged one gives way to the one before.

Where a run has several processes, the one that calls ``write`` writes, alone; what is not within
its reach of an array has to be gathered before.
"""

import json
import logging
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from stylejax import record
from stylejax.files import replacing
from stylejax.objective import LossTerms
from stylejax.optimizers import Status
from stylejax.place import Place
from stylejax.scale import History

__all__ = ["KEPT", "Save", "check", "latest", "numbers", "write"]

KEPT = 2

# Ours, whole or not, with what Orbax writes into before it is.
_OURS = re.compile(r"save-\d{8}(\.orbax-checkpoint-tmp.*)?")
_CHECKSUMS = "checksums.json"


class Save(NamedTuple):
    """What a run needs to go on, and what has been told of it so far.

    Attributes:
      fingerprint: of the run's arguments, of ``fingerprints.fingerprint``.
      place: where the run stands; None before its start.
      trace: what ``record.entry`` keeps of every ``Progress`` so far, at least one for each scale;
        ``write`` joins those of a scale.
      frames: of an animation, ``[h, w, 3]`` uint8.
      seconds: that the run has taken.
      words: anything that JSON can hold.
      versions: of the packages that wrote it.
    """

    fingerprint: Mapping[str, Any]
    place: Place | None = None
    trace: Sequence[record.Entry] = ()
    frames: Sequence[np.ndarray] = ()
    seconds: float = 0.0
    words: Mapping[str, Any] = {}
    versions: Mapping[str, str] = {}


def check(folder: str | os.PathLike[str], *, needed: int = 0) -> None:
    """Makes the folder, clears it of what killed processes left, and sees whether it can be used.

    Args:
      folder: of the run.
      needed: bytes that must be free there, beside the saves that are there already.

    Raises:
      OSError: it cannot be written, or it has no room; one line.
    """
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        probe = place / f".stylejax-{uuid.uuid4().hex}.part"
        probe.write_bytes(b"")
        probe.unlink()
        _clean(place)
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(f"cannot save in {place} ({reason}); choose another folder") from error
    room = shutil.disk_usage(place).free + sum(map(_size, _saves(place)))
    if room < needed:
        raise OSError(
            f"cannot save in {place}: the saves of this run want {_amount(needed)}, and its disk "
            f"has room for {_amount(room)}; choose a folder elsewhere, or make room"
        )


def write(folder: str | os.PathLike[str], save: Save) -> None:
    """Adds a save, and removes all but the last two.

    Raises:
      OSError: the file system refuses; the saves before are unchanged.
    """
    place = Path(folder).absolute()
    arrays = _arrays(save)
    words = {
        "place": None if save.place is None else save.place._replace(state=None)._asdict(),
        "trace": [_plain_entry(entry) for entry in record.joined(save.trace)],
        "seconds": save.seconds,
        "fingerprint": save.fingerprint,
        "words": save.words,
        "versions": record.versions(),
        # Which Orbax does not take.
        "empty": {name: [a.shape, str(a.dtype)] for name, a in arrays.items() if not a.size},
    }
    arrays = {name: array for name, array in arrays.items() if array.size}
    new = place / f"save-{max(numbers(place), default=-1) + 1:08}"
    with _orbax(place) as orbax:
        items = {"words": orbax.args.JsonSave(words)}
        if arrays:
            items["arrays"] = orbax.args.StandardSave(arrays)
        _clean(place)
        with _checkpointer(orbax) as checkpointer:
            checkpointer.save(new, args=orbax.args.Composite(**items))
        checksums = json.dumps(_checksums(new)).encode()
        with replacing(new / _CHECKSUMS) as file:
            file.write(checksums)
        for old in _saves(place)[:-KEPT]:
            (old / _CHECKSUMS).unlink()  # from here on it is no save
            shutil.rmtree(old)


def latest(folder: str | os.PathLike[str]) -> Save | None:
    """The last save that can be read, with NumPy arrays; None where there is none.

    Raises:
      OSError: there are saves, and none can be read.
    """
    reason: Exception | None = None
    for place in reversed(_saves(Path(folder).absolute())):
        try:
            return _read(place)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = reason or error
    if reason is None:
        return None
    raise OSError(
        f"no save in {os.fspath(folder)} can be read ({_first_line(reason)}); "
        "begin the run anew in another folder"
    ) from reason


def _read(place: Path) -> Save:
    # Before Orbax sees them, whose threads would complain of a damaged file one by one.
    if _checksums(place) != json.loads((place / _CHECKSUMS).read_bytes()):
        raise ValueError(f"{place.name} is damaged: its checksums are others")
    with _orbax(place) as orbax:
        wanted = {"words": orbax.args.JsonRestore()}
        if (place / "arrays").is_dir():
            wanted["arrays"] = orbax.args.StandardRestore()
        with _checkpointer(orbax) as checkpointer:
            found = checkpointer.restore(place, args=orbax.args.Composite(**wanted))
    words, arrays = found["words"], dict(found["arrays"]) if "arrays" in wanted else {}
    arrays |= {name: np.zeros(*shape_dtype) for name, shape_dtype in words["empty"].items()}
    state = {name: array for name, array in arrays.items() if name.startswith("state")}
    standing = words["place"] and Place(**{**words["place"], "state": state})
    return Save(
        fingerprint=words["fingerprint"],
        place=standing,
        trace=tuple(map(_entry, words["trace"])),
        frames=tuple(arrays[name] for name in sorted(set(arrays) - set(state))),
        seconds=words["seconds"],
        words=words["words"],
        versions=words["versions"],
    )


@contextmanager
def _orbax(place: Path) -> Iterator[Any]:
    """Orbax, imported on demand, without its log; its errors in one line."""
    import orbax.checkpoint

    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)  # tracebacks of its threads, whose errors are raised as well
    try:
        yield orbax.checkpoint
    # tensorstore has only ValueErrors.
    except (OSError, ValueError, RuntimeError) as error:
        raise OSError(f"cannot use {place} ({_first_line(error)}); see to its disk") from error
    finally:
        log.setLevel(level)


def _checkpointer(orbax: Any) -> Any:
    """Of this process, which waits for no other."""
    own = jax.process_index()
    alone = {
        "multiprocessing_options": orbax.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"stylejax{own}"
        )
    }
    handlers = {
        "arrays": orbax.StandardCheckpointHandler(**alone),
        "words": orbax.JsonCheckpointHandler(**alone),
    }
    options = orbax.CompositeOptions(**alone)
    composite = orbax.CompositeCheckpointHandler(composite_options=options, **handlers)
    return orbax.Checkpointer(composite, **alone)


def _first_line(error: Exception) -> str:
    """What went wrong, briefly; of a full disk just that."""
    full = os.strerror(28)
    text = " ".join(str(error).split()) or type(error).__name__
    return full if full in text else text[:200]


def numbers(folder: str | os.PathLike[str]) -> list[int]:
    """Of the saves in a folder, whatever is in them, oldest first."""
    return [int(place.name.removeprefix("save-")) for place in _saves(Path(folder))]


def _ours(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _OURS.fullmatch(path.name))


def _saves(folder: Path) -> list[Path]:
    """The saves, oldest first."""
    return [path for path in _ours(folder) if (path / _CHECKSUMS).is_file()]


def _clean(folder: Path) -> None:
    """Removes what never was a save, or is none any more."""
    for path in set(_ours(folder)) - set(_saves(folder)):
        shutil.rmtree(path)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _arrays(save: Save) -> dict[str, np.ndarray]:
    """The state's leaves in their order and the frames in theirs, by names that sort so."""
    named = {}
    if save.place is not None:
        leaves = jax.tree_util.tree_flatten_with_path(save.place.state)[0]
        for number, (path, leaf) in enumerate(leaves):
            named[f"state {number:04} {jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    return named | {f"frame {number:08}": frame for number, frame in enumerate(save.frames)}


def _checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of every file, by its path in the folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name != _CHECKSUMS and path.is_file():
            found[name] = 0
            with open(path, "rb") as file:
                while part := file.read(2**20):
                    found[name] = zlib.crc32(part, found[name])
    return found


def _plain_entry(entry: record.Entry) -> dict[str, Any]:
    """Numbers that come back as they were: JSON has as many digits as a float wants."""
    terms = jax.tree.map(lambda column: np.asarray(column).tolist(), entry.history.terms)
    history = entry.history
    return {
        **entry._replace(status=int(entry.status), history=None)._asdict(),  # type: ignore[arg-type]
        "dtype": str(np.asarray(history.terms.total).dtype),
        "terms": terms._asdict(),
        "steps": [np.asarray(history.evaluations).tolist(), np.asarray(history.taken).tolist()],
    }


def _entry(plain: Mapping[str, Any]) -> record.Entry:
    def column(values: Any) -> Any:
        if isinstance(values, Mapping):
            return {layer: column(own) for layer, own in values.items()}
        return np.asarray(values, plain["dtype"])

    evaluations, taken = plain["steps"]
    history = History(
        LossTerms(**{name: column(values) for name, values in plain["terms"].items()}),
        np.asarray(evaluations, np.int32),
        np.asarray(taken, bool),
    )
    fields = {name: plain[name] for name in record.Entry._fields if name != "history"}
    return record.Entry(**{**fields, "status": Status(plain["status"]), "history": history})
