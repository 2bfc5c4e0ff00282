"""Ollama's API, asked by its own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

ollama = pytest.importorskip("ollama")

from starlette.types import Message

from cutset.config import load_settings
from cutset.llm import AsyncLLM
from cutset.serve.api_errors import ApiError
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.ollama import openai_messages, openai_options
from cutset.serve.ollama_answers import ChatLines
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service
from tests.serve.conftest import Running
from tests.serve.scripted import TEMPLATE

MESSAGES = [{"role": "system", "content": "Once upon"}, {"role": "user", "content": " a time there was a"}]
GREEDY: dict[str, Any] = {"temperature": 0, "num_predict": 12}


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    found = ollama.Client(host=server.url)
    yield found
    found._client.close()


def test_a_chat_says_what_openai_s_api_says(server: Running, client: Any) -> None:
    wanted = server.client().chat.completions.create(model="tale", messages=MESSAGES, temperature=0, max_tokens=12)
    found = client.chat("tale", MESSAGES, options=GREEDY)
    assert (found.model, found.message.role) == ("tale", "assistant")
    assert found.message.content == wanted.choices[0].message.content
    assert (found.done, found.done_reason) == (True, "length")
    assert (found.prompt_eval_count, found.eval_count) == (wanted.usage.prompt_tokens, 12)
    assert found.total_duration >= found.eval_duration >= 0
    assert found.created_at.endswith("Z")


@pytest.mark.parametrize("stream", [False, True])
def test_how_long_it_took_adds_up(client: Any, stream: bool) -> None:
    """Clients divide tokens by it."""
    for ask in (
        lambda: client.chat("tale", MESSAGES, options=GREEDY, stream=stream),
        lambda: client.generate("tale", "Once upon", options=GREEDY, stream=stream),
        lambda: client.generate("tale", "Once upon", options=GREEDY, stream=stream, raw=True),
    ):
        made = ask()
        found = list(made)[-1] if stream else made
        assert found.eval_count == GREEDY["num_predict"]
        assert found.eval_duration > 0
        assert found.prompt_eval_duration > 0
        assert found.load_duration + found.prompt_eval_duration + found.eval_duration == found.total_duration


def test_a_stream_is_a_line_for_each_piece(server: Running, client: Any) -> None:
    whole = client.chat("tale", MESSAGES, options=GREEDY)
    pieces = list(client.chat("tale:latest", MESSAGES, options=GREEDY, stream=True))
    assert "".join(piece.message.content for piece in pieces) == whole.message.content
    assert len(pieces) > 4
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].eval_count == 12
    assert pieces[-1].eval_duration > 0 < pieces[-1].prompt_eval_duration
    body = {"model": "tale", "messages": MESSAGES, "options": GREEDY}  # Ollama streams where nothing is said
    with httpx.stream("POST", f"{server.url}/api/chat", json=body) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert "x-cutset-mode" in answer.headers
        assert json.loads(list(answer.iter_lines())[-1])["done"] is True


def test_options_reach_the_sampler(server: Running, client: Any) -> None:
    options = {"temperature": 0.9, "seed": 7, "top_k": 20, "top_p": 0.9, "repeat_penalty": 1.2, "repeat_last_n": -1}
    options |= {"presence_penalty": 0.3, "frequency_penalty": 0.2, "min_p": 0.01, "num_predict": 16, "num_ctx": 4096}
    wanted = server.client().chat.completions.create(
        model="tale",
        messages=MESSAGES,
        temperature=0.9,
        seed=7,
        top_p=0.9,
        presence_penalty=0.3,
        frequency_penalty=0.2,
        max_tokens=16,
        extra_body={"top_k": 20, "repetition_penalty": 1.2, "min_p": 0.01},
    )
    assert client.chat("tale", MESSAGES, options=options).message.content == wanted.choices[0].message.content
    other = client.chat("tale", MESSAGES, options=options | {"seed": 8})
    assert other.message.content != wanted.choices[0].message.content


def test_stop_ends_an_answer(client: Any) -> None:
    text = client.chat("tale", MESSAGES, options=GREEDY).message.content
    word = text.split()[2]
    found = client.chat("tale", MESSAGES, options=GREEDY | {"stop": [word]})
    assert (found.message.content, found.done_reason) == (text[: text.index(word)], "stop")


def test_a_format_is_kept(server: Running, client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}, "fox": {"type": "boolean"}},
        "required": ["age", "fox"],
        "additionalProperties": False,
    }
    options = GREEDY | {"num_predict": 60}
    found = json.loads(client.chat("tale", MESSAGES, format=schema, options=options).message.content)
    assert set(found) == {"age", "fox"}
    assert 0 <= found["age"] <= 99
    raw = client.generate("tale", "Once", format=schema, raw=True, options=options).response
    assert set(json.loads(raw)) == {"age", "fox"}
    with pytest.raises(ollama.ResponseError):
        client.chat("tale", MESSAGES, format={"type": "nothing"})


def test_tools_are_called(scripted: Any) -> None:
    script, server = scripted
    script.say('Sure.<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>')
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    asked: dict[str, Any] = {"model": "tale", "messages": [{"role": "user", "content": "Rain?"}], "tools": tools}
    client = ollama.Client(host=server.url)
    whole = client.chat(**asked, options={"temperature": 0})
    script.again()
    pieces = list(client.chat(**asked, options={"temperature": 0}, stream=True))
    called = [call for piece in pieces for call in piece.message.tool_calls or []]
    for [call] in (whole.message.tool_calls, called):
        assert (call.function.name, dict(call.function.arguments)) == ("weather", {"city": "Rome"})
    assert whole.message.content == "".join(piece.message.content for piece in pieces) == "Sure."
    script.say("It rains.")
    result = {"role": "tool", "tool_name": "weather", "content": "rain"}
    again = client.chat("tale", [*asked["messages"], whole.message, result], tools=tools, options={"temperature": 0})
    assert again.message.content == "It rains."
    assert "tools" in client.show("tale").capabilities
    client._client.close()


def test_a_thought_is_asked_for_as_each_template_has_it(scripted: Any) -> None:
    script, server = scripted
    client = ollama.Client(host=server.url)
    asked: dict[str, Any] = {"model": "tale", "messages": [{"role": "user", "content": "x"}], "options": GREEDY}
    levels = TEMPLATE + "{{ reasoning_effort }}{% if add_generation_prompt %}<think>\n{% endif %}"
    switch = TEMPLATE + "{{ enable_thinking }}{% if enable_thinking is false %}<think></think>{% endif %}"
    always = TEMPLATE + "{% if add_generation_prompt %}<think>\n{% endif %}"
    for template, think, variables in (
        (levels, True, {}),  # gpt-oss's own level
        (levels, "high", {"reasoning_effort": "high"}),
        (switch, True, {"enable_thinking": True}),
        (switch, "high", {"enable_thinking": True}),
        (switch, False, {"enable_thinking": False}),
        (always, True, {}),
        (always, "low", {}),
    ):
        with script.template(template):
            script.say("Yes." if template is switch else "</think>Yes.")
            found = client.chat(**asked, think=think)
            assert found.message.content == "Yes."
            llm = server.service.llm
            prompt = llm.render_chat(asked["messages"], add_generation_prompt=True, **variables)
            assert found.prompt_eval_count == len(llm.encode_rendered(prompt)), (template, think)
    with pytest.raises(ollama.ResponseError, match="think must be"):
        client.chat(**asked, think="somewhat")
    client._client.close()


def test_logprobs_are_openai_s(server: Running, client: Any) -> None:
    body = {"model": "tale", "messages": MESSAGES, "options": GREEDY, "stream": False, "logprobs": True}
    found = httpx.post(f"{server.url}/api/chat", json=body | {"top_logprobs": 2}).json()
    assert len(found["logprobs"]) == 12
    assert all(len(one["top_logprobs"]) == 2 for one in found["logprobs"])


def test_generate_goes_by_the_template_or_raw(server: Running, client: Any) -> None:
    api = server.client()
    messages = [{"role": "system", "content": "Once upon"}, {"role": "user", "content": " a time"}]
    wanted = api.chat.completions.create(model="tale", messages=messages, temperature=0, max_tokens=12)
    found = client.generate("tale", " a time", system="Once upon", options=GREEDY)
    assert found.response == wanted.choices[0].message.content
    raw = api.completions.create(model="tale", prompt="Once upon a time", temperature=0, max_tokens=12)
    assert client.generate("tale", "Once upon a time", raw=True, options=GREEDY).response == raw.choices[0].text
    pieces = list(client.generate("tale", "Once upon a time", raw=True, options=GREEDY, stream=True))
    assert "".join(piece.response for piece in pieces) == raw.choices[0].text
    assert (pieces[-1].done_reason, pieces[-1].eval_count) == ("length", 12)


def test_no_limit_is_the_end_of_the_context(server: Running, client: Any) -> None:
    for limit in ({}, {"num_predict": -1}):
        found = client.generate("tale", "Once upon a time", raw=True, options={"temperature": 0} | limit)
        assert found.eval_count > 16
        assert found.eval_count + found.prompt_eval_count <= server.service.llm.max_model_len


def test_more_tokens_than_fit_are_as_many_as_fit(server: Running, client: Any) -> None:
    """As Ollama has it; OpenAI's API refuses them."""
    context = server.service.llm.max_model_len
    options = {"temperature": 0, "num_predict": context}
    for found in (
        client.chat("tale", MESSAGES, options=options),
        client.generate("tale", "Once upon", options=options),
        client.generate("tale", "Once upon", options=options, raw=True),
        list(client.generate("tale", "Once upon", options=options, stream=True))[-1],
    ):
        assert 12 < found.eval_count <= context - found.prompt_eval_count


