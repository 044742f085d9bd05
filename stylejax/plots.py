"""The loss of a run as curves, one per term; matplotlib draws them and is imported on demand."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stylejax import record
from stylejax.files import replacing
from stylejax.scale import History
from stylejax.transfer import Progress

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# For all kinds of colour vision (Okabe and Ito 2008); dashes and labels tell the same.
_KINDS: dict[str, dict[str, Any]] = {
    "total": {"color": "#000000", "linewidth": 2.2},
    "content": {"color": "#D55E00", "linestyle": (0, (5, 1.5))},
    "tv": {"color": "#777777", "linestyle": (0, (1, 1.2))},
}
_OTHER = {"color": "#CC79A7", "linestyle": (0, (5, 1.5, 1, 1.5))}


class Curve(NamedTuple):
    """One term of the objective along a run.

    Attributes:
      term: ``total``, ``content``, ``style``, ``tv``: a field of ``LossTerms``.
      layer: of the network, or "" for a term that has none.
      values: ``[n]`` float64, weighted, as they add up to the total.
    """

    term: str
    layer: str
    values: np.ndarray

    @property
    def label(self) -> str:
        """As a reader would call it."""
        return f"{self.term} {self.layer}".strip()


class Curves(NamedTuple):
    """A run's terms over its evaluations.

    Attributes:
      evaluations: ``[n]`` int64, of the objective at all scales so far, with that of the row.
      ends: the last of each scale.
      terms: the total first, then every term or layer of a term.
    """

    evaluations: np.ndarray
    ends: tuple[int, ...]
    terms: tuple[Curve, ...]


def curves(run: Sequence[History] | Sequence[Progress] | Sequence[record.Entry]) -> Curves:
    """A run's rows as curves, the scales one after the other.

    Args:
      run: the ``history`` of a ``Result``, or everything that ``iterate`` yielded; that has the
        start of each scale as well, which no step has made.

    Raises:
      ValueError: there are no rows, or each has more than one number (of a ``vmap``).
    """
    scales = _scales(run)
    if not scales or any(np.ndim(history.taken) != 1 for history in scales):
        shapes = ", ".join(str(np.shape(history.taken)) for history in scales) or "nothing"
        raise ValueError(
            f"a history has one row per step at each scale, got {shapes}; "
            "of a vmapped run take one: jax.tree.map(lambda a: a[0], result.history)"
        )
    columns: dict[tuple[str, str], list[np.ndarray]] = {}
    evaluations, ends = [], [0]
    for history in scales:
        # A row that no step has made is the start, or repeats the one before it.
        rows = np.flatnonzero(np.asarray(history.taken) | (np.arange(len(history.taken)) == 0))
        for term, value in history.terms._asdict().items():
            by_layer = value if isinstance(value, Mapping) else {"": value}
            for layer, column in by_layer.items():
                column = np.asarray(column, np.float64)[rows]
                columns.setdefault((term, layer), []).append(column)
        evaluations.append(ends[-1] + np.asarray(history.evaluations, np.int64)[rows])
        ends.append(int(evaluations[-1][-1]))
    terms = tuple(Curve(*name, np.concatenate(parts)) for name, parts in columns.items())
    return Curves(np.concatenate(evaluations), tuple(ends[1:]), terms)


def losses(
    run: Sequence[History] | Sequence[Progress] | Sequence[record.Entry],
    *,
    labels: Sequence[str] = (),
) -> "Figure":
    """Every term of the loss over the evaluations, on a logarithmic axis.

    A term that is 0 everywhere has no curve. pyplot is not used, so nothing global changes;
    ``figure.savefig`` writes it.

    Args:
      run: as for ``curves``.
      labels: what to write above each scale; where it is empty and ``run`` knows them, the sizes.

    Raises:
      ValueError: as ``curves``; or another number of labels than scales.
      ModuleNotFoundError: there is no matplotlib.
    """
    drawn = curves(run)
    labels = labels or _sizes(run)
    if labels and len(labels) != len(drawn.ends):
        raise ValueError(f"{len(labels)} labels for {len(drawn.ends)} scales; give one each")
    check()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_yscale("log", nonpositive="mask")
    axes.set_xlabel("evaluations of the objective")
    axes.set_ylabel("terms of the loss, weighted")
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    shown = [curve for curve in drawn.terms if np.any(_positive(curve.values))]
    for curve, style in zip(shown, _styles(shown), strict=True):
        axes.plot(drawn.evaluations, curve.values, label=curve.label, **style)
    _limit(axes, drawn.evaluations, shown)
    _mark_scales(axes, drawn.ends, labels)
    _name_curves(axes, shown)
    return figure


def save(path: str | os.PathLike[str], figure: "Figure") -> None:
    """Writes a figure as PNG, whole or not at all.

    Raises:
      OSError: the file system refuses.
    """
    with replacing(path) as file:
        figure.savefig(file, format="png")


def check() -> None:
    """Raises ModuleNotFoundError where there is no matplotlib, without importing it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("needs matplotlib: pip install matplotlib")


