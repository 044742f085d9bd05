"""The words of the command line, turned into configs, weights and numbers.

Every function raises ValueError with one line that names the value, what is possible and the
option.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

from stylejax import colour, layers, losses, statistics, vgg
from stylejax.canvas import PIXELS, Blank
from stylejax.config import Config, Precision
from stylejax.masks import Marked
from stylejax.optimizers import BFLOAT16_NOISE, Adam, JaxoptLbfgs, JaxoptLbfgsb, Lbfgs, Minimizer
from stylejax.optimizers.pairs import MEMORY_DTYPES
from stylejax.presets import PRESETS, Preset
from stylejax.statistics import Statistic

OPTIMIZERS: dict[str, Callable[..., Minimizer]] = {
    "lbfgs": Lbfgs,
    "adam": Adam,
    "jaxopt-lbfgs": JaxoptLbfgs,
    "jaxopt-lbfgsb": JaxoptLbfgsb,
}
POOLS = {
    "avg": layers.average_pool,
    "max": layers.max_pool,
    "max-ceil": layers.max_pool_ceil,
    "avg-doubled": layers.average_pool_doubled,
    "l2": layers.l2_pool,
}
VARIATIONS = {
    "squares": losses.total_variation,
    "absolute": losses.absolute_variation,
    "cropped": losses.cropped_variation,
    "power": losses.power_variation,
    "nine-point": losses.nine_point_variation,
}
COLOURS = {
    "cholesky": colour.CHOLESKY,
    "pca": colour.PCA,
    "symmetric": colour.SYMMETRIC,
    "histogram": colour.HISTOGRAM,
    "luminance": colour.LUMINANCE,
    "chroma": colour.CHROMA,
}
# In their relative forms, whose weights mean the same at every layer and beside each other.
STATISTICS = {
    "gram": statistics.RELATIVE_GRAM,
    "covariance": statistics.RELATIVE_COVARIANCE,
    "mean-std": statistics.RELATIVE_MEAN_STD,
    "wasserstein": statistics.RELATIVE_WASSERSTEIN,
    "sliced": statistics.RELATIVE_SLICED,
    "histogram": statistics.RELATIVE_HISTOGRAM,
    "patches": statistics.RELATIVE_PATCHES,
}
SPACES = {"srgb": colour.SRGB, "linear": colour.LINEAR, "oklab": colour.OKLAB}
# Beside the default preset's weights; looked at from 2, hardly seen, to 50.
DREAM_WEIGHT = 10.0
# Fields of Config that the command line calls by another name.
RENAMED = {"steps_per_scale": "scale_steps"}
# The options behind arguments of a run, as ``fingerprints`` calls them, where their names differ.
_BEHIND = {
    "content": ("photo",),
    "styles": ("paintings",),
    "guides": ("mask", "style_mask", "content_mask", "labels", "style_labels"),
    "params": ("network", "weights_file"),
    "key": ("seed",),
    "config.style_statistic": ("style_statistic", "style_layers"),
    "config.total_variation": ("tv_form",),
    "config.pool": ("pooling",),
    "config.steps_per_scale": ("scale_steps",),
    "config.scales": ("scales", "draft"),
    "config.first_steps": ("steps",),
    "config.noise": ("init",),
    "config.blank": ("init",),
    "config.colour": ("colour", "colour_space", "colour_strength"),
    "config.canvas": ("optimizer",),
    "config.optimizer": ("optimizer",),
    "loss_weights.content": ("content_weight",),
    "loss_weights.style": ("style_weight",),
    "loss_weights.tv": ("tv_weight",),
    "loss_weights.styles": ("style_blend_weights", "mask", "labels"),
    "loss_weights.regions": ("region_weights", "mask", "labels"),
    "loss_weights.dream": ("dream_weight", "dream_layers"),
}
_PLACES = {"photo": "PHOTO", "paintings": "PAINTING", "weights_file": "--weights"}
PADDINGS = get_args(vgg.Padding)
PRECISIONS = get_args(Precision)
# With these a value is noisy in its third digit, on one device or another.
_NOISY = ("default", "bfloat16")


def choice(option: str, value: str, possible: Sequence[str]) -> str:
    """One of the words that are possible."""
    if value not in possible:
        raise ValueError(f"{option} {value!r} is unknown; choose {' or '.join(possible)}")
    return value


def number(option: str, value: str) -> float:
    """A finite number that is not negative."""
    try:
        parsed = float(value)
    except ValueError:
        parsed = math.nan
    if not math.isfinite(parsed) or parsed < 0:
        raise ValueError(f"{option} {value!r} must be a number from 0 on")
    return parsed


def sides(option: str, text: str) -> tuple[int, int]:
    """Height and width of ``WxH``, or of a square.

    >>> sides("--size", "768x512"), sides("--size", "256")
    ((512, 768), (256, 256))
    """
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(part.isdecimal() and int(part) for part in numbers):
        raise ValueError(f"{option} {text!r} is no size such as 512 or 768x512")
    return int(numbers[-1]), int(numbers[0])


def weighted_layers(option: str, text: str) -> tuple[tuple[str, ...], dict[str, float] | None]:
    """``relu4_2:1.0,relu5_2:0.5`` as names and weights; no weights at all means equal shares.

    >>> weighted_layers("--content-layers", "relu4_2:1.0,relu5_2:0.5")
    (('relu4_2', 'relu5_2'), {'relu4_2': 1.0, 'relu5_2': 0.5})
    >>> weighted_layers("--content-layers", "relu4_2")
    (('relu4_2',), None)
    """
    weights: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, colon, weight = part.partition(":")
        vgg.check_layers([name])
        if name in weights:
            raise ValueError(f"{option} names {name} twice")
        weights[name] = number(f"{option} {name}:", weight) if colon else 1.0
    return tuple(weights), weights if ":" in text else None


def preset_weights(names: tuple[str, ...], own: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Weights of layers that were named without any, where a preset has weights of its own.

    A layer weighs as much as the preset's in the same block, or as their mean where there is none.
    None, for equal shares of one, where the preset has none either.

    >>> preset_weights(("relu1_2", "relu4_1"), {"relu1_1": 3.0, "relu2_1": 1.0})
    {'relu1_2': 3.0, 'relu4_1': 2.0}
    """
    if own is None:
        return None
    by_block = {vgg.block_of(layer): weight for layer, weight in own.items()}
    mean = sum(own.values()) / len(own)
    return {name: own.get(name, by_block.get(vgg.block_of(name), mean)) for name in names}


