"""A small receipt that no model was needed for."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from cutset.trust.canonical import encode
from cutset.trust.merkle import SaltedTree
from cutset.trust.receipt import AnswerTree, sign_receipt
from cutset.trust.signing_key import Signer, SigningKey, evidence_by

Make = Callable[..., bytes]

RUN = {
    "software": "cutset 1",
    "code": bytes(32),
    "arithmetic": 2,
    "backend": "native",
    "dtype": "exact",
    "kv_dtype": "auto",
    "device": "cpu",
    "machine": "x86_64",
    "libraries": ["avx2"],
    "context": 512,
    "stages": 0,
}
PADS = {"ledger": bytes(16), "blocks": [3, 9], "rows": [100, 160]}
OFFLOAD = {"products": 40, "checks": 40, "failures": 0, "pads": PADS}


class Simulator:
    """Quotes that anybody can make."""

    kind = "simulator"

    def quote(self, data: bytes) -> bytes:
        """See QuoteSource."""
        return b"quote of " + data


def tokens(text: str) -> SaltedTree:
    """A token for each letter."""
    return SaltedTree([encode([ord(letter), letter.encode()]) for letter in text])


@pytest.fixture(scope="session")
def signer() -> Signer:
    """Who signs, with evidence for the key."""
    return Signer.of(SigningKey.new(), evidence_by(Simulator()))


@pytest.fixture
def make(signer: Signer) -> Make:
    """Makes receipts; what is named differs from the usual."""

    def made(prompts: tuple[str, ...] = ("ab",), answers: tuple[str, ...] = ("cde",), **more: Any) -> bytes:
        details = more.pop("details", {"text:0": "cde", "stop": ["x"]})
        statement = {
            "id": os.urandom(16),
            "began": 1_000,
            "ended": 2_000,
            "model": {
                "name": "story",
                "files": bytes(32),
                "tokenizer": bytes(32),
                "template": None,
                "adapter": None,
            },
            "sampling": {"temperature": 0.7, "n": 1, "ignore_eos": True, "max_tokens": None},
            "seed": -5,
            "mode": "masked+verified",
            "run": RUN,
            "offload": OFFLOAD,
            "outcome": "complete",
        }
        trees = [AnswerTree(0, at, "stop", tokens(text)) for at, text in enumerate(answers)]
        by = more.pop("by", signer)
        return sign_receipt(by, statement | more, [tokens(text) for text in prompts], trees, details)

    return made
