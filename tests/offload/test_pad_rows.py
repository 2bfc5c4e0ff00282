"""With `pad_rows` all numbers of rows of a bucket look the same: on the wire, in the code, and in time."""

from __future__ import annotations

import functools
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset import LLM, SamplingParams
from cutset.offload.accelerator.accelerator import Quota
from cutset.offload.client.ring_calls import Stop
from cutset.offload.messages import Message, Product
from offload.serving import Loaded, Odd, client, serving

COUNTS = (9, 12, 15, 16)
TOKENS = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)
SMALL = functools.partial(Odd, quota=Quota(max_rows=4))


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTSET_SHM_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def expected() -> dict[int, list[int]]:
    with LLM("story", threads=1, mode="local") as llm:
        return {count: llm.generate(prompt(count), TOKENS)[0].token_ids for count in (*COUNTS, 1, 2, 3, 5, 17)}


def prompt(count: int) -> list[int]:
    return list(range(5, 5 + count))


def lost(at: int, self: Odd, link: Any, message: Message, arrays: list[Any]) -> bool:
    """The link ends instead of an answer."""
    if isinstance(message, Product) and self.answers == at:
        self._forget(link)
        return True
    return False


Wire = list[tuple[Message, str, tuple[int, ...], int]]


def wire(loaded: Loaded, count: int, right: list[int], kind: Any, at: int, hot: bool, mode: str) -> Wire:
    """Every call, as whoever multiplies or listens sees it."""
    odd = functools.partial(lost, at) if at else None
    with serving(loaded, kind) as accelerator:
        if odd is not None:
            accelerator.odd = functools.partial(odd, accelerator)
        with client(accelerator.listener.address, mode, pad_rows=True) as llm:
            assert llm.offload is not None
            linears = llm.offload.linears
            assert linears.pads is not None
            linears.pads.fill(40)
            if not hot:
                linears.ring_calls = None
            assert llm.generate(prompt(count), TOKENS)[0].token_ids == right
        return [(message, x.dtype.name, x.shape, x.nbytes) for message, x in accelerator.asked]


@pytest.mark.parametrize("mode", ["masked", "masked+verified"])
@pytest.mark.parametrize("at", [0, pytest.param(2, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "hot"), [(Odd, True), (SMALL, True), (SMALL, False)], ids=["native", "small", "slow"])
def test_the_wire_is_the_same_for_all_counts_of_a_bucket(
    mode: str, at: int, kind: Any, hot: bool, loaded: Loaded, expected: dict[int, list[int]]
) -> None:
    """Also where the accelerator takes few rows at once, and where a link is lost in the middle of a product."""
    seen = {count: wire(loaded, count, expected[count], kind, at, hot, mode) for count in COUNTS}
    for count in COUNTS[1:]:
        assert seen[count] == seen[COUNTS[0]]
    prefill = [shape[0] for message, _, shape, _ in seen[16] if message.matrix == 0]
    if kind is SMALL:
        again = at and at <= 4  # one of these was sent twice
        assert prefill[: 5 if again else 4] == [4] * (5 if again else 4)
        assert sum(prefill) == 16 + 2 + (4 if again else 0)  # and 2 tokens: never 20 for an exact power of two


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9, 16, 17])
def test_native_code_answers_all_counts(
    count: int, loaded: Loaded, expected: dict[int, list[int]], stops: Counter[Stop]
) -> None:
    shapes = wire(loaded, count, expected[count], Odd, 0, True, "masked+verified")
    rows = {shape[0] for message, _, shape, _ in shapes if message.matrix == 0}
    assert rows == {1 << (count - 1).bit_length(), 1}
    assert stops[Stop.BEFORE] == 0
    assert stops[Stop.DONE] >= 2  # of 3; on a busy machine an answer may take too long


@pytest.mark.slow
def test_times_do_not_tell_exact_powers_of_two(loaded: Loaded) -> None:
    """Half of these took another way through the code before, and then 15 rows took longer than 16."""
    first = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
    spent: dict[int, list[float]] = {15: [], 16: []}
    with serving(loaded) as accelerator, client(accelerator.listener.address, "masked", pad_rows=True) as llm:
        assert llm.offload is not None
        assert llm.offload.linears.pads is not None
        for turn in range(40):
            llm.offload.linears.pads.fill(17)
            for count in (15, 16) if turn % 2 else (16, 15):
                started = time.perf_counter()
                llm.generate(prompt(count), first)
                spent[count].append(time.perf_counter() - started)
    quick = {count: float(np.quantile(times, 0.25)) for count, times in spent.items()}
    assert 1 / 1.4 < quick[15] / quick[16] < 1.4
