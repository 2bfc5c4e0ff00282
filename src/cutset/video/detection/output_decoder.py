"""What decoders of detectors' outputs have in common: what they are told, and what they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ConfigError
from cutset.video.detection.boxes import Detections, suppress

__all__ = [
    "HeadFacts",
    "HeadLimits",
    "OutputDecoder",
    "Seen",
    "best_of",
    "logits_seen",
    "rows_of",
    "sigmoid",
    "softmax",
]

MOST_CANDIDATES = 30_000  # that are compared with each other

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class HeadLimits:
    """What of a detector's output counts. Raises ConfigError."""

    score: float | None = None  # the least; None: what is usual for the kind of detector
    overlap: float = 0.45  # the most that two boxes of one class may overlap
    most: int = 300  # boxes of a picture

    def __post_init__(self) -> None:
        if self.score is not None and not 0 <= self.score <= 1:
            raise ConfigError(f"--min-score is from 0 to 1, not {self.score:g}")
        if not 0 <= self.overlap <= 1:
            raise ConfigError(f"--max-overlap is from 0 to 1, not {self.overlap:g}")
        if not 1 <= self.most <= 10_000:
            raise ConfigError(f"at most 1 to 10,000 boxes of a picture, not {self.most}")


@dataclass(frozen=True)
class HeadFacts:
    """What is known of a network's outputs before there is a picture: names and shapes in order, the rows and columns
    of its input, the names of its classes (() where nobody says them), and anchors (n, 4) of an SSD."""

    outputs: Sequence[tuple[str, tuple[int, ...]]]
    picture: tuple[int, int]
    names: Sequence[str] = ()
    anchors: NDArray[np.float32] | None = None

    def shown(self) -> str:
        """For messages."""
        return ", ".join(f"{name[:60]} {list(shape)}" for name, shape in list(self.outputs)[:8])

    def find(self, *words: str) -> list[tuple[str, tuple[int, ...]]]:
        """The outputs whose names have one of these words."""
        return [(name, shape) for name, shape in self.outputs if any(word in name.lower() for word in words)]


class OutputDecoder(Protocol):
    """Reads one kind of output. It may keep what the first pictures showed: one for each network, one thread."""

    kind: str  # as in --detector
    names: Sequence[str]

    def decode(self, outputs: Outputs) -> Detections:
        """What is in a picture, in pixels of the network's picture. Raises ConfigError for outputs of other shapes."""


@dataclass
class Seen:
    """Whether numbers were ever outside of a range: what a network gives is found out from its pictures, and once it
    is known it stays, so that two pictures aren't read in two ways."""

    low: float
    high: float
    outside: bool = field(default=False)

    def look(self, values: NDArray[Any]) -> bool:
        """Takes another picture's numbers."""
        if not self.outside:  # what is no number is neither
            self.outside = bool((values < self.low).any() or (values > self.high).any())
        return self.outside


def logits_seen() -> Seen:
    """For scores: logits, unless all are near 0 to 1. Shares of a quantised network may be a little outside."""
    return Seen(-0.25, 1.25)


def sigmoid(values: NDArray[Any]) -> NDArray[np.float32]:
    """1 / (1 + e⁻ˣ), of any float32 without overflow."""
    half = np.float32(0.5)
    found: NDArray[np.float32] = half + half * np.tanh(half * values.astype(np.float32))
    return found


def softmax(values: NDArray[Any]) -> NDArray[np.float32]:
    """Shares over the last axis."""
    shares = np.exp(values.astype(np.float32) - values.max(axis=-1, keepdims=True).astype(np.float32))
    found: NDArray[np.float32] = shares / shares.sum(axis=-1, keepdims=True)
    return found


def rows_of(array: NDArray[Any], what: str) -> NDArray[np.float32]:
    """An output (1, n, m) or (n, m) as float32 (n, m). Raises ConfigError for another shape."""
    found = array[0] if array.ndim == 3 and array.shape[0] == 1 else array
    if found.ndim != 2:
        raise ConfigError(f"{what} has shape {list(array.shape)[:8]}; one picture's rows were expected")
    return found.astype(np.float32, copy=False)


def best_of(found: Detections, least: float, limits: HeadLimits) -> Detections:
    """Candidates of at least that score which are boxes, without those that a better one of their class overlaps."""
    boxes, scores = found.boxes, found.scores
    fine = (scores >= least) & np.isfinite(scores) & np.isfinite(boxes).all(axis=1)
    fine &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    index = np.flatnonzero(fine)
    if index.size > MOST_CANDIDATES:
        index = index[np.argsort(-scores[index], kind="stable")[:MOST_CANDIDATES]]
    left = found.chosen(index)
    left = replace(left, scores=left.scores.astype(np.float32), classes=left.classes.astype(np.int64))
    return left.chosen(suppress(left.boxes, left.scores, left.classes, limits.overlap, limits.most))
