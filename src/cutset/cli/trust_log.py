"""`cutset trust log`: a log of receipts that can only grow."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.cli.options import output_path
from cutset.cli.output import say
from cutset.cli.receipt_flags import signer_from
from cutset.errors import ConfigError

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "keep receipts in a log that can only grow, and prove it"
DESCRIPTION = (
    "A log holds digests of receipts, which tell nobody anything, and signs what it is at a time (FILE.head). Whoever "
    "keeps a head can see later that nothing was taken out or changed."
)


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="log_action", metavar="ACTION", required=True)
    append = actions.add_parser("append", help="add receipts, and sign the new head", allow_abbrev=False)
    append.add_argument("log", type=Path, metavar="LOG", help="a file; it is made when there is none")
    append.add_argument("receipts", nargs="+", type=Path, metavar="RECEIPT")
    append.add_argument("--key", type=Path, metavar="FILE", help="the log's key; default: your own")
    append.set_defaults(log_act=_append)
    prove = actions.add_parser("prove", help="write a proof that a receipt is in the log", allow_abbrev=False)
    prove.add_argument("log", type=Path, metavar="LOG")
    prove.add_argument("receipt", type=Path, metavar="RECEIPT")
    prove.add_argument("--since", type=Path, metavar="HEAD", help="and that it has only grown since this head")
    prove.add_argument("--key", required=True, metavar="PUBLIC", help="the log's public key")
    prove.add_argument("-o", "--output", type=output_path, required=True, metavar="FILE")
    prove.set_defaults(log_act=_prove)
    check = actions.add_parser("check", help="check a proof; 1 if it proves nothing", allow_abbrev=False)
    check.add_argument("proof", type=Path, metavar="PROOF")
    check.add_argument("receipt", type=Path, metavar="RECEIPT")
    check.add_argument("--since", type=Path, metavar="HEAD", help="a head that was kept: the log must hold all of it")
    check.add_argument("--key", required=True, metavar="PUBLIC", help="the log's public key")
    check.set_defaults(log_act=_check)


def run(args: argparse.Namespace) -> int:
    code: int = args.log_act(args)
    return code


def _append(args: argparse.Namespace) -> int:
    from cutset.trust.receipt import read_receipt
    from cutset.trust.transparency_log import TransparencyLog

    entries = [read_receipt(path).digest for path in args.receipts]
    places, head = TransparencyLog(args.log).append(entries, signer_from(args.key).key)
    for path, place in zip(args.receipts, places, strict=True):
        say(f"{place}  {path}")
    say(f"{head.size} entries, root {head.root.hex()}")
    return 0


def _prove(args: argparse.Namespace) -> int:
    from cutset.files import write_atomically
    from cutset.trust.receipt import read_receipt
    from cutset.trust.transparency_log import TransparencyLog, read_head

    key = _key(args.key)
    since = None if args.since is None else read_head(args.since, key)
    write_atomically(args.output, TransparencyLog(args.log).prove(read_receipt(args.receipt).digest, key, since))
    return 0


def _check(args: argparse.Namespace) -> int:
    from cutset.reading import read_bytes
    from cutset.trust.receipt import read_receipt
    from cutset.trust.transparency_log import MOST_PROOF, check_proof, read_head
    from cutset.trust.verify_receipt import InvalidReceipt

    key = _key(args.key)
    since = None if args.since is None else read_head(args.since, key)
    entry = read_receipt(args.receipt).digest
    try:
        place, head = check_proof(read_bytes(args.proof, MOST_PROOF, "proof"), entry, key, since)
    except InvalidReceipt as error:
        say(f"the proof does NOT hold: {error}")
        return 1
    grown = "" if since is None else f", which holds all {since.size} of the earlier head"
    say(f"entry {place} of a log of {head.size}{grown}")
    return 0


def _key(text: str) -> bytes:
    from cutset.trust.verify_receipt import public_key

    try:
        return public_key(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--key: {error}") from None
