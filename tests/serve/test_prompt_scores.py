"""How likely a prompt is: vLLM's `prompt_logprobs`, OpenAI's `echo` with `logprobs`, and what evaluations ask."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import numpy as np
import pytest

from cutset.engine import SamplingParams, TokenLogprob
from cutset.engine.outputs import Delta
from cutset.engine.params import MAX_N
from cutset.models.text.tokenizer import Tokenizer
from cutset.serve.prompt_scores import echo_of
from cutset.serve.running_request import MOST_TAKEN, RunningRequest
from models.tokenizers_to_test import byte_level
from tests.serve.conftest import Running

PROMPTS = ["Once upon a time, there was a", "The cat"]
CHAT = [{"role": "user", "content": "Once upon a time"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6}


def post(server: Running, path: str = "completions", **fields: Any) -> httpx.Response:
    asked = GREEDY | ({"messages": CHAT} if path == "chat/completions" else {"prompt": PROMPTS}) | fields
    return httpx.post(f"{server.url}/v1/{path}", json=asked, timeout=60)


def answered(server: Running, path: str = "completions", **fields: Any) -> Any:
    response = post(server, path, **fields)
    assert response.status_code == 200, response.text
    return response.json()


def chunks(server: Running, path: str = "completions", **fields: Any) -> list[Any]:
    lines = post(server, path, stream=True, **fields).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def scores(server: Running, prompt: str | list[int], likeliest: int) -> list[TokenLogprob | None]:
    """As they come from the engine."""
    llm = server.service.llm
    ids = llm.encode(prompt)
    params = SamplingParams(max_tokens=1, prompt_logprobs=likeliest)
    found = asyncio.run(llm.generate(ids, params)).prompt_logprobs
    assert found is not None
    assert len(found) == len(ids)
    return found


def check_by_id(found: Any, wanted: list[TokenLogprob | None], likeliest: int) -> None:
    assert found[0] is None
    assert len(found) == len(wanted)
    for theirs, ours in zip(found[1:], wanted[1:], strict=True):
        assert ours is not None
        own = theirs[str(ours.token_id)]
        assert next(iter(theirs)) == str(ours.token_id)
        assert (own["logprob"], own["rank"]) == (ours.logprob, ours.rank)
        assert isinstance(own["decoded_token"], str)
        assert {int(one): told["logprob"] for one, told in theirs.items()} == {
            ours.token_id: ours.logprob,
            **dict(ours.top[:likeliest]),
        }
        for place, (token, _) in enumerate(ours.top[:likeliest], 1):
            assert theirs[str(token)]["rank"] == place


@pytest.mark.parametrize("likeliest", [0, 3])
def test_completions_in_vllm_s_shape(server: Running, likeliest: int) -> None:
    wanted = [scores(server, prompt, 3) for prompt in PROMPTS]
    plain = answered(server, n=2)["choices"]
    found = answered(server, n=2, prompt_logprobs=likeliest)
    assert [one["text"] for one in found["choices"]] == [one["text"] for one in plain]
    assert "prompt_logprobs" not in plain[0]
    for choice in found["choices"]:
        check_by_id(choice["prompt_logprobs"], wanted[choice["index"] // 2], likeliest)
        assert choice["logprobs"] is None
    assert found["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    streamed: dict[int, list[Any]] = {}
    for chunk in chunks(server, n=2, prompt_logprobs=likeliest):
        [choice] = chunk["choices"]
        streamed.setdefault(choice["index"], []).append(choice.get("prompt_logprobs"))
    for index, [first, *others] in streamed.items():
        assert first == found["choices"][index]["prompt_logprobs"]
        assert others == [None] * len(others)


def test_chats_in_vllm_s_shape(server: Running) -> None:
    found = answered(server, "chat/completions", prompt_logprobs=2, n=2)
    ids = server.service.llm.encode_rendered("Once upon a time").tolist()
    check_by_id(found["prompt_logprobs"], scores(server, ids, 2), 2)
    told = [chunk.get("prompt_logprobs") for chunk in chunks(server, "chat/completions", prompt_logprobs=2, n=2)]
    assert told[0] == found["prompt_logprobs"]
    assert not any(told[1:])


def check_echo(choice: Any, prompt: str, wanted: list[TokenLogprob | None], likeliest: int) -> None:
    told, text = choice["logprobs"], choice["text"]
    assert text.startswith(prompt)
    tokens, offsets = told["tokens"], told["text_offset"]
    if tokens[0] == "<|begin|>":  # which the tokenizer puts before a text, and nobody sees in it
        assert offsets[0] == 0
        tokens, offsets = tokens[1:], offsets[1:]
    assert "".join(tokens) == text
    assert [text[at : at + len(token)] for at, token in zip(offsets, tokens, strict=True)] == tokens
    assert told["token_logprobs"][0] is None
    assert told["top_logprobs"][0] is None
    count = len(wanted)
    assert told["token_logprobs"][1:count] == [one.logprob for one in wanted if one is not None]
    for ours, top in zip(wanted[1:], told["top_logprobs"][1:], strict=False):
        assert ours is not None
        assert max(top.values()) == max([ours.logprob, *(value for _, value in ours.top[:likeliest])])
    assert all(value <= 0 for value in told["token_logprobs"][1:])


@pytest.mark.parametrize("likeliest", [0, 1, 3])
def test_a_prompt_is_echoed_with_its_log_probabilities(server: Running, likeliest: int) -> None:
    wanted = [scores(server, prompt, 3) for prompt in PROMPTS]
    plain = answered(server, n=2, logprobs=likeliest)["choices"]
    found = answered(server, n=2, logprobs=likeliest, echo=True)
    for choice, own in zip(found["choices"], plain, strict=True):
        number = choice["index"] // 2
        check_echo(choice, PROMPTS[number], wanted[number], likeliest)
        assert choice["text"] == PROMPTS[number] + own["text"]
        for name in ("tokens", "token_logprobs", "top_logprobs"):
            assert choice["logprobs"][name][len(wanted[number]) :] == own["logprobs"][name]
    streamed: dict[int, dict[str, list[Any]]] = {}
    texts = dict.fromkeys(range(4), "")
    for chunk in chunks(server, n=2, logprobs=likeliest, echo=True):
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        for name, values in (choice["logprobs"] or {}).items():
            streamed.setdefault(choice["index"], {}).setdefault(name, []).extend(values)
    assert [texts[index] for index in range(4)] == [choice["text"] for choice in found["choices"]]
    assert [streamed[index] for index in range(4)] == [choice["logprobs"] for choice in found["choices"]]


def test_ids_are_echoed_as_what_they_say(server: Running) -> None:
    ids = server.service.llm.encode(PROMPTS[0]).tolist()
    [choice] = answered(server, prompt=ids, logprobs=2, echo=True)["choices"]
    check_echo(choice, "", scores(server, ids, 2), 2)
    [cut] = answered(server, prompt=PROMPTS[0], truncate_prompt_tokens=3, logprobs=2, echo=True)["choices"]
    check_echo(cut, "", scores(server, ids[-3:], 2), 2)
    assert len(cut["logprobs"]["tokens"]) == 3 + 6


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_alone_is_scored(server: Running, stream: bool) -> None:
    wanted = [scores(server, prompt, 1) for prompt in PROMPTS]
    asked: dict[str, Any] = {"max_tokens": 0, "logprobs": 1, "echo": True}
    if stream:
        several = chunks(server, **asked, stream_options={"include_usage": True})
        usage = several.pop()["usage"]
        choices = [chunk["choices"][0] for chunk in several]
        choices.sort(key=lambda one: one["index"])
    else:
        found = answered(server, **asked)
        usage, choices = found["usage"], found["choices"]
    assert [choice["text"] for choice in choices] == PROMPTS
    for choice, prompt, own in zip(choices, PROMPTS, wanted, strict=True):
        check_echo(choice, prompt, own, 1)
        assert len(choice["logprobs"]["tokens"]) == len(own)
        assert (choice["finish_reason"], choice["stop_reason"]) == ("length", None)
    assert usage["completion_tokens"] == 0
    assert usage["total_tokens"] == usage["prompt_tokens"] == sum(map(len, wanted))
    [bare] = answered(server, prompt=PROMPTS[1], echo=True, max_tokens=0)["choices"]
    assert (bare["text"], bare["logprobs"]) == (PROMPTS[1], None)


def test_what_lm_evaluation_harness_asks(server: Running) -> None:
    """Its `local-completions`: a batch of ids, scored with one token more, which it drops."""
    llm = server.service.llm
    context, follows = llm.encode("Once upon a time").tolist(), llm.encode_rendered(" there was a dog").tolist()
    more = llm.encode_rendered(" zebra").tolist()
    batch = [context + follows, context + more]
    body = {"model": "tale", "prompt": batch, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234}
    answer = httpx.post(f"{server.url}/v1/completions", json=body | {"echo": True}, timeout=60).json()
    sums = []
    for choice, ids in zip(sorted(answer["choices"], key=lambda one: one["index"]), batch, strict=True):
        told = choice["logprobs"]
        own, tops = (told[name][len(context) : -1] for name in ("token_logprobs", "top_logprobs"))
        wanted = scores(server, ids, 1)[len(context) :]
        assert own == [one.logprob for one in wanted if one is not None]
        greedy = all(value == max(top.values()) for value, top in zip(own, tops, strict=True))
        assert greedy == all(one is not None and one.rank == 1 for one in wanted)
        sums.append(sum(own))
    assert sums[0] > sums[1]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": "all"}, "prompt_logprobs"),
        ({"prompt_logprobs": True}, "prompt_logprobs"),
        ({"echo": True, "logprobs": 21, "max_tokens": 0}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "logprobs": 1}, "max_tokens"),
        ({"max_tokens": 0, "prompt_logprobs": 1}, "max_tokens"),
        ({"max_tokens": -1, "echo": True}, "max_tokens"),
        ({"echo": True, "logprobs": 1, "prompt": []}, "prompt"),
        ({"echo": True, "logprobs": 1, "prompt": [[]]}, None),
        ({"echo": True, "logprobs": 1, "prompt": [10**6]}, None),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 2, "n": 3}, "best_of"),
    ],
)
def test_what_cannot_be_is_400(server: Running, fields: Any, param: str | None) -> None:
    response = post(server, **fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert len(error["message"]) < 300
    if param is not None:
        assert param in error["message"]
    server.idle()


def test_a_long_prompt_is_scored_while_its_client_reads_slowly(server: Running) -> None:
    long = PROMPTS[0] * 20
    found = chunks(server, prompt=long, logprobs=20, echo=True, max_tokens=2)
    [whole] = answered(server, prompt=long, logprobs=20, echo=True, max_tokens=2)["choices"]
    assert found[0]["choices"][0]["logprobs"]["tokens"] == whole["logprobs"]["tokens"][:-1]
    assert whole["text"].startswith(long)


class Given:
    """An engine whose deltas are the test's, and the mailbox that it would use."""

    def check(self, ids: Any, params: SamplingParams) -> None:
        pass

    def submit(self, ids: Any, params: SamplingParams, *, on_delta: Any, **more: Any) -> Any:
        self.on_delta = on_delta
        return self

    def cancel(self) -> None:
        pass

    def put(self, letters: Any) -> None:
        raise AssertionError("the test calls on_delta itself")


