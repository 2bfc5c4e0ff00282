"""`cutset stage`: runs layers of a language model for an engine elsewhere."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cutset.cli.serving_worker import add_worker, serve_worker

if TYPE_CHECKING:
    from cutset.cluster.stage import Runtime

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Waits for `cutset generate`, `chat` or `serve` with --stages, gets its layers and their weights, and passes "
        "hidden states on. It sees them, and keeps keys and values of what is read and written: run it where you trust "
        "the machine. Serves one engine at a time, and the next when that is done."
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a model on this machine: its weights needn't be sent"
    )
    add_worker(parser)


def run(args: argparse.Namespace) -> int:
    def runtime(threads: int) -> Runtime:
        from cutset.engine.stage_runtime import StageRuntime

        return StageRuntime(threads)

    weights = None
    if args.model is not None:
        from cutset.config import load_settings
        from cutset.models.registry import resolve

        weights = resolve(args.model, load_settings({})).directory
    return serve_worker(args, "stage", runtime, weights)
