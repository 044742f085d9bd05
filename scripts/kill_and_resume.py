"""Kills a small run at random moments, again and again, and resumes it each time.

python scripts/kill_and_resume.py --kills 50

SIGKILL leaves a process no time for anything. A run that is killed is resumed, and killed again,
until it is through; then the next one begins, until there were as many kills as asked for. Every
picture, and every loss in its record, must be that of a run that nobody disturbed, to the last
byte. Saves are made after every step, so that kills hit them too.
"""

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from stylejax import saves

ROOT = Path(__file__).parents[1]
RUN = ("--network", "slim", "--size", "48", "--scales", "2", "--steps", "6", "--record", "--quiet")


class Life(NamedTuple):
    """A process from its start to its end.

    Attributes:
      resumed: whether it was one that went on.
      killed: whether it was.
      left: what it left in the folder: ``nothing``, ``a start``, ``a save``, or ``half a save``,
        where there is one beside whatever else.
    """

    resumed: bool
    killed: bool
    left: str


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line for every run and a summary; 1 where one did not end as it should."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument(
        "--seconds", type=float, help="kill within so many (default: as an undisturbed run takes)"
    )
    parser.add_argument("options", nargs="*", help="of stylejax, behind --; more than its few")
    given = parser.parse_args(argv)
    moments, lives = random.Random(given.seed), list[Life]()
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder)
        if given.seconds is None:
            _process(own / "warm.png", given.options).wait()  # compiled programs are kept from now
        began = time.monotonic()
        if _process(own / "whole.png", given.options).wait():
            print("the run does not work even undisturbed")
            return 1
        seconds = given.seconds or time.monotonic() - began
        for number in itertools.count(1):
            if sum(life.killed for life in lives) >= given.kills:
                break
            output, kept = own / f"{number}.png", own / f"{number}"
            left = given.kills - sum(life.killed for life in lives)
            these = [*_lives(output, kept, given.options, moments, seconds, left)]
            lives += these
            same = _told(output) == _told(own / "whole.png")
            kills = sum(life.killed for life in these)
            print(f"run {number}: {kills} kills, {'the same' if same else 'ANOTHER PICTURE'}")
            if not same:
                return 1
    found = Counter(life.left for life in lives if life.killed)
    print(
        f"{sum(found.values())} kills, each within {seconds:.1f} s, which left "
        + ", ".join(f"{what} {times} times" for what, times in sorted(found.items()))
    )
    return 0


def _lives(
    output: Path,
    kept: Path,
    options: Sequence[str],
    moments: random.Random,
    seconds: float,
    kills: int,
) -> Iterator[Life]:
    """Processes until one comes to the run's end, all but the last killed, as many as there may."""
    for done in itertools.count():
        resumed = bool(saves.numbers(kept))
        more = ["--checkpoint", str(kept), "--checkpoint-every", "0", *options]
        process = _process(output, [*more, *(["--resume"] if resumed else [])])
        try:
            status = process.wait(moments.uniform(0, seconds) if done < kills else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            yield Life(resumed, True, _left(kept))
            continue
        if status:
            raise SystemExit(f"a process ended with status {status}")
        yield Life(resumed, False, _left(kept))
        return


def _process(output: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
    pictures = [str(ROOT / "examples" / name) for name in ("photo.jpg", "painting.jpg")]
    script = [sys.executable, str(ROOT / "scripts" / "stylize.py")]
    return subprocess.Popen([*script, *pictures, "-o", str(output), *RUN, *options])


def _left(kept: Path) -> str:
    numbers = saves.numbers(kept)
    if kept.is_dir() and len([*kept.iterdir()]) > len(numbers):
        return "half a save"
    return "nothing" if not numbers else "a start" if numbers == [0] else "a save"


def _told(output: Path) -> tuple[bytes, object]:
    """The picture's bytes, without the seconds that are in its file, and every loss of the run."""
    with Image.open(output) as image:
        pixels = image.tobytes()
    return pixels, json.loads(output.with_suffix(".json").read_text())["history"]


if __name__ == "__main__":
    raise SystemExit(main())
