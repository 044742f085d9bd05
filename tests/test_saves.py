"""Saves: exact, the last two, whole or not at all, and nothing else in the folder touched."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import over_devices
import pytest

from stylejax import record, saves
from stylejax.objective import LossTerms
from stylejax.optimizers import State, Status
from stylejax.place import Place
from stylejax.scale import History

pytestmark = pytest.mark.usefixtures("quick_compilation")


def history(*totals):
    """Rows whose losses are not finite everywhere, and hard to write down."""
    column = np.asarray(totals, np.float32)
    terms = LossTerms(column, {}, {"relu1_1": column / 3}, column, {}, column)
    counted = np.arange(len(totals), dtype=np.int32)
    return History(terms, counted, counted > 0)


def entry(scale, *totals):
    return record.Entry(scale, 27, 20, Status.STALLED, 7, float(totals[-1]), history(*totals))


TRACE = (entry(0, 0.1, np.nan), entry(0, np.inf), entry(1, 1e-40, 2.5, -0.0))


def place(step=4, seed=0):
    """A state with everything that an array may hold."""
    noise = np.random.default_rng(seed)
    state = State(
        z=jnp.asarray(noise.normal(size=(20, 27, 3)), jnp.float32),
        value=jnp.asarray(-0.0, jnp.float32),
        aux={"relu1_1": np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)},
        other=noise.normal(size=(3, 2)),
        status=np.asarray(2, np.int32),
        evaluations=np.asarray(9, np.int32),
        engine=(
            np.ones((5, 3), ml_dtypes.bfloat16) / 3,
            np.zeros((0, 3), np.float32),
            {"flags": np.array([True, False]), "none": None},
        ),
    )
    return Place(1, step, 3, state)


def save(**more):
    return saves.Save({"config.steps": 5}, place(), TRACE, **more)


def bits(tree):
    leaves = map(np.asarray, jax.tree.leaves(tree))
    return [(leaf.shape, str(leaf.dtype), leaf.tobytes()) for leaf in leaves]


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_everything_comes_back_to_the_last_bit(tmp_path):
    frames = (np.arange(12, dtype=np.uint8).reshape(1, 4, 3), np.zeros((2, 2, 3), np.uint8))
    saves.check(tmp_path / "new" / "run")
    saves.write(tmp_path / "new" / "run", save(frames=frames, seconds=1.25, words={"a": [None]}))
    found = saves.latest(tmp_path / "new" / "run")
    assert found.place[:3] == (1, 4, 3)
    assert bits(found.place.state) == bits(place().state)
    assert found.fingerprint == {"config.steps": 5} and found.words == {"a": [None]}
    assert found.seconds == 1.25 and found.versions == record.versions()
    assert bits(found.frames) == bits(frames)
    # One entry for each scale, which tells the same.
    assert [item[:6] for item in found.trace] == [TRACE[1][:6], TRACE[2][:6]]
    for mine, its in zip(record.by_scale(found.trace), record.by_scale(TRACE), strict=True):
        assert bits(mine) == bits(its)


def test_a_run_before_its_start(tmp_path):
    assert saves.latest(tmp_path) is None and saves.numbers(tmp_path) == []
    assert saves.latest(tmp_path / "nowhere") is None
    saves.write(tmp_path, saves.Save({"a": 1}))
    found = saves.latest(tmp_path)
    assert (found.place, found.trace, found.frames) == (None, (), ())


def test_the_last_two_are_kept_and_nothing_else_is_touched(tmp_path):
    others = ("20240101", "00000000", "save-1", "notes.txt")
    for name in others:
        (tmp_path / name).mkdir()
    for step in range(4):
        saves.write(tmp_path, save()._replace(place=place(step)))
        assert saves.numbers(tmp_path) == [*range(step + 1)][-2:]
        assert saves.latest(tmp_path).place.step == step
    assert names(tmp_path) == sorted([*others, "save-00000002", "save-00000003"])


def test_what_a_killed_process_leaves_is_never_taken_and_is_cleaned(tmp_path):
    saves.write(tmp_path, save())
    # In the middle of a save, behind Orbax's part of it, in the middle of a removal.
    left = ("save-00000002.orbax-checkpoint-tmp", "save-00000001", "save-00000003")
    for name in left:
        (tmp_path / name / "arrays").mkdir(parents=True)
    assert saves.latest(tmp_path).place.step == 4 and saves.numbers(tmp_path) == [0]
    saves.check(tmp_path)
    assert names(tmp_path) == ["save-00000000"]
    for name in left:
        (tmp_path / name).mkdir()
    saves.write(tmp_path, save())
    assert names(tmp_path) == ["save-00000000", "save-00000001"]


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "words"])
def test_a_damaged_save_gives_way_to_the_one_before(tmp_path, how):
    for step in range(2):
        saves.write(tmp_path, save()._replace(place=place(step, seed=step)))

    def damage(folder):
        file = largest(folder)
        whole = bytearray(file.read_bytes())
        if how == "flipped":
            whole[len(whole) // 2] ^= 1
            file.write_bytes(whole)
        elif how == "cut":
            file.write_bytes(whole[: len(whole) // 2])
        elif how == "gone":
            file.unlink()
        else:
            (folder / "words" / "metadata").write_text(json.dumps({"place": None}))

    damage(tmp_path / "save-00000001")
    found = saves.latest(tmp_path)
    assert found.place.step == 0 and bits(found.place.state) == bits(place(seed=0).state)
    damage(tmp_path / "save-00000000")
    with pytest.raises(
        OSError, match=r"no save in .* can be read \(.*\); begin the run"
    ) as refused:
        saves.latest(tmp_path)
    assert "\n" not in str(refused.value)


def test_folders_that_cannot_be_used_are_refused_first(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match=r"cannot save in .*file.* choose another folder"):
            saves.check(folder)
    saves.write(tmp_path, save())
    there = sum(p.stat().st_size for p in tmp_path.rglob("save*/**/*") if p.is_file())
    usage = type("Usage", (), {"free": 5_000_000})
    monkeypatch.setattr(saves.shutil, "disk_usage", lambda folder: usage)
    saves.check(tmp_path, needed=5_000_000 + there)  # what is there will go
    with pytest.raises(OSError, match=r"want 3.0 GB, and its disk has room for 5.0 MB") as refused:
        saves.check(tmp_path, needed=3_000_000_000)
    assert "\n" not in str(refused.value)


def test_a_full_disk_in_the_middle_leaves_what_was_there(tmp_path, monkeypatch):
    import orbax.checkpoint

    saves.write(tmp_path, save())

    def full(self, path, args):
        Path(f"{path}.orbax-checkpoint-tmp").mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: Error writing\n[No space left on device]\n" * 9)

    with monkeypatch.context() as patch, pytest.raises(OSError) as refused:
        patch.setattr(orbax.checkpoint.Checkpointer, "save", full)
        saves.write(tmp_path, save()._replace(place=place(5)))
    assert str(refused.value).endswith("(No space left on device); see to its disk")
    assert saves.latest(tmp_path).place.step == 4
    saves.write(tmp_path, save()._replace(place=place(6)))
    assert saves.latest(tmp_path).place.step == 6
    assert names(tmp_path) == ["save-00000000", "save-00000001"]


SHARDED = """
import sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
import stylejax.cli
assert not any(name.startswith("orbax") for name in sys.modules)
from stylejax import place, saves

rows = NamedSharding(jax.make_mesh((2,), ("rows",)), PartitionSpec("rows"))
state = {"z": jax.device_put(np.arange(12.0, dtype=np.float32).reshape(4, 3), rows), "n": 3}
state["n"] = jax.numpy.asarray(3)
saves.write(sys.argv[1], saves.Save({}, place.Place(0, 1, 0, state)))
leaves = jax.tree.leaves(saves.latest(sys.argv[1]).place.state)
fresh = jax.tree.map(jax.numpy.zeros_like, state)
back = place.restored(jax.tree.unflatten(jax.tree.structure(state), leaves), fresh)
assert back["z"].sharding == rows and len(back["z"].addressable_shards) == 2
assert not back["n"].committed
np.testing.assert_array_equal(back["z"], state["z"])
"""


def test_states_over_several_devices_and_orbax_only_where_it_is_used(tmp_path):
    command = [sys.executable, "-c", SHARDED, str(tmp_path)]
    env = over_devices.environment(2)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
