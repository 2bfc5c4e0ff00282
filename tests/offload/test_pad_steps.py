"""With `pad_steps` an accelerator sees step after step, whatever there is to do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from cutset import LLM, SamplingParams
from cutset.cli import main
from cutset.config import load_settings
from cutset.errors import ConfigError, LinkError, OffloadError
from cutset.offload.client import step_pacer
from cutset.offload.client.paced_decoder import PacedDecoder
from cutset.offload.client.step_pacer import StepPacer
from offload.serving import Loaded, client, serving

PARAMS = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
PROMPT = list(range(5, 14))
Call = tuple[int, tuple[int, ...], str]


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTSET_SHM_DIR", str(tmp_path))
    monkeypatch.setattr(step_pacer, "MOST_AFTER", 0.3)


def calls(accelerator: Any) -> list[Call]:
    return [(message.matrix, x.shape, x.dtype.name) for message, x in accelerator.asked]


def steps(asked: list[Call]) -> list[tuple[Call, ...]]:
    """Calls by step: each begins with the first matrix."""
    found: list[list[Call]] = []
    for one in asked:
        if one[0] == 0 or not found:
            found.append([])
        found[-1].append(one)
    return [tuple(one) for one in found]


@pytest.fixture(scope="module")
def expected() -> list[int]:
    with LLM("story", threads=1, mode="local") as llm:
        return llm.generate(PROMPT, PARAMS)[0].token_ids


@pytest.mark.parametrize(
    ("mode", "pad_rows"), [("masked", True), ("masked+verified", True), ("masked+verified", False)]
)
def test_an_accelerator_sees_steps_before_and_after(
    mode: str, pad_rows: bool, loaded: Loaded, expected: list[int]
) -> None:
    with serving(loaded) as accelerator:
        with client(accelerator.listener.address, mode, pad_steps=20, pad_rows=pad_rows) as llm:
            deadline = time.monotonic() + 30
            while len(steps(calls(accelerator))) < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
            for _ in range(2):
                assert llm.generate(PROMPT, PARAMS)[0].token_ids == expected
            before = len(steps(calls(accelerator)))
            while len(steps(calls(accelerator))) < before + 3 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert llm.offload is not None
            assert llm.offload.linears.checks_failed == 0
        found = steps(calls(accelerator))
        decoding = found[0]
        assert len(found) >= 3 + 2 * 6 + 3
        # But for the rows of the two prompts, no step differs from another.
        assert len([one for one in found if one != decoding]) == 2
        sent = [x.tobytes() for _, x in accelerator.asked]
        assert len(set(sent)) == len(sent)  # all masked, by pads of their own


def test_with_drafts_every_step_has_as_many_rows(loaded: Loaded) -> None:
    options: dict[str, Any] = {"speculate": "ngram", "speculate_tokens": 3, "pad_steps": 10, "pad_rows": True}
    params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
    with LLM("story", threads=1, mode="local") as llm:
        expected = llm.generate(PROMPT * 3, params)[0].token_ids
    with serving(loaded) as accelerator:
        with client(accelerator.listener.address, "masked+verified", **options) as llm:
            assert llm.generate(PROMPT * 3, params)[0].token_ids == expected
        rows = [shape[0] for matrix, shape, _ in calls(accelerator) if matrix == 0]
        assert rows.count(4) >= len(rows) - 1 - 3  # but the prompt's, and the last ones before max_tokens


def test_a_rhythm_that_fails_goes_on_or_ends_with_an_error() -> None:
    """Never without it."""
    tried: list[int] = []

    def idle() -> bool:
        tried.append(1)
        if len(tried) < 4:
            raise LinkError("nobody answers")
        if len(tried) > 6:
            raise ValueError("a bug")
        return True

    pacer = StepPacer(0.004, idle)
    deadline = time.monotonic() + 10
    while len(tried) < 7 and time.monotonic() < deadline:
        time.sleep(0.005)
    pacer._thread.join(5)
    assert len(tried) == 7
    with pytest.raises(OffloadError, match="can't be kept any more"):
        pacer.await_tick()
    pacer.close()


def test_what_a_step_in_place_is_made_of(loaded: Loaded) -> None:
    """Its context is as long as the last step's, so that what the client does between products takes as long."""
    with (
        serving(loaded) as accelerator,
        client(accelerator.listener.address, "masked", pad_steps=20, pad_rows=True) as llm,
    ):
        llm.generate(PROMPT, PARAMS)
        decoder = llm.executor
        assert isinstance(decoder, PacedDecoder)
        batch = decoder._batch()
        assert batch.context_lens.tolist() == [len(PROMPT) + 5]
        assert batch.positions.tolist() == [len(PROMPT) + 4]
        assert set(batch.block_tables[0].tolist()) <= {0, 1}
        with decoder._running:
            assert not decoder.step_in_place()


def test_every_tick_is_given_once() -> None:
    idle: list[float] = []
    real: list[float] = []
    pacer = StepPacer(0.004, lambda: idle.append(time.monotonic()) is None)
    for _ in range(10):
        pacer.await_tick()
        real.append(time.monotonic())
    time.sleep(0.04)
    pacer.close()
    pacer.close()
    assert len(idle) >= 2
    ticks = [int((at - pacer._start) / pacer.period + 1e-6) for at in real]
    assert ticks == sorted(set(ticks))
    assert all(at - pacer._start >= tick * pacer.period for at, tick in zip(real, ticks, strict=True))
    count = len(idle)
    time.sleep(0.02)
    assert len(idle) == count


def test_an_accelerator_that_went_is_said_by_the_next_step(loaded: Loaded) -> None:
    with serving(loaded) as accelerator, client(accelerator.listener.address, "masked", pad_steps=20) as llm:
        assert llm.offload is not None
        llm.offload.linears.session.broke("gave a wrong product, says this test")
        with pytest.raises(OffloadError, match="says this test"):
            llm.generate(PROMPT, PARAMS)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"pad_steps": 20}, "belong to an offload"),
        ({"pad_steps": 20, "mode": "verified", "offload": "shm://x"}, "no use in mode verified"),
        ({"pad_steps": 20, "mode": "plain", "offload": "shm://x"}, "no use in mode plain"),
        ({"pad_steps": 20, "mode": "local"}, "no use in mode local"),
    ],
)
def test_where_it_has_no_use_it_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        LLM("story", threads=1, **options)


def test_a_file_or_a_variable_does_not_set_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUTSET_PAD_STEPS", "5")
    with pytest.raises(ConfigError):
        load_settings({})
    monkeypatch.delenv("CUTSET_PAD_STEPS")
    assert main(["generate", "story", "--prompt", "x", "--pad-steps", "-1"]) == 2
    assert "pad" in capsys.readouterr().err
