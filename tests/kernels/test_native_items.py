"""Items that native code takes from a ring, runs and puts into the next one: bits and bytes are as they are by Python,
and every other record is left to Python."""

from __future__ import annotations

import ctypes
import struct
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec import structs

import cutset.link._ring as ring
from cutset.cluster.messages import Work
from cutset.cluster.wire import LIMITS, PIECE, pieces
from cutset.cluster.worker.awaited_item import EARLY, KEPT, MOST_AWAKE, SHARE, SHORT, Arrivals
from cutset.cluster.worker.frame_hop import hidden_of, sent_at
from cutset.cluster.worker.native_item import CLOCK, NativeItem, front_of
from cutset.engine.decoder_stage import BATCH, DecoderStage
from cutset.engine.stage_item import StageItem, StageSetup, encode_item
from cutset.engine.stage_runtime import LinkedStage
from cutset.kernels import native
from cutset.link.frames import encode
from cutset.models.run.executor import Batch
from engine.stages import stage_decoders
from engine.test_stages import FOUR
from models.test_native import tensors_of

CAPACITY, EPOCH, SLOT = 1 << 20, 7, 3
WORK = Work(4, 2, 0, 1 << 40, [], [1, 2, 3], 0.0)


def frame(work: Work, arrays: list[np.ndarray]) -> bytes:
    """As Python sends it."""
    found = []
    for header, parts in pieces(structs.replace(work, lengths=[one.size for one in arrays]), arrays):
        made, _ = encode(header, parts, LIMITS.frame)
        found.append(b"".join(part if isinstance(part, bytes) else part.tobytes() for part in made))
    [one] = found
    return one


@pytest.mark.parametrize("nbytes", [4, 60, 64, 300, 1024, 70_000, PIECE])
@pytest.mark.parametrize("number", [0, 127, 128, 1 << 16, 1 << 40])
def test_the_front_is_what_python_sends(number: int, nbytes: int) -> None:
    work = structs.replace(WORK, number=number)
    data = np.random.default_rng(number).integers(0, 256, nbytes).astype(np.uint8)
    known = front_of(work, nbytes)
    assert known is not None
    front, clock = known
    found = frame(work, [data])
    assert found[: len(front)][:clock] == front[:clock]
    assert found[len(front) :] == data.tobytes()
    assert found[clock + 8 : len(front)] == front[clock + 8 :]
    assert struct.unpack(">d", found[clock : clock + 8])[0] > 0


def test_no_front_where_an_item_has_several_frames_or_a_clock_in_two_places() -> None:
    assert front_of(WORK, PIECE + 4) is None
    twice = structs.replace(WORK, number=int.from_bytes(CLOCK, "big") % 2**62)
    assert front_of(twice, 64) is not None  # numbers of 62 bits don't begin so


class Rings:
    """A poller with one client, and that client's end; one that native code sends on, and its receiver."""

    def __init__(self) -> None:
        self.memory = [_aligned(ring.WORDS + CAPACITY) for _ in range(2)]
        self.control = _aligned(256)
        self.poller = ring.Poller(self.control, 0, 64, 0.0, False)
        view, other = self.memory
        self.receiver = ring.Receiver(view, 0, CAPACITY, EPOCH, self.control, 0, 0.0, False)
        self.sender = ring.Sender(view, 0, CAPACITY, EPOCH, self.control, 0, 0.0, False)
        self.poller.add(SLOT, self.receiver)
        self.out = ring.Sender(other, 0, CAPACITY, EPOCH, other, 128, 0.0, False)
        self.back = ring.Receiver(other, 0, CAPACITY, EPOCH, other, 128, 0.0, False)
        self.hop = native.StepHop(self.poller)

    def run(self, step: Any, linears: Any, front: bytes, clock: int, **how: Any) -> Any:
        how = {"client": SLOT, "receiver": self.receiver, "sleep": 0.0, "awake": 0.0} | how
        return self.hop.run(step, linears, front=front, clock=clock, **how)


