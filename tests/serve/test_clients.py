"""Clients that leave, hurry, dawdle or send nonsense: an error for them, nothing for the others."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable

import httpx
import openai
import pytest

from cutset.serve.connection import Connection
from cutset.serve.events import HopState, LinksEvent
from tests.serve.conftest import Running

LONG = {"model": "tale", "prompt": "Once", "max_tokens": 400, "temperature": 1, "extra_body": {"ignore_eos": True}}


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def post(server: Running, body: bytes, **headers: str) -> httpx.Response:
    headers = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
    return httpx.post(f"{server.url}/v1/completions", content=body, headers=headers, timeout=30)


def raw(server: Running) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def request(body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    lines = ("POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    return "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode() + data


def test_a_client_that_leaves_a_stream_frees_its_blocks(server: Running) -> None:
    before = server.service.llm.stats().generated_tokens
    stream = server.client().completions.create(**LONG, n=4, stream=True)
    next(iter(stream))
    assert server.service.llm.stats().blocks_used > 0
    stream.close()
    server.idle(2)
    assert server.service.llm.stats().generated_tokens - before < 4 * 400


def test_a_client_that_leaves_before_its_answer_frees_its_blocks(server: Running) -> None:
    for leave in (socket.socket.close, lambda one: one.shutdown(socket.SHUT_WR)):  # gone, and half closed
        with raw(server) as connection:
            connection.sendall(request({"prompt": "Once", "max_tokens": 500, "ignore_eos": True, "n": 8}))
            wait_for(lambda: server.service.llm.stats().running)
            leave(connection)
            server.idle(2)


def test_a_full_queue_is_429_and_ends(serve: Callable[..., Running]) -> None:
    server = serve(queue=0)  # as many as run at once, and no more
    most = server.service.admission.most
    client = server.client()
    streams = [client.completions.create(**LONG, n=most // 2, stream=True) for _ in range(2)]
    with pytest.raises(openai.RateLimitError) as caught:
        client.completions.create(model="tale", prompt="Once", max_tokens=1)
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["retry-after"] == "1"
    for stream in streams:
        stream.close()
    server.idle()
    assert client.completions.create(model="tale", prompt="Once", max_tokens=1).choices
    with pytest.raises(openai.BadRequestError, match="at most"):
        client.completions.create(model="tale", prompt=["Once"] * (most + 1), max_tokens=1)


def test_an_answer_may_not_take_for_ever(serve: Callable[..., Running]) -> None:
    server = serve(request_s=0.05)
    with pytest.raises(openai.APIStatusError) as caught:
        server.client().completions.create(**LONG, n=64)
    assert caught.value.status_code == 504
    with pytest.raises(openai.APIError, match="took longer"):
        list(server.client().completions.create(**LONG, n=16, stream=True))
    server.idle()


@pytest.mark.parametrize("sized", [True, False])
def test_a_body_that_is_too_large(server: Running, sized: bool) -> None:
    piece = b" " * (1 << 20)
    body = piece * 100 if sized else (piece for _ in range(100))
    found = httpx.post(
        f"{server.url}/v1/completions", content=body, headers={"content-type": "application/json"}, timeout=60
    )
    assert found.status_code == 413
    assert "larger than" in found.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"prompt": "a"} more',
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "a", "max_tokens": NaN}',
        b"[" * 100_000,
        b'{"prompt": ' + b"[" * 100_000,
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "seed": 99999999999999999999999999}',
        b'{"prompt": "a", "stop": [1]}',
    ],
)
def test_nonsense_is_400(server: Running, body: bytes) -> None:
    found = post(server, body)
    assert (found.status_code, found.json()["error"]["type"]) == (400, "invalid_request_error")


def test_long_texts_are_tokenised_apart_and_far_too_long_ones_not_at_all(server: Running) -> None:
    most = server.service._most_characters
    for length, why in ((most // 2, "tokens"), (most + 8, "characters")):
        for path, asked in (
            ("completions", {"prompt": "a b " * (length // 4)}),
            ("chat/completions", {"messages": [{"role": "x" * (length // 2), "content": "a b " * (length // 8 + 1)}]}),
        ):
            found = httpx.post(f"{server.url}/v1/{path}", json=asked, timeout=60)
            error = found.json()["error"]
            assert (found.status_code, error["code"]) == (400, "context_length_exceeded"), error
            assert why in error["message"]


def test_half_a_surrogate_pair_is_400(server: Running) -> None:
    assert post(server, b'{"prompt": "\\ud800", "max_tokens": 1}').status_code == 400


def test_unknown_paths_methods_and_types(server: Running) -> None:
    assert httpx.get(f"{server.url}/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(f"{server.url}/v1/completions").status_code == 405
    assert post(server, b"{}", content_type="text/plain").status_code == 415
    assert httpx.get(f"{server.url}/dashboard/..%2fapp.py").status_code == 404


def test_a_body_that_never_comes_is_given_up(serve: Callable[..., Running]) -> None:
    server = serve(body_s=0.2)
    with raw(server) as connection:
        connection.sendall(request({"prompt": "a"})[:-5])
        assert b" 408 " in connection.recv(1000)


def test_a_slow_reader_holds_nobody_up(server: Running) -> None:
    with raw(server) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.sendall(request({"prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True, "logprobs": 20}))
        wait_for(lambda: server.service.llm.stats().running)
        for _ in range(3):
            found = server.client().completions.create(model="tale", prompt="Twice", max_tokens=4)
            assert found.usage.completion_tokens == 4
        server.idle()


def test_reading_nothing_for_too_long_ends_the_answer(serve: Callable[..., Running]) -> None:
    server = serve(write_s=0.3)
    with raw(server) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        body = {"prompt": ["Once"] * 32, "max_tokens": 400, "ignore_eos": True, "stream": True, "logprobs": 20}
        slow.sendall(request(body))
        wait_for(lambda: server.service.llm.stats().running)
        server.idle(60)


def test_a_browser_that_reads_nothing_for_too_long_loses_its_place(serve: Callable[..., Running]) -> None:
    hub = (server := serve(write_s=0.3)).service.hub
    with raw(server) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: hub.watched)

        def gone() -> bool:
            for i in range(50):
                hub.publish(LinksEvent(time=i, hops=[HopState("a" * 1000, "b" * 1000, None, None, 1, "key")] * 20))
            return not hub.watched

        wait_for(gone, 30)


def test_others_get_their_texts_beside_all_this(server: Running) -> None:
    client = server.client()
    asked = {"model": "tale", "prompt": "Once upon a time", "max_tokens": 60, "temperature": 0}
    expected = client.completions.create(**asked).choices[0].text
    texts: list[str] = []
    readers = [
        threading.Thread(target=lambda: texts.append(client.completions.create(**asked).choices[0].text))
        for _ in range(8)
    ]
    for reader in readers:
        reader.start()
        with raw(server) as connection:
            connection.sendall(request({"prompt": "Once", "max_tokens": 400, "n": 4, "stream": True}))
        post(server, b'{"prompt": "\xff"}')
    for reader in readers:
        reader.join(30)
    assert texts == [expected] * 8
    server.idle()


def test_headers_without_end_are_refused(server: Running) -> None:
    with raw(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        try:
            for _ in range(100):
                connection.sendall(b"X-More: " + b"x" * 4000 + b"\r\n")
            assert b" 400 " in connection.recv(1000)
        except ConnectionError:
            pass
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_a_head_that_never_comes_is_given_up(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "head_s", 0.2)
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for before, begun in ((b"", b""), (b"", b"GET /health HT"), (whole, b"GET ")):
        with raw(server) as connection:
            connection.sendall(before)
            if before:
                assert b" 200 " in connection.recv(1000)
            connection.sendall(begun)
            start = time.monotonic()
            while connection.recv(1000):
                pass
            assert time.monotonic() - start < 10  # and not after the 30 s that an idle connection has


def test_one_connection_serves_many_requests(server: Running) -> None:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    for _ in range(3):
        connection.request(
            "POST", "/v1/completions", b'{"prompt": "a", "max_tokens": 2}', {"content-type": "application/json"}
        )
        assert json.loads(connection.getresponse().read())["usage"]["completion_tokens"] == 2
    connection.close()
