"""`cutset trust audit`: says whether lines of an audit log were changed, taken out or put in."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from cutset.cli.output import log, say
from cutset.errors import ConfigError, EvidenceError

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "say whether lines of an audit log were changed"
DESCRIPTION = "Each line has the digest of the one before. Prints the last one's, which shows later that it is still \
there: keep it elsewhere. Exits with 1 where lines were changed, taken out or put in."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a file of --audit-log")
    parser.add_argument("--since", default="", metavar="DIGEST", help="one that was printed before: is its line there?")


def run(args: argparse.Namespace) -> int:
    from cutset.trust.audit import audit_head

    if args.since and not re.fullmatch("[0-9a-f]{64}", args.since):
        raise ConfigError("--since must be 64 hexadecimal digits, as this command printed them")
    try:
        count, head = audit_head(args.file, args.since)
    except EvidenceError as error:
        log(f"{args.file}: {error}")
        return 1
    say(f"{head or 'empty'}  {count} lines, each after the one before")
    return 0
