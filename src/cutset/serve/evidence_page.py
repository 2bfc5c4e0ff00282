"""`GET /evidence?nonce=…`: a quote that is bound to the key of the connection on which it is asked for."""

from __future__ import annotations

import asyncio
import logging
import re

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutset.errors import CutsetError
from cutset.serve.api_errors import ApiError
from cutset.trust.evidence.document import Prover
from cutset.trust.evidence.question import EVIDENCE_PATH
from cutset.trust.evidence.statement import NONCE_BYTES

__all__ = ["evidence_routes", "marked"]

NONCE = re.compile(rf"[0-9a-f]{{{2 * NONCE_BYTES}}}")
AT_ONCE, MOST_WAITING = 2, 32  # quotes take the machine's time, and some machines make one at a time
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

log = logging.getLogger(__name__)


def evidence_routes(prover: Prover | None) -> list[BaseRoute]:
    """The path, where there is evidence. It needs no API key: who asks has no reason yet to send one."""
    if prover is None:
        return []
    slots, waiting = asyncio.Semaphore(AT_ONCE), 0

    async def evidence(request: Request) -> Response:
        nonlocal waiting
        given = request.query_params.multi_items()
        if len(given) != 1 or given[0][0] != "nonce" or not NONCE.fullmatch(given[0][1]):
            raise ApiError(
                400, f"ask with ?nonce= and {2 * NONCE_BYTES} hexadecimal digits in lower case, nothing else"
            )
        key = request.scope.get("cutset.tls_key")
        if key is None:
            raise ApiError(400, "evidence is bound to the key of a TLS connection to this server: ask by https")
        if waiting >= MOST_WAITING:
            raise ApiError(503, "too many ask for evidence", kind="server_error", headers={"retry-after": "1"})
        waiting += 1
        try:
            async with slots:
                document = await asyncio.to_thread(prover.show, "tls", key, bytes.fromhex(given[0][1]))
        except CutsetError as error:
            log.error("no evidence can be shown: %s", error)
            raise ApiError(503, "this machine gives no evidence now", kind="server_error") from None
        finally:
            waiting -= 1
        return Response(document, headers=HEADERS, media_type="application/json")

    return [Route(EVIDENCE_PATH, evidence, methods=["GET"])]


def marked(app: ASGIApp, prover: Prover | None) -> ASGIApp:
    """The application; each answer says so where its evidence is worth nothing."""
    if prover is None or not prover.notice:
        return app
    header = (b"x-cutset-evidence", prover.notice.encode())

    async def marking(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        await app(scope, receive, sending)

    return marking
