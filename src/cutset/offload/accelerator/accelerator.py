"""What every accelerator does: takes rows of many clients, multiplies, answers. It is trusted with nothing; what it
refuses, it refuses with one line.

One thread serves all clients, so it never waits for one of them. What a client has no room for is kept for it in a
short queue, and meanwhile nothing is computed for it; a client that lets its queue overflow, or makes no room for too
long, is dropped with it. Who is served next is a matter of the work that each got (batcher.py), pads and self-tests
among it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutset.config import usable_cores
from cutset.errors import CutsetError, FrameError, LinkError, LinkTimeout
from cutset.link import Frame, Limits, Link, Listener
from cutset.link.peer import Refused, is_hello, refusal, refused
from cutset.offload.accelerator.batcher import LEAST_ROWS, SLICE, Call
from cutset.offload.accelerator.call_queue import CallQueue
from cutset.offload.accelerator.clients import TOTALS, Client, Quota, new_counters
from cutset.offload.accelerator.jobs import Jobs, Steps, is_self_test, make_pads, reason_of, run_self_test
from cutset.offload.accelerator.products import Products
from cutset.offload.arithmetic import INTEGERS, RESIDUES, SEED_BYTES
from cutset.offload.messages import (
    HANDSHAKE,
    AskCounters,
    Capabilities,
    Company,
    Counters,
    MakePads,
    Message,
    Multiply,
    Product,
    SelfTest,
    call_of,
    decode,
    encode,
)

__all__ = ["DEFAULT_QUOTA", "Accelerator", "Quota", "limits_for"]

Array = NDArray[Any]
AWAKE, BRIEFLY = 0.0005, 0.00002  # seconds
SOON, LATER = 0.00005, 0.002  # seconds between two looks whether a client has made room
LOOKING = 20  # times as long as such a look took in vain is the time until the next one, at least
LOOK = 1.0  # seconds between two looks for clients that are idle
QUEUE = 2  # frames that a link without a ring keeps for a client, each way
PER_BYTE = {"tcp": 1 / 400e6, "ipc": 1 / 2e9}  # seconds of the thread that encrypts and copies
FRONT = 1 << 17  # bytes of a frame beside its array, at most
DEFAULT_QUOTA = Quota()


def limits_for(shapes: Sequence[tuple[int, int]], quota: Quota) -> Limits:
    """What a listener takes: frames as large as a call or an answer can be, and no larger."""
    widest = max(max(shape) for shape in shapes)
    frame = max(4 * quota.max_rows * widest, 8 * quota.max_self_test) + FRONT
    each = min(quota.each, quota.clients)
    return Limits(frame=min(frame, 1 << 30), max_ring=64 << 20, queue=QUEUE, clients=quota.clients, each=each)


class Accelerator(ABC):
    """Serves a listener with the products of one model, in one thread.

    Here is all that is no product; how calls are taken, multiplied and answered is `turn`.
    """

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
        calls: CallQueue,
    ) -> None:
        self.listener, self.products, self.shapes, self.quota = listener, products, shapes, quota
        self.handshake = dataclasses.replace(HANDSHAKE, model=digest)  # a party with keys has another one
        self.capabilities = Capabilities(len(shapes), products.device, threads, quota.max_rows, makes_pads)
        self._calls = calls
        self._most_bytes = limits_for(shapes, quota).frame - FRONT
        self._clients: dict[Link, Client] = {}
        self._by_key: dict[str, dict[str, float]] = {}
        self._unsent: list[Client] = []  # with answers in their outbox
        self._jobs = Jobs(calls, quota.max_waiting)
        self._per_byte = PER_BYTE.get(listener.address.partition(":")[0], 0.0)
        self._pause = SOON  # between two looks whether there is room
        self._flushed = 0.0  # when that was looked for last
        self._looked = 0.0
        self.counters = dict.fromkeys(TOTALS, 0.0)

    def serve(self, stopped: Callable[[], bool]) -> None:
        """Answers until `stopped()`, which is asked at least every 100 ms."""
        while not stopped():
            self.turn(0.1)

    @abstractmethod
    def turn(self, timeout: float) -> None:
        """Takes what has come, waits up to `timeout` seconds if nothing has, multiplies."""

    def totals(self) -> dict[str, float]:
        """What was done for all clients together: for whoever runs this, and not for them."""
        return dict(self.counters) | {"connected": float(len(self._clients)), "waiting": float(len(self._calls))}

    def _idle(self) -> float:
        """Seconds for which nothing but a message needs this thread."""
        if self._jobs.ready:
            return 0.0
        if self._unsent:
            return max(0.0, self._flushed + self._pause - time.monotonic())
        return self._pause if self._jobs else 3600.0

    def _handle(self, link: Link, frame: Frame, since: float = 0.0) -> None:
        """Acts on a frame. since: when work for it began, if that was before."""
        client = self._client(link)
        client.seen = time.monotonic()
        call, nbytes = 0, sum(array.nbytes for array in frame.arrays)
        try:
            self._count(client, bytes_in=nbytes)
            if is_hello(frame.header):
                self._greet(link, frame.header)
                return
            message = decode(frame.header)
            call = call_of(message) or 0
            self._dispatch(link, call, message, frame)
        except FrameError as error:
            self._refuse(link, call, str(error))
        except (MemoryError, RuntimeError) as error:
            self._refuse(link, call, reason_of(error))
        finally:
            frame.release()
            self._calls.charge(link, time.monotonic() - (since or client.seen), self._per_byte * nbytes)

    def _client(self, link: Link) -> Client:
        """What is known of a client; a newcomer's counters are those of its key, if it has one."""
        if (client := self._clients.get(link)) is None:
            counters = new_counters()
            if link.address.startswith("tcp://"):
                counters = self._by_key.setdefault(link.peer, counters)
            client = self._clients[link] = Client(link, counters, time.monotonic())
        return client

    def _count(self, client: Client | None, **amounts: float) -> None:
        for name, amount in amounts.items():
            self.counters[name] += amount
            if client is not None:
                client.counters[name] += amount

    def _dispatch(self, link: Link, call: int, message: Message, frame: Frame) -> None:
        """Acts on a message about that call."""
        if isinstance(message, Multiply) and self._client(link).greeted:
            self._queue(link, message, frame)
            return
        if not self._client(link).greeted:
            self._refuse(link, call, "say hello first")
        elif isinstance(message, AskCounters):
            self._send(link, Counters(call, dict(self._client(link).counters)))
        elif isinstance(message, SelfTest):
            self._self_test(link, call, frame.arrays)
        elif isinstance(message, MakePads):
            self._make_pads(link, message)
        else:
            self._refuse(link, call, "this message is not for an accelerator")

    def _greet(self, link: Link, header: bytes) -> None:
        client = self._client(link)
        try:
            hello = self.handshake.accept(link, header)
            welcome = self.handshake.welcome(link, hello, encode(self.capabilities))
        except CutsetError as error:
            self._count(client, refused=1)
            self._send(link, refusal(header, str(error)))
            self._forget(link)
            return
        if not client.greeted:
            client.greeted = True
            self._calls.join(link)
            self._stay_awake()
            self._count(client, clients=1)
        self._send(link, welcome)

    def _queue(self, link: Link, message: Multiply, frame: Frame) -> None:
        if message.matrix >= len(self.shapes):
            self._refuse(link, message.call, f"there is no matrix {message.matrix}")
            return
        outputs, depth = self.shapes[message.matrix]
        x = frame.arrays[0] if len(frame.arrays) == 1 else None
        if x is None or x.dtype not in (RESIDUES, INTEGERS) or x.ndim != 2 or x.shape[1] != depth or not len(x):
            wanted = f"matrix {message.matrix} takes one array (rows, {depth}) of uint32 or int16"
            self._refuse(link, message.call, wanted)
            return
        most = min(self.quota.max_rows, self._most_bytes // (4 * outputs))
        if len(x) > most:
            self._refuse(link, message.call, f"{len(x)} rows are too many; {most} are taken at once")
            return
        now = time.monotonic()
        if self._calls.known(link, message.call, now):
            return  # sent again, because its answer takes long
        if not self._calls.has_room(link):
            self._refuse(link, message.call, f"{self.quota.max_waiting} calls of this client are waiting already")
            return
        # A copy: the client can still write to memory that is shared, and needs it for its next call.
        self._calls.add(Call(link, message.call, message.matrix, x.dtype == RESIDUES, np.array(x), now))

    def _make_pads(self, link: Link, message: MakePads) -> None:
        if not self.capabilities.makes_pads:
            self._refuse(link, message.call, "no pads are made here")
            return
        total = nbytes = 0
        for matrix, rows, seed in message.requests:
            total += rows
            known = matrix < len(self.shapes)
            nbytes += 4 * rows * self.shapes[matrix][0] if known else 0
            if not known or len(seed) != SEED_BYTES or not rows or total > self.quota.max_rows:
                wanted = "pads are asked for with a matrix, 1 row or more, and 32 bytes of seed"
                self._refuse(link, message.call, wanted)
                return
        if nbytes > self._most_bytes:
            why = f"{nbytes} bytes of pads are too many; {self._most_bytes} are made at once"
            self._refuse(link, message.call, why)
            return
        self._begin(link, message.call, make_pads(self.products, self.shapes, message.requests, self._piece), total)

    def _piece(self, matrix: int) -> int:
        return max(LEAST_ROWS, int(self._calls.speed * SLICE / max(1, self._calls.cost(matrix))))

    def _self_test(self, link: Link, call: int, arrays: tuple[Array, ...]) -> None:
        if not is_self_test(arrays, self.quota.max_self_test):
            self._refuse(link, call, "a self-test has a weight int8 and rows uint32 and int16, small ones")
            return
        weight, x, q = (np.array(array) for array in arrays)
        self._begin(link, call, run_self_test(self.products, weight, x, q), 0)

    def _begin(self, link: Link, call: int, steps: Steps, rows: int) -> None:
        if not self._jobs.add(link, call, steps, rows):
            self._refuse(link, call, f"{self.quota.max_waiting} calls of this client are waiting already")

    def _work(self) -> None:
        """A slice of the work that is no product, for one whose turn it is."""
        if (found := self._jobs.next()) is None:
            return
        link, job = found
        client, before = self._clients.get(link), job.seconds
        over = self._jobs.step(link, job)
        self._count(client, busy_s=job.seconds - before)
        if over is None:
            return
        answers, reason = over
        if answers is None:
            self._refuse(link, job.call, reason)
        else:
            self._count(client, pads=job.rows)
            self._send(link, Product(job.call, job.seconds, Company.ALONE), answers)

    def _send(self, link: Link, message: Message | bytes, arrays: list[Array] | None = None) -> None:
        """Sends a message, encoded or not, without waiting. What there is no room for is kept for a while, and nothing
        is done for that client."""
        client, given = self._clients.get(link), arrays or []
        header = message if isinstance(message, bytes) else encode(message)
        if client is None:
            return
        started, nbytes = time.monotonic(), sum(array.nbytes for array in given)
        try:
            if not client.outbox:
                try:
                    link.send(header, given, timeout=0.0)
                except LinkTimeout:
                    client.outbox.append(link.start(header, given))
                    client.stuck, self._pause = time.monotonic(), SOON
                    self._unsent.append(client)
                    self._calls.hold(link, True)
            elif len(client.outbox) < self.quota.max_unsent:
                client.outbox.append(link.start(header, given))
            else:
                self._drop(client)
                return
            if not isinstance(message, Refused):
                client.refused = 0
            self._count(client, bytes_out=nbytes)
            self._calls.charge(link, time.monotonic() - started, self._per_byte * nbytes)
        except LinkError:
            self._forget(link)

    def _flush(self) -> None:
        """Sends what there is room for by now, and ends links that must end. Looking takes little of the time."""
        now = time.monotonic()
        unsent = list(self._unsent) if now >= self._flushed + self._pause else []
        for client in unsent:
            started = time.monotonic()
            try:
                while client.outbox and client.outbox[0]():
                    client.outbox.popleft()
                    client.stuck, self._pause = now, SOON
            except LinkError:
                self._forget(client.link)
                continue
            self._calls.charge(client.link, time.monotonic() - started)
            if not client.outbox:
                self._unsent.remove(client)
                self._calls.hold(client.link, False)
            elif now - client.stuck > self.quota.reply:
                self._drop(client)
        if unsent:
            self._flushed = time.monotonic()
            least = 0.0 if self._pause == SOON else LOOKING * (self._flushed - now)
            self._pause = max(min(2 * self._pause, LATER), least)
        if now - self._looked > min(LOOK, self.quota.greeting, self.quota.idle):
            self._looked = now
            for client in list(self._clients.values()):
                longest = self.quota.idle if client.greeted else self.quota.greeting
                if now - client.seen > longest and not self._jobs.waits(client.link):
                    self._forget(client.link)

    def _refuse(self, link: Link, call: int, reason: str) -> bool:
        client = self._clients.get(link)
        self._count(client, refused=1)
        self._send(link, refused(reason, call))
        if client is not None:
            client.refused += 1
            if client.refused > self.quota.max_refused:
                self._drop(client)
        return False

    def _drop(self, client: Client) -> None:
        """Ends the link of a client that costs too much."""
        if client.link in self._clients:
            self._count(None, dropped=1)
            self._forget(client.link)

    def _forget(self, link: Link) -> None:
        started = time.monotonic()
        client = self._clients.pop(link, None)
        if client is not None:
            client.outbox.clear()
            with contextlib.suppress(ValueError):
                self._unsent.remove(client)
        self._jobs.leave(link)
        with contextlib.suppress(LinkError):
            link.close()
        self._calls.charge(link, time.monotonic() - started)
        self._calls.leave(link)
        self._stay_awake()

    def _stay_awake(self) -> None:
        """A core may be spent on waiting as long as every client can have one of its own."""
        self.listener.stay_awake(AWAKE if self._calls.clients < usable_cores() else BRIEFLY)

    def close(self) -> None:
        """Closes the listener; clients see their links end."""
        self.listener.close()
