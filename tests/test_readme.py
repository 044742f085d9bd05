"""README, --help and the code say the same; README's examples run."""

import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest
import typer.main

import stylejax
from stylejax import batch, cli, grid, images, weights

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def options(app=cli.app):
    """Every option of a command with its longest name."""
    command = typer.main.get_command(app)
    return {max(p.opts, key=len): p for p in command.params if p.opts[0].startswith("-")}


def table():
    """README's table of options as name -> (meaning, default)."""
    rows = re.findall(r"^\| `(--[\w-]+).*? \| (.*?) \| (.*?) \|$", README, re.MULTILINE)
    return {name: (meaning, default) for name, meaning, default in rows}


def test_the_table_lists_every_option_with_its_default():
    said, real = table(), options()
    assert set(said) == set(real) - {"--help", "--version"}
    for name, parameter in real.items():
        if match := re.search(r"\(default: (.*?)\)\[/dim\]", parameter.help or ""):
            assert said[name][1].strip("`") == match.group(1), name


def test_both_commands_are_one_line_and_name_what_exists():
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        for word in shlex.split(command):
            if "/" in word and not word.startswith(".venv"):
                assert (ROOT / word).exists(), word


def test_the_options_of_the_examples_exist():
    known = {
        name
        for app in (cli.app, grid.app, batch.application(cli.command))
        for option in options(app).values()
        for name in (*option.opts, *option.secondary_opts)
    }
    for name in re.findall(r"(?<![\w-])--[a-z][\w-]*", README):
        # Of convert_weights.py, and of commands whose own tests ask for them.
        others = {"--source", "--normalise", "--help", "--seamless", "--layers", "--figure"}
        assert name in {*known, *others, "--ratios"}, name


def test_the_options_of_grid_are_told():
    section = README.partition("\n## Sweeps")[2].partition("\n## ")[0]
    for name in set(options(grid.app)) - {"--help", "--output"}:
        assert f"`{name}" in section, name


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_the_python_examples_run(tmp_path, monkeypatch, quick_compilation):
    """On a narrow random network and small pictures in place of the real ones."""
    narrow = stylejax.Architecture((1, 1, 2, 2, 2), (4, 4, 6, 6, 6))
    params = stylejax.random_params(jax.random.key(0), narrow)
    params = jax.tree.map(np.asarray, params)
    weights.save(tmp_path / "narrow.h5", params, weights.Origin("random"))
    (tmp_path / "examples").mkdir()
    for seed, name in enumerate(("photo", "painting")):
        pixels = np.random.default_rng(seed).random((24, 32, 3))
        images.save(tmp_path / "examples" / f"{name}.jpg", pixels)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STYLEJAX_WEIGHTS", str(tmp_path / "narrow.h5"))
    monkeypatch.setenv("STYLEJAX_CACHE", str(tmp_path / "cache"))
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 5
    names: dict = {}
    for block in blocks:
        exec(compile(re.sub(r"steps=\d+", "steps=2", block), "README.md", "exec"), names)
    assert images.load("out.png").image.shape == (24, 32, 3)
    assert all(images.load(f"{place}.png").image.shape == (24, 32, 3) for place in range(3))
    keys = jax.random.key(0)
    swept = names["renders"](np.array([1.0, 20.0], np.float32), names["painting"], keys)
    assert swept.image.shape == (2, 24, 32, 3)
    assert np.isfinite(names["slope"](5.0))


@pytest.mark.parametrize("file", sorted(ROOT.glob("docs/*.md")), ids=lambda p: p.name)
def test_documents_name_no_private_path(file):
    assert not re.search(r"(?<![\w.])/(home|root|tmp)/", file.read_text())
