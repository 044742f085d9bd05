"""``stylejax batch``: every photo with every painting, or the pairs of a table, into a folder.

The pictures themselves say what is done, so a run that ended in whatever way goes on when the same
command is given again. ``work`` makes them, here or on a Dask cluster; this room plans and tells.
"""

import csv
import functools
import io
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import rich.console
import typer

from stylejax import (
    cluster,
    display,
    images,
    job,
    masks,
    options,
    pairing,
    plan,
    plots,
    record,
    scale,
    sweeps,
    work,
)
from stylejax.commands import option, parse, sharing, whole, words
from stylejax.config import Config
from stylejax.files import replacing
from stylejax.pairing import Pair
from stylejax.presets import Preset
from stylejax.work import Row, Task

TABLE = "batch.csv"
FORMATS = ("png", "jpg", "webp", "tif", "avif")
# On CPU several pictures in one call gain where they are small: at most so many pixels and pictures
# (docs/decisions.md has the numbers).
CPU_PIXELS = 100_000
CPU_MOST = 4
EVERY = 10  # seconds from one writing of the table to the next
MOST_ERRORS = 20  # that are told one by one
UNWRITABLE = "cannot write"  # how `files` begins
_PANEL = "Many pictures"


def _own(
    photos: Annotated[
        Path | None,
        typer.Argument(help="A folder of photos, or one photo.", show_default=False),
    ] = None,
    styles: Annotated[
        Path | None,
        typer.Argument(help="A folder of paintings, or one painting.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        option(
            "-o --output",
            "Where the pictures go, as PHOTO--STYLE.png, and their table, batch.csv.",
            panel=_PANEL,
            metavar="FOLDER",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        option(
            "--pairs",
            "A table (CSV) with the columns photo and style instead of PHOTOS and STYLES: a "
            "picture for each line. Files are named from the table's folder on.",
            panel=_PANEL,
            metavar="FILE",
        ),
    ] = None,
    format: Annotated[
        str, option("--format", ", ".join(FORMATS) + ".", "png", panel=_PANEL)
    ] = "png",
    together: Annotated[
        int | None,
        option(
            "--together",
            "Most pictures in one compiled call, of those of equal sizes. More take more memory.",
            "on CPU up to 4 where they are small, elsewhere what memory holds",
            panel=_PANEL,
            parser=whole,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        option(
            "--scheduler",
            "Send the work to a Dask cluster: its scheduler's address, or local, for processes "
            "on this machine. Needs the extra batch.",
            "none: this process does it",
            panel=_PANEL,
            metavar="ADDRESS",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        option(
            "--workers",
            "How many processes --scheduler local starts; they share the cores.",
            1,
            panel=_PANEL,
            parser=whole,
        ),
    ] = None,
) -> None: ...


# What only one picture can have.
_WITHOUT = (
    *("photo", "paintings", "save_every", "animation", "animation_every"),
    *("checkpoint", "checkpoint_every", "resume", "draft"),
    *("devices", "hosts", "coordinator", "processes", "process"),
)


class Machine(NamedTuple):
    """What makes the pictures.

    Attributes:
      platform: ``cpu``, ``gpu`` or ``tpu``.
      memory: of a device, in bytes.
      devices: how many there are.
    """

    platform: str
    memory: float
    devices: int


class Plan(NamedTuple):
    """What is to be made.

    Attributes:
      given: the options by name.
      shared: a task without pictures.
      pairs: all of them.
    """

    given: dict[str, Any]
    shared: Task
    pairs: list[Pair]


def application(command: Callable[..., Any]) -> typer.Typer:
    """The command.

    Args:
      command: the main one, whose options it shares.
    """
    return sharing(
        command,
        _own,
        without=_WITHOUT,
        help="Renders every photo of PHOTOS in the style of every painting of STYLES (folders or "
        "files), or the pairs of a table. Given again, it makes what is missing.",
        example="stylejax batch photos paintings -o pictures --size 384",
    )


def main(given_words: Sequence[str], command: Callable[..., Any]) -> int:
    """Makes the pictures and returns the exit status: 1 where one failed, stalled or met NaN.

    Args:
      given_words: of the command line behind ``batch``.
      command: the main command.

    Raises:
      ValueError: an option that cannot work with any picture.
      OSError: a folder or table that cannot be read or written; a scheduler that does not answer.
    """
    given = parse(application(command), given_words, name="stylejax batch")
    return run(prepared(given, command))


def prepared(given: dict[str, Any], command: Callable[..., Any]) -> Plan:
    """Checks what all pictures share, and lists them; none is read yet.

    Raises:
      ValueError: an option that cannot work.
      OSError: a folder or table that cannot be read or written.
    """
    _check(given)
    found = _found(given)
    preset, _ = options.build(given, 1)
    _check_regions(given, preset)
    network = record.file_digest(plan.network(given, preset).path)
    own = given
    if given["scheduler"]:
        own = work.anywhere(given)
        own |= {"output": given["output"].absolute()}
        found = [(photo.absolute(), style.absolute()) for photo, style in found]
    listed = pairing.named(found, own["output"], f".{given['format']}")
    shared = {**own, "output": None}
    return Plan(own, Task(shared, tuple(words(command, shared)), (), 1, network), listed)


def _check(given: dict[str, Any]) -> None:
    if given["output"] is None:
        raise ValueError("--output is missing; name a folder for the pictures: -o FOLDER")
    folder: Path = given["output"]
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder} is no folder; choose another name")
    options.choice("--format", given["format"], FORMATS)
    for name in ("together", "workers"):
        if given[name] is not None and given[name] < 1:
            raise ValueError(f"--{name} {given[name]} must be 1 or more")
    if given["workers"] is not None and given["scheduler"] != cluster.LOCAL:
        raise ValueError(f"--workers {given['workers']} works with --scheduler local only")
    if given["scheduler"]:
        try:
            cluster.check()
        except ModuleNotFoundError as error:
            raise ValueError(f"--scheduler {given['scheduler']} {error}") from None
    else:  # the device is here
        plan.find_device(given)
    plan.check_numbers(given)
    if given["plot"]:
        try:
            plots.check()
        except ModuleNotFoundError as error:
            raise ValueError(f"--plot {error}") from None
    table = folder / TABLE
    if table.exists():
        _rows(table)  # it must be ours


def _check_regions(given: dict[str, Any], preset: Preset) -> None:
    """Lays the masks over a photo and a painting that stand for all of them."""
    side = (1, 1)
    photo = masks.Photo(side, side, np.ones(side, np.float32))
    marked = plan.regions({**given, "quiet": True}, photo, [side])
    if marked is not None:
        options.in_regions(preset, given, marked)


def _found(given: dict[str, Any]) -> list[tuple[Path, Path]]:
    """Photos and paintings, as they are named."""
    photos, styles, table = given["photos"], given["styles"], given["pairs"]
    if table is not None:
        if photos is not None:
            raise ValueError("--pairs names photos and styles; give no PHOTOS and STYLES beside it")
        found = pairing.table(table)
    elif photos is None or styles is None:
        raise ValueError("give PHOTOS and STYLES, a folder or a file each, or --pairs FILE")
    else:
        folder = given["output"]
        for place in (photos, styles):
            if folder.exists() and place.is_dir() and folder.samefile(place):
                raise ValueError(
                    f"--output {folder} is a folder of inputs, of which the pictures would be "
                    "some; choose another"
                )
        found = pairing.product(
            pairing.files(photos, what="PHOTOS"), pairing.files(styles, what="STYLES")
        )
    return found


def run(planned: Plan) -> int:
    """Makes what is missing, writes the table whatever happens, and returns the exit status."""
    given, console = planned.given, display.console()
    table: Path = given["output"] / TABLE
    given["output"].mkdir(parents=True, exist_ok=True)
    others = _others(table, planned.pairs)
    rows: dict[Path, Row] = {}
    began = written = time.monotonic()
    try:
        missing = _missing(planned, rows, console)
        for outcome in _outcomes(planned, missing, console) if missing else ():
            for row in outcome:
                rows[Path(row.picture)] = row
                if not given["quiet"]:
                    count = f"{len(rows)}/{len(planned.pairs)}"
                    _say(console, f"{count}  {_line(row)}")
                if row.error.startswith(UNWRITABLE):  # as all that follow, hours of work
                    raise OSError(f"{row.error}; the same command goes on from there")
            if time.monotonic() - written > EVERY:
                _write(table, planned.pairs, rows, others)
                written = time.monotonic()
    except KeyboardInterrupt:
        pass  # what is not done has no row
    finally:
        _write(table, planned.pairs, rows, others)
    return _tell(planned, list(rows.values()), console, time.monotonic() - began)


def tasks(planned: Plan, missing: Sequence[Pair], machine: Machine) -> Iterator[Task]:
    """Calls of pictures of equal shapes, as far as the files' first bytes tell.

    Args:
      planned: what all share.
      missing: the pictures to make.
      machine: what makes them.
    """
    config = options.build(planned.given, 1)[0].config
    shapes = functools.partial(_shapes, planned.given["size"], config, functools.cache(images.size))
    groups: dict[Any, list[Pair]] = {}
    for pair in missing:
        groups.setdefault(shapes(pair), []).append(pair)
    for found, group in groups.items():
        lanes = 1
        if found is not None:
            most = planned.given["together"] or fitting(found[0], machine)
            lanes = -(-len(group) // -(-len(group) // most))
            if lanes > 1:  # as many on each device
                lanes = -(-lanes // min(lanes, machine.devices)) * min(lanes, machine.devices)
        for first in range(0, len(group), lanes):
            share = tuple(group[first : first + lanes])
            yield planned.shared._replace(pairs=share, lanes=lanes)


def fitting(size: tuple[int, int], machine: Machine) -> int:
    """How many pictures of a height and width a call should make.

    Few on CPU and only small ones, where that gains; elsewhere what half of the memory of every
    device is estimated to hold, but no more than ``sweeps.MOST`` on each.

    >>> [fitting((side, side), Machine("cpu", 8e9, 1)) for side in (128, 192, 512)]
    [4, 2, 1]
    """
    if machine.platform == "cpu":
        return max(1, min(CPU_MOST, CPU_PIXELS // math.prod(size)))
    held = machine.memory / 2 // (math.prod(size) * sweeps.BYTES_PER_PIXEL)
    return machine.devices * int(min(sweeps.MOST, max(1, held)))


def machine(kind: str) -> Machine:
    """What this process has of the kind that ``--device`` names."""
    devices = jax.local_devices(backend=None if kind == "auto" else kind)
    memory = (devices[0].memory_stats() or {}).get("bytes_limit", 2**33)
    return Machine(devices[0].platform, memory, len(devices))


def _shapes(
    size: int, config: Config, size_of: Callable[[Path], tuple[int, int]], pair: Pair
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Of the picture and of its painting beside it; None where a file cannot be read."""
    try:
        photo, style = size_of(pair.photo), size_of(pair.style)
    except (ValueError, OSError):
        return None
    height, width = map(config.nearest, images.fit(*photo, size))
    return (height, width), scale.style_size(style, (height, width), config)


def _missing(planned: Plan, rows: dict[Path, Row], console: rich.console.Console) -> list[Pair]:
    """What is to be made; what is not has its row then."""
    digest = functools.cache(record.file_digest)
    missing, other = [], 0
    for pair in planned.pairs:
        try:
            row = work.there(planned.shared, pair, digest=digest)
        except (ValueError, OSError) as error:
            row = work.failed(pair, error)
        if row:
            rows[pair.output] = row
        else:
            missing.append(pair)
            other += pair.output.exists()
    if other and not planned.given["quiet"]:
        text = f"{other} pictures are there, of other options or files; they are made anew"
        _say(console, text)
    return missing


def _outcomes(
    planned: Plan, missing: Sequence[Pair], console: rich.console.Console
) -> Iterator[list[Row]]:
    """The rows of one call after the other; they end early where they are interrupted."""
    given = planned.given
    if given["scheduler"]:
        yield from _on_cluster(planned, missing)
        return
    watched = console.is_terminal and not given["quiet"]

    def shown(own: job.Job) -> AbstractContextManager[display.Show]:
        clock = display.Clock(own.preset.config, *own.content.shape[:2])
        return display.live(console, clock) if watched else display.silent()

    kept: dict[Any, Any] = {}
    with job.stop_on_ctrl_c() as stop_asked:
        for task in tasks(planned, missing, machine(given["device"])):
            yield work.do(task, kept=kept, shown=shown, stop_asked=stop_asked)
            if stop_asked():
                return


def _on_cluster(planned: Plan, missing: Sequence[Pair]) -> Iterator[list[Row]]:
    given = planned.given
    workers = given["workers"] or 1
    do = cluster.sharing(work.do_on_worker, workers)
    with cluster.connected(given["scheduler"], workers=workers) as client:
        look = client.submit(cluster.sharing(machine, workers), given["device"], pure=False)
        try:
            seen = look.result()
        except Exception as error:
            raise OSError(
                f"--scheduler {given['scheduler']}: its workers cannot make pictures "
                f"({type(error).__name__}: {error}); give them the same stylejax and device"
            ) from error
        coming = tasks(planned, missing, seen)
        try:
            for task, outcome in cluster.spread(client, do, coming, split=work.split):
                if isinstance(outcome, Exception):
                    outcome = [work.failed(pair, outcome) for pair in task.pairs]
                # What a worker found there, another has made before it died.
                again = {work.KEPT: work.MADE}
                yield [row._replace(state=again.get(row.state, row.state)) for row in outcome]
        except ConnectionError as error:
            raise ConnectionError(
                f"--scheduler {given['scheduler']}: {error}; what is done is in {given['output']}, "
                "and the same command goes on from there"
            ) from error


def _say(console: rich.console.Console, text: str) -> None:
    """As it is, whatever a file is called."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _line(row: Row) -> str:
    """What a person is told of a picture."""
    name = Path(row.picture).name
    if row.state == work.FAILED:
        return f"{name}: failed, {row.error}"
    shared = f", {row.together} together" if (row.together or 1) > 1 else ""
    return (
        f"{name}: loss {float(row.loss or 0):.4g}, {row.evaluations} evaluations in "
        f"{display.duration(row.seconds)}{shared}"
    )


def _others(table: Path, listed: Sequence[Pair]) -> list[dict[str, str]]:
    """What the table says of pictures in the folder that this run has nothing to do with."""
    names = {pair.output.name for pair in listed}
    return [
        row
        for row in (_rows(table) if table.exists() else ())
        if row["picture"] not in names and (table.parent / row["picture"]).exists()
    ]


def _rows(table: Path) -> list[dict[str, str]]:
    with open(table, newline="", encoding="utf-8") as file:
        try:
            rows = csv.DictReader(file)
            if tuple(rows.fieldnames or ()) == Row._fields:
                return list(rows)
        except (csv.Error, UnicodeDecodeError):
            pass
    raise ValueError(f"{table} is no table of stylejax batch; move it, or choose another --output")


def _write(
    table: Path, listed: Sequence[Pair], rows: dict[Path, Row], others: list[dict[str, str]]
) -> None:
    """The table: rows in the order of the pairs, and those of other pictures behind them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, Row._fields, lineterminator="\n")
    writer.writeheader()
    own = [rows[pair.output] for pair in listed if pair.output in rows]
    # Without the folder, which may be moved.
    writer.writerows({**row._asdict(), "picture": Path(row.picture).name} for row in own)
    writer.writerows(others)
    with replacing(table) as file:
        file.write(text.getvalue().encode())


def _tell(planned: Plan, rows: Sequence[Row], console: rich.console.Console, seconds: float) -> int:
    """Says how it ended, with what failed and why, and returns the exit status."""
    folder, total = planned.given["output"], len(planned.pairs)
    count = Counter(row.state for row in rows)
    bad = sum(row.status in (status.name.lower() for status in record.BAD) for row in rows)
    interrupted = len(rows) < total
    errors = Counter(row.error for row in rows if row.state == work.FAILED)
    for error, times in errors.most_common(MOST_ERRORS):
        _say(console, f"failed: {error}" + (f" ({times} pictures)" if times > 1 else ""))
    if len(errors) > MOST_ERRORS:
        _say(console, f"and {len(errors) - MOST_ERRORS} other reasons, in {folder / TABLE}")
    text = f"{folder}: {count[work.MADE] + count[work.KEPT]} of {total} pictures"
    text += f" ({count[work.KEPT]} were there)" if count[work.KEPT] else ""
    text += f" in {display.duration(seconds)}"
    text += f"; {count[work.FAILED]} failed" if count[work.FAILED] else ""
    text += f"; {bad} stalled or met NaN" if bad else ""
    if interrupted:
        text = f"interrupted; {text}; the same command goes on from there"
    if interrupted or bad or errors or not planned.given["quiet"]:
        _say(console, text)
    return job.INTERRUPTED if interrupted else job.FAILED if bad or errors else 0
