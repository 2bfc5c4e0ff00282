"""Events over MQTT, with Debian's broker: they arrive in order, also after it was away, and hold up nobody."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paho.mqtt.client")

from cutset.errors import ConfigError
from cutset.video.zones.mqtt import MqttAddress, MqttPublisher
from video.zones.broker import BROKER, Broker, Subscriber, wait_until


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if BROKER is None:
        pytest.skip("Debian's mosquitto is not installed")
    found = Broker(tmp_path)
    yield found
    found.stop()


def test_events_arrive_in_order_with_who_is_there(broker: Broker) -> None:
    listener = Subscriber(broker.port, "house/#")
    try:
        address = MqttAddress.parse(f"mqtt://localhost:{broker.port}/house/events")
        with MqttPublisher(address) as publisher:
            assert listener.next() == ("house/events/available", "online")
            for i in range(300):
                publisher.publish({"event": "enters", "number": i, "zone": "ü"})
            for i in range(300):
                assert listener.next() == ("house/events", {"event": "enters", "number": i, "zone": "ü"})
            wait_until(lambda: publisher.sent == 300)
        assert listener.next() == ("house/events/available", "offline")
        assert publisher.line() == f"mqtt://localhost:{broker.port}/house/events: 300 events sent"
    finally:
        listener.close()


def test_what_is_published_at_once_before_the_end_arrives(broker: Broker) -> None:
    listener = Subscriber(broker.port, "a")
    try:
        for i in range(3):
            with MqttPublisher(MqttAddress.parse(f"mqtt://127.0.0.1:{broker.port}/a")) as publisher:
                publisher.publish({"number": i})
            assert (publisher.sent, publisher.dropped) == (1, 0)
            assert listener.next() == ("a", {"number": i})
    finally:
        listener.close()


@pytest.mark.slow
def test_a_broker_that_goes_gets_what_waited_and_the_oldest_is_dropped(broker: Broker) -> None:
    said: list[str] = []
    address = MqttAddress.parse(f"mqtt://127.0.0.1:{broker.port}/a")
    with MqttPublisher(address, most=50, log=said.append) as publisher:
        wait_until(lambda: said)
        broker.stop()
        wait_until(lambda: len(said) > 1)
        begun = time.monotonic()
        for i in range(200):
            publisher.publish({"number": i})
        assert time.monotonic() - begun < 1, "who gives events doesn't wait"
        assert publisher.dropped == 150
        broker.start()
        listener = Subscriber(broker.port, "a")
        try:
            wait_until(lambda: publisher.sent == 50, 40)
            heard = []
            while not listener.heard.empty():
                heard.append(listener.heard.get()[1]["number"])
            assert heard == list(range(150, 200))
        finally:
            listener.close()
    assert "150 dropped" in publisher.line()
    assert any("is gone" in line for line in said)


def test_without_a_broker_nobody_waits_and_the_end_comes_soon() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and doesn't listen
        address = MqttAddress.parse(f"mqtt://127.0.0.1:{taken.getsockname()[1]}/a")
        publisher = MqttPublisher(address, most=3)
        for i in range(10):
            publisher.publish({"number": i})
        assert publisher.dropped == 7
        begun = time.monotonic()
        publisher.close()
        publisher.close()
        assert time.monotonic() - begun < 8
        assert (publisher.sent, publisher.dropped) == (0, 10)


# Paho leaves a socket whose handshake failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning")
def test_tls_and_passwords(tmp_path: Path) -> None:
    if BROKER is None:
        pytest.skip("Debian's mosquitto is not installed")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names]
    for name in ("own", "other"):
        files = ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem")]
        subprocess.run([*new, *files], check=True, capture_output=True)
    password = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(password), "me", "se:cr et"], check=True, capture_output=True)
    broker = Broker(
        tmp_path,
        f"certfile {tmp_path}/own.pem\nkeyfile {tmp_path}/own.key\nallow_anonymous false\npassword_file {password}\n",
    )
    said: list[str] = []
    try:
        where = f"localhost:{broker.port}/a"
        right = MqttAddress.parse(f"mqtts://me@{where}", "se:cr et")
        with MqttPublisher(right, ca=tmp_path / "own.pem") as publisher:
            publisher.publish({"a": 1})
            wait_until(lambda: publisher.sent == 1)
        for address, ca in (
            (right, tmp_path / "other.pem"),
            (MqttAddress.parse(f"mqtts://me:wrong@{where}"), tmp_path / "own.pem"),
        ):
            said.clear()
            with MqttPublisher(address, ca=ca, log=said.append) as publisher:
                publisher.publish({"a": 1})
                wait_until(lambda: said)
                assert publisher.sent == 0
            assert "connected" not in said[0]
            assert "wrong" not in said[0]
    finally:
        broker.stop()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("mqtt://h/a", ("h", 1883, "a", False, None, None)),
        ("mqtts://h.example:99/a/b", ("h.example", 99, "a/b", True, None, None)),
        ("mqtt://u:p%40@[::1]:5/a%20b/", ("::1", 5, "a b", False, "u", "p@")),
        ("mqtt://u@10.0.0.1/x", ("10.0.0.1", 1883, "x", False, "u", "from outside")),
    ],
)
def test_addresses(text: str, parts: tuple[Any, ...]) -> None:
    found = MqttAddress.parse(text, "from outside" if "u@" in text else None)
    assert (found.host, found.port, found.topic, found.tls, found.user, found.password) == parts
    assert "p@" not in f"{found} {found!r}"
    assert "outside" not in f"{found} {found!r}"


@pytest.mark.parametrize(
    "text",
    [
        *("", "h/a", "http://h/a", "mqtt://h", "mqtt://h/", "mqtt://h:0/a", "mqtt://h:70000/a", "mqtt://h/a+b"),
        *("mqtt://h/#", "mqtt://h/$SYS", "mqtt://h/" + "a" * 501, "mqtt:///a"),
        *("mqtt://u:hidden@h o/a", "mqtt://:hidden@h/a", "mqtt://u:hid/hidden@h/a", "mqtt:/u:hidden@h/a"),
        *("u:hidden@h/a", "mqtt://u:hidden@x@h/a", "mqtt://h//", "mqtt://h/%2F"),
        *("mqtt://a..b/t", "mqtt://" + "a" * 64 + "/t", "mqtt://./t"),
    ],
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MqttAddress.parse(text)
    assert "hidden" not in str(caught.value)


def test_certificates_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for ca in (tmp_path / "ca.pem", tmp_path / "gone.pem"):
        with pytest.raises(ConfigError, match="no certificate"):
            MqttPublisher(MqttAddress.parse("mqtts://localhost/a"), ca=ca)
    with pytest.raises(ConfigError, match="mqtts"):
        MqttPublisher(MqttAddress.parse("mqtt://localhost/a"), ca=tmp_path / "ca.pem")
