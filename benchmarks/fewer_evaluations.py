"""After how many evaluations ours has the loss that L-BFGS on pixels has after 100.

python benchmarks/fewer_evaluations.py --photos FOLDER --paintings FOLDER [--size 256]
    [--evaluations 100 [300 ...]] [--pairs 6] [--rivals scipy full]
    [--draft 0] [--draft-cost 0.125]

Default objective, VGG-19, one scale, from the photo. The rivals work on pixels: SciPy's L-BFGS-B
with ours' memory, and L-BFGS without a line search, memory 100, which is PyTorch's to rounding
(tests/test_full_steps.py) and what neural-style-pt does. A rival's loss is its lowest so far. No
times.

With ``--draft N`` ours starts from N steps of the built-in network, at the same one scale, whose
evaluations count as so much of one of VGG-19's each.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from itertools import islice, product
from pathlib import Path

import numpy as np
from against_scipy import our_curve, scipy_curve
from history_dtype import fitted
from slim import listed

from stylejax import Config, Lbfgs, iterate, vgg, weights
from stylejax.canvas import PIXELS
from stylejax.scale import at_hand

RIVALS = ("scipy", "full")
FULL_STEPS = Lbfgs(memory=100, line_search=False)


def reached(curve: Sequence[float], loss: float) -> float:
    """Evaluations until a curve is as low; infinite where it never is."""
    return next((n for n, value in enumerate(curve, 1) if value <= loss), float("inf"))


def drafted_curve(
    params: vgg.Params, content: np.ndarray, style: np.ndarray, n: int, *, steps: int, cost: float
) -> list[float]:
    """As ``our_curve`` from a draft, whose evaluations come first, each as ``cost`` of one."""
    small = vgg.fold_taps(weights.load(weights.SLIM))
    *_, draft = iterate(small, content, [style], config=Config(scales=1, steps=steps))
    before = math.ceil(cost * draft.evaluations)
    config = Config(scales=1, steps=n)
    ours = our_curve(params, content, style, config, n, init=draft.image)
    return [math.inf] * before + ours


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line per pair and the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--paintings", type=Path, nargs="+", required=True)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[100])
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=RIVALS)
    parser.add_argument("--draft", type=int, default=0, help="steps of the built-in network before")
    parser.add_argument("--draft-cost", type=float, default=0.125, help="of an evaluation")
    arguments = parser.parse_args(argv)
    params = at_hand(weights.load(weights.resolve()))
    files = product(listed(arguments.photos), listed(arguments.paintings))
    most, asked = max(arguments.evaluations), arguments.evaluations
    found: dict[tuple[str, int], list[float]] = {}
    print("ours as low as the rival after", asked, "evaluations, and the rival's loss there")
    for photo, painting in islice(files, arguments.pairs):
        pictures = fitted(photo, arguments.size), fitted(painting, arguments.size)
        config = Config(scales=1, steps=most)
        if arguments.draft:
            named = dict(steps=arguments.draft, cost=arguments.draft_cost)
            ours = drafted_curve(params, *pictures, most, **named)
        else:
            ours = our_curve(params, *pictures, config, most)
        plain = Config(scales=1, steps=most, canvas=PIXELS)
        full = Config(scales=1, steps=most, canvas=PIXELS, optimizer=FULL_STEPS)
        rivals = {}
        if "scipy" in arguments.rivals:
            rivals["SciPy"] = scipy_curve(params, *pictures, plain, most)
        if "full" in arguments.rivals:
            rivals["full steps"] = our_curve(params, *pictures, full, most)
        row = []
        for (name, curve), n in product(rivals.items(), asked):
            loss = min(curve[:n])
            needed = reached(ours, loss)
            found.setdefault((name, n), []).append(needed)
            row.append(f"{name} {needed:3.0f} ({loss:.4f})")
        print(f"{photo.stem}, {painting.stem}:", ", ".join(row), flush=True)
    for (name, n), values in found.items():
        print(f"median against {name} after {n}: {statistics.median(values):.0f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
