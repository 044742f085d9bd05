"""``stylejax batch``, used as a person would use it, on a narrow random network."""

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
import over_devices
import pytest
import typer.main
from PIL import Image
from test_cli import SCRIPT

import stylejax
from stylejax import batch, cli, commands, images, job, plots, sweeps, weights, work

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Photos of two sizes, paintings and narrow weights with VGG-19's layers down to relu3_1."""
    folder = tmp_path_factory.mktemp("batch")
    narrow = stylejax.Architecture((1, 1, 1), (4, 6, 8))
    params = stylejax.random_params(jax.random.key(0), narrow)
    params = jax.tree.map(np.asarray, params)
    weights.save(folder / "narrow.h5", params, weights.Origin("random"))
    noise = np.random.default_rng(0)
    for name in ("photos", "styles"):
        (folder / name).mkdir()
    sizes = {"photos/a": (20, 28), "photos/b": (20, 28), "photos/c": (20, 28), "photos/d": (28, 20)}
    sizes |= {"styles/s": (24, 20), "styles/t": (24, 20)}
    for name, size in sizes.items():
        images.save(folder / f"{name}.png", noise.random((*size, 3)))
    return folder


@pytest.fixture(autouse=True)
def alone(source, tmp_path, monkeypatch):
    """A cache and a folder of its own, with the files in it."""
    monkeypatch.setenv("STYLEJAX_CACHE", str(tmp_path / "cache"))
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


SHARED = (
    "--weights narrow.h5 --size 24 --steps 2 --scales 1 --optimizer adam "
    "--content-layers relu2_1 --style-layers relu1_1,relu3_1"
)


@pytest.fixture
def run(capsys):
    """Runs the command with small settings; returns status, standard error and the table."""

    def run(words="", inputs="photos styles", out="out", shared=SHARED):
        status = cli.main(shlex.split(f"batch {inputs} -o {out} {shared} {words}"))
        table = Path(out, "batch.csv")
        return status, capsys.readouterr().err, rows(table) if table.exists() else []

    return run


def rows(table):
    with open(table, newline="") as file:
        found = list(csv.DictReader(file))
    assert all(None not in row and None not in row.values() for row in found)
    return found


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image, np.int32)


def never(*arguments, **named):
    raise AssertionError("a picture was begun")


ALL = [f"{photo}--{style}.png" for photo in "abcd" for style in "st"]


def test_every_photo_with_every_style(run, tmp_path):
    status, said, table = run("--record --together 1")
    assert status == 0, said
    assert [row["picture"] for row in table] == ALL
    assert sorted(os.listdir("out")) == sorted(
        [*ALL, *(name.replace("png", "json") for name in ALL), "batch.csv"]
    )
    for row in table:
        assert (row["state"], row["status"], row["error"]) == ("made", "running", "")
        assert row["photo"] == f"photos/{row['picture'][0]}.png"
        written = json.loads(Path("out", row["picture"]).with_suffix(".json").read_text())
        assert written["fingerprint"] == row["fingerprint"] and written["history"]
        np.testing.assert_allclose(float(row["loss"]), written["loss"])
        assert (row["evaluations"], row["together"]) == ("3", "1") and float(row["seconds"]) > 0
        height, width = pixels(Path("out", row["picture"])).shape[:2]
        assert (row["width"], row["height"]) == (str(width), str(height))
        digest = subprocess.run(["sha256sum", f"out/{row['picture']}"], capture_output=True)
        assert row["sha256"] == digest.stdout.decode()[:64]
    assert len({row["sha256"] for row in table}) == len({row["fingerprint"] for row in table}) == 8
    assert ("8/8  " in said and said.endswith("out: 8 of 8 pictures in 0:00\n")) or "0:0" in said
    # The same picture as by itself, by the command that it carries.
    made = json.loads(images.metadata("out/b--t.png")["stylejax"])
    before = pixels("out/b--t.png")
    os.remove("out/b--t.png")
    assert made["command"][0] == "stylejax" and cli.main(made["command"][1:]) == 0
    np.testing.assert_array_equal(pixels("out/b--t.png"), before)


