"""The front's end of the link to one replica."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import msgspec

from cutset.engine.delivery import Deliver, Letter
from cutset.engine.outputs import EngineStats
from cutset.errors import CutsetError, EngineError, FrameError, HandshakeError, LinkClosed, LinkTimeout
from cutset.link import Timeouts, connect
from cutset.link.keys import Keys, dialling_keys
from cutset.link.peer import Binding
from cutset.serve.replicas.flight import EmbedFlight, Flight
from cutset.serve.replicas.replica_launchers import LaunchedReplica
from cutset.serve.replicas.replica_messages import (
    LIMITS,
    REPLICA_HANDSHAKE,
    CancelRequest,
    ReplicaBeat,
    ReplicaFacts,
    ReplicaPieces,
    TextVectors,
    pack,
    read_from_replica,
)

__all__ = ["ReplicaConnection", "Work"]

log = logging.getLogger(__name__)

DIAL = 1.0  # seconds that one try to connect takes at most
UNKNOWN = 0.05  # seconds between two looks whether it is known where one is
AGAIN = 0.5  # seconds until another try at one that refused
TURN = 1.0  # seconds that a wait for a frame takes at most
PATIENCE = 10.0  # seconds for which a replica may take nothing
SUSPECT = 2  # replicas that a request was lost with, one after another: until it has a token nothing joins it

NOTHING = EngineStats(*[0] * len(EngineStats._fields))

Work = Flight | EmbedFlight


class ReplicaConnection:
    """Requests go in by `submit`; two threads send and receive. `ended` is called once, by one of them, when the link
    is over, after everything that came over it was handed on. What runs there is `work`, by number, and the owner's to
    move elsewhere; whoever reads or changes it holds `lock`."""

    def __init__(self, name: str, launched: LaunchedReplica, lock: threading.RLock) -> None:
        self.name, self.launched, self.lock = name, launched, lock
        self.facts: ReplicaFacts
        self.work: dict[int, Work] = {}
        self.draining = False
        self.heard = time.monotonic()
        self.stats: EngineStats | None = None  # what it says of itself
        self.generated = 0  # tokens that came over this link
        self.why = ""  # the link is over
        self._number = 0
        self._outbox: queue.SimpleQueue[msgspec.Struct | None] = queue.SimpleQueue()

    def dial(
        self,
        model: str,
        keys: Keys | None,
        *,
        starting: float,
        refused: float,
        stopped: Callable[[], bool],
        verify: Callable[[bytes, Binding], bool] | None = None,
    ) -> None:
        """Connects, within `starting` seconds, and learns what the replica is. `model`: the fingerprint that it must
        have, too. `verify`: says whether its evidence is enough, see Handshake; until then nothing but a hello is sent.
        For `refused` seconds it may refuse. Raises EngineError where it has ended, and what a handshake raises."""
        handshake = replace(REPLICA_HANDSHAKE, model=model, verify=verify).with_keys(keys)
        timeouts = Timeouts(connect=DIAL, send=PATIENCE)
        begun, first_refused = time.monotonic(), 0.0
        while True:
            if (why := self.launched.ended()) is not None:
                raise EngineError(f"{self.name} didn't start: {why}")
            if stopped():
                raise EngineError(f"{self.name} wasn't waited for")
            if not (where := self.launched.address):
                if time.monotonic() - begun > starting:
                    raise EngineError(f"{self.name} didn't start within {starting:g} s")
                time.sleep(UNKNOWN)
                continue
            with_server = dialling_keys(where, keys, self.launched.key)
            try:
                dialled = handshake.dial(
                    partial(connect, where, keys=with_server, timeouts=timeouts, limits=LIMITS), timeout=PATIENCE
                )
                break
            except LinkClosed:
                if time.monotonic() - begun > starting:
                    raise
            except HandshakeError:
                first_refused = first_refused or time.monotonic()
                if time.monotonic() - first_refused >= refused:
                    raise
                time.sleep(AGAIN)
        self._link = dialled.link
        try:
            first = read_from_replica(self._link.recv(PATIENCE))
            if not isinstance(first, ReplicaFacts):
                raise FrameError(f"{self.name} doesn't say what it is")
        except BaseException:
            self._link.close()
            raise
        self.facts, self.heard = first, time.monotonic()

    def begin(self, ended: Callable[[ReplicaConnection], object], done: Callable[[], object]) -> None:
        """Sends and receives from now on. `done` is called when something has ended, and there may be room."""
        self._ended, self._done = ended, done
        for run in (self._send, self._receive):
            threading.Thread(target=run, name=f"cutset-{self.name}", daemon=True).start()

    @property
    def samples(self) -> int:
        """That run or wait there; a job of texts counts as one. With the lock."""
        return sum(one.samples for one in self.work.values())

    @property
    def open(self) -> bool:
        """It takes another request: there is room, and none that may be what ended other replicas. With the lock."""
        suspected = any(one.losses >= SUSPECT for one in self.work.values())
        return not self.draining and not suspected and self.samples < self.facts.slots

    @property
    def counted(self) -> EngineStats:
        """What it says of itself, but for the tokens, which are those that came. With the lock."""
        return (self.stats or NOTHING)._replace(generated_tokens=self.generated)

    def submit(self, work: Work) -> None:
        """Hands it in. With the lock."""
        self._number += 1
        self.work[self._number] = work
        self._outbox.put(work.submission(self._number))

    def cancel(self, work: Work) -> None:
        """It needn't go on. With the lock."""
        for number, one in list(self.work.items()):
            if one is work:
                self._outbox.put(CancelRequest(number))
                if isinstance(one, EmbedFlight):  # of which nothing more comes
                    del self.work[number]

    def close(self, why: str) -> None:
        """Ends the link: `ended` is called soon."""
        self.why = self.why or why
        self._outbox.put(None)

    def abandon(self) -> None:
        """Nobody will use it: ends what `dial` began."""
        if hasattr(self, "_link"):
            self._link.close()

    def _send(self) -> None:
        try:
            while (message := self._outbox.get()) is not None:
                pack(self._link, message)
        except CutsetError as error:
            self.why = self.why or str(error)
        self._link.close()  # which wakes whoever receives

    def _receive(self) -> None:
        try:
            while True:
                try:
                    frame = self._link.recv(TURN)
                except LinkTimeout:
                    if self.why:
                        break
                    continue
                self.heard = time.monotonic()
                self._take(read_from_replica(frame))
        except CutsetError as error:
            self.why = self.why or str(error)
        except Exception as error:  # a bug of ours ends this link, not the server
            log.exception("the link to %s", self.name)
            self.why = self.why or type(error).__name__
        finally:
            self._outbox.put(None)
            self._ended(self)

    def _take(self, message: ReplicaFacts | ReplicaPieces | TextVectors | ReplicaBeat) -> None:
        if isinstance(message, ReplicaBeat):
            self.stats = message.stats
        elif isinstance(message, TextVectors):
            self._take_vectors(message)
        elif isinstance(message, ReplicaPieces):
            self._take_pieces(message)
        else:
            raise FrameError(f"{self.name} says twice what it is")

    def _take_pieces(self, message: ReplicaPieces) -> None:
        """Notes and counts all, before any is handed on; whoever waits for several of them is told once."""
        parcels: dict[Deliver, list[Letter]] = {}
        ended = False
        with self.lock:
            self.stats = message.stats
            for piece in message.deltas:
                flight = self.work.get(piece.number)
                if not isinstance(flight, Flight):
                    continue
                delta = flight.take(piece.delta(flight.request_id))
                self.generated += len(delta.token_ids)
                if delta.finished:
                    ended = True
                    del self.work[piece.number]
                parcels.setdefault(flight.deliver, []).append((flight.receive, delta))
        for deliver, letters in parcels.items():
            deliver(letters)
        if ended:
            self._done()

    def _take_vectors(self, message: TextVectors) -> None:
        with self.lock:
            job = self.work.pop(message.number, None)
        if isinstance(job, EmbedFlight):
            job.take(message)
            self._done()
