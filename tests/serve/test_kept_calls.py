"""Calls that are kept to a grammar: whatever the model would rather say, arguments parse and fit their schema."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from cutset.models.calls.registered import TOOL_PARSERS
from tests.serve.conftest import Running
from tests.serve.scripted import TEMPLATE, Script
from tests.serve.test_tool_calls import ASKED, SIGNS, SIMPLE, Streamed, calls_of

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Oslo"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "list": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        "why": {"type": "string", "maxLength": 5},
    },
    "required": ["city", "days", "list", "why"],
    "additionalProperties": False,
}
STRICT = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": SCHEMA}}
LOOSE = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
NOW = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "additionalProperties": False}}}
NAMED = {"type": "function", "function": {"name": "weather"}}
KEPT: dict[str, Any] = ASKED | {"tools": [STRICT, NOW], "max_tokens": 400}


def check(calls: list[tuple[str, str]]) -> None:
    assert calls
    for name, arguments in calls:
        if name == "weather":
            jsonschema.validate(json.loads(arguments), SCHEMA)
        else:
            assert (name, json.loads(arguments)) == ("now", {})


@pytest.mark.parametrize("name", TOOL_PARSERS)
def test_a_call_that_must_be_made(script: Script, client: openai.OpenAI, name: str) -> None:
    """By a model that would rather say something else, in every format."""
    with script.sign(SIGNS[name]):
        # gpt-oss may think first, for as long as it likes: it goes straight to the call.
        script.say("<|channel|>commentary to=functions." if name == "harmony" else "I would rather not.")
        found = client.chat.completions.create(**KEPT, tool_choice=NAMED).choices[0]
        assert [name for name, _ in calls_of(found.message)] == ["weather"]
        check(calls_of(found.message))
        assert found.message.content is None


def test_one_call_that_must_be_made(script: Script, client: openai.OpenAI) -> None:
    script.say("No.")
    one = {"parallel_tool_calls": False, "tool_choice": "required"}
    streamed = Streamed(client.chat.completions.create(**KEPT, **one, stream=True))
    check(streamed.called)
    assert (len(streamed.called), streamed.finish_reason) == (1, "tool_calls")


@pytest.mark.parametrize("name", TOOL_PARSERS)
def test_a_strict_tool_that_may_be_called(script: Script, client: openai.OpenAI, name: str) -> None:
    with script.sign(SIGNS[name]):
        text = "<|channel|>final<|message|>" if name == "harmony" else ""
        script.say(f"{text}It is sunny, I think.")
        found = client.chat.completions.create(**KEPT).choices[0].message
        assert (found.content, found.tool_calls) == ("It is sunny, I think.", None)
        begin = {
            "harmony": "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>",
            "glm4": "weather\n",
            "llama3_json": '{"name": "weather", "parameters": ',
            "pythonic": '[{"name": "weather", "arguments": ',
        }.get(name)
        if begin is None:
            shape = TOOL_PARSERS[name].shape_in(SIGNS[name])
            begin = f"Wait. {shape.opens}{shape.first}{shape.call[0]}weather{shape.call[1]}"
        script.say(begin + '{"city": "Berlin", "days": 12, "more": 1}')
        found = client.chat.completions.create(**KEPT, parallel_tool_calls=False).choices[0].message
        check(calls_of(found))
        assert (found.content or "") in ("", "Wait.")


def test_a_template_without_tools_keeps_them_too(script: Script, client: openai.OpenAI) -> None:
    with script.template(SIMPLE):
        script.say("No.")
        check(calls_of(client.chat.completions.create(**KEPT, tool_choice=NAMED).choices[0].message))


def test_reasoning_comes_first(script: Script, client: openai.OpenAI) -> None:
    opens = TEMPLATE + "{% if add_generation_prompt %}<think>\n{% endif %}"
    with script.template(opens):
        script.say("Well, {well}.\n</think>\n\nNo.")
        found = client.chat.completions.create(**KEPT, tool_choice=NAMED).choices[0].message
        assert (found.model_extra or {})["reasoning_content"] == "Well, {well}."
        check(calls_of(found))
        plain = {name: value for name, value in ASKED.items() if name != "tools"}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
        script.again()
        found = client.chat.completions.create(**plain, response_format=form).choices[0].message
        assert (found.model_extra or {})["reasoning_content"] == "Well, {well}."
        jsonschema.validate(json.loads(found.content), SCHEMA)
    with script.sign("[THINK]"):
        script.say("[THINK]Well.[/THINK]No.")
        found = client.chat.completions.create(**KEPT, tool_choice=NAMED).choices[0].message
        assert (found.model_extra or {})["reasoning_content"] == "Well."
        check(calls_of(found))
    with script.sign("<|channel|><|message|>"):
        script.say("<|channel|>analysis<|message|>Well.<|end|><|start|>assistant<|channel|>final<|message|>No.")
        found = client.chat.completions.create(**plain, response_format=form).choices[0].message
        assert (found.model_extra or {})["reasoning_content"] == "Well."
        jsonschema.validate(json.loads(found.content), SCHEMA)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [("a/b", "a/b"), (r"a\/b", "a/b"), (r"a\\/b", "a\\/b"), ("a\nb", "a\nb"), ("a\\\nb", "a\nb"), (r"[/\n]\\", "/\\")],
)
def test_a_regular_expression_behind_reasoning(script: Script, client: openai.OpenAI, pattern: str, text: str) -> None:
    """It stands between slashes there, which may be in it, and on one line."""
    plain = {name: value for name, value in ASKED.items() if name != "tools"}
    with script.template(TEMPLATE + "{% if add_generation_prompt %}<think>\n{% endif %}"):
        script.say(f"Well.\n</think>\n\n{text}")
        found = client.chat.completions.create(**plain, extra_body={"guided_regex": pattern}).choices[0].message
        assert found.content == text


def test_a_form_of_the_answer_beside_tools(script: Script, client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    for strict in (STRICT, LOOSE):
        script.say('{"city": "Berlin"')
        found = client.chat.completions.create(**KEPT | {"tools": [strict]}, response_format=form).choices[0].message
        jsonschema.validate(json.loads(found.content), SCHEMA)
        script.say('<tool_call>\n{"name": "weather", "arguments": {"city": 5')
        found = client.chat.completions.create(**KEPT | {"tools": [strict]}, response_format=form).choices[0].message
        check(calls_of(found))


def test_responses_keep_them_too(script: Script, client: openai.OpenAI) -> None:
    asked = {"model": "tale", "input": "x", "temperature": 0, "max_output_tokens": 400}
    tool = {"type": "function", **STRICT["function"]}
    script.say("No.")
    [item] = client.responses.create(**asked, tools=[tool], tool_choice={"type": "function", "name": "weather"}).output
    check([(item.name, item.arguments)])
    script.again()
    form = {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}
    jsonschema.validate(json.loads(client.responses.create(**asked, text={"format": form}).output_text), SCHEMA)


def test_a_schema_that_can_t_be_kept(script: Script, client: openai.OpenAI) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}

    def tools(*, strict: bool) -> list[Any]:
        return [NOW, {"type": "function", "function": {"name": "odd", "parameters": odd, "strict": strict}}]

    script.say("No.")
    for choice in ("auto", "required"):
        with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
            client.chat.completions.create(**KEPT | {"tools": tools(strict=True)}, tool_choice=choice)
        assert caught.value.param == "tools[1].function.parameters"
    # Nobody has promised anything of one that isn't strict: its arguments are an object.
    odd_one = {"type": "function", "function": {"name": "odd"}}
    script.say('<tool_call>\n{"name": "odd", "arguments": {"b": 1}}\n</tool_call>')
    found = client.chat.completions.create(**KEPT | {"tools": tools(strict=False)}, tool_choice=odd_one)
    assert calls_of(found.choices[0].message) == [("odd", '{"b": 1}')]


def random_schema(source: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema of a value, of the kinds that clients make of their types."""
    kinds = ["string", "enum", "integer", "number", "boolean", "null", "union"]
    kind = source.choice(kinds if depth > 2 else [*kinds, "array", "object", "object"])
    if kind == "string":
        return {"type": "string", "maxLength": source.randint(1, 12)}
    if kind == "enum":
        return {"enum": source.sample(["a", "b c", 'q"', "ü", 1, None, True], source.randint(1, 4))}
    if kind in ("integer", "number"):
        low = source.randint(-50, 50)
        return {"type": kind, "minimum": low, "maximum": low + source.randint(0, 100)}
    if kind == "union":
        return {"anyOf": [random_schema(source, 3), random_schema(source, 3)]}
    if kind == "array":
        return {"type": "array", "items": random_schema(source, depth + 1), "maxItems": source.randint(0, 3)}
    if kind == "object":
        return random_object(source, depth + 1)
    return {"type": kind}


