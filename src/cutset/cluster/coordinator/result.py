"""What a stream gives for each picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Result"]


@dataclass(frozen=True, slots=True)
class Result:
    """The outputs for one picture, or why there are none. Times are seconds of `time.monotonic()`."""

    source: int  # number of the source, from 0
    picture: int  # number in the source, from 0
    time: float  # in the video, or of capture, as the source says; seconds
    outputs: Mapping[str, NDArray[Any]]  # by the graph's names, bfloat16 as float32; empty when dropped
    dropped: str  # why, or empty
    plan: int  # number of the plan that made it
    captured: float  # when a camera gave it, when it was due at the rate asked for, or when it was read; see Feeder
    sent: float  # when it was last sent; as `captured` if never
    done: float
    attempts: int  # how often it was sent
    pixels: NDArray[Any]  # the picture itself

    @property
    def output(self) -> NDArray[Any]:
        """The network's first output. Raises KeyError for a picture that was dropped."""
        if not self.outputs:
            raise KeyError(f"picture {self.picture} was dropped: {self.dropped}")
        return next(iter(self.outputs.values()))

    @property
    def age(self) -> float:
        """Seconds from capture to the result, with all waiting and every time that it had to be sent again."""
        return self.done - self.captured

    @property
    def latency(self) -> float:
        """The age: what whoever needs the result waits for."""
        return self.age

    @property
    def transit(self) -> float:
        """Seconds from the last sending to the result: links and layers alone."""
        return self.done - self.sent

    def top(self, count: int = 5) -> list[tuple[int, float]]:
        """The classes of largest probability: number and softmax of the first output (1, classes). Largest first."""
        logits = self.output.reshape(-1).astype(np.float64)
        if not logits.size:
            return []
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = np.argsort(-shares, kind="stable")[:count]
        return [(int(i), float(shares[i])) for i in best]
