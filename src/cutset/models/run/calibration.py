"""Second moments of what a model multiplies its matrices with, over a text: what error-compensated rounding needs."""

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
Key = tuple[Site, int, int]
Moments = NDArray[np.float32]


class Calibration:
    """Runs a model over pieces of a text, in float32, and hands out the second moments at each site.

    They are collected for as many sites at a time as fit into memory; sites are asked for in their order.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        tensors: Mapping[str, Tensor],
        pieces: Sequence[NDArray[np.int32]],
        progress: Progress | None = None,
    ) -> None:
        """pieces: token ids, each run by itself from the first position on."""
        self._spec, self._pieces, self._progress = spec, pieces, progress
        ops = NumpyOps()
        self._linears = FloatLinears(spec, tensors, ops)
        self._decoder = ReferenceDecoder(spec, tensors, ops, self._recorded)
        self._sites = [site for site in spec.sites() if site[0] != "lm_head"]
        self._found: dict[Key, Moments] = {}

    def moments(self, site: Key) -> Moments:
        """sum over rows of x x^T, (depth, depth), of the rows that were multiplied at a site."""
        if site not in self._found:
            self._collect(self._sites.index(site))
        return self._found[site]

    def _collect(self, first: int) -> None:
        self._found, room = {}, MOST_BYTES
        for site in self._sites[first:]:
            depth = self._spec.depth(*site)
            room -= 4 * depth * depth
            if room < 0 and self._found:
                break
            self._found[site] = np.zeros((depth, depth), np.float32)
        for number, ids in enumerate(self._pieces):
            batch = Batch.whole(ids[None], 16)
            self._decoder.forward(batch, self._decoder.new_cache(-(-len(ids) // 16), 16))
            if self._progress is not None:
                self._progress("the calibration text", number + 1, len(self._pieces))

    def _recorded(self, site: Site, layer: int, expert: int, rows: Any) -> Any:
        if site == "lm_head":  # nobody looks at the logits
            return np.zeros((len(rows), self._spec.vocab_size), np.float32)
        found = self._found.get((site, layer, expert))
        if found is not None:
            found += rows.T @ rows
        return self._linears(site, layer, expert, rows)
