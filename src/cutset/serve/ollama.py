"""Ollama's `/api/chat` and `/api/generate`: what is asked becomes a request of OpenAI's API, which is asked here.

So tools, schemas and reasoning are what they are there; ollama_answers.py turns the answers back.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from cutset.models.calls.registered import reasoning_of
from cutset.serve.api_errors import ApiError, invalid
from cutset.serve.ollama_answers import ChatLines, GenerateLines, Lines, now
from cutset.serve.plain_requests import read_plain
from cutset.serve.replies import replayed, send_json
from cutset.serve.service import Service

__all__ = ["OllamaChat", "OllamaGenerate", "openai_options"]

# Options by OpenAI's or vLLM's names.
SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
# How it is computed, which is the server's to say.
IGNORED = frozenset(
    re.findall(
        r"\w+",
        """
    num_ctx num_keep num_batch num_gpu main_gpu num_thread numa low_vram f16_kv vocab_only use_mmap use_mlock logits_all
    embedding_only penalize_newline repeat_last_n draft_num_predict
    """,
    )
)
# What isn't done, but for the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "mirostat": (0,),
    "mirostat_tau": (),
    "mirostat_eta": (),
    "tfs_z": (1,),
    "typical_p": (1,),
}
LEVELS = ("low", "medium", "high")  # of thinking


class _Asked(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str
    stream: bool | None = None  # Ollama's default is to stream
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | float | int | None = None  # models stay while there is room for them
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    truncate: bool | None = None
    shift: bool | None = None
    num_predict: int | None = None  # Open WebUI's place for it
    metadata: Any = None  # who asks
    cutset_receipt: bool | None = None  # ours: in the last line, or in the whole answer


class OllamaChatRequest(_Asked):
    """`POST /api/chat`."""

    messages: list[dict[str, Any]] = []
    tools: list[dict[str, Any]] | None = None
    system: str | None = None  # Open WebUI's; Ollama has it in messages


class OllamaGenerateRequest(_Asked):
    """`POST /api/generate`."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[Any] | None = None


class _Translated:
    """An ASGI application that asks `chat`, the application of `/v1/chat/completions`."""

    def __init__(self, service: Service, chat: ASGIApp) -> None:
        self.service, self.chat = service, chat

    async def _fields(self, request: _Asked) -> dict[str, Any]:
        """What both kinds of request have in common, by OpenAI's names."""
        options = {} if request.num_predict is None else {"num_predict": request.num_predict}
        fields = openai_options(options | (request.options or {}))
        fields |= {"model": self.service.check_model(request.model), "stream": request.stream is not False}
        if fields["stream"]:
            fields["stream_options"] = {"include_usage": True}
        if request.format not in (None, ""):
            fields["response_format"] = _response_format(request.format)
        if request.logprobs:
            fields |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
        if request.cutset_receipt is not None:
            fields["cutset_receipt"] = request.cutset_receipt
        return fields

    async def _think(self, request: _Asked) -> dict[str, Any]:
        """A level is for templates that know some, and just true to others; a model that thinks anyway does."""
        think = request.think
        if think is None:
            return {}
        if isinstance(think, str) and think not in LEVELS:
            raise invalid(f"think must be true, false, {', '.join(LEVELS)}, not {think[:60]!r}", "think")
        template = await self.service.template()
        if isinstance(think, str) and "reasoning_effort" in template.variables:
            return {"reasoning_effort": think}
        if "enable_thinking" in template.variables:
            return {"chat_template_kwargs": {"enable_thinking": bool(think)}}
        if think and not reasoning_of(template.source):
            raise invalid(f"{request.model!r} does not support thinking: leave think out", "think")
        return {}

    async def _ask(
        self, app: ASGIApp, fields: dict[str, Any], lines: Lines, scope: Scope, receive: Receive, send: Send
    ) -> None:
        body, most = msgspec.json.encode(fields), self.service.limits.body_bytes
        if len(body) > most:  # ids of calls are added to it
            raise ApiError(
                413, f"the request has more than {most} bytes with the ids that its calls get: make it smaller"
            )
        await app(scope, replayed(body, receive), lines.to(send))


