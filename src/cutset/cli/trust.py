"""`cutset trust`: why a server, a model or an answer may be believed."""

from __future__ import annotations

import argparse

from cutset.cli import trust_key, trust_log, trust_replay, trust_show, trust_verify

__all__ = ["configure", "run"]

ACTIONS = (
    ("key", trust_key),
    ("log", trust_log),
    ("replay", trust_replay),
    ("show", trust_show),
    ("verify", trust_verify),
)


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, module in ACTIONS:
        parser = actions.add_parser(name, help=module.HELP, description=module.DESCRIPTION, allow_abbrev=False)
        module.configure(parser)
        parser.set_defaults(act=module.run)


def run(args: argparse.Namespace) -> int:
    code: int = args.act(args)
    return code
