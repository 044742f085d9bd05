"""The network's weights: finds, fetches, verifies, converts, loads and saves them.

``resolve`` finds a file (and says in which order it looks), ``choose`` does so for a network by
name and falls back to the one that is built in, ``load`` reads a file, ``fetch`` gets a published
one. The format is described in ``store``, the files known by hash in ``checkpoints``. Nothing here
prints, and nothing uses the network but ``fetch``, which ``resolve`` calls last.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stylejax import checkpoints, convert, normalisation
from stylejax.checkpoints import SLIM, Checkpoint, guess_reader, identify
from stylejax.convert import Reader
from stylejax.download import DownloadProgress, download
from stylejax.formats.hdf5 import open_hdf5
from stylejax.formats.refusal import COMMAND, Refusal
from stylejax.normalisation import Images
from stylejax.store import Origin, describe, digest, is_store, load, save

__all__ = [
    "Found",
    "Origin",
    "cache_folder",
    "choose",
    "convert_file",
    "describe",
    "digest",
    "fetch",
    "load",
    "normalise_file",
    "resolve",
    "save",
]

FILE_NAMES = {network: f"{network}.h5" for network in checkpoints.PUBLISHED}
FILE_NAME = FILE_NAMES["vgg19"]
NETWORKS = ("auto", *checkpoints.PUBLISHED, "slim")
# A larger download is deleted once it is converted: most of it is the classifier.
KEPT_BYTES = 2**28


def convert_file(
    source: str | Path,
    destination: str | Path,
    *,
    allow_unverified: bool = False,
    reader: Reader | None = None,
) -> str:
    """Converts a public checkpoint to a stored file.

    Args:
      source: the checkpoint; its hash is verified before it is opened.
      destination: the file to write.
      allow_unverified: reads a file of unknown hash too.
      reader: for a file of unknown hash; None goes by the file's first bytes, which is enough for
        Keras' and MatConvNet's formats.

    Returns:
      The SHA-256 of ``source``.

    Raises:
      FileNotFoundError: ``source`` does not exist.
      ValueError: its hash is unknown, or it does not hold a VGG-19.
      OSError: ``destination`` cannot be written.
    """
    known, sha256 = identify(source)
    if known is None and not allow_unverified:
        raise ValueError(
            f"{source}: no known checkpoint has its SHA-256, {sha256}; if you trust the file, "
            f"convert it with `{COMMAND} --source {source} --allow-unverified`"
        )
    if known is None:
        _check_foreign(source)
        params = (reader or guess_reader(source))(Path(source))
        origin = Origin(f"{Path(source).name} (unverified)", sha256)
    else:
        params = known.reader(Path(source))
        origin = Origin(
            known.url or known.name, sha256, known.licence, known.network, known.normalised
        )
    save(destination, params, origin)
    return sha256


def _check_foreign(source: str | Path) -> None:
    """Refuses what is no checkpoint, but what checkpoints are converted to."""
    if convert.container(source) == "hdf5":
        with open_hdf5(source) as file:
            if is_store(file):
                raise Refusal(f"{source}: a stylejax weights file already; use it with --weights")


def normalise_file(source: str | Path, destination: str | Path, images: Images) -> int:
    """Stores Gatys' normalisation of a stored network, measured over images.

    Args:
      source: a stored file.
      destination: the file to write.
      images: ``[H, W, 3]`` in [0, 1] each, see ``normalisation.mean_activations``.

    Returns:
      How many images there were.

    Raises:
      ValueError: ``source`` is no stored file, or there are no images.
      OSError: ``destination`` cannot be written.
    """
    params, origin, count = load(source), describe(source), 0

    def counted() -> Images:
        nonlocal count
        for image in images:
            count += 1
            yield image

    means = normalisation.mean_activations(params, counted())
    normalised = normalisation.normalise(params, means)
    arrays = {
        layer: {k: np.asarray(v) for k, v in each.items()} for layer, each in normalised.items()
    }
    save(destination, arrays, origin._replace(normalised=True))
    return count


def cache_folder() -> Path:
    """The user's cache folder for stylejax; the environment's ``STYLEJAX_CACHE`` overrides it."""
    override = os.environ.get("STYLEJAX_CACHE")
    if override:
        return Path(override).expanduser()
    import pooch  # here, because importing stylejax should not import the network's machinery

    return Path(pooch.os_cache("stylejax"))


def fetch(
    destination: str | Path | None = None,
    *,
    network: str = "vgg19",
    timeout: float = 6.0,
    progressbar: bool | DownloadProgress = False,
) -> Path:
    """Fetches a published VGG-19 (80 MB; torchvision's 575 MB), verifies its hash and stores it.

    A download of moderate size stays in the cache folder, so that a second call needs no network.
    Any number of processes may do this at once.

    Args:
      destination: the file to write; ``vgg19.h5`` (after the network) in the cache folder where it
        is None.
      network: ``vgg19`` or ``vgg19-torchvision``.
      timeout: seconds within which the server must answer, and the longest pause in the transfer.
      progressbar: True draws one on stderr where that is a terminal; an object is told instead.

    Returns:
      ``destination``.

    Raises:
      ConnectionError: no network, or the transfer broke off.
      ValueError: what arrived is not the published file.
      OSError: the cache folder or ``destination`` cannot be written.
    """
    published = checkpoints.PUBLISHED[network]
    checkpoint = cache_folder() / published.name
    stored = cache_folder() / FILE_NAMES[network] if destination is None else Path(destination)
    there = checkpoint.is_file() and identify(checkpoint)[0] == published
    kept = there or (published.size is not None and published.size <= KEPT_BYTES)
    if not kept:  # by a name of its own, because another process may be fetching it too
        checkpoint = checkpoint.with_stem(f"{checkpoint.stem}-{uuid.uuid4().hex}")
    if not there:
        download(published, checkpoint, timeout=timeout, progressbar=progressbar)
    try:
        convert_file(checkpoint, stored)
    finally:
        if not kept:
            checkpoint.unlink(missing_ok=True)
    return stored


def _usable(path: Path) -> Path:
    """``path`` itself where it is a stored file, else its conversion, kept in the cache folder."""
    known, sha256 = identify(path)
    if known is None and convert.container(path) not in ("torch", "safetensors", "matlab"):
        with open_hdf5(path) as file:
            if is_store(file):
                return path
    # Named by its origin, so that it never passes for a conversion of the published file.
    converted = cache_folder() / f"vgg19-{sha256[:16]}.h5"
    try:
        load(converted)
    except (OSError, ValueError):  # none yet, damaged, or of an older format
        convert_file(path, converted)
    return converted


def _places(network: str) -> Iterator[Path]:
    """Where weights may lie, in the order in which they are looked for."""
    checkout = Path(__file__).parents[1]
    in_checkout = (checkout / "pyproject.toml").is_file()
    yield Path.cwd() / "weights" / FILE_NAMES[network]
    if in_checkout:
        yield checkout / "weights" / FILE_NAMES[network]
    yield cache_folder() / FILE_NAMES[network]
    if in_checkout:
        for checkpoint in _interchangeable(network):
            yield checkout.parent / "shared" / "weights" / checkpoint.name


def _interchangeable(network: str) -> Iterator[Checkpoint]:
    """The known files of a network, each as good as the other."""
    for checkpoint in checkpoints.CHECKPOINTS:
        if checkpoint.network == network and not checkpoint.normalised:
            yield checkpoint


def resolve(
    option: str | Path | None = None,
    *,
    network: str = "vgg19",
    fetch_missing: bool = True,
    progressbar: bool | DownloadProgress = False,
) -> Path:
    """The weights file to load: the first that exists of

    1. ``option``, if given;
    2. the file that the environment variable ``STYLEJAX_WEIGHTS`` names, if set;
    3. ``weights/vgg19.h5`` in the current folder;
    4. ``weights/vgg19.h5`` in the checkout that this package lies in, if it does;
    5. ``vgg19.h5`` in the cache folder (the user's, or ``STYLEJAX_CACHE``);
    6. a known checkpoint in ``shared/weights`` beside the checkout, which several may share;
    7. the published file, fetched into the cache folder.

    In 1, 2 and 6 it may also be a checkpoint of known hash: that is converted, once, into the
    cache folder. ``vgg19-torchvision`` is looked for under its own name; ``slim`` is in the
    package.

    Args:
      option: a path, such as the command line's ``--weights``.
      network: ``vgg19``, ``vgg19-torchvision`` or ``slim``; 1 and 2 go before it.
      fetch_missing: False stops before 7.
      progressbar: of the download, see ``fetch``.

    Returns:
      The path of a file for ``load``.

    Raises:
      FileNotFoundError: 1 or 2 names no file, or there is none and it may not be fetched.
      ConnectionError: there is none and no network.
      ValueError: a checkpoint of unknown hash, or no such network.
      OSError: the cache folder cannot be written.
    """
    named = _named(option)
    if named is not None:
        return _usable(named)
    if network == "slim":
        return SLIM
    if network not in checkpoints.PUBLISHED:
        known = ", ".join([*checkpoints.PUBLISHED, "slim"])
        raise ValueError(f"network {network!r} is unknown; choose one of {known}")
    for place in _places(network):
        if os.path.isfile(place):
            return place if place.name == FILE_NAMES[network] else _usable(place)
    if fetch_missing:
        return fetch(network=network, progressbar=progressbar)
    raise FileNotFoundError(
        f"there is no {FILE_NAMES[network]} on this machine; run `{_command(network)}` to fetch it"
    )


def _named(option: str | Path | None) -> Path | None:
    """The file that the caller or the environment names."""
    named = option if option is not None else os.environ.get("STYLEJAX_WEIGHTS") or None
    return None if named is None else Path(named).expanduser()


def _command(network: str) -> str:
    return COMMAND if network == "vgg19" else f"{COMMAND} --network {network}"


def _instead(network: str, wanted: str | None) -> str:
    """What to say where ``network`` was taken; nothing where any was welcome."""
    if wanted in (None, network):
        return ""
    return (
        f"{FILE_NAMES[str(wanted)]} is not on this machine; using {network} instead: "
        f"`{_command(str(wanted))}` fetches the other"
    )


class Found(NamedTuple):
    """A network that was chosen.

    Attributes:
      path: the file for ``load``.
      origin: what it says of itself.
      instead: why it is not the full network, in one line; empty where it is what was asked for.
    """

    path: Path
    origin: Origin
    instead: str = ""


def choose(
    network: str = "auto",
    option: str | Path | None = None,
    *,
    wanted: str | None = None,
    offline: bool = False,
    progressbar: bool | DownloadProgress = False,
) -> Found:
    """A network by name: ``auto`` is the full VGG-19 if it is there or can be fetched, else slim.

    Args:
      network: ``auto``, ``vgg19``, ``vgg19-torchvision`` or ``slim``.
      option: a file to take instead, such as the command line's ``--weights``.
      wanted: the full network that ``auto`` prefers where several are there, and says so where it
        takes another; None takes either without a word.
      offline: True never uses the network.
      progressbar: of a download, see ``fetch``.

    Raises:
      ValueError: an unknown network, or a file that is named and cannot be used.
      OSError: as ``resolve``, except that ``auto`` takes slim where nothing can be fetched.
    """
    if network not in NETWORKS:
        raise ValueError(f"network {network!r} is unknown; choose one of {', '.join(NETWORKS)}")
    if network == "slim" and option is None:
        return Found(SLIM, describe(SLIM))  # STYLEJAX_WEIGHTS says where a full network is
    if network != "auto" or _named(option) is not None:
        named = "vgg19" if network == "auto" else network
        path = resolve(option, network=named, fetch_missing=not offline, progressbar=progressbar)
        return Found(path, describe(path))
    for candidate in sorted(checkpoints.PUBLISHED, key=lambda name: name != wanted):
        try:
            path = resolve(network=candidate, fetch_missing=False)
        except FileNotFoundError:
            continue
        return Found(path, describe(path), _instead(candidate, wanted))
    reason = f"{FILE_NAME} is not on this machine"
    if not offline:
        try:
            path = fetch(progressbar=progressbar)
        except (OSError, ValueError) as error:
            reason = str(error).partition(";")[0]
        else:
            return Found(path, describe(path), _instead("vgg19", wanted))
    return Found(
        SLIM,
        describe(SLIM),
        f"{reason}; using the small built-in network instead: `{COMMAND}` fetches the full one",
    )
