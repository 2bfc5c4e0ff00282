"""`cutset trust`: why a server, a model or an answer may be believed."""

from __future__ import annotations

import argparse

from cutset.cli import (
    trust_audit,
    trust_check,
    trust_fetch,
    trust_key,
    trust_log,
    trust_mount_key,
    trust_policy,
    trust_provision,
    trust_release,
    trust_replay,
    trust_seal,
    trust_show,
    trust_verify,
)

__all__ = ["configure", "run"]

ACTIONS = (
    ("policy", trust_policy),
    ("fetch", trust_fetch),
    ("check", trust_check),
    ("seal", trust_seal),
    ("release", trust_release),
    ("mount-key", trust_mount_key),
    ("provision", trust_provision),
    ("key", trust_key),
    ("verify", trust_verify),
    ("show", trust_show),
    ("replay", trust_replay),
    ("log", trust_log),
    ("audit", trust_audit),
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
