"""A server over stages: what it shows of them, and that health says when there are none to run on."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cutset.config import load_settings
from cutset.engine.embedding import unit_vectors
from cutset.engine.params import SamplingParams
from cutset.llm import LLM, AsyncLLM
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.readings import stages_event
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service
from engine.stage_processes import Stages, running, until
from tests.serve.conftest import Running
from tests.serve.test_dashboard import becomes, number
from tests.serve.test_server import readings

MEMORY = ["--memory", "13MB"]  # neither of two stages can run the whole model
ASKED = {"prompt": "Once upon a time", "max_tokens": 150, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stages, Running]]:
    with contextlib.ExitStack() as parts:
        folder = tmp_path_factory.mktemp("stages")
        stages = parts.enter_context(running(folder, "a", "b", extra=MEMORY))
        small = {"threads": 1, "max_model_len": 256, "max_num_seqs": 4, "cache_mib": 4}
        llm = AsyncLLM("story", settings=load_settings(stages.settings("a", "b") | small))
        parts.callback(llm.close)
        service = Service(llm)
        server = Server(build_app(service, Auth((), "127.0.0.1")), service)
        found = Running(service, parts.enter_context(serve_in_thread(server, bind("127.0.0.1", 0))))
        parts.callback(found.close)
        yield stages, found


def ask(url: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/completions", json=ASKED, timeout=60)


def labelled(url: str, name: str) -> dict[str, float]:
    """A metric's samples by the values of their labels."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {" ".join(sample.labels.values()): sample.value for sample in samples}


def test_metrics_tell_of_every_stage(served: tuple[Stages, Running]) -> None:
    stages, server = served
    a, b = (stages.places[name] for name in "ab")
    assert ask(server.url).status_code == 200
    until(lambda: labelled(server.url, "cutset_stage_steps_total").get(b, 0) >= 150)
    assert labelled(server.url, "cutset_stage_layers") == {a: 3, b: 3}
    assert labelled(server.url, "cutset_stage_up") == {a: 1, b: 1}
    cache = labelled(server.url, "cutset_stage_kv_bytes")
    blocks = readings(server.url)["cutset_kv_blocks"]
    assert cache[a] == cache[b] == blocks * 16 * 3 * 2 * 64 * 4
    assert all(value > 0 for value in labelled(server.url, "cutset_stage_busy_seconds_total").values())
    assert all(value > 0 for value in labelled(server.url, "cutset_stage_weight_bytes").values())
    hops = labelled(server.url, "cutset_hop_bytes_total")
    assert list(hops) == [f"coordinator {a}", f"{a} {b}", f"{b} coordinator"]
    assert hops[f"{a} {b}"] >= 150 * 4 * 128, "hidden states of every token"
    assert all(0 < value < 10 for value in labelled(server.url, "cutset_hop_seconds").values())
    found = readings(server.url)
    assert (found["cutset_stages"], found["cutset_ready"], found["cutset_batches_in_flight_most"]) == (2, 1, 3)


def test_embeddings_and_scores_over_stages(served: tuple[Stages, Running]) -> None:
    _, server = served
    llm = server.service.llm
    with LLM("story", settings=load_settings({"threads": 1, "max_model_len": 256})) as whole:
        texts = ["Once upon a time", "a dog", "a cat " * 50]
        wanted = whole.embed(texts, pooling="mean")
        scored = whole.generate(texts[2], SamplingParams(max_tokens=1, prompt_logprobs=2))[0].prompt_logprobs
    found = llm.embeddings.vectors([llm.embeddings.encode(text) for text in texts], pooling="mean")
    assert unit_vectors(found).tobytes() == wanted.tobytes()
    asked = ASKED | {"prompt": texts[2], "max_tokens": 0, "echo": True, "logprobs": 2}
    told = httpx.post(f"{server.url}/v1/completions", json=asked, timeout=60).json()["choices"][0]["logprobs"]
    assert told["token_logprobs"] == [one and one.logprob for one in scored]


def test_a_server_in_one_place_has_no_stages(server: Running) -> None:
    assert stages_event(server.service) is None
    assert not [name for name in readings(server.url) if "stage" in name or "hop" in name]


def test_health_and_the_page_follow_a_failover(served: tuple[Stages, Running], page: Any) -> None:
    stages, server = served
    a, b = (stages.places[name] for name in "ab")
    page.goto(server.url)
    becomes(page, "stages-state", re.compile(r"plan \d+ is in use"))
    becomes(page, "what", "story, native float32, in stages")
    rows, hops = page.locator("#stage-rows tr"), page.locator("#stage-hops tr")
    assert (rows.count(), hops.count()) == (2, 3)
    assert b in rows.nth(1).text_content()
    assert "layers 3–5" in rows.nth(1).text_content()
    assert page.locator("#stages-bar span").count() == 2
    failed = number(page, "failovers")
    right = ask(server.url).json()["choices"][0]["text"]
    texts: list[str] = []
    enough = threading.Event()

    def keep_asking() -> None:
        """The page is told twice a second, which a fast machine's whole answer can fall between."""
        while not enough.is_set():
            texts.append(ask(server.url).json()["choices"][0]["text"])

    asking = [threading.Thread(target=keep_asking) for _ in range(2)]
    for thread in asking:
        thread.start()
    becomes(page, "in-flight", re.compile("[1-9]"))
    stages.kill("b")
    enough.set()
    until(lambda: httpx.get(f"{server.url}/health").status_code == 503)
    health = httpx.get(f"{server.url}/health")
    assert "stages of the model are away" in health.json()["error"]["message"]
    assert a not in health.text, "clients don't learn where"
    assert readings(server.url)["cutset_ready"] == readings(server.url)["cutset_stages"] == 0
    assert labelled(server.url, "cutset_stage_up") == {a: 1, b: 0}
    becomes(page, "stages-state", "not ready, no plan stands:")
    becomes(page, "stages-why", re.compile("the stages need about"))
    assert "away" in page.text_content("#stage-rows")
    stages.start("b", extra=MEMORY)
    until(lambda: httpx.get(f"{server.url}/health").status_code == 200)
    for thread in asking:
        thread.join()
    assert set(texts) == {right}, "its clients see a pause"
    becomes(page, "stages-state", re.compile(r"plan \d+ is in use"))
    becomes(page, "failovers", str(int(failed) + 1))
    assert readings(server.url)["cutset_stage_failovers_total"] == failed + 1
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    server.idle()
