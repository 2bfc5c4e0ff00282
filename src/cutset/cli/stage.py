"""`cutset stage`: runs layers of a language model for an engine elsewhere."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.output import mib, say, table
from cutset.cli.serving_worker import WorkerEvidence, add_worker, add_worker_evidence, serve_worker, size_in_bytes
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.cluster.stage import Abilities, Runtime

__all__ = ["configure", "run"]

CLOSING = 10.0  # seconds in which what waits for the disk is written


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
    parser.add_argument(
        "--device", default="cpu", metavar="cpu|cuda|cuda:N", help="where the backend torch runs (default cpu)"
    )
    parser.add_argument(
        "--prefix-cache",
        type=Path,
        metavar="DIR",
        help="keep the KV cache of beginnings in this directory of yours, to read it the next time; it holds prompts in"
        " effect, as these layers see them",
    )
    parser.add_argument(
        "--prefix-cache-size", default="4GiB", metavar="SIZE", help="most that it takes on disk (default 4GiB)"
    )
    parser.add_argument("--stage-key", metavar="FILE", help="with --status and tcp: the stage's public key")
    add_worker_evidence(parser, whom="engines", flag="--stage-policy", what="hidden states")


def run(args: argparse.Namespace) -> int:
    if args.status:
        if args.evidence is not None or args.next_policy is not None:
            raise ConfigError("--evidence and --stage-policy are for a stage that serves: leave them out of --status")
        return _status(args)

    if not re.fullmatch("cpu|cuda(:[0-9]{1,3})?", args.device):
        raise ConfigError(f"--device {args.device[:40]!r} is none: cpu, cuda or cuda:N")
    size = size_in_bytes(args.prefix_cache_size)
    evidence = WorkerEvidence(args, "stage")
    if args.prefix_cache is None:
        prefixes = None
    else:
        from cutset.engine.prefix_store import MOST_WAITING, PrefixStore

        waiting = min(MOST_WAITING, size_in_bytes(args.memory) // 16) if args.memory else MOST_WAITING
        prefixes = PrefixStore(args.prefix_cache, size, b"", waiting)

    def runtime(threads: int) -> Runtime:
        from cutset.engine.stage_runtime import StageRuntime

        return StageRuntime(threads, prefixes, args.device)

    def abilities() -> Abilities:
        from cutset.engine.stage_runtime import stage_abilities

        return stage_abilities(measure=True)  # nothing else computes in this process yet

    weights: Path | None = None
    files: dict[str, Path] = {}
    if args.model is not None:
        from cutset.config import load_settings
        from cutset.models.registry import resolve

        found = resolve(args.model, load_settings({}))
        weights, files = found.directory, {found.name: found.directory}
    prove = evidence.prove(files)

    def model() -> str:
        if weights is None:
            return ""
        from cutset.models.files.fingerprint import fingerprint
        from cutset.models.files.source import open_source

        return fingerprint(open_source(weights).tensors)

    try:
        return serve_worker(
            args,
            "stage",
            runtime,
            weights,
            model=model,
            abilities=abilities,
            prove=prove,
            verify_next=evidence.verify_next,
        )
    finally:
        if prefixes is not None:
            prefixes.close(CLOSING)


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
