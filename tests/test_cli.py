"""The command line, used as a person would use it, on a narrow random network."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import stylejax
from stylejax import cli, images, record, weights
from stylejax.presets import DEFAULT

SCRIPT = Path(__file__).parents[1] / "scripts" / "stylize.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, paintings and narrow weights with VGG-19's layers."""
    folder = tmp_path_factory.mktemp("cli")
    narrow = stylejax.Architecture(stylejax.VGG19.blocks, (4, 4, 6, 6, 6))
    params = stylejax.random_params(jax.random.key(0), narrow)
    params = jax.tree.map(np.asarray, params)
    weights.save(folder / "narrow.h5", params, weights.Origin("random"))
    noise = np.random.default_rng(0)
    for name, (height, width) in {
        "photo": (40, 56),
        "painting": (48, 40),
        "other": (36, 36),
    }.items():
        images.save(folder / f"{name}.png", noise.random((height, width, 3)))
    return folder


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch, quick_compilation):
    """A cache and a folder of its own."""
    monkeypatch.setenv("STYLEJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(folder, tmp_path, capsys):
    """Runs the command with small settings; returns status, standard error and the output."""

    def run(*options, photo="photo.png", paintings=("painting.png",), out="out.png"):
        output = tmp_path / out
        argv = [str(folder / photo), *(str(folder / p) for p in paintings), "-o", str(output)]
        argv += ["--weights", str(folder / "narrow.h5"), "--size", "32", "--steps", "2"]
        argv += ["--scales", "1", *map(str, options)]
        status = cli.main(argv)
        return status, capsys.readouterr().err, output

    return run


def test_makes_a_picture(run):
    status, said, output = run()
    assert status == 0
    with Image.open(output) as image:
        assert image.size == (32, 23) and image.mode == "RGB"
        assert "stylejax" in image.text and image.info["icc_profile"]
    assert "out.png: 32x23" in said and "step 2/2" in said
    assert [p.name for p in output.parent.iterdir() if p.suffix != ""] == ["out.png"]


def test_same_command_same_bytes_and_other_seed_other_picture(run):
    first = run("--init", "noise", "--seed", 3, "-q")[2]
    pixels = np.asarray(Image.open(first))
    np.testing.assert_array_equal(
        np.asarray(Image.open(run("--init", "noise", "--seed", 3, "-q")[2])), pixels
    )
    other = np.asarray(Image.open(run("--init", "noise", "--seed", 4, "-q")[2]))
    assert np.any(other != pixels)


def test_quiet_prints_nothing(run, capsys):
    status, said, _ = run("--quiet")
    assert (status, said) == (0, "") and capsys.readouterr().out == ""


def test_record_and_metadata(run, folder):
    _, _, output = run(
        "--record", "--seed", 5, "--style-weight", "3.5", "--scales", "2", "--steps", "3",
        "--colour", "luminance", "--colour-strength", "0.5",
    )  # fmt: skip
    written = json.loads(output.with_suffix(".json").read_text())
    assert written["seed"] == 5 and written["loss_weights"]["style"] == 3.5
    used = written["config"]["colour"]
    assert (used["mode"]["photo"], used["space"]["encode"], used["strength"]) == (
        "fade",
        "to_oklab",
        0.5,
    )
    assert written["weights"]["sha256"] == record.file_digest(folder / "narrow.h5")
    assert [i["sha256"] for i in written["inputs"]] == [
        record.file_digest(folder / name) for name in ("photo.png", "painting.png")
    ]
    assert written["versions"]["jax"] == jax.__version__
    assert written["versions"]["stylejax"] == stylejax.__version__
    assert written["command"][0] == "stylejax" and "--record" in written["command"]
    assert [len(scale["total"]) for scale in written["history"]] == [4, 4]
    for scale in written["history"]:
        parts = np.sum([*scale["content"].values(), *scale["style"].values(), scale["tv"]], axis=0)
        np.testing.assert_allclose(parts, scale["total"], rtol=1e-5)
    with Image.open(output) as image:
        inside = json.loads(image.text["stylejax"])
    assert inside == {key: value for key, value in written.items() if key != "history"}


def test_the_record_names_statistics(run):
    options = "--record", "--style-layers", "relu1_1,relu4_1", "--style-statistic"
    _, _, output = run(*options, "gram+wasserstein:0.5")
    written = json.loads(output.with_suffix(".json").read_text())
    assert written["config"]["style_statistic"] == "relative gram + 0.5 relative wasserstein"
    _, _, output = run(*options, "mean-std,relu4_1:gram")
    written = json.loads(output.with_suffix(".json").read_text())
    assert written["config"]["style_statistic"] == [
        ["relu1_1", "relative mean-std"],
        ["relu4_1", "relative gram"],
    ]


def test_previews(run):
    _, _, output = run("--save-every", "2", "--steps", "4", "--scales", "2")
    names = sorted(p.name for p in output.parent.glob("*.png"))
    assert names == [*(f"out_{n:05}.png" for n in (2, 4, 6, 8)), "out.png"] or names == [
        "out.png",
        *(f"out_{n:05}.png" for n in (2, 4, 6, 8)),
    ]


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".avif"])
def test_formats(run, suffix):
    status, _, output = run(out=f"out{suffix}")
    assert status == 0 and images.load(output).image.shape == (23, 32, 3)


