"""The network's weights: finds, fetches, verifies, converts, loads and saves them.

``resolve`` finds a file (and says in which order it looks), ``load`` reads it, ``fetch`` gets the
published VGG-19. The format is described in ``store``, the files known by hash in ``checkpoints``.
Nothing here prints, and nothing uses the network but ``fetch``, which ``resolve`` calls last.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from stylejax import checkpoints
from stylejax.checkpoints import DownloadProgress, download, identify
from stylejax.convert import COMMAND, open_hdf5, read_keras
from stylejax.store import digest, is_store, load, save

__all__ = ["cache_folder", "convert_file", "digest", "fetch", "load", "resolve", "save"]

FILE_NAME = "vgg19.h5"


def convert_file(
    source: str | Path, destination: str | Path, *, allow_unverified: bool = False
) -> str:
    """Converts a checkpoint in Keras' legacy layout to a stored file.

    Args:
      source: the checkpoint; its hash is verified before HDF5 opens it.
      destination: the file to write.
      allow_unverified: reads a file of unknown hash too (by the reader for Keras' layout).

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
    params = known.reader(Path(source)) if known else read_keras(source)
    name = (known.url or known.name) if known else f"{Path(source).name} (unverified)"
    licence = known.licence if known else "unknown"
    save(destination, params, source=name, source_sha256=sha256, licence=licence)
    return sha256


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
    timeout: float = 6.0,
    progressbar: bool | DownloadProgress = False,
) -> Path:
    """Fetches the published VGG-19 (80 MB), verifies its hash and stores it.

    The download stays in the cache folder, so that a second call needs no network. Any number of
    processes may do this at once.

    Args:
      destination: the file to write; ``vgg19.h5`` in the cache folder where it is None.
      timeout: seconds within which the server must answer, and the longest pause in the transfer.
      progressbar: True draws one on stderr where that is a terminal; an object is told instead.

    Returns:
      ``destination``.

    Raises:
      ConnectionError: no network, or the transfer broke off.
      ValueError: what arrived is not the published file.
      OSError: the cache folder or ``destination`` cannot be written.
    """
    published = checkpoints.PUBLISHED
    checkpoint = cache_folder() / published.name
    if not checkpoint.is_file() or identify(checkpoint)[0] != published:
        download(published, checkpoint, timeout=timeout, progressbar=progressbar)
    stored = Path(destination) if destination is not None else cache_folder() / FILE_NAME
    convert_file(checkpoint, stored)
    return stored


def _usable(path: Path) -> Path:
    """``path`` itself where it is a stored file, else its conversion, kept in the cache folder."""
    known, sha256 = identify(path)
    if known is None:
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


def _places() -> Iterator[Path]:
    """Where weights may lie, in the order in which they are looked for."""
    checkout = Path(__file__).parents[1]
    in_checkout = (checkout / "pyproject.toml").is_file()
    yield Path.cwd() / "weights" / FILE_NAME
    if in_checkout:
        yield checkout / "weights" / FILE_NAME
    yield cache_folder() / FILE_NAME
    if in_checkout:
        for checkpoint in checkpoints.CHECKPOINTS:
            yield checkout.parent / "shared" / "weights" / checkpoint.name


def resolve(
    option: str | Path | None = None,
    *,
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

    In 1, 2 and 6 it may also be a Keras checkpoint of known hash: that is converted, once, into the
    cache folder.

    Args:
      option: a path, such as the command line's ``--weights``.
      fetch_missing: False stops before 7.
      progressbar: of the download, see ``fetch``.

    Returns:
      The path of a file for ``load``.

    Raises:
      FileNotFoundError: 1 or 2 names no file, or there is none and it may not be fetched.
      ConnectionError: there is none and no network.
      ValueError: a checkpoint of unknown hash.
      OSError: the cache folder cannot be written.
    """
    named = option if option is not None else os.environ.get("STYLEJAX_WEIGHTS") or None
    if named is not None:
        return _usable(Path(named).expanduser())
    for place in _places():
        if os.path.isfile(place):
            return place if place.name == FILE_NAME else _usable(place)
    if fetch_missing:
        return fetch(progressbar=progressbar)
    raise FileNotFoundError(f"there is no weights/{FILE_NAME}; run `{COMMAND}` to fetch it")
