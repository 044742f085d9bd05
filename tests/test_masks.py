"""Masks from files: brightness, transparency, what is left, and colours of painted maps."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from stylejax import images, masks
from stylejax.masks import Photo, by_colour, by_file, palette, split

RED, GREEN, BLUE = (255, 0, 0), (0, 128, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def grey(name, values, alpha=None):
    values = np.asarray(values, float)
    images.save(name, np.repeat(values[:, :, None], 3, axis=2), alpha=alpha)


def coloured(name, rows):
    images.save(name, np.array(rows) / 255)


PHOTO = Photo(size=(2, 4), file_size=(2, 4), alpha=np.full((2, 4), 0.25, np.float32))
LEFT = [[1, 1, 0, 0], [1, 0.6, 0, 0]]


def test_brightness_or_transparency():
    grey("a.png", LEFT)
    assert_allclose(masks.read("a.png"), LEFT, atol=1 / 500)
    grey("b.png", np.zeros((2, 4)), alpha=np.array(LEFT))
    assert_allclose(masks.read("b.png"), LEFT, atol=1 / 500)


def test_a_mask_for_each_painting():
    grey("left.png", LEFT)
    found = by_file(["left.png", "rest"], [], None, PHOTO, [(5, 5), (6, 6)])
    assert_allclose(found.guides.regions[:, :, 0], LEFT, atol=1 / 500)
    assert_allclose(found.guides.regions[:, :, 1], 1 - np.array(LEFT), atol=1 / 500)
    assert found.guides.styles is None and found.guides.content is None
    assert found.shares is None and not found.notes and [*map(str, found.files)] == ["left.png"]
    assert found.names["regions"] == ["--mask left.png", "--mask rest"]


def test_alpha_and_the_rest_of_it():
    found = by_file(["rest", "alpha"], [], None, PHOTO, [(5, 5), (6, 6)])
    assert_allclose(found.guides.regions[:, :, 0], 0.75, atol=1e-6)
    assert_allclose(found.guides.regions[:, :, 1], 0.25, atol=1e-6)
    with pytest.raises(ValueError, match=r"--mask alpha: the photo has no transparency"):
        by_file(["alpha"], [], None, PHOTO._replace(alpha=None), [(5, 5)])


def test_parts_of_paintings_and_of_the_photo():
    grey("left.png", LEFT)
    grey("part.png", np.eye(3))
    found = by_file([], ["all", "part.png"], "left.png", PHOTO, [(5, 5), (3, 3)])
    assert found.guides.regions is None and found.guides.styles[0] is None
    assert_array_equal(found.guides.styles[1], np.eye(3, dtype=np.float32)[:, :, None])
    assert_allclose(found.guides.content, LEFT, atol=1 / 500)


def test_another_size_is_resized_with_a_note():
    grey("large.png", np.kron(LEFT, np.ones((8, 8))))
    found = by_file(["large.png"], [], None, PHOTO, [(5, 5)])
    assert found.guides.regions.shape == (2, 4, 1)
    assert found.guides.regions[0, 0, 0] > 0.95 and found.guides.regions[0, 3, 0] < 0.05
    assert found.notes == ["note: --mask large.png is 32x16, the photo 4x2; it is resized"]


def test_colours_are_regions():
    coloured("map.png", [[RED, RED, RED, BLUE], [RED, RED, BLUE, BLUE]])
    coloured("first.png", [[BLUE, BLUE], [RED, GREEN]])
    coloured("second.png", [[RED, RED], [RED, RED]])
    found = by_colour("map.png", ["first.png", "second.png"], PHOTO, [(2, 2), (2, 2)])
    red = [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert_array_equal(found.guides.regions, np.stack([red, 1 - np.array(red)], axis=2))
    first, second = found.guides.styles
    # Green is none of the map's colours, so that part belongs to no region.
    assert_array_equal(first, np.stack([[[0, 0], [1, 0]], [[1, 1], [0, 0]]], axis=2))
    assert_array_equal(second[:, :, 0], np.ones((2, 2)))
    # Red is in both paintings, blue in the first only.
    assert found.shares == ((1, 1), (1, 0))
    assert found.names["regions"][1] == "the colour #0000ff of --labels map.png"


def test_sizes_that_do_not_divide_add_up_to_one():
    """However sharp the borders: a kernel that overshoots would make regions overlap."""
    rows = [[RED, GREEN, RED, BLUE, BLUE, GREEN, RED], [BLUE, RED, GREEN, RED, BLUE, RED, RED]]
    coloured("map.png", np.kron(rows, np.ones((3, 3, 1))))
    photo = PHOTO._replace(size=(5, 16))
    found = by_colour("map.png", ["map.png"], photo, [(6, 21)])
    assert_allclose(found.guides.regions.sum(axis=2), 1, atol=1e-6)
    assert found.guides.regions.min() >= 0


def test_edges_that_a_drawing_program_softened():
    picture = np.full((100, 100, 3), RED, np.uint8)
    picture[:, 60:] = BLUE
    picture[::4, 60] = (127, 0, 127)
    picture[1::4, 60] = (100, 0, 155)
    colours = palette(picture, "map")
    assert colours.tolist() == [list(RED), list(BLUE)]
    found = split(picture, colours)
    assert_array_equal(found.sum(axis=2), np.ones((100, 100)))
    assert_array_equal(found[:, 59, 0], np.ones(100))
    assert_array_equal(found[1::4, 60, 1], np.ones(25))


def test_what_cannot_be_meant(rng):
    grey("left.png", LEFT)
    sizes = [(5, 5), (6, 6)]
    with pytest.raises(ValueError, match=r"--mask is given 1 times for 2 paintings"):
        by_file(["left.png"], [], None, PHOTO, sizes)
    with pytest.raises(ValueError, match=r"--style-mask is given 3 times for 2 paintings"):
        by_file([], ["all"] * 3, None, PHOTO, sizes)
    with pytest.raises(ValueError, match=r"rest is given twice"):
        by_file(["rest", "rest"], [], None, PHOTO, sizes)
    coloured("map.png", [[RED, RED, BLUE, BLUE]])
    coloured("red.png", [[RED, RED]])
    with pytest.raises(ValueError, match=r"--style-labels once for each of 2 paintings"):
        by_colour("map.png", ["red.png"], PHOTO, sizes)
    with pytest.raises(ValueError, match=r"the colour #0000ff of --labels map.png is in no"):
        by_colour("map.png", ["red.png"], PHOTO, sizes[:1])
    with pytest.raises(ValueError, match=r"red.png has one colour, #ff0000"):
        by_colour("red.png", ["red.png"], PHOTO, sizes[:1])
    images.save("photo.png", rng.random((20, 20, 3)))
    with pytest.raises(ValueError, match=r"photo.png has 400 colours.*PNG"):
        by_colour("photo.png", ["red.png"], PHOTO, sizes[:1])
    with pytest.raises(FileNotFoundError, match=r"nowhere.png"):
        by_file(["nowhere.png"], [], None, PHOTO, sizes[:1])
