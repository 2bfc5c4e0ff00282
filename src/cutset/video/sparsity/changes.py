"""How much of every tensor of a network changed from picture to picture: what was measured, its file, and its bytes.

What is known of a picture before it is run is how much of it changed, and how far that is spread (`features`). The
spread matters more than the amount: a layer deep in a network changes wherever its field of view changed, so the share
of tiles of that size in which anything changed says nearly all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import ConfigError, GraphError
from cutset.partition.description import describe, graph_digest, read_description
from cutset.partition.graph import Graph
from cutset.partition.node import ITEM_BYTES, Value
from cutset.video.sparsity.archive import read_archive, write_archive

__all__ = [
    "TILES",
    "Changes",
    "channels",
    "delta_bytes",
    "elements",
    "features",
    "read_changes",
    "tile_shares",
    "write_changes",
]

FORMAT = "cutset-changes-1"
WHAT = "a file of changed fractions"
TILES = (8, 16, 32, 64)  # sides, in pixels; each twice the one before


@dataclass(frozen=True)
class Changes:
    """Row p of every array is picture `pictures[p]` against the one before it. Columns without names are the graph's
    values in the order of `graph.values`.
    """

    graph: Graph
    source: str  # what the pictures are of, for titles
    pictures: NDArray[np.int64]  # (P,)
    changed: Mapping[str, NDArray[np.float32]]  # of each value (P, channels): the fraction of elements with other bits
    tiles: NDArray[np.float32]  # (P, tiles): of the picture, see `tile_shares`
    nonzero: NDArray[np.float32]  # (P, V): the fraction of elements that aren't zero
    encoded: NDArray[
        np.int64
    ]  # (P, V): bytes of a delta as mask and values, the smaller mask, at most the tensor's own

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The values' names, in the order of columns."""
        return tuple(self.graph.values)

    @cached_property
    def fractions(self) -> NDArray[np.float32]:
        """(P, V): the changed fraction of each whole value."""
        return np.stack([self.changed[name].mean(axis=1) for name in self.names], axis=1)

    @property
    def features(self) -> NDArray[np.float32]:
        """(P, channels + tiles): what is known of each picture before it is run."""
        return np.concatenate([self.changed[self.graph.inputs[0].name], self.tiles], axis=1)

    def rows(self, chosen: slice) -> Changes:
        """Some of the pictures."""
        changed = {name: array[chosen] for name, array in self.changed.items()}
        tiles, nonzero, encoded = self.tiles[chosen], self.nonzero[chosen], self.encoded[chosen]
        return Changes(self.graph, self.source, self.pictures[chosen], changed, tiles, nonzero, encoded)


def write_changes(path: Path, changes: Changes) -> None:
    """Raises ConfigError where it can't be written."""
    header = {"format": FORMAT, "source": changes.source, "graph": describe(changes.graph)}
    header["digest"] = graph_digest(changes.graph)
    arrays: dict[str, np.ndarray[Any, Any]] = {f"changed {k}": changes.changed[n] for k, n in enumerate(changes.names)}
    arrays |= {
        "pictures": changes.pictures,
        "tiles": changes.tiles,
        "nonzero": changes.nonzero,
        "encoded": changes.encoded,
    }
    write_archive(path, header, arrays)


def read_changes(path: Path) -> Changes:
    """Raises ConfigError for what is no such file."""
    header, arrays = read_archive(path, FORMAT, WHAT)
    try:
        graph = read_description(header.get("graph"))
        pictures = arrays["pictures"].astype(np.int64).reshape(-1)
        count = len(pictures)
        changed = {
            name: _shaped(arrays[f"changed {k}"], (count, channels(value))).astype(np.float32)
            for k, (name, value) in enumerate(graph.values.items())
        }
        tiles = _shaped(arrays["tiles"], (count, len(TILES))).astype(np.float32)
        shape = (count, len(graph.values))
        nonzero, encoded = _shaped(arrays["nonzero"], shape), _shaped(arrays["encoded"], shape)
    except (GraphError, KeyError, ValueError) as error:
        raise ConfigError(f"{str(path)!r} is not {WHAT}: {error}") from None
    for array in (*changed.values(), tiles, nonzero):
        if not ((array >= 0) & (array <= 1)).all():
            raise ConfigError(f"{str(path)!r} is not {WHAT}: it has fractions beyond 0 to 1")
    if not graph.inputs or not count:
        raise ConfigError(f"{str(path)!r} is not {WHAT}: it has no pictures")
    source = str(header.get("source", ""))[:200]
    return Changes(graph, source, pictures, changed, tiles, nonzero.astype(np.float32), encoded.astype(np.int64))


def _shaped(array: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if array.shape != shape:
        raise ValueError(f"an array is {array.shape} and not {shape}")
    return array


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


def elements(value: Value) -> int:
    """How many numbers a tensor has."""
    return math.prod(value.shape)


def channels(value: Value) -> int:
    """Of a feature map (1, C, …) C; anything else is one channel."""
    return value.shape[1] if len(value.shape) > 2 and value.shape[0] == 1 and elements(value) else 1


def delta_bytes(value: Value, changed: float, mask_share: float = 1.0) -> float:
    """Bytes of a delta in which the fraction `changed` of the elements is new; never more than the tensor itself.

    A mask has a bit an element; nested it takes less, `mask_share` of that. The same holds of a key whose zeros are
    left out, with the fraction that isn't zero.
    """
    count = elements(value)
    return min(float(value.nbytes), mask_share * math.ceil(count / 8) + changed * count * ITEM_BYTES[value.dtype])
