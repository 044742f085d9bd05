"""Files to arrays and back: every mode and format, and what each kind of bad file is told."""

import io
import itertools
import json
import os
import stat
import struct
import threading
import warnings
import zlib
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import PIL
import pytest
from PIL import ExifTags, Image, ImageCms, ImageFile

from stylejax import images

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".avif")
LOSSLESS = (".png", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF", "BMP")

newer_pillow = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="older Pillow cannot read these TIFF files"
)


def put(path, picture, kind="PNG", **options):
    picture.save(path, kind, **options)
    return path


def smooth(height, width):
    """A picture that lossy encoders keep well: slow gradients of all three colours."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    channels = [0.2 + 0.6 * x, 0.9 - 0.7 * y, 0.5 + 0.3 * np.sin(3 * (x + y))]
    return np.stack(channels, axis=2, dtype=np.float32)


def png(width, height, bits, colour, rows, *extra):
    """PNG bytes by the specification, for what Pillow cannot write."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(itertools.starmap(chunk, chunks))


def tiff(width, height, data, *tags):
    """Little-endian TIFF bytes of one uncompressed strip; `tags` are (number, SHORT value)."""
    entries = dict([(256, width), (257, height), (259, 1), (277, 1), (278, height), *tags])
    entries[273], entries[279] = 8 + 2 + 12 * (len(entries) + 2) + 4, len(data)
    fields = b"".join(struct.pack("<HHII", n, 3, 1, v) for n, v in sorted(entries.items()))
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + fields + bytes(4) + data


# --- ICC profiles, built by the specification ---------------------------------------------------

PRIMARIES = {  # sRGB's, adapted to D50
    "r": (0.4360747, 0.2225045, 0.0139322),
    "g": (0.3850649, 0.7168786, 0.0971045),
    "b": (0.1430804, 0.0606169, 0.7141733),
}


def icc(space, tags, kind=b"mntr", pcs=b"XYZ "):
    offset, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, offset + len(body), len(data))
        body += data
    header = struct.pack(">I4x4s4s4s4s", offset + len(body), b"\2\x40\0\0", kind, space, pcs)
    header += struct.pack(">6H4s28x3I48x", 2000, 1, 1, 0, 0, 0, b"acsp", 0xF6D6, 0x10000, 0xD32D)
    assert len(header) == 128
    return header + struct.pack(">I", len(tags)) + table + body


def xyz(values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))


def curve(levels):
    return b"curv\0\0\0\0" + struct.pack(f">I{len(levels)}H", len(levels), *levels)


def to_linear(encoded):
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def to_encoded(linear):
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


SRGB_CURVE = curve(np.rint(to_linear(np.linspace(0, 1, 1024)) * 65535).astype(int))
LINEAR = curve([])  # no entries: the identity
WHITE = {b"wtpt": xyz((0.9642, 1, 0.8249))}


def rgb_profile(order="rgb", tone=SRGB_CURVE):
    """sRGB with the primaries given in another order, or with another tone curve."""
    columns = {f"{to}XYZ".encode(): xyz(PRIMARIES[of]) for to, of in zip("rgb", order, strict=True)}
    return icc(b"RGB ", WHITE | columns | {f"{c}TRC".encode(): tone for c in "rgb"})


def grey_profile():
    return icc(b"GRAY", WHITE | {b"kTRC": LINEAR})


def cmyk_profile():
    """Ink C alone looks sRGB red, unlike any real cyan; any K is black; the rest is white."""
    red, white, black = (138, 209, 198), (255, 128, 128), (0, 128, 128)  # 8-bit CIELAB
    nodes = itertools.product((0, 1), repeat=4)
    grid = [black if k else red if (c, m, y) == (1, 0, 0) else white for c, m, y, k in nodes]
    identity = struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).ravel())
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4
    table += bytes(np.array(grid, np.uint8)) + ramp * 3
    return icc(b"CMYK", WHITE | {b"A2B0": table}, b"prtr", b"Lab ")


# --- load: modes --------------------------------------------------------------------------------


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (5, 7, 3), np.uint8)


def test_rgb_levels_are_divided_by_255(tmp_path, pixels):
    picture = images.load(put(tmp_path / "a.png", Image.fromarray(pixels)))
    assert picture.image.dtype == np.float32 and picture.alpha is None
    np.testing.assert_array_equal(picture.image, pixels / np.float32(255))
    picture.image[0, 0] = 0.5  # a fresh array, not a view of a buffer


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_the_format_is_told_by_content(tmp_path, kind):
    picture = Image.fromarray(np.full((3, 4, 3), (255, 0, 102), np.uint8))
    image = images.load(put(tmp_path / "photo.jpg", picture, kind)).image
    np.testing.assert_allclose(image, np.broadcast_to((1, 0, 0.4), (3, 4, 3)), atol=1e-6)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_fills_three_channels(tmp_path, pixels, mode, kind):
    source = Image.fromarray(pixels[..., 0]).convert(mode)
    picture = images.load(put(tmp_path / "a", source, kind))
    want = np.asarray(source.convert("L")) / np.float32(255)
    np.testing.assert_array_equal(picture.image, np.dstack([want] * 3))
    assert picture.alpha is None


