"""From fractions to bytes: what a key or a delta of a tensor takes on a link, as mask and values."""

from __future__ import annotations

import math

from cutset.partition.node import ITEM_BYTES, Value

__all__ = ["channels", "delta_bytes", "elements"]


def elements(value: Value) -> int:
    return math.prod(value.shape)


def channels(value: Value) -> int:
    """Of a feature map (1, C, …) C; anything else is one channel."""
    return value.shape[1] if len(value.shape) > 2 and value.shape[0] == 1 and elements(value) else 1


def delta_bytes(value: Value, changed: float, mask_share: float = 1.0) -> float:
    """Bytes of a delta in which the fraction `changed` of the elements is new; never more than the tensor itself.

    A mask has a bit an element; nested it takes less, `mask_share` of that. The same holds of a key whose zeros are
    left out, with the fraction that isn't zero.
    """
    count = elements(value)
    return min(float(value.nbytes), mask_share * math.ceil(count / 8) + changed * count * ITEM_BYTES[value.dtype])
