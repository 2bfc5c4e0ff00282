"""Tools for models whose chat template knows none: told in words, called and answered as Hermes's models do it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["in_words"]

INTRODUCTION = """You can call these functions, whose parameters are JSON schemas:
<tools>
{tools}
</tools>
To call a function, write its name and its arguments as JSON between <tool_call> and </tool_call>:
<tool_call>
{{"name": "NAME", "arguments": {{"PARAMETER": "VALUE"}}}}
</tool_call>
Its result comes between <tool_response> and </tool_response>."""


def in_words(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None, *, system: bool
) -> list[dict[str, Any]]:
    """A conversation without tools, for templates that take texts alone. `system`: the tools are told in a message of
    the system's; otherwise, for templates that refuse one, in the first message of the user's."""
    found = [_plain(message) for message in messages]
    if tools:
        listed = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
        _tell(found, INTRODUCTION.format(tools=listed), system=system)
    return _joined(found)


def _tell(messages: list[dict[str, Any]], text: str, *, system: bool) -> None:
    if system:
        if messages and messages[0].get("role") == "system":
            messages[0]["content"] = f"{_text(messages[0].get('content'))}\n\n{text}"
        else:
            messages.insert(0, {"role": "system", "content": text})
        return
    before = ""
    if messages and messages[0].get("role") == "system":
        before = f"{_text(messages.pop(0).get('content'))}\n\n"
    for message in messages:
        if message.get("role") == "user":
            message["content"] = f"{before}{text}\n\n{_text(message.get('content'))}"
            return
    messages.insert(0, {"role": "user", "content": before + text})


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with its calls, or the result of one, written into its text."""
    plain = dict(message)
    calls = plain.pop("tool_calls", None)
    plain.pop("tool_call_id", None)
    if isinstance(calls, list) and calls:
        text = _text(plain.get("content"))
        plain["content"] = "\n".join([*([text] if text else []), *map(_call, calls)])
    if plain.get("role") == "tool":
        return {"role": "user", "content": f"<tool_response>\n{_text(plain.get('content'))}\n</tool_response>"}
    return plain


def _call(call: Any) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError, RecursionError):  # a model may have written it: then it stays a text
            arguments = json.loads(arguments) if arguments.strip() else {}
    written = {"name": function.get("name"), "arguments": {} if arguments is None else arguments}
    return f"<tool_call>\n{json.dumps(written, ensure_ascii=False)}\n</tool_call>"


def _joined(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results of several calls as one message: many templates want user and assistant to take turns."""
    joined: list[dict[str, Any]] = []
    results: list[str] = []  # of the last message, as far as they have come
    for message in messages:
        if message.get("role") == "user" and str(message.get("content")).startswith("<tool_response>"):
            results.append(message["content"])
            if len(results) > 1:
                continue
        else:
            _write(results, joined)
        joined.append(message)
    _write(results, joined)
    return joined


def _write(results: list[str], joined: list[dict[str, Any]]) -> None:
    """Once for all of them: to add one after the other would take a time that grows with their square."""
    if results:
        joined[-1]["content"] = "\n".join(results)
        results.clear()


def _text(content: Any) -> str:
    """The text of a message, which may come in parts; what is none is left to the template's own check."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
