"""`cutset bench video`: delta compute beside dense runtimes, over videos and made-up scenes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutset.cli.bench_rows import rows_table, save_rows
from cutset.cli.options import add_json, add_settings, stream_settings_from
from cutset.cli.output import log
from cutset.compare.results import Row
from cutset.config import STREAM_OPTIONS, parse_size
from cutset.errors import RequestError

if TYPE_CHECKING:
    from cutset.bench.video import MakeSystem, Scene
    from cutset.video.network_model import NetworkModel

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "computing only what changed, beside dense, over videos"
DESCRIPTION = (
    "One network over each video of a folder and over made-up scenes (quiet, busy, shaking by up to 2 pixels, jumping "
    "by 32, texts, faces), in one process: delta compute, torch, and torch with channels last, or for an ONNX file "
    "onnxruntime and OpenVINO, picture by picture in turns, with equal threads. Dense pictures that keep the error "
    "within --max-error, or a detector's boxes at --min-agreement, count as delta compute's own time; what --calibrate "
    "takes, once, is beside it. In a checkout "
    "`python -m benchmarks video` adds the programs of OpenVINO and onnxruntime themselves where they are installed."
)
SCENES = ("quiet", "busy", "shaking", "jumping", "texts", "faces")
MODELS = ("vgg16", "resnet50")
SIZE = "432x768"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME|FILE.onnx",
        help=f"repeatable (default {', '.join(MODELS)}); an ONNX file's pictures and videos are scaled to --size",
    )
    parser.add_argument("--videos", type=Path, default=Path("../shared/data/video"), metavar="DIR")
    parser.add_argument(
        "--scene", action="append", choices=SCENES, help="made up; repeatable (default: the first three)"
    )
    parser.add_argument(
        "--draw", choices=("texts", "faces"), help="on the videos' pictures, which have little that a detector finds"
    )
    parser.add_argument("--no-videos", action="store_true", help="made-up scenes alone")
    parser.add_argument("--only-videos", action="store_true", help="no made-up scenes")
    parser.add_argument(
        "--size", metavar="HxW", help=f"of made-up scenes (default {SIZE}, or what an ONNX file says that it takes)"
    )
    parser.add_argument("--pictures", type=int, default=100, metavar="N", help="of each scene (default 100)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of every system (default 1)")
    parser.add_argument(
        "--max-error", type=float, default=0.01, metavar="E", help="of the largest element (default 0.01)"
    )
    parser.add_argument(
        "--min-agreement", type=float, metavar="F1", help="of detections with dense ones, in place of --max-error"
    )
    parser.add_argument(
        "--thresholds", type=float, metavar="X", help="times the usual ones throughout, 0 for none; nothing is checked"
    )
    parser.add_argument(
        "--calibrate",
        type=int,
        default=16,
        metavar="N",
        help="pictures before, every third of them, to find each layer's share of what may move (default 16, 0: none)",
    )
    parser.add_argument(
        "--auto", action="store_true", help="also dense, by the runtime that --runtime auto takes, within 1e-4"
    )
    parser.add_argument("--system", action="append", metavar="NAME", help="only this opponent; repeatable")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine that others use too"
    )
    add_settings(parser, "pixels", "bgr", options=STREAM_OPTIONS)
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    measure(args, {})
    return 0


def measure(args: argparse.Namespace, others: Mapping[str, MakeSystem]) -> list[Row]:
    """Runs dense systems and the others beside ours, prints and saves the figures."""
    _check(args)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)  # before torch is loaded
    from cutset.bench.video import VideoSetting, measure_video

    setting = VideoSetting(
        args.pictures,
        args.threads,
        args.max_error,
        args.clock,
        log,
        args.system or (),
        others,
        args.min_agreement,
        args.thresholds,
        args.calibrate,
        args.auto,
    )
    rows: list[Row] = []
    try:
        for name in dict.fromkeys(args.model or MODELS):
            for scene, model, module in _networks(args, name):
                rows += measure_video(Path(name).name, model, module, scene, setting)
    finally:
        if rows:
            save_rows(args, rows, threads=args.threads, packages=("torch", "onnxruntime", "openvino", *others, "av"))
    print(rows_table(rows))
    return rows


def _check(args: argparse.Namespace) -> None:
    """Raises RequestError for numbers that can't be."""
    for name in ("pictures", "threads"):
        if getattr(args, name) < 1:
            raise RequestError(f"--{name} must be 1 or above, not {getattr(args, name)}")
    if args.calibrate and args.calibrate < 4:
        raise RequestError(f"--calibrate takes 4 pictures or more, or 0 for none, not {args.calibrate}")
    if args.min_agreement is not None and not 0 < args.min_agreement <= 1:
        raise RequestError(f"--min-agreement is above 0 and at most 1, not {args.min_agreement:g}")
    if args.thresholds is not None and not 0 <= args.thresholds < float("inf"):
        raise RequestError(f"--thresholds must be 0 or above, not {args.thresholds:g}")
    parse_size(args.size or "")


def _networks(args: argparse.Namespace, name: str) -> Iterator[tuple[Scene, NetworkModel, Any]]:
    """Each scene with the network for its pictures, and the network's torch module, None for an ONNX file."""
    from cutset.video.networks import is_onnx, open_file, open_network, own_size

    file = open_file(name)
    if not is_onnx(name):
        from cutset.video.zoo import build

        module = build(name, head=False)
        # Loaded after the zoo, which says so where torch is missing.
        import torch

        from cutset.video.torch_model import TorchModel

        for scene in _scenes(args, parse_size(args.size or SIZE), None):
            yield scene, TorchModel.of(module, (1, 3, *scene.video.size), torch.uint8), module
        return
    settings = replace(stream_settings_from(args), threads=args.threads)
    size = parse_size(args.size) if args.size else own_size(file)
    if size is None:
        raise RequestError(f"{name} takes pictures of any size: give --size HxW, for many networks in multiples of 32")
    model = open_network(file, (1, 3, *size), "uint8", settings, log=log)
    for scene in _scenes(args, size, size):
        yield scene, model, None


def _scenes(args: argparse.Namespace, size: tuple[int, int] | None, scaled: tuple[int, int] | None) -> list[Scene]:
    """The videos, `scaled` to one size or as they are, and the made-up scenes of a size. Raises RequestError."""
    from cutset.bench.stream_videos import find_videos
    from cutset.bench.video import SCENES as MADE_UP
    from cutset.bench.video import Scene

    if size is None:
        raise RequestError("--size needs rows and columns, as 432x768")
    found = []
    if not args.no_videos and args.videos.is_dir():
        videos = [video for video in find_videos(args.videos) if "generated" not in video.text]
        name = f" with {args.draw}" if args.draw else ""
        found += [Scene(video.name + name, video, size=scaled, drawn=args.draw or "") for video in videos]
    if not args.only_videos:
        found += [MADE_UP[name](size) for name in dict.fromkeys(args.scene or SCENES[:3])]
    return found
