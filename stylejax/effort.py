"""How hard XLA tries with the programs that a host's loop calls: as much as their runs repay.

On CPU its own choice takes longest to compile and is not the fastest to run (docs/performance.md
has the seconds). Elsewhere, and where JAX is told to leave optimizations out, nothing is asked for;
what ``XLA_FLAGS`` says stands.
"""

import os
from functools import cache
from typing import Any

import jax

Options = tuple[tuple[str, Any], ...]

# Of programs that run for as long as a scale does; level 3, XLA's own, makes slower ones.
AT_LENGTH: Options = (("xla_backend_optimization_level", 2),)
# Of these where pictures are small: YNNPACK lays kernels out anew for every product, which shows
# where products have few rows, and has the convolutions alone. Eigen has the products then; of
# large pictures it is no quicker, and takes a tenth of a gigabyte more.
OFTEN: Options = (
    *AT_LENGTH,
    ("xla_cpu_experimental_ynn_fusion_type", "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"),
)
# Of those that run once, or are soon through: half the time to compile.
SELDOM: Options = (("xla_cpu_use_fusion_emitters", False), ("xla_backend_optimization_level", 1))
# Of those that run once on a small picture while a person waits.
AT_ONCE: Options = (("xla_cpu_use_fusion_emitters", False), ("xla_backend_optimization_level", 0))


def on_cpu(device: Any) -> bool:
    """Whether a device, or a platform's name, is a CPU."""
    return getattr(device, "platform", device) == "cpu"


def repaid(options: Options, device: Any) -> Options:
    """Those of the options that XLA knows, where the device is a CPU; elsewhere none."""
    if not on_cpu(device) or jax.config.read("jax_disable_most_optimizations"):
        return ()
    said = os.environ.get("XLA_FLAGS", "")
    options = tuple(option for option in options if option[0] not in said)
    return options if _known(options) else tuple(o for o in options if _known((o,)))


@cache
def _known(options: Options) -> bool:
    """Whether this XLA has them: they come and go with its versions."""
    lowered = jax.jit(lambda: 0).lower()
    try:
        lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError:
        return False
    return True
