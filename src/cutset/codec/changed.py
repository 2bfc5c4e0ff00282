"""Which elements of a tensor a payload changed: the mask that deltas carry, handed on to whoever computes with it."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["Changed"]

Bytes = NDArray[np.uint8]


class Changed(msgspec.Struct, frozen=True, eq=False):
    """The elements of a tensor that one payload replaced. All others have the bits that they had before it.

    `bits` is the mask as the payload carries it: a bit for each element in row-major order, the first one lowest in the
    first byte, zeros after the last. None stands for every element: a key says nothing of what was there before.

    It is relative to the payload that was applied before. Whoever leaves out items joins theirs: `first | second`.
    `bits` may lie in the payload's own memory, and is valid as long as that is; `copy()` has memory of its own.
    """

    shape: tuple[int, ...]
    count: int  # of the elements that were replaced
    bits: Bytes | None  # (elements + 7) // 8 bytes

    @property
    def everything(self) -> bool:
        """Whether every element may have changed, as after a key."""
        return self.bits is None

    def mask(self) -> NDArray[np.bool_]:
        """An array of the tensor's shape, True where an element was replaced. Made anew at every call."""
        if self.bits is None:
            return np.ones(self.shape, bool)
        return np.unpackbits(self.bits, count=math.prod(self.shape), bitorder="little").view(bool).reshape(self.shape)

    def copy(self) -> Changed:
        """The same, for longer than the payload's memory is valid."""
        return self if self.bits is None else Changed(self.shape, self.count, self.bits.copy())

    def __or__(self, other: Changed) -> Changed:
        """What two payloads in a row changed, in memory of its own. Raises ValueError for tensors of other shapes."""
        if self.shape != other.shape:
            raise ValueError(f"masks of tensors {list(self.shape)} and {list(other.shape)} can't be joined")
        if self.bits is None or other.bits is None:
            return Changed(self.shape, math.prod(self.shape), None)
        both: np.ndarray[Any, np.dtype[np.uint8]] = self.bits | other.bits
        return Changed(self.shape, int(np.count_nonzero(np.unpackbits(both))), both)
