"""What ``stylize`` accepts: checks that name the value, the limit and the remedy.

They run before anything is compiled; values are read only where they are concrete.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stylejax import matting, vgg
from stylejax.config import Config
from stylejax.guides import Guides
from stylejax.guides import check as check_guides
from stylejax.objective import LossWeights
from stylejax.scale import style_size


def check(
    params: vgg.Params,
    content: Any,
    styles: Sequence[Any],
    *,
    config: Config,
    loss_weights: LossWeights,
    init: Any = None,
    guides: Guides | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Raises ValueError for arguments that cannot work; values are read only where concrete.

    Args are those of ``stylize``, and ``names``, what a message calls the masks (``guides.check``).
    """
    vgg.check_layers(config.layers, vgg.architecture_of(params))
    if not isinstance(styles, Sequence) or (config.style_layers and not styles):
        raise ValueError("styles must be a list of one or more images, e.g. [painting]")
    least = vgg.minimum_size(config.layers)
    deepest = max(config.layers, key=lambda layer: vgg.minimum_size([layer]))
    _check_image("content", content, least, deepest)
    _check_period(content.shape[:2], config, deepest)
    for index, style in enumerate(styles):
        _check_image(f"styles[{index}]", style, least, deepest)
    if config.photorealism:
        matting.check_size(*content.shape[:2])
        if least < matting.SMALLEST:
            least, deepest = matting.SMALLEST, "photorealism"
    if init is not None:
        _check_image("init", init, 1, "")
    possible = len(config.sizes(*content.shape[:2]))
    if config.scales is not None and config.scales > possible:
        raise ValueError(
            f"{config.scales} scales would shrink the picture below the {least} pixels that "
            f"{deepest} needs; at {content.shape[1]}x{content.shape[0]} take at most {possible}"
        )
    _check_pyramid(config, content.shape[0], content.shape[1], least, deepest)
    each = config.style_scale
    if isinstance(each, tuple) and len(each) != len(styles):
        raise ValueError(
            f"style_scale has {len(each)} numbers for {len(styles)} styles; give one, or one each"
        )
    regions = 1 if guides is None else guides.number
    check_loss_weights(loss_weights, config, len(styles), regions=regions)
    if guides is not None:
        coarsest = config.sizes(*content.shape[:2])[0]
        check_guides(
            guides,
            picture=coarsest,
            styles=[
                style_size(style.shape, coarsest, config, number=number)
                for number, style in enumerate(styles)
            ],
            layers=config.style_layers,
            takes=_takes(loss_weights.styles, config.style_layers, regions, len(styles)),
            names=names,
        )


def _check_pyramid(config: Config, height: int, width: int, least: int, layer: str) -> None:
    """The sizes and steps that a config lists, beside a picture."""
    sizes = config.sizes(height, width)
    if config.scale_sizes is not None:
        if config.scale_sizes[-1] > max(height, width):
            raise ValueError(
                f"scale_sizes ends with {config.scale_sizes[-1]}, but the picture is "
                f"{width}x{height}; its own size is the largest"
            )
        small = sizes[0]
        if min(small) < least:
            raise ValueError(
                f"scale_sizes starts with {config.scale_sizes[0]}, a picture of "
                f"{small[1]}x{small[0]}; {layer} needs at least {least}x{least}"
            )
    steps = config.steps_per_scale
    if steps is not None and len(steps) != len(sizes):
        raise ValueError(
            f"steps_per_scale has {len(steps)} numbers for {len(sizes)} scales, "
            f"{', '.join(str(max(size)) for size in sizes)} pixels; give one each"
        )


def _check_image(name: str, image: Any, least: int, layer: str) -> None:
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", np.object_)
    if shape is None or len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"{name} must be an array [height, width, 3], got {shape or type(image)}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name} is {dtype}; give floats in [0, 1], e.g. array / 255.0")
    if min(shape[:2]) < least:
        raise ValueError(
            f"{name} is {shape[1]}x{shape[0]} pixels; {layer} needs at least {least}x{least}: "
            "use a larger image or shallower layers"
        )
    if isinstance(image, jax.core.Tracer):
        return
    values = np.asarray(image)  # jnp would trace even what is concrete, inside the caller's jit
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{name} has values that are NaN or infinite")
    if low < -1 or high > 2:  # room for pictures that an unclipped run returned
        raise ValueError(f"{name} ranges over [{low:g}, {high:g}]; give sRGB in [0, 1]")


