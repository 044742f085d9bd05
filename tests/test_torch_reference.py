"""The PyTorch program that stylejax is measured against computes the same objective."""

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose
from PIL import Image

from stylejax import layers, vgg, weights
from stylejax.config import Config
from stylejax.objective import DEFAULT_WEIGHTS, evaluate, make_targets

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import torch_reference  # noqa: E402
from torch_reference import Setting  # noqa: E402

BLOCKS = (1, 2, 1)  # of the fixture ``tiny``
LAYERS = {"content_layers": ("relu2_2",), "style_layers": ("relu1_1", "relu2_1", "relu3_1")}
JAX_POOLS = {"avg": layers.average_pool, "max": layers.max_pool}


@pytest.fixture
def pictures(rng):
    """A picture on its way, a photo of its size and a painting of another, float64."""
    return [rng.uniform(size=shape) for shape in [(13, 10, 3), (13, 10, 3), (8, 11, 3)]]


def doubled(params):
    return {k: {n: np.float64(a) for n, a in arrays.items()} for k, arrays in params.items()}


def torchs(loss, params, pictures, setting, to_pictures=lambda x, network: x):
    """Value and gradient ``[H, W, 3]`` of a loss of the PyTorch program."""
    network = torch_reference.convert(params, setting)
    image, photo, painting = (torch_reference.to_tensor(x, setting) for x in pictures)
    photo, painting = (torch_reference.preprocess(x, network) for x in (photo, painting))
    targets = torch_reference.make_targets(photo, painting, network, setting)
    image = to_pictures(image, network).requires_grad_()
    fun = torch_reference.bound(loss, setting)
    value, gradient = torch_reference.evaluate(fun, image, network, targets)
    return value.numpy(), gradient[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("padding", ["zero", "replicate-all"])
@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.usefixtures("quick_compilation")
def test_objective_and_gradient_are_ours(x64, tiny, pictures, pooling, padding, layout):
    config = dataclasses.replace(Config(), pool=JAX_POOLS[pooling], padding=padding, **LAYERS)
    image, photo, painting = pictures

    @partial(jax.jit, static_argnames="config")
    def ours(image, config):
        targets = make_targets(tiny, photo, [painting], DEFAULT_WEIGHTS, config)
        return jax.value_and_grad(evaluate, has_aux=True)(
            image, tiny, targets, DEFAULT_WEIGHTS, config
        )

    (expected, _), slope = ours(image, config)
    setting = Setting(pooling=pooling, padding=padding, layout=layout, **LAYERS)
    value, gradient = torchs(torch_reference.default_loss, doubled(tiny), pictures, setting)
    # Float64 rounding: 1e-16 times a few thousand operations.
    assert_allclose(value, expected, rtol=1e-11)
    assert_allclose(gradient, slope, rtol=1e-9, atol=1e-11 * np.abs(slope).max())


def test_default_setting_is_the_default_config():
    setting, config = Setting(), Config()
    assert setting.content_layers == config.content_layers
    assert setting.style_layers == config.style_layers
    assert JAX_POOLS[setting.pooling] is config.pool
    assert setting.padding == config.padding
    ours = (DEFAULT_WEIGHTS.content, DEFAULT_WEIGHTS.style, DEFAULT_WEIGHTS.tv)
    assert ours == (torch_reference.CONTENT, torch_reference.STYLE, torch_reference.TV)


def test_neural_style_pts_objective(tiny, pictures):
    setting = Setting(pooling="max", padding="zero", **LAYERS)
    params = doubled(tiny)
    value, _ = torchs(
        torch_reference.neural_style_loss, params, pictures, setting, torch_reference.preprocess
    )
    names = setting.content_layers + setting.style_layers
    seen, photo, painting = (
        reference.features(params, x, names, BLOCKS, "max", "zero") for x in pictures
    )
    expected = 5 * np.mean((seen["relu2_2"] - photo["relu2_2"]) ** 2)
    for layer in setting.style_layers:
        F, A = (x[layer].reshape(-1, x[layer].shape[-1]) for x in (seen, painting))
        expected += 100 * np.mean((F.T @ F / F.size - A.T @ A / A.size) ** 2)
    x = pictures[0] * 255  # the mean and the order of the colours do not matter
    expected += 1e-3 * (np.abs(np.diff(x, axis=0)).sum() + np.abs(np.diff(x, axis=1)).sum())
    assert_allclose(value, expected, rtol=1e-11)


def test_bfloat16_is_near(tiny, pictures):
    single = [x.astype(np.float32) for x in pictures]
    loss = torch_reference.default_loss
    value, _ = torchs(loss, tiny, single, Setting(**LAYERS))
    near, gradient = torchs(loss, tiny, single, Setting(precision="bf16", **LAYERS))
    assert near != value and gradient.dtype == np.float32
    assert_allclose(near, value, rtol=0.1)  # eight bits, through four layers


@pytest.mark.parametrize("objective", ["default", "neural-style-pt"])
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_program(tmp_path, rng, capsys, objective, optimizer):
    params = {
        layer: {
            name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in arrays.items()
        }
        for layer, arrays in vgg.parameter_shapes(
            vgg.Architecture((1, 1, 1, 2, 1), (4,) * 5)
        ).items()
    }
    params["input"]["kernel"] = np.float32(vgg.CAFFE_KERNEL)
    weights.save(tmp_path / "vgg.h5", params, weights.Origin("noise"))
    photo, painting, out = (tmp_path / name for name in ("photo.png", "painting.png", "out.png"))
    for path, size in ((photo, (40, 30)), (painting, (25, 28))):
        Image.fromarray(rng.integers(256, size=(*size[::-1], 3), dtype=np.uint8)).save(path)
    given = ["--size", "32", "--evaluations", "4", "--weights", str(tmp_path / "vgg.h5")]
    choices = ["--objective", objective, "--optimizer", optimizer, "--device", "cpu"]
    command = [str(photo), str(painting), "-o", str(out), *given, *choices]
    assert torch_reference.main(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["evaluations"] == 4 and np.isfinite(said["loss"])
    assert said["pooling"] == {"default": "avg", "neural-style-pt": "max"}[objective]
    with Image.open(out) as picture:
        assert picture.size == (32, 24)
