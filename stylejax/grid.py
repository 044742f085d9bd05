"""``stylejax grid``: a contact sheet over the values of one option or two, and a table of numbers.

A cell is a command line of ``stylejax``: the words that all cells share, and the values of its
own. All cells are planned before the first one is made.
"""

import csv
import io
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import rich.console
import typer

from stylejax import display, images, job, lanes, record, sheet, sweeps
from stylejax.files import replacing
from stylejax.optimizers import Status

PLACES = ("photo", "painting")  # arguments, which have no name on the command line
# What all cells have in common, and what only one picture can have.
FIXED = ("output", "o", "save-every", "record", "quiet", "q", "device", "offline")

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


class Axis(NamedTuple):
    """An option and its values, as words."""

    name: str
    values: tuple[str, ...]


class Plan(NamedTuple):
    """A sheet whose every cell has passed its checks.

    Attributes:
      axes: the options of the columns and, if there are two, of the rows.
      jobs: the cells, row by row.
      given: the options of the command by name.
    """

    axes: tuple[Axis, ...]
    jobs: tuple[job.Job, ...]
    given: dict[str, Any]


class Done(NamedTuple):
    """A cell's picture and numbers, and how many pictures its call made."""

    made: job.Made
    terms: dict[str, float]
    together: int


@app.command(
    help="Renders a contact sheet over the values of one option or two. All other words are those "
    "of [bold]stylejax[/bold]: PHOTO, PAINTINGs and options that all pictures share.",
    epilog='Example: stylejax grid photo.jpg painting.jpg -o sheet.png --vary "style-weight=5,20" '
    '--vary "content-layers=relu4_2 | relu3_1,relu4_2" --size 256',
    no_args_is_help=True,
    options_metavar="PHOTO PAINTINGS... -o SHEET --vary OPTION=VALUES [OPTIONS]",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def command(
    context: typer.Context,
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="The sheet; the numbers come into a file of the same name that ends in .csv.",
            metavar="SHEET",
        ),
    ],
    vary: Annotated[
        list[str],
        typer.Option(
            help="An option of stylejax, or photo or painting, and its values, with | between "
            "them or, where there is none, commas. The first one makes columns, a second one rows.",
            metavar="OPTION=VALUES",
        ),
    ],
    keep: Annotated[
        Path | None,
        typer.Option(
            help="Write each picture too, as ROW-COLUMN.png; with --record its record.",
            metavar="FOLDER",
        ),
    ] = None,
    together: Annotated[
        int | None,
        typer.Option(
            help="Most pictures in one compiled call. More take more memory, and on CPU more time "
            "[dim](default: 1 on CPU, elsewhere what fits the memory)[/dim].",
            metavar="N",
            show_default=False,
        ),
    ] = None,
) -> dict[str, Any]:
    """Collects the options; ``plan`` and ``run`` do the rest."""
    given = {"output": output, "vary": vary, "keep": keep, "together": together}
    return {**given, "words": context.args, "command": context.obj}


def main(words: Sequence[str], parse: Callable[[Sequence[str]], dict[str, Any]]) -> int:
    """Makes the sheet and returns the exit status, that of ``stylejax`` for its worst cell.

    Args:
      words: of the command line behind ``grid``.
      parse: makes of a command line of ``stylejax`` its options by name.

    Raises:
      ValueError: an option or an input that cannot work, in any cell.
      OSError: a file that cannot be read or written.
    """
    words = list(words)
    name = "stylejax grid"
    given = app(words, prog_name=name, obj=["stylejax", "grid", *words], standalone_mode=False)
    if not isinstance(given, dict):
        return 0  # --help was asked for and answered
    return run(plan(given, parse))


