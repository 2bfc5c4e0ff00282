"""What the API says of texts: pieces, offsets of tokens, stop strings that don't show, ids that aren't."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("starlette")
pytest.importorskip("openai")

import openai

from cutset.config import load_settings
from cutset.llm import AsyncLLM
from models.tokenizers_to_test import byte_level
from test_text import expected, model_with

from .conftest import TEMPLATE, Running

PROMPT = "Once"
RANDOM = {"model": "tale", "temperature": 3.0, "max_tokens": 60, "logprobs": 1, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsyncLLM]:
    """A random model: bytes of characters, special tokens, and ids without a token."""
    folder = tmp_path_factory.mktemp("models")
    model_with(folder / "random", byte_level(), vocab=440)
    (folder / "chat.jinja").write_text(TEMPLATE)
    (folder / "models.yaml").write_text("tale:\n  path: random\n  chat_template: chat.jinja\n")
    found = AsyncLLM("tale", settings=load_settings({"threads": 1, "models_file": folder / "models.yaml"}))
    yield found
    found.close()


@pytest.mark.parametrize("seed", range(6))
def test_offsets_are_into_the_text(server: Running, seed: int) -> None:
    """Whatever splits characters, hides, or cuts the text; in pieces too."""
    client, tokenizer = server.client(), server.service.llm.tokenizer
    asked = RANDOM | {"prompt": PROMPT, "seed": seed}
    found = client.completions.create(**asked).choices[0]
    told = found.logprobs
    for at, following, token in zip(
        told.text_offset, [*told.text_offset[1:], len(found.text)], told.tokens, strict=True
    ):
        assert at <= following <= len(found.text)
        if "\ufffd" not in token and token not in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
            assert found.text[at : at + len(token)] == token
        if token.startswith("<|"):  # nothing shows but the half of a character that nothing completed
            assert found.text[at:following] in ("", "\ufffd")
    assert any("\ufffd" in token for token in told.tokens)
    pieces = [one.choices[0] for one in client.completions.create(**asked, stream=True)]
    assert "".join(one.text for one in pieces) == found.text
    assert [at for one in pieces if one.logprobs for at in one.logprobs.text_offset] == told.text_offset
    assert [at for one in pieces if one.logprobs for at in one.logprobs.tokens] == told.tokens
    # A stop string that takes several tokens: those that it cut away begin where the text ends.
    stop = found.text[20:30]
    asked |= {"stop": stop}
    ended = client.completions.create(**asked).choices[0]
    assert ended.text == found.text[: found.text.index(stop)]
    cut = ended.logprobs.text_offset
    assert cut == [min(at, len(ended.text)) for at in told.text_offset[: len(cut)]]
    pieces = [one.choices[0] for one in client.completions.create(**asked, stream=True)]
    assert "".join(one.text for one in pieces) == ended.text
    assert [at for one in pieces if one.logprobs for at in one.logprobs.text_offset] == cut
    assert tokenizer.special_ids


def test_a_hidden_token_stops(server: Running) -> None:
    for create, more in (
        (server.client().completions.create, {"prompt": PROMPT}),
        (
            server.client().chat.completions.create,
            {"messages": [{"role": "user", "content": PROMPT}], "logprobs": None},
        ),
    ):
        asked = RANDOM | {"max_tokens": 100, "stop": "<|im_start|>"} | more
        found = [create(**asked, seed=seed).choices[0] for seed in range(20)]
        stopped = [one for one in found if one.finish_reason == "stop"]
        assert stopped
        assert all(one.model_extra["stop_reason"] == "<|im_start|>" for one in stopped)


def test_chats_say_what_follows_the_prompt(server: Running) -> None:
    client, llm = server.client(), server.service.llm
    messages = [{"role": "user", "content": PROMPT}]
    asked = RANDOM | {"messages": messages, "logprobs": True, "top_logprobs": 1, "seed": 4}
    found = client.chat.completions.create(**asked).choices[0]
    raw = [bytes(one.bytes) for one in found.logprobs.content if not one.token.startswith("<|")]
    assert b"".join(raw).decode("utf-8", "replace") == found.message.content
    pieces = [one.choices[0].delta.content or "" for one in client.chat.completions.create(**asked, stream=True)]
    assert "".join(pieces) == found.message.content
    ids = {llm.tokenizer.token_bytes(one): one for one in range(llm.tokenizer.vocab_size)}
    answer = [ids[bytes(one.bytes)] for one in found.logprobs.content]
    assert found.message.content == expected(llm, llm.encode_chat(messages).tolist(), answer, True)


def test_ids_that_no_token_has(server: Running) -> None:
    client = server.client()
    found = client.completions.create(**RANDOM | {"prompt": [1], "max_tokens": 100, "n": 8, "logprobs": 20})
    assert {len(one.logprobs.tokens) for one in found.choices} == {100}  # none was lost to an id that isn't
    with pytest.raises(openai.BadRequestError, match="token id 430, for which the tokenizer has no token"):
        client.completions.create(model="tale", prompt=[1, 430])
