"""What Open WebUI's backend asks of an OpenAI-compatible server and of Ollama's: its requests one after another, as its
routers (`routers/openai.py`, `routers/ollama.py`, `utils/payload.py`) build them. It is too large to be installed."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.serve.conftest import Running
from tests.serve.scripted import Script

USER = {
    "X-OpenWebUI-User-Name": "A%20User",
    "X-OpenWebUI-User-Id": "6c1e",
    "X-OpenWebUI-User-Email": "a@example",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Chat-Id": "9a7b",
}
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer none"} | USER
MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.fixture
def url(scripted: tuple[Script, Running]) -> str:
    return scripted[1].url


def get(url: str, path: str) -> Any:
    response = httpx.get(url + path, headers=HEADERS)
    assert response.status_code == 200, response.text
    return response.json()


def post(url: str, path: str, body: dict[str, Any]) -> Any:
    """As it does: a text, with no content type beside the header."""
    response = httpx.post(url + path, content=json.dumps(body), headers=HEADERS, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def streamed(url: str, path: str, body: dict[str, Any]) -> list[str]:
    with httpx.stream("POST", url + path, content=json.dumps(body), headers=HEADERS, timeout=60) as response:
        assert response.status_code == 200, response.read()
        kind = "text/event-stream" if path.startswith("/v1") else "application/x-ndjson"
        assert response.headers["content-type"] == kind
        return [line for line in response.iter_lines() if line]


def chunks(lines: list[str]) -> list[Any]:
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_connection_of_openai_s_kind(script: Script, url: str) -> None:
    [model] = get(url, "/v1/models")["data"]
    assert isinstance(model["id"], str)
    assert model.get("name", model["id"])
    # A chat: parameters of the model's page, a usage at the end.
    script.say("Hi there.")
    chat: dict[str, Any] = {"stream": True, "model": model["id"], "messages": MESSAGES}
    chat |= {"temperature": 0.0, "top_p": 1.0, "min_p": 0.0, "max_tokens": 128, "seed": 42, "stop": ["\n\n"]}
    chat |= {"frequency_penalty": 0.0, "presence_penalty": 0.0, "logit_bias": {"5": -100}}
    chat |= {"stream_options": {"include_usage": True}}
    pieces = chunks(streamed(url, "/v1/chat/completions", chat))
    assert "".join(c["delta"].get("content") or "" for one in pieces for c in one["choices"]) == "Hi there."
    assert pieces[-1]["usage"]["completion_tokens"] > 0
    # The title of it, and follow-ups: a task, not streamed, with who asks beside it.
    script.say('{ "title": "Greetings" }')
    asked = [{"role": "user", "content": "### Task:\nGenerate a concise title.\n### Chat History:\n…"}]
    title: dict[str, Any] = {"model": model["id"], "messages": asked, "stream": False, "max_completion_tokens": 1000}
    title["metadata"] = {"task": "title_generation", "task_body": {"chat_id": "9a7b"}, "chat_id": "9a7b"}
    found = post(url, "/v1/chat/completions", title)["choices"][0]["message"]["content"]
    assert json.loads(found) == {"title": "Greetings"}
    vectors = post(url, "/v1/embeddings", {"input": ["a", "b"], "model": model["id"], "user": "6c1e"})
    assert [one["index"] for one in vectors["data"]] == [0, 1]


def test_native_tools(script: Script, url: str) -> None:
    script.say(f"Sure.{CALL}")
    asked = {"stream": True, "model": "tale", "messages": MESSAGES, "tools": [TOOL], "temperature": 0}
    pieces = chunks(streamed(url, "/v1/chat/completions", asked | {"stream_options": {"include_usage": True}}))
    calls: dict[int, dict[str, Any]] = {}
    for one in pieces:  # it joins them by their index
        for choice in one["choices"]:
            for call in choice["delta"].get("tool_calls") or ():
                kept = calls.setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
                kept["id"] = kept["id"] or call.get("id", "")
                kept["name"] += call["function"].get("name") or ""
                kept["arguments"] += call["function"].get("arguments") or ""
    [call] = calls.values()
    assert (call["name"], json.loads(call["arguments"])) == ("weather", {"city": "Rome"})
    function = {"name": call["name"], "arguments": call["arguments"]}
    said = [{"id": call["id"], "type": "function", "function": function, "index": 0}]
    history = [*MESSAGES, {"role": "assistant", "content": "Sure.", "tool_calls": said}]
    history.append({"role": "tool", "tool_call_id": call["id"], "content": "rain"})
    script.say("It rains.")
    pieces = chunks(streamed(url, "/v1/chat/completions", asked | {"messages": history}))
    assert "".join(c["delta"].get("content") or "" for one in pieces for c in one["choices"]) == "It rains."


def test_a_connection_of_ollama_s_kind(script: Script, url: str) -> None:
    models = {one["model"]: one for one in get(url, "/api/tags")["models"]}
    for one in get(url, "/api/ps")["models"]:
        assert one["name"] in {each["name"] for each in models.values()}
        assert datetime.fromisoformat(one["expires_at"]).timestamp() > 0
    version = get(url, "/api/version")["version"]
    assert tuple(map(int, re.sub(r"^v|-.*", "", version).split("."))) >= (0, 5, 0)
    # A model is asked for with a tag, and looked up in the list with it.
    name = "tale:latest"
    assert name in models
    assert post(url, "/api/show", {"model": name})["capabilities"]
    script.say("Hi there.")
    options = {"temperature": 0.0, "top_p": 1.0, "seed": 42, "num_ctx": 2048, "num_predict": 128, "mirostat": 0}
    options |= {"repeat_penalty": 1.0, "top_k": 40, "min_p": 0.0, "use_mmap": True, "num_thread": 4, "stop": ["\n\n"]}
    chat: dict[str, Any] = {"model": name, "messages": MESSAGES, "stream": True, "options": options}
    lines = [json.loads(line) for line in streamed(url, "/api/chat", chat | {"keep_alive": "5m"})]
    assert "".join(line["message"]["content"] for line in lines) == "Hi there."
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1]["eval_count"] > 0
    # A task: what OpenAI calls max_tokens stands beside the options, and the system's text too.
    script.say('{ "tags": ["a"] }')
    task = {"model": name, "messages": MESSAGES[1:], "stream": False, "num_predict": 1000, "system": "Be short."}
    found = post(url, "/api/chat", task | {"metadata": {"task": "tags_generation"}, "format": "json"})
    assert json.loads(found["message"]["content"]) == {"tags": ["a"]}
    cut = post(url, "/api/chat", task | {"num_predict": 2})
    assert (cut["done_reason"], cut["eval_count"]) == ("length", 2)
    one = post(url, "/api/embeddings", {"model": name, "prompt": "a\nb"})["embedding"]
    both = post(url, "/api/embed", {"model": name, "input": ["a", "b"], "prompt": "a\nb", "truncate": True})
    assert len(both["embeddings"]) == 2
    assert len(one) == len(both["embeddings"][0])
    assert post(url, "/api/generate", {"model": name, "keep_alive": 0, "prompt": ""})["done_reason"] == "unload"


def test_ollama_s_tools(script: Script, url: str) -> None:
    script.say(f"Sure.{CALL}")
    asked = {"model": "tale:latest", "messages": MESSAGES, "tools": [TOOL], "options": {"temperature": 0.0}}
    lines = [json.loads(line) for line in streamed(url, "/api/chat", asked | {"stream": True})]
    [call] = [call for line in lines for call in line["message"].get("tool_calls") or ()]
    assert call["function"]["arguments"] == {"city": "Rome"}
    # It gives calls ids of its own, and puts the arguments back as an object.
    said = {"index": 0, "id": "1f0e", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    history = [*MESSAGES, {"role": "assistant", "content": "", "tool_calls": [said]}]
    history.append({"role": "tool", "content": "rain", "tool_call_id": "1f0e"})
    script.say("It rains.")
    assert post(url, "/api/chat", asked | {"messages": history, "stream": False})["message"]["content"] == "It rains."


def test_its_conversation_of_another_server_s_calls_keeps_their_ids() -> None:
    from cutset.serve.ollama import openai_messages

    calls = [{"id": name, "function": {"name": "f", "arguments": {}}} for name in ("x", "y")]
    results = [{"role": "tool", "content": name, "tool_call_id": name} for name in ("y", "x")]
    found = openai_messages([{"role": "assistant", "content": "", "tool_calls": calls}, *results])
    assert [call["id"] for call in found[0]["tool_calls"]] == ["x", "y"]
    assert [one["tool_call_id"] for one in found[1:]] == ["y", "x"]
