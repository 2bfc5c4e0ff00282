"""Who makes pads and who multiplies must not be on one host, however its address is written."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cutset.config import load_settings
from cutset.errors import OffloadError
from cutset.link.keys import new_keys, save_keys
from cutset.offload.client.offload import _check_apart


def check(offload: str, pads_from: str, **more: object) -> None:
    _check_apart(load_settings({"offload": offload, "pads_from": pads_from, **more}))


@pytest.mark.parametrize(
    ("offload", "pads_from"),
    [
        ("tcp://203.0.113.77:1", "tcp://203.0.113.77:2"),
        ("tcp://203.0.113.77:1", "tcp://[::ffff:203.0.113.77]:2"),
        ("shm://a", "shm://b"),
        ("shm://a", "ipc:///tmp/b"),
        ("shm://a", "tcp://127.0.0.1:2"),
        ("shm://a", "tcp://127.1.2.3:2"),
        ("shm://a", "tcp://[::1]:2"),
        ("shm://a", "tcp://[::ffff:127.0.0.1]:2"),
        ("shm://a", "tcp://0.0.0.0:2"),
        ("tcp://[::]:1", "tcp://localhost:2"),
    ],
)
def test_one_host(offload: str, pads_from: str) -> None:
    for pair in ((offload, pads_from), (pads_from, offload)):
        with pytest.raises(OffloadError, match="one host"):
            check(*pair)
        check(*pair, pads_same_host=True)


def test_every_interface_is_this_machine() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))  # sends nothing; says from where it would
            own = probe.getsockname()[0]
        except OSError:  # no network
            own = "127.0.0.1"
    with pytest.raises(OffloadError, match="one host"):
        check("shm://a", f"tcp://{own}:2")


def test_two_hosts() -> None:
    check("tcp://203.0.113.77:1", "tcp://203.0.113.78:1")
    check("shm://a", "tcp://203.0.113.78:1")


def test_one_key(tmp_path: Path) -> None:
    _, public = save_keys(new_keys(), "one", tmp_path)
    with pytest.raises(OffloadError, match="same key"):
        check("tcp://203.0.113.77:1", "tcp://203.0.113.78:1", pads_key=public, accelerator_key=public)
