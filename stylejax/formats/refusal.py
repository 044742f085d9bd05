"""How a file is refused: one line that names the file, the thing in it, and the remedy."""

from collections.abc import Iterable

COMMAND = "python scripts/convert_weights.py"
REMEDY = f"delete or replace it (`{COMMAND}` fetches a good one)"


class Refusal(ValueError):
    """What a checkpoint or a stored file is not read for."""


def printable(name: str) -> str:
    """A name out of a file, with nothing in it that a terminal would obey, and not too long."""
    text = ascii(name)[1:-1]
    return text if len(text) <= 80 else text[:77] + "..."


def listing(names: Iterable[str]) -> str:
    """A few names for an error message."""
    names = sorted(names)
    return ", ".join(map(printable, names[:4])) + ", ..." * (len(names) > 4)
