"""The recipe of a calibrated integer checkpoint: scales that move between channels, and errors that are spread."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.kernels.reference_linear import quantize_weight
from cutset.models.files.channel_scales import Key, movable, shared_channels
from cutset.models.files.channel_search import search_scales
from cutset.models.files.error_spreading import compensation
from cutset.models.files.integer import Floats, Progress
from cutset.models.files.row_rounding import compensated_rows
from cutset.models.files.tensor import Tensor
from cutset.models.run.calibration import Calibration
from cutset.models.spec import DecoderSpec

__all__ = ["CalibratedRecipe"]


class CalibratedRecipe:
    """A Recipe (see cutset.models.files.integer) by what a text makes a model multiply its matrices with.

    Each site gets the scales of its channels that leave the least error, and then the integers that spread it. A site
    that the text never reaches is rounded canonically.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        tensors: Mapping[str, Tensor],
        pieces: Sequence[NDArray[np.int32]],
        progress: Progress | None = None,
    ) -> None:
        """pieces: token ids, each run by itself from the first position on."""
        self._spec, self._pieces = spec, pieces
        self._calibration = Calibration(spec, tensors, pieces, progress, head=True)

    def __call__(self, site: Key, weight: Floats) -> tuple[NDArray[np.int8], Floats, Floats]:
        if not np.isfinite(weight).all():
            raise ValueError("the weights hold a NaN or an infinity")
        moments, count = self._calibration.moments(site), self._calibration.count(site)
        columns = np.ones(weight.shape[1], np.float32)
        how = compensation(moments, count)
        if how is None:
            return *quantize_weight(weight), columns
        if movable(self._spec, site):
            makers = shared_channels(self._spec, site)
            columns = search_scales(weight, how.remaining, self._calibration.rows(site), count, makers)
            weight = weight * columns
            how = compensation(moments / np.outer(columns, columns), count)
            assert how is not None
        return *compensated_rows(weight, how), columns

    def record(self) -> dict[str, Any]:
        """How it rounds, and how many tokens it was calibrated with, by their digest (of int32, little-endian)."""
        ids = np.concatenate(self._pieces).astype("<i4")
        return {
            "rounding": "compensated",
            "channel_scales": "searched",
            "calibration_tokens": len(ids),
            "calibration_sha256": hashlib.sha256(ids.tobytes()).hexdigest(),
        }
