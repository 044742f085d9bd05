"""Several hosts: two processes on this machine, with two forced devices each."""

import json
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import over_devices
import pytest

from stylejax import cli, hosts, images, saves

PROGRAM = over_devices.__file__
COMMAND = "import sys; from stylejax import cli, hosts; hosts.HEARTBEAT = 5; sys.exit(cli.main())"
# The disk is full when the run has taken its first step.
FULL = """
from stylejax import saves

def write(folder, save, write=saves.write):
    if save.place and save.place.step == 1:
        raise OSError("cannot use it (No space left on device); see to its disk")
    write(folder, save)

saves.write = write
"""


def free_port():
    with socket.socket() as socket_:
        socket_.bind(("127.0.0.1", 0))
        return socket_.getsockname()[1]


def start(*words, devices=2, **more):
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=over_devices.environment(devices) | quick,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def two(*words, command=COMMAND):
    """Both processes of a command."""
    together = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2"]
    return [start("-c", command, *words, *together, "--process", i) for i in (0, 1)]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A photo, a painting and a tiny network."""
    monkeypatch.setenv("STYLEJAX_CACHE", str(tmp_path / "cache"))
    noise = np.random.default_rng(0)
    for name, shape in (("photo", (37, 24, 3)), ("painting", (40, 30, 3))):
        images.save(tmp_path / f"{name}.png", noise.random(shape).astype(np.float32))
    return [tmp_path / "photo.png", tmp_path / "painting.png"]


OPTIONS = ("--network", "slim", "--size", "37", "--scales", "1", "--offline")
SMALL = ("--style-layers", "relu1_1,relu2_1", "--content-layers", "relu3_1")


def test_two_processes_make_the_picture_of_one():
    """20 steps of L-BFGS in float64, see test_devices."""
    port = free_port()
    both = [start(PROGRAM, "of_two", port, i) for i in (0, 1)]
    alone = start(PROGRAM, "alone", devices=1)
    ended = [process.communicate(timeout=300) for process in (*both, alone)]
    assert [p.returncode for p in (*both, alone)] == [0] * 3, ended
    first, second, one = (np.array(json.loads(out.splitlines()[-1])) for out, _ in ended)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - one).max() < 1e-4
    assert one.std() > 0.1


def test_the_first_process_alone_writes_and_prints(files, tmp_path):
    output = tmp_path / "out.png"
    processes = two(*files, "-o", output, *OPTIONS, *SMALL, "--steps", 3, "--record")
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert f"{output}: 24x37, loss" in said[0]
    assert "step 3/3" in said[0]
    assert "step" not in said[1]
    assert json.loads(output.with_suffix(".json").read_text())["devices"] == 4
    assert images.load(output).image.shape == (37, 24, 3)


@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_process_that_dies_ends_the_other_with_one_line(files, tmp_path, killed):
    output = tmp_path / "out.png"
    processes = two(*files, "-o", output, *OPTIONS, *SMALL, "--steps", 10**6, "--save-every", 1)
    began = time.monotonic()
    while not list(tmp_path.glob("out_*.png")) and time.monotonic() - began < 200:
        time.sleep(0.2)
    processes[killed].send_signal(signal.SIGKILL)  # its child, which works, goes with it
    survivor = processes[1 - killed]
    _, said = survivor.communicate(timeout=100)
    processes[killed].communicate(timeout=100)
    assert survivor.returncode == hosts.FAILED
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    assert "another" in lines[0]
    assert "gone" in lines[0]
    assert not output.exists()


@pytest.mark.long
def test_one_process_goes_on_with_what_two_have_saved(files, tmp_path):
    words = (*files, *OPTIONS, *SMALL, "--steps", 3, "--checkpoint", tmp_path / "run")
    processes = two(*words, "-o", tmp_path / "two.png", "--checkpoint-every", 0)
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    alone = start("-c", COMMAND, *words, "-o", tmp_path / "one.png", "--resume", devices=1)
    _, said = alone.communicate(timeout=300)
    assert alone.returncode == 0, said
    first, second = (images.load(tmp_path / f"{name}.png").image for name in ("two", "one"))
    np.testing.assert_array_equal(first, second)


@pytest.mark.long
def test_a_save_that_fails_is_told_once_and_both_processes_go_on(files, tmp_path):
    """The first process alone knows of it, and what both do next must be the same."""
    output, folder = tmp_path / "out.png", tmp_path / "run"
    words = (*files, "-o", output, *OPTIONS, *SMALL, "--steps", 3)
    saving = ("--checkpoint", folder, "--checkpoint-every", 0)
    processes = two(*words, *saving, command=FULL + COMMAND)
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    told = [line for text in said for line in text.splitlines() if line.startswith("not saved")]
    assert told == ["not saved: cannot use it (No space left on device); see to its disk"], said
    assert output.exists() and saves.latest(folder).place.step == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes", "2"], "belong together"),
        (["--coordinator", "a:1", "--processes", "2", "--process", "2"], "must be from 0 to 1"),
        (["--coordinator", "a:1", "--processes", "0", "--process", "0"], "must be at least 1"),
        (["--coordinator", "here", "--processes", "2", "--process", "0"], "must be host:port"),
        (["--devices", "99"], "99 devices were asked for"),
        (["--devices", "0"], "take from 1 to"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(files, tmp_path, capsys, words, message):
    argv = [*map(str, files), "-o", str(tmp_path / "out.png"), *OPTIONS, *words]
    assert cli.main(argv) == cli.WRONG_INPUT
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
