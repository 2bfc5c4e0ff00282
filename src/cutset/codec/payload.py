"""Payloads: what goes over a cut edge, a header and byte arrays. docs/stream-protocol.md is the specification.

A payload is a *key*, which stands on its own, or a *delta*, which needs the payload before it. Whoever decodes one
takes nothing for granted: every length is checked against the tensor that the plan says before anything is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from cutset.errors import ConfigError, FrameError

__all__ = ["DTYPES", "MAX_BYTES", "MAX_DIMS", "EdgeSpec", "KeyRequest", "Payload", "check", "decode", "encode"]

MAX_BYTES = 1 << 30  # of a tensor
MAX_DIMS = 8
MAX_EDGE = 120  # bytes of an edge's name

DTYPES = ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_BYTES)]
Edge = Annotated[str, msgspec.Meta(max_length=MAX_EDGE)]
Shape = Annotated[tuple[Size, ...], msgspec.Meta(max_length=MAX_DIMS)]
DType = Literal["u1", "i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"]
Compression = Literal["none", "nested", "zlib", "zstd"]  # nested: for masks
Compressions = Annotated[tuple[Compression, ...], msgspec.Meta(min_length=1, max_length=2)]


@dataclass(frozen=True, slots=True)
class EdgeSpec:
    """What the payloads of one edge and source are about: the tensor that plan and graph say. Raises ConfigError."""

    source: int
    edge: str
    dtype: str  # one of DTYPES
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(
                f"edge {self.edge}: tensors of dtype {self.dtype} can't be sent; known: {', '.join(DTYPES)}"
            )
        if len(self.shape) > MAX_DIMS or any(size < 0 for size in self.shape) or self.nbytes > MAX_BYTES:
            raise ConfigError(f"edge {self.edge}: a tensor of shape {self.shape} is too large to be sent")
        if len(self.edge) > MAX_EDGE:
            raise ConfigError(f"an edge's name has at most {MAX_EDGE} characters")

    @classmethod
    def of(cls, source: int, edge: str, tensor: np.ndarray[Any, Any]) -> EdgeSpec:
        """The edge of tensors like this one."""
        return cls(source, edge, tensor.dtype.str.replace("|", "").replace("=", "<"), tensor.shape)

    @property
    def elements(self) -> int:
        """How many numbers the tensor has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the dense tensor."""
        return self.elements * np.dtype(self.dtype).itemsize


class Payload(msgspec.Struct, tag="payload", array_like=True, forbid_unknown_fields=True, frozen=True):
    """The header of a payload. Its arrays are bytes: [mask, values] with bits, [values] of every element when dense."""

    kind: Literal["key", "delta"]
    source: Count
    edge: Edge
    plan: Count
    epoch: Count  # rises whenever the sender begins anew
    sequence: Count  # the item's number; rises within an epoch, and may skip
    base: Count | None  # of a delta: the sequence number that the receiver must hold
    key: Count  # the sequence number of the last key, its own for a key
    dtype: DType
    shape: Shape
    encoding: Literal["dense", "bits"]
    wire: DType  # of the values: dtype, or <f2 for a tensor of <f4
    count: Size  # of values
    compression: Compressions  # of each array
    values: Literal["plain", "change"]  # change: from the values that are replaced, see docs/stream-protocol.md


class KeyRequest(msgspec.Struct, tag="key?", array_like=True, forbid_unknown_fields=True, frozen=True):
    """Receiver to sender: payload `sequence` couldn't be applied; send a key."""

    source: Count
    edge: Edge
    plan: Count
    epoch: Count
    sequence: Count


encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Payload | KeyRequest)


def decode(header: bytes) -> Payload | KeyRequest:
    """Raises FrameError for what is neither."""
    try:
        message: Payload | KeyRequest = _decoder.decode(header)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(f"the other side sent what isn't a payload: {error}") from None
    return message


def check(payload: Payload, arrays: Sequence[np.ndarray[Any, Any]], spec: EdgeSpec) -> tuple[int, ...]:
    """The bytes of each array after decompression. Raises FrameError unless all of the header says the same thing."""
    if (payload.source, payload.edge) != (spec.source, spec.edge):
        raise FrameError(f"a payload of source {payload.source}, edge {payload.edge} came for {spec.edge}")
    if payload.dtype != spec.dtype or payload.shape != spec.shape:
        raise FrameError(
            f"edge {spec.edge}: a tensor {payload.dtype} {list(payload.shape)} came where "
            f"{spec.dtype} {list(spec.shape)} is expected"
        )
    if payload.wire != payload.dtype and (payload.wire, payload.dtype) != ("<f2", "<f4"):
        raise FrameError(f"edge {spec.edge}: values of dtype {payload.wire} for a tensor of {payload.dtype}")
    key = payload.kind == "key"
    if key != (payload.base is None) or (payload.key == payload.sequence) != key:
        raise FrameError(f"edge {spec.edge}: a {payload.kind} whose base is {payload.base}")
    if payload.base is not None and not payload.key <= payload.base < payload.sequence:
        raise FrameError(f"edge {spec.edge}: a delta of item {payload.sequence} to item {payload.base}")
    if payload.values == "change" and (key or payload.wire != payload.dtype or payload.encoding == "dense"):
        raise FrameError(f"edge {spec.edge}: changes to what isn't there")
    values = payload.count * np.dtype(payload.wire).itemsize
    if payload.encoding == "dense":
        right = key and payload.count == spec.elements
        sizes: tuple[int, ...] = (values,)
    else:
        right = payload.count <= spec.elements
        sizes = ((spec.elements + 7) // 8, values)
    if not right or not len(arrays) == len(sizes) == len(payload.compression):
        raise FrameError(f"edge {spec.edge}: a {payload.kind} of {payload.count} values, {payload.encoding}")
    for array, size, compression in zip(arrays, sizes, payload.compression, strict=True):
        if array.dtype != np.uint8 or array.ndim != 1:
            raise FrameError(f"edge {spec.edge}: an array of a payload isn't bytes")
        if compression == "nested" and (payload.encoding == "dense" or array is not arrays[0]):
            raise FrameError(f"edge {spec.edge}: values can't be nested")
        if compression == "none" and array.size != size:
            raise FrameError(f"edge {spec.edge}: {array.size} bytes of a payload where {size} are expected")
    return sizes
