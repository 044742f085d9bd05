"""``stylejax grid``, used as a person would use it, on a narrow random network."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from test_cli import SCRIPT

import stylejax
from stylejax import cli, grid, images, job, sweeps, weights

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Photos, paintings and narrow weights with VGG-19's layers down to relu3_1."""
    folder = tmp_path_factory.mktemp("grid")
    narrow = stylejax.Architecture((1, 1, 1), (4, 6, 8))
    params = stylejax.random_params(jax.random.key(0), narrow)
    params = jax.tree.map(np.asarray, params)
    weights.save(folder / "narrow.h5", params, weights.Origin("random"))
    shutil.copy(folder / "narrow.h5", folder / "broken.h5")
    noise = np.random.default_rng(0)
    for name, size in {"photo": (20, 28), "painting": (24, 20), "other": (18, 18)}.items():
        images.save(folder / f"{name}.png", noise.random((*size, 3)))
    return folder


@pytest.fixture(autouse=True)
def alone(source, tmp_path, tmp_path_factory, monkeypatch):
    """A cache of its own, and a folder with the files."""
    monkeypatch.setenv("STYLEJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)


SHARED = (
    "--weights narrow.h5 --size 24 --steps 2 --scales 1 --optimizer adam "
    "--content-layers relu2_1 --style-layers relu1_1,relu3_1"
)


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command with small settings; returns status, standard error and the sheet."""

    def run(words, pictures="photo.png painting.png", out="sheet.png", shared=SHARED):
        line = f"grid {pictures} -o {out} {shared} {words}"
        status = cli.main(shlex.split(line))
        return status, capsys.readouterr().err, tmp_path / out

    return run


def table(sheet):
    with open(sheet.with_suffix(".csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(None not in row and None not in row.values() for row in rows)  # as wide as the head
    return rows


def pixels(path):
    return np.asarray(Image.open(path), np.int32)


GRID = "--vary style-weight=5,50 --vary 'content-layers=relu2_1 | relu1_1,relu2_1:2 | pool1'"


def test_a_sheet_its_numbers_and_its_pictures(run, tmp_path):
    status, said, sheet = run(f"{GRID} --keep cells --record --init noise")
    assert status == 0, said
    rows = table(sheet)
    layers = ["relu2_1", "relu1_1,relu2_1:2", "pool1"]
    keys = [(row["style-weight"], row["content-layers"]) for row in rows]
    assert keys == [(weight, layer) for layer in layers for weight in ("5", "50")]
    for place, row in enumerate(rows):
        name = f"{place // 2 + 1}-{place % 2 + 1}.png"
        assert row["picture"] == f"cells{os.sep}{name}" and row["status"] == "running"
        terms = [float(v or 0) for k, v in row.items() if k.startswith(("content r", "style r"))]
        terms += [float(row["content pool1"] or 0), float(row["tv"])]
        np.testing.assert_allclose(sum(terms), float(row["loss"]), rtol=1e-5)
        written = json.loads((tmp_path / row["picture"]).with_suffix(".json").read_text())
        assert written["loss_weights"]["style"] == float(row["style-weight"])
        assert written["evaluations"] == int(row["evaluations"]) == 3
        np.testing.assert_allclose(written["loss"], float(row["loss"]), rtol=1e-6)
    assert {bool(row["content pool1"]) for row in rows[:4]} == {False}
    with Image.open(sheet) as image:
        inside = json.loads(image.text["stylejax"])
        assert inside["command"][:2] == ["stylejax", "grid"] and inside["pictures"] == 6
        # Every picture is in the sheet, at its own size.
        paper = np.asarray(image)
    for row in rows:
        picture = pixels(row["picture"])
        windows = np.lib.stride_tricks.sliding_window_view(paper, picture.shape)
        corners = np.all(windows[..., ::4, ::4, :] == picture[::4, ::4], axis=(2, 3, 4, 5))
        assert np.sum(corners) == 1
    assert said.count("\n") == 7 and "6/6  style-weight 50, content-layers pool1: loss" in said


def test_the_command_in_a_picture_makes_it_again(run):
    run("--vary seed=1,2 --vary init=noise,mix:0.3 --keep cells -q")
    for name in ("1-2", "2-1"):
        kept = f"cells/{name}.png"
        with Image.open(kept) as image:
            made = json.loads(image.text["stylejax"])
        before = pixels(kept)
        os.remove(kept)
        program, *words = made["command"]
        assert program == "stylejax" and made["seed"] == (2 if name == "1-2" else 1)
        assert cli.main(words) == 0
        np.testing.assert_array_equal(pixels(kept), before)


def test_together_or_one_by_one(run, monkeypatch):
    calls = []
    real = sweeps.run
    monkeypatch.setattr(sweeps, "run", lambda cells, b: calls.append(b.places) or real(cells, b))
    axes = "--vary style-weight=1,20 --vary seed=0,1 --init noise --record -q --colour pca"
    _, _, first = run(f"{axes} --keep a", out="a.png")
    assert not calls
    status, _, second = run(f"{axes} --keep b --together 3", out="b.png")
    assert status == 0 and calls == [(0, 1), (2, 3)]
    for one, shared in zip(table(first), table(second), strict=True):
        assert (one["together"], shared["together"]) == ("1", "2")
        assert one["evaluations"] == shared["evaluations"] and one["status"] == shared["status"]
        np.testing.assert_allclose(float(one["loss"]), float(shared["loss"]), rtol=1e-4)
        assert np.abs(pixels(one["picture"]) - pixels(shared["picture"])).max() <= 1
        kept = [Path(r["picture"]).with_suffix(".json") for r in (one, shared)]
        records = [json.loads(path.read_text()) for path in kept]
        totals = [r["history"][0]["total"] for r in records]
        np.testing.assert_allclose(totals[0][1:], totals[1], rtol=1e-4)
        drop = ("command", "seconds", "history", "loss")
        rest = [{k: v for k, v in r.items() if k not in drop} for r in records]
        assert rest[0] == rest[1]


def test_files_as_values_are_read_once(run, monkeypatch):
    read = []
    load, network = images.load, weights.load
    monkeypatch.setattr(images, "load", lambda p, **k: read.append(os.fspath(p)) or load(p, **k))
    monkeypatch.setattr(weights, "load", lambda p: read.append(p.name) or network(p))
    status, said, sheet = run(
        "--vary photo=photo.png,other.png --vary painting=painting.png,other.png,photo.png",
        pictures="",
    )
    assert status == 0, said
    paintings = ["painting.png", "other.png", "photo.png"]
    assert [row["painting"] for row in table(sheet)] == sorted(
        [*paintings] * 2, key=paintings.index
    )
    assert read.count("narrow.h5") == 1
    # As a photo and as a painting, whatever stands beside it.
    assert read.count("painting.png") == 1 and read.count("photo.png") == 2
    assert "photo photo.png, painting other.png" in said


def test_regions_are_those_of_single_runs(run, tmp_path):
    mask = np.zeros((20, 28, 3))
    mask[:, :14] = 1
    images.save(tmp_path / "left.png", mask)
    status, said, _ = run('--mask left.png --vary "region-weights=0.5 | 2" --keep kept')
    assert status == 0, said
    first, second = (images.load(tmp_path / "kept" / f"{n}.png").image for n in ("1-1", "1-2"))
    assert np.abs(first - second).max() > 0
    line = f"photo.png painting.png -o alone.png {SHARED} --mask left.png --region-weights 2"
    assert cli.main(shlex.split(line)) == 0
    np.testing.assert_allclose(images.load("alone.png").image, second, atol=1 / 255)


def test_one_option_makes_one_row(run, tmp_path):
    status, said, sheet = run("--vary style-weight=5,50,500 -q", out="sheet.jpg")
    assert (status, said) == (0, "")
    height, width = images.load(sheet).image.shape[:2]
    assert width > 3 * 24 and height < 2 * 24 + 60
    assert sorted(p.name for p in tmp_path.glob("sheet*")) == ["sheet.csv", "sheet.jpg"]


def test_blends_and_paintings_after_those_that_are_given(run):
    status, said, sheet = run("--vary style-blend-weights=1,0|0,1 --vary painting=other.png")
    assert status == 0, said
    assert [row["style-blend-weights"] for row in table(sheet)] == ["1,0", "0,1"]


def test_sizes_and_networks(run):
    status, said, sheet = run("--vary size=24,16 --vary optimizer=adam,lbfgs --together 4")
    assert status == 0, said
    assert {row["together"] for row in table(sheet)} == {"1"}


def poisoned(monkeypatch):
    real = weights.load

    def load(path):
        params = real(path)
        if path.name == "broken.h5":
            params["conv2_1"] = jax.tree.map(lambda a: a * np.nan, params["conv2_1"])
        return params

    monkeypatch.setattr(weights, "load", load)


@pytest.mark.parametrize("together", [1, 2])
def test_a_cell_that_meets_nan_is_marked_and_the_others_live(run, monkeypatch, together):
    poisoned(monkeypatch)
    noted = []
    lay = grid.sheet.sheet
    monkeypatch.setattr(grid.sheet, "sheet", lambda p, **k: noted.append(k["notes"]) or lay(p, **k))
    axes = "--vary style-weight=5,50 --vary weights=narrow.h5,broken.h5 -q"
    status, said, sheet = run(f"{axes} --together {together}")
    assert status == 1 and said.count("\n") == 1 and "2 of them stalled or met NaN" in said
    assert [row["status"] for row in table(sheet)] == ["running"] * 2 + ["non_finite"] * 2
    assert noted == [[["", ""], ["met NaN", "met NaN"]]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "--vary"),
        ("--vary style-weight", "has no =; write e.g. --vary style-weight=5,20,80"),
        ("--vary =1,2", "has no ="),
        ("--vary style-weight=5,,6", "has an empty value"),
        ("--vary style-weight=5,6,5", "has a value twice"),
        ("--vary output=a.png,b.png", "--vary output: all pictures of a sheet have that in common"),
        ("--vary size=16,24 --vary size=20", "--vary names size twice"),
        ("--vary size=24 --vary steps=1 --vary tv-weight=1", "--vary is given 3 times"),
        ("--vary no-such-thing=1,2", "no-such-thing"),
        ("--vary style-weight=5,6 --stepz 3", "--stepz"),
        ("--vary style-weight=5,many", "'many' is not a number"),
        ("--vary style-weight=5,-1", "style-weight -1: --style-weight"),
        ("--vary steps=1,2 --vary style-layers=relu1_1|relu9_1", "style-layers relu9_1: unknown"),
        ("--vary painting=other.png,none.png", "painting none.png: "),
        ("--vary style-weight=5,6 --together 0", "--together 0 must be 1 or more"),
        ("--vary style-weight=5,6 --together few", "'--together'"),
        ("--vary style-weight=5,6 --keep photo.png", "--keep photo.png is no folder"),
        ("--vary style-weight=5,6 --save-every 2", "--save-every works with one picture only"),
        ("--vary style-weight=5,6 --record", "--record works with --keep"),
        ("--vary seed=5,6", "--vary seed makes equal pictures"),
        ("--vary seed=5,6 --init other.png", "--vary seed makes equal pictures"),
    ],
)
def test_wrong_options_get_one_line_and_nothing_runs(run, tmp_path, monkeypatch, words, message):
    def never(*arguments):
        raise AssertionError("a picture was begun")

    monkeypatch.setattr(job, "make", never)
    before = sorted(tmp_path.iterdir())
    status, said, _ = run(words)
    assert status == 2 and said.count("\n") == 1 and said.startswith("error: "), said
    assert message in said
    assert sorted(tmp_path.iterdir()) == before


def test_no_input_is_overwritten(run, tmp_path):
    (tmp_path / "sheet.csv").mkdir()
    status, said, _ = run("--vary style-weight=5,6")
    assert status == 2 and "sheet.csv is a folder" in said
    (tmp_path / "sheet.csv").rmdir()
    status, said, _ = run("--vary style-weight=5,6", out="photo.png")
    assert status == 2 and "is one of the inputs" in said
    status, said, _ = run("--vary style-weight=5,6 --keep .", out="1-2.png")
    assert status == 2 and "is one of the pictures to keep" in said
    (tmp_path / "photo.png").rename(tmp_path / "1-1.png")
    status, said, _ = run("--vary style-weight=5,6 --keep .", pictures="1-1.png painting.png")
    assert status == 2 and "is one of the inputs; choose another --keep" in said
    (tmp_path / "other.png").rename(tmp_path / "1-2.png")  # the input of another cell
    axes = "--vary painting=1-2.png,painting.png --keep ."
    status, said, _ = run(axes, pictures="painting.png")
    assert status == 2 and "1-2.png is one of the inputs" in said


def test_what_is_done_is_written_when_a_cell_fails(run, monkeypatch):
    real, made = job.make, []

    def make(own, *more):
        if len(made) == 2:
            raise OSError("the device is gone")
        made.append(own)
        return real(own, *more)

    monkeypatch.setattr(job, "make", make)
    status, said, sheet = run("--vary style-weight=5,6,7 -q")
    assert status == 2 and "the device is gone" in said
    assert [row["style-weight"] for row in table(sheet)] == ["5", "6"] and sheet.exists()


def test_out_of_memory_names_the_remedy(run, monkeypatch):
    def full(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB")

    monkeypatch.setattr(sweeps, "run", full)
    status, said, sheet = run("--vary style-weight=5,6,7 --together 3")
    assert status == 2 and "out of memory with 3 pictures in one call" in said
    assert "--together" in said and not sheet.exists()


@pytest.mark.parametrize("after", [0, 2])
def test_ctrl_c_keeps_what_is_done(tmp_path, after):
    shared = SHARED.replace("--steps 2", "") + " --init noise --keep cells"
    # The last picture takes forever.
    steps = "--vary steps=1,2,1000000"
    line = f"grid photo.png painting.png -o sheet.png {shared} {steps}"
    if after == 0:
        line = line.replace("1,2,1000000", "1000000,2,1")
    command = [sys.executable, "-u", str(SCRIPT), *shlex.split(line)]
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            said = [process.stderr.readline() for _ in range(after)]
            assert all(line.startswith(f"{i}/3  steps {i}") for i, line in enumerate(said, 1))
            wait_for(tmp_path / "cells")
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 130 and "interrupted" in said and "Traceback" not in said, said
    sheet = tmp_path / "sheet.png"
    assert sheet.exists() == bool(after)
    if after:
        assert [row["steps"] for row in table(sheet)] == ["1", "2"]
        assert images.load(sheet).image.shape[1] > 3 * 24
        assert sorted(p.name for p in (tmp_path / "cells").iterdir()) == ["1-1.png", "1-2.png"]


def wait_for(path):
    """Until the cells begin, whose folder it is."""
    for _ in range(600):
        if path.exists():
            return time.sleep(0.5)
        time.sleep(0.1)
    raise AssertionError(f"{path} never came")


def test_help(capsys):
    assert cli.main(["grid", "--help"]) == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert "--vary" in text and "Usage: stylejax grid PHOTO PAINTINGS... -o SHEET" in text
    assert cli.main(["grid", *shlex.split("a.png b.png -o c.png --vary size=1,2 --version")]) == 0
    assert capsys.readouterr().out.strip() == f"stylejax {stylejax.__version__}"


def test_the_order_of_the_cells():
    axes = (grid.Axis("a", ("1", "2")), grid.Axis("b", ("x", "y", "z")))
    assert grid._cells(axes) == [(a, b) for b in "xyz" for a in "12"]
    assert grid._cells(axes[:1]) == [("1",), ("2",)]
