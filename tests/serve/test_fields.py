"""Every field that a client may send is used, given to the template, refused by name, or changes nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.chat.chat_completion_stream_options_param import ChatCompletionStreamOptionsParam

from cutset.config import load_settings
from cutset.llm import AsyncLLM
from cutset.models.registry import BUNDLED
from cutset.models.text import template_process
from cutset.models.text.chat import ChatTemplate
from cutset.serve.request_fields import IGNORED, REFUSED, TAKEN
from cutset.serve.requests import ChatRequest, CompletionRequest, StreamOptions
from tests.serve.conftest import TEMPLATE, Running

CHAT = {"messages": [{"role": "user", "content": "Once upon a time"}], "max_tokens": 1, "temperature": 0}
READS = (
    TEMPLATE + "{{ reasoning_effort }}{{ verbosity }}{{ enable_thinking }}{% for d in documents or [] %}{{ d.text }}"
)
READS += "{% endfor %}{{ 'assistant' if add_generation_prompt }}{{ bos_token }}"


@pytest.fixture
def template(server: Running) -> Iterator[Callable[[str], None]]:
    """Gives the server's model another chat template."""
    llm = server.service.llm
    before, made = llm.chat_template(), list[ChatTemplate]()

    def use(source: str) -> None:
        made.append(ChatTemplate(source, **llm.tokenizer.special_tokens))
        llm._template = made[-1]

    yield use
    llm._template = before
    for one in made:
        one.close()


def chat(server: Running, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/chat/completions", json=CHAT | fields, timeout=60)


def complete(server: Running, **fields: Any) -> httpx.Response:
    asked = {"prompt": "Once", "max_tokens": 1, "temperature": 0} | fields
    return httpx.post(f"{server.url}/v1/completions", json=asked, timeout=60)


def tokens(response: httpx.Response) -> int:
    assert response.status_code == 200, response.text
    count: int = response.json()["usage"]["prompt_tokens"]
    return count


def refused(response: httpx.Response) -> str:
    """The parameter that is named."""
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].rpartition(".")[2] in error["message"]
    return str(error["param"])


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (ChatRequest, chat_create_params.CompletionCreateParamsStreaming),
        (CompletionRequest, completion_create_params.CompletionCreateParamsStreaming),
    ],
)
def test_every_field_of_the_official_client_is_accounted_for(kind: Any, params: Any) -> None:
    used = {field.name for field in msgspec.structs.fields(kind)}
    assert not used & IGNORED
    assert not used & REFUSED.keys()
    assert not IGNORED & REFUSED.keys()
    offered = set(typing.get_type_hints(params))
    assert len(offered) > 15
    assert offered - used - IGNORED - REFUSED.keys() == set()
    options = {field.name for field in msgspec.structs.fields(StreamOptions)}
    assert set(ChatCompletionStreamOptionsParam.__annotations__) - options == set()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_isn_t_served_is_refused_by_name(server: Running, name: str) -> None:
    values = {"spaces_between_special_tokens": False, "web_search_options": {}}
    assert refused(chat(server, **{name: values.get(name, ["x"])})) == name
    assert refused(complete(server, **{name: values.get(name, {"x": 1})})) == name
    for nothing in (None, *REFUSED[name]):
        assert tokens(chat(server, **{name: nothing}))
        assert tokens(complete(server, **{name: nothing}))


def test_what_changes_nothing_is_ignored(server: Running) -> None:
    plain = chat(server).json()["choices"]
    odd: list[Any] = [7, "x", {"a": [1]}, False]
    for number, name in enumerate(sorted(IGNORED)):
        assert chat(server, **{name: odd[number % 4]}).json().get("choices") == plain, name
        assert complete(server, **{name: odd[(number + 1) % 4]}).status_code == 200, name
    both = {"prompt_cache_retention": "24h", "prompt_cache_options": {"ttl": 1}, "moderation": {"x": True}}
    assert chat(server, **both).json()["choices"] == plain


def test_unknown_fields_are_ignored_where_they_are_null_and_refused_else(server: Running) -> None:
    nothing = {"frobnicate": None, "max_token": None, "stop": None, "stream_options": None, "tools": None, "n": None}
    assert tokens(chat(server, **nothing))
    assert tokens(complete(server, **nothing))
    assert refused(chat(server, frobnicate=0)) == "frobnicate"
    assert refused(complete(server, max_token=5)) == "max_token"
    assert chat(server, messages=None).status_code == complete(server, prompt=None).status_code == 400
    stream = {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False, "odd": None}}
    assert "usage" in chat(server, **stream).text
    for name in ("continuous_usage_stats", "odd"):
        assert name in refused(chat(server, stream=True, stream_options={name: True}))


