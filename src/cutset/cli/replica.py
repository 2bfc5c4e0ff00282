"""`cutset replica`: runs a model for the front of `cutset serve --replicas`."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from cutset.cli.options import add_settings, settings_from
from cutset.cli.output import log
from cutset.cli.progress import Progress
from cutset.cli.serve_evidence import add_evidence, mode_of, prover_of, provider_from
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.link.peer import Binding
    from cutset.llm import AsyncLLM
    from cutset.trust.evidence.providers import Provider

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
    add_evidence(parser, what="a server that asks for it", needs="tcp")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    from cutset.cli.serve_replicas import adapters_from
    from cutset.link import listen, parse_address
    from cutset.link.keys import listening_keys
    from cutset.llm import AsyncLLM

    settings = settings_from(args)
    scheme = parse_address(args.listen).scheme
    if scheme not in ("tcp", "ipc"):
        raise ConfigError(f"--listen {args.listen}: a replica listens at tcp://HOST:PORT or ipc://PATH")
    provider = provider_from(args, over=scheme == "tcp", needs="keys: listen on tcp://")
    key = None if settings.key is None else str(settings.key)
    keys, allowed = listening_keys(args.listen, key, args.allow, "servers")
    if settings.ray:  # stages that Ray places have keys that are made for them: this one is of the front's link
        settings = replace(settings, key=None)
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
        prove = None if provider is None else _prove(provider, llm, adapters)
        listener = listen(args.listen, keys=keys, allow=allowed, limits=LIMITS)
        replica = Replica(llm, listener, keys, log, prove=prove)
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


def _prove(provider: Provider, llm: AsyncLLM, adapters: dict[str, str]) -> Callable[[Binding], bytes]:
    """What shows evidence of the model and its adapters. Its mode says where prompts go on to, if anywhere. Raises
    ConfigError."""
    from cutset.trust.evidence.link_evidence import prove_link

    files = {llm.name: llm.directory} | {name: Path(where) for name, where in adapters.items()}
    beyond = mode_of(llm)
    mode = "replica" if beyond == "none" else f"replica, {beyond}"
    return prove_link(prover_of(provider, files, mode, {}, llm.settings.thread_count, log))
