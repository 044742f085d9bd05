"""The command line, used as a person would use it, on a narrow random network."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

import stylejax
from stylejax import cli, display, images, options, plan, record, weights
from stylejax.presets import DEFAULT

SCRIPT = Path(__file__).parents[1] / "scripts" / "stylize.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, paintings and narrow weights with VGG-19's layers."""
    folder = tmp_path_factory.mktemp("cli")
    narrow = stylejax.Architecture((1, 2, 2, 2, 2), (4, 4, 6, 6, 6))
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
        argv += ["--weights", str(folder / "narrow.h5"), "--size", "32"]
        argv += [] if "--scale-steps" in options else ["--steps", "2"]
        argv += [] if "--scale-sizes" in options else ["--scales", "1"]
        status = cli.main([*argv, *map(str, options)])
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


def test_small_programs_are_kept_too(run, tmp_path):
    """And from the first on, which is that of a picture being resized."""
    compilation_cache.reset_cache()  # its folder was that of the test before
    assert run("--size", "31")[0] == 0
    kept = [file.name for file in (tmp_path / "cache" / "compiled").iterdir()]
    assert {"jit__resize", "jit__picture"} <= {name.split("-")[0] for name in kept}


def test_photorealism(run):
    status, said, output = run("--photorealism", "100", "--record")
    assert status == 0 and "photorealism" in said
    written = json.loads(output.with_suffix(".json").read_text())
    assert written["config"]["photorealism"] is True
    assert written["loss_weights"]["photorealism"] == 100
    assert all(value > 0 for value in written["history"][0]["photorealism"])
    _, _, output = run("--photorealism", "0", "--record")
    written = json.loads(output.with_suffix(".json").read_text())
    assert written["config"]["photorealism"] is False
    status, said, _ = run("--photorealism", "-1")
    assert status == 2 and "--photorealism" in said


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
    assert written["loss_weights"]["tv"] == DEFAULT.loss_weights.tv
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


def test_a_quick_precision_brings_a_search_that_knows_of_it(run):
    for precision, noise in (("default", 1e-3), ("high", 0)):
        _, _, output = run("--precision", precision, "--record")
        record = json.loads(output.with_suffix(".json").read_text())
        assert record["config"]["optimizer"]["noise"] == noise


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
        ("--memory-dtype", "bfloat16", "--memory", "3"),
        ("--optimizer", "jaxopt-lbfgsb"),
        ("--pooling", "max", "--padding", "zero", "--precision", "default"),
        ("--init", "mix:0.3", "--tv-weight", "0.1", "--content-weight", "2"),
        ("--content-layers", "relu4_2:1.0,relu5_2:0.5", "--style-layers", "conv1_1,pool2:3"),
        ("--style-scale", "0.8", "--device", "cpu"),
        ("--scale-sizes", "24,36,48", "--scale-steps", "3,2,1", "--no-line-search"),
        ("--optimizer", "adam", "--carry", "--clamp", "--scale-sizes", "32"),
        ("--optimizer", "adam", "--no-carry", "--no-clamp"),
        ("--style-statistic", "mean-std+sliced:0.5,relu4_1:patches", "--optimizer", "adam"),
        ("--style-statistic", "wasserstein", "--style-layers", "relu2_1"),
        ("--colour", "luminance", "--colour-space", "srgb", "--colour-strength", "0.5"),
        ("--color", "histogram", "--init", "noise", "--optimizer", "adam"),
        ("--pooling", "max-ceil", "--tv-form", "nine-point", "--init", "grey"),
        ("--dream-layers", "relu3_1,relu4_1", "--dream-weight", "3", "--pooling", "l2"),
        ("--normalise-gradients", "--no-line-search", "--preset", "neural-style"),
        ("--preset", "crowsonkb", "--style-layers", "relu2_1,relu3_2", "--optimizer", "lbfgs"),
    ],
    ids=" ".join,
)
def test_options(run, options):
    status, said, output = run("--size", "48", *options)
    assert status == 0, said
    assert images.load(output).image.shape == (34, 48, 3)


