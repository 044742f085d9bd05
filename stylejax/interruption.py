"""Signals that end a run between two steps: Ctrl-C, and SIGTERM, by which machines take leave."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


@contextmanager
def stop_on(*signals: signal.Signals) -> Iterator[Callable[[], int]]:
    """Says between steps which of the signals has come first, 0 before; a second one acts at once.

    An exception in the middle of JAX's tracing and compiling could leave it in pieces.
    """
    asked = 0

    def note(number: int, frame: Any) -> None:
        nonlocal asked
        asked = asked or number
        signal.signal(number, before[number])

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # where no handler can be set, nobody presses Ctrl-C
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        signal.signal(number, note)
    try:
        yield lambda: asked
    finally:
        for number in signals:
            signal.signal(number, before[number])


def stop_on_ctrl_c() -> AbstractContextManager[Callable[[], int]]:
    """A first Ctrl-C is asked about between steps; a second one interrupts at once."""
    return stop_on(signal.SIGINT)
