"""The oracle against arithmetic done by hand, SciPy, and what the mathematics promises."""

import ast
from pathlib import Path

import numpy as np
import pytest
import reference
import scipy.linalg
from numpy.testing import assert_allclose, assert_array_equal
from scipy.signal import correlate2d

COUNTING = np.arange(1.0, 10.0).reshape(3, 3, 1, 1)  # the kernel 1 2 3 / 4 5 6 / 7 8 9
SQUARE = np.array([[[1.0], [2.0]], [[3.0], [4.0]]])  # the image 1 2 / 3 4
CORNER = np.array([[[1.0], [0.0]], [[0.0], [0.0]]])  # asks for the gradient of output (0, 0)

# Two filters at two positions: F_1 = (1, 3), F_2 = (2, 4).
F = np.array([[[1.0, 2.0], [3.0, 4.0]]])
# A painting of the same size: A_1 = (1, 0), A_2 = (0, 1), so A = 1 0 / 0 1.
A = np.array([[[1.0, 0.0], [0.0, 1.0]]])
# A painting of one position: A_1 = (2), A_2 = (0), so A = 4 0 / 0 0.
A_SMALL = np.array([[[2.0, 0.0]]])


def tiny_params(rng, widths=(3, 4), blocks=(2, 1)):
    params = {
        "input": {"kernel": rng.normal(size=(3, 3)), "bias": rng.normal(size=3)},
    }
    inputs = 3
    for block, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
        for number in range(1, count + 1):
            params[f"conv{block}_{number}"] = {
                "kernel": rng.normal(size=(3, 3, inputs, width)) / 3,
                "bias": rng.normal(size=width),
            }
            inputs = width
    return params


def test_the_oracle_is_independent():
    tree = ast.parse(Path(reference.__file__).read_text(encoding="utf-8"))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    assert modules == {"math", "collections.abc", "numpy"}


# Convolution


def test_convolve_by_hand():
    # Each output is centred on its pixel, and what lies outside is 0:
    #   (0, 0): 5*1 + 6*2 + 8*3 + 9*4 = 77    (0, 1): 4*1 + 5*2 + 7*3 + 8*4 = 67
    #   (1, 0): 2*1 + 3*2 + 5*3 + 6*4 = 47    (1, 1): 1*1 + 2*2 + 4*3 + 5*4 = 37
    assert_array_equal(reference.convolve(SQUARE, COUNTING)[:, :, 0], [[77, 67], [47, 37]])


def test_convolve_replicate_by_hand():
    # The padded image is 1 1 2 2 / 1 1 2 2 / 3 3 4 4 / 3 3 4 4. Row by row of the kernel:
    #   (0, 0): (1 + 2 + 6) + (4 + 5 + 12) + (21 + 24 + 36) = 111
    #   (0, 1): (1 + 4 + 6) + (4 + 10 + 12) + (21 + 32 + 36) = 126
    #   (1, 0): (1 + 2 + 6) + (12 + 15 + 24) + (21 + 24 + 36) = 141
    #   (1, 1): (1 + 4 + 6) + (12 + 20 + 24) + (21 + 32 + 36) = 156
    out = reference.convolve(SQUARE, COUNTING, padding="replicate")
    assert_array_equal(out[:, :, 0], [[111, 126], [141, 156]])


def test_convolve_mixes_channels_by_hand():
    # One pixel (2, 3) meets the kernel's centre only:
    #   2*1 + 3*100 + 0.5 = 302.5    2*10 + 3*1000 - 0.5 = 3019.5
    kernel = np.full((3, 3, 2, 2), 7.0)
    kernel[1, 1] = [[1, 10], [100, 1000]]
    out = reference.convolve([[[2, 3]]], kernel, [0.5, -0.5])
    assert_array_equal(out, [[[302.5, 3019.5]]])


@pytest.mark.parametrize(
    ("padding", "boundary"), [("zero", "fill"), ("replicate", "symm"), ("circular", "wrap")]
)
def test_convolve_against_scipy(rng, padding, boundary):
    x, kernel, bias = rng.normal(size=(5, 4, 3)), rng.normal(size=(3, 3, 3, 2)), rng.normal(size=2)
    expected = np.zeros((5, 4, 2))
    for d in range(2):
        expected[:, :, d] = bias[d]
        for c in range(3):
            # One pixel beyond the edge, a mirror that repeats the edge is replication.
            expected[:, :, d] += correlate2d(x[:, :, c], kernel[:, :, c, d], "same", boundary)
    assert_allclose(reference.convolve(x, kernel, bias, padding), expected, rtol=1e-13, atol=1e-13)


def test_convolve_rejects_unknown_padding():
    with pytest.raises(ValueError, match="reflect"):
        reference.convolve(SQUARE, COUNTING, padding="reflect")


def test_convolve_gradient_by_hand():
    # y(0, 0) = 5 x(0, 0) + 6 x(0, 1) + 8 x(1, 0) + 9 x(1, 1): those are dx, and the pixels each
    # kernel entry met are dkernel.
    dx, dkernel = reference.convolve_gradient(SQUARE, COUNTING, CORNER)
    assert_array_equal(dx[:, :, 0], [[5, 6], [8, 9]])
    assert_array_equal(dkernel[:, :, 0, 0], [[0, 0, 0], [0, 1, 2], [0, 3, 4]])


