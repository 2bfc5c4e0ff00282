"""Runs the dense network over pictures and compares every tensor with that of the picture before, bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.codec.costs import kernels
from cutset.errors import RequestError
from cutset.kernels.reference_delta import bits, nested_room
from cutset.partition.graph import Graph
from cutset.partition.node import Value
from cutset.video.runtimes import open_stage
from cutset.video.sparsity.changes import Changes, channels, tile_shares

__all__ = ["compare", "measure"]

Array = np.ndarray[Any, Any]


def measure(
    graph: Graph,
    tensors: Mapping[str, Any],
    pictures: Iterable[NDArray[np.uint8]],
    *,
    source: str = "",
    progress: Callable[[int], None] | None = None,
) -> Changes:
    """What changed in every value of `graph` from each picture (1, 3, height, width) to the next.

    Holds all values of one picture at a time. `progress` hears how many pictures are done.
    Raises RequestError for fewer than two pictures and for one of another size.
    """
    stages = [open_stage(graph, [i], tensors) for i in range(len(graph.nodes))]
    last_reader = {name: max((n for n in own if n < len(stages)), default=-1) for name, own in graph.readers.items()}
    held: dict[str, Array] = {}
    changed: dict[str, list[NDArray[np.float32]]] = {name: [] for name in graph.values}
    tiles: list[NDArray[np.float64]] = []
    nonzero: list[list[float]] = []
    encoded: list[list[int]] = []
    count = 0
    [first] = graph.inputs
    for pixels in pictures:
        live: dict[str, Array] = {}
        row: dict[str, tuple[float, int]] = {}

        def note(name: str, array: Array, row: dict[str, tuple[float, int]] = row) -> None:
            fresh = array.reshape(-1)
            if name in held:
                fractions, nbytes = compare(graph.values[name], held[name], fresh)
                changed[name].append(fractions)
                row[name] = float(np.count_nonzero(bits(fresh)) / max(fresh.size, 1)), nbytes
                np.copyto(held[name], fresh)
            else:
                held[name] = fresh.copy()

        if pixels.shape != first.shape or str(pixels.dtype) != first.dtype:
            raise RequestError(f"picture {count} is {pixels.dtype} {pixels.shape}; the graph takes {first.shape}")
        if first.name in held:
            before = held[first.name].reshape(first.shape)
            tiles.append(tile_shares((before != pixels).any(axis=(0, 1))))
        live[first.name] = np.array(pixels)
        note(first.name, live[first.name])
        for i, stage in enumerate(stages):
            made = stage.run(0, live)
            for name, array in made.items():
                note(name, array)
            live |= made
            for name in [name for name in live if last_reader[name] <= i]:
                del live[name]
        if row:
            nonzero.append([row[name][0] for name in graph.values])
            encoded.append([row[name][1] for name in graph.values])
        count += 1
        if progress:
            progress(count)
    if not nonzero:
        raise RequestError(f"{source or 'the source'} has {count} pictures; what changes takes two at least")
    return Changes(
        graph,
        source,
        np.arange(1, count, dtype=np.int64),
        {name: np.stack(rows) for name, rows in changed.items()},
        np.array(tiles, np.float32),
        np.array(nonzero, np.float32),
        np.array(encoded, np.int64),
    )


def compare(value: Value, before: Array, after: Array) -> tuple[NDArray[np.float32], int]:
    """The changed fraction of each channel, and the bytes of a delta: values, and the mask as it is or nested."""
    differs = bits(before) != bits(after)
    planes = differs.reshape(channels(value), -1)
    mask = np.packbits(differs, bitorder="little")
    room = np.empty(nested_room(mask.size), np.uint8)
    smaller = min(mask.size, int(kernels().mask_nest(mask, room)))
    nbytes = smaller + int(np.count_nonzero(differs)) * after.dtype.itemsize
    return planes.mean(axis=1, dtype=np.float64).astype(np.float32), min(nbytes, after.nbytes)