def test_equal_sizes_together_in_equal_calls(run, monkeypatch):
    _, _, one = run("--together 1", inputs="photos styles/s.png", out="one")
    calls, real = [], sweeps.run

    def counted(cells, batch, **more):
        calls.append((len(batch.places), batch.lanes, batch.varied))
        return real(cells, batch, **more)

    monkeypatch.setattr(sweeps, "run", counted)
    status, said, two = run("--together 2", inputs="photos styles/s.png", out="two")
    assert status == 0, said
    # Three photos lying, of which the third one has a call of the same program; one that stands.
    assert [call[:2] for call in calls] == [(2, 2), (1, 2)] and calls[0][2] == calls[1][2]
    assert [row["together"] for row in two] == ["2", "2", "1", "1"]
    for a, b in zip(one, two, strict=True):
        assert a["fingerprint"] == b["fingerprint"] and a["evaluations"] == b["evaluations"]
        np.testing.assert_allclose(float(a["loss"]), float(b["loss"]), rtol=1e-4)
        assert np.abs(pixels(f"one/{a['picture']}") - pixels(f"two/{b['picture']}")).max() <= 1


def test_given_again_it_makes_what_is_missing(run, monkeypatch):
    made, real = [], job.make
    monkeypatch.setattr(
        job, "make", lambda own, *m: made.append(own.given["output"].name) or real(own, *m)
    )
    _, _, before = run("--together 1")
    assert made == [n for n in ALL if "--s" in n] or sorted(made) == ALL
    made.clear()
    status, said, table = run("--together 3")  # which changes nothing but rounding
    assert status == 0 and not made and "8 of 8 pictures (8 were there)" in said
    assert table == [{**row, "state": "kept"} for row in before]

    os.remove("out/c--s.png")
    _, _, table = run("--together 1")
    assert made == ["c--s.png"]
    assert [row["state"] for row in table] == ["kept"] * 4 + ["made"] + ["kept"] * 3
    strip = ("state", "seconds", "sha256")
    assert [{k: v for k, v in row.items() if k not in strip} for row in table] == [
        {k: v for k, v in row.items() if k not in strip} for row in before
    ]

    made.clear()
    os.utime("photos/a.png")  # touched, not changed
    images.save("photos/b.png", np.random.default_rng(7).random((20, 28, 3)))
    status, said, _ = run("--together 1")
    assert sorted(made) == ["b--s.png", "b--t.png"]
    assert "2 pictures are there, of other options or files; they are made anew" in said

    made.clear()
    run("--together 1 --style-weight 20")  # the default, said
    assert not made
    status, said, _ = run("--together 1 --style-weight 21 -q")
    assert sorted(made) == ALL and (status, said) == (0, "")
    made.clear()
    run("--together 1 --style-weight 21 --record", inputs="photos/a.png styles")
    assert sorted(made) == ["a--s.png", "a--t.png"]  # their records were missing


def test_the_table_keeps_what_other_commands_made(run):
    run("--together 1", inputs="photos/a.png styles")
    os.remove("out/a--t.png")
    _, _, table = run("--together 1", inputs="photos/b.png styles/s.png")
    assert [row["picture"] for row in table] == ["b--s.png", "a--s.png"]


