"""Products that are larger than a ring takes are sent in several calls."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cutset import LLM
from cutset.offload.accelerator.ring_accelerator import RingAccelerator
from cutset.offload.client import offload as opening
from cutset.offload.client.ring_calls import Stop
from cutset.offload.messages import Message, Product
from offload.serving import MODES, PROMPT, TOKENS, Loaded, Odd, client, serving


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTSET_SHM_DIR", str(tmp_path))


@pytest.mark.parametrize("pad_rows", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_what_a_ring_is_too_small_for_is_sent_in_several_calls(
    mode: str, pad_rows: bool, loaded: Loaded, stops: Counter[Stop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_ring", lambda weights: 1 << 17)
    prompt = list(range(5, 64 if pad_rows else 69))
    with LLM("story", threads=1, mode="local") as llm:
        wanted = llm.generate(prompt, TOKENS)[0].token_ids
    with serving(loaded) as accelerator, client(accelerator.listener.address, mode, pad_rows=pad_rows) as llm:
        assert llm.offload is not None
        linears = llm.offload.linears
        if linears.pads is not None:
            linears.pads.fill(80)
        assert llm.generate(prompt, TOKENS)[0].token_ids == wanted
        rows = Counter(message.matrix for message, x in accelerator.asked if len(x) > 1)
        assert max(rows.values()) > 1, "nothing was split"
        if pad_rows and linears.pads is not None:
            assert all(len(x) & (len(x) - 1) == 0 for _, x in accelerator.asked)
        if linears.pads is not None:
            assert linears.pads.counters().used == linears.times.rows == sum(len(x) for _, x in accelerator.asked)
    assert stops[Stop.DONE] >= 6


@pytest.mark.slow
def test_a_call_in_the_middle_of_a_product_is_finished_by_the_slow_twin(
    loaded: Loaded, stops: Counter[Stop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a product in several calls some are answered, one is odd, and the rest comes after."""
    monkeypatch.setattr(opening, "_ring", lambda weights: 1 << 17)
    prompt = list(range(5, 69))
    with LLM("story", threads=1, mode="local") as llm:
        wanted = llm.generate(prompt, TOKENS)[0].token_ids
    with serving(loaded) as accelerator, client(accelerator.listener.address, "masked+verified") as llm:
        assert llm.offload is not None
        assert llm.offload.linears.pads is not None
        llm.offload.linears.pads.fill(80)
        seen: set[int] = set()

        def slowly(self: Odd, link: Any, message: Message, arrays: list[Any]) -> bool:
            """The second call of every product gets its answer only when it is asked for again."""
            if not isinstance(message, Product) or message.call % 3 or message.call in seen:
                return False
            seen.add(message.call)
            return True

        accelerator.odd = slowly.__get__(accelerator)
        llm.offload.linears.session.patience = replace(llm.offload.linears.session.patience, resend=0.05)
        assert llm.generate(prompt, TOKENS)[0].token_ids == wanted
    assert stops[Stop.UNANSWERED] > 3
    assert seen


def test_a_small_ring(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """In native code calls are made to fit, in the twin frames come in pieces."""
    monkeypatch.setattr("cutset.offload.client.offload._ring", lambda weights: 1 << 16)
    long = " ".join([PROMPT] * 20)
    with LLM("story", threads=1, mode="local") as llm:
        wanted = llm.generate(long, TOKENS)[0].token_ids
    for kind, hot in ((Odd, True), (Odd, False), (RingAccelerator, True), (RingAccelerator, False)):
        with serving(loaded, kind) as accelerator, client(accelerator.listener.address, "verified") as llm:
            assert llm.offload is not None
            if not hot:
                llm.offload.linears.ring_calls = None
            assert llm.generate(long, TOKENS)[0].token_ids == wanted
