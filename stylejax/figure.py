"""``stylejax figure``: the figures 1 and 3 of the paper, for a photo and a painting of one's own.

"A Neural Algorithm of Artistic Style", 2015. Figure 3 renders the photo with style from ever more
layers (rows) at ever larger alpha/beta (columns); figure 1 reconstructs the photo and the painting
from one layer after the other, the content of a layer alone, the style of all layers up to it.

All pictures of a figure have one config and one compiled program: a layer that does not count has
the weight 0.
"""

import csv
import io
import itertools
import string
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import rich.console
import typer

from stylejax import display, images, job, options, record, sheet
from stylejax.commands import option, parse, sharing, whole
from stylejax.files import replacing
from stylejax.objective import LossWeights
from stylejax.presets import PRESETS

SIZE = 192
# Figure 3's columns, in the paper's units; and about the default preset's own ratio, 1/20.
RATIOS = {"gatys2015": "1e-5,1e-4,1e-3,1e-2", "default": "5e-3,2e-2,5e-2,2e-1"}


class Cell(NamedTuple):
    """A picture of the figure.

    Attributes:
      row: its number, from 0.
      column: its number, from 0.
      layers: the layers that count.
      loss_weights: the coefficients.
    """

    row: int
    column: int
    layers: tuple[str, ...]
    loss_weights: LossWeights


class Figure(NamedTuple):
    """What is to be made, and its labels.

    Attributes:
      number: 1 or 3.
      job: what all cells share.
      cells: in the order in which they are made.
      rows: a label each.
      columns: a label each.
    """

    number: int
    job: job.Job
    cells: tuple[Cell, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]


def _own(
    photo: Annotated[Path, typer.Argument(help="What the pictures show.")],
    painting: Annotated[Path, typer.Argument(help="How they are painted.")],
    output: Annotated[
        Path,
        option(
            "-o --output",
            "The figure: .png .jpg .webp .tif .avif; the numbers come into a file of the same "
            "name that ends in .csv.",
            metavar="SHEET",
        ),
    ],
    figure: Annotated[
        int,
        option(
            "--figure",
            "3: style layers by alpha/beta; 1: reconstructions layer by layer.",
            3,
            metavar="1|3",
            parser=whole,
        ),
    ] = 3,
    size: Annotated[
        int, option("--size", "Long side of each picture in pixels.", SIZE, parser=whole)
    ] = SIZE,
    preset: Annotated[
        str,
        option(
            "--preset",
            "gatys2015, the paper's way, or default, in whose units alpha/beta is another number.",
            "gatys2015",
        ),
    ] = "gatys2015",
    ratios: Annotated[
        str | None,
        option(
            "--ratios",
            "alpha/beta of figure 3's columns, e.g. 1e-4,1e-3.",
            " or ".join(f"{ratios} ({name})" for name, ratios in RATIOS.items()),
            metavar="A,B,...",
        ),
    ] = None,
    style_layers: Annotated[
        str | None,
        option(
            "--style-layers",
            "The layers of the rows (figure 3) or columns (figure 1), one more in each.",
            "relu1_1,relu2_1,relu3_1,relu4_1,relu5_1",
            panel="Content and style",
            metavar="LAYERS",
        ),
    ] = None,
) -> None: ...


# What the figure decides itself, and what only one picture can have.
_WITHOUT = (
    *("paintings", "content_weight", "style_weight", "style_blend_weights"),
    *("mask", "style_mask", "content_mask", "labels", "style_labels", "region_weights"),
    *("save_every", "write_record", "plot", "sheet", "animation", "animation_every"),
    *("checkpoint", "checkpoint_every", "resume", "draft"),
    *("hosts", "coordinator", "processes", "process"),  # each of them would write the figure
)


def main(words: Sequence[str], command: Callable[..., Any]) -> int:
    """Makes the figure and returns the exit status, that of ``stylejax`` for its worst picture.

    Args:
      words: of the command line behind ``figure``.
      command: the main command, whose options it shares.

    Raises:
      ValueError: an option or an input that cannot work.
      OSError: a file that cannot be read or written.
    """
    app = sharing(
        command,
        _own,
        without=_WITHOUT,
        help="Renders the paper's figure 3 or 1 for PHOTO and PAINTING, with labels.",
        example="stylejax figure photo.jpg painting.jpg -o figure3.png --size 128 --steps 100",
    )
    return run(plan(parse(app, words, name="stylejax figure")))


