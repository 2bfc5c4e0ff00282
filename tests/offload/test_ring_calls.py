"""The hot call in native code against its slow twins: the same bits and bytes, whatever happens on the way."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset import LLM, AsyncLLM, SamplingParams
from cutset.config import load_settings
from cutset.errors import CutsetError, IntegrityError, OffloadError
from cutset.kernels import native
from cutset.kernels.reference_field import P
from cutset.link import Limits
from cutset.link import _ring as ring
from cutset.models.random import RandomModel
from cutset.models.run.executor import Batch
from cutset.offload.accelerator.loading import open_accelerator
from cutset.offload.accelerator.python_accelerator import PythonAccelerator
from cutset.offload.accelerator.ring_accelerator import RingAccelerator
from cutset.offload.client import linears as slow
from cutset.offload.client.call_times import CallTimes
from cutset.offload.client.ring_calls import RingCalls, RunEnd, Stop
from cutset.offload.client.session import Session
from cutset.offload.messages import Message, Product, Refused
from offload.conftest import serve_in_thread
from offload.serving import MODES, PROMPT, TOKENS, Loaded, Odd, client, serving


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTSET_SHM_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def expected() -> list[int]:
    with LLM("story", threads=1, mode="local") as llm:
        return llm.generate(PROMPT, TOKENS)[0].token_ids


@pytest.mark.parametrize("mode", MODES)
def test_hot_and_slow_send_the_same_and_say_the_same(
    mode: str, loaded: Loaded, expected: list[int], stops: Counter[Stop]
) -> None:
    wires = []
    for hot in (True, False):
        with serving(loaded) as accelerator, client(accelerator.listener.address, mode) as llm:
            assert llm.offload is not None
            if not hot:
                llm.offload.linears.ring_calls = None
            elif llm.offload.linears.pads is not None:
                llm.offload.linears.pads.fill(40)
            parts = llm.offload.linears.times = CallTimes(count_cpu=hot)
            started, cpu_started = parts._wall, parts._cpu
            assert llm.generate(PROMPT, TOKENS)[0].token_ids == expected
            assert sum(parts.wall.values()) == pytest.approx(parts._wall - started, abs=1e-9)  # nothing is lost
            if hot:
                assert sum(parts.cpu.values()) == pytest.approx(parts._cpu - cpu_started, abs=1e-9)
            assert parts.calls == len(accelerator.asked)
            assert llm.offload.linears.checks_passed == (parts.calls if "verified" in mode else 0)
            assert parts.rows == sum(len(x) for _, x in accelerator.asked)
            assert parts.bytes_up == sum(x.nbytes for _, x in accelerator.asked)
            assert (stops[Stop.DONE] >= 6) == hot  # of 8; on a busy machine an answer may take too long
            stops.clear()
            wires.append(accelerator.asked)
    assert [message for message, _ in wires[0]] == [message for message, _ in wires[1]]
    for (_, first), (_, second) in zip(*wires, strict=True):
        assert first.dtype == second.dtype
        assert first.shape == second.shape
        assert np.array_equal(first, second) == (not mode.startswith("masked"))


def test_what_the_decoder_does_between_slow_calls_counts_as_its_own(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where native code stops before each call, attention is still attention."""
    prompt, found = PROMPT * 60, []
    for stopped in (False, True):
        with serving(loaded) as accelerator, client(accelerator.listener.address, "plain") as llm:
            assert llm.offload is not None
            if stopped:

                def run(self: RingCalls, step: Any, times: CallTimes) -> RunEnd:
                    times.lap("other")
                    return RunEnd()

                monkeypatch.setattr(RingCalls, "run", run)
            else:
                llm.offload.linears.ring_calls = None
            llm.generate(prompt, TOKENS)
            found.append(dict(llm.offload.linears.times.wall))
    assert found[0]["attention"] > 0.002
    assert found[1]["attention"] > found[0]["attention"] / 5
    assert found[0]["check"] == found[1]["check"] == 0


def test_each_row_of_a_lent_pad_masks_one_row(loaded: Loaded, expected: list[int]) -> None:
    """What was sent less what was meant are the masks: no two of them are the same, in hot and slow calls mixed."""
    wires = []
    for mode in ("plain", "masked"):
        with serving(loaded) as accelerator, client(accelerator.listener.address, mode, pads_mib=4) as llm:
            linears = llm.offload.linears if llm.offload is not None else None
            assert linears is not None
            for turn in range(6):
                if linears.pads is not None:
                    linears.pads.fill(3)
                linears.watch = (lambda *seen: None) if turn % 3 == 1 else None  # a slow answer in between
                assert llm.generate(PROMPT, TOKENS)[0].token_ids == expected
            wires.append(accelerator.asked)
            if linears.pads is not None:
                assert linears.ring_calls is not None
                assert len(linears.ring_calls._lent) <= 2 * len(linears.weights.matrices)  # what is used up is let go
                counted = linears.pads.counters()
                assert counted.used == linears.times.rows
                assert counted.made > 0
    masks: set[bytes] = set()
    rows = 0
    for (_, q), (_, x) in zip(*wires, strict=True):
        assert int(x.max()) < P
        rows += len(q)
        masks |= {row[:48].tobytes() for row in ((x.astype(np.int64) - q) % P).astype(np.uint32)}
    assert len(masks) == rows


