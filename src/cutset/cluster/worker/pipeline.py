"""A worker's threads: decode, compute, encode. Each picture passes them in order, beside its neighbours."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutset.cluster.codecs import Gap, to_array
from cutset.cluster.emulation import Speed
from cutset.cluster.messages import EdgeReport, Failed, HopReport, Lost, Message, Report, Work
from cutset.cluster.trace.spans import Kind, Span
from cutset.cluster.wire import Outbox, piece_bytes, pieces
from cutset.cluster.worker.plan_run import PlanRun
from cutset.codec import KeyRequest
from cutset.errors import CutsetError, printable

__all__ = ["Job", "Pipeline"]

WAITING = 2  # pictures between two threads


@dataclass
class Job:
    """A picture on its way through this worker."""

    run: PlanRun
    work: Work
    arrays: Sequence[NDArray[np.uint8]]
    hop: HopReport
    ask: Callable[[KeyRequest], None]  # the sender, for a key
    to: Outbox
    spans: list[Span] = field(default_factory=list)
    values: dict[str, Tensor] = field(default_factory=dict)
    received: list[EdgeReport] = field(default_factory=list)
    layer_seconds: list[float] | None = None
    came: float = field(default_factory=time.monotonic)

    def note(self, kind: Kind, start: float, end: float, nbytes: int = 0) -> None:
        self.spans.append(Span(kind, self.work.source, self.work.picture, start, end, nbytes))


class Pipeline:
    """Takes pictures in any number that the session admits; `say` sends a message to the coordinator."""

    def __init__(self, name: str, threads: int, say: Callable[[Message], None], speed: float = 1.0) -> None:
        self._name, self._threads, self._say, self._speed = name, threads, say, speed
        self._come: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._decoded: queue.Queue[Job | None] = queue.Queue(WAITING)
        self._computed: queue.Queue[Job | None] = queue.Queue(WAITING)
        self.waiting = 0  # pictures that came and haven't left; counted for the session, which bounds it
        self._lock = threading.Lock()
        self.open = True
        steps = ((self._decode, "decode"), (self._compute, "compute"), (self._encode, "encode"))
        self.threads = [
            threading.Thread(target=work, name=f"cutset-{label}-{name}", daemon=True) for work, label in steps
        ]
        for thread in self.threads:
            thread.start()

    def put(self, job: Job) -> None:
        """Queues a picture. Never waits."""
        with self._lock:
            self.waiting += 1
        self._come.put(job)

    def close(self) -> None:
        """Ends the threads as soon as each is done with what it does; pictures that wait are dropped."""
        self.open = False
        self._come.put(None)

    def _decode(self) -> None:
        speed = Speed(self._speed)
        while (job := self._come.get()) is not None and self.open:
            self._guarded(job, self._decode_one, self._decoded, speed)
        self._pass(self._decoded, None)

    def _compute(self) -> None:
        torch.set_num_threads(self._threads)  # OpenMP keeps this by thread
        speed = Speed(self._speed)
        while (job := self._decoded.get()) is not None and self.open:
            self._guarded(job, self._compute_one, self._computed, speed)
        self._pass(self._computed, None)

    def _encode(self) -> None:
        speed = Speed(self._speed)
        while (job := self._computed.get()) is not None and self.open:
            self._guarded(job, self._encode_one, None, speed)

    def _pass(self, to: queue.Queue[Job | None], job: Job | None) -> None:
        while True:
            try:
                to.put(job, timeout=0.2)
                return
            except queue.Full:
                if not self.open:
                    return

    def _guarded(
        self, job: Job, work: Callable[[Job, Speed], bool], to: queue.Queue[Job | None] | None, speed: Speed
    ) -> None:
        """Runs one step; what goes wrong is told to the coordinator, and the thread goes on."""
        ok = False
        try:
            ok = work(job, speed)
        except CutsetError as error:
            self._say(Failed(job.run.number, self._name, printable(str(error))[:500]))
        except MemoryError:
            self._say(Failed(job.run.number, self._name, "there is not enough memory for a picture"))
        except Exception as error:  # torch's own errors; a bug of ours ends the plan here, not the worker
            traceback.print_exc()
            lines = str(error).splitlines() or [type(error).__name__]
            self._say(Failed(job.run.number, self._name, f"{type(error).__name__}: {printable(lines[0])[:300]}"))
        if ok and to is not None:
            self._pass(to, job)
        else:
            with self._lock:
                self.waiting -= 1

    def _decode_one(self, job: Job, speed: Speed) -> bool:
        start = time.monotonic()
        job.note("receive", job.hop.first, job.hop.last, job.hop.nbytes)
        job.note("wait", job.came, start)
        work = job.work
        try:
            with speed.work():
                job.values, job.received = job.run.decode(work, job.arrays)
        except Gap as gap:
            for wanted in gap.requests:
                job.ask(wanted)
            if not gap.stale:
                self._say(Lost(work.plan, work.source, work.picture, work.ticket, str(gap)))
            return False
        job.arrays = ()
        job.note("decode", start, time.monotonic())
        return True

    def _compute_one(self, job: Job, speed: Speed) -> bool:
        start = time.monotonic()
        with speed.work(job.run.number):  # layers cost the same whatever the picture
            job.values, job.layer_seconds = job.run.compute(job.values)
        if job.layer_seconds is not None:
            job.layer_seconds = [speed.seconds(seconds) for seconds in job.layer_seconds]
        job.note("compute", start, time.monotonic())
        return True

    def _encode_one(self, job: Job, speed: Speed) -> bool:
        start, work, run = time.monotonic(), job.work, job.run
        arrays: dict[str, NDArray[Any]] = {name: to_array(tensor) for name, tensor in job.values.items()}
        with speed.work():
            made, parts, edges = run.sender.encode(work.source, work.picture, work.ticket, arrays)
        job.values = {}
        job.note("encode", start, time.monotonic())

        def left(begin: float, end: float) -> None:
            job.note("send", begin, end, sum(made.lengths))
            self._say(
                Report(
                    run.number,
                    run.order.epoch,
                    work.source,
                    work.picture,
                    self._name,
                    job.spans,
                    job.hop,
                    job.received,
                    edges,
                    job.layer_seconds,
                )
            )

        return job.to.data(pieces(made, parts, piece_bytes(run.sender.bandwidth)), done=left)
