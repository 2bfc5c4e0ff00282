"""`/v1/embeddings` by OpenAI's client, and Ollama's by its own."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import openai
import pytest

ollama = pytest.importorskip("ollama")

from cutset.serve.embeddings import encoded_vectors
from tests.serve.conftest import Running

TEXTS = ["Once upon a time", "The fox", "ü", "A queen " * 40]


def vectors(answer: Any) -> np.ndarray:
    return np.array([one.embedding for one in answer.data], dtype=np.float32)


def test_floats_and_base64_are_the_same_vectors(server: Running) -> None:
    client = server.client()
    plain = client.embeddings.create(model="tale", input=TEXTS, encoding_format="float")
    coded = client.embeddings.create(model="tale", input=TEXTS)  # the client asks for base64, and decodes it
    assert vectors(plain).tobytes() == vectors(coded).tobytes()
    assert [one.index for one in plain.data] == [0, 1, 2, 3]
    llm = server.service.llm
    assert plain.usage.prompt_tokens == plain.usage.total_tokens == sum(len(llm.encode(text)) for text in TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors(plain), axis=1), 1, rtol=1e-5)
    raw = httpx.post(f"{server.url}/v1/embeddings", json={"input": "The fox", "encoding_format": "base64"}).json()
    assert base64.b64decode(raw["data"][0]["embedding"]) == vectors(plain)[1].tobytes()


def test_others_get_a_turn_between_many_short_texts(server: Running) -> None:
    """Thousands of them, and the vectors that come of them, would hold up everybody for a second."""
    service, turns = server.service, 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def turns_while(work: Callable[[], Awaitable[Any]]) -> int:
        task, before = asyncio.create_task(others()), turns
        await work()
        task.cancel()
        return turns - before

    async def encode() -> None:
        for text in TEXTS * 10:
            await service.encode_to_embed(text, special=True, truncate=None)
            await service.encode(text)

    assert asyncio.run(turns_while(encode)) >= 80
    many = np.ones((50, 8), np.float32)
    assert asyncio.run(turns_while(lambda: encoded_vectors(many))) >= 50


def test_texts_and_ids_alone_and_together(server: Running) -> None:
    client, llm = server.client(), server.service.llm
    together = vectors(client.embeddings.create(model="tale", input=TEXTS))
    for text, vector in zip(TEXTS, together, strict=True):
        ids = llm.encode(text).tolist()
        for asked in (text, [text], ids, [ids]):
            assert vectors(client.embeddings.create(model="tale", input=asked)).tobytes() == vector.tobytes()


def test_fewer_dimensions(server: Running) -> None:
    client = server.client()
    whole = vectors(client.embeddings.create(model="tale", input=TEXTS))
    few = vectors(client.embeddings.create(model="tale", input=TEXTS, dimensions=16))
    wanted = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
    np.testing.assert_allclose(few, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"input": []}, "input", "0 entries"),
        ({"input": ["a", 3]}, "input", "mixes"),
        ({"input": [[]]}, None, "at least one token"),
        ({"input": [10**6]}, None, "vocabulary"),
        ({"input": [[1, "a"]]}, "input", ""),
        ({"input": {"a": 1}}, "input", ""),
        ({"input": "a", "dimensions": 0}, "dimensions", "0"),
        ({"input": "a", "dimensions": 10**6}, "dimensions", "1000000"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "hex"),
        ({"input": "a", "inputs": "b"}, "inputs", ""),
        ({"input": ["a"] * 2049}, "input", "2049"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens", ""),
    ],
)
def test_what_cannot_be_is_refused(server: Running, fields: Any, param: str | None, says: str) -> None:
    found = httpx.post(f"{server.url}/v1/embeddings", json={"model": "tale"} | fields, timeout=30)
    assert found.status_code == 400, found.text
    error = found.json()["error"]
    assert says in error["message"]
    assert param is None or param in (error["param"] or "")


def test_too_long_a_text_says_so_or_is_cut_where_asked(server: Running) -> None:
    limit = server.service.llm.max_model_len
    long = [5] * (limit + 10)
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().embeddings.create(model="tale", input=long)
    assert caught.value.code == "context_length_exceeded"
    cut = server.client().embeddings.create(model="tale", input=long, extra_body={"truncate_prompt_tokens": -1})
    assert cut.usage.prompt_tokens == limit
    assert (
        vectors(cut).tobytes() == vectors(server.client().embeddings.create(model="tale", input=long[:limit])).tobytes()
    )
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().embeddings.create(model="tale", input="a " * 2_000_000)
    assert caught.value.code == "context_length_exceeded"


def test_ollama_s_client(server: Running) -> None:
    client = ollama.Client(host=server.url)
    wanted = vectors(server.client().embeddings.create(model="tale", input=TEXTS))
    found = client.embed("tale", TEXTS)
    assert np.array(found.embeddings, dtype=np.float32).tobytes() == wanted.tobytes()
    assert found.prompt_eval_count > 4
    one = client.embed("tale", TEXTS[0], dimensions=8)
    assert np.array(one.embeddings).shape == (1, 8)
    old = client.embeddings("tale", TEXTS[1])
    assert np.array(old.embedding, dtype=np.float32).tobytes() == wanted[1].tobytes()
    assert client.embed("tale", "a fox " * 2000).prompt_eval_count == server.service.llm.max_model_len
    with pytest.raises(ollama.ResponseError, match="context"):
        client.embed("tale", "a fox " * 2000, truncate=False)
    client._client.close()


def test_they_share_the_machine_with_answers(server: Running) -> None:
    client = server.client()
    wanted = vectors(client.embeddings.create(model="tale", input=TEXTS)).tobytes()
    text = client.completions.create(model="tale", prompt="Once", temperature=0, max_tokens=40).choices[0].text
    texts: list[str] = []

    def complete() -> None:
        answer = client.completions.create(model="tale", prompt="Once", temperature=0, max_tokens=40)
        texts.append(answer.choices[0].text)

    threads = [threading.Thread(target=complete) for _ in range(3)]
    for thread in threads:
        thread.start()
    found = {vectors(client.embeddings.create(model="tale", input=TEXTS)).tobytes() for _ in range(4)}
    for thread in threads:
        thread.join(30)
    assert (found, texts) == ({wanted}, [text] * 3)


def test_a_client_that_leaves_ends_its_work(server: Running) -> None:
    llm = server.service.llm
    body = {"input": [[7] * llm.max_model_len] * 2000}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=0.5)
    server.idle()
    assert server.client().embeddings.create(model="tale", input="soon").data
