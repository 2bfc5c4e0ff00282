"""Answers of `/v1/responses`: a response, or the events of one."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from cutset.engine.outputs import Delta, Usage
from cutset.models.calls.call_events import ContentPiece, ReasoningPiece
from cutset.serve.answer_reader import ChatForm
from cutset.serve.answers import Answer
from cutset.serve.api_errors import ApiError
from cutset.serve.logprobs import chat_logprobs
from cutset.serve.responses.output_items import OutputItems
from cutset.serve.responses.response_fields import ResponseChat
from cutset.serve.responses.response_store import ResponseStore, StoredResponse

__all__ = ["ResponseAnswer"]


class ResponseAnswer(Answer):
    """Of `/v1/responses`. One sample; it is stored when it has ended, unless the request says otherwise."""

    def __init__(self, *args: Any, chat: ResponseChat, form: ChatForm, store: ResponseStore) -> None:
        super().__init__(*args)
        self.id = f"resp_{self.id.lstrip('-')}"
        self._chat, self._form, self._store = chat, form, store
        self._reader, self._items = form.reader(), OutputItems()
        self._number = 0  # of the next event
        self._end: Delta | None = None
        self._reasoning_tokens = 0
        self._due_logprobs: list[Any] = []  # of tokens whose content hasn't come

    def add(self, number: int, delta: Delta) -> None:
        """For `whole`: one more piece."""
        self._read(delta)

    def whole(self, counted: Usage) -> bytes:
        """The response, after it has ended."""
        return msgspec.json.encode(self._ended(counted))

    def chunk(self, number: int, delta: Delta, with_usage: bool) -> bytes:
        """One piece as events."""
        sent: list[dict[str, Any]] = []
        if not self._number:
            begun = self._response("in_progress")
            sent = [{"type": f"response.{kind}", "response": begun} for kind in ("created", "in_progress")]
        return self._events(sent + self._read(delta))

    def end(self, counted: Usage, with_usage: bool) -> bytes:
        """The last event: the whole response."""
        response = self._ended(counted)
        return self._events([{"type": f"response.{response['status']}", "response": response}])

    def failed(self, error: ApiError) -> bytes:
        """The last event where there is no whole response."""
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        response = self._response("failed") | {"error": {"code": code, "message": error.message}}
        return self._events([{"type": "response.failed", "response": response}])

    def _read(self, delta: Delta) -> list[dict[str, Any]]:
        if delta.logprobs and self._chat.asked.reports:
            self._due_logprobs += chat_logprobs(delta.logprobs, self._texts)["content"]
        events = self._reader.feed(delta)
        if any(isinstance(one, ReasoningPiece) for one in events):
            self._reasoning_tokens += len(delta.token_ids)
        sent: list[dict[str, Any]] = []
        for one in events:
            if isinstance(one, ReasoningPiece) and not self._form.shows_reasoning:
                continue
            shown = self._due_logprobs if isinstance(one, ContentPiece) else []
            self._due_logprobs = []  # of reasoning and calls none are reported
            sent += self._items.add(one, self._form.call_id(), shown)
        if delta.finish_reason is not None:
            self._end = delta
            sent += self._items.close("incomplete" if delta.finish_reason == "length" else "completed")
        return sent

    def _ended(self, counted: Usage) -> dict[str, Any]:
        """The whole response, which is stored."""
        cut = self._end is not None and self._end.finish_reason == "length"
        response = self._response("incomplete" if cut else "completed")
        if cut:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        response |= {"completed_at": int(time.time()), "usage": self._usage(counted)}
        asked = self._chat.asked
        if asked.store is not False:
            self._store.put(self._chat.client, StoredResponse(response, self._chat.before, asked.items()))
        return response

    def _usage(self, counted: Usage) -> dict[str, Any]:
        return {
            "input_tokens": counted.prompt_tokens,
            "input_tokens_details": {"cached_tokens": counted.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": counted.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": min(self._reasoning_tokens, counted.completion_tokens)},
            "total_tokens": counted.total_tokens,
        }

    def _response(self, status: str) -> dict[str, Any]:
        asked, head = self._chat.asked, self._head
        reasoning = asked.reasoning or {}
        return {
            "id": self.id,
            "object": "response",
            "created_at": head["created"],
            "status": status,
            "model": head["model"],
            "output": [dict(item) for item in self._items.listed],
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
            "store": asked.store is not False,
            "temperature": asked.temperature,
            "text": asked.text or {"format": {"type": "text"}},
            "tool_choice": "auto" if asked.tool_choice is None else asked.tool_choice,
            "tools": asked.tools or [],
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": None,
        } | self._extra

    def _events(self, sent: list[dict[str, Any]]) -> bytes:
        lines: list[bytes] = []
        for one in sent:
            body = msgspec.json.encode(one | {"sequence_number": self._number})
            lines.append(b"event: " + one["type"].encode() + b"\ndata: " + body + b"\n\n")
            self._number += 1
        return b"".join(lines)
