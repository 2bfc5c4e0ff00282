"""The ASGI application: which path leads where."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cutset.errors import CutsetError
from cutset.serve.api_errors import ApiError, as_api_error, server_failed
from cutset.serve.auth import Auth, Guard, refuse
from cutset.serve.batches.answer_facts import answer_facts
from cutset.serve.batches.batch_api import BatchApi
from cutset.serve.embeddings import Embeddings, OllamaEmbed, OllamaEmbeddings
from cutset.serve.endpoints import ChatCompletions, Completions
from cutset.serve.evidence_page import evidence_routes, marked
from cutset.serve.front import Front
from cutset.serve.hub import Hub
from cutset.serve.metrics import Metrics
from cutset.serve.model_facts import model_card
from cutset.serve.ollama import OllamaChat, OllamaGenerate
from cutset.serve.ollama_models import ollama_pages
from cutset.serve.pages import dashboard_routes
from cutset.serve.readings import Ticker
from cutset.serve.records import Recorded, Sink
from cutset.serve.replies import json_reply
from cutset.serve.request_limits import CLOSE
from cutset.serve.responses.response_endpoints import RESPONSES, Responses, stored_routes
from cutset.serve.responses.response_store import ResponseStore
from cutset.serve.service import Service
from cutset.serve.stream_frames import FramedStreams
from cutset.serve.tokens import Detokenize, Tokenize
from cutset.trust.evidence.document import Prover

__all__ = ["MODEL_APPLICATIONS", "build_app", "build_dashboard", "guarded", "model_applications"]


def build_app(
    service: Service,
    auth: Auth,
    front: Front | None = None,
    sinks: Sequence[Sink] = (),
    batches: BatchApi | None = None,
    evidence: Prover | None = None,
) -> ASGIApp:
    """The server's application, behind the guard. `sinks` get a record of each request that has ended; `batches`: files
    of requests, where they are offered; `evidence` is shown to who asks."""
    front = front or Front()
    pages, stored = Pages(service), ResponseStore()
    apps = model_applications(service, stored)
    batches = batches or BatchApi(None)
    at_once = 2 * service.llm.settings.max_num_seqs
    batches.answer_by(apps, service.check_open, at_once=at_once, facts=lambda: answer_facts(service))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        ticker = asyncio.create_task(Ticker(service).run())
        try:
            async with batches.running():
                yield
        finally:
            ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticker
            await service.readiness.close()

    app = guarded(
        [
            Route("/v1/models", pages.models),
            Route("/v1/models/{name:path}", pages.model),
            *(Route(path, one, methods=["POST"]) for path, one in apps.items()),
            *stored_routes(stored),
            *batches.routes(service.limits, front.origins),
            *ollama_pages(service, service.limits),
            Route("/health", pages.health),
            Route("/metrics", pages.metrics),
            *dashboard_routes(service.hub, front.root_path),
            *evidence_routes(evidence),
        ],
        auth,
        lifespan,
        service.refused,
        front,
        sinks,
    )
    return marked(app, evidence)


def _ollama_generate(service: Service) -> OllamaGenerate:
    return OllamaGenerate(service, ChatCompletions(service, cuts=True), Completions(service, cuts=True))


# What one model answers, by path: each is a POST, whose body may name the model.
MODEL_APPLICATIONS: dict[str, Callable[[Service], ASGIApp]] = {
    "/v1/completions": Completions,
    "/v1/chat/completions": ChatCompletions,
    "/v1/embeddings": Embeddings,
    "/tokenize": Tokenize,
    "/detokenize": Detokenize,
    "/api/chat": lambda service: OllamaChat(service, ChatCompletions(service, cuts=True)),
    "/api/generate": _ollama_generate,
    "/api/embed": OllamaEmbed,
    "/api/embeddings": OllamaEmbeddings,
}


def model_applications(service: Service, stored: ResponseStore) -> dict[str, ASGIApp]:
    """What a model answers, by path; responses are kept in `stored`."""
    apps = {path: make(service) for path, make in MODEL_APPLICATIONS.items()}
    return apps | {RESPONSES: Responses(service, stored)}


def build_dashboard(hub: Hub, auth: Auth, metrics: Callable[[], bytes] | None = None) -> ASGIApp:
    """The dashboard alone, for events that somebody else publishes; with `/metrics`, if there are any."""

    async def health(request: Request) -> Response:
        return json_reply({"status": "ok"})

    async def numbers(request: Request) -> Response:
        return Response(metrics() if metrics is not None else b"", media_type=CONTENT_TYPE_LATEST)

    routes = [Route("/metrics", numbers)] if metrics is not None else []
    return guarded([Route("/health", health), *routes, *dashboard_routes(hub)], auth)


def guarded(
    routes: list[BaseRoute],
    auth: Auth,
    lifespan: Any = None,
    refused: Callable[[int], object] = lambda status: None,  # called with the status of each error that is answered
    front: Front | None = None,
    sinks: Sequence[Sink] = (),
) -> ASGIApp:
    """An application with these routes, that answers errors in OpenAI's shape, or Ollama's on its paths."""
    front = front or Front()

    def answered(answer: Callable[[Request, Exception], ApiError]) -> Callable[[Request, Exception], Any]:
        async def handle(request: Request, error: Exception) -> Response:
            shown = answer(request, error)
            refused(shown.status)
            body = shown.body(request.scope["path"])
            return Response(body, shown.status, shown.headers, media_type="application/json")

        return handle

    handlers: Any = {kind: answered(answer) for kind, answer in ANSWERS.items()}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    app.router.redirect_slashes = False
    behind = front.shared(Guard(app, auth, refused))
    whole = Entrance(Recorded(behind, sinks) if sinks else behind, refused, front.root_path)
    return whole if front.padding is None else FramedStreams(whole, front.padding)


class Entrance:
    """Middleware for what comes before a request's meaning: where it ends, and how its path is written."""

    def __init__(self, app: ASGIApp, refused: Callable[[int], object], root_path: str = "") -> None:
        self.app, self.refused, self.root_path = app, refused, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            names = {name for name, _ in scope["headers"]}
            if b"content-length" in names and b"transfer-encoding" in names:
                # A proxy may think that it ends elsewhere, so nothing that follows on the connection is read.
                text = "the request has both Content-Length and Transfer-Encoding: send one of them"
                await refuse(ApiError(400, text, headers=CLOSE), send, self.refused)
                return
            path = scope["path"]
            if path == self.root_path or path.startswith(f"{self.root_path}/"):  # proxies may leave it there, or not
                path = path.removeprefix(self.root_path)
            scope["path"] = path.rstrip("/") or "/"  # no redirect: it would have to know the scheme
        await self.app(scope, receive, send)


