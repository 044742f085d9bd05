"""A narrow VGG out of a wide one in closed form: the start of ``scripts/distill.py``.

Layer after layer: of the wide network's channels those are kept that predict the others best
(pivoted QR), and their kernels are fitted by least squares to what the narrow network itself has
computed so far, so that every layer makes up for the errors of those before it. No gradients.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import qr, solve

from stylejax import vgg
from stylejax.config import Config
from stylejax.layers import convolve_replicating

BATCH = 20  # pictures at a time
CHOOSING = 20_000  # positions looked at to choose the channels
ROUNDS = 12  # of least squares about the ReLU's kink
RIDGE = 1e-5  # of the mean diagonal of the normal matrix

Params = dict[str, dict[str, Any]]


def narrow(
    wide: vgg.Params,
    images: np.ndarray,
    colours: dict[str, np.ndarray],
    blocks: tuple[int, ...],
    widths: tuple[int, ...],
    rng: np.random.Generator,
) -> Params:
    """A network of the given widths whose channels imitate channels of ``wide``.

    Args:
      wide: VGG-19.
      images: ``[n, s, s, 3]`` in [0, 1], s a multiple of 16.
      colours: the ``input`` of the result.
      blocks: convolutions per block, at most as many as ``wide`` has.
      widths: channels per block.
      rng: chooses the positions.
    """
    size = images.shape[1]
    places = [
        [rng.choice(side**2, min(side**2, 64 if block > 1 else 100), replace=False) for _ in images]
        for block, side in enumerate(size // 2**b for b in range(len(blocks)))
    ]
    names = [f"conv{b}_{i}" for b, depth in enumerate(blocks, 1) for i in range(1, depth + 1)]
    wanted = _sampled_layers(wide, images, names, places)
    network: Params = {"input": {k: np.asarray(v, np.float32) for k, v in colours.items()}}
    x = images @ network["input"]["kernel"] + network["input"]["bias"]
    for name in names:
        block = vgg.block_of(name)
        if name.endswith("_1") and block > 1:
            x = _mapped(jax.vmap(Config().pool), x)
        seen = np.concatenate(list(_windows(x, places[block - 1])))
        network[name] = _fitted(seen, wanted.pop(name), widths[block - 1], rng)
        x = _mapped(partial(_layer, jax.tree.map(jnp.asarray, network[name])), x)
    return network


@partial(jax.jit, static_argnames="layers")
def input_moments(network: Params, images: jax.Array, *, layers: Sequence[str]) -> dict[str, Any]:
    """Second moments of what each convolution and each tap sees, averaged over positions.

    Args:
      network: a VGG.
      images: ``[n, s, s, 3]``.
      layers: those with a tap.

    Returns:
      ``[9 in, 9 in]`` by convolution, its rows as in a kernel ``[3, 3, in, out]`` laid flat;
      ``[in, in]`` by tap.
    """

    def moments(x: jax.Array) -> jax.Array:
        flat = x.reshape(-1, x.shape[-1])
        return flat.T @ flat / len(flat)

    found = {}
    x = images @ network["input"]["kernel"] + network["input"]["bias"][None, None, None]
    for name in (name for name in network if name.startswith("conv")):
        if name.endswith("_1") and vgg.block_of(name) > 1:
            x = jax.vmap(Config().pool)(x)
        found[name] = jax.lax.map(lambda one: moments(_patches(one[None])), x).mean(0)
        x = _layer(network[name], x)
        if (tap := name.replace("conv", "relu")) in layers:
            found[tap] = moments(x)
    return found


def _sampled_layers(
    wide: vgg.Params, images: np.ndarray, names: list[str], places: list[Any]
) -> dict[str, np.ndarray]:
    """What the wide network's convolutions give at the chosen places, ``[places, C]`` each."""
    config = Config()
    look = partial(vgg.features, wide, layers=names, pool=config.pool, padding=config.padding)
    look_at_all = jax.jit(partial(jax.lax.map, look))
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for start in range(0, len(images), BATCH):
        batch = look_at_all(jnp.asarray(images[start : start + BATCH]))
        for name in names:
            own = places[vgg.block_of(name) - 1][start : start + BATCH]
            found[name] += _taken(np.asarray(batch[name]), own)
    return {name: np.concatenate(each) for name, each in found.items()}


def _taken(features: np.ndarray, places: list[np.ndarray]) -> list[np.ndarray]:
    """``[n, h, w, c]`` at each picture's places."""
    flat = features.reshape(len(features), -1, features.shape[-1])
    return [picture[own] for picture, own in zip(flat, places, strict=True)]


@jax.jit
def _patches(x: jax.Array) -> jax.Array:
    """``[n, h, w, c]`` to ``[n, h, w, 9 c]``: the 3x3 neighbours, the border repeated."""
    h, w = x.shape[1:3]
    framed = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    return jnp.concatenate(
        [framed[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1
    )


def _windows(x: np.ndarray, places: list[np.ndarray]) -> Iterator[np.ndarray]:
    for start in range(0, len(x), BATCH):
        patches = np.asarray(_patches(x[start : start + BATCH]))
        yield from _taken(patches, places[start : start + BATCH])


def _mapped(function: Any, x: np.ndarray) -> np.ndarray:
    compiled = jax.jit(function)
    parts = [compiled(x[start : start + BATCH]) for start in range(0, len(x), BATCH)]
    return np.concatenate([np.asarray(part) for part in parts])


def _layer(arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    convolved = jax.lax.map(lambda one: convolve_replicating(one, arrays["kernel"]), x)
    return jax.nn.relu(convolved + arrays["bias"][None, None, None])


def _fitted(
    seen: np.ndarray, wanted: np.ndarray, width: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The convolution that makes ``width`` of the wanted channels from what is seen.

    What counts is the error behind the ReLU: where the wanted value is negative, any negative value
    will do. So the least squares are repeated with targets that follow the prediction there.
    """
    some = rng.choice(len(wanted), min(CHOOSING, len(wanted)), replace=False)
    _, _, order = qr(np.maximum(wanted[some], 0), mode="economic", pivoting=True)
    kept = np.sort(order[:width])
    scale = np.sqrt(np.mean(np.maximum(wanted[:, kept], 0) ** 2, 0)) + 1e-8
    wanted = wanted[:, kept] / scale
    seen = np.concatenate([seen, np.ones((len(seen), 1), np.float32)], axis=1)
    normal = (seen.T @ seen).astype(np.float64)
    normal[np.diag_indices(len(normal))] += RIDGE * np.trace(normal) / len(normal)
    target = np.maximum(wanted, 0)
    for _ in range(ROUNDS):
        found = solve(normal, (seen.T @ target).astype(np.float64), assume_a="pos")
        predicted = seen @ found.astype(np.float32)
        target = np.where((wanted < 0) & (predicted < 0), predicted, np.maximum(wanted, 0))
    found = found.astype(np.float32)
    return {"kernel": found[:-1].reshape(3, 3, -1, width), "bias": found[-1]}
