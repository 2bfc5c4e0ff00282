"""Flags of `cutset serve` for the evidence that it shows, and what becomes of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.llm import AsyncLLM
    from cutset.trust.evidence.document import Prover
    from cutset.trust.evidence.providers import Provider

__all__ = ["add_evidence", "mode_of", "prover_of", "provider_from"]

KINDS = ("sgx", "tdx", "snp", "simulator")


def add_evidence(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    group = parser.add_argument_group("evidence")
    group.add_argument(
        "--evidence",
        choices=KINDS,
        help="show who asks /evidence a quote that is bound to the certificate and the model's files: sgx by Gramine, "
        "tdx and snp by the kernel's configfs-tsm; simulator is NOT CONFIDENTIAL. Needs --tls-cert",
    )
    group.add_argument(
        "--evidence-root",
        type=Path,
        metavar="DIR",
        help="where the system's files for it lie (default: their own place)",
    )


def provider_from(args: argparse.Namespace) -> Provider | None:
    """What makes quotes; None without the flag. Raises ConfigError where this machine has none."""
    if args.evidence is None:
        if args.evidence_root is not None:
            raise ConfigError("--evidence-root is for --evidence")
        return None
    if args.tls_cert is None:
        raise ConfigError("--evidence is bound to a certificate: give --tls-cert and --tls-key too")
    from cutset.trust.evidence.providers import open_provider

    return open_provider(args.evidence, args.evidence_root)


def prover_of(
    provider: Provider | None,
    models: Mapping[str, Path],
    mode: str,
    texts: Mapping[str, str],
    threads: int,
    say: Callable[[str], None],
) -> Prover | None:
    """What shows evidence of these models, whose files are hashed now; None without a provider."""
    if provider is None:
        return None
    from cutset.trust.evidence.document import Prover
    from cutset.trust.evidence.served_files import manifest_digest, served_files
    from cutset.version import software

    files = served_files(models, texts, threads)
    prover = Prover(provider, files, mode, software())
    say(f"evidence of kind {provider.kind} at /evidence, for the manifest {manifest_digest(files).hex()}")
    if prover.notice:
        say(f"cutset: warning: {prover.notice}")
    return prover


def mode_of(llm: AsyncLLM) -> str:
    """What evidence says of where the model runs: a mode of an offload, stages elsewhere, or nothing goes anywhere."""
    return llm.mode or ("stages" if llm.stages is not None else "none")
