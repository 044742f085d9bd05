"""Contact sheets: every picture is where it belongs, whole, and no label covers one."""

import numpy as np
import pytest

from stylejax.sheet import GAP, sheet, side_by_side


def plain(height, width, value):
    """Of a colour, because the edges of letters have every grey."""
    return np.full((height, width, 3), (value, value, 0.2), np.float32)


def found(paper, value):
    """The rows and columns where the sheet has a picture's own colour, as a box."""
    places = np.argwhere(np.all(np.abs(paper - (value, value, 0.2)) < 1e-6, axis=2))
    (top, left), (bottom, right) = places.min(0), places.max(0)
    assert len(places) == (bottom - top + 1) * (right - left + 1)
    return top, left, bottom + 1, right + 1


# Levels that neither paper nor ink has, exact in eight bits.
LEVELS = np.array([51, 102, 153, 204]) / np.float32(255)


def test_pictures_without_labels():
    a, b, c, d = LEVELS
    paper = sheet([[plain(20, 30, a), plain(20, 30, b)], [plain(10, 16, c), None]])
    assert paper.shape == (2 * (20 + GAP) + GAP, 2 * (30 + GAP) + GAP, 3)
    assert found(paper, a) == (GAP, GAP, GAP + 20, GAP + 30)
    assert found(paper, b) == (GAP, 2 * GAP + 30, GAP + 20, 2 * GAP + 60)
    # A smaller one is in the middle of its place.
    assert found(paper, c) == (2 * GAP + 25, GAP + 7, 2 * GAP + 35, GAP + 23)
    assert not np.any(np.abs(paper[:, :, 0] - d) < 1e-6)


def test_labels_take_no_room_from_pictures():
    a, b, c, d = LEVELS
    pictures = [[plain(40, 60, a), plain(40, 60, b)], [plain(40, 60, c), plain(40, 60, d)]]
    labels = ("style-weight 5", "a very long label of many, many words")
    paper = sheet(pictures, columns=labels, rows=("content relu4_2", "none"), title="both")
    boxes = [found(paper, level) for level in LEVELS]
    assert all(bottom - top == 40 and right - left == 60 for top, left, bottom, right in boxes)
    assert boxes[0][1] == boxes[2][1] and boxes[0][0] == boxes[1][0]
    dark = np.argwhere(paper.max(axis=2) < 0.5)
    top, left = boxes[0][:2]
    outside = (dark[:, 0] < top) | (dark[:, 1] < left)
    ink = dark[outside]
    assert np.any(ink[:, 0] < top) and np.any(ink[:, 1] < left)
    # Nothing is cut off at the edges of the paper.
    assert np.all(paper[0] == 1) and np.all(paper[:, 0] == 1) and np.all(paper[:, -1] == 1)


def test_notes_stand_below_their_pictures():
    a, b, *_ = LEVELS
    pictures = [[plain(40, 60, a), plain(40, 60, b)]]
    bare, paper = sheet(pictures), sheet(pictures, notes=[["", "stalled"]])
    assert paper.shape[1] == bare.shape[1] and paper.shape[0] > bare.shape[0]
    for level in (a, b):
        assert found(paper, level) == found(bare, level)
    _, left, bottom, right = found(paper, b)
    ink = np.argwhere(paper.max(axis=2) < 0.5)
    ink = ink[ink[:, 0] >= bottom]
    assert len(ink) and np.all(ink[:, 1] > left) and np.all(ink[:, 1] < right)
    assert np.all(paper[-1] == 1)


def test_values_outside_are_clipped():
    paper = sheet([[plain(12, 12, 1.5), plain(12, 12, -0.5)]])
    found(paper[:, : GAP + 12], 1)
    found(paper[:, GAP + 12 :], 0)


def test_side_by_side():
    a, b, c, d = LEVELS
    paintings = [plain(120, 60, b), plain(10, 20, c)]
    row = side_by_side(plain(80, 60, a), paintings, plain(40, 30, d))
    below = row[-40 - GAP :]  # the labels, whose letters have every grey
    boxes = [found(below, level) for level in LEVELS]
    assert [(y1 - y0, x1 - x0) for y0, x0, y1, x1 in boxes] == [
        (40, 30),  # the photo at the picture's size
        (40, 20),  # shrunk into the picture's place
        (10, 20),  # never enlarged
        (40, 30),
    ]
    assert [x0 for _, x0, _, _ in boxes] == sorted(x0 for _, x0, _, _ in boxes)
    assert row.shape[1] == 4 * (30 + GAP) + GAP and np.any(row[: -40 - GAP] < 0.5)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="needs one picture"):
        sheet([[None], []])
    with pytest.raises(ValueError, match="3 labels for 1 columns"):
        sheet([[plain(8, 8, 0.5)]], columns=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"notes in rows of \[2\]"):
        sheet([[plain(8, 8, 0.5)]], notes=[["a", "b"]])
