"""Jobs that share a compiled call: one as a cell of a sweep, and what is told of its result."""

import jax
import numpy as np

from stylejax import record, sweeps
from stylejax.job import Job, Made
from stylejax.optimizers import Status
from stylejax.transfer import Result


def cell(own: Job) -> sweeps.Cell:
    """The job as ``sweeps`` takes it."""
    key = jax.random.key(own.given["seed"])
    config, loss_weights = own.preset.config, own.preset.loss_weights
    guides = own.marked.guides if own.marked else None
    return sweeps.Cell(
        own.params, own.content, own.styles, config, loss_weights, key, own.init, guides
    )


def made(own: Job, result: Result, seconds: float) -> Made:
    """As a run of its own would tell of it, but for the start's row in its history.

    Args:
      own: the job.
      result: its result, in NumPy arrays.
      seconds: of the call that made it.
    """
    sizes = own.preset.config.sizes(*own.content.shape[:2])
    trace, evaluations = [], 0
    for scale, (rows, (height, width)) in enumerate(zip(result.history, sizes, strict=True)):
        evaluations += int(rows.evaluations[-1])
        status = Status(int(result.status)) if scale == len(sizes) - 1 else Status.RUNNING
        loss = float(rows.terms.total[-1])
        taken = jax.tree.map(lambda column, rows=rows: column[rows.taken], rows)
        trace.append(record.Entry(scale, width, height, status, evaluations, loss, taken))
    return Made(np.asarray(result.image), trace, seconds)
