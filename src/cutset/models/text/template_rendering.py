"""Compiles a chat template and renders it within the sandbox's limits, in whatever process this runs in.

`template_process.py` runs it in a process that can be given up: some operations on what a template builds are one call
into the interpreter, which nothing inside can end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cutset.errors import RequestError, TokenizerError
from cutset.models.text import template_sandbox
from cutset.models.text.template_sandbox import Refusal, bounded, sandbox_class

if TYPE_CHECKING:
    import jinja2

__all__ = ["Rendering"]


class Rendering:
    """A compiled template. Not safe to use from several threads: the environment counts the steps of one rendering.

    `takes_parts`: it mentions the parts of a message's content. `variables`: what it reads that it doesn't set itself.
    """

    def __init__(self, source: str, tool_source: str | None = None) -> None:
        """`tool_source`, where given, is for conversations with tools. TokenizerError for what isn't valid Jinja."""
        self._environment = sandbox_class()()
        self._template = self._compile(source)
        self._tool_template = None if tool_source is None else self._compile(tool_source)
        self.takes_parts, self.variables = False, frozenset[str]()
        for text in (source, tool_source):
            if text is not None:
                self._look_at(text)

    def render(self, context: Mapping[str, Any], *, tools: bool) -> str:
        """The text for these variables. RequestError where the template can't render them or refuses them,
        TokenizerError where it did what it may not, or went beyond a limit."""
        from jinja2.exceptions import SecurityError

        template = self._tool_template if tools and self._tool_template is not None else self._template
        try:
            self._environment.reset()
            return bounded(template.generate(dict(context)))
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

    def _look_at(self, source: str) -> None:
        from jinja2 import meta, nodes

        tree = self._environment.parse(source)
        mentioned = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
        mentioned |= {node.attr for node in tree.find_all(nodes.Getattr)}
        self.takes_parts = self.takes_parts or "text" in mentioned
        self.variables |= meta.find_undeclared_variables(tree)


def limits() -> tuple[int, int]:
    """The sandbox's limits as they are now: steps, and characters."""
    return template_sandbox.MAX_STEPS, template_sandbox.MAX_RENDERED_CHARS


def set_limits(steps: int, characters: int) -> None:
    """For all renderings of this process."""
    template_sandbox.MAX_STEPS, template_sandbox.MAX_RENDERED_CHARS = steps, characters


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
