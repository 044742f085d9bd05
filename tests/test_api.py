"""The style of the API: documented names, keyword-only options, silence, light imports."""

import ast
import dataclasses
import enum
import inspect
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import stylejax

PACKAGE = Path(stylejax.__file__).parent
MODULES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}

# Whoever does not use these does not wait for them, nor need them.
OPTIONAL = ("jaxopt", "pooch", "requests", "keras", "torch", "tensorflow", "gradio")
OPTIONAL += ("matplotlib", "av", "orbax")

# The command line: the only modules that may print, and that no other module imports.
SHELL = {
    "batch.py",
    "cli.py",
    "commands.py",
    "figure.py",
    "grid.py",
    "hosts.py",
    "job.py",
    "plan.py",
}
SHELL |= {"lanes.py", "resumption.py", "synthesis.py", "work.py"}

# Functions with an optional argument that may be given by position, each with its reason.
BY_POSITION = {
    "cli.py:main": "argv, as of every main",
    "commands.py:option": "names, text, default: a table's columns, as of typer",
    "convert.py:read_adain": "one kind of reader, `reader(path)`, in the table of checkpoints",
    "convert.py:read_jcjohnson": "as read_adain",
    "convert.py:read_keras": "as read_adain",
    "convert.py:read_torchvision": "as read_adain",
    "devices.py:by_rows": "axis, as of NumPy",
    "devices.py:described": "whole, as of place",
    "devices.py:mesh": "count: mesh(8)",
    "devices.py:spec": "axis, as of NumPy",
    "hosts.py:join": "coordinator, processes, process: as of jax.distributed.initialize",
    "layers.py:convolve": "custom_vjp takes static arguments by position",
    "layers.py:convolve_circular": "custom_vjp takes static arguments by position",
    "layers.py:convolve_replicating": "custom_vjp takes static arguments by position",
    "layers.py:convolve_rows": "custom_vjp takes static arguments by position",
    "matconvnet.py:read_matconvnet": "as the readers of convert.py",
    "memory.py:activation_bytes": "the network beside its layers",
    "memory.py:stages": "as activation_bytes",
    "normalisation.py:vgg19_means": "the network they are for",
    "scale.py:at_hand": "config, as of the functions of objective",
    "statistics/moments.py:gaussian_sums": "as gram_sums",
    "statistics/moments.py:gram": "custom_vjp, as in layers.py",
    "statistics/moments.py:gram_sums": "`accumulate(features, weight)` of every statistic",
    "statistics/moments.py:moment_sums": "as gram_sums",
    "statistics/patches.py:patch_summary": "as gram_sums",
    "statistics/patches.py:patch_summary_of_tile": "as gram_sums",
    "statistics/quantiles.py:channel_quantiles": "as gram_sums",
    "statistics/quantiles.py:direction_quantiles": "as gram_sums",
    "vgg.py:check_layers": "the network beside its layers",
    "vgg.py:random_params": "`random_params(key, VGG19)` reads by itself",
    "weights.py:choose": "the network's name",
    "weights.py:fetch": "the file it is about",
    "weights.py:resolve": "the file it is about",
}


def public_names():
    return {name: getattr(stylejax, name) for name in stylejax.__all__}


def fields(record):
    if dataclasses.is_dataclass(record):
        return [field.name for field in dataclasses.fields(record)]
    return list(getattr(record, "_fields", ()))


def documented(docstring, heading):
    """The names that a docstring lists under a heading, or None without that heading."""
    lines = docstring.splitlines()
    if f"{heading}:" not in lines:
        return None
    below = lines[lines.index(f"{heading}:") + 1 :]
    indent = len(below[0]) - len(below[0].lstrip())
    names = []
    for line in below:
        if line and not line.startswith(" "):
            break
        entry = re.match(rf" {{{indent}}}(\w+):", line)
        names += [entry.group(1)] if entry else []
    return names


# Names


