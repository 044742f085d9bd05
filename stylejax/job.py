"""One run of the command line: the run itself, and what is written at its end."""

import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import rich.console

from stylejax import companions, display, hosts, images, record, scale, transfer, weights
from stylejax.optimizers import Status
from stylejax.plan import Job, inputs, plan

__all__ = ["Job", "inputs", "plan", "run"]

FAILED = 1
BAD = (Status.STALLED, Status.NON_FINITE)

INTERRUPTED = 130


class Made(NamedTuple):
    """What a run has led to.

    Attributes:
      picture: ``[H, W, 3]`` at the picture's size.
      trace: a run's entries, from its start on.
      seconds: from the start, compiling included.
      interrupted: whether it was stopped before its end.
      frames: of an animation, ``[h, w, 3]`` uint8.
    """

    picture: np.ndarray
    trace: list[record.Entry]
    seconds: float
    interrupted: bool = False
    frames: tuple[np.ndarray, ...] = ()


def run(job: Job) -> int:
    """Makes the picture and writes it; returns the exit status."""
    console = display.console()
    keep_compiled()
    with (
        hosts.ending_together(),
        on(job.device),
        shown(job, console) as show,
        stop_on_ctrl_c() as stop_asked,
    ):
        made, last = make(job, show, lambda: hosts.any_of_them(stop_asked()))
    if not hosts.writes():
        return 0 if record.worst(made.trace) not in BAD else FAILED
    write(job, made)
    if not _write_companions(job, made):
        made = made._replace(interrupted=True)
    return _tell(job, console, made, last)


def on(device: Any) -> AbstractContextManager[Any]:
    """Where to compute; None is JAX's own choice."""
    return jax.default_device(device) if device else nullcontext()


def make(
    job: Job, show: display.Show, stop_asked: Callable[[], bool]
) -> tuple[Made, transfer.Progress]:
    """Goes from step to step until the end, or until it is asked to stop; and its last step."""
    began, trace, frames, interrupted = time.monotonic(), [], [], False
    every = _frame_steps(job)
    for last in _progress(job):  # it yields at least the start
        trace.append(record.entry(last))
        show(last)
        taken = record.steps_taken(trace)
        if hosts.writes():
            companions.preview(job.given, last, taken=taken)
        frames += companions.frame(last, taken=taken, every=every)
        if interrupted := stop_asked():
            break
    size = (job.content.shape[0], job.content.shape[1])
    picture = np.asarray(scale.resized(last.image, size, job.preset.config))
    return Made(picture, trace, time.monotonic() - began, interrupted, tuple(frames)), last


def keep_compiled() -> None:
    """Compiled programs stay in the user's cache folder, so that the next run starts sooner."""
    folder = weights.cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # without a cache the run only takes longer
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _frame_steps(job: Job) -> int:
    height, width = job.content.shape[:2]
    return companions.frame_steps(job.given, job.preset.config, (height, width))


def _progress(job: Job) -> Any:
    device = job.device or jax.devices()[0]
    save_every = job.given["save_every"]
    # A preview after each step where steps are slow, after up to ten where waiting for the
    # preview would be.
    kept = [n for n in (save_every, _frame_steps(job)) if n]
    steps = [n for n in range(1, 11) if all(k % n == 0 for k in kept)]
    return transfer.iterate(
        job.params,
        job.content,
        job.styles,
        config=job.preset.config,
        loss_weights=job.preset.loss_weights,
        key=jax.random.key(job.given["seed"]),
        init=job.init,
        guides=job.marked.guides if job.marked else None,
        every=1 if device.platform == "cpu" else max(steps),
    )


