"""The parts of scripts/distill.py that are mathematics: least squares, whitening, finishing."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stylejax import vgg

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import distill
import least_squares
from whitening import whitened

TINY = vgg.Architecture((1, 2), (6, 8))
COLOURS = {"kernel": 4 * np.eye(3, dtype=np.float32), "bias": np.full(3, -2, np.float32)}


@pytest.fixture
def wide():
    return vgg.random_params(jax.random.key(3), TINY) | {"input": COLOURS}


@pytest.fixture
def pictures(rng):
    return rng.random((24, 32, 32, 3), np.float32)


def seen(params, image, layer):
    found = vgg.features(params, image, (layer,), padding="replicate-all")[layer]
    return np.asarray(found).reshape(-1, found.shape[-1])


def test_a_network_as_wide_as_the_first_is_the_first(wide, pictures, rng, monkeypatch):
    """All channels kept, each divided by its root mean square: least squares lose nothing.

    With rounds enough to settle, and a ridge that moves nothing.
    """
    monkeypatch.setattr(least_squares, "ROUNDS", 300)
    monkeypatch.setattr(least_squares, "RIDGE", 1e-7)
    made = least_squares.narrow(wide, pictures, COLOURS, TINY.blocks, TINY.widths, rng)
    # What a layer has not settled yet, the next ones see.
    for layer, most in (("relu1_1", 1e-4), ("relu2_1", 2e-3), ("relu2_2", 2e-3)):
        expected, found = (seen(params, pictures[0], layer) for params in (wide, made))
        scale = (expected * found).sum(0) / (found**2).sum(0)
        error = np.sum((found * scale - expected) ** 2) / np.sum(expected**2)
        assert error < most, (layer, error)


def test_least_squares_look_behind_the_relu(rng):
    """A channel that is linear only where it is positive is found all the same."""
    x = rng.normal(size=(4000, 9)).astype(np.float32)
    true = rng.normal(size=(9, 1)).astype(np.float32)
    wanted = x @ true
    bent = np.where(wanted < 0, wanted**2 * -5, wanted)
    found = least_squares._fitted(x, bent, 1, rng)
    predicted = np.maximum(x @ found["kernel"].reshape(9, 1) + found["bias"], 0)
    expected = np.maximum(wanted, 0) / np.sqrt(np.mean(np.maximum(wanted, 0) ** 2))
    assert np.mean((predicted - expected) ** 2) < 0.03
    # A fit of the bent values themselves is far worse.
    plain, *_ = np.linalg.lstsq(x, bent / np.sqrt(np.mean(np.maximum(bent, 0) ** 2)), rcond=None)
    assert np.mean((np.maximum(x @ plain, 0) - expected) ** 2) > 0.1


def test_channels_are_kept_that_the_others_follow_from(wide, rng):
    """Two channels and four that are sums of them: any two that span them do."""
    two = np.abs(rng.normal(size=(500, 2))).astype(np.float32)
    mixed = two @ np.abs(rng.normal(size=(2, 4))).astype(np.float32)
    wanted = np.concatenate([two, mixed], axis=1)
    arrays = least_squares._fitted(np.repeat(two, 9, axis=1)[:, :18], wanted, 2, rng)
    assert arrays["kernel"].shape == (3, 3, 2, 2) and arrays["bias"].shape == (2,)
    kept = np.repeat(two, 9, axis=1) @ arrays["kernel"].reshape(18, 2) + arrays["bias"]
    rebuilt = kept @ np.linalg.lstsq(kept, wanted, rcond=None)[0]
    assert np.sum((rebuilt - wanted) ** 2) < 1e-4 * np.sum(wanted**2)


def test_input_moments_against_loops(wide, pictures):
    found = least_squares.input_moments(wide, jnp.asarray(pictures[:2]), layers=("relu2_1",))
    assert set(found) == {"conv1_1", "conv2_1", "conv2_2", "relu2_1"}
    expected = np.zeros((27, 27))
    for picture in pictures[:2]:
        x = np.pad(picture @ COLOURS["kernel"] + COLOURS["bias"], ((1, 1), (1, 1), (0, 0)), "edge")
        for i in range(32):
            for j in range(32):
                window = x[i : i + 3, j : j + 3].ravel()
                expected += np.outer(window, window) / (2 * 32 * 32)
    np.testing.assert_allclose(found["conv1_1"], expected, rtol=1e-4, atol=1e-4)
    features = np.concatenate([seen(wide, picture, "relu2_1") for picture in pictures[:2]])
    expected = features.T @ features / len(features)
    np.testing.assert_allclose(found["relu2_1"], expected, rtol=1e-4, atol=1e-4)


def test_a_whitened_step_is_the_inverse_moment_times_the_gradient(rng):
    """Gradient descent in white coordinates divides by the inputs' second moments, as Newton's."""
    root = rng.normal(size=(18, 18)) + 4 * np.eye(18)
    moment = (root @ root.T).astype(np.float32)
    kernel, bias = rng.normal(size=(3, 3, 2, 4)), rng.normal(size=4)
    tree = {"conv1_1": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}
    rule = whitened(optax.sgd(0.1), {"conv1_1": moment})
    updates, _ = rule.update(tree, rule.init(tree), tree)
    damped = moment + 1e-3 * np.trace(moment) / 18 * np.eye(18)
    expected = -0.1 * np.linalg.solve(damped, kernel.reshape(18, 4)).reshape(kernel.shape)
    np.testing.assert_allclose(updates["conv1_1"]["kernel"], expected, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(updates["conv1_1"]["bias"], -0.1 * bias, rtol=1e-6)


def test_finished_taps_lead_to_the_teachers_units_in_half_the_bits(rng):
    student = {layer: {"kernel": rng.normal(size=(3, 5))} for layer in distill.LAYERS}
    scales = {layer: np.float32(7) for layer in distill.LAYERS}
    for arrays in distill.finished(student, scales).values():
        assert arrays["kernel"].dtype == np.float32
        assert not np.any(arrays["kernel"].view(np.uint32) & 0xFFFF)
    found = distill.finished(student, scales)[distill.LAYERS[0]]["kernel"]
    np.testing.assert_allclose(found, 7 * student[distill.LAYERS[0]]["kernel"], rtol=2**-8)
