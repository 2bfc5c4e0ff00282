"""TLS: a certificate and its key, which may be replaced while connections are open."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path

from cutset.config import read_bounded
from cutset.errors import ConfigError

__all__ = ["Certificate", "tls_key"]


class Certificate:
    """A chain and its private key as PEM files, and the context that a server listens with.

    `read` takes the files as they are now: new connections get them, those that are open keep what they began with.
    Raises ConfigError for what can't be used; then nothing has changed.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self.chain, self.key = chain, key
        self._current = self.context = _context(chain, key)
        # Never the context that is being changed: half of a pair would be in force if its other half is wrong.
        self.context.sni_callback = self._choose

    def read(self) -> str:
        """Reads both files anew; gives a line about it."""
        self._current = _context(self.chain, self.key)
        return f"the TLS certificate was read again: {self.chain}"

    def cautions(self) -> list[str]:
        """What the user should know about the files."""
        from cryptography import x509

        found = []
        if self.key.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            found.append(f"others can read the private key {self.key}: chmod o-rwx,g-w it")
        leaf = x509.load_pem_x509_certificates(read_bounded(self.chain).encode())[0]
        if leaf.not_valid_after_utc < datetime.now(UTC):
            found.append(f"the certificate {self.chain} expired on {leaf.not_valid_after_utc:%Y-%m-%d}")
        return found

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._current


def tls_key(connection: ssl.SSLObject) -> bytes | None:
    """The public key (SubjectPublicKeyInfo, DER) that the client of a connection of ours was shown."""
    context = connection.context
    return context.public_key if isinstance(context, _Context) else None


class _Context(ssl.SSLContext):
    """One that knows the public key of its certificate, which evidence is bound to."""

    public_key = b""


def _public_key(chain: Path) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    leaf = x509.load_pem_x509_certificates(read_bounded(chain).encode())[0]
    return leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _context(chain: Path, key: Path) -> _Context:
    for path in (chain, key):
        if not path.is_file():
            raise ConfigError(f"{path} is not a file: name a certificate and its key, both as PEM")
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # The password: OpenSSL would ask for one on the terminal.
        context.load_cert_chain(chain, key, password=lambda: "")
        context.public_key = _public_key(chain)
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):
            raise ConfigError(f"the key {key} is not that of the certificate {chain}") from None
        raise ConfigError(
            f"{chain} and {key} can't be used: give a certificate chain and its private key, both as PEM and the key "
            "without a password"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{chain} and {key} can't be read: {getattr(error, 'strerror', None) or error}") from None
    return context
