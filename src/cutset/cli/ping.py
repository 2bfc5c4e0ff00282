"""`cutset ping`: is an accelerator there, is it the right one, and does its device multiply exactly?"""

from __future__ import annotations

import argparse

from cutset.cli.options import add_json, add_settings, settings_from
from cutset.cli.output import printable, table
from cutset.config import Settings
from cutset.errors import ConfigError, CutsetError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="shm://NAME, ipc://PATH or tcp://HOST:PORT")
    parser.add_argument("--model", metavar="MODEL", help="compare what it has loaded with this model")
    parser.add_argument("--timeout", type=float, default=5.0, metavar="S", help="seconds to wait (default 5)")
    add_json(parser, "what came back")
    add_settings(parser, "key", "accelerator_key", "models_file", "offline", "download")


def run(args: argparse.Namespace) -> int:
    if not 0 < args.timeout <= 3600:
        raise ConfigError(f"--timeout must be above 0 and at most 3600 seconds, not {args.timeout:g}")
    settings = settings_from(args)
    from cutset.offload.client.offload import dial
    from cutset.offload.client.ping import ping
    from cutset.offload.client.session import Patience, Session

    digest = _digest(args.model, settings) if args.model else None
    try:
        session = Session(
            lambda: dial(settings, args.address, settings.accelerator_key, timeout=args.timeout, any_user=True),
            Patience(args.timeout, args.timeout),
        )
        try:
            pong = ping(session)
        finally:
            session.close()
    except ConfigError:  # a question that can't be asked
        raise
    except CutsetError as error:
        print(f"no: {printable(str(error))}")
        return 1
    welcome, able = pong.welcome, pong.capabilities
    same = digest is None or digest == welcome.model
    rows = [
        ("reachable", f"yes, {welcome.software}, protocol {welcome.version}"),
        ("model", f"{able.matrices} matrices, digest {welcome.model}"),
        ("device", f"{able.device}, {able.threads} threads, at most {able.max_rows} rows at once"),
        ("round trip", f"{pong.latency * 1e6:.0f} µs"),
        ("exact arithmetic", "yes" if pong.exact else "NO: its products are wrong"),
        ("for you so far", f"{pong.counters.get('calls', 0):.0f} calls, {pong.counters.get('rows', 0):.0f} rows"),
    ]
    if digest is not None:
        rows.insert(2, ("the same as MODEL", "yes" if same else f"NO: MODEL's digest is {digest}"))
    print(table(rows))
    if args.json:
        from cutset.files import write_json

        found = {"digest": welcome.model, "device": able.device, "software": welcome.software}
        write_json(args.json, found | {"latency_s": pong.latency, "exact": pong.exact, "counters": pong.counters})
    return 0 if pong.exact and same else 1


def _digest(model: str, settings: Settings) -> str:
    from cutset.models.files.source import open_source
    from cutset.models.registry import resolve
    from cutset.offload.matrices import ModelDigest, each_matrix
    from cutset.video.quantised.integer_network import is_integer_network

    if is_integer_network(model):
        from cutset.private_pictures import network_digest

        return network_digest(model)
    source, digest = open_source(resolve(model, settings).directory), ModelDigest()
    for matrix in each_matrix(source):
        digest.add(matrix)
    return digest.hex()
