"""Kept traces: the same programs to the last bit, and never those of anything else."""

import dataclasses
import gc
from collections import Counter
from functools import partial, wraps

import jax
import jax.numpy as jnp
import numpy as np
import over_devices
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.extend.core import JaxprEqn

from stylejax import (
    Adam,
    Architecture,
    Colour,
    Config,
    Guides,
    JaxoptLbfgs,
    JaxoptLbfgsb,
    Lbfgs,
    LossWeights,
    colour,
    compilation,
    devices,
    iterate,
    layers,
    losses,
    mixed,
    presets,
    random_params,
    scale,
    statistics,
    traces,
    transfer,
    winograd,
)
from stylejax.canvas import PIXELS, Blank, levels

TINY = Architecture((1, 2, 1), (4, 6, 8))
LAYERS = {"content_layers": ("relu2_2",), "style_layers": ("relu1_1", "relu2_1", "relu3_1")}
CONFIG = Config(**LAYERS, steps=3, scales=1)
WEIGHTS = LossWeights(content=1.0, style=5.0, tv=0.1)
SIZE = (24, 32)


@pytest.fixture(autouse=True)
def quickly(quick_compilation):
    """Compiling takes longer than running here."""


@pytest.fixture(scope="module")
def params():
    return random_params(jax.random.key(3), TINY)