def numbers(option: str, text: str) -> tuple[float, ...]:
    """``2,1`` as numbers."""
    return tuple(number(option, part.strip()) for part in text.split(","))


def blend_weights(
    option: str, text: str, styles: int, style_layers: tuple[str, ...]
) -> tuple[float, ...] | dict[str, tuple[float, ...]]:
    """``2,1`` as numbers, one per painting; ``2,1/relu5_1:0,1`` as numbers for every style layer.

    >>> blend_weights("--style-blend-weights", "1,0/relu5_1:0,1", 2, ("relu1_1", "relu5_1"))
    {'relu1_1': (1.0, 0.0), 'relu5_1': (0.0, 1.0)}
    """
    everywhere, by_layer = (1.0,) * styles, {}
    for part in text.split("/"):
        layer, colon, rest = part.strip().rpartition(":")
        shares = numbers(option, rest)
        if len(shares) != styles:
            raise ValueError(
                f"{option} {part.strip()} has {len(shares)} numbers for {styles} paintings; "
                "give one each"
            )
        if sum(shares) <= 0:
            raise ValueError(f"{option} {part.strip()} adds up to 0; give one painting a weight")
        if not colon:
            everywhere = shares
        elif layer in style_layers:
            by_layer[layer] = shares
        else:
            raise ValueError(
                f"{option} {layer} is no style layer; they are {', '.join(style_layers)}"
            )
    if not by_layer:
        return everywhere
    return {layer: by_layer.get(layer, everywhere) for layer in style_layers}


def in_regions(preset: Preset, given: dict[str, Any], marked: Marked) -> Preset:
    """The preset with what the regions say about paintings and strengths put in its place.

    Args:
      preset: with everything else in place.
      given: ``style_blend_weights`` and ``region_weights``; None where the command line is silent.
      marked: the regions.
    """
    changes: dict[str, Any] = {}
    several = marked.guides.regions is not None
    if several and given["style_blend_weights"] is not None:
        raise ValueError(
            "--style-blend-weights works without regions, where each has its own painting; "
            "--region-weights says how strongly each counts"
        )
    if marked.shares is not None:
        changes["styles"] = marked.shares
    if given["region_weights"] is not None:
        strengths = numbers("--region-weights", given["region_weights"])
        if len(strengths) != marked.guides.number:
            raise ValueError(
                f"--region-weights {given['region_weights']} has {len(strengths)} numbers for "
                f"{marked.guides.number} regions ({', '.join(marked.names['regions'])}); "
                "give one each"
            )
        changes["regions"] = strengths
    return preset._replace(loss_weights=preset.loss_weights._replace(**changes))


