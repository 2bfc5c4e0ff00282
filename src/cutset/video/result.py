"""What a stream gives for each picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cutset.cluster.item_result import ItemResult
from cutset.cluster.values import Array
from cutset.video.sources.placement import Placement

__all__ = ["PictureNote", "Result"]


@dataclass(frozen=True, slots=True)
class PictureNote:
    """What a source said of a picture; see `Picture`."""

    index: int | None = None
    placement: Placement | None = None
    original: Array | None = None


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

    @property
    def index(self) -> int:
        """The picture's number with those counted that a live source dropped before the stream took them."""
        found = self.note.index if isinstance(self.note, PictureNote) else None
        return self.number if found is None else found

    @property
    def placement(self) -> Placement:
        """Where the source's own picture lies in the one that the network took."""
        found = self.note.placement if isinstance(self.note, PictureNote) else None
        rows, columns = self.input.shape[-2:]
        return Placement.stretch((rows, columns), (rows, columns)) if found is None else found

    @property
    def original(self) -> Array:
        """The source's own picture (1, 3, rows, columns), where it is there; else what the network took of it."""
        found = self.note.original if isinstance(self.note, PictureNote) else None
        return self.input if found is None else found

    def top(self, count: int = 5) -> list[tuple[int, float]]:
        """The classes of largest probability: number and softmax of the first output (1, classes). Largest first."""
        logits = self.output.reshape(-1).astype(np.float64)
        if not logits.size:
            return []
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = np.argsort(-shares, kind="stable")[:count]
        return [(int(i), float(shares[i])) for i in best]
