"""Streams in frames of one size: what the network sees, and that clients read what they did before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import openai
import pytest
from starlette.types import Message, Receive, Scope, Send

from cutset.cli import main
from cutset.llm import AsyncLLM
from cutset.receipts.issuer import ReceiptIssuer
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.front import Front
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service
from cutset.serve.stream_frames import FramedStreams, StreamPadding, filler, first_tick
from cutset.trust.receipt import Receipt
from cutset.trust.signing_key import Signer, SigningKey

SIZE, PERIOD = 256, 0.002
SSE, LINES, JSON = "text/event-stream", "application/x-ndjson", "application/json"
DONE = b"data: [DONE]\n\n"


def seen(
    pieces: Sequence[bytes], kind: str = SSE, *, waits: float = 0.0, method: str = "POST", size: int = SIZE
) -> list[Message]:
    """What is sent when an application answers with these pieces, the last of which ends the body."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", kind.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces[:-1]:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(waits)
        await send({"type": "http.response.body", "body": pieces[-1]})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": method, "path": "/v1/completions"}
    asyncio.run(FramedStreams(app, StreamPadding(size, PERIOD))(scope, receive, send))
    return sent


def events(sent: list[Message]) -> list[bytes]:
    """As a client reads them."""
    data = b"".join(one["body"] for one in sent[1:])
    found = [block.strip(b"\n") for block in data.split(b"\n\n")]
    return [one for one in found if one and not one.startswith(b":")]


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"text": text}).encode() + b"\n\n"


ANSWERS: list[list[bytes]] = [
    [DONE],
    [event("a"), DONE],
    [event("word")] * 40 + [DONE],
    [event("x" * 1000), event("y"), DONE],
    [event("y" * n) for n in range(60)] + [DONE],
    [event("a"), event("usage") + event("z" * 900) + DONE],
    [event("a"), event("the whole response " + "z" * 3000)],  # an end that no frame holds
    [event("a"), b'data: {"error": 1}\n\n'],
    [event("a") + event("b"), b""],
]


@pytest.mark.parametrize("pieces", ANSWERS, ids=range(len(ANSWERS)))
@pytest.mark.parametrize("waits", [0.0, 0.003])
def test_frames_are_all_alike(pieces: list[bytes], waits: float) -> None:
    if waits and len(pieces) > 10:
        pieces = [*pieces[:8], pieces[-1]]
    start, *frames = sent = seen(pieces, waits=waits)
    assert start["type"] == "http.response.start"
    assert {len(one["body"]) for one in frames} == {SIZE}
    assert len(frames).bit_count() == 1
    assert [one["more_body"] for one in frames] == [True] * (len(frames) - 1) + [False]
    assert events(sent) == [one.strip(b"\n") for one in b"".join(pieces).split(b"\n\n") if one]


@pytest.mark.parametrize("waits", [0.0, 0.003])
def test_lines_are_padded_where_json_has_spaces(waits: float) -> None:
    lines = [json.dumps({"message": "word" * n}).encode() + b"\n" for n in range(12)]
    _, *frames = seen(lines, LINES, waits=waits)
    assert {len(one["body"]) for one in frames} == {SIZE}
    assert len(frames).bit_count() == 1
    read = b"".join(one["body"] for one in frames).decode().split("\n")
    assert [json.loads(line) for line in read[:-1]] == [json.loads(line) for line in lines]
    assert read[-1] == ""  # else clients would read a last line without an object


def test_the_end_comes_with_the_last_frame() -> None:
    """Else whoever reads it would close the connection, and show the length."""
    for words in range(1, 40, 3):
        _, *frames = seen([event("word" * 20)] * words + [DONE])
        assert DONE in frames[-1]["body"]
        assert not any(b"[DONE]" in one["body"] for one in frames[:-1])


def test_answers_of_one_power_of_two_look_the_same() -> None:
    counts = {words: len(seen([event("w" * 200)] * words + [DONE])) - 1 for words in (9, 10, 12, 14, 15)}
    assert set(counts.values()) == {16}, counts


def test_what_is_no_stream_of_an_answer_is_left_alone() -> None:
    assert [one.get("body") for one in seen([b"{}"], JSON)] == [None, b"{}"]
    assert [one.get("body") for one in seen([b"a", b"b", b""], SSE, method="GET")] == [None, b"a", b"b", b""]


def test_fillers_mean_nothing() -> None:
    for count in range(600):
        assert len(filler(b"sse", count)) == len(filler(b"lines", count)) == count
        assert events([{}, {"body": event("a") + filler(b"sse", count) + event("b")}]) == [
            event("a").strip(),
            event("b").strip(),
        ]


