"""Work for clients that is no product of their rows: pads, and self-tests. It is done a slice at a time.

A generator yields after each slice, and returns the answer's arrays.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.errors import CutsetError
from cutset.link import Link
from cutset.offload.accelerator.call_queue import CallQueue
from cutset.offload.accelerator.products import Products
from cutset.offload.arithmetic import INTEGERS, RESIDUES, residues

__all__ = ["FAILURES", "Job", "Jobs", "Steps", "is_self_test", "make_pads", "reason_of", "run_self_test"]

Array = NDArray[Any]
Steps = Generator[None, None, list[Array]]
SELF_TEST = "self-test"
FAILURES = (CutsetError, ValueError, MemoryError, RuntimeError)  # torch raises the last where a device has no room


@dataclass(slots=True, eq=False)
class Job:
    """`rows` of pads that are made, 0 for other work."""

    call: int
    arrived: float
    steps: Steps
    rows: int
    seconds: float = 0.0


def make_pads(
    products: Products,
    shapes: Sequence[tuple[int, int]],
    requests: Sequence[tuple[int, int, bytes]],  # matrix, rows, seed
    piece: Callable[[int], int],  # rows of a matrix that are multiplied at once
) -> Steps:
    """R . W^T of the residues of each seed."""
    answers: list[Array] = []
    for matrix, rows, seed in requests:
        outputs, depth = shapes[matrix]
        answer = np.empty((rows, outputs), np.uint32)
        first = 0
        while first < rows:
            n = min(piece(matrix), rows - first)
            x = residues(seed, n * depth, first * depth).reshape(n, depth)
            answer[first : first + n] = products.residues(matrix, x)
            first += n
            yield
        answers.append(answer)
    return answers


def run_self_test(products: Products, weight: Array, x: Array, q: Array) -> Steps:
    """Products with a weight that came along: of residues, and of integers."""
    products.put(SELF_TEST, weight)
    try:
        answers: list[Array] = [products.residues(SELF_TEST, x), products.integers(SELF_TEST, q)]
    finally:
        products.drop(SELF_TEST)
    yield
    return answers


def is_self_test(arrays: tuple[Array, ...], most: int) -> bool:
    """A weight and rows that belong together, each of at most `most` elements, and their products too."""
    if [array.dtype for array in arrays] != [np.dtype(np.int8), RESIDUES, INTEGERS]:
        return False
    if any(array.ndim != 2 or not 0 < array.size <= most for array in arrays):
        return False
    weight, x, q = arrays
    fits = x.shape[0] * weight.shape[0] <= most and x.shape[0] * weight.size <= 64 * most
    return x.shape == q.shape and x.shape[1] == weight.shape[1] and fits


def reason_of(error: BaseException) -> str:
    """One line for the client, which may go to a terminal."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return "".join(c if c.isprintable() else " " for c in line)


@dataclass(slots=True)
class _Queue:
    jobs: deque[Job] = field(default_factory=deque)
    last: tuple[int, float, float] = (-1, 0.0, 0.0)  # the last one: its call, when that came, and when it was done


class Jobs:
    """The jobs of all clients. Whose turn it is follows from the time that each used, as with calls."""

    def __init__(self, calls: CallQueue, max_waiting: int) -> None:
        self._calls, self._max_waiting = calls, max_waiting
        self._queues: dict[Link, _Queue] = {}
        self._turns: deque[Link] = deque()  # clients with jobs; the next one first

    def __len__(self) -> int:
        return len(self._turns)

    def add(self, client: Link, call: int, steps: Steps, rows: int) -> bool:
        """False where this client has too many already. One that was sent again, because it takes long, is here."""
        queue, now = self._queues.setdefault(client, _Queue()), time.monotonic()
        last, came, done = queue.last
        if any(job.call == call for job in queue.jobs) or (call == last and now - done <= done - came):
            return True
        if len(queue.jobs) >= self._max_waiting:
            return False
        queue.jobs.append(Job(call, now, steps, rows))
        if len(queue.jobs) == 1:
            self._turns.append(client)
            self._calls.busy(client, True)
        return True

    def waits(self, client: Link) -> bool:
        """Whether a client has jobs here."""
        return client in self._turns

    def next(self) -> tuple[Link, Job] | None:
        """A job of a client whose turn it is."""
        now = time.monotonic()
        for _ in range(len(self._turns)):
            client = self._turns[0]
            self._turns.rotate(-1)
            if self._calls.may(client, now):
                return client, self._queues[client].jobs[0]
        return None

    @property
    def ready(self) -> bool:
        """Whether there is a job of a client whose turn it is."""
        now = time.monotonic()
        return any(self._calls.may(client, now) for client in self._turns)

    def step(self, client: Link, job: Job) -> tuple[list[Array] | None, str] | None:
        """A slice of a job; once it is over, its answer or why there is none."""
        started = time.perf_counter()
        answers, reason, over = None, "", True
        try:
            next(job.steps)
            over = False
        except StopIteration as done:
            answers = done.value
        except FAILURES as error:
            reason = reason_of(error)
        seconds = time.perf_counter() - started
        job.seconds += seconds
        self._calls.charge(client, seconds)
        if not over:
            return None
        queue = self._queues[client]
        queue.jobs.popleft()
        queue.last = job.call, job.arrived, time.monotonic()
        if not queue.jobs:
            self._turns.remove(client)
            self._calls.busy(client, False)
        return answers, reason

    def leave(self, client: Link) -> None:
        """Forgets a client and what it waited for."""
        if self._queues.pop(client, None) is not None and client in self._turns:
            self._turns.remove(client)
