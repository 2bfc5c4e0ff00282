"""What a client may ask: OpenAI's parameters, and vLLM's beside them.

What would change the answer and isn't served is refused; what wouldn't is ignored (request_fields.py).
"""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from cutset.engine.params import MAX_LOGPROBS, SamplingParams
from cutset.serve.answer_forms import grammar_of
from cutset.serve.api_errors import invalid
from cutset.serve.request_fields import NOTHING, TO_TEMPLATE, without_unserved
from cutset.serve.tool_fields import ToolUse, read_tools

__all__ = ["MOST_PROMPTS", "ChatRequest", "CompletionRequest", "StreamOptions", "decode_fields", "parse"]

MOST_PROMPTS = 128  # of one request
MOST_MESSAGES = 10_000  # of one conversation
_Request = TypeVar("_Request", bound="_Common")
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """`include_usage`: a last chunk with the usage of the whole request. The other pads events to hide their sizes."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # changes nothing of the answer
    continuous_usage_stats: bool | None = None  # vLLM's: refused


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
    add_special_tokens: bool | None = None  # around the prompt; refused where it isn't what is done anyway
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    truncate_prompt_tokens: int | None = None
    prompt_logprobs: int | None = None
    skip_reading_prefix_cache: bool | None = None
    cutset_receipt: bool | None = None  # ours: a signed receipt comes with the answer, or in a stream's last chunk
    # The form of the answer: see answer_forms.py.
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: str | dict[str, Any] | bool | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    guided_decoding_backend: str | None = None

    def reported(self) -> int | None:
        """How many of the likeliest tokens to report; None for no log-probabilities."""
        raise NotImplementedError

    def limit(self) -> int | None:
        """Most tokens of each sample, where the request says it."""
        return self.max_tokens

    @property
    def scores_alone(self) -> bool:
        """Nothing is wanted but what can be said of the prompt."""
        return False

    def scored(self) -> int | None:
        """How many of the likeliest tokens to report of the prompt's; None for no log-probabilities."""
        return self.prompt_logprobs

    def check(self) -> None:
        """Raises ApiError for what isn't served."""
        if self.stream_options is not None:
            if not self.stream:
                raise invalid("stream_options needs stream: true", "stream_options")
            if self.stream_options.continuous_usage_stats:
                name = "stream_options.continuous_usage_stats"
                raise invalid(f"{name} isn't supported by this server: leave it out", name)
        if self.limit() == 0 and not self.scores_alone:
            name = "max_tokens" if self.max_tokens == 0 else "max_completion_tokens"
            raise invalid(f"{name}=0 can't be used: give 1 or more", name)

    def sampling(self, max_tokens: int | None, defaults: Mapping[str, Any]) -> SamplingParams:
        """The engine's parameters: what the request doesn't say is the model's `defaults` to say; `max_tokens` where
        neither does. Raises RequestError, ApiError."""
        self.check()
        asked = {name: getattr(self, name, None) for name in SamplingParams.names()}
        asked |= {"logprobs": self.reported(), "max_tokens": self.limit(), "structured_outputs": grammar_of(self)}
        asked["prompt_logprobs"] = self.scored()
        if self.scores_alone:
            asked["max_tokens"] = 1  # the model gives one with the prompt's, which isn't shown
        given = {name: value for name, value in asked.items() if value is not None}
        return SamplingParams.of(given, {"max_tokens": max_tokens, **defaults})


