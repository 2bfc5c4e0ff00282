"""Pictures that reach the first worker in other forms: as floats, as JPEG, as the video's own packets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("av")

from cluster.run.pictures import expected, moving, same, small_model
from cutset.cluster.coordinator.even import even_plan
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.inputs import SourceItem
from cutset.cluster.launch.local import LocalWorkers
from cutset.errors import ConfigError, FrameError
from cutset.stream import Stream
from cutset.video.forms import ENCODINGS, PictureDecoder, PictureInputs
from cutset.video.sources.codec import VideoCodec
from cutset.video.sources.encode import H264Encoder, decode_jpeg, encode_jpeg
from cutset.video.sources.packets import PacketDecoder
from cutset.video.sources.picture import Picture, Source

SIZE = (32, 48)


class Encoded(Source):
    """Pictures with the packets of an encoder, as a camera gives them; `pixels` are what a decoder makes of those."""

    name, rate, live = "encoded", None, False

    def __init__(self, count: int) -> None:
        self.size = SIZE
        encoder = H264Encoder(SIZE, group=6)
        self.codec: VideoCodec | None = encoder.codec
        decoder = PacketDecoder(encoder.codec)
        self.pictures = []
        for i, pixels in enumerate(moving(count, *SIZE)):
            packet, opens = encoder.encode(pixels)

            packets = (packet,)
            try:
                seen = decoder.decode(packets, opens=opens)
            except FrameError:
                pytest.skip("this FFmpeg's encoder delays pictures")
            self.pictures.append(Picture(i, seen, i / 25, packets, opens))

    def __iter__(self) -> Iterator[Picture]:
        yield from self.pictures


@pytest.mark.parametrize("form", ["float32", "jpeg"])
def test_a_form_gives_the_pixels_that_it_stands_for(workers: LocalWorkers, form: Any) -> None:
    model, pictures = small_model(*SIZE), moving(5, *SIZE)
    plan = replace(even_plan(model, workers.names), input="" if form == "uint8" else form)
    with Stream(model, pictures, workers=workers.addresses, plan=plan) as stream:
        results = list(stream)
    seen = pictures if form == "float32" else [decode_jpeg(encode_jpeg(p), SIZE) for p in pictures]
    same(results, expected(seen))


def test_what_isnt_such_a_picture_is_refused() -> None:
    value, inputs = small_model(*SIZE).input, PictureInputs([None])
    heads = [inputs.encoder(form, value).encode(0, 0, SourceItem(moving(1, *SIZE)[0]))[0] for form in ENCODINGS]
    packets = msgspec.msgpack.encode(["packets", True, 0])
    assert packets not in heads, "without packets the pixels go"
    for head in (*heads, packets, b"", b"\x91\xa3png", packets[:-1]):
        decoder = PictureDecoder("packets", value, inputs.settings("packets"))
        for data in ([np.full(7, 255, np.uint8)], [np.full(value.nbytes * 4, 255, np.uint8)], []):
            with pytest.raises(FrameError):
                decoder.decode(0, head, data)


@pytest.mark.parametrize("settings", [b"\x93", b"\x91\x91\xa4h264", b"\xa1x", b"\x91" * 5000])
def test_settings_that_are_no_codecs_are_refused(settings: bytes) -> None:
    with pytest.raises(ConfigError):
        PictureDecoder("packets", small_model(*SIZE).input, settings)
    with pytest.raises(ConfigError):
        PictureDecoder("png", small_model(*SIZE).input, b"")


def test_packets_are_forwarded_also_after_a_switch_in_the_middle_of_a_group(workers: LocalWorkers) -> None:
    source = Encoded(20)
    model = small_model(*SIZE)
    first = replace(even_plan(model, workers.names), input="packets")
    second = replace(even_plan(model, list(reversed(workers.names))), input="packets")
    results = []
    options = Options(rate=30)
    with Stream(model, source, workers=workers.addresses, plan=first, options=options) as stream:
        for result in stream:
            results.append(result)
            if result.picture == 7:
                stream.coordinator.propose(second, "a test")
    same(results, expected([p.pixels for p in source.pictures]))
    assert {r.plan for r in results} == {1, 2}
