"""The notebook runs from top to bottom, with small numbers in place of its form's."""

import ast
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import jax
import nbclient
import nbformat
import pytest

from stylejax import images

ROOT = Path(__file__).parents[1]
FILE = ROOT / "notebooks" / "stylejax_colab.ipynb"
SMALL = {
    "size": 48,
    "steps": 3,
    "network": "slim",
    "preview_every": 2,
    "expected_backend": "any",
    "output": "made.png",
}


def notebook():
    return nbformat.read(FILE, as_version=4)


def cell(name):
    (source,) = [c.source for c in notebook().cells if c.id == name]
    return source


def with_parameters(**given):
    """The notebook with a cell of values after its form, as papermill has it."""
    made = notebook()
    places = [i for i, c in enumerate(made.cells) if "parameters" in c.metadata.get("tags", ())]
    assert len(places) == 1
    lines = "\n".join(f"{name} = {value!r}" for name, value in given.items())
    made.cells.insert(places[0] + 1, nbformat.v4.new_code_cell(lines))
    return made


def execute(made, folder, monkeypatch):
    """Runs it in a kernel of this very Python."""
    kernel = folder / "jupyter" / "kernels" / "same"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": command, "display_name": "same", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path[1:]]))
    client = nbclient.NotebookClient(
        made,
        timeout=300,
        kernel_name="same",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return {c.id: c.outputs for c in made.cells if c.cell_type == "code"}


def text_of(outputs):
    return "".join(o.text for o in outputs if o.output_type == "stream")


def pictures_of(outputs):
    return [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What every cell put out, and the folder with the files."""
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        made = with_parameters(source=str(ROOT), **SMALL)
        return execute(made, folder, patch), folder


def test_the_picture_and_its_record(ran):
    _, folder = ran
    picture = images.load(folder / "made.png").image
    assert picture.shape == (32, 48, 3)
    assert 0.05 < picture.std() < 0.5
    photo = images.load(ROOT / "examples" / "photo.jpg").image
    start = images.resize(photo, 32, 48)
    assert 0.01 < abs(picture - start).mean() < 0.3  # it moved, and is still the photo's
    record = json.loads((folder / "made.json").read_text())
    assert record["status"] == "running" and record["evaluations"] >= 4
    assert record["weights"]["network"] == "slim" and not record["weights"]["instead"]
    totals = record["history"][0]["total"]
    assert totals[-1] == pytest.approx(record["loss"]) and totals[-1] < totals[0]
    assert record["versions"]["jax"] == metadata.version("jax")


def test_what_a_painter_sees(ran):
    outputs, _ = ran
    assert f"jax=={metadata.version('jax')}" in text_of(outputs["install"])
    assert text_of(outputs["backend"]).startswith(jax.default_backend())
    assert len(pictures_of(outputs["pictures"])) == 1
    # The preview stays in its place: one line and one picture, the last of those shown there.
    assert len(outputs["run"]) == 2
    assert "step 3/3" in outputs["run"][0].data["text/plain"]
    assert len(pictures_of(outputs["run"])) == 1
    assert pictures_of(outputs["run"]) != pictures_of(outputs["pictures"])
    assert len(pictures_of(outputs["result"])) == 2  # the curves, the picture
    assert text_of(outputs["result"]).startswith("made.png: loss ")
    assert "made.png and made.json" in text_of(outputs["download"])


def test_it_is_kept_without_outputs():
    made = notebook()
    nbformat.validate(made)
    for each in made.cells:
        if each.cell_type == "code":
            assert not each.outputs and each.execution_count is None, each.id
    assert "widgets" not in made.metadata


def test_the_form_is_one_cell_of_constants():
    """So that a cell after it can replace any of them, and none is asked for anywhere else."""
    form = [node for node in ast.parse(cell("settings")).body]
    names = {node.targets[0].id for node in form if isinstance(node.value, ast.Constant)}
    assert len(names) == len(form) == cell("settings").count("@param")
    assert set(SMALL) | {"source"} <= names
    for each in notebook().cells:
        if each.cell_type == "code" and each.id != "settings":
            assert "@param" not in each.source
            assigned = {
                node.id
                for node in ast.walk(ast.parse(each.source))
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
            assert not (assigned - {"source"}) & names, each.id


def names_after_install(monkeypatch, folder, **given):
    """Runs the cell that installs as if stylejax were not there; returns pip's calls."""
    calls = []

    def run(command, check):
        kept = Path(command[command.index("--constraint") + 1]).read_text()
        calls.append((command, kept.splitlines()))
        monkeypatch.undo()

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.chdir(folder)
    exec(compile(cell("install"), "install", "exec"), {"source": "", **given})
    return calls


def test_jax_is_a_constraint_of_the_installation(monkeypatch, tmp_path):
    (tmp_path / "copy" / "stylejax").mkdir(parents=True)
    (tmp_path / "copy" / "stylejax" / "__init__.py").touch()
    monkeypatch.setattr(metadata, "version", lambda name: "0")
    ((command, kept),) = names_after_install(monkeypatch, tmp_path, source="copy")
    assert command[:4] == [sys.executable, "-m", "pip", "install"] and command[-1] == "copy"
    assert not {"-U", "--upgrade", "--force-reinstall"} & set(command)
    for name in ("jax", "jaxlib", "numpy"):
        assert f"{name}=={metadata.version(name)}" in kept


def test_the_machine_s_plugins_are_kept_too(monkeypatch, tmp_path):
    there = {"jax": "9.1", "jaxlib": "9.1", "libtpu": "0.0.9", "jax-cuda13-plugin": "9.1"}
    there |= {"jax-cuda13-pjrt": "9.1", "jaxopt": "0.8", "optax": "0.2", "flax": "0.12"}
    monkeypatch.setattr(
        metadata,
        "distributions",
        lambda: [SimpleNamespace(metadata={"Name": n}, version=v) for n, v in there.items()],
    )
    monkeypatch.chdir(tmp_path)
    names: dict = {"source": str(ROOT)}
    exec(compile(cell("install"), "install", "exec"), names)
    assert names["kept_versions"]() == [
        "jax-cuda13-pjrt==9.1",
        "jax-cuda13-plugin==9.1",
        "jax==9.1",
        "jaxlib==9.1",
        "libtpu==0.0.9",
    ]


def test_a_repository_that_is_not_there_is_asked_for(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match="name its repository in 'source'"):
        names_after_install(monkeypatch, tmp_path)


def test_another_backend_than_expected_is_refused():
    for wanted in ("any", jax.default_backend()):
        exec(cell("backend"), {"expected_backend": wanted})
    with pytest.raises(RuntimeError, match="not on tpu: choose that runtime type"):
        exec(cell("backend"), {"expected_backend": "tpu"})


def test_an_upload_needs_colab(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = cell("pictures").partition("def found")[2].partition("\n\n\n")[0]
    names = {"in_colab": False, "folder": ROOT, "Path": Path}
    exec("def found" + source, names)
    with pytest.raises(ValueError, match="Colab only"):
        names["found"]("upload", "photo")
    with pytest.raises(FileNotFoundError, match="photo: there is no nowhere"):
        names["found"]("nowhere.jpg", "photo")
    assert names["found"]("examples/photo.jpg", "photo") == ROOT / "examples" / "photo.jpg"
