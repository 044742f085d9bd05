"""The time of a run before it begins."""

import dataclasses
import io
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import rich.console
from jax.sharding import Mesh

from stylejax import Adam, Config, Lbfgs, job, pace, vgg
from stylejax.statistics import RELATIVE_PATCHES


def test_work_by_hand():
    params = vgg.random_params(jax.random.key(0))
    steps = Lbfgs(line_search=False)
    one = Config(content_layers=(), style_layers=("relu1_1",), scales=1, steps=10, optimizer=steps)
    assert pace.work(one, (64, 48), params) == [(12 * 64 * 48, (64, 48))]
    searching = dataclasses.replace(one, optimizer=Lbfgs())
    assert pace.work(searching, (64, 48), params)[0].pixels == pytest.approx(13 * 64 * 48)
    two = dataclasses.replace(one, scales=2, steps_per_scale=(5, 10))
    assert pace.work(two, (64, 48), params) == [
        (7 * 45 * 34, (45, 34)),
        (12 * 64 * 48, (64, 48)),
    ]
    # Three rows of 48 to a strip, and one strip below brings out the row that relu1_1 lags behind.
    cut = dataclasses.replace(one, strip=12)
    assert pace.work(cut, (64, 48), params)[0].pixels == 64 * 48 + 11 * 66 * 48 * 3 / 2
    # On each of two devices a row above its 32 and one below: 34, in strips of three.
    mesh = Mesh(np.array(jax.devices()[:1] * 2), ("rows",))
    shared = dataclasses.replace(cut, mesh=mesh)
    assert pace.work(shared, (64, 48), params)[0].pixels == 64 * 48 + 11 * 2 * 36 * 48 * 3 / 2
    # relu3_2 lags behind by 16 rows: 80 in strips of four. The first block again is so much of it.
    deep = dataclasses.replace(one, style_layers=("relu3_2",), strip=16, recompute=1)
    seen = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2")
    products = [params[layer]["kernel"].size / vgg.stride(layer) ** 2 for layer in seen]
    again = sum(products[:2]) / sum(products)
    share = pytest.approx(64 * 48 + 11 * 80 * 48 * (2 + again) / 2)
    assert pace.work(deep, (64, 48), params)[0].pixels == share and 0 < again < 1
    # Nothing but the third block's first convolution, which a term looks at.
    deep = dataclasses.replace(deep, style_layers=("relu3_1", "relu3_2"), recompute=0)
    again = products[4] / sum(products)
    share = pytest.approx(64 * 48 + 11 * 80 * 48 * (2 + again) / 2)
    assert pace.work(deep, (64, 48), params)[0].pixels == share
    nested = dataclasses.replace(cut, nested=True)
    assert pace.work(nested, (64, 48), params)[0].pixels >= 64 * 48 + 11 * 66 * 48 * 2


def test_every_network_is_tried_for_about_as_long():
    wide = vgg.random_params(jax.random.key(0), vgg.Architecture((1, 1), (64, 320)))
    narrow = vgg.random_params(jax.random.key(0), vgg.Architecture((1, 1), (4, 8)))
    # 9 (3 x 64 + 64 x 320 / 4) = 47808 products a pixel: 708.5 pixels squared, 44 times 16.
    assert pace.side_tried(wide, (4000, 3000), 2.4e10) == 704
    assert pace.side_tried(narrow, (4000, 3000), 2.4e10) == 720
    assert pace.side_tried(wide, (4000, 3000), 1e6) == 256
    assert pace.side_tried(wide, (100, 81), 2.4e10) == 80
    assert pace.side_tried(wide, (8, 8), 2.4e10) == 16


TINY = Config(content_layers=("relu1_1",), style_layers=("relu2_1",), scales=1, steps=10)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        dataclasses.replace(TINY, optimizer=Adam()),
        dataclasses.replace(TINY, content_layers=(), strip=16, padding="circular"),
        dataclasses.replace(TINY, style_layers=(), photorealism=True),
        dataclasses.replace(TINY, style_statistic=RELATIVE_PATCHES, style_scale=(0.5, 1.0)),
    ],
    ids=["default", "Adam", "strips of a tile", "photorealism", "patches"],
)
def test_seconds_are_measured_where_the_run_is(config):
    params = vgg.random_params(jax.random.key(0), vgg.Architecture((1, 1), (4, 8)))
    found = pace.seconds(config, (32, 32), params, device=jax.devices("cpu")[0])
    assert 0 < found < 60


def test_seconds_are_steps_times_what_one_takes(monkeypatch):
    """Rows and columns twice as long cost the canvas twice as much a pixel."""
    params = vgg.random_params(jax.random.key(0), vgg.Architecture((1, 1), (4, 8)))
    steps = Lbfgs(line_search=False)
    config = Config(style_layers=("relu2_1",), scales=1, steps=10, optimizer=steps)
    trial = pace._Trial(side=64, evaluation=3.0, canvas=0.5, compiling=2.0)
    monkeypatch.setattr(pace, "_tried", lambda *args, **more: trial)
    assert pace.seconds(config, (64, 64), params) == 12 * 3 + 2 * 2
    assert pace.seconds(config, (128, 128), params) == 4 * 12 * 3.5 + 2 * 2


@pytest.mark.parametrize("fails", ["", "RESOURCE_EXHAUSTED: out of memory", "INTERNAL: a bug"])
def test_a_plan_is_told_without_time_where_the_trial_has_no_memory(fails, monkeypatch):
    """The run itself may fit all the same, as it falls back to smaller ways."""

    def seconds(*args, **more):
        if fails:
            raise jax.errors.JaxRuntimeError(fails)
        return 90.0

    monkeypatch.setattr(pace, "seconds", seconds)
    params = vgg.random_params(jax.random.key(0))
    about = SimpleNamespace(config=Config(strip=64))
    own = SimpleNamespace(
        preset=about, content=np.zeros((96, 128, 3)), given={"quiet": False}, params=params
    )
    own.device, own.draft, told = None, None, io.StringIO()
    console = rich.console.Console(file=told, width=20)
    if fails.startswith("INTERNAL"):
        with pytest.raises(jax.errors.JaxRuntimeError):
            job._tell_plan(own, console)
        return
    job._tell_plan(own, console)
    line = r"128x96 in .* GB: strips of \d+ rows, 20 pairs of L-BFGS, about .* GB"
    assert re.fullmatch(line + ("" if fails else ", about 1:30") + "\n", told.getvalue())
