"""After an accelerator was caught in a lie: who is told what, and what the server does then."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from cutset.engine.params import SamplingParams
from cutset.errors import IntegrityError, LinkTimeout, OffloadError
from cutset.llm import LLM, AsyncLLM
from cutset.offload.accelerator.products import NativeProducts
from cutset.offload.client.offload import Offload
from cutset.serve import readiness
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.errors import as_api_error
from cutset.serve.limits import RequestLimits
from cutset.serve.readiness import Policy
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service
from tests.offload.conftest import loaded  # noqa: F401  # a fixture
from tests.offload.serving import Odd, serving
from tests.serve.conftest import Running
from tests.serve.test_clients import wait_for
from tests.serve.test_server import readings

ASKED = {"model": "story", "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}
Loaded = tuple[NativeProducts, list[tuple[int, int]], str]


class Lies:
    """How many more products are wrong."""

    left = 0


def lies(self: Odd, link: Any, message: Any, arrays: list[Any]) -> bool:
    if Lies.left > 0:
        Lies.left -= 1
        arrays[0] ^= 1
    return False


@pytest.fixture
def begin(loaded: Loaded) -> Iterator[Callable[..., tuple[Running, Service, Server]]]:  # noqa: F811
    """A server whose accelerator gives wrong products as often as Lies.left says."""
    Lies.left = 0
    with contextlib.ExitStack() as stack:

        def start(policy: Policy = "refuse") -> tuple[Running, Service, Server]:
            accelerator = stack.enter_context(serving(loaded, odd=lies))
            llm = AsyncLLM("story", offload=accelerator.listener.address, mode="masked+verified", threads=1)
            stack.callback(llm.close)
            service = Service(llm, limits=RequestLimits(), on_integrity_error=policy)
            server = Server(build_app(service, Auth([], "127.0.0.1")), service)
            url = stack.enter_context(serve_in_thread(server, bind("127.0.0.1", 0)))
            running = Running(service, url)
            stack.callback(running.close)
            return running, service, server

        yield start


def ask(url: str, **more: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/completions", json=ASKED | more, timeout=60)


def said(response: httpx.Response) -> str:
    """The message, after a look that it tells nothing of the model, the link or the lie."""
    text = response.text.lower()
    for word in ("layer", "row", "column", "residue", "check ", "shm:", "mlp", "attention", "lm_head", "matrix", "qkv"):
        assert word not in text.replace("wrong", ""), text
    assert response.headers.get("x-should-retry", "false") == "false"
    return text


def test_a_lie_is_told_logged_counted_and_not_asked_about_again(
    begin: Callable[..., tuple[Running, Service, Server]], caplog: pytest.LogCaptureFixture
) -> None:
    running, service, _ = begin()
    url = running.url
    assert ask(url).status_code == httpx.get(f"{url}/health").status_code == 200
    assert readings(url)["cutset_ready"] == 1
    assert readings(url)["cutset_integrity_failures_total"] == 0
    Lies.left = 1
    with caplog.at_level(logging.ERROR):
        first = ask(url)
    assert (first.status_code, first.json()["error"]["code"]) == (502, "integrity_error")
    assert "wrong product" in said(first)
    found = [record.getMessage() for record in caplog.records if record.name == readiness.__name__]
    assert len(found) == 1
    assert "row " in found[0]  # the operator learns where
    offload = service.llm.offload
    assert isinstance(offload, Offload)
    calls = offload.linears.session.calls
    for _ in range(3):
        health, again, stream = httpx.get(f"{url}/health"), ask(url), ask(url, stream=True)
        assert health.status_code == again.status_code == stream.status_code == 503
        for one in (health, again, stream):
            assert "isn't ready" in said(one)
    assert offload.linears.session.calls == calls  # nobody was asked
    counted = readings(url)
    assert counted["cutset_ready"] == 0
    assert counted["cutset_integrity_failures_total"] == 1
    assert httpx.get(f"{url}/v1/models").status_code == 200
    running.idle()


def test_a_lie_in_the_middle_of_a_stream_tells_as_little(
    begin: Callable[..., tuple[Running, Service, Server]],
) -> None:
    running, service, _ = begin()
    with httpx.stream(
        "POST", f"{running.url}/v1/completions", json=ASKED | {"stream": True, "max_tokens": 400}
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        Lies.left = 1
        rest = "\n".join(lines)
    assert "integrity_error" in rest
    assert "[DONE]" not in rest
    assert "row" not in rest.replace("wrong", "").rpartition('"error"')[2]
    assert not service.ready


def test_health_finds_out_by_itself(begin: Callable[..., tuple[Running, Service, Server]]) -> None:
    running, service, _ = begin()
    assert isinstance(service.llm.offload, Offload)
    service.llm.offload.linears.session.broke("gave a wrong product, says this test")
    assert httpx.get(f"{running.url}/health").status_code == 503
    assert readings(running.url)["cutset_integrity_failures_total"] == 1
    assert ask(running.url).status_code == 503


def test_a_new_session_gives_the_same_answers(
    begin: Callable[..., tuple[Running, Service, Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LLM("story", mode="local", threads=1) as llm:
        expected = llm.generate(ASKED["prompt"], SamplingParams(max_tokens=12, temperature=0))[0].text
    running, service, _ = begin("reopen")
    for number in range(1, readiness.MOST_REOPENED + 1):
        Lies.left = 1
        assert ask(running.url).status_code == 502
        wait_for(lambda: httpx.get(f"{running.url}/health").status_code == 200)
        answers = [ask(running.url).json()["choices"][0]["text"] for _ in range(2)]
        assert answers == [expected] * 2
        assert readings(running.url)["cutset_integrity_failures_total"] == number
    Lies.left = 1
    assert ask(running.url).status_code == 502  # once too often
    assert httpx.get(f"{running.url}/health").status_code == 503
    assert service.readiness._reopening is None


def test_a_session_that_can_t_be_opened_is_tried_again(
    begin: Callable[..., tuple[Running, Service, Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "PAUSES", (0.0, 0.01))
    running, service, _ = begin("reopen")
    offload, tried = service.llm.offload, list[int]()
    assert isinstance(offload, Offload)
    opening = offload.linears.session._open

    def fails(end: float) -> Any:
        tried.append(1)
        if len(tried) < 4:
            raise LinkTimeout("nobody is there")
        return opening(end)

    monkeypatch.setattr(offload.linears.session, "_open", fails)
    Lies.left = 1
    assert ask(running.url).status_code == 502
    wait_for(lambda: httpx.get(f"{running.url}/health").status_code == 200)
    assert len(tried) == 4
    assert ask(running.url).status_code == 200


def test_a_lie_about_pads_isn_t_mended_by_a_new_session(
    begin: Callable[..., tuple[Running, Service, Server]],
) -> None:
    running, service, _ = begin("reopen")
    assert isinstance(service.llm.offload, Offload)
    session = service.llm.offload.linears.session
    session.fail(IntegrityError("the pad server gave nonsense"))
    assert ask(running.url).status_code == 502
    wait_for(lambda: service.readiness._reopening is None)
    assert httpx.get(f"{running.url}/health").status_code == 503
    with pytest.raises(IntegrityError, match="pad server"):
        session.renew()


def test_a_server_may_stop(begin: Callable[..., tuple[Running, Service, Server]]) -> None:
    running, service, server = begin("stop")
    Lies.left = 1
    assert ask(running.url).status_code == 502
    wait_for(lambda: server.should_exit)
    assert service.readiness.stopped

    def gone() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"{running.url}/health")
            return False
        return True

    wait_for(gone)


def test_what_else_fails_is_told_without_its_place() -> None:
    for error in (OffloadError("the accelerator at shm://x refused"), LinkTimeout("tcp://10.0.0.1 gave no answer")):
        shown = as_api_error(error)
        assert (shown.status, shown.code) == (502, "offload_error")
        assert "://" not in shown.message


def test_the_policy_is_a_flag() -> None:
    command = [sys.executable, "-m", "cutset", "serve", "story", "--on-integrity-error", "shrug"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "refuse" in done.stderr) == (2, True)
    command[-2:] = ["--forwarded-allow-ips", "10.0.0.1, *"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "'*' is no address" in done.stderr) == (2, True)
