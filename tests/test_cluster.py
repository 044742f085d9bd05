"""Work on a real Dask cluster of two processes on this machine, some of which are killed."""

import os
import shlex
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_batch import SHARED, alone, rows, source  # noqa: F401, fixtures

from stylejax import cli, cluster, images, work
from stylejax.pairing import Pair

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    # Dask's own, when processes come and go.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """A cluster of two worker processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        patch.setenv("STYLEJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        with (
            dask.config.set({"temporary-directory": str(tmp_path_factory.mktemp("dask"))}),
            distributed.LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",
                silence_logs="CRITICAL",
            ) as made,
        ):
            yield made


@pytest.fixture
def workers(processes):
    """Its scheduler's address."""
    return processes.scheduler_address


def spread(address, tasks, do, split=lambda task: []):
    with cluster.connected(address) as client:
        return list(cluster.spread(client, do, tasks, split=split))


def squared(task):
    if task == 3:
        raise RuntimeError("three")
    return task * task


def deadly(task):
    """Its process dies, the first time or always."""
    for name, always in task:
        seen = Path(name)
        if always or not seen.exists():
            seen.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
    return [os.getpid() for _ in task]


@pytest.mark.long
def test_more_tasks_than_workers_and_an_error_among_them(workers):
    drawn = []
    done = spread(workers, (drawn.append(n) or n for n in range(40)), squared)
    assert sorted(task for task, _ in done) == drawn == list(range(40))
    for task, outcome in done:
        if task == 3:
            assert isinstance(outcome, RuntimeError) and str(outcome) == "three"
        else:
            assert outcome == task * task


@pytest.mark.long
def test_few_tasks_wait_at_the_scheduler(workers):
    drawn = []
    with cluster.connected(workers) as client:
        tasks = (drawn.append(n) or n for n in range(1000))
        made = cluster.spread(client, squared, tasks, split=lambda task: [])
        next(made)
        assert len(drawn) <= 8


def cores(_):
    return tuple(os.sched_getaffinity(0))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are bound on Linux only")
@pytest.mark.long
def test_workers_share_the_cores(workers):
    mine = os.sched_getaffinity(0)
    with cluster.connected(workers) as client:
        free = {
            w: client.submit(cores, 0, pure=False, workers=[w]).result() for w in client.nthreads()
        }
        bound = cluster.sharing(cores, 2)
        tasks = [client.submit(bound, 0, pure=False, workers=[w]) for w in free]
        shares = [future.result() for future in tasks]
    assert set(free.values()) == {tuple(mine)}
    if len(mine) > 1:
        assert set(shares[0]).isdisjoint(shares[1]) and {*shares[0], *shares[1]} == mine


@pytest.mark.long
def test_a_process_killed_in_the_middle_of_a_task_loses_nothing(workers, tmp_path):
    name = str(tmp_path / "dead")
    ((_, outcome),) = spread(workers, [[(name, False)]], deadly)
    assert isinstance(outcome, list) and outcome != [int(Path(name).read_text())]


@pytest.mark.long
def test_a_task_at_which_processes_keep_dying_is_split(processes, workers, tmp_path, monkeypatch):
    monkeypatch.setattr(processes.scheduler, "allowed_failures", 1)
    good, bad = (str(tmp_path / "good"), True), (str(tmp_path / "bad"), True)
    Path(good[0]).touch()
    tasks = [[(good[0], False), bad]]
    done = spread(workers, tasks, deadly, lambda task: [[p] for p in task] if task[1:] else [])
    outcomes = {task[0][0]: outcome for task, outcome in done}
    assert len(done) == 2 and isinstance(outcomes[good[0]], list)
    assert isinstance(outcomes[bad[0]], distributed.KilledWorker)


