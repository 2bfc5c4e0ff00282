"""A client that behaves as Frigate's plugin does (frigate/detectors/plugins/zmq_ipc.py), written anew."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

TIMEOUT, MODEL_TIMEOUT = 200, 30_000  # ms


class FrigateClient:
    """`detect` gives (20, 6), of zeros where no answer came in time: the client can't tell the two apart, so `late`
    counts them. After that it has a new socket, and asks for its model again."""

    def __init__(self, address: str, name: str = "yolo.onnx", timeout: int = TIMEOUT) -> None:
        self._context = zmq.Context()
        self._address, self._name, self._timeout = address, name, timeout
        self._socket: zmq.Socket[bytes] | None = None
        self.ready = False
        self.late = 0
        self._connect()
        self.ask()

    def _connect(self) -> None:
        if self._socket is not None:
            self._socket.close(linger=0)
        self._socket = self._context.socket(zmq.REQ)
        self._socket.rcvtimeo = self._socket.sndtimeo = self._timeout
        self._socket.linger = 0
        self._socket.connect(self._address)

    def ask(self) -> dict[str, Any]:
        """Asks for the model; the answer."""
        assert self._socket is not None
        self._socket.send_multipart([json.dumps({"model_request": True, "model_name": self._name}).encode()])
        self._socket.rcvtimeo = MODEL_TIMEOUT
        try:
            [frame] = self._socket.recv_multipart()
        finally:
            self._socket.rcvtimeo = self._timeout
        found: dict[str, Any] = json.loads(frame)
        self.ready = self.ready or bool(found.get("model_available") and found.get("model_loaded"))
        return found

    def send(self, header: dict[str, Any] | bytes, *parts: bytes) -> None:
        """A message of any kind."""
        assert self._socket is not None
        self._socket.send_multipart([header if isinstance(header, bytes) else json.dumps(header).encode(), *parts])

    def receive(self) -> list[bytes]:
        """Raises zmq.Again where nothing comes in time."""
        assert self._socket is not None
        return self._socket.recv_multipart()

    def detect(self, tensor: NDArray[Any]) -> NDArray[np.float32]:
        header = {"shape": list(tensor.shape), "dtype": tensor.dtype.name, "model_type": "yologeneric"}
        try:
            self.send(header, tensor.tobytes())
            frames = self.receive()
        except zmq.Again:
            self.late += 1
            self._connect()
            self.ask()
            return np.zeros((20, 6), np.float32)
        answer = json.loads(frames[0])
        return np.frombuffer(frames[1], np.dtype(answer["dtype"])).reshape(answer["shape"])

    def close(self) -> None:
        assert self._socket is not None
        self._socket.close(linger=0)
        self._context.term()
