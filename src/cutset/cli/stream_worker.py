"""`cutset stream worker`: computes stages of networks for a coordinator."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.serving_worker import WorkerEvidence, add_worker, add_worker_evidence, serve_worker
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.cluster.stage import Runtime

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "compute stages of networks for a coordinator"
DESCRIPTION = (
    "Waits for a coordinator (`cutset stream run`), gets its stages and weights, and passes pictures on. Serves one "
    "coordinator at a time, and the next when that is done."
)


def configure(parser: argparse.ArgumentParser) -> None:
    add_worker(parser)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a file of weights that needn't be sent")
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help="cpu, cuda or cuda:N, or gpu for OpenVINO's; one that is missing is an error (default cpu)",
    )
    add_worker_evidence(parser, whom="coordinators", flag="--worker-policy", what="pictures or what was made of them")


def run(args: argparse.Namespace) -> int:
    if args.weights and not args.weights.is_file():
        raise ConfigError(f"--weights: {args.weights} is not a file")

    def runtime(threads: int) -> Runtime:
        from cutset.video.worker_runtime import VideoRuntime

        return VideoRuntime(threads, args.device)

    evidence = WorkerEvidence(args, "worker")
    prove = evidence.prove({} if args.weights is None else {args.weights.name: args.weights})
    return serve_worker(args, "worker", runtime, args.weights, prove=prove, verify_next=evidence.verify_next)
