"""The public checkpoints that are known by their hash: the table, recognising one, fetching one.

``weights/manifest.json`` is this table as JSON (``manifest``).
"""

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from stylejax.convert import COMMAND, Params, read_keras
from stylejax.files import replacing
from stylejax.store import REMEDY

ATTRIBUTION = "VGG-19: Karen Simonyan and Andrew Zisserman, 2014 (arXiv:1409.1556), CC BY 4.0"


class DownloadProgress(Protocol):
    """What is told of a download (pooch's own interface for progress bars)."""

    total: int

    def update(self, count: int) -> None:
        """``count`` more bytes have arrived."""

    def reset(self) -> None:
        """Counts from zero again."""

    def close(self) -> None:
        """The download is complete."""


class Checkpoint(NamedTuple):
    """A file that is known by its hash."""

    name: str  # of the file
    description: str
    url: str | None
    size: int  # in bytes
    hash: str  # "md5:..." or "sha256:...": whatever its publisher states
    licence: str
    preprocessing: str
    reader: Callable[[Path], Params]


_CAFFE = "BGR, 0-255, minus (103.939, 116.779, 123.68)"

PUBLISHED = Checkpoint(
    name="vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
    description="The original VGG-19's sixteen convolutions, as Keras publishes them.",
    url="https://storage.googleapis.com/tensorflow/keras-applications/vgg19/"
    "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
    size=80134624,
    hash="md5:253f8cb515780f3b799900260a226db6",
    licence=ATTRIBUTION,
    preprocessing=_CAFFE,
    reader=read_keras,
)

CHECKPOINTS = (
    PUBLISHED,
    Checkpoint(
        name="vgg19_keras_layout.h5",
        description="Test copy whose deeper kernels (conv4_1 to conv5_4) went through 8-bit "
        "quantisation; pictures are real, fetch the published file for exact features.",
        url=None,
        size=30384196,
        hash="sha256:f0f62bc8ecde754f0ed36ad391e729ea6312a92185ee55ad94499498b367a066",
        licence=ATTRIBUTION,
        preprocessing=_CAFFE,
        reader=read_keras,
    ),
)


def manifest() -> dict[str, dict[str, Any]]:
    """The known checkpoints as plain data, by file name: what ``weights/manifest.json`` holds."""
    table = {}
    for checkpoint in CHECKPOINTS:
        algorithm, value = checkpoint.hash.split(":")
        record = checkpoint._asdict() | {algorithm: value}
        for field in ("name", "hash", "reader"):
            del record[field]
        table[checkpoint.name] = record
    return table


def identify(path: str | Path) -> tuple[Checkpoint | None, str]:
    """Which known checkpoint a file is, by its hash alone, and its SHA-256.

    Raises:
      FileNotFoundError: there is no such file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file; `{COMMAND}` fetches the published one")
    hashes = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}
    with open(path, "rb") as file:
        while block := file.read(2**20):
            for each in hashes.values():
                each.update(block)
    found = {f"{name}:{each.hexdigest()}" for name, each in hashes.items()}
    known = next((checkpoint for checkpoint in CHECKPOINTS if checkpoint.hash in found), None)
    return known, hashes["sha256"].hexdigest()


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
      ValueError: what arrived has another hash.
      OSError: the folder cannot be written.
    """
    import pooch
    import requests

    with replacing(path, remedy=REMEDY) as file:
        _check_reachable(checkpoint, timeout)
        try:
            with _shown(progressbar) as bar:
                options = {"chunk_size": 2**16, "timeout": timeout}
                pooch.HTTPDownloader(progressbar=bar, **options)(checkpoint.url, file, None)
        except requests.RequestException as error:
            raise _unreachable(checkpoint, _root_cause(error)) from error
        file.flush()
        known, sha256 = identify(file.name)
        if known != checkpoint:
            raise ValueError(
                f"{checkpoint.url}: what arrived has SHA-256 {sha256}, not {checkpoint.hash}, and "
                f"was deleted; run `{COMMAND}` again, or `{COMMAND} --source FILE` with a good copy"
            )
