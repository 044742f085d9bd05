"""The plan of memory and time: arithmetic by hand, the order of ways, what is refused."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from stylejax import Adam, Config, Lbfgs, budget, statistics, vgg

SIZE = (3072, 4096)


@pytest.fixture(scope="module")
def params():
    """Shapes are enough."""
    return jax.eval_shape(lambda key: vgg.random_params(key), jax.random.key(0))


def test_parts_by_hand(params):
    needed = budget.need(Config(), (512, 512), params)
    picture = 512 * 512 * 3 * 4
    assert needed.pairs == 2 * 20 * picture
    assert needed.targets == 64 * 64 * 512 * 4  # relu4_2
    assert needed.total == sum(needed)
    half = Config(optimizer=Lbfgs(memory=7, memory_dtype="bfloat16"))
    assert budget.need(half, (512, 512), params).pairs == 7 * picture
    assert budget.need(Config(optimizer=Adam()), (512, 512), params).pairs == 4 * picture


def test_strips_take_less_and_rows_that_are_kept_more(params):
    def activations(**fields):
        return budget.need(Config(**fields), SIZE, params).activations

    whole = activations()
    assert activations(strip=1024) < whole / 5
    # Very thin strips hand on more rows than they save.
    assert activations(strip=256) > activations(strip=512) > 0
    assert activations(strip=512, recompute=3) > activations(strip=512)


def test_ways_are_ever_smaller_and_begin_with_the_config(params):
    ways = list(budget.ways(Config(), SIZE, params))
    needs = [budget.need(way, SIZE, params).total for way in ways]
    assert ways[0] == Config()
    assert needs == sorted(needs, reverse=True)
    assert ways[1].strip and ways[1].optimizer == Lbfgs()
    assert ways[-1].optimizer == Lbfgs(memory=2, memory_dtype="bfloat16")


def test_strips_keep_what_fits_of_what_is_slow_to_compute_again(params):
    """The largest come first, of these those that compute least again, and last all."""
    strips = list(budget.in_strips(Config()))
    assert list(dict.fromkeys(way.recompute for way in strips)) == [0, 1, 2, None]
    assert [way.strip for way in strips[:4]] == [2048, 2048, 2048, 1448]
    assert strips[3 * 7].recompute is None and strips[3 * 7].strip == 2048
    assert all(way.nested for way in budget.in_strips(Config(strip=512, nested=True)))
    assert all(way.recompute is None for way in strips if way.nested)
    assert {way.recompute for way in budget.in_strips(Config(strip=512, recompute=1))} == {1, None}
    fits = budget.fitting(Config(), SIZE, params, 24e9)
    assert (fits.recompute, fits.nested) == (0, False)
    needed = budget.need(fits, SIZE, params)
    assert ", no blocks computed again, " in budget.described(fits, SIZE, needed, None)
    tight = budget.fitting(Config(), SIZE, params, 10.6e9)
    assert tight.strip and tight.recompute is None


def test_a_loss_that_is_no_sum_gets_no_strips(params):
    config = Config(style_statistic=statistics.RELATIVE_HISTOGRAM)
    assert all(way.strip is None for way in budget.ways(config, SIZE, params))
    with pytest.raises(ValueError, match="histogram at relu1_1 is not"):
        budget.least(config, SIZE, params)


def test_the_first_way_that_fits(params):
    whole = budget.need(Config(), SIZE, params).total
    assert budget.fitting(Config(), SIZE, params, None) == Config()
    assert budget.fitting(Config(), SIZE, params, whole) == Config()
    fits = budget.fitting(Config(), SIZE, params, 16e9)
    assert fits.strip and fits.optimizer == Lbfgs()
    assert budget.need(fits, SIZE, params).total <= 16e9
    small = budget.fitting(Config(), SIZE, params, 7e9)
    assert small.optimizer.memory_dtype == "bfloat16"
    with pytest.raises(ValueError, match=r"4096x3072 takes about .* GB at the least and there are"):
        budget.fitting(Config(), SIZE, params, 1e9)


def test_least_is_little_more_than_the_smallest_strip_takes_with_pairs_of_bfloat16(params):
    """Hardly more, where that takes nested strips."""
    small = (1024, 1024)
    for config, size, nested, more in (
        (Config(), small, False, 1.15),
        (Config(), SIZE, False, 1.15),
        (Config(optimizer=Lbfgs(memory=2)), (6144, 8192), True, 1.05),
    ):
        found = budget.least(config, size, params)
        assert found.nested == nested
        others = [
            dataclasses.replace(found, strip=side, strip_above=None, recompute=None, nested=nested)
            for side in (256, 512, 1024)
            for nested in (False, True)
        ]
        fewest = min(budget.need(way, size, params).total for way in others)
        assert budget.need(found, size, params).total <= more * fewest
    found = budget.least(Config(), small, params)
    assert (found.strip, found.recompute, found.strip_above) == (362, 1, 512)
    found = budget.least(Config(), SIZE, params)
    assert found.optimizer == Lbfgs(memory_dtype="bfloat16")
    adam = budget.least(Config(optimizer=Adam()), SIZE, params)
    assert adam.strip and adam.optimizer == Adam()


def test_coarser_scales_are_whole_where_they_fit(params):
    least = budget.least(Config(), SIZE, params)
    limit = budget.need(least, SIZE, params).total
    sizes = least.sizes(*SIZE)
    whole = [least.strip_rows(*size) is None for size in sizes]
    assert whole == sorted(whole, reverse=True) and not whole[-1]
    assert least.strip_above > 1.5 * least.strip
    for size, is_whole in zip(sizes, whole, strict=True):
        way = least if is_whole else dataclasses.replace(least, strip_above=max(size))
        assert (budget.need(way, size, params).total <= limit) >= is_whole
    # 4 GB have more room than the least takes.
    assert budget.fitting(least, SIZE, params, 2 * limit).strip_above > least.strip_above
    # Nothing is as a whole that takes more than the limit.
    tight = budget.with_coarser_whole(Config(strip=256), SIZE, params, 0.0)
    assert tight == Config(strip=256)
    assert budget.with_coarser_whole(Config(), SIZE, params, limit) == Config()


def test_one_line(params):
    config = Config(strip=512, optimizer=Lbfgs(memory=8, memory_dtype="bfloat16"))
    needed = budget.need(config, SIZE, params)
    told = budget.described(config, SIZE, needed, 24e9)
    gigabytes = f"{needed.total / 1e9:.1f}"
    assert told == (
        "4096x3072 in 24.0 GB: strips of 64 rows, 8 pairs of L-BFGS in bfloat16, "
        f"about {gigabytes} GB"
    )
    whole = budget.described(Config(optimizer=Adam()), (64, 64), needed, None)
    assert whole.startswith("64x64: whole, about ")


class Device(SimpleNamespace):
    """One that this machine need not have."""

    __hash__ = object.__hash__


def over_eight(platform):
    """A config whose rows are spread over eight devices, and one of them."""
    there = [Device(platform=platform) for _ in range(8)]
    return Config(mesh=Mesh(np.array(there), ("rows",))), there[0]


def test_devices_share_all_but_the_network_and_those_of_a_cpu_share_memory(params):
    alone = budget.need(Config(), SIZE, params, device=SimpleNamespace(platform="gpu"))
    config, device = over_eight("gpu")
    each = budget.need(config, SIZE, params, device=device)
    shared = ("pairs", "pictures", "targets", "activations")
    same = {name for name in alone._fields if getattr(each, name) == getattr(alone, name)}
    assert same == {"program", "network", "compiling"}
    assert all(getattr(each, name) == getattr(alone, name) / 8 for name in shared)
    assert budget.described(config, SIZE, each, None).endswith(" GB on each of 8 devices")
    config, device = over_eight("cpu")
    together = budget.need(config, SIZE, params, device=device)
    assert together == budget.need(Config(), SIZE, params, device=device)
    assert budget.described(config, SIZE, together, None).endswith(" GB in each process")


def test_devices_that_cannot_hold_their_share_take_it_in_strips(params):
    config, device = over_eight("gpu")
    whole = budget.need(config, SIZE, params, device=device)
    found = budget.fitting(config, SIZE, params, 0.6 * whole.total, device=device)
    each = budget.need(found, SIZE, params, device=device)
    assert found.strip and found.mesh is config.mesh and each.total <= 0.6 * whole.total
    own = (config.own_rows(SIZE[0]), SIZE[1])
    alone = budget.need(Config(strip=found.strip), own, params, device=device)
    # As of one that has such a picture for itself, cut a little otherwise.
    assert 0.7 * alone.activations < each.activations < 1.5 * alone.activations
    assert each.activations < 0.6 * whole.activations
    assert f"strips of {found.strip_rows(*SIZE)} rows" in budget.described(found, SIZE, each, None)
    # On a CPU all of them work at once in one process.
    over_cpus, cpu = over_eight("cpu")
    on_cpu = dataclasses.replace(
        over_cpus, strip=found.strip, recompute=found.recompute, nested=found.nested
    )
    together = budget.need(on_cpu, SIZE, params, device=cpu)
    assert together.activations == 8 * each.activations


def test_a_tpu_pads_channels_and_needs_no_evaluated_kernels(params):
    cpu, tpu = (
        budget.need(Config(), SIZE, params, device=SimpleNamespace(platform=platform))
        for platform in ("cpu", "tpu")
    )
    assert tpu.network < cpu.network
    assert tpu.activations > 1.5 * cpu.activations


def test_what_is_at_hand():
    assert budget.available(None) > 2**28
    assert budget.lanes(None) == (128 if jax.default_backend() == "tpu" else 1)


def test_pictures_that_no_memory_holds_are_refused():
    budget.check((512, 512))
    with pytest.raises(ValueError, match=r"900000x600000 takes .* GB at the least and there are"):
        budget.check((600_000, 900_000))
