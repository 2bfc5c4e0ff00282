"""`cutset keys`: makes the key pairs that tcp links need, and shows public keys."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.cli.output import say

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser(
        "new",
        help="make a key pair",
        description="Writes NAME.key, for its owner alone, and NAME.pub, which the other side needs.",
        allow_abbrev=False,
    )
    new.add_argument("name", metavar="NAME")
    new.add_argument("-o", "--output", type=Path, default=Path(), metavar="DIR", help="default: the current directory")
    new.set_defaults(act=_new)
    show = actions.add_parser(
        "show",
        help="show public keys",
        description="Shows the public keys in a .key or .pub file, in a list, or in a directory of .pub files.",
        allow_abbrev=False,
    )
    show.add_argument("file", metavar="FILE")
    show.set_defaults(act=_show)


def run(args: argparse.Namespace) -> int:
    code: int = args.act(args)
    return code


def _new(args: argparse.Namespace) -> int:
    from cutset.link.keys import new_keys, save_keys

    keys = new_keys()
    secret, public = save_keys(keys, args.name, args.output)
    print(f"{keys.public.hex()}  {args.name}")
    print(f"{secret}: the pair; keep it to yourself\n{public}: the public key; give it to the other side")
    return 0


def _show(args: argparse.Namespace) -> int:
    from cutset.link.keys import load_allowed, load_public

    path = Path(args.file)
    found = [load_public(path)] if path.suffix == ".key" else sorted(load_allowed(path))
    for key in found:
        say(f"{key.hex()}  {args.file}")
    return 0
