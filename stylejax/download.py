"""Fetching a known checkpoint: verified by its hash, whole or not at all."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from stylejax.checkpoints import Checkpoint, identify
from stylejax.files import replacing
from stylejax.formats.refusal import COMMAND
from stylejax.store import REMEDY

LARGEST = 2**30  # bytes of a checkpoint whose publisher does not state its size


class DownloadProgress(Protocol):
    """What is told of a download (pooch's own interface for progress bars)."""

    total: int

    def update(self, count: int) -> None:
        """``count`` more bytes have arrived."""

    def reset(self) -> None:
        """Counts from zero again."""

    def close(self) -> None:
        """The download is complete."""


def _root_cause(error: BaseException) -> str:
    """The innermost reason of an error: requests wraps "Connection refused" in three layers."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _unreachable(checkpoint: Checkpoint, reason: str) -> ConnectionError:
    return ConnectionError(
        f"cannot fetch {checkpoint.name} from {urlsplit(str(checkpoint.url)).netloc} ({reason}); "
        f"with a network run `{COMMAND}`, or get the file some other way and run "
        f"`{COMMAND} --source FILE`"
    )


def _check_reachable(checkpoint: Checkpoint, seconds: float) -> None:
    """Raises ConnectionError unless the server, or the proxy before it, answers in time."""
    import requests

    answers: list[str] = []

    def ask() -> None:
        try:
            requests.head(str(checkpoint.url), timeout=seconds, allow_redirects=True).close()
            answers.append("")
        except Exception as error:
            answers.append(_root_cause(error))

    # In a thread, because looking up a name has no timeout of its own and can hang for minutes.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    problem = answers[0] if answers else f"no answer within {seconds:g} s"
    if problem:
        raise _unreachable(checkpoint, problem)


class _Bar:
    """A progress bar as pooch speaks to one, drawn by rich (pooch's own would need tqdm)."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._task = progress.add_task("fetching", total=None)
        self.total = 0

    def update(self, count: int) -> None:
        self._progress.update(self._task, total=self.total or None, advance=count)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        self._progress.stop_task(self._task)


@contextmanager
def _shown(progressbar: bool | DownloadProgress) -> Iterator[bool | DownloadProgress]:
    """What to tell pooch: True becomes a bar on stderr, if someone is watching it."""
    if progressbar is not True or not sys.stderr.isatty():
        yield False if progressbar is True else progressbar
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as progress:
        yield _Bar(progress)


class _Limited:
    """A file that takes no more bytes than a checkpoint has: a server could send for ever."""

    def __init__(self, file: BinaryIO, checkpoint: Checkpoint) -> None:
        self._file, self._checkpoint = file, checkpoint
        self._left = self._limit = checkpoint.size or LARGEST
        self.flush = file.flush

    def write(self, data: bytes) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(
                f"{self._checkpoint.url}: what arrives is larger than {self._limit} bytes, and "
                f"was deleted; run `{COMMAND} --source FILE` with a good copy"
            )
        return self._file.write(data)


def download(
    checkpoint: Checkpoint, path: Path, *, timeout: float, progressbar: bool | DownloadProgress
) -> None:
    """Fetches a known checkpoint to ``path``, which holds the verified file or is not touched.

    Args:
      checkpoint: one with a ``url``.
      path: the file; its folder is made where it is missing.
      timeout: seconds within which the server must answer, and the longest pause in the transfer.
      progressbar: True draws one on stderr where that is a terminal; an object is told instead.

    Raises:
      ConnectionError: no answer, a refusal, or the transfer broke off.
      ValueError: what arrived has another hash, or arrives without end.
      OSError: the folder cannot be written.
    """
    import pooch
    import requests

    with replacing(path, remedy=REMEDY) as file:
        _check_reachable(checkpoint, timeout)
        try:
            with _shown(progressbar) as bar:
                options = {"chunk_size": 2**16, "timeout": timeout}
                fetch = pooch.HTTPDownloader(progressbar=bar, **options)
                fetch(checkpoint.url, _Limited(file, checkpoint), None)
        except requests.RequestException as error:
            raise _unreachable(checkpoint, _root_cause(error)) from error
        file.flush()
        known, sha256 = identify(file.name)
        if known != checkpoint:
            raise ValueError(
                f"{checkpoint.url}: what arrived has SHA-256 {sha256}, not {checkpoint.hash}, and "
                f"was deleted; run `{COMMAND}` again, or `{COMMAND} --source FILE` with a good copy"
            )
