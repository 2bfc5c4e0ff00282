"""Packets that are forwarded make the same bits elsewhere, from the beginning and from the middle."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from conftest import DATA
from cutset.errors import ConfigError, FrameError
from cutset.video.sources import CODECS, PacketDecoder, PacketHistory, VideoCodec, open_source
from video.sources.clips import pictures, write_clip

CLIPS = {
    "h264, B-frames": ("clip.mp4", "libx264", {"bf": "3", "b_strategy": "0"}),
    "h264, start codes": ("clip.ts", "libx264", {"bf": "2", "b_strategy": "0"}),
    "h264, open groups": ("clip.mp4", "libx264", {"bf": "3", "b_strategy": "0", "x264-params": "open-gop=1"}),
    "h264, one group": ("clip.mkv", "libx264", {"bf": "0", "g": "1000"}),
    "h264, every picture a key": ("clip.mkv", "libx264", {"g": "1"}),
    "hevc": ("clip.mkv", "libx265", {"x265-params": "log-level=none:bframes=2:keyint=6:min-keyint=6"}),
    "vp9": ("clip.mkv", "libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}),
    "vp8": ("clip.mkv", "libvpx", {"cpu-used": "8", "deadline": "realtime"}),
    "mjpeg": ("clip.avi", "mjpeg", {}),
}


@pytest.fixture(params=CLIPS, scope="module")
def shown(request, tmp_path_factory):
    """The codec of a clip and its pictures."""
    name, codec, options = CLIPS[request.param]
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_clip(tmp_path_factory.mktemp("clip") / name, pictures(20), codec, options, pixels=pixels)
    with open_source(str(path)) as source:
        return source.codec, list(source)


def test_a_worker_sees_the_same_bits(shown):
    codec, found = shown
    decoder = PacketDecoder(codec)
    for picture in found:
        pixels = decoder.decode(picture.packets, opens=picture.opens)
        assert np.array_equal(pixels, picture.pixels)
    assert len(found) == 20
    assert found[0].opens


def test_a_new_decoder_begins_in_the_middle(shown):
    codec, found = shown
    history = PacketHistory()
    for picture in found:
        history.add(picture)
    for i in range(len(found)):
        restart = history.restart(i)
        assert restart.packets[0]
        decoder = PacketDecoder(codec)
        assert np.array_equal(decoder.decode(restart.packets, opens=True, skipped=restart.skipped), found[i].pixels)
        for later in found[i + 1 : i + 8]:
            assert np.array_equal(decoder.decode(later.packets, opens=later.opens), later.pixels)


def test_groups_begin_where_nothing_older_is_needed(tmp_path):
    def opening(options):
        with open_source(str(write_clip(tmp_path / "clip.mp4", pictures(20), options=options))) as source:
            return [picture.index for picture in source if picture.opens]

    assert opening({"bf": "3", "b_strategy": "0"}) == [0, 6, 12, 18]
    assert opening({"bf": "3", "b_strategy": "0", "x264-params": "open-gop=1"}) == [0]


def test_scaled_pictures_are_the_same_at_a_worker(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", pictures(5))
    with open_source(str(path), size=(20, 36)) as source:
        decoder = PacketDecoder(source.codec)
        for picture in source:
            assert picture.pixels.shape == (1, 3, 20, 36)
            assert np.array_equal(decoder.decode(picture.packets, opens=picture.opens), picture.pixels)


def test_history_forgets_whole_groups_and_has_an_end(tmp_path):
    with open_source(str(write_clip(tmp_path / "clip.mp4", pictures(20)))) as source:
        found = list(source)
    history = PacketHistory()
    for picture in found:
        history.add(picture)
    whole = history.nbytes
    assert whole == sum(len(packet) for picture in found for packet in picture.packets)
    history.forget(11)
    assert history.restart(5) is None
    assert history.restart(6) is not None
    history.forget(12)
    assert history.restart(11) is None
    assert history.restart(12).skipped == 0
    assert history.restart(19).skipped == 1
    assert history.restart(20) is None
    short = PacketHistory(limit=whole // 2)
    for picture in found:
        short.add(picture)
        assert short.nbytes <= whole // 2
    assert short.restart(0) is None
    assert short.restart(19) is not None


def clip(tmp_path, size=(48, 64)):
    path = write_clip(tmp_path / f"clip{size[0]}.h264", pictures(6, size), options={"bf": "0"})
    with open_source(str(path)) as source:
        return source.codec, list(source)


def test_a_larger_picture_is_refused_before_it_is_made(tmp_path):
    codec, found = clip(tmp_path)
    other, large = clip(tmp_path, (480, 640))
    for size in ((480, 640), (64, 48), (48, 62)):
        decoder = PacketDecoder(replace(codec, coded=size, size=size))
        with pytest.raises(FrameError, match=r"agreed on|can't be decoded|don't make"):
            decoder.decode(found[0].packets, opens=True)
    decoder = PacketDecoder(codec)
    with pytest.raises(FrameError):
        decoder.decode((*large[0].packets, b""), opens=True)
    assert other.coded == (480, 640)
    # The decoder is good for another group.
    assert np.array_equal(decoder.decode(found[0].packets, opens=True), found[0].pixels)


def test_damaged_and_missing_packets_are_errors_or_pictures_but_nothing_worse(tmp_path):
    codec, found = clip(tmp_path)
    rng = random.Random(0)
    refused = 0
    for _ in range(60):
        decoder = PacketDecoder(codec)
        for picture in found:
            packets = [bytearray(packet) for packet in picture.packets]
            for packet in packets:
                for _ in range(rng.randrange(3)):
                    packet[rng.randrange(len(packet))] ^= 1 << rng.randrange(8)
            try:
                pixels = decoder.decode(
                    [bytes(packet) for packet in packets if rng.random() < 0.9], opens=picture.opens
                )
            except FrameError:
                refused += 1
            else:
                assert pixels.shape == picture.pixels.shape
    assert refused
    with pytest.raises(FrameError):
        PacketDecoder(codec).decode((), opens=True)
    with pytest.raises(FrameError, match="promised"):
        PacketDecoder(codec).decode((*found[0].packets, b""), opens=True, skipped=1)
    with pytest.raises(FrameError):
        PacketDecoder(codec).decode([packet for picture in found for packet in picture.packets] * 20, opens=True)


def test_codecs_that_are_not_offered():
    for name in ("mpeg4", "rawvideo", "../h264", ""):
        with pytest.raises(ConfigError, match="aren't forwarded"):
            VideoCodec(name, b"", (4, 4), (4, 4))
    with pytest.raises(ConfigError, match="extra data"):
        VideoCodec("h264", bytes(1 << 17), (4, 4), (4, 4))
    for size in ((0, 4), (4, 1 << 20), (4, -1), (4, 4.0)):
        with pytest.raises(ConfigError, match="rows and columns"):
            VideoCodec("h264", b"", size, (4, 4))
    assert "h264" in CODECS


@pytest.mark.parametrize("name", ["bottle-detection.mp4", "one-by-one-person-detection.mp4"])
@pytest.mark.parametrize("limit", [40, pytest.param(None, marks=pytest.mark.slow)])
def test_sample_videos(name, limit):
    path = DATA / "video" / name
    if not path.is_file():
        pytest.skip("the sample videos are not beside the project")
    history = PacketHistory()
    with open_source(str(path), limit=limit) as source:
        decoder = PacketDecoder(source.codec)
        kept = {}
        for picture in source:
            history.add(picture)
            pixels = decoder.decode(picture.packets, opens=picture.opens)
            assert np.array_equal(pixels, picture.pixels)
            if picture.index % 97 in (0, 13):
                kept[picture.index] = picture.pixels
    for index, pixels in kept.items():
        restart = history.restart(index)
        again = PacketDecoder(source.codec).decode(restart.packets, opens=True, skipped=restart.skipped)
        assert np.array_equal(again, pixels)
