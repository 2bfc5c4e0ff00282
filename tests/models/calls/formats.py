"""Answers in every format, and what is in them."""

from __future__ import annotations

from cutset.models.calls.call_events import (
    ArgumentsPiece,
    CallBegin,
    CallBroken,
    CallEnd,
    ContentPiece,
    Event,
    ReasoningPiece,
)
from cutset.models.calls.call_parser import CallParser
from cutset.models.calls.registered import TOOL_PARSERS

TOOLS = {
    "weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "more": {"type": "object"}},
    },
    "now": {"type": "object", "properties": {}},
}
PARSERS: dict[str, type[CallParser]] = TOOL_PARSERS
PARIS = ("weather", '{"city": "Paris", "days": 2}')
NOW = ("now", "{}")
Call = tuple[str, str]

# A format, a text, and its content and calls.
WHOLE: list[tuple[str, str, str, list[Call]]] = [
    (
        "hermes",
        'Sure.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n',
        "Sure.",
        [PARIS, NOW],
    ),
    ("hermes", '<tool_call>{"arguments": {"a": "\\u00e9\\n"}, "name": "now"}', "", [("now", '{"a": "\\u00e9\\n"}')]),
    ("hermes", '<tool_call>{"name": "now", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("now", '{"a": 1}')]),
    ("hermes", '<tool_call>{"name": "now", "id": [1, {}], "arguments": null}</tool_call>!', "!", [NOW]),
    ("hermes", '<tool_call>{"name": "now"}</tool_call> and then', " and then", [NOW]),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"a": "b\nc"}}</tool_call>', "", [("now", '{"a": "b\\nc"}')]),
    ("hermes", '<tool_call>[{"name": "now", "arguments": {}}]</tool_call>', "", [NOW]),
    ("granite", '<|tool_call|>[{"name": "now", "arguments": {}}]', "", [NOW]),
    ("granite", '<tool_call>[{"name": "weather", "arguments": {"city": "Paris", "days": 2}}]', "", [PARIS]),
    ("phi4", '<|tool_call|>[{"name": "now", "arguments": {}}]<|/tool_call|>', "", [NOW]),
    ("phi4", 'functools[{"name": "now", "arguments": {}}]', "", [NOW]),
    (
        "mistral",
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris", "days": 2}}, '
        '{"name": "now", "arguments": {}}]',
        "",
        [PARIS, NOW],
    ),
    (
        "mistral",
        'Hm. [TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]weather[CALL_ID]a1B[ARGS]{"city": "Oslo"}',
        "Hm.",
        [NOW, ("weather", '{"city": "Oslo"}')],
    ),
    ("mistral", "[TOOL_CALLS]now{}", "", [NOW]),
    ("llama3_json", '{"name": "weather", "parameters": {"city": "Paris", "days": 2}}', "", [PARIS]),
    (
        "llama3_json",
        '<|python_tag|>{"name": "now", "parameters": {}}; {"name": "now", "parameters": {}}',
        "",
        [NOW, NOW],
    ),
    ("llama3_json", '{"type": "function", "name": "now", "parameters": {}}', "", [NOW]),
    ("pythonic", "[weather(city='Paris', days=2), now()]", "", [PARIS, NOW]),
    (
        "pythonic",
        '[weather(city="a\\"b\\\\\\n\\x41\\u00e9\\d", more={"k": (1, -2.5, [True, None])},)]',
        "",
        [("weather", '{"city": "a\\"b\\\\\\nAé\\\\d", "more": {"k": [1, -2.5, [true, null]]}}')],
    ),
    ("pythonic", '[now(a="\\ud83d\\ude00")]', "", [("now", '{"a": "\\ud83d\\ude00"}')]),
    ("lfm2", '<|tool_call_start|>[weather(city="Paris", days=2)]<|tool_call_end|>One moment.', "One moment.", [PARIS]),
    (
        "olmo3",
        '<function_calls>\nweather(city="Paris", days=2)\nnow()\n</function_calls>',
        "",
        [PARIS, NOW],
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        "",
        [PARIS, NOW],
    ),
    (
        "qwen3_coder",
        '<function=weather><parameter=city>\n"1"\n\n</parameter><parameter=more>{"a": [1]}</parameter></function>',
        "",
        [("weather", '{"city": "\\"1\\"\\n", "more": {"a": [1]}}')],
    ),
    (
        "glm45",
        "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>2</arg_value>\n</tool_call>\n<tool_call>now</tool_call>",
        "",
        [PARIS, NOW],
    ),
    (
        "glm45",
        '<tool_call>now<arg_key>a</arg_key><arg_value>["\\ud800"]</arg_value></tool_call>',
        "",
        [("now", '{"a": ["\\ud800"]}')],
    ),
    (
        "glm45",
        "<tool_call>now<arg_key>a</arg_key><arg_value>1e999</arg_value><arg_key>b</arg_key>"
        "<arg_value>[-1e999]</arg_value><arg_key>c</arg_key><arg_value>NaN</arg_value></tool_call>",
        "",
        [("now", '{"a": "1e999", "b": "[-1e999]", "c": "NaN"}')],
    ),
    ("glm4", 'Let me see.\nweather\n{"city": "Paris", "days": 2}\nnow\n{}', "Let me see.", [PARIS, NOW]),
    ("gemma", '<|tool_call>call:weather{city:<|"|>Paris<|"|>,days:2}<tool_call|>', "", [PARIS]),
    (
        "gemma",
        'Ok <|tool_call>call:weather{more:{a:[true,null,-1.5,<|"|>"{<|"|>]}}<tool_call|>',
        "Ok",
        [("weather", '{"more": {"a": [true, null, -1.5, "\\"{"]}}')],
    ),
    ("gemma", "<start_function_call>call:now{}<end_function_call>", "", [NOW]),
    (
        "harmony",
        "<|channel|>commentary<|message|>One moment.<|end|><|start|>assistant<|channel|>commentary to=functions."
        'weather <|constrain|>json<|message|>{"city": "Paris", "days": 2}<|call|>',
        "One moment.",
        [PARIS],
    ),
    ("harmony", " to=functions.now<|channel|>commentary json<|message|>{}", "", [NOW]),
    ("harmony", "<|channel|>final<|message|>It rains.<|return|>", "It rains.", []),
]

