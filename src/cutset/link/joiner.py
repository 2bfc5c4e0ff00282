"""A party that can't be dialled dials out: it keeps a link to a rendezvous, and answers the calls that come over it."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Annotated

import msgspec

from cutset.errors import ConfigError, CutsetError, FrameError, HandshakeError, LinkError, LinkTimeout, printable
from cutset.link.addresses import parse_address
from cutset.link.dealer import connect
from cutset.link.interface import Link
from cutset.link.keys import Keys
from cutset.link.limits import Limits, Timeouts
from cutset.link.peer import Handshake, Protocol, Refused
from cutset.link.relay import ANSWER, TOKEN, Splice, dial_plain, endpoint, opening

__all__ = ["JOIN", "JoinCall", "Joiner", "decode_call", "encode_call", "pauses"]

JOIN = Handshake(Protocol("join", 1, whom="coordinator"))
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds between two tries
TIMEOUTS = Timeouts(connect=5.0, send=5.0, recv=5.0)
LIMITS = Limits(frame=1 << 16, queue=64)
SLICE = 0.5  # seconds
MOST_ANSWERED = 128  # connections at a time


class JoinCall(msgspec.Struct, tag="call", array_like=True):
    """Rendezvous to joiner: somebody wants you; dial in answer and say this number."""

    number: Annotated[bytes, msgspec.Meta(min_length=TOKEN, max_length=TOKEN)]


encode_call = msgspec.msgpack.Encoder().encode
_calls: msgspec.msgpack.Decoder[JoinCall | Refused] = msgspec.msgpack.Decoder(JoinCall | Refused)


def decode_call(header: bytes) -> JoinCall | Refused:
    """Raises FrameError for anything else."""
    try:
        return _calls.decode(header)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(f"this is no call: {error}") from None


def pauses(longest: float) -> Iterator[float]:
    """Seconds between tries: each about twice the one before, up to the longest. Several that wait for one coordinator
    don't all come at once."""
    pause = min(FIRST_PAUSE, longest)
    while True:
        yield pause * random.uniform(0.75, 1.0)
        pause = min(2 * pause, longest)


class Joiner:
    """Dials `address` again and again, with growing pauses while nobody is there, until it is closed.

    keys: this side's pair. coordinators: the public keys of those who may listen there. listener: where this process
    listens on this machine, which is what callers get. Raises ConfigError for what can't be.
    """

    def __init__(
        self,
        address: str,
        keys: Keys,
        coordinators: Collection[bytes],
        listener: str,
        log: Callable[[str], None] = lambda line: None,
        *,
        longest: float = LONGEST_PAUSE,
    ) -> None:
        self.address = address
        self.joined = 0  # how often a link was had
        self._where, self._here = endpoint(address), endpoint(listener)
        if not self._where[0] or not self._where[1]:
            raise ConfigError(f"{address}: name the host and the port to dial")
        self._keys, self._servers, self._log, self._longest = keys, coordinators, log, longest
        self._stopped = threading.Event()
        self._splices: set[Splice] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="cutset-join", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the link and all that came over it. A second call does nothing."""
        self._stopped.set()
        self._thread.join(2 * SLICE + TIMEOUTS.connect)
        with self._lock:
            splices = list(self._splices)
        for one in splices:
            one.close()

    def _run(self) -> None:
        pause, said = pauses(self._longest), ""
        while not self._stopped.is_set():
            try:
                link = self._dial()
            except CutsetError as error:
                if str(error) != said:
                    said = str(error)
                    self._log(f"{self.address} can't be joined yet: {printable(said, lines=False)[:300]}")
                self._stopped.wait(next(pause))
                continue
            said = ""
            self.joined += 1
            self._log(f"joined {self.address}")
            try:
                self._serve(link)
            except HandshakeError as error:  # who is sent away comes back later each time
                self._log(f"{self.address} refused: {printable(str(error), lines=False)[:300]}")
                self._stopped.wait(next(pause))
            except CutsetError as error:
                pause = pauses(self._longest)
                self._log(f"{self.address} is gone: {printable(str(error), lines=False)[:300]}")
                self._stopped.wait(FIRST_PAUSE)
            finally:
                link.close()

    def _dial(self) -> Link:
        """The link, by the first of the keys that is right. Raises what the last one gave, a refusal before others."""
        worst: CutsetError = LinkError("no public key of a coordinator is known")
        for server in sorted(self._servers):
            keys = self._keys.expecting(server)
            try:
                return JOIN.with_keys(keys).dial(partial(self._connect, keys), timeout=TIMEOUTS.recv).link
            except CutsetError as error:
                worst = worst if isinstance(worst, HandshakeError) else error
            if self._stopped.is_set():
                break
        raise worst

    def _connect(self, keys: Keys) -> Link:
        dial_plain(*self._where).close()  # says at once that nobody listens, and why
        return connect(parse_address(self.address), keys, TIMEOUTS, LIMITS)

    def _serve(self, link: Link) -> None:
        """Answers calls until this is closed. Raises what ended the link, HandshakeError where that is a refusal."""
        while not self._stopped.is_set():
            try:
                frame = link.recv(SLICE)
            except LinkTimeout:
                continue
            message = decode_call(frame.header)
            frame.release()
            if isinstance(message, Refused):
                raise HandshakeError(message.reason)
            with self._lock:
                full = len(self._splices) >= MOST_ANSWERED
            if not full:
                threading.Thread(target=self._answer, args=(message,), name="cutset-answer", daemon=True).start()

    def _answer(self, call: JoinCall) -> None:
        with contextlib.suppress(LinkError, OSError):  # the caller finds that nobody answers
            theirs = dial_plain(*self._where)
            try:
                ours = dial_plain(*self._here)
                theirs.sendall(opening(ANSWER, call.number))
                with self._lock:
                    self._splices.add(Splice(ours, theirs, self._ended))
            except (LinkError, OSError):
                theirs.close()
                raise

    def _ended(self, splice: Splice) -> None:
        with self._lock:
            self._splices.discard(splice)
