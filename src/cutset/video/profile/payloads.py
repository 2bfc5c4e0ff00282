"""What every value of a network costs to send, for pictures of a source: the real network, encoder and decoder.

And what the pictures cost in other encodings: the source's own packets, and every one of FORMS.

Between two cuts of the trunk the layers run for all pictures before the next ones do, so that no more is held than what
crosses one cut, once a picture, and the values of one block.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.cluster.codecs import channel_of
from cutset.codec import Decoder, EdgeSpec, Encoder, Verdict
from cutset.errors import ConfigError, DeviceError, RequestError
from cutset.partition.graph import Graph
from cutset.partition.node import Value
from cutset.partition.traffic import Coded, Traffic
from cutset.video.picture_forms import FORMS, PictureForm
from cutset.video.runtimes import open_stage
from cutset.video.sources import PacketDecoder

__all__ = [
    "MeasuredValue",
    "form_input",
    "measure_sizes",
    "measure_value",
    "measured_inputs",
    "packet_input",
]

FAST, SLOW = math.inf, 1e6  # bytes a second of the two links that values are encoded for


@dataclass(frozen=True, slots=True)
class MeasuredValue:
    """One value: its traffic, and the median share of its elements that changed."""

    traffic: Traffic
    changed: float


def measure_sizes(
    graph: Graph,
    tensors: Mapping[str, Any],
    groups: Sequence[Sequence[NDArray[np.uint8]]],
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, MeasuredValue]:
    """Every value of the graph, for groups of consecutive pictures of its input's shape.

    The first of each group is sent as a key, the others as deltas. Raises RequestError for groups that have none.
    """
    if len(graph.inputs) != 1:
        raise ConfigError("sizes are measured for networks with one input, the picture")
    if not groups or min(map(len, groups)) < 2:
        raise RequestError("sizes need at least two pictures in a row; the source has fewer")
    starts = tuple(accumulate((len(group) for group in groups[:-1]), initial=0))
    [picture] = graph.inputs
    held = [{picture.name: each} for group in groups for each in group]
    found = {picture.name: measure_value(picture, [each[picture.name] for each in held], starts)}
    places = sorted({*graph.trunk, 0, len(graph.nodes)})
    for begin, end in pairwise(places):
        nodes = range(begin, end)
        # The values that stay inside the block are outputs here, so that they can be looked at.
        inside = [value for i in nodes for value in graph.nodes[i].made]
        shown = replace(graph, outputs=tuple(dict.fromkeys((*graph.outputs, *(value.name for value in inside)))))
        stage = open_stage(shown, nodes, tensors)
        made = [stage.run(0, each) for each in held]
        for value in inside:
            found[value.name] = measure_value(value, [each[value.name] for each in made], starts)
        passes = graph.cuts[end].values
        held = [
            {name: new[name] if name in new else old[name] for name in passes}
            for old, new in zip(held, made, strict=True)
        ]
        progress("sizes", end, len(graph.nodes))
    return found


def measure_value(value: Value, given: Sequence[Any], starts: Sequence[int] = (0,)) -> MeasuredValue:
    """One value of consecutive pictures, arrays or tensors; at `starts` a group of them begins, with a key."""
    spec = channel_of(0, value)
    arrays = [_plain(one).astype(spec.dtype, copy=False) for one in given]
    ways = [_encode(spec, arrays, starts, bandwidth) for bandwidth in (FAST, SLOW)]
    rest = [i for i in range(len(arrays)) if i not in starts]
    keys, deltas = (tuple(_median([way[i][0] for i in chosen]) for way in ways) for chosen in (starts, rest))
    typical = deltas[0].nbytes
    mean = statistics.fmean(ways[0][i][0].nbytes for i in rest) / typical if typical else 1.0
    return MeasuredValue(Traffic(keys, deltas, mean), statistics.median(ways[0][i][1] for i in rest))


def _plain(one: Any) -> NDArray[Any]:
    if isinstance(one, np.ndarray):
        return np.ascontiguousarray(one)
    from cutset.video.torch_stage import to_array

    return to_array(one)


def _encode(
    spec: EdgeSpec, arrays: Sequence[NDArray[Any]], starts: Sequence[int], bandwidth: float
) -> list[tuple[Coded, float]]:
    encoder = Encoder(spec, bandwidth=bandwidth)
    decoder = Decoder(spec)
    found = []
    for i, array in enumerate(arrays):
        if i in starts:
            encoder.lost()
        begin = time.perf_counter()
        encoded = encoder.encode(array, i)
        middle = time.perf_counter()
        if decoder.decode(encoded.payload, encoded.arrays).verdict is not Verdict.APPLIED:
            raise RuntimeError(f"{spec.edge}: the codec lost its own payload")
        seconds = time.perf_counter() - middle
        found.append((Coded(encoded.nbytes, middle - begin, seconds), encoded.changed))
    return found


def _median(ways: Sequence[Coded]) -> Coded:
    """The picture in the middle: a few with much change don't make a plan, nor does a machine that was busy."""
    return Coded(*map(statistics.median, zip(*ways, strict=True)))


class _Clock:
    seconds = 0.0


@contextmanager
def _timed() -> Iterator[_Clock]:
    clock, begin = _Clock(), time.perf_counter()
    yield clock
    clock.seconds = time.perf_counter() - begin


def packet_input(codec: Any, pictures: Sequence[Any]) -> Traffic:
    """Of consecutive pictures of an encoded source, from its first one."""
    decoder = PacketDecoder(codec)
    times = []
    for picture in pictures:
        with _timed() as clock:
            decoder.decode(picture.packets, opens=picture.opens, skipped=picture.skipped)
        times.append(clock.seconds)
    sizes = [sum(map(len, picture.packets)) for picture in pictures]
    typical = max(statistics.median(sizes), 1)
    key = Coded(max(sizes[0], 1), 0.0, times[0])
    return Traffic((key,), (Coded(typical, 0.0, statistics.median(times)),), statistics.fmean(sizes) / typical)


def form_input(form: PictureForm, pictures: Sequence[NDArray[np.uint8]]) -> Traffic | None:
    """Of some pictures; None where a library that the form needs isn't installed."""
    ways = []
    try:
        for pixels in pictures:
            with _timed() as encode:
                data = form.encode(pixels)
            with _timed() as decode:
                form.decode(data, pixels.shape)
            ways.append((len(data), encode.seconds, decode.seconds))
    except DeviceError:
        return None
    nbytes, encodes, decodes = zip(*ways, strict=True)
    return Traffic((Coded(statistics.fmean(nbytes), statistics.median(encodes), statistics.median(decodes)),))


def measured_inputs(codec: Any, pictures: Sequence[Any], few: int = 5) -> dict[str, Traffic]:
    """All of them, for consecutive pictures of a source from its first one."""
    pixels = [picture.pixels for picture in pictures[:few]]
    measured = {name: form_input(form, pixels) for name, form in FORMS.items()}
    found = {name: traffic for name, traffic in measured.items() if traffic is not None}
    if codec is not None and all(picture.packets is not None for picture in pictures):
        found["packets"] = packet_input(codec, pictures)
    return found
