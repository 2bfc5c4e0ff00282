"""`cutset accelerator`: multiplies for clients that needn't trust it."""

from __future__ import annotations

import argparse
import signal
from types import FrameType

from cutset.cli.answer import tell
from cutset.cli.options import add_settings, settings_from
from cutset.cli.progress import Progress
from cutset.errors import ConfigError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a directory, a name of models.yaml, or story (the bundled one)")
    parser.add_argument("--listen", required=True, metavar="ADDRESS", help="shm://NAME, ipc://PATH or tcp://HOST:PORT")
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
    parser.add_argument("--no-pads", action="store_true", help="refuse to make pads for clients of other accelerators")
    add_settings(parser, "threads", "device", "offline", "download", "models_file")


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    if not 1 <= args.max_rows <= 1 << 20 or not 0 <= args.window_us <= 1_000_000:
        raise ConfigError("--max-rows must be from 1 to 1048576, --window-us from 0 to 1000000")
    stop: list[int] = []

    def stopping(number: int, frame: FrameType | None) -> None:
        stop.append(number)

    from cutset.link.users import user_id
    from cutset.offload.accelerator.open import open_accelerator
    from cutset.offload.accelerator.server import Quota

    quota = Quota(max_rows=args.max_rows, window=args.window_us / 1e6)
    accelerator = open_accelerator(
        args.model,
        args.listen,
        settings,
        quota=quota,
        key=args.key,
        allow=args.allow,
        users=[user_id(name) for name in args.allow_user],
        ring_files=args.ring_files,
        makes_pads=not args.no_pads,
        progress=Progress(),
    )
    try:
        # Only now: while loading, Ctrl-C ends at once.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stopping)
        welcome = accelerator.welcome
        tell(
            f"listening on {accelerator.listener.address}: {welcome.matrices} matrices, digest {welcome.digest[:12]}…, "
            f"on {welcome.device} with {welcome.threads} threads"
        )
        accelerator.serve(lambda: bool(stop))
    finally:
        accelerator.close()
    counted = accelerator.counters
    tell(
        f"stopped: {counted['clients']:.0f} clients, {counted['rows']:.0f} rows of {counted['calls']:.0f} calls in "
        f"{counted['products']:.0f} products, busy {counted['busy_s']:.1f} s"
    )
    return 0
