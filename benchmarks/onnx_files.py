"""ONNX files whole beside onnxruntime, and cut over three workers: `python -m benchmarks onnx_files`.

Files that are named, and every network of the zoo as torch's exporter writes it. Whole networks are held against
onnxruntime's own session of the file, as a share of the output's range; over three workers every bit must be as uncut
by the reference runtime, and with the others three parts in a row must be within the tolerance.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.targets import Target, targets_table
from cutset.cli.bench_rows import rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.cluster.coordinator.switching import Options
from cutset.cluster.launch.local import LocalWorkers
from cutset.compare.results import Row
from cutset.config import parse_size
from cutset.errors import RequestError
from cutset.stream import Stream
from cutset.video.check import range_error
from cutset.video.onnx_model import OnnxModel
from cutset.video.runtimes import FUSED, installed, open_stage
from cutset.video.sources import GeneratedSource
from cutset.video.zoo import ZOO, build

__all__ = ["TARGETS", "configure", "exported", "in_thirds", "of_onnxruntime", "run", "run_onnx_files"]

TOLERANCE = 1e-4
EXPORTED_SIZE = (64, 64)
PICTURES = 2
WHOLE, CUT, THIRDS = "whole, against onnxruntime", "pictures cut over 3 workers with other bits", "in three parts"
TARGETS = (
    Target("whole networks against onnxruntime, of the range", WHOLE, TOLERANCE),
    Target("pictures cut over 3 workers whose bits differ from uncut", CUT, 0.0),
    Target("three parts by other runtimes against whole, of the range", THIRDS, TOLERANCE),
)


def exported(name: str, folder: Path) -> Path:
    """A network of the zoo as torch's exporter writes it, for float pictures of 64 x 64."""
    network = build(name, head=name not in ("alexnet", "vgg16", "vgg19"), seed=3)
    path = folder / f"{name}.onnx"
    with torch.no_grad():
        program: Any = torch.onnx.export(network, (torch.zeros(1, 3, *EXPORTED_SIZE),), dynamo=True, verbose=False)
    program.save(str(path))
    return path


def of_onnxruntime(path: Path, pixels: NDArray[Any], scale: tuple[float, float]) -> dict[str, Any]:
    """What onnxruntime itself gives of a file, of pictures from which the first number is taken, over the second."""
    import onnxruntime  # type: ignore[import-not-found,import-untyped,unused-ignore]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    mean, deviation = (np.float32(part) for part in scale)
    given = {session.get_inputs()[0].name: (pixels.astype(np.float32) - mean) / deviation}
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, given), strict=True))


def in_thirds(model: OnnxModel, pixels: Any, runtime: str) -> dict[str, Any]:
    """The outputs by three stages, one after the other."""
    graph, values = model.graph, {model.graph.inputs[0].name: pixels}
    count = len(graph.nodes)
    for first, last in ((0, count // 3), (count // 3, 2 * count // 3), (2 * count // 3, count)):
        values |= open_stage(graph, range(first, last), model.weights, runtime).run(0, values)
    return {name: values[name] for name in graph.outputs}


def run_onnx_files(files: Sequence[Path], zoo: Sequence[str], size: tuple[int, int]) -> Iterator[Row]:
    """Rows of each file, for pictures of that size, and of each network of the zoo."""
    with LocalWorkers(3) as workers, tempfile.TemporaryDirectory() as folder:
        for file in files:
            scene = [p.pixels for p in GeneratedSource(size, seed=1, pictures=PICTURES)]
            yield from _rows(file.name, OnnxModel.of(file, size), file, scene, (0.0, 255.0), workers)
        for name in zoo:
            path = exported(name, Path(folder))
            small = [p.pixels.astype(np.float32) / 255 for p in GeneratedSource(EXPORTED_SIZE, pictures=PICTURES)]
            model = OnnxModel.of(path, EXPORTED_SIZE, "float32")
            yield from _rows(f"{name}, exported", model, path, small, (0.0, 1.0), workers)


def _rows(
    name: str,
    model: OnnxModel,
    path: Path,
    pictures: Sequence[NDArray[Any]],
    scale: tuple[float, float],
    workers: LocalWorkers,
) -> Iterator[Row]:
    log(f"onnx: {name}")
    found = [model.run(picture) for picture in pictures]
    whole = max(range_error(mine, of_onnxruntime(path, p, scale)) for mine, p in zip(found, pictures, strict=True))
    yield Row(name, "cutset", WHOLE, whole, "rel error")
    options = Options(gather=30.0)  # workers may still be starting
    with Stream(model, pictures, workers=workers.addresses, scheduler="even", options=options) as stream:
        cut = [result.outputs for result in stream]
    other = sum(
        {n: a.tobytes() for n, a in one.items()} != {n: a.tobytes() for n, a in mine.items()}
        for one, mine in zip(cut, found, strict=True)
    )
    yield Row(name, "cutset", CUT, float(other), "pictures")
    for runtime in [FUSED, *(["openvino"] if installed("openvino") else [])]:
        error = range_error(in_thirds(model, pictures[0], runtime), found[0])
        yield Row(name, f"cutset {runtime}", THIRDS, error, "rel error")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file", action="append", type=Path, metavar="FILE.onnx", help="for pixels of 0 to 1; repeatable"
    )
    parser.add_argument("--size", default="320x320", metavar="HxW", help="of files' pictures (default 320x320)")
    parser.add_argument("--zoo", action="append", metavar="NAME", help="only this one, exported; repeatable; `none`")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    size, names = parse_size(args.size), args.zoo or sorted(ZOO)
    if size is None:
        raise RequestError("--size needs rows and columns, as 320x320")
    if names != ["none"] and (unknown := [name for name in names if name not in ZOO]):
        raise RequestError(f"--zoo {unknown[0][:40]}: known are {', '.join(sorted(ZOO))}, or none")
    torch.set_num_threads(1)
    rows = list(run_onnx_files(args.file or (), [] if names == ["none"] else names, size))
    print(rows_table(rows), end="\n\n")
    print(targets_table(rows, TARGETS))
    save_rows(args, rows, threads=1, packages=("torch", "onnx", "onnxruntime", "openvino"))
    return 0
