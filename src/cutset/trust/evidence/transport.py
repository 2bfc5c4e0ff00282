"""A transport for httpx, and so for OpenAI's client, that sends no byte of a request before evidence was enough.

    http_client = httpx.Client(transport=AttestedTransport("policy.toml"))
    client = openai.OpenAI(base_url="https://gpu.example/v1", http_client=http_client)

On each new connection, behind TLS's handshake and before anything else, the question for evidence is asked. The
evidence has to be bound to the key of this very connection, which TLS has proven, so whoever ends TLS in between is
refused by construction; a certificate that was replaced comes with new evidence. What isn't https is refused. There is
no proxy, no HTTP/2, and nothing that turns this off.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from cutset.errors import ConfigError, EvidenceError
from cutset.trust.evidence.policy import EvidencePolicy, load_policy
from cutset.trust.evidence.question import MOST_SECONDS, Question
from cutset.trust.evidence.statement import new_nonce
from cutset.trust.evidence.verifier import CheckedEvidence, Verifier

if TYPE_CHECKING:
    from httpcore import SOCKET_OPTION

__all__ = ["AsyncAttestedTransport", "AttestedTransport", "ShownEvidence", "ask", "key_of", "tls_context"]

READ = 64 << 10
# Of both kinds of transports; what is idle for 30 seconds is asked for evidence again.
POOLED: Any = {"max_connections": 100, "max_keepalive_connections": 20, "keepalive_expiry": 30.0}


class ShownEvidence:
    """What a connection showed, not checked yet: its document and key, and the nonce it was asked with."""

    def __init__(self, document: bytes, key: bytes, nonce: bytes) -> None:
        self.document, self.key, self.nonce = document, key, nonce


class AttestedTransport(httpx.HTTPTransport):
    """See above. `ca`: a file with the authorities that count (default: the system's), where the policy looks at them.

    `checked` has the last evidence of each server that was enough, by HOST:PORT. Raises EvidenceError out of a request
    whose server's evidence isn't enough; OpenAI's client shows it as the cause of an APIConnectionError."""

    def __init__(self, policy: EvidencePolicy | Verifier | str | PathLike[str], *, ca: Path | None = None) -> None:
        verifier = _verifier(policy)
        context = tls_context(verifier.policy, ca)
        super().__init__(verify=context, trust_env=False)
        self.checked: dict[str, CheckedEvidence] = {}
        self._pool = httpcore.ConnectionPool(
            ssl_context=context, network_backend=_Backend(verifier, self.checked), **POOLED
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises EvidenceError for what isn't https."""
        _check_scheme(request)
        return super().handle_request(request)


class AsyncAttestedTransport(httpx.AsyncHTTPTransport):
    """The same for httpx.AsyncClient."""

    def __init__(self, policy: EvidencePolicy | Verifier | str | PathLike[str], *, ca: Path | None = None) -> None:
        verifier = _verifier(policy)
        context = tls_context(verifier.policy, ca)
        super().__init__(verify=context, trust_env=False)
        self.checked: dict[str, CheckedEvidence] = {}
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context, network_backend=_AsyncBackend(verifier, self.checked), **POOLED
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises EvidenceError for what isn't https."""
        _check_scheme(request)
        return await super().handle_async_request(request)


def tls_context(policy: EvidencePolicy, ca: Path | None = None) -> ssl.SSLContext:
    """How TLS is spoken: 1.3 alone, whose handshake proves the key. Raises ConfigError where `ca` can't be used."""
    if policy.tls.certificate == "evidence":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the evidence binds the key
    else:
        try:
            context = ssl.create_default_context(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{ca} can't be read as certificates (PEM): {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def ask(stream: httpcore.NetworkStream, host: str) -> ShownEvidence:
    """Asks for evidence on a connection behind TLS. Raises EvidenceError, and what the stream raises."""
    nonce, end = new_nonce(), time.monotonic() + MOST_SECONDS
    question = Question(host, nonce)
    stream.write(question.request, timeout=MOST_SECONDS)
    while (document := question.feed(stream.read(READ, timeout=_left(end)))) is None:
        pass
    return ShownEvidence(document, key_of(stream.get_extra_info("ssl_object")), nonce)


async def _ask(stream: httpcore.AsyncNetworkStream, host: str) -> ShownEvidence:
    nonce, end = new_nonce(), time.monotonic() + MOST_SECONDS
    question = Question(host, nonce)
    await stream.write(question.request, timeout=MOST_SECONDS)
    while (document := question.feed(await stream.read(READ, timeout=_left(end)))) is None:
        pass
    return ShownEvidence(document, key_of(stream.get_extra_info("ssl_object")), nonce)


def key_of(connection: ssl.SSLObject | None) -> bytes:
    """The key (SubjectPublicKeyInfo, DER) that the other side of a connection has proven. Raises EvidenceError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    found = connection.getpeercert(True) if connection is not None else None
    if found is None:
        raise EvidenceError("the connection has no certificate that evidence could be bound to")
    try:
        key = x509.load_der_x509_certificate(found).public_key()
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception as error:  # whatever a parser makes of a certificate of an unknown peer
        raise EvidenceError(f"its certificate can't be read: {type(error).__name__}") from None


class _Stream(httpcore.NetworkStream):
    """A connection on which nothing is sent but TLS, and behind that a question first."""

    def __init__(
        self, inner: httpcore.NetworkStream, peer: str, verifier: Verifier, checked: dict[str, CheckedEvidence]
    ) -> None:
        self._inner, self._peer, self._verifier, self._checked = inner, peer, verifier, checked

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        raise EvidenceError("nothing is read from a connection without TLS")

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        raise EvidenceError("nothing is sent over a connection without TLS")

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secure = self._inner.start_tls(ssl_context, server_hostname, timeout)
        try:
            shown = ask(secure, self._peer)
            self._checked[self._peer] = self._verifier.check(
                shown.document, channel="tls", key=shown.key, nonce=shown.nonce, peer=self._peer
            )
        except BaseException:
            secure.close()
            raise
        return secure

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)


class _AsyncStream(httpcore.AsyncNetworkStream):
    """The same."""

    def __init__(
        self, inner: httpcore.AsyncNetworkStream, peer: str, verifier: Verifier, checked: dict[str, CheckedEvidence]
    ) -> None:
        self._inner, self._peer, self._verifier, self._checked = inner, peer, verifier, checked

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        raise EvidenceError("nothing is read from a connection without TLS")

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        raise EvidenceError("nothing is sent over a connection without TLS")

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        secure = await self._inner.start_tls(ssl_context, server_hostname, timeout)
        try:
            shown = await _ask(secure, self._peer)
            self._checked[self._peer] = self._verifier.check(
                shown.document, channel="tls", key=shown.key, nonce=shown.nonce, peer=self._peer
            )
        except BaseException:
            await secure.aclose()
            raise
        return secure

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, verifier: Verifier, checked: dict[str, CheckedEvidence]) -> None:
        self._inner, self._verifier, self._checked = httpcore.SyncBackend(), verifier, checked

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream, _peer(host, port), self._verifier, self._checked)


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, verifier: Verifier, checked: dict[str, CheckedEvidence]) -> None:
        self._inner, self._verifier, self._checked = httpcore.AnyIOBackend(), verifier, checked

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _AsyncStream(stream, _peer(host, port), self._verifier, self._checked)


def _verifier(policy: EvidencePolicy | Verifier | str | PathLike[str]) -> Verifier:
    if isinstance(policy, Verifier):
        return policy
    return Verifier(policy if isinstance(policy, EvidencePolicy) else load_policy(Path(policy)))


def _check_scheme(request: httpx.Request) -> None:
    if request.url.scheme != "https":
        raise EvidenceError(
            f"{request.url.scheme}://{request.url.host} has no key that evidence could be bound to: use https"
        )


def _peer(host: str, port: int) -> str:
    """As the Host header has it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _left(end: float) -> float:
    """Seconds until then. Raises EvidenceError when there are none."""
    left = end - time.monotonic()
    if left <= 0:
        raise EvidenceError(f"the server showed no evidence within {MOST_SECONDS:.0f} s")
    return left
