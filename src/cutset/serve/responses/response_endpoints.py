"""`/v1/responses`, and those that are stored."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from cutset.serve.answer_reader import ChatForm
from cutset.serve.answers import Answer
from cutset.serve.endpoints import ChatCompletions
from cutset.serve.replies import json_reply
from cutset.serve.requests import ChatRequest
from cutset.serve.responses.response_answer import ResponseAnswer
from cutset.serve.responses.response_fields import ResponseChat, parse_response
from cutset.serve.responses.response_store import ResponseStore
from cutset.serve.service import Service

__all__ = ["RESPONSES", "Responses", "stored_routes"]

RESPONSES = "/v1/responses"


class Responses(ChatCompletions):
    """`POST /v1/responses`."""

    def __init__(self, service: Service, store: ResponseStore) -> None:
        super().__init__(service)
        self._stored = store

    def read(self, body: bytes, client: str | None) -> ResponseChat:
        """The request as a chat. Raises ApiError."""
        asked, before = parse_response(body), list[Any]()
        if asked.previous_response_id is not None:
            before = self._stored.get(client, asked.previous_response_id, "previous_response_id").items
        return asked.chat(before, client)

    def answer(self, request: ChatRequest, form: ChatForm | None, *args: Any) -> Answer:
        """An empty answer."""
        assert form is not None
        assert isinstance(request, ResponseChat)
        return ResponseAnswer(*args, chat=request, form=form, store=self._stored)


class _Stored:
    """What is answered about responses that are stored."""

    def __init__(self, store: ResponseStore) -> None:
        self._stored = store

    async def get(self, request: Request) -> Response:
        """`GET /v1/responses/{id}`. Raises ApiError 404."""
        return json_reply(self._found(request).response)

    async def delete(self, request: Request) -> Response:
        """`DELETE /v1/responses/{id}`. Raises ApiError 404."""
        name = request.path_params["name"]
        self._stored.delete(request.scope.get("cutset.client"), name)
        return json_reply({"id": name, "object": "response", "deleted": True})

    async def input_items(self, request: Request) -> Response:
        """`GET /v1/responses/{id}/input_items`, the newest first. Raises ApiError 404."""
        found = self._found(request)
        items = [
            {"id": f"item_{index}", "type": "message"} | item if isinstance(item, dict) else item
            for index, item in enumerate((*found.before, *found.given))
        ]
        if request.query_params.get("order", "desc") != "asc":
            items.reverse()
        ends = {"first_id": items[0].get("id"), "last_id": items[-1].get("id")} if items else {}
        return json_reply({"object": "list", "data": items, "has_more": False} | ends)

    def _found(self, request: Request) -> Any:
        return self._stored.get(request.scope.get("cutset.client"), request.path_params["name"])


def stored_routes(store: ResponseStore) -> list[BaseRoute]:
    """The paths of responses that are stored, whichever model made them."""
    stored = _Stored(store)
    return [
        Route("/v1/responses/{name}", stored.get, methods=["GET"]),
        Route("/v1/responses/{name}", stored.delete, methods=["DELETE"]),
        Route("/v1/responses/{name}/input_items", stored.input_items, methods=["GET"]),
    ]
