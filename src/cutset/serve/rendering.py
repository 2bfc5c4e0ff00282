"""From a chat's request to its prompt, and to how its answers are read. Runs in threads that wait for templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cutset.errors import RequestError
from cutset.models.text.chat import ChatTemplate
from cutset.serve.answer_reader import ChatForm, chat_form
from cutset.serve.request_fields import variables
from cutset.serve.requests import ChatRequest
from cutset.serve.tool_prompt import in_words

__all__ = ["rendered"]


def rendered(
    template: ChatTemplate,
    request: ChatRequest,
    special: Mapping[str, int],  # ids of special tokens by their texts
    tool_parser: str = "auto",
    reasoning_parser: str = "auto",
) -> tuple[str, ChatForm]:
    """A conversation as the chat template writes it, with variables that are the request's own fields and those that it
    has in chat_template_kwargs; and how answers to it are read. Raises ApiError, RequestError, TokenizerError."""
    tools, messages = request.tool_use(), request.conversation()
    given = variables(
        request.variables(), request.chat_template_kwargs or {}, template.variables, template.special_tokens
    )
    how: dict[str, Any] = given | {
        "add_generation_prompt": request.add_generation_prompt,
        "continue_final_message": request.continues,
    }
    native = "tools" in template.variables
    if native:
        text = template.render(messages, tools=tools.shown, **how)
    elif tools.shown is None and not _has_calls(messages):
        text = template.render(messages, **how)
    else:
        try:
            text = template.render(in_words(messages, tools.shown, system=True), **how)
        except RequestError:  # some templates refuse a message of the system's
            text = template.render(in_words(messages, tools.shown, system=False), **how)
    return text, chat_form(
        tools,
        template.source,
        text,
        native=native,
        continued=_text_of(messages[-1]) if request.continues else None,
        tool_parser=tool_parser,
        reasoning_parser=reasoning_parser,
        hides_special=request.skip_special_tokens is not False,
        shows_reasoning=request.include_reasoning is not False,
        special=special,
    )


def _has_calls(messages: list[dict[str, Any]]) -> bool:
    return any(message.get("tool_calls") or message.get("role") == "tool" for message in messages)


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
