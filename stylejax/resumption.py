"""``--checkpoint`` and ``--resume``: a run of the command line that outlives its process.

What is refused is refused by the option's name. A save that fails in the middle of a run is told in
a line, and the run goes on.
"""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from stylejax import fingerprints, hosts, options, place, record, saves
from stylejax.config import Config

SECONDS = 60.0  # from one save to the next

# Of arguments that have only a hash to show.
_HASHED = ("content", "styles", "init", "guides", "params")


def check(given: dict[str, Any]) -> None:
    """Raises now, with the option's name, what can be seen before anything is read or made.

    Args:
      given: the options of the command line by name.

    Raises:
      ValueError: the options do not go together, or there is nothing to go on with.
      OSError: a folder that cannot be written.
    """
    folder: Path | None = given["checkpoint"]
    every = given["checkpoint_every"]
    if folder is None:
        if every is not None:
            raise ValueError(f"--checkpoint-every {every:g} works with --checkpoint only")
        if given["resume"]:
            raise ValueError("--resume works with --checkpoint FOLDER only; name the run's folder")
        return
    if every is not None and not 0 <= every < math.inf:
        raise ValueError(f"--checkpoint-every {every:g} must be a number of seconds from 0 on")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(
            f"--checkpoint {folder}: {there} is no folder; choose another name"
        )
    if given["resume"] and not saves.numbers(folder):
        raise ValueError(
            f"--resume: no run is saved in {folder}; leave --resume out to begin one, or name the "
            "folder that --checkpoint named"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"--checkpoint {folder} cannot be written; choose another folder")


def seconds(given: Mapping[str, Any]) -> float:
    """From one save to the next."""
    every = given["checkpoint_every"]
    return SECONDS if every is None else every


def begin(
    given: dict[str, Any],
    arguments: Mapping[str, Any],
    *,
    network: str,
    frame_steps: int,
) -> saves.Save | None:
    """Where the run goes on from, or its first save, before its start; None without --checkpoint.

    That first save tells a run that is killed before its second what it is, and whether the folder
    can be used at all.

    Args:
      given: the options of the command line by name.
      arguments: of ``iterate`` by name, all that ``fingerprints.fingerprint`` takes.
      network: what to call the network that was found.
      frame_steps: from one frame of an animation to the next, 0 where there is none.

    Raises:
      ValueError: the folder's run is another one, or is not to be gone on with.
      OSError: the folder cannot be used.
    """
    folder: Path | None = given["checkpoint"]
    if folder is None:
        return None
    words = {**record.plain(given), "network": network, "animation_every": frame_steps}
    fresh = saves.Save(fingerprints.fingerprint(**arguments), words=words)
    found = saves.latest(folder)
    if found is not None and given["resume"]:
        _check_same(found, fresh, folder)
    elif found is not None and found.place is not None:
        raise ValueError(
            f"--checkpoint {folder} has a run already, at scale {found.place.scale + 1}, step "
            f"{found.place.step}; add --resume to go on with it, or name another folder"
        )
    try:
        if hosts.writes():
            saves.check(folder, needed=(saves.KEPT + 1) * _bytes(**arguments))
        if found is None or found.place is None:
            if hosts.writes():
                saves.write(folder, fresh)
            return fresh
    except OSError as error:
        raise type(error)(f"--checkpoint {error}") from error
    return found._replace(fingerprint=fresh.fingerprint, words=words)


def save(given: dict[str, Any], state: saves.Save) -> bool:
    """Saves, or says in a line that it could not; returns whether it could.

    Of several processes the first one does.
    """
    if not hosts.writes():
        return True
    try:
        saves.write(given["checkpoint"], state)
    except OSError as error:
        print(f"not saved: {error}", file=sys.stderr)
        return False
    return True


def _bytes(
    params: Any,
    content: Any,
    styles: Sequence[Any],
    *,
    config: Config,
    loss_weights: Any,
    key: jax.Array,
    init: Any,
    guides: Any,
) -> int:
    """Of the largest state of a run, which is that of its last scale."""
    height, width = content.shape[:2]
    shapes = place.shapes(
        *(params, content, tuple(styles), None, loss_weights, key),
        guides=guides,
        size=(height, width),
        config=config,
    )
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _check_same(found: saves.Save, fresh: saves.Save, folder: Path) -> None:
    before, now = found.words, fresh.words
    told = _told(fingerprints.differences(found.fingerprint, fresh.fingerprint), before, now)
    every = now["animation_every"]
    if not told and every and before["animation_every"] != every:
        told = ["--animation or its --animation-every is not what it was, and frames are missing"]
    if told:
        raise ValueError(
            f"--resume: {'; '.join(told)}. Another run is saved in {folder}: give what it had, or "
            "begin one in another folder, without --resume"
        )


def _told(
    differences: Mapping[str, tuple[Any, Any]], before: Mapping[str, Any], now: Mapping[str, Any]
) -> list[str]:
    """What a person has changed: options whose words differ; where there are none, arguments."""
    changed, unexplained = [], []
    for argument, values in differences.items():
        names = options.behind(argument, now) or ("preset",)
        own = [name for name in names if before.get(name) != now.get(name)]
        changed += own
        if not own:
            unexplained.append(_argument(argument, options.called(names[0]), *values))
    if "preset" in changed:
        # It explains what nobody has named.
        changed = ["preset", *changed]
    told = [
        f"{options.called(name)} was {_text(before.get(name))} and is {_text(now.get(name))}"
        for name in dict.fromkeys(changed)
    ]
    return told or unexplained


def _argument(argument: str, option: str, before: Any, now: Any) -> str:
    if argument.partition("[")[0] in _HASHED:
        return f"{option} is not what it was, though it has the same name"
    return f"{option} ({argument}) was {_text(before)} and is {_text(now)}"


def _text(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
