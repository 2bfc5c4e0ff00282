"""What delta compute would cost, for the pictures of a source and the error that is allowed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

from cutset.cluster.values import Array
from cutset.partition.timing import PAUSE
from cutset.video.accuracy import first_scale
from cutset.video.check import difference
from cutset.video.delta.box_agreement import Disagreement
from cutset.video.delta.calibrating import Moved
from cutset.video.delta.pricing import DeltaPrice, measure_price
from cutset.video.delta.program import Program
from cutset.video.detection.late_boxes import boxes_of
from cutset.video.network_model import NetworkModel
from cutset.video.profile.setup import Progress, no_progress, torch_threads
from cutset.video.runtimes.choose import whole_network

__all__ = ["MOST_PICTURES", "price_delta"]

MOST_PICTURES, FEWEST = 13, 4  # that are looked at; the first one is computed whole
SECONDS, PLAYS = 8.0, 6  # that it may take about, and how often they are computed


def price_delta(
    model: NetworkModel,
    pictures: Sequence[Array],
    limit: float,
    *,
    boxes: bool = False,
    threads: int = 1,
    runtime: str = "",
    scale: float | None = None,
    progress: Progress = no_progress,
) -> DeltaPrice | None:
    """Prices for consecutive pictures of the network's size, MOST_PICTURES at most; None where none of its layers can
    be computed by positions, or there are fewer than two pictures.

    `limit` is that of `Accuracy`: of the output's error, or with `boxes` of detections' disagreement. A network of
    which nothing says what it detects is priced by the thresholds with which a stream begins. `scale` is that of
    thresholds, in place of the one that is found. Raises CutsetError.
    """
    found = [{model.input.name: picture.reshape(model.input.shape)} for picture in pictures[:MOST_PICTURES]]
    if len(found) < 2:
        return None
    with torch_threads(threads, model.graph):
        program = Program(model.graph, range(len(model.graph.nodes)), model.tensors, threads, runtime)
        if not program.sparse_flops:
            return None
        network = whole_network(model, runtime, threads)
        dense: list[Mapping[str, Array]] = [network(found[0][model.input.name])]
        seconds: list[float] = []
        for values in found[1:]:
            if len(dense) >= FEWEST and PLAYS * sum(seconds) > SECONDS:
                break
            time.sleep(PAUSE)
            start = time.perf_counter()
            dense.append(network(values[model.input.name]))
            seconds.append(time.perf_counter() - start)
        progress("delta compute", 0, 1)
        moves, known = _moves(model, limit, boxes)
        first = first_scale(limit, boxes=boxes) if scale is None else scale
        price = measure_price(
            program,
            found[: len(dense)],
            dense,
            moves,
            dense_seconds=statistics.median(seconds),
            scale=first,
            search=known and scale is None,
        )
        progress("delta compute", 1, 1)
    return price


def _moves(model: NetworkModel, limit: float, boxes: bool) -> tuple[Moved, bool]:
    """How far outputs are apart as a share of what is allowed, and whether that is known."""
    if boxes:
        detections = boxes_of(model)
        return (lambda found, wanted: 0.0, False) if detections is None else (Disagreement(detections).moved, True)
    return lambda found, wanted: difference(found, wanted)[1] / max(limit, 1e-9), True
