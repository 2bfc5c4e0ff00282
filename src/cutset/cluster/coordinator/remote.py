"""One worker as the coordinator sees it: the link, its heartbeat, its clock. Dials again when it is lost."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cutset.cluster.heartbeat import RoundTrips
from cutset.cluster.messages import (
    HANDSHAKE,
    MINOR,
    Bye,
    Card,
    Introduction,
    Message,
    More,
    Peer,
    Ping,
    Pong,
    Refused,
    Work,
    check_minor,
    encode,
)
from cutset.cluster.model import Model
from cutset.cluster.trace.align import Clock
from cutset.cluster.wire import LIMITS, ArrivedItem, Assembler, Outbox, paced, pack, unpack
from cutset.errors import ConfigError, CutsetError, HandshakeError, LinkClosed, LinkError, LinkTimeout
from cutset.link import Link, Timeouts, connect
from cutset.link.keys import Keys, dialling_keys
from cutset.link.peer import Handshake, read_about
from cutset.link.relay import connect_through
from cutset.link.rendezvous import Rendezvous, dials_in
from cutset.partition.hop import Hop
from cutset.partition.plan import COORDINATOR

__all__ = ["Remote", "RemoteEvent", "dial_all"]

SLICE = 0.25  # seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 3.0  # seconds between two tries to reach a worker
LONGEST_LOOK = 0.4  # between two looks whether one has dialled in
LARGEST_RESULT = 1 << 30


@dataclass(frozen=True)
class RemoteEvent:
    """What came from a worker: a message, an item, "up", or an error that ended the link. `link` counts its links."""

    remote: Remote
    link: int
    message: Message | ArrivedItem | CutsetError | str


class Remote:
    """`callback` gets every event, from this remote's thread. `pace` is emulated in the direction to the worker, from
    the handshake on; `back`, in the other one, by the worker from its first plan on. `handshake`: what each side must
    prove. A worker whose address is join://NAME dials in at the rendezvous, and is reached through it. `locate` says
    where it is now, with which key, before each time that it is dialled: it may have been started again elsewhere.
    `address` and `key`, which other workers are told, become those of the new place once its handshake is done.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        session: bytes,
        callback: Callable[[RemoteEvent], None],
        keys: Keys | None = None,
        rendezvous: Rendezvous | None = None,
        handshake: Handshake = HANDSHAKE,
        key: bytes | None = None,
        pace: Hop | None = None,
        back: Hop | None = None,
        connect_timeout: float = 5.0,
        locate: Callable[[str], tuple[str, bytes | None]] | None = None,
    ) -> None:
        self.name, self.address, self.key = name, address, key
        self._place = address, key  # where it is dialled
        self.up = False
        self.links = 0  # that there were, the one that is up included
        self._heard = self._looked = 0.0  # when a frame came, and when there was none
        self.why = "it was never reached"
        self.refused = False  # by a worker that is there
        self.card: Card | None = None
        self.clock = Clock()
        self.emulated = sum(way.latency for way in (pace, back) if way is not None)  # seconds of a round trip
        self.trips = RoundTrips(self.emulated)
        self.graphs: set[str] = set()  # that were described on this link
        self._session, self._callback, self._pace = session, callback, pace
        self.joins = dials_in(address)
        self._rendezvous = rendezvous if self.joins else None
        if self.joins and (rendezvous is None or key is None):
            raise ConfigError(f"{address}: nobody listens for those who dial in")
        self._locate = None if self.joins else locate
        self._own, self._proven = keys, handshake
        self._keys = dialling_keys(address if rendezvous is None or not self.joins else rendezvous.own, keys, key)
        self._handshake = handshake.with_keys(self._keys)
        self._timeouts = Timeouts(connect=connect_timeout, recv=connect_timeout)
        self._outbox: Outbox | None = None
        self._pings = 0
        self._open = True
        self._thread = threading.Thread(target=self._run, name=f"cutset-worker-{name}", daemon=True)
        self._thread.start()

    @property
    def outbox(self) -> Outbox:
        """Raises LinkError while there is no link."""
        if self._outbox is None:
            raise LinkError(f"{self.name} isn't connected: {self.why}")
        return self._outbox

    @property
    def carried(self) -> int:
        """Frames of weights that left on this link."""
        outbox = self._outbox
        return 0 if outbox is None else outbox.carried

    def say(self, message: Message) -> None:
        """Sends a message if there is a link; one that is lost with the link is no loss."""
        if self._outbox is not None:
            self._outbox.say(message)

    def description(self, model: Model) -> bytes:
        """The graph's description for the next message on this link: empty where it was sent already."""
        new = model.digest not in self.graphs
        self.graphs.add(model.digest)
        return model.description if new else b""

    def seen_by(self, other: Remote) -> Peer:
        """This worker as another one dials it."""
        if self._rendezvous is None or self.key is None:
            return Peer(self.name, self.address, self.key)
        relay = self._rendezvous.seen_from(other.address)
        return Peer(self.name, relay, self.key, self._rendezvous.ticket(self.key))

    @property
    def quiet(self) -> float:
        """Seconds in which nothing came, although somebody waited for it."""
        return self._looked - self._heard

    def ping(self) -> None:
        """Sends a heartbeat, unless one waits already."""
        self._pings += 1
        if self._outbox is not None:
            self._outbox.beat(Ping(self._pings, time.monotonic()))

    def cut(self, why: str) -> None:
        """Takes the link for dead. It is dialled again."""
        outbox = self._outbox
        if outbox is not None:
            self._lost(LinkError(why))
            threading.Thread(target=outbox.close, daemon=True).start()  # may wait for a send

    def close(self) -> None:
        """Says goodbye and ends the link; it isn't dialled again."""
        self._open = False
        outbox, self._outbox = self._outbox, None
        if outbox is not None:
            outbox.close(Bye())

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while self._open:
            self.trips = RoundTrips(self.emulated)
            try:
                self._find()
                link = self._dial()
            except CutsetError as error:
                self.why, self.refused = str(error), isinstance(error, HandshakeError)
                self._rest(pause)
                pause = min(2 * pause, LONGEST_LOOK if self.joins else LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            self.address, self.key = self._place
            self.links += 1
            self.graphs = set()
            self.clock = Clock()
            self._heard = self._looked = time.monotonic()
            outbox = Outbox(link, self.name, self._lost)
            self._outbox = outbox
            self.up = True
            self._callback(RemoteEvent(self, self.links, "up"))
            self._listen(link, outbox)
            self._outbox = None
            outbox.close()
            self._rest(FIRST_PAUSE)

    def _find(self) -> None:
        """Takes the address and the key that the worker has now, in place of those before. Raises LinkError while it is
        nowhere."""
        if self._locate is None:
            return
        place = self._locate(self.name)
        if place != self._place:
            self._keys = dialling_keys(place[0], self._own, place[1])
            self._place = place
            self._handshake = self._proven.with_keys(self._keys)

    def _moved(self) -> bool:
        """Whether the worker was started again somewhere else."""
        try:
            return self._locate is not None and self._locate(self.name) != self._place
        except CutsetError:
            return False

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._open and time.monotonic() < until and not self._moved():
            time.sleep(0.05)

    def _dial(self) -> Link:
        about = encode(Introduction("coordinator", self._session, self.name, MINOR))
        timeout = self._timeouts.connect + self.emulated
        link, welcome, seconds = self._handshake.dial(self._connect, about, timeout=timeout, waiting=self._waiting)
        self.trips.observe(seconds)
        try:
            self.card = read_about(welcome, Card)
            check_minor(self.card.minor, f"the worker {self.name}")
        except CutsetError:
            link.close()
            raise
        return link

    def _connect(self) -> Link:
        link: Link
        if self._rendezvous is None or self.key is None:
            link = connect(self._place[0], keys=self._keys, timeouts=self._timeouts, limits=LIMITS)
        else:
            self._rendezvous.check(self.key)
            where, ticket = self._rendezvous.own, self._rendezvous.ticket(self.key)
            link = connect_through(where, ticket, keys=self._keys, timeouts=self._timeouts, limits=LIMITS)
        return link if self._pace is None else paced(link, self._pace)

    def _waiting(self, link: Link) -> None:
        """No answer to hello yet: the worker gets pings, since on a link with a long way it would get nothing."""
        if not self._open:
            raise LinkClosed("this side was closed")
        self._pings += 1
        header, arrays = pack(Ping(self._pings, time.monotonic()))
        link.send(header, arrays)

    def _lost(self, error: CutsetError) -> None:
        """Once a link: from whichever thread notices."""
        if self.up:
            self.up = False
            self.why = str(error)
            self._callback(RemoteEvent(self, self.links, error))

    def _listen(self, link: Link, outbox: Outbox) -> None:
        assembler, number = Assembler(), self.links
        while self._open and self.up and not outbox.broken:
            try:
                frame = link.recv(SLICE)
            except LinkTimeout:
                now = time.monotonic()
                if now - self._looked > 4 * SLICE:  # it was this process that stood still
                    self._heard = now
                self._looked = now
                continue
            except CutsetError as error:
                self._lost(error)
                return
            self._heard = self._looked = now = time.monotonic()
            try:
                message, arrays = unpack(frame)
                if isinstance(message, Pong):
                    self.trips.observe(now - message.time)
                    self.clock.observe(message.time, message.now, now)
                elif isinstance(message, Work | More):
                    if isinstance(message, Work):
                        whole = assembler.begin(message, arrays, LARGEST_RESULT)
                    else:
                        whole = assembler.more(arrays)
                    if whole is not None:
                        self._callback(RemoteEvent(self, number, whole))
                elif isinstance(message, Refused):
                    raise LinkError(f"{self.name} refused: {message.reason}")
                else:
                    self._callback(RemoteEvent(self, number, message))
            except CutsetError as error:
                self._lost(error)
                return
            finally:
                frame.release()


def dial_all(
    workers: Mapping[str, tuple[str, bytes | None]],
    callback: Callable[[RemoteEvent], None],
    *,
    paces: Mapping[tuple[str, str], Hop] | None = None,
    **how: Any,
) -> dict[str, Remote]:
    """A remote for each worker, in one session. `workers`: name to address and public key; `paces`: what is emulated,
    by sender and receiver; the rest is for each of them."""
    session, found = secrets.token_bytes(16), dict[str, Remote]()
    for name, (address, key) in workers.items():
        ways = [(paces or {}).get(pair) for pair in ((COORDINATOR, name), (name, COORDINATOR))]
        found[name] = Remote(
            name, address, session=session, callback=callback, key=key, pace=ways[0], back=ways[1], **how
        )
    return found
