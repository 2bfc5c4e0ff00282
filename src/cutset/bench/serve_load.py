"""Streaming clients for `cutset bench serve`: as light as they can be, since they share the machine with the server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from cutset.errors import EngineError

__all__ = ["Answer", "ask", "ask_together"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer. Seconds since it was asked for."""

    tokens: int
    first_s: float
    whole_s: float


async def ask(url: str, prompt: Sequence[int], tokens: int) -> Answer:
    """Asks for that many tokens, greedy. Raises EngineError for anything but all of them."""
    where = urlsplit(url)
    body = json.dumps(
        {
            "prompt": list(prompt),
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        writer.write((head + body).encode())
        first, tail = 0.0, b""
        while piece := await reader.read(1 << 16):
            if not first and b"data: " in piece:
                first = time.perf_counter() - start
            tail = (tail + piece)[-4096:]
    finally:
        writer.close()
    whole = time.perf_counter() - start
    counted = tail.rpartition(b'"completion_tokens":')[2].partition(b",")[0]
    if b"data: [DONE]" not in tail or counted != str(tokens).encode():
        raise EngineError(f"the server didn't give {tokens} tokens, but ended with {tail[-200:]!r}")
    return Answer(tokens, first, whole)


def ask_together(
    url: str, prompts: Sequence[Sequence[int]], tokens: int, *, each: int = 1
) -> tuple[float, list[Answer]]:
    """All prompts at once, `each` times one after another: seconds until all are done, and the answers."""

    async def client(prompt: Sequence[int]) -> list[Answer]:
        return [await ask(url, prompt, tokens) for _ in range(each)]

    async def run() -> list[list[Answer]]:
        return await asyncio.gather(*(client(prompt) for prompt in prompts))

    start = time.perf_counter()
    answers = asyncio.run(run())
    return time.perf_counter() - start, [answer for some in answers for answer in some]
