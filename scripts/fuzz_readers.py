"""Feeds mutated files to every reader of weights, and says what became of them.

python scripts/fuzz_readers.py [--count N] [--reader NAME ...] [--seed N]

Each input is a fixture with some of its bytes changed, cut, repeated or moved. A reader may return
arrays or raise a ValueError of one line. Anything else is a finding: another exception, a crash, a
hang of more than 5 seconds, more than 1 GB of memory, and any attempt to run code, start a process,
open a connection or write a file. Findings are printed with the number that makes the input again
(``--only NUMBER``), and the exit status is then 1.
"""

import argparse
import multiprocessing
import random
import resource
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
SECONDS, BYTES = 5, 2**30
# What no reader has any business with; opening is looked at more closely.
FORBIDDEN = {"exec", "compile", "os.system", "os.exec", "os.posix_spawn", "os.fork"} | {
    "subprocess.Popen",
    "socket.connect",
    "socket.getaddrinfo",
    "import",
    "pickle.find_class",
    "os.remove",
    "os.rename",
    "shutil.rmtree",
}


class Target(NamedTuple):
    """A reader and the files whose mutants it is given."""

    read: Callable[[Path], Any]
    seeds: tuple[Path, ...]


def targets() -> dict[str, Target]:
    """Every reader by name."""
    from stylejax import convert, store, vgg
    from stylejax.matconvnet import read_matconvnet

    tiny = vgg.Architecture((1, 2), (4, 6))
    torch = [FIXTURES / "torch" / f"{name}.pth" for name in ("vgg_zip", "vgg_legacy", "vgg_2017")]
    adain = [FIXTURES / "torch" / f"adain_{kind}.pth" for kind in ("zip", "legacy")]
    adain.append(FIXTURES / "safetensors" / "adain.safetensors")
    matlab = [FIXTURES / "matconvnet" / f"{name}.mat" for name in ("beta16", "newer", "old")]
    keras = [FIXTURES / "keras" / f"{name}.h5" for name in ("legacy", "keras3.weights", "gzip")]
    return {
        "keras": Target(partial(convert.read_keras, architecture=tiny), tuple(keras)),
        "torch": Target(partial(convert.read_torchvision, architecture=tiny), tuple(torch)),
        "safetensors": Target(
            partial(convert.read_jcjohnson, architecture=tiny),
            (FIXTURES / "safetensors" / "vgg.safetensors",),
        ),
        "adain": Target(partial(convert.read_adain, architecture=tiny), tuple(adain)),
        "matconvnet": Target(partial(read_matconvnet, architecture=tiny), tuple(matlab)),
        "store": Target(store.load, (FIXTURES / "keras" / "store.h5",)),
    }


def mutant(seeds: Sequence[bytes], seed: int, number: int) -> bytes:
    """Input ``number``: one of the seeds after one to eight changes."""
    rng = random.Random(f"{seed} {number}")
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 8))):
        rng.choice(CHANGES)(rng, data, seeds)
    return bytes(data)


def _place(rng: random.Random, data: bytearray) -> int:
    """Anywhere, but rather where headers are: near the start or the end."""
    near = rng.choice((64, 1024, len(data), len(data)))
    offset = rng.randrange(max(1, min(near, len(data))))
    return offset if rng.random() < 0.7 else max(0, len(data) - 1 - offset)


