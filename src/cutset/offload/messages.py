"""What client and accelerator say to each other: the headers of frames, as docs/protocol.md specifies them.

A message is a msgpack array whose first element names its kind. Whoever decodes one takes nothing for granted: a
message that isn't exactly of these types is a FrameError.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from cutset.errors import FrameError
from cutset.link.peer import PRINTABLE, Handshake, Hello, Protocol, Refused, Welcome

__all__ = [
    "HANDSHAKE",
    "MOST_PADS",
    "PROTOCOL",
    "AskCounters",
    "Capabilities",
    "Company",
    "Counters",
    "Hello",
    "MakePads",
    "Message",
    "Multiply",
    "Product",
    "Refused",
    "SelfTest",
    "Welcome",
    "call_of",
    "decode",
    "encode",
]

PROTOCOL = Protocol("offload", 3, whom="accelerator", before=1)
HANDSHAKE = Handshake(PROTOCOL)  # one that asks for no evidence and has none
MOST_PADS = 8  # requests of one MakePads

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Word = Annotated[str, msgspec.Meta(max_length=200, pattern=PRINTABLE)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Capabilities(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What an accelerator says of itself in its welcome. Nothing of it is believed but that it takes so many rows."""

    matrices: Count
    device: Word
    threads: Count
    max_rows: Count  # of one Multiply
    makes_pads: bool


class Multiply(msgspec.Struct, tag="multiply", array_like=True, forbid_unknown_fields=True):
    """Multiply the frame's one array (rows, depth) with a matrix: residues (uint32) or integers (int16)."""

    call: Count
    matrix: Count


class Company(IntEnum):
    """Who shares a product, as far as that is anybody else's business."""

    ALONE = 0
    SOME = 1  # others do, and there are cores for all to stay awake on
    MANY = 2  # others do, and there aren't


class Product(msgspec.Struct, tag="product", array_like=True, forbid_unknown_fields=True):
    """The answer to Multiply or MakePads, with one array (rows, outputs) for each: uint32 residues or int32 integers.

    `seconds` (for these rows) and `shared` (a Company) are the accelerator's own word.
    """

    call: Count
    seconds: Seconds
    shared: Count


class MakePads(msgspec.Struct, tag="pads", array_like=True, forbid_unknown_fields=True):
    """Expand single-use seeds into residues R (rows, depth) and multiply each with its matrix."""

    call: Count
    requests: Annotated[
        list[tuple[Count, Count, bytes]], msgspec.Meta(max_length=MOST_PADS)
    ]  # matrix, rows, seed (32 bytes)


class SelfTest(msgspec.Struct, tag="selftest", array_like=True, forbid_unknown_fields=True):
    """Multiply with a weight that comes along: arrays weight int8 (outputs, depth), x uint32 and q int16 (rows, depth).

    The answer is a Product with residues and integers.
    """

    call: Count


class AskCounters(msgspec.Struct, tag="counters?", array_like=True, forbid_unknown_fields=True):
    """What has the accelerator done so far for this client: for its key, or without one on this link?"""

    call: Count


class Counters(msgspec.Struct, tag="counters", array_like=True, forbid_unknown_fields=True):
    """The answer to AskCounters: names and numbers."""

    call: Count
    values: Annotated[dict[Word, float], msgspec.Meta(max_length=64)]


Message = Hello | Welcome | Multiply | Product | MakePads | SelfTest | AskCounters | Counters | Refused


def call_of(message: Message) -> int | None:
    """The number of the call that a message is about; None in the handshake."""
    return None if isinstance(message, Hello | Welcome) else message.call


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)

encode = _encoder.encode


def decode(header: bytes) -> Message:
    """Raises FrameError for what is none of the messages above."""
    try:
        return _decoder.decode(header)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(f"the other side sent a message that isn't one of the offload's: {error}") from None
