"""Several hosts, one picture: how their processes find each other, and how they end together.

JAX's own ``jax.distributed`` does the work. Every process is started with the same command and
reads the same files; the devices of all of them share the picture; the first one alone writes.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

# Seconds without a sign of life after which a process counts as dead, where its connections do not
# say so at once; and what the others wait for one that is still writing its picture.
HEARTBEAT = 30
FAREWELL = 300
FAILED = 1
_DIE_WITH_PARENT = 1  # of Linux, PR_SET_PDEATHSIG


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    patience: int = 300,
) -> None:
    """Makes this process one of several; before anything else asks JAX for devices.

    Without arguments Cloud TPU, SLURM, Open MPI or Kubernetes say which one it is.

    Args:
      coordinator: ``host:port`` of process 0, where it will listen.
      processes: how many there are.
      process: which one this is, from 0.
      patience: seconds to wait for the others.

    Raises:
      ValueError: a number that cannot be; nothing in the environment says what is not given; or the
        others did not come.
    """
    check(coordinator, processes, process)
    given = (coordinator, processes, process)
    try:
        jax.distributed.initialize(
            *given,
            cluster_detection_method=None if coordinator is None else "deactivate",
            initialization_timeout=patience,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=FAREWELL,
        )
    except (RuntimeError, ValueError) as error:
        where = coordinator or "what the environment names"
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"the hosts did not come together at {where} ({reason}); start all of them, within "
            f"{patience} seconds, with the same --coordinator and --processes"
        ) from error


def check(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Raises ValueError for arguments of ``join`` that cannot be."""
    given = (coordinator, processes, process)
    if any(x is not None for x in given) and any(x is None for x in given):
        raise ValueError(
            "--coordinator, --processes and --process belong together: give all three, or "
            "--hosts alone where Cloud TPU, SLURM, Open MPI or Kubernetes know them"
        )
    if processes is not None and processes < 1:
        raise ValueError(f"--processes {processes} must be at least 1")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise ValueError(f"--process {process} must be from 0 to {processes - 1}")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(f"--coordinator {coordinator} must be host:port, e.g. 10.0.0.1:1234")


def watched() -> None:
    """Goes on in a child of this process, whose end this one reports in one line.

    JAX ends a process that lost the others from threads of its own, by ``abort`` and in many lines;
    only another process can still say what that means. Before JAX has started any device.
    """
    if not hasattr(os, "fork"):
        return
    child = os.fork()
    if child == 0:
        if sys.platform == "linux":  # whoever kills the parent means the child
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGABRT:
        print(
            "error: another process is gone or cannot be reached, so this one ended too; what JAX "
            "says of it is above",
            file=sys.stderr,
            flush=True,
        )
    elif code < 0:
        print(f"error: killed by {signal.Signals(-code).name}", file=sys.stderr, flush=True)
    os._exit(FAILED if code < 0 else code)


def several() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def writes() -> bool:
    """Whether it is for this process to write and print."""
    return not several() or jax.process_index() == 0


def any_of_them(asked: int) -> int:
    """The largest of a number of each of the processes, which all must ask: of a signal, or 0."""
    if not several():
        return asked
    return int(np.max(multihost_utils.process_allgather(np.asarray(asked))))


def gathered(tree: Any) -> Any:
    """Arrays of all processes' devices as each process's own; all of them must ask."""

    def one(x: Any) -> Any:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return multihost_utils.process_allgather(x, tiled=True)
        return x

    return jax.tree.map(one, tree)


def leave(status: int) -> int:
    """Returns the status; one of several processes ends with it at once.

    It would otherwise wait for the others, which wait for it.
    """
    if jax.distributed.is_initialized():
        sys.stderr.flush()
        os._exit(status)
    return status


@contextmanager
def ending_together() -> Iterator[None]:
    """Ends this process with one line and status 1 when another one is gone.

    What was computed together cannot go on without it, and a process that leaves in the usual way
    would wait for it.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not several():
            raise
        _end(str(error))


def _end(reason: str) -> NoReturn:
    first = reason.strip().splitlines()[0][:200]
    count = jax.process_count()
    text = f"error: another of the {count} processes is gone, so this one ends too ({first})"
    print(text, file=sys.stderr, flush=True)
    os._exit(FAILED)
