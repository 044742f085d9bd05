"""An optimizer in coordinates in which the inputs of every kernel are white."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

DAMPING = 1e-3  # of the mean second moment of a layer's inputs

Params = dict[str, dict[str, Any]]


class WhitenedState(NamedTuple):
    """By layer the matrix that whitens its inputs; the state of the optimizer behind it."""

    whitening: dict[str, jax.Array]
    inner: Any


def whitened(
    inner: optax.GradientTransformation, moments: dict[str, jax.Array]
) -> optax.GradientTransformation:
    """The optimizer in coordinates in which the inputs of every kernel are white.

    Features are far from independent, and Adam, which scales each weight alone, would undo in a few
    steps what least squares have found. A kernel is ``W V`` with ``W`` the inverse square root of
    its inputs' second moments, and the optimizer moves ``V``.
    """

    def along(whitening: dict[str, jax.Array], tree: Params) -> Params:
        turned = {
            name: tree[name]
            | {
                "kernel": (matrix @ tree[name]["kernel"].reshape(len(matrix), -1)).reshape(
                    tree[name]["kernel"].shape
                )
            }
            for name, matrix in whitening.items()
        }
        return tree | turned

    def init(params: Params) -> WhitenedState:
        whitening = {}
        for name, moment in moments.items():
            values, vectors = np.linalg.eigh(np.asarray(moment, np.float64))
            scaled = vectors / np.sqrt(np.maximum(values, 0) + DAMPING * values.mean())
            whitening[name] = jnp.asarray(scaled @ vectors.T, jnp.float32)
        return WhitenedState(whitening, inner.init(params))

    def update(gradient: Params, state: Any, params: Any = None) -> tuple[Params, WhitenedState]:
        found, after = inner.update(along(state.whitening, gradient), state.inner)
        return along(state.whitening, found), WhitenedState(state.whitening, after)

    return optax.GradientTransformation(init, update)
