"""The 2-Wasserstein distance as K. Crowson's style-transfer-pytorch computes it.

Square roots of matrices by a fixed number of Newton-Schulz steps: products only, which a GPU is
quick at, and an approximation where eigenvalues are small. ``WASSERSTEIN`` has the exact distance.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from stylejax.losses import at_least_tiny
from stylejax.statistics.moments import GaussianSums, gaussian, gaussian_sums
from stylejax.statistics.statistic import Statistic, per_position, weighted_mean

# Both are the program's.
_STEPS = 12
_NOISE = 1e-4


def _product(*matrices: jax.Array) -> jax.Array:
    result = matrices[0]
    for matrix in matrices[1:]:
        result = jnp.matmul(result, matrix, precision="highest")
    return result


def _norm(matrix: jax.Array) -> jax.Array:
    return jnp.sqrt(at_least_tiny(jnp.sum(jnp.square(matrix))))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def square_root(matrix: jax.Array, steps: int) -> jax.Array:
    """The square root of a symmetric matrix ``[c, c]`` by Newton-Schulz steps.

    ``Y <- Y T, Z <- T Z, T = (3 I - Z Y) / 2`` from ``Y = A / |A|`` and ``Z = I``. The derivative
    solves the Lyapunov equation ``dA = R dR + dR R`` by as many steps, as if ``R`` were exact: Lin
    and Maji, "Improved Bilinear Pooling with CNNs", 2017. An eigenvalue less than about
    ``(2 / 3)^(2 steps)`` of the norm has not arrived, and its root comes out too small.
    """
    size = _norm(matrix)
    eye = jnp.eye(len(matrix), dtype=matrix.dtype)

    def step(_: int, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        y, z = pair
        t = (3 * eye - _product(z, y)) / 2
        return _product(y, t), _product(t, z)

    # A loop, because dozens of products at every layer take long to compile.
    y, _ = jax.lax.fori_loop(0, steps, step, (matrix / size, eye))
    return y * jnp.sqrt(size)


def _square_root_forward(matrix: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    root = square_root(matrix, steps)
    return root, root


def _square_root_backward(steps: int, root: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    size = _norm(root)
    eye = jnp.eye(len(root), dtype=root.dtype)

    def step(_: int, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        a, q = pair
        t = 3 * eye - _product(a, a)
        q = (_product(q, t) - _product(a.T, _product(a.T, q) - _product(q, a))) / 2
        return _product(a, t) / 2, q

    _, q = jax.lax.fori_loop(0, steps, step, (root / size, cotangent / size))
    return (q / 2,)


square_root.defvjp(_square_root_forward, _square_root_backward)


class RootTarget(NamedTuple):
    """Mean ``[c]``, covariance with noise ``[c, c]``, and its square root ``[c, c]``."""

    mean: jax.Array
    covariance: jax.Array
    root: jax.Array


def _noisy(mean: jax.Array, covariance: jax.Array) -> jax.Array:
    """With 1e-4 on the diagonal; where there is little but rounding, with more than that.

    Not the program's: rounding makes eigenvalues of a flat image's covariance negative, and the
    steps towards their roots then run to infinity.
    """
    rounding = jnp.finfo(mean.dtype).eps * jnp.sum(jnp.square(mean))
    flat = rounding > 1e-5 * _norm(covariance)
    noise = jax.lax.stop_gradient(jnp.where(flat, jnp.maximum(4 * rounding, _NOISE), _NOISE))
    return covariance + noise * jnp.eye(len(covariance), dtype=covariance.dtype)


def mean_wasserstein_distance(sums: GaussianSums, target: RootTarget) -> jax.Array:
    """``mean (m - m')^2 + mean diag(A + B - 2 (B^1/2 A B^1/2)^1/2)``, ``A = C + 1e-4 I``, ``B`` so.

    The squared 2-Wasserstein distance between normal distributions over the number of channels.
    The noise is an absolute number: of features in torchvision's units, about 58 times smaller
    than the original VGG-19's.
    """
    mean, covariance = gaussian(sums)
    noisy = _noisy(mean, covariance)
    shared = square_root(_product(target.root, noisy, target.root), _STEPS)
    spread = jnp.diagonal(noisy + target.covariance - 2 * shared)
    return jnp.mean(jnp.square(mean - target.mean)) + jnp.mean(spread)


def mean_wasserstein_blend(sums: Sequence[GaussianSums], shares: jax.Array) -> RootTarget:
    """The normal distribution whose mean and raw second moments are the weighted means'.

    The program's blend, with which two styles are one of both their positions together: the
    distance between their means is spread. ``gaussian_blend`` has none of that.
    """
    mean = weighted_mean([per_position(s.total, s.positions) for s in sums], shares)
    moments = weighted_mean([per_position(s.gram, s.positions) for s in sums], shares)
    one = jnp.ones((), mean.dtype)
    noisy = _noisy(mean, gaussian(GaussianSums(moments, mean, one)).covariance)
    return RootTarget(mean, noisy, square_root(noisy, _STEPS))


MEAN_WASSERSTEIN = Statistic(
    gaussian_sums,
    mean_wasserstein_distance,
    mean_wasserstein_blend,
    name="mean wasserstein",
    additive=True,
)
