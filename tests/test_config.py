"""The static record: equality, refusals, and the ladder of scales."""

import dataclasses

import pytest

from stylejax import devices, layers, losses, statistics, vgg
from stylejax.canvas import CIRCULAR_FREQUENCIES, FREQUENCIES, PIXELS, Blank
from stylejax.colour import CHROMA, Colour
from stylejax.config import Config
from stylejax.optimizers import Adam, JaxoptLbfgs, JaxoptLbfgsb, Lbfgs

SHALLOW = {"content_layers": ("relu1_1",), "style_layers": ("relu1_1",)}  # work on one pixel

# Every field with a value that is not its default.
OTHER = {
    "content_layers": ("relu3_2",),
    "style_layers": ("relu1_1",),
    "content_loss": losses.content_loss,
    "style_statistic": (("relu1_1", statistics.SLICED),),
    "total_variation": losses.absolute_variation,
    "normalise_gradients": True,
    "dream_layers": ("relu2_1",),
    "pool": layers.max_pool,
    "padding": "zero",
    "precision": "default",
    "optimizer": Adam(),
    "canvas": (len, len),
    "steps": 7,
    "coarse_steps": 3,
    "first_steps": 4,
    "scales": 2,
    "smallest": 77,
    "scale_sizes": (64, 128),
    "steps_per_scale": (5, 3),
    "style_scale": (0.5, 1.0),
    "noise": 0.25,
    "blank": Blank((0.1, 0.2, 0.3)),
    "colour": Colour(CHROMA),
    "carry": True,
    "photorealism": True,
    "strip": 512,
    "strip_above": 1024,
    "recompute": 2,
    "nested": True,
    "mesh": devices.mesh(1),
    "height": 48,
}


# Of a list and a rule only one may be given, and strips want sums.
WITHOUT_LISTS = {n: v for n, v in OTHER.items() if n not in ("scale_sizes", "steps_per_scale")}
STRIPS = ("strip", "strip_above", "recompute", "nested")
WITHOUT_LISTS = {n: v for n, v in WITHOUT_LISTS.items() if n not in STRIPS}
WITHOUT_RULES = {n: v for n, v in OTHER.items() if n not in ("scales", "coarse_steps", *STRIPS)}


# Equality: what decides whether a compiled program is found again


def test_equal_configs_hash_equal():
    assert Config() == Config()
    assert hash(Config()) == hash(Config())
    for other in (WITHOUT_LISTS, WITHOUT_RULES):
        assert Config(**other) == Config(**dict(other))
        assert hash(Config(**other)) == hash(Config(**dict(other)))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Config)])
def test_every_field_counts(field):
    other = {field: OTHER[field]}
    if field == "style_statistic":
        other["style_statistic"] = statistics.SLICED  # OTHER's is for OTHER's layers
    if field in ("carry", "normalise_gradients"):
        other["optimizer"] = Adam()
        assert Config(**other) != Config(optimizer=Adam())
    if field in STRIPS[1:]:
        other["strip"] = 512
        assert Config(**other) != Config(strip=512)
    assert Config(**other) != Config()


@pytest.mark.parametrize("kind", [Adam, JaxoptLbfgs, JaxoptLbfgsb, Lbfgs])
def test_optimizers_are_compared_by_their_settings(kind):
    assert Config(optimizer=kind()) == Config(optimizer=kind())
    assert hash(Config(optimizer=kind())) == hash(Config(optimizer=kind()))
    field = dataclasses.fields(kind)[0].name
    assert Config(optimizer=kind(**{field: 3})) != Config(optimizer=kind())


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().steps = 3


def test_layers_are_named_once():
    config = Config(content_layers=("relu4_2", "relu2_1"), style_layers=("relu2_1", "relu1_1"))
    assert config.layers == ("relu4_2", "relu2_1", "relu1_1")