def plan(given: dict[str, Any]) -> Figure:
    """Checks everything that all cells share.

    Raises:
      ValueError: an option or an input that cannot work.
      OSError: a file that cannot be read or written.
    """
    number = given["figure"]
    if number not in (1, 3):
        raise ValueError(f"--figure {number} is not one of the figures 1 and 3")
    if number == 1 and given["ratios"] is not None:
        raise ValueError("--ratios works with --figure 3 only; figure 1 has content or style alone")
    if number == 1 and given["content_layers"] is not None:
        raise ValueError("--content-layers works with --figure 3 only; figure 1 has --style-layers")
    if _table_of(given["output"]).is_dir():
        raise ValueError(f"{_table_of(given['output'])} is a folder; choose another --output")
    ratios = _ratios(given)
    given = {**given, "paintings": [given["painting"]]}
    if number == 1:
        given |= {"init": given["init"] or "noise"}
        given["content_layers"] = given["style_layers"] or ",".join(_layers(given))
    planned = job.plan(given)
    layers = planned.preset.config.style_layers
    if planned.preset.loss_weights.style_layers is not None:
        raise ValueError("--style-layers of a figure have equal shares; give names without weights")
    if not layers:
        raise ValueError("--style-layers is empty; a figure needs one layer at least")
    if number == 1:
        return _figure_1(planned, layers)
    return _figure_3(planned, layers, ratios)


def _layers(given: dict[str, Any]) -> tuple[str, ...]:
    """The preset's style layers."""
    return PRESETS[options.choice("--preset", given["preset"], [*PRESETS])].config.style_layers


def _ratios(given: dict[str, Any]) -> dict[str, float]:
    """alpha/beta by the words it was given in, which are the columns' labels."""
    text = given["ratios"]
    if text is None:
        text = RATIOS[options.choice("--preset", given["preset"], [*RATIOS])]
    return {word.strip(): options.number("--ratios", word.strip()) for word in text.split(",")}


def _shares(counting: Sequence[str], layers: Sequence[str]) -> dict[str, float]:
    """Equal shares of 1 for the layers that count, 0 for the others."""
    return {layer: (layer in counting) / len(counting) for layer in layers}


def _up_to(layers: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(layers[: count + 1]) for count in range(len(layers)))


def _figure_3(planned: job.Job, layers: tuple[str, ...], ratios: dict[str, float]) -> Figure:
    base = planned.preset.loss_weights
    cells = [
        Cell(
            row,
            column,
            counting,
            base._replace(content=ratio * base.style, style_layers=_shares(counting, layers)),
        )
        for row, counting in enumerate(_up_to(layers))
        for column, ratio in enumerate(ratios.values())
    ]
    rows = [
        f"{letter} {'to ' if row else ''}{layer}".lstrip()
        for row, (letter, layer) in _lettered(layers)
    ]
    columns = [f"alpha/beta {word}" for word in ratios]
    return Figure(3, planned, tuple(cells), tuple(rows), tuple(columns))


def _lettered(layers: Sequence[str]) -> Iterator[tuple[int, tuple[str, str]]]:
    """Each with its place and a letter, while there are letters."""
    letters = itertools.chain(string.ascii_uppercase, itertools.repeat(""))
    return enumerate(zip(letters, layers, strict=False))


def _figure_1(planned: job.Job, layers: tuple[str, ...]) -> Figure:
    base, nothing = planned.preset.loss_weights, _shares(layers, layers)
    content = [
        Cell(
            0,
            column + 1,
            (layer,),
            base._replace(
                content=base.style,
                style=0.0,
                content_layers=_shares((layer,), layers),
                style_layers=nothing,
            ),
        )
        for column, layer in enumerate(layers)
    ]
    style = [
        Cell(
            1,
            column + 1,
            counting,
            base._replace(
                content=0.0, content_layers=nothing, style_layers=_shares(counting, layers)
            ),
        )
        for column, counting in enumerate(_up_to(layers))
    ]
    columns = [f"{letter.lower()} {layer}".lstrip() for _, (letter, layer) in _lettered(layers)]
    rows = ("content of one layer", "style up to it")
    return Figure(1, planned, (*content, *style), rows, ("original", *columns))