def test_convolve_replicate_gradient_by_hand():
    # The window of (0, 0) is 1 1 2 / 1 1 2 / 3 3 4, so x(0, 0) met 1 + 2 + 4 + 5 = 12,
    # x(0, 1) met 3 + 6 = 9, x(1, 0) met 7 + 8 = 15 and x(1, 1) met 9.
    dx, dkernel = reference.convolve_gradient(SQUARE, COUNTING, CORNER, "replicate")
    assert_array_equal(dx[:, :, 0], [[12, 9], [15, 9]])
    assert_array_equal(dkernel[:, :, 0, 0], [[1, 1, 2], [1, 1, 2], [3, 3, 4]])


def test_convolve_circular_by_hand():
    # The window of (0, 0) in the plane of copies of 1 2 / 3 4 is 4 3 4 / 2 1 2 / 4 3 4.
    window = np.array([[4, 3, 4], [2, 1, 2], [4, 3, 4]])
    out = reference.convolve(SQUARE, COUNTING, padding="circular")
    assert out[0, 0, 0] == np.sum(window * COUNTING[:, :, 0, 0])
    # x(0, 0) met 5; x(0, 1), left and right of it, 4 + 6; x(1, 0) 2 + 8; x(1, 1) 1 + 3 + 7 + 9.
    dx, dkernel = reference.convolve_gradient(SQUARE, COUNTING, CORNER, "circular")
    assert_array_equal(dx[:, :, 0], [[5, 10], [10, 20]])
    assert_array_equal(dkernel[:, :, 0, 0], window)


@pytest.mark.parametrize("padding", ["zero", "replicate", "circular"])
def test_convolve_gradient_is_the_adjoint(rng, padding):
    # Convolution is linear in the image and in the kernel: <c, x * k> = <dx, x> = <dk, k>.
    x, kernel = rng.normal(size=(4, 5, 2)), rng.normal(size=(3, 3, 2, 3))
    cotangent = rng.normal(size=(4, 5, 3))
    inner = np.sum(cotangent * reference.convolve(x, kernel, padding=padding))
    # Another image and another kernel probe dx and dkernel beyond the pair that made them.
    other_x, other_kernel = rng.normal(size=x.shape), rng.normal(size=kernel.shape)
    inner_x = np.sum(cotangent * reference.convolve(other_x, kernel, padding=padding))
    inner_kernel = np.sum(cotangent * reference.convolve(x, other_kernel, padding=padding))
    dx, dkernel = reference.convolve_gradient(x, kernel, cotangent, padding)
    assert_allclose([np.sum(dx * x), np.sum(dkernel * kernel)], inner, rtol=1e-12)
    assert_allclose(np.sum(dx * other_x), inner_x, rtol=1e-12)
    assert_allclose(np.sum(dkernel * other_kernel), inner_kernel, rtol=1e-12)


# ReLU and pooling


def test_relu_by_hand():
    assert_array_equal(reference.relu([[[-2.0, 0.0, 3.0]]]), [[[0, 0, 3]]])
    # Open only above 0, at 0 it is shut.
    assert_array_equal(
        reference.relu_gradient([[[-2.0, 0.0, 3.0]]], [[[5.0, 6.0, 7.0]]]), [[[0, 0, 7]]]
    )


def test_pool_by_hand():
    # (1 + 2 + 3 + 4) / 4 = 2.5
    assert_array_equal(reference.average_pool(SQUARE), [[[2.5]]])
    assert_array_equal(reference.max_pool(SQUARE), [[[4]]])


def test_max_pool_of_negative_values_by_hand():
    assert_array_equal(reference.max_pool(-SQUARE), [[[-1]]])


