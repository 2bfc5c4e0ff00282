"""`cutset manifest`: writes a Gramine manifest template for the client, or checks any manifest."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.options import add_settings, settings_from
from cutset.cli.output import say
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.offload.enclave.manifest import Provision

__all__ = ["configure", "run"]

NAME = "cutset.manifest.template"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a directory or a registered name")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help=f"where {NAME} goes")
    parser.add_argument(
        "--check", type=Path, metavar="FILE", help="say what is wrong with a manifest; exits with 1 if so"
    )
    parser.add_argument("--offload", default="shm://cutset", metavar="ADDRESS", help="the accelerator (shm://cutset)")
    parser.add_argument(
        "--pads-from", default="", metavar="ADDRESS", help="a second accelerator that computes the pads"
    )
    parser.add_argument("--context", type=int, metavar="N", help="longest sequence in tokens (default the model's)")
    parser.add_argument("--sequences", type=int, default=1, metavar="N", help="sequences at once (default 1)")
    parser.add_argument(
        "--attestation",
        choices=("dcap", "none"),
        default="none",
        help="remote attestation (default none); dcap needs --provision-from and --provision-seal",
    )
    parser.add_argument(
        "--provision-from",
        metavar="URL",
        help="https://HOST:PORT that has the encrypted mount's key (`cutset trust release`)",
    )
    parser.add_argument("--provision-seal", metavar="ID", help="which of its keys, as `cutset trust mount-key` says")
    parser.add_argument("--provision-ca", type=Path, metavar="FILE", help="authorities of its certificate; measured")
    parser.add_argument("--isv-prod-id", type=int, default=0, metavar="N", help="with dcap: sgx.isvprodid (default 0)")
    parser.add_argument("--isv-svn", type=int, default=0, metavar="N", help="with dcap: sgx.isvsvn (default 0)")
    parser.add_argument("command", nargs="*", metavar="-- COMMAND", help="what runs inside, after `cutset`")
    add_settings(parser, "threads", "models_file")
    # Else MODEL and COMMAND are looked for in one place, and flags between them leave no room for the second.
    parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]


def run(args: argparse.Namespace) -> int:
    if args.check is not None:
        return _check(args.check)
    if args.model is None or args.output is None:
        raise ConfigError("name a MODEL and -o DIR, or a manifest with --check FILE")
    if args.sequences < 1 or (args.context is not None and args.context < 1):
        raise ConfigError("--context and --sequences must be at least 1")
    settings = settings_from(args)
    from cutset.files import write_atomically
    from cutset.models.families import load_spec
    from cutset.models.registry import resolve
    from cutset.offload.enclave.manifest import render
    from cutset.offload.enclave.memory_sizes import Use, size_text

    directory = resolve(args.model, settings).directory
    use = Use(
        context=args.context or load_spec(directory).context,
        sequences=args.sequences,
        threads=settings.thread_count,
        pads_here=not args.pads_from,
    )
    manifest = render(
        directory,
        args.offload,
        use,
        attestation=args.attestation,
        pads_from=args.pads_from,
        command=args.command,
        provision=_provision(args),
    )
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{args.output} can't be made: {error.strerror}") from None
    write_atomically(args.output / NAME, manifest.text)
    for name, size in manifest.sizes.items():
        print(f"{name:<32}{size / (1 << 20):>10.1f} MiB")
    print(f"{'enclave, a power of two above':<32}{size_text(manifest.enclave_size):>14}")
    print(f"{args.output / NAME}: {manifest.files} files by digest; deploy/gramine/Makefile signs it")
    return 0


def _provision(args: argparse.Namespace) -> Provision | None:
    from cutset.offload.enclave.manifest import Provision

    if (args.provision_from is None) != (args.provision_seal is None):
        raise ConfigError("give --provision-from and --provision-seal together")
    if args.provision_from is None:
        if args.provision_ca is not None or args.isv_svn or args.isv_prod_id:
            raise ConfigError("--provision-ca, --isv-svn and --isv-prod-id are for --provision-from")
        return None
    return Provision(args.provision_from, args.provision_seal, args.provision_ca, args.isv_prod_id, args.isv_svn)


def _check(path: Path) -> int:
    from cutset.offload.enclave.lint import lint_file

    problems = lint_file(path)
    for problem in problems:
        say(problem)
    say(f"{path}: {len(problems) or 'no'} hole{'s' if len(problems) != 1 else ''}")
    return 1 if problems else 0
