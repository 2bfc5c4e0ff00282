"""`cutset accelerator`: multiplies for clients that needn't trust it."""

from __future__ import annotations

import argparse
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from cutset.cli.options import add_settings, settings_from
from cutset.cli.output import log
from cutset.cli.progress import Progress
from cutset.cli.serve_evidence import add_evidence, prover_of, provider_from
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.config import Settings
    from cutset.offload.accelerator.accelerator import Accelerator
    from cutset.trust.evidence.providers import Provider

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a directory, a name of models.yaml, story (the bundled one), or a "
        "picture network that `cutset stream quantize` wrote",
    )
    parser.add_argument("--listen", metavar="ADDRESS", help="shm://NAME, ipc://PATH or tcp://HOST:PORT; not with --ray")
    parser.add_argument("--key", metavar="FILE", help="with tcp: this side's secret key, see `cutset keys`")
    parser.add_argument("--allow", metavar="PATH", help="with tcp: a file or directory of the clients' public keys")
    parser.add_argument(
        "--allow-user",
        action="append",
        default=[],
        metavar="NAME|UID",
        help="with shm: a user whose clients may connect, instead of this one's alone; may be given several times",
    )
    parser.add_argument(
        "--ring-files", action="store_true", help="with shm: for clients in an enclave, which can't be handed memory"
    )
    parser.add_argument("--max-rows", type=int, default=4096, metavar="N", help="most rows of a product (default 4096)")
    parser.add_argument(
        "--window-us", type=int, default=2000, metavar="N", help="how long a call waits for company (default 2000)"
    )
    parser.add_argument("--clients", type=int, default=64, metavar="N", help="most clients at once (default 64)")
    parser.add_argument(
        "--clients-per-key",
        type=int,
        default=16,
        metavar="N",
        help="most of these with one key, or of one user where there are no keys (default 16)",
    )
    parser.add_argument(
        "--idle", type=float, default=600, metavar="S", help="seconds without a call that end a link (default 600)"
    )
    parser.add_argument(
        "--report", type=float, metavar="S", help="say every S seconds what was done for all clients together"
    )
    parser.add_argument("--no-pads", action="store_true", help="refuse to make pads for clients of other accelerators")
    add_evidence(parser, what="clients that ask for it", needs="tcp")
    add_settings(parser, "threads", "device", "offline", "download", "models_file", "ray", "place", "insecure_ray")


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    if not 1 <= args.max_rows <= 1 << 20 or not 0 <= args.window_us <= 1_000_000:
        raise ConfigError("--max-rows must be from 1 to 1048576, --window-us from 0 to 1000000")
    if not 1 <= args.clients <= 1024 or args.clients_per_key < 1:
        raise ConfigError("--clients must be from 1 to 1024, --clients-per-key at least 1")
    if not 1 <= args.idle <= 86400 or (args.report is not None and not 0.05 <= args.report <= 86400):
        raise ConfigError("--idle must be from 1 to 86400 seconds, --report from 0.05 to 86400")
    if settings.ray or settings.place or settings.insecure_ray:
        return _placed(args, settings)
    if args.listen is None:
        raise ConfigError("say where to listen, with --listen shm://NAME, ipc://PATH or tcp://HOST:PORT")
    provider = provider_from(args, over=args.listen.startswith("tcp://"), needs="keys: listen on tcp://")
    stop: list[int] = []

    def stopping(number: int, frame: FrameType | None) -> None:
        stop.append(number)

    from cutset.link.users import user_id
    from cutset.offload.accelerator.accelerator import Quota
    from cutset.offload.accelerator.loading import open_accelerator
    from cutset.video.quantised.integer_network import is_integer_network

    quota = Quota(
        max_rows=args.max_rows,
        window=args.window_us / 1e6,
        idle=args.idle,
        clients=args.clients,
        each=args.clients_per_key,
    )
    common: dict[str, Any] = {
        "quota": quota,
        "key": args.key,
        "allow": args.allow,
        "users": [user_id(name) for name in args.allow_user],
        "ring_files": args.ring_files,
        "makes_pads": not args.no_pads,
    }
    if is_integer_network(args.model):
        from cutset.private_pictures import open_network_accelerator

        accelerator = open_network_accelerator(args.model, args.listen, settings, **common)
    else:
        accelerator = open_accelerator(args.model, args.listen, settings, **common, progress=Progress())
    try:
        if provider is not None:
            _show_evidence(accelerator, provider, args.model, settings)
        # Only now: while loading, Ctrl-C ends at once.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stopping)
        able, digest = accelerator.capabilities, accelerator.handshake.model
        log(
            f"listening on {accelerator.listener.address}: {able.matrices} matrices, digest {digest[:12]}…, "
            f"on {able.device} with {able.threads} threads"
        )
        said = time.monotonic()

        def stopped() -> bool:
            nonlocal said
            if args.report is not None and time.monotonic() - said >= args.report:
                said = time.monotonic()
                log(f"so far: {_totals(accelerator.totals())}")
            return bool(stop)

        accelerator.serve(stopped)
    finally:
        accelerator.close()
    log(f"stopped: {_totals(accelerator.totals())}")
    return 0


def _placed(args: argparse.Namespace, settings: Settings) -> int:
    """Has Ray place it, and says where it is, and by which key it is known, as often as that changes."""
    from cutset.link.keys import load_allowed
    from cutset.offload.accelerator.placed import PlacedAccelerator

    for name in ("listen", "key", "allow_user", "ring_files"):
        if getattr(args, name):
            raise ConfigError(f"--{name.replace('_', '-')} and --ray don't go together: leave one of them out")
    if args.allow is None:
        raise ConfigError("--ray needs --allow, the clients' public keys; see `cutset keys`")
    stop: list[int] = []
    with PlacedAccelerator(args.model, _passed_on(args), load_allowed(args.allow), settings, log) as placed:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: stop.append(number))
        placed.serve(lambda: bool(stop))
    log("stopped")
    return 0


def _passed_on(args: argparse.Namespace) -> list[str]:
    """The flags that are the placed one's, too; whether its node has the evidence that they name is seen there."""
    from cutset.offload.accelerator.placed import PASSED_ON

    names = (*PASSED_ON, "evidence", "device_evidence", "evidence_root")
    given = {name: getattr(args, name) for name in names}
    words = [
        word
        for name, value in given.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return [*words, "--no-pads"] if args.no_pads else words


def _show_evidence(accelerator: Accelerator, provider: Provider, model: str, settings: Settings) -> None:
    """From now on it shows evidence to clients that ask for it."""
    from cutset.models.registry import resolve
    from cutset.trust.evidence.link_evidence import prove_link
    from cutset.video.quantised.integer_network import is_integer_network

    if is_integer_network(model):
        place = Path(model).resolve()
        files = {place.name: place}
    else:
        found = resolve(model, settings)
        files = {found.name: found.directory}
    prover = prover_of(provider, files, "accelerator", {}, settings.thread_count, log)
    accelerator.handshake = replace(accelerator.handshake, prove=prove_link(prover))


def _totals(counted: dict[str, float]) -> str:
    """What was done for all clients, in words: shown only to who runs the accelerator."""
    return (
        f"{counted['clients']:.0f} clients ({counted['connected']:.0f} now), {counted['rows']:.0f} rows of "
        f"{counted['calls']:.0f} calls in {counted['products']:.0f} products, {counted['pads']:.0f} rows of pads, "
        f"{counted['refused']:.0f} refusals, {counted['dropped']:.0f} links ended for what they cost, "
        f"busy {counted['busy_s']:.1f} s"
    )
