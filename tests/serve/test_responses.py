"""`/v1/responses` by the official client: texts, tools, reasoning, events, and what went before."""

from __future__ import annotations

import json
import typing
from typing import Any

import httpx
import msgspec
import openai
import pytest
from openai.types.responses import Response, response_create_params

from cutset.serve.api_errors import ApiError
from cutset.serve.responses.response_fields import IGNORED, REFUSED, ResponseRequest
from cutset.serve.responses.response_store import ResponseStore, StoredResponse
from tests.serve.conftest import Running
from tests.serve.scripted import TEMPLATE, Script

TOOL = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
ASKED: dict[str, Any] = {"model": "tale", "input": "What is the weather in Paris?", "temperature": 0}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
THINKS = TEMPLATE.replace("{{ m.content }}", "{{ m.reasoning_content }}{{ m.content }}") + "{# <think> #}"


def prompt_of(script: Script, text: str) -> int:
    return len(script.llm.encode_rendered(text))


def test_a_text(script: Script, client: openai.OpenAI) -> None:
    script.say("It rains.")
    found = client.responses.create(**ASKED, instructions="Be brief.", metadata={"a": "b"}, user="me")
    assert (found.output_text, found.status, found.object, found.model) == (
        "It rains.",
        "completed",
        "response",
        "tale",
    )
    assert found.id == found._request_id
    assert found.usage.input_tokens == prompt_of(script, f"[system]Be brief.[user]{ASKED['input']}[assistant]")
    assert found.usage.total_tokens == found.usage.input_tokens + found.usage.output_tokens
    assert (found.instructions, found.metadata, found.store) == ("Be brief.", {"a": "b"}, True)
    assert found.model_extra["cutset"] == {"mode": "local"}
    Response.model_validate(found.model_dump(by_alias=True))


def test_what_is_cut_off_is_incomplete(script: Script, client: openai.OpenAI) -> None:
    script.say("It rains.")
    found = client.responses.create(**ASKED, max_output_tokens=3)
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert found.output[0].status == "incomplete"
    script.again()
    events = list(client.responses.create(**ASKED, max_output_tokens=3, stream=True))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == found.output_text


def test_events_of_everything(script: Script, client: openai.OpenAI) -> None:
    with script.template(THINKS):
        script.say(f"<think>Hm.</think>Sure.\n{CALL}\n{CALL}")
        events = list(client.responses.create(**ASKED, tools=[TOOL], stream=True))
        script.again()
        whole = client.responses.create(**ASKED, tools=[TOOL])
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:2] == ["created", "in_progress"]
    assert kinds[-1] == "completed"
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    text = ["output_item.added", "content_part.added", "X.delta", "X.done", "content_part.done", "output_item.done"]
    expected = [one.replace("X", "reasoning_text") for one in text] + [one.replace("X", "output_text") for one in text]
    expected += [*call, *call]
    runs = [kind for before, kind in zip(["", *kinds], kinds, strict=False) if kind != before or "delta" not in kind]
    assert runs == ["created", "in_progress", *expected, "completed"]
    last = events[-1].response
    for response in (last, whole):
        assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
        assert response.output[0].content[0].text == "Hm."
        assert response.output_text == "Sure."
        assert [(item.name, item.arguments) for item in response.output[2:]] == [("weather", '{"city": "Paris"}')] * 2
        assert len({item.call_id for item in response.output[2:]}) == 2
        assert 0 < response.usage.output_tokens_details.reasoning_tokens < response.usage.output_tokens
        assert {item.status for item in response.output} == {"completed"}
    # Events say of their items what the response says in the end.
    for event in events:
        if event.type == "response.output_item.done":
            assert event.item == last.output[event.output_index]
        if event.type == "response.function_call_arguments.delta":
            assert event.item_id == last.output[event.output_index].id
    assert "".join(one.delta for one in events if one.type == "response.output_text.delta") == "Sure."


def test_the_clients_own_stream(script: Script, client: openai.OpenAI) -> None:
    script.say(f"Sure.{CALL}")
    with client.responses.stream(**ASKED, tools=[TOOL]) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    assert (final.output_text, final.output[1].arguments) == ("Sure.", '{"city": "Paris"}')


def test_what_is_no_call_is_text(script: Script, client: openai.OpenAI) -> None:
    text = '<tool_call>{"name": "weather", "arguments": {"city": 01}}</tool_call>'
    script.say(text)
    assert client.responses.create(**ASKED, tools=[TOOL]).output_text == text
    script.again()
    with client.responses.stream(**ASKED, tools=[TOOL]) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == text


