"""The accelerator's loop in Python, for every link and every device. `ring_accelerator.py` is its fast twin."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from cutset.config import usable_cores
from cutset.link import Listener
from cutset.offload.accelerator.accelerator import DEFAULT_QUOTA, Accelerator, Quota
from cutset.offload.accelerator.batcher import LEAST_ROWS, Batcher, Call
from cutset.offload.accelerator.jobs import reason_of
from cutset.offload.accelerator.products import Products
from cutset.offload.messages import Company, Product

__all__ = ["WARM_BYTES", "WARM_STEP", "PythonAccelerator"]

WARM_BYTES = 1 << 20  # half of a common second-level cache
WARM_STEP = 1 << 16  # a few microseconds, which a call that comes meanwhile waits


class PythonAccelerator(Accelerator):
    """An Accelerator whose turns are Python; products are those of `products`."""

    def __init__(
        self,
        listener: Listener,
        products: Products,
        shapes: Sequence[tuple[int, int]],
        digest: str,
        *,
        threads: int,
        quota: Quota = DEFAULT_QUOTA,
        makes_pads: bool = True,
        costs: Sequence[int] = (),  # of a row of each matrix, in multiplications; none: that of a full one
    ) -> None:
        costs = costs or [outputs * depth for outputs, depth in shapes]
        rows, waiting = quota.max_rows, quota.max_waiting
        self._batcher = Batcher(
            matrices=len(shapes), window=quota.window, max_rows=rows, max_waiting=waiting, costs=costs
        )
        self._next, self._warmed = 0, WARM_BYTES  # what is wanted next, and how much of it was read ahead
        super().__init__(
            listener,
            products,
            shapes,
            digest,
            threads=threads,
            quota=quota,
            makes_pads=makes_pads,
            calls=self._batcher,
        )

    def turn(self, timeout: float) -> None:
        """Takes what has come, waits up to `timeout` seconds if nothing has, multiplies at most once."""
        for link in self.listener.gone():
            self._forget(link)
        self._flush()
        now = time.monotonic()
        wait = self._batcher.wait(now)
        longest = min(timeout if wait is None else min(wait, timeout), self._idle())
        took = self._warm() if longest > 0 else False
        took = took or self._take(max(0.0, now + longest - time.monotonic()))
        # Whatever else is there; a few of each client, since some may never stop asking.
        end = time.monotonic() + self.quota.window
        for _ in range(2 * len(self._clients) + 8):
            if not took or self._batcher.complete or time.monotonic() >= end:
                break
            took = self._take(0.0)
        now = time.monotonic()
        if self._batcher.wait(now) == 0.0:
            self._multiply(self._batcher.take(now))
        self._work()

    def _warm(self) -> bool:
        """While a message is waited for: reads what is multiplied next, as far as caches keep it. True once one came.

        A client that decodes needs a while between two products, and the product itself is bound by reading weights.
        That while is its own where others want something too (`Batcher.wait`), so it gets as much of this as alone.
        """
        while self._warmed < WARM_BYTES:
            if self._take(0.0):
                return True
            end = self.products.warm(self._next, self._warmed, WARM_STEP)
            if end <= self._warmed:
                break
            self._warmed = end
        self._warmed = WARM_BYTES
        return False

    def _take(self, timeout: float) -> bool:
        """One message, if one is there."""
        got = self.listener.recv(timeout)
        if got is None:
            return False
        self._handle(*got)
        return True

    def _multiply(self, batch: list[Call]) -> None:
        """One product for all calls of a batch, and an answer for each that is finished by it."""
        if not batch:
            return
        started = time.perf_counter()
        matrix, masked = batch[0].key
        multiply = self.products.residues if masked else self.products.integers
        pieces = [call.x[call.first : call.taken] for call in batch]
        rows = sum(map(len, pieces))
        try:
            for call in batch:
                if call.z is None and call.count < len(call.x):
                    call.z = np.empty((len(call.x), self.shapes[matrix][0]), np.uint32 if masked else np.int32)
            z = multiply(matrix, pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
        except (ValueError, MemoryError, RuntimeError) as error:
            if len(batch) > 1:  # somebody's numbers are wrong: each alone, so that the others don't suffer
                for call in batch:
                    self._multiply([call])
                return
            self._batcher.drop(batch[0].client, batch[0].number)
            self._batcher.answered(batch[0].client, time.monotonic())
            self._refuse(batch[0].client, batch[0].number, reason_of(error))
            return
        self._next, self._warmed = (matrix + 1) % len(self.shapes), 0
        seconds, first = time.perf_counter() - started, 0
        if rows >= LEAST_ROWS and seconds > 0:
            self._batcher.speed += (rows * self._batcher.cost(matrix) / seconds - self._batcher.speed) / 8
        company = Company.ALONE
        if len(batch) > 1:
            company = Company.SOME if self._batcher.clients < usable_cores() else Company.MANY
        for call in batch:
            part = z[first : first + call.count]
            first += call.count
            own = seconds * call.count / rows
            call.seconds += own
            self._batcher.charge(call.client, own - call.charged)
            client = self._clients.get(call.client)
            self._count(client, rows=call.count, busy_s=own)
            if call.z is not None:
                call.z[call.first : call.taken] = part
                part = call.z
            if call.finished:
                self._count(client, calls=1)
                self._send(call.client, Product(call.number, call.seconds, company), [part])
                self._batcher.answered(call.client, time.monotonic())
        self._count(None, products=1, shared_rows=rows if len(batch) > 1 else 0)
