"""Receipts of private runs: what they count, what a lie leaves, and that nobody outside sees more for them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset import LLM, SamplingParams
from cutset.cli import main
from cutset.config import load_settings
from cutset.errors import IntegrityError
from cutset.llm import AsyncLLM
from cutset.offload.client.ledger import Block
from cutset.offload.messages import Product
from cutset.receipts.issuer import ReceiptIssuer
from cutset.receipts.replay import replay, replay_settings
from cutset.trust.receipt import Receipt
from cutset.trust.signing_key import Signer, SigningKey
from offload.serving import Loaded, Odd, client, serving

KEY = SigningKey.new()
PARAMS = SamplingParams(max_tokens=6, temperature=0.9, seed=11, ignore_eos=True)


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTSET_SHM_DIR", str(tmp_path))


def answered(llm: LLM, issuer: ReceiptIssuer, prompt: Any = "Once upon a time") -> Receipt:
    ids = llm.encode(prompt)
    receipt = issuer.begin([ids], PARAMS)
    try:
        for delta in llm.stream(ids, receipt.params):
            receipt.take(0, delta)
    except IntegrityError as error:
        return Receipt(receipt.fail(error), KEY.public)
    return Receipt(receipt.finish(), KEY.public)


def tokens(receipt: Receipt) -> list[int]:
    return [leaf[0] for leaf in receipt.whole("answer:0").values() if leaf is not None]


@pytest.mark.parametrize("mode", ["verified", "masked", "masked+verified"])
def test_what_is_counted_is_what_was_done(mode: str, loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    take = Block.take

    def noted(self: Block, rows: int) -> Any:
        taken.append(self.number)
        return take(self, rows)

    monkeypatch.setattr(Block, "take", noted)
    with serving(loaded) as accelerator, client(accelerator.listener.address, mode) as llm:
        issuer = ReceiptIssuer(llm, Signer(KEY))
        receipts = []
        for _ in range(2):
            before = len(accelerator.asked)
            taken.clear()
            receipts.append(answered(llm, issuer))
            said = receipts[-1].statement
            assert said["mode"] == mode
            assert said["offload"]["products"] == len(accelerator.asked) - before > 0
            assert said["offload"]["failures"] == 0
            assert said["offload"]["checks"] == (said["offload"]["products"] if "verified" in mode else 0)
            if "masked" not in mode:
                assert said["offload"]["pads"] is None
                continue
            pads = said["offload"]["pads"]
            rows = sum(x.shape[0] for _, x in accelerator.asked[before:])
            assert pads["rows"][1] - pads["rows"][0] == rows
            assert all(pads["blocks"][0] <= number < pads["blocks"][1] for number in taken)
        if "masked" in mode:
            first, second = (one.statement["offload"]["pads"] for one in receipts)
            assert first["ledger"] == second["ledger"]
            assert first["rows"][1] == second["rows"][0]  # no row of a pad is in both
    # The mode leaves the tokens what they are, so any of them can be run again here.
    settings = load_settings(replay_settings(receipts[0]) | {"threads": 1})
    assert replay(receipts[0], "story", settings).same


def lying(self: Odd, link: Any, message: Any, arrays: list[Any]) -> bool:
    if isinstance(message, Product) and self.answers == 40:
        wrong = np.array(arrays[0])
        wrong[0, 0] ^= 1
        super(Odd, self)._send(link, message, [wrong])
        return True
    return False


@pytest.mark.parametrize("mode", ["verified", "masked+verified"])
def test_a_lie_is_a_failure_in_the_receipt(mode: str, loaded: Loaded) -> None:
    with serving(loaded, odd=lying) as accelerator, client(accelerator.listener.address, mode) as llm:
        receipt = answered(llm, ReceiptIssuer(llm, Signer(KEY)))
        assert not receipt.found.complete
        assert receipt.statement["outcome"] == "integrity"
        assert receipt.statement["offload"]["failures"] == 1
        assert receipt.statement["offload"]["products"] == 39
        assert [row[2] for row in receipt.statement["answers"]] in ([], ["abort"])


def test_the_command_writes_what_went_wrong(loaded: Loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    KEY.save("me", tmp_path)
    file = tmp_path / "r"
    ask = ["generate", "story", "--prompt", "Once", "--threads", "1", "--ignore-eos", "--max-tokens", "9"]
    with serving(loaded, odd=lying) as accelerator:
        offload = ["--offload", accelerator.listener.address, "--audit-log", str(tmp_path / "audit")]
        assert main([*ask, *offload, "--receipt", str(file), "--receipt-key", str(tmp_path / "me.key")]) == 2
    assert "cutset: error: " in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["lied"]
    assert main([*ask, "--audit-log", str(tmp_path / "audit")]) == 2
    assert "nothing to log" in capsys.readouterr().err
    assert main(["trust", "verify", str(file), "--key", KEY.public.hex()]) == 3
    assert "FAILED" in capsys.readouterr().out
    assert main(["trust", "replay", str(file), "story"]) == 2
    assert "ended with 'integrity'" in capsys.readouterr().err


def test_a_served_lie_has_no_receipt(loaded: Loaded) -> None:
    pytest.importorskip("starlette")
    import httpx

    from cutset.serve.app import build_app
    from cutset.serve.auth import Auth
    from cutset.serve.request_limits import RequestLimits
    from cutset.serve.server import Server, bind, serve_in_thread
    from cutset.serve.service import Service

    asked = {"prompt": "Once", "max_tokens": 9, "temperature": 0, "ignore_eos": True, "cutset_receipt": True}
    with serving(loaded, odd=lying) as accelerator:
        llm = AsyncLLM("story", threads=1, offload=accelerator.listener.address)
        try:
            service = Service(llm, limits=RequestLimits(), receipts=ReceiptIssuer(llm, Signer(KEY)))
            server = Server(build_app(service, Auth((), "127.0.0.1")), service)
            with serve_in_thread(server, bind("127.0.0.1", 0)) as url:
                good = httpx.post(f"{url}/v1/completions", json=asked | {"max_tokens": 1}, timeout=60).json()
                said = Receipt(base64.b64decode(good["cutset_receipt"]), KEY.public).statement
                assert said["offload"]["checks"] == said["offload"]["products"] > 0
                for stream in (False, True):
                    text = httpx.post(f"{url}/v1/completions", json=asked | {"stream": stream}, timeout=60).text
                    assert "integrity_error" in text
                    assert "cutset_receipt" not in text
        finally:
            llm.close()


def test_nobody_outside_sees_that_a_receipt_is_made(loaded: Loaded) -> None:
    """The same calls, of the same sizes; where rows are padded, receipts of all lengths of a bucket say the same."""
    seen, sizes, said = list[Any](), set[int](), list[Any]()
    for count, with_receipt in ((9, False), (9, True), (14, True)):
        with serving(loaded) as accelerator:
            address = accelerator.listener.address
            with client(address, "masked+verified", pad_rows=True) as llm:
                ids = list(range(5, 5 + count))
                if with_receipt:
                    receipt = answered(llm, ReceiptIssuer(llm, Signer(KEY)), ids)
                    sizes.add(len(receipt.bare))
                    said.append(receipt.statement)
                else:
                    llm.generate(ids, PARAMS)
            seen.append([(message.matrix, x.shape, x.dtype) for message, x in accelerator.asked])
    assert seen[0] == seen[1] == seen[2]
    one, other = ({k: v for k, v in each["offload"].items() if k != "pads"} for each in said)
    assert one == other
    assert [row[0] for row in said[0]["prompts"]] == [row[0] for row in said[1]["prompts"]] == [16]
    assert [row[3] for row in said[0]["answers"]] == [row[3] for row in said[1]["answers"]] == [8]
    rows = [each["offload"]["pads"]["rows"] for each in said]
    assert rows[0][1] - rows[0][0] == rows[1][1] - rows[1][0]