def plan(given: dict[str, Any], parse: Callable[[Sequence[str]], dict[str, Any]]) -> Plan:
    """Checks every cell, and reads every file once.

    Raises:
      ValueError: an option or an input that cannot work; the message begins with the cell.
      OSError: a file that cannot be read or written.
    """
    if (together := given["together"]) is not None and together < 1:
        raise ValueError(f"--together {together} must be 1 or more")
    keep: Path | None = given["keep"]
    if _table_of(given["output"]).is_dir():
        raise ValueError(f"{_table_of(given['output'])} is a folder; choose another --output")
    if keep and keep.exists() and not keep.is_dir():
        raise ValueError(f"--keep {keep} is no folder; choose another name")
    axes = tuple(_axis(text) for text in given["vary"])
    if len(axes) > 2:
        raise ValueError(f"--vary is given {len(axes)} times; a sheet has columns and rows only")
    if len(axes) == 2 and axes[0].name == axes[1].name:
        raise ValueError(f"--vary names {axes[0].name} twice; give all its values at once")
    cells: list[dict[str, Any]] = []
    kept: dict[Any, Any] = {}
    for place, values in enumerate(_cells(axes)):
        words = _words(given["words"], axes, values)
        own = parse([*words, f"--output={given['output']}"])
        if keep:
            row, column = divmod(place, len(axes[0].values))
            own["output"] = keep / f"{row + 1}-{column + 1}.png"
            own["command"] = [*words, f"--output={own['output']}"]
        cells.append(own)
    _check_common(cells[0], given)
    if keep:
        _check_kept(cells, given["output"])
    jobs = []
    for own, values in zip(cells, _cells(axes), strict=True):
        try:
            jobs.append(job.plan({**own, "output": given["output"]}, kept=kept))
        except (ValueError, OSError) as error:
            kind = OSError if isinstance(error, OSError) else ValueError
            raise kind(f"{_label(axes, values)}: {error}") from error
        jobs[-1] = jobs[-1]._replace(given=own)
    seeded = "seed" in (axis.name for axis in axes)
    if seeded and not any(j.preset.config.noise and j.init is None for j in jobs):
        raise ValueError(
            "--vary seed makes equal pictures: they start without noise; add --init noise, or mix:R"
        )
    return Plan(axes, tuple(jobs), given)


def run(planned: Plan) -> int:
    """Makes the cells and writes what is done, whatever happens; returns the exit status."""
    first, console = planned.jobs[0], display.console()
    done: dict[int, Done] = {}
    began = time.monotonic()
    if planned.given["keep"]:
        planned.given["keep"].mkdir(parents=True, exist_ok=True)
        images.check_output(first.given["output"])
    try:
        with job.on(first.device), job.stop_on_ctrl_c() as stop_asked:
            interrupted = not _make(planned, done, console, stop_asked)
    except KeyboardInterrupt:
        interrupted = True
        if not done:
            raise
    finally:
        if done:
            _write(planned, done, time.monotonic() - began)
    bad = sum(record.worst(cell.made.trace) in record.BAD for cell in done.values())
    text = f"{planned.given['output']}: {len(done)} of {len(planned.jobs)} pictures"
    text += f" in {display.duration(time.monotonic() - began)}"
    text += f"; {bad} of them stalled or met NaN" if bad else ""
    if interrupted:
        text = f"interrupted; {text}" if done else "interrupted; nothing was written"
    if interrupted or bad or not first.given["quiet"]:
        console.print(text, soft_wrap=True, highlight=False)
    return job.INTERRUPTED if interrupted else job.FAILED if bad else 0


def _axis(text: str) -> Axis:
    name, equals, rest = text.partition("=")
    name = name.strip().lstrip("-")
    if not equals or not name:
        raise ValueError(f"--vary {text!r} has no =; write e.g. --vary style-weight=5,20,80")
    if name in FIXED:
        raise ValueError(f"--vary {name}: all pictures of a sheet have that in common")
    values = tuple(value.strip() for value in rest.split("|" if "|" in rest else ","))
    if not all(values):
        raise ValueError(f"--vary {text!r} has an empty value")
    if len(set(values)) < len(values):
        raise ValueError(f"--vary {text!r} has a value twice")
    return Axis(name, values)


