"""Writing a file whole or not at all."""

import errno
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# What writing to a disk fails with when it is full, or when a user's share of it is.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(
    path: str | os.PathLike[str], *, remedy: str = "choose another"
) -> Iterator[BinaryIO]:
    """A new file to write, which takes the place of ``path`` when complete and vanishes if not.

    The target's folder is made where it is missing. A symbolic link stays, and the file it points
    to is replaced; a folder or a device is not. The new file has the permissions of any new file.

    Args:
      path: the file to write.
      remedy: what to do where it cannot be written, for the message.

    Raises:
      OSError: the file system refuses; what was at ``path`` is unchanged.
    """
    target = Path(os.path.realpath(path))
    # A name of its own for every writer, so that two processes never write into one file; and no
    # tempfile, whose files only their owner may read.
    temporary = target.with_name(f".stylejax-{uuid.uuid4().hex}.part")
    with _refusing(path, remedy):
        _check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(temporary, "xb")  # noqa: SIM115, closed below
    try:
        with _refusing(path, remedy, _FULL), file:
            yield file
            with _refusing(path, remedy):
                file.flush()
                os.fsync(file.fileno())
        with _refusing(path, remedy):
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _refusing(
    path: str | os.PathLike[str], remedy: str, numbers: Sequence[int] = ()
) -> Iterator[None]:
    """Errors of the file system, only those of these numbers if any, with path and remedy."""
    try:
        yield
    except OSError as error:
        if numbers and error.errno not in numbers:
            raise
        reason = error.strerror or str(error)
        raise type(error)(
            f"cannot write {os.fspath(path)} ({reason}), nothing was changed; {remedy}"
        ) from error


def _check_replaceable(target: Path) -> None:
    """That a file would not take the place of a folder, or of a device such as /dev/null."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is no ordinary file")
