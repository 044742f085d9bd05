"""The presets that reproduce other programs, against ``programs.py``, term by term."""

import dataclasses
from functools import partial

import jax
import numpy as np
import programs
import pytest
import reference
from numpy.testing import assert_allclose

from stylejax import images, presets, vgg
from stylejax.objective import evaluate, make_targets

pytestmark = pytest.mark.usefixtures("quick_compilation")

BLOCKS = (1, 2, 1)  # of the fixture ``tiny``
CONTENT, STYLE = ("relu2_2",), ("relu1_1", "relu2_1", "relu3_1")
TORCH = {
    "kernel": np.diag(1 / programs.STD),
    "bias": -programs.TORCH_MEAN / programs.STD,
}


def own(params):
    """The network as its checkpoint has it, for ``programs``."""
    names = sorted(name for name in params if name.startswith("conv"))
    return {
        name: tuple(np.float64(params[name][key]) for key in ("kernel", "bias")) for name in names
    }


def doubled(params):
    return {k: {n: np.float64(a) for n, a in arrays.items()} for k, arrays in params.items()}


def as_caffe(params):
    """In float64, with the mean colour exactly as it is written."""
    exact = {"kernel": np.fliplr(np.eye(3)) * 255.0, "bias": -programs.MEAN}
    return {**doubled(params), "input": exact}


def as_torchvision(params):
    """The same kernels behind torchvision's preprocessing and in its unit."""
    scaled = vgg.scale_features(doubled(params), presets.TORCHVISION_WHITE / 255)
    return {**scaled, "input": TORCH}


@partial(jax.jit, static_argnames="config")
def production(image, params, photo, paintings, loss_weights, config):
    """Terms and gradient."""
    targets = make_targets(params, photo, paintings, loss_weights, config)
    evaluated = jax.value_and_grad(evaluate, has_aux=True)
    (_, terms), gradient = evaluated(image, params, targets, loss_weights, config)
    return terms, gradient


def shallow(preset, weights):
    """A preset with the layers that ``tiny`` has."""
    config = dataclasses.replace(preset.config, content_layers=CONTENT, style_layers=STYLE)
    own = dict(zip(STYLE, weights, strict=True))
    return preset._replace(
        config=config, loss_weights=preset.loss_weights._replace(style_layers=own)
    )


def agree(preset, params, pictures, expected, *, tolerance, blend=None):
    picture, photo, *paintings = pictures
    prepared = presets.prepare(preset, params)
    weights = preset.loss_weights._replace(styles=blend)
    terms, gradient = production(picture, prepared, photo, paintings, weights, preset.config)
    values, by_hand = expected
    for key, value in values.items():
        kind, layer = key if isinstance(key, tuple) else (key, None)
        found = getattr(terms, kind) if layer is None else getattr(terms, kind)[layer]
        assert_allclose(found, value, rtol=tolerance, err_msg=str(key))
        assert value > 0
    close = tolerance * np.abs(by_hand).max()
    assert_allclose(gradient, by_hand, rtol=0, atol=close)
    return terms


def drawn(rng, *shapes):
    return [rng.uniform(size=(*shape, 3)) for shape in shapes]


# The oracle's own layers, against the loops of the other oracle


@pytest.mark.parametrize("edge", [False, True])
@pytest.mark.parametrize("up", [False, True])
def test_the_network_of_the_programs(rng, tiny, up, edge):
    x = rng.uniform(-100, 100, (7, 9, 3))
    plain = {**tiny, "input": {"kernel": np.eye(3), "bias": np.zeros(3)}}
    pooling, padding = "max-ceil" if up else "max", "replicate" if edge else "zero"
    found, back = programs.run(own(tiny), x, STYLE, up=up, edge=edge)
    expected = reference.features(plain, x, STYLE, BLOCKS, pooling, padding)
    cotangents = {layer: rng.normal(size=F.shape) for layer, F in found.items()}
    for layer in STYLE:
        assert_allclose(found[layer], expected[layer], rtol=1e-12)
    gradient = reference.features_gradient(plain, x, cotangents, BLOCKS, pooling, padding)
    assert_allclose(back(cotangents), gradient, rtol=0, atol=1e-12 * np.abs(gradient).max())


@pytest.mark.parametrize(
    "variation", [programs.torch7_variation, programs.torch_variation, programs.nine_points]
)
def test_variations_of_the_programs_are_gradients(rng, variation):
    x, direction = rng.uniform(size=(2, 5, 4, 3))
    difference = reference.finite_difference(lambda x: variation(x)[0], x, direction, 1e-6)
    assert_allclose(np.sum(variation(x)[1] * direction), difference, rtol=1e-7)


def test_roots_of_the_programs(rng):
    """Where nothing is near zero the steps have arrived, and the derivative is the root's."""
    a = rng.normal(size=(5, 9))
    matrix = a @ a.T + np.eye(5)
    assert_allclose(programs.newton_schulz(matrix, 12), reference.square_root(matrix), rtol=1e-9)
    direction = rng.normal(size=(5, 5))
    direction = direction + direction.T
    cotangent = rng.normal(size=(5, 5))

    def value(matrix):
        return np.sum(cotangent * programs.newton_schulz(matrix, 12))

    slope = np.sum(programs.lyapunov(reference.square_root(matrix), cotangent, 12) * direction)
    assert_allclose(slope, reference.finite_difference(value, matrix, direction, 1e-6), rtol=1e-6)


