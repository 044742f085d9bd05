"""The plan's arithmetic against sums by hand and against what XLA on CPU allocates."""

import jax
import jax.numpy as jnp
import pytest

from stylejax import Config, LossWeights, evaluate, layers, memory, scale, vgg

SMALL = vgg.Architecture((1, 2), (4, 6))


def test_stages_end_at_the_deepest_layer():
    found = list(memory.stages((9, 12), ("relu1_1", "conv2_2"), SMALL))
    assert found == [
        ("input", 9, 12, 3),
        ("relu1_1", 9, 12, 4),
        ("pool1", 4, 6, 4),
        ("relu2_1", 4, 6, 6),
        ("relu2_2", 4, 6, 6),
    ]
    up = memory.stages((9, 12), ("pool1",), SMALL, pool=layers.max_pool_ceil)
    assert [*up][-1] == ("pool1", 5, 6, 4)


def test_a_case_by_hand():
    """8x8, relu1_1 and relu2_1: two ReLUs' signs, two layers' features, conv1_1's cotangents."""
    signs = 64 * 4 + 16 * 6
    compared = 4 * (64 * 4 + 16 * 6)
    cotangents = 4 * (64 * 3 + 64 * 4)
    asked = ("relu1_1", "relu2_1")
    peak = memory.activation_bytes((8, 8), asked, SMALL, signs=1)
    assert peak == signs + compared + cotangents
    # Maximum pooling keeps what went into it; a compiler may keep whole numbers of ReLUs.
    peak = memory.activation_bytes((8, 8), asked, SMALL, pool=layers.max_pool, signs=4)
    assert peak == 4 * signs + compared + cotangents + 4 * 64 * 4
    # Two convolutions of one width: the second has more to do with than the first.
    deep = memory.activation_bytes((8, 8), ("relu1_2",), vgg.Architecture((2,), (4,)), signs=1)
    assert deep == 2 * 64 * 4 + 4 * 64 * 4 + 4 * 2 * 64 * 4


def test_cpus_keep_the_signs_of_large_layers_alone():
    assert memory.activation_bytes((8, 8), ("relu2_1",), SMALL) == memory.activation_bytes(
        (8, 8), ("relu2_1",), SMALL, signs=4
    )
    # relu1_1 has 2^24 and some numbers, of which a bit is kept whatever the compiler does;
    # relu2_1 has three eighths of these.
    size, numbers, later = (2048, 2052), 2048 * 2052 * 4, 1024 * 1026 * 6
    signs, kept = (memory.activation_bytes(size, ("relu2_1",), SMALL, signs=s) for s in (1, 4))
    assert memory.activation_bytes(size, ("relu2_1",), SMALL) == kept
    assert kept - signs == 3 * later
    cotangents, compared = 4 * (numbers * 3 // 4 + numbers), 4 * later
    assert kept == numbers // 8 + 4 * later + compared + cotangents


def test_lanes_pad_channels():
    asked = ("relu1_1", "relu2_1")
    signs = (64 + 16) * 128
    both = 4 * (64 + 16) * 128 + 4 * 2 * 64 * 128
    found = memory.activation_bytes((8, 8), asked, SMALL, lanes=memory.TPU_LANES, signs=1)
    assert found == signs + both
    # VGG-19's first block fills half of the lanes, the others all of them.
    ends = {layer: stage for layer, *stage in memory.stages((64, 64), ("relu5_1",))}
    for layer, (height, width, channels) in ends.items():
        padded = memory.Stage(layer, height, width, channels).numbers(128)
        wanted = 128 / 3 if layer == "input" else 2 if vgg.block_of(layer) == 1 else 1
        assert padded / (height * width * channels) == pytest.approx(wanted)


def test_taps_are_compared_at_their_own_width():
    """And a network with taps still counts the layers that have none."""
    tapped = SMALL._replace(taps=(("relu2_2", 10),))
    plain = memory.activation_bytes((8, 8), ("relu2_2",), SMALL)
    assert memory.activation_bytes((8, 8), ("relu2_2",), tapped) - plain == 4 * 16 * (10 - 6)


@pytest.mark.parametrize(("asked", "message"), [((), "empty"), (("relu9_9",), "unknown layer")])
def test_layers_that_are_none(asked, message):
    with pytest.raises(ValueError, match=message):
        memory.activation_bytes((8, 8), asked)


def test_growth_with_the_picture_is_what_xla_plans_on_cpu():
    """Compiled, not run. What does not grow, turned kernels and buffers, is not counted."""
    architecture = vgg.Architecture((2, 1), (16, 32))
    config = Config(content_layers=("relu1_2",), style_layers=("relu1_1", "relu2_1"))
    weights = LossWeights(style=20.0, tv=0.5)
    params = {
        layer: {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in arrays.items()}
        for layer, arrays in vgg.parameter_shapes(architecture).items()
    }

    def planned(side):
        image = jax.ShapeDtypeStruct((side, side, 3), jnp.float32)
        key = jax.random.key(0)
        _, targets = scale.prepare.trace(
            params, image, [image], None, weights, key, size=(side, side), config=config
        ).out_info

        def objective(z, *given):
            return evaluate(z, *given, config)

        fun = jax.jit(jax.value_and_grad(objective, has_aux=True))
        compiled = fun.lower(image, params, targets, weights).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    ours = [
        memory.activation_bytes((side, side), config.layers, architecture) for side in (256, 384)
    ]
    grown = planned(384) - planned(256)
    assert grown == pytest.approx(ours[1] - ours[0], rel=0.25)