class Start(NamedTuple):
    """Share of noise, or a picture to start from."""

    noise: float
    file: Path | None


def start(option: str, text: str) -> Start:
    """``content``, ``noise``, ``grey``, ``mix:R`` or a file.

    >>> start("--init", "mix:0.25")
    Start(noise=0.25, file=None)
    """
    if text in ("content", "noise", "grey"):
        return Start(float(text != "content"), None)
    if text.startswith("mix:"):
        share = number(option, text.removeprefix("mix:"))
        if share > 1:
            raise ValueError(f"{option} {text}: R is the share of noise, from 0 to 1")
        return Start(share, None)
    if not Path(text).is_file():
        raise ValueError(
            f"{option} {text!r} is no file; give content, noise, grey, mix:R (R from 0 to 1) or a "
            "picture"
        )
    return Start(0.0, Path(text))


def behind(argument: str, given: Collection[str]) -> tuple[str, ...]:
    """The options, by their names in ``given``, that may be behind an argument of a run.

    >>> behind("config.optimizer.memory", ("memory", "preset")), behind("styles[1]", ())
    (('memory', 'preset'), ('paintings',))
    """
    whole = argument.partition("[")[0]
    own = whole.rpartition(".")[2]
    named = _BEHIND.get(whole) or ((own,) if own in given else ())
    return (*named, "preset") if "." in whole or whole == "params" else named


def called(name: str) -> str:
    """An option as it is written on the command line, by its name in ``given``."""
    return _PLACES.get(name) or _flag(name)


def _flag(name: str, value: Any = None) -> str:
    """An option as it is written, the way a word for yes or no was."""
    return ("--no-" if value is False else "--") + name.replace("_", "-")


def optimizer(given: dict[str, Any], default: Minimizer) -> Minimizer:
    """The minimizer that ``--optimizer`` and its own settings ask for.

    Args:
      given: ``optimizer`` and the settings ``learning_rate``, ``average``, ``clamp``, ``memory``,
        ``memory_dtype`` and ``line_search``; None where the command line is silent.
      default: the preset's.
    """
    name = given["optimizer"]
    kind = type(default) if name is None else OPTIMIZERS[choice("--optimizer", name, [*OPTIMIZERS])]
    made = default if name is None or kind is type(default) else kind()
    names = ("learning_rate", "average", "clamp", "memory", "memory_dtype", "line_search")
    settings = {k: given[k] for k in names if given[k] is not None}
    fields = {field.name for field in dataclasses.fields(made)}  # type: ignore[arg-type]
    for setting, value in settings.items():
        words = value if isinstance(value, str) else f"{value:g}"
        said = _flag(setting, value) + ("" if isinstance(value, bool) else f" {words}")
        if setting not in fields:
            owners = [n for n, k in OPTIMIZERS.items() if setting in k.__dataclass_fields__]  # type: ignore[attr-defined]
            raise ValueError(f"{said} works with --optimizer {' or '.join(owners)} only")
        if setting == "average" and not 0 <= value < 1:
            raise ValueError(f"{said} must be at least 0 and less than 1")
        if setting in ("learning_rate", "memory") and not value > 0:
            raise ValueError(f"{said} must be more than 0")
        if setting == "memory_dtype":
            choice("--memory-dtype", value, [dtype for dtype in MEMORY_DTYPES if dtype])
    return dataclasses.replace(made, **settings)  # type: ignore[type-var]


def dream(given: dict[str, Any]) -> tuple[tuple[str, ...], float] | None:
    """What ``--dream-layers`` and ``--dream-weight`` ask for; None where both are silent.

    Args:
      given: ``dream_layers`` and ``dream_weight``; None where the command line is silent.
    """
    if given["dream_layers"] is None:
        if given["dream_weight"] is not None:
            raise ValueError("--dream-weight works with --dream-layers only")
        return None
    names, weights = weighted_layers("--dream-layers", given["dream_layers"])
    if weights is not None:
        raise ValueError("--dream-layers takes names only; --dream-weight is for all of them")
    weight = given["dream_weight"]
    return names, DREAM_WEIGHT if weight is None else number("--dream-weight", str(weight))