def _check_period(size: tuple[int, int], config: Config, deepest: str) -> None:
    height, width = size
    if height % config.period or width % config.period:
        near = "x".join(str(config.nearest(length)) for length in (width, height))
        raise ValueError(
            f"content is {width}x{height} pixels; with padding 'circular' and {deepest} both are "
            f"multiples of {config.period}: take {near}"
        )


def _shape(numbers: Any) -> tuple[int, ...]:
    """The shape of a list of numbers, or of lists of them, also where they are traced."""
    if hasattr(numbers, "shape"):
        return tuple(numbers.shape)
    if not isinstance(numbers, Sequence):
        return ()
    inner = {_shape(number) for number in numbers}
    return (len(numbers), *inner.pop()) if len(inner) == 1 else (len(numbers), -1)


def check_loss_weights(
    loss_weights: LossWeights, config: Config, styles: int, *, regions: int = 1
) -> None:
    """Raises ValueError for coefficients that do not fit; values are read only where concrete."""
    for name in ("content_layers", "style_layers"):
        given, layers = getattr(loss_weights, name), getattr(config, name)
        if given is not None and set(given) != set(layers):
            raise ValueError(
                f"loss_weights.{name} names {', '.join(given) or 'nothing'}; "
                f"the config's are {', '.join(layers)}"
            )
    blends = _blends(loss_weights.styles, config)
    for name, given in blends.items():
        _check_blend(name, given, styles, regions)
    given = loss_weights.regions
    if given is not None and _shape(given) != (regions,):
        raise ValueError(
            f"loss_weights.regions has {_described(_shape(given))} for {regions} "
            f"region{'s' * (regions > 1)}; give one each"
        )
    numbers = jax.tree.leaves(loss_weights)
    if any(isinstance(number, jax.core.Tracer) for number in numbers):
        return
    for number in numbers:
        value = np.asarray(number)
        if not np.all(np.isfinite(value)) or np.any(value < 0):
            raise ValueError(f"a loss weight is {value}; weights are finite and not negative")
    realism = 0 if loss_weights.photorealism is None else np.asarray(loss_weights.photorealism)
    if not config.photorealism and np.any(realism > 0):
        raise ValueError(
            f"loss_weights.photorealism is {loss_weights.photorealism} and config.photorealism is "
            "False, so nothing would come of it; take Config(photorealism=True)"
        )
    for name, given in blends.items():
        if np.any(np.sum(np.asarray(given, float), axis=-1) <= 0):
            raise ValueError(f"{name} add up to 0; give one style a weight")


def _blends(given: Any, config: Config) -> dict[str, Any]:
    """The blend weights that were given, by what to call them."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return {"loss_weights.styles": given}
    if set(given) != set(config.style_layers):
        raise ValueError(
            f"loss_weights.styles names {', '.join(given) or 'nothing'}; "
            f"the config's style layers are {', '.join(config.style_layers)}"
        )
    return {f"loss_weights.styles[{layer!r}]": shares for layer, shares in given.items()}


def _takes(
    given: Any, layers: Sequence[str], regions: int, styles: int
) -> dict[str, np.ndarray] | None:
    """By layer ``[R, S]``, whether a region takes anything of a painting; None where traced."""
    if any(isinstance(number, jax.core.Tracer) for number in jax.tree.leaves(given)):
        return None
    default = np.eye(styles) if regions == styles else np.ones(styles)
    by_layer = given if isinstance(given, Mapping) else dict.fromkeys(layers, given)
    return {
        layer: np.broadcast_to(default if shares is None else shares, (regions, styles)) > 0
        for layer, shares in by_layer.items()
    }


def _check_blend(name: str, given: Any, styles: int, regions: int) -> None:
    shape = _shape(given)
    if shape in ((styles,), (regions, styles)):
        return
    wanted = f"{styles} styles" + (f" in {regions} regions" if regions > 1 else "")
    raise ValueError(f"{name} has {_described(shape)} for {wanted}; give one each")


def _described(shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return f"{shape[0]} number{'s' * (shape[0] != 1)}"
    if len(shape) == 2 and shape[1] >= 0:
        return f"{shape[0]} rows of {shape[1]} numbers"
    return "rows of different lengths" if shape else "no list of numbers"
