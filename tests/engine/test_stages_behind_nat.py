"""Stages in networks that reach out and that nobody reaches into: each in a network namespace of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cutset.link.keys import new_keys, save_keys
from cutset.link.launch import PIPE, Child, environment

PORT, TABLE = 7000, 77
WORDS = ["story", "--prompt", "Once upon a time", "--max-tokens", "24", "--temperature", "0", "--threads", "1"]
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 1.0)
except OSError as error:
    print(error.strerror or error)
"""


@dataclass
class Net:
    """Namespaces: `here`, where the coordinator is, and each of `behind`, at `address`; `outside` is `here` seen from
    there."""

    here: str
    behind: list[str]
    address: list[str]
    outside: list[str]

    def run(self, where: str, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["ip", "netns", "exec", where, *command], capture_output=True, text=True, check=True)

    def tries(self, where: str, host: str, port: int) -> str:
        """What comes of dialling: why not, or nothing."""
        return self.run(where, sys.executable, "-c", CONNECT, host, str(port)).stdout.strip()


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """Packets go from `here` into the others from the rendezvous' own port alone, as through a NAT's table."""
    mark = secrets.token_hex(2)
    found = Net(f"cutset{mark}", [f"cutset{mark}a", f"cutset{mark}b"], ["10.213.1.2", "10.213.2.2"], [])
    with contextlib.ExitStack() as parts:
        for name in (found.here, *found.behind):
            try:
                ip(f"netns add {name}")
                parts.callback(ip, f"netns del {name}")
                ip(f"-n {name} link set lo up")
            except (OSError, subprocess.CalledProcessError):
                pytest.skip("nobody may make network namespaces here")
        ip(f"-n {found.here} rule add ipproto tcp sport {PORT} lookup {TABLE}")
        for number, name in enumerate(found.behind, 1):
            inside, outside, device = found.address[number - 1], f"10.213.{number}.1", f"v{mark}{number}"
            found.outside.append(outside)
            ip(f"link add {device} netns {found.here} type veth peer name {device} netns {name}")
            for where, own in ((found.here, outside), (name, inside)):
                ip(f"-n {where} addr add {own}/32 dev {device}")
                ip(f"-n {where} link set {device} up")
            ip(f"-n {name} route add {outside} dev {device}")
            ip(f"-n {found.here} route add {inside} dev {device} table {TABLE}")
        yield found


def test_the_network_is_one_way(net: Net) -> None:
    assert "unreachable" in net.tries(net.here, net.address[0], 9), "nobody here reaches in"
    assert "unreachable" in net.tries(net.behind[0], net.address[1], 9), "nor does anybody behind reach another one"
    assert "refused" in net.tries(net.behind[0], net.outside[0], PORT), "those behind reach out"


@pytest.mark.slow
def test_two_stages_behind_nat_write_what_one_process_writes(net: Net, tmp_path: Path) -> None:
    for name in ("me", "a", "b"):
        save_keys(new_keys(), name, tmp_path)
    children = []
    try:
        for where, name, outside in zip(net.behind, "ab", net.outside, strict=True):
            command = ["cutset.cli", "stage", "story", "--join", f"tcp://{outside}:{PORT}", "--threads", "1"]
            command += ["--key", str(tmp_path / f"{name}.key"), "--allow", str(tmp_path / "me.pub")]
            prefix = ["ip", "netns", "exec", where]
            children.append(Child(name, command, prefix=prefix, env=environment(1), stderr=PIPE))
        generate = [sys.executable, "-m", "cutset.cli", "generate", *WORDS]
        alone = subprocess.run(generate, capture_output=True, text=True, check=True, env=dict(os.environ))
        staged = net.run(
            net.here, *generate, "--stages-listen", f"tcp://0.0.0.0:{PORT}", "--key", str(tmp_path / "me.key"),
            "--stage-keys", ",".join(str(tmp_path / f"{name}.pub") for name in "ab"),
        )  # fmt: skip
    finally:
        for child in children:
            child.kill()
            if child.process.stderr is not None:
                child.process.stderr.close()
    assert staged.stdout == alone.stdout
    assert "join://a layers 0-2, join://b layers 3-5" in staged.stderr
