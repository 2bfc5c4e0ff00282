"""How pieces are delivered: joined where nobody reads them before the end, and those of a step at once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from cutset.engine import Delta, EngineLoop, SamplingParams, collect
from cutset.engine.delivery import HELD, DeltaJoiner, Letter
from cutset.engine.outputs import TokenLogprob, Usage, joined
from cutset.errors import EngineError

from .helpers import GREEDY, assert_empty, make_engine, prompts
from .test_loop import WAIT, eventually
from .twin import slow_generate


def pieces(seed: int, samples: int) -> list[Delta]:
    """Of a request whose samples end at different times, with all that a piece may have."""
    drawn, found = random.Random(seed), list[Delta]()
    left, lengths = {index: drawn.randrange(1, 12) for index in range(samples)}, [0] * samples
    while left:
        index = drawn.choice(list(left))
        left[index] -= 1
        text = drawn.choice(("", "a", "bc ", "é"))
        score = TokenLogprob(lengths[index], -0.5, 1, (), lengths[index])
        found.append(
            Delta(
                "x",
                index,
                text,
                (drawn.randrange(300),),
                None if left[index] else "stop",
                None if left[index] else "end",
                logprobs=(score,) if index % 2 else None,
                special=((lengths[index], "<s>"),) if text == "a" else (),
                prompt_logprobs=(None, score) if not found else None,
                cached_tokens=3 if not found else None,
            )
        )
        lengths[index] += len(text)
        if not left[index]:
            del left[index]
    found[-1] = replace(found[-1], finished=True, usage=Usage(4, len(found), 3))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_joined_pieces_are_the_same_answer(seed: int) -> None:
    given, drawn = pieces(seed, 1 + seed % 4), random.Random(seed)
    joiner, found, now = DeltaJoiner(), list[Delta](), 0.0
    for one in given:
        now += drawn.choice((0.0, HELD / 3, 2 * HELD))
        found += joiner.take(one, now)
    assert collect("x", found) == collect("x", given)
    for index in range(4):
        mine, its = [[one for one in all_ if one.index == index] for all_ in (given, found)]
        assert [special for one in its for special in one.special] == [each for one in mine for each in one.special]
        assert [one.finish_reason for one in its if one.finish_reason] == ["stop"] * bool(mine)
        assert its[:1] == mine[:1], "the first token comes by itself"
    assert found[0].cached_tokens == 3
    assert [one.finished for one in found] == [False] * (len(found) - 1) + [True]


def test_pieces_are_held_for_a_while_and_given_with_the_next() -> None:
    def token(number: int, index: int = 0) -> Delta:
        return Delta("x", index, f"{number} ", (number,))

    joiner = DeltaJoiner()
    assert joiner.take(token(0), 1.0) == [token(0)]
    assert joiner.take(token(1), 1.0 + HELD / 2) == []
    assert joiner.take(token(7, 1), 1.0 + HELD / 2) == [token(7, 1)], "samples have nothing to do with each other"
    [two] = joiner.take(token(2), 1.0 + 1.5 * HELD)
    assert (two.text, two.token_ids) == ("1 2 ", (1, 2))
    slow = [joiner.take(token(number), 2.0 + 3 * HELD * number) for number in range(3, 6)]
    assert slow == [[token(number)] for number in range(3, 6)], "a slow model's tokens come one by one"
    last = 2.0 + 15 * HELD
    assert joiner.take(token(6), last) == joiner.take(token(8, 1), last)[1:] == []
    assert joiner.take(token(9, 1), last) == []
    failed = replace(token(7), finish_reason="abort", error=EngineError("gone"), finished=True)
    rest, end = joiner.take(failed, last)
    assert (rest.index, rest.token_ids, rest.finished) == (1, (9,), False)
    assert (end.index, end.token_ids, end.finished, end.error) == (0, (6, 7), True, failed.error)


def test_one_piece_is_itself() -> None:
    [first, *_] = pieces(3, 2)
    assert joined([first]) is first


class Collected:
    """A `Deliver` that calls nobody but keeps what it was given."""

    def __init__(self) -> None:
        self.parcels: list[list[Letter]] = []
        self.done = threading.Event()
        self.left = 0

    def __call__(self, letters: list[Letter]) -> None:
        self.parcels.append(letters)
        self.left -= sum(delta.finished for _, delta in letters)
        if not self.left:
            self.done.set()

    def deltas(self, receive: Callable[[Delta], object]) -> list[Delta]:
        return [delta for parcel in self.parcels for one, delta in parcel if one is receive]


def ask(loop: EngineLoop, asked: Sequence[list[int]], params: SamplingParams, *, whole: bool) -> list[list[Delta]]:
    """What each request gets by one `deliver`."""
    found = Collected()
    found.left = len(asked)
    receivers = [list[Delta]().append for _ in asked]
    for ids, receive in zip(asked, receivers, strict=True):
        loop.submit(ids, params, on_delta=receive, deliver=found, whole=whole)
    assert found.done.wait(WAIT)
    assert all(found.parcels), "nobody is told of nothing"
    return [found.deltas(receive) for receive in receivers]


@pytest.mark.parametrize("whole", [False, True])
def test_answers_are_the_same_however_they_come(whole: bool) -> None:
    engine = make_engine(blocks=128)
    params = SamplingParams(temperature=0.8, seed=3, max_tokens=14, n=2, logprobs=1)
    asked = prompts(6, seed=4, high=12)
    with EngineLoop(engine) as loop:
        wanted = [loop.submit(ids, params).result(WAIT).outputs for ids in asked]
        found = ask(loop, asked, params, whole=whole)
    assert [collect("", one).outputs for one in found] == wanted
    if not whole:
        assert all(len(delta.token_ids) == 1 for one in found for delta in one)
    assert_empty(engine)


def test_a_step_is_told_once() -> None:
    """Both requests run from the first step on: each step is one call with a piece of each."""
    found, started = Collected(), threading.Event()
    found.left = 2
    engine = make_engine()
    with EngineLoop(engine) as loop:

        def both(delta: Delta) -> None:
            if not started.is_set():  # the engine's thread is here: what is handed in now begins with the same step
                started.set()
                for ids in ([1, 2, 3], [4, 5]):
                    loop.submit(ids, GREEDY, on_delta=str, deliver=found)

        loop.submit([9], replace(GREEDY, max_tokens=1), on_delta=both)
        assert found.done.wait(WAIT)
    assert [len(parcel) for parcel in found.parcels] == [2] * 12
    tokens = [[parcel[which][1].token_ids[0] for parcel in found.parcels] for which in range(2)]
    assert tokens == [slow_generate([1, 2, 3], GREEDY), slow_generate([4, 5], GREEDY)]


def test_a_deliver_that_raises_cancels_its_requests_only() -> None:
    calls: list[int] = []

    def broken(letters: list[Letter]) -> None:
        calls.append(len(letters))
        raise RuntimeError("nobody is there")

    engine = make_engine()
    with EngineLoop(engine) as loop:
        long = replace(GREEDY, max_tokens=400)
        loop.submit([1], long, on_delta=str, deliver=broken)
        assert loop.submit([1, 2], GREEDY).result(WAIT).token_ids == slow_generate([1, 2], GREEDY)
    assert calls == [1]
    assert_empty(engine)


def test_what_was_held_comes_before_the_end_of_an_engine() -> None:
    """It is closed, and whoever waits for a whole answer gets an error behind what there was."""
    engine, found = make_engine(), Collected()
    engine.clock = lambda: 0.0  # nothing is ever due
    with EngineLoop(engine) as loop:
        loop.submit([1], replace(GREEDY, max_tokens=400), on_delta=str, deliver=found, whole=True)
        loop.submit([1], replace(GREEDY, max_tokens=5), on_delta=lambda delta: delta.finished and loop.close())
        assert eventually(lambda: not loop.alive)
    given = [delta for parcel in found.parcels for _, delta in parcel]
    assert [bool(one.error) for one in given] == [False, True]
    assert len(given[1].token_ids) >= 3
    assert given[1].finished
