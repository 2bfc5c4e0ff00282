"""The application of a server that has several models."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cutset.serve.app import MODEL_APPLICATIONS, guarded, model_applications
from cutset.serve.auth import Auth
from cutset.serve.batches.batch_api import BatchApi
from cutset.serve.evidence_page import evidence_routes, marked
from cutset.serve.front import Front
from cutset.serve.metrics import Metrics
from cutset.serve.model_facts import model_card
from cutset.serve.model_pool import Applications, ModelPool
from cutset.serve.model_router import ModelRouter
from cutset.serve.ollama_models import ollama_pages
from cutset.serve.pages import dashboard_routes
from cutset.serve.readings import SECONDS, Ticker, model_event
from cutset.serve.records import Sink
from cutset.serve.replies import json_reply
from cutset.serve.responses.response_endpoints import RESPONSES, stored_routes
from cutset.serve.responses.response_store import ResponseStore
from cutset.serve.service import Service
from cutset.trust.evidence.document import Prover

__all__ = ["PoolApplications", "build_pool_app"]

SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (.*)$")
OF_PROCESS = "process_"


class PoolApplications:
    """Makes what a pool hands requests of one model to. Responses of all models are stored together."""

    def __init__(self) -> None:
        self.responses = ResponseStore()

    def __call__(self, service: Service) -> Applications:
        return Applications(model_applications(service, self.responses), Metrics(service).text)


def build_pool_app(
    pool: ModelPool,
    made: PoolApplications,
    auth: Auth,
    front: Front | None = None,
    sinks: Sequence[Sink] = (),
    batches: BatchApi | None = None,
    evidence: Prover | None = None,
) -> ASGIApp:
    """As build_app, for the models of a pool, whose applications were `made` so."""
    front = front or Front()
    router = ModelRouter(pool)
    apps: dict[str, ASGIApp] = dict.fromkeys((*MODEL_APPLICATIONS, RESPONSES), router)
    batches = batches or BatchApi(None)
    batches.answer_by(apps, pool.check_open, at_once=pool.limits.queue // 4 or 1)

    async def models(request: Request) -> Response:
        return json_reply({"object": "list", "data": [model_card(facts, pool) for facts in pool.served()]})

    async def model(request: Request) -> Response:
        return json_reply(model_card(pool.named(request.path_params["name"]).facts, pool))

    async def health(request: Request) -> Response:
        pool.check_open()
        return json_reply({"status": "ok"})

    async def metrics(request: Request) -> Response:
        texts = {name: one.applications.metrics() for name, one in pool.models.items() if one.applications is not None}
        return Response(merged(texts), media_type="text/plain; version=0.0.4")

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        ticker = asyncio.create_task(_tick(pool))
        try:
            async with batches.running():
                yield
        finally:
            ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticker

    app = guarded(
        [
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            *(Route(path, one, methods=["POST"]) for path, one in apps.items()),
            *stored_routes(made.responses),
            *batches.routes(pool.limits, front.origins),
            *ollama_pages(pool, pool.limits),
            Route("/health", health),
            Route("/metrics", metrics),
            *dashboard_routes(pool.hub, front.root_path),
            *evidence_routes(evidence),
        ],
        auth,
        lifespan,
        pool.refused,
        front,
        sinks,
    )
    return marked(app, evidence)


def merged(texts: Mapping[str, bytes]) -> bytes:
    """Metrics of several models as one text, each sample with the name of its model; those of the process once."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for number, (model, text) in enumerate(texts.items()):
        family = ""
        for line in text.decode().splitlines():
            if line.startswith("#"):
                family = line.split(" ", 3)[2]
                if number == 0 or line not in heads.get(family, ()):
                    heads.setdefault(family, []).append(line)
                continue
            found = SAMPLE.match(line)
            if found is None or (family.startswith(OF_PROCESS) and number):
                continue
            name, labels, value = found.groups()
            shown = labels or ""
            if not family.startswith(OF_PROCESS) and "model_name=" not in shown:
                escaped = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
                shown = f'model_name="{escaped}"' + (f",{shown}" if shown else "")
            samples.setdefault(family, []).append(f"{name}{{{shown}}} {value}" if shown else f"{name} {value}")
    lines = [line for family, head in heads.items() for line in (*head, *samples.get(family, ()))]
    return "".join(f"{line}\n" for line in lines).encode()


async def _tick(pool: ModelPool) -> None:
    """Publishes the readings of the model that is used, for the dashboard."""
    shown: Service | None = None
    while True:
        current = next(iter(pool.services), None)
        if current is not None:
            if current is not shown:
                pool.hub.publish(model_event(current))
            if pool.hub.watched:
                Ticker(current).publish()
        shown = current
        del current
        await asyncio.sleep(SECONDS)
