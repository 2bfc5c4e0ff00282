"""Items of a response's input, as messages of a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cutset.serve.api_errors import invalid

__all__ = ["conversation"]

ROLES = ("user", "assistant", "system", "developer")
TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


def conversation(items: Sequence[Any], earlier: int = 0) -> list[dict[str, Any]]:
    """The messages that items come to: reasoning and calls join the message of the assistant's that they belong to.
    The first `earlier` were checked before. Raises ApiError for what can't be used."""
    messages: list[dict[str, Any]] = []
    reasoning: list[str] = []  # of the assistant's next message
    names: dict[str, str] = {}  # of the functions that calls by their ids have called
    for index, item in enumerate(items, -earlier):
        where = f"input[{index}]"
        if not isinstance(item, dict):
            raise invalid(f"{where} must be an object, not {type(item).__name__}", where)
        kind = item.get("type", "message")
        if kind == "message":
            message = _message(item, where)
        elif kind == "function_call":
            call = _call(item, where)
            names[call["id"]] = call["function"]["name"]
            last = messages[-1] if messages else {}
            if last.get("role") == "assistant" and not reasoning:
                last.setdefault("tool_calls", []).append(call)
                continue
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        elif kind == "function_call_output":
            call_id = _named(item, "call_id", where)
            message = {"role": "tool", "tool_call_id": call_id, "content": _text(item.get("output"), f"{where}.output")}
            if call_id in names:
                message["name"] = names[call_id]
        elif kind == "reasoning":
            parts = item.get("content") or item.get("summary") or []
            reasoning.append(_text(parts, f"{where}.content"))
            continue
        else:
            raise invalid(f"{where}.type {str(kind)[:40]!r} isn't supported by this server", f"{where}.type")
        if message["role"] == "assistant":
            if text := "\n".join(one for one in reasoning if one):
                message["reasoning_content"] = text
            reasoning = []
        messages.append(message)
    return messages


def _message(item: dict[str, Any], where: str) -> dict[str, Any]:
    role = item.get("role")
    if role not in ROLES:
        raise invalid(f"{where}.role must be {', '.join(ROLES)}, not {str(role)[:40]!r}", f"{where}.role")
    return {"role": role, "content": _text(item.get("content"), f"{where}.content")}


def _call(item: dict[str, Any], where: str) -> dict[str, Any]:
    arguments = item.get("arguments")
    if not isinstance(arguments, str):
        raise invalid(f"{where}.arguments must be JSON in a text", f"{where}.arguments")
    function = {"name": _named(item, "name", where), "arguments": arguments}
    return {"id": _named(item, "call_id", where), "type": "function", "function": function}


def _named(item: dict[str, Any], name: str, where: str) -> str:
    found = item.get(name)
    if not isinstance(found, str) or not found:
        raise invalid(f"{where}.{name} must be a text", f"{where}.{name}")
    return found


def _text(content: Any, where: str) -> str:
    """A text, or parts that are texts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(f"{where} must be a text or a list of texts", where)
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, dict) else None
        if (kind not in TEXTS and kind != "refusal") or not isinstance(text, str):
            shown = repr(kind[:40]) if isinstance(kind, str) else "none"
            raise invalid(f"{where}[{index}] is no text (its type is {shown}): this model reads nothing else", where)
        texts.append(text)
    return "\n".join(texts)