def test_pool_drops_odd_edges():
    # Rows 1 2 3 4 5 / 6 7 8 9 10 / 11 12 13 14 15: only 1 2 6 7 and 3 4 8 9 are seen.
    x = np.arange(1.0, 16.0).reshape(3, 5, 1)
    assert_array_equal(reference.average_pool(x)[:, :, 0], [[4, 6]])
    assert_array_equal(reference.max_pool(x)[:, :, 0], [[7, 9]])
    cotangent = np.array([[[4.0], [8.0]]])
    assert_array_equal(
        reference.average_pool_gradient(x, cotangent)[:, :, 0],
        [[1, 1, 2, 2, 0], [1, 1, 2, 2, 0], [0, 0, 0, 0, 0]],
    )
    assert_array_equal(
        reference.max_pool_gradient(x, cotangent)[:, :, 0],
        [[0, 0, 0, 0, 0], [0, 4, 0, 8, 0], [0, 0, 0, 0, 0]],
    )


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 4, 2), (4, 1, 2)])
def test_pool_of_a_single_row_or_column_is_empty(shape):
    expected = (shape[0] // 2, shape[1] // 2, 2)
    assert reference.average_pool(np.ones(shape)).shape == expected
    assert reference.max_pool(np.ones(shape)).shape == expected
    assert_array_equal(reference.max_pool_gradient(np.ones(shape), np.zeros(expected)), 0)


def test_max_pool_gradient_gives_ties_to_the_first():
    # Rows first: of 1 2 / 2 2 it is the top right; of four equal ones the top left.
    x = np.array([[[1.0], [2.0], [5.0], [5.0]], [[2.0], [2.0], [5.0], [5.0]]])
    dx = reference.max_pool_gradient(x, [[[3.0], [7.0]]])
    assert_array_equal(dx[:, :, 0], [[0, 3, 7, 0], [0, 0, 0, 0]])


def test_pool_gradients_against_finite_differences(rng):
    x, direction, cotangent = (rng.normal(size=s) for s in [(5, 4, 2), (5, 4, 2), (2, 2, 2)])
    for pool, gradient in [
        (reference.average_pool, reference.average_pool_gradient),
        (reference.max_pool, reference.max_pool_gradient),
    ]:
        slope = reference.finite_difference(
            lambda z, pool=pool: np.sum(cotangent * pool(z)), x, direction, 1e-6
        )
        assert_allclose(np.sum(gradient(x, cotangent) * direction), slope, rtol=1e-8)


# The network


def test_preprocess_by_hand():
    # RGB (1, 2, 4) to BGR times 10, less (1, 2, 3): (40 - 1, 20 - 2, 10 - 3).
    kernel = [[0, 0, 10], [0, 10, 0], [10, 0, 0]]
    assert_array_equal(reference.preprocess([[[1, 2, 4]]], kernel, [-1, -2, -3]), [[[39, 18, 7]]])
    # And one that is not symmetric: y_d = sum_c x_c kernel[c, d], (1*1 + 2*0 + 4*5, 1*2, 1*3).
    kernel = [[1, 2, 3], [0, 0, 0], [5, 0, 0]]
    assert_array_equal(reference.preprocess([[[1, 2, 4]]], kernel, [0, 0, 0]), [[[21, 2, 3]]])


def network_by_hand():
    """Two blocks of one convolution whose kernels have only their centre: sums to do by hand."""
    first, second = np.zeros((3, 3, 3, 1)), np.zeros((3, 3, 1, 1))
    first[1, 1, :, 0] = [1, 2, -1]
    second[1, 1, 0, 0] = 2
    return {
        "input": {"kernel": [[0, 0, 10], [0, 10, 0], [10, 0, 0]], "bias": [-1, -2, -3]},
        "conv1_1": {"kernel": first, "bias": [1]},
        "conv2_1": {"kernel": second, "bias": [-30]},
    }


@pytest.mark.parametrize(
    ("pooling", "pool1", "conv2_1", "relu2_1"),
    # (0 + 19 + 9 + 19) / 4 = 11.75, 2 * 11.75 - 30 = -6.5; max 19, 2 * 19 - 30 = 8
    [("average", 11.75, -6.5, 0), ("max", 19, 8, 8)],
)
def test_features_by_hand(pooling, pool1, conv2_1, relu2_1):
    # Red, green / blue, white enter the network as (10 b - 1, 10 g - 2, 10 r - 3):
    #   (-1, -2, 7) (-1, 8, -3) / (9, -2, -3) (9, 8, 7),  and y = x_1 + 2 x_2 - x_3 + 1:
    #   -1 - 4 - 7 + 1 = -11    -1 + 16 + 3 + 1 = 19
    #    9 - 4 + 3 + 1 = 9       9 + 16 - 7 + 1 = 19
    image = np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 1]]])
    layers = ["conv1_1", "relu1_1", "pool1", "conv2_1", "relu2_1"]
    out = reference.features(network_by_hand(), image, layers, (1, 1), pooling)
    assert list(out) == layers
    assert_array_equal(out["conv1_1"][:, :, 0], [[-11, 19], [9, 19]])
    assert_array_equal(out["relu1_1"][:, :, 0], [[0, 19], [9, 19]])
    assert_array_equal(out["pool1"], [[[pool1]]])
    assert_array_equal(out["conv2_1"], [[[conv2_1]]])
    assert_array_equal(out["relu2_1"], [[[relu2_1]]])


def test_features_pad_only_the_first_convolution_as_asked():
    # All-ones kernels count neighbours. Replicated, every pixel of a constant image has nine;
    # with zeros a corner has four, an edge six, the centre nine.
    one, rest = np.zeros((3, 3, 3, 1)), np.ones((3, 3, 1, 1))
    one[:, :, 0, 0] = 1
    params = {
        "input": {"kernel": np.eye(3), "bias": np.zeros(3)},
        "conv1_1": {"kernel": one, "bias": [0]},
        "conv1_2": {"kernel": rest, "bias": [0]},
    }
    counts = np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]])
    layers = ["conv1_1", "conv1_2"]
    zero = reference.features(params, np.ones((3, 3, 3)), layers, (2,))
    assert_array_equal(zero["conv1_1"][:, :, 0], counts)
    same = reference.features(params, np.ones((3, 3, 3)), layers, (2,), padding="replicate")
    assert_array_equal(same["conv1_1"][:, :, 0], np.full((3, 3), 9))
    assert_array_equal(same["conv1_2"][:, :, 0], 9 * counts)


def test_features_stop_at_the_deepest_layer_asked_for(rng):
    params = tiny_params(rng)
    del params["conv1_2"], params["conv2_1"]
    assert reference.features(params, np.ones((2, 2, 3)), ["relu1_1"], (2, 1))["relu1_1"].any()


def test_features_of_vgg19_have_the_papers_names_and_sizes(rng):
    blocks, widths = (2, 2, 4, 4, 4), (1, 2, 1, 2, 1)
    layers = ["conv1_1", "relu2_2", "conv3_4", "relu4_2", "conv5_1", "pool5"]
    params = tiny_params(rng, widths, blocks)
    out = reference.features(params, rng.random((33, 32, 3)), layers, blocks)
    assert {name: y.shape for name, y in out.items()} == {
        "conv1_1": (33, 32, 1),
        "relu2_2": (16, 16, 2),
        "conv3_4": (8, 8, 1),
        "relu4_2": (4, 4, 2),
        "conv5_1": (2, 2, 1),
        "pool5": (1, 1, 1),
    }


def test_features_reject_unknown_layers():
    with pytest.raises(ValueError, match="relu3_1"):
        reference.features(network_by_hand(), np.ones((2, 2, 3)), ["relu3_1"], (1, 1))