def drawn(folder):
    """Masks and maps for the photo and the paintings."""
    left = np.zeros((40, 56, 3))
    left[:, :28] = 1
    images.save(folder / "left.png", left)
    images.save(folder / "large.png", np.kron(left, np.ones((2, 2, 1))))
    images.save(folder / "white.png", np.ones((40, 56, 3)))
    colours = np.array([[1.0, 0, 0], [0, 0, 1.0]])
    images.save(folder / "map.png", colours[left[:, :, 0].astype(int)])
    images.save(folder / "map48.png", np.repeat(np.kron(colours, np.ones((20, 1)))[None], 48, 0))
    images.save(folder / "blue.png", np.broadcast_to(colours[1], (36, 36, 3)).copy())
    corner = np.zeros((40, 56, 3))
    corner[0, 0] = 1
    images.save(folder / "corner.png", corner)


BOTH = ("painting.png", "other.png")


@pytest.mark.parametrize(
    ("options", "paintings"),
    [
        ("--mask left.png --mask rest --region-weights 1,2", BOTH),
        ("--mask large.png --content-mask left.png", BOTH[:1]),
        ("--style-mask all --style-mask left.png --style-blend-weights 2,1", BOTH),
        ("--labels map.png --style-labels map48.png --style-labels blue.png", BOTH),
        ("--style-blend-weights 1,0/relu5_1:0,1", BOTH),
    ],
)
def test_regions(run, folder, options, paintings):
    drawn(folder)
    words = [folder / w if w.endswith(".png") else w for w in options.split()]
    status, said, output = run(*words, "--record", paintings=paintings)
    assert status == 0, said
    assert said.count("large.png is 112x80, the photo 56x40; it is resized") == ("large" in options)
    written = json.loads(output.with_suffix(".json").read_text())
    files = {Path(w).name for w in options.split() if w.endswith(".png")}
    assert files <= {item["file"] for item in written["inputs"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--mask left.png", "--mask is given 1 times for 2 paintings"),
        ("--mask left.png --mask white.png", "left.png and --mask"),
        ("--mask rest --mask rest", "--mask rest is given twice"),
        ("--mask alpha --mask rest", "--mask alpha: the photo has no transparency"),
        ("--mask corner.png --mask rest", "corner.png vanishes at relu2_1, which has 16x11"),
        ("--mask left.png --mask nowhere.png", "nowhere.png"),
        ("--mask left.png --mask rest --region-weights 1", "1 numbers for 2 regions (--mask"),
        ("--mask left.png --mask rest --style-blend-weights 1,1", "each has its own painting"),
        ("--region-weights 1,2", "--region-weights works with --mask or --labels only"),
        ("--style-labels map.png", "--style-labels belongs to --labels"),
        ("--labels map.png --mask rest", "--labels works without --mask"),
        ("--labels map.png --style-labels map48.png", "once for each of 2 paintings"),
        (
            "--labels map.png --style-labels blue.png --style-labels blue.png",
            "the colour #ff0000 of --labels",
        ),
        ("--style-blend-weights 1,0/relu5_2:0,1", "--style-blend-weights relu5_2 is no style"),
        ("--style-blend-weights 1,0/relu5_1:1", "relu5_1:1 has 1 numbers for 2 paintings"),
    ],
)
def test_wrong_regions_get_one_line(run, folder, options, message):
    drawn(folder)
    words = [folder / w if w.endswith(".png") else w for w in options.split()]
    status, said, output = run(*words, paintings=BOTH)
    assert status == 2 and said.count("\n") == 1 and said.startswith("error: ")
    assert message in said.replace(f"{folder}/", "") and not output.exists()


def test_masks_are_inputs_that_are_not_written_over(folder, capsys):
    drawn(folder)
    mask = str(folder / "left.png")
    argv = [str(folder / "photo.png"), str(folder / "painting.png"), "--mask", mask, "-o", mask]
    assert cli.main(argv) == 2 and "is one of the inputs" in capsys.readouterr().err


def test_presets_weigh_other_layers_as_their_own(run):
    options = ("--preset", "crowsonkb", "--record", "--style-layers")
    written = json.loads(run(*options, "relu2_2,relu5_1")[2].with_suffix(".json").read_text())
    assert written["loss_weights"]["style_layers"] == {"relu2_2": 64 / 341, "relu5_1": 1 / 341}
    written = json.loads(run(*options, "relu2_2:3,relu5_2")[2].with_suffix(".json").read_text())
    assert written["loss_weights"]["style_layers"] == {"relu2_2": 3, "relu5_2": 1}


