"""--checkpoint and --resume as a person uses them, on a narrow random network."""

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import stylejax
from stylejax import cli, companions, images, record, saves, transfer, weights

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import kill_and_resume  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Whatever is written beside the picture, of a run of two scales of three steps.
TOLD = ("--record", "--animation", "run.gif", "--animation-every", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, a painting and narrow weights of eight layers."""
    folder = tmp_path_factory.mktemp("resumption")
    narrow = stylejax.Architecture((1, 1, 2, 2, 2), (4, 4, 6, 6, 6))
    params = jax.tree.map(np.asarray, stylejax.random_params(jax.random.key(0), narrow))
    weights.save(folder / "narrow.h5", params, weights.Origin("random"))
    params["conv1_1"]["bias"] = params["conv1_1"]["bias"] + 1
    weights.save(folder / "other.h5", params, weights.Origin("random"))
    noise = np.random.default_rng(0)
    for name in ("photo", "painting", "mask"):
        images.save(folder / f"{name}.png", noise.random((40, 56, 3)))
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """Runs the command in a folder of its own; returns status and standard error."""
    monkeypatch.setenv("STYLEJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*options, photo=folder / "photo.png"):
        argv = [str(photo), str(folder / "painting.png"), "-o", "out.png"]
        argv += ["--weights", str(folder / "narrow.h5"), "--size", "32", "--steps", "3"]
        status = cli.main([*argv, "--scales", "2", "--quiet", *map(str, options)])
        return status, capsys.readouterr().err

    return run


def signalled(monkeypatch, number, at):
    """The signal comes when so many steps were taken at all scales."""
    preview = companions.preview

    def stop(given, progress, *, taken):
        if taken == at:
            os.kill(os.getpid(), number)
        preview(given, progress, taken=taken)

    monkeypatch.setattr(companions, "preview", stop)


def everything():
    """What a run has written, but for the seconds it took."""
    told = json.loads(Path("out.json").read_text())
    with Image.open("out.png") as image:
        return image.tobytes(), told["history"], told["evaluations"], Path("run.gif").read_bytes()


def refuse(*arguments, **more):
    """In place of what should not be reached."""
    raise AssertionError("too late")


@pytest.fixture
def finished(run):
    """A run that is through, in the folder ``kept``."""
    assert run("--checkpoint", "kept") == (0, "")
    return Path("kept")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
def test_a_run_that_is_stopped_goes_on_as_if_it_never_was(run, monkeypatch, number, code):
    assert run(*TOLD)[0] == 0
    whole = everything()
    with monkeypatch.context() as patch:
        signalled(patch, number, at=4)
        status, said = run(*TOLD, "--checkpoint", "kept")
    assert status == code and said.count("\n") == 1
    assert "interrupted at scale 2/2 32x23, step 1; --resume goes on from there" in said
    assert json.loads(Path("out.json").read_text())["status"] == "interrupted"
    assert everything() != whole and images.load("out.png").image.shape == (23, 32, 3)
    with monkeypatch.context() as patch:
        signalled(patch, number, at=6)  # the end of the last scale
        assert run(*TOLD, "--checkpoint", "kept", "--resume")[0] == code
    assert run(*TOLD, "--checkpoint", "kept", "--resume") == (0, "")
    assert everything() == whole


def test_sigterm_without_a_checkpoint_keeps_the_picture(run, monkeypatch):
    signalled(monkeypatch, signal.SIGTERM, at=1)
    status, said = run()
    assert status == 143 and "interrupted at scale 1/2" in said and "--resume" not in said
    assert images.load("out.png").image.shape == (23, 32, 3)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_finished_run_is_written_at_once(run, finished, monkeypatch):
    before = images.load("out.png").image
    Path("out.png").unlink()
    monkeypatch.setattr(transfer, "prepare", refuse)
    numbers = saves.numbers(finished)
    assert run("--checkpoint", "kept", "--resume", "--record") == (0, "")
    np.testing.assert_array_equal(images.load("out.png").image, before)
    told = json.loads(Path("out.json").read_text())
    assert [len(scale["total"]) for scale in told["history"]] == [4, 4]
    assert saves.numbers(finished) == numbers  # nothing new


def test_how_often_it_is_saved(run, monkeypatch):
    write, written = saves.write, []

    def note(folder, save):
        written.append(save.place and save.place[:2])
        write(folder, save)

    monkeypatch.setattr(saves, "write", note)
    assert run("--checkpoint", "seldom")[0] == 0
    assert written == [None, (1, 3)]
    written.clear()
    assert run("--checkpoint", "often", "--checkpoint-every", "0")[0] == 0
    assert written == [None, *((scale, step) for scale in (0, 1) for step in range(4))]


def test_a_run_that_was_killed_before_its_first_step(run, finished, monkeypatch):
    whole = images.load("out.png").image
    for more in (("--resume",), ()):
        shutil.rmtree(finished)
        with monkeypatch.context() as patch:
            patch.setattr(transfer, "iterate", refuse)
            with pytest.raises(AssertionError):
                run("--checkpoint", "kept")
        assert saves.latest(finished).place is None
        assert run("--checkpoint", "kept", *more) == (0, "")
        np.testing.assert_array_equal(images.load("out.png").image, whole)


def test_what_does_not_matter_may_be_another(run, finished, folder):
    shutil.copy(folder / "photo.png", "moved.png")
    options = ("-o", "new.jpg", "--record", "--sheet", "--device", "cpu", "--save-every", "2")
    options += ("--coarse-steps", "3", "--style-weight", "20", "--offline")
    status, said = run("--checkpoint", "kept", "--resume", *options[:8], photo="moved.png")
    assert (status, said) == (0, "") and Path("new.jpg").exists()
    # Said or not, it is the default.
    status, said = run("--checkpoint", "kept", "--resume", "--style-weight", "20", "--seed", "0")
    assert (status, said) == (0, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", "4"), "--steps was 3 and is 4."),
        (("--size", "36"), "--size was 32 and is 36."),
        (("--seed", "7"), "--seed was 0 and is 7."),
        (("--style-weight", "3"), "--style-weight was not given and is 3."),
        (("--memory", "4"), "--memory was not given and is 4."),
        (("--no-line-search",), "--line-search was not given and is no."),
        (
            ("--optimizer", "adam", "--tv-weight", "0"),
            "--optimizer was not given and is adam; --tv",
        ),
        (("--colour", "chroma"), "--colour was not given and is chroma."),
        (("--style-layers", "relu1_1"), "--style-layers was not given and is relu1_1."),
        (("--pooling", "max"), "--pooling was not given and is max."),
        (("--init", "noise"), "--init was not given and is noise."),
        (("--scales", "1"), "--scales was 2 and is 1."),
        (("--preset", "crowsonkb"), "--preset was default and is crowsonkb"),
        (("--content-mask", "{folder}/mask.png"), "--content-mask was not given and is"),
        (("--weights", "{folder}/other.h5"), "--weights was"),
        (("--animation", "a.gif"), "--animation or its --animation-every is not what it was"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_other_options_are_refused_by_name(run, folder, finished, monkeypatch, options, message):
    monkeypatch.setattr(transfer, "iterate", refuse)
    options = [option.format(folder=folder) for option in options]
    status, said = run("--checkpoint", "kept", "--resume", *options)
    assert status == 2 and said.count("\n") == 1 and said.startswith("error: --resume: ")
    assert message in said and "Another run is saved in kept: give what it had, or begin" in said


def test_another_photo_is_refused_by_name(run, folder, finished):
    other = images.load(folder / "photo.png").image
    other[0, 0] = 1 - other[0, 0]
    images.save("other.png", other)
    status, said = run("--checkpoint", "kept", "--resume", photo="other.png")
    assert status == 2 and "PHOTO was" in said and "and is other.png." in said
    before = saves.latest(finished)
    words = {**before.words, "photo": "other.png"}
    saves.write(finished, before._replace(words=words))
    status, said = run("--checkpoint", "kept", "--resume", photo="other.png")
    assert status == 2 and "PHOTO is not what it was, though it has the same name" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resume",), "--resume works with --checkpoint FOLDER only; name the run's folder"),
        (("--checkpoint-every", "5"), "--checkpoint-every 5 works with --checkpoint only"),
        (("--checkpoint", "a", "--checkpoint-every", "-1"), "--checkpoint-every -1 must be"),
        (("--checkpoint", "a", "--checkpoint-every", "nan"), "--checkpoint-every nan must be"),
        (("--checkpoint", "nowhere", "--resume"), "--resume: no run is saved in nowhere; leave"),
        (("--checkpoint", ".", "--resume"), "--resume: no run is saved in .; leave --resume out"),
        (("--checkpoint", "{folder}/photo.png"), "photo.png is no folder; choose another name"),
        (("--checkpoint", "{folder}/photo.png/run"), "photo.png is no folder; choose another"),
    ],
)
def test_wrong_options_get_one_line_before_anything_is_read(
    run, folder, monkeypatch, options, message
):
    monkeypatch.setattr(images, "load", refuse)
    status, said = run(*(option.format(folder=folder) for option in options))
    assert status == 2 and said.count("\n") == 1 and message in said
    assert not Path("a").exists()


def test_a_run_is_not_overwritten(run, finished):
    status, said = run("--checkpoint", "kept")
    assert status == 2 and said.count("\n") == 1
    assert "--checkpoint kept has a run already, at scale 2, step 3; add --resume to go on" in said


def test_folders_without_rights_or_room_are_refused_before_the_run(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: os.path.basename(path) != "locked")
        patch.setattr(images, "load", refuse)
        Path("locked").mkdir()
        status, said = run("--checkpoint", "locked/run")
        assert status == 2 and "--checkpoint locked/run cannot be written; choose" in said
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(saves.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(transfer, "iterate", refuse)
    status, said = run("--checkpoint", "kept")
    # Three of the last scale's state: 32x23 in L-BFGS's memory of 20, twice, and three more.
    assert status == 2 and said.count("\n") == 1
    assert "--checkpoint cannot save in kept: the saves of this run want 1.1 MB" in said


def test_a_save_that_fails_is_told_and_the_run_goes_on(run, monkeypatch):
    write = saves.write

    def full(folder, save):
        if save.place and save.place[:2] == (1, 1):
            raise OSError("cannot use kept (No space left on device); see to its disk")
        write(folder, save)

    monkeypatch.setattr(saves, "write", full)
    status, said = run("--checkpoint", "kept", "--checkpoint-every", "0")
    assert (status, said.count("\n")) == (0, 1)
    assert said.startswith("not saved: cannot use kept (No space left")
    assert saves.latest("kept").place[:2] == (1, 3)


@pytest.mark.parametrize("option", [("--checkpoint", "kept"), ("--resume",)])
def test_other_commands_have_no_checkpoints(folder, tmp_path, monkeypatch, capsys, option):
    monkeypatch.chdir(tmp_path)
    pair = [str(folder / "photo.png"), str(folder / "painting.png"), "-o", "out.png"]
    assert cli.main(["grid", *pair, "--vary", "steps=1,2", *option]) == 2
    assert f"{option[0]} works with one picture only, not with grid" in capsys.readouterr().err
    assert cli.main(["figure", *pair, *option]) == 2


def test_killed_at_random_moments(folder, tmp_path, monkeypatch, capsys):
    """The script that is run with 50 by hand, here with two."""
    monkeypatch.setenv("STYLEJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    small = ["--weights", str(folder / "narrow.h5"), "--size", "32", "--steps", "2"]
    few = ["--kills", "2", "--seconds", "5", "--", *small, "--scales", "1"]
    assert kill_and_resume.main(few) == 0
    said = capsys.readouterr().out
    assert "2 kills, each within 5.0 s" in said and "the same" in said and "ANOTHER" not in said


def test_the_program_in_the_document_runs(folder, tmp_path, monkeypatch):
    """Twice: the second time it has nothing left to do."""
    monkeypatch.chdir(tmp_path)
    text = (SCRIPTS.parent / "docs" / "long_runs.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    block = block.replace("stylejax.Config()", "stylejax.Config(steps=1, scales=2, smallest=20)")
    params = weights.load(weights.resolve(folder / "narrow.h5"))
    photo = images.load(folder / "photo.png").image[:24, :32]
    names = {"params": params, "photo": photo, "painting": photo[::-1]}
    traces = []
    for _ in range(2):
        exec(compile(block, "long_runs.md", "exec"), names)
        traces.append(record.by_scale(names["trace"]))
    assert [len(scale.taken) for scale in traces[1]] == [2, 2]
    for mine, its in zip(*map(jax.tree.leaves, traces), strict=True):
        np.testing.assert_array_equal(mine, its)
