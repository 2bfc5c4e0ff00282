"""Pictures that reach the first worker in other forms: every one of FORMS, and the video's own packets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("av")

from cluster.run.pictures import expected, moving, same, small_model
from cutset.cli import main
from cutset.cluster.coordinator.plans import even_plan
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.inputs import SourceItem
from cutset.cluster.launch.local import LocalWorkers
from cutset.errors import ConfigError, FrameError
from cutset.partition.node import Value
from cutset.stream import Stream
from cutset.video.picture_forms import FORMS, LOSSY
from cutset.video.picture_inputs import ENCODINGS, PictureDecoder, PictureEncoder, PictureInputs
from cutset.video.sources.codec import VideoCodec
from cutset.video.sources.encode import H264Encoder, encode_jpeg
from cutset.video.sources.packets import PacketDecoder
from cutset.video.sources.picture import Picture, Source

SIZE = (32, 48)
SHAPE = (1, 3, *SIZE)

# Of each form, bytes that its decoder must refuse, beside what is cut short or isn't of that form at all.
WRONG: dict[str, list[bytes]] = {
    "float32": [np.full(SHAPE, value, np.float32).tobytes() for value in (np.nan, np.inf, -0.1, 1.1)],
    "jpeg": [encode_jpeg(np.zeros((1, 3, 64, 48), np.uint8))],  # of another size
}


def noise(shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint8]:
    """What hardly compresses."""
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


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


@pytest.mark.parametrize("form", FORMS)
def test_a_form_gives_the_pixels_that_it_stands_for(workers: LocalWorkers, form: str) -> None:
    model, pictures = small_model(*SIZE), moving(5, *SIZE)
    plan = replace(even_plan(model, workers.names), input=form)
    with Stream(model, pictures, workers=workers.addresses, plan=plan) as stream:
        results = list(stream)
    there = [np.array(FORMS[form].decode(FORMS[form].encode(picture), SHAPE)) for picture in pictures]
    assert form in LOSSY or all(map(np.array_equal, there, pictures))
    same(results, expected(there))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [SHAPE, (1, 3, 2, 2), (1, 3, 129, 67)])
def test_a_form_keeps_within_its_limit(form: str, shape: tuple[int, ...]) -> None:
    one, picture = FORMS[form], noise(shape)
    data = one.encode(picture)
    assert len(data) <= one.most(picture.nbytes)
    back = one.decode(data, shape)
    assert back.dtype == np.uint8
    assert back.shape == shape
    assert np.array_equal(back, picture) is not one.lossy


@pytest.mark.parametrize("form", FORMS)
def test_what_isnt_of_a_form_is_refused(form: str) -> None:
    data = FORMS[form].encode(noise())
    for wrong in (*WRONG[form], b"", data[:-1], data[: len(data) // 2], bytes(len(data) // 2), b"\xff" * len(data)):
        with pytest.raises(FrameError):
            FORMS[form].decode(wrong, SHAPE)


@pytest.mark.parametrize("form", FORMS)
def test_only_a_lossy_form_excuses_a_result_that_differs(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--check` fails where a lossless form gives other pixels."""
    plan, run = str(tmp_path / "plan.json"), ["alexnet", "--features", "--size", "64x96"]
    command = ["stream", "plan", *run, "--scheduler", "edge", "--link", "8MB/s", "-o", plan]
    assert main(command) == 0
    written = json.loads(Path(plan).read_text()) | {"picture": form}
    Path(plan).write_text(json.dumps(written))
    encode = PictureEncoder.encode
    other = SourceItem(noise((1, 3, 64, 96)))
    monkeypatch.setattr(PictureEncoder, "encode", lambda self, i, number, given: encode(self, i, number, other))
    command = ["stream", "run", *run[:2], "--source", "generated:64x96,pictures=2", "--quiet", "--check"]
    assert main([*command, "--workers", "1", "--plan", plan]) == (0 if form in LOSSY else 1)
    assert "2 pictures" in capsys.readouterr().out


@pytest.mark.parametrize("form", FORMS)
def test_a_form_for_other_channels_is_refused(form: str) -> None:
    only, inputs = FORMS[form].channels, PictureInputs([None])
    for channels in (1, 3, 4):
        value = Value("x", (1, channels, *SIZE), "uint8")
        if only is None or channels == only:
            inputs.check(form, value)
        else:
            with pytest.raises(ConfigError, match=f"has {only} channels; the pictures have {channels}"):
                inputs.check(form, value)


def test_what_isnt_such_a_picture_is_refused() -> None:
    value, inputs = small_model(*SIZE).input, PictureInputs([None])
    heads = [inputs.encoder(form, value).encode(0, 0, SourceItem(moving(1, *SIZE)[0]))[0] for form in ENCODINGS]
    packets = msgspec.msgpack.encode(["packets", True, 0])
    assert packets not in heads, "without packets the pixels go"
    for head in (*heads, packets, b"", b"\x91\xa3png", b"\x91\xd9\x30" + b"p" * 48, packets[:-1]):
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
