"""Metrics, health, and `cutset serve` as people start and stop it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import httpx
import openai
import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cutset.serve.metrics import BETWEEN, Metrics
from tests.serve.conftest import Running


def readings(url: str) -> dict[str, float]:
    """Every sample of /metrics by name, labels summed."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
        for sample in family.samples:
            if "le" not in sample.labels:
                found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def test_metrics_count_what_happens(server: Running) -> None:
    before = readings(server.url)
    client = server.client()
    client.completions.create(model="tale", prompt="Once upon a time there was", max_tokens=5, n=2, temperature=0)
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="Once")
    after = readings(server.url)

    def more(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert more("vllm:generation_tokens_total") == 10
    assert more("vllm:request_success_total") == 2
    assert more("vllm:time_to_first_token_seconds_count") == 2
    assert more("vllm:inter_token_latency_seconds_count") == 8
    assert more("vllm:e2e_request_latency_seconds_count") == 1
    assert more("vllm:request_generation_tokens_sum") == 10
    assert more("cutset_requests_refused_total") == 1
    assert more("vllm:prompt_tokens_total") > 0
    assert after["vllm:num_requests_running"] == after["vllm:kv_cache_usage_perc"] == 0
    assert (after["cutset_kv_dtype"], after["cutset_prefix_disk_hits_total"]) == (1, 0)
    assert after["process_resident_memory_bytes"] > 1e6


def test_the_histogram_of_every_token_is_what_the_library_s_would_be(server: Running) -> None:
    metrics = Metrics(server.service)
    server.service.watches.remove(metrics)
    registry = CollectorRegistry()
    name, text = "vllm:inter_token_latency_seconds", "Between two tokens of a sample"
    twin = Histogram(name, text, ["model_name"], buckets=BETWEEN, registry=registry).labels(server.service.names[0])
    for seconds in (0.0, 0.0005, 0.001, 0.0011, 0.05, 0.0750001, 2.4, 2.5, 99.0):  # at ends, between, beyond
        metrics.token(seconds, first=False)
        twin.observe(seconds)
    metrics.token(0.03125, first=False, count=3)  # three that came together
    for _ in range(3):
        twin.observe(0.03125)

    def shown(data: bytes) -> list[str]:
        return [line for line in data.decode().splitlines() if name in line and "_created" not in line]

    assert shown(metrics.text()) == shown(generate_latest(registry))
    assert len(shown(metrics.text())) == len(BETWEEN) + 1 + 4


def test_a_server_whose_engine_has_ended_says_so(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(server.service.llm), "alive", False)
    assert httpx.get(f"{server.url}/health").status_code == 503
    with pytest.raises(openai.InternalServerError, match="engine has stopped") as caught:
        server.client().completions.create(model="tale", prompt="Once")
    assert caught.value.status_code == 503


def test_the_trusted_side_serves_without_torch() -> None:
    code = "import sys, cutset.serve.app, cutset.serve.server, cutset.serve.feed; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


class Process:
    """`cutset serve story` in a process of its own."""

    def __init__(self, *more: str) -> None:
        command = [sys.executable, "-m", "cutset", "serve", "story", "--port", "0", "--threads", "1", *more]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CUTSET_")}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stderr is not None
        self.line = self.process.stderr.readline()
        found = re.search(r"http://\S+?:\d+", self.line)
        assert found, self.line + self.process.stderr.read()
        self.url = found[0]
        while True:  # it says where before it listens
            try:
                httpx.get(f"{self.url}/health")
                return
            except httpx.ConnectError:
                time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


@pytest.fixture
def start() -> Iterator[type[Process]]:
    started: list[Process] = []

    class Started(Process):
        def __init__(self, *more: str) -> None:
            super().__init__(*more)
            started.append(self)

    yield Started
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


def stream_from(url: str, texts: list[str], errors: list[Exception], tokens: int) -> threading.Thread:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    stream = client.completions.create(
        model="story", prompt="Once", max_tokens=tokens, stream=True, n=16, extra_body={"ignore_eos": True}
    )
    texts.append(next(iter(stream)).choices[0].text)

    def read() -> None:
        try:
            with client, stream:
                texts.extend(chunk.choices[0].text for chunk in stream)
        except Exception as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    return reader


def test_a_stopped_server_finishes_what_runs(start: type[Process]) -> None:
    server, texts, errors = start(), list[str](), list[Exception]()
    reader = stream_from(server.url, texts, errors, 300)
    with httpx.stream("GET", f"{server.url}/events"):  # a dashboard that is open doesn't hold it up
        code, said = server.stop()
    reader.join(10)
    assert (code, errors) == (0, [])
    assert len(texts) >= 16 * 290  # a few tokens show no text of their own
    assert "stopping: waiting" in said
    assert "stopped: 4800 tokens generated" in said


def test_a_stopped_server_tells_whom_it_leaves(start: type[Process]) -> None:
    server, texts, errors = start("--grace", "0"), list[str](), list[Exception]()
    reader = stream_from(server.url, texts, errors, 500)
    code, _ = server.stop(signal.SIGINT)
    reader.join(10)
    assert code == 0
    assert [str(error) for error in errors] == ["the server was stopped before the answer was complete"]


def test_wrong_arguments_are_two_lines_at_most() -> None:
    for arguments in (["--host", "0.0.0.0"], ["--port", "70000"], ["--max-queue", "-1"], ["--api-key", "x"]):
        done = subprocess.run(
            [sys.executable, "-m", "cutset", "serve", "story", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) <= 2
        assert "Traceback" not in done.stderr


def test_a_taken_port_is_known_before_the_model_is_loaded(start: type[Process]) -> None:
    port = start().url.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "cutset", "serve", "no-such-model", "--port", port],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "choose another port" in done.stderr) == (2, True)
