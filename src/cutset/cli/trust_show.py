"""`cutset trust show`: a receipt with some of its parts, for somebody who may see no others."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.cli.options import output_path

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "make a receipt that shows some parts alone"
DESCRIPTION = (
    "Writes the receipt with these parts, and proofs that they are its own; nobody can guess the others from it. "
    "Without parts it has the statement alone."
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("receipt", type=Path, metavar="RECEIPT", help="a whole receipt, as --receipt writes it")
    parser.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="PART",
        help="tokens 3-5 of the answer, or of answer:1:3-5 or prompt:3-5, counted from 0; or details:NAME, as "
        "details:text:0, the text of the first answer. Several times",
    )
    parser.add_argument(
        "-o", "--output", type=output_path, metavar="FILE", help="write it there; else it comes as base64"
    )


def run(args: argparse.Namespace) -> int:
    import base64

    from cutset.files import write_atomically
    from cutset.trust.receipt import read_receipt

    found = read_receipt(args.receipt)
    data = found.show(args.part) if args.part else found.bare
    if args.output is None:
        print(base64.b64encode(data).decode())
    else:
        write_atomically(args.output, data)
    return 0
