"""``stylejax texture`` and ``stylejax reconstruct``: one side of the objective alone, from noise.

A texture is a painting's style without a photo (Gatys, Ecker and Bethge, "Texture Synthesis Using
Convolutional Neural Networks", 2015); a reconstruction is what a layer knows of a photo (figure 1
of "A Neural Algorithm of Artistic Style").
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from stylejax import job, options
from stylejax.commands import number, option, parse, sharing, whole
from stylejax.config import Config

SIZE = "512"
_STYLE = "Content and style"


def _texture(
    paintings: Annotated[
        list[Path], typer.Argument(help="What to make a texture of; several blend.")
    ],
    output: Annotated[
        Path,
        option("-o --output", "Where to write: .png .jpg .webp .tif .avif.", metavar="OUT"),
    ],
    size: Annotated[
        str,
        option(
            "--size",
            "Width and height in pixels, e.g. 768x512; one number makes a square.",
            SIZE,
            metavar="N|WxH",
        ),
    ] = SIZE,
    seamless: Annotated[
        bool,
        typer.Option(
            "--seamless",
            help="A tile: repeated, it shows no seam. Its sides are multiples of 16 then.",
            rich_help_panel="Picture",
        ),
    ] = False,
    init: Annotated[
        str, option("--init", "Where to start: noise or a picture's file.", "noise")
    ] = "noise",
    style_scale: Annotated[
        float | None,
        option(
            "--style-scale",
            "Long side of the paintings beside the texture's; never more than their own. Smaller "
            "gives smaller strokes, larger a part of the painting.",
            Config.style_scale,
            panel=_STYLE,
            parser=number,
        ),
    ] = None,
) -> None: ...


def _reconstruct(
    photo: Annotated[Path, typer.Argument(help="What to reconstruct.")],
    output: Annotated[
        Path,
        option("-o --output", "Where to write: .png .jpg .webp .tif .avif.", metavar="OUT"),
    ],
    content_layers: Annotated[
        str,
        option(
            "--layers",
            "What it is reconstructed from, with weights if you like: relu4_2:1,relu5_2:0.5.",
            metavar="LAYERS",
        ),
    ],
    init: Annotated[
        str,
        option(
            "--init",
            "Where to start: noise, mix:R (R parts noise, 1-R photo) or a picture's file.",
            "noise",
        ),
    ] = "noise",
    scales: Annotated[
        int,
        option(
            "--scales",
            "How many sizes to work through, coarse to fine. At smaller ones a layer sees more of "
            "the photo than it does at the last.",
            1,
            panel="Optimisation",
            parser=whole,
        ),
    ] = 1,
) -> None: ...


_COLOURS = ("colour", "colour_space", "colour_strength")
_DREAMS = ("dream_layers", "dream_weight")
_REGIONS = ("mask", "style_mask", "labels", "style_labels", "region_weights")


def texture(words: Sequence[str], command: Callable[..., Any]) -> int:
    """Makes a texture and returns the exit status.

    Args:
      words: of the command line behind ``texture``.
      command: the main command, whose options it shares.

    Raises:
      ValueError: an option or an input that cannot work.
      OSError: a file that cannot be read or written.
    """
    app = sharing(
        command,
        _texture,
        without=(
            *("photo", "content_weight", "style_weight", "content_layers", "content_mask"),
            *("padding", "photorealism", *_COLOURS, *_DREAMS),
        ),
        help="Makes a texture of one or more PAINTINGs: their style alone, at any size.",
        example="stylejax texture painting.jpg -o tile.png --size 512x256 --seamless",
    )
    given = parse(app, words, name="stylejax texture")
    if given["init"] == "content" or given["init"].startswith("mix:"):
        raise ValueError(f"--init {given['init']} wants a photo; give noise or a picture's file")
    given["size"] = options.sides("--size", given["size"])
    given |= {"content_layers": ""} | ({"padding": "circular"} if given["seamless"] else {})
    return job.run(job.plan(given))


def reconstruct(words: Sequence[str], command: Callable[..., Any]) -> int:
    """Makes a reconstruction and returns the exit status.

    Args:
      words: of the command line behind ``reconstruct``.
      command: the main command, whose options it shares.

    Raises:
      ValueError: an option or an input that cannot work.
      OSError: a file that cannot be read or written.
    """
    styles = ("style_layers", "style_weight", "style_blend_weights", "style_scale")
    app = sharing(
        command,
        _reconstruct,
        without=(
            *("paintings", "content_weight", *styles, "style_statistic", *_COLOURS),
            *(*_DREAMS, *_REGIONS, "photorealism"),
        ),
        help="Reconstructs PHOTO from what some layers know of it: its content alone.",
        example="stylejax reconstruct photo.jpg --layers relu4_2 -o out.png --size 256",
    )
    given = parse(app, words, name="stylejax reconstruct")
    return job.run(job.plan({**given, "paintings": [], "style_layers": ""}))
