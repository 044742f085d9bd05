"""One run of the command line: the run itself, and what is written at its end."""

import json
import math
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import rich.console

from stylejax import (
    budget,
    companions,
    display,
    fallback,
    hosts,
    images,
    pace,
    record,
    resumption,
    saves,
    scale,
    transfer,
)
from stylejax.config import Config
from stylejax.interruption import stop_on, stop_on_ctrl_c
from stylejax.plan import Job, inputs, plan

__all__ = ["Job", "inputs", "plan", "run", "stop_on_ctrl_c"]

FAILED = 1

INTERRUPTED = 128 + signal.SIGINT

# From so many pixels on a run is told before it begins.
_LARGE = 2**20
# Seconds from one preview to the next where ten steps take longer.
_STRETCH = 2.0


class Made(NamedTuple):
    """What a run has led to.

    Attributes:
      picture: ``[H, W, 3]`` at the picture's size.
      trace: a run's entries, from its start on.
      seconds: from the start, compiling included.
      interrupted: the signal that stopped it before its end, 0 if none did.
      frames: of an animation, ``[h, w, 3]`` uint8.
      saved: whether its end is in ``--checkpoint``.
      draft: what is told of the draft that it started from, or is; None without one.
    """

    picture: np.ndarray
    trace: list[record.Entry]
    seconds: float
    interrupted: int = 0
    frames: tuple[np.ndarray, ...] = ()
    saved: bool = False
    draft: dict[str, Any] | None = None


def run(job: Job) -> int:
    """Makes the picture and writes it; returns the exit status."""
    console = display.console()
    with (
        hosts.ending_together(),
        on(job.device),
        stop_on(signal.SIGINT, signal.SIGTERM) as stop_asked,
    ):
        # Where it is used it takes its memory once; nobody else has it as it was read.
        job = job._replace(params=scale.on_device(job.params))
        if hosts.writes():
            _tell_plan(job, console)
        made, last = _make_both(job, console, lambda: hosts.any_of_them(stop_asked()))
        if not hosts.writes():
            return 0 if record.worst(made.trace) not in record.BAD else FAILED
        write(job, made)
    if not _write_companions(job, made):
        made = made._replace(interrupted=signal.SIGINT)
    return _tell(job, console, made, last)


def _make_both(
    job: Job, console: rich.console.Console, stop_asked: Callable[[], int]
) -> tuple[Made, transfer.Progress]:
    """The picture with its last step; from a draft, where one is wanted.

    A draft that is stopped is the picture. A run that goes on from a save has had its draft.
    """
    begun, draft, spent = _begun(job), job.draft, 0.0
    told: dict[str, Any] | None = None
    if draft is not None and begun is not None and begun.place is not None:
        # What it started from does not count any more, but that there was a picture does.
        job = job._replace(init=np.zeros_like(job.content))
        told = {"network": draft.network.origin.network}
    elif draft is not None:
        with shown(job, console, of=draft) as show:
            made, last = make(draft, show, stop_asked)
        told = {
            "network": draft.network.origin.network,
            "status": _status(made),
            "evaluations": made.trace[-1].evaluations,
            "seconds": round(made.seconds, 3),
            "loss": record.plain(made.trace[-1].loss),
        }
        if made.interrupted:
            return made._replace(draft=told), last
        scale.forget(draft.preset.config)
        job, spent = job._replace(init=np.clip(made.picture, 0, 1)), made.seconds
        del made, last
    held = [begun]
    del begun  # ``make`` lets go of its state, whose memory is wanted
    with shown(job, console) as show:
        made, last = make(job, show, stop_asked, begun=held.pop())
    return made._replace(seconds=made.seconds + spent, draft=told), last


def on(device: Any) -> AbstractContextManager[Any]:
    """Where to compute; None is JAX's own choice."""
    return jax.default_device(device) if device else nullcontext()


def make(
    job: Job,
    show: display.Show,
    stop_asked: Callable[[], int],
    *,
    begun: saves.Save | None = None,
) -> tuple[Made, transfer.Progress]:
    """Goes from step to step until the end, or until it is asked to stop; and its last step.

    Args:
      job: the run.
      show: called with every ``Progress``.
      stop_asked: the number of a signal that asks for it, else 0.
      begun: of ``resumption.begin``; None saves nothing.
    """
    began, interrupted = time.monotonic(), 0
    past, saving = begun or saves.Save({}), begun is not None
    del begun  # and soon its state, whose memory is wanted
    trace, frames, every = [*past.trace], [*past.frames], _frame_steps(job)
    due, new = began + resumption.seconds(job.given), False

    def kept(last: transfer.Progress) -> saves.Save:
        taken = past.seconds + time.monotonic() - began
        here = hosts.gathered(last.place)
        return past._replace(place=here, trace=trace, frames=frames, seconds=taken)

    for last in _progress(job, past.place):  # it yields at least the start
        past = past._replace(place=None)
        show(last)
        if len(last.history.taken):  # else it is where the run goes on from, and was told before
            new = True
            trace.append(record.entry(last))
            taken = record.steps_taken(trace)
            if hosts.writes():
                companions.preview(job.given, last, taken=taken)
            frames += companions.frame(last, taken=taken, every=every)
        if interrupted := stop_asked():
            break
        saving = saving and last.place is not None
        if saving and hosts.any_of_them(time.monotonic() >= due):
            # Agreed upon: of a save that failed the first process alone knows.
            new = bool(hosts.any_of_them(not resumption.save(job.given, kept(last))))
            due = time.monotonic() + resumption.seconds(job.given)
    saved = saving and (not new or resumption.save(job.given, kept(last)))
    size = (job.content.shape[0], job.content.shape[1])
    picture = np.asarray(scale.resized(last.image, size, job.preset.config))
    spent = past.seconds + time.monotonic() - began
    # Without its state, which nobody wants any more.
    last = last._replace(place=last.place and last.place._replace(state=None))
    return Made(picture, trace, spent, interrupted, tuple(frames), saved), last


