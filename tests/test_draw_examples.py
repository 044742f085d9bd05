"""The drawn examples: seeded, of the right size, and present in the repository."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SMALL_PHOTO, SMALL_PAINTING, STROKES = (96, 64), (96, 76), 300


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("draw_examples")


def test_photo_is_deterministic_and_a_landscape(draw: ModuleType) -> None:
    first, second = (np.asarray(draw.draw_photo(SMALL_PHOTO)) for _ in range(2))
    assert first.shape == (64, 96, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    assert first.min() < 40 and first.max() > 215
    red, _, blue = first.astype(float).mean(axis=1).T
    assert blue[:5].mean() > red[:5].mean()  # night falls from above ...
    assert red[30:38].mean() > blue[30:38].mean()  # ... on a horizon that is still warm


def test_painting_is_deterministic_and_colourful(draw: ModuleType) -> None:
    first, second = (np.asarray(draw.draw_painting(SMALL_PAINTING, STROKES)) for _ in range(2))
    assert first.shape == (76, 96, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)
    assert first.min() < 40 and first.max() > 215
    sky, field = first[:30].mean((0, 1)), first[55:].mean((0, 1))
    assert sky[2] > sky[0] and field[0] > field[2]


def test_strokes_change_the_sketch(draw: ModuleType) -> None:
    few, many = (np.asarray(draw.draw_painting(SMALL_PAINTING, n), float) for n in (0, STROKES))
    assert np.abs(few - many).mean() > 3


def test_noise_and_steps(draw: ModuleType) -> None:
    drawing = sys.modules["drawing"]
    x, y = drawing.grid((64, 48))
    assert x.shape == y.shape == (48, 64)
    noise = drawing.fbm(x * 9, y * 9, 4, 1)
    assert noise.dtype == np.float32 and np.abs(noise).max() < 2 and noise.std() > 0.1
    np.testing.assert_array_equal(noise, drawing.fbm(x * 9, y * 9, 4, 1))
    assert np.abs(noise - drawing.fbm(x * 9, y * 9, 4, 2)).mean() > 0.1
    np.testing.assert_allclose(drawing.step(2, 4, [1, 2, 3, 4, 5]), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(drawing.step(4, 2, [1, 3, 5]), [1, 0.5, 0])
    np.testing.assert_allclose(
        drawing.ramp([0, 0.5, 1], "000000 ff0000"), np.eye(3)[:1] * [[0], [0.5], [1]]
    )


def test_command_writes_both_pictures(
    draw: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(draw, "draw_photo", lambda: Image.new("RGB", SMALL_PHOTO))
    monkeypatch.setattr(draw, "draw_painting", lambda: Image.new("RGB", SMALL_PAINTING))
    assert draw.main([str(tmp_path / "new")]) == 0
    for name, size in (("photo.jpg", SMALL_PHOTO), ("painting.jpg", SMALL_PAINTING)):
        with Image.open(tmp_path / "new" / name) as image:
            assert image.size == size and image.format == "JPEG"


@pytest.mark.parametrize(("name", "size"), [("photo", (768, 512)), ("painting", (768, 608))])
def test_committed_examples(name: str, size: tuple[int, int]) -> None:
    path = ROOT / "examples" / f"{name}.jpg"
    assert 50_000 < path.stat().st_size < 250_000
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", size)
        assert np.asarray(image).std() > 40
