"""Answers of a given form, by the official client: valid, streamed or not; what can't be kept is refused at once."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from typing import Any, Literal

import httpx
import jsonschema
import pytest
from pydantic import BaseModel

from cutset.engine.grammar import Grammar
from cutset.engine.grammar_compiler import GrammarCompiler
from cutset.serve import service as service_module
from tests.serve.conftest import Running

CHAT: Any = [{"role": "user", "content": "Once upon a time"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "mood": {"enum": ["happy", "sad"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "friends": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2},
    },
    "required": ["mood", "age", "friends"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "child", "strict": True, "schema": SCHEMA}}


def ask(server: Running, **fields: Any) -> Any:
    asked: dict[str, Any] = {"model": "tale", "messages": CHAT, "max_tokens": 200, "seed": 3} | fields
    return server.client().chat.completions.create(**asked)


def valid(text: str | None, schema: Any = SCHEMA) -> Any:
    found = json.loads(text or "")
    jsonschema.validate(found, schema)
    return found


def post(server: Running, path: str = "completions", **fields: Any) -> httpx.Response:
    asked = {"prompt": "Once"} if path == "completions" else {"messages": CHAT}
    return httpx.post(f"{server.url}/v1/{path}", json=asked | {"max_tokens": 8, "temperature": 0} | fields, timeout=60)


def refused(response: httpx.Response, param: str) -> str:
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert len(error["message"]) < 400
    return str(error["message"])


def test_a_schema(server: Running) -> None:
    found = ask(server, response_format=FORMAT, n=3)
    ages = [valid(choice.message.content) for choice in found.choices]
    assert len({json.dumps(one) for one in ages}) > 1
    assert {choice.finish_reason for choice in found.choices} == {"stop"}
    pieces = dict.fromkeys(range(3), "")
    for chunk in ask(server, response_format=FORMAT, n=3, stream=True):
        pieces[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(pieces.values()) == [choice.message.content for choice in found.choices]
    told = ask(server, response_format=FORMAT, logprobs=True, top_logprobs=20)
    content = told.choices[0].logprobs.content
    assert "".join(one.token for one in content) == told.choices[0].message.content
    assert {len(one.top_logprobs) for one in content} == {20}


def test_the_client_s_own_models(server: Running) -> None:
    class Child(BaseModel):
        name: Literal["Tim", "Mia"]
        likes: bool

    found = server.client().chat.completions.parse(
        model="tale", messages=CHAT, response_format=Child, max_tokens=100, seed=1
    )
    assert found.choices[0].message.parsed.name in ("Tim", "Mia")
    with server.client().chat.completions.stream(
        model="tale", messages=CHAT, response_format=Child, max_tokens=100, seed=1
    ) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == found.choices[0].message.parsed


def test_any_object_and_other_formats(server: Running) -> None:
    bounded = {"logit_bias": {str(server.service.llm.tokenizer.encode("}")[-1]): 9}}
    for fields in (
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "any"}}},
    ):
        found = ask(server, **fields, **bounded, max_tokens=300).choices[0]
        assert found.message.content.startswith("{")
        if found.finish_reason == "stop":
            assert isinstance(json.loads(found.message.content), dict)
    schema = {"type": "json_object", "schema": SCHEMA}
    valid(ask(server, response_format=schema).choices[0].message.content)
    plain = ask(server, temperature=0, max_tokens=9).choices[0].message.content
    for fields in (
        {"response_format": {"type": "text"}},
        {"response_format": None},
        {"extra_body": {"guided_json": None}},
    ):
        assert ask(server, temperature=0, max_tokens=9, **fields).choices[0].message.content == plain


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": "[0-9]{3}-[a-z]{2}"}, "[0-9]{3}-[a-z]{2}"),
        ({"guided_choice": ["red", "blue sky"]}, "red|blue sky"),
        ({"guided_grammar": 'root ::= "a" [0-9] "b"', "guided_decoding_backend": "guidance"}, "a[0-9]b"),
        ({"guided_grammar": 'start: "x" NUMBER\nNUMBER: /[1-9]/'}, "x[1-9]"),
        ({"guided_json": json.dumps({"const": [1, 2]}), "guided_whitespace_pattern": ""}, r"\[1,2\]"),
        ({"structured_outputs": {"choice": ["red"]}}, "red"),
        ({"structured_outputs": {"json": {"const": {"a": 1}}, "disable_any_whitespace": True}}, r'\{"a":1\}'),
        ({"structured_outputs": {"regex": "(ab){2}"}, "stop": ["b"]}, "a"),
        ({"structured_outputs": {"regex": "(ab){2}"}, "stop": ["b"], "include_stop_str_in_output": True}, "ab"),
    ],
    ids=str,
)
def test_vllm_s_names(server: Running, fields: dict[str, Any], pattern: str) -> None:
    for path in ("completions", "chat/completions"):
        choice = post(server, path, **fields, max_tokens=30).json()["choices"][0]
        text = choice["text"] if path == "completions" else choice["message"]["content"]
        assert re.fullmatch(pattern, text), text
        assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "param", "named"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
            "",
            "`not`",
        ),
        ({"response_format": {"type": "json_schema"}}, "", "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "", "name"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": 3}}}, "", "strict"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "shema": {}}}}, "", "shema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 7}}}, "", "schema"),
        ({"response_format": {"type": "structural_tag", "structures": []}}, "", "structural_tag"),
        ({"response_format": {"type": ["text"]}}, "", "type"),
        ({"response_format": {}}, "", "type"),
        ({"response_format": {"type": "text", "schema": {}}}, "", "schema"),
        ({"guided_json": {"type": "array", "uniqueItems": True}}, "guided_json", "`uniqueItems`"),
        ({"guided_json": "{"}, "guided_json", "JSON"),
        ({"guided_regex": "("}, "guided_regex", "regex"),
        ({"guided_grammar": "start: foo"}, "guided_grammar", "foo"),
        ({"guided_choice": ["a"], "guided_decoding_backend": "outlines"}, "guided_decoding_backend", "outlines"),
        ({"guided_decoding_backend": "auto"}, "guided_decoding_backend", "alone"),
        ({"structured_outputs": {"jsn": {}}}, "structured_outputs", "jsn"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs", "regex"),
        ({"guided_regex": "a", "response_format": FORMAT}, "guided_regex", "response_format"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex", "one of guided_regex, guided_choice"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "100"),
        ({"logit_bias": {"999999": 1}}, "logit_bias", "outside"),
        ({"allowed_token_ids": [1, 999999]}, "allowed_token_ids", "outside"),
        ({"stop_token_ids": [999999]}, "stop_token_ids", "outside"),
        ({"bad_words": [""]}, "bad_words", "bad_words"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "truncate_prompt_tokens"),
        ({"allowed_token_ids": []}, "allowed_token_ids", "allowed_token_ids"),
    ],
    ids=str,
)
def test_what_can_t_be_kept_is_refused_by_name(server: Running, fields: Any, param: str, named: str) -> None:
    for path in ("completions", "chat/completions"):
        message = refused(post(server, path, **fields), param or "response_format")
        assert named in message
    server.idle()


def deep(levels: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def test_hostile_grammars_cost_nobody_anything(server: Running) -> None:
    schemas: list[Any] = [
        {"enum": ["x" * (1 << 20)]},
        deep(500),
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"type": "string", "pattern": "((a{1000}){1000}){1000}"},
        {"type": "string", "pattern": "(" * 10_000},
        {"type": "integer", "multipleOf": 999_999_937},
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        {"properties": {f"p{i}": {} for i in range(3000)}},
    ]
    for schema in schemas:
        refused(post(server, guided_json=schema), "guided_json")
    raw = '{"prompt": "a", "guided_json": ' + '{"items":' * 10_000 + "1" + "}" * 10_001
    response = httpx.post(f"{server.url}/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "deep" in response.json()["error"]["message"]
    server.idle()


def test_the_loop_never_waits_for_a_compiler(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    held, compile_ = threading.Event(), GrammarCompiler.compile

    def slow(self: GrammarCompiler, grammar: Grammar) -> Any:
        if grammar.text == "slow":
            assert threading.current_thread().name.startswith("cutset-grammar")
            held.wait(20)
        return compile_(self, grammar)

    monkeypatch.setattr(GrammarCompiler, "compile", slow)
    monkeypatch.setattr(service_module, "COMPILING", 0.5)
    answers = list[httpx.Response]()
    waiting = threading.Thread(target=lambda: answers.append(post(server, guided_regex="slow")))
    waiting.start()
    beside = 0
    while waiting.is_alive():
        assert post(server, max_tokens=1).status_code == 200
        assert post(server, guided_regex=f"a{beside}").json()["choices"][0]["text"] == f"a{beside}"
        beside += 1
    waiting.join()
    held.set()
    assert beside >= 2
    assert "takes longer" in refused(answers[0], "guided_regex")


def test_without_the_library_one_line_says_so(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    message = refused(post(server, guided_regex="never before"), "guided_regex")
    assert "pip install 'cutset[structured]'" in message


def test_lists_of_tokens_and_words(server: Running) -> None:
    tokenizer = server.service.llm.tokenizer

    def text(**fields: Any) -> str:
        return str(post(server, **fields).json()["choices"][0]["text"])

    plain = text()
    ids = tokenizer.encode(plain).tolist()
    assert text(logit_bias={str(ids[-1]): 100}, max_tokens=3) == tokenizer.decode([ids[-1]] * 3) != plain
    word = plain.split()[0]
    assert word not in text(bad_words=[word], max_tokens=20)
    assert set(tokenizer.encode(text(allowed_token_ids=ids[-2:], max_tokens=4)).tolist()) <= set(ids)
    long = "The cat. Once"
    assert text(prompt=long, truncate_prompt_tokens=2) == text(prompt=tokenizer.encode(long)[-2:].tolist())
    assert post(server, prompt=long, truncate_prompt_tokens=2).json()["usage"]["prompt_tokens"] == 2


def test_a_prompt_is_echoed(server: Running) -> None:
    client = server.client()
    prompts = ["The cat", "Once upon"]
    asked: Any = {"model": "tale", "prompt": prompts, "max_tokens": 6, "temperature": 0, "n": 2}
    plain = client.completions.create(**asked)
    whole = client.completions.create(**asked, echo=True)
    right = [prompts[i // 2] + choice.text for i, choice in enumerate(plain.choices)]
    assert [choice.text for choice in whole.choices] == right
    texts = dict.fromkeys(range(4), "")
    for chunk in client.completions.create(**asked, echo=True, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert list(texts.values()) == right
    ids = server.service.llm.encode("The cat").tolist()
    [one] = client.completions.create(**asked | {"prompt": ids, "n": 1}, echo=True).choices
    assert one.text.strip() == right[0].strip()


def test_many_clients_half_of_them_constrained(server: Running) -> None:
    async def all_of_them() -> list[str]:
        async with httpx.AsyncClient(timeout=60) as client:

            async def one(number: int) -> str:
                fields: Any = {"prompt": f"Once {number}", "max_tokens": 60, "seed": number}
                fields |= {"guided_regex": "[a-f]{4}[0-9]{4}"} if number % 2 else {}
                answer = await client.post(f"{server.url}/v1/completions", json=fields)
                return str(answer.json()["choices"][0]["text"])

            return await asyncio.gather(*map(one, range(24)))

    texts = asyncio.run(all_of_them())
    assert all(re.fullmatch("[a-f]{4}[0-9]{4}", text) for text in texts[1::2])
    assert not any(re.fullmatch("[a-f]{4}[0-9]{4}", text) for text in texts[::2])
