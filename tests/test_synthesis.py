"""``texture`` and ``reconstruct``, used as a person would, on a narrow random network."""

import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

import stylejax
from stylejax import cli, images, weights

COMMANDS = ("texture", "reconstruct", "figure")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A photo, two paintings and narrow weights of eight layers."""
    folder = tmp_path_factory.mktemp("synthesis")
    narrow = stylejax.Architecture((1, 1, 2, 2, 2), (4, 4, 6, 6, 6))
    params = jax.tree.map(np.asarray, stylejax.random_params(jax.random.key(0), narrow))
    weights.save(folder / "narrow.h5", params, weights.Origin("random"))
    noise = np.random.default_rng(0)
    for name, size in {"photo": (40, 56), "painting": (48, 40), "other": (36, 36)}.items():
        images.save(folder / f"{name}.png", noise.random((*size, 3)))
    return folder


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch, quick_compilation):
    """A cache and a folder of its own."""
    monkeypatch.setenv("STYLEJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(folder, tmp_path, capsys):
    """Runs a command with small settings; returns status, standard error and the output."""

    def run(name, *words, inputs=("painting.png",)):
        argv = [name, *(str(folder / i) for i in inputs), "-o", str(tmp_path / "out.png")]
        argv += ["--weights", str(folder / "narrow.h5"), "--steps", "2", *map(str, words)]
        status = cli.main(argv)
        return status, capsys.readouterr().err, tmp_path / "out.png"

    return run


def test_a_texture_is_drawn_by_a_map(run, folder):
    """A doodle without a photo: the map's colours say where what of the painting goes."""
    colours = np.array([[1.0, 0, 0], [0, 0, 1.0]])
    images.save(folder / "map.png", colours[np.arange(48)[None] // 24 * np.ones((32, 1), int)])
    images.save(folder / "its.png", colours[np.arange(40)[None] // 20 * np.ones((48, 1), int)])
    words = ("--labels", folder / "map.png", "--style-labels", folder / "its.png", "--record")
    status, said, output = run("texture", "--size", "48x32", *words)
    assert status == 0, said
    assert images.load(output).image.shape == (32, 48, 3)
    written = json.loads(output.with_suffix(".json").read_text())
    assert [i["file"] for i in written["inputs"]] == ["painting.png", "map.png", "its.png"]
    assert written["loss_weights"]["styles"] == [[1], [1]]
    status, said, _ = run("texture", "--size", "48x32", "--content-mask", folder / "map.png")
    assert status == 2 and "--content-mask" in said


def test_a_texture_has_any_size(run, folder):
    status, said, output = run("texture", "--size", "40x24", "--record")
    assert status == 0, said
    with Image.open(output) as image:
        assert image.size == (40, 24)
        inside = json.loads(image.text["stylejax"])
    written = json.loads(output.with_suffix(".json").read_text())
    assert inside == {key: value for key, value in written.items() if key != "history"}
    assert written["command"][:3] == ["stylejax", "texture", str(folder / "painting.png")]
    assert [i["file"] for i in written["inputs"]] == ["painting.png"]
    assert written["config"]["content_layers"] == [] and written["config"]["noise"] == 1
    assert written["config"]["padding"] == "replicate-all"
    assert written["history"][-1]["content"] == {}


def test_the_seed_is_what_a_texture_begins_with(run):
    pictures = [
        np.asarray(Image.open(run("texture", "--size", "32", "-q", "--seed", seed)[2]))
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert pictures[0].shape == (32, 32, 3) and np.any(pictures[0] != pictures[2])


def test_a_seamless_texture_of_two_paintings(run, folder):
    paintings = ("painting.png", "other.png")
    status, said, output = run(
        "texture", "--size", "48x32", "--seamless", "--record", "--style-blend-weights", "2,1",
        "--scales", 2, "--init", folder / "photo.png", inputs=paintings,
    )  # fmt: skip
    assert status == 0, said
    written = json.loads(output.with_suffix(".json").read_text())
    assert written["config"]["padding"] == "circular"
    assert [s["width"] for s in written["history"]] == [32, 48]
    assert written["loss_weights"]["styles"] == [2.0, 1.0]


def test_padding_circular_rounds_a_photo_s_size(folder, tmp_path):
    """In the main command, where a photo has the sides it has."""
    argv = [folder / "photo.png", folder / "painting.png", "-o", tmp_path / "out.png", "-q"]
    argv += ["--weights", folder / "narrow.h5", "--padding", "circular", "--size", 50]
    assert cli.main([*map(str, argv), "--steps", "1", "--scales", "1"]) == 0
    assert images.load(tmp_path / "out.png").image.shape == (32, 48, 3)


def test_a_reconstruction(run, folder):
    status, said, output = run(
        "reconstruct", "--layers", "relu1_1:2,relu3_1:1", "--size", "32", "--record",
        "--steps", "20", inputs=("photo.png",),
    )  # fmt: skip
    assert status == 0, said
    written = json.loads(output.with_suffix(".json").read_text())
    assert (written["width"], written["height"]) == (32, 23)
    assert written["command"][1] == "reconstruct"
    assert [i["file"] for i in written["inputs"]] == ["photo.png"]
    assert written["config"]["style_layers"] == []
    assert written["loss_weights"]["content_layers"] == {"relu1_1": 2.0, "relu3_1": 1.0}
    (only,) = written["history"]  # one scale: a smaller one would know more of the photo
    assert only["style"] == {} and only["total"][-1] < only["total"][0] / 2


REFUSED = {
    "no size": ("texture", ("--size", "big"), "--size 'big' is no size such as 512 or 768x512"),
    "no width": ("texture", ("--size", "0x64"), "--size '0x64' is no size"),
    "three sides": ("texture", ("--size", "64x64x3"), "--size '64x64x3' is no size"),
    "too small": ("texture", ("--size", "8"), "8x8 pixels; relu5_1 needs at least 16x16"),
    "no whole tile": (
        "texture",
        ("--size", "50x33", "--seamless"),
        "50x33 pixels; with padding 'circular' and relu5_1 both are multiples of 16: take 48x32",
    ),
    "a texture from its photo": ("texture", ("--init", "content"), "--init content wants a photo"),
    "a photo mixed in": ("texture", ("--init", "mix:0.5"), "--init mix:0.5 wants a photo"),
    "a texture's content": ("texture", ("--content-layers", "relu4_2"), "--content-layers"),
    "no style layers": ("texture", ("--style-layers", ""), "nothing to optimise"),
    "no layers": ("reconstruct", (), "Missing option '--layers'"),
    "unknown layer": ("reconstruct", ("--layers", "relu9_9"), "unknown layer 'relu9_9'"),
    "empty layers": ("reconstruct", ("--layers", ""), "nothing to optimise"),
    "a reconstruction's style": ("reconstruct", ("--style-weight", "3"), "--style-weight"),
    "no scales": ("reconstruct", ("--layers", "relu1_1", "--scales", "x"), "'x' is not a whole"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_wrong_inputs_get_one_line(run, fault):
    name, words, message = REFUSED[fault]
    status, said, output = run(name, *words)
    assert status == 2 and said.count("\n") == 1 and said.startswith("error: ")
    assert message in said and not output.exists()


def test_a_missing_painting_and_an_input_as_output(run, folder, capsys):
    status, said, _ = run("texture", inputs=("nowhere.png",))
    assert status == 2 and said.count("\n") == 1 and "nowhere.png" in said
    painting = str(folder / "painting.png")
    assert cli.main(["texture", painting, "-o", painting]) == 2
    assert "is one of the inputs" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_own_and_shared_options(name, capsys):
    assert cli.main([name, "--help"]) == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert f"Usage: stylejax {name}" in text and f"Example: stylejax {name}" in text
    assert "--tv-weight" in text and "--network" in text and "--content-weight" not in text
    own = {"texture": "--seamless", "reconstruct": "--layers", "figure": "--ratios"}
    for command, option in own.items():
        assert (option in text) == (command == name)


@pytest.mark.parametrize("name", COMMANDS)
def test_version_and_nothing_at_all(name, capsys):
    assert cli.main([name, "--version"]) == 0
    assert capsys.readouterr().out.strip() == f"stylejax {stylejax.__version__}"
    assert cli.main([name, "-q"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
