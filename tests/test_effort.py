"""Compiled as their runs repay it, programs make what they otherwise make."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from stylejax import Config, LossWeights, effort, iterate, scale, stylize
from stylejax.vgg import Architecture, random_params

CPU, GPU = SimpleNamespace(platform="cpu"), SimpleNamespace(platform="gpu")
WAYS = (effort.OFTEN, effort.AT_LENGTH, effort.SELDOM, effort.AT_ONCE)
CONTENT, STYLE = (
    np.random.default_rng(seed).random((height, width, 3), np.float32)
    for seed, height, width in ((0, 40, 54), (1, 48, 36))
)
CONFIG = Config(
    content_layers=("relu2_1",),
    style_layers=("relu1_1", "relu2_1"),
    scales=2,
    coarse_steps=4,
    steps=5,
)
WEIGHTS = LossWeights(content=1.0, style=5.0, tv=0.1)


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)


@pytest.mark.rounding
@pytest.mark.parametrize("way", WAYS)
def test_only_cpus_are_asked_for_effort(way):
    ours = effort.repaid(way, CPU)
    assert ours and ours == effort.repaid(way, "cpu") and set(ours) <= set(way)
    assert effort.repaid(way, GPU) == ()


@pytest.mark.rounding
def test_what_the_environment_says_stands(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3")
    for way in WAYS:
        left = effort.repaid(way, CPU)
        assert set(left) < set(way) and "xla_backend_optimization_level" not in dict(left)


def test_nothing_is_asked_where_jax_leaves_optimizations_out(quick_compilation):
    assert [effort.repaid(way, CPU) for way in WAYS] == [()] * 4
    usual, hurried = (scale.programs(CONFIG, hurried=each) for each in (False, True))
    assert usual == hurried == (scale.prepare, scale.advance, scale.picture)


@pytest.mark.rounding
def test_what_this_xla_does_not_know_is_not_asked_for(monkeypatch):
    unknown = ("xla_of_another_version", True)
    assert effort.repaid((unknown,), CPU) == ()
    known = effort.repaid(effort.OFTEN, CPU)
    assert effort.repaid((unknown, *effort.OFTEN), CPU) == known
    monkeypatch.setattr(effort, "OFTEN", (unknown,))
    programs = scale.programs(CONFIG)
    assert programs.advance is scale.advance and programs.prepare is not scale.prepare


@pytest.mark.rounding
def test_only_a_small_first_scale_of_several_is_hurried():
    usual, hurried = (scale.programs(CONFIG, hurried=each) for each in (False, True))
    assert usual != hurried and scale.programs(CONFIG) == usual
    assert scale.programs_of([(128, 96), (256, 192), (512, 384)], CONFIG) == [hurried, usual, usual]
    large = scale.programs(CONFIG, large=True)
    assert scale.programs_of([(512, 384), (1024, 768)], CONFIG) == [usual, large]
    assert scale.programs_of([(128, 96)], CONFIG) == [usual]


@pytest.mark.rounding
def test_a_strip_is_as_large_as_what_is_evaluated_at_a_time():
    usual, large = (scale.programs(CONFIG, large=each) for each in (False, True))
    cut = dataclasses.replace(CONFIG, strip=512)
    assert scale.programs_of([(512, 384), (1024, 768)], cut) == [usual, usual]
    assert scale.programs_of([(4096, 3072)], dataclasses.replace(CONFIG, strip=1024)) == [large]


@pytest.fixture(scope="module")
def params():
    return random_params(jax.random.key(3), Architecture((1, 2, 1), (4, 6, 8)))


@pytest.mark.rounding
def test_the_picture_is_the_usual_one(params):
    """``stylize``'s programs, for within another ``jit``, are compiled as XLA likes."""
    given = dict(config=CONFIG, loss_weights=WEIGHTS)
    whole = stylize(params, CONTENT, [STYLE], **given)
    *_, last = iterate(params, CONTENT, [STYLE], **given)
    np.testing.assert_allclose(last.image, whole.image, atol=1e-4)
    assert last.evaluations == int(whole.evaluations)


@pytest.mark.rounding
def test_steps_in_a_call_change_no_bit(params):
    """Two programs that differ in how often a step is taken round alike."""
    pictures = []
    for every in (1, 2, 10):
        more = dict(config=CONFIG, loss_weights=WEIGHTS, every=every)
        *_, last = iterate(params, CONTENT, [STYLE], **more)
        pictures.append(last.image)
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])


@pytest.mark.rounding
def test_each_program_is_compiled_once(params):
    """The thread compiles ahead what the loop then calls."""
    config = dataclasses.replace(CONFIG, noise=0.1)
    own = scale.programs_of(config.sizes(40, 54), config)
    every = {program for each in own for program in each}
    assert len(every) == 6
    for program in every:
        program.clear_cache()
    for _ in range(2):
        list(iterate(params, CONTENT, [STYLE], config=config, loss_weights=WEIGHTS, every=2))
    assert [program._cache_size() for program in every] == [1] * 6