def test_the_defaults_are_the_papers_layers():
    assert Config().content_layers == ("relu4_2",)
    assert Config().style_layers == ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


def test_statistics_by_layer():
    layers = ("relu1_1", "relu2_1")
    plain = Config(style_layers=layers, style_statistic=statistics.GRAM)
    assert plain.statistics == {"relu1_1": statistics.GRAM, "relu2_1": statistics.GRAM}
    pairs = (("relu2_1", statistics.GRAM), ("relu1_1", statistics.PATCHES))
    by_layer = Config(style_layers=layers, style_statistic=pairs)
    assert [*by_layer.statistics.items()] == [pairs[1], pairs[0]]
    assert hash(by_layer) == hash(Config(style_layers=layers, style_statistic=pairs))


# Refusals

REFUSED = {
    "no steps": ({"steps": 0}, ["steps is 0", "from 1 on"]),
    "half a step": ({"steps": 2.5}, ["steps is 2.5", "whole number"]),
    "negative coarse steps": ({"coarse_steps": -1}, ["coarse_steps is -1", "from 1 on"]),
    "no scales": ({"scales": 0}, ["scales is 0", "from 1 on"]),
    "no smallest": ({"smallest": 0}, ["smallest is 0", "from 1 on"]),
    "not a number of steps": ({"steps": float("nan")}, ["steps is nan", "whole number"]),
    "endless steps": ({"steps": float("inf")}, ["steps is inf", "whole number"]),
    "less than no noise": ({"noise": -0.1}, ["noise is -0.1", "from 0", "to 1"]),
    "more than noise": ({"noise": 1.5}, ["noise is 1.5", "from 0", "to 1"]),
    "not a number of noise": ({"noise": float("nan")}, ["noise is nan"]),
    "no style scale": ({"style_scale": 0.0}, ["style_scale is 0.0", "more than 0"]),
    "endless style scale": ({"style_scale": float("inf")}, ["style_scale is inf"]),
    "not a number of style scale": ({"style_scale": float("nan")}, ["style_scale is nan"]),
    "a word for a colour": ({"colour": "chroma"}, ["colour is 'chroma'", "Colour("]),
    "a list of style scales": ({"style_scale": [1.0]}, ["style_scale is [1.0]", "tuple"]),
    "no style scales": ({"style_scale": ()}, ["style_scale is ()", "more than 0"]),
    "one style scale of none": ({"style_scale": (1.0, 0.0)}, ["style_scale is (1.0, 0.0)"]),
    "no scale sizes": ({"scale_sizes": ()}, ["scale_sizes is ()", "tuple"]),
    "a list of scale sizes": ({"scale_sizes": [64]}, ["scale_sizes is [64]", "tuple"]),
    "half a pixel": ({"scale_sizes": (64.5,)}, ["scale_sizes is (64.5,)", "whole numbers"]),
    "scales fine to coarse": ({"scale_sizes": (256, 128)}, ["scale_sizes", "larger than"]),
    "a scale twice": ({"scale_sizes": (128, 128)}, ["scale_sizes", "larger than the last"]),
    "scales two ways": ({"scale_sizes": (128,), "scales": 2}, ["scale_sizes and scales"]),
    "no steps at a scale": ({"steps_per_scale": (5, 0)}, ["steps_per_scale is (5, 0)", "from 1"]),
    "steps two ways": (
        {"steps_per_scale": (5,), "coarse_steps": 2},
        ["steps_per_scale and coarse_steps"],
    ),
    "carrying L-BFGS": ({"carry": True}, ["carry takes Adam", "Lbfgs remembers", "one size"]),
    "carrying full steps": (
        {"carry": True, "optimizer": Lbfgs(line_search=False)},
        ["carry takes Adam"],
    ),
    "clamped frequencies": (
        {"optimizer": Adam(clamp=True), "canvas": FREQUENCIES},
        ["canvas", "clamp", "PIXELS"],
    ),
    "carried frequencies": (
        {"optimizer": Adam(), "canvas": FREQUENCIES, "carry": True},
        ["carry", "canvas", "PIXELS"],
    ),
    "a weight for a switch": ({"photorealism": 2.0}, ["photorealism is 2.0", "LossWeights"]),
    "unknown padding": ({"padding": "reflect"}, ["'reflect'", "zero", "replicate"]),
    "unknown precision": ({"precision": "hihgest"}, ["'hihgest'", "highest", "default"]),
    "a list of statistics": ({"style_statistic": [statistics.GRAM]}, ["style_statistic", "pairs"]),
    "half a pair": ({"style_statistic": (("relu1_1",),)}, ["style_statistic", "pairs"]),
    "a statistic's name": ({"style_statistic": "gram"}, ["style_statistic is 'gram'", "pairs"]),
    "layers without a statistic": (
        {"style_statistic": (("relu1_1", statistics.GRAM),)},
        ["style_statistic names relu1_1", "relu5_1", "each once"],
    ),
    "two statistics of a layer": (
        {
            "style_layers": ("relu1_1",),
            "style_statistic": (("relu1_1", statistics.GRAM), ("relu1_1", statistics.PATCHES)),
        },
        ["style_statistic names relu1_1, relu1_1", "once"],
    ),
    "a dream's layer twice": (
        {"dream_layers": ("relu1_1", "relu1_1")},
        ["dream_layers", "each layer once"],
    ),
    "normalised gradients for a line search": (
        {"normalise_gradients": True},
        ["normalise_gradients", "line search", "Adam"],
    ),
    "and for jaxopt's": (
        {"normalise_gradients": True, "optimizer": JaxoptLbfgs()},
        ["normalise_gradients", "line search", "Adam"],
    ),
    "no layers": ({"content_layers": (), "style_layers": ()}, ["nothing to optimise"]),
    # Lists cannot be hashed: without a word here the run would end in JAX's own.
    "a list of layers": ({"content_layers": ["relu4_2"]}, ["content_layers", "tuple"]),
    "one layer for a tuple": ({"style_layers": "relu1_1"}, ["style_layers", "tuple"]),
    # Its loss would be reported once and its share of the weight lost.
    "a layer twice": ({"style_layers": ("relu1_1", "relu1_1")}, ["style_layers", "relu1_1"]),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_refusals(fault):
    changes, words = REFUSED[fault]
    with pytest.raises(ValueError) as error:
        Config(**changes)
    for word in words:
        assert word in str(error.value)


def test_limits_that_work():
    Config(normalise_gradients=True, optimizer=Lbfgs(line_search=False))
    Config(steps=1, coarse_steps=1, scales=1, smallest=1, noise=1, style_scale=1e-3)
    Config(optimizer=Adam(clamp=True), carry=True)
    Config(optimizer=Adam(clamp=True), canvas=PIXELS)
    Config(optimizer=Adam(), canvas=FREQUENCIES)
    Config(content_layers=())
    Config(style_layers=())


# The ladder of scales


class Tired(int):
    """A side that ends an endless ladder: it can be multiplied two hundred times."""

    uses = 0

    def __mul__(self, other):
        type(self).uses += 1
        assert type(self).uses < 200, "the ladder has no end"
        return int(self) * other


@pytest.mark.parametrize("size", [(512, 384), (384, 512), (511, 383), (300, 1001), (129, 127)])
def test_the_ladder_falls_by_the_root_of_two(size):
    sizes = Config(smallest=100).sizes(*size)
    assert sizes[-1] == size
    longest = [max(s) for s in sizes]
    # Every scale but the last is as near to its exact size as whole pixels are: no drift.
    for steps, (height, width) in enumerate(reversed(sizes)):
        assert abs(height - size[0] / 2 ** (steps / 2)) <= 0.5
        assert abs(width - size[1] / 2 ** (steps / 2)) <= 0.5
    assert longest[0] >= 100
    assert longest[0] / 2**0.5 < 100.5
    assert len(set(sizes)) == len(sizes)


def test_a_known_ladder():
    assert [s[0] for s in Config(smallest=112).sizes(448, 448)] == [112, 158, 224, 317, 448]


@pytest.mark.parametrize("scales", [1, 2, 3])
def test_as_many_scales_as_asked_for(scales):
    sizes = Config(scales=scales, smallest=10_000).sizes(256, 200)
    assert len(sizes) == scales
    assert sizes[-1] == (256, 200)


def test_a_picture_below_the_smallest_has_one_scale():
    assert Config(smallest=128).sizes(100, 90) == ((100, 90),)


@pytest.mark.parametrize("scales", [None, 50])
def test_the_network_limits_the_ladder(scales):
    config = Config(scales=scales, smallest=1)
    least = vgg.minimum_size(config.layers)
    for size in ((64, 64), (16, 500), (100, 17)):
        sizes = config.sizes(*size)
        assert sizes[-1] == size
        assert min(min(s) for s in sizes) >= least
        too_small = min(size) * 2 ** (-len(sizes) / 2)
        assert round(too_small) < least


@pytest.mark.parametrize("scales", [None, 64])
def test_the_ladder_ends_at_one_pixel(scales):
    """A network that works on one pixel sets no limit, and one pixel cannot shrink."""
    Tired.uses = 0
    sizes = Config(scales=scales, smallest=1, **SHALLOW).sizes(Tired(8), Tired(8))
    assert sizes[-1] == (8, 8)
    assert len(set(sizes)) == len(sizes)
    assert sizes == tuple(sorted(sizes))


@pytest.mark.parametrize("size", [(256, 384), (512, 64), (48, 112)])
def test_every_scale_of_a_tile_has_whole_strides(size):
    config = Config(padding="circular", smallest=16)
    assert config.period == 16
    sizes = config.sizes(*size)
    assert sizes[-1] == size
    assert len(set(sizes)) == len(sizes) > 1
    for height, width in sizes:
        assert height % 16 == width % 16 == 0 and min(height, width) > 0
        steps = len(sizes) - 1 - sizes.index((height, width))
        exact = [side / 2 ** (steps / 2) for side in size]
        assert max(abs(height - exact[0]), abs(width - exact[1])) <= 8
    assert Config(padding="circular", **SHALLOW).period == Config().period == 1


def test_a_tile_has_a_canvas_of_its_own():
    assert Config(padding="circular").held == CIRCULAR_FREQUENCIES
    assert Config(padding="circular", optimizer=Adam()).held == PIXELS
    assert Config(padding="circular", canvas=PIXELS).held == PIXELS


def test_steps_at():
    assert [Config(steps=9).steps_at(scale, 3) for scale in range(3)] == [9, 9, 9]
    config = Config(steps=9, coarse_steps=4)
    assert [config.steps_at(scale, 3) for scale in range(3)] == [4, 4, 9]
    assert config.steps_at(0, 1) == 9
    config = Config(steps=9, coarse_steps=4, first_steps=7)
    assert [config.steps_at(scale, 3) for scale in range(3)] == [7, 4, 9]
    assert config.steps_at(0, 1) == 7


def test_listed_sizes():
    """The picture's own is the last, named or not; the others keep its shape."""
    for listed in ((64, 150), (64, 150, 300)):
        assert Config(scale_sizes=listed).sizes(300, 200) == ((64, 43), (150, 100), (300, 200))
        assert Config(scale_sizes=listed).sizes(200, 300) == ((43, 64), (100, 150), (200, 300))
    assert Config(scale_sizes=(300,)).sizes(300, 200) == ((300, 200),)


def test_listed_steps():
    config = Config(steps_per_scale=(9, 4, 2))
    assert [config.steps_at(scale, 3) for scale in range(3)] == [9, 4, 2]