def test_features_gradient_by_hand():
    # relu2_1 under max pooling is 2 y - 30 at the first of the two 19s, pixel (0, 1), where
    # y = (10 b - 1) + 2 (10 g - 2) - (10 r - 3) + 1: its slopes (r, g, b) are 2 (-10, 20, 10).
    image = np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 1]]])
    dx = reference.features_gradient(
        network_by_hand(), image, {"relu2_1": [[[1.0]]]}, (1, 1), "max"
    )
    assert_array_equal(dx, [[[0, 0, 0], [-20, 40, 20]], [[0, 0, 0], [0, 0, 0]]])


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("padding", ["zero", "replicate"])
def test_features_gradient_against_finite_differences(rng, pooling, padding):
    params, image = tiny_params(rng), rng.random((6, 5, 3))
    layers = ["conv1_1", "relu1_1", "pool1", "relu2_1"]
    forward = reference.features(params, image, layers, (2, 1), pooling, padding)
    cotangents = {layer: rng.normal(size=forward[layer].shape) for layer in layers}

    def inner(z):
        out = reference.features(params, z, layers, (2, 1), pooling, padding)
        return sum(np.sum(cotangents[layer] * out[layer]) for layer in layers)

    direction = rng.normal(size=image.shape)
    dx = reference.features_gradient(params, image, cotangents, (2, 1), pooling, padding)
    slope = reference.finite_difference(inner, image, direction, 1e-6)
    assert_allclose(np.sum(dx * direction), slope, rtol=1e-7)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_gradients_of_flat_images_are_finite(rng, level):
    params, image = tiny_params(rng), np.full((4, 4, 3), level)
    target = reference.features(params, rng.random((4, 4, 3)), ["relu2_1"], (2, 1))["relu2_1"]
    picture = reference.features(params, image, ["relu2_1"], (2, 1), "max")["relu2_1"]
    for gradient in (reference.content_gradient, reference.style_layer_gradient):
        cotangents = {"relu2_1": gradient(picture, target)}
        dx = reference.features_gradient(params, image, cotangents, (2, 1), "max")
        assert np.isfinite(dx).all()


# Content


def test_content_loss_by_hand():
    # F - P = (1 - 1, 2 - 0, 3 - 0, 4 - 1) = (0, 2, 3, 3): (0 + 4 + 9 + 9) / 2 = 11
    assert reference.content_loss(F, A) == 11
    assert_array_equal(reference.content_gradient(F, A), [[[0, 2], [3, 3]]])


def test_content_gradient_is_shut_where_the_relu_is():
    assert_array_equal(
        reference.content_gradient([[[0.0, 2.0, -1.0]]], [[[5.0, 5.0, 5.0]]]), [[[0, -3, 0]]]
    )


def test_content_gradient_is_that_before_the_relu(rng):
    x, direction = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4))
    P = reference.relu(rng.normal(size=(2, 3, 4)))
    gradient = reference.content_gradient(reference.relu(x), P)
    slope = reference.finite_difference(
        lambda z: reference.content_loss(reference.relu(z), P), x, direction, 1e-6
    )
    assert_allclose(np.sum(gradient * direction), slope, rtol=1e-8)


# Style


def test_gram_by_hand():
    # G_11 = 1*1 + 3*3 = 10, G_12 = 1*2 + 3*4 = 14, G_22 = 2*2 + 4*4 = 20
    assert_array_equal(reference.gram(F), [[10, 14], [14, 20]])
    assert_array_equal(reference.gram(A), [[1, 0], [0, 1]])
    assert_array_equal(reference.gram(A_SMALL), [[4, 0], [0, 0]])


def test_gram_properties(rng):
    features = rng.normal(size=(3, 4, 5))
    G = reference.gram(features)
    assert_array_equal(G, G.T)
    assert np.linalg.eigvalsh(G).min() > -1e-12
    assert_allclose(np.trace(G), np.sum(features**2), rtol=1e-13)
    assert_allclose(reference.gram(3 * features), 9 * G, rtol=1e-13)
    shuffled = rng.permutation(features.reshape(12, 5)).reshape(2, 6, 5)
    assert_allclose(reference.gram(shuffled), G, rtol=1e-12, atol=1e-12)
    # Partial sums over parts of the picture add up to the whole.
    parts = reference.gram(features[:1]) + reference.gram(features[1:])
    assert_allclose(parts, G, rtol=1e-12, atol=1e-12)


def test_style_layer_loss_by_hand():
    # N = 2, M = 2, G - A = 9 14 / 14 19:
    #   (81 + 196 + 196 + 361) / (4 * 2^2 * 2^2) = 834 / 64 = 13.03125
    assert_allclose(reference.style_layer_loss(F, A), 834 / 64, rtol=1e-15)


def test_style_layer_loss_of_another_size_by_hand():
    # M = 2, M_a = 1, G / 2 - A = 5 7 / 7 10 - 4 0 / 0 0 = 1 7 / 7 10:
    #   (1 + 49 + 49 + 100) / (4 * 2^2) = 199 / 16
    assert_allclose(reference.style_layer_loss(F, A_SMALL), 199 / 16, rtol=1e-15)


def test_style_layer_loss_is_equation_4_for_equal_sizes(rng):
    f, a = rng.normal(size=(3, 4, 5)), rng.normal(size=(2, 6, 5))
    difference = reference.gram(f) - reference.gram(a)
    expected = np.sum(difference**2) / (4 * 5**2 * 12**2)
    assert_allclose(reference.style_layer_loss(f, a), expected, rtol=1e-12)