def test_the_first_frame_leaves_after_a_power_of_two() -> None:
    ticks = [first_tick(passed, 0.1) for passed in (0, 0.05, 0.1, 0.15, 0.2, 0.39, 0.41, 0.9, 100)]
    assert ticks == [1, 1, 2, 2, 4, 4, 8, 16, 1024]


def test_a_client_that_leaves_ends_the_frames() -> None:
    begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", SSE.encode())]})
        await send({"type": "http.response.body", "body": event("a"), "more_body": True})
        await begun.wait()  # and gives up

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) == 4:
            begun.set()

    async def run() -> int:
        await FramedStreams(app, StreamPadding(SIZE, PERIOD))({"type": "http", "method": "POST"}, _nothing, send)
        before = len(sent)
        await asyncio.sleep(20 * PERIOD)
        return before

    assert asyncio.run(run()) == len(sent)


def test_a_broken_connection_is_raised_where_it_is_written() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", SSE.encode())]})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": event("a" * 500), "more_body": True})

    async def send(message: Message) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        asyncio.run(FramedStreams(app, StreamPadding(SIZE, PERIOD))({"type": "http", "method": "POST"}, _nothing, send))


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


# ---- a server


@pytest.fixture(scope="module")
def padded(llm: AsyncLLM) -> Any:
    """The address of a server with frames."""
    key = SigningKey.new()
    service = Service(llm, receipts=ReceiptIssuer(llm, Signer(key)))
    front = Front(padding=StreamPadding(period=0.01))
    server = Server(build_app(service, Auth((), "127.0.0.1"), front), service)
    with serve_in_thread(server, bind("127.0.0.1", 0)) as url:
        yield url


ASKED: dict[str, Any] = {"model": "tale", "prompt": "Once upon a time", "max_tokens": 20, "temperature": 0}


def test_clients_read_the_same(padded: str) -> None:
    with openai.OpenAI(base_url=f"{padded}/v1", api_key="none", max_retries=0, timeout=60) as client:
        whole = client.completions.create(**ASKED)
        streamed = list(client.completions.create(**ASKED, stream=True, extra_body={"cutset_receipt": True}))
        assert "".join(one.choices[0].text for one in streamed if one.choices) == whole.choices[0].text
        receipt = (streamed[-1].model_extra or {})["cutset_receipt"]
        assert Receipt(receipt.encode()).found.complete
        messages = [{"role": "user", "content": "Once upon a time"}]
        chat = client.chat.completions.create(model="tale", messages=messages, max_tokens=9, temperature=0, stream=True)
        assert sum(len(one.choices) for one in chat) > 2
        responses = client.responses.create(
            model="tale", input="Once", max_output_tokens=9, temperature=0, stream=True, store=False
        )
        assert [one.type for one in responses][-1] in ("response.completed", "response.incomplete")


def test_ollama_s_client_reads_the_same(padded: str) -> None:
    ollama = pytest.importorskip("ollama")
    found = ollama.Client(host=padded)
    try:
        options = {"temperature": 0, "num_predict": 9}
        whole = found.generate("tale", "Once", raw=True, options=options)
        parts = list(found.generate("tale", "Once", raw=True, options=options, stream=True))
        assert "".join(one.response for one in parts) == whole.response
        assert parts[-1].done
    finally:
        found._client.close()


def test_whole_answers_and_errors_are_not_delayed_into_frames(padded: str) -> None:
    answer = httpx.post(f"{padded}/v1/completions", json=ASKED, timeout=60)
    assert answer.headers["content-length"] == str(len(answer.content))
    refused = httpx.post(f"{padded}/v1/completions", json=ASKED | {"temperature": -1, "stream": True}, timeout=60)
    assert refused.status_code == 400


def test_on_the_wire_every_chunk_has_one_size(padded: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        async with (
            httpx.AsyncClient(timeout=60) as client,
            client.stream("POST", f"{padded}/v1/completions", json=ASKED | {"stream": True}) as response,
        ):
            async for chunk in response.aiter_raw():
                yield chunk

    async def total() -> int:
        return sum([len(chunk) async for chunk in chunks()])

    size = asyncio.run(total())
    assert size % 4096 == 0
    assert (size // 4096).bit_count() == 1


@pytest.mark.parametrize("text", ["0", "9", "10001", "-1"])
def test_rhythms_that_cannot_be(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "story", "--port", "0", "--pad-stream", text]) == 2
    assert "--pad-stream must be from 10 to 10000" in capsys.readouterr().err
