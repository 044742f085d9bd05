"""Moving pictures: every frame is there, in its place, as long as it should be, in its colours."""

import numpy as np
import pytest
from PIL import Image

from stylejax import animation, images

pytestmark = pytest.mark.usefixtures("quick_compilation")


def plain(height, width, colour):
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 250, 250), (200, 120, 40), (30, 90, 160)]


def gif(path):
    """The frames as arrays with their times in seconds, and how often they are shown."""
    with Image.open(path) as file:
        frames, times = [], []
        for number in range(file.n_frames):
            file.seek(number)
            frames.append(np.asarray(file.convert("RGB")))
            times.append(file.info["duration"] / 1000)
        return frames, times, file.info["loop"]


def smooth(height, width, shift):
    """A picture with gradients, which few colours would turn into bands."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.stack([x, 0.3 + 0.4 * y, 0.5 + 0.4 * np.sin(x + y + shift)], axis=2)


def test_a_gif_has_every_frame_and_runs_for_ever(tmp_path):
    path = tmp_path / "run.gif"
    animation.save(path, [plain(20, 30, colour) for colour in COLOURS], seconds=0.06, hold=1.5)
    frames, times, loop = gif(path)
    assert loop == 0 and times == [0.06] * 5 + [1.5]
    for frame, colour in zip(frames, COLOURS, strict=True):
        assert frame.shape == (20, 30, 3)
        np.testing.assert_allclose(frame, plain(20, 30, colour), atol=1)


def test_frames_that_are_the_same_keep_their_time(tmp_path):
    path = tmp_path / "run.gif"
    animation.save(path, [plain(8, 8, COLOURS[0])] * 3 + [plain(8, 8, COLOURS[1])] * 2, hold=1)
    _, times, _ = gif(path)
    assert sum(times) == pytest.approx(4 * animation.SECONDS + 1)


def test_small_frames_are_enlarged_to_the_last(tmp_path):
    path = tmp_path / "run.gif"
    animation.save(path, (smooth(*size, 0) for size in ((12, 16), (17, 23), (24, 32))))
    frames, _, _ = gif(path)
    # Each as `images.resize` makes it, but for 256 colours.
    for frame, size in zip(frames, ((12, 16), (17, 23), (24, 32)), strict=True):
        wanted = np.asarray(images.resize(np.float32(smooth(*size, 0)), 24, 32)) * 255
        assert np.sqrt(np.mean((frame - wanted) ** 2)) < 4


def test_a_gif_keeps_colours_and_still_places_still(tmp_path):
    path = tmp_path / "run.gif"
    true = [np.rint(255 * smooth(64, 96, shift)) for shift in (0, 0.02, 0.04, 2)]
    true[2][:, :48] = true[1][:, :48]  # the left half stands still
    animation.save(path, [frame.astype(np.uint8) for frame in true])
    frames = gif(path)[0]
    for frame, wanted in zip(frames, true, strict=True):
        # The first frame's palette would be 34 off on the last.
        assert np.sqrt(np.mean((frame - wanted) ** 2)) < 3.5
    # A palette for each frame would move it by 12.
    np.testing.assert_array_equal(frames[2][:, :48], frames[1][:, :48])


def decoded(path):
    av = pytest.importorskip("av")
    with av.open(str(path)) as file:
        (stream,) = file.streams.video
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
        coded = stream.codec_context
        how = (coded.name, coded.pix_fmt, coded.colorspace, coded.color_range)
        return frames, float(stream.average_rate), how


def test_an_mp4_has_every_frame_in_its_colours(tmp_path):
    pytest.importorskip("av")
    path = tmp_path / "run.mp4"
    animation.save(path, [plain(33, 47, c) for c in COLOURS], seconds=0.08, hold=0.4)
    frames, rate, coded = decoded(path)
    assert coded == ("h264", "yuv420p", 1, 1)
    assert rate == 12.5
    assert len(frames) == 5 + 5  # the last one five times
    for frame, colour in zip(frames, [*COLOURS, *COLOURS[-1:] * 4], strict=True):
        assert frame.shape == (34, 48, 3)  # even sides
        np.testing.assert_allclose(frame.mean((0, 1)), colour, atol=2.5)


def test_an_odd_side_gets_its_last_line_twice(tmp_path):
    pytest.importorskip("av")
    path = tmp_path / "run.mp4"
    grey = np.tile(np.linspace(0, 1, 31)[:, None, None], (1, 31, 3))
    animation.save(path, [grey], hold=0.1)
    frame = decoded(path)[0][0].astype(float).mean((1, 2))
    assert len(frame) == 32
    np.testing.assert_allclose(frame[:31] / 255, np.linspace(0, 1, 31), atol=0.03)
    assert abs(frame[31] - frame[30]) < 4


# What cannot be


def test_without_pyav_a_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(animation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"run.mp4 needs PyAV: pip install av; or"):
        animation.save(tmp_path / "run.mp4", [plain(8, 8, COLOURS[0])])
    animation.check(tmp_path / "run.gif")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("frames", "settings", "message"),
    [
        ([], {}, "one frame at least"),
        ([np.zeros((8, 8))], {}, "image must be floats"),
        ([np.full((8, 8, 3), np.nan)], {}, "NaN"),
        ([np.zeros((8, 8, 3))], {"seconds": 0}, "0.02 or more"),
    ],
)
def test_wrong_frames_write_nothing(tmp_path, frames, settings, message):
    with pytest.raises(ValueError, match=message):
        animation.save(tmp_path / "run.gif", frames, **settings)
    assert not any(tmp_path.iterdir())


def test_wrong_paths(tmp_path):
    with pytest.raises(ValueError, match=r"ends in '.avi'; use one of .gif, .mp4"):
        animation.check(tmp_path / "run.avi")
    with pytest.raises(FileNotFoundError, match="no folder"):
        animation.check(tmp_path / "nowhere" / "run.gif")


@pytest.mark.parametrize("suffix", animation.SUFFIXES)
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    pytest.importorskip("av")
    path = tmp_path / f"run{suffix}"
    path.write_bytes(b"precious")

    def broken(frames):
        yield frames[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(animation, "_enlarged", broken)
    with pytest.raises(KeyboardInterrupt):
        animation.save(path, [plain(16, 16, COLOURS[0])] * 2)
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
