"""What evidence is bound to: the 64 bytes that a quote carries as its report data."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

__all__ = ["CHANNELS", "NONCE_BYTES", "REPORT_DATA_BYTES", "Statement", "new_nonce", "sequence"]

DOMAIN = b"cutset evidence statement 1"
CHANNELS = ("tls", "curve", "release")
NONCE_BYTES = 32
REPORT_DATA_BYTES = 64


@dataclass(frozen=True, slots=True)
class Statement:
    """What the asker compares with what it sees itself.

    channel: one of CHANNELS. key: of whoever shows the evidence: a certificate's SubjectPublicKeyInfo (DER), a CURVE
    public key, or the key (X25519) that what is released is encrypted to. manifest: the digest of what it has loaded
    (32 bytes). mode and version: as it states them. nonce: the asker's, 32 bytes. devices: the digest of its devices'
    reports, where it shows such.
    """

    channel: str
    key: bytes
    manifest: bytes
    mode: str
    version: str
    nonce: bytes
    devices: bytes = b""

    @property
    def report_data(self) -> bytes:
        """SHA-512 of a domain word and all fields, 64 bytes."""
        fields = (
            DOMAIN,
            self.channel.encode(),
            self.key,
            self.manifest,
            self.mode.encode(),
            self.version.encode(),
            self.nonce,
            *([self.devices] if self.devices else []),
        )
        return hashlib.sha512(sequence(*fields)).digest()


def sequence(*parts: bytes) -> bytes:
    """The parts behind their number and each behind its length (8 bytes, little-endian): no two lists of parts make the
    same bytes."""
    numbered = (len(part).to_bytes(8, "little") + part for part in parts)
    return len(parts).to_bytes(8, "little") + b"".join(numbered)


def new_nonce() -> bytes:
    """32 bytes that nobody can have seen before."""
    return secrets.token_bytes(NONCE_BYTES)
