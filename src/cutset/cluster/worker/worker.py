"""A worker's receiving side: admits one coordinator and the workers that it announces, and hands on what they say.

Two threads take turns. One listens; when it gets an item that needs no codecs, it runs it, since to wake a thread would
take longer than what else a hop costs. Where that takes long, the other one listens meanwhile.

Nothing that a peer sends ends a worker. What isn't right gets one line, and that link is closed.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cutset.cluster import messages
from cutset.cluster.emulation import Speed
from cutset.cluster.messages import HANDSHAKE, MINOR, Beat, Bye, Card, Introduction, Ping, check_minor
from cutset.cluster.stage import Abilities, Runtime
from cutset.cluster.wire import LIMITS, unpack
from cutset.cluster.worker.awaited_item import HopWaiter
from cutset.cluster.worker.coordinator_session import CoordinatorSession
from cutset.cluster.worker.frame_hop import FrameHop
from cutset.cluster.worker.freed import give_back
from cutset.cluster.worker.listening import Turns
from cutset.cluster.worker.ring_hop import RingHop
from cutset.cluster.worker.worker_settings import WorkerSettings
from cutset.config import usable_cores
from cutset.errors import ConfigError, CutsetError, FrameError, HandshakeError
from cutset.kernels import native
from cutset.link import Frame, Link, Listener, Timeouts, listen
from cutset.link.interface import RingListener
from cutset.link.joiner import Joiner
from cutset.link.keys import key_allowed, listening_keys
from cutset.link.peer import Binding, Hello, is_hello, peer_key, read_about, refusal
from cutset.link.router import ZmqListener

__all__ = ["BEAT", "SILENCE", "Worker", "open_worker"]

BEAT = 0.2  # seconds between two heartbeats
TURN = 0.2  # seconds that a wait for a frame takes at most
LOOK = 0.05  # seconds between two looks at what is due
# Seconds without a word of the coordinator, after which it counts as dead. A graph is one message, which takes long on
# a slow link; a link that breaks is noticed at once, and the same coordinator may come back at any time.
SILENCE = 60.0
NO_ABILITIES = Abilities()
GREETING = 60.0  # seconds until whoever connects must have said hello; on a slow link that takes a while


class Worker:
    """Serves a listener until it is stopped; one coordinator at a time."""

    def __init__(
        self,
        listener: Listener,
        settings: WorkerSettings,
        *,
        joiner: Joiner | None = None,
        log: Callable[[str], None] = lambda line: None,
        silence: float = SILENCE,
    ) -> None:
        """`joiner` brings callers to a listener that they can't dial themselves, and is closed with it."""
        self.listener, self.settings, self._log = listener, settings, log
        self._joiner = joiner
        self._silence = silence
        self._session: CoordinatorSession | None = None
        self._ending: CoordinatorSession | None = None  # whose threads haven't all ended yet
        self._beat = self._looked = 0.0
        self._hop = _waiter(listener) if settings.speed == 1 and native.available() else None
        self._turns = Turns(lambda: 0.0 if self._hop is None else self._hop.since)
        self._partner: threading.Thread | None = None
        self.handshake = settings.handshake.with_keys(settings.keys)
        self.card = Card(
            _cpu(),
            usable_cores(),
            settings.threads,
            settings.memory,
            settings.runtime.software[:60],
            settings.runtime.device,
            MINOR,
            settings.abilities.build,
            list(settings.abilities.isas),
            list(settings.abilities.speeds),
            list(settings.abilities.dtypes),
            list(settings.abilities.kv_dtypes),
        )

    def serve(self, stopped: Callable[[], bool]) -> None:
        """Until `stopped()`, which is asked at least every 200 ms."""
        over = threading.Event()

        def ended() -> bool:
            return over.is_set() or stopped()

        partner = threading.Thread(target=self._alternate, args=(ended,), name="cutset-partner", daemon=True)
        self._partner = partner
        partner.start()
        try:
            self._alternate(ended)
        finally:
            over.set()
            partner.join()

    def _alternate(self, stopped: Callable[[], bool]) -> None:
        self.settings.runtime.begin_thread()
        try:
            while self._turns.take(stopped):
                work = None
                while work is None:
                    if stopped():
                        return
                    work = self.turn(TURN)
                self._turns.leave()
                work()
                del work  # it keeps a session
        finally:
            self._turns.give()

    def turn(self, timeout: float) -> Callable[[], None] | None:
        """Does what is due, and takes one frame, if one comes. What it gives is to be called by whoever no longer
        listens: it computes."""
        self._due()
        session, got = self._session, None
        if session is not None and session.reports:
            timeout = min(timeout, LOOK)
        waited = session is not None and self._hop is not None and session.wait(self._hop, timeout)
        if isinstance(waited, tuple):
            got = waited
        elif not waited:
            got = self.listener.recv(timeout)
        elif session is not None:
            return session.claim() or _nothing
        if got is not None:
            link, frame = got
            try:
                self._take(link, frame)
            except CutsetError as error:
                self._refuse(link, frame, str(error))
            except Exception as error:  # a bug of ours ends that link, not the worker
                traceback.print_exc()
                self._refuse(link, frame, f"{type(error).__name__} in this worker")
            finally:
                frame.release()
        return None if self._session is None else self._session.claim()

    def _due(self) -> None:
        session, now = self._session, time.monotonic()
        if now - self._looked < LOOK and not (session is not None and session.over):
            return
        self._looked = now
        if self._ending is not None and not self._ending.alive:
            self._ending = None
            give_back()
        for link in self.listener.gone():
            if session is not None:
                session.left(link)
        if session is None:
            return
        session.report()
        dead = session.dead or ("cutset-partner" if self._partner and not self._partner.is_alive() else "")
        if dead:  # a worker that does nothing any more mustn't look alive
            session.end(f"the thread {dead} ended")
        elif now - self._beat >= BEAT:
            self._beat = now
            session.outbox.beat(Beat())
        if now - session.heard > self._silence:
            session.end(f"nothing came from the coordinator for {self._silence:g} s")
        if session.over:
            self._end()

    def close(self) -> None:
        """Ends the session and stops listening."""
        if self._joiner is not None:
            self._joiner.close()
        if self._session is not None:
            self._end()
        self.listener.close()

    def _end(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()
            self._ending = session
            self._log(f"session over: {session.over or 'this worker stops'}")

    def _take(self, link: Link, frame: Frame) -> None:
        if is_hello(frame.header):
            self._greet(link, self.handshake.accept(link, frame.header))
            return
        session = self._session
        if session is None or not session.knows(link):
            raise FrameError("say hello first")
        message, arrays = unpack(frame)
        if isinstance(message, Ping):
            session.pong(link, message)
        elif isinstance(message, Bye) and link is session.link:
            session.end("the coordinator is done")
        else:
            session.handle(link, message, arrays)

    def _greet(self, link: Link, hello: Hello) -> None:
        who, session = read_about(hello, Introduction), self._session
        check_minor(who.minor, f"the {who.role}")
        if who.role == "worker":
            if session is None or session.secret != who.session:
                raise HandshakeError("this worker isn't part of that session")
            if not session.knows(link):
                session.join(link)
            self._welcome(link, hello)
            return
        if not key_allowed(peer_key(link), self.settings.coordinators):
            raise HandshakeError("this key may send items, not give orders")
        if session is not None and link is not session.link and session.secret != who.session:
            raise HandshakeError(
                "this worker serves another coordinator; wait until that is done, or start another worker"
            )
        if session is not None:
            self._end()
        self._welcome(link, hello)
        waits = self._hop is not None
        self._session = CoordinatorSession(who.session, who.name, link, self.settings, self._expect, waits=waits)
        self._log(f"session with {link.peer if len(link.peer) < 70 else 'a coordinator'}, as {who.name}")

    def _welcome(self, link: Link, hello: Hello) -> None:
        self._send(link, self.handshake.welcome(link, hello, messages.encode(self.card)))

    def _expect(self, keys: frozenset[bytes]) -> None:
        self.listener.expect(keys)

    def _refuse(self, link: Link, frame: Frame, reason: str) -> None:
        """One line, and the link is over."""
        self._log(f"refused: {reason}")
        self._send(link, refusal(frame.header, reason))
        session = self._session
        if session is not None and session.knows(link):
            session.left(link)
        link.close()

    def _send(self, link: Link, header: bytes) -> None:
        with contextlib.suppress(CutsetError):  # it went away, or doesn't listen
            link.send(header, timeout=0.2)


def _waiter(listener: Listener) -> HopWaiter | None:
    """What takes the usual items of a hop and has native code run them."""
    if isinstance(listener, RingListener):
        return RingHop(listener)
    return FrameHop(listener) if isinstance(listener, ZmqListener) else None


def _nothing() -> None:
    """No items wait."""


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()[:100]
    except OSError:
        pass
    import platform

    return platform.machine()


def open_worker(
    address: str | None,
    runtime: Runtime,
    *,
    threads: int,
    join: str | None = None,
    key: str | None = None,
    allow: str | None = None,
    cache: Path | None = None,
    weights: Path | None = None,
    memory: int = 0,
    model: str = "",
    abilities: Abilities = NO_ABILITIES,
    speed: float = 1.0,
    prove: Callable[[Binding], bytes] | None = None,
    verify_next: Callable[[bytes, Binding], bool] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Worker:
    """A worker from addresses and files. It listens, or dials in at `join` until it is closed. `model`: the digest of
    the one whose weights are here, if only that is served. `prove` makes evidence for who asks, `verify_next` says
    whether that of the next worker is enough; see Handshake. Raises ConfigError or LinkError."""
    if (address is None) == (join is None):
        raise ConfigError("a worker either listens or joins: name one address")
    keys, allowed = listening_keys(join or address or "", key, allow, "coordinators")
    if join is not None and (keys is None or allowed is None or not join.startswith("tcp://")):
        raise ConfigError(f"{join}: a coordinator that is joined listens at tcp://HOST:PORT")
    here = address or "tcp://127.0.0.1:0"
    listener = listen(here, keys=keys, allow=allowed, timeouts=Timeouts(first=GREETING), limits=LIMITS)
    settings = WorkerSettings(
        runtime,
        threads=threads,
        memory=memory,
        cache=cache,
        weights=weights,
        keys=keys,
        coordinators=allowed,
        handshake=replace(HANDSHAKE, model=model, prove=prove),
        verify_next=verify_next,
        abilities=abilities,
        joined=join or "",
        speed=Speed(speed).factor,
    )
    if join is None or keys is None or allowed is None:
        return Worker(listener, settings, log=log)
    try:
        joiner = Joiner(join, keys, allowed, listener.address, log)
    except BaseException:
        listener.close()
        raise
    return Worker(listener, settings, joiner=joiner, log=log)