def dropped(self: Odd, link: Any, message: Product, arrays: list[Any]) -> bool:
    return self.answers == 7


def late(self: Odd, link: Any, message: Product, arrays: list[Any]) -> bool:
    if self.answers == 7:
        time.sleep(0.8)
    return False


def repeated(self: Odd, link: Any, message: Product, arrays: list[Any]) -> bool:
    if self.answers == 7:  # an answer to an earlier call, before the right one
        link.send(slow_encode(Product(message.call - 1, 0.0, 1)), [np.zeros((1, 3), np.int32)], timeout=5)
    return False


def refused(self: Odd, link: Any, message: Product, arrays: list[Any]) -> bool:
    if self.answers == 7:
        link.send(slow_encode(Refused("no more today", message.call)), timeout=5)
    return self.answers == 7


def noise(self: Odd, link: Any, message: Product, arrays: list[Any]) -> bool:
    if self.answers == 7:
        link.send(b"\x93nonsense", [np.arange(5)], timeout=5)
    return self.answers == 7


def closed(self: Odd, link: Any, message: Product, arrays: list[Any]) -> bool:
    if self.answers == 7:
        self._forget(link)
    return self.answers == 7


def breaks(self: Odd, link: Any, message: Product, arrays: list[Any]) -> bool:
    if self.answers == 7:  # the ring's head where no record can end
        ring.store64(link._memory, link._outgoing, 12345)
    return self.answers == 7


def slow_encode(message: Message) -> bytes:
    from cutset.offload.messages import encode

    return encode(message)