def _scales(run: Any) -> tuple[History, ...]:
    if all(isinstance(item, History) for item in run):
        return tuple(run)
    return record.by_scale(run)


def _sizes(run: Any) -> list[str]:
    """The size of the picture at each scale, as far as the run knows it."""
    sizes = {}
    for item in run:
        if isinstance(item, Progress):
            sizes[item.scale] = "{1}x{0}".format(*item.image.shape)
        elif isinstance(item, record.Entry):
            sizes[item.scale] = f"{item.width}x{item.height}"
    return list(sizes.values())


def _positive(values: np.ndarray) -> np.ndarray:
    """Where a logarithmic axis has a place for them."""
    return np.isfinite(values) & (values > 0)


def _styles(shown: Sequence[Curve]) -> list[dict[str, Any]]:
    """Of each curve; the layers of the style from dark, the first, to light."""
    from matplotlib import colormaps

    layers = [curve.layer for curve in shown if curve.term == "style"]
    shades = dict(zip(layers, colormaps["viridis"](np.linspace(0, 0.75, len(layers))), strict=True))
    return [
        {"color": shades[curve.layer]} if curve.term == "style" else _KINDS.get(curve.term, _OTHER)
        for curve in shown
    ]


def _limit(axes: "Axes", evaluations: np.ndarray, shown: Sequence[Curve]) -> None:
    """From the lowest curve to the highest; a start at the photo has next to no content loss."""
    axes.set_xlim(0, evaluations[-1] + 1)
    if shown:
        values = [curve.values[_positive(curve.values)] for curve in shown]
        low = min(np.quantile(some, 0.1) for some in values)
        axes.set_ylim(low / 2, max(some.max() for some in values) * 1.5)


def _mark_scales(axes: "Axes", ends: Sequence[int], labels: Sequence[str]) -> None:
    for end in ends[:-1]:
        axes.axvline(end + 0.5, color="0.6", linewidth=0.8, zorder=0.5)
    begins = [0, *ends[:-1]]
    for begin, end, label in zip(begins, ends, labels, strict=False):
        if (end - begin) / ends[-1] * 100 > len(label):  # else it would run into the next one
            axes.annotate(
                label,
                ((begin + end) / 2, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                color="0.4",
                fontsize="small",
            )


def _name_curves(axes: "Axes", shown: Sequence[Curve]) -> None:
    """Each curve's name to the right of its end, none on another."""
    ends = {c.label: c.values[_positive(c.values)][-1] for c in shown}
    names = sorted(ends, key=lambda name: float(ends[name]))
    low, high = np.log(axes.get_ylim())
    wanted = [(np.log(ends[name]) - low) / (high - low) for name in names]
    lines = {line.get_label(): line for line in axes.get_lines()}
    for name, height in zip(names, _apart(np.clip(wanted, 0, 1), 0.05), strict=True):
        axes.annotate(
            name,
            (1, np.clip((np.log(ends[name]) - low) / (high - low), 0, 1)),
            xycoords="axes fraction",
            xytext=(1.04, height),
            textcoords="axes fraction",
            va="center",
            color=lines[name].get_color(),
            arrowprops={
                "arrowstyle": "-",
                "color": lines[name].get_color(),
                "linewidth": 0.7,
                "relpos": (0, 0.5),
            },
        )


def _apart(places: np.ndarray, gap: float) -> np.ndarray:
    """Increasing places in [0, 1] moved to be ``gap`` apart, or as far as there is room for.

    >>> _apart(np.array([0.0, 0.0, 0.9]), 0.1).round(3).tolist()
    [0.0, 0.1, 0.9]
    """
    if len(places) < 2:
        return places
    steps = min(gap, 1 / (len(places) - 1)) * np.arange(len(places))
    up = np.maximum.accumulate(places - steps) + steps
    down = np.minimum.accumulate((places - steps)[::-1])[::-1] + steps
    # A crowd stays where it was on the whole, but for the room that those at the edges need.
    return np.clip((up + down) / 2, steps, 1 - steps[::-1])
