"""Flags of `cutset serve` for the evidence that it shows, and what becomes of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.config import EVIDENCE_KINDS
from cutset.errors import ConfigError

if TYPE_CHECKING:
    from cutset.llm import AsyncLLM
    from cutset.trust.audit import AuditLog
    from cutset.trust.evidence.document import Prover
    from cutset.trust.evidence.providers import Provider

__all__ = ["add_evidence", "audit_from", "mode_of", "prover_of", "provider_from"]


def add_evidence(parser: argparse.ArgumentParser, *, what: str, needs: str, devices: bool = True) -> None:
    """Adds the flags. `what` it is shown to, and which flag it `needs`; whether `devices` may vouch beside it."""
    group = parser.add_argument_group("evidence")
    group.add_argument(
        "--evidence",
        choices=EVIDENCE_KINDS,
        help=f"show {what} a quote that is bound to this side's key and the model's files: sgx by Gramine, tdx and snp "
        f"by the kernel's configfs-tsm; simulator is NOT CONFIDENTIAL. Needs {needs}",
    )
    if devices:
        group.add_argument(
            "--device-evidence",
            choices=("nvidia",),
            help="show reports of this machine's GPUs in confidential-computing mode beside it (extra nvidia)",
        )
    group.add_argument(
        "--evidence-root",
        type=Path,
        metavar="DIR",
        help="where the system's files for it lie (default: their place)",
    )


def provider_from(args: argparse.Namespace, *, over: bool, needs: str) -> Provider | None:
    """What makes quotes; None without the flag. `over`: there is a key that they can be bound to. Raises ConfigError
    where there is none, and where this machine makes none."""
    devices = getattr(args, "device_evidence", None)
    if args.evidence is None:
        if args.evidence_root is not None:
            raise ConfigError("--evidence-root is for --evidence")
        if devices is not None:
            raise ConfigError("--device-evidence goes with --evidence: a GPU's report doesn't say which program asked")
        return None
    if not over:
        raise ConfigError(f"--evidence is bound to {needs}")
    from cutset.trust.evidence.providers import open_provider

    provider = open_provider(args.evidence, args.evidence_root)
    if devices is not None:
        from cutset.trust.evidence.nvidia_reports import NvidiaDevices

        provider.devices = NvidiaDevices()
    return provider


def prover_of(
    provider: Provider,
    models: Mapping[str, Path],
    mode: str,
    texts: Mapping[str, str],
    threads: int,
    say: Callable[[str], None],
) -> Prover:
    """What shows evidence of these models, whose files are hashed now."""
    from cutset.trust.evidence.document import Prover
    from cutset.trust.evidence.served_files import manifest_digest, served_files
    from cutset.version import software

    files = served_files(models, texts, threads)
    prover = Prover(provider, files, mode, software())
    say(f"evidence of kind {provider.kind}, for the manifest {manifest_digest(files).hex()}")
    if prover.notice:
        say(f"cutset: warning: {prover.notice}")
    return prover


def audit_from(args: argparse.Namespace) -> AuditLog | None:
    """The log of `--audit-log`; None without. Raises ConfigError."""
    if args.audit_log is None:
        return None
    from cutset.trust.audit import AuditLog

    return AuditLog(args.audit_log)


def mode_of(llm: AsyncLLM) -> str:
    """What evidence says of where the model runs: a mode of an offload, stages or replicas elsewhere, or nothing goes
    anywhere."""
    if getattr(llm, "replicas", None) is not None:  # of a ReplicatedLLM; what else is there needs none of its packages
        return "replicas"
    return llm.mode or ("stages" if llm.stages is not None else "none")
