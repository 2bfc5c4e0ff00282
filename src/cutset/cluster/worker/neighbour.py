"""A worker's link to the next one: items go out, requests for keys come back."""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from cutset.cluster.heartbeat import RoundTrips
from cutset.cluster.messages import PROTOCOL, Hello, Message, Peer, Ping, Pong, Refused, Welcome
from cutset.cluster.wire import LIMITS, Outbox, paced, pack, piece_bytes, unpack
from cutset.codec import KeyRequest
from cutset.errors import CutsetError, LinkError, LinkTimeout
from cutset.link import Link, Timeouts, connect
from cutset.partition.hop import Hop
from cutset.version import software

__all__ = ["Neighbour", "dial"]

TIMEOUTS = Timeouts(connect=4.0, recv=4.0)
SLICE = 0.5  # seconds
SILENCE = 5.0  # seconds without a word, after which the next worker counts as gone; longer where the hop is slow
ASK = 1.0  # seconds between two pings


class Neighbour:
    """Says to `told` what the next worker asks for and, once, why the link ended."""

    def __init__(
        self, name: str, outbox: Outbox, trips: RoundTrips, told: Callable[[Neighbour, Message | CutsetError], None]
    ) -> None:
        self.name, self.outbox, self._trips, self._told = name, outbox, trips, told
        self.bandwidth = math.inf  # bytes a second, as far as known
        self._open = True
        threading.Thread(target=self._listen, name=f"cutset-next-{name}", daemon=True).start()

    def broke(self, error: CutsetError) -> None:
        if self._open:
            self._open = False
            self.outbox.broken = True
            self._told(self, error)

    def close(self) -> None:
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
                self.broke(LinkTimeout(f"{self.name} gave no sign of life for {now - heard:.0f} s"))
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
            except Exception as error:  # a bug of ours: the link is over, and somebody hears of it
                traceback.print_exc()
                self.broke(LinkError(f"the link to {self.name} failed: {type(error).__name__}"))
                return
            heard = time.monotonic()
            if isinstance(message, Pong):
                self._trips.observe(heard - message.time)
            elif isinstance(message, KeyRequest):
                self._told(self, message)
            elif isinstance(message, Refused):
                self.broke(LinkError(message.reason))


def dial(
    peer: Peer,
    name: str,
    secret: bytes,
    keys: Any,
    pace: Hop | None,
    told: Callable[[Neighbour, Message | CutsetError], None],
) -> Neighbour:
    """Connects to the next worker and waits until it agrees. Raises LinkError."""
    if peer.key is not None:
        if keys is None:
            raise LinkError(f"{peer.address} needs a key, and this worker has none (--key)")
        keys = keys.expecting(peer.key)
    link: Link = connect(peer.address, keys=keys, timeouts=TIMEOUTS, limits=LIMITS)
    latency = 0.0 if pace is None else pace.latency
    trips = RoundTrips(latency)
    try:
        if pace is not None:
            link = paced(link, pace)
        header, arrays = pack(Hello(PROTOCOL, software(), "worker", secret, name))
        begun = time.monotonic()
        link.send(header, arrays)
        answer, _ = unpack(link.recv(TIMEOUTS.recv + latency))
        trips.observe(time.monotonic() - begun)
        if not isinstance(answer, Welcome):
            raise LinkError(answer.reason if isinstance(answer, Refused) else "it gave no answer to hello")
    except BaseException:
        link.close()
        raise
    made: list[Neighbour] = []
    outbox = Outbox(link, f"{name}-next", lambda error: made[0].broke(error))
    made.append(Neighbour(peer.name, outbox, trips, told))
    return made[0]
