"""How pictures may reach the first stage, beside payloads: in one of FORMS, or as the video's own packets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.cluster.inputs import SourceItem
from cutset.cluster.messages import MOST_ARRAYS, MOST_SOURCES
from cutset.cluster.values import Array, Bytes
from cutset.errors import ConfigError, FrameError
from cutset.partition.node import Value
from cutset.video.picture_forms import FORMS
from cutset.video.result import PictureNote, Result
from cutset.video.sources.codec import CODECS, LARGEST, MAX_EXTRADATA, VideoCodec
from cutset.video.sources.history import PacketHistory, Restart
from cutset.video.sources.packets import PacketDecoder
from cutset.video.sources.picture import Picture

__all__ = ["ENCODINGS", "PictureDecoder", "PictureEncoder", "PictureInputs"]

Pixels = NDArray[np.uint8]
ENCODINGS = (*FORMS, "packets")
NOTED = ("index", "placement", "original")
MOST_PACKETS = 64 << 20  # bytes of a group of pictures, as PacketHistory keeps

Side = Annotated[int, msgspec.Meta(ge=1, le=LARGEST)]


class _Codec(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A VideoCodec, in a plan's settings."""

    name: Annotated[str, msgspec.Meta(max_length=200)]
    extradata: Annotated[bytes, msgspec.Meta(max_length=MAX_EXTRADATA)]
    coded: tuple[Side, Side]
    size: tuple[Side, Side]
    orientation: Annotated[int, msgspec.Meta(ge=1, le=8)]


