"""Chat templates: messages to the one text a chat model was trained on.

A template is a Jinja program that comes with the model, so it may be hostile. It runs in Jinja's sandbox, with the
settings and functions that transformers gives it, and under limits of our own.

What the limits cover: attribute tricks and changes to what it is given (Jinja's sandbox), long ranges (Jinja's
`MAX_RANGE`), endless loops and recursion (a budget of steps), strings and lists that grow by doubling (operators, `~`,
`set` blocks, macros), padding to a huge width, and the length of the output.

What they don't cover: one operation that prints a nested list with a long string in many places (`tojson`, `~`), and
slow operations on strings just below the limit. Such a template can take gigabytes or minutes. Models of people you
trust that little need a process with a memory limit.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cutset.errors import RequestError, TokenizerError
from cutset.models.tokenizer import MAX_TEMPLATE_BYTES, Tokenizer

if TYPE_CHECKING:
    import jinja2

__all__ = ["MAX_RENDERED_CHARS", "MAX_STEPS", "ChatTemplate"]

MAX_RENDERED_CHARS = 8 << 20  # of the output, and of every string and list on the way there
MAX_STEPS = 1_000_000  # loop rounds and calls of one rendering, and one for each 1024 characters built

_NO_TEMPLATE = (
    "this model has no chat template: use `cutset generate`, or give one in models.yaml (`chat_template: FILE`)"
)
# Names that templates can't write, for what we put around loops and in place of `~`.
_COUNT, _JOIN = "cutset count", "cutset join"


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
        self._environment = _sandbox_class()()
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
                self._environment.steps = MAX_STEPS
                return _bounded(template.generate(context))
        except _Refusal as error:
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


def _bounded(pieces: Iterable[str]) -> str:
    """The pieces put together, given up as soon as they are too long."""
    kept: list[str] = []
    room = MAX_RENDERED_CHARS
    for piece in pieces:
        room -= len(piece)
        if room < 0:
            _too_long()
        kept.append(piece)
    return "".join(kept)


def _too_long() -> None:
    from jinja2.exceptions import SecurityError

    raise SecurityError(f"it builds more than {MAX_RENDERED_CHARS} characters")


def _keys(environment: jinja2.Environment, source: str) -> set[object]:
    """The attributes, keys and other constants that a template mentions."""
    from jinja2 import nodes

    tree = environment.parse(source)
    found = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    return found | {node.attr for node in tree.find_all(nodes.Getattr)}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


class _Refusal(Exception):
    """A template called `raise_exception`."""


def _raise_exception(message: object) -> None:
    raise _Refusal(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Dict:
    """`dict` for templates, without the type's attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


def _size(value: object) -> int:
    return len(value) if isinstance(value, (str, bytes, list, tuple, dict)) else 1


def _most(values: Iterable[object]) -> int:
    """The largest integer among the values, or 0."""
    return max((value for value in values if isinstance(value, int)), default=0)


def _formatted(template: str, opening: str, values: Iterable[object]) -> int:
    """At most how long a format string gets, if it says nothing about the lists it prints."""
    widths = _most(int(digits[:20]) for digits in re.findall(r"\d+", template))
    return widths + len(template) + template.count(opening) * max(map(_size, values), default=0)


def _predicted(name: str, subject: object, args: Sequence[object]) -> int:
    """At most how long the result of a str method or filter gets, for those that can make much of little."""
    width = _most(args)
    if name in ("center", "ljust", "rjust", "zfill", "batch", "slice", "round"):
        return width
    if name == "tojson":
        return 1024 * width
    if name == "join":
        glue = args[0] if args else ""
        items, glue = (subject, glue) if isinstance(subject, (list, tuple)) else (glue, subject)
        return sum(_size(item) + _size(glue) for item in items) if isinstance(items, (list, tuple)) else 0
    if not isinstance(subject, str):
        return 0
    if name in ("indent", "expandtabs"):
        return len(subject) + width * (1 + subject.count("\n") + subject.count("\t"))
    if name == "replace" and len(args) > 1:
        return len(subject) + subject.count(str(args[0])) * _size(args[1])
    if name in ("format", "format_map"):
        nested = re.search(r":[^}]*\{", subject) is not None
        return max(_formatted(subject, "%", args), _formatted(subject, "{", args), width if nested else 0)
    return 0


