"""`cutset trust provision`: in an enclave of Gramine, gets the key of its encrypted mount, then runs a command."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from cutset.errors import ConfigError

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "in an enclave: get the key of the encrypted mount, then run a command"
DESCRIPTION = "The key server (`cutset trust release`) gives it to evidence alone. The command runs in this process."
NAME = re.compile(r"[A-Za-z0-9_]{1,32}")
SEAL = re.compile(r"[0-9a-f]{64}")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="server", required=True, metavar="URL", help="the key server, https://HOST:PORT")
    parser.add_argument("--seal", required=True, metavar="ID", help="which of its keys, as `mount-key` says")
    parser.add_argument("--key-name", default="private", metavar="NAME", help="the mount's key_name (default private)")
    parser.add_argument("--ca", metavar="FILE", help="authorities of the key server's certificate; a measured file")
    parser.add_argument(
        "--attestation-root", type=Path, default=Path("/dev/attestation"), metavar="DIR", help=argparse.SUPPRESS
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="what runs then")


def run(args: argparse.Namespace) -> int:
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not NAME.fullmatch(args.key_name) or not SEAL.fullmatch(args.seal):
        raise ConfigError("--seal must be 64 hexadecimal digits, --key-name letters and digits")
    if not command or command[0] == "trust":
        raise ConfigError("name the command that runs once the key is there, behind --")
    from cutset.cli import main
    from cutset.trust.evidence.document import Prover
    from cutset.trust.evidence.providers import GramineProvider
    from cutset.trust.sealing.mount_key import provision
    from cutset.version import software

    prover = Prover(GramineProvider(args.attestation_root), [], "release", software())
    provision(args.server, args.seal, args.key_name, prover, args.attestation_root, args.ca)
    return main(command)
