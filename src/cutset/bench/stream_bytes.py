"""`cutset bench stream`, bytes: what a picture takes at every cut of a network, as a delta and whole.

The dense network runs over consecutive pictures; every value that crosses a trunk cut goes through an encoder and a
decoder, which must end up with its bits. What was sent is held against the share of elements that changed and a bit for
each element, of the dense tensor, picture by picture, and against the codings that were asked for. Payloads are counted
without headers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutset.cluster.codecs import channel_of
from cutset.codec import Decoder, Encoder
from cutset.compare.results import Row
from cutset.errors import CutsetError
from cutset.kernels.reference_delta import bits
from cutset.partition.graph import Graph
from cutset.partition.node import Value
from cutset.video.stage import TorchStage, to_array

__all__ = ["AGAINST_BOUND", "FIRST_CUTS", "Coding", "CutBytes", "first_cuts", "measure_bytes", "rows_of_bytes"]

LINK = 8e6  # bytes a second: the fastest of the links; on slower ones payloads are compressed more
AGAINST_BOUND = "bytes of a delta ÷ those of the changes and a mask, worst cut"
FIRST_CUTS = "bytes of full ÷ those of a delta, worst of the first cuts"
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Coding:
    """Another way to bring a tensor from what it was to what it is: how many bytes it takes."""

    system: str  # in result files
    name: str  # in a sentence
    nbytes: Callable[[NDArray[Any], NDArray[Any]], int]  # before and after, of one shape

    @property
    def metric(self) -> str:
        """Of the row that says how deltas compare with it."""
        return f"bytes of a delta ÷ those of {self.name}, worst cut"


@dataclass(slots=True)
class CutBytes:
    """One value that crosses a cut; a figure for each picture after the first of its place."""

    value: Value
    delta: list[int] = field(default_factory=list)
    changed: list[float] = field(default_factory=list)
    full: list[int] = field(default_factory=list)  # of one picture a place: as a key
    codings: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # of others, by system

    @property
    def bound(self) -> float:
        """The worst picture: bytes of its delta over those that the share of changed elements and a mask take."""
        size, width = self.value.nbytes, np.dtype(channel_of(0, self.value).dtype).itemsize
        limits = ((share + 1 / (8 * width)) * size for share in self.changed)
        return max(mine / limit for mine, limit in zip(self.delta, limits, strict=True))

    def against(self, system: str) -> float:
        """The worst picture: bytes of its delta over those of another coding."""
        return max(mine / its for mine, its in zip(self.delta, self.codings[system], strict=True))


def measure_bytes(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    places: Sequence[Sequence[Pixels]],
    tell: Callable[[str], None] = lambda line: None,
    codings: Sequence[Coding] = (),
) -> list[CutBytes]:
    """Every value that crosses a trunk cut of the network, in order; the picture itself is the first.

    `places`: runs of consecutive pictures; codecs begin anew with each.
    """
    crossing = dict.fromkeys(graph.cuts[k].values[0] for k in graph.trunk)
    found = {name: CutBytes(graph.values[name]) for name in crossing}
    last = {name: max(readers, default=-1) for name, readers in graph.readers.items()}
    stages = [TorchStage(graph, [i], tensors) for i in range(len(graph.nodes))]
    [first] = graph.inputs
    for number, pictures in enumerate(places):
        tell(f"place {number + 1} of {len(places)}, {len(pictures)} pictures")
        live = [{first.name: torch.from_numpy(np.array(pixels))} for pixels in pictures]
        if first.name in found:
            _encode(found[first.name], [to_array(each[first.name]) for each in live], codings)
        for i, stage in enumerate(stages):
            for each in live:
                each |= stage.forward(each)
                for name in [name for name in each if last[name] <= i]:
                    del each[name]
            for value in graph.nodes[i].made:
                if value.name in found:
                    _encode(found[value.name], [to_array(each[value.name]) for each in live], codings)
    return list(found.values())


def _encode(cut: CutBytes, arrays: Sequence[NDArray[Any]], codings: Sequence[Coding]) -> None:
    channel = channel_of(0, cut.value)
    encoder, decoder = Encoder(channel, bandwidth=LINK), Decoder(channel)
    for i, array in enumerate(arrays):
        made = encoder.encode(array, i)
        held = decoder.decode(made.payload, made.arrays).tensor
        if held is None or not np.array_equal(bits(held), bits(array)):
            raise CutsetError(f"{cut.value.name}: the decoder has another tensor than the encoder had")
        if i:
            cut.delta.append(made.nbytes)
            for coding in codings:
                cut.codings[coding.system].append(coding.nbytes(arrays[i - 1], array))
            cut.changed.append(float(np.mean(bits(arrays[i - 1]) != bits(array))))
    cut.full.append(Encoder(channel, bandwidth=LINK, deltas=False).encode(arrays[-1], 0).nbytes)


def first_cuts(cuts: Sequence[CutBytes]) -> list[CutBytes]:
    """Those of floats with the rows and columns of the picture's first layer: what a weak machine can reach."""
    large = [cut for cut in cuts if cut.value.dtype == "float32" and cut.value.shape[1] > 3]
    return [cut for cut in large if cut.value.shape[2:] == large[0].value.shape[2:]] if large else []


def rows_of_bytes(workload: str, cuts: Sequence[CutBytes], codings: Sequence[Coding] = ()) -> Iterator[Row]:
    """The worst cut by every limit, and bytes at the cuts that a plan would take: the first, and each smaller one."""
    yield Row(workload, "cutset", AGAINST_BOUND, max(cut.bound for cut in cuts), "rel")
    for coding in codings:
        yield Row(workload, "cutset", coding.metric, max(cut.against(coding.system) for cut in cuts), "rel")
    if first := first_cuts(cuts):
        yield Row(
            workload, "cutset", FIRST_CUTS, min(float(np.mean(cut.full) / np.mean(cut.delta)) for cut in first), "x"
        )
    smallest = float("inf")
    for cut in cuts:
        if cut not in first and cut.value.nbytes >= smallest:
            continue
        smallest = min(smallest, cut.value.nbytes)
        place = f"{workload}, after {cut.value.name}" if cut is not cuts[0] else f"{workload}, the picture"
        for system, counts in {"cutset delta": cut.delta, "cutset full": cut.full, **cut.codings}.items():
            yield Row(place, system, "bytes at a cut", float(np.mean(counts)), "B/picture")
        yield Row(place, "dense", "bytes at a cut", float(cut.value.nbytes), "B/picture")
