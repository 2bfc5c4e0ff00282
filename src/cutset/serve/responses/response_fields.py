"""What a client may ask of `/v1/responses`, and the chat that it comes to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cutset.serve.api_errors import invalid
from cutset.serve.requests import ChatRequest, StreamOptions, decode_fields
from cutset.serve.responses.input_items import conversation

__all__ = ["ResponseChat", "ResponseRequest", "parse_response"]

# They say who asks, how it is billed, kept or scheduled, or bound what isn't done here: the text is the same.
IGNORED = frozenset(
    re.findall(
        r"\w+",
        "user service_tier safety_identifier prompt_cache_key prompt_cache_retention prompt_cache_options moderation "
        "max_tool_calls access_programs background_options image client_metadata",
    )
)
# Refused but for these values, and for those that ask for nothing.
REFUSED: dict[str, tuple[Any, ...]] = {
    "background": (),
    "context_management": (),
    "conversation": (),
    "prompt": (),
    "truncation": ("disabled",),
}
LOGPROBS = "message.output_text.logprobs"
# What else may be included: nothing is encrypted here, reasoning comes as it is.
INCLUDED = (LOGPROBS, "reasoning.encrypted_content")
PASSED_ON = (
    *("model", "temperature", "top_p", "stream", "stream_options", "parallel_tool_calls", "top_k", "min_p", "seed"),
    *("stop", "repetition_penalty", "presence_penalty", "frequency_penalty", "cache_salt", "chat_template_kwargs"),
    *("enable_thinking", "min_tokens", "ignore_eos", "stop_token_ids", "cutset_receipt"),
)


class ResponseRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/responses`."""

    input: str | list[Any] = ""
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    include: list[str] | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    # Of chats
    top_k: int | None = None
    min_p: float | None = None
    min_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    cache_salt: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    cutset_receipt: bool | None = None

    @property
    def reports(self) -> bool:
        """Log-probabilities are wanted."""
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())

    def chat(self, before: Sequence[Any], client: str | None) -> ResponseChat:
        """The chat that it comes to, after the items of an earlier response. Raises ApiError."""
        for one in self.include or ():
            if one not in INCLUDED:
                raise invalid(f"include {one[:60]!r} isn't supported by this server: leave it out", "include")
        if self.max_output_tokens == 0:
            raise invalid("max_output_tokens=0 can't be used: give 1 or more", "max_output_tokens")
        fields = {name: value for name in PASSED_ON if (value := getattr(self, name)) is not None}
        fields |= _reasoning(self.reasoning or {}) | _text(self.text or {})
        if self.tools is not None:
            fields["tools"] = _tools(self.tools)
        if self.tool_choice is not None:
            fields["tool_choice"] = _tool_choice(self.tool_choice)
        if self.reports:
            fields |= {"logprobs": True, "top_logprobs": self.top_logprobs or 0}
        own = self.items()
        if not own and not before:
            raise invalid("input is empty: give a text or a list of items", "input")
        messages = conversation([*before, *own], len(before))
        if self.instructions is not None:
            messages.insert(0, {"role": "system", "content": self.instructions})
        return ResponseChat(
            messages=messages, max_tokens=self.max_output_tokens, asked=self, before=before, client=client, **fields
        )

    def items(self) -> list[Any]:
        """Its input, as items."""
        if isinstance(self.input, str):
            return [{"type": "message", "role": "user", "content": self.input}] if self.input else []
        return self.input


class ResponseChat(ChatRequest, kw_only=True):
    """A response as a chat. `before`: the items of the responses that it goes on from."""

    asked: ResponseRequest
    before: Sequence[Any]
    client: str | None


def parse_response(body: bytes) -> ResponseRequest:
    """The request in a body. Raises ApiError that names what is wrong."""

    def kept(fields: Mapping[str, Any]) -> dict[str, Any]:
        found = {}
        for name, value in fields.items():
            if value is None or name in IGNORED:
                continue
            if name not in REFUSED:
                found[name] = value
            elif value and value not in REFUSED[name]:
                raise invalid(f"{name} isn't supported by this server: leave it out", name)
        return found

    return decode_fields(body, ResponseRequest, kept)


def _reasoning(given: Mapping[str, Any]) -> dict[str, Any]:
    """`reasoning.effort` is the template's; a summary nobody writes, as the reasoning comes as it is."""
    for name, value in given.items():
        where = f"reasoning.{name[:40]}"
        if value is None or (name in ("summary", "generate_summary", "context") and value == "auto"):
            continue
        if name not in ("effort", "mode") or (name == "mode" and value != "standard"):
            raise invalid(f"{where} isn't supported by this server: leave it out", where)
        if name == "effort" and not isinstance(value, str):
            raise invalid(f"{where} must be a text", where)
    effort = given.get("effort")
    return {} if effort is None else {"reasoning_effort": effort}


def _text(given: Mapping[str, Any]) -> dict[str, Any]:
    """`text.format` is a chat's response_format, written flat."""
    for name, value in given.items():
        if value is not None and name not in ("format", "verbosity"):
            raise invalid(f"text.{name[:40]} isn't supported by this server: leave it out", f"text.{name[:40]}")
    found: dict[str, Any] = {}
    if given.get("verbosity") is not None:
        found["verbosity"] = given["verbosity"]
    form = given.get("format")
    if form is None or form == {"type": "text"}:
        return found
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "json_schema":
        inner = {name: value for name, value in form.items() if name != "type"}
        return found | {"response_format": {"type": "json_schema", "json_schema": inner}}
    if kind == "json_object":
        return found | {"response_format": {"type": "json_object"}}
    raise invalid('text.format must have the type "text", "json_object" or "json_schema"', "text.format")


def _tools(tools: Any) -> Any:
    """Functions as chats have them; what isn't one is refused there."""
    if not isinstance(tools, list):
        return tools
    found = []
    for tool in tools:
        if isinstance(tool, dict) and tool.get("type", "function") == "function" and "function" not in tool:
            inner = {name: value for name, value in tool.items() if name != "type"}
            found.append({"type": "function", "function": inner})
        else:
            found.append(tool)
    return found


def _tool_choice(choice: Any) -> Any:
    """A choice as chats have it; what is none is refused there."""
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "function" and "function" not in choice:
        return {"type": "function", "function": {"name": choice.get("name")}}
    if choice.get("type") == "allowed_tools" and "allowed_tools" not in choice:
        tools = choice.get("tools")
        listed = [_tool_choice(tool) for tool in tools] if isinstance(tools, list) else tools
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": listed}}
    return choice
