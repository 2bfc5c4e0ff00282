"""Debian's MQTT broker, and who hears what it is told."""

from __future__ import annotations

import json
import queue
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

BROKER = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


def wait_until(what: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


class Broker:
    """A mosquitto on a port of its own, which can be stopped and started again."""

    def __init__(self, folder: Path, lines: str = "allow_anonymous true\n") -> None:
        assert BROKER is not None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._file = folder / "mosquitto.conf"
        self._file.write_text(f"listener {self.port} 127.0.0.1\npersistence false\nuser root\n{lines}")
        self.start()

    def start(self) -> None:
        assert BROKER is not None
        self._process = subprocess.Popen(
            [BROKER, "-c", str(self._file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._listens)

    def _listens(self) -> bool:
        assert self._process.poll() is None, "the broker doesn't start"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Subscriber:
    """Hears everything below a topic."""

    def __init__(self, port: int, topic: str) -> None:
        self.heard: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *rest: client.subscribe(topic, 1)
        ready = threading.Event()
        self._client.on_subscribe = lambda *rest: ready.set()
        self._client.on_message = self._message
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert ready.wait(10)

    def _message(self, client: Any, data: Any, message: Any) -> None:
        text = message.payload.decode()
        self.heard.put((message.topic, json.loads(text) if text.startswith("{") else text))

    def next(self) -> tuple[str, Any]:
        return self.heard.get(timeout=10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
