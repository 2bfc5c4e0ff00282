"""`cutset stream worker`: computes stages of networks for a coordinator."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from pathlib import Path
from types import FrameType

from cutset.cli.output import printable
from cutset.errors import ConfigError

__all__ = ["DESCRIPTION", "HELP", "configure", "run", "size_in_bytes"]

HELP = "compute stages of networks for a coordinator"
DESCRIPTION = (
    "Waits for a coordinator (`cutset stream run`), gets its stages and weights, and passes pictures on. Serves one "
    "coordinator at a time, and the next when that is done."
)
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", required=True, metavar="ADDRESS", help="tcp://HOST:PORT or ipc://PATH")
    parser.add_argument("--key", metavar="FILE", help="with tcp: this side's secret key, see `cutset keys`")
    parser.add_argument("--allow", metavar="PATH", help="with tcp: the coordinators' public keys, a file or directory")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="default: one for each core")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep weights that were sent, by digest")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a file of weights that needn't be sent")
    parser.add_argument("--memory", metavar="SIZE", help="refuse stages that need more, as 2GiB (default: no limit)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="torch's name of a device (default cpu)")
    parser.add_argument("--speed", type=float, default=1.0, metavar="S", help="emulate a slower machine: 0.125, 0.5")
    # For LocalWorkers: end when standard input does, and remove this directory then.


def size_in_bytes(text: str) -> int:
    """Bytes of `500MB` or `2GiB`. Raises ConfigError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kMG]i?)?B?", text)
    if match is None or float(match[1]) * UNITS[match[2] or ""] < 1:
        raise ConfigError(f"{text!r} is not a size: write 500MB or 2GiB")
    return int(float(match[1]) * UNITS[match[2] or ""])


def run(args: argparse.Namespace) -> int:
    from cutset.config import usable_cores

    threads = args.threads or usable_cores()
    if not 1 <= threads <= 1024:
        raise ConfigError("--threads must be from 1 to 1024")
    memory = size_in_bytes(args.memory) if args.memory else 0
    if args.weights and not args.weights.is_file():
        raise ConfigError(f"--weights: {args.weights} is not a file")
    stop: list[int] = []
    # Before torch is loaded, which reads it then.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    from cutset.cluster.worker.worker import open_worker
    from cutset.video.runtime import TorchRuntime

    worker = open_worker(
        args.listen,
        TorchRuntime(threads, args.device),
        threads=threads,
        key=args.key,
        allow=args.allow,
        cache=args.cache,
        weights=args.weights,
        memory=memory,
        speed=args.speed,
        tell=_tell,
    )

    def stopping(number: int, frame: FrameType | None) -> None:
        stop.append(number)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stopping)
        _tell(f"listening on {worker.listener.address}, {threads} threads, {worker.settings.runtime.device}")
        worker.serve(lambda: bool(stop))
    finally:
        worker.close()
    return 0


def _tell(line: str) -> None:
    print(printable(f"worker: {line}"), file=sys.stderr, flush=True)
