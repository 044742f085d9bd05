"""Minimizers: pure bodies of loops that know nothing of style or VGG.

The contract is in ``minimizer``; ``Adam`` is optax's, ``JaxoptLbfgs`` and
``JaxoptLbfgsb`` are jaxopt's, which is imported only when one of the two runs.
"""

from stylejax.optimizers.adam import Adam
from stylejax.optimizers.descent import GradientDescent
from stylejax.optimizers.jaxopt_engines import JaxoptLbfgs, JaxoptLbfgsb
from stylejax.optimizers.lbfgs import BFLOAT16_NOISE, Lbfgs
from stylejax.optimizers.minimizer import Minimizer, State, Status

__all__ = [
    "BFLOAT16_NOISE",
    "Adam",
    "GradientDescent",
    "JaxoptLbfgs",
    "JaxoptLbfgsb",
    "Lbfgs",
    "Minimizer",
    "State",
    "Status",
]