def test_palette_without_transparency(tmp_path, pixels):
    source = Image.fromarray(pixels).quantize(16)
    picture = images.load(put(tmp_path / "a.png", source))
    np.testing.assert_array_equal(images.to_uint8(picture.image), np.asarray(source.convert("RGB")))
    assert picture.alpha is None


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 128])])
def test_palette_with_transparency(tmp_path, transparency):
    source = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    source.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture = images.load(put(tmp_path / "a.png", source, transparency=transparency))
    last = 1 if transparency == 1 else 128 / 255
    np.testing.assert_allclose(picture.alpha, [[1, 0, last]], rtol=1e-6)
    np.testing.assert_array_equal(picture.image[0, [0, 2]], [[1, 0, 0], [0, 0, 1]])


def test_transparent_colour_of_rgb_and_grey_png(tmp_path):
    source = Image.fromarray(np.array([[[9, 8, 7], [7, 8, 9]]], np.uint8))
    picture = images.load(put(tmp_path / "a.png", source, transparency=(9, 8, 7)))
    np.testing.assert_array_equal(picture.alpha, [[0, 1]])
    source = Image.fromarray(np.array([[9, 200]], np.uint8))
    picture = images.load(put(tmp_path / "b.png", source, transparency=9))
    np.testing.assert_array_equal(picture.alpha, [[0, 1]])


def test_alpha_of_grey(tmp_path):
    source = Image.merge("LA", [Image.new("L", (3, 2), 51), Image.new("L", (3, 2), 102)])
    for kind in ("PNG", "TIFF"):
        picture = images.load(put(tmp_path / kind, source, kind))
        np.testing.assert_allclose(picture.image, 0.2, rtol=1e-6)
        np.testing.assert_allclose(picture.alpha, 0.4, rtol=1e-6)


@newer_pillow
def test_premultiplied_grey_tiff(tmp_path):
    path = tmp_path / "a.tif"
    two_bytes = bytes([8, 0, 8, 0])  # BitsPerSample 8, 8 fits in the entry itself
    data = tiff(1, 1, bytes([51, 102]), (258, 8), (262, 1), (277, 2), (338, 1))
    data = data.replace(
        struct.pack("<HHII", 258, 3, 1, 8), struct.pack("<HHI", 258, 3, 2) + two_bytes
    )
    path.write_bytes(data)
    picture = images.load(path)
    np.testing.assert_allclose(picture.image, 0.5, atol=0.01)
    np.testing.assert_allclose(picture.alpha, 0.4, rtol=1e-6)


def test_opaque_alpha_is_none(tmp_path, pixels):
    path = put(tmp_path / "a.png", Image.fromarray(pixels).convert("RGBA"))
    assert images.load(path).alpha is None


def test_hidden_colour_becomes_the_weighted_mean(tmp_path):
    rgba = [[[255, 0, 0, 255], [0, 0, 255, 85], [1, 2, 3, 0]]]
    picture = images.load(put(tmp_path / "a.png", Image.fromarray(np.array(rgba, np.uint8))))
    np.testing.assert_allclose(picture.image[0], [[1, 0, 0], [0, 0, 1], [0.75, 0, 0.25]], atol=1e-6)
    np.testing.assert_allclose(picture.alpha, [[1, 1 / 3, 0]], rtol=1e-6)


def test_wholly_transparent_keeps_its_colours(tmp_path):
    picture = images.load(put(tmp_path / "a.png", Image.new("RGBA", (2, 2), (51, 0, 255, 0))))
    np.testing.assert_allclose(picture.image, np.broadcast_to((0.2, 0, 1), (2, 2, 3)), rtol=1e-6)
    np.testing.assert_array_equal(picture.alpha, 0)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_without_profile(tmp_path, kind):
    source = Image.new("CMYK", (16, 16), (255, 0, 128, 51))
    image = images.load(put(tmp_path / "a", source, kind)).image
    want = (0, 0.8, 0.8 * 127 / 255)
    np.testing.assert_allclose(image, np.broadcast_to(want, (16, 16, 3)), atol=3 / 255)


@newer_pillow
def test_ycbcr_tiff(tmp_path):
    source = Image.new("RGB", (4, 4), (200, 100, 50))
    path = put(tmp_path / "a.tif", source.convert("YCbCr"), "TIFF")
    np.testing.assert_allclose(images.load(path).image[0, 0] * 255, (200, 100, 50), atol=2)


