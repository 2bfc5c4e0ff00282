"""What others do to an accelerator's loop: clients that never stop asking, products that fail."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from cutset.link.frames import Frame, decode, plan
from cutset.offload.accelerator.accelerator import Accelerator, Quota
from cutset.offload.accelerator.products import NativeProducts
from cutset.offload.accelerator.python_accelerator import PythonAccelerator
from cutset.offload.messages import PROTOCOL, AskCounters, Message, Multiply, Product, Refused, encode
from cutset.offload.messages import decode as decode_message
from link.hellos import hello

LIMIT = 1 << 20
WEIGHT = np.arange(-20, 20, dtype=np.int8).reshape(5, 8)


class Client:
    """The accelerator's end of a link; keeps what was sent."""

    address, peer = "inproc://client", "a client"

    def __init__(self) -> None:
        self.got: list[Message] = []

    def send(self, header: bytes, arrays: Any = (), *, timeout: float | None = None) -> None:
        self.got.append(decode_message(header))


def frame(message: Message, *arrays: Any) -> Frame:
    front, _, _ = plan(encode(message), [(array.dtype, array.shape) for array in arrays], LIMIT)
    data = front + b"".join(array.tobytes() for array in arrays)
    return decode(memoryview(data), 0, len(data), LIMIT)


class Listener:
    """Messages without end: first those that are given, then one client asks for counters for ever."""

    address = "inproc://listener"

    def __init__(self, first: list[tuple[Client, Frame]], asks: Client | None = None) -> None:
        self.first, self.asks = first, asks

    def recv(self, timeout: float) -> tuple[Any, Frame] | None:
        if self.first:
            return self.first.pop(0)
        if self.asks is None:
            return None
        time.sleep(0.0002)
        return self.asks, frame(AskCounters(1))

    def gone(self) -> list[Any]:
        return []

    def stay_awake(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


def accelerator(listener: Listener, products: Any = None) -> Accelerator:
    products = products or NativeProducts(1)
    products.put(0, WEIGHT)
    return PythonAccelerator(listener, products, [(5, 8)], "digest", threads=1, quota=Quota(max_rows=16, window=0.0005))


def test_a_turn_ends_and_others_are_served_while_a_client_never_stops_asking() -> None:
    waits, asks = Client(), Client()
    q = np.ones((1, 8), np.int16)
    first = [(waits, frame(hello(PROTOCOL))), (asks, frame(hello(PROTOCOL))), (waits, frame(Multiply(7, 0), q))]
    served = accelerator(Listener(first, asks))
    for _ in range(5):
        served.turn(0.0)  # for ever, without an end to taking
    assert any(isinstance(message, Product) and message.call == 7 for message in waits.got)


def test_a_device_without_room_refuses_a_call_and_goes_on() -> None:
    class Full(NativeProducts):
        full = True

        def integers(self, *args: Any, **more: Any) -> Any:
            if self.full:
                raise RuntimeError("out of memory: try to allocate 2 GiB")
            return super().integers(*args, **more)

    client, products = Client(), Full(1)
    q = np.ones((1, 8), np.int16)
    listener = Listener([(client, frame(hello(PROTOCOL))), (client, frame(Multiply(1, 0), q))])
    served = accelerator(listener, products)
    for _ in range(3):
        served.turn(0.0)
    assert isinstance(client.got[-1], Refused)
    assert "out of memory" in client.got[-1].reason
    products.full = False
    listener.first.append((client, frame(Multiply(2, 0), q)))
    for _ in range(3):
        served.turn(0.0)
    assert isinstance(client.got[-1], Product)


def test_weights_are_read_ahead_while_an_owed_client_is_waited_for() -> None:
    """So it has as much of its share beside greedy clients as of the whole machine alone."""

    class Ahead(NativeProducts):
        reads: int = 0

        def warm(self, *args: Any) -> int:
            self.reads += 1
            return super().warm(*args)

    client, products = Client(), Ahead(1)
    first = [(client, frame(hello(PROTOCOL))), (client, frame(Multiply(1, 0), np.ones((1, 8), np.int16)))]
    served: Any = accelerator(Listener(first), products)
    for _ in range(3):
        served.turn(0.0)
    assert isinstance(client.got[-1], Product)
    products.reads = 0
    served._batcher.wait = lambda now: 0.001  # as where one who has had too much waits for one who has had less
    served.turn(0.01)
    assert products.reads
