"""`cutset trust replay`: runs what a receipt says once more, and says whether the tokens are those."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.cli.output import say

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "run a receipt's prompt again, and compare the tokens"
DESCRIPTION = (
    "Runs prompt, parameters and seed of a whole receipt with the model. Exits with 0 if the tokens are those, with 1 "
    "if not, with 3 where that can't be told: another model, build or instruction set, or a backend whose tokens "
    "depend on what ran beside them."
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("receipt", type=Path, metavar="RECEIPT", help="a whole receipt, as --receipt writes it")
    parser.add_argument("model", metavar="MODEL", help="the model of the receipt: as for `cutset generate`")
    parser.add_argument("--adapter", metavar="DIR", help="the receipt's LoRA adapter, where it has one")
    parser.add_argument("--key", metavar="PUBLIC", help="whose receipt it must be: 64 hexadecimal digits, or a file")
    parser.add_argument("--threads", type=int, metavar="N", help="threads to compute with")


def run(args: argparse.Namespace) -> int:
    from cutset.config import load_settings
    from cutset.errors import ConfigError
    from cutset.receipts.replay import replay, replay_settings
    from cutset.trust.receipt import read_receipt
    from cutset.trust.verify_receipt import public_key

    try:
        key = None if args.key is None else public_key(args.key)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--key: {error}") from None
    receipt = read_receipt(args.receipt, key)
    load_settings({"threads": args.threads})
    try:
        settings = load_settings(replay_settings(receipt) | {"threads": args.threads})
    except ConfigError as error:  # of a version that has more
        say(f"can't tell: {error}")
        return 3
    found = replay(receipt, args.model, settings, args.adapter)
    if found.same is None:
        say("can't tell: " + "; ".join(found.why))
        return 3
    if found.same:
        say(f"the same {found.tokens} tokens")
        return 0
    if found.first is None:
        say("the receipt is false: " + "; ".join(found.why))
        return 1
    say(f"other tokens: answer {found.first[0]} differs from token {found.first[1]} on")
    return 1
