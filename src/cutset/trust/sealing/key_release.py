"""Keys of sealed models, released to evidence: what both sides of it compute, and the asking side.

    POST /nonce                                        -> a nonce, for one release within a minute
    POST /release  seal, nonce, key, document          -> the model's key, encrypted to `key`, if the evidence is enough

`key` is an X25519 key that was made for this release, and the document's quote is bound to it, so what comes back can
be read by that enclave alone, whoever carries it. Neither side's messages are secret but for that.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

from cutset.errors import ConfigError, EvidenceError, LinkClosed, LinkTimeout, printable
from cutset.trust.evidence.document import MOST_DOCUMENT, Prover
from cutset.trust.evidence.statement import NONCE_BYTES, sequence
from cutset.trust.sealing.sealed_format import ModelKey

__all__ = [
    "MOST_MESSAGE",
    "NONCE_PATH",
    "RELEASE_PATH",
    "IssuedNonce",
    "ReleaseRequest",
    "ReleasedKey",
    "ask_for_key",
    "encrypted_key",
]

NONCE_PATH, RELEASE_PATH = "/nonce", "/release"
MOST_MESSAGE = 2 * MOST_DOCUMENT
LABEL = b"cutset key release 1"
TIMEOUT = 30.0  # seconds
KEY = 32
T = TypeVar("T")
Digits = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class ReleaseRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`seal`: whose key. `key`: to encrypt to, 32 bytes. `document`: evidence that is bound to it and to the nonce."""

    seal: Digits
    nonce: Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    key: Annotated[bytes, msgspec.Meta(min_length=KEY, max_length=KEY)]
    document: Annotated[bytes, msgspec.Meta(max_length=MOST_DOCUMENT)]


class ReleasedKey(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`key`: the server's for this release. `sealed`: the model's key and a tag, 48 bytes."""

    key: Annotated[bytes, msgspec.Meta(min_length=KEY, max_length=KEY)]
    sealed: Annotated[bytes, msgspec.Meta(min_length=KEY + 16, max_length=KEY + 16)]


class IssuedNonce(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What the quote has to be made for."""

    nonce: Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]


def encrypted_key(key: ModelKey, request: ReleaseRequest) -> ReleasedKey:
    """A model's key for whoever has the secret half of `request.key`. Raises EvidenceError for a key that is none."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    own = X25519PrivateKey.generate()
    public = own.public_key().public_bytes_raw()
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(request.key))
    except ValueError:
        raise EvidenceError("the key that is to be encrypted to is none") from None
    return ReleasedKey(public, _cipher(shared, public, request).encrypt(bytes(12), key.secret, None))


def ask_for_key(server: str, seal: str, prover: Prover, ca: str | None = None) -> ModelKey:
    """The key of a sealed model from the server at https://HOST:PORT. Raises EvidenceError where the server refuses,
    LinkClosed or LinkTimeout where it can't be asked."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    from cutset.trust.evidence.fetched import server_address

    server_address(server)
    own = X25519PrivateKey.generate()
    public = own.public_key().public_bytes_raw()
    client = _client(ca)
    with client:
        nonce = _post(client, f"{server.rstrip('/')}{NONCE_PATH}", b"{}", IssuedNonce).nonce
        request = ReleaseRequest(seal, nonce, public, prover.show("release", public, nonce))
        body = msgspec.json.encode(request)
        found = _post(client, f"{server.rstrip('/')}{RELEASE_PATH}", body, ReleasedKey)
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(found.key))
        return ModelKey(seal, _cipher(shared, found.key, request).decrypt(bytes(12), found.sealed, None))
    except (InvalidTag, ValueError):
        raise EvidenceError("what the key server sent can't be decrypted") from None


def _cipher(shared: bytes, server: bytes, request: ReleaseRequest) -> Any:
    """For one message: both keys are new, so is what they come to."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    said = sequence(LABEL, server, request.key, bytes.fromhex(request.seal), request.nonce)
    return AESGCM(HKDF(SHA256(), 32, None, said).derive(shared))


def _client(ca: str | None) -> Any:
    try:
        import httpx
    except ModuleNotFoundError:
        raise ConfigError("asking for a key needs a few packages more: pip install 'cutset[trust]'") from None
    import ssl

    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca} can't be read as certificates (PEM): {error}") from None
    headers = {"content-type": "application/json"}
    return httpx.Client(verify=context, timeout=TIMEOUT, trust_env=False, headers=headers)


def _post(client: Any, url: str, body: bytes, kind: type[T]) -> T:
    import httpx

    try:
        with client.stream("POST", url, content=body) as response:
            data = b""
            for part in response.iter_bytes():
                data += part
                if len(data) > MOST_MESSAGE:
                    raise LinkClosed(f"{url} answers with more than {MOST_MESSAGE >> 10} KiB")
    except httpx.TimeoutException:
        raise LinkTimeout(f"{url} doesn't answer in time") from None
    except httpx.HTTPError as error:
        raise LinkClosed(f"{url} can't be asked: {printable(str(error))}") from None
    if response.status_code != 200:
        said = printable(data[:300].decode("utf-8", "replace"), lines=False)
        raise EvidenceError(f"the key server refuses ({response.status_code}): {said}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise LinkClosed(f"{url} answers with something else than a key server does") from None
