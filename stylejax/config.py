"""What is decided before a run is compiled: one frozen, hashable record.

Two equal configs share a compiled program; a changed one compiles anew. Numbers that may change
without compiling are ``objective.LossWeights``.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, Literal, get_args

import jax
from jax.sharding import Mesh

from stylejax import canvas, devices, images, layers, losses, matting, vgg
from stylejax.canvas import CIRCULAR_FREQUENCIES, FREQUENCIES, PIXELS, Blank, Canvas
from stylejax.colour import Colour
from stylejax.optimizers import Adam, GradientDescent, JaxoptLbfgs, JaxoptLbfgsb, Lbfgs, Minimizer
from stylejax.statistics import RELATIVE_GRAM, Statistic

ContentLoss = losses.ContentLoss | Callable[[jax.Array, jax.Array], jax.Array]
Precision = Literal["highest", "high", "default", "bfloat16"]
# What says which scales there are, and how many steps each takes.
_OF_THE_PYRAMID = (
    "steps",
    "coarse_steps",
    "first_steps",
    "scales",
    "smallest",
    "scale_sizes",
    "steps_per_scale",
)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


def _counts(value: float) -> bool:
    """Whether a number can say how many."""
    return float(value).is_integer() and value >= 1


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
      total_variation: ``image -> scalar``, a form of ``losses``.
      normalise_gradients: each term's gradient at its layer gets an L1 norm of one before it goes
        down the network, see ``losses.with_unit_gradient``; not with a line search.
      dream_layers: where activations are rewarded, see ``losses.dream_loss``; for a weight that is
        not 0.
      pool: a pooling of ``layers``, such as ``average_pool`` or ``max_pool``.
      padding: ``"zero"`` (the paper's), ``"replicate"`` (at the first convolution) or
        ``"replicate-all"``, which spares the picture a frame of coloured lines along its border;
        ``"circular"`` makes it a tile that can be repeated without a seam. Photo and paintings are
        then seen with ``"replicate-all"``, because they are no tiles.
      precision: of the convolutions: ``"highest"`` is float32; ``"default"`` lets GPU and TPU use
        TF32 or bfloat16; with ``"bfloat16"`` the network's features are such numbers too. Losses
        and sums are float32 in any case, and so are products of Gram matrices but on GPUs with
        ``"default"``.
      optimizer: a ``Minimizer``: ``Lbfgs()``, ``Adam()``, ``JaxoptLbfgs()``, ``JaxoptLbfgsb()``.
      canvas: what the optimizer holds, see ``canvas.Canvas``; None takes ``FREQUENCIES`` for L-BFGS
        (``CIRCULAR_FREQUENCIES`` with that padding) and ``PIXELS`` for Adam, which scales each
        variable itself, and for bounded pixels.
      steps: optimizer steps at the last scale.
      coarse_steps: steps at each scale before it; None takes ``steps``.
      first_steps: steps at the coarsest scale; None takes what the others have.
      scales: how many scales, each sqrt(2) smaller than the next; None takes as many as keep the
        long side at ``smallest`` or more.
      smallest: long side in pixels of the coarsest scale, where ``scales`` is None.
      scale_sizes: long sides in pixels of the scales, ascending, instead of ``scales`` and
        ``smallest``. The last scale is the picture's own in any case; naming it is optional.
      steps_per_scale: steps at each scale, coarse to fine, the picture's own included, instead of
        ``steps`` and ``coarse_steps``.
      style_scale: long side of the paintings relative to the picture's, one number or one for each
        painting; a painting is never enlarged. A painting given twice with two numbers is a style
        at two scales.
      noise: share of noise in the start image; 0 starts from the photo, 1 from noise.
      blank: what that noise is: None is white noise, a ``canvas.Blank`` a colour with some grain.
      colour: whose colours the picture has, see ``colour.Colour``; None leaves them the paintings'.
      carry: whether the optimizer goes on at the next scale with what it has learnt at the last,
        see ``Adam.carry``; L-BFGS remembers one size only.
      photorealism: whether the objective has the matting loss, see ``matting``; how much of it is
        ``LossWeights.photorealism``.
      strip: side of a square with as many pixels as are in memory at a time, with their
        activations, see ``strips``; scales with no more pixels are evaluated as a whole, as all are
        for None. With a mesh they are the pixels of a device. The picture is the same; losses must
        be sums over positions.
      strip_above: side of a square; scales with no more pixels are evaluated as a whole all the
        same. None is ``strip``. Coarser scales often fit where the last does not.
      recompute: in strips, of so many blocks all activations are computed again for the gradient,
        None is of all blocks; of the others, with 0 of all, a bit is kept of every ReLU, the
        features that terms look at, or in place of these what the pooling before them left.
      nested: in strips, whether the rows that strips hand on are kept for the gradient for a few of
        them only, and for the others computed again, by a third pass of the network; of a picture
        thousands of pixels high that is most of what an evaluation takes.
      mesh: the devices that share the picture's rows, see ``devices.mesh``; None is one device.
      height: of the picture at the scale that is worked at, where there is a mesh; ``at`` sets it.
    """

    content_layers: tuple[str, ...] = ("relu4_2",)
    style_layers: tuple[str, ...] = STYLE_LAYERS
    content_loss: ContentLoss = losses.content_loss_relative
    style_statistic: Statistic | tuple[tuple[str, Statistic], ...] = RELATIVE_GRAM
    total_variation: Callable[[jax.Array], jax.Array] = losses.total_variation
    normalise_gradients: bool = False
    dream_layers: tuple[str, ...] = ()
    pool: vgg.Pool = layers.average_pool
    padding: vgg.Padding = "replicate-all"
    precision: Precision = "highest"
    optimizer: Minimizer = Lbfgs()
    canvas: Canvas | None = None
    steps: int = 60
    coarse_steps: int | None = None
    first_steps: int | None = None
    scales: int | None = None
    smallest: int = 128
    scale_sizes: tuple[int, ...] | None = None
    steps_per_scale: tuple[int, ...] | None = None
    style_scale: float | tuple[float, ...] = 1.0
    noise: float = 0.0
    blank: Blank | None = None
    colour: Colour | None = None
    carry: bool = False
    photorealism: bool = False
    strip: int | None = None
    strip_above: int | None = None
    recompute: int | None = None
    nested: bool = False
    mesh: Mesh | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where a number makes no sense."""
        for name in ("steps", "coarse_steps", "first_steps", "scales", "smallest"):
            value = getattr(self, name)
            if value is not None and not _counts(value):
                raise ValueError(f"{name} is {value}; it must be a whole number from 1 on")
        self._check_scales()
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise is {self.noise}; it is a share from 0 (photo) to 1 (noise)")
        if not isinstance(self.colour, Colour | None):
            raise ValueError(
                f"colour is {self.colour!r}; give a Colour, e.g. Colour(colour.CHROMA)"
            )
        if not isinstance(self.photorealism, bool):
            raise ValueError(
                f"photorealism is {self.photorealism!r}; give True or False here and how much of "
                "it in LossWeights"
            )
        for name, words in (("padding", vgg.Padding), ("precision", Precision)):
            value, possible = getattr(self, name), get_args(words)
            if value not in possible:
                raise ValueError(f"{name} is {value!r}; choose {' or '.join(possible)}")
        for name in ("content_layers", "style_layers", "dream_layers"):
            value = getattr(self, name)
            if not isinstance(value, tuple):
                raise ValueError(f"{name} is {value!r}; give a tuple of layer names")
            if len(set(value)) < len(value):
                raise ValueError(f"{name} is {value!r}; name each layer once")
        if self.mesh is not None:
            devices.check(self.mesh)
        self._check_statistics()
        self._check_optimizer()
        self._check_strips()
        if not (self.content_layers or self.style_layers or self.dream_layers):
            raise ValueError("no content_layers and no style_layers: nothing to optimise")

    def _check_scales(self) -> None:
        for name, other in (("scale_sizes", "scales"), ("steps_per_scale", "coarse_steps")):
            value = getattr(self, name)
            if value is None:
                continue
            if not (isinstance(value, tuple) and value and all(map(_counts, value))):
                raise ValueError(
                    f"{name} is {value!r}; give a tuple of whole numbers from 1 on, coarse to fine"
                )
            if getattr(self, other) is not None:
                raise ValueError(f"{name} and {other} are both given; take one of the two")
        sizes = self.scale_sizes or ()
        if list(sizes) != sorted(set(sizes)):
            raise ValueError(f"scale_sizes is {sizes}; each scale must be larger than the last")
        given = self.style_scale
        each = given if isinstance(given, tuple) else (given,)
        if not each or not all(isinstance(x, Real) and 0 < x < float("inf") for x in each):
            raise ValueError(
                f"style_scale is {given}; give a number that is more than 0, or a tuple of them"
            )

    def _check_optimizer(self) -> None:
        optimizer = self.optimizer
        if isinstance(optimizer, JaxoptLbfgsb) and self.canvas not in (None, PIXELS):
            raise ValueError("canvas: the bounds of JaxoptLbfgsb are those of pixels; take PIXELS")
        if isinstance(optimizer, Adam) and optimizer.clamp and self.canvas not in (None, PIXELS):
            raise ValueError("canvas: Adam's clamp is for pixels in [0, 1]; take PIXELS")
        searches = isinstance(optimizer, Lbfgs | JaxoptLbfgs | JaxoptLbfgsb)
        if self.normalise_gradients and searches and getattr(optimizer, "line_search", True):
            raise ValueError(
                "normalise_gradients needs an optimizer without a line search, because its "
                "gradient is not the loss's: take Adam, or L-BFGS with full steps"
            )
        if isinstance(optimizer, JaxoptLbfgs) and self.mesh and devices.mixed_up(self.mesh):
            raise ValueError(
                "optimizer JaxoptLbfgs does not go with CPUs under jax.distributed, which would "
                "mix up its sums; take Lbfgs, or one process"
            )
        if self.carry and not hasattr(optimizer, "carry"):
            raise ValueError(
                f"carry takes Adam: what {type(optimizer).__name__} remembers belongs to one size"
            )
        if self.carry and self.held in (FREQUENCIES, CIRCULAR_FREQUENCIES):
            raise ValueError(
                "carry resizes what Adam remembers as one does a picture, which coefficients of "
                "frequencies are not; leave canvas out, or take PIXELS"
            )

    def _check_strips(self) -> None:
        smallest = vgg.minimum_size(self.layers)
        above = ("strip_above", self.strip or 0)
        for name, least in (("strip", smallest), above, ("recompute", 0)):
            value = getattr(self, name)
            if value is not None and not (float(value).is_integer() and value >= least):
                raise ValueError(f"{name} is {value}; it must be a whole number from {least} on")
        if self.strip is None:
            for name in ("strip_above", "recompute", "nested"):
                if (value := getattr(self, name)) not in (None, False):
                    raise ValueError(
                        f"{name} is {value} without strips; give strip, or leave it out"
                    )
            return
        if self.mesh is not None and self.padding == "circular":
            raise ValueError(
                f"strip {self.strip} over {self.mesh.size} devices does not go with padding "
                "'circular', a tile without seams; take one device, or no strips"
            )
        for layer, statistic in self.statistics.items():
            if not statistic.additive:
                raise ValueError(
                    f"strip needs statistics that are sums over positions; {statistic.name} at "
                    f"{layer} is not: take gram, covariance, mean-std or wasserstein, or no strips"
                )
        if not isinstance(self.content_loss, losses.ContentLoss):
            raise ValueError("strip needs a content_loss of sums: make it a losses.ContentLoss")
        if self.normalise_gradients:
            raise ValueError(
                "strip does not go with normalise_gradients, whose norms are of whole layers; "
                "leave one of them out"
            )

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
        held = self.canvas
        if held is None and isinstance(self.optimizer, Lbfgs | JaxoptLbfgs):
            held = CIRCULAR_FREQUENCIES if self.padding == "circular" else FREQUENCIES
        held = PIXELS if held is None else held
        return held if self.rows is None else canvas.over_devices(held, self.rows)

    @property
    def rows(self) -> devices.Rows | None:
        """How the picture's rows are spread at the scale that is worked at."""
        return None if self.height is None else self.spread(self.height)

    def spread(self, height: int) -> devices.Rows | None:
        """How the rows of a picture of this height are spread; None where there is no mesh."""
        if self.mesh is None:
            return None
        stride = vgg.minimum_size(self.layers)
        return devices.Rows(devices.automatic(self.mesh), height, stride)

    def own_rows(self, height: int) -> int:
        """Rows of a picture of this height that a device has."""
        if self.mesh is None:
            return height
        return devices.Rows(self.mesh, height, vgg.minimum_size(self.layers)).each

    def at(self, size: tuple[int, int]) -> "Config":
        """The config of a scale: what its programs are made of, and nothing of the others.

        Runs of more steps, or of other scales besides, share its programs.

        >>> Config(steps=5, scales=3).at((256, 512)) == Config().at((256, 512))
        True
        """
        usual: Any = {f.name: f.default for f in fields(self) if f.name in _OF_THE_PYRAMID}
        own = replace(self, **usual)
        rows = self.spread(size[0])
        if rows is None:
            return own
        optimizer = self.optimizer
        if isinstance(optimizer, GradientDescent):  # it counts the numbers of z, padded ones too
            share = rows.padded / rows.height
            optimizer = replace(optimizer, full_from=optimizer.full_from * share)
        return replace(own, height=size[0], optimizer=optimizer)

    @property
    def layers(self) -> tuple[str, ...]:
        """Every layer that is looked at, each once."""
        return tuple(dict.fromkeys(self.content_layers + self.style_layers + self.dream_layers))

    @property
    def period(self) -> int:
        """What height and width must be multiples of: the deepest layer's stride in a tile, else 1.

        With any other size pooling would leave out a row or column, and the pattern its period.

        >>> Config(padding="circular").period
        16
        """
        return vgg.minimum_size(self.layers) if self.padding == "circular" else 1

    def strip_rows(self, height: int, width: int) -> int | None:
        """Rows of an image of this size in a strip; None where it is evaluated as a whole.

        >>> Config(strip=512).strip_rows(512, 512), Config(strip=512).strip_rows(3072, 4096)
        (None, 64)
        >>> Config(strip=512, strip_above=1024).strip_rows(1024, 1024)
        """
        if self.strip is None:
            return None
        if self.own_rows(height) * width <= (self.strip_above or self.strip) ** 2:
            return None
        least = vgg.minimum_size(self.layers)
        return max(1, self.strip**2 // width // least) * least

    def sizes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Heights and widths from the coarsest scale to ``(height, width)`` itself.

        All but the last are rounded to multiples of ``period``.

        >>> Config(smallest=128).sizes(256, 512)[0], len(Config(smallest=128).sizes(256, 512))
        ((64, 128), 5)
        >>> Config(scale_sizes=(128, 384)).sizes(256, 512)
        ((64, 128), (192, 384), (256, 512))
        """
        if self.scale_sizes is not None:
            before = [size for size in self.scale_sizes if size < max(height, width)]
            fitted = [images.fit(height, width, size) for size in before]
            return (*((self.nearest(h), self.nearest(w)) for h, w in fitted), (height, width))
        least = max(vgg.minimum_size(self.layers), matting.SMALLEST * self.photorealism)
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
        if self.steps_per_scale is not None:
            return self.steps_per_scale[scale]
        if scale == 0 and self.first_steps is not None:
            return self.first_steps
        last = scale == scales - 1
        return self.steps if last or self.coarse_steps is None else self.coarse_steps
