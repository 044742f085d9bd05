"""What is written beside the picture where it is asked for: previews, curves, sheet, animation."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stylejax import animation, images, plots, record, sheet
from stylejax.config import Config
from stylejax.transfer import Progress

FRAMES = 80  # of an animation, roughly


def files(given: dict[str, Any]) -> dict[str, Path]:
    """The files by the option that asks for them.

    Args:
      given: the options of the command line by name.
    """
    output: Path = given["output"]
    asked = {}
    if given["plot"]:
        asked["--plot"] = output.with_suffix(".plot.png")
    if given["sheet"]:
        asked["--sheet"] = output.with_suffix(".sheet.png")
    if given["animation"] is not None:
        asked["--animation"] = given["animation"]
    return asked


def check(given: dict[str, Any], inputs: Sequence[Path]) -> None:
    """Raises now, with the option's name, what would go wrong after the run.

    Args:
      given: the options of the command line by name.
      inputs: every picture that is read.

    Raises:
      ValueError: a package is missing, a suffix is unknown, a file is an input or the picture.
      OSError: a file that cannot be written.
    """
    every = given["animation_every"]
    if every is not None and given["animation"] is None:
        raise ValueError(f"--animation-every {every} works with --animation only")
    if every is not None and every < 1:
        raise ValueError(f"--animation-every {every} must be 1 or more")
    others = (given["output"], *inputs)
    for option, path in files(given).items():
        try:
            if option == "--animation":
                animation.check(path)
            else:
                images.check_output(path)
            if option == "--plot":
                plots.check()
        except ModuleNotFoundError as error:
            raise ValueError(f"{option} {error}") from None
        if any(_same(path, other) for other in others):
            raise ValueError(f"{option} would write {path}, which is the output or an input")


def frame_steps(given: dict[str, Any], config: Config, size: tuple[int, int]) -> int:
    """Steps from one frame of the animation to the next, 0 where there is none.

    Args:
      given: the options.
      config: the run's.
      size: height and width of the picture.
    """
    if given["animation"] is None:
        return 0
    if given["animation_every"] is not None:
        return given["animation_every"]
    scales = len(config.sizes(*size))
    return max(1, round(sum(config.steps_at(n, scales) for n in range(scales)) / FRAMES))


def preview(given: dict[str, Any], progress: Progress, *, taken: int) -> None:
    """Writes the picture so far, if it is its turn.

    Args:
      given: the options.
      progress: of the run.
      taken: steps at all scales so far.
    """
    every, output = given["save_every"], given["output"]
    if every and progress.step and taken % every == 0:
        images.save(output.with_stem(f"{output.stem}_{taken:05}"), progress.image)


def frame(progress: Progress, *, taken: int, every: int) -> list[np.ndarray]:
    """The picture as a frame ``[h, w, 3]`` uint8, if it is its turn.

    Kept at its scale's size: all frames of a run take less memory than L-BFGS does.

    Args:
      progress: of the run.
      taken: steps at all scales so far.
      every: of ``frame_steps``.
    """
    start = progress.scale == progress.step == 0
    if not every or not (start or (progress.step and taken % every == 0)):
        return []
    return [images.to_uint8(progress.image)]


def write(
    given: dict[str, Any],
    photo: np.ndarray | None,
    paintings: Sequence[np.ndarray],
    picture: np.ndarray,
    *,
    alpha: np.ndarray | None,
    frames: Sequence[np.ndarray],
    trace: Sequence[record.Entry],
) -> None:
    """Writes whatever was asked for.

    Args:
      given: the options.
      photo: ``[H, W, 3]``, or None without one.
      paintings: ``[h, w, 3]`` each.
      picture: ``[H, W, 3]``, the result.
      alpha: ``[H, W]``, the photo's transparency; white paper is seen through it.
      frames: of the animation.
      trace: of the run.

    Raises:
      OSError: the file system refuses.
    """
    asked = files(given)
    if "--plot" in asked:
        plots.save(asked["--plot"], plots.losses(trace))
    if "--sheet" in asked:
        shown = None if photo is None else _on_paper(photo, alpha)
        row = sheet.side_by_side(shown, paintings, _on_paper(picture, alpha))
        images.save(asked["--sheet"], row)
    if "--animation" in asked:
        last = images.to_uint8(picture)  # it is shown longer
        animation.save(asked["--animation"], [*frames, last])


def _on_paper(picture: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    return picture if alpha is None else picture * alpha[..., None] + 1 - alpha[..., None]


def _same(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    return one.exists() and other.exists() and one.samefile(other)