def pyramid(given: dict[str, Any], optimizer: Minimizer, preset: Config) -> dict[str, Any]:
    """What the command line says of scales and steps, as changes of the preset's config.

    Lists take the place of the preset's rules, and rules of its lists; a list beside a rule of the
    command line is refused.

    Args:
      given: ``steps``, ``coarse_steps``, ``scales``, ``smallest``, ``scale_sizes``, ``scale_steps``
        and ``carry``; None where the command line is silent.
      optimizer: the one in use.
      preset: the preset's config.
    """
    changes: dict[str, Any] = {}
    # Of the rules only the first can be absent from a config; the second is not read beside a list.
    for option, rules in (
        ("scale_sizes", ("scales", "smallest")),
        ("scale_steps", ("coarse_steps", "steps")),
    ):
        field = {name: field for field, name in RENAMED.items()}.get(option, option)
        said = {rule: given[rule] for rule in rules if given[rule] is not None}
        if given[option] is None:
            changes |= {field: None, **said} if said else {}
        elif said:
            rule = next(iter(said))
            raise ValueError(f"{_flag(option)} and {_flag(rule)} are both given; take one")
        else:
            changes |= {field: given[option], rules[0]: None}
    if any(given[name] is not None for name in ("steps", "coarse_steps", "scale_steps")):
        changes["first_steps"] = None  # the preset's belongs to the preset's other steps
    if given["carry"] is not None:
        changes["carry"] = given["carry"]
    elif preset.carry and not hasattr(optimizer, "carry"):
        changes["carry"] = False  # nobody asked for it
    return changes


def colours(given: dict[str, Any]) -> colour.Colour | None:
    """What ``--colour`` and its settings ask for; None where it is silent or ``none``.

    Args:
      given: ``colour``, ``colour_space`` and ``colour_strength``; None where the command line is
        silent.
    """
    name = given["colour"]
    if name is None or name == "none":
        for setting in ("space", "strength"):
            if (value := given[f"colour_{setting}"]) is not None:
                raise ValueError(
                    f"--colour-{setting} {value} works with --colour {' or '.join(COLOURS)} only"
                )
        return None
    made = colour.Colour(COLOURS[choice("--colour", name, ["none", *COLOURS])])
    if given["colour_space"] is not None:
        space = SPACES[choice("--colour-space", given["colour_space"], [*SPACES])]
        made = dataclasses.replace(made, space=space)
    if given["colour_strength"] is not None:
        try:
            made = dataclasses.replace(made, strength=given["colour_strength"])
        except ValueError as error:
            raise ValueError(f"--colour-{error}") from None
    return made


def _mixture(option: str, text: str) -> Statistic:
    """``gram`` or ``gram+wasserstein:0.5``."""
    parts = []
    for part in text.split("+"):
        name, colon, weight = part.strip().partition(":")
        statistic = STATISTICS[choice(option, name, [*STATISTICS])]
        parts.append((statistic, number(f"{option} {name}:", weight) if colon else 1.0))
    if len(parts) == 1 and parts[0][1] == 1:
        return parts[0][0]
    try:
        return statistics.mixed(*parts)
    except ValueError as error:
        raise ValueError(f"{option} {text}: {error}") from None


