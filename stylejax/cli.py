"""The command line: a photo and paintings in, a picture out.

``main(argv)`` returns an exit status: 0, 1 where the run stalled or met NaN (the best picture is
kept), 2 for a wrong input (one line, nothing written), 130 after Ctrl-C and 143 after SIGTERM (the
picture so far is kept).
"""

import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

import stylejax
from stylejax import (
    batch,
    commands,
    compilation,
    fallback,
    figure,
    grid,
    hosts,
    job,
    options,
    resumption,
    synthesis,
)
from stylejax.colour import Colour
from stylejax.commands import number as _number
from stylejax.commands import option as _option
from stylejax.commands import whole as _whole
from stylejax.optimizers import Adam, Lbfgs
from stylejax.presets import DEFAULT, PRESETS, distilled_variation

SIZE = 512
WRONG_INPUT = 2

app = typer.Typer(add_completion=False, rich_markup_mode="rich")
# typer carries a click of its own; whichever it is, this is its usage error.
UsageError: Any = typer.BadParameter.__bases__[0]


def _numbers(text: Any) -> float | tuple[float, ...]:
    """``1`` or ``1,0.5``."""
    numbers = tuple(_number(part.strip()) for part in str(text).split(","))
    return numbers if len(numbers) > 1 else numbers[0]


def _wholes(text: Any) -> tuple[int, ...]:
    """``128,256,512``."""
    return tuple(_whole(part.strip()) for part in str(text).split(","))


def _flag(names: str, text: str) -> Any:
    return typer.Option(*names.split(), help=text, rich_help_panel=_OUTPUT)


def _switch(name: str, text: str, default: bool) -> Any:
    """A word for yes and one for no; without either the preset decides."""
    shown = f" [dim](default: {'yes' if default else 'no'})[/dim]"
    return typer.Option(
        f"--{name}/--no-{name}",
        help=text + shown,
        show_default=False,
        rich_help_panel=_OPTIMISATION,
    )


_C, _W = DEFAULT.config, DEFAULT.loss_weights
_CONTENT, _REGIONS = "Content and style", "Regions"
_OPTIMISATION, _OUTPUT = "Optimisation", "Output and machine"


