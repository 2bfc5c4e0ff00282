"""A server over replicas: the answers of one engine, whatever becomes of the replicas."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from cutset.llm import AsyncLLM
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service
from tests.serve.conftest import Running
from tests.serve.replica_servers import Body, Replicated, choices, replicated, small_settings, stream
from tests.serve.test_server import readings

PROMPT = "Once upon a time there was a little girl named Lily. She"
MESSAGES = [{"role": "user", "content": PROMPT}]
LONG: Body = {
    "max_tokens": 120,
    "ignore_eos": True,
    "seed": 5,
    "temperature": 0.9,
    "stream_options": {"include_usage": True},
}
NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 30, "maxItems": 30}
TOOL = {
    "type": "function",
    "function": {
        "name": "count",
        "parameters": {"type": "object", "properties": {"all": NUMBERS}, "required": ["all"]},
    },
}
RESPONSE: Body = {"input": PROMPT, "max_output_tokens": 120, "temperature": 0.9, "seed": 5, "ignore_eos": True}
KINDS: dict[str, tuple[str, Body]] = {
    "greedy": ("/v1/completions", LONG | {"prompt": 3 * PROMPT, "temperature": 0, "logprobs": 2}),
    "samples": ("/v1/completions", LONG | {"prompt": PROMPT, "n": 3, "stop": ["zzzz", "Tom and"], "logprobs": 0}),
    "prompts": ("/v1/completions", LONG | {"prompt": [PROMPT, "The dog"], "repetition_penalty": 1.1, "echo": True}),
    "chat": ("/v1/chat/completions", LONG | {"messages": MESSAGES, "n": 2, "logprobs": True, "top_logprobs": 2}),
    "schema": (
        "/v1/chat/completions",
        LONG
        | {
            "messages": MESSAGES,
            "ignore_eos": False,
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": NUMBERS}},
        },
    ),
    "tools": (
        "/v1/chat/completions",
        LONG | {"messages": MESSAGES, "ignore_eos": False, "tools": [TOOL], "tool_choice": "required"},
    ),
    "response": ("/v1/responses", RESPONSE),
}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same server with an engine of its own."""
    llm = AsyncLLM("tale", settings=small_settings(tmp_path_factory.mktemp("one")))
    service = Service(llm, tool_parser="hermes")
    server = Server(build_app(service, Auth((), "127.0.0.1")), service)
    with serve_in_thread(server, bind("127.0.0.1", 0)) as url:
        found = Running(service, url)
        yield found
        found.close()
    llm.close()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    with replicated(small_settings(tmp_path_factory.mktemp("two"))) as found:
        yield found


def salted(path: str, body: Body, salt: str) -> Body:
    return body if path == "/v1/responses" else body | {"cache_salt": salt}


def warm(server: Running, salt: str) -> None:
    """What the first replica of a request finds in its cache another one hasn't."""
    path, body = KINDS["greedy"]
    stream(server.url, path, salted(path, body | {"max_tokens": 1}, salt + "greedy"))


def expected(one: Running, salt: str) -> dict[str, Any]:
    warm(one, salt)
    return {
        kind: choices(path, stream(one.url, path, salted(path, body, salt + kind)))
        for kind, (path, body) in KINDS.items()
    }


def lose(two: Replicated, salt: str, *, busy: bool = False) -> dict[str, Any]:
    """All kinds at the same time; once all have begun, replicas are killed: all, or those that run something."""
    begun = {kind: threading.Event() for kind in KINDS}
    with two.slow(), ThreadPoolExecutor(len(KINDS)) as pool:
        running = {
            kind: pool.submit(stream, two.url, path, salted(path, body, salt + kind), begun[kind])
            for kind, (path, body) in KINDS.items()
        }
        for kind, event in begun.items():
            assert event.wait(60), running[kind].exception()
        assert two.kill(busy=busy)
        two.go_on()
        if not busy:
            two.until(lambda: not two.replicas.ready)
            health = httpx.get(f"{two.url}/health")
            assert (health.status_code, health.json()["error"]["code"]) == (503, "no_replica")
        return {kind: choices(KINDS[kind][0], one.result(120)) for kind, one in running.items()}


def test_streams_go_on_when_all_replicas_are_killed(one: Running, two: Replicated) -> None:
    wanted = expected(one, "killed")
    assert len(wanted["tools"][0][0]["calls"]) > 30
    warm(two, "killed")
    before = two.replicas.resumed
    found = lose(two, "killed")
    for kind in KINDS:
        assert found[kind] == wanted[kind], kind
    assert found["greedy"][1][0]["prompt_tokens_details"]["cached_tokens"] > 0
    assert two.replicas.resumed - before >= len(KINDS), "they were killed too late to show anything"
    assert readings(two.url)["cutset_replicas_lost_total"] >= 2
    two.whole()
    assert httpx.get(f"{two.url}/health").status_code == 200