class CompletionRequest(_Common):
    """`POST /v1/completions`."""

    prompt: str | list[int | str | list[int]]
    logprobs: int | None = None
    echo: bool | None = None  # the prompt comes before the answer
    best_of: int | None = None

    def check(self) -> None:
        """Raises ApiError for fields that contradict each other, or that are not supported."""
        super().check()
        if self.best_of not in (None, self.n or 1):
            raise invalid("best_of isn't supported by this server: leave it out", "best_of")
        if self.add_special_tokens is False:
            raise invalid("add_special_tokens: false isn't supported: give token ids instead", "add_special_tokens")

    def reported(self) -> int | None:
        """How many likeliest tokens are reported at each position; None for no log-probabilities."""
        return self.logprobs

    @property
    def scores_alone(self) -> bool:
        """Nothing but the prompt is wanted, most often its log-probabilities."""
        return bool(self.echo) and self.max_tokens == 0

    def scored(self) -> int | None:
        """Of tokens that are echoed as many are reported as of others."""
        echoed = self.logprobs if self.echo else None
        return max((one for one in (self.prompt_logprobs, echoed) if one is not None), default=None)

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
    # For the chat template; all but the first two where it knows them.
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | int | float | None = None
    verbosity: str | int | float | None = None
    documents: list[Any] | None = None
    enable_thinking: bool | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    include_reasoning: bool | None = None

    def check(self) -> None:
        """Raises ApiError for fields that contradict each other, or that are not supported."""
        super().check()
        if len(self.messages) > MOST_MESSAGES:
            raise invalid(f"messages has {len(self.messages)} entries: give at most {MOST_MESSAGES}", "messages")
        if self.add_special_tokens:
            raise invalid("add_special_tokens isn't supported: the chat template writes them", "add_special_tokens")
        if self.continue_final_message and self.add_generation_prompt:
            raise invalid("give either continue_final_message or add_generation_prompt", "continue_final_message")
        self.tool_use()

    def tool_use(self) -> ToolUse:
        """What it says of tools. Raises ApiError."""
        return read_tools(self.tools, self.tool_choice, self.parallel_tool_calls)

    @property
    def continues(self) -> bool:
        """The answer goes on with the last message: vLLM's field, or Mistral's `prefix` in the message."""
        last = self.messages[-1] if self.messages else {}
        return bool(self.continue_final_message) or (last.get("role") == "assistant" and last.get("prefix") is True)

    def variables(self) -> dict[str, Any]:
        """Fields that are variables of the chat template."""
        found = {name: getattr(self, name) for name in TO_TEMPLATE}
        return {
            name: value for name, value in found.items() if value is not None and value not in NOTHING.get(name, ())
        }

    def conversation(self) -> list[dict[str, Any]]:
        """The messages, by the names of roles that templates know. Raises ApiError for what can't be read."""
        found = []
        for index, message in enumerate(self.messages):
            if message.get("audio") is not None:
                raise invalid(f"messages[{index}].audio can't be read: this model reads nothing but text", "messages")
            developer = message.get("role") == "developer"  # OpenAI's newer name
            plain = {name: value for name, value in message.items() if name != "prefix"}
            found.append(plain | {"role": "system"} if developer else plain)
        return found

    def reported(self) -> int | None:
        """How many likeliest tokens are reported at each position; None for no log-probabilities."""
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
        if not 0 <= (self.top_logprobs or 0) <= MAX_LOGPROBS:
            raise invalid(
                f"top_logprobs={self.top_logprobs} can't be used: give 0 to {MAX_LOGPROBS}"[:200], "top_logprobs"
            )
        return (self.top_logprobs or 0) if self.logprobs else None

    def limit(self) -> int | None:
        """The most tokens of an answer, if the request says so."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def parse(body: bytes, kind: type[_Request]) -> _Request:
    """The request in a body. Raises ApiError that names what is wrong."""
    return decode_fields(body, kind, without_unserved)


def decode_fields(body: bytes, kind: type[_Struct], kept: Callable[[Mapping[str, Any]], dict[str, Any]]) -> _Struct:
    """A body as `kind`, by those of its fields that are `kept`. Raises ApiError that names what is wrong."""
    try:
        with _uncollected():
            fields = msgspec.json.decode(body, type=dict[str, Any])
            options = fields.get("stream_options")
            if isinstance(options, dict):
                fields["stream_options"] = {name: value for name, value in options.items() if value is not None}
            return msgspec.convert(kept(fields), kind)
    except msgspec.ValidationError as error:
        text = str(error)
        found = re.search(r"field `([^`]*)`", text), re.search(r"`\$\.?([^`]*)`$", text)
        where = ".".join(one[1] for one in reversed(found) if one is not None and one[1])
        raise invalid(f"the request can't be used: {_short(text)}", where or None) from None
    except RecursionError:
        raise invalid("the body is nested too deeply: make it flatter", code="invalid_json") from None
    except ValueError as error:  # malformed JSON, wrong UTF-8
        raise invalid(f"the body isn't valid JSON: {_short(str(error))}", code="invalid_json") from None


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """JSON becomes hundreds of thousands of objects, none of them garbage: the collector, which looks at all of them
    again and again, takes ten times as long as the reading, and everybody waits for that."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:297] + "..."
