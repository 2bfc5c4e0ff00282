"""The Ed25519 key that signs receipts and heads of logs: in a file of the form of link keys, for its owner alone.

Neither kind of key can be taken for the other: the public half of a file must be that of its secret half, and the two
curves make different ones.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cutset.errors import ConfigError
from cutset.link.keys import Keys, read_pair, save_keys
from cutset.trust.verify_receipt import EVIDENCE_DOMAIN

__all__ = [
    "EvidenceOf",
    "QuoteSource",
    "ReceiptEvidence",
    "Signer",
    "SigningKey",
    "bound_data",
    "evidence_by",
    "own_signing_key",
]

FIRST_LINE = "# A key that signs for Cutset: keep it to yourself. The public half may go anywhere."
OWN = "receipts"  # the name of the key that is made where none is named


class SigningKey:
    """A pair. `public`: 32 bytes."""

    def __init__(self, secret: bytes) -> None:
        """secret: 32 bytes."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._private = Ed25519PrivateKey.from_private_bytes(secret)
        self.public = self._private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"SigningKey({self.public.hex()})"

    def __reduce__(self) -> str:
        raise TypeError("a key stays in its process")

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._private.sign(message)

    @classmethod
    def new(cls) -> SigningKey:
        """A fresh one from the system's randomness."""
        return cls(os.urandom(32))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SigningKey:
        """The one in a .key file. Raises ConfigError, also when anyone but its owner can read it."""
        public, secret = read_pair(path, "`cutset trust key NAME`")
        key = cls(secret)
        if key.public != public:
            raise ConfigError(f"{os.fspath(path)} is no key that signs: make one with `cutset trust key NAME`")
        return key

    def save(self, name: str, directory: Path) -> tuple[Path, Path]:
        """Writes NAME.key, for its owner alone, and NAME.pub. Raises ConfigError where one of them is there."""
        return save_keys(Keys(self.public, self._private.private_bytes_raw()), name, directory, FIRST_LINE)


def own_signing_key() -> tuple[SigningKey, Path]:
    """The user's own, which is made when it is first asked for, and where it is. Raises ConfigError."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")) / "cutset"
    path = home / f"{OWN}.key"
    if not path.exists():
        key = SigningKey.new()
        try:
            key.save(OWN, home)
        except ConfigError:
            if not path.exists():  # else somebody else has just made it
                raise
    return SigningKey.load(path), path


@dataclass(frozen=True, slots=True)
class ReceiptEvidence:
    """What shows where a signing key lives: a quote, say, that binds its public half. `kind` names its format."""

    kind: str
    blob: bytes


# Makes evidence for a public key, 32 bytes; None: there is none.
EvidenceOf = Callable[[bytes], ReceiptEvidence | None]


def bound_data(key: bytes) -> bytes:
    """The 64 bytes that a quote carries which binds this public key."""
    return hashlib.sha512(EVIDENCE_DOMAIN + key).digest()


class QuoteSource(Protocol):
    """What makes quotes where this runs. `kind` names their format."""

    kind: str

    def quote(self, data: bytes) -> bytes:
        """One that carries these 64 bytes."""


def evidence_by(source: QuoteSource) -> EvidenceOf:
    """Evidence by a quote that carries SHA-512 of a domain word and the key, so that no quote for anything else is one
    for a key that signs."""

    def evidence(key: bytes) -> ReceiptEvidence:
        return ReceiptEvidence(source.kind, source.quote(bound_data(key)))

    return evidence


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs: a key, and the evidence that goes with all that it signs."""

    key: SigningKey
    evidence: ReceiptEvidence | None = None

    @classmethod
    def of(cls, key: SigningKey, evidence_of: EvidenceOf | None = None) -> Signer:
        """With evidence for its key, made once. Raises what `evidence_of` raises."""
        return cls(key, None if evidence_of is None else evidence_of(key.public))