@app.command(
    help="Renders PHOTO in the style of one or more PAINTINGs. Other commands, each with --help of "
    "its own: stylejax texture, stylejax reconstruct, stylejax figure, stylejax grid, stylejax "
    "batch.",
    epilog="Example: stylejax photo.jpg painting.jpg -o out.png --size 768 --style-weight 20",
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
            "Where to start: content (the photo), noise, grey, mix:R (R parts noise, 1-R photo) "
            "or a picture's file.",
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
            "Higher: smoother, less grain. With the built-in network the default is "
            f"{distilled_variation(256):g} at 256 pixels, {distilled_variation(512):g} from "
            "512 on.",
            _W.tv,
            panel=_CONTENT,
            parser=_number,
        ),
    ] = None,
    tv_form: Annotated[
        str | None,
        _option(
            "--tv-form",
            "What that weighs: squares (a mean, the same at every size), or a form of other "
            "programs: absolute, cropped, power (sums), nine-point (a mean).",
            "squares",
            panel=_CONTENT,
        ),
    ] = None,
    photorealism: Annotated[
        float | None,
        _option(
            "--photorealism",
            "Higher: the photo's own edges and surfaces in the painting's colours; 100 thins the "
            "strokes out, 1000 leaves hardly any.",
            _W.photorealism or 0.0,
            panel=_CONTENT,
            parser=_number,
        ),
    ] = None,
    style_blend_weights: Annotated[
        str | None,
        _option(
            "--style-blend-weights",
            "How much of each painting, e.g. 2,1 (equal if not given); at single layers: "
            "1,0/relu5_1:0,1.",
            panel=_CONTENT,
            metavar="A,B,...",
        ),
    ] = None,
    mask: Annotated[
        list[str] | None,
        _option(
            "--mask",
            "Where a painting goes, once for each: a picture of the photo, white where it belongs; "
            "rest, what the others leave; or alpha, the photo's own transparency.",
            panel=_REGIONS,
            metavar="FILE",
        ),
    ] = None,
    style_mask: Annotated[
        list[str] | None,
        _option(
            "--style-mask",
            "What of a painting counts, once for each: white where it does; or all.",
            panel=_REGIONS,
            metavar="FILE",
        ),
    ] = None,
    content_mask: Annotated[
        Path | None,
        _option(
            "--content-mask",
            "Where the photo counts: white where it does, black where only style does.",
            panel=_REGIONS,
            metavar="FILE",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        _option(
            "--labels",
            "A map of the picture in flat colours, each a region, painted like what has this "
            "colour in --style-labels.",
            panel=_REGIONS,
            metavar="FILE",
        ),
    ] = None,
    style_labels: Annotated[
        list[Path] | None,
        _option(
            "--style-labels",
            "The map of a painting, once for each, in the colours of --labels.",
            panel=_REGIONS,
            metavar="FILE",
        ),
    ] = None,
    region_weights: Annotated[
        str | None,
        _option(
            "--region-weights",
            "How strongly style counts in each region, in the order of --mask, or of the "
            "colours of --labels from the most frequent on (1 each if not given).",
            panel=_REGIONS,
            metavar="A,B,...",
        ),
    ] = None,
    style_scale: Annotated[
        Any,
        _option(
            "--style-scale",
            "Size of the paintings beside the picture, one number or one each (1,0.5); smaller "
            "gives smaller strokes. The same painting twice with two numbers is one style at two "
            "scales.",
            _C.style_scale,
            panel=_CONTENT,
            metavar="X,...",
            parser=_numbers,
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
    dream_layers: Annotated[
        str | None,
        _option(
            "--dream-layers",
            "Layers whose activations are rewarded, whatever they see: relu4_1,relu5_1.",
            panel=_CONTENT,
            metavar="LAYERS",
        ),
    ] = None,
    dream_weight: Annotated[
        float | None,
        _option(
            "--dream-weight",
            "How much, with --dream-layers.",
            options.DREAM_WEIGHT,
            panel=_CONTENT,
            parser=_number,
        ),
    ] = None,
    pooling: Annotated[
        str | None, _option("--pooling", ", ".join(options.POOLS) + ".", "avg", panel=_CONTENT)
    ] = None,
    padding: Annotated[
        str | None,
        _option(
            "--padding",
            "Border of the picture in the network: replicate-all, replicate or zero; or circular, "
            "which makes a tile without seams, of sides rounded to multiples of 16.",
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
    scale_sizes: Annotated[
        Any,
        _option(
            "--scale-sizes",
            "Long sides of the scales instead of --scales and --smallest, e.g. 128,256,512; the "
            "last one is --size in any case.",
            panel=_OPTIMISATION,
            metavar="N,...",
            parser=_wholes,
        ),
    ] = None,
    scale_steps: Annotated[
        Any,
        _option(
            "--scale-steps",
            "Steps at each scale instead of --steps and --coarse-steps, e.g. 500,200,100.",
            panel=_OPTIMISATION,
            metavar="N,...",
            parser=_wholes,
        ),
    ] = None,
    carry: Annotated[
        bool | None,
        _switch("carry", "Adam: go on at the next scale with its moments, enlarged.", _C.carry),
    ] = None,
    optimizer: Annotated[
        str | None,
        _option("--optimizer", ", ".join(options.OPTIMIZERS) + ".", "lbfgs", panel=_OPTIMISATION),
    ] = None,
    normalise_gradients: Annotated[
        bool,
        typer.Option(
            "--normalise-gradients",
            "--normalize-gradients",
            help="Each layer's gradient gets the same length, times its weight; not with a line "
            "search.",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = False,
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
    memory_dtype: Annotated[
        str | None,
        _option(
            "--memory-dtype",
            "What they are kept in: float32, or bfloat16, which takes half.",
            "float32",
            panel=_OPTIMISATION,
        ),
    ] = None,
    line_search: Annotated[
        bool | None,
        _switch(
            "line-search",
            "L-BFGS: look for a lower loss along each step; without it every step is taken in "
            "full, as neural-style does.",
            Lbfgs().line_search,
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
    clamp: Annotated[
        bool | None,
        _switch("clamp", "Adam: clip the picture to [0, 1] after every step.", Adam().clamp),
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
    plot: Annotated[
        bool, _flag("--plot", "Write OUT.plot.png too: the loss by term. Needs matplotlib.")
    ] = False,
    sheet: Annotated[
        bool, _flag("--sheet", "Write OUT.sheet.png too: photo, paintings and result in a row.")
    ] = False,
    animation: Annotated[
        Path | None,
        _option(
            "--animation",
            "Write the run as a moving picture too: .gif or .mp4 (which needs PyAV).",
            panel=_OUTPUT,
            metavar="FILE",
        ),
    ] = None,
    animation_every: Annotated[
        int | None,
        _option(
            "--animation-every",
            "Steps from one frame of it to the next.",
            "about 80 frames",
            panel=_OUTPUT,
            parser=_whole,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        _option(
            "--checkpoint",
            "Save the run in a folder of its own from time to time, and when it is stopped.",
            panel=_OUTPUT,
            metavar="FOLDER",
        ),
    ] = None,
    checkpoint_every: Annotated[
        float | None,
        _option(
            "--checkpoint-every",
            "Seconds from one save to the next (0: after every step).",
            resumption.SECONDS,
            panel=_OUTPUT,
            parser=_number,
        ),
    ] = None,
    resume: Annotated[
        bool, _flag("--resume", "Go on with the run that is saved in --checkpoint FOLDER.")
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
    strip: Annotated[
        int | None,
        _option(
            "--strip",
            "Look at the picture in strips of at most N times N pixels, memory holding one at a "
            "time; the result is the same (0: at the whole).",
            "if memory is short",
            panel=_OUTPUT,
            metavar="N",
            parser=_whole,
        ),
    ] = None,
    low_memory: Annotated[
        bool,
        _flag(
            "--low-memory",
            "Take little memory: strips that need at most 15% more than the least possible, "
            "and pairs of L-BFGS in bfloat16.",
        ),
    ] = False,
    draft: Annotated[
        bool,
        _flag(
            "--draft",
            "Start from what the built-in network makes of it, through all scales, and go on at "
            "the last scale alone, or at --scales: the same loss in little more than half the "
            "time; large shapes are more the small network's.",
        ),
    ] = False,
    devices: Annotated[
        int | None,
        _option(
            "--devices",
            "How many devices share the picture's rows; what a device holds shrinks with them.",
            "1, or all of --hosts",
            panel=_OUTPUT,
            parser=_whole,
        ),
    ] = None,
    hosts: Annotated[
        bool,
        _flag("--hosts", "This is one of several processes, as Cloud TPU, SLURM or MPI know."),
    ] = False,
    coordinator: Annotated[
        str | None,
        _option(
            "--coordinator",
            "Where nothing knows: host:port of process 0, with --processes and --process.",
            panel=_OUTPUT,
            metavar="ADDRESS",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        _option("--processes", "How many there are.", panel=_OUTPUT, parser=_whole),
    ] = None,
    process: Annotated[
        int | None,
        _option(
            "--process", "Which one this is, from 0, which writes.", panel=_OUTPUT, parser=_whole
        ),
    ] = None,
    precision: Annotated[
        str | None,
        _option(
            "--precision",
            "Of the convolutions: highest (float32), high, default (TF32 on GPUs, bfloat16 on "
            "TPUs), or bfloat16, for features too; auto is highest, on GPUs default.",
            "auto",
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


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The options of a command line by name, None where it is silent; see ``commands.parse``."""
    return commands.parse(app, arguments)


def _picture(arguments: Sequence[str]) -> int:
    return job.run(job.plan(parse(arguments)))


# What the first word may be instead of a photo: functions of the words behind it that return an
# exit status.
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "texture": lambda words: synthesis.texture(words, command),
    "reconstruct": lambda words: synthesis.reconstruct(words, command),
    "figure": lambda words: figure.main(words, command),
    "grid": lambda words: grid.main(words, parse),
    "batch": lambda words: batch.main(words, command),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status; the console command and the script call it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    compilation.by_library()
    try:
        if arguments and arguments[0] in COMMANDS:
            return COMMANDS[arguments[0]](arguments[1:])
        return _picture(arguments)
    except commands.Answered:
        return 0
    except UsageError as error:
        return _refuse(error.format_message())
    except (ValueError, OSError) as error:
        return hosts.leave(_refuse(str(error)))
    except jax.errors.JaxRuntimeError as error:
        if not fallback.ran_out(error):
            raise
        return _refuse("out of memory; take a smaller --size, or --low-memory")
    except KeyboardInterrupt:
        _refuse("interrupted before there was a picture; nothing was written")
        return job.INTERRUPTED


# The least exit status of a run that a signal ended: 128 and its number.
_STOPPED = 128


def run() -> None:
    """The console command ``stylejax``.

    A picture's run that was asked to stop leaves without waiting for programs that are still being
    compiled, which nobody can interrupt; on a GPU that takes up to a minute.
    """
    # What was imported stays, and most of what tracing makes is no garbage: no use in looking
    # through it a thousand times.
    gc.freeze()
    gc.set_threshold(50_000)
    gc.enable()  # scripts/stylize.py imports without
    status = main()
    one_picture = not COMMANDS.keys() & sys.argv[1:2]
    if status >= _STOPPED and one_picture and not hosts.several():
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
    raise SystemExit(status)


def _refuse(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return WRONG_INPUT


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stylejax {stylejax.__version__}")
        raise typer.Exit