@pytest.mark.parametrize("name", ["reasoning_effort", "verbosity"])
def test_fields_of_the_prompt_reach_the_template_or_are_refused(
    server: Running, template: Callable[[str], None], name: str
) -> None:
    assert refused(chat(server, **{name: "high"})) == name  # this one knows neither
    assert refused(chat(server, chat_template_kwargs={name: "high"})) == f"chat_template_kwargs.{name}"
    assert tokens(chat(server, **{name: None}))
    template(READS)
    plain = tokens(chat(server))
    assert tokens(chat(server, **{name: "a very high one"})) > plain
    assert tokens(chat(server, chat_template_kwargs={name: "a very high one"})) > plain
    assert tokens(chat(server, chat_template_kwargs={name: "low"}, **{name: "low"})) > plain
    assert refused(chat(server, chat_template_kwargs={name: "low"}, **{name: "high"})) == name


def test_no_effort_is_no_request(server: Running) -> None:
    assert tokens(chat(server, reasoning_effort="none")) == tokens(chat(server))


def test_variables_that_a_template_knows(server: Running, template: Callable[[str], None]) -> None:
    assert refused(chat(server, chat_template_kwargs={"enable_thinking": False})).endswith("enable_thinking")
    assert tokens(chat(server, chat_template_kwargs={"enable_thinking": None, "other": None}))
    assert tokens(chat(server, chat_template_kwargs={}))
    template(READS)
    plain = tokens(chat(server))
    assert tokens(chat(server, chat_template_kwargs={"enable_thinking": "the dog"})) > plain
    assert tokens(chat(server, documents=[{"text": "the cat and the dog"}])) > plain
    assert refused(chat(server, chat_template_kwargs={"enable_thinkin": False})).endswith("enable_thinkin")


@pytest.mark.parametrize(
    "name",
    [
        *sorted(TAKEN),
        "bos_token",
        "eos_token",
        "__class__",
        "_private",
        "cutset count",
        "a b",
        "1",
        "",
        "a-b",
        "a.b",
        "x" * 500,
        "\u0000",
        "größe\n",
    ],
)
def test_names_that_are_taken_are_400_by_name(server: Running, template: Callable[[str], None], name: str) -> None:
    template(READS + "{{ self.a }}{{ messages | length }}")
    values: tuple[Any, ...] = ([], 1, None, {"a": 1}) if name in ("messages", "a b") else (1, None)
    for value in values:
        response = chat(server, chat_template_kwargs={name: value})
        if value is None and name == "x" * 500:  # nobody's, and null
            assert response.status_code == 200
            continue
        assert response.status_code == 400, (name, value, response.text)
        error = response.json()["error"]
        assert error["param"].startswith("chat_template_kwargs.")
        assert repr(name)[1:20] in error["message"]


def test_values_that_are_none_of_a_template_s(server: Running, template: Callable[[str], None]) -> None:
    template(READS)
    deep: Any = 1
    for _ in range(200):
        deep = {"a": deep}
    for value in (deep, [[[{"a": None}]]], 10**400, -0.0):
        assert chat(server, chat_template_kwargs={"enable_thinking": value}).status_code in (200, 400)
    for kwargs in ([], "x", 1, [["a", 1]]):
        assert refused(chat(server, chat_template_kwargs=kwargs)) == "chat_template_kwargs"


def test_a_last_message_is_continued(server: Running, template: Callable[[str], None]) -> None:
    template("{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}")
    messages = [{"role": "user", "content": "Tell"}, {"role": "assistant", "content": "Once upon a time, there was a"}]
    texts = []
    for how in ({}, {"add_generation_prompt": False}, {"continue_final_message": True}):
        texts.append(chat(server, messages=messages, max_tokens=12, **how).json()["choices"][0]["message"]["content"])
    prompt = "[Tell][Once upon a time, there was a"
    for text, end in zip(texts, ("]<answer>", "]", ""), strict=True):
        ids = server.service.llm.encode_rendered(prompt + end).tolist()
        assert complete(server, prompt=ids, max_tokens=12).json()["choices"][0]["text"] == text
    assert len(set(texts)) == 3
    both = {"continue_final_message": True, "add_generation_prompt": True}
    assert refused(chat(server, messages=messages, **both)) == "continue_final_message"
    for name in ("continue_final_message", "add_generation_prompt"):
        assert refused(chat(server, chat_template_kwargs={name: True})) == f"chat_template_kwargs.{name}"
        assert refused(chat(server, **{name: "yes"})) == name


