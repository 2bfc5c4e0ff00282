"""Receipts of every way to run a model, and that each runs again as one ordinary run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.adapters import write_adapter
from cutset import LLM, SamplingParams
from cutset.config import load_settings
from cutset.errors import ConfigError, ModelError, RequestError
from cutset.models.random import RandomModel
from cutset.receipts.issuer import DETAILS, ReceiptIssuer
from cutset.receipts.replay import ReplayResult, replay, replay_settings
from cutset.trust.canonical import encode
from cutset.trust.receipt import Receipt
from cutset.trust.signing_key import Signer, SigningKey
from cutset.trust.verify_receipt import DOMAIN

KEY = SigningKey.new()
REPEATING = "The red fox saw the big tree. The red fox saw the big tree. The red fox saw the big"
PARAMS = SamplingParams(
    n=2, temperature=0.9, top_k=40, max_tokens=12, stop=["zzz"], logit_bias={9: 1.5}, bad_words=["cat"]
)


def receipt_of(llm: LLM, prompt: str | list[int], params: SamplingParams, adapter: str | None = None) -> Receipt:
    ids = llm.encode(prompt)
    receipt = ReceiptIssuer(llm, Signer(KEY)).begin([ids], params, adapter)
    for delta in llm.stream(ids, receipt.params, adapter=adapter):
        receipt.take(0, delta)
    return Receipt(receipt.finish(), KEY.public)


def again(receipt: Receipt, model: str | Path = "story", adapter: Path | None = None) -> ReplayResult:
    settings = load_settings(replay_settings(receipt) | {"threads": 1})
    return replay(receipt, str(model), settings, None if adapter is None else str(adapter))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "int8"},
        {"dtype": "exact"},
        {"mode": "local"},
        {"kv_dtype": "int8"},
        {"speculate": "ngram"},
        {"backend": "reference"},
        {"max_model_len": 100},
        pytest.param({"stages": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_way_to_run_runs_again(options: dict[str, Any]) -> None:
    with LLM("story", threads=1, cache_mib=16, **options) as llm:
        receipt = receipt_of(llm, REPEATING, PARAMS)
        said = receipt.statement
        assert said["run"]["stages"] == options.get("stages", 0)
        assert said["run"]["context"] == options.get("max_model_len", llm.spec.context)
        assert said["mode"] == options.get("mode", "local")
        assert said["run"]["libraries"] != [""]
        [plain] = llm.generate([REPEATING], SamplingParams(**_given(PARAMS) | {"seed": said["seed"]}))
    found = [[leaf[0] for leaf in receipt.whole(f"answer:{at}").values() if leaf is not None] for at in range(PARAMS.n)]
    assert found == [one.token_ids for one in plain.outputs]
    assert again(receipt).same


def _given(params: SamplingParams) -> dict[str, Any]:
    return {name: getattr(params, name) for name in params.named}


def test_an_adapter_is_in_it(tmp_path: Path) -> None:
    model = RandomModel(vocab=64, hidden=32, heads=4)
    model.write_checkpoint(tmp_path / "model")
    for seed, name in enumerate("ab"):
        write_adapter(tmp_path / name, model.spec(), 4, seed)
    params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
    with LLM(tmp_path / "model", threads=1, adapters={name: tmp_path / name for name in "ab"}) as llm:
        found = {name: receipt_of(llm, [5, 9, 3], params, name) for name in (None, "a", "b")}
    digests = [one.statement["model"]["adapter"] for one in found.values()]
    assert digests[0] is None
    assert len(set(digests)) == 3
    for name, receipt in found.items():
        assert again(receipt, tmp_path / "model", None if name is None else tmp_path / name).same
        other = again(receipt, tmp_path / "model", tmp_path / ("b" if name == "a" else "a"))
        assert other.same is None
        assert "adapter" in other.why[0]


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    for seed in (1, 2):
        RandomModel(vocab=64, hidden=32, heads=4, seed=seed).write_checkpoint(tmp_path / str(seed))
    with LLM(tmp_path / "1", threads=1) as llm:
        receipt = receipt_of(llm, [5, 9, 3], SamplingParams(max_tokens=4, temperature=0))
    assert again(receipt, tmp_path / "1").same
    other = again(receipt, tmp_path / "2")
    assert (other.same, "another model" in other.why[0]) == (None, True)
    weights = tmp_path / "1" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert again(receipt, tmp_path / "1").same is None


def test_no_parameter_with_a_text_is_in_the_clear() -> None:
    """Each is salted, or a number; a new one that is neither would make receipts that don't verify."""
    hints = {name: str(SamplingParams.__annotations__[name]) for name in SamplingParams.names()}
    plain = {name for name, hint in hints.items() if set(hint.split(" | ")) <= {"int", "float", "bool", "None"}}
    assert len(plain) > 12
    assert hints.keys() - plain == set(DETAILS)


