"""Evidence that was asked for without a request behind it: to look at, to keep, and to check on another machine."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from cutset.errors import ConfigError, LinkClosed, LinkTimeout
from cutset.reading import read_bytes, read_struct
from cutset.trust.evidence.document import MOST_DOCUMENT
from cutset.trust.evidence.statement import NONCE_BYTES

__all__ = ["FetchedEvidence", "fetch_evidence", "read_fetched", "server_address"]

TIMEOUT = 20.0  # seconds, of the connection
MOST_FILE = 2 * MOST_DOCUMENT


class FetchedEvidence(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """document: as it was sent. key: the certificate's (SubjectPublicKeyInfo, DER). nonce: the one asked with."""

    document: Annotated[bytes, msgspec.Meta(max_length=MOST_DOCUMENT)]
    key: Annotated[bytes, msgspec.Meta(min_length=1, max_length=16 << 10)]
    nonce: Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    format: Literal["cutset fetched evidence 1"] = "cutset fetched evidence 1"

    def encode(self) -> bytes:
        """As JSON, bytes in base64."""
        return msgspec.json.encode(self)


def server_address(text: str) -> tuple[str, int]:
    """Host and port of `https://HOST[:PORT]` or `HOST:PORT`. Raises ConfigError for anything else."""
    try:
        found = urlsplit(text if "://" in text else f"https://{text}")
        host, port = found.hostname, found.port
    except ValueError:
        host, port, found = None, None, urlsplit("")
    if not host or found.scheme != "https" or not (port is None or port > 0):
        raise ConfigError(f"{text[:200]!r} can't be asked for evidence: write https://HOST:PORT")
    return host, port or 443


def fetch_evidence(address: str, context: ssl.SSLContext | None = None) -> FetchedEvidence:
    """Asks a server. Without a `context` its certificate isn't looked at, but for its key. Raises ConfigError for an
    address, EvidenceError for what the server answers, LinkClosed or LinkTimeout where it can't be reached."""
    host, port = server_address(address)
    try:
        import httpcore

        from cutset.trust.evidence.transport import ask
    except ModuleNotFoundError:
        raise ConfigError("asking for evidence needs a few packages more: pip install 'cutset[trust]'") from None
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        stream = httpcore.SyncBackend().connect_tcp(host, port, timeout=TIMEOUT)
        try:
            secure = stream.start_tls(context, host, timeout=TIMEOUT)
            try:
                shown = ask(secure, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
            finally:
                secure.close()
        finally:
            stream.close()
    except httpcore.TimeoutException:
        raise LinkTimeout(f"{address} doesn't answer in time") from None
    except (httpcore.NetworkError, OSError) as error:
        raise LinkClosed(f"{address} can't be asked for evidence: {error}") from None
    return FetchedEvidence(shown.document, shown.key, shown.nonce)


def read_fetched(path: Path) -> FetchedEvidence:
    """What `FetchedEvidence.encode` wrote. Raises ConfigError."""
    return read_struct(
        read_bytes(path, MOST_FILE, "file of evidence"), FetchedEvidence, f"{path} isn't fetched evidence"
    )