def test_nothing_to_say_loads_the_model(client: Any) -> None:
    assert client.generate("tale").done_reason == "load"
    assert client.chat("tale", []).done_reason == "load"
    assert client.generate("tale", "", keep_alive=0).done_reason == "unload"


def test_the_models_are_listed(server: Running, client: Any) -> None:
    [one] = client.list().models
    spec = server.service.llm.spec
    assert (one.model, one.details.family, one.details.format) == ("tale:latest", spec.family, "safetensors")
    assert one.size > 10_000
    assert len(one.digest) == 64
    shown = client.show("tale")
    assert shown.modelinfo["general.parameter_count"] == spec.parameter_count()
    assert shown.modelinfo[f"{spec.family}.context_length"] == server.service.llm.max_model_len
    assert "completion" in shown.capabilities
    assert "tools" not in shown.capabilities
    assert "for m in messages" in shown.template
    [running] = client.ps().models
    assert (running.model, running.context_length) == ("tale:latest", server.service.llm.max_model_len)
    assert httpx.get(f"{server.url}/api/version").json()["version"].count(".") == 2


def test_the_asynchronous_client(server: Running) -> None:
    async def run() -> str:
        client = ollama.AsyncClient(host=server.url)
        text = ""
        async for piece in await client.chat("tale", MESSAGES, options=GREEDY, stream=True):
            text += piece.message.content
        await client._client.aclose()
        return text

    assert asyncio.run(run())