def run(figure: Figure) -> int:
    """Makes the pictures and writes what is done, whatever happens; returns the exit status."""
    shared, console = figure.job, display.console()
    done: list[tuple[Cell, job.Made]] = []
    began = time.monotonic()
    try:
        with job.on(shared.device), job.stop_on_ctrl_c() as stop_asked:
            interrupted = not _make(figure, done, console, stop_asked)
    finally:
        if done:
            _write(figure, done, time.monotonic() - began)
    bad = sum(record.worst(made.trace) in record.BAD for _, made in done)
    text = f"{shared.given['output']}: {len(done)} of {len(figure.cells)} pictures"
    text += f" in {display.duration(time.monotonic() - began)}"
    text += f"; {bad} of them stalled or met NaN" if bad else ""
    if interrupted:
        text = f"interrupted; {text}" if done else "interrupted; nothing was written"
    if interrupted or bad:
        display.console().print(text, soft_wrap=True, highlight=False)
    elif not shared.given["quiet"]:
        console.print(text, soft_wrap=True, highlight=False)
    return job.INTERRUPTED if interrupted else job.FAILED if bad else 0


def _make(
    figure: Figure,
    done: list[tuple[Cell, job.Made]],
    console: rich.console.Console,
    stop_asked: Callable[[], int],
) -> bool:
    """Fills ``done``; False if it was stopped before the last cell, whose picture is left out."""
    quiet = figure.job.given["quiet"]
    for cell in figure.cells:
        preset = figure.job.preset._replace(loss_weights=cell.loss_weights)
        own = figure.job._replace(preset=preset)
        plain = quiet or not console.is_terminal
        with display.silent() if plain else job.shown(own, console) as show:
            made, _ = job.make(own, show, stop_asked)
        if made.interrupted:
            return False
        done.append((cell, made))
        if not quiet:
            text = f"{len(done)}/{len(figure.cells)}  {figure.rows[cell.row]}, "
            text += f"{figure.columns[cell.column]}: loss {made.trace[-1].loss:.4g}, "
            text += f"{made.trace[-1].evaluations} evaluations, {made.seconds:.0f} s"
            console.print(text, soft_wrap=True, highlight=False)
    return True


def _table_of(output: Path) -> Path:
    return output.with_suffix(".csv")


def _write(figure: Figure, done: Sequence[tuple[Cell, job.Made]], seconds: float) -> None:
    """The sheet, with empty places for what is not done, and the table."""
    shared, output = figure.job, figure.job.given["output"]
    pictures: list[list[np.ndarray | None]] = [[None] * len(figure.columns) for _ in figure.rows]
    for cell, made in done:
        pictures[cell.row][cell.column] = made.picture
    if figure.number == 1:
        pictures[0][0] = shared.content
        pictures[1][0] = _beside(shared)
    laid_out = sheet.sheet(pictures, columns=figure.columns, rows=figure.rows)
    origin = job.provenance(shared, done[-1][1])
    for own in ("evaluations", "loss", "status", "loss_weights"):  # the table has them by picture
        del origin[own]
    origin |= {"figure": figure.number, "pictures": len(done), "seconds": round(seconds, 3)}
    job.save(output, laid_out, origin=origin)
    with replacing(_table_of(output)) as file:
        file.write(_table(figure, done).encode())


def _beside(shared: job.Job) -> np.ndarray:
    """The painting, no larger than the pictures."""
    (painting,) = shared.styles
    size = images.fit(painting.shape[0], painting.shape[1], max(shared.content.shape[:2]))
    return np.asarray(images.resize(painting, *size))


def _table(figure: Figure, done: Sequence[tuple[Cell, job.Made]]) -> str:
    """A row for each picture, in the preset's units."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    heads = ("row", "column", "layers", "content_weight", "style_weight", "loss")
    table.writerow([*heads, "content", "style", "tv", "evaluations", "status", "seconds"])
    for cell, made in done:
        last = made.trace[-1]
        terms = last.history.terms
        parts = (sum(float(t[-1]) for t in side.values()) for side in (terms.content, terms.style))
        table.writerow(
            [
                figure.rows[cell.row],
                figure.columns[cell.column],
                " ".join(cell.layers),
                *(float(w) for w in (cell.loss_weights.content, cell.loss_weights.style)),
                last.loss,
                *parts,
                float(terms.tv[-1]),
                last.evaluations,
                record.worst(made.trace).name.lower(),
                round(made.seconds, 3),
            ]
        )
    return text.getvalue()
