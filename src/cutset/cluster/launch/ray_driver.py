"""The process that talks to Ray: places parties, starts them, and reports which of them are there and which are gone.

It is a child of the process that serves, which thus loads nothing of Ray's: no pickle from the cluster is read beside a
secret key, a driver that Ray ends (as when the head is gone for a minute) ends alone, and one that hangs is killed.
Commands come as lines of JSON on stdin, events go as lines of JSON to stdout:

    → {"command": "begin", "where", "nodes", "cpus", "gpus", "folder", "token", "insecure",
       "parties": {name: party}}                           ← {"event": "step", "what"}
    → {"command": "add", "name", "party"}                  ← {"event": "placed", "where", "address"}
    → {"command": "start", "name", "number"}               ← {"event": "up", "name", "number", "address", "key", "node"}
    → {"command": "stop", "name"}                          ← {"event": "waiting", "name", "number", "why"}
    → {"command": "end"}                                   ← {"event": "gone", "name", "number", "why"}
                                                           ← {"event": "failed", "why"}

A party is {"needs", "order", "number"}: the number tells its starts apart, and comes back with what became of each.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from cutset.cluster.launch.party_cluster import PartyCluster
from cutset.cluster.launch.party_needs import Needs, no_room
from cutset.errors import CutsetError, LinkError, printable

__all__ = ["RayDriver", "serve"]

TICK = 0.25  # seconds that a look at the parties takes at most
ROOM = 20.0  # seconds that the cluster gets to make room for all parties
LONGEST_WHY = 300  # characters
SLOW = 10.0  # seconds after which it is said that a party waits for room


class RayDriver:
    """Runs until `end`, or until nobody sends commands any more. `say` gets the events."""

    def __init__(self, cluster: PartyCluster, say: Callable[[dict[str, Any]], None]) -> None:
        self._cluster, self._say = cluster, say
        self._orders: dict[str, Mapping[str, Any]] = {}
        self._numbers: dict[str, int] = {}  # of their last starts
        self._alone: set[str] = set()  # parties that came later, each of which has a place by itself
        self._attempts: dict[str, Any] = {}  # that are being started, or run
        self._since: dict[str, float] = {}  # when one was begun that isn't there yet
        self._where = ""

    def run(self, commands: queue.Queue[dict[str, Any] | None]) -> None:
        """Raises CutsetError where the parties can't be placed."""
        try:
            while True:
                try:
                    command = commands.get(timeout=None if not self._attempts else 0.0)
                except queue.Empty:
                    self._look()
                    continue
                if command is None or command["command"] == "end":
                    return
                if command["command"] == "begin":
                    self._begin(command)
                elif command["command"] == "add":
                    self._add(command["name"], command["party"])
                elif command["command"] == "start":
                    self._start(command["name"], command["number"])
                elif command["command"] == "stop":
                    self._stop(command["name"])
        finally:
            for attempt in self._attempts.values():
                self._cluster.end(attempt)
            self._cluster.close()

    def _begin(self, command: Mapping[str, Any]) -> None:
        self._say({"event": "step", "what": "connecting"})
        self._where = self._cluster.open(command)
        self._orders = {name: party["order"] for name, party in command["parties"].items()}
        needs = {name: Needs(**party["needs"]) for name, party in command["parties"].items()}
        self._say({"event": "step", "what": "placing"})
        free = self._cluster.reserve(needs, ROOM) if needs else ""
        if free:
            raise LinkError(no_room(needs.values(), f"the Ray cluster at {self._where}", free))
        self._say({"event": "placed", "where": f"the Ray cluster at {self._where}", "address": self._where})
        for name, party in command["parties"].items():
            self._start(name, party["number"])

    def _add(self, name: str, party: Mapping[str, Any]) -> None:
        """One more, or one of before with another order; it waits for room where there is none."""
        if name not in self._orders:
            try:
                self._cluster.reserve({name: Needs(**party["needs"])}, 0.0)
            except CutsetError as error:
                self._say({"event": "gone", "name": name, "number": party["number"], "why": _one_line(str(error))})
                return
            self._alone.add(name)
        self._orders[name] = party["order"]
        self._start(name, party["number"])

    def _start(self, name: str, number: int) -> None:
        if name in self._attempts:
            self._cluster.end(self._attempts.pop(name))
        self._numbers[name] = number
        self._attempts[name] = self._cluster.begin(name, self._orders[name])
        self._since[name] = time.monotonic()

    def _stop(self, name: str) -> None:
        """Ends a party. One that was there from the beginning keeps its place among the others."""
        self._since.pop(name, None)
        if name in self._attempts:
            self._cluster.end(self._attempts.pop(name))
        if name in self._alone:
            self._alone.discard(name)
            del self._orders[name]
            self._cluster.release(name)

    def _look(self) -> None:
        names = {id(attempt): name for name, attempt in self._attempts.items()}
        for event in self._cluster.wait(list(self._attempts.values()), TICK):
            name = names[id(event.attempt)]
            if event.place is not None:
                self._since.pop(name, None)
                self._tell("up", name, **event.place)
            else:
                self._since.pop(name, None)
                self._cluster.end(self._attempts.pop(name))
                self._tell("gone", name, why=_one_line(event.why))
        now = time.monotonic()
        for name in [name for name, since in self._since.items() if now - since > SLOW]:
            del self._since[name]
            self._tell("waiting", name, why=f"it isn't there yet; free: {self._cluster.free()}")

    def _tell(self, event: str, name: str, **what: Any) -> None:
        self._say({"event": event, "name": name, "number": self._numbers[name], **what})


def _one_line(why: str) -> str:
    """The end of a text, in which most often the reason is."""
    words = printable(" ".join(why.split()))
    return words if len(words) <= LONGEST_WHY else f"… {words[-LONGEST_WHY:]}"


def serve(cluster: Callable[[], PartyCluster]) -> None:
    """Serves the parent by stdin and stdout. What others print goes to stderr: stdout has events alone."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    commands: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            commands.put(json.loads(line))
        commands.put(None)

    def say(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    threading.Thread(target=read, name="cutset-ray-commands", daemon=True).start()
    try:
        RayDriver(cluster(), say).run(commands)
    except CutsetError as error:
        say({"event": "failed", "why": str(error)})
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        say({"event": "failed", "why": printable(f"Ray failed: {type(error).__name__}: {lines[-1]}")[:400]})


def main() -> None:
    """With the Ray that is installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before Ray is loaded: it sends nothing to its makers

    def cluster() -> PartyCluster:
        from cutset.cluster.launch.ray_cluster import RayCluster

        return RayCluster()

    serve(cluster)


if __name__ == "__main__":
    main()
