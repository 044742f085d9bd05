"""The coefficients of the objective: how much each of its terms counts."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Number = float | jax.Array
Shares = Sequence[Number] | Sequence[Sequence[Number]] | jax.Array


class LossWeights(NamedTuple):
    """The coefficients of the objective: traced numbers, changing one never recompiles.

    Attributes:
      content: the paper's alpha.
      style: the paper's beta.
      tv: of the total variation, which the paper does not have.
      content_layers: weight of each content layer by name; None gives each the same share of 1.
      style_layers: the paper's ``w_l`` by name; None gives each the same share of 1.
      styles: ``[S]``, how much of each of S paintings, shares of their sum; or ``[R, S]``, a row
        for each of R regions; or one of these for every style layer by name: large shapes of one
        painting, grain of another. None blends equally, but gives each region a painting of its
        own where there are as many of both.
      regions: ``[R]``, how strongly style pulls in each region; None is 1 for each.
      dream: of ``losses.dream_loss`` at the config's ``dream_layers``, which the paper does not
        have; None is 0.
      photorealism: of ``matting.matting_loss``; needs ``Config(photorealism=True)``; None
        is 0.
    """

    content: Number = 1.0
    style: Number = 1.0
    tv: Number = 0.0
    content_layers: Mapping[str, Number] | None = None
    style_layers: Mapping[str, Number] | None = None
    styles: Shares | Mapping[str, Shares] | None = None
    regions: Sequence[Number] | jax.Array | None = None
    dream: Number | None = None
    photorealism: Number | None = None


# The default preset's, for relative losses: with them the photo stays legible and the strokes are
# the painting's (looked at from style = 10, timid, to 100, where a tower dissolved).
DEFAULT_WEIGHTS = LossWeights(content=1.0, style=20.0, tv=0.5)


def style_shares(given: Any, layer: str, regions: int, styles: int, dtype: Any) -> jax.Array:
    """``LossWeights.styles`` at a layer: ``[regions, styles]``, every row adding up to one."""
    if isinstance(given, Mapping):
        given = given[layer]
    if given is None:
        given = jnp.eye(styles) if regions == styles else jnp.ones(styles)
    rows = jnp.broadcast_to(jnp.asarray(given, dtype), (regions, styles))
    return rows / jnp.sum(rows, axis=1, keepdims=True)


def layer_weights(
    given: Mapping[str, Number] | None, names: tuple[str, ...]
) -> Mapping[str, Number]:
    """Weights by layer name, equal shares of 1 where none are given."""
    return {name: 1 / len(names) for name in names} if given is None else given