@pytest.mark.parametrize("mode", ["plain", "masked+verified"])
@pytest.mark.parametrize(
    ("odd", "stop"),
    [
        (dropped, Stop.UNANSWERED),
        (late, Stop.UNANSWERED),
        (repeated, Stop.ODD),
        (noise, Stop.ODD),
        (closed, Stop.UNANSWERED),
        (breaks, Stop.BROKEN),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_unusual_is_finished_by_the_twin(
    odd: Any, stop: Stop, mode: str, loaded: Loaded, expected: list[int], stops: Counter[Stop]
) -> None:
    with serving(loaded, odd=odd) as accelerator, client(accelerator.listener.address, mode) as llm:
        assert llm.offload is not None
        session = llm.offload.linears.session
        session.patience = type(session.patience)(total=20.0, resend=0.5, redial=0.01)
        if llm.offload.linears.pads is not None:
            llm.offload.linears.pads.fill(40)
        assert llm.generate(PROMPT, TOKENS)[0].token_ids == expected
        assert stops[stop] >= 1
        assert stops[Stop.DONE] >= 6
        sent = accelerator.asked
        again = [i for i in range(1, len(sent)) if sent[i][0] == sent[i - 1][0]]
        assert bool(again) == (odd in (dropped, noise, closed, breaks))
        for i in again:  # byte for byte
            np.testing.assert_array_equal(sent[i][1], sent[i - 1][1])


def test_a_refusal_is_an_error(loaded: Loaded) -> None:
    with serving(loaded, odd=refused) as accelerator, client(accelerator.listener.address, "verified") as llm:
        with pytest.raises(OffloadError, match="refused: no more today"):
            llm.generate(PROMPT, TOKENS)
        assert len(accelerator.asked) == 7


@pytest.mark.parametrize("mode", ["verified", "masked+verified"])
@pytest.mark.parametrize("change", [lambda z: z + 1, lambda z: z[::-1] if len(z) > 1 else z * 0, lambda z: z ^ 2**30])
def test_a_lie_ends_the_session(mode: str, change: Any, loaded: Loaded, stops: Counter[Stop]) -> None:
    def lies(self: Odd, link: Any, message: Product, arrays: list[Any]) -> bool:
        if self.answers == 7:
            link.send(slow_encode(message), [change(arrays[0]).astype(arrays[0].dtype)], timeout=5)
        return self.answers == 7

    with serving(loaded, odd=lies) as accelerator, client(accelerator.listener.address, mode) as llm:
        if llm.offload is not None and llm.offload.linears.pads is not None:
            llm.offload.linears.pads.fill(40)
        with pytest.raises(IntegrityError, match=r"the accelerator at shm.* gave .* the session is over"):
            llm.generate(PROMPT, TOKENS)
        assert stops[Stop.LIED] == 1
        with pytest.raises(IntegrityError):
            llm.generate(PROMPT, TOKENS)
        assert len(accelerator.asked) == 7


@pytest.mark.parametrize("rows", [{}, {"pad_rows": True}])
def test_many_clients_of_a_hot_accelerator(rows: dict[str, Any], loaded: Loaded, expected: list[int]) -> None:
    """At once, in every mode: they share products, and none gets another's rows."""
    found: dict[str, Any] = {}

    def answer(name: str, mode: str, address: str) -> None:
        try:
            more = rows if mode.startswith("masked") else {}
            with client(address, mode, **more) as llm:
                ready.wait(60)
                found[name] = [output.token_ids for output in llm.generate([PROMPT, PROMPT], TOKENS)]
        except CutsetError as error:
            found[name] = error

    ready = threading.Barrier(5)
    with serving(loaded, RingAccelerator) as accelerator:
        modes = [*MODES, "plain"]
        threads = [
            threading.Thread(target=answer, args=(f"{i} {mode}", mode, accelerator.listener.address))
            for i, mode in enumerate(modes)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == {f"{i} {mode}": [expected, expected] for i, mode in enumerate(modes)}
        assert accelerator.counters["clients"] == 5
        assert accelerator.counters["calls"] >= accelerator.counters["products"] > 0
    assert len(accelerator._calls) == 0


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose products of 520 rows are more than kernels keep in the caches."""
    folder = tmp_path_factory.mktemp("wide")
    RandomModel(hidden=512, layers=1, heads=8, kv_heads=8, intermediate=1024, vocab=128).write_checkpoint(folder)
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_many_rows_at_once(mode: str, wide: Path, stops: Counter[Stop], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutset.offload.client.offload._ring", lambda weights: 16 << 20)
    address = f"shm://wide-{os.getpid()}-{MODES.index(mode)}"
    ids = np.random.default_rng(3).integers(0, 128, (1, 520)).astype(np.int32)

    def whole_pass(llm: LLM) -> Any:
        batch = Batch.whole(ids, 16)
        return llm.executor.forward(batch, llm.executor.new_cache(batch.block_tables.size, 16))

    with LLM(wide, threads=1, mode="local") as llm:
        expected = whole_pass(llm)
    accelerator = open_accelerator(str(wide), address, load_settings({"threads": 1}))
    ended = serve_in_thread(accelerator)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="mode plain")
            llm = LLM(wide, threads=1, offload=address, mode=mode)
        with llm:
            assert llm.offload is not None
            if llm.offload.linears.pads is not None:
                llm.offload.linears.pads.fill(520)
            np.testing.assert_array_equal(whole_pass(llm), expected)
    finally:
        ended()
    assert stops[Stop.BEFORE] == 0


def test_async_over_an_offload(loaded: Loaded, expected: list[int]) -> None:
    async def work(address: str) -> None:
        async with AsyncLLM("story", threads=1, offload=address) as llm:
            outputs = await asyncio.gather(*(llm.generate(PROMPT, TOKENS) for _ in range(3)))
            assert [output.token_ids for output in outputs] == [expected] * 3
            stream = llm.stream(PROMPT, SamplingParams(max_tokens=200, ignore_eos=True))
            async for delta in stream:
                assert delta.token_ids
                break
            await stream.aclose()
            assert (await llm.generate(PROMPT, TOKENS)).token_ids == expected

    with serving(loaded, RingAccelerator) as accelerator:
        asyncio.run(work(accelerator.listener.address))


def test_the_fast_one_is_taken_where_it_can_be(tmp_path: Path) -> None:
    for address, kind in ((f"shm://taken-{os.getpid()}", RingAccelerator), (f"ipc://{tmp_path}/a", PythonAccelerator)):
        accelerator = open_accelerator("story", address, load_settings({"threads": 1}))
        assert type(accelerator) is kind
        accelerator.close()


def test_a_fork_is_no_second_user_of_lent_pads(loaded: Loaded) -> None:
    with serving(loaded) as accelerator, client(accelerator.listener.address, "masked") as llm:
        linears = llm.offload.linears if llm.offload is not None else None
        assert linears is not None
        assert linears.pads is not None
        llm.generate(PROMPT, TOKENS)
        linears.pads.ledger.wipe()  # as the kernel does in a child
        with pytest.raises(OffloadError, match="forked"):
            llm.generate(PROMPT, TOKENS)


def test_only_links_in_shared_memory_have_rings(inproc: str) -> None:
    from cutset.link import connect

    session = Session(lambda: connect(inproc))
    assert session.ring_link() is None
    session.close()
    assert slow.AWAKE > slow.BRIEFLY
    assert Limits().ring >= 1 << 20


@pytest.mark.parametrize(
    "name", ["RemoteLinears", "RemoteMatrix", "RunRequest", "RunOutcome", "SentCall", "RingServer", "TurnEnd"]
)
def test_native_calls_are_told_by_arguments_alone(name: str) -> None:
    """A call takes one value and returns one: nothing is set before, and what comes back can't be changed."""
    found = [value for value in vars(getattr(native, name)).values() if isinstance(value, property)]
    assert all(value.fset is None for value in found)
    assert found or name in ("RemoteMatrix", "RunRequest", "RingServer")
