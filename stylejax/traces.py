"""Programs as they were traced, kept beside the compiled ones, so that no later run traces them.

JAX finds a compiled program by its text, and tracing a scale's functions for that text took longer
than reading the program, and half of the time to a first picture (docs/performance.md). So the text
is kept as well, by ``jax.export``, under a hash of all that it was made of: this package's sources,
the versions of what traces it, JAX's settings, the cores that the process has, everything static,
and the shapes of the arguments.

That holds where nothing of this package was replaced since it was imported, as nothing is by the
command. So traces are kept where ``compilation.keep`` has set JAX's folder of compiled programs,
and nowhere else. Nor is what has anything of the caller's in it, such as a function of theirs.
"""

import hashlib
import importlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial, wraps
from pathlib import Path
from types import FunctionType
from typing import Any

import jax
from jax import export

from stylejax import devices, weights, winograd
from stylejax.files import replacing

# Of packages that have a part in what a trace says.
_TRACING = ("jax", "jaxlib", "flax", "optax", "jaxopt", "numpy")
# What a static value may be made of, besides records and functions of this package.
_PLAIN = (type(None), bool, int, float, str)
_FOLDER = Path(__file__).parent


class _Unknown(Exception):
    """A value that has no name by which another process would know it."""


def compiled_folder() -> Path:
    """Where the command keeps compiled programs; their traces are in a folder within."""
    return weights.cache_folder() / "compiled"


def keeping() -> bool:
    """Whether this process keeps them; of several that share a run each traces its own."""
    settings: Any = jax.config
    there = settings.jax_compilation_cache_dir == str(compiled_folder())
    return bool(settings.jax_enable_compilation_cache) and there and jax.process_count() == 1


def kept(function: Callable[..., Any], *, static: Sequence[str]) -> Callable[..., Any]:
    """The function for ``jax.jit``, with what it was traced to before in its place.

    Args:
      function: of arrays in any pytrees, and of what is static.
      static: its keywords that are no arrays.

    Returns:
      A function of the same arguments. It cannot be mapped or differentiated.
    """

    @wraps(function)
    def found(*args: Any, **named: Any) -> Any:
        fixed = {name: named.pop(name) for name in static if name in named}
        whole = partial(function, **fixed)
        leaves, tree = jax.tree.flatten((args, named))
        try:
            path = compiled_folder() / "traced" / _name(function, fixed, leaves, tree)
            program, structure = _read(path) or _written(path, whole, leaves, tree)
        except Exception:  # whatever cannot be kept is traced where it stands
            return whole(*args, **named)
        return jax.tree.unflatten(structure, program.call(*leaves))

    return found


def _name(
    function: Callable[..., Any], fixed: dict[str, Any], leaves: Sequence[Any], tree: Any
) -> str:
    """The file of a trace: the function's name, and a hash of all that the trace depends on."""
    device = devices.current(None)
    of = [
        _packages(),
        sorted((name, repr(value)) for name, value in jax.config.values.items()),
        (str(device), device.device_kind, winograd.cores()),
        (function.__module__, function.__qualname__),
        sorted((name, _told(value)) for name, value in fixed.items()),
        str(tree),
        [(str(jax.typeof(x)), x.weak_type) for x in leaves],
    ]
    digest = hashlib.sha256(json.dumps(of).encode()).hexdigest()
    return f"{function.__name__.strip('_')}-{digest}"


@cache
def _packages() -> list[Any]:
    """What there is to trace, and what traces it: this package's sources, the others' versions."""
    sources = hashlib.sha256()
    for path in sorted(_FOLDER.rglob("*.py")):
        text = path.read_bytes()
        sources.update(f"{path.relative_to(_FOLDER)} {len(text)};".encode())
        sources.update(text)
    others = [importlib.metadata.version(name) for name in _TRACING]
    return [sources.hexdigest(), platform.python_version(), *others]