def test_init_file_and_blend(run, folder):
    options = ("--init", folder / "other.png", "--style-blend-weights", "2,1")
    status, said, _ = run(*options, paintings=("painting.png", "other.png"))
    assert status == 0, said


def test_one_style_at_two_scales(run):
    """The same painting twice; scale and weight each."""
    twice = ("painting.png", "painting.png")
    options = ("--size", "48", "--style-scale", "1,0.6", "--style-blend-weights", "2,1", "--record")
    status, said, output = run(*options, paintings=twice)
    assert status == 0, said
    written = json.loads(output.with_suffix(".json").read_text())
    assert written["config"]["style_scale"] == [1.0, 0.6]
    both = images.load(output).image
    one = images.load(run("--size", "48", out="one.png")[2]).image
    assert np.abs(both - one).max() > 0.01
    status, said, _ = run("--style-scale", "1,1,1", paintings=twice)
    assert status == 2 and "--style-scale 1,1,1 has 3 numbers for 2 paintings" in said


def test_lists_show_in_lines_and_previews(run):
    """The plan of the run is the list's: its steps, its sizes, the whole done at the end."""
    _, said, output = run(
        "--size", "48", "--scale-sizes", "28,40", "--scale-steps", "3,1,2", "--save-every", "2"
    )
    for line in ("scale 1/3 28x20  step 3/3", "scale 2/3 40x28  step 1/1", "scale 3/3 48x34"):
        assert line in said
    assert sorted(p.name for p in output.parent.glob("out_*.png")) == [
        f"out_{n:05}.png" for n in (2, 4, 6)
    ]


def test_the_clock_counts_listed_steps():
    """A step counts by its pixels, at every scale its own."""
    config = stylejax.Config(scale_sizes=(20, 30), steps_per_scale=(4, 1, 2))
    clock = display.Clock(config, 20, 40)
    assert clock.pixels == [10 * 20, 15 * 30, 20 * 40] and clock.steps == [4, 1, 2]
    assert clock.total == 4 * 200 + 450 + 2 * 800
    at = SimpleNamespace(scale=2, step=1)
    assert clock.done(at) == (4 * 200 + 450 + 800) / clock.total
    at = SimpleNamespace(scale=2, step=2)
    assert clock.done(at) == 1


