"""The objective after N evaluations: ours against SciPy's L-BFGS-B on the very same objective.

python benchmarks/against_scipy.py PHOTO PAINTING [--size 320] [--evaluations 100]

One scale, content start, average pooling, float32, memory 20 for both. SciPy calls the same
compiled value-and-gradient function. Prints the loss every ten evaluations and the ratio.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import scipy.optimize

from stylejax import (
    DEFAULT_WEIGHTS,
    Config,
    evaluate,
    images,
    iterate,
    make_targets,
    vgg,
    weights,
)


def scipy_curve(
    params: vgg.Params, content: np.ndarray, style: np.ndarray, config: Config, n: int
) -> list:
    """The lowest loss so far after each of SciPy's first ``n`` evaluations."""
    loss_weights = DEFAULT_WEIGHTS
    targets = jax.jit(make_targets, static_argnames="config")(
        params, content, [style], loss_weights, config=config
    )
    compute = jax.jit(jax.value_and_grad(evaluate, has_aux=True), static_argnames="config")
    losses: list[float] = []

    def fun(flat: np.ndarray) -> tuple[float, np.ndarray]:
        image = flat.reshape(content.shape).astype(np.float32)
        (value, _), gradient = compute(image, params, targets, loss_weights, config=config)
        losses.append(min(float(value), losses[-1] if losses else np.inf))
        return float(value), np.asarray(gradient, np.float64).ravel()

    options = {"maxcor": 20, "maxfun": n, "maxiter": n, "ftol": 0.0, "gtol": 0.0}
    start = content.astype(np.float64).ravel()
    scipy.optimize.minimize(fun, start, jac=True, method="L-BFGS-B", options=options)
    return losses[:n]


def our_curve(
    params: vgg.Params,
    content: np.ndarray,
    style: np.ndarray,
    config: Config,
    n: int,
    *,
    init: np.ndarray | None = None,
) -> list[float]:
    """The loss after each of our first ``n`` evaluations (the last accepted one's)."""
    run = list(iterate(params, content, [style], config=config, init=init))
    done, loss = (
        np.concatenate([take(progress.history) for progress in run])
        for take in (lambda rows: rows.evaluations, lambda rows: rows.terms.total)
    )
    steps = np.searchsorted(done, np.arange(1, n + 1), side="right")
    return [float(loss[step - 1]) for step in steps]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints both curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path)
    parser.add_argument("painting", type=Path)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--evaluations", type=int, default=100)
    arguments = parser.parse_args(argv)
    params = weights.load(weights.resolve())
    photo = images.load(arguments.photo).image
    height, width = images.fit(photo.shape[0], photo.shape[1], arguments.size)
    content = np.asarray(images.resize(photo, height, width))
    painting = images.load(arguments.painting).image
    height, width = images.fit(painting.shape[0], painting.shape[1], arguments.size)
    style = np.asarray(images.resize(painting, height, width))
    config = Config(scales=1, steps=arguments.evaluations)
    ours = our_curve(params, content, style, config, arguments.evaluations)
    scipys = scipy_curve(params, content, style, config, arguments.evaluations)
    print("evaluations      ours     scipy  ours/scipy")
    for k in range(9, arguments.evaluations, 10):
        print(f"{k + 1:11} {ours[k]:9.4f} {scipys[k]:9.4f} {ours[k] / scipys[k]:11.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
