"""How good is the built-in network? Both networks make the same pictures; VGG-19 judges them.

python benchmarks/slim.py --photos FOLDER --paintings FOLDER [--size 256] [--pairs 12]

The same run (default preset) is made with both, from the photo, by the built-in network with the
total variation that the command takes for it. VGG-19's objective judges the photo and both
pictures; ``share`` is slim's improvement over VGG-19's. ``grain`` is the mean square of what a 3x3
blur takes away, slim's over VGG-19's. ``correlation`` is that of slim's loss with VGG-19's along
slim's run at the last scale (logarithms).
"""

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from stylejax import images, weights
from stylejax.objective import evaluate, make_targets
from stylejax.presets import DEFAULT, distilled_variation, prepare
from stylejax.scale import style_size
from stylejax.transfer import iterate

CONFIG, WEIGHTS = DEFAULT.config, DEFAULT.loss_weights


class Run(NamedTuple):
    """A finished run: the picture, some on the way, the loss at each, seconds per step."""

    image: np.ndarray
    on_the_way: list[np.ndarray]
    losses: list[float]
    seconds_per_step: float


def render(params: Any, loss_weights: Any, photo: np.ndarray, painting: np.ndarray) -> Run:
    """The default run, watched every five steps of the last scale."""
    pictures, losses, times = [], [], []
    for progress in iterate(
        params, photo, [painting], config=CONFIG, loss_weights=loss_weights, every=5
    ):
        if progress.scale == progress.scales - 1:
            pictures.append(progress.image)
            losses.append(float(progress.terms.total))
            times.append(time.perf_counter())
    # The first chunk compiles.
    return Run(pictures[-1], pictures, losses, float(np.median(np.diff(times)[1:])) / 5)


def judge(full: Any, photo: np.ndarray, painting: np.ndarray) -> Any:
    """VGG-19's objective as a function of the picture."""
    size = style_size(painting.shape, (photo.shape[0], photo.shape[1]), CONFIG)
    style = images.resize(painting, *size)
    targets = jax.jit(partial(make_targets, config=CONFIG))(full, photo, [style], WEIGHTS)
    loss = jax.jit(lambda image: evaluate(image, full, targets, WEIGHTS, CONFIG)[0])
    return lambda image: float(loss(image))


def grain(image: np.ndarray) -> float:
    """Mean square of the difference to a 3x3 mean."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), "edge")
    h, w = image.shape[:2]
    mean = sum(padded[i : i + h, j : j + w] for i in range(3) for j in range(3)) / 9
    return float(np.mean((image - mean) ** 2))


def compare(full: Any, slim: Any, photo: np.ndarray, painting: np.ndarray) -> dict[str, Any]:
    """Both runs of one pair, and the numbers."""
    theirs = render(full, WEIGHTS, photo, painting)
    smoother = WEIGHTS._replace(tv=distilled_variation(max(photo.shape)))
    ours = render(slim, smoother, photo, painting)
    score = judge(full, photo, painting)
    untouched, best, reached = score(photo), score(theirs.image), score(ours.image)
    along = [score(image) for image in ours.on_the_way]
    return {
        "images": (theirs.image, ours.image),
        "photo": untouched,
        "vgg19": best,
        "slim": reached,
        "share": (untouched - reached) / (untouched - best),
        "grain": grain(ours.image) / grain(theirs.image),
        "correlation": float(np.corrcoef(np.log(along), np.log(ours.losses))[0, 1]),
        "faster": theirs.seconds_per_step / ours.seconds_per_step,
        "seconds per step": ours.seconds_per_step,
    }


def load(path: Path, size: int) -> np.ndarray:
    """An image whose long side is ``size``, enlarged if need be."""
    image = images.load(path).image
    shrink = size / max(image.shape[:2])
    height, width = (round(side * shrink) for side in image.shape[:2])
    return np.asarray(images.resize(image, height, width))


def listed(places: Sequence[Path]) -> list[Path]:
    """The JPEGs named, or those in a folder that is named."""
    return [file for each in places for file in (sorted(each.glob("*.jpg")) or [each])]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--paintings", type=Path, nargs="+", required=True)
    parser.add_argument("--zip", action="store_true", help="first with first, not all with all")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--weights", type=Path, help="VGG-19; found if not given")
    parser.add_argument("--slim", type=Path, default=weights.SLIM)
    parser.add_argument("--keep", type=Path, help="folder for the pictures and the numbers")
    options = parser.parse_args(argv)
    full = prepare(DEFAULT, weights.load(weights.resolve(options.weights)))
    slim = prepare(DEFAULT, weights.load(options.slim))
    both = zip if options.zip else product
    pairs = islice(both(listed(options.photos), listed(options.paintings)), options.pairs)
    rows = []
    for photo, painting in pairs:
        name = f"{photo.stem}-{painting.stem}"
        row = compare(full, slim, load(photo, options.size), load(painting, options.size))
        pictures = row.pop("images")
        print(name, "  ".join(f"{k} {v:.3g}" for k, v in row.items()), flush=True)
        rows.append({"pair": name, "size": options.size, **row})
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            sheet = np.concatenate(pictures, axis=1)
            images.save(options.keep / f"{name}-{options.size}.png", sheet)
            path = options.keep / f"numbers-{options.size}.json"
            path.write_text(json.dumps(rows, indent=1))
    for column in ("share", "grain", "correlation", "faster"):
        values = [row[column] for row in rows]
        print(f"{column}: median {np.median(values):.3f}, {min(values):.3f} to {max(values):.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
