"""One suite over every link."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from cutset.errors import FrameError, LinkClosed, LinkError, LinkTimeout
from cutset.link import Link, listen
from cutset.link.keys import new_keys
from link.conftest import Place, echoing

RNG = np.random.default_rng(0)


def arrays_of_every_kind() -> list[np.ndarray]:
    kinds = ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
    return [(RNG.integers(0, 120, (3, 5)) + 1).astype(kind) for kind in kinds]


def same(received: np.ndarray, sent: object) -> bool:
    sent = np.asarray(sent)
    return received.dtype == sent.dtype.newbyteorder("=") and received.shape == sent.shape and (received == sent).all()


def test_what_is_sent_comes_back(there: Place) -> None:
    sets = [
        [],
        arrays_of_every_kind(),
        [np.float32(2.5), np.array(7), 3, np.zeros((0, 4), "i4"), np.zeros((2, 0), bool), np.arange(3)],
        [np.arange(24).reshape(4, 6).T, np.arange(10)[::-2], np.arange(6, dtype=">i4"), np.ones(3, ">c16")],
    ]
    with echoing(there.listener) as failed:
        link = there.dial()
        for number, arrays in enumerate(sets):
            header = bytes([number]) * (number * 1000)
            link.send(header, arrays)
            frame = link.recv()
            assert frame.header == header
            assert len(frame.arrays) == len(arrays)
            for received, sent in zip(frame.arrays, arrays, strict=True):
                assert same(received, sent)
                assert not received.flags.writeable
                assert received.flags.aligned
            frame.release()
            frame.release()
    assert not failed


@pytest.mark.parametrize("size", [1, 63, 64, 65, 4000, 300_000, 600_000, 5_000_000])
def test_sizes(there: Place, size: int) -> None:
    data = RNG.integers(0, 256, size, dtype=np.uint8)
    with echoing(there.listener) as failed:
        link = there.dial()
        for shift in range(3):
            sent = np.roll(data, shift)
            link.send(b"h", [sent, sent[:5]])
            got = link.recv()
            assert (got.arrays[0] == sent).all()
            assert (got.arrays[1] == sent[:5]).all()
    assert not failed


def test_many_frames_keep_their_order(there: Place) -> None:
    link = there.dial()
    sizes = RNG.integers(0, 3000, 300)

    def produce() -> None:
        for number, size in enumerate(sizes):
            link.send(number.to_bytes(2, "little"), [np.full(size, number, np.int32)])

    thread = threading.Thread(target=produce)
    thread.start()
    for number, size in enumerate(sizes):
        _, frame = there.first()
        assert int.from_bytes(frame.header, "little") == number
        assert frame.arrays[0].shape == (size,)
        assert (frame.arrays[0] == number).all()
        frame.release()
    thread.join()


@pytest.mark.parametrize("size", [100, 200_000, 3_000_000])
def test_a_reservation_is_filled_in_place_and_sent_by_commit(there: Place, size: int) -> None:
    link = there.dial()
    with link.reserve(b"dropped", [(np.uint32, (size,))]) as room:
        room.arrays[0][:] = 1
    with link.reserve(b"sent", [(np.uint32, (size,)), (np.float32, (2, 3)), (np.int8, (0, 5))]) as room:
        room.arrays[0][:] = np.arange(size)
        room.arrays[1][:] = 2.5
        with echoing(there.listener):
            room.commit()
            frame = link.recv()
    assert frame.header == b"sent"
    assert (frame.arrays[0] == np.arange(size)).all()
    assert (frame.arrays[1] == np.full((2, 3), 2.5)).all()
    assert frame.arrays[2].shape == (0, 5)
    with pytest.raises(RuntimeError):
        room.commit()


def test_changing_an_array_after_send_changes_nothing(there: Place) -> None:
    link, data = there.dial(), np.zeros(200_000, np.uint8)
    link.send(b"", [data])
    data[:] = 9
    _, frame = there.first()
    assert not frame.arrays[0].any()


def test_waiting_ends(there: Place) -> None:
    link = there.dial()
    with pytest.raises(LinkTimeout):
        link.recv(timeout=0.05)
    with pytest.raises(LinkTimeout):
        link.recv(timeout=0)
    assert there.listener.recv(0) is None
    assert there.listener.recv(0.05) is None


def test_nobody_takes_what_is_sent(there: Place) -> None:
    link, data = there.dial(), np.zeros(400_000, np.uint8)
    sent = 0

    def fill() -> None:
        nonlocal sent
        for number in range(1000):
            link.send(number.to_bytes(2, "little"), [data], timeout=0.1)
            sent += 1

    with pytest.raises(LinkTimeout):
        fill()
    assert 0 < sent < 200
    # What was sent is intact, and what was not sent isn't there.
    for number in range(sent):
        _, frame = there.first()
        assert int.from_bytes(frame.header, "little") == number
        frame.release()
    assert there.listener.recv(0.1) is None
    link.send(b"again", [])
    assert there.first()[1].header == b"again"


def test_eight_clients_at_once(there: Place) -> None:
    failed: list[BaseException] = []

    def talk(link: Link, number: int) -> None:
        try:
            for turn in range(20):
                data = np.full(1 + 997 * turn, number * 100 + turn, np.int32)
                link.send(bytes([number]), [data])
                frame = link.recv()
                assert frame.header == bytes([number])
                assert (frame.arrays[0] == data).all()
        except BaseException as error:
            failed.append(error)

    with echoing(there.listener) as served:
        threads = [threading.Thread(target=talk, args=(there.dial(), number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
    assert not served


def test_a_busy_client_doesn_t_starve_the_others(there: Place) -> None:
    busy, calm = there.dial(), there.dial()
    for _ in range(3):
        busy.send(b"busy")
    calm.send(b"calm")
    time.sleep(0.1)
    seen = []
    for _ in range(4):
        link, frame = there.first()
        seen.append(bytes(frame.header))
        frame.release()
        del link
    assert b"calm" in seen[:3]


def test_a_client_that_closes_is_reported_after_its_frames(there: Place) -> None:
    first, second = there.dial(), there.dial()
    first.send(b"one", [np.arange(3)])
    second.send(b"two")
    ends = {}
    for _ in range(2):
        end, frame = there.first()
        ends[bytes(frame.header)] = end
        frame.release()
    second.send(b"last")
    second.close()
    second.close()
    end, frame = there.first()
    assert (end, frame.header) == (ends[b"two"], b"last")
    frame.release()
    assert gone(there) == [ends[b"two"]]
    with pytest.raises(LinkClosed):
        ends[b"two"].send(b"too late")
    with pytest.raises(LinkClosed):
        second.send(b"too late")
    ends[b"one"].send(b"still here")
    assert first.recv().header == b"still here"


def gone(there: Place) -> list[Link]:
    found: list[Link] = []
    deadline = time.monotonic() + 5
    while not found and time.monotonic() < deadline:
        assert there.listener.recv(0.05) is None
        found += there.listener.gone()
    return found


def test_a_listener_that_closes_is_noticed(there: Place) -> None:
    link = there.dial()
    link.send(b"hello")
    end, frame = there.first()
    end.send(b"bye", [np.arange(5)])
    frame.release()
    there.listener.close()
    there.listener.close()
    assert link.recv().header == b"bye"
    with pytest.raises(LinkClosed):
        link.recv()
    with pytest.raises(LinkClosed):
        link.send(b"x")
    with pytest.raises(LinkClosed):
        there.listener.recv(0)


def test_the_listener_can_close_one_client(there: Place) -> None:
    bad, good = there.dial(), there.dial()
    bad.send(b"bad")
    end, frame = there.first()
    frame.release()
    good.send(b"good")
    there.first()
    end.close()
    with pytest.raises(LinkClosed):
        bad.recv()
    good.send(b"more")
    assert there.first()[1].header == b"more"
    assert there.listener.gone() in ([], [end])


def test_a_frame_that_is_too_large_is_refused_before_it_is_sent(there: Place) -> None:
    link = there.dial()
    with pytest.raises(FrameError):
        link.send(b"", [np.zeros(65 << 20, np.uint8)])
    with pytest.raises(FrameError):
        link.reserve(b"", [(np.uint8, (65 << 20,))])
    with pytest.raises(FrameError):
        link.send(bytes(65537))
    with pytest.raises(FrameError):
        link.send(b"", [np.zeros(1)] * 17)
    with pytest.raises(FrameError, match="object"):
        link.send(b"", [np.array([None])])
    link.send(b"fine")
    assert there.first()[1].header == b"fine"


def test_an_address_that_is_taken(there: Place) -> None:
    keys = new_keys()
    secured = {"keys": keys, "allow": {keys.public}} if there.kind == "tcp" else {}
    with pytest.raises(LinkError):
        listen(there.address, **secured)


def test_one_thread_sends_while_another_receives(there: Place) -> None:
    link, count = there.dial(), 200
    with echoing(there.listener):

        def produce() -> None:
            for number in range(count):
                link.send(number.to_bytes(2, "little"))

        thread = threading.Thread(target=produce)
        thread.start()
        for number in range(count):
            assert int.from_bytes(link.recv().header, "little") == number
        thread.join()


def test_who_receives_while_another_thread_closes_is_told_so(there: Place) -> None:
    link = there.dial()
    link.send(b"hello")
    there.first()
    failed: list[BaseException] = []

    def receive() -> None:
        try:
            link.recv(5)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=receive)
    thread.start()
    time.sleep(0.05)
    link.close()
    thread.join(10)
    assert [type(error) for error in failed] == [LinkClosed]


def test_a_frame_beyond_what_is_expected_is_refused(there: Place) -> None:
    """The bound of one `recv`, which may be far below the link's own."""
    link = there.dial()
    link.send(b"hello")
    end, frame = there.first()
    frame.release()
    for size in (100, 700_000):  # the second comes in pieces over shared memory
        end.send(b"small enough", [np.zeros(size, np.uint8)])
        link.recv(5, size + 1000).release()
    end.send(b"too large", [np.zeros(700_000, np.uint8)])
    with pytest.raises(FrameError) as caught:
        link.recv(5, 10_000)
    assert caught.value.too_large


def test_what_is_started_is_sent_as_there_is_room(there: Place) -> None:
    link = there.dial()
    link.send(b"hello")
    end, frame = there.first()
    frame.release()
    whole = [np.full(3 << 20, number, np.uint8) for number in range(6)]
    waiting = [end.start(b"%d" % number, [array]) for number, array in enumerate(whole)]
    got = 0
    for _ in range(2000):
        while waiting and waiting[0]():
            waiting.pop(0)
        try:
            found = link.recv(0.02)
        except LinkTimeout:
            continue
        assert found.header == b"%d" % got
        assert np.array_equal(found.arrays[0], whole[got])
        found.release()
        got += 1
        if got == len(whole):
            break
    assert got == len(whole)
    assert not waiting