def test_errors_are_texts_with_a_status(server: Running, client: Any) -> None:
    def refused(status: int, says: str, **fields: Any) -> None:
        with pytest.raises(ollama.ResponseError, match=says) as caught:
            client.chat(**({"model": "tale", "messages": MESSAGES} | fields))
        assert caught.value.status_code == status

    refused(404, "isn't served here", model="other")
    refused(404, "isn't served here", model="tale:7b")
    refused(400, "does not support thinking", think=True)
    refused(400, "reads nothing but text", messages=[{"role": "user", "content": "x", "images": ["aGk="]}])
    refused(400, "temperature", options={"temperature": -1})
    refused(400, "no option", options={"temprature": 1})
    refused(400, "mirostat", options={"mirostat": 2})
    refused(400, "num_predict", options={"num_predict": 0})
    refused(400, "context", messages=[{"role": "user", "content": "a fox " * 2000}])
    with pytest.raises(ollama.ResponseError, match="not found"):
        client.show("other")
    assert httpx.post(f"{server.url}/api/pull", json={"model": "x"}).json()["error"].startswith("there is no such path")
    assert client.chat("tale", MESSAGES, options=GREEDY, think=False).message.content
    server.idle()


def test_a_key_that_is_missing_is_said_in_ollama_s_way(serve: Any) -> None:
    server = serve(("a-secret-key",))
    for headers, status in (({}, 401), ({"Authorization": "Bearer a-secret-key"}, 200)):
        client = ollama.Client(host=server.url, headers=headers)
        if status == 200:
            assert client.list().models
        else:
            with pytest.raises(ollama.ResponseError, match="send an API key") as caught:
                client.list()
            assert caught.value.status_code == status
        client._client.close()


def test_a_model_without_a_template_continues_the_prompt() -> None:
    llm = AsyncLLM("story", settings=load_settings({"threads": 1}))
    try:
        service = Service(llm)
        with serve_in_thread(Server(build_app(service, Auth([], "127.0.0.1")), service), bind("127.0.0.1", 0)) as url:
            client = ollama.Client(host=url)
            whole = client.generate("story", "Once upon a time", options=GREEDY)
            assert whole.response == client.generate("story", "Once upon a time", raw=True, options=GREEDY).response
            for fields, says in (({"system": "Be short"}, "system"), ({"suffix": "."}, "suffix")):
                with pytest.raises(ollama.ResponseError, match=says):
                    client.generate("story", "Once", **fields)
            with pytest.raises(ollama.ResponseError, match="no chat template"):
                client.chat("story", MESSAGES)
            client._client.close()
    finally:
        llm.close()