def test_scores_of_a_prompt_stay_where_pieces_wait_for_a_slow_client() -> None:
    engine: Any = Given()
    count = MOST_TAKEN + 2
    params = SamplingParams(n=MAX_N, prompt_logprobs=0)
    running = RunningRequest(engine, engine, [np.arange(2, dtype=np.int32)], params)
    score = TokenLogprob(1, -0.5, 1, ())
    for index in range(count):
        scores = (None, score) if not index else None
        engine.on_delta(Delta("x", index, "a", (1,), prompt_logprobs=scores))
    for index in range(count):
        ended = index == count - 1
        engine.on_delta(Delta("x", index, "b", (2,), "length", finished=ended))

    async def taken() -> list[Delta]:
        return [delta for some in [one async for one in running.pieces()] for _, delta in some]

    found = asyncio.run(taken())
    assert [one.prompt_logprobs for one in found if one.prompt_logprobs] == [(None, score)]
    assert "".join(one.text for one in found if not one.index) == "ab"
    assert [one.finish_reason for one in found if not one.index][-1] == "length"


@pytest.mark.parametrize("text", ["añ 😀 b", "<|endoftext|>one<|endoftext|>", "日本 x", " lead", "a"])
def test_offsets_of_any_text(text: str) -> None:
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode(text).tolist()
    for given in (text, None):
        echo = echo_of(tokenizer, ids, given, skip_special_tokens=given is None, begins=True)
        assert len(echo.begins) == len(ids)
        assert echo.begins == sorted(echo.begins)
        assert echo.begins[0] == 0
        assert echo.text == (text if given is not None else tokenizer.decode(ids))
        assert all(begin <= len(echo.text) for begin in echo.begins)
        for number, begin in enumerate(echo.begins):
            before = tokenizer.decode(ids[:number], skip_special_tokens=given is None)
            assert begin <= len(before)
            assert before.rstrip("�") == echo.text[: len(before.rstrip("�"))]
