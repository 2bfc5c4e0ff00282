"""The forms in which a picture may reach the first stage, beside payloads of uint8: both ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutset.cluster.messages import MOST_ARRAYS, Codec, EdgeReport, Form, Work
from cutset.errors import ConfigError, FrameError
from cutset.partition.node import Value
from cutset.video.sources.codec import VideoCodec
from cutset.video.sources.encode import decode_jpeg, encode_jpeg
from cutset.video.sources.history import PacketHistory, Restart
from cutset.video.sources.packets import PacketDecoder

__all__ = ["FORMS", "FormReceiver", "FormSender", "codec_message"]

Bytes = NDArray[np.uint8]
Pixels = NDArray[np.uint8]
FORMS: tuple[Form, ...] = ("float32", "jpeg", "packets")  # what `Plan.input` may name
MOST_PACKETS = 64 << 20  # bytes of a group of pictures, as PacketHistory keeps


def codec_message(codec: VideoCodec | None) -> Codec | None:
    """What a worker must know to decode a source's packets."""
    return None if codec is None else Codec(codec.name, codec.extradata, codec.coded, codec.size, codec.orientation)


class FormSender:
    """Pictures of all sources in one form. Packets that are out of their order go with those of their whole group."""

    def __init__(self, form: str, value: Value, *, plan: int, epoch: int) -> None:
        if value.dtype != "uint8" or len(value.shape) != 4:
            raise ConfigError(f"pictures can be sent as {form} only where the network takes uint8 pictures")
        if form not in FORMS:
            raise ConfigError(f"pictures can't be sent as {form!r}; known: {', '.join(FORMS)}")
        self._form = next(known for known in FORMS if known == form)
        self._value, self._plan, self._epoch = value, plan, epoch
        self._last: dict[int, int] = {}  # source to the picture that its decoder gave last

    def encode(
        self,
        source: int,
        picture: int,
        ticket: int,
        pixels: Pixels,
        own: Restart | None,
        history: PacketHistory | None,
    ) -> tuple[Work, list[Bytes], list[EdgeReport]]:
        """As `hop.Sender.encode`; `own` are the packets of this picture alone."""
        start = time.perf_counter()
        form: Form = self._form
        opens, skipped = False, 0
        if form == "float32":
            arrays = [(pixels.astype(np.float32) / np.float32(255)).reshape(-1).view(np.uint8)]
        elif form == "jpeg":
            arrays = [np.frombuffer(encode_jpeg(pixels), np.uint8)]
        else:
            follows = self._last.get(source) == picture - 1
            chosen = own if own is not None and (follows or own.opens) else None
            if chosen is None and history is not None:
                chosen = history.restart(picture)
            if chosen is None or len(chosen.packets) > MOST_ARRAYS:  # its group is too long
                form, arrays = "uint8", [pixels.reshape(-1)]
                self._last.pop(source, None)
            else:
                arrays = [np.frombuffer(packet, np.uint8) for packet in chosen.packets]
                opens, skipped = chosen.opens, chosen.skipped
                self._last[source] = picture
        lengths = [array.size for array in arrays]
        work = Work(
            self._plan, self._epoch, source, picture, ticket, [], lengths, 0.0, form=form, opens=opens, skipped=skipped
        )
        elements, seconds = pixels.size, time.perf_counter() - start
        return work, arrays, [EdgeReport(self._value.name, "picture", sum(lengths), 1.0, elements, seconds, 0.0)]


class FormReceiver:
    """The worker's end. One thread at a time."""

    def __init__(self, value: Value, codecs: Sequence[Codec | None]) -> None:
        self._value, self._codecs = value, codecs
        self._decoders: dict[int, PacketDecoder] = {}
        self.limit = 4 * value.nbytes + MOST_PACKETS

    def decode(self, work: Work, arrays: Sequence[Bytes]) -> tuple[dict[str, Tensor], list[EdgeReport]]:
        """The picture. Raises FrameError for what isn't one."""
        start = time.perf_counter()
        ways: Mapping[str, Callable[[Work, Sequence[Bytes]], Pixels]] = {
            "uint8": self._pixels,
            "float32": self._floats,
            "jpeg": self._jpeg,
            "packets": self._packets,
        }
        pixels = ways[work.form](work, arrays)
        tensor = torch.empty(self._value.shape, dtype=torch.uint8)
        np.copyto(tensor.numpy(), pixels.reshape(self._value.shape))
        seconds, nbytes = time.perf_counter() - start, sum(work.lengths)
        report = EdgeReport(self._value.name, "picture", nbytes, 1.0, pixels.size, 0.0, seconds)
        return {self._value.name: tensor}, [report]

    def _one(self, arrays: Sequence[Bytes], nbytes: int | None) -> Bytes:
        if len(arrays) != 1 or (nbytes is not None and arrays[0].size != nbytes):
            raise FrameError("a picture came that isn't one array of its size")
        return arrays[0]

    def _pixels(self, work: Work, arrays: Sequence[Bytes]) -> Pixels:
        return self._one(arrays, self._value.nbytes)

    def _floats(self, work: Work, arrays: Sequence[Bytes]) -> Pixels:
        values = self._one(arrays, 4 * self._value.nbytes).view(np.float32)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise FrameError("a picture of floats has values that aren't from 0 to 1")
        pixels: Pixels = np.rint(values * np.float32(255)).astype(np.uint8)
        return pixels

    def _jpeg(self, work: Work, arrays: Sequence[Bytes]) -> Pixels:
        _, _, height, width = self._value.shape
        return self._checked(decode_jpeg(self._one(arrays, None).tobytes(), (height, width)))

    def _packets(self, work: Work, arrays: Sequence[Bytes]) -> Pixels:
        decoder = self._decoders.get(work.source)
        if decoder is None:
            said = self._codecs[work.source] if work.source < len(self._codecs) else None
            if said is None:
                raise FrameError(f"packets came of source {work.source}, which isn't encoded")
            codec = VideoCodec(said.name, said.extradata, said.coded, said.size, said.orientation)
            decoder = self._decoders[work.source] = PacketDecoder(codec)
        packets = [array.tobytes() for array in arrays]
        return self._checked(decoder.decode(packets, opens=work.opens, skipped=work.skipped))

    def _checked(self, pixels: Pixels) -> Pixels:
        if pixels.shape != self._value.shape:
            raise FrameError(f"a picture {list(pixels.shape)} came where {list(self._value.shape)} is expected")
        return pixels