def _cells(axes: Sequence[Axis]) -> list[tuple[str, ...]]:
    """The values of every cell, in the order of the axes, row by row."""
    across, *down = (axis.values for axis in axes)
    return [(column, *row) for *row, column in itertools.product(*down, across)]


def _words(shared: Sequence[str], axes: Sequence[Axis], values: Sequence[str]) -> list[str]:
    """A cell's command line, without its output."""
    own = dict(zip((axis.name for axis in axes), values, strict=True))
    photo = [own[name] for name in ("photo",) if name in own]
    painting = [own[name] for name in ("painting",) if name in own]
    options = [f"--{name}={value}" for name, value in own.items() if name not in PLACES]
    return [*photo, *shared, *painting, *options]


def _label(axes: Sequence[Axis], values: Sequence[str]) -> str:
    return ", ".join(map(_value, axes, values))


def _value(axis: Axis, value: str) -> str:
    """An option and its value, for a person; of files their names."""
    return f"{axis.name} {Path(value).name if axis.name in PLACES else value}"


def _check_common(own: dict[str, Any], given: dict[str, Any]) -> None:
    several = ("devices", "hosts", "coordinator")  # share one picture; a grid has many at once
    one = ("save_every", "plot", "sheet", "animation", "checkpoint", "resume", "draft")
    for name in (*one, *several):
        if own[name]:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} works with one picture only, not with grid")
    if own["write_record"] and not given["keep"]:
        raise ValueError("--record works with --keep FOLDER, where each picture has its record")


def _check_kept(cells: Sequence[dict[str, Any]], sheet_file: Path) -> None:
    """That no cell's picture harms an input of any cell, or the sheet."""
    inputs = {path for own in cells for path in job.inputs(own)}
    inputs |= {Path(own["init"]) for own in cells if own["init"]}
    for output in (own["output"] for own in cells):
        if output.resolve() == sheet_file.resolve():
            raise ValueError(f"--output {sheet_file} is one of the pictures to keep; rename it")
        if output.exists():
            images.check_output(output)
            if any(path.exists() and output.samefile(path) for path in inputs):
                raise ValueError(f"{output} is one of the inputs; choose another --keep")


def _make(
    planned: Plan,
    done: dict[int, Done],
    console: rich.console.Console,
    stop_asked: Callable[[], int],
) -> bool:
    """Fills ``done``, by place; False if it was stopped before the last cell."""
    cells = [lanes.cell(own) for own in planned.jobs]
    values = _cells(planned.axes)
    for batch in sweeps.batches(cells, together=planned.given["together"]):
        for place, made in _made(planned, cells, batch, console, stop_asked):
            done[place] = made
            if planned.given["keep"]:
                job.write(planned.jobs[place], made.made)
            if not planned.jobs[place].given["quiet"]:
                text = _line(_label(planned.axes, values[place]), made)
                count = f"{len(done)}/{len(planned.jobs)}"
                console.print(f"{count}  {text}", soft_wrap=True, highlight=False)
        if stop_asked():
            return len(done) == len(cells)
    return True


def _made(
    planned: Plan,
    cells: Sequence[sweeps.Cell],
    batch: sweeps.Batch,
    console: rich.console.Console,
    stop_asked: Callable[[], int],
) -> list[tuple[int, Done]]:
    """The cells of a batch; none where it was stopped."""
    if batch.lanes > 1:
        began = time.monotonic()
        results = _run(cells, batch)
        seconds = time.monotonic() - began
        return [
            (place, _done(planned.jobs[place], result, seconds, len(batch.places)))
            for place, result in zip(batch.places, results, strict=True)
        ]
    (place,) = batch.places
    own = planned.jobs[place]
    with _shown(own, console) as show:
        made, last = job.make(own, show, stop_asked)
    if made.interrupted:
        return []
    return [(place, Done(made, _terms(last.terms), 1))]


def _run(cells: Sequence[sweeps.Cell], batch: sweeps.Batch) -> list[Any]:
    try:
        return sweeps.run(cells, batch)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(
            f"out of memory with {batch.lanes} pictures in one call; take a smaller --together"
        ) from error


