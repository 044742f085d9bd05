"""Make the tests' PyTorch and safetensors files: ``python scripts/make_fixtures_torch.py``.

Needs torch and safetensors, which nothing else here does. Each checkpoint has the arrays that torch
itself sees in it beside it, as ``.npz``. The legacy format names storages by their addresses, so
those files differ from run to run in a few bytes.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
Tensors = Mapping[str, torch.Tensor]


class Vgg(nn.Module):
    """A VGG of blocks (1, 2) and widths (4, 6), as torchvision lays it out."""

    def __init__(self) -> None:
        """Makes the layers, with random weights."""
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Linear(6, 2))


def adain() -> nn.Module:
    """The same VGG as AdaIN's authors lay it out: preprocessing first, paddings as layers."""
    return nn.Sequential(
        nn.Conv2d(3, 3, 1),
        nn.ReflectionPad2d(1),
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.ReflectionPad2d(1),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.ReflectionPad2d(1),
        nn.Conv2d(6, 6, 3),
        nn.ReLU(),
    )


def views() -> dict[str, torch.Tensor]:
    """Tensors that are no storage of their own: transposed, or parts of one; and other types."""
    shared = torch.randn(60)
    return {
        "transposed": torch.randn(3, 3, 2, 4).permute(3, 2, 0, 1),
        "first": shared[:24].view(2, 3, 4),
        "second": shared[24:54].view(5, 6).t(),
        "gaps": shared.view(6, 10)[:, 2:5],
        "repeated": torch.randn(3, 1).expand(3, 4),
        "scalar": torch.randn(()),
        "half": torch.randn(3).half(),
        "bfloat16": torch.randn(3).bfloat16(),
        "double": torch.randn(3).double(),
        "int64": torch.arange(3),
    }


def rebuild_old(tensor: Any) -> Any:
    """How PyTorch pickled a tensor until 2018, and torchvision's VGG are to this day."""
    if isinstance(tensor, torch.Tensor):
        arguments = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        return torch._utils._rebuild_tensor, (tensor._typed_storage(), *arguments)
    return NotImplemented


class OldPickler(pickle._Pickler):
    """Pickles as of 2017."""

    reducer_override = staticmethod(rebuild_old)


class Python2Pickler(pickle._Pickler):
    """Pickles as of 2017 under Python 2: byte strings, and a dict's items as a list of lists."""

    dispatch: ClassVar[dict[type, Callable[..., None]]] = dict(pickle._Pickler.dispatch)

    def save_string(self, text: str) -> None:
        """Writes a string as Python 2 wrote its ``str``."""
        data = text.encode("ascii")
        self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)  # type: ignore[attr-defined]
        self.memoize(text)  # type: ignore[attr-defined]

    dispatch[str] = save_string

    def reducer_override(self, value: Any) -> Any:
        """Gives an OrderedDict its items at once."""
        if type(value) is OrderedDict:
            return OrderedDict, ([list(item) for item in value.items()],)
        return rebuild_old(value)


def pickling(pickler: type) -> Any:
    """A stand-in for the module ``pickle``, with another pickler in it."""

    def dump(value: Any, file: io.BufferedIOBase, protocol: int) -> None:
        pickler(file, protocol).dump(value)

    return type("pickling", (), {"Pickler": pickler, "dump": staticmethod(dump)})


def save_arrays(path: Path, tensors: Tensors) -> None:
    """Torch's own view of tensors, in float32 whatever they are stored as."""
    np.savez(path, **{name: tensor.float().numpy() for name, tensor in tensors.items()})


def save(path: Path, tensors: Tensors, **options: Any) -> None:
    """Saves with PyTorch, and makes sure that PyTorch reads the same from it."""
    torch.save(tensors, path, **options)
    loaded = torch.load(path, weights_only=True)
    assert list(loaded) == list(tensors)
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def main() -> int:
    """Writes both folders."""
    torch.manual_seed(20150826)
    pytorch, plain = FIXTURES / "torch", FIXTURES / "safetensors"
    for folder in (pytorch, plain):
        folder.mkdir(parents=True, exist_ok=True)
    vgg = Vgg().state_dict()
    for name, tensors in (("vgg", vgg), ("adain", adain().state_dict()), ("views", views())):
        save(pytorch / f"{name}_zip.pth", tensors)
        save(pytorch / f"{name}_legacy.pth", tensors, _use_new_zipfile_serialization=False)
        save_arrays(pytorch / f"{name}.npz", tensors)
        contiguous = {key: tensor.contiguous().clone() for key, tensor in tensors.items()}
        save_file(contiguous, plain / f"{name}.safetensors", metadata={"format": "pt"})
    bare = OrderedDict((name, vgg[name]) for name in vgg)  # without ``_metadata``, as before 2018
    for name, pickler in (("2017", OldPickler), ("python2", Python2Pickler)):
        options = {"_use_new_zipfile_serialization": False, "pickle_module": pickling(pickler)}
        save(pytorch / f"vgg_{name}.pth", bare, **options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