def test_what_has_no_receipt(tmp_path: Path) -> None:
    with LLM("story", threads=1) as llm:
        issuer = ReceiptIssuer(llm, Signer(KEY))
        with pytest.raises(RequestError, match="a receipt can't have"):
            issuer.begin([llm.encode("Once")], SamplingParams(bad_words=["\ud800"]))
        with pytest.raises(RequestError, match="room for 1048576 tokens"):
            issuer.begin([np.zeros(1 << 19, np.int32)] * 3, SamplingParams())
        with pytest.raises(RequestError, match="no adapter"):
            issuer.begin([llm.encode("Once")], SamplingParams(), "none")
        receipt = issuer.begin([llm.encode("Once")], SamplingParams(max_tokens=4))
        with pytest.raises(RuntimeError, match="haven't ended"):
            receipt.finish()
        failed = Receipt(receipt.fail(ModelError("x")), KEY.public)
        assert (failed.found.complete, failed.statement["outcome"], failed.statement["answers"]) == (False, "error", [])
    with pytest.raises(ConfigError, match="nothing to run again"):
        again(failed)


@pytest.mark.parametrize(
    "details",
    [
        {"structured_outputs": 5},
        {"structured_outputs": ["regex", 5, None]},
        {"structured_outputs": ["json", "{" * 100_000, None]},
        {"structured_outputs": ["regex", "(" * 2000, None]},
        {"logit_bias": 1},
        {"logit_bias": [[1]]},
        {"logit_bias": [[1, "x"]]},
        {"allowed_token_ids": "x"},
        {"stop": 3},
        {"bad_words": [None]},
    ],
    ids=lambda one: str(one)[:60],
)
def test_whoever_signs_nonsense_has_it_refused(details: dict[str, Any]) -> None:
    with LLM("story", threads=1, cache_mib=4) as llm:
        open_receipt = ReceiptIssuer(llm, Signer(KEY)).begin([llm.encode("Once")], SamplingParams(max_tokens=2))
        for delta in llm.stream("Once", open_receipt.params):
            open_receipt.take(0, delta)
        open_receipt._asked = details
        receipt = Receipt(open_receipt.finish(), KEY.public)
    with pytest.raises((ConfigError, RequestError)):
        again(receipt)


def signed_again(receipt: Receipt, **changed: Any) -> Receipt:
    """The same leaves under another statement."""
    data = encode(receipt.statement | changed)
    return Receipt(encode(receipt._envelope | {"statement": data, "signature": KEY.sign(DOMAIN + data)}), KEY.public)


def test_what_was_made_elsewhere_cant_be_told() -> None:
    """On a device that isn't here, and by a version that has more."""
    with LLM("story", threads=1, cache_mib=4) as llm:
        receipt = receipt_of(llm, "Once", SamplingParams(max_tokens=2))
    said = receipt.statement
    elsewhere = {"backend": "torch", "dtype": "bfloat16", "device": "cuda:63"}
    for changed in ({"run": said["run"] | elsewhere}, {"sampling": said["sampling"] | {"newer": 1}}):
        found = again(signed_again(receipt, **changed))
        assert (found.same, len(found.why)) == (None, 1)


@pytest.mark.parametrize("what", ["prompt", "answer", "text"])
def test_a_receipt_that_shows_other_texts_than_its_tokens_is_false(what: str) -> None:
    """Its ids are those of the run, and its signature is right: a reader sees the bytes."""
    with LLM("story", threads=1, cache_mib=4) as llm:
        issuer = ReceiptIssuer(llm, Signer(KEY))
        ids = llm.encode("Once upon")
        receipt = issuer.begin([ids], SamplingParams(max_tokens=4, ignore_eos=True))
        for delta in llm.stream(ids, receipt.params):
            receipt.take(0, delta)
        if what == "text":
            receipt._texts[0, 0] = ["something else"]
        else:
            token = int(ids[1]) if what == "prompt" else receipt._tokens[0, 0][2]
            issuer._contents[token] = encode([token, b"something else"])
        found = again(Receipt(receipt.finish(), KEY.public))
    assert (found.same, found.first) == (False, None)
    assert ("other bytes" if what != "text" else "isn't the text") in found.why[0]


@pytest.mark.slow
def test_a_server_of_several_models_signs_for_each(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        RandomModel(vocab=64, hidden=32, heads=4, seed=seed).write_checkpoint(tmp_path / name)
    KEY.save("me", tmp_path)
    flags = [f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}", "--port", "0", "--receipt-key", str(tmp_path / "me.key")]
    command = [sys.executable, "-m", "cutset", "serve", *flags, "--threads", "1", "--cache-mib", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            said = []
            for line in server.stderr:
                said.append(line)
                if "serving" in line:
                    break
            assert any(KEY.public.hex() in line for line in said), said
            url = next(word for word in said[-1].split() if word.startswith("http")).rstrip(";")
            files = set()
            for name in "ab":
                asked = {"model": name, "prompt": [5, 6], "max_tokens": 3, "cutset_receipt": True}
                answer = httpx.post(f"{url}/completions", json=asked, timeout=60)
                assert answer.status_code == 200, answer.text
                (tmp_path / "r").write_text(json.loads(answer.text)["cutset_receipt"])
                receipt = Receipt((tmp_path / "r").read_bytes(), KEY.public)
                files.add(receipt.statement["model"]["files"])
                assert again(receipt, tmp_path / name).same
            assert len(files) == 2
        finally:
            server.terminate()
            server.communicate(timeout=30)
