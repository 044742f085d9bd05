"""--draft: the built-in network's picture, which a larger network's run then starts from."""

import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

import stylejax
from stylejax import Config, cli, colour, companions, images, iterate, job, plan, weights
from stylejax.presets import PRESETS

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A photo, a painting, and narrow weights with more layers than the built-in network's."""
    folder = tmp_path_factory.mktemp("draft")
    narrow = stylejax.Architecture((1, 2, 2, 2, 2), (4, 4, 6, 6, 6))
    params = jax.tree.map(np.asarray, stylejax.random_params(jax.random.key(0), narrow))
    weights.save(folder / "narrow.h5", params, weights.Origin("random"))
    noise = np.random.default_rng(0)
    for name in ("photo", "painting"):
        images.save(folder / f"{name}.png", noise.random((40, 56, 3)))
    return folder


@pytest.fixture
def words(folder, tmp_path, monkeypatch):
    """The command line of a draft in a folder of its own; programs are compiled once for all."""
    monkeypatch.setenv("STYLEJAX_CACHE", str(folder / "cache"))
    monkeypatch.chdir(tmp_path)
    named = [str(folder / "photo.png"), str(folder / "painting.png"), "-o", "out.png", "--draft"]
    return [*named, "--weights", str(folder / "narrow.h5"), "--size", "48", "--quiet", "--record"]


@pytest.fixture
def short(monkeypatch):
    """The draft, whose steps are the preset's, takes two at each of two scales."""
    own = plan._alone

    def few(given, kept):
        made = own(given, kept)
        if given["network"] != "slim":
            return made
        config = Config(steps=2, smallest=30)
        return made._replace(preset=made.preset._replace(config=config))

    monkeypatch.setattr(plan, "_alone", few)


def test_is_the_built_in_network_s_run_and_then_the_other_from_its_picture(words, short):
    planned = plan.plan(cli.parse([*words, "--steps", "3"]))
    assert planned.draft.network.origin.network == "slim" and planned.draft.draft is None
    assert cli.main([*words, "--steps", "3"]) == 0
    given = (planned.content, planned.styles)
    *_, first = iterate(
        planned.draft.params,
        *given,
        config=Config(steps=2, smallest=30),
        loss_weights=planned.draft.preset.loss_weights,
    )
    assert first.scales == 2
    *_, second = iterate(
        planned.params,
        *given,
        config=Config(steps=3, scales=1),
        loss_weights=planned.preset.loss_weights,
        init=np.clip(first.image, 0, 1),
    )
    found = images.load(Path("out.png")).image
    assert np.abs(found - np.clip(second.image, 0, 1)).max() < 0.51 / 255
    told = json.loads(Path("out.json").read_text())
    draft = told["draft"]
    assert draft["network"] == "slim" and draft["status"] == "running"
    assert draft["evaluations"] == first.evaluations
    assert np.isclose(draft["loss"], first.terms.total)
    assert told["evaluations"] == second.evaluations and told["seconds"] > draft["seconds"]
    assert len(told["history"]) == 1 and told["weights"]["file"] == "narrow.h5"


@pytest.mark.parametrize(
    ("more", "scales", "steps"),
    [
        ((), 1, [60]),
        (("--steps", "7"), 1, [7]),
        (("--scales", "2", "--steps", "7"), 2, [7, 7]),
        (("--scale-sizes", "40", "--scale-steps", "5,6"), 2, [5, 6]),
        (("--preset", "crowsonkb"), 1, [1000]),
    ],
)
def test_goes_on_at_the_last_scale_if_nobody_says_otherwise(words, more, scales, steps):
    planned = plan.plan(cli.parse([*words, *more]))
    config, size = planned.preset.config, planned.content.shape[:2]
    assert len(config.sizes(*size)) == scales
    assert [config.steps_at(n, scales) for n in range(scales)] == steps
    drafted, usual = planned.draft.preset.config, PRESETS[planned.given["preset"]].config
    assert (drafted.steps, drafted.scales) == (usual.steps, usual.scales)