def test_style_layer_loss_of_a_repeated_painting(rng):
    # A painting tiled twice has twice the positions and twice the Gram: the same style.
    f, a = rng.normal(size=(3, 4, 2)), rng.normal(size=(2, 3, 2))
    twice = np.concatenate([a, a], axis=1)
    assert_allclose(
        reference.style_layer_loss(f, twice), reference.style_layer_loss(f, a), rtol=1e-12
    )
    assert_allclose(reference.style_layer_loss(a, twice), 0, atol=1e-25)


def test_style_layer_gradient_by_hand():
    # 1/(2^2 2^2) sum_n F_nj (G - A)_ni with G - A = 9 14 / 14 19:
    #   filter 1: 1*9 + 2*14 = 37 and 3*9 + 4*14 = 83
    #   filter 2: 1*14 + 2*19 = 52 and 3*14 + 4*19 = 118
    assert_allclose(
        reference.style_layer_gradient(F, A), np.array([[[37, 52], [83, 118]]]) / 16, rtol=1e-15
    )


def test_style_layer_gradient_of_another_size_by_hand():
    # 1/(2^2 2) sum_n F_nj D_ni with D = 1 7 / 7 10:
    #   filter 1: 1*1 + 2*7 = 15 and 3*1 + 4*7 = 31
    #   filter 2: 1*7 + 2*10 = 27 and 3*7 + 4*10 = 61
    assert_allclose(
        reference.style_layer_gradient(F, A_SMALL), np.array([[[15, 27], [31, 61]]]) / 8, rtol=1e-15
    )


def test_style_layer_gradient_is_shut_where_the_relu_is():
    gradient = reference.style_layer_gradient([[[0.0, 2.0], [3.0, 0.0]]], A)
    # F_1 = (0, 3), F_2 = (2, 0), G - A = 8 0 / 0 3: 3*8 and 2*3, over 16, else nothing.
    assert_array_equal(gradient, np.array([[[0, 6], [24, 0]]]) / 16)


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 3, 4)])
def test_style_layer_gradient_is_that_before_the_relu(rng, shape):
    x, direction = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4))
    a = reference.relu(rng.normal(size=shape))
    gradient = reference.style_layer_gradient(reference.relu(x), a)
    slope = reference.finite_difference(
        lambda z: reference.style_layer_loss(reference.relu(z), a), x, direction
    )
    assert_allclose(np.sum(gradient * direction), slope, rtol=1e-7)


def test_style_loss_by_hand():
    # 0.25 * 834/64 + 2 * 199/16 = 3.2578125 + 24.875 = 28.1328125
    loss = reference.style_loss(
        {"relu1_1": F, "relu2_1": F},
        {"relu1_1": A, "relu2_1": A_SMALL},
        {"relu1_1": 0.25, "relu2_1": 2},
    )
    assert_allclose(loss, 28.1328125, rtol=1e-15)


def test_total_loss_by_hand():
    # 2 * 11 (content) + 4 * (0.5 * 834/64) (style) = 22 + 26.0625
    loss = reference.total_loss(
        {"relu1_1": F, "relu4_2": F}, {"relu4_2": A}, {"relu1_1": A}, {"relu1_1": 0.5}, 2, 4
    )
    assert_allclose(loss, 48.0625, rtol=1e-15)


def test_every_loss_is_zero_at_its_own_target(rng):
    f = {"relu1_1": rng.random((4, 4, 3)), "relu2_1": rng.random((2, 2, 5))}
    assert reference.total_loss(f, f, f, {"relu1_1": 1, "relu2_1": 1}, 1, 1e3) == 0
    for layer in f.values():
        assert not reference.content_gradient(layer, layer).any()
        assert not reference.style_layer_gradient(layer, layer).any()


def test_blended_style_layer_loss_by_hand():
    # Weights 1 and 3 are 1/4 and 3/4; the target is
    #   1/4 * (1 0 / 0 1) / 2 + 3/4 * (4 0 / 0 0) / 1 = 3.125 0 / 0 0.125,
    # G / 2 less it is 1.875 7 / 7 9.875:
    #   (3.515625 + 49 + 49 + 97.515625) / 16 = 199.03125 / 16
    loss = reference.blended_style_layer_loss(F, [A, A_SMALL], [1, 3])
    assert_allclose(loss, 199.03125 / 16, rtol=1e-15)


def test_blended_style_of_one_painting_is_that_painting(rng):
    f, a, b = (rng.normal(size=s) for s in [(3, 4, 2), (2, 3, 2), (5, 1, 2)])
    one = reference.style_layer_loss(f, a)
    assert_allclose(reference.blended_style_layer_loss(f, [a], [7]), one, rtol=1e-13)
    assert_allclose(reference.blended_style_layer_loss(f, [a, b], [7, 0]), one, rtol=1e-13)
    assert_allclose(reference.blended_style_layer_loss(f, [a, a], [1, 2]), one, rtol=1e-13)


# Total variation


def test_total_variation_by_hand():
    # 1 2 / 4 8: along x (2 - 1)^2 + (8 - 4)^2 = 17, along y (4 - 1)^2 + (8 - 2)^2 = 45
    image = np.array([[[1.0], [2.0]], [[4.0], [8.0]]])
    assert reference.total_variation(image) == 62
    # 2 (1 - 2) + 2 (1 - 4) = -8     2 (2 - 1) + 2 (2 - 8) = -10
    # 2 (4 - 8) + 2 (4 - 1) = -2     2 (8 - 4) + 2 (8 - 2) = 20
    gradient = reference.total_variation_gradient(image)
    assert_array_equal(gradient[:, :, 0], [[-8, -10], [-2, 20]])


