"""What a model multiplies its matrices with, over a text: second moments, and some of the rows themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.models.files.integer import Progress
from cutset.models.files.tensor import Tensor
from cutset.models.run.decoder import FloatLinears, ReferenceDecoder
from cutset.models.run.executor import Batch
from cutset.models.run.numpy_ops import NumpyOps
from cutset.models.spec import DecoderSpec, Site

__all__ = ["Calibration"]

MOST_BYTES = 2 << 30  # of moments that are collected in one pass
MOST_ROWS = 256  # of a site that are kept as they are
Key = tuple[Site, int, int]
Moments = NDArray[np.float32]


class Calibration:
    """Runs a model over pieces of a text, in float32, and hands out what is multiplied at each site.

    They are collected for as many sites at a time as fit into memory; sites are asked for in their order.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        tensors: Mapping[str, Tensor],
        pieces: Sequence[NDArray[np.int32]],
        progress: Progress | None = None,
        *,
        head: bool = False,
    ) -> None:
        """pieces: token ids, each run by itself from the first position on. With `head` it is a site too."""
        self._spec, self._pieces, self._progress = spec, pieces, progress
        ops = NumpyOps()
        self._linears = FloatLinears(spec, tensors, ops)
        self._decoder = ReferenceDecoder(spec, tensors, ops, self._recorded)
        self._sites = [site for site in spec.sites() if head or site[0] != "lm_head"]
        self._found: dict[Key, Moments] = {}
        self._rows: dict[Key, list[NDArray[np.float32]]] = {}
        self._counts: dict[Key, int] = {}

    def moments(self, site: Key) -> Moments:
        """sum over rows of x x^T, (depth, depth), of the rows that were multiplied at a site."""
        if site not in self._found:
            self._collect(self._sites.index(site))
        return self._found[site]

    def rows(self, site: Key) -> NDArray[np.float32]:
        """Some of the rows that were multiplied at a site, from all over the text, (rows, depth)."""
        self.moments(site)
        return np.concatenate(self._rows[site])

    def count(self, site: Key) -> int:
        """How many rows were multiplied at a site."""
        self.moments(site)
        return self._counts[site]

    def _collect(self, first: int) -> None:
        self._found, room = {}, MOST_BYTES
        self._rows, self._counts = {}, {}
        for site in self._sites[first:]:
            depth = self._spec.depth(*site)
            room -= 4 * depth * depth
            if room < 0 and self._found:
                break
            self._found[site] = np.zeros((depth, depth), np.float32)
            self._rows[site], self._counts[site] = [], 0
        for number, ids in enumerate(self._pieces):
            batch = Batch.whole(ids[None], 16)
            self._decoder.forward(batch, self._decoder.new_cache(-(-len(ids) // 16), 16))
            if self._progress is not None:
                self._progress("the calibration text", number + 1, len(self._pieces))

    def _recorded(self, site: Site, layer: int, expert: int, rows: Any) -> Any:
        key = site, layer, expert
        if key in self._found:
            self._found[key] += rows.T @ rows
            self._counts[key] += len(rows)
            each = max(1, MOST_ROWS // len(self._pieces))  # of a piece
            self._rows[key].append(rows[:: -(-len(rows) // each)].copy())
        if site == "lm_head":  # nobody looks at the logits
            return np.zeros((len(rows), self._spec.vocab_size), np.float32)
        return self._linears(*key, rows)
