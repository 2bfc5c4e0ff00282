"""Events over MQTT: published from a thread of their own, which may be behind, and never holds up who gives them."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from cutset.errors import ConfigError, DeviceError
from cutset.link.addresses import HOST_NAME

__all__ = ["MqttAddress", "MqttPublisher"]

PORTS = {"mqtt": 1883, "mqtts": 8883}
FORM = "write mqtt://[USER[:PASSWORD]@]HOST[:PORT]/TOPIC, or mqtts:// for TLS"
MOST_WAITING = 1000  # events
MOST_UNANSWERED = 20  # of which the broker hasn't said that it has them
KEEPALIVE = 15  # seconds
SLOWEST = 30  # seconds between two tries to connect
GOODBYE = 2.0  # seconds that events may take to leave at the end


@dataclass(frozen=True)
class MqttAddress:
    """Where events go. The broker keeps `TOPIC/available`: online, or offline once the connection is gone."""

    host: str
    port: int
    topic: str
    tls: bool
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}/{self.topic}"

    @classmethod
    def parse(cls, text: str, password: str | None = None) -> MqttAddress:
        """`password` is for an address that has none. Raises ConfigError, which doesn't repeat the password."""
        shown = re.sub(r"(?s)^(\w+://)?.*@", r"\1…@", text)[:200]  # a password may have a '/' in it
        found = re.fullmatch(
            rf"(mqtts?)://(?:([^@/:]*)(?::([^@/]*))?@)?(\[[0-9A-Fa-f:.]+\]|{HOST_NAME})(?::([0-9]{{1,5}}))?/(.+)", text
        )
        if not found:
            raise ConfigError(f"{shown!r} is no address of an MQTT broker: {FORM}")
        scheme, user, secret, host, port, topic = found.groups()
        topic, number = unquote(topic).strip("/"), int(port or PORTS[scheme])
        if not 0 < number < 1 << 16:
            raise ConfigError(f"{shown!r}: a port is from 1 to 65535")
        if re.search("[+#\0]", topic) or topic.startswith("$") or not 0 < len(topic.encode()) <= 500:
            raise ConfigError(f"{shown!r}: a topic is 1 to 500 bytes without '+' and '#', and begins with no '$'")
        secret = unquote(secret) if secret is not None else password
        if secret is not None and not user:
            raise ConfigError(f"{shown!r}: a password needs a user: {FORM}")
        return cls(host.strip("[]"), number, topic, scheme == "mqtts", unquote(user) if user else None, secret)


