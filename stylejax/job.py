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

from stylejax import (
    arguments,
    companions,
    display,
    guides,
    images,
    masks,
    options,
    record,
    scale,
    transfer,
    vgg,
    weights,
)
from stylejax.optimizers import Status
from stylejax.presets import Preset, prepare

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
      marked: regions and where content counts, if masks were given.
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
    marked: masks.Marked | None
    network: weights.Found
    params: vgg.Params
    device: Any


def plan(given: dict[str, Any]) -> Job:
    """Checks everything, the cheapest first; weights are fetched only when all else is right.

    Raises:
      ValueError: an option or an input that cannot work.
      OSError: a file that cannot be read or written.
    """
    _check_numbers(given)
    _check_output(given)
    companions.check(given)
    preset, start_file = options.build(given, len(given["paintings"]))
    device = _device(given["device"])
    content, photo = _photo(given["photo"], given["size"])
    loaded = [images.load(path).image for path in given["paintings"]]
    styles = tuple(
        _at_most(image, photo.size, preset, number) for number, image in enumerate(loaded)
    )
    init = None if start_file is None else images.load(start_file).image
    marked = _marked(given, photo, [(i.shape[0], i.shape[1]) for i in loaded])
    if marked is not None:
        preset = options.in_regions(preset, given, marked)
        guides.check(
            marked.guides,
            len(styles),
            size=photo.size,
            smallest=preset.config.sizes(*photo.size)[0],
            layers=preset.config.style_layers,
            names=marked.names,
        )
    check = partial(
        arguments.check,
        content=content,
        styles=styles,
        config=preset.config,
        loss_weights=preset.loss_weights,
        init=init,
        guides=marked.guides if marked else None,
    )
    with options.naming():
        check(_unloaded())
    network, params = _network(given, preset)
    check(params)  # again, because a smaller network has fewer layers
    params = vgg.up_to(params, preset.config.layers)
    return Job(given, preset, content, photo.alpha, styles, init, marked, network, params, device)


def run(job: Job) -> int:
    """Makes the picture and writes it; returns the exit status."""
    console = display.console()
    _keep_compiled()
    on = jax.default_device(job.device) if job.device else nullcontext()
    began, trace, frames, interrupted = time.monotonic(), [], [], False
    every = _frame_steps(job)
    with on, _display(job, console) as show, _stop_on_ctrl_c() as stop_asked:
        for last in _progress(job):  # it yields at least the start
            trace.append(record.entry(last))
            show(last)
            taken = record.steps_taken(trace)
            companions.preview(job.given, last, taken=taken)
            frames += companions.frame(last, taken=taken, every=every)
            if interrupted := stop_asked():
                break
    height, width = job.content.shape[:2]
    picture = np.asarray(images.resize(last.image, height, width))
    seconds = time.monotonic() - began
    provenance = _provenance(job, trace, seconds, interrupted)
    _write(job, picture, provenance, trace)
    interrupted |= not _write_companions(job, picture, frames, trace)
    return _tell(job, console, trace, last, seconds, interrupted)


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
    beside = [Path(name) for name in (*given["mask"], *given["style_mask"])]
    beside += [given["content_mask"], given["labels"], *given["style_labels"]]
    for source in (given["photo"], *given["paintings"], *filter(None, beside)):
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


def _photo(path: Path, long_side: int) -> tuple[np.ndarray, masks.Photo]:
    """The photo at the picture's size, and what masks need to know of it."""
    image, alpha = images.load(path)
    size = images.fit(image.shape[0], image.shape[1], long_side)
    if alpha is not None:
        alpha = np.asarray(images.resize(alpha, *size))
    photo = masks.Photo(size, (image.shape[0], image.shape[1]), alpha)
    return np.asarray(images.resize(image, *size)), photo


def _at_most(image: np.ndarray, size: tuple[int, int], preset: Preset, number: int) -> np.ndarray:
    """A painting at the largest size that any scale will want of it."""
    if min(image.shape[:2]) < vgg.minimum_size(preset.config.style_layers):
        return image  # for arguments.check to refuse
    wanted = scale.style_size(image.shape, size, preset.config, number=number)
    return np.asarray(images.resize(image, *wanted))