def test_special_tokens_around_a_prompt(server: Running) -> None:
    assert refused(chat(server, add_special_tokens=True)) == "add_special_tokens"
    assert refused(complete(server, add_special_tokens=False)) == "add_special_tokens"
    assert tokens(chat(server, add_special_tokens=False))
    assert tokens(complete(server, add_special_tokens=True))


def test_history_of_calls(server: Running, template: Callable[[str], None]) -> None:
    iterates = "{% for k, v in (m.function_call or {}).get('arguments', {}).items() %}{{ k }}={{ v }}{% endfor %}"
    template("{% for m in messages %}{{ m.role }}{{ m.content }}" + iterates + "{% endfor %}")
    call = {"name": "weather", "arguments": json.dumps({"city": "the little dog", "days": 2})}
    history = [
        {"role": "user", "content": "?", "name": None},
        {
            "role": "assistant",
            "content": None,
            "function_call": call,
            "refusal": None,
            "audio": None,
            "tool_calls": None,
        },
        {"role": "function", "name": "weather", "content": "sun"},
    ]
    empty = [history[0], history[1] | {"function_call": call | {"arguments": "{}"}}, history[2]]
    assert tokens(chat(server, messages=history)) > tokens(chat(server, messages=empty))
    heard = [*history[:1], {"role": "assistant", "content": None, "audio": {"id": "a"}}]
    assert "messages[1].audio" in chat(server, messages=heard).json()["error"]["message"]
    assert chat(server, messages=[{"role": "assistant", "content": None}]).status_code == 400


def test_defaults_of_the_model_hold_for_requests_that_say_nothing(tmp_path: Path) -> None:
    from cutset.serve.app import build_app
    from cutset.serve.auth import Auth
    from cutset.serve.request_limits import RequestLimits
    from cutset.serve.server import Server, bind, serve_in_thread
    from cutset.serve.service import Service

    folder = tmp_path / "model"
    shutil.copytree(BUNDLED["story"], folder)
    said = {"top_k": 1, "temperature": 0.01, "max_new_tokens": 7, "min_new_tokens": 5}
    (folder / "generation_config.json").write_text(json.dumps(said))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with contextlib.closing(AsyncLLM(folder, settings=load_settings({"threads": 1}))) as llm:
        service = Service(llm, limits=RequestLimits())
        server = Server(build_app(service, Auth([], "127.0.0.1")), service)
        with serve_in_thread(server, bind("127.0.0.1", 0)) as url:
            for path, asked in (
                ("completions", {"prompt": "Once"}),
                ("chat/completions", {"messages": CHAT["messages"]}),
            ):
                found = [httpx.post(f"{url}/v1/{path}", json=asked).json() for _ in range(6)]
                assert len({json.dumps(one["choices"]) for one in found}) == 1
                assert found[0]["usage"]["completion_tokens"] == 7
                one = httpx.post(f"{url}/v1/{path}", json=asked | {"max_tokens": 2, "temperature": None}).json()
                assert one["usage"]["completion_tokens"] == 2
                hot = [
                    httpx.post(f"{url}/v1/{path}", json=asked | {"temperature": 5, "top_k": -1}).json() for _ in "abcd"
                ]
                assert len({json.dumps(one["choices"]) for one in hot}) > 1


def test_the_loop_never_waits_for_a_template(
    server: Running, template: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    endless = "{% set ns = namespace(a=(1,), b=(1,)) %}{% for i in range(200) %}{% set ns.a = (ns.a, ns.a) %}"
    endless += "{% set ns.b = (ns.b, ns.b) %}{% endfor %}{{ ns.a == ns.b }}"
    template("{% if messages[0].content == 'hang' %}" + endless + "{% endif %}{{ messages[0].content }}")
    monkeypatch.setattr(template_process, "SECONDS", 3.0)
    with ThreadPoolExecutor(1) as one:
        hanging = one.submit(chat, server, messages=[{"role": "user", "content": "hang"}])
        beside = 0
        while not hanging.done():
            assert tokens(chat(server))
            assert tokens(complete(server))
            assert httpx.get(f"{server.url}/health").status_code == 200
            beside += 1
        assert beside >= 2
    assert hanging.result().status_code == 400
    assert "takes longer than" in hanging.result().json()["error"]["message"]
