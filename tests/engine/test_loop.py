"""The thread that owns the engine: streams, cancelling, closing, dying, and many callers at once."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from cutset.engine import Delta, Engine, EngineLoop, RequestHandle, SamplingParams
from cutset.engine.stage_item import StageItem
from cutset.errors import ContextLengthError, EngineError, RequestError
from cutset.models.run.executor import Batch, KVCache

from .fake import FakeExecutor
from .helpers import GREEDY, assert_empty, make_engine, prompts
from .twin import slow_generate

LONG = SamplingParams(temperature=0, max_tokens=400)
WAIT = 10.0  # seconds; a test that waits so long has failed


class Gated(FakeExecutor):
    """Stops before each step until it is let through."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)

    def forward(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
        self.entered.release()
        assert self.gate.acquire(timeout=WAIT)
        return super().forward(batch, cache)

    def open(self) -> None:
        self.gate.release(10_000)


def eventually(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.002)
    return False


@pytest.fixture
def engine() -> Engine:
    return make_engine(blocks=128)


@pytest.fixture
def loop(engine: Engine) -> Iterator[EngineLoop]:
    with EngineLoop(engine) as loop:
        yield loop
    assert_empty(engine)


def test_stream(loop: EngineLoop) -> None:
    deltas = list(loop.submit([1, 2, 3], GREEDY))
    assert [token for delta in deltas for token in delta.token_ids] == slow_generate([1, 2, 3], GREEDY)
    assert deltas[-1].finished
    assert loop.stats().generated_tokens == 12


def test_the_next_step_is_on_its_way_before_what_the_last_one_gave_is_delivered(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[str] = []
    send = engine._pipeline.send

    def noting(item: StageItem) -> None:
        noted.append("send")
        send(item)

    monkeypatch.setattr(engine._pipeline, "send", noting)
    with EngineLoop(engine) as loop:
        params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
        loop.submit([1, 2, 3], params, on_delta=lambda delta: noted.append("delta"))
        assert eventually(lambda: noted.count("delta") == 3)
    assert noted == ["send", "send", "delta", "send", "delta", "delta"]
    assert_empty(engine)


def test_result(loop: EngineLoop) -> None:
    output = loop.submit([1, 2, 3], GREEDY, request_id="mine", prompt_text="hello").result(WAIT)
    assert (output.request_id, output.prompt, output.prompt_token_ids) == ("mine", "hello", [1, 2, 3])
    assert (output.token_ids, output.finish_reason) == (slow_generate([1, 2, 3], GREEDY), "length")


def test_get_and_next(loop: EngineLoop) -> None:
    handle = loop.submit([1, 2, 3], replace(GREEDY, max_tokens=2))
    first, second = handle.get(WAIT), next(handle)
    assert first is not None
    assert [*first.token_ids, *second.token_ids] == slow_generate([1, 2, 3], replace(GREEDY, max_tokens=2))
    assert handle.get(WAIT) is None
    assert next(handle, None) is None
    assert list(handle) == []


def test_one_thread_runs_the_executor(engine: Engine, loop: EngineLoop) -> None:
    for handle in [loop.submit([1, 2, i], GREEDY) for i in range(5)]:
        handle.result(WAIT)
    executor = engine.executor
    assert isinstance(executor, FakeExecutor)
    assert len(executor.threads) == 1
    assert threading.get_ident() not in executor.threads


def test_many_threads_at_once(loop: EngineLoop) -> None:
    results: dict[int, list[int]] = {}
    params = SamplingParams(temperature=0.9, seed=4, max_tokens=10)
    asked = prompts(24, seed=20, high=20)

    def ask(which: int) -> None:
        results[which] = loop.submit(asked[which], params).result(WAIT).token_ids

    threads = [threading.Thread(target=ask, args=(which,)) for which in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert results == {which: slow_generate(prompt, params) for which, prompt in enumerate(asked)}


def test_bad_requests_are_refused_at_once(loop: EngineLoop) -> None:
    with pytest.raises(RequestError, match="empty"):
        loop.submit([], GREEDY)
    with pytest.raises(RequestError, match="token id 999"):
        loop.submit([999], GREEDY)
    with pytest.raises(ContextLengthError):
        loop.submit([1] * 600, GREEDY)
    assert loop.submit([1], GREEDY).result(WAIT).finished


def test_what_can_t_be_added_ends_alone(loop: EngineLoop) -> None:
    odd = loop.submit([1, 2], GREEDY, cache_salt="\ud800")
    assert odd.result(WAIT).token_ids == slow_generate([1, 2], GREEDY)
    wrong = loop.submit([1, 2], GREEDY, cache_salt=5)
    with pytest.raises(EngineError, match="couldn't be added"):
        wrong.result(WAIT)
    assert loop.submit([1, 2], GREEDY).result(WAIT).token_ids == slow_generate([1, 2], GREEDY)


def test_ids(loop: EngineLoop) -> None:
    first = loop.submit([1], GREEDY, request_id="request-1")
    assert loop.submit([1], GREEDY).request_id != "request-1"
    first.result(WAIT)
    for _ in range(50):  # an id is free as soon as its last delta is there
        loop.submit([1], replace(GREEDY, max_tokens=1), request_id="same").result(WAIT)


def test_id_in_use() -> None:
    executor = Gated()
    with EngineLoop(make_engine(executor)) as loop:
        handle = loop.submit([1], GREEDY, request_id="same")
        with pytest.raises(RequestError, match="'same' is in use"):
            loop.submit([1], GREEDY, request_id="same")
        executor.open()
        handle.result(WAIT)


class Held(NamedTuple):
    """A loop whose executor waits to be let through, and a request of 400 tokens that has got its first one."""

    executor: Gated
    loop: EngineLoop
    kept: list[RequestHandle]  # what is put here is not lost when the test returns

    def begin(self) -> RequestHandle:
        handle = self.loop.submit([1] * 9, LONG)
        self.executor.gate.release()
        assert handle.get(WAIT) is not None
        assert self.loop.stats().blocks_used > 0
        return handle


class TestCancel:
    """Each way of leaving frees the blocks while the thread goes on."""

    @pytest.fixture
    def held(self) -> Iterator[Held]:
        executor = Gated()
        engine = make_engine(executor, blocks=128)
        with EngineLoop(engine) as loop:
            held = Held(executor, loop, [])
            yield held

            def freed() -> bool:
                executor.gate.release()  # the step that it may be in
                return loop.stats().blocks_used == 0

            assert eventually(freed)
            assert loop.stats().generated_tokens < 200
            executor.open()
            assert loop.submit([1, 2], GREEDY).result(WAIT).token_ids == slow_generate([1, 2], GREEDY)
        assert_empty(engine)

    def test_cancel(self, held: Held) -> None:
        handle = held.begin()
        handle.cancel()
        handle.cancel()
        held.executor.gate.release()
        rest = list(handle)
        assert len(rest) <= 2  # the step that was under way, and the end
        assert (rest[-1].finish_reason, rest[-1].finished) == ("abort", True)

    def test_break(self, held: Held) -> None:
        held.kept.append(held.begin())
        held.executor.gate.release()
        for _ in held.kept[0]:
            break

    def test_with(self, held: Held) -> None:
        held.kept.append(held.begin())
        with held.kept[0]:
            pass

    def test_lost(self, held: Held) -> None:
        held.begin()
        gc.collect()

    def test_exception_in_the_consumer(self, held: Held) -> None:
        held.kept.append(held.begin())
        held.executor.gate.release()

        def consume() -> None:
            for _ in held.kept[0]:
                raise KeyboardInterrupt

        # The iterator lives as long as the traceback, so it must not be kept, as pytest.raises does.
        try:
            consume()
        except KeyboardInterrupt:
            pass
        else:
            pytest.fail("no delta came")

    def test_interrupted_while_waiting(self, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
        held.kept.append(held.begin())

        def interrupted(timeout: float | None = None) -> Delta:
            raise KeyboardInterrupt

        monkeypatch.setattr(held.kept[0], "get", interrupted)
        with pytest.raises(KeyboardInterrupt):
            held.kept[0].result()

    def test_timeout_of_get_goes_on(self, held: Held) -> None:
        handle = held.loop.submit([1, 2], replace(GREEDY, max_tokens=1))
        with pytest.raises(TimeoutError, match="within"):
            handle.get(0.01)
        held.executor.gate.release()
        assert handle.result(WAIT).token_ids == slow_generate([1, 2], replace(GREEDY, max_tokens=1))

    def test_timeout_of_result_cancels(self, held: Held) -> None:
        held.kept.append(held.begin())
        with pytest.raises(TimeoutError):
            held.kept[0].result(0.02)

    def test_an_old_handle_doesn_t_cancel_a_new_request(self, held: Held) -> None:
        short = replace(GREEDY, max_tokens=1)
        old = held.loop.submit([1, 2], short, request_id="same")
        held.executor.gate.release()
        assert eventually(lambda: held.loop.stats().generated_tokens == 1)
        assert eventually(lambda: not held.loop._tickets)  # its end lies in the queue, not taken
        new = held.loop.submit([3, 4], short, request_id="same")
        old.cancel()
        held.executor.gate.release()
        assert new.result(WAIT).token_ids == slow_generate([3, 4], short)


def test_waiting_in_two_threads_both_come_back(loop: EngineLoop) -> None:
    handle = loop.submit([1], replace(GREEDY, max_tokens=3))
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(len(list(handle)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert sum(counts) == 3


class TestEnd:
    def test_close_ends_what_runs_and_what_waits(self) -> None:
        executor = Gated()
        engine = make_engine(executor, max_num_seqs=1)
        loop = EngineLoop(engine)
        handles = [loop.submit([1], LONG) for _ in range(3)]
        assert executor.entered.acquire(timeout=WAIT)
        closer = threading.Thread(target=loop.close)
        closer.start()
        executor.open()
        for handle in handles:
            with pytest.raises(EngineError, match="closed"):
                handle.result(WAIT)
            assert handle.get(WAIT) is None
        closer.join(WAIT)
        assert not closer.is_alive()
        assert not loop.alive
        assert_empty(engine)
        loop.close()
        with pytest.raises(EngineError, match="closed"):
            loop.submit([1], GREEDY)
        handles[0].cancel()

    def test_close_when_idle_is_quick(self) -> None:
        others = set(threading.enumerate())
        loop = EngineLoop(make_engine())
        start = time.monotonic()
        loop.close(WAIT)
        assert time.monotonic() - start < 2
        assert set(threading.enumerate()) <= others

    def test_idle_doesn_t_spin(self) -> None:
        with EngineLoop(make_engine()) as loop:
            loop.submit([1], GREEDY).result(WAIT)
            before = time.process_time()
            time.sleep(0.2)
            assert time.process_time() - before < 0.1

    def test_a_bug_reaches_everyone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        executor = Gated()
        engine = make_engine(executor, max_num_seqs=1)
        loop = EngineLoop(engine)
        handles = [loop.submit([1], GREEDY) for _ in range(3)]
        seen: list[Delta] = []
        loop.submit([1], GREEDY, on_delta=seen.append)
        assert executor.entered.acquire(timeout=WAIT)

        def broken(*_: object) -> None:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(engine._scheduler, "advance", broken)
        executor.open()
        for handle in handles:
            with pytest.raises(EngineError, match="The engine stopped: a bug") as caught:
                handle.result(WAIT)
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert eventually(lambda: bool(seen))
        assert isinstance(seen[-1].error, EngineError)
        assert seen[-1].finished
        with pytest.raises(EngineError, match="a bug"):
            loop.submit([1], GREEDY)
        loop.close(WAIT)

    def test_a_failed_step_is_no_end(self) -> None:
        class Once(FakeExecutor):
            def forward(self, batch: Batch, cache: KVCache) -> NDArray[np.float32]:
                logits = super().forward(batch, cache)
                if len(self.log) == 2:
                    raise OSError("no link")
                return logits

        with EngineLoop(make_engine(Once())) as loop:
            with pytest.raises(EngineError, match="no link"):
                loop.submit([1, 2], GREEDY).result(WAIT)
            assert loop.submit([1, 2], GREEDY).result(WAIT).token_ids == slow_generate([1, 2], GREEDY)


class TestHook:
    def test_asyncio(self, loop: EngineLoop) -> None:
        async def ask(prompt: list[int]) -> list[int]:
            running, deltas = asyncio.get_running_loop(), asyncio.Queue[Delta]()
            handle = loop.submit(
                prompt, GREEDY, on_delta=lambda delta: running.call_soon_threadsafe(deltas.put_nowait, delta)
            )
            tokens: list[int] = []
            while True:
                delta = await asyncio.wait_for(deltas.get(), WAIT)
                tokens += delta.token_ids
                if delta.finished:
                    break
            assert handle.request_id
            return tokens

        async def main() -> list[list[int]]:
            return await asyncio.gather(*(ask([i, 2]) for i in range(6)))

        assert asyncio.run(main()) == [slow_generate([i, 2], GREEDY) for i in range(6)]

    def test_losing_the_handle_doesn_t_cancel(self, loop: EngineLoop) -> None:
        seen: list[Delta] = []
        loop.submit([1], GREEDY, on_delta=seen.append)
        gc.collect()
        assert eventually(lambda: bool(seen) and seen[-1].finished)
        assert seen[-1].finish_reason == "length"

    def test_cancel(self, loop: EngineLoop) -> None:
        seen: list[Delta] = []
        handle = loop.submit([1], LONG, on_delta=seen.append)
        assert eventually(lambda: bool(seen))
        handle.cancel()
        assert eventually(lambda: seen[-1].finished)

    def test_a_hook_that_raises_cancels_its_request_only(self, loop: EngineLoop) -> None:
        calls: list[Delta] = []

        def broken(delta: Delta) -> None:
            calls.append(delta)
            raise RuntimeError("the event loop is closed")

        loop.submit([1], LONG, on_delta=broken)
        assert loop.submit([1, 2], GREEDY).result(WAIT).token_ids == slow_generate([1, 2], GREEDY)
        assert len(calls) == 1

    def test_the_handle_has_no_deltas(self, loop: EngineLoop) -> None:
        handle = loop.submit([1], GREEDY, on_delta=lambda delta: None)
        with pytest.raises(RuntimeError, match="on_delta"):
            handle.get()

    def test_the_hook_may_close_and_submit(self) -> None:
        loop = EngineLoop(make_engine())
        seen: list[Delta] = []

        def again(delta: Delta) -> None:
            seen.append(delta)
            if delta.finished and len(seen) < 4:
                loop.submit([1], replace(GREEDY, max_tokens=1), request_id="same", on_delta=again)
            elif delta.finished:
                loop.close()

        loop.submit([1], replace(GREEDY, max_tokens=1), request_id="same", on_delta=again)
        assert eventually(lambda: not loop.alive)
        assert len(seen) == 4


def test_a_forked_child_is_told_and_does_not_wait_for_ever() -> None:
    """The thread stays with the parent, whose requests go on."""
    executor = Gated()
    with EngineLoop(make_engine(executor)) as loop:
        handle = loop.submit([1, 2, 3], GREEDY)
        assert executor.entered.acquire(timeout=WAIT)
        loop._lock.acquire()  # as another thread may have at that moment
        child = os.fork()
        if child == 0:
            told = 0
            for ask in (lambda: handle.result(WAIT), lambda: loop.submit([1], GREEDY)):
                try:
                    ask()
                except EngineError as error:
                    told += "forked" in str(error)
            loop.close()
            os._exit(told)
        loop._lock.release()
        assert eventually(lambda: os.waitpid(child, os.WNOHANG)[1] == 2 << 8)
        executor.open()
        assert handle.result(WAIT).token_ids == slow_generate([1, 2, 3], GREEDY)
