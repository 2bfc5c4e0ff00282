"""Quotes of an enclave that doesn't exist. They say so in their first bytes, and prove nothing to anybody.

notice (48 bytes)  public key (32)  measurement (32)  report data (64)  Ed25519 signature (64) of all before
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from cutset.errors import EvidenceError

__all__ = ["NOT_CONFIDENTIAL", "SimulatedEnclave", "SimulatedQuote", "read_simulated"]

NOT_CONFIDENTIAL = "NOT CONFIDENTIAL"
NOTICE = b"CUTSET SIMULATOR: NOT CONFIDENTIAL\n".ljust(48, b"\0")
SIGNED = len(NOTICE) + 32 + 32 + 64
SIZE = SIGNED + 64
LABEL = b"cutset simulated measurement 1"


class SimulatedQuote(NamedTuple):
    """What one says: measurement (32 bytes) and report data (64)."""

    measurement: bytes
    report_data: bytes


class SimulatedEnclave:
    """Signs with a key of its own, which is gone with it. `measured` stands for its code."""

    def __init__(self, measured: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._key = Ed25519PrivateKey.generate()
        self.measurement = hashlib.sha256(LABEL + measured).digest()

    def quote(self, data: bytes) -> bytes:
        """A quote that carries these 64 bytes."""
        signed = NOTICE + self._key.public_key().public_bytes_raw() + self.measurement + data
        return signed + self._key.sign(signed)


def read_simulated(quote: bytes) -> SimulatedQuote:
    """What a quote says, whose signature fits the key that it shows itself. Raises EvidenceError."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if len(quote) != SIZE or not quote.startswith(NOTICE):
        raise EvidenceError("its quote isn't one of the simulator")
    at = len(NOTICE)
    try:
        Ed25519PublicKey.from_public_bytes(quote[at : at + 32]).verify(quote[SIGNED:], quote[:SIGNED])
    except (InvalidSignature, ValueError):
        raise EvidenceError("the signature of its simulated quote is wrong") from None
    return SimulatedQuote(quote[at + 32 : at + 64], quote[at + 64 : SIGNED])
