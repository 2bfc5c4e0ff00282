"""How far a tensor at the receiver may be from the true one, per edge, and how edges share a limit on the output."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cutset.errors import ConfigError

__all__ = ["EXACT", "Budget"]


@dataclass(frozen=True, slots=True)
class Budget:
    """What the payloads of an edge may leave out.

    `threshold`: an element is sent again once it is farther than that from what the receiver holds (not from the last
    item: the loop is closed). So at every step, element by element, |held - true| <= threshold: exactly, without
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
        """Whether every bit arrives."""
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
