"""Tasks sent to a Dask cluster; nothing here knows of pictures. Needs the extra ``batch``.

A task is sent again when the process that worked on it has died, up to three times (Dask's
``allowed-failures``), so it must be harmless to do one twice.
"""

import functools
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

LOCAL = "local"
WAIT = 60  # seconds for the first worker
PATIENCE = 5  # seconds between two looks at whether there are workers
Task = TypeVar("Task")
Outcome = TypeVar("Outcome")


def check() -> None:
    """Raises ModuleNotFoundError, with the remedy, where Dask is not installed."""
    try:
        import distributed  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'needs Dask; install it with: pip install "stylejax[batch]" (dask and distributed)'
        ) from error


@contextmanager
def connected(address: str, *, workers: int = 1) -> Iterator[Any]:
    """A client of the cluster, with one worker at least.

    Args:
      address: of its scheduler, e.g. ``tcp://10.0.0.5:8786``; or ``local``, which starts a cluster
        of processes on this machine and ends it at the end.
      workers: how many processes ``local`` starts.

    Raises:
      OSError: no scheduler answers, or it has no worker.
    """
    import distributed

    logger = logging.getLogger("distributed.client")
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # what matters is raised
    try:
        with _connected(distributed, address, workers) as client:
            yield client
    finally:
        logger.setLevel(before)


@contextmanager
def _connected(distributed: Any, address: str, workers: int) -> Iterator[Any]:
    if address == LOCAL:
        with _local(workers) as cluster, distributed.Client(cluster) as client:
            yield client
        return
    try:
        client = distributed.Client(address, timeout=WAIT / 4)
    except (OSError, ValueError) as error:
        raise OSError(
            f"--scheduler {address}: no scheduler answers there ({type(error).__name__}); start "
            "one with: dask scheduler"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WAIT)
        except TimeoutError as error:
            raise OSError(
                f"--scheduler {address} has no worker; start one on each machine with: dask worker "
                f"{address} --nthreads 1"
            ) from error
        yield client


def _local(workers: int) -> AbstractContextManager[Any]:
    """Processes on this machine, each with its share of the cores (see ``sharing``)."""
    import distributed

    # Ctrl-C is for this process alone, which ends the others. They inherit that they ignore it.
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        return distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            memory_limit=None,  # Dask would end a worker that holds a large picture
            silence_logs="CRITICAL",
        )
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def sharing(work: Callable[[Task], Outcome], workers: int) -> Callable[[Task], Outcome]:
    """The same on a worker of ``local``, bound to its share of the cores.

    Nothing on a worker may have used JAX before, which counts the cores once.
    """
    return functools.partial(_bound, work, workers)


def _bound(work: Callable[[Task], Outcome], workers: int, task: Task) -> Outcome:
    """In the worker's thread that computes; the threads that JAX begins inherit its cores."""
    import distributed

    name = distributed.get_worker().name
    if workers > 1 and isinstance(name, int) and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(os.getpid()))  # of the process, not of this thread
        if len(cores) >= workers:
            os.sched_setaffinity(0, cores[name % workers :: workers])
    return work(task)


def spread(
    client: Any,
    work: Callable[[Task], Outcome],
    tasks: Iterable[Task],
    *,
    split: Callable[[Task], Sequence[Task]],
) -> Iterator[tuple[Task, Outcome | Exception]]:
    """Does tasks on a cluster, in whatever order they are done.

    Only a few more than there are workers wait at the scheduler, so that there may be millions.

    Args:
      client: of ``connected``.
      work: what is done with a task, a function of a module that the workers have, too.
      tasks: what is to be done.
      split: makes of a task smaller ones, or none. A task at which workers keep dying is split,
        because the reason may be their memory.

    Yields:
      A task, and what came of it or what went wrong.

    Raises:
      ConnectionError: the scheduler is gone, or all workers are.
    """
    import distributed

    coming, again = iter(tasks), deque[Task]()
    waiting: dict[Any, Task] = {}

    def send() -> None:
        most = 2 * max(1, sum(client.nthreads().values()))
        while len(waiting) < most:
            task = again.popleft() if again else next(coming, None)
            if task is None:
                return
            waiting[client.submit(work, task, pure=False)] = task

    send()
    while waiting:
        for future in _done(client, list(waiting)):
            task = waiting.pop(future)
            outcome = _outcome(future)
            parts = split(task) if isinstance(outcome, distributed.KilledWorker) else ()
            again.extend(parts)
            if not parts:
                yield task, outcome
        send()


def _done(client: Any, futures: list[Any]) -> list[Any]:
    """Those that are done, as soon as one is."""
    import distributed

    alone = 0
    while True:
        try:
            done = distributed.wait(futures, timeout=PATIENCE, return_when="FIRST_COMPLETED").done
            return [future for future in futures if future in done]
        except distributed.CancelledError as error:
            raise ConnectionError("the scheduler is gone") from error
        except TimeoutError:
            alone = 0 if client.nthreads() else alone + 1
        if alone and client.cluster is not None:
            # Dask gives a worker up that dies while its results are fetched; ours come again.
            client.cluster.scale(len(client.cluster.worker_spec))
        if alone * PATIENCE > 2 * WAIT:
            raise ConnectionError("it has lost all its workers")


def _outcome(future: Any) -> Any:
    """Its result, or the exception that it raised."""
    import distributed

    try:
        return future.result()
    except distributed.CancelledError as error:
        raise ConnectionError("the scheduler is gone") from error
    except Exception as error:
        return error
