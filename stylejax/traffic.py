"""What a compiled program sends from device to device."""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

_KINDS = "all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter"
_LINE = re.compile(rf"= (.*?) ({_KINDS})(?:-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+))\[([\d,]*)\]")


class Transfer(NamedTuple):
    """One collective operation of a program.

    Attributes:
      kind: XLA's name, such as ``"collective-permute"``.
      shapes: of the arrays that each device has afterwards.
      bytes: of these arrays together.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    bytes: int


def transfers(compiled: Any) -> list[Transfer]:
    """Every collective operation, each once: what stands in a loop counts for one turn of it.

    Args:
      compiled: of ``jax.jit(...).lower(...).compile()``.
    """
    found = []
    for line in compiled.as_text().splitlines():
        if (match := _LINE.search(line)) is None:
            continue
        arrays = _ARRAY.findall(match[1])
        if "-start(" in line:  # of an asynchronous one the operands stand first
            arrays = arrays[len(arrays) // 2 :]
        shapes = tuple(tuple(map(int, filter(None, dims.split(",")))) for *_, dims in arrays)
        sizes = [math.ceil(int(bits or 8) / 8) for _, bits, _ in arrays]
        total = sum(math.prod(s) * n for s, n in zip(shapes, sizes, strict=True))
        found.append(Transfer(match[2], shapes, total))
    return found


def by_kind(found: Iterable[Transfer]) -> dict[str, int]:
    """Bytes that each device receives, by kind of operation."""
    sums: dict[str, int] = {}
    for transfer in found:
        sums[transfer.kind] = sums.get(transfer.kind, 0) + transfer.bytes
    return sums
