"""A small server that releases keys of sealed models to evidence that fits a policy, and to nothing else."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cutset.errors import ConfigError, CutsetError
from cutset.files import write_atomically
from cutset.serve.api_errors import ApiError
from cutset.serve.app import guarded
from cutset.serve.auth import Auth
from cutset.serve.reload import FileWatch
from cutset.serve.request_limits import CLOSE, RequestLimits
from cutset.serve.tls import Certificate
from cutset.trust.audit import AuditLog
from cutset.trust.evidence.policy import load_policy
from cutset.trust.evidence.statement import new_nonce
from cutset.trust.evidence.verifier import Verifier
from cutset.trust.sealing.key_release import (
    MOST_MESSAGE,
    NONCE_PATH,
    RELEASE_PATH,
    IssuedNonce,
    ReleaseRequest,
    encrypted_key,
)
from cutset.trust.sealing.sealed_format import ModelKey, load_model_key

__all__ = ["KeyServer", "build_key_app", "key_files_watch"]

MOST_NONCES, NONCE_S = 4096, 60.0
MOST_KEYS = 1000

log = logging.getLogger(__name__)


class KeyServer:
    """Keys lie in a directory as files of `cutset trust seal`, which is read for each release: one that is put there
    can be released from then on, one that is taken away can't. Of a line the key of the highest generation is released,
    and none that was sealed before: who brings an older sealed model back gets nothing. A release that can't be logged
    isn't made."""

    def __init__(self, keys: Path, verifier: Verifier, audit: AuditLog, clock: Callable[[], float] = time.monotonic):
        if not keys.is_dir():
            raise ConfigError(f"{keys} is not a directory of keys, as `cutset trust seal` writes them")
        self._keys, self._verifier, self._audit, self._clock = keys, verifier, audit, clock
        self._nonces: OrderedDict[bytes, float] = OrderedDict()
        self._counting = threading.Lock()

    def nonce(self) -> bytes:
        """A new one. The oldest goes where there are too many."""
        made = new_nonce()
        self._nonces[made] = self._clock() + NONCE_S
        while len(self._nonces) > MOST_NONCES:
            self._nonces.popitem(last=False)
        return made

    def spend(self, nonce: bytes) -> None:
        """Takes a nonce, which nobody can use again. Raises ApiError for one that wasn't given out, or too long ago."""
        until = self._nonces.pop(nonce, 0.0)
        if until < self._clock():
            raise ApiError(403, "that nonce wasn't given out here, was used, or is too old: ask for another")

    def release(self, request: ReleaseRequest, peer: str) -> bytes:
        """The answer to a request whose nonce was spent. Raises ApiError for evidence that isn't enough."""
        try:
            checked = self._verifier.check(
                request.document, channel="release", key=request.key, nonce=request.nonce, peer=peer
            )
            found = self._key(request.seal)
            answer = encrypted_key(found, request)
        except CutsetError as error:
            self._audit.write("key refused", peer=peer, seal=request.seal, reason=str(error))
            raise ApiError(403, f"the key isn't released: {error}") from None
        self._audit.write("key released", peer=peer, seal=request.seal, kind=checked.quote.kind, key=checked.key)
        return msgspec.json.encode(answer)

    def _key(self, seal: str) -> ModelKey:
        found: ModelKey | None = None
        newest: dict[str, int] = {}
        paths = sorted(self._keys.glob("*.key"))
        if len(paths) > MOST_KEYS:  # those that weren't read might be of a higher generation
            raise ConfigError(f"more than {MOST_KEYS} keys are here, so none is released: take old ones away")
        for path in paths:
            try:
                key = load_model_key(path)
            except ConfigError as error:
                log.warning("a file of keys is left out: %s", error)
                continue
            found = key if key.seal == seal else found
            newest[key.line] = max(key.generation, newest.get(key.line, 0))
        if found is None:
            raise ConfigError("there is no key for that sealed model here")
        if found.line:
            newest[found.line] = self._raise_floor(found.line, newest[found.line])
            if found.generation < newest[found.line]:
                raise ConfigError(
                    f"that is generation {found.generation} of {found.line}, of which {newest[found.line]} is there"
                )
        return found

    def _raise_floor(self, line: str, generation: int) -> int:
        """The highest generation of a line that was here when one was asked for, which is kept beside the keys. Raises
        ConfigError where it can't be."""
        place = self._keys / f"{line}.generation"
        with self._counting:
            try:
                text = place.read_text(encoding="ascii").strip() if place.exists() else "0"
                if not text.isdecimal() or len(text) > 20:
                    raise ConfigError(f"{place.name} isn't a number: write what no generation may be below there")
                if generation > int(text):
                    write_atomically(place, f"{generation}\n", private=True)
            except (OSError, UnicodeDecodeError) as error:
                why = getattr(error, "strerror", None) or error
                raise ConfigError(f"{place.name} can't be used: {why}") from None  # askers don't learn where it lies
            return max(generation, int(text))


def key_files_watch(
    verifier: Verifier, policy: Path, certificate: Certificate, report: Callable[[str], None]
) -> FileWatch:
    """What reads policy and certificate again when they change; releases after that are judged by the new one."""

    def again() -> str:
        verifier.policy = load_policy(policy)
        return f"the policy was read again: {policy}"

    watch = FileWatch(report)
    watch.add([policy], again)
    watch.add([certificate.chain, certificate.key], certificate.read)
    return watch


def build_key_app(server: KeyServer, auth: Auth, limits: RequestLimits) -> ASGIApp:
    """The application: two paths. Of the `limits` that of the seconds of a body counts here."""
    slots = asyncio.Semaphore(4)

    async def nonce(request: Request) -> Response:
        return Response(msgspec.json.encode(IssuedNonce(server.nonce())), media_type="application/json")

    async def release(request: Request) -> Response:
        body = await _body(request, limits.body_s)
        try:
            asked = msgspec.json.decode(body, type=ReleaseRequest)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ApiError(400, f"this request for a key makes no sense: {error}") from None
        server.spend(asked.nonce)
        peer = f"{request.client.host}:{request.client.port}" if request.client else ""
        async with slots:
            answer = await asyncio.to_thread(server.release, asked, peer)
        return Response(answer, media_type="application/json", headers={"cache-control": "no-store"})

    routes = [Route(NONCE_PATH, nonce, methods=["POST"]), Route(RELEASE_PATH, release, methods=["POST"])]
    return guarded(list(routes), auth)


async def _body(request: Request, seconds: float) -> bytes:
    """Raises ApiError where it is too long, doesn't come in time, or ends before it is whole."""
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                body += part
                if len(body) > MOST_MESSAGE:
                    raise ApiError(413, f"a request for a key has at most {MOST_MESSAGE >> 10} KiB")
    except TimeoutError:
        raise ApiError(408, f"the request's body didn't come within {seconds:g} s", headers=CLOSE) from None
    except ClientDisconnect:
        raise ApiError(400, "the request's body isn't all there", headers=CLOSE) from None
    return bytes(body)
