"""Chat templates: messages to the one text a chat model was trained on.

A template is a Jinja program that comes with the model, so it may be hostile. It runs in Jinja's sandbox, with the
settings and functions that transformers gives it, under limits of our own (template_sandbox.py), and in a process that
is ended when it takes too long (template_process.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cutset.errors import RequestError, TokenizerError
from cutset.models.text.template_process import TemplateProcesses
from cutset.models.text.tokenizer import MAX_TEMPLATE_BYTES, Tokenizer

__all__ = ["ChatTemplate"]

_NO_TEMPLATE = (
    "this model has no chat template: use `cutset generate`, or give one in models.yaml (`chat_template: FILE`)"
)
_CONTINUES = "CUTSET_THE_ANSWER_GOES_ON_HERE "  # ends in a space so that a template that trims is noticed


class ChatTemplate:
    """A compiled chat template. Safe to use from several threads.

    `source` is all of its text, by which a family's formats are known. What it renders has its special tokens written
    out: encode it with `add_special_tokens=False`. What users write goes in as it is, so a message that spells out
    `<|im_end|>` ends its turn, as in transformers.
    """

    def __init__(
        self,
        source: str,
        /,
        *,
        tool_source: str | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        **tokens: str | None,
    ) -> None:
        """Compiles `source`; `tool_source`, where given, is for conversations with tools.

        `tokens` are further special tokens by the names that templates know them by (`unk_token`, `image_token`, …).

        Raises:
            TokenizerError: the template isn't valid Jinja, or is too large.
        """
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token, **tokens}
        for text in (source, tool_source):
            if text is not None and (not isinstance(text, str) or len(text) > MAX_TEMPLATE_BYTES):
                raise TokenizerError(f"a chat template must be a text of at most {MAX_TEMPLATE_BYTES >> 20} MiB")
        self.source = source if tool_source is None else f"{source}\n{tool_source}"
        self._templates = TemplateProcesses(source, tool_source)

    @property
    def variables(self) -> frozenset[str]:
        """The names that the template reads and doesn't set itself; any other variable would change nothing."""
        return self._templates.variables

    @property
    def special_tokens(self) -> frozenset[str]:
        """The names under which the template finds the model's special tokens."""
        return frozenset(self._tokens)

    def close(self) -> None:
        """Ends the processes that render. Can be called twice."""
        self._templates.close()

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatTemplate:
        """The template that a model came with; TokenizerError if there is none."""
        source = tokenizer.chat_template
        if source is None and tokenizer.chat_templates:
            names = ", ".join(sorted(tokenizer.chat_templates))
            raise TokenizerError(
                f"this model has several chat templates ({names}) but none called default: "
                "give one in models.yaml (`chat_template: FILE`)"
            )
        if source is None:
            raise TokenizerError(_NO_TEMPLATE)
        tool_source = tokenizer.chat_templates.get("tool_use")
        return cls(source, **{"tool_source": tool_source, **tokenizer.special_tokens})

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt for a conversation.

        A message is `{"role": str, "content": str}`; its content may also be a list of `{"type": "text", "text": str}`,
        and other keys (`tool_calls`, `name`, …) reach the template as they are, but for the arguments of calls: where
        they are JSON in a string, as OpenAI's clients send them, the template gets what the JSON says. Keys with the
        value None count as missing. `add_generation_prompt` ends the text with the beginning of the assistant's turn,
        `continue_final_message` in the middle of the last message, to be continued; without either the first is done.
        `tools` are JSON schemas. `variables` are further variables for the template, such as `enable_thinking`.

        Raises:
            RequestError: the messages are malformed, or the template can't render them or refuses them.
            TokenizerError: the template did what it may not, or went beyond a limit.
        """
        if taken := {"messages", "self"} & variables.keys():
            raise RequestError(f"a chat template variable can't be called {taken.pop()!r}")
        if continue_final_message and add_generation_prompt:
            raise RequestError("give either continue_final_message or add_generation_prompt, not both")
        if add_generation_prompt is None:
            add_generation_prompt = not continue_final_message
        plain = [self._message(index, message) for index, message in enumerate(_messages(messages))]
        continued = _mark(plain[-1]) if continue_final_message else ""
        context: dict[str, Any] = {name: token for name, token in self._tokens.items() if token is not None}
        context |= {
            "documents": None,
            **_plain(variables, "variables"),
            "messages": plain,
            "tools": None if tools is None else _tools(tools),
            "add_generation_prompt": add_generation_prompt,
        }
        text = self._templates.render(context, tools=tools is not None)
        return _cut(text, continued) if continue_final_message else text

    def _message(self, index: int, message: Mapping[str, Any]) -> dict[str, Any]:
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise RequestError(f"{where} must be an object with role and content, not {type(message).__name__}")
        plain: dict[str, Any] = {key: _plain(value, where) for key, value in message.items() if value is not None}
        if not isinstance(plain.get("role"), str):
            raise RequestError(f"{where} needs a role: a string such as 'user'")
        _parse_arguments(plain)
        content = plain.get("content")
        if isinstance(content, list):
            texts = [_text_of_part(part, f"{where}.content[{number}]") for number, part in enumerate(content)]
            # Templates that know no parts would fail, or print the list; they get the text.
            parts = [
                part if "text" in part else {"type": "text", "text": text}
                for part, text in zip(content, texts, strict=True)
            ]
            plain["content"] = parts if self._templates.takes_parts else "\n".join(texts)
        elif content is None and isinstance(plain.get("refusal"), str):
            plain["content"] = plain["refusal"]
        elif content is None and "tool_calls" not in plain and "function_call" not in plain:
            raise RequestError(f"{where} needs content: a string or a list of text parts")
        elif content is not None and not isinstance(content, str):
            raise RequestError(
                f"{where}.content must be a string or a list of text parts, not {type(content).__name__}"
            )
        # Models call it differently; transformers gives every template its own name for it.
        for name in ("reasoning_content", "thinking", "reasoning"):
            if name in plain:
                return {"thinking": plain[name], **plain, "reasoning_content": plain[name]}
        return plain


def _messages(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if not isinstance(messages, (list, tuple)):
        raise RequestError(f"messages must be a list, not {type(messages).__name__}")
    if not messages:
        raise RequestError("messages is empty: a conversation needs at least one")
    return messages


def _text_of_part(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get(kind) if isinstance(part, dict) and kind in ("text", "refusal") else None
    if not isinstance(text, str):
        raise RequestError(f'{where} must be {{"type": "text", "text": …}}: this model reads nothing but text')
    return text


def _parse_arguments(message: dict[str, Any]) -> None:
    """What a call was given, where it is JSON in a string. What isn't JSON, or is but a string, stays as it is: a model
    may have written it."""
    calls = message.get("tool_calls")
    for call in (*(calls if isinstance(calls, list) else ()), {"function": message.get("function_call")}):
        for holder in (call, call.get("function")) if isinstance(call, dict) else ():
            if not isinstance(holder, dict) or "arguments" not in holder:
                continue
            given = holder["arguments"]
            if given is None or (isinstance(given, str) and not given.strip()):
                holder["arguments"] = {}
            elif isinstance(given, str):
                found = _json(given)
                holder["arguments"] = given if isinstance(found, str) else _plain(found, "arguments")


def _json(text: str) -> Any:
    """What `text` says as JSON, or `text`."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _mark(message: dict[str, Any]) -> str:
    """Marks the end of a message, which is to be continued. Its text."""
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + _CONTINUES
        return content
    if not content:
        raise RequestError("continue_final_message needs a last message with content to continue")
    text: str = content[-1]["text"]
    content[-1]["text"] = text + _CONTINUES
    return text


def _cut(text: str, continued: str) -> str:
    """The text up to the mark. As transformers does it: a template that trims the message has trimmed its end."""
    at = text.rfind(_CONTINUES.strip())
    if at < 0 or continued.strip() not in text:
        raise RequestError("continue_final_message can't be done: the chat template changes the last message")
    return text[:at] if text.startswith(_CONTINUES, at) else text[:at].rstrip()


def _tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if not isinstance(tools, (list, tuple)) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RequestError("tools must be a list of JSON schemas")
    return [_plain(tool, "tools") for tool in tools]


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy made of JSON's types alone: methods of anything else would be open to the template."""
    if depth > 100:
        raise RequestError(f"{where}: nested too deeply")
    for kind in (bool, str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise RequestError(f"{where}: the keys of an object must be strings")
        return {str(key): _plain(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where, depth + 1) for item in value]
    if value is not None:
        raise RequestError(f"{where}: {type(value).__name__} is no JSON value")
    return None
