"""What vLLM's clients ask of an answer's form, by its names, and the grammar that this is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cutset.engine.grammar import GAPS, Grammar
from cutset.errors import RequestError

__all__ = ["GuidedDecodingParams", "StructuredOutputsParams", "as_grammar"]

KINDS = ("json", "regex", "choice", "grammar", "json_object")
BACKENDS = (None, "auto", "guidance", "llguidance")


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputsParams:
    """One of `json` (a schema), `regex`, `choice`, `grammar` (Lark or GBNF) or `json_object`. Names are vLLM's.

    JSON comes with a space or a new line and an indentation between its parts; `whitespace_pattern` is another regular
    expression for that, `disable_any_whitespace` leaves all of it out. As `SamplingParams(structured_outputs=…)` it
    becomes a Grammar; what can't be one raises RequestError there.
    """

    json: str | Mapping[str, Any] | bool | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool = False
    disable_fallback: bool = False  # there is none
    disable_additional_properties: bool = False  # refused: the schema says it
    structural_tag: str | None = None  # refused
    backend: str | None = None  # there is one

    def to_grammar(self, asked: str = "structured_outputs", names: Mapping[str, str] | None = None) -> Grammar:
        """The grammar. `asked` is the parameter that errors name, or `names` has one for each of these.

        Raises RequestError for none, for several, and for what isn't done.
        """
        names = names or {}
        given = [
            kind for kind in KINDS if getattr(self, kind) not in (None, *(() if kind != "json_object" else (False,)))
        ]
        if len(given) != 1:
            wanted = ", ".join(names.get(kind, kind) for kind in (given or KINDS))
            raise RequestError(f"{asked} can't be used: give one of {wanted}, not {len(given) or 'none'}.")
        for name, nothing in (("structural_tag", None), ("disable_additional_properties", False)):
            if getattr(self, name) not in (None, nothing):
                raise RequestError(f"{names.get(name, asked)}: {name} isn't supported: leave it out")
        if self.backend not in BACKENDS:
            named = names.get("backend", asked)
            raise RequestError(
                f"{named}: the backend {str(self.backend)[:60]!r} isn't there: leave it out, or say guidance"
            )
        [kind] = given
        asked = names.get(kind, asked)
        gaps = (
            None
            if self.disable_any_whitespace
            else GAPS
            if self.whitespace_pattern is None
            else self.whitespace_pattern
        )
        if gaps is not None and not isinstance(gaps, str):
            raise RequestError(f"{names.get('whitespace_pattern', asked)}: whitespace_pattern must be a text")
        if self.json is not None:
            return Grammar.json_schema(self.json, gaps=gaps, asked=asked)
        if self.regex is not None:
            return Grammar.regex(self.regex, asked=asked)
        if self.choice is not None:
            return Grammar.choice(self.choice, asked=asked)
        if self.grammar is not None:
            return Grammar.lark(self.grammar, asked=asked)
        return Grammar.json_object(gaps=gaps, asked=asked)


GuidedDecodingParams = StructuredOutputsParams  # vLLM's older name


def as_grammar(value: Any, asked: str = "structured_outputs") -> Grammar:
    """The grammar of a Grammar, of StructuredOutputsParams, or of a mapping with their names. Raises RequestError."""
    if isinstance(value, Grammar):
        return value
    if isinstance(value, Mapping):
        known = StructuredOutputsParams.__dataclass_fields__
        for name in value:
            if name not in known:
                raise RequestError(f"{asked}: there is no {str(name)[:60]!r}; give one of {', '.join(KINDS)}")
        value = StructuredOutputsParams(**value)
    if not isinstance(value, StructuredOutputsParams):
        raise RequestError(f"{asked} can't be used: give StructuredOutputsParams, or a Grammar.")
    return value.to_grammar(asked)