def _aligned(size: int) -> memoryview:
    raw = bytearray(size + 64)
    shift = -ctypes.addressof(ctypes.c_char.from_buffer(raw)) % 64
    return memoryview(raw)[shift : shift + size]


class Setting:
    """Three stages, a batch of some sequences, and what the first one gives for it."""

    def __init__(self) -> None:
        self.stages = stage_decoders(FOUR, tensors_of(FOUR), 3)
        self.caches = [one.new_cache(8, 16) for one in self.stages]
        ids = np.random.default_rng(3).integers(0, FOUR.vocab_size, (3, 5)).astype(np.int32)
        self.batch = Batch.whole(ids, 16)
        self.hidden = self.stages[0].forward(self.batch, self.caches[0])
        self.wanted = self.stages[1].forward(self.batch, self.stages[1].new_cache(8, 16), hidden=self.hidden)
        assert np.unique(self.hidden).size > self.hidden.size / 2
        self.nbytes = self.hidden.nbytes

    def ready(self) -> Any:
        step = self.stages[1].ready_step(self.caches[1], self.stages[1].prepare(self.batch))
        assert step is not None
        assert step.hidden_bytes == self.nbytes
        return step

    @property
    def linears(self) -> Any:
        return self.stages[1].linears

    def frame(self, work: Work = WORK, hidden: Any = None) -> bytes:
        data = self.hidden if hidden is None else hidden
        return frame(work, [np.ascontiguousarray(data).reshape(-1).view(np.uint8)])


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting()


@pytest.fixture
def rings() -> Rings:
    return Rings()


def test_a_frame_that_is_expected_is_run_and_sent_on_as_python_does(setting: Setting, rings: Rings) -> None:
    known = front_of(WORK, setting.nbytes)
    assert known is not None
    for turn in range(3):
        step = setting.ready()
        assert rings.sender.send([setting.frame()], 0.0) == 1
        end = rings.run(step, setting.linears, *known)
        assert (end.ran, end.started, end.other, end.reason) == (True, True, False, "")
        assert 0 < end.sent < end.came <= end.ended
        assert rings.hop.since == 0
        sent = native.send_hidden(step, rings.out.end(), *known)
        assert sent >= end.ended
        made = setting.stages[1].close_step(setting.caches[1], step, end, False)
        assert made is not None
        assert made.tobytes() == setting.wanted.tobytes()
        record = rings.back.recv(0.0)
        assert record is not None
        kind, offset, length, _, place = record
        assert kind == ring.WHOLE
        found = bytes(rings.memory[1][offset : offset + length])
        clock = known[1]
        assert struct.unpack(">d", found[clock : clock + 8])[0] == sent
        whole = native.frame_of(step, *known)  # for links that aren't rings
        assert whole[:clock] + whole[clock + 8 :] == found[:clock] + found[clock + 8 :]
        assert struct.unpack(">d", whole[clock : clock + 8])[0] > sent
        theirs = setting.frame(hidden=made)
        assert found[:clock] + found[clock + 8 :] == theirs[:clock] + theirs[clock + 8 :]
        rings.back.release(place)
        assert rings.poller.recv(0.0) is None, turn


def other_frames(setting: Setting) -> dict[str, bytes]:
    short = setting.hidden.reshape(-1)[:-1]
    return {
        "another number": setting.frame(structs.replace(WORK, number=5)),
        "another plan": setting.frame(structs.replace(WORK, plan=5)),
        "another epoch": setting.frame(structs.replace(WORK, epoch=5)),
        "another source": setting.frame(structs.replace(WORK, source=1)),
        "fewer bytes": setting.frame(hidden=short),
        "more bytes": setting.frame(hidden=np.append(setting.hidden.reshape(-1), np.float32(1))),
        "two arrays": frame(WORK, [setting.hidden.reshape(-1).view(np.uint8), np.zeros(4, np.uint8)]),
        "an error on its way": frame(WORK, [np.frombuffer(b"a stage failed   ", np.uint8)]),
        "no frame": b"x" * len(setting.frame()),
        "nothing": b"",
    }


