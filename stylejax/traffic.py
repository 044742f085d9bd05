"""What a compiled program sends from device to device, and whether it can be mixed up."""

import math
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

_KINDS = "all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter"
_LINE = re.compile(rf"= (.*?) ({_KINDS})(?:-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+))\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%([\w.\-]+) .*\{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) (= .*?)(?:, metadata=.*)?$")
_WAITS = re.compile(r"control-predecessors=\{[^}]*\}")
_WITHIN = re.compile(
    r"(?:calls|to_apply|body|condition|(?:true|false|branch)_computations?)=(\{[^}]*\}|%[\w.\-]+)"
)


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


def unordered(compiled: Any) -> list[tuple[str, str]]:
    """Pairs of operations that a run over several processes of CPUs can mix up.

    XLA on CPUs begins one operation that sends after the other, but a loop or a branch counts as
    soon as it has begun, and what it sends later meets with what is sent beside it; gloo, which
    carries it, tells messages apart by their order alone. Two sums are then each other's, in both
    processes, and nobody notices. So whatever sends must wait for a loop that sends, or the loop
    for it, by the data. GPUs and TPUs keep the order by themselves, and so do the CPUs of a process
    without ``jax.distributed``.

    Args:
      compiled: of ``jax.jit(...).lower(...).compile()``.

    Returns:
      Names of operations, of which the first or the second has others within, and neither needs
      what the other makes.
    """
    computations: dict[str, list[tuple[str, str]]] = {}
    for line in compiled.as_text().splitlines():
        if (match := _COMPUTATION.match(line)) is not None:
            computations[match[1]] = []
        elif computations and (match := _OPERATION.match(line)) is not None:
            [*computations.values()][-1].append((match[1], _WAITS.sub("", match[2])))

    def within(operation: str) -> bool:
        return any(map(sends, _NAME.findall(" ".join(_WITHIN.findall(operation)))))

    @cache
    def sends(name: str) -> bool:
        return any(_LINE.search(text) or within(text) for _, text in computations[name])

    pairs = []
    for operations in computations.values():
        needs: dict[str, set[str]] = {}
        sending: dict[str, bool] = {}  # whether there are others within
        for name, text in operations:
            direct = {other for other in _NAME.findall(text) if other in needs}
            needs[name] = direct.union(*(needs[other] for other in direct))
            nested = within(text)
            if nested or _LINE.search(text):
                pairs += [
                    (other, name)
                    for other, others in sending.items()
                    if (nested or others) and other not in needs[name]
                ]
                sending[name] = nested
    return pairs