def test_the_table_of_contents_is_complete():
    here = {
        name
        for name, value in vars(stylejax).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert here == set(stylejax.__all__)
    assert len(stylejax.__all__) == len(set(stylejax.__all__))
    assert re.fullmatch(r"\d+\.\d+\.\d+", stylejax.__version__)


@pytest.mark.parametrize("name", [n for n, v in public_names().items() if inspect.isfunction(v)])
def test_public_functions_document_their_arguments(name):
    function = getattr(stylejax, name)
    assert documented(inspect.getdoc(function), "Args") == [*inspect.signature(function).parameters]


@pytest.mark.parametrize("name", [n for n, v in public_names().items() if inspect.isclass(v)])
def test_public_classes_document_their_fields(name):
    record = getattr(stylejax, name)
    docstring = record.__doc__ or ""
    # dataclass and NamedTuple write a signature where there is no docstring.
    assert docstring and not docstring.startswith(f"{name}(")
    attributes = documented(inspect.getdoc(record), "Attributes")
    if attributes is not None:
        assert attributes == fields(record)
    elif not issubclass(record, enum.Enum):
        missing = [field for field in fields(record) if not re.search(rf"\b{field}\b", docstring)]
        assert not missing


def test_options_are_keyword_only():
    found = {
        f"{name}:{node.name}"
        for name, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        if node.args.defaults and not (name in SHELL and node.name == "command")  # typer's
    }
    assert found == set(BY_POSITION)


# Silence


def test_the_library_neither_prints_nor_exits():
    found = []
    for name, tree in TREES.items():
        if name in SHELL:
            continue
        for node in ast.walk(tree):
            words = {"print", "input", "exit", "quit", "SystemExit", "breakpoint"}
            if isinstance(node, ast.Name) and node.id in words:
                found.append(f"{name}:{node.lineno} {node.id}")
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                place = f"{node.value.id}.{node.attr}"
                if place in ("sys.exit", "os._exit", "sys.stdout", "jax.debug"):
                    found.append(f"{name}:{node.lineno} {place}")
    assert not found


def test_the_library_does_not_know_the_command_line():
    for name, tree in TREES.items():
        if name not in SHELL:
            aliases = {
                alias.name
                for node in ast.walk(tree)
                if isinstance(node, ast.Import | ast.ImportFrom)
                for alias in node.names
            }
            files = {module.removesuffix(".py") for module in SHELL}
            assert not aliases & {*files, *(f"stylejax.{file}" for file in files)}, name


# Imports


def imported(tree):
    """Top-level packages that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_one_module_knows_each_tool():
    users = {}
    for name, tree in TREES.items():
        for package in imported(tree):
            users.setdefault(package, set()).add(name)
    assert users["PIL"] == {"animation.py", "images.py", "sheet.py"}
    assert (users["matplotlib"], users["av"]) == ({"plots.py"}, {"animation.py"})
    assert users["orbax"] == {"saves.py"}
    assert users["jaxopt"] == {"optimizers/jaxopt_engines.py".replace("/", os.sep)}
    assert not users.keys() & {"keras", "torch", "tensorflow", "scipy"}


def test_nothing_private_to_jax_is_used():
    for name, path in MODULES.items():
        assert "_src" not in path.read_text(encoding="utf-8"), name


PROBE = """
import importlib, json, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OPTIONAL:
            raise ModuleNotFoundError(f"{name} is not here", name=name)

OPTIONAL = sys.argv[1].split(",")
import stylejax
light = sorted({name.split(".")[0] for name in sys.modules})
sys.meta_path.insert(0, Refuse())
everything = []
for module in pkgutil.walk_packages(stylejax.__path__, "stylejax."):
    importlib.import_module(module.name)
    everything.append(module.name)
print(json.dumps({"light": light, "everything": everything}))
"""


@pytest.fixture(scope="module")
def fresh():
    """A new process with nothing but the package; a device asked for at import is an error."""
    command = [sys.executable, "-c", PROBE, ",".join(OPTIONAL)]
    environment = os.environ | {"JAX_PLATFORMS": "none_at_import"}
    done = subprocess.run(
        command, env=environment, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_stylejax_is_light(fresh):
    assert not set(fresh["light"]) & {*OPTIONAL, "typer"}


def test_every_module_imports_without_the_optional_tools(fresh):
    assert len(fresh["everything"]) == len(MODULES) - 1  # all but stylejax itself