def test_every_other_record_is_left_to_python(setting: Setting, rings: Rings) -> None:
    known = front_of(WORK, setting.nbytes)
    assert known is not None
    step = setting.ready()
    for name, data in other_frames(setting).items():
        assert rings.sender.send([data], 0.0) == 1
        end = rings.run(step, setting.linears, *known)
        assert (end.other, end.started, end.client) == (True, False, SLOT), name
        kind, offset, length, _, place = end.record
        assert (kind, bytes(rings.memory[0][offset : offset + length])) == (ring.WHOLE, data)
        rings.receiver.release(place)
    assert rings.sender.send([setting.frame()], 0.0) == 1
    end = rings.run(step, setting.linears, *known, client=SLOT + 1)
    assert not end.started, "another client's"
    rings.receiver.release(end.record[4])
    assert rings.sender.send([setting.frame()], 0.0, kind=ring.FIRST, total=1 << 20) == 1
    assert not rings.run(step, setting.linears, *known).started, "the beginning of a larger frame"
    rings.sender.close()
    end = rings.run(step, setting.linears, *known, sleep=0.001)
    assert end.record[0] == ring.CLOSED
    assert not rings.run(step, setting.linears, *known, sleep=0.001, awake=0.001).other


def test_a_step_that_can_t_run_is_started_and_says_why(setting: Setting, rings: Rings) -> None:
    known = front_of(WORK, setting.nbytes)
    assert known is not None
    wrong = setting.stages[1].prepare(setting.batch) | {"block_tables": setting.batch.block_tables + 100}
    step = setting.stages[1].ready_step(setting.caches[1], wrong)
    assert rings.sender.send([setting.frame()], 0.0) == 1
    end = rings.run(step, setting.linears, *known)
    assert (end.ran, end.started) == (False, True)
    assert "block" in end.reason
    assert rings.poller.recv(0.0) is None, "its frame is gone"
    assert setting.stages[1].close_step(setting.caches[1], step, end, False) is None
    step = setting.ready()  # the same memory
    assert rings.sender.send([setting.frame()], 0.0) == 1
    assert rings.run(step, setting.linears, *known).ran
    assert rings.sender.send([setting.frame()], 0.0) == 1
    assert "prepared" in rings.run(step, setting.linears, *known).reason, "a step starts once"


def test_what_has_no_room_is_left_to_python(setting: Setting, rings: Rings) -> None:
    known = front_of(WORK, setting.nbytes)
    assert known is not None
    step = setting.ready()
    assert rings.sender.send([setting.frame()], 0.0) == 1
    assert rings.run(step, setting.linears, *known).ran
    sent = 0
    while native.send_hidden(step, rings.out.end(), *known):
        sent += 1
    assert sent == CAPACITY // (len(setting.frame()) // 64 * 64 + 64 + (64 if len(setting.frame()) % 64 else 0))
    rings.back.close()
    assert native.send_hidden(step, rings.out.end(), *known) == 0
    for front, clock in ((known[0], len(known[0]) - 7), (known[0][:-1], 8)):
        with pytest.raises(ValueError, match="outside of the front"):
            native.send_hidden(step, rings.out.end(), front, clock)


