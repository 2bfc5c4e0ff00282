"""A client that may harm others, for `python -m benchmarks neighbours`, in a process of its own.

PYTHON benchmarks/hostile.py KIND ADDRESS --matrix N --depth N [--keys DIRECTORY]
  greedy   always has as many products of 256 to 512 rows waiting as it may, and takes its answers
  deaf     sends such products in a loop and never takes an answer, until its link is ended
  stubborn the same, and dials again at once
  idle     says hello and wants nothing: what others are compared with
Reads JSON lines from stdin, {"do": "start"}, {"do": "count"} and {"do": "stop"}, and answers each with one line on
stdout, which says how many products were sent so far, and how many links that took.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

from cutset.errors import LinkError, LinkTimeout
from cutset.link import Limits, Link, connect
from cutset.link.keys import load_keys, load_public
from cutset.offload.accelerator.clients import Quota
from cutset.offload.messages import HANDSHAKE, Multiply, encode

__all__ = ["IDLE", "KINDS", "main"]

KINDS = ("greedy", "deaf", "stubborn")
IDLE = "idle"
ROWS = (256, 512)
WAIT = 0.05  # seconds that the deaf one waits for room
TRIES = 20
SELDOM = 1.0  # seconds between two looks for room where there was none in so many tries
RING = 64 << 20


class Hostile:
    """Works in a thread of its own from `start` to `stop`."""

    def __init__(self, kind: str, address: str, matrix: int, depth: int, keys: Path | None) -> None:
        self.kind, self.address, self.matrix, self.keys = kind, address, matrix, keys
        self.rows = np.random.default_rng(0).integers(0, 2**31 - 1, (max(ROWS), depth), dtype=np.uint32)
        self.sent = self.links = 0
        self._running = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> dict[str, int]:
        self._running.set()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        return self.count()

    def count(self) -> dict[str, int]:
        return {"sent": self.sent, "links": self.links}

    def stop(self) -> dict[str, int]:
        self._running.clear()
        if self._thread is not None:
            self._thread.join()
        return self.count()

    def _work(self) -> None:
        while self._running.is_set():
            with contextlib.suppress(LinkError):
                link = self._dial()
                try:
                    {"greedy": self._greedy, IDLE: self._idle}.get(self.kind, self._deaf)(link)
                finally:
                    link.close()
            if self.kind == "deaf":
                break

    def _dial(self) -> Link:
        keys = None
        if self.keys is not None:
            keys = load_keys(self.keys / "client.key").expecting(load_public(self.keys / "server.pub"))
        found = HANDSHAKE.dial(lambda: connect(self.address, keys=keys, limits=Limits(ring=RING)), timeout=30.0)
        self.links += 1
        return found.link

    def _send(self, link: Link, timeout: float) -> None:
        rows = self.rows[: ROWS[self.sent % len(ROWS)]]
        link.send(encode(Multiply(self.sent + 1, self.matrix)), [rows], timeout=timeout)
        self.sent += 1

    def _greedy(self, link: Link) -> None:
        waiting = 0
        while self._running.is_set():
            if waiting < Quota().max_waiting:
                self._send(link, 30.0)
                waiting += 1
            else:
                with contextlib.suppress(LinkTimeout):
                    link.recv(0.5).release()
                    waiting -= 1

    def _idle(self, link: Link) -> None:
        while self._running.is_set():
            time.sleep(WAIT)

    def _deaf(self, link: Link) -> None:
        tried = 0
        # ZeroMQ doesn't notice that a link ended while nobody reads: the stubborn one gives it up by itself.
        while self._running.is_set() and (tried < TRIES or self.kind == "deaf"):
            try:
                self._send(link, WAIT)
                tried = 0
            except LinkTimeout:
                tried += 1
                # Its queues are full, and the other side sees none of its tries: only this machine's cores would.
                until = time.monotonic() + (SELDOM if tried >= TRIES else 0.0)
                while self._running.is_set() and time.monotonic() < until:
                    time.sleep(WAIT)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=(*KINDS, IDLE))
    parser.add_argument("address")
    parser.add_argument("--matrix", type=int, required=True)
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--keys", type=Path)
    args = parser.parse_args()
    # A hostile client's own work is done on its own machine: here it may only take what the others leave.
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    hostile = Hostile(args.kind, args.address, args.matrix, args.depth, args.keys)
    _say({})
    for line in sys.stdin:
        command = json.loads(line)
        _say({"start": hostile.start, "count": hostile.count, "stop": hostile.stop}[command["do"]]())


def _say(answer: dict[str, int]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
