"""Measures the mean activations behind Gatys' normalisation over a folder of photographs.

python scripts/measure_activations.py PHOTOS [--weights FILE] [--count N]

writes stylejax/data/vgg19_mean_activations.npz.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stylejax import images, normalisation, weights

TABLE = Path(__file__).parents[1] / "stylejax" / "data" / "vgg19_mean_activations.npz"


def photographs(folder: Path, count: int) -> Iterator[np.ndarray]:
    """The first ``count`` JPEGs in order of their names."""
    for path in sorted(folder.glob("*.jpg"))[:count]:
        yield images.load(path).image


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--count", type=int, default=900)
    arguments = parser.parse_args(argv)
    params = weights.load(weights.resolve(arguments.weights))
    means = normalisation.mean_activations(params, photographs(arguments.folder, arguments.count))
    TABLE.parent.mkdir(exist_ok=True)
    means["first_responses"] = normalisation.first_responses(params)
    np.savez_compressed(TABLE, **means)  # type: ignore[arg-type]
    print(f"{TABLE.name}: {sum(m.size for m in means.values())} filters")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
