"""Several models in one process: loaded when they are asked for, within a limit of memory."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

ollama = pytest.importorskip("ollama")

from cutset import LLM, SamplingParams
from cutset.config import load_settings
from cutset.errors import ConfigError
from cutset.models.random import RandomModel
from cutset.receipts.issuer import ReceiptIssuer
from cutset.serve.auth import Auth
from cutset.serve.batches.batch_api import BatchApi
from cutset.serve.model_pool import ModelPool, PooledModel
from cutset.serve.pool_app import PoolApplications, build_pool_app, merged
from cutset.serve.pooled import pooled_models
from cutset.serve.request_limits import RequestLimits
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.trust.signing_key import Signer, SigningKey
from cutset.trust.verify_receipt import verify

KEY = SigningKey.new()
PROMPT = "t5 t9 t3"
SETTINGS = {"threads": 1, "cache_mib": 1}
NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three models, as NAME=MODEL."""
    folder = tmp_path_factory.mktemp("pool")
    found = []
    for seed, name in enumerate(NAMES):
        RandomModel(seed=seed, vocab=64, hidden=32, heads=4).write_checkpoint(folder / name)
        (folder / name / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
        found.append(f"{name}={folder / name}")
    return found


@pytest.fixture(scope="module")
def wanted(texts: list[str]) -> dict[str, str]:
    """What each says alone."""
    found = {}
    for text in texts:
        name, _, where = text.partition("=")
        with LLM(where, **SETTINGS) as llm:
            found[name] = llm.generate([PROMPT], SamplingParams(max_tokens=8, temperature=0, ignore_eos=True))[0].text
    assert len(set(found.values())) == 3
    return found


class Pooled:
    """A server of a pool in this process."""

    def __init__(self, pool: ModelPool, url: str, said: list[str]) -> None:
        self.pool, self.url, self.said = pool, url, said
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)

    def ask(self, name: str, tokens: int = 8) -> str:
        more = {"ignore_eos": True}
        answer = self.client.completions.create(
            model=name, prompt=PROMPT, max_tokens=tokens, temperature=0, extra_body=more
        )
        assert answer.model == name
        return answer.choices[0].text


@pytest.fixture
def start(texts: list[str]) -> Iterator[Callable[..., Pooled]]:
    """Serves the models within the memory of some of them."""
    import contextlib

    with contextlib.ExitStack() as stack:

        def begin(
            room: float,
            change: Callable[[list[PooledModel]], None] = lambda models: None,
            batches: BatchApi | None = None,
        ) -> Pooled:
            models = pooled_models(texts, load_settings(SETTINGS), 1 << 40)
            change(models)
            said, made = list[str](), PoolApplications()
            memory = int(room * max(model.nbytes for model in models))
            pool = ModelPool(
                models,
                memory,
                limits=RequestLimits(request_s=30),
                applications=made,
                report=said.append,
                receipts=lambda llm: ReceiptIssuer(llm, Signer(KEY)),
            )
            stack.callback(pool.close_models)
            server = Server(build_pool_app(pool, made, Auth([], "127.0.0.1"), batches=batches), pool)
            found = Pooled(pool, stack.enter_context(serve_in_thread(server, bind("127.0.0.1", 0))), said)
            stack.callback(found.client.close)
            return found

        yield begin


def test_each_model_answers_as_it_does_alone(start: Callable[..., Pooled], wanted: dict[str, str]) -> None:
    server = start(room=3)
    assert server.pool.loaded() == []
    for name in ("b", "a", "c", "a"):
        assert server.ask(name) == wanted[name]
    assert sorted(server.pool.loaded()) == list(NAMES)
    assert [model.loads for model in server.pool.models.values()] == [1, 1, 1]
    first = httpx.post(f"{server.url}/v1/completions", json={"prompt": PROMPT}).json()  # without a name: the first
    assert first["model"] == "a"


