"""One network out of every published format has the same features at every layer."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import measure_parity

NEEDS = {"write_keras_legacy": ["keras"], "write_keras_3": ["keras"], "write": []}
NEEDS |= {"write_safetensors": ["torch", "safetensors"], "write_timm": ["torch", "safetensors"]}
# float32 sums in another order, over at most sixteen layers; 1.2e-6 was seen.
TOLERANCE = 1e-5


@pytest.fixture
def picture(rng) -> np.ndarray:
    return rng.random((21, 18, 3)).astype(np.float32)


def source(name: str) -> measure_parity.Source:
    """A format, where its writer is installed."""
    found = measure_parity.SOURCES[name]
    for package in NEEDS.get(found.write.__name__, ["torch"]):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return found


# Keras' own Variable.__array__ has not followed NumPy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", measure_parity.SOURCES)
def test_every_source(name, tiny, picture):
    expected = measure_parity.seen(tiny, picture)
    found = measure_parity.parity(source(name), tiny, picture, expected)
    assert list(found) == ["relu1_1", "relu2_1", "relu2_2", "relu3_1"]
    assert max(found.values()) < TOLERANCE, found


def test_what_pytorch_computes(tiny, picture):
    """Preprocessing, order of axes and of colours, by somebody else's convolutions."""
    pytest.importorskip("torch")
    expected = measure_parity.seen(tiny, picture)
    found = measure_parity.differences(measure_parity.seen_by_torch(tiny, picture), expected)
    assert max(found.values()) < TOLERANCE, found


def test_a_mistake_would_be_seen(tiny, picture):
    """Red for blue, and a kernel on its side."""
    expected = measure_parity.seen(tiny, picture)
    first = tiny["conv1_1"]["kernel"]
    for wrong in (first[:, :, ::-1], first.transpose(1, 0, 2, 3)):
        params = tiny | {"conv1_1": tiny["conv1_1"] | {"kernel": wrong}}
        found = measure_parity.differences(measure_parity.seen(params, picture), expected)
        assert min(found.values()) > 1000 * TOLERANCE, found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MatConvNet, beta16", "AdaIN, times its means"])
def test_the_real_network(name, real_params, rng):
    picture = rng.random((48, 40, 3)).astype(np.float32)
    expected = measure_parity.seen(real_params, picture)
    found = measure_parity.parity(source(name), real_params, picture, expected)
    assert len(found) == 16 and max(found.values()) < TOLERANCE, found