def another_process():
    """Nothing is left of what was traced and compiled, but in files."""
    jax.clear_caches()
    scale._compiled_with.cache_clear()
    compilation_cache.reset_cache()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where traces are, of a process that keeps them."""
    monkeypatch.setenv("STYLEJAX_CACHE", str(tmp_path / "cache"))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    another_process()
    compilation.keep()
    yield tmp_path / "cache" / "compiled" / "traced"
    for name, value in before.items():
        jax.config.update(name, value)
    another_process()


@pytest.fixture
def written(monkeypatch):
    """How many traces were written, by function; a list that grows."""
    names, write = [], traces._written

    def counted(path, *args):
        names.append(path.name.split("-")[0])
        return write(path, *args)

    monkeypatch.setattr(traces, "_written", counted)
    return names


def picture(seed, height, width):
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


def last(params, config=CONFIG, **more):
    """The picture of a run, and the terms of its last step."""
    given = {"loss_weights": WEIGHTS, "every": 2, **more}
    run = iterate(params, picture(0, *SIZE), [picture(1, 40, 28)], config=config, **given)
    (*_, end) = run
    return end.image, end.terms


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def traced(params, config, *, size=SIZE, styles=1, guides=None, carried=None, weights=WEIGHTS):
    """The two large programs of a scale, traced."""
    ours = scale.programs(config)
    painted = [picture(n, 40, 28) for n in range(styles)] if config.style_layers else []
    given = (params, picture(0, *size), painted, None, weights, jax.random.key(0))
    preparing = ours.prepare.trace(
        *given, guides=guides, carried=carried, size=size, config=config.at(size)
    )
    state, targets = preparing.out_info
    stepping = ours.advance.trace(
        state, params, targets, weights, 1, length=2, config=config.at(size)
    )
    return preparing, stepping


def test_is_the_same_program(params, folder, written):
    expected = last(params)  # traced and written
    assert sorted(written) == ["picture", "prepare", "steps"] and len(list(folder.iterdir())) == 3
    another_process()
    jax.config.update("jax_enable_compilation_cache", False)  # as plain ones are: traced anew
    try:
        assert not traces.keeping()
        same(last(params), expected)
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


def test_is_not_traced_again(params, folder, written, monkeypatch):
    expected = last(params)
    another_process()

    def never(*args, **named):
        raise AssertionError("traced")

    monkeypatch.setattr(scale, "evaluate", never)
    monkeypatch.setattr(scale, "make_targets", never)
    same(last(params), expected)
    assert len(written) == 3


def test_what_was_traced_is_let_go(folder):
    """JAX holds on to a program that it has called: to what was read back, not to its making."""

    def traced(x):
        for _ in range(many):
            x = jnp.sin(x)
        return x

    def equations():
        gc.collect()
        return sum(isinstance(each, JaxprEqn) for each in gc.get_objects())

    many, x = 500, jnp.arange(3, dtype=jnp.float32)
    leaves, tree = jax.tree.flatten(((x,), {}))
    before = equations()
    program, _ = traces._written(folder / "one", traced, leaves, tree)
    jax.jit(program.call)(*leaves)
    assert equations() < before + many


def test_a_run_in_strips_forgets_what_jax_holds(params, folder):
    """Where compiled programs are kept, and nowhere else: they are soon read again."""
    another = jax.jit(lambda x: x + 1)
    for keeping, left in ((True, 0), (False, 1)):
        another(np.ones(3))
        jax.config.update("jax_enable_compilation_cache", keeping)
        try:
            scale.forget(CONFIG)
        finally:
            jax.config.update("jax_enable_compilation_cache", True)
        assert another._cache_size() == left


def test_a_large_last_scale_begins_without_what_the_others_left(params, folder, monkeypatch):
    forgotten, forget = [], scale.forget
    monkeypatch.setattr(transfer, "forget", lambda config: (forgotten.append(1), forget(config)))
    config = dataclasses.replace(CONFIG, scales=2, coarse_steps=2)
    plain, _ = last(params, config)
    assert not forgotten
    monkeypatch.setattr(scale, "_LARGE", 1)
    np.testing.assert_allclose(last(params, config)[0], plain, atol=1e-3)
    assert forgotten == [1]


def test_of_several_scales_and_a_run_that_goes_on(params, folder, written):
    config = dataclasses.replace(CONFIG, scales=2, coarse_steps=2)
    run = partial(iterate, params, picture(0, *SIZE), [picture(1, 40, 28)], config=config)
    whole = [p.image for p in run(loss_weights=WEIGHTS, every=1)]
    assert len(written) == 6
    another_process()
    for progress in run(loss_weights=WEIGHTS, every=1):
        if (progress.scale, progress.step) == (1, 1):
            place = jax.tree.map(np.array, progress.place)
            break
    another_process()
    rest = [p.image for p in run(loss_weights=WEIGHTS, every=1, resume=place)]
    assert len(written) == 6
    same(rest[1:], whole[-2:])


@pytest.mark.parametrize("optimizer", [Lbfgs(), Adam()], ids=["lbfgs", "adam"])
def test_each_is_compiled_once_for_a_scale(optimizer, params, folder):
    """Ahead, from shapes alone, as what comes of the scale before and of ``prepare`` then is."""
    carry = isinstance(optimizer, Adam)
    config = dataclasses.replace(CONFIG, scales=2, optimizer=optimizer, carry=carry)
    compiled, _ = over_devices.compilations(partial(last, params, config))
    ours = {f"jit({name})" for name in ("_prepare", "_steps", "_picture")}
    assert Counter(name for name in compiled if name in ours) == dict.fromkeys(ours, 2)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_of_every_preset(name, params, folder, written):
    config, size = presets.PRESETS[name].config, SIZE
    config = dataclasses.replace(
        config, **LAYERS, dream_layers=("relu3_1",) if config.dream_layers else ()
    )
    weights = WEIGHTS._replace(dream=1.0 if config.dream_layers else 0.0)
    made = traced(params, config, size=size, weights=weights)
    assert written == ["prepare", "steps"]
    another_process()
    again = traced(params, config, size=size, weights=weights)
    assert len(written) == 2
    for one, other in zip(made, again, strict=True):
        assert jax.tree.structure(one.out_info) == jax.tree.structure(other.out_info)
        assert one.lower().as_text() == other.lower().as_text()


REGIONS = np.stack([np.ones(SIZE, np.float32) / 2] * 2, axis=-1)
KINDS = {
    **{
        name: dict(style_statistic=value)
        for name, value in vars(statistics).items()
        if isinstance(value, statistics.Statistic)
    },
    "of mixed statistics": dict(
        style_statistic=mixed((statistics.GRAM, 1), (statistics.SLICED, 2))
    ),
    "of one for each layer": dict(
        style_statistic=tuple((layer, statistics.GRAM) for layer in LAYERS["style_layers"])
    ),
    "Adam": dict(optimizer=Adam()),
    "Adam, averaged": dict(optimizer=Adam(average=0.9, clamp=True)),
    "full steps": dict(optimizer=Lbfgs(line_search=False)),
    "compact": dict(optimizer=Lbfgs(compact=True)),
    "bfloat16": dict(precision="bfloat16"),
    "jaxopt": dict(optimizer=JaxoptLbfgs()),
    "jaxopt, bounded": dict(optimizer=JaxoptLbfgsb()),
    "photorealism": dict(photorealism=True),
    "a tile": dict(padding="circular"),
    "noise": dict(noise=0.5, blank=Blank((0.5, 0.5, 0.5), 0.1)),
    "levels": dict(canvas=levels(255.0)),
    "content alone": dict(style_layers=()),
    "dreams": dict(dream_layers=("relu3_1",)),
    "unit gradients": dict(normalise_gradients=True, optimizer=Adam()),
    "strips": dict(strip=16),
    "nested strips": dict(strip=16, nested=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_of_every_kind(kind, params, folder, written):
    config = dataclasses.replace(CONFIG, **KINDS[kind])
    traced(params, config)
    another_process()
    traced(params, config)
    assert written == ["prepare", "steps"]


def test_of_regions_and_of_what_is_carried(params, folder, written):
    guides = Guides(REGIONS, [None, REGIONS[:20]], np.ones(SIZE, np.float32))
    config = dataclasses.replace(CONFIG, optimizer=Adam(), carry=True, steps=2, scales=2)
    for _ in range(2):
        another_process()
        preparing, _ = traced(params, config, styles=2, guides=guides)
        state, _ = preparing.out_info
        traced(params, config, size=(34, 45), styles=2, guides=guides, carried=state)
    assert written == ["prepare", "steps"] * 2


def names(params, folder, config=CONFIG, **more):
    """The files that are written for it."""
    another_process()
    before = {path.name for path in folder.glob("*")}
    traced(params, config, **more)
    return {path.name for path in folder.glob("*")} - before


# Another value for every field that has a part in a trace.
CHANGES = {
    "content_layers": ("relu2_1",),
    "style_layers": ("relu2_1",),
    "content_loss": losses.content_loss,
    "style_statistic": statistics.GRAM,
    "total_variation": losses.absolute_variation,
    "normalise_gradients": True,
    "dream_layers": ("relu3_1",),
    "pool": layers.max_pool,
    "padding": "zero",
    "precision": "high",
    "optimizer": Lbfgs(memory=5),
    "canvas": PIXELS,
    "style_scale": 0.5,
    "noise": 0.5,
    "blank": Blank((0.5, 0.5, 0.5), 0.1),
    "colour": Colour(colour.CHROMA),
    "carry": True,
    "photorealism": True,
    "strip": 16,
    "strip_above": 16,
    "recompute": 1,
    "nested": True,
}
NEEDED = {
    "normalise_gradients": dict(optimizer=Adam()),
    "carry": dict(optimizer=Adam()),
    "strip_above": dict(strip=8),
    "recompute": dict(strip=16),
    "nested": dict(strip=16),
    "blank": dict(noise=0.5),
}


@pytest.mark.parametrize("field", CHANGES)
def test_another_config_is_another_trace(field, folder):
    config = dataclasses.replace(CONFIG, **NEEDED.get(field, {}))
    other = dataclasses.replace(config, **{field: CHANGES[field]})
    name = partial(traces._name, scale._prepare, leaves=[], tree=None)
    ours, theirs = (name({"config": each.at(SIZE)}) for each in (config, other))
    assert ours != theirs


def test_every_field_is_tried():
    everything = {field.name for field in dataclasses.fields(Config)}
    pyramid = {"steps", "coarse_steps", "first_steps", "scales", "smallest", "scale_sizes"}
    assert everything - set(CHANGES) == pyramid | {"steps_per_scale", "mesh", "height"}


def test_what_belongs_to_the_pyramid_makes_no_other(params, folder):
    assert len(names(params, folder)) == 2
    longer = dataclasses.replace(CONFIG, steps=9, scales=3, first_steps=4, smallest=16)
    assert names(params, folder, longer) == set()


def test_other_surroundings_are_another_trace(params, folder, monkeypatch):
    found = [names(params, folder)]
    with jax.default_matmul_precision("highest"):
        found.append(names(params, folder))
    with jax.threefry_partitionable(False):
        found.append(names(params, folder))
    found.append(names(params, folder, size=(24, 33)))
    found.append(names(params, folder, styles=2))
    found.append(names(params, folder, weights=WEIGHTS._replace(photorealism=1.0)))
    wider = random_params(jax.random.key(3), Architecture((1, 2, 1), (4, 6, 10)))
    found.append(names(wider, folder))
    monkeypatch.setattr(winograd, "cores", lambda: 97)
    found.append(names(params, folder))
    known = traces._packages()
    monkeypatch.setattr(traces, "_packages", lambda: [*known, "another version"])
    found.append(names(params, folder))
    # Steps are the same for the targets of two paintings as of one.
    assert [len(some) for some in found] == [2, 2, 2, 2, 1, 2, 2, 2, 2]


def test_other_sources_are_another_trace(tmp_path, monkeypatch):
    assert jax.__version__ in traces._packages()
    monkeypatch.setattr(traces, "_FOLDER", tmp_path)
    (tmp_path / "below").mkdir()
    found = []
    for name, text in (
        ("one.py", "a = 1"),
        ("one.py", "a = 2"),
        ("below/two.py", ""),
        ("below/two.py", "b"),
        ("three.txt", "no source"),
    ):
        (tmp_path / name).write_text(text)
        found.append(traces._packages.__wrapped__())
    assert found[-1] == found[-2] and len(set(map(str, found))) == 4


def test_results_that_a_file_cannot_tell_of_are_not_kept(folder, monkeypatch, tmp_path):
    """Keys that JSON makes others of, and records of another kind than a tuple with names."""
    ways = [lambda x: {(1, 2): x}, lambda x: jax.tree_util.Partial(x)]
    for number, whole in enumerate(ways):
        (leaf,) = jax.make_jaxpr(lambda x: x)(1.0).in_avals
        path = tmp_path / str(number)
        with pytest.raises((traces._Unknown, TypeError)):
            traces._written(path, whole, [leaf], jax.tree.structure(((0,), {})))
        assert not path.exists()


def test_of_several_processes_none_keeps(folder, monkeypatch):
    assert traces.keeping()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert not traces.keeping()


class Mine(statistics.Statistic):
    """Of a caller who adds to a record of ours."""


def test_what_a_caller_has_made_is_not_kept(params, folder, written):
    def own(image):
        return 2 * losses.total_variation(image)

    @wraps(losses.total_variation)
    def disguised(image):
        return 3 * losses.total_variation(image)

    for kind in (
        dict(total_variation=own),
        dict(total_variation=disguised),
        dict(total_variation=partial(own)),
        dict(total_variation=lambda image: losses.total_variation(image)),
        dict(style_statistic=statistics.GRAM._replace(distance=lambda *sums: 0.0)),
        dict(style_statistic=Mine(*statistics.GRAM)),
        dict(style_statistic=mixed((statistics.GRAM._replace(blend=own), 1))),
        dict(canvas=PIXELS._replace(decode=own)),
        dict(optimizer=type("MyAdam", (Adam,), {})()),
        dict(mesh=devices.mesh(1)),
    ):
        config = dataclasses.replace(CONFIG, **kind)
        with pytest.raises(traces._Unknown):
            traces._told(config.at(SIZE))
    variation = dataclasses.replace(CONFIG, total_variation=own)
    image, _ = last(params, variation)
    assert written == [] and not folder.exists()
    doubled = last(params, loss_weights=WEIGHTS._replace(tv=2 * WEIGHTS.tv))
    np.testing.assert_allclose(image, doubled[0], atol=1e-4)


def test_functions_of_this_package_that_are_made_by_others():
    told = [traces._told(levels(unit)) for unit in (255.0, 255.0, 256.0)]
    assert told[0] == told[1] != told[2]
    parts = [((statistics.GRAM, w), (statistics.SLICED, 1)) for w in (1, 1, 2)]
    told = [traces._told(mixed(*each)) for each in parts]
    assert told[0] == told[1] != told[2]
    told = [traces._told(partial(losses.activity, x)) for x in (1, 1, 1.0)]
    assert told[0] == told[1] != told[2]


@pytest.mark.parametrize("damage", ["shorter", "changed", "empty", "folder"])
def test_a_damaged_file_is_made_anew(damage, params, folder, written):
    expected = last(params)
    for path in folder.iterdir():
        content = path.read_bytes()
        path.unlink()
        if damage == "folder":
            path.mkdir()
        else:
            other = content[:-9] + bytes(9) if damage == "changed" else b""
            path.write_bytes(content[:-100] if damage == "shorter" else other)
    another_process()
    same(last(params), expected)
    assert len(written) == 6
    if damage != "folder":
        another_process()
        same(last(params), expected)
        assert len(written) == 6


def test_where_it_cannot_be_written_it_is_traced(params, folder, written):
    expected = last(params)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_bytes(b"")
    another_process()
    same(last(params), expected)
    assert len(written) == 6


def test_what_cannot_be_exported_is_traced(params, folder, monkeypatch):
    expected = last(params)

    def refuse(*args, **named):
        raise ValueError("a custom call of which nothing is promised")

    monkeypatch.setattr(traces, "_read", lambda path: None)
    monkeypatch.setattr(traces.export, "export", refuse)
    another_process()
    same(last(params), expected)


def test_nothing_is_kept_unless_the_command_says_so(params, tmp_path, monkeypatch, written):
    """Not where a caller has JAX keep compiled programs, either."""
    monkeypatch.setenv("STYLEJAX_CACHE", str(tmp_path / "ours"))
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    try:
        last(params)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert written == [] and not list(tmp_path.rglob("*traced*"))


def test_a_mistake_in_tracing_is_told_as_ever(params, folder, monkeypatch):
    def mistaken(*args, **named):
        raise RuntimeError("a mistake")

    monkeypatch.setattr(scale, "make_targets", mistaken)
    with pytest.raises(RuntimeError, match="a mistake"):
        last(params)