def test_native_code_sends_on_what_a_step_makes_as_python_does(setting: Setting, rings: Rings) -> None:
    """Byte for byte, from a ring or from tokens, and not while another thread sends."""
    known = front_of(WORK, setting.nbytes)
    assert known is not None
    front, clock = known
    step, to = setting.ready(), rings.out.end()
    assert rings.sender.send([setting.frame()], 0.0) == 1
    end = rings.run(step, setting.linears, front, clock, to=to)
    assert end.ran
    assert end.came <= end.ended <= end.sent_on
    wanted = setting.frame(hidden=setting.wanted)
    for sent_on in (end.sent_on, 0.0):
        record = rings.back.recv(0.0)
        if not sent_on:
            assert record is None, "once"
            break
        assert record is not None
        found = bytes(rings.memory[1][record[1] : record[1] + record[2]])
        assert (record[0], record[3]) == (ring.WHOLE, len(wanted))
        assert found[:clock] + found[clock + 8 :] == wanted[:clock] + wanted[clock + 8 :]
        assert struct.unpack(">d", found[clock : clock + 8])[0] == sent_on
        rings.back.release(record[4])
    first = setting.stages[0]
    tokens = first.ready_step(setting.caches[0], first.prepare(setting.batch))
    end = native.run_step(tokens, first.linears, to=to, front=front, clock=clock)
    assert end.sent_on >= end.ended > 0
    record, wanted = rings.back.recv(0.0), setting.frame()
    assert record is not None
    found = bytes(rings.memory[1][record[1] : record[1] + record[2]])
    assert found[:clock] + found[clock + 8 :] == wanted[:clock] + wanted[clock + 8 :]
    hidden = np.ascontiguousarray(setting.hidden).reshape(-1).view(np.uint8)
    with pytest.raises(ValueError, match="has a front"):
        native.run_step(setting.ready(), setting.linears, hidden, to=to)
    failed = native.run_step(setting.ready(), setting.linears, to=to, front=front, clock=clock)
    assert (failed.ran, failed.sent_on) == (False, 0.0)
    rings.back.close()
    gone = native.run_step(setting.ready(), setting.linears, hidden, to=to, front=front, clock=clock)
    assert (gone.ran, gone.sent_on) == (True, 0.0), "Python finds that the other side has gone"


def test_bytes_of_a_link_are_those_of_an_item_or_python_s(setting: Setting) -> None:
    known = front_of(WORK, setting.nbytes)
    stage: Any = SimpleNamespace(linears=setting.linears)
    item = NativeItem(stage, WORK, {}, setting.ready())
    assert item.front == known
    made = setting.frame(structs.replace(WORK, sent=1.5))
    sent = sent_at(item, memoryview(made))
    assert sent is not None
    assert sent > 0
    for shift in (0, 1, 4):  # wherever ZeroMQ puts it
        data = memoryview(bytes(shift) + made)[shift:]
        item = NativeItem(stage, WORK, {}, setting.ready())
        item.run(hidden_of(item, data))
        assert item.end is not None
        assert item.end.ran
        made_of_it = setting.stages[1].close_step(setting.caches[1], item.step, item.end, False)
        assert made_of_it is not None
        assert made_of_it.tobytes() == setting.wanted.tobytes()
    for name, data in other_frames(setting).items():
        assert sent_at(item, memoryview(data)) is None, name


def test_the_first_stage_runs_a_step_of_tokens(setting: Setting) -> None:
    first = setting.stages[0]
    step = first.ready_step(setting.caches[0], first.prepare(setting.batch))
    assert step is not None
    end = native.run_step(step, first.linears)
    assert end.ran
    made = first.close_step(setting.caches[0], step, end, False)
    assert made is not None
    assert made.tobytes() == setting.hidden.tobytes()
    second = setting.ready()
    assert "the others what the one before gave" in native.run_step(second, setting.linears).reason


