"""What commands that serve a coordinator share: their flags, and serving until a signal."""

from __future__ import annotations

import argparse
import os
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from cutset.cli.output import log
from cutset.cli.serve_evidence import add_evidence, prover_of, provider_from
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.cluster.stage import Abilities, Runtime
    from cutset.link.peer import Binding
    from cutset.trust.evidence.providers import Provider

__all__ = ["WorkerEvidence", "add_worker", "add_worker_evidence", "serve_worker", "size_in_bytes"]

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def add_worker(parser: argparse.ArgumentParser, *, other: str = "", instead: str = "") -> None:
    """Adds the flags of whoever serves coordinators. `other`: a flag with an ADDRESS that may stand in the place of
    --listen, and `instead` what it does.
    """
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--listen", metavar="ADDRESS", help="tcp://HOST:PORT, ipc://PATH or shm://NAME")
    group.add_argument(
        "--join",
        metavar="ADDRESS",
        help="dial a coordinator that listens at tcp://HOST:PORT, again and again: where nobody can dial this machine",
    )
    if other:
        group.add_argument(other, metavar="ADDRESS", help=instead)
    parser.add_argument("--key", metavar="FILE", help="with tcp: this side's secret key, see `cutset keys`")
    parser.add_argument("--allow", metavar="PATH", help="with tcp: the coordinators' public keys, a file or directory")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="default: one for each core")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep weights that were sent, by digest")
    parser.add_argument("--memory", metavar="SIZE", help="refuse stages that need more, as 2GiB (default: no limit)")
    parser.add_argument("--speed", type=float, default=1.0, metavar="S", help="emulate a slower machine: 0.125, 0.5")


def add_worker_evidence(parser: argparse.ArgumentParser, *, whom: str, flag: str, what: str) -> None:
    """Adds the flags of evidence: what is shown `whom`, and by the policy of `flag` what the next one must show before
    it gets `what`."""
    add_evidence(parser, what=f"{whom} that ask for it", needs="tcp")
    parser.add_argument(
        flag,
        dest="next_policy",
        type=Path,
        metavar="FILE",
        help=f"which evidence the next one must show before it gets {what}; see `cutset trust policy`",
    )


class WorkerEvidence:
    """What the flags of `add_worker_evidence` come to. `name`: in messages, and the mode that evidence states. Raises
    ConfigError."""

    def __init__(self, args: argparse.Namespace, name: str) -> None:
        self._name = name
        keyed = (args.listen or args.join).startswith("tcp://")
        if args.next_policy is not None and not keyed:
            raise ConfigError(f"--{name}-policy is for {name}s over tcp: evidence is bound to the keys of a link")
        self._provider: Provider | None = provider_from(args, over=keyed, needs="keys: listen on tcp://, or --join")
        self.verify_next: Callable[[bytes, Binding], bool] | None = None  # whether the next one's is enough
        if args.next_policy is not None:
            from cutset.trust.evidence.link_evidence import verify_by

            self.verify_next = verify_by(args.next_policy, warn=self._say)

    def prove(self, files: Mapping[str, Path]) -> Callable[[Binding], bytes] | None:
        """What shows evidence of these files, which are hashed now; None without the flag. Raises ConfigError."""
        if self._provider is None:
            return None
        from cutset.config import usable_cores
        from cutset.trust.evidence.link_evidence import prove_link

        return prove_link(prover_of(self._provider, files, self._name, {}, usable_cores(), self._say))

    def _say(self, line: str) -> None:
        log(f"{self._name}: {line}")


def size_in_bytes(text: str) -> int:
    """Bytes of `500MB` or `2GiB`. Raises ConfigError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kMG]i?)?B?", text)
    if match is None or float(match[1]) * UNITS[match[2] or ""] < 1:
        raise ConfigError(f"{text!r} is not a size: write 500MB or 2GiB")
    return int(float(match[1]) * UNITS[match[2] or ""])


def serve_worker(
    args: argparse.Namespace,
    name: str,
    runtime: Callable[[int], Runtime],
    weights: Path | None = None,
    *,
    model: Callable[[], str] = str,
    abilities: Callable[[], Abilities] | None = None,
    prove: Callable[[Binding], bytes] | None = None,
    verify_next: Callable[[bytes, Binding], bool] | None = None,
) -> int:
    """Serves coordinators with what `runtime` makes for so many threads, until SIGINT or SIGTERM. `name`: in messages.

    `weights`: a file or model on this machine, whose weights needn't be sent; `model` gives its digest, where no other
    one is served. `abilities`: what is said of how this process computes. `prove`, `verify_next`: see `open_worker`.
    Raises CutsetError.
    """
    from cutset.config import usable_cores

    threads = args.threads or usable_cores()
    if not 1 <= threads <= 1024:
        raise ConfigError("--threads must be from 1 to 1024")
    memory = size_in_bytes(args.memory) if args.memory else 0
    stop: list[int] = []
    # Before torch is loaded, which reads it then.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    from cutset.cluster.stage import Abilities
    from cutset.cluster.worker.worker import open_worker

    def say(line: str) -> None:
        log(f"{name}: {line}")

    worker = open_worker(
        args.listen,
        runtime(threads),
        threads=threads,
        join=args.join,
        key=args.key,
        allow=args.allow,
        cache=args.cache,
        weights=weights,
        memory=memory,
        model=model(),
        abilities=Abilities() if abilities is None else abilities(),
        speed=args.speed,
        prove=prove,
        verify_next=verify_next,
        log=say,
    )

    def stopping(number: int, frame: FrameType | None) -> None:
        stop.append(number)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stopping)
        where = f"dialling {args.join}" if args.join else f"listening on {worker.listener.address}"
        say(f"{where}, {threads} threads, {worker.settings.runtime.device}")
        worker.serve(lambda: bool(stop))
    finally:
        worker.close()
    return 0
