"""Fingerprints: every argument of a run has its own, and nothing else has."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stylejax import Adam, Config, Guides, Lbfgs, LossWeights, fingerprints, losses
from stylejax.canvas import FREQUENCIES, PIXELS

BLACK = np.zeros((6, 4, 3), np.float32)
GIVEN = {
    "params": {"conv1_1": {"kernel": np.ones((3, 3, 3, 4)), "bias": np.zeros(4)}},
    "content": BLACK,
    "styles": [BLACK, BLACK + 1],
}


def changed(**more):
    one, other = (fingerprints.fingerprint(**given) for given in (GIVEN, {**GIVEN, **more}))
    return fingerprints.differences(one, other)


def touched(array):
    array = array.copy()
    array.flat[-1] = np.nextafter(array.flat[-1], 2)
    return array


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"content": touched(BLACK)}, ["content"]),
        ({"content": BLACK[:, :2]}, ["size", "content"]),
        ({"content": BLACK.astype(np.float64)}, ["content"]),
        ({"styles": [BLACK, touched(BLACK)]}, ["styles[1]"]),
        ({"styles": [BLACK]}, ["styles[1]"]),
        (
            {"params": {"conv1_1": {**GIVEN["params"]["conv1_1"], "bias": touched(np.zeros(4))}}},
            ["params"],
        ),
        ({"init": BLACK}, ["init"]),
        ({"guides": Guides(content=BLACK[..., 0])}, ["guides"]),
        ({"key": jax.random.key(1)}, ["key"]),
        ({"config": Config(steps=3)}, ["config.steps"]),
        ({"config": Config(optimizer=Lbfgs(memory=3))}, ["config.optimizer.memory"]),
        ({"config": Config(canvas=PIXELS)}, ["config.canvas"]),
        ({"config": Config(total_variation=losses.absolute_variation)}, ["config.total_variation"]),
        ({"loss_weights": LossWeights(1.0, 20.0, 0.25)}, ["loss_weights.tv"]),
    ],
    ids=lambda value: None if isinstance(value, dict) else ",".join(value),
)
def test_what_differs_is_named(change, names):
    assert list(changed(**change)) == names


def test_equal_arguments_of_other_kinds_are_the_same():
    assert not changed(content=jnp.asarray(BLACK), styles=(BLACK, jnp.asarray(BLACK) + 1))
    assert not changed(config=Config(), key=jax.random.key(0))
    assert not changed(config=Config(canvas=FREQUENCIES))  # the default's
    ones = {"conv1_1": {"bias": np.zeros(4), "kernel": np.ones((3, 3, 3, 4))}}
    assert not changed(params=ones)


def test_they_come_back_from_json_as_they_were():
    config = Config(
        optimizer=Adam(),
        style_layers=("relu1_1",),
        total_variation=partial(losses.absolute_variation, padding=1),
    )
    weights = LossWeights(style=jnp.float32(0.1), style_layers={"relu1_1": float("inf")})
    made = fingerprints.fingerprint(**GIVEN, config=config, loss_weights=weights)
    assert json.loads(json.dumps(made)) == made
    assert made["config.total_variation"]["padding"] == 1


def test_another_run_is_refused_by_name():
    one, other = (
        fingerprints.fingerprint(**GIVEN, config=config)
        for config in (Config(), dataclasses.replace(Config(), steps=3, pool=losses.content_loss))
    )
    fingerprints.same(one, one)
    with pytest.raises(ValueError, match=r"config.pool was 'average_pool' and is .*config.steps"):
        fingerprints.same(one, other)
