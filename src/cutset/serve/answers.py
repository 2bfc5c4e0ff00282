"""Answers in OpenAI's shapes: whole, or in chunks as they are generated."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from cutset.engine.outputs import Delta, TokenLogprob, Usage, clamp_offsets
from cutset.serve.api_errors import ApiError
from cutset.serve.logprobs import TokenTexts, completion_logprobs

__all__ = ["Answer", "CompletionAnswer", "event", "usage"]

DONE = b"data: [DONE]\n\n"


def event(content: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


def usage(counted: Usage) -> dict[str, Any]:
    """`usage`, with the prompt's tokens that were in the KV cache."""
    return {
        "prompt_tokens": counted.prompt_tokens,
        "completion_tokens": counted.completion_tokens,
        "total_tokens": counted.total_tokens,
        "prompt_tokens_details": {"cached_tokens": counted.cached_tokens},
    }


class Answer:
    """One answer while it comes. Choice `number` is sample `number % n` of prompt `number // n`.

    `extra` is added to the answer, or to the last chunk of each choice: what was kept of what was promised.
    """

    prefix = object_name = chunk_name = ""

    def __init__(self, model: str, fingerprint: str, texts: TokenTexts, extra: dict[str, Any]) -> None:
        self.id = f"{self.prefix}-{os.urandom(12).hex()}"
        self._head = {"created": int(time.time()), "model": model, "system_fingerprint": fingerprint}
        self._texts, self._extra = texts, extra
        self._choices: dict[int, dict[str, Any]] = {}
        self._pieces: dict[int, list[str]] = {}
        self._logprobs: dict[int, list[TokenLogprob]] = {}
        self.before: Sequence[str] = ()  # what comes before the text of each choice, if anything does

    def add(self, number: int, delta: Delta) -> None:
        """For `whole`: one more piece of a choice."""
        self._pieces.setdefault(number, [*self.before[number : number + 1]]).append(delta.text)
        if delta.logprobs is not None:
            self._logprobs.setdefault(number, []).extend(delta.logprobs)
        if delta.finish_reason is not None:
            ended = {"finish_reason": delta.finish_reason, "stop_reason": delta.stop_reason}
            self._choices[number] = {"index": number} | ended

    def whole(self, counted: Usage) -> bytes:
        """The answer, after every choice has ended."""
        choices = []
        for number, choice in sorted(self._choices.items()):
            text, logprobs = "".join(self._pieces[number]), self._logprobs.get(number)
            shown = None if logprobs is None else self._report(clamp_offsets(logprobs, len(text)))
            choices.append(choice | self._content(number, text) | {"logprobs": shown})
        body = {"id": self.id, "object": self.object_name} | self._head
        return msgspec.json.encode(body | {"choices": choices, "usage": usage(counted)} | self._extra)

    def chunk(self, number: int, delta: Delta, with_usage: bool) -> bytes:
        """One piece of a choice as an event; b"" for a piece that shows nothing."""
        begins = number not in self._pieces
        if begins:
            self._pieces[number] = []
            if self.before:
                delta = replace(delta, text=self.before[number] + delta.text)
        logprobs = self._due(number, delta)
        if not (delta.text or begins or delta.finish_reason or logprobs):
            return b""
        shown = None if logprobs is None else self._report(logprobs)
        choice = {"index": number} | self._part(delta.text, begins)
        choice |= {"logprobs": shown, "finish_reason": delta.finish_reason}
        body = {"id": self.id, "object": self.chunk_name} | self._head | {"choices": [choice]}
        if delta.finish_reason is not None:
            choice["stop_reason"] = delta.stop_reason
            body |= self._extra
        return event(body | {"usage": None} if with_usage else body)

    def usage_chunk(self, counted: Usage) -> bytes:
        """The last chunk of a stream that was asked for its usage."""
        body = {"id": self.id, "object": self.chunk_name} | self._head
        return event(body | {"choices": [], "usage": usage(counted)} | self._extra)

    def end(self, counted: Usage, with_usage: bool) -> bytes:
        """The last events of a stream that went well."""
        return (self.usage_chunk(counted) if with_usage else b"") + DONE

    def failed(self, error: ApiError) -> bytes:
        """The last event of one that didn't."""
        return b"data: " + error.body() + b"\n\n"

    def _content(self, number: int, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def _part(self, text: str, begins: bool) -> dict[str, Any]:
        raise NotImplementedError

    def _due(self, number: int, delta: Delta) -> list[TokenLogprob] | None:
        """The log-probabilities of a chunk."""
        return None if delta.logprobs is None else list(delta.logprobs)

    def _report(self, logprobs: list[TokenLogprob]) -> dict[str, Any]:
        raise NotImplementedError


class CompletionAnswer(Answer):
    """Of `/v1/completions`."""

    prefix, object_name, chunk_name = "cmpl", "text_completion", "text_completion"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._given: dict[int, int] = {}  # characters of each choice

    def _content(self, number: int, text: str) -> dict[str, Any]:
        return {"text": text}

    def _part(self, text: str, begins: bool) -> dict[str, Any]:
        return {"text": text}

    def _due(self, number: int, delta: Delta) -> list[TokenLogprob] | None:
        """Those of tokens whose place in the text is certain: what is held back may be half a stop string."""
        given = self._given[number] = self._given.get(number, 0) + len(delta.text)
        waiting = self._logprobs.setdefault(number, [])
        waiting += delta.logprobs or ()
        due = [one for one in waiting if one.text_offset <= given]
        if delta.finish_reason is not None:
            due = clamp_offsets(waiting, given)
        del waiting[: len(due)]
        return due or None

    def _report(self, logprobs: list[TokenLogprob]) -> dict[str, Any]:
        return completion_logprobs(logprobs, self._texts)
