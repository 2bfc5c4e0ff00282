"""Chat templates: messages to the one text a chat model was trained on.

A template is a Jinja program that comes with the model, so it may be hostile. It runs in Jinja's sandbox, with the
settings and functions that transformers gives it, and under limits of our own (template_sandbox.py).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cutset.errors import RequestError, TokenizerError
from cutset.models.template_sandbox import Refusal, bounded, sandbox_class
from cutset.models.tokenizer import MAX_TEMPLATE_BYTES, Tokenizer

if TYPE_CHECKING:
    import jinja2

__all__ = ["ChatTemplate"]

_NO_TEMPLATE = (
    "this model has no chat template: use `cutset generate`, or give one in models.yaml (`chat_template: FILE`)"
)


class ChatTemplate:
    """A compiled chat template. Safe to use from several threads.

    The text it renders has its special tokens written out: encode it with `add_special_tokens=False`. What users
    write goes in as it is, so a message that spells out `<|im_end|>` ends its turn, as in transformers.
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
        self._environment = sandbox_class()()
        self._template = self._compile(source)
        self._tool_template = None if tool_source is None else self._compile(tool_source)
        self._takes_parts = any("text" in _keys(self._environment, text) for text in (source, tool_source) if text)
        self._lock = threading.Lock()  # the environment counts the steps of one rendering at a time

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
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt for a conversation.

        A message is `{"role": str, "content": str}`; its content may also be a list of `{"type": "text", "text": str}`,
        and other keys (`tool_calls`, `name`, …) reach the template as they are. Keys with the value None count as
        missing. `add_generation_prompt` ends the text with the beginning of the assistant's turn. `tools` are JSON
        schemas. `variables` are further variables for the template, such as `enable_thinking`.

        Raises:
            RequestError: the messages are malformed, or the template can't render them or refuses them.
            TokenizerError: the template did what it may not, or went beyond a limit.
        """
        from jinja2.exceptions import SecurityError

        if taken := {"messages", "self"} & variables.keys():
            raise RequestError(f"a chat template variable can't be called {taken.pop()!r}")
        context: dict[str, Any] = {name: token for name, token in self._tokens.items() if token is not None}
        context |= {
            "documents": None,
            **_plain(variables, "variables"),
            "messages": [self._message(index, message) for index, message in enumerate(_messages(messages))],
            "tools": None if tools is None else _tools(tools),
            "add_generation_prompt": add_generation_prompt,
        }
        template = self._tool_template if tools is not None and self._tool_template is not None else self._template
        try:
            with self._lock:
                self._environment.reset()
                return bounded(template.generate(context))
        except Refusal as error:
            raise RequestError(f"the chat template refuses this conversation: {_one_line(error)}") from error
        except SecurityError as error:
            raise TokenizerError(f"the chat template isn't safe to run: {_one_line(error)}") from error
        except (RecursionError, MemoryError, OverflowError) as error:  # the last from a long range
            name = type(error).__name__
            raise TokenizerError(f"the chat template isn't safe to run: {name}: {_one_line(error)}") from error
        except Exception as error:
            raise RequestError(
                f"the chat template can't render this conversation: {type(error).__name__}: {_one_line(error)}"
            ) from error

    def _compile(self, source: str) -> jinja2.Template:
        from jinja2.exceptions import TemplateSyntaxError

        if not isinstance(source, str) or len(source) > MAX_TEMPLATE_BYTES:
            raise TokenizerError(f"a chat template must be a text of at most {MAX_TEMPLATE_BYTES >> 20} MiB")
        try:
            template: jinja2.Template = self._environment.from_string(source)
        except TemplateSyntaxError as error:
            raise TokenizerError(
                f"the chat template has an error in line {error.lineno}: {_one_line(error)}"
            ) from error
        except Exception as error:  # what Python's own compiler says to code that Jinja made, for one
            raise TokenizerError(
                f"the chat template can't be compiled: {type(error).__name__}: {_one_line(error)}"
            ) from error
        return template

    def _message(self, index: int, message: Mapping[str, Any]) -> dict[str, Any]:
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise RequestError(f"{where} must be an object with role and content, not {type(message).__name__}")
        plain: dict[str, Any] = {key: _plain(value, where) for key, value in message.items() if value is not None}
        if not isinstance(plain.get("role"), str):
            raise RequestError(f"{where} needs a role: a string such as 'user'")
        content = plain.get("content")
        if isinstance(content, list):
            texts = [_text_of_part(part, f"{where}.content[{number}]") for number, part in enumerate(content)]
            # Templates that know no parts would fail, or print the list; they get the text.
            plain["content"] = content if self._takes_parts else "\n".join(texts)
        elif content is None and "tool_calls" not in plain:
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
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise RequestError(f'{where} must be {{"type": "text", "text": …}}: this model reads nothing but text')
    text: str = part["text"]
    return text


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


def _keys(environment: jinja2.Environment, source: str) -> set[object]:
    """The attributes, keys and other constants that a template mentions."""
    from jinja2 import nodes

    tree = environment.parse(source)
    found = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    return found | {node.attr for node in tree.find_all(nodes.Getattr)}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
