"""The words of the command line, turned into configs, weights and numbers.

Every function raises ValueError with one line that names the value, what is possible and the
option.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from stylejax import colour, layers, statistics, vgg
from stylejax.config import Config, Precision
from stylejax.optimizers import Adam, JaxoptLbfgs, JaxoptLbfgsb, Lbfgs, Minimizer
from stylejax.presets import PRESETS, Preset
from stylejax.statistics import Statistic

OPTIMIZERS: dict[str, Callable[..., Minimizer]] = {
    "lbfgs": Lbfgs,
    "adam": Adam,
    "jaxopt-lbfgs": JaxoptLbfgs,
    "jaxopt-lbfgsb": JaxoptLbfgsb,
}
POOLS = {"avg": layers.average_pool, "max": layers.max_pool}
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
PADDINGS = get_args(vgg.Padding)
PRECISIONS = get_args(Precision)


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


def blend_weights(option: str, text: str, styles: int) -> tuple[float, ...]:
    """``2,1`` as numbers, one per painting."""
    numbers = tuple(number(option, part.strip()) for part in text.split(","))
    if len(numbers) != styles:
        raise ValueError(
            f"{option} {text} has {len(numbers)} numbers for {styles} paintings; give one each"
        )
    if sum(numbers) <= 0:
        raise ValueError(f"{option} {text} adds up to 0; give one painting a weight")
    return numbers


class Start(NamedTuple):
    """Share of noise, or a picture to start from."""

    noise: float
    file: Path | None


def start(option: str, text: str) -> Start:
    """``content``, ``noise``, ``mix:R`` or a file.

    >>> start("--init", "mix:0.25")
    Start(noise=0.25, file=None)
    """
    if text in ("content", "noise"):
        return Start(float(text == "noise"), None)
    if text.startswith("mix:"):
        share = number(option, text.removeprefix("mix:"))
        if share > 1:
            raise ValueError(f"{option} {text}: R is the share of noise, from 0 to 1")
        return Start(share, None)
    if not Path(text).is_file():
        raise ValueError(
            f"{option} {text!r} is no file; give content, noise, mix:R (R from 0 to 1) or a picture"
        )
    return Start(0.0, Path(text))


def optimizer(given: dict[str, Any], default: Minimizer) -> Minimizer:
    """The minimizer that ``--optimizer`` and its own settings ask for.

    Args:
      given: ``optimizer`` and the settings ``learning_rate``, ``average``, ``memory``; None where
        the command line is silent.
      default: the preset's.
    """
    name = given["optimizer"]
    kind = type(default) if name is None else OPTIMIZERS[choice("--optimizer", name, [*OPTIMIZERS])]
    made = default if name is None or kind is type(default) else kind()
    settings = {k: given[k] for k in ("learning_rate", "average", "memory") if given[k] is not None}
    fields = {field.name for field in dataclasses.fields(made)}  # type: ignore[arg-type]
    for setting, value in settings.items():
        flag = "--" + setting.replace("_", "-")
        if setting not in fields:
            owners = [n for n, k in OPTIMIZERS.items() if setting in k.__dataclass_fields__]  # type: ignore[attr-defined]
            raise ValueError(f"{flag} {value:g} works with --optimizer {' or '.join(owners)} only")
        if setting == "average" and not 0 <= value < 1:
            raise ValueError(f"{flag} {value:g} must be at least 0 and less than 1")
        if setting != "average" and not value > 0:
            raise ValueError(f"{flag} {value:g} must be more than 0")
    return dataclasses.replace(made, **settings)  # type: ignore[type-var]


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
    everywhere, by_layer = default, {}
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
        elif everywhere is not default:
            raise ValueError(f"{option} {text} names two statistics for all layers; join them by +")
        else:
            everywhere = _mixture(option, part)
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
    loss_weights: dict[str, Any] = {}
    for name in ("steps", "coarse_steps", "scales", "smallest", "style_scale"):
        if given[name] is not None:
            config[name] = given[name]
    if given["pooling"] is not None:
        config["pool"] = POOLS[choice("--pooling", given["pooling"], [*POOLS])]
    for name, possible in (("padding", PADDINGS), ("precision", PRECISIONS)):
        if given[name] is not None:
            config[name] = choice(f"--{name}", given[name], possible)
    for name in ("content_layers", "style_layers"):
        if given[name] is not None:
            option = "--" + name.replace("_", "-")
            config[name], loss_weights[name] = weighted_layers(option, given[name])
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
    if given["style_blend_weights"] is not None:
        loss_weights["styles"] = blend_weights(
            "--style-blend-weights", given["style_blend_weights"], styles
        )
    if (asked := colours(given)) is not None:
        config["colour"] = asked
    file = None
    if given["init"] is not None:
        config["noise"], file = start("--init", given["init"])
    return preset._replace(
        config=_replace(preset.config, config),
        loss_weights=preset.loss_weights._replace(**loss_weights),
    ), file


def _replace(config: Config, changes: dict[str, Any]) -> Config:
    """As ``dataclasses.replace``, with the option's name in the message of an error."""
    try:
        return dataclasses.replace(config, **changes)
    except ValueError as error:
        field, _, rest = str(error).partition(" ")
        if field not in changes:
            raise
        raise ValueError(f"--{field.replace('_', '-')} {rest}") from None
