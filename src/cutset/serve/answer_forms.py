"""The form of an answer, as OpenAI's `response_format` and vLLM's `guided_…` and `structured_outputs` ask for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from cutset.engine.grammar import Grammar
from cutset.engine.structured_params import StructuredOutputsParams, as_grammar
from cutset.errors import RequestError
from cutset.serve.api_errors import invalid

__all__ = ["grammar_of"]

# vLLM's older fields, and what StructuredOutputsParams calls them.
GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_whitespace_pattern": "whitespace_pattern",
    "guided_decoding_backend": "backend",
}
FORMATS = {"text": {"type"}, "json_object": {"type", "schema"}, "json_schema": {"type", "json_schema"}}
SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class _Asks(Protocol):
    response_format: dict[str, Any] | None
    structured_outputs: dict[str, Any] | None


def grammar_of(request: _Asks) -> Grammar | None:
    """The grammar that a request asks for. Raises ApiError, which names the field, for what is none."""
    found = list[Grammar]()
    try:
        if request.response_format is not None and (grammar := _of_format(request.response_format)) is not None:
            found.append(grammar)
        if request.structured_outputs:
            found.append(as_grammar(request.structured_outputs))
        guided = {inner: getattr(request, name) for name, inner in GUIDED.items()}
        guided = {
            inner: value
            for inner, value in guided.items()
            if value is not None and (value not in ("", []) or inner == "whitespace_pattern")
        }
        if guided.keys() & {"json", "regex", "choice", "grammar"}:
            names = {inner: name for name, inner in GUIDED.items()}
            asked = next(name for name, inner in GUIDED.items() if inner in guided)
            found.append(StructuredOutputsParams(**guided).to_grammar(asked, names))
        elif guided:
            listed = ", ".join(name for name, inner in GUIDED.items() if inner in guided)
            raise RequestError(f"{listed} can't be used alone: say what the answer must be, or leave it out")
    except RequestError as error:
        raise invalid(str(error), re.match(r"\w*", str(error))[0] or None) from None  # type: ignore[index]
    if len(found) > 1:
        raise invalid(
            f"{found[0].asked} and {found[1].asked} ask for the form of the answer: give one of them", found[1].asked
        )
    return found[0] if found else None


def _of_format(asked: Mapping[str, Any]) -> Grammar | None:
    name, kind = "response_format", asked.get("type")
    if not isinstance(kind, str) or kind not in FORMATS:
        raise RequestError(f"{name}: the type {str(kind)[:60]!r} isn't supported: give one of {', '.join(FORMATS)}")
    for key, value in asked.items():
        if key not in FORMATS[kind] and value is not None:
            raise RequestError(f"{name}: {str(key)[:60]!r} isn't known for the type {kind}: leave it out")
    if kind == "text":
        return None
    if kind == "json_object":
        schema = asked.get("schema")
        return Grammar.json_object(asked=name) if schema is None else Grammar.json_schema(schema, asked=name)
    given = asked.get("json_schema")
    if not isinstance(given, Mapping):
        raise RequestError(f"{name}: json_schema must be an object with name and schema")
    for key, value in given.items():
        if key not in ("name", "schema", "strict", "description") and value is not None:
            raise RequestError(f"{name}: json_schema.{str(key)[:60]} isn't known: leave it out")
    named = given.get("name")
    if not isinstance(named, str) or not SCHEMA_NAME.fullmatch(named):
        raise RequestError(f"{name}: json_schema.name must be 1 to 64 letters, digits, _ or -")
    for key, kinds in (("strict", bool), ("description", str)):
        if given.get(key) is not None and not isinstance(given[key], kinds):
            raise RequestError(f"{name}: json_schema.{key} must be {'true or false' if key == 'strict' else 'a text'}")
    schema = given.get("schema")
    return Grammar.json_object(asked=name) if schema is None else Grammar.json_schema(schema, asked=name)
