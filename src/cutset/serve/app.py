"""The ASGI application: which path leads where."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cutset.errors import CutsetError
from cutset.serve.auth import Auth, Guard
from cutset.serve.endpoints import ChatCompletions, Completions
from cutset.serve.errors import NO_RETRY, ApiError, as_api_error
from cutset.serve.service import Service

__all__ = ["build_app"]


def build_app(service: Service, auth: Auth) -> ASGIApp:
    """The server's application, behind the guard."""
    pages = Pages(service)
    app = Starlette(
        routes=[
            Route("/v1/models", pages.models),
            Route("/v1/models/{name:path}", pages.model),
            Route("/v1/completions", Completions(service), methods=["POST"]),
            Route("/v1/chat/completions", ChatCompletions(service), methods=["POST"]),
            Route("/health", pages.health),
        ],
        exception_handlers={
            ApiError: _api_error,
            CutsetError: _cutset_error,
            HTTPException: _http_error,
            Exception: _bug,
        },
    )
    return Guard(app, auth)


class Pages:
    """What is answered at once."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [self._card(name) for name in self.service.names]})

    async def model(self, request: Request) -> Response:
        return _json(self._card(self.service.check_model(request.path_params["name"])))

    async def health(self, request: Request) -> Response:
        """200 while requests are taken, 503 when the server is being stopped or its engine has ended."""
        self.service.check_open()
        return _json({"status": "ok"})

    def _card(self, name: str) -> dict[str, Any]:
        service = self.service
        return {
            "id": name,
            "object": "model",
            "created": service.started,
            "owned_by": "cutset",
            "max_model_len": service.llm.max_model_len,
            "cutset": {"mode": service.mode},
        }


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _answer(error: ApiError) -> Response:
    return Response(error.body(), error.status, error.headers, media_type="application/json")


async def _api_error(request: Request, error: Exception) -> Response:
    return _answer(error if isinstance(error, ApiError) else ApiError(500, "internal error"))


async def _cutset_error(request: Request, error: Exception) -> Response:
    return _answer(as_api_error(error) if isinstance(error, CutsetError) else ApiError(500, "internal error"))


async def _http_error(request: Request, error: Exception) -> Response:
    """An unknown path, or a method that it doesn't take."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(getattr(error, "headers", None) or {})
    what = {404: "there is no such path", 405: "this path doesn't take that method"}.get(status, "the request failed")
    return _answer(ApiError(status, f"{what}: {request.method} {request.url.path[:100]}", headers=headers))


async def _bug(request: Request, error: Exception) -> Response:
    # What went wrong is the operator's to know, and is in the log.
    return _answer(ApiError(500, "the server failed; its log says why", kind="server_error", headers=NO_RETRY))
