"""Neural style transfer as pure JAX functions.

The method of Gatys, Ecker and Bethge: VGG-19 activations of a picture are pulled towards those of
a photo and towards the Gram matrices of paintings, by minimising a loss over the pixels.
"""

# ruff: noqa: I001 - a table of contents, in the order in which a picture is made

# Pictures
from stylejax.images import load as load_image
from stylejax.images import save as save_image

# The network
from stylejax.vgg import VGG19, Architecture, features, random_params

# The objective
from stylejax.statistics import Statistic, mixed
from stylejax.colour import Colour
from stylejax.guides import Guides
from stylejax.config import Config
from stylejax.objective import DEFAULT_WEIGHTS, LossTerms, LossWeights, Targets
from stylejax.objective import evaluate, make_targets

# Optimizers
from stylejax.optimizers import Adam, JaxoptLbfgs, JaxoptLbfgsb, Lbfgs, Minimizer, Status

# Style transfer
from stylejax.transfer import History, Place, Progress, Result, iterate, stylize
from stylejax.sweeps import Cell, sweep

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_WEIGHTS",
    "VGG19",
    "Adam",
    "Architecture",
    "Cell",
    "Colour",
    "Config",
    "Guides",
    "History",
    "JaxoptLbfgs",
    "JaxoptLbfgsb",
    "Lbfgs",
    "LossTerms",
    "LossWeights",
    "Minimizer",
    "Place",
    "Progress",
    "Result",
    "Statistic",
    "Status",
    "Targets",
    "evaluate",
    "features",
    "iterate",
    "load_image",
    "make_targets",
    "mixed",
    "random_params",
    "save_image",
    "stylize",
    "sweep",
]
