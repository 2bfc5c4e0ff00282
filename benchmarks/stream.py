"""`python -m benchmarks stream`: what `cutset bench stream` measures and more, beside other codings, with targets.

`csr` is the coding of an older system: each channel as compressed sparse rows of 4-byte column and row numbers where
that is smaller, else dense; without the pickle that it puts around them, and without headers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.stream_faults import ERROR, RECOVERY, run_faults
from benchmarks.stream_planning import LAYERS, TIME, chain, run_planning
from benchmarks.targets import Target, targets_table
from cutset.bench.stream import PARTS as OWN_PARTS
from cutset.bench.stream import Part, StreamSetting
from cutset.bench.stream_bytes import AGAINST_BOUND, FIRST_CUTS, Coding
from cutset.bench.stream_plans import CHOSEN, MISSED
from cutset.cli import bench_stream
from cutset.cli.bench_stream import configure
from cutset.compare.results import Row
from cutset.kernels.reference_delta import bits
from cutset.video.imports.export import export
from cutset.video.torch_model import TorchModel
from cutset.video.zoo import build

__all__ = ["CSR", "PARTS", "TARGETS", "configure", "run"]


def csr_bytes(before: NDArray[Any], after: NDArray[Any]) -> int:
    """Bytes of CSR per channel for a tensor (1, channels, rows, columns), or (1, columns) as one channel of one row."""
    shape = (-1, *after.shape[-2:]) if after.ndim == 4 else (1, 1, after.size)
    differs = (bits(before) != bits(after)).reshape(shape)
    width, (rows, columns) = after.dtype.itemsize, shape[1:]
    counts = np.count_nonzero(differs, axis=(1, 2))
    sparse = counts * (width + 4) + 4 * (rows + 1)
    return int(np.minimum(sparse, rows * columns * width).sum())


CSR = Coding("csr per channel", "CSR", csr_bytes)


def _planning(setting: StreamSetting) -> Iterator[Row]:
    graphs = {"a chain": chain(LAYERS)}
    picture = torch.zeros(1, 3, 432, 768, dtype=torch.uint8, device="meta")
    for name in ("googlenet", "resnet50"):
        graphs[name] = export(build(name, shapes_only=True), picture)[0]
    yield from run_planning(graphs, 1 if setting.quick else 3, setting.log)


def _faults(setting: StreamSetting) -> Iterator[Row]:
    video = min(setting.videos, key=lambda video: video.size[0] * video.size[1])
    count, kills = (60, 1) if setting.quick else (1000, 3)
    model = setting.model("alexnet", video)
    assert isinstance(model, TorchModel)
    yield from run_faults("alexnet", model, video, count, kills, setting.log)


PARTS: dict[str, Part] = {**OWN_PARTS, "faults": _faults, "planning": _planning}

TARGETS = (
    Target("error against the dense network", ERROR, 0.0),
    Target("bytes of a delta over changed values and mask", AGAINST_BOUND, 1.1),
    Target("bytes of a delta over CSR per channel", CSR.metric, 1.0),
    Target("full over delta, first cuts of VGG16", FIRST_CUTS, 3.0, least=True, workload="vgg16, one-by-one"),
    Target("the optimal plan over the best that was run", CHOSEN, 1.1),
    Target("predicted latency, off by per cent", MISSED, 15.0),
    Target("seconds to plan a chain of 200 layers on 16 workers", TIME, 1.0, system="cutset optimal", workload="chain"),
    Target("seconds from a worker's death to the next payload", RECOVERY, 2.0),
)


def run(args: argparse.Namespace) -> int:
    rows = bench_stream.measure(args, PARTS, (CSR,))
    print("\n" + targets_table(rows, TARGETS))
    return 0
