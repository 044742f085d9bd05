"""Whose colours a picture has: the paintings', the photo's, or something between.

``spaces`` are the coordinates, ``modes`` the ways, ``colour`` what ``stylize`` calls.
"""

from stylejax.colour.colour import Colour, finish, prepare
from stylejax.colour.modes import CHOLESKY, CHROMA, HISTOGRAM, LUMINANCE, PCA, SYMMETRIC, Mode
from stylejax.colour.spaces import LINEAR, OKLAB, SRGB, Space

__all__ = [
    "CHOLESKY",
    "CHROMA",
    "HISTOGRAM",
    "LINEAR",
    "LUMINANCE",
    "OKLAB",
    "PCA",
    "SRGB",
    "SYMMETRIC",
    "Colour",
    "Mode",
    "Space",
    "finish",
    "prepare",
]
