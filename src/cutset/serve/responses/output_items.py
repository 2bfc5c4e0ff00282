"""The items of a response while they come, with the events that say so."""

from __future__ import annotations

import os
from typing import Any

from cutset.models.calls.call_events import (
    ArgumentsPiece,
    CallBegin,
    CallBroken,
    CallEnd,
    ContentPiece,
    Event,
    ReasoningPiece,
)

__all__ = ["OutputItems"]

Sent = dict[str, Any]


class OutputItems:
    """Puts items together from what is found in an answer's text. What it returns are the events of a stream, without
    their numbers. `listed`: the items so far; a call that turned out to be none isn't among them, but its text is."""

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None  # the last item, while it grows
        self._texts: list[str] = []
        self._logprobs: list[Any] = []
        self._index = -1  # of the last item

    def add(self, event: Event, call_id: str, logprobs: list[Any]) -> list[Sent]:
        """One event more. `call_id` names a call that begins; `logprobs` belong to content."""
        match event:
            case ContentPiece(text):
                return self._text("message", text, logprobs)
            case ReasoningPiece(text):
                return self._text("reasoning", text, [])
            case CallBegin(name):
                sent = self.close()
                item = {"type": "function_call", "id": _new_id("fc"), "call_id": call_id, "name": name}
                return sent + self._begin(item | {"arguments": ""})
            case ArgumentsPiece(text):
                self._texts.append(text)
                return [self._sent("response.function_call_arguments.delta", delta=text)]
            case CallEnd():
                return self.close()
            case CallBroken(text):
                sent = self.close(status="incomplete")
                self.listed.pop()
                return sent + self._text("message", text, logprobs)

    def close(self, status: str = "completed") -> list[Sent]:
        """Ends the item that is open, if one is."""
        item = self._open
        if item is None:
            return []
        text, item["status"] = "".join(self._texts), status
        sent: list[Sent] = []
        if item["type"] == "function_call":
            item["arguments"] = text
            if status == "completed":
                name = {"arguments": text, "name": item["name"]}
                sent.append(self._sent("response.function_call_arguments.done", **name))
        elif item["type"] == "reasoning":
            part = {"type": "reasoning_text", "text": text}
            item["content"] = [part]
            sent.append(self._sent("response.reasoning_text.done", content_index=0, text=text))
            sent.append(self._sent("response.content_part.done", content_index=0, part=part))
        else:
            part = _output_text(text, self._logprobs)
            item["content"] = [part]
            said = {"content_index": 0, "text": text, "logprobs": self._logprobs}
            sent.append(self._sent("response.output_text.done", **said))
            sent.append(self._sent("response.content_part.done", content_index=0, part=part))
        self._open = None
        done = {"type": "response.output_item.done", "output_index": self._index, "item": dict(item)}
        return [*sent, done]

    def _text(self, kind: str, text: str, logprobs: list[Any]) -> list[Sent]:
        sent: list[Sent] = []
        if self._open is None or self._open["type"] != kind:
            sent = self.close()
            if kind == "message":
                item: dict[str, Any] = {"type": kind, "id": _new_id("msg"), "role": "assistant", "content": []}
                part: dict[str, Any] = _output_text("", [])
            else:
                item, part = {"type": kind, "id": _new_id("rs"), "summary": [], "content": []}, {"text": ""}
                part["type"] = "reasoning_text"
            sent += self._begin(item)
            sent.append(self._sent("response.content_part.added", content_index=0, part=part))
        self._texts.append(text)
        self._logprobs += logprobs
        if kind == "reasoning":
            return [*sent, self._sent("response.reasoning_text.delta", content_index=0, delta=text)]
        return [*sent, self._sent("response.output_text.delta", content_index=0, delta=text, logprobs=logprobs)]

    def _begin(self, item: dict[str, Any]) -> list[Sent]:
        self._open, self._texts, self._logprobs = item | {"status": "in_progress"}, [], []
        self.listed.append(self._open)
        self._index += 1
        return [{"type": "response.output_item.added", "output_index": self._index, "item": dict(self._open)}]

    def _sent(self, kind: str, **fields: Any) -> Sent:
        assert self._open is not None
        return {"type": kind, "item_id": self._open["id"], "output_index": self._index} | fields


def _output_text(text: str, logprobs: list[Any]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _new_id(kind: str) -> str:
    return f"{kind}_{os.urandom(16).hex()}"
