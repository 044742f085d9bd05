"""What README says, or should say, of a GPU, in one go: the other benchmarks, most wanted first.

python benchmarks/gpu.py [--minutes 12] [--sizes 512 1024 2048] [--skip N] [--list]

Time on such a card is short, so that the commands are here and not in somebody's head. Each has a
process of its own, which finds the card empty, and at most so many seconds; what it prints is
printed as it comes, and then how long it took or that it was ended. None is begun when the minutes
are over. PyTorch is wanted for some (the extra parity), and the network's file for all.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Command(NamedTuple):
    """A benchmark's name and options, what it answers, and the seconds that it may take."""

    answers: str
    limit: int
    words: tuple[str, ...]


def commands(sizes: Sequence[int]) -> Iterator[Command]:
    """What is wanted, in this order."""
    sides = tuple(map(str, sizes))
    ours = ("evaluation", "--padding", "replicate-all", "--precision")
    for precision in ("default", "bfloat16"):
        how = (*ours, precision, "--bare", "--sizes", *sides)
        yield Command(f"ours in a compiled loop, {precision}", 120, how)
    rival = ("--what", "evaluation", "--poolings", "avg", "--paddings", "replicate-all")
    how = ("against_torch", *rival, "--sizes", *sides, "--precisions", "default", "bfloat16")
    yield Command("with L-BFGS, in turns with PyTorch and torch.compile", 240, how)
    how = ("styles", "--precision", "default", "--size", str(min(256, *sizes)))
    yield Command("vmap over 8 styles; 1.5 wanted", 120, how)
    for compact in ("--no-compact", "--compact"):
        how = (*ours, "default", compact, "--sizes", *sides)
        yield Command(f"L-BFGS {compact.removeprefix('--')}", 90, how)
    how = ("start", "--size", str(sizes[0]), "--repeats", "1")
    yield Command("a run of the command, first preview and file", 240, how)
    how = ("batch", "--size", str(min(256, *sizes)))
    yield Command("a folder against a loop; 1.5 wanted", 240, how)
    how = ("plan", "--precision", "default", "--sizes", *sides)
    yield Command("the plan's memory beside the card's peak", 180, how)


def run(command: Command) -> str:
    """How it ended."""
    script = str(HERE / f"{command.words[0]}.py")
    began = time.perf_counter()
    whole = [sys.executable, "-u", script, *command.words[1:]]
    with subprocess.Popen(whole, start_new_session=True) as child:
        try:
            status = child.wait(command.limit)
        except subprocess.TimeoutExpired:
            return f"ended after {command.limit} s"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)  # what it has started holds the card, too
    return f"status {status} after {time.perf_counter() - began:.0f} s"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the commands while there is time."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="the first N commands")
    parser.add_argument("--list", action="store_true", help="only say what would be run")
    options = parser.parse_args(argv)
    end = time.perf_counter() + 60 * options.minutes
    for number, command in enumerate(commands(options.sizes), 1):
        if number <= options.skip:
            continue
        print(f"\n{number}. {command.answers}: {' '.join(command.words)}", flush=True)
        if options.list:
            continue
        left = int(end - time.perf_counter())
        if left < 1:
            print("no time left")
            break
        print(run(command._replace(limit=min(command.limit, left))), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
