"""Both ends of a hop, pieces of pictures, and what connections are seen to carry."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from cutset.cluster import messages
from cutset.cluster.codecs import Gap, Receiver, Sender
from cutset.cluster.coordinator.links import Links
from cutset.cluster.emulation import Hop
from cutset.cluster.messages import Beat, HopReport, More, Need, Work
from cutset.cluster.wire import LIMITS, PIECE, Assembler, Outbox, pack, pieces, unpack
from cutset.errors import CutsetError, FrameError, LinkClosed, LinkTimeout
from cutset.link import Frame, connect, listen
from cutset.partition.node import Value

VALUES = [Value("a", (1, 4, 30, 31), "float32"), Value("b", (1, 100), "uint8"), Value("c", (3,), "bfloat16")]


def tensors(i: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    a = rng.random((1, 4, 30, 31), np.float32)
    a[0, :, i % 30] += i + 1
    return {"a": a, "b": rng.integers(0, 9, (1, 100), dtype=np.uint8) + np.uint8(i), "c": np.array([i, 2, 3], "<u2")}


def ends() -> tuple[Sender, Receiver]:
    return Sender(VALUES, plan=3, epoch=1), Receiver(VALUES, plan=3)


def holds(found: dict[str, Any], i: int) -> bool:
    wanted = tensors(i)
    return all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_gap_costs_one_request_and_the_next_picture_is_a_key() -> None:
    sender, receiver = ends()
    kinds, gaps = [], {}
    for number in range(8):
        work, arrays, reports = sender.encode(0, number, tensors(number))
        kinds.append(reports[0].kind)
        if number == 3:
            continue  # lost on the way
        try:
            found, _ = receiver.decode(work, arrays)
        except Gap as gap:
            gaps[number] = gap
        else:
            assert holds(found, number)
        if number == 5:  # the request took a while
            for wanted in gaps[4].requests:
                sender.request(wanted)
    assert kinds == ["key", "delta", "delta", "delta", "delta", "delta", "key", "delta"]
    assert list(gaps) == [4, 5]
    assert "a" in [wanted.edge for wanted in gaps[4].requests]
    assert not gaps[5].requests, "asks once"
    assert not gaps[4].stale
    assert not gaps[5].stale


def test_what_was_sent_twice_is_only_out_of_date() -> None:
    sender, receiver = ends()
    work, arrays, _ = sender.encode(0, 5, tensors(5))
    receiver.decode(work, arrays)
    with pytest.raises(Gap) as gap:
        receiver.decode(work, arrays)
    assert gap.value.stale
    assert not gap.value.requests


def test_an_item_is_sent_again_under_its_number_and_sources_are_apart() -> None:
    sender, receiver = ends()
    for source, number in [(0, 4), (1, 4), (0, 5), (0, 4), (1, 6)]:
        work, arrays, _ = sender.encode(source, number, tensors(number + 10 * source))
        assert (work.source, work.number) == (source, number)
        found, _ = receiver.decode(work, arrays)
        assert holds(found, number + 10 * source)


def test_a_picture_of_other_values_or_of_another_plan_is_refused() -> None:
    sender, receiver = ends()
    work, arrays, _ = sender.encode(0, 0, tensors(0))
    later, _, _ = sender.encode(0, 1, tensors(1))
    for wrong in (
        Work(3, 1, 1, 0, work.payloads, work.lengths, 0.0),
        Work(3, 1, 0, 0, [*work.payloads[:2], *later.payloads[2:]], work.lengths, 0.0),
        Work(3, 1, 0, 0, work.payloads[:2], work.lengths, 0.0),
        Work(3, 1, 0, 0, [], [], 0.0),
    ):
        with pytest.raises(FrameError):
            receiver.decode(wrong, arrays)
    with pytest.raises(FrameError, match="more arrays"):
        receiver.decode(work, [*arrays, np.zeros(1, np.uint8)])


# Pieces.


def through(frames: Sequence[tuple[bytes, Sequence[Any]]], limit: int = 1 << 30) -> Any:
    assembler, whole = Assembler(), None
    for header, arrays in frames:
        assert whole is None, "it was whole already"
        message, parts = unpack(Frame(header, tuple(arrays)))
        if isinstance(message, Work):
            whole = assembler.begin(message, parts, limit)
        else:
            assert isinstance(message, More)
            whole = assembler.more(parts)
    return whole


@pytest.mark.parametrize("sizes", [[], [0], [5], [PIECE], [PIECE + 1, 0, 7], [100] * 40, [3 * PIECE + 9, PIECE]])
def test_a_picture_in_pieces_is_whole_again(sizes: list[int]) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]
    work = Work(1, 0, 0, 0, [], sizes, 0.0)
    frames = list(pieces(work, arrays))
    assert all(sum(array.size for array in parts) <= PIECE for _, parts in frames)
    arrival = through(frames)
    assert arrival.work.sent > 0
    assert arrival.hop.nbytes == sum(sizes)
    parts = arrival.arrays
    assert len(parts) == len(arrays)
    assert all(np.array_equal(a, b) for a, b in zip(parts, arrays, strict=True))


def test_pieces_that_dont_fit_are_refused() -> None:
    work = Work(1, 0, 0, 0, [], [10], 0.0)
    header, five = messages.encode(work), np.zeros(5, np.uint8)
    with pytest.raises(FrameError, match="the most"):
        through([(header, [five])], limit=9)
    with pytest.raises(FrameError, match="more bytes"):
        through([(header, [five, five, five])])
    with pytest.raises(FrameError, match="last one was whole"):
        through([(header, [five]), (header, [five])])
    with pytest.raises(FrameError, match="belong to no item"):
        through([(messages.encode(More()), [five])])


def test_a_large_message_is_an_array_and_nothing_else_is() -> None:
    need = Need(1, [f"weight.{i}" for i in range(9000)])
    header, arrays = pack(need)
    assert len(header) < 100
    assert unpack(Frame(header, tuple(arrays)))[0] == need
    for wrong in (messages.encode(More()), header):
        with pytest.raises(FrameError):
            unpack(Frame(header, (np.frombuffer(wrong, np.uint8),)))


def test_messages_overtake_pictures_and_a_lost_link_is_told_once() -> None:
    listener = listen("inproc://outbox", limits=LIMITS)
    link = connect("inproc://outbox", limits=LIMITS)
    told: list[CutsetError] = []
    outbox = Outbox(link, "test", told.append)
    big = [np.zeros(40 * PIECE, np.uint8)]  # more than the link takes at once
    done = threading.Event()
    outbox.data(pieces(Work(1, 0, 0, 0, [], [big[0].size], 0.0), big), done=lambda begin, end: done.set())
    kinds = []
    while not done.is_set() or kinds.count(More) < 39:
        got = listener.recv(2)
        assert got is not None
        kinds.append(type(unpack(got[1])[0]))
        got[1].release()
        if len(kinds) == 1:
            outbox.say(Beat())
    assert kinds[0] is Work
    assert kinds.index(Beat) < 25, "the heartbeat waited for the picture"
    listener.close()
    for _ in range(3):
        outbox.say(Beat())
    outbox._thread.join(5)
    assert [type(error) for error in told] == [LinkClosed]
    assert not outbox.data(iter(()))
    outbox.close()


class _Noting:
    """A link that notes who sends, and refuses what it has no room for."""

    def __init__(self, room: int) -> None:
        self.room, self.sent = room, list[tuple[str, bytes, int]]()

    def send(self, header: bytes, arrays: Any = (), *, timeout: float | None = None) -> None:
        if len(self.sent) >= self.room and timeout == 0.0:
            raise LinkTimeout("full")
        self.sent.append((threading.current_thread().name, header, sum(array.size for array in arrays)))

    def close(self) -> None:
        pass


@pytest.mark.parametrize("room", [100, 3, 0])
def test_what_has_room_is_sent_by_who_has_it_and_the_rest_in_order(room: int) -> None:
    link: Any = _Noting(room)
    outbox = Outbox(link, "test", lambda error: None)
    gone = threading.Event()
    data = [np.zeros(5, np.uint8)]
    frames = list(pieces(Work(1, 0, 0, 0, [], [5], 0.0), data, 1))
    outbox.data(iter(frames), done=lambda begin, end: gone.set(), direct=True)
    assert gone.wait(5)
    assert [header for _, header, _ in link.sent] == [header for header, _ in frames]
    own = sum(name == threading.current_thread().name for name, _, _ in link.sent)
    assert own == min(room, 5)
    outbox.beat(Beat())
    outbox.beat(Beat())  # one waits already, or has left
    outbox.close()
    assert outbox._thread.is_alive() is False


def test_who_sends_at_once_overtakes_nothing_that_waits() -> None:
    link: Any = _Noting(0)
    outbox, gone = Outbox(link, "test", lambda error: None), threading.Event()

    def frames(number: int) -> Any:
        return pieces(Work(1, 0, 0, number, [], [2], 0.0), [np.zeros(2, np.uint8)], 1)

    for number in range(19):
        outbox.data(frames(number), wait=False, direct=True)
    outbox.data(frames(19), wait=False, done=lambda begin, end: gone.set(), direct=True)
    assert gone.wait(5)
    numbers = [messages.decode(header) for _, header, _ in link.sent]
    assert [one.number for one in numbers if isinstance(one, Work)] == list(range(20))
    assert [type(one) for one in numbers] == [Work, More] * 20
    outbox.close()


def test_native_code_sends_items_alone_while_messages_go_on() -> None:
    link: Any = _Noting(100)
    outbox, gone = Outbox(link, "test", lambda error: None), threading.Event()

    def kinds() -> list[type]:
        return [type(messages.decode(header)) for _, header, _ in link.sent]

    def item(direct: bool) -> None:
        frames = pieces(Work(1, 0, 0, 0, [], [2], 0.0), [np.zeros(2, np.uint8)])
        outbox.data(frames, wait=False, done=lambda begin, end: gone.set(), direct=direct)

    assert outbox.lend()
    assert not outbox.lend()
    assert not outbox.hold()
    outbox.beat(Beat())
    _until(lambda: kinds() == [Beat])
    outbox.beat(Beat())  # that native code may send isn't that something waits
    _until(lambda: kinds() == [Beat, Beat])
    item(direct=True)
    outbox.bulk(pieces(Work(1, 0, 0, 1, [], [2], 0.0), [np.zeros(2, np.uint8)]))
    assert not gone.wait(0.05)
    outbox.say(Beat())
    _until(lambda: kinds() == [Beat] * 3)
    outbox.take_back(sent=True)
    assert gone.wait(5)
    _until(lambda: kinds() == [Beat] * 3 + [Work] * 2)
    _until(outbox.lend)
    item(direct=False)
    outbox.close()  # what is lent doesn't keep it open
    assert outbox._thread.is_alive() is False
    outbox.take_back(sent=False)
    assert not outbox.lend()


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


# Links.


def test_a_link_is_measured_without_the_time_behind_another_picture() -> None:
    links = Links({}, lambda party, time: time - (5.0 if party == "w" else 0.0))
    assert links.bandwidth("coordinator", "w") == float("inf")
    news = []
    for i in range(12):  # 1 MB/s; three are sent at once, every 0.3 s
        sent = 0.3 * (i // 3)
        last = 5.0 + 0.3 * (i // 3) + 0.1 * (i % 3 + 1)
        _, found = links.learn("coordinator", "w", HopReport(100_000, sent, last, last))
        news.append(found)
    told = [found for found in news if found is not None]
    assert told
    assert told[-1] == pytest.approx(1e6, rel=0.05)
    assert len(told) <= 2, "told again only when it changed"


def test_an_emulated_link_is_known_from_the_start() -> None:
    links = Links({("a", "b"): Hop(4e6, 0.01)}, lambda _, time: time)
    assert links.bandwidth("a", "b") == 4e6
