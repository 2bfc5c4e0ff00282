"""Ollama's `/api/tags`, `/api/ps`, `/api/show` and `/api/version`: which models there are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from cutset.models.calls.registered import reasoning_of
from cutset.serve.api_errors import ApiError
from cutset.serve.model_facts import Catalogue, ModelFacts
from cutset.serve.plain_requests import parse_plain
from cutset.serve.replies import json_reply, send_json
from cutset.serve.request_limits import RequestLimits, read_body
from cutset.version import software

__all__ = ["ollama_pages"]

SPOKEN = "0.12.0"  # the version of Ollama whose API this is; clients ask for it before they use what is newer
STAYS = timedelta(days=365)  # a model stays until its room is needed


class ShowRequest(msgspec.Struct, kw_only=True):
    """`POST /api/show`; `name` is the older one."""

    model: str = ""
    name: str = ""
    verbose: bool | None = None


def ollama_pages(catalogue: Catalogue, limits: RequestLimits) -> list[BaseRoute]:
    """The routes of what is answered without a model being run."""

    async def version(request: Request) -> Response:
        return json_reply({"version": SPOKEN, "server": software()})

    async def tags(request: Request) -> Response:
        return json_reply({"models": [_entry(one) for one in catalogue.served()]})

    async def running(request: Request) -> Response:
        loaded, until = catalogue.loaded(), (datetime.now(UTC) + STAYS).isoformat()
        more = {"expires_at": until, "size_vram": 0}
        found = [
            _entry(one) | more | {"context_length": one.context} for one in catalogue.served() if one.name in loaded
        ]
        return json_reply({"models": found})

    async def show(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive, send, limits)
        if body is not None:
            request = parse_plain(body, ShowRequest)
            await send_json(send, _shown(_named(catalogue, request.model or request.name)))

    return [
        Route("/api/version", version),
        Route("/api/tags", tags),
        Route("/api/ps", running),
        Route("/api/show", _Application(show), methods=["POST"]),
    ]


class _Application:
    """Starlette takes a function for one of requests; an object it calls as ASGI says."""

    def __init__(self, run: Any) -> None:
        self._run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._run(scope, receive, send)


def _named(catalogue: Catalogue, name: str) -> ModelFacts:
    for one in catalogue.served():
        if one.name in (name, name.removesuffix(":latest")):
            return one
    raise ApiError(404, f"model {name[:100]!r} not found", code="model_not_found", param="model")


def _entry(facts: ModelFacts) -> dict[str, Any]:
    # Clients ask for NAME:latest where a name has no tag, and look for it here.
    name = facts.name if ":" in facts.name else f"{facts.name}:latest"
    return {
        "name": name,
        "model": name,
        "modified_at": datetime.fromtimestamp(facts.modified, UTC).isoformat(),
        "size": facts.nbytes,
        "digest": facts.digest,
        "details": _details(facts),
    }


def _details(facts: ModelFacts) -> dict[str, Any]:
    millions = facts.spec.parameter_count() / 1e6
    return {
        "parent_model": facts.parent or "",
        "format": facts.format,
        "family": facts.spec.family,
        "families": [facts.spec.family],
        "parameter_size": f"{millions / 1000:.1f}B" if millions >= 1000 else f"{millions:.1f}M",
        "quantization_level": facts.dtype,
    }


def _shown(facts: ModelFacts) -> dict[str, Any]:
    spec, family = facts.spec, facts.spec.family
    able = ["completion", "embedding"]
    if facts.template is not None and "tools" in facts.template:
        able.append("tools")
    if facts.template is not None and ("enable_thinking" in facts.template or reasoning_of(facts.template)):
        able.append("thinking")
    return {
        "modelfile": "",
        "parameters": "",
        "template": facts.template or "",
        "license": "",
        "modified_at": datetime.fromtimestamp(facts.modified, UTC).isoformat(),
        "details": _details(facts),
        "model_info": {
            "general.architecture": family,
            "general.basename": facts.name,
            "general.parameter_count": spec.parameter_count(),
            f"{family}.context_length": facts.context,
            f"{family}.embedding_length": spec.hidden,
            f"{family}.block_count": spec.layers,
            f"{family}.attention.head_count": spec.heads,
            f"{family}.attention.head_count_kv": spec.kv_heads,
            f"{family}.vocab_size": spec.vocab_size,
        },
        "capabilities": able,
    }
