"""Going on from a place: to the last bit what a run that was never left leads to."""

import dataclasses

import jax
import numpy as np
import pytest

from stylejax import Adam, Architecture, Config, Lbfgs, LossWeights, colour, iterate, random_params
from stylejax import scale as scales

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = Config(
    content_layers=("relu2_2",),
    style_layers=("relu1_1", "relu2_1", "relu3_1"),
    steps=5,
    coarse_steps=3,
    scales=2,
    noise=0.2,
)
CONFIGS = {
    "lbfgs": dataclasses.replace(CONFIG, colour=colour.Colour(colour.CHROMA)),
    "lbfgs-full-steps": dataclasses.replace(CONFIG, optimizer=Lbfgs(memory=3, line_search=False)),
    # As K. Crowson's: averaged, clamped, its moments carried from scale to scale.
    "adam-carry": dataclasses.replace(
        CONFIG, optimizer=Adam(learning_rate=0.05, average=0.9, clamp=True), carry=True
    ),
}


def picture(seed, height, width):
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


GIVEN = {
    "params": random_params(jax.random.key(1), Architecture((1, 2, 1), (4, 6, 8))),
    "content": picture(1, 20, 27),
    "styles": [picture(2, 24, 18)],
    "loss_weights": LossWeights(content=1.0, style=5.0, tv=0.1),
    "key": jax.random.key(3),
    "every": 2,
}


def run(config, **more):
    """Everything that is yielded, with the places on the host, where nothing uses them up."""
    for progress in iterate(**GIVEN, config=config, **more):
        state = jax.tree.map(np.array, progress.place.state)
        yield progress._replace(place=progress.place._replace(state=state))


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.asarray(a).dtype == np.asarray(b).dtype


@pytest.fixture(scope="module")
def whole(quick_runs):
    """The runs that nobody leaves."""
    return {name: [*run(config)] for name, config in CONFIGS.items()}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    ("number", "at"),
    [(0, (0, 0)), (1, (0, 2)), (2, (0, 3)), (3, (1, 0)), (5, (1, 4)), (6, (1, 5))],
    ids=["start", "middle", "end of a scale", "start of a scale", "mid-pyramid", "end"],
)
def test_the_rest_is_the_same(whole, name, number, at):
    expected = whole[name][number:]
    place = expected[0].place
    assert (place.scale, place.step) == at
    # As a save has it: the leaves without the state.
    flat = place._replace(state=dict(enumerate(jax.tree.leaves(place.state))))
    found = [*run(CONFIGS[name], resume=flat)]
    assert len(found) == len(expected)
    for mine, its in zip(found[1:], expected[1:], strict=True):
        assert_same(mine, its)
    # The place itself comes first, without rows: it has been told.
    assert found[0].history.taken.shape == (0,)
    assert_same(found[0]._replace(history=None), expected[0]._replace(history=None))


def test_the_rest_is_the_same_in_strips():
    config = dataclasses.replace(CONFIG, strip=16, scales=1)
    whole = [*run(config)]
    place = whole[2].place
    assert config.strip_rows(20, 27) and (place.scale, place.step) == (0, 4)
    *_, last = run(config, resume=place)
    assert_same(last, whole[-1])


def test_a_place_can_be_used_twice(whole):
    place = whole["lbfgs"][4].place
    on_device = place._replace(state=jax.tree.map(jax.numpy.asarray, place.state))
    *_, first = run(CONFIGS["lbfgs"], resume=on_device)
    *_, second = run(CONFIGS["lbfgs"], resume=on_device)
    np.testing.assert_array_equal(first.image, second.image)


def test_going_on_compiles_what_was_compiled_and_no_scale_that_is_over(whole):
    programs = (scales.prepare, scales.advance, scales.picture)

    def compiled(number):
        for program in programs:
            program.clear_cache()
        list(iterate(**GIVEN, config=CONFIGS["lbfgs"], resume=whole["lbfgs"][number].place))
        return [program._cache_size() for program in programs]

    assert compiled(6) == [0, 0, 1]  # nothing is left but to show the picture
    assert compiled(4) == [1, 1, 1]
    assert compiled(2) == [1, 1, 2]  # the end of a scale


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({"scale": 2}, {}, "resume is at scale 2 of a run of 2"),
        ({"step": 6}, {}, "resume is at step 6 of a scale of 5"),
        ({"scale": 0}, {}, "resume has a state of 19 arrays that are not the 19 .* at 19x14"),
        ({}, {"optimizer": Adam()}, "resume has a state of 19 arrays that are not the"),
        ({}, {"optimizer": Lbfgs(memory=4)}, "that are not the 19 of this optimizer at 27x20"),
    ],
)
def test_places_of_other_runs_are_refused_at_the_call(whole, change, config, message):
    place = whole["lbfgs"][4].place._replace(**change)
    config = dataclasses.replace(CONFIGS["lbfgs"], **config)
    with pytest.raises(ValueError, match=message) as refused:
        iterate(**GIVEN, config=config, resume=place)
    assert "give the arguments of the run that it is from" in str(refused.value)
