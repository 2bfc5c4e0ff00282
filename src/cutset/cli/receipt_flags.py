"""Flags of commands that write receipts, and the receipts of what they answer."""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cutset.cli.output import log
from cutset.cli.serve_evidence import provider_from
from cutset.errors import ConfigError, CutsetError
from cutset.files import write_atomically

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cutset.engine.outputs import Delta
    from cutset.engine.params import SamplingParams
    from cutset.llm import LLM, AsyncLLM
    from cutset.receipts.issuer import ReceiptIssuer
    from cutset.serve.reload import FileWatch
    from cutset.trust.signing_key import EvidenceOf, Signer

    Issuers = Callable[[LLM | AsyncLLM], ReceiptIssuer]

__all__ = ["add_receipt_key", "issuers_from", "receipted", "signer_for", "signer_from"]

KEY = "the key that signs receipts, see `cutset trust key`"


def add_receipt_key(parser: argparse._ActionsContainer, more: str = "") -> None:
    """Adds `--receipt-key FILE`."""
    parser.add_argument("--receipt-key", type=Path, metavar="FILE", help=KEY + more)


def signer_from(path: Path | None, evidence_of: EvidenceOf | None = None) -> Signer:
    """Who signs: the key in this file, or the user's own, with evidence for it. Raises ConfigError."""
    from cutset.trust.signing_key import Signer, SigningKey, own_signing_key

    return Signer.of(own_signing_key()[0] if path is None else SigningKey.load(path), evidence_of)


def signer_for(args: argparse.Namespace, wanted: object, flag: str) -> Signer | None:
    """The same by --receipt-key, where receipts are `wanted` by this flag, with evidence by --evidence; None where they
    aren't. Raises ConfigError."""
    if wanted is None and args.receipt_key is not None:
        raise ConfigError(f"--receipt-key has no use without {flag}: give both, or none")
    provider = provider_from(args, over=wanted is not None, needs=f"the key of receipts: give {flag}")
    if wanted is None:
        return None
    if provider is None:
        return signer_from(args.receipt_key)
    from cutset.trust.signing_key import evidence_by

    if not provider.confidential:
        log("cutset: warning: NOT CONFIDENTIAL: a simulator's evidence proves nothing")
    return signer_from(args.receipt_key, evidence_by(provider))


def issuers_from(
    path: Path | None,
    say: Callable[[str], None] = log,
    evidence_of: EvidenceOf | None = None,
    watch: FileWatch | None = None,
    used: Callable[[str], None] = lambda key: None,
) -> Issuers | None:
    """What makes receipts of any model's answers with this key, and evidence for it; None without a key. With `watch`
    another key in the file signs from then on. `used` is told each public key. Raises ConfigError."""
    if path is None:
        return None
    from cutset.receipts.issuer import ReceiptIssuer

    made: weakref.WeakSet[ReceiptIssuer] = weakref.WeakSet()

    def read() -> Signer:
        signer = signer_from(path, evidence_of)
        used(signer.key.public.hex())
        return signer

    def again() -> str:
        nonlocal signer
        signer = read()
        for issuer in list(made):
            issuer.signer = signer
        return f"the key of receipts was read again: they are signed by {signer.key.public.hex()}"

    signer = read()
    say(f"receipts are signed by {signer.key.public.hex()}")
    if watch is not None:
        watch.add([path], again)

    def issuer_of(llm: LLM | AsyncLLM) -> ReceiptIssuer:
        issuer = ReceiptIssuer(llm, signer)
        made.add(issuer)
        return issuer

    return issuer_of


def receipted(
    llm: LLM, issuer: ReceiptIssuer, file: Path, ids: NDArray[np.int32], params: SamplingParams, adapter: str | None
) -> Iterator[Delta]:
    """The pieces of an answer. Its receipt is written when it has ended, also by an error, which it then says."""
    receipt = issuer.begin([ids], params, adapter)
    deltas = llm.stream(ids, receipt.params, adapter=adapter)  # what can't be run has no receipt

    def noted() -> Iterator[Delta]:
        try:
            for delta in deltas:
                receipt.take(0, delta)
                yield delta
        except CutsetError as error:
            write_atomically(file, receipt.fail(error), private=True)
            raise
        write_atomically(file, receipt.finish(), private=True)
        log(f"[receipt in {file}, signed by {issuer.signer.key.public.hex()}]")

    return noted()