@pytest.mark.parametrize("together", [1, 3])
def test_a_broken_photo_harms_no_other(run, together):
    data = Path("photos/b.png").read_bytes()
    Path("photos/b.png").write_bytes(data[: len(data) // 2])
    Path("photos/e.jpg").write_text("no picture")
    status, said, table = run(f"--together {together}")
    assert status == 1 and "8 of 12" not in said and "6 of 10 pictures" in said
    assert "4 failed" in said and "(2 pictures)" in said
    state = {row["picture"]: row["state"] for row in table}
    assert {name for name, s in state.items() if s == "failed"} == {
        f"{n}--{s}.png" for n in "be" for s in "st"
    }
    for row in table:
        assert bool(row["error"]) == (row["state"] == "failed") == (row["sha256"] == "")
        assert Path("out", row["picture"]).exists() == (row["state"] == "made")
        assert row["photo"] in row["error"] or not row["error"]
    # Once it is mended, it is what is made.
    Path("photos/b.png").write_bytes(data)
    os.remove("photos/e.jpg")
    status, said, table = run(f"--together {together}")
    assert status == 0 and "8 of 8 pictures (6 were there)" in said


def test_a_missing_painting_and_a_file_of_someone_else(run):
    Path("pairs.csv").write_text("photo,style\nphotos/a.png,styles/s.png\nphotos/a.png,gone.png\n")
    os.mkdir("out")
    images.save("out/a--s.png", np.zeros((4, 4, 3)))
    before = Path("out/a--s.png").read_bytes()
    status, _, table = run("--pairs pairs.csv", inputs="")
    assert status == 1 and [row["state"] for row in table] == ["failed"] * 2
    assert "not made by stylejax; move it" in table[0]["error"]
    assert "cannot read 'gone.png'" in table[1]["error"]
    assert Path("out/a--s.png").read_bytes() == before


def test_pictures_that_meet_nan_are_told(run, monkeypatch):
    real = weights.load

    def load(path):
        params = real(path)
        params["conv2_1"] = jax.tree.map(lambda a: a * np.nan, params["conv2_1"])
        return params

    monkeypatch.setattr(weights, "load", load)
    status, said, table = run("--together 1", inputs="photos/a.png styles")
    assert status == 1 and said.count("\n") == 3 and "2 stalled or met NaN" in said
    assert {row["status"] for row in table} == {"non_finite"}
    status, said, _ = run("--together 1", inputs="photos/a.png styles -q")
    assert status == 1 and "2 were there" in said and "2 stalled or met NaN" in said


def test_where_memory_ends_fewer_go_together(run, monkeypatch):
    tried, real = [], sweeps.run

    def small(cells, batch, **more):
        tried.append(batch.lanes)
        if batch.lanes > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB")
        return real(cells, batch, **more)

    monkeypatch.setattr(sweeps, "run", small)
    status, said, table = run("--together 3", inputs="photos styles/s.png")
    assert status == 0, said
    assert tried == [3, 1, 1, 1] and {row["state"] for row in table} == {"made"}

    monkeypatch.setattr(sweeps, "run", lambda *a, **k: small(a[0], a[1]._replace(lanes=2)))
    status, said, table = run("--together 3 --seed 1 --init noise", inputs="photos styles/s.png")
    assert status == 1 and "out of memory; take a smaller --size" in table[0]["error"]
    assert [row["state"] for row in table] == ["failed"] * 3 + ["made"]


def test_a_full_disk_ends_it(run, monkeypatch):
    made, real = [], images.save

    def save(path, *arguments, **named):
        if path.parent.name == "out" and len(made) == 2:
            raise OSError(f"cannot write {path} (no space), nothing was changed")
        made.append(path)
        return real(path, *arguments, **named)

    monkeypatch.setattr(images, "save", save)
    monkeypatch.setattr(job.tempfile, "gettempdir", lambda: ".")
    status, said, table = run("--together 1", inputs="photos styles/s.png")
    assert status == 2 and "no space" in said and "the same command goes on" in said
    assert [row["state"] for row in table] == ["made", "made", "failed"]


def test_names_in_brackets(run):
    for place in ("photos/a.png", "styles/s.png"):
        os.rename(place, Path(place).with_name("[bold] [x=1].png"))
    status, said, table = run(inputs="'photos/[bold] [x=1].png' styles")
    assert status == 0 and "1/2  [bold] [x=1]--[bold] [x=1].png: loss" in said
    assert table[0]["picture"] == "[bold] [x=1]--[bold] [x=1].png"


def test_whatever_goes_wrong_is_in_the_row(run, monkeypatch):
    real = job.make

    def make(own, *more):
        if own.given["photo"].stem == "b":
            raise RuntimeError("the moon\nis full")
        return real(own, *more)

    monkeypatch.setattr(job, "make", make)
    status, _, table = run("--together 1", inputs="photos styles/s.png")
    assert status == 1
    assert [row["error"] for row in table] == ["", "RuntimeError: the moon is full", "", ""]


def test_regions_colours_and_what_stands_beside(run, monkeypatch):
    mask = np.zeros((20, 28, 3))
    mask[:, :14] = 1
    images.save("left.png", mask)
    monkeypatch.setattr(plots, "losses", lambda trace: trace)
    monkeypatch.setattr(plots, "save", lambda path, trace: path.write_text(str(len(trace))))
    words = "--mask left.png --colour pca --sheet --plot --format jpg"
    status, said, table = run(f"{words} --together 2", inputs="photos styles/s.png")
    assert status == 0, said
    names = [f"{n}--s{end}" for n in "abcd" for end in (".jpg", ".sheet.png", ".plot.png")]
    assert sorted(os.listdir("out")) == sorted([*names, "batch.csv"])
    line = f"photos/b.png styles/s.png -o alone.jpg {SHARED} --mask left.png --colour pca"
    assert cli.main(shlex.split(line)) == 0
    assert np.abs(pixels("alone.jpg") - pixels("out/b--s.jpg")).max() <= 4
    monkeypatch.setattr(job, "make", never)
    monkeypatch.setattr(sweeps, "run", never)
    assert run(words, inputs="photos styles/s.png")[0] == 0
    images.save("left.png", 1 - mask)
    _, _, table = run(words, inputs="photos styles/s.png")
    assert {row["error"] for row in table} == {"AssertionError: a picture was begun"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("photos -o out", "give PHOTOS and STYLES, a folder or a file each, or --pairs FILE"),
        ("photos styles", "--output is missing"),
        ("photos styles more -o out", "more"),
        ("none styles -o out", "PHOTOS 'none': there is no such file or folder"),
        ("photos empty -o out", "STYLES 'empty': no picture lies in this folder"),
        ("photos styles -o narrow.h5", "--output narrow.h5 is no folder"),
        ("photos styles -o photos", "--output photos is a folder of inputs"),
        ("photos styles -o out --pairs pairs.csv", "give no PHOTOS and STYLES beside it"),
        ("-o out --pairs pairs.csv", "must name the columns photo and style"),
        ("-o out --pairs none.csv", "none.csv"),
        ("-o out --pairs half.csv", "line 3 names no photo or no style"),
        ("-o out --pairs heads.csv", "has no line below its first"),
        ("-o out --pairs narrow.h5", "is no table of UTF-8 text"),
        ("photos styles -o out --format bmp", "--format 'bmp' is unknown"),
        ("photos styles -o out --together 0", "--together 0 must be 1 or more"),
        ("photos styles -o out --workers 2", "--workers 2 works with --scheduler local only"),
        ("photos styles -o out --steps -1", "--steps is -1"),
        ("photos styles -o out --size 0", "--size 0 must be 1 or more"),
        ("photos styles -o out --animation a.gif", "--animation"),
        ("photos styles -o out --style-layers relu9_1", "relu9_1"),
        ("photos styles -o out --device tpu", "--device tpu: jax sees only cpu here"),
        ("photos styles -o out --weights none.h5", "none.h5"),
        ("photos styles -o out --mask none.png", "none.png"),
        ("photos styles -o out --content-mask heads.csv", "'heads.csv' is not an image"),
        ("photos styles -o out --mask rest --mask rest", "--mask is given 2 times"),
        ("photos styles -o out --region-weights 1,2", "--region-weights works with --mask"),
        ("photos styles -o out --mask alpha --region-weights 1,2", "has 2 numbers for 1 regions"),
    ],
)
def test_wrong_options_get_one_line_and_nothing_runs(tmp_path, capsys, monkeypatch, words, message):
    (tmp_path / "empty").mkdir()
    Path("pairs.csv").write_text("a,b\n1,2\n")
    Path("half.csv").write_text("photo,style\na.png,b.png\na.png,\n")
    Path("heads.csv").write_text("photo,style\n")
    monkeypatch.setattr(job, "make", never)
    monkeypatch.setattr(sweeps, "run", never)
    before = sorted(tmp_path.rglob("*"))
    shared = SHARED.replace("--weights narrow.h5", "") if "--weights" in words else SHARED
    assert cli.main(shlex.split(f"batch {shared} {words}")) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: ") and message in said, said
    assert [p for p in sorted(tmp_path.rglob("*")) if "cache" not in p.parts] == before


def test_a_table_of_someone_else_is_left_alone(run):
    os.mkdir("out")
    Path("out/batch.csv").write_text("year,batch\n")
    status, said, _ = run()
    assert status == 2 and "is no table of stylejax batch" in said
    assert Path("out/batch.csv").read_text() == "year,batch\n"


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path):
    # The first picture takes forever.
    shared = SHARED.replace("--steps 2", "--steps 1000000") + " --init noise --together 1"
    done = f"batch photos/a.png styles/s.png -o out {SHARED} -q"
    command = [sys.executable, "-u", str(SCRIPT)]
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
    assert cli.main(shlex.split(done)) == 0
    line = f"batch photos styles/s.png -o out {shared}"
    with subprocess.Popen(
        [*command, *shlex.split(line)], stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        try:
            assert "1 pictures are there, of other options" in process.stderr.readline()
            time.sleep(3)
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 130 and "Traceback" not in said, said
    assert "interrupted; out: 0 of 4 pictures" in said and "the same command goes on" in said
    assert sorted(os.listdir("out")) == ["a--s.png", "batch.csv"]  # of before, as it was


def test_killed_at_any_moment_it_goes_on(tmp_path, capsys):
    shared = f"{SHARED} --together 1 --record".replace("--steps 2", "--steps 400")
    line = f"batch photos styles -o out {shared}"
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), *shlex.split(line), "-q"]
    for count in (1, 3):  # twice
        with subprocess.Popen(command, env=env) as process:
            while process.poll() is None and len(list(Path("out").glob("*.png"))) < count:
                time.sleep(0.01)
            process.kill()
    before = {path.name: path.read_bytes() for path in Path("out").glob("*.png")}
    assert cli.main(shlex.split(line)) == 0
    said = capsys.readouterr().err
    kept = int(re.search(r"8 of 8 pictures \((\d) were there\)", said).group(1))
    assert kept >= len(before) - 1  # the last one may have lacked its record
    same = [Path("out", name).read_bytes() == data for name, data in before.items()]
    assert sum(same) == kept and {row["state"] for row in rows("out/batch.csv")} == {"made", "kept"}


