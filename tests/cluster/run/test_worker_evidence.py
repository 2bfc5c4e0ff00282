"""Workers of a stream that show evidence, and coordinators and workers that want it before a picture goes out."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cluster.launch.fake_ray import lives, until
from cluster.run.pictures import expected, moving, same, small_model
from cluster.run.running import Running, torch_settings
from cutset.cli import main
from cutset.cluster.coordinator.remote import Remote
from cutset.cluster.launch.local import LocalWorkers
from cutset.cluster.launch.party_evidence import PartyEvidence
from cutset.cluster.messages import HANDSHAKE, MINOR, Card, encode
from cutset.cluster.wire import LIMITS
from cutset.errors import ConfigError, LinkError
from cutset.link import Timeouts, connect
from cutset.link.keys import Keys, new_keys, save_keys
from cutset.link.peer import is_hello
from cutset.stream import Stream
from cutset.trust.evidence.link_evidence import verify_by
from link.recorder import WRONG, Recorder, policy_for, shown

CARD = encode(Card("a test", 1, 1, 0, "none", "cpu", MINOR))
PARENT = """
import sys
from cutset.cluster.launch.local import LocalWorkers
from cutset.cluster.launch.party_evidence import PartyEvidence
workers = LocalWorkers(2, evidence=PartyEvidence("simulator"))
print(workers.directory, *(workers.process(one).pid for one in workers.names), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return policy_for(tmp_path / "policy.toml", "worker")


def refused(stream: Stream, why: str) -> None:
    """Waits until its one worker is refused for this; after that it is there for nobody."""
    [remote] = stream.coordinator.remotes.values()
    until(lambda: re.search(why, remote.why))
    assert not remote.up
    assert not stream.coordinator.plans


def test_workers_that_are_started_here_show_it_and_ask_each_other(policy: Path) -> None:
    pictures, said = moving(6), list[str]()
    how: dict[str, Any] = {"worker_policy": policy, "worker_evidence": "simulator", "scheduler": "even"}
    with Stream(small_model(), pictures, workers=2, log=said.append, **how) as stream:
        local = stream.local
        assert local is not None
        places = local.addresses
        assert all(where.startswith("tcp://127.0.0.1:") for where, _ in places.values())
        assert len({key for _, key in places.values()}) == 2
        assert not list(local.directory.rglob("*.key")), "whoever has read its pair has it alone"
        commands = [Path(f"/proc/{local.process(name).pid}/cmdline").read_bytes() for name in local.names]
        assert all(f"--worker-policy\0{policy}\0".encode() in command for command in commands)
        address, key = places["worker1"]
        assert key is not None
        with pytest.raises(LinkError):  # who else is on this machine isn't admitted
            connect(address, keys=new_keys().expecting(key), timeouts=Timeouts(connect=1.0))
        results = list(stream)
    same(results, expected(pictures))
    assert sum("NOT CONFIDENTIAL" in line for line in said) == 2, "of each worker once"


def test_one_that_is_started_again_has_another_key_and_is_asked_again(policy: Path) -> None:
    pictures, said, started = moving(30), list[str](), list[Stream]()

    def source() -> Iterator[Any]:
        for number, picture in enumerate(pictures):
            if number == 5:
                assert started[0].local is not None
                started[0].local.process("worker1").kill()
            yield picture

    how: dict[str, Any] = {"worker_policy": policy, "worker_evidence": "simulator", "scheduler": "even"}
    with Stream(small_model(), source(), workers=1, log=said.append, patience=60.0, in_flight=2, **how) as stream:
        local = stream.local
        assert local is not None
        before = local.locate("worker1")
        started.append(stream)
        results = list(stream)
        assert local.locate("worker1")[1] != before[1]
    same(results, expected(pictures))
    assert sum("NOT CONFIDENTIAL" in line for line in said) == 2, "once of each key"


def test_none_gets_anything_where_what_is_started_here_does_not_fit(tmp_path: Path) -> None:
    other = policy_for(tmp_path / "other.toml", "worker", measured=b"other")
    with LocalWorkers(1, evidence=PartyEvidence("simulator")) as local:
        how: dict[str, Any] = {"workers": local.addresses, "keys": local.keys, "worker_policy": other}
        with Stream(small_model(), moving(2), **how) as stream:
            refused(stream, WRONG["another enclave"])


def test_one_that_has_no_evidence_here_says_why_and_nobody_stays() -> None:
    with pytest.raises(ConfigError, match=r"worker1 can't be started: .*isn't there|can't be read"):
        LocalWorkers(1, extra=["--evidence-root", "/nowhere"], evidence=PartyEvidence("tdx"))


def test_none_stays_when_their_process_is_killed() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdout is not None
        directory, *pids = parent.stdout.readline().split()
        assert len(pids) == 2
        assert all(lives(int(pid)) for pid in pids)
        parent.kill()
    until(lambda: not Path(directory).exists() and not any(lives(int(pid)) for pid in pids))


def recorded(mine: Keys, wrong: str = "") -> Recorder:
    return Recorder(shown(HANDSHAKE, "worker", wrong), mine, LIMITS, about=CARD)


@pytest.mark.parametrize("wrong", ["", *WRONG])
def test_on_the_wire_nothing_but_hello_leaves_before_the_evidence_fits(wrong: str, policy: Path) -> None:
    """Where it fits, the network does, so that this test would see it."""
    mine = new_keys()
    with recorded(mine, wrong).running() as worker:
        named = {"w": (worker.address, worker.keys.public)}
        with Stream(small_model(), moving(2), workers=named, keys=mine, worker_policy=policy) as stream:
            if wrong:
                refused(stream, WRONG[wrong])
            else:
                until(lambda: any(small_model().digest.encode() in frame for frame in worker.frames))
    assert worker.hellos
    others = [frame for frame in worker.frames if not is_hello(frame) and b"\xa4ping" not in frame[:8]]
    assert bool(others) == (not wrong)


def test_other_workers_are_told_of_a_new_place_only_once_its_evidence_fits(policy: Path) -> None:
    """Whoever says where a worker is now, as Ray does, can't have the one before it hand on to another key."""
    mine = new_keys()
    asking = replace(HANDSHAKE, verify=verify_by(policy, warn=lambda line: None))
    with recorded(mine).running() as one, recorded(mine, "none").running() as two:
        places: list[tuple[str, bytes | None]] = [(one.address, one.keys.public)]
        how: dict[str, Any] = {"session": bytes(16), "callback": lambda event: None, "keys": mine, "handshake": asking}
        remote = Remote("w", one.address, key=one.keys.public, locate=lambda name: places[-1], **how)
        try:
            until(lambda: remote.up)
            places.append((two.address, two.keys.public))
            remote.cut("it is elsewhere")
            until(lambda: two.hellos and WRONG["none"] in remote.why)
            assert not remote.up
            assert remote.seen_by(remote).key == one.keys.public
        finally:
            remote.close()


@pytest.mark.parametrize("wrong", ["", *WRONG])
def test_a_worker_asks_the_one_behind_it(wrong: str, policy: Path) -> None:
    """Who coordinates asks nobody here; the first worker does, and hands on what it has made only where that fits."""
    mine, ours = new_keys(), new_keys()
    allow = frozenset([mine.public])
    asking = torch_settings(keys=ours, coordinators=allow, verify_next=verify_by(policy, warn=lambda line: None))
    first, pictures = Running("tcp://127.0.0.1:0", asking, keys=ours, allow=allow), moving(4)
    theirs = new_keys()
    proving = torch_settings(keys=theirs, coordinators=allow, handshake=shown(HANDSHAKE, "worker", wrong))
    second = Running("tcp://127.0.0.1:0", proving, keys=theirs, allow=allow)
    try:
        named = {"a": (first.address, ours.public), "b": (second.address, theirs.public)}
        with Stream(small_model(), pictures, workers=named, keys=mine, scheduler="even") as stream:
            results = list(stream)
            workers = [stage.worker for stage in stream.coordinator.plans[-1][1].stages]
        same(results, expected(pictures))
        assert workers == (["a", "b"] if not wrong else ["a"])
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"workers": 2, "worker_evidence": ""}, "--worker-evidence says"),
        ({"workers": ["ipc:///tmp/x"], "worker_evidence": ""}, "ipc:///tmp/x has none"),
        ({"workers": ["tcp://127.0.0.1:1"]}, "start those at addresses with --evidence simulator"),
        ({"worker_policy": None}, "nobody asks for it"),
        ({"worker_policy": Path("/nowhere.toml")}, "nowhere"),
    ],
)
def test_settings_that_promise_nothing(policy: Path, tmp_path: Path, change: dict[str, Any], match: str) -> None:
    right: dict[str, Any] = {"workers": 1, "worker_policy": policy, "worker_evidence": "simulator"}
    with pytest.raises(ConfigError, match=match):
        Stream(small_model(), moving(1), **(right | change)).close()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--listen", "shm://x", "--evidence", "simulator"], "tcp://"),
        (["--listen", "ipc:///tmp/x", "--worker-policy", "p"], "over tcp"),
        (["--listen", "shm://x", "--evidence-root", "/x"], "--evidence"),
        (["--listen", "tcp://127.0.0.1:0", "--evidence", "tdx", "--evidence-root", "/nowhere"], "isn't there"),
        (["--listen", "tcp://127.0.0.1:0", "--worker-policy", "/nowhere.toml"], "nowhere"),
    ],
)
def test_flags_that_promise_nothing(words: list[str], match: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", "worker", *words]) == 2
    said = capsys.readouterr().err
    assert match in said
    assert len(said.splitlines()) == 1


def test_the_command_shows_evidence_of_its_weights(tmp_path: Path) -> None:
    """By hand, as on another machine: the manifest has the file of weights that the worker was started with."""
    from cutset.link.launch import PIPE, Child, environment
    from cutset.trust.evidence.served_files import manifest_digest, served_files

    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((2).to_bytes(8, "little") + b"{}")
    mine, ours = new_keys(), new_keys()
    save_keys(mine, "me", tmp_path)
    save_keys(ours, "worker", tmp_path)
    manifest = manifest_digest(served_files({weights.name: weights})).hex()
    good = policy_for(tmp_path / "good.toml", "worker", manifest=manifest)
    other = policy_for(tmp_path / "other.toml", "worker")
    words = ["stream", "worker", "--listen", "tcp://127.0.0.1:0", "--key", str(tmp_path / "worker.key")]
    words += ["--allow", str(tmp_path / "me.pub"), "--threads", "1", "--evidence", "simulator"]
    child = Child("worker", ["cutset.cli", *words, "--weights", str(weights)], env=environment(1), stderr=PIPE)
    try:
        address = child.until(r"listening on (tcp://\S+),")[1]
        named, pictures = {"w": (address, ours.public)}, moving(3)
        with Stream(small_model(), pictures, workers=named, keys=mine, worker_policy=good) as stream:
            same(list(stream), expected(pictures))
        with Stream(small_model(), pictures, workers=named, keys=mine, worker_policy=other) as stream:
            refused(stream, "manifest")
    finally:
        child.end()
