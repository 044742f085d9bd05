"""Many pictures in few calls: each is what it would be by itself."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stylejax import Adam, Cell, Config, LossWeights, Status, stylize, sweep, sweeps
from stylejax.layers import average_pool

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = Config(
    content_layers=("relu2_2",),
    style_layers=("relu1_1", "relu3_1"),
    optimizer=Adam(),
    steps=4,
    scales=2,
    noise=0.5,
)
KEYS = jax.random.split(jax.random.key(5), 4)


def picture(seed, height=20, width=27):
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


CONTENT, STYLE, OTHER = picture(1), picture(2, 24, 18), picture(3, 24, 18)


def alone(cell):
    more = {"config": cell.config, "loss_weights": cell.loss_weights}
    more |= {"key": cell.key, "init": cell.init}
    return stylize(cell.params, cell.content, cell.styles, **more)


def varied(params):
    """Five cells of one program, no two alike."""
    weights = LossWeights(content=1.0, style=5.0, tv=0.1)
    cell = Cell(params, CONTENT, [STYLE], CONFIG, weights, KEYS[0])
    return [
        cell,
        cell._replace(loss_weights=weights._replace(style=50.0)),
        cell._replace(key=KEYS[1]),
        cell._replace(styles=[OTHER]),
        cell._replace(content=picture(4), key=KEYS[2]),
    ]


def test_each_picture_is_what_it_would_be_by_itself(tiny):
    cells = varied(tiny)
    made = dict(sweep(cells, together=2))
    assert sorted(made) == [0, 1, 2, 3, 4]
    for place, cell in enumerate(cells):
        single, result = alone(cell), made[place]
        assert isinstance(result.image, np.ndarray)
        np.testing.assert_allclose(result.image, single.image, atol=1e-5)
        assert result.evaluations == single.evaluations and result.status == single.status
        for rows, expected in zip(result.history, single.history, strict=True):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), rows, expected)
    pictures = [made[place].image for place in range(5)]
    apart = [np.abs(a - b).max() for i, a in enumerate(pictures) for b in pictures[:i]]
    assert min(apart) > 1e-3


def test_weights_of_layers_and_styles_and_starts(tiny):
    weights = LossWeights(1.0, 5.0, 0.1, {"relu2_2": 1.0}, {"relu1_1": 1, "relu3_1": 2}, (1.0, 2.0))
    cell = Cell(tiny, CONTENT, [STYLE, OTHER], CONFIG, weights, init=picture(6))
    layers = weights._replace(style_layers={"relu1_1": 2, "relu3_1": 0.5})
    cells = [
        cell,
        cell._replace(loss_weights=layers),
        cell._replace(loss_weights=weights._replace(styles=(3.0, 0.0)), init=picture(7)),
    ]
    (batch,) = sweeps.batches(cells, together=8)
    assert batch.places == (0, 1, 2)
    for cell, result in zip(cells, sweeps.run(cells, batch), strict=True):
        np.testing.assert_allclose(result.image, alone(cell).image, atol=1e-5)


def test_a_call_of_its_own_is_stylize(tiny):
    cell = varied(tiny)[0]
    for _, result in sweep([cell, cell], together=1):
        np.testing.assert_array_equal(result.image, alone(cell).image)


def test_equal_cells_in_one_call(tiny):
    cell = varied(tiny)[0]
    first, second = sweep([cell, cell], together=2)
    np.testing.assert_array_equal(first[1].image, second[1].image)
    np.testing.assert_allclose(first[1].image, alone(cell).image, atol=1e-5)


def test_who_shares_a_call(tiny):
    cell = varied(tiny)[0]
    copied = jax.tree.map(np.copy, tiny)
    cells = [
        cell,
        cell._replace(config=dataclasses.replace(CONFIG, steps=5)),
        cell._replace(key=KEYS[1]),
        cell._replace(content=picture(1, 21, 27)),
        cell._replace(styles=[STYLE, OTHER]),
        cell._replace(init=CONTENT),
        cell._replace(params=copied),
        cell._replace(loss_weights=None),
        cell._replace(config=dataclasses.replace(CONFIG)),
        cell._replace(params={**tiny}),
    ]
    made = sweeps.batches(cells, together=9)
    assert [b.places for b in made] == [(0, 2, 7, 8, 9), (1,), (3,), (4,), (5,), (6,)]


@pytest.mark.parametrize(
    ("cells", "together", "lanes", "sizes"),
    [
        (10, 4, 4, [4, 4, 2]),
        (9, 4, 3, [3, 3, 3]),
        (4, 9, 4, [4]),
        (3, 1, 1, [1, 1, 1]),
        (5, 2, 2, [2, 2, 1]),
    ],
)
def test_calls_of_one_program_have_one_size(tiny, cells, together, lanes, sizes):
    made = sweeps.batches([varied(tiny)[0]] * cells, together=together)
    assert {batch.lanes for batch in made} == {lanes}
    assert [len(batch.places) for batch in made] == sizes
    assert [place for batch in made for place in batch.places] == [*range(cells)]


def test_what_is_common_is_handed_over_once(tiny):
    cell = varied(tiny)[0]
    names = jax.tree.leaves(("content", ("style",), LossWeights("c", "s", "tv"), "key"))
    cells = [cell._replace(loss_weights=LossWeights(1.0, style, 0.1)) for style in (1.0, 2.0)]
    equal = [cell, cell._replace(content=CONTENT.copy(), key=jnp.copy(KEYS[0]))]
    keys = [cell, cell._replace(key=None)]
    for given, expected in ((cells, ["s"]), (equal, []), (keys, ["key"])):
        (batch,) = sweeps.batches(given, together=2)
        assert [name for name, v in zip(names, batch.varied, strict=True) if v] == expected


def test_all_calls_of_a_program_share_its_compilation(tiny):
    """The pattern of what differs is that of all cells, not of those of a call."""
    traced = []

    def pool(x):
        traced.append(x.shape)
        return average_pool(x)

    config = dataclasses.replace(CONFIG, pool=pool, scales=1, steps=1)
    cell = Cell(tiny, CONTENT, [STYLE], config, LossWeights(1.0, 5.0, 0.1), KEYS[0])
    more = cell._replace(loss_weights=LossWeights(1.0, 9.0, 0.1))
    cells = [cell, more, cell._replace(key=KEYS[1]), cell._replace(key=KEYS[2]), more]
    first, *others = sweeps.batches(cells, together=2)
    sweeps.run(cells, first)
    once = len(traced)
    assert once
    for batch in others:
        sweeps.run(cells, batch)
    assert len(traced) == once


def test_a_broken_network_leaves_the_others_alone(tiny):
    broken = jax.tree.map(np.copy, tiny)
    broken["conv2_1"]["bias"] *= np.nan
    cell = varied(tiny)[0]
    made = dict(sweep([cell, cell._replace(params=broken)], together=2))
    assert made[1].status == Status.NON_FINITE and made[0].status == Status.RUNNING
    assert np.all(np.isfinite(made[1].image))


def test_nan_in_one_lane_stays_there(tiny):
    """Weights that are too large for float32."""
    cell = varied(tiny)[0]
    wild = cell._replace(loss_weights=LossWeights(3e38, 3e38, 3e38))
    cells = [cell, wild, cell._replace(key=KEYS[1])]
    made = dict(sweep(cells, together=3))
    assert [made[place].status for place in range(3)] == [0, Status.NON_FINITE, 0]
    for place in (0, 2):
        np.testing.assert_allclose(made[place].image, alone(cells[place]).image, atol=1e-5)


def test_wrong_cells_are_named_before_anything_is_made(tiny):
    cell = varied(tiny)[0]
    with pytest.raises(ValueError, match=r"cells\[1\]: content ranges over"):
        sweep([cell, cell._replace(content=CONTENT * 255)])
    with pytest.raises(ValueError, match=r"cells\[0\]: a loss weight is -1"):
        sweep([cell._replace(loss_weights=LossWeights(content=-1.0)), cell])
    with pytest.raises(ValueError, match="together is 0; it must be at least 1"):
        list(sweep([cell], together=0))


def test_how_many_fit():
    def device(platform, limit):
        stats = None if limit is None else {"bytes_limit": limit}
        return SimpleNamespace(platform=platform, memory_stats=lambda: stats)

    cell = Cell({}, np.zeros((512, 512, 3), np.float32), [])
    large = cell._replace(content=np.zeros((4096, 4096, 3), np.float32))
    assert sweeps.fitting(cell, device=device("cpu", 2**40)) == 1
    assert sweeps.fitting(cell, device=device("gpu", 2**40)) == sweeps.MOST
    assert sweeps.fitting(cell, device=device("gpu", 16 * 10**9)) == 3  # of 2.1 GB each, in half
    assert sweeps.fitting(cell, device=device("gpu", None)) == 2
    assert sweeps.fitting(large, device=device("tpu", 16 * 10**9)) == 1


def test_calls_of_so_many_lanes_whatever_there_is(tiny):
    """So that a later call, of which only shapes are known, has the same program."""
    first, *_, last = varied(tiny)
    cells = [first, first._replace(content=picture(8)), last]
    named = ("content", "styles")
    batches = sweeps.batches(cells, lanes=2, varying=named)
    assert [(b.places, b.lanes) for b in batches] == [((0, 1), 2), ((2,), 2)]
    (alone_,) = sweeps.batches([first], lanes=2, varying=(*named, "key"))
    assert alone_.varied == batches[0].varied  # the last one has another key
    (plain,) = sweeps.batches([first], lanes=2)
    assert not any(plain.varied)
    (result,) = sweeps.run([first], alone_)
    np.testing.assert_allclose(result.image, alone(first).image, atol=1e-5)
    with pytest.raises(ValueError, match="lanes is 0"):
        sweeps.batches(cells, lanes=0)
