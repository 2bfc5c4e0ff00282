"""`cutset trust check`: says whether a server's evidence, live or from a file, is enough for a policy."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cutset.cli.output import log, say
from cutset.errors import EvidenceError

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "say whether a server's evidence is enough for a policy"
DESCRIPTION = "Exits with 0 where it is, with 1 where it isn't; no request is sent, and no key of an API."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="https://HOST:PORT, or a file of `cutset trust fetch`")
    parser.add_argument("--policy", type=Path, required=True, metavar="FILE", help="what is enough; see `trust policy`")
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="authorities of certificates, PEM (default the system's)"
    )
    parser.add_argument("--audit-log", type=Path, metavar="FILE", help="add a line to FILE where it isn't enough")


def run(args: argparse.Namespace) -> int:
    from cutset.trust.audit import AuditLog
    from cutset.trust.evidence.fetched import fetch_evidence, read_fetched
    from cutset.trust.evidence.policy import load_policy
    from cutset.trust.evidence.transport import tls_context
    from cutset.trust.evidence.verifier import Verifier

    policy = load_policy(args.policy)
    verifier = Verifier(policy, audit=AuditLog(args.audit_log) if args.audit_log else None)
    try:
        if os.path.isfile(args.address):
            found = read_fetched(Path(args.address))
            say(f"{args.address}: a recording, which shows what was so when it was made", flush=True)
        else:
            found = fetch_evidence(args.address, tls_context(policy, args.ca))
        checked = verifier.check(found.document, channel="tls", key=found.key, nonce=found.nonce, peer=args.address)
    except EvidenceError as error:
        log(f"not enough: {error}")
        return 1
    say(f"{checked.quote.kind} evidence fits the policy" if checked.confidential else "NOT CONFIDENTIAL: a simulator")
    for name, value in checked.quote.shown.items():
        say(f"  {name:<18} {value}")
    if checked.quote.status:
        say(f"  {'TCB status':<18} {' '.join((checked.quote.status, *checked.quote.advisories))}")
    for gpu in checked.gpus:
        say(f"  {'GPU':<18} {gpu.name}, driver {gpu.driver}, VBIOS {gpu.vbios}")
    for name, value in (
        ("files (manifest)", checked.manifest),
        ("mode", checked.mode),
        ("version", checked.version),
        ("key (SHA-256)", checked.key),
    ):
        say(f"  {name:<18} {value}")
    return 0
