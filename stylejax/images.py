"""Image files to arrays and back. PIL is imported here, and by `sheet` and `animation`.

An image is float32 sRGB ``[H, W, 3]`` in [0, 1], gamma-encoded as in the file. Transparency travels
beside it as float32 ``[H, W]`` in [0, 1], 1 where opaque. Every error is a ValueError (the content
or an argument is wrong) or an OSError (the file system refuses), with a message of one line.
"""

import contextlib
import functools
import io
import json
import math
import os
import struct
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from stylejax.files import replacing

__all__ = [
    "MAX_PIXELS",
    "Picture",
    "check_output",
    "fit",
    "load",
    "metadata",
    "resize",
    "resize_circular",
    "save",
    "size",
    "to_uint8",
]

MAX_PIXELS = 200_000_000  # beyond any camera; as float32 this is already 2.4 GB

_READABLE = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF", "BMP")

_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".jpg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    ".png": ("PNG", {"compress_level": 6}),
    # Lossy WebP always halves the chroma resolution: 33 dB on a painting where JPEG has 38.
    ".webp": ("WEBP", {"lossless": True, "exact": True}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".avif": ("AVIF", {"quality": 95, "subsampling": "4:4:4"}),
}

_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 32_768}  # longer AVIF cannot be read back

_pillow_lock = threading.Lock()


class Picture(NamedTuple):
    """What a file holds: `image` ``[H, W, 3]`` and `alpha` ``[H, W]``, float32 in [0, 1].

    `alpha` is None where the file has none or is opaque everywhere.
    """

    image: np.ndarray
    alpha: np.ndarray | None


def load(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Picture:
    """The picture in a JPEG, PNG, WebP, TIFF, AVIF, GIF or BMP file, told by content, not suffix.

    The EXIF orientation is applied and colours are converted to sRGB by the embedded ICC profile;
    a profile that is broken or made for another colour space is ignored, and the pixels are taken
    as sRGB (CMYK by Pillow's formula without inks). Of an animation or a multi-page file the first
    frame is read.

    Grey with more than 8 bits keeps its depth: 16-bit levels are divided by 65535, and so are wider
    integers that fit in 16 bits; floats within [0, 1] are taken as they are; other integers and
    floats are stretched from their minimum and maximum to [0, 1]. Pillow reads 16-bit *colour* with
    8 bits per channel, and so does this.

    Where `alpha` is 0 the stored colour is meaningless, often black, and would draw edges nobody
    sees: it is replaced by the mean colour weighted by `alpha`. An entirely transparent picture
    keeps its colours.

    Args:
        path: The file.
        max_pixels: Most pixels accepted. The size is checked before anything is decoded.

    Warnings of Pillow are muted; libtiff still writes its own complaints about damage to stderr.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError, OSError: The file cannot be opened.
        ValueError: The file is empty, no image, damaged, cut short, or larger than `max_pixels`.
    """
    name = repr(os.fspath(path))
    with _open_file(path) as file, _guarded_pillow(max_pixels):
        try:
            image, alpha = _decode(file, max_pixels)
        except Image.DecompressionBombError as error:
            message = f"{name} is too large ({_one_line(error)}); shrink it or raise max_pixels"
            raise ValueError(message) from error
        except UnidentifiedImageError as error:
            known = ", ".join(_READABLE)
            message = f"{name} is not an image that can be read ({known}), or it is cut short"
            raise ValueError(message) from error
        except MemoryError:
            raise
        except Exception as error:  # decoders raise almost anything on damaged data
            message = f"{name} is damaged or cut short ({_one_line(error)}); get it again"
            raise ValueError(message) from error
    if alpha is None or alpha.min() == 1:
        return Picture(image, None)
    if (total := alpha.sum(dtype=np.float64)) > 0:
        weighted = (image * alpha[..., None]).sum((0, 1), dtype=np.float64)
        image[alpha == 0] = weighted / total
    return Picture(image, alpha)


def size(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of a file's picture, upright, from its first bytes: nothing is decoded.

    A guess for planning: a file may be cut short, or have its orientation where only decoding finds
    it; `load` knows.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is empty or no image.
    """
    with _opened(path, max_pixels) as picture:
        turned = 1
        # Of a PNG Pillow would look for it behind the pixels.
        if picture.format != "PNG" or "exif" in picture.info:
            with contextlib.suppress(Exception):  # broken EXIF says nothing about the size
                turned = picture.getexif().get(ExifTags.Base.Orientation, 1)
        width, height = picture.size
    return (width, height) if turned in (5, 6, 7, 8) else (height, width)


def metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts that `save` wrote beside the pixels, by key; none where there are none.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is empty or no image.
    """
    with _opened(path, MAX_PIXELS) as picture:
        if picture.format == "PNG":  # ours come before the pixels; `text` would decode these
            return {str(k): str(v) for k, v in picture.info.items() if isinstance(v, str)}
        with contextlib.suppress(Exception):  # someone else's description, or a broken one
            found = json.loads(picture.getexif()[ExifTags.Base.ImageDescription])
            if isinstance(found, dict):
                return found
    return {}


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], max_pixels: int) -> Iterator[Image.Image]:
    """The picture before it is decoded."""
    with _open_file(path) as file, _guarded_pillow(max_pixels):
        try:
            picture = Image.open(file, formats=_READABLE)
        except Exception as error:  # as in `load`
            name = repr(os.fspath(path))
            raise ValueError(f"{name} is no image that can be read ({_one_line(error)})") from error
        yield picture


