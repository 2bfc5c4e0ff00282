"""The machines that a plan may use: how fast each is at every layer, and how much it can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ConfigError

__all__ = ["Machine", "scaled"]


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """A worker as planners see it. Times are seconds."""

    name: str
    seconds: NDArray[np.float64]  # (nodes,) of each layer, in the graph's order
    memory: int | None = None  # bytes for weights and values; None: no limit
    codec: float = 1.0  # encoding and decoding take so many times what `Traffic` says
    overhead: float = 0.0  # of a picture that passes this machine, beside its layers and payloads
    holds: frozenset[str] | None = None  # weights that needn't be sent to it; None: all of them

    def check(self, nodes: int) -> None:
        """Raises ConfigError for what no machine can be."""
        if self.seconds.shape != (nodes,):
            raise ConfigError(
                f"{self.name} has times for {self.seconds.size} layers, the graph has {nodes}; "
                "its profile is of another model"
            )
        times = (*self.seconds, self.codec, self.overhead)
        if not all(math.isfinite(t) and t >= 0 for t in times):
            raise ConfigError(f"{self.name}: times must be finite and not below 0")
        if self.memory is not None and self.memory <= 0:
            raise ConfigError(f"{self.name}: its memory must be above 0 bytes, not {self.memory}")


def scaled(machine: Machine, speed: float) -> Machine:
    """The machine at `speed` times the speed. Raises ConfigError unless that is above 0."""
    if not 0 < speed < math.inf:
        raise ConfigError(f"{machine.name}: a speed must be above 0, as 0.125 for an eighth, not {speed:g}")
    return replace(
        machine, seconds=machine.seconds / speed, codec=machine.codec / speed, overhead=machine.overhead / speed
    )
