"""Strict settings for every test: rank promotion raises, randomness is seeded."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest

from stylejax import vgg, weights

jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes much that is no garbage, and looking through it was a twelfth of the tests' time.
gc.freeze()
gc.set_threshold(20_000)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20150826)  # the day the paper appeared


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 arrays for one test, so that its tolerances leave a wrong formula no room."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def quick_compilation(request) -> Iterator[None]:
    """For tests of formulas on tiny arrays, where compiling well takes longer than it saves.

    Slow tests run what users run.
    """
    with _compilation(quick=not request.node.get_closest_marker("slow")):
        yield


@pytest.fixture(scope="module")
def quick_runs() -> Iterator[None]:
    """The same for what a module's own fixtures run."""
    with _compilation(quick=True):
        yield


@contextmanager
def _compilation(*, quick: bool) -> Iterator[None]:
    option = "jax_disable_most_optimizations"
    before = jax.config.read(option)
    jax.config.update(option, before or quick)
    yield
    jax.config.update(option, before)


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """Compiled programs go with the file that needed them.

    Each holds memory maps, of which Linux grants a process 65 530; past that the compiler crashes,
    as it did in a worker after two thousand tests.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def tiny() -> dict[str, dict[str, np.ndarray]]:
    """An untrained network of three blocks whose biases are not zero, float32."""
    noise = np.random.default_rng(0)
    params = {}
    for layer, shapes in vgg.parameter_shapes(vgg.Architecture((1, 2, 1), (4, 6, 8))).items():
        kernel = noise.normal(size=shapes["kernel"]) * np.sqrt(2 / np.prod(shapes["kernel"][:-1]))
        bias = noise.normal(0, 30, shapes["bias"])
        params[layer] = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    params["input"] = {"kernel": np.array(vgg.CAFFE_KERNEL, np.float32)}
    params["input"]["bias"] = np.array(vgg.CAFFE_BIAS, np.float32)
    return params


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the checkout, with the pictures and weights of slow tests."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no folder 'shared' (real weights, pictures) beside the checkout")
    return folder


@pytest.fixture(scope="session")
def vgg19_file(shared) -> Path:
    """The real VGG-19 in Keras' layout."""
    path = shared / "weights" / "vgg19_keras_layout.h5"
    if not path.is_file():
        pytest.skip("no shared/weights/vgg19_keras_layout.h5 beside the checkout")
    return path


@pytest.fixture(scope="session")
def real_params(vgg19_file, tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """The real VGG-19, converted into a folder of this test run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLEJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        return weights.load(weights.resolve(vgg19_file))