def test_transparency_is_put_back(run, folder):
    pixels = np.full((40, 56, 4), 200, np.uint8)
    pixels[..., 3] = 255
    pixels[:, :28, 3] = 0
    Image.fromarray(pixels).save(folder / "glass.png")
    _, _, output = run(photo="glass.png")
    with Image.open(output) as image:
        alpha = np.asarray(image)[..., 3]
    assert alpha[:, :12].max() == 0 and alpha[:, -12:].min() == 255


@pytest.mark.parametrize(
    "options",
    [
        ("--optimizer", "adam", "--average", "0.9", "--learning-rate", "0.05"),
        ("--optimizer", "jaxopt-lbfgs", "--memory", "5"),
        ("--optimizer", "jaxopt-lbfgsb"),
        ("--pooling", "max", "--padding", "zero", "--precision", "default"),
        ("--init", "mix:0.3", "--tv-weight", "0.1", "--content-weight", "2"),
        ("--content-layers", "relu4_2:1.0,relu5_2:0.5", "--style-layers", "conv1_1,pool2:3"),
        ("--style-scale", "0.8", "--device", "cpu"),
        ("--style-statistic", "mean-std+sliced:0.5,relu4_1:patches", "--optimizer", "adam"),
        ("--style-statistic", "wasserstein", "--preset", "gatys2015", "--style-layers", "relu2_1"),
        ("--colour", "luminance", "--colour-space", "srgb", "--colour-strength", "0.5"),
        ("--color", "histogram", "--init", "noise", "--optimizer", "adam"),
    ],
    ids=" ".join,
)
def test_options(run, options):
    status, said, output = run("--size", "48", *options)
    assert status == 0, said
    assert images.load(output).image.shape == (34, 48, 3)


