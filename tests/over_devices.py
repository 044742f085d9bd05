"""Processes of several devices or hosts: what they are started with, and what most of them run.

``python over_devices.py NAME ...`` prints one JSON value as its last line.
"""

import dataclasses
import json
import logging
import os
import re
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from stylejax import (
    Adam,
    Config,
    Guides,
    JaxoptLbfgs,
    JaxoptLbfgsb,
    Lbfgs,
    LossWeights,
    canvas,
    devices,
    hosts,
    iterate,
    layers,
    losses,
    objective,
    scale,
    statistics,
    strips,
    stylize,
    traffic,
    vgg,
)
from stylejax.optimizers import GradientDescent

LAYERS = {"content_layers": ("relu3_1",), "style_layers": ("relu1_1", "relu2_1", "relu3_1")}
WEIGHTS = LossWeights(1.0, 20.0, 0.5)
STRIDE = 4


def environment(count):
    """Of a process with so many devices, which compiles as quickly as the one that starts it."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    return {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}


def network(widths=(4, 6, 8), *, seed=0):
    """As the fixture ``tiny``: its biases are not zero."""
    noise, params = np.random.default_rng(seed), {}
    for layer, shapes in vgg.parameter_shapes(vgg.Architecture((1, 2, 1), widths)).items():
        kernel = noise.normal(size=shapes["kernel"]) * np.sqrt(2 / np.prod(shapes["kernel"][:-1]))
        params[layer] = {"kernel": kernel, "bias": noise.normal(0, 30, shapes["bias"])}
    params["input"] = {"kernel": np.array(vgg.CAFFE_KERNEL), "bias": np.array(vgg.CAFFE_BIAS)}
    return jax.tree.map(np.float32, params)


def pictures(height, width, dtype=np.float32):
    noise = np.random.default_rng(1)
    shapes = ((height, width, 3), (height, width, 3), (height + 7, width + 2, 3))
    return [noise.random(shape).astype(dtype) for shape in shapes]


def regions(height, width, dtype=np.float32):
    noise = np.random.default_rng(2)
    parts = noise.dirichlet((1, 1), (height, width)).astype(dtype)
    return Guides(regions=parts, content=noise.random((height, width)).astype(dtype))


def evaluated(config, params, picture, content, style, guides, weights):
    """Value, terms and gradient, at the optimizer's own variable."""
    config = config.at(content.shape)

    def value(z, params):
        targets = objective.make_targets(params, content, [style], weights, config, masks=guides)
        if config.rows:
            z = devices.place(z, config.rows, picture.shape)
        return scale._objective(z, params, targets, weights, config=config)

    return jax.jit(jax.value_and_grad(value, has_aux=True))(picture, params)


def difference(
    config, height, width, *, count=8, guides=False, weights=WEIGHTS, params=None, dtype=np.float32
):
    """Relative difference between one device and several: of each term, and of the gradient.

    The one looks at the picture as a whole, whatever the others do.
    """
    config = dataclasses.replace(config, **LAYERS)
    given = pictures(height, width, dtype)
    params = network() if params is None else params
    more = (regions(height, width, dtype) if guides else None, weights)
    whole = dataclasses.replace(config, strip=None, recompute=None, nested=False)
    (one, terms), gradient = evaluated(whole, params, *given, *more)
    config = dataclasses.replace(config, mesh=devices.mesh(count))
    (several, those), another = evaluated(config, params, *given, *more)
    pairs = zip(jax.tree.leaves((one, terms)), jax.tree.leaves((several, those)), strict=True)
    of_terms = [float(jnp.abs(a - b) / jnp.maximum(jnp.abs(a), 1e-30)) for a, b in pairs]
    assert float(jnp.linalg.norm(gradient)) > 0
    return max(of_terms), float(jnp.linalg.norm(gradient - another) / jnp.linalg.norm(gradient))


def borders():
    """Each padding and rounding, at heights that divide and heights that do not."""
    average, up = layers.average_pool, layers.max_pool_ceil
    return bordered(
        ("zero", up, 69, 21),  # three strides for most, none for the last two
        ("replicate", average, 31, 23),  # the last row is not the last device's last
        ("replicate-all", average, 13, 16),  # half of the devices have nothing
        ("circular", average, 72, 24),
    )


