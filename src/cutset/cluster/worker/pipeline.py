"""A worker's threads: decode, compute, encode. Each item passes them in order, beside its neighbours.

Items with nothing to decode or encode need no threads: whoever receives them runs them (`claim`), while another thread
receives.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from cutset.cluster.codecs import Gap
from cutset.cluster.emulation import Speed
from cutset.cluster.messages import EdgeReport, Failed, Lost, Message, Report, Work
from cutset.cluster.stage import Runtime
from cutset.cluster.values import Array
from cutset.cluster.wire import ArrivedItem, Outbox, piece_bytes, pieces
from cutset.cluster.worker.native_item import NativeItem, ready_item
from cutset.cluster.worker.plan_run import PlanRun
from cutset.codec import KeyRequest
from cutset.codec.changed import Changed
from cutset.errors import CutsetError, first_line, printable

__all__ = ["Pipeline", "PipelineItem", "RanItem"]

WAITING = 2  # items between two threads


@dataclass
class PipelineItem:
    """An item on its way through this worker: what came, its values as they are now, and the report of both."""

    run: PlanRun
    arrival: ArrivedItem
    report: Report
    ask: Callable[[KeyRequest], None]  # asks the sender for a key
    to: Outbox
    values: dict[str, Array] = field(default_factory=dict)
    changed: dict[str, Changed] = field(default_factory=dict)  # of its values, where the stage wants to know
    came: float = field(default_factory=time.monotonic)


class RanItem(NamedTuple):
    """An item that native code has run."""

    run: PlanRun
    arrival: ArrivedItem
    item: NativeItem


class Pipeline:
    """Takes items in any number that the session admits; `say` sends a message to the coordinator."""

    def __init__(self, name: str, runtime: Runtime, say: Callable[[Message], None], speed: float = 1.0) -> None:
        self._name, self._runtime, self._say, self._speed = name, runtime, say, speed
        self._come: queue.SimpleQueue[PipelineItem | None] = queue.SimpleQueue()
        self._decoded: queue.Queue[PipelineItem | None] = queue.Queue(WAITING)
        self._computed: queue.Queue[PipelineItem | None] = queue.Queue(WAITING)
        self._plain: deque[PipelineItem] = deque()  # those that `claim` runs
        self._claimed = False
        self._plain_speed = Speed(speed)
        self._ready: NativeItem | None = None  # the one that is next, whose other value will come
        # What was done for items without codecs, of which there may be thousands a second: the session says it later.
        self.reports: deque[Report] = deque()
        self.waiting = 0  # items that came and haven't left; counted for the session, which bounds it
        self._lock = threading.Lock()
        self.open = True
        steps = ((self._decode, "decode"), (self._compute, "compute"), (self._encode, "encode"))
        self.threads = [
            threading.Thread(target=work, name=f"cutset-{label}-{name}", daemon=True) for work, label in steps
        ]
        for thread in self.threads:
            thread.start()

    def put(self, run: PlanRun, arrival: ArrivedItem, ask: Callable[[KeyRequest], None], to: Outbox) -> None:
        """Queues an item. Never waits."""
        item = PipelineItem(run, arrival, self._report(run, arrival), ask, to)
        with self._lock:
            self.waiting += 1
            if run.plain:
                self._plain.append(item)
        if not run.plain:
            self._come.put(item)

    def claim(self) -> Callable[[], None] | None:
        """What runs the items without codecs that wait, one after another; None where there are none, or it runs."""
        with self._lock:
            if self._claimed or not self._plain:
                return None
            self._claimed = True
        return self._run_plain

    def hold(self) -> bool:
        """Keeps items without codecs from being run until `let_go`, unless one is run, or waits: then False. Whoever
        holds them may run one, and have it sent on (`ran`)."""
        with self._lock:
            if self._claimed or self._plain:
                return False
            self._claimed = True
        return True

    def let_go(self) -> None:
        """They may be run again."""
        with self._lock:
            self._claimed = False

    def ran(self, found: RanItem, to: Outbox) -> None:
        """Sends on what was made of an item."""
        run, arrival = found.run, found.arrival
        item = PipelineItem(run, arrival, self._report(run, arrival), lambda request: None, to)
        with self._lock:
            self.waiting += 1

        def finish(item: PipelineItem, speed: Speed) -> bool:
            return self._finish(item, found.item, speed)

        self._guarded(item, finish, None, self._plain_speed)

    def _report(self, run: PlanRun, arrival: ArrivedItem) -> Report:
        work = arrival.work
        return Report(run.number, run.order.epoch, work.source, work.number, self._name, hop=arrival.hop)

    def _run_plain(self) -> None:
        while True:
            with self._lock:
                if not self._plain or not self.open:
                    self._claimed = False
                    return
                item = self._plain.popleft()
            self._guarded(item, self._whole, None, self._plain_speed)

    def close(self) -> None:
        """Ends the threads as soon as each is done with what it does; items that wait are dropped."""
        self.open = False
        self._plain.clear()  # with what they keep: stages
        self._ready = None
        self._come.put(None)

    def _decode(self) -> None:
        self._runtime.begin_thread()
        speed = Speed(self._speed)
        while (item := self._come.get()) is not None and self.open:
            self._guarded(item, self._decode_one, self._decoded, speed)
        self._pass(self._decoded, None)

    def _compute(self) -> None:
        self._runtime.begin_thread()
        speed = Speed(self._speed)
        while (item := self._decoded.get()) is not None and self.open:
            self._guarded(item, self._compute_one, self._computed, speed)
        self._pass(self._computed, None)

    def _encode(self) -> None:
        speed = Speed(self._speed)
        while (item := self._computed.get()) is not None and self.open:
            self._guarded(item, self._encode_one, None, speed)

    def _pass(self, to: queue.Queue[PipelineItem | None], item: PipelineItem | None) -> None:
        while True:
            try:
                to.put(item, timeout=0.2)
                return
            except queue.Full:
                if not self.open:
                    return

    def _guarded(
        self,
        item: PipelineItem,
        work: Callable[[PipelineItem, Speed], bool],
        to: queue.Queue[PipelineItem | None] | None,
        speed: Speed,
    ) -> None:
        """Runs one step; what goes wrong is reported to the coordinator, and the thread goes on."""
        ok = False
        try:
            ok = work(item, speed)
        except CutsetError as error:
            self._say(Failed(item.run.number, self._name, printable(str(error))[:500]))
        except MemoryError:
            self._say(Failed(item.run.number, self._name, "there is not enough memory for an item"))
        except Exception as error:  # the runtime's own errors; a bug of ours ends the plan here, not the worker
            traceback.print_exc()
            self._say(Failed(item.run.number, self._name, f"{type(error).__name__}: {first_line(error, 300)}"))
        if ok and to is not None:
            self._pass(to, item)
        else:
            with self._lock:
                self.waiting -= 1

    def _whole(self, item: PipelineItem, speed: Speed) -> bool:
        if not self._decode_one(item, speed):
            return False
        if item.run.native is not None and speed.factor == 1 and (native := self._native(item)) is not None:
            if not item.run.last:
                native.aim(item.to)
            native.run(None if item.run.first else item.values[item.run.takes[0]])
            return self._finish(item, native, speed)
        return self._compute_one(item, speed) and self._encode_one(item, speed)

    def prepare(self, run: PlanRun, work: Work, values: dict[str, Array]) -> None:
        """Gets ready for an item whose other value will come, unless another one is run, or waits."""
        if run.native is None or not self.open or not self.hold():
            return
        try:
            self._drop_ready()
            self._ready = ready_item(run.native, work, values)
        finally:
            self.let_go()

    def forget(self, before: int) -> None:
        """Plans with lower numbers are over."""
        ready = self._ready
        if ready is not None and ready.work.plan < before:
            self._ready = None

    def _drop_ready(self) -> None:
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.close()

    def _native(self, item: PipelineItem) -> NativeItem | None:
        """The step of an item, ready to run; None where that must be done in Python."""
        stage, work, ready = item.run.native, item.arrival.work, self._ready
        if stage is None:
            return None
        if ready is not None and ready.stage is stage and ready.is_of(work):
            self._ready = None
        else:
            self._drop_ready()
            if item.run.first:
                stage.expect(work.source, item.values)
            ready = ready_item(stage, work, item.values)
        if ready is not None and not item.run.first and item.values[item.run.takes[0]].size != ready.nbytes:
            ready.close()  # an error on its way, or a mistake
            return None
        return ready

    def _finish(self, item: PipelineItem, native: NativeItem, speed: Speed) -> bool:
        """Sends on what native code made of an item, unless it did."""
        sent = native.sent
        report, hop, end = item.report, item.arrival.hop, native.end
        if not report.spans:
            report.note("receive", hop.first, hop.last, hop.nbytes)
        if end is not None:
            report.note("compute", end.came, end.ended)
        item.values = native.close()
        if not sent:
            return self._encode_one(item, speed)
        report.edges = [EdgeReport(name, "key", native.nbytes, 1.0, native.nbytes, 0.0, 0.0) for name in item.run.gives]
        report.note("send", sent, time.monotonic(), native.nbytes)
        self.reports.append(report)
        return True

    def _decode_one(self, item: PipelineItem, speed: Speed) -> bool:
        start, report, hop = time.monotonic(), item.report, item.arrival.hop
        report.note("receive", hop.first, hop.last, hop.nbytes)
        report.note("wait", item.came, start)
        try:
            with speed.work():
                item.values, report.received = item.run.decode(item.arrival)
        except Gap as gap:
            for wanted in gap.requests:
                item.ask(wanted)
            if not gap.stale:
                self._say(Lost(report.plan, report.source, report.number, str(gap)))
            return False
        item.changed = item.run.receiver.changed(report.source)
        item.arrival.free()
        report.note("decode", start, time.monotonic())
        return True

    def _compute_one(self, item: PipelineItem, speed: Speed) -> bool:
        start, report = time.monotonic(), item.report
        # Layers cost the same whatever the item, unless what changed alone is computed.
        with speed.work(item.run.number if item.run.incremental is None else None):
            item.values, seconds = item.run.compute(report.source, item.values, item.changed)
        if item.run.incremental is not None:
            report.shares = item.run.incremental.shares
        if seconds is not None:
            report.layer_seconds = [speed.seconds(one) for one in seconds]
        report.note("compute", start, time.monotonic())
        return True

    def _encode_one(self, item: PipelineItem, speed: Speed) -> bool:
        start, report, run = time.monotonic(), item.report, item.run
        with speed.work():
            made, parts, report.edges = run.sender.encode(report.source, report.number, item.values)
        item.values = {}
        report.note("encode", start, time.monotonic())

        def left(begin: float, end: float) -> None:
            report.note("send", begin, end, sum(made.lengths))
            if run.plain:
                self.reports.append(report)
            else:
                self._say(report)

        return item.to.data(pieces(made, parts, piece_bytes(run.sender.bandwidth)), done=left, direct=run.plain)
