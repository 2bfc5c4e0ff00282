"""The sandbox that chat templates run in: Jinja's own, with the functions that transformers gives, and limits.

What the limits cover: attribute tricks and changes to what it is given (Jinja's sandbox), long ranges (Jinja's
`MAX_RANGE`), endless loops and recursion (a budget of steps), strings and lists that grow by doubling (operators, `~`,
`set` blocks, macros), padding to a huge width, and the length of the output.

What they don't cover: one operation that compares, hashes or prints a nested list (`==`, `tojson`, `~`), and slow
operations on strings just below the limit. Such a template would take gigabytes, or for ever; its process is ended then
(template_process.py).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

__all__ = ["MAX_RENDERED_CHARS", "MAX_STEPS", "Refusal", "bounded", "sandbox_class"]

MAX_RENDERED_CHARS = 8 << 20  # of the output, and of every string and list on the way there
MAX_STEPS = 1_000_000  # loop rounds and calls of one rendering, and one for each 1024 characters built

# Names that templates can't write, for what we put around loops and in place of `~`.
_COUNT, _JOIN = "cutset count", "cutset join"


def bounded(pieces: Iterable[str]) -> str:
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


class Refusal(Exception):
    """A template called `raise_exception`."""


def _raise_exception(message: object) -> None:
    raise Refusal(message)


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
    """About how long a format string gets; how much a list prints isn't known."""
    widths = _most(int(digits[:20]) for digits in re.findall(r"\d+", template))
    return widths + len(template) + template.count(opening) * max(map(_size, values), default=0)


def _predicted(name: str, subject: object, args: Sequence[object]) -> int:
    """About how long the result of a method of str, bytes or int, or of a filter, gets, where it can make much of
    little."""
    width = _most(args)
    if name in ("center", "ljust", "rjust", "zfill", "batch", "slice", "round", "to_bytes"):
        return width
    if name == "tojson":
        return 1024 * width
    if name == "join":
        glue = args[0] if args else ""
        items, glue = (subject, glue) if isinstance(subject, (list, tuple)) else (glue, subject)
        if isinstance(items, (str, bytes)):  # character by character; which of the two is the glue doesn't matter
            return len(items) * (1 + _size(glue)) + _size(glue)
        return sum(_size(item) + _size(glue) for item in items) if isinstance(items, (list, tuple)) else 0
    if isinstance(subject, bytes):  # a character for each byte
        subject, args = subject.decode("latin-1"), [_text_of(value) for value in args]
    return _predicted_text(name, subject, args, width) if isinstance(subject, str) else 0


def _text_of(value: object) -> object:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _predicted_text(name: str, subject: str, args: Sequence[object], width: int) -> int:
    longest = max((len(value) for value in args if isinstance(value, str)), default=0)
    if name in ("indent", "expandtabs"):
        return len(subject) + max(width, longest) * (1 + subject.count("\n") + subject.count("\t"))
    if name == "replace" and len(args) > 1:
        return len(subject) + subject.count(str(args[0])) * _size(args[1])
    if name == "translate" and args and isinstance(args[0], dict):
        return len(subject) * max(map(_size, args[0].values()), default=0)
    if name == "wordwrap":  # what stands between two lines may be given
        least = min((value for value in args if type(value) is int and value > 0), default=79)
        return len(subject) + longest * (subject.count("\n") + 1 + len(subject) // least)
    if name == "urlize":  # so may what stands in each link
        return len(subject) + longest * len(subject.split())
    if name in ("format", "format_map"):
        nested = re.search(r":[^}]*\{", subject) is not None
        return max(_formatted(subject, "%", args), _formatted(subject, "{", args), width if nested else 0)
    return 0


def _operator_size(operator: str, left: Any, right: Any) -> int:
    """About how long the result of an operator gets; 1024 for each bit of a number."""
    if isinstance(left, int) and isinstance(right, int):
        bits = abs(left).bit_length()
        if operator == "**":
            return 1024 * bits * abs(right)
        return 1024 * (bits + abs(right).bit_length()) if operator == "*" else 0
    if operator == "*" and (isinstance(left, int) or isinstance(right, int)):
        return _size(left) * _most([right]) + _size(right) * _most([left])
    left = _text_of(left)
    if operator == "%" and isinstance(left, str):
        values = right if isinstance(right, tuple) else right.values() if isinstance(right, dict) else [right]
        return max(_formatted(left, "%", values), _most(values) if "*" in left else 0)
    return _size(left) + _size(right) if operator == "+" else 0


@functools.cache
def sandbox_class() -> Callable[[], Any]:
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
            PublicNamespace._check(name)
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
            self.reset()
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

        def reset(self) -> None:
            """A new rendering begins."""
            self.steps = MAX_STEPS

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
            grows = isinstance(subject, (str, bytes, int))
            __self.spend(_predicted(name, subject, [*args, *kwargs.values()]) if grows else 0)
            result = super().call(__context, __obj, *args, **kwargs)
            __self.spend(_size(result))
            return result

        def _generate(
            self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
        ) -> str:
            return super()._generate(Counting().visit(source), name, filename, defer_init)

    return Sandbox
