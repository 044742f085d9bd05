"""What is decided before a run is compiled: one frozen, hashable record.

Two equal configs share a compiled program; a changed one compiles anew. Numbers that may change
without compiling are ``objective.LossWeights``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import jax

from stylejax import layers, losses, vgg
from stylejax.canvas import CIRCULAR_FREQUENCIES, FREQUENCIES, PIXELS, Canvas
from stylejax.colour import Colour
from stylejax.optimizers import JaxoptLbfgs, JaxoptLbfgsb, Lbfgs, Minimizer
from stylejax.statistics import RELATIVE_GRAM, Statistic

Precision = Literal["highest", "high", "default"]
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


@dataclass(frozen=True)
class Config:
    """How a picture is made; the defaults are the ``default`` preset.

    Attributes:
      content_layers: where the picture is compared with the photo. ``relu4_2`` is the paper's
        "conv4_2".
      style_layers: where it is compared with the paintings.
      content_loss: ``(features, target) -> scalar``.
      style_statistic: what a style is, a ``statistics.Statistic``; or one for each of
        ``style_layers``, a tuple of pairs ``(layer, statistic)``.
      pool: ``layers.average_pool`` or ``layers.max_pool``.
      padding: ``"zero"`` (the paper's), ``"replicate"`` (at the first convolution) or
        ``"replicate-all"``, which spares the picture a frame of coloured lines along its border;
        ``"circular"`` makes it a tile that can be repeated without a seam. Photo and paintings are
        then seen with ``"replicate-all"``, because they are no tiles.
      precision: of the convolutions: ``"highest"`` is float32; ``"default"`` lets GPU and TPU use
        TF32 or bfloat16. Gram matrices and sums are float32 in any case.
      optimizer: a ``Minimizer``: ``Lbfgs()``, ``Adam()``, ``JaxoptLbfgs()``, ``JaxoptLbfgsb()``.
      canvas: what the optimizer holds, see ``canvas.Canvas``; None takes ``FREQUENCIES`` for L-BFGS
        (``CIRCULAR_FREQUENCIES`` with that padding) and ``PIXELS`` for Adam, which scales each
        variable itself, and for bounded pixels.
      steps: optimizer steps at the last scale.
      coarse_steps: steps at each scale before it; None takes ``steps``.
      scales: how many scales, each sqrt(2) smaller than the next; None takes as many as keep the
        long side at ``smallest`` or more.
      smallest: long side in pixels of the coarsest scale, where ``scales`` is None.
      style_scale: long side of the paintings relative to the picture's; a painting is never
        enlarged.
      noise: share of white noise in the start image; 0 starts from the photo, 1 from noise.
      colour: whose colours the picture has, see ``colour.Colour``; None leaves them the paintings'.
    """

    content_layers: tuple[str, ...] = ("relu4_2",)
    style_layers: tuple[str, ...] = STYLE_LAYERS
    content_loss: Callable[[jax.Array, jax.Array], jax.Array] = losses.content_loss_relative
    style_statistic: Statistic | tuple[tuple[str, Statistic], ...] = RELATIVE_GRAM
    pool: vgg.Pool = layers.average_pool
    padding: vgg.Padding = "replicate-all"
    precision: Precision = "highest"
    optimizer: Minimizer = Lbfgs()
    canvas: Canvas | None = None
    steps: int = 60
    coarse_steps: int | None = None
    scales: int | None = None
    smallest: int = 128
    style_scale: float = 1.0
    noise: float = 0.0
    colour: Colour | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where a number makes no sense."""
        for name, least in (("steps", 1), ("coarse_steps", 1), ("scales", 1), ("smallest", 1)):
            value = getattr(self, name)
            if value is not None and not (float(value).is_integer() and value >= least):
                raise ValueError(f"{name} is {value}; it must be a whole number from {least} on")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise is {self.noise}; it is a share from 0 (photo) to 1 (noise)")
        if not 0 < self.style_scale < float("inf"):
            raise ValueError(f"style_scale is {self.style_scale}; it must be more than 0")
        if not isinstance(self.colour, Colour | None):
            raise ValueError(
                f"colour is {self.colour!r}; give a Colour, e.g. Colour(colour.CHROMA)"
            )
        for name, words in (("padding", vgg.Padding), ("precision", Precision)):
            value, possible = getattr(self, name), get_args(words)
            if value not in possible:
                raise ValueError(f"{name} is {value!r}; choose {' or '.join(possible)}")
        for name in ("content_layers", "style_layers"):
            value = getattr(self, name)
            if not isinstance(value, tuple):
                raise ValueError(f"{name} is {value!r}; give a tuple of layer names")
            if len(set(value)) < len(value):
                raise ValueError(f"{name} is {value!r}; name each layer once")
        self._check_statistics()
        if isinstance(self.optimizer, JaxoptLbfgsb) and self.canvas not in (None, PIXELS):
            raise ValueError("canvas: the bounds of JaxoptLbfgsb are those of pixels; take PIXELS")
        if not (self.content_layers or self.style_layers):
            raise ValueError("no content_layers and no style_layers: nothing to optimise")

    def _check_statistics(self) -> None:
        given = self.style_statistic
        if isinstance(given, Statistic):
            return
        pairs = isinstance(given, tuple) and all(
            isinstance(pair, tuple)
            and len(pair) == 2
            and isinstance(pair[0], str)
            and isinstance(pair[1], Statistic)
            for pair in given
        )
        if not pairs:
            raise ValueError(
                f"style_statistic is {given!r}; give a Statistic or a tuple of pairs "
                "(layer, Statistic)"
            )
        if sorted(layer for layer, _ in given) != sorted(self.style_layers):
            raise ValueError(
                f"style_statistic names {', '.join(layer for layer, _ in given) or 'nothing'}; "
                f"the style layers are {', '.join(self.style_layers)}: name each once"
            )

    @property
    def statistics(self) -> dict[str, Statistic]:
        """The statistic of each style layer, in the order of ``style_layers``."""
        given = self.style_statistic
        if isinstance(given, Statistic):
            return dict.fromkeys(self.style_layers, given)
        by_layer = dict(given)
        return {layer: by_layer[layer] for layer in self.style_layers}

    @property
    def held(self) -> Canvas:
        """The canvas in use."""
        if self.canvas is not None:
            return self.canvas
        if not isinstance(self.optimizer, Lbfgs | JaxoptLbfgs):
            return PIXELS
        return CIRCULAR_FREQUENCIES if self.padding == "circular" else FREQUENCIES

    @property
    def layers(self) -> tuple[str, ...]:
        """Every layer that is looked at, each once."""
        return tuple(dict.fromkeys(self.content_layers + self.style_layers))

    @property
    def period(self) -> int:
        """What height and width must be multiples of: the deepest layer's stride in a tile, else 1.

        With any other size pooling would leave out a row or column, and the pattern its period.

        >>> Config(padding="circular").period
        16
        """
        return vgg.minimum_size(self.layers) if self.padding == "circular" else 1

    def sizes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Heights and widths from the coarsest scale to ``(height, width)`` itself.

        All but the last are rounded to multiples of ``period``.

        >>> Config(smallest=128).sizes(256, 512)[0], len(Config(smallest=128).sizes(256, 512))
        ((64, 128), 5)
        """
        least = vgg.minimum_size(self.layers)
        sizes = [(height, width)]
        while self.scales is None or len(sizes) < self.scales:
            shrink = 2 ** (-len(sizes) / 2)
            exact = height * shrink, width * shrink
            size = self.nearest(exact[0]), self.nearest(exact[1])
            too_small = round(min(exact)) < least or (
                self.scales is None and round(max(exact)) < self.smallest
            )
            if too_small or size == sizes[-1]:
                break
            sizes.append(size)
        return tuple(reversed(sizes))

    def nearest(self, length: float) -> int:
        """The multiple of ``period`` nearest to a length."""
        return self.period * max(1, round(length / self.period))

    def steps_at(self, scale: int, scales: int) -> int:
        """Steps at scale number ``scale`` of ``scales``, counted from 0."""
        last = scale == scales - 1
        return self.steps if last or self.coarse_steps is None else self.coarse_steps
