"""What six programs minimise, each written from its source in NumPy, with the derivative by hand.

The oracle of the presets: nothing of the package is imported, and nothing of it is assumed. Every
program has its own pixels, its own features, its own sums. Pictures are ``[H, W, 3]`` in [0, 1];
a network is ``{"conv1_1": (kernel [3, 3, in, out], bias [out]), ...}`` as its checkpoint has it.
``reference.py`` has the layers again as loops; a test compares the two.
"""

import numpy as np

MEAN = np.array([103.939, 116.779, 123.68])  # blue, green, red
STD = np.array([0.229, 0.224, 0.225])  # red, green, blue
TORCH_MEAN = np.array([0.485, 0.456, 0.406])


# The network


def _padded(x, edge):
    return np.pad(x, ((1, 1), (1, 1), (0, 0)), "edge" if edge else "constant")


def convolve(x, kernel, bias, edge=False):
    h, w, _ = x.shape
    p = _padded(x, edge)
    places = [(i, j) for i in range(3) for j in range(3)]
    return bias + sum(p[i : i + h, j : j + w] @ kernel[i, j] for i, j in places)


def convolve_back(g, kernel, edge=False):
    h, w, _ = g.shape
    p = np.zeros((h + 2, w + 2, kernel.shape[2]))
    for i in range(3):
        for j in range(3):
            p[i : i + h, j : j + w] += g @ kernel[i, j].T
    if edge:  # what a repeated pixel did falls back on it
        p[1], p[-2] = p[1] + p[0], p[-2] + p[-1]
        p[:, 1], p[:, -2] = p[:, 1] + p[:, 0], p[:, -2] + p[:, -1]
    return p[1:-1, 1:-1]


