"""The accelerator's loop in native code, for products of this machine's processor asked for over shared memory.

`server.py` is its slow twin, and does what is no plain product: greetings, pads, self-tests, counters, refusals, and
frames that come in pieces or don't fit in a ring.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

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

    def __init__(self, listener: Any, products: NativeProducts, matrices: int, quota: Quota) -> None:
        native, rows = extension(), quota.max_rows
        sizes: dict[str, Any] = {"window": quota.window, "max_rows": rows, "max_waiting": quota.max_waiting}
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
        self._waiting = _Waiting(listener, products, len(shapes), quota)
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
        server = self._waiting.server
        event = server.turn(timeout)
        for name, count in server.counted().items():
            self.counters[name] += count
        if event == Event.RECORD:
            listener: Any = self.listener
            got = listener.handle(*server.record)
            if got is not None:
                self._took(*got)
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
