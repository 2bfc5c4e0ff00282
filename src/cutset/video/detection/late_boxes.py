"""Boxes that thresholds are found by, of a network whose outputs are known later than its stream is set up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.video.detection.output_decoder import OutputDecoder

__all__ = ["LateBoxes"]


class LateBoxes:
    """Makes boxes (n, 6) of outputs by name: left, top, right, bottom, score, class. `decoder` is set before the first.

    This is what `Stream(detections=…)` takes.
    """

    def __init__(self, decoder: OutputDecoder | None = None) -> None:
        self.decoder = decoder

    def __call__(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        assert self.decoder is not None
        with np.errstate(all="ignore"):  # a network may give what is no number; heads leave that out
            found = self.decoder.decode(outputs)
        return np.column_stack([found.boxes, found.scores, found.classes]).astype(np.float32)
