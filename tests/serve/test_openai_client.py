"""The official client runs the whole surface, and gets its own exception types for errors."""

from __future__ import annotations

import openai
import pytest

from cutset.engine.params import SamplingParams
from cutset.llm import LLM
from tests.serve.conftest import Running

PROMPT = "Once upon a time, there was a little dog."
CHAT = [{"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def expected() -> str:
    """What the engine says without a server."""
    with LLM("story", threads=1) as llm:
        return llm.generate(PROMPT, SamplingParams(max_tokens=24, temperature=0))[0].text


def test_models(server: Running) -> None:
    client = server.client()
    assert [model.id for model in client.models.list()] == ["tale"]
    assert client.models.retrieve("tale").owned_by == "cutset"


def test_completion(server: Running, expected: str) -> None:
    found = server.client().completions.create(model="tale", prompt=PROMPT, max_tokens=24, temperature=0)
    assert (found.object, found.model, found.choices[0].finish_reason) == ("text_completion", "tale", "length")
    assert found.choices[0].text == expected
    assert found.usage.completion_tokens == 24
    assert found.usage.prompt_tokens + 24 == found.usage.total_tokens
    assert found.model_extra["cutset"] == {"mode": "local"}
    assert found._request_id == found.id  # what a user reports is what the dashboard shows


def test_streamed_completion(server: Running, expected: str) -> None:
    stream = server.client().completions.create(
        model="tale", prompt=PROMPT, max_tokens=24, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert len(chunks) > 5
    assert len({chunk.id for chunk in chunks}) == 1
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == expected
    assert chunks[-2].choices[0].finish_reason == "length"
    assert not chunks[-1].choices
    assert chunks[-1].usage.completion_tokens == 24
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_several_prompts_and_samples_keep_their_places(server: Running, expected: str) -> None:
    client, prompts = server.client(), ["The cat", PROMPT]
    found = client.completions.create(model="tale", prompt=prompts, n=2, max_tokens=24, temperature=0)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in found.choices[2:]] == [expected] * 2
    assert found.choices[0].text == found.choices[1].text != expected
    assert found.usage.completion_tokens == 4 * 24
    texts = dict.fromkeys(range(4), "")
    for chunk in client.completions.create(
        model="tale", prompt=prompts, n=2, max_tokens=24, temperature=0, stream=True
    ):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert list(texts.values()) == [choice.text for choice in found.choices]


def test_token_ids_are_a_prompt(server: Running, expected: str) -> None:
    ids = server.service.llm.encode(PROMPT).tolist()
    for prompt in (ids, [ids]):
        found = server.client().completions.create(model="tale", prompt=prompt, max_tokens=24, temperature=0)
        assert found.choices[0].text == expected


def test_chat(server: Running) -> None:
    client = server.client()
    found = client.chat.completions.create(model="tale", messages=CHAT, max_completion_tokens=24, temperature=0)
    message = found.choices[0].message
    assert (message.role, found.object) == ("assistant", "chat.completion")
    assert message.content
    deltas = [
        chunk.choices[0].delta
        for chunk in client.chat.completions.create(
            model="tale", messages=CHAT, max_tokens=24, temperature=0, stream=True
        )
    ]
    assert deltas[0].role == "assistant"
    assert all(delta.role is None for delta in deltas[1:])
    assert "".join(delta.content or "" for delta in deltas) == message.content


def test_a_developer_is_the_system(server: Running) -> None:
    client = server.client()

    def tokens(role: str) -> int:
        messages = [{"role": role, "content": "Be brief."}, *CHAT]
        return client.chat.completions.create(model="tale", messages=messages, max_tokens=1).usage.prompt_tokens

    assert tokens("developer") == tokens("system") != tokens("user")


def test_the_clients_own_stream_helper(server: Running) -> None:
    asked = {"model": "tale", "messages": CHAT, "temperature": 0, "stop": "."}  # it takes `length` for an error
    with server.client().chat.completions.stream(**asked) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        assert text == stream.get_final_completion().choices[0].message.content


def test_a_seed_gives_the_same_text_again_and_samples_differ(server: Running) -> None:
    client = server.client()

    def texts(seed: int) -> list[str]:
        found = client.completions.create(model="tale", prompt=PROMPT, max_tokens=16, n=3, seed=seed)
        return [choice.text for choice in found.choices]

    assert texts(7) == texts(7) != texts(8)
    assert len(set(texts(7))) > 1


def test_a_stop_string_ends_the_text(server: Running, expected: str) -> None:
    stop = expected[20:24]
    client = server.client()
    found = client.completions.create(model="tale", prompt=PROMPT, max_tokens=24, temperature=0, stop=[stop, "§"])
    assert found.choices[0].text == expected[: expected.index(stop)]
    assert found.choices[0].finish_reason == "stop"
    assert found.choices[0].model_extra["stop_reason"] == stop
    pieces = client.completions.create(
        model="tale", prompt=PROMPT, max_tokens=24, temperature=0, stop=stop, stream=True
    )
    assert "".join(piece.choices[0].text for piece in pieces) == found.choices[0].text


def test_logprobs_of_completions(server: Running, expected: str) -> None:
    client = server.client()
    found = client.completions.create(model="tale", prompt=PROMPT, max_tokens=24, temperature=0, logprobs=3)
    told = found.choices[0].logprobs
    assert "".join(told.tokens) == expected
    assert [expected[at : at + len(token)] for at, token in zip(told.text_offset, told.tokens, strict=True)] == (
        told.tokens
    )
    assert all(max(top.values()) == one <= 0 for one, top in zip(told.token_logprobs, told.top_logprobs, strict=True))
    assert any(len(top) == 3 for top in told.top_logprobs)
    pieces = client.completions.create(
        model="tale", prompt=PROMPT, max_tokens=24, temperature=0, logprobs=3, stream=True
    )
    shown = [piece.choices[0].logprobs for piece in pieces]
    assert [at for one in shown for at in one.text_offset] == told.text_offset
    assert [value for one in shown for value in one.token_logprobs] == told.token_logprobs


def test_logprobs_of_chats(server: Running) -> None:
    client = server.client()
    asked = {"model": "tale", "messages": CHAT, "max_tokens": 12, "temperature": 0, "logprobs": True}
    found = client.chat.completions.create(**asked, top_logprobs=2)
    content = found.choices[0].logprobs.content
    assert "".join(one.token for one in content) == found.choices[0].message.content
    assert b"".join(bytes(one.bytes) for one in content).decode() == found.choices[0].message.content
    assert all(len(one.top_logprobs) == 2 and one.top_logprobs[0].logprob == one.logprob for one in content)
    assert client.chat.completions.create(**asked).choices[0].logprobs.content[0].top_logprobs == []


def test_usage_counts_cached_tokens(server: Running) -> None:
    client, prompt = server.client(), "The old man and the bird " * 8
    first, second = (
        client.completions.create(model="tale", prompt=prompt, max_tokens=1).usage.prompt_tokens_details.cached_tokens
        for _ in range(2)
    )
    salted = client.completions.create(model="tale", prompt=prompt, max_tokens=1, extra_body={"cache_salt": "mine"})
    assert first == 0 < second
    assert salted.usage.prompt_tokens_details.cached_tokens == 0


def test_vllms_parameters(server: Running, expected: str) -> None:
    more = {"top_k": 1, "min_p": 0.0, "repetition_penalty": 1.0, "min_tokens": 2, "skip_special_tokens": True}
    found = server.client().completions.create(model="tale", prompt=PROMPT, max_tokens=24, extra_body=more)
    assert found.choices[0].text == expected  # top_k of 1 is greedy


@pytest.mark.parametrize(
    ("more", "error", "code", "param"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "model_not_found", "model"),
        ({"prompt": "word " * 2000}, openai.BadRequestError, "context_length_exceeded", None),
        ({"max_tokens": 100_000}, openai.BadRequestError, "context_length_exceeded", None),
        ({"max_tokens": 0}, openai.BadRequestError, None, "max_tokens"),
        ({"temperature": -1}, openai.BadRequestError, None, "temperature"),
        ({"temperature": "warm"}, openai.BadRequestError, None, "temperature"),
        ({"n": 129}, openai.BadRequestError, None, "n"),
        ({"logprobs": 21}, openai.BadRequestError, None, "logprobs"),
        ({"stop": ["x"] * 10_000}, openai.BadRequestError, None, "stop"),
        ({"stop": ["x" * 5000]}, openai.BadRequestError, None, "stop"),
        ({"prompt": []}, openai.BadRequestError, None, "prompt"),
        ({"prompt": ["a"] * 200}, openai.BadRequestError, None, "prompt"),
        ({"prompt": [1, "a"]}, openai.BadRequestError, None, "prompt"),
        ({"prompt": [10**7]}, openai.BadRequestError, None, None),
        ({"extra_body": {"stream_options": {"include_usage": True}}}, openai.BadRequestError, None, "stream_options"),
        ({"best_of": 3}, openai.BadRequestError, None, "best_of"),
        ({"logit_bias": {"5": 101}}, openai.BadRequestError, None, "logit_bias"),
        ({"extra_body": {"max_token": 5}}, openai.BadRequestError, None, "max_token"),
    ],
)
def test_errors_of_completions(
    server: Running, more: dict[str, object], error: type[openai.APIStatusError], code: str | None, param: str | None
) -> None:
    with pytest.raises(error) as caught:
        server.client().completions.create(**{"model": "tale", "prompt": PROMPT, "max_tokens": 4} | more)
    assert (caught.value.code, caught.value.param, caught.value.type) == (code, param, "invalid_request_error")
    server.idle()


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": -1, "logprobs": True}, "top_logprobs"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ],
)
def test_errors_of_chats(server: Running, more: dict[str, object], param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().chat.completions.create(**{"model": "tale", "messages": CHAT, "max_tokens": 4} | more)
    assert caught.value.param == param


def test_what_asks_for_nothing_is_taken(server: Running) -> None:
    found = server.client().chat.completions.create(
        model="tale",
        messages=[{"role": "user", "content": [{"type": "text", "text": PROMPT}]}],
        max_tokens=2,
        tools=[],
        tool_choice="auto",
        response_format={"type": "text"},
        logit_bias={},
        user="me",
    )
    assert found.choices[0].message.content
