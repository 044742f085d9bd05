"""What the command writes beside the picture: refused before the run, whole after it."""

import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import stylejax
from stylejax import Config, animation, cli, companions, images, plots, weights

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A photo, a painting and narrow weights of eight layers."""
    folder = tmp_path_factory.mktemp("companions")
    narrow = stylejax.Architecture((1, 1, 2, 2, 2), (4, 4, 6, 6, 6))
    params = jax.tree.map(np.asarray, stylejax.random_params(jax.random.key(0), narrow))
    weights.save(folder / "narrow.h5", params, weights.Origin("random"))
    noise = np.random.default_rng(0)
    images.save(folder / "photo.png", noise.random((40, 56, 3)))
    images.save(folder / "painting.png", noise.random((48, 40, 3)))
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """Runs the command with small settings; returns status and standard error."""
    monkeypatch.setenv("STYLEJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*options):
        argv = [str(folder / "photo.png"), str(folder / "painting.png"), "-o", "out.png"]
        argv += ["--weights", str(folder / "narrow.h5"), "--size", "32", "--steps", "3"]
        status = cli.main([*argv, "--smallest", "20", *map(str, options)])
        return status, capsys.readouterr().err

    return run


def refuse(command):
    """In place of a run that should not have begun."""
    raise AssertionError("the run has begun")


def test_everything_at_once(run):
    pytest.importorskip("matplotlib")
    options = "--plot", "--sheet", "--animation", "run.gif", "--animation-every", "2", "--record"
    status, said = run(*options, "--quiet")
    assert (status, said) == (0, "")
    assert sorted(p.name for p in Path().iterdir() if p.is_file()) == [
        "out.json", "out.plot.png", "out.png", "out.sheet.png", "run.gif",
    ]  # fmt: skip
    assert images.load("out.plot.png").image.shape == (660, 1080, 3)
    picture, row = images.load("out.png").image, images.load("out.sheet.png").image
    height, width = picture.shape[:2]
    assert row.shape[1] == 3 * width + 4 * 8  # photo, painting, result
    np.testing.assert_array_equal(row[-height - 8 : -8, -width - 8 : -8], picture)
    with Image.open("run.gif") as file:
        assert file.size == (32, 23)
        # Two scales of three steps: the start, steps 2, 4 and 6, and the end, which is step 6 again
        # and so adds to its time.
        times = []
        for number in range(file.n_frames):
            file.seek(number)
            times.append(file.info["duration"])
        assert sum(times) == 4 * 80 + 2000 and len(times) == 4
        last = np.asarray(file.convert("RGB")) / 255
    assert np.sqrt(np.mean((last - picture) ** 2)) < 0.05


def test_an_mp4(run):
    av = pytest.importorskip("av")
    assert run("--animation", "run.mp4")[0] == 0
    with av.open("run.mp4") as file:
        (stream,) = file.streams.video
        assert (stream.width, stream.height) == (32, 24)
        # The start, three steps at each of two scales, the end for two seconds.
        assert sum(1 for _ in file.decode(stream)) == 7 + 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--animation", "run.avi"), "'run.avi' ends in '.avi'; use one of .gif, .mp4"),
        (("--animation", "nowhere/run.gif"), "there is no folder"),
        (("--animation-every", "3"), "--animation-every 3 works with --animation only"),
        (("--animation", "a.gif", "--animation-every", "0"), "--animation-every 0 must be 1"),
    ],
)
def test_wrong_options_get_one_line(run, monkeypatch, options, message):
    monkeypatch.setattr(cli.job, "run", refuse)
    status, said = run(*options)
    assert status == 2 and said.count("\n") == 1 and message in said
    assert not any(Path().glob("out*"))


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (plots, ("--plot",), "--plot needs matplotlib: pip install matplotlib"),
        (animation, ("--animation", "a.mp4"), "--animation a.mp4 needs PyAV: pip install"),
    ],
)
def test_what_is_not_installed_is_said_first(run, monkeypatch, module, options, message):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(cli.job.images, "load", refuse)
    status, said = run(*options)
    assert status == 2 and said.count("\n") == 1 and message in said


def test_inputs_and_the_picture_are_never_overwritten(run, folder, tmp_path):
    still = tmp_path / "still.gif"
    Image.open(folder / "photo.png").save(still)
    before = still.read_bytes()
    argv = [str(still), str(folder / "painting.png"), "-o", "out.png", "--animation", "still.gif"]
    assert cli.main(argv) == 2 and still.read_bytes() == before
    os.symlink("run.gif", "out.png")
    status, said = run("--animation", "run.gif")
    assert status == 2 and "--animation would write run.gif, which is the output" in said
    Path("out.png").unlink()
    Image.open(folder / "photo.png").save("out.sheet.png")
    argv = ["out.sheet.png", str(folder / "painting.png"), "-o", "out.png", "--sheet"]
    assert cli.main(argv) == 2


def test_what_cannot_be_written_leaves_the_picture(run, monkeypatch):
    def full(path, frames):
        raise OSError("cannot write run.gif (No space left on device)")

    monkeypatch.setattr(animation, "save", full)
    status, said = run("--quiet", "--animation", "run.gif")
    assert status == 2 and said.count("\n") == 1
    assert "No space left on device" in said and "the picture is in out.png" in said
    assert images.load("out.png").image.shape == (23, 32, 3)


def test_ctrl_c_keeps_the_frames_so_far(run, monkeypatch):
    frame = companions.frame

    def stop(progress, *, taken, every):
        if taken == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return frame(progress, taken=taken, every=every)

    monkeypatch.setattr(companions, "frame", stop)
    status, said = run("--animation", "run.gif", "--animation-every", "1")
    assert status == 130 and "interrupted at scale 1/2" in said
    with Image.open("run.gif") as file:
        assert file.size == (32, 23) and file.n_frames == 4  # start, two steps, at full size


def test_ctrl_c_while_writing_says_that_there_is_a_picture(run, monkeypatch):
    def stop(path, frames):
        raise KeyboardInterrupt

    monkeypatch.setattr(animation, "save", stop)
    status, said = run("--animation", "run.gif")
    assert status == 130 and "out.png: 32x23" in said and Path("out.png").exists()


# The number of frames


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (Config(), (341, 512)),
        (Config(), (171, 256)),
        (Config(steps=60, scales=1), (200, 200)),
        (Config(steps=1000, scales=1), (200, 200)),
        (Config(coarse_steps=30, steps=200), (768, 1024)),
    ],
)
def test_a_run_gives_60_to_100_frames(config, size):
    given = {"animation": Path("a.gif"), "animation_every": None}
    every = companions.frame_steps(given, config, size)
    scales = len(config.sizes(*size))
    steps = sum(config.steps_at(number, scales) for number in range(scales))
    assert 60 <= steps / every <= 100


def test_frames_are_none_unless_asked_for():
    given = {"animation": None, "animation_every": None}
    assert companions.frame_steps(given, Config(), (64, 64)) == 0
    given = {"animation": Path("a.gif"), "animation_every": 7}
    assert companions.frame_steps(given, Config(), (64, 64)) == 7
