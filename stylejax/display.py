"""What a person sees while a picture is made: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import rich.console
import rich.progress

from stylejax.config import Config
from stylejax.transfer import Progress


class Show(Protocol):
    """Called with every ``Progress``."""

    def __call__(self, progress: Progress) -> None:
        """Shows it."""


class Clock:
    """Work done and time left, counting a step by its number of pixels.

    The first step of each scale, which waits for the compiler, is left out of the speed.
    """

    def __init__(self, config: Config, height: int, width: int, *, name: str = "") -> None:
        """Plans the run; ``name`` goes before its scales, where it is one of several."""
        self.name = name
        sizes = config.sizes(height, width)
        self.pixels = [h * w for h, w in sizes]
        self.steps = [config.steps_at(i, len(sizes)) for i in range(len(sizes))]
        self.total = sum(p * s for p, s in zip(self.pixels, self.steps, strict=True))
        self.worked, self.spent = 0, 0.0
        self.before = (0, 0, time.monotonic())
        self.speed = 0.0

    def tick(self, progress: Progress) -> None:
        """Takes the time of one ``Progress``."""
        scale, step, then = self.before
        now = time.monotonic()
        if progress.scale == scale and progress.step > step > 0:
            self.worked += (progress.step - step) * self.pixels[scale]
            self.spent += now - then
            self.speed = (progress.step - step) / max(now - then, 1e-9)
        self.before = (progress.scale, progress.step, now)

    def done(self, progress: Progress) -> float:
        """Share of the run's work, in [0, 1]."""
        past = zip(self.pixels[: progress.scale], self.steps, strict=False)
        here = progress.step * self.pixels[progress.scale]
        return (sum(p * s for p, s in past) + here) / self.total

    def left(self, progress: Progress) -> float | None:
        """Seconds to go, None before there is a speed."""
        if not self.worked:
            return None
        return (1 - self.done(progress)) * self.total * self.spent / self.worked


def terms_text(progress: Progress) -> str:
    """The loss and its terms: content summed up, style layer by layer, and what else there is."""
    terms = progress.terms
    style = " ".join(f"{name.removeprefix('relu')} {v:.3g}" for name, v in terms.style.items())
    text = f"loss {terms.total:.4g}"
    if terms.content:
        text += f"  content {sum(terms.content.values()):.3g}"
    text += f"  style {style}" if style else ""
    text += f"  tv {terms.tv:.3g}" if terms.tv else ""
    dream = sum(terms.dream.values())
    text += f"  dream {dream:.3g}" if dream else ""
    return text + (f"  photorealism {terms.photorealism:.3g}" if terms.photorealism else "")


def duration(seconds: float | None) -> str:
    """``1:02:03`` or ``2:03``; ``-:--`` where it is not known yet."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def scale_text(progress: Progress) -> str:
    """Which scale, of how many, at which size."""
    height, width = progress.image.shape[:2]
    return f"scale {progress.scale + 1}/{progress.scales} {width}x{height}"


@contextmanager
def live(console: rich.console.Console, clock: Clock) -> Iterator[Show]:
    """One line and a bar that stay in place."""
    columns = (
        rich.progress.TextColumn("{task.fields[scale]}"),
        rich.progress.BarColumn(bar_width=20),
        rich.progress.TextColumn("step {task.fields[step]}"),
        rich.progress.TextColumn("{task.fields[speed]}  {task.fields[left]} left"),
        rich.progress.TextColumn("{task.fields[terms]}", style="dim"),
    )
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(
            "", total=1.0, scale="compiling", step="", speed="", left="-:--", terms=""
        )

        def show(progress: Progress) -> None:
            clock.tick(progress)
            bar.update(
                task,
                completed=clock.done(progress),
                scale=clock.name + scale_text(progress),
                step=f"{progress.step}/{progress.steps}",
                speed=f"{clock.speed:.3g}/s",
                left=duration(clock.left(progress)),
                terms=terms_text(progress),
            )

        yield show


@contextmanager
def lines(console: rich.console.Console, clock: Clock) -> Iterator[Show]:
    """A plain line at the start and end of each scale and at every tenth of it between."""
    shown = (-1, -1)

    def show(progress: Progress) -> None:
        nonlocal shown
        clock.tick(progress)
        tenth = (progress.scale, progress.step * 10 // progress.steps)
        if tenth != shown:
            shown = tenth
            console.print(
                f"{clock.name}{scale_text(progress)}  step {progress.step}/{progress.steps}  "
                f"{terms_text(progress)}  {clock.speed:.3g} steps/s  "
                f"{duration(clock.left(progress))} left",
                soft_wrap=True,
                highlight=False,
            )

    yield show


@contextmanager
def silent() -> Iterator[Show]:
    """Nothing."""
    yield lambda progress: None


def console() -> rich.console.Console:
    """Standard error, so that standard output stays free for what a program may want to read."""
    return rich.console.Console(file=sys.stderr)
