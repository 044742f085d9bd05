"""Compiling the programs of scales before they are needed, and keeping them."""

import importlib.util
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import jax

from stylejax import allocator, devices, traces, vgg
from stylejax.config import Config
from stylejax.guides import Guides
from stylejax.objective import LossWeights
from stylejax.optimizers import State
from stylejax.scale import Array, Programs, described, gathered


def by_library() -> None:
    """Asks XLA to leave matrix products on a GPU to the vendor's library, for this process.

    It otherwise compiles dozens of programs for every one and times them: on an H200 3 to 9 s for
    one of float32 numbers with 16 cores at work, minutes for a run's scales (docs/performance.md).
    XLA reads it when JAX first looks for devices, so this comes before. What the environment says
    stands; where JAX has no CUDA nothing is said.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    if "xla_gpu_enable_triton_gemm" not in flags and any(map(importlib.util.find_spec, plugins)):
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_enable_triton_gemm=false".strip()


def keep() -> None:
    """Compiled programs, and their traces, stay in the user's cache folder: the next run is sooner.

    The small ones too: a run has dozens, which together take a second to compile.
    """
    folder = traces.compiled_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # without a cache the run only takes longer
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextmanager
def compiling(
    params: vgg.Params,
    content: Array,
    styles: tuple[Array, ...],
    start: Array | None,
    loss_weights: LossWeights,
    key: jax.Array,
    guides: Guides | None,
    *,
    carried: State | None = None,
    programs: Sequence[Programs],
    sizes: Sequence[tuple[int, int]],
    length: int,
    config: Config,
    begun: threading.Event,
) -> Iterator[list[Future[State]]]:
    """Compiles scale after scale in a thread while the caller runs what is compiled.

    Takes the arguments of ``scale.prepare`` at the first scale (``start`` is its ``picture``), the
    programs and sizes of all scales, and the ``length`` of ``scale.advance``. The scales after the
    first wait until the caller says that it has ``begun``: all cores are for the first picture.

    Yields:
      A future for each scale; when it is done, calls of the scale's programs find them compiled,
      and it has the shapes of the scale's state.
      Where there are several hosts nothing is compiled ahead, and of scales in strips nothing
      either: where memory is short, programs are not kept for later. See ``compile_scale``.
      What goes wrong in the thread goes wrong again, and is said, at those calls.
    """
    if jax.process_count() > 1:
        # Hosts must compile in the same order; the calls do it.
        yield [_nothing() for _ in sizes]
        return
    executor = ThreadPoolExecutor(1)
    submit = partial(_submit, executor, length=length, begun=begun)
    # Of a picture that is still to be made the shape is enough.
    coming = [jax.ShapeDtypeStruct((*size, 3), content.dtype) for size in sizes[:-1]]
    futures: list[Future[State]] = []
    try:
        for picture, own, size in zip([start, *coming], programs, sizes, strict=True):
            if config.strip_rows(*size) is not None:
                futures.append(_nothing())
                continue
            before = futures[-1] if futures and config.carry else carried
            given = (params, content, styles, picture, loss_weights, key, guides, before)
            futures.append(submit(own, *given, size=size, config=config.at(size)))
        yield futures
    finally:
        begun.set()
        executor.shutdown(wait=False, cancel_futures=True)


def compile_scale(
    programs: Programs,
    preparing: Any,
    params: vgg.Params,
    loss_weights: LossWeights,
    *,
    length: int,
    config: Config,
) -> None:
    """Compiles a scale's programs here and now, for calls to find, from its traced ``prepare``.

    Before there is a state beside which the compiler's memory would come to lie; what it held goes
    back to the system.
    """
    _behind(programs, preparing, params, loss_weights, length=length, config=config)
    allocator.give_back()
    preparing.lower().compile()
    allocator.give_back()


def _behind(
    programs: Programs,
    preparing: Any,
    params: vgg.Params,
    loss_weights: LossWeights,
    *,
    length: int,
    config: Config,
) -> State:
    """Compiles what comes after a traced ``prepare``; the shapes of the state that it makes."""
    state, targets = preparing.out_info
    state, targets = described(state, targets, config)
    given = (state, params, targets, loss_weights, 1)
    programs.advance.lower(*given, length=length, config=config).compile()
    programs.picture.lower(state, config=config).compile()
    return state


def _nothing() -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(None)
    return future


def _submit(
    executor: Executor,
    programs: Programs,
    params: vgg.Params,
    content: Array,
    styles: tuple[Array, ...],
    before: Array | jax.ShapeDtypeStruct | None,
    loss_weights: LossWeights,
    key: jax.Array,
    guides: Guides | None,
    carried: Future[State] | State | None,
    *,
    size: tuple[int, int],
    length: int,
    config: Config,
    begun: threading.Event,
) -> Future[State]:
    """One scale's programs. The first scale's are needed at once: both threads compile them."""
    settings: Any = jax.config
    device, wide = settings.jax_default_device, settings.jax_enable_x64
    first = not isinstance(before, jax.ShapeDtypeStruct)
    given = (params, content, styles, before, loss_weights, key)
    trace = partial(programs.prepare.trace, *given, guides=guides, size=size, config=config)
    # Here, or both threads would do it; and lowered before the other one traces the steps, or the
    # two would take turns until it has, and then compile both at the same time.
    traced = trace(carried=None) if first else None
    lowered = traced.lower() if traced else None

    def work() -> State:
        # Contexts are a thread's own.
        with jax.default_device(device), jax.enable_x64(wide):
            if not first:
                begun.wait()
            # The scale before was this thread's work until now: there is nothing to wait for.
            ended = carried.result() if isinstance(carried, Future) else carried
            preparing = traced or trace(carried=ended)
            state = _behind(programs, preparing, params, loss_weights, length=length, config=config)
            if not first:
                preparing.lower().compile()
            allocator.give_back()
            if config.carry and config.rows is not None:
                ended = jax.eval_shape(partial(gathered, config=config), state)
                return cast(State, devices.described(ended, config.rows))
        return state

    future = executor.submit(work)
    if lowered:
        lowered.compile()
    return future