def style_statistic(
    option: str, text: str, style_layers: tuple[str, ...], default: Any
) -> Statistic | tuple[tuple[str, Statistic], ...]:
    """One statistic for all layers, or others at some of them.

    ``gram`` and ``gram+wasserstein:0.5`` are for all layers, ``mean-std,relu4_1:patches`` for all
    but one, ``relu4_1:patches`` for one, while the others keep the preset's.

    Args:
      option: its name.
      text: of the command line.
      style_layers: where style is compared.
      default: the preset's statistic, for all layers.
    """
    everywhere, by_layer = None, {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, rest = part.partition(":")
        if name in style_layers and name not in by_layer:
            by_layer[name] = _mixture(option, rest)
        elif name in by_layer:
            raise ValueError(f"{option} names {name} twice")
        elif name[:4] in ("conv", "relu", "pool"):
            raise ValueError(
                f"{option} {name} is none of the style layers {', '.join(style_layers)}"
            )
        elif everywhere is not None:
            raise ValueError(f"{option} {text} names two statistics for all layers; join them by +")
        else:
            everywhere = _mixture(option, part)
    if everywhere is None:
        everywhere = default
    if not by_layer:
        return everywhere
    return tuple((layer, by_layer.get(layer, everywhere)) for layer in style_layers)


def build(given: dict[str, Any], styles: int) -> tuple[Preset, Path | None]:
    """The preset with everything that the command line says put in its place.

    Args:
      given: the options by name, None where the command line is silent.
      styles: number of paintings.

    Returns:
      The preset, changed, and the file to start from, if one was named.
    """
    preset = PRESETS[choice("--preset", given["preset"], [*PRESETS])]
    config: dict[str, Any] = {"optimizer": optimizer(given, preset.config.optimizer)}
    if type(config["optimizer"]) is not type(preset.config.optimizer) and preset.white:
        config["canvas"] = PIXELS  # another program's unit of length belongs to its own optimizer
    loss_weights: dict[str, Any] = {}
    config |= pyramid(given, config["optimizer"], preset.config)
    if given["style_scale"] is not None:
        config["style_scale"] = given["style_scale"]
    each = config.get("style_scale", preset.config.style_scale)
    if isinstance(each, tuple) and len(each) != styles:
        raise ValueError(
            f"--style-scale {','.join(f'{scale:g}' for scale in each)} has {len(each)} numbers for "
            f"{styles} paintings; give one, or one each"
        )
    if given["pooling"] is not None:
        config["pool"] = POOLS[choice("--pooling", given["pooling"], [*POOLS])]
    if given["padding"] is not None:
        config["padding"] = choice("--padding", given["padding"], PADDINGS)
    asked = choice("--precision", given["precision"] or "auto", ("auto", *PRECISIONS))
    if asked != "auto":
        config |= precise(asked, config["optimizer"])
    for name in ("content_layers", "style_layers"):
        if given[name] is not None:
            option = "--" + name.replace("_", "-")
            config[name], weights = weighted_layers(option, given[name])
            own = getattr(preset.loss_weights, name)
            loss_weights[name] = weights or preset_weights(config[name], own)
    if given["style_statistic"] is not None:
        config["style_statistic"] = style_statistic(
            "--style-statistic",
            given["style_statistic"],
            config.get("style_layers", preset.config.style_layers),
            preset.config.style_statistic,
        )
    for name in ("content", "style", "tv"):
        if given[f"{name}_weight"] is not None:
            loss_weights[name] = number(f"--{name}-weight", str(given[f"{name}_weight"]))
    if given["photorealism"] is not None:
        weight = number("--photorealism", str(given["photorealism"]))
        loss_weights["photorealism"], config["photorealism"] = weight, weight > 0
    if given["style_blend_weights"] is not None:
        loss_weights["styles"] = blend_weights(
            "--style-blend-weights",
            given["style_blend_weights"],
            styles,
            config.get("style_layers", preset.config.style_layers),
        )
    if given["tv_form"] is not None:
        form = choice("--tv-form", given["tv_form"], [*VARIATIONS])
        config["total_variation"] = VARIATIONS[form]
    if given["normalise_gradients"]:
        config["normalise_gradients"] = True
    if given["strip"] is not None:
        if given["low_memory"]:
            raise ValueError("--strip and --low-memory are both given; take one")
        config["strip"] = given["strip"] or None
    dreamt = dream(given)
    if dreamt is not None:
        config["dream_layers"], loss_weights["dream"] = dreamt
    if (matched := colours(given)) is not None:
        config["colour"] = matched
    file = None
    if given["init"] is not None:
        config["noise"], file = start("--init", given["init"])
        if given["init"] == "grey":
            config["blank"] = preset.config.blank or Blank()
    return preset._replace(
        config=_replace(preset.config, config),
        loss_weights=preset.loss_weights._replace(**loss_weights),
    ), file


def precise(precision: str, optimizer: Minimizer) -> dict[str, Any]:
    """The changes of a config for a precision: a line search has to know of its noise."""
    if precision in _NOISY and isinstance(optimizer, Lbfgs):
        optimizer = dataclasses.replace(optimizer, noise=BFLOAT16_NOISE)
    return {"precision": precision, "optimizer": optimizer}


def _replace(config: Config, changes: dict[str, Any]) -> Config:
    """As ``dataclasses.replace``, with the option's name in the message of an error."""
    with naming(fields=changes):
        return dataclasses.replace(config, **changes)


@contextmanager
def naming(*, fields: Collection[str] = tuple(Config.__dataclass_fields__)) -> Iterator[None]:
    """Puts an option's name in the place of its field's at the start of an error's message."""
    try:
        yield
    except ValueError as error:
        field, _, rest = str(error).partition(" ")
        if field not in fields:
            raise
        raise ValueError(f"{_flag(RENAMED.get(field, field))} {rest}") from None
