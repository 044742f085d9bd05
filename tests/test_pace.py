"""The time of a run before it begins."""

import dataclasses
import io
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import rich.console

from stylejax import Config, Lbfgs, job, pace, vgg


def test_work_by_hand():
    params = vgg.random_params(jax.random.key(0))
    steps = Lbfgs(line_search=False)
    one = Config(content_layers=(), style_layers=("relu1_1",), scales=1, steps=10, optimizer=steps)
    assert pace.work(one, (64, 48), params) == 12 * 64 * 48
    searching = dataclasses.replace(one, optimizer=Lbfgs())
    assert pace.work(searching, (64, 48), params) == pytest.approx(13 * 64 * 48)
    two = dataclasses.replace(one, scales=2, steps_per_scale=(5, 10))
    assert pace.work(two, (64, 48), params) == 12 * 64 * 48 + 7 * 45 * 34
    # Three rows of 48 to a strip, and one strip below brings out the row that relu1_1 lags behind.
    cut = dataclasses.replace(one, strip=12)
    assert pace.work(cut, (64, 48), params) == 64 * 48 + 11 * 66 * 48 * 3 / 2
    nested = dataclasses.replace(cut, nested=True)
    assert pace.work(nested, (64, 48), params) >= 64 * 48 + 11 * 66 * 48 * 2


def test_seconds_are_measured_where_the_run_is():
    params = vgg.random_params(jax.random.key(0), vgg.Architecture((1, 1), (4, 8)))
    config = Config(content_layers=(), style_layers=("relu2_1",), scales=1, steps=10)
    found = pace.seconds(config, (16, 16), params, device=jax.devices("cpu")[0])
    assert 0 < found < 60


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
    own.device, told = None, io.StringIO()
    console = rich.console.Console(file=told, width=20)
    if fails.startswith("INTERNAL"):
        with pytest.raises(jax.errors.JaxRuntimeError):
            job._tell_plan(own, console)
        return
    job._tell_plan(own, console)
    line = r"128x96 in .* GB: strips of \d+ rows, 20 pairs of L-BFGS, about .* GB"
    assert re.fullmatch(line + ("" if fails else ", about 1:30") + "\n", told.getvalue())
