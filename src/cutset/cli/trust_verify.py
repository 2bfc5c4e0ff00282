"""`cutset trust verify`: checks a receipt, as `cutset-verify` does without Cutset."""

from __future__ import annotations

import argparse

from cutset.trust.verify_receipt import add_flags
from cutset.trust.verify_receipt import run as verify_files

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "check a receipt, or a part of one"
DESCRIPTION = "Checks who signed a receipt, and that what it shows is what was signed. Exits with 1 if not, with 3 for \
the receipt of a run that failed. `cutset-verify` is the same program, in one file that needs no Cutset."


def configure(parser: argparse.ArgumentParser) -> None:
    add_flags(parser)


def run(args: argparse.Namespace) -> int:
    return verify_files(args)
