"""`cutset doctor`: what this machine has for a private offload, and what to change."""

from __future__ import annotations

import argparse

from cutset.cli.options import add_json
from cutset.cli.output import say

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    add_json(parser, "the findings")


def run(args: argparse.Namespace) -> int:
    from cutset.files import write_json
    from cutset.offload.doctor import examine

    findings = examine()
    for finding in findings:
        say(f"{finding.verdict:<6}{finding.topic:<15}{finding.found}")
        if finding.advice:
            say(f"{'':<21}→ {finding.advice}")
    bad = sum(finding.verdict == "bad" for finding in findings)
    warned = sum(finding.verdict == "warn" for finding in findings)
    print(f"\n{bad} bad, {warned} to look at, {len(findings) - bad - warned} good")
    if args.json:
        write_json(args.json, {"command": "cutset doctor", "findings": findings})
    return 1 if bad else 0
