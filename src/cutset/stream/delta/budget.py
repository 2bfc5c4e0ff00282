"""How far a tensor at the receiver may be from the true one, per edge, and how edges share a limit on the output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cutset.errors import ConfigError

__all__ = ["EXACT", "Budget", "OutputBudget"]


@dataclass(frozen=True, slots=True)
class Budget:
    """What the payloads of an edge may leave out.

    `threshold`: an element is sent again once it is farther than that from what the receiver holds (not from the last
    picture: the loop is closed). So at every step, element by element, |held - true| <= threshold: exactly, without
    drift, and whatever the threshold was before. Only float32 and uint8 (levels) take one. Infinities are exact, and a
    NaN is a NaN with the same bits.

    `half`: float32 values go over the link as float16, unless one of a payload is too large for that. Then
    |held - true| <= threshold + max(|true| * 2^-11, 2^-25), and a NaN is some NaN.

    threshold 0 without half is exact to the bit.
    """

    threshold: float = 0.0
    half: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < math.inf:
            raise ConfigError(f"a threshold must be 0 or above, not {self.threshold}")

    @property
    def exact(self) -> bool:
        return not self.threshold and not self.half

    def bound(self, magnitude: float = 0.0) -> float:
        """The largest |held - true| where |true| is `magnitude`."""
        return self.threshold + (max(magnitude * 2.0**-11, 2.0**-25) if self.half else 0.0)

    def check(self, dtype: str) -> None:
        """Raises ConfigError if tensors of this dtype can't be sent with this budget."""
        if self.threshold and dtype not in ("<f4", "u1"):
            raise ConfigError(f"a threshold needs float32 or uint8 tensors, not {dtype}")
        if self.half and dtype != "<f4":
            raise ConfigError(f"only float32 tensors can be sent as float16, not {dtype}")


EXACT = Budget()


class OutputBudget:
    """Scales the edges' thresholds together, down from what they are, so that the error of the final output stays
    within `limit`.

    What is guaranteed is each edge's own bound. The output's error follows from the network and is only known where it
    is measured (`--check`): tell it with `observe`. A lower threshold holds from the next payload on, so an excess
    lasts as long as it isn't observed, and no longer.
    """

    def __init__(self, limit: float, edges: Mapping[str, Budget]) -> None:
        if not 0 <= limit < math.inf:
            raise ConfigError(f"the limit on the output's error must be 0 or above, not {limit}")
        self.limit = limit
        self.scale = 1.0 if limit else 0.0
        self._edges = dict(edges)

    def budget(self, edge: str) -> Budget:
        """What the edge's encoder must keep from now on."""
        whole = self._edges[edge]
        return replace(whole, threshold=whole.threshold * self.scale, half=whole.half and self.limit > 0)

    def observe(self, error: float) -> bool:
        """Takes the error of an output; True if the budgets changed. Down fast, up slowly."""
        before = self.scale
        if not error <= self.limit:
            self.scale *= min(max(self.limit / error, 0.1), 0.8) if math.isfinite(error) else 0.1
        elif error < self.limit / 2:
            self.scale = min(1.1 * self.scale, 1.0)
        return self.scale != before
