"""From the text of a chat's answer to what is in it: reasoning, tool calls, content."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cutset.engine.outputs import Delta
from cutset.engine.params import SamplingParams
from cutset.models.calls.call_events import CallEnd, ContentPiece, Event, ReasoningPiece
from cutset.models.calls.call_parser import CallParser
from cutset.models.calls.registered import TOOL_PARSERS, reasoning_of, tools_of
from cutset.models.calls.thinking import THINKING, ReasoningMarks, ReasoningSplitter, begins_in
from cutset.serve.tool_fields import ToolUse

__all__ = ["AnswerReader", "ChatForm", "chat_form"]


@dataclass(frozen=True)
class ChatForm:
    """How the answers to one request are read. `calls`: the format of tool calls, None where none is looked for."""

    tools: ToolUse
    calls: type[CallParser] | None
    marks: ReasoningMarks | None = None  # of reasoning, where the format of calls doesn't have it itself
    begun: bool = False  # the answer begins in reasoning
    hides_special: bool = True  # tokens that nobody reads
    shows_reasoning: bool = True

    def params(self, params: SamplingParams) -> SamplingParams:
        """The engine's parameters: special tokens must come where a format is marked by them."""
        return replace(params, skip_special_tokens=False) if self.reads else params

    @property
    def reads(self) -> bool:
        """Whether there is anything to look for."""
        return self.calls is not None or self.marks is not None

    def reader(self) -> AnswerReader:
        """A reader for one sample."""
        return AnswerReader(self)

    def call_id(self) -> str:
        """A new id for a call."""
        return (self.calls or CallParser).call_id()


def chat_form(
    tools: ToolUse,
    template: str,  # its source
    prompt: str,  # as it was rendered
    *,
    native: bool,  # the template tells of tools itself
    continued: str | None,  # the text of the assistant's that is continued
    tool_parser: str = "auto",
    reasoning_parser: str = "auto",
    hides_special: bool = True,
    shows_reasoning: bool = True,
) -> ChatForm:
    """How answers to a prompt are read, by the template that made it and the names that were given."""
    name = tools_of(template) if tool_parser == "auto" else tool_parser
    if tool_parser == "auto" and not native and name != "harmony":
        name = "hermes"  # tool_prompt.py asks for it
    reasoning = reasoning_of(template) if reasoning_parser == "auto" else reasoning_parser
    calls: type[CallParser] | None = None
    if reasoning == "harmony":
        calls = TOOL_PARSERS["harmony"]
    elif tools.choice != "none":
        calls = TOOL_PARSERS[name]
    marks = None if calls is not None and calls.reads_reasoning else THINKING.get(reasoning)
    begun = False
    if marks is not None and continued is not None:
        begun = continued.rfind(marks.opens.strip()) > continued.rfind(marks.closes)
    elif marks is not None:
        begun = begins_in(marks, prompt)
    return ChatForm(tools, calls, marks, begun, hides_special, shows_reasoning)


class AnswerReader:
    """One sample's text, as it comes, as events. `calls` counts those that are complete."""

    def __init__(self, form: ChatForm) -> None:
        self._form = form
        self._parser = None if form.calls is None else form.calls(form.tools.schemas)
        self._splitter = None if form.marks is None else ReasoningSplitter(form.marks, begun=form.begun)
        self._kept = _marks(form) if form.hides_special else None  # special tokens that are read; None: all
        self._special: list[tuple[int, str]] = []  # those that come in what will be given
        self._at = 0  # characters that were given
        self.calls = 0

    def feed(self, delta: Delta) -> list[Event]:
        """What has become certain with it."""
        events = self._fed(self._visible(delta))
        if delta.finish_reason is not None:
            if self._splitter is not None:
                events += self._split(self._splitter.end())
            if self._parser is not None:
                events += self._parser.end()
        return self._allowed(events)

    def _visible(self, delta: Delta) -> str:
        """Its text, without special tokens that nobody reads."""
        if self._kept is None or not self._form.reads:
            return delta.text
        self._special += delta.special
        text, start = delta.text, self._at
        self._at += len(text)
        shown: list[str] = []
        while self._special and self._special[0][0] < self._at:
            begin, token = self._special[0]
            if token not in self._kept:
                shown.append(text[: max(0, begin - start)])
                text, start = text[max(0, begin + len(token) - start) :], max(start, begin + len(token))
            if begin + len(token) > self._at:
                break  # the rest of it is still to come
            self._special.pop(0)
        return "".join([*shown, text])

    def _fed(self, text: str) -> list[Event]:
        if self._splitter is not None:
            return self._split(self._splitter.feed(text))
        return self._parsed(text)

    def _split(self, parts: Iterable[tuple[bool, str]]) -> list[Event]:
        events: list[Event] = []
        for reasoning, text in parts:
            events += [ReasoningPiece(text)] if reasoning else self._parsed(text)
        return events

    def _parsed(self, text: str) -> list[Event]:
        if self._parser is not None:
            return self._parser.feed(text)
        return [ContentPiece(text)] if text else []

    def _allowed(self, events: list[Event]) -> list[Event]:
        """Without what comes after the one call that there may be."""
        found: list[Event] = []
        for event in events:
            if self.calls and not self._form.tools.parallel:
                break
            found.append(event)
            self.calls += isinstance(event, CallEnd)
        return found


def _marks(form: ChatForm) -> frozenset[str]:
    kept = form.calls.special() if form.calls is not None else frozenset[str]()
    return kept if form.marks is None else kept | _special_of(form.marks)


def _special_of(marks: ReasoningMarks) -> frozenset[str]:
    """The marks themselves, and the tokens that Gemma's begin with."""
    texts = (marks.opens, marks.closes)
    return frozenset({*texts, *(text.partition(">")[0] + ">" for text in texts if text.startswith("<"))})
