"""`cutset bench stream`, bytes: what a picture takes at every cut of a network as a delta, and in others' codings.

The dense network runs over consecutive pictures; every value that crosses a trunk cut goes through an encoder and a
decoder, which must end up with its bits. Two limits are compared with what was sent, picture by picture:

bound   the share of elements that changed, and a bit for each element, of the dense tensor
csr     the coding of an older system: each channel as compressed sparse rows of 4-byte column and row numbers where
        that is smaller, else dense; without the pickle that it puts around them

Payloads and CSR alike are counted without headers.
"""

from __future__ import annotations

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

__all__ = ["CutBytes", "csr_bytes", "first_cuts", "measure_bytes", "rows_of_bytes"]

LINK = 8e6  # bytes a second: the fastest of the links; on slower ones payloads are compressed more
AGAINST_BOUND = "bytes of a delta ÷ those of the changes and a mask, worst cut"
AGAINST_CSR = "bytes of a delta ÷ those of CSR, worst cut"
FIRST_CUTS = "bytes of full ÷ those of a delta, worst of the first cuts"
Pixels = NDArray[np.uint8]


@dataclass(slots=True)
class CutBytes:
    """One value that crosses a cut; a figure for each picture after the first of its place."""

    value: Value
    delta: list[int] = field(default_factory=list)
    csr: list[int] = field(default_factory=list)
    changed: list[float] = field(default_factory=list)
    full: list[int] = field(default_factory=list)  # of one picture a place: as a key

    @property
    def bound(self) -> float:
        """The worst picture: bytes of its delta over those that the share of changed elements and a mask take."""
        size, width = self.value.nbytes, np.dtype(channel_of(0, self.value).dtype).itemsize
        limits = ((share + 1 / (8 * width)) * size for share in self.changed)
        return max(mine / limit for mine, limit in zip(self.delta, limits, strict=True))

    @property
    def against_csr(self) -> float:
        """The worst picture: bytes of its delta over those of CSR."""
        return max(mine / its for mine, its in zip(self.delta, self.csr, strict=True))


def csr_bytes(before: NDArray[Any], after: NDArray[Any]) -> int:
    """Bytes of CSR per channel for a tensor (1, channels, rows, columns), or (1, columns) as one channel of one row."""
    shape = (-1, *after.shape[-2:]) if after.ndim == 4 else (1, 1, after.size)
    differs = (bits(before) != bits(after)).reshape(shape)
    width, (rows, columns) = after.dtype.itemsize, shape[1:]
    counts = np.count_nonzero(differs, axis=(1, 2))
    sparse = counts * (width + 4) + 4 * (rows + 1)
    return int(np.minimum(sparse, rows * columns * width).sum())


def measure_bytes(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    places: Sequence[Sequence[Pixels]],
    tell: Callable[[str], None] = lambda line: None,
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
            _encode(found[first.name], [to_array(each[first.name]) for each in live])
        for i, stage in enumerate(stages):
            for each in live:
                each |= stage.forward(each)
                for name in [name for name in each if last[name] <= i]:
                    del each[name]
            for value in graph.nodes[i].made:
                if value.name in found:
                    _encode(found[value.name], [to_array(each[value.name]) for each in live])
    return list(found.values())


def _encode(cut: CutBytes, arrays: Sequence[NDArray[Any]]) -> None:
    channel = channel_of(0, cut.value)
    encoder, decoder = Encoder(channel, bandwidth=LINK), Decoder(channel)
    for i, array in enumerate(arrays):
        made = encoder.encode(array, i)
        held = decoder.decode(made.payload, made.arrays).tensor
        if held is None or not np.array_equal(bits(held), bits(array)):
            raise CutsetError(f"{cut.value.name}: the decoder has another tensor than the encoder had")
        if i:
            cut.delta.append(made.nbytes)
            cut.csr.append(csr_bytes(arrays[i - 1], array))
            cut.changed.append(float(np.mean(bits(arrays[i - 1]) != bits(array))))
    cut.full.append(Encoder(channel, bandwidth=LINK, deltas=False).encode(arrays[-1], 0).nbytes)


def first_cuts(cuts: Sequence[CutBytes]) -> list[CutBytes]:
    """Those of floats with the rows and columns of the picture's first layer: what a weak machine can reach."""
    large = [cut for cut in cuts if cut.value.dtype == "float32" and cut.value.shape[1] > 3]
    return [cut for cut in large if cut.value.shape[2:] == large[0].value.shape[2:]] if large else []


def rows_of_bytes(workload: str, cuts: Sequence[CutBytes]) -> Iterator[Row]:
    """The worst cut by both limits, and bytes at the cuts that a plan would take: the first, and each smaller one."""
    yield Row(workload, "cutset", AGAINST_BOUND, max(cut.bound for cut in cuts), "rel")
    yield Row(workload, "cutset", AGAINST_CSR, max(cut.against_csr for cut in cuts), "rel")
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
        systems = (("cutset delta", cut.delta), ("cutset full", cut.full), ("csr per channel", cut.csr))
        for system, counts in systems:
            yield Row(place, system, "bytes at a cut", float(np.mean(counts)), "B/picture")
        yield Row(place, "dense", "bytes at a cut", float(cut.value.nbytes), "B/picture")