class OllamaChat(_Translated):
    """`POST /api/chat`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter_ns()
        request = await read_plain(self.service, scope, receive, send, OllamaChatRequest)
        if request is None:
            return
        fields = await self._fields(request)
        if not request.messages:  # how clients have a model loaded
            done = {"message": {"role": "assistant", "content": ""}, "done_reason": _loaded(request), "done": True}
            await send_json(send, {"model": request.model, "created_at": now()} | done)
            return
        messages = openai_messages(request.messages)
        if request.system and messages[0].get("role") != "system":
            messages.insert(0, {"role": "system", "content": request.system})
        fields |= {"messages": messages} | await self._think(request)
        if request.tools:
            fields["tools"] = request.tools
        await self._ask(
            self.chat, fields, ChatLines(request.model, started, self.service.running), scope, receive, send
        )


class OllamaGenerate(_Translated):
    """`POST /api/generate`: by the chat template, or `raw`, or where there is none, the prompt as it is."""

    def __init__(self, service: Service, chat: ASGIApp, completions: ASGIApp) -> None:
        super().__init__(service, chat)
        self.completions = completions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter_ns()
        service = self.service
        request = await read_plain(service, scope, receive, send, OllamaGenerateRequest)
        if request is None:
            return
        for name in ("suffix", "template", "context", "images"):
            if getattr(request, name):
                raise invalid(f"{name} isn't supported by this server: leave it out", name)
        fields = await self._fields(request)
        if not request.prompt:
            await send_json(
                send,
                {"model": request.model, "created_at": now(), "response": ""}
                | {"done_reason": _loaded(request), "done": True},
            )
            return
        lines = GenerateLines(request.model, started, service.running)
        if service.llm.template_source is not None and not request.raw:
            messages = [{"role": "user", "content": request.prompt}]
            if request.system:
                messages.insert(0, {"role": "system", "content": request.system})
            fields |= {"messages": messages} | await self._think(request)
            await self._ask(self.chat, fields, lines, scope, receive, send)
            return
        if request.system:
            raise invalid("system needs the model's chat template: leave it out, or raw", "system")
        if request.think:
            raise invalid(f"{request.model!r} does not support thinking: leave think out", "think")
        if fields.pop("logprobs", None):
            raise invalid("logprobs of a raw prompt aren't supported: ask /v1/completions for them", "logprobs")
        fields.pop("top_logprobs", None)
        ids = await service.encode(request.prompt)
        room = service.llm.max_model_len - len(ids)
        fields = {"max_tokens": max(1, room)} | fields | {"prompt": ids.tolist()}
        await self._ask(self.completions, fields, lines, scope, receive, send)


def _loaded(request: _Asked) -> str:
    """What has become of a model that was asked nothing. It stays where Ollama would let go of it."""
    return "unload" if request.keep_alive in (0, "0", "0s", "0m") else "load"


def openai_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Ollama's `options` by OpenAI's and vLLM's names. Raises ApiError for one that nobody knows, or that would change
    the answer and isn't done."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if value is None or name in IGNORED:
            continue
        if name in SAMPLING:
            found[SAMPLING[name]] = value
        elif name == "num_predict":
            if not isinstance(value, int) or isinstance(value, bool) or value < -2:
                raise invalid("options.num_predict must be a whole number, -1 for no limit", "options.num_predict")
            if value > 0:  # -1 and -2: to the end of the context
                found["max_tokens"] = value
            elif value == 0:
                raise invalid("options.num_predict=0 can't be used: give 1 or more", "options.num_predict")
        elif name in NEUTRAL:
            if value not in NEUTRAL[name] and not (name.startswith("mirostat_") and not options.get("mirostat")):
                raise invalid(f"options.{name} isn't supported by this server: leave it out", f"options.{name}")
        else:
            raise invalid(f"there is no option {name[:60]!r}", f"options.{name[:60]}")
    _check_last(options, found)
    return found


def _check_last(options: Mapping[str, Any], found: dict[str, Any]) -> None:
    """Penalties here are of the whole text, or of none."""
    last = options.get("repeat_last_n")
    penalties = [name for name in SAMPLING if name.endswith("_penalty") and SAMPLING[name] in found]
    if last == 0:
        for name in penalties:
            del found[SAMPLING[name]]
    elif last not in (None, -1) and any(options[name] != (name == "repeat_penalty") for name in penalties):
        text = "options.repeat_last_n isn't supported but for -1 and 0: penalties here are of the whole text"
        raise invalid(text, "options.repeat_last_n")


def openai_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with OpenAI's names and ids of calls, which Ollama doesn't have: results are those of calls in order.

    Raises ApiError for pictures.
    """
    found, calls, waiting = [], 0, deque[str]()  # ids of calls, of which some may have their results
    without = Counter[str]()  # of calls without results, by their ids
    for index, message in enumerate(messages):
        kept = {name: value for name, value in message.items() if value not in (None, [])}
        if kept.pop("images", None):
            raise invalid(f"messages[{index}].images can't be read: this model reads nothing but text", "messages")
        if (thinking := kept.pop("thinking", None)) is not None:
            kept["reasoning_content"] = thinking
        if isinstance(called := kept.get("tool_calls"), list):
            kept["tool_calls"] = []
            for call in called:
                function = call.get("function") if isinstance(call, dict) else None
                if not isinstance(function, dict):
                    raise invalid(f"messages[{index}].tool_calls must be objects with a function", "messages")
                given = call.get("id")
                waiting.append(given if isinstance(given, str) and given else f"call_{calls}")
                without[waiting[-1]] += 1
                calls += 1
                arguments = function.get("arguments", {})
                text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
                named = {"name": function.get("name"), "arguments": text}
                kept["tool_calls"].append({"id": waiting[-1], "type": "function", "function": named})
        if kept.get("role") == "tool":
            if (name := kept.pop("tool_name", None)) is not None:
                kept["name"] = name
            while waiting and not without[waiting[0]]:
                waiting.popleft()
            if "tool_call_id" not in kept and waiting:
                kept["tool_call_id"] = waiting.popleft()
            if isinstance(answered := kept.get("tool_call_id"), str) and without[answered]:
                without[answered] -= 1
        kept.setdefault("content", "")
        found.append(kept)
    return found


def _response_format(format: str | dict[str, Any] | None) -> dict[str, Any]:
    if format == "json":
        return {"type": "json_object"}
    if isinstance(format, dict):
        return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": format}}
    raise ApiError(400, f"format must be 'json' or a JSON schema, not {str(format)[:60]!r}", param="format")
