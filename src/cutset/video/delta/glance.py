"""How much of a stage's inputs changes, by a few of their rows: for as long as it is computed dense anyway."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cutset.cluster.values import Array

__all__ = ["Glance"]

APART = 8  # rows, of which one is looked at


class Glance:
    """Of one source. `share` compares an item with the one before."""

    def __init__(self) -> None:
        self._before: dict[str, Array] = {}

    def share(self, values: Mapping[str, Array], thresholds: Mapping[str, float]) -> float:
        """The largest share of an input's places that differ by its threshold or more, 1 where nothing is known."""
        most = 0.0
        for name, threshold in thresholds.items():
            rows = values[name][..., ::APART, :] if values[name].ndim > 1 else values[name]
            before = self._before.get(name)
            self._before[name] = rows.copy()
            if before is None:
                most = 1.0
                continue
            exact = rows.dtype.kind != "f" and rows.dtype != np.uint8
            differs = before != rows
            if threshold > 0 and not exact:
                differs &= ~(np.abs(np.subtract(rows, before, dtype=np.float32)) < threshold)
            places = differs.any(axis=tuple(range(differs.ndim - 2))) if differs.ndim > 2 else differs
            most = max(most, float(places.mean()) if places.size else 0.0)
        return most

    def forget(self) -> None:
        """What comes next isn't compared with what was."""
        self._before.clear()
