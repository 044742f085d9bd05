"""Noise, colour and layers: what ``draw_examples.py`` and ``painting.py`` draw with.

Lengths are in picture heights: ``y`` runs from 0 (top) to 1 (bottom) and ``x`` from 0 to the
aspect ratio. Colours are arrays in 0..1, or written in hexadecimal: ``"ff8000"`` is orange, and
``"000000 ffffff"`` is a scale from black to white.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

Array = NDArray[Any]  # of float32 for the most part
Size = tuple[int, int]  # (width, height) in pixels, as Pillow has it
Rng = np.random.Generator


def fbm(x: ArrayLike, y: ArrayLike, octaves: int, seed: int, ridged: bool = False) -> Array:
    """Sum octaves of gradient noise at the points ``(x, y)``; ``ridged`` folds it into crests."""
    x, y = np.broadcast_arrays(np.asarray(x, np.float32), np.asarray(y, np.float32))
    total, weight = np.zeros(x.shape, np.float32), np.ones(x.shape, np.float32)
    for octave in range(octaves):
        angle = np.random.default_rng((seed, octave)).uniform(0, 2 * np.pi, (256, 256))
        gx, gy = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        i, j = np.floor(x).astype(int), np.floor(y).astype(int)
        u, v = x - i, y - j
        (n00, n10), (n01, n11) = (
            [
                gx[cell] * (u - a) + gy[cell] * (v - b)
                for a in (0, 1)
                for cell in [((j + b) & 255, (i + a) & 255)]
            ]
            for b in (0, 1)
        )
        fu, fv = (t * t * t * (t * (6 * t - 15) + 10) for t in (u, v))
        value = 1.5 * ((n00 * (1 - fu) + n10 * fu) * (1 - fv) + (n01 * (1 - fu) + n11 * fu) * fv)
        if ridged:
            value = (1 - np.abs(value)) ** 2 * weight
            weight = np.clip(value * 1.6, 0, 1)
        total += value * 0.5**octave
        x, y = 2.03 * x + 7.1, 2.03 * y + 3.7
    return total


def rgb(colour: str | ArrayLike) -> Array:
    """One colour, or a list of them, as numbers."""
    if not isinstance(colour, str):
        return np.asarray(colour, np.float32)
    scale = [list(bytes.fromhex(word)) for word in colour.split()]
    return np.asarray(scale if len(scale) > 1 else scale[0], np.float32) / 255


def step(start: float, end: float, value: ArrayLike) -> Array:
    """Go smoothly from 0 where ``value`` is ``start`` to 1 where it is ``end``, and stay there."""
    t = np.clip((np.asarray(value, np.float32) - start) / (end - start), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def mix(a: str | ArrayLike, b: str | ArrayLike, t: ArrayLike) -> Array:
    """Go from colour ``a`` to colour ``b`` by the mask ``t``."""
    share = np.asarray(t, np.float32)[..., None]
    return rgb(a) * (1 - share) + rgb(b) * share


def ramp(t: ArrayLike, scale: str | ArrayLike) -> Array:
    """Look ``t`` in 0..1 up in a scale of evenly spaced colours."""
    at, table = np.asarray(t), rgb(scale)
    stops = np.linspace(0, 1, len(table))
    return np.stack([np.interp(at, stops, c) for c in table.T], -1).astype(np.float32)


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur over the first two axes, by FFT (the picture wraps around)."""
    fy, fx = np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1])
    kernel = np.exp(-2 * (np.pi * sigma) ** 2 * (fx**2 + fy**2))[..., None]
    blurred = np.fft.ifft2(np.fft.fft2(image, axes=(0, 1)) * kernel, axes=(0, 1)).real
    return blurred.astype(np.float32)


def grid(size: Size) -> tuple[Array, Array]:
    """The coordinates of the pixel centres."""
    y, x = np.mgrid[: size[1], : size[0]].astype(np.float32)
    return (x + 0.5) / size[1], (y + 0.5) / size[1]


def finish(image: Array, size: Size) -> Image.Image:
    """Reduce a picture drawn too large to its final size, in 8 bits."""
    pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)


class Layer:
    """A transparent layer for shapes, given in picture heights."""

    def __init__(self, size: Size) -> None:
        """Start empty."""
        self.image = Image.new("RGBA", size)
        self.pen = ImageDraw.Draw(self.image)

    def poly(self, points: ArrayLike, colour: str | ArrayLike) -> None:
        """Fill a polygon."""
        red, green, blue = (np.clip(rgb(colour), 0, 1) * 255).astype(int).tolist()
        corners = np.asarray(points, float) * self.image.height
        self.pen.polygon([(x, y) for x, y in corners.tolist()], (red, green, blue))

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: str | ArrayLike) -> None:
        """Fill a rectangle."""
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def pixels(self) -> Array:
        """The layer as RGBA, its surfaces a little uneven."""
        x, y = grid(self.image.size)
        pixels = np.asarray(self.image, np.float32) / 255
        pixels[..., :3] *= 1 + 0.10 * fbm(x * 130, y * 130, 3, 31)[..., None]
        return pixels