def test_lets_the_other_run_put_the_photo_s_chroma_on(words):
    planned = plan.plan(cli.parse([*words, "--colour", "chroma"]))
    assert planned.draft.preset.config.colour is None
    assert planned.preset.config.colour.mode == colour.CHROMA
    planned = plan.plan(cli.parse([*words, "--colour", "symmetric"]))
    assert planned.draft.preset.config.colour == planned.preset.config.colour


def test_is_told_from_the_run_that_follows(words, short, capsys):
    words = [word for word in words if word != "--quiet"]
    assert cli.main([*words, "--steps", "2"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "scale" in line]
    assert lines[0].startswith("draft, scale 1/2 34x24")
    assert any(line.startswith("draft, scale 2/2 48x34") for line in lines)
    assert lines[-1].startswith("scale 1/1 48x34  step 2/2")


def stopped(monkeypatch, at):
    """Ctrl-C comes when so many steps were taken, of the draft or of the run."""
    preview = companions.preview

    def stop(given, progress, *, taken):
        if (taken, given["network"]) == at:
            os.kill(os.getpid(), signal.SIGINT)
        preview(given, progress, taken=taken)

    monkeypatch.setattr(companions, "preview", stop)


def test_a_draft_that_is_stopped_is_the_picture(words, short, monkeypatch, capsys):
    stopped(monkeypatch, (2, "slim"))
    assert cli.main([*words, "--steps", "3"]) == job.INTERRUPTED
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "interrupted at draft, scale 1/2 34x24" in said
    assert images.load(Path("out.png")).image.shape == (34, 48, 3)
    told = json.loads(Path("out.json").read_text())
    assert told["status"] == told["draft"]["status"] == "interrupted"


def test_a_run_that_goes_on_from_a_save_has_had_its_draft(words, short, monkeypatch, capsys):
    assert cli.main([*words, "--steps", "3"]) == 0
    whole = images.load(Path("out.png")).image
    saved = ("--checkpoint", "run", "--checkpoint-every", "0")
    with monkeypatch.context() as patch:
        stopped(patch, (1, "auto"))
        assert cli.main([*words, "--steps", "3", *saved]) == job.INTERRUPTED
    assert "--resume goes on from there" in capsys.readouterr().err
    made = job.make

    def once(own, *more, **named):
        assert own.network.origin.network != "slim"
        return made(own, *more, **named)

    monkeypatch.setattr(job, "make", once)
    assert cli.main([*words, "--steps", "3", *saved, "--resume"]) == 0
    assert np.array_equal(images.load(Path("out.png")).image, whole)
    assert json.loads(Path("out.json").read_text())["draft"] == {"network": "slim"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--network", "slim"), "this is it already"),
        (("--style-layers", "relu1_1,relu2_2"), "--draft by the built-in network: "),
        (("--steps", "0"), "--steps"),
    ],
)
def test_wrong_options_get_one_line(words, capsys, more, message):
    if "slim" in more:
        at = words.index("--weights")
        words = words[:at] + words[at + 2 :]
    assert cli.main([*words, *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and message in said
    assert not Path("out.png").exists()


def test_where_nothing_larger_can_be_had_there_is_no_draft(words, monkeypatch):
    monkeypatch.setattr(weights, "_places", lambda network: iter(()))
    monkeypatch.delenv("STYLEJAX_WEIGHTS", raising=False)
    at = words.index("--weights")
    planned = plan.plan(cli.parse([*words[:at], *words[at + 2 :], "--offline"]))
    assert planned.draft is None and planned.network.origin.network == "slim"
    assert planned.preset.config.scales is None


def test_is_for_one_picture(words, capsys):
    assert cli.main(["grid", *words, "--vary", "style-weight=1,2"]) == 2
    assert "--draft works with one picture only" in capsys.readouterr().err


def test_processes_meet_once(words, monkeypatch):
    joined = []
    for name in ("check", "watched"):
        monkeypatch.setattr(plan.hosts, name, lambda *given: None)
    monkeypatch.setattr(plan.hosts, "join", lambda *given: joined.append(given))
    planned = plan.plan(cli.parse([*words, "--hosts", "--coordinator", "localhost:1"]))
    assert planned.draft is not None and len(joined) == 1
