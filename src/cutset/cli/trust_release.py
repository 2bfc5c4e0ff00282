"""`cutset trust release`: a server that gives keys of sealed models to machines whose evidence fits a policy."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from socket import socket

from cutset.cli.output import log
from cutset.errors import ConfigError

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "release keys of sealed models to evidence"
DESCRIPTION = "Serves keys by HTTPS. Each release and each refusal is a line of the audit log."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("keys", type=Path, metavar="DIR", help="a directory with key files of `cutset trust seal`")
    parser.add_argument(
        "--policy",
        type=Path,
        required=True,
        metavar="FILE",
        help="which evidence is enough; read again when it changes",
    )
    parser.add_argument("--audit-log", type=Path, required=True, metavar="FILE", help="where each use of a key goes")
    parser.add_argument(
        "--tls-cert", type=Path, required=True, metavar="FILE", help="chain of certificates (PEM), likewise"
    )
    parser.add_argument("--tls-key", type=Path, required=True, metavar="FILE", help="its private key (no password)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=8100, metavar="N", help="default 8100; 0 takes a free one")


def run(args: argparse.Namespace) -> int:
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ModuleNotFoundError:
        raise ConfigError("cutset trust release needs a few packages more: pip install 'cutset[serve]'") from None
    from cutset.serve.auth import Auth
    from cutset.serve.key_server import KeyServer, build_key_app, key_files_watch
    from cutset.serve.request_limits import RequestLimits
    from cutset.serve.server import bind, configuration, url_of
    from cutset.serve.tls import Certificate
    from cutset.trust.audit import AuditLog
    from cutset.trust.evidence.policy import load_policy
    from cutset.trust.evidence.verifier import Verifier

    if not 0 <= args.port <= 65535:
        raise ConfigError("--port must be from 0 to 65535")
    audit = AuditLog(args.audit_log)
    verifier = Verifier(load_policy(args.policy), audit=audit)
    server = KeyServer(args.keys, verifier, audit)
    certificate = Certificate(args.tls_cert, args.tls_key)
    watch = key_files_watch(verifier, args.policy, certificate, log)

    async def serving(sockets: list[socket]) -> None:
        watching = asyncio.create_task(watch.run())
        try:
            await uvicorn.Server(config).serve(sockets=sockets)
        finally:
            watching.cancel()

    # Its door is the evidence, not a name or a key of an API.
    auth = Auth([], "127.0.0.1", hosts=["*"])
    with bind(args.host, args.port) as listening:
        log(f"releasing keys in {args.keys} at {url_of(listening, tls=True)}")
        limits = RequestLimits()
        config = configuration(build_key_app(server, auth, limits), limits, tls=certificate)
        asyncio.run(serving([listening]))
    return 0