def _marked(
    given: dict[str, Any], photo: masks.Photo, paintings: list[tuple[int, int]]
) -> masks.Marked | None:
    """The regions that the command line asks for, None where it does not."""
    by_file = given["mask"] or given["style_mask"] or given["content_mask"]
    if given["style_labels"] and not given["labels"]:
        raise ValueError("--style-labels belongs to --labels, the map of the picture; give both")
    if given["labels"] and by_file:
        raise ValueError("--labels works without --mask, --style-mask and --content-mask")
    if given["labels"]:
        marked = masks.by_colour(given["labels"], given["style_labels"], photo, paintings)
    elif by_file:
        marked = masks.by_file(
            given["mask"], given["style_mask"], given["content_mask"], photo, paintings
        )
    else:
        if given["region_weights"] is not None:
            raise ValueError("--region-weights works with --mask or --labels only")
        return None
    if not given["quiet"]:
        for note in marked.notes:
            print(note, file=sys.stderr)
    return marked


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
        wanted=preset.network,
        offline=given["offline"],
        progressbar=not given["quiet"],
    )
    if found.instead and not given["quiet"]:
        print(found.instead, file=sys.stderr)
    params = weights.load(found.path)
    return found, prepare(preset, params, normalised=found.origin.normalised)


def _keep_compiled() -> None:
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
def _stop_on_ctrl_c() -> Iterator[Callable[[], bool]]:
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


def _display(job: Job, console: rich.console.Console) -> AbstractContextManager[display.Show]:
    if job.given["quiet"]:
        return display.silent()
    clock = display.Clock(job.preset.config, *job.content.shape[:2])
    return (display.live if console.is_terminal else display.lines)(console, clock)


def _provenance(
    job: Job, trace: list[record.Entry], seconds: float, interrupted: bool
) -> dict[str, Any]:
    marked = job.marked.files if job.marked else []
    named = [job.given["photo"], *job.given["paintings"], *marked]
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
        "status": "interrupted" if interrupted else record.worst(trace).name.lower(),
        "evaluations": trace[-1].evaluations,
        "seconds": round(seconds, 3),
        "loss": record.plain(trace[-1].loss),
    }


def _write(
    job: Job, picture: np.ndarray, provenance: dict[str, Any], trace: list[record.Entry]
) -> None:
    output: Path = job.given["output"]
    metadata = {"stylejax": json.dumps(provenance)}
    try:
        images.save(output, picture, alpha=job.alpha, metadata=metadata)
    except OSError as error:
        rescue = Path(tempfile.gettempdir()) / output.name
        images.save(rescue, picture, alpha=job.alpha, metadata=metadata)
        raise OSError(f"{error}; the picture is in {rescue}") from error
    if job.given["write_record"]:
        record.write(output.with_suffix(".json"), {**provenance, "history": record.history(trace)})


def _write_companions(
    job: Job, picture: np.ndarray, frames: list[np.ndarray], trace: list[record.Entry]
) -> bool:
    """Writes what stands beside the picture; returns whether Ctrl-C left it alone."""
    about = (job.given, job.content, job.styles, picture)
    try:
        companions.write(*about, alpha=job.alpha, frames=frames, trace=trace)
    except OSError as error:
        raise OSError(f"{error}; the picture is in {job.given['output']}") from error
    except KeyboardInterrupt:
        return False
    return True


def _tell(
    job: Job,
    console: rich.console.Console,
    trace: list[record.Entry],
    last: transfer.Progress,
    seconds: float,
    interrupted: bool,
) -> int:
    """Says how the run ended, in one line, and returns the exit status."""
    status, output = record.worst(trace), job.given["output"]
    height, width = job.content.shape[:2]
    if interrupted:
        message, code = f"interrupted at {display.scale_text(last)}, step {last.step}", INTERRUPTED
    elif status in (Status.STALLED, Status.NON_FINITE):
        message, code = status.message, FAILED
    else:
        message, code = status.message, 0
    text = (
        f"{output}: {width}x{height}, loss {trace[-1].loss:.4g}, {trace[-1].evaluations} "
        f"evaluations in {display.duration(seconds)}; {message}"
    )
    if code:
        print(text, file=sys.stderr)
    elif not job.given["quiet"]:
        console.print(text, soft_wrap=True, highlight=False)
    return code