def save(
    path: str | os.PathLike[str],
    image: jax.Array | np.ndarray,
    *,
    alpha: jax.Array | np.ndarray | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes an image as 8-bit sRGB, profile embedded, in the format its suffix names.

    The file appears whole or not at all: it is written beside the target, synced and renamed, so a
    failure leaves an existing file as it was and nothing else behind. The new file has the
    permissions of any new file. A symbolic link stays, and the file it points to is replaced.

    Args:
        path: Ends in .png, .tif, .tiff or .webp (all lossless), or in .jpg, .jpeg or .avif
            (quality 95, full chroma resolution).
        image: ``[H, W, 3]`` floats, clipped to [0, 1].
        alpha: ``[H, W]`` floats, clipped to [0, 1]. JPEG has no transparency: there the image is
            composed over white.
        metadata: Texts by key. PNG stores each as an iTXt chunk of that key (1 to 79 Latin-1
            characters); the other formats store the mapping as JSON in the EXIF ImageDescription,
            for which JPEG has 64 KB.

    Raises:
        ValueError: Unknown suffix, wrong shape or dtype, a value that is NaN or infinite, or more
            than the format can hold.
        OSError: What `check_output` raises, or the file system failed while writing.
    """
    check_output(path)
    pixels = to_uint8(image)
    if alpha is not None:
        opacity = _levels(alpha, "alpha", pixels.shape[:2])
        pixels = np.concatenate([pixels, opacity[..., None]], axis=2)
    suffix = os.path.splitext(path)[1].lower()
    data = _encode(pixels, *_ENCODERS[suffix], metadata or {})
    with replacing(path) as file:
        file.write(data)


def check_output(
    path: str | os.PathLike[str], *, suffixes: Collection[str] = tuple(_ENCODERS)
) -> None:
    """Raises now what `save` would raise for this path after a long run.

    Args:
        path: The file that will be written.
        suffixes: What it may end in.

    Raises:
        ValueError: The path ends in none of `suffixes`.
        FileNotFoundError: The folder does not exist.
        IsADirectoryError: The path is a folder.
        PermissionError: The folder, or a file already there, may not be written.
        OSError: The path is a device or another special file.
    """
    name, target = repr(os.fspath(path)), os.path.realpath(path)
    folder = os.path.dirname(target)
    if os.path.isdir(target):
        raise IsADirectoryError(f"{name} is a folder; name a file in it, such as 'out.png'")
    if (suffix := os.path.splitext(path)[1].lower()) not in suffixes:
        raise ValueError(f"{name} ends in {suffix!r}; use one of {', '.join(suffixes)}")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{name}: there is no folder {folder!r}; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{name}: folder {folder!r} is not writable; choose another")
    if os.path.exists(target):
        if not os.path.isfile(target):
            raise OSError(f"{name} is a device or special file; choose another name")
        if not os.access(target, os.W_OK):
            raise PermissionError(f"{name} is write-protected; choose another name or unprotect it")


def fit(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Height and width with the longer side `long_side` and the aspect ratio kept, at least 1 each.

    Raises:
        ValueError: An argument is below 1.
    """
    if min(height, width, long_side) < 1:
        given = f"height {height}, width {width}, long_side {long_side}"
        raise ValueError(f"sizes must be at least 1 pixel, got {given}")
    if height >= width:
        return long_side, max(1, round(width * long_side / height))
    return max(1, round(height * long_side / width)), long_side


def resize(image: jax.Array | np.ndarray, height: int, width: int) -> jax.Array:
    """Resamples ``[H, W, C]`` or ``[H, W]`` floats to `height` x `width`; pure and traceable.

    Cubic interpolation, with the kernel widened when shrinking so that fine texture does not alias.
    The result is clipped to [0, 1], because the cubic kernel has negative lobes and overshoots at
    strong edges. The dtype is kept; an image of that size already is returned unchanged.

    Raises:
        ValueError: The image is not 2-D or 3-D floats, or a size is below 1.
    """
    image = jnp.asarray(image)
    if image.ndim not in (2, 3) or not jnp.issubdtype(image.dtype, jnp.floating):
        given = f"{image.dtype} {list(image.shape)}"
        raise ValueError(f"image must be floats [H, W, C] or [H, W], got {given}")
    if min(height, width, *image.shape) < 1:
        given = f"{list(image.shape)} to {height} x {width}"
        raise ValueError(f"sizes must be at least 1 pixel, got {given}")
    if image.shape[:2] == (height, width):
        return image
    shape = (height, width, *image.shape[2:])
    return jnp.clip(jax.image.resize(image, shape, "cubic", antialias=True), 0, 1)


def resize_circular(image: jax.Array | np.ndarray, height: int, width: int) -> jax.Array:
    """As `resize`, for one tile of an endless pattern: what lies beyond its border is the pattern.

    Rolled by a distance that is a whole number of pixels in both sizes, it gives the same picture
    rolled; so the tile has no seam at its border.
    """
    image = jnp.asarray(image)
    if image.shape[:2] == (height, width) or min(height, width, *image.shape) < 1:
        return resize(image, height, width)
    before, after = zip(*map(_margin, image.shape[:2], (height, width)), strict=True)
    wider = jnp.pad(image, [*((n, n) for n in before), *((0, 0),) * (image.ndim - 2)], "wrap")
    wider = resize(wider, height + 2 * after[0], width + 2 * after[1])
    return wider[after[0] : after[0] + height, after[1] : after[1] + width]


def _margin(length: int, wanted: int) -> tuple[int, int]:
    """Pixels to put on both ends before and to take off after, the same distance, the least that
    the cubic kernel reaches over."""
    common = math.gcd(length, wanted)
    reach = 2 * max(1, length / wanted) + 1
    times = math.ceil(reach * common / length)
    return times * length // common, times * wanted // common


def to_uint8(image: jax.Array | np.ndarray) -> np.ndarray:
    """``[H, W, 3]`` floats clipped to [0, 1] and rounded to 0..255, halves to even.

    Raises:
        ValueError: Wrong shape, not floats, or a value that is NaN or infinite.
    """
    return _levels(image, "image", (*np.shape(image)[:2], 3))


@contextlib.contextmanager
def _guarded_pillow(max_pixels: int) -> Iterator[None]:
    """Mutes Pillow's warnings and puts our size limit in place of its own, then undoes both.

    These are settings of the whole process, hence one thread at a time.
    """
    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = Image.MAX_IMAGE_PIXELS
        try:
            # Pillow only warns up to twice its limit. It also guards what decoders allocate while
            # they open a file, which is before the size can be asked.
            Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _open_file(path: str | os.PathLike[str]) -> io.BufferedReader:
    name = repr(os.fspath(path))
    if os.path.isdir(path):
        raise IsADirectoryError(f"{name} is a folder; name an image file in it")
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        reason = f"{error.strerror}; check the path and its permissions"
        raise type(error)(f"cannot read {name}: {reason}") from error
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        file.close()
        raise ValueError(f"{name} is empty (0 bytes); get it again")
    return file


def _decode(file: io.BufferedReader, max_pixels: int) -> tuple[np.ndarray, np.ndarray | None]:
    picture: Image.Image = Image.open(file, formats=_READABLE)
    width, height = picture.size
    if width * height > max_pixels:
        raise Image.DecompressionBombError(f"{width} x {height}, the limit is {max_pixels} pixels")
    picture.load()
    with contextlib.suppress(Exception):  # broken EXIF says nothing about the pixels
        ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith(("I", "F")):
        return _deep_grey(picture)
    if picture.mode == "La":
        picture = picture.convert("LA")
    alpha = None
    if picture.has_transparency_data:
        alpha = _unit(picture.convert("RGBA").getchannel("A"))
    base = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK"}.get(picture.mode, "RGB")
    return _unit(_to_srgb(picture.convert(base), picture.info.get("icc_profile"))), alpha


def _deep_grey(picture: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    stored, tags = np.asarray(picture), getattr(picture, "tag_v2", {})  # only TIFF has tags
    signed = tags.get(ExifTags.Base.SampleFormat, (1,))[0] == 2
    if picture.mode == "I" and not signed:
        stored = stored.view(np.uint32)  # Pillow has no unsigned mode and wraps
    low, high = float(stored.min()), float(stored.max())
    if not np.isfinite(high - low):
        raise ValueError("it holds NaN or infinite levels")
    if picture.mode == "F" and low >= 0 and high <= 1:
        low, high = 0, 1
    elif picture.mode != "F" and low >= 0 and high <= 65535:
        bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0] - signed
        low, high = 0, 2 ** min(bits, 16) - 1
    grey = (stored - np.float64(low)) / ((high - low) or 1)
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:
        grey = 1 - grey  # white is zero; Pillow inverts that for 8 bits only
    channels = [grey] * 3
    if profile := picture.info.get("icc_profile"):
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        curves = _unit(_to_srgb(ramp, profile))[0].T
        channels = [np.interp(grey, np.linspace(0, 1, 256), curve) for curve in curves]
    key = picture.info.get("transparency")
    alpha = (stored != key).astype(np.float32) if isinstance(key, int) else None
    return np.stack(channels, axis=2, dtype=np.float32), alpha


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """8-bit sRGB of an image in mode L, RGB or CMYK, by its profile where that can be used."""
    if profile:
        with contextlib.suppress(OSError, ValueError, TypeError, ImageCms.PyCMSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.ImageCmsProfile(io.BytesIO(_srgb_profile()))
            space = source.profile.xcolor_space.strip()
            if space == "RGB" and picture.mode == "L":
                picture = picture.convert("RGB")
            mode = {"GRAY": "L"}.get(space, space)
            if picture.mode == mode:
                return ImageCms.ImageCmsTransform(source, target, mode, "RGB").apply(picture)
    return picture.convert("RGB")


@functools.cache
def _srgb_profile() -> bytes:
    # Without a fixed date the same image would give other bytes on every run.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]


def _unit(picture: Image.Image) -> np.ndarray:
    return np.divide(np.asarray(picture), 255, dtype=np.float32)


def _levels(values: jax.Array | np.ndarray, what: str, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != shape or array.size == 0 or not jnp.issubdtype(array.dtype, jnp.floating):
        wanted = "[H, W, 3]" if what == "image" else f"{list(shape)} like the image"
        given = f"{array.dtype} {list(array.shape)}"
        raise ValueError(f"{what} must be floats {wanted} in [0, 1], got {given}")
    array = array.astype(np.promote_types(np.float32, array.dtype))
    if bad := np.count_nonzero(~np.isfinite(array)):
        raise ValueError(
            f"{what} has {bad} of {array.size} values NaN or infinite; mend them first"
        )
    return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)


def _encode(
    pixels: np.ndarray, kind: str, options: Mapping[str, Any], metadata: Mapping[str, str]
) -> bytes:
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    size, longest = f"{picture.width} x {picture.height} pixels", _LONGEST_SIDE.get(kind, 2**31)
    if max(picture.size) > longest:
        raise ValueError(f"{kind} holds {longest} pixels a side, not {size}; use .png or .tiff")
    if kind == "JPEG" and picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture).convert("RGB")
    extra: dict[str, Any] = {}
    if kind == "PNG":
        extra["pnginfo"] = _text_chunks(metadata)
    elif metadata:
        extra["exif"] = exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = json.dumps(dict(metadata))
    try:
        picture.save(buffer, kind, icc_profile=_srgb_profile(), **options, **extra)
    except (OSError, ValueError, RuntimeError) as error:
        reason = f"{_one_line(error)}; shorten the metadata or use .png"
        raise ValueError(f"cannot write {size} as {kind}: {reason}") from error
    return buffer.getvalue()


def _text_chunks(metadata: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    chunks = PngImagePlugin.PngInfo()
    for key, text in metadata.items():
        if not (1 <= len(key) <= 79 and key.isprintable() and ord(max(key)) < 256):
            raise ValueError(f"metadata key {key!r} must be 1 to 79 printable Latin-1 characters")
        chunks.add_itxt(key, text.encode("utf-8", "backslashreplace").decode())
    return chunks


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