@pytest.mark.long
def test_over_the_devices_of_this_machine(tmp_path):
    """One program, as many pictures on each, the same pictures."""
    program = """
import sys
import jax
from stylejax import cli, scale, sweeps, work

seen = []
real = sweeps.jax.device_get
sweeps.jax.device_get = lambda r: seen.append(r.image.sharding.device_set) or real(r)
assert jax.device_count() == 4
assert cli.main(sys.argv[1:]) == 0
print(sorted(len(devices) for devices in seen))
"""
    words = f"batch photos styles/s.png -o {{}} {SHARED} --optimizer lbfgs --together {{}}"
    env = over_devices.environment(4) | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, *shlex.split(words.format("many", 3))],
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.stdout.strip() == "[3]", done.stderr
    assert cli.main(shlex.split(words.format("one", 1))) == 0
    for name in "abcd":
        one, many = (pixels(f"{folder}/{name}--s.png") for folder in ("one", "many"))
        assert np.abs(one - many).max() <= 1
    assert [row["together"] for row in rows("many/batch.csv")] == ["3", "3", "3", "1"]


def test_how_many_together():
    def most(side, *machine):
        return batch.fitting((side, side), batch.Machine(*machine))

    assert [most(side, "cpu", 8e9, 1) for side in (64, 128, 192, 256, 512)] == [4, 4, 2, 1, 1]
    assert [most(side, "gpu", 8e9, 1) for side in (128, 256, 512, 4096)] == [16, 7, 1, 1]
    assert most(256, "gpu", 8e9, 4) == 28


