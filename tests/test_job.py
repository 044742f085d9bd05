"""How the command goes through a run, and how it leaves."""

import gc
import math
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from stylejax import Config, cli, job


@pytest.mark.parametrize(
    ("platform", "save_every", "frames", "saved", "expected"),
    [
        ("gpu", None, 0, None, (10, math.inf)),
        ("gpu", 25, 0, None, (5, math.inf)),
        ("gpu", 20, 12, None, (4, math.inf)),
        ("gpu", 7, 0, None, (1, math.inf)),  # 60 steps a scale: 60 + 7 is no multiple
        ("gpu", None, 0, 0, (1, math.inf)),
        ("cpu", None, 0, None, (10, 2.0)),
        ("cpu", None, 0, 0, (1, math.inf)),
        ("cpu", None, 0, 0.5, (10, 0.5)),
        ("cpu", 20, 0, None, (1, math.inf)),
        ("cpu", None, 6, None, (1, math.inf)),
    ],
)
def test_stretches_end_where_something_is_wanted(platform, save_every, frames, saved, expected):
    given = {"save_every": save_every, "animation": None, "animation_every": frames}
    given["checkpoint_every"] = saved
    if frames:
        given["animation"] = "run.gif"
    preset = SimpleNamespace(config=Config(steps=60))
    own = SimpleNamespace(preset=preset, content=np.zeros((256, 256, 3)), given=given)
    assert job._stretch(own, SimpleNamespace(platform=platform)) == expected


@pytest.mark.parametrize(
    ("words", "status", "at_once"),
    [
        (["photo.jpg", "painting.jpg"], 130, True),
        (["photo.jpg", "painting.jpg"], 143, True),
        (["photo.jpg", "painting.jpg"], 0, False),
        (["photo.jpg", "painting.jpg"], 2, False),
        (["batch", "photos"], 130, False),
        (["batch", "photos"], 2, False),
        ([], 0, False),
    ],
)
def test_a_picture_s_run_that_was_told_to_stop_waits_for_nothing(
    words, status, at_once, monkeypatch
):
    """Of several pictures workers have to be told first."""
    left = []
    monkeypatch.setattr(cli, "main", lambda: status)
    monkeypatch.setattr(sys, "argv", ["stylejax", *words])
    monkeypatch.setattr(os, "_exit", left.append)
    with pytest.raises(SystemExit) as end:
        cli.run()
    assert end.value.code == status
    assert left == [status] * at_once


def test_garbage_is_looked_for_in_a_run_if_not_in_what_was_imported(monkeypatch):
    """``scripts/stylize.py`` imports without."""
    looked = []
    monkeypatch.setattr(cli, "main", lambda: looked.append(gc.isenabled()) or 0)
    gc.disable()
    try:
        with pytest.raises(SystemExit):
            cli.run()
    finally:
        gc.enable()
    assert looked == [True]
