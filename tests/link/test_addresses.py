"""Addresses, limits and timeouts: what is refused; and what importing links loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cutset.errors import ConfigError
from cutset.link import Address, Limits, Timeouts, connect, listen, parse_address


@pytest.mark.parametrize(
    "text",
    [
        "inproc://a",
        "shm://a.b-c_9",
        "ipc:///tmp/x y",
        "ipc://relative",
        "tcp://host:1",
        "tcp://a_b.c-d.example.:1",
        "tcp://[::1]:65535",
        "tcp://*:0",
    ],
)
def test_addresses(text: str) -> None:
    assert str(parse_address(text)) == text
    assert parse_address(text) == Address(*text.split("://"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "shm:/a",
        "http://a",
        "shm://",
        "shm://../a",
        "shm://a/b",
        "shm://.a",
        "shm://" + "a" * 65,
        "ipc://",
        "ipc://@abstract",
        "ipc://a\0b",
        "ipc://" + "a" * 101,
        "ipc://" + "ä" * 51,
        "ipc://\udcff",
        "tcp://host",
        "tcp://host:",
        "tcp://a..b:5",
        "tcp://.:5",
        "tcp://" + "a" * 64 + ".b:5",
        "tcp://" + "a." * 127 + "b:5",
        "tcp://host:70000",
        "tcp://:5",
        "tcp://ho st:5",
        "tcp://host:5;x",
        "tcp://host:٣",
    ],
)
def test_what_isn_t_an_address(text: str) -> None:
    for call in (parse_address, connect, listen):
        with pytest.raises(ConfigError):
            call(text)


def test_values_out_of_range() -> None:
    for name in ("connect", "send", "recv", "spin"):
        for value in (-1, float("nan"), float("inf"), None, "1", True):
            with pytest.raises(ConfigError, match=name):
                Timeouts(**{name: value})
    for name in ("frame", "ring", "max_ring", "queue", "clients"):
        for value in (0, -1, 1 << 40, 1.5, None, True):
            with pytest.raises(ConfigError, match=name):
                Limits(**{name: value})


def test_importing_links_loads_neither_zeromq_nor_the_kernels() -> None:
    code = "import sys, cutset.link; assert not {'zmq', 'cryptography', 'cutset.kernels'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    code = "import sys; from cutset.link import shm_client; assert 'zmq' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