def _told(value: Any) -> Any:
    """A static value as JSON that says all of it.

    Raises:
      _Unknown: not all of it can be said.
    """
    kind = type(value)
    if kind in _PLAIN:
        return [kind.__name__, repr(value)]
    if kind in (tuple, list):
        return [kind.__name__, *map(_told, value)]
    if kind is partial:
        parts = (value.func, value.args, sorted(value.keywords.items()))
        return ["partial", *map(_told, parts)]
    fields = getattr(kind, "__dataclass_fields__", getattr(kind, "_fields", None))
    if fields is not None and (name := _place(kind)):
        return [name, *(_told(getattr(value, field)) for field in fields)]
    if name := _place(value):
        return name
    if not isinstance(value, FunctionType):
        raise _Unknown(repr(value))
    code, file = value.__code__, Path(value.__code__.co_filename)
    if _FOLDER not in file.parents:
        raise _Unknown(repr(value))
    # A function of ours that another one has made, of what it has from there.
    where = [str(file.relative_to(_FOLDER)), code.co_firstlineno]
    bound = [cell.cell_contents for cell in value.__closure__ or ()]
    defaults = [value.__defaults__, sorted((value.__kwdefaults__ or {}).items())]
    return [*where, code.co_code.hex(), _told(bound), _told(defaults)]


def _place(value: Any) -> str:
    """Where in this package a class or function is; empty for what is not found there."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not isinstance(module, str) or module.partition(".")[0] != __package__:
        return ""
    return f"{module}.{name}" if getattr(sys.modules.get(module), name, None) is value else ""


def _written(path: Path, whole: Callable[..., Any], leaves: Sequence[Any], tree: Any) -> Any:
    """Traces the function and writes what it came to; as ``_read``."""
    made: list[Any] = []

    def flat(*leaves: Any) -> list[Any]:
        args, named = jax.tree.unflatten(tree, leaves)
        results = whole(*args, **named)
        made[:] = _form(results), jax.tree.structure(results)
        return jax.tree.leaves(results)

    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=x.weak_type) for x in leaves]
    program = export.export(jax.jit(flat), platforms=[_platform()])(*shapes)
    form, structure = json.dumps(made[0]).encode(), made[1]
    if _structure(form) != structure:
        raise _Unknown(repr(structure))
    text = bytes(program.serialize())
    content = form + b"\n" + text
    try:
        with replacing(path) as file:
            file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    except OSError:
        pass  # the next run traces it again
    # Read back: the exported one holds on to the trace, and JAX to it.
    return export.deserialize(bytearray(text)), structure


def _platform() -> str:
    """Where it will run, in the words of ``jax.export``."""
    there = devices.current(None).platform
    return export.default_export_platform() if there == jax.default_backend() else there


def _read(path: Path) -> Any:
    """What was written, a program of leaves and its results' structure; None where it is not."""
    try:
        digest, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest().encode() != digest:
        return None
    form, _, program = content.partition(b"\n")
    return export.deserialize(bytearray(program)), _structure(form)


def _form(tree: Any) -> Any:
    """A pytree as JSON that tells how it is built, each leaf a 0."""
    kind = type(tree)
    if tree is None or jax.tree_util.all_leaves([tree]):
        return None if tree is None else 0
    if kind is dict:
        return {"dict": [[name, _form(value)] for name, value in tree.items()]}
    if kind in (tuple, list):
        return {kind.__name__: [_form(value) for value in tree]}
    if isinstance(tree, tuple) and hasattr(kind, "_fields"):
        return {f"{kind.__module__}:{kind.__qualname__}": [_form(value) for value in tree]}
    raise _Unknown(repr(kind))


def _structure(form: bytes) -> Any:
    """The structure of the pytree that ``_form`` tells of."""
    return jax.tree.structure(_tree(json.loads(form)))


def _tree(form: Any) -> Any:
    """The pytree that ``_form`` tells of, a 0 for each leaf."""
    if not isinstance(form, dict):
        return form
    ((kind, parts),) = form.items()
    if kind == "dict":
        return {name: _tree(part) for name, part in parts}
    values = [_tree(part) for part in parts]
    if kind in ("tuple", "list"):
        return tuple(values) if kind == "tuple" else values
    module, _, name = kind.partition(":")
    return getattr(importlib.import_module(module), name)(*values)