# A format, and a text in which no call is complete: all of it is content.
BROKEN: list[tuple[str, str]] = [
    ("hermes", "<tool_call>"),
    ("hermes", "<tool_call>\nnot JSON\n</tool_call> more"),
    ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": "text"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"a": 1</tool_call> more'),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"a": 01}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"a": NaN}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"a": 1,}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": "{\\"a\\": NaN}"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": "{\\"a\\": -Infinity}"}</tool_call>'),
    ("hermes", "<tool_call>{'name': 'now', 'arguments': {}}</tool_call>"),
    ("hermes", '<tool_call>{"name": "now", "arguments": {}} stray</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": ' + '{"a": ' * 500),
    ("hermes", "Not <tool_call, nor < tool_call>.  "),
    ("granite", "<|tool_call|>[]"),
    ("granite", '<|tool_call|>[{"name": "now", "arguments": {}'),
    ("phi4", "functools are useful: functools[partial]"),
    ("mistral", "[TOOL_CALLS]"),
    ("mistral", "[TOOL_CALLS] now, please"),
    ("mistral", "[TOOL_CALLS]now[ARGS][1]"),
    ("llama3_json", '{"name": "Bob", "parameters": {"age": 3}}'),
    ("llama3_json", '{"answer": 42}'),
    ("llama3_json", 'Here: {"name": "now", "parameters": {}}'),
    ("llama3_json", '<|python_tag|>print("hello")'),
    ("llama3_json", '  {"name": "now", "parameters": {"a'),
    ("pythonic", "[1, 2, 3]"),
    ("pythonic", "[other(a=1)]"),
    ("pythonic", "[weather('Paris')]"),
    ("pythonic", "[weather(city=Paris)]"),
    ("pythonic", "[weather(city='Par"),
    ("pythonic", "[weather(city=" + "[" * 100),
    ("lfm2", "<|tool_call_start|>weather"),
    ("olmo3", "<function_calls>weather(city=1"),
    ("qwen3_coder", "<tool_call>\n<function=weather>\n<parameter=city>\nPar"),
    ("qwen3_coder", "<tool_call>weather</tool_call>"),
    ("qwen3_coder", "<tool_call><function=weather>Paris</function></tool_call>"),
    ("glm45", "<tool_call>weather in Paris</tool_call>"),
    ("glm45", "<tool_call>weather\n<arg_key>city</arg_key>\nParis"),
    ("glm4", "weather is nice"),
    ("glm4", "weather\nis nice"),
    ("glm4", 'weather\n{"city": '),
    ("gemma", "<|tool_call>call:now"),
    ("gemma", '<|tool_call>call:weather{city:<|"|>Paris'),
    ("gemma", "<|tool_call>call:weather{city:Paris}<tool_call|>"),
    ("hermes", '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": "{\\"a\\": \\"\\ud800\\"}"}</tool_call>'),
    ("pythonic", '[{"name": "other", "arguments": {}}]'),
]


def events_of(parser: CallParser, *pieces: str) -> list[Event]:
    """All events; pieces of one kind that follow each other are one."""
    found: list[Event] = []
    for event in [*(one for piece in pieces for one in parser.feed(piece)), *parser.end()]:
        last = found[-1] if found else None
        if isinstance(event, ContentPiece | ReasoningPiece | ArgumentsPiece) and type(last) is type(event):
            assert isinstance(last, ContentPiece | ReasoningPiece | ArgumentsPiece)
            found[-1] = type(event)(last.text + event.text)
        else:
            found.append(event)
    return found


def contents(events: list[Event]) -> tuple[str, str, list[Call]]:
    """Content, reasoning and complete calls. Checks that events come in an order that makes sense."""
    content, reasoning, calls, begun = "", "", list[Call](), None
    for event in events:
        match event:
            case ContentPiece(text) | ReasoningPiece(text):
                assert begun is None
                assert text
                content += text if isinstance(event, ContentPiece) else ""
                reasoning += text if isinstance(event, ReasoningPiece) else ""
            case CallBegin(name):
                assert begun is None
                begun = (name, "")
            case ArgumentsPiece(text):
                assert begun is not None
                begun = (begun[0], begun[1] + text)
            case CallEnd():
                assert begun is not None
                calls.append(begun)
                begun = None
            case CallBroken(text):
                assert begun is not None
                content, begun = content + text, None
    assert begun is None
    return content, reasoning, calls
