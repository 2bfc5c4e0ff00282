"""What a client may ask: OpenAI's parameters, and vLLM's beside them.

What would change the answer and isn't served (tools, JSON schemas, biases) is refused; what wouldn't is ignored.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from cutset.engine.params import SamplingParams
from cutset.serve.errors import invalid

__all__ = ["MOST_PROMPTS", "ChatRequest", "CompletionRequest", "parse"]

MOST_PROMPTS = 128  # of one request
_Request = TypeVar("_Request", bound="_Common")


class StreamOptions(msgspec.Struct):
    """`include_usage`: a last chunk with the usage of the whole request."""

    include_usage: bool | None = None


class _Common(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str | None = None
    n: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # vLLM's
    top_k: int | None = None
    min_p: float | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    cache_salt: str | None = None  # requests share the KV cache only with those of the same salt
    # Ignored.
    user: str | None = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    # Refused, unless they ask for nothing.
    logit_bias: Any = None

    def unserved(self) -> dict[str, Any]:
        """Parameters that are refused unless they ask for nothing."""
        return {"logit_bias": self.logit_bias}

    def reported(self) -> int | None:
        """How many of the likeliest tokens to report; None for no log-probabilities."""
        raise NotImplementedError

    def limit(self) -> int | None:
        """Most tokens of each sample, where the request says it."""
        return self.max_tokens

    def sampling(self, max_tokens: int | None) -> SamplingParams:
        """The engine's parameters; `max_tokens` where the request doesn't say. Raises RequestError, ApiError."""
        for name, value in self.unserved().items():
            if value:
                raise invalid(f"{name} isn't supported by this server: leave it out", name)
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options needs stream: true", "stream_options")
        given = {name: getattr(self, name, None) for name in SamplingParams.names()}
        given |= {"logprobs": self.reported(), "max_tokens": self.limit() or max_tokens}
        if self.limit() == 0:
            raise invalid("max_tokens=0 can't be used: give 1 or more", "max_tokens")
        return SamplingParams(**{name: value for name, value in given.items() if value is not None}
                              | {"max_tokens": given["max_tokens"]})  # fmt: skip


class CompletionRequest(_Common):
    """`POST /v1/completions`."""

    prompt: str | list[int | str | list[int]]
    logprobs: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None

    def unserved(self) -> dict[str, Any]:
        more = {"echo": self.echo, "suffix": self.suffix}
        return super().unserved() | more | {"best_of": self.best_of if self.best_of != (self.n or 1) else None}

    def reported(self) -> int | None:
        return self.logprobs

    def prompts(self) -> list[str | list[int]]:
        """One prompt or several, as several."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and all(isinstance(one, int) for one in self.prompt):
            return [self.prompt]  # type: ignore[list-item]
        if not 1 <= len(self.prompt) <= MOST_PROMPTS:
            raise invalid(f"prompt has {len(self.prompt)} entries: give 1 to {MOST_PROMPTS}", "prompt")
        if any(isinstance(one, int) for one in self.prompt):
            raise invalid("prompt mixes token ids with prompts: give a text, texts, ids or lists of ids", "prompt")
        return self.prompt  # type: ignore[return-value]


class ChatRequest(_Common):
    """`POST /v1/chat/completions`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: Any = None  # ignored
    verbosity: Any = None  # ignored
    parallel_tool_calls: Any = None  # ignored: there are no tools
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    response_format: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None

    def unserved(self) -> dict[str, Any]:
        harmless = {"tool_choice": ("none", "auto"), "function_call": ("none", "auto")}
        harmless |= {"response_format": ({"type": "text"},), "modalities": (["text"],)}  # type: ignore[dict-item]
        names = (*harmless, "tools", "functions", "audio", "prediction", "web_search_options")
        found = {name: getattr(self, name) for name in names}
        return super().unserved() | {n: v for n, v in found.items() if v not in harmless.get(n, ())}

    def reported(self) -> int | None:
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def parse(body: bytes, kind: type[_Request]) -> _Request:
    """The request in a body. Raises ApiError that names what is wrong."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        text = str(error)
        found = re.search(r"`\$\.?([^`]*)`$", text) or re.search(r"(?:field|unknown field) `([^`]*)`", text)
        raise invalid(f"the request can't be used: {_short(text)}", found[1] if found else None) from None
    except (ValueError, RecursionError) as error:  # malformed JSON, wrong UTF-8, brackets without end
        raise invalid(f"the body isn't valid JSON: {_short(str(error))}", code="invalid_json") from None


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:297] + "..."