# The presets, in float64: a wrong factor, unit or rounding has nowhere to hide


def test_gatys_notebook(x64, rng, tiny):
    pictures = drawn(rng, (9, 13), (9, 13), (11, 8))
    preset = shallow(presets.GATYS_NOTEBOOK, (1, 1, 1))
    expected = programs.gatys_notebook(own(tiny), *pictures, CONTENT, STYLE)
    agree(preset, as_caffe(tiny), pictures, expected, tolerance=1e-10)


@pytest.mark.parametrize("program", ["neural_style", "neural_style_pt"])
def test_neural_style(x64, rng, tiny, program):
    """Odd sides, where the poolings of the two differ, and two styles."""
    pictures = drawn(rng, (9, 13), (9, 13), (11, 8), (7, 10))
    preset = shallow(getattr(presets, program.upper()), (1, 1, 1))
    write = getattr(programs, program)
    expected = write(own(tiny), *pictures[:2], pictures[2:], CONTENT, STYLE, blend=(3.0, 1.0))
    agree(preset, as_caffe(tiny), pictures, expected, tolerance=1e-10, blend=(3.0, 1.0))


def test_the_poolings_of_neural_style_and_its_port_differ():
    sizes = {"NEURAL_STYLE": (3, 4), "NEURAL_STYLE_PT": (2, 3)}
    for name, size in sizes.items():
        pool = getattr(presets, name).config.pool
        assert vgg.feature_size((9, 13), "relu3_1", pool) == size


def test_neural_style_with_normalised_gradients(x64, rng, tiny):
    pictures = drawn(rng, (9, 13), (9, 13), (11, 8))
    preset = shallow(presets.NEURAL_STYLE, (1, 1, 1))
    config = dataclasses.replace(preset.config, normalise_gradients=True, optimizer=presets.Adam())
    args = (own(tiny), *pictures[:2], pictures[2:], CONTENT, STYLE)
    expected = programs.neural_style(*args, normalise=True)
    agree(preset._replace(config=config), as_caffe(tiny), pictures, expected, tolerance=1e-10)
    other = programs.neural_style(*args)[1]
    assert np.abs(expected[1] - other).max() > 0.1 * np.abs(other).max()


def test_keras_example(x64, rng, tiny):
    """Sides that blocks divide, and a painting of the picture's size, as the program makes it."""
    pictures = drawn(rng, (12, 16), (12, 16), (12, 16))
    widths = dict(zip(STYLE, (4, 6, 8), strict=True))
    preset = shallow(presets.KERAS_EXAMPLE, presets.keras_weights(widths).values())
    expected = programs.keras_example(own(tiny), *pictures, CONTENT, STYLE)
    agree(preset, as_caffe(tiny), pictures, expected, tolerance=1e-10)


def test_crowsonkb(x64, rng, tiny):
    pictures = drawn(rng, (9, 13), (9, 13), (11, 8), (7, 10))
    weights = (0.75, 0.2, 0.05)
    params = as_torchvision(tiny)
    expected = programs.crowsonkb(
        own(params), *pictures[:2], pictures[2:], CONTENT, STYLE, weights, blend=(1.0, 2.0)
    )
    preset = shallow(presets.CROWSONKB, weights)
    agree(preset, params, pictures, expected, tolerance=1e-8, blend=(1.0, 2.0))


# On the real network, with the presets as they are


@pytest.fixture(scope="module")
def photographs(shared):
    """A picture on its way, a photo and a painting, 48x32 and 48x32 pixels: 16 divides them."""
    photo = images.load(shared / "images" / "content" / "golden_gate.jpg").image
    painting = images.load(shared / "images" / "style" / "the_scream.jpg").image
    photo, painting = (np.float64(images.resize(x, 48, 32)) for x in (photo, painting))
    noise = np.random.default_rng(0).uniform(size=photo.shape)
    return [0.7 * photo + 0.3 * noise, photo, painting]


def real_case(name, params, pictures):
    """The preset's network and what its program says of it."""
    preset, write = getattr(presets, name.upper()), getattr(programs, name)
    layers = (preset.config.content_layers, preset.config.style_layers)
    if name == "crowsonkb":
        params = as_torchvision(params)
        weights = [w / 341 for w in (256, 64, 16, 4, 1)]
        return params, write(own(params), *pictures[:2], pictures[2:], *layers, weights)
    painting = pictures[2:] if name.startswith("neural") else pictures[2]
    return as_caffe(params), write(own(params), *pictures[:2], painting, *layers)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("gatys_notebook", "neural_style", "neural_style_pt", "keras_example"),
        pytest.param("crowsonkb", marks=pytest.mark.long),
    ],
)
def test_presets_on_the_real_network(real_params, photographs, name):
    """In float64 to 1e-8; and float32, which users have, gives the same terms to 1e-4."""
    preset = getattr(presets, name.upper())
    with jax.enable_x64(True):
        params, expected = real_case(name, real_params, photographs)
        terms = agree(preset, params, photographs, expected, tolerance=1e-8)
    prepared = presets.prepare(preset, jax.tree.map(np.float32, params))
    picture, photo, painting = map(np.float32, photographs)
    single, _ = production(picture, prepared, photo, [painting], preset.loss_weights, preset.config)
    for found, exact in zip(jax.tree.leaves(single), jax.tree.leaves(terms), strict=True):
        assert_allclose(found, exact, rtol=1e-4)
