"""`cutset trust verify`: checks a receipt, as `cutset-verify` does without Cutset, and its evidence by a policy."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.cli.output import log, say
from cutset.errors import ConfigError, EvidenceError
from cutset.trust.verify_receipt import add_flags, public_key
from cutset.trust.verify_receipt import run as verify_files

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "check a receipt, or a part of one"
DESCRIPTION = "Checks who signed a receipt, and that what it shows is what was signed. Exits with 1 if not, with 3 for \
the receipt of a run that failed. `cutset-verify` is the same without --policy, in one file that needs no Cutset."


def configure(parser: argparse.ArgumentParser) -> None:
    add_flags(parser)
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="verify the quote that binds the key too, by this policy (its [server] and [nvidia] have no say: a "
        "receipt has a quote alone); 1 where that isn't enough, or there is none",
    )


def run(args: argparse.Namespace) -> int:
    if args.policy is None:
        return verify_files(args)
    if args.receipt == "-":
        raise ConfigError("--policy needs the receipt in a file, which is read twice")
    from cutset.trust.evidence.policy import load_policy
    from cutset.trust.evidence.verifier import Verifier
    from cutset.trust.receipt import read_receipt
    from cutset.trust.signing_key import bound_data

    policy = load_policy(args.policy)
    verifier = Verifier(policy)
    if (code := verify_files(args)) not in (0, 3):
        return code
    # By the same key: what was just said holds of no other file that lies there by now.
    found = read_receipt(Path(args.receipt), None if args.any_key else public_key(args.key)).found
    said = found.statement["evidence"]
    try:
        if said is None or found.evidence is None:
            raise EvidenceError("it shows none")
        quote = verifier.check_quote(said[0], found.evidence, bound_data(found.signer))
    except EvidenceError as error:
        log(f"its evidence is NOT enough: {error}")
        return 1
    shown = ", ".join(f"{name} {value}" for name, value in quote.shown.items())
    status = f", {quote.status}" if quote.status else ""
    say(f"its evidence of kind {quote.kind} is enough: {shown}{status}")
    if policy.nvidia is not None:
        say("of GPUs nothing is known: the policy's [nvidia] is about servers, and receipts have no report of one")
    if not quote.confidential:
        say("NOT CONFIDENTIAL: a simulator's evidence proves nothing")
    return code
