"""Many clients for minutes, with others who mean no good: no error, no block that stays, no memory that grows."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from cutset.bench.serve_load import StreamedAnswer, StreamedRequest
from tests.serve.test_clients import request
from tests.serve.test_server import Process, readings, start  # noqa: F401  # a fixture

CLIENTS = 64
SECONDS = float(os.environ.get("LOAD_SECONDS", "120"))


async def ask(url: str, prompt: list[int], tokens: int) -> StreamedAnswer:
    where, asked = urlsplit(url), StreamedRequest(url, prompt, tokens)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        writer.write(asked.message)
        while piece := await reader.read(1 << 16):
            asked.feed(piece)
    finally:
        writer.close()
    return asked.answer()


async def client(url: str, number: int, end: float, answers: list[StreamedAnswer]) -> None:
    """Asks again and again, for lengths of its own."""
    choose = random.Random(number)
    while time.monotonic() < end:
        prompt = [choose.randrange(3, 1500) for _ in range(choose.randrange(1, 120))]
        answers.append(await ask(url, prompt, choose.randrange(1, 120)))


async def vandal(url: str, what: Any, end: float, counts: dict[str, int]) -> None:
    """Does one thing that nobody should, again and again."""
    where = urlsplit(url)
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1 << 10)
                try:
                    await what(reader, writer)
                finally:
                    writer.close()
        counts[what.__name__] = counts.get(what.__name__, 0) + 1
        await asyncio.sleep(0.1)


async def leaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(request({"prompt": "Once", "max_tokens": 400, "n": 4, "stream": True, "ignore_eos": True}))
    await reader.read(200)


async def half_closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(request({"prompt": "Once", "max_tokens": 400, "ignore_eos": True}))
    writer.write_eof()
    await reader.read(100)


async def dawdles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(request({"prompt": "Once", "max_tokens": 300, "logprobs": 20, "stream": True, "ignore_eos": True}))
    await asyncio.sleep(3)


async def babbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(random.randbytes(1000))
    await reader.read(100)


async def sends_wrong_utf8(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(request({"prompt": "Once@@"}).replace(b"@@", b"\xff\xfe"))
    assert b" 400 " in await reader.read(100)


async def stops_often(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(request({"prompt": "Once", "stop": [str(i) for i in range(10_000)]}))
    assert b" 400 " in await reader.read(100)


async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = request({}).rpartition(b"\r\n\r\n")[0].replace(b"Content-Length: 2", b"Content-Length: 100000000")
    writer.write(head + b"\r\n\r\n")
    for _ in range(100):
        writer.write(bytes(1_000_000))
        await writer.drain()
    assert b" 413 " in await reader.read(100)


async def watches(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for _ in range(6):
        await reader.read(1000)


VANDALS = (leaves, half_closes, dawdles, babbles, sends_wrong_utf8, stops_often, floods, watches)


@pytest.mark.slow
def test_sixty_four_clients_for_two_minutes(start: type[Process]) -> None:  # noqa: F811
    server = start()
    answers: list[StreamedAnswer] = []
    counts: dict[str, int] = {}

    async def run(seconds: float) -> None:
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:  # the first error ends all
            for number in range(CLIENTS):
                group.create_task(client(server.url, number, end, answers))
            for what in VANDALS:
                group.create_task(vandal(server.url, what, end, counts))

    asyncio.run(run(SECONDS / 3))
    warm, done = readings(server.url)["process_resident_memory_bytes"], len(answers)
    asyncio.run(run(SECONDS * 2 / 3))
    for _ in itertools.repeat(None, 200):
        after = readings(server.url)
        if not after["vllm:num_requests_running"] + after["vllm:num_requests_waiting"]:
            break
        time.sleep(0.05)
    assert after["vllm:kv_cache_usage_perc"] == 0, "blocks were leaked"
    assert after["vllm:num_requests_running"] == 0
    assert done > CLIENTS
    assert len(answers) > 1.5 * done
    assert counts.keys() == {what.__name__ for what in VANDALS}
    grown = after["process_resident_memory_bytes"] - warm
    assert grown < 0.1 * warm, f"{grown / 1e6:.0f} MB more than the {warm / 1e6:.0f} MB after a third of the time"
    code, said = server.stop()
    assert code == 0
    assert "Traceback" not in said, said[-3000:]
    firsts = sorted(answer.first_s for answer in answers)
    told = {"answers": len(answers), "first_s_p95": firsts[int(0.95 * len(firsts))], "bytes": warm, "grown": grown}
    print(json.dumps(told | counts))
