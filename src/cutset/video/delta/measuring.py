"""How much of every layer delta compute does, picture by picture, and how well that was foreseen.

What is measured has the form of other changed fractions (`cutset.video.sparsity.changes`), so that the same models are
fitted to it, and the same views show it: here a value's fraction is the share of its positions that were computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import RequestError
from cutset.partition.graph import Graph
from cutset.video.delta.program import Program
from cutset.video.sparsity.changes import TILES, Changes, channels, tile_shares
from cutset.video.sparsity.predictor import Trained

__all__ = ["MARK", "foreseen", "measure_dirty", "operations"]

MARK = " by delta compute"  # ends the name of what was measured here


def measure_dirty(
    graph: Graph,
    tensors: Mapping[str, Any],
    pictures: Iterable[NDArray[np.uint8]],
    *,
    scale: float = 1.0,
    threads: int = 1,
    source: str = "",
    progress: Callable[[int], None] | None = None,
) -> Changes:
    """The dirty fraction of every value of `graph` at each picture (1, 3, height, width) after the first.

    `scale` is that of the thresholds. Raises RequestError for fewer than two pictures, and for one of another size.
    """
    program = Program(graph, range(len(graph.nodes)), tensors, threads)
    state, [first] = program.state(), graph.inputs
    changed: dict[str, list[NDArray[np.float32]]] = {name: [] for name in graph.values}
    tiles: list[NDArray[np.float64]] = []
    count = 0
    for pixels in pictures:
        if pixels.shape != first.shape or str(pixels.dtype) != first.dtype:
            raise RequestError(f"picture {count} is {pixels.dtype} {pixels.shape}; the graph takes {first.shape}")
        masks = program.take(state, {first.name: pixels}, scale=scale)
        mask = masks[first.name]
        seen = np.zeros(first.shape[2:], bool) if mask is None else np.array(mask).view(bool)
        work = program.update(state, masks, scale)
        if count:
            tiles.append(tile_shares(seen) if seen.ndim == 2 else np.zeros(len(TILES)))
            for name, value in graph.values.items():
                share = work.shares.get(graph.maker[name], float(seen.mean()))  # what only names an input is that
                changed[name].append(np.full(channels(value), share, np.float32))
        count += 1
        if progress:
            progress(count)
    if count < 2:
        raise RequestError(f"{source or 'the source'} has {count} pictures; what changes takes two at least")
    ones = np.ones((count - 1, len(graph.values)), np.float32)
    return Changes(
        graph,
        f"{source or 'a source'}, thresholds x {scale:g},{MARK}",
        np.arange(1, count, dtype=np.int64),
        {name: np.stack(rows) for name, rows in changed.items()},
        np.array(tiles, np.float32),
        ones,
        np.array([[value.nbytes for value in graph.values.values()]] * (count - 1), np.int64),
    )


def operations(graph: Graph, fractions: Mapping[str, Any]) -> NDArray[np.float64]:
    """(P,): of all operations the share that is done where so much (P,) of each value is computed."""
    total: Any = 0.0
    for node in graph.nodes:
        if node.made:
            total = total + node.flops * np.asarray(fractions[node.made[0].name], np.float64)
    return np.asarray(total / max(sum(node.flops for node in graph.nodes if node.made), 1))


def foreseen(changes: Changes, trained: Trained) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each picture (P,) that the training hasn't seen: what share of the operations was measured and predicted."""
    rows = changes.rows(slice(int(np.searchsorted(changes.pictures, trained.errors.seen, "right")), None))
    predicted = {name: found.mean(axis=1) for name, found in trained.propagate(rows.features).items()}
    measured = {name: rows.changed[name].mean(axis=1) for name in rows.names}
    return operations(changes.graph, measured), operations(changes.graph, predicted)