class MqttPublisher:
    """Publishes records as JSON, each at least once (QoS 1), in order. It connects, and connects again, by itself.

    `publish` never waits: where more than `most` wait, the oldest is dropped and counted. `log` hears of connections.
    Raises DeviceError without paho-mqtt, ConfigError for a certificate that can't be read.
    """

    def __init__(
        self,
        address: MqttAddress,
        *,
        ca: Path | None = None,
        most: int = MOST_WAITING,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`ca`: certificates in whose name a broker is believed, in place of the system's."""
        try:
            import paho.mqtt.client as mqtt
            from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
        except ImportError:
            raise DeviceError("MQTT needs a package more: pip install 'cutset[mqtt]'") from None
        self.address, self._most, self._log = address, most, log
        self.sent = self.dropped = 0  # what the broker has; what it never got
        self._waiting: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._connected = self._closing = False
        self._tried = False  # the broker was there once, or couldn't be reached
        self._unanswered: set[int] = set()  # numbers of messages, as those that follow
        self._early: set[int] = set()  # answered before `publish` had returned
        self._hellos: set[int] = set()
        self._said = ""
        self._full = MQTTErrorCode.MQTT_ERR_QUEUE_SIZE
        self._client: Any = mqtt.Client(CallbackAPIVersion.VERSION2)
        client = self._client
        client.will_set(self._available, "offline", qos=1, retain=True)
        if address.user is not None:
            client.username_pw_set(address.user, address.password)
        if address.tls:
            try:
                client.tls_set_context(ssl.create_default_context(cafile=None if ca is None else str(ca)))
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"--mqtt-ca: {ca} has no certificate that can be read: {error}") from None
        elif ca is not None:
            raise ConfigError("--mqtt-ca is for mqtts://: mqtt:// is neither encrypted nor authenticated")
        client.max_inflight_messages_set(MOST_UNANSWERED)
        client.reconnect_delay_set(1, SLOWEST)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_connect_fail, client.on_publish = self._on_connect_fail, self._on_publish
        client.connect_async(address.host, address.port, KEEPALIVE)
        client.loop_start()
        self._thread = threading.Thread(target=self._run, name="cutset-mqtt", daemon=True)
        self._thread.start()

    @property
    def _available(self) -> str:
        return f"{self.address.topic}/available"

    def publish(self, record: dict[str, Any]) -> None:
        """Takes a record; from any thread."""
        data = json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
        with self._changed:
            self._waiting.append(data)
            while len(self._waiting) > self._most:
                self._waiting.popleft()
                self.dropped += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Sends what waits, for a short while, and says goodbye. A second call does nothing."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._connected:
            with contextlib.suppress(RuntimeError, ValueError):  # the connection is gone: the broker says it itself
                self._client.publish(self._available, "offline", qos=1, retain=True).wait_for_publish(GOODBYE / 2)
        self._client.disconnect()
        self._client.loop_stop()
        with self._changed:
            self.dropped += len(self._waiting) + len(self._unanswered)
            self._waiting.clear()
            self._unanswered.clear()

    def line(self) -> str:
        """What is said at the end."""
        lost = f", {self.dropped} dropped" if self.dropped else ""
        return f"{self.address}: {self.sent} events sent{lost}"

    def _run(self) -> None:
        until: float | None = None
        while True:
            with self._changed:
                while not self._may_send():
                    if self._closing:
                        until = until or time.monotonic() + GOODBYE
                        away = self._tried and not self._connected
                        if not (self._waiting or self._unanswered) or time.monotonic() >= until or away:
                            return
                    self._changed.wait(0.1 if self._closing else None)
                data = self._waiting.popleft()
            info = self._client.publish(self.address.topic, data, qos=1)
            with self._changed:
                if info.rc == self._full:
                    self._waiting.appendleft(data)
                    self._changed.wait(0.1)
                elif info.mid in self._early:
                    self._early.remove(info.mid)
                    self.sent += 1
                else:
                    self._unanswered.add(info.mid)

    def _may_send(self) -> bool:
        return self._connected and bool(self._waiting) and len(self._unanswered) < MOST_UNANSWERED

    # Paho's thread.

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._has_tried()
            self._say(f"{self.address} refuses the connection: {reason}")
            return
        self._say(f"{self.address} is connected")
        hello = client.publish(self._available, "online", qos=1, retain=True)
        with self._changed:
            self._hellos.add(hello.mid)
            self._connected = self._tried = True
            self._changed.notify_all()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        with self._changed:
            was, self._connected = self._connected, False
            self._changed.notify_all()
        if was and not self._closing:
            self._say(f"{self.address} is gone: {reason}; events wait")

    def _has_tried(self) -> None:
        with self._changed:
            self._tried = True
            self._changed.notify_all()

    def _on_connect_fail(self, client: Any, data: Any) -> None:
        self._has_tried()
        self._say(f"{self.address} can't be reached; trying again")

    def _on_publish(self, client: Any, data: Any, number: int, reason: Any, properties: Any) -> None:
        with self._changed:
            if number in self._hellos:
                self._hellos.remove(number)
            elif number in self._unanswered:
                self._unanswered.remove(number)
                self.sent += 1
            elif not self._closing:
                self._early.add(number)
            self._changed.notify_all()

    def _say(self, line: str) -> None:
        if line != self._said:  # not at every try
            self._said = line
            self._log(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
