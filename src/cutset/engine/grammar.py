"""What an answer must look like: a JSON schema, a regular expression, a choice, or a grammar (grammar_compiler compiles
them)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from cutset.engine.schema_bounds import check_lark, check_regex, check_schema, check_size
from cutset.engine.schema_forms import check_forms
from cutset.errors import RequestError

__all__ = ["GAPS", "Grammar"]

Kind = Literal["json", "regex", "lark"]

# Between the parts of a JSON text: a space, or a new line and up to 16 spaces. Models that are allowed any whitespace
# may write nothing else until the answer is cut off.
GAPS = r"[ ]|\n[ ]{0,16}"
MOST_CHOICES = 1000
MOST_GBNF = 6000  # characters; it is rewritten in a time that grows with their square
ANY = "a JSON schema (an object, true or false), or its text"


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar that has been checked for its size, and not yet compiled: a value, the same for all models.

        SamplingParams(structured_outputs=Grammar.json_schema({"type": "array", "items": {"type": "integer"}}))

    Its makers raise RequestError for what is too large or too deep to be compiled, or is none at all. What can't be
    kept (a keyword that isn't supported) is found when it is compiled.
    """

    kind: Kind
    text: str  # of a schema: JSON
    gaps: str | None = GAPS  # of a schema: a regular expression for whitespace between its parts; None: there is none
    asked: str = field(default="structured_outputs", compare=False)  # the parameter that errors name

    @classmethod
    def json_schema(
        cls, schema: Mapping[str, Any] | bool | str, *, gaps: str | None = GAPS, asked: str = "structured_outputs"
    ) -> Grammar:
        """JSON texts that a schema holds for. Properties come in the schema's order, and no key comes twice."""
        text = schema if isinstance(schema, str) else _json(asked, schema)
        check_size(f"{asked}: the schema", text)
        if isinstance(schema, str):
            schema = _parsed(asked, text)
        if not isinstance(schema, Mapping | bool):
            raise RequestError(f"{asked} can't be used: give {ANY}.")
        if schema is False:
            raise RequestError(f"{asked}: the schema is false: no text is like that")
        text = "{}" if schema is True else text  # its compiler wants objects
        check_schema(f"{asked}: the schema", schema)
        check_forms(f"{asked}: the schema", schema)
        if isinstance(schema, Mapping) and "x-guidance" in schema:
            raise RequestError(f"{asked}: the schema's keyword `x-guidance` isn't supported: leave it out")
        if gaps is not None:
            check_size(f"{asked}: the pattern for whitespace", gaps)
            check_regex(f"{asked}: the pattern for whitespace", gaps)
        return cls("json", text, gaps, asked)

    @classmethod
    def json_object(cls, *, gaps: str | None = GAPS, asked: str = "structured_outputs") -> Grammar:
        """Any JSON object."""
        return cls.json_schema({"type": "object"}, gaps=gaps, asked=asked)

    @classmethod
    def regex(cls, pattern: str, *, asked: str = "structured_outputs") -> Grammar:
        """Texts that a regular expression matches from end to end: Rust's, without look-around and back references."""
        _checked(asked, "a regular expression", pattern)
        check_regex(f"{asked}:", pattern)
        return cls("regex", pattern, None, asked)

    @classmethod
    def choice(cls, choices: Sequence[str], *, asked: str = "structured_outputs") -> Grammar:
        """One of several texts."""
        listed = isinstance(choices, list | tuple) and all(isinstance(one, str) for one in choices)
        if not listed or not 1 <= len(choices) <= MOST_CHOICES:
            raise RequestError(f"{asked} can't be used: give a list of 1 to {MOST_CHOICES} texts to choose from.")
        text = "start: " + " | ".join(_json(asked, one) for one in dict.fromkeys(choices))
        check_size(f"{asked}: the choice", text)
        return cls("lark", text, None, asked)

    @classmethod
    def lark(cls, text: str, *, asked: str = "structured_outputs") -> Grammar:
        """A context-free grammar in Lark's form, as llguidance reads it (`%json {…}` embeds a schema, `<|name|>` is a
        special token), or in llama.cpp's (GBNF)."""
        _checked(asked, "a grammar", text)
        check_lark(f"{asked}: the grammar", text)
        if "::=" in text and len(text) > MOST_GBNF:
            raise RequestError(
                f"{asked}: the grammar has {len(text)} characters; at most {MOST_GBNF} are read of llama.cpp's form: "
                "write it in Lark's"
            )
        return cls("lark", text, None, asked)


def _checked(asked: str, what: str, text: Any) -> None:
    if not isinstance(text, str) or not text:
        raise RequestError(f"{asked} can't be used: give {what} as a text.")
    check_size(f"{asked}: {what}", text)
    _encodable(asked, text)


def _encodable(asked: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(f"{asked} can't be used: it has half of a surrogate pair, which is no Unicode.") from None


def _json(asked: str, value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except RecursionError:
        raise RequestError(f"{asked}: the schema is nested too deeply: make it flatter") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(f"{asked} can't be used: give {ANY} ({str(error)[:100]}).") from None


def _parsed(asked: str, text: str) -> Any:
    _encodable(asked, text)
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise RequestError(f"{asked}: the schema is nested too deeply: make it flatter") from None
    except ValueError as error:
        raise RequestError(f"{asked} can't be used: the schema isn't valid JSON: {str(error)[:100]}.") from None
