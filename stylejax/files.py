"""Writing a file whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(
    path: str | os.PathLike[str], *, remedy: str = "choose another"
) -> Iterator[BinaryIO]:
    """A new file to write, which takes the place of ``path`` when complete and vanishes if not.

    The target's folder is made where it is missing. A symbolic link stays, and the file it points
    to is replaced. The new file has the permissions of any new file.

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
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(temporary, "xb")  # noqa: SIM115, closed below
    except OSError as error:
        raise _refusal(path, error, remedy) from error
    try:
        with file:
            yield file
            try:
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                raise _refusal(path, error, remedy) from error
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _refusal(path: str | os.PathLike[str], error: OSError, remedy: str) -> OSError:
    reason = error.strerror or str(error)
    return type(error)(f"cannot write {os.fspath(path)} ({reason}), nothing was changed; {remedy}")
