"""The accelerator's loop in native code, for products of this machine's processor asked for over shared memory.

`python_accelerator.py` is its slow twin. What is no plain product is left to what they share (`accelerator.py`):
greetings, pads, self-tests, counters, refusals, and frames that come in pieces or don't fit in a ring.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import IntEnum

from cutset.config import usable_cores
from cutset.kernels import native
from cutset.link import Link, Listener, RingLink, RingListener
from cutset.offload.accelerator.accelerator import DEFAULT_QUOTA, Accelerator, Quota
from cutset.offload.accelerator.batcher import Call
from cutset.offload.accelerator.products import NativeProducts, Products
from cutset.offload.accelerator.python_accelerator import WARM_BYTES, WARM_STEP, PythonAccelerator
from cutset.offload.messages import Product

__all__ = ["RingAccelerator", "new_accelerator"]


class TurnEvent(IntEnum):
    """What ended a turn of native code, as native/offload/server.h numbers it."""

    NOTHING = 0
    RECORD = 1
    PRODUCT = 2
    REFUSAL = 3


class RingQueue:
    """A CallQueue in native code, which knows clients by the slots of the listener."""

    def __init__(
        self, listener: RingListener, products: NativeProducts, shapes: Sequence[tuple[int, int]], quota: Quota
    ) -> None:
        rows, matrices = quota.max_rows, len(shapes)
        self._listener = listener
        self._native = native.Batcher(
            matrices=matrices,
            window=quota.window,
            max_rows=rows,
            max_waiting=quota.max_waiting,
            costs=[outputs * depth for outputs, depth in shapes],
        )
        self.server = native.RingServer(
            products.linears(matrices),
            products.pool,
            self._native,
            listener.poller,
            max_rows=rows,
            warm_bytes=WARM_BYTES,
            warm_step=WARM_STEP,
            cores=usable_cores(),
        )
        self.links: dict[int, Link] = {}  # those who have said hello

    def __len__(self) -> int:
        return len(self._native)

    @property
    def clients(self) -> int:
        return self._native.clients

    def cost(self, matrix: int) -> int:
        return self._native.cost(matrix)

    def join(self, client: Link) -> None:
        slot = self._listener.slot(client)
        if slot is not None and isinstance(client, RingLink) and (rings := client.rings()) is not None:
            self.server.greet(slot, *rings)
            self.links[slot] = client

    def leave(self, client: Link) -> None:
        for slot in [slot for slot, link in self.links.items() if link is client]:
            self.server.forget(slot)
            del self.links[slot]

    def add(self, call: Call) -> bool:
        slot = self._slot(call.client)
        return slot is not None and self.server.queue(slot, call.number, call.matrix, call.x)

    def answered(self, client: Link, now: float) -> None:
        if (slot := self._slot(client)) is not None:
            self._native.answered(slot, now)

    def has_room(self, client: Link) -> bool:
        slot = self._slot(client)
        return slot is not None and self._native.has_room(slot)

    def known(self, client: Link, number: int, now: float) -> bool:
        slot = self._slot(client)
        return slot is not None and self._native.known(slot, number, now)

    def hold(self, client: Link, held: bool) -> None:
        """What the client sends meanwhile stays in its ring."""
        if (slot := self._slot(client)) is not None:
            self._native.hold(slot, held)
        self._listener.pause(client, held)

    def busy(self, client: Link, waits: bool) -> None:
        if (slot := self._slot(client)) is not None:
            self._native.busy(slot, waits)

    def charge(self, client: Link, seconds: float, elsewhere: float = 0.0) -> None:
        if (slot := self._slot(client)) is not None:
            self._native.charge(slot, seconds + elsewhere)

    def may(self, client: Link, now: float) -> bool:
        slot = self._slot(client)
        return slot is not None and self._native.may(slot, now)

    @property
    def speed(self) -> float:
        return self._native.speed

    @speed.setter
    def speed(self, speed: float) -> None:
        self._native.speed = speed

    def _slot(self, client: Link) -> int | None:
        return next((slot for slot, link in self.links.items() if link is client), None)


class RingAccelerator(Accelerator):
    """An Accelerator whose turns are native code as far as that goes."""

    def __init__(
        self,
        listener: RingListener,
        products: NativeProducts,
        shapes: Sequence[tuple[int, int]],
        digest: str,
        *,
        threads: int,
        quota: Quota = DEFAULT_QUOTA,
        makes_pads: bool = True,
    ) -> None:
        self._listener = listener
        self._queued = RingQueue(listener, products, shapes, quota)
        self._unpaid = 0.0  # seconds of work for somebody who isn't known yet
        super().__init__(
            listener,
            products,
            shapes,
            digest,
            threads=threads,
            quota=quota,
            makes_pads=makes_pads,
            calls=self._queued,
        )

    def turn(self, timeout: float) -> None:
        """Serves up to `timeout` seconds, however much there is to do."""
        for one in self.listener.gone():  # first, since their slots may be given to others now
            self._forget(one)
        self._flush()
        server, idle = self._queued.server, self._idle()
        end = server.turn(timeout, idle)
        started = time.monotonic()  # what is done from here on is done for whoever ended the turn of native code
        self._collect()
        link = self._queued.links.get(end.client)
        if end.event == TurnEvent.RECORD:
            got = self._listener.handle(end.client, end.record)
            if got is None:  # a newcomer, say, whose first message comes soon
                self._unpaid += time.monotonic() - started
            else:
                self._handle(*got, started - self._unpaid)
                self._unpaid = 0.0
        elif end.event == TurnEvent.PRODUCT and link is not None and end.product is not None:
            self._send(link, Product(end.call, end.seconds, end.shared), [end.product])
            self._queued.answered(link, time.monotonic())
        elif end.event == TurnEvent.REFUSAL and link is not None:
            self._refuse(link, end.call, end.reason)
        self._work()

    def _collect(self) -> None:
        """What native code counted."""
        whole, each = self._queued.server.counted()
        if any(whole.values()):
            self._count(None, **whole)
        for slot, amounts in each.items():
            link = self._queued.links.get(slot)
            client = None if link is None else self._clients.get(link)
            self._count(client, **amounts)
            if client is not None:
                client.seen = time.monotonic()
                if amounts["calls"]:
                    client.refused = 0

    def _forget(self, link: Link) -> None:
        self._collect()
        super()._forget(link)


def new_accelerator(
    listener: Listener,
    products: Products,
    shapes: Sequence[tuple[int, int]],
    digest: str,
    *,
    threads: int,
    quota: Quota = DEFAULT_QUOTA,
    makes_pads: bool = True,
) -> Accelerator:
    """The fastest Accelerator that can use these products and this listener."""
    if isinstance(products, NativeProducts) and isinstance(listener, RingListener):
        return RingAccelerator(listener, products, shapes, digest, threads=threads, quota=quota, makes_pads=makes_pads)
    return PythonAccelerator(listener, products, shapes, digest, threads=threads, quota=quota, makes_pads=makes_pads)