def _frame_steps(job: Job) -> int:
    height, width = job.content.shape[:2]
    return companions.frame_steps(job.given, job.preset.config, (height, width))


def _begun(job: Job) -> saves.Save | None:
    network = f"{job.network.origin.network} ({job.network.path.name})"
    every = _frame_steps(job)
    return resumption.begin(job.given, _arguments(job), network=network, frame_steps=every)


def _arguments(job: Job) -> dict[str, Any]:
    """Of ``iterate``, all on which the picture depends."""
    return {
        "params": job.params,
        "content": job.content,
        "styles": job.styles,
        "config": job.preset.config,
        "loss_weights": job.preset.loss_weights,
        "key": jax.random.key(job.given["seed"]),
        "init": job.init,
        "guides": job.marked.guides if job.marked else None,
    }


def _stretch(job: Job, device: Any) -> tuple[int, float]:
    """Steps, and seconds, from one ``Progress`` to the next.

    Where pictures or frames are wanted after certain steps, counted through all scales, the steps
    divide those numbers and every scale's, or are single ones.
    """
    config, size = job.preset.config, (job.content.shape[0], job.content.shape[1])
    scales = len(config.sizes(*size))
    wanted = [n for n in (job.given["save_every"], _frame_steps(job)) if n]
    slow, saved = device.platform == "cpu", resumption.seconds(job.given)
    if saved == 0 or (slow and (wanted or jax.process_count() > 1)):
        return 1, math.inf
    if wanted:
        wanted += [config.steps_at(n, scales) for n in range(scales)]
    steps = max(n for n in range(1, 11) if all(k % n == 0 for k in wanted))
    # Ten steps may be long on a CPU: a person waits, and so may a save.
    return steps, min(_STRETCH, saved) if slow else math.inf


def _progress(job: Job, place: transfer.Place | None) -> Iterator[transfer.Progress]:
    device = job.device or jax.devices()[0]
    every, seconds = _stretch(job, device)

    def run(config: Config, init: Any) -> Iterator[transfer.Progress]:
        given = {**_arguments(job), "config": config, "init": init}
        whole = config is job.preset.config
        resume = place if whole else None
        return transfer.iterate(**given, every=every, seconds=seconds, resume=resume)

    return fallback.surviving(
        run,
        job.preset.config,
        job.init,
        size=(job.content.shape[0], job.content.shape[1]),
        params=job.params,
        device=job.device,
        tell=partial(print, file=sys.stderr),
    )


def _tell_plan(job: Job, console: rich.console.Console) -> None:
    """Says in a line how a large picture is worked on, what memory it takes and how long."""
    config, size = job.preset.config, (job.content.shape[0], job.content.shape[1])
    if job.given["quiet"] or (config.strip_rows(*size) is None and np.prod(size) < _LARGE):
        return
    needed = budget.need(config, size, job.params, device=job.device)
    told = budget.described(config, size, needed, budget.available(job.device))
    try:
        runs = [job] if job.draft is None else [job.draft, job]
        seconds = sum(
            pace.seconds(each.preset.config, size, each.params, device=job.device) for each in runs
        )
        told += f", about {display.duration(seconds)}"
    except jax.errors.JaxRuntimeError as error:
        # The run itself may still fit, in parts: it takes less and less until it does.
        if not fallback.ran_out(error):
            raise
    console.print(told, soft_wrap=True, highlight=False)


def shown(
    job: Job, console: rich.console.Console, *, of: Job | None = None
) -> AbstractContextManager[display.Show]:
    """A line that stays in place on a terminal, lines elsewhere, nothing if it shall be quiet.

    Args:
      job: says whether it shall.
      console: where.
      of: the draft that is shown; None where it is the job itself.
    """
    if job.given["quiet"] or not hosts.writes():
        return display.silent()
    config, name = (job if of is None else of).preset.config, "" if of is None else "draft, "
    clock = display.Clock(config, *job.content.shape[:2], name=name)
    return (display.live if console.is_terminal else display.lines)(console, clock)


def _status(made: Made) -> str:
    """In a word, as a record has it."""
    return "interrupted" if made.interrupted else record.worst(made.trace).name.lower()


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
        "status": _status(made),
        "evaluations": made.trace[-1].evaluations,
        "seconds": round(made.seconds, 3),
        "loss": record.plain(made.trace[-1].loss),
        **({} if made.draft is None else {"draft": made.draft}),
    }


def write(job: Job, made: Made, **more: Any) -> dict[str, Any]:
    """Writes the picture, and its record if that is wanted; returns what the file says of it.

    Args:
      job: of the picture.
      made: the picture.
      more: JSON values beside those of ``provenance``.
    """
    output: Path = job.given["output"]
    origin = {**provenance(job, made), **more}
    save(output, made.picture, alpha=job.alpha, origin=origin)
    if job.given["write_record"]:
        history = record.history(made.trace)
        record.write(output.with_suffix(".json"), {**origin, "history": history})
    return origin


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
        drafting = made.draft is not None and made.draft.get("status") == "interrupted"
        where = ("draft, " if drafting else "") + display.scale_text(last)
        message = f"interrupted at {where}, step {last.step}"
        message += "; --resume goes on from there" if made.saved else ""
        code = 128 + made.interrupted
    elif status in record.BAD:
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
