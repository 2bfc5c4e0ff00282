"""A worker's link to the next one: items go out, requests for keys come back."""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

from cutset.cluster.heartbeat import RoundTrips
from cutset.cluster.messages import (
    MINOR,
    Card,
    Introduction,
    Message,
    Peer,
    Ping,
    Pong,
    Refused,
    check_minor,
    encode,
)
from cutset.cluster.wire import LIMITS, Outbox, paced, piece_bytes, unpack
from cutset.cluster.worker.worker_settings import WorkerSettings
from cutset.codec import KeyRequest
from cutset.errors import CutsetError, LinkError, LinkTimeout
from cutset.link import Link, Timeouts, connect
from cutset.link.keys import dialling_keys
from cutset.link.peer import read_about
from cutset.link.relay import connect_through
from cutset.partition.hop import Hop

__all__ = ["Neighbour", "dial"]

TIMEOUTS = Timeouts(connect=4.0, recv=4.0)
SLICE = 0.5  # seconds
SILENCE = 5.0  # seconds without a word, after which the next worker counts as gone; longer where the hop is slow
ASK = 1.0  # seconds between two pings


class Neighbour:
    """Calls `callback` with what the next worker asks for and, once, with the error that ended the link."""

    def __init__(
        self, name: str, outbox: Outbox, trips: RoundTrips, callback: Callable[[Neighbour, Message | CutsetError], None]
    ) -> None:
        self.name, self.outbox, self._trips, self._callback = name, outbox, trips, callback
        self.bandwidth = math.inf  # bytes a second, as far as known
        self._open = True
        threading.Thread(target=self._listen, name=f"cutset-next-{name}", daemon=True).start()

    def broke(self, error: CutsetError) -> None:
        """The link failed; from any thread."""
        if self._open:
            self._open = False
            self.outbox.broken = True
            self._callback(self, error)

    def close(self) -> None:
        """Ends the link."""
        self._open = False
        self.outbox.close()

    @property
    def _patience(self) -> float:
        """Seconds of silence: a ping may wait behind all that is queued for this link."""
        return self._trips.silence(SILENCE, (LIMITS.queue + 4) * piece_bytes(self.bandwidth) / self.bandwidth)

    def _listen(self) -> None:
        heard, asked, number = time.monotonic(), 0.0, 0
        before = heard
        while self._open:
            now = time.monotonic()
            if now - before > 4 * SLICE:  # it was this process that stood still
                heard = now
            before = now
            if now - heard > self._patience:
                self.broke(LinkTimeout(f"{self.name} sent no heartbeat for {now - heard:.0f} s"))
                return
            if now - asked > ASK:
                asked, number = now, number + 1
                self.outbox.beat(Ping(number, now))
            try:
                frame = self.outbox.link.recv(SLICE)
                message, _ = unpack(frame)
                frame.release()
            except LinkTimeout:
                continue
            except CutsetError as error:
                self.broke(error)
                return
            except Exception as error:  # a bug of ours: the link is over, and the session gets an error
                traceback.print_exc()
                self.broke(LinkError(f"the link to {self.name} failed: {type(error).__name__}"))
                return
            heard = time.monotonic()
            if isinstance(message, Pong):
                self._trips.observe(heard - message.time)
            elif isinstance(message, KeyRequest):
                self._callback(self, message)
            elif isinstance(message, Refused):
                self.broke(LinkError(message.reason))


def dial(
    peer: Peer,
    name: str,
    secret: bytes,
    settings: WorkerSettings,
    pace: Hop | None,
    callback: Callable[[Neighbour, Message | CutsetError], None],
) -> Neighbour:
    """Connects to the next worker and waits until it agrees. Raises LinkError, and ConfigError for a missing key."""
    latency = 0.0 if pace is None else pace.latency
    trips = RoundTrips(latency)
    dialling = dialling_keys(peer.address, settings.keys, peer.key)

    def open_link() -> Link:
        link: Link
        if peer.ticket:
            relay = settings.joined or peer.address
            link = connect_through(relay, peer.ticket, keys=dialling, timeouts=TIMEOUTS, limits=LIMITS)
        else:
            link = connect(peer.address, keys=dialling, timeouts=TIMEOUTS, limits=LIMITS)
        return link if pace is None else paced(link, pace)

    # Evidence that nobody asked for is refused: it is shown where workers ask those who dial them, as this one does.
    own = settings.handshake.with_keys(dialling)
    handshake = replace(own, prove=None if own.verify is None else own.prove, verify=settings.verify_next or own.verify)
    about = encode(Introduction("worker", secret, name, MINOR))
    link, welcome, seconds = handshake.dial(open_link, about, timeout=TIMEOUTS.recv + latency)
    try:
        check_minor(read_about(welcome, Card).minor, f"the worker {peer.name}")
    except CutsetError:
        link.close()
        raise
    trips.observe(seconds)
    made: list[Neighbour] = []
    outbox = Outbox(link, f"{name}-next", lambda error: made[0].broke(error))
    made.append(Neighbour(peer.name, outbox, trips, callback))
    return made[0]
