"""`cutset replica`: runs a model for the front of `cutset serve --replicas`."""

from __future__ import annotations

import argparse
import signal
from types import FrameType

from cutset.cli.options import add_settings, settings_from
from cutset.cli.output import log
from cutset.cli.progress import Progress
from cutset.errors import ConfigError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Runs a model for one `cutset serve MODEL --replicas ADDRESS,…` at a time, which clients ask: token ids come "
        "from there and go back. `--replicas N` starts replicas by itself."
    )
    parser.add_argument("model", metavar="MODEL", help="a directory, a GGUF file, a name of models.yaml, or story")
    parser.add_argument("--listen", required=True, metavar="ADDRESS", help="tcp://HOST:PORT or ipc://PATH")
    parser.add_argument("--allow", metavar="PATH", help="with tcp: the servers' public keys, a file or directory")
    parser.add_argument(
        "--lora-modules",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=DIR",
        help="LoRA adapters as PEFT saves them, the same at all replicas",
    )
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    from cutset.cli.serve_replicas import adapters_from
    from cutset.link import listen, parse_address
    from cutset.link.keys import listening_keys
    from cutset.llm import AsyncLLM

    settings = settings_from(args)
    if parse_address(args.listen).scheme not in ("tcp", "ipc"):
        raise ConfigError(f"--listen {args.listen}: a replica listens at tcp://HOST:PORT or ipc://PATH")
    key = None if settings.key is None else str(settings.key)
    keys, allowed = listening_keys(args.listen, key, args.allow, "servers")
    adapters = adapters_from(args.lora_modules)
    try:
        from cutset.serve.replicas.replica import Replica
        from cutset.serve.replicas.replica_messages import LIMITS
    except ModuleNotFoundError:
        raise ConfigError("cutset replica needs a few packages more: pip install 'cutset[serve]'") from None

    stop: list[int] = []

    def stopping(number: int, frame: FrameType | None) -> None:
        stop.append(number)

    llm = AsyncLLM(args.model, settings=settings, adapters=adapters, progress=Progress())
    try:
        listener = listen(args.listen, keys=keys, allow=allowed, limits=LIMITS)
        replica = Replica(llm, listener, keys, log)
        try:
            # Only now: while loading, Ctrl-C ends at once.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, stopping)
            choice = llm.choice
            where, how = listener.address, f"{choice.backend} {choice.dtype}, {choice.threads} threads"
            log(f"listening on {where}: {llm.name}, {how}")
            replica.serve(lambda: bool(stop))
        finally:
            replica.close()
    finally:
        llm.close()
    return 0 if stop else 1
