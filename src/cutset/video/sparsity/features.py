"""What is known of a picture before it is run: how much of it changed, and how far that is spread.

The spread matters more than the amount: a layer deep in a network changes wherever its field of view changed, so the
share of tiles of that size in which anything changed says nearly all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TILES", "features", "tile_shares"]

TILES = (8, 16, 32, 64)  # sides, in pixels; each twice the one before


def features(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of pictures (1, C, height, width): (C + tiles,), the changed fraction of each channel, then `tile_shares`."""
    differs = before != after
    channels = differs.mean(axis=(0, 2, 3), dtype=np.float64)
    return np.concatenate([channels, tile_shares(differs.any(axis=(0, 1)))]).astype(np.float32)


def tile_shares(changed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(tiles,): for each of TILES the share of tiles of (height, width) in which something changed."""
    shares = []
    side = 1
    grid: Any = changed
    for tile in TILES:
        step = tile // side
        rows, columns = (-(-size // step) * step for size in grid.shape)
        whole = np.zeros((rows, columns), bool)
        whole[: grid.shape[0], : grid.shape[1]] = grid
        grid = whole.reshape(rows // step, step, columns // step, step).any(axis=(1, 3))
        side = tile
        shares.append(float(grid.mean()))
    return np.array(shares)
