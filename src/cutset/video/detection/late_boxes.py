"""Boxes that thresholds are found by, of a network whose outputs are known later than its stream is set up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.video.detection.choosing import choose_decoder, facts_of
from cutset.video.detection.output_decoder import HeadLimits, OutputDecoder
from cutset.video.network_model import NetworkModel

__all__ = ["LateBoxes", "boxes_of"]

LEAST = 0.25  # score of detections that are compared


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


def boxes_of(model: NetworkModel) -> LateBoxes | None:
    """Boxes of a detector's outputs, as they look, of a score of LEAST or more; None for other networks."""
    decoder = choose_decoder(facts_of(model.graph, model.metadata), HeadLimits(LEAST), "auto", model.metadata)
    return None if decoder is None else LateBoxes(decoder)
