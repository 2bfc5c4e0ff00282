"""What the bytes that stages are sent are made of: bounds, arrays of numbers, and the one way to decode them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutset.errors import FrameError

__all__ = ["MOST_ITEM", "MOST_ROWS", "Count", "Ints", "Number", "WirePart", "as_ints", "decoded", "within"]

MOST_ITEM = 64 << 20  # bytes
MOST_ROWS = 1 << 20  # of a step
FEW = 64  # numbers

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Ints = Annotated[bytes, msgspec.Meta(max_length=MOST_ITEM)]  # an array of int32


class WirePart(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A part of a message: an array whose fields are exactly these."""


def decoded(decoder: Any, data: Any, what: str) -> Any:
    """What a decoder makes of bytes. Raises FrameError for more than `MOST_ITEM`, and for what is no such thing."""
    size = memoryview(data).nbytes
    if size > MOST_ITEM:
        raise FrameError(f"an {what} of {size} bytes is too large", too_large=True)
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise FrameError(f"this is no {what}: {error}") from None


def as_ints(data: bytes, name: str, size: int | None = None) -> NDArray[np.int32]:
    """An array of int32 from its bytes, read-only. Raises FrameError unless it has `size` numbers, if that is given."""
    if len(data) % 4 or (size is not None and len(data) != 4 * size):
        wanted = "" if size is None else f" instead of {4 * size}"
        raise FrameError(f"{name} of an item has {len(data)} bytes{wanted}")
    return np.frombuffer(data, dtype="<i4").astype(np.int32, copy=False)


def within(name: str, values: NDArray[Any], low: int, high: int) -> None:
    """Raises FrameError unless all values lie between these two."""
    if not values.size:
        return
    if values.size <= FEW:  # as Python's numbers these are looked at in a fraction of the time
        numbers = values.ravel().tolist()
        least, most = min(numbers), max(numbers)
    else:
        least, most = int(values.min()), int(values.max())
    if not (least >= low and most <= high):
        raise FrameError(f"{name} of an item has a number that can't be")
