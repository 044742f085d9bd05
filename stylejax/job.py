"""One run of the command line: checks, the run itself, and what is written at its end."""

import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import rich.console

from stylejax import arguments, display, images, options, record, scale, transfer, vgg, weights
from stylejax.optimizers import Status
from stylejax.presets import Preset, folds, prepare

FAILED = 1
INTERRUPTED = 130


class Job(NamedTuple):
    """A run that has passed every check which needs no compilation.

    Attributes:
      given: the options of the command line by name.
      preset: config, loss weights and preparation, with all options in place.
      content: ``[H, W, 3]``, the photo at the picture's size.
      alpha: ``[H, W]``, its transparency, if it has any.
      styles: the paintings, no larger than any scale wants them.
      init: a picture to start from, if one was named.
      network: the network's file and origin.
      params: the network, prepared by the preset.
      device: where to run; None is JAX's own choice.
    """

    given: dict[str, Any]
    preset: Preset
    content: np.ndarray
    alpha: np.ndarray | None
    styles: tuple[np.ndarray, ...]
    init: np.ndarray | None
    network: weights.Found
    params: vgg.Params
    device: Any


def plan(given: dict[str, Any], *, kept: dict[Any, Any] | None = None) -> Job:
    """Checks everything, the cheapest first; weights are fetched only when all else is right.

    Args:
      given: the options of the command line by name.
      kept: images and networks that plans before this one have read, to which this one adds its
        own; equal files are then the same arrays.

    Raises:
      ValueError: an option or an input that cannot work.
      OSError: a file that cannot be read or written.
    """
    _check_numbers(given)
    _check_output(given)
    preset, start_file = options.build(given, len(given["paintings"]))
    device = _device(given["device"])
    once = partial(_once, {} if kept is None else kept)
    content, alpha = once(_photo, given["photo"], given["size"])
    size = (content.shape[0], content.shape[1])
    beside = (size, preset.config.style_scale, preset.config.style_layers)
    styles = tuple(
        once(_painting, path, size, preset, key=(path, *beside)) for path in given["paintings"]
    )
    init = None if start_file is None else once(images.load, start_file).image
    check = partial(
        arguments.check,
        content=content,
        styles=styles,
        config=preset.config,
        loss_weights=preset.loss_weights,
        init=init,
    )
    check(_unloaded())
    named = (given["network"], given["weights_file"], preset.normalised, folds(preset))
    network, params = once(_network, given, preset, key=named)
    check(params)  # again, because a smaller network has fewer layers
    params = vgg.up_to(params, preset.config.layers)
    return Job(given, preset, content, alpha, styles, init, network, params, device)


class Made(NamedTuple):
    """What a run has led to.

    Attributes:
      picture: ``[H, W, 3]`` at the picture's size.
      trace: a run's entries, from its start on.
      seconds: from the start, compiling included.
      interrupted: whether it was stopped before its end.
    """

    picture: np.ndarray
    trace: list[record.Entry]
    seconds: float
    interrupted: bool = False


def run(job: Job) -> int:
    """Makes the picture and writes it; returns the exit status."""
    console = display.console()
    keep_compiled()
    with on(job.device), shown(job, console) as show, stop_on_ctrl_c() as stop_asked:
        made, last = make(job, show, stop_asked)
    write(job, made)
    return _tell(job, console, made, last)


def on(device: Any) -> AbstractContextManager[Any]:
    """Where to compute; None is JAX's own choice."""
    return jax.default_device(device) if device else nullcontext()


def make(
    job: Job, show: display.Show, stop_asked: Callable[[], bool]
) -> tuple[Made, transfer.Progress]:
    """Goes from step to step until the end, or until it is asked to stop; and its last step."""
    began, trace, interrupted = time.monotonic(), [], False
    for last in _progress(job):  # it yields at least the start
        trace.append(record.entry(last))
        show(last)
        _save_preview(job, last, trace)
        if interrupted := stop_asked():
            break
    picture = np.asarray(images.resize(last.image, *job.content.shape[:2]))
    return Made(picture, trace, time.monotonic() - began, interrupted), last


def _once(kept: dict[Any, Any], make: Callable[..., Any], *of: Any, key: Any = None) -> Any:
    """``make(*of)``, or what it made before for the same ``key``, which is ``of`` if not given."""
    place = (make, key or of)
    if place not in kept:
        kept[place] = make(*of)
    return kept[place]


