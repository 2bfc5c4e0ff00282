"""Connections that wait, streams that nobody reads, and requests whose end is in doubt: over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator

import httpx
import pytest

from cutset.errors import ConfigError
from cutset.llm import AsyncLLM
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.events import LinksEvent
from cutset.serve.hub import MOST_BYTES, Hub
from cutset.serve.pending import PendingConnections, networks
from cutset.serve.request_limits import RequestLimits
from cutset.serve.server import Server, bind, configuration, serve_in_thread
from cutset.serve.service import Service
from tests.serve.conftest import Running
from tests.serve.test_clients import raw, request, wait_for

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = (
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
)


def closed(connection: socket.socket) -> bool:
    """The server has closed it; it may have said something before."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.fixture
def many() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "no.such.host.invalid"])
def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises(ConfigError, match="can't listen on"):
        bind(host, 0)


def test_an_answer_does_not_wait_for_acknowledgements() -> None:
    """Its body would stand behind its head for 40 ms, on every connection that is used again."""

    async def accepted() -> int:
        there: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()

        async def come(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there.set_result(writer.get_extra_info("socket"))
            await reader.read()
            writer.close()

        listening = bind("127.0.0.1", 0)
        async with await asyncio.start_server(come, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            found = (await there).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            writer.close()
            await writer.wait_closed()
        return found

    assert asyncio.run(accepted())


@pytest.mark.parametrize("begun", [b"", b"GET /health HT", BODY])
def test_half_open_connections_keep_nobody_out(
    serve: Callable[..., Running], many: contextlib.ExitStack, begun: bytes
) -> None:
    server = serve(connections=60, waiting=20)
    held = []
    for _ in range(150):
        held.append(many.enter_context(raw(server)))
        held[-1].sendall(begun)
    with raw(server) as newcomer:
        newcomer.sendall(HEALTH)
        assert newcomer.recv(1000).startswith(b"HTTP/1.1 200")
    wait_for(lambda: sum(map(closed, held)) >= 130)
    assert not any(map(closed, held[-18:]))  # the oldest go, not the newest
    held[-1].setblocking(True)
    if begun.startswith(b"GET"):
        held[-1].sendall(b"TP/1.1\r\nHost: localhost\r\n\r\n")
        assert held[-1].recv(1000).startswith(b"HTTP/1.1 200")


def test_a_thousand_half_open_heads(serve: Callable[..., Running], many: contextlib.ExitStack) -> None:
    server = serve()
    for _ in range(1000):
        many.enter_context(raw(server)).sendall(b"GET /health HT")
    for _ in range(3):
        assert httpx.get(f"{server.url}/health", timeout=15).status_code == 200


def test_connections_that_are_answered_are_not_dropped(
    serve: Callable[..., Running], many: contextlib.ExitStack
) -> None:
    server = serve(waiting=4)
    streams = []
    body = {"prompt": ["Once"] * 8, "max_tokens": 400, "ignore_eos": True, "stream": True, "stop": "§"}
    for _ in range(6):
        streams.append(many.enter_context(raw(server)))
        streams[-1].sendall(request(body))
        assert streams[-1].recv(12) == b"HTTP/1.1 200"
    for _ in range(50):
        many.enter_context(raw(server)).sendall(b"GET")
    for stream in streams:
        stream.settimeout(60)
        got = b""
        while b"[DONE]" not in got[-100:]:
            piece = stream.recv(1 << 16)
            assert piece, "it was dropped while it was answered"
            got += piece


def test_an_idle_connection_is_the_newest_after_each_answer(
    serve: Callable[..., Running], many: contextlib.ExitStack
) -> None:
    server = serve(waiting=3)
    kept = many.enter_context(raw(server))
    for _ in range(5):
        kept.sendall(HEALTH)
        got = b""
        while b"ok" not in got:
            got += kept.recv(1000)
        for _ in range(2):
            many.enter_context(raw(server)).sendall(b"GET")
        time.sleep(0.05)
    assert not closed(kept)


def test_a_full_server_makes_room(serve: Callable[..., Running], many: contextlib.ExitStack) -> None:
    server = serve(connections=10, waiting=100)
    held = [many.enter_context(raw(server)) for _ in range(30)]
    with raw(server) as newcomer:
        newcomer.sendall(HEALTH)
        assert newcomer.recv(1000).startswith(b"HTTP/1.1 200")
    assert sum(map(closed, held)) >= 20


class One:
    def __init__(self, dropped: list[One]) -> None:
        self.dropped = dropped

    def drop(self) -> None:
        self.dropped.append(self)


def test_a_crowd_is_counted_by_address() -> None:
    gone: list[One] = []
    pending, ones = PendingConnections(2, ["10.0.0.9", "fd00::/16"]), [One(gone) for _ in range(20)]
    for one in ones[:4]:
        pending.join(one, "10.0.0.1")
    assert gone == ones[:2]
    pending.join(ones[3], "10.0.0.1")  # it is there
    pending.join(ones[4], "10.0.0.2")
    pending.join(ones[5], "::ffff:10.0.0.1")  # the same as 10.0.0.1
    assert gone == ones[:3]
    for number in (6, 7, 8):  # of one network, as every IPv6 client has many addresses
        pending.join(ones[number], f"2001:db8::{number}")
    pending.join(ones[9], "2001:db8:0:1::1")
    assert gone == [*ones[:3], ones[6]]
    for number in range(10, 15):  # a proxy speaks for many
        pending.join(ones[number], "10.0.0.9" if number % 2 else "fd00::1")
    assert len(gone) == 4
    pending.make_room()  # of the address that has most
    assert gone[4:] == [ones[10]]
    for one in ones:
        pending.leave(one)
    pending.leave(ones[0])
    pending.make_room()
    assert len(gone) == 5


def test_proxies_are_named_by_address() -> None:
    assert len(networks(["10.0.0.1", "10.1.0.0/16", "::1"])) == 3
    for wrong in ("*", "proxy.local", "10.0.0.1/8", "", "1.2.3.4:80"):
        with pytest.raises(ConfigError, match="no address and no network"):
            networks([wrong])


SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"content-length: 0\r\nTRANSFER-ENCODING: Chunked\r\n",
    ],
)
@pytest.mark.parametrize("start", [b"POST /v1/completions", b"GET /health", b"POST /nothing"])
def test_two_lengths_end_the_connection(server: Running, head: bytes, start: bytes) -> None:
    with raw(server) as connection:
        line = start + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(line + head + b"\r\n0\r\n\r\n" + SMUGGLED)
        got = b""
        while piece := connection.recv(65536):  # until it is closed
            got += piece
        assert got.startswith(b"HTTP/1.1 400")
        assert b"connection: close" in got
        assert got.count(b"HTTP/1.1 ") == 1
        assert b"story" not in got