def test_lists_and_rules_replace_the_presets():
    """A rule given where the preset has a list, a list where it has a rule."""
    silent = dict.fromkeys(
        ("steps", "coarse_steps", "scales", "smallest", "scale_sizes", "scale_steps", "carry")
    )

    def changed(config, **given):
        changes = options.pyramid(silent | given, config.optimizer, config)
        return dataclasses.replace(config, **changes)

    listed = stylejax.Config(
        scale_sizes=(64, 128), steps_per_scale=(9, 4, 2), optimizer=stylejax.Adam(), carry=True
    )
    ruled = stylejax.Config(scales=3, smallest=64, steps=5, coarse_steps=7)
    assert changed(listed) == listed and changed(ruled) == ruled
    found = changed(listed, scales=2, steps=8)
    assert (found.scales, found.scale_sizes) == (2, None)
    assert (found.steps, found.steps_per_scale) == (8, None)
    assert changed(listed, coarse_steps=3).steps_per_scale is None
    assert changed(listed, smallest=50).scale_sizes is None
    found = changed(ruled, scale_sizes=(64,), scale_steps=(2, 1))
    assert (found.scales, found.scale_sizes) == (None, (64,))
    assert (found.coarse_steps, found.steps_per_scale) == (None, (2, 1))
    assert not changed(listed, carry=False).carry
    # A preset that carries Adam's moments does not stand in the way of another optimizer.
    assert options.pyramid(silent, stylejax.Lbfgs(), listed) == {"carry": False}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", "8"), "content is 8x6 pixels; relu5_1 needs at least 16x16"),
        (("--size", "0"), "--size 0 must be 1 or more"),
        (("--steps", "0"), "--steps is 0"),
        (("--steps", "many"), "'--steps': 'many' is not a whole number"),
        (("--style-scale", "big"), "'--style-scale': 'big' is not a number"),
        (("--scales", "9"), "take at most"),
        (("--style-scale", "1,big"), "'--style-scale': 'big' is not a number"),
        (("--style-scale", "1,0.5"), "--style-scale 1,0.5 has 2 numbers for 1 paintings; give one"),
        (("--scale-sizes", "24,32,64"), "--scale-sizes ends with 64, but the picture is 32x23"),
        (("--scale-sizes", "8,32"), "--scale-sizes starts with 8, a picture of 8x6; relu5_1 needs"),
        (("--scale-sizes", "28,24"), "--scale-sizes is (28, 24); each scale must be larger"),
        (("--scale-sizes", "0,24"), "--scale-sizes is (0, 24)"),
        (("--scale-sizes", "24;32"), "'--scale-sizes': '24;32' is not a whole number"),
        (("--scale-sizes", "24", "--scales", "2"), "--scale-sizes and --scales are both given"),
        (("--scale-sizes", "24", "--smallest", "9"), "--scale-sizes and --smallest are both given"),
        (("--scale-steps", "1,2"), "--scale-steps has 2 numbers for 1 scales"),
        (("--scale-steps", "0"), "--scale-steps is (0,)"),
        (("--scale-steps", "1", "--steps", "2"), "--scale-steps and --steps are both given"),
        (("--scale-steps", "1", "--coarse-steps", "2"), "--scale-steps and --coarse-steps are"),
        (("--carry",), "--carry takes Adam: what Lbfgs remembers belongs to one size"),
        (("--clamp",), "--clamp works with --optimizer adam only"),
        (("--optimizer", "adam", "--no-line-search"), "--no-line-search works with --optimizer lb"),
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
        (("--tv-form", "round"), "--tv-form 'round' is unknown; choose squares or absolute or"),
        (("--dream-weight", "1"), "--dream-weight works with --dream-layers only"),
        (("--dream-layers", "relu4_1:2"), "--dream-layers takes names only"),
        (("--dream-layers", "relu4_9"), "unknown layer 'relu4_9'"),
        (("--dream-layers", "relu4_1", "--dream-weight", "-1"), "--dream-weight"),
        (("--normalise-gradients",), "--normalise-gradients needs an optimizer without a line"),
        (("--optimizer", "sgd"), "--optimizer 'sgd' is unknown; choose lbfgs or adam"),
        (("--learning-rate", "1"), "--learning-rate 1 works with --optimizer adam only"),
        (("--optimizer", "adam", "--memory", "3"), "--memory 3 works with --optimizer lbfgs"),
        (
            ("--memory-dtype", "half"),
            "--memory-dtype 'half' is unknown; choose float32 or bfloat16",
        ),
        (
            ("--optimizer", "jaxopt-lbfgs", "--memory-dtype", "bfloat16"),
            "--memory-dtype bfloat16 works with --optimizer lbfgs only",
        ),
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
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["loss_weights"]["tv"] == 0.5  # so small; more of it from 128 pixels on
    written = written["weights"]
    assert written["network"] == "slim" and "not on this machine" in written["instead"]
    with Image.open(tmp_path / "out.png") as image:
        assert json.loads(image.text["stylejax"])["weights"] == written
    more = ["--network", "slim", "--tv-weight", "0.5"]
    assert cli.main([*argv, str(tmp_path / "a.png"), *more]) == 0
    assert "instead" not in capsys.readouterr().err
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["loss_weights"]["tv"] == 0.5
    assert cli.main([*argv, str(tmp_path / "b.png"), "--network", "vgg19"]) == 2
    assert "vgg19.h5" in capsys.readouterr().err
    assert cli.main([*argv, str(tmp_path / "c.png"), "--style-layers", "relu3_3"]) == 2
    assert "this network has relu1_1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("side", "given", "changes", "tv"),
    [
        (1000, {}, {}, 2.0),
        (320, {}, {}, 1.25),
        (512, {"tv_weight": 0.5}, {}, 0.5),
        (512, {"preset": "crowsonkb"}, {}, 0.5),
        (512, {}, {"style_layers": ()}, 0.5),  # a reconstruction
    ],
)
def test_the_built_in_network_s_style_is_smoothed(side, given, changes, tv):
    preset = DEFAULT._replace(config=dataclasses.replace(DEFAULT.config, **changes))
    given = {"preset": "default", "tv_weight": None, **given}
    slim = weights.load(weights.SLIM)
    assert plan._smooth(given, preset, slim, side).loss_weights.tv == tv
    tapless = {layer: arrays for layer, arrays in slim.items() if "relu" not in layer}
    assert plan._smooth(given, preset, tapless, side) == preset


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