@pytest.mark.long
def test_batch_with_a_worker_killed_mid_way(workers, capsys):
    """SIGKILL while it makes a picture: all pictures come, and are those of this process."""
    line = f"batch photos styles -o {{}} {SHARED} --together 1 --steps 300 --scheduler {workers}"
    killed = []

    def kill():
        with distributed.Client(workers, set_as_default=False) as client:
            pids = client.run(os.getpid)
            while True:
                busy = [w for w, keys in client.processing().items() if keys]
                if busy and os.path.exists("out/b--s.png"):
                    os.kill(pids[busy[0]], signal.SIGKILL)
                    killed.append(busy[0])
                    return
                time.sleep(0.02)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    status = cli.main(shlex.split(line.format("out")))
    said = capsys.readouterr().err
    killer.join(10)
    assert status == 0 and killed and "8 of 8 pictures" in said, said
    table = rows("out/batch.csv")
    assert [row["state"] for row in table] == ["made"] * 8
    assert not list(Path("out").glob("*.part")) and Path(table[0]["photo"]).is_absolute()
    # And the same command here finds them all, whoever made them, and what one is like.
    words = line.format("out").partition("--scheduler")[0]
    assert cli.main(shlex.split(words)) == 0
    assert "8 of 8 pictures (8 were there)" in capsys.readouterr().err
    single = line.format("one").replace("photos", "photos/c.png").partition("--scheduler")[0]
    assert cli.main(shlex.split(single)) == 0
    difference = images.load("one/c--s.png").image - images.load("out/c--s.png").image
    assert np.abs(difference).max() <= 1 / 255


@pytest.mark.long
def test_other_weights_on_a_worker_are_refused(workers):
    pair = Pair(Path("photos/a.png").absolute(), Path("styles/s.png").absolute(), Path("o.png"))
    given = cli.parse(shlex.split(f"photos/a.png styles/s.png -o o.png {SHARED}"))
    task = work.Task(
        work.anywhere(given), (), (pair._replace(output=Path("o.png").absolute()),), 1, "0"
    )
    ((_, outcome),) = spread(workers, [task], work.do_on_worker)
    assert [row.state for row in outcome] == ["failed"] and "has other weights" in outcome[0].error
    assert "--weights" in outcome[0].error and not Path("o.png").exists()


@pytest.mark.long
def test_a_broken_photo_on_a_worker(workers, capsys):
    Path("photos/b.png").write_bytes(Path("photos/b.png").read_bytes()[:200])
    line = f"batch photos styles/s.png -o out {SHARED} --scheduler {workers} -q"
    assert cli.main(shlex.split(line)) == 1
    said = capsys.readouterr().err
    assert "b.png' is damaged or cut short" in said and "3 of 4 pictures" in said


@pytest.mark.long
def test_a_cluster_of_this_machine(capsys, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    line = f"batch photos/a.png styles -o out {SHARED} --scheduler local --workers 2"
    before = signal.getsignal(signal.SIGINT)
    assert cli.main(shlex.split(line)) == 0
    assert "out: 2 of 2 pictures" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.long
def test_when_all_workers_are_gone(monkeypatch):
    """Those of a cluster of ours come again; of another the command does not wait for ever."""
    monkeypatch.setattr(cluster, "PATIENCE", 0.2)
    scaled = []

    class Lost:
        cluster = None

        def nthreads(self):
            return {}

    def late(futures, **named):
        if len(scaled) < 2:
            raise TimeoutError
        return type("Done", (), {"done": set(futures)})

    monkeypatch.setattr(distributed, "wait", late)
    monkeypatch.setattr(cluster, "WAIT", 1)
    with pytest.raises(ConnectionError, match="it has lost all its workers"):
        cluster._done(Lost(), ["future"])
    Lost.cluster = type("Ours", (), {"worker_spec": [0, 1], "scale": scaled.append})
    assert cluster._done(Lost(), ["future"]) == ["future"] and scaled == [2, 2]


def test_nobody_answers(capsys, monkeypatch):
    monkeypatch.setattr(cluster, "WAIT", 1)
    line = f"batch photos styles -o out {SHARED} --scheduler tcp://127.0.0.1:9"
    assert cli.main(shlex.split(line)) == 2
    said = capsys.readouterr().err
    assert "no scheduler answers there" in said and said.count("error: ") == 1
    with distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as empty:
        address = empty.scheduler_address
        assert cli.main(shlex.split(line.replace("tcp://127.0.0.1:9", address))) == 2
    assert "has no worker; start one" in capsys.readouterr().err


def test_without_dask(capsys, monkeypatch):
    def missing():
        raise ModuleNotFoundError("needs Dask; install it")

    monkeypatch.setattr(cluster, "check", missing)
    assert cli.main(shlex.split(f"batch photos styles -o out {SHARED} --scheduler local")) == 2
    assert "error: --scheduler local needs Dask; install it" in capsys.readouterr().err
