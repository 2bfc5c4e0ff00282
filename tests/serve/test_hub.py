"""From other threads to the event loop: letters in order with few wake-ups, events to watchers that may be slow."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from cutset.serve.api_errors import ApiError
from cutset.serve.events import EngineEvent, LinksEvent
from cutset.serve.hub import MOST_KEPT, MOST_WATCHERS, Hub
from cutset.serve.mailbox import Mailbox


def test_letters_come_in_order_and_wake_the_loop_once_for_many() -> None:
    async def run() -> tuple[list[tuple[int, int]], int]:
        loop = asyncio.get_running_loop()
        got: list[tuple[int, int]] = []
        woken, wake = 0, loop.call_soon_threadsafe

        def counting(*call: object) -> object:
            nonlocal woken
            woken += 1
            return wake(*call)

        loop.call_soon_threadsafe = counting
        mailbox = Mailbox(loop)
        senders = [
            threading.Thread(target=lambda n=n: [mailbox.put([(got.append, (n, i))]) for i in range(500)])
            for n in range(3)
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()  # the loop stands still: nobody takes a letter meanwhile
        assert got == []
        while len(got) < 1500:
            await asyncio.sleep(0)
        return got, woken

    got, woken = asyncio.run(run())
    for number in range(3):
        assert [i for n, i in got if n == number] == list(range(500))
    assert woken <= 3


def test_a_letter_after_the_loop_has_closed_is_dropped() -> None:
    loop = asyncio.new_event_loop()
    mailbox = Mailbox(loop)
    loop.close()
    for _ in range(3):
        mailbox.put([(print, "nobody reads this")])


def links(time: float) -> LinksEvent:
    return LinksEvent(time=time, hops=[])


def times(data: bytes) -> list[float]:
    return [json.loads(line[6:])["time"] for line in data.decode().split("\n\n") if line]


def test_a_slow_watcher_loses_the_oldest_and_a_late_one_gets_the_last() -> None:
    async def run() -> None:
        hub = Hub()
        with hub.watching() as slow:
            for i in range(MOST_KEPT + 50):
                hub.publish(links(i))
            assert times(await slow.take()) == list(range(50, MOST_KEPT + 50))
            with hub.watching() as late:
                assert times(await late.take()) == [MOST_KEPT + 49]
                hub.publish(links(7))
                assert times(await slow.take()) == times(await late.take()) == [7]
        assert not hub.watched
        hub.publish(links(8))  # to nobody
        hub.close()
        with hub.watching() as after:
            assert after.ended

    asyncio.run(run())


def test_watchers_are_limited_and_leave_their_places() -> None:
    async def run() -> None:
        import contextlib

        hub = Hub()
        with contextlib.ExitStack() as stack:
            for _ in range(MOST_WATCHERS):
                stack.enter_context(hub.watching())
            with pytest.raises(ApiError) as caught, hub.watching():
                pass
            assert caught.value.status == 429
        with hub.watching():
            assert hub.watched

    asyncio.run(run())


def test_every_event_has_a_type_of_its_own() -> None:
    from cutset.serve import events

    kinds = [one for one in vars(events).values() if isinstance(one, type) and issubclass(one, events.Event)]
    tags = [kind.__struct_config__.tag for kind in kinds if kind is not events.Event]
    assert len(tags) == len(set(tags)) == 12
    assert EngineEvent.__struct_config__.tag == "engine"
