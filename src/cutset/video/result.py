"""What a stream gives for each picture."""

from __future__ import annotations

import numpy as np

from cutset.cluster.item_result import ItemResult
from cutset.cluster.values import Array

__all__ = ["Result"]


class Result(ItemResult):
    """The outputs for one picture, or why there are none: an item whose input is a picture."""

    __slots__ = ()

    @property
    def picture(self) -> int:
        """The picture's number in its source, from 0."""
        return self.number

    @property
    def pixels(self) -> Array:
        """The picture itself."""
        return self.input

    def top(self, count: int = 5) -> list[tuple[int, float]]:
        """The classes of largest probability: number and softmax of the first output (1, classes). Largest first."""
        logits = self.output.reshape(-1).astype(np.float64)
        if not logits.size:
            return []
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = np.argsort(-shares, kind="stable")[:count]
        return [(int(i), float(shares[i])) for i in best]