def test_calls_fill_the_devices(tmp_path):
    given = commands.parse(
        batch.application(cli.command),
        shlex.split(f"photos styles/s.png -o out {SHARED} --together 9"),
        name="stylejax batch",
    )
    planned = batch.prepared(given, cli.command)
    for devices, lanes in {1: [3, 1], 2: [4, 1], 3: [3, 1], 8: [3, 1]}.items():
        found = batch.tasks(planned, planned.pairs, batch.Machine("cpu", 8e9, devices))
        assert [task.lanes for task in found] == lanes


def test_options_are_written_as_they_were_said():
    said = "--size=300 --style-scale=1.0,0.5 --mask=a.png --mask=rest --no-carry --line-search"
    said += " --normalise-gradients --colour=pca --weights=w.h5 --seed=3 --scale-sizes=64,96"
    said = said.split()
    given = cli.parse(["p.png", "s.png", "-o", "out.png", *said])
    again = commands.words(cli.command, {**given, "output": None})
    assert sorted(again) == sorted(said)
    repeated = cli.parse(["p.png", "s.png", "-o", "out.png", *again])
    assert {**repeated, "command": 0} == {**given, "command": 0}


def test_everything_the_picture_depends_on_is_in_its_fingerprint():
    def mark(words="", network="n", photo="photos/a.png"):
        given = cli.parse([photo, "styles/s.png", "-o", "o.png", *shlex.split(words)])
        return work.fingerprint(given, network)

    images.save("mask.png", np.ones((4, 4, 3)))
    base = mark()
    assert base == mark("--size 512") == mark("-q --device cpu --record --plot --sheet")
    shutil.copy("photos/a.png", "renamed.png")
    assert base == mark(photo="renamed.png")
    marks = [base, mark(network="other"), mark(photo="photos/b.png")]
    marks += [
        mark(words)
        for words in (
            "--size 300",
            "--preset gatys2015",
            "--seed 1",
            "--init noise",
            "--init grey",
            "--init mask.png",
            "--steps 61",
            "--tv-weight 1",
            "--pooling max",
            "--colour pca",
            "--precision high",
            "--style-statistic sliced",
            "--mask mask.png",
            "--mask alpha",
            "--mask rest",
            "--style-mask mask.png",
            "--content-mask mask.png",
            "--labels mask.png",
            "--labels mask.png --style-labels mask.png",
            "--mask mask.png --region-weights 2",
        )
    ]
    assert len(set(marks)) == len(marks)


def test_its_options_are_told():
    own = typer.main.get_command(batch.application(cli.command)).params
    shared = {p.name for p in typer.main.get_command(cli.app).params}
    names = {max(p.opts, key=len): p for p in own if p.name not in {*shared, "photos", "styles"}}
    assert len(names) == 5
    guide = (ROOT / "docs" / "batch.md").read_text()
    told = dict(re.findall(r"^\| `(--[\w-]+).*?\| (?:.*?) \| (.*?) \|$", guide, re.MULTILINE))
    assert set(told) == {*names, "--output"}
    section = (
        (ROOT / "README.md").read_text().partition("\n## Many pictures")[2].partition("\n## ")[0]
    )
    for name, parameter in names.items():
        assert f"{name}" in section
        default = re.search(r"\(default: (.*?)\)\[/dim\]", parameter.help or "")
        assert told[name].strip("`") == (default.group(1) if default else ""), name
