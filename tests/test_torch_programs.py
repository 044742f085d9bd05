"""The same presets against PyTorch's own operations and autograd, where PyTorch is installed.

``programs.py`` has its derivatives by hand; here nobody has derived anything.
"""

import dataclasses

import numpy as np
import programs
import pytest
from numpy.testing import assert_allclose
from test_programs import CONTENT, STYLE, agree, as_caffe, as_torchvision, drawn, own, shallow

from stylejax import layers, presets

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compilation")


def tensor(image):
    return torch.tensor(image).permute(2, 0, 1)[None]


def features(params, x, *, up, edge):
    found, block = {}, "1"
    for name, (kernel, bias) in own(params).items():
        if name[4] != block:
            block, x = name[4], F.max_pool2d(x, 2, ceil_mode=up)
        mode = "replicate" if edge and name == "conv1_1" else "constant"
        x = F.pad(x, (1, 1, 1, 1), mode)
        kernel, bias = torch.tensor(kernel).permute(3, 2, 0, 1), torch.tensor(bias)
        x = found["relu" + name[4:]] = F.relu(F.conv2d(x, kernel, bias))
    return found


def gram(x):
    flat = x[0].flatten(1)
    return flat @ flat.T


def caffe(x, white):
    return x.flip(1) * white - torch.tensor(programs.MEAN)[None, :, None, None]


def result(terms, image):
    sum(terms.values()).backward()
    values = {key: float(value.detach()) for key, value in terms.items()}
    return values, image.grad[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("port", [False, True])
def test_neural_style(x64, rng, tiny, port):
    pictures = drawn(rng, (9, 13), (9, 13), (11, 8))
    white = 255 if port else 256
    image, photo, painting = map(tensor, pictures)
    image.requires_grad_()
    x, *others = (caffe(x, white) for x in (image, photo, painting))
    seen, wanted, painted = (features(tiny, y, up=not port, edge=False) for y in (x, *others))
    terms = {("content", n): 5 * F.mse_loss(seen[n], wanted[n]) for n in CONTENT}
    for n in STYLE:
        grams = (gram(y[n]) / y[n].nelement() for y in (seen, painted))
        terms["style", n] = 100 * F.mse_loss(*grams)
    if port:
        down, right = x[:, :, 1:] - x[:, :, :-1], x[..., 1:] - x[..., :-1]
        terms["tv"] = 1e-3 * (down.abs().sum() + right.abs().sum())
    else:
        here = x[:, :, :-1, :-1]
        squares = (x[:, :, 1:, :-1] - here) ** 2 + (x[:, :, :-1, 1:] - here) ** 2
        terms["tv"] = 1e-3 / 2 * squares.sum()
    preset = presets.NEURAL_STYLE_PT if port else presets.NEURAL_STYLE
    agree(
        shallow(preset, (1, 1, 1)), as_caffe(tiny), pictures, result(terms, image), tolerance=1e-10
    )


def test_crowsonkb_where_its_roots_have_arrived(x64, rng, tiny):
    """Against the exact distance: eigenvalues of a symmetric root, differentiated by PyTorch.

    Where no covariance is nearly singular the program's twelve steps are the root, and its
    derivative the derivative.
    """
    pictures = drawn(rng, (17, 15), (17, 15), (16, 18))
    params = as_torchvision(tiny)
    names = STYLE[:1]  # as many positions as it takes
    mean, std = (torch.tensor(a)[None, :, None, None] for a in (programs.TORCH_MEAN, programs.STD))
    image, photo, painting = map(tensor, pictures)
    image.requires_grad_()
    seen, wanted, painted = (
        features(params, (y - mean) / std, up=False, edge=True) for y in (image, photo, painting)
    )

    def moments(y):
        flat = y[0].flatten(1)
        m = flat.mean(1)
        return m, flat @ flat.T / flat.shape[1] - torch.outer(m, m) + 1e-4 * torch.eye(len(m))

    def root(matrix):
        values, vectors = torch.linalg.eigh(matrix)
        return vectors * values.sqrt() @ vectors.T

    terms = {("content", n): 0.015 * F.mse_loss(seen[n], wanted[n]) for n in CONTENT}
    for n in names:
        (m, a), (w, b) = moments(seen[n]), moments(painted[n])
        half = root(b)
        spread = torch.diagonal(a + b - 2 * root(half @ a @ half)).mean()
        terms["style", n] = F.mse_loss(m, w) + spread
    p = F.pad(image, (1, 1, 1, 1), "replicate")
    middle = p[..., 1:-1, 1:-1]
    terms["tv"] = 4 / 3 * (
        F.mse_loss(p[..., 1:-1, 2:], middle) + F.mse_loss(p[..., 2:, 1:-1], middle)
    ) + 1 / 3 * (
        F.mse_loss(p[..., 1:, 1:], p[..., :-1, :-1]) + F.mse_loss(p[..., 1:, :-1], p[..., :-1, 1:])
    )
    preset = presets.CROWSONKB
    config = dataclasses.replace(preset.config, content_layers=CONTENT, style_layers=names)
    weights = preset.loss_weights._replace(style_layers={names[0]: 1.0})
    preset = preset._replace(config=config, loss_weights=weights)
    agree(preset, params, pictures, result(terms, image), tolerance=1e-5)


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (1, 1)])
def test_poolings(rng, size):
    x = rng.uniform(size=(*size, 3)).astype(np.float32)
    y = tensor(x)
    expected = {layers.max_pool_ceil: F.max_pool2d(y, 2, ceil_mode=True)}
    if min(size) > 1:
        expected[layers.average_pool_doubled] = 2 * F.avg_pool2d(y, 2)
        expected[layers.l2_pool] = 0.78 * F.lp_pool2d(y, 2.0, 2)
    for pool, found in expected.items():
        assert_allclose(pool(x), found[0].permute(1, 2, 0), rtol=1e-6, err_msg=pool.__name__)