@newer_pillow
def test_lab_tiff(tmp_path):
    red = Image.new("LAB", (4, 4), (138, 209, 198))
    image = images.load(put(tmp_path / "a.tif", red, "TIFF")).image
    np.testing.assert_allclose(image[0, 0], (1, 0, 0), atol=0.03)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_first_frame_of_many(tmp_path, kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    path = put(tmp_path / "a", frames[0], kind, save_all=True, append_images=frames[1:])
    image = images.load(path).image
    np.testing.assert_allclose(image, np.broadcast_to((1, 0, 0), (16, 16, 3)), atol=0.02)


# --- load: more than eight bits -----------------------------------------------------------------

DEEP = np.array([[0, 1, 255, 256, 4095], [30000, 32768, 65534, 65535, 7]])


def grey_of(path):
    image, _ = images.load(path)
    np.testing.assert_array_equal(image, image[..., :1].repeat(3, 2))
    assert image.dtype == np.float32
    return image[..., 0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_levels(tmp_path, kind):
    path = put(tmp_path / "a", Image.fromarray(DEEP.astype(np.uint16)), kind)
    np.testing.assert_allclose(grey_of(path), DEEP / 65535, rtol=1e-6)


def test_16_bit_big_endian_tiff(tmp_path):
    source = Image.frombytes("I;16B", (5, 2), DEEP.astype(">u2").tobytes())
    path = put(tmp_path / "a.tif", source, "TIFF")
    with Image.open(path) as stored:
        assert stored.mode == "I;16B"
    np.testing.assert_allclose(grey_of(path), DEEP / 65535, rtol=1e-6)


def test_16_bit_white_is_zero(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(5, 2, DEEP.astype("<u2").tobytes(), (258, 16), (262, 0)))
    np.testing.assert_allclose(grey_of(path), 1 - DEEP / 65535, atol=1e-6)


def test_12_bit_and_signed_tiff(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(2, 1, bytes([0xFF, 0xF8, 0x00]), (258, 12), (262, 1)))
    np.testing.assert_allclose(grey_of(path), [[1, 2048 / 4095]], rtol=1e-6)
    levels = np.array([[0, 32767, 100]], "<i2")
    path.write_bytes(tiff(3, 1, levels.tobytes(), (258, 16), (262, 1), (339, 2)))
    np.testing.assert_allclose(grey_of(path), levels / 32767, rtol=1e-6)


def test_32_bit_unsigned_tiff_does_not_wrap(tmp_path):
    levels = np.array([[0, 2**31, 2**32 - 1]], "<u4")
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(3, 1, levels.tobytes(), (258, 32), (262, 1), (339, 1)))
    np.testing.assert_allclose(grey_of(path), levels / (2**32 - 1), rtol=1e-6)


@pytest.mark.parametrize("low, high", [(0, 65535), (-100, 300), (0, 2**31 - 1)])
def test_wide_integers_fit_16_bits_or_are_stretched(tmp_path, low, high):
    levels = np.linspace(low, high, 6).round().astype(np.int32).reshape(2, 3)
    path = put(tmp_path / "a.tif", Image.fromarray(levels), "TIFF")
    np.testing.assert_allclose(grey_of(path), (levels - low) / (high - low), atol=1e-6)


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (0.25, 0.5), (-2.0, 6.0), (0.0, 255.0)])
def test_floats_in_unit_range_as_they_are_others_stretched(tmp_path, low, high):
    levels = np.linspace(low, high, 6, dtype=np.float32).reshape(2, 3)
    path = put(tmp_path / "a.tif", Image.fromarray(levels), "TIFF")
    want = levels if high <= 1 else (levels - low) / (high - low)
    np.testing.assert_allclose(grey_of(path), want, atol=1e-6)


