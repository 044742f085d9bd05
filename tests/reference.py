"""The oracle: slow NumPy in float64, written from the sums of the papers, one loop per index.

    Gatys, Ecker, Bethge, "A Neural Algorithm of Artistic Style", arXiv:1508.06576, 2015
    Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016

Both number their equations alike; the numbers below are theirs. The oracle imports nothing of the
package it judges and uses no identity or trick: where the paper has a sum, here is a loop.

Images and features are `[H, W, C]`, 3x3 kernels `[3, 3, in, out]`. A feature map `F` with
`N = C` filters and `M = H * W` positions is the paper's matrix `F[i][k]`, filter `i` at position
`k`, positions in row-major order. Anything NumPy can read is accepted; arrays come back float64.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Array = np.ndarray


# Layers of the network


def _array(x) -> Array:
    return np.asarray(x, dtype=np.float64)


def _source(index: int, size: int, padding: str) -> int | None:
    """Which row or column a padded `index` shows; None where the padding is zero."""
    if padding not in ("zero", "replicate", "circular"):
        raise ValueError(f"padding is {padding!r}; it is 'zero', 'replicate' or 'circular'")
    if 0 <= index < size:
        return index
    if padding == "circular":
        return index % size
    if padding == "zero":
        return None
    return 0 if index < 0 else size - 1


def _taps(height: int, width: int, padding: str):
    """Every `(i, j, di, dj, si, sj)`: output pixel, kernel entry, the input pixel they meet at."""
    for i in range(height):
        for j in range(width):
            for di in range(3):
                for dj in range(3):
                    si = _source(i + di - 1, height, padding)
                    sj = _source(j + dj - 1, width, padding)
                    if si is not None and sj is not None:
                        yield i, j, di, dj, si, sj


def convolve(x, kernel, bias=None, padding: str = "zero") -> Array:
    """3x3 cross-correlation of `[H, W, in]` with stride 1, to `[H, W, out]`.

    `y[i, j, d] = bias[d] + sum_{di, dj, c} x[i + di - 1, j + dj - 1, c] kernel[di, dj, c, d]`,
    where pixels outside the image are 0 ("zero"), the nearest pixel inside ("replicate"), or those
    of another copy of the image laid beside it ("circular").
    """
    x, kernel = _array(x), _array(kernel)
    height, width, inputs = x.shape
    outputs = kernel.shape[3]
    b = [0.0] * outputs if bias is None else _array(bias).tolist()
    y = [[list(b) for _ in range(width)] for _ in range(height)]
    x, kernel = x.tolist(), kernel.tolist()
    for i, j, di, dj, si, sj in _taps(height, width, padding):
        for c in range(inputs):
            for d in range(outputs):
                y[i][j][d] += x[si][sj][c] * kernel[di][dj][c][d]
    return _array(y)


def convolve_gradient(x, kernel, cotangent, padding: str = "zero") -> tuple[Array, Array]:
    """`(dx, dkernel)` of `sum_{ijd} cotangent[i, j, d] convolve(x, kernel)[i, j, d]`."""
    x, kernel, cotangent = _array(x), _array(kernel), _array(cotangent)
    height, width, inputs = x.shape
    outputs = kernel.shape[3]
    dx, dkernel = np.zeros(x.shape).tolist(), np.zeros(kernel.shape).tolist()
    x, kernel, cotangent = x.tolist(), kernel.tolist(), cotangent.tolist()
    for i, j, di, dj, si, sj in _taps(height, width, padding):
        for c in range(inputs):
            for d in range(outputs):
                dx[si][sj][c] += cotangent[i][j][d] * kernel[di][dj][c][d]
                dkernel[di][dj][c][d] += cotangent[i][j][d] * x[si][sj][c]
    return _array(dx), _array(dkernel)


def relu(x) -> Array:
    """`max(x, 0)`, entry by entry."""
    x = _array(x)
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        y[index] = x[index] if x[index] > 0 else 0.0
    return y


def relu_gradient(x, cotangent) -> Array:
    """The cotangent where `x > 0`, else 0: also 0 at `x = 0`, as in eqs. (2) and (6)."""
    x, cotangent = _array(x), _array(cotangent)
    dx = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        dx[index] = cotangent[index] if x[index] > 0 else 0.0
    return dx


def _windows(shape, up: bool = False):
    """Every output index `(i, j, c)` of a 2x2 pooling with its input indices, row-major.

    An odd last row or column is dropped, or, rounding `up`, has windows of two pixels or one.
    """
    height, width, channels = shape
    for i in range((height + up) // 2):
        for j in range((width + up) // 2):
            for c in range(channels):
                window = [(2 * i + a, 2 * j + b, c) for a in range(2) for b in range(2)]
                yield (i, j, c), [(a, b, c) for a, b, c in window if a < height and b < width]


def average_pool(x) -> Array:
    """The mean of each 2x2 window of `[H, W, C]`; an odd last row or column is dropped."""
    x = _array(x)
    y = np.zeros((x.shape[0] // 2, x.shape[1] // 2, x.shape[2]))
    for out, window in _windows(x.shape):
        for index in window:
            y[out] += x[index] / 4
    return y


def max_pool(x, up: bool = False) -> Array:
    """The maximum of each 2x2 window of `[H, W, C]`; an odd last line is dropped, or `up` kept."""
    x = _array(x)
    y = np.zeros(((x.shape[0] + up) // 2, (x.shape[1] + up) // 2, x.shape[2]))
    for out, window in _windows(x.shape, up):
        y[out] = max(x[index] for index in window)
    return y


def max_pool_ceil(x) -> Array:
    """Caffe's rounding: sides of `ceil(H / 2)` and `ceil(W / 2)`."""
    return max_pool(x, up=True)