def test_init_file_and_blend(run, folder):
    options = ("--init", folder / "other.png", "--style-blend-weights", "2,1")
    status, said, _ = run(*options, paintings=("painting.png", "other.png"))
    assert status == 0, said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", "8"), "content is 8x6 pixels; relu5_1 needs at least 16x16"),
        (("--size", "0"), "--size 0 must be 1 or more"),
        (("--steps", "0"), "--steps is 0"),
        (("--steps", "many"), "'--steps': 'many' is not a whole number"),
        (("--style-scale", "big"), "'--style-scale': 'big' is not a number"),
        (("--scales", "9"), "take at most"),
        (("--seed", "-1"), "--seed -1"),
        (("--style-scale", "0"), "--style-scale is 0"),
        (("--content-weight", "-1"), "--content-weight"),
        (("--style-weight", "nan"), "--style-weight"),
        (("--tv-weight", "inf"), "--tv-weight"),
        (("--style-layers", "relu9_9"), "unknown layer 'relu9_9'; this network has conv1_1"),
        (("--style-layers", "relu1_1:x"), "--style-layers relu1_1:"),
        (("--style-layers", "relu1_1,relu1_1"), "names relu1_1 twice"),
        (("--style-layers", "", "--content-layers", ""), "nothing to optimise"),
        (("--style-statistic", "gramm"), "--style-statistic 'gramm' is unknown; choose gram or"),
        (("--style-statistic", "gram+"), "--style-statistic '' is unknown"),
        (("--style-statistic", "gram:0"), "the weight of relative gram is 0.0"),
        (("--style-statistic", "gram:much"), "--style-statistic gram: 'much' must be a number"),
        (("--style-statistic", "gram,sliced"), "names two statistics for all layers"),
        (("--style-statistic", "relu1_2:gram"), "--style-statistic relu1_2 is none of the style"),
        (("--style-statistic", "relu1_1:gram,relu1_1:gram"), "names relu1_1 twice"),
        (("--style-statistic", "relu1_1"), "--style-statistic '' is unknown"),
        (("--style-blend-weights", "1,2"), "2 numbers for 1 paintings"),
        (("--style-blend-weights", "0"), "adds up to 0"),
        (("--pooling", "median"), "--pooling 'median' is unknown; choose avg or max"),
        (("--preset", "none"), "--preset 'none' is unknown; choose default or gatys2015"),
        (("--optimizer", "sgd"), "--optimizer 'sgd' is unknown; choose lbfgs or adam"),
        (("--learning-rate", "1"), "--learning-rate 1 works with --optimizer adam only"),
        (("--optimizer", "adam", "--memory", "3"), "--memory 3 works with --optimizer lbfgs"),
        (("--optimizer", "adam", "--average", "1"), "--average 1 must be at least 0 and less"),
        (("--colour", "green"), "--colour 'green' is unknown; choose none or cholesky"),
        (("--colour", "pca", "--colour-space", "cmyk"), "--colour-space 'cmyk' is unknown"),
        (("--colour", "pca", "--colour-strength", "2"), "--colour-strength is 2.0"),
        (("--colour", "pca", "--colour-strength", "nan"), "--colour-strength is nan"),
        (("--colour-strength", "0.5"), "--colour-strength 0.5 works with --colour cholesky or"),
        (("--colour", "none", "--colour-space", "srgb"), "--colour-space srgb works with"),
        (("--init", "mix:2"), "R is the share of noise"),
        (("--init", "nowhere.png"), "nowhere.png"),
        (("--device", "abacus"), "--device 'abacus' is unknown"),
        (("--weights", "nowhere.h5"), "nowhere.h5"),
        (("--save-every", "-1"), "--save-every -1"),
        (("--no-such-option",), "no-such-option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_options_get_one_line(run, options, message):
    status, said, output = run(*options)
    assert status == 2 and said.count("\n") == 1 and said.startswith("error: ")
    assert message in said and not output.exists()


def damaged(folder):
    whole = (folder / "photo.png").read_bytes()
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("not a picture")
    images.save(folder / "small.png", np.zeros((40, 10, 3)))


@pytest.mark.parametrize("name", ["missing.png", "empty.png", "cut.png", "text.png", "."])
@pytest.mark.parametrize("place", ["photo", "painting"])
def test_wrong_pictures_get_one_line(run, folder, name, place):
    damaged(folder)
    where = {"photo": name} if place == "photo" else {"paintings": (name,)}
    status, said, output = run(**where)
    assert status == 2 and said.count("\n") == 1 and said.startswith("error: ")
    assert Path(name).name in said and not output.exists()


def test_small_painting_is_refused(run, folder):
    damaged(folder)
    status, said, _ = run(paintings=("small.png",))
    assert status == 2 and "styles[0] is 10x40 pixels; relu5_1 needs at least 16x16" in said


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("out.xyz", ".xyz"),
        ("nowhere/out.png", "no folder"),
        ("../photo_is_not_here/out.png", "no folder"),
    ],
)
def test_wrong_outputs_get_one_line(run, out, message):
    status, said, _ = run(out=out)
    assert status == 2 and said.count("\n") == 1 and message in said


def test_an_input_is_never_overwritten(folder, capsys):
    photo = str(folder / "photo.png")
    before = Path(photo).read_bytes()
    assert cli.main([photo, str(folder / "painting.png"), "-o", photo]) == 2
    assert "is one of the inputs" in capsys.readouterr().err
    assert Path(photo).read_bytes() == before