def test_a_loss_neither_hides_nor_doubles_what_was_given_out(one: Running, two: Replicated) -> None:
    """Streams, and answers that nobody reads before their end; their texts are those of one engine."""
    two.whole()
    two.until(lambda: not any(each.samples for each in two.replicas.states()))
    before, resumed = readings(two.url), two.replicas.resumed
    path, body = "/v1/completions", LONG | {"n": 2, "max_tokens": 90}
    asked = [body | {"prompt": f"{PROMPT} {number}"} for number in range(4)]
    unread = [{name: value for name, value in each.items() if name != "stream_options"} for each in asked[2:]]
    begun = [threading.Event() for _ in asked[:2]]
    with two.slow(), ThreadPoolExecutor(len(asked)) as pool:
        streams = [pool.submit(stream, two.url, path, *each) for each in zip(asked[:2], begun, strict=True)]
        wholes = [pool.submit(httpx.post, two.url + path, json=each, timeout=120) for each in unread]
        for event in begun:
            assert event.wait(60)
        two.until(lambda: sum(each.samples for each in two.replicas.states()) == 8)
        assert two.kill()
        two.go_on()
        streamed = [choices(path, each.result(120)) for each in streams]
        whole = [each.result(120).json() for each in wholes]
    after = readings(two.url)

    def more(name: str) -> float:
        return after[name] - before.get(name, 0)

    usages = [*(each[1][0] for each in streamed), *(each["usage"] for each in whole)]
    assert [each["completion_tokens"] for each in usages] == [180] * 4
    assert more("vllm:generation_tokens_total") == two.llm.stats().generated_tokens - tokens(before) == 4 * 180
    assert more("vllm:request_generation_tokens_sum") == 4 * 180
    assert more("vllm:request_success_total") == more("vllm:time_to_first_token_seconds_count") == 8
    assert more("vllm:inter_token_latency_seconds_count") == 4 * 180 - 8
    assert more("vllm:e2e_request_latency_seconds_count") == 4
    assert two.replicas.resumed - resumed >= 4, "they were killed too late to show anything"
    assert [plain(each) for each in whole] == [
        plain(httpx.post(one.url + path, json=each, timeout=60).json()) for each in unread
    ]


def tokens(found: dict[str, float]) -> float:
    """That were given out, by what /metrics said."""
    return found["vllm:generation_tokens_total"]


@pytest.mark.slow
def test_one_that_is_idle_takes_over_at_once(one: Running, two: Replicated) -> None:
    two.whole()
    path, body = KINDS["samples"]
    begun = threading.Event()
    with two.slow(), ThreadPoolExecutor(1) as pool:
        running = pool.submit(stream, two.url, path, body, begun)
        assert begun.wait(60)
        [name] = two.kill(busy=True)
        two.go_on()
        found = choices(path, running.result(120))
    assert found == choices(path, stream(one.url, path, body))
    assert name in ("replica1", "replica2")


@pytest.mark.slow
def test_without_a_seed_a_stream_is_still_one(two: Replicated) -> None:
    two.whole()
    begun = threading.Event()
    body = {name: value for name, value in LONG.items() if name != "seed"} | {"prompt": PROMPT, "logprobs": 0}
    with two.slow(), ThreadPoolExecutor(1) as pool:
        running = pool.submit(stream, two.url, "/v1/completions", body, begun)
        assert begun.wait(60)
        two.kill()
        two.go_on()
        found, [usage] = choices("/v1/completions", running.result(120))
    assert usage["completion_tokens"] == len(found[0]["logprobs"]) == 120
    places = [one[-1] for one in found[0]["logprobs"]]
    assert places == sorted(places), "each token begins where the text was"


