"""`/tokenize` and `/detokenize`, as vLLM names them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from cutset.serve.request_limits import RequestLimits
from tests.serve.conftest import Running


def ask(server: Running, path: str, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/{path}", json=fields, timeout=30)


def test_a_prompt_becomes_the_ids_that_the_model_gets(server: Running) -> None:
    llm = server.service.llm
    text = "Once upon a time, über 3 foxes"
    found = ask(server, "tokenize", model="tale", prompt=text).json()
    ids = llm.tokenizer.encode(text).tolist()
    assert found == {"count": len(ids), "max_model_len": llm.max_model_len, "tokens": ids, "token_strs": None}
    bare = ask(server, "tokenize", prompt=text, add_special_tokens=False, return_token_strs=True).json()
    assert bare["tokens"] == llm.tokenizer.encode(text, add_special_tokens=False).tolist()
    assert bare["tokens"] != ids
    assert bare["token_strs"] == [llm.tokenizer.token(one) for one in bare["tokens"]]
    assert ask(server, "tokenize", prompt="", add_special_tokens=False).json()["tokens"] == []


def test_long_texts_too(server: Running) -> None:
    text = "The fox ran. " * 600
    found = ask(server, "tokenize", prompt=text).json()
    assert found["tokens"] == server.service.llm.tokenizer.encode(text).tolist()
    assert ask(server, "detokenize", tokens=found["tokens"][1:]).json()["prompt"].strip() == text.strip()


def test_a_conversation_is_written_by_the_template(server: Running) -> None:
    llm = server.service.llm
    messages = [{"role": "system", "content": "Once"}, {"role": "user", "content": "upon a time"}]
    found = ask(server, "tokenize", messages=messages).json()
    assert found["tokens"] == llm.encode_chat(messages).tolist()
    special = ask(server, "tokenize", messages=messages, add_special_tokens=True).json()
    assert special["tokens"] == llm.tokenizer.encode(llm.render_chat(messages)).tolist()


def test_ids_become_their_text_with_special_tokens(server: Running) -> None:
    tokenizer = server.service.llm.tokenizer
    ids = tokenizer.encode("Once upon a time").tolist()
    assert tokenizer.special_ids.intersection(ids)
    text = tokenizer.decode(ids, skip_special_tokens=False)
    assert ask(server, "detokenize", model="tale:latest", tokens=ids).json() == {"prompt": text}
    assert ask(server, "detokenize", tokens=[]).json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "fields", "status", "says"),
    [
        ("tokenize", {}, 400, "either prompt or messages"),
        ("tokenize", {"prompt": "a", "messages": []}, 400, "either prompt or messages"),
        ("tokenize", {"prompt": 3}, 400, "prompt"),
        ("tokenize", {"prompt": "a", "promt": 1}, 400, "promt"),
        ("tokenize", {"prompt": "a", "model": "other"}, 404, "isn't served"),
        ("tokenize", {"messages": [{"role": "user"}]}, 400, "content"),
        ("tokenize", {"messages": ["x"]}, 400, "messages"),
        ("tokenize", {"messages": [], "chat_template_kwargs": {"nobody": 1}}, 400, "nobody"),
        ("detokenize", {}, 400, "tokens"),
        ("detokenize", {"tokens": [-1]}, 400, "-1"),
        ("detokenize", {"tokens": [10**9]}, 400, "1000000000"),
        ("detokenize", {"tokens": [2**80]}, 400, ""),
        ("detokenize", {"tokens": "abc"}, 400, "tokens"),
        ("detokenize", {"tokens": [1.5]}, 400, "tokens"),
    ],
)
def test_what_cannot_be_is_refused(server: Running, path: str, fields: Any, status: int, says: str) -> None:
    found = ask(server, path, **fields)
    assert found.status_code == status, found.text
    assert says in found.json()["error"]["message"]
    server.idle()


def test_half_of_a_surrogate_pair_is_refused(server: Running) -> None:
    headers = {"content-type": "application/json"}
    found = httpx.post(f"{server.url}/tokenize", content=b'{"prompt": "\\ud800"}', headers=headers)
    assert found.status_code == 400


def test_a_text_that_fills_a_body_is_refused_at_once(server: Running) -> None:
    found = ask(server, "tokenize", prompt="a " * (RequestLimits().body_bytes // 2 - 100))
    assert (found.status_code, found.json()["error"]["code"]) == (400, "context_length_exceeded")