def _fitted(x, up, fill):
    """Even sides: an odd last line is dropped, or gets a neighbour of ``fill``."""
    h, w, _ = x.shape
    if up:
        return np.pad(x, ((0, h % 2), (0, w % 2), (0, 0)), constant_values=fill)
    return x[: h // 2 * 2, : w // 2 * 2]


def _corners(x):
    return np.stack([x[0::2, 0::2], x[0::2, 1::2], x[1::2, 0::2], x[1::2, 1::2]])


def max_pool(x, up):
    return _corners(_fitted(x, up, -np.inf)).max(0)


def max_pool_back(x, g, up):
    fitted = _fitted(x, up, -np.inf)
    first = _corners(fitted).argmax(0)  # of equal ones the first
    back = np.zeros(fitted.shape)
    for corner, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        back[i::2, j::2] = np.where(first == corner, g, 0)
    whole = np.zeros(x.shape)
    h, w = min(x.shape[0], back.shape[0]), min(x.shape[1], back.shape[1])
    whole[:h, :w] = back[:h, :w]
    return whole


def run(network, x, layers, *, up=False, edge=False):
    """Features at layers, and a function that takes their gradients back to ``x``."""
    kept, found, block = [], {}, "1"
    for name, (kernel, bias) in network.items():
        if name[4] != block:
            block = name[4]
            kept.append(("pool", "", x))
            x = max_pool(x, up)
        kept.append(("conv", name, x))
        x = convolve(x, kernel, bias, edge and name == "conv1_1")
        kept.append(("relu", name.replace("conv", "relu"), x))
        x = found[name.replace("conv", "relu")] = np.maximum(x, 0)
        if found.keys() >= set(layers):
            break
    top = x.shape

    def back(gradients):
        g = np.zeros(top)
        for kind, name, x in reversed(kept):
            if kind == "relu":
                g = (g + gradients.get(name, 0)) * (x > 0)
            elif kind == "conv":
                g = convolve_back(g, network[name][0], edge and name == "conv1_1")
            else:
                g = max_pool_back(x, g, up)
        return g

    return {layer: found[layer] for layer in layers}, back


# Terms: values, and derivatives to the features


def mean_square(F, P):
    return np.mean((F - P) ** 2), 2 * (F - P) / F.size


def gram(F):
    flat = F.reshape(-1, F.shape[2])
    return flat.T @ flat


def through_gram(F, dG):
    return (F.reshape(-1, F.shape[2]) @ (dG + dG.T)).reshape(F.shape)


def mean_square_of_grams(F, A, scale):
    """``mean (G / scale(F) - A)^2``, ``A`` scaled already."""
    difference = gram(F) / scale(F) - A
    dG = 2 * difference / difference.size / scale(F)
    return np.mean(difference**2), through_gram(F, dG)


def caffe(image, white):
    """Blue, green, red, minus the mean; ``white`` is 255 or 256."""
    return image[..., ::-1] * white - MEAN


def caffe_back(g, white):
    return g[..., ::-1] * white


def unit(g):
    """neural-style's -normalize_gradients."""
    return g / (np.abs(g).sum() + 1e-8)


# Programs: each returns the terms by name and the gradient to the picture


def neural_style(
    network, picture, photo, paintings, content, style, *, blend=None, normalise=False
):
    """neural_style.lua: content_weight 5, style_weight 100, tv_weight 1e-3.

    The total variation is a gradient only there; its value here is that whose gradient it is.
    """
    return _neural_style(
        network, picture, photo, paintings, content, style, blend, 256.0, True, normalise
    )


def neural_style_pt(network, picture, photo, paintings, content, style, *, blend=None):
    """neural_style.py of the port."""
    return _neural_style(
        network, picture, photo, paintings, content, style, blend, 255.0, False, False
    )


def _neural_style(
    network, picture, photo, paintings, content, style, blend, white, torch7, normalise
):
    layers = list(dict.fromkeys([*content, *style]))
    wanted = run(network, caffe(photo, white), content, up=torch7)[0]
    blend = np.ones(len(paintings)) if blend is None else np.asarray(blend)
    blend = blend / blend.sum()
    grams = dict.fromkeys(style, 0.0)
    for share, painting in zip(blend, paintings, strict=True):
        for layer, F in run(network, caffe(painting, white), style, up=torch7)[0].items():
            grams[layer] = grams[layer] + share * gram(F) / F.size
    x = caffe(picture, white)
    seen, back = run(network, x, layers, up=torch7)
    terms, gradients = {}, {layer: 0.0 for layer in layers}
    for layer in content:
        value, g = mean_square(seen[layer], wanted[layer])
        terms["content", layer] = 5 * value
        gradients[layer] = gradients[layer] + 5 * (unit(g) if normalise else g)
    for layer in style:
        value, g = mean_square_of_grams(seen[layer], grams[layer], np.size)
        terms["style", layer] = 100 * value
        gradients[layer] = gradients[layer] + 100 * (unit(g) if normalise else g)
    variation = torch7_variation if torch7 else torch_variation
    value, g = variation(x)
    terms["tv"] = 1e-3 * value
    return terms, caffe_back(back(gradients) + 1e-3 * g, white)


def torch7_variation(x):
    """The gradient as TVLoss adds it up, and the function it is the gradient of."""
    g = np.zeros(x.shape)
    right = x[:-1, :-1] - x[:-1, 1:]
    down = x[:-1, :-1] - x[1:, :-1]
    g[:-1, :-1] += right + down
    g[:-1, 1:] -= right
    g[1:, :-1] -= down
    return (np.sum(right**2) + np.sum(down**2)) / 2, g


def torch_variation(x):
    down, right = x[1:] - x[:-1], x[:, 1:] - x[:, :-1]
    g = np.zeros(x.shape)
    g[1:] += np.sign(down)
    g[:-1] -= np.sign(down)
    g[:, 1:] += np.sign(right)
    g[:, :-1] -= np.sign(right)
    return np.abs(down).sum() + np.abs(right).sum(), g


def gatys_notebook(network, picture, photo, painting, content, style):
    """PytorchNeuralStyleTransfer: MSE of Gram matrices over positions, 1e3 / n^2 for n filters."""
    layers = list(dict.fromkeys([*content, *style]))
    wanted = run(network, caffe(photo, 255), content)[0]
    painted = run(network, caffe(painting, 255), style)[0]

    def positions(F):
        return F.shape[0] * F.shape[1]

    seen, back = run(network, caffe(picture, 255), layers)
    terms, gradients = {}, {layer: 0.0 for layer in layers}
    for layer in content:
        terms["content", layer], gradients[layer] = mean_square(seen[layer], wanted[layer])
    for layer in style:
        A = gram(painted[layer]) / positions(painted[layer])
        weight = 1e3 / len(A) ** 2
        value, g = mean_square_of_grams(seen[layer], A, positions)
        terms["style", layer] = weight * value
        gradients[layer] = gradients[layer] + weight * g
    return terms, caffe_back(back(gradients), 255)


def keras_example(network, picture, photo, painting, content, style):
    """The example of keras.io; the painting has the picture's size there."""
    layers = list(dict.fromkeys([*content, *style]))
    wanted = run(network, caffe(photo, 255), content)[0]
    painted = run(network, caffe(painting, 255), style)[0]
    x = caffe(picture, 255)
    seen, back = run(network, x, layers)
    terms, gradients = {}, {layer: 0.0 for layer in layers}
    for layer in content:
        difference = seen[layer] - wanted[layer]
        terms["content", layer] = 2.5e-8 * np.sum(difference**2)
        gradients[layer] = gradients[layer] + 2.5e-8 * 2 * difference
    size = picture.shape[0] * picture.shape[1]
    for layer in style:
        difference = gram(seen[layer]) - gram(painted[layer])
        weight = 1e-6 / len(style) / (4.0 * 3**2 * size**2)
        terms["style", layer] = weight * np.sum(difference**2)
        gradients[layer] = gradients[layer] + through_gram(seen[layer], weight * 2 * difference)
    down, right = x[:-1, :-1] - x[1:, :-1], x[:-1, :-1] - x[:-1, 1:]
    squares = down**2 + right**2
    terms["tv"] = 1e-6 * np.sum(squares**1.25)
    slope = 1e-6 * 2.5 * squares**0.25
    g = np.zeros(x.shape)
    g[:-1, :-1] += slope * (down + right)
    g[1:, :-1] -= slope * down
    g[:-1, 1:] -= slope * right
    return terms, caffe_back(back(gradients) + g, 255)


def newton_schulz(a, steps):
    norm = np.sqrt(np.sum(a**2))
    y, z, eye = a / norm, np.eye(len(a)), np.eye(len(a))
    for _ in range(steps):
        t = (3 * eye - z @ y) / 2
        y, z = y @ t, t @ z
    return y * np.sqrt(norm)


def lyapunov(root, g, steps):
    """The derivative of a square root as the program solves for it."""
    norm = np.sqrt(np.sum(root**2))
    a, q, eye = root / norm, g / norm, np.eye(len(root))
    for _ in range(steps):
        t = 3 * eye - a @ a
        q = (q @ t - a.T @ (a.T @ q - q @ a)) / 2
        a = a @ t / 2
    return q / 2


def crowsonkb(network, picture, photo, paintings, content, style, weights, *, blend=None):
    """style-transfer-pytorch at its default weights; ``weights`` are those of the style layers."""
    layers = list(dict.fromkeys([*content, *style]))

    def features(image, names):
        return run(network, (image - TORCH_MEAN) / STD, names, edge=True)

    wanted = features(photo, content)[0]
    blend = np.ones(len(paintings)) if blend is None else np.asarray(blend)
    blend = blend / blend.sum()
    means, moments = dict.fromkeys(style, 0.0), dict.fromkeys(style, 0.0)
    for share, painting in zip(blend, paintings, strict=True):
        for layer, F in features(painting, style)[0].items():
            count = F.shape[0] * F.shape[1]
            means[layer] = means[layer] + share * F.mean((0, 1))
            moments[layer] = moments[layer] + share * gram(F) / count
    seen, back = features(picture, layers)
    terms, gradients = {}, {layer: 0.0 for layer in layers}
    for layer in content:
        value, g = mean_square(seen[layer], wanted[layer])
        terms["content", layer] = 0.015 / len(content) * value
        gradients[layer] = 0.015 / len(content) * g
    for layer, weight in zip(style, weights, strict=True):
        noise = 1e-4 * np.eye(len(means[layer]))
        B = moments[layer] - np.outer(means[layer], means[layer]) + noise
        value, g = wasserstein(seen[layer], means[layer], B, noise)
        terms["style", layer] = weight * value
        gradients[layer] = gradients[layer] + weight * g
    value, g = nine_points(picture)
    terms["tv"] = 2 * value
    return terms, back(gradients) / STD + 2 * g


def wasserstein(F, wanted, B, noise):
    channels = F.shape[2]
    flat = F.reshape(-1, channels)
    m = flat.mean(0)
    A = flat.T @ flat / len(flat) - np.outer(m, m) + noise
    R = newton_schulz(B, 12)
    inner = newton_schulz(R @ A @ R, 12)
    value = np.mean((m - wanted) ** 2) + np.mean(np.diagonal(A + B - 2 * inner))
    back = lyapunov(inner, -2 / channels * np.eye(channels), 12)
    dA = np.eye(channels) / channels + R.T @ back @ R.T
    dm = 2 * (m - wanted) / channels - (dA + dA.T) @ m
    g = (flat @ (dA + dA.T) + dm) / len(flat)
    return value, g.reshape(F.shape)


def nine_points(x):
    """Pixel by pixel and neighbour by neighbour."""
    p = np.pad(x, ((1, 1), (1, 1), (0, 0)), "edge")
    h, w, _ = x.shape
    g, value = np.zeros(p.shape), 0.0
    for di, dj, rows, columns, share in (
        (0, 1, range(1, h + 1), range(1, w + 1), 1 / 3),
        (1, 0, range(1, h + 1), range(1, w + 1), 1 / 3),
        (1, 1, range(h + 1), range(w + 1), 1 / 12),
        (1, -1, range(h + 1), range(1, w + 2), 1 / 12),
    ):
        count = len(rows) * len(columns) * 3
        for i in rows:
            for j in columns:
                difference = p[i + di, j + dj] - p[i, j]
                value += 2 * share / count * np.sum(difference**2)
                g[i + di, j + dj] += 4 * share / count * difference
                g[i, j] -= 4 * share / count * difference
    g[1], g[-2] = g[1] + g[0], g[-2] + g[-1]
    g[:, 1], g[:, -2] = g[:, 1] + g[:, 0], g[:, -2] + g[:, -1]
    return value, g[1:-1, 1:-1]