def test_a_batch_names_several_models(start: Callable[..., Pooled], wanted: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("python_multipart")
    server = start(room=1, batches=BatchApi(tmp_path / "kept"))
    body = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    names = ("a", "b", "none", "a")
    lines = [
        {"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body | {"model": name}}
        for i, name in enumerate(names)
    ]
    data = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    file = server.client.files.create(file=("in.jsonl", data), purpose="batch")
    create = server.client.batches.create
    batch = create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    end = time.monotonic() + 60
    while (found := server.client.batches.retrieve(batch.id)).status != "completed" and time.monotonic() < end:
        time.sleep(0.02)
    assert (found.request_counts.completed, found.request_counts.failed) == (3, 1)
    answers = [json.loads(line) for line in server.client.files.content(found.output_file_id).text.splitlines()]
    said = [one["response"]["body"]["choices"][0]["text"] for one in answers]
    assert said == [wanted[name] for name in names if name != "none"]


def test_receipts_are_of_the_model_that_answered(start: Callable[..., Pooled]) -> None:
    server = start(room=1)
    files = []
    for name in ("a", "b", "a"):
        asked = {"model": name, "prompt": PROMPT, "max_tokens": 2, "cutset_receipt": True}
        answer = httpx.post(f"{server.url}/v1/completions", json=asked, timeout=30).json()
        found = verify(answer["cutset_receipt"].encode(), KEY.public)
        assert found.statement["model"]["name"] == name
        files.append(found.statement["model"]["files"])
    assert files[0] == files[2] != files[1]


def test_what_was_used_longest_ago_makes_room(start: Callable[..., Pooled], wanted: dict[str, str]) -> None:
    server = start(room=2)
    for name, loaded in (("a", "a"), ("b", "ab"), ("a", "ab"), ("c", "ac"), ("b", "bc"), ("b", "bc"), ("a", "ab")):
        assert server.ask(name) == wanted[name]
        assert "".join(server.pool.loaded()) == loaded
    assert [server.pool.models[name].loads for name in NAMES] == [2, 2, 1]
    assert sum("let go of" in line for line in server.said) == 3


def test_a_model_in_use_is_not_let_go_of(start: Callable[..., Pooled], wanted: dict[str, str]) -> None:
    server = start(room=1)
    stream = server.client.completions.create(
        model="a", prompt=PROMPT, max_tokens=100, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    found: list[str] = []
    other = threading.Thread(target=lambda: found.append(server.ask("b")))
    other.start()
    time.sleep(0.1)
    assert len(list(stream)) > 50
    other.join(30)
    assert found == [wanted["b"]]
    assert server.pool.loaded() == ["b"]


@pytest.mark.slow
def test_many_clients_of_all_models_at_once(start: Callable[..., Pooled], wanted: dict[str, str]) -> None:
    server = start(room=2)
    found: list[tuple[str, str]] = []

    def ask(name: str) -> None:
        for _ in range(3):
            found.append((name, server.ask(name)))

    threads = [threading.Thread(target=ask, args=(name,)) for name in NAMES * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 27
    assert set(found) == set(wanted.items())
    assert all(model.users == 0 for model in server.pool.models.values())


def test_who_waits_for_room_is_not_overtaken_for_ever(
    start: Callable[..., Pooled], wanted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutset.serve.model_pool.PATIENCE_S", 0.05)
    server, stopped = start(room=1), threading.Event()
    assert server.ask("a") == wanted["a"]

    def busy() -> None:
        while not stopped.is_set():
            server.ask("a", 60)

    threads = [threading.Thread(target=busy) for _ in range(3)]  # so that a is never idle
    for thread in threads:
        thread.start()
    try:
        assert server.ask("b") == wanted["b"]
    finally:
        stopped.set()
        for thread in threads:
            thread.join(30)


def test_who_leaves_while_a_model_loads_takes_nothing(start: Callable[..., Pooled], wanted: dict[str, str]) -> None:
    go = threading.Event()

    def slow(models: list[PooledModel]) -> None:
        load = models[1].load

        def waits() -> Any:
            assert go.wait(30)
            return load()

        models[1].load = waits

    server = start(1, slow)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/completions", json={"model": "b", "prompt": PROMPT}, timeout=0.3)
    go.set()
    assert server.ask("a") == wanted["a"]  # which needs the room that nobody wants for b any more
    assert all(model.users == 0 for model in server.pool.models.values())


def test_a_model_that_cannot_be_loaded_is_an_error_of_its_own(
    start: Callable[..., Pooled], wanted: dict[str, str]
) -> None:
    def breaks(models: list[PooledModel]) -> None:
        def fails() -> Any:
            raise ConfigError("the disk is gone: /secret/place")

        models[1].load = fails

    server = start(3, breaks)
    with pytest.raises(openai.InternalServerError, match="log says why") as caught:
        server.ask("b")
    assert caught.value.status_code == 503
    assert "secret" not in str(caught.value)
    assert server.ask("a") == wanted["a"]


def test_responses_are_stored_whichever_model_made_them(start: Callable[..., Pooled]) -> None:
    server = start(room=1)
    made = [server.client.responses.create(model=name, input=PROMPT, max_output_tokens=16) for name in ("a", "b")]
    assert server.pool.loaded() == ["b"]
    for one, name in zip(made, ("a", "b"), strict=True):
        assert server.client.responses.retrieve(one.id).model == name
    more = server.client.responses.create(model="b", input="t7", previous_response_id=made[0].id, max_output_tokens=16)
    assert more.model == "b"


def test_every_page_knows_all_models(start: Callable[..., Pooled]) -> None:
    server = start(room=2)
    server.ask("c")
    assert [card.id for card in server.client.models.list()] == list(NAMES)
    assert server.client.models.retrieve("b").id == "b"
    with pytest.raises(openai.NotFoundError, match="this server has a, b, c"):
        server.ask("d")
    client = ollama.Client(host=server.url)
    assert [one.model for one in client.list().models] == [f"{name}:latest" for name in NAMES]
    assert [one.model for one in client.ps().models] == ["c:latest"]
    assert client.generate("b:latest", PROMPT, raw=True, options={"num_predict": 4}).eval_count == 4
    assert client.show("a").details.family == server.pool.models["a"].facts.spec.family
    client._client.close()
    tokens = httpx.post(f"{server.url}/tokenize", json={"model": "b", "prompt": PROMPT}).json()
    assert tokens["tokens"] == [5, 9, 3]
    assert tokens["max_model_len"] == server.client.models.retrieve("b").model_dump()["max_model_len"]
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/").status_code == 200
    families = {one.name: one for one in text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)}
    of = {sample.labels["model_name"] for sample in families["vllm:generation_tokens"].samples}
    assert of == {"b", "c"}
    assert {sample.labels["model_name"] for sample in families["cutset_steps"].samples} == {"b", "c"}
    assert len(families["process_resident_memory_bytes"].samples) == 1


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model": 3}', b"{" * 10, b'{"model": "a"'])
def test_nonsense_loads_nothing(start: Callable[..., Pooled], body: bytes) -> None:
    server = start(room=1)
    found = httpx.post(f"{server.url}/v1/completions", content=body, headers={"content-type": "application/json"})
    assert found.status_code == 400
    assert server.pool.loaded() == []


def test_models_that_cannot_be_served_together(texts: list[str]) -> None:
    settings = load_settings(SETTINGS)
    found = pooled_models(texts, settings, 1 << 40)
    assert all(model.nbytes > 1 << 20 for model in found)
    with pytest.raises(ConfigError, match="more than the"):
        ModelPool(found, found[0].nbytes - 1, limits=RequestLimits(), applications=PoolApplications())
    twice = pooled_models([texts[0], texts[0]], settings, 1 << 40)
    with pytest.raises(ConfigError, match="same name"):
        ModelPool(twice, 1 << 40, limits=RequestLimits(), applications=PoolApplications())
    for wrong in ({"stages": 2}, {"speculate": "story"}, {"mode": "local"}):
        with pytest.raises(ConfigError, match="one model"):
            pooled_models(texts, load_settings(SETTINGS | wrong), 1 << 40)


def test_a_cache_gets_its_part_of_what_is_left(texts: list[str]) -> None:
    small, large = (
        pooled_models(texts[:1], load_settings({"threads": 1}), memory)[0] for memory in (64 << 20, 256 << 20)
    )
    assert small.nbytes <= 64 << 20
    assert small.nbytes <= large.nbytes <= 256 << 20


def test_metrics_of_several_models_are_one_text() -> None:
    head = "# HELP x_total t\n# TYPE x_total counter\n"
    process = "# HELP process_a t\n# TYPE process_a gauge\nprocess_a 7.0\n"
    text = merged(
        {"a": f"{head}x_total 1.0\n{process}".encode(), 'b"': f'{head}x_total{{s="4"}} 2.0\n{process}'.encode()}
    )
    assert text.decode().splitlines() == [
        "# HELP x_total t",
        "# TYPE x_total counter",
        'x_total{model_name="a"} 1.0',
        'x_total{model_name="b\\"",s="4"} 2.0',
        "# HELP process_a t",
        "# TYPE process_a gauge",
        "process_a 7.0",
    ]


def test_the_command_serves_several(texts: list[str], tmp_path: Path) -> None:
    from tests.serve.test_server import Process

    where = [text.partition("=")[2] for text in texts]
    server = Process("--model", f"b={where[1]}", "--model", f"c={where[2]}", "--memory", "2GiB", "--cache-mib", "1")
    try:
        listed = httpx.get(f"{server.url}/v1/models").json()["data"]
        assert [card["id"] for card in listed] == ["story", "b", "c"]
        for name in ("story", "b"):
            body = {"model": name, "prompt": PROMPT, "max_tokens": 2}
            assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=30).status_code == 200
        code, said = server.stop()
        assert (code, "loaded b in" in said) == (0, True)
    finally:
        server.process.kill()
        server.process.wait()


def test_one_model_by_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from argparse import Namespace

    from cutset.cli.serve import _named_alone

    def named(text: str) -> tuple[list[str], list[str]]:
        args = Namespace(served_model_name=["other"])
        return _named_alone(args, text), args.served_model_name

    assert named("tale=story") == (["story"], ["tale", "other"])
    assert named("tale=/srv/a=b.gguf") == (["/srv/a=b.gguf"], ["tale", "other"])
    for plain in ("story", "/srv/a=b", "=story", "story=", "./a=b"):
        assert named(plain) == ([plain], ["other"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    assert named("a=b") == (["a=b"], ["other"])
