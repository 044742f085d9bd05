"""The loss after N evaluations of L-BFGS whose pairs are stored in float32 or in bfloat16.

python benchmarks/history_dtype.py PHOTO PAINTING [PHOTO PAINTING ...] [--size 128]

Default objective, VGG-19, one scale, from the photo. L-BFGS enlarges rounding from step to step, so
there is a third run to compare with: float32 from a photo that is 1e-6 brighter. What differs by no
more than those two is not an effect. No times.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from against_scipy import our_curve

from stylejax import Config, Lbfgs, images, weights

SHOWN = (25, 50, 100, 150)


def fitted(file: Path, size: int) -> np.ndarray:
    """The picture with a long side of ``size``."""
    image = images.load(file).image
    height, width = images.fit(image.shape[0], image.shape[1], size)
    return np.asarray(images.resize(image, height, width))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table per pair of pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--memories", nargs="+", type=int, default=[8, 20])
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args(argv)
    if len(arguments.pictures) % 2:
        parser.error("give photos and paintings in turns")
    params = weights.load(weights.resolve(arguments.weights))
    for file, other in zip(arguments.pictures[::2], arguments.pictures[1::2], strict=True):
        content, style = fitted(file, arguments.size), fitted(other, arguments.size)
        print(f"{file.stem}, {other.stem}\nmemory  pairs       " + "".join(f"{n:9}" for n in SHOWN))
        for memory in arguments.memories:
            for name, dtype, photo in (
                ("float32", "float32", content),
                ("bfloat16", "bfloat16", content),
                ("brighter", "float32", content * np.float32(1 + 1e-6)),
            ):
                optimizer = Lbfgs(memory=memory, memory_dtype=dtype)
                config = Config(scales=1, steps=SHOWN[-1], optimizer=optimizer)
                curve = our_curve(params, photo, style, config, SHOWN[-1])
                row = "".join(f"{curve[n - 1]:9.4f}" for n in SHOWN)
                print(f"{memory:6}  {name:10}  {row}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