def test_penalties_are_of_the_whole_text_or_of_none() -> None:
    assert openai_options({"repeat_penalty": 1.3, "repeat_last_n": 0}) == {}
    assert openai_options({"repeat_penalty": 1.3}) == {"repetition_penalty": 1.3}
    assert openai_options({"repeat_penalty": 1, "repeat_last_n": 64}) == {"repetition_penalty": 1}
    assert openai_options({"mirostat": 0, "mirostat_tau": 5.0, "tfs_z": 1.0, "num_gpu": 3, "stop": None}) == {}
    for wrong in ({"repeat_penalty": 1.3, "repeat_last_n": 64}, {"num_predict": True}, {"tfs_z": 0.5}):
        with pytest.raises(ApiError):
            openai_options(wrong)


def test_calls_get_ids_and_results_find_theirs() -> None:
    calls = [{"function": {"name": name, "arguments": {"city": name}}} for name in ("sun", "rain")]
    found = openai_messages(
        [
            {"role": "assistant", "thinking": "hm", "tool_calls": calls},
            {"role": "tool", "tool_name": "sun", "content": "1"},
            {"role": "tool", "content": "2"},
        ]
    )
    first, second = found[0]["tool_calls"]
    assert json.loads(first["function"]["arguments"]) == {"city": "sun"}
    assert found[0]["reasoning_content"] == "hm"
    assert [one["tool_call_id"] for one in found[1:]] == [first["id"], second["id"]]
    assert found[1]["name"] == "sun"
    with pytest.raises(ApiError):
        openai_messages([{"role": "assistant", "tool_calls": ["x"]}])


def translated(*events: Any, streams: bool = True) -> list[dict[str, Any]]:
    """What a client of Ollama's gets for what OpenAI's API sends."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        to = ChatLines("m", 0).to(send)
        kind = b"text/event-stream" if streams else b"application/json"
        await to({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for number, event in enumerate(events):
            data = event if isinstance(event, bytes) else json.dumps(event).encode()
            data = b"data: " + data + b"\n\n" if streams else data
            for part in (data[:9], data[9:]):  # events needn't come in one piece
                last = number + 1 == len(events) and part == data[9:]
                await to({"type": "http.response.body", "body": part, "more_body": not last})

    asyncio.run(run())
    return [json.loads(line) for line in b"".join(one.get("body", b"") for one in sent).splitlines()]


def delta(**said: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": said, "finish_reason": None}]}


def test_thinking_and_calls_are_translated() -> None:
    def call(index: int, **function: str) -> dict[str, Any]:
        return {"index": index, "function": function}

    lines = translated(
        delta(role="assistant", content=""),
        delta(reasoning_content="hm"),
        delta(tool_calls=[call(0, name="sun", arguments="")]),
        delta(tool_calls=[call(0, arguments='{"city": "Ro')]),
        delta(tool_calls=[call(0, arguments='me"}'), call(1, name="rain", arguments="not JSON")]),
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}},
        b"[DONE]",
    )
    assert [line["done"] for line in lines] == [False, False, True]
    assert lines[0]["message"]["thinking"] == "hm"
    called = [one["function"] for one in lines[1]["message"]["tool_calls"]]
    assert [(one["name"], one["arguments"]) for one in called] == [
        ("sun", {"city": "Rome"}),
        ("rain", {"arguments": "not JSON"}),
    ]
    assert (lines[2]["done_reason"], lines[2]["prompt_eval_count"], lines[2]["eval_count"]) == ("stop", 3, 5)
    message = {"content": None, "reasoning_content": "hm", "tool_calls": [call(0, name="sun", arguments="{}")]}
    answer = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    [whole] = translated(answer | {"usage": {"prompt_tokens": 3, "completion_tokens": 5}}, streams=False)
    assert whole["message"]["thinking"] == "hm"
    assert whole["message"]["tool_calls"][0]["function"]["arguments"] == {}


def test_an_error_in_a_stream_is_its_last_line() -> None:
    lines = translated(delta(content="On"), {"error": {"message": "the engine failed"}})
    assert lines[-1] == {"error": "the engine failed"}
    assert lines[0]["message"]["content"] == "On"


def test_too_large_is_said_as_ollama_says_it(server: Running) -> None:
    """Also of a request that becomes too large by the ids that its calls get."""
    limit = server.service.limits.body_bytes
    calls = [{"function": {"name": "f"}}] * (limit // 60)
    for messages in ([{"role": "user", "content": "x" * limit}], [{"role": "assistant", "tool_calls": calls}]):
        answer = httpx.post(f"{server.url}/api/chat", json={"model": "tale", "messages": messages}, timeout=60)
        assert answer.status_code == 413
        assert isinstance(answer.json()["error"], str)
