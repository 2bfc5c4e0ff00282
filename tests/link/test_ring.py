"""The ring against its twin in Python, and against memory that a liar writes to."""

from __future__ import annotations

import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cutset.link._ring as ring
from link.ring_model import HEAD, RECEIVER_CLOSED, SENDER_CLOSED, TAIL, ModelReceiver, ModelSender

CAPACITY = 8192
EPOCH = 0xFEDC_BA98_7654_3210
NASTY = [0, 1, 63, 64, 4096, CAPACITY - 64, CAPACITY, CAPACITY + 64, 1 << 31, 1 << 32, (1 << 63) - 64, (1 << 64) - 64]
NASTY += [(1 << 64) - 1, (1 << 32) - 1]
sizes = st.lists(st.integers(0, CAPACITY // 2 - 64), max_size=30)


def memory(capacity: int = CAPACITY) -> bytearray:
    found = bytearray(ring.WORDS + capacity)
    assert (memoryview(found).nbytes, ring.WORDS) == (256 + capacity, 256)
    return found


def aligned(capacity: int = CAPACITY) -> memoryview:
    """Like mapped memory: it begins at a multiple of 64."""
    import ctypes

    raw = bytearray(ring.WORDS + capacity + 64)
    shift = -ctypes.addressof(ctypes.c_char.from_buffer(raw)) % 64
    return memoryview(raw)[shift : shift + ring.WORDS + capacity]


def ends(view: memoryview, capacity: int = CAPACITY) -> tuple[object, object]:
    sender = ring.Sender(view, 0, capacity, EPOCH, view, 128, 0.0, False)
    return sender, ring.Receiver(view, 0, capacity, EPOCH, view, 128, 0.0, False)


def content(number: int, size: int) -> bytes:
    return bytes((number * 7 + i) % 251 for i in range(size))


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 3))
def test_ring_to_model(lengths: list[int], keep: int) -> None:
    view = aligned()
    sender, _ = ends(view)
    model, sent, got = ModelReceiver(view, CAPACITY, EPOCH), [], []
    for number, size in enumerate(lengths):
        data = content(number, size)
        while sender.send([data[: size // 2], data[size // 2 :]], 0.0) != 1:
            got.append(model.recv())
        sent.append((1, data, size))
        while len(sent) - len(got) > keep:
            got.append(model.recv())
    while (found := model.recv()) is not None:
        got.append(found)
    assert got == sent


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 3))
def test_model_to_ring(lengths: list[int], keep: int) -> None:
    view = aligned()
    _, receiver = ends(view)
    model, sent, got = ModelSender(view, CAPACITY, EPOCH), [], []

    def take() -> bool:
        record = receiver.recv(0.0)
        if record is None:
            return False
        kind, offset, length, total, end = record
        got.append((kind, bytes(view[offset : offset + length]), total))
        receiver.release(end)
        return True

    for number, size in enumerate(lengths):
        while not model.send(content(number, size), 2, 99999):
            assert take()
        sent.append((2, content(number, size), 99999))
        while len(sent) - len(got) > keep:
            assert take()
    while take():
        pass
    assert got == sent


def test_an_empty_ring_begins_anew_to_stay_in_the_cache() -> None:
    view = aligned(8 << 20)
    sender, receiver = ends(view, 8 << 20)
    offsets = []
    for _ in range(40):
        assert sender.send([bytes(100_000)], 0.0) == 1
        _, offset, _, _, end = receiver.recv(0.0)
        offsets.append(offset)
        receiver.release(end)
    assert max(offsets) < 1_300_000


def test_records_may_be_released_late_but_only_once() -> None:
    sender, receiver = ends(aligned())
    for number in range(3):
        assert sender.send([bytes([number]) * 1000], 0.0) == 1
    ends_of = [receiver.recv(0.0)[4] for _ in range(3)]
    receiver.release(ends_of[1])
    for wrong in (ends_of[0], ends_of[1], ends_of[2] + 64, 0):
        with pytest.raises(ValueError, match="no such record"):
            receiver.release(wrong)
    receiver.release(ends_of[2])


def test_a_claim_alone_sends_nothing() -> None:
    view = aligned()
    sender, receiver = ends(view)
    assert sender.claim(3000, 0.0) == 1
    assert receiver.recv(0.0) is None
    assert sender.claim(10, 0.0) == 1
    sender.commit(1, 10)
    assert receiver.recv(0.0)[1:4] == (sender_offset := 256 + 64, 10, 10)
    assert sender_offset == 320


def test_what_can_t_be_is_refused() -> None:
    view = aligned()
    sender, _ = ends(view)
    with pytest.raises(ValueError):
        sender.claim(CAPACITY, 0.0)
    with pytest.raises(ValueError):
        sender.send([bytes(CAPACITY)], 0.0)
    with pytest.raises(BufferError):
        ring.Sender(bytes(view), 0, CAPACITY, EPOCH, view, 128, 0.0, False)
    for base, capacity, bell in ((64, CAPACITY, 128), (0, CAPACITY * 2, 128), (0, 100, 128), (0, CAPACITY, 1 << 40)):
        with pytest.raises(ValueError):
            ring.Receiver(view, base, capacity, EPOCH, view, bell, 0.0, False)
    with pytest.raises(ValueError):
        ring.load64(view, len(view))
    with pytest.raises(ValueError):
        ring.store32(view, (1 << 64) - 4, 1)


def test_who_sleeps_is_woken() -> None:
    for naps in (False, True):
        view = aligned()
        sender = ring.Sender(view, 0, CAPACITY, EPOCH, view, 128, 0.0, naps)
        receiver = ring.Receiver(view, 0, CAPACITY, EPOCH, view, 128, 0.0, naps)
        got = []

        def take(receiver: object = receiver, got: list = got) -> None:
            while len(got) < 300:
                record = receiver.recv(0.1)
                if record is not None:
                    got.append(record[2])
                    receiver.release(record[4])

        thread = threading.Thread(target=take)
        thread.start()
        for number in range(300):
            while sender.send([bytes(number * 10)], 0.1) != 1:
                pass
        thread.join()
        assert got == [number * 10 for number in range(300)]


def test_closing_is_seen_by_the_other_side_after_what_was_sent() -> None:
    sender, receiver = ends(aligned())
    assert sender.send([b"last"], 0.0) == 1
    sender.close()
    assert receiver.recv(0.0)[0] == ring.WHOLE
    assert receiver.recv(0.0)[0] == ring.CLOSED
    receiver.close()
    assert sender.send([b"x"], 1.0) == -1


def test_two_threads_in_one_end_are_refused() -> None:
    _, receiver = ends(aligned())
    thread = threading.Thread(target=receiver.recv, args=(0.1,))
    thread.start()
    refused = 0
    while thread.is_alive():
        try:
            receiver.recv(0.0)
        except RuntimeError:
            refused += 1
    thread.join()
    assert refused


def test_a_poller_serves_all_and_drops_the_broken_one() -> None:
    control = aligned()
    poller = ring.Poller(control, 64, 128, 0.0, False)
    views = [aligned() for _ in range(3)]
    pairs = []
    for token, view in enumerate(views):
        sender = ring.Sender(view, 0, CAPACITY, EPOCH, control, 64, 0.0, False)
        receiver = ring.Receiver(view, 0, CAPACITY, EPOCH, control, 64, 0.0, False)
        poller.add(token, receiver)
        pairs.append((sender, receiver))
    for sender, _ in pairs:
        for _ in range(2):
            assert sender.send([b"abc"], 0.0) == 1
    assert [poller.recv(0.0)[0] for _ in range(6)] == [0, 1, 2, 0, 1, 2]
    assert poller.recv(0.01) is None
    struct.pack_into("<Q", views[1], HEAD, 12345)
    assert poller.recv(0.0) == (1, (ring.BROKEN, 0, 0, 0, 0))
    assert poller.recv(0.0) is None
    ring.fetch_add(control, 128, 1)
    assert pairs[2][0].send([b"abc"], 0.0) == 1
    assert sorted(poller.recv(0.0)[1][0] for _ in range(2)) == [ring.WHOLE, ring.JOINED]
    poller.remove(0)
    pairs[0][0].close()
    assert poller.recv(0.0) is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_word_of_a_liar_leads_outside(data: st.DataObject) -> None:
    view = aligned()
    sender, receiver = ends(view)
    words = [HEAD, TAIL, SENDER_CLOSED, RECEIVER_CLOSED]
    for _ in range(data.draw(st.integers(1, 12))):
        action = data.draw(st.sampled_from(["send", "recv", "lie", "lie in a record", "noise"]))
        try:
            if action == "send":
                sender.send([bytes(data.draw(st.integers(0, CAPACITY // 2 - 64)))], 0.0)
            elif action == "recv":
                record = receiver.recv(0.0)
                if record is not None and record[0] < 4:
                    assert 320 <= record[1] <= record[1] + record[2] <= len(view)
                    receiver.release(record[4])
            elif action == "lie":
                value = data.draw(st.sampled_from(NASTY) | st.integers(0, (1 << 64) - 1))
                struct.pack_into("<Q", view, data.draw(st.sampled_from(words)), value)
            elif action == "lie in a record":
                at = (
                    256
                    + 64 * data.draw(st.integers(0, CAPACITY // 64 - 1))
                    + data.draw(st.sampled_from([0, 8, 16, 24]))
                )
                struct.pack_into("<Q", view, at, data.draw(st.sampled_from(NASTY) | st.integers(0, 1 << 20)))
            else:
                noise = data.draw(st.binary(min_size=1, max_size=200))
                at = data.draw(st.integers(0, len(view) - len(noise)))
                view[at : at + len(noise)] = noise
        except ring.Broken:
            continue