def test_the_rest_of_the_api_is_the_same(one: Running, two: Replicated) -> None:
    two.whole()
    for path, body in (
        ("/v1/embeddings", {"input": ["a dog", "a cat and a dog"]}),
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}),
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 2, "prompt_logprobs": 1, "temperature": 0}),
        (
            "/api/generate",
            {"model": "tale", "prompt": PROMPT, "stream": False, "options": {"seed": 1, "num_predict": 5}},
        ),
        ("/tokenize", {"prompt": PROMPT}),
        ("/v1/completions", {"prompt": PROMPT, "temperature": -1}),
        ("/v1/completions", {"prompt": [1 << 20]}),
        ("/v1/completions", {"prompt": PROMPT * 200}),
        ("/v1/chat/completions", {"messages": MESSAGES, "guided_regex": "("}),
        ("/v1/embeddings", {"input": PROMPT * 200}),
    ):
        both = [httpx.post(server.url + path, json=body, timeout=60) for server in (one, two)]
        assert both[0].status_code == both[1].status_code, both[1].text
        left, right = (plain(answer.json()) for answer in both)
        assert left == right, path
    names = [httpx.get(f"{server.url}/v1/models").json()["data"][0] for server in (one, two)]
    assert names[0]["max_model_len"] == names[1]["max_model_len"]


def plain(content: Any) -> Any:
    """Without what is of one answer alone."""
    if isinstance(content, dict):
        own = ("id", "created", "created_at", "system_fingerprint", "usage", "context")
        return {name: plain(value) for name, value in content.items() if name not in own and "duration" not in name}
    if isinstance(content, list):
        return [plain(value) for value in content]
    return content


def test_a_client_that_leaves_frees_its_place(two: Replicated) -> None:
    two.whole()
    asked = LONG | {"prompt": PROMPT, "stream": True}
    with two.slow(), httpx.stream("POST", f"{two.url}/v1/completions", json=asked) as answer:
        next(answer.iter_lines())
    two.until(lambda: not any(one.samples for one in two.replicas.states()))
    two.until(lambda: two.llm.stats().running == 0)


def test_metrics_are_of_all_and_of_each(two: Replicated) -> None:
    two.whole()
    before = readings(two.url)
    for salt in "abcd":
        body = {"prompt": PROMPT, "max_tokens": 5, "cache_salt": salt, "ignore_eos": True}
        assert httpx.post(f"{two.url}/v1/completions", json=body).status_code == 200
    assert readings(two.url)["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"] == 20
    text = httpx.get(f"{two.url}/metrics").text
    for name in ("replica1", "replica2"):
        assert f'cutset_replica_up{{replica="{name}"}} 1.0' in text
    assert readings(two.url)["cutset_replicas"] == 2
    assert readings(two.url)["cutset_ready"] == 1


@pytest.mark.slow
def test_beginnings_are_found_nearly_as_often_as_by_one_engine(one: Running, two: Replicated) -> None:
    """Sixteen clients, four of each beginning, with three turns each."""
    two.whole()
    beginnings = [f"{PROMPT} Number {number}. " * 6 for number in range(4)]

    def client(url: str, number: int) -> None:
        text = beginnings[number % 4] + f"Client {number}: "
        for turn in range(3):
            body = {"prompt": text, "max_tokens": 8, "ignore_eos": True, "temperature": 0, "cache_salt": "hits"}
            text += httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
            text += f" And then, in turn {turn}, the dog ran to the park and played all day. "

    def hits(server: Running) -> float:
        before = server.service.llm.stats()
        for number in range(4):  # those who come first
            client(server.url, number)
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(lambda number: client(server.url, number), range(4, 16)))
        two.until(lambda: server.service.llm.stats().running == 0)
        time.sleep(1.2)  # two heartbeats
        after = server.service.llm.stats()
        return (after.prefix_hits - before.prefix_hits) / (after.prefix_queries - before.prefix_queries)

    alone, together = hits(one), hits(two)
    assert together > 0.9 * alone > 0.4


@pytest.mark.slow
def test_twenty_losses(one: Running, two: Replicated) -> None:
    wanted = expected(one, "")
    before = two.replicas.lost
    while two.replicas.lost - before < 20:
        two.whole()
        found = lose(two, "", busy=True)
        for kind in KINDS:
            assert found[kind][:1] == wanted[kind][:1], kind
    two.whole()


@pytest.mark.slow
def test_keys_are_asked_for_as_with_one(tmp_path: Path) -> None:
    with replicated(small_settings(tmp_path, max_num_seqs=2), keys=("a-secret-key",)) as server:
        assert httpx.post(f"{server.url}/v1/completions", json={"prompt": PROMPT}).status_code == 401
        headers = {"authorization": "Bearer a-secret-key"}
        body = {"prompt": PROMPT, "max_tokens": 2, "n": 12}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=60)
        assert len(answer.json()["choices"]) == 12, "more samples than replicas run together wait their turn"
        too_many = httpx.post(f"{server.url}/v1/completions", json=body | {"prompt": ["a"] * 100}, headers=headers)
        assert too_many.status_code in (400, 429)