def l2_pool(x) -> Array:
    """`0.78` times the root of the sum of squares of each 2x2 window."""
    x = _array(x)
    y = np.zeros((x.shape[0] // 2, x.shape[1] // 2, x.shape[2]))
    for out, window in _windows(x.shape):
        y[out] = 0.78 * math.sqrt(sum(x[index] ** 2 for index in window))
    return y


def l2_pool_gradient(x, cotangent) -> Array:
    """`0.78 x / |window|` times the window's cotangent; 0 where the window is zero."""
    x, cotangent = _array(x), _array(cotangent)
    dx = np.zeros(x.shape)
    for out, window in _windows(x.shape):
        size = math.sqrt(sum(x[index] ** 2 for index in window))
        for index in window:
            dx[index] += cotangent[out] * 0.78 * x[index] / size if size > 0 else 0.0
    return dx


def average_pool_gradient(x, cotangent) -> Array:
    """A quarter of the window's cotangent to each of its pixels; 0 to a dropped row or column."""
    x, cotangent = _array(x), _array(cotangent)
    dx = np.zeros(x.shape)
    for out, window in _windows(x.shape):
        for index in window:
            dx[index] += cotangent[out] / 4
    return dx


def max_pool_gradient(x, cotangent, up: bool = False) -> Array:
    """The window's cotangent to its maximum; of equal maxima the first in row-major order."""
    x, cotangent = _array(x), _array(cotangent)
    dx = np.zeros(x.shape)
    for out, window in _windows(x.shape, up):
        largest = window[0]
        for index in window:
            if x[index] > x[largest]:
                largest = index
        dx[largest] += cotangent[out]
    return dx


def max_pool_ceil_gradient(x, cotangent) -> Array:
    return max_pool_gradient(x, cotangent, up=True)


# The network


def preprocess(image, kernel, bias) -> Array:
    """The network's input: `y[i, j, d] = bias[d] + sum_c image[i, j, c] kernel[c, d]`."""
    image, kernel, bias = _array(image), _array(kernel), _array(bias)
    height, width, inputs = image.shape
    y = np.zeros((height, width, kernel.shape[1]))
    for i in range(height):
        for j in range(width):
            for d in range(kernel.shape[1]):
                y[i, j, d] = bias[d]
                for c in range(inputs):
                    y[i, j, d] += image[i, j, c] * kernel[c, d]
    return y


def _sequence(blocks: Sequence[int]) -> list[str]:
    """Layer names in order, e.g. conv1_1, relu1_1, conv1_2, relu1_2, pool1, conv2_1, ..."""
    names = []
    for block, convolutions in enumerate(blocks, start=1):
        for number in range(1, convolutions + 1):
            names += [f"conv{block}_{number}", f"relu{block}_{number}"]
        names.append(f"pool{block}")
    return names


def _run(params, image, layers, blocks, pooling, padding) -> list[tuple[str, Array, Array]]:
    """`(name, input, output)` of each layer, up to the deepest one of `layers`."""
    names = _sequence(blocks)
    for layer in layers:
        if layer not in names:
            raise ValueError(f"no layer {layer!r} in {names}")
    pool = {"average": average_pool, "max": max_pool, "max-ceil": max_pool_ceil}[pooling]
    depth = max(names.index(layer) for layer in layers)
    x = preprocess(image, params["input"]["kernel"], params["input"]["bias"])
    trace = []
    for name in names[: depth + 1]:
        if name.startswith("conv"):
            edges = padding if name == "conv1_1" else "zero"
            y = convolve(x, params[name]["kernel"], params[name]["bias"], edges)
        elif name.startswith("relu"):
            y = relu(x)
        else:
            y = pool(x)
        trace.append((name, x, y))
        x = y
    return trace


def features(
    params: Mapping,
    image,
    layers: Sequence[str],
    blocks: Sequence[int],
    pooling: str = "average",
    padding: str = "zero",
) -> dict[str, Array]:
    """The activations of a VGG at `layers` for one image `[H, W, 3]`.

    `blocks` has the number of convolutions of each block, `(2, 2, 4, 4, 4)` for VGG-19.
    `convB_C` is before the ReLU, `reluB_C` after it, `poolB` after the pooling that ends block B.
    `params` is `{"input": {"kernel": [3, 3], "bias": [3]}, "conv1_1": {"kernel", "bias"}, ...}`.
    `padding` is the first convolution's; all others pad with zeros.
    """
    trace = _run(params, image, layers, blocks, pooling, padding)
    return {name: y for name, _, y in trace if name in layers}


def features_gradient(
    params: Mapping,
    image,
    cotangents: Mapping[str, Array],
    blocks: Sequence[int],
    pooling: str = "average",
    padding: str = "zero",
) -> Array:
    """The gradient to the image of `sum_l <cotangents[l], features[l]>`, by back-propagation.

    With `cotangents[l] = dL/dF^l` it is the `dL/dx` with which the papers change the image.
    """
    pool_gradient = {
        "average": average_pool_gradient,
        "max": max_pool_gradient,
        "max-ceil": max_pool_ceil_gradient,
    }[pooling]
    trace = _run(params, image, list(cotangents), blocks, pooling, padding)
    dx = np.zeros(trace[-1][2].shape)
    for name, x, _ in reversed(trace):
        if name in cotangents:
            dx = dx + _array(cotangents[name])
        if name.startswith("conv"):
            edges = padding if name == "conv1_1" else "zero"
            dx, _ = convolve_gradient(x, params[name]["kernel"], dx, edges)
        elif name.startswith("relu"):
            dx = relu_gradient(x, dx)
        else:
            dx = pool_gradient(x, dx)
    return preprocess(dx, _array(params["input"]["kernel"]).T, [0.0, 0.0, 0.0])


# Losses


def _filters(F) -> list[list[float]]:
    """`F[i][k]`: filter `i` at position `k` of `[h, w, c]` features."""
    F = _array(F)
    height, width, channels = F.shape
    return [
        [float(F[row, column, i]) for row in range(height) for column in range(width)]
        for i in range(channels)
    ]


def content_loss(F, P) -> float:
    """Eq. (1): `1/2 sum_ij (F_ij - P_ij)^2` of the picture's features and the photograph's."""
    F, P = _filters(F), _filters(P)
    total = 0.0
    for i in range(len(F)):
        for j in range(len(F[0])):
            total += (F[i][j] - P[i][j]) ** 2
    return total / 2


def content_gradient(F, P) -> Array:
    """Eq. (2): `F - P` where `F > 0`, else 0.

    The condition is the ReLU's: this is the derivative with respect to the ReLU's input, where
    `F` is its output.
    """
    F, P = _array(F), _array(P)
    gradient = np.zeros(F.shape)
    for index in np.ndindex(F.shape):
        gradient[index] = F[index] - P[index] if F[index] > 0 else 0.0
    return gradient


def gram(F) -> Array:
    """Eq. (3): `G_ij = sum_k F_ik F_jk`, `[c, c]`, not normalised."""
    F = _filters(F)
    N, M = len(F), len(F[0])
    G = np.zeros((N, N))
    for i in range(N):
        for j in range(N):
            for k in range(M):
                G[i, j] += F[i][k] * F[j][k]
    return G


def _positions(F) -> int:
    return np.shape(F)[0] * np.shape(F)[1]


def style_layer_loss(F, A_features) -> float:
    """Eq. (4): `E_l = 1/(4 N^2 M^2) sum_ij (G_ij - A_ij)^2`.

    For a painting with another number of positions `M_a` (the paper has none) each Gram matrix is
    divided by its own: `1/(4 N^2) sum_ij (G_ij / M - A_ij / M_a)^2`, which is eq. (4) if equal.
    """
    G, A = gram(F), gram(A_features)
    N, M, M_a = len(G), _positions(F), _positions(A_features)
    total = 0.0
    for i in range(N):
        for j in range(N):
            total += (G[i, j] / M - A[i, j] / M_a) ** 2
    return total / (4 * N**2)


def style_layer_gradient(F, A_features) -> Array:
    """Eq. (6): `dE_l/dF_ij = 1/(N^2 M^2) (F^T (G - A))_ji` where `F_ij > 0`, else 0.

    Generalised as eq. (4) is: `1/(N^2 M) sum_n F_nj (G_ni / M - A_ni / M_a)`. The condition is
    the ReLU's, as in eq. (2).
    """
    G, A, f = gram(F), gram(A_features), _filters(F)
    N, M, M_a = len(G), _positions(F), _positions(A_features)
    width = np.shape(F)[1]
    gradient = np.zeros(np.shape(F))
    for i in range(N):
        for j in range(M):
            if f[i][j] > 0:
                total = 0.0
                for n in range(N):
                    total += f[n][j] * (G[n, i] / M - A[n, i] / M_a)
                gradient[j // width, j % width, i] = total / (N**2 * M)
    return gradient


def style_loss(features: Mapping, style_features: Mapping, layer_weights: Mapping) -> float:
    """Eq. (5): `sum_l w_l E_l` over the layers of `layer_weights`."""
    total = 0.0
    for layer, weight in layer_weights.items():
        total += weight * style_layer_loss(features[layer], style_features[layer])
    return total


def blended_style_layer_loss(F, style_features: Sequence, style_weights: Sequence[float]) -> float:
    """Eq. (4) for several paintings (not in the papers).

    The target is the mean of their Gram matrices, each divided by its number of positions `M_s`,
    with weights that are first divided by their sum:
    `1/(4 N^2) sum_ij (G_ij / M - sum_s w_s A^s_ij / M_s)^2`.
    """
    G, M = gram(F), _positions(F)
    N = len(G)
    grams = [gram(A) for A in style_features]
    sizes = [_positions(A) for A in style_features]
    total = 0.0
    for i in range(N):
        for j in range(N):
            target = 0.0
            for weight, A, M_s in zip(style_weights, grams, sizes, strict=True):
                target += weight / sum(style_weights) * A[i, j] / M_s
            total += (G[i, j] / M - target) ** 2
    return total / (4 * N**2)


def _vectors(F) -> list[Array]:
    """The vector of channels at each position."""
    F = _array(F)
    return [F[row, column] for row in range(F.shape[0]) for column in range(F.shape[1])]


def _counts(F, weight) -> list[float]:
    return [1.0] * _positions(F) if weight is None else _array(weight).ravel().tolist()


def mean_and_covariance(F, weight=None) -> tuple[Array, Array]:
    """`m = sum_k w_k F_k / sum_k w_k` and `C = sum_k w_k (F_k - m)(F_k - m)^T / sum_k w_k`."""
    vectors, counts = _vectors(F), _counts(F, weight)
    mean = sum(w * f for w, f in zip(counts, vectors, strict=True)) / sum(counts)
    covariance = np.zeros((len(mean), len(mean)))
    for w, f in zip(counts, vectors, strict=True):
        covariance += w * np.outer(f - mean, f - mean)
    return mean, covariance / sum(counts)


def covariance_distance(F, A, weight=None, a_weight=None) -> float:
    """`1/(4 N^2) sum_ij (C_ij - C'_ij)^2`."""
    C, wanted = mean_and_covariance(F, weight)[1], mean_and_covariance(A, a_weight)[1]
    return float(np.sum((C - wanted) ** 2)) / (4 * len(C) ** 2)


def mean_std_distance(F, A, weight=None, a_weight=None) -> float:
    """`sum_i (m_i - m'_i)^2 + (s_i - s'_i)^2`, `s` the root of the mean squared deviation."""
    (m, C), (wanted, D) = mean_and_covariance(F, weight), mean_and_covariance(A, a_weight)
    total = 0.0
    for i in range(len(m)):
        total += (m[i] - wanted[i]) ** 2 + (math.sqrt(C[i, i]) - math.sqrt(D[i, i])) ** 2
    return total


def matrix_root(matrix: Array) -> Array:
    """The square root of a positive matrix, by Denman and Beavers' iteration."""
    root, inverse = matrix, np.eye(len(matrix))
    for _ in range(60):
        root, inverse = (
            (root + np.linalg.inv(inverse)) / 2,
            (inverse + np.linalg.inv(root)) / 2,
        )
    return root


def wasserstein_distance(F, A, weight=None, a_weight=None) -> float:
    """`|m - m'|^2 + tr(A + B - 2 (B^1/2 A B^1/2)^1/2)`.

    `A` and `B` are the covariances plus `e I`, `e = 0.001 sum_ij C'_ij^2 / sum_i C'_ii`.
    """
    (m, C), (wanted, D) = mean_and_covariance(F, weight), mean_and_covariance(A, a_weight)
    noise = 1e-3 * float(np.sum(D**2)) / float(np.trace(D)) * np.eye(len(m))
    root = matrix_root(D + noise)
    cross = matrix_root(root @ (C + noise) @ root)
    spread = np.trace(C + noise) + np.trace(D + noise) - 2 * np.trace(cross)
    return float(np.sum((m - wanted) ** 2) + spread)


def _quantile(values: list[float], counts: list[float], share: float) -> float:
    """The least value up to which the counts add up to `share` of their sum."""
    reached = 0.0
    for value, count in sorted(zip(values, counts, strict=True)):
        reached += count
        if reached >= share * sum(counts):
            return value
    return max(values)


def histogram_distance(F, A, weight=None, a_weight=None) -> float:
    """The mean over channels and ranks of the squared difference of quantiles.

    Each side has as many quantiles as positions, at the middles of equal shares; the painting's
    are brought to the picture's number by linear interpolation.
    """
    F, A = _array(F), _array(A)
    M, M_a = _positions(F), _positions(A)
    total = 0.0
    for i in range(F.shape[2]):
        f, a = F[:, :, i].ravel().tolist(), A[:, :, i].ravel().tolist()
        found = [_quantile(f, _counts(F, weight), (j + 0.5) / M) for j in range(M)]
        painted = [_quantile(a, _counts(A, a_weight), (j + 0.5) / M_a) for j in range(M_a)]
        for j in range(M):
            place = min(max((j + 0.5) * M_a / M - 0.5, 0.0), M_a - 1.0)
            low = int(place)
            high = min(low + 1, M_a - 1)
            wanted = painted[low] + (place - low) * (painted[high] - painted[low])
            total += (found[j] - wanted) ** 2
    return total / (M * F.shape[2])


def _patches(F, *, tile=False) -> list[Array]:
    """`[3, 3, c]` around every position.

    Beyond the border the nearest position repeats; of a tile it goes on from the other side.
    """
    F = _array(F)
    height, width, channels = F.shape
    found = []
    for row in range(height):
        for column in range(width):
            patch = np.zeros((3, 3, channels))
            for di in range(3):
                for dj in range(3):
                    i, j = row + di - 1, column + dj - 1
                    if tile:
                        i, j = i % height, j % width
                    patch[di, dj] = F[min(max(i, 0), height - 1), min(max(j, 0), width - 1)]
            found.append(patch)
    return found


def nearest_patches(F, A, *, tile=False) -> list[int]:
    """For every patch of `F` the number of `A`'s with the largest cosine."""
    matches = []
    for patch in _patches(F, tile=tile):
        cosines = [
            float(np.sum(patch * other)) / math.sqrt(np.sum(patch**2) * np.sum(other**2))
            for other in _patches(A)
        ]
        matches.append(cosines.index(max(cosines)))
    return matches


def patch_distance(F, A, weight=None, *, tile=False) -> float:
    """`sum_k w_k |P_k - Q_n(k)|^2` (CNNMRF's energy of style); `F` may be a tile."""
    painted, own = _patches(A), _patches(F, tile=tile)
    matches = nearest_patches(F, A, tile=tile)
    total = 0.0
    for patch, match, w in zip(own, matches, _counts(F, weight), strict=True):
        total += w * float(np.sum((patch - painted[match]) ** 2))
    return total


def total_loss(
    features: Mapping,
    content_features: Mapping,
    style_features: Mapping,
    layer_weights: Mapping,
    alpha: float,
    beta: float,
) -> float:
    """Eq. (7): `alpha L_content + beta L_style`; the content layers are `content_features`'s."""
    content = 0.0
    for layer, P in content_features.items():
        content += content_loss(features[layer], P)
    return alpha * content + beta * style_loss(features, style_features, layer_weights)


def _neighbours(shape):
    """Every pair of neighbouring entries: one row, or one column, apart in the same channel."""
    height, width, channels = shape
    for i in range(height):
        for j in range(width):
            for c in range(channels):
                if i + 1 < height:
                    yield (i, j, c), (i + 1, j, c)
                if j + 1 < width:
                    yield (i, j, c), (i, j + 1, c)


def total_variation(image) -> float:
    """The sum of squared differences of neighbouring pixels, along x and along y, all channels."""
    image = _array(image)
    total = 0.0
    for here, there in _neighbours(image.shape):
        total += float(image[there] - image[here]) ** 2
    return total


def total_variation_gradient(image) -> Array:
    """`2 (x_there - x_here)` of each pair, added to the one and taken from the other."""
    image = _array(image)
    gradient = np.zeros(image.shape)
    for here, there in _neighbours(image.shape):
        gradient[there] += 2 * (image[there] - image[here])
        gradient[here] -= 2 * (image[there] - image[here])
    return gradient


# Photorealism


def matting_laplacian(photo, epsilon: float = 1e-7) -> Array:
    """`[H W, H W]`, Levin, Lischinski and Weiss 2008, equation 12, pixels in row-major order.

    The papers' epsilon is the default. `L_ij = sum over the 3x3 windows w_k that have i and j of
    delta_ij - 1/|w_k| (1 + (I_i - mu_k)^T (Sigma_k + epsilon/|w_k| 1)^-1 (I_j - mu_k))`
    """
    photo = _array(photo)
    height, width, _ = photo.shape
    laplacian = np.zeros((height * width, height * width))
    for top in range(height - 2):
        for left in range(width - 2):
            window = [(top + i, left + j) for i in range(3) for j in range(3)]
            mean = sum(photo[place] for place in window) / 9
            covariance = sum(np.outer(photo[p] - mean, photo[p] - mean) for p in window) / 9
            inverse = np.linalg.inv(covariance + epsilon / 9 * np.eye(3))
            for i, j in window:
                for k, l in window:  # noqa: E741
                    alike = float((i, j) == (k, l))
                    affinity = 1 + (photo[i, j] - mean) @ inverse @ (photo[k, l] - mean)
                    laplacian[i * width + j, k * width + l] += alike - affinity / 9
    return laplacian


def matting(image, laplacian) -> float:
    """`sum over colours c of v_c^T L v_c` (Luan et al. 2017, equation 2)."""
    colours = _array(image).reshape(-1, 3).T
    return sum(float(v @ laplacian @ v) for v in colours)


def matting_gradient(image, laplacian) -> Array:
    """`2 L v_c` for every colour."""
    image = _array(image)
    return (2 * laplacian @ image.reshape(-1, 3)).reshape(image.shape)


# Minimisation


def _dot(a: Array, b: Array) -> float:
    return float(np.sum(a * b))


def rounded(x, digits: int) -> Array:
    """To so many binary digits, ties to even: 8 are bfloat16's, 24 float32's, in their range."""
    x = _array(x)
    parts = [math.frexp(value) for value in x.ravel()]
    near = [math.ldexp(round(math.ldexp(part, digits)), power - digits) for part, power in parts]
    return np.reshape(near, x.shape)


def lbfgs_direction(gradient, pairs: Sequence[tuple[Array, Array]], stretch: float = 1) -> Array:
    """`-H gradient` by the two-loop recursion (Nocedal and Wright, algorithm 7.4).

    `pairs` has the steps and gradient changes `(s, y)`, oldest first. `H` starts from the largest
    `(s.y / y.y) I`, at most `stretch` times the newest pair's, or from `I` without any.
    """
    q = _array(gradient).copy()
    coefficients = []
    for s, y in reversed(pairs):
        coefficients.append(_dot(s, q) / _dot(s, y))
        q = q - coefficients[-1] * y
    if pairs:
        scales = [_dot(s, y) / _dot(y, y) for s, y in pairs]
        q = min(max(scales), stretch * scales[-1]) * q
    for (s, y), coefficient in zip(pairs, reversed(coefficients), strict=True):
        q = q + (coefficient - _dot(y, q) / _dot(s, y)) * s
    return -q


def _wolfe(value_and_grad, x, value, gradient, direction, step):
    """Bisection for a step with sufficient decrease (1e-4) and curvature (0.9); None if none."""
    slope = _dot(gradient, direction)
    low, high = 0.0, math.inf
    for _ in range(60):
        new_value, new_gradient = value_and_grad(x + step * direction)
        new_value, new_gradient = float(new_value), _array(new_gradient)
        # Negated, so that a value that is not a number counts as too far.
        if not new_value <= value + 1e-4 * step * slope:
            high = step
        elif _dot(new_gradient, direction) < 0.9 * slope:
            low = step
        else:
            return x + step * direction, new_value, new_gradient
        step = 2 * low if high == math.inf else (low + high) / 2
    return None


def lbfgs(value_and_grad: Callable, x0, steps: int, memory: int = 20) -> tuple[Array, list[float]]:
    """Minimise by L-BFGS: the last point, and the values at `x0` and after each step.

    Ends before `steps` where the gradient is 0 or the line search finds no lower value, which in
    float64 is the minimum to rounding. Every step meets the Wolfe conditions, so the values fall.
    """
    x = _array(x0)
    value, gradient = value_and_grad(x)
    value, gradient = float(value), _array(gradient)
    values = [value]
    pairs: list[tuple[Array, Array]] = []
    for _ in range(steps):
        size = math.sqrt(_dot(gradient, gradient))
        if size == 0:
            break
        step = 1.0 if pairs else min(1.0, 1.0 / size)
        direction = lbfgs_direction(gradient, pairs)
        found = _wolfe(value_and_grad, x, value, gradient, direction, step)
        if found is None:
            break
        new_x, value, new_gradient = found
        pairs = [*pairs, (new_x - x, new_gradient - gradient)][-memory:]
        x, gradient = new_x, new_gradient
        values.append(value)
    return x, values


def full_steps(value_and_grad: Callable, x0, steps: int, memory: int) -> tuple[Array, list[int]]:
    """L-BFGS without a line search, as Torch7's `optim.lbfgs` has it: `x0` and every point after.

    The first step is `-g min(1, 1 / sum |g|)`, the others are `-H g`; a pair is kept where
    `y.s > 1e-10`. Also the numbers of the steps whose pairs were kept.
    """
    points, kept = [_array(x0)], []
    pairs: list[tuple[Array, Array]] = []
    gradient = _array(value_and_grad(points[0])[1])
    for number in range(steps):
        direction = lbfgs_direction(gradient, pairs)
        if number == 0:
            direction = direction * min(1.0, 1.0 / float(np.sum(np.abs(gradient))))
        points.append(points[-1] + direction)
        before, gradient = gradient, _array(value_and_grad(points[-1])[1])
        if _dot(direction, gradient - before) > 1e-10:
            pairs = [*pairs, (direction, gradient - before)][-memory:]
            kept.append(number)
    return np.stack(points), kept


def adam(value_and_grad: Callable, x0, steps: int, rate, b1, b2, eps, clamp=False) -> Array:
    """Kingma and Ba, algorithm 1: `x0` and every point after, clipped to [0, 1] if wanted."""
    points = [_array(x0)]
    m, v = 0 * points[0], 0 * points[0]
    for t in range(1, steps + 1):
        g = _array(value_and_grad(points[-1])[1])
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        x = points[-1] - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        points.append(np.minimum(np.maximum(x, 0), 1) if clamp else x)
    return np.stack(points)


def linear_resample(image, height: int, width: int) -> Array:
    """Enlarged `[h, w, ...]`: between the two nearest centres of pixels, the last beyond them."""
    image = _array(image)
    for axis, size in enumerate((height, width)):
        old = image.shape[axis]
        rows = []
        for i in range(size):
            place = min(max((i + 0.5) * old / size - 0.5, 0), old - 1)
            low = min(int(place), old - 2)
            share = place - low
            rows.append((1 - share) * image.take(low, axis) + share * image.take(low + 1, axis))
        image = np.stack(rows, axis)
    return image


def finite_difference(f: Callable, x, direction, step: float = 1e-5) -> float:
    """The slope of `f` at `x` along `direction`: `(f(x + h d) - f(x - h d)) / (2 h)`.

    The error is `O(h^2)` from the third derivative and `O(1e-16 |f| / h)` from rounding; `f` must
    be smooth on the segment (no ReLU or maximum may switch).
    """
    x, direction = _array(x), _array(direction)
    return float(f(x + step * direction) - f(x - step * direction)) / (2 * step)


# Colours


def srgb_to_linear(value: float) -> float:
    """IEC 61966-2-1, for a value in [0, 1]."""
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def oklab(colour: Sequence[float]) -> Array:
    """Of one sRGB colour, by way of CIE XYZ (D65), as Ottosson's article derives it (2020)."""
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    light = [srgb_to_linear(float(value)) for value in colour]
    return oklab_of_xyz([sum(row[k] * light[k] for k in range(3)) for row in to_xyz])


def oklab_of_xyz(xyz: Sequence[float]) -> Array:
    """Ottosson's M1, cube roots, M2."""
    m1 = [
        [0.8189330101, 0.3618667424, -0.1288597137],
        [0.0329845436, 0.9293118715, 0.0361456387],
        [0.0482003018, 0.2643662691, 0.6338517070],
    ]
    m2 = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    cones = [sum(row[k] * xyz[k] for k in range(3)) for row in m1]
    roots = [math.copysign(abs(cone) ** (1 / 3), cone) for cone in cones]
    return _array([sum(row[k] * roots[k] for k in range(3)) for row in m2])


def colour_moments(image) -> tuple[Array, Array]:
    """Mean and covariance of the colours of `[H, W, 3]`, divided by the number of pixels."""
    pixels = _array(image).reshape(-1, 3)
    mean = _array([sum(pixel[c] for pixel in pixels) / len(pixels) for c in range(3)])
    covariance = np.zeros((3, 3))
    for pixel in pixels:
        for c in range(3):
            for d in range(3):
                covariance[c, d] += (pixel[c] - mean[c]) * (pixel[d] - mean[d]) / len(pixels)
    return mean, covariance


def square_root(matrix) -> Array:
    """Of a positive definite matrix, by the iteration of Denman and Beavers."""
    y, z = _array(matrix), np.eye(len(matrix))
    for _ in range(50):
        y, z = (y + np.linalg.inv(z)) / 2, (z + np.linalg.inv(y)) / 2
    return y


def cholesky(matrix) -> Array:
    """The lower triangle `L` with positive diagonal and `L L^T = matrix`, entry by entry."""
    matrix = _array(matrix)
    lower = np.zeros_like(matrix)
    for i in range(len(matrix)):
        for j in range(i + 1):
            rest = matrix[i, j] - sum(lower[i, k] * lower[j, k] for k in range(j))
            lower[i, j] = math.sqrt(rest) if i == j else rest / lower[j, j]
    return lower


def colour_map(style, photo, kind: str) -> Array:
    """`A` with `A S A^T = C` for the covariances of painting and photo (Gatys et al. 2016).

    `"symmetric"` is Monge's map, `L^-T (L^T C L)^1/2 L^-1` with `S = L L^T`.
    """
    (_, s), (_, c) = colour_moments(style), colour_moments(photo)
    lower = cholesky(s)
    inverse = np.linalg.inv(lower)
    if kind == "cholesky":
        return cholesky(c) @ inverse
    if kind == "pca":
        return square_root(c) @ np.linalg.inv(square_root(s))
    if kind == "symmetric":
        return inverse.T @ square_root(lower.T @ c @ lower) @ inverse
    raise ValueError(f"kind is {kind!r}; it is 'cholesky', 'pca' or 'symmetric'")


def match_histogram(values: Sequence[float], wanted: Sequence[float]) -> Array:
    """Each value becomes the wanted quantile of its rank; equal values share their middle rank."""
    ordered, wanted = sorted(map(float, values)), sorted(map(float, wanted))
    matched = []
    for value in map(float, values):
        below = sum(other < value for other in ordered)
        up_to = sum(other <= value for other in ordered)
        share = (below + up_to - 1) / 2 / (len(ordered) - 1)
        place = share * (len(wanted) - 1)
        index = min(math.floor(place), len(wanted) - 2)
        part = place - index
        matched.append((1 - part) * wanted[index] + part * wanted[index + 1])
    return _array(matched)
