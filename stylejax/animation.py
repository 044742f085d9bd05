"""A run as a moving picture: GIF by Pillow, MP4 (H.264) by PyAV, which is imported on demand."""

import importlib.util
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain, repeat
from typing import Any, BinaryIO

import jax
import numpy as np
from PIL import Image

from stylejax import images
from stylejax.files import replacing

SUFFIXES = (".gif", ".mp4")
SECONDS = 0.08  # of a frame, 12.5 of them a second
HOLD = 2.0  # seconds of the last one

_SAMPLED = 16_384  # pixels that a palette is made of, up to four times as many
# A palette serves until its error is this many times what it was on the frame it was made for.
_WORN = 1.1


def check(path: str | os.PathLike[str]) -> None:
    """Raises now what `save` would raise for this path after a long run.

    Raises:
      ValueError: the suffix is neither .gif nor .mp4.
      ModuleNotFoundError: it is .mp4, and PyAV is not installed.
      OSError: the file cannot be written.
    """
    images.check_output(path, suffixes=SUFFIXES)
    if _suffix(path) == ".mp4" and importlib.util.find_spec("av") is None:
        raise ModuleNotFoundError(f"{os.fspath(path)} needs PyAV: pip install av; or name a .gif")


def save(
    path: str | os.PathLike[str],
    frames: Iterable[jax.Array | np.ndarray],
    *,
    seconds: float = SECONDS,
    hold: float = HOLD,
) -> None:
    """Writes pictures one after the other, e.g. the ``image`` of every ``Progress`` of a run.

    A GIF runs for ever. An MP4 has even sides, as players want them: an odd one gets its last line
    twice. The file appears whole or not at all.

    Args:
      path: ends in .gif or .mp4.
      frames: ``[h, w, 3]`` each, floats in [0, 1] (clipped) or uint8, of any sizes: all are
        enlarged to the size of the last. They are kept as uint8 at their own size until then.
      seconds: of each frame, 0.02 at least; a GIF counts in hundredths.
      hold: seconds of the last frame.

    Raises:
      ValueError: there is no frame, one is no picture, or a time is too short.
      ModuleNotFoundError: an MP4 without PyAV.
      OSError: the file system refuses, or the encoder fails.
    """
    check(path)
    if not min(seconds, hold) >= 0.02:
        raise ValueError(f"frames of {seconds:g} s and {hold:g} s at the end; give 0.02 or more")
    kept = [_levels(frame) for frame in frames]
    if not kept:
        raise ValueError("an animation needs one frame at least")
    encode = _gif if _suffix(path) == ".gif" else _mp4
    with replacing(path) as file:
        encode(file, kept, seconds, hold)


def _suffix(path: str | os.PathLike[str]) -> str:
    return os.path.splitext(path)[1].lower()


def _levels(frame: jax.Array | np.ndarray) -> np.ndarray:
    array = np.asarray(frame)
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size:
        return array
    return images.to_uint8(array)


def _enlarged(frames: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """One at a time at the size of the last, ``[H, W, 3]`` uint8."""
    height, width = frames[-1].shape[:2]
    for frame in frames:
        if frame.shape[:2] != (height, width):
            smooth = np.divide(frame, 255, dtype=np.float32)
            frame = images.to_uint8(images.resize(smooth, height, width))
        yield frame


def _gif(file: BinaryIO, frames: Sequence[np.ndarray], seconds: float, hold: float) -> None:
    times = [round(seconds * 100) * 10] * (len(frames) - 1) + [round(hold * 100) * 10]
    # Pillow adds up the times of frames that are the same.
    first, *rest = _paletted(frames)
    first.save(file, "GIF", save_all=True, append_images=rest, duration=times, loop=0)


def _paletted(frames: Sequence[np.ndarray]) -> Iterator[Image.Image]:
    """Frames of 256 colours each.

    One palette for all leaves a photo's sky few colours once the painting's are in it; one for
    each makes still places flicker. So a palette is kept while it serves. No dither: with palettes
    so close it shows more than the bands that it is against.
    """
    palette, limit = None, 0.0
    for frame in _enlarged(frames):
        if palette is None or _error(frame, palette) > limit:
            # Every so many pixels have the same colours, and finding them takes most of the time.
            every = max(1, math.isqrt(frame.shape[0] * frame.shape[1] // _SAMPLED))
            sample = np.ascontiguousarray(frame[::every, ::every])
            palette = Image.fromarray(sample).quantize(kmeans=2)
            limit = _WORN * _error(frame, palette)
        yield _in_colours(frame, palette)


def _in_colours(frame: np.ndarray, palette: Image.Image) -> Image.Image:
    return Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)


def _error(frame: np.ndarray, palette: Image.Image) -> float:
    """Root of the mean square of what the palette lacks, in levels of 255."""
    shown = np.asarray(_in_colours(frame, palette).convert("RGB"), np.float32)
    return float(np.sqrt(np.mean(np.square(shown - frame))))


def _mp4(file: BinaryIO, frames: Sequence[np.ndarray], seconds: float, hold: float) -> None:
    import av

    height, width = frames[-1].shape[:2]
    rate = 1 / Fraction(round(seconds * 1000), 1000)
    try:
        with av.open(file, "w", format="mp4") as container:
            stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "18"})
            stream.width, stream.height = width + width % 2, height + height % 2
            stream.pix_fmt = "yuv420p"  # what every player has
            _say_bt709(stream.codec_context)
            # The last one again and again, since players do not wait at the end.
            again = repeat(frames[-1], round(hold / seconds) - 1)
            for number, levels in enumerate(chain(_enlarged(frames), again)):
                even = np.pad(levels, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
                picture = av.VideoFrame.from_ndarray(even, format="rgb24")
                picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709")
                picture.pts = number
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise OSError(f"the encoder refuses {width}x{height} pixels ({error})") from error


def _say_bt709(codec: Any) -> None:
    """Without it a player guesses how the colours were coded, and small videos come out greener."""
    codec.color_range = 1  # 16 to 235
    codec.color_primaries = codec.color_trc = codec.colorspace = 1