def test_a_stage_goes_on_with_what_native_code_made_or_why_it_failed(setting: Setting) -> None:
    """As `run` does, whatever became of the items before."""
    stage = LinkedStage(DecoderStage(setting.stages[1], StageSetup(8, 16)), (BATCH, "hidden 1"), ("hidden 2",))
    rows = replace(setting.batch, logit_rows=np.empty(0, np.int32), states=None)
    items = [np.frombuffer(encode_item(StageItem(number, rows, [], [])), np.uint8) for number in range(4)]
    hidden = np.ascontiguousarray(setting.hidden).reshape(-1).view(np.uint8)
    for data in items:
        stage.expect(0, {BATCH: data})
    assert stage.ready_step({BATCH: items[0].copy()}) is None, "nobody expects that"
    step = stage.ready_step({BATCH: items[0]})
    assert step is not None
    assert stage.close_step({BATCH: items[0]}, step, None) == {}, "it wasn't started"
    made = stage.run(0, {BATCH: items[0], "hidden 1": hidden})
    assert made["hidden 2"].tobytes() == setting.wanted.tobytes()
    step = stage.ready_step({BATCH: items[2]})  # one that nobody has run is forgotten
    assert step is not None
    failed = native.run_step(step, stage.linears)
    told = stage.close_step({BATCH: items[2]}, step, failed)["hidden 2"].tobytes()
    assert told.startswith(b"a stage failed: the first stage takes tokens")
    assert len(told) % 4 == 1
    step = stage.ready_step({BATCH: items[3]})
    assert step is not None
    end = native.run_step(step, stage.linears, hidden)
    assert stage.close_step({BATCH: items[3]}, step, end)["hidden 2"].tobytes() == setting.wanted.tobytes()
    with pytest.raises(ValueError, match="hidden states of all rows"):
        native.run_step(step, stage.linears, hidden[:-4])


def test_a_wait_stays_awake_around_when_something_is_due_and_no_longer() -> None:
    arrivals = Arrivals()
    assert arrivals.window(64, 0.0, 0.1) == (0.1, 0.0, 0.0), "nothing is known yet"
    for took in (0.0102, *[0.01] * (KEPT - 2), 0.0101):
        arrivals.observe(64, took)
    sleep, awake, late = arrivals.window(64, 0.0, 0.1)
    assert sleep == pytest.approx(0.01 - EARLY)
    assert sleep + awake == pytest.approx(0.0102 + EARLY)
    assert sleep + awake + late == pytest.approx(0.1)
    assert arrivals.window(128, 0.0, 0.1).awake == 0.0, "of other sizes nothing is known"
    later = arrivals.window(64, 0.005, 0.1)
    assert later[:2] == pytest.approx((sleep - 0.005, awake))
    begun = arrivals.window(64, sleep + awake / 2, 0.1)
    assert begun[:2] == pytest.approx((0.0, awake / 2))
    assert arrivals.window(64, 0.02, 0.1) == (0.1, 0.0, 0.0), "it is late: that costs no core"
    assert arrivals.window(64, 0.0, 0.005) == (0.005, 0.0, 0.0), "not yet"
    arrivals.observe(64, 5.0)
    assert arrivals.window(64, 0.0, 0.1).awake == pytest.approx(SHARE * 0.01), "one that was late"
    for took in [0.2] * (KEPT - 1) + [1.0]:
        arrivals.observe(64, took)
    assert arrivals.window(64, 0.199, 0.1)[:2] == pytest.approx((0.2 - EARLY - 0.199, MOST_AWAKE))
    for took in [1e-4] * (KEPT - 1) + [1.0]:
        arrivals.observe(32, took)
    assert arrivals.window(32, 0.0, 0.1)[:2] == pytest.approx((0.0, SHORT)), "to sleep would take longer"


def test_who_sends_waits_for_native_code_that_sends() -> None:
    """However long its core was taken from that: here another thread has the end while it waits for room."""
    rings, said = Rings(), list[Exception]()
    while rings.out.send([bytes(CAPACITY // 8)], 0.0) == 1:
        pass
    begun, done = threading.Event(), threading.Event()

    def wait_for_room() -> None:
        try:
            for _ in range(3):
                begun.set()
                rings.out.send([bytes(CAPACITY // 8)], 10.0)
        except RuntimeError as error:
            said.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=wait_for_room)
    thread.start()
    begun.wait()
    while not done.is_set():
        assert rings.out.claim(CAPACITY // 8, 0.0) == 0
    thread.join()
    assert said == []
