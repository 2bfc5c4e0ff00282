"""`cutset trust mount-key`: makes the key of an enclave's encrypted mount."""

from __future__ import annotations

import argparse
from pathlib import Path

from cutset.cli.options import output_file
from cutset.cli.trust_seal import add_generation

__all__ = ["DESCRIPTION", "HELP", "configure", "run"]

HELP = "make the key of an enclave's encrypted mount"
DESCRIPTION = "Writes two files, 0600: one for the key server, and the mount's key for gramine-sgx-pf-crypt."


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", type=output_file, required=True, metavar="FILE", help="for the key server's directory")
    parser.add_argument("--wrap", type=output_file, required=True, metavar="FILE", help="for `gramine-sgx-pf-crypt -w`")
    parser.add_argument("--key-name", default="private", metavar="NAME", help="the mount's key_name (default private)")
    add_generation(parser)


def run(args: argparse.Namespace) -> int:
    import os
    import secrets

    from cutset.errors import ConfigError
    from cutset.files import write_atomically
    from cutset.trust.sealing.mount_key import mount_key
    from cutset.trust.sealing.seal_model import write_model_key
    from cutset.trust.sealing.sealed_format import ModelKey

    if os.path.lexists(args.wrap):
        raise ConfigError(f"{args.wrap} is there already: a key is never overwritten; choose another name")
    key = ModelKey(secrets.token_hex(32), secrets.token_bytes(32), args.line, args.generation)
    write_model_key(key, Path(args.key))
    write_atomically(args.wrap, mount_key(key, args.key_name), private=True)
    print(f"{key.seal}\n{args.key}: for the key server\n{args.wrap}: encrypts the mount's files; keep both to yourself")
    return 0
