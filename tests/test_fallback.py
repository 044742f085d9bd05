"""A run whose memory runs out, by runs that say so."""

import jax
import numpy as np
import pytest

from stylejax import Config, iterate
from stylejax.fallback import ran_out, rest, surviving

pytestmark = pytest.mark.usefixtures("quick_compilation")

LAYERS = dict(content_layers=("relu2_2",), style_layers=("relu1_1", "relu3_1"), padding="zero")
CONFIG = Config(**LAYERS, scale_sizes=(16, 24), steps=4, coarse_steps=3)
SIZE = (24, 20)


def error(text="RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte"):
    return jax.errors.JaxRuntimeError(text)


def test_what_is_left():
    assert rest(CONFIG, SIZE, None).sizes(*SIZE) == CONFIG.sizes(*SIZE)

    class Last:
        scale, step = 0, 2

    left = rest(CONFIG, SIZE, Last)
    assert (left.scale_sizes, left.steps_per_scale) == ((16, 24), (1, 4))
    Last.step = 3
    left = rest(CONFIG, SIZE, Last)
    assert (left.scale_sizes, left.steps_per_scale) == ((24,), (4,))
    assert left.sizes(*SIZE) == (SIZE,)


def test_only_memory_counts():
    assert ran_out(error()) and not ran_out(error("INTERNAL: a bug"))


@pytest.mark.parametrize("dies_at", [pytest.param((0, 0), marks=pytest.mark.long), (1, 2)])
def test_it_goes_on_from_the_best_picture(rng, tiny, dies_at):
    """The first run dies once; the second goes on in strips, and the loss with it."""
    photo, painting = (np.float32(rng.uniform(size=(*SIZE, 3))) for _ in range(2))
    began, told = [], []

    def run(config, init):
        began.append((config, init))
        for progress in iterate(tiny, photo, [painting], config=config, init=init, every=1):
            if len(began) == 1 and (progress.scale, progress.step) == dies_at:
                raise error()
            yield progress

    seen = list(surviving(run, CONFIG, None, size=SIZE, params=tiny, tell=told.append))
    assert len(began) == 2 and len(told) == 1
    assert told[0].startswith("out of memory; going on from the best picture so far with 20x24:")
    assert began[1][0].strip or began[1][0].optimizer.memory_dtype == "bfloat16"
    last = seen[-1]
    assert (last.scale, last.scales, last.place) == (1, 2, None)
    assert last.image.shape == (*SIZE, 3)
    counts = [p.evaluations for p in seen]
    assert counts == sorted(counts)
    taken = sum(p.history.taken.sum() for p in seen if p.scale == 1)
    assert taken == 4
    if dies_at == (1, 2):
        np.testing.assert_array_equal(began[1][1], seen[-5].image)
    losses = [p.terms.total for p in seen if p.scale == 1]
    assert losses[-1] < losses[0]


def test_other_errors_and_the_last_way_are_raised(rng, tiny):
    def dies(text):
        def run(config, init):
            raise error(text)
            yield

        return run

    for text, told in (("INTERNAL: a bug", 0), ("RESOURCE_EXHAUSTED", None)):
        lines = []
        with pytest.raises(jax.errors.JaxRuntimeError, match=text):
            list(surviving(dies(text), CONFIG, None, size=SIZE, params=tiny, tell=lines.append))
        assert lines == [] if told == 0 else len(lines) >= 3
