"""The public checkpoints that are known by their hash: the table, and recognising one.

``weights/manifest.json`` is this table as JSON (``manifest``), with the network that the package
ships beside it.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

from stylejax import convert, store
from stylejax.convert import Reader
from stylejax.formats.refusal import COMMAND, REMEDY, Refusal
from stylejax.matconvnet import read_matconvnet

ATTRIBUTION = "VGG-19: Karen Simonyan and Andrew Zisserman, 2014 (arXiv:1409.1556), CC BY 4.0"
TORCHVISION = "VGG-19 trained by the authors of torchvision, BSD-3-Clause"
SLIM = Path(__file__).parent / "data" / "slim.h5"


class Checkpoint(NamedTuple):
    """A file that is known by its hash.

    Attributes:
      name: of the file.
      network: whose arrays it holds: ``vgg19`` (the original) or ``vgg19-torchvision``.
      description: one sentence.
      url: where it is published; None where nobody may fetch it from.
      size: in bytes; None where its publisher does not state it.
      hash: ``md5:...`` or ``sha256:...``, whatever its publisher states. A hash may be the first
        digits only: PyTorch's publishers put eight of SHA-256 into the file's name.
      licence: of the arrays, with attribution.
      preprocessing: in words; the arrays say it in ``params["input"]``.
      normalised: whether every filter's mean activation is one already.
      reader: file to params.
    """

    name: str
    network: str
    description: str
    url: str | None
    size: int | None
    hash: str
    licence: str
    preprocessing: str
    normalised: bool
    reader: Reader

    def matches(self, algorithm: str, digest: str) -> bool:
        """Whether a file with this digest is this one."""
        own, value = self.hash.split(":")
        return own == algorithm and digest.startswith(value)


_BGR = "BGR, 0-255, minus (103.939, 116.779, 123.68)"
_RGB = "RGB, 0-255, minus the file's average colour"
_STANDARDISED = "RGB, 0-1, minus (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225)"

KERAS = Checkpoint(
    name="vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
    network="vgg19",
    description="The original VGG-19's sixteen convolutions, as Keras publishes them.",
    url="https://storage.googleapis.com/tensorflow/keras-applications/vgg19/"
    "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
    size=80134624,
    hash="md5:253f8cb515780f3b799900260a226db6",
    licence=ATTRIBUTION,
    preprocessing=_BGR,
    normalised=False,
    reader=convert.read_keras,
)

TIMM = Checkpoint(
    name="model.safetensors",
    network="vgg19-torchvision",
    description="torchvision's VGG-19, as timm publishes it (vgg19.tv_in1k).",
    url="https://huggingface.co/timm/vgg19.tv_in1k/resolve/main/model.safetensors",
    size=None,
    hash="sha256:11aea017b543ff59233749d8f1cf544cda749378f5790d2fedab841fb86b7669",
    licence=TORCHVISION,
    preprocessing=_STANDARDISED,
    normalised=False,
    reader=convert.read_torchvision,
)

# What is fetched for each network that can be.
PUBLISHED = {each.network: each for each in (KERAS, TIMM)}

CHECKPOINTS = (
    KERAS,
    TIMM,
    Checkpoint(
        name="vgg19-dcbb9e9d.pth",
        network="vgg19-torchvision",
        description="torchvision's VGG-19, as torchvision publishes it.",
        url="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        size=None,
        hash="sha256:dcbb9e9d",
        licence=TORCHVISION,
        preprocessing=_STANDARDISED,
        normalised=False,
        reader=convert.read_torchvision,
    ),
    Checkpoint(
        name="vgg19-d01eb7cb.pth",
        network="vgg19",
        description="J. Johnson's PyTorch copy of the original VGG-19.",
        url="https://web.eecs.umich.edu/~justincj/models/vgg19-d01eb7cb.pth",
        size=None,
        hash="sha256:d01eb7cb",
        licence=ATTRIBUTION,
        preprocessing=_BGR,
        normalised=False,
        reader=convert.read_jcjohnson,
    ),
    Checkpoint(
        name="imagenet-vgg-verydeep-19.mat",
        network="vgg19",
        description="The original VGG-19 in MatConvNet's format, beta16.",
        url="http://www.vlfeat.org/matconvnet/models/beta16/imagenet-vgg-verydeep-19.mat",
        size=None,
        hash="md5:8ee3263992981a1d26e73b3ca028a123",
        licence=ATTRIBUTION,
        preprocessing=_RGB,
        normalised=False,
        reader=read_matconvnet,
    ),
    Checkpoint(
        name="vgg_normalised.pth",
        network="vgg19",
        description="The original VGG-19, normalised as Gatys et al. did, as AdaIN uses it.",
        url=None,
        size=None,
        hash="sha256:804ca2835ecf7539f0cd2a7ac3c18ce81e6f8468969ae7117ac0c148d286bb4a",
        licence=ATTRIBUTION,
        preprocessing="RGB, 0-1, through the file's own 1x1 convolution",
        normalised=True,
        reader=convert.read_adain,
    ),
    Checkpoint(
        name="vgg19_keras_layout.h5",
        network="vgg19",
        description="Test copy whose deeper kernels (conv4_1 to conv5_4) went through 8-bit "
        "quantisation; pictures are real, fetch the published file for exact features.",
        url=None,
        size=30384196,
        hash="sha256:f0f62bc8ecde754f0ed36ad391e729ea6312a92185ee55ad94499498b367a066",
        licence=ATTRIBUTION,
        preprocessing=_BGR,
        normalised=False,
        reader=convert.read_keras,
    ),
)


def manifest() -> dict[str, dict[str, Any]]:
    """The known checkpoints as plain data, by file name: what ``weights/manifest.json`` holds."""
    table = {}
    for checkpoint in CHECKPOINTS:
        algorithm, value = checkpoint.hash.split(":")
        record = checkpoint._asdict() | {algorithm: value}
        for field in ("name", "hash", "reader"):
            del record[field]
        table[checkpoint.name] = record
    return table | {SLIM.name: _built_in()}


def _built_in() -> dict[str, Any]:
    """How the network that the package ships was made, as far as the file says it itself."""
    origin = store.describe(SLIM)
    script, _, settings = origin.source.partition(" by ")[2].partition(" ")
    return {
        "network": origin.network,
        "description": "A small network of our own, distilled from VGG-19; the package ships it.",
        "url": None,
        "size": SLIM.stat().st_size,
        "licence": origin.licence,
        "preprocessing": "RGB, 0-1, times 4, minus 2",
        "normalised": origin.normalised,
        "sha256": store.digest(SLIM),
        "script": script,
        "settings": settings,
        "teacher": "vgg19_keras_layout.h5",
        "data": "990 photographs and 272 paintings of 224 pixels, shared/images/training beside "
        "the checkout; the last 90 and the last 22 were kept for validation",
    }


def identify(path: str | Path) -> tuple[Checkpoint | None, str]:
    """Which known checkpoint a file is, by its hash alone, and its SHA-256.

    Raises:
      FileNotFoundError: there is no such file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file; `{COMMAND}` fetches the published one")
    hashes = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}
    with open(path, "rb") as file:
        while block := file.read(2**20):
            for each in hashes.values():
                each.update(block)
    found = [(name, each.hexdigest()) for name, each in hashes.items()]
    known = next(
        (each for each in CHECKPOINTS if any(each.matches(*digest) for digest in found)), None
    )
    return known, hashes["sha256"].hexdigest()


def guess_reader(path: str | Path) -> Reader:
    """The reader of a file of unknown hash, where its first bytes leave no doubt.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: PyTorch's formats, in which copies of several networks look alike, or none.
    """
    container = convert.container(path)
    if container == "hdf5":
        return convert.read_keras
    if container == "matlab":
        return read_matconvnet
    if container in ("torch", "safetensors"):
        raise Refusal(
            f"{path}: nothing in a PyTorch file says how its network wants its pictures; say it "
            "with --layout torchvision, jcjohnson or adain"
        )
    raise Refusal(f"{path}: neither HDF5, MATLAB, PyTorch nor safetensors; {REMEDY}")
