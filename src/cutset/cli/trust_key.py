"""`cutset trust key`: makes the key that signs receipts and heads of logs, or shows its public half."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.cli.output import log, say

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "make the key that signs receipts, or show its public half"
DESCRIPTION = (
    "Writes NAME.key, for its owner alone, and NAME.pub, for whoever checks receipts. Without NAME it shows your own, "
    "which is made when it is first needed."
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("-o", "--output", type=Path, default=Path(), metavar="DIR", help="default: here")


def run(args: argparse.Namespace) -> int:
    from cutset.trust.signing_key import SigningKey, own_signing_key

    if args.name is None:
        key, path = own_signing_key()
        say(f"{key.public.hex()}  {path}")
        return 0
    key = SigningKey.new()
    secret, public = key.save(args.name, args.output)
    say(f"{key.public.hex()}  {args.name}")
    log(f"{secret}: the pair; keep it to yourself\n{public}: the public key; give it to whoever checks receipts")
    return 0
