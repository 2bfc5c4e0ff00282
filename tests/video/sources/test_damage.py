"""Packets that can't be decoded: counted, and the rest is what it would be without them."""

from __future__ import annotations

import av
import numpy as np
import pytest

from cutset.errors import SourceError
from cutset.video.sources import PacketDecoder, PacketHistory, Tolerance, open_source
from video.sources.ffmpeg import make, rgb24
from video.sources.test_reading import X264

SIZE = (48, 64)
GROUP = 6
KINDS = {
    "h264": ("a.mp4", (*X264[:4], "-bf", 0)),
    "h264, B-frames": ("a.mp4", X264),
    "h264 in flv": ("a.flv", X264),
    "h264, open groups": ("a.mkv", (*X264, "-x264opts", "open_gop=1:bframes=3:b_adapt=0")),
    "hevc": ("a.mp4", ("-c:v", "libx265", "-x265-params", "log-level=none:keyint=6:min-keyint=6:bframes=2")),
    "av1": ("a.mkv", ("-c:v", "libaom-av1", "-cpu-used", 8, "-g", 6, "-crf", 20)),
    "vp9": ("a.mkv", ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", 8, "-g", 6)),
    "vp8": ("a.mkv", ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", 8, "-g", 6)),
    "mjpeg": ("a.mkv", ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p")),
    "mpeg-4": ("a.avi", ("-c:v", "mpeg4", "-g", 6)),
    "wmv": ("a.mkv", ("-c:v", "wmv2", "-g", 6)),
}


def packets_of(path):
    """Where each packet of a video is in its file, and its bytes; in the order of the file."""
    whole, at, found = path.read_bytes(), 0, []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                data = bytes(packet)
                at = whole.find(data, at)
                assert at >= 0
                found.append((at, len(data), packet.is_keyframe))
                at += len(data)
    return found


def spoil(path, numbers, how="zeros"):
    """Damages packets of a video in their file."""
    data, places = bytearray(path.read_bytes()), packets_of(path)
    for number in numbers:
        at, size, _ = places[number]
        if how == "zeros":
            data[at : at + size] = bytes(size)
        elif how == "ones":
            data[at : at + size] = b"\xff" * size
        else:  # within the pixels
            middle = at + size // 2
            data[middle : middle + size // 4] = b"\xff" * (size // 4)
    spoiled = path.with_name(f"spoiled{path.suffix}")
    spoiled.write_bytes(data)
    return spoiled, places


def read(path, **options):
    """The pictures, whose packets a worker decodes to the same, and what was told."""
    said = []
    with open_source(str(path), log=said.append, **options) as source:
        found = list(source)
    if source.codec is not None:
        decoder, history = PacketDecoder(source.codec), PacketHistory()
        for picture in found:
            history.add(picture)
            pixels = decoder.decode(picture.packets, opens=picture.opens, skipped=picture.skipped)
            assert np.array_equal(pixels, picture.pixels)
            restart = history.restart(picture.index)
            again = PacketDecoder(source.codec).decode(restart.packets, opens=True, skipped=restart.skipped)
            assert np.array_equal(again, picture.pixels)
    return source, found, said


def places_among(found, whole):
    """Which picture of the whole video each one is; all are different there."""
    at = []
    for picture in found:
        equal = [i for i, right in enumerate(whole) if np.array_equal(picture.pixels[0], right)]
        assert len(equal) == 1, "a picture that isn't one of the video"
        at += equal
    assert at == sorted(set(at))
    return at


@pytest.mark.parametrize(
    ("kind", "how"), [(kind, how) for kind in KINDS for how in ("zeros", "ones") if (kind, how) != ("wmv", "ones")]
)
def test_one_bad_packet_costs_its_group(tmp_path, kind, how):
    name, encoding = KINDS[kind]
    path = make(tmp_path / name, *encoding, pictures=24)
    with open_source(str(path)) as clean:
        whole = [picture.pixels[0] for picture in clean]
    spoiled, _ = spoil(path, [9], how)
    source, found, said = read(spoiled)
    at = places_among(found, whole)
    assert set(range(12, 24)) <= set(at), "all from the next key frame on are there"
    assert set(range(6)) <= set(at), "all of the groups before are there"
    assert len(at) < 24
    assert source.faults.bad_packets == 1
    assert len(said) == 1
    assert "a bad packet" in said[0]
    if kind == "h264":
        assert at == [*range(9), *range(12, 24)]
    if kind == "mjpeg":
        assert at == [*range(9), *range(10, 24)]


def test_pictures_that_the_codec_held_back_are_shown(tmp_path):
    """The ninth packet is bad; all whose packets came before it are there, B-frames and what they are between."""
    path = make(tmp_path / "a.mp4", *X264, "-x264opts", "b_adapt=0:bframes=2", pictures=24)
    with open_source(str(path)) as clean:
        whole = [picture.pixels[0] for picture in clean]
    for bad in range(1, 24):
        spoiled, places = spoil(path, [bad])
        _, found, _ = read(spoiled)
        start = max(i for i, (_, _, key) in enumerate(places) if key and i <= bad)
        end = next((i for i, (_, _, key) in enumerate(places) if key and i > bad), 24)
        assert len(found) == 24 - (end - start) + (bad - start)
        places_among(found, whole)


def test_damage_within_pixels_shows_no_wrong_picture(tmp_path):
    """Codecs fill in what is missing, and later pictures are made from that."""
    path = make(tmp_path / "a.mp4", *X264[:4], "-bf", 0, "-qp", 8, pictures=24)
    with open_source(str(path)) as clean:
        whole = [picture.pixels[0] for picture in clean]
    for bad in (6, 7, 9, 14):
        spoiled, _ = spoil(path, [bad], "middle")
        source, found, _ = read(spoiled)
        assert source.faults.bad_packets == 1
        end = -(-(bad + 1) // GROUP) * GROUP
        assert places_among(found, whole) == [i for i in range(24) if i < bad or i >= end]


def test_the_first_packet_may_be_bad(tmp_path):
    path = make(tmp_path / "a.mp4", *X264, pictures=24)
    with open_source(str(path)) as clean:
        whole = [picture.pixels[0] for picture in clean]
    source, found, _ = read(spoil(path, [0])[0])
    assert places_among(found, whole) == list(range(6, 24))
    assert (source.size, source.faults.bad_packets) == (SIZE, 1)
    assert found[0].opens


def test_too_many_bad_packets_end_it(tmp_path):
    path = make(tmp_path / "a.mkv", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", pictures=60)
    spoiled, _ = spoil(path, range(20, 60))
    with open_source(str(spoiled)) as source, pytest.raises(SourceError, match="after 20 pictures: 26 bad packets one"):
        list(source)
    source, found, said = read(spoiled, tolerance=Tolerance(bad_packets=99))
    assert len(found) == 20
    assert source.faults.bad_packets == 40
    assert len(said) == 6  # 1, 2, 4, 8, 16, 32
    with (
        open_source(str(spoiled), tolerance=Tolerance(bad_packets=0)) as strict,
        pytest.raises(SourceError, match="after 20 pictures"),
    ):
        list(strict)
    alternate, _ = spoil(path, range(1, 60, 2))
    source, found, _ = read(alternate)  # never so many without a picture between them
    assert source.faults.bad_packets == 30
    assert len(found) == 30


def test_damage_up_to_the_end_is_no_normal_end(tmp_path):
    """Key frames whose bytes are gone aren't known as such."""
    path = make(tmp_path / "a.mp4", *X264, "-g", 2, pictures=60)
    with (
        open_source(str(spoil(path, range(20, 60))[0])) as source,
        pytest.raises(SourceError, match=r"after 20 pictures: a bad packet .* and no key frame in the 39 after it"),
    ):
        list(source)
    source, found, _ = read(spoil(path, [59])[0])
    assert len(found) == 59
    path = make(tmp_path / "b.mp4", *X264, "-g", 50, pictures=100)
    source, found, _ = read(spoil(path, [55])[0])  # a whole group may be gone
    assert source.faults.line() == "1 bad packet, 44 more skipped"
    nothing, _ = spoil(make(tmp_path / "c.mp4", *X264, pictures=8), range(8))
    with pytest.raises(SourceError, match="has no pictures: "):
        open_source(str(nothing))


def test_a_damaged_ts_goes_on(tmp_path):
    """Bytes of the container itself are gone."""
    path = make(tmp_path / "a.ts", *X264, pictures=36)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    del data[middle : middle + 500]
    spoiled = tmp_path / "spoiled.ts"
    spoiled.write_bytes(data)
    whole = rgb24(path, SIZE)
    _, found, _ = read(spoiled)
    right = {i for picture in found for i in range(36) if np.array_equal(picture.pixels[0], whole[i])}
    assert right >= {*range(12), *range(24, 36)}


def test_a_limit_that_can_not_be(tmp_path):
    for wrong in ({"bad_packets": -1}, {"timeout": 0.0}, {"patience": -1.0}, {"pause": float("nan")}):
        with pytest.raises(SourceError, match="source"):
            Tolerance(**wrong)
