"""`cutset trust fetch`: asks a server for evidence and keeps it, with what is needed to check it off-line."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.cli.options import output_path
from cutset.cli.output import say

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "ask a server for evidence and write it to a file"
DESCRIPTION = "Nothing is checked: `cutset trust check FILE --policy POLICY` does so, on any machine, off-line."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="https://HOST:PORT of the server")
    parser.add_argument("-o", "--output", type=output_path, metavar="FILE", help="where it goes (default: only shown)")


def run(args: argparse.Namespace) -> int:
    from cutset.files import write_atomically
    from cutset.trust.evidence.document import read_document
    from cutset.trust.evidence.fetched import fetch_evidence

    found = fetch_evidence(args.address)
    document = read_document(found.document)
    say(f"{args.address}: {document.kind}, mode {document.mode}, {document.version}, {len(document.files)} files")
    if document.notice:
        say(document.notice)
    if args.output is not None:
        write_atomically(Path(args.output), found.encode())
        say(f"{args.output}: not checked yet")
    return 0
