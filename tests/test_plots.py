"""Loss curves: what is drawn is the history, number by number."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from stylejax import Config, LossTerms, images, iterate, plots, record, stylize
from stylejax.scale import History

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = Config(
    content_layers=("relu2_2",), style_layers=("relu1_1", "relu3_1"), steps=3, smallest=14
)


def history(total, taken, evaluations, *, tv=0.0):
    """Of a scale with a content layer whose loss is half of the total and two style layers."""
    total = np.array(total, np.float32)
    terms = LossTerms(
        total=total,
        content={"relu4_2": total / 2},
        style={"relu1_1": total / 8, "relu2_1": total * 3 / 8},
        tv=np.full_like(total, tv),
        dream={},
        photorealism=np.zeros_like(total),
    )
    return History(terms, np.array(evaluations, np.int32), np.array(taken))


BY_HAND = (
    # The run ended after two steps; the rows that repeat the last one are no part of the curve.
    history([8, 4, 4], [True, True, False], [2, 5, 5]),
    # The first row is the start, which no step has made.
    history([16, 2], [False, True], [1, 2]),
)


def test_curves_by_hand():
    found = plots.curves(BY_HAND)
    assert found.evaluations.tolist() == [2, 5, 6, 7]
    assert found.ends == (5, 7)
    total, content, first, second, tv, realism = found.terms
    assert realism.label == "photorealism" and not realism.values.any()
    assert (total.label, content.label, tv.label) == ("total", "content relu4_2", "tv")
    assert (first.label, second.label) == ("style relu1_1", "style relu2_1")
    assert total.values.tolist() == [8, 4, 16, 2]
    assert content.values.tolist() == [4, 2, 8, 1]
    assert second.values.tolist() == [3, 1.5, 6, 0.75]
    assert tv.values.tolist() == [0, 0, 0, 0]


@pytest.fixture(scope="module")
def runs(tiny, quick_runs):
    """The same run by both ways."""
    rng = np.random.default_rng(3)
    photo, painting = rng.random((2, 20, 24, 3), dtype=np.float32)
    progress = list(iterate(tiny, photo, [painting], config=CONFIG, every=2))
    result = stylize(tiny, photo, [painting], config=CONFIG)
    return progress, result


def test_both_ways_of_running_give_the_same_curves(runs):
    progress, result = runs
    whole, steps = plots.curves(progress), plots.curves(result.history)
    scales = len(result.history)
    assert scales > 1 and whole.ends == steps.ends
    assert whole.ends[-1] == result.evaluations == progress[-1].evaluations
    # Handed over step by step, a run has the start of each scale besides.
    starts = np.searchsorted(whole.evaluations, [0, *whole.ends[:-1]], side="right")
    assert len(starts) == scales
    for one, other in zip(whole.terms, steps.terms, strict=True):
        assert one.label == other.label
        np.testing.assert_allclose(np.delete(one.values, starts), other.values, rtol=1e-5)
    np.testing.assert_array_equal(np.delete(whole.evaluations, starts), steps.evaluations)
    parts = np.sum([curve.values for curve in whole.terms[1:]], axis=0)
    np.testing.assert_allclose(parts, whole.terms[0].values, rtol=1e-5)


def test_entries_of_the_record_have_the_same_curves(runs):
    progress, _ = runs
    entries = [record.entry(item) for item in progress]
    for one, other in zip(plots.curves(progress), plots.curves(entries), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_no_rows_or_rows_of_a_batch_are_refused():
    with pytest.raises(ValueError, match="got nothing"):
        plots.curves([])
    batch = jax.tree.map(lambda a: np.stack([a, a]), BY_HAND[1])
    with pytest.raises(ValueError, match=r"got \(2, 2\); of a vmapped run take one"):
        plots.curves([batch])


# The figure


def drawn(figure):
    """Label -> x and y of each curve, and the places of the vertical lines."""
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_data() for line in axes.get_lines()}
    curves = {label: data for label, data in lines.items() if not label.startswith("_")}
    return curves, [data[0][0] for label, data in lines.items() if label.startswith("_")]


def test_what_is_drawn_is_the_history(runs):
    pytest.importorskip("matplotlib")
    progress, _ = runs
    figure = plots.losses(progress)
    curves, ends = drawn(figure)
    wanted = plots.curves(progress)
    assert curves.keys() == {curve.label for curve in wanted.terms if curve.values.any()}
    for curve in (c for c in wanted.terms if c.label in curves):
        x, y = curves[curve.label]
        np.testing.assert_array_equal(x, wanted.evaluations)
        np.testing.assert_array_equal(y, curve.values)
    assert ends == [end + 0.5 for end in wanted.ends[:-1]]
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    texts = [text.get_text() for text in axes.texts]
    assert {*curves, "24x20"} <= {*texts}


def test_a_term_that_is_nothing_has_no_curve():
    pytest.importorskip("matplotlib")
    curves, ends = drawn(plots.losses(BY_HAND))
    assert "tv" not in curves and len(curves) == 4 and ends == [5.5]
    assert "tv" in drawn(plots.losses([history([1, 2], [True, True], [1, 2], tv=0.1)]))[0]


@pytest.mark.parametrize("total", [[np.nan, np.nan], [0, 0], [np.inf, 1], [3]])
def test_numbers_without_a_place_on_a_logarithmic_axis(total, tmp_path):
    pytest.importorskip("matplotlib")
    run = [history(total, [True] * len(total), range(1, len(total) + 1))]
    plots.save(tmp_path / "a.png", plots.losses(run))
    assert images.load(tmp_path / "a.png").image.std() > 0


def test_labels_of_scales():
    pytest.importorskip("matplotlib")
    (axes,) = plots.losses(BY_HAND, labels=("one", "two")).axes
    assert {"one", "two"} <= {text.get_text() for text in axes.texts}
    with pytest.raises(ValueError, match="1 labels for 2 scales"):
        plots.losses(BY_HAND, labels=("one",))


def test_names_never_lie_on_one_another(rng):
    for count in (1, 2, 9, 20, 40):
        places = np.sort(rng.random(count) ** 4)
        apart = plots._apart(places, 0.05)
        assert apart.min() >= 0 and apart.max() <= 1
        assert count == 1 or np.diff(apart).min() >= min(0.05, 1 / (count - 1)) - 1e-9
    np.testing.assert_allclose(plots._apart(np.array([0.5, 0.5]), 0.05), [0.475, 0.525])
    np.testing.assert_allclose(plots._apart(np.array([0.1, 0.5]), 0.05), [0.1, 0.5])


def test_the_file_is_a_picture_and_pyplot_is_left_alone(tmp_path):
    pytest.importorskip("matplotlib")
    code = """
import sys
import matplotlib
before = matplotlib.rcParams.copy()  # which, unlike dict(), does not ask for a backend
sys.path.insert(0, sys.argv[2])
from test_plots import BY_HAND
from stylejax import plots
plots.save(sys.argv[1], plots.losses(BY_HAND))
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    file = tmp_path / "plot.png"
    command = [sys.executable, "-c", code, str(file), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert images.load(file).image.shape == (660, 1080, 3)


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="needs matplotlib: pip install matplotlib"):
        plots.losses(BY_HAND)
