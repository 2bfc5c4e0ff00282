"""The dashboard's own paths: its page, the page's files, and the events that it reads."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from cutset.serve.api_errors import ApiError
from cutset.serve.hub import Hub, Watchers

__all__ = ["dashboard_routes"]

FOLDER = Path(__file__).with_name("dashboard")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    # Nothing from elsewhere, nobody's frame, and no script but the files beside the page.
    "content-security-policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; form-action 'none'; "
    "base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def dashboard_routes(hub: Hub, root_path: str = "") -> list[BaseRoute]:
    """`/`, `/dashboard/…` and `/events`, which the page looks for under `root_path`."""
    files = {path.name: path for path in FOLDER.iterdir() if path.suffix in TYPES}

    def answer(name: str) -> Response:
        if name not in files:
            raise ApiError(404, "the dashboard has no such file")
        path = files[name]
        content = path.read_bytes()
        if path.suffix == ".html":
            content = content.replace(b'="/', f'="{root_path}/'.encode())
        return Response(content, headers=HEADERS, media_type=TYPES[path.suffix])

    async def page(request: Request) -> Response:
        return answer("index.html")

    async def file(request: Request) -> Response:
        return answer(request.path_params["name"])

    return [
        Route("/", page),
        Route("/dashboard/{name}", file),
        Route("/events", Watchers(hub), methods=["GET"]),
    ]
