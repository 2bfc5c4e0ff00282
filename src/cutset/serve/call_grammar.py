"""The grammar of an answer whose calls are kept to: text, calls in the family's format, reasoning before them.

Lark as llguidance reads it. Text before a mark is a lazy lexeme that ends with the mark: a greedy one would go past it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cutset.engine.grammar import GAPS, Grammar
from cutset.engine.schema_numbers import with_short_numbers
from cutset.models.calls.call_parser import CallShape
from cutset.models.calls.thinking import ReasoningMarks
from cutset.serve.tool_fields import OfferedTool

__all__ = ["AnswerGrammar", "arguments_of"]

ANY = "(?s:.*)"
BETWEEN_SLASHES = re.compile(r"\\?[/\n]|\\.")  # what has to be written otherwise there, and escapes, which stay whole
QUOTED = re.compile(r"[.^$*+?()\[\]{}|\\/&~#-]")


class AnswerGrammar:
    """Puts a grammar together, rule by rule; each method gives the name of its rule.

    `special`: ids of special tokens by their texts, which no text in a grammar matches. `most`: calls of an answer.
    """

    def __init__(self, special: Mapping[str, int], *, most: int) -> None:
        self._special, self._most = special, most
        self._rules: list[str] = []
        marks = sorted(special, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, marks)) + ")") if marks else None

    def calls(self, shape: CallShape, tools: Sequence[OfferedTool], *, loose: bool) -> str:
        """One call or several, but for the mark before the first. `loose`: arguments of tools that aren't strict are
        any objects."""
        before, middle, after = shape.call
        first, further = [], []
        for index, tool in enumerate(tools):
            self._rules.append(f"call_{index}: {self.json(arguments_of(tool, loose=loose))} {self._text(after)}")
            # In one lexeme with what stands before: where calls have no mark, text could go on behind half of it.
            first.append(f"{self._text(shape.first + before + tool.name + middle)} call_{index}")
            further.append(f"{self._text(before + tool.name + middle)} call_{index}")
        self._rules.append(f"first_call: {' | '.join(first)}")
        between, last = self._text(shape.between), self._text(shape.last)
        if shape.each:
            more = f"{between} {self._text(shape.opens)} first_call {last}"
        else:
            self._rules.append(f"further_call: {' | '.join(further)}")
            more = f"{between} further_call"
        again = "" if self._most == 1 else f"({more}){{0,{self._most - 1}}}"
        self._rules.append("calls: first_call " + (f"{last} {again}" if shape.each else f"{again} {last}"))
        return "calls"

    def must_call(self, shape: CallShape) -> str:
        """Calls and nothing else."""
        self._rules.append(f"must_call: {self._text(shape.opens)} calls")
        return "must_call"

    def may_call(self, shape: CallShape, tools: Sequence[OfferedTool], content: Grammar | None) -> str:
        """Text, calls, or both; or, with `content`, calls or that."""
        opens = self._text(shape.opens)
        if content is not None:
            self._rules.append(f"may_call: {opens} calls | {self.asked_for(content)}")
        elif not shape.opens:
            self._rules.append("may_call: calls | OTHER_TEXT")
            self._rules.append(f"OTHER_TEXT: /{ANY}/ & ~/{_start(shape, tools)}{ANY}/")
        elif shape.opens in self._special:
            self._rules.append(f"may_call: ANY_TEXT? ({opens} calls ANY_TEXT?)?\nANY_TEXT: /(?s:.+)/")
        else:
            mark = _quoted(shape.opens)
            self._rules.append("may_call: up_to_call calls OTHER_TEXT | OTHER_TEXT")
            self._rules.append(f"up_to_call[lazy]: /{ANY}{mark}/\nOTHER_TEXT: /{ANY}/ & ~/{ANY}{mark}{ANY}/")
        return "may_call"

    def asked_for(self, grammar: Grammar) -> str:
        """What a request asks for itself."""
        if grammar.kind == "json":
            written = self.json(json.loads(grammar.text), grammar.gaps)
        elif grammar.kind == "regex":
            written = f"/{BETWEEN_SLASHES.sub(_slashed, grammar.text)}/"
        else:
            written = f"%lark {{\n{grammar.text}\n}}"
        self._rules.append(f"asked_for: {written}")
        return "asked_for"

    def after_reasoning(self, rule: str, marks: ReasoningMarks, *, begun: bool) -> str:
        """The same after reasoning: that which the prompt has begun, or that the answer may begin with."""
        if marks.closes in self._special:
            self._rules.append(f"reasoning: REASONS? {self._text(marks.closes)} SPACE?\nREASONS: /(?s:.+)/")
        else:
            self._rules.append(f"reasoning: reasons SPACE?\nreasons[lazy]: /{ANY}{_quoted(marks.closes)}/")
        self._rules.append(r"SPACE: /[ \t\r\n]{1,4}/")
        before = "reasoning" if begun else f"({self._text(marks.opens)} reasoning)?"
        self._rules.append(f"answer: {before} {rule}")
        return "answer"

    def harmony(self, tools: Sequence[OfferedTool], content: Grammar | None, *, must: bool, loose: bool) -> str:
        """gpt-oss's messages: analysis, then a call or the answer."""
        channel, message = self._text("<|channel|>"), self._text("<|message|>")
        again = f'ANY_TEXT? {self._text("<|end|>")} {self._text("<|start|>")} "assistant"'
        self._rules.append("ANY_TEXT: /(?s:.+)/")
        self._rules.append(f'thought: {channel} "analysis" {message} {again}')
        self._rules.append(f'preamble: {channel} "commentary" {message} {again}')
        ends = []
        for index, tool in enumerate(tools):
            header = f'{self._text(f"commentary to=functions.{tool.name} ")} {self._text("<|constrain|>")} "json"'
            written = self.json(arguments_of(tool, loose=loose))
            self._rules.append(f"call_{index}: {channel} {header} {message} {written}")
            ends.append(f"call_{index}")
        if not must:
            asked = "ANY_TEXT?" if content is None else self.asked_for(content)
            self._rules.append(f'final: {channel} "final" {message} {asked}')
            ends.append("final")
        self._rules.append(f"messages: thought? {'preamble? ' if tools else ''}({' | '.join(ends)})")
        return "messages"

    def whole(self, rule: str, asked: str) -> Grammar:
        """The grammar. `asked`: the parameter that errors name. Raises RequestError for one that is too large."""
        return Grammar.lark("\n".join([f"start: {rule}", *self._rules]), asked=asked)

    def json(self, schema: Any, gaps: str | None = GAPS) -> str:
        """JSON that a schema holds for."""
        schema = with_short_numbers(schema)
        if isinstance(schema, bool):
            schema = {} if schema else {"not": {}}
        guidance: dict[str, Any] = {"whitespace_flexible": gaps is not None, "lenient": False}
        if gaps is not None:
            guidance["whitespace_pattern"] = gaps
        return "%json " + json.dumps({**schema, "x-guidance": guidance}, ensure_ascii=False)

    def _text(self, text: str) -> str:
        """A text, with the special tokens that are in it."""
        parts = self._split.split(text) if self._split is not None else [text]
        return " ".join(
            f"<[{self._special[part]}]>" if part in self._special else json.dumps(part) for part in parts if part
        )


def arguments_of(tool: OfferedTool, *, loose: bool = False) -> dict[str, Any]:
    """The schema that a tool's arguments are kept to; any object where it is `loose` and not strict."""
    return {"type": "object"} if loose and not tool.strict else {"type": "object", **tool.parameters}


def _start(shape: CallShape, tools: Sequence[OfferedTool]) -> str:
    """A regular expression for what calls without a mark begin with."""
    before, middle, _ = shape.call
    if before:
        return r"\s*" + _quoted(shape.first + before)
    return rf"\s*({'|'.join(_quoted(tool.name) for tool in tools)}){_quoted(middle)}"


def _slashed(found: re.Match[str]) -> str:
    """A part of a regular expression that BETWEEN_SLASHES finds, as it stands between slashes."""
    return {"/": r"\/", "\n": r"\n", "\\\n": r"\n"}.get(found[0], found[0])


def _quoted(text: str) -> str:
    """A text in a regular expression between slashes."""
    return QUOTED.sub(lambda found: "\\" + found[0], text).replace("\n", "\\n")
