"""Pads: single-use masks R with their products R . W^T, made before they are needed.

A pool keeps pads of every matrix, in blocks of rows, up to a level that its memory allows. A thread makes them: here,
while nothing else is running, or from the products of a second accelerator, which is sent the blocks' seeds. A pad that
is wanted and isn't there is waited for, or made on the spot, or an error.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from operator import add
from typing import Literal, NamedTuple

from cutset.errors import CutsetError, IntegrityError, OffloadError
from cutset.kernels import native
from cutset.offload.client.ledger import Ledger
from cutset.offload.client.pad import Pad, PadPiece
from cutset.offload.client.pad_sources import LocalPads, Made, MultiplySeeds, PadMatrix, PadServer, open_block

__all__ = ["BLOCK_ROWS", "Empty", "PadCounters", "PadPool", "PadPosition"]

Empty = Literal["wait", "inline", "fail"]
BLOCK_ROWS = 64
QUIET = 0.1  # seconds after a request, after which there is idle time to make pads in


@dataclass
class PadCounters:
    """Rows made ahead, used, and made inline; times and seconds that a request waited; CPU seconds of the thread that
    makes pads; the rows that are ready of the matrix that has fewest."""

    made: int = 0
    used: int = 0
    inline: int = 0
    waited: int = 0
    seconds_waited: float = 0.0
    cpu_seconds: float = 0.0
    level: int = 0


class PadPosition(NamedTuple):
    """How far a ledger is: its name, the oldest block of which rows may be left, the blocks that were opened, the rows
    that were used. Pads of calls from now on are of blocks from `oldest` on."""

    ledger: bytes
    oldest: int
    blocks: int
    used: int


class PadPool:
    """Pads of many matrices. `take` and `busy` are for whoever answers requests; any thread may call them."""

    def __init__(
        self,
        ledger: Ledger,
        matrices: Sequence[PadMatrix],
        *,
        multiply: MultiplySeeds | None = None,
        empty: Empty = "wait",
        memory: int = 1 << 30,
        block_rows: int = BLOCK_ROWS,
        most_rows: int | None = None,
        timeout: float = 60.0,
    ) -> None:
        """multiply: a pad server; None makes pads here when idle. memory: bytes of pads that are kept ready; that and
        `most_rows` limit the rows of each matrix. timeout: seconds to wait for a pad.

        OffloadError if the memory isn't enough for a row of every matrix.
        """
        self.ledger, self.matrices, self.empty = ledger, matrices, empty
        self.memory, self.timeout = memory, timeout
        self.row_bytes = sum(4 * (m.depth + m.outputs) for m in matrices)
        fitting = memory // max(self.row_bytes, 1)
        if fitting < 1:
            raise OffloadError(f"a row of pads takes {self.row_bytes} bytes, but only {memory} are allowed; allow more")
        self.target = fitting if most_rows is None else max(0, min(most_rows, fitting))
        self.block_rows = max(1, min(block_rows, self.target))
        self._counters = PadCounters()
        self._pads = 0
        self._made: list[deque[Made]] = [deque() for _ in matrices]
        self._level = [0] * len(matrices)
        self._lent = [0] * len(matrices)  # and not used yet
        self._lent_blocks: list[deque[list[int]]] = [deque() for _ in matrices]  # number and rows, used in this order
        self._making: int | None = None  # blocks from this number on are being made
        self._demand = [0] * len(matrices)  # rows that someone waits for
        self._busy = 0  # requests that run
        self._quiet = 0.0  # when idle time begins, while none runs
        self._closed = False
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._gives_way = multiply is None
        self._source = (
            LocalPads(ledger, matrices, self._give_way) if multiply is None else PadServer(ledger, matrices, multiply)
        )
        self._thread = threading.Thread(target=self._run, name="cutset-pads", daemon=True)
        self._thread.start()

    def __enter__(self) -> PadPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread and drops all pads."""
        if self.ledger.forked:
            return  # the thread, and whoever held the lock, are the parent's
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        for made in self._made:
            made.clear()
        self._level = [0] * len(self.matrices)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """A request is running: meanwhile, and for a moment after it, no pads are made here but those waited for. Steps
        of one request follow each other within that moment, so the thread isn't woken for each."""
        with self._changed:
            if not self._working():
                self._changed.notify_all()  # the thread looks at the time from now on
            self._busy += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._quiet = time.monotonic() + QUIET

    @property
    def broken(self) -> IntegrityError | None:
        """What the pad server gave and can't be right: there are no more pads."""
        return self._failure if isinstance(self._failure, IntegrityError) else None

    def counters(self) -> PadCounters:
        """What was counted so far, as it is now."""
        with self._changed:
            return replace(self._counters, level=min(map(add, self._level, self._lent), default=0))

    def position(self) -> PadPosition:
        """How far the ledger is now."""
        with self._changed:
            blocks = self.ledger.blocks
            ready = [made[0].block.number for made in self._made if made]
            lent = [spans[0][0] for spans in self._lent_blocks if spans]
            oldest = min([blocks if self._making is None else self._making, *ready, *lent])
            return PadPosition(self.ledger.name, oldest, blocks, self._counters.used)

    def take(self, matrix: int, rows: int, pool: native.Pool | None = None) -> Pad:
        """A pad of `rows` rows that were never given out before. `pool`: threads for making it inline.

        OffloadError where there is none by the policy, in time, or after a fork, or if the pad server is gone;
        IntegrityError if that gave what can't be right.
        """
        self.ledger.check_process()
        if rows < 1:
            raise ValueError("a pad has at least one row")
        with self._changed:
            self._check()
            if self.empty == "fail" and self._level[matrix] < rows:
                ready = f"{self._level[matrix]} rows of pads are ready, {rows} are needed"
                raise OffloadError(f"{ready}; let more be made before, or let an empty pool wait")
            if self.empty == "wait" and self._level[matrix] < rows:
                self._counters.waited += 1
                start = time.monotonic()
                self._wait({matrix: rows}, self.timeout)
                self._counters.seconds_waited += time.monotonic() - start
            pieces = self._pull(matrix, min(rows, self._level[matrix]))
            missing = rows - sum(piece.span.rows for piece in pieces)
            self._counters.used += rows
            self._counters.inline += missing
            self._pads += 1
            number = self._pads
            self._changed.notify_all()
        if missing:
            block, r = open_block(self.ledger, missing, self.matrices[matrix].depth)
            pieces.append(Made(matrix, block, r, self.matrices[matrix].residues(r, pool)).take(missing))
        return Pad(pieces, number)

    def lend(self, matrix: int) -> PadPiece | None:
        """All that is ready of the oldest block of a matrix; None where nothing is ready. Its rows count as handed out:
        who has them uses each once, from the first on, and calls `spend`.
        """
        self.ledger.check_process()
        with self._changed:
            self._check()
            if not self._made[matrix]:
                return None
            made = self._made[matrix].popleft()
            rows = made.block.left
            self._level[matrix] -= rows
            self._lent[matrix] += rows
            self._lent_blocks[matrix].append([made.block.number, rows])
            return made.take(rows)

    def spend(self, rows: dict[int, int]) -> None:
        """So many lent rows of these matrices were used."""
        with self._changed:
            for matrix, spent in rows.items():
                self._lent[matrix] -= spent
                self._use_up(self._lent_blocks[matrix], spent)
                self._counters.used += spent
            if not (self._gives_way and self._working()):  # there is room for more, and someone may make them now
                self._changed.notify_all()

    def fill(self, rows: int, timeout: float | None = None) -> None:
        """Returns when `rows` rows of every matrix are ready. OffloadError if they don't fit, or not in time."""
        self.ledger.check_process()
        if rows * self.row_bytes > self.memory:
            size = f"{rows} rows of pads take {rows * self.row_bytes} bytes"
            raise OffloadError(f"{size}, but only {self.memory} are allowed; allow more")
        with self._changed:
            wanted = {matrix: rows - lent for matrix, lent in enumerate(self._lent)}
            self._wait(wanted, timeout or self.timeout)

    # From here on whoever calls holds the lock.

    @staticmethod
    def _use_up(spans: deque[list[int]], rows: int) -> None:
        """So many rows of what was lent were used, from the first on."""
        while rows:
            part = min(rows, spans[0][1])
            spans[0][1] -= part
            rows -= part
            if not spans[0][1]:
                spans.popleft()

    def _check(self) -> None:
        if self._closed:
            raise OffloadError("the pads were closed")
        if self._failure is None:
            return
        if isinstance(self._failure, IntegrityError):
            raise self._failure
        if isinstance(self._failure, CutsetError):
            raise OffloadError(f"no more pads: {self._failure}") from self._failure
        raise RuntimeError("the thread that makes pads failed") from self._failure

    def _wait(self, rows: dict[int, int], timeout: float) -> None:
        """Until there are so many rows of these matrices."""
        end = time.monotonic() + timeout
        try:
            while any(self._level[matrix] < wanted for matrix, wanted in rows.items()):
                self._check()
                for matrix, wanted in rows.items():
                    self._demand[matrix] = max(self._demand[matrix], wanted)
                self._changed.notify_all()
                left = end - time.monotonic()
                if left <= 0:
                    raise OffloadError(f"pads weren't ready in {timeout:g} s; allow more time, or make them inline")
                self._changed.wait(left)
        finally:
            for matrix in rows:
                self._demand[matrix] = 0

    def _pull(self, matrix: int, rows: int) -> list[PadPiece]:
        """Rows that are ready, from the oldest block on."""
        pieces, made = list[PadPiece](), self._made[matrix]
        self._level[matrix] -= rows
        while rows:
            pieces.append(made[0].take(min(rows, made[0].block.left)))
            rows -= pieces[-1].span.rows
            if not made[0].block.left:
                made.popleft()
        return pieces

    def _wanted(self) -> list[tuple[int, int]]:
        """Matrices and rows to make next: what someone waits for, or else what is lowest. A pad server is asked for
        whole blocks alone: a remainder would reveal how many rows a request has."""
        asked = [(m, rows - self._level[m]) for m, rows in enumerate(self._demand) if rows > self._level[m]]
        if asked:
            return [(m, min(rows, self.block_rows) if self._gives_way else self.block_rows) for m, rows in asked]
        if self._gives_way and self._working():
            return []
        levels = enumerate(map(add, self._level, self._lent))
        room = [(level, m) for m, level in levels if level + self.block_rows <= self.target]
        return [(m, self.block_rows) for _, m in sorted(room)]

    def _working(self) -> bool:
        """A request runs, or ran a moment ago."""
        return self._busy > 0 or time.monotonic() < self._quiet

    def _until(self, ready: Callable[[], object]) -> bool:
        """Waits for that. False if the pool was closed."""
        while not (self._closed or ready()):
            self._changed.wait(QUIET if self._working() else None)
        return not self._closed

    # From here on it is the thread that calls, without the lock.

    def _give_way(self) -> bool:
        """Waits while a request runs, unless someone waits for pads. False if the pool was closed."""
        with self._changed:
            return self._until(lambda: not self._working() or any(self._demand))

    def _run(self) -> None:
        with suppress(OSError, AttributeError):  # Linux gives each thread a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        try:
            while True:
                with self._changed:
                    if not self._until(self._wanted):
                        return
                    wanted = self._wanted()
                    self._making = self.ledger.blocks
                made = self._source.make(wanted)
                with self._changed:
                    self._making = None
                    for pads in made:
                        self._made[pads.matrix].append(pads)
                        self._level[pads.matrix] += pads.block.rows
                        self._counters.made += pads.block.rows
                    self._counters.cpu_seconds = time.thread_time()
                    self._changed.notify_all()
        except Exception as failure:
            with self._changed:
                self._failure = failure
                self._changed.notify_all()