def test_constant_and_huge_floats(tmp_path):
    path = put(tmp_path / "a.tif", Image.new("F", (2, 2), 7.0), "TIFF")
    np.testing.assert_array_equal(grey_of(path), 0)
    levels = np.array([[-3e38, 0, 3e38]], np.float32)
    path = put(tmp_path / "b.tif", Image.fromarray(levels), "TIFF")
    np.testing.assert_allclose(grey_of(path), [[0, 0.5, 1]], atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_floats_that_are_not_finite(tmp_path, bad):
    source = Image.fromarray(np.array([[0.5, bad]], np.float32))
    with pytest.raises(ValueError, match="NaN or infinite"):
        images.load(put(tmp_path / "a.tif", source, "TIFF"))


def test_16_bit_grey_png_with_a_transparent_level(tmp_path):
    path = tmp_path / "a.png"
    rows = [row.astype(">u2").tobytes() for row in DEEP]
    path.write_bytes(png(5, 2, 16, 0, rows, (b"tRNS", struct.pack(">H", 30000))))
    picture = images.load(path)
    np.testing.assert_array_equal(picture.alpha, DEEP != 30000)
    np.testing.assert_allclose(picture.image[0, :, 0], DEEP[0] / 65535, rtol=1e-6)


def test_16_bit_colour_png_is_read_with_8_bits(tmp_path, rng):
    levels = rng.integers(0, 65536, (3, 4, 4)).astype(">u2")
    path = tmp_path / "a.png"
    path.write_bytes(png(4, 3, 16, 2, [row[:, :3].tobytes() for row in levels]))
    np.testing.assert_allclose(images.load(path).image, levels[..., :3] / 65535, atol=1 / 255)
    path.write_bytes(png(4, 3, 16, 6, [row.tobytes() for row in levels]))
    np.testing.assert_allclose(images.load(path).alpha, levels[..., 3] / 65535, atol=1 / 255)
    path.write_bytes(png(4, 3, 16, 4, [row[:, :2].tobytes() for row in levels]))
    picture = images.load(path)
    np.testing.assert_allclose(picture.image[..., 0], levels[..., 0] / 65535, atol=1 / 255)
    np.testing.assert_allclose(picture.alpha, levels[..., 1] / 65535, atol=1 / 255)


# --- load: orientation and colour profiles ------------------------------------------------------

UPRIGHT = {  # [[0, 1, 2], [3, 4, 5]] as stored; EXIF names the side its first row and column are on
    1: [[0, 1, 2], [3, 4, 5]],  # top, left
    2: [[2, 1, 0], [5, 4, 3]],  # top, right
    3: [[5, 4, 3], [2, 1, 0]],  # bottom, right
    4: [[3, 4, 5], [0, 1, 2]],  # bottom, left
    5: [[0, 3], [1, 4], [2, 5]],  # left, top
    6: [[3, 0], [4, 1], [5, 2]],  # right, top
    7: [[5, 2], [4, 1], [3, 0]],  # right, bottom
    8: [[2, 5], [1, 4], [0, 3]],  # left, bottom
}


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(tmp_path, orientation, kind):
    def blocks(numbers):
        return np.kron(np.array(numbers) * 40, np.ones((16, 16))).astype(np.uint8)

    source = Image.fromarray(blocks(UPRIGHT[1])).convert("RGB")
    path = put(tmp_path / "a", source, kind, exif=exif(orientation), quality=95)
    want = blocks(UPRIGHT[orientation])
    image = images.load(path).image
    assert image.shape == (*want.shape, 3)
    np.testing.assert_allclose(image[..., 1] * 255, want, atol=4)


def test_orientation_turns_alpha_and_deep_grey_too(tmp_path):
    source = Image.fromarray(np.array([[[9, 9, 9, 0], [9, 9, 9, 51]]], np.uint8))
    picture = images.load(put(tmp_path / "a.png", source, exif=exif(6)))
    np.testing.assert_allclose(picture.alpha, [[0], [0.2]], rtol=1e-6)
    for kind in ("PNG", "TIFF"):
        path = put(tmp_path / kind, Image.fromarray(DEEP.astype(np.uint16)), kind, exif=exif(6))
        np.testing.assert_allclose(grey_of(path), np.rot90(DEEP, -1) / 65535, rtol=1e-6)


@pytest.mark.parametrize("data", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b""])
def test_broken_exif_is_ignored(tmp_path, pixels, data):
    for kind in ("PNG", "JPEG", "WEBP"):
        path = put(tmp_path / kind, Image.fromarray(pixels), kind, exif=data)
        assert images.load(path).image.shape == pixels.shape


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_profile_with_swapped_primaries_swaps_channels(tmp_path, pixels, kind):
    source = Image.fromarray(pixels)
    path = put(tmp_path / "a", source, kind, icc_profile=rgb_profile("gbr"))
    np.testing.assert_allclose(images.load(path).image * 255, pixels[..., [2, 0, 1]], atol=1.01)


def test_profile_of_linear_light(tmp_path, pixels):
    want = to_encoded(pixels / 255)
    profile = rgb_profile(tone=LINEAR)
    path = put(tmp_path / "a.png", Image.fromarray(pixels), icc_profile=profile)
    np.testing.assert_allclose(images.load(path).image, want, atol=1.5 / 255)
    palette = Image.fromarray(pixels).quantize(255)
    path = put(tmp_path / "b.png", palette, icc_profile=profile)
    want = to_encoded(np.asarray(palette.convert("RGB")) / 255)
    np.testing.assert_allclose(images.load(path).image, want, atol=1.5 / 255)