@contextmanager
def stop_on_ctrl_c() -> Iterator[Callable[[], bool]]:
    """A first Ctrl-C is asked about between steps; a second one interrupts at once.

    An exception in the middle of JAX's tracing and compiling could leave it in pieces.
    """
    asked = False

    def note(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # where no handler can be set, nobody presses Ctrl-C
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def shown(job: Job, console: rich.console.Console) -> AbstractContextManager[display.Show]:
    """A line that stays in place on a terminal, lines elsewhere, nothing if it shall be quiet."""
    if job.given["quiet"] or not hosts.writes():
        return display.silent()
    clock = display.Clock(job.preset.config, *job.content.shape[:2])
    return (display.live if console.is_terminal else display.lines)(console, clock)


def provenance(job: Job, made: Made) -> dict[str, Any]:
    """What made a picture, as plain JSON values."""
    return {
        "command": ["stylejax", *job.given["command"]],
        "seed": job.given["seed"],
        "preset": job.given["preset"],
        "config": record.plain(job.preset.config),
        "loss_weights": record.plain(job.preset.loss_weights),
        "weights": {
            "network": job.network.origin.network,
            "file": job.network.path.name,
            "sha256": record.file_digest(job.network.path),
            "source": job.network.origin.source,
            "instead": job.network.instead,
        },
        "inputs": [
            {"file": path.name, "sha256": record.file_digest(path)} for path in inputs(job.given)
        ],
        "versions": record.versions(),
        "device": (job.device or jax.devices()[0]).device_kind,
        "devices": 1 if job.preset.config.mesh is None else job.preset.config.mesh.size,
        "width": job.content.shape[1],
        "height": job.content.shape[0],
        "status": "interrupted" if made.interrupted else record.worst(made.trace).name.lower(),
        "evaluations": made.trace[-1].evaluations,
        "seconds": round(made.seconds, 3),
        "loss": record.plain(made.trace[-1].loss),
    }


def write(job: Job, made: Made) -> None:
    """Writes the picture, and its record if that is wanted."""
    output: Path = job.given["output"]
    origin = provenance(job, made)
    save(output, made.picture, alpha=job.alpha, origin=origin)
    if job.given["write_record"]:
        history = record.history(made.trace)
        record.write(output.with_suffix(".json"), {**origin, "history": history})


def save(
    output: Path, picture: np.ndarray, *, alpha: np.ndarray | None = None, origin: dict[str, Any]
) -> None:
    """Writes a picture with its origin, if not where it should be then among temporary files."""
    metadata = {"stylejax": json.dumps(origin)}
    try:
        images.save(output, picture, alpha=alpha, metadata=metadata)
    except (OSError, ValueError) as error:  # or it is too long for its format
        rescue = Path(tempfile.gettempdir()) / output.with_suffix(".png").name
        images.save(rescue, picture, alpha=alpha, metadata=metadata)
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{error}; the picture is in {rescue}") from error


def _write_companions(job: Job, made: Made) -> bool:
    """Writes what stands beside the picture; returns whether Ctrl-C left it alone."""
    about = (job.given, None if job.given["photo"] is None else job.content, job.styles)
    try:
        companions.write(
            *about, made.picture, alpha=job.alpha, frames=made.frames, trace=made.trace
        )
    except OSError as error:
        raise OSError(f"{error}; the picture is in {job.given['output']}") from error
    except KeyboardInterrupt:
        return False
    return True


def _tell(job: Job, console: rich.console.Console, made: Made, last: transfer.Progress) -> int:
    """Says how the run ended, in one line, and returns the exit status."""
    status, output = record.worst(made.trace), job.given["output"]
    height, width = job.content.shape[:2]
    if made.interrupted:
        message, code = f"interrupted at {display.scale_text(last)}, step {last.step}", INTERRUPTED
    elif status in BAD:
        message, code = status.message, FAILED
    else:
        message, code = status.message, 0
    text = (
        f"{output}: {width}x{height}, loss {made.trace[-1].loss:.4g}, {made.trace[-1].evaluations} "
        f"evaluations in {display.duration(made.seconds)}; {message}"
    )
    if code:
        print(text, file=sys.stderr)
    elif not job.given["quiet"]:
        console.print(text, soft_wrap=True, highlight=False)
    return code