def _check_numbers(given: dict[str, Any]) -> None:
    for name, least in (("size", 1), ("save_every", 0)):
        if given[name] < least:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} {given[name]} must be {least} or more")
    if not 0 <= given["seed"] < 2**32:
        raise ValueError(f"--seed {given['seed']} must be from 0 to 4294967295")


def _check_output(given: dict[str, Any]) -> None:
    output: Path = given["output"]
    images.check_output(output)
    for source in (given["photo"], *given["paintings"]):
        if output.exists() and source.exists() and output.samefile(source):
            raise ValueError(f"--output {output} is one of the inputs; choose another name")


def _device(name: str) -> Any:
    options.choice("--device", name, ("auto", "cpu", "gpu", "tpu"))
    if name == "auto":
        return None
    try:
        return jax.devices(name)[0]
    except RuntimeError:
        seen = ", ".join(sorted({device.platform for device in jax.devices()}))
        raise ValueError(
            f"--device {name}: jax sees only {seen} here; install jax for that device or "
            "use --device auto"
        ) from None


def _photo(path: Path, long_side: int) -> tuple[np.ndarray, np.ndarray | None]:
    image, alpha = images.load(path)
    size = images.fit(image.shape[0], image.shape[1], long_side)
    if alpha is not None:
        alpha = np.asarray(images.resize(alpha, *size))
    return np.asarray(images.resize(image, *size)), alpha


def _painting(path: Path, size: tuple[int, int], preset: Preset) -> np.ndarray:
    """A painting at the largest size that any scale will want of it."""
    image = images.load(path).image
    if min(image.shape[:2]) < vgg.minimum_size(preset.config.style_layers):
        return image  # for arguments.check to refuse
    return np.asarray(images.resize(image, *scale.style_size(image.shape, size, preset.config)))


def _unloaded() -> vgg.Params:
    """VGG-19's parameters without values: enough to check images before weights are fetched."""
    return {
        layer: {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in arrays.items()}
        for layer, arrays in vgg.parameter_shapes(vgg.VGG19).items()
    }


def _network(given: dict[str, Any], preset: Preset) -> tuple[weights.Found, vgg.Params]:
    """The network that was asked for, or the one that can be had, prepared for the preset."""
    found = weights.choose(
        options.choice("--network", given["network"], weights.NETWORKS),
        given["weights_file"],
        offline=given["offline"],
        progressbar=not given["quiet"],
    )
    if found.instead and not given["quiet"]:
        print(found.instead, file=sys.stderr)
    params = weights.load(found.path)
    return found, prepare(preset, params, normalised=found.origin.normalised)


def keep_compiled() -> None:
    """Compiled programs stay in the user's cache folder, so that the next run starts sooner."""
    folder = weights.cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # without a cache the run only takes longer
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _progress(job: Job) -> Any:
    device = job.device or jax.devices()[0]
    save_every = job.given["save_every"]
    # A preview after each step where steps are slow, after up to ten where waiting for the
    # preview would be.
    steps = [n for n in range(1, 11) if not save_every or save_every % n == 0]
    return transfer.iterate(
        job.params,
        job.content,
        job.styles,
        config=job.preset.config,
        loss_weights=job.preset.loss_weights,
        key=jax.random.key(job.given["seed"]),
        init=job.init,
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
    if job.given["quiet"]:
        return display.silent()
    clock = display.Clock(job.preset.config, *job.content.shape[:2])
    return (display.live if console.is_terminal else display.lines)(console, clock)


def _save_preview(job: Job, progress: transfer.Progress, trace: list[record.Entry]) -> None:
    every, output = job.given["save_every"], job.given["output"]
    taken = record.steps_taken(trace)
    if every and progress.step and taken % every == 0:
        images.save(output.with_stem(f"{output.stem}_{taken:05}"), progress.image)


def provenance(job: Job, made: Made) -> dict[str, Any]:
    """What made a picture, as plain JSON values."""
    named = [job.given["photo"], *job.given["paintings"]]
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
        "inputs": [{"file": path.name, "sha256": record.file_digest(path)} for path in named],
        "versions": record.versions(),
        "device": (job.device or jax.devices()[0]).device_kind,
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


def _tell(job: Job, console: rich.console.Console, made: Made, last: transfer.Progress) -> int:
    """Says how the run ended, in one line, and returns the exit status."""
    status, output = record.worst(made.trace), job.given["output"]
    height, width = job.content.shape[:2]
    if made.interrupted:
        message, code = f"interrupted at {display.scale_text(last)}, step {last.step}", INTERRUPTED
    elif status in (Status.STALLED, Status.NON_FINITE):
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
