"""Fetches the published VGG-19, or takes a local copy, and converts it for stylejax.

python scripts/convert_weights.py                  fetch (80 MB), verify, convert
python scripts/convert_weights.py --source FILE    convert a local Keras checkpoint
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from stylejax import checkpoints, weights


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Fetch the published VGG-19 (Keras' copy), verify it and convert it."
    )
    parser.add_argument("--source", type=Path, metavar="FILE", help="convert this file instead")
    parser.add_argument("-o", "--output", type=Path, help="default: weights/vgg19.h5")
    parser.add_argument(
        "--allow-unverified",
        action="store_true",
        help="convert --source though its hash is unknown",
    )
    parser.add_argument(
        "--manifest", action="store_true", help="print the known checkpoints as JSON, and stop"
    )
    return parser.parse_args(argv)


def default_output() -> Path:
    """``weights/vgg19.h5`` of the checkout this script lies in, else of the current folder."""
    checkout = Path(__file__).resolve().parents[1]
    home = checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
    return home / "weights" / weights.FILE_NAME


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 on success, 2 with one line on stderr on failure."""
    options = parse(argv)
    if options.manifest:
        print(json.dumps(checkpoints.manifest(), indent=2))
        return 0
    output = options.output or default_output()
    notice = checkpoints.ATTRIBUTION
    try:
        if options.source is None:
            weights.fetch(output, progressbar=True)
        else:
            known, sha256 = checkpoints.identify(options.source)
            weights.convert_file(options.source, output, allow_unverified=options.allow_unverified)
            if known is None:
                notice = (
                    f"unverified: {options.source} has SHA-256 {sha256}; its licence is unknown"
                )
            elif known is not checkpoints.PUBLISHED:
                notice += f"\n{known.description}"
        size, sha256 = output.stat().st_size, weights.digest(output)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {output} ({size / 1e6:.1f} MB), SHA-256 {sha256}")
    print(notice)
    return 0


if __name__ == "__main__":
    sys.exit(main())