class _Head(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What is said of one picture. One whose packets can't be sent goes as `pixels`."""

    encoding: Annotated[str, msgspec.Meta(max_length=40)]  # one of ENCODINGS, or `pixels`
    opens: bool = False  # of packets: a group of pictures begins
    skipped: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0  # of packets: pictures that come out before


_encode = msgspec.msgpack.Encoder().encode
_heads = msgspec.msgpack.Decoder(_Head)
_codecs = msgspec.msgpack.Decoder(Annotated[list[_Codec | None], msgspec.Meta(max_length=MOST_SOURCES)])


class PictureInputs:
    """What a coordinator must know of pictures; see `cutset.cluster.inputs`.

    `codecs` are those of the sources, None where their packets can't be forwarded.
    """

    result = Result

    def __init__(self, codecs: Sequence[VideoCodec | None] = ()) -> None:
        self._codecs = list(codecs)
        self._histories = {i: PacketHistory() for i, codec in enumerate(codecs) if codec is not None}

    def read(self, item: Any) -> SourceItem:
        """A picture: an array, or something that has `pixels` and may have more of a Picture's fields."""
        time, packets = getattr(item, "time", None), getattr(item, "packets", None)
        own = None if packets is None else Restart(tuple(packets), item.skipped, item.opens)
        note = PictureNote(*(getattr(item, name, None) for name in NOTED)) if hasattr(item, "pixels") else None
        return SourceItem(
            getattr(item, "pixels", item),
            None if time is None else float(time),
            getattr(item, "captured", None),
            own,
            note,
        )

    def keep(self, source: int, number: int, given: SourceItem, oldest: int) -> None:
        """Keeps the packets of an encoded source, for a decoder that must begin in the middle."""
        history, own = self._histories.get(source), given.origin
        if history is not None and own is not None:
            history.add(Picture(number, given.array, 0.0, own.packets, own.opens, own.skipped))
            history.forget(oldest)

    def check(self, encoding: str, value: Value) -> None:
        """Raises ConfigError where pictures of these sources can't be sent so."""
        if encoding not in ENCODINGS:
            raise ConfigError(f"the plan sends {encoding[:40]!r}, which isn't one of {', '.join(ENCODINGS)}")
        if value.dtype != "uint8" or len(value.shape) != 4:
            raise ConfigError(f"the plan sends {encoding}, which is for networks that take uint8 pictures alone")
        only = FORMS[encoding].channels if encoding in FORMS else None
        if only is not None and value.shape[1] != only:
            have = value.shape[1]
            raise ConfigError(f"the plan sends {encoding}, which has {only} channels; the pictures have {have}")
        if encoding == "packets" and None in (self._codecs or [None]):
            which = [i for i, codec in enumerate(self._codecs) if codec is None]
            raise ConfigError(
                f"the plan sends the video's own packets, and those of source {', '.join(map(str, which)) or 0} can't "
                f"be forwarded: it isn't one of {', '.join(CODECS)}. Make a plan for this source"
            )

    def settings(self, encoding: str) -> bytes:
        """What a worker must know to decode the sources' packets."""
        if encoding != "packets":
            return b""
        return _encode(
            [None if c is None else _Codec(c.name, c.extradata, c.coded, c.size, c.orientation) for c in self._codecs]
        )

    def encoder(self, encoding: str, value: Value) -> PictureEncoder:
        """The coordinator's end, for one plan."""
        return PictureEncoder(encoding, value, self._histories)


class PictureEncoder:
    """Pictures of all sources in one encoding. Packets that are out of their order go with those of their group."""

    def __init__(self, encoding: str, value: Value, histories: dict[int, PacketHistory]) -> None:
        self._name, self._form, self._histories = encoding, FORMS.get(encoding), histories
        self._last: dict[int, int] = {}  # source to the picture that its decoder gave last
        self.limit = value.nbytes if self._form is None else self._form.most(value.nbytes)

    def encode(self, source: int, number: int, given: SourceItem) -> tuple[bytes, list[Bytes]]:
        """The head and the arrays of a picture (1, channels, height, width) of uint8."""
        pixels: Pixels = given.array
        if self._form is not None:
            return _encode(_Head(self._name)), [np.frombuffer(self._form.encode(pixels), np.uint8)]
        own: Restart | None = given.origin
        follows = self._last.get(source) == number - 1
        chosen = own if own is not None and (follows or own.opens) else None
        if chosen is None and source in self._histories:
            chosen = self._histories[source].restart(number)
        if chosen is None or len(chosen.packets) > MOST_ARRAYS:  # its group is too long
            self._last.pop(source, None)
            return _encode(_Head("pixels")), [pixels.reshape(-1)]
        self._last[source] = number
        head = _Head("packets", chosen.opens, chosen.skipped)
        return _encode(head), [np.frombuffer(packet, np.uint8) for packet in chosen.packets]


class PictureDecoder:
    """The worker's end. One thread at a time. Raises ConfigError for what the coordinator's end can't have said."""

    def __init__(self, encoding: str, value: Value, settings: bytes) -> None:
        if encoding not in ENCODINGS or value.dtype != "uint8" or len(value.shape) != 4:
            raise ConfigError(f"pictures can't be sent as {encoding[:40]!r} to this network")
        self._value = value
        self._codecs: list[_Codec | None] = []
        if settings:
            try:
                self._codecs = _codecs.decode(settings)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                raise ConfigError(f"the codecs of the sources can't be read: {error}") from None
        self._decoders: dict[int, PacketDecoder] = {}
        self.limit = max(form.most(value.nbytes) for form in FORMS.values()) + MOST_PACKETS

    def decode(self, source: int, head: bytes, arrays: Sequence[Bytes]) -> Array:
        """The picture. Raises FrameError for what isn't one."""
        try:
            said = _heads.decode(head)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise FrameError(f"what is said of a picture can't be read: {error}") from None
        if said.encoding == "pixels":
            return self._one(arrays, self._value.nbytes).reshape(self._value.shape)
        form = FORMS.get(said.encoding)
        if form is not None:
            return self._checked(form.decode(self._one(arrays, None).tobytes(), self._value.shape))
        if said.encoding != "packets":
            raise FrameError(f"a picture came as {said.encoding!r}, which isn't one of {', '.join(ENCODINGS)}")
        packets = [array.tobytes() for array in arrays]
        return self._checked(self._decoder(source).decode(packets, opens=said.opens, skipped=said.skipped))

    def _one(self, arrays: Sequence[Bytes], nbytes: int | None) -> Bytes:
        if len(arrays) != 1 or (nbytes is not None and arrays[0].size != nbytes):
            raise FrameError("a picture came that isn't one array of its size")
        return arrays[0]

    def _decoder(self, source: int) -> PacketDecoder:
        decoder = self._decoders.get(source)
        if decoder is None:
            said = self._codecs[source] if source < len(self._codecs) else None
            if said is None:
                raise FrameError(f"packets came of source {source}, which isn't encoded")
            codec = VideoCodec(said.name, said.extradata, said.coded, said.size, said.orientation)
            decoder = self._decoders[source] = PacketDecoder(codec)
        return decoder

    def _checked(self, pixels: Pixels) -> Pixels:
        if pixels.shape != self._value.shape:
            raise FrameError(f"a picture {list(pixels.shape)} came where {list(self._value.shape)} is expected")
        return pixels
