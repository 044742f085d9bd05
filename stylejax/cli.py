"""The command line: a photo and paintings in, a picture out.

``main(argv)`` returns an exit status: 0, 1 where the run stalled or met NaN (the best picture is
kept), 2 for a wrong input (one line, nothing written), 130 after Ctrl-C (the picture so far is
kept).
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

import stylejax
from stylejax import grid, job, options
from stylejax.colour import Colour
from stylejax.optimizers import Adam, Lbfgs
from stylejax.presets import DEFAULT, PRESETS

SIZE = 512
WRONG_INPUT = 2

app = typer.Typer(add_completion=False, rich_markup_mode="rich")
# typer carries a click of its own; whichever it is, this is its usage error.
UsageError: Any = typer.BadParameter.__bases__[0]


def _default(value: Any) -> str:
    """How a default is shown in --help: read off the default preset, so it cannot diverge."""
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _whole(text: Any) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number such as 100") from None


def _number(text: Any) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number such as 0.5") from None


def _option(
    names: str,
    text: str,
    default: Any = None,
    *,
    panel: str = "Picture",
    metavar: str | None = None,
    parser: Any = None,
) -> Any:
    shown = "" if default is None else f" [dim](default: {_default(default)})[/dim]"
    return typer.Option(
        *names.split(),
        help=text + shown,
        show_default=False,
        rich_help_panel=panel,
        metavar=metavar or {_whole: "N", _number: "X"}.get(parser, "TEXT"),
        parser=parser,
    )


def _flag(names: str, text: str) -> Any:
    return typer.Option(*names.split(), help=text, rich_help_panel=_OUTPUT)


_C, _W = DEFAULT.config, DEFAULT.loss_weights
_CONTENT, _OPTIMISATION, _OUTPUT = "Content and style", "Optimisation", "Output and machine"


@app.command(
    help="Renders PHOTO in the style of one or more PAINTINGs.",
    epilog="Example: stylejax photo.jpg painting.jpg -o out.png --size 768 --style-weight 20\n\n"
    "Contact sheets over the values of options: stylejax grid --help",
    no_args_is_help=True,
)
def command(
    context: typer.Context,
    photo: Annotated[Path, typer.Argument(help="What the picture shows.")],
    paintings: Annotated[list[Path], typer.Argument(help="How it is painted; several blend.")],
    output: Annotated[
        Path,
        _option("-o --output", "Where to write: .png .jpg .webp .tif .avif.", metavar="OUT"),
    ],
    size: Annotated[
        int, _option("--size", "Long side of the picture in pixels.", SIZE, parser=_whole)
    ] = SIZE,
    preset: Annotated[
        str,
        _option(
            "--preset",
            "; ".join(f"[bold]{name}[/bold]: {preset.summary}" for name, preset in PRESETS.items())
            + ". The defaults shown here are those of 'default'.",
            "default",
        ),
    ] = "default",
    init: Annotated[
        str | None,
        _option(
            "--init",
            "Where to start: content (the photo), noise, mix:R (R parts noise, 1-R photo) or "
            "a picture's file.",
            "content",
        ),
    ] = None,
    seed: Annotated[
        int, _option("--seed", "Of the noise; the same seed, the same picture.", 0, parser=_whole)
    ] = 0,
    content_weight: Annotated[
        float | None,
        _option(
            "--content-weight",
            "Higher: closer to the photo.",
            _W.content,
            panel=_CONTENT,
            parser=_number,
        ),
    ] = None,
    style_weight: Annotated[
        float | None,
        _option(
            "--style-weight",
            "Higher: more of the painting.",
            _W.style,
            panel=_CONTENT,
            parser=_number,
        ),
    ] = None,
    tv_weight: Annotated[
        float | None,
        _option(
            "--tv-weight",
            "Higher: smoother, less grain.",
            _W.tv,
            panel=_CONTENT,
            parser=_number,
        ),
    ] = None,
    style_blend_weights: Annotated[
        str | None,
        _option(
            "--style-blend-weights",
            "How much of each painting, e.g. 2,1 (equal if not given).",
            panel=_CONTENT,
            metavar="A,B,...",
        ),
    ] = None,
    style_scale: Annotated[
        float | None,
        _option(
            "--style-scale",
            "Size of the paintings beside the picture; smaller gives smaller strokes.",
            _C.style_scale,
            panel=_CONTENT,
            parser=_number,
        ),
    ] = None,
    content_layers: Annotated[
        str | None,
        _option(
            "--content-layers",
            "Where content is compared, with weights if you like: relu4_2:1.0,relu5_2:0.5.",
            _C.content_layers,
            panel=_CONTENT,
            metavar="LAYERS",
        ),
    ] = None,
    style_layers: Annotated[
        str | None,
        _option(
            "--style-layers",
            "Where style is compared: relu1_1 is grain and colour, relu5_1 large shapes.",
            _C.style_layers,
            panel=_CONTENT,
            metavar="LAYERS",
        ),
    ] = None,
    style_statistic: Annotated[
        str | None,
        _option(
            "--style-statistic",
            "What of the paintings is compared: " + ", ".join(options.STATISTICS) + ". Mixed "
            "by weight: gram+sliced:0.5; at single layers: relu3_1:patches,relu4_1:patches "
            "(the others keep gram) or mean-std,relu4_1:gram.",
            "gram",
            panel=_CONTENT,
            metavar="NAMES",
        ),
    ] = None,
    pooling: Annotated[
        str | None, _option("--pooling", "avg or max.", "avg", panel=_CONTENT)
    ] = None,
    padding: Annotated[
        str | None,
        _option(
            "--padding",
            "Border of the picture in the network: replicate-all, replicate or zero.",
            _C.padding,
            panel=_CONTENT,
        ),
    ] = None,
    colour: Annotated[
        str | None,
        _option(
            "--colour --color",
            "The photo's colours instead of the paintings': symmetric, cholesky, pca or histogram "
            "(its palette), luminance or chroma (its colours in their places; luminance paints in "
            "grey), or none.",
            "none",
            panel=_CONTENT,
        ),
    ] = None,
    colour_space: Annotated[
        str | None,
        _option(
            "--colour-space --color-space",
            "Where --colour works: oklab (as seen), srgb (as stored) or linear (as light).",
            "oklab",
            panel=_CONTENT,
        ),
    ] = None,
    colour_strength: Annotated[
        float | None,
        _option(
            "--colour-strength --color-strength",
            "From 0, the paintings' colours, to 1, the photo's.",
            Colour.strength,
            panel=_CONTENT,
            parser=_number,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        _option(
            "--steps", "Steps at the last scale.", _C.steps, panel=_OPTIMISATION, parser=_whole
        ),
    ] = None,
    coarse_steps: Annotated[
        int | None,
        _option(
            "--coarse-steps",
            "Steps at each scale before it.",
            _C.coarse_steps or "as --steps",
            panel=_OPTIMISATION,
            parser=_whole,
        ),
    ] = None,
    scales: Annotated[
        int | None,
        _option(
            "--scales",
            "How many sizes to work through, coarse to fine; 1 works at full size only.",
            "by size",
            panel=_OPTIMISATION,
            parser=_whole,
        ),
    ] = None,
    smallest: Annotated[
        int | None,
        _option(
            "--smallest",
            "Long side of the coarsest scale in pixels.",
            _C.smallest,
            panel=_OPTIMISATION,
            parser=_whole,
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        _option("--optimizer", ", ".join(options.OPTIMIZERS) + ".", "lbfgs", panel=_OPTIMISATION),
    ] = None,
    memory: Annotated[
        int | None,
        _option(
            "--memory",
            "Steps that L-BFGS remembers; each costs two pictures of memory.",
            Lbfgs().memory,
            panel=_OPTIMISATION,
            parser=_whole,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        _option(
            "--learning-rate", "Adam's.", Adam().learning_rate, panel=_OPTIMISATION, parser=_number
        ),
    ] = None,
    average: Annotated[
        float | None,
        _option(
            "--average",
            "Adam: decay of a running average of the pictures, e.g. 0.99 (0: none).",
            Adam().average,
            panel=_OPTIMISATION,
            parser=_number,
        ),
    ] = None,
    save_every: Annotated[
        int,
        _option(
            "--save-every",
            "Also write the picture every N steps, as OUT_00010.png and so on (0: never).",
            0,
            panel=_OUTPUT,
            metavar="N",
            parser=_whole,
        ),
    ] = 0,
    write_record: Annotated[
        bool, _flag("--record", "Write OUT.json too: settings, versions, hashes, losses.")
    ] = False,
    network: Annotated[
        str,
        _option(
            "--network",
            "vgg19; vgg19-torchvision; slim, which is small, built in and quick; or auto: vgg19, "
            "fetched once if need be, else slim.",
            "auto",
            panel=_OUTPUT,
        ),
    ] = "auto",
    weights_file: Annotated[
        Path | None,
        _option(
            "--weights",
            "A file of weights instead of a network's name.",
            panel=_OUTPUT,
            metavar="FILE",
        ),
    ] = None,
    offline: Annotated[bool, _flag("--offline", "Never fetch anything.")] = False,
    device: Annotated[
        str, _option("--device", "auto, cpu, gpu or tpu.", "auto", panel=_OUTPUT)
    ] = "auto",
    precision: Annotated[
        str | None,
        _option(
            "--precision",
            "Of the convolutions: highest (float32), high, or default (fast on GPU and TPU).",
            _C.precision,
            panel=_OUTPUT,
        ),
    ] = None,
    quiet: Annotated[bool, _flag("-q --quiet", "Print nothing but errors.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            is_eager=True,
            callback=lambda value: _print_version(value),
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
) -> dict[str, Any]:
    """Collects the options; `job` does the rest."""
    given = {name: value for name, value in locals().items() if name not in ("context", "version")}
    return {**given, "command": context.obj}


class Answered(Exception):
    """The arguments asked for --help or --version and were answered."""


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The options of a command line by name, None where it is silent; nothing is checked yet.

    Raises:
      typer's usage error: an option that does not exist, a number that is none.
      Answered: there is nothing left to do.
    """
    arguments = list(arguments)
    given = app(arguments, prog_name="stylejax", obj=arguments, standalone_mode=False)
    if not isinstance(given, dict):
        raise Answered
    return given


def _picture(arguments: Sequence[str]) -> int:
    return job.run(job.plan(parse(arguments)))


# What the first word may be instead of a photo: functions of the words behind it that return an
# exit status.
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "grid": lambda words: grid.main(words, parse),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status; the console command and the script call it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in COMMANDS:
            return COMMANDS[arguments[0]](arguments[1:])
        return _picture(arguments)
    except Answered:
        return 0
    except UsageError as error:
        return _refuse(error.format_message())
    except (ValueError, OSError) as error:
        return _refuse(str(error))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "memory" not in str(error).lower():
            raise
        return _refuse("out of memory; take a smaller --size, or fewer --memory pictures of L-BFGS")
    except KeyboardInterrupt:
        _refuse("interrupted before there was a picture; nothing was written")
        return job.INTERRUPTED


def run() -> None:
    """The console command ``stylejax``."""
    raise SystemExit(main())


def _refuse(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return WRONG_INPUT


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stylejax {stylejax.__version__}")
        raise typer.Exit
