"""`cutset bench video`: delta compute beside dense runtimes, over videos and made-up scenes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.bench_rows import rows_table, save_rows
from cutset.cli.options import add_json
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.errors import RequestError

if TYPE_CHECKING:
    from cutset.bench.video import MakeSystem

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "computing only what changed, beside dense, over videos"
DESCRIPTION = (
    "One network over each video of a folder and over made-up scenes (quiet, busy, shaking), in one process: delta "
    "compute, torch, and torch with channels last, picture by picture in turns, with equal threads. Dense pictures "
    "that keep the error within --max-error count as delta compute's own time. In a checkout `python -m benchmarks "
    "video` adds OpenVINO and onnxruntime where they are installed."
)
SCENES = ("quiet", "busy", "shaking")
MODELS = ("vgg16", "resnet50")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", action="append", metavar="NAME", help=f"repeatable (default {', '.join(MODELS)})")
    parser.add_argument("--videos", type=Path, default=Path("../shared/data/video"), metavar="DIR")
    parser.add_argument("--scene", action="append", choices=SCENES, help="made up; repeatable (default: all)")
    parser.add_argument("--no-videos", action="store_true", help="made-up scenes alone")
    parser.add_argument("--only-videos", action="store_true", help="no made-up scenes")
    parser.add_argument("--size", default="432x768", metavar="HxW", help="of made-up scenes (default 432x768)")
    parser.add_argument("--pictures", type=int, default=100, metavar="N", help="of each scene (default 100)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of every system (default 1)")
    parser.add_argument(
        "--max-error", type=float, default=0.01, metavar="E", help="of the largest element (default 0.01)"
    )
    parser.add_argument("--system", action="append", metavar="NAME", help="only this opponent; repeatable")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine that others use too"
    )
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    measure(args, {})
    return 0


def measure(args: argparse.Namespace, others: Mapping[str, MakeSystem]) -> list[Row]:
    """Runs torch and the others beside ours, prints and saves the figures."""
    for name in ("pictures", "threads"):
        if getattr(args, name) < 1:
            raise RequestError(f"--{name} must be 1 or above, not {getattr(args, name)}")
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)  # before torch is loaded
    from cutset.config import parse_size
    from cutset.video.zoo import build

    networks = {name: build(name, head=False) for name in dict.fromkeys(args.model or MODELS)}
    # Loaded after the zoo, which says so where torch is missing.
    import torch

    from cutset.bench.stream_videos import find_videos
    from cutset.bench.video import SCENES as made_up
    from cutset.bench.video import Scene, VideoSetting, measure_video
    from cutset.video.torch_model import TorchModel

    size = parse_size(args.size)
    if size is None:
        raise RequestError("--size needs rows and columns, as 432x768")
    scenes = []
    if not args.no_videos and args.videos.is_dir():
        scenes += [Scene(video.name, video) for video in find_videos(args.videos) if "generated" not in video.text]
    if not args.only_videos:
        scenes += [made_up[name](size) for name in dict.fromkeys(args.scene or SCENES)]
    setting = VideoSetting(args.pictures, args.threads, args.max_error, args.clock, log, args.system or (), others)
    rows: list[Row] = []
    try:
        for name, network in networks.items():
            for scene in scenes:
                model = TorchModel.of(network, (1, 3, *scene.video.size), torch.uint8)
                rows += measure_video(name, model, network, scene, setting)
    finally:
        if rows:
            save_rows(args, rows, threads=args.threads, packages=("torch", *others, "av"))
    print(rows_table(rows))
    return rows
