"""The small part of Ray that is used, without Ray: nodes that are names, actors that are objects, real parties.

Parties are what an actor runs on its node: they make their keys, and are processes that listen on tcp.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutset.cluster.launch.party_cluster import PartyEvent
from cutset.cluster.launch.party_needs import Needs
from cutset.cluster.launch.ray_driver import RayDriver
from cutset.cluster.launch.ray_party import RayParty
from cutset.errors import CutsetError, EngineError
from cutset.link.keys import Keys, load_keys


class OnLoopback(RayParty):
    """Of which a node's address is known without Ray."""

    keys: Keys  # which the test knows, to try what is to be refused

    def host(self) -> str:
        return "127.0.0.1"

    def enrolled(self, secret: Path) -> None:
        self.keys = load_keys(secret)


@dataclass(eq=False)
class FakeAttempt:
    name: str
    order: dict[str, Any]
    party: OnLoopback
    node: str = ""  # where it runs; "" while there is no room
    over: bool = False

    def kill(self) -> None:
        """As when its machine is gone: without a word."""
        if self.party._child is not None:
            self.party._child.kill()


class FakeCluster:
    """Nodes by name, with so many processors. A node that is removed takes its parties with it, and their places go to
    another node that has room, or wait for one."""

    def __init__(self, nodes: Mapping[str, float], answers: str = "") -> None:
        """`answers`: what it raises when somebody connects."""
        self.nodes = dict(nodes)
        self.answers = answers
        self.orders: list[Mapping[str, Any]] = []  # that `open` got
        self.made: list[FakeAttempt] = []
        self.closed = 0
        self.head = True  # can be reached
        self._needs: dict[str, Needs] = {}
        self._placed: dict[str, str] = {}  # party to node
        self._came: queue.Queue[PartyEvent] = queue.Queue()
        self._lock = threading.RLock()

    def open(self, order: Mapping[str, Any]) -> str:
        self.orders.append(order)
        if self.answers or not self.head:
            raise CutsetError(self.answers or "no Ray cluster can be reached")
        return "fake:6379"

    def reserve(self, needs: Mapping[str, Needs], seconds: float) -> str:
        with self._lock:
            if seconds:  # the first of a driver
                self._needs, self._placed = {}, {}
            self._needs |= needs
            self._place()
            return "" if not seconds or needs.keys() <= self._placed.keys() else self.free()

    def release(self, name: str) -> None:
        with self._lock:
            del self._needs[name]
            self._placed.pop(name, None)

    def reserved(self) -> list[str]:
        """Parties that have places, or wait for some."""
        return list(self._needs)

    def _left(self, node: str) -> float:
        return self.nodes[node] - sum(self._needs[one].cpus for one, where in self._placed.items() if where == node)

    def _place(self) -> None:
        for one, need in self._needs.items():
            fitting = [n for n in self.nodes if self._left(n) >= need.cpus and need.node in ("", n)]
            if one not in self._placed and fitting:
                self._placed[one] = max(fitting, key=self._left)
        for attempt in self.made:
            if not attempt.node and not attempt.over and attempt.name in self._placed:
                self._run(attempt)

    def begin(self, name: str, order: Mapping[str, Any]) -> FakeAttempt:
        with self._lock:
            attempt = FakeAttempt(name, dict(order), OnLoopback())
            self.made.append(attempt)
            if name in self._placed:
                self._run(attempt)
            return attempt

    def _run(self, attempt: FakeAttempt) -> None:
        attempt.node = self._placed[attempt.name]

        def live() -> None:
            try:
                place = attempt.party.begin(attempt.order)
                if attempt.over:
                    attempt.party.stop()
                place = {name: place[name] for name in ("address", "key", "pid")} | {"node": attempt.node}
                self._came.put(PartyEvent(attempt, place))
                why = attempt.party.wait()
            except Exception as error:
                why = str(error)
            if not attempt.over:
                self._came.put(PartyEvent(attempt, why=why))

        threading.Thread(target=live, daemon=True).start()

    def wait(self, attempts: Sequence[FakeAttempt], seconds: float) -> Sequence[PartyEvent]:
        try:
            event = self._came.get(timeout=seconds)
        except queue.Empty:
            return []
        if event.attempt in attempts:
            return [event]
        if not event.attempt.over:  # another driver's
            self._came.put(event)
            time.sleep(0.01)
        return []

    def end(self, attempt: FakeAttempt) -> None:
        attempt.over = True
        attempt.party.stop()

    def free(self) -> str:
        with self._lock:
            return "; ".join(f"{name} {self._left(name):g} of {cpus:g} CPU" for name, cpus in self.nodes.items())

    def close(self) -> None:
        self.closed += 1

    # What tests do to it.

    def remove_node(self, name: str) -> list[str]:
        """A machine goes away. The parties that were there."""
        with self._lock:
            del self.nodes[name]
            lost = [one for one, where in self._placed.items() if where == name]
            for one in lost:
                del self._placed[one]
            gone = [one for one in self.made if one.node == name and not one.over]
            for attempt in gone:
                attempt.over = True
                attempt.kill()
                self._came.put(PartyEvent(attempt, why="its node is gone"))
            self._place()
            return lost

    def add_node(self, name: str, cpus: float) -> None:
        with self._lock:
            self.nodes[name] = cpus
            self._place()

    def living(self) -> list[int]:
        """Process ids of parties that run."""
        children = [one.party._child for one in self.made if one.party._child is not None]
        return [child.process.pid for child in children if child.process.poll() is None]


class FakeDriver:
    """The driver's process, as a thread; events and commands are JSON on their way, as between processes."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._commands: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._events: queue.Queue[str] = queue.Queue()
        self._cluster = cluster
        self.dead = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            RayDriver(self._cluster, self._say).run(self._commands)
        except CutsetError as error:
            self._say({"event": "failed", "why": str(error)})
        self._events.put("")

    def _say(self, event: dict[str, Any]) -> None:
        if not self.dead:
            self._events.put(json.dumps(event))

    def ask(self, command: Mapping[str, Any]) -> None:
        if self.dead:
            raise EngineError("Ray's driver ended with -9")
        self._commands.put(json.loads(json.dumps(command)))

    def answer(self) -> dict[str, Any]:
        line = self._events.get()
        if not line:
            raise EngineError("Ray's driver ended with 0")
        event: dict[str, Any] = json.loads(line)
        return event

    def end(self, patience: float = 1.0) -> None:
        if not self.dead:
            self._commands.put(None)
            self._thread.join(patience)

    def die(self) -> None:
        """As when Ray ends it, a minute after its head: no word, and parties go on for a while."""
        self.dead = True
        self._events.put("")

    def end_parties(self) -> None:
        """As when nodes end what a driver left that is dead."""
        self._commands.put(None)
        self._thread.join(20.0)


class Fakes:
    """Drivers of one cluster, in the order of their starts."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster, self.drivers = cluster, list[FakeDriver]()

    def open(self, folder: Path | None = None) -> FakeDriver:
        self.drivers.append(FakeDriver(self.cluster))
        return self.drivers[-1]


def lives(pid: int) -> bool:
    """Whether a process runs: one that has ended, and that nobody has taken note of, doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(true: Any, seconds: float = 60.0) -> None:
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.02)
