"""The accelerator: takes rows of many clients, multiplies, answers. It keeps no state of an answer and is trusted with
nothing; what it refuses, it refuses with one line.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.config import usable_cores
from cutset.errors import CutsetError, FrameError, LinkError
from cutset.link import Frame, Link, Listener
from cutset.offload.accelerator.batcher import Batcher, Call
from cutset.offload.accelerator.products import Products
from cutset.offload.client.masks import SEED_BYTES, residues
from cutset.offload.messages import (
    PROTOCOL,
    AskCounters,
    Counters,
    Hello,
    MakePads,
    Message,
    Multiply,
    Product,
    Refused,
    SelfTest,
    Welcome,
    decode,
    encode,
)
from cutset.version import software

__all__ = ["DEFAULT_QUOTA", "Accelerator", "Quota"]

Array = NDArray[Any]
SELF_TEST = "self-test"
AWAKE, BRIEFLY = 0.0005, 0.00002  # seconds
WARM_BYTES = 1 << 20  # half of a common second-level cache
WARM_STEP = 1 << 16  # a few microseconds, which a call that comes meanwhile waits
RESIDUES, INTEGERS = np.dtype(np.uint32), np.dtype(np.int16)


@dataclass(frozen=True, slots=True)
class Quota:
    """What one client may ask for, and how long calls wait for company."""

    max_rows: int = 4096  # of a call, and of a product that several share
    max_waiting: int = 4  # calls of a client that wait
    max_self_test: int = 1 << 20  # elements of each array of a self-test
    window: float = 0.002  # seconds
    reply: float = 1.0  # seconds that a client may take to make room for its answer


DEFAULT_QUOTA = Quota()


class Accelerator:
    """Serves a listener with the products of one model, in one thread."""

    def __init__(
        self,
        listener: Listener,
        products: Products,
        shapes: Sequence[tuple[int, int]],  # (outputs, depth) of the matrices 0, 1, …
        digest: str,
        *,
        threads: int,
        quota: Quota = DEFAULT_QUOTA,
        makes_pads: bool = True,
        batcher: Batcher | None = None,
    ) -> None:
        self.listener, self.products, self.shapes, self.quota = listener, products, shapes, quota
        self.welcome = Welcome(
            protocol=PROTOCOL,
            software=software(),
            digest=digest,
            matrices=len(shapes),
            device=products.device,
            threads=threads,
            max_rows=quota.max_rows,
            makes_pads=makes_pads,
        )
        if batcher is None:
            rows, waiting = quota.max_rows, quota.max_waiting
            batcher = Batcher(matrices=len(shapes), window=quota.window, max_rows=rows, max_waiting=waiting)
        self._batcher = batcher
        self._greeted: set[Link] = set()
        self._next, self._warmed = 0, WARM_BYTES  # what is wanted next, and how much of it was read ahead
        self.counters = dict.fromkeys(
            ("clients", "calls", "rows", "products", "shared_rows", "pads", "refused", "bytes_in", "bytes_out"), 0.0
        ) | {"busy_s": 0.0}

    def serve(self, stopped: Callable[[], bool]) -> None:
        """Answers until `stopped()`, which is asked at least every 100 ms."""
        while not stopped():
            self.turn(0.1)

    def turn(self, timeout: float) -> None:
        """Takes what has come, waits up to `timeout` seconds if nothing has, multiplies at most once."""
        wait = self._batcher.wait(time.monotonic())
        if wait != 0.0:
            took = self._warm() if wait is None else False
            took = took or self._take(timeout if wait is None else min(wait, timeout))
            # Whatever else is there; for a while, since some clients may never stop asking.
            end = time.monotonic() + self.quota.window
            while took and not self._batcher.complete and time.monotonic() < end:
                took = self._take(0.0)
        for link in self.listener.gone():
            self._forget(link)
        now = time.monotonic()
        if self._batcher.wait(now) == 0.0:
            self._multiply(self._batcher.take(now))

    def _warm(self) -> bool:
        """While nobody waits: reads what will be multiplied next, as far as caches keep it. True once a message came.

        A client that decodes needs a while between two products, and the product itself is bound by reading weights.
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
        self._took(*got)
        return True

    def _took(self, link: Link, frame: Frame) -> None:
        try:
            self.counters["bytes_in"] += sum(array.nbytes for array in frame.arrays)
            self._heed(link, decode(frame.header), frame)
        except FrameError as error:
            self._refuse(link, 0, str(error))
        finally:
            frame.release()

    def _heed(self, link: Link, message: Message, frame: Frame) -> None:
        """Acts on a message."""
        if isinstance(message, Hello):
            self._greet(link)
            return
        call: int = getattr(message, "call", 0)
        if link not in self._greeted:
            self._refuse(link, call, "say hello first")
        elif isinstance(message, Multiply):
            self._queue(link, message, frame)
        elif isinstance(message, AskCounters):
            self._send(link, Counters(call, self._counted()))
        elif isinstance(message, SelfTest):
            self._self_test(link, call, frame.arrays)
        elif isinstance(message, MakePads):
            self._make_pads(link, message)
        else:
            self._refuse(link, call, "this message is not for an accelerator")

    def _greet(self, link: Link) -> None:
        if link not in self._greeted:
            self._greeted.add(link)
            self._batcher.join(link)
            self._stay_awake()
            self.counters["clients"] += 1
        # Another version gets a Welcome too: it says what is spoken here.
        self._send(link, self.welcome)

    def _queue(self, link: Link, message: Multiply, frame: Frame) -> None:
        if message.matrix >= len(self.shapes):
            self._refuse(link, message.call, f"there is no matrix {message.matrix}")
            return
        _, depth = self.shapes[message.matrix]
        x = frame.arrays[0] if len(frame.arrays) == 1 else None
        if x is None or x.dtype not in (RESIDUES, INTEGERS) or x.ndim != 2 or x.shape[1] != depth or not len(x):
            wanted = f"matrix {message.matrix} takes one array (rows, {depth}) of uint32 or int16"
            self._refuse(link, message.call, wanted)
            return
        if len(x) > self.quota.max_rows:
            self._refuse(link, message.call, f"{len(x)} rows are too many; {self.quota.max_rows} are taken at once")
            return
        masked = x.dtype == RESIDUES
        # A copy: the client can still write to memory that is shared, and needs it for its next call.
        call = Call(link, message.call, message.matrix, masked, np.array(x), time.monotonic())
        if not self._batcher.add(call):
            self._refuse(link, message.call, f"{self.quota.max_waiting} calls of this client are waiting already")

    def _multiply(self, batch: list[Call]) -> None:
        """One product for all calls of a batch, and an answer for each."""
        if not batch:
            return
        started = time.perf_counter()
        matrix, masked = batch[0].key
        multiply = self.products.residues if masked else self.products.integers
        rows = sum(len(call.x) for call in batch)
        try:
            x = batch[0].x if len(batch) == 1 else np.concatenate([call.x for call in batch])
            z = multiply(matrix, x)
        except (ValueError, MemoryError, RuntimeError) as error:  # torch says so where a device has no room
            if len(batch) > 1:  # somebody's numbers are wrong: each alone, so that the others don't suffer
                for call in batch:
                    self._multiply([call])
                return
            self._refuse(batch[0].client, batch[0].number, str(error))
            return
        self._next, self._warmed = (matrix + 1) % len(self.shapes), 0
        seconds, first = time.perf_counter() - started, 0
        for call in batch:
            part = z[first : first + len(call.x)]
            first += len(call.x)
            self._send(call.client, Product(call.number, seconds, rows), [part])
            self._batcher.answered(call.client, time.monotonic())
        self.counters["calls"] += len(batch)
        self.counters["rows"] += rows
        self.counters["products"] += 1
        self.counters["shared_rows"] += rows if len(batch) > 1 else 0
        self.counters["busy_s"] += seconds

    def _make_pads(self, link: Link, message: MakePads) -> None:
        started, total = time.perf_counter(), 0
        if not self.welcome.makes_pads:
            self._refuse(link, message.call, "no pads are made here")
            return
        for matrix, rows, seed in message.requests:
            total += rows
            if matrix >= len(self.shapes) or len(seed) != SEED_BYTES or not 0 < total <= self.quota.max_rows:
                self._refuse(
                    link, message.call, "pads are asked for with a matrix, 1 row or more, and 32 bytes of seed"
                )
                return
        answers = []
        for matrix, rows, seed in message.requests:
            _, depth = self.shapes[matrix]
            answers.append(self.products.residues(matrix, residues(seed, rows * depth).reshape(rows, depth)))
        self.counters["pads"] += total
        self.counters["busy_s"] += time.perf_counter() - started
        self._send(link, Product(message.call, time.perf_counter() - started, total), answers)

    def _self_test(self, link: Link, call: int, arrays: tuple[Array, ...]) -> None:
        if not self._is_self_test(arrays):
            self._refuse(link, call, "a self-test has a weight int8 and rows uint32 and int16, small ones")
            return
        weight, x, q = (np.array(array) for array in arrays)
        try:
            self.products.put(SELF_TEST, weight)
        except CutsetError as error:
            self._refuse(link, call, str(error))
            return
        try:
            products = [self.products.residues(SELF_TEST, x), self.products.integers(SELF_TEST, q)]
        except ValueError as error:
            self._refuse(link, call, str(error))
            return
        finally:
            self.products.drop(SELF_TEST)
        self._send(link, Product(call, 0.0, len(x)), products)

    def _is_self_test(self, arrays: tuple[Array, ...]) -> bool:
        if [array.dtype for array in arrays] != [np.dtype(np.int8), RESIDUES, INTEGERS]:
            return False
        if any(array.ndim != 2 or not 0 < array.size <= self.quota.max_self_test for array in arrays):
            return False
        weight, x, q = arrays
        return (
            x.shape == q.shape
            and x.shape[1] == weight.shape[1]
            and x.shape[0] * weight.shape[0] <= self.quota.max_self_test
        )

    def _counted(self) -> dict[str, float]:
        return self.counters | {"connected": float(len(self._greeted)), "waiting": float(len(self._batcher))}

    def _send(self, link: Any, message: Message, arrays: list[Array] | None = None) -> None:
        """A client that doesn't take its answer is dropped: the others must not wait for it."""
        try:
            link.send(encode(message), arrays or [], timeout=self.quota.reply)
            self.counters["bytes_out"] += sum(array.nbytes for array in arrays or [])
        except LinkError:
            self._forget(link)

    def _refuse(self, link: Any, call: int, reason: str) -> bool:
        self.counters["refused"] += 1
        self._send(link, Refused(call, reason[:500]))
        return False

    def _forget(self, link: Link) -> None:
        self._greeted.discard(link)
        self._batcher.leave(link)
        self._stay_awake()
        with contextlib.suppress(LinkError):
            link.close()

    def _stay_awake(self) -> None:
        """A core may be spent on waiting as long as every client can have one of its own."""
        self.listener.stay_awake(AWAKE if self._batcher.clients < usable_cores() else BRIEFLY)

    def close(self) -> None:
        """Closes the listener; clients see their links end."""
        self.listener.close()
