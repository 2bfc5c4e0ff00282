"""Pictures are turned as containers and EXIF say: at the source, and at a worker that gets packets."""

from __future__ import annotations

import struct
import zlib

import av
import numpy as np
import pytest

from cutset.errors import ConfigError
from cutset.partition.node import Value
from cutset.video.forms import PictureDecoder, PictureInputs
from cutset.video.sources import PacketDecoder, VideoCodec, open_source
from cutset.video.sources.orientation import exif_orientation, turn, turned_size
from video.sources.clips import frame_of, pictures, write_png
from video.sources.ffmpeg import ffmpeg, make, rgb24
from video.sources.test_reading import AV1, X264, play, same

SIZE = (48, 64)
# What EXIF's standard says of each number, in numpy's words, for pictures (pictures, channels, rows, columns).
RIGHT = {
    1: lambda p: p,
    2: lambda p: np.flip(p, 3),
    3: lambda p: np.rot90(p, 2, (2, 3)),
    4: lambda p: np.flip(p, 2),
    5: lambda p: np.swapaxes(p, 2, 3),
    6: lambda p: np.rot90(p, -1, (2, 3)),
    7: lambda p: np.flip(np.swapaxes(p, 2, 3), (2, 3)),
    8: lambda p: np.rot90(p, 1, (2, 3)),
}
# Degrees counter-clockwise and mirrorings of a display matrix that is the same.
MATRIX = {
    1: (0,),
    2: (0, True),
    3: (180,),
    4: (0, False, True),
    5: (90, False, True),
    6: (-90,),
    7: (90, True),
    8: (90,),
}


def exif(orientation, order="<", count=1):
    head = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(f"{order}HHII", 0x010F, 2, 4, 0) + struct.pack(
        f"{order}HHIHH", 0x0112, 3, count, orientation, 0
    )
    return head + struct.pack(f"{order}IH", 8, 2) + entries + bytes(4)


