"""Tools through the server, by the official client: every format, streamed and not, and what can't be."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from models.calls.formats import BROKEN, WHOLE, Call
from tests.serve.conftest import Running
from tests.serve.scripted import TEMPLATE, Script

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "more": {"type": "object"},
            },
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
ASKED: dict[str, Any] = {
    "model": "tale",
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "tools": [WEATHER, NOW],
    "temperature": 0,
    "max_tokens": 300,
}
HERMES = 'Sure.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
# What a template must have in it to be known for a format.
SIGNS = {
    "hermes": "<tool_call>",
    "granite": "<|tool_call|>",
    "phi4": "<|/tool|>",
    "mistral": "[TOOL_CALLS]",
    "llama3_json": "<|python_tag|>",
    "pythonic": "func_name1(",
    "lfm2": "<|tool_call_start|>",
    "olmo3": "<function_calls>",
    "qwen3_coder": "<function= <parameter=",
    "glm45": "<arg_key>",
    "glm4": "<|observation|>",
    "gemma": "<|tool_call>",
    "harmony": "<|channel|><|message|>",
}


def calls_of(message: Any) -> list[Call]:
    return [(call.function.name, call.function.arguments) for call in message.tool_calls or []]


class Streamed:
    """What a stream has brought, put together as a client does."""

    def __init__(self, chunks: Iterator[Any]) -> None:
        self.content = self.reasoning = ""
        self.calls: dict[int, list[str]] = {}
        self.ids: list[str] = []
        self.finish_reason: str | None = None
        self.pieces = 0
        for chunk in chunks:
            [choice] = chunk.choices
            self.content += choice.delta.content or ""
            self.reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            for call in choice.delta.tool_calls or []:
                if call.id is not None:  # the first has id, type and name, and no arguments
                    assert call.index == len(self.calls)
                    assert (call.type, call.function.arguments) == ("function", "")
                    self.ids.append(call.id)
                    self.calls[call.index] = [call.function.name, ""]
                else:
                    assert call.function.name is None
                    self.calls[call.index][1] += call.function.arguments
                    self.pieces += 1
            assert self.finish_reason is None
            self.finish_reason = choice.finish_reason

    @property
    def called(self) -> list[Call]:
        return [(name, arguments) for name, arguments in self.calls.values()]


@pytest.mark.parametrize("name", SIGNS)
def test_every_format_streamed_and_not(script: Script, client: openai.OpenAI, name: str) -> None:
    with script.sign(SIGNS[name]):
        # What else there is of a format, tests/models/calls tries without a server.
        for _, text, content, calls in [one for one in WHOLE if one[0] == name][:2]:
            script.say(text.replace("<|call|>", "").replace("<|return|>", ""))
            found = client.chat.completions.create(**ASKED).choices[0]
            assert (found.message.content or "", calls_of(found.message)) == (content, calls), text
            assert found.finish_reason == ("tool_calls" if calls else "stop")
            script.again()
            streamed = Streamed(client.chat.completions.create(**ASKED, stream=True))
            assert (streamed.content, streamed.called) == (content, calls), text
            assert streamed.finish_reason == found.finish_reason
            assert len(set(streamed.ids)) == len(calls)


@pytest.mark.parametrize("name", ["hermes", "mistral", "pythonic", "gemma"])
def test_what_is_no_call_is_content(script: Script, client: openai.OpenAI, name: str) -> None:
    with script.sign(SIGNS[name]):
        for text in [text for one, text in BROKEN if one == name and 20 < len(text) < 80][:3]:
            script.say(text)
            found = client.chat.completions.create(**ASKED).choices[0]
            assert (found.message.content, found.message.tool_calls, found.finish_reason) == (text, None, "stop")
            script.again()
            streamed = Streamed(client.chat.completions.create(**ASKED, stream=True))
            assert (streamed.content, streamed.finish_reason) == (text, "stop")


def test_arguments_are_streamed(script: Script, client: openai.OpenAI) -> None:
    script.say(HERMES)
    streamed = Streamed(client.chat.completions.create(**ASKED, stream=True))
    assert streamed.called == [("weather", '{"city": "Paris"}')]
    assert streamed.pieces > 3
    script.again()
    with client.chat.completions.stream(**ASKED) as stream:  # the client's own way to put it together
        kinds = {event.type for event in stream}
        [call] = stream.get_final_completion().choices[0].message.tool_calls or []
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_a_call_that_is_cut_off_is_content(script: Script, client: openai.OpenAI) -> None:
    script.say(HERMES)
    for end in (20, 45):
        script.again()
        found = client.chat.completions.create(**ASKED | {"max_tokens": end}).choices[0]
        assert (found.message.tool_calls, found.finish_reason) == (None, "length")
        assert HERMES.startswith(found.message.content)
        assert len(found.message.content) >= end


def test_several_samples(script: Script, client: openai.OpenAI) -> None:
    script.say(HERMES)
    found = client.chat.completions.create(**ASKED, n=3)
    assert [calls_of(one.message) for one in found.choices] == [[("weather", '{"city": "Paris"}')]] * 3


def test_the_choice_of_tools(script: Script, client: openai.OpenAI) -> None:
    script.say(HERMES)
    for how, called in (("auto", True), ("none", False)):
        script.again()
        found = client.chat.completions.create(**ASKED, tool_choice=how).choices[0]
        assert bool(found.message.tool_calls) == called
        if not called:
            assert found.message.content == HERMES
    # The prompt has the tools, unless none may be called.
    script.say("Hi")
    told = client.chat.completions.create(**ASKED).usage
    silent = client.chat.completions.create(**ASKED, tool_choice="none").usage
    without = client.chat.completions.create(**{name: ASKED[name] for name in ASKED if name != "tools"}).usage
    assert told.prompt_tokens > silent.prompt_tokens == without.prompt_tokens
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}]}
    script.say(HERMES)
    found = client.chat.completions.create(**ASKED, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert found.choices[0].message.tool_calls


def test_one_call_at_most(script: Script, client: openai.OpenAI) -> None:
    call = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    script.say(f"{call}\n{call}\n and more")
    both = client.chat.completions.create(**ASKED).choices[0].message
    assert calls_of(both) == [("now", "{}")] * 2
    script.again()
    one = client.chat.completions.create(**ASKED, parallel_tool_calls=False).choices[0]
    assert (calls_of(one.message), one.message.content, one.finish_reason) == ([("now", "{}")], None, "tool_calls")
    script.again()
    streamed = Streamed(client.chat.completions.create(**ASKED, parallel_tool_calls=False, stream=True))
    assert (streamed.called, streamed.content) == ([("now", "{}")], "")


def test_results_go_back_through_the_template(script: Script, client: openai.OpenAI) -> None:
    script.say(HERMES)
    message = client.chat.completions.create(**ASKED).choices[0].message
    [call] = message.tool_calls or []
    history = [
        *ASKED["messages"],
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny"},
    ]
    script.say("It is sunny.")
    found = client.chat.completions.create(**ASKED | {"messages": history})
    assert found.choices[0].message.content == "It is sunny."
    text = "What is the weather in Paris?[assistant]Sure.<tool_call>weather"
    expected = (
        f"<tools>weather now <tool_call></tools>[user]{text}" + '{"city": "Paris"}</tool_call>[tool]Sunny[assistant]'
    )
    assert found.usage.prompt_tokens == len(script.llm.encode_rendered(expected))


SIMPLE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
SIMPLE += "{% if add_generation_prompt %}<assistant>{% endif %}"
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + SIMPLE


@pytest.mark.parametrize("source", [SIMPLE, REFUSES])
def test_a_template_that_knows_no_tools(script: Script, client: openai.OpenAI, source: str) -> None:
    history = [
        *ASKED["messages"],
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": f"call_{i}", "type": "function", "function": {"name": "now", "arguments": "{}"}} for i in "ab"
            ],
        },
        {"role": "tool", "tool_call_id": "call_a", "content": "Noon"},
        {"role": "tool", "tool_call_id": "call_b", "content": [{"type": "text", "text": "Midnight"}]},
    ]
    with script.template(source):
        script.say(HERMES)
        assert calls_of(client.chat.completions.create(**ASKED).choices[0].message)
        script.say("Noon.")
        found = client.chat.completions.create(**ASKED | {"messages": history})
        assert found.choices[0].message.content == "Noon."
        without = client.chat.completions.create(model="tale", messages=history, temperature=0)
        assert without.usage.prompt_tokens < found.usage.prompt_tokens


def test_a_template_with_its_own_name_for_tools(script: Script, client: openai.OpenAI) -> None:
    source = "{% for t in xml_tools or [] %}{{ t.name }} {% endfor %}" + SIMPLE
    with script.template(source):
        script.say(HERMES)
        found = client.chat.completions.create(**ASKED)
        assert calls_of(found.choices[0].message)
        text = f"weather now <user>{ASKED['messages'][0]['content']}<assistant>"
        assert found.usage.prompt_tokens == len(script.llm.encode_rendered(text))
        script.again()
        assert client.chat.completions.create(**ASKED, tool_choice="none").usage.prompt_tokens < len(text)


def test_special_tokens_that_nobody_reads_are_hidden(script: Script, client: openai.OpenAI) -> None:
    with script.sign(SIGNS["mistral"]):
        script.say('A<|eot|>B[TOOL_CALLS]now[ARGS]{"a": "<|eot|>"}')
        found = client.chat.completions.create(**ASKED).choices[0].message
        assert (found.content, calls_of(found)) == ("AB", [("now", '{"a": ""}')])
        script.again()
        shown = client.chat.completions.create(**ASKED, extra_body={"skip_special_tokens": False}).choices[0].message
        assert (shown.content, calls_of(shown)) == ("A<|eot|>B", [("now", '{"a": "<|eot|>"}')])
        script.again()
        assert client.chat.completions.create(**ASKED | {"tools": []}).choices[0].message.content.startswith("ABnow")
        script.say("A<|eot|>B[TOOL_CALLS] no call<|eot|>")
        assert Streamed(client.chat.completions.create(**ASKED, stream=True)).content == "AB[TOOL_CALLS] no call"


def test_ids_that_a_template_takes_back(script: Script, client: openai.OpenAI) -> None:
    with script.sign(SIGNS["mistral"]):
        script.say("[TOOL_CALLS]now[ARGS]{}")
        [call] = client.chat.completions.create(**ASKED).choices[0].message.tool_calls or []
        assert len(call.id) == 9
        assert call.id.isalnum()


def test_a_stop_string_within_a_call(script: Script, client: openai.OpenAI) -> None:
    script.say(HERMES)
    found = client.chat.completions.create(**ASKED, stop=["Paris"]).choices[0]
    assert (found.message.tool_calls, found.finish_reason) == (None, "stop")
    assert found.message.content == HERMES[: HERMES.index("Paris")]


def test_logprobs_beside_calls(script: Script, client: openai.OpenAI) -> None:
    script.say(HERMES)
    found = client.chat.completions.create(**ASKED, logprobs=True)
    assert len(found.choices[0].logprobs.content) == found.usage.completion_tokens
    script.again()
    chunks = client.chat.completions.create(**ASKED, logprobs=True, stream=True)
    assert sum(len(one.choices[0].logprobs.content) for one in chunks if one.choices[0].logprobs) == (
        found.usage.completion_tokens
    )


DEEP: Any = {"type": "string"}
for _ in range(80):
    DEEP = {"type": "object", "properties": {"a": DEEP}}


def function(**fields: Any) -> list[Any]:
    return [{"type": "function", "function": {"name": "f"} | fields}]


@pytest.mark.parametrize(
    ("more", "param", "says"),
    [
        ({"tools": "weather"}, "tools", "list"),
        ({"tools": {}}, "tools", "list"),
        ({"tools": ["weather"]}, "tools[0]", "object"),
        ({"tools": [WEATHER, 5]}, "tools[1]", "object"),
        ({"tools": [None]}, "tools[0]", "object"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "object"),
        ({"tools": function(name="")}, "tools[0].function.name", "letters"),
        ({"tools": function(name="get weather")}, "tools[0].function.name", "get weather"),
        ({"tools": function(name="x" * 65)}, "tools[0].function.name", "64"),
        ({"tools": function(name=None)}, "tools[0].function.name", "null"),
        ({"tools": function(name=7)}, "tools[0].function.name", "7"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name", "once more"),
        ({"tools": function(description=5)}, "tools[0].function.description", "text"),
        ({"tools": function(strict="yes")}, "tools[0].function.strict", "true or false"),
        ({"tools": function(parameters=[])}, "tools[0].function.parameters", "schema"),
        ({"tools": function(parameters={"type": "string"})}, "tools[0].function.parameters", "object"),
        ({"tools": function(parameters={"x": "a" * (1 << 20)})}, "tools[0].function.parameters", "bytes"),
        ({"tools": function(parameters=DEEP)}, "tools[0].function.parameters", "deeper"),
        ({"tools": [*function()] * 200}, "tools", "at most"),
        ({"tool_choice": "any"}, "tool_choice", "any"),
        ({"tool_choice": 5}, "tool_choice", "5"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice", "other"),
        ({"tool_choice": {"type": "function"}}, "tool_choice", "null"),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
            "tool_choice",
            "mode",
        ),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tools": None, "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "'f'"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "bool"),
    ],
)
def test_what_can_t_be_is_400_by_name(scripted: tuple[Script, Running], more: Any, param: str, says: str) -> None:
    started = time.process_time()
    found = httpx.post(f"{scripted[1].url}/v1/chat/completions", json=ASKED | more, timeout=60)
    assert found.status_code == 400, found.text
    error = found.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert says in error["message"]
    assert len(error["message"]) < 400
    assert time.process_time() - started < 5


def test_brackets_without_end(scripted: tuple[Script, Running]) -> None:
    body = json.dumps(ASKED).replace('"tools": [', '"tools": [' + "[" * 10_000, 1)
    body = body.replace("}]", "}]" + "]" * 10_000, 1)
    headers = {"content-type": "application/json"}
    found = httpx.post(f"{scripted[1].url}/v1/chat/completions", content=body, headers=headers, timeout=60)
    assert found.status_code == 400


def test_history_that_is_none(scripted: tuple[Script, Running]) -> None:
    """Whatever stands in the place of calls: 400 or an answer, never a failure."""
    scripted[0].say("Hi")
    odd: list[Any] = [5, "x", {}, [5, None], [{}], [{"function": 5}], [{"function": {"name": 5, "arguments": 5}}]]
    for template_of in (TEMPLATE, SIMPLE):
        with scripted[0].template(template_of):
            for number, calls in enumerate(odd):
                last = {"role": "tool", "content": "x" if number % 2 else 5, "tool_call_id": number}
                history = [*ASKED["messages"], {"role": "assistant", "content": "a", "tool_calls": calls}, last]
                asked = ASKED | {"messages": history, "max_tokens": 1}
                found = httpx.post(f"{scripted[1].url}/v1/chat/completions", json=asked, timeout=60)
                assert found.status_code in (200, 400), (calls, last, found.text)
