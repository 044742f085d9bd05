"""Fetches a published VGG-19, or takes a copy you have, and converts it for stylejax.

python scripts/convert_weights.py                           fetch (80 MB), verify, convert
python scripts/convert_weights.py --network vgg19-torchvision   torchvision's own (575 MB)
python scripts/convert_weights.py --source FILE             convert a file: Keras, PyTorch, ...
python scripts/convert_weights.py --normalise FOLDER        Gatys' normalisation, over its images
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stylejax import checkpoints, convert, images, weights
from stylejax.matconvnet import read_matconvnet

LAYOUTS = {
    "keras": convert.read_keras,
    "torchvision": convert.read_torchvision,
    "jcjohnson": convert.read_jcjohnson,
    "adain": convert.read_adain,
    "matconvnet": read_matconvnet,
}
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".avif", ".bmp"}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Fetch a published VGG-19, verify it and convert it for stylejax."
    )
    parser.add_argument(
        "--network",
        choices=list(checkpoints.PUBLISHED),
        default="vgg19",
        help="which one: the original (the default) or torchvision's",
    )
    parser.add_argument("--source", type=Path, metavar="FILE", help="convert this file instead")
    parser.add_argument("-o", "--output", type=Path, help="default: weights/NETWORK.h5")
    parser.add_argument(
        "--allow-unverified",
        action="store_true",
        help="convert --source though its hash is unknown",
    )
    parser.add_argument(
        "--layout", choices=list(LAYOUTS), help="what a --source of unknown hash is laid out as"
    )
    parser.add_argument(
        "--normalise",
        type=Path,
        metavar="FOLDER",
        help="scale every filter to a mean activation of one over the images in FOLDER",
    )
    parser.add_argument("--offline", action="store_true", help="never fetch anything")
    parser.add_argument(
        "--manifest", action="store_true", help="print the known checkpoints as JSON, and stop"
    )
    return parser.parse_args(argv)


def default_output(options: argparse.Namespace) -> Path:
    """``weights/`` of the checkout this script lies in, else of the current folder."""
    checkout = Path(__file__).resolve().parents[1]
    home = checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
    name = Path(weights.FILE_NAMES[options.network])
    if options.normalise:
        name = name.with_stem(name.stem + "-normalised")
    return home / "weights" / name


def pictures(folder: Path) -> list[Path]:
    """The images of a folder in order of their names.

    Raises:
      ValueError: there are none.
    """
    found = sorted(each for each in folder.glob("*") if each.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"--normalise {folder}: no images there; name a folder of photographs")
    return found


def loaded(paths: Sequence[Path]) -> Iterator[np.ndarray]:
    """One image after the other, counted where somebody watches."""
    for number, path in enumerate(paths, start=1):
        if sys.stderr.isatty():
            print(f"\r{number}/{len(paths)} images", end="", file=sys.stderr, flush=True)
        yield images.load(path).image
    if sys.stderr.isatty():
        print(file=sys.stderr)


def obtain(options: argparse.Namespace, output: Path) -> str:
    """Fetches or converts to ``output``; returns what is to be said of the licence."""
    if options.source is None:
        if options.offline:
            found = weights.resolve(network=options.network, fetch_missing=False)
            weights.save(output, weights.load(found), weights.describe(found))
        else:
            weights.fetch(output, network=options.network, progressbar=True)
        return checkpoints.PUBLISHED[options.network].licence
    known, sha256 = checkpoints.identify(options.source)
    weights.convert_file(
        options.source,
        output,
        allow_unverified=options.allow_unverified,
        reader=LAYOUTS.get(options.layout),
    )
    if known is None:
        return f"unverified: {options.source} has SHA-256 {sha256}; its licence is unknown"
    return known.licence + ("" if known.url else f"\n{known.description}")


def normalise(options: argparse.Namespace, output: Path) -> str:
    """Stores the normalised network at ``output``; returns what is to be said of the licence."""
    photos = pictures(options.normalise)
    if options.source is None:
        found = weights.resolve(
            network=options.network, fetch_missing=not options.offline, progressbar=True
        )
    else:
        obtain(options, output)
        found = output
    if weights.describe(found).normalised:
        raise ValueError(f"{found}: this network is normalised already; use it as it is")
    count = weights.normalise_file(found, output, loaded(photos))
    return f"normalised over {count} images; {weights.describe(output).licence}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 on success, 2 with one line on stderr on failure."""
    options = parse(argv)
    if options.manifest:
        print(json.dumps(checkpoints.manifest(), indent=2))
        return 0
    output = options.output or default_output(options)
    try:
        notice = (normalise if options.normalise else obtain)(options, output)
        size, sha256 = output.stat().st_size, weights.digest(output)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {output} ({size / 1e6:.1f} MB), SHA-256 {sha256}")
    print(notice)
    return 0


if __name__ == "__main__":
    sys.exit(main())