def more_borders():
    """The same the other way about."""
    average, up = layers.average_pool, layers.max_pool_ceil
    return bordered(
        ("zero", average, 32, 20),  # a stride for each device
        ("replicate-all", up, 69, 21),
        ("circular", up, 32, 20),
    )


def bordered(*cases):
    return {
        f"{padding} {pool.__name__} {height}x{width}": difference(
            Config(padding=padding, pool=pool), height, width
        )
        for padding, pool, height, width in cases
    }


def forms():
    """What is looked at beside the network: statistics, losses, variations, canvases, masks.

    In float64: in float32 Wasserstein's roots of matrices lose two digits, on one device too.
    """
    dream = {"dream_layers": ("relu2_2",)}
    mixed = statistics.mixed((statistics.RELATIVE_GRAM, 1.0), (statistics.RELATIVE_SLICED, 0.5))
    cases = {
        "masks, a dream, photorealism": (
            Config(photorealism=True, style_statistic=statistics.RELATIVE_WASSERSTEIN, **dream),
            {"guides": True, "weights": WEIGHTS._replace(dream=0.1, photorealism=1.0)},
        ),
        "not additive, of a user": (
            Config(
                style_statistic=mixed,
                pool=layers.max_pool,
                content_loss=own_loss,
                canvas=OWN_CANVAS,
            ),
            {},
        ),
        "means": (
            Config(
                content_loss=losses.content_loss_mean_square,
                total_variation=losses.nine_point_variation,
                canvas=canvas.levels(255.0),
            ),
            {},
        ),
        "normalised": (
            Config(normalise_gradients=True, optimizer=Adam(), pool=layers.l2_pool, **dream),
            {"weights": WEIGHTS._replace(dream=0.1)},
        ),
        "by tiles": (Config(), {"params": vgg.evaluate_kernels(network((4, 128, 128)))}),
    }
    return {
        name: difference(config, 69 if name == "by tiles" else 37, 24, dtype=np.float64, **more)
        for name, (config, more) in cases.items()
    }


