"""From the text of a chat's answer to what is in it: reasoning, tool calls, content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from cutset.engine.grammar import Grammar
from cutset.engine.outputs import Delta
from cutset.engine.params import SamplingParams
from cutset.errors import RequestError
from cutset.models.calls.call_events import CallEnd, ContentPiece, Event, ReasoningPiece
from cutset.models.calls.call_parser import CallParser, CallShape
from cutset.models.calls.harmony import HarmonyCalls
from cutset.models.calls.registered import TOOL_PARSERS, reasoning_of, tools_of
from cutset.models.calls.thinking import THINKING, ReasoningMarks, ReasoningSplitter, begins_in
from cutset.serve.api_errors import invalid
from cutset.serve.call_grammar import AnswerGrammar, arguments_of
from cutset.serve.tool_fields import ToolUse

__all__ = ["AnswerReader", "ChatForm", "chat_form"]

UNMARKED = CallShape("")
MOST_CALLS = 32  # of one answer that is kept to a grammar


@dataclass(frozen=True)
class ChatForm:
    """How the answers to one request are read. `calls`: the format of tool calls, None where none is looked for."""

    tools: ToolUse
    calls: type[CallParser] | None
    marks: ReasoningMarks | None = None  # of reasoning, where the format of calls doesn't have it itself
    begun: bool = False  # the answer begins in reasoning
    hides_special: bool = True  # tokens that nobody reads
    shows_reasoning: bool = True
    shape: CallShape = UNMARKED  # of calls that a grammar makes
    special: Mapping[str, int] = field(default_factory=dict)  # ids of special tokens by their texts

    def params(self, params: SamplingParams, *, loose: bool = False) -> SamplingParams:
        """The engine's parameters: special tokens must come where a format is marked by them, and a grammar keeps calls
        to what was promised. `loose`: arguments of tools that aren't strict are any objects. Raises ApiError."""
        if not self.reads:
            return params
        try:
            grammar = self._grammar(params.grammar, loose=loose)
        except RequestError as error:
            if not loose and self.loosens:
                return self.params(params, loose=True)
            raise invalid(str(error), "tools") from None
        return replace(params, skip_special_tokens=False, structured_outputs=grammar)

    @property
    def loosens(self) -> bool:
        """Calls are made whose arguments nobody has promised to be kept to a schema."""
        return self.tools.choice == "required" and not any(tool.strict for tool in self.tools.called)

    def _grammar(self, content: Grammar | None, *, loose: bool) -> Grammar | None:
        """What answers are kept to; `content` is what the request itself asks for."""
        use, tools = self.tools, self.tools.called if self.tools.choice != "none" else ()
        must = use.choice == "required"
        if content is None and not must and not any(tool.strict for tool in tools):
            return None
        made = AnswerGrammar(self.special, most=1 if use.named or not use.parallel else MOST_CALLS)
        asked = content.asked if content is not None else "tools"
        for tool in tools:
            if not loose or tool.strict:  # names what is too large or too deep
                Grammar.json_schema(arguments_of(tool), asked=f"tools: the parameters of {tool.name}")
        if self.calls is HarmonyCalls:
            return made.whole(made.harmony(tools, content, must=must, loose=loose), asked)
        if tools:
            made.calls(self.shape, tools, loose=loose)
            rule = made.must_call(self.shape) if must else made.may_call(self.shape, tools, content)
        else:
            assert content is not None
            if self.marks is None:
                return content
            rule = made.asked_for(content)
        if self.marks is not None:
            rule = made.after_reasoning(rule, self.marks, begun=self.begun)
        return made.whole(rule, asked)

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
    special: Mapping[str, int] | None = None,  # ids of special tokens by their texts
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
    shape = UNMARKED if calls is None else calls.shape_in(template)
    return ChatForm(tools, calls, marks, begun, hides_special, shows_reasoning, shape, special or {})


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
