"""The accelerator's loop in native code, for products of this machine's processor asked for over shared memory.

`server.py` is its slow twin, and does what is no plain product: greetings, pads, self-tests, counters, refusals, and
frames that come in pieces or don't fit in a ring.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from cutset.config import usable_cores
from cutset.kernels.native import extension
from cutset.link import Link, Listener
from cutset.offload.accelerator.batcher import Batcher, Call
from cutset.offload.accelerator.products import NativeProducts, Products
from cutset.offload.accelerator.server import DEFAULT_QUOTA, WARM_BYTES, WARM_STEP, Accelerator, Quota
from cutset.offload.messages import Product

__all__ = ["HotAccelerator", "new_accelerator"]


class Event(IntEnum):
    """What ended a turn of native code, as native/offload/server.h numbers it."""

    NOTHING = 0
    RECORD = 1
    PRODUCT = 2
    REFUSAL = 3


class _Waiting(Batcher):
    """The calls that wait, in native code, which knows clients by the slots of the listener."""

    def __init__(
        self, listener: Any, products: NativeProducts, shapes: Sequence[tuple[int, int]], quota: Quota
    ) -> None:
        native, rows, matrices = extension(), quota.max_rows, len(shapes)
        sizes: dict[str, Any] = {"window": quota.window, "max_rows": rows, "max_waiting": quota.max_waiting}
        sizes["costs"] = [outputs * depth for outputs, depth in shapes]
        super().__init__(matrices=matrices, **sizes)
        self._listener = listener
        self._native = native.Batcher(matrices=matrices, **sizes)
        self.server = native.Server(
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
        return int(self._native.clients)

    def join(self, client: Any) -> None:
        slot = self._listener.slot(client)
        if slot is not None and (ends := client.ends()) is not None:
            self.server.greet(slot, *ends)
            self.links[slot] = client

    def leave(self, client: Any) -> None:
        for slot in [slot for slot, link in self.links.items() if link is client]:
            self.server.forget(slot)
            del self.links[slot]

    def add(self, call: Call) -> bool:
        slot = self._slot(call.client)
        return slot is not None and bool(self.server.queue(slot, call.number, call.matrix, call.x))

    def answered(self, client: Any, now: float) -> None:
        if (slot := self._slot(client)) is not None:
            self._native.answered(slot, now)

    def has_room(self, client: Any) -> bool:
        slot = self._slot(client)
        return slot is not None and bool(self._native.has_room(slot))

    def known(self, client: Any, number: int, now: float) -> bool:
        slot = self._slot(client)
        return slot is not None and bool(self._native.known(slot, number, now))

    def hold(self, client: Any, held: bool) -> None:
        """What the client sends meanwhile stays in its ring."""
        if (slot := self._slot(client)) is not None:
            self._native.hold(slot, held)
        self._listener.pause(client, held)

    def busy(self, client: Any, waits: bool) -> None:
        if (slot := self._slot(client)) is not None:
            self._native.busy(slot, waits)

    def charge(self, client: Any, seconds: float, elsewhere: float = 0.0) -> None:
        if (slot := self._slot(client)) is not None:
            self._native.charge(slot, seconds + elsewhere)

    def may(self, client: Any, now: float) -> bool:
        slot = self._slot(client)
        return slot is not None and bool(self._native.may(slot, now))

    @property
    def speed(self) -> float:
        return float(self._native.speed)

    @speed.setter
    def speed(self, speed: float) -> None:
        if hasattr(self, "_native"):
            self._native.speed = speed

    def _slot(self, client: Any) -> int | None:
        return next((slot for slot, link in self.links.items() if link is client), None)


class HotAccelerator(Accelerator):
    """An Accelerator whose turns are native code as far as that goes."""

    def __init__(
        self,
        listener: Listener,
        products: NativeProducts,
        shapes: Sequence[tuple[int, int]],
        digest: str,
        *,
        threads: int,
        quota: Quota = DEFAULT_QUOTA,
        makes_pads: bool = True,
    ) -> None:
        self._waiting = _Waiting(listener, products, shapes, quota)
        self._unpaid = 0.0  # seconds of work for somebody who isn't known yet
        super().__init__(
            listener,
            products,
            shapes,
            digest,
            threads=threads,
            quota=quota,
            makes_pads=makes_pads,
            batcher=self._waiting,
        )

    def turn(self, timeout: float) -> None:
        """Serves up to `timeout` seconds, however much there is to do."""
        for one in self.listener.gone():  # first, since their slots may be given to others now
            self._forget(one)
        self._flush()
        server, idle = self._waiting.server, self._idle()
        event = server.turn(timeout, idle)
        started = time.monotonic()  # what is done from here on is done for whoever ended the turn of native code
        self._collect()
        if event == Event.RECORD:
            listener: Any = self.listener
            got = listener.handle(*server.record)
            if got is None:  # a newcomer, say, whose first message comes soon
                self._unpaid += time.monotonic() - started
            else:
                link, frame = got
                self._took(link, frame, started - self._unpaid)
                self._unpaid = 0.0
        elif event == Event.PRODUCT:
            slot, call, seconds, shared, z = server.product
            link = self._waiting.links.get(slot)
            if link is not None:
                self._send(link, Product(call, seconds, shared), [z])
                self._waiting.answered(link, time.monotonic())
        elif event == Event.REFUSAL:
            slot, call, reason = server.refusal
            link = self._waiting.links.get(slot)
            if link is not None:
                self._refuse(link, call, reason)
        self._work()

    def _collect(self) -> None:
        """What native code counted."""
        whole, each = self._waiting.server.counted()
        if any(whole.values()):
            self._count(None, **whole)
        for slot, amounts in each.items():
            link = self._waiting.links.get(slot)
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
    if isinstance(products, NativeProducts) and hasattr(listener, "poller"):
        return HotAccelerator(listener, products, shapes, digest, threads=threads, quota=quota, makes_pads=makes_pads)
    return Accelerator(listener, products, shapes, digest, threads=threads, quota=quota, makes_pads=makes_pads)
