"""Which photo goes with which painting, and what their picture is called."""

import itertools
from pathlib import Path

import pytest

from stylejax import pairing


def names(found, suffix=".png"):
    found = [(Path(photo), Path(style)) for photo, style in found]
    return [pair.output.name for pair in pairing.named(found, Path("out"), suffix)]


def test_names():
    assert names([("x/a.jpg", "s.png"), ("x/b.jpg", "s.png")], ".jpg") == ["a--s.jpg", "b--s.jpg"]
    assert names([("a.b.jpg", "s.png")]) == ["a.b--s.png"]
    assert names([("a.jpg", "s.png"), ("a.png", "s.png"), ("a.jpg", "t.png")]) == [
        "a_jpg--s.png",
        "a_png--s.png",
        "a_jpg--t.png",
    ]
    same = [("one/a.jpg", "s.png"), ("two/a.jpg", "s.png"), ("three/a.jpg", "s.png")]
    assert names(same) == ["a_jpg--s.png", "a_jpg--s-2.png", "a_jpg--s-3.png"]
    # On a disk to which upper and lower case are the same.
    assert names([("A.jpg", "s.png"), ("a.png", "s.png")]) == ["A_jpg--s.png", "a_png--s.png"]
    assert names([("a--b.png", "c.png"), ("a.png", "b--c.png")]) == ["a--b--c.png", "a--b--c-2.png"]


def test_no_two_pictures_have_one_name():
    words = ("a", "A", "a_png", "a.png", "a--a", "a-2")
    files = [f"{f}/{w}{s}" for f in ("x", "y") for w in words for s in (".png", ".jpg")]
    found = names(itertools.product(files, files))
    assert len({name.casefold() for name in found}) == len(files) ** 2


def test_files_of_a_folder(tmp_path):
    wanted = ["B.JPG", "a.png", "c.webp"]
    for name in (*wanted, "notes.txt", ".hidden.png", ".stylejax-1.part", "batch.csv"):
        (tmp_path / name).touch()
    (tmp_path / "inner.png").mkdir()
    (tmp_path / "inner.png" / "d.png").touch()
    assert [path.name for path in pairing.files(tmp_path, what="PHOTOS")] == wanted
    assert pairing.files(tmp_path / "notes.txt", what="PHOTOS") == [tmp_path / "notes.txt"]
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"STYLES .*none.: no picture lies in this folder"):
        pairing.files(tmp_path / "none", what="STYLES")
    with pytest.raises(FileNotFoundError, match=r"PHOTOS .*gone.: there is no such"):
        pairing.files(tmp_path / "gone", what="PHOTOS")


def test_a_table(tmp_path):
    table = tmp_path / "pairs.csv"
    lines = ["note, Style ,PHOTO", "x,s.png,a.jpg", ',"sub/t, u.png",/root.jpg', "y,s.png,a.jpg"]
    table.write_text("\n".join(lines), encoding="utf-8-sig")
    assert pairing.table(table) == [
        (tmp_path / "a.jpg", tmp_path / "s.png"),
        (Path("/root.jpg"), tmp_path / "sub/t, u.png"),
    ]
    assert pairing.product([Path("a"), Path("b")], [Path("s")]) == [
        (Path("a"), Path("s")),
        (Path("b"), Path("s")),
    ]
    table.write_text("photo,style\na.png\n")
    with pytest.raises(ValueError, match="line 2 names no photo or no style"):
        pairing.table(table)
