"""What ``stylize`` accepts: checks that name the value, the limit and the remedy.

They run before anything is compiled; values are read only where they are concrete.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stylejax import vgg
from stylejax.config import Config
from stylejax.objective import LossWeights


def check(
    params: vgg.Params,
    content: Any,
    styles: Sequence[Any],
    *,
    config: Config,
    loss_weights: LossWeights,
    init: Any = None,
) -> None:
    """Raises ValueError for arguments that cannot work; values are read only where concrete."""
    vgg.check_layers(config.layers, vgg.architecture_of(params))
    if not isinstance(styles, Sequence) or (config.style_layers and not styles):
        raise ValueError("styles must be a list of one or more images, e.g. [painting]")
    least = vgg.minimum_size(config.layers)
    deepest = max(config.layers, key=lambda layer: vgg.minimum_size([layer]))
    _check_image("content", content, least, deepest)
    _check_period(content.shape[:2], config, deepest)
    for index, style in enumerate(styles):
        _check_image(f"styles[{index}]", style, least, deepest)
    if init is not None:
        _check_image("init", init, 1, "")
    possible = len(config.sizes(*content.shape[:2]))
    if config.scales is not None and config.scales > possible:
        raise ValueError(
            f"{config.scales} scales would shrink the picture below the {least} pixels that "
            f"{deepest} needs; at {content.shape[1]}x{content.shape[0]} take at most {possible}"
        )
    check_loss_weights(loss_weights, config, len(styles))


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


def _count(numbers: Any) -> int | str:
    """How many numbers a list or vector has, also where they are traced."""
    if hasattr(numbers, "ndim"):
        return numbers.shape[0] if numbers.ndim == 1 else f"{numbers.ndim} axes of"
    return len(numbers) if isinstance(numbers, Sequence) else "no list of"


def check_loss_weights(loss_weights: LossWeights, config: Config, styles: int) -> None:
    """Raises ValueError for coefficients that do not fit; values are read only where concrete."""
    for name in ("content_layers", "style_layers"):
        given, layers = getattr(loss_weights, name), getattr(config, name)
        if given is not None and set(given) != set(layers):
            raise ValueError(
                f"loss_weights.{name} names {', '.join(given) or 'nothing'}; "
                f"the config's are {', '.join(layers)}"
            )
    given = loss_weights.styles
    if given is not None and (found := _count(given)) != styles:
        raise ValueError(
            f"loss_weights.styles has {found} numbers for {styles} styles; give one each"
        )
    numbers = jax.tree.leaves(loss_weights)
    if any(isinstance(number, jax.core.Tracer) for number in numbers):
        return
    for number in numbers:
        value = np.asarray(number)
        if not np.all(np.isfinite(value)) or np.any(value < 0):
            raise ValueError(f"a loss weight is {value}; weights are finite and not negative")
    if given is not None and np.sum(np.asarray(given, float)) <= 0:
        raise ValueError("loss_weights.styles add up to 0; give one style a weight")
