"""JPEG and H.264 made here: close to the pictures, and decodable by what a worker has."""

from __future__ import annotations

import numpy as np
import pytest

from cutset.errors import ConfigError, FrameError
from cutset.video.sources import H264Encoder, PacketDecoder, decode_jpeg, encode_jpeg
from video.sources.clips import pictures


def smooth(count):
    """Pictures that lossy codecs are made for, all different."""
    down, across = np.mgrid[0:48, 0:64]
    return [
        np.stack([down * 4 + i, across * 3 + i, 255 - down * 2 - across - i]).clip(0, 255).astype(np.uint8)[None]
        for i in range(count)
    ]


def error(a, b):
    return np.abs(a.astype(int) - b).mean()


def test_jpeg_is_close():
    one, other = smooth(40)[0], smooth(40)[39]
    again = decode_jpeg(encode_jpeg(one), (48, 64))
    assert error(again, one) < 3 < error(again, other)
    assert len(encode_jpeg(one, 31)) < len(encode_jpeg(one, 2))
    assert encode_jpeg(pictures(1, (47, 63))[0])[:2] == b"\xff\xd8"


def test_jpeg_of_another_size_or_none_is_refused():
    data = encode_jpeg(smooth(1)[0])
    for size in ((64, 48), (480, 640), (24, 32)):
        with pytest.raises(FrameError):
            decode_jpeg(data, size)
    for bad in (b"", b"no jpeg", data[:100]):
        with pytest.raises(FrameError):
            decode_jpeg(bad, (48, 64))
    with pytest.raises(ConfigError, match="quality"):
        encode_jpeg(smooth(1)[0], 1)


def test_h264_gives_a_packet_a_picture():
    shown = smooth(12)
    encoder = H264Encoder((48, 64), group=5)
    decoder = PacketDecoder(encoder.codec)
    opened = []
    for i, picture in enumerate(shown):
        packet, opens = encoder.encode(picture)
        opened += [i] * opens
        again = decoder.decode((packet,), opens=opens)
        assert error(again, picture) < 5
        assert error(again, picture) < error(again, shown[(i + 6) % 12])
    assert opened == [0, 5, 10]
    with pytest.raises(ConfigError, match="even"):
        H264Encoder((47, 64))
    with pytest.raises(ConfigError, match="quality"):
        H264Encoder((48, 64), quality=99)
