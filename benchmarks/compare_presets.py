"""Which preset makes the best picture in the same time? One sheet and one row of numbers a pair.

python benchmarks/compare_presets.py --photos FOLDER --paintings FOLDER --keep FOLDER
    [--size 512] [--presets default,gatys2015,...] [--statistics gram,wasserstein,...]

Every preset gets the processors' seconds that the first one takes with its own settings: the steps
of all its scales are multiplied by one factor, found from its run before, or for its first from a
trial of a quarter of the work. ``style`` is the squared Wasserstein distance at relu1_1, relu2_1,
..., relu5_1, relative to the painting's variance, its mean over layers; ``content`` the relative
squared error at relu4_2; both on the original VGG-19 with repeated borders. ``grain`` is the mean
square of what a 3x3 mean takes away.
``seconds`` are the processors', so that they hold beside other work too. Run again with the same
folder it goes on with the pairs that are missing.
"""

import argparse
import csv
import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from slim import grain, listed, load

from stylejax import images, options, weights
from stylejax.config import Config
from stylejax.objective import LossWeights, evaluate, make_targets
from stylejax.presets import PRESETS, Preset, prepare
from stylejax.scale import style_size
from stylejax.sheet import sheet
from stylejax.statistics import RELATIVE_WASSERSTEIN
from stylejax.transfer import iterate

# The part of a preset's work that is tried before its first run, to learn how long it takes.
TRIAL = 0.25
JUDGE = Config(style_statistic=RELATIVE_WASSERSTEIN)


class Score(NamedTuple):
    """How far a picture is from its painting's style and its photo's content."""

    style: float
    content: float
    grain: float


def work(config: Config, size: tuple[int, int]) -> float:
    """Evaluations times pixels that the steps of a run take, one evaluation a step."""
    sizes = config.sizes(*size)
    return sum(h * w * config.steps_at(i, len(sizes)) for i, (h, w) in enumerate(sizes))


def with_work(config: Config, size: tuple[int, int], wanted: float) -> Config:
    """The same run with its steps multiplied so that it takes as much work as is wanted."""
    factor = wanted / work(config, size)

    def times(steps: Any) -> Any:
        if isinstance(steps, tuple):
            return tuple(map(times, steps))
        return None if steps is None else max(1, round(steps * factor))

    names = [f.name for f in dataclasses.fields(config) if "steps" in f.name]
    return dataclasses.replace(config, **{name: times(getattr(config, name)) for name in names})


def judge(params: Any, photo: np.ndarray, painting: np.ndarray) -> Any:
    """The scores of a picture, as a function of it."""
    style = images.resize(painting, *style_size(painting.shape, photo.shape[:2], JUDGE))
    given = LossWeights(content=1.0, style=1.0)
    targets = jax.jit(partial(make_targets, config=JUDGE))(params, photo, [style], given)
    terms = jax.jit(lambda image: evaluate(image, params, targets, given, JUDGE)[1])

    def score(image: np.ndarray) -> Score:
        found = terms(np.clip(image, 0, 1))
        style, content = (float(sum(t.values())) for t in (found.style, found.content))
        return Score(style, content, grain(np.clip(image, 0, 1)))

    return score


class Run(NamedTuple):
    """A picture, and what it took."""

    image: np.ndarray
    evaluations: int
    seconds: float
    rate: float
    """Processors' seconds, all cores' together, per evaluation and pixel."""


def render(
    params: Any, preset: Preset, photo: np.ndarray, painting: np.ndarray, wanted: float
) -> Run:
    """A preset's picture with as many evaluations times pixels as wanted."""
    size = (photo.shape[0], photo.shape[1])
    config = with_work(preset.config, size, wanted)
    began = time.process_time()
    for progress in iterate(
        params,
        photo,
        [painting],
        config=config,
        loss_weights=preset.loss_weights,
        key=jax.random.key(0),
    ):
        last = progress
    seconds = time.process_time() - began
    return Run(last.image, last.evaluations, seconds, seconds / work(config, size))


def candidates(names: Sequence[str], statistics: Sequence[str]) -> dict[str, Preset]:
    """The presets, and the first one with other statistics."""
    found = {name: PRESETS[name] for name in names}
    first = PRESETS[names[0]]
    for name in statistics:
        config = dataclasses.replace(first.config, style_statistic=options.STATISTICS[name])
        found[f"{names[0]}, {name}"] = first._replace(config=config)
    return found


def earlier(table: Path) -> list[dict[str, Any]]:
    """The rows of pairs that are done."""
    if not table.exists():
        return []
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v if k in ("pair", "preset") else float(v) for k, v in row.items()} for row in rows]


def said(row: dict[str, Any]) -> str:
    """A row of numbers as text."""
    return "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--paintings", type=Path, nargs="+", required=True)
    parser.add_argument("--keep", type=Path, required=True, help="folder for sheets and numbers")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--presets", default="default,gatys2015,neural-style-pt,crowsonkb")
    parser.add_argument("--statistics", default="", help="of the first preset, to try besides")
    parser.add_argument("--weights", type=Path, help="VGG-19; found if not given")
    given = parser.parse_args(argv)
    given.keep.mkdir(parents=True, exist_ok=True)
    loaded = weights.load(weights.resolve(given.weights))
    tried = candidates(given.presets.split(","), [s for s in given.statistics.split(",") if s])
    first = next(iter(tried.values()))
    networks = {name: prepare(preset, loaded) for name, preset in tried.items()}
    pairs = islice(product(listed(given.photos), listed(given.paintings)), given.pairs)
    table = given.keep / "numbers.csv"
    rows = earlier(table)
    done = {row["pair"] for row in rows}
    rates: dict[str, float] = {}
    for photo_file, painting_file in pairs:
        title = f"{photo_file.stem}-{painting_file.stem}"
        if title in done:
            continue
        photo, painting = load(photo_file, given.size), load(painting_file, given.size)
        score = judge(loaded, photo, painting)
        given_work = work(first.config, (photo.shape[0], photo.shape[1]))
        pair: list[dict[str, Any]] = []
        pictures, labels = [photo, painting], ["photo", "painting"]
        for name, preset in tried.items():
            make = partial(render, networks[name], preset, photo, painting)
            if not pair:
                run = make(given_work)
                limit = run.seconds
            else:
                run = make(limit / (rates.get(name) or make(TRIAL * given_work).rate))
            rates[name] = run.rate
            row = {
                "pair": title,
                "preset": name,
                **score(run.image)._asdict(),
                "evaluations": run.evaluations,
                "seconds": round(run.seconds, 1),
            }
            print(said(row), flush=True)
            pair.append(row)
            pictures.append(np.clip(run.image, 0, 1))
            labels.append(f"{name}: style {row['style']:.3f}, content {row['content']:.3f}")
        rows += pair
        images.save(given.keep / f"{title}.png", sheet([pictures], columns=labels))
        with open(table, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    for name in tried:
        own = [row for row in rows if row["preset"] == name]
        columns = ("style", "content", "grain", "seconds")
        print(name, said({c: float(np.median([row[c] for row in own])) for c in columns}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
