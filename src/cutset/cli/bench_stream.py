"""`cutset bench stream`: a network over three emulated machines beside one machine and other codings."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from cutset.cli.bench_decode import rows_table
from cutset.cli.options import add_json
from cutset.cli.output import printable, table
from cutset.config import parse_size
from cutset.errors import RequestError

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "a network over emulated machines: bytes, plans, faults, planning"
DESCRIPTION = (
    "bytes: what a picture takes at every cut, beside other codings. plans: a coordinator and three workers of speeds "
    "1/8, 1/4 and 1 over links of 8, 4 and 1 MB/s: every scheduler's plan and all in the cloud, predicted and run. "
    "faults: results against the dense network while plans change and workers are killed. planning: seconds to plan "
    "200 layers on 16 workers. Takes every video of a folder at its own size, and made-up pictures where there is none."
)
PARTS = ("bytes", "plans", "faults", "planning")
MODELS = ("alexnet", "vgg16")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one; repeatable (default: all)")
    parser.add_argument("--model", action="append", choices=MODELS, help="only this one; repeatable (default: both)")
    parser.add_argument(
        "--videos", type=Path, default=Path("../shared/data/video"), metavar="DIR", help="default ../shared/data/video"
    )
    parser.add_argument("--size", metavar="HxW", help="made-up pictures of that size, no videos")
    parser.add_argument("--quick", action="store_true", help="few pictures: to see that it runs, not how fast")
    add_json(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    from cutset.bench.stream import PARTS as parts
    from cutset.bench.stream import Setting
    from cutset.bench.stream_targets import judge
    from cutset.bench.stream_videos import find_videos
    from cutset.compare.results import Results, Row, machine, save

    if args.videos and not args.size and not args.videos.is_dir():
        print(f"{args.videos} is no folder: taking made-up pictures", file=sys.stderr)
    videos = find_videos(args.videos, parse_size(args.size or ""))

    def tell(line: str) -> None:
        print(printable(line), file=sys.stderr, flush=True)

    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise RequestError(f"--json: there is no folder {Path(args.json).parent}")
    setting = Setting(videos, tuple(dict.fromkeys(args.model or MODELS)), args.quick, tell)
    rows: list[Row] = []
    try:
        for name in dict.fromkeys(args.part or PARTS):
            for row in parts[name](setting):
                rows.append(row)
    finally:  # what was measured before something failed was a quarter of an hour's work
        if rows and args.json:
            packages = ("torch", "av", "zstandard")
            save(Results(shlex.join(["cutset", *sys.argv[1:]]), machine(1, packages), tuple(rows)), args.json)
    print(rows_table(rows))
    if lines := judge(rows):
        print("\n" + table([("to reach", "", "worst", "reached", "where"), *lines], right=(2,)))
    return 0
