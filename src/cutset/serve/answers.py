"""Answers in OpenAI's shapes: whole, or in chunks as they are generated."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import msgspec

from cutset.engine.outputs import Delta, FinishReason, TokenLogprob, Usage, clamp_offsets
from cutset.serve.api_errors import ApiError
from cutset.serve.logprobs import TokenTexts, completion_logprobs
from cutset.serve.prompt_scores import PromptReport, Scores

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
        self.report = PromptReport()  # what is said of the prompts
        self._attached = False
        self._scores: dict[int, Scores] = {}  # of each prompt's tokens, where they are wanted

    def add(self, number: int, delta: Delta) -> None:
        """For `whole`: one more piece of a choice."""
        self._note_scores(number, delta)
        self._pieces.setdefault(number, []).append(delta.text)
        if delta.logprobs is not None:
            self._logprobs.setdefault(number, []).extend(delta.logprobs)
        if delta.finish_reason is not None:
            ended = {"finish_reason": delta.finish_reason, "stop_reason": delta.stop_reason}
            self._choices[number] = {"index": number} | ended

    @property
    def scores(self) -> int:
        """Tokens whose log-probabilities take long to write; 0 where `whole` is of the event loop alone."""
        return 0

    def whole(self, counted: Usage) -> bytes:
        """The answer, after every choice has ended."""
        choices = []
        for number, choice in sorted(self._choices.items()):
            text, logprobs = "".join(self._pieces[number]), self._logprobs.get(number)
            if logprobs is None and self.report.echoed is not None:
                logprobs = []  # those of the prompt alone
            shown = None if logprobs is None else self._report(number, clamp_offsets(logprobs, len(text)), begins=True)
            choices.append(choice | self._content(number, text) | {"logprobs": shown})
        body = {"id": self.id, "object": self.object_name} | self._head
        body |= {"choices": choices, "usage": self._usage(counted)} | self._of_prompts()
        return msgspec.json.encode(body | self._extra)

    def chunk(self, number: int, delta: Delta, with_usage: bool) -> bytes:
        """One piece of a choice as an event; b"" for a piece that shows nothing."""
        begins = number not in self._pieces
        self._pieces.setdefault(number, [])
        self._note_scores(number, delta)
        choice = {"index": number} | self._part(number, delta, begins)
        if not (begins or choice["text"] or choice["logprobs"] or delta.finish_reason):
            return b""
        choice["finish_reason"] = delta.finish_reason
        body = {"id": self.id, "object": self.chunk_name} | self._head | {"choices": [choice]}
        if delta.finish_reason is not None:
            choice["stop_reason"] = delta.stop_reason
            body |= self._extra
        return event(body | {"usage": None} if with_usage else body)

    def usage_chunk(self, counted: Usage) -> bytes:
        """The last chunk of a stream that was asked for its usage."""
        body = {"id": self.id, "object": self.chunk_name} | self._head
        return event(body | {"choices": [], "usage": self._usage(counted)} | self._extra)

    def _usage(self, counted: Usage) -> dict[str, Any]:
        return usage(counted)

    def _note_scores(self, number: int, delta: Delta) -> None:
        """They come with the first piece of a prompt's first sample, which comes before those of others."""
        if delta.prompt_logprobs is not None:
            self._scores[number // self.report.samples] = delta.prompt_logprobs

    def _scores_by_id(self, number: int) -> dict[str, Any]:
        """vLLM's field, for a choice or what stands for it."""
        if self.report.listed is None:
            return {}
        scores = self._scores[number // self.report.samples]
        return {"prompt_logprobs": self.report.by_id(scores, self._texts)}

    def _of_prompts(self) -> dict[str, Any]:
        """What a whole answer says of its prompts."""
        return {}

    def attach(self, name: str, value: str) -> None:
        """Adds what is known when everything has ended: to the answer, or in a stream to its last chunk."""
        self._extra[name] = value
        self._attached = True

    def end(self, counted: Usage, with_usage: bool) -> bytes:
        """The last events of a stream that went well."""
        if with_usage:
            return self.usage_chunk(counted) + DONE
        body = {"id": self.id, "object": self.chunk_name} | self._head | {"choices": []} | self._extra
        return (event(body) if self._attached else b"") + DONE

    def failed(self, error: ApiError) -> bytes:
        """The last event of one that didn't."""
        return b"data: " + error.body() + b"\n\n"

    def _content(self, number: int, text: str) -> dict[str, Any]:
        """Of a whole choice."""
        raise NotImplementedError

    def _part(self, number: int, delta: Delta, begins: bool) -> dict[str, Any]:
        """Of a chunk: its text and log-probabilities."""
        raise NotImplementedError

    def _due(self, number: int, delta: Delta) -> list[TokenLogprob] | None:
        """The log-probabilities of a chunk."""
        return None if delta.logprobs is None else list(delta.logprobs)

    def _report(self, number: int, logprobs: list[TokenLogprob], *, begins: bool = False) -> dict[str, Any]:
        """Log-probabilities of a choice, or of a chunk; `begins`: its first ones."""
        raise NotImplementedError


class CompletionAnswer(Answer):
    """Of `/v1/completions`."""

    prefix, object_name, chunk_name = "cmpl", "text_completion", "text_completion"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._given: dict[int, int] = {}  # characters of each choice

    def add(self, number: int, delta: Delta) -> None:
        """For `whole`: one more piece of a choice."""
        super().add(number, self._without_answer(delta))

    def chunk(self, number: int, delta: Delta, with_usage: bool) -> bytes:
        """One piece of a choice as an event; b"" for a piece that shows nothing."""
        return super().chunk(number, self._without_answer(delta), with_usage)

    @property
    def scores(self) -> int:
        """Tokens of prompts and choices whose log-probabilities the whole answer has."""
        return sum(map(len, self._logprobs.values())) + sum(map(len, self._scores.values()))

    def _content(self, number: int, text: str) -> dict[str, Any]:
        echo = self.report.echo(number)
        return {"text": text if echo is None else echo.text + text} | self._scores_by_id(number)

    def _part(self, number: int, delta: Delta, begins: bool) -> dict[str, Any]:
        due, text = self._due(number, delta), delta.text
        shown = None if due is None else self._report(number, due)
        if not begins:
            return {"text": text, "logprobs": shown}
        if (echo := self.report.echo(number)) is not None:
            text = echo.text + text
            shown = self._report(number, due or [], begins=True) if self.report.echoed is not None else shown
        return {"text": text, "logprobs": shown} | self._scores_by_id(number)

    def _without_answer(self, delta: Delta) -> Delta:
        """Where the prompt alone is wanted, what the model adds to it isn't shown."""
        if not self.report.alone:
            return delta
        ended: FinishReason | None = None if delta.finish_reason is None else "length"
        return replace(delta, text="", token_ids=(), logprobs=None, finish_reason=ended, stop_reason=None)

    def _usage(self, counted: Usage) -> dict[str, Any]:
        return usage(replace(counted, completion_tokens=0) if self.report.alone else counted)

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

    def _report(self, number: int, logprobs: list[TokenLogprob], *, begins: bool = False) -> dict[str, Any]:
        echo = self.report.echo(number)
        if echo is not None and echo.text:
            logprobs = [one._replace(text_offset=one.text_offset + len(echo.text)) for one in logprobs]
        found = completion_logprobs(logprobs, self._texts)
        scores = self._scores.get(number // self.report.samples)
        before = self.report.logprobs(number, scores, self._texts) if begins and scores is not None else None
        return found if before is None else {name: before[name] + values for name, values in found.items()}