def test_total_variation_properties(rng):
    image, direction = rng.random((4, 5, 3)), rng.normal(size=(4, 5, 3))
    assert reference.total_variation(np.full((4, 5, 3), 0.3)) == 0
    value = reference.total_variation(image)
    assert_allclose(sum(reference.total_variation(image[:, :, c : c + 1]) for c in range(3)), value)
    assert_allclose(reference.total_variation(image + 2), value, rtol=1e-12)
    assert_allclose(reference.total_variation(image.transpose(1, 0, 2)), value, rtol=1e-12)
    assert_allclose(reference.total_variation(3 * image), 9 * value, rtol=1e-12)
    gradient = reference.total_variation_gradient(image)
    assert_allclose(gradient.sum(), 0, atol=1e-12)
    # Euler's theorem: the sum of squares is homogeneous of degree 2.
    assert_allclose(np.sum(gradient * image), 2 * value, rtol=1e-12)
    slope = reference.finite_difference(reference.total_variation, image, direction)
    assert_allclose(np.sum(gradient * direction), slope, rtol=1e-8)


# Photorealism


def test_matting_laplacian_by_hand():
    # One window, a photo that is black but for its middle, white: I_i - mu is 8/9 there and -1/9
    # elsewhere in each colour, Sigma = 8/81 everywhere. As epsilon goes to 0 the inverse acts along
    # (1, 1, 1) only: 81/8 x y for x (1, 1, 1) and y (1, 1, 1). So black pixels have affinities
    # 1 + 1/8, the white one 1 + 8 with itself and 1 - 1 with the others.
    photo = np.zeros((3, 3, 3))
    photo[1, 1] = 1
    expected = np.eye(9) - 1 / 8
    expected[4, :] = expected[:, 4] = 0
    # An epsilon of 1e-9 takes 1e-9 / (9 * 8 / 27) of it; less would be rounding of the inverse.
    assert_allclose(reference.matting_laplacian(photo, 1e-9), expected, atol=1e-6)
    # A flat photo leaves no slope: the mean of nine alone.
    flat = np.full((3, 3, 3), 0.5)
    assert_allclose(reference.matting_laplacian(flat), np.eye(9) - 1 / 9, atol=1e-12)


def test_matting_laplacian_is_the_ridge_regression_of_every_window(rng):
    """What its authors derived it from (equations 10 and 11): the minimum over `a` and `b`."""
    photo, image = rng.random((4, 5, 3)), rng.random((4, 5, 3))
    epsilon, total = 1e-3, 0.0
    for top in range(2):
        for left in range(3):
            colours = photo[top : top + 3, left : left + 3].reshape(9, 3)
            rows = np.hstack([colours, np.ones((9, 1))])
            ridge = np.hstack([np.sqrt(epsilon) * np.eye(3), np.zeros((3, 1))])
            values = image[top : top + 3, left : left + 3].reshape(9, 3)
            wanted = np.vstack([values, np.zeros((3, 3))])
            total += np.linalg.lstsq(np.vstack([rows, ridge]), wanted, rcond=None)[1].sum()
    laplacian = reference.matting_laplacian(photo, epsilon)
    assert_allclose(reference.matting(image, laplacian), total, rtol=1e-10)


def test_matting_properties(rng):
    photo, image, direction = rng.random((3, 4, 5, 3))
    laplacian = reference.matting_laplacian(photo)
    assert_allclose(laplacian, laplacian.T, atol=1e-12)
    assert_allclose(laplacian.sum(1), 0, atol=1e-12)
    assert np.linalg.eigvalsh(laplacian).min() > -1e-12
    gradient = reference.matting_gradient(image, laplacian)
    slope = reference.finite_difference(lambda x: reference.matting(x, laplacian), image, direction)
    assert_allclose(np.sum(gradient * direction), slope, rtol=1e-8)


# Minimisation


def rosenbrock(x):
    a, b = x
    value = 100 * (b - a**2) ** 2 + (1 - a) ** 2
    return value, np.array([-400 * a * (b - a**2) - 2 * (1 - a), 200 * (b - a**2)])


def test_lbfgs_direction_by_hand():
    assert_array_equal(reference.lbfgs_direction([3.0, -4.0], []), [-3, 4])
    # s = (1, 0), y = (2, 0), g = (4, 6): the coefficient is 4 / 2 = 2 and leaves (0, 6), scaled
    # by s.y / y.y = 1/2 to (0, 3), and back (2 - 0) s: H g = (2, 3).
    pairs = [(np.array([1.0, 0.0]), np.array([2.0, 0.0]))]
    assert_array_equal(reference.lbfgs_direction([4.0, 6.0], pairs), [-2, -3])


def test_lbfgs_direction_by_hand_from_the_largest_scale():
    # The older pair has scale 1, the newest 1/2. Both take their own coordinate of g and give it
    # back as 5 and 4 / 2; the third is scaled by 1/2, by 3/2 of that, by 1.
    pairs = [([0.0, 1.0, 0.0], [0.0, 1.0, 0.0]), ([1.0, 0.0, 0.0], [2.0, 0.0, 0.0])]
    pairs = [(np.array(s), np.array(y)) for s, y in pairs]
    for stretch, third in ((1, 3), (1.5, 4.5), (5, 6)):
        found = reference.lbfgs_direction([4.0, 5.0, 6.0], pairs, stretch)
        assert_array_equal(found, [-2, -5, -third])


