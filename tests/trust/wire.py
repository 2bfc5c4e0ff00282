"""TLS servers whose every byte is recorded, for tests of what leaves a client before evidence is checked."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from cutset.trust.evidence.document import Prover
from cutset.trust.evidence.providers import SimulatorProvider
from cutset.trust.evidence.served_files import ServedFile
from tests.serve.certificates import Authority

__all__ = ["FILES", "Wire", "body_of", "policy_text", "prover", "public_key", "relayed"]

FILES = [ServedFile("tale", "model.safetensors", 7, "ab" * 32), ServedFile("tale", "config.json", 3, "cd" * 32)]
QUESTION = re.compile(rb"\AGET /evidence\?nonce=([0-9a-f]{64}) HTTP/1\.1\r\n")
Answer = Callable[[bytes, bytes], bytes]  # the nonce and this server's own key to what is sent


def prover(measured: bytes = b"cutset", mode: str = "none") -> Prover:
    """One of a simulator."""
    return Prover(SimulatorProvider(measured), FILES, mode, "cutset 1")


def policy_text(measurement: str, manifest: str, *, certificate: str = "authority") -> str:
    """A policy for what `prover` shows."""
    return f"""
version = 1
[server]
manifests = ["{manifest}"]
modes = ["none"]
versions = ["cutset 1"]
[tls]
certificate = "{certificate}"
[simulator]
accept = "NOT CONFIDENTIAL"
measurement = ["{measurement}"]
"""


def body_of(document: bytes, *, status: str = "200 OK", more: str = "") -> bytes:
    """A whole answer with this body."""
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(document)}\r\n{more}\r\n".encode() + document


def public_key(chain: Path) -> bytes:
    """A certificate's SubjectPublicKeyInfo."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_pem_x509_certificate(chain.read_bytes()).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class Wire:
    """Answers questions for evidence with `answer`, and everything else with an empty completion. `received` has the
    plain text of every connection, in the order in which they came."""

    def __init__(self, folder: Path, authority: Authority, answer: Answer, name: str = "server") -> None:
        self.chain, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        authority.write(self.chain, self.key)
        self.public_key = public_key(self.chain)
        self.answer, self.received, self.other = answer, list[bytearray](), ANSWER
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.chain, self.key)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Wire]:
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._listening.close()

    def requests(self) -> list[bytes]:
        """The first line of each request that came, without the nonces."""
        lines = re.findall(rb"(?:GET|POST) [^\r]* HTTP/1\.1", b"\n".join(bytes(one) for one in self.received))
        return [line.split()[1].partition(b"?")[0] for line in lines]

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as secure:
            got = bytearray()
            self.received.append(got)
            begun = 0
            while data := secure.recv(65536):
                got += data
                if b"\r\n\r\n" not in got[begun:]:
                    continue
                found = QUESTION.match(bytes(got[begun:]))
                begun = len(got)
                sent = self.answer(bytes.fromhex(found[1].decode()), self.public_key) if found else self.other
                secure.sendall(sent)
                if not sent:
                    return


ANSWER = body_of(
    b'{"id":"1","object":"text_completion","created":1,"model":"tale","choices":'
    b'[{"index":0,"text":" said the fox","finish_reason":"stop","logprobs":null}]}',
    more="content-type: application/json\r\n",
)


def relayed(port: int, authority: Path) -> Answer:
    """Asks a genuine server the same question, as whoever sits in between would."""
    context = ssl.create_default_context(cafile=authority)

    def answer(nonce: bytes, key: bytes) -> bytes:
        asking = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
        with contextlib.closing(asking):
            asking.request("GET", f"/evidence?nonce={nonce.hex()}")
            return body_of(asking.getresponse().read())

    return answer
