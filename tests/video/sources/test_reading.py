"""What is read is what FFmpeg reads: the same pictures, to the bit, in the same order and number."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cutset.errors import SourceError
from cutset.video.sources import PacketDecoder, PacketHistory, open_source
from video.sources.clips import pictures, write_png
from video.sources.ffmpeg import ffmpeg, make, rgb24

SIZE = (48, 64)
X264 = ("-c:v", "libx264", "-g", 6, "-bf", 3, "-preset", "veryfast")
AV1 = ("-c:v", "libaom-av1", "-cpu-used", 8, "-g", 6)


def play(path, size=None):
    """All pictures, each checked against a worker's decoder, and against a new one that begins there."""
    with open_source(str(path), size=size) as source:
        found = list(source)
    if source.codec is not None:
        decoder, history = PacketDecoder(source.codec), PacketHistory()
        for picture in found:
            if picture.packets is None:
                continue
            history.add(picture)
            pixels = decoder.decode(picture.packets, opens=picture.opens, skipped=picture.skipped)
            assert np.array_equal(pixels, picture.pixels)
            restart = history.restart(picture.index)
            again = PacketDecoder(source.codec).decode(restart.packets, opens=True, skipped=restart.skipped)
            assert np.array_equal(again, picture.pixels)
    assert [picture.index for picture in found] == list(range(len(found)))
    assert all(a.time < b.time for a, b in itertools.pairwise(found))
    return source, found


def same(found, expected):
    assert len(found) == len(expected)
    for picture, right in zip(found, expected, strict=True):
        assert np.array_equal(picture.pixels[0], right)