def random_object(source: random.Random, depth: int = 0) -> dict[str, Any]:
    names = source.sample(["a", "b", "city", "max-len", "x y", "größe", "id"], source.randint(0, 4))
    properties = {name: random_schema(source, depth) for name in names}
    required = [name for name in names if source.random() < 0.7]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def check_random(client: openai.OpenAI, count: int, seed: int) -> None:
    source = random.Random(seed)
    for number in range(count):
        schema = random_object(source)
        tool = {"type": "function", "function": {"name": f"tool_{number}", "parameters": schema, "strict": True}}
        found = client.chat.completions.create(
            model="tale",
            messages=ASKED["messages"],
            tools=[tool],
            tool_choice={"type": "function", "function": {"name": f"tool_{number}"}},
            temperature=1,
            seed=number,
            max_tokens=700,
        ).choices[0]
        [(name, arguments)] = calls_of(found.message)
        assert name == f"tool_{number}"
        jsonschema.validate(json.loads(arguments), schema)


def test_numbers_without_bounds_come_to_an_end(script: Script, client: openai.OpenAI) -> None:
    kinds: list[Any] = [{"type": kind} for kind in ("integer", "number", ["number", "null"])]
    properties = {str(number): kind for number, kind in enumerate(kinds)}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
    script.say('<tool_call>\n{"name": "f", "arguments": {"0": ' + "7" * 900)  # as some models do
    choice = {"type": "function", "function": {"name": "f"}}
    asked: Any = {"model": "tale", "messages": ASKED["messages"], "temperature": 1, "seed": 3, "max_tokens": 400}
    found = client.chat.completions.create(**asked, tools=[tool], tool_choice=choice).choices[0]
    [(_, arguments)] = calls_of(found.message)
    jsonschema.validate(json.loads(arguments), schema)


def test_random_schemas(script: Script, client: openai.OpenAI) -> None:
    script.say("No.")
    check_random(client, 8, 5)


@pytest.mark.slow
def test_random_schemas_by_a_real_model(smollm2: Path) -> None:
    import contextlib

    from cutset.config import load_settings
    from cutset.llm import AsyncLLM
    from cutset.serve.app import build_app
    from cutset.serve.auth import Auth
    from cutset.serve.server import Server, bind, serve_in_thread
    from cutset.serve.service import Service

    with contextlib.ExitStack() as stack:
        settings = load_settings({"max_model_len": 2048})
        llm = stack.enter_context(contextlib.closing(AsyncLLM(smollm2, settings=settings)))
        service = Service(llm, names=("tale",))
        server = Server(build_app(service, Auth((), "127.0.0.1")), service)
        running = Running(service, stack.enter_context(serve_in_thread(server, bind("127.0.0.1", 0))))
        stack.callback(running.close)
        check_random(running.client(), 200, 7)
