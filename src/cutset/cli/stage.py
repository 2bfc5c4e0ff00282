"""`cutset stage`: runs layers of a language model for an engine elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.output import mib, say, table
from cutset.cli.serving_worker import add_worker, serve_worker

if TYPE_CHECKING:
    from cutset.cluster.stage import Abilities, Runtime

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Waits for `cutset generate`, `chat` or `serve` with --stages, gets its layers and their weights, and passes "
        "hidden states on. It sees them, and keeps keys and values of what is read and written: run it where you trust "
        "the machine. Serves one engine at a time, and the next when that is done. With MODEL it serves that one alone."
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a model on this machine: its weights needn't be sent"
    )
    add_worker(parser, other="--status", instead="say what listens there, and end; with tcp, --stage-key is needed")
    parser.add_argument("--stage-key", metavar="FILE", help="with --status and tcp: the stage's public key")


def run(args: argparse.Namespace) -> int:
    if args.status:
        return _status(args)

    def runtime(threads: int) -> Runtime:
        from cutset.engine.stage_runtime import StageRuntime

        return StageRuntime(threads)

    def abilities() -> Abilities:
        from cutset.engine.stage_runtime import stage_abilities

        return stage_abilities(measure=True)  # nothing else computes in this process yet

    weights: Path | None = None
    if args.model is not None:
        from cutset.config import load_settings
        from cutset.models.registry import resolve

        weights = resolve(args.model, load_settings({})).directory

    def model() -> str:
        if weights is None:
            return ""
        from cutset.models.files.fingerprint import fingerprint
        from cutset.models.files.source import open_source

        return fingerprint(open_source(weights).tensors)

    return serve_worker(args, "stage", runtime, weights, model=model, abilities=abilities)


def _status(args: argparse.Namespace) -> int:
    from cutset.cluster.coordinator.reach import reach
    from cutset.errors import LinkError
    from cutset.link.keys import load_keys, load_public

    key = None if args.stage_key is None else load_public(args.stage_key)
    keys = None if args.key is None else load_keys(args.key)
    try:
        card = reach({args.status: (args.status, key)}, keys=keys, seconds=5.0)[args.status]
    except LinkError as error:
        say(f"no: {error}")
        return 1
    rows = [
        ("free", "yes: it waits for an engine"),
        ("software", card.software),
        ("instruction sets", ", ".join(card.isas) or "unknown"),
        ("machine", f"{card.cpu}, {card.cores} cores, {card.threads} threads, {card.device}"),
        ("memory", mib(card.memory) if card.memory else "no limit"),
    ]
    say(table(rows))
    return 0