class Pages:
    """What is answered at once."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._metrics = Metrics(service)

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        cards = [model_card(facts, self.service) for facts in self.service.served()]
        return json_reply({"object": "list", "data": cards})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{name}`. Raises ApiError 404 for a name that is not served."""
        name = self.service.check_model(request.path_params["name"])
        return json_reply(
            next(model_card(facts, self.service) for facts in self.service.served() if facts.name == name)
        )

    async def health(self, request: Request) -> Response:
        """200 while requests can be answered, 503 when the server is being stopped, its engine has ended, an
        accelerator gave a wrong product, or no plan of stages stands."""
        self.service.check_open()
        self.service.readiness.check_health()
        return json_reply({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")


def _known(request: Request, error: Exception) -> ApiError:
    return error if isinstance(error, ApiError) else as_api_error(cast(CutsetError, error))


def _http(request: Request, error: Exception) -> ApiError:
    """An unknown path, or a method that it doesn't take."""
    failed = cast(HTTPException, error)
    what = {404: "there is no such path", 405: "this path doesn't take that method"}
    text = f"{what.get(failed.status_code, failed.detail)}: {request.method} {request.url.path[:100]}"
    return ApiError(failed.status_code, text, headers=failed.headers)


def _bug(request: Request, error: Exception) -> ApiError:
    return server_failed()


ANSWERS = {ApiError: _known, CutsetError: _known, HTTPException: _http, Exception: _bug}