KINDS = {
    "av1 in mp4": ("a.mp4", AV1, SIZE),
    "av1 in webm": ("a.webm", AV1, SIZE),
    "av1 in mkv": ("a.mkv", AV1, SIZE),
    "av1 of another encoder": ("a.mp4", ("-c:v", "libsvtav1", "-g", 6), (64, 96)),
    "h264, interlaced": ("a.mp4", (*X264, "-flags", "+ildct+ilme", "-x264opts", "tff=1"), SIZE),
    "h264, ten bits": ("a.mkv", (*X264, "-pix_fmt", "yuv420p10le"), SIZE),
    "h264, 4:4:4": ("a.mkv", (*X264, "-pix_fmt", "yuv444p"), SIZE),
    "h264, gray": ("a.mkv", (*X264, "-pix_fmt", "gray"), SIZE),
    "h264, full range": ("a.mkv", (*X264, "-pix_fmt", "yuvj420p"), SIZE),
    "h264, BT.709": ("a.mp4", (*X264, "-colorspace", "bt709", "-color_range", "tv"), SIZE),
    "h264 in flv": ("a.flv", (*X264,), SIZE),
    "h264, times of its own": ("a.mkv", (*X264, "-vf", "setpts='N*N*0.02/TB'", "-vsync", "vfr"), SIZE),
    "h264, below 0": ("a.mp4", (*X264, "-output_ts_offset", -1, "-avoid_negative_ts", "disabled"), SIZE),
    "hevc": ("a.mp4", ("-c:v", "libx265", "-x265-params", "log-level=none:keyint=6:bframes=2"), SIZE),
    "vp9, odd size": ("a.webm", ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-vf", "scale=63:47"), (47, 63)),
    "mjpeg, odd size": ("a.avi", ("-c:v", "mjpeg", "-vf", "scale=63:47", "-pix_fmt", "yuvj420p"), (47, 63)),
    "wmv": ("a.wmv", ("-c:v", "wmv2"), SIZE),
    "wmv, older": ("a.asf", ("-c:v", "wmv1"), SIZE),
    "apng": ("a.apng", (), SIZE),
    "apng called png": ("a.png", ("-f", "apng"), SIZE),
    "apng, transparent": ("a.apng", ("-pix_fmt", "rgba"), SIZE),
    "gif": ("a.gif", (), SIZE),
    "mpeg-4": ("a.avi", ("-c:v", "mpeg4", "-g", 6, "-bf", 2), SIZE),
    "mpeg-1": ("a.mpg", ("-c:v", "mpeg1video", "-r", 25), SIZE),
    "rgb with alpha": ("a.mkv", ("-c:v", "ffv1", "-pix_fmt", "bgra"), SIZE),
    "rgb, sixteen bits": ("a.mkv", ("-c:v", "ffv1", "-pix_fmt", "rgb48le"), SIZE),
    "raw": ("a.y4m", ("-pix_fmt", "yuv422p"), SIZE),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_those_of_ffmpeg(tmp_path, kind):
    name, encoding, size = KINDS[kind]
    path = make(tmp_path / name, *encoding, size="96x64" if size == (64, 96) else "64x48")
    source, found = play(path)
    assert source.size == size
    assert source.faults.bad_packets == 0
    sited = kind.startswith(("h264", "hevc", "mpeg-4")) and "4:4:4" not in kind
    same(found, rgb24(path, size, sited=sited))
    assert len(found) >= 10


def test_av1_is_forwarded(tmp_path):
    source, found = play(make(tmp_path / "a.mp4", *AV1))
    assert source.codec.name == "av1"
    assert [picture.index for picture in found if picture.opens] == [0, 6, 12, 18]


@pytest.mark.parametrize(("start", "group"), [(1.4, 1000), (1.4, 12), (0.35, 6)])
def test_hidden_pictures_are_not_shown(tmp_path, start, group):
    """An edit list begins in the middle of a group, whose first pictures only the decoder needs."""
    whole = make(tmp_path / "whole.mp4", *X264, "-g", group, pictures=38)
    path = tmp_path / "cut.mp4"
    ffmpeg("-ss", start, "-i", whole, "-c", "copy", path)
    _, found = play(path)
    expected = rgb24(path, SIZE)
    same(found, expected)
    same(found, rgb24(whole, SIZE)[-len(found) :])
    assert found[0].skipped > 0
    if start == 1.4:
        assert len(found) == 24
    assert found[0].time == 0


def tags(path):
    """The header of a Flash video, and its tags with their sizes."""
    data = path.read_bytes()
    at = 9 + 4
    found = []
    while at < len(data):
        size = 11 + int.from_bytes(data[at + 1 : at + 4], "big") + 4
        found.append(data[at : at + size])
        at += size
    return data[:13], found


def later(tag, milliseconds):
    time = int.from_bytes(tag[7:8] + tag[4:7], "big") + milliseconds
    stamp = time.to_bytes(4, "big")
    return tag[:4] + stamp[1:] + stamp[:1] + tag[8:]


@pytest.mark.parametrize("again", [False, True])
def test_new_parameters_in_the_middle(tmp_path, again):
    """As when an encoder is started anew: other parameter sets under the same numbers, and then the first ones."""
    first = make(tmp_path / "first.flv", *X264, "-x264opts", "cabac=1:ref=3", pictures=14)
    second = make(tmp_path / "second.flv", *X264, "-x264opts", "cabac=0:8x8dct=0:ref=1", "-vf", "hue=h=90", pictures=14)
    header, one = tags(first)
    other = [later(tag, 1400) for tag in tags(second)[1] if tag[0] == 9]
    third = [later(tag, 2800) for tag in one if tag[0] == 9]
    path = tmp_path / "both.flv"
    path.write_bytes(header + b"".join(one + other + (third if again else [])))
    source, found = play(path)
    same(found, np.concatenate([rgb24(each, SIZE) for each in [first, second, first][: 3 if again else 2]]))
    assert source.faults.bad_packets == 0


def test_another_size_in_the_middle_is_scaled(tmp_path):
    parts = [make(tmp_path / f"{i}.h264", *X264, size=s, pictures=8) for i, s in enumerate(["64x48", "96x80", "64x48"])]
    path = tmp_path / "all.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_source(str(path)) as source, pytest.raises(SourceError, match="80x96 after ones of 48x64; give a size"):
        list(source)
    _, found = play(path, size=SIZE)
    expected = np.concatenate([rgb24(part, SIZE, to="64:48") for part in parts])
    same(found, expected)
    assert [picture.packets is None for picture in found] == [False] * 8 + [True] * 8 + [False] * 8


def test_a_folder_of_mixed_sizes_is_scaled(tmp_path):
    for i, size in enumerate([(48, 64), (30, 40), (50, 20)]):
        write_png(tmp_path / f"{i}.png", pictures(1, size, seed=i)[0])
    with open_source(str(tmp_path)) as source, pytest.raises(SourceError, match=r"1\.png, picture 1: 30x40 after"):
        list(source)
    with open_source(str(tmp_path), size=(24, 32)) as source:
        found = list(source)
    for i, picture in enumerate(found):
        assert np.array_equal(picture.pixels[0], rgb24(tmp_path / f"{i}.png", (24, 32), to="32:24", sited=False)[0])
    assert source.size == (24, 32)


PICTURES = [
    *(("a.png", pixels) for pixels in ("rgb24", "gray", "rgba", "pal8", "rgb48be", "gray16be")),
    *(("a.bmp", "bgr24"), ("a.jpg", "yuvj420p"), ("a.jpeg", "yuvj444p"), ("A.JPG", "gray"), ("a.webp", "yuv420p")),
]


@pytest.mark.parametrize(("name", "pixels"), PICTURES)
def test_one_picture_is_a_source(tmp_path, name, pixels):
    encoding = ("-pix_fmt", pixels) if pixels != "pal8" else ("-vf", "format=pal8")
    path = make(tmp_path / name, *encoding, pictures=1)
    source, found = play(path)
    same(found, rgb24(path, SIZE, sited=False))
    assert source.size == SIZE


def test_the_picture_of_a_cover_is_no_video(tmp_path):
    cover = make(tmp_path / "cover.jpg", size="100x100", pictures=1)
    video = make(tmp_path / "plain.mp4", *X264)
    sound = ("-f", "lavfi", "-i", "sine=duration=2")
    both, alone = tmp_path / "both.mp4", tmp_path / "alone.m4a"
    maps = ("-map", 0, "-map", 1, "-c", "copy", "-disposition:v:0", "attached_pic")
    ffmpeg("-i", cover, "-i", video, *maps, both)
    ffmpeg("-i", cover, *sound, "-map", 0, "-map", 1, "-c:v", "copy", "-disposition:v:0", "attached_pic", alone)
    source, found = play(both)
    assert source.size == SIZE
    same(found, rgb24(video, SIZE))
    with pytest.raises(SourceError, match="no video stream, only the picture of a cover"):
        open_source(str(alone))


UNREAD = {
    "list.m3u8": (b"#EXTM3U\n#EXTINF:1,\nclip.ts\n", "an HLS playlist, which names other files"),
    "list.txt": (b"\n ffconcat version 1.0\nfile clip.ts\n", "a list of other files"),
    "a.mpd": (b'<?xml version="1.0"?><MPD/>', "DASH"),
    "a.sdp": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\n", "rtsp://"),
    "a.tiff": (b"II*\0\x08\0\0\0", "a TIFF"),
    "a.avif": (b"\0\0\0\x20ftypavif\0\0\0\0", "an AVIF picture"),
    "a.heic": (b"\0\0\0\x20ftypheic\0\0\0\0", "an HEIF picture"),
    "a.wav": (b"RIFF\0\0\0\0WAVEfmt ", "sound"),
    "a.zip": (b"PK\x03\x04", "a ZIP archive"),
    "a.webp": (b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\x02" + bytes(99), "an animated WebP"),
    "empty.mp4": (b"", "empty"),
    "empty.png": (b"", "empty"),
    "text.mp4": (b"not a video at all\n" * 99, "read are MP4, MOV"),
    "text.png": (b"not a picture at all\n" * 99, r"text\.png"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read_is_named(tmp_path, name):
    data, said = UNREAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=said) as caught:
        open_source(str(tmp_path / name))
    assert str(caught.value).count("\n") == 0


def test_pictures_of_other_kinds_are_not_left_out_in_silence(tmp_path):
    write_png(tmp_path / "1.png", pictures(1)[0])
    (tmp_path / "2.tif").touch()
    said = []
    with open_source(str(tmp_path), log=said.append) as source:
        assert len(list(source)) == 1
    assert len(said) == 1
    assert "left out are 1 pictures that end in .tif" in said[0]
