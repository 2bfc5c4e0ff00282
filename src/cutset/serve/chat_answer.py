"""Answers of `/v1/chat/completions`: content, reasoning and tool calls."""

from __future__ import annotations

from typing import Any

from cutset.engine.outputs import Delta, TokenLogprob, Usage
from cutset.models.calls.call_events import (
    ArgumentsPiece,
    CallBegin,
    CallBroken,
    CallEnd,
    ContentPiece,
    Event,
    ReasoningPiece,
)
from cutset.serve.answer_reader import AnswerReader, ChatForm
from cutset.serve.answers import Answer, event, usage
from cutset.serve.logprobs import chat_logprobs

__all__ = ["ChatAnswer", "FoundCall", "WholeMessage"]


class FoundCall:
    """A tool call of an answer."""

    def __init__(self, call_id: str, name: str) -> None:
        self.id, self.name = call_id, name
        self.pieces: list[str] = []

    @property
    def arguments(self) -> str:
        """As JSON."""
        return "".join(self.pieces)


class WholeMessage:
    """What a sample has brought, put together: calls that turned out to be none are content."""

    def __init__(self, form: ChatForm) -> None:
        self._form = form
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[FoundCall] = []
        self._begun: FoundCall | None = None

    def add(self, events: list[Event]) -> None:
        """More of it."""
        for one in events:
            match one:
                case ContentPiece(text):
                    self.content.append(text)
                case ReasoningPiece(text):
                    self.reasoning.append(text)
                case CallBegin(name):
                    self._begun = FoundCall(self._form.call_id(), name)
                case ArgumentsPiece(text) if self._begun is not None:
                    self._begun.pieces.append(text)
                case CallEnd() if self._begun is not None:
                    self.calls.append(self._begun)
                    self._begun = None
                case CallBroken(text):
                    self.content.append(text)
                    self._begun = None

    def message(self) -> dict[str, Any]:
        """OpenAI's message. Reasoning goes by vLLM's older and newer name."""
        content = "".join(self.content)
        found: dict[str, Any] = {"role": "assistant", "content": content or ("" if not self.calls else None)}
        found["refusal"] = None
        if self.reasoning and self._form.shows_reasoning:
            found |= _reasoning("".join(self.reasoning))
        if self.calls:
            found["tool_calls"] = [
                {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
                for one in self.calls
            ]
        return found


class ChatAnswer(Answer):
    """Of `/v1/chat/completions`."""

    prefix, object_name, chunk_name = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, *args: Any, form: ChatForm) -> None:
        super().__init__(*args)
        self._form = form
        self._readers: dict[int, AnswerReader] = {}
        self._messages: dict[int, WholeMessage] = {}
        self._indices: dict[int, int] = {}  # of the last call that has begun in each choice

    def add(self, number: int, delta: Delta) -> None:
        """For `whole`: one more piece of a choice."""
        super().add(number, delta)
        reader = self._reader(number)
        self._messages.setdefault(number, WholeMessage(self._form)).add(reader.feed(delta))
        if delta.finish_reason is not None:
            self._choices[number]["finish_reason"] = _finish(delta, reader)

    def chunk(self, number: int, delta: Delta, with_usage: bool) -> bytes:
        """One piece of a choice as events; b"" for a piece that shows nothing."""
        self._note_scores(number, delta)
        begins = number not in self._readers
        reader = self._reader(number)
        parts = [part for one in reader.feed(delta) if (part := self._delta(number, one)) is not None]
        if begins:
            first = parts.pop(0) if parts and "content" in parts[0] else {"content": ""}
            parts.insert(0, {"role": "assistant"} | first)
        logprobs = self._due(number, delta)
        if not parts and (delta.finish_reason or logprobs):
            parts.append({})
        chunks: list[bytes] = []
        for at, part in enumerate(parts):
            shown = None if logprobs is None or at else self._report(number, logprobs)
            choice: dict[str, Any] = {"index": number, "delta": part, "logprobs": shown, "finish_reason": None}
            body = {"id": self.id, "object": self.chunk_name} | self._head | {"choices": [choice]}
            if begins and not number and not at:
                body |= self._of_prompts()
            if delta.finish_reason is not None and at == len(parts) - 1:
                choice |= {"finish_reason": _finish(delta, reader), "stop_reason": delta.stop_reason}
                body |= self._extra
            chunks.append(event(body | {"usage": None} if with_usage else body))
        return b"".join(chunks)

    def _reader(self, number: int) -> AnswerReader:
        if number not in self._readers:
            self._readers[number] = self._form.reader()
        return self._readers[number]

    def _delta(self, number: int, one: Event) -> dict[str, Any] | None:
        """What a chunk says of an event."""
        match one:
            case ContentPiece(text) | CallBroken(text):
                return {"content": text}
            case ReasoningPiece(text):
                return _reasoning(text) if self._form.shows_reasoning else None
            case CallBegin(name):
                index = self._indices[number] = self._indices.get(number, -1) + 1
                begun = {"index": index, "id": self._form.call_id(), "type": "function"}
                return {"tool_calls": [begun | {"function": {"name": name, "arguments": ""}}]}
            case ArgumentsPiece(text):
                return {"tool_calls": [{"index": self._indices[number], "function": {"arguments": text}}]}
        return None

    def _usage(self, counted: Usage) -> dict[str, Any]:
        reasoning = sum(reader.reasoning_tokens for reader in self._readers.values())
        details = {"completion_tokens_details": {"reasoning_tokens": reasoning}} if reasoning else {}
        return usage(counted) | details

    def _of_prompts(self) -> dict[str, Any]:
        return self._scores_by_id(0)

    def _content(self, number: int, text: str) -> dict[str, Any]:
        return {"message": self._messages[number].message()}

    def _report(self, number: int, logprobs: list[TokenLogprob], *, begins: bool = False) -> dict[str, Any]:
        return chat_logprobs(logprobs, self._texts)


def _reasoning(text: str) -> dict[str, str]:
    return {"reasoning_content": text, "reasoning": text}


def _finish(delta: Delta, reader: AnswerReader) -> str | None:
    return "tool_calls" if delta.finish_reason == "stop" and reader.calls else delta.finish_reason