def _operator_size(operator: str, left: Any, right: Any) -> int:
    """At most how long the result of an operator gets; 1024 for each bit of a number."""
    if isinstance(left, int) and isinstance(right, int):
        bits = abs(left).bit_length()
        if operator == "**":
            return 1024 * bits * abs(right)
        return 1024 * (bits + abs(right).bit_length()) if operator == "*" else 0
    if operator == "*" and (isinstance(left, int) or isinstance(right, int)):
        return _size(left) * _most([right]) + _size(right) * _most([left])
    if operator == "%" and isinstance(left, str):
        values = right if isinstance(right, tuple) else right.values() if isinstance(right, dict) else [right]
        return max(_formatted(left, "%", values), _most(values) if "*" in left else 0)
    return _size(left) + _size(right) if operator == "+" else 0


@functools.cache
def _sandbox_class() -> Callable[[], Any]:
    """The environment that templates run in. A function because Jinja takes 30 ms to import."""
    import jinja2
    import jinja2.ext
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.parser import Parser
    from jinja2.runtime import Context, Macro
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace
    from jinja2.visitor import NodeTransformer

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks what the assistant said, for training. Here it's the block and nothing more."""

        tags: set[str] = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

        def _render(self, caller: Macro) -> str:
            return str(caller())

    class PublicNamespace(Namespace):
        """`namespace` that stores no names with underscores, as in transformers."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            for name in dict(*args[1:], **kwargs):
                PublicNamespace._check(name)
            Namespace.__init__(*args, **kwargs)

        def __setitem__(self, name: str, value: Any) -> None:
            self._check(name)
            super().__setitem__(name, value)

        @staticmethod
        def _check(name: object) -> None:
            if str(name).startswith("_"):
                raise SecurityError(f"a namespace can't hold {name!r}")

    class Counting(NodeTransformer):
        """Sends every loop and every `~` through a filter of ours."""

        def visit_For(self, node: nodes.For) -> nodes.Node:
            self.generic_visit(node)
            node.iter = self._filter(_COUNT, node.iter, [])
            return node

        def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
            self.generic_visit(node)
            return self._filter(_JOIN, node.nodes[0], node.nodes[1:])

        def _filter(self, name: str, subject: nodes.Node, args: list[nodes.Expr]) -> nodes.Filter:
            made = nodes.Filter(subject, name, args, [], None, None, lineno=subject.lineno)
            made.environment = subject.environment
            return made

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"+", "*", "**", "%"})

        def __init__(self) -> None:
            super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
            self.steps = MAX_STEPS
            self.globals |= {
                "dict": _Dict(),
                "namespace": PublicNamespace,
                "raise_exception": _raise_exception,
                "strftime_now": _strftime_now,
            }
            del self.globals["lipsum"]  # random text of any length
            self.filters["tojson"] = _to_json
            self.filters = {name: self._limited(name, filter) for name, filter in self.filters.items()}
            self.filters[_COUNT] = self._counted
            self.filters[_JOIN] = lambda *values: self.concat(map(str, values))

        def spend(self, size: int) -> None:
            """Pays for something of `size` characters or elements."""
            if size > MAX_RENDERED_CHARS:
                _too_long()
            self.steps -= 1 + size // 1024
            if self.steps < 0:
                raise SecurityError(f"it takes more than {MAX_STEPS} steps")

        def concat(self, pieces: Iterable[str]) -> str:
            """Puts together what macros and `set` blocks wrote."""
            kept = list(pieces)
            self.spend(sum(map(len, kept)))
            return "".join(kept)

        @jinja2.pass_context
        def _counted(self, _context: Context, values: Iterable[Any]) -> Iterator[Any]:
            for value in values:
                self.spend(0)
                yield value

        def _limited(self, name: str, filter: Callable[..., Any]) -> Callable[..., Any]:
            first = int(hasattr(filter, "jinja_pass_arg"))  # such filters get the context or the like first

            @functools.wraps(filter)
            def limited(*args: Any, **kwargs: Any) -> Any:
                if len(args) > first:
                    self.spend(_predicted(name, args[first], [*args[first + 1 :], *kwargs.values()]))
                result = filter(*args, **kwargs)
                self.spend(_size(result))
                return result

            return limited

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
            self.spend(_operator_size(operator, left, right))
            result = super().call_binop(context, operator, left, right)
            self.spend(_size(result))
            return result

        def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
            subject = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # Jinja wraps str.format
            name = getattr(__obj, "__name__", "")
            __self.spend(_predicted(name, subject, [*args, *kwargs.values()]) if isinstance(subject, str) else 0)
            result = super().call(__context, __obj, *args, **kwargs)
            __self.spend(_size(result))
            return result

        def _generate(
            self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
        ) -> str:
            return super()._generate(Counting().visit(source), name, filename, defer_init)

    return Sandbox
