"""Every format: what is in an answer, however it was cut; what is no call is content to the last character."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.errors import ConfigError
from cutset.models.calls.registered import TOOL_PARSERS, check_names, reasoning_of, tools_of
from models.calls.formats import BROKEN, NOW, PARIS, PARSERS, TOOLS, WHOLE, Call, contents, events_of

SMALL = re.compile(r"<[^>]*>|\[[A-Z_]+\]|\w+|\s|.", re.DOTALL)


def read(name: str, *pieces: str) -> tuple[str, str, list[Call]]:
    return contents(events_of(PARSERS[name](TOOLS), *pieces))


@pytest.mark.parametrize(("name", "text", "content", "calls"), WHOLE)
def test_what_is_in_an_answer(name: str, text: str, content: str, calls: list[Call]) -> None:
    assert read(name, text) == (content, "", calls)


@pytest.mark.parametrize(("name", "text"), BROKEN)
def test_what_is_no_call_is_content(name: str, text: str) -> None:
    assert read(name, text) == (text, "", [])


def test_every_format_is_tried() -> None:
    assert {name for name, *_ in WHOLE} == PARSERS.keys()
    assert {name for name, _ in BROKEN} == PARSERS.keys() - {"harmony"}


@pytest.mark.parametrize("name", PARSERS)
def test_one_character_at_a_time(name: str) -> None:
    for text in [one[1] for one in WHOLE if one[0] == name] + [text for one, text in BROKEN if one == name]:
        assert events_of(PARSERS[name](TOOLS), *text) == events_of(PARSERS[name](TOOLS), text)


@st.composite
def answers(draw: st.DrawFn, name: str) -> str:
    """Texts that begin like calls: parts of answers in the format, in any order."""
    texts = [one[1] for one in WHOLE if one[0] == name] + [text for one, text in BROKEN if one == name]
    pieces = sorted({piece for text in texts for piece in SMALL.findall(text)})
    pieces += ["\\ud800", "\\ude00", '"\\ud800"', "\\x41", "\\U00110000"]
    parts = [st.sampled_from(texts), st.sampled_from(pieces), st.text(st.characters(codec="utf-8"), max_size=3)]
    cuts = st.tuples(st.sampled_from(texts), st.integers(0, 200)).map(lambda one: one[0][: one[1]])
    return "".join(draw(st.lists(st.one_of(*parts, cuts), max_size=12)))


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_how_a_text_is_cut_changes_nothing_and_nothing_is_lost(name: str, data: st.DataObject) -> None:
    text = data.draw(answers(name))
    whole = events_of(PARSERS[name](TOOLS), text)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert events_of(PARSERS[name](TOOLS), *pieces) == whole
    content, reasoning, calls = contents(whole)
    "".join([content, reasoning, *(name + arguments for name, arguments in calls)]).encode()
    for tool, arguments in calls:
        assert tool
        assert isinstance(json.loads(arguments), dict)
    if not calls and name != "harmony":  # which has headers
        assert content == text
    assert len(content) + len(reasoning) <= len(text)


def test_arguments_come_while_they_are_written() -> None:
    for name, text, piece in (
        ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Par', '{"city": "Par'),
        ("mistral", '[TOOL_CALLS]weather[ARGS]{"city": "Par', '{"city": "Par'),
        ("llama3_json", '{"name": "weather", "parameters": {"city": "Par', '{"city": "Par'),
        ("pythonic", "[weather(city='Par", '{"city": "Par'),
        ("gemma", '<|tool_call>call:weather{city:<|"|>Par', '{"city": "Par'),
        ("qwen3_coder", "<tool_call><function=weather><parameter=city>\nPar", '{"city": "Par'),
        ("glm45", "<tool_call>weather<arg_key>city</arg_key><arg_value>Par", '{"city": "Par'),
        ("harmony", '<|channel|>commentary to=functions.weather<|message|>{"city": "Par', '{"city": "Par'),
    ):
        begun, *more = TOOL_PARSERS[name](TOOLS).feed(text)
        assert repr(begun) == "CallBegin(name='weather')"
        assert "".join(one.text for one in more) == piece, name


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("template", ["", "[ARGS] <start_function_call> <|tool_call|>"])
def test_what_a_grammar_makes_is_read(name: str, template: str) -> None:
    """The shapes that grammars are made of, with one call and with several."""
    if name == "harmony":  # whose messages a grammar writes as they are
        return
    shape = PARSERS[name].shape_in(template)
    before, middle, after = shape.call
    calls = [f"{before}{tool}{middle}{arguments}{after}" for tool, arguments in (PARIS, NOW)]
    one, several = shape.first + calls[0] + shape.last, shape.first + shape.between.join(calls) + shape.last
    if shape.each:
        several = f"{one}{shape.between}{shape.opens}{shape.first}{calls[1]}{shape.last}"
    assert read(name, shape.opens + one) == ("", "", [PARIS])
    assert read(name, shape.opens + several) == ("", "", [PARIS, NOW])


def test_reasoning_in_channels() -> None:
    text = "<|channel|>analysis<|message|>Need the weather.<|end|><|start|>assistant<|channel|>final<|message|>Sun."
    assert read("harmony", text) == ("Sun.", "Need the weather.", [])
    assert read("harmony", "No channel at all.") == ("No channel at all.", "", [])
    broken = "<|channel|>commentary to=functions.now<|message|>not JSON<|call|>"
    assert "not JSON" in read("harmony", broken)[0]
    unasked = broken.replace("not JSON", "{}")
    assert contents(events_of(PARSERS["harmony"]({}), unasked)) == (unasked.removesuffix("<|call|>"), "", [])


def test_a_long_answer_takes_time_by_its_length() -> None:
    for name in PARSERS:
        parser = PARSERS[name](TOOLS)
        events = parser.feed("\n" * 20_000 + "<" * 20_000) + parser.end()
        assert sum(len(getattr(one, "text", "")) for one in events) >= 20_000


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("hermes", '…<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>…'),
        ("hermes", "{{ tools }}"),
        ("qwen3_coder", "<tool_call>\\n<function=example_function_name>\\n<parameter=example_parameter_1>"),
        ("mistral", '{{- "[TOOL_CALLS][" }}'),
        ("llama3_json", '{{- \'Respond in the format {"name": function name, "parameters": dictionary of…\' }}'),
        ("pythonic", "[func_name1(params_name1=params_value1, …), func_name2(params)]"),
        ("gemma", "<|tool_call>call:"),
        ("gemma", "<start_function_call>call:"),
        ("harmony", "<|start|>assistant<|channel|>final<|message|>"),
        ("granite", "<|start_of_role|>assistant<|end_of_role|><|tool_call|>"),
        ("glm45", "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>"),
        ("glm4", "[gMASK]<sop><|observation|>"),
        ("lfm2", "<|tool_list_start|>["),
        ("olmo3", "<function_calls>"),
    ],
)
def test_formats_by_their_templates(name: str, template: str) -> None:
    assert tools_of(template) == name


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("think", "{% if enable_thinking is false %}<think>\n\n</think>{% endif %}"),
        ("think", "{{ content.split('</think>')[-1] }}"),
        ("mistral", "[THINK]"),
        ("harmony", "<|channel|>analysis<|message|>"),
        ("gemma4", "<|channel>thought\n<channel|>"),
        ("", "<|im_start|>{{ content }}<|im_end|>"),
    ],
)
def test_reasoning_by_templates(name: str, template: str) -> None:
    assert reasoning_of(template) == name


def test_names_that_no_format_has() -> None:
    check_names("auto", "off")
    check_names("mistral", "think")
    with pytest.raises(ConfigError, match=r"--tool-parser 'qwen' .*hermes"):
        check_names("qwen", "auto")
    with pytest.raises(ConfigError, match=r"--reasoning-parser .*off"):
        check_names("auto", "deepseek")
