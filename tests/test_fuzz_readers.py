"""A short run of the fuzzer, and that it finds what it is there to find."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import fuzz_readers  # noqa: E402


@pytest.mark.slow
def test_no_findings(capsys):
    assert fuzz_readers.main(["--count", "500"]) == 0
    said = capsys.readouterr().out
    assert "no findings" in said and " 0 refused" not in said


def test_inputs_can_be_made_again():
    seeds = [bytes(range(256)), b"other" * 40]
    assert fuzz_readers.mutant(seeds, 0, 7) == fuzz_readers.mutant(seeds, 0, 7)
    made = {fuzz_readers.mutant(seeds, 0, number) for number in range(50)}
    assert len(made) > 40


def _write(path):
    path.with_suffix(".stolen").write_bytes(b"")


def _several_lines(path):
    raise ValueError("one\ntwo")


def _crash(path):
    os.kill(os.getpid(), signal.SIGKILL)


BAD = {
    "process": lambda path: subprocess.run(["true"]),
    "write": _write,
    "exec": lambda path: exec("pass"),
    "module": lambda path: __import__("antigravity_of_nobody"),
    "key": lambda path: {}["absent"],
    "lines": _several_lines,
    "exit": lambda path: sys.exit(0),
}


@pytest.fixture(scope="module", autouse=True)
def audited():
    sys.addaudithook(fuzz_readers._audit)


@pytest.mark.parametrize("name", BAD)
def test_what_a_reader_must_not_do_is_found(name, tmp_path):
    assert fuzz_readers._outcome(BAD[name], tmp_path / "input")[0] == "finding"
    assert not (tmp_path / "input.stolen").exists()


def test_a_refusal_is_none(tmp_path):
    def refuse(path):
        raise ValueError("one line")

    assert fuzz_readers._outcome(refuse, tmp_path) == ("refused", "")
    assert fuzz_readers._outcome(lambda path: None, tmp_path) == ("read", "")


def _stumble(how, name, seed, numbers, at, results):
    """A worker that reads nothing, and stumbles over input 1."""
    for number in numbers:
        at.value = number
        if number == 1:
            how()
        results.put(("refused", number, ""))
    results.put(("done", -1, ""))


@pytest.mark.parametrize(
    "how, said", [(partial(_crash, None), "crashed"), (partial(time.sleep, 60), "hung")]
)
def test_a_worker_that_dies_is_replaced(how, said):
    counts, findings = fuzz_readers.fuzz(
        "none", 0, range(4), work=partial(_stumble, how), patience=1
    )
    assert counts == {"read": 0, "refused": 3, "finding": 1}
    assert len(findings) == 1 and findings[0].startswith(f"none 1: {said}")