def in_strips():
    """Each device in strips of its own, of 4 rows.

    The deepest layer sees twelve rows above and below: one, two or three devices' rows. The last
    case goes through four too few.
    """
    small = partial(Config, **LAYERS)
    up = layers.max_pool_ceil
    dream = {"dream_layers": ("relu2_2",)}
    everything = {"guides": True, "weights": WEIGHTS._replace(dream=0.1, photorealism=1.0)}
    cases = {
        "zero": (small(padding="zero", pool=up, strip=8), (69, 21), {}),
        "half of them have nothing": (small(strip=6), (13, 16), {}),
        "nested": (small(nested=True, pool=up, strip=8), (101, 17), {}),
        "masks, a dream, photorealism, blocks kept": (
            small(
                strip=8,
                recompute=1,
                photorealism=True,
                style_statistic=statistics.RELATIVE_COVARIANCE,
                **dream,
            ),
            (69, 24),
            everything,
        ),
    }
    found = stripped(cases)
    cut = strips.cut

    def short(*given, **more):
        right = cut(*given, **more)
        margins = {name: s.margin - STRIDE // s.stride for name, s in right.stages.items()}
        stages = {n: s._replace(margin=margins[n]) for n, s in right.stages.items()}
        return right._replace(stages=stages if more["each"] else right.stages)

    strips.cut = short
    return found | stripped({"short": cases["zero"]})


def more_in_strips():
    """Others, the last one in strips of 8 rows."""
    average = layers.average_pool
    config = Config(padding="replicate", pool=average, **LAYERS)
    means = {
        "content_loss": losses.content_loss_mean_square,
        "total_variation": losses.nine_point_variation,
    }
    return stripped(
        {
            "replicate": (dataclasses.replace(config, strip=6), (31, 23), {}),
            "a stride for each": (Config(strip=4, **LAYERS), (32, 20), {}),
            "means": (dataclasses.replace(config, strip=14, **means), (150, 24), {}),
        }
    )


def stripped(cases):
    """``difference`` of configs that are not evaluated as a whole, at their sizes."""
    for config, size, _ in cases.values():
        assert dataclasses.replace(config, mesh=devices.mesh()).strip_rows(*size)
    return {name: difference(config, *size, **more) for name, (config, size, more) in cases.items()}


def own_loss(features, target):
    """Of a user: it looks at the number of positions."""
    return jnp.mean(jnp.abs(features - target) ** 1.5)


# Of a user: a variable that is no picture.
OWN_CANVAS = canvas.Canvas(lambda x: x[:, ::-1], lambda z: z[:, ::-1])


def runs():
    """A whole run over two scales, by stylize and by iterate, in float64."""
    return compared(Config(scales=2, steps=20, coarse_steps=3, **LAYERS), by_steps=True)


def carried_runs():
    """The same with an optimizer that carries on at the second scale, and with masks."""
    config = Config(scales=2, steps=20, coarse_steps=3, optimizer=Adam(), carry=True, **LAYERS)
    return compared(config, guides=True, by_steps=True)


def other_runs():
    """Optimizers that are rarely used."""
    full = Config(scales=1, steps=20, optimizer=Lbfgs(line_search=False), **LAYERS)
    descent = dataclasses.replace(full, optimizer=GradientDescent(1e-5, full_from=10**4), steps=4)
    bounded = dataclasses.replace(full, optimizer=JaxoptLbfgsb(), steps=4)
    compact = dataclasses.replace(full, optimizer=Lbfgs(compact=True))
    cases = {"full steps": full, "descent": descent, "jaxopt": bounded, "compact": compact}
    cases["in strips"] = dataclasses.replace(full, optimizer=Lbfgs(), strip=8, nested=True)
    return {name: compared(config) for name, config in cases.items()}


def resumed(**settings):
    """Of a run over eight devices: how far from it is one that goes on from a place.

    On as many devices at the start, within a scale, at the end of the first and of the last one;
    then on one device and on three, from within the second scale.
    """
    config = Config(scales=2, steps=4, coarse_steps=2, mesh=devices.mesh(), **LAYERS, **settings)
    content, _, style = pictures(45, 31, np.float64)

    def run(config, resume=None):
        given = (network(), content, [style])
        for progress in iterate(
            *given, config=config, loss_weights=WEIGHTS, every=2, resume=resume
        ):
            state = jax.tree.map(np.array, progress.place.state)
            yield progress._replace(place=progress.place._replace(state=state))

    whole = list(run(config))
    *_, last = whole

    def distance(config, number):
        *_, end = run(config, whole[number].place)
        return float(np.abs(end.image - last.image).max())

    same = [distance(config, number) for number in (0, 1, 3, len(whole) - 1)]
    fewer = [None, devices.mesh(3)]
    return same, [distance(dataclasses.replace(config, mesh=mesh), 3) for mesh in fewer]


def resumed_in_strips():
    """The same in strips, which hold together what a device keeps of its neighbours' rows."""
    return resumed(strip=8)


def resumed_carried():
    """The same of a run that carries Adam's moments from scale to scale."""
    return resumed(optimizer=Adam(average=0.9), carry=True)


def compared(config, *, guides=False, by_steps=False):
    """How far pictures of one device and of several are from each other, and from iterate's."""
    content, _, style = pictures(45, 31, np.float64)
    more = {
        "loss_weights": WEIGHTS,
        "guides": regions(45, 31, np.float64) if guides else None,
    }

    def last(config):
        if by_steps:
            *_, end = iterate(network(), content, [style], config=config, every=3, **more)
        else:
            end = stylize(network(), content, [style], config=config, **more)
        return np.asarray(end.image), int(end.evaluations)

    several = dataclasses.replace(config, mesh=devices.mesh())
    (one, taken), (compiled, (other, as_many)) = last(config), compilations(last, several)
    assert taken == as_many
    distances = [float(np.abs(one - other).max())]
    if by_steps:
        # Once per scale: the calls find what the thread has compiled from shapes and places alone.
        assert [compiled.count(f"jit({p.__name__})") for p in PROGRAMS] == [2] * 3, compiled
        whole = stylize(network(), content, [style], config=several, **more)
        distances.append(float(np.abs(np.asarray(whole.image) - other).max()))
    return distances


def compilations(call, *given):
    """Names of the programs that a call has compiled, and what it returns."""
    names = []
    handler = logging.Handler()
    handler.emit = lambda record: names.extend(
        re.findall(r"Finished XLA compilation of (\S+)", record.getMessage())
    )
    logging.getLogger("jax").addHandler(handler)
    jax.config.update("jax_log_compiles", True)  # of all threads
    found = call(*given)
    jax.config.update("jax_log_compiles", False)
    logging.getLogger("jax").removeHandler(handler)
    return names, found


PROGRAMS = (scale.prepare, scale.advance, scale.picture)


def lowered(config, height, width, params, *, guides=None):
    """What prepares a scale, a step of it, and the step's state."""
    config = dataclasses.replace(config, mesh=devices.mesh(), **LAYERS).at((height, width))
    given = devices.everywhere((params, *pictures(height, width), jax.random.key(0)), config.mesh)
    params, _, content, style, key = given
    more = {"guides": guides, "size": (height, width), "config": config}
    traced = scale.prepare.trace(params, content, (style,), None, WEIGHTS, key, **more)
    state, targets = scale.described(*traced.out_info, config)
    step = scale.advance.lower(state, params, targets, WEIGHTS, 1, length=1, config=config)
    return traced.lower(), step, state


def compiled(config, height, width, params):
    """What a compiled step sends, and the bytes of its state on each device."""
    _, step, state = lowered(config, height, width, params)
    step = step.compile()
    sent = traffic.transfers(step)
    shard = state.z.sharding.shard_shape(state.z.shape)
    memory = [
        x.sharding.shard_shape(x.shape)
        for x in jax.tree.leaves(state)
        if x.ndim == state.z.ndim + 1
    ]
    sent = [(t.kind, t.shapes, t.bytes) for t in sent]
    return sent, shard, memory, traffic.unordered(step)


def programs():
    """Of a step: at an even height and at an odd one, with L-BFGS and frequencies."""
    compact = Lbfgs(compact=True)
    params = vgg.evaluate_kernels(network((4, 128, 128)))
    zero = Config(padding="zero", optimizer=Adam(), total_variation=losses.nine_point_variation)
    return {
        "even": compiled(Config(), 128, 33, params),
        "odd": compiled(Config(), 101, 33, params),
        "circular": compiled(Config(padding="circular", optimizer=compact), 100, 32, params),
        "zero": compiled(zero, 101, 33, params),
        "strips": compiled(Config(strip=16), 250, 33, params),
    }


def orders():
    """What nothing keeps apart, in programs of a scale: with masks, a large canvas, in strips."""
    canvas._WHOLE, canvas._BLOCK = 64, 32
    params = network((4, 6, 8))
    strips = Config(strip=16, nested=True, optimizer=Lbfgs(memory=3, line_search=False))
    masked, stripped, foreign = (
        lowered(config, 101, 65, params, guides=guides)[:2]
        for config, guides in (
            (Config(optimizer=Lbfgs(memory=3)), regions(101, 65)),
            (strips, None),
            (Config(optimizer=JaxoptLbfgs(memory=3)), None),
        )
    )
    found = {"masks": masked, "strips": stripped[1:], "jaxopt": foreign[1:]}
    return {
        name: [traffic.unordered(program.compile()) for program in programs]
        for name, programs in found.items()
    }


def of_two(port, process):
    """The picture of both processes together."""
    hosts.join(f"127.0.0.1:{port}", 2, int(process))
    try:
        Config(mesh=devices.mesh(), optimizer=JaxoptLbfgs())
        raise AssertionError("sums of several processes could be mixed up")
    except ValueError as error:
        assert "take Lbfgs" in str(error)
    return pictured(devices.mesh())


def alone():
    """The same picture of one."""
    return pictured(None)


def pictured(mesh):
    """By ``stylize``; the command, which test_hosts runs as well, goes by ``iterate``."""
    content, _, style = pictures(37, 24, np.float64)
    config = Config(scales=1, steps=20, mesh=mesh, **LAYERS)
    whole = stylize(network(), content, [style], config=config, loss_weights=WEIGHTS)
    return np.asarray(whole.image).tolist()


def main(name, *words):
    in_float32 = ("borders", "more_borders", "in_strips", "more_in_strips")
    read = ("programs", "orders")
    if name not in (*in_float32, *read):
        jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", name not in read)
    print(json.dumps(globals()[name](*words)))


if __name__ == "__main__":
    main(*sys.argv[1:])