def test_results_of_calls(script: Script, client: openai.OpenAI) -> None:
    rest = "[tool]Sunny[assistant]"
    with script.template(THINKS):
        script.say(f"<think>Hm.</think>Sure.{CALL}")
        first = client.responses.create(**ASKED, tools=[TOOL])
        call = first.output[-1]
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}
        prompt = f"[user]{ASKED['input']}[assistant]Hm.Sure.<tool_call>weather" + '{"city": "Paris"}</tool_call>' + rest
        script.say("It is sunny.")
        by_id = client.responses.create(**ASKED | {"input": [result]}, previous_response_id=first.id)
        items = [{"role": "user", "content": ASKED["input"]}, *first.output, result]
        by_hand = client.responses.create(**ASKED | {"input": items}, store=False)
        for found in (by_id, by_hand):
            assert found.output_text == "It is sunny."
            assert found.usage.input_tokens == prompt_of(script, prompt)
        assert by_id.previous_response_id == first.id
        third = client.responses.create(**ASKED | {"input": "Thanks"}, previous_response_id=by_id.id)
        assert third.usage.input_tokens == prompt_of(script, f"{prompt}It is sunny.[user]Thanks[assistant]")


def test_items_of_every_kind(script: Script, client: openai.OpenAI) -> None:
    script.say("Hi")
    items = [
        {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "One"}]},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Two", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "Rain"}]},
        {"type": "function_call", "call_id": "d", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "d", "output": "Sun"},
    ]
    found = client.responses.create(**ASKED | {"input": items})
    call = "<tool_call>weather{}</tool_call>"
    text = f"[system]Be brief.[user]One[assistant]Two{call}[tool]Rain[assistant]{call}[tool]Sun[assistant]"
    assert found.usage.input_tokens == prompt_of(script, text)


def test_stored_responses(script: Script, client: openai.OpenAI) -> None:
    script.say("Hi")
    found = client.responses.create(**ASKED)
    assert client.responses.retrieve(found.id) == found
    [item] = client.responses.input_items.list(found.id)
    assert item.content == ASKED["input"]
    client.responses.delete(found.id)
    for ask in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            ask(found.id)
    unstored = client.responses.create(**ASKED, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unstored.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**ASKED, previous_response_id=unstored.id)
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")


def test_a_store_is_bounded_and_each_client_s_own() -> None:
    store = ResponseStore(most=3, most_bytes=4000)

    def put(client: str | None, name: str, size: int = 10) -> None:
        store.put(client, StoredResponse({"id": name, "output": ["x" * size]}, [], [{"a": 1}]))

    for name in "abcd":
        put("me", name)
    with pytest.raises(ApiError, match="'a'"):
        store.get("me", "a")
    assert store.get("me", "b").items == [{"a": 1}, "x" * 10]
    with pytest.raises(ApiError):
        store.get("you", "b")
    with pytest.raises(ApiError):
        store.delete(None, "b")
    put("me", "e")  # c was used longest ago
    with pytest.raises(ApiError):
        store.get("me", "c")
    put("me", "large", 5000)
    assert len(store) == 3
    put("me", "middle", 3940)
    assert len(store) == 1
    store.delete("me", "middle")
    assert (len(store), store.nbytes) == (0, 0)


def test_logprobs(script: Script, client: openai.OpenAI) -> None:
    script.say("It rains.")
    found = client.responses.create(**ASKED, include=["message.output_text.logprobs"], top_logprobs=2)
    told = found.output[0].content[0].logprobs
    assert "".join(one.token for one in told) == "It rains."
    assert {len(one.top_logprobs) for one in told} == {2}
    assert not client.responses.create(**ASKED).output[0].content[0].logprobs


def test_choice_of_tools(script: Script, client: openai.OpenAI) -> None:
    script.say(CALL)
    assert client.responses.create(**ASKED, tools=[TOOL], tool_choice="none").output_text == CALL
    script.again()
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}
    found = client.responses.create(**ASKED, tools=[TOOL], tool_choice=allowed, parallel_tool_calls=False)
    assert [item.type for item in found.output] == ["function_call"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": {}}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "x"}]}, "input[0].output"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].function.name"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
        ({"text": {"odd": 1}}, "text.odd"),
        ({"reasoning": {"odd": 1}}, "reasoning.odd"),
        ({"reasoning": {"effort": "high"}}, "reasoning_effort"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": "warm"}, "temperature"),
    ],
)
def test_what_isn_t_supported_is_refused_by_name(scripted: tuple[Script, Running], more: Any, param: str) -> None:
    found = httpx.post(f"{scripted[1].url}/v1/responses", json=ASKED | more, timeout=60)
    assert found.status_code == 400, found.text
    assert found.json()["error"]["param"] == param
    assert len(found.json()["error"]["message"]) < 400


def test_every_field_of_the_official_client_is_accounted_for() -> None:
    used = {field.name for field in msgspec.structs.fields(ResponseRequest)}
    assert not used & (IGNORED | REFUSED.keys())
    offered = set(typing.get_type_hints(response_create_params.ResponseCreateParamsStreaming))
    assert len(offered) > 25
    assert offered - used - IGNORED - REFUSED.keys() == set()


def test_an_error_after_the_first_event(scripted: tuple[Script, Running]) -> None:
    script, running = scripted
    script.say("word " * 50)
    with running.client().responses.create(**ASKED, stream=True) as stream:
        kinds = []
        for event in stream:
            kinds.append(event.type)
            if event.type == "response.output_text.delta" and running.service.running:
                for one in list(running.service.running.values()):
                    one.end(ApiError(504, "too late", kind="timeout"))
    assert kinds[-1] in ("response.failed", "response.completed")
    assert json.dumps(kinds).count("response.created") == 1