def test_lbfgs_direction_against_the_dense_update(rng):
    # BFGS, Nocedal and Wright eq. 6.17: H <- V^T H V + rho s s^T, V = I - rho y s^T.
    root = rng.normal(size=(6, 6))
    hessian = root @ root.T + np.eye(6)
    pairs = [(s, hessian @ s) for s in rng.normal(size=(4, 6))]
    s, y = pairs[-1]
    H = (s @ y) / (y @ y) * np.eye(6)
    for s, y in pairs:
        V = np.eye(6) - np.outer(y, s) / (s @ y)
        H = V.T @ H @ V + np.outer(s, s) / (s @ y)
    gradient = rng.normal(size=6)
    assert_allclose(reference.lbfgs_direction(gradient, pairs), -H @ gradient, rtol=1e-9)
    # The secant equation of the newest pair: H y = s.
    assert_allclose(reference.lbfgs_direction(y, pairs), -s, rtol=1e-9)


def test_lbfgs_first_step_by_hand():
    # f = x^2 / 2 at 4: slope 4, first step 1 / 4 along -4 to 3. Armijo 4.5 <= 8 - 1e-4 * 4 and
    # curvature -12 >= 0.9 * -16 hold. Then s = -1, y = -1: the second step is Newton's, to 0.
    x, values = reference.lbfgs(lambda x: (float(x @ x) / 2, x), [4.0], steps=5, memory=3)
    assert values == [8, 4.5, 0]
    assert x == [0]


def test_full_steps_by_hand():
    """x^2 / 2 from 4: a step of 1, then, the curvature known, to the minimum; there all is 0.

    From 1/2, where |g| < 1, the first step is -g. On -x^2 / 2 no pair is kept, and every step
    after the first is the gradient.
    """
    points, kept = reference.full_steps(lambda x: (float(x @ x) / 2, x), [4.0], 3, memory=2)
    assert_allclose(points.ravel(), [4, 3, 0, 0], atol=1e-12)
    assert kept == [0, 1]
    points, _ = reference.full_steps(lambda x: (float(x @ x) / 2, x), [0.5], 1, memory=2)
    assert_array_equal(points.ravel(), [0.5, 0])
    points, kept = reference.full_steps(lambda x: (-float(x @ x) / 2, -x), [2.0], 3, memory=2)
    assert_array_equal(points.ravel(), [2, 3, 6, 12])
    assert kept == []


def test_adam_by_hand():
    """Two steps for a constant gradient: the rate each time; with eps as large as it, half."""
    for eps, share in ((0.0, 1.0), (3.0, 0.5)):
        points = reference.adam(lambda x: (0.0, [3.0]), [1.0], 2, 0.1, 0.9, 0.99, eps)
        assert_allclose(points.ravel(), [1, 1 - 0.1 * share, 1 - 0.2 * share], rtol=1e-12)
    clamped = reference.adam(lambda x: (0.0, [3.0]), [0.15], 2, 0.1, 0.9, 0.99, 0.0, clamp=True)
    assert_allclose(clamped.ravel(), [0.15, 0.05, 0], atol=1e-12)


def test_linear_resample_by_hand():
    assert_allclose(
        reference.linear_resample([[0.0, 4.0], [8.0, 12.0]], 2, 4),
        [[0, 1, 3, 4], [8, 9, 11, 12]],
    )
    assert_allclose(reference.linear_resample([[0.0, 3.0], [0.0, 3.0]], 3, 2)[1], [0, 3])


def test_lbfgs_on_a_quadratic(rng):
    # f = (x - m)^T B (x - m) / 2 + 7 has its minimum 7 at m.
    root = rng.normal(size=(8, 8))
    B, m = root @ root.T + np.eye(8), rng.normal(size=(2, 4))

    def value_and_grad(x):
        assert x.shape == (2, 4)
        gradient = B @ (x - m).ravel()
        return (x - m).ravel() @ gradient / 2 + 7, gradient.reshape(2, 4)

    x, values = reference.lbfgs(value_and_grad, np.zeros((2, 4)), steps=60, memory=8)
    assert_allclose(x, m, atol=1e-6)
    assert_allclose(values[-1], 7, rtol=1e-12)
    assert np.all(np.diff(values) <= 0)


@pytest.mark.parametrize("memory", [1, 2, 10])
def test_lbfgs_on_rosenbrock(memory):
    # The minimum is 0 at (1, 1); the usual start (-1.2, 1) has f = 100 * 0.44^2 + 2.2^2 = 24.2.
    x, values = reference.lbfgs(rosenbrock, [-1.2, 1.0], steps=200, memory=memory)
    assert_allclose(values[0], 24.2)
    assert_allclose(x, [1, 1], atol=1e-6)
    assert values[-1] < 1e-13
    assert np.all(np.diff(values) < 0)


def test_lbfgs_remembers_the_newest_pairs(monkeypatch):
    direction, histories = reference.lbfgs_direction, []

    def recorded(gradient, pairs):
        histories.append([float(s[0]) for s, _ in pairs])
        return direction(gradient, pairs)

    monkeypatch.setattr(reference, "lbfgs_direction", recorded)
    reference.lbfgs(rosenbrock, [-1.2, 1.0], steps=5, memory=2)
    assert [len(history) for history in histories] == [0, 1, 2, 2, 2]
    # The pair that was newest becomes the oldest.
    assert histories[4][0] == histories[3][1]


def test_lbfgs_stops_at_a_minimum():
    x, values = reference.lbfgs(rosenbrock, [1.0, 1.0], steps=10, memory=5)
    assert_array_equal(x, [1, 1])
    assert values == [0]


