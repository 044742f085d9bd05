"""What a style is: statistics of features, and distances between them.

Features are ``[h, w, c]``; ``N`` is the number of channels, ``M`` of positions, ``F_k`` the vector
of channels at position ``k``. Every value here is a ``Statistic``. Those named ``RELATIVE_`` have
no unit: about one half to one where the picture is still the photo, on any network at any layer,
so that one weight of the style serves them all.
"""

from stylejax.statistics.moments import (
    COVARIANCE,
    GRAM,
    MEAN_GRAM,
    MEAN_STD,
    RELATIVE_COVARIANCE,
    RELATIVE_GRAM,
    RELATIVE_MEAN_STD,
    RELATIVE_WASSERSTEIN,
    WASSERSTEIN,
)
from stylejax.statistics.newton_schulz import MEAN_WASSERSTEIN
from stylejax.statistics.patches import PATCHES, RELATIVE_PATCHES
from stylejax.statistics.quantiles import (
    HISTOGRAM,
    RELATIVE_HISTOGRAM,
    RELATIVE_SLICED,
    SLICED,
)
from stylejax.statistics.statistic import Statistic, mixed

__all__ = [
    "COVARIANCE",
    "GRAM",
    "HISTOGRAM",
    "MEAN_GRAM",
    "MEAN_STD",
    "MEAN_WASSERSTEIN",
    "PATCHES",
    "RELATIVE_COVARIANCE",
    "RELATIVE_GRAM",
    "RELATIVE_HISTOGRAM",
    "RELATIVE_MEAN_STD",
    "RELATIVE_PATCHES",
    "RELATIVE_SLICED",
    "RELATIVE_WASSERSTEIN",
    "SLICED",
    "WASSERSTEIN",
    "Statistic",
    "mixed",
]