def test_network_that_is_built_in(folder, tmp_path, capsys, monkeypatch):
    """Without a network and without weights there is a picture, and one line says why."""
    monkeypatch.setattr(weights, "_places", lambda network: iter(()))
    monkeypatch.delenv("STYLEJAX_WEIGHTS", raising=False)
    argv = [str(folder / "photo.png"), str(folder / "painting.png"), "--size", "32"]
    argv += ["--steps", "1", "--scales", "1", "--offline", "--record", "-o"]
    assert cli.main([*argv, str(tmp_path / "out.png")]) == 0
    said = capsys.readouterr().err
    assert said.count("built-in network") == 1
    written = json.loads((tmp_path / "out.json").read_text())["weights"]
    assert written["network"] == "slim" and "not on this machine" in written["instead"]
    with Image.open(tmp_path / "out.png") as image:
        assert json.loads(image.text["stylejax"])["weights"] == written
    assert cli.main([*argv, str(tmp_path / "a.png"), "--network", "slim"]) == 0
    assert "instead" not in capsys.readouterr().err
    assert cli.main([*argv, str(tmp_path / "b.png"), "--network", "vgg19"]) == 2
    assert "vgg19.h5" in capsys.readouterr().err
    assert cli.main([*argv, str(tmp_path / "c.png"), "--style-layers", "relu3_3"]) == 2
    assert "this network has relu1_1" in capsys.readouterr().err


def test_unknown_network(run):
    status, said, _ = run("--network", "vgg16")
    assert status == 2 and "--network 'vgg16' is unknown; choose auto or vgg19 or" in said


def test_wrong_weights_are_refused_and_the_old_picture_stays(run, folder, tmp_path):
    (tmp_path / "out.png").write_bytes(b"precious")
    (folder / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\nrubbish")
    status, said, output = run("--weights", folder / "broken.h5")
    assert status == 2 and said.count("\n") == 1
    assert output.read_bytes() == b"precious"


def test_a_run_that_meets_nan_keeps_a_picture_and_exits_with_1(run, folder, monkeypatch):
    real = weights.load

    def poisoned(path):
        params = real(path)
        params["conv3_1"] = jax.tree.map(lambda a: a * np.nan, params["conv3_1"])
        return params

    monkeypatch.setattr(weights, "load", poisoned)
    status, said, output = run()
    assert status == 1 and "NaN" in said
    assert np.all(np.isfinite(images.load(output).image))


def test_failing_to_write_harms_nothing(run, tmp_path, monkeypatch):
    (tmp_path / "out.png").write_bytes(b"precious")

    save, rescue = images.save, tmp_path / "rescue"
    rescue.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(rescue))

    def full(path, *arguments, **more):
        if path.parent != rescue:
            raise OSError("cannot write: No space left on device")
        save(path, *arguments, **more)

    monkeypatch.setattr(images, "save", full)
    status, said, output = run("--quiet")
    assert status == 2 and "No space left" in said and said.count("\n") == 1
    assert output.read_bytes() == b"precious"
    assert "the picture is in" in said
    assert images.load(rescue / "out.png").image.shape == (23, 32, 3)


def test_ctrl_c_keeps_the_picture_so_far(folder, tmp_path):
    output = tmp_path / "out.png"
    argv = [sys.executable, str(SCRIPT), str(folder / "photo.png"), str(folder / "painting.png")]
    argv += ["-o", str(output), "--weights", str(folder / "narrow.h5"), "--size", "64"]
    argv += ["--steps", "100000", "--scales", "2", "--record"]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=os.environ)
    line = process.stderr.readline()
    assert "step 0/" in line, line
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "interrupted at scale" in said and "out.png" in said and "Traceback" not in said
    assert images.load(output).image.shape == (46, 64, 3)
    assert json.loads(output.with_suffix(".json").read_text())["status"] == "interrupted"


def test_help_shows_the_library_defaults(capsys):
    assert cli.main(["--help"]) == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert f"(default: {DEFAULT.config.steps})" in text
    assert f"(default: {DEFAULT.loss_weights.style:g})" in text
    assert "--style-blend-weights" in text and "gatys2015" in text
    for name in cli.COMMANDS:
        assert f"stylejax {name}" in text


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"stylejax {stylejax.__version__}"


def test_missing_arguments(capsys):
    assert cli.main(["photo.png"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
