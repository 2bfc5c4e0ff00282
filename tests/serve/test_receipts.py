"""Receipts over HTTP: asked for by a field, signed, in whole answers and streams of every API."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cutset.config import load_settings
from cutset.engine import SamplingParams
from cutset.llm import AsyncLLM
from cutset.receipts.issuer import ReceiptIssuer
from cutset.receipts.replay import replay, replay_settings
from cutset.serve.app import build_app
from cutset.serve.auth import Auth
from cutset.serve.request_limits import RequestLimits
from cutset.serve.server import Server, bind, serve_in_thread
from cutset.serve.service import Service
from cutset.trust.receipt import Receipt
from cutset.trust.signing_key import Signer, SigningKey
from tests.serve.conftest import Running

KEY = SigningKey.new()
ASKED = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0.8, "cutset_receipt": True}
CHAT = {"messages": [{"role": "user", "content": "Once upon a time"}], "max_tokens": 8, "cutset_receipt": True}


@pytest.fixture(scope="module")
def url(llm: AsyncLLM) -> Iterator[str]:
    """A server that signs receipts."""
    service = Service(llm, limits=RequestLimits(), receipts=ReceiptIssuer(llm, Signer(KEY)))
    server = Server(build_app(service, Auth((), "127.0.0.1")), service)
    with serve_in_thread(server, bind("127.0.0.1", 0)) as found:
        yield found


def ask(url: str, path: str = "completions", **fields: Any) -> dict[str, Any]:
    response = httpx.post(f"{url}/v1/{path}", json=fields, timeout=60)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def events(url: str, path: str = "completions", **fields: Any) -> list[dict[str, Any]]:
    response = httpx.post(f"{url}/v1/{path}", json=fields | {"stream": True}, timeout=60)
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def receipt_of(answer: dict[str, Any]) -> Receipt:
    return Receipt(base64.b64decode(answer["cutset_receipt"], validate=True), KEY.public)


def ids(receipt: Receipt, tree: str) -> list[int]:
    return [leaf[0] for leaf in receipt.whole(tree).values() if leaf is not None]


def details(receipt: Receipt) -> dict[str, Any]:
    return {leaf[0]: leaf[1] for leaf in receipt.whole("details").values() if leaf is not None}


def test_an_answer_comes_with_its_receipt(url: str, llm: AsyncLLM) -> None:
    answer = ask(url, **ASKED, stop=["zzz"], min_tokens=8)
    receipt = receipt_of(answer)
    said = receipt.statement
    assert receipt.found.complete
    assert ids(receipt, "prompt:0") == llm.encode(ASKED["prompt"]).tolist()
    assert len(ids(receipt, "answer:0")) == answer["usage"]["completion_tokens"] == 8
    assert details(receipt) == {"text:0": answer["choices"][0]["text"], "stop": ["zzz"]}
    assert (said["mode"], said["offload"], said["evidence"]) == ("local", None, None)
    assert said["sampling"]["temperature"] == 0.8
    assert said["sampling"]["max_tokens"] == said["sampling"]["min_tokens"] == 8
    assert "stop" not in said["sampling"]
    assert said["answers"][0][:3] == [0, 0, "length"]
    assert said["model"]["name"] == "tale"
    assert said["model"]["template"] is not None
    assert 0 <= said["ended"] - said["began"] < 60_000


def test_who_does_not_ask_gets_none(url: str, server: Running) -> None:
    for value in (None, False):
        assert "cutset_receipt" not in ask(url, **ASKED | {"cutset_receipt": value})
        assert all("cutset_receipt" not in one for one in events(url, **ASKED | {"cutset_receipt": value}))
        assert "cutset_receipt" not in ask(server.url, **ASKED | {"cutset_receipt": value})
    for wrong in ("yes", 1, {}):
        response = httpx.post(f"{url}/v1/completions", json=ASKED | {"cutset_receipt": wrong}, timeout=60)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "cutset_receipt"


def test_a_server_without_a_key_refuses_to_promise_one(server: Running) -> None:
    for path, fields in (("completions", ASKED), ("chat/completions", CHAT), ("responses", {"input": "Once"})):
        asked = fields | {"cutset_receipt": True}
        response = httpx.post(f"{server.url}/v1/{path}", json=asked, timeout=60)
        assert response.status_code == 400, path
        assert response.json()["error"]["param"] == "cutset_receipt"
        assert "signs no receipts" in response.json()["error"]["message"]


def test_samples_and_prompts_each_have_a_tree(url: str, llm: AsyncLLM) -> None:
    asked = ASKED | {"prompt": ["Once", [5, 6, 7], "One day"], "n": 2, "seed": 7, "max_tokens": 5, "temperature": 1}
    answer = ask(url, **asked)
    receipt = receipt_of(answer)
    assert [row[:2] for row in receipt.statement["answers"]] == [[p, n] for p in range(3) for n in range(2)]
    assert ids(receipt, "prompt:1") == [5, 6, 7]
    texts = [choice["text"] for choice in answer["choices"]]
    assert [details(receipt)[f"text:{i}"] for i in range(6)] == texts
    assert receipt.statement["seed"] == 7
    streamed = events(url, **asked)
    again = receipt_of(streamed[-1])
    for at in range(6):
        assert ids(again, f"answer:{at}") == ids(receipt, f"answer:{at}")


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize(("path", "fields"), [("completions", ASKED), ("chat/completions", CHAT)])
def test_a_stream_has_it_in_its_last_chunk(url: str, path: str, fields: dict[str, Any], usage: bool) -> None:
    asked = fields | {"seed": 3, "ignore_eos": True, **({"stream_options": {"include_usage": True}} if usage else {})}
    *before, last = events(url, path, **asked)
    assert all("cutset_receipt" not in one for one in before)
    assert last["choices"] == []
    assert ("usage" in last) == usage
    receipt = receipt_of(last)
    texts = [
        choice.get("text", (choice.get("delta") or {}).get("content")) or "" for e in before for choice in e["choices"]
    ]
    assert details(receipt)["text:0"] == "".join(texts)
    whole = receipt_of(ask(url, path, **{name: one for name, one in asked.items() if name != "stream_options"}))
    assert ids(whole, "answer:0") == ids(receipt, "answer:0")
    assert whole.statement["id"] != receipt.statement["id"]


def test_responses_have_one_too(url: str) -> None:
    asked = {
        "input": "Once upon a time",
        "max_output_tokens": 6,
        "cutset_receipt": True,
        "temperature": 0,
        "store": False,
    }
    answer = ask(url, "responses", **asked)
    receipt = receipt_of(answer)
    assert len(ids(receipt, "answer:0")) == answer["usage"]["output_tokens"]
    *before, last = events(url, "responses", **asked)
    assert all("cutset_receipt" not in json.dumps(one) for one in before)
    assert ids(receipt_of(last["response"]), "answer:0") == ids(receipt, "answer:0")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("chat", {"messages": CHAT["messages"]}),
        ("generate", {"prompt": "Once upon a time"}),
        ("generate", {"prompt": "Once upon a time", "raw": True}),
    ],
)
def test_ollama_s_api_has_them_too(url: str, path: str, fields: dict[str, Any], stream: bool) -> None:
    asked = {"model": "tale", "stream": stream, "options": {"num_predict": 6, "seed": 3, "temperature": 0}}
    response = httpx.post(f"{url}/api/{path}", json=asked | fields | {"cutset_receipt": True}, timeout=60)
    *before, last = [json.loads(line) for line in response.text.splitlines()]
    assert last["done"] is True
    assert all("cutset_receipt" not in one for one in before)
    receipt = receipt_of(last)
    said = "".join(one.get("response") or one.get("message", {}).get("content", "") for one in (*before, last))
    assert details(receipt)["text:0"] == said
    assert len(ids(receipt, "answer:0")) == last["eval_count"] == 6
    assert receipt.statement["seed"] == 3
    for value in (None, False):
        response = httpx.post(f"{url}/api/{path}", json=asked | fields | {"cutset_receipt": value}, timeout=60)
        assert "cutset_receipt" not in response.text
    response = httpx.post(f"{url}/api/{path}", json=asked | fields | {"cutset_receipt": "yes"}, timeout=60)
    assert response.status_code == 400


def test_ollama_s_api_refuses_to_promise_one_without_a_key(server: Running) -> None:
    for path, fields in (("chat", {"messages": CHAT["messages"]}), ("generate", {"prompt": "Once"})):
        asked = {"model": "tale", "cutset_receipt": True} | fields
        response = httpx.post(f"{server.url}/api/{path}", json=asked, timeout=60)
        assert response.status_code == 400
        assert "signs no receipts" in response.text


def test_a_seed_that_nobody_gave_is_in_it_and_replays(url: str, llm: AsyncLLM) -> None:
    receipts = [receipt_of(ask(url, **ASKED, n=2, stop=["qq"], logit_bias={"9": 2})) for _ in range(2)]
    assert receipts[0].statement["seed"] != receipts[1].statement["seed"]
    for receipt in receipts:
        assert ids(receipt, "answer:0") != ids(receipt, "answer:1")
        settings = load_settings(replay_settings(receipt) | {"threads": 1})
        found = replay(receipt, str(llm.directory), settings)
        assert (found.same, found.why) == (True, [])


def test_a_grammar_is_hidden_and_replays(url: str, llm: AsyncLLM) -> None:
    pytest.importorskip("llguidance")
    receipt = receipt_of(ask(url, **ASKED | {"guided_regex": "[a-c]{4}"}))
    assert details(receipt)["text:0"] in ("".join(one) for one in _words())
    assert b"[a-c]" not in receipt.bare
    assert replay(receipt, str(llm.directory), load_settings(replay_settings(receipt) | {"threads": 1})).same


def _words() -> Iterator[str]:
    import itertools

    return map("".join, itertools.product("abc", repeat=4))


def test_a_request_that_fails_has_none(url: str) -> None:
    for asked in (ASKED | {"prompt": "word " * 3000}, ASKED | {"temperature": -1}, ASKED | {"model": "none"}):
        response = httpx.post(f"{url}/v1/completions", json=asked, timeout=60)
        assert response.status_code in (400, 404)
        assert "cutset_receipt" not in response.text


def test_the_key_may_be_replaced_while_a_server_runs(llm: AsyncLLM, tmp_path: Path) -> None:
    from cutset.cli.receipt_flags import issuers_from
    from cutset.serve.reload import FileWatch
    from cutset.trust.evidence.providers import SimulatorProvider
    from cutset.trust.signing_key import evidence_by

    first, second = SigningKey.new(), SigningKey.new()
    file, _ = first.save("me", tmp_path)
    said, used = list[str](), list[str]()
    watch = FileWatch(said.append)
    made = issuers_from(file, said.append, evidence_by(SimulatorProvider()), watch, used.append)
    assert made is not None
    issuer = made(llm)
    params = SamplingParams(max_tokens=2)

    def signed(key: SigningKey) -> Receipt:
        receipt = issuer.begin([llm.encode("Once")], params)
        return Receipt(receipt.fail(ValueError()), key.public)

    assert signed(first).found.evidence != signed(first).statement["evidence"]
    file.unlink()
    watch.check()
    signed(first)
    (tmp_path / "me.pub").unlink()
    second.save("me", tmp_path)
    watch.check()
    assert signed(second).found.evidence is not None, "bound to the new key, or it wouldn't verify"
    assert made(llm).signer.key.public == second.public
    assert used == [first.public.hex(), second.public.hex()]
    file.write_text("no key")
    watch.check()
    signed(second)


def test_a_model_whose_files_changed_since_it_was_loaded(tmp_path: Path) -> None:
    """A receipt would name other files than the answers come from."""
    import shutil

    from cutset.errors import ModelError
    from cutset.models.registry import BUNDLED

    folder = tmp_path / "model"
    shutil.copytree(BUNDLED["story"], folder)
    with contextlib.closing(AsyncLLM(folder, settings=load_settings({"threads": 1}))) as found:
        first = ReceiptIssuer(found, Signer(KEY)).model
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"cutset_test": 1}))
        with pytest.raises(ModelError, match="changed since the model was loaded"):
            ReceiptIssuer(found, Signer(KEY))
    with contextlib.closing(AsyncLLM(folder, settings=load_settings({"threads": 1}))) as found:
        second = ReceiptIssuer(found, Signer(KEY)).model
    assert first["files"] == second["files"]
    assert first["tokenizer"] != second["tokenizer"]