def _shown(own: job.Job, console: rich.console.Console) -> Any:
    """The steps of one picture, on a terminal only."""
    return job.shown(own, console) if console.is_terminal else display.silent()


def _done(own: job.Job, result: Any, seconds: float, together: int) -> Done:
    terms = jax.tree.map(lambda column: float(column[-1]), result.history[-1].terms)
    return Done(lanes.made(own, result, seconds), _terms(terms), together)


def _terms(terms: Any) -> dict[str, float]:
    """All terms of the objective by name, in the order of the network's layers."""
    return {
        "loss": terms.total,
        **{f"content {layer}": value for layer, value in terms.content.items()},
        **{f"style {layer}": value for layer, value in terms.style.items()},
        "tv": terms.tv,
        **{f"dream {layer}": value for layer, value in terms.dream.items()},
        **({"photorealism": terms.photorealism} if terms.photorealism else {}),
    }


def _line(label: str, cell: Done) -> str:
    """What a person is told of a cell."""
    last, status = cell.made.trace[-1], record.worst(cell.made.trace)
    shared = f", {cell.together} together" if cell.together > 1 else ""
    return (
        f"{label}: loss {last.loss:.4g}, {last.evaluations} evaluations in "
        f"{display.duration(cell.made.seconds)}{shared}"
        + (f"; {status.message}" * (status in record.BAD))
    )


def _write(planned: Plan, done: dict[int, Done], seconds: float) -> None:
    """The sheet and its table."""
    across, *down = planned.axes
    width = len(across.values)
    count = len(planned.jobs)
    pictures = [done[place].made.picture if place in done else None for place in range(count)]
    notes = [_note(done[place]) if place in done else "not made" for place in range(count)]
    paper = sheet.sheet(
        [pictures[first : first + width] for first in range(0, count, width)],
        columns=[_value(across, value) for value in across.values],
        rows=[_value(down[0], value) for value in down[0].values] if down else (),
        notes=[notes[f : f + width] for f in range(0, count, width)] if any(notes) else (),
        title=_title(planned),
    )
    origin = {
        "command": planned.given["command"],
        "versions": record.versions(),
        "pictures": len(done),
        "seconds": round(seconds, 3),
    }
    job.save(planned.given["output"], paper, origin=origin)
    with replacing(_table_of(planned.given["output"])) as file:
        file.write(_table(planned, done).encode())


def _table_of(output: Path) -> Path:
    return output.with_suffix(".csv")


def _title(planned: Plan) -> str:
    """What all cells show."""
    given, varied = planned.jobs[0].given, [axis.name for axis in planned.axes]
    files = [] if "photo" in varied else [given["photo"]]
    files += given["paintings"][: -1 if "painting" in varied else None]
    return ", ".join(file.stem for file in files)


def _note(cell: Done) -> str:
    """What the sheet says of a cell that did not end well."""
    notes = {Status.STALLED: "stalled", Status.NON_FINITE: "met NaN"}
    return notes.get(record.worst(cell.made.trace), "")


def _table(planned: Plan, done: dict[int, Done]) -> str:
    """One row per cell that is done; the terms are weighted, as they add up to the loss."""
    terms = dict.fromkeys(name for place in sorted(done) for name in done[place].terms)
    names = [axis.name for axis in planned.axes]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    kept = ["picture"] if planned.given["keep"] else []
    writer.writerow([*names, "status", "evaluations", *terms, "seconds", "together", *kept])
    for place, values in enumerate(_cells(planned.axes)):
        if place not in done:
            continue
        made, own, together = done[place]
        row = [*values, record.worst(made.trace).name.lower(), made.trace[-1].evaluations]
        row += [f"{own[name]:.8g}" if name in own else "" for name in terms]
        row += [f"{made.seconds:.3f}", together]
        writer.writerow([*row, *(planned.jobs[place].given["output"] for _ in kept)])
    return text.getvalue()
