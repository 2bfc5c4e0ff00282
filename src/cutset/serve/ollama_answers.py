"""Answers of OpenAI's API as Ollama's: one JSON object, or a line for each piece."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import msgspec
from starlette.types import Message, Send

from cutset.serve.running_request import RunningRequest

__all__ = ["ChatLines", "GenerateLines", "Lines", "now"]

LINES = (b"content-type", b"application/x-ndjson")
OWN = frozenset({b"content-type", b"content-length"})


def now() -> str:
    """The time, as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Lines:
    """Turns one answer, whole or in events, while it is sent."""

    def __init__(self, model: str, started: int, running: Mapping[str, RunningRequest] = MappingProxyType({})) -> None:
        """`started`: by time.perf_counter_ns. `running`: requests by the ids of their answers."""
        self.model, self._started, self._running = model, started, running
        self._first: int | None = None  # when the first piece came
        self._usage: Mapping[str, Any] = {}
        self._reason = "stop"
        self._receipt: str | None = None
        self._calls: dict[int, dict[str, str]] = {}
        self._rest = b""

    def to(self, send: Send) -> Send:
        """A `send` for whoever answers as OpenAI does."""
        start: Message = {}
        streams = False
        parts = list[bytes]()

        async def translated(message: Message) -> None:
            nonlocal start, streams
            if message["type"] == "http.response.start":
                start = message
                streams = any(
                    name == b"content-type" and value.startswith(b"text/event-stream")
                    for name, value in message["headers"]
                )
                if streams:
                    await send({**message, "headers": [LINES, *_others(message)]})
                return
            more = bool(message.get("more_body"))
            if streams:
                lines = self._events(message.get("body", b""))
                if lines or not more:
                    await send({"type": "http.response.body", "body": lines, "more_body": more})
                return
            parts.append(message.get("body", b""))
            if not more:
                body = self._whole(msgspec.json.decode(b"".join(parts)))
                size = (b"content-length", str(len(body)).encode())
                kind = (b"content-type", b"application/json")
                await send({**start, "headers": [kind, size, *_others(start)]})
                await send({"type": "http.response.body", "body": body})

        return translated

    def content(self, text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """The part of an answer that says what the model said."""
        raise NotImplementedError

    def _whole(self, answer: dict[str, Any]) -> bytes:
        if "choices" not in answer:
            return msgspec.json.encode(answer)
        self._usage, self._receipt = answer["usage"], answer.get("cutset_receipt")
        choice = answer["choices"][0]
        said = choice.get("message") or {"content": choice.get("text")}
        self._reason = choice["finish_reason"]
        running = self._running.get(answer.get("id", ""))
        if running is not None and running.first_token is not None:
            self._first = round(running.first_token * 1e9)
        for number, call in enumerate(said.get("tool_calls") or ()):
            self._calls[number] = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        body = self._line(said.get("content") or "", _thinking(said), self._called(), choice.get("logprobs"))
        return msgspec.json.encode(body | self._end())

    def _events(self, data: bytes) -> bytes:
        """Lines for the events that are complete."""
        *events, self._rest = (self._rest + data).split(b"\n\n")
        return b"".join(self._event(event.removeprefix(b"data: ")) for event in events if event)

    def _event(self, data: bytes) -> bytes:
        if data == b"[DONE]":
            called = self._called() if self._reason == "tool_calls" else []  # else they turned out to be none
            lines = _encoded(self._line("", "", called, None) | {"done": False}) if called else b""
            return lines + _encoded(self._line("", "", [], None) | self._end())
        chunk = msgspec.json.decode(data)
        if "error" in chunk:
            return _encoded({"error": chunk["error"]["message"]})
        self._usage = chunk.get("usage") or self._usage
        self._receipt = chunk.get("cutset_receipt", self._receipt)
        lines = b""
        for choice in chunk["choices"]:
            if self._first is None:
                self._first = time.perf_counter_ns()
            self._reason = choice.get("finish_reason") or self._reason
            said = choice.get("delta") or {"content": choice.get("text")}
            for call in said.get("tool_calls") or ():
                kept = self._calls.setdefault(call["index"], {"name": "", "arguments": ""})
                for name, text in (call.get("function") or {}).items():
                    kept[name] = kept.get(name, "") + (text or "")
            text, thinking = said.get("content") or "", _thinking(said)
            if text or thinking or choice.get("logprobs"):
                lines += _encoded(self._line(text, thinking, [], choice.get("logprobs")) | {"done": False})
        return lines

    def _line(
        self, text: str, thinking: str, calls: list[dict[str, Any]], logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        line = {"model": self.model, "created_at": now()} | self.content(text, thinking, calls)
        if logprobs and logprobs.get("content"):
            line["logprobs"] = logprobs["content"]
        return line

    def _called(self) -> list[dict[str, Any]]:
        """Calls with their arguments as objects."""
        found = []
        for number, call in sorted(self._calls.items()):
            try:
                arguments = msgspec.json.decode(call["arguments"] or "{}", type=dict[str, Any])
            except msgspec.MsgspecError:  # the model wrote something else; clients expect an object
                arguments = {"arguments": call["arguments"]}
            found.append({"function": {"index": number, "name": call["name"], "arguments": arguments}})
        return found

    def _end(self) -> dict[str, Any]:
        ended = time.perf_counter_ns()
        first = self._first or ended
        return {
            "done": True,
            "done_reason": "length" if self._reason == "length" else "stop",
            "total_duration": ended - self._started,
            "load_duration": 0,
            "prompt_eval_count": self._usage.get("prompt_tokens", 0),
            "prompt_eval_duration": first - self._started,
            "eval_count": self._usage.get("completion_tokens", 0),
            "eval_duration": ended - first,
        } | ({} if self._receipt is None else {"cutset_receipt": self._receipt})


class ChatLines(Lines):
    """Of `/api/chat`."""

    def content(self, text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """`message`."""
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = calls
        return {"message": message}


class GenerateLines(Lines):
    """Of `/api/generate`."""

    def content(self, text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """`response`, and `thinking` where there is such."""
        return {"response": text} | ({"thinking": thinking} if thinking else {})


def _thinking(said: Mapping[str, Any]) -> str:
    return said.get("reasoning_content") or said.get("reasoning") or ""


def _encoded(line: dict[str, Any]) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _others(start: Message) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in start["headers"] if name not in OWN]
