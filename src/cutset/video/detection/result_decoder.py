"""From the results of a stream to what is in its pictures."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from cutset.video.detection.boxes import Detections
from cutset.video.detection.output_decoder import OutputDecoder
from cutset.video.result import Result

__all__ = ["ResultDecoder"]


class ResultDecoder:
    """Reads results with a decoder; boxes are in pixels of the source's own pictures.

    `only`: names of the classes that count; empty: all.
    """

    def __init__(self, decoder: OutputDecoder, only: Collection[str] = ()) -> None:
        self.decoder, self._only = decoder, frozenset(only)

    @property
    def classes(self) -> Sequence[str]:
        """The names of those that count; () where nobody knows them."""
        return [name for name in self.decoder.names if not self._only or name in self._only]

    def read(self, result: Result) -> Detections:
        """What is in a picture; nothing where it was dropped. Raises ConfigError for outputs that changed shape."""
        if result.dropped:
            return Detections.none(self.decoder.names)
        with np.errstate(all="ignore"):  # a network may give what is no number; heads leave that out
            found = self.decoder.decode(result.outputs)
        if self._only:
            found = found.chosen(np.array([found.label(i) in self._only for i in range(len(found))], bool))
        return found.in_source(result.placement)
