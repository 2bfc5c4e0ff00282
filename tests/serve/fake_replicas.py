"""Replicas of a few lines: they speak the protocol, and do what a test says with what they are asked."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from cutset.engine.outputs import EngineStats
from cutset.errors import CutsetError, HandshakeError
from cutset.link import Link, listen
from cutset.link.peer import is_hello, refusal
from cutset.serve.replicas.replica_launchers import LaunchedReplica
from cutset.serve.replicas.replica_messages import (
    LIMITS,
    REPLICA_HANDSHAKE,
    CancelRequest,
    EmbedTexts,
    ReplicaBeat,
    ReplicaFacts,
    ReplicaPieces,
    SubmitRequest,
    WireDelta,
    pack,
    read_from_front,
)
from cutset.serve.replicas.replica_scale import ReplicaScale
from cutset.serve.replicas.replica_set import ReplicaSet, ReplicaTimes

__all__ = ["FACTS", "QUICK", "Fake", "FakeLauncher", "answer", "faked", "until"]

FACTS = ReplicaFacts("digest", "native", "float32", "cpu", 1, 128, 1024, 4, 64, [])
# On a busy machine a replica that is there may say nothing for a second.
QUICK = ReplicaTimes(starting=10, refused=0, silence=60, tick=0.02, longest_pause=0.1)
Handle = Callable[["Fake", SubmitRequest | EmbedTexts | CancelRequest], None]


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it didn't come about"
        time.sleep(0.005)


def answer(fake: Fake, message: SubmitRequest | EmbedTexts | CancelRequest) -> None:
    """Eight tokens, which are 0, 1, 2, …; it goes on where it was."""
    if isinstance(message, SubmitRequest):
        begun = 0 if message.resumed is None else len(message.resumed.outputs[0]) // 4
        for token in range(begun, 8):
            fake.token(message.number, token, last=token == 7)


class Fake:
    """One replica, in a thread."""

    def __init__(self, address: str, facts: ReplicaFacts, handle: Handle, *, beats: bool = True) -> None:
        self.address, self.key, self.facts, self.handle = address, None, facts, handle
        self.beats = beats
        self.asked: list[SubmitRequest | EmbedTexts | CancelRequest] = []
        self.over = threading.Event()
        self.waiting = 0
        self.prompts, self.generated = 5, 1000  # what it says it has counted: no matter for what was given out
        self._link: Link | None = None
        self._listener = listen(address, limits=LIMITS)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ended(self) -> str | None:
        return "it was ended" if self.over.is_set() else None

    def stop(self) -> None:
        """Breaks off whatever it does."""
        self.over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(10)

    def token(self, number: int, token: int, *, last: bool = False) -> None:
        usage = (2, 8, 0) if last else None
        one = WireDelta(number, 0, f"{token} ", (token,), "length" if last else None, finished=last, usage=usage)
        one.cached_tokens = 0
        self.give([one])

    def give(self, pieces: list[WireDelta]) -> None:
        """Sends them as what one step has brought."""
        assert self._link is not None
        pack(self._link, ReplicaPieces(pieces, self._stats()))

    def _stats(self) -> EngineStats:
        return EngineStats(0, self.waiting, 64, 64, 0, 10, 5, 0, 0, 1, self.prompts, self.generated)

    def _run(self) -> None:
        said = 0.0
        while not self.over.is_set():
            got = self._listener.recv(0.02)
            with contextlib.suppress(CutsetError):
                if self._link is not None and self.beats and time.monotonic() - said > 0.05:
                    said = time.monotonic()
                    pack(self._link, ReplicaBeat(self._stats()))
                if got is None:
                    continue
                link, frame = got
                if is_hello(frame.header):
                    handshake = replace(REPLICA_HANDSHAKE, model=self.facts.model)
                    try:
                        hello = handshake.accept(link, frame.header)
                    except HandshakeError as error:
                        link.send(refusal(frame.header, str(error)))
                        continue
                    link.send(handshake.welcome(link, hello))
                    pack(link, self.facts)
                    self._link = link
                    continue
                message = read_from_front(frame)
                self.asked.append(message)
                self.handle(self, message)
        self._listener.close()


class FakeLauncher:
    """Starts them; `facts` and `handle` are those of the next one."""

    def __init__(self, folder: Path, handle: Handle = answer) -> None:
        self.folder, self.handle, self.facts, self.beats = folder, handle, FACTS, True
        self.started: list[Fake] = []
        self.closed = False
        self._lock = threading.Lock()

    def start(self, name: str) -> LaunchedReplica:
        with self._lock:
            address = f"ipc://{self.folder}/{name}-{len(self.started)}"
            self.started.append(Fake(address, self.facts, self.handle, beats=self.beats))
            return self.started[-1]

    def close(self) -> None:
        self.closed = True


@contextlib.contextmanager
def faked(
    folder: Path, scale: ReplicaScale, handle: Handle = answer, times: ReplicaTimes = QUICK
) -> Iterator[tuple[FakeLauncher, ReplicaSet, list[str]]]:
    """A set of such replicas, and what it reports."""
    said: list[str] = []
    launcher = FakeLauncher(folder, handle)
    replicas = ReplicaSet(launcher, scale, model="digest", block_size=2, times=times, report=said.append)
    try:
        replicas.start()
        yield launcher, replicas, said
    finally:
        replicas.close()
        for one in launcher.started:
            one.stop()


IDS = np.arange(2, dtype=np.int32)