def with_exif(data, block):
    """A JPEG, PNG or WebP file with EXIF."""
    if data[:2] == b"\xff\xd8":
        block = b"Exif\0\0" + block
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    if data[:4] == b"RIFF":
        size = b"\0\0\0\0" + (63).to_bytes(3, "little") + (47).to_bytes(3, "little")
        chunks = (
            b"VP8X" + struct.pack("<I", 10) + b"\x08" + size[1:] + data[12:] + b"EXIF" + struct.pack("<I", len(block))
        )
        body = b"WEBP" + chunks + block + bytes(len(block) % 2)
        return b"RIFF" + struct.pack("<I", len(body)) + body
    chunk = b"eXIf" + block
    at = 8 + 25
    return data[:at] + struct.pack(">I", len(block)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[at:]


def turned_video(path, orientation, codec="libx264", pixels="yuv420p"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *SIZE, pixels
        stream.codec_context.gop_size = 4
        stream.set_display_rotation(*MATRIX[orientation])
        for i, picture in enumerate(pictures(10)):
            frame = frame_of(picture)
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("orientation", RIGHT)
def test_every_orientation_of_a_picture(tmp_path, orientation):
    plain = make(tmp_path / "plain.jpg", "-pix_fmt", "yuvj444p", pictures=1)
    expected = RIGHT[orientation](rgb24(plain, SIZE, sited=False))
    for name, order in (("little.jpg", "<"), ("big.jpg", ">")):
        (tmp_path / name).write_bytes(with_exif(plain.read_bytes(), exif(orientation, order)))
        source, found = play(tmp_path / name)
        assert source.size == expected.shape[2:]
        same(found, expected)
        assert found[0].pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", RIGHT)
def test_every_orientation_of_a_video(tmp_path, orientation):
    """The packets are the plain video's; what FFmpeg shows of it turned is the same where no colours are shared."""
    path = turned_video(tmp_path / "turned.mp4", orientation, pixels="yuv444p")
    source, found = play(path)
    assert source.codec.orientation == orientation
    same(found, RIGHT[orientation](rgb24(path, SIZE, sited=False)))
    same(found, rgb24(path, turned_size(SIZE, orientation), turned=True, sited=False))
    source, found = play(turned_video(tmp_path / "shared.mov", orientation))
    same(found, RIGHT[orientation](rgb24(tmp_path / "shared.mov", SIZE)))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_video_that_ffmpeg_turned(tmp_path, degrees):
    plain, path = make(tmp_path / "plain.mp4", *X264, "-pix_fmt", "yuv444p"), tmp_path / "turned.mp4"
    ffmpeg("-i", plain, "-c", "copy", "-metadata:s:v", f"rotate={degrees}", path)
    source, found = play(path)
    assert source.size == (SIZE if degrees == 180 else SIZE[::-1])
    same(found, rgb24(path, source.size, turned=True, sited=False))
    same(found, np.rot90(rgb24(plain, SIZE, sited=False), degrees // 90, (2, 3)))


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("a.mov", "mjpeg", "yuvj444p"), ("a.mp4", "mpeg4", "yuv420p"), ("a.mkv", "libx264", "yuv420p")],
)
def test_other_codecs_and_containers_are_turned(tmp_path, name, codec, pixels):
    path = turned_video(tmp_path / name, 6, codec, pixels)
    source, found = play(path)
    assert source.size == SIZE[::-1]
    same(found, RIGHT[6](rgb24(path, SIZE, sited=codec != "mjpeg")))


def test_av1_is_turned(tmp_path):
    plain, path = make(tmp_path / "plain.mp4", *AV1, pictures=8), tmp_path / "turned.mp4"
    ffmpeg("-i", plain, "-c", "copy", "-metadata:s:v", "rotate=90", path)
    source, found = play(path)
    assert source.codec.orientation == 8
    same(found, RIGHT[8](rgb24(plain, SIZE, sited=False)))


def test_hidden_and_turned(tmp_path):
    """A phone's video whose beginning was cut off."""
    whole, path = turned_video(tmp_path / "whole.mp4", 6), tmp_path / "cut.mp4"
    ffmpeg("-ss", 0.2, "-i", whole, "-c", "copy", path)
    source, found = play(path)
    assert source.size == SIZE[::-1]
    same(found, RIGHT[6](rgb24(path, SIZE)))


def test_scaled_and_turned(tmp_path):
    path = turned_video(tmp_path / "turned.mp4", 6)
    source, found = play(path, size=(32, 20))
    assert source.size == (32, 20)
    same(found, RIGHT[6](rgb24(path, (20, 32), to="32:20")))


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_pictures_of_other_kinds_have_exif(tmp_path, name):
    plain = make(tmp_path / name, pictures=1)
    (tmp_path / "sub").mkdir()
    turned = tmp_path / "sub" / name
    turned.write_bytes(with_exif(plain.read_bytes(), exif(6)))
    _, found = play(turned)
    same(found, RIGHT[6](rgb24(plain, SIZE, sited=False)))
    with open_source(str(tmp_path / "sub")) as source:  # as a folder
        assert np.array_equal(next(iter(source)).pixels, found[0].pixels)


def test_a_folder_of_a_phone(tmp_path):
    """Upright and lying pictures: of two sizes as stored, of one as shown."""
    make(tmp_path / "1.jpg", pictures=1)
    lying = make(tmp_path / "lying.png", size="48x64", pictures=1)
    make(tmp_path / "2.jpg", size="48x64", pictures=1)
    (tmp_path / "2.jpg").write_bytes(with_exif((tmp_path / "2.jpg").read_bytes(), exif(8)))
    lying.unlink()
    with open_source(str(tmp_path)) as source:
        found = list(source)
    assert [picture.pixels.shape[2:] for picture in found] == [SIZE, SIZE]


def test_exif_that_is_damaged_turns_nothing(tmp_path):
    plain = write_png(tmp_path / "a.jpg", pictures(1)[0], "mjpeg", "yuvj420p").read_bytes()
    for block in (b"", b"II*\0", exif(0), exif(9), exif(6, count=2), b"XX" + exif(6)[2:], exif(6)[:-20]):
        assert exif_orientation(with_exif(plain, block)) is None
    assert exif_orientation(plain) is None
    assert exif_orientation(b"") is None
    whole = with_exif(plain, exif(6))
    assert exif_orientation(whole) == 6
    for end in range(len(whole)):
        assert exif_orientation(whole[:end]) in (None, 6)


def test_turning_is_what_numpy_says():
    picture = pictures(1, (5, 7))[0]
    for orientation, right in RIGHT.items():
        assert np.array_equal(turn(picture, orientation), right(picture))
        assert turned_size((5, 7), orientation) == right(picture).shape[2:]


def test_a_worker_is_told(tmp_path):
    """Over the wire, and through both ends of a hop."""
    with open_source(str(turned_video(tmp_path / "a.mp4", 6))) as source:
        found = list(source)
    value, inputs = Value("input", (1, 3, *source.size), "uint8"), PictureInputs([source.codec])
    sender = inputs.encoder("packets", value)
    receiver = PictureDecoder("packets", value, inputs.settings("packets"))
    for picture in found:
        given = inputs.read(picture)
        head, arrays = sender.encode(0, picture.index, given)
        assert [array.tobytes() for array in arrays] == list(picture.packets)
        assert np.array_equal(receiver.decode(0, head, arrays), picture.pixels)
    for wrong in (0, 9, -1, True):
        with pytest.raises(ConfigError, match="orientation"):
            VideoCodec("h264", b"", SIZE, SIZE, wrong)
    assert PacketDecoder(source.codec).decode(found[0].packets, opens=True).shape[2:] == (64, 48)