def _flip(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _extreme(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    """A number of 1 to 8 bytes at a limit of its type, or off by one."""
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice(
        (0, 1, -1, 2 ** (8 * width - 1), 2 ** (8 * width - 1) - 1, rng.getrandbits(64))
    )
    at = _place(rng, data)
    data[at : at + width] = (value % 2 ** (8 * width)).to_bytes(
        width, rng.choice(("little", "big"))
    )


def _cut(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[_place(rng, data) :]


def _remove(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = _place(rng, data)
    del data[at : at + rng.choice((1, 4, 16, 256))]


def _insert(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    start, at = rng.randrange(len(other)), _place(rng, data)
    data[at:at] = other[start : start + rng.choice((1, 8, 64, 1024))]


def _overwrite(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    start, at, length = rng.randrange(len(other)), _place(rng, data), rng.choice((2, 8, 64, 512))
    data[at : at + length] = other[start : start + length]


CHANGES = (_flip, _flip, _extreme, _extreme, _cut, _remove, _insert, _overwrite)


class Forbidden(BaseException):
    """Raised out of the audit hook, where no ``except Exception`` catches it."""


_watching = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event in FORBIDDEN and not _harmless(event, arguments):
        raise Forbidden(f"{event} {arguments!r:.100}")
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        raise Forbidden(f"open {arguments!r:.100}")


def _harmless(event: str, arguments: tuple[Any, ...]) -> bool:
    """Python's own modules (a codec of file names, say), imported when first needed."""
    if event == "import":
        return str(arguments[0]).split(".")[0] in sys.stdlib_module_names
    return event == "exec" and arguments[0].co_filename.startswith(sysconfig.get_path("stdlib"))


@contextmanager
def _watched() -> Iterator[None]:
    global _watching
    _watching = True
    try:
        yield
    finally:
        _watching = False


def _outcome(read: Callable[[Path], Any], path: Path) -> tuple[str, str]:
    """``read``, ``refused`` or a finding, and what was said."""
    try:
        with _watched():
            read(path)
    except ValueError as error:
        said = str(error)
        return (
            ("finding", f"message of several lines: {said!r}") if "\n" in said else ("refused", "")
        )
    except Forbidden as error:
        return "finding", f"forbidden: {error}"
    except BaseException as error:
        return "finding", f"{type(error).__name__}: {error}"
    return "read", ""


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work(name: str, seed: int, numbers: range, at: Any, results: Any) -> None:
    """Reads inputs one after the other; ``at`` tells the parent which one it is at."""
    target = targets()[name]
    seeds = [path.read_bytes() for path in target.seeds]
    sys.addaudithook(_audit)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "input"
        for data in seeds:  # what is imported or compiled at the first use
            path.write_bytes(data)
            target.read(path)
        before = _peak()
        for number in numbers:
            path.write_bytes(mutant(seeds, seed, number))
            at.value = number
            kind, said = _outcome(target.read, path)
            if _peak() - before > BYTES:
                kind, said = "finding", f"took {(_peak() - before) / 2**30:.1f} GB"
                before = _peak()
            results.put((kind, number, said))
    results.put(("done", -1, ""))


def fuzz(
    name: str,
    seed: int,
    numbers: range,
    *,
    work: Callable[..., None] = work,
    patience: float = SECONDS,
) -> tuple[dict[str, int], list[str]]:
    """Counts by outcome, and the findings; a worker that hangs or dies is replaced.

    Args:
      name: of the reader.
      seed: of the mutants.
      numbers: which inputs.
      work: what a worker process runs.
      patience: seconds that one input may take.
    """
    context = multiprocessing.get_context("spawn")
    counts, findings = {"read": 0, "refused": 0, "finding": 0}, []
    begin = numbers.start
    while begin < numbers.stop:
        at, results = context.Value("q", -1), context.SimpleQueue()
        rest = range(begin, numbers.stop)
        worker = context.Process(target=work, args=(name, seed, rest, at, results))
        worker.start()
        last, since, done, taken = -1, time.monotonic() + 60, False, begin
        while not done:
            alive = worker.is_alive()
            while not results.empty():
                kind, number, said = results.get()
                done = kind == "done"
                if not done:
                    counts[kind] += 1
                    taken = number + 1
                    findings += [f"{name} {number}: {said}"] if kind == "finding" else []
            if at.value != last:
                last, since = at.value, time.monotonic()
            hangs = time.monotonic() - since > patience
            if done or (alive and not hangs):
                time.sleep(0.01)
                continue
            worker.kill()
            worker.join()
            said = f"hung for more than {patience} s" if hangs else f"crashed ({worker.exitcode})"
            findings.append(f"{name} {taken}: {said}")
            counts["finding"] += 1
            taken += 1
            break
        worker.join()
        begin = numbers.stop if done else taken
    return counts, findings


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = [*targets()]
    parser.add_argument("--reader", nargs="*", choices=names, default=names)
    parser.add_argument("--count", type=int, default=100_000, help="inputs for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this input alone")
    options = parser.parse_args(argv)
    numbers = range(options.count)
    if options.only is not None:
        numbers = range(options.only, options.only + 1)
    found: list[str] = []
    for name in options.reader:
        began = time.monotonic()
        counts, findings = fuzz(name, options.seed, numbers)
        summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        print(f"{name}: {summary}, {time.monotonic() - began:.0f} s", flush=True)
        found += findings
    print("\n".join(found[:50]) or "no findings")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
