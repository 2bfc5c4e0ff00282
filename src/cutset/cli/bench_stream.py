"""`cutset bench stream`: a network over three emulated machines beside one machine."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.bench_rows import comparisons, rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.errors import RequestError

if TYPE_CHECKING:
    from cutset.bench.stream import Part
    from cutset.bench.stream_bytes import Coding

__all__ = ["DESCRIPTION", "HELP", "configure", "measure", "run"]

HELP = "a network over emulated machines: bytes at cuts, and plans"
DESCRIPTION = (
    "bytes: what a picture takes at every cut, as a delta and whole. plans: a coordinator and three workers of speeds "
    "1/8, 1/4 and 1 over links of 8, 4 and 1 MB/s: every scheduler's plan, all in the cloud, and what delta compute "
    "makes of them within --max-error, predicted and run. "
    "Takes every video of a folder at its own size, and made-up pictures where there is none. In a checkout "
    "`python -m benchmarks stream` adds other codings; faults: results against the dense network while plans change "
    "and workers are killed; planning: seconds to plan 200 layers on 16 workers."
)
PARTS = ("bytes", "plans")
IN_CHECKOUT = ("faults", "planning")
MODELS = ("alexnet", "vgg16")


def configure(parser: argparse.ArgumentParser) -> None:
    parts = (*PARTS, *IN_CHECKOUT)
    parser.add_argument("--part", action="append", choices=parts, help="only this one; repeatable (default: all)")
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME|FILE.onnx",
        help=f"of {', '.join(MODELS)} (default: both), or an ONNX file, for plans alone; repeatable",
    )
    parser.add_argument(
        "--onnx-size",
        metavar="HxW",
        default="320x320",
        help="of pictures for ONNX files that take any (default 320x320)",
    )
    parser.add_argument(
        "--max-error",
        type=float,
        default=0.01,
        metavar="E",
        help="plans: what delta compute may be off by, a share of the output's largest element (default 0.01)",
    )
    parser.add_argument(
        "--videos", type=Path, default=Path("../shared/data/video"), metavar="DIR", help="default ../shared/data/video"
    )
    parser.add_argument("--size", metavar="HxW", help="made-up pictures of that size, no videos")
    parser.add_argument("--quick", action="store_true", help="few pictures: to see that it runs, not how fast")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    if {*(args.part or ())} & {*IN_CHECKOUT}:
        raise comparisons("stream", f"here --part is of {', '.join(PARTS)}")
    from cutset.bench.stream import PARTS as parts

    measure(args, parts)
    return 0


def measure(args: argparse.Namespace, parts: Mapping[str, Part], codings: Sequence[Coding] = ()) -> list[Row]:
    """Runs the parts that were asked for, prints and saves the figures."""
    from cutset.bench.stream import StreamSetting
    from cutset.bench.stream_videos import find_videos
    from cutset.config import parse_size
    from cutset.video.networks import is_onnx

    if args.videos and not args.size and not args.videos.is_dir():
        log(f"{args.videos} is no folder: taking made-up pictures")
    videos = find_videos(args.videos, parse_size(args.size or ""))
    models = tuple(dict.fromkeys(args.model or MODELS))
    for name in models:
        if name not in MODELS and not is_onnx(name):
            raise RequestError(f"--model {name[:40]}: known are {', '.join(MODELS)}, and ONNX files by a name in .onnx")
    size = parse_size(args.onnx_size)
    if size is None:
        raise RequestError("--onnx-size needs rows and columns, as 320x320")
    if not 0 < args.max_error < 1:
        raise RequestError(f"--max-error is a share above 0 and below 1, not {args.max_error:g}")
    setting = StreamSetting(videos, models, args.quick, log, codings, size, args.max_error)
    rows: list[Row] = []
    try:
        for name in dict.fromkeys(args.part or parts):
            for row in parts[name](setting):
                rows.append(row)
    finally:  # what was measured before something failed was a quarter of an hour's work
        if rows:
            save_rows(args, rows, threads=1, packages=("torch", "av", "zstandard"))
    print(rows_table(rows))
    return rows
