"""Fetches a published VGG-19, or takes a copy you have, and converts it for stylejax.

python scripts/convert_weights.py                           fetch (80 MB), verify, convert
python scripts/convert_weights.py --network vgg19-torchvision   torchvision's own (575 MB)
python scripts/convert_weights.py --source FILE             convert a file: Keras, PyTorch, ...
python scripts/convert_weights.py --normalise FOLDER        Gatys' normalisation, over its images
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from stylejax import checkpoints, convert, images, weights
from stylejax.checkpoints import Checkpoint
from stylejax.matconvnet import read_matconvnet

LAYOUTS = {
    "keras": convert.read_keras,
    "torchvision": convert.read_torchvision,
    "jcjohnson": convert.read_jcjohnson,
    "adain": convert.read_adain,
    "matconvnet": read_matconvnet,
}
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".avif", ".bmp"}


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command."""

    def error(self, message: str) -> NoReturn:
        """Ends the command."""
        self.exit(2, f"error: {message}; --help lists what there is\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description="Fetch a published VGG-19, verify it and convert it for stylejax.")
    parser.add_argument(
        "--network",
        choices=list(checkpoints.PUBLISHED),
        help="which one: the original (the default) or torchvision's; a --source says it itself",
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
    options = parser.parse_args(argv)
    if options.source is None and (options.allow_unverified or options.layout):
        parser.error("--allow-unverified and --layout are for a file: name it with --source")
    return options


def default_output(options: argparse.Namespace, known: Checkpoint | None = None) -> Path:
    """``weights/`` of the checkout this script lies in, else of the current folder.

    Named by what a checkpoint holds, so that one network never passes for another.
    """
    checkout = Path(__file__).resolve().parents[1]
    home = checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
    network, normalised = options.network or "vgg19", options.layout == "adain"
    if known is not None:
        network, normalised = known.network, known.normalised
    elif options.layout == "torchvision":
        network = "vgg19-torchvision"
    name = Path(weights.FILE_NAMES[network])
    if options.normalise or normalised:
        name = name.with_stem(name.stem + "-normalised")
    return home / "weights" / name


def recognised(options: argparse.Namespace) -> Checkpoint | None:
    """The known checkpoint that ``--source`` is, if it is one.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is one of another network than the one that was asked for.
    """
    if options.source is None:
        return None
    known, _ = checkpoints.identify(options.source)
    if known and options.network not in (None, known.network):
        raise ValueError(
            f"{options.source}: holds {known.network}, not {options.network}; leave --network out"
        )
    return known


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


def obtain(options: argparse.Namespace, known: Checkpoint | None, output: Path) -> str:
    """Fetches or converts to ``output``; returns what is to be said of the licence."""
    if options.source is None:
        network = options.network or "vgg19"
        if options.offline:
            found = weights.resolve(network=network, fetch_missing=False)
            weights.save(output, weights.load(found), weights.describe(found))
        else:
            weights.fetch(output, network=network, progressbar=True)
        return checkpoints.PUBLISHED[network].licence
    sha256 = weights.convert_file(
        options.source,
        output,
        allow_unverified=options.allow_unverified,
        reader=LAYOUTS.get(options.layout),
    )
    if known is None:
        return f"unverified: {options.source} has SHA-256 {sha256}; its licence is unknown"
    return known.licence + ("" if known.url else f"\n{known.description}")


def normalise(options: argparse.Namespace, known: Checkpoint | None, output: Path) -> str:
    """Stores the normalised network at ``output``; returns what is to be said of the licence."""
    photos = pictures(options.normalise)
    # What is not normalised yet must not be found under the name of what is.
    with tempfile.TemporaryDirectory(prefix="stylejax-") as folder:
        if options.source is None:
            found = weights.resolve(
                network=options.network or "vgg19",
                fetch_missing=not options.offline,
                progressbar=True,
            )
        else:
            found = Path(folder) / "plain.h5"
            obtain(options, known, found)
        if weights.describe(found).normalised:
            named = options.source or found
            raise ValueError(f"{named}: this network is normalised already; use it as it is")
        count = weights.normalise_file(found, output, loaded(photos))
    return f"normalised over {count} images; {weights.describe(output).licence}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 on success, 2 with one line on stderr on failure."""
    options = parse(argv)
    if options.manifest:
        print(json.dumps(checkpoints.manifest(), indent=2))
        return 0
    try:
        known = recognised(options)
        output = options.output or default_output(options, known)
        notice = (normalise if options.normalise else obtain)(options, known, output)
        size, sha256 = output.stat().st_size, weights.digest(output)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {output} ({size / 1e6:.1f} MB), SHA-256 {sha256}")
    print(notice)
    return 0


if __name__ == "__main__":
    sys.exit(main())