@pytest.mark.parametrize("profile", [grey_profile(), rgb_profile(tone=LINEAR)])
def test_profile_of_grey_and_its_alpha(tmp_path, pixels, profile):
    grey, alpha = Image.fromarray(pixels[..., 0]), Image.fromarray(pixels[..., 1] // 2 + 1)
    want = to_encoded(pixels[..., :1] / 255).repeat(3, 2)
    path = put(tmp_path / "a.png", grey, icc_profile=profile)
    np.testing.assert_allclose(images.load(path).image, want, atol=1.5 / 255)
    path = put(tmp_path / "b.png", Image.merge("LA", [grey, alpha]), icc_profile=profile)
    picture = images.load(path)
    np.testing.assert_allclose(picture.image, want, atol=1.5 / 255)
    np.testing.assert_array_equal(images.to_uint8(np.dstack([picture.alpha] * 3))[..., 0], alpha)


def test_profile_of_deep_grey(tmp_path):
    levels = np.linspace(6000, 65535, 40).astype(np.uint16)[None]
    path = put(tmp_path / "a.png", Image.fromarray(levels), icc_profile=grey_profile())
    np.testing.assert_allclose(grey_of(path), to_encoded(levels / 65535), atol=1.5 / 255)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_profile_of_cmyk(tmp_path, kind):
    inks = np.zeros((16, 48, 4), np.uint8)
    inks[:, 16:32, 0] = inks[:, 32:, 3] = 255
    profile = cmyk_profile()
    path = put(
        tmp_path / "a",
        Image.frombytes("CMYK", (48, 16), inks.tobytes()),
        kind,
        icc_profile=profile,
        quality=95,
    )
    image = images.load(path).image[8, [8, 24, 40]]
    np.testing.assert_allclose(image, [[1, 1, 1], [1, 0, 0], [0, 0, 0]], atol=0.03)


@pytest.mark.parametrize(
    "profile",
    [b"garbage", rgb_profile("gbr")[:200], b"", grey_profile(), cmyk_profile(), b"\0" * 4000],
)
def test_useless_profile_is_ignored(tmp_path, pixels, profile):
    path = put(tmp_path / "a.png", Image.fromarray(pixels), icc_profile=profile)
    np.testing.assert_array_equal(images.load(path).image, pixels / np.float32(255))


def test_srgb_profile_of_another_maker_changes_nothing(tmp_path, pixels):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = put(tmp_path / "a.png", Image.fromarray(pixels), icc_profile=profile)
    np.testing.assert_allclose(images.load(path).image * 255, pixels, atol=1.01)


# --- load: what goes wrong ----------------------------------------------------------------------


def fails(path, kind=ValueError, **options):
    """The one-line message of the error that loading `path` must raise."""
    with pytest.raises(kind) as caught:
        images.load(path, **options)
    message = str(caught.value)
    assert "\n" not in message and repr(str(path)) in message
    return message


def test_missing_file_and_folder(tmp_path):
    assert "No such file" in fails(tmp_path / "none.png", FileNotFoundError)
    assert "folder" in fails(tmp_path, IsADirectoryError)


def test_unreadable_file(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert "permission" in fails(tmp_path / "a.png", PermissionError)


def test_lack_of_memory_is_not_called_damage(tmp_path, monkeypatch):
    def exhaust(*args, **options):
        raise MemoryError

    path = put(tmp_path / "a.png", Image.new("RGB", (3, 3)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", exhaust)
    with pytest.raises(MemoryError):
        images.load(path)


def test_empty_and_foreign_files(tmp_path):
    path = tmp_path / "line\nbreak.png"
    path.write_bytes(b"")
    assert "empty" in fails(path)
    path = tmp_path / "a.png"
    for content in (b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", bytes(5000)):
        path.write_bytes(content)
        assert "JPEG, PNG" in fails(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_file(tmp_path, rng, kind):
    noise = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
    path = put(tmp_path / "a", noise, kind)
    data = path.read_bytes()
    for part in (0.01, 0.1, 0.5, 0.9):
        path.write_bytes(data[: max(1, int(len(data) * part))])
        assert "cut short" in fails(path)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_damaged_files_never_raise_anything_else(tmp_path, rng, capfd):
    path = tmp_path / "a"
    source = Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8))
    options = {"exif": exif(6), "icc_profile": rgb_profile("gbr")}
    for kind in FORMATS:
        data = put(path, source, kind, **({} if kind in ("GIF", "BMP") else options)).read_bytes()
        for _ in range(25):
            damaged = bytearray(data)
            for place in rng.integers(0, min(len(data), 900), 4):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                image, _ = images.load(path, max_pixels=10**6)
            except ValueError as error:
                assert "\n" not in str(error)
            else:
                assert image.min() >= 0 and image.max() <= 1
    capfd.readouterr()  # libtiff writes its complaints to stderr by itself


def test_bomb_is_refused_by_its_header(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(100_000, 100_000, 8, 2, []))
    message = fails(path)
    assert "10000000000 pixels" in message and "max_pixels" in message
    fails(path, max_pixels=10**9)


@pytest.mark.parametrize("kind", FORMATS)
def test_limit_is_exact(tmp_path, kind):
    path = put(tmp_path / "a", Image.new("RGB", (30, 20)), kind)
    assert images.load(path, max_pixels=600).image.shape == (20, 30, 3)
    assert "30 x 20, the limit is 599" in fails(path, max_pixels=599)
    assert "limit of 298" in fails(path, max_pixels=297)


def test_the_limit_can_be_raised_above_pillows_own(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = put(tmp_path / "a.png", Image.new("RGB", (30, 20)))
    assert images.load(path).image.shape == (20, 30, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_pillow_and_the_warning_filters_are_left_alone(tmp_path):
    good = put(tmp_path / "a.png", Image.new("RGB", (300, 300)))
    bad = tmp_path / "b.png"
    bad.write_bytes(good.read_bytes()[:100])
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)

    def work():
        for _ in range(20):
            images.load(good)
            with pytest.raises(ValueError):
                images.load(bad)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limit == Image.MAX_IMAGE_PIXELS and warnings.filters == filters


# --- save ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG"])
def test_round_trip(tmp_path, suffix):
    path, image = tmp_path / f"a{suffix}", smooth(37, 50)
    images.save(path, image)
    picture = images.load(path)
    tolerance = 0.5 if suffix.lower() in LOSSLESS else 6  # of 255
    np.testing.assert_allclose(picture.image * 255, image * 255, atol=tolerance + 1e-4)
    assert picture.alpha is None


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_formats_keep_every_level(tmp_path, pixels, suffix):
    path = tmp_path / f"a{suffix}"
    images.save(path, jnp.asarray(pixels / np.float32(255)))
    np.testing.assert_array_equal(images.to_uint8(images.load(path).image), pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".avif"])
def test_chroma_is_not_subsampled(tmp_path, suffix):
    stripes = np.zeros((32, 32, 3), np.float32)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 1
    images.save(tmp_path / f"a{suffix}", stripes)
    image = images.load(tmp_path / f"a{suffix}").image
    assert np.abs(image - stripes).mean() < 0.03


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".avif"])
def test_alpha_round_trip(tmp_path, suffix):
    path, image = tmp_path / f"a{suffix}", smooth(24, 40)
    alpha = np.linspace(0.1, 1, 24 * 40, dtype=np.float32).reshape(24, 40)
    images.save(path, image, alpha=alpha)
    picture = images.load(path)
    tolerance = 3 if suffix == ".avif" else 0.5
    np.testing.assert_allclose(picture.alpha * 255, alpha * 255, atol=tolerance + 1e-4)
    np.testing.assert_allclose(picture.image, image, atol=6 / 255)


def test_jpeg_composes_over_white(tmp_path):
    image, alpha = np.zeros((16, 16, 3), np.float32), np.full((16, 16), 0.25, np.float32)
    images.save(tmp_path / "a.jpg", image, alpha=alpha)
    picture = images.load(tmp_path / "a.jpg")
    np.testing.assert_allclose(picture.image, 0.75, atol=2 / 255)
    assert picture.alpha is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_profile_is_srgb_and_bytes_are_reproducible(tmp_path, suffix):
    for name in ("a", "b"):
        images.save(tmp_path / f"{name}{suffix}", smooth(8, 8), metadata={"seed": "1"})
        images._srgb_profile.cache_clear()
    with Image.open(tmp_path / f"a{suffix}") as picture:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
    assert "sRGB" in profile.profile.profile_description
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


METADATA = {"style": "Сон & étoiles \U0001f30c", "steps": "500", "path": "bad\udcffname"}


def test_metadata_of_png(tmp_path):
    images.save(tmp_path / "a.png", smooth(4, 4), metadata=METADATA)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.text == {**METADATA, "path": "bad\\udcffname"}
    assert (tmp_path / "a.png").read_bytes().count(b"iTXt") == 3


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".avif"])
def test_metadata_elsewhere_is_json(tmp_path, suffix):
    images.save(tmp_path / f"a{suffix}", smooth(4, 4), metadata=METADATA)
    with Image.open(tmp_path / f"a{suffix}") as picture:
        assert json.loads(picture.getexif()[0x010E]) == METADATA


