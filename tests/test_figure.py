"""``stylejax figure`` on a narrow random network: what its cells are, and what is kept."""

import csv
import json

import jax
import numpy as np
import pytest
from PIL import Image

import stylejax
from stylejax import cli, commands, display, figure, images, job, scale, weights

LAYERS = "relu1_1,relu2_1,relu3_1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A photo, a painting and narrow weights with VGG-19's layers."""
    folder = tmp_path_factory.mktemp("figure")
    narrow = stylejax.Architecture((1, 2, 2, 2, 2), (4, 4, 6, 6, 6))
    params = jax.tree.map(np.asarray, stylejax.random_params(jax.random.key(0), narrow))
    weights.save(folder / "narrow.h5", params, weights.Origin("random"))
    noise = np.random.default_rng(0)
    for name, size in {"photo": (40, 56), "painting": (48, 40)}.items():
        images.save(folder / f"{name}.png", noise.random((*size, 3)))
    return folder


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch, quick_compilation):
    """A cache and a folder of its own."""
    monkeypatch.setenv("STYLEJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def words(folder, tmp_path):
    """Of a small figure in the default preset, which takes any network."""
    inputs = [str(folder / "photo.png"), str(folder / "painting.png")]
    files = ["-o", str(tmp_path / "out.png"), "--weights", str(folder / "narrow.h5")]
    small = ["--preset", "default", "--size", "24", "--steps", "2", "--scales", "1"]
    return [*inputs, *files, *small, "--style-layers", LAYERS, "--content-layers", "relu2_2"]


def without_content_layers(words):
    return words[:-2]


def table(output):
    with open(output.with_suffix(".csv"), newline="") as file:
        return list(csv.DictReader(file))


def test_figure_3(words, tmp_path, capsys):
    assert cli.main(["figure", *words, "--ratios", "1e-2, 0.5"]) == 0
    assert "6 of 6 pictures" in capsys.readouterr().err
    rows = table(tmp_path / "out.png")
    labels = [(row["row"], row["column"]) for row in rows]
    assert labels[:3] == [
        ("A relu1_1", "alpha/beta 1e-2"),
        ("A relu1_1", "alpha/beta 0.5"),
        ("B to relu2_1", "alpha/beta 1e-2"),
    ]
    assert [row["layers"] for row in rows[::2]] == [
        "relu1_1", "relu1_1 relu2_1", "relu1_1 relu2_1 relu3_1"
    ]  # fmt: skip
    for row in rows:
        parts = sum(float(row[name]) for name in ("content", "style", "tv"))
        assert parts == pytest.approx(float(row["loss"]), rel=1e-5)
    with Image.open(tmp_path / "out.png") as sheet:
        origin = json.loads(sheet.text["stylejax"])
        assert sheet.width > 2 * 24 and sheet.height > 3 * 17
    assert origin["command"][:2] == ["stylejax", "figure"] and origin["figure"] == 3
    assert [i["file"] for i in origin["inputs"]] == ["photo.png", "painting.png"]


def plan(words):
    app = commands.sharing(cli.command, figure._own, without=figure._WITHOUT, help="", example="")
    return figure.plan(commands.parse(app, words))


def test_a_layer_of_weight_0_is_as_good_as_none(words, tmp_path):
    """A cell is the run whose config has only the layers that count."""
    planned = plan([*words, "--ratios", "0.1"])
    shared = planned.job
    for cell in planned.cells[:2]:
        own = shared._replace(preset=shared.preset._replace(loss_weights=cell.loss_weights))
        made, _ = job.make(own, lambda progress: None, lambda: False)
        config = stylejax.Config(
            content_layers=("relu2_2",), style_layers=cell.layers, steps=2, scales=1
        )
        expected = stylejax.stylize(
            shared.params, shared.content, shared.styles, config=config,
            loss_weights=stylejax.LossWeights(content=2.0, style=20.0, tv=0.5),
        )  # fmt: skip
        np.testing.assert_allclose(made.picture, expected.image, rtol=0, atol=1e-3)
        assert made.trace[-1].loss == pytest.approx(
            float(expected.history[-1].terms.total[-1]), rel=1e-4
        )


def test_figure_1(words, tmp_path):
    words = without_content_layers(words)
    planned = plan([*words, "--figure", "1"])
    assert planned.job.preset.config.noise == 1
    assert planned.rows == ("content of one layer", "style up to it")
    assert planned.columns == ("original", "a relu1_1", "b relu2_1", "c relu3_1")
    content, style = planned.cells[1], planned.cells[4]
    assert (content.row, content.column, content.layers) == (0, 2, ("relu2_1",))
    assert content.loss_weights.style == 0
    assert content.loss_weights.content_layers == {"relu1_1": 0, "relu2_1": 1, "relu3_1": 0}
    assert (style.row, style.column, style.layers) == (1, 2, ("relu1_1", "relu2_1"))
    assert style.loss_weights.content == 0
    assert style.loss_weights.style_layers == {"relu1_1": 0.5, "relu2_1": 0.5, "relu3_1": 0}
    assert cli.main(["figure", *words, "--figure", "1", "-q"]) == 0
    assert len(table(tmp_path / "out.png")) == 6


def test_one_program_makes_all_cells(words, monkeypatch):
    planned, traced = plan([*words, "--ratios", "0.1,1,10"]), []
    evaluate = scale.evaluate

    def counting(*arguments):
        traced.append(1)
        return evaluate(*arguments)

    monkeypatch.setattr(scale, "evaluate", counting)
    jax.clear_caches()
    counts = []
    for cell in planned.cells[:4]:
        preset = planned.job.preset._replace(loss_weights=cell.loss_weights)
        job.make(planned.job._replace(preset=preset), lambda progress: None, lambda: False)
        counts.append(len(traced))
    assert counts[0] > 0 and len(set(counts)) == 1


def test_ctrl_c_keeps_what_is_done(words, tmp_path, monkeypatch, capsys):
    planned, steps = plan([*words, "--ratios", "0.1"]), []

    def stop_asked():
        steps.append(1)
        return len(steps) == 5  # in the second of three cells; each has a start and two steps

    done = []
    assert not figure._make(planned, done, display.console(), stop_asked)
    assert len(done) == 1
    figure._write(planned, done, 1.0)
    assert len(table(tmp_path / "out.png")) == 1
    assert json.loads(Image.open(tmp_path / "out.png").text["stylejax"])["pictures"] == 1


def test_a_network_that_meets_nan_is_told(words, tmp_path, monkeypatch, capsys):
    real = weights.load

    def poisoned(path):
        params = real(path)
        params["conv3_1"] = jax.tree.map(lambda a: a * np.nan, params["conv3_1"])
        return params

    monkeypatch.setattr(weights, "load", poisoned)
    assert cli.main(["figure", *words, "--ratios", "0.1", "-q"]) == 1
    assert "3 of them stalled or met NaN" in capsys.readouterr().err
    assert {row["status"] for row in table(tmp_path / "out.png")} == {"non_finite"}


REFUSED = {
    "another figure": (("--figure", "2"), "--figure 2 is not one of the figures 1 and 3"),
    "figure 1's ratios": (("--figure", "1", "--ratios", "1"), "--ratios works with --figure 3"),
    "figure 1's content": (("--figure", "1"), "--content-layers works with --figure 3 only"),
    "a ratio that is none": (("--ratios", "1,x"), "--ratios 'x' must be a number from 0 on"),
    "no ratio": (("--ratios", ""), "--ratios '' must be a number"),
    "weights of layers": (("--style-layers", "relu1_1:2"), "have equal shares"),
    "no layers": (("--style-layers", ""), "--style-layers is empty"),
    "unknown preset": (("--preset", "none"), "--preset 'none' is unknown"),
    "unknown layer": (("--style-layers", "relu9_9"), "unknown layer 'relu9_9'"),
    "a picture's option": (("--style-weight", "3"), "--style-weight"),
    "too small": (("--size", "8", "--style-layers", "relu5_1"), "needs at least 16x16"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_wrong_inputs_get_one_line(words, tmp_path, capsys, fault):
    more, message = REFUSED[fault]
    assert cli.main(["figure", *words, *more]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: ") and message in said
    assert not (tmp_path / "out.png").exists() and not (tmp_path / "out.csv").exists()
