"""What is logged and traced of requests, and files that are read again."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from cutset.errors import ConfigError
from cutset.llm import AsyncLLM
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.logs import JsonLines, log_request
from cutset.serve.records import RequestRecord
from cutset.serve.reload import FileWatch
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service
from cutset.serve.traces import Traces, otlp_provider
from tests.serve.test_clients import wait_for
from tests.serve.test_server import Process

PROMPT = "Once upon a secret time"
KEY = "a-very-secret-key"


class Observed:
    """A server, the spans of its requests, and their records."""

    def __init__(self, llm: AsyncLLM) -> None:
        self.exporter, self.records = InMemorySpanExporter(), list[RequestRecord]()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        service = Service(llm)
        sinks = (self.records.append, Traces(self.provider))
        self.server = Server(build_app(service, Auth([KEY], "127.0.0.1"), sinks=sinks), service)
        self.url = ""

    def post(self, path: str = "/v1/completions", key: str = KEY, **fields: Any) -> httpx.Response:
        body = {"model": "tale", "prompt": PROMPT, "max_tokens": 8, "ignore_eos": True} | fields
        headers = {"authorization": f"Bearer {key}", "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
        return httpx.post(f"{self.url}{path}?key={KEY}", json=body, headers=headers, timeout=30)

    def spans(self, count: int) -> dict[str, ReadableSpan]:
        wait_for(lambda: len(self.exporter.get_finished_spans()) >= count)
        found = {span.name: span for span in self.exporter.get_finished_spans()}
        assert len(found) == count
        return found


@pytest.fixture(scope="module")
def running(llm: AsyncLLM) -> Iterator[Observed]:
    found = Observed(llm)
    with serve_in_thread(found.server, bind("127.0.0.1", 0)) as found.url:
        yield found
    found.provider.shutdown()


@pytest.fixture
def observed(running: Observed) -> Observed:
    running.exporter.clear()
    running.records.clear()
    return running


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_with_prefill_and_decode(observed: Observed, stream: bool) -> None:
    answer = observed.post(stream=stream)
    assert answer.status_code == 200
    spans = observed.spans(3)
    whole, prefill, decode = spans["POST /v1/completions"], spans["prefill"], spans["decode"]
    assert whole.kind == SpanKind.SERVER
    assert whole.parent is not None
    assert f"{whole.parent.span_id:016x}" == "cd" * 8
    assert f"{whole.context.trace_id:032x}" == "ab" * 16
    assert prefill.parent.span_id == decode.parent.span_id == whole.context.span_id
    assert whole.start_time <= prefill.start_time < prefill.end_time == decode.start_time < decode.end_time
    assert decode.end_time == whole.end_time
    assert abs(whole.start_time / 1e9 - time.time()) < 60
    shown = dict(whole.attributes or {})
    assert shown["gen_ai.response.id"] == answer.headers["x-request-id"]
    assert shown["gen_ai.usage.output_tokens"] == 8
    assert shown["gen_ai.usage.input_tokens"] > 3
    assert (shown["gen_ai.request.model"], shown["http.response.status_code"]) == ("tale", 200)
    said = str([(span.name, dict(span.attributes or {})) for span in spans.values()])
    assert "secret" not in said
    assert "Once" not in said


def test_embeddings_and_refusals_are_spans_too(observed: Observed) -> None:
    body = {"input": PROMPT, "prompt": None, "max_tokens": None, "ignore_eos": None}
    assert observed.post("/v1/embeddings", **body).status_code == 200
    assert observed.post("/tokenize", max_tokens=None, ignore_eos=None, key="another-key").status_code == 401
    spans = observed.spans(2)
    assert spans["POST /v1/embeddings"].attributes["gen_ai.operation.name"] == "embeddings"
    assert spans["POST /v1/embeddings"].attributes["gen_ai.usage.input_tokens"] > 3
    refused = spans["POST /tokenize"]
    assert refused.attributes["http.response.status_code"] == 401
    assert refused.status.status_code != StatusCode.ERROR  # the client's fault
    httpx.get(f"{observed.url}/health")
    assert len(observed.exporter.get_finished_spans()) == 2


def test_a_client_that_leaves_is_an_error(observed: Observed) -> None:
    body = {"model": "tale", "prompt": [PROMPT] * 16, "max_tokens": 400, "ignore_eos": True}
    headers = {"authorization": f"Bearer {KEY}"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{observed.url}/v1/completions", json=body, headers=headers, timeout=0.2)
    wait_for(lambda: observed.exporter.get_finished_spans())
    span = observed.exporter.get_finished_spans()[-1]
    assert span.status.status_code == StatusCode.ERROR


def test_a_log_line_is_json_and_has_no_text(observed: Observed) -> None:
    observed.post()
    wait_for(lambda: observed.records)
    [record] = observed.records
    handler = logging.Handler()
    lines: list[str] = []
    handler.emit = lambda one: lines.append(JsonLines().format(one))
    log = logging.getLogger("cutset.serve")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        log_request(record)
        try:
            raise ValueError("a\nb")
        except ValueError:
            log.exception("it failed\n%s", "x")
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    found, failed = (json.loads(line) for line in lines)
    assert (found["method"], found["path"], found["status"]) == ("POST", "/v1/completions", 200)
    assert (found["tokens"], found["model"], found["level"]) == (8, "tale", "info")
    assert 0 < found["first_token_s"] <= found["seconds"]
    assert "secret" not in lines[0]
    assert "\n" not in lines[1]
    assert "ValueError" in failed["traceback"]


def test_keys_are_read_again_when_their_file_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, said = tmp_path / "keys", list[str]()
    file.write_text("first-secret-key\n")
    auth = Auth(["first-secret-key"], "127.0.0.1", changing=True)
    watch = FileWatch(said.append)

    def read() -> str:
        from cutset.serve.auth import keys_from

        auth.replace(keys_from([], file.read_text()))
        return "read"

    watch.add([file], read)
    assert auth.several  # so that what one client asked stays his when another comes
    file.write_text("second-secret-key\n")
    watch.check()
    assert auth.client(b"Bearer first-secret-key") is None
    assert auth.client(b"Bearer second-secret-key") is not None
    for wrong in ("", "short\n"):
        file.write_text(wrong)
        watch.check()
        assert auth.client(b"Bearer second-secret-key") is not None
    file.unlink()
    watch.check()
    assert auth.client(b"Bearer second-secret-key") is not None
    file.write_text("third-secret-key\n")
    watch.check()
    assert auth.client(b"Bearer third-secret-key") is not None
    assert said == ["read", "read"]
    assert "stays in force" in caplog.text
    assert "secret" not in caplog.text
    with pytest.raises(ConfigError):
        auth.replace([])


def test_the_command_logs_json_and_reads_keys_again(tmp_path: Path) -> None:
    """In a process of its own, told by SIGHUP."""
    file = tmp_path / "keys"
    file.write_text("first-secret-key\n")
    server = Process("--api-key-file", str(file), "--log-format", "json")
    try:
        assert json.loads(server.line)["message"].startswith("serving story")

        def status(key: str) -> int:
            return httpx.get(f"{server.url}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code

        assert (status("first-secret-key"), status("second-secret-key")) == (200, 401)
        file.write_text("second-secret-key\n")
        os.kill(server.process.pid, signal.SIGHUP)
        wait_for(lambda: status("second-secret-key") == 200)
        assert status("first-secret-key") == 401
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(b"nonsense\r\n\r\n")  # of which uvicorn has something to say
            assert raw.recv(100).startswith(b"HTTP/1.1 400")
        code, said = server.stop()
        assert code == 0
        lines = [json.loads(line) for line in said.splitlines()]
        assert {line["status"] for line in lines if line["message"] == "request"} == {200, 401}
        assert any("read again" in line["message"] for line in lines)
        assert any(line["logger"].startswith("uvicorn") for line in lines)
        assert "secret" not in said
    finally:
        server.process.kill()
        server.process.wait()


def test_where_traces_go(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("localhost:4318", "grpc://a", "http://", ""):
        with pytest.raises(ConfigError, match="otlp-traces-endpoint"):
            otlp_provider(wrong)
    otlp_provider("http://127.0.0.1:9/v1/traces").shutdown()


def test_the_systemd_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` where there is one; what hardens the service is there either way."""
    import shutil
    import subprocess
    import sys

    unit = Path(__file__).parents[2] / "deploy" / "systemd" / "cutset.service"
    text = unit.read_text()
    for line in ("DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=\n"):
        assert line in text
    if (verify := shutil.which("systemd-analyze")) is not None:
        copy = tmp_path / "cutset.service"
        copy.write_text(text.replace("/opt/cutset/bin/cutset", sys.executable))
        done = subprocess.run([verify, "verify", str(copy)], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    flags = " ".join(line for line in text.splitlines() if line.startswith(("ExecStart", "Environment")))
    helped = subprocess.run([sys.executable, "-m", "cutset", "serve", "--help"], capture_output=True, text=True)
    for flag in (word.strip('"') for word in flags.split() if word.startswith("--")):
        assert flag in helped.stdout