def test_what_a_format_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="1 to 79"):
        images.save(tmp_path / "a.png", smooth(4, 4), metadata={"x" * 80: ""})
    with pytest.raises(ValueError, match="too long"):
        images.save(tmp_path / "a.jpg", smooth(4, 4), metadata={"x": "y" * 70_000})
    for suffix, side in ((".jpg", 65_500), (".webp", 16_383), (".avif", 32_768)):
        with pytest.raises(ValueError, match=f"{side} pixels a side"):
            images.save(tmp_path / f"a{suffix}", np.zeros((1, side + 1, 3), np.float32))
        images.save(tmp_path / f"a{suffix}", np.zeros((1, side, 3), np.float32))
        assert images.load(tmp_path / f"a{suffix}").image.shape == (1, side, 3)


@pytest.mark.parametrize(
    "image, alpha, what",
    [
        (np.full((4, 4, 3), np.nan, np.float32), None, "48 of 48 values NaN"),
        (np.full((4, 4, 3), np.inf, np.float32), None, "infinite"),
        (np.zeros((4, 4, 3), np.float32), np.full((4, 4), np.nan), "alpha"),
        (np.zeros((4, 4, 3), np.float32), np.zeros((4, 5)), r"alpha .*\[4, 4\].*\[4, 5\]"),
        (np.zeros((4, 4), np.float32), None, r"\[H, W, 3\].*\[4, 4\]"),
        (np.zeros((1, 4, 4, 3), np.float32), None, r"\[1, 4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.float32), None, r"\[0, 4, 3\]"),
        (np.zeros((4, 4, 3), np.uint8), None, "uint8"),
    ],
)
def test_bad_arrays_are_refused_before_writing(tmp_path, image, alpha, what):
    with pytest.raises(ValueError, match=what) as caught:
        images.save(tmp_path / "a.png", image, alpha=alpha)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_to_uint8_rounds_half_to_even_and_clips():
    levels = np.array([0.5, 1.5, 2.5, -3, 300, 254.6]).reshape(1, 2, 3) / 255
    for dtype in (np.float64, np.float32):
        got = images.to_uint8(levels.astype(dtype))
        assert got.dtype == np.uint8
    np.testing.assert_array_equal(images.to_uint8(levels).ravel(), [0, 2, 2, 0, 255, 255])
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    np.testing.assert_array_equal(images.to_uint8(every / np.float32(255)), every)
    np.testing.assert_array_equal(images.to_uint8(jnp.full((1, 1, 3), 0.2, jnp.bfloat16)), 51)


# --- save: files --------------------------------------------------------------------------------


def broken_encoder(error):
    def encode(self, file, *args, **options):
        file.write(b"half a file")
        raise error

    return Image.Image, "save", encode


def broken_disk(error):
    def sync(descriptor):
        raise error

    return os, "fsync", sync


def broken_rename(error):
    def replace(source, target):
        raise error

    return os, "replace", replace


@pytest.mark.parametrize("breakage", [broken_encoder, broken_disk, broken_rename])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_failed_save_harms_nothing(tmp_path, monkeypatch, breakage, error, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"precious")
    monkeypatch.setattr(*breakage(error))
    with pytest.raises(BaseException) as caught:
        images.save(path, smooth(8, 8))
    assert isinstance(caught.value, (OSError, ValueError, KeyboardInterrupt))
    assert isinstance(error, KeyboardInterrupt) or "No space left" in str(caught.value)
    assert path.read_bytes() == b"precious" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        images.save(tmp_path / "a.png", smooth(4, 4))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o640


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    link, target = tmp_path / "a.png", tmp_path / "folder" / "b"
    link.symlink_to(target)
    for _ in range(2):  # first it dangles, then there is a file
        images.save(link, smooth(4, 6))
        assert link.is_symlink() and images.load(target).image.shape == (4, 6, 3)
    assert sorted(tmp_path.rglob("*")) == [link, tmp_path / "folder", target]


def refused(path, kind, match):
    for call in (images.check_output, lambda path: images.save(path, smooth(4, 4))):
        with pytest.raises(kind, match=match) as caught:
            call(path)
        assert "\n" not in str(caught.value) and type(caught.value) is kind


def test_check_output(tmp_path, monkeypatch):
    refused(tmp_path / "a.gif", ValueError, r"'\.gif'.*\.jpg, .*\.png")
    refused(tmp_path / "a", ValueError, r"''.*\.png")
    refused(tmp_path / "none" / "a.png", FileNotFoundError, "create it")
    (tmp_path / "b.png").mkdir()
    refused(tmp_path / "b.png", IsADirectoryError, "folder")
    for path in (tmp_path / "c.png", str(tmp_path / "c.JPG")):
        images.check_output(path)
    monkeypatch.chdir(tmp_path)
    images.check_output("c.png")
    assert [path.name for path in tmp_path.iterdir()] == ["b.png"]


def test_check_output_permissions(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    monkeypatch.setattr(os, "access", lambda name, mode: os.fspath(name) != str(path))
    refused(path, PermissionError, "write-protected")
    monkeypatch.setattr(os, "access", lambda name, mode: False)
    refused(path, PermissionError, "not writable")
    assert path.read_bytes() == b"precious"


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="needs a device file")
def test_device_is_never_replaced(tmp_path):
    (tmp_path / "a.png").symlink_to("/dev/null")
    refused(tmp_path / "a.png", OSError, "device")


# --- fit and resize -----------------------------------------------------------------------------


def test_fit_keeps_the_aspect_ratio(rng):
    for height, width, side in rng.integers(1, 3000, (500, 3)).tolist():
        new = images.fit(height, width, side)
        assert max(new) == side and min(new) >= 1
        assert new[0 if height >= width else 1] == side
        exact = Fraction(min(height, width) * side, max(height, width))
        assert abs(min(new) - exact) <= Fraction(1, 2) or min(new) == 1
        assert images.fit(width, height, side) == new[::-1]
        assert images.fit(height, width, max(height, width)) == (height, width)
    assert images.fit(1, 5000, 100) == (1, 100)
    for bad in ((0, 5, 5), (5, 0, 5), (5, 5, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            images.fit(*bad)


def cubic_weights(size, new):
    """Rows of Keys' cubic (a = -1/2), widened when shrinking, normalised at the borders."""
    scale = size / new
    reach = max(scale, 1)
    weights = np.zeros((new, size))
    for i, j in itertools.product(range(new), range(size)):
        x = abs((i + 0.5) * scale - 0.5 - j) / reach
        if x < 1:
            weights[i, j] = 1.5 * x**3 - 2.5 * x**2 + 1
        elif x < 2:
            weights[i, j] = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return weights / weights.sum(1, keepdims=True)


resize = jax.jit(images.resize, static_argnums=(1, 2))


@pytest.mark.parametrize("new", [(5, 8), (23, 31), (29, 4), (1, 1)])
def test_resize_against_plain_sums(rng, new):
    image = rng.random((13, 17, 3), np.float32)
    rows, columns = cubic_weights(13, new[0]), cubic_weights(17, new[1])
    want = np.clip(np.einsum("ih,jw,hwc->ijc", rows, columns, image), 0, 1)
    np.testing.assert_allclose(resize(image, *new), want, atol=2e-6)


def test_resize_of_constants_edges_and_means(rng):
    constant = np.full((9, 15), 0.3, np.float32)
    np.testing.assert_allclose(images.resize(constant, 4, 22), np.full((4, 22), 0.3), atol=1e-6)
    edge = np.zeros((8, 8, 3), np.float32)
    edge[:, 4:] = 1
    large = resize(edge, 31, 31)
    assert large.min() == 0 and large.max() == 1
    noise = rng.random((64, 64, 3), np.float32)
    assert abs(resize(noise, 16, 16).mean() - noise.mean()) < 0.005


def test_resize_keeps_dtype_and_the_image_of_that_size(rng):
    image = 2 * rng.random((6, 9, 3), np.float32) - 0.5
    np.testing.assert_array_equal(images.resize(image, 6, 9), image)
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
        assert resize(image.astype(dtype), 3, 5).dtype == dtype


def test_resize_under_transformations(rng):
    batch = rng.random((2, 6, 9, 3), np.float32)
    got = jax.jit(jax.vmap(lambda image: images.resize(image, 4, 7)))(batch)
    want = np.stack([resize(image, 4, 7) for image in batch])
    np.testing.assert_allclose(got, want, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda image: (images.resize(image, 4, 7) ** 2).sum()))
    for image in (*batch, np.zeros_like(batch[0]), np.ones_like(batch[0])):
        assert np.isfinite(gradient(image)).all()


@pytest.mark.parametrize("new", [(18, 16), (6, 24), (7, 11), (2, 3), (1, 1), (12, 8)])
def test_resize_circular_is_the_middle_of_a_resized_pattern(rng, new):
    tile = rng.random((12, 8, 3), np.float32)
    # Five copies each way reach further than the kernel does, from the one in the middle.
    rows, columns = cubic_weights(60, 5 * new[0]), cubic_weights(40, 5 * new[1])
    plane = np.clip(np.einsum("ih,jw,hwc->ijc", rows, columns, np.tile(tile, (5, 5, 1))), 0, 1)
    want = plane[2 * new[0] : 3 * new[0], 2 * new[1] : 3 * new[1]]
    found = images.resize_circular(tile, *new)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, want, atol=2e-6)
    grey = images.resize_circular(tile[..., 0], *new)
    np.testing.assert_allclose(grey, want[..., 0], atol=2e-6)


@pytest.mark.parametrize("resize", [images.resize, images.resize_circular])
@pytest.mark.parametrize(
    "image, size",
    [
        (np.zeros((4, 4, 3), np.uint8), (2, 2)),
        (np.zeros((1, 4, 4, 3), np.float32), (2, 2)),
        (np.zeros((4, 4, 3), np.float32), (0, 2)),
        (np.zeros((0, 4, 3), np.float32), (2, 2)),
    ],
)
def test_resize_refuses(resize, image, size):
    with pytest.raises(ValueError, match=r"must be floats|at least 1 pixel"):
        resize(image, *size)


# What is known before anything is decoded


@pytest.mark.parametrize("suffix", sorted(images._ENCODERS))
def test_size_and_metadata_are_read_without_decoding(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"picture{suffix}"
    texts = {"stylejax": json.dumps({"seed": 1, "name": "f\u00fc\u00dfe"})}
    images.save(path, np.full((20, 30, 3), 0.5), metadata=texts)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    assert images.size(path) == (20, 30)
    assert images.metadata(path) == texts


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_size_is_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert images.size(tmp_path / "a.jpg") == images.load(tmp_path / "a.jpg").image.shape[:2]


def test_no_metadata_and_no_image(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "plain.png")
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "A day at the sea"
    Image.new("RGB", (3, 2)).save(tmp_path / "other.jpg", exif=exif)
    assert images.metadata(tmp_path / "plain.png") == images.metadata(tmp_path / "other.jpg") == {}
    (tmp_path / "text.jpg").write_text("no image")
    for read in (images.size, images.metadata):
        with pytest.raises(ValueError, match="no image that can be read"):
            read(tmp_path / "text.jpg")
        with pytest.raises(FileNotFoundError, match="check the path"):
            read(tmp_path / "none.jpg")
