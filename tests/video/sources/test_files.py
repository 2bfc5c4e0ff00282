"""Video files and folders: the right pictures in the right order, and clear errors."""

from __future__ import annotations

import itertools

import av
import numpy as np
import pytest

from cutset.errors import SourceError
from cutset.video.sources import open_source
from cutset.video.sources.libav import to_rgb
from video.sources.clips import pictures, write_clip, write_png

SIZE = (48, 64)


def plain_decode(path, size=SIZE):
    """What FFmpeg gives in one go, with all its threads and without groups."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        return [to_rgb(frame, size) for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.avi", "clip.h264"])
def test_every_picture_in_order(tmp_path, name):
    path = write_clip(tmp_path / name, pictures(20), options={"bf": "3"} if name != "clip.avi" else {"bf": "0"})
    with open_source(str(path)) as source:
        shown = list(source)
    assert source.size == SIZE
    assert [picture.index for picture in shown] == list(range(20))
    assert all(a.time < b.time for a, b in itertools.pairwise(shown))
    assert shown[0].time == 0
    for picture, expected in zip(shown, plain_decode(path), strict=True):
        assert picture.pixels.flags.c_contiguous
        assert np.array_equal(picture.pixels, expected)
    with open_source(str(path), size=(24, 30)) as source:
        assert next(iter(source)).pixels.shape == (1, 3, 24, 30)


def test_colours_are_right(tmp_path):
    """A lossless video gives the pictures that went in."""
    shown = pictures(3)
    path = write_clip(tmp_path / "clip.mkv", shown, "ffv1", pixels="bgr0")
    with open_source(str(path)) as source:
        assert source.codec is None
        for picture, expected in zip(source, shown, strict=True):
            assert picture.packets is None
            assert np.array_equal(picture.pixels, expected)


def test_limits_and_going_on(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", pictures(9))
    with open_source(str(path), limit=4) as source:
        assert [p.index for p in itertools.islice(source, 3)] == [0, 1, 2]
        assert [p.index for p in source] == [3]
        assert list(source) == []
    with open_source(str(path)) as source:
        assert len(list(itertools.islice(source, 2))) == 2
        assert [p.index for p in source] == [2, 3, 4, 5, 6, 7, 8]


def test_what_can_not_be_read_is_said(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 99)
    with pytest.raises(SourceError, match="no file or folder"):
        open_source(str(tmp_path / "missing.mp4"))
    for name in ("empty.mp4", "text.mp4"):
        with pytest.raises(SourceError, match=f"can't open .*{name}: "):
            open_source(str(tmp_path / name))
    whole = write_clip(tmp_path / "whole.mp4", pictures(12)).read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"half\.mp4"):
        open_source(str(tmp_path / "half.mp4"))
    for text in ("http://localhost/x.mp4", "concat:a|b", "lavfi:testsrc", ""):
        with pytest.raises(SourceError):
            open_source(text)


def test_sound_alone_has_no_pictures(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(SourceError, match="no video stream"):
        open_source(str(tmp_path / "sound.mp4"))


def test_a_list_of_files_opens_nothing(tmp_path):
    write_clip(tmp_path / "clip.ts", pictures(9))
    for name, text in (
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.ts\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "ffconcat version 1.0\nfile clip.ts\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(SourceError, match="can't open"):
            open_source(str(tmp_path / name))


def test_another_size_in_the_middle_is_named(tmp_path):
    first = write_clip(tmp_path / "a.h264", pictures(5), options={"bf": "0"}).read_bytes()
    second = write_clip(tmp_path / "b.h264", pictures(5, (64, 80)), options={"bf": "0"}).read_bytes()
    (tmp_path / "both.h264").write_bytes(first + second)
    with (
        open_source(str(tmp_path / "both.h264")) as source,
        pytest.raises(SourceError, match=r"both\.h264, picture 5: 64x80 after ones of 48x64"),
    ):
        list(source)


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    shown = pictures(12)
    for i, picture in enumerate(shown):
        write_png(tmp_path / f"shot{i}.png", picture)
    (tmp_path / "notes.txt").write_text("not a picture")
    with open_source(str(tmp_path)) as source:
        found = list(source)
    assert source.size == SIZE
    assert len(found) == 12
    assert all(np.array_equal(a.pixels, b) for a, b in zip(found, shown, strict=True))
    assert found[11].index == 11


def test_a_folder_with_something_wrong(tmp_path):
    with pytest.raises(SourceError, match="no pictures"):
        open_source(str(tmp_path))
    write_png(tmp_path / "1.png", pictures(1)[0])
    write_png(tmp_path / "2.jpg", pictures(1, (30, 40))[0], "mjpeg", "yuvj420p")
    with open_source(str(tmp_path)) as source, pytest.raises(SourceError, match=r"2\.jpg, picture 1: 30x40 after"):
        list(source)
    (tmp_path / "2.jpg").write_bytes(b"no picture")
    with open_source(str(tmp_path)) as source, pytest.raises(SourceError, match=r"2\.jpg"):
        list(source)