def test_lbfgs_steps_back_from_values_that_are_not_numbers():
    # x - log(x) / 100 has its minimum at 1/100 and no value for x <= 0. From 0.5 the first
    # step goes down the slope, 1 - 0.02 = 0.98, to -0.48.
    seen = []

    def value_and_grad(x):
        z = float(x[0])
        seen.append(z)
        return (z - np.log(z) / 100, 1 - 0.01 / x) if z > 0 else (np.nan, np.full(1, np.nan))

    x, values = reference.lbfgs(value_and_grad, [0.5], steps=40, memory=5)
    assert_allclose(seen[1], -0.48)
    assert_allclose(x, 0.01, rtol=1e-6)
    assert np.all(np.diff(values) <= 0)


def test_lbfgs_lowers_the_papers_loss(rng):
    # A whole tiny style transfer by the oracle alone: eqs. (2) and (6) propagated to the image.
    params, blocks, alpha, beta = tiny_params(rng), (2, 1), 1.0, 100.0
    photo, painting = rng.random((4, 4, 3)), rng.random((4, 6, 3))
    P = reference.features(params, photo, ["relu2_1"], blocks)
    S = reference.features(params, painting, ["relu1_1"], blocks)

    def value_and_grad(x):
        f = reference.features(params, x, ["relu1_1", "relu2_1"], blocks)
        cotangents = {
            "relu1_1": beta * reference.style_layer_gradient(f["relu1_1"], S["relu1_1"]),
            "relu2_1": alpha * reference.content_gradient(f["relu2_1"], P["relu2_1"]),
        }
        value = reference.total_loss(f, P, S, {"relu1_1": 1.0}, alpha, beta)
        return value, reference.features_gradient(params, x, cotangents, blocks)

    start, direction = rng.random((4, 4, 3)), rng.normal(size=(4, 4, 3))
    slope = reference.finite_difference(lambda x: value_and_grad(x)[0], start, direction, 1e-6)
    assert_allclose(np.sum(value_and_grad(start)[1] * direction), slope, rtol=1e-6)
    _, values = reference.lbfgs(value_and_grad, start, steps=15, memory=10)
    assert np.all(np.diff(values) < 0)
    assert values[-1] < 0.1 * values[0]


def test_finite_difference_by_hand():
    # (3^2 - 1^2) / (2 * 1) = 4, exactly the slope of x^2 at 2; along -3 it is -12.
    assert reference.finite_difference(lambda x: float(x[0]) ** 2, [2.0], [1.0], 1.0) == 4
    assert reference.finite_difference(lambda x: float(x[0]) ** 2, [2.0], [-3.0], 1.0) == -12
    # x^3 at 0 has slope 0, and h = 1/2 sees (1/8 + 1/8) / 1: the error is h^2.
    assert reference.finite_difference(lambda x: float(x[0]) ** 3, [0.0], [1.0], 0.5) == 0.25


# Colours


def test_srgb_by_hand():
    for value, light in {0: 0, 0.04045: 0.0031308, 0.5: 0.2140411, 1: 1}.items():
        assert_allclose(reference.srgb_to_linear(value), light, rtol=1e-5)


def test_oklab_has_the_published_values():
    """The table of Ottosson's article, three digits."""
    table = {
        (0.950, 1.000, 1.089): (1.000, 0.000, 0.000),
        (1.000, 0.000, 0.000): (0.450, 1.236, -0.019),
        (0.000, 1.000, 0.000): (0.922, -0.671, 0.263),
        (0.000, 0.000, 1.000): (0.153, -1.415, -0.449),
    }
    for xyz, lab in table.items():
        assert_allclose(reference.oklab_of_xyz(xyz), lab, atol=6e-4)


def test_colour_moments_by_hand():
    # Red and black: the mean is half a red, the variance of red a quarter.
    mean, covariance = reference.colour_moments([[[1, 0, 0], [0, 0, 0]]])
    assert_array_equal(mean, [0.5, 0, 0])
    assert_array_equal(covariance, [[0.25, 0, 0], [0, 0, 0], [0, 0, 0]])


def test_roots_by_hand():
    matrix = [[5.0, 4.0], [4.0, 5.0]]  # (2 1; 1 2) squared, and (a 0; b c) (a b; 0 c)
    assert_allclose(reference.square_root(matrix), [[2, 1], [1, 2]], rtol=1e-12)
    assert_allclose(reference.cholesky(matrix), [[5**0.5, 0], [4 / 5**0.5, 1.8**0.5]], rtol=1e-12)


@pytest.mark.parametrize("kind", ["cholesky", "pca", "symmetric"])
def test_colour_map_maps_the_covariance(rng, kind):
    style, photo = rng.random((4, 5, 3)), rng.random((3, 6, 3)) @ rng.normal(size=(3, 3))
    a = reference.colour_map(style, photo, kind)
    (_, s), (_, c) = reference.colour_moments(style), reference.colour_moments(photo)
    assert_allclose(a @ s @ a.T, c, atol=1e-10)
    if kind == "cholesky":
        assert_allclose(a, np.tril(a), atol=1e-12)
    if kind == "symmetric":
        assert_allclose(a, a.T, atol=1e-10)
        assert np.linalg.eigvalsh(a).min() > 0


def test_match_histogram_by_hand():
    # The two equal ones share the middle of ranks 1 and 2 of 0..3, which is 1.5 of 10 20 30 40.
    assert_allclose(reference.match_histogram([5, 7, 5, 1], [40, 10, 30, 20]), [25, 40, 25, 10])


def test_matrix_root_against_scipy(rng):
    half = rng.normal(size=(5, 5))
    matrix = half @ half.T + 0.1 * np.eye(5)
    assert_allclose(reference.matrix_root(matrix), scipy.linalg.sqrtm(matrix), rtol=1e-9)