def test_other_lengths_in_doubt_are_refused_too(server: Running) -> None:
    for head in (
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5, 6\r\n",
    ):
        with raw(server) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n0\r\n\r\n" + SMUGGLED)
            got = b""
            while piece := connection.recv(65536):
                got += piece
            assert got.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501")), head
            assert got.count(b"HTTP/1.1 ") == 1, head


def test_paths_may_end_in_a_slash(server: Running) -> None:
    for path in ("/v1/models", "/v1/models/tale", "/health", "/metrics", "/dashboard/index.html"):
        plain, slash = httpx.get(server.url + path), httpx.get(server.url + path + "/")
        assert (plain.status_code, slash.status_code) == (200, 200), path
        if path != "/metrics":
            assert plain.content == slash.content
    for path, asked in (
        ("completions", {"prompt": "Once"}),
        ("chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ):
        found = httpx.post(f"{server.url}/v1/{path}/", json=asked | {"max_tokens": 1}, follow_redirects=False)
        assert found.status_code == 200
    assert httpx.get(server.url + "//").status_code == 200
    assert httpx.get(server.url + "/v1/").status_code == 404
    assert httpx.get(server.url + "/v1/models/other/").json()["error"]["code"] == "model_not_found"


def test_a_slash_opens_nothing(serve: Callable[..., Running]) -> None:
    server = serve(("a-key-for-this-test",))
    assert httpx.get(server.url + "/health/").status_code == 200
    for path in ("/v1/models/", "/metrics/", "/events/", "//v1/models"):
        assert httpx.get(server.url + path).status_code == 401, path


@pytest.mark.parametrize(
    ("proxies", "seen"),
    [((), ("http", "127.0.0.1")), (("127.0.0.1",), ("https", "203.0.113.7")), (("10.0.0.0/8",), ("http", "127.0.0.1"))],
)
def test_named_proxies_alone_are_believed(
    proxies: tuple[str, ...], seen: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def told(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{request.url.scheme} {request.client.host if request.client else ''}")

    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # uvicorn's own way to be told isn't ours
    server = uvicorn.Server(configuration(Starlette(routes=[Route("/", told)]), RequestLimits(), proxies))
    with serve_in_thread(server, bind("127.0.0.1", 0)) as url:
        headers = {"x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.7"}
        assert tuple(httpx.get(url, headers=headers).text.split()) == seen


@pytest.fixture
def small(llm: AsyncLLM) -> Iterator[Callable[..., Running]]:
    """Servers whose system keeps little of what they send: it would take megabytes."""
    with contextlib.ExitStack() as stack:

        def begin(**limits: float) -> Running:
            service, listening = Service(llm, limits=RequestLimits(**limits)), bind("127.0.0.1", 0)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            server = Server(build_app(service, Auth((), "127.0.0.1")), service)
            running = Running(service, stack.enter_context(serve_in_thread(server, listening)))
            stack.callback(running.close)
            return running

        yield begin


def unread(server: Running, many: contextlib.ExitStack, **fields: object) -> list[socket.socket]:
    body = {"prompt": ["Once"] * 12, "max_tokens": 400, "ignore_eos": True, "stream": True} | fields
    held = []
    for _ in range(5):
        slow = many.enter_context(socket.socket())
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        slow.settimeout(60)
        slow.sendall(request(body))
        held.append(slow)
    return held


def test_five_streams_that_nobody_reads_stay_small(small: Callable[..., Running], many: contextlib.ExitStack) -> None:
    most = 128 << 10
    server = small(unread_bytes=most)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        held = unread(server, many, logprobs=20, prompt=["Once"] * 3)
        generations = server.service.running
        wait_for(lambda: len(generations) == 5 and all(one._error for one in generations.values()), 60)
        wait_for(lambda: not server.service.llm.stats().blocks_used)  # they hold nothing of the engine's
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(generations) == 5  # nobody has read: they are still there, waiting to say why they ended
    assert kept < 5 * 3 * most, f"{kept} bytes"  # what waits, what is being sent, and the rest of the answers
    got = b""
    while b"of the answer unread" not in got:
        piece = held[0].recv(1 << 16)
        assert piece
        got += piece
    assert b"[DONE]" not in got


def test_texts_that_are_read_late_are_whole(small: Callable[..., Running], many: contextlib.ExitStack) -> None:
    server = small(unread_bytes=1 << 20)
    asked = {
        "model": "tale",
        "prompt": ["Once"] * 12,
        "max_tokens": 400,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    expected = {choice.index: choice.text for choice in server.client().completions.create(**asked).choices}
    import json

    before = server.service.llm.stats().generated_tokens
    held = unread(server, many, temperature=0)
    wait_for(lambda: server.service.llm.stats().generated_tokens == before + 5 * 12 * 400, 60)
    for slow in held:
        got = b""
        while b"[DONE]" not in got[-100:]:
            piece = slow.recv(1 << 16)
            assert piece
            got += piece
        texts = dict.fromkeys(range(12), "")
        events = [line.partition(b"data: ")[2] for line in got.splitlines() if line.startswith(b"data: {")]
        for event in events:
            [choice] = json.loads(event)["choices"]
            texts[choice["index"]] += choice["text"]
        assert texts == expected
        assert len(events) < 12 * 400  # several tokens in one piece


def test_a_watcher_that_reads_nothing_keeps_no_more_than_some_bytes() -> None:
    import asyncio

    async def run() -> None:
        hub = Hub()
        with hub.watching() as watcher:
            for number in range(100):
                hub.publish(LinksEvent(time=number, hops=[]))
            assert len(watcher._events) == 100
            for _ in range(20):
                watcher.put(b"x" * (MOST_BYTES // 8))
            assert sum(map(len, watcher._events)) <= MOST_BYTES
            watcher.put(b"y" * (2 * MOST_BYTES))  # a single one is kept, whatever its size
            assert [event[:1] for event in watcher._events] == [b"y"]
            assert len(await watcher.take()) == 2 * MOST_BYTES

    asyncio.run(run())
